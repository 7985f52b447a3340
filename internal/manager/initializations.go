package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

const (
	// followEvery: whoever watches a run sees results a few seconds later. A look that finds nothing new asks the system
	// for the sizes of the journals and opens none: 8 ms for a thousand of them on a busy machine.
	followEvery = 5 * time.Second
	// attemptsAtOnce bounds one transaction: 250 attempts take a tenth of a second, in which check-ins wait.
	attemptsAtOnce = 250
	// keepJournal is how long a journal is kept that a newer one of its source has followed: a database that was put back
	// from a backup gets from it what it lacks.
	keepJournal = 30 * 24 * time.Hour
	tidyEvery   = time.Hour
)

// ImportInitializations takes what is new in the journals of dcmamtin in a data folder into the registry, as the
// serving manager does all the time: commands beside it, or without it, see what there is. What cannot be read is told to
// warn and left out; the error is the folder's, the database's or the context's.
func ImportInitializations(ctx context.Context, reg *registry.Registry, dataDir string, warn func(text string)) error {
	im := newImporter(reg, dataDir, warn)
	_, err := im.pass(ctx)
	return err
}

// followInitializations imports until the context ends. Nothing that goes wrong with the journals ends it.
func followInitializations(ctx context.Context, reg *registry.Registry, dataDir string, log *slog.Logger) {
	im := newImporter(reg, dataDir, func(text string) { log.Warn(text) })
	again := time.NewTicker(followEvery)
	defer again.Stop()
	var tidied time.Time
	said := ""
	for {
		files, err := im.pass(ctx)
		if err == nil && time.Since(tidied) >= tidyEvery {
			im.tidy(files, time.Now())
			tidied = time.Now()
		}
		text := ""
		if err != nil && ctx.Err() == nil {
			text = WithRemedy(err).Error()
		}
		if text != said && text != "" {
			log.Warn("results of dcmamtin could not be imported; tried again every few seconds", "error", text)
		}
		said = text
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// importer takes journals into the registry. positions are the registry's as far as this process knows; others may
// import, too.
type importer struct {
	reg       *registry.Registry
	dir       string
	warn      func(text string)
	positions map[string]registry.Position // nil: not read yet
	stuck     map[string]state             // files that failed, as they were then: told once, tried again when they change
}

// state tells whether a file has changed.
type state struct{ size, modified int64 }

func newImporter(reg *registry.Registry, dataDir string, warn func(string)) *importer {
	return &importer{reg: reg, dir: filepath.Join(dataDir, amtinit.JournalFolder), warn: warn, stuck: map[string]state{}}
}

// pass imports what is new in every journal, and returns the journals.
func (im *importer) pass(ctx context.Context) ([]amtinit.JournalFile, error) {
	files, err := amtinit.ListJournals(im.dir)
	if err != nil {
		return nil, err
	}
	if im.positions == nil && len(files) > 0 {
		if im.positions, err = im.reg.Positions(ctx); err != nil {
			return nil, err
		}
	}
	present := make(map[string]bool, len(files))
	for _, f := range files {
		name := filepath.Base(f.Path)
		present[name] = true
		err := im.take(ctx, f.Path, name)
		for try := 1; errors.Is(err, registry.ErrTaken) && try < 10; try++ { // another process imports the same
			if im.positions, err = im.reg.Positions(ctx); err == nil {
				err = im.take(ctx, f.Path, name)
			}
		}
		if err != nil && !errors.Is(err, registry.ErrTaken) {
			return files, err
		}
	}
	maps.DeleteFunc(im.stuck, func(name string, _ state) bool { return !present[name] })
	return files, nil
}

// take imports what is new in one journal. Errors of the file are told and no errors: others go on.
func (im *importer) take(ctx context.Context, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil { // gone since it was listed, or the folder cannot be read any more, which the next list says
		return nil
	}
	is := state{info.Size(), info.ModTime().UnixNano()}
	at, known := im.positions[name]
	if known && is == (state{at.Size, at.Modified}) || im.stuck[name] == is {
		return nil
	}
	giveUp := func(err error) error {
		im.stuck[name] = is
		im.warn(fmt.Sprintf("journal %s: %v", name, err))
		return nil
	}
	head, err := amtinit.JournalHead(path)
	if err != nil {
		return giveUp(err)
	}
	if head == "" { // a run begins to write it
		return nil
	}
	at.Name = name
	to := at
	to.Size, to.Modified = 0, 0
	if at.Head != head { // another file; one that lost its end, ReadJournal reads from the start
		to.Head, to.Offset, to.Run = head, 0, registry.Run{}
	}
	damaged, dropped := 0, 0
	for more := true; more; {
		lines, next, readErr := amtinit.ReadJournal(path, to.Offset)
		attempts := make([]registry.Initialization, 0, len(lines))
		for _, l := range lines {
			switch {
			case l.Run != nil:
				to.Run = registry.Run{By: l.Run.By, Machine: l.Run.Machine, Source: l.Run.Source}
			case l.Target != nil && !l.Target.Finished.IsZero():
				attempts = append(attempts, attempt(l.Target, to.Run))
			case l.End == nil:
				damaged++
			}
		}
		more = next != to.Offset && next < is.size && readErr == nil
		to.Offset = next
		if !more && readErr == nil {
			to.Size, to.Modified = is.size, is.modified
		}
		// All but the last part leave the position where it is: what is taken twice counts once.
		for len(attempts) > attemptsAtOnce {
			n, err := im.reg.Initializations(ctx, at, at, attempts[:attemptsAtOnce])
			if err != nil {
				return err
			}
			dropped += n
			attempts = attempts[attemptsAtOnce:]
		}
		n, err := im.reg.Initializations(ctx, at, to, attempts)
		if err != nil {
			return err
		}
		dropped += n
		at, im.positions[name] = to, to
		if readErr != nil {
			return giveUp(readErr)
		}
	}
	if damaged > 0 {
		im.warn(fmt.Sprintf("journal %s: %d lines could not be read; what they said is not imported", name, damaged))
	}
	if dropped > 0 {
		im.warn(fmt.Sprintf("journal %s: %d results are not kept, because those of too many PCs that never checked in are kept already", name, dropped))
	}
	return nil
}

// attempt is a journal's line as the registry keeps it.
func attempt(t *amtinit.JournalTarget, run registry.Run) registry.Initialization {
	i := registry.Initialization{
		Host: t.Host, Address: t.Address, Finished: t.Finished, By: run.By, Machine: run.Machine, Source: run.Source,
		OK: t.OK, Already: t.Already, Done: t.Done, Reason: string(t.Reason), Step: string(t.Step), Status: t.Status, Detail: t.Detail, Version: t.Version,
	}
	i.SystemUUID, _ = hardware.DisplayUUID(t.PlatformGUID)
	if t.OK {
		return i
	}
	i.Cause = registry.Text{EN: i.Reason, JA: i.Reason} // one that only a newer release knows
	if r, known := amtinit.AnyReason(t.Reason); known {
		i.MessageID, i.Cause = r.ID, registry.Text{EN: r.Cause.EN, JA: r.Cause.JA}
	}
	return i
}

// takeProgress takes what a relay says: of its work, or of what dcmamtin did there.
func takeProgress(ctx context.Context, reg *registry.Registry, jws string, log *slog.Logger) error {
	p, key, err := checkin.VerifyProgress(jws)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(p.Work, journalsOf(p.From)) {
		return reg.TakeProgress(ctx, jws)
	}
	part, err := amtinit.ParseJournalPart(p.Body)
	if err != nil {
		return &checkin.Refusal{Code: checkin.Malformed, Detail: err.Error()}
	}
	var run registry.Run
	var attempts []registry.Initialization
	for _, l := range part.Lines {
		switch {
		case l.Run != nil:
			run = registry.Run{By: l.Run.By, Machine: l.Run.Machine, Source: l.Run.Source}
			var n int64
			if _, err := fmt.Sscanf(l.Run.Source, InitializeKind+"-%d-", &n); err == nil { // of work that was called off: RunPart, HandOver
				run.Source = fmt.Sprintf("run %d", n)
			}
		case l.Target != nil && !l.Target.Finished.IsZero():
			attempts = append(attempts, attempt(l.Target, run))
		}
	}
	dropped, foreign, err := reg.TakeRelayJournal(ctx, p, key, attempts)
	if foreign > 0 {
		log.Warn("results of a relay's dcmamtin are not taken, because those PCs do not report through this relay", "relay", p.From.String(), "results", foreign)
	}
	if dropped > 0 {
		log.Warn("results of a relay's dcmamtin are not kept, because those of too many PCs that never checked in are kept already", "relay", p.From.String(), "results", dropped)
	}
	return err
}

// journalsOf begins the names of the streams that relays hand their journals on in (docs/protocol/relay.md).
func journalsOf(relay hostid.ID) string { return "journals-" + relay.String() + "-" }

// tidy removes journals that have served: imported to their end, followed by a newer one of the same source for which
// --resume and --retry-failed look, and not touched for a month.
func (im *importer) tidy(files []amtinit.JournalFile, now time.Time) {
	for i, f := range files {
		name := filepath.Base(f.Path)
		at := im.positions[name]
		info, err := os.Lstat(f.Path)
		switch {
		case err != nil, i+1 == len(files) || files[i+1].Key != f.Key, // the newest of its source
			at.Size != info.Size() || at.Modified != info.ModTime().UnixNano(), now.Sub(info.ModTime()) < keepJournal,
			amtinit.JournalKey(at.Run.Source) != f.Key: // whose lock nobody knows
			continue
		}
		held, err := amtinit.HoldJournals(im.dir, at.Run.Source)
		if errors.Is(err, amtinit.ErrJournalBusy) {
			continue
		}
		if err == nil {
			err = errors.Join(os.Remove(f.Path), held.Close())
		}
		if err != nil {
			im.warn(fmt.Sprintf("journal %s is imported and old, but cannot be removed: %v", name, err))
		}
	}
}

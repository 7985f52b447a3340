package relay

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const (
	// lookEvery is how often what dcmamtin did here is looked for. A look that finds nothing new opens no journal.
	lookEvery = 5 * time.Second
	// journalsFile says how far the journals were handed on, and holds what is on its way.
	journalsFile = "journals.json"
	// maxJournalsFile bounds that file in bytes: positions in some ten thousand journals.
	maxJournalsFile = 8 << 20
	// maxPart bounds the lines of one part in bytes: signed, they are a third longer, and stay below checkin.MaxProgress.
	maxPart = 150 << 10
	// keepJournal is how long a journal is kept that the manager has, as the manager keeps its own: a database that was put back from a
	// backup gets from it what it lacks.
	keepJournal = 30 * 24 * time.Hour
	tidyEvery   = time.Hour
)

// JournalsPrefix begins the name of a relay's stream of journals, where work has its ID; the relay's host ID follows, and what
// tells this stream from an earlier one.
const JournalsPrefix = "journals-"

// Journals hands on what dcmamtin did at this relay: each line of its journals once, in order, also after a restart and after
// any time without a way up.
type Journals struct {
	DataDir string
	HostID  hostid.ID
	Key     ed25519.PrivateKey                          // of the relay's record
	Send    func(ctx context.Context, jws string) error // to the higher system, as checkin.RelayClient.Progress
	Log     *slog.Logger

	stuck map[string]sentJournal // journals that could not be read on, as they were then
}

// sentJournals is what is durable about it.
type sentJournals struct {
	Stream    string                 `json:"stream"`
	Sequence  uint64                 `json:"sequence"` // of what was taken last
	Positions map[string]sentJournal `json:"positions"`

	Pending string      `json:"pending,omitempty"` // signed, and not known to be taken: it is sent again as it is
	Name    string      `json:"name,omitempty"`    // of the journal that it is of
	After   sentJournal `json:"after,omitzero"`    // how far that one is handed on then
}

// sentJournal is how far one journal is handed on.
type sentJournal struct {
	Head     string              `json:"head"`
	Offset   int64               `json:"offset"` // bytes
	Lines    int                 `json:"lines"`  // behind the offset
	Run      *amtinit.JournalRun `json:"run,omitempty"`
	Size     int64               `json:"size"` // of the file, when it was handed on to its end; else 0
	Modified int64               `json:"modified"`
}

// Follow hands on until the context ends.
func (j *Journals) Follow(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	said := ""
	var tidied time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		err := j.Once(ctx)
		if err == nil && time.Since(tidied) >= tidyEvery {
			err = j.tidy(time.Now())
			tidied = time.Now()
		}
		text := ""
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != said && text != "" {
			j.Log.Warn("results of dcmamtin could not be handed on; tried again every few seconds", "error", text)
		}
		said = text
		again.Reset(lookEvery)
	}
}

// Once hands on what there is. It fails where the higher system does not take it now, or the data folder is the matter.
func (j *Journals) Once(ctx context.Context) error {
	path := filepath.Join(j.DataDir, journalsFile)
	s, err := j.load(path)
	if err != nil {
		return err
	}
	dir := filepath.Join(j.DataDir, amtinit.JournalFolder)
	for {
		if s.Pending != "" {
			if err := j.deliver(ctx, path, &s); err != nil {
				return err
			}
		}
		files, err := amtinit.ListJournals(dir)
		if err != nil {
			return err
		}
		present := make(map[string]bool, len(files))
		for _, f := range files {
			present[filepath.Base(f.Path)] = true
		}
		maps.DeleteFunc(s.Positions, func(name string, _ sentJournal) bool { return !present[name] })
		found := false
		for _, f := range files {
			if found, err = j.next(&s, f.Path); err != nil {
				j.Log.Warn("a journal of dcmamtin cannot be handed on", "journal", filepath.Base(f.Path), "error", err)
				found = false
			}
			if found {
				break
			}
		}
		if err := j.save(path, s); err != nil {
			return err
		}
		if !found {
			return nil
		}
	}
}

// tidy removes journals that have served: the manager has them to their end, they were not touched for a month, and a newer one of the same
// source is there, for which --resume and --retry-failed look. Nobody looks for those of work that was called off.
func (j *Journals) tidy(now time.Time) error {
	s, err := j.load(filepath.Join(j.DataDir, journalsFile))
	if err != nil {
		return err
	}
	dir := filepath.Join(j.DataDir, amtinit.JournalFolder)
	files, err := amtinit.ListJournals(dir)
	if err != nil {
		return err
	}
	var all error
	for i, f := range files {
		name := filepath.Base(f.Path)
		at, known := s.Positions[name]
		info, err := os.Lstat(f.Path)
		if err != nil || !known || at.Run == nil || name == s.Name || // a part of it is on its way
			at.Size != info.Size() || at.Modified != info.ModTime().UnixNano() || now.Sub(info.ModTime()) < keepJournal ||
			amtinit.JournalKey(at.Run.Source) != f.Key { // whose lock nobody knows
			continue
		}
		if at.Run.Program == journalProgram {
			err = os.Remove(f.Path)
		} else {
			if i+1 == len(files) || files[i+1].Key != f.Key { // the newest of its source
				continue
			}
			var held *amtinit.Journals
			if held, err = amtinit.HoldJournals(dir, at.Run.Source); errors.Is(err, amtinit.ErrJournalBusy) {
				continue
			}
			if err == nil {
				err = errors.Join(os.Remove(f.Path), held.Close())
			}
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("journal %s is old, and the manager has it, but it cannot be removed: %w", name, err))
		}
	}
	return all
}

func (j *Journals) newStream() sentJournals {
	return sentJournals{Stream: JournalsPrefix + j.HostID.String() + "-" + checkin.NewToken().String()[:16], Positions: map[string]sentJournal{}}
}

func (j *Journals) load(path string) (sentJournals, error) {
	b, err := hostid.ReadRegularFile(path, maxJournalsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return j.newStream(), nil
	}
	var s sentJournals
	if err == nil {
		err = json.Unmarshal(b, &s)
	} else if !errors.Is(err, hostid.ErrCorrupt) {
		return s, err
	}
	if err != nil || s.Stream == "" {
		// What is handed on again, the manager knows by its time and its PC.
		j.Log.Warn("how far the journals were handed on cannot be read; all is handed on again", "file", path)
		return j.newStream(), nil
	}
	if s.Positions == nil {
		s.Positions = map[string]sentJournal{}
	}
	return s, nil
}

func (j *Journals) save(path string, s sentJournals) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	return hostid.WriteFileDurably(path, b)
}

// deliver sends what is pending until it is taken, and makes that durable.
func (j *Journals) deliver(ctx context.Context, path string, s *sentJournals) error {
	err := j.Send(ctx, s.Pending)
	var refused *checkin.Refusal
	switch {
	case errors.As(err, &refused) && refused.Code == checkin.UnknownWork:
		// The manager does not know of what came before: its database was put back. It gets all once more.
		j.Log.Warn("the manager has lost results of dcmamtin; all are handed on again", "error", err)
		*s = j.newStream()
	case errors.As(err, &refused):
		return fmt.Errorf("the manager does not take them: %w", err)
	case err != nil:
		return err
	default:
		s.Sequence++
		s.Positions[s.Name] = s.After
		s.Pending, s.Name, s.After = "", "", sentJournal{}
	}
	return j.save(path, *s)
}

// next makes what is new in one journal pending; false if there is nothing.
func (j *Journals) next(s *sentJournals, path string) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return false, nil // gone since it was listed
	}
	name := filepath.Base(path)
	at := s.Positions[name]
	size, modified := info.Size(), info.ModTime().UnixNano()
	if is := j.stuck[name]; at.Size == size && at.Modified == modified || is.Size == size && is.Modified == modified {
		return false, nil
	}
	head, err := amtinit.JournalHead(path)
	if err != nil || head == "" {
		return false, err
	}
	if at.Head != head {
		at = sentJournal{Head: head}
	}
	at.Size, at.Modified = 0, 0
	for {
		lines, next, readErr := amtinit.ReadJournal(path, at.Offset)
		part, bytes := amtinit.JournalPart{}, 0
		told := false // the run that the next target belongs to
		for _, l := range lines[min(at.Lines, len(lines)):] {
			b, err := json.Marshal(l)
			if err != nil {
				return false, err
			}
			if bytes += len(b) + 1; bytes > maxPart && len(part.Lines) > 0 {
				break
			}
			at.Lines++
			switch {
			case l.Run != nil:
				at.Run, told = l.Run, false
			case l.Target != nil:
				if !told && at.Run != nil {
					part.Lines = append(part.Lines, amtinit.JournalLine{Run: at.Run})
				}
				told = true
				part.Lines = append(part.Lines, l)
			}
		}
		more := at.Lines < len(lines) || next < size && next != at.Offset
		if at.Lines >= len(lines) {
			at.Offset, at.Lines = next, 0
		}
		if !more && readErr == nil {
			at.Size, at.Modified = size, modified
		}
		switch {
		case len(part.Lines) > 0:
			return true, j.sign(s, name, at, part)
		case readErr != nil:
			if j.stuck == nil {
				j.stuck = map[string]sentJournal{}
			}
			j.stuck[name] = sentJournal{Size: size, Modified: modified}
			s.Positions[name] = at
			return false, readErr
		case !more:
			s.Positions[name] = at
			return false, nil
		}
	}
}

func (j *Journals) sign(s *sentJournals, name string, after sentJournal, part amtinit.JournalPart) error {
	body, err := json.Marshal(part)
	if err != nil {
		return err
	}
	s.Pending, err = checkin.SignProgress(checkin.Progress{Work: s.Stream, From: j.HostID, Sequence: s.Sequence + 1, Body: body}, j.Key)
	s.Name, s.After = name, after
	return err
}

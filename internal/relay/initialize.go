package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
)

// InitializeKind is the kind of work that has a relay initialize PCs.
const InitializeKind = "initialize"

// Initializer does work of the kind "initialize": the relay's part of a run that the manager started.
//
// Each PC is done once: what became of it is on the disk before anything is said of it, and a relay that was killed goes on with
// the PCs that have no line there.
type Initializer struct {
	DataDir string
	AMT     func() (amtinit.Options, error) // as the configuration, or the manager's settings, have it at that moment
	Log     *slog.Logger
}

// Do is a Do. Of work that is called off the PCs in flight are finished, and stand in its journal.
func (i *Initializer) Do(ctx context.Context, w checkin.Work, off <-chan struct{}, report func(body json.RawMessage, done bool) error) error {
	if err := i.forget(); err != nil {
		return err
	}
	machine, _ := os.Hostname() // is only shown
	tell := func(p amtinit.PartProgress, done bool) error {
		p.Machine = machine
		b, err := json.Marshal(p)
		if err != nil {
			return err
		}
		return report(b, done)
	}
	var part amtinit.PartWork
	if err := json.Unmarshal(w.Body, &part); err != nil {
		return tell(amtinit.PartProgress{Reason: amtinit.RelayCannot, Detail: "the work cannot be read: " + err.Error()}, true)
	}
	if i.AMT == nil {
		return tell(amtinit.PartProgress{Reason: amtinit.RelayWithout}, true)
	}
	o, err := i.AMT()
	if err != nil {
		return tell(amtinit.PartProgress{Reason: amtinit.RelayWithout, Detail: amtinit.Printable(err.Error(), maxDetail)}, true)
	}
	o.DryRun, o.Parallel = part.DryRun, min(max(part.Parallel, 0), amtinit.MaxParallel)
	var end amtinit.PartProgress
	if err := i.run(ctx, w.ID, part, o, off, tell); err != nil {
		if ctx.Err() != nil || errors.Is(err, errNotTold) {
			return err
		}
		i.Log.Error("a part of a run could not be done", "work", w.ID, "error", err)
		end = amtinit.PartProgress{Reason: amtinit.RelayCannot, Detail: amtinit.Printable(err.Error(), maxDetail)}
	}
	return tell(end, true)
}

// journalProgram is who writes the journals of work.
const journalProgram = "samehost-relay"

// maxDetail bounds why a relay cannot do its part, in characters.
const maxDetail = 1000

// errNotTold says that what is known could not be said.
var errNotTold = errors.New("what is known of the work could not be said")

func (i *Initializer) run(ctx context.Context, work string, part amtinit.PartWork, o amtinit.Options, off <-chan struct{}, tell func(amtinit.PartProgress, bool) error) error {
	done := make(map[int]bool)
	running, stop := context.WithCancel(ctx)
	defer stop()
	var stopped atomic.Bool // no further PC is begun
	batch := amtinit.NewBatch(func(lines []amtinit.JournalTarget) error {
		if err := tell(amtinit.PartProgress{Results: lines}, false); err != nil && !errors.Is(err, ErrCalledOff) { // the journal has them
			return fmt.Errorf("%w: %w", errNotTold, err)
		}
		return nil
	}, stop)
	closeBatch := sync.OnceValue(batch.Close)
	defer closeBatch()

	add, stopJournal := func(o amtinit.Outcome) { batch.Add(o.Line()) }, func() error { return nil }
	if !part.DryRun {
		dir := filepath.Join(i.DataDir, workFolder)
		held, err := amtinit.HoldJournals(dir, work)
		if err != nil {
			return err
		}
		defer held.Close()
		past, err := amtinit.LoadJournal(dir, work, func(t *amtinit.JournalTarget) {
			if t.Number > 0 && !done[t.Number] {
				done[t.Number] = true
				batch.Add(*t) // the manager may not have it yet
			}
		})
		run := amtinit.JournalRun{Program: journalProgram, Targets: len(part.Targets), Mode: "all", Enterprise: o.Enterprise}
		var journal *amtinit.Journal
		switch {
		case errors.Is(err, amtinit.ErrNoJournal) || errors.Is(err, amtinit.ErrJournalDamaged):
			journal, err = held.Begin(run)
		case err == nil:
			run.Mode = "resume"
			journal, err = held.Continue(past, run)
		}
		if err != nil {
			return err
		}
		defer journal.Close()
		shown := func(o amtinit.Outcome) {
			if o.Code != amtinit.Interrupted {
				batch.Add(o.Line())
			}
		}
		journal.Start(shown, func(error) { stopped.Store(true) })
		add, stopJournal = journal.Finish, journal.Stop
	}
	targets := func(yield func(amtinit.Target) bool) {
		for _, t := range part.Targets {
			if stopped.Load() || running.Err() != nil {
				return
			}
			select {
			case <-off:
				return
			default:
			}
			if t.Number <= 0 || done[t.Number] || t.Host == "" && t.Address == "" {
				continue
			}
			target := amtinit.Target{Host: t.Host, Number: t.Number}
			target.Address, _ = netip.ParseAddr(t.Address) // none, or the manager's
			if target.Host == "" && !target.Address.IsValid() {
				continue
			}
			if !yield(target) {
				return
			}
		}
	}
	_, err := amtinit.Run(running, o, targets, add)
	err = errors.Join(stopJournal(), err)
	err = errors.Join(closeBatch(), err)
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// forget removes the journals of work that is done: it is not here any more.
func (i *Initializer) forget() error {
	dir := filepath.Join(i.DataDir, workFolder)
	files, err := amtinit.ListJournals(dir)
	if err != nil || len(files) == 0 {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	here := make(map[string]bool)
	for _, e := range entries {
		for _, suffix := range []string{workSuffix, offSuffix} {
			if id, is := strings.CutSuffix(e.Name(), suffix); is {
				here[amtinit.JournalKey(id)] = true
			}
		}
	}
	for _, f := range files {
		if !here[f.Key] {
			err = errors.Join(err, os.Remove(f.Path))
			os.Remove(filepath.Join(dir, f.Key+".lock")) // is empty
		}
	}
	return err
}

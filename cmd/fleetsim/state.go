package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"samehost/internal/checkin"
)

// stateFile keeps a fleet, whose services go on running in between as far as the manager can see. It is written at the end: when
// fleetsim was killed, the clients go on from the end before, and the manager sees PCs that were put back from a backup.
const stateFile = "fleet.state"

// saved is what stateFile holds. Keys follow from the seed.
type saved struct {
	Seed    uint64
	Manager checkin.Fingerprint
	Began   time.Time
	Clients []savedClient
}

type savedClient struct {
	Enrolled, PendingFull bool
	Epoch                 checkin.Token
	Counter               uint64
	Previous, Base        checkin.Digest
	Pending               string
}

// loadState brings a fleet back to where it ended; restarted has all services start anew. Without a file nothing happens; clients that it does not know are new.
func (f *fleet) loadState(dir string, restarted bool) error {
	file, err := os.Open(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	defer file.Close()
	var s saved
	if err := gob.NewDecoder(file).Decode(&s); err != nil {
		return fmt.Errorf("--state %s: %w; remove the file, and the clients are new ones", file.Name(), err)
	}
	if s.Manager != f.token.Manager {
		return fmt.Errorf("--state %s: these clients are enrolled at another manager", file.Name())
	}
	f.seed = s.Seed
	if !restarted {
		f.began = s.Began
	}
	for i, from := range s.Clients[:min(len(s.Clients), len(f.clients))] {
		c := &f.clients[i]
		c.enrolled, c.epoch = from.Enrolled, from.Epoch
		c.counter, c.previous = from.Counter, from.Previous
		if !restarted {
			c.base = from.Base
		}
		c.pending = report{from.Pending, from.PendingFull}
	}
	return nil
}

// saveState writes what loadState reads. Nobody else may use the fleet meanwhile.
func (f *fleet) saveState(dir string) error {
	s := saved{f.seed, f.token.Manager, f.began, make([]savedClient, len(f.clients))}
	for i := range f.clients {
		c := &f.clients[i]
		s.Clients[i] = savedClient{c.enrolled, c.pending.full, c.epoch, c.counter, c.previous, c.base, c.pending.jws}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	name := filepath.Join(dir, stateFile)
	file, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	if err := errors.Join(gob.NewEncoder(file).Encode(s), file.Close()); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	return os.Rename(name+".new", name)
}

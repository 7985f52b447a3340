package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"samehost/internal/checkin"
)

// stateFile keeps a fleet between two runs, as the data folders of real clients do. It is written at the end: after a run that was
// killed, the clients go on from the end of the one before, and the manager sees PCs that were put back from a backup.
const stateFile = "fleet.state"

// saved is what stateFile holds. Keys follow from the seed.
type saved struct {
	Seed    uint64
	Manager checkin.Fingerprint
	Clients []savedClient
}

type savedClient struct {
	Enrolled, WantFull, PendingFull bool
	Epoch                           checkin.Token
	Counter                         uint64
	Previous, Base                  checkin.Digest
	Pending                         string
}

// loadState brings a fleet back to where it ended. Without a file nothing happens; clients that it does not know are new.
func (f *fleet) loadState(dir string) error {
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
	for i, from := range s.Clients[:min(len(s.Clients), len(f.clients))] {
		c := &f.clients[i]
		c.enrolled, c.wantFull, c.epoch = from.Enrolled, from.WantFull, from.Epoch
		c.counter, c.previous, c.base = from.Counter, from.Previous, from.Base
		c.pending = report{from.Pending, from.PendingFull}
	}
	return nil
}

// saveState writes what loadState reads. Nobody else may use the fleet meanwhile.
func (f *fleet) saveState(dir string) error {
	s := saved{f.seed, f.token.Manager, make([]savedClient, len(f.clients))}
	for i := range f.clients {
		c := &f.clients[i]
		s.Clients[i] = savedClient{c.enrolled, c.wantFull, c.pending.full, c.epoch, c.counter, c.previous, c.base, c.pending.jws}
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

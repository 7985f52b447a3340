package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"samehost/internal/hostid"
)

// Memory is a Store in the memory of a test: two blocks written in turn, as a firmware keeps them. The zero value
// is initialised and empty. It survives "restarts" by being kept.
type Memory struct {
	Blocks [2][]byte // as they stand in flash; nil is blank
	Err    error     // if set, every call fails with it: hostid.ErrUnavailable, hostid.ErrNotInitialized
	Writes int       // blocks written

	cut   bool
	steps int // bytes that still get through while cut
}

// ErrPowerCut is what a Memory answers after a cut.
var ErrPowerCut = errors.New("power is cut")

// Cut lets n more bytes be written and then fails every call until Restart.
func (m *Memory) Cut(n int) { m.cut, m.steps = true, n }

// Restart ends a cut.
func (m *Memory) Restart() { m.cut = false }

// Load implements hostid.Store.
func (m *Memory) Load(ctx context.Context) (hostid.Record, error) {
	_, _, r, err := m.read(ctx)
	return r, err
}

// read finds the valid record of the higher sequence, and the block that the next one goes to.
func (m *Memory) read(ctx context.Context) (next int, seq uint64, r hostid.Record, err error) {
	switch {
	case ctx.Err() != nil:
		return 0, 0, r, fmt.Errorf("%w: %w", hostid.ErrUnavailable, ctx.Err())
	case m.cut && m.steps <= 0:
		return 0, 0, r, fmt.Errorf("%w: %w", hostid.ErrUnavailable, ErrPowerCut)
	case m.Err != nil:
		return 0, 0, r, m.Err
	}
	var damage error
	found := false
	for i, b := range m.Blocks {
		s, got, err := hostid.DecodeFrame(b)
		switch {
		case errors.Is(err, hostid.ErrNewer):
			return 0, 0, hostid.Record{}, err
		case errors.Is(err, hostid.ErrCorrupt):
			damage = err
		case err == nil && (!found || s > seq):
			found, next, seq, r = true, 1-i, s, got
		}
	}
	switch {
	case found:
		return next, seq, r, nil
	case damage != nil:
		return 0, 0, r, damage
	default:
		return 0, 0, r, hostid.ErrNotStored
	}
}

// Save implements hostid.Store.
func (m *Memory) Save(ctx context.Context, r hostid.Record) error {
	next, seq, old, err := m.read(ctx)
	if err != nil && !errors.Is(err, hostid.ErrNotStored) && !errors.Is(err, hostid.ErrCorrupt) {
		return err
	}
	if err == nil && old.Equal(r) {
		if _, _, err := hostid.DecodeFrame(m.Blocks[next]); !errors.Is(err, hostid.ErrCorrupt) {
			return nil
		}
	}
	frame, err := hostid.EncodeFrame(seq+1, r)
	if err != nil {
		return err
	}
	m.Writes++
	b := bytes.Clone(hostid.PadFrame(m.Blocks[next], hostid.MaxFrame))
	frame = hostid.PadFrame(frame, hostid.MaxFrame)
	if m.cut {
		if m.steps < len(frame) {
			copy(b, frame[:m.steps])
			m.Blocks[next], m.steps = b, 0
			return fmt.Errorf("%w: %w", hostid.ErrUnavailable, ErrPowerCut)
		}
		m.steps -= len(frame)
	}
	copy(b, frame)
	m.Blocks[next] = b
	return nil
}

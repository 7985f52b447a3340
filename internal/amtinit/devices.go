package amtinit

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

// devices lets targets at one address be worked on one after the other: a list may have two names for one PC. It keeps an
// address while a target there is worked on, and for good where the device may have counted a refused log-on.
type devices struct {
	mu sync.Mutex
	at map[netip.Addr]*sameDevice
}

// sameDevice is what the targets at one address share. All but users is for whoever has the turn.
type sameDevice struct {
	turn   chan struct{} // holds one value while a target has it
	users  int           // targets that have the turn or wait for it
	logOns wsman.LogOns

	// How the last one ended.
	failure failure
	result  amt.Result
	letIn   bool
}

// enter waits for the turn of a target. leave is to be called afterwards, unless it fails.
func (d *devices) enter(ctx context.Context, at netip.Addr) (*sameDevice, error) {
	d.mu.Lock()
	s := d.at[at]
	if s == nil {
		s = &sameDevice{turn: make(chan struct{}, 1), logOns: wsman.LogOns{Left: maxLogOns}}
		if d.at == nil {
			d.at = make(map[netip.Addr]*sameDevice)
		}
		d.at[at] = s
	}
	s.users++
	d.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		return s, nil
	case <-ctx.Done():
		d.gone(at, s)
		return nil, ctx.Err()
	}
}

func (d *devices) leave(at netip.Addr, s *sameDevice) {
	s.logOns.LetIn = nil // it holds on to the target
	<-s.turn
	d.gone(at, s)
}

// gone forgets the address with its last target, unless log-ons have been spent there. Only the last one reads them: it has
// no other to fear.
func (d *devices) gone(at netip.Addr, s *sameDevice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.users--; s.users == 0 && s.logOns.Left == maxLogOns {
		delete(d.at, at)
	}
}

// repeat gives a target the outcome of the one before it at its address.
func (s *sameDevice) repeat(out *Outcome) *failure {
	out.Result, out.letIn = s.result, s.letIn
	out.Result.EnterpriseAdded, out.Result.AllocationAdded, out.Result.AllocationEnlarged = false, false, false
	if s.failure.code == "" {
		return nil
	}
	f := s.failure
	f.err = fmt.Errorf("not asked again, as the targets have this PC under another name: %w", f.err)
	return &f
}

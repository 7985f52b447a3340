package amtinit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// guard is the lockout guard: see the package comment.
type guard struct {
	mu      sync.Mutex
	opened  bool    // a device let us in, or nobody cares
	closed  bool    // the run is to stop
	inside  int     // places that are taken, those of the devices that refused included
	refused int     // devices that refused the log-on before one let us in
	waiting []*pass // in the order in which they came
}

// pass is a device's right to be logged on to while the guard is up.
type pass struct {
	given chan struct{} // closed once it may enter, or knows that it may not
	holds bool          // it takes a place
	timer *time.Timer   // ends holds
}

func newGuard(open bool) *guard { return &guard{opened: open} }

var errStopped = errors.New("the first devices that answered all refused the log-on")

// enter waits until this device may be logged on to. leave is to be called afterwards, unless it fails.
func (g *guard) enter(ctx context.Context) (*pass, error) {
	p := &pass{given: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, p)
	g.admit()
	g.mu.Unlock()
	select {
	case <-p.given:
	case <-ctx.Done():
		g.mu.Lock()
		if i := slices.Index(g.waiting, p); i >= 0 {
			g.waiting = slices.Delete(g.waiting, i, i+1)
		} else {
			g.free(p)
		}
		g.mu.Unlock()
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed && !p.holds {
		return nil, errStopped
	}
	return p, nil
}

// admit lets those in that may enter.
func (g *guard) admit() {
	for len(g.waiting) > 0 && (g.opened || g.closed || g.inside < guardPlaces) {
		p := g.waiting[0]
		g.waiting = g.waiting[1:]
		if !g.opened && !g.closed {
			g.inside++
			p.holds = true
			p.timer = time.AfterFunc(guardPatience, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.free(p)
			})
		}
		close(p.given)
	}
}

// free gives the place of a device to the next one.
func (g *guard) free(p *pass) {
	if !p.holds {
		return
	}
	p.holds = false
	p.timer.Stop()
	g.inside--
	g.admit()
}

// letIn switches the guard off: user and password are right for some device. A run that is to stop already stops all the
// same: others have been told that they are not tried.
func (g *guard) letIn() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
	g.admit()
}

// leave gives the place back, unless the device refused the log-on: then it keeps it for good, and with as many refusals
// as there are places the run stops.
func (g *guard) leave(p *pass, refused bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !refused || g.opened {
		g.free(p)
		return
	}
	if p.holds {
		p.timer.Stop()
		p.holds = false // a timer that has just run out finds nothing to give back
	} else {
		g.inside++ // its patience had run out
	}
	if g.refused++; g.refused == guardPlaces {
		g.closed = true
		g.admit()
	}
}

func (g *guard) stopped() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

package amtinit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// mustEnter enters without having to wait.
func mustEnter(t *testing.T, g *guard) *pass {
	t.Helper()
	began := time.Now()
	p, err := g.enter(t.Context())
	if err != nil || time.Since(began) != 0 {
		t.Fatalf("enter: %v after %s", err, time.Since(began))
	}
	return p
}

func TestGuard(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"five refusals stop the run": func(t *testing.T) {
			g := newGuard(false)
			for n := range guardPlaces {
				p := mustEnter(t, g)
				if g.stopped() {
					t.Fatalf("stopped after %d refusals", n)
				}
				g.leave(p, true)
			}
			if _, err := g.enter(t.Context()); !g.stopped() || !errors.Is(err, errStopped) {
				t.Fatalf("a sixth device: %v", err)
			}
			g.letIn() // too late: others have been told that they are not tried
			if !g.stopped() {
				t.Error("not stopped any more")
			}
		},
		"those that wait are told": func(t *testing.T) {
			g := newGuard(false)
			var inside []*pass
			for range guardPlaces {
				inside = append(inside, mustEnter(t, g))
			}
			const waiting = 1000
			told := make(chan error)
			for range waiting {
				go func() {
					_, err := g.enter(t.Context())
					told <- err
				}()
			}
			synctest.Wait()
			for _, p := range inside {
				g.leave(p, true)
			}
			for range waiting {
				if err := <-told; !errors.Is(err, errStopped) {
					t.Fatalf("one that waited: %v", err)
				}
			}
		},
		"a sixth device waits for the first five": func(t *testing.T) {
			g := newGuard(false)
			var inside []*pass
			for range guardPlaces {
				inside = append(inside, mustEnter(t, g))
			}
			ctx, cancel := context.WithTimeout(t.Context(), guardPatience-1)
			defer cancel()
			if _, err := g.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a sixth device: %v, want it to wait", err)
			}
			g.leave(inside[0], false) // proves nothing: the place is free again
			mustEnter(t, g)
			if len(g.waiting) != 0 {
				t.Errorf("%d wait", len(g.waiting))
			}
		},
		"one success switches it off": func(t *testing.T) {
			g := newGuard(false)
			var inside []*pass
			for range guardPlaces {
				inside = append(inside, mustEnter(t, g))
			}
			waited := make(chan error)
			go func() {
				_, err := g.enter(t.Context())
				waited <- err
			}()
			synctest.Wait()
			g.letIn()
			if err := <-waited; err != nil {
				t.Error(err)
			}
			for range 3 * guardPlaces {
				g.leave(mustEnter(t, g), true)
			}
			for _, p := range inside {
				g.leave(p, true)
			}
			if g.stopped() {
				t.Error("stopped though one device let us in")
			}
		},
		"one that hangs gives its place to the next, and its refusal counts all the same": func(t *testing.T) {
			g := newGuard(false)
			began := time.Now()
			var hanging []*pass
			for n := range 3 * guardPlaces {
				p, err := g.enter(t.Context())
				if want := time.Duration(n/guardPlaces) * guardPatience; err != nil || time.Since(began) != want {
					t.Fatalf("device %d entered after %s (%v), want %s", n, time.Since(began), err, want)
				}
				hanging = append(hanging, p)
			}
			for n, p := range hanging[:guardPlaces] {
				if g.stopped() {
					t.Fatalf("stopped after %d refusals", n)
				}
				g.leave(p, true)
			}
			if !g.stopped() {
				t.Error("not stopped")
			}
			for _, p := range hanging[guardPlaces:] {
				g.leave(p, false)
			}
		},
		"one that refuses after its patience takes a place again": func(t *testing.T) {
			g := newGuard(false)
			late := mustEnter(t, g)
			time.Sleep(guardPatience)
			for range guardPlaces {
				g.leave(mustEnter(t, g), false)
			}
			g.leave(late, true)
			for range guardPlaces - 1 {
				mustEnter(t, g)
			}
			ctx, cancel := context.WithTimeout(t.Context(), guardPatience-1)
			defer cancel()
			if _, err := g.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a sixth device: %v, want it to wait", err)
			}
		},
		"one that is interrupted as it may enter gives its place back": func(t *testing.T) {
			g := newGuard(false)
			var inside []*pass
			for range guardPlaces {
				inside = append(inside, mustEnter(t, g))
			}
			for range 64 {
				ctx, cancel := context.WithCancel(t.Context())
				entered := make(chan *pass)
				go func() {
					p, _ := g.enter(ctx)
					entered <- p
				}()
				synctest.Wait()
				g.mu.Lock()
				cancel() // wakes it
				g.free(inside[0])
				g.mu.Unlock()
				if inside[0] = <-entered; inside[0] == nil {
					inside[0] = mustEnter(t, g)
				}
			}
		},
		"one that refuses keeps its place for good": func(t *testing.T) {
			g := newGuard(false)
			for range guardPlaces - 1 {
				g.leave(mustEnter(t, g), true)
			}
			last := mustEnter(t, g)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			time.AfterFunc(guardPatience-1, func() { g.leave(last, false) })
			p, err := g.enter(ctx)
			if err != nil {
				t.Fatal(err)
			}
			waited := make(chan error)
			go func() {
				_, err := g.enter(ctx)
				waited <- err
			}()
			synctest.Wait()
			if len(g.waiting) != 1 {
				t.Error("two devices are logged on to though four have refused")
			}
			g.leave(p, true)
			if err := <-waited; !errors.Is(err, errStopped) {
				t.Error(err)
			}
		},
		"ignored": func(t *testing.T) {
			g := newGuard(true)
			for range 3 * guardPlaces {
				g.leave(mustEnter(t, g), true)
			}
			if g.stopped() {
				t.Error("stopped though it is to be ignored")
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

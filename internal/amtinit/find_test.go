package amtinit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// In time that is simulated exactly: what connecting to the ports of a PC costs, and which of them is taken.
func TestKnock(t *testing.T) {
	t.Parallel()
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	const silent, refused = -1, -2
	many := []netip.Addr{one, two, netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")}
	for _, test := range []struct {
		name  string
		addrs []netip.Addr
		port  int
		tls   bool
		// When each door opens, in the order in which they are tried; -1 never, -2 it refuses at once.
		doors []time.Duration
		want  int // the door that is taken; -1 none
		takes time.Duration
		tried int // doors
	}{
		{name: "at once", doors: []time.Duration{0, 0}, want: 0, tried: 1},
		{name: "soon", doors: []time.Duration{400 * time.Millisecond, 0}, want: 0, takes: 400 * time.Millisecond, tried: 1},
		{name: "refused, with TLS", doors: []time.Duration{refused, 0}, want: 1, tried: 2},
		{name: "both refused", doors: []time.Duration{refused, refused}, want: -1, tried: 2},
		{name: "an absent PC", doors: []time.Duration{silent, silent}, want: -1, takes: connectTimeout, tried: 2},
		{name: "silent, TLS refused", doors: []time.Duration{silent, refused}, want: -1, takes: connectTimeout, tried: 2},
		{name: "refused, TLS silent", doors: []time.Duration{refused, silent}, want: -1, takes: connectTimeout, tried: 2},
		{name: "silent, with TLS", doors: []time.Duration{silent, 0}, want: 1, takes: connectTimeout, tried: 2},
		{name: "late, though TLS answers before", doors: []time.Duration{4 * time.Second, 0}, want: 0, takes: 4 * time.Second, tried: 2},
		{name: "late, and TLS later", doors: []time.Duration{2 * time.Second, 4 * time.Second}, want: 0, takes: 2 * time.Second, tried: 2},
		{name: "too late", doors: []time.Duration{connectTimeout + 1, silent}, want: -1, takes: connectTimeout, tried: 2},
		{name: "four addresses of an absent PC", addrs: many, doors: slices.Repeat([]time.Duration{silent}, 8), want: -1, takes: connectTimeout, tried: 8},
		{name: "four addresses that refuse", addrs: many, doors: slices.Repeat([]time.Duration{refused}, 8), want: -1, tried: 8},
		{name: "the second address", addrs: many[:2], doors: []time.Duration{silent, silent, 0, 0}, want: 2, takes: quietAfter, tried: 4},
		{name: "the second address, TLS at the first", addrs: many[:2], doors: []time.Duration{silent, 0, time.Second, 0}, want: 2, takes: quietAfter + time.Second, tried: 4},
		{name: "only TLS, at both", addrs: many[:2], doors: []time.Duration{refused, 3 * time.Second, refused, time.Second}, want: 3, takes: quietAfter + time.Second, tried: 4},
		{name: "a numbered port", port: 700, doors: []time.Duration{time.Second}, want: 0, takes: time.Second, tried: 1},
		{name: "a numbered port, silent", port: 700, doors: []time.Duration{silent}, want: -1, takes: connectTimeout, tried: 1},
		{name: "a numbered port with TLS", port: 700, tls: true, doors: []time.Duration{time.Second}, want: 0, takes: time.Second, tried: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.addrs == nil {
					test.addrs = []netip.Addr{one}
				}
				var doors []netip.AddrPort
				for _, a := range test.addrs {
					if test.port != 0 {
						doors = append(doors, netip.AddrPortFrom(a, uint16(test.port)))
					} else {
						doors = append(doors, netip.AddrPortFrom(a, PortHTTP), netip.AddrPortFrom(a, PortTLS))
					}
				}
				var (
					mu    sync.Mutex
					tried []netip.AddrPort
					peers []net.Conn
				)
				e := &engine{Options: Options{Port: test.port, TLS: test.tls}}
				e.dial = func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
					mu.Lock()
					tried = append(tried, at)
					mu.Unlock()
					opens := test.doors[slices.Index(doors, at)]
					switch {
					case opens == refused:
						return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
					case opens == silent || opens > connectTimeout:
						<-ctx.Done()
						return nil, ctx.Err()
					}
					time.Sleep(opens) // a connection may be made though it is not wanted any more
					near, far := net.Pipe()
					mu.Lock()
					defer mu.Unlock()
					peers = append(peers, far)
					return near, nil
				}
				began := time.Now()
				p := &place{e: e}
				d, f := e.knock(t.Context(), Target{Host: "pc"}, test.addrs, p)
				p.settle()
				if took := time.Since(began); took != test.takes {
					t.Errorf("took %s, want %s", took, test.takes)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(tried) != test.tried {
					t.Errorf("%d doors were tried: %v, want %d", len(tried), tried, test.tried)
				}
				if test.want < 0 {
					if d != nil || f == nil || f.code != NothingAnswers || f.err == nil {
						t.Fatalf("found %+v, failure %+v", d, f)
					}
				} else {
					if f != nil {
						t.Fatalf("failure %s: %v", f.code, f.err)
					}
					if want := doors[test.want]; d.at != want || d.tls != (want.Port() == PortTLS || test.tls) || d.host != "pc" {
						t.Errorf("%+v, want %s", d, want)
					}
				}
				// Every other connection was closed.
				open := 0
				for _, far := range peers {
					far.SetReadDeadline(time.Now().Add(time.Second))
					if _, err := far.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
						open++
					}
				}
				if want := min(test.want, 0) + 1; open != want {
					t.Errorf("%d connections are open, want %d", open, want)
				}
				if d != nil {
					d.close()
				}
			})
		})
	}
}

// This machine's lack of sockets is its own fault, and no reason to go on knocking.
func TestKnockWithoutSockets(t *testing.T) {
	t.Parallel()
	e := &engine{dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
		return nil, os.NewSyscallError("socket", syscall.ENOBUFS)
	}}
	p := &place{e: e}
	_, f := e.knock(t.Context(), Target{}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, p)
	p.settle()
	if f == nil || f.code != LocalResources {
		t.Errorf("%+v", f)
	}
}

// Absent PCs hold a place for quietAfter only, and two at a time are worked on as before.
func TestSilentTargetsSlowNobodyDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const targets = 101
		e := engine{Options: Options{Parallel: 2, Port: 700}, dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		all := slices.Repeat([]Target{{Address: netip.MustParseAddr("192.0.2.1")}}, targets)
		sum := e.run(t.Context(), slices.Values(all), func(o Outcome) {
			if o.Code != NothingAnswers || o.Took != connectTimeout {
				t.Errorf("%s after %s", o.Code, o.Took)
			}
		})
		if took, want := time.Since(began), targets/2*quietAfter+connectTimeout; took != want || sum.Failed != targets {
			t.Errorf("%+v after %s, want %s", sum, took, want)
		}
	})
}

// A connection that comes late waits for a place like a target that begins.
func TestALateConnectionTakesAPlaceAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &engine{working: make(chan struct{}, 1), quiet: make(chan struct{}, 1)}
		e.working <- struct{}{}
		late := &place{e: e}
		late.connecting()
		e.working <- struct{}{} // the next target begins when the place is given away
		time.Sleep(time.Second)
		if len(e.working) != 1 || len(e.quiet) != 1 {
			t.Fatalf("%d worked on, %d quiet", len(e.working), len(e.quiet))
		}
		next := &place{e: e}
		next.connecting() // nobody may be quiet any more: it keeps its place
		taken := make(chan error)
		go func() { taken <- late.take(t.Context()) }()
		time.Sleep(time.Minute)
		select {
		case <-taken:
			t.Fatal("two places of one are taken")
		default:
		}
		next.leave()
		if err := <-taken; err != nil || len(e.working) != 1 || len(e.quiet) != 0 {
			t.Errorf("%v: %d worked on, %d quiet", err, len(e.working), len(e.quiet))
		}
		late.leave()
		if len(e.working) != 0 || len(e.quiet) != 0 {
			t.Errorf("at the end %d worked on, %d quiet", len(e.working), len(e.quiet))
		}

		// Interrupted while it waits, it gives back what it has.
		e.working <- struct{}{}
		late = &place{e: e}
		late.connecting()
		e.working <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := late.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		late.leave()
		if len(e.working) != 1 || len(e.quiet) != 0 {
			t.Errorf("after the interruption %d worked on, %d quiet", len(e.working), len(e.quiet))
		}
	})
}

func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every, burst = 10 * time.Millisecond, 3
		p := pace{every: every, burst: burst}
		began := time.Now()
		at := func(n int) {
			t.Helper()
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, want := time.Since(began), time.Duration(n)*every; got != want {
				t.Errorf("after %s, want %s", got, want)
			}
		}
		for _, n := range []int{0, 0, 0, 1, 2, 3, 4} { // the burst, then one by one
			at(n)
		}
		time.Sleep(every) // one may follow the pause at once
		at(5)
		at(6)
		time.Sleep(time.Hour) // a long pause saves up no more than the burst
		began = time.Now()
		for _, n := range []int{0, 0, 0, 1} {
			at(n)
		}

		// Many at once leave one by one, too.
		times := make(chan time.Duration)
		for range 100 {
			go func() {
				p.wait(t.Context())
				times <- time.Since(began)
			}()
		}
		for n := range 100 {
			if got, want := <-times, time.Duration(n+2)*every; got != want {
				t.Fatalf("number %d after %s, want %s", n, got, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// All connections of a run leave at the pace, those of the second port included.
func TestRunPacesItsConnects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const targets = 5000
		var mu sync.Mutex
		var times []time.Duration
		began := time.Now()
		e := engine{Options: Options{Parallel: MaxParallel}, dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(began))
			return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
		}}
		sum := e.run(t.Context(), slices.Values(slices.Repeat([]Target{{Address: netip.MustParseAddr("192.0.2.1")}}, targets)), func(Outcome) {})
		if len(times) != 2*targets || sum.Reasons[NothingAnswers] != targets {
			t.Fatalf("%d connects, %+v", len(times), sum)
		}
		if want := (2*targets - connectBurst) * time.Second / connectRate; times[len(times)-1] != want {
			t.Errorf("the last left after %s, want %s", times[len(times)-1], want)
		}
		for first, last := 0, connectBurst; last < len(times); first, last = first+1, last+1 {
			if times[last]-times[first] < time.Second/connectRate {
				t.Fatalf("connects %d to %d left within %s", first, last, times[last]-times[first])
			}
		}
	})
}

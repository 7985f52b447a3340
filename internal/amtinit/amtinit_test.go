package amtinit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// listen takes connections on a loopback address and counts them.
func listen(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestFind(t *testing.T) {
	t.Parallel()
	at := listen(t, "127.49.1.1:0")
	up, down := at.Addr(), netip.MustParseAddr("127.49.1.2")
	own := netip.MustParseAddr("192.0.2.200")
	names := map[string][]netip.Addr{
		"up":              {up},
		"down":            {down},
		"down-up":         {down, netip.AddrFrom16(up.As16())}, // IPv4 as IPv6 writes it
		"own":             {own},
		"nowhere":         {netip.IPv4Unspecified()},
		"emptyanswer":     {},
		"manager":         {down},
		"manager.example": {down},
	}
	for _, test := range []struct {
		name         string
		target       Target
		addressFirst bool
		want         Code // "" if found at up
		step         Step
		looked       bool // the name was looked up
	}{
		{"by name", Target{Host: "up"}, false, "", "", true},
		{"by address", Target{Address: up}, false, "", "", false},
		{"second address of the name", Target{Host: "down-up"}, false, "", "", true},
		{"name first, address not needed", Target{Host: "up", Address: down}, false, "", "", true},
		{"name unknown, file's address", Target{Host: "unknown", Address: up}, false, "", "", true},
		{"resolver gives nothing, file's address", Target{Host: "emptyanswer", Address: up}, false, "", "", true},
		{"name points elsewhere, file's address", Target{Host: "down", Address: up}, false, "", "", true},
		{"address first, name not needed", Target{Host: "up", Address: up}, true, "", "", false},
		{"address first, then the name", Target{Host: "up", Address: down}, true, "", "", true},
		{"name unknown", Target{Host: "unknown"}, false, Unresolvable, Resolve, true},
		{"name unknown, address silent", Target{Host: "unknown", Address: down}, false, NothingAnswers, Connect, true},
		{"name is nowhere", Target{Host: "nowhere"}, false, Unresolvable, Resolve, true},
		{"file's address is nowhere", Target{Host: "unknown", Address: netip.IPv4Unspecified()}, false, Unresolvable, Resolve, true},
		{"silent", Target{Host: "down"}, false, NothingAnswers, Connect, true},
		{"this machine", Target{Host: "own"}, false, OwnMachine, Connect, true},
		{"this machine's name on a loopback address", Target{Host: "manager"}, false, OwnMachine, Connect, true},
		{"the same with its domain", Target{Host: "Manager.example."}, false, OwnMachine, Connect, true},
		{"this machine by address", Target{Address: own}, false, OwnMachine, Connect, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			looked := false
			e := engine{
				dial:    dial,
				Options: Options{Port: int(at.Port()), AddressFirst: test.addressFirst},
				own:     map[netip.Addr]bool{own: true, up: true}, // a loopback address is no obstacle
				ownName: "manager.example",
				lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
					looked = true
					if a, ok := names[strings.ToLower(strings.TrimSuffix(host, "."))]; ok {
						return a, nil
					}
					return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
				},
			}
			d, f := e.find(t.Context(), test.target, &place{e: &e})
			if looked != test.looked {
				t.Errorf("looked the name up: %v, want %v", looked, test.looked)
			}
			if test.want == "" {
				if f != nil {
					t.Fatalf("not found: %s: %v", f.code, f.err)
				}
				defer d.close()
				if d.at != at || d.tls {
					t.Errorf("found at %s (TLS %v), want %s", d.at, d.tls, at)
				}
				return
			}
			if f == nil || f.code != test.want || f.step != test.step {
				t.Fatalf("failure %+v, want %s in step %s", f, test.want, test.step)
			}
		})
	}
}

func TestFindGivesUpOnAResolverThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := engine{lookup: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		_, f := e.find(t.Context(), Target{Host: "pc"}, &place{e: &e})
		if f == nil || f.code != Unresolvable || time.Since(began) != lookupTimeout {
			t.Errorf("%+v after %s, want %s after %s", f, time.Since(began), Unresolvable, lookupTimeout)
		}
	})
}

func TestKnockTriesBothPorts(t *testing.T) {
	t.Parallel()
	e := &engine{dial: dial}
	plain := listen(t, fmt.Sprintf("127.49.2.1:%d", PortHTTP))
	secure := listen(t, fmt.Sprintf("127.49.2.2:%d", PortTLS))
	both := listen(t, fmt.Sprintf("127.49.2.3:%d", PortHTTP))
	listen(t, fmt.Sprintf("127.49.2.3:%d", PortTLS))
	for _, test := range []struct {
		address string
		at      netip.AddrPort
		tls     bool
	}{
		{"127.49.2.1", plain, false},
		{"127.49.2.2", secure, true},
		{"127.49.2.3", both, false},
	} {
		d, f := e.knock(t.Context(), Target{}, []netip.Addr{netip.MustParseAddr(test.address)}, &place{e: e})
		if f != nil {
			t.Errorf("%s: %s: %v", test.address, f.code, f.err)
			continue
		}
		d.close()
		if d.at != test.at || d.tls != test.tls {
			t.Errorf("%s: found at %s, TLS %v", test.address, d.at, d.tls)
		}
	}
	_, f := e.knock(t.Context(), Target{}, []netip.Addr{netip.MustParseAddr("127.49.2.4")}, &place{e: e})
	if f == nil || f.code != NothingAnswers {
		t.Errorf("nothing listens: %+v", f)
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:16993"), netip.MustParseAddrPort("[fe80::1%eth0]:16993")
	for _, test := range []struct {
		d    device
		want string
	}{
		{device{host: "pc1", at: v4, tls: true}, "https://pc1:16993/wsman"},
		{device{host: "pc1", at: v4}, "http://192.0.2.1:16993/wsman"},
		{device{at: v4, tls: true}, "https://192.0.2.1:16993/wsman"},
		{device{host: "evil/@x:1", at: v4, tls: true}, "https://192.0.2.1:16993/wsman"},
		{device{at: v6}, "http://[fe80::1%25eth0]:16993/wsman"},
	} {
		if got := test.d.url(); got != test.want {
			t.Errorf("%+v: %s, want %s", test.d, got, test.want)
		}
	}
}

func TestSameHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"pc", "PC", true}, {"pc.example", "pc", true}, {"pc", "pc.example.", true}, {"pc.Example", "PC.example", true},
		{"pc.example", "pc.other", false}, {"pc", "pc2", false}, {"", "", false}, {"pc", "", false},
	} {
		if got := sameHost(test.a, test.b); got != test.want {
			t.Errorf("sameHost(%q, %q) = %v", test.a, test.b, got)
		}
	}
}

func TestWithinFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ parallel, files, working, quiet int }{
		{512, 0, 512, maxQuiet}, {512, 1 << 20, 512, maxQuiet}, {512, 1056, 512, 0}, {512, 1054, 511, 0}, {512, 1256, 512, 100},
		{4096, 256, 112, 0}, {1, 256, 1, 111}, {512, 32, 1, 0}, {512, 8, 1, 0},
	} {
		working, quiet := withinFiles(test.parallel, test.files)
		if working != test.working || quiet != test.quiet {
			t.Errorf("%d targets at a time with %d files: %d and %d quiet ones, want %d and %d", test.parallel, test.files, working, quiet, test.working, test.quiet)
		}
	}
}

// The engine pulls a target only when it has a free place for it, gives every target one outcome, and never works on
// more than Parallel at a time.
func TestRunBoundsParallelism(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const parallel, targets = 7, 100
		var working, most, pulled, finished atomic.Int64
		e := engine{Options: Options{Parallel: parallel}, lookup: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			most.Store(max(most.Load(), working.Add(1)))
			defer working.Add(-1)
			time.Sleep(time.Second)
			return nil, errors.New("no name server")
		}}
		began := time.Now()
		var (
			mu   sync.Mutex
			seen []string
		)
		sum := e.run(t.Context(), func(yield func(Target) bool) {
			for n := range targets {
				if p, done := pulled.Add(1), finished.Load(); p > done+parallel {
					t.Errorf("target %d was pulled while %d are done", p, done)
				}
				if !yield(Target{Host: fmt.Sprintf("pc%03d", n)}) {
					return
				}
			}
		}, func(o Outcome) {
			if !mu.TryLock() {
				t.Error("two outcomes at once")
			}
			defer mu.Unlock()
			seen = append(seen, o.Host)
			finished.Add(1)
			if o.Code != Unresolvable || o.Took != time.Second {
				t.Errorf("%s: %s after %s", o.Host, o.Code, o.Took)
			}
		})
		slices.Sort(seen)
		if len(slices.Compact(seen)) != targets || sum.Failed != targets || sum.Reasons[Unresolvable] != targets {
			t.Errorf("%d outcomes, summary %+v", len(seen), sum)
		}
		if took, want := time.Since(began), 15*time.Second; most.Load() != parallel || took != want {
			t.Errorf("at most %d at once in %s, want %d in %s", most.Load(), took, parallel, want)
		}
	})
}

func TestRunIsInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e := engine{Options: Options{Parallel: 2}, lookup: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		sum := e.run(ctx, slices.Values([]Target{{Host: "a"}, {Host: "b"}, {Host: "c"}, {Host: "d"}}), func(o Outcome) {
			if o.Code != Interrupted {
				t.Errorf("%s: %s, want %s", o.Host, o.Code, Interrupted)
			}
		})
		if sum.Failed == 0 || sum.Failed == 4 {
			t.Errorf("%d targets begun, want those in flight and no more", sum.Failed)
		}
	})
}

package relay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

var managerKey = ed25519.NewKeyFromSeed(make([]byte, 32))

var fingerprint = checkin.FingerprintOf(managerKey.Public().(ed25519.PublicKey))

// above is a higher system that answers as the manager does: a report that it has seen gets the reply that it got.
type above struct {
	mu      sync.Mutex
	replies map[checkin.Digest]checkin.Reply
	order   []checkin.Digest
	hops    map[checkin.Digest][]checkin.Hop
	fail    func(checkin.SignedReport) error // nil: answers
	calls   int
	busyNow map[hostid.ID]bool // clients with a report under way
	overlap bool               // two reports of one client were under way at once
}

func newAbove() *above {
	return &above{replies: map[checkin.Digest]checkin.Reply{}, hops: map[checkin.Digest][]checkin.Hop{}, busyNow: map[hostid.ID]bool{}}
}

func (a *above) set(fail func(checkin.SignedReport) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = fail
}

func (a *above) CheckIn(ctx context.Context, s checkin.SignedReport) (checkin.Reply, error) {
	v, err := checkin.Verify(s)
	if err != nil {
		return checkin.Reply{}, err
	}
	a.mu.Lock()
	a.overlap = a.overlap || a.busyNow[v.Report.HostID]
	a.busyNow[v.Report.HostID] = true
	a.calls++
	fail := a.fail
	a.mu.Unlock()
	if fail != nil {
		err = fail(s)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.busyNow, v.Report.HostID)
	if err != nil {
		return checkin.Reply{}, err
	}
	if r, ok := a.replies[v.Digest]; ok {
		return r, nil
	}
	r, err := checkin.SignReply(checkin.Reply{Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Minute, Time: time.Now()}, managerKey)
	if err != nil {
		return checkin.Reply{}, err
	}
	a.replies[v.Digest] = r
	a.order = append(a.order, v.Digest)
	a.hops[v.Digest] = s.Hops
	return r, nil
}

// got are the reports that it accepted, in order.
func (a *above) got() []checkin.Digest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.order)
}

// way is the hops that a report came with.
func (a *above) way(s checkin.SignedReport) []checkin.Hop {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hops[s.Digest()]
}

// pc is a client that makes report after report.
type pc struct {
	t      testing.TB
	seed   hostid.Seed
	report checkin.Report
}

func newPC(t testing.TB) *pc {
	p := &pc{t: t, seed: hostid.NewSeed()}
	p.report = checkin.Report{Audience: fingerprint, HostID: hostid.NewID(), SealKey: p.seed.SealingKey().PublicKey().Bytes(),
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated,
		Facts: hardware.Facts{SystemSerial: "one"}, Names: checkin.Names{Host: "pc"}}
	return p
}

func (p *pc) next() checkin.SignedReport {
	p.t.Helper()
	p.report.Counter++
	s, err := checkin.Sign(p.report, p.seed.SigningKey(), nil)
	must(p.t, err)
	p.report.Previous = s.Digest()
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var relayID = hostid.ID{1, 2, 3}

func open(t testing.TB, dir string, up checkin.HigherSystem, change ...func(*Options)) *Relay {
	t.Helper()
	o := Options{DataDir: dir, HostID: relayID, Manager: fingerprint, Higher: up, Spool: 4 << 20}
	for _, c := range change {
		c(&o)
	}
	r, err := Open(o)
	must(t, err)
	return r
}

var errDown = fmt.Errorf("%w: a cable is out", checkin.ErrUnavailable)

func down(checkin.SignedReport) error { return errDown }

func TestOnlineTheReplyPasses(t *testing.T) {
	t.Parallel()
	up := newAbove()
	r := open(t, t.TempDir(), up)
	p := newPC(t)
	for range 3 {
		s := p.next()
		reply, err := r.CheckIn(t.Context(), s)
		must(t, err)
		if _, err := checkin.VerifyReply(reply.Raw, fingerprint, s.Digest()); err != nil {
			t.Error(err)
		}
	}
	if s := r.State(); s.Reports != 0 || s.Delivered != 3 || s.Taken != 3 || !s.Up || s.Clients != 0 {
		t.Errorf("state %+v", s)
	}
	must(t, r.Close())
}

// Offline reports are deferred; they go up in order, once, when it is back, also after the relay was ended.
func TestOffline(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				up := newAbove()
				r := open(t, dir, up)
				a, b := newPC(t), newPC(t)
				for _, p := range []*pc{a, b} { // known to the manager, so that they may have more kept
					_, err := r.CheckIn(t.Context(), p.next())
					must(t, err)
				}
				up.set(down)
				var of [2][]checkin.Digest
				for i := range 40 {
					p := []*pc{a, b}[i%2]
					s := p.next()
					reply, err := r.CheckIn(t.Context(), s)
					must(t, err)
					if reply.Status != checkin.Deferred || reply.Report != s.Digest() || reply.Raw != "" {
						t.Fatalf("report %d: %+v", i, reply)
					}
					of[i%2] = append(of[i%2], s.Digest())
				}
				if s := r.State(); s.Up || s.Reports != 40 || s.Clients != 2 || s.Reason == "" {
					t.Errorf("state %+v", s)
				}
				if restart {
					must(t, r.Close())
					r = open(t, dir, up)
				}
				up.set(nil)
				time.Sleep(2 * lastProbe)
				if s := r.State(); !s.Up || s.Reports != 0 || s.Delivered < 40 {
					t.Errorf("state %+v", s)
				}
				got := up.got()[2:]
				for i, want := range of {
					var mine []checkin.Digest
					for _, d := range got {
						if slices.Contains(want, d) {
							mine = append(mine, d)
						}
					}
					if diff := cmp.Diff(want, mine); diff != "" {
						t.Errorf("client %d: %s", i, diff)
					}
				}
				if up.overlap {
					t.Error("two reports of one client were under way at once")
				}
				for _, d := range got {
					hops := up.hops[d]
					if len(hops) != 1 || hops[0].Relay != relayID || hops[0].Uncertain != restart {
						t.Errorf("hops %+v", hops)
					}
				}
				must(t, r.Close())
			})
		})
	}
}

// A client that waits too long is told deferred; the reply comes with its next report, if that has to wait too.
func TestLateReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		r := open(t, t.TempDir(), up)
		p := newPC(t)
		up.set(func(checkin.SignedReport) error { time.Sleep(DefaultWait + time.Second); return nil })
		first := p.next()
		reply, err := r.CheckIn(t.Context(), first)
		must(t, err)
		if reply.Status != checkin.Deferred || reply.Late != nil {
			t.Fatalf("%+v", reply)
		}
		time.Sleep(2 * time.Second)
		second := p.next()
		reply, err = r.CheckIn(t.Context(), second)
		must(t, err)
		if reply.Status != checkin.Deferred || reply.Late == nil {
			t.Fatalf("%+v", reply)
		}
		if _, err := checkin.VerifyReply(reply.Late.Raw, fingerprint, first.Digest()); err != nil {
			t.Error(err)
		}
		// The same report again: the manager answers as before.
		up.set(nil)
		time.Sleep(2 * time.Second)
		reply, err = r.CheckIn(t.Context(), second)
		must(t, err)
		if reply.Status != checkin.Accepted || reply.Report != second.Digest() {
			t.Fatalf("%+v", reply)
		}
		if got := up.got(); len(got) != 2 {
			t.Errorf("%d reports arrived", len(got))
		}
		must(t, r.Close())
	})
}

// A report that is sent again while it is kept is kept once.
func TestRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		up.set(down)
		r := open(t, t.TempDir(), up)
		s := newPC(t).next()
		for range 5 {
			reply, err := r.CheckIn(t.Context(), s)
			must(t, err)
			if reply.Status != checkin.Deferred {
				t.Fatalf("%+v", reply)
			}
		}
		if s := r.State(); s.Reports != 1 || s.Taken != 1 || s.Repeated != 4 {
			t.Errorf("state %+v", s)
		}
		must(t, r.Close())
	})
}

// What is refused above is refused here, and leaves the line; others are not kept up by one whose reports are not wanted.
func TestRefusalAndBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		r := open(t, t.TempDir(), up)
		bad, slow, good := newPC(t), newPC(t), newPC(t)
		up.set(func(s checkin.SignedReport) error {
			switch v, _ := checkin.Verify(s); v.Report.HostID {
			case bad.report.HostID:
				return &checkin.Refusal{Code: checkin.BadToken, Detail: "revoked"}
			case slow.report.HostID:
				return &checkin.Busy{After: time.Hour}
			}
			return nil
		})
		_, err := r.CheckIn(t.Context(), bad.next())
		var refusal *checkin.Refusal
		if !errors.As(err, &refusal) || refusal.Code != checkin.BadToken || refusal.Detail != "revoked" {
			t.Errorf("%v", err)
		}
		began := time.Now()
		reply, err := r.CheckIn(t.Context(), slow.next())
		must(t, err)
		if reply.Status != checkin.Deferred || time.Since(began) > time.Second {
			t.Errorf("%+v after %s", reply, time.Since(began))
		}
		reply, err = r.CheckIn(t.Context(), good.next())
		must(t, err)
		if reply.Status != checkin.Accepted {
			t.Errorf("%+v", reply)
		}
		up.set(nil)
		time.Sleep(2 * lastBackOff)
		if s := r.State(); s.Reports != 0 || s.Refused != 1 || s.Delivered != 2 {
			t.Errorf("state %+v", s)
		}
		must(t, r.Close())
	})
}

func TestCirclesAndLongWays(t *testing.T) {
	t.Parallel()
	up := newAbove()
	r := open(t, t.TempDir(), up)
	for name, hops := range map[string][]checkin.Hop{
		"through itself": {{Relay: hostid.ID{9}}, {Relay: relayID}},
		"too long":       slices.Repeat([]checkin.Hop{{Relay: hostid.ID{9}}}, checkin.MaxHops),
	} {
		s := newPC(t).next()
		s.Hops = hops
		_, err := r.CheckIn(t.Context(), s)
		var busy *checkin.Busy
		if !errors.As(err, &busy) || busy.Reason == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := r.State(); s.Taken != 0 || up.calls != 0 {
		t.Errorf("state %+v, %d calls", s, up.calls)
	}
	must(t, r.Close())
}

// A relay below that repeats what it once passed on, or leads it by a way that this relay's own higher system refuses, keeps nobody
// waiting who comes by another way by now.
func TestRelayBelowThatRepeatsReports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		above, bad := hostid.ID{8}, hostid.ID{9}
		circle := func(s checkin.SignedReport) error {
			if s.Hops[0].Relay == above {
				return &checkin.Busy{After: time.Minute, Reason: "relays lead in a circle"}
			}
			return nil
		}
		dir := t.TempDir()
		r := open(t, dir, up)
		p := newPC(t)
		accepted := func(what string) {
			t.Helper()
			if reply, err := r.CheckIn(t.Context(), p.next()); err != nil || reply.Status != checkin.Accepted {
				t.Errorf("%s: %v, %v", what, reply.Status, err)
			}
		}
		passed := p.next()
		passed.Hops = []checkin.Hop{{Relay: bad}}
		_, err := r.CheckIn(t.Context(), passed)
		must(t, err)
		up.set(circle)
		led := passed
		led.Hops = []checkin.Hop{{Relay: above}, {Relay: bad}}
		if reply, err := r.CheckIn(t.Context(), led); err != nil || reply.Status != checkin.Deferred {
			t.Fatalf("%v, %v", reply.Status, err)
		}
		accepted("by itself")
		must(t, r.Close())
		r = open(t, dir, up)
		accepted("after a restart")
		if s := r.State(); s.Clients != 1 || s.Reports != 1 {
			t.Errorf("%+v", s)
		}

		// The same from four connections at a time.
		slow := make(chan struct{})
		r.spool.sync = func(f *os.File) error {
			<-slow
			return f.Sync()
		}
		var all sync.WaitGroup
		for range 2 * maxTaking {
			s := p.next()
			s.Hops = led.Hops
			all.Go(func() { r.CheckIn(t.Context(), s) })
		}
		synctest.Wait()
		all.Go(func() { accepted("while others repeat what it said") })
		synctest.Wait()
		close(slow)
		all.Wait()
		up.set(nil)
		time.Sleep(2 * lastBackOff)
		if s := r.State(); s.Clients != 0 || s.Reports != 0 || len(r.lines)+len(r.taking)+len(r.clients) != 0 {
			t.Errorf("%+v", s)
		}
		must(t, r.Close())
	})
}

// Hops of relays below stay before this one's.
func TestHops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		up.set(down)
		var mu sync.Mutex
		wall, awake := time.Now(), time.Second
		turn := func(w, a time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			wall, awake = wall.Add(w), awake+a
		}
		r := open(t, t.TempDir(), up, func(o *Options) {
			o.Wall = func() time.Time { mu.Lock(); defer mu.Unlock(); return wall }
			o.Awake = func() time.Duration { mu.Lock(); defer mu.Unlock(); return awake }
		})
		below := []checkin.Hop{{Relay: hostid.ID{7}, Held: 1500 * time.Millisecond, Uncertain: true}, {Relay: hostid.ID{8}, Held: time.Hour}}
		held, set := newPC(t).next(), newPC(t).next()
		held.Hops = below
		for _, s := range []checkin.SignedReport{held} {
			_, err := r.CheckIn(t.Context(), s)
			must(t, err)
		}
		turn(7*time.Minute, 7*time.Minute)
		_, err := r.CheckIn(t.Context(), set)
		must(t, err)
		turn(-time.Hour, time.Minute) // somebody sets the clock back
		up.set(nil)
		time.Sleep(2 * lastProbe)
		// In both cases the clock was set while the report was kept; what the other clock says counts.
		want := append(slices.Clone(below), checkin.Hop{Relay: relayID, Held: 8 * time.Minute, Uncertain: true})
		if diff := cmp.Diff(want, up.way(held)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]checkin.Hop{{Relay: relayID, Held: time.Minute, Uncertain: true}}, up.way(set)); diff != "" {
			t.Error(diff)
		}
		must(t, r.Close())
	})
}

// Nobody can fill the disk: not by inventing PCs, not as one PC that is known.
func TestLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		r := open(t, t.TempDir(), up, func(o *Options) { o.Spool = 2 << 20 })
		known := newPC(t)
		_, err := r.CheckIn(t.Context(), known.next())
		must(t, err)
		up.set(down)
		busy := func(err error) bool {
			var b *checkin.Busy
			return errors.As(err, &b) && b.After > 0
		}
		one := newPC(t)
		for i := range maxOfUnknown + 1 {
			_, err := r.CheckIn(t.Context(), one.next())
			if busy(err) != (i == maxOfUnknown) {
				t.Fatalf("report %d of an unknown client: %v", i, err)
			}
		}
		invented := 0
		for range 1000 {
			if _, err := r.CheckIn(t.Context(), newPC(t).next()); busy(err) {
				break
			}
			invented++
		}
		if _, used := r.spool.size(); invented < 10 || used > r.o.Spool/4 {
			t.Fatalf("%d invented PCs take %d of %d bytes", invented, used, r.o.Spool)
		}
		taken := 0
		for range 5000 {
			if _, err := r.CheckIn(t.Context(), known.next()); err != nil {
				if !busy(err) {
					t.Fatal(err)
				}
				break
			}
			taken++
		}
		if taken < 300 || taken > 5000-1 {
			t.Errorf("%d reports of a known client were taken", taken)
		}
		if s := r.State(); s.TurnedOff != 3 {
			t.Errorf("state %+v", s)
		}
		kept := r.State().Reports
		up.set(nil)
		time.Sleep(10 * lastProbe)
		if s := r.State(); s.Reports != 0 || s.Delivered != int64(kept)+1 {
			t.Errorf("of %d kept: %+v", kept, s)
		}
		must(t, r.Close())
	})
}

// At its bound the spool refuses, and drops nothing; when it is sent, there is room again.
func TestBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := newAbove()
		r := open(t, t.TempDir(), up, func(o *Options) { o.Spool = MinSpool })
		pcs := make([]*pc, 20)
		for i := range pcs {
			pcs[i] = newPC(t)
			_, err := r.CheckIn(t.Context(), pcs[i].next())
			must(t, err)
		}
		up.set(down)
		kept, refused := 0, 0
		for i := range 2000 {
			_, err := r.CheckIn(t.Context(), pcs[i%len(pcs)].next())
			var busy *checkin.Busy
			switch {
			case err == nil:
				kept++
			case errors.As(err, &busy):
				refused++
			default:
				t.Fatal(err)
			}
		}
		s := r.State()
		if refused == 0 || !s.Full || s.Bytes > s.Bound || s.Reports != kept || int64(refused) != s.TurnedOff {
			t.Fatalf("%d kept, %d refused: %+v", kept, refused, s)
		}
		up.set(nil)
		time.Sleep(10 * lastProbe)
		if s := r.State(); s.Reports != 0 || s.Full || s.Delivered != int64(kept+len(pcs)) || s.Bytes > MinSpool/4 {
			t.Errorf("%+v", s)
		}
		if reply, err := r.CheckIn(t.Context(), pcs[0].next()); err != nil || reply.Status != checkin.Accepted {
			t.Errorf("%+v, %v", reply, err)
		}
		must(t, r.Close())
	})
}

func TestClientsAreRemembered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	up := newAbove()
	r := open(t, dir, up)
	p := newPC(t)
	_, err := r.CheckIn(t.Context(), p.next())
	must(t, err)
	must(t, r.Close())
	r = open(t, dir, up)
	if len(r.known.days) != 1 {
		t.Errorf("%d clients are known", len(r.known.days))
	}
	must(t, r.Close())
	must(t, os.WriteFile(filepath.Join(dir, clientsFile), []byte("SHC1damaged"), 0o600))
	r = open(t, dir, up)
	if len(r.known.days) != 0 {
		t.Errorf("%d clients are known", len(r.known.days))
	}
	must(t, r.Close())
}

// Anybody can send reports that the manager refuses, each for another reason. The log does not grow with them.
func TestRefusedReportsAreLoggedWithinBounds(t *testing.T) {
	t.Parallel()
	up := newAbove()
	up.set(func(s checkin.SignedReport) error {
		return &checkin.Refusal{Code: checkin.NeedsEnrolment, Detail: "unknown host of report " + s.Digest().String()}
	})
	var log lineCount
	r := open(t, t.TempDir(), up, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 60 {
		_, err := r.CheckIn(t.Context(), newPC(t).next())
		var refusal *checkin.Refusal
		if !errors.As(err, &refusal) {
			t.Fatal(err)
		}
	}
	way := []checkin.Hop{{Relay: relayID}}
	for n := range 60 {
		s := newPC(t).next()
		s.Hops = slices.Repeat(way, 1+n)
		if _, err := r.CheckIn(t.Context(), s); err == nil {
			t.Fatal("taken in a circle")
		}
	}
	must(t, r.Close())
	if n := log.n.Load(); n == 0 || n > 25 {
		t.Errorf("%d lines", n)
	}
}

// lineCount counts the lines that are written to it.
type lineCount struct{ n atomic.Int64 }

func (l *lineCount) Write(b []byte) (int, error) {
	l.n.Add(1)
	return len(b), nil
}

// What is kept is verified on all processors, each report once, and stands in its order afterwards.
func TestStartOnAllProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // two must be under way at once, or all wait for ever
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
		const n = 300
		both := make(chan struct{})
		var met atomic.Int64
		calls := make([]atomic.Int64, n)
		onAllProcessors(n, func(i int) {
			calls[i].Add(1)
			if i%64 == 0 && met.Add(1) == 2 {
				close(both)
			}
			<-both
		})
		for i := range calls {
			if got := calls[i].Load(); got != 1 {
				t.Errorf("number %d was given out %d times", i, got)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		dir, up := t.TempDir(), newAbove()
		up.set(down)
		r := open(t, dir, up)
		one, two := newPC(t), newPC(t)
		must(t, r.SaveClients(false))
		r.mu.Lock()
		for _, p := range []*pc{one, two} {
			v, err := checkin.Verify(p.next())
			must(t, err)
			r.known.add(clientOf(v), time.Now())
		}
		r.mu.Unlock()
		want := map[hostid.ID][]checkin.Digest{}
		for i := range 200 {
			p := []*pc{one, two}[i%2]
			s := p.next()
			if _, err := r.CheckIn(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			want[p.report.HostID] = append(want[p.report.HostID], s.Digest())
		}
		must(t, r.Close())
		up.set(nil)
		r = open(t, dir, up)
		time.Sleep(time.Minute)
		must(t, r.Close())
		of := map[checkin.Digest]hostid.ID{}
		for id, digests := range want {
			for _, d := range digests {
				of[d] = id
			}
		}
		got := map[hostid.ID][]checkin.Digest{}
		for _, d := range up.got() {
			got[of[d]] = append(got[of[d]], d)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("after a restart (-want +got):\n%s", d)
		}
	})
}

// BenchmarkOpen reads a spool of some hundred megabytes.
func BenchmarkOpen(b *testing.B) {
	const size = 100 << 20
	dir, up := b.TempDir(), newAbove()
	up.set(down)
	s, _, err := openSpool(spoolDir(dir), 2*size, slog.New(slog.DiscardHandler), fast)
	must(b, err)
	pcs := make([]*pc, 200)
	for i := range pcs {
		pcs[i] = newPC(b)
	}
	reports := 0
	for used := int64(0); used < size; reports++ {
		_, err := s.append(spooled{report: pcs[reports%len(pcs)].next(), received: 1})
		must(b, err)
		if reports%1000 == 0 {
			_, used = s.size()
		}
	}
	must(b, s.close())
	for b.Loop() {
		r := open(b, dir, up, func(o *Options) { o.Spool = 2 * size })
		b.StopTimer()
		must(b, r.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(reports), "reports")
}

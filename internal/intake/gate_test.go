package intake

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// below is the HigherSystem behind a Gate.
type below func(context.Context, checkin.SignedReport) (checkin.Reply, error)

func (b below) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	return b(ctx, r)
}

// signed is a report of the PC of that number.
func signed(t *testing.T, pc byte) checkin.SignedReport {
	t.Helper()
	key := ed25519.NewKeyFromSeed(append(make([]byte, 31), pc))
	r, err := checkin.Sign(checkin.Report{
		Audience: checkin.FingerprintOf(key.Public().(ed25519.PublicKey)), HostID: hostid.ID{pc, 1}, SealKey: make([]byte, 32),
		Epoch: checkin.Token{1}, Run: checkin.Token{2}, Counter: 1,
	}, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func accepted() (checkin.Reply, error) { return checkin.Reply{Status: checkin.Accepted}, nil }

// relayed is a report that a relay brings: any number of one PC's may come at once.
func relayed(t *testing.T) checkin.SignedReport {
	t.Helper()
	r := signed(t, 1)
	r.Hops = []checkin.Hop{{Relay: hostid.ID{9}}}
	v, err := checkin.Verify(r)
	if err != nil {
		t.Fatal(err)
	}
	return r.Verified(v)
}

func busyAfter(t *testing.T, err error) time.Duration {
	t.Helper()
	var busy *checkin.Busy
	if !errors.As(err, &busy) || busy.Reason == "" {
		t.Fatalf("%v, want Busy with a reason", err)
	}
	return busy.After
}

// Beyond its bound a Gate sends away, each to another time, and later the more were sent away.
func TestGateSendsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make(chan bool)
		g := NewGate(below(func(_ context.Context, r checkin.SignedReport) (checkin.Reply, error) {
			<-next
			return accepted()
		}))
		r := relayed(t)
		for range mostUnderWay {
			go g.CheckIn(t.Context(), r)
		}
		synctest.Wait()
		var after []time.Duration
		for range 1000 {
			_, err := g.CheckIn(t.Context(), r)
			after = append(after, busyAfter(t, err))
		}
		// At 50 a second the thousandth comes after 22 s.
		if first, last := after[0], after[999]; first < leastAway || first > leastAway*13/10 || last < 22*time.Second || last > 27*time.Second {
			t.Errorf("after %s to %s", first, last)
		}
		early := 0
		for _, a := range after {
			if a < 10*time.Second {
				early++
			}
		}
		if early < 300 || early > 500 {
			t.Errorf("%d of 1000 come within 10 s", early)
		}
		for range 40_000 {
			_, err := g.CheckIn(t.Context(), r)
			after = append(after, busyAfter(t, err))
		}
		if most := slices.Max(after); most > mostAway*12/10 || most < mostAway {
			t.Errorf("at most %s", most)
		}
		close(next)
		synctest.Wait()
		if _, err := g.CheckIn(t.Context(), r); err != nil {
			t.Errorf("there is room again: %v", err)
		}
		if g.underWay != 0 || len(g.of) != 0 {
			t.Errorf("left: %d, %d", g.underWay, len(g.of))
		}
	})
}

// Where check-ins take slow, few are under way: the rest would only wait.
func TestGateKeepsLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		takes := 3 * time.Second
		g := NewGate(below(func(context.Context, checkin.SignedReport) (checkin.Reply, error) {
			time.Sleep(takes)
			return accepted()
		}))
		r := relayed(t)
		burst := func() (taken int) {
			results := make(chan error, 200)
			for range 200 {
				go func() { _, err := g.CheckIn(t.Context(), r); results <- err }()
			}
			for range 200 {
				if err := <-results; err == nil {
					taken++
				} else {
					busyAfter(t, err)
				}
			}
			return taken
		}
		if n := burst(); n != 200 {
			t.Errorf("%d taken before anything was slow, want all", n)
		}
		if n := burst(); n != fewUnderWay {
			t.Errorf("%d taken, want %d", n, fewUnderWay)
		}
		takes = time.Millisecond
		for range 3 {
			burst()
		}
		if n := burst(); n != 200 {
			t.Errorf("%d taken once it is fast again, want all", n)
		}
		takes = time.Hour
		go g.CheckIn(t.Context(), r)
		time.Sleep(2 * time.Hour)
		g.mu.Lock()
		g.took = time.Minute
		g.mu.Unlock()
		time.Sleep(2 * time.Minute)
		takes = time.Millisecond
		if n := burst(); n != 200 {
			t.Errorf("%d taken after a quiet time, want all: what was slow is long ago", n)
		}
	})
}

// A relay's Gate sends nobody away because the manager is slow: the relay keeps what it is given.
func TestRelayGateIsPatient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make(chan bool)
		g := NewRelayGate(below(func(context.Context, checkin.SignedReport) (checkin.Reply, error) {
			<-next
			return accepted()
		}))
		r := relayed(t)
		g.tick(time.Now())
		g.took = time.Minute
		taken := make(chan error, mostUnderWay)
		for range mostUnderWay {
			go func() { _, err := g.CheckIn(t.Context(), r); taken <- err }()
		}
		synctest.Wait()
		_, err := g.CheckIn(t.Context(), r)
		busyAfter(t, err)
		close(next)
		for range mostUnderWay {
			if err := <-taken; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// One PC has few check-ins under way, whoever else names its key.
func TestGateBoundsOnePC(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make(chan bool)
		g := NewGate(below(func(_ context.Context, r checkin.SignedReport) (checkin.Reply, error) {
			<-next
			return accepted()
		}))
		mad, other := signed(t, 1), signed(t, 2)
		forged := mad
		forged.JWS = forged.JWS[:len(forged.JWS)-4] + "AAAA"
		for range 100 {
			if _, err := g.CheckIn(t.Context(), forged); !errors.Is(err, checkin.ErrRefused) {
				t.Fatalf("forged: %v", err)
			}
		}
		gone, leave := context.WithCancel(t.Context())
		answered := make(chan error, mostOfOne+mostWaiting)
		for range mostOfOne {
			go func() { _, err := g.CheckIn(t.Context(), mad); answered <- err }()
		}
		synctest.Wait()
		for i := range mostWaiting {
			ctx := t.Context()
			if i%2 == 1 {
				ctx = gone
			}
			go func() { _, err := g.CheckIn(ctx, mad); answered <- err }()
		}
		synctest.Wait()
		if len(g.of) != 1 || g.underWay != mostOfOne {
			t.Errorf("under way: %d of %d PCs, want %d of 1", g.underWay, len(g.of), mostOfOne)
		}
		_, err := g.CheckIn(t.Context(), mad)
		if after := busyAfter(t, err); after < leastAway || after > 2*leastAway {
			t.Errorf("after %s", after)
		}
		go g.CheckIn(t.Context(), other)
		go g.CheckIn(t.Context(), relayed(t)) // the same PC's, kept by a relay
		synctest.Wait()
		if g.underWay != mostOfOne+2 {
			t.Errorf("%d under way", g.underWay)
		}
		leave()
		synctest.Wait()
		for range mostWaiting / 2 {
			if err := <-answered; !errors.Is(err, context.Canceled) {
				t.Errorf("who left was told %v", err)
			}
		}
		next <- true // one ends, and one that waited takes its place
		synctest.Wait()
		var waiting int
		for _, o := range g.of {
			waiting += len(o.waiting)
		}
		if under := g.underWay; under != mostOfOne+2 && under != mostOfOne+1 || waiting < mostWaiting/2-1 {
			t.Errorf("%d under way, %d wait", under, waiting)
		}
		close(next)
		for range mostOfOne + mostWaiting/2 {
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if g.underWay != 0 || len(g.of) != 0 {
			t.Errorf("left: %d, %d", g.underWay, len(g.of))
		}
	})
}

// The figures are what Prometheus reads.
func TestFigures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reply checkin.Reply
		var fails error
		var takes time.Duration
		g := NewGate(below(func(context.Context, checkin.SignedReport) (checkin.Reply, error) {
			time.Sleep(takes)
			return reply, fails
		}))
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for _, c := range []struct {
			reply checkin.ReplyStatus
			err   error
			takes time.Duration
			ctx   context.Context
		}{
			{checkin.Accepted, nil, time.Millisecond, t.Context()},
			{checkin.Accepted, nil, 20 * time.Millisecond, t.Context()},
			{checkin.Deferred, nil, time.Minute, t.Context()},
			{"", &checkin.Refusal{Code: checkin.BadToken}, 0, t.Context()},
			{"", &checkin.Refusal{Code: "of-tomorrow"}, 0, t.Context()},
			{"", &checkin.Busy{}, 0, t.Context()},
			{"", errors.New("disk full"), 0, t.Context()},
			{"", errors.New("canceled"), 0, gone},
		} {
			reply.Status, fails, takes = c.reply, c.err, c.takes
			g.CheckIn(c.ctx, signed(t, 1))
		}
		g.CheckIn(t.Context(), checkin.SignedReport{JWS: "x"})
		var b strings.Builder
		g.WriteFigures(&b)
		want := `# HELP samehost_checkins_total Check-ins by what became of them.
# TYPE samehost_checkins_total counter
samehost_checkins_total{outcome="accepted"} 2
samehost_checkins_total{outcome="deferred"} 1
samehost_checkins_total{outcome="malformed"} 1
samehost_checkins_total{outcome="wrong-audience"} 0
samehost_checkins_total{outcome="needs-enrolment"} 0
samehost_checkins_total{outcome="bad-token"} 1
samehost_checkins_total{outcome="other"} 1
samehost_checkins_total{outcome="busy"} 1
samehost_checkins_total{outcome="failed"} 1
samehost_checkins_total{outcome="gone"} 1
# HELP samehost_checkin_seconds How long check-ins took that were let through, verification and database included.
# TYPE samehost_checkin_seconds histogram
samehost_checkin_seconds_bucket{le="0.001"} 6
samehost_checkin_seconds_bucket{le="0.0025"} 6
samehost_checkin_seconds_bucket{le="0.005"} 6
samehost_checkin_seconds_bucket{le="0.01"} 6
samehost_checkin_seconds_bucket{le="0.025"} 7
samehost_checkin_seconds_bucket{le="0.05"} 7
samehost_checkin_seconds_bucket{le="0.1"} 7
samehost_checkin_seconds_bucket{le="0.25"} 7
samehost_checkin_seconds_bucket{le="0.5"} 7
samehost_checkin_seconds_bucket{le="1"} 7
samehost_checkin_seconds_bucket{le="2.5"} 7
samehost_checkin_seconds_bucket{le="5"} 7
samehost_checkin_seconds_bucket{le="10"} 7
samehost_checkin_seconds_bucket{le="+Inf"} 8
samehost_checkin_seconds_sum 60.021
samehost_checkin_seconds_count 8
# HELP samehost_checkins_under_way Check-ins that wait for their answer.
# TYPE samehost_checkins_under_way gauge
samehost_checkins_under_way 0
# HELP samehost_checkins_sent_away_seconds How far ahead clients that were sent away are told to come back; 0: nobody is.
# TYPE samehost_checkins_sent_away_seconds gauge
samehost_checkins_sent_away_seconds 0
`
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("figures (-want +got):\n%s", diff)
		}

		w := serve(t, Options{MaxConnections: 7})
		c := w.mustDial()
		c.get(t, "x")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		b.Reset()
		w.WriteFigures(&b)
		for _, line := range []string{
			`samehost_connections{state="handshake"} 0`, `samehost_connections{state="in use"} 0`, `samehost_connections{state="waiting"} 1`,
			"samehost_connections_limit 7", "samehost_connections_total 1", `samehost_tls_handshakes_total{kind="full"} 1`,
		} {
			if !strings.Contains(b.String(), "\n"+line+"\n") {
				t.Errorf("%q is missing in\n%s", line, b.String())
			}
		}
		for line := range strings.Lines(b.String()) {
			if !strings.HasPrefix(line, "# HELP samehost_") && !strings.HasPrefix(line, "# TYPE samehost_") {
				var value float64
				name, number, _ := strings.Cut(strings.TrimSpace(line), "} ")
				if number == "" {
					name, number, _ = strings.Cut(name, " ")
				}
				if n, err := fmt.Sscan(number, &value); n != 1 || err != nil || !strings.HasPrefix(name, "samehost_") {
					t.Errorf("no figure: %q", line)
				}
			}
		}
		c.Close()
		w.stop()
	})
}

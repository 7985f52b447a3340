// Package relay runs the real client, real relays and the real registry in one process, and puts relays between them
// that do what they should not. What each of them comes to is told at its test: harmless, the manager knows as much as
// without it; or detected, somebody can see that something is wrong.
package relay

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
	"samehost/internal/relay"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var managerKey = ed25519.NewKeyFromSeed([]byte("the key of the manager, 32 bytes"))

// world is a manager and what is between it and its clients.
type world struct {
	t     *testing.T
	reg   *registry.Registry
	token checkin.EnrolmentToken
	n     int

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC)}
	reg, err := registry.Create(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "samehost.db"), registry.Options{Key: managerKey, Now: w.clock})
	must(t, err)
	t.Cleanup(func() { reg.Close() })
	w.reg = reg
	w.token, err = reg.CreateToken(t.Context(), time.Time{}, "", "")
	must(t, err)
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// since is the clock of PCs that never sleep.
func (w *world) since() time.Duration {
	return w.clock().Sub(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
}

// serve puts a higher system behind HTTPS, as clients see it.
func (w *world) serve(h checkin.HigherSystem) (url string, roots *x509.CertPool) {
	s := httptest.NewTLSServer(checkin.Handler(h, slog.New(slog.DiscardHandler)))
	w.t.Cleanup(s.Close)
	roots = x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.URL, roots
}

// client is a PC that reports to a higher system.
type client struct {
	*agent.Agent
	w *world
}

func (w *world) client(h checkin.HigherSystem) *client {
	w.t.Helper()
	url, roots := w.serve(h)
	dir := w.t.TempDir()
	token := filepath.Join(dir, "token")
	must(w.t, os.WriteFile(token, []byte(w.token.Text()), 0o600))
	w.n++
	serial := fmt.Sprintf("PC%04d", w.n)
	a, err := agent.Open(agent.Options{
		DataDir: filepath.Join(dir, "data"), HigherSystem: url, TokenFile: token, Version: "test",
		Connect: func(manager checkin.Fingerprint, now func() time.Time) (checkin.HigherSystem, error) {
			return checkin.NewClient(checkin.ClientOptions{URL: url, RootCAs: roots, Manager: manager, Now: time.Now})
		},
		Hardware: func(context.Context) (hardware.Facts, error) {
			return hardware.Facts{SystemUUID: fmt.Sprintf("4c4c4544-0031-4a10-8042-%012d", w.n), SystemSerial: "S" + serial, BoardSerial: "B" + serial, ChassisSerial: "C" + serial,
				Disks: []hardware.Disk{{Serial: "D" + serial, System: true}}}, nil
		},
		Clock: agent.Clock{Wall: w.clock, Awake: w.since, Boot: w.since},
	})
	must(w.t, err)
	w.t.Cleanup(func() { a.Close() })
	return &client{a, w}
}

func (c *client) checkIn() agent.Outcome {
	c.w.t.Helper()
	out, err := c.CheckIn(c.w.t.Context())
	must(c.w.t, err)
	c.w.pass(time.Minute)
	return out
}

// accepted checks in and wants the manager's own reply.
func (c *client) accepted() hostid.ID {
	c.w.t.Helper()
	out := c.checkIn()
	if !out.CheckedIn || out.Reply != checkin.Accepted || !out.Enrolled {
		c.w.t.Fatalf("%+v; want accepted", out)
	}
	return out.HostID
}

// events counts what was decided, by kind.
func (w *world) events() map[string]int {
	w.t.Helper()
	all, err := w.reg.History(w.t.Context())
	must(w.t, err)
	n := map[string]int{}
	for _, e := range all {
		n[e.Kind]++
	}
	return n
}

// calm wants so many assets, and no doubt about any of them.
func (w *world) calm(assets int) {
	w.t.Helper()
	list, err := w.reg.Assets(w.t.Context())
	must(w.t, err)
	if len(list) != assets {
		w.t.Errorf("%d assets, want %d", len(list), assets)
	}
	conflicts, err := w.reg.Conflicts(w.t.Context())
	must(w.t, err)
	for _, c := range conflicts {
		w.t.Errorf("a conflict: %+v", c)
	}
	for _, kind := range []string{"fork", "overlap", "ordered"} {
		if n := w.events()[kind]; n > 0 {
			w.t.Errorf("%d events of kind %s", n, kind)
		}
	}
}

// bad is a relay that does what a test says with each report. next is where it should have gone.
type bad struct {
	next checkin.HigherSystem
	do   func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error)
}

func (b *bad) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	if b.do == nil {
		return b.next.CheckIn(ctx, r)
	}
	return b.do(ctx, r, b.next)
}

// honest is a real relay.
func (w *world) honest(next checkin.HigherSystem) *relay.Relay {
	w.t.Helper()
	r, err := relay.Open(relay.Options{DataDir: w.t.TempDir(), HostID: hostid.NewID(), Manager: w.token.Manager, Higher: next, Spool: 16 << 20, Wall: w.clock, Awake: w.since})
	must(w.t, err)
	w.t.Cleanup(func() { r.Close() })
	return r
}

// until waits for what other goroutines bring about.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("in vain: " + what)
}

// A relay is a higher system that has a higher system: three of them, one above the other, are as good as none.
func TestRelaysNest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	top := w.honest(w.reg)
	middle := w.honest(top)
	c := w.client(w.honest(middle))
	id := c.accepted()
	for range 5 {
		c.accepted()
	}
	w.calm(1)
	a, err := w.reg.Asset(t.Context(), id)
	must(t, err)
	if a.LastCheckin.IsZero() || w.events()["gap"] > 0 {
		t.Errorf("%+v, events %v", a.Asset, w.events())
	}
}

// Harmless: the same report again is the same report.
func TestReplaysReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var seen []checkin.SignedReport
	c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
		reply, err := next.CheckIn(ctx, r)
		seen = append(seen, r)
		for _, old := range seen {
			for range 2 {
				again, err := next.CheckIn(ctx, old)
				if err != nil {
					t.Errorf("a report again: %v", err)
				}
				if old.JWS == r.JWS && again.Raw != reply.Raw {
					t.Error("the same report got another reply")
				}
			}
		}
		return reply, err
	}})
	for range 6 {
		c.accepted()
	}
	w.calm(1)
	if n := w.events()["gap"]; n > 0 {
		t.Errorf("%d gaps", n)
	}
}

// Harmless: a gap is evidence of nothing, and closes when the report comes that was held back.
func TestReordersReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var held []checkin.SignedReport
	on := false
	c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
		if !on {
			return next.CheckIn(ctx, r)
		}
		held = append(held, r)
		return checkin.Reply{Report: r.Digest(), Status: checkin.Deferred}, nil
	}})
	c.accepted()
	on = true
	for range 4 {
		if out := c.checkIn(); out.Reply != checkin.Deferred {
			t.Fatalf("%+v", out)
		}
	}
	slices.Reverse(held)
	for _, r := range held {
		if _, err := w.reg.CheckIn(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	on = false
	c.accepted()
	w.calm(1)
	if e := w.events(); e["gap"] == 0 || e["gap"] != e["gap-closed"] {
		t.Errorf("%d gaps, %d of them closed", e["gap"], e["gap-closed"])
	}
}

// Detected: the next report follows one that never came, and the manager says so. The PC's status says when it was last
// accepted.
func TestDropsReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	on := false
	c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
		if on { // and invents that it keeps it
			return checkin.Reply{Report: r.Digest(), Status: checkin.Deferred}, nil
		}
		return next.CheckIn(ctx, r)
	}})
	c.accepted()
	on = true
	c.checkIn()
	c.checkIn()
	on = false
	c.accepted()
	w.calm(1)
	if e := w.events(); e["gap"] != 1 || e["gap-closed"] != 0 {
		t.Errorf("%d gaps, %d closed; want one, open", e["gap"], e["gap-closed"])
	}
}

// Detected: who is not enrolled stays so whatever a relay invents, says so, and goes on asking.
func TestInventsDeferredForEnrolment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	liar := &bad{next: w.reg, do: func(_ context.Context, r checkin.SignedReport, _ checkin.HigherSystem) (checkin.Reply, error) {
		return checkin.Reply{Report: r.Digest(), Status: checkin.Deferred}, nil
	}}
	c := w.client(liar)
	for range 3 {
		if out := c.checkIn(); out.Enrolled || out.Reply != checkin.Deferred {
			t.Fatalf("%+v", out)
		}
	}
	w.calm(0)
	liar.do = nil
	c.accepted()
	w.calm(1)
	if n := w.events()["gap"]; n > 0 {
		t.Errorf("%d gaps", n)
	}
}

// Harmless: what comes hours late counts for when it was received; nothing overlaps, nobody is ordered anything.
func TestDelaysReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var held []checkin.SignedReport
	on := false
	c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
		if !on {
			return next.CheckIn(ctx, r)
		}
		held = append(held, r)
		return checkin.Reply{Report: r.Digest(), Status: checkin.Deferred}, nil
	}})
	c.accepted()
	on = true
	for range 3 {
		c.checkIn()
		w.pass(30 * time.Minute)
	}
	for _, r := range held {
		w.pass(20 * time.Minute)
		if _, err := w.reg.CheckIn(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	on = false
	c.accepted()
	w.calm(1)
}

// Harmless: whatever it says about how long and where a report was kept, the manager's word about who is who stands.
func TestInventsHops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i := 0
	lies := [][]checkin.Hop{
		{{Relay: hostid.NewID(), Held: 100 * 24 * time.Hour}},
		{{Relay: hostid.NewID()}, {Relay: hostid.NewID(), Held: 9 * 365 * 24 * time.Hour}},
		{{Relay: hostid.NewID(), Held: 10 * time.Minute, Uncertain: true}},
		nil,
		{{Relay: hostid.NewID(), Held: time.Hour}, {Relay: hostid.NewID(), Held: time.Hour, Uncertain: true}},
	}
	c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
		r.Hops = lies[i%len(lies)]
		i++
		return next.CheckIn(ctx, r)
	}})
	for range 2*len(lies) + 1 {
		c.accepted()
		w.pass(4 * time.Minute)
	}
	w.calm(1)
}

// Detected: a report that was altered at any place is none, at the manager and at an honest relay; the PC is told that its
// report was not understood, and nothing of it is kept.
func TestAltersReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var genuine checkin.SignedReport
	c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
		genuine = r
		return next.CheckIn(ctx, r)
	}})
	c.accepted()
	before := w.events()
	honest := w.honest(w.reg)
	for at := 0; at < len(genuine.JWS); at += 1 + len(genuine.JWS)/97 {
		b := []byte(genuine.JWS)
		b[at] ^= 3
		for name, h := range map[string]checkin.HigherSystem{"manager": w.reg, "relay": honest} {
			_, err := h.CheckIn(t.Context(), checkin.SignedReport{JWS: string(b)})
			var refusal *checkin.Refusal
			if !errors.As(err, &refusal) || refusal.Code != checkin.Malformed {
				t.Fatalf("%s: altered at %d: %v", name, at, err)
			}
		}
	}
	// Signed anew, by a key of the relay's own: not the key that the host ID is bound to, and no token.
	v, err := checkin.Verify(genuine)
	must(t, err)
	forged := v.Report
	forged.Names.Host = "renamed"
	s, err := checkin.Sign(forged, hostid.NewSeed().SigningKey(), nil)
	must(t, err)
	var refusal *checkin.Refusal
	if _, err := w.reg.CheckIn(t.Context(), s); !errors.As(err, &refusal) || refusal.Code != checkin.NeedsEnrolment {
		t.Errorf("forged: %v", err)
	}
	if st := honest.State(); st.Taken != 0 {
		t.Errorf("an honest relay kept %d of them", st.Taken)
	}
	for kind, n := range w.events() {
		if n != before[kind] {
			t.Errorf("%d events of kind %s came of it", n-before[kind], kind)
		}
	}
	w.calm(1)
}

// Detected: the PC goes by no reply that the manager did not sign for this very report.
func TestAltersAndInventsReplies(t *testing.T) {
	t.Parallel()
	own := ed25519.NewKeyFromSeed([]byte("some key that the relay made up."))
	var old checkin.Reply
	for name, lie := range map[string]func(r checkin.SignedReport, reply checkin.Reply) checkin.Reply{
		"altered": func(_ checkin.SignedReport, reply checkin.Reply) checkin.Reply {
			parts := strings.Split(reply.Raw, ".")
			b := []byte(parts[1])
			b[len(b)/2] ^= 1
			reply.Raw = parts[0] + "." + string(b) + "." + parts[2]
			return reply
		},
		"by another key": func(r checkin.SignedReport, reply checkin.Reply) checkin.Reply {
			reply.Interval = time.Second
			forged, err := checkin.SignReply(reply, own)
			must(t, err)
			return forged
		},
		"of another report": func(_ checkin.SignedReport, reply checkin.Reply) checkin.Reply { return old },
		"none":              func(r checkin.SignedReport, reply checkin.Reply) checkin.Reply { return checkin.Reply{Raw: "reply"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			on := false
			c := w.client(&bad{w.reg, func(ctx context.Context, r checkin.SignedReport, next checkin.HigherSystem) (checkin.Reply, error) {
				reply, err := next.CheckIn(ctx, r)
				if on && err == nil {
					return lie(r, reply), nil
				}
				old = reply
				return reply, err
			}})
			c.accepted()
			on = true
			for range 2 {
				if out := c.checkIn(); out.CheckedIn || out.Error == "" {
					t.Fatalf("%+v; want an error", out)
				}
			}
			on = false
			c.accepted() // the very report, with its stored reply, and the next
			w.calm(1)
			if n := w.events()["gap"]; n > 0 {
				t.Errorf("%d gaps", n)
			}
		})
	}
}

// Detected: an honest relay passes no forged reply on: it keeps the report, says so, and goes on asking.
func TestHonestRelayUnderOneThatForges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	forging := &bad{next: w.reg}
	forging.do = func(context.Context, checkin.SignedReport, checkin.HigherSystem) (checkin.Reply, error) {
		return checkin.Reply{}, fmt.Errorf("%w: %w", checkin.ErrUnavailable, checkin.ErrForged)
	}
	r := w.honest(forging)
	c := w.client(r)
	if out := c.checkIn(); out.Enrolled || out.Reply != checkin.Deferred {
		t.Fatalf("%+v", out)
	}
	if st := r.State(); st.Forged == 0 || st.Reports != 1 || !st.Up {
		t.Errorf("%+v", st)
	}
	forging.do = nil
	until(t, "the report goes up", func() bool { return r.State().Reports == 0 })
	c.accepted()
	w.calm(1)
}

// Harmless: refusing what the manager would take keeps a PC from reporting, as pulling the cable does; nothing is lost but
// what the relay was given, and the PC says that it is refused.
func TestInventsRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	liar := &bad{next: w.reg}
	c := w.client(liar)
	id := c.accepted()
	liar.do = func(context.Context, checkin.SignedReport, checkin.HigherSystem) (checkin.Reply, error) {
		return checkin.Reply{}, &checkin.Refusal{Code: checkin.BadToken, Detail: "invented"}
	}
	for range 3 {
		if out := c.checkIn(); out.CheckedIn || !out.Refused || out.HostID != id {
			t.Errorf("%+v", out)
		}
	}
	liar.do = nil
	if c.accepted() != id {
		t.Error("another host ID")
	}
	w.calm(1)
	if n := w.events()["gap"]; n > 0 {
		t.Errorf("%d gaps", n)
	}
}

// The way up is down for hours: everything that was kept arrives, and the asset is what it was.
func TestOfflineForHours(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	way := &bad{next: w.reg}
	r := w.honest(way)
	c := w.client(r)
	c.accepted()
	way.do = func(context.Context, checkin.SignedReport, checkin.HigherSystem) (checkin.Reply, error) {
		return checkin.Reply{}, fmt.Errorf("%w: a cable is out", checkin.ErrUnavailable)
	}
	for range 12 {
		if out := c.checkIn(); out.Reply != checkin.Deferred || !out.Enrolled {
			t.Fatalf("%+v", out)
		}
		w.pass(14 * time.Minute)
	}
	way.do = nil
	until(t, "all go up", func() bool { return r.State().Reports == 0 })
	c.accepted()
	w.calm(1)
	if e := w.events(); e["gap"] != 0 {
		t.Errorf("%d gaps", e["gap"])
	}
}

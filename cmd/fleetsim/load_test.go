package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// A ramp brings half as many check-ins as the same time at the full rate, and goes over into it without a jump.
func TestRamp(t *testing.T) {
	t.Parallel()
	const ramp = 10.0
	if got := unramped(ramp/2, ramp); got != 10*time.Second {
		t.Errorf("half of them are done after %v", got)
	}
	for at, last := 0.0, time.Duration(-1); at < 20; at += 0.01 {
		got := unramped(at, ramp)
		if got <= last {
			t.Fatalf("%v after %v", got, last)
		}
		last = got
		if s := got.Seconds(); s < ramp && math.Abs(s*s/(2*ramp)-at) > 1e-6 || s > ramp && math.Abs(s-ramp/2-at) > 1e-6 {
			t.Fatalf("%v of the full rate is %v", at, s)
		}
	}
	if got := unramped(3, 0); got != 3*time.Second {
		t.Errorf("without a ramp %v", got)
	}
}

// stand is a higher system that answers each report as told: by its number of attempts so far.
type stand struct {
	key   ed25519.PrivateKey
	token checkin.EnrolmentToken

	mu       sync.Mutex
	attempts map[string]int // by report
	chain    map[hostid.ID][]checkin.Report
	answer   func(w http.ResponseWriter, v checkin.VerifiedReport, attempt int) bool // true: it has answered
	reply    func(v checkin.VerifiedReport) checkin.Reply
}

func newStand(t *testing.T) (*stand, *load) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{key: key, attempts: map[string]int{}, chain: map[hostid.ID][]checkin.Report{}}
	s.token = checkin.NewEnrolmentToken(checkin.FingerprintOf(key.Public().(ed25519.PublicKey)))
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	h, err := newHigher(server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, &load{fleet: newFleet(1, 4, s.token), systems: []*higher{h}, connections: 2, use: kept, verify: true, firstRetry: time.Millisecond, drain: 20 * time.Second}
}

func (s *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	v, err := checkin.Verify(checkin.SignedReport{JWS: string(body)})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		w.WriteHeader(500)
		return
	}
	s.attempts[string(body)]++
	if s.answer != nil && s.answer(w, v, s.attempts[string(body)]) {
		return
	}
	reply := checkin.Reply{Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Minute, Time: time.Now().UTC()}
	if s.reply != nil {
		reply = s.reply(v)
	}
	reply, err = checkin.SignReply(reply, s.key)
	if err != nil {
		w.WriteHeader(500)
		return
	}
	s.chain[v.Report.HostID] = append(s.chain[v.Report.HostID], v.Report)
	w.Header().Set("Content-Type", "application/jose")
	io.WriteString(w, reply.Raw)
}

// play enrols and runs for a moment; all is over when it returns.
func play(t *testing.T, l *load, ahead int) (enrolled, loaded *phase) {
	t.Helper()
	l.start(t.Context())
	defer l.end()
	enrolled, err := l.enrol(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.signAhead(ahead, 400); err != nil {
		t.Fatal(err)
	}
	_, loaded = l.run(t.Context(), 400, 0, 100*time.Millisecond)
	return enrolled, loaded
}

// What is not answered comes again unchanged, not before Retry-After, and no later report of that client comes before it.
func TestRetriesUnchanged(t *testing.T) {
	t.Parallel()
	s, l := newStand(t)
	told := map[string]time.Time{}
	early := false
	s.answer = func(w http.ResponseWriter, v checkin.VerifiedReport, attempt int) bool {
		id := v.Digest.String()
		switch {
		case v.Report.Counter == 1 && attempt == 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(503)
			told[id] = time.Now()
			return true
		case v.Report.Counter == 1:
			early = early || time.Since(told[id]) < time.Second
		case attempt == 1:
			panic(http.ErrAbortHandler) // cut off
		case attempt == 2:
			io.WriteString(w, "<html>") // something else that answers
			return true
		}
		return false
	}
	enrolled, loaded := play(t, l, 0)
	if enrolled.accepted.Load() != 4 || enrolled.kinds["busy"] != 4 || enrolled.retried.Load() != 4 || early {
		t.Errorf("enrolment: %d accepted, %v, early: %v", enrolled.accepted.Load(), enrolled.kinds, early)
	}
	if n := loaded.accepted.Load(); n == 0 || loaded.unanswered() != 0 || loaded.kinds["HTTP 200"] != n || loaded.kinds["receive"] != n && loaded.kinds["receive"] != 0 {
		t.Errorf("load: %d accepted, %d unanswered, %v", n, loaded.unanswered(), loaded.kinds)
	}
	s.unbroken(t, 4)
}

// unbroken wants the chain of each client whole: each report taken once, naming the one before.
func (s *stand) unbroken(t *testing.T, clients int) {
	t.Helper()
	if len(s.chain) != clients {
		t.Errorf("%d clients, want %d", len(s.chain), clients)
	}
	for id, chain := range s.chain {
		seen := map[checkin.Digest]bool{}
		for i, r := range chain {
			if r.Counter != uint64(i+1) || seen[r.Previous] {
				t.Errorf("%s: report %d has counter %d", id, i+1, r.Counter)
			}
			seen[r.Previous] = true
		}
	}
}

// Deltas go by the last full report; an order for a full one is followed, also when reports were signed ahead.
func TestFullReportOnOrder(t *testing.T) {
	t.Parallel()
	s, l := newStand(t)
	s.reply = func(v checkin.VerifiedReport) checkin.Reply {
		r := checkin.Reply{Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Minute, Time: time.Now().UTC()}
		if v.Report.Counter == 3 {
			r.Orders = []checkin.Order{{ID: "1", Kind: checkin.OrderFullReport, HostID: v.Report.HostID, Epoch: v.Report.Epoch, Run: v.Report.Run}}
		}
		return r
	}
	_, loaded := play(t, l, 40)
	s.unbroken(t, 4)
	if loaded.orders[checkin.OrderFullReport] == 0 {
		t.Error("no order was counted")
	}
	for id, chain := range s.chain {
		for i, r := range chain {
			if full := r.Base == (checkin.Digest{}); full != (i == 0 || i == 3) {
				t.Errorf("%s: report %d full: %v", id, i+1, full)
			}
		}
	}
}

// A relay's "deferred" moves the chain on; a reply by another key does not, and neither does one to another report.
func TestDeferredAndForged(t *testing.T) {
	t.Parallel()
	s, l := newStand(t)
	s.answer = func(w http.ResponseWriter, v checkin.VerifiedReport, attempt int) bool {
		s.chain[v.Report.HostID] = append(s.chain[v.Report.HostID], v.Report)
		w.WriteHeader(202)
		io.WriteString(w, `{"status":"deferred","report":"`+v.Digest.String()+`"}`)
		return true
	}
	enrolled, loaded := play(t, l, 0)
	if enrolled.deferred.Load() != 4 || loaded.deferred.Load() != loaded.offered.Load() || loaded.accepted.Load() != 0 {
		t.Errorf("%d and %d deferred of %d", enrolled.deferred.Load(), loaded.deferred.Load(), loaded.offered.Load())
	}
	s.unbroken(t, 4)

	for name, forge := range map[string]func(*stand){
		"another key": func(s *stand) { _, s.key, _ = ed25519.GenerateKey(nil) },
		"another report": func(s *stand) {
			s.reply = func(v checkin.VerifiedReport) checkin.Reply {
				return checkin.Reply{Report: checkin.Digest{1}, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Minute}
			}
		},
	} {
		for _, verify := range []bool{true, false} {
			if !verify && name == "another key" {
				continue // nobody looks
			}
			s, l := newStand(t)
			forge(s)
			l.verify, l.drain = verify, 50*time.Millisecond
			l.start(t.Context())
			p, err := l.enrol(t.Context())
			l.end()
			if err == nil || !strings.Contains(err.Error(), "bad reply") || p.accepted.Load() != 0 || p.bad.Load() == 0 {
				t.Errorf("%s, verified: %v: %v; %d accepted", name, verify, err, p.accepted.Load())
			}
		}
	}
}

// Refused reports never happened: the next one takes their place.
func TestRefused(t *testing.T) {
	t.Parallel()
	s, l := newStand(t)
	s.answer = func(w http.ResponseWriter, v checkin.VerifiedReport, attempt int) bool {
		if v.Report.Counter == 2 && s.attempts["refusals"] < 4 {
			s.attempts["refusals"]++
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(400)
			io.WriteString(w, `{"type":"urn:samehost:problem:malformed","detail":"\u001b[2J"}`)
			return true
		}
		return false
	}
	_, loaded := play(t, l, 40)
	if loaded.refused.Load() != 4 || loaded.kinds["refused: malformed"] != 4 || loaded.unanswered() != 0 || strings.ContainsRune(loaded.example, 0x1b) {
		t.Errorf("%d refused, %v, %q", loaded.refused.Load(), loaded.kinds, loaded.example)
	}
	s.unbroken(t, 4)
}

// A list of placeholders is named in the reports after it.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	s, l := newStand(t)
	s.reply = func(v checkin.VerifiedReport) checkin.Reply {
		r := checkin.Reply{Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Minute, Time: time.Now().UTC()}
		if v.Report.Placeholders == "" {
			r.Placeholders = "serial SN-0000*\n"
		}
		return r
	}
	play(t, l, 40)
	s.unbroken(t, 4)
	for id, chain := range s.chain {
		if len(chain) < 2 || chain[len(chain)-1].Placeholders == "" {
			t.Errorf("%s does not name the list in its last of %d reports", id, len(chain))
		}
	}
}

// Whoever stops it gets what was counted so far.
func TestStopped(t *testing.T) {
	t.Parallel()
	_, l := newStand(t)
	ctx, cancel := context.WithCancel(t.Context())
	l.start(ctx)
	if _, err := l.enrol(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, p := l.run(ctx, 100, 0, time.Hour)
	l.end()
	if p.offered.Load() != p.accepted.Load()+p.unanswered() {
		t.Errorf("%d offered, %d accepted, %d unanswered", p.offered.Load(), p.accepted.Load(), p.unanswered())
	}
	if _, err := l.enrol(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

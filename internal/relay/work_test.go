package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// workManager hands out work and takes progress, as a manager does.
type workManager struct {
	server *httptest.Server
	mu     sync.Mutex
	open   map[string]string // work by ID, as signed
	got    []checkin.Progress
	down   bool
	gone   map[string]bool // called off
	asked  int             // for work
	slow   time.Duration   // until it answers who asks for work

	ordered bool // progress with a gap before it is not taken
}

func newWorkManager(t *testing.T, who hostid.ID) *workManager {
	t.Helper()
	m := &workManager{open: map[string]string{}, gone: map[string]bool{}}
	m.server = httptest.NewTLSServer(checkin.RelayHandler(newAbove(), checkin.ForRelays{
		Who: func(*http.Request) (hostid.ID, error) { return who, nil },
		Work: func(ctx context.Context, _ hostid.ID, q checkin.WorkQuery) (checkin.WorkAnswer, error) {
			m.mu.Lock()
			m.asked++
			slow := m.slow
			m.mu.Unlock()
			time.Sleep(slow)
			for {
				m.mu.Lock()
				a := checkin.WorkAnswer{Work: []string{}}
				for id, jws := range m.open {
					w, err := checkin.VerifyWork(jws, fingerprint)
					if err == nil && slices.Contains(q.Relays, w.To) && !slices.Contains(q.Have, id) {
						a.Work = append(a.Work, jws)
					}
				}
				m.mu.Unlock()
				if len(a.Work) > 0 {
					return a, nil
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
					return a, nil
				}
			}
		},
		Progress: func(_ context.Context, _ hostid.ID, jws string) error {
			p, _, err := checkin.VerifyProgress(jws)
			if err != nil {
				return err
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.down {
				return errors.New("down")
			}
			if m.gone[p.Work] {
				return &checkin.Refusal{Code: checkin.UnknownWork, Detail: "called off"}
			}
			if m.ordered && p.Sequence > uint64(len(m.got))+1 {
				return &checkin.Busy{After: time.Second, Reason: "with a gap"}
			}
			if !slices.ContainsFunc(m.got, func(g checkin.Progress) bool { return g.Work == p.Work && g.Sequence == p.Sequence }) {
				m.got = append(m.got, p)
			}
			if p.Done {
				delete(m.open, p.Work)
			}
			return nil
		},
	}, slog.New(slog.DiscardHandler)))
	t.Cleanup(m.server.Close)
	return m
}

func (m *workManager) post(t *testing.T, id, kind string, to hostid.ID) {
	t.Helper()
	jws, err := checkin.SignWork(checkin.Work{ID: id, To: to, Kind: kind, Made: time.Now(), Body: json.RawMessage(`{"n":3}`)}, managerKey)
	must(t, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[id] = jws
}

func (m *workManager) set(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// said is what was said of a work, in the order in which it was taken.
func (m *workManager) said(id string) (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.got {
		if p.Work == id {
			list = append(list, fmt.Sprintf("%d %s %v", p.Sequence, p.Body, p.Done))
		}
	}
	return list
}

func (m *workManager) client(t *testing.T) *checkin.RelayClient {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(m.server.Certificate())
	c, err := checkin.NewRelayClient(checkin.ClientOptions{URL: m.server.URL, RootCAs: roots, Manager: fingerprint, Certificate: func() (*tls.Certificate, error) { return nil, nil }})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 6000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("in vain: " + what)
}

// running is a relay's work, as Serve runs it.
func running(t *testing.T, dir string, who identity, m *workManager, do map[string]Do) (w *works, stop func()) {
	t.Helper()
	w, err := openWorks(dir, who, m.client(t), do, quiet())
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.run(ctx); close(done) }()
	return w, func() { cancel(); <-done }
}

func newIdentity() identity {
	return identity{hostid.Record{HostID: hostid.NewID(), Seed: hostid.NewSeed()}, fingerprint}
}

// Work is begun again by a relay that ended in the middle of it, and what it said before is not said again.
func TestWorkIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	who, dir := newIdentity(), t.TempDir()
	m := newWorkManager(t, who.record.HostID)
	calls := make(chan int, 10)
	var done int // what the work itself remembers
	do := map[string]Do{"count": func(ctx context.Context, w checkin.Work, _ <-chan struct{}, report func(json.RawMessage, bool) error) error {
		if done == 0 {
			m.set(true) // what is said is not taken meanwhile
		}
		calls <- done
		for done < 3 {
			done++
			if err := report(json.RawMessage(fmt.Sprintf(`{"done":%d}`, done)), done == 3); err != nil {
				return err
			}
			if done == 1 {
				<-ctx.Done() // the relay is ended here
				return ctx.Err()
			}
		}
		return nil
	}}
	m.post(t, "w-1", "count", who.record.HostID)
	w, stop := running(t, dir, who, m, do)
	<-calls
	eventually(t, "the first progress is durable", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.own["w-1"] != nil && w.own["w-1"].said == 2 // after that it begins
	})
	stop()
	m.set(false)
	w, stop = running(t, dir, who, m, do)
	defer stop()
	if got := <-calls; got != 1 {
		t.Errorf("begun again with %d done", got)
	}
	eventually(t, "the work is done", func() bool { open, _ := w.state(); return open == 0 && len(m.said("w-1")) == 4 })
	if got, want := m.said("w-1"), []string{`1 {} false`, `2 {"done":1} false`, `3 {"done":2} false`, `4 {"done":3} true`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(calls) > 0 {
		t.Error("begun once more")
	}
}

func TestWorkOfAnUnknownKindOrCalledOff(t *testing.T) {
	t.Parallel()
	who := newIdentity()
	m := newWorkManager(t, who.record.HostID)
	ended := make(chan struct{})
	w, stop := running(t, t.TempDir(), who, m, map[string]Do{"long": func(ctx context.Context, _ checkin.Work, off <-chan struct{}, report func(json.RawMessage, bool) error) error {
		for ctx.Err() == nil {
			if err := report(json.RawMessage(`{}`), false); errors.Is(err, ErrCalledOff) {
				break
			} else if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
		<-off
		close(ended)
		return ErrCalledOff
	}})
	defer stop()
	m.post(t, "w-1", "paint", who.record.HostID)
	eventually(t, "it is said that nobody can do that", func() bool { return slices.Equal(m.said("w-1"), []string{`1 {"error":"unknown-kind"} true`}) })
	m.post(t, "w-2", "long", who.record.HostID)
	eventually(t, "it is begun", func() bool { return len(m.said("w-2")) > 0 })
	m.mu.Lock()
	m.gone["w-2"] = true
	delete(m.open, "w-2")
	m.mu.Unlock()
	<-ended
	eventually(t, "nothing is left", func() bool { open, _ := w.state(); return open == 0 })
}

// Work that this relay cannot take is asked for again at leisure, and not as fast as it is given.
func TestWorkThatCannotBeKept(t *testing.T) {
	t.Parallel()
	who, dir := newIdentity(), t.TempDir()
	m := newWorkManager(t, who.record.HostID)
	begun := make(chan struct{}, 1)
	w, stop := running(t, dir, who, m, map[string]Do{"test": func(_ context.Context, _ checkin.Work, _ <-chan struct{}, report func(json.RawMessage, bool) error) error {
		begun <- struct{}{}
		return report(nil, true)
	}})
	defer stop()
	inTheWay := filepath.Join(w.path("w", workSuffix), "a file")
	must(t, os.MkdirAll(inTheWay, 0o700))
	m.post(t, "w", "test", who.record.HostID)
	time.Sleep(400 * time.Millisecond) // on a slow machine it is asked less often still
	m.mu.Lock()
	asked := m.asked
	m.mu.Unlock()
	if asked > 5 || len(begun) > 0 {
		t.Errorf("asked %d times", asked)
	}
	must(t, os.RemoveAll(filepath.Dir(inTheWay)))
	<-begun
	eventually(t, "nothing is left", func() bool { open, _ := w.state(); return open == 0 })
}

// Work for a relay below passes through, as the manager signed it; what another signed goes nowhere.
func TestWorkPassesThrough(t *testing.T) {
	t.Parallel()
	upper, lower := newIdentity(), newIdentity()
	m := newWorkManager(t, upper.record.HostID)
	forged, err := checkin.SignWork(checkin.Work{ID: "forged", To: upper.record.HostID, Kind: "long", Made: time.Now(), Body: json.RawMessage(`{}`)}, lower.record.Seed.SigningKey())
	must(t, err)
	w, stop := running(t, t.TempDir(), upper, m, nil)
	defer stop()
	w.take(t.Context(), &sync.WaitGroup{}, checkin.WorkAnswer{Work: []string{forged}})
	if open, _ := w.state(); open != 0 {
		t.Error("forged work was taken")
	}
	m.post(t, "w-1", "long", lower.record.HostID)
	a, err := w.forBelow(t.Context(), lower.record.HostID, checkin.WorkQuery{Relays: []hostid.ID{lower.record.HostID}})
	must(t, err)
	m.mu.Lock()
	want := m.open["w-1"]
	m.mu.Unlock()
	if len(a.Work) != 1 || a.Work[0] != want {
		t.Errorf("%+v", a)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a, err = w.forBelow(short, lower.record.HostID, checkin.WorkQuery{Relays: []hostid.ID{lower.record.HostID}, Have: []string{"w-1"}})
	if err != nil || len(a.Work) > 0 {
		t.Errorf("it has that: %+v, %v", a, err)
	}
	var busy *checkin.Busy
	if _, err := w.forBelow(t.Context(), lower.record.HostID, checkin.WorkQuery{Relays: []hostid.ID{lower.record.HostID, upper.record.HostID}}); !errors.As(err, &busy) {
		t.Errorf("in a circle: %v", err)
	}
	// Who is no relay any more is told so, and its batches are refused.
	w.take(t.Context(), &sync.WaitGroup{}, checkin.WorkAnswer{Revoked: []hostid.ID{lower.record.HostID}})
	a, err = w.forBelow(t.Context(), lower.record.HostID, checkin.WorkQuery{Relays: []hostid.ID{lower.record.HostID}})
	if err != nil || len(a.Revoked) != 1 || !w.isRevoked(lower.record.HostID) {
		t.Errorf("%+v, %v", a, err)
	}
}

// One relay below that names relays and work without end is in nobody's way but its own.
func TestRelayBelowThatSaysTooMuch(t *testing.T) {
	t.Parallel()
	w, err := openWorks(t.TempDir(), newIdentity(), nil, nil, quiet())
	must(t, err)
	now, cancel := context.WithCancel(t.Context())
	cancel()
	bad, good, under := hostid.NewID(), hostid.NewID(), hostid.NewID()
	posted := func(id string, to hostid.ID) string {
		jws, err := checkin.SignWork(checkin.Work{ID: id, To: to, Kind: "long", Made: time.Now(), Body: json.RawMessage(`{}`)}, managerKey)
		must(t, err)
		return jws
	}
	flood := checkin.WorkQuery{Relays: []hostid.ID{bad}}
	for range maxBelow - 1 {
		flood.Relays = append(flood.Relays, hostid.NewID())
	}
	for n := range 64_000 {
		flood.Have = append(flood.Have, fmt.Sprintf("%064d", n))
	}
	_, err = w.forBelow(now, bad, flood)
	must(t, err)
	its := checkin.WorkQuery{Relays: []hostid.ID{good, under}, Have: []string{"w-1"}}
	_, err = w.forBelow(now, good, its)
	must(t, err)
	w.take(t.Context(), &sync.WaitGroup{}, checkin.WorkAnswer{Work: []string{posted("w-1", under), posted("w-2", under)}})
	a, err := w.forBelow(now, good, its)
	if err != nil || len(a.Work) != 1 {
		t.Errorf("it has one of them already: %q, %v", a.Work, err)
	}
	_, err = w.forBelow(now, bad, flood)
	var busy *checkin.Busy
	if err != nil && !errors.As(err, &busy) {
		t.Error(err)
	}
	w.mu.Lock()
	q := w.question()
	w.mu.Unlock()
	for _, id := range []hostid.ID{good, under} {
		if !slices.Contains(q.Relays, id) {
			t.Error("a relay is not asked for")
		}
	}
	b, err := json.Marshal(q)
	must(t, err)
	if len(q.Relays) > 1000 || !slices.Equal(q.Have, []string{"w-1", "w-2"}) || len(b) > 4<<20 {
		t.Errorf("%d relays and %d works in %d bytes: nobody takes that", len(q.Relays), len(q.Have), len(b))
	}

	// What is said to be no relay is remembered for as long as it counts.
	w.revoked[bad] = time.Now().Add(-revokedFor)
	w.take(t.Context(), &sync.WaitGroup{}, checkin.WorkAnswer{Revoked: []hostid.ID{good}})
	if len(w.revoked) != 1 || !w.isRevoked(good) {
		t.Errorf("%d are remembered", len(w.revoked))
	}
}

// A relay below neither gets the work of those beside it and below them, nor says for them that they have it.
func TestRelayBelowThatSpeaksForOthers(t *testing.T) {
	t.Parallel()
	w, err := openWorks(t.TempDir(), newIdentity(), nil, nil, quiet())
	must(t, err)
	now, cancel := context.WithCancel(t.Context())
	cancel()
	bad, good, under := hostid.NewID(), hostid.NewID(), hostid.NewID()
	its, lies := checkin.WorkQuery{Relays: []hostid.ID{good, under}}, checkin.WorkQuery{Relays: []hostid.ID{bad, good, under}}
	_, err = w.forBelow(now, bad, checkin.WorkQuery{Relays: []hostid.ID{bad, good}}) // before that one has asked
	must(t, err)
	_, err = w.forBelow(now, good, its)
	must(t, err)
	answer := checkin.WorkAnswer{}
	for id, to := range map[string]hostid.ID{"w-1": good, "w-2": under} {
		jws, err := checkin.SignWork(checkin.Work{ID: id, To: to, Kind: "long", Made: time.Now(), Body: json.RawMessage(`{}`)}, managerKey)
		must(t, err)
		answer.Work = append(answer.Work, jws)
	}
	w.take(t.Context(), &sync.WaitGroup{}, answer)
	a, err := w.forBelow(now, bad, lies)
	if err != nil || len(a.Work) > 0 {
		t.Errorf("it gets %q, %v", a.Work, err)
	}
	lies.Have = []string{"w-1", "w-2", "w-3"}
	_, err = w.forBelow(now, bad, lies)
	must(t, err)
	a, err = w.forBelow(now, good, its)
	if err != nil || len(a.Work) != 2 {
		t.Errorf("whose work it is gets %q, %v", a.Work, err)
	}
	its.Have = []string{"w-2", "w-1"}
	_, err = w.forBelow(now, good, its)
	must(t, err)
	w.mu.Lock()
	q := w.question()
	w.mu.Unlock()
	if !slices.Equal(q.Have, []string{"w-1", "w-2"}) || len(w.passing) > 0 {
		t.Errorf("it is said that they have %q; %d wait for them", q.Have, len(w.passing))
	}
}

// A relay below that names other relays and other work all the time does not keep the question for work from being answered.
func TestRelayBelowThatChangesItsMind(t *testing.T) {
	t.Parallel()
	who, bad := newIdentity(), hostid.NewID()
	m := newWorkManager(t, who.record.HostID)
	m.slow = 50 * time.Millisecond // a long way
	begun := make(chan struct{}, 1)
	w, stop := running(t, t.TempDir(), who, m, map[string]Do{"test": func(_ context.Context, _ checkin.Work, _ <-chan struct{}, report func(json.RawMessage, bool) error) error {
		begun <- struct{}{}
		return report(nil, true)
	}})
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range 2000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			w.forBelow(ctx, bad, checkin.WorkQuery{Relays: []hostid.ID{bad, hostid.NewID()}, Have: []string{fmt.Sprint("w-", i)}})
			cancel()
			if i == 100 {
				m.post(t, "w", "test", who.record.HostID)
			}
		}
	}()
	select {
	case <-begun:
	case <-ended:
		t.Error("no work came while a relay below changed its mind")
	}
	<-ended
}

// Work is begun with when the manager has taken that it begins, and not before: one that was called off while this relay could not
// be told is never begun with.
func TestWorkIsAnnounced(t *testing.T) {
	t.Parallel()
	who, dir := newIdentity(), t.TempDir()
	m := newWorkManager(t, who.record.HostID)
	begun := make(chan string, 10)
	again := make(chan struct{})
	do := map[string]Do{"test": func(ctx context.Context, w checkin.Work, _ <-chan struct{}, report func(json.RawMessage, bool) error) error {
		begun <- w.ID
		if w.ID == "w-2" {
			if err := report(json.RawMessage(`{"n":1}`), false); err != nil {
				return err
			}
			<-again
			<-ctx.Done()
			return ctx.Err()
		}
		return report(nil, true)
	}}
	announced := func(w *works, id string) bool { // what is said is on the disk, and the manager has taken nothing
		w.mu.Lock()
		defer w.mu.Unlock()
		o := w.own[id]
		return o != nil && o.said == 1 && o.sent == 0
	}
	m.set(true)
	m.post(t, "w-1", "test", who.record.HostID)
	w, stop := running(t, dir, who, m, do)
	eventually(t, "it is announced", func() bool { return announced(w, "w-1") })

	// A relay that is ended meanwhile waits again, and announces nothing twice.
	stop()
	w, stop = running(t, dir, who, m, do)
	eventually(t, "it is announced still", func() bool { return announced(w, "w-1") })
	w.mu.Lock()
	o := w.own["w-1"]
	w.mu.Unlock()
	now, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.announce(now, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody has taken it, and it begins: %v", err)
	}
	if len(begun) > 0 {
		t.Fatal("begun before the manager has taken that it begins")
	}

	// Called off meanwhile.
	m.mu.Lock()
	m.gone["w-1"], m.down = true, false
	delete(m.open, "w-1")
	m.mu.Unlock()
	eventually(t, "it is dropped", func() bool { open, _ := w.state(); return open == 0 })
	if err := w.announce(t.Context(), o); !errors.Is(err, ErrCalledOff) {
		t.Errorf("called off, and it begins: %v", err)
	}
	m.post(t, "w-2", "test", who.record.HostID)
	if id := <-begun; id != "w-2" {
		t.Errorf("%s was begun", id)
	}
	if got := m.said("w-2"); len(got) == 0 || got[0] != "1 {} false" {
		t.Errorf("%q was taken when it began", got)
	}
	eventually(t, "it says more", func() bool { return len(m.said("w-2")) == 2 })
	close(again)
	stop()

	// Once begun it needs no way up to go on.
	m.set(true)
	_, stop = running(t, dir, who, m, do)
	defer stop()
	if id := <-begun; id != "w-2" {
		t.Errorf("%s was begun", id)
	}
	left, err := filepath.Glob(filepath.Join(dir, workFolder, "w-1*"))
	must(t, err)
	left = slices.DeleteFunc(left, isEnded)
	if len(left) > 0 {
		t.Errorf("left of what was called off: %q", left)
	}
}

// Work that has ended is not done again, whoever offers it again: right after its end it is not asked for, and after a restart all that
// was said of it is said once more, for a manager whose database was put back.
func TestWorkThatHasEndedIsOfferedAgain(t *testing.T) {
	t.Parallel()
	who, dir := newIdentity(), t.TempDir()
	m := newWorkManager(t, who.record.HostID)
	var calls atomic.Int64
	do := map[string]Do{"count": func(_ context.Context, _ checkin.Work, _ <-chan struct{}, report func(json.RawMessage, bool) error) error {
		calls.Add(1)
		return errors.Join(report(json.RawMessage(`{"n":1}`), false), report(json.RawMessage(`{"n":2}`), true))
	}}
	m.post(t, "w-1", "count", who.record.HostID)
	m.mu.Lock()
	jws := m.open["w-1"]
	m.mu.Unlock()
	offer := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.got, m.open["w-1"] = nil, jws // as a backup has it
	}
	over := func(w *works) func() bool {
		return func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			open, _ := w.state()
			return open == 0 && m.open["w-1"] == ""
		}
	}
	want := []string{`1 {} false`, `2 {"n":1} false`, `3 {"n":2} true`}
	w, stop := running(t, dir, who, m, do)
	eventually(t, "it is done", over(w))
	eventually(t, "the relay says that it has it", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Contains(w.question().Have, "w-1")
	})
	offer()
	m.mu.Lock()
	asked := m.asked
	m.mu.Unlock()
	m.post(t, "w-2", "count", who.record.HostID)
	eventually(t, "another one is done", func() bool { return len(m.said("w-2")) == 3 })
	m.mu.Lock()
	if m.asked-asked > 4 {
		t.Errorf("asked %d times for what it does not take", m.asked-asked)
	}
	m.mu.Unlock()
	if got := m.said("w-1"); got != nil {
		t.Errorf("said again at once: %q", got)
	}
	stop()
	for range 2 {
		offer()
		w, stop = running(t, dir, who, m, do)
		eventually(t, "it has ended once more", over(w))
		if got := m.said("w-1"); !slices.Equal(got, want) {
			t.Errorf("said again: %q, want %q", got, want)
		}
		stop()
	}
	// The relay was ended while it removed the work.
	offer()
	must(t, os.WriteFile(filepath.Join(dir, workFolder, "w-1"+workSuffix), []byte(jws), 0o600))
	w, stop = running(t, dir, who, m, do)
	eventually(t, "it has ended for good", over(w))
	if got := m.said("w-1"); !slices.Equal(got, want) {
		t.Errorf("said again: %q, want %q", got, want)
	}
	stop()
	if n := calls.Load(); n != 2 {
		t.Errorf("two works were done %d times", n)
	}
	// What was said is kept within bounds.
	now := time.Now()
	for i := range maxEnded + 5 {
		path := filepath.Join(dir, workFolder, fmt.Sprintf("x-%d%s", i, endedSuffix))
		must(t, os.WriteFile(path, nil, 0o600))
		at := now.Add(-time.Duration(i+1) * time.Minute)
		must(t, os.Chtimes(path, at, at))
	}
	left := func() int {
		names, err := filepath.Glob(filepath.Join(dir, workFolder, "*"+endedSuffix))
		must(t, err)
		return len(names)
	}
	must(t, w.trimEnded(now))
	if n := left(); n != maxEnded {
		t.Errorf("%d are kept", n)
	}
	must(t, w.trimEnded(now.Add(keepEnded+time.Minute)))
	if n := left(); n != 0 {
		t.Errorf("%d are kept for ever", n)
	}
}

// A manager whose database was put back in the middle of work lacks what it had taken: the relay says all of it once more, and the work
// goes on by itself.
func TestProgressThatTheManagerLost(t *testing.T) {
	t.Parallel()
	who := newIdentity()
	m := newWorkManager(t, who.record.HostID)
	m.ordered = true
	goOn, lost := make(chan struct{}), make(chan struct{})
	w, stop := running(t, t.TempDir(), who, m, map[string]Do{"count": func(_ context.Context, _ checkin.Work, _ <-chan struct{}, report func(json.RawMessage, bool) error) error {
		for n := range 3 {
			if err := report(json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)), false); err != nil {
				return err
			}
		}
		close(goOn)
		<-lost
		return report(json.RawMessage(`{"n":3}`), true)
	}})
	defer stop()
	m.post(t, "w-1", "count", who.record.HostID)
	<-goOn
	eventually(t, "all is taken", func() bool { return len(m.said("w-1")) == 4 })
	m.mu.Lock()
	m.got = m.got[:2]
	m.mu.Unlock()
	close(lost)
	eventually(t, "the work ends", func() bool { open, _ := w.state(); return open == 0 })
	if got, want := m.said("w-1"), []string{`1 {} false`, `2 {"n":0} false`, `3 {"n":1} false`, `4 {"n":2} false`, `5 {"n":3} true`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// isEnded tells a file with what was said of work that has ended.
func isEnded(path string) bool { return strings.HasSuffix(path, endedSuffix) }

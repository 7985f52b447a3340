package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// serve runs an agent as the service does, until the test ends or stop is called.
func (pc *testPC) serve(t *testing.T) (stop func()) {
	t.Helper()
	a := pc.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// A service whose folder was replaced leaves the next one's way to be asked alone.
func TestControlOfAnotherServiceStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var controls []*control
	for range 2 {
		c, err := serveControl(t.Context(), dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		controls = append(controls, c)
	}
	controls[0].Close()
	if !Serving(t.Context(), dir) {
		t.Error("the second service cannot be asked after the first ended")
	}
	controls[1].Close()
	if _, err := os.Stat(filepath.Join(dir, controlName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", controlName, err)
	}
}

// receive waits for the manager to accept a report.
func (m *testManager) receive(t *testing.T) {
	t.Helper()
	select {
	case <-m.accepted:
	case <-time.After(30 * time.Second):
		t.Fatal("no report within 30 s")
	}
}

func TestServiceChecksInAtOnceAndAtTheInterval(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.interval = time.Second // the shortest there is
	pc := newPC(t, m)
	start := time.Now()
	pc.awake = 0
	a := pc.options()
	a.Clock.Awake = func() time.Duration { return time.Since(start) }
	a.Clock.Boot = a.Clock.Awake
	agent, err := Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	for range 3 {
		m.receive(t)
	}
	if passed := time.Since(start); passed < 1800*time.Millisecond {
		t.Errorf("three check-ins within %s at an interval of 1 s ± 10 %%", passed)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	m.checkChains(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.reports {
		if v.Report.Run != m.reports[0].Report.Run {
			t.Error("a service has one run from its start to its end")
		}
	}
}

func TestServiceIsAskedToCheckIn(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	if _, err := RequestCheckIn(t.Context(), pc.dir); !errors.Is(err, ErrNoService) {
		t.Errorf("without a service: %v, want ErrNoService", err)
	}
	if Serving(t.Context(), pc.dir) {
		t.Error("serving without a service")
	}
	stop := pc.serve(t)
	m.receive(t)
	if !Serving(t.Context(), pc.dir) {
		t.Error("not serving with a service")
	}
	if _, err := request(t.Context(), pc.dir, "dance"); err == nil || errors.Is(err, ErrNoService) {
		t.Errorf("an unknown question: %v, want the service's own error", err)
	}
	out, err := RequestCheckIn(t.Context(), pc.dir)
	if err != nil {
		t.Fatal(err)
	}
	m.receive(t)
	if !out.CheckedIn || out.HostID != m.last(t).HostID || len(out.Stores) != 1 || out.Stores[0].State != hostid.Stored {
		t.Errorf("outcome %+v", out)
	}
	m.mu.Lock()
	if m.reports[0].Report.Run != m.reports[1].Report.Run || len(m.reports) != 2 {
		t.Errorf("%d reports; want two in the service's run", len(m.reports))
	}
	m.mu.Unlock()
	stop()
	if got := pc.files(t, controlName); len(got) != 0 {
		t.Errorf("%q is left after the service ended", got)
	}
	if _, err := RequestCheckIn(t.Context(), pc.dir); !errors.Is(err, ErrNoService) {
		t.Errorf("after the service: %v, want ErrNoService", err)
	}
}

func TestServiceAnswersNobodyElse(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.serve(t)
	m.receive(t)
	b, err := os.ReadFile(filepath.Join(pc.dir, controlName))
	if err != nil {
		t.Fatal(err)
	}
	var at controlFile
	if err := json.Unmarshal(b, &at); err != nil {
		t.Fatal(err)
	}
	guess := controlMessage{Nonce: "n", Ask: askCheckIn}
	guess.MAC = guess.sum("ask", make([]byte, 32))
	wrong, _ := json.Marshal(guess)
	for name, question := range map[string]string{
		"no secret":    `{"nonce":"n","ask":"checkin","mac":""}`,
		"wrong secret": string(wrong),
		"no question":  "GET / HTTP/1.1\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", at.Address)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, question)
		answer, err := io.ReadAll(conn)
		if len(answer) != 0 {
			t.Errorf("%s: answered %q", name, answer)
		}
		var reset *net.OpError
		if err != nil && !errors.As(err, &reset) {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reports) != 1 {
		t.Errorf("%d reports, want the service's own first one only", len(m.reports))
	}
}

// Something else sits at the port that a killed service left in its file: it is not believed.
func TestImpostorIsNotBelieved(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var ask controlMessage
			json.NewDecoder(conn).Decode(&ask)
			reply := controlMessage{Nonce: ask.Nonce, Outcome: &Outcome{HostID: hostid.NewID(), CheckedIn: true}, MAC: ask.MAC}
			json.NewEncoder(conn).Encode(reply)
			conn.Close()
		}
	}()
	dir := t.TempDir()
	write := func(address, secret string) {
		b, _ := json.Marshal(controlFile{address, secret})
		if err := os.WriteFile(filepath.Join(dir, controlName), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret := strings.Repeat("ab", 32)
	for _, test := range []struct{ address, secret, want string }{
		{l.Addr().String(), secret, "something else answers"},
		{"192.0.2.1:80", secret, "damaged"},
		{"localhost:80", secret, "damaged"},
		{l.Addr().String(), "ab", "damaged"},
	} {
		write(test.address, test.secret)
		_, err := RequestCheckIn(t.Context(), dir)
		if !errors.Is(err, ErrNoService) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want ErrNoService with %q", test.address, err, test.want)
		}
	}
}

// A check-in that fails is told as it is, through the service too.
func TestServiceTellsItsErrors(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.serve(t)
	m.receive(t)
	m.set(func() { m.judge = func(checkin.VerifiedReport) error { return refuse(checkin.Malformed) } })
	out, err := RequestCheckIn(t.Context(), pc.dir)
	if err != nil || out.CheckedIn || !out.Refused || !strings.Contains(out.Error, "malformed") {
		t.Errorf("%+v, %v; want a refusal", out, err)
	}
	if err := os.WriteFile(filepath.Join(pc.dir, hostid.FileName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// An unreadable file is restored from memory; a folder in its place is beyond the client.
	if err := os.Remove(filepath.Join(pc.dir, hostid.FileName)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(pc.dir, hostid.FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := RequestCheckIn(t.Context(), pc.dir); err == nil || errors.Is(err, ErrNoService) {
		t.Errorf("%v, want the service's own error", err)
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		interval time.Duration
		failures int
		want     time.Duration
	}{
		{5 * time.Minute, 1, 10 * time.Second},
		{5 * time.Minute, 2, 20 * time.Second},
		{5 * time.Minute, 5, 160 * time.Second},
		{5 * time.Minute, 6, 5 * time.Minute},
		{5 * time.Minute, 1 << 30, 5 * time.Minute},
		{time.Second, 1, time.Second},
		{24 * time.Hour, 1, 10 * time.Second},
		{24 * time.Hour, 100, 15 * time.Minute},
	} {
		if got := delay(test.interval, test.failures); got != test.want {
			t.Errorf("delay(%s, %d) = %s, want %s", test.interval, test.failures, got, test.want)
		}
	}
	for _, test := range []struct {
		name              string
		draw              func() time.Duration
		least, most, wide time.Duration
	}{
		{"interval", func() time.Duration { return jitter(100 * time.Second) }, 90 * time.Second, 110 * time.Second, 10 * time.Second},
		{"failures", func() time.Duration { return fullJitter(time.Hour, 5) }, time.Second, 160 * time.Second, 120 * time.Second},
	} {
		low, high := time.Hour, time.Duration(0)
		for range 1000 {
			d := test.draw()
			low, high = min(low, d), max(high, d)
		}
		if low < test.least || high > test.most || high-low < test.wide {
			t.Errorf("%s: from %s to %s, want %s to %s", test.name, low, high, test.least, test.most)
		}
	}
}

// due fails unless the next check-in is due within these bounds.
func due(t *testing.T, a *Agent, what string, least, most time.Duration) {
	t.Helper()
	if left := a.left(); left < least || left > most {
		t.Errorf("%s: due in %s, want %s to %s", what, left, least, most)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.interval = 100 * time.Second
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	m.judge = func(checkin.VerifiedReport) error { return errors.New("away") }
	checkIn(t, a)
	due(t, a, "first failure", minRetry, firstRetry)
	for range 4 {
		checkIn(t, a)
	}
	due(t, a, "fifth failure", minRetry, 16*firstRetry)
	m.judge = func(checkin.VerifiedReport) error { return refuse(checkin.BadToken) }
	checkIn(t, a)
	due(t, a, "refusal", DefaultInterval*9/10, DefaultInterval*11/10)
	m.judge = nil
	checkIn(t, a)
	due(t, a, "success", 90*time.Second, 110*time.Second)
	m.interval = 1000 * time.Hour
	checkIn(t, a)
	due(t, a, "an interval beyond reason", maxInterval*9/10, maxInterval*11/10)
}

// Who is busy says when to come back: never earlier, and not all of us at that moment.
func TestPlanWhenBusy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name              string
		interval, after   time.Duration
		failures          int // in a row, this one included
		least, most, wide time.Duration
	}{
		{"a minute", 5 * time.Minute, time.Minute, 1, 61 * time.Second, 70 * time.Second, 5 * time.Second},
		{"no time", 5 * time.Minute, 0, 1, time.Second, 10 * time.Second, 5 * time.Second},
		{"no time, again and again", 5 * time.Minute, 0, 5, time.Second, 160 * time.Second, 100 * time.Second},
		{"longer than the interval", 5 * time.Minute, 20 * time.Minute, 1, 20 * time.Minute, 20*time.Minute + 10*time.Second, 0},
		{"a day", 5 * time.Minute, 24 * time.Hour, 1, time.Hour, time.Hour + 10*time.Second, 0},
		{"a day, where that is the interval", 24 * time.Hour, 24 * time.Hour, 1, 24 * time.Hour, 24*time.Hour + 10*time.Second, 0},
	} {
		m := newManager(t)
		m.interval = test.interval
		pc := newPC(t, m)
		a := pc.open(t)
		defer a.Close()
		checkIn(t, a)
		low, high := 48*time.Hour, time.Duration(0)
		for range 200 {
			a.failures = test.failures - 1
			a.busy = &checkin.Busy{After: test.after}
			a.plan(false)
			low, high = min(low, a.left()), max(high, a.left())
		}
		if low < test.least || high > test.most || high-low < test.wide {
			t.Errorf("%s: due in %s to %s, want %s to %s", test.name, low, high, test.least, test.most)
		}
	}
}

// From the wire to the plan: the report waits unchanged, nobody is asked to do anything, and it is sent when it is time.
func TestBusyHigherSystem(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	var log strings.Builder
	o := pc.options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	checkIn(t, a)
	m.judge = func(checkin.VerifiedReport) error { return &checkin.Busy{After: 30 * time.Second, Reason: "too many"} }
	for range 2 {
		if out := checkIn(t, a); out.CheckedIn || out.Refused || !strings.Contains(out.Error, "too many; again in 30s") {
			t.Errorf("outcome %+v", out)
		}
		due(t, a, "busy", 31*time.Second, 50*time.Second)
	}
	if n := strings.Count(log.String(), "busy"); n != 1 || strings.Contains(log.String(), "level=WARN msg=\"not checked in\"") {
		t.Errorf("logged %q, want one line that is no warning", log.String())
	}
	m.judge = nil
	checkIn(t, a)
	due(t, a, "accepted", 54*time.Minute, 66*time.Minute)
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.received; len(r) != 5 || r[1] != r[2] || r[2] != r[3] {
		t.Errorf("received %v; want the second report three times, unchanged", r)
	}
}

// Thousands of PCs that are switched on at nine do not all check in at nine; a person is not kept waiting.
func TestFirstCheckInIsSpread(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	for _, test := range []struct {
		name              string
		boot              time.Duration
		interval          time.Duration // from then on
		least, most, wide time.Duration
	}{
		{"not known yet", time.Minute, time.Hour, 0, 0, 0}, // the first of all; it enrols
		{"starts with the machine", time.Minute, 10 * time.Second, 0, time.Minute, 30 * time.Second},
		{"a short interval", time.Minute, 10 * time.Second, 0, 5 * time.Second, 2 * time.Second},
		{"started later", 10 * time.Minute, 10 * time.Second, 0, 0, 0},
	} {
		pc.boot, pc.awake = test.boot, test.boot
		a := pc.open(t)
		low, high := time.Hour, time.Duration(0)
		for range 200 {
			a.begin()
			low, high = min(low, a.left()), max(high, a.left())
		}
		if low < test.least || high > test.most || high-low < test.wide {
			t.Errorf("%s: due in %s to %s, want %s to %s", test.name, low, high, test.least, test.most)
		}
		m.interval = test.interval
		checkIn(t, a)
		a.Close()
	}

	// After a sleep: drawn once, and only sooner than it was due.
	m.interval = time.Hour
	pc.boot, pc.awake = time.Hour, time.Hour
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	pc.boot += 8 * time.Hour
	left := a.left()
	if left > maxSpread || a.left() != left {
		t.Errorf("after a sleep due in %s, then in %s", left, a.left())
	}
	pc.awake += left
	pc.boot += left
	if a.left() > 0 {
		t.Error("the check-in after a sleep is put off")
	}
	checkIn(t, a)
	due(t, a, "after it", 54*time.Minute, 66*time.Minute)
	a.due = pc.awake + time.Millisecond
	pc.boot += time.Hour
	due(t, a, "due anyway", 0, time.Millisecond)
}

// closing counts how often its connection is closed.
type closing struct {
	checkin.HigherSystem
	closed *int
}

func (h closing) Close() { *h.closed++ }

// A connection is kept for what follows within a minute, and not for an hour.
func TestConnectionIsClosed(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	closed := 0
	pc.wrap = func(h checkin.HigherSystem) checkin.HigherSystem { return closing{h, &closed} }
	a := pc.open(t)
	checkIn(t, a)
	if closed != 1 {
		t.Errorf("closed %d times at an interval of an hour", closed)
	}
	m.interval = 30 * time.Second
	checkIn(t, a)
	if closed != 1 {
		t.Errorf("closed %d times at an interval of 30 s", closed-1)
	}
	a.Close()
	if closed != 2 {
		t.Error("left open at the end")
	}
}

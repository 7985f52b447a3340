package registry

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// comesToRest has the PC report until it is at rest.
func (p *pc) comesToRest() {
	p.m.t.Helper()
	for range 2 {
		p.checkIn()
		p.m.pass(time.Minute)
	}
	if got := p.m.atRest(); len(got) == 0 {
		p.m.t.Fatal("nobody is at rest")
	}
}

// A report that this program cannot cope with harms neither those who wait beside it nor those who come after it.
func TestBatchSurvivesAPanic(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, other := newPC(m, "alpha"), newPC(m, "beta")
	p.checkIn()
	beside := &checkInJob{s: other.next(), turn: make(chan bool, 2)}
	var err error
	beside.v, err = checkin.Verify(beside.s)
	must(t, err)
	l := &m.quick
	l.mu.Lock()
	l.waiting = []*checkInJob{beside}
	l.mu.Unlock()
	times := 0
	m.Registry.now = func() time.Time {
		if times++; times <= 2 { // the batch, and then the first of it by itself
			panic("the clock is broken")
		}
		return m.clock()
	}
	s := p.next()
	func() {
		defer func() {
			if r := recover(); r != nil {
				t.Errorf("whoever led the batch panics: %v", r)
			}
		}()
		p.send(s)
	}()
	select {
	case lead := <-beside.turn:
		expect(t, "the other one is to lead", lead, false)
		if beside.err == nil || !strings.Contains(beside.err.Error(), "the clock is broken") {
			t.Errorf("the other one: %v, want the panic", beside.err)
		}
	default:
		t.Error("the other one waits for ever")
	}
	if l.led || len(l.waiting) > 0 {
		t.Fatalf("the lane is led: %v; %d wait", l.led, len(l.waiting))
	}
	other.send(beside.s)
	expect(t, "assets", m.assetCount(), 2)
}

// Who has neither key nor token makes the manager do next to nothing for a host at rest.
func TestStrangersWakeNobody(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	p := newPC(m, "alpha")
	p.comesToRest()
	_, err := m.writers.Exec(`CREATE TRIGGER no BEFORE DELETE ON resting BEGIN SELECT RAISE(ABORT, 'woken'); END`)
	must(t, err)
	for _, tok := range []*checkin.EnrolmentToken{nil, new(checkin.NewEnrolmentToken(m.audience))} {
		thief := newPC(m, "thief")
		thief.report.HostID, thief.enrol = p.report.HostID, tok
		if _, err := m.CheckIn(t.Context(), thief.next()); !errors.Is(err, checkin.ErrRefused) {
			t.Errorf("got %v, want a refusal", err)
		}
	}
}

// A host has as many reports an hour as any other, whether it rests or not.
func TestRestCountsReports(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(time.Minute)
	const left = 5
	_, err := m.writers.Exec(`UPDATE rates SET reports = $1 WHERE host_id = $2`, maxReportsPerHour-left, p.report.HostID.String())
	must(t, err)
	accepted := 0
	for range 2 * left {
		if _, err := m.CheckIn(t.Context(), p.next()); err != nil {
			if !errors.Is(err, ErrTooMuch) {
				t.Fatal(err)
			}
			break
		}
		accepted++
	}
	expect(t, "accepted", accepted, left)
	expect(t, "at rest", len(m.atRest()), 1)
	m.pass(time.Hour)
	p.report.Versions.OS = "another"
	p = p.clone()
	p.checkIn()
	var reports int
	must(t, m.readers.QueryRow(`SELECT reports FROM rates WHERE host_id = $1`, p.report.HostID.String()).Scan(&reports))
	expect(t, "reports of the next hour", reports, 1)
}

// A stranger with a token cannot fill the history of a host so that the PC itself is refused.
func TestStrangersUpNoEvents(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, thief := newPC(m, "alpha"), newPC(m, "thief")
	p.checkIn()
	thief.report.HostID = p.report.HostID
	thief.checkIn()
	_, err := m.writers.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO history (at, host_id, kind, evidence) SELECT $2, $3, 'gap', '{}' FROM n`, maxEventsPerDay/2-10, millis(m.clock()), p.report.HostID.String())
	must(t, err)
	refused := 0
	for i := range 100 { // each of them a gap
		thief.report.Previous = checkin.Digest{1, byte(i)}
		thief.report.Counter++
		if _, err := m.CheckIn(t.Context(), thief.next()); errors.Is(err, ErrTooMuch) {
			refused++
		} else {
			must(t, err)
		}
	}
	if refused < 80 {
		t.Errorf("%d of 100 gaps of a stranger were refused", refused)
	}
	p.checkIn()
	events := len(m.kinds(p.report.HostID))
	if events > maxEventsPerDay/2+10 {
		t.Errorf("a stranger made %d events", events)
	}
}

// A delta says which settings its PC holds; what it says counts, at rest as well.
func TestDeltaTellsSettings(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	settings := checkin.AMTSettings{User: "admin", Password: checkin.NewPassword("Passw0rd!")}
	version, _, err := m.SetAMTSettings(t.Context(), hostid.ID{}, settings, "alice")
	must(t, err)
	p.report.Settings = &checkin.SettingsState{Version: version, Serial: 1}
	full := p.next()
	p.send(full)
	m.pass(time.Minute)
	full = p.next()
	p.send(full)
	expect(t, "at rest", len(m.atRest()), 1)
	m.pass(time.Minute)
	p.enrol = nil
	p.report, _ = p.report.Delta(full.Digest())
	p.report.Settings = &checkin.SettingsState{}
	if p.checkIn().Settings == nil {
		t.Error("a PC that says it has no settings got none")
	}
}

// Who sends an old report again, as a relay may whose disk was set back, wakes nobody.
func TestReplayWakesNobody(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	var sent []checkin.SignedReport
	for range 100 {
		m.pass(time.Second)
		s := p.next()
		p.send(s)
		sent = append(sent, s)
	}
	expect(t, "at rest", len(m.atRest()), 1)
	for i, s := range sent {
		p.send(s)
		if len(m.atRest()) != 1 {
			t.Fatalf("report %d, sent again, wakes its host", i)
		}
	}
	m.pass(time.Minute)
	p.checkIn()
	expect(t, "branches", m.asset(p.report.HostID).Hosts[0].Branches, 1)
	fork := p.clone()
	p.checkIn()
	fork.start()
	fork.checkIn()
	expect(t, "branches after a fork", m.asset(p.report.HostID).Hosts[0].Branches, 2)
}

// A report of a former installation that was long on its way says nothing about now: nobody waits for it, and it presents
// nothing.
func TestLateReportOfAFormerEpoch(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(DefaultInterval)
	p.checkIn()
	m.pass(DefaultInterval)
	held := p.next()
	made := m.clock()
	m.pass(4 * DefaultInterval)
	q := p.clone()
	q.begin(checkin.EpochRestore)
	q.report.Names.Host = "alpha-new"
	q.report.Addresses = []string{"192.0.2.99"}
	for range 4 {
		q.checkIn()
		m.pass(DefaultInterval)
	}
	before := m.asset(p.report.HostID)
	expect(t, "name", before.Name, "alpha-new")
	held.Hops = []checkin.Hop{{Relay: hostid.NewID(), Held: m.clock().Sub(made)}}
	p.send(held)
	after := m.asset(p.report.HostID)
	expect(t, "asset", after.Asset, before.Asset)
	for _, k := range m.kinds(p.report.HostID) {
		if strings.Contains(k, "waits") {
			t.Errorf("event %s", k)
		}
	}
}

// That a relay says of the next report of a PC to have kept it for long takes nothing from the PC: it was heard since.
func TestHeldDoesNotSilence(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(time.Minute)
	p.checkIn()
	m.pass(time.Minute)
	s := p.next()
	s.Hops = []checkin.Hop{{Relay: hostid.NewID(), Held: 40 * 24 * time.Hour}}
	p.send(s)
	expect(t, "last check-in", m.asset(p.report.HostID).LastCheckin, m.clock().Add(-time.Minute))
	q := p.clone()
	q.begin(checkin.EpochRestore)
	q.report.Facts.Disks = []hardware.Disk{{Serial: "another", System: true}}
	q.checkIn()
	expect(t, "state", m.asset(p.report.HostID).State, Pending)
	expect(t, "disk", m.asset(p.report.HostID).Facts.Disks[0].Serial, "disk alpha")
}

// A command that only looks, while the interval is longer than the one that is set, knows that nobody is late.
func TestPaceIsKnownToWhoLooks(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	must(t, m.decide(t.Context(), func(t *transaction) error { return t.setPace(4) }))
	expect(t, "interval", p.checkIn().Interval, 4*DefaultInterval)
	m.pass(4 * DefaultInterval)
	a, err := m.again(t).Asset(t.Context(), p.report.HostID)
	must(t, err)
	expect(t, "state", a.State, Live)
}

// A relay was in contact when it last checked in, at rest as well.
func TestRelayAtRest(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "relay")
	p.comesToRest()
	_, err := m.writers.Exec(`INSERT INTO relays (host_id, token_id, names, admitted, via, state) VALUES ($1, '', '[]', 0, '[]', '{}')`, p.report.HostID.String())
	must(t, err)
	p.checkIn()
	expect(t, "at rest", len(m.atRest()), 1)
	all, err := m.Relays(t.Context())
	must(t, err)
	expect(t, "last contact", all[0].LastContact, m.clock())
}

// Each report that continues no line is looked for among the digests of those of which nothing else is kept: not among more than a
// client leaves behind in a month.
func TestTrailsAreBounded(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(time.Second)
	p.checkIn()
	m.pass(time.Second)
	old := p.next()
	p.send(old)
	must(t, m.decide(t.Context(), func(t *transaction) error { return t.wake(`$1 = 1`, 1) }))
	seen := func() (line int64, seen bool) {
		must(t, m.decide(t.Context(), func(t *transaction) error {
			var epoch int64
			if _, err := t.get(`SELECT id FROM epochs`, nil, []any{&epoch}); err != nil {
				return err
			}
			var err error
			line, seen, err = t.seenInTrail(epoch, old.Digest())
			return err
		}))
		return line, seen
	}
	for n, want := range []bool{true, true, false} {
		line, is := seen()
		expect(t, fmt.Sprint("seen, ", n), is, want)
		more := maxTrails - 1
		if n > 0 {
			more = 1
		}
		if _, err := m.writers.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
			INSERT INTO trails (branch_id, last, digests) SELECT branch_id, last, $2 FROM n, (SELECT branch_id, last FROM trails ORDER BY id LIMIT 1) AS t`, more, make([]byte, digestKept)); err != nil {
			t.Fatal(err, line)
		}
	}
}

// Two managers that are asked at the same time, each with the reports of the same hosts, and an operator in between, say the same.
func TestTwoManagersAtOnce(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	other := m.again(t)
	var all sync.WaitGroup
	for i := range 6 {
		p := newPC(m, fmt.Sprint("pc", i))
		p.report.Facts = modelFacts("good", i)
		all.Go(func() {
			for n := range 20 {
				s := p.next()
				var replies [2]checkin.Reply
				var both sync.WaitGroup
				for k, r := range []*Registry{m.Registry, other} {
					both.Go(func() {
						for {
							var err error
							if replies[k], err = r.CheckIn(t.Context(), s); err == nil {
								return
							}
							if _, busy := errors.AsType[*checkin.Busy](err); !busy {
								t.Errorf("%s, report %d: %v", p.report.Names.Host, n, err)
								return
							}
						}
					})
				}
				if n%7 == 6 {
					both.Go(func() {
						_, err := other.Archive(t.Context(), 1, true, Actor{})
						must(t, err)
						_, err = other.Retire(t.Context(), p.report.HostID, Actor{})
						must(t, err)
						_, err = other.Unretire(t.Context(), p.report.HostID, Actor{})
						must(t, err)
					})
				}
				both.Wait()
				if replies[0].Raw != replies[1].Raw {
					t.Errorf("%s, report %d: one answers %+v, the other %+v", p.report.Names.Host, n, replies[0], replies[1])
				}
				m.pass(time.Second)
			}
			if got := m.asset(p.report.HostID); got.Hosts[0].Branches != 1 || got.LastCheckin.IsZero() {
				t.Errorf("%+v", got)
			}
		})
	}
	all.Wait()
	m.restHolds(t)
	expect(t, "conflicts", m.conflictKinds(), nil)
	must(t, m.decide(t.Context(), func(t *transaction) error { return t.wake(`$1 = 1`, 1) }))
	type sum struct {
		Host    string
		Reports int
	}
	got, err := scanAll(t.Context(), m.readers, func(scan func(...any) error) (s sum, err error) { return s, scan(&s.Host, &s.Reports) },
		`SELECT e.host_id, CAST(SUM(i.reports) AS BIGINT) FROM intervals i JOIN epochs e ON e.id = i.epoch_id GROUP BY e.host_id ORDER BY 1`)
	must(t, err)
	for _, s := range got {
		expect(t, "reports of "+s.Host, s.Reports, 20)
	}
}

// One report that took long, because the disk did, turns away nobody who will share the next write with others; many that did, do.
func TestWaitIsJudgedByMany(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		waiting int
		took    time.Duration
		reports float64
		refused bool
	}{
		{0, time.Minute, 1, false},
		{1, 10 * time.Second, 1, true},
		{40, 300 * time.Millisecond, 1, false},
		{40, 30 * time.Second, 100, true},
		{1000, 300 * time.Millisecond, 1, true},
		{1000, 300 * time.Millisecond, 100, false},
	} {
		l := lane{waiting: make([]*checkInJob, tt.waiting), took: tt.took, reports: tt.reports}
		expect(t, fmt.Sprintf("%+v", tt), l.wait() > maxWait, tt.refused)
	}
}

// A clock that is set back a little, again and again, is set back.
func TestClockSetBackInSteps(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, other := newPC(m, "alpha"), newPC(m, "beta")
	for range 3 {
		m.pass(DefaultInterval)
		p.checkIn()
		other.checkIn()
	}
	expect(t, "at rest", len(m.atRest()), 2)
	for range 2 {
		m.pass(-slack + time.Second)
		other.checkIn()
	}
	for _, id := range m.atRest() {
		if id == p.report.HostID.String() {
			t.Error("a host rests that was heard in the future")
		}
	}
}

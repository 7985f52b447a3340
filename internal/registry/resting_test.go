package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// atRest are the hosts at rest.
func (m *manager) atRest() (ids []string) {
	m.t.Helper()
	must(m.t, m.decide(m.t.Context(), func(t *transaction) error {
		var err error
		ids, err = collect(t, scanText, `SELECT host_id FROM resting ORDER BY host_id`)
		return err
	}))
	return ids
}

// restHolds is what must hold of every host at rest, whatever was done before: that the next report of its kind needs no decision.
func (m *manager) restHolds(t interface{ Errorf(string, ...any) }) {
	for what, q := range map[string]string{
		"a conflict asks about it":              `SELECT COUNT(*) FROM resting r JOIN conflict_lines l ON l.branch_id = r.branch_id JOIN conflicts c ON c.id = l.conflict_id WHERE l.left_at IS NULL AND c.closed IS NULL`,
		"it is to do something":                 `SELECT COUNT(*) FROM resting r JOIN demands d ON d.branch_id = r.branch_id OR d.host_id = r.host_id WHERE d.ended IS NULL`,
		"another line waits for its report":     `SELECT COUNT(*) FROM resting r JOIN branches b ON b.epoch_id = r.epoch_id WHERE b.id <> r.branch_id AND b.missing IS NOT NULL AND b.last_received > r.received - ` + fmt.Sprint(maxHeld.Milliseconds()),
		"it is blocked":                         `SELECT COUNT(*) FROM resting r JOIN blocks b ON b.host_id = r.host_id WHERE b.lifted IS NULL`,
		"it is out of sight":                    `SELECT COUNT(*) FROM resting r JOIN hosts h ON h.host_id = r.host_id WHERE h.deleted IS NOT NULL OR h.archived IS NOT NULL OR h.retired IS NOT NULL OR h.succeeded IS NOT NULL`,
		"its line is not the one that keeps it": `SELECT COUNT(*) FROM resting r JOIN hosts h ON h.host_id = r.host_id WHERE h.keeper <> r.branch_id OR h.waiting IS NOT NULL`,
		"another keeps its asset":               `SELECT COUNT(*) FROM resting r JOIN hosts h ON h.host_id = r.host_id JOIN assets a ON a.id = h.asset_id WHERE a.keep_host <> r.host_id OR a.seen_host <> r.host_id OR a.waiting IS NOT NULL`,
		"two of one asset rest":                 `SELECT COUNT(*) FROM resting r JOIN hosts h ON h.host_id = r.host_id JOIN resting s ON s.host_id <> r.host_id JOIN hosts i ON i.host_id = s.host_id WHERE i.asset_id = h.asset_id`,
		"its key is not the bound one":          `SELECT COUNT(*) FROM resting r JOIN hosts h ON h.host_id = r.host_id WHERE h.key <> r.key`,
		"its tip is older than what is known":   `SELECT COUNT(*) FROM resting r JOIN branches b ON b.id = r.branch_id WHERE r.received < b.last_received`,
	} {
		var n int
		if err := m.readers.QueryRow(q).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d hosts are at rest, but %s (%v)", n, what, err)
		}
	}
}

// The fourth report arrives before the first. The line of the first three does not come to rest before it is one with that of the fourth.
func TestLaterReportArrivesFirst(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	var sent []checkin.SignedReport
	for range 4 {
		sent = append(sent, p.next())
		m.pass(time.Second)
	}
	for _, i := range []int{3, 0, 1, 2} {
		p.send(sent[i])
		m.restHolds(t)
	}
	if h := m.asset(p.report.HostID).Hosts[0]; h.Branches != 1 {
		t.Errorf("%d lines, want 1", h.Branches)
	}
}

// A report that never comes, as after the database was put back from a backup, keeps nobody from resting. If it comes after all
// the line is whole.
func TestRestsWithAGap(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.comesToRest()
	id := p.report.HostID
	var lost []checkin.SignedReport
	for range 2 { // put back twice
		lost = append(lost, p.next())
		m.pass(time.Minute)
		p.start()
		for range 3 {
			p.checkIn()
			m.pass(time.Minute)
		}
		if len(lost) == 1 {
			expect(t, "at rest after a gap", m.atRest(), []string{id.String()})
			m.restHolds(t)
		}
	}
	if rest := m.atRest(); rest != nil {
		t.Errorf("%v rests, though a line with an earlier gap may wait for its next report", rest)
	}
	m.pass(maxHeld)
	p.start()
	for range 3 {
		p.checkIn()
		m.pass(time.Minute)
	}
	expect(t, "at rest when the earlier line waits in vain", m.atRest(), []string{id.String()})
	m.restHolds(t)
	for _, s := range lost {
		p.send(s)
	}
	expect(t, "events", m.kinds(id), []string{"token-used", "enrolled", "gap", "gap", "gap-closed", "gap-closed"})
	expect(t, "lines", m.asset(id).Hosts[0].Branches, 1)
	for range 2 {
		p.checkIn()
		m.pass(time.Minute)
	}
	expect(t, "at rest when the line is whole", m.atRest(), []string{id.String()})
	m.restHolds(t)
	expect(t, "conflicts", m.conflictKinds(), nil)
}

// Hosts rest on when the database is of a release that kept their rows in another way.
func TestMigrationOfResting(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	p := newPC(m, "alpha")
	p.comesToRest()
	p.checkIn()
	want := dump(t, m, `SELECT host_id, tip, hex(recent), reports FROM resting`)
	first, err := migrations.ReadFile("migrations/sqlite/00007_resting.sql")
	must(t, err)
	text := string(first)
	of := func(from, to string) string { return text[strings.Index(text, from):strings.Index(text, to)] }
	for _, q := range []string{
		`DROP VIEW hosts_now`, `DROP VIEW branches_now`,
		`CREATE TABLE aside AS SELECT * FROM resting`, `DROP TABLE resting`, of("CREATE TABLE resting", "-- Digests"), `INSERT INTO resting SELECT * FROM aside`, `DROP TABLE aside`,
		of("CREATE VIEW hosts_now", "CREATE VIEW branches_now"), text[strings.Index(text, "CREATE VIEW branches_now"):],
		`DELETE FROM goose_db_version WHERE version_id = 13`,
	} {
		_, err := m.writers.Exec(q)
		must(t, err)
	}
	must(t, m.Close())
	m.Registry = m.again(t)
	expect(t, "at rest", dump(t, m, `SELECT host_id, tip, hex(recent), reports FROM resting`), want)
	p.checkIn()
	expect(t, "at rest, a report later", m.atRest(), []string{p.report.HostID.String()})
	expect(t, "asset seen", m.asset(p.report.HostID).Seen.Name, "alpha")
	m.restHolds(t)
}

// A host that says the same a few times comes to rest; every word that is new wakes it.
func TestComesToRest(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	rests := func(when string, want bool) {
		t.Helper()
		if got := len(m.atRest()) == 1; got != want {
			t.Errorf("%s: at rest %v, want %v", when, got, want)
		}
		m.restHolds(t)
	}
	tick := func() checkin.Reply { m.pass(time.Minute); return p.checkIn() }
	tick()
	rests("after the first report", false) // nobody knows yet when its run began
	tick()
	rests("after the second", true)
	for name, change := range map[string]func(){
		"facts":         func() { p.report.Facts.BoardSerial = "another" },
		"name":          func() { p.report.Names.Host = "beta" },
		"address":       func() { p.report.Addresses = []string{"192.0.2.8"} },
		"version":       func() { p.report.Versions.Client = "2.0" },
		"store":         func() { p.report.Stores = p.report.Stores[:1] },
		"observation":   func() { p.report.Observations = []checkin.Observation{{Kind: "x"}} },
		"placeholders":  func() { p.report.Placeholders = "0123456789abcdef" },
		"pending":       func() { p.report.Pending = true },
		"another run":   p.start,
		"another epoch": func() { p.begin(checkin.EpochRestore) },
		"a leap":        func() { p.runBegan = p.runBegan.Add(3 * time.Minute) },
		"silence":       func() { m.pass(3 * DefaultInterval) },
	} {
		was := p.report
		change()
		m.pass(time.Minute)
		before := m.asset(p.report.HostID).Seen
		reply := p.checkIn()
		if name != "observation" && name != "pending" && name != "another epoch" && name != "facts" && name != "placeholders" {
			after := m.asset(p.report.HostID).Seen
			before.Time, after.Time = "", ""
			if name == "name" || name == "address" || name == "version" || name == "store" {
				if fmt.Sprint(before) == fmt.Sprint(after) {
					t.Errorf("%s: nothing was noted: %+v", name, after)
				}
			}
		}
		if name == "placeholders" && reply.Placeholders == "" {
			t.Errorf("%s: the list did not come", name)
		}
		p.report.Facts, p.report.Names, p.report.Addresses, p.report.Versions, p.report.Stores = was.Facts, was.Names, was.Addresses, was.Versions, was.Stores
		p.report.Observations, p.report.Placeholders, p.report.Pending = nil, "", false
		m.pass(3 * DefaultInterval)
		for range 6 {
			tick()
		}
		if name == "pending" || name == "facts" {
			break // a conflict about another case, another board value: it is asked about
		}
		rests("after "+name, true)
	}
}

// What a host at rest said last is what everybody reads, and its replies are those that a full decision gives.
func TestRestIsSeen(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, other := newPC(m, "alpha"), newPC(m, "beta")
	for range 3 {
		m.pass(time.Minute)
		p.checkIn()
		other.checkIn()
	}
	expect(t, "at rest", len(m.atRest()), 2)
	m.pass(time.Minute)
	p.report.Time = "2031-01-01T00:00:00Z"
	s := p.next()
	reply := p.send(s)
	at := m.clock()
	expect(t, "last check-in", m.asset(p.report.HostID).LastCheckin, at)
	expect(t, "the client's clock", m.asset(p.report.HostID).Seen.Time, p.report.Time)
	m.pass(time.Minute)
	expect(t, "sent again", p.send(s).Raw, reply.Raw)
	m.pass(3*DefaultInterval - time.Minute)
	expect(t, "state", m.asset(p.report.HostID).State, Silent)
	expect(t, "sent again, late", p.send(s).Raw, reply.Raw)
	expect(t, "last check-in", m.asset(p.report.HostID).LastCheckin, at)
	// Another line wakes it; the reply is the same even then.
	q := p.clone()
	q.begin(checkin.EpochRestore)
	q.checkIn()
	expect(t, "at rest", m.atRest(), []string{other.report.HostID.String()})
	expect(t, "sent again, awake", p.send(s).Raw, reply.Raw)
	expect(t, "facts", m.asset(p.report.HostID).Facts, p.report.Facts)
}

// A report that was accepted while its host was at rest is known for a month: sent again it is no fork, and who continues it
// is one.
func TestTrail(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	var sent []checkin.SignedReport
	var states []*pc
	for range 150 {
		m.pass(time.Second)
		s := p.next()
		p.send(s)
		sent, states = append(sent, s), append(states, p.clone())
	}
	var chunks int
	must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM trails`).Scan(&chunks))
	expect(t, "chunks", chunks, 2)
	for _, i := range []int{0, 1, 5, 64, 70, 130, 148, 149} {
		p.send(sent[i])
	}
	expect(t, "branches", m.asset(p.report.HostID).Hosts[0].Branches, 1)
	m.pass(time.Second)
	p.checkIn()
	for n, i := range []int{3, 100} {
		back := states[i].clone()
		back.start()
		m.pass(time.Second)
		back.checkIn()
		expect(t, "branches", m.asset(p.report.HostID).Hosts[0].Branches, 2+n)
	}
	forks := 0
	for _, k := range m.kinds(p.report.HostID) {
		if k == "fork" {
			forks++
		}
	}
	expect(t, "forks", forks, 2)
	m.pass(keepReport + time.Hour)
	must(t, m.Trim(t.Context()))
	must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM trails`).Scan(&chunks))
	expect(t, "chunks after a month", chunks, 0)
}

// A delta stands for its base.
func TestDeltas(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	m.pass(time.Minute)
	full := p.next()
	p.send(full)
	for range 4 {
		m.pass(time.Minute)
		d := p.clone()
		var ok bool
		if d.report, ok = p.report.Delta(full.Digest()); !ok {
			t.Fatal("no delta")
		}
		d.enrol = nil
		reply := d.checkIn()
		expect(t, "orders", len(reply.Orders), 0)
		p.report.Counter, p.report.Previous = d.report.Counter, d.report.Previous
	}
	expect(t, "at rest", len(m.atRest()), 1)
	a := m.asset(p.report.HostID)
	expect(t, "last check-in", a.LastCheckin, m.clock())
	expect(t, "facts", a.Facts, p.report.Facts)
	expect(t, "name", a.Name, "alpha")
	// A full report that says the same is the base from now on; one that says something else, too.
	for i, name := range []string{"alpha", "gamma"} {
		p.report.Names.Host = name
		m.pass(time.Minute)
		base := p.next()
		p.send(base)
		m.pass(time.Minute)
		d := p.clone()
		d.enrol = nil
		d.report, _ = p.report.Delta(full.Digest())
		old := d.clone()
		d.report, _ = p.report.Delta(base.Digest())
		reply := d.checkIn()
		expect(t, "orders", len(reply.Orders), 0)
		p.report.Counter, p.report.Previous = d.report.Counter, d.report.Previous
		expect(t, "name", m.asset(p.report.HostID).Name, name)
		if i == 1 {
			m.pass(time.Minute)
			old.report.Counter, old.report.Previous = p.report.Counter, p.report.Previous
			reply := old.checkIn()
			if len(reply.Orders) != 1 || reply.Orders[0].Kind != checkin.OrderFullReport {
				t.Errorf("a delta on a former base: orders %+v", reply.Orders)
			}
		}
	}
}

// Reports that come together are answered together, each by itself: one that is refused harms no other.
func TestBatch(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	reg := m.again(t) // with all its lanes
	const pcs = 40
	var wg sync.WaitGroup
	for i := range pcs {
		p := newPC(m, fmt.Sprint("pc", i))
		if i%4 == 3 {
			p.enrol = nil // unknown
		}
		p.report.Facts = modelFacts("good", i)
		wg.Go(func() {
			for n := range 5 {
				r := p.next()
				reply, err := reg.CheckIn(t.Context(), r)
				var busy *checkin.Busy
				for range 5 { // others were in the way too often; a client sends the same again
					if errors.As(err, &busy) {
						reply, err = reg.CheckIn(t.Context(), r)
					}
				}
				var refusal *checkin.Refusal
				switch {
				case i%4 == 3 && (!errors.As(err, &refusal) || refusal.Code != checkin.NeedsEnrolment):
					t.Errorf("pc%d: %v, want needs-enrolment", i, err)
				case i%4 != 3 && err != nil:
					t.Errorf("pc%d, report %d: %v", i, n, err)
				case i%4 != 3 && reply.HostID != p.report.HostID:
					t.Errorf("pc%d: answered as %s", i, reply.HostID)
				}
			}
		})
	}
	wg.Wait()
	expect(t, "assets", m.assetCount(), pcs*3/4)
	expect(t, "at rest", len(m.atRest()), pcs*3/4)
	m.restHolds(t)
}

// A database that fails answers everybody who waits, and goes on when it works again.
func TestBatchFails(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	p := newPC(m, "alpha")
	p.checkIn()
	_, err := m.writers.Exec(`CREATE TRIGGER no BEFORE INSERT ON reports BEGIN SELECT RAISE(ABORT, 'broken'); END`)
	must(t, err)
	var wg sync.WaitGroup
	for i := range 10 {
		q := newPC(m, fmt.Sprint("pc", i))
		s := q.next()
		wg.Go(func() {
			if _, err := m.CheckIn(t.Context(), s); err == nil || !strings.Contains(err.Error(), "broken") {
				t.Errorf("pc%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	_, err = m.writers.Exec(`DROP TRIGGER no`)
	must(t, err)
	expect(t, "assets", m.assetCount(), 1)
	p.checkIn()
}

// Who comes while too many wait is told to come again later, and nothing is stored of it.
func TestShed(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	l := &m.quick
	l.mu.Lock()
	l.led, l.took, l.reports = true, 10*time.Second, 1
	l.waiting = []*checkInJob{{}}
	l.mu.Unlock()
	_, err := m.CheckIn(t.Context(), p.next())
	busy, ok := errors.AsType[*checkin.Busy](err)
	if !ok || busy.After < 10*time.Second || busy.After > 20*time.Second {
		t.Fatalf("got %v, want Busy for 10 to 20 s", err)
	}
	l.mu.Lock()
	l.led, l.took, l.waiting = false, 0, nil
	l.mu.Unlock()
	expect(t, "assets", m.assetCount(), 0)
}

// The interval that is told grows while the database cannot keep up, and nobody is taken for silent because of it.
func TestPace(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	expect(t, "interval", p.checkIn().Interval, DefaultInterval)
	must(t, m.decide(t.Context(), func(t *transaction) error { return t.setPace(4) }))
	m.pass(time.Minute)
	expect(t, "paced", p.checkIn().Interval, 4*DefaultInterval)
	m.pass(11 * DefaultInterval)
	expect(t, "state", m.asset(p.report.HostID).State, Live)
	must(t, m.decide(t.Context(), func(t *transaction) error { return t.setPace(1) }))
	expect(t, "state after", m.asset(p.report.HostID).State, Live)
	expect(t, "interval after", p.checkIn().Interval, DefaultInterval)
	m.pass(4 * DefaultInterval)
	expect(t, "state a little later", m.asset(p.report.HostID).State, Live) // others may still go by the longer one
	m.pass(12 * DefaultInterval)
	expect(t, "state", m.asset(p.report.HostID).State, Silent)
}

// Receipt counts from the first relay on the way; who was there when is judged by it, in whatever order reports arrive.
func TestHeldByRelays(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	relay, upper := hostid.NewID(), hostid.NewID()
	p.checkIn()
	m.pass(time.Hour)
	made := m.clock()
	s := p.next()
	m.pass(2 * time.Hour)
	s.Hops = []checkin.Hop{{Relay: relay, Held: time.Hour}, {Relay: upper, Held: time.Hour}}
	reply := p.send(s)
	expect(t, "the reply's time", reply.Time, m.clock())
	expect(t, "last check-in", m.asset(p.report.HostID).LastCheckin, made)
	var route string
	must(t, m.readers.QueryRow(`SELECT route FROM hosts`).Scan(&route))
	expect(t, "route", route, `\`+upper.String()+`\`+relay.String())
	for _, hops := range [][]checkin.Hop{make([]checkin.Hop, checkin.MaxHops+1)} {
		s := p.next()
		s.Hops = hops
		if _, err := m.CheckIn(t.Context(), s); !errors.Is(err, checkin.ErrRefused) {
			t.Errorf("%d hops: %v", len(hops), err)
		}
	}
}

// Whatever honest PCs do: a manager whose hosts come to rest answers every report, and knows of every asset, exactly what one does
// that decides about each report in full.
func TestRestChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := newSQLite(t)
		defer m.Close()
		path := filepath.Join(t.TempDir(), "twin.db")
		os.Remove(path)
		must(t, m.Backup(t.Context(), path))
		twin := &manager{t: t, dsn: "sqlite:" + path, now: m.now, token: m.token}
		var err error
		twin.Registry, err = Open(t.Context(), twin.dsn, Options{Key: m.key, Now: m.clock})
		must(t, err)
		defer twin.Close()
		twin.restless = true

		var all []*pc
		var sent, lost []checkin.SignedReport
		for i := range rapid.IntRange(1, 3).Draw(rt, "pcs") {
			all = append(all, newPC(m, fmt.Sprint("pc", i)))
		}
		bases := map[hostid.ID]checkin.SignedReport{}
		send := func(s checkin.SignedReport) {
			a, errA := m.CheckIn(t.Context(), s)
			b, errB := twin.CheckIn(t.Context(), s)
			if len(a.Orders) > 0 { // their names are random
				for _, r := range []*checkin.Reply{&a, &b} {
					r.Orders, r.Raw = slices.Clone(r.Orders), ""
					for i := range r.Orders {
						r.Orders[i].ID = ""
					}
				}
			}
			if fmt.Sprint(errA) != fmt.Sprint(errB) || a.Raw != b.Raw || fmt.Sprint(a) != fmt.Sprint(b) {
				rt.Fatalf("at rest: %+v %v\ndecided: %+v %v", a, errA, b, errB)
			}
		}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			p := all[rapid.IntRange(0, len(all)-1).Draw(rt, "pc")]
			m.pass(time.Duration(rapid.SampledFrom([]int{0, 1, 60, 600, 900, 900, 900, 5000}).Draw(rt, "seconds")) * time.Second)
			switch rapid.SampledFrom([]string{"report", "report", "report", "report", "rounds", "rounds", "delta", "delta", "lost", "late", "again", "old", "restart", "words", "disk", "back", "reinstall", "delete", "restore", "clock"}).Draw(rt, "step") {
			case "report":
				s := p.next()
				bases[p.report.HostID] = s
				send(s)
				sent = append(sent, s)
			case "rounds":
				for range rapid.IntRange(1, 5).Draw(rt, "rounds") {
					for _, p := range all {
						s := p.next()
						bases[p.report.HostID] = s
						send(s)
						sent = append(sent, s)
					}
					m.pass(DefaultInterval)
				}
			case "delta":
				base, ok := bases[p.report.HostID]
				if !ok {
					continue
				}
				full := p.report
				if p.report, ok = p.report.Delta(base.Digest()); !ok {
					p.report = full
					continue
				}
				enrol := p.enrol
				p.enrol = nil
				s := p.next()
				p.enrol = enrol
				full.Counter, full.Previous = p.report.Counter, p.report.Previous
				p.report = full
				send(s)
				sent = append(sent, s)
			case "lost":
				lost = append(lost, p.next())
			case "late": // to a database that was set back it never comes
				if len(lost) > 0 {
					send(lost[0])
					sent, lost = append(sent, lost[0]), lost[1:]
				}
			case "again":
				if len(sent) > 0 {
					send(sent[len(sent)-1])
				}
			case "old":
				if len(sent) > 0 { // a reply whose text is not kept is made anew, and then its time is that of now
					s := rapid.SampledFrom(sent).Draw(rt, "which")
					a, errA := m.CheckIn(t.Context(), s)
					b, errB := twin.CheckIn(t.Context(), s)
					if errA != nil || errB != nil || a.Status != b.Status || a.Report != b.Report {
						rt.Fatalf("at rest: %+v %v\ndecided: %+v %v", a, errA, b, errB)
					}
				}
			case "restart":
				p.start()
			case "words":
				p.report.Versions.OS = fmt.Sprint("OS ", len(sent))
			case "disk":
				p.report.Facts.Disks = p.report.Facts.Disks[:1:1]
				p.report.Facts.Disks[0].Serial = fmt.Sprint("disk ", len(sent), p.report.HostID)
			case "back": // from a backup, later
				back := p.clone()
				s := p.next()
				send(s)
				bases[p.report.HostID] = s
				sent = append(sent, s)
				m.pass(4 * DefaultInterval)
				*p = *back
				p.start()
			case "reinstall":
				p.begin(checkin.EpochRestore)
				delete(bases, p.report.HostID)
			case "delete":
				for _, r := range []*Registry{m.Registry, twin.Registry} {
					r.Delete(t.Context(), p.report.HostID, Actor{Trigger: ByCommand, Who: "model"})
				}
			case "restore":
				for _, r := range []*Registry{m.Registry, twin.Registry} {
					r.Restore(t.Context(), p.report.HostID, Actor{Trigger: ByCommand, Who: "model"})
				}
			case "clock": // of the manager, set back
				back := time.Duration(rapid.IntRange(1, 7200).Draw(rt, "back")) * time.Second
				m.pass(-back)
				for _, p := range all { // theirs go on
					p.runBegan = p.runBegan.Add(-back)
				}
			}
			m.restHolds(rt)
		}
		a, b := m.whole(t.Context()), twin.whole(t.Context())
		if !bytes.Equal(a, b) {
			expect(t, "at rest, and decided", string(a), string(b))
			rt.Fatal("they differ")
		}
		must(t, m.decide(t.Context(), func(t *transaction) error { return t.wake(`$1 = 1`, 1) }))
		a, b = m.tables(), twin.tables()
		if !bytes.Equal(a, b) {
			expect(t, "woken, and decided", string(a), string(b))
			rt.Fatal("they differ")
		}
	})
}

// whole is what everybody may ask.
func (m *manager) whole(ctx context.Context) []byte {
	m.t.Helper()
	assets, err := m.allAssets(ctx)
	must(m.t, err)
	history, err := m.History(ctx)
	must(m.t, err)
	conflicts, err := m.Conflicts(ctx)
	must(m.t, err)
	var b bytes.Buffer
	for _, x := range []any{assets, history, conflicts} {
		b.WriteString(toJSON(x))
		b.WriteString("\n")
	}
	return bytes.ReplaceAll(b.Bytes(), []byte(`},{`), []byte("},\n{"))
}

// tables are all rows that decisions are made by. What time a report was stored with, and its text, tell how it was decided about.
func (m *manager) tables() []byte {
	m.t.Helper()
	var b bytes.Buffer
	for _, q := range []string{
		`SELECT host_id, asset_id, home, keeper, waiting, facts, seen, heard, since, last_checkin, deleted, route FROM hosts ORDER BY host_id`,
		`SELECT id, merged_into, keeper, waiting, facts, seen, seen_host, seen_at, keep_host FROM assets ORDER BY id`,
		`SELECT id, host_id, epoch, began_by, proven, began FROM epochs ORDER BY id`,
		`SELECT id, epoch_id, tip, forked_from, missing, last_received, facts, words, base FROM branches ORDER BY id`,
		`SELECT id, epoch_id, branch_id, run, origin, began, last, first_at, reports FROM intervals ORDER BY id`,
		`SELECT asset_id, fact, value FROM board_facts ORDER BY asset_id, fact`,
		`SELECT asset_id, name, label FROM asset_names ORDER BY asset_id, name`,
		`SELECT day, 0 FROM contact_days ORDER BY day`,
		`SELECT host_id, proven, hour, reports FROM rates ORDER BY host_id`,
	} {
		fmt.Fprintln(&b, q)
		rows, err := m.readers.Query(q)
		must(m.t, err)
		columns, err := rows.Columns()
		must(m.t, err)
		for rows.Next() {
			values, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			must(m.t, rows.Scan(into...))
			fmt.Fprintln(&b, values...)
		}
		must(m.t, rows.Close())
	}
	return b.Bytes()
}

// A host is woken just when the digests of its latest reports have been put where they stay.
func TestWokenWithAnEmptyTrail(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.comesToRest()
	for range trailBytes / digestKept {
		m.pass(time.Minute)
		p.checkIn()
	}
	var kept int
	must(t, m.readers.QueryRow(`SELECT LENGTH(recent) FROM resting`).Scan(&kept))
	expect(t, "kept beside the host", kept, 0)
	p.report.Names.Host = "other"
	m.pass(time.Minute)
	expect(t, "status", p.checkIn().Status, checkin.Accepted)
}

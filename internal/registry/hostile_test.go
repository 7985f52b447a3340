package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A statement speaks for its sender only: public keys are no secret, so anybody could else join the asset of another
// PC to its own, or hang aliases onto it.
func TestStatementsAboutOthers(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	victim, thief, ghost := newPC(m, "victim"), newPC(m, "thief"), newPC(m, "ghost")
	victim.checkIn()
	thief.checkIn()
	before := m.asset(victim.report.HostID)
	for _, old := range []*pc{thief, ghost} {
		thief.replacesAs(old, checkin.Replacement{Old: old.report.HostID, New: victim.report.HostID, NewKey: key(victim), Audience: m.audience})
		expect(t, "named", thief.checkIn().Named, nil)
		expect(t, "named", thief.checkIn().Named, nil)
		expect(t, "the victim's asset", m.asset(victim.report.HostID), before)
	}
	expect(t, "assets", m.assetCount(), 2)
	expect(t, "conflicts", m.conflictKinds(), []string{"replacement", "replacement"})
}

// Who repeats a statement that it saw, on a relay as it may be, does not spoil it for its owner.
func TestStatementSentByAStrangerFirst(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old := newPC(m, "alpha")
	old.checkIn()
	p, thief := old.successor(), newPC(m, "thief")
	p.replaces(old)
	thief.report.Replaced = p.report.Replaced
	expect(t, "named to the stranger", thief.checkIn().Named, nil)
	expect(t, "named", p.checkIn().Named, []hostid.ID{old.report.HostID})
	expect(t, "IDs", m.asset(old.report.HostID).HostIDs, []hostid.ID{p.report.HostID, old.report.HostID})
	expect(t, "stranger's IDs", m.asset(thief.report.HostID).HostIDs, []hostid.ID{thief.report.HostID})
}

// A PC that replaced twice before it was heard carries both statements, in whatever order.
func TestStatementsInAnyOrder(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a := newPC(m, "alpha")
	a.checkIn()
	b := a.successor()
	b.checkIn()
	c := a.successor()
	b.replaces(a)
	c.replaces(b)
	c.report.Replaced = append(b.report.Replaced, c.report.Replaced...)
	expect(t, "named", c.checkIn().Named, []hostid.ID{b.report.HostID, a.report.HostID})
	expect(t, "assets", m.assetCount(), 1)
	for _, k := range m.conflictKinds() {
		if k != "overlap" {
			t.Errorf("conflict %s is open", k)
		}
	}
}

// Proof settles what evidence asked, also where it joins the assets by way of a third.
func TestSameBoardSettledThroughAThird(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a := newPC(m, "alpha")
	a.checkIn()
	m.pass(4 * DefaultInterval)
	b := a.successor()
	b.checkIn()
	m.pass(4 * DefaultInterval)
	c := a.successor()
	c.checkIn()
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board", "same-board"})
	b.replaces(a)
	b.checkIn()
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
	m.pass(4 * DefaultInterval)
	c.replaces(b)
	expect(t, "named", c.checkIn().Named, []hostid.ID{b.report.HostID})
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "assets", m.assetCount(), 1)
}

// An epoch that changes within a run (its chain could not be read) is no second system; a copy of that run is.
func TestEpochChangesWithinARun(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	for range 4 {
		p.checkIn()
		m.pass(DefaultInterval)
	}
	q := p.clone()
	q.report.Epoch, q.report.EpochBy, q.report.Previous, q.report.Counter = checkin.NewToken(), checkin.EpochUnread, checkin.Digest{}, 0
	for range 4 {
		q.checkIn()
		m.pass(DefaultInterval)
	}
	expect(t, "conflicts", m.conflictKinds(), nil)
	for range 2 {
		p.checkIn()
		q.checkIn()
		m.pass(DefaultInterval)
	}
	expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
}

// Two systems on one PC, one of which was hibernated and does not know it: its age stood still meanwhile.
func TestHibernatedUnawares(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	one := newPC(m, "alpha")
	for range 4 {
		one.checkIn()
		m.pass(DefaultInterval)
	}
	other := one.clone()
	other.begin(checkin.EpochRestore)
	for range 6 {
		other.checkIn()
		m.pass(DefaultInterval)
	}
	one.runBegan = one.runBegan.Add(6 * DefaultInterval)
	for range 4 {
		one.checkIn()
		m.pass(DefaultInterval)
	}
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "assets", m.assetCount(), 1)
}

// One client cannot bury the conflicts of all others.
func TestConflictsAreBounded(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	victim, thief := newPC(m, "victim"), newPC(m, "thief")
	victim.checkIn()
	thief.checkIn()
	for range 3 {
		thief.report.Replaced = nil
		for range 16 {
			ghost := newPC(m, "ghost")
			jws, err := checkin.SignReplacement(checkin.Replacement{
				Old: ghost.report.HostID, New: victim.report.HostID, NewKey: key(victim), Audience: m.audience}, ghost.seed.SigningKey())
			must(t, err)
			thief.report.Replaced = append(thief.report.Replaced, jws)
		}
		thief.checkIn()
	}
	expect(t, "conflicts", len(m.conflictKinds()), maxOpen)
	for i := range maxOpen + 2 {
		twin := newPC(m, fmt.Sprint("twin ", i))
		twin.report.HostID = victim.report.HostID
		expect(t, "provisional", twin.checkIn().Provisional, true)
	}
	expect(t, "conflicts", len(m.conflictKinds()), 2*maxOpen)
	expect(t, "the victim", victim.checkIn().Provisional, false)
}

// Nor can it make assets with any number of aliases.
func TestAliasesAreBounded(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	for range maxAliases/16 + 1 {
		p.report.Replaced = nil
		for range 16 {
			ghost := newPC(m, "ghost")
			jws, err := checkin.SignReplacement(checkin.Replacement{
				Old: ghost.report.HostID, New: p.report.HostID, NewKey: key(p), Audience: m.audience}, ghost.seed.SigningKey())
			must(t, err)
			p.report.Replaced = append(p.report.Replaced, jws)
		}
		p.checkIn()
		m.pass(time.Minute)
	}
	expect(t, "IDs", len(m.asset(p.report.HostID).HostIDs), 1+maxAliases)
}

// Nor can it join host IDs without end that it has enrolled itself: each report of one looks at all.
func TestProvenHostsAreBounded(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	for range maxProven/16 + 1 {
		p.report.Replaced = nil
		for range 16 {
			q := newPC(m, "alpha")
			q.report.Facts = hardware.Facts{} // on no board that is known
			q.checkIn()
			jws, err := checkin.SignReplacement(checkin.Replacement{
				Old: q.report.HostID, New: p.report.HostID, NewKey: key(p), Audience: m.audience}, q.seed.SigningKey())
			must(t, err)
			p.report.Replaced = append(p.report.Replaced, jws)
		}
		m.pass(time.Hour)
		p.checkIn()
	}
	expect(t, "IDs", len(m.asset(p.report.HostID).HostIDs), maxProven)
	expect(t, "the others", m.assetCount(), 1+(maxProven/16+1)*16+1-maxProven)
}

// What one host ID makes the manager store is bounded, and a stranger cannot use up what is the PC's.
func TestWhatOneHostMayStore(t *testing.T) {
	t.Parallel()
	t.Run("epochs", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p, thief := newPC(m, "alpha"), newPC(m, "thief")
		p.checkIn()
		thief.report.HostID = p.report.HostID
		for _, q := range []*pc{thief, p} {
			q.checkIn()
			// The rest of the day, told to the database in one go.
			_, err := m.writers.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
				INSERT INTO epochs (host_id, key, epoch, began_by, proven, began) SELECT host_id, key, 'x' || i, began_by, proven, began FROM n, epochs WHERE epoch = $2`,
				maxEpochsPerDay-2, q.report.Epoch.String())
			must(t, err)
			q.begin(checkin.EpochUnread)
			q.checkIn()
			before := q.clone()
			q.begin(checkin.EpochUnread)
			s := q.next()
			if _, err := m.CheckIn(t.Context(), s); !errors.Is(err, ErrTooMuch) {
				t.Fatalf("got %v, want ErrTooMuch", err)
			}
			before.checkIn() // an epoch that has begun goes on
			m.pass(time.Hour)
		}
		m.pass(24 * time.Hour)
		p.checkIn()
	})
	t.Run("reports", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p, other := newPC(m, "alpha"), newPC(m, "beta")
		first := p.next()
		reply := p.send(first)
		stores := p.report.Stores
		for range 8 {
			p.report.Stores = append(p.report.Stores, checkin.StoreState{Name: "x", State: "unavailable", Error: strings.Repeat("x", 1024)})
		}
		said := 0
		differently := func() { // what says nothing new is kept without its text anyway
			said++
			p.report.Versions.Client = fmt.Sprint("1.0.", said)
		}
		for range keepLongTextPerHour {
			differently()
			p.checkIn()
		}
		kept := func() (n int) {
			must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM reports WHERE jws <> ''`).Scan(&n))
			return n
		}
		expect(t, "texts", kept(), keepLongTextPerHour)
		p.report.Stores = stores
		differently()
		p.checkIn()
		expect(t, "texts with a short one", kept(), keepLongTextPerHour+1)
		// The rest of the hour, told to the database in one go.
		_, err := m.writers.Exec(`UPDATE rates SET reports = $1 WHERE host_id = $2`, maxReportsPerHour, p.report.HostID.String())
		must(t, err)
		differently()
		s := p.next()
		if _, err := m.CheckIn(t.Context(), s); !errors.Is(err, ErrTooMuch) {
			t.Fatalf("got %v, want ErrTooMuch", err)
		}
		expect(t, "an accepted one is answered", p.sendAgain(first), reply)
		other.checkIn()
		m.pass(time.Hour)
		p.sendAgain(s)
		expect(t, "texts", kept(), keepLongTextPerHour+3)
	})
	t.Run("events", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p := newPC(m, "alpha")
		p.checkIn()
		_, err := m.writers.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
			INSERT INTO history (at, host_id, kind, evidence) SELECT $2, $3, 'facts', '{}' FROM n`,
			maxEventsPerDay-10, millis(m.now), p.report.HostID.String())
		must(t, err)
		refused := 0
		for i := range 20 {
			p.report.Facts.BoardSerial = fmt.Sprint("board ", i)
			if _, err := m.CheckIn(t.Context(), p.next()); errors.Is(err, ErrTooMuch) {
				refused++
			} else {
				must(t, err)
			}
		}
		events := len(m.kinds(p.report.HostID))
		if refused < 10 || events < maxEventsPerDay || events > maxEventsPerDay+2 {
			t.Errorf("%d events, %d reports refused", events, refused)
		}
		m.pass(24 * time.Hour)
		p.checkIn()
	})
}

// sendAgain sends a report that need not be the latest.
func (p *pc) sendAgain(s checkin.SignedReport) checkin.Reply {
	p.m.t.Helper()
	reply, err := p.m.CheckIn(p.m.t.Context(), s)
	must(p.m.t, err)
	return reply
}

// A value that a whole fleet shares makes a few conflicts and not one for each PC.
func TestBoardSharedByAFleet(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	for i := range 2 * maxSameBoard {
		p := newPC(m, fmt.Sprint("pc ", i))
		p.report.Facts = hardware.Facts{SystemUUID: "4c4c4544-0031-4a10-8042-b4c04f5a3131"}
		expect(t, "provisional", p.checkIn().Provisional, i > 0)
	}
	expect(t, "conflicts", len(m.conflictKinds()), 1)
	expect(t, "assets", m.assetCount(), 2*maxSameBoard)
}

// A manager whose clock was set back accuses nobody, and keeps nobody waiting for what will be heard in the future.
func TestManagersClockSetBack(t *testing.T) {
	t.Parallel()
	for _, back := range []time.Duration{90 * time.Minute, 1000 * time.Hour} {
		m := newManager(t)
		p := newPC(m, "alpha")
		for range 8 {
			p.checkIn()
			m.pass(DefaultInterval)
		}
		m.pass(-back)
		p.begin(checkin.EpochRestore)
		for range 6 {
			p.checkIn()
			m.pass(DefaultInterval)
		}
		expect(t, "conflicts", m.conflictKinds(), nil)
		expect(t, "state", m.asset(p.report.HostID).State, Live)
		expect(t, "host ID", m.asset(p.report.HostID).HostID, p.report.HostID)
	}
}

// A copy of the database is as private as the database, and is there to be read: reports name people's machines.
func TestBackupIsPrivate(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	p := newPC(m, "alpha")
	p.checkIn()
	path := filepath.Join(t.TempDir(), "copy.db")
	must(t, m.Backup(t.Context(), path))
	info, err := os.Stat(path)
	must(t, err)
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the copy has mode %04o", info.Mode().Perm())
	}
	if err := m.Backup(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
	reg, err := Open(t.Context(), "sqlite:"+path, Options{Now: m.clock})
	must(t, err)
	defer reg.Close()
	a, err := reg.Asset(t.Context(), p.report.HostID)
	must(t, err)
	expect(t, "asset", a, m.asset(p.report.HostID))
}

// Two reports of a PC are withheld, and delivered while it lives on, at the pace at which they were made: its past runs beside its
// present. Where no facts tell it from a copy of itself, it is asked about, and nobody is ordered away.
func TestWithheldReports(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		facts hardware.Facts
		epoch bool // the PC was reinstalled meanwhile
	}{
		"board known":                    {board("alpha"), false},
		"only the disk known":            {onlyDisk(1), false},
		"nothing known":                  {hardware.Facts{}, false},
		"board known, reinstalled":       {board("alpha"), true},
		"only disk known, reinstalled":   {onlyDisk(1), true},
		"nothing known, and reinstalled": {hardware.Facts{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			p := newPC(m, "alpha")
			p.report.Facts = tt.facts
			p.begin(checkin.EpochRestore)
			p.checkIn()
			var held []checkin.SignedReport
			for range 3 {
				m.pass(3 * time.Minute)
				held = append(held, p.next())
			}
			if p.start(); tt.epoch {
				m.pass(time.Hour)
				p.begin(checkin.EpochRestore)
			}
			p.checkIn()
			for _, s := range held[:2] {
				m.pass(3 * time.Minute)
				p.checkIn()
				p.send(s)
			}
			for range 2 {
				m.pass(3 * time.Minute)
				expect(t, "orders", len(p.checkIn().Orders), 0)
			}
			expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
			expect(t, "assets", m.assetCount(), 1)
			p.send(held[2])
			if p.checkIn(); tt.epoch {
				return
			}
			expect(t, "conflicts once the whole line is there", m.conflictKinds(), nil)
			kinds := m.kinds(p.report.HostID)
			expect(t, "last events", kinds[len(kinds)-2:], []string{"conflict-late", "gap-closed"})
		})
	}
}

// The same while its disk was copied to another one: the disk that the past ran on is the known one.
func TestWithheldWhileTheDiskIsReplaced(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.report.Facts = hardware.Facts{Disks: []hardware.Disk{{Serial: "disk A", System: true}}} // a board of placeholders
	for range 4 {
		p.checkIn()
		m.pass(15 * time.Minute)
	}
	var held []checkin.SignedReport // behind a relay that says "deferred" and withholds
	for range 3 {
		held = append(held, p.next())
		m.pass(15 * time.Minute)
	}
	p.report.Facts = hardware.Facts{Disks: []hardware.Disk{{Serial: "disk B", System: true}}} // its disk was copied to another one, in the same PC
	p.start()
	for i := range 8 {
		expect(t, "orders", len(p.checkIn().Orders), 0)
		if i < 2 {
			p.send(held[i]) // with held 0: the relay's word
		}
		m.pass(15 * time.Minute)
	}
}

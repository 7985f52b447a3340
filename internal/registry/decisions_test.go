package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// obey carries out what a reply orders, as a client does: once, and told in the next report.
func (p *pc) obey(r checkin.Reply) checkin.Reply {
	p.m.t.Helper()
	for _, o := range r.Orders {
		if o.HostID != p.report.HostID || o.Epoch != p.report.Epoch || o.Run != p.report.Run {
			p.m.t.Fatalf("order %+v is not for this host, epoch and run", o)
		}
		if p.obeyed[o.ID] {
			continue
		}
		p.obeyed = maps.Clone(p.obeyed)
		if p.obeyed == nil {
			p.obeyed = map[string]bool{}
		}
		p.obeyed[o.ID] = true
		switch o.Kind {
		case checkin.OrderNewID:
			old := p.report.HostID
			if o.Enrol != "" {
				tok, err := checkin.OpenOrder(p.seed.SealingKey(), o.ID, o.Enrol)
				must(p.m.t, err)
				p.enrol = &tok
			}
			p.become(hostid.NewID(), hostid.NewSeed())
			p.report.CopyOf, p.report.Observations = old, nil
		case checkin.OrderTakeBack:
			seed, ok := p.aside[o.Other]
			if !ok {
				p.m.t.Fatalf("%s has no record of %s", p.report.Names.Host, o.Other)
			}
			p.become(o.Other, seed)
			p.report.CopyOf = hostid.ID{}
		case checkin.OrderUseNonvolatile:
			p.become(o.Other, p.memory[o.Other])
			p.report.Observations = nil
		case checkin.OrderNewEpoch:
			p.begin(checkin.EpochOrder)
		case checkin.OrderRebind:
			p.report.Observations, p.report.Pending = nil, false
		}
		p.report.Done = []string{o.ID}
		return r
	}
	p.report.Done = nil
	return r
}

// become takes another record and sets the present one aside.
func (p *pc) become(id hostid.ID, seed hostid.Seed) {
	p.aside = maps.Clone(p.aside)
	if p.aside == nil {
		p.aside = map[hostid.ID]hostid.Seed{}
	}
	p.aside[p.report.HostID] = p.seed
	run, began := p.report.Run, p.runBegan
	p.report.HostID, p.seed = id, seed
	p.report.SealKey = seed.SealingKey().PublicKey().Bytes()
	p.begin(checkin.EpochNewID)
	p.report.Run, p.runBegan = run, began
}

// round has every PC report once, a minute apart, and obey; then the rest of the interval passes.
func (m *manager) round(pcs ...*pc) {
	m.t.Helper()
	for _, p := range pcs {
		p.obey(p.checkIn())
		m.pass(DefaultInterval / time.Duration(len(pcs)+1))
	}
	m.pass(DefaultInterval / time.Duration(len(pcs)+1))
}

func (m *manager) open() []Conflict {
	m.t.Helper()
	all, err := m.Conflicts(m.t.Context())
	must(m.t, err)
	return all
}

func (m *manager) onlyConflict(kind string) Conflict {
	m.t.Helper()
	all := m.open()
	if len(all) != 1 || all[0].Kind != kind {
		m.t.Fatalf("open conflicts %v, want one %s", m.conflictKinds(), kind)
	}
	return all[0]
}

func (m *manager) resolve(c Conflict, v Verb) Resolution {
	m.t.Helper()
	before := m.dump()
	preview, err := m.Preview(m.t.Context(), c.ID, v)
	must(m.t, err)
	expect(m.t, "the database after a preview", m.dump(), before)
	r, err := m.Resolve(m.t.Context(), c.ID, v, "alice")
	must(m.t, err)
	var orders []PreviewOrder
	for _, d := range m.demands(r.ID) {
		i := slices.IndexFunc(orders, func(o PreviewOrder) bool { return o.Kind == d.kind && o.HostID == d.host && o.Other == d.other })
		if i < 0 {
			orders, i = append(orders, PreviewOrder{Kind: d.kind, HostID: d.host, Other: d.other, Joins: d.joins}), len(orders)
		}
		orders[i].Lines++
	}
	slices.SortFunc(orders, func(a, b PreviewOrder) int {
		return strings.Compare(string(a.Kind)+a.HostID.String(), string(b.Kind)+b.HostID.String())
	})
	if len(orders)+len(preview.Orders) > 0 {
		expect(m.t, "orders of the preview", preview.Orders, orders)
	}
	return r
}

func (m *manager) demands(resolution int64) []demand {
	m.t.Helper()
	all, err := scanAll(m.t.Context(), m.readers, scanDemand, demandColumns+` FROM demands d WHERE d.resolution = $1 ORDER BY d.id`, resolution)
	must(m.t, err)
	return all
}

// dump is everything that grouping decides: assets with their hosts, facts, words and keepers; and what others find them by.
func (m *manager) dump() []string {
	m.t.Helper()
	var all []string
	for _, q := range []string{
		`SELECT 'host ' || host_id || ' ' || asset_id || ' ' || home || ' ' || COALESCE(keeper, 0) || ' ' || COALESCE(waiting, 0) || facts || seen FROM hosts ORDER BY host_id`,
		`SELECT 'asset ' || id || ' ' || COALESCE(keeper, 0) || ' ' || COALESCE(waiting, 0) || ' ' || COALESCE(merged_into, 0) || ' ' || keep_host || ' ' || seen_host || facts || seen
			FROM assets ORDER BY id`,
		`SELECT 'board ' || asset_id || ' ' || fact || ' ' || value FROM board_facts ORDER BY 1`,
		`SELECT 'name ' || asset_id || ' ' || name FROM asset_names ORDER BY 1`,
	} {
		lines, err := scanAll(m.t.Context(), m.readers, scanText, q)
		must(m.t, err)
		all = append(all, lines...)
	}
	return all
}

func (m *manager) copyOf(p *pc) string {
	m.t.Helper()
	for _, h := range m.asset(p.report.HostID).Hosts {
		if h.HostID == p.report.HostID {
			return h.CopyOf
		}
	}
	return ""
}

// A known ID under another key is served as a new host, and the conflict closes by itself.
func TestOtherKeyTakesANewID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, twin := newPC(m, "alpha"), newPC(m, "twin")
	p.checkIn()
	id := p.report.HostID
	twin.report.HostID = id
	reply := twin.checkIn()
	if len(reply.Orders) != 1 || reply.Orders[0].Kind != checkin.OrderNewID || reply.Orders[0].Enrol == "" {
		t.Fatalf("orders %+v, want new-id with a token", reply.Orders)
	}
	m.pass(time.Minute)
	expect(t, "the same order again", twin.checkIn().Orders, reply.Orders)
	c := m.onlyConflict("other-key")
	expect(t, "status", c.Status, Ordered)
	expect(t, "proposal", c.Proposal.Sentence(English), "They are two PCs. Whoever has another key proves nothing by the host ID; it takes one of its own.")

	must(t, m.RevokeToken(t.Context(), m.token.ID, "")) // the order's own token serves
	twin.obey(reply)
	expect(t, "orders", twin.checkIn().Orders, nil)
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "assets", m.assetCount(), 2)
	expect(t, "lineage", m.copyOf(twin), id.String())
	expect(t, "the asset's hosts", m.asset(id).HostIDs, []hostid.ID{id})
	closed, err := m.ClosedConflicts(t.Context(), 10)
	must(t, err)
	expect(t, "copies", closed[0].Copies, []hostid.ID{twin.report.HostID})
	expect(t, "acknowledged by", closed[0].Decided[0].Orders[0].By, twin.report.HostID)
	toks, err := m.Tokens(t.Context())
	must(t, err)
	expect(t, "tokens listed", len(toks), 1)
	twin.checkIn() // the acknowledgement again is no event
}

// The token in an order serves the one report that acknowledges it, once.
func TestOrderTokens(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*manager, *pc, *pc, checkin.Reply) {
		m := newManager(t)
		p, twin := newPC(m, "alpha"), newPC(m, "twin")
		p.checkIn()
		twin.report.HostID = p.report.HostID
		return m, p, twin, twin.checkIn()
	}
	refused := func(t *testing.T, m *manager, p *pc) {
		t.Helper()
		var refusal *checkin.Refusal
		if _, err := m.CheckIn(t.Context(), p.next()); !errors.As(err, &refusal) || refusal.Code != checkin.BadToken {
			t.Errorf("got %v, want bad-token", err)
		}
	}
	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		m, _, twin, reply := setup(t)
		other := twin.clone()
		twin.obey(reply)
		twin.checkIn()
		other.obey(reply)
		refused(t, m, other)
	})
	t.Run("another lineage", func(t *testing.T) {
		t.Parallel()
		m, _, twin, reply := setup(t)
		twin.obey(reply)
		twin.report.CopyOf = hostid.NewID()
		refused(t, m, twin)
	})
	t.Run("without the acknowledgement", func(t *testing.T) {
		t.Parallel()
		m, _, twin, reply := setup(t)
		twin.obey(reply)
		twin.report.Done = nil
		refused(t, m, twin)
	})
	t.Run("for another PC's host ID", func(t *testing.T) {
		t.Parallel()
		m, _, twin, reply := setup(t)
		victim := newPC(m, "victim")
		victim.checkIn()
		twin.obey(reply)
		twin.report.HostID = victim.report.HostID
		refused(t, m, twin)
		expect(t, "conflicts", m.conflictKinds(), []string{"other-key"})
	})
	t.Run("void", func(t *testing.T) {
		t.Parallel()
		m, _, twin, reply := setup(t)
		late := twin.clone()
		twin.start() // the next run has an order of its own
		again := twin.checkIn()
		if len(again.Orders) != 1 || again.Orders[0].ID == reply.Orders[0].ID || again.Orders[0].Run != twin.report.Run {
			t.Errorf("orders %+v, want a new one for the new run", again.Orders)
		}
		late.obey(reply)
		refused(t, m, late)
	})
}

// No order repeats for ever, neither within a run nor over runs.
func TestOrdersEnd(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func(*pc){"runs": func(p *pc) { p.start() }, "replies": func(*pc) {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			p, twin := newPC(m, "alpha"), newPC(m, "twin")
			p.checkIn()
			twin.report.HostID = p.report.HostID
			given, limit := 0, maxIssued
			if name == "replies" {
				twin.checkIn()
				_, err := m.writers.Exec(`UPDATE demands SET given = $1`, maxGiven-3)
				must(t, err)
				limit = 3
			}
			for range limit + 5 {
				given += len(twin.checkIn().Orders)
				step(twin)
			}
			expect(t, "orders given", given, limit)
			c := m.onlyConflict("other-key")
			expect(t, "status", c.Status, Waiting)
			m.resolve(c, KeepBoth) // an operator may have it tried again
			expect(t, "orders", len(twin.checkIn().Orders), 1)
		})
	}
}

// fleet is one original and copies of its disk in other PCs, all started at once.
func fleet(m *manager, copies int, facts func(i int) hardware.Facts) (original *pc, all []*pc) {
	original = newPC(m, "original")
	original.report.Facts = facts(0)
	for range 2 {
		original.checkIn()
		m.pass(DefaultInterval)
	}
	all = []*pc{original}
	for i := range copies {
		c := original.clone()
		c.report.Names.Host = fmt.Sprint("copy ", i)
		c.report.Facts = facts(i + 1)
		c.start()
		all = append(all, c)
	}
	original.start()
	return original, all
}

// Copies beside their original settle within three answered check-ins each, whoever comes first, by what there is.
func TestCopiesSettle(t *testing.T) {
	t.Parallel()
	distinct := func(i int) hardware.Facts { // board() has few different MACs
		f := board(fmt.Sprint("pc", i))
		f.SystemUUID, f.NICs = fmt.Sprintf("4c4c4544-0031-4a10-8042-%012x", i), nil
		return f
	}
	for name, tt := range map[string]struct {
		facts  func(i int) hardware.Facts
		last   bool // the original comes last
		copies int
	}{
		"boards":                         {distinct, false, manyCopies},
		"boards, original last":          {distinct, true, 9},
		"boards, disks not told":         {func(i int) hardware.Facts { f := distinct(i); f.Disks = nil; return f }, true, 9},
		"placeholders and disks":         {func(i int) hardware.Facts { return onlyDisk(i) }, false, 9},
		"placeholders and disks, last":   {func(i int) hardware.Facts { return onlyDisk(i) }, true, manyCopies / 2},
		"nothing at all, original first": {func(int) hardware.Facts { return hardware.Facts{SystemUUID: strings.Repeat("f", 32)} }, false, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			copies := tt.copies
			original, all := fleet(m, copies, tt.facts)
			id := original.report.HostID
			if tt.last {
				all = append(all[1:], original)
			}
			for range 3 {
				m.round(all...)
			}
			for _, p := range all { // who was told by its third answer says now that it is done
				if p.report.Done != nil {
					p.obey(p.checkIn())
				}
			}
			expect(t, "assets", m.assetCount(), copies+1)
			expect(t, "the original's host ID", original.report.HostID, id)
			expect(t, "conflicts", m.conflictKinds(), nil)
			for _, p := range all {
				a := m.asset(p.report.HostID)
				expect(t, "name", a.Name, p.report.Names.Host)
				if p != original {
					expect(t, "lineage", m.copyOf(p), id.String())
				}
			}
			closed, err := m.ClosedConflicts(t.Context(), 100)
			must(t, err)
			if n := len(closed); n > 2*maxOpen+1 {
				t.Errorf("%d conflicts", n)
			}
			for range 3 { // and it stays so
				m.round(all...)
			}
			expect(t, "assets", m.assetCount(), copies+1)
			expect(t, "conflicts", m.conflictKinds(), nil)
			expect(t, "facts", m.asset(id).Facts, original.report.Facts)
		})
	}
}

func onlyDisk(i int) hardware.Facts {
	return hardware.Facts{SystemUUID: "ffffffff-ffff-ffff-ffff-ffffffffffff", BoardSerial: "To Be Filled By O.E.M.",
		Disks: []hardware.Disk{{Serial: fmt.Sprint("disk ", i), System: true}}}
}

// Values that many PCs share make one conflict that names them, and an asset for each once they are placeholders.
func TestSharedUnlistedValues(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	const uuid, serial = "4c4c4544-0031-4a10-8042-b4c04f5a3131", "MODEL 7"
	original, all := fleet(m, manyCopies/2, func(i int) hardware.Facts {
		f := onlyDisk(i)
		f.SystemUUID, f.BoardSerial = uuid, serial
		return f
	})
	id := original.report.HostID
	for range 3 {
		m.round(all...)
	}
	c := m.onlyConflict("overlap")
	var e struct{ Shared []string }
	must(t, json.Unmarshal(c.Evidence, &e))
	expect(t, "shared", e.Shared, []string{"system_uuid " + uuid, "board_serial " + serial})
	if s := c.Sentence(English); !strings.Contains(s, uuid) || !strings.Contains(s, serial) {
		t.Errorf("sentence %q does not name what is shared", s)
	}
	expect(t, "field", c.Fields[hostid.SystemUUID], Field{"system_uuid", Equal, uuid, uuid})
	expect(t, "proposal", c.Proposal.Sentence(English), "Only an operator can decide. Both claim the same board while both are alive: a value that they share, or a forged one.")
	expect(t, "assets", m.assetCount(), 1)

	must(t, m.AddPlaceholder(t.Context(), "uuid", strings.ToUpper(uuid), "alice"))
	expect(t, "with the serial still", m.conflictKinds(), []string{"overlap"})
	must(t, m.AddPlaceholder(t.Context(), "serial", "model  7", "alice"))
	expect(t, "conflicts", m.conflictKinds(), nil)
	reply := original.checkIn()
	expect(t, "handed out", reply.Placeholders, "serial MODEL 7\nuuid 4C4C4544-0031-4A10-8042-B4C04F5A3131\n")
	original.report.Placeholders = m.marks.Load().digest
	expect(t, "handed out again", original.checkIn().Placeholders, "")
	for range 3 {
		m.round(all...)
	}
	expect(t, "assets", m.assetCount(), manyCopies/2+1)
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "the original's host ID", original.report.HostID, id)
}

// PCs that share values, each with a host ID of its own, are one question too, and each stays an asset.
func TestSuggestedPlaceholders(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	const uuid = "4c4c4544-0031-4a10-8042-b4c04f5a3131"
	var all []*pc
	for i := range 5 {
		p := newPC(m, fmt.Sprint("pc", i))
		p.report.Facts = hardware.Facts{SystemUUID: uuid, ChassisSerial: "CASE", Disks: []hardware.Disk{{Serial: fmt.Sprint(i), System: true}}}
		p.checkIn()
		all = append(all, p)
	}
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
	got, err := m.SuggestPlaceholders(t.Context())
	must(t, err)
	expect(t, "suggestions", got, []Suggestion{{"uuid", uuid, 5}, {"serial", "CASE", 5}})
	must(t, m.AddPlaceholder(t.Context(), "uuid", uuid, "alice"))
	must(t, m.AddPlaceholder(t.Context(), "uuid", uuid, "alice"))
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"}) // the case still says so
	must(t, m.AddPlaceholder(t.Context(), "serial", "case", "bob"))
	expect(t, "conflicts", m.conflictKinds(), nil)
	list, err := m.Placeholders(t.Context())
	must(t, err)
	expect(t, "list", list, []Placeholder{{"serial", "CASE", testEpoch, "bob"}, {"uuid", strings.ToUpper(uuid), testEpoch, "alice"}})
	got, err = m.SuggestPlaceholders(t.Context())
	must(t, err)
	expect(t, "suggestions", got, nil)
	for _, p := range all {
		expect(t, "provisional", p.checkIn().Provisional, false)
	}
	must(t, m.RemovePlaceholder(t.Context(), "uuid", uuid, "alice"))
	if err := m.RemovePlaceholder(t.Context(), "uuid", uuid, "alice"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	got, err = m.SuggestPlaceholders(t.Context())
	must(t, err)
	expect(t, "suggestions", got, []Suggestion{{"uuid", uuid, 5}})
	for _, bad := range [][2]string{{"uuid", "*"}, {"serial", ""}, {"disk", "x"}, {"serial", "a\nserial b"}, {"serial", "# x\n"}} {
		if err := m.AddPlaceholder(t.Context(), bad[0], bad[1], "alice"); !errors.Is(err, ErrPlaceholder) {
			t.Errorf("%q: got %v, want ErrPlaceholder", bad, err)
		}
	}
}

// Who never comes back holds no conflict open for ever.
func TestLinesThatAreGone(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, twin := newPC(m, "alpha"), newPC(m, "twin")
	p.checkIn()
	twin.report.HostID = p.report.HostID
	twin.checkIn()
	m.pass(keepReport)
	must(t, m.Trim(t.Context()))
	expect(t, "conflicts", m.conflictKinds(), []string{"other-key"})
	m.pass(time.Millisecond)
	must(t, m.Trim(t.Context()))
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "orders", len(twin.checkIn().Orders), 1) // and if he does, he is told anew
	m.onlyConflict("other-key")
}

// A database of the release before keeps its assets, what is open and who keeps them.
func TestTablesOfTheReleaseBefore(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	old, other := newPC(m, "alpha"), newPC(m, "beta")
	old.checkIn()
	other.report.Observations = []checkin.Observation{{Kind: string(hostid.Moved), Detail: "x"}}
	other.checkIn()
	m.pass(4 * DefaultInterval)
	p := old.successor()
	p.replaces(old)
	p.checkIn()
	p.checkIn()
	was := m.asset(p.report.HostID)
	for _, q := range []string{
		`DROP VIEW hosts_now`, `DROP VIEW branches_now`, `DROP TABLE resting`, `DROP TABLE trails`, `DROP TABLE rates`, `DROP TABLE pace`,
		`ALTER TABLE branches DROP COLUMN base`, `ALTER TABLE branches DROP COLUMN words`, `ALTER TABLE hosts DROP COLUMN route`, `ALTER TABLE intervals DROP COLUMN first_at`,
		`CREATE TABLE conflict_epochs (conflict_id BIGINT NOT NULL, epoch_id BIGINT NOT NULL, PRIMARY KEY (conflict_id, epoch_id))`,
		`INSERT INTO conflict_epochs SELECT l.conflict_id, b.epoch_id FROM conflict_lines l JOIN branches b ON b.id = l.branch_id`,
		`DROP TABLE conflict_lines`, `DROP TABLE groupings`, `DROP TABLE kept_apart`, `DROP TABLE orders`, `DROP TABLE demands`, `DROP TABLE blocks`,
		`DROP TABLE resolutions`, `DROP TABLE rules`, `DROP TABLE placeholders`, `DROP TABLE placeholder_list`,
		`DROP INDEX conflicts_other_host`, `DROP INDEX hosts_copy_of`,
		`ALTER TABLE conflicts DROP COLUMN other_host`, `ALTER TABLE conflicts DROP COLUMN resolution`, `ALTER TABLE conflicts DROP COLUMN held`, `ALTER TABLE conflicts DROP COLUMN proposal`,
		`ALTER TABLE hosts DROP COLUMN home`, `ALTER TABLE hosts DROP COLUMN keeper`, `ALTER TABLE hosts DROP COLUMN waiting`, `ALTER TABLE hosts DROP COLUMN facts`,
		`ALTER TABLE hosts DROP COLUMN seen`, `ALTER TABLE hosts DROP COLUMN heard`, `ALTER TABLE hosts DROP COLUMN since`,
		`ALTER TABLE assets DROP COLUMN keep_host`, `ALTER TABLE branches DROP COLUMN facts`, `ALTER TABLE tokens DROP COLUMN order_id`,
		`DELETE FROM goose_db_version WHERE version_id IN (4, 7)`,
	} {
		if _, err := m.writers.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	must(t, m.Close())
	reg, err := Open(t.Context(), m.dsn, Options{Key: m.key, Now: m.clock})
	must(t, err)
	t.Cleanup(func() { reg.Close() })
	m.Registry = reg
	expect(t, "the asset", m.asset(old.report.HostID), was)
	expect(t, "conflicts", m.conflictKinds(), []string{"observed"})
	p.checkIn()
	expect(t, "the asset", m.asset(old.report.HostID).HostIDs, was.HostIDs)
	expect(t, "facts", m.asset(old.report.HostID).Facts, was.Facts)
	other.report.Observations = nil
	expect(t, "provisional", other.checkIn().Provisional, true)
}

// Who knows the ID of an order cannot acknowledge it for whom it is meant.
func TestForgedAcknowledgements(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, twin, early := newPC(m, "alpha"), newPC(m, "twin"), newPC(m, "early")
	p.checkIn()
	early.checkIn()
	m.pass(time.Minute)
	twin.report.HostID = p.report.HostID
	order := twin.checkIn().Orders[0]
	forge := func(q *pc, copyOf hostid.ID) {
		t.Helper()
		q.report.Done, q.report.CopyOf = []string{order.ID}, copyOf
		q.checkIn()
		expect(t, "the order", twin.checkIn().Orders, []checkin.Order{order})
	}
	forge(newPC(m, "no lineage"), hostid.ID{})
	forge(newPC(m, "another lineage"), early.report.HostID)
	forge(early, p.report.HostID) // enrolled before the order
	forge(newPC(m, "all that can be read on the way"), p.report.HostID)
	forge(p, hostid.ID{})
	m.onlyConflict("other-key")
}

// Who restored its host ID from memory on the board is not ordered away by who did not.
func TestRestoredIsNotOrderedAway(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	m.round(p)
	q := p.clone()
	q.report.Facts, q.report.Names.Host = board("beta"), "beta"
	q.begin(checkin.EpochRestore)
	id := p.report.HostID
	for range 4 {
		m.round(p, q)
	}
	expect(t, "host IDs", []hostid.ID{p.report.HostID, q.report.HostID}, []hostid.ID{id, id})
	expect(t, "conflicts", m.conflictKinds(), []string{"other-board", "overlap"})
	expect(t, "proposal", m.open()[1].Proposal, Proposal{Why: "overlap-restored"})
}

// What an operator undid, no rule does again: the copy has its host ID back, and keeps it.
func TestUndoneRuleIsHeld(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	original, all := fleet(m, 1, onlyDisk)
	q, id := all[1], original.report.HostID
	for range 4 {
		m.round(all...)
	}
	if q.report.HostID == id {
		t.Fatal("the copy was not ordered away")
	}
	closed, err := m.ClosedConflicts(t.Context(), 1)
	must(t, err)
	expect(t, "why", closed[0].Proposal.Why, "overlap-disk")
	must(t, m.Undo(t.Context(), closed[0].Decided[0].ID, "bob"))
	for range 6 {
		m.round(all...)
	}
	expect(t, "host ID", q.report.HostID, id)
	expect(t, "status", m.onlyConflict("overlap").Status, Waiting)
}

// An order that its PC says it cannot carry out is not told again, whatever else counts of what that PC says.
func TestOrderThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	fails := func(p *pc, o checkin.Order) {
		t.Helper()
		expect(t, "still told", p.checkIn().Orders, []checkin.Order{o})
		p.report.Observations = append(p.report.Observations, checkin.Observation{Kind: checkin.ObservedOrderFailed, Mine: p.report.HostID, Other: o.Other, Order: o.ID, Detail: "x"})
		for range 3 {
			expect(t, "told again", len(p.checkIn().Orders), 0)
			p.m.pass(DefaultInterval)
		}
		m := p.m
		var outcome string
		must(t, m.readers.QueryRow(`SELECT outcome FROM demands WHERE kind = $1`, string(o.Kind)).Scan(&outcome))
		expect(t, "outcome", outcome, demandFailed)
	}
	t.Run("by the host", func(t *testing.T) {
		t.Parallel()
		c := clashes["memory-foreign"](newManager(t))
		c.m.resolve(c.m.onlyConflict("observed"), Merge)
		fails(c.p, c.p.checkIn().Orders[0])
	})
	t.Run("by a line that was blocked since", func(t *testing.T) {
		t.Parallel()
		c := clashes["memory-foreign"](newManager(t))
		c.p.report.Facts = board("gamma")
		c.m.round(c.p)
		open := c.m.open()
		expect(t, "conflicts", c.m.conflictKinds(), []string{"observed", "other-board"})
		c.m.resolve(open[0], Merge)
		c.m.resolve(open[1], Block)
		orders := c.p.checkIn().Orders
		expect(t, "orders", []checkin.OrderKind{orders[0].Kind, orders[1].Kind}, []checkin.OrderKind{checkin.OrderUseNonvolatile, checkin.OrderFullReport})
		c.p.report.Done = []string{orders[1].ID}
		fails(c.p, orders[0])
	})
	t.Run("under another key", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p, twin := newPC(m, "alpha"), newPC(m, "twin")
		p.checkIn()
		twin.report.HostID = p.report.HostID
		fails(twin, twin.checkIn().Orders[0])
	})
}

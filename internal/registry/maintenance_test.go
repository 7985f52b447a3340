package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

var alice = Actor{"alice", ByCommand}

// told is everything that the registry tells: what restoring must bring back.
func (m *manager) told(but ...string) string {
	m.t.Helper()
	ctx := m.t.Context()
	all := map[string]any{}
	assets, err := m.Assets(ctx)
	must(m.t, err)
	all["assets"] = assets
	ids, err := scanAll(ctx, m.readers, scanText, `SELECT host_id FROM hosts ORDER BY host_id`)
	must(m.t, err)
	for _, text := range ids {
		id, err := hostid.ParseID(text)
		must(m.t, err)
		a, err := m.Asset(ctx, id)
		must(m.t, err)
		events, err := m.HistoryOf(ctx, id)
		must(m.t, err)
		events = slices.DeleteFunc(events, func(e Event) bool { return slices.Contains(but, e.Kind) })
		orders, err := m.OrdersOf(ctx, id)
		must(m.t, err)
		all[text] = map[string]any{"asset": a, "history": events, "orders": orders}
	}
	if all["conflicts"], err = m.Conflicts(ctx); err != nil {
		m.t.Fatal(err)
	}
	if all["closed"], err = m.ClosedConflicts(ctx, 1000); err != nil {
		m.t.Fatal(err)
	}
	entries, remarks, err := m.SystemConfiguration(ctx, sysconfig.UTF8, hostid.ID{})
	must(m.t, err)
	all["configuration"], all["remarks"] = entries, remarks
	all["grouping"] = m.dump()
	b, err := json.MarshalIndent(all, "", " ")
	must(m.t, err)
	return string(b)
}

// crowded is a registry with some of everything about one asset: two host IDs, an open conflict, one that was decided, orders,
// attempts to initialize it, an imported comment.
func crowded(t *testing.T) (m *manager, p *pc) {
	m = newManager(t)
	old := newPC(m, "alpha")
	m.round(old)
	p = old.successor()
	p.replaces(old)
	m.pass(liveIntervals * DefaultInterval)
	m.round(p)
	m.importFile("192.0.2.7 alpha TYPE=client,COMMENT=third floor\n")
	m.took(t, m.failed("alpha", p.report.Facts.SystemUUID))
	q := newPC(m, "beta")
	q.report.Facts.SystemUUID, q.report.Facts.BoardSerial = p.report.Facts.SystemUUID, p.report.Facts.BoardSerial
	m.round(p, q)
	r := m.resolve(m.onlyConflict("same-board"), Merge)
	m.round(p, q)
	m.round(p, q)
	must(t, m.Undo(t.Context(), r.ID, "bob"))
	p.report.Observations = []checkin.Observation{{Kind: string(hostid.Moved), Mine: p.report.HostID, Detail: "x"}}
	m.round(p, q)
	p.report.Observations = nil
	if len(m.open()) < 2 || len(m.asset(p.report.HostID).HostIDs) != 2 || m.asset(p.report.HostID).Initialization == nil {
		t.Fatalf("the registry is not as crowded as it should be: %v", m.conflictKinds())
	}
	return m, p
}

// took takes one attempt to initialize a PC, as from a journal.
func (m *manager) took(t testing.TB, i Initialization) {
	t.Helper()
	i.By, i.Machine = "root", "mgr"
	name := fmt.Sprint("j", i.Host, m.clock().UnixNano())
	_, err := m.Initializations(t.Context(), Position{Name: name}, Position{Name: name, Head: "h", Offset: 1}, []Initialization{i})
	must(t, err)
}

// Deleting and restoring leaves exactly what was there, but for the two events.
func TestRestoreIsExact(t *testing.T) {
	t.Parallel()
	m, p := crowded(t)
	before := m.told()
	count := m.assetCount()
	for _, by := range []string{"host ID", "number"} {
		d, err := m.Delete(t.Context(), p.report.HostID, alice)
		must(t, err)
		expect(t, "assets", m.assetCount(), count-1)
		for _, c := range m.open() {
			if c.HostID == p.report.HostID {
				t.Errorf("conflict %d of a deleted asset is listed", c.ID)
			}
		}
		a := m.asset(p.report.HostID)
		expect(t, "state", a.State, Deleted)
		expect(t, "who", a.Maintenance.Who, "alice")
		if _, err := m.Delete(t.Context(), p.report.HostID, alice); !errors.Is(err, ErrState) {
			t.Errorf("deleted twice: %v", err)
		}
		if by == "number" {
			_, err = m.RestoreDeletion(t.Context(), d.ID, Actor{"bob", ByAPI})
		} else {
			_, err = m.Restore(t.Context(), p.report.HostID, Actor{"bob", ByAPI})
		}
		must(t, err)
		expect(t, "everything", m.told("deleted", "restored"), before)
		if _, err := m.Restore(t.Context(), p.report.HostID, alice); !errors.Is(err, ErrState) {
			t.Errorf("restored twice: %v", err)
		}
		if _, err := m.RestoreDeletion(t.Context(), d.ID, alice); !errors.Is(err, ErrState) {
			t.Errorf("restored twice: %v", err)
		}
	}
	deletions, err := m.Deletions(t.Context())
	must(t, err)
	expect(t, "deletions", len(deletions), 2)
	d := deletions[0]
	expect(t, "host IDs", len(d.HostIDs), 2)
	expect(t, "name, who, trigger, ended by, ended trigger", []any{d.Name, d.Who, d.Trigger, d.EndedBy, d.EndedTrigger}, []any{"alpha", "alice", ByCommand, "bob", ByAPI})
	if _, err := m.RestoreDeletion(t.Context(), 99, alice); !errors.Is(err, ErrUnknown) {
		t.Errorf("no such deletion: %v", err)
	}
	if _, err := m.Delete(t.Context(), hostid.NewID(), alice); !errors.Is(err, ErrUnknown) {
		t.Errorf("no such host: %v", err)
	}
}

// What is deleted or archived comes back as what it was when its PC reports.
func TestComesBack(t *testing.T) {
	t.Parallel()
	for kind, hide := range map[string]func(m *manager, id hostid.ID) error{
		"came-back": func(m *manager, id hostid.ID) error {
			_, err := m.Delete(m.t.Context(), id, alice)
			return err
		},
		"came-back-archived": func(m *manager, id hostid.ID) error {
			done, err := m.Archive(m.t.Context(), 30, false, alice)
			if err == nil && len(done.Assets) != 1 {
				err = fmt.Errorf("archived %v", done.Assets)
			}
			return err
		},
	} {
		for name, report := range map[string]struct {
			change func(p *pc)
			back   bool
		}{
			"again":            {func(p *pc) {}, true},
			"reinstalled":      {func(p *pc) { p.begin(checkin.EpochRestore) }, true},
			"on another board": {func(p *pc) { p.report.Facts = board("gamma") }, true},
			"as a new host with proof": {func(p *pc) {
				q := p.successor()
				q.replaces(p)
				*p = *q
			}, true},
			"as a new host": {func(p *pc) {
				q := p.successor()
				q.report.Facts = board("gamma")
				*p = *q
			}, false},
			"under another key": {func(p *pc) {
				p.seed = hostid.NewSeed()
				p.report.SealKey = p.seed.SealingKey().PublicKey().Bytes()
				p.begin(checkin.EpochInstall)
			}, false},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				m := newManager(t)
				p := newPC(m, "alpha")
				m.round(p)
				id := p.report.HostID
				m.pass(40 * day)
				must(t, hide(m, id))
				hidden := m.asset(id).State
				expect(t, "listed", hidden.Listed(), false)
				report.change(p)
				p.checkIn()
				expect(t, "state is what it was", m.asset(id).State == hidden, !report.back)
				expect(t, "history tells it", slices.Contains(m.kinds(id), kind), report.back)
				if report.back {
					expect(t, "asset", m.asset(id).HostIDs[0], p.report.HostID)
					m.sentencesAreWhole(id)
				}
			})
		}
	}
}

func (m *manager) sentencesAreWhole(id hostid.ID) {
	m.t.Helper()
	events, err := m.HistoryOf(m.t.Context(), id)
	must(m.t, err)
	for _, l := range []Language{English, Japanese} {
		for _, e := range events {
			if s := e.Sentence(l); strings.ContainsAny(s, "?{}") || strings.Contains(s, "trigger-") {
				m.t.Errorf("%s: %q", e.Kind, s)
			}
		}
	}
}

// A retired PC stays retired, whatever it reports, until an operator takes it back; then nothing is left of it but history.
func TestRetire(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	m.round(p)
	id := p.report.HostID
	_, err := m.Retire(t.Context(), id, alice)
	must(t, err)
	if _, err := m.Retire(t.Context(), id, alice); !errors.Is(err, ErrState) {
		t.Errorf("retired twice: %v", err)
	}
	expect(t, "state", []any{m.asset(id).State, m.asset(id).HeardSince}, []any{Retired, false})
	expect(t, "it is among the assets", m.assetCount(), 1)
	p.report.Names.Host = "renamed"
	for range 3 {
		m.round(p)
	}
	a := m.asset(id)
	expect(t, "state, heard, name", []any{a.State, a.HeardSince, a.Name}, []any{Retired, true, "renamed"})
	q := p.successor() // the same PC after a failed restore
	q.replaces(p)
	m.pass(liveIntervals * DefaultInterval)
	q.checkIn()
	expect(t, "state of its successor in the same PC", m.asset(q.report.HostID).State, Retired)
	expect(t, "events", slices.DeleteFunc(m.kinds(id), func(k string) bool { return !strings.Contains(k, "retired") }), []string{"retired", "heard-retired"})
	_, err = m.Delete(t.Context(), id, alice)
	must(t, err)
	expect(t, "state", m.asset(id).State, Deleted)
	q.checkIn()
	expect(t, "state", m.asset(id).State, Retired)
	_, err = m.Unretire(t.Context(), q.report.HostID, Actor{"bob", ByAPI})
	must(t, err)
	expect(t, "state", m.asset(id).State, Live)
	if _, err := m.Unretire(t.Context(), id, alice); !errors.Is(err, ErrState) {
		t.Errorf("taken back twice: %v", err)
	}
	m.sentencesAreWhole(id)
}

// A new PC takes the place of an old one. Whatever the old one does, the new one's facts stay; undoing it leaves what
// would be without it.
func TestReplace(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(m *manager, old, new *pc){
		"nothing": func(*manager, *pc, *pc) {},
		"both live": func(m *manager, old, new *pc) {
			old.report.Facts.BoardSerial, old.report.Names.Host = "changed", "renamed"
			for range 4 {
				m.round(old, new)
			}
		},
		"only the old one": func(m *manager, old, new *pc) {
			m.pass(liveIntervals * DefaultInterval)
			for range 4 {
				m.round(old)
			}
		},
		"the old one reinstalled": func(m *manager, old, new *pc) {
			old.begin(checkin.EpochRestore)
			old.report.Names.Host = "again"
			m.round(old, new)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var dumps [2][]string
			for i := range dumps {
				m := newManager(t)
				old, new := newPC(m, "alpha"), newPC(m, "beta")
				for n, p := range []*pc{old, new} { // the same in both
					p.seed = hostid.Seed{byte(n + 1)}
					p.report.HostID = hostid.ID{byte(n + 1)}
					p.report.SealKey = p.seed.SealingKey().PublicKey().Bytes()
				}
				m.round(old)
				m.round(new)
				m.importFile("192.0.2.7 alpha TYPE=client,COMMENT=third floor\n")
				m.took(t, m.done("beta", new.report.Facts.SystemUUID))
				m.took(t, m.failed("alpha", old.report.Facts.SystemUUID))
				if i == 1 {
					r, err := m.Replace(t.Context(), old.report.HostID, new.report.HostID, alice)
					must(t, err)
					expect(t, "host IDs", r.HostIDs, []hostid.ID{old.report.HostID})
				}
				facts := new.report.Facts
				later(m, old, new)
				if i == 1 {
					a := m.asset(old.report.HostID)
					expect(t, "one asset", m.assetCount(), 1)
					expect(t, "host IDs", a.HostIDs, []hostid.ID{new.report.HostID, old.report.HostID})
					expect(t, "facts", a.Facts, facts)
					expect(t, "name", a.Name, "beta")
					expect(t, "last attempt", a.Initialization.Host, "beta")
					expect(t, "conflicts", m.conflictKinds(), nil)
					if len(a.Predecessors) != 1 {
						t.Fatalf("%d predecessors", len(a.Predecessors))
					}
					p := a.Predecessors[0]
					expect(t, "predecessor", []any{p.Name, p.Comment, p.HostID, p.Successor}, []any{"alpha", "third floor", old.report.HostID, new.report.HostID})
					if _, err := m.Delete(t.Context(), old.report.HostID, alice); !errors.Is(err, ErrSucceeded) {
						t.Errorf("delete the predecessor: %v", err)
					}
					if _, err := m.Retire(t.Context(), old.report.HostID, alice); !errors.Is(err, ErrSucceeded) {
						t.Errorf("retire the predecessor: %v", err)
					}
					if _, err := m.Replace(t.Context(), old.report.HostID, new.report.HostID, alice); !errors.Is(err, ErrSucceeded) {
						t.Errorf("replace it twice: %v", err)
					}
					heard := slices.Contains(m.kinds(old.report.HostID), "heard-succeeded")
					expect(t, "heard", heard, name != "nothing")
					m.sentencesAreWhole(old.report.HostID)
					entries, _, err := m.SystemConfiguration(t.Context(), sysconfig.UTF8, hostid.ID{})
					must(t, err)
					expect(t, "exported", []any{len(entries), entries[0].Name, entries[0].Comment}, []any{1, "beta", "third floor"})
					_, err = m.UndoReplace(t.Context(), old.report.HostID, Actor{"bob", ByCommand})
					must(t, err)
					if _, err := m.UndoReplace(t.Context(), old.report.HostID, alice); !errors.Is(err, ErrState) {
						t.Errorf("undone twice: %v", err)
					}
					expect(t, "last attempt", m.asset(old.report.HostID).Initialization.Host, "alpha")
					expect(t, "conflicts", m.conflictKinds(), nil)
				}
				dumps[i] = m.dump()
			}
			expect(t, "everything that grouping decides", dumps[1], dumps[0])
		})
	}
}

// What goes on for the old PC under another host ID is the old PC, and not its successor.
func TestReplacedPCUnderAnotherID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old, new := newPC(m, "alpha"), newPC(m, "beta")
	m.round(old, new)
	_, err := m.Replace(t.Context(), old.report.HostID, new.report.HostID, alice)
	must(t, err)
	q := old.successor()
	q.replaces(old)
	m.pass(liveIntervals * DefaultInterval)
	m.round(q)
	for range 3 {
		m.round(q)
	}
	a := m.asset(q.report.HostID)
	expect(t, "facts", a.Facts, new.report.Facts)
	expect(t, "name", a.Name, "beta")
	expect(t, "host IDs", len(a.HostIDs), 3)
	_, err = m.UndoReplace(t.Context(), old.report.HostID, alice)
	must(t, err)
	expect(t, "facts", m.asset(new.report.HostID).Facts, new.report.Facts)
	expect(t, "one PC", m.asset(q.report.HostID).HostIDs, []hostid.ID{q.report.HostID, old.report.HostID})
	expect(t, "facts", m.asset(old.report.HostID).Facts, old.report.Facts)
}

func TestReplaceRefuses(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a, b := newPC(m, "alpha"), newPC(m, "beta")
	b.report.Facts = a.report.Facts
	m.round(a, b)
	one, two := a.report.HostID, b.report.HostID
	refuses := func(what string, x, y hostid.ID, want error) {
		t.Helper()
		if _, err := m.Replace(t.Context(), x, y, alice); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuses("same board", one, two, ErrClash)
	m.resolve(m.onlyConflict("same-board"), KeepBoth)
	m.round(a, b)
	m.round(a, b)
	refuses("itself", one, one, ErrState)
	refuses("nobody", hostid.NewID(), one, ErrUnknown)
	for _, hide := range []struct {
		do, undo func() error
		as       string
	}{
		{func() error { _, err := m.Delete(t.Context(), two, alice); return err }, func() error { _, err := m.Restore(t.Context(), two, alice); return err }, "deleted"},
		{func() error { _, err := m.Retire(t.Context(), two, alice); return err }, func() error { _, err := m.Unretire(t.Context(), two, alice); return err }, "retired"},
	} {
		must(t, hide.do())
		refuses("by one that is "+hide.as, one, two, ErrState)
		must(t, hide.undo())
	}
	_, err := m.Retire(t.Context(), one, alice)
	must(t, err)
	_, err = m.Replace(t.Context(), one, two, alice) // what left is succeeded later
	must(t, err)
	expect(t, "state", m.asset(two).State, Live)
	_, err = m.UndoReplace(t.Context(), one, alice)
	must(t, err)
	expect(t, "state", m.asset(one).State, Retired)
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	var pcs []*pc
	add := func(name, mac, ip string) *pc {
		p := newPC(m, fmt.Sprint("pc", len(pcs)))
		p.report.Names.Host, p.report.Facts.NICs[0].MAC, p.report.Addresses = name, mac, []string{"127.0.0.1", "fe80::1", ip}
		m.round(p)
		pcs = append(pcs, p)
		return p
	}
	add("PC-A", "00-1B-21-00-01-01", "192.0.2.1")
	add("pc-a", "00-1B-21-00-01-01", "192.0.2.1")
	add("pc-b", "00-1B-21-00-01-02", "192.0.2.2")
	add("pc-c", "00-1B-21-00-01-02", "192.0.2.3")
	for i := range 3 { // a dock
		add(fmt.Sprint("dock", i/2), "00-1B-21-00-01-03", "192.0.2.4")
	}
	found := func(by ...Agreement) (pairs []string) {
		t.Helper()
		all, err := m.Duplicates(t.Context(), by)
		must(t, err)
		at := func(id hostid.ID) int {
			return slices.IndexFunc(pcs, func(p *pc) bool { return p.report.HostID == id })
		}
		for _, d := range all {
			pairs = append(pairs, fmt.Sprintf("%d joins %d: %s", at(d.HostID), at(d.Other), strings.Join(d.Values, " ")))
		}
		return pairs
	}
	expect(t, "by all", found(InName, InMAC, InIP, InMAC), []string{"1 joins 0: 00-1B-21-00-01-01 192.0.2.1 pc-a"})
	expect(t, "by MAC", found(InMAC), []string{"1 joins 0: 00-1B-21-00-01-01", "3 joins 2: 00-1B-21-00-01-02"})
	expect(t, "by IP", found(InIP), []string{"1 joins 0: 192.0.2.1", "5 joins 4: 192.0.2.4", "6 joins 5: 192.0.2.4"})
	expect(t, "by IP and name", found(InIP, InName), []string{"1 joins 0: 192.0.2.1 pc-a", "5 joins 4: 192.0.2.4 dock0"})
	for _, by := range [][]Agreement{nil, {"serial"}} {
		if _, err := m.Duplicates(t.Context(), by); !errors.Is(err, ErrUnknown) {
			t.Errorf("by %v: %v", by, err)
		}
	}

	before := m.dump()
	one, two := pcs[1].report.HostID, pcs[0].report.HostID
	if _, err := m.DecideDuplicate(t.Context(), two, one, Block, "alice"); !errors.Is(err, ErrVerb) {
		t.Errorf("block: %v", err)
	}
	if _, err := m.DecideDuplicate(t.Context(), pcs[0].report.HostID, pcs[2].report.HostID, Merge, "alice"); !errors.Is(err, ErrNoDuplicate) {
		t.Errorf("merge what agrees in nothing: %v", err)
	}
	expect(t, "nothing changed", m.dump(), before)
	r, err := m.DecideDuplicate(t.Context(), two, one, Merge, "alice")
	must(t, err)
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "host IDs", len(m.asset(two).HostIDs), 2)
	expect(t, "by all", found(InName, InMAC, InIP), nil)
	m.round(pcs[0], pcs[1])
	m.round(pcs[0], pcs[1])
	expect(t, "conflicts when both live", m.conflictKinds(), nil)
	m.sentencesAreWhole(one)
	must(t, m.Undo(t.Context(), r.ID, "bob"))
	expect(t, "hosts", []int{len(m.asset(one).HostIDs), len(m.asset(two).HostIDs)}, []int{1, 1})
	c := m.onlyConflict("duplicate")
	expect(t, "verbs", c.Verbs, []Verb{Merge, KeepBoth})
	if !strings.Contains(c.Sentence(English), "agree in mac, ip, name") {
		t.Errorf("sentence %q", c.Sentence(English))
	}
	_, err = m.Resolve(t.Context(), c.ID, KeepBoth, "bob")
	must(t, err)
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "by all", found(InName, InMAC, InIP), nil)
}

// The schedule counts days on which others were heard, and archives no great part at once.
func TestArchiveBySchedule(t *testing.T) {
	t.Parallel()
	const days = 30
	type fleet struct {
		m             *manager
		gone, present []*pc
	}
	start := func(t *testing.T, gone, present int) *fleet {
		f := &fleet{m: newManager(t)}
		for i := range gone + present {
			p := newPC(f.m, fmt.Sprint("pc", i))
			p.checkIn()
			if i < gone {
				f.gone = append(f.gone, p)
			} else {
				f.present = append(f.present, p)
			}
		}
		return f
	}
	live := func(f *fleet, n int) {
		for range n {
			f.m.pass(day)
			for _, p := range f.present {
				p.start() // switched off at night
				p.checkIn()
			}
		}
	}
	run := func(t *testing.T, f *fleet) (names []string, held int) {
		t.Helper()
		done, err := f.m.ArchiveBySchedule(t.Context(), days)
		must(t, err)
		for _, a := range done.Assets {
			names = append(names, a.Name)
		}
		return names, done.Held
	}
	archived := func(f *fleet) (n int) {
		all, err := f.m.Assets(t.Context())
		must(t, err)
		for _, a := range all {
			if a.State == Archived {
				n++
			}
		}
		return n
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		f := start(t, 2, 1)
		live(f, days)
		names, _ := run(t, f)
		expect(t, "a day too early", names, nil)
		live(f, 1)
		names, _ = run(t, f)
		expect(t, "archived", names, []string{"pc0", "pc1"})
		a := f.m.asset(f.gone[0].report.HostID)
		expect(t, "state, trigger", []any{a.State, a.Maintenance.Trigger}, []any{Archived, BySchedule})
		names, _ = run(t, f)
		expect(t, "again", names, nil)
		f.m.sentencesAreWhole(f.gone[0].report.HostID)
		done, err := f.m.ArchiveBySchedule(t.Context(), 0)
		must(t, err)
		expect(t, "never", len(done.Assets), 0)
	})
	t.Run("the manager was off", func(t *testing.T) {
		t.Parallel()
		f := start(t, 2, 1)
		f.m.pass(100 * day)
		names, _ := run(t, f)
		expect(t, "at its start", names, nil)
		live(f, days-1)
		names, _ = run(t, f)
		expect(t, "a day too early", names, nil)
		live(f, 2)
		names, _ = run(t, f)
		expect(t, "archived", names, []string{"pc0", "pc1"})
	})
	t.Run("nothing is known of the days before", func(t *testing.T) { // an upgrade, a restored backup
		t.Parallel()
		f := start(t, 2, 1)
		f.m.pass(100 * day)
		_, err := f.m.writers.ExecContext(t.Context(), `DELETE FROM contact_days`)
		must(t, err)
		live(f, days)
		names, _ := run(t, f)
		expect(t, "a day too early", names, nil)
		live(f, 1)
		names, _ = run(t, f)
		expect(t, "archived", names, []string{"pc0", "pc1"})
	})
	t.Run("the clock leapt", func(t *testing.T) {
		t.Parallel()
		f := start(t, 2, 1)
		live(f, 5)
		f.m.pass(10 * 365 * day)
		names, _ := run(t, f)
		expect(t, "ahead", names, nil)
		live(f, 3)
		names, _ = run(t, f)
		expect(t, "ahead", names, nil)
		f.m.pass(-10 * 365 * day)
		live(f, 2)
		names, _ = run(t, f)
		expect(t, "back again", names, nil)
		live(f, days)
		names, _ = run(t, f)
		expect(t, "archived", names, []string{"pc0", "pc1"}) // the last run was made in the future
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		f := start(t, archiveAlways+1, 1)
		live(f, days+1)
		names, held := run(t, f)
		expect(t, "archived", names, nil)
		expect(t, "held", held, archiveAlways+1)
		live(f, 1)
		_, held = run(t, f)
		expect(t, "held", held, archiveAlways+1)
		expect(t, "told", strings.Count(strings.Join(f.m.historyKinds(), " "), "archive-held"), 1)
		done, err := f.m.Archive(t.Context(), days, true, alice)
		must(t, err)
		expect(t, "an operator would archive", []int{len(done.Assets), done.ContactDays, archived(f)}, []int{archiveAlways + 1, days, 0})
		_, err = f.m.Archive(t.Context(), days, false, alice)
		must(t, err)
		expect(t, "archived", archived(f), archiveAlways+1)
		f.gone[0].checkIn()
		expect(t, "state", f.m.asset(f.gone[0].report.HostID).State, Live)
		_, err = f.m.Restore(t.Context(), f.gone[1].report.HostID, alice)
		must(t, err)
		expect(t, "state", f.m.asset(f.gone[1].report.HostID).State, Silent)
		f.m.sentencesAreWhole(f.gone[1].report.HostID)
		expect(t, "archived", archived(f), archiveAlways-1)
	})
	t.Run("in conflict, blocked, retired, deleted", func(t *testing.T) {
		t.Parallel()
		f := start(t, 4, 1)
		q := f.gone[0].successor()
		q.checkIn()
		q2 := f.gone[1].successor()
		q2.checkIn()
		for _, c := range f.m.open() {
			if c.HostID == q2.report.HostID {
				f.m.resolve(c, Block)
			}
		}
		q2.obey(q2.checkIn())
		q2.checkIn()
		_, err := f.m.Retire(t.Context(), f.gone[2].report.HostID, alice)
		must(t, err)
		_, err = f.m.Delete(t.Context(), f.gone[3].report.HostID, alice)
		must(t, err)
		live(f, days+1)
		names, _ := run(t, f)
		expect(t, "archived", names, []string{"pc1"}) // whose counterpart is blocked, not itself
	})
}

// What files say of a PC that was succeeded goes over to its successor, as far as they say nothing of that one. What is out of sight
// stands in no file.
func TestExportAfterMaintenance(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old, new, gone := newPC(m, "alpha"), newPC(m, "beta"), newPC(m, "gamma")
	m.round(old, new, gone)
	m.importFile("192.0.2.8 former HID=" + old.report.HostID.String() + ",COMMENT=third floor,ROOT=\\relay1\n" +
		"192.0.2.9 beta MAC=00-11-22-33-44-55,ROOT=\\relay2\n192.0.2.10 gamma\n")
	lines := func() (all []string) {
		entries, remarks, err := m.SystemConfiguration(t.Context(), sysconfig.UTF8, hostid.ID{})
		must(t, err)
		for _, e := range entries {
			all = append(all, e.Name+" "+e.Comment+" "+e.Root)
		}
		return append(all, remarks...)
	}
	before := lines()
	expect(t, "at first", before, []string{"alpha third floor \\relay1", "beta  \\relay2", "gamma  \\"})
	_, err := m.Replace(t.Context(), old.report.HostID, new.report.HostID, alice)
	must(t, err)
	_, err = m.Retire(t.Context(), gone.report.HostID, alice)
	must(t, err)
	expect(t, "afterwards", lines(), []string{"beta third floor \\relay2"})
	_, err = m.UndoReplace(t.Context(), old.report.HostID, alice)
	must(t, err)
	_, err = m.Unretire(t.Context(), gone.report.HostID, alice)
	must(t, err)
	expect(t, "undone", lines(), before)
}

// Results of dcmamtin about a PC that was succeeded stay with it, whatever is learnt of UUIDs.
func TestAttemptsOfASucceededPCStay(t *testing.T) {
	t.Parallel()
	for name, uuid := range map[string]string{"told by its name": "", "told by its UUID": board("alpha").SystemUUID} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			old, new := newPC(m, "alpha"), newPC(m, "beta")
			old.report.Facts.SystemUUID = uuid
			m.round(old, new)
			m.took(t, m.failed("alpha", board("alpha").SystemUUID))
			hang := func() []string {
				all, err := scanAll(t.Context(), m.readers, scanText, `SELECT name || ' ' || COALESCE(host_id, '') FROM initializations WHERE name = 'alpha' ORDER BY id`)
				must(t, err)
				return all
			}
			want := []string{"alpha " + old.report.HostID.String()}
			expect(t, "at first", hang(), want)
			_, err := m.Replace(t.Context(), old.report.HostID, new.report.HostID, alice)
			must(t, err)
			expect(t, "replaced", hang(), want)
			m.pass(time.Minute)
			i, j := m.failed("one", board("alpha").SystemUUID), m.failed("two", board("alpha").SystemUUID)
			i.Address, j.Address = "192.0.2.101", "192.0.2.102"
			_, err = m.Initializations(t.Context(), Position{Name: "shared"}, Position{Name: "shared", Head: "h", Offset: 1}, []Initialization{i, j})
			must(t, err)
			expect(t, "the UUID is shared", hang(), want)
		})
	}
}

// Deleting an asset parks the open conflicts about it, on either side of them: nobody is asked, nothing decides, no PC waits for it.
// Restoring brings back exactly those.
func TestDeletingParksConflicts(t *testing.T) {
	t.Parallel()
	for name, deletes := range map[string]func(p, q *pc) []*pc{
		"the asset":       func(p, q *pc) []*pc { return []*pc{p} },
		"the other asset": func(p, q *pc) []*pc { return []*pc{q} },
		"both":            func(p, q *pc) []*pc { return []*pc{p, q} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			q := newPC(m, "alpha")
			m.round(q)
			m.pass(liveIntervals * DefaultInterval) // q is not heard any more
			p := newPC(m, "beta")
			p.report.Facts.SystemUUID, p.report.Facts.BoardSerial = q.report.Facts.SystemUUID, q.report.Facts.BoardSerial
			m.round(p)
			c := m.onlyConflict("same-board")
			expect(t, "about", []hostid.ID{c.HostID, c.Other}, []hostid.ID{p.report.HostID, q.report.HostID})
			before := m.told()
			gone := deletes(p, q)
			for _, d := range gone {
				_, err := m.Delete(t.Context(), d.report.HostID, alice)
				must(t, err)
			}
			last := int64(len(gone))

			expect(t, "open conflicts", m.conflictKinds(), nil)
			page, _, err := m.ConflictsPage(t.Context(), false, 0, 10)
			must(t, err)
			expect(t, "page of open conflicts", len(page), 0)
			is, err := m.Conflict(t.Context(), c.ID)
			must(t, err)
			expect(t, "status, by, verbs", []any{is.Status, is.ParkedBy, len(is.Verbs)}, []any{Parked, last, 0})
			a := m.asset(p.report.HostID)
			expect(t, "conflicts counted, told", []int{a.Conflicts, len(a.Open)}, []int{0, 1})
			for _, v := range []Verb{Merge, KeepBoth, Block} {
				if _, err := m.Resolve(t.Context(), c.ID, v, "alice"); !errors.Is(err, ErrParked) {
					t.Errorf("%s: %v", v, err)
				}
				if _, err := m.Preview(t.Context(), c.ID, v); !errors.Is(err, ErrParked) {
					t.Errorf("%s, previewed: %v", v, err)
				}
			}
			for _, d := range slices.Backward(gone) {
				_, err := m.Restore(t.Context(), d.report.HostID, alice)
				must(t, err)
				if d != gone[0] {
					expect(t, "open conflicts with the other one still deleted", m.conflictKinds(), nil)
				}
			}
			expect(t, "everything", m.told("deleted", "restored"), before)
			expect(t, "provisional", p.checkIn().Provisional, true)
			m.resolve(m.onlyConflict("same-board"), KeepBoth)
		})
	}
}

// Whoever is in sight is served as if nothing had to be decided, whatever rules there are; what comes up after the deletion is asked.
func TestParkedConflictLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	q := newPC(m, "alpha")
	m.round(q)
	m.pass(liveIntervals * DefaultInterval)
	like := func(name string) *pc {
		p := newPC(m, name)
		p.report.Facts.SystemUUID, p.report.Facts.BoardSerial = q.report.Facts.SystemUUID, q.report.Facts.BoardSerial
		return p
	}
	p := like("beta")
	expect(t, "provisional", p.checkIn().Provisional, true)
	parked := m.onlyConflict("same-board")
	_, err := m.Delete(t.Context(), q.report.HostID, alice)
	must(t, err)

	// Also where nothing that it says is new any more: restoring is heard with the next report.
	var resting int
	for range 5 {
		m.pass(DefaultInterval)
		p.checkIn()
	}
	must(t, m.readers.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM resting`).Scan(&resting))
	expect(t, "hosts at rest", resting, 1)
	m.pass(DefaultInterval)
	p.checkIn()
	_, err = m.Restore(t.Context(), q.report.HostID, alice)
	must(t, err)
	m.pass(DefaultInterval)
	expect(t, "provisional", p.checkIn().Provisional, true)
	_, err = m.Delete(t.Context(), q.report.HostID, alice)
	must(t, err)
	must(t, m.SetRule(t.Context(), "same-board", Enforce, "alice"))
	for range 3 {
		m.pass(DefaultInterval)
		expect(t, "provisional", p.checkIn().Provisional, false)
	}
	expect(t, "state", m.asset(p.report.HostID).State, Live)
	expect(t, "open conflicts", m.conflictKinds(), nil)
	expect(t, "decided", slices.Contains(m.kinds(p.report.HostID), "rule-decided"), false)

	// The archive waits for what is asked, and for nothing else.
	m.pass(40 * day)
	due, err := m.Archive(t.Context(), 30, true, alice)
	must(t, err)
	var names []string
	for _, a := range due.Assets {
		names = append(names, a.Name)
	}
	expect(t, "to be archived", names, []string{"beta"})

	// A third one on that board is a new question, with those in sight and with the one that is deleted.
	r := like("gamma")
	expect(t, "provisional", r.checkIn().Provisional, true)
	open := m.open()
	if len(open) != 1 || open[0].HostID != r.report.HostID || open[0].ID == parked.ID {
		t.Fatalf("open: %+v", open)
	}
	// The PC itself takes back that it was deleted: the question is there at once.
	q.checkIn()
	is, err := m.Conflict(t.Context(), parked.ID)
	must(t, err)
	expect(t, "status", is.Status, Waiting)
	expect(t, "provisional", p.checkIn().Provisional, true)
}

// A PC that comes back without proof after its asset was deleted is asked about: it must not become a stranger. Merging shows
// the asset again; a PC that comes back with proof brings its own questions back in the same reply.
func TestComesBackAfterDeletionWithoutProof(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	q := newPC(m, "alpha")
	m.round(q)
	m.pass(liveIntervals * DefaultInterval)
	_, err := m.Delete(t.Context(), q.report.HostID, alice)
	must(t, err)
	p := newPC(m, "beta")
	p.report.Facts.SystemUUID, p.report.Facts.BoardSerial = q.report.Facts.SystemUUID, q.report.Facts.BoardSerial
	expect(t, "provisional", p.checkIn().Provisional, true)
	c := m.onlyConflict("same-board")
	expect(t, "about the deleted one", c.Other, q.report.HostID)
	_, err = m.Delete(t.Context(), p.report.HostID, alice)
	must(t, err)
	expect(t, "open conflicts", m.conflictKinds(), nil)
	expect(t, "provisional in the reply that takes the deletion back", p.checkIn().Provisional, true)
	m.resolve(m.onlyConflict("same-board"), Merge)
	m.round(p)
	m.round(p)
	a := m.asset(q.report.HostID)
	expect(t, "state, conflicts", []any{a.State, a.Conflicts}, []any{Live, 0})
	expect(t, "host IDs", len(a.HostIDs), 2)
}

package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

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
	entries, remarks, err := m.SystemConfiguration(ctx, sysconfig.UTF8)
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
	name := fmt.Sprint("j", m.clock().UnixNano())
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

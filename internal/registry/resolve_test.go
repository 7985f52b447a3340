package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A clash is a conflict of some kind, ready to be decided, and the PCs that it is about.
type clash struct {
	m     *manager
	p     *pc   // whom the orders go to
	other *pc   // the other side; nil where there is none
	all   []*pc // who reports in each round
}

// clashes make one open conflict of each kind. Every PC is live.
var clashes = map[string]func(m *manager) clash{
	"same-board": func(m *manager) clash {
		old := newPC(m, "alpha")
		old.checkIn()
		p := old.successor()
		m.round(old, p)
		return clash{m, p, old, []*pc{p}}
	},
	"other-board": func(m *manager) clash {
		p := newPC(m, "alpha")
		m.round(p)
		p.report.Facts = board("beta")
		m.round(p)
		return clash{m, p, nil, []*pc{p}}
	},
	"overlap": func(m *manager) clash {
		p := newPC(m, "alpha")
		m.round(p)
		q := p.clone()
		q.report.Names.Host = "copy"
		q.start()
		m.round(p, q)
		m.round(p, q)
		return clash{m, q, p, []*pc{p, q}}
	},
	"overlap of hosts": func(m *manager) clash {
		old := newPC(m, "alpha")
		m.round(old)
		p := old.successor()
		p.replaces(old)
		m.round(old, p)
		m.round(old, p)
		return clash{m, p, old, []*pc{old, p}}
	},
	"replacement": func(m *manager) clash {
		old := newPC(m, "alpha")
		m.round(old)
		p := newPC(m, "beta")
		p.replaces(old)
		m.round(p)
		return clash{m, p, old, []*pc{p}}
	},
	"memory-foreign": func(m *manager) clash {
		old := newPC(m, "alpha")
		m.round(old)
		p := newPC(m, "beta")
		p.memory = map[hostid.ID]hostid.Seed{old.report.HostID: old.seed}
		p.report.Observations = []checkin.Observation{{Kind: string(hostid.MemoryForeign), Mine: p.report.HostID, Other: old.report.HostID, Detail: "x"}}
		m.round(p)
		return clash{m, p, old, []*pc{p}}
	},
	"other-id": func(m *manager) clash {
		old := newPC(m, "alpha")
		m.round(old)
		p := newPC(m, "beta")
		p.report.Observations = []checkin.Observation{{Kind: string(hostid.OtherID), Mine: p.report.HostID, Other: old.report.HostID, Detail: "x"}}
		m.round(p)
		p.report.Observations = nil
		return clash{m, p, old, []*pc{p}}
	},
	"moved":         observedClash(hostid.Moved),
	"twin":          observedClash(hostid.Twin),
	"stores-differ": observedClash(hostid.StoresDiffer),
	"other-case":    observedClash(hostid.OtherCase),
}

func observedClash(kind hostid.ConflictKind) func(m *manager) clash {
	return func(m *manager) clash {
		p := newPC(m, "alpha")
		p.report.Observations = []checkin.Observation{{Kind: string(kind), Mine: p.report.HostID, Detail: "x"}}
		m.round(p)
		return clash{m, p, nil, []*pc{p}}
	}
}

// What each verb does to each kind of conflict: what is ordered, whether both sides are then one asset, and that undoing it
// restores what was, also after later check-ins.
func TestVerbs(t *testing.T) {
	t.Parallel()
	const (
		one   = "one asset"
		two   = "two assets"
		alone = "" // there is no other side
	)
	for kind, verbs := range map[string]map[Verb]struct {
		order checkin.OrderKind
		after string
	}{
		"same-board":       {Merge: {checkin.OrderFullReport, one}, KeepBoth: {checkin.OrderFullReport, two}, Block: {checkin.OrderFullReport, two}},
		"other-board":      {Merge: {checkin.OrderRebind, alone}, KeepBoth: {checkin.OrderNewID, alone}, Block: {checkin.OrderFullReport, alone}},
		"overlap":          {Merge: {checkin.OrderFullReport, one}, KeepBoth: {checkin.OrderNewID, two}, Block: {checkin.OrderFullReport, one}},
		"overlap of hosts": {Merge: {checkin.OrderFullReport, one}, KeepBoth: {checkin.OrderFullReport, two}, Block: {checkin.OrderFullReport, two}},
		"replacement":      {Merge: {checkin.OrderFullReport, one}, KeepBoth: {checkin.OrderFullReport, two}, Block: {checkin.OrderFullReport, two}},
		"memory-foreign":   {Merge: {checkin.OrderUseNonvolatile, one}, KeepBoth: {checkin.OrderRebind, two}, Block: {checkin.OrderFullReport, two}},
		"other-id":         {Merge: {checkin.OrderFullReport, one}, KeepBoth: {checkin.OrderFullReport, two}, Block: {checkin.OrderFullReport, two}},
		"moved":            {Merge: {checkin.OrderRebind, alone}, KeepBoth: {checkin.OrderNewID, alone}, Block: {checkin.OrderFullReport, alone}},
		"twin":             {Merge: {checkin.OrderRebind, alone}, KeepBoth: {checkin.OrderNewID, alone}, Block: {checkin.OrderFullReport, alone}},
		"stores-differ":    {Merge: {checkin.OrderRebind, alone}, KeepBoth: {checkin.OrderNewID, alone}, Block: {checkin.OrderFullReport, alone}},
		"other-case":       {Merge: {checkin.OrderRebind, alone}, KeepBoth: {checkin.OrderNewID, alone}, Block: {checkin.OrderFullReport, alone}},
	} {
		for verb, want := range verbs {
			t.Run(kind+" "+string(verb), func(t *testing.T) {
				t.Parallel()
				m := newManager(t)
				c := clashes[kind](m)
				was := m.open()
				if len(was) != 1 {
					t.Fatalf("conflicts %v, want one", m.conflictKinds())
				}
				expect(t, "status", was[0].Status, Waiting)
				before := c.p.report.HostID
				grouping := m.grouping()
				r := m.resolve(was[0], verb)
				expect(t, "status", m.open()[0].Status, Ordered)
				if _, err := m.Resolve(t.Context(), was[0].ID, verb, "bob"); !errors.Is(err, ErrResolved) {
					t.Errorf("resolved twice: %v", err)
				}
				var got []checkin.OrderKind
				for range 3 {
					for _, p := range c.all {
						reply := p.obey(p.checkIn())
						for _, o := range reply.Orders {
							if !slices.Contains(got, o.Kind) {
								got = append(got, o.Kind)
							}
						}
						m.pass(DefaultInterval / 3)
					}
				}
				expect(t, "orders", got, []checkin.OrderKind{want.order})
				expect(t, "conflicts", m.conflictKinds(), nil)
				if c.other != nil {
					is := two
					if m.asset(c.p.report.HostID).HostIDs[0] == m.asset(c.other.report.HostID).HostIDs[0] {
						is = one
					}
					expect(t, "afterwards", is, want.after)
				}
				a := m.asset(before)
				expect(t, "blocked", a.State == Blocked, verb == Block && kind != "overlap" && kind != "other-board")

				must(t, m.Undo(t.Context(), r.ID, "bob"))
				if err := m.Undo(t.Context(), r.ID, "bob"); !errors.Is(err, ErrUndone) {
					t.Errorf("undone twice: %v", err)
				}
				for range 2 {
					for _, p := range c.all {
						p.obey(p.checkIn())
						m.pass(DefaultInterval / 3)
					}
				}
				expect(t, "host ID", c.p.report.HostID, before)
				if want.order != checkin.OrderNewID && want.order != checkin.OrderUseNonvolatile {
					expect(t, "grouping", m.grouping(), grouping)
				}
				if !slices.ContainsFunc(m.open(), func(c Conflict) bool { return c.ID == was[0].ID }) {
					t.Errorf("conflict %d is not open again: %v", was[0].ID, m.conflictKinds())
				}
				expect(t, "undone by", m.resolution(was[0].ID).UndoneBy, "bob")
				for _, l := range []Language{English, Japanese} {
					events, err := m.HistoryOf(t.Context(), before)
					must(t, err)
					for _, e := range events {
						if s := e.Sentence(l); strings.Contains(s, "?") || strings.Contains(s, "why-") || strings.Contains(s, "verb-") || strings.Contains(s, "order-") {
							t.Errorf("%s: %q", e.Kind, s)
						}
					}
				}
			})
		}
	}
}

func (m *manager) resolution(conflict int64) Resolution {
	m.t.Helper()
	c, err := m.Conflict(m.t.Context(), conflict)
	must(m.t, err)
	return c.Decided[0]
}

// grouping says which hosts are together.
func (m *manager) grouping() []string {
	m.t.Helper()
	lines, err := scanAll(m.t.Context(), m.readers, scanText, `SELECT host_id || ' ' || asset_id FROM hosts ORDER BY host_id`)
	must(m.t, err)
	return lines
}

// Joining, whatever is reported then, and separating leaves what would be without it.
func TestUndoIsExact(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before later check-ins", "after later check-ins", "in another order"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			var dumps [2][]string
			for i := range dumps {
				m := newManager(t)
				a, b, c := newPC(m, "alpha"), newPC(m, "beta"), newPC(m, "gamma")
				for n, p := range []*pc{a, b, c} { // the same in both
					p.seed = hostid.Seed{byte(n + 1)}
					p.report.HostID = hostid.ID{byte(n + 1)}
					p.report.SealKey = p.seed.SealingKey().PublicKey().Bytes()
				}
				b.report.Facts = a.report.Facts
				c.report.Facts = a.report.Facts
				later := func() {
					b.report.Facts.BoardSerial = "changed"
					b.report.Names.Host = "renamed"
					for range 5 {
						m.round(a, b)
					}
					for range 4 {
						m.round(b, c)
					}
				}
				m.round(a)
				m.round(a, b)
				first := m.onlyConflict("same-board")
				var r, s Resolution
				if i == 1 {
					r = m.resolve(first, Merge)
				}
				if when != "before later check-ins" {
					later()
				}
				if i == 1 && when == "in another order" {
					for _, k := range m.open() {
						if k.Kind == "same-board" && k.HostID == c.report.HostID {
							s = m.resolve(k, Merge)
						}
					}
				}
				if i == 1 {
					must(t, m.Undo(t.Context(), r.ID, "bob"))
					if s.ID != 0 {
						must(t, m.Undo(t.Context(), s.ID, "bob"))
					}
				}
				dumps[i] = m.dump()
			}
			expect(t, "everything that grouping decides", dumps[1], dumps[0])
		})
	}
}

// What an operator keeps apart is not asked again by the same evidence; by more it is.
func TestKeepBothIsRemembered(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a, b := newPC(m, "alpha"), newPC(m, "beta")
	b.report.Facts.SystemUUID, b.report.Facts.BoardSerial = a.report.Facts.SystemUUID, a.report.Facts.BoardSerial
	m.round(a, b)
	r := m.resolve(m.onlyConflict("same-board"), KeepBoth)
	m.round(a, b)
	m.round(a, b)
	expect(t, "conflicts", m.conflictKinds(), nil)
	b.report.Facts.Disks = board("other").Disks
	b.report.Facts.ChassisSerial = "another"
	m.round(a, b)
	expect(t, "conflicts", m.conflictKinds(), nil)
	b.report.Facts.NICs = a.report.Facts.NICs
	m.round(a, b)
	m.onlyConflict("same-board")
	must(t, m.Undo(t.Context(), r.ID, "bob"))
}

// A blocked host's reports are kept and change nothing.
func TestBlocked(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	c := clashes["same-board"](m)
	r := m.resolve(m.onlyConflict("same-board"), Block)
	m.round(c.p)
	id := c.p.report.HostID
	before := m.asset(id)
	expect(t, "state", before.State, Blocked)
	expect(t, "host", before.Hosts[0].Blocked, true)
	c.p.report.Names.Host, c.p.report.Facts.BoardSerial = "renamed", "changed"
	c.p.begin(checkin.EpochUnread)
	c.p.replaces(c.other)
	reply := c.p.checkIn()
	expect(t, "named", reply.Named, nil)
	expect(t, "orders", reply.Orders, nil)
	after := m.asset(id)
	expect(t, "last check-in", after.LastCheckin, m.clock())
	expect(t, "name", after.Name, before.Name)
	expect(t, "facts", after.Facts, before.Facts)
	must(t, m.Undo(t.Context(), r.ID, "bob"))
	c.p.checkIn()
	expect(t, "name", m.asset(id).Name, "renamed")
}

// The rules, with evidence that suffices and with evidence that just does not, in each mode.
func TestRules(t *testing.T) {
	t.Parallel()
	type setup func(m *manager) (p, old *pc)
	came := func(change func(m *manager, p, old *pc)) setup { // back with nothing to prove it
		return func(m *manager) (p, old *pc) {
			old = newPC(m, "alpha")
			old.checkIn()
			m.pass(liveIntervals * DefaultInterval)
			p = old.successor()
			p.report.Facts.Disks = board("new").Disks
			change(m, p, old)
			p.checkIn()
			return p, old
		}
	}
	swapped := func(change func(m *manager, p *pc)) setup { // another board in the same case
		return func(m *manager) (p, old *pc) {
			p = newPC(m, "alpha")
			p.checkIn()
			f := board("beta")
			f.Disks, f.SystemSerial, f.ChassisSerial = p.report.Facts.Disks, p.report.Facts.SystemSerial, p.report.Facts.ChassisSerial
			p.report.Facts = f
			change(m, p)
			p.checkIn()
			return p, nil
		}
	}
	for name, tt := range map[string]struct {
		rule  string
		setup setup
		why   string
	}{
		"came back":    {"same-board", came(func(*manager, *pc, *pc) {}), "same-board-sure"},
		"old one live": {"same-board", came(func(m *manager, _, old *pc) { old.checkIn() }), "same-board-live"},
		"one fact": {"same-board", came(func(_ *manager, p, _ *pc) {
			p.report.Facts.BoardSerial, p.report.Facts.NICs = "", nil
		}), "same-board-few"},
		"one fact differs": {"same-board", came(func(_ *manager, p, _ *pc) { p.report.Facts.NICs = board("x").NICs }), "same-board-differs"},
		"the case differs": {"same-board", came(func(_ *manager, p, _ *pc) { p.report.Facts.ChassisSerial = "another case" }), "same-board-differs"},
		"a third has a value": {"same-board", came(func(m *manager, p, _ *pc) {
			q := newPC(m, "gamma")
			q.report.Facts.SystemUUID = p.report.Facts.SystemUUID
			q.checkIn()
		}), "same-board-shared"},

		"board replaced":          {"other-board", swapped(func(*manager, *pc) {}), "other-board-sure"},
		"another case":            {"other-board", swapped(func(_ *manager, p *pc) { p.report.Facts.ChassisSerial = "another case" }), "other-board-case"},
		"another disk":            {"other-board", swapped(func(_ *manager, p *pc) { p.report.Facts.Disks = board("x").Disks }), "other-board-copy"},
		"disk unknown":            {"other-board", swapped(func(_ *manager, p *pc) { p.report.Facts.Disks = nil }), "other-board-few"},
		"the board of another PC": {"other-board", swapped(func(m *manager, p *pc) { newPC(m, "beta").checkIn() }), "other-board-known"},
		"somebody else on this ID": {"other-board", swapped(func(m *manager, p *pc) {
			q := p.clone()
			q.report.Facts = board("alpha")
			q.begin(checkin.EpochRestore)
			q.checkIn()
		}), "other-board-live"},

		"proof for another manager": {"replacement", came(func(m *manager, p, old *pc) {
			p.replacesAs(old, checkin.Replacement{Old: old.report.HostID, New: p.report.HostID, NewKey: key(p), Audience: checkin.FingerprintOf(key(old))})
		}), "same-board-sure"},
		"proof of nothing": {"replacement", came(func(_ *manager, p, _ *pc) { p.report.Replaced = []string{"no.such.jws"} }), "replacement-proof"},
	} {
		for _, mode := range []Mode{Off, Observe, Enforce} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				t.Parallel()
				m := newManager(t)
				for _, rule := range ruleNames { // one at a time
					set := Off
					if rule == tt.rule {
						set = mode
					}
					must(t, m.SetRule(t.Context(), rule, set, "alice"))
				}
				p, old := tt.setup(m)
				id := p.report.HostID
				p.obey(p.checkIn())
				all := m.open()
				i := slices.IndexFunc(all, func(c Conflict) bool { return c.Kind == tt.rule })
				sure := strings.HasSuffix(tt.why, "-sure")
				if mode == Enforce && sure {
					m.round(p)
					m.round(p)
					if slices.ContainsFunc(m.open(), func(c Conflict) bool { return c.Kind == tt.rule }) {
						t.Fatalf("conflicts %v", m.conflictKinds())
					}
					if old != nil {
						expect(t, "one asset", len(m.asset(id).HostIDs), 2)
					} else {
						expect(t, "the board is the host's", m.asset(id).Facts.BoardSerial, p.report.Facts.BoardSerial)
					}
					closed, err := m.ClosedConflicts(t.Context(), 10)
					must(t, err)
					j := slices.IndexFunc(closed, func(c Conflict) bool { return c.Kind == tt.rule && len(c.Decided) > 0 })
					expect(t, "who", closed[j].Decided[0].Who, "rule "+tt.rule)
					must(t, m.Undo(t.Context(), closed[j].Decided[0].ID, "bob"))
					m.round(p)
					if !slices.ContainsFunc(m.open(), func(c Conflict) bool { return c.Kind == tt.rule }) { // and the rule leaves it
						t.Errorf("conflicts %v", m.conflictKinds())
					}
					return
				}
				if i < 0 {
					t.Fatalf("conflicts %v, want %s", m.conflictKinds(), tt.rule)
				}
				want := Proposal{Rule: tt.rule, Mode: mode, Why: tt.why}
				if sure {
					want.Verb = Merge
				}
				if mode == Off {
					want = Proposal{}
				}
				expect(t, "proposal", all[i].Proposal, want)
				told := 0
				for _, k := range m.kinds(id) {
					if strings.HasPrefix(k, "rule-would") {
						told++
					}
				}
				if mode == Observe && told == 0 || mode == Off && told != 0 {
					t.Errorf("told %d times what would be decided", told)
				}
			})
		}
	}
}

func TestRulesAreListed(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	must(t, m.SetRule(t.Context(), "same-board", Enforce, "alice"))
	got, err := m.Rules(t.Context())
	must(t, err)
	expect(t, "rules", got, []Rule{{Name: "other-board", Mode: Observe}, {"same-board", Enforce, testEpoch, "alice"}, {Name: "replacement", Mode: Observe}})
	for _, bad := range [][2]string{{"none", "off"}, {"same-board", "always"}} {
		if err := m.SetRule(t.Context(), bad[0], Mode(bad[1]), "alice"); !errors.Is(err, ErrUnknown) {
			t.Errorf("%v: got %v, want ErrUnknown", bad, err)
		}
	}
}

// What is shown of the evidence, field by field.
func TestFields(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	p.report.Facts = hardware.Facts{SystemUUID: "4c4c4544-0031-4a10-8042-b4c04f5a3131", BoardSerial: "Default string", SystemSerial: "system alpha"}
	p.checkIn()
	known := board("alpha")
	expect(t, "fields", m.onlyConflict("other-board").Fields, []Field{
		{"system_uuid", Different, known.SystemUUID, "4c4c4544-0031-4a10-8042-b4c04f5a3131"},
		{"board_serial", IsPlaceholder, "BOARD ALPHA", "Default string"},
		{"onboard_mac", IsUnknown, known.NICs[0].MAC, ""},
		{"system_serial", Equal, "SYSTEM ALPHA", "SYSTEM ALPHA"},
		{"chassis_serial", IsUnknown, "CHASSIS ALPHA", ""},
		{"disk_serial", IsUnknown, "DISK ALPHA", ""},
		{"tpm_ek_sha256", IsUnknown, "", ""},
	})
}

// The statements of the ID that a host had before it was ordered away from it are its own to bring.
func TestStatementsAcrossANewID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old := newPC(m, "alpha") // the PC was this, then made another ID while memory could not be read, and was copied
	old.checkIn()
	m.pass(4 * DefaultInterval)
	p := old.successor()
	p.checkIn()
	original := p.clone()
	original.report.Facts = board("beta")
	p.replaces(old)
	id := p.report.HostID
	for range 20 {
		p.report.Replaced, original.report.Replaced = nil, nil
		m.round(original, p)
		if p.report.HostID != id || original.report.HostID != id {
			break
		}
	}
	if p.report.HostID != id {
		t.Fatal("the PC on the known board was ordered away")
	}
	mover := original
	mover.replacesAs(old, checkin.Replacement{Old: old.report.HostID, New: id, NewKey: key(p), Audience: m.audience})
	stranger := newPC(m, "stranger")
	stranger.report.Replaced = mover.report.Replaced
	expect(t, "named to a stranger", stranger.checkIn().Named, nil)
	expect(t, "named", mover.checkIn().Named, []hostid.ID{old.report.HostID})
	a := m.asset(old.report.HostID)
	if !slices.Contains(a.HostIDs, id) || slices.Contains(a.HostIDs, mover.report.HostID) {
		t.Errorf("%v is together with %v: it was on the board of %v", old.report.HostID, a.HostIDs, id)
	}
}

// A PC whose disk is set back at each start comes back with the host ID that it was ordered to leave, for ever; the orders
// end.
func TestDiskSetBackAtEachStart(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	m.round(p)
	image := p.clone()
	image.report.Facts, image.report.Names.Host = board("kiosk"), "kiosk"
	for range 3 * maxCopiesOfBoard {
		kiosk := image.clone()
		kiosk.start()
		for range 4 {
			m.round(p, kiosk)
		}
	}
	expect(t, "assets", m.assetCount(), 1+maxCopiesOfBoard)
	var whys []string
	for _, c := range m.open() {
		whys = append(whys, fmt.Sprint(c.Kind, " ", c.Proposal.Why))
	}
	if !slices.Contains(whys, "overlap overlap-again") {
		t.Errorf("conflicts %v", whys)
	}
}

// What was ordered and withdrawn, and is acknowledged all the same, settles nothing: the conflict that was reopened stays open.
func TestWithdrawnOrderSettlesNothing(t *testing.T) {
	t.Parallel()
	for kind, verb := range map[string]Verb{"same-board": KeepBoth, "other-board": Merge} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			c := clashes[kind](m)
			r := m.resolve(m.onlyConflict(kind), verb)
			c.p.obey(c.p.checkIn())
			if len(c.p.report.Done) != 1 {
				t.Fatalf("orders done %v, want one", c.p.report.Done)
			}
			m.pass(DefaultInterval)
			must(t, m.Undo(t.Context(), r.ID, "bob"))
			facts := m.asset(c.p.report.HostID).Facts
			for range 3 {
				m.round(c.p)
			}
			expect(t, "status", m.onlyConflict(kind).Status, Waiting)
			expect(t, "facts", m.asset(c.p.report.HostID).Facts, facts)
		})
	}
}

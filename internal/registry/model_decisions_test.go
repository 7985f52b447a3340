package registry

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// machine is a PC of the model of decisions.
type machine struct {
	*pc
	mixed bool // its disk was copied, or is a copy, or an operator decided about it
	own   hostid.ID
}

// modelFacts are those of the i-th PC in a fleet of a kind.
func modelFacts(kind string, i int) hardware.Facts {
	f := hardware.Facts{
		SystemUUID: fmt.Sprintf("4c4c4544-0031-4a10-8042-%012x", i), BoardSerial: fmt.Sprint("board ", i), SystemSerial: fmt.Sprint("system ", i),
		Disks: []hardware.Disk{{Serial: fmt.Sprint("disk ", i), System: true}},
		NICs:  []hardware.NIC{{MAC: fmt.Sprintf("00-1B-21-00-00-%02X", i), Permanent: true, Onboard: true}},
	}
	switch kind {
	case "shared":
		f.SystemUUID, f.BoardSerial, f.SystemSerial = "4c4c4544-0031-4a10-8042-b4c04f5a3131", "MODEL 7", ""
	case "disks":
		f = hardware.Facts{Disks: f.Disks}
	case "nothing":
		f = hardware.Facts{SystemUUID: "00000000-0000-0000-0000-000000000000"}
	}
	return f
}

// Whatever PCs, operators and rules do: each check-in is served, an asset is what its hosts make of it, a host is where its
// groupings put it, nobody who is alone on his PC is ordered away, orders end, and two PCs that live at the same time share an
// asset only where somebody said so or is asked.
func TestDecisionsHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := newManager(t)
		defer m.Close()
		kind := rapid.SampledFrom([]string{"good", "shared", "disks", "nothing"}).Draw(rt, "fleet")
		var all []*machine
		add := func(p *pc) *machine {
			p.report.Facts, p.report.Names.Host = modelFacts(kind, len(all)), fmt.Sprint("pc", len(all))
			a := &machine{pc: p, own: p.report.HostID}
			all = append(all, a)
			return a
		}
		for range rapid.IntRange(1, 3).Draw(rt, "pcs") {
			add(newPC(m, "x"))
		}
		ids := map[hostid.ID]bool{}
		report := func(a *machine) {
			reply := a.checkIn()
			ids[a.report.HostID] = true
			a.obey(reply)
			if a.report.HostID != reply.HostID && !a.mixed {
				rt.Fatalf("%s was ordered away from its own host ID", a.report.Names.Host)
			}
			a.own = a.report.HostID
		}
		for _, rule := range ruleNames {
			must(t, m.SetRule(t.Context(), rule, rapid.SampledFrom([]Mode{Off, Observe, Enforce}).Draw(rt, rule), "model"))
		}
		for step := range rapid.IntRange(4, 20).Draw(rt, "steps") {
			a := all[rapid.IntRange(0, len(all)-1).Draw(rt, "pc")]
			switch rapid.SampledFrom([]string{"round", "round", "round", "report", "copy", "reinstall", "came back", "roll back", "board", "resolve", "undo", "declare"}).Draw(rt, "step") {
			case "round":
				for _, p := range all {
					report(p)
					m.pass(DefaultInterval / time.Duration(len(all)))
				}
			case "report":
				report(a)
				m.pass(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "seconds")) * time.Second)
			case "copy":
				if len(all) < 5 {
					q := add(a.clone())
					q.start()
					a.mixed, q.mixed = true, true
				}
			case "reinstall":
				a.begin(checkin.EpochRestore)
			case "came back": // with nothing
				if p := newPC(m, a.report.Names.Host); true {
					p.report.Facts = a.report.Facts
					a.pc, a.own = p, p.report.HostID
					a.mixed = true // and its former installation never speaks again
				}
			case "roll back":
				back := a.clone()
				report(a)
				m.pass(DefaultInterval)
				if a.report.HostID == back.report.HostID {
					a.pc = back
					a.start()
				}
			case "board":
				disk := a.report.Facts.Disks
				a.report.Facts = modelFacts(kind, 20+rapid.IntRange(0, 9).Draw(rt, "board"))
				a.report.Facts.Disks = disk
				a.mixed = true
			case "resolve":
				if open := m.open(); len(open) > 0 {
					c := open[rapid.IntRange(0, len(open)-1).Draw(rt, "conflict")]
					if len(c.Verbs) > 0 && c.Status == Waiting {
						m.resolve(c, rapid.SampledFrom(c.Verbs).Draw(rt, "verb"))
						for _, p := range all {
							p.mixed = true
						}
					}
				}
			case "undo":
				done, err := m.resolutions(t.Context(), `WHERE r.undone IS NULL`)
				must(t, err)
				if len(done) > 0 {
					must(t, m.Undo(t.Context(), done[rapid.IntRange(0, len(done)-1).Draw(rt, "resolution")].ID, "model"))
					for _, p := range all {
						p.mixed = true
					}
				}
			case "declare":
				if kind == "shared" {
					must(t, m.AddPlaceholder(t.Context(), "uuid", "4c4c4544-0031-4a10-8042-b4c04f5a3131", "model"))
					must(t, m.AddPlaceholder(t.Context(), "serial", "MODEL 7", "model"))
				}
			}
			m.restHolds(rt)
			if step%4 == 3 {
				m.consistent(rt)
			}
		}
		// Left alone, all is settled or asked, and nobody is ordered anything any more.
		orders := 0
		for i := range 12 {
			orders = 0
			for _, p := range all {
				before := p.obeyed
				report(p)
				if len(p.obeyed) > len(before) && i > 8 {
					orders++
				}
				m.pass(DefaultInterval / time.Duration(len(all)))
			}
		}
		if orders > 0 {
			rt.Fatalf("%d orders in the last round", orders)
		}
		m.consistent(rt)
		for id := range ids {
			if _, err := m.Asset(t.Context(), id); err != nil {
				rt.Fatalf("host ID %s was reported, and now: %v", id, err)
			}
		}
		for i, a := range all {
			for _, b := range all[:i] {
				if !slices.Contains(m.asset(a.report.HostID).HostIDs, b.report.HostID) {
					continue
				}
				asked := len(m.asset(a.report.HostID).Open) > 0
				said, err := scanAll(t.Context(), m.readers, scanText, `SELECT verb FROM resolutions WHERE undone IS NULL AND verb <> 'keep-both'`)
				must(t, err)
				if !asked && len(said) == 0 {
					rt.Fatalf("%s and %s are one asset, and nobody is asked", a.report.Names.Host, b.report.Names.Host)
				}
			}
		}
	})
}

// consistent checks that every host is in the asset at the root above its home, and that every asset is what its
// hosts make of it.
func (m *manager) consistent(rt *rapid.T) {
	m.t.Helper()
	must(m.t, m.decide(m.t.Context(), func(t *transaction) error {
		hosts, err := collect(t, scanHost, hostColumns+`ORDER BY host_id`)
		if err != nil {
			return err
		}
		of := map[int64][]host{}
		for _, h := range hosts {
			root := h.home
			for {
				var into int64
				joined, err := t.get(`SELECT into_asset FROM groupings WHERE from_asset = $1 AND undone IS NULL`, []any{root}, []any{&into})
				if err != nil {
					return err
				}
				if !joined {
					break
				}
				root = into
			}
			if h.asset != root {
				rt.Fatalf("host ID %s is in asset %d, its groupings lead to %d", h.id, h.asset, root)
			}
			of[root] = append(of[root], h)
		}
		for id, hosts := range of {
			is, err := t.asset(id)
			if err != nil {
				return err
			}
			if got, want := toJSON([]any{is.keeper, is.waiting, is.keepHost, is.facts, is.seen, is.seenHost}), toJSON(func() []any {
				a := t.derive(id, hosts)
				return []any{a.keeper, a.waiting, a.keepHost, a.facts, a.seen, a.seenHost}
			}()); got != want {
				rt.Fatalf("asset %d is %s, its hosts make it %s", id, got, want)
			}
		}
		return nil
	}))
}

package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// check states what must hold at every moment.
func (w *world) check() {
	w.t.Helper()
	assets := w.assets()
	w.nobodyShares(assets)
	w.everyIDResolves(assets)
	w.nobodyAloneIsSentAway()
	w.whoReportsIsThere()
}

// Whoever reports by his key is not deleted or archived, unless an operator did it since.
func (w *world) whoReportsIsThere() {
	w.t.Helper()
	for _, p := range w.living() {
		m, hidden := w.hidden[p.id]
		if hidden && len(p.answered) > 0 && m.Made.Before(p.answered[len(p.answered)-1].Truncate(time.Millisecond)) && !w.blocked[p.id] {
			w.fail("%s (as %s) was answered at %s, and its asset is gone by %s %d of %s", p, p.id, p.answered[len(p.answered)-1], m.Kind, m.ID, m.Made)
		}
	}
}

// After three answered check-ins each, two PCs that live at the same time share no asset without an operator or an open conflict. An
// operator who deletes the asset puts the question off until one of them reports: then both are there again (whoReportsIsThere).
func (w *world) nobodyShares(assets map[hostid.ID][]hostid.ID) {
	w.t.Helper()
	living := slices.DeleteFunc(w.living(), func(p *pc) bool { return len(p.answered) < 3 })
	var asked, told map[hostid.ID]bool
	for i, p := range living {
		for _, q := range living[:i] {
			if !slices.Contains(assets[p.id], q.id) || !together(p, q) || w.hidden[p.id].Kind == registry.Deletion {
				continue
			}
			if asked == nil {
				asked, told = w.conflicts(), w.operators()
			}
			if !slices.ContainsFunc(assets[p.id], func(id hostid.ID) bool { return asked[id] || told[id] }) {
				w.fail("%s (as %s) and %s (as %s) live at the same time and are one asset, and nobody is asked", p, p.id, q, q.id)
			}
		}
	}
}

// together reports that each of two PCs was answered three times while the other one lived as it does now.
func together(p, q *pc) bool {
	since := p.answered[0]
	if q.answered[0].After(since) {
		since = q.answered[0]
	}
	count := func(times []time.Time) (n int) {
		for _, t := range times {
			if !t.Before(since) {
				n++
			}
		}
		return n
	}
	return count(p.answered) >= 3 && count(q.answered) >= 3
}

// Every host ID ever reported resolves: to one asset, which names it.
func (w *world) everyIDResolves(assets map[hostid.ID][]hostid.ID) {
	w.t.Helper()
	for id := range w.spoken {
		if !slices.Contains(assets[id], id) {
			w.fail("host ID %s was reported, and leads to no asset", id)
		}
	}
}

// Nobody who is alone on his PC, and whose host ID no other PC has, is ordered to take another one, but by an operator.
func (w *world) nobodyAloneIsSentAway() {
	w.t.Helper()
	for _, p := range w.pcs {
		if p.id.IsZero() {
			continue
		}
		orders, err := w.reg.OrdersOf(w.ctx, p.id)
		w.must(err)
		for _, o := range orders {
			if o.Kind != checkin.OrderNewID || w.judged[o.ID] {
				continue
			}
			w.judged[o.ID] = true
			if o.Why == "operator" {
				continue
			}
			if !w.livedTwice(o.HostID) {
				w.fail("order %s has a PC leave host ID %s (%s), which no other PC had at the same time: %+v", o.ID, o.HostID, o.Why, o)
			}
		}
	}
}

// livedTwice reports that two PCs lived under that host ID at the same time.
func (w *world) livedTwice(id hostid.ID) bool {
	for i, a := range w.stays {
		for _, b := range w.stays[:i] {
			if a.pc != b.pc && a.id == id && b.id == id && (a.to.IsZero() || a.to.After(b.from)) && (b.to.IsZero() || b.to.After(a.from)) {
				return true
			}
		}
	}
	return false
}

// No history is lost: events are only ever added, none is changed.
func (w *world) historyStays() {
	w.t.Helper()
	now, err := w.reg.History(w.ctx)
	w.must(err)
	if len(now) < len(w.history) {
		w.fail("the history had %d events and has %d", len(w.history), len(now))
	}
	for i, e := range w.history {
		if n := now[i]; n.ID != e.ID || n.Kind != e.Kind || n.HostID != e.HostID || !n.At.Equal(e.At) || !bytes.Equal(n.Evidence, e.Evidence) {
			w.fail("event %d of the history was changed:\n%+v\n%+v", i, e, n)
		}
	}
	w.history = now
	deletions, err := w.reg.Deletions(w.ctx)
	w.must(err)
	if len(deletions) < len(w.deletions) {
		w.fail("there were %d deletions in the history and are %d", len(w.deletions), len(deletions))
	}
	for i, d := range w.deletions {
		n := deletions[i]
		if d.Ended.IsZero() {
			n.Ended, n.EndedTrigger, n.EndedBy = d.Ended, d.EndedTrigger, d.EndedBy
		}
		if diff := cmp.Diff(d, n); diff != "" {
			w.fail("deletion %d was changed:\n%s", d.ID, diff)
		}
	}
	w.deletions = deletions
}

// survives looks whether something of the PC's own is left: its record in memory on the same board, or its data folder. If
// nothing is, it is anybody.
func (p *pc) survives() {
	if p.was.IsZero() {
		return
	}
	mine := func(id hostid.ID) bool { return slices.Contains(p.w.assets()[p.was], id) }
	for _, r := range p.board.records() {
		if mine(r.HostID) {
			return
		}
	}
	if p.disk != nil && p.disk.home == p {
		if r, ok := p.disk.record(); ok && mine(r.HostID) {
			return
		}
	}
	p.was = hostid.ID{}
}

// A PC whose own record or own data folder survived does not end in a second asset silently.
func (w *world) survivorsStay() {
	w.t.Helper()
	assets := w.assets()
	told := w.operators()
	for _, p := range w.living() {
		if p.was.IsZero() || slices.Contains(assets[p.was], p.id) || told[p.was] || told[p.id] {
			continue
		}
		if !w.askedAbout(p.was, p.wasSince) && !w.askedAbout(p.id, p.wasSince) {
			w.fail("%s was %s, of which something survived, is %s now, another asset, and nobody was asked", p, p.was, p.id)
		}
	}
}

// askedAbout reports that there was a conflict about a host ID since then.
func (w *world) askedAbout(id hostid.ID, since time.Time) bool {
	open, err := w.reg.Conflicts(w.ctx)
	w.must(err)
	closed, err := w.reg.ClosedConflicts(w.ctx, 1000)
	w.must(err)
	if a, err := w.reg.Asset(w.ctx, id); err == nil { // also while it is parked
		open = append(open, a.Open...)
	}
	return slices.ContainsFunc(append(open, closed...), func(c registry.Conflict) bool {
		return slices.Contains(concerns(c), id) && (c.Closed.IsZero() || !c.Closed.Before(since))
	})
}

// What a replacement joined is two assets again when it is taken back, unless something else joined it since.
func (w *world) replacementSeparates(m registry.Maintenance, since []registry.Event) {
	w.t.Helper()
	joins := slices.ContainsFunc(since, func(e registry.Event) bool { return e.Kind != "conflict-overlap" })
	if !joins && slices.Contains(w.assets()[m.HostID], m.Successor) {
		w.fail("replacement %d was undone, and %s and %s are one asset still", m.ID, m.HostID, m.Successor)
	}
}

// known notes what each PC is: that is what it must stay.
func (w *world) known() {
	for _, p := range w.living() {
		if len(p.answered) == 0 {
			continue
		}
		p.was, p.wasSince = p.id, w.now
		p.survives()
	}
}

// quiet lets everything settle: then nothing is ordered any more, and nothing is written.
func (w *world) quiet() {
	w.t.Helper()
	w.heal()
	for range 6 {
		w.round()
	}
	w.survivorsStay()
	w.known()
	before, orders := w.written(), w.orders()
	for range 3 {
		w.round()
	}
	w.nothingRepeats(before, orders)
	w.historyStays()
}

// No order repeats for ever and no store is written for ever: after a while with nothing changed neither happens.
func (w *world) nothingRepeats(before map[string]string, orders int) {
	w.t.Helper()
	if d := cmp.Diff(before, w.written()); d != "" {
		w.fail("with nothing changed something is still written:\n%s", d)
	}
	if now := w.orders(); now != orders {
		w.fail("with nothing changed there were %d orders and are %d", orders, now)
	}
}

// written is what must not change in a quiet PC: its memory, and what its data folder says of identity.
func (w *world) written() map[string]string {
	all := map[string]string{}
	for _, p := range w.living() {
		if m := p.board.memory; m != nil {
			all[p.name+" memory"] = fmt.Sprint(m.Writes)
		}
		entries, err := os.ReadDir(p.disk.folder)
		w.must(err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "chain.json") || e.Name() == "status.json" || e.Name() == "lock" {
				continue
			}
			info, err := e.Info()
			w.must(err)
			b, err := os.ReadFile(filepath.Join(p.disk.folder, e.Name()))
			w.must(err)
			all[p.name+" "+e.Name()] = fmt.Sprint(info.ModTime().UnixNano(), " ", string(b))
		}
	}
	return all
}

// orders counts the orders that were ever issued.
func (w *world) orders() (n int) {
	seen := map[string]bool{}
	for id := range w.spoken {
		all, err := w.reg.OrdersOf(w.ctx, id)
		w.must(err)
		for _, o := range all {
			seen[o.ID] = true
		}
	}
	return len(seen)
}

// state is everything that a resolution may change, but for the conflicts themselves.
type state struct {
	assets     map[hostid.ID]registry.AssetDetail
	conflicts  []registry.Conflict // those that are open
	checkIns   int
	maintained int
	decided    int
}

// undoable is how things were before a resolution.
type undoable struct {
	before    state
	groupings int
}

func (w *world) state() state {
	w.t.Helper()
	all, err := w.reg.Assets(w.ctx)
	w.must(err)
	s := state{assets: map[hostid.ID]registry.AssetDetail{}, checkIns: w.checkIns, maintained: w.maintained, decided: w.decided}
	s.conflicts, err = w.reg.Conflicts(w.ctx)
	w.must(err)
	for _, a := range all {
		for _, id := range a.HostIDs {
			s.assets[id] = a
		}
	}
	return s
}

func (w *world) same(what string, before, after state) {
	w.t.Helper()
	x, err := json.MarshalIndent([]any{before.assets, before.conflicts}, "", " ")
	w.must(err)
	y, err := json.MarshalIndent([]any{after.assets, after.conflicts}, "", " ")
	w.must(err)
	if !bytes.Equal(x, y) {
		w.fail("%s:\n%s", what, cmp.Diff(strings.Split(string(x), "\n"), strings.Split(string(y), "\n")))
	}
}

// Undo restores exactly: with no report in between everything is as it was.
func (w *world) undoIsExact(id int64, u undoable) {
	w.t.Helper()
	after := w.state()
	// How many conflicts are open is no part of it: that one is open again, whatever it was.
	for _, s := range []*state{&u.before, &after} {
		s.conflicts = nil
		for h, a := range s.assets {
			a.Conflicts, a.State = 0, ""
			s.assets[h] = a
		}
	}
	w.same(fmt.Sprintf("undoing resolution %d did not restore what was", id), u.before, after)
}

// groupings are the events that changed which host IDs are one asset.
func (w *world) groupings() (all []registry.Event) {
	events, err := w.reg.History(w.ctx)
	w.must(err)
	for _, e := range events {
		switch e.Kind {
		case "grouped", "replaced", "conflict-overlap", "undone", "resolved", "rule-decided", "order-done", "succeeded", "unsucceeded":
			all = append(all, e)
		}
	}
	return all
}

// Undo restores exactly, also after later check-ins: what the resolution made one asset is two again, unless somebody or
// something else joined it since.
func (w *world) undoSeparates(id int64, u undoable, was []registry.Event) {
	w.t.Helper()
	if u.before.assets == nil {
		return
	}
	joined := slices.DeleteFunc(slices.Clone(was[u.groupings:]), func(e registry.Event) bool {
		var of struct{ Resolution int64 }
		json.Unmarshal(e.Evidence, &of)
		return e.Kind == "order-done" || of.Resolution == id
	})
	now := w.assets()
	for a, before := range u.before.assets {
		for b := range u.before.assets {
			together, then := slices.Contains(now[a], b), slices.Contains(before.HostIDs, b)
			if together == then {
				continue
			}
			if slices.ContainsFunc(joined, func(e registry.Event) bool {
				return e.Kind != "order-done" && e.Kind != "conflict-overlap" || !together
			}) {
				continue
			}
			w.fail("after undoing resolution %d, %s and %s are one asset: %v; before it: %v", id, a, b, together, then)
		}
	}
}

package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// Verb is what an operator says about a conflict.
type Verb string

// The verbs. What each does about each kind of conflict stands in docs/decisions/0032-decisions-about-identity.md.
const (
	Merge    Verb = "merge"     // it is one PC
	KeepBoth Verb = "keep-both" // they are two
	Block    Verb = "block"     // whoever it is: its reports go into the history and change nothing
)

// What resolving can fail with besides ErrUnknown.
var (
	ErrVerb     = errors.New("this verb makes no sense here")
	ErrResolved = errors.New("the conflict is resolved already; undo that first")
	ErrUndone   = errors.New("the resolution was undone already")
	ErrParked   = errors.New("an asset that it is about is deleted")
)

// conflictRow is a row of conflicts.
type conflictRow struct {
	id         int64
	kind       string
	subject    string
	host       hostid.ID
	otherHost  hostid.ID
	opened     time.Time
	closed     time.Time
	resolution int64
	held       bool
	proposal   proposal
	evidence   string
	parkedBy   int64 // the deletion that parks it; 0: none
}

const conflictColumns = `SELECT c.id, c.kind, c.subject, c.host_id, c.other_host, c.opened, c.closed, COALESCE(c.resolution, 0), c.held, c.proposal, c.evidence,
	CASE WHEN c.closed IS NULL THEN COALESCE(` + parkedBy + `, 0) ELSE 0 END FROM conflicts c `

func scanConflict(scan func(...any) error) (c conflictRow, err error) {
	var host, other, proposed string
	var opened int64
	var closed sql.NullInt64
	if err := scan(&c.id, &c.kind, &c.subject, &host, &other, &opened, &closed, &c.resolution, &c.held, &proposed, &c.evidence, &c.parkedBy); err != nil {
		return c, err
	}
	c.opened, c.closed = fromMillis(opened), fromNullTime(closed)
	if err := decodeText(fmt.Sprint("proposal of conflict ", c.id), proposed, &c.proposal); err != nil {
		return c, err
	}
	if c.host, err = hostid.ParseID(host); err != nil {
		return c, err
	}
	c.otherHost, err = parseID(other)
	return c, err
}

func (t *transaction) conflictRow(id int64) (conflictRow, error) {
	all, err := collect(t, scanConflict, conflictColumns+`WHERE c.id = $1`, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("conflict %d: %w", id, ErrUnknown)
	}
	if err != nil {
		return conflictRow{}, err
	}
	return all[0], nil
}

// observed is the kind of observation that a conflict is about; "" for other kinds.
func (c conflictRow) observed() hostid.ConflictKind {
	if c.kind != "observed" {
		return ""
	}
	var e struct{ Observed string }
	json.Unmarshal([]byte(c.evidence), &e) // this program wrote it; without it nothing is known
	return hostid.ConflictKind(e.Observed)
}

// observedOther is the other host ID that an observation is about, known here or not.
func (c conflictRow) observedOther() hostid.ID {
	var e struct{ Other string }
	json.Unmarshal([]byte(c.evidence), &e)
	id, _ := parseID(e.Other)
	return id
}

// verbs are those that make sense.
func (c conflictRow) verbs() []Verb {
	switch {
	case !c.closed.IsZero(), c.parkedBy != 0:
		return []Verb{}
	case c.kind == "duplicate": // nobody reported anything wrong
		return []Verb{Merge, KeepBoth}
	case c.otherHost.IsZero() && (c.kind == "same-board" || c.kind == "replacement"), c.observed() == hostid.OtherID && c.otherHost.IsZero():
		return []Verb{KeepBoth, Block} // there is nothing known here to merge with
	}
	return []Verb{Merge, KeepBoth, Block}
}

// effects is what a resolution did to what is derived from host IDs; its demands, blocks and what it keeps apart name
// it themselves.
type effects struct {
	Grouped   []int64       `json:"grouped,omitempty"`
	Confirmed []confirmed   `json:"confirmed,omitempty"`
	Rebound   []reboundHost `json:"rebound,omitempty"`
}

// confirmed is a grouping that was made without an operator, and is his by the resolution.
type confirmed struct {
	Grouping int64  `json:"grouping"`
	MadeBy   string `json:"made_by"`
}

// reboundHost is what a host was before it took another board's facts.
type reboundHost struct {
	Host    hostid.ID `json:"host"`
	Facts   facts     `json:"facts"`
	Keeper  int64     `json:"keeper"`
	Waiting int64     `json:"waiting"`
}

func (t *transaction) changeEffects(resolution int64, change func(*effects)) error {
	var text string
	var e effects
	if _, err := t.get(`SELECT effects FROM resolutions WHERE id = $1`, []any{resolution}, []any{&text}); err != nil {
		return err
	}
	if err := decodeText(fmt.Sprint("effects of resolution ", resolution), text, &e); err != nil {
		return err
	}
	change(&e)
	_, err := t.exec(`UPDATE resolutions SET effects = $1 WHERE id = $2`, toJSON(e), resolution)
	return err
}

func (t *transaction) newResolution(conflict int64, verb Verb, who string) (int64, error) {
	id, err := t.insert(`INSERT INTO resolutions (conflict_id, verb, who, made, effects) VALUES ($1, $2, $3, $4, '{}')`, conflict, string(verb), who, millis(t.now))
	if err != nil {
		return 0, err
	}
	_, err = t.exec(`UPDATE conflicts SET resolution = $1 WHERE id = $2`, id, conflict)
	return id, err
}

func (t *transaction) openLines(conflict int64) ([]int64, error) {
	return collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT branch_id FROM conflict_lines WHERE conflict_id = $1 AND left_at IS NULL ORDER BY branch_id`, conflict)
}

// Resolve decides a conflict. What it does on the PCs is ordered with their next reports; the conflict closes when
// they acknowledge it. who is told in the history. It fails with ErrUnknown, ErrVerb, ErrResolved, ErrParked or an error of
// the database, and then nothing was changed.
func (r *Registry) Resolve(ctx context.Context, conflict int64, verb Verb, who string) (Resolution, error) {
	var id int64
	err := r.decide(ctx, func(t *transaction) error {
		c, err := t.conflictRow(conflict)
		if err == nil {
			id, err = t.resolve(c, verb, who, "")
		}
		return err
	})
	if err != nil {
		return Resolution{}, err
	}
	all, err := r.resolutions(ctx, `WHERE r.id = $1`, id)
	if err != nil || len(all) == 0 {
		return Resolution{}, fmt.Errorf("resolution %d: %w", id, errors.Join(err, ErrUnknown))
	}
	return all[0], nil
}

// resolve carries a verb out. why is what a rule decided by.
func (t *transaction) resolve(c conflictRow, verb Verb, who, why string) (id int64, err error) {
	if !c.closed.IsZero() {
		return 0, fmt.Errorf("conflict %d is closed: %w", c.id, ErrResolved)
	}
	if c.parkedBy != 0 {
		return 0, fmt.Errorf("conflict %d: %w: deletion %d; restore that first", c.id, ErrParked, c.parkedBy)
	}
	if !slices.Contains(c.verbs(), verb) {
		return 0, fmt.Errorf("%s: %w: conflict %d takes %s", verb, ErrVerb, c.id, verbList(c.verbs()))
	}
	if c.resolution != 0 {
		var former string
		if _, err := t.get(`SELECT who FROM resolutions WHERE id = $1`, []any{c.resolution}, []any{&former}); err != nil {
			return 0, err
		}
		if !byARule(former) {
			return 0, fmt.Errorf("conflict %d: %w", c.id, ErrResolved)
		}
		if err := t.undo(c.resolution, who); err != nil { // an operator's word goes before a rule's
			return 0, err
		}
	}
	if id, err = t.newResolution(c.id, verb, who); err != nil {
		return 0, err
	}
	if err := t.propose(c.id, proposal{Verb: verb, Why: c.proposal.Why, Rule: c.proposal.Rule, Mode: c.proposal.Mode}); err != nil {
		return 0, err
	}
	event, evidence := "resolved", map[string]any{"conflict": c.id, "kind": c.kind, "verb": verb, "who": who, "resolution": id}
	if why != "" {
		event, evidence["rule"], evidence["why"] = "rule-decided", c.kind, why
	}
	if err := t.record(c.host, event, evidence); err != nil {
		return 0, err
	}
	lines, err := t.openLines(c.id)
	if err != nil {
		return 0, err
	}
	p := plan{t, c, id, lines}
	switch {
	case verb == Block:
		err = p.block()
	case c.kind == "same-board", c.kind == "replacement", c.kind == "duplicate", c.kind == "overlap" && !c.otherHost.IsZero():
		err = p.hosts(verb)
	case c.kind == "overlap":
		err = p.overlap(verb)
	case c.kind == "other-board":
		err = p.order(verb == Merge, checkin.OrderRebind, checkin.OrderNewID)
	case c.kind == "other-key":
		err = p.each(demand{kind: checkin.OrderNewID, joins: verb == Merge}, lines)
	default:
		err = p.observed(verb)
	}
	if err != nil {
		return 0, err
	}
	if ordered, err := t.get(`SELECT 1 FROM demands WHERE resolution = $1 AND ended IS NULL LIMIT 1`, []any{id}, []any{new(int)}); err != nil || ordered {
		return id, err
	}
	return id, t.closeConflict(c.id, c.kind, c.host, "conflict-closed") // nobody is left to be told
}

func verbList(verbs []Verb) string {
	if len(verbs) == 0 {
		return "none any more"
	}
	var names []string
	for _, v := range verbs {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}

// plan carries one verb out.
type plan struct {
	*transaction
	c     conflictRow
	id    int64
	lines []int64
}

// each demands the same of every line.
func (p plan) each(d demand, lines []int64) error {
	d.host, d.conflict, d.resolution = p.c.host, p.c.id, p.id
	for _, l := range lines {
		d.branch = l
		host, err := p.hostOfLine(l)
		if err != nil {
			return err
		}
		d.host = host
		if err := p.demand(d); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) hostOfLine(line int64) (id hostid.ID, err error) {
	b, err := t.branch(line)
	return b.host, err
}

// told has the lines acknowledge what nothing has to be done for on the PC.
func (p plan) told() error {
	return p.each(demand{kind: checkin.OrderFullReport}, p.lines)
}

func (p plan) order(merge bool, one, two checkin.OrderKind) error {
	if merge {
		return p.each(demand{kind: one}, p.lines)
	}
	return p.each(demand{kind: two}, p.lines)
}

// hosts decides about two host IDs of two assets.
func (p plan) hosts(verb Verb) error {
	if verb == Merge {
		if p.c.kind == "replacement" { // the client need not carry the statement any more
			if err := p.remember(p.id, p.c.kind, p.c.subject, nil); err != nil {
				return err
			}
		}
		if err := p.joinHosts(p.id, p.c.host, p.c.otherHost); err != nil {
			return err
		}
		return p.told()
	}
	if err := p.keepApart(); err != nil {
		return err
	}
	return p.told()
}

// overlap decides about several lines of one host ID. The line that keeps it is the one that the host's facts come from.
func (p plan) overlap(verb Verb) error {
	if verb == Merge {
		for _, l := range p.lines {
			if err := p.remember(p.id, "line", fmt.Sprint(l), nil); err != nil {
				return err
			}
		}
		return p.told()
	}
	return p.each(demand{kind: checkin.OrderNewID}, p.copies())
}

// copies are all lines but the one that keeps the host ID.
func (p plan) copies() []int64 {
	h, _, err := p.host(p.c.host)
	keeps := int64(0)
	if len(p.lines) > 0 {
		keeps = p.lines[0]
	}
	if err == nil && slices.Contains(p.lines, h.keeper) {
		keeps = h.keeper
	}
	return slices.DeleteFunc(slices.Clone(p.lines), func(l int64) bool { return l == keeps })
}

// observed decides about what a client's own policy met.
func (p plan) observed(verb Verb) error {
	other := p.c.observedOther()
	switch p.c.observed() {
	case hostid.MemoryForeign:
		if verb == Merge { // the memory is right: this PC is the one that it names
			return p.each(demand{kind: checkin.OrderUseNonvolatile, other: other, joins: true}, p.lines)
		}
		if err := p.keepApart(); err != nil {
			return err
		}
		return p.order(true, checkin.OrderRebind, "")
	case hostid.OtherID, hostid.ConflictKind(hostid.Copied):
		if verb == Merge {
			if err := p.joinHosts(p.id, p.c.host, p.c.otherHost); err != nil {
				return err
			}
		} else if err := p.keepApart(); err != nil {
			return err
		}
		return p.told()
	default: // moved, other-case, twin, stores-differ
		return p.order(verb == Merge, checkin.OrderRebind, checkin.OrderNewID)
	}
}

// block has the reports of whom the conflict is about go into the history only. Where another PC has the same host ID and
// key, only the lines are blocked that are not its own.
func (p plan) block() error {
	lines := p.lines
	switch p.c.kind {
	case "overlap":
		if p.c.otherHost.IsZero() {
			lines = p.copies()
			break
		}
		lines = nil
		for _, l := range p.lines {
			host, err := p.hostOfLine(l)
			if err != nil {
				return err
			}
			if host == p.c.host {
				lines = append(lines, l)
			}
		}
		if err := p.blockKey(lines); err != nil {
			return err
		}
		return p.each(demand{kind: checkin.OrderFullReport}, lines)
	case "same-board", "replacement", "observed", "other-key":
		if err := p.blockKey(lines); err != nil {
			return err
		}
		return p.each(demand{kind: checkin.OrderFullReport}, lines)
	}
	for _, l := range lines {
		if err := p.blockLine(p.id, l); err != nil {
			return err
		}
	}
	return p.each(demand{kind: checkin.OrderFullReport}, lines)
}

func (p plan) blockKey(lines []int64) error {
	for _, l := range lines {
		var host string
		var key ed25519.PublicKey
		if _, err := p.get(`SELECT e.host_id, e.key FROM branches b JOIN epochs e ON e.id = b.epoch_id WHERE b.id = $1`, []any{l}, []any{&host, (*[]byte)(&key)}); err != nil {
			return err
		}
		if err := p.wake(`host_id = $1`, host); err != nil {
			return err
		}
		if _, err := p.exec(`INSERT INTO blocks (resolution, host_id, key) VALUES ($1, $2, $3)`, p.id, host, []byte(key)); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) blockLine(resolution, line int64) error {
	host, err := t.hostOfLine(line)
	if err != nil {
		return err
	}
	if err := t.wake(`host_id = $1`, host.String()); err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO blocks (resolution, host_id, branch_id) VALUES ($1, $2, $3)`, resolution, host.String(), line)
	return err
}

// sameForLine puts a line that came later under the resolution of its conflict.
func (t *transaction) sameForLine(resolution int64, host hostid.ID, line int64) error {
	var verb Verb
	if _, err := t.get(`SELECT verb FROM resolutions WHERE id = $1`, []any{resolution}, []any{(*string)(&verb)}); err != nil {
		return err
	}
	all, err := collect(t, scanDemand, demandColumns+` FROM demands d WHERE d.resolution = $1 ORDER BY d.id DESC LIMIT 1`, resolution)
	if err != nil || len(all) == 0 {
		return err
	}
	if verb == Block {
		if err := t.blockLine(resolution, line); err != nil {
			return err
		}
	}
	d := all[0]
	return t.demand(demand{kind: d.kind, host: host, branch: line, other: d.other, conflict: d.conflict, resolution: resolution, joins: d.joins})
}

// joinHosts puts two hosts into one asset by an operator's word, or a rule's: the first one's into the other's.
func (t *transaction) joinHosts(resolution int64, a, b hostid.ID) error {
	x, known, err := t.host(a)
	if err != nil || !known {
		return err
	}
	y, known, err := t.host(b)
	if err != nil || !known {
		return err
	}
	madeBy := byOperator
	var who string
	if _, err := t.get(`SELECT who FROM resolutions WHERE id = $1`, []any{resolution}, []any{&who}); err != nil {
		return err
	}
	if byARule(who) {
		madeBy = byRule
	}
	var e effects
	if x.asset == y.asset {
		path, err := t.between(x.home, y.home)
		if err != nil {
			return err
		}
		for _, g := range path {
			if g.madeBy == byOperator || madeBy != byOperator {
				continue
			}
			if _, err := t.exec(`UPDATE groupings SET made_by = $1 WHERE id = $2`, byOperator, g.id); err != nil {
				return err
			}
			e.Confirmed = append(e.Confirmed, confirmed{g.id, g.madeBy})
		}
	} else {
		if x.marks.succeeded != 0 && y.marks.succeeded == 0 { // it joins the PC that was succeeded, not that one's successor
			x, y = y, x
		}
		seat, err := t.seat(y)
		if err != nil {
			return err
		}
		id, err := t.group(x.asset, seat, madeBy)
		if err == nil {
			err = t.takenFor(x.id, y.id, false)
		}
		if err != nil {
			return err
		}
		e.Grouped = append(e.Grouped, id)
		if err := t.record(a, "grouped", map[string]any{"host": a, "other": b, "who": who, "grouping": id}); err != nil {
			return err
		}
	}
	return t.changeEffects(resolution, func(all *effects) {
		all.Grouped, all.Confirmed = append(all.Grouped, e.Grouped...), append(all.Confirmed, e.Confirmed...)
	})
}

// remember keeps something apart for as long as the resolution is in force.
func (t *transaction) remember(resolution int64, kind, subject string, agreeing []string) error {
	_, err := t.exec(`INSERT INTO kept_apart (resolution, kind, subject, evidence) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		resolution, kind, subject, toJSON(append([]string{}, agreeing...)))
	return err
}

// byARule reports whether a rule decided, and no operator.
func byARule(who string) bool { return strings.HasPrefix(who, "rule ") }

// keepApart remembers that the operator said that they are two: the same evidence does not ask again.
func (p plan) keepApart() error {
	if err := p.remember(p.id, p.c.kind, p.c.subject, nil); err != nil {
		return err
	}
	other := p.c.otherHost
	if other.IsZero() && p.c.kind == "observed" {
		other = p.c.observedOther()
	}
	if other.IsZero() {
		return nil
	}
	known, reported := p.c.sides()
	return p.remember(p.id, "hosts", hostPair(p.c.host, other), p.agreeing(facts(known), facts(reported)))
}

// keptApart reports whether an operator decided about that before. agreeing is what speaks for asking: what did not when he
// decided asks again; nil asks about nothing else than the subject.
func (t *transaction) keptApart(kind, subject string, agreeing []string) (bool, error) {
	all, err := collect(t, scanText, `SELECT k.evidence FROM kept_apart k JOIN resolutions r ON r.id = k.resolution
		WHERE k.kind = $1 AND k.subject = $2 AND r.undone IS NULL`, kind, subject)
	if err != nil {
		return false, err
	}
	for _, text := range all {
		var then []string
		if err := decodeText("what is kept apart", text, &then); err != nil {
			return false, err
		}
		if !slices.ContainsFunc(agreeing, func(a string) bool { return !slices.Contains(then, a) }) {
			return true, nil
		}
	}
	return false, nil
}

// agreeing are the values of the board facts that both know, and that are the same.
func (t *transaction) agreeing(a, b facts) []string {
	x, y := t.evidence(a), t.evidence(b)
	list := []string{}
	for _, f := range boardFacts {
		if x[f] != "" && x[f] == y[f] {
			list = append(list, f.String()+" "+x[f])
		}
	}
	return list
}

// sides are the two sets of facts that clash: what was known, and what was reported.
func (c conflictRow) sides() (known, reported hardware.Facts) {
	var e struct{ Known, Reported hardware.Facts }
	json.Unmarshal([]byte(c.evidence), &e) // this program wrote it; what it did not write is not known
	return e.Known, e.Reported
}

// Undo takes a resolution back, whatever was reported since: groupings, blocks and what it kept apart end, facts of a rebound
// host are what they were, orders that are not carried out are withdrawn, and what an order made is taken back by another. The
// conflict is open again, and no rule decides it. It fails with ErrUnknown or ErrUndone.
func (r *Registry) Undo(ctx context.Context, resolution int64, who string) error {
	return r.decide(ctx, func(t *transaction) error { return t.undo(resolution, who) })
}

func (t *transaction) undo(resolution int64, who string) error {
	var conflictID int64
	var verb, text string
	var undone sql.NullInt64
	known, err := t.get(`SELECT conflict_id, verb, effects, undone FROM resolutions WHERE id = $1`, []any{resolution}, []any{&conflictID, &verb, &text, &undone})
	switch {
	case err != nil:
		return err
	case !known:
		return fmt.Errorf("resolution %d: %w", resolution, ErrUnknown)
	case undone.Valid:
		return fmt.Errorf("resolution %d: %w", resolution, ErrUndone)
	}
	if _, err := t.exec(`UPDATE resolutions SET undone = $1, undone_by = $2 WHERE id = $3`, millis(t.now), who, resolution); err != nil {
		return err
	}
	c, err := t.conflictRow(conflictID)
	if err != nil {
		return err
	}
	if err := t.record(c.host, "undone", map[string]any{"conflict": c.id, "kind": c.kind, "verb": verb, "who": who, "resolution": resolution}); err != nil {
		return err
	}
	var e effects
	if err := decodeText("effects of a resolution", text, &e); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE blocks SET lifted = $1 WHERE resolution = $2 AND lifted IS NULL`, millis(t.now), resolution); err != nil {
		return err
	}
	if err := t.reopen(c, resolution); err != nil { // before the groupings, which settle what is about one asset
		return err
	}
	for _, id := range slices.Backward(e.Grouped) {
		if err := t.ungroup(id); err != nil {
			return err
		}
	}
	for _, g := range e.Confirmed {
		if _, err := t.exec(`UPDATE groupings SET made_by = $1 WHERE id = $2`, g.MadeBy, g.Grouping); err != nil {
			return err
		}
	}
	for _, was := range slices.Backward(e.Rebound) {
		if err := t.unbind(was); err != nil {
			return err
		}
	}
	return t.takeBack(resolution)
}

func (t *transaction) unbind(was reboundHost) error {
	h, known, err := t.host(was.Host)
	if err != nil || !known {
		return err
	}
	h.facts = was.Facts
	for _, b := range []struct {
		is  *int64
		was int64
	}{{&h.keeper, was.Keeper}, {&h.waiting, was.Waiting}} {
		there, err := t.get(`SELECT 1 FROM branches WHERE id = $1`, []any{b.was}, []any{new(int)})
		if err != nil {
			return err
		}
		if there || b.was == 0 {
			*b.is = b.was
		}
	}
	if err := t.saveHost(h); err != nil {
		return err
	}
	_, _, err = t.regroup(h.asset)
	return err
}

// wakeLines wakes the hosts whose lines a conflict is about, or was.
func (t *transaction) wakeLines(conflict int64) error {
	return t.wake(`branch_id IN (SELECT branch_id FROM conflict_lines WHERE conflict_id = $1)`, conflict)
}

// reopen asks again what a resolution had answered.
func (t *transaction) reopen(c conflictRow, resolution int64) error {
	if err := t.wakeLines(c.id); err != nil {
		return err
	}
	if !c.closed.IsZero() {
		same, err := t.get(`SELECT 1 FROM conflicts WHERE kind = $1 AND subject = $2 AND closed IS NULL`, []any{c.kind, c.subject}, []any{new(int)})
		if err != nil || same {
			return err
		}
		if err := t.record(c.host, "conflict-reopened", map[string]any{"conflict": c.id, "kind": c.kind}); err != nil {
			return err
		}
	}
	if _, err := t.exec(`UPDATE conflicts SET closed = NULL, held = TRUE, resolution = NULL WHERE id = $1 AND (resolution IS NULL OR resolution = $2)`, c.id, resolution); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE conflict_lines SET left_at = NULL WHERE conflict_id = $1 AND branch_id NOT IN
		(SELECT branch_id FROM demands WHERE conflict = $1 AND kind IN ('new-id', 'use-nonvolatile') AND outcome = 'done')`, c.id)
	return err
}

// takeBack withdraws the orders of a resolution that are not carried out, and has those that made another host ID taken
// back.
func (t *transaction) takeBack(resolution int64) error {
	type ordered struct {
		demand
		by   string
		line int64
	}
	all, err := collect(t, func(scan func(...any) error) (o ordered, err error) { return o, o.scan(scan, &o.by, &o.line) },
		demandColumns+`, d.done_by, COALESCE(d.done_line, 0) FROM demands d WHERE d.resolution = $1 AND d.outcome IN ('', 'done') ORDER BY d.id`, resolution)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.outcome == "" {
			if err := t.endDemand(d.demand, demandWithdrawn, hostid.ID{}); err != nil {
				return err
			}
			continue
		}
		if d.kind != checkin.OrderNewID && d.kind != checkin.OrderUseNonvolatile {
			continue
		}
		id, err := hostid.ParseID(d.by)
		if err != nil {
			return err
		}
		line := d.line
		if d.kind == checkin.OrderNewID { // nobody else has that host ID: whatever line it is at now
			_, err := t.get(`SELECT b.id FROM branches b JOIN epochs e ON e.id = b.epoch_id WHERE e.host_id = $1 AND e.proven ORDER BY b.last_received DESC, b.id DESC LIMIT 1`,
				[]any{d.by}, []any{&line})
			if err != nil {
				return err
			}
		}
		if err := t.demand(demand{kind: checkin.OrderTakeBack, host: id, branch: line, other: d.host, conflict: d.conflict, resolution: resolution}); err != nil {
			return err
		}
	}
	return nil
}

// backOnItsBoard settles the question about another board: the line reports from the known one again.
func (t *transaction) backOnItsBoard(b branch) error {
	ids, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT c.id FROM conflict_lines l JOIN conflicts c ON c.id = l.conflict_id WHERE l.branch_id = $1 AND l.left_at IS NULL
			AND c.closed IS NULL AND c.kind = 'other-board' AND c.resolution IS NULL ORDER BY c.id`, b.id)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.settleLine(id, b.id); err != nil {
			return err
		}
	}
	return nil
}

// rejudgeConflicts settles the open conflicts that rested on values that prove nothing any more. Whoever was held back by them is
// judged anew with the next report.
func (t *transaction) rejudgeConflicts() error {
	all, err := collect(t, scanConflict, conflictColumns+`WHERE c.closed IS NULL AND c.kind IN ('same-board', 'overlap', 'other-board') ORDER BY c.id`)
	if err != nil {
		return err
	}
	for _, c := range all {
		known, reported := c.sides()
		board := t.compare(facts(known), facts(reported))
		settled := false
		switch {
		case c.resolution != 0:
		case c.kind == "same-board":
			settled = board != hostid.SameBoard
		case c.kind == "overlap":
			settled = c.proposal.Why == "overlap-shared" && board != hostid.SameBoard
		case c.kind == "other-board":
			settled = board != hostid.AnotherBoard
		}
		if settled {
			if err := t.closeConflict(c.id, c.kind, c.host, "conflict-baseless"); err != nil {
				return err
			}
		}
	}
	return nil
}

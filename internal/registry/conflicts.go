package registry

import (
	"fmt"
	"slices"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// conflict is one to be opened.
type conflict struct {
	kind      string
	subject   string // tells it from others of its kind
	asset     int64  // host's
	other     int64  // otherHost's; 0: none
	host      hostid.ID
	otherHost hostid.ID // zero: none
	lines     []int64   // branches: answered as provisional while it is open
	evidence  map[string]any
}

// openedConflict is one that is open.
type openedConflict struct {
	id         int64
	resolution int64 // in force; 0: none
	held       bool  // no rule decides
}

// maxOpen bounds the open conflicts of one kind about one host ID. What would be one more counts to the newest: the
// operator has to look at this host anyway, and one client must not bury the conflicts of all others.
const maxOpen = 16

// openConflict opens a conflict and records it, unless the same one is open. A line that joins one that was resolved
// comes under the same resolution; one that comes back after it had left reopens it.
func (t *transaction) openConflict(c conflict) (o openedConflict, err error) {
	t.conflictsChanged = true
	scan := []any{&o.id, &o.resolution, &o.held}
	const columns = `SELECT id, COALESCE(resolution, 0), held FROM conflicts `
	found, err := t.get(columns+`WHERE kind = $1 AND subject = $2 AND closed IS NULL`, []any{c.kind, c.subject}, scan)
	if err != nil {
		return o, err
	}
	if !found {
		var open int
		if _, err := t.get(`SELECT COUNT(*) FROM conflicts WHERE host_id = $1 AND kind = $2 AND closed IS NULL`,
			[]any{c.host.String(), c.kind}, []any{&open}); err != nil {
			return o, err
		}
		if open >= maxOpen {
			found, err = t.get(columns+`WHERE host_id = $1 AND kind = $2 AND closed IS NULL ORDER BY id DESC LIMIT 1`, []any{c.host.String(), c.kind}, scan)
			if err != nil {
				return o, err
			}
		}
	}
	if !found {
		o.id, err = t.insert(`INSERT INTO conflicts (kind, subject, asset_id, other_asset, host_id, other_host, opened, evidence) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			c.kind, c.subject, c.asset, nullID(c.other), c.host.String(), idText(c.otherHost), millis(t.now), toJSON(c.evidence))
		if err != nil {
			return o, err
		}
	}
	for _, line := range c.lines {
		if err := t.wake(`branch_id = $1`, line); err != nil {
			return o, err
		}
		if err := t.addLine(&o, c, line); err != nil {
			return o, err
		}
	}
	if found {
		return o, nil
	}
	c.evidence["conflict"] = o.id
	return o, t.record(c.host, "conflict-"+c.kind, c.evidence)
}

func (t *transaction) addLine(o *openedConflict, c conflict, line int64) error {
	n, err := t.exec(`INSERT INTO conflict_lines (conflict_id, branch_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, o.id, line)
	if err != nil {
		return err
	}
	if n == 1 {
		if o.resolution == 0 || c.kind == "overlap" || c.kind == "other-key" { // who is ordered what is decided there
			return nil
		}
		return t.sameForLine(o.resolution, c.host, line)
	}
	back, err := t.exec(`UPDATE conflict_lines SET left_at = NULL WHERE conflict_id = $1 AND branch_id = $2 AND left_at IS NOT NULL`, o.id, line)
	if err != nil || back == 0 || o.resolution == 0 {
		return err
	}
	o.resolution = 0
	if _, err := t.exec(`UPDATE conflicts SET resolution = NULL WHERE id = $1`, o.id); err != nil {
		return err
	}
	return t.record(c.host, "conflict-reopened", map[string]any{"conflict": o.id, "kind": c.kind})
}

// settleLine takes a line out of a conflict, or out of all (0), and closes what has nothing left to ask: an overlap
// takes two lines, everything else one. Lines of that conflict that are silent hold it open no longer.
func (t *transaction) settleLine(conflictID, line int64) error {
	t.conflictsChanged = true
	if line != 0 {
		if _, err := t.exec(`UPDATE conflict_lines SET left_at = $1 WHERE branch_id = $2 AND left_at IS NULL
			AND ($3 = 0 OR conflict_id = $3) AND conflict_id IN (SELECT id FROM conflicts WHERE closed IS NULL)`, millis(t.now), line, conflictID); err != nil {
			return err
		}
	}
	type open struct {
		id         int64
		kind, host string
	}
	all, err := collect(t, func(scan func(...any) error) (o open, err error) { return o, scan(&o.id, &o.kind, &o.host) },
		`SELECT c.id, c.kind, c.host_id FROM conflicts c WHERE c.closed IS NULL AND c.id IN (SELECT conflict_id FROM conflict_lines WHERE branch_id = $1)
			AND ($2 = 0 OR c.id = $2) ORDER BY c.id`, line, conflictID)
	if err != nil {
		return err
	}
	for _, o := range all {
		var left, silent int
		// A line that is silent, and under the same resolution as one that did its part, will hardly come any more; if it does, it
		// is in conflict again.
		_, err := t.get(`SELECT COUNT(*), COALESCE(SUM(CASE WHEN b.last_received <= $1 AND c.resolution IS NOT NULL THEN 1 ELSE 0 END), 0)
			FROM conflict_lines l JOIN branches b ON b.id = l.branch_id JOIN conflicts c ON c.id = l.conflict_id
			WHERE l.conflict_id = $2 AND l.left_at IS NULL`, []any{millis(t.now.Add(-t.reg.silence())), o.id}, []any{&left, &silent})
		if err != nil {
			return err
		}
		least := 1
		if o.kind == "overlap" {
			least = 2
		}
		if left-silent >= least {
			continue
		}
		host, err := hostid.ParseID(o.host)
		if err != nil {
			return err
		}
		if err := t.closeConflict(o.id, o.kind, host, "conflict-closed"); err != nil {
			return err
		}
	}
	return nil
}

// closeConflict closes an open conflict; demands that serve it have nothing to serve any more.
func (t *transaction) closeConflict(id int64, kind string, host hostid.ID, event string) error {
	t.conflictsChanged = true
	if _, err := t.exec(`UPDATE conflicts SET closed = $1 WHERE id = $2`, millis(t.now), id); err != nil {
		return err
	}
	rest, err := collect(t, scanDemand, demandColumns+` FROM demands d WHERE d.conflict = $1 AND d.ended IS NULL ORDER BY d.id`, id)
	if err != nil {
		return err
	}
	for _, d := range rest {
		outcome := demandGone
		if event != "conflict-closed" { // its reason fell away while it was under way
			outcome = demandWithdrawn
		}
		if d.kind == checkin.OrderTakeBack {
			continue
		}
		if err := t.endDemand(d, outcome, hostid.ID{}); err != nil {
			return err
		}
	}
	return t.record(host, event, map[string]any{"conflict": id, "kind": kind})
}

// settleSameBoard closes the conflicts that asked whether two assets are one PC, where both are now this asset. One that
// an operator resolved closes with its order.
func (t *transaction) settleSameBoard(asset int64) error {
	type settled struct {
		id   int64
		host string
	}
	all, err := collect(t, func(scan func(...any) error) (s settled, err error) { return s, scan(&s.id, &s.host) },
		`SELECT id, host_id FROM conflicts WHERE kind = 'same-board' AND asset_id = $1 AND other_asset = $1 AND closed IS NULL AND resolution IS NULL ORDER BY id`, asset)
	if err != nil {
		return err
	}
	for _, s := range all {
		host, err := hostid.ParseID(s.host)
		if err != nil {
			return err
		}
		if err := t.closeConflict(s.id, "same-board", host, "conflict-settled"); err != nil {
			return err
		}
	}
	return nil
}

// inConflict reports whether an open conflict is about that line, and is not parked.
func (t *transaction) inConflict(line int64) (bool, error) {
	return t.get(`SELECT 1 FROM conflict_lines l JOIN conflicts c ON c.id = l.conflict_id
		WHERE l.branch_id = $1 AND l.left_at IS NULL AND `+asked+` LIMIT 1`, []any{line}, []any{new(int)})
}

// conflictKinds are the observations of a client's Keeper that an operator has to decide on.
var conflictKinds = map[string]bool{
	string(hostid.MemoryForeign): true,
	string(hostid.OtherID):       true,
	string(hostid.Moved):         true,
	string(hostid.OtherCase):     true,
	string(hostid.Twin):          true,
	string(hostid.StoresDiffer):  true,
}

// maxObservations bounds what one epoch can put into history and conflicts by observing ever new things; the rest
// stays in its stored reports.
const maxObservations = 64

// observe records what the client's own policy met, each thing once in an epoch, and opens a conflict where it
// has to be decided on. What is seen here too, a disk or board that was moved, is one conflict and not two.
func (t *transaction) observe(v checkin.VerifiedReport, h host, b branch, board hostid.Board) error {
	observations := v.Report.Observations
	if v.Report.Pending && !slices.ContainsFunc(observations, func(o checkin.Observation) bool { return o.Kind == string(hostid.OtherCase) }) {
		observations = append(observations[:len(observations):len(observations)],
			checkin.Observation{Kind: string(hostid.OtherCase), Mine: h.id})
	}
	for _, o := range observations {
		asks := conflictKinds[o.Kind] && !(o.Kind == string(hostid.Moved) && board == hostid.AnotherBoard)
		if o.Kind == string(hostid.Copied) {
			var err error
			if asks, err = t.onItsDisk(o.Other, v); err != nil {
				return err
			}
		}
		if asks {
			if err := t.observedConflict(v, h, b, o); err != nil {
				return err
			}
			continue
		}
		var count int
		if _, err := t.get(`SELECT COUNT(*) FROM observations WHERE epoch_id = $1`, []any{b.epoch}, []any{&count}); err != nil {
			return err
		}
		if count == maxObservations {
			return nil
		}
		n, err := t.exec(`INSERT INTO observations (epoch_id, kind, mine, other) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			b.epoch, o.Kind, idText(o.Mine), idText(o.Other))
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if err := t.record(h.id, "observed", observed(v, h, o)); err != nil {
			return err
		}
	}
	return nil
}

// cannot ends the demands of orders that their line says it cannot carry out, also where nothing else that it says counts: told again,
// it would only say so again. An operator has to look.
func (t *transaction) cannot(v checkin.VerifiedReport, b branch) error {
	for _, o := range v.Report.Observations {
		if o.Kind != checkin.ObservedOrderFailed {
			continue
		}
		all, err := collect(t, scanDemand, demandColumns+` FROM orders o JOIN demands d ON d.id = o.demand
			WHERE o.id = $1 AND o.acknowledged IS NULL AND d.branch_id = $2 AND d.ended IS NULL`, o.Order, b.id)
		if err == nil && len(all) > 0 {
			err = t.endDemand(all[0], demandFailed, hostid.ID{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// onItsDisk reports that this report comes from the very disk that a host is known on. A client that keeps its ID in a file only
// knows the disk it was installed on: where the disk was replaced by a copy, and the board later, it takes itself for a copy.
func (t *transaction) onItsDisk(id hostid.ID, v checkin.VerifiedReport) (bool, error) {
	h, known, err := t.host(id)
	if err != nil || !known || id == v.Report.HostID {
		return false, err
	}
	disk := t.evidence(h.facts)[hostid.DiskSerial]
	return disk != "" && disk == t.evidence(facts(v.Report.Facts))[hostid.DiskSerial], nil
}

func observed(v checkin.VerifiedReport, h host, o checkin.Observation) map[string]any {
	return map[string]any{"host": h.id, "observed": o.Kind, "mine": idText(o.Mine), "other": idText(o.Other), "detail": o.Detail,
		"known": h.facts, "reported": v.Report.Facts, "epoch": v.Report.Epoch, "report": v.Digest}
}

// observedConflict opens the conflict about an observation, unless it was decided on.
func (t *transaction) observedConflict(v checkin.VerifiedReport, h host, b branch, o checkin.Observation) error {
	subject := fmt.Sprint(h.id, " ", o.Kind, " ", idText(o.Mine), " ", idText(o.Other))
	if o.Other.IsZero() {
		subject += " " + t.boardName(facts(v.Report.Facts))
	}
	apart, err := t.keptApart("observed", subject, nil)
	if err != nil || apart {
		return err
	}
	c := conflict{kind: "observed", subject: subject, asset: h.asset, host: h.id, lines: []int64{b.id}, evidence: observed(v, h, o)}
	if other, known, err := t.host(o.Other); err != nil {
		return err
	} else if known && other.id != h.id {
		c.otherHost, c.other = other.id, other.asset
	}
	_, err = t.openConflict(c)
	return err
}

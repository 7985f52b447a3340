package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"slices"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// A demand is what one line of reports is to do, until it has done it or is gone. Each run of the line is given an order
// of its own, since an order is bound to its run; so a demand outlives orders, and only ends once.
type demand struct {
	id         int64
	kind       checkin.OrderKind
	host       hostid.ID
	branch     int64
	other      hostid.ID
	conflict   int64 // 0: none
	resolution int64 // 0: none
	joins      bool  // the host ID it ends under is to be grouped with host
	issued     int
	given      int
	ended      time.Time
	outcome    string
}

// How a demand ends.
const (
	demandDone      = "done"
	demandWithdrawn = "withdrawn" // the resolution was undone; if it was carried out meanwhile, that is taken back
	demandGone      = "gone"      // its line is: nobody holds the ID any more that could carry it out
	demandFailed    = "failed"    // told often enough
)

// No order repeats for ever. A client carries an order out at once; what delays it is memory that does not answer, for days
// at worst, and a PC that is switched off before its next report.
const (
	maxIssued = 60   // runs of a line that are told
	maxGiven  = 1000 // replies: ten days at a quarter of an hour
)

const demandColumns = `SELECT d.id, d.kind, d.host_id, d.branch_id, d.other, COALESCE(d.conflict, 0), COALESCE(d.resolution, 0), d.joins, d.issued, d.given, d.ended, d.outcome`

func (d *demand) scan(scan func(...any) error, more ...any) error {
	var host, other string
	var ended sql.NullInt64
	err := scan(append([]any{&d.id, (*string)(&d.kind), &host, &d.branch, &other, &d.conflict, &d.resolution, &d.joins, &d.issued, &d.given, &ended, &d.outcome}, more...)...)
	if err != nil {
		return err
	}
	d.ended = fromNullTime(ended)
	if d.host, err = hostid.ParseID(host); err != nil {
		return err
	}
	d.other, err = parseID(other)
	return err
}

func scanDemand(scan func(...any) error) (d demand, err error) { return d, d.scan(scan) }

// demand makes a demand. The line may be under the same one already; then that one is this resolution's from now on.
func (t *transaction) demand(d demand) error {
	if err := t.wake(`host_id = $1 OR branch_id = $2`, d.host.String(), d.branch); err != nil {
		return err
	}
	var id int64
	found, err := t.get(`SELECT id FROM demands WHERE branch_id = $1 AND kind = $2 AND other = $3 AND ended IS NULL`,
		[]any{d.branch, string(d.kind), idText(d.other)}, []any{&id})
	if err != nil {
		return err
	}
	if found {
		_, err := t.exec(`UPDATE demands SET conflict = $1, resolution = $2, joins = $3 WHERE id = $4`, nullID(d.conflict), nullID(d.resolution), d.joins, id)
		return err
	}
	_, err = t.exec(`INSERT INTO demands (kind, host_id, branch_id, other, conflict, resolution, joins, made, issued, given, outcome, done_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, '', '')`,
		string(d.kind), d.host.String(), d.branch, idText(d.other), nullID(d.conflict), nullID(d.resolution), d.joins, millis(t.now))
	if err != nil {
		return err
	}
	return t.record(d.host, "ordered", map[string]any{"order": d.kind, "other": idText(d.other), "conflict": d.conflict, "branch": d.branch})
}

// orders are those that the reply to this report carries: for each demand on its line one that is bound to its run.
// Whatever a host has nothing to do for may be acknowledged by any of its lines.
func (t *transaction) orders(v checkin.VerifiedReport, b branch, proven bool) ([]checkin.Order, error) {
	type due struct {
		demand
		order, run, enrol string
		at                int64
	}
	host := ""
	if proven && !b.blocked {
		host = v.Report.HostID.String()
	}
	all, err := collect(t, func(scan func(...any) error) (d due, err error) {
		return d, d.scan(scan, &d.order, &d.run, &d.enrol, &d.at)
	}, demandColumns+`, COALESCE(o.id, ''), COALESCE(o.run, ''), COALESCE(o.enrol, ''), COALESCE(o.issued, 0)
		FROM demands d LEFT JOIN orders o ON o.demand = d.id AND o.acknowledged IS NULL AND o.void IS NULL
		WHERE d.ended IS NULL AND (d.branch_id = $1 OR d.host_id = $2 AND d.kind = 'full-report') ORDER BY d.id`, b.id, host)
	if err != nil {
		return nil, err
	}
	run := v.Report.Run.String()
	var list []checkin.Order
	for _, d := range all {
		if d.order != "" && d.run != run && d.branch != b.id && t.reg.live(fromMillis(d.at), t.now) {
			continue // another line of the host has it
		}
		if d.given >= maxGiven || d.run != run && d.issued >= maxIssued {
			if err := t.endDemand(d.demand, demandFailed, hostid.ID{}); err != nil {
				return nil, err
			}
			continue
		}
		if d.run != run {
			if err := t.issue(v, &d.demand, &d.order, &d.enrol); err != nil {
				return nil, err
			}
		}
		if _, err := t.exec(`UPDATE demands SET given = given + 1 WHERE id = $1`, d.id); err != nil {
			return nil, err
		}
		list = append(list, checkin.Order{ID: d.order, Kind: d.kind, HostID: v.Report.HostID, Epoch: v.Report.Epoch, Run: v.Report.Run, Other: d.other, Enrol: d.enrol})
		if len(list) == maxOrders {
			break
		}
	}
	return list, nil
}

// maxOrders bounds one reply; what is left comes with the next.
const maxOrders = 8

// issue makes the order for this run, in place of the one for the run before.
func (t *transaction) issue(v checkin.VerifiedReport, d *demand, order, enrol *string) error {
	if err := t.voidOrders(d.id); err != nil {
		return err
	}
	*order, *enrol = checkin.NewToken().String(), ""
	if d.kind == checkin.OrderNewID {
		tok := checkin.NewEnrolmentToken(t.reg.audience)
		sealed, err := checkin.SealOrder(v.Report.SealKey, *order, tok)
		if err == nil { // else nobody could open it: the order goes without, and the client's own token has to serve
			*enrol = sealed
			verifier := tok.Verifier()
			_, err := t.exec(`INSERT INTO tokens (id, verifier, note, created, expires, order_id) VALUES ($1, $2, '', $3, $4, $5)`,
				tok.ID, verifier[:], millis(t.now), millis(t.now.Add(keepReport)), *order)
			if err != nil {
				return err
			}
		}
	}
	_, err := t.exec(`INSERT INTO orders (id, demand, epoch, run, enrol, issued) VALUES ($1, $2, $3, $4, $5, $6)`,
		*order, d.id, v.Report.Epoch.String(), v.Report.Run.String(), *enrol, millis(t.now))
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE demands SET issued = issued + 1 WHERE id = $1`, d.id)
	return err
}

func (t *transaction) voidOrders(demand int64) error {
	_, err := t.exec(`UPDATE orders SET void = $1 WHERE demand = $2 AND void IS NULL AND acknowledged IS NULL`, millis(t.now), demand)
	return err
}

// endDemand ends a demand, and tells how.
func (t *transaction) endDemand(d demand, outcome string, by hostid.ID) error {
	if _, err := t.exec(`UPDATE demands SET ended = $1, outcome = $2, done_by = $3 WHERE id = $4`, millis(t.now), outcome, idText(by), d.id); err != nil {
		return err
	}
	if outcome == demandDone || outcome == demandFailed { // else what is under way may be carried out already, and is told later
		if err := t.voidOrders(d.id); err != nil {
			return err
		}
	}
	evidence := map[string]any{"order": d.kind, "other": idText(d.other), "conflict": d.conflict, "by": idText(by), "given": d.given}
	if outcome != demandFailed {
		return t.record(d.host, "order-"+outcome, evidence)
	}
	if d.conflict != 0 { // an operator has to look again
		if _, err := t.exec(`UPDATE conflicts SET resolution = NULL, held = TRUE WHERE id = $1 AND closed IS NULL AND resolution = $2`, d.conflict, d.resolution); err != nil {
			return err
		}
	}
	return t.record(d.host, "order-failed", evidence)
}

// acknowledge takes note of the orders that the report says were carried out, each once, from whom it can come: under the
// ordered host ID by the same key, or after new-id, take-back and use-nonvolatile under the host ID that it led to.
func (t *transaction) acknowledge(v checkin.VerifiedReport, b branch, proven bool) error {
	for _, id := range v.Report.Done {
		type named struct {
			demand
			key    ed25519.PublicKey
			issued int64
		}
		all, err := collect(t, func(scan func(...any) error) (n named, err error) {
			return n, n.scan(scan, (*[]byte)(&n.key), &n.issued)
		}, demandColumns+`, e.key, o.issued FROM orders o JOIN demands d ON d.id = o.demand JOIN branches b ON b.id = d.branch_id JOIN epochs e ON e.id = b.epoch_id
			WHERE o.id = $1 AND o.acknowledged IS NULL AND d.outcome IN ('', 'withdrawn', 'gone')`, id)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			continue
		}
		d, from := all[0], v.Report.HostID
		switch d.kind {
		case checkin.OrderNewID:
			var enrolled int64
			known, err := t.get(`SELECT COALESCE(enrolled, 0) FROM hosts WHERE host_id = $1`, []any{from.String()}, []any{&enrolled})
			if err != nil {
				return err
			}
			if !proven || !known || enrolled < d.issued || from == d.host || v.Report.CopyOf != d.host {
				continue
			}
			// Order and lineage can be read on the way; the token that went with the order was sealed to the PC that it is for.
			sealed, err := t.get(`SELECT 1 FROM hosts h JOIN tokens k ON k.id = h.token_id JOIN orders o ON o.id = k.order_id WHERE h.host_id = $1 AND o.demand = $2`,
				[]any{from.String(), d.id}, []any{new(int)})
			if err != nil {
				return err
			}
			if !sealed {
				continue
			}
		case checkin.OrderTakeBack, checkin.OrderUseNonvolatile:
			if !proven || from != d.other {
				continue
			}
		default:
			if from != d.host || !d.key.Equal(v.Key) {
				continue
			}
		}
		if _, err := t.exec(`UPDATE orders SET acknowledged = $1, void = NULL WHERE id = $2`, millis(t.now), id); err != nil {
			return err
		}
		if err := t.done(v, d.demand, b); err != nil {
			return err
		}
	}
	return nil
}

// done draws the conclusions from an order that was carried out.
func (t *transaction) done(v checkin.VerifiedReport, d demand, b branch) error {
	from := v.Report.HostID
	withdrawn := d.outcome == demandWithdrawn
	if err := t.endDemand(d, demandDone, from); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE demands SET done_line = $1 WHERE id = $2`, b.id, d.id); err != nil {
		return err
	}
	switch d.kind {
	case checkin.OrderNewID, checkin.OrderUseNonvolatile, checkin.OrderTakeBack:
		if d.kind == checkin.OrderNewID {
			if _, err := t.exec(`UPDATE hosts SET copy_of = $1 WHERE host_id = $2`, d.host.String(), from.String()); err != nil {
				return err
			}
		}
		if withdrawn && d.kind != checkin.OrderTakeBack {
			return t.demand(demand{kind: checkin.OrderTakeBack, host: from, branch: b.id, other: d.host, conflict: d.conflict})
		}
		if err := t.leaves(d); err != nil {
			return err
		}
		if d.kind == checkin.OrderUseNonvolatile { // the PC is the one that memory names, wherever that was stored
			if err := t.rebound(v, d.resolution, from, b); err != nil {
				return err
			}
		}
		if d.joins {
			return t.joinHosts(d.resolution, d.host, from)
		}
		if d.kind == checkin.OrderNewID {
			return t.apartByOrder(v, d)
		}
		return nil
	}
	if withdrawn { // what it was to settle is open again
		return nil
	}
	if d.kind == checkin.OrderRebind {
		if err := t.rebound(v, d.resolution, d.host, b); err != nil {
			return err
		}
	}
	return t.settleLine(d.conflict, d.branch)
}

// leaves takes a line that goes on under another host ID out of everything that was asked about it under this one.
func (t *transaction) leaves(d demand) error {
	if err := t.settleLine(0, d.branch); err != nil {
		return err
	}
	rest, err := collect(t, scanDemand, demandColumns+` FROM demands d WHERE d.branch_id = $1 AND d.ended IS NULL ORDER BY d.id`, d.branch)
	if err != nil {
		return err
	}
	for _, r := range rest {
		if err := t.endDemand(r, demandGone, hostid.ID{}); err != nil {
			return err
		}
	}
	h, known, err := t.host(d.host)
	if err != nil || !known || h.keeper != d.branch && h.waiting != d.branch {
		return err
	}
	// Who stays need not wait until it is known that the other one went.
	var next int64
	_, err = t.get(`SELECT b.id FROM branches b JOIN epochs e ON e.id = b.epoch_id WHERE e.host_id = $1 AND e.proven AND b.id <> $2
		AND NOT EXISTS (SELECT 1 FROM demands d WHERE d.branch_id = b.id AND d.kind IN ('new-id', 'use-nonvolatile', 'take-back') AND d.outcome IN ('', 'done'))
		ORDER BY b.last_received DESC, b.id LIMIT 1`, []any{h.id.String(), d.branch}, []any{&next})
	if err != nil {
		return err
	}
	if h.waiting == d.branch {
		h.waiting = 0
	}
	if h.keeper == d.branch && next != 0 {
		if h.keeper = next; h.waiting == next {
			h.waiting = 0
		}
	}
	if err := t.saveHost(h); err != nil {
		return err
	}
	_, _, err = t.regroup(h.asset)
	return err
}

// apartByOrder remembers that an operator said that host and former host are two, whatever their boards have in common.
func (t *transaction) apartByOrder(v checkin.VerifiedReport, d demand) error {
	var who string
	if _, err := t.get(`SELECT who FROM resolutions WHERE id = $1`, []any{d.resolution}, []any{&who}); err != nil || who == "" || byARule(who) {
		return err
	}
	h, known, err := t.host(d.host)
	if err != nil || !known {
		return err
	}
	return t.remember(d.resolution, "hosts", hostPair(d.host, v.Report.HostID), t.agreeing(h.facts, facts(v.Report.Facts)))
}

// rebound takes the present facts of the PC for the host's, as its record now does.
func (t *transaction) rebound(v checkin.VerifiedReport, resolution int64, id hostid.ID, b branch) error {
	h, known, err := t.host(id)
	if err != nil || !known {
		return err
	}
	if resolution != 0 {
		err := t.changeEffects(resolution, func(e *effects) {
			e.Rebound = append(e.Rebound, reboundHost{Host: h.id, Facts: h.facts, Keeper: h.keeper, Waiting: h.waiting})
		})
		if err != nil {
			return err
		}
	}
	// What the report does not know stays unknown: the former board's values would make a mixture of two boards.
	same := t.compare(h.facts, facts(v.Report.Facts)) != hostid.AnotherBoard
	if same {
		h.facts = t.merged(h.facts, v.Report.Facts)
	} else {
		h.facts = facts(v.Report.Facts)
	}
	h.keeper, h.waiting = b.id, 0
	if err := t.saveHost(h); err != nil {
		return err
	}
	_, _, err = t.regroup(h.asset)
	return err
}

// Order is one order that a host was given.
type Order struct {
	ID           string            `json:"id"`
	Kind         checkin.OrderKind `json:"kind"`
	HostID       hostid.ID         `json:"host_id"`
	Epoch        string            `json:"epoch"`
	Run          string            `json:"run"`
	Other        hostid.ID         `json:"other,omitzero"`
	Issued       time.Time         `json:"issued"`
	Acknowledged time.Time         `json:"acknowledged,omitzero"`
	By           hostid.ID         `json:"by,omitzero"` // the host ID it was acknowledged under
	Void         time.Time         `json:"void,omitzero"`
	Conflict     int64             `json:"conflict,omitzero"` // that it serves to resolve
	Why          string            `json:"why"`               // who decided: an operator, or "rule " and its name
}

// OrdersOf returns the orders that any host ID of that host's asset was given, the oldest first.
func (r *Registry) OrdersOf(ctx context.Context, id hostid.ID) ([]Order, error) {
	return scanAll(ctx, r.readers, scanOrder, orderColumns+`WHERE d.host_id IN (SELECT host_id FROM hosts WHERE asset_id = (SELECT asset_id FROM hosts WHERE host_id = $1))
		ORDER BY o.issued, o.id`, id.String())
}

const (
	orderFields       = `SELECT o.id, d.kind, d.host_id, o.epoch, o.run, d.other, o.issued, o.acknowledged, d.done_by, o.void, COALESCE(d.conflict, 0), COALESCE(r.who, '')`
	orderColumns      = orderFields + ` FROM orders o JOIN demands d ON d.id = o.demand LEFT JOIN resolutions r ON r.id = d.resolution `
	orderOfResolution = orderFields + `, r.id FROM orders o JOIN demands d ON d.id = o.demand JOIN resolutions r ON r.id = d.resolution `
)

func scanOrder(scan func(...any) error) (o Order, err error) {
	var host, other, by string
	var issued int64
	var acknowledged, void sql.NullInt64
	if err := scan(&o.ID, (*string)(&o.Kind), &host, &o.Epoch, &o.Run, &other, &issued, &acknowledged, &by, &void, &o.Conflict, &o.Why); err != nil {
		return o, err
	}
	o.Issued, o.Acknowledged, o.Void = fromMillis(issued), fromNullTime(acknowledged), fromNullTime(void)
	if o.Acknowledged.IsZero() {
		by = ""
	}
	var errs [3]error
	o.HostID, errs[0] = hostid.ParseID(host)
	o.Other, errs[1] = parseID(other)
	o.By, errs[2] = parseID(by)
	return o, errors.Join(errs[:]...)
}

// orderToken says why a token that went with an order does not serve this report; "" if it does.
func (t *transaction) orderToken(v checkin.VerifiedReport, tok Token) (why string, err error) {
	var host string
	var void sql.NullInt64
	if _, err := t.get(`SELECT d.host_id, o.void FROM orders o JOIN demands d ON d.id = o.demand WHERE o.id = $1`,
		[]any{tok.orderID}, []any{&host, &void}); err != nil {
		return "", err
	}
	switch {
	case tok.Uses > 0:
		return "was used", nil
	case !slices.Contains(v.Report.Done, tok.orderID) || idText(v.Report.CopyOf) != host || v.Report.HostID.String() == host:
		return "goes with an order that this report does not acknowledge", nil
	case void.Valid:
		return "went with an order that is void by now", nil
	}
	return "", nil
}

// orderedAway reports whether host was ordered to give up the host ID from, and did.
func (t *transaction) orderedAway(host, from hostid.ID) (bool, error) {
	return t.get(`SELECT 1 FROM demands WHERE done_by = $1 AND host_id = $2 AND kind = 'new-id' AND outcome = 'done' LIMIT 1`,
		[]any{host.String(), from.String()}, []any{new(int)})
}

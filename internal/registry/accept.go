package registry

import (
	"database/sql"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

func (t *transaction) reply(v checkin.VerifiedReport) checkin.Reply {
	return checkin.Reply{
		Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: t.interval(), Time: t.now,
	}
}

// accept decides about a report that is new.
func (t *transaction) accept(s checkin.SignedReport, v checkin.VerifiedReport) (checkin.Reply, error) {
	reply := t.reply(v)
	h, proven, err := t.admit(v)
	if err != nil {
		return reply, err
	}
	if again, seen, err := t.seenAtRest(v); err != nil || seen {
		return again, err
	}
	if err := t.wake(`host_id IN (SELECT host_id FROM hosts WHERE asset_id = (SELECT asset_id FROM hosts WHERE host_id = $1))`, v.Report.HostID.String()); err != nil {
		return reply, err
	}
	text, err := t.bound(s, v, proven)
	if err != nil {
		return reply, err
	}
	if !text {
		s.JWS = ""
	}
	e, err := t.epoch(v, proven)
	if err != nil {
		return reply, err
	}
	p, err := t.place(s, v, e)
	if err != nil || p.seen { // accepted long ago, and that is all there is to say
		return reply, err
	}
	if err := t.rate(v.Report.HostID.String(), proven, hourOf(t.now)); err != nil {
		return reply, err
	}
	if err := t.expand(&v.Report, p.branch.id); err != nil {
		return reply, err
	}
	if err := t.acknowledge(v, p.branch, proven); err != nil {
		return reply, err
	}
	if err := t.cannot(v, p.branch); err != nil {
		return reply, err
	}
	if p.inConflict, err = t.inConflict(p.branch.id); err != nil {
		return reply, err
	}
	if err := t.contact(); err != nil {
		return reply, err
	}
	t.conflictsChanged, t.wonders = false, false
	switch {
	case !proven:
		if !p.branch.blocked {
			err = t.otherKey(v, h, e, p.branch)
		}
	case p.branch.blocked:
		err = t.checkedIn(h)
	default:
		if err = t.heardAgain(h); err == nil {
			reply.Named, err = t.acceptProven(v, h, e, p)
		}
		if err == nil && p.tip { // one that was long on its way says nothing of now
			err = t.relayReported(s, v)
		}
	}
	if err != nil {
		return reply, err
	}
	if p.inConflict && p.tip {
		if err := t.applyRules(p.branch.id); err != nil {
			return reply, err
		}
	}
	if p.tip {
		if reply.Orders, err = t.orders(v, p.branch, proven); err != nil {
			return reply, err
		}
	}
	if v.Report.Base != (checkin.Digest{}) {
		reply.Orders = append(reply.Orders, fullReport(v.Report))
	}
	if !p.branch.blocked && v.Report.Placeholders != t.placeholders.Digest() {
		reply.Placeholders = t.placeholders.String()
	}
	reply.Provisional = p.inConflict
	if t.conflictsChanged {
		if reply.Provisional, err = t.inConflict(p.branch.id); err != nil {
			return reply, err
		}
	}
	if reply.Settings, err = t.settings(v, p, proven, reply, s.Hops); err != nil {
		return reply, err
	}
	if reply, err = checkin.SignReply(reply, t.reg.key); err != nil {
		return reply, err
	}
	if _, err = t.exec(`UPDATE reports SET reply = $1 WHERE digest = $2`, reply.Raw, v.Digest.String()); err != nil || !proven {
		return reply, err
	}
	return reply, t.rest(v, h, e, p, reply)
}

// fullReport answers a delta whose base is not the latest full report of its line. It needs no acknowledgement: the
// reply is given once, and the full report is one.
func fullReport(r checkin.Report) checkin.Order {
	return checkin.Order{ID: checkin.NewToken().String(), Kind: checkin.OrderFullReport, HostID: r.HostID, Epoch: r.Epoch, Run: r.Run}
}

// acceptProven decides about a report by the key that the host ID is bound to, and returns the replaced host IDs
// that it has taken note of.
func (t *transaction) acceptProven(v checkin.VerifiedReport, h host, e epoch, p placement) ([]hostid.ID, error) {
	// Statements come first: they decide which asset this report is about.
	var named []hostid.ID
	if len(v.Report.Replaced) > 0 || len(v.Report.Done) > 0 {
		var err error
		if h, _, err = t.host(h.id); err != nil { // an acknowledgement may have changed it
			return nil, err
		}
		if named, err = t.replacements(v, h, p.branch.id); err != nil {
			return nil, err
		}
		if h, _, err = t.host(h.id); err != nil {
			return nil, err
		}
	}
	board, err := t.settle(v, h, e, p)
	if err != nil {
		return nil, err
	}
	if _, err := t.exec(`UPDATE reports SET board = $1 WHERE digest = $2`, board.String(), v.Digest.String()); err != nil {
		return nil, err
	}
	if err := t.span(v, h, e, p); err != nil {
		return nil, err
	}
	if err := t.observe(v, h, p.branch, board); err != nil {
		return nil, err
	}
	if p.tip {
		if err := t.isOriginal(h); err != nil {
			return nil, err
		}
		if t.wonders, err = t.wonder(v, h, p.branch); err != nil {
			return nil, err
		}
	}
	return named, t.overlaps(p.branch, h)
}

// settle decides whether the report's branch keeps the host, takes from it what may be taken, and makes the asset anew.
func (t *transaction) settle(v checkin.VerifiedReport, h host, e epoch, p placement) (hostid.Board, error) {
	reported := facts(v.Report.Facts)
	board := t.compare(h.facts, reported)
	// What was long on its way says nothing about now where another line was heard since.
	late := t.received.Before(h.heard) && !h.heard.After(t.now) && (h.keeper != p.branch.id || h.waiting != 0 && h.waiting != p.branch.id)
	if board == hostid.AnotherBoard || v.Report.Base != (checkin.Digest{}) || !p.tip || late {
		if err := t.checkedIn(h); err != nil {
			return board, err
		}
	}
	if board == hostid.AnotherBoard {
		if e.isNew {
			if err := t.record(h.id, "epoch-elsewhere", e.evidence()); err != nil {
				return board, err
			}
		}
		return board, t.otherBoard(v, h, e, p.branch)
	}
	if v.Report.Base != (checkin.Digest{}) || !p.tip || late {
		return board, nil // a delta says too little, a late report nothing about now
	}
	if board == hostid.SameBoard && p.inConflict {
		if err := t.backOnItsBoard(p.branch); err != nil {
			return board, err
		}
	}
	keeps, err := t.keeps(e, p, &h)
	if err != nil {
		return board, err
	}
	if keeps && (board == hostid.SameBoard || !t.decides(h.facts)) {
		trusted := true
		if board == hostid.Undecided {
			if trusted, err = t.ownDisk(v, h, e, p.branch); err != nil {
				return board, err
			}
		}
		if trusted {
			if err := t.learn(&h, v.Report.Facts); err != nil {
				return board, err
			}
		}
	}
	former := h.heard
	if h.heard = t.latest(former); !t.reg.live(former, h.heard) {
		h.since = t.received
	}
	h.seen, h.last, h.route = seenIn(v.Report), t.latest(h.last), t.route
	if err := t.saveHost(h); err != nil {
		return board, err
	}
	was, is, err := t.regroup(h.asset)
	if err != nil {
		return board, err
	}
	if err := t.keeperChanged(h, e, was, is); err != nil {
		return board, err
	}
	if t.evidence(was.facts) == t.evidence(is.facts) {
		return board, nil
	}
	return board, t.sameBoard(v, is, p.branch)
}

// checkedIn notes that the host was heard, and nothing else of it.
func (t *transaction) checkedIn(h host) error {
	_, err := t.exec(`UPDATE hosts SET last_checkin = $1 WHERE host_id = $2`, millis(t.latest(h.last)), h.id.String())
	return err
}

// latest is when something was heard last: before, or by this report, which may have been long on its way. A time that
// is later than now was taken before the manager's clock was set back.
func (t *transaction) latest(before time.Time) time.Time {
	if before.After(t.received) && !before.After(t.now) {
		return before
	}
	return t.received
}

// keeperChanged tells what the report did to who keeps the asset, where it has several hosts.
func (t *transaction) keeperChanged(h host, e epoch, was, is asset) error {
	if was.keepHost.IsZero() || was.keepHost == h.id && is.keepHost == h.id {
		return nil
	}
	kind := ""
	switch {
	case is.keepHost == h.id:
		kind = "keeps"
	case is.waiting != was.waiting && is.seenHost == h.id:
		kind = "waits"
	default:
		return nil
	}
	former, _, err := t.host(was.keepHost)
	if err != nil {
		return err
	}
	evidence := e.evidence()
	evidence["silent_s"] = int64(t.now.Sub(former.heard).Seconds())
	return t.record(h.id, kind, evidence)
}

// ownDisk reports whether facts may be taken from a report that nothing but its key and disk tells from a copy's: the
// disk is the known one, the epoch began by a restore from memory, or nobody else was heard under this host ID for three
// intervals of its run.
func (t *transaction) ownDisk(v checkin.VerifiedReport, h host, e epoch, b branch) (bool, error) {
	known, is := t.evidence(h.facts)[hostid.DiskSerial], t.evidence(facts(v.Report.Facts))[hostid.DiskSerial]
	if known == "" || is == "" || known == is || e.isNew && e.by == checkin.EpochRestore {
		return true, nil
	}
	return t.get(`SELECT 1 FROM intervals i WHERE i.branch_id = $1 AND i.run = $2 AND i.began <= $3 AND NOT EXISTS
		(SELECT 1 FROM branches b JOIN epochs e ON e.id = b.epoch_id WHERE e.host_id = $4 AND e.proven AND b.id <> $1 AND b.last_received > i.began) LIMIT 1`,
		[]any{b.id, v.Report.Run.String(), millis(t.now.Add(-t.reg.silence())), h.id.String()}, []any{new(int)})
}

// keeps reports whether the branch keeps the host from now on, and records when that changes. A branch that was
// not the keeper takes over at once if the keeper is silent or there is none; else it waits until the keeper has
// been silent for three intervals.
func (t *transaction) keeps(e epoch, p placement, h *host) (bool, error) {
	if h.keeper == p.branch.id {
		return true, nil
	}
	if h.keeper == 0 {
		h.keeper = p.branch.id
		return true, nil
	}
	keeper, err := t.branch(h.keeper)
	if err != nil {
		return false, err
	}
	// A gap is evidence of nothing: for all that is known both are one line, and the one that speaks goes on.
	if keeper.epoch == e.id && (p.branch.missing != "" || keeper.missing != "") {
		h.keeper, h.waiting = p.branch.id, 0
		return true, nil
	}
	evidence := e.evidence()
	evidence["silent_s"] = int64(t.now.Sub(keeper.lastReceived).Seconds())
	if t.reg.live(keeper.lastReceived, t.now) && !keeper.blocked {
		if h.waiting == p.branch.id {
			return false, nil
		}
		h.waiting = p.branch.id
		kind := "waits"
		if e.isNew {
			kind = "reinstalled-waits"
		}
		return false, t.record(h.id, kind, evidence)
	}
	h.keeper, h.waiting = p.branch.id, 0
	kind := "keeps"
	if e.isNew {
		kind = "reinstalled"
	}
	return true, t.record(h.id, kind, evidence)
}

// otherKey notes a report for a host ID that is bound to another key. It is accepted and kept, and changes
// nothing about the host or its asset; its sender is served as a new host, under a host ID of its own.
func (t *transaction) otherKey(v checkin.VerifiedReport, h host, e epoch, b branch) error {
	c, err := t.openConflict(conflict{
		kind: "other-key", subject: h.id.String() + " " + string(checkin.FingerprintOf(v.Key)),
		asset: h.asset, host: h.id, lines: []int64{b.id},
		evidence: map[string]any{
			"host": h.id, "bound_key": checkin.FingerprintOf(h.key), "key": checkin.FingerprintOf(v.Key),
			"name": v.Report.Names.Host, "known": h.facts, "reported": v.Report.Facts, "epoch": e.epoch, "report": v.Digest, "copy_of": idText(v.Report.CopyOf),
		},
	})
	if err != nil || c.held {
		return err
	}
	if err := t.propose(c.id, proposal{Verb: KeepBoth, Why: "other-key"}); err != nil {
		return err
	}
	return t.ruleOrders(c, "other-key", demand{kind: checkin.OrderNewID, host: h.id, branch: b.id})
}

// otherBoard notes a report by the bound key from another board than the host's.
func (t *transaction) otherBoard(v checkin.VerifiedReport, h host, e epoch, b branch) error {
	c, err := t.openConflict(conflict{
		kind: "other-board", subject: h.id.String() + " " + t.boardName(facts(v.Report.Facts)), asset: h.asset, host: h.id, lines: []int64{b.id},
		evidence: map[string]any{"host": h.id, "name": v.Report.Names.Host, "known": h.facts, "reported": v.Report.Facts, "epoch": e.epoch, "report": v.Digest},
	})
	if err != nil {
		return err
	}
	return t.applyRule(c.id)
}

// epoch is a row of epochs.
type epoch struct {
	id    int64
	epoch checkin.Token
	by    checkin.EpochBy
	isNew bool // this report is the first of it
}

func (e epoch) evidence() map[string]any {
	return map[string]any{"epoch": e.epoch, "epoch_by": e.by}
}

func (t *transaction) epoch(v checkin.VerifiedReport, proven bool) (epoch, error) {
	e := epoch{epoch: v.Report.Epoch, by: v.Report.EpochBy}
	known, err := t.get(`SELECT id FROM epochs WHERE host_id = $1 AND key = $2 AND epoch = $3`,
		[]any{v.Report.HostID.String(), []byte(v.Key), e.epoch.String()}, []any{&e.id})
	if err != nil || known {
		return e, err
	}
	e.isNew = true
	e.id, err = t.insert(`INSERT INTO epochs (host_id, key, epoch, began_by, proven, began) VALUES ($1, $2, $3, $4, $5, $6)`,
		v.Report.HostID.String(), []byte(v.Key), e.epoch.String(), string(e.by), proven, millis(t.now))
	return e, err
}

// asset is a row of assets: what its hosts make of it (derive).
type asset struct {
	id       int64
	keeper   int64     // branch; 0 before the first report
	waiting  int64     // branch; 0: none
	keepHost hostid.ID // the host that keeps it
	facts    facts
	seen     Seen
	seenHost hostid.ID // zero before the first report
	seenAt   time.Time // when seen was reported
}

func (t *transaction) newAsset() (int64, error) {
	return t.insert(`INSERT INTO assets (created, facts, seen, seen_host) VALUES ($1, $2, $3, '')`,
		millis(t.now), toJSON(hardware.Facts{}), toJSON(Seen{}))
}

func (t *transaction) asset(id int64) (a asset, err error) {
	var keeper, waiting, seenAt sql.NullInt64
	var factsText, seenText, seenHost, keepHost string
	a.id = id
	_, err = t.get(`SELECT keeper, waiting, facts, seen, seen_host, seen_at, keep_host FROM assets WHERE id = $1`,
		[]any{id}, []any{&keeper, &waiting, &factsText, &seenText, &seenHost, &seenAt, &keepHost})
	if err != nil {
		return a, err
	}
	a.keeper, a.waiting, a.seenAt = keeper.Int64, waiting.Int64, fromNullTime(seenAt)
	if a.keepHost, err = parseID(keepHost); err != nil {
		return a, err
	}
	return a, a.decode(factsText, seenText, seenHost)
}

func (t *transaction) saveAsset(a asset) error {
	_, err := t.exec(`UPDATE assets SET keeper = $1, waiting = $2, facts = $3, seen = $4, seen_host = $5, seen_at = $6, keep_host = $7 WHERE id = $8`,
		nullID(a.keeper), nullID(a.waiting), toJSON(a.facts), toJSON(a.seen), idText(a.seenHost), nullTime(a.seenAt), idText(a.keepHost), a.id)
	return err
}

func nullID(id int64) sql.NullInt64 { return sql.NullInt64{Int64: id, Valid: id != 0} }

// parseID reads what idText writes.
func parseID(s string) (id hostid.ID, err error) {
	if s != "" {
		id, err = hostid.ParseID(s)
	}
	return id, err
}

// idText is the host ID, "" for none.
func idText(id hostid.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// live reports whether a host heard at that time still counts as live.
func (r *Registry) live(last, now time.Time) bool {
	silent := now.Sub(last)
	return !last.IsZero() && silent < r.silence() && silent >= -slack // later than now: the clock was set back
}

package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// CheckIn implements checkin.HigherSystem. The report, every decision about it and the signed reply are durable
// when it returns; the same report again is answered with the same reply, to the byte. It fails with a
// checkin.Refusal, with ErrTooMuch, or with an error of the database, after which nothing of the report is kept.
func (r *Registry) CheckIn(ctx context.Context, s checkin.SignedReport) (checkin.Reply, error) {
	if r.key == nil {
		return checkin.Reply{}, errors.New("the registry was opened without the manager's key")
	}
	v, err := checkin.Verify(s)
	if err != nil {
		return checkin.Reply{}, err
	}
	if v.Report.Audience != r.audience {
		return checkin.Reply{}, &checkin.Refusal{Code: checkin.WrongAudience,
			Detail: "the report is made for another manager; give this client an enrolment token of this one"}
	}
	var reply checkin.Reply
	err = r.write(ctx, func(t *transaction) error {
		var raw string
		known, err := t.get(`SELECT reply FROM reports WHERE digest = $1`, []any{v.Digest.String()}, []any{&raw})
		switch {
		case err != nil:
		case raw != "":
			reply, err = checkin.VerifyReply(raw, r.audience, v.Digest)
		case known: // trimmed: it was accepted long ago, and that is all there is to say
			reply, err = checkin.SignReply(t.reply(v), r.key)
		default:
			reply, err = t.accept(s, v)
		}
		return err
	})
	if err != nil {
		return checkin.Reply{}, err
	}
	return reply, nil
}

func (t *transaction) reply(v checkin.VerifiedReport) checkin.Reply {
	return checkin.Reply{
		Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: t.reg.interval, Time: t.now,
	}
}

// accept decides about a report that is new.
func (t *transaction) accept(s checkin.SignedReport, v checkin.VerifiedReport) (checkin.Reply, error) {
	reply := t.reply(v)
	h, proven, err := t.admit(v)
	if err != nil {
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
	if err != nil {
		return reply, err
	}
	if proven {
		reply.Named, err = t.acceptProven(v, h, e, p)
	} else {
		err = t.otherKey(v, h, e)
	}
	if err != nil {
		return reply, err
	}
	if v.Report.Base != (checkin.Digest{}) {
		reply.Orders = append(reply.Orders, fullReport(v.Report))
	}
	if reply.Provisional, err = t.inConflict(e.id); err != nil {
		return reply, err
	}
	if reply, err = checkin.SignReply(reply, t.reg.key); err != nil {
		return reply, err
	}
	_, err = t.exec(`UPDATE reports SET reply = $1 WHERE digest = $2`, reply.Raw, v.Digest.String())
	return reply, err
}

// fullReport answers a delta, whose base this manager never keeps in a form to build on. Its ID is that of the
// report it answers: the reply is given once.
func fullReport(r checkin.Report) checkin.Order {
	return checkin.Order{ID: checkin.NewToken().String(), Kind: checkin.OrderFullReport, HostID: r.HostID, Epoch: r.Epoch, Run: r.Run}
}

// acceptProven decides about a report by the key that the host ID is bound to, and returns the replaced host IDs
// that it has taken note of.
func (t *transaction) acceptProven(v checkin.VerifiedReport, h host, e epoch, p placement) ([]hostid.ID, error) {
	if _, err := t.exec(`UPDATE hosts SET last_checkin = $1 WHERE host_id = $2`, millis(t.now), h.id.String()); err != nil {
		return nil, err
	}
	a, err := t.asset(h.asset)
	if err != nil {
		return nil, err
	}
	// Statements come first: they decide which asset this report is about.
	named, err := t.replacements(v, h, a)
	if err != nil {
		return nil, err
	}
	if h, _, err = t.host(h.id); err != nil {
		return nil, err
	}
	if a, err = t.asset(h.asset); err != nil {
		return nil, err
	}
	board, err := t.settle(v, e, p, a)
	if err != nil {
		return nil, err
	}
	if _, err := t.exec(`UPDATE reports SET board = $1 WHERE digest = $2`, board.String(), v.Digest.String()); err != nil {
		return nil, err
	}
	if err := t.span(v, h, e, p); err != nil {
		return nil, err
	}
	if err := t.overlaps(p.branch, h.asset); err != nil {
		return nil, err
	}
	return named, t.observe(v, h, e)
}

// settle decides whether the report's branch keeps the asset, and takes from it what the asset may take.
func (t *transaction) settle(v checkin.VerifiedReport, e epoch, p placement, a asset) (hostid.Board, error) {
	board := a.board(v.Report.Facts)
	if board == hostid.AnotherBoard {
		if e.isNew {
			if err := t.record(v.Report.HostID, "epoch-elsewhere", e.evidence()); err != nil {
				return board, err
			}
		}
		return board, t.openConflict(conflict{
			kind: "other-board", subject: fmt.Sprint("epoch ", e.id), asset: a.id, host: v.Report.HostID, epochs: []int64{e.id},
			evidence: map[string]any{"host": v.Report.HostID, "known": a.facts, "reported": v.Report.Facts, "epoch": e.epoch, "report": v.Digest},
		})
	}
	if v.Report.Base != (checkin.Digest{}) || !p.tip {
		return board, nil // a delta says too little, a late report nothing about now
	}
	was := a
	keeps, err := t.keeps(v, e, p, &a)
	if err != nil {
		return board, err
	}
	changed := false
	if keeps && (board == hostid.SameBoard || !a.facts.decides()) {
		if changed, err = t.learn(v.Report.HostID, &a, v.Report.Facts); err != nil {
			return board, err
		}
	}
	a.seen = seenIn(v.Report)
	a.seenHost, a.seenAt = v.Report.HostID, t.now
	if err := t.saveAsset(a); err != nil {
		return board, err
	}
	if err := t.renamed(was, a); err != nil || !changed {
		return board, err
	}
	return board, t.sameBoard(v, a, e)
}

// keeps reports whether the branch keeps the asset from now on, and records when that changes. A branch that was
// not the keeper takes over at once if the keeper is silent or there is none; else it waits until the keeper has
// been silent for three intervals.
func (t *transaction) keeps(v checkin.VerifiedReport, e epoch, p placement, a *asset) (bool, error) {
	id := v.Report.HostID
	if a.keeper == p.branch.id {
		return true, nil
	}
	evidence := e.evidence()
	if a.keeper == 0 {
		a.keeper = p.branch.id
		return true, nil
	}
	keeper, err := t.branch(a.keeper)
	if err != nil {
		return false, err
	}
	// A gap is evidence of nothing: for all that is known both are one line, and the one that speaks goes on.
	if keeper.epoch == e.id && (p.branch.missing != "" || keeper.missing != "") {
		a.keeper, a.waiting = p.branch.id, 0
		return true, nil
	}
	evidence["silent_s"] = int64(t.now.Sub(keeper.lastReceived).Seconds())
	if t.reg.live(keeper.lastReceived, t.now) {
		if a.waiting == p.branch.id {
			return false, nil
		}
		a.waiting = p.branch.id
		kind := "waits"
		if e.isNew && keeper.host == id {
			kind = "reinstalled-waits"
		}
		return false, t.record(id, kind, evidence)
	}
	a.keeper, a.waiting = p.branch.id, 0
	kind := "keeps"
	if e.isNew && keeper.host == id {
		kind = "reinstalled"
	}
	return true, t.record(id, kind, evidence)
}

// otherKey notes a report for a host ID that is bound to another key. It is accepted and kept, and changes
// nothing about the host or its asset.
func (t *transaction) otherKey(v checkin.VerifiedReport, h host, e epoch) error {
	return t.openConflict(conflict{
		kind: "other-key", subject: h.id.String() + " " + string(checkin.FingerprintOf(v.Key)),
		asset: h.asset, host: h.id, epochs: []int64{e.id},
		evidence: map[string]any{
			"host": h.id, "bound_key": checkin.FingerprintOf(h.key), "key": checkin.FingerprintOf(v.Key),
			"name": v.Report.Names.Host, "reported": v.Report.Facts, "epoch": e.epoch, "report": v.Digest, "copy_of": idText(v.Report.CopyOf),
		},
	})
}

// host is a row of hosts.
type host struct {
	id       hostid.ID
	asset    int64
	key      ed25519.PublicKey // nil: only named by a replacement, never enrolled
	proofKey ed25519.PublicKey
}

func (t *transaction) host(id hostid.ID) (h host, known bool, err error) {
	h.id = id
	known, err = t.get(`SELECT asset_id, key, proof_key FROM hosts WHERE host_id = $1`,
		[]any{id.String()}, []any{&h.asset, (*[]byte)(&h.key), (*[]byte)(&h.proofKey)})
	return h, known, err
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

// asset is a row of assets.
type asset struct {
	id       int64
	keeper   int64 // branch; 0 before the first report
	waiting  int64 // branch; 0: none
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
	var factsText, seenText, seenHost string
	a.id = id
	_, err = t.get(`SELECT keeper, waiting, facts, seen, seen_host, seen_at FROM assets WHERE id = $1`,
		[]any{id}, []any{&keeper, &waiting, &factsText, &seenText, &seenHost, &seenAt})
	if err != nil {
		return a, err
	}
	a.keeper, a.waiting, a.seenAt = keeper.Int64, waiting.Int64, fromNullTime(seenAt)
	return a, a.decode(factsText, seenText, seenHost)
}

func (t *transaction) saveAsset(a asset) error {
	_, err := t.exec(`UPDATE assets SET keeper = $1, waiting = $2, facts = $3, seen = $4, seen_host = $5, seen_at = $6 WHERE id = $7`,
		nullID(a.keeper), nullID(a.waiting), toJSON(a.facts), toJSON(a.seen), idText(a.seenHost), nullTime(a.seenAt), a.id)
	return err
}

func nullID(id int64) sql.NullInt64 { return sql.NullInt64{Int64: id, Valid: id != 0} }

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
	return !last.IsZero() && silent < liveIntervals*r.interval && silent >= -slack // later than now: the clock was set back
}

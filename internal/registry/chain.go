package registry

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A branch is an unbroken line of reports of one epoch, each naming the one before. An epoch has one, unless two
// systems continue the same state (a fork) or a report is missing (a gap).
type branch struct {
	id           int64
	epoch        int64
	host         hostid.ID
	token        checkin.Token // the epoch's
	tip          string
	missing      string // digest of the predecessor that has not come; "" for none
	lastReceived time.Time
	blocked      bool // an operator wants its reports in the history only
}

const branchColumns = `SELECT b.id, b.epoch_id, e.host_id, e.epoch, b.tip, b.missing, b.last_received,
	EXISTS (SELECT 1 FROM blocks k WHERE k.host_id = e.host_id AND k.lifted IS NULL AND (k.branch_id = b.id OR k.branch_id IS NULL AND k.key = e.key))
	FROM branches_now b JOIN epochs e ON e.id = b.epoch_id `

func scanBranch(scan func(...any) error) (b branch, err error) {
	var host, token string
	var missing sql.NullString
	var last int64
	if err := scan(&b.id, &b.epoch, &host, &token, &b.tip, &missing, &last, &b.blocked); err != nil {
		return b, err
	}
	b.missing, b.lastReceived = missing.String, fromMillis(last)
	if b.host, err = hostid.ParseID(host); err != nil {
		return b, err
	}
	return b, b.token.UnmarshalText([]byte(token))
}

func (t *transaction) branch(id int64) (branch, error) {
	return scanBranch(t.QueryRowContext(t.ctx, branchColumns+`WHERE b.id = $1`, id).Scan)
}

// placement is where a report stands in the chain of its epoch.
type placement struct {
	branch branch
	tip    bool // nothing that is known follows it

	inConflict bool // an open conflict is about the line
	seen       bool // it was accepted before; nothing was stored
}

// place stores a report in the chain: it continues a branch whose tip it names, opens another where a report is
// known that follows the same one (a fork), or where the one it names is not known (a gap). A branch that waited
// for this very report is joined to it.
func (t *transaction) place(s checkin.SignedReport, v checkin.VerifiedReport, e epoch) (placement, error) {
	digest, previous := v.Digest.String(), v.Report.Previous.String()
	id := v.Report.HostID
	branchID, known, followed, seen, err := t.before(v, e)
	if err != nil || seen {
		return placement{seen: seen}, err
	}
	said := descriptionIn(v)
	evidence := map[string]any{"epoch": e.epoch, "report": v.Digest, "previous": v.Report.Previous, "counter": v.Report.Counter, "run": v.Report.Run}
	switch begins := previous == ""; {
	case known && !followed: // continues
		// What was heard stays heard (latest), however long the report after it is said to have been on its way.
		_, err = t.exec(`UPDATE branches SET tip = $1, last_received = CASE WHEN last_received > $2 AND last_received <= $3 THEN last_received ELSE $2 END WHERE id = $4`,
			digest, millis(t.received), millis(t.now), branchID)
		if err == nil && said.base != "" {
			_, err = t.exec(`UPDATE branches SET facts = $1, words = $2, base = $3 WHERE id = $4`, said.facts, said.words, said.base, branchID)
		}
	case begins && !followed: // the first of its epoch, or the first one coming late
		branchID, err = t.openBranch(e, digest, nil, nil, said)
	case known || begins:
		if branchID, err = t.openBranch(e, digest, previous, nil, said); err == nil {
			err = t.record(id, "fork", evidence)
		}
	default:
		if branchID, err = t.openBranch(e, digest, nil, previous, said); err == nil {
			err = t.record(id, "gap", evidence)
		}
	}
	if err != nil {
		return placement{}, err
	}
	_, err = t.exec(`INSERT INTO reports (digest, epoch_id, branch_id, previous, run, age_ms, received, board, jws, reply)
		VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8, '')`,
		digest, e.id, branchID, previous, v.Report.Run.String(), int64(v.Report.AgeMS), millis(t.received), s.JWS)
	if err != nil {
		return placement{}, err
	}
	if err := t.join(id, branchID, digest, e); err != nil {
		return placement{}, err
	}
	b, err := t.branch(branchID)
	return placement{branch: b, tip: b.tip == digest}, err
}

func (t *transaction) openBranch(e epoch, tip string, forkedFrom, missing any, said description) (int64, error) {
	return t.insert(`INSERT INTO branches (epoch_id, tip, forked_from, missing, last_received, facts, words, base) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.id, tip, forkedFrom, missing, millis(t.received), said.facts, said.words, said.base)
}

// before looks for what the report follows. known: on branch; followed: something else follows it already. seen: the report
// itself was accepted before, and little is kept of it.
func (t *transaction) before(v checkin.VerifiedReport, e epoch) (branch int64, known, followed, seen bool, err error) {
	previous := v.Report.Previous
	if previous == (checkin.Digest{}) {
		followed, err = t.get(`SELECT 1 FROM reports WHERE epoch_id = $1 AND previous = '' LIMIT 1`, []any{e.id}, []any{new(int)})
		return 0, false, followed, false, err
	}
	// Of each line only the tip is followed by nothing.
	tip, err := t.get(`SELECT id FROM branches WHERE epoch_id = $1 AND tip = $2`, []any{e.id, previous.String()}, []any{&branch})
	if err != nil || tip {
		return branch, true, false, false, err
	}
	if _, seen, err = t.seenInTrail(e.id, v.Digest); err != nil || seen {
		return 0, false, false, seen, err
	}
	known, err = t.get(`SELECT branch_id FROM reports WHERE digest = $1 AND epoch_id = $2`, []any{previous.String(), e.id}, []any{&branch})
	if err == nil && !known {
		branch, known, err = t.seenInTrail(e.id, previous)
	}
	return branch, known, known, false, err
}

// description is what a full report says of its PC, for deltas to stand on; the zero value in a delta.
type description struct{ facts, words, base string }

// words are the parts of a description beside facts.
type words struct {
	Seen    Seen
	Pending bool
	CopyOf  string // idText
}

func descriptionIn(v checkin.VerifiedReport) description {
	r := v.Report
	if r.Base != (checkin.Digest{}) {
		return description{}
	}
	return description{toJSON(r.Facts), toJSON(words{seenIn(r), r.Pending, idText(r.CopyOf)}), v.Digest.String()}
}

// expand makes a delta the full report that it stands for, if its base is the latest full report of the line. Else it stays
// a delta.
func (t *transaction) expand(r *checkin.Report, line int64) error {
	if r.Base == (checkin.Digest{}) {
		return nil
	}
	var said description
	if _, err := t.get(`SELECT facts, words, base FROM branches WHERE id = $1`, []any{line}, []any{&said.facts, &said.words, &said.base}); err != nil || said.base != r.Base.String() {
		return err
	}
	var f facts
	var w words
	what := fmt.Sprint("description of branch ", line)
	if err := errors.Join(decodeText(what, said.facts, &f), decodeText(what, said.words, &w)); err != nil {
		return err
	}
	copyOf, err := parseID(w.CopyOf)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	s := w.Seen
	r.Base, r.Facts, r.Pending, r.CopyOf = checkin.Digest{}, hardware.Facts(f), w.Pending, copyOf
	r.Names, r.Addresses, r.Versions, r.Stores = checkin.Names{Host: s.Name, FQDN: s.FQDN}, s.Addresses, s.Versions, s.Stores
	r.Origin, r.Provisional = s.Origin, s.Provisional
	return nil
}

// join ends the wait of the branches that miss this report. The one that was opened first continues the report's
// branch; any other follows the same report and is now known to be a fork.
func (t *transaction) join(id hostid.ID, branchID int64, digest string, e epoch) error {
	waiting, err := collect(t, scanBranch, branchColumns+`WHERE b.epoch_id = $1 AND b.missing = $2 ORDER BY b.id`, e.id, digest)
	if err != nil || len(waiting) == 0 {
		return err
	}
	next := waiting[0]
	for _, q := range []string{
		`UPDATE reports SET branch_id = $1 WHERE branch_id = $2`,
		`UPDATE trails SET branch_id = $1 WHERE branch_id = $2`,
		`UPDATE intervals SET branch_id = $1 WHERE branch_id = $2`,
		`UPDATE hosts SET keeper = $1 WHERE keeper = $2`,
		`UPDATE hosts SET waiting = $1 WHERE waiting = $2`,
		`UPDATE assets SET keeper = $1 WHERE keeper = $2`,
		`UPDATE assets SET waiting = $1 WHERE waiting = $2`,
		`UPDATE demands SET branch_id = $1 WHERE branch_id = $2`,
		`UPDATE demands SET done_line = $1 WHERE done_line = $2`,
		`UPDATE blocks SET branch_id = $1 WHERE branch_id = $2`,
		`INSERT INTO conflict_lines (conflict_id, branch_id, left_at) SELECT conflict_id, $1, left_at FROM conflict_lines WHERE branch_id = $2 ON CONFLICT DO NOTHING`,
	} {
		if _, err := t.exec(q, branchID, next.id); err != nil {
			return err
		}
	}
	if _, err := t.exec(`UPDATE branches SET tip = $1, last_received = CASE WHEN last_received < $2 THEN $2 ELSE last_received END WHERE id = $3`,
		next.tip, millis(next.lastReceived), branchID); err != nil {
		return err
	}
	var said description
	if _, err := t.get(`SELECT facts, words, base FROM branches WHERE id = $1`, []any{next.id}, []any{&said.facts, &said.words, &said.base}); err != nil {
		return err
	}
	if said.facts != "" {
		if _, err := t.exec(`UPDATE branches SET facts = $1, words = $2, base = $3 WHERE id = $4`, said.facts, said.words, said.base, branchID); err != nil {
			return err
		}
	}
	if _, err := t.exec(`DELETE FROM branches WHERE id = $1`, next.id); err != nil {
		return err
	}
	if err := t.settleJoined(branchID); err != nil {
		return err
	}
	if err := t.record(id, "gap-closed", map[string]any{"epoch": e.epoch, "report": digest}); err != nil {
		return err
	}
	for _, b := range waiting[1:] {
		if _, err := t.exec(`UPDATE branches SET missing = NULL, forked_from = $1 WHERE id = $2`, digest, b.id); err != nil {
			return err
		}
		if err := t.record(id, "fork", map[string]any{"epoch": e.epoch, "report": b.tip, "previous": digest}); err != nil {
			return err
		}
	}
	return nil
}

// settleJoined closes the conflicts about an overlap of two lines that turned out to be one: reports were late, and nobody was
// there twice.
func (t *transaction) settleJoined(branchID int64) error {
	type settled struct {
		id   int64
		host string
	}
	all, err := collect(t, func(scan func(...any) error) (s settled, err error) { return s, scan(&s.id, &s.host) },
		`SELECT c.id, c.host_id FROM conflicts c JOIN conflict_lines l ON l.conflict_id = c.id WHERE c.kind = 'overlap' AND c.closed IS NULL AND l.branch_id = $1
			AND (SELECT COUNT(*) FROM conflict_lines o WHERE o.conflict_id = c.id AND o.left_at IS NULL) < 2 ORDER BY c.id`, branchID)
	if err != nil {
		return err
	}
	for _, s := range all {
		host, err := hostid.ParseID(s.host)
		if err != nil {
			return err
		}
		if err := t.closeConflict(s.id, "overlap", host, "conflict-late"); err != nil {
			return err
		}
	}
	return nil
}

// collect scans every row of a query before the next statement runs.
func collect[T any](t *transaction, scan func(func(...any) error) (T, error), query string, args ...any) ([]T, error) {
	return scanAll(t.ctx, t.Tx, scan, query, args...)
}

package registry

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// Nearly every report says that all is as it was an hour ago. A host all of whose reports do is at rest: one narrow row
// holds what each of them changes, and nothing else is read or written for them. docs/decisions/0035-hosts-at-rest.md.
//
// What makes it right: a host comes to rest only where its report has just been decided about in full, and the next one
// can be answered without deciding anything unless it differs (restingHost.continues). And whatever is about to change
// anything that such an answer could depend on, wakes it first: its other lines, everything else in its asset, conflicts,
// orders, blocks, maintenance, an operator. Waking puts the tables into the state in which they would be had every report
// been decided about in full.

// restingHost is a row of resting.
type restingHost struct {
	id       string
	key      ed25519.PublicKey
	epoch    string
	epochID  int64
	line     int64
	interval int64
	run      string
	said     []byte
	route    string
	since    int64

	generation int64
	tip        string
	previous   string
	base       string
	origin     int64
	age        int64
	received   int64
	answered   int64
	told       int64 // seconds
	clock      string
	reports    int64
	hour       int64
	inHour     int64
	recent     []byte

	was string // the tip as it was read, once that has changed; "" before
}

const (
	restingColumns = `SELECT host_id, key, epoch, epoch_id, branch_id, interval_id, run, said, route, since, generation, tip, previous, base, origin, age_ms, received, answered, interval_s, clock, reports, hour, in_hour, recent FROM resting `

	// maxRest is how long a host is at rest before one of its reports is decided about in full all the same: whatever was
	// overlooked is put right within a day, and nothing that is trimmed by age is still in use.
	maxRest = 24 * time.Hour

	digestKept = 16 // bytes of a digest in recent and trails: nobody finds two reports that agree in them
	trailBytes = 64 * digestKept

	// maxTrails bounds what is looked through for a report that continues no line: each row is one report of a client at least, and
	// it makes 2900 in the thirty days for which they are kept (keepReport).
	maxTrails = 4096
)

func scanResting(scan func(...any) error) (q restingHost, err error) {
	return q, scan(&q.id, (*[]byte)(&q.key), &q.epoch, &q.epochID, &q.line, &q.interval, &q.run, &q.said, &q.route, &q.since, &q.generation, &q.tip, &q.previous, &q.base,
		&q.origin, &q.age, &q.received, &q.answered, &q.told, &q.clock, &q.reports, &q.hour, &q.inHour, &q.recent)
}

// again reports that this is the report which the host is resting on: its reply went astray.
func (q *restingHost) again(v *checkin.VerifiedReport) bool { return q.tip == v.Digest.String() }

// lastReply is the reply to the host's latest report, unsigned. It is the same whenever it is made.
func (q *restingHost) lastReply(v *checkin.VerifiedReport) checkin.Reply {
	return checkin.Reply{
		Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Duration(q.told) * time.Second, Time: fromMillis(q.answered),
	}
}

// continues reports that the report says nothing but that all is as before, and only a while later.
func (q *restingHost) continues(t *transaction, v *checkin.VerifiedReport, received time.Time, uncertain bool) bool {
	r := &v.Report
	at := millis(received)
	origin := at - int64(r.AgeMS)
	switch {
	case q.tip != r.Previous.String(), q.epoch != r.Epoch.String(), q.run != r.Run.String(), !q.key.Equal(v.Key):
		return false
	case uncertain, q.generation != t.pace.generation, q.route != t.route:
		return false
	case r.Placeholders != t.listDigest, len(r.Observations)+len(r.Replaced)+len(r.Done) > 0, r.Pending, r.Relay != nil:
		return false
	case at < q.received, fromMillis(q.received).Add(t.reg.silence()).Compare(received) <= 0, q.received > millis(t.now.Add(slack)):
		return false // a clock was set back, or the host was silent for long
	case max(origin-q.origin, q.origin-origin) > slack.Milliseconds(): // the run leapt
		return false
	case millis(t.now)-q.since > maxRest.Milliseconds(), millis(t.now) < q.since:
		return false
	}
	said := says(r)
	if r.Base != (checkin.Digest{}) {
		return q.base == r.Base.String() && bytes.HasSuffix(q.said, said[len(checkin.Digest{}):])
	}
	return bytes.Equal(q.said, said)
}

// says is what a report says of its PC, and then what a delta says of it too: which settings it holds.
func says(r *checkin.Report) []byte {
	all, settings := r.Describes(), sha256.Sum256([]byte(toJSON(r.Settings)))
	return append(all[:], settings[:8]...)
}

// take takes a report that continues.
func (q *restingHost) take(t *transaction, v *checkin.VerifiedReport, received time.Time, hour int64) {
	q.previous, q.tip = q.tip, v.Digest.String()
	if v.Report.Base == (checkin.Digest{}) {
		q.base = q.tip
	}
	q.received, q.answered, q.age = millis(received), millis(t.now), int64(v.Report.AgeMS)
	q.origin = q.received - q.age
	q.told = int64(t.interval() / time.Second)
	q.clock = v.Report.Time
	q.reports++
	if q.hour != hour {
		q.hour, q.inHour = hour, 0
	}
	q.inHour++
	q.recent = append(q.recent, v.Digest[:digestKept]...)
}

func hourOf(t time.Time) int64 { return t.UnixMilli() / time.Hour.Milliseconds() }

// saveResting writes what take changed.
func (t *transaction) saveResting(all []*restingHost) error {
	for _, q := range all {
		if len(q.recent) >= trailBytes {
			if err := t.trail(q); err != nil {
				return err
			}
		}
	}
	for len(all) > 0 {
		n := min(len(all), savedAtOnce)
		args := make([]any, 0, n*restingParts)
		for _, q := range all[:n] {
			args = append(args, q.id, q.tip, q.previous, q.base, q.origin, q.age, q.received, q.answered, q.told, q.clock, q.reports, q.hour, q.inHour, q.recent, q.was)
		}
		written, err := t.exec(updateResting[n], args...)
		if err == nil && written != int64(n) {
			err = errMoved
		}
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

const (
	savedAtOnce  = 16
	restingParts = 15
)

// updateResting are the statements that write so many hosts at once.
var updateResting = func() (texts [savedAtOnce + 1]string) {
	types := [restingParts]string{"TEXT", "TEXT", "TEXT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "", "TEXT"}
	var rows []string
	for n := 1; n <= savedAtOnce; n++ {
		row := make([]string, restingParts)
		for i := range row {
			row[i] = fmt.Sprint("$", len(rows)*restingParts+i+1)
			if types[i] != "" {
				row[i] = "CAST(" + row[i] + " AS " + types[i] + ")"
			} else { // the databases' names for bytes differ
				row[i] = "COALESCE(" + row[i] + ", (SELECT recent FROM resting WHERE FALSE))"
			}
		}
		rows = append(rows, "("+strings.Join(row, ", ")+")")
		texts[n] = `UPDATE resting SET tip = column2, previous = column3, base = column4, origin = column5, age_ms = column6, received = column7, answered = column8,
			interval_s = column9, clock = column10, reports = column11, hour = column12, in_hour = column13, recent = column14
			FROM (VALUES ` + strings.Join(rows, ", ") + `) AS said WHERE resting.host_id = column1 AND resting.tip = column15`
	}
	return texts
}()

// trail puts the digests of a host's latest reports where they stay.
func (t *transaction) trail(q *restingHost) error {
	if len(q.recent) == 0 { // it was put there with its latest report
		return nil
	}
	_, err := t.exec(`INSERT INTO trails (branch_id, last, digests) VALUES ($1, $2, $3)`, q.line, q.received, q.recent)
	q.recent = []byte{}
	return err
}

// rest lets the host of a report come to rest that has just been decided about in full, if the next one of its kind
// will need no decision.
func (t *transaction) rest(v checkin.VerifiedReport, h host, e epoch, p placement, reply checkin.Reply) error {
	r := v.Report
	plain := len(reply.Orders) == 0 && len(reply.Named) == 0 && reply.Placeholders == "" && reply.Settings == nil && !reply.Provisional
	if t.reg.restless || t.wonders || !plain || !p.tip || p.branch.blocked || len(r.Observations)+len(r.Replaced)+len(r.Done) > 0 || r.Pending || t.uncertain || h.marks != (marks{}) {
		return nil
	}
	h, known, err := t.host(h.id)
	if err != nil || !known || h.keeper != p.branch.id || h.waiting != 0 || h.last != t.received || h.heard != t.received {
		return err
	}
	a, err := t.asset(h.asset)
	if err != nil || a.keepHost != h.id || a.seenHost != h.id || a.waiting != 0 {
		return err
	}
	reported := facts(r.Facts)
	if t.compare(h.facts, reported) == hostid.AnotherBoard || toJSON(t.merged(h.facts, r.Facts)) != toJSON(h.facts) {
		return nil // there is something to learn yet
	}
	var base string
	if _, err := t.get(`SELECT base FROM branches WHERE id = $1`, []any{p.branch.id}, []any{&base}); err != nil || base == "" {
		return err
	}
	origin := millis(t.received) - int64(r.AgeMS)
	var interval, began int64
	certain, err := t.get(`SELECT id, began FROM intervals WHERE branch_id = $1 AND run = $2 AND origin = $3 AND last = $4 AND reports >= 2`,
		[]any{p.branch.id, r.Run.String(), origin, millis(t.received)}, []any{&interval, &began})
	if err != nil || !certain {
		return err
	}
	// Nobody else of the asset was heard for long since the run began: no overlap can come out of it unless somebody else is heard,
	// who wakes it.
	others, err := t.get(`SELECT 1 FROM intervals i JOIN epochs e ON e.id = i.epoch_id JOIN hosts h ON h.host_id = e.host_id
		WHERE h.asset_id = $1 AND i.id <> $2 AND i.branch_id <> $3 AND i.last > $4 LIMIT 1`, []any{h.asset, interval, p.branch.id, began + slack.Milliseconds()}, []any{new(int)})
	if err != nil || others {
		return err
	}
	// Another line of its epoch may wait for the next report that it sends, to be one with it. It waits in vain after so long.
	missing, err := t.get(`SELECT 1 FROM branches WHERE epoch_id = $1 AND id <> $2 AND missing IS NOT NULL AND last_received > $3 LIMIT 1`,
		[]any{e.id, p.branch.id, millis(t.now.Add(-maxHeld))}, []any{new(int)})
	if err != nil || missing {
		return err
	}
	busy, err := t.get(`SELECT 1 FROM demands WHERE ended IS NULL AND (branch_id = $1 OR host_id = $2) LIMIT 1`, []any{p.branch.id, h.id.String()}, []any{new(int)})
	if err != nil || busy {
		return err
	}
	var hour, inHour int64
	if _, err := t.get(`SELECT hour, reports FROM rates WHERE host_id = $1 AND proven`, []any{h.id.String()}, []any{&hour, &inHour}); err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO resting (host_id, key, epoch, epoch_id, branch_id, interval_id, run, said, route, since, generation, tip, previous, base, origin, age_ms, received, answered, interval_s, clock, reports, hour, in_hour, recent)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, 0, $21, $22, $23)`,
		h.id.String(), []byte(v.Key), r.Epoch.String(), e.id, p.branch.id, interval, r.Run.String(), says(&r), t.route, millis(t.now), t.pace.generation,
		v.Digest.String(), r.Previous.String(), base, origin, int64(r.AgeMS), millis(t.received), millis(reply.Time), int64(reply.Interval/time.Second), r.Time, hour, inHour, []byte{})
	return err
}

// wake ends the rest of hosts: which is a condition on resting. The tables say afterwards what they would if every report of
// theirs had been decided about in full.
func (t *transaction) wake(which string, args ...any) error {
	woken, err := collect(t, scanResting, restingColumns+`WHERE `+which+` ORDER BY host_id`, args...)
	if err != nil {
		return err
	}
	for _, q := range woken {
		if err := t.wakeHost(&q); err != nil {
			return err
		}
	}
	return nil
}

// wakeAsset wakes whatever rests in an asset, and whoever rests because a conflict about it is parked.
func (t *transaction) wakeAsset(id int64) error {
	return t.wake(`host_id IN (SELECT host_id FROM hosts WHERE asset_id = $1) OR branch_id IN (SELECT l.branch_id FROM conflict_lines l
		JOIN conflicts c ON c.id = l.conflict_id WHERE c.closed IS NULL AND (c.asset_id = $1 OR c.other_asset = $1))`, id)
}

func (t *transaction) wakeHost(q *restingHost) error {
	if _, err := t.exec(`DELETE FROM resting WHERE host_id = $1`, q.id); err != nil || q.reports == 0 {
		return err
	}
	if err := t.trail(q); err != nil {
		return err
	}
	id, err := hostid.ParseID(q.id)
	if err != nil {
		return err
	}
	digest, err := hex.DecodeString(q.tip)
	if err != nil {
		return fmt.Errorf("host ID %s: tip: %w", q.id, err)
	}
	var v checkin.VerifiedReport
	v.Report.HostID = id
	copy(v.Digest[:], digest)
	reply, err := checkin.SignReply(q.lastReply(&v), t.reg.key)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO reports (digest, epoch_id, branch_id, previous, run, age_ms, received, board, jws, reply) VALUES ($1, $2, $3, $4, $5, $6, $7, '', '', $8) ON CONFLICT DO NOTHING`,
		q.tip, q.epochID, q.line, q.previous, q.run, q.age, q.received, reply.Raw)
	if err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE branches SET tip = $1, last_received = $2, base = $3 WHERE id = $4`, q.tip, q.received, q.base, q.line); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE intervals SET origin = $1, last = $2, reports = reports + $3 WHERE id = $4`, q.origin, q.received, q.reports, q.interval); err != nil {
		return err
	}
	if _, err := t.exec(`UPDATE rates SET hour = $1, reports = $2 WHERE host_id = $3 AND proven`, q.hour, q.inHour, q.id); err != nil {
		return err
	}
	h, known, err := t.host(id)
	if err != nil || !known {
		return err
	}
	h.heard, h.last, h.seen.Time = fromMillis(q.received), fromMillis(q.received), q.clock
	if err := t.saveHost(h); err != nil {
		return err
	}
	_, _, err = t.regroup(h.asset)
	return err
}

// rate counts a report of a host in an hour.
func (t *transaction) rate(host string, proven bool, hour int64) error {
	_, err := t.exec(`INSERT INTO rates (host_id, proven, hour, reports) VALUES ($1, $2, $3, 1) ON CONFLICT (host_id, proven) DO UPDATE SET
		reports = CASE WHEN rates.hour = excluded.hour THEN rates.reports + 1 ELSE 1 END, hour = excluded.hour`, host, proven, hour)
	return err
}

// seenInTrail reports whether a report of that epoch was accepted of which nothing but its digest is kept, and on which line.
func (t *transaction) seenInTrail(epoch int64, d checkin.Digest) (line int64, seen bool, err error) {
	type chunk struct {
		line    int64
		digests []byte
	}
	all, err := collect(t, func(scan func(...any) error) (c chunk, err error) { return c, scan(&c.line, &c.digests) },
		`SELECT t.branch_id, t.digests FROM trails t JOIN branches b ON b.id = t.branch_id WHERE b.epoch_id = $1 ORDER BY t.id DESC LIMIT $2`, epoch, maxTrails)
	if err != nil {
		return 0, false, err
	}
	for _, c := range all {
		if inDigests(c.digests, d) {
			return c.line, true, nil
		}
	}
	return 0, false, nil
}

// seenAtRest answers a report of a host at rest that was accepted, and of which no reply is kept. To do so nobody has to be woken.
func (t *transaction) seenAtRest(v checkin.VerifiedReport) (reply checkin.Reply, seen bool, err error) {
	reply = t.reply(v)
	all, err := collect(t, scanResting, restingColumns+`WHERE host_id = $1`, v.Report.HostID.String())
	if err != nil || len(all) == 0 {
		return reply, false, err
	}
	switch q := all[0]; {
	case !q.key.Equal(v.Key), q.epoch != v.Report.Epoch.String(), q.tip == v.Report.Previous.String():
	case q.again(&v):
		return q.lastReply(&v), true, nil
	case inDigests(q.recent, v.Digest):
		seen = true
	default:
		_, seen, err = t.seenInTrail(q.epochID, v.Digest)
	}
	return reply, seen, err
}

// inDigests looks for a digest among those of reports of which nothing else is kept.
func inDigests(digests []byte, d checkin.Digest) bool {
	for ; len(digests) >= digestKept; digests = digests[digestKept:] {
		if bytes.Equal(digests[:digestKept], d[:digestKept]) {
			return true
		}
	}
	return false
}

// restingOf are the hosts of these IDs that are at rest.
func (t *transaction) restingOf(ids []string) (map[string]*restingHost, error) {
	found := make(map[string]*restingHost, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), restingAtOnce)
		args := make([]any, restingAtOnce) // the same text for any number
		for i := range args {
			args[i] = ids[min(i, n-1)]
		}
		rows, err := collect(t, scanResting, selectResting, args...)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			found[rows[i].id] = &rows[i]
		}
		ids = ids[n:]
	}
	return found, nil
}

const restingAtOnce = 32

var selectResting = restingColumns + `WHERE host_id IN (` + parameters(restingAtOnce) + `)`

// parameters are $1 to $n.
func parameters(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("$", i+1)
	}
	return strings.Join(list, ", ")
}

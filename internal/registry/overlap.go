package registry

import (
	"fmt"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// slack is how far receipt minus age may move within one run before it counts as another interval, and how long
// two intervals must run side by side to be an overlap: networks delay, clocks drift (protocol: two minutes).
const slack = 2 * time.Minute

// interval is a stretch of time in which one run of one branch certainly lasted.
type interval struct {
	id     int64
	epoch  int64
	branch int64
	host   hostid.ID
	token  string // the epoch's
	run    string
	began  time.Time
	last   time.Time

	reports int64
	by      checkin.EpochBy
	home    int64 // the host's
	facts   facts // of the line's latest full report
}

// span takes the report into its run's interval.
//
// A run that was copied with its disk, or came back with a snapshot, states an age that reaches into the time of
// the line it was copied from. So an interval begins no earlier than the latest report of any other run or branch
// of its epoch; what follows that beginning is its own.
//
// A report that could not be sent for a while is sent again unchanged, after a restart too, and then its age reaches
// into a time in which the run was long over. Nothing in it says so, but only a report that was sent at once agrees
// with the next one on when the run began. So an interval counts as certain from its second report on.
//
// An epoch may change within a run (a chain that could not be read, an order), and one run in two epochs is one
// process: the later one begins at the last report of the former.
//
// Intervals that end later than now were measured before the manager's clock was set back. They stay, and are
// certain of nothing any more.
//
// A run whose origin leaps forward was asleep without knowing it, or its report was long on its way. In between the
// PC may have been another system's, so nothing is certain before the report itself.
func (t *transaction) span(v checkin.VerifiedReport, h host, e epoch, p placement) error {
	run := v.Report.Run.String()
	received := millis(t.received)
	origin := received - int64(v.Report.AgeMS)
	if _, err := t.exec(`UPDATE intervals SET reports = 0 WHERE last > $1 AND reports > 0`, millis(t.now)+slack.Milliseconds()); err != nil {
		return err
	}
	if t.received.Before(t.now) { // it was on its way while others came: what began after it began no earlier
		if _, err := t.exec(`UPDATE intervals SET began = $1 WHERE epoch_id = $2 AND (run <> $3 OR branch_id <> $4) AND began < $1 AND first_at > $1`,
			received, e.id, run, p.branch.id); err != nil {
			return err
		}
	}
	var id int64
	known, err := t.get(`SELECT id FROM intervals WHERE branch_id = $1 AND run = $2 AND origin BETWEEN $3 AND $4 ORDER BY id DESC LIMIT 1`,
		[]any{p.branch.id, run, origin - slack.Milliseconds(), origin + slack.Milliseconds()}, []any{&id})
	if err != nil {
		return err
	}
	if known {
		// The origin follows the client's drift: only a leap begins another interval.
		_, err = t.exec(`UPDATE intervals SET origin = $1, last = CASE WHEN last < $2 OR last > $3 THEN $2 ELSE last END, reports = reports + 1 WHERE id = $4`,
			origin, received, millis(t.now), id)
	} else if !t.uncertain { // else nobody knows when it was
		var cut int64
		_, err = t.get(`SELECT COALESCE(MAX(received), $1) FROM reports
			WHERE epoch_id = $2 AND received > $1 AND received <= $5 AND (run <> $3 OR branch_id <> $4)`,
			[]any{origin, e.id, run, p.branch.id, received}, []any{&cut})
		if err != nil {
			return err
		}
		var former int64
		_, err = t.get(`SELECT COALESCE(MAX(i.last), 0) FROM intervals i JOIN epochs e ON e.id = i.epoch_id JOIN hosts h ON h.host_id = e.host_id
			WHERE h.asset_id = $1 AND e.proven AND i.run = $2 AND i.epoch_id <> $3`, []any{h.asset, run, e.id}, []any{&former})
		if err != nil {
			return err
		}
		var earlier bool
		earlier, err = t.get(`SELECT 1 FROM intervals WHERE branch_id = $1 AND run = $2 AND origin < $3 LIMIT 1`,
			[]any{p.branch.id, run, origin}, []any{new(int)})
		if err != nil {
			return err
		}
		// Of reports that only say that all is as before no time is kept but the last one's. A run that went on beyond this
		// report's receipt, which was long on its way, may have been heard just before it.
		var beside bool
		beside, err = t.get(`SELECT 1 FROM intervals WHERE epoch_id = $1 AND (run <> $2 OR branch_id <> $3) AND first_at < $4 AND last > $4 LIMIT 1`,
			[]any{e.id, run, p.branch.id, received}, []any{new(int)})
		if cut = max(cut, min(former, received)); earlier || beside {
			cut = received
		}
		if err == nil {
			_, err = t.insert(`INSERT INTO intervals (epoch_id, branch_id, run, origin, began, last, first_at, reports) VALUES ($1, $2, $3, $4, $5, $6, $6, 1)`,
				e.id, p.branch.id, run, origin, cut, received)
		}
	}
	return err
}

const intervalColumns = `SELECT i.id, i.epoch_id, i.branch_id, e.host_id, e.epoch, i.run, i.began, i.last, i.reports, e.began_by, h.home FROM intervals i JOIN epochs e ON e.id = i.epoch_id JOIN hosts h ON h.host_id = e.host_id `

func scanInterval(scan func(...any) error) (i interval, err error) {
	var began, last int64
	var host string
	err = scan(&i.id, &i.epoch, &i.branch, &host, &i.token, &i.run, &began, &last, &i.reports, (*string)(&i.by), &i.home)
	if err != nil {
		return i, err
	}
	i.began, i.last = fromMillis(began), fromMillis(last)
	i.host, err = hostid.ParseID(host)
	return i, err
}

// overlaps decides about each line of the asset that was certainly alive at the same time as this one for longer than the
// slack: two systems with one identity. That one of them has a gap before it does not matter: the reports of one line never
// lie side by side, in whatever order they arrive, because of the cut in span.
func (t *transaction) overlaps(b branch, h host) error {
	mine, err := collect(t, scanInterval, intervalColumns+`WHERE i.branch_id = $1 ORDER BY i.last DESC, i.id DESC LIMIT 1`, b.id)
	if err != nil || len(mine) == 0 || mine[0].reports < 2 {
		return err
	}
	m := mine[0]
	others, err := collect(t, scanInterval, intervalColumns+`WHERE h.asset_id = $1 AND i.branch_id <> $2 AND i.reports >= 2 AND i.last > $3 AND i.began < $4
		AND e.proven AND NOT EXISTS (SELECT 1 FROM blocks k WHERE k.host_id = e.host_id AND k.lifted IS NULL AND (k.branch_id = i.branch_id OR k.branch_id IS NULL AND k.key = e.key))
		ORDER BY e.host_id = $5 DESC, i.branch_id, i.id`,
		h.asset, b.id, millis(m.began.Add(slack)), millis(m.last.Add(-slack)), h.id.String())
	if err != nil || len(others) == 0 {
		return err
	}
	gone, err := t.orderedLines(h.asset)
	if err != nil {
		return err
	}
	silenced, err := t.silencedLines(b.id)
	if err != nil {
		return err
	}
	if m.facts, err = t.saidBy(m.branch); err != nil {
		return err
	}
	done := map[int64]bool{}
	for _, o := range others {
		side := sideBySide{m, o, later(m.began, o.began), earlier(m.last, o.last)}
		if side.to.Sub(side.from) <= slack || done[o.branch] || silenced[o.branch] {
			continue
		}
		if side.o.facts, err = t.saidBy(o.branch); err != nil {
			return err
		}
		// Who is ordered to go, or went after that, has been decided about. Whoever has less of a claim than he goes too.
		if end, ordered := gone[m.branch]; ordered && (end.IsZero() || !m.last.After(end)) {
			return nil
		}
		if end, ordered := gone[o.branch]; ordered && (end.IsZero() || !o.last.After(end)) {
			if o.host != m.host {
				continue
			}
			loser, why, err := t.copyOf(h, side)
			if err != nil {
				return err
			}
			if loser.branch != m.branch || !ordersByItself[why] {
				continue
			}
		}
		done[o.branch] = true
		if o.host != m.host {
			separated, err := t.overlapOfHosts(side)
			if err != nil {
				return err
			}
			if separated { // who of the others still belongs to the asset shows with the next report
				return nil
			}
			continue
		}
		ordered, err := t.overlapOfLines(h, side)
		if err != nil {
			return err
		}
		if ordered == m.branch {
			return nil
		}
		if ordered != 0 {
			gone[ordered] = time.Time{}
		}
	}
	return nil
}

// saidBy are the facts of a line's latest full report.
func (t *transaction) saidBy(line int64) (f facts, err error) {
	var said string
	if _, err := t.get(`SELECT facts FROM branches WHERE id = $1`, []any{line}, []any{&said}); err != nil || said == "" {
		return f, err
	}
	return f, decodeText(fmt.Sprint("facts of branch ", line), said, &f)
}

// ordersByItself are the reasons that suffice for an order; all others are an operator's.
var ordersByItself = map[string]bool{"overlap-board": true, "overlap-disk": true, "overlap-first": true}

// sideBySide are two lines that lived at the same time.
type sideBySide struct {
	m, o     interval
	from, to time.Time
}

func (s sideBySide) evidence() map[string]any {
	return map[string]any{
		"host": s.m.host, "other_host": s.o.host, "epoch": s.m.token, "other_epoch": s.o.token, "run": s.m.run, "other_run": s.o.run,
		"branch": s.m.branch, "other_branch": s.o.branch, "from": s.from, "to": s.to, "seconds": int64(s.to.Sub(s.from).Seconds()),
		"reported": s.m.facts, "known": s.o.facts,
	}
}

// orderedLines are the lines of the asset's hosts that were ordered to take another host ID, with the time at which they
// had; zero while they have not.
func (t *transaction) orderedLines(asset int64) (map[int64]time.Time, error) {
	all, err := collect(t, scanDemand, demandColumns+` FROM demands d JOIN hosts h ON h.host_id = d.host_id
		WHERE h.asset_id = $1 AND d.kind IN ('new-id', 'take-back', 'use-nonvolatile') AND d.outcome IN ('', 'done') ORDER BY d.id`, asset)
	lines := map[int64]time.Time{}
	for _, d := range all {
		lines[d.branch] = d.ended
	}
	return lines, err
}

// silencedLines are those that an operator said are one PC with this one.
func (t *transaction) silencedLines(line int64) (map[int64]bool, error) {
	all, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT CAST(b.subject AS BIGINT) FROM kept_apart a JOIN kept_apart b ON b.resolution = a.resolution AND b.kind = a.kind JOIN resolutions r ON r.id = a.resolution
		WHERE a.kind = 'line' AND a.subject = $1 AND r.undone IS NULL ORDER BY 1`, fmt.Sprint(line))
	lines := map[int64]bool{}
	for _, id := range all {
		lines[id] = true
	}
	return lines, err
}

// overlapOfHosts: two host IDs of one asset live at the same time. Nobody is ordered anything: what was joined without an
// operator is separated, and asked about. What an operator joined stays.
func (t *transaction) overlapOfHosts(s sideBySide) (separated bool, err error) {
	path, err := t.between(s.m.home, s.o.home)
	if err != nil {
		return false, err
	}
	for _, g := range path {
		if g.madeBy == byOperator {
			return false, nil
		}
	}
	evidence := s.evidence()
	if len(path) > 0 { // none: joined by a release that did not note by what
		if err := t.ungroup(path[0].id); err != nil {
			return false, err
		}
		evidence["separated"], evidence["joined_by"] = path[0].id, path[0].madeBy
	}
	a, _, err := t.host(s.m.host)
	if err != nil {
		return false, err
	}
	b, _, err := t.host(s.o.host)
	if err != nil {
		return false, err
	}
	if a.home < b.home {
		a, b = b, a // it is about the later one
	}
	c, err := t.openConflict(conflict{
		kind: "overlap", subject: "hosts " + hostPair(a.id, b.id), asset: a.asset, host: a.id, other: b.asset, otherHost: b.id,
		lines: []int64{s.m.branch, s.o.branch}, evidence: evidence,
	})
	if err != nil {
		return false, err
	}
	return len(path) > 0, t.propose(c.id, proposal{Why: "overlap-hosts"})
}

// overlapOfLines: two lines of one host ID live at the same time. It returns the one that is ordered to take a new host
// ID; 0 where that is not decided here.
func (t *transaction) overlapOfLines(h host, s sideBySide) (ordered int64, err error) {
	loser, why, err := t.copyOf(h, s)
	if err != nil {
		return 0, err
	}
	subject, evidence := "host "+h.id.String(), s.evidence()
	switch why {
	case "overlap-shared":
		subject += " shared"
		evidence["shared"] = t.agreeing(s.m.facts, s.o.facts)
	case "overlap-restored", "overlap-again":
		subject += " " + why
	case "overlap-unproven":
		open, err := t.get(`SELECT 1 FROM conflicts WHERE kind = 'overlap' AND subject = $1 AND closed IS NULL`, []any{subject}, []any{new(int)})
		if err != nil {
			return 0, err
		}
		if !open { // else somebody is asked about these two as it is
			subject += " " + why
		}
	}
	evidence["why"] = why
	c, err := t.openConflict(conflict{kind: "overlap", subject: subject, asset: h.asset, host: h.id, lines: []int64{s.m.branch, s.o.branch}, evidence: evidence})
	if err != nil {
		return 0, err
	}
	if !ordersByItself[why] || c.held {
		return 0, t.propose(c.id, proposal{Why: why})
	}
	if err := t.propose(c.id, proposal{Verb: KeepBoth, Why: why}); err != nil {
		return 0, err
	}
	return loser.branch, t.ruleOrders(c, "overlap", demand{kind: checkin.OrderNewID, host: h.id, branch: loser.branch})
}

// A PC whose disk is set back at each start takes a new host ID with each of them, and then asks for the next. After so many
// it is asked about.
const (
	maxCopiesOfBoard = 3    // new host IDs for one board
	maxCopies        = 2000 // new host IDs in place of one, by any PC
)

// copyOf says which of two lines of one host ID is the copy, and by what that was decided.
func (t *transaction) copyOf(h host, s sideBySide) (loser interval, why string, err error) {
	between := t.compare(s.m.facts, s.o.facts)
	if between == hostid.SameBoard { // forged facts, or a value that they share
		return loser, "overlap-shared", nil
	}
	mine, others := t.compare(h.facts, s.m.facts), t.compare(h.facts, s.o.facts)
	keeps, loser := s.m, s.o
	switch {
	case mine == hostid.SameBoard && others == hostid.AnotherBoard || between == hostid.AnotherBoard && mine == hostid.SameBoard && others != hostid.SameBoard:
		why = "overlap-board"
	case others == hostid.SameBoard && mine == hostid.AnotherBoard || between == hostid.AnotherBoard && others == hostid.SameBoard && mine != hostid.SameBoard:
		keeps, loser, why = s.o, s.m, "overlap-board"
	default:
		known := t.evidence(h.facts)[hostid.DiskSerial]
		myDisk, otherDisk := known != "" && t.evidence(s.m.facts)[hostid.DiskSerial] == known, known != "" && t.evidence(s.o.facts)[hostid.DiskSerial] == known
		switch {
		case myDisk && !otherDisk:
			why = "overlap-disk"
		case otherDisk && !myDisk:
			keeps, loser, why = s.o, s.m, "overlap-disk"
		default:
			why = "overlap-first"
			if s.o.branch < s.m.branch {
				keeps, loser = s.o, s.m
			}
		}
	}
	if proven, err := t.twoSystems(s, why); err != nil || !proven {
		return loser, "overlap-unproven", err
	}
	if loser.by == checkin.EpochRestore && keeps.by != checkin.EpochRestore {
		return loser, "overlap-restored", nil
	}
	again, err := t.orderedAgain(h.id, loser.facts)
	if again {
		why = "overlap-again"
	}
	return loser, why, err
}

// twoSystems reports whether two lines are certainly two systems. Reports that were withheld on their way and delivered later, at the
// pace at which they were made, let the past of one PC run beside its present, in which its disk or its board may be another one. But no
// PC lets two reports follow one: where neither line has a gap before it, they forked. Lines of two epochs cannot fork; there boards tell
// them apart.
func (t *transaction) twoSystems(s sideBySide, why string) (bool, error) {
	if s.m.epoch != s.o.epoch {
		return why == "overlap-board", nil
	}
	gap, err := t.get(`SELECT 1 FROM branches WHERE id IN ($1, $2) AND missing IS NOT NULL LIMIT 1`, []any{s.m.branch, s.o.branch}, []any{new(int)})
	return !gap, err
}

// orderedAgain reports that the PC which reports these facts took new host IDs in place of this one time and again.
func (t *transaction) orderedAgain(id hostid.ID, f facts) (bool, error) {
	before, err := collect(t, scanHost, hostColumns+`WHERE host_id IN (SELECT done_by FROM demands WHERE host_id = $1 AND kind = 'new-id' AND outcome = 'done')
		ORDER BY host_id LIMIT $2`, id.String(), maxCopies)
	if err != nil || len(before) >= maxCopies {
		return err == nil, err
	}
	same := 0
	for _, h := range before {
		if t.compare(h.facts, f) == hostid.SameBoard {
			same++
		}
	}
	return same >= maxCopiesOfBoard, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

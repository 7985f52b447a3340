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
	host   string
	token  string // the epoch's
	run    string
	began  time.Time
	last   time.Time

	reports int64
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
	received := millis(t.now)
	origin := received - int64(v.Report.AgeMS)
	if _, err := t.exec(`UPDATE intervals SET reports = 0 WHERE last > $1 AND reports > 0`, received+slack.Milliseconds()); err != nil {
		return err
	}
	var id int64
	known, err := t.get(`SELECT id FROM intervals WHERE branch_id = $1 AND run = $2 AND origin BETWEEN $3 AND $4 ORDER BY id DESC LIMIT 1`,
		[]any{p.branch.id, run, origin - slack.Milliseconds(), origin + slack.Milliseconds()}, []any{&id})
	if err != nil {
		return err
	}
	if known {
		// The origin follows the client's drift: only a leap begins another interval.
		_, err = t.exec(`UPDATE intervals SET origin = $1, last = $2, reports = reports + 1 WHERE id = $3`, origin, received, id)
	} else {
		var cut int64
		_, err = t.get(`SELECT COALESCE(MAX(received), $1) FROM reports
			WHERE epoch_id = $2 AND received > $1 AND (run <> $3 OR branch_id <> $4)`,
			[]any{origin, e.id, run, p.branch.id}, []any{&cut})
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
		if cut = max(cut, former); earlier {
			cut = received
		}
		if err == nil {
			_, err = t.insert(`INSERT INTO intervals (epoch_id, branch_id, run, origin, began, last, reports) VALUES ($1, $2, $3, $4, $5, $6, 1)`,
				e.id, p.branch.id, run, origin, cut, received)
		}
	}
	return err
}

const intervalColumns = `SELECT i.id, i.epoch_id, i.branch_id, e.host_id, e.epoch, i.run, i.began, i.last, i.reports
	FROM intervals i JOIN epochs e ON e.id = i.epoch_id `

func scanInterval(scan func(...any) error) (i interval, err error) {
	var began, last int64
	err = scan(&i.id, &i.epoch, &i.branch, &i.host, &i.token, &i.run, &began, &last, &i.reports)
	i.began, i.last = fromMillis(began), fromMillis(last)
	return i, err
}

// overlaps opens a conflict for each branch or epoch of the asset that was certainly alive at the same time as this
// one for longer than the slack: two systems with one identity. That one of them has a gap before it does not matter: the
// reports of one line never lie side by side, in whatever order they arrive, because of the cut in span.
func (t *transaction) overlaps(b branch, assetID int64) error {
	mine, err := collect(t, scanInterval, intervalColumns+`WHERE i.branch_id = $1 ORDER BY i.last DESC, i.id DESC LIMIT 1`, b.id)
	if err != nil || len(mine) == 0 || mine[0].reports < 2 {
		return err
	}
	m := mine[0]
	others, err := collect(t, scanInterval, intervalColumns+`JOIN hosts h ON h.host_id = e.host_id
		WHERE h.asset_id = $1 AND i.branch_id <> $2 AND i.reports >= 2 AND i.last > $3 AND i.began < $4 ORDER BY i.id`,
		assetID, b.id, millis(m.began.Add(slack)), millis(m.last.Add(-slack)))
	if err != nil {
		return err
	}
	for _, o := range others {
		from, to := later(m.began, o.began), earlier(m.last, o.last)
		if to.Sub(from) <= slack {
			continue
		}
		subject := fmt.Sprint("epochs ", min(m.epoch, o.epoch), " ", max(m.epoch, o.epoch))
		if m.epoch == o.epoch {
			subject = fmt.Sprint("branches ", min(m.branch, o.branch), " ", max(m.branch, o.branch))
		}
		h, err := hostid.ParseID(m.host)
		if err != nil {
			return err
		}
		err = t.openConflict(conflict{
			kind: "overlap", subject: subject, asset: assetID, host: h, epochs: []int64{m.epoch, o.epoch},
			evidence: map[string]any{
				"host": m.host, "other_host": o.host, "epoch": m.token, "other_epoch": o.token, "run": m.run, "other_run": o.run,
				"branch": m.branch, "other_branch": o.branch, "from": from, "to": to, "seconds": int64(to.Sub(from).Seconds()),
			},
		})
		if err != nil {
			return err
		}
	}
	return nil
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

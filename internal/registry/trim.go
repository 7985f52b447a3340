package registry

import (
	"context"
	"time"

	"samehost/internal/hostid"
)

// How long accepted reports are kept, except each branch's last, which stays. A thousand PCs make about 100,000
// reports a day: 300 MB with their text and replies, 40 MB without.
const (
	// keepText: a client or relay that did not get a reply asks again within hours of being back. After that it
	// gets a new reply to a report that was accepted.
	keepText = 2 * 24 * time.Hour
	// keepReport: a state that was copied longer ago is seen as a gap, no longer as a fork. Two systems that live
	// on it still show, by their overlap.
	keepReport = 30 * 24 * time.Hour
	// trimAtOnce bounds one transaction, so that check-ins wait for milliseconds only.
	trimAtOnce = 500

	noTip = `NOT EXISTS (SELECT 1 FROM branches b WHERE b.id = reports.branch_id AND b.tip = reports.digest)`
)

// Trim removes what has become old: the text of reports after two days, reports and runs after thirty, attempts to
// initialize PCs that never checked in after 400. History,
// conflicts and what assets know are never trimmed. It is meant to be called every hour or so.
func (r *Registry) Trim(ctx context.Context) error {
	now := r.now()
	for _, step := range []struct {
		query string
		age   time.Duration
	}{
		{`UPDATE reports SET jws = '', reply = '' WHERE digest IN (SELECT digest FROM reports
			WHERE received < $1 AND reply <> '' AND ` + noTip + ` LIMIT $2)`, keepText},
		{`DELETE FROM reports WHERE digest IN (SELECT digest FROM reports
			WHERE received < $1 AND ` + noTip + ` LIMIT $2)`, keepReport},
		{`DELETE FROM initializations WHERE id IN (SELECT id FROM initializations WHERE host_id IS NULL AND counted < $1 LIMIT $2)`, keepOpen},
		{`DELETE FROM intervals WHERE id IN (SELECT id FROM intervals WHERE last < $1 LIMIT $2)`, keepReport},
		{`DELETE FROM trails WHERE id IN (SELECT id FROM trails WHERE last < $1 LIMIT $2)`, keepReport},
	} {
		for more := true; more; {
			err := r.write(ctx, func(t *transaction) error {
				n, err := t.exec(step.query, millis(now.Add(-step.age)), trimAtOnce)
				more = n == trimAtOnce
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	if err := r.trimWork(ctx); err != nil {
		return err
	}
	return r.decide(ctx, (*transaction).trimLines)
}

// trimLines lets go of lines that were not heard for so long that nobody will carry anything out for them any more: their
// demands end, and conflicts that nothing else holds open are closed.
func (t *transaction) trimLines() error {
	old := millis(t.now.Add(-keepReport))
	demands, err := collect(t, scanDemand, demandColumns+` FROM demands d JOIN branches b ON b.id = d.branch_id WHERE d.ended IS NULL AND b.last_received < $1 ORDER BY d.id LIMIT $2`,
		old, trimAtOnce)
	if err != nil {
		return err
	}
	for _, d := range demands {
		if err := t.endDemand(d, demandGone, hostid.ID{}); err != nil {
			return err
		}
	}
	lines, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT DISTINCT l.branch_id FROM conflict_lines l JOIN conflicts c ON c.id = l.conflict_id JOIN branches b ON b.id = l.branch_id
		WHERE c.closed IS NULL AND c.resolution IS NOT NULL AND l.left_at IS NULL AND b.last_received < $1 ORDER BY l.branch_id LIMIT $2`, old, trimAtOnce)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := t.settleLine(0, l); err != nil {
			return err
		}
	}
	return nil
}

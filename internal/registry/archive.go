package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"samehost/internal/hostid"
)

// An asset may be archived by schedule when it has been silent for so many days on which others were heard. Days without
// any check-in do not count: nobody can be heard by a manager that was off, cut off, or whose clock leapt over them. docs/decisions/0033-maintenance.md.

const day = 24 * time.Hour

// A scheduled run that would archive more than a fifth of all assets in sight, and more than ten, archives none: that many
// PCs do not leave at once, but a network does. An operator who knows better does it with Archive.
const (
	archiveAlways = 10
	archiveShare  = 5
)

// archiveAtOnce bounds one transaction, so that check-ins wait for milliseconds only.
const archiveAtOnce = 100

// contact notes that check-ins are taken today.
func (t *transaction) contact() error {
	_, err := t.exec(`INSERT INTO contact_days (day) VALUES ($1) ON CONFLICT DO NOTHING`, dayOf(t.now))
	return err
}

func dayOf(t time.Time) int64 { return t.UnixMilli() / day.Milliseconds() }

// ToArchive is an asset that has been silent for long.
type ToArchive struct {
	HostID      hostid.ID `json:"host_id"`
	Name        string    `json:"name"`
	LastCheckin time.Time `json:"last_checkin"`
}

// ArchiveRun says what archiving did. The meaning of its JSON names never changes.
type ArchiveRun struct {
	Assets      []ToArchive `json:"assets"`       // that were archived, or would be
	Held        int         `json:"held"`         // a scheduled run archived none, since they were so many
	ContactDays int         `json:"contact_days"` // of the days looked at, those on which any PC was heard
}

// silentSince are the assets in sight that were last heard before a time, those heard longest ago first. What is in an open
// conflict or blocked is not among them: that an operator has to look at it must not vanish. An asset that was never heard
// counts from when it was made.
func (t *transaction) silentSince(limit time.Time) ([]ToArchive, error) {
	return collect(t, func(scan func(...any) error) (a ToArchive, err error) {
		var host, text string
		var last sql.NullInt64
		if err := scan(&host, &text, &last); err != nil {
			return a, err
		}
		var seen Seen
		if err := decodeText("last report of an asset", text, &seen); err != nil {
			return a, err
		}
		a.Name, a.LastCheckin = seen.Name, fromNullTime(last)
		a.HostID, err = hostid.ParseID(host)
		return a, err
	}, `SELECT COALESCE(NULLIF(a.seen_host, ''), MIN(h.host_id)), a.seen, MAX(h.last_checkin) FROM assets a JOIN hosts_now h ON h.asset_id = a.id AND h.succeeded IS NULL
		WHERE NOT EXISTS (SELECT 1 FROM conflicts c WHERE `+asked+` AND (c.asset_id = a.id OR c.other_asset = a.id))
		AND NOT EXISTS (SELECT 1 FROM blocks b JOIN hosts k ON k.host_id = b.host_id WHERE k.asset_id = a.id AND b.lifted IS NULL)
		GROUP BY a.id, a.seen_host, a.seen, a.created
		HAVING COALESCE(MAX(h.last_checkin), a.created) < $1 AND MAX(h.retired) IS NULL AND COUNT(h.deleted) + COUNT(h.archived) < COUNT(*)
		ORDER BY COALESCE(MAX(h.last_checkin), a.created), a.id`, millis(limit))
}

// Archive takes the assets out of sight that have not been heard for so many days by the manager's clock, or only says which
// they are. Each comes back with its next report. It is an operator's word: neither the days without check-ins nor the number
// of assets stop it; ContactDays lets him judge.
func (r *Registry) Archive(ctx context.Context, days int, dryRun bool, by Actor) (ArchiveRun, error) {
	var done ArchiveRun
	err := r.decide(ctx, func(t *transaction) error {
		done = ArchiveRun{Assets: []ToArchive{}}
		_, err := t.get(`SELECT COUNT(*) FROM contact_days WHERE day >= $1 AND day < $2`, []any{dayOf(t.now) - int64(days), dayOf(t.now)}, []any{&done.ContactDays})
		if err != nil {
			return err
		}
		due, err := t.silentSince(t.now.Add(-time.Duration(days) * day))
		done.Assets = append(done.Assets, due...)
		return err
	})
	if err != nil || dryRun {
		return done, err
	}
	done.Assets, err = r.archive(ctx, done.Assets, by)
	return done, err
}

// ArchiveBySchedule does what Archive does, at most once in 24 hours, for assets that have been silent on so many days
// on which others were heard (today does not count). 0 days is never. It may be called at any time.
func (r *Registry) ArchiveBySchedule(ctx context.Context, days int) (ArchiveRun, error) {
	done := ArchiveRun{Assets: []ToArchive{}}
	if days <= 0 {
		return done, nil
	}
	err := r.decide(ctx, func(t *transaction) error {
		done = ArchiveRun{Assets: []ToArchive{}}
		var last sql.NullInt64
		var held int
		if _, err := t.get(`SELECT last, held FROM archiving`, nil, []any{&last, &held}); err != nil {
			return err
		}
		// One that is later than now was made while the clock was ahead.
		if since := t.now.Sub(fromNullTime(last)); last.Valid && since >= 0 && since < day {
			return nil
		}
		var first int64 // of the days that count
		_, err := t.get(`SELECT COUNT(*), COALESCE(MIN(day), 0) FROM (SELECT day FROM contact_days WHERE day < $1 ORDER BY day DESC LIMIT $2) AS counted`,
			[]any{dayOf(t.now), days}, []any{&done.ContactDays, &first})
		if err != nil {
			return err
		}
		if done.ContactDays == days {
			limit := earlier(fromMillis(first*day.Milliseconds()), t.now.Add(-time.Duration(days)*day))
			due, err := t.silentSince(limit)
			if err != nil {
				return err
			}
			var inSight int
			if _, err := t.get(`SELECT COUNT(DISTINCT asset_id) FROM hosts WHERE deleted IS NULL AND retired IS NULL AND archived IS NULL`, nil, []any{&inSight}); err != nil {
				return err
			}
			if len(due) > max(archiveAlways, inSight/archiveShare) {
				done.Held = len(due)
			} else {
				done.Assets = append(done.Assets, due...)
			}
			if done.Held > 0 && held == 0 {
				err := t.record(hostid.ID{}, "archive-held", map[string]any{"days": days, "assets": done.Held, "of": inSight})
				if err != nil {
					return err
				}
			}
		}
		_, err = t.exec(`UPDATE archiving SET last = $1, held = $2`, millis(t.now), done.Held)
		return err
	})
	if err != nil {
		return done, err
	}
	done.Assets, err = r.archive(ctx, done.Assets, Actor{Trigger: BySchedule})
	return done, err
}

// archive archives those that are still as silent as they were.
func (r *Registry) archive(ctx context.Context, due []ToArchive, by Actor) (done []ToArchive, err error) {
	done = []ToArchive{}
	for len(due) > 0 {
		part := due[:min(len(due), archiveAtOnce)]
		due = due[len(part):]
		var archived []ToArchive
		err := r.decide(ctx, func(t *transaction) error {
			archived = nil
			for _, d := range part {
				a, err := t.maintained(d.HostID)
				if err != nil {
					return err
				}
				if a.state() != "" || a.lastCheckin().After(d.LastCheckin) {
					continue
				}
				if _, err := t.mark(a, Archiving, hostid.ID{}, by); err != nil {
					return err
				}
				since := "-"
				if !d.LastCheckin.IsZero() {
					since = d.LastCheckin.Format(time.RFC3339)
				}
				if err := t.recordBy(d.HostID, "archived", by, map[string]any{"name": d.Name, "since": since}); err != nil {
					return err
				}
				archived = append(archived, d)
			}
			return nil
		})
		if err != nil {
			return done, fmt.Errorf("archive: %w", err)
		}
		done = append(done, archived...)
	}
	return done, nil
}

func (a maintainedAsset) lastCheckin() (last time.Time) {
	for _, h := range a.own() {
		last = later(last, h.last)
	}
	return last
}

package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"samehost/internal/hostid"
)

// MaxPage is the most that one call for a page returns, so that no call keeps the database or a processor for long.
const MaxPage = 500

// AssetFilter says which assets a list is to have. The zero value takes those that are listed (State.Listed). None takes what is
// deleted: Deletions has that.
type AssetFilter struct {
	Name           string // what the PC calls itself, in any case, with its domain or without; "": any. For AssetsPage only
	State          State  // only this one, also where it is not listed; "": any
	Retired        bool   // those that are retired, and no others but Archived's
	Archived       bool   // those that are archived, and no others but Retired's
	All            bool   // also those that are retired or archived
	NotInitialized bool   // memory is known not to be initialized
}

// Shows reports whether an asset is one of those that the filter takes, but for its name.
func (f AssetFilter) Shows(a Asset) bool {
	state := f.All || a.State.Listed()
	switch {
	case f.State != "":
		state = a.State == f.State
	case f.Retired || f.Archived:
		state = f.All || f.Retired && a.State == Retired || f.Archived && a.State == Archived
	}
	return state && a.State != Deleted && !(f.NotInitialized && (a.Initialized == nil || *a.Initialized))
}

// AssetsPage returns assets that fulfil a filter, the oldest first, from after the one that the last page ended with (0: from
// the first). A page may hold fewer than limit, or none: there are more for as long as next is not 0. limit is at most MaxPage.
func (r *Registry) AssetsPage(ctx context.Context, f AssetFilter, after int64, limit int) (page []AssetDetail, next int64, err error) {
	these, args := `SELECT b.id FROM assets b WHERE b.id > $1 AND EXISTS (SELECT 1 FROM hosts o WHERE o.asset_id = b.id)`, []any{after, limitOf(limit)}
	if f.Name != "" {
		these += ` AND b.id IN (SELECT asset_id FROM asset_names WHERE name = $3 OR label = $3)`
		args = append(args, strings.ToLower(f.Name))
	}
	these = `(` + these + ` ORDER BY b.id LIMIT $2)`
	rows, err := scanAll(ctx, r.readers, scanAssetRow, assetColumns+`WHERE a.id IN `+these+` ORDER BY a.id, COALESCE(h.enrolled, 0), h.host_id`, args...)
	if err != nil {
		return nil, 0, fmt.Errorf("assets: %w", err)
	}
	if len(rows) == 0 {
		return nil, 0, nil
	}
	tried, err := scanAll(ctx, r.readers, scanLastAttempt, lastAttemptColumns+` AND h.asset_id IN `+these+` ORDER BY i.counted, i.id`, args...)
	if err != nil {
		return nil, 0, fmt.Errorf("assets: %w", err)
	}
	attempts := map[int64]lastAttempt{}
	for _, l := range tried {
		attempts[l.asset] = l
	}
	inForce, err := r.inForce(ctx, rows)
	if err != nil {
		return nil, 0, fmt.Errorf("assets: %w", err)
	}
	page = r.details(rows, attempts, inForce)
	if len(page) == limitOf(limit) {
		next = rows[len(rows)-1].id
	}
	return slices.DeleteFunc(page, func(d AssetDetail) bool { return !f.Shows(d.Asset) }), next, nil
}

func limitOf(limit int) int { return min(max(limit, 1), MaxPage) }

// HistoryPage returns events of the asset that a host ID names, or of all (the zero ID): the oldest first from after one of
// them (0: from the first), or with newest the newest first from before it (0: from the last). next is 0 where none follow.
// limit is at most MaxPage. A host ID that is nobody's is ErrUnknown.
func (r *Registry) HistoryPage(ctx context.Context, of hostid.ID, newest bool, after int64, limit int) (page []Event, next int64, err error) {
	where, args := `($1 = 0 OR id > $1)`, []any{after, limitOf(limit) + 1}
	order := `id`
	if newest {
		where, order = `($1 = 0 OR id < $1)`, `id DESC`
	}
	if !of.IsZero() {
		known, err := scanAll(ctx, r.readers, scanText, `SELECT host_id FROM hosts WHERE host_id = $1`, of.String())
		if err == nil && len(known) == 0 {
			err = fmt.Errorf("host ID %s: %w", of, ErrUnknown)
		}
		if err != nil {
			return nil, 0, err
		}
		where += ` AND host_id IN (SELECT host_id FROM hosts WHERE asset_id = (SELECT asset_id FROM hosts WHERE host_id = $3))`
		args = append(args, of.String())
	}
	page, err = scanAll(ctx, r.readers, scanEvent, historyColumns+`WHERE `+where+` ORDER BY `+order+` LIMIT $2`, args...)
	if err == nil && len(page) > limitOf(limit) {
		page = page[:limitOf(limit)]
		next = page[len(page)-1].ID
	}
	return page, next, err
}

// ConflictsPage returns open conflicts that are not parked, the oldest first, or closed ones, those with the highest numbers first, from after the one
// that the last page ended with (0: from the first). next is 0 where none follow. limit is at most MaxPage.
func (r *Registry) ConflictsPage(ctx context.Context, closed bool, after int64, limit int) (page []Conflict, next int64, err error) {
	where := `WHERE c.id IN (SELECT c.id FROM conflicts c WHERE ` + asked + ` AND ($1 = 0 OR c.id > $1) ORDER BY c.id LIMIT $2)`
	if closed {
		where = `WHERE c.id IN (SELECT id FROM conflicts WHERE closed IS NOT NULL AND ($1 = 0 OR id < $1) ORDER BY id DESC LIMIT $2)`
	}
	page, err = r.conflicts(ctx, where, after, limitOf(limit)+1)
	if closed {
		slices.Reverse(page)
	}
	if err == nil && len(page) > limitOf(limit) {
		page = page[:limitOf(limit)]
		next = page[len(page)-1].ID
	}
	return page, next, err
}

// DeletionsPage returns deletions, those taken back included, the oldest first from after one of them (0: from the first), or with
// newest the newest first from before it (0: from the last). next is 0 where none follow. limit is at most MaxPage.
func (r *Registry) DeletionsPage(ctx context.Context, newest bool, after int64, limit int) (page []Maintenance, next int64, err error) {
	where := `WHERE m.kind = 'delete' AND ($1 = 0 OR m.id > $1) ORDER BY m.id LIMIT $2`
	if newest {
		where = `WHERE m.kind = 'delete' AND ($1 = 0 OR m.id < $1) ORDER BY m.id DESC LIMIT $2`
	}
	page, err = scanAll(ctx, r.readers, scanMaintenance, maintenanceColumns+where, after, limitOf(limit)+1)
	if err == nil && len(page) > limitOf(limit) {
		page = page[:limitOf(limit)]
		next = page[len(page)-1].ID
	}
	return page, next, err
}

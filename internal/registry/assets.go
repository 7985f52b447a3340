package registry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// State says how an asset stands.
type State string

// The states, in the order in which they go before each other.
const (
	Blocked    State = "blocked"  // an operator wants its reports in the history only
	InConflict State = "conflict" // a conflict about it is open
	Pending    State = "pending"  // reinstalled or replaced; waits for the former line to be silent
	Live       State = "live"     // checked in within three intervals
	Silent     State = "silent"   // not; Deleted, Retired and Archived go before all of these
)

// The states of what is no asset (Unmatched).
const (
	Unknown   State = "unknown"   // not checked in yet
	Ambiguous State = "ambiguous" // several assets may be meant
)

// Asset is one PC as the registry knows it. The meaning of its JSON names never changes.
type Asset struct {
	HostID      hostid.ID   `json:"host_id"`  // the one it last reported under
	HostIDs     []hostid.ID `json:"host_ids"` // all that ever were this asset's, HostID first
	Name        string      `json:"name"`
	State       State       `json:"state"`
	Initialized *bool       `json:"initialized"` // null: unknown
	LastCheckin time.Time   `json:"last_checkin"`
	Route       []hostid.ID `json:"route,omitempty"` // the relays on the way of its latest report, the manager's own first
	Relay       bool        `json:"relay,omitzero"`  // it is a relay
	Conflicts   int         `json:"conflicts"`       // open ones, but for parked ones
	Seen        Seen        `json:"last_report"`

	Initialization *Initialization `json:"initialization"` // the last attempt from the network; null: none

	Maintenance *Maintenance `json:"maintenance,omitempty"` // by which it is deleted, retired or archived
	HeardSince  bool         `json:"heard_since,omitzero"`  // retired, and its PC has checked in since
}

// HostDetail is one host ID of an asset.
type HostDetail struct {
	HostID          hostid.ID `json:"host_id"`
	Enrolled        time.Time `json:"enrolled,omitzero"` // zero: only known from a replacement
	ReplacedBy      string    `json:"replaced_by,omitempty"`
	CopyOf          string    `json:"copy_of,omitempty"`
	Token           string    `json:"token,omitempty"`
	LastCheckin     time.Time `json:"last_checkin,omitzero"`
	Blocked         bool      `json:"blocked"`
	Epochs          int       `json:"epochs"`
	Branches        int       `json:"branches"`
	BlockedBranches int       `json:"blocked_branches,omitzero"` // lines that an operator blocked, of a host that is not
	Succeeded       bool      `json:"succeeded,omitzero"`        // of another PC, whose place this asset's took
}

// AssetDetail is everything about one asset but its history.
type AssetDetail struct {
	Asset
	Facts   hardware.Facts `json:"facts"`
	Created time.Time      `json:"created"`
	Hosts   []HostDetail   `json:"hosts"`
	Open    []Conflict     `json:"open_conflicts"` // parked ones too

	Predecessors []Predecessor `json:"predecessors,omitempty"` // whose place its PC took, the last one first
}

// One row per host of every asset that has hosts; rows of an asset follow each other.
const assetColumns = `SELECT a.id, a.created, a.facts, a.seen, a.seen_host, COALESCE(q.received, a.seen_at), COALESCE(q.clock, ''),
	COALESCE(w.last_received, 0) >= COALESCE(k.last_received, 1) AND a.waiting IS NOT NULL,
	(SELECT COUNT(*) FROM conflicts c WHERE c.asset_id = a.id AND ` + asked + `),
	h.host_id, h.enrolled, h.replaced_by, h.copy_of, h.token_id, h.last_checkin,
	EXISTS (SELECT 1 FROM blocks l WHERE l.host_id = h.host_id AND l.key = h.key AND l.lifted IS NULL),
	(SELECT COUNT(DISTINCT l.branch_id) FROM blocks l WHERE l.host_id = h.host_id AND l.branch_id IS NOT NULL AND l.lifted IS NULL),
	(SELECT COUNT(*) FROM epochs e WHERE e.host_id = h.host_id AND e.proven),
	(SELECT COUNT(*) FROM epochs e JOIN branches b ON b.epoch_id = e.id WHERE e.host_id = h.host_id AND e.proven),
	COALESCE(h.deleted, 0), COALESCE(h.archived, 0), COALESCE(h.retired, 0), COALESCE(h.succeeded, 0),
	h.route, EXISTS (SELECT 1 FROM relays y WHERE y.host_id = h.host_id)
	FROM assets a JOIN hosts_now h ON h.asset_id = a.id LEFT JOIN resting q ON q.host_id = a.seen_host
	LEFT JOIN branches k ON k.id = a.keeper LEFT JOIN branches w ON w.id = a.waiting `

type assetRow struct {
	id        int64
	created   time.Time
	a         asset
	pending   bool
	conflicts int
	host      HostDetail
	marks     marks
	route     []hostid.ID
	relay     bool
}

func scanAssetRow(scan func(...any) error) (r assetRow, err error) {
	var created int64
	var factsText, seenText, seenHost, clock, host, route string
	var seenAt, enrolled, last sql.NullInt64
	var replacedBy, copyOf, token sql.NullString
	err = scan(&r.id, &created, &factsText, &seenText, &seenHost, &seenAt, &clock, &r.pending, &r.conflicts,
		&host, &enrolled, &replacedBy, &copyOf, &token, &last, &r.host.Blocked, &r.host.BlockedBranches, &r.host.Epochs, &r.host.Branches,
		&r.marks.deleted, &r.marks.archived, &r.marks.retired, &r.marks.succeeded, &route, &r.relay)
	if err != nil {
		return r, err
	}
	r.created = fromMillis(created)
	r.host.Succeeded = r.marks.succeeded != 0
	r.host.Enrolled, r.host.LastCheckin = fromNullTime(enrolled), fromNullTime(last)
	r.host.ReplacedBy, r.host.CopyOf, r.host.Token = replacedBy.String, copyOf.String, token.String
	if r.host.HostID, err = hostid.ParseID(host); err != nil {
		return r, err
	}
	if r.route, err = parseRoute(route); err != nil {
		return r, err
	}
	r.a.id, r.a.seenAt = r.id, fromNullTime(seenAt)
	err = r.a.decode(factsText, seenText, seenHost)
	if clock != "" {
		r.a.seen.Time = clock
	}
	return r, err
}

func (r *Registry) details(rows []assetRow, attempts map[int64]lastAttempt, inForce map[int64]Maintenance) []AssetDetail {
	now := r.now()
	var all []AssetDetail
	var hosts [][]assetRow // of each, but for those of predecessors
	for i, row := range rows {
		if i == 0 || rows[i-1].id != row.id {
			d := AssetDetail{
				Asset: Asset{HostID: row.a.seenHost, Name: row.a.seen.Name, Conflicts: row.conflicts, Seen: row.a.seen},
				Facts: hardware.Facts(row.a.facts), Created: row.created, Open: []Conflict{},
			}
			var last *lastAttempt
			if l, ok := attempts[row.id]; ok {
				last, d.Initialization = &l, &l.Initialization
			}
			d.Initialized = initialized(row.a.seen.initialized(), row.a.seenAt, last)
			end := i + 1
			for end < len(rows) && rows[end].id == row.id {
				end++
			}
			own := ownHosts(rows[i:end], func(r assetRow) int64 { return r.marks.succeeded })
			for _, h := range own {
				d.LastCheckin = later(d.LastCheckin, h.host.LastCheckin)
			}
			d.Predecessors = predecessors(rows[i:end], inForce)
			all, hosts = append(all, d), append(hosts, own)
		}
		d := &all[len(all)-1]
		d.Hosts = append(d.Hosts, row.host)
		if row.host.HostID == d.HostID {
			d.Route, d.Relay = row.route, row.relay
		}
		switch {
		case row.host.Blocked && (row.host.HostID == d.HostID || d.HostID.IsZero()):
			d.State = Blocked
		case d.State == Blocked: // by the host that it is seen as
		case d.Conflicts > 0:
			d.State = InConflict
		case row.pending:
			d.State = Pending
		case r.live(d.LastCheckin, now):
			d.State = Live
		default:
			d.State = Silent
		}
	}
	for i := range all {
		d := &all[i]
		if d.HostID.IsZero() { // its only reports so far were deltas or came from another board
			d.HostID = hosts[i][0].host.HostID
		}
		if hidden, id := hiddenBy(marksOf(hosts[i])); hidden != "" {
			d.State = hidden
			if m, ok := inForce[id]; ok {
				d.Maintenance, d.HeardSince = &m, hidden == Retired && d.LastCheckin.After(m.Made)
			}
		}
		d.HostIDs = append(d.HostIDs, d.HostID)
		for _, h := range d.Hosts {
			if h.HostID != d.HostID {
				d.HostIDs = append(d.HostIDs, h.HostID)
			}
		}
	}
	return all
}

// Assets returns every asset, the oldest first, also those that are retired or archived (State.Listed), but none that is
// deleted.
func (r *Registry) Assets(ctx context.Context) ([]AssetDetail, error) {
	all, err := r.allAssets(ctx)
	return slices.DeleteFunc(all, func(d AssetDetail) bool { return d.State == Deleted }), err
}

func (r *Registry) allAssets(ctx context.Context) ([]AssetDetail, error) {
	rows, err := scanAll(ctx, r.readers, scanAssetRow, assetColumns+`ORDER BY a.id, COALESCE(h.enrolled, 0), h.host_id`)
	if err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	inForce, err := r.inForce(ctx, rows)
	if err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	attempts, err := r.lastAttempts(ctx, hostid.ID{})
	if err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	return r.details(rows, attempts, inForce), nil
}

// Asset returns the asset that a host ID belongs to, an alias included, also one that is deleted; ErrUnknown if there is none.
func (r *Registry) Asset(ctx context.Context, id hostid.ID) (AssetDetail, error) {
	rows, err := scanAll(ctx, r.readers, scanAssetRow,
		assetColumns+`WHERE a.id = (SELECT asset_id FROM hosts WHERE host_id = $1) ORDER BY COALESCE(h.enrolled, 0), h.host_id`, id.String())
	if err != nil {
		return AssetDetail{}, fmt.Errorf("asset: %w", err)
	}
	if len(rows) == 0 {
		return AssetDetail{}, fmt.Errorf("host ID %s: %w", id, ErrUnknown)
	}
	attempts, err := r.lastAttempts(ctx, id)
	if err != nil {
		return AssetDetail{}, fmt.Errorf("asset: %w", err)
	}
	inForce, err := r.inForce(ctx, rows)
	if err != nil {
		return AssetDetail{}, fmt.Errorf("asset: %w", err)
	}
	d := r.details(rows, attempts, inForce)[0]
	if err := r.comments(ctx, d.Predecessors); err != nil {
		return AssetDetail{}, fmt.Errorf("asset: %w", err)
	}
	open, err := r.conflicts(ctx, `WHERE c.asset_id = $1 AND c.closed IS NULL`, rows[0].id)
	d.Open = append(d.Open, open...)
	return d, err
}

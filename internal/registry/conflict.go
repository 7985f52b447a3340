package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// Conflict is something about identity that has to be decided, or was. The meaning of its JSON names never changes.
type Conflict struct {
	ID       int64           `json:"id"`
	Kind     string          `json:"kind"` // other-key, other-board, same-board, overlap, replacement, observed, duplicate
	HostID   hostid.ID       `json:"host_id"`
	Other    hostid.ID       `json:"other_host_id,omitzero"` // the other host that it is about
	Status   Status          `json:"status"`
	ParkedBy int64           `json:"parked_by,omitzero"` // the deletion that has to be taken back before it can be decided
	Opened   time.Time       `json:"opened"`
	Closed   time.Time       `json:"closed,omitzero"`
	Fields   []Field         `json:"fields"`   // what clashes, one for each fact; empty where it is not about hardware
	Proposal Proposal        `json:"proposal"` // what a rule does, or would do
	Verbs    []Verb          `json:"verbs"`    // those that make sense now
	Decided  []Resolution    `json:"resolutions"`
	Copies   []hostid.ID     `json:"copies"` // hosts that say they are copies of these
	Evidence json.RawMessage `json:"evidence"`
}

// Status says how a conflict stands.
type Status string

// The states of a conflict.
const (
	Waiting Status = "open"    // for somebody to decide
	Ordered Status = "ordered" // decided; closes when the PCs have acknowledged
	Closed  Status = "closed"
	Parked  Status = "parked" // open, but about an asset that was deleted since; it is asked again when that is restored
)

// Field compares what was known with what was reported, for one fact.
type Field struct {
	Fact     string `json:"fact"` // hostid.Fact: system_uuid, ...
	State    string `json:"state"`
	Known    string `json:"known"`
	Reported string `json:"reported"`
}

// The states of a Field.
const (
	Equal         = "equal"
	Different     = "different"
	IsPlaceholder = "placeholder" // at least one side has a value that proves nothing
	IsUnknown     = "unknown"
)

// Proposal is what a rule decides, or would decide if it were allowed to.
type Proposal struct {
	Verb Verb   `json:"verb"`           // "": none; only an operator can tell
	Rule string `json:"rule,omitempty"` // a rule that can be set (Rules)
	Mode Mode   `json:"mode,omitempty"` // that rule's, when it last looked
	Why  string `json:"why"`            // a word; Sentence tells it
}

// Sentence says what the proposal is, and why.
func (p Proposal) Sentence(l Language) string {
	b, _ := json.Marshal(p)
	if p.Why == "" {
		return sentence("proposal-open", hostid.ID{}, b, l)
	}
	if p.Verb == "" {
		return sentence("proposal-none", hostid.ID{}, b, l)
	}
	return sentence("proposal", hostid.ID{}, b, l)
}

// Resolution is one decision about a conflict.
type Resolution struct {
	ID       int64     `json:"id"`
	Conflict int64     `json:"conflict"`
	Verb     Verb      `json:"verb"`
	Who      string    `json:"who"` // an operator, or "rule " and its name
	Made     time.Time `json:"made"`
	Undone   time.Time `json:"undone,omitzero"`
	UndoneBy string    `json:"undone_by,omitempty"`
	Orders   []Order   `json:"orders"`
}

// Sentence says in one sentence what the conflict is about.
func (c Conflict) Sentence(l Language) string {
	kind := "conflict-" + c.Kind
	var e struct {
		Why string
	}
	if json.Unmarshal(c.Evidence, &e) == nil {
		switch e.Why {
		case "overlap-shared":
			kind = "conflict-overlap-shared"
		case "copied":
			kind = "conflict-observed-copied"
		}
	}
	return sentence(kind, c.HostID, c.Evidence, l)
}

// Conflicts returns the open conflicts, those that wait for an acknowledgement included, the oldest first; not those that are
// parked.
func (r *Registry) Conflicts(ctx context.Context) ([]Conflict, error) {
	return r.conflicts(ctx, `WHERE `+asked)
}

// ClosedConflicts returns the last of those that were closed, the one closed last first.
func (r *Registry) ClosedConflicts(ctx context.Context, limit int) ([]Conflict, error) {
	all, err := r.conflicts(ctx, `WHERE c.id IN (SELECT id FROM conflicts WHERE closed IS NOT NULL ORDER BY closed DESC, id DESC LIMIT $1)`, limit)
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b Conflict) int { return b.Closed.Compare(a.Closed) })
	return all, err
}

// Conflict returns one conflict; ErrUnknown if there is none.
func (r *Registry) Conflict(ctx context.Context, id int64) (Conflict, error) {
	all, err := r.conflicts(ctx, `WHERE c.id = $1`, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("conflict %d: %w", id, ErrUnknown)
	}
	if err != nil {
		return Conflict{}, err
	}
	return all[0], nil
}

// conflicts reads the conflicts that fulfil a condition on c.
func (r *Registry) conflicts(ctx context.Context, where string, args ...any) ([]Conflict, error) {
	rows, err := scanAll(ctx, r.readers, scanConflict, conflictColumns+where+` ORDER BY c.id`, args...)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	marks, err := readPlaceholders(ctx, r.readers)
	if err != nil {
		return nil, err
	}
	decided, err := r.resolutions(ctx, `JOIN conflicts c ON c.id = r.conflict_id `+where, args...)
	if err != nil {
		return nil, err
	}
	type lineage struct {
		conflict int64
		host     string
	}
	copies, err := scanAll(ctx, r.readers, func(scan func(...any) error) (l lineage, err error) { return l, scan(&l.conflict, &l.host) },
		`SELECT c.id, h.host_id FROM conflicts c JOIN hosts h ON h.copy_of = c.host_id `+where+`
		UNION SELECT c.id, h.host_id FROM conflicts c JOIN hosts h ON h.copy_of = c.other_host `+where+` ORDER BY 1, 2`, args...)
	if err != nil {
		return nil, err
	}
	var all []Conflict
	at := map[int64]int{}
	for _, row := range rows {
		c := Conflict{
			ID: row.id, Kind: row.kind, HostID: row.host, Other: row.otherHost, Status: Waiting, Opened: row.opened, Closed: row.closed,
			Fields: []Field{}, Verbs: row.verbs(), Decided: []Resolution{}, Copies: []hostid.ID{}, Evidence: json.RawMessage(row.evidence),
			Proposal: Proposal{row.proposal.Verb, row.proposal.Rule, row.proposal.Mode, row.proposal.Why}, ParkedBy: row.parkedBy,
		}
		switch {
		case !row.closed.IsZero():
			c.Status = Closed
		case row.resolution != 0:
			c.Status = Ordered
		case row.parkedBy != 0:
			c.Status = Parked
		}
		if strings.Contains(row.evidence, `"reported"`) {
			c.Fields = compareFields(row, marks)
		}
		at[row.id] = len(all)
		all = append(all, c)
	}
	for _, d := range decided {
		if i, ok := at[d.Conflict]; ok {
			all[i].Decided = append(all[i].Decided, d)
		}
	}
	for _, l := range copies {
		id, err := hostid.ParseID(l.host)
		if err != nil {
			return nil, err
		}
		if i, ok := at[l.conflict]; ok {
			all[i].Copies = append(all[i].Copies, id)
		}
	}
	return all, nil
}

func compareFields(row conflictRow, marks hardware.Placeholders) []Field {
	known, reported := row.sides()
	x, y := known.EvidenceWithout(marks), reported.EvidenceWithout(marks)
	rawX, rawY := rawValues(known), rawValues(reported)
	var fields []Field
	for f := range hostid.Fact(hostid.NumFacts) {
		c := Field{Fact: f.String(), Known: x[f], Reported: y[f]}
		switch {
		case x[f] != "" && x[f] == y[f]:
			c.State = Equal
		case x[f] != "" && y[f] != "":
			c.State = Different
		case x[f] == "" && rawX[f] != "" || y[f] == "" && rawY[f] != "":
			c.State = IsPlaceholder
		default:
			c.State = IsUnknown
		}
		if c.Known == "" {
			c.Known = rawX[f]
		}
		if c.Reported == "" {
			c.Reported = rawY[f]
		}
		fields = append(fields, c)
	}
	return fields
}

// rawValues are the facts as they were reported, where evidence would come from.
func rawValues(f hardware.Facts) hostid.Evidence {
	e := hostid.Evidence{f.SystemUUID, f.BoardSerial, "", f.SystemSerial, f.ChassisSerial, "", f.TPMEKSHA256}
	for _, n := range f.NICs {
		if n.Onboard && n.Permanent && e[hostid.OnboardMAC] == "" {
			e[hostid.OnboardMAC] = n.MAC
		}
	}
	for _, d := range f.Disks {
		if d.System && e[hostid.DiskSerial] == "" {
			e[hostid.DiskSerial] = d.Serial
		}
	}
	return e
}

// resolutions reads resolutions r with their orders, the oldest first.
func (r *Registry) resolutions(ctx context.Context, where string, args ...any) ([]Resolution, error) {
	all, err := scanAll(ctx, r.readers, func(scan func(...any) error) (d Resolution, err error) {
		var made int64
		var undone sql.NullInt64
		err = scan(&d.ID, &d.Conflict, (*string)(&d.Verb), &d.Who, &made, &undone, &d.UndoneBy)
		d.Made, d.Undone, d.Orders = fromMillis(made), fromNullTime(undone), []Order{}
		return d, err
	}, `SELECT r.id, r.conflict_id, r.verb, r.who, r.made, r.undone, r.undone_by FROM resolutions r `+where+` ORDER BY r.id`, args...)
	if err != nil {
		return nil, err
	}
	at := map[int64]int{}
	for i, d := range all {
		at[d.ID] = i
	}
	type of struct {
		resolution int64
		order      Order
	}
	orders, err := scanAll(ctx, r.readers, func(scan func(...any) error) (o of, err error) {
		o.order, err = scanOrder(func(dest ...any) error { return scan(append(dest, &o.resolution)...) })
		return o, err
	}, orderOfResolution+where+` ORDER BY o.issued, o.id`, args...)
	for _, o := range orders {
		if i, ok := at[o.resolution]; ok {
			all[i].Orders = append(all[i].Orders, o.order)
		}
	}
	return all, err
}

// Preview is what a verb would do to a conflict.
type Preview struct {
	Conflict int64          `json:"conflict"`
	Verb     Verb           `json:"verb"`
	Before   []PreviewAsset `json:"before"` // the assets concerned, as they are
	After    []PreviewAsset `json:"after"`  // as they would be, before any PC has done anything
	Orders   []PreviewOrder `json:"orders"` // what PCs would be told with their next reports
	Blocked  []hostid.ID    `json:"blocked"`
}

// PreviewAsset is an asset in a Preview.
type PreviewAsset struct {
	Name    string         `json:"name"`
	HostIDs []hostid.ID    `json:"host_ids"`
	FactsOf hostid.ID      `json:"facts_of,omitzero"` // the host ID whose facts stay
	Facts   hardware.Facts `json:"facts"`
}

// PreviewOrder is an order in a Preview.
type PreviewOrder struct {
	Kind   checkin.OrderKind `json:"kind"`
	HostID hostid.ID         `json:"host_id"`
	Lines  int               `json:"lines"` // so many systems that report under that host ID
	Other  hostid.ID         `json:"other,omitzero"`
	Joins  bool              `json:"joins,omitzero"` // what it leads to is grouped with the host ID afterwards
}

var errPreview = errors.New("preview")

// Preview says what Resolve would do, and changes nothing. It fails as Resolve does.
func (r *Registry) Preview(ctx context.Context, conflict int64, verb Verb) (Preview, error) {
	p := Preview{Conflict: conflict, Verb: verb, Orders: []PreviewOrder{}, Blocked: []hostid.ID{}}
	err := r.decide(ctx, func(t *transaction) error {
		c, err := t.conflictRow(conflict)
		if err != nil {
			return err
		}
		if p.Before, err = t.previewAssets(c); err != nil {
			return err
		}
		id, err := t.resolve(c, verb, "preview", "")
		if err != nil {
			return err
		}
		if p.After, err = t.previewAssets(c); err != nil {
			return err
		}
		p.Orders, err = collect(t, func(scan func(...any) error) (o PreviewOrder, err error) {
			var host, other string
			if err := scan((*string)(&o.Kind), &host, &other, &o.Joins, &o.Lines); err != nil {
				return o, err
			}
			if o.HostID, err = hostid.ParseID(host); err == nil {
				o.Other, err = parseID(other)
			}
			return o, err
		}, `SELECT kind, host_id, other, joins, COUNT(*) FROM demands WHERE resolution = $1 AND ended IS NULL GROUP BY kind, host_id, other, joins ORDER BY kind, host_id`, id)
		if err != nil {
			return err
		}
		p.Blocked, err = collect(t, func(scan func(...any) error) (id hostid.ID, err error) {
			var host string
			if err := scan(&host); err != nil {
				return id, err
			}
			return hostid.ParseID(host)
		}, `SELECT DISTINCT host_id FROM blocks WHERE resolution = $1 ORDER BY host_id`, id)
		if err != nil {
			return err
		}
		return errPreview // what it did is taken back with the transaction
	})
	if !errors.Is(err, errPreview) {
		return Preview{}, err
	}
	return p, nil
}

// previewAssets are the assets that a conflict is about.
func (t *transaction) previewAssets(c conflictRow) ([]PreviewAsset, error) {
	all := []PreviewAsset{}
	seen := map[int64]bool{}
	for _, id := range []hostid.ID{c.host, c.otherHost, c.observedOther()} {
		h, known, err := t.host(id)
		if err != nil {
			return nil, err
		}
		if !known || seen[h.asset] {
			continue
		}
		seen[h.asset] = true
		a, err := t.asset(h.asset)
		if err != nil {
			return nil, err
		}
		hosts, err := t.hostsOf(h.asset)
		if err != nil {
			return nil, err
		}
		p := PreviewAsset{Name: a.seen.Name, HostIDs: []hostid.ID{}, FactsOf: a.keepHost, Facts: hardware.Facts(a.facts)}
		for _, text := range hosts {
			id, err := hostid.ParseID(text)
			if err != nil {
				return nil, err
			}
			p.HostIDs = append(p.HostIDs, id)
		}
		all = append(all, p)
	}
	return all, nil
}

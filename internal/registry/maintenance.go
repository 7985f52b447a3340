package registry

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

// What is done here to an asset erases and moves nothing: it marks hosts, and whoever reads leaves out or tells what is
// marked. So taking a mark away restores exactly what would be there without it. docs/decisions/0033-maintenance.md.

// The states of assets that are kept out of sight, in the order in which they go before each other and before all others.
const (
	Deleted  State = "deleted"  // in no list; Deletions has it
	Retired  State = "retired"  // the PC left, as an operator said; only an operator takes that back
	Archived State = "archived" // silent for long; its next report takes that back
)

// Listed reports whether an asset in this state is in a list that does not ask for others.
func (s State) Listed() bool { return s != Deleted && s != Retired && s != Archived }

// Trigger says what had something done to an asset.
type Trigger string

// The triggers.
const (
	ByCommand  Trigger = "command"
	ByAPI      Trigger = "api"
	BySchedule Trigger = "schedule"
	ByCheckIn  Trigger = "check-in" // ends deletions and archiving
)

// Actor is who does something, and how.
type Actor struct {
	Who     string // as the history calls him
	Trigger Trigger
}

// MaintenanceKind is what can be done to an asset.
type MaintenanceKind string

// The kinds.
const (
	Deletion    MaintenanceKind = "delete"
	Archiving   MaintenanceKind = "archive"
	Retirement  MaintenanceKind = "retire"
	Replacement MaintenanceKind = "replace" // another PC succeeded it
)

// Maintenance is one thing that was done to an asset. The meaning of its JSON names never changes.
type Maintenance struct {
	ID           int64           `json:"id"`
	Kind         MaintenanceKind `json:"kind"`
	HostID       hostid.ID       `json:"host_id"`                 // that named the asset
	Successor    hostid.ID       `json:"successor,omitzero"`      // replace: the host ID that named the other asset
	HostIDs      []hostid.ID     `json:"host_ids"`                // all that the asset had then
	Name         string          `json:"name"`                    // that it had then
	LastCheckin  time.Time       `json:"last_checkin,omitzero"`   // until then
	Made         time.Time       `json:"made"`                    //
	Trigger      Trigger         `json:"trigger"`                 //
	Who          string          `json:"who"`                     // "" for the schedule
	Heard        time.Time       `json:"heard,omitzero"`          // retire, replace: the first check-in afterwards
	Ended        time.Time       `json:"ended,omitzero"`          // zero: in force
	EndedTrigger Trigger         `json:"ended_trigger,omitempty"` //
	EndedBy      string          `json:"ended_by,omitempty"`      // "" for a check-in
	Grouping     int64           `json:"grouping,omitzero"`       // replace: it joined the assets
}

// Predecessor is an asset whose place another PC took.
type Predecessor struct {
	Maintenance
	Comment   string    `json:"comment,omitempty"`   // of its line in an imported system configuration information file
	LastHeard time.Time `json:"last_heard,omitzero"` // also after it was succeeded
}

// What maintenance can fail with besides ErrUnknown and errors of the database.
var (
	ErrState     = errors.New("the asset is not in a state for that")
	ErrSucceeded = errors.New("another PC took its place") // what is meant, the asset or its predecessor?
	ErrClash     = errors.New("an open conflict asks whether these are one PC")
)

const maintenanceColumns = `SELECT m.id, m.kind, m.host_id, m.other, m.host_ids, m.name, m.last_checkin, m.cause, m.who, m.made, COALESCE(m.grouping, 0), m.heard,
	m.ended, m.ended_cause, m.ended_by FROM maintenance m `

func scanMaintenance(scan func(...any) error) (m Maintenance, err error) {
	var host, other, hosts string
	var made int64
	var last, heard, ended sql.NullInt64
	err = scan(&m.ID, (*string)(&m.Kind), &host, &other, &hosts, &m.Name, &last, (*string)(&m.Trigger), &m.Who, &made, &m.Grouping, &heard,
		&ended, (*string)(&m.EndedTrigger), &m.EndedBy)
	if err != nil {
		return m, err
	}
	m.LastCheckin, m.Made, m.Heard, m.Ended = fromNullTime(last), fromMillis(made), fromNullTime(heard), fromNullTime(ended)
	if err := json.Unmarshal([]byte(hosts), &m.HostIDs); err != nil {
		return m, fmt.Errorf("host IDs of maintenance %d: %w", m.ID, err)
	}
	var errs [2]error
	m.HostID, errs[0] = hostid.ParseID(host)
	m.Successor, errs[1] = parseID(other)
	return m, errors.Join(errs[:]...)
}

// column is that of hosts which marks this kind.
func (k MaintenanceKind) column() string {
	return map[MaintenanceKind]string{Deletion: "deleted", Archiving: "archived", Retirement: "retired", Replacement: "succeeded"}[k]
}

// marks are the maintenance in force for one host; 0: none.
type marks struct{ deleted, archived, retired, succeeded int64 }

// Deletions returns the deletion history, the oldest first; those that were taken back are in it.
func (r *Registry) Deletions(ctx context.Context) ([]Maintenance, error) {
	return scanAll(ctx, r.readers, scanMaintenance, maintenanceColumns+`WHERE m.kind = 'delete' ORDER BY m.id`)
}

// Delete takes the asset that a host ID belongs to out of every list, and into the deletion history. Nothing of it is
// erased. The open conflicts about it are parked until it is restored. It fails with ErrUnknown, ErrState if it is deleted, and ErrSucceeded if the host ID is a predecessor's.
func (r *Registry) Delete(ctx context.Context, id hostid.ID, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		a, err := t.maintained(id)
		if err != nil {
			return err
		}
		if a.hidden(Deleted) {
			return fmt.Errorf("host ID %s: %w: it is deleted already", id, ErrState)
		}
		m, err = t.mark(a, Deletion, hostid.ID{}, by)
		if err != nil {
			return err
		}
		return t.recordBy(id, "deleted", by, map[string]any{"name": a.name, "deletion": m.ID, "host_ids": m.HostIDs})
	})
	return m, err
}

// Restore takes back that an asset was deleted, else that it was archived. It fails with ErrUnknown, and with ErrState if it
// is neither.
func (r *Registry) Restore(ctx context.Context, id hostid.ID, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		a, err := t.maintained(id)
		if errors.Is(err, ErrSucceeded) {
			err = nil // together with its successor
		}
		if err != nil {
			return err
		}
		for _, kind := range []MaintenanceKind{Deletion, Archiving} {
			for _, h := range a.hosts {
				if n := h.marks.of(kind); n != 0 {
					m, err = t.restore(n, by)
					return err
				}
			}
		}
		return fmt.Errorf("host ID %s: %w: it is neither deleted nor archived", id, ErrState)
	})
	return m, err
}

// RestoreDeletion takes back the deletion of that number. It fails with ErrUnknown, and with ErrState if it is not in force.
func (r *Registry) RestoreDeletion(ctx context.Context, number int64, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		kind := ""
		known, err := t.get(`SELECT kind FROM maintenance WHERE id = $1`, []any{number}, []any{&kind})
		switch {
		case err != nil:
			return err
		case !known || kind != string(Deletion):
			return fmt.Errorf("deletion %d: %w", number, ErrUnknown)
		}
		m, err = t.restore(number, by)
		return err
	})
	return m, err
}

func (t *transaction) restore(number int64, by Actor) (Maintenance, error) {
	m, err := t.unmark(number, by)
	if err != nil {
		return m, err
	}
	kind := "restored"
	if m.Kind == Archiving {
		kind = "unarchived"
	}
	return m, t.recordBy(m.HostID, kind, by, map[string]any{"name": m.Name, "deletion": m.ID})
}

// Retire says that the PC of an asset leaves. It is served as before, if it should report, and stays retired until Unretire.
// It fails with ErrUnknown, ErrState if it is deleted or retired, and ErrSucceeded if the host ID is a predecessor's.
func (r *Registry) Retire(ctx context.Context, id hostid.ID, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		a, err := t.maintained(id)
		if err != nil {
			return err
		}
		if a.hidden(Deleted) || a.hidden(Retired) {
			return fmt.Errorf("host ID %s: %w: it is %s already", id, ErrState, a.state())
		}
		m, err = t.mark(a, Retirement, hostid.ID{}, by)
		if err != nil {
			return err
		}
		return t.recordBy(id, "retired", by, map[string]any{"name": a.name})
	})
	return m, err
}

// Unretire takes back that the PC left. It fails with ErrUnknown, and with ErrState if it was not retired.
func (r *Registry) Unretire(ctx context.Context, id hostid.ID, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		a, err := t.maintained(id)
		if err != nil {
			return err
		}
		if !a.hidden(Retired) {
			return fmt.Errorf("host ID %s: %w: it is not retired", id, ErrState)
		}
		m = Maintenance{}
		for _, h := range a.own() {
			if n := h.marks.retired; n != 0 && n != m.ID {
				if m, err = t.unmark(n, by); err != nil {
					return err
				}
			}
		}
		return t.recordBy(id, "unretired", by, map[string]any{"name": a.name})
	})
	return m, err
}

// Replace says that another PC takes the place of one that leaves: the asset of successor has the host IDs and the history
// of the asset of old from now on, and nothing that the old PC reports changes what is known of the new one. Both may be
// alive at the same time. It fails with ErrUnknown, with ErrState if one of them is deleted, the successor is retired, or
// both are one asset, with ErrSucceeded if one of the host IDs is a predecessor's, and with ErrClash if an open conflict
// asks whether they are one PC.
func (r *Registry) Replace(ctx context.Context, old, successor hostid.ID, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		a, err := t.maintained(old)
		if err != nil {
			return err
		}
		b, err := t.maintained(successor)
		if err != nil {
			return err
		}
		switch {
		case a.id == b.id:
			return fmt.Errorf("host IDs %s and %s: %w: they are one asset", old, successor, ErrState)
		case a.hidden(Deleted):
			return fmt.Errorf("host ID %s: %w: it is deleted; restore it first", old, ErrState)
		case b.hidden(Deleted):
			return fmt.Errorf("host ID %s: %w: it is deleted; restore it first", successor, ErrState)
		case b.hidden(Retired):
			return fmt.Errorf("host ID %s: %w: it is retired, and nothing's successor; take that back first", successor, ErrState)
		}
		var clash int64
		open, err := t.get(`SELECT id FROM conflicts WHERE closed IS NULL AND (asset_id = $1 AND other_asset = $2 OR asset_id = $2 AND other_asset = $1) ORDER BY id LIMIT 1`,
			[]any{a.id, b.id}, []any{&clash})
		if err != nil {
			return err
		}
		if open {
			return fmt.Errorf("conflict %d: %w; decide it first", clash, ErrClash)
		}
		if m, err = t.mark(a, Replacement, successor, by); err != nil {
			return err
		}
		if m.Grouping, err = t.group(a.id, b.id, byOperator); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE maintenance SET grouping = $1 WHERE id = $2`, m.Grouping, m.ID); err != nil {
			return err
		}
		evidence := map[string]any{"old": old, "new": successor, "old_name": a.name, "new_name": b.name, "grouping": m.Grouping}
		return t.recordBy(old, "succeeded", by, evidence)
	})
	return m, err
}

// UndoReplace takes back that another PC took the place of the one that a host ID is of. It fails with ErrUnknown, and with
// ErrState if none did.
func (r *Registry) UndoReplace(ctx context.Context, old hostid.ID, by Actor) (m Maintenance, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		h, known, err := t.host(old)
		switch {
		case err != nil:
			return err
		case !known:
			return fmt.Errorf("host ID %s: %w", old, ErrUnknown)
		case h.marks.succeeded == 0:
			return fmt.Errorf("host ID %s: %w: no other PC took its place", old, ErrState)
		}
		if m, err = t.unmark(h.marks.succeeded, by); err != nil {
			return err
		}
		if err := t.ungroup(m.Grouping); err != nil {
			return err
		}
		if _, _, err := t.regroup(h.asset); err != nil { // where the grouping had ended before
			return err
		}
		return t.recordBy(old, "unsucceeded", by, map[string]any{"old": m.HostID, "new": m.Successor})
	})
	return m, err
}

// maintainedAsset is an asset with its hosts, as maintenance looks at it.
type maintainedAsset struct {
	id    int64
	name  string
	hosts []host
}

// maintained is the asset of a host. ErrSucceeded comes with it: the host is a predecessor's.
func (t *transaction) maintained(id hostid.ID) (a maintainedAsset, err error) {
	h, known, err := t.host(id)
	if err == nil && !known {
		err = fmt.Errorf("host ID %s: %w", id, ErrUnknown)
	}
	if err != nil {
		return a, err
	}
	if a, err = t.maintainedByID(h.asset); err == nil && h.marks.succeeded != 0 {
		err = fmt.Errorf("host ID %s: %w: name a host ID of that one, or undo the replacement", id, ErrSucceeded)
	}
	return a, err
}

func (t *transaction) maintainedByID(id int64) (a maintainedAsset, err error) {
	is, err := t.asset(id)
	if err != nil {
		return a, err
	}
	a.id, a.name = id, is.seen.Name
	a.hosts, err = collect(t, scanHost, hostColumns+`WHERE asset_id = $1 ORDER BY host_id`, id)
	return a, err
}

// own are the hosts of the asset but for those of predecessors.
func (a maintainedAsset) own() []host {
	return ownHosts(a.hosts, func(h host) int64 { return h.marks.succeeded })
}

// ownHosts leaves predecessors' hosts out, unless there are no others.
func ownHosts[H any](all []H, succeeded func(H) int64) []H {
	own := slices.DeleteFunc(slices.Clone(all), func(h H) bool { return succeeded(h) != 0 })
	if len(own) == 0 {
		return all
	}
	return own
}

func (a maintainedAsset) hidden(s State) bool { return a.state() == s || s == Retired && a.isRetired() }

func (a maintainedAsset) isRetired() bool {
	return slices.ContainsFunc(a.own(), func(h host) bool { return h.marks.retired != 0 })
}

// state is Deleted, Retired, Archived, or "" for what is in sight.
func (a maintainedAsset) state() State {
	var all []marks
	for _, h := range a.own() {
		all = append(all, h.marks)
	}
	state, _ := hiddenBy(all)
	return state
}

// hiddenBy says by which maintenance an asset with these hosts of its own is out of sight; "" if it is not. Deleted or
// archived is an asset of which nothing else is in sight: what joined it since shows it. Retired it is as soon as one of its
// hosts is: that a PC left is not taken back by its coming again.
func hiddenBy(hosts []marks) (State, int64) {
	deleted, archived, retired := int64(0), int64(0), int64(0)
	allDeleted, allArchived := len(hosts) > 0, len(hosts) > 0
	for _, h := range hosts {
		deleted, archived, retired = max(deleted, h.deleted), max(archived, h.archived), max(retired, h.retired)
		allDeleted, allArchived = allDeleted && h.deleted != 0, allArchived && h.archived != 0
	}
	switch {
	case allDeleted:
		return Deleted, deleted
	case retired != 0:
		return Retired, retired
	case allArchived:
		return Archived, archived
	}
	return "", 0
}

// parkedBy is, in SQL, the number of the deletion that parks an open conflict c, or NULL: one of the two assets that it is about
// is deleted, and it was open then. What comes up after a deletion is asked all the same: a PC that comes back without proof
// must not become a stranger. Nothing is done to what is parked, by nobody, but for what settles by itself; so it is as it
// would be when the asset is restored.
const parkedBy = `(SELECT MAX(m.id) FROM hosts v JOIN maintenance m ON m.id = v.deleted WHERE v.asset_id IN (c.asset_id, c.other_asset) AND c.id <= m.conflict
	AND NOT EXISTS (SELECT 1 FROM hosts s WHERE s.asset_id = v.asset_id AND s.deleted IS NULL AND s.succeeded IS NULL))`

// asked is, in SQL: conflict c is open and not parked.
const asked = `(c.closed IS NULL AND ` + parkedBy + ` IS NULL)`

func (m marks) of(kind MaintenanceKind) int64 {
	return map[MaintenanceKind]int64{Deletion: m.deleted, Archiving: m.archived, Retirement: m.retired, Replacement: m.succeeded}[kind]
}

// mark puts a maintenance in force for all hosts of an asset that are not under one of that kind: of its own hosts what is
// about the PC, of predecessors' hosts too what is about the asset.
func (t *transaction) mark(a maintainedAsset, kind MaintenanceKind, other hostid.ID, by Actor) (Maintenance, error) {
	m := Maintenance{Kind: kind, Successor: other, Name: a.name, Made: t.now, Trigger: by.Trigger, Who: by.Who}
	hosts := a.hosts
	if kind == Retirement || kind == Archiving {
		hosts = a.own()
	}
	var latest host
	for _, h := range hosts {
		m.HostIDs = append(m.HostIDs, h.id)
		if m.LastCheckin.Before(h.last) || latest.id.IsZero() {
			m.LastCheckin, latest = h.last, h
		}
	}
	m.HostID = latest.id
	var err error
	t.conflictsChanged = true // a deletion parks some
	m.ID, err = t.insert(`INSERT INTO maintenance (kind, host_id, other, host_ids, name, last_checkin, cause, who, made, conflict)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, (SELECT COALESCE(MAX(id), 0) FROM conflicts))`,
		string(kind), m.HostID.String(), idText(other), toJSON(m.HostIDs), m.Name, nullTime(m.LastCheckin), string(by.Trigger), by.Who, millis(t.now))
	if err != nil {
		return m, err
	}
	for _, h := range hosts {
		if h.marks.of(kind) != 0 {
			continue
		}
		if err := t.wake(`host_id = $1`, h.id.String()); err != nil {
			return m, err
		}
		if _, err := t.exec(`UPDATE hosts SET `+kind.column()+` = $1 WHERE host_id = $2`, m.ID, h.id.String()); err != nil {
			return m, err
		}
	}
	return m, nil
}

// unmark ends a maintenance.
func (t *transaction) unmark(id int64, by Actor) (Maintenance, error) {
	all, err := collect(t, scanMaintenance, maintenanceColumns+`WHERE m.id = $1`, id)
	if err == nil && len(all) == 0 {
		err = ErrUnknown
	}
	if err != nil {
		return Maintenance{}, fmt.Errorf("maintenance %d: %w", id, err)
	}
	m := all[0]
	if !m.Ended.IsZero() {
		return m, fmt.Errorf("%s %d: %w: it has ended already", m.Kind, id, ErrState)
	}
	t.conflictsChanged = true // those that a deletion parked are asked again
	assets, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT DISTINCT asset_id FROM hosts WHERE `+m.Kind.column()+` = $1`, id)
	if err != nil {
		return m, err
	}
	for _, a := range assets {
		if err := t.wakeAsset(a); err != nil {
			return m, err
		}
	}
	m.Ended, m.EndedTrigger, m.EndedBy = t.now, by.Trigger, by.Who
	if _, err := t.exec(`UPDATE maintenance SET ended = $1, ended_cause = $2, ended_by = $3 WHERE id = $4`, millis(t.now), string(by.Trigger), by.Who, id); err != nil {
		return m, err
	}
	_, err = t.exec(`UPDATE hosts SET `+m.Kind.column()+` = NULL WHERE `+m.Kind.column()+` = $1`, id)
	return m, err
}

// recordBy is record for what somebody did.
func (t *transaction) recordBy(id hostid.ID, kind string, by Actor, evidence map[string]any) error {
	evidence["who"], evidence["trigger"] = by.Who, by.Trigger
	return t.record(id, kind, evidence)
}

// heardAgain takes note that the PC of a host reported by its key: what was deleted or archived comes back as what it was;
// what was retired or succeeded stays so, and the history tells it once.
func (t *transaction) heardAgain(h host) error {
	for _, n := range []int64{h.marks.deleted, h.marks.archived} {
		if n == 0 {
			continue
		}
		m, err := t.unmark(n, Actor{Trigger: ByCheckIn})
		if err != nil {
			return err
		}
		kind := "came-back"
		if m.Kind == Archiving {
			kind = "came-back-archived"
		}
		if err := t.record(h.id, kind, map[string]any{"name": m.Name, "deletion": m.ID, "since": m.Made}); err != nil {
			return err
		}
	}
	for _, n := range []int64{h.marks.retired, h.marks.succeeded} {
		if n == 0 {
			continue
		}
		first, err := t.exec(`UPDATE maintenance SET heard = $1 WHERE id = $2 AND heard IS NULL`, millis(t.now), n)
		if err != nil {
			return err
		}
		kind := "heard-retired"
		if n == h.marks.succeeded {
			kind = "heard-succeeded"
		}
		if first == 1 {
			if err := t.record(h.id, kind, map[string]any{"maintenance": n}); err != nil {
				return err
			}
		}
	}
	return nil
}

// takenFor has a host that turned out to be the same PC as another one share what maintenance says of that one: with the
// key of a deleted or archived PC that PC came back, and what goes on for one that was succeeded is no successor either.
func (t *transaction) takenFor(id, other hostid.ID, proven bool) error {
	o, known, err := t.host(other)
	if err != nil || !known {
		return err
	}
	if proven && (o.marks.deleted != 0 || o.marks.archived != 0) {
		if err := t.heardAgain(host{id: id, marks: marks{deleted: o.marks.deleted, archived: o.marks.archived}}); err != nil {
			return err
		}
	}
	if o.marks.succeeded == 0 {
		return nil
	}
	h, known, err := t.host(id)
	if err != nil || !known {
		return err
	}
	if err := t.wake(`$1 = 0 AND host_id IN (SELECT host_id FROM hosts WHERE home IN (`+below+`))`, int64(0), h.home); err != nil {
		return err
	}
	n, err := t.exec(`UPDATE hosts SET succeeded = $1 WHERE succeeded IS NULL AND home IN (`+below+`)
		AND host_id <> (SELECT other FROM maintenance WHERE id = $1)`, o.marks.succeeded, h.home)
	if err != nil || n == 0 {
		return err
	}
	_, _, err = t.regroup(h.asset)
	return err
}

// seat is the asset that whoever is the same PC as a host joins: the root, or where another PC succeeded that one, what was
// joined to the successor's.
func (t *transaction) seat(h host) (asset int64, err error) {
	if h.marks.succeeded == 0 {
		return h.asset, nil
	}
	asset = h.asset
	_, err = t.get(`SELECT g.from_asset FROM maintenance m JOIN groupings g ON g.id = m.grouping WHERE m.id = $1 AND g.undone IS NULL`,
		[]any{h.marks.succeeded}, []any{&asset})
	return asset, err
}

// below are the homes that are joined to $2, itself included, by groupings in force.
const below = `WITH RECURSIVE below (id) AS (SELECT id FROM assets WHERE id = $2
	UNION SELECT g.from_asset FROM groupings g JOIN below ON g.into_asset = below.id WHERE g.undone IS NULL) SELECT id FROM below`

// separated takes the marks from hosts that have left the asset of their successor by another way than undoing that.
func (t *transaction) separated(hosts []string) (any bool, err error) {
	for _, h := range hosts {
		n, err := t.exec(`UPDATE hosts SET succeeded = NULL WHERE host_id = $1 AND succeeded IS NOT NULL AND NOT EXISTS
			(SELECT 1 FROM maintenance m JOIN hosts s ON s.host_id = m.other WHERE m.id = hosts.succeeded AND s.asset_id = hosts.asset_id)`, h)
		if err != nil {
			return false, err
		}
		any = any || n > 0
	}
	return any, nil
}

// inForce are the maintenances by which these hosts are marked, by their numbers.
func (r *Registry) inForce(ctx context.Context, rows []assetRow) (map[int64]Maintenance, error) {
	byID := map[int64]Maintenance{}
	for _, row := range rows {
		for _, n := range []int64{row.marks.deleted, row.marks.archived, row.marks.retired, row.marks.succeeded} {
			if n != 0 {
				byID[n] = Maintenance{}
			}
		}
	}
	for numbers := range slices.Chunk(slices.Sorted(maps.Keys(byID)), 500) { // databases bound the parameters of a statement
		these := make([]string, len(numbers))
		args := make([]any, len(numbers))
		for i, n := range numbers {
			these[i], args[i] = fmt.Sprint("$", i+1), n
		}
		all, err := scanAll(ctx, r.readers, scanMaintenance, maintenanceColumns+`WHERE m.id IN (`+strings.Join(these, ", ")+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			byID[m.ID] = m
		}
	}
	return byID, nil
}

// predecessors are those of an asset, the latest first.
func predecessors(rows []assetRow, inForce map[int64]Maintenance) []Predecessor {
	var all []Predecessor
	at := map[int64]int{}
	for _, row := range rows {
		m, ok := inForce[row.marks.succeeded]
		if !ok {
			continue
		}
		i, known := at[m.ID]
		if !known {
			i = len(all)
			at[m.ID] = i
			all = append(all, Predecessor{Maintenance: m})
		}
		all[i].LastHeard = later(all[i].LastHeard, row.host.LastCheckin)
	}
	slices.SortFunc(all, func(a, b Predecessor) int { return cmp.Compare(b.ID, a.ID) })
	return all
}

func marksOf(rows []assetRow) (all []marks) {
	for _, r := range rows {
		all = append(all, r.marks)
	}
	return all
}

// comments fills in what an imported file says of predecessors: by their host IDs, else by their names.
func (r *Registry) comments(ctx context.Context, all []Predecessor) error {
	if len(all) == 0 {
		return nil
	}
	hosts, err := r.importedHosts(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		for _, h := range hosts {
			id, err := hostid.ParseID(strings.ToLower(h.HID))
			byID := err == nil && slices.Contains(all[i].HostIDs, id)
			if byID || all[i].Comment == "" && h.Key() == sysconfig.HostKey(all[i].Name) {
				all[i].Comment = h.Comment
			}
			if byID {
				break
			}
		}
	}
	return nil
}

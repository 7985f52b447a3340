package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// conflict is one to be opened.
type conflict struct {
	kind     string
	subject  string // tells it from others of its kind
	asset    int64
	other    int64 // the other asset that it is about; 0: none
	host     hostid.ID
	epochs   []int64 // answered as provisional while it is open
	evidence map[string]any
}

// maxOpen bounds the open conflicts of one kind about one host ID. What would be one more counts to the newest: the
// operator has to look at this host anyway, and one client must not bury the conflicts of all others.
const maxOpen = 16

// openConflict opens a conflict and records it, unless the same one is open.
func (t *transaction) openConflict(c conflict) error {
	var id int64
	found, err := t.get(`SELECT id FROM conflicts WHERE kind = $1 AND subject = $2 AND closed IS NULL`, []any{c.kind, c.subject}, []any{&id})
	if err != nil {
		return err
	}
	if !found {
		var open int
		if _, err := t.get(`SELECT COUNT(*), COALESCE(MAX(id), 0) FROM conflicts WHERE host_id = $1 AND kind = $2 AND closed IS NULL`,
			[]any{c.host.String(), c.kind}, []any{&open, &id}); err != nil {
			return err
		}
		found = open >= maxOpen
	}
	opened := !found
	if opened {
		id, err = t.insert(`INSERT INTO conflicts (kind, subject, asset_id, other_asset, host_id, opened, evidence) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			c.kind, c.subject, c.asset, nullID(c.other), c.host.String(), millis(t.now), toJSON(c.evidence))
		if err != nil {
			return err
		}
	}
	for _, e := range c.epochs {
		if _, err := t.exec(`INSERT INTO conflict_epochs (conflict_id, epoch_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, e); err != nil {
			return err
		}
	}
	if !opened {
		return nil
	}
	c.evidence["conflict"] = id
	return t.record(c.host, "conflict-"+c.kind, c.evidence)
}

// settleSameBoard closes the conflicts that asked whether two assets are one PC, where both are now this asset.
func (t *transaction) settleSameBoard(asset int64) error {
	type settled struct {
		id   int64
		host string
	}
	all, err := collect(t, func(scan func(...any) error) (s settled, err error) { return s, scan(&s.id, &s.host) },
		`UPDATE conflicts SET closed = $1 WHERE kind = 'same-board' AND asset_id = $2 AND other_asset = $2 AND closed IS NULL RETURNING id, host_id`,
		millis(t.now), asset)
	if err != nil {
		return err
	}
	for _, s := range all {
		host, err := hostid.ParseID(s.host)
		if err != nil {
			return err
		}
		if err := t.record(host, "conflict-settled", map[string]any{"conflict": s.id, "kind": "same-board"}); err != nil {
			return err
		}
	}
	return nil
}

// inConflict reports whether an open conflict is about that epoch.
func (t *transaction) inConflict(epochID int64) (bool, error) {
	return t.get(`SELECT 1 FROM conflict_epochs ce JOIN conflicts c ON c.id = ce.conflict_id
		WHERE ce.epoch_id = $1 AND c.closed IS NULL LIMIT 1`, []any{epochID}, []any{new(int)})
}

// conflictKinds are the observations of a client's Keeper that an operator has to decide on.
var conflictKinds = map[string]bool{
	string(hostid.MemoryForeign): true,
	string(hostid.OtherID):       true,
	string(hostid.Moved):         true,
	string(hostid.OtherCase):     true,
	string(hostid.Twin):          true,
	string(hostid.StoresDiffer):  true,
}

// maxObservations bounds what one epoch can put into history and conflicts by observing ever new things; the rest
// stays in its stored reports.
const maxObservations = 64

// observe records what the client's own policy met, each thing once in an epoch, and opens a conflict where it
// has to be decided on.
func (t *transaction) observe(v checkin.VerifiedReport, h host, e epoch) error {
	observations := v.Report.Observations
	if v.Report.Pending {
		observations = append(observations[:len(observations):len(observations)],
			checkin.Observation{Kind: string(hostid.OtherCase), Mine: h.id})
	}
	for _, o := range observations {
		var count int
		if _, err := t.get(`SELECT COUNT(*) FROM observations WHERE epoch_id = $1`, []any{e.id}, []any{&count}); err != nil {
			return err
		}
		if count == maxObservations {
			return nil
		}
		n, err := t.exec(`INSERT INTO observations (epoch_id, kind, mine, other) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			e.id, o.Kind, idText(o.Mine), idText(o.Other))
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		evidence := map[string]any{"host": h.id, "observed": o.Kind, "mine": idText(o.Mine), "other": idText(o.Other), "detail": o.Detail, "epoch": e.epoch, "report": v.Digest}
		if !conflictKinds[o.Kind] {
			if err := t.record(h.id, "observed", evidence); err != nil {
				return err
			}
			continue
		}
		err = t.openConflict(conflict{
			kind: "observed", subject: fmt.Sprint("epoch ", e.id, " ", o.Kind, " ", idText(o.Mine), " ", idText(o.Other)),
			asset: h.asset, host: h.id, epochs: []int64{e.id}, evidence: evidence,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Conflict is something about identity that nobody has decided yet.
type Conflict struct {
	ID       int64           `json:"id"`
	Kind     string          `json:"kind"` // other-key, other-board, same-board, overlap, replacement, observed
	HostID   hostid.ID       `json:"host_id"`
	Opened   time.Time       `json:"opened"`
	Closed   time.Time       `json:"closed,omitzero"`
	Evidence json.RawMessage `json:"evidence"`
}

// Sentence says in one sentence what the conflict is about.
func (c Conflict) Sentence(l Language) string {
	return sentence("conflict-"+c.Kind, c.HostID, c.Evidence, l)
}

const conflictColumns = `SELECT id, kind, host_id, opened, closed, evidence FROM conflicts `

func scanConflict(scan func(...any) error) (c Conflict, err error) {
	var host, evidence string
	var opened int64
	var closed sql.NullInt64
	if err := scan(&c.ID, &c.Kind, &host, &opened, &closed, &evidence); err != nil {
		return c, err
	}
	c.Opened, c.Closed, c.Evidence = fromMillis(opened), fromNullTime(closed), json.RawMessage(evidence)
	c.HostID, err = hostid.ParseID(host)
	return c, err
}

// Conflicts returns the open conflicts, the oldest first.
func (r *Registry) Conflicts(ctx context.Context) ([]Conflict, error) {
	return scanAll(ctx, r.readers, scanConflict, conflictColumns+`WHERE closed IS NULL ORDER BY id`)
}

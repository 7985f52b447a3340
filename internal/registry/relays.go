package registry

import (
	"fmt"

	"samehost/internal/hostid"
)

// relayInForce is the condition under which relays r, joined with hosts h, counts: neither retired, deleted nor succeeded,
// and not deleted since it was admitted and come back by itself, which a stolen disk would.
const relayInForce = `h.retired IS NULL AND h.deleted IS NULL AND h.succeeded IS NULL AND NOT EXISTS
	(SELECT 1 FROM maintenance m WHERE m.kind = 'delete' AND m.ended_cause = 'check-in' AND m.made >= r.admitted
	AND m.host_ids LIKE '%"' || r.host_id || '"%')`

// isRelay fails with ErrNotRelay unless the host is a relay, and still one.
func (t *transaction) isRelay(id hostid.ID) error {
	is, err := t.get(`SELECT 1 FROM relays r JOIN hosts h ON h.host_id = r.host_id WHERE r.host_id = $1 AND `+relayInForce,
		[]any{id.String()}, []any{new(int)})
	if err == nil && !is {
		err = fmt.Errorf("host ID %s: %w", id, ErrNotRelay)
	}
	return err
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

// Whereabouts are where a PC can be looked for, and what it is recognised by.
type Whereabouts struct {
	HostID     hostid.ID
	Name       string
	FQDN       string
	Addresses  []string // that other machines can reach first
	SystemUUID string   // as displayed; no other asset has it
}

// What Whereabouts can fail with besides ErrUnknown.
var (
	ErrNoUUID     = errors.New("no system UUID is known of it that is no placeholder, so nothing tells its AMT from another PC's")
	ErrSharedUUID = errors.New("another asset has the same system UUID, so it does not tell its AMT from that PC's")
)

// Whereabouts says where the PC of an asset can be looked for; for a host ID of a predecessor, where that one can. It fails with
// ErrUnknown, ErrNoUUID and ErrSharedUUID.
func (r *Registry) Whereabouts(ctx context.Context, id hostid.ID) (w Whereabouts, err error) {
	err = r.decide(ctx, func(t *transaction) error {
		a, err := t.maintained(id)
		hosts := a.own()
		if errors.Is(err, ErrSucceeded) {
			err = nil
			by := a.hosts[slices.IndexFunc(a.hosts, func(h host) bool { return h.id == id })].marks.succeeded
			hosts = slices.DeleteFunc(slices.Clone(a.hosts), func(h host) bool { return h.marks.succeeded != by })
		}
		if err != nil {
			return err
		}
		is := t.derive(a.id, hosts)
		w = Whereabouts{HostID: id, Name: is.seen.Name, FQDN: is.seen.FQDN, SystemUUID: t.evidence(is.facts)[hostid.SystemUUID]}
		if best, ok := sysconfig.BestAddress(is.seen.Addresses); ok {
			w.Addresses = append(w.Addresses, best.String())
		}
		for _, s := range is.seen.Addresses {
			if !slices.Contains(w.Addresses, s) {
				w.Addresses = append(w.Addresses, s)
			}
		}
		if w.SystemUUID == "" {
			return fmt.Errorf("%s (host ID %s): %w", w.Name, id, ErrNoUUID)
		}
		known, err := collect(t, func(scan func(...any) error) (n int64, err error) { return n, scan(&n) },
			`SELECT asset_id FROM board_facts WHERE fact = $1 AND value = $2 ORDER BY asset_id LIMIT 2`, hostid.SystemUUID.String(), w.SystemUUID)
		if err != nil {
			return err
		}
		shared, err := t.shared(w.SystemUUID)
		if err == nil && (shared || slices.ContainsFunc(known, func(n int64) bool { return n != a.id })) {
			err = fmt.Errorf("%s (host ID %s): %w", w.Name, id, ErrSharedUUID)
		}
		return err
	})
	return w, err
}

// AMTCleared writes into the history that our application was removed from the AMT of a host's PC, or that there was none. It
// fails with ErrUnknown.
func (r *Registry) AMTCleared(ctx context.Context, w Whereabouts, address string, removed int, by Actor) error {
	return r.write(ctx, func(t *transaction) error {
		if _, known, err := t.host(w.HostID); err != nil || !known {
			return errors.Join(err, fmt.Errorf("host ID %s: %w", w.HostID, ErrUnknown))
		}
		kind := "amt-cleared"
		if removed == 0 {
			kind = "amt-clear"
		}
		return t.recordBy(w.HostID, kind, by, map[string]any{"name": w.Name, "address": address, "system_uuid": w.SystemUUID, "removed": removed})
	})
}

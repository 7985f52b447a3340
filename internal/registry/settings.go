package registry

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// AMT settings hold for everything, or for one host and whatever reports through it: a site may have another AMT
// management user than the rest. Of several that could hold for a host the nearest one does.
//
// In the database they are encrypted by a key that is made of the manager's own, so that neither a copy of the database
// nor who administers PostgreSQL has the password.

// ErrSettings says that settings cannot be taken, and why.
var ErrSettings = errors.New("no settings")

// ErrSettingsKey says that settings in the database are another manager's, or were altered.
var ErrSettingsKey = errors.New("the AMT settings in the database cannot be opened with this manager's key: set them again with samehost-manager amtsetup set")

// maxScopes bounds the rows; no company has as many sites.
const maxScopes = 10_000

// ScopedSettings are settings and where they hold. The meaning of its JSON names never changes.
type ScopedSettings struct {
	Scope   hostid.ID           `json:"for,omitzero"` // that host and what reports through it; zero: every other host
	Name    string              `json:"name,omitempty"`
	Version uint64              `json:"version"`
	Changed time.Time           `json:"changed"`
	Who     string              `json:"who"`
	AMT     checkin.AMTSettings `json:"amt"` // its password shows as nothing in JSON
}

// SetAMTSettings has hosts be told these settings from their next check-in on; scope is zero for all that have none nearer.
// It returns the version, and whether anything changed. A host ID that is not known is ErrUnknown; settings that are wrong are ErrSettings.
func (r *Registry) SetAMTSettings(ctx context.Context, scope hostid.ID, s checkin.AMTSettings, who string) (version uint64, changed bool, err error) {
	if s, err = s.Checked(); err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	err = r.write(ctx, func(t *transaction) error {
		version, changed = 0, false
		if !scope.IsZero() {
			if _, known, err := t.host(scope); err != nil || !known {
				return cmp.Or(err, fmt.Errorf("host ID %s: %w", scope, ErrUnknown))
			}
		}
		rows, err := readSettings(t.ctx, t.Tx)
		if err != nil {
			return err
		}
		next := uint64(millis(t.now))
		for _, row := range rows {
			next = max(next, row.version+1)
			if row.scope != idText(scope) || row.sealed == nil {
				continue
			}
			if is, err := r.openSettings(row); err == nil && is.Equal(s) {
				version = row.version
				return nil
			}
		}
		if len(rows) >= maxScopes {
			return fmt.Errorf("%w: %d are set already", ErrSettings, len(rows))
		}
		sealed, err := r.sealSettings(idText(scope), next, s)
		if err != nil {
			return err
		}
		version, changed = next, true
		return t.putSettings(scope, next, sealed, who, "amt-settings-set", s.User)
	})
	return version, changed, err
}

// ClearAMTSettings takes settings back: hosts go by those that are set further up, or by their own file. Where none are
// set it fails with ErrUnknown.
func (r *Registry) ClearAMTSettings(ctx context.Context, scope hostid.ID, who string) error {
	return r.write(ctx, func(t *transaction) error {
		rows, err := readSettings(t.ctx, t.Tx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(rows, func(row settingsRow) bool { return row.scope == idText(scope) && row.sealed != nil })
		if i < 0 {
			return fmt.Errorf("AMT settings for %s: %w", cmp.Or(idText(scope), "all hosts"), ErrUnknown)
		}
		return t.putSettings(scope, rows[i].version, nil, who, "amt-settings-cleared", "")
	})
}

// putSettings writes a row, and the history. The row of cleared settings stays for its version.
func (t *transaction) putSettings(scope hostid.ID, version uint64, sealed []byte, who, event, user string) error {
	_, err := t.exec(`INSERT INTO amt_settings (scope, version, sealed, changed, who) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (scope) DO UPDATE SET version = excluded.version, sealed = excluded.sealed, changed = excluded.changed, who = excluded.who`,
		idText(scope), int64(version), sealed, millis(t.now), who)
	if err == nil {
		err = t.unsettle()
	}
	if err != nil {
		return err
	}
	if !scope.IsZero() {
		event += "-for"
	}
	return t.record(scope, event, map[string]any{"who": who, "user": user, "version": version})
}

// AMTSettings returns all that are set, those for every host first. What cannot be opened is ErrSettingsKey.
func (r *Registry) AMTSettings(ctx context.Context) ([]ScopedSettings, error) {
	rows, err := readSettings(ctx, r.readers)
	if err != nil {
		return nil, err
	}
	all := []ScopedSettings{}
	for _, row := range rows {
		if row.sealed == nil {
			continue
		}
		s := ScopedSettings{Version: row.version, Changed: fromMillis(row.changed), Who: row.who}
		if s.AMT, err = r.openSettings(row); err != nil {
			return nil, err
		}
		if s.Scope, err = parseID(row.scope); err != nil {
			return nil, err
		}
		if row.scope != "" {
			seen, err := scanAll(ctx, r.readers, scanText, `SELECT seen FROM hosts WHERE host_id = $1`, row.scope)
			if err != nil {
				return nil, err
			}
			for _, text := range seen {
				var words Seen
				if err := decodeText("last report of host ID "+row.scope, text, &words); err != nil {
					return nil, err
				}
				s.Name = words.Name
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// AMTSettingsFor returns the settings that hold for a host, which is the first of way, behind the relays that follow,
// the nearest first. AMT is nil where none do.
func (r *Registry) AMTSettingsFor(ctx context.Context, way ...hostid.ID) (checkin.Settings, error) {
	row, err := settingsFor(ctx, r.readers, way)
	if err != nil || row.sealed == nil {
		return checkin.Settings{}, err
	}
	s, err := r.openSettings(row)
	return checkin.Settings{SettingsState: checkin.SettingsState{Version: row.version}, AMT: &s}, err
}

// Way is a host and the relays that its latest report came through, the nearest first, as far as they are believed (believed):
// what AMTSettingsFor takes.
func (r *Registry) Way(ctx context.Context, id hostid.ID) ([]hostid.ID, error) {
	routes, err := scanAll(ctx, r.readers, scanText, `SELECT route FROM hosts_now WHERE host_id = $1`, id.String())
	if err == nil && len(routes) == 0 {
		err = fmt.Errorf("host ID %s: %w", id, ErrUnknown)
	}
	if err != nil {
		return nil, err
	}
	relays, err := parseRoute(routes[0])
	if err != nil {
		return nil, fmt.Errorf("host ID %s: %w", id, err)
	}
	slices.Reverse(relays)
	relays, err = believed(ctx, r.readers, relays)
	return append([]hostid.ID{id}, relays...), err
}

// believed is the end of a way, the nearest relay first, up to which it agrees with what the relays on it say of themselves. A way is
// the word of the last relay on it: it alone was seen to be there. A relay before it is believed to be there if its own latest
// report, which nobody else can sign, came by the rest of the way too. Else whoever is a relay could put another one on the way of
// a host of his own, and be told the password of that one's site.
func believed(ctx context.Context, q queryer, way []hostid.ID) ([]hostid.ID, error) {
	behind := ""
	for i, id := range slices.Backward(way) {
		if i < len(way)-1 {
			routes, err := scanAll(ctx, q, scanText, `SELECT route FROM hosts WHERE host_id = $1`, id.String())
			if err != nil {
				return nil, err
			}
			if len(routes) == 0 || routes[0] != behind {
				return way[i+1:], nil
			}
		}
		behind += `\` + id.String()
	}
	return way, nil
}

// settings are what the reply to a report brings: those that hold for this host, where the report names other ones. They
// are for who takes any, is who it says to be, and is in no doubt: not while the host's line is in conflict, blocked, waits
// until the former installation is silent, or has an order about its identity to carry out; not once the asset is retired,
// deleted, archived or succeeded; not by a way that is not believed. Such a host keeps what it has.
func (t *transaction) settings(v checkin.VerifiedReport, p placement, proven bool, reply checkin.Reply, hops []checkin.Hop) (*checkin.SealedSettings, error) {
	held := v.Report.Settings
	doubt := !proven || !p.tip || p.branch.blocked || reply.Provisional || v.Report.Pending ||
		slices.ContainsFunc(reply.Orders, func(o checkin.Order) bool { return o.Kind != checkin.OrderFullReport })
	if held == nil || doubt {
		return nil, nil
	}
	way := []hostid.ID{v.Report.HostID}
	for _, hop := range hops {
		way = append(way, hop.Relay)
	}
	if sure, err := believed(t.ctx, t.Tx, way[1:]); err != nil || len(sure) < len(hops) {
		return nil, err
	}
	row, err := settingsFor(t.ctx, t.Tx, way)
	if err != nil {
		return nil, err
	}
	s := checkin.Settings{}
	if row.sealed != nil {
		s.Version = row.version
	}
	serial, ok := held.Next()
	if s.Version == held.Version || !ok {
		return nil, nil
	}
	h, known, err := t.host(v.Report.HostID)
	if err != nil || !known || h.keeper != p.branch.id || h.waiting == p.branch.id || h.marks != (marks{}) ||
		t.compare(h.facts, facts(v.Report.Facts)) == hostid.AnotherBoard {
		return nil, err
	}
	s.Serial = serial
	if row.sealed != nil {
		amt, err := t.reg.openSettings(row)
		if errors.Is(err, ErrSettingsKey) {
			return nil, nil // amtsetup show says so; no reason to refuse a check-in
		}
		if err != nil {
			return nil, err
		}
		s.AMT = &amt
	}
	sealed, err := checkin.SealSettings(v.Report.SealKey, v.Report.HostID, v.Report.Epoch, s)
	if err != nil {
		return nil, nil // to a key that nobody could open it with
	}
	return &sealed, nil
}

// settingsRow is a row of amt_settings.
type settingsRow struct {
	scope   string
	version uint64
	sealed  []byte // nil: cleared
	changed int64
	who     string
}

func scanSettings(scan func(...any) error) (row settingsRow, err error) {
	return row, scan(&row.scope, &row.version, &row.sealed, &row.changed, &row.who)
}

const settingsColumns = `SELECT scope, version, sealed, changed, who FROM amt_settings `

func readSettings(ctx context.Context, q queryer) ([]settingsRow, error) {
	return scanAll(ctx, q, scanSettings, settingsColumns+`ORDER BY scope`)
}

// settingsFor is the row that holds for the first of way; its zero value where none does.
func settingsFor(ctx context.Context, q queryer, way []hostid.ID) (settingsRow, error) {
	scopes, places := []any{""}, []string{"$1"}
	for _, id := range way[:min(len(way), checkin.MaxHops+1)] {
		scopes = append(scopes, id.String())
		places = append(places, fmt.Sprint("$", len(scopes)))
	}
	rows, err := scanAll(ctx, q, scanSettings, settingsColumns+`WHERE sealed IS NOT NULL AND scope IN (`+strings.Join(places, ", ")+`)`, scopes...)
	if err != nil || len(rows) == 0 {
		return settingsRow{}, err
	}
	far := func(row settingsRow) int {
		if i := slices.Index(scopes, any(row.scope)); i > 0 {
			return i
		}
		return len(scopes) // those for all hosts
	}
	return slices.MinFunc(rows, func(a, b settingsRow) int { return cmp.Compare(far(a), far(b)) }), nil
}

const settingsAtRest = "samehost/amt-settings-at-rest/1"

// settingsCipher is made of the manager's key, which stands in the data folder: several managers on one database have the
// same. Additional data bind a row to its scope and version, so that none serves in the place of another.
func (r *Registry) settingsCipher(scope string, version uint64) (cipher.AEAD, []byte, error) {
	if r.key == nil {
		return nil, nil, errors.New("AMT settings: the registry was opened without the manager's key")
	}
	key, err := hkdf.Key(sha256.New, r.key.Seed(), nil, settingsAtRest, 32)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return aead, fmt.Appendf(nil, "%s\x00%s\x00%d", settingsAtRest, scope, version), err
}

func (r *Registry) sealSettings(scope string, version uint64, s checkin.AMTSettings) ([]byte, error) {
	aead, bound, err := r.settingsCipher(scope, version)
	if err != nil {
		return nil, err
	}
	text := s.Reveal()
	for len(text)%256 != 0 { // so that the length tells no password's
		text = append(text, ' ')
	}
	return aead.Seal(nil, nil, text, bound), nil
}

func (r *Registry) openSettings(row settingsRow) (checkin.AMTSettings, error) {
	aead, bound, err := r.settingsCipher(row.scope, row.version)
	if err != nil {
		return checkin.AMTSettings{}, err
	}
	text, err := aead.Open(nil, nil, row.sealed, bound)
	if err != nil {
		return checkin.AMTSettings{}, ErrSettingsKey
	}
	s, err := checkin.ParseAMTSettings(text)
	if err != nil {
		return checkin.AMTSettings{}, fmt.Errorf("%w (%w)", ErrSettingsKey, err)
	}
	return s, nil
}

package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// placeholderList is the manager's list of placeholders, under the digest that the database and clients name it by.
type placeholderList struct {
	digest string
	list   hardware.Placeholders
}

// usePlaceholders takes the list of that digest for this transaction. It is read when another process changed it, or
// never was.
func (t *transaction) usePlaceholders(digest string) error {
	known := t.reg.marks.Load()
	if known == nil || known.digest != digest {
		list, err := readPlaceholders(t.ctx, t.Tx)
		if err != nil {
			return err
		}
		known = &placeholderList{list.Digest(), list}
		t.reg.marks.Store(known)
	}
	t.placeholders, t.listDigest = known.list, known.list.Digest()
	return nil
}

// decide is write for what weighs evidence: it knows the placeholders.
func (r *Registry) decide(ctx context.Context, f func(*transaction) error) error {
	return r.decideIn(ctx, r.isolation, maxCommandTries, f)
}

func (r *Registry) decideIn(ctx context.Context, level sql.IsolationLevel, tries int, f func(*transaction) error) error {
	return r.writeIn(ctx, level, tries, func(t *transaction) error {
		var digest string
		p := pace{factor: 1}
		if _, err := t.get(`SELECT l.digest, p.factor, p.longest, p.until, p.generation FROM placeholder_list l CROSS JOIN pace p`, nil,
			[]any{&digest, &p.factor, &p.longest, &p.until, &p.generation}); err != nil {
			return err
		}
		t.pace = p
		r.paced.Store(&p)
		if err := t.usePlaceholders(digest); err != nil {
			return err
		}
		return f(t)
	})
}

func readPlaceholders(ctx context.Context, q queryer) (hardware.Placeholders, error) {
	lines, err := scanAll(ctx, q, func(scan func(...any) error) (string, error) {
		var kind, pattern string
		err := scan(&kind, &pattern)
		return kind + " " + pattern, err
	}, `SELECT kind, pattern FROM placeholders ORDER BY kind, pattern`)
	if err != nil {
		return nil, err
	}
	return hardware.ParsePlaceholders(strings.NewReader(strings.Join(lines, "\n")))
}

// Placeholder is one entry of the manager's list: a value that proves nothing, besides those that are built in.
type Placeholder struct {
	Kind    string    `json:"kind"`    // uuid, serial, mac
	Pattern string    `json:"pattern"` // the whole value in upper case; '*' stands for any characters
	Added   time.Time `json:"added"`
	Who     string    `json:"who"`
}

// Placeholders returns the manager's list.
func (r *Registry) Placeholders(ctx context.Context) ([]Placeholder, error) {
	return scanAll(ctx, r.readers, func(scan func(...any) error) (p Placeholder, err error) {
		var added int64
		err = scan(&p.Kind, &p.Pattern, &added, &p.Who)
		p.Added = fromMillis(added)
		return p, err
	}, `SELECT kind, pattern, added, who FROM placeholders ORDER BY kind, pattern`)
}

// ErrPlaceholder says that a value cannot be declared a placeholder, and why.
var ErrPlaceholder = errors.New("no placeholder")

// AddPlaceholder declares a value to prove nothing, for this manager and, with their next reply, its clients. What is
// known of assets loses it as evidence at once, and the open conflicts that rest on it are settled; a line that they held
// back is judged anew with its next report. Adding twice is no error. kind is uuid, serial or mac; '*' in pattern stands for any
// characters.
func (r *Registry) AddPlaceholder(ctx context.Context, kind, pattern, who string) error {
	if strings.ContainsAny(kind+pattern, "\r\n") {
		return fmt.Errorf("%w: a value is one line", ErrPlaceholder)
	}
	one, err := hardware.ParsePlaceholders(strings.NewReader(kind + " " + pattern))
	if err != nil {
		return fmt.Errorf("%w: %s", ErrPlaceholder, strings.TrimPrefix(err.Error(), "line 1: ")) // it is the only one
	}
	if len(one) != 1 {
		return fmt.Errorf("%w: write the kind, uuid, serial or mac, and the value", ErrPlaceholder)
	}
	kind, pattern, _ = strings.Cut(strings.TrimSpace(one.String()), " ")
	if example, hex := map[string]string{"uuid": "03000200-0400-0500-0006-000700080009", "mac": "00-E0-4C-68-00-01"}[kind]; hex && strings.Trim(pattern, "0123456789ABCDEF-*") != "" {
		return fmt.Errorf("%w: no %s is like that; write one as %s, with * for any characters", ErrPlaceholder, kind, example)
	}
	return r.decide(ctx, func(t *transaction) error {
		n, err := t.exec(`INSERT INTO placeholders (kind, pattern, added, who) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			kind, pattern, millis(t.now), who)
		if err != nil || n == 0 {
			return err
		}
		if err := t.placeholdersChanged("placeholder-added", kind, pattern, who); err != nil {
			return err
		}
		return t.rejudgeConflicts()
	})
}

// RemovePlaceholder takes a value from the list: it counts as evidence again where it is known, and in what is reported from
// now on. A value that is not on the list is ErrUnknown; the built-in ones cannot be removed.
func (r *Registry) RemovePlaceholder(ctx context.Context, kind, pattern, who string) error {
	one, err := hardware.ParsePlaceholders(strings.NewReader(kind + " " + pattern))
	if err == nil && len(one) == 1 {
		kind, pattern, _ = strings.Cut(strings.TrimSpace(one.String()), " ")
	}
	return r.decide(ctx, func(t *transaction) error {
		n, err := t.exec(`DELETE FROM placeholders WHERE kind = $1 AND pattern = $2`, kind, pattern)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("placeholder %s %s: %w", kind, pattern, ErrUnknown)
		}
		return t.placeholdersChanged("placeholder-removed", kind, pattern, who)
	})
}

// placeholdersChanged makes everything that is derived from evidence agree with the list as it is now.
func (t *transaction) placeholdersChanged(event, kind, pattern, who string) error {
	list, err := readPlaceholders(t.ctx, t.Tx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPlaceholder, err) // too long a list
	}
	if _, err := t.exec(`UPDATE placeholder_list SET digest = $1`, list.Digest()); err != nil {
		return err
	}
	t.placeholders = list
	if err := t.record(hostid.ID{}, event, map[string]any{"kind": kind, "pattern": pattern, "who": who}); err != nil {
		return err
	}
	type row struct {
		id    int64
		facts string
	}
	assets, err := collect(t, func(scan func(...any) error) (r row, err error) { return r, scan(&r.id, &r.facts) },
		`SELECT id, facts FROM assets WHERE seen_host <> '' AND merged_into IS NULL`)
	if err != nil {
		return err
	}
	for _, r := range assets {
		a := asset{id: r.id}
		if err := a.decode(r.facts, "{}", ""); err != nil {
			return err
		}
		if err := t.indexBoard(a); err != nil {
			return err
		}
	}
	return nil
}

// Suggestion is a value that proves less than it seems: several PCs that are live at the same time report it.
type Suggestion struct {
	Kind   string `json:"kind"`  // uuid, serial, mac
	Value  string `json:"value"` // normalised
	Assets int    `json:"assets"`
}

// suggestFrom is how many live assets must share a value before it is suggested as a placeholder: two may be one PC that
// was reinstalled, three are not.
const suggestFrom = 3

// SuggestPlaceholders returns the values that three or more assets know as their own while all of them are live, those of
// the most assets first. Serial numbers of systems and chassis are among them, though they decide only where boards do not.
func (r *Registry) SuggestPlaceholders(ctx context.Context) ([]Suggestion, error) {
	now := r.now()
	return scanAll(ctx, r.readers, func(scan func(...any) error) (s Suggestion, err error) {
		var fact string
		err = scan(&fact, &s.Value, &s.Assets)
		s.Kind = placeholderKind(fact)
		return s, err
	}, `SELECT MIN(fact), value, COUNT(DISTINCT b.asset_id) AS n FROM board_facts b WHERE b.asset_id IN (SELECT asset_id FROM hosts_now WHERE last_checkin > $1)
		GROUP BY CASE fact WHEN 'system_uuid' THEN 1 WHEN 'onboard_mac' THEN 2 ELSE 3 END, value HAVING COUNT(DISTINCT b.asset_id) >= $2 ORDER BY n DESC, value LIMIT 100`,
		millis(now.Add(-r.silence())), suggestFrom)
}

// placeholderKind is the kind of placeholder that a fact's values are.
func placeholderKind(fact string) string {
	switch fact {
	case hostid.SystemUUID.String():
		return "uuid"
	case hostid.OnboardMAC.String():
		return "mac"
	default:
		return "serial"
	}
}

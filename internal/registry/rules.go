package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"samehost/internal/hostid"
)

// Mode is what a rule may do.
type Mode string

// The modes of a rule.
const (
	Off     Mode = "off"     // nothing is looked at
	Observe Mode = "observe" // conflict and history say what it would decide
	Enforce Mode = "enforce" // it decides; an operator can undo it
)

// Rule decides a kind of conflict in an operator's place, where the evidence suffices. What suffices stands in
// docs/decisions/0032-decisions-about-identity.md.
type Rule struct {
	Name    string    `json:"name"` // other-board, same-board, replacement
	Mode    Mode      `json:"mode"`
	Changed time.Time `json:"changed,omitzero"` // zero: never
	Who     string    `json:"who,omitempty"`
}

// ruleNames are the kinds of conflict that a rule may decide.
var ruleNames = []string{"other-board", "same-board", "replacement"}

// Rules returns every rule.
func (r *Registry) Rules(ctx context.Context) ([]Rule, error) {
	set, err := scanAll(ctx, r.readers, func(scan func(...any) error) (u Rule, err error) {
		var changed int64
		err = scan(&u.Name, (*string)(&u.Mode), &changed, &u.Who)
		u.Changed = fromMillis(changed)
		return u, err
	}, `SELECT name, mode, changed, who FROM rules`)
	if err != nil {
		return nil, err
	}
	var all []Rule
	for _, name := range ruleNames {
		u := Rule{Name: name, Mode: Observe}
		if i := slices.IndexFunc(set, func(u Rule) bool { return u.Name == name }); i >= 0 {
			u = set[i]
		}
		all = append(all, u)
	}
	return all, nil
}

// SetRule changes what a rule may do, from the next report of each conflict on. A name that is no rule's is ErrUnknown.
func (r *Registry) SetRule(ctx context.Context, name string, mode Mode, who string) error {
	if !slices.Contains(ruleNames, name) {
		return fmt.Errorf("rule %q: %w; the rules are %s", name, ErrUnknown, strings.Join(ruleNames, ", "))
	}
	if mode != Off && mode != Observe && mode != Enforce {
		return fmt.Errorf("mode %q: %w; the modes are off, observe and enforce", mode, ErrUnknown)
	}
	return r.write(ctx, func(t *transaction) error {
		_, err := t.exec(`INSERT INTO rules (name, mode, changed, who) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET mode = excluded.mode, changed = excluded.changed, who = excluded.who`, name, string(mode), millis(t.now), who)
		if err != nil {
			return err
		}
		return t.record(hostid.ID{}, "rule-set", map[string]any{"rule": name, "mode": mode, "who": who})
	})
}

// proposal is what a rule would decide, and by what.
type proposal struct {
	Verb Verb   `json:"verb,omitempty"` // "": nothing; an operator has to
	Why  string `json:"why"`            // names a sentence
	Rule string `json:"rule,omitempty"`
	Mode Mode   `json:"mode,omitempty"`
}

// propose notes what would be decided about a conflict, and tells it when a rule changed its mind.
func (t *transaction) propose(id int64, p proposal) error {
	n, err := t.exec(`UPDATE conflicts SET proposal = $1 WHERE id = $2 AND proposal <> $1`, toJSON(p), id)
	if err != nil || n == 0 || p.Mode != Observe {
		return err
	}
	var host string
	if _, err := t.get(`SELECT host_id FROM conflicts WHERE id = $1`, []any{id}, []any{&host}); err != nil {
		return err
	}
	h, err := hostid.ParseID(host)
	if err != nil {
		return err
	}
	kind := "rule-would"
	if p.Verb == "" {
		kind = "rule-would-not"
	}
	return t.record(h, kind, map[string]any{"conflict": id, "rule": p.Rule, "verb": p.Verb, "why": p.Why})
}

// applyRules has the rules look at the open conflicts of a line anew: time alone may have made evidence sufficient.
func (t *transaction) applyRules(line int64) error {
	ids, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT c.id FROM conflict_lines l JOIN conflicts c ON c.id = l.conflict_id WHERE l.branch_id = $1 AND l.left_at IS NULL
			AND `+asked+` AND c.resolution IS NULL AND NOT c.held AND c.kind IN ('other-board', 'same-board', 'replacement') ORDER BY c.id`, line)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.applyRule(id); err != nil {
			return err
		}
	}
	return nil
}

// applyRule has the rule for a conflict decide about it, as far as it may.
func (t *transaction) applyRule(id int64) error {
	c, err := t.conflictRow(id)
	if err != nil || c.resolution != 0 || c.held || !c.closed.IsZero() || c.parkedBy != 0 || !slices.Contains(ruleNames, c.kind) {
		return err
	}
	mode := Observe
	if _, err := t.get(`SELECT mode FROM rules WHERE name = $1`, []any{c.kind}, []any{(*string)(&mode)}); err != nil || mode == Off {
		return err
	}
	verb, why, err := t.judgeByRule(c)
	if err != nil {
		return err
	}
	if err := t.propose(id, proposal{verb, why, c.kind, mode}); err != nil || mode != Enforce || verb == "" {
		return err
	}
	c.proposal = proposal{verb, why, c.kind, mode}
	_, err = t.resolve(c, verb, "rule "+c.kind, why)
	return err
}

// judgeByRule weighs the evidence of a conflict. A rule is conservative: whatever could be otherwise is an operator's.
func (t *transaction) judgeByRule(c conflictRow) (verb Verb, why string, err error) {
	switch c.kind {
	case "other-board":
		return t.judgeOtherBoard(c)
	case "replacement":
		var e struct{ Reason string }
		if err := json.Unmarshal([]byte(c.evidence), &e); err != nil {
			return "", "", err
		}
		if c.otherHost.IsZero() || !slices.Contains([]string{"audience", "key", "new-key"}, e.Reason) {
			return "", "replacement-proof", nil
		}
	}
	return t.judgeSameBoard(c)
}

// judgeSameBoard: are two assets one PC that came back with nothing to prove it?
func (t *transaction) judgeSameBoard(c conflictRow) (verb Verb, why string, err error) {
	h, _, err := t.host(c.host)
	if err != nil {
		return "", "", err
	}
	a, err := t.asset(h.asset)
	if err != nil {
		return "", "", err
	}
	other, known, err := t.host(c.otherHost)
	if err != nil {
		return "", "", err
	}
	if !known { // a value that many share
		return "", "same-board-shared", nil
	}
	b, err := t.asset(other.asset)
	if err != nil {
		return "", "", err
	}
	mine, others := t.evidence(a.facts), t.evidence(b.facts)
	for _, f := range boardFacts {
		if mine[f] == "" || mine[f] != others[f] {
			continue
		}
		var assets int
		if _, err := t.get(`SELECT COUNT(*) FROM board_facts WHERE fact = $1 AND value = $2`, []any{f.String(), mine[f]}, []any{&assets}); err != nil {
			return "", "", err
		}
		if assets > 2 {
			return "", "same-board-shared", nil
		}
	}
	agree := 0
	for f := range hostid.Fact(hostid.NumFacts) {
		switch {
		case mine[f] == "" || others[f] == "" || f == hostid.DiskSerial: // a PC comes back with another disk
		case mine[f] != others[f]:
			return "", "same-board-differs", nil
		case slices.Contains(boardFacts, f):
			agree++
		}
	}
	if agree < 2 {
		return "", "same-board-few", nil
	}
	live, err := t.get(`SELECT 1 FROM hosts_now WHERE asset_id = $1 AND last_checkin > $2 LIMIT 1`,
		[]any{other.asset, millis(t.now.Add(-t.reg.silence()))}, []any{new(int)})
	if err != nil || live {
		return "", "same-board-live", err
	}
	return Merge, "same-board-sure", nil
}

// judgeOtherBoard: was the board of the PC replaced, its disk moved, or was it copied?
func (t *transaction) judgeOtherBoard(c conflictRow) (verb Verb, why string, err error) {
	h, _, err := t.host(c.host)
	if err != nil {
		return "", "", err
	}
	lines, err := t.openLines(c.id)
	if err != nil || len(lines) == 0 {
		return "", "other-board-live", err
	}
	line := lines[len(lines)-1]
	there, err := t.saidBy(line)
	if err != nil {
		return "", "", err
	}
	known, is := t.evidence(h.facts), t.evidence(there)
	sameCase, otherCase := false, false
	for _, f := range []hostid.Fact{hostid.SystemSerial, hostid.ChassisSerial} {
		if known[f] != "" && is[f] != "" {
			sameCase, otherCase = sameCase || known[f] == is[f], otherCase || known[f] != is[f]
		}
	}
	switch {
	case known[hostid.DiskSerial] != "" && is[hostid.DiskSerial] != "" && known[hostid.DiskSerial] != is[hostid.DiskSerial]:
		return "", "other-board-copy", nil
	case otherCase:
		return "", "other-board-case", nil
	case !sameCase || known[hostid.DiskSerial] == "" || is[hostid.DiskSerial] == "":
		return "", "other-board-few", nil
	}
	for _, f := range boardFacts {
		elsewhere, err := t.get(`SELECT 1 FROM board_facts WHERE fact = $1 AND value = $2 AND asset_id <> $3 LIMIT 1`,
			[]any{f.String(), is[f], h.asset}, []any{new(int)})
		if err != nil || elsewhere {
			return "", "other-board-known", err
		}
	}
	live, err := t.get(`SELECT 1 FROM branches_now b JOIN epochs e ON e.id = b.epoch_id WHERE e.host_id = $1 AND e.proven AND b.id <> $2 AND b.last_received > $3 LIMIT 1`,
		[]any{h.id.String(), line, millis(t.now.Add(-t.reg.silence()))}, []any{new(int)})
	if err != nil || live {
		return "", "other-board-live", err
	}
	return Merge, "other-board-sure", nil
}

// ruleOrders orders what a rule of the protocol decides by itself, once for each line.
func (t *transaction) ruleOrders(c openedConflict, rule string, d demand) error {
	told, err := t.get(`SELECT 1 FROM demands WHERE branch_id = $1 AND kind = $2 AND outcome IN ('', 'failed') LIMIT 1`, []any{d.branch, string(d.kind)}, []any{new(int)})
	if err != nil || told {
		return err
	}
	d.conflict, d.resolution = c.id, c.resolution
	if c.resolution != 0 {
		var verb Verb
		if _, err := t.get(`SELECT verb FROM resolutions WHERE id = $1`, []any{c.resolution}, []any{(*string)(&verb)}); err != nil {
			return err
		}
		switch {
		case verb == Block, verb == Merge && rule == "other-key":
			return t.sameForLine(c.resolution, d.host, d.branch)
		case verb == Merge: // an operator's word was about other lines
			d.resolution = 0
		}
	}
	if d.resolution == 0 {
		if d.resolution, err = t.newResolution(c.id, KeepBoth, "rule "+rule); err != nil {
			return err
		}
	}
	return t.demand(d)
}

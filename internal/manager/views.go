package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// What commands print with --json and what the API answers is one set of objects: the registry's, with sentences for
// people. The meaning of a JSON name never changes.

// Event is an event of the history.
type Event struct {
	registry.Event
	Sentence string `json:"sentence"`
}

// Events tells events in a language.
func Events(events []registry.Event, l registry.Language) []Event {
	list := []Event{}
	for _, e := range events {
		list = append(list, Event{e, e.Sentence(l)})
	}
	return list
}

// Conflict is a conflict.
type Conflict struct {
	registry.Conflict
	Sentence         string    `json:"sentence"`
	ProposalSentence string    `json:"proposal_sentence"`
	Previews         []Preview `json:"previews,omitempty"` // one for each verb, where they were asked for
}

// Conflicts tells conflicts in a language.
func Conflicts(conflicts []registry.Conflict, l registry.Language) []Conflict {
	list := []Conflict{}
	for _, c := range conflicts {
		list = append(list, Conflict{Conflict: c, Sentence: c.Sentence(l), ProposalSentence: c.Proposal.Sentence(l)})
	}
	return list
}

// Preview is what a verb would do to a conflict.
type Preview struct {
	registry.Preview
	Sentences []string `json:"sentences"`
}

// ShowConflict returns one conflict, with a preview of every verb that it takes if they are wanted.
func ShowConflict(ctx context.Context, reg *registry.Registry, id int64, previews bool, l registry.Language) (Conflict, error) {
	c, err := reg.Conflict(ctx, id)
	if err != nil {
		return Conflict{}, conflictError(ctx, reg, id, err)
	}
	shown := Conflicts([]registry.Conflict{c}, l)[0]
	for _, v := range c.Verbs {
		if !previews {
			break
		}
		p, err := reg.Preview(ctx, id, v)
		switch {
		case errors.Is(err, registry.ErrResolved): // an operator's decision is in force: no other one can be made
			return shown, nil
		case err != nil:
			return Conflict{}, err
		}
		shown.Previews = append(shown.Previews, preview(p, l))
	}
	return shown, nil
}

// PreviewConflict returns what a verb would do to a conflict.
func PreviewConflict(ctx context.Context, reg *registry.Registry, id int64, verb registry.Verb, l registry.Language) (Preview, error) {
	p, err := reg.Preview(ctx, id, verb)
	if err != nil {
		return Preview{}, conflictError(ctx, reg, id, err)
	}
	return preview(p, l), nil
}

func preview(p registry.Preview, l registry.Language) Preview {
	p.Orders = append([]registry.PreviewOrder{}, p.Orders...) // in JSON a list, also when it is empty
	p.Blocked = append([]hostid.ID{}, p.Blocked...)
	return Preview{p, p.Sentences(l)}
}

// ResolveConflict decides a conflict and returns it as it is then.
func ResolveConflict(ctx context.Context, reg *registry.Registry, id int64, verb registry.Verb, who string, l registry.Language) (Conflict, error) {
	if _, err := reg.Resolve(ctx, id, verb, who); err != nil {
		return Conflict{}, conflictError(ctx, reg, id, err)
	}
	return ShowConflict(ctx, reg, id, false, l)
}

// UndoConflict takes back what was decided last about a conflict, and returns it as it is then. Where nothing is in force,
// it fails with registry.ErrUndone.
func UndoConflict(ctx context.Context, reg *registry.Registry, id int64, who string, l registry.Language) (Conflict, error) {
	c, err := reg.Conflict(ctx, id)
	if err != nil {
		return Conflict{}, conflictError(ctx, reg, id, err)
	}
	last, ok := inForce(c)
	if !ok && len(c.Decided) > 0 {
		return Conflict{}, fmt.Errorf("conflict %d: %w; nothing that was decided about it is in force", id, registry.ErrUndone)
	}
	if !ok {
		return Conflict{}, fmt.Errorf("conflict %d: nobody has decided it, so there is nothing to undo: %w", id, errNotDecided)
	}
	if err := reg.Undo(ctx, last.ID, who); err != nil {
		return Conflict{}, conflictError(ctx, reg, id, err)
	}
	return ShowConflict(ctx, reg, id, false, l)
}

// errNotDecided is what cannot be undone.
var errNotDecided = errors.New("conflicts show tells how it stands")

// inForce is the last decision that was not undone.
func inForce(c registry.Conflict) (registry.Resolution, bool) {
	for _, r := range slices.Backward(c.Decided) {
		if r.Undone.IsZero() {
			return r, true
		}
	}
	return registry.Resolution{}, false
}

// conflictError says more of an error of the registry about a conflict: what can be done instead.
func conflictError(ctx context.Context, reg *registry.Registry, id int64, err error) error {
	switch {
	case errors.Is(err, registry.ErrUnknown):
		return fmt.Errorf("%w: the list of conflicts shows those that are open, and that were closed", err)
	case errors.Is(err, registry.ErrResolved):
		c, failed := reg.Conflict(ctx, id)
		if failed != nil {
			return err
		}
		if by, ok := inForce(c); ok {
			return fmt.Errorf("conflict %d: %s decided %s on %s: %w", id, by.Who, by.Verb, by.Made.Format("2006-01-02T15:04:05Z07:00"), registry.ErrResolved)
		}
		return fmt.Errorf("conflict %d has closed by itself, with nothing left to decide: %w", id, errClosed)
	}
	return err
}

// errClosed is a conflict that nobody has to decide any more, and that nobody decided.
var errClosed = errors.New("if it comes back, it is a new one")

// SetRule changes what a rule may do, and returns it.
func SetRule(ctx context.Context, reg *registry.Registry, name string, mode registry.Mode, who string) (registry.Rule, error) {
	if err := reg.SetRule(ctx, name, mode, who); err != nil {
		return registry.Rule{}, err
	}
	rules, err := reg.Rules(ctx)
	if err != nil {
		return registry.Rule{}, err
	}
	i := slices.IndexFunc(rules, func(u registry.Rule) bool { return u.Name == name })
	return rules[i], nil
}

// AddPlaceholder declares a value to prove nothing, and returns it as it stands on the list.
func AddPlaceholder(ctx context.Context, reg *registry.Registry, kind, value, who string) (registry.Placeholder, error) {
	if err := reg.AddPlaceholder(ctx, kind, value, who); err != nil {
		return registry.Placeholder{}, err
	}
	one, err := hardware.ParsePlaceholders(strings.NewReader(kind + " " + value))
	if err != nil {
		return registry.Placeholder{}, err
	}
	all, err := reg.Placeholders(ctx)
	for _, p := range all {
		if p.Kind+" "+p.Pattern == strings.TrimSpace(one.String()) {
			return p, nil
		}
	}
	return registry.Placeholder{}, errors.Join(err, fmt.Errorf("placeholder %s %s: %w; somebody else has removed it", kind, value, registry.ErrUnknown))
}

package main

import (
	"context"
	"errors"
	"fmt"

	"samehost/internal/manager"
	"samehost/internal/registry"
)

type rulesCmd struct {
	List rulesListCmd `cmd:"" default:"withargs" help:"List the rules and their modes." example:"rules list; rules list --lang ja"`
	Set  rulesSetCmd  `cmd:"" help:"Set what a rule may do: off, observe or enforce." example:"rules set same-board enforce; rules set other-board off"`
}

type rulesListCmd struct{}

func (c *rulesListCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		rules, err := reg.Rules(ctx)
		if err != nil {
			return err
		}
		t := table{columns: []column{{"RULE", 16}, {"MODE", 8}, {"CHANGED", 16}, {"BY", 34}}}
		for _, u := range rules {
			if p.json {
				if err := p.printJSON(u); err != nil {
					return err
				}
				continue
			}
			t.add(u.Name, string(u.Mode), when(u.Changed), orDash(u.Who))
			t.below(u.Sentence(p.lang))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

type rulesSetCmd struct {
	Name string `arg:"" name:"rule" help:"A rule, as rules list shows it."`
	Mode string `arg:"" name:"mode" enum:"off,observe,enforce" help:"observe: the conflict says what it would decide. enforce: it decides."`
}

func (c *rulesSetCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		rule, err := manager.SetRule(ctx, reg, c.Name, registry.Mode(c.Mode), systemUser())
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(rule)
		}
		p.paragraph("", p.in("Rule %s: %s.", rule.Name, rule.Mode))
		return nil
	})
}

type placeholdersCmd struct {
	List    placeholdersListCmd    `cmd:"" help:"List the values that prove nothing, besides the built-in ones." example:"placeholders list; placeholders list --json"`
	Add     placeholdersAddCmd     `cmd:"" help:"Declare a value to prove nothing." example:"placeholders add serial 'SN-0000*'; placeholders add uuid 03000200-0400-0500-0006-000700080009"`
	Remove  placeholdersRemoveCmd  `cmd:"" help:"Take a value from the list." example:"placeholders remove serial 'SN-0000*'; placeholders remove mac 00-E0-4C-68-00-01"`
	Suggest placeholdersSuggestCmd `cmd:"" help:"Values that three live assets or more have in common." example:"placeholders suggest; placeholders suggest --json"`
}

type placeholdersListCmd struct{}

func (c *placeholdersListCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		all, err := reg.Placeholders(ctx)
		if err != nil {
			return err
		}
		t := table{wraps: true, columns: []column{{"KIND", 6}, {"VALUE", 38}, {"ADDED", 16}, {"BY", 14}}}
		for _, h := range all {
			if p.json {
				if err := p.printJSON(h); err != nil {
					return err
				}
				continue
			}
			t.add(h.Kind, h.Pattern, when(h.Added), h.Who)
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

type placeholdersAddCmd struct {
	Kind  string `arg:"" name:"kind" enum:"uuid,serial,mac" help:"uuid, serial or mac."`
	Value string `arg:"" name:"value" help:"The whole value, in any case; * stands for any characters."`
}

func (c *placeholdersAddCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		placeholder, err := manager.AddPlaceholder(ctx, reg, c.Kind, c.Value, systemUser())
		if errors.Is(err, registry.ErrPlaceholder) {
			return usageError(err.Error())
		}
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(placeholder)
		}
		p.paragraph("", p.in("%s %s proves nothing from now on. Clients are told with their next check-in.", placeholder.Kind, placeholder.Pattern))
		return nil
	})
}

type placeholdersRemoveCmd struct {
	Kind  string `arg:"" name:"kind" enum:"uuid,serial,mac" help:"uuid, serial or mac."`
	Value string `arg:"" name:"value" help:"A value, as placeholders list shows it."`
}

func (c *placeholdersRemoveCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		err := reg.RemovePlaceholder(ctx, c.Kind, c.Value, systemUser())
		if errors.Is(err, registry.ErrUnknown) {
			return fmt.Errorf("%w: samehost-manager placeholders list shows those that can be removed; the built-in ones cannot", err)
		}
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(map[string]string{"kind": c.Kind, "pattern": c.Value, "state": "removed"})
		}
		p.paragraph("", p.in("%s %s counts as evidence again.", c.Kind, c.Value))
		return nil
	})
}

type placeholdersSuggestCmd struct{}

func (c *placeholdersSuggestCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		all, err := reg.SuggestPlaceholders(ctx)
		if err != nil {
			return err
		}
		t := table{wraps: true, columns: []column{{"KIND", 6}, {"VALUE", 60}, {"ASSETS", 6}}}
		for _, s := range all {
			if p.json {
				if err := p.printJSON(s); err != nil {
					return err
				}
				continue
			}
			t.add(s.Kind, s.Value, fmt.Sprint(s.Assets))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"samehost/internal/amtinit"
	"samehost/internal/amtsettings"
	"samehost/internal/hostid"
	"samehost/internal/manager"
	"samehost/internal/registry"
	"samehost/internal/wsman"
)

// operator is who runs this command.
func operator() registry.Actor { return registry.Actor{Who: systemUser(), Trigger: registry.ByCommand} }

// maintenanceText says by what an asset is out of sight.
func maintenanceText(m registry.Maintenance, heard bool, l registry.Language) string {
	w := map[registry.Language]struct{ by, schedule, heard string }{
		registry.English:  {"%s, by %s", "%s, by schedule", "; it has checked in since"},
		registry.Japanese: {"%s %s が実行", "%s スケジュールにより実行", "。その後に報告がありました"},
	}[l]
	text := fmt.Sprintf(w.by, when(m.Made), m.Who)
	if m.Trigger == registry.BySchedule {
		text = fmt.Sprintf(w.schedule, when(m.Made))
	}
	if heard {
		text += w.heard
	}
	return text
}

func predecessorText(b registry.Predecessor, l registry.Language) string {
	w := map[registry.Language]struct{ what, heard string }{
		registry.English:  {"%s (host ID %s), until %s, by %s", "; it has checked in since"},
		registry.Japanese: {"%s (ホスト識別子 %s)、%s まで、%s が実行", "。その後に報告がありました"},
	}[l]
	text := fmt.Sprintf(w.what, b.Name, b.HostID, when(b.Made), b.Who)
	if b.Comment != "" {
		text += ", " + b.Comment
	}
	if b.LastHeard.After(b.Made) {
		text += w.heard
	}
	return text
}

// printMaintenance prints what was done, or taken back.
func (p *program) printMaintenance(m registry.Maintenance, text string) error {
	if p.json {
		return p.printJSON(m)
	}
	p.paragraph("", text)
	return nil
}

// remedied adds to errors of maintenance what to do.
func remedied(err error) error {
	switch {
	case errors.Is(err, registry.ErrUnknown):
		return fmt.Errorf("%w: samehost-manager assets --all and samehost-manager deletions list those that are known", err)
	case errors.Is(err, registry.ErrClash):
		return fmt.Errorf("%w: samehost-manager conflicts show", err)
	}
	return err
}

type deleteCmd struct {
	HostID hostArg `arg:"" name:"hostid" help:"Any host ID of the asset, 32 hex digits."`
}

func (c *deleteCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		m, err := reg.Delete(ctx, c.HostID.ID, operator())
		if err != nil {
			return remedied(err)
		}
		return p.printMaintenance(m, p.in("%s is deleted: deletion %[2]d. Nothing of it is erased; samehost-manager restore %[2]d brings all of it back, and so does the next check-in of its PC.", m.Name, m.ID))
	})
}

type restoreCmd struct {
	What string `arg:"" name:"hostid" help:"Any host ID of the asset, or the number of a deletion."`
}

func (c *restoreCmd) Run(ctx context.Context, p *program) error {
	var host hostArg
	number, notNumber := strconv.ParseInt(c.What, 10, 32)
	if notNumber != nil {
		if err := host.UnmarshalText([]byte(c.What)); err != nil {
			return usageError(fmt.Sprintf("restore: %q is neither a host ID nor the number of a deletion", c.What))
		}
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) (err error) {
		var m registry.Maintenance
		if notNumber == nil {
			m, err = reg.RestoreDeletion(ctx, number, operator())
		} else {
			m, err = reg.Restore(ctx, host.ID, operator())
		}
		if err != nil {
			return remedied(err)
		}
		return p.printMaintenance(m, p.in("%s is restored.", m.Name))
	})
}

type deletionsCmd struct{}

func (c *deletionsCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		all, err := reg.Deletions(ctx)
		if err != nil {
			return err
		}
		t := table{columns: []column{{"NO.", 4}, {"DELETED", 16}, {"BY", 9}, {"NAME", 13}, {"CHECK-IN", 16}, {"RESTORED", 12}}}
		for _, m := range all {
			if p.json {
				if err := p.printJSON(m); err != nil {
					return err
				}
				continue
			}
			restored := "-"
			if !m.Ended.IsZero() {
				restored = m.Ended.Local().Format("2006-01-02")
				if m.EndedTrigger == registry.ByCheckIn {
					restored += " *"
				}
			}
			t.add(fmt.Sprint(m.ID), when(m.Made), m.Who, m.Name, when(m.LastCheckin), restored)
			t.below(joinedIDs(m.HostIDs))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

func joinedIDs(ids []hostid.ID) string {
	var all []string
	for _, id := range ids {
		all = append(all, id.String())
	}
	return strings.Join(all, " ")
}

type retireCmd struct {
	HostID   hostArg `arg:"" name:"hostid" help:"Any host ID of the asset, 32 hex digits."`
	ClearAMT bool    `name:"clear-amt" help:"First remove our application, and nothing else, from its AMT."`
	Undo     bool    `help:"Take back that it is retired."`
}

func (c *retireCmd) Run(ctx context.Context, p *program) error {
	if c.Undo && c.ClearAMT {
		return usageError("--undo and --clear-amt exclude each other: what was removed from an AMT cannot be put back from here")
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		if c.Undo {
			m, err := reg.Unretire(ctx, c.HostID.ID, operator())
			if err != nil {
				return remedied(err)
			}
			return p.printMaintenance(m, p.in("%s is retired no longer.", m.Name))
		}
		var clear *amtinit.Options
		if c.ClearAMT {
			o, warnings, err := p.amtOptions()
			if err != nil {
				return err
			}
			for _, w := range warnings {
				p.say(w)
			}
			clear = &o
		}
		done, err := manager.Retire(ctx, reg, c.HostID.ID, clear, operator())
		if err != nil {
			return remedied(err)
		}
		if p.json {
			return p.printJSON(done)
		}
		if cleared := done.Cleared; cleared != nil {
			text := p.in("Our application is removed from its AMT at %s.", cleared.Address)
			if !cleared.Removed {
				text = p.in("Its AMT at %s holds nothing of ours.", cleared.Address)
			}
			p.paragraph("", text)
			if len(cleared.Left) > 0 {
				p.say(p.in("an application of our names stays there, under enterprise %s: [amt] enterprise in %s names another", strings.Join(cleared.Left, ", "), p.config))
			}
		}
		if m := done.Retired; m != nil {
			p.paragraph("", p.in("%s is retired. If its PC should check in it is served, and stays retired; samehost-manager retire --undo takes that back.", m.Name))
		}
		return nil
	})
}

// amtOptions says how the AMT of PCs is reached, as the configuration has it now, and what is to be said about that.
func (p *program) amtOptions() (o amtinit.Options, warnings []string, err error) {
	c, err := p.load()
	if err != nil {
		return o, nil, err
	}
	if c.AMT, err = amtsettings.WithKept(c.AMT, c.DataDir); err != nil {
		return o, nil, err
	}
	if !c.AMT.InUse && c.AMT.Given == nil {
		return o, nil, fmt.Errorf("%s: %w", p.config, manager.ErrNoAMT)
	}
	password, err := c.AMT.Password()
	if err != nil {
		return o, nil, fmt.Errorf("%s: %w", p.config, err)
	}
	o = amtinit.Options{
		User: c.AMT.User, Password: wsman.Secret(password.Reveal()), Enterprise: c.AMT.Enterprise,
		TLS: c.AMT.TLS, AddressFirst: c.Dcmamtin.Resolve == "file",
	}
	if o.Port, err = c.AMT.PortNumber(); err != nil {
		return o, nil, fmt.Errorf("%s: %w", p.config, err)
	}
	if o.RootCAs, o.PinSPKI, err = c.AMT.Trust(); err != nil {
		return o, nil, fmt.Errorf("%s: %w", p.config, err)
	}
	return o, c.AMT.Warnings(), nil
}

type replaceCmd struct {
	Old  hostArg  `arg:"" name:"old" help:"Any host ID of the PC that leaves."`
	New  *hostArg `arg:"" optional:"" name:"new" help:"Any host ID of the PC that takes its place."`
	Undo bool     `help:"Take back that another PC took the place of OLD."`
}

func (c *replaceCmd) Run(ctx context.Context, p *program) error {
	switch {
	case c.Undo && c.New != nil:
		return usageError("replace --undo takes the host ID of the PC that was replaced, and no other")
	case !c.Undo && c.New == nil:
		return usageError("replace: name the host ID of the PC that takes its place, too")
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		if c.Undo {
			m, err := reg.UndoReplace(ctx, c.Old.ID, operator())
			if err != nil {
				return remedied(err)
			}
			return p.printMaintenance(m, p.in("%s is an asset of its own again.", m.Name))
		}
		m, err := reg.Replace(ctx, c.Old.ID, c.New.ID, operator())
		if err != nil {
			return remedied(err)
		}
		return p.printMaintenance(m, p.in("Host ID %s took the place of %s (host ID %[3]s), which is retired. Its history is the new PC's too; nothing that the old PC reports changes what is known of the new one. samehost-manager replace --undo %[3]s takes that back.", c.New.ID, m.Name, c.Old.ID))
	})
}

type archiveCmd struct {
	OlderThan int  `required:"" placeholder:"DAYS" help:"Assets that have not been heard for so many days."`
	DryRun    bool `help:"Only say which."`
}

func (c *archiveCmd) Run(ctx context.Context, p *program) error {
	if c.OlderThan < 1 || c.OlderThan > 36500 {
		return usageError("--older-than must be a number of days from 1 to 36500")
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		done, err := reg.Archive(ctx, c.OlderThan, c.DryRun, operator())
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(done)
		}
		if len(done.Assets) > 0 && done.ContactDays < c.OlderThan {
			p.say(p.in("check-ins came on %d of these %d days only; on the others nobody could be heard", done.ContactDays, c.OlderThan))
		}
		if len(done.Assets) == 0 {
			p.paragraph("", p.in("No asset has been silent for that long."))
			return nil
		}
		t := table{columns: []column{{"HOST ID", 32}, {"NAME", 20}, {"CHECK-IN", 16}}}
		for _, a := range done.Assets {
			t.add(a.HostID.String(), a.Name, when(a.LastCheckin))
		}
		p.table(t)
		text := p.in("%d archived; each comes back with its next check-in, or with samehost-manager restore.", len(done.Assets))
		if c.DryRun {
			text = p.in("%d would be archived.", len(done.Assets))
		}
		p.paragraph("", text)
		return nil
	})
}

type duplicatesCmd struct {
	List     duplicatesListCmd  `cmd:"" default:"withargs" help:"List pairs of assets that agree, though their host IDs differ." example:"duplicates list; duplicates list --by mac,name"`
	Merge    duplicatesMergeCmd `cmd:"" help:"They are one PC: one asset of both." example:"duplicates merge HOSTID OTHER; duplicates merge HOSTID OTHER --json"`
	KeepBoth duplicatesKeepCmd  `cmd:"" help:"They are two PCs: never proposed again." example:"duplicates keep-both HOSTID OTHER; duplicates keep-both HOSTID OTHER --json"`
}

type duplicatesListCmd struct {
	By []string `default:"mac,ip,name" placeholder:"LIST" help:"Agree in each of these: mac, ip, name (default: all)."`
}

func (c *duplicatesListCmd) Run(ctx context.Context, p *program) error {
	var by []registry.Agreement
	for _, b := range c.By {
		by = append(by, registry.Agreement(b))
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		all, err := reg.Duplicates(ctx, by)
		if errors.Is(err, registry.ErrUnknown) {
			return usageError("--by: " + err.Error())
		}
		if err != nil {
			return err
		}
		t := table{columns: []column{{"HOST ID", 32}, {"NAME", 14}, {"STATE", 8}}}
		for _, d := range all {
			if p.json {
				if err := p.printJSON(d); err != nil {
					return err
				}
				continue
			}
			t.add(d.HostID.String(), d.Name, string(d.State))
			t.below(p.in("may be %s %s (%s): %s", d.Other, d.OtherName, d.OtherState, strings.Join(d.Values, " ")))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

type duplicatesMergeCmd struct{ pairArgs }
type duplicatesKeepCmd struct{ pairArgs }

// pairArgs are the two assets of a duplicate.
type pairArgs struct {
	One   hostArg `arg:"" name:"hostid" help:"Any host ID of one of them."`
	Other hostArg `arg:"" name:"other" help:"Any host ID of the other one."`
}

func (c *duplicatesMergeCmd) Run(ctx context.Context, p *program) error {
	return c.decide(ctx, p, registry.Merge, p.in("They are one asset from now on."))
}

func (c *duplicatesKeepCmd) Run(ctx context.Context, p *program) error {
	return c.decide(ctx, p, registry.KeepBoth, p.in("They stay two assets, and are not proposed again."))
}

func (c *pairArgs) decide(ctx context.Context, p *program, verb registry.Verb, text string) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		r, err := reg.DecideDuplicate(ctx, c.One.ID, c.Other.ID, verb, systemUser())
		if err != nil {
			return remedied(err)
		}
		if p.json {
			return p.printJSON(r)
		}
		p.paragraph("", p.in("%s samehost-manager conflicts undo %d takes that back.", text, r.Conflict))
		return nil
	})
}

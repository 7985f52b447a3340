package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/hostid"
	"samehost/internal/manager"
	"samehost/internal/registry"
)

type assetsCmd struct {
	NotInitialized bool `help:"Only PCs without initialized memory, and why."`
	Retired        bool `help:"Only those that are retired."`
	Archived       bool `help:"Only those that are archived."`
	All            bool `help:"Also those that are retired or archived."`
}

func (c *assetsCmd) Run(ctx context.Context, p *program) error {
	return p.withInitializations(ctx, func(reg *registry.Registry) error {
		assets, err := reg.Assets(ctx)
		if err != nil {
			return err
		}
		these := registry.AssetFilter{Retired: c.Retired, Archived: c.Archived, All: c.All, NotInitialized: c.NotInitialized}
		t := table{columns: []column{{"HOST ID", 32}, {"NAME", 12}, {"STATE", 8}, {"INIT", 4}, {"CHECK-IN", 16}}}
		for _, a := range assets {
			if !these.Shows(a.Asset) {
				continue
			}
			if p.json {
				if err := p.printJSON(a.Asset); err != nil {
					return err
				}
				continue
			}
			t.add(a.HostID.String(), a.Name, string(a.State), p.yesNo(a.Initialized), when(a.LastCheckin))
			if c.NotInitialized && a.Initialization != nil {
				t.below(attemptText(*a.Initialization, p.lang))
			}
		}
		if c.NotInitialized {
			unmatched, err := reg.Unmatched(ctx)
			if err != nil {
				return err
			}
			for _, u := range unmatched {
				if p.json {
					if err := p.printJSON(u); err != nil {
						return err
					}
					continue
				}
				t.add("-", u.Name, string(u.State), p.yesNo(&u.Initialized), when(time.Time{}))
				t.below(attemptText(u.Initialization, p.lang))
			}
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

// withInitializations is withRegistry after what dcmamtin did meanwhile has been imported. What cannot be imported is
// told, and the rest is shown.
func (p *program) withInitializations(ctx context.Context, f func(*registry.Registry) error) error {
	c, err := p.load()
	if err != nil {
		return err
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		err := manager.ImportInitializations(ctx, reg, c.DataDir, func(text string) { p.say(text) })
		if err != nil {
			p.say(fmt.Errorf("what dcmamtin did of late may be missing: %w", manager.WithRemedy(err)))
		}
		return f(reg)
	})
}

// attemptText tells an attempt to initialize a PC: when, by whom, what came of it.
func attemptText(i registry.Initialization, l registry.Language) string {
	text := map[registry.Language]struct{ by, ok, already, name string }{
		registry.English:  {"%s, %s on %s: ", "initialized", "was initialized already", " (told by its name)"},
		registry.Japanese: {"%s %[3]s の %[2]s が実行: ", "初期設定しました", "初期設定済みでした", " (ホスト名で特定)"},
	}[l]
	s := fmt.Sprintf(text.by, when(i.Finished), i.By, i.Machine)
	switch {
	case i.OK && i.Already:
		s += text.already
	case i.OK:
		s += text.ok
	default:
		s += strings.TrimSpace(i.MessageID + " " + i.Cause.In(l))
		if i.Detail != "" {
			s += " [" + i.Detail + "]"
		}
	}
	if i.Matched == registry.ByName {
		s += text.name
	}
	return s
}

func (p *program) yesNo(b *bool) string {
	switch {
	case b == nil:
		return "?"
	case *b:
		return p.in("yes")
	default:
		return p.in("no")
	}
}

// hostArg is a host ID on the command line.
type hostArg struct{ hostid.ID }

// UnmarshalText reads 32 hex digits; capitals are read too.
func (h *hostArg) UnmarshalText(b []byte) error {
	if h.ID.UnmarshalText([]byte(strings.ToLower(string(b)))) != nil {
		return fmt.Errorf("%q is no host ID: 32 hex digits, as samehost-manager assets shows them", b)
	}
	return nil
}

type assetCmd struct {
	HostID hostArg `arg:"" name:"hostid" help:"Any host ID of the asset, 32 hex digits."`
}

func (c *assetCmd) Run(ctx context.Context, p *program) error {
	return p.withInitializations(ctx, func(reg *registry.Registry) error {
		a, err := reg.Asset(ctx, c.HostID.ID)
		if err != nil {
			return unknownHost(err)
		}
		events, err := reg.HistoryOf(ctx, c.HostID.ID)
		if err != nil {
			return err
		}
		orders, err := reg.OrdersOf(ctx, c.HostID.ID)
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(struct {
				manager.AssetWithOrders
				History []manager.Event `json:"history"`
			}{manager.AssetWithOrders{AssetDetail: a, Orders: append([]registry.Order{}, orders...)}, manager.Events(events, p.lang)})
		}
		p.printAsset(a, orders, events[max(0, len(events)-5):])
		return nil
	})
}

func unknownHost(err error) error {
	if errors.Is(err, registry.ErrUnknown) {
		return fmt.Errorf("%w: samehost-manager assets lists those that are known", err)
	}
	return err
}

func (p *program) printAsset(a registry.AssetDetail, orders []registry.Order, last []registry.Event) {
	width := map[registry.Language]int{registry.English: 16, registry.Japanese: 17}[p.lang]
	label := func(name string) string { return fit(name, width) }
	row := func(name, value string) {
		if value != "" {
			p.paragraph(label(name), value)
		}
	}
	row(p.in("host ID"), a.HostID.String())
	row(p.in("name"), a.Name)
	row("FQDN", a.Seen.FQDN)
	row(p.in("state"), string(a.State))
	if m := a.Maintenance; m != nil {
		row("", maintenanceText(*m, a.HeardSince, p.lang))
	}
	row(p.in("initialized"), p.yesNo(a.Initialized))
	if i := a.Initialization; i != nil {
		row(p.in("last attempt"), attemptText(*i, p.lang))
		for _, r := range amtinit.Reasons() {
			if string(r.Code) == i.Reason {
				row(p.in("what to do"), r.Remedy.In(amtinit.Lang(p.lang)))
			}
		}
	}
	row(p.in("last check-in"), when(a.LastCheckin))
	row(p.in("addresses"), strings.Join(a.Seen.Addresses, ", "))
	row(p.in("system"), a.Seen.Versions.OS)
	row(p.in("client"), a.Seen.Versions.Client)
	row(p.in("origin"), string(a.Seen.Origin))
	for _, s := range a.Seen.Stores {
		text := s.Name + ": " + s.State
		if !s.HostID.IsZero() {
			text += " (" + s.HostID.String() + ")"
		}
		if s.Error != "" {
			text += ": " + s.Error
		}
		row(p.in("store"), text)
	}
	row(p.in("system UUID"), a.Facts.SystemUUID)
	row(p.in("system serial"), a.Facts.SystemSerial)
	row(p.in("board serial"), a.Facts.BoardSerial)
	row(p.in("chassis serial"), a.Facts.ChassisSerial)
	for _, d := range a.Facts.Disks {
		text := d.Serial
		if d.System {
			text += p.in(" (system)")
		}
		row(p.in("disk"), text)
	}
	for _, n := range a.Facts.NICs {
		text := n.MAC
		if n.Onboard {
			text += p.in(" (onboard)")
		}
		row(p.in("network"), text)
	}
	for _, h := range a.Hosts {
		text := h.HostID.String()
		if h.Enrolled.IsZero() {
			text += p.in(" never enrolled")
		} else {
			text += p.in(" enrolled %s", when(h.Enrolled))
		}
		if h.ReplacedBy != "" {
			text += p.in(", replaced by %s", h.ReplacedBy)
		}
		if h.CopyOf != "" {
			text += p.in(", copy of %s", h.CopyOf)
		}
		if h.Blocked {
			text += p.in(", blocked")
		} else if h.BlockedBranches > 0 {
			text += p.in(", %d of %d branches blocked", h.BlockedBranches, h.Branches)
		}
		row(p.in("had host ID"), text)
	}
	for _, b := range a.Predecessors {
		row(p.in("predecessor"), predecessorText(b, p.lang))
	}
	for _, c := range a.Open {
		row(p.in("conflict %d", c.ID), c.Sentence(p.lang))
		if c.Status == registry.Parked {
			row("", p.in("waits until deletion %d is taken back", c.ParkedBy))
		}
	}
	for _, o := range orders {
		row(p.in("order"), o.Sentence(p.lang))
		p.paragraph(label(""), orderState(o, p.lang))
	}
	for _, e := range last {
		p.paragraph(when(e.At)+"  ", e.Sentence(p.lang))
	}
}

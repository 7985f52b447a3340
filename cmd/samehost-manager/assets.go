package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"samehost/internal/hostid"
	"samehost/internal/registry"
)

type assetsCmd struct {
	NotInitialized bool `help:"Only those whose memory is known not to be initialized."`
}

func (c *assetsCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		assets, err := reg.Assets(ctx)
		if err != nil {
			return err
		}
		t := table{columns: []column{{"HOST ID", 32}, {"NAME", 13}, {"STATE", 8}, {"INIT", 3}, {"CHECK-IN", 16}}}
		for _, a := range assets {
			if c.NotInitialized && (a.Initialized == nil || *a.Initialized) {
				continue
			}
			if p.json {
				if err := p.printJSON(a.Asset); err != nil {
					return err
				}
				continue
			}
			t.add(a.HostID.String(), a.Name, string(a.State), yesNo(a.Initialized), when(a.LastCheckin))
		}
		if !p.json {
			t.print(p.stdout)
		}
		return nil
	})
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "?"
	case *b:
		return "yes"
	default:
		return "no"
	}
}

// hostArg is a host ID on the command line.
type hostArg struct{ hostid.ID }

// UnmarshalText reads 32 hex digits; capitals are read too.
func (h *hostArg) UnmarshalText(b []byte) error {
	return h.ID.UnmarshalText([]byte(strings.ToLower(string(b))))
}

type assetCmd struct {
	HostID hostArg `arg:"" name:"hostid" help:"Any host ID of the asset, 32 hex digits."`
	Lang   string  `enum:"en,ja" default:"${lang}" placeholder:"LANG" help:"Language of the history: en or ja."`
}

func (c *assetCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		a, err := reg.Asset(ctx, c.HostID.ID)
		if err != nil {
			return unknownHost(err)
		}
		events, err := reg.HistoryOf(ctx, c.HostID.ID)
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(struct {
				registry.AssetDetail
				History []told `json:"history"`
			}{a, tell(events, c.Lang)})
		}
		p.printAsset(a, events[max(0, len(events)-5):], registry.Language(c.Lang))
		return nil
	})
}

func unknownHost(err error) error {
	if errors.Is(err, registry.ErrUnknown) {
		return fmt.Errorf("%w: samehost-manager assets lists those that are known", err)
	}
	return err
}

func (p *program) printAsset(a registry.AssetDetail, last []registry.Event, lang registry.Language) {
	row := func(name, value string) {
		if value != "" {
			p.paragraph(fit(name, 16), value)
		}
	}
	row("host ID", a.HostID.String())
	row("name", a.Name)
	row("FQDN", a.Seen.FQDN)
	row("state", string(a.State))
	row("initialized", yesNo(a.Initialized))
	row("last check-in", when(a.LastCheckin))
	row("addresses", strings.Join(a.Seen.Addresses, ", "))
	row("system", a.Seen.Versions.OS)
	row("client", a.Seen.Versions.Client)
	row("origin", string(a.Seen.Origin))
	for _, s := range a.Seen.Stores {
		text := s.Name + ": " + s.State
		if !s.HostID.IsZero() {
			text += " (" + s.HostID.String() + ")"
		}
		if s.Error != "" {
			text += ": " + s.Error
		}
		row("store", text)
	}
	row("system UUID", a.Facts.SystemUUID)
	row("system serial", a.Facts.SystemSerial)
	row("board serial", a.Facts.BoardSerial)
	row("chassis serial", a.Facts.ChassisSerial)
	for _, d := range a.Facts.Disks {
		text := d.Serial
		if d.System {
			text += " (system)"
		}
		row("disk", text)
	}
	for _, n := range a.Facts.NICs {
		text := n.MAC
		if n.Onboard {
			text += " (onboard)"
		}
		row("network", text)
	}
	for _, h := range a.Hosts {
		text := h.HostID.String()
		if h.Enrolled.IsZero() {
			text += " never enrolled"
		} else {
			text += " enrolled " + when(h.Enrolled)
		}
		if h.ReplacedBy != "" {
			text += ", replaced by " + h.ReplacedBy
		}
		if h.CopyOf != "" {
			text += ", copy of " + h.CopyOf
		}
		row("had host ID", text)
	}
	for _, c := range a.Open {
		row(fmt.Sprint("conflict ", c.ID), c.Sentence(lang))
	}
	for _, e := range last {
		p.paragraph(when(e.At)+"  ", e.Sentence(lang))
	}
}

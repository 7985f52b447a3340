package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"samehost/internal/registry"
)

type relaysCmd struct{}

func (c *relaysCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		relays, err := reg.Relays(ctx)
		if err != nil {
			return err
		}
		names := map[string]string{}
		for _, r := range relays {
			names[r.HostID.String()] = r.Name
		}
		t := table{columns: []column{{"HOST ID", 32}, {"NAME", 13}, {"STATE", 7}, {"CONTACT", 16}, {"BACKLOG", 7}}}
		for _, r := range relays {
			if p.json {
				if err := p.printJSON(r); err != nil {
					return err
				}
				continue
			}
			backlog := "-"
			if r.Reported != nil {
				backlog = fmt.Sprint(r.Reported.Reports)
			}
			t.add(r.HostID.String(), r.Name, r.State, when(r.LastContact), backlog)
			t.below(strings.Join(relayLines(r, names), "; "))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

// relayLines are what does not fit into a row.
func relayLines(r registry.Relay, names map[string]string) []string {
	route := `\`
	for i := len(r.Via) - 1; i >= 0; i-- { // as ROOT is written, from the manager down
		name := names[r.Via[i].String()]
		if name == "" {
			name = r.Via[i].String()
		}
		route = strings.TrimSuffix(route, `\`) + `\` + name
	}
	lines := []string{"route " + route}
	switch {
	case r.Expires.IsZero():
		lines = append(lines, "no certificate was issued yet")
	default:
		lines = append(lines, "certificate valid until "+when(r.Expires))
	}
	if s := r.Reported; s != nil && (s.Reports > 0 || s.Refused > 0) {
		lines = append(lines, fmt.Sprintf("spool: %d reports, %d of %d MB, the oldest waits for %s; %d turned away since it started",
			s.Reports, s.Bytes>>20, s.Bound>>20, time.Duration(s.OldestS)*time.Second, s.Refused))
	}
	if r.OpenWork > 0 {
		lines = append(lines, fmt.Sprintf("%d of its work is open", r.OpenWork))
	}
	return lines
}

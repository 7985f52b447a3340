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
			t.below(strings.Join(p.relayLines(r, names), p.in("; ")))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

// relayLines are what does not fit into a row.
func (p *program) relayLines(r registry.Relay, names map[string]string) []string {
	route := `\`
	for i := len(r.Via) - 1; i >= 0; i-- { // as ROOT is written, from the manager down
		name := names[r.Via[i].String()]
		if name == "" {
			name = r.Via[i].String()
		}
		route = strings.TrimSuffix(route, `\`) + `\` + name
	}
	lines := []string{p.in("route %s", route)}
	switch {
	case r.Expires.IsZero():
		lines = append(lines, p.in("no certificate was issued yet"))
	default:
		lines = append(lines, p.in("certificate valid until %s", when(r.Expires)))
	}
	if s := r.Reported; s != nil && (s.Reports > 0 || s.Refused > 0) {
		lines = append(lines, p.in("reports in its spool: %d, %d of %d MB, the oldest waits for %s", s.Reports, s.Bytes>>20, s.Bound>>20, time.Duration(s.OldestS)*time.Second),
			p.in("turned away since it started: %d", s.Refused))
	}
	if r.OpenWork > 0 {
		lines = append(lines, p.in("work open: %d", r.OpenWork))
	}
	return lines
}

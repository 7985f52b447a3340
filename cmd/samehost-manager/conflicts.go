package main

import (
	"context"
	"errors"
	"fmt"

	"samehost/internal/hostid"
	"samehost/internal/manager"
	"samehost/internal/registry"
)

type conflictsCmd struct {
	List    conflictsListCmd    `cmd:"" help:"List the open conflicts." example:"conflicts list; conflicts list --closed --lang ja"`
	Show    conflictsShowCmd    `cmd:"" help:"Show one: evidence, what a rule would do, verbs and orders." example:"conflicts show 3; conflicts show 3 --json"`
	Resolve conflictsResolveCmd `cmd:"" help:"Decide one: merge, keep-both or block." example:"conflicts resolve 3 merge --dry-run; conflicts resolve 3 keep-both"`
	Undo    conflictsUndoCmd    `cmd:"" help:"Take back what was decided last about one." example:"conflicts undo 3; conflicts undo 3 --json"`
}

type conflictsListCmd struct {
	Closed bool `help:"Those that are closed, the one closed last first."`
	Limit  int  `default:"100" placeholder:"N" help:"With --closed: so many (default: 100)."`
}

func (c *conflictsListCmd) Run(ctx context.Context, p *program) error {
	if c.Limit < 1 {
		return usageError("--limit must be 1 or more")
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		conflicts, err := reg.Conflicts(ctx)
		if c.Closed {
			conflicts, err = reg.ClosedConflicts(ctx, c.Limit)
		}
		if err != nil {
			return err
		}
		for _, k := range manager.Conflicts(conflicts, p.lang) {
			if p.json {
				if err := p.printJSON(k); err != nil {
					return err
				}
				continue
			}
			at := k.Opened
			if c.Closed {
				at = k.Closed
			}
			p.paragraph(fmt.Sprintf("%4d  %s  %-7s  ", k.ID, when(at), k.Status), k.Sentence)
		}
		return nil
	})
}

type conflictsShowCmd struct {
	ID int64 `arg:"" name:"id" help:"Number of the conflict, as conflicts list shows it."`
}

func (c *conflictsShowCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		k, err := manager.ShowConflict(ctx, reg, c.ID, true, p.lang)
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(k)
		}
		names := map[hostid.ID]string{}
		for _, id := range []hostid.ID{k.HostID, k.Other} {
			if a, err := reg.Asset(ctx, id); err == nil && a.Name != "" {
				names[id] = a.Name
			} else if err != nil && !errors.Is(err, registry.ErrUnknown) {
				return err
			}
		}
		p.printConflict(k, names, p.lang)
		return nil
	})
}

// conflictWords are the words beside the values of a conflict.
var conflictWords = map[registry.Language]struct {
	conflict, status, opened, closed, hostID, otherID, copies, what, fact, state, known, reported, rule, mode, byHand, parked, decided, undone, order, none, acknowledged, void, waits string
	states                                                                                                                                                                             map[string]string
}{
	registry.English: {
		conflict: "conflict", status: "status", opened: "opened", closed: "closed", hostID: "host ID", otherID: "other host ID", copies: "copy of it", what: "what happened",
		fact: "FACT", state: "STATE", known: "KNOWN", reported: "REPORTED", rule: "rule", mode: "[rule %s: %s]", byHand: "proposal",
		parked:  "samehost-manager restore %d asks again: an asset that it is about is deleted",
		decided: "%s by %s: %s", undone: "undone %s by %s", order: "order", none: "will be given with the next report of the PC",
		acknowledged: "acknowledged %s under host ID %s", void: "void since %s", waits: "given %s, not acknowledged yet",
		states: map[string]string{registry.Equal: "equal", registry.Different: "different", registry.IsPlaceholder: "placeholder", registry.IsUnknown: "unknown"},
	},
	registry.Japanese: {
		conflict: "競合", status: "状態", opened: "発生日時", closed: "終了日時", hostID: "ホスト識別子", otherID: "相手の識別子", copies: "複製", what: "内容",
		fact: "情報", state: "比較", known: "登録済み", reported: "報告", rule: "規則", mode: "[規則 %s: %s]", byHand: "解決案",
		parked:  "関係する資産が削除されています。samehost-manager restore %d で再び未解決になります",
		decided: "%s %s: %s", undone: "%s に %s が取り消し", order: "指示", none: "PC の次の報告に対して送ります",
		acknowledged: "%s にホスト識別子 %s で確認", void: "%s に無効", waits: "%s に送信、未確認",
		states: map[string]string{registry.Equal: "一致", registry.Different: "不一致", registry.IsPlaceholder: "無効値", registry.IsUnknown: "不明"},
	},
}

func (p *program) printConflict(k manager.Conflict, names map[hostid.ID]string, l registry.Language) {
	w := conflictWords[l]
	row := func(name, value string) { p.paragraph(fit(name, 16), value) }
	host := func(id hostid.ID) string {
		if name := names[id]; name != "" {
			return id.String() + " " + name
		}
		return id.String()
	}
	row(w.conflict, fmt.Sprint(k.ID, " ", k.Kind))
	row(w.status, string(k.Status))
	if k.ParkedBy != 0 {
		row("", fmt.Sprintf(w.parked, k.ParkedBy))
	}
	row(w.opened, when(k.Opened))
	if !k.Closed.IsZero() {
		row(w.closed, when(k.Closed))
	}
	row(w.hostID, host(k.HostID))
	if !k.Other.IsZero() {
		row(w.otherID, host(k.Other))
	}
	for _, id := range k.Copies {
		row(w.copies, id.String())
	}
	row(w.what, k.Sentence)
	if len(k.Fields) > 0 {
		t := table{wraps: true, columns: []column{{w.fact, 14}, {w.state, 11}, {w.known, 24}, {w.reported, 24}}}
		for _, f := range k.Fields {
			t.add(f.Fact, w.states[f.State], orDash(f.Known), orDash(f.Reported))
		}
		fmt.Fprintln(p.stdout)
		p.table(t)
		fmt.Fprintln(p.stdout)
	}
	proposal := k.ProposalSentence
	if k.Proposal.Rule != "" {
		proposal += " " + fmt.Sprintf(w.mode, k.Proposal.Rule, k.Proposal.Mode)
	}
	if k.Status == registry.Waiting { // afterwards it is what was decided
		row(w.byHand, proposal)
	}
	for _, v := range k.Previews {
		row(string(v.Verb), v.Verb.Sentence(l))
		for _, s := range v.Sentences {
			row("", s)
		}
	}
	for _, d := range k.Decided {
		row(string(d.Verb), fmt.Sprintf(w.decided, when(d.Made), d.Who, d.Verb.Sentence(l)))
		for _, o := range d.Orders {
			row("  "+w.order, o.Sentence(l))
			row("", orderState(o, l))
		}
		switch {
		case !d.Undone.IsZero():
			row("", fmt.Sprintf(w.undone, when(d.Undone), d.UndoneBy))
		case k.Status == registry.Ordered && len(d.Orders) == 0:
			row("  "+w.order, w.none)
		}
	}
}

// orderState tells how an order stands.
func orderState(o registry.Order, l registry.Language) string {
	w := conflictWords[l]
	switch {
	case !o.Acknowledged.IsZero():
		return fmt.Sprintf(w.acknowledged, when(o.Acknowledged), o.By)
	case !o.Void.IsZero():
		return fmt.Sprintf(w.void, when(o.Void))
	}
	return fmt.Sprintf(w.waits, when(o.Issued))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type conflictsResolveCmd struct {
	ID     int64  `arg:"" name:"id" help:"Number of the conflict, as conflicts list shows it."`
	Verb   string `arg:"" name:"verb" enum:"merge,keep-both,block" help:"merge: one PC. keep-both: two PCs. block: its reports change nothing."`
	DryRun bool   `help:"Only say what it would do."`
}

func (c *conflictsResolveCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		l, verb := p.lang, registry.Verb(c.Verb)
		preview, err := manager.PreviewConflict(ctx, reg, c.ID, verb, l)
		if err != nil {
			return withUndo(err, c.ID)
		}
		if !c.DryRun {
			k, err := manager.ResolveConflict(ctx, reg, c.ID, verb, systemUser(), l)
			if err != nil {
				return withUndo(err, c.ID)
			}
			if p.json {
				return p.printJSON(k)
			}
			p.printStatus(k, l)
		} else if p.json {
			return p.printJSON(preview)
		}
		for _, s := range append([]string{verb.Sentence(l)}, preview.Sentences...) {
			p.paragraph("", s)
		}
		return nil
	})
}

// withUndo adds the command that would make room for another decision.
func withUndo(err error, id int64) error {
	if errors.Is(err, registry.ErrResolved) {
		return fmt.Errorf("%w: samehost-manager conflicts undo %d", err, id)
	}
	return err
}

func (p *program) printStatus(k manager.Conflict, l registry.Language) {
	text := map[registry.Language]map[registry.Status]string{
		registry.English:  {registry.Waiting: "is open again", registry.Ordered: "is decided; it closes when the PCs have acknowledged", registry.Closed: "is decided and closed", registry.Parked: "waits until the asset that it is about is restored"},
		registry.Japanese: {registry.Waiting: "は再び未解決です", registry.Ordered: "を解決しました。PC の確認後に終了します", registry.Closed: "を解決し、終了しました", registry.Parked: "は、関係する資産が復元されるまで保留します"},
	}[l][k.Status]
	if l == registry.Japanese {
		p.paragraph("", fmt.Sprintf("競合 %d %s。", k.ID, text))
		return
	}
	p.paragraph("", fmt.Sprintf("Conflict %d %s.", k.ID, text))
}

type conflictsUndoCmd struct {
	ID int64 `arg:"" name:"id" help:"Number of the conflict, as conflicts list --closed shows it."`
}

func (c *conflictsUndoCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		k, err := manager.UndoConflict(ctx, reg, c.ID, systemUser(), p.lang)
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(k)
		}
		p.printStatus(k, p.lang)
		return nil
	})
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/config"
	"samehost/internal/layout"
	"samehost/internal/manager"
	"samehost/internal/registry"
	"samehost/internal/sysconfig"
	"samehost/internal/terminal"
)

type initializeCmd struct {
	Hosts          []string `arg:"" optional:"" name:"host" help:"Host IDs, host names or addresses."`
	NotInitialized bool     `help:"Every PC whose memory is known not to be initialized."`
	File           string   `placeholder:"FILE" help:"Every PC of this system configuration information file."`
	DryRun         bool     `help:"Look only, and change nothing."`
	RetryFailed    bool     `help:"Of these PCs, only those whose last attempt failed."`
	Parallel       int      `placeholder:"N" help:"PCs at a time on each route, 1 to 4096 (default: 1024)."`
	NoWait         bool     `help:"Start it and end; initializations show tells how far it is."`
	Progress       string   `enum:"auto,plain,none" default:"auto" placeholder:"WORD" help:"Bar, lines or nothing while it runs: auto, plain or none."`
}

// errNotAll says that a run ended, and not well for every PC; the table has said the rest.
var errNotAll = errors.New("not every PC is initialized")

func (c *initializeCmd) Run(ctx context.Context, p *program) error { return p.ofRuns(c.run(ctx, p)) }

func (c *initializeCmd) run(ctx context.Context, p *program) error {
	lang := amtinit.Lang(p.lang)
	if c.Parallel < 0 || c.Parallel > amtinit.MaxParallel {
		return usageError(fmt.Sprintf(textParallel.In(lang), amtinit.MaxParallel))
	}
	n := manager.NewRun{NotInitialized: c.NotInitialized, Hosts: c.Hosts, DryRun: c.DryRun, RetryFailed: c.RetryFailed, Parallel: c.Parallel}
	given := 0
	for _, is := range []bool{c.NotInitialized, len(c.Hosts) > 0, c.File != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return usageError(textNamePCs.In(lang))
	}
	if c.File != "" {
		text, err := readRunFile(c.File, lang)
		if err != nil {
			return err
		}
		n.File = text
		if n.Name, err = filepath.Abs(c.File); err != nil {
			return fmt.Errorf("initialize: %w", err)
		}
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		l := p.lang
		run, err := manager.StartRun(ctx, reg, n, "", systemUser(), l)
		if wrong, is := errors.AsType[*sysconfig.SyntaxError](err); is {
			return fmt.Errorf(textWrongFile.In(lang), c.File, wrong)
		}
		if errors.Is(err, registry.ErrNoTargets) && c.RetryFailed {
			fmt.Fprintln(p.stdout, textNothingFailed.In(amtinit.Lang(p.lang)))
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range run.Remarks {
			p.say(r)
		}
		if c.NoWait {
			if p.json {
				return p.printJSON(run)
			}
			fmt.Fprintf(p.stdout, textStarted.In(amtinit.Lang(p.lang))+"\n  samehost-manager initializations show %d\n", run.ID, run.Targets, run.ID)
			return nil
		}
		return p.watchRun(ctx, reg, run.Run, c.Progress, l)
	})
}

func readRunFile(path string, lang amtinit.Lang) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf(textNoFile.In(lang), path)
	}
	if err == nil && info.Size() > manager.MaxRunFile {
		return "", fmt.Errorf(textLargeFile.In(lang), path, manager.MaxRunFile>>20)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf(textUnreadable.In(lang), path, config.Bare(err))
	}
	return string(b), nil
}

// ofRuns says in the language that is asked for what is wrong with a run that is asked for, and what to do about it.
func (p *program) ofRuns(err error) error {
	lang := amtinit.Lang(p.lang)
	for _, e := range []struct {
		err  error
		text amtinit.Text
	}{
		{registry.ErrUnknownRun, textUnknownRun}, {registry.ErrUnknown, textUnknownHost}, {registry.ErrAmbiguousName, textAmbiguous},
		{registry.ErrNoTargets, textNoTargets}, {registry.ErrTooManyTargets, textTooMany}, {registry.ErrRunEnded, textRunEnded}, {errNotAll, textNotAll},
	} {
		if !errors.Is(err, e.err) {
			continue
		}
		about, _ := strings.CutSuffix(err.Error(), ": "+e.err.Error()) // which one
		if p.lang == registry.Japanese {
			about = strings.NewReplacer("run ", "実行", "host ID ", "ホスト識別子").Replace(about)
		}
		text := e.text.In(lang)
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, about)
		}
		return errors.New(text)
	}
	return err
}

// hintAfter is how long a run may wait for the manager itself before it is said that nobody serves.
const hintAfter = 10 * time.Second

// A relay that works is heard every minute where it reaches the manager itself, which its questions for work do. One behind another is
// heard by its check-ins and by what it says of its part.
const (
	silentRelay = 3 * time.Minute
	silentBelow = 20 * time.Minute
)

// silent reports whether a relay that has begun with its part was not heard of for so long that one may ask what became of it.
func silent(r registry.RunRoute, now time.Time) bool {
	after := silentRelay
	if strings.Count(r.Route, `\`) > 1 {
		after = silentBelow
	}
	return r.State == "running" && r.Relay != "" && r.Heard != nil && now.Sub(*r.Heard) > after
}

// watchRun shows how far a run is until it has ended, and then what became of it.
func (p *program) watchRun(ctx context.Context, reg *registry.Registry, run manager.Run, progress string, l registry.Language) error {
	if err := p.stdout.Flush(); err != nil {
		return err
	}
	lang := amtinit.Lang(l)
	standing := make(chan terminal.Standing, 1)
	is := terminal.Standing{Total: run.Targets, Done: run.Done, Failed: run.Failed}
	standing <- is
	now := func() terminal.Standing {
		s := <-standing
		standing <- s
		return s
	}
	screen := terminal.NewScreen(p.stderr, p.stderr)
	stop := screen.Show(progress, lang, now, func(text string) { fmt.Fprintln(screen.Errors(), "samehost-manager: "+text) })
	said := make(map[string]bool)
	var err error
	for run.Ended == nil {
		var s registry.RunState
		if s, err = manager.WatchRun(ctx, reg, run.ID, run.Version, hintAfter/4); err != nil {
			break
		}
		run = manager.ShowRun(s, l)
		<-standing
		standing <- terminal.Standing{Total: run.Targets, Done: run.Done, Failed: run.Failed}
		for _, r := range run.Routes {
			if r.State == "waiting" && r.Waiting != nil && time.Since(*r.Waiting) > hintAfter && !said[r.Route] {
				said[r.Route] = true
				text := textNobodyServes.In(lang)
				if r.Relay != "" {
					text = fmt.Sprintf(textRelayWaits.In(lang), shown(r.Route), when(*r.Waiting))
				}
				fmt.Fprintln(screen.Errors(), "samehost-manager: "+text)
			}
		}
	}
	stop()
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf(textGoesOn.In(lang), run.ID, run.ID, run.ID)
		}
		return err
	}
	if err := p.printRun(run, l); err != nil {
		return err
	}
	if run.Initialized < run.Targets {
		if err := p.stdout.Flush(); err != nil {
			return err
		}
		return errNotAll
	}
	return nil
}

// printRun prints how a run stands: the routes, the table of reasons, the totals.
func (p *program) printRun(run manager.Run, l registry.Language) error {
	if p.json {
		return p.printJSON(run)
	}
	lang := amtinit.Lang(l)
	kind := textRun
	if run.DryRun {
		kind = textDryRun
	}
	p.paragraph("", fmt.Sprintf(kind.In(lang), run.ID, run.Source, run.By, when(run.Started)))
	if run.Cancelled != nil {
		p.paragraph("", fmt.Sprintf(textCancelled.In(lang), run.CancelledBy, when(*run.Cancelled)))
	}
	t := table{columns: []column{{"ROUTE", 28}, {"STATE", 24}, {"DONE", 13}, {"FAILED", 7}}}
	for _, r := range run.Routes {
		state := r.State
		if r.State == "waiting" && r.Waiting != nil {
			state += " " + when(*r.Waiting)
		}
		t.add(r.Route, state, fmt.Sprintf("%d/%d", r.Done, r.Targets), fmt.Sprint(r.Failed))
	}
	p.table(t)
	for _, r := range run.Routes {
		if silent(r, time.Now()) {
			p.paragraph("", fmt.Sprintf(textRelaySilent.In(lang), r.Route, when(*r.Heard)))
			p.paragraph("  ", fmt.Sprintf(textRelaySilentDo.In(lang), r.Relay))
		}
	}
	var rows []terminal.Row
	for _, r := range run.Table {
		rows = append(rows, terminal.Row{Count: r.Count, ID: shown(strings.TrimSpace(r.MessageID)), Cause: shown(r.Cause), Remedy: shown(r.Remedy), Hosts: r.Hosts})
	}
	heading := textReasons
	if run.DryRun {
		heading = textReasonsDry
	}
	for _, line := range terminal.Table(layout.Screen-1, true, lang, heading, rows) {
		fmt.Fprintln(p.stdout, line)
	}
	totals := textTotals
	if run.DryRun {
		totals = textTotalsDry
	}
	fmt.Fprintln(p.stdout)
	p.paragraph("", fmt.Sprintf(totals.In(lang), run.Targets, run.Initialized, run.Already, run.Failed, run.Targets-run.Done))
	return nil
}

type runsCmd struct {
	List   runListCmd   `cmd:"" help:"List the runs, the newest first." example:"initializations list; initializations list --json"`
	Show   runShowCmd   `cmd:"" help:"Show one, with its routes and reasons; --follow until it has ended." example:"initializations show 3; initializations show 3 --targets --json"`
	Cancel runCancelCmd `cmd:"" help:"Call one off: PCs that nobody has begun with are left alone." example:"initializations cancel 3; initializations cancel 3 --json"`
}

type runListCmd struct{}

// widestSource is what a line has left for the source of a run. The end of a path says most.
const widestSource = 20

func (c *runListCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		t := table{columns: []column{{"RUN", 5}, {"STARTED", 16}, {"STATE", 9}, {"DONE", 13}, {"FAILED", 7}, {"SOURCE", widestSource}}}
		for before := int64(0); ; {
			page, next, err := reg.Runs(ctx, before, registry.MaxPage)
			if err != nil {
				return err
			}
			for _, s := range page {
				if p.json {
					if err := p.printJSON(manager.ShowRun(s, registry.English)); err != nil {
						return err
					}
					continue
				}
				state := "running"
				switch {
				case s.Cancelled != nil:
					state = "cancelled"
				case s.Ended != nil:
					state = "ended"
				}
				t.add(fmt.Sprint(s.ID), when(s.Started), state, fmt.Sprintf("%d/%d", s.Done, s.Targets), fmt.Sprint(s.Failed), fitEnd(shown(s.Source), widestSource))
			}
			if before = next; next == 0 {
				break
			}
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

type runShowCmd struct {
	ID       int64  `arg:"" name:"run" help:"Its number, as initializations list shows it."`
	Follow   bool   `help:"Show how far it is until it has ended."`
	Targets  bool   `help:"List its PCs with what became of each."`
	Outcome  string `placeholder:"WORD" help:"Only its PCs with initialized, already, or a reason."`
	Progress string `enum:"auto,plain,none" default:"auto" placeholder:"WORD" help:"With --follow: auto, plain or none."`
}

func (c *runShowCmd) Run(ctx context.Context, p *program) error { return p.ofRuns(c.run(ctx, p)) }

func (c *runShowCmd) run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		s, err := reg.Run(ctx, c.ID)
		if err != nil {
			return err
		}
		l := p.lang
		switch {
		case c.Targets || c.Outcome != "":
			if there := outcomes(s.RunCounts); c.Outcome != "" && !slices.Contains(there, c.Outcome) {
				if _, known := amtinit.AnyReason(amtinit.Code(c.Outcome)); !known && c.Outcome != registry.OutcomeInitialized && c.Outcome != registry.OutcomeAlready {
					return usageError(fmt.Sprintf(textNoOutcome.In(amtinit.Lang(l)), c.Outcome, c.ID, cmp.Or(strings.Join(there, ", "), "-")))
				}
			}
			return p.printTargets(ctx, reg, c.ID, c.Outcome)
		case c.Follow:
			err := p.watchRun(ctx, reg, manager.ShowRun(s, l), c.Progress, l)
			if errors.Is(err, errNotAll) { // whoever watches has not asked whether all went well
				err = nil
			}
			return err
		}
		return p.printRun(manager.ShowRun(s, l), l)
	})
}

// outcomes are what became of the PCs of a run.
func outcomes(c registry.RunCounts) []string {
	there := slices.Sorted(maps.Keys(c.Reasons))
	if c.Already > 0 {
		there = append(there, registry.OutcomeAlready)
	}
	if c.Initialized > c.Already {
		there = append(there, registry.OutcomeInitialized)
	}
	return there
}

func (p *program) printTargets(ctx context.Context, reg *registry.Registry, id int64, outcome string) error {
	t := table{columns: []column{{"PC", 24}, {"ADDRESS", 15}, {"ROUTE", 16}, {"OUTCOME", 19}}}
	for after := int64(0); ; {
		page, next, err := reg.RunTargets(ctx, id, outcome, after, registry.MaxPage)
		if err != nil {
			return err
		}
		for _, r := range page {
			if p.json {
				if err := p.printJSON(r); err != nil {
					return err
				}
				continue
			}
			t.add(r.Host, r.Address, r.Route, r.Outcome)
		}
		if after = next; next == 0 {
			break
		}
	}
	if !p.json {
		p.table(t)
	}
	return nil
}

type runCancelCmd struct {
	ID int64 `arg:"" name:"run" help:"Its number, as initializations list shows it."`
}

func (c *runCancelCmd) Run(ctx context.Context, p *program) error { return p.ofRuns(c.run(ctx, p)) }

func (c *runCancelCmd) run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		run, err := manager.CancelRun(ctx, reg, c.ID, systemUser(), registry.English)
		switch {
		case err != nil:
			return err
		case p.json:
			return p.printJSON(run)
		}
		text := fmt.Sprintf(textFinishing.In(amtinit.Lang(p.lang)), run.ID, run.Reasons[string(amtinit.Cancelled)], run.Targets-run.Done)
		if run.Ended != nil {
			text = fmt.Sprintf(textEnded.In(amtinit.Lang(p.lang)), run.ID, run.Reasons[string(amtinit.Cancelled)])
		}
		p.paragraph("", text)
		return nil
	})
}

var (
	textParallel = amtinit.Text{
		EN: "--parallel must be from 1 to %d",
		JA: "--parallelには1から%dまでの値を指定してください"}
	textNamePCs = amtinit.Text{
		EN: "initialize: name PCs, or --not-initialized, or --file, and one of them only",
		JA: "initialize: PC、--not-initialized、--fileのどれか一つを指定してください"}
	textNoFile = amtinit.Text{
		EN: "initialize: %s is not a file; check the path",
		JA: "initialize: %sはファイルではありません。パスを確認してください"}
	textLargeFile = amtinit.Text{
		EN: "initialize: %s is larger than %d MiB",
		JA: "initialize: %sは%d MiBを超えています"}
	textWrongFile = amtinit.Text{
		EN: "initialize: %s: %w; correct the line, no run was started",
		JA: "initialize: %sの形式が不正です: %w。記述を修正してください(実行は開始していません)"}
	textUnreadable = amtinit.Text{
		EN: "initialize: %s: %w; check the path, and that you may read it",
		JA: "initialize: %sを読み込めません(%w)。パスと読み取り権限を確認してください"}
	textNoOutcome = amtinit.Text{
		EN: "--outcome %s: no such outcome is known; those of run %d: %s",
		JA: "--outcome %s: この結果はありません。実行%dの結果: %s"}
	textUnknownRun = amtinit.Text{
		EN: "%s: unknown; samehost-manager initializations list shows those there are",
		JA: "%s: この番号の実行はありません。samehost-manager initializations listで確認してください"}
	textUnknownHost = amtinit.Text{
		EN: "%s: unknown; samehost-manager assets lists those that are known",
		JA: "%s: 登録されていません。samehost-manager assetsで確認してください"}
	textAmbiguous = amtinit.Text{
		EN: "%s: several PCs have this name; name a host ID (samehost-manager assets)",
		JA: "%s: この名前のPCが複数あります。ホスト識別子を指定してください(samehost-manager assetsで確認できます)"}
	textNoTargets = amtinit.Text{
		EN: "no PC is to be initialized: nothing fits what was asked for (samehost-manager assets --not-initialized)",
		JA: "初期設定の対象となるPCがありません(samehost-manager assets --not-initializedで確認できます)"}
	textTooMany = amtinit.Text{
		EN: fmt.Sprintf("more than %d PCs in one run; divide them among several", registry.MaxRunTargets),
		JA: fmt.Sprintf("一回の実行に指定できるPCは%d台までです。複数回に分けてください", registry.MaxRunTargets)}
	textRunEnded = amtinit.Text{
		EN: "%s: the run has ended; nothing is left to call off",
		JA: "%s: この実行は終了しています。取り消すものはありません"}
	textNotAll = amtinit.Text{
		EN: "not every PC is initialized",
		JA: "初期設定されていないPCがあります"}
	textEnded = amtinit.Text{
		EN: "Run %d is called off and has ended; PCs left alone: %d.",
		JA: "実行%dを取り消し、終了しました。PC %d台は処理していません。"}
	textFinishing = amtinit.Text{
		EN: "Run %d is called off; PCs left alone: %d. Of the others (%d), those that are being worked on are finished, the rest is left alone too.",
		JA: "実行%dを取り消しました。PC %d台は処理しません。残り%d台のうち、処理中のPCは最後まで処理し、ほかは処理しません。"}
	textStarted = amtinit.Text{
		EN: "Run %d has started (PCs: %d). How far it is:",
		JA: "実行%d(PC %d台)を開始しました。進捗の確認:"}
	textNothingFailed = amtinit.Text{
		EN: "Nothing is left to do: the last attempt of none of these PCs failed.",
		JA: "再実行の必要なPCはありません。前回失敗したPCは含まれていません。"}
	textNobodyServes = amtinit.Text{
		EN: "the run waits for the manager: start samehost-manager serve, if it does not serve",
		JA: "マネージャの処理を待っています。起動していない場合は、samehost-manager serveを起動してください"}
	textRelayWaits = amtinit.Text{
		EN: "the relay system of %s has not begun with its part, which has waited since %s; it begins when it can be reached again",
		JA: "%sの中継システムが受け持ち分を開始していません(%sから待機中)。接続が回復すると開始します"}
	textRelaySilent = amtinit.Text{
		EN: "Nothing was heard of the relay system of %s since %s. It goes on with what it has begun; its results come when it can be reached again.",
		JA: "%sの中継システムからは、%sから連絡がありません。開始した処理は続いており、結果は接続が回復すると届きます。"}
	textRelaySilentDo = amtinit.Text{
		EN: "If it does not come back: samehost-manager retire %s; the rest of its PCs is done without it then",
		JA: "復旧しない場合: samehost-manager retire %s (残りのPCは、この中継システムを使わずに処理します)"}
	textGoesOn = amtinit.Text{
		EN: "run %d goes on; how far it is: samehost-manager initializations show %d --follow; to call it off: samehost-manager initializations cancel %d",
		JA: "実行%dは続いています。進捗の確認: samehost-manager initializations show %d --follow、取り消し: samehost-manager initializations cancel %d"}
	textRun       = amtinit.Text{EN: "Run %d (%s), started by %s on %s", JA: "実行%d(%s)、開始者: %s、開始日時: %s"}
	textDryRun    = amtinit.Text{EN: "Run %d (%s), a dry run: nothing is changed; started by %s on %s", JA: "実行%d(%s)、確認だけで変更なし、開始者: %s、開始日時: %s"}
	textCancelled = amtinit.Text{EN: "Called off by %s on %s", JA: "取り消し: %s、%s"}
	textReasons   = amtinit.Text{EN: "Why targets failed:", JA: "失敗の要因:"}

	textReasonsDry = amtinit.Text{EN: "Why targets would fail:", JA: "失敗が見込まれる要因:"}
	textTotals     = amtinit.Text{
		EN: "Targets: %d, initialized %d (%d already), failed %d, not done yet %d",
		JA: "実行先%d台: 成功%d台(うち初期設定済み%d台)、失敗%d台、未完了%d台"}
	textTotalsDry = amtinit.Text{
		EN: "Targets: %d, initialized or would be %d (%d already), would fail %d, not looked at yet %d",
		JA: "実行先%d台: 設定可能または設定済み%d台(うち設定済み%d台)、失敗の見込み%d台、未確認%d台"}
)

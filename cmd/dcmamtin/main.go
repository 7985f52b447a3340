// Command dcmamtin initializes the area for the host ID in the AMT nonvolatile memory of one PC or of many: section
// 6.5.1 (2) of the JP1/NETM/DM planning guide. docs/operations/dcmamtin.en.md (and .ja.md) is its manual.
//
// # Exit codes
//
// They are decided in this file and nowhere else: 0 every target is initialized, 1 the system configuration
// information file, 2 the arguments, 12 anything else, 30 at least one target failed, 31 all of them did. Where
// several hold, the order is 2, 1, 12, 31, 30, 0.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"samehost/internal/amtinit"
	"samehost/internal/amtsettings"
	"samehost/internal/config"
	"samehost/internal/terminal"
	"samehost/internal/wsman"
)

// The exit codes of the manual.
const (
	exitOK        = 0
	exitFile      = 1
	exitArguments = 2
	exitOther     = 12
	exitSome      = 30
	exitAll       = 31
)

func main() {
	ignoreSignals()
	if os.Getenv("GOGC") == "" {
		// With 1024 PCs at a time whose names are looked up in DNS: 130 MB instead of 160, for a tenth more processor time.
		debug.SetGCPercent(50)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	a, err := parseArguments(args)
	if a.lang == "" {
		a.lang = environmentLanguage()
	}
	switch {
	case a.help:
		return printed(io.WriteString(stdout, textHelp.In(a.lang)))
	case a.version:
		return printed(fmt.Fprintln(stdout, "dcmamtin", version))
	}
	c := command{arguments: a, screen: terminal.NewScreen(stdout, stderr)}
	c.out = newReport(a, c.screen)
	if bad, ok := errors.AsType[*argumentError](err); ok {
		return c.complain(&problem{exitArguments, bad.text})
	}
	ctx, end := c.watchSignals()
	defer end()
	defer c.close()
	if p := c.open(); p != nil {
		return c.complain(p)
	}
	return c.work(ctx)
}

func printed(_ int, err error) int {
	if err != nil {
		return exitOther
	}
	return exitOK
}

// version is set by the build: -ldflags "-X main.version=...".
var version = "development"

// command is one run.
type command struct {
	arguments
	screen *terminal.Screen
	out    *report

	list       *targetList
	configFile string
	log        *amtinit.Log
	options    amtinit.Options

	journals *amtinit.Journals // nil in a dry run
	journal  *amtinit.Journal  // nil if nothing is to be written
	past     *amtinit.PastRun  // what this run goes on with
	tally    *tally
	planned  int // targets of this run: those that it does not leave as an earlier one finished them

	stopped         atomic.Bool  // no further target
	begun, answered atomic.Int64 // targets that the engine took, and gave back
}

// close gives back what open took, as far as that came.
func (c *command) close() {
	if c.list != nil {
		c.list.close()
	}
	if c.journal != nil {
		c.journal.Close()
	}
	if c.journals != nil {
		c.journals.Close()
	}
}

func (c *command) say(text string) { fmt.Fprintln(c.screen.Errors(), "dcmamtin: "+text) }

func (c *command) complain(p *problem) int {
	c.say(p.text.In(c.lang))
	return p.exit
}

// open gets everything ready before the first PC is touched, in the order of the exit codes' precedence.
func (c *command) open() *problem {
	list, p := openTargets(c.arguments)
	if p != nil {
		return p
	}
	c.list, c.tally = list, newTally()
	dataDir, p := c.configure()
	if p != nil {
		return p
	}
	if p := c.openJournal(dataDir); p != nil {
		return p
	}
	if err := c.log.Start(list.source, list.count, c.mode()); err != nil {
		return newProblem(exitOther, textLog, err, c.configFile)
	}
	return nil
}

// configure reads the configuration and returns the folder of log and journal.
func (c *command) configure() (dataDir string, p *problem) {
	path := c.config
	if path == "" {
		var err error
		if path, err = config.FindForDcmamtin(); err != nil {
			return "", newProblem(exitOther, textSystem, err)
		}
	}
	cfg, err := config.LoadForDcmamtin(path)
	if err != nil {
		return "", newProblem(exitOther, textSystem, err)
	}
	if cfg.AMT, err = amtsettings.WithKept(cfg.AMT, cfg.DataDir); err != nil {
		return "", newProblem(exitOther, textSystem, err)
	}
	password, err := cfg.AMT.Password()
	if err != nil {
		return "", newProblem(exitOther, textSystem, fmt.Errorf("%s: %w", path, err))
	}
	c.configFile = path
	c.options = amtinit.Options{
		User:                cfg.AMT.User,
		Password:            wsman.Secret(password.Reveal()),
		Enterprise:          cfg.AMT.Enterprise,
		TLS:                 cfg.AMT.TLS,
		Parallel:            c.parallel,
		Timeout:             c.timeout,
		AddressFirst:        cfg.Dcmamtin.Resolve == "file",
		IgnoreLogonFailures: c.ignoreLogonFailures,
		DryRun:              c.dryRun,
	}
	if c.options.Port, err = cfg.AMT.PortNumber(); err != nil {
		return "", newProblem(exitOther, textSystem, fmt.Errorf("%s: %w", path, err))
	}
	if c.options.RootCAs, c.options.PinSPKI, err = cfg.AMT.Trust(); err != nil {
		return "", newProblem(exitOther, textSystem, err)
	}
	if c.options.TLS && c.options.RootCAs == nil && c.options.PinSPKI == nil {
		return "", newProblem(exitOther, textNoTrust, path)
	}
	for _, warning := range cfg.AMT.Warnings() {
		c.say(fmt.Sprintf(textConfigWarning.In(c.lang), amtinit.Printable(warning, maxShownError)))
	}

	dir := cfg.DataDir
	if dir == "" {
		if dir, err = os.Getwd(); err != nil {
			return "", newProblem(exitOther, textSystem, err)
		}
	}
	c.log = amtinit.OpenLog(dir, c.lang)
	return dir, nil
}

func (c *command) work(ctx context.Context) int {
	var finished, failed atomic.Int64
	finished.Store(int64(c.tally.sum.OK))
	if c.resume {
		finished.Add(int64(c.tally.sum.Failed))
		failed.Store(int64(c.tally.sum.Failed))
	}
	stopProgress := c.screen.Show(c.progress, c.lang, func() terminal.Standing {
		return terminal.Standing{Total: c.list.count, Done: int(finished.Load()), Failed: int(failed.Load())}
	}, c.say)
	var logErr error
	done := 0
	show := func(o amtinit.Outcome) { // one at a time
		c.tally.record(o.Target.Key(), o.Target.String(), c.tally.verdict(o.Code, o.Result.AlreadyInitialized()))
		if len(o.Warnings) > 0 {
			c.tally.sum.Warned++
		}
		if o.Code != amtinit.Interrupted {
			done++
		}
		finished.Add(1)
		if !o.OK() {
			failed.Add(1)
		}
		// What the guard left alone is in the summary: thousands of equal lines would push the others out of the log.
		if !o.OK() && o.Code != amtinit.NotTried {
			if err := c.log.Failed(o); err != nil && logErr == nil {
				logErr = err
			}
		}
		c.out.target(o)
		if c.out.err != nil {
			c.stop()
		}
	}
	finish, stopJournal := show, func() error { return nil }
	if c.journal != nil {
		c.journal.Start(show, func(error) { c.stop() })
		finish, stopJournal = c.journal.Finish, c.journal.Stop
	}
	_, err := amtinit.Run(ctx, c.options, c.counted(c.list.until(&c.stopped)), func(o amtinit.Outcome) {
		c.answered.Add(1)
		finish(o)
	})
	journalErr := stopJournal()
	stopProgress()
	if err != nil {
		return c.complain(newProblem(exitOther, textSystem, err))
	}

	c.nameHosts()
	sum := c.tally.sum
	unfinished := c.planned - done
	exit := exitCode(c.list.count, sum, c.out.err != nil || logErr != nil || journalErr != nil || c.list.err != nil || unfinished > 0)
	if c.journal != nil && journalErr == nil && c.list.err == nil && unfinished == 0 {
		if journalErr = c.journal.End(exit); journalErr != nil {
			exit = exitOther
		}
	}
	if err := c.log.End(sum, c.list.count, exit); err != nil && logErr == nil {
		logErr, exit = err, exitOther
	}
	c.out.summary(sum, c.list.count, exit, c.log.Path())
	if c.out.err != nil {
		exit = exitOther
		c.complain(newProblem(exit, textStdout, c.out.err))
	}
	if logErr != nil {
		c.complain(newProblem(exit, textLog, logErr, c.configFile))
	}
	never := c.list.count - sum.OK - sum.Failed - sum.NotTried
	switch {
	case journalErr != nil:
		c.complain(newProblem(exit, textJournal, journalErr, shellLine(c.goOn())))
	case c.list.err != nil:
		c.complain(c.list.err)
	case unfinished > 0:
		c.complain(newProblem(exit, textRunAgain, unfinished, c.list.count, shellLine(c.goOn())))
	case never > 0:
		c.complain(newProblem(exit, textNeverFinished, never, c.list.count, shellLine(c.finishRest())))
	}
	return exit
}

// counted counts the targets that begin.
func (c *command) counted(targets iter.Seq[amtinit.Target]) iter.Seq[amtinit.Target] {
	return func(yield func(amtinit.Target) bool) {
		for t := range targets {
			c.begun.Add(1)
			if !yield(t) {
				return
			}
		}
	}
}

// exitCode judges a run over that many targets. broken: something that is no target's failure went wrong.
func exitCode(targets int, s amtinit.Summary, broken bool) int {
	switch {
	case broken:
		return exitOther
	case s.OK == targets:
		return exitOK
	case s.OK == 0:
		return exitAll
	default:
		return exitSome
	}
}

// stop begins no further target and lets those in flight come to their end.
func (c *command) stop() { c.stopped.Store(true) }

// watchSignals stops the run at the first SIGINT, SIGTERM or SIGHUP, breaks off what is in flight at the second, and ends the
// process at the third, should a standard output that nobody reads keep it. What was set to be ignored (nohup) stays so.
func (c *command) watchSignals() (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 3)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	over := make(chan struct{})
	var watching, saying sync.WaitGroup
	watching.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-signals:
			case <-over:
				return
			}
			switch n {
			case 1:
				c.stop()
				text := newProblem(exitOther, textInterrupted, c.begun.Load()-c.answered.Load(), terminal.Duration(c.timeout, c.lang)).text.In(c.lang)
				saying.Go(func() { c.say(text) }) // a terminal that is held up (Ctrl-S) does not hold up the next signal
			case 2:
				cancel()
			default:
				os.Exit(exitOther)
			}
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		watching.Wait()
		saying.Wait()
		cancel()
	}
}

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
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/config"
	"samehost/internal/sysconfig"
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

const (
	// grace is how long an interrupt waits for what is in flight: most devices answer within it, and initializing
	// twice is harmless for the others.
	grace = 5 * time.Second
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // a reader of our output that ends early is exit code 12, not a death by signal
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
	c := command{arguments: a, screen: newScreen(stdout, stderr)}
	c.out = newReport(a, c.screen)
	if bad, ok := errors.AsType[*argumentError](err); ok {
		return c.complain(&problem{exitArguments, bad.text})
	}
	if p := c.open(); p != nil {
		return c.complain(p)
	}
	defer c.list.close()
	return c.work()
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
	screen *screen
	out    *report

	list       *targetList
	configFile string
	log        *amtinit.Log
	options    amtinit.Options
}

func (c *command) say(text string) { fmt.Fprintln(c.screen.errors(), "dcmamtin: "+text) }

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
	c.list = list
	if p := c.configure(); p != nil {
		list.close()
		return p
	}
	if err := c.log.Start(list.source, list.count); err != nil {
		list.close()
		return newProblem(exitOther, textLog, err, c.configFile)
	}
	return nil
}

func (c *command) configure() *problem {
	path := c.config
	if path == "" {
		var err error
		if path, err = config.FindForDcmamtin(); err != nil {
			return newProblem(exitOther, textSystem, err)
		}
	}
	cfg, err := config.LoadForDcmamtin(path)
	if err != nil {
		return newProblem(exitOther, textSystem, err)
	}
	password, err := cfg.AMT.Password()
	if err != nil {
		return newProblem(exitOther, textSystem, fmt.Errorf("%s: %w", path, err))
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
	}
	if cfg.AMT.Port != "auto" {
		if c.options.Port, err = strconv.Atoi(cfg.AMT.Port); err != nil {
			return newProblem(exitOther, textSystem, fmt.Errorf("%s: [amt] port: %w", path, err))
		}
	}
	if c.options.RootCAs, c.options.PinSPKI, err = trust(cfg.AMT); err != nil {
		return newProblem(exitOther, textSystem, err)
	}
	if c.options.TLS && c.options.RootCAs == nil && c.options.PinSPKI == nil {
		return newProblem(exitOther, textNoTrust, path)
	}
	for _, warning := range cfg.AMT.Warnings() {
		c.say(amtinit.Printable(warning, maxShownError))
	}

	dir := cfg.DataDir
	if dir == "" {
		if dir, err = os.Getwd(); err != nil {
			return newProblem(exitOther, textSystem, err)
		}
	}
	c.log = amtinit.OpenLog(dir, c.lang)
	return nil
}

// trust reads what TLS certificates are judged by: a file of CAs, or the pin of a public key.
func trust(a config.AMT) (*x509.CertPool, []byte, error) {
	if a.TLSPin != "" {
		pin, err := hex.DecodeString(strings.TrimPrefix(a.TLSPin, "sha256:"))
		if err != nil {
			return nil, nil, fmt.Errorf("[amt] tls_pin: %w", err)
		}
		return nil, pin, nil
	}
	if a.TLSCA == "" {
		return nil, nil, nil
	}
	pem, err := os.ReadFile(a.TLSCA)
	if err != nil {
		return nil, nil, fmt.Errorf("[amt] tls_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("[amt] tls_ca: %s holds no PEM certificate; put the CA's certificate there", a.TLSCA)
	}
	return pool, nil, nil
}

func (c *command) work() int {
	ctx, interrupt := c.watchSignals()
	defer interrupt.end()

	var finished, failed atomic.Int64
	stopProgress := c.showProgress(&finished, &failed)
	var logErr error
	sum, err := amtinit.Run(ctx, c.options, c.list.until(&interrupt.wanted), func(o amtinit.Outcome) {
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
			interrupt.stop()
		}
	})
	stopProgress()
	if err != nil {
		return c.complain(newProblem(exitOther, textSystem, err))
	}

	unfinished := c.list.count - sum.OK - sum.Failed - sum.NotTried + sum.Reasons[amtinit.Interrupted]
	broken := c.out.err != nil || logErr != nil || c.list.err != nil || unfinished > 0
	exit := exitCode(c.list.count, sum, broken)
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
	if c.list.err != nil {
		c.complain(c.list.err)
	} else if unfinished > 0 {
		c.complain(newProblem(exit, textRunAgain, unfinished, c.list.count))
	}
	return exit
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

// interruption ends a run early: gracefully at first.
type interruption struct {
	wanted  atomic.Bool // no further target
	end     func()
	signals chan os.Signal
}

func (i *interruption) stop() { i.wanted.Store(true) }

// watchSignals stops the run at the first SIGINT, SIGTERM or SIGHUP, and breaks off what is in flight at the second or when
// the grace is over.
func (c *command) watchSignals() (context.Context, *interruption) {
	ctx, cancel := context.WithCancel(context.Background())
	i := &interruption{signals: make(chan os.Signal, 2)}
	i.end = func() {
		signal.Stop(i.signals)
		cancel()
	}
	signal.Notify(i.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case <-i.signals:
		case <-ctx.Done():
			return
		}
		i.stop()
		c.say(textInterrupted.In(c.lang))
		select {
		case <-i.signals:
		case <-time.After(grace):
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, i
}

// targetList is what the command line names: counted beforehand, then walked through.
type targetList struct {
	source string // for the log
	count  int
	one    amtinit.Target // without a file

	file *os.File // nil without /f
	err  *problem // what went wrong while walking through; nil if nothing did
}

// openTargets reads the whole file once, so that a line that is wrong at its end is found before a PC is touched.
func openTargets(a arguments) (*targetList, *problem) {
	if a.file == "" {
		t := amtinit.Target{Host: a.host, Address: a.address}
		return &targetList{source: t.String(), count: 1, one: t}, nil
	}
	// Opening a pipe would wait for its writer, and it could not be read twice.
	if info, err := os.Stat(a.file); err != nil {
		return nil, newProblem(exitFile, textCannotOpen, err)
	} else if !info.Mode().IsRegular() {
		return nil, newProblem(exitFile, textNotRegular, a.file)
	}
	f, err := os.Open(a.file)
	if err != nil {
		return nil, newProblem(exitFile, textCannotOpen, err)
	}
	l := &targetList{source: filepath.Clean(a.file), file: f}
	for _, err := range l.targets() {
		if err != nil {
			l.close()
			return nil, newProblem(exitFile, textBadFile, fmt.Errorf("%s: %w", a.file, err))
		}
		l.count++
	}
	if l.count == 0 {
		l.close()
		return nil, newProblem(exitFile, textNoClient, a.file)
	}
	return l, nil
}

func (l *targetList) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// targets yields the clients and relay systems of the file, each host once, whatever the case of its letters.
func (l *targetList) targets() iter.Seq2[amtinit.Target, error] {
	return func(yield func(amtinit.Target, error) bool) {
		seen := make(map[string]struct{})
		for e, err := range sysconfig.Read(l.file) {
			if err != nil {
				yield(amtinit.Target{}, err)
				return
			}
			key := strings.ToLower(strings.TrimSuffix(e.Name, "."))
			if _, again := seen[key]; again || !e.Target() {
				continue
			}
			seen[key] = struct{}{}
			if !yield(amtinit.Target{Host: e.Name, Address: e.Address}, nil) {
				return
			}
		}
	}
}

// until yields the targets for the engine and ends early once stop is set. The file was whole when it was counted; if
// it is not so now, err says that it changed underneath.
func (l *targetList) until(stop *atomic.Bool) iter.Seq[amtinit.Target] {
	return func(yield func(amtinit.Target) bool) {
		if l.file == nil {
			if !stop.Load() {
				yield(l.one)
			}
			return
		}
		n := 0
		for t, err := range l.targets() {
			if stop.Load() {
				return
			}
			if n++; err != nil || n > l.count {
				n = -1
				break
			}
			if !yield(t) {
				return
			}
		}
		if n != l.count {
			l.err = newProblem(exitOther, textFileChanged, l.file.Name())
		}
	}
}

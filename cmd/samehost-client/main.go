// Samehost-client keeps this PC's host ID: it makes or restores it, preserves it in memory on the board, and checks
// in with the manager or a relay.
//
// # Exit codes
//
//	0  done. install: the host ID is there (a manager out of reach does not change that). checkin: the report was
//	   accepted, or taken into a relay's keeping. status: there is a host ID.
//	1  not done: standard error says why and what to do.
//	2  the command line is wrong; nothing was done.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"samehost/internal/config"
	"samehost/internal/help"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "development"

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

type cli struct {
	Config  string           `placeholder:"FILE" default:"${config}" help:"Read this instead of ${config}."`
	JSON    bool             `name:"json" help:"Print one JSON object; run: log in JSON."`
	Version kong.VersionFlag `help:"Print the version."`

	Install   installCmd   `cmd:"" help:"Establish the host ID, preserve it, enrol, register the service." example:"install; install --no-service --json"`
	Run       runCmd       `cmd:"" help:"Check in now and from then on; what the service runs." example:"run; run --json --config client.toml"`
	Status    statusCmd    `cmd:"" help:"Show host ID, stores and last check-in; changes nothing." example:"status; status --json"`
	Checkin   checkinCmd   `cmd:"" help:"Check in once (through the service if it runs) and end." example:"checkin; checkin --json"`
	Amtsetup  amtsetupCmd  `cmd:"" help:"AMT management user from the manager, by file: import." example:"amtsetup import amtsetup.json; amtsetup import amtsetup.json --passphrase-file p"`
	Uninstall uninstallCmd `cmd:"" help:"Remove the service; the host ID stays unless told otherwise." example:"uninstall; uninstall --purge --erase-nvm"`
}

const description = `Keeps this PC's host ID, also across a reinstallation, and checks in.

  samehost-client install
  samehost-client status --json
  samehost-client uninstall --purge --erase-nvm
Exit codes: 0 done, 1 not done (standard error says why), 2 wrong command line.`

// program is what a command works with.
type program struct {
	config string // path of the file
	json   bool
	stdout io.Writer
	stderr io.Writer
}

func main() { os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr)) }

// Main runs one command line and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	exited := -1
	parser := newParser(&c, stdout, stderr, func(code int) { exited = code })
	line, err := parser.Parse(args)
	switch {
	case exited >= 0: // --help or --version have printed
		return exited
	case err != nil:
		fmt.Fprintf(stderr, "samehost-client: %v; see samehost-client --help\n", err)
		return exitUsage
	}
	p := &program{config: c.Config, json: c.JSON, stdout: stdout, stderr: stderr}
	line.BindTo(ctx, (*context.Context)(nil))
	if err := line.Run(p); err != nil {
		if !errors.Is(err, errShown) {
			p.say(err)
		}
		return exitFailed
	}
	return exitDone
}

func newParser(c *cli, stdout, stderr io.Writer, exit func(code int)) *kong.Kong {
	parser, err := kong.New(c,
		kong.Name("samehost-client"),
		kong.Description(description),
		kong.Vars{"config": config.DefaultPath("client"), "version": "samehost-client " + version, "lang": help.Language()},
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.Help(help.Print),
	)
	if err != nil {
		panic(err) // the struct does not describe a command line
	}
	return parser
}

// errShown ends a command whose reason has been printed already.
var errShown = errors.New("failed")

// say prints one line on standard error.
func (p *program) say(what any) {
	text := strings.Join(strings.Fields(fmt.Sprint(what)), " ")
	fmt.Fprintf(p.stderr, "samehost-client: %s\n", text)
}

// Command amtsim simulates PCs with Intel AMT and third-party data storage on loopback addresses.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"samehost/internal/amtsim"
)

// Exit codes.
const (
	exitOK    = 0
	exitFault = 1 // it ran, and something failed
	exitUsage = 2 // it could not start as asked
)

type flags struct {
	Devices    int              `placeholder:"N" default:"1" help:"Simulated PCs (${default})."`
	Network    string           `placeholder:"ADDR" default:"127.16.0.1" help:"Network side of device 1; others follow (${default})."`
	Local      string           `placeholder:"ADDR" default:"127.17.0.1" help:"The same for LMS on the PC itself, or none (${default})."`
	Port       int              `placeholder:"PORT" default:"16992" help:"Port without TLS (${default})."`
	TLSPort    int              `name:"tls-port" placeholder:"PORT" default:"0" help:"Port with TLS; 0: none. From 16.1 on it replaces --port."`
	User       string           `placeholder:"NAME" default:"admin" help:"AMT management user (${default})."`
	Password   string           `placeholder:"TEXT" default:"P@ssw0rd!" help:"Its password (${default})."`
	Release    string           `placeholder:"X.Y.Z" default:"11.8.50" help:"Firmware release, with or without build (${default})."`
	Mode       string           `placeholder:"MODE" help:"smb (below release 6.0), enterprise (from there), client."`
	State      string           `placeholder:"DIR" help:"Keeps memory across restarts; else it is lost at exit."`
	Latency    time.Duration    `placeholder:"TIME" default:"0ms" help:"Wait before each reply (${default})."`
	Faults     string           `placeholder:"FILE" help:"What is wrong with which device, JSON."`
	SystemFile string           `placeholder:"FILE" help:"Writes the devices as dcmamtin /f reads them (.NDD)."`
	Control    string           `placeholder:"ADDR:PORT" help:"HTTP API for tests, on a loopback address."`
	Seed       uint64           `placeholder:"N" default:"0" help:"Decides UUIDs, serial numbers, MACs and realms (${default})."`
	Version    kong.VersionFlag `help:"Print the version."`
}

const description = `Simulates PCs with AMT and 3PDS; prints "ready" when all listen; Ctrl-C ends it.`

const examples = `Examples:
  amtsim --devices 20 --control 127.0.0.1:9000 --system-file NETM.NDD
  amtsim --devices 3 --tls-port 16993 --release 16.1.25 --state ./amt
  amtsim --devices 20 --faults f.json    # {"3": {"silent": true}}`

// printHelp prints everything onto one screen, 24 lines of 80 columns: one line for each flag.
func printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	w := tabwriter.NewWriter(ctx.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Usage: amtsim [flags]\n%s\n\n", description)
	for _, f := range ctx.Model.Flags {
		name := "--" + f.Name
		if f.Short != 0 {
			name = fmt.Sprintf("-%c, %s", f.Short, name)
		}
		if !f.IsBool() {
			name += " " + f.FormatPlaceHolder()
		}
		fmt.Fprintf(w, "  %s\t%s\n", name, f.Help)
	}
	fmt.Fprintln(w, examples)
	return w.Flush()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// helpDone carries the exit code of --help and --version out of the parser.
type helpDone int

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			done, ok := r.(helpDone)
			if !ok {
				panic(r)
			}
			code = int(done)
		}
	}()
	var f flags
	parser, err := kong.New(&f, kong.Name("amtsim"), kong.Writers(stdout, stderr),
		kong.Vars{"version": "amtsim " + version}, kong.Help(printHelp),
		kong.Exit(func(code int) { panic(helpDone(code)) }))
	if err != nil {
		panic(err) // the flags struct is wrong
	}
	if _, err := parser.Parse(args); err != nil {
		fmt.Fprintf(stderr, "amtsim: %v; see amtsim --help\n", err)
		return exitUsage
	}
	fleet, err := start(f, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "amtsim: %v\n", err)
		return exitUsage
	}
	defer fleet.Close()
	if f.SystemFile != "" {
		if err := writeSystemFile(fleet, f.SystemFile); err != nil {
			fmt.Fprintf(stderr, "amtsim: %v\n", err)
			return exitUsage
		}
	}
	failed := make(chan error, 1)
	if f.Control != "" {
		l, err := amtsim.ListenControl(f.Control)
		if err != nil {
			fmt.Fprintf(stderr, "amtsim: %v\n", err)
			return exitUsage
		}
		defer l.Close()
		go func() { failed <- fleet.ServeControl(l) }()
		fmt.Fprintf(stdout, "control http://%s\n", l.Addr())
	}
	fmt.Fprintln(stdout, "ready")
	select {
	case <-ctx.Done():
		return exitOK
	case err := <-failed:
		fmt.Fprintf(stderr, "amtsim: control: %v\n", err)
		return exitFault
	}
}

func start(f flags, stderr io.Writer) (*amtsim.Fleet, error) {
	o := amtsim.FleetOptions{Devices: f.Devices, Port: f.Port, TLSPort: f.TLSPort, Dir: f.State, Device: amtsim.Options{
		Seed: f.Seed, User: f.User, Password: f.Password, Release: f.Release, Mode: f.Mode, Latency: f.Latency,
		Logf: func(format string, a ...any) { fmt.Fprintf(stderr, "amtsim: "+format+"\n", a...) },
	}}
	var err error
	if o.Network, err = netip.ParseAddr(f.Network); err != nil {
		return nil, fmt.Errorf("--network %q is no IP address", f.Network)
	}
	if f.Local != "none" {
		if o.Local, err = netip.ParseAddr(f.Local); err != nil {
			return nil, fmt.Errorf("--local %q is no IP address, nor none", f.Local)
		}
	}
	if f.Latency < 0 {
		return nil, errors.New("--latency cannot be negative")
	}
	if f.Faults != "" {
		b, err := os.ReadFile(f.Faults)
		if err != nil {
			return nil, err
		}
		if o.Faults, err = amtsim.ParseFaultsFile(b, f.Devices); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Faults, err)
		}
	}
	return amtsim.StartFleet(o)
}

func writeSystemFile(fleet *amtsim.Fleet, name string) error {
	w, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(fleet.WriteSystemFile(w), w.Close())
}

// version is set by the build: -ldflags "-X main.version=...".
var version = "development"

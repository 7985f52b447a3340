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
	"runtime/debug"
	"syscall"
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
	Network    string           `placeholder:"ADDR" default:"127.16.0.1" help:"Network interface of device 1; device i has the i-th address from here (${default})."`
	Local      string           `placeholder:"ADDR" default:"127.17.0.1" help:"The same for the local interface, which the PC reaches through LMS; or none (${default})."`
	Port       int              `default:"16992" help:"Port without TLS (${default})."`
	TLSPort    int              `name:"tls-port" placeholder:"PORT" default:"0" help:"Port with TLS; 0 opens none (${default}). From release 16.1 on it replaces --port."`
	User       string           `default:"admin" help:"AMT management user (${default})."`
	Password   string           `default:"P@ssw0rd!" help:"Its password (${default})."`
	Release    string           `placeholder:"X.Y.Z" default:"11.8.50" help:"Firmware release, with or without build (${default})."`
	Mode       string           `placeholder:"MODE" help:"smb, enterprise or client; else smb below release 6.0, enterprise from there."`
	State      string           `placeholder:"DIR" help:"Keeps firmware memory across restarts; without it memory is lost at exit."`
	Latency    time.Duration    `default:"0ms" help:"Wait before each reply (${default})."`
	Faults     string           `placeholder:"FILE" help:"Fault switches per device, JSON."`
	SystemFile string           `placeholder:"FILE" help:"Writes a system configuration information file (.NDD) of the devices."`
	Control    string           `placeholder:"ADDR:PORT" help:"HTTP API for tests, on a loopback address."`
	Seed       uint64           `placeholder:"N" default:"0" help:"Decides UUIDs, serial numbers, MAC addresses and realms (${default})."`
	Version    kong.VersionFlag `help:"Print the version."`
}

const description = `Simulates PCs with Intel AMT and third-party data storage. Prints "ready" when all devices listen, and runs until interrupted.

Examples:
  amtsim
  amtsim --devices 20 --control 127.0.0.1:9000 --system-file NETM.NDD
  amtsim --devices 3 --tls-port 16993 --release 16.1.25 --state ./amt
  amtsim --devices 20 --faults faults.json     {"3": {"silent": true}, "10-19": {"full_eacl": true}}`

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
	parser, err := kong.New(&f, kong.Name("amtsim"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Vars{"version": "amtsim " + version()}, kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
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

// version is that of the build: a tag, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

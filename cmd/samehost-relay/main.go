// Samehost-relay is a relay system: it takes the check-ins of the PCs at its site, keeps them while the way to its higher
// system is down, and hands the manager's replies back.
//
// # Exit codes
//
//	0  done.
//	1  not done: standard error says why and what to do.
//	2  the command line is wrong; nothing was done.
package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/hardware"
	"samehost/internal/help"
	"samehost/internal/hostid"
	"samehost/internal/layout"
	"samehost/internal/osservice"
	"samehost/internal/relay"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "development"

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const serviceName = "samehost-relay"

type cli struct {
	Config  string           `placeholder:"FILE" default:"${config}" help:"Read this instead of ${config}."`
	JSON    bool             `name:"json" help:"Print one JSON object; serve: log in JSON."`
	Version kong.VersionFlag `help:"Print the version."`

	Serve     serveCmd     `cmd:"" help:"Take check-ins until told to end; what the service runs." example:"serve; serve --json --config relay.toml"`
	Status    statusCmd    `cmd:"" help:"Show certificate, higher system and spool; changes nothing." example:"status; status --json"`
	Sysconfig sysconfigCmd `cmd:"" help:"System configuration of what is below: export." example:"sysconfig export /tmp/site.NDD; sysconfig export /tmp/site.NDD --encoding shift_jis"`
	Amtsetup  amtsetupCmd  `cmd:"" help:"AMT management user from the manager, by file: import." example:"amtsetup import amtsetup.json; amtsetup import amtsetup.json --passphrase-file p"`
	Install   installCmd   `cmd:"" help:"Register the service and start it." example:"install; install --config /etc/samehost/relay.toml"`
	Uninstall uninstallCmd `cmd:"" help:"Remove the service; all data stays." example:"uninstall; uninstall --config /etc/samehost/relay.toml"`
}

const description = `A relay system: takes check-ins for its higher system and keeps them meanwhile.

  samehost-relay serve --config /etc/samehost/relay.toml
  samehost-relay status --json
  samehost-relay sysconfig export /tmp/site.NDD
Exit codes: 0 done, 1 not done (standard error says why), 2 wrong command line.`

// program is what a command works with.
type program struct {
	config string // path of the file
	json   bool
	stdout io.Writer
	stderr io.Writer
}

// say writes a line for people to standard error.
func (p *program) say(text string) {
	fmt.Fprintf(p.stderr, "samehost-relay: %s\n", strings.Join(strings.Fields(text), " "))
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
		fmt.Fprintf(stderr, "samehost-relay: %v; see samehost-relay --help\n", err)
		return exitUsage
	}
	p := &program{config: c.Config, json: c.JSON, stdout: stdout, stderr: stderr}
	line.BindTo(ctx, (*context.Context)(nil))
	if err := line.Run(p); err != nil {
		p.say(err.Error())
		return exitFailed
	}
	return exitDone
}

func newParser(c *cli, stdout, stderr io.Writer, exit func(code int)) *kong.Kong {
	parser, err := kong.New(c,
		kong.Name("samehost-relay"),
		kong.Description(description),
		kong.Vars{"config": config.DefaultPath("relay"), "version": "samehost-relay " + version},
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.Help(help.Print),
	)
	if err != nil {
		panic(err) // the struct does not describe a command line
	}
	return parser
}

func (p *program) load() (config.Relay, error) {
	c, err := config.LoadRelay(p.config)
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("no configuration %s: write one (docs/operations/relay.en.md), or name it with --config", p.config)
	}
	return c, err
}

type serveCmd struct{}

// Run is the service. Also what is wrong with the configuration is said from inside it, so that Windows hears of it
// as the service's failure and not as silence.
func (*serveCmd) Run(ctx context.Context, p *program) error {
	return osservice.Run(ctx, serviceName, func(ctx context.Context) error {
		conf, err := p.load()
		if err != nil {
			return err
		}
		var h slog.Handler = slog.NewTextHandler(p.stderr, nil)
		if p.json {
			h = slog.NewJSONHandler(p.stderr, nil)
		}
		o, err := p.options(conf, slog.New(h))
		if err != nil {
			return err
		}
		err = relay.Serve(ctx, o)
		if errors.Is(err, hostid.ErrLocked) {
			return fmt.Errorf("another samehost-relay works here: %w", err)
		}
		return err
	})
}

// options checks everything that the configuration names.
func (p *program) options(conf config.Relay, log *slog.Logger) (relay.ServeOptions, error) {
	o := relay.ServeOptions{
		DataDir: conf.DataDir, Listen: conf.Listen, Names: conf.Names, HigherSystem: conf.HigherSystem, TokenFile: conf.EnrolmentTokenFile,
		Spool: int64(conf.SpoolMB) << 20, Hardware: hardware.Gather, Version: version, Log: log,
		Do: func(hostid.Record) map[string]relay.Do {
			return map[string]relay.Do{relay.InitializeKind: (&relay.Initializer{DataDir: conf.DataDir, AMT: p.amtOptions, Log: log}).Do}
		},
		Listening: func(a net.Addr) { fmt.Fprintf(p.stdout, "listening on https://%s\n", a) },
	}
	if conf.Hardware.File != "" {
		o.Hardware = func(context.Context) (hardware.Facts, error) { return hardware.Load(conf.Hardware.File) }
		if _, err := hardware.Load(conf.Hardware.File); err != nil {
			return o, err
		}
	}
	if conf.AMT.InUse && conf.AMT.FromManager {
		// They are kept in the data folder, where dcmamtin and what is done here read them each time.
		o.Settings = func(*checkin.AMTSettings) error { return nil }
	}
	var err error
	switch {
	case conf.CAPin != "":
		o.PinSPKI, err = hex.DecodeString(strings.TrimPrefix(conf.CAPin, "sha256:"))
	case conf.CAFile != "":
		o.RootCAs, err = authorities(conf.CAFile)
	default:
		if o.RootCAs, err = x509.SystemCertPool(); err != nil {
			err = fmt.Errorf("this system's certificate authorities cannot be read (%w): set ca_file or ca_pin", err)
		}
	}
	return o, err
}

// maxAuthorities is more than a file with every authority of a system has.
const maxAuthorities = 4 << 20

func authorities(path string) (*x509.CertPool, error) {
	b, err := hostid.ReadRegularFile(path, maxAuthorities)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ca_file %s: %w; copy the manager's CA certificate there", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("ca_file %s: %w", path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("ca_file %s: no certificate in it; it must hold the CA certificate in PEM form (-----BEGIN CERTIFICATE-----)", path)
	}
	return pool, nil
}

type statusCmd struct{}

// Run only reads.
func (*statusCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	s, err := relay.ReadStatus(conf.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no relay has worked in %s yet: start it with samehost-relay serve", conf.DataDir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("data folder %s: %w", conf.DataDir, err)
	}
	if err != nil {
		return err
	}
	if p.json {
		return json.NewEncoder(p.stdout).Encode(s)
	}
	_, err = io.WriteString(p.stdout, statusText(s, time.Now()))
	return err
}

// labels is the columns of what stands before each value of the status.
const labels = 16

// made is how long a relay may take for its host ID, its first check-in and the next writing of its status.
const made = 15 * time.Second

// statusText tells the status, broken for a screen.
func statusText(s relay.Status, now time.Time) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		if name != "" {
			name += ":"
		}
		fmt.Fprintln(&b, layout.Hanging(layout.Padded(name, labels), labels, fmt.Sprintf(format, args...), layout.Screen))
	}
	id, waiting := s.HostID.String(), s.Waiting
	if s.HostID.IsZero() {
		id = "none yet"
	}
	if s.HostID.IsZero() && waiting != "" {
		id, waiting = "being made", "the relay has just started: it makes its host ID and checks in; look again in some seconds"
		if now.Sub(s.Written) > made {
			id, waiting = "none yet", "no host ID could be made yet; the relay's log says why"
		}
	}
	line("host ID", "%s", id)
	line("higher system", "%s", s.HigherSystem)
	switch {
	case s.Listening != "":
		line("listening", "%s", s.Listening)
	case waiting != "":
		line("listening", "no: %s", waiting)
	default:
		line("listening", "no: samehost-relay does not run")
	}
	if !s.Expires.IsZero() {
		line("certificate", "for %s, until %s", strings.Join(s.Names, ", "), s.Expires.Local().Format("2006-01-02 15:04"))
	}
	if s.Renewal != "" {
		line("renewal", "failed: %s", s.Renewal)
	}
	switch {
	case s.Refused != "" && s.State != nil && s.Refused == s.State.Reason:
		line("work", "none can be fetched, for the reason below")
	case s.Refused != "":
		line("work", "none can be fetched: %s", s.Refused)
	}
	if s.OpenWork > 0 {
		line("work", "%d open", s.OpenWork)
	}
	if st := s.State; st != nil {
		name := "state"
		for l := range strings.Lines(st.Text()) {
			line(name, "%s", strings.TrimSuffix(l, "\n"))
			name = ""
		}
		if st.Reason != "" {
			line("reason", "%s", st.Reason)
		}
	}
	line("as of", "%s", s.Written.Local().Format(time.RFC3339))
	return b.String()
}

// service starts this very file with the configuration that it is registered with.
func (p *program) service(conf config.Relay) (osservice.Service, error) {
	exe, err := os.Executable()
	if err != nil {
		return osservice.Service{}, err
	}
	path, err := filepath.Abs(p.config)
	if err != nil {
		return osservice.Service{}, err
	}
	return osservice.Service{
		Name:        serviceName,
		DisplayName: "samehost relay",
		Description: "samehost relay: takes check-ins for its higher system",
		Exec:        exe,
		Args:        []string{"serve", "--config", path},
		Writable:    []string{conf.DataDir},
	}, nil
}

type installCmd struct{}

// Run checks the configuration before the service is registered.
func (*installCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	if _, err := p.options(conf, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	lock, err := hostid.LockFolder(conf.DataDir) // makes it, too
	if err != nil {
		return err
	}
	lock.Unlock()
	s, err := p.service(conf)
	if err == nil {
		err = s.Install(ctx)
	}
	if errors.Is(err, osservice.ErrNoManager) {
		return fmt.Errorf("%w (samehost-relay serve)", err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, "service: registered and started; samehost-relay status tells how it stands")
	return err
}

type uninstallCmd struct{}

func (*uninstallCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	s, err := p.service(conf)
	if err == nil {
		err = s.Uninstall(ctx)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "service: removed; what is kept in %s stays\n", conf.DataDir)
	return err
}

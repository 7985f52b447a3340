// Samehost-manager is the managing server: it takes check-ins, keeps the assets and their history, and tells what
// it decided about them.
//
// # Exit codes
//
//	0  done.
//	1  not done: standard error says why and what to do.
//	2  the command line is wrong; nothing was done.
//
// # Output
//
// Results go to standard output, everything else to standard error. With --json a list is one JSON object per line
// (RFC 3339 times in UTC), whose field names never change their meaning. What PCs reported is shown with control
// characters and the like escaped.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"samehost/internal/config"
	"samehost/internal/help"
	"samehost/internal/manager"
	"samehost/internal/registry"
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
	JSON    bool             `name:"json" help:"Print JSON; serve: log in JSON."`
	Lang    string           `enum:"en,ja" default:"${lang}" placeholder:"LANG" help:"Language of what is printed: en or ja."`
	Version kong.VersionFlag `help:"Print the version."`

	Init         initCmd         `cmd:"" group:"run" help:"Make a data folder: keys, CA, database, first token." example:"init --data-dir /var/lib/samehost; init --data-dir /srv/mgr --listen :8740 --name mgr.example"`
	Serve        serveCmd        `cmd:"" group:"run" help:"Take check-ins until told to end (Ctrl-C, SIGTERM)." example:"serve --config /var/lib/samehost/manager.toml; serve --json"`
	Token        tokenCmd        `cmd:"" group:"access" help:"Enrolment tokens: create, list, revoke." example:"token create --expires 30d; token list"`
	User         userCmd         `cmd:"" group:"access" help:"Administrators of the API: add, list, remove, password." example:"user add sato --password-file sato.txt; user list"`
	Amtsetup     amtsetupCmd     `cmd:"" group:"amt" help:"AMT management user for relays and clients." example:"amtsetup set --password-file new.txt; amtsetup export amtsetup.json"`
	Assets       assetsCmd       `cmd:"" group:"pcs" help:"List the assets." example:"assets --not-initialized; assets --json"`
	Asset        assetCmd        `cmd:"" group:"pcs" help:"Show one asset by any host ID that it had." example:"asset 0f1e2d3c4b5a69788796a5b4c3d2e1f0; asset 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --json"`
	History      historyCmd      `cmd:"" group:"pcs" help:"Tell every decision about identity." example:"history --lang ja; history 0f1e2d3c4b5a69788796a5b4c3d2e1f0"`
	Conflicts    conflictsCmd    `cmd:"" group:"identity" help:"Conflicts about identity: list, show, resolve, undo." example:"conflicts list; conflicts resolve 3 merge --dry-run"`
	Rules        rulesCmd        `cmd:"" group:"identity" help:"Rules that decide conflicts: list, set." example:"rules list; rules set same-board enforce"`
	Placeholders placeholdersCmd `cmd:"" group:"identity" help:"Values that prove nothing: list, add, remove, suggest." example:"placeholders suggest; placeholders add serial 'SN-0000*'"`
	Duplicates   duplicatesCmd   `cmd:"" group:"identity" help:"Assets that agree though their host IDs differ." example:"duplicates; duplicates --by mac,name"`
	Retire       retireCmd       `cmd:"" group:"leaving" help:"Say that a PC leaves; --clear-amt removes our data from its AMT." example:"retire 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --clear-amt; retire 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --undo"`
	Replace      replaceCmd      `cmd:"" group:"leaving" help:"Put a new PC in the place of an old one." example:"replace OLD NEW; replace 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --undo"`
	Delete       deleteCmd       `cmd:"" group:"upkeep" help:"Take an asset out of every list; nothing of it is erased." example:"delete 0f1e2d3c4b5a69788796a5b4c3d2e1f0; delete 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --json"`
	Restore      restoreCmd      `cmd:"" group:"upkeep" help:"Take back that an asset was deleted or archived." example:"restore 0f1e2d3c4b5a69788796a5b4c3d2e1f0; restore 12"`
	Deletions    deletionsCmd    `cmd:"" group:"upkeep" help:"List what was deleted, and what came back (*: by its check-in)." example:"deletions; deletions --json"`
	Archive      archiveCmd      `cmd:"" group:"upkeep" help:"Take assets out of the list that have long been silent." example:"archive --older-than 180 --dry-run; archive --older-than 180"`
	Relays       relaysCmd       `cmd:"" group:"pcs" help:"List the relays: route, last contact, backlog." example:"relays; relays --json"`
	Sysconfig    sysconfigCmd    `cmd:"" group:"files" help:"System configuration information file: export, import." example:"sysconfig export /tmp/pcs.NDD; sysconfig export /tmp/pcs.NDD --encoding shift_jis"`
	Initialize   initializeCmd   `cmd:"" group:"files" help:"Initialize the memory of many PCs, each by what is nearest to it." example:"initialize --not-initialized; initialize --file /tmp/pcs.NDD --dry-run"`
	Runs         runsCmd         `cmd:"" name:"initializations" group:"files" help:"Runs that initialize: list, show, cancel." example:"initializations list; initializations show 3"`
	Database     databaseCmd     `cmd:"" group:"run" help:"Take everything to another database: transfer." example:"database transfer --to postgres://samehost@db.example/pcs; database transfer --from sqlite:/restore/samehost.db"`
	Backup       backupCmd       `cmd:"" group:"run" help:"Write database, keys and configuration into one file." example:"backup /backup/samehost.tar; backup samehost.tar --config /var/lib/samehost/manager.toml"`
}

// groups are the lines of the program's help.
var groups = kong.Groups{
	"run":      "Make, run and back up a manager.",
	"access":   "Enrolment tokens; administrators.",
	"amt":      "AMT user of relays and clients.",
	"pcs":      "PCs, and what was decided.",
	"identity": "Doubts about identity.",
	"leaving":  "PCs that leave or are succeeded.",
	"upkeep":   "Out of the lists, and back.",
	"files":    "Initialize PCs; the system file.",
}

const description = `The managing server: takes check-ins, keeps assets and their history.

  samehost-manager init --data-dir /var/lib/samehost --listen 0.0.0.0:8740
  samehost-manager serve --config /var/lib/samehost/manager.toml
  samehost-manager assets --not-initialized
Exit codes: 0 done, 1 not done (standard error says why), 2 wrong command line.`

// program is what a command works with.
type program struct {
	config string // path of the file
	json   bool
	lang   registry.Language
	stdout *bufio.Writer
	stderr io.Writer
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run runs one command line and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	exited := -1
	parser := newParser(&c, stdout, stderr, func(code int) { exited = code })
	p := &program{stdout: bufio.NewWriter(stdout), stderr: stderr}
	line, err := parser.Parse(args)
	switch {
	case exited >= 0: // --help or --version have printed
		return exited
	case err != nil:
		p.say(fmt.Errorf("%w; see samehost-manager --help", err))
		return exitUsage
	}
	p.config, p.json, p.lang = c.Config, c.JSON, registry.Language(c.Lang)
	line.BindTo(ctx, (*context.Context)(nil))
	if err = line.Run(p); err == nil {
		err = p.stdout.Flush()
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		p.say(err)
		return exitUsage
	case err != nil:
		p.stdout.Flush()
		p.say(manager.WithRemedy(err))
		return exitFailed
	}
	return exitDone
}

func newParser(c *cli, stdout, stderr io.Writer, exit func(code int)) *kong.Kong {
	parser, err := kong.New(c,
		kong.Name("samehost-manager"),
		kong.Description(description),
		kong.Vars{"config": config.DefaultPath("manager"), "version": "samehost-manager " + version, "listen": manager.DefaultListen, "lang": help.Language()},
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.Help(help.Print),
		help.Numbers(),
		groups,
	)
	if err != nil {
		panic(err) // the struct does not describe a command line
	}
	return parser
}

// usageError is a command line that is wrong in a way that only the command sees.
type usageError string

func (e usageError) Error() string { return string(e) }

// say prints one line on standard error.
func (p *program) say(what any) {
	fmt.Fprintf(p.stderr, "samehost-manager: %s\n", shown(strings.Join(strings.Fields(fmt.Sprint(what)), " ")))
}

// load reads the configuration.
func (p *program) load() (config.Manager, error) {
	c, err := config.LoadManager(p.config)
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("no configuration %s: make one with samehost-manager init --data-dir DIR, or name it with --config", p.config)
	}
	return c, err
}

// withRegistry runs f on the registry of the configured data folder.
func (p *program) withRegistry(ctx context.Context, f func(*registry.Registry) error) error {
	c, err := p.load()
	if err != nil {
		return err
	}
	reg, err := manager.OpenRegistry(ctx, c.DataDir, c.Database)
	if err != nil {
		return err
	}
	return errors.Join(f(reg), reg.Close())
}

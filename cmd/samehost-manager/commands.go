package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"samehost/internal/amtinit"
	"samehost/internal/config"
	"samehost/internal/manager"
	"samehost/internal/registry"
)

type initCmd struct {
	DataDir string   `required:"" placeholder:"DIR" help:"Folder to make; it must not exist yet, or be empty."`
	Listen  string   `placeholder:"ADDR" default:"${listen}" help:"Address to take check-ins at (default: ${listen})."`
	Name    []string `sep:"none" placeholder:"NAME" help:"What PCs call this machine; may be given again."`

	Database     string `placeholder:"URL" help:"postgres://USER@HOST/NAME (default: a file in DIR)."`
	DatabaseFile string `placeholder:"FILE" help:"Read --database here: for one with a password."`
	Join         string `placeholder:"DIR" help:"One more manager, with keys and database of that one."`
}

func (c *initCmd) Run(ctx context.Context, p *program) (err error) {
	if c.DataDir == "" {
		return usageError("--data-dir names no folder")
	}
	if err := config.CheckListen(c.Listen); err != nil {
		return usageError(fmt.Sprintf("--listen %s", err))
	}
	for _, n := range c.Name {
		if err := config.CheckName(n); err != nil {
			return usageError(fmt.Sprintf("--name %s", err))
		}
	}
	setup, err := c.setup()
	if err != nil {
		return err
	}
	made, err := setup.Init(ctx)
	if err != nil {
		return notEmpty(err)
	}
	if c.Join != "" {
		if p.json {
			return p.printJSON(made)
		}
		fmt.Fprintf(p.stdout, p.in(textMadeOneMore), made.Config, made.Config)
		return nil
	}
	defer func() {
		if err == nil {
			err = p.stdout.Flush()
		}
		if err != nil {
			err = fmt.Errorf("%s is made, but its token could not be printed; samehost-manager token create makes another: %w", made.Config, err)
		}
	}()
	if p.json {
		return p.printJSON(made)
	}
	fmt.Fprintf(p.stdout, p.in(textMade), made.Config, made.Config, made.CAFile, made.Token, manager.Administrator, made.PasswordFile, made.Config)
	return nil
}

type serveCmd struct{}

func (c *serveCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	var h slog.Handler = slog.NewTextHandler(p.stderr, nil)
	if p.json {
		h = slog.NewJSONHandler(p.stderr, nil)
	}
	return manager.Serve(ctx, manager.Options{
		DataDir: conf.DataDir, Database: conf.Database, Listen: conf.Listen, Names: conf.Names, Log: slog.New(h),
		ArchiveAfterDays: conf.Maintenance.ArchiveAfterDays,
		AMT: func() (amtinit.Options, error) {
			o, _, err := p.amtOptions()
			return o, err
		},
		Listening: func(a net.Addr) {
			fmt.Fprintf(p.stdout, "listening on https://%s\n", a)
			p.stdout.Flush()
		},
	})
}

type tokenCmd struct {
	Create tokenCreateCmd `cmd:"" help:"Make a token and print it: it is shown only then." example:"token create --expires 30d --note 'floor 3'; token create --relay --name relay1.example"`
	List   tokenListCmd   `cmd:"" help:"List the tokens, without their secrets." example:"token list; token list --json"`
	Revoke tokenRevokeCmd `cmd:"" help:"End a token; the PCs that it enrolled stay." example:"token revoke 0123456789abcdef; token revoke 0123456789abcdef --json"`
}

// lifetime is a time to come, in days or as time.ParseDuration has it.
type lifetime time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *lifetime) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no time: write 30d or 12h", text)
	}
	*l = lifetime(d)
	return nil
}

type tokenCreateCmd struct {
	Expires lifetime `placeholder:"TIME" help:"End it after that time, as 30d or 12h (default: never)."`
	Note    string   `placeholder:"TEXT" help:"What it is for; shown by token list."`
	Relay   bool     `help:"For a relay; it admits one."`
	Name    []string `sep:"none" placeholder:"NAME" help:"What PCs call the relay (default: as it calls itself)."`
}

func (c *tokenCreateCmd) Run(ctx context.Context, p *program) error {
	if len(c.Note) > manager.MaxNote {
		return usageError(fmt.Sprintf("--note must not be longer than %d bytes", manager.MaxNote))
	}
	if len(c.Name) > 0 && !c.Relay {
		return usageError("--name goes with --relay")
	}
	if len(c.Name) > manager.MaxRelayNames {
		return usageError(fmt.Sprintf("--name may be given %d times at most", manager.MaxRelayNames))
	}
	for _, n := range c.Name {
		if err := config.CheckName(n); err != nil {
			return usageError(fmt.Sprintf("--name %s", err))
		}
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		var expires time.Time
		if c.Expires > 0 {
			expires = time.Now().Add(time.Duration(c.Expires))
		}
		var tok manager.MadeToken
		var err error
		if c.Relay {
			tok, err = manager.MakeRelayToken(ctx, reg, c.Name, expires, c.Note, systemUser())
		} else {
			tok, err = manager.MakeToken(ctx, reg, expires, c.Note, systemUser())
		}
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(tok)
		}
		fmt.Fprintln(p.stdout, tok.Token)
		return nil
	})
}

type tokenListCmd struct{}

func (c *tokenListCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		tokens, err := reg.Tokens(ctx)
		if err != nil {
			return err
		}
		t := table{columns: []column{{"TOKEN", 16}, {"STATE", 7}, {"USES", 6}, {"CREATED", 16}, {"NOTE", 27}}}
		for _, tok := range manager.Tokens(tokens, time.Now()) {
			if p.json {
				if err := p.printJSON(tok); err != nil {
					return err
				}
				continue
			}
			t.add(tok.ID, tok.State, fmt.Sprint(tok.Uses), when(tok.Created), tok.Note)
			if about := p.aboutToken(tok); about != "" {
				t.below(about)
			}
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

// aboutToken is what does not fit into a token's row: that it is for a relay, of what names, and when it ends.
func (p *program) aboutToken(tok manager.Token) string {
	var about []string
	switch {
	case tok.Relay && len(tok.RelayNames) > 0:
		about = append(about, p.in("for the relay %s", strings.Join(tok.RelayNames, ", ")))
	case tok.Relay:
		about = append(about, p.in("for a relay"))
	}
	if !tok.Expires.IsZero() {
		about = append(about, p.in("until %s", when(tok.Expires)))
	}
	return strings.Join(about, p.in("; "))
}

type tokenRevokeCmd struct {
	ID string `arg:"" name:"token" help:"The token's ID, as token list shows it; never the whole token."`
}

func (c *tokenRevokeCmd) Run(ctx context.Context, p *program) error {
	id := c.ID
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		err := reg.RevokeToken(ctx, id, systemUser())
		if errors.Is(err, registry.ErrUnknown) { // it may be a whole token: not repeated
			return errors.New("there is no such token: samehost-manager token list shows those there are")
		}
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(map[string]string{"id": id, "state": "revoked"})
		}
		p.paragraph("", p.in("Token %s is revoked.", id))
		return nil
	})
}

type historyCmd struct {
	HostID *hostArg `arg:"" optional:"" name:"hostid" help:"Only of the asset that has or had this host ID."`
}

func (c *historyCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		var events []registry.Event
		var err error
		if c.HostID != nil {
			events, err = reg.HistoryOf(ctx, c.HostID.ID)
		} else {
			events, err = reg.History(ctx)
		}
		if err != nil {
			return unknownHost(err)
		}
		for _, e := range manager.Events(events, p.lang) {
			if p.json {
				if err := p.printJSON(e); err != nil {
					return err
				}
				continue
			}
			p.paragraph(when(e.At)+"  ", e.Sentence)
		}
		return nil
	})
}

type backupCmd struct {
	File string `arg:"" name:"file" help:"Tar file to make; it must not exist yet. It holds keys: keep it safe."`
}

func (c *backupCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	if err := manager.Backup(ctx, conf.DataDir, conf.Database, p.config, c.File); err != nil {
		return err
	}
	if p.json {
		return p.printJSON(map[string]string{"file": c.File})
	}
	p.paragraph("", p.in("%s: database, keys and configuration. Whoever has it can act as this manager.", c.File))
	return nil
}

// printJSON prints one line. What shown escapes is escaped here too, as JSON does it: it means the same to a program,
// and nothing to a terminal.
func (p *program) printJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	for _, r := range b.String() {
		switch {
		case r == '\n' || visible(r): // the line's end: one inside a text is escaped already
			p.stdout.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(p.stdout, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(p.stdout, `\u%04x\u%04x`, high, low)
		}
	}
	return nil
}

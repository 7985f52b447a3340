package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/hostid"
	"samehost/internal/manager"
	"samehost/internal/registry"
)

type amtsetupCmd struct {
	Set    amtsetupSetCmd    `cmd:"" help:"Set it; relays and clients are told with their next check-in." example:"amtsetup set --password-file new.txt; amtsetup set --keep-password --port 16993 --tls"`
	Show   amtsetupShowCmd   `cmd:"" help:"Show what is set, without passwords." example:"amtsetup show; amtsetup show --json"`
	Clear  amtsetupClearCmd  `cmd:"" help:"Take it back: hosts go by their own files again." example:"amtsetup clear; amtsetup clear --for 0f1e2d3c4b5a69788796a5b4c3d2e1f0"`
	Export amtsetupExportCmd `cmd:"" help:"Write a file for PCs, sealed by a passphrase." example:"amtsetup export amtsetup.json; amtsetup export amtsetup.json --passphrase-file p.txt"`
	Import amtsetupImportCmd `cmd:"" help:"Set what a file says." example:"amtsetup import amtsetup.json; amtsetup import amtsetup.json --passphrase-file p.txt"`
}

// scopeArg says for whom.
type scopeArg struct {
	For hostArg `placeholder:"HOSTID" help:"Only for that host and what reports through it."`
}

type amtsetupSetCmd struct {
	scopeArg
	User         *string `placeholder:"NAME" help:"AMT management user (default: as before, else admin)."`
	PasswordFile string  `placeholder:"FILE" help:"Read the password here, not from standard input."`
	PasswordEnv  string  `placeholder:"NAME" help:"Or from this environment variable."`
	KeepPassword bool    `help:"Or leave it as it was set before."`
	Port         *string `placeholder:"PORT" help:"auto or a number."`
	TLS          *bool   `name:"tls" negatable:"" help:"TLS on the numbered port."`
	TLSCA        *string `name:"tls-ca" placeholder:"FILE" help:"Certificates that vouch for the devices (PEM)."`
	TLSPin       *string `name:"tls-pin" placeholder:"PIN" help:"Or sha256: and the digest of the device's key."`
	Enterprise   *string `placeholder:"NAME" help:"Entry in the enterprise access list."`
}

// maxCAFile is more than settings may hold; they say so then.
const maxCAFile = 1 << 20

// Run starts from what is set already: what the command line leaves out stays.
func (c *amtsetupSetCmd) Run(ctx context.Context, p *program) error {
	return p.withAMTSettings(ctx, func(reg *registry.Registry) error {
		var s checkin.AMTSettings
		all, err := reg.AMTSettings(ctx)
		if err != nil && !errors.Is(err, registry.ErrSettingsKey) { // those are what this command replaces
			return err
		}
		before := false
		for _, is := range all {
			if is.Scope == c.For.ID {
				s, before = is.AMT, true
			}
		}
		take := func(to *string, from *string) {
			if from != nil {
				*to = *from
			}
		}
		take(&s.User, c.User)
		take(&s.Enterprise, c.Enterprise)
		if c.Port != nil || c.TLS != nil {
			s.Port = "" // with TLS another one is the default
		}
		take(&s.Port, c.Port)
		if c.TLS != nil {
			s.TLS = *c.TLS
		}
		if c.TLSCA != nil || c.TLSPin != nil {
			s.TLSCA, s.TLSPin = "", ""
		}
		take(&s.TLSPin, c.TLSPin)
		if c.TLSCA != nil && *c.TLSCA != "" {
			b, err := hostid.ReadRegularFile(*c.TLSCA, maxCAFile)
			if err != nil {
				return fmt.Errorf("--tls-ca %s: %w; check the path, and that you may read it", *c.TLSCA, err)
			}
			s.TLSCA = string(b)
		}
		switch {
		case c.KeepPassword && (c.PasswordFile != "" || c.PasswordEnv != ""):
			return usageError("--keep-password and another password exclude each other")
		case c.KeepPassword && !before:
			return usageError("--keep-password: none is set yet")
		case !c.KeepPassword:
			password, err := config.SecretSource{What: "password", File: c.PasswordFile, Env: c.PasswordEnv, Again: true, Prompt: p.stderr}.Read()
			if err != nil {
				return err
			}
			s.Password = checkin.NewPassword(password.Reveal())
		}
		return p.setAMTSettings(ctx, reg, c.For.ID, s)
	})
}

func (p *program) setAMTSettings(ctx context.Context, reg *registry.Registry, scope hostid.ID, s checkin.AMTSettings) error {
	version, changed, err := reg.SetAMTSettings(ctx, scope, s, systemUser())
	if err != nil {
		return unknownHost(err)
	}
	if p.json {
		return p.printJSON(map[string]any{"version": version, "changed": changed})
	}
	text := p.in("The AMT management user is set (version %d); relays and clients are told with their next check-in.", version)
	if !changed {
		text = p.in("The AMT management user was set so already (version %d).", version)
	}
	p.paragraph("", text)
	return nil
}

// withAMTSettings is withRegistry for what changes them: dcmamtin on this machine finds them in the data folder afterwards.
func (p *program) withAMTSettings(ctx context.Context, f func(*registry.Registry) error) error {
	c, err := p.load()
	if err != nil {
		return err
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		if err := f(reg); err != nil {
			return err
		}
		if !c.AMT.FromManager {
			p.say(p.in("dcmamtin on this machine goes by [amt] in %s, which has a password of its own; from_manager = true there changes that", p.config))
		}
		return manager.KeepAMTSettings(ctx, reg, c.DataDir)
	})
}

type amtsetupShowCmd struct{}

func (c *amtsetupShowCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		all, err := reg.AMTSettings(ctx)
		if err != nil {
			return err
		}
		t := table{columns: []column{{"FOR", 32}, {"VERSION", 13}, {"SET", 16}, {"USER", 12}}}
		for _, s := range all {
			if p.json {
				if err := p.printJSON(s); err != nil {
					return err
				}
				continue
			}
			scope := p.in("all")
			if !s.Scope.IsZero() {
				scope = s.Scope.String()
			}
			t.add(scope, fmt.Sprint(s.Version), when(s.Changed), s.AMT.User)
			var about []string
			if s.Name != "" {
				about = append(about, p.in("%s and what reports through it", s.Name))
			}
			if s.AMT.TLS {
				about = append(about, "TLS")
			}
			switch {
			case s.AMT.TLSCA != "":
				about = append(about, p.in("trusts certificates of its own"))
			case s.AMT.TLSPin != "":
				about = append(about, p.in("trusts one key"))
			}
			about = append(about, p.in("port %s, enterprise %s", s.AMT.Port, s.AMT.Enterprise), p.in("set by %s", s.Who))
			t.below(strings.Join(about, p.in("; ")))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

type amtsetupClearCmd struct{ scopeArg }

func (c *amtsetupClearCmd) Run(ctx context.Context, p *program) error {
	return p.withAMTSettings(ctx, func(reg *registry.Registry) error {
		err := reg.ClearAMTSettings(ctx, c.For.ID, systemUser())
		if errors.Is(err, registry.ErrUnknown) {
			return fmt.Errorf("%w: samehost-manager amtsetup show lists what is set", err)
		}
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(map[string]string{"state": "cleared"})
		}
		p.paragraph("", p.in("The AMT management user is taken back; hosts are told with their next check-in."))
		return nil
	})
}

type passphraseArg struct {
	PassphraseFile string `placeholder:"FILE" help:"Read the passphrase here, not from standard input."`
	PassphraseEnv  string `placeholder:"NAME" help:"Or from this environment variable."`
}

func (a passphraseArg) read(p *program, again bool) (config.Secret, error) {
	return config.SecretSource{What: "passphrase", File: a.PassphraseFile, Env: a.PassphraseEnv, Again: again, Prompt: p.stderr}.Read()
}

type amtsetupExportCmd struct {
	File string `arg:"" name:"file" help:"File to write, as amtsetup.json; one that is there is replaced."`
	scopeArg
	passphraseArg
}

func (c *amtsetupExportCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		passphrase, err := c.read(p, true)
		if err != nil {
			return err
		}
		b, version, err := manager.ExportAMTSettings(ctx, reg, conf.DataDir, c.For.ID, passphrase.Reveal())
		if err != nil {
			return unknownHost(err)
		}
		err = replaceFile(c.File, 0o600, func(f *os.File) error {
			_, err := f.Write(b)
			return err
		})
		if err != nil {
			return fmt.Errorf("export: %w", manager.CannotWrite(c.File, err))
		}
		if p.json {
			return p.printJSON(map[string]any{"file": c.File, "version": version})
		}
		fmt.Fprintf(p.stdout, p.in("%s: version %d; on each PC:")+"\n  samehost-client amtsetup import %[1]s\n", shown(c.File), version)
		return nil
	})
}

type amtsetupImportCmd struct {
	File string `arg:"" name:"file" help:"What amtsetup export wrote, here or at another manager."`
	scopeArg
	passphraseArg
}

// Run sets what the file says. Which manager signed it is told: whoever has the passphrase and a manager of his own can make one.
func (c *amtsetupImportCmd) Run(ctx context.Context, p *program) error {
	return p.withAMTSettings(ctx, func(reg *registry.Registry) error {
		b, err := hostid.ReadRegularFile(c.File, checkin.MaxSettingsFile)
		if err != nil {
			return fmt.Errorf("import %s: %w; check the path, and that you may read it", c.File, err)
		}
		passphrase, err := c.read(p, false)
		if err != nil {
			return err
		}
		e, err := checkin.ImportSettings(b, passphrase.Reveal())
		if err != nil {
			return fmt.Errorf("import %s: %w", c.File, err)
		}
		p.say(p.in("%s was exported %s by the manager %s", c.File, when(e.Made), e.Manager))
		return p.setAMTSettings(ctx, reg, c.For.ID, e.AMT)
	})
}

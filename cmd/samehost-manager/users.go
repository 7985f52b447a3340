package main

import (
	"context"
	"errors"
	"fmt"

	"samehost/internal/config"
	"samehost/internal/registry"
)

type userCmd struct {
	Add      userAddCmd      `cmd:"" help:"Add one; the password comes from standard input or a file." example:"user add sato --password-file sato.txt; user add sato < sato.txt"`
	List     userListCmd     `cmd:"" help:"List them." example:"user list; user list --json"`
	Remove   userRemoveCmd   `cmd:"" help:"Remove one; the last one stays." example:"user remove sato; user remove sato --json"`
	Password userPasswordCmd `cmd:"" help:"Set another password; the old one is void at once." example:"user password sato; user password sato --password-file sato.txt"`
}

type userAddCmd struct {
	Name         string `arg:"" name:"name" help:"Letters, digits and . _ - @, up to 64 bytes."`
	PasswordFile string `placeholder:"FILE" help:"Read the password here, not from standard input."`
}

type userPasswordCmd struct {
	Name         string `arg:"" name:"name" help:"An administrator, as user list shows him."`
	PasswordFile string `placeholder:"FILE" help:"Read the password here, not from standard input."`
}

func (c *userAddCmd) Run(ctx context.Context, p *program) error {
	if err := registry.CheckAdministratorName(c.Name); err != nil {
		return usageError(err.Error())
	}
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		password, err := p.password(c.PasswordFile)
		if err == nil {
			err = reg.CreateAdministrator(ctx, c.Name, password, systemUser())
		}
		if err != nil {
			return userError(err)
		}
		if p.json {
			return p.printJSON(map[string]string{"name": c.Name, "state": "added"})
		}
		p.paragraph("", p.in("%s is an administrator.", c.Name))
		return nil
	})
}

func (c *userPasswordCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		password, err := p.password(c.PasswordFile)
		if err == nil {
			err = reg.ChangePassword(ctx, c.Name, password, systemUser())
		}
		if err != nil {
			return userError(err)
		}
		if p.json {
			return p.printJSON(map[string]string{"name": c.Name, "state": "changed"})
		}
		p.paragraph("", p.in("%s has another password.", c.Name))
		return nil
	})
}

// password reads one line: from a file, or from standard input, where a person is asked twice and nothing of it is shown.
func (p *program) password(file string) (string, error) {
	password, err := config.SecretSource{What: "password", File: file, Again: true, Prompt: p.stderr}.Read()
	return password.Reveal(), err
}

func userError(err error) error {
	if errors.Is(err, registry.ErrUnknown) {
		return fmt.Errorf("%w: samehost-manager user list shows those there are", err)
	}
	return err
}

type userListCmd struct{}

func (c *userListCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		all, err := reg.Administrators(ctx)
		if err != nil {
			return err
		}
		t := table{columns: []column{{"NAME", 40}, {"ADDED", 16}, {"PASSWORD SET", 16}}}
		for _, a := range all {
			if p.json {
				if err := p.printJSON(a); err != nil {
					return err
				}
				continue
			}
			t.add(a.Name, when(a.Created), when(a.Changed))
		}
		if !p.json {
			p.table(t)
		}
		return nil
	})
}

type userRemoveCmd struct {
	Name string `arg:"" name:"name" help:"An administrator, as user list shows him."`
}

func (c *userRemoveCmd) Run(ctx context.Context, p *program) error {
	return p.withRegistry(ctx, func(reg *registry.Registry) error {
		if err := reg.RemoveAdministrator(ctx, c.Name, systemUser()); err != nil {
			return userError(err)
		}
		if p.json {
			return p.printJSON(map[string]string{"name": c.Name, "state": "removed"})
		}
		p.paragraph("", p.in("%s is no administrator any more.", c.Name))
		return nil
	})
}

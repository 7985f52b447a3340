package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/hostid"
)

type amtsetupCmd struct {
	Import amtsetupImportCmd `cmd:"" help:"Take the AMT management user from a file that the manager exported." example:"amtsetup import amtsetup.json; amtsetup import amtsetup.json --passphrase-file p"`
}

type amtsetupImportCmd struct {
	File           string `arg:"" name:"file" help:"What samehost-manager amtsetup export wrote."`
	PassphraseFile string `placeholder:"FILE" help:"Read the passphrase here, not from standard input."`
	PassphraseEnv  string `placeholder:"NAME" help:"Or from this environment variable."`
}

// Run leaves the settings in the data folder; the relay, if it runs, takes them at once.
func (c *amtsetupImportCmd) Run(ctx context.Context, p *program) error {
	conf, err := p.load()
	if err != nil {
		return err
	}
	if !conf.AMT.InUse || !conf.AMT.FromManager {
		return fmt.Errorf("%s says that this relay goes by no AMT settings of the manager: [amt] is missing there, or it names a password of its own; from_manager = true there changes that", p.config)
	}
	b, err := hostid.ReadRegularFile(c.File, checkin.MaxSettingsFile)
	if err != nil {
		return fmt.Errorf("import %s: %w; check the path, and that you may read it", c.File, err)
	}
	passphrase, err := config.SecretSource{What: "passphrase", File: c.PassphraseFile, Env: c.PassphraseEnv, Prompt: p.stderr}.Read()
	if err != nil {
		return err
	}
	done, err := agent.ImportSettings(conf.DataDir, conf.EnrolmentTokenFile, b, passphrase.Reveal())
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	state := "taken with the next check-in"
	switch _, err := agent.RequestCheckIn(ctx, conf.DataDir); {
	case err == nil:
		state = "taken"
	case !errors.Is(err, agent.ErrNoService):
		p.say("the relay could not check in: " + err.Error())
	}
	if p.json {
		return json.NewEncoder(p.stdout).Encode(map[string]any{"file": c.File, "version": done.Version, "user": done.AMT.User, "state": state})
	}
	_, err = fmt.Fprintf(p.stdout, "AMT management user %s (version %d): %s\n", done.AMT.User, done.Version, state)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"samehost/internal/agent"
	"samehost/internal/amt"
	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// amtAccess is the record's place in this PC's AMT, reached by the AMT management user that holds at that moment: the one of
// the configuration file to begin with, the manager's as soon as it is told (agent.Options.Settings).
type amtAccess struct {
	own config.AMT

	mu     sync.Mutex
	store  *amt.Store
	broken error // in the place of a store
	given  bool  // the user is the manager's
}

// use goes by other settings from now on; nil: by the file. What was there before stays where they cannot be used.
func (a *amtAccess) use(s *checkin.AMTSettings) error {
	c := a.own
	if s != nil {
		c = c.With(config.Given{
			User: s.User, Password: config.NewSecret(s.Password.Reveal()), Port: s.Port, TLS: s.TLS,
			TLSCA: s.TLSCA, TLSPin: s.TLSPin, Enterprise: s.Enterprise,
		})
	}
	store, err := amtStore(c)
	if errors.Is(err, config.ErrNoPassword) && a.own.FromManager {
		store, err = nil, errUntold
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.store != nil {
		return err
	}
	a.store, a.broken, a.given = store, err, s != nil && err == nil
	if errors.Is(err, errUntold) {
		return nil // it is no mistake to wait
	}
	return err
}

// errUntold is what the store says until somebody has told it the password.
var errUntold = fmt.Errorf("%w: nobody has told this PC the password of its AMT management user yet; what to do: samehost-manager amtsetup set at the manager, or samehost-client amtsetup import here, or password_file in [amt]", hostid.ErrUnavailable)

func (a *amtAccess) now() (*amt.Store, bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken != nil && !errors.Is(a.broken, hostid.ErrUnavailable) {
		return nil, false, fmt.Errorf("%w: %w", hostid.ErrUnavailable, a.broken)
	}
	return a.store, a.given, a.broken
}

// Load implements hostid.Store.
func (a *amtAccess) Load(ctx context.Context) (hostid.Record, error) {
	store, given, err := a.now()
	if err != nil {
		return hostid.Record{}, err
	}
	r, err := store.Load(ctx)
	return r, remedied(err, given)
}

// Save implements hostid.Store.
func (a *amtAccess) Save(ctx context.Context, r hostid.Record) error {
	store, given, err := a.now()
	if err != nil {
		return err
	}
	return remedied(store.Save(ctx, r), given)
}

// Remove is amt.Store's.
func (a *amtAccess) Remove(ctx context.Context) error {
	store, given, err := a.now()
	if err != nil {
		return err
	}
	return remedied(store.Remove(ctx), given)
}

// Close is amt.Store's.
func (a *amtAccess) Close(ctx context.Context) error {
	store, _, err := a.now()
	if err != nil {
		return nil
	}
	return store.Close(ctx)
}

// remedied adds to an error what to do; given says that the AMT management user is the manager's.
func remedied(err error, given bool) error {
	if given && (errors.Is(err, wsman.ErrLogOn) || errors.Is(err, amt.ErrLockedOut)) {
		return fmt.Errorf("%w; what to do: this PC's AMT has another AMT management user than the manager told: correct it there, or with samehost-manager amtsetup set", err)
	}
	return withRemedy(err)
}

type amtsetupCmd struct {
	Import amtsetupImportCmd `cmd:"" help:"Take the AMT management user from a file that the manager exported." example:"amtsetup import amtsetup.json; amtsetup import amtsetup.json --passphrase-file p"`
}

type amtsetupImportCmd struct {
	File           string `arg:"" name:"file" help:"What samehost-manager amtsetup export wrote."`
	PassphraseFile string `placeholder:"FILE" help:"Read the passphrase here, not from standard input."`
	PassphraseEnv  string `placeholder:"NAME" help:"Or from this environment variable."`
}

// Run leaves the settings in the data folder; the service, if it runs, takes them at once.
func (c *amtsetupImportCmd) Run(ctx context.Context, p *program) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	if !cfg.AMT.InUse || !cfg.AMT.FromManager {
		return fmt.Errorf("%s says that this PC goes by no AMT settings of the manager: [amt] is missing there, or from_manager is false", p.config)
	}
	b, err := hostid.ReadRegularFile(c.File, checkin.MaxSettingsFile)
	if err != nil {
		return fmt.Errorf("import %s: %w; check the path, and that you may read it", c.File, err)
	}
	passphrase, err := config.SecretSource{What: "passphrase", File: c.PassphraseFile, Env: c.PassphraseEnv, Prompt: p.stderr}.Read()
	if err != nil {
		return err
	}
	done, err := agent.ImportSettings(cfg.DataDir, cfg.EnrolmentTokenFile, b, passphrase.Reveal())
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	state := "taken with the next check-in"
	switch _, err := agent.RequestCheckIn(ctx, cfg.DataDir); {
	case err == nil:
		state = "taken"
	case !errors.Is(err, agent.ErrNoService):
		p.say("the service could not check in: " + err.Error())
	}
	return p.print(map[string]any{"file": c.File, "version": done.Version, "user": done.AMT.User, "state": state},
		fmt.Sprintf("AMT management user %s (version %d): %s", done.AMT.User, done.Version, state))
}

// keptSettings are those of the data folder, for what works without an agent; nil where there are none that can be read,
// about which the agent has its own to say.
func keptSettings(folder string) *checkin.AMTSettings {
	k, err := checkin.ReadKeptSettings(folder, checkin.SettingsFileName)
	if err != nil {
		return nil
	}
	return k.AMT
}

package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"samehost/internal/agent"
	"samehost/internal/amt"
	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// storeAMT is the name of the record's place in AMT nonvolatile memory, in reports and status.
const storeAMT = "amt"

func (p *program) load() (config.Client, error) {
	return config.LoadClient(p.config)
}

// options checks everything that the configuration names, so that a mistake is found before anything is done.
func (p *program) options(cfg config.Client, log *slog.Logger) (agent.Options, error) {
	o := agent.Options{
		DataDir:      cfg.DataDir,
		HigherSystem: cfg.HigherSystem,
		TokenFile:    cfg.EnrolmentTokenFile,
		RestoreWait:  cfg.RestoreWait,
		Version:      version,
		Log:          log,
	}
	for _, w := range cfg.AMT.Warnings() {
		log.Warn(w)
	}
	o.Hardware = hardware.Gather
	if cfg.Hardware.File != "" {
		o.Hardware = func(context.Context) (hardware.Facts, error) { return hardware.Load(cfg.Hardware.File) }
		if _, err := hardware.Load(cfg.Hardware.File); err != nil {
			return o, err
		}
	}
	if cfg.HigherSystem != "" {
		connect, err := connector(cfg)
		if err != nil {
			return o, err
		}
		o.Connect = connect
	}
	if cfg.EnrolmentTokenFile != "" {
		// Without the file an enrolled PC works on, so that a token may be taken away after use.
		if _, err := agent.ReadToken(cfg.EnrolmentTokenFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return o, err
		}
	}
	if !cfg.AMT.InUse {
		return o, nil
	}
	access := &amtAccess{own: cfg.AMT}
	var kept *checkin.AMTSettings
	if cfg.AMT.FromManager {
		o.Settings, kept = access.use, keptSettings(cfg.DataDir)
	}
	if err := access.use(kept); err != nil { // with the manager's settings, the file's own password need not be there any more
		if kept == nil {
			return o, err
		}
		log.Error("the manager's AMT settings cannot be used", "reason", err)
	}
	o.Stores = []hostid.NamedStore{{Name: storeAMT, Store: access}}
	return o, nil
}

// connector judges the higher system's certificate by ca_file, ca_pin, or else the system's authorities.
func connector(cfg config.Client) (func(checkin.Fingerprint, func() time.Time) (checkin.HigherSystem, error), error) {
	o := checkin.ClientOptions{URL: cfg.HigherSystem}
	var err error
	switch {
	case cfg.CAPin != "":
		o.PinSPKI, err = pin(cfg.CAPin)
	case cfg.CAFile != "":
		o.RootCAs, err = authorities("ca_file", cfg.CAFile)
	default:
		if o.RootCAs, err = x509.SystemCertPool(); err != nil {
			err = fmt.Errorf("this system's certificate authorities cannot be read (%w): set ca_file or ca_pin", err)
		}
	}
	if err != nil {
		return nil, err
	}
	connect := func(manager checkin.Fingerprint, now func() time.Time) (checkin.HigherSystem, error) {
		o := o
		o.Manager, o.Now = manager, now
		return checkin.NewClient(o)
	}
	// Any key will do to have the rest judged now.
	if _, err := connect(checkin.Fingerprint("sha256:"+strings.Repeat("0", 64)), nil); err != nil {
		return nil, err
	}
	return connect, nil
}

// amtStore is the record's place in this PC's AMT.
func amtStore(a config.AMT) (*amt.Store, error) {
	password, err := a.Password()
	if err != nil {
		return nil, err
	}
	e := wsman.Endpoint{URL: a.URL, User: a.User, Password: wsman.Secret(password.Reveal())}
	switch {
	case a.Given != nil && a.Given.TLSCA != "":
		e.RootCAs, _, err = a.Trust()
	case a.TLSPin != "":
		e.PinSPKI, err = pin(a.TLSPin)
	case a.TLSCA != "":
		e.RootCAs, err = authorities("[amt] tls_ca", a.TLSCA)
	}
	if err != nil {
		return nil, err
	}
	client, err := wsman.NewClient(e)
	if err != nil {
		return nil, fmt.Errorf("[amt] url: %w", withRemedy(err))
	}
	return amt.NewStore(client, a.Enterprise), nil
}

// pin is the digest in a pin that config has checked.
func pin(s string) ([]byte, error) { return hex.DecodeString(strings.TrimPrefix(s, "sha256:")) }

// maxAuthorities is more than a file with every authority of a system has.
const maxAuthorities = 4 << 20

func authorities(key, path string) (*x509.CertPool, error) {
	b, err := hostid.ReadRegularFile(path, maxAuthorities)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s %s: %w; copy the manager's CA certificate there", key, path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", key, path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s %s: no certificate in it; it must hold the CA certificate in PEM form (-----BEGIN CERTIFICATE-----)", key, path)
	}
	return pool, nil
}

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/config"
	"samehost/internal/wsman"
)

// amtOptions says how this relay reaches the AMT of PCs, as its configuration and what the manager told it have it now. It reads
// the file anew each time, as dcmamtin does.
func (p *program) amtOptions() (amtinit.Options, error) {
	c, err := p.load()
	if err != nil {
		return amtinit.Options{}, err
	}
	if !c.AMT.InUse {
		return amtinit.Options{}, fmt.Errorf("%s has no [amt] table: write the AMT management user into it", p.config)
	}
	amt, err := withKeptSettings(c.AMT, c.DataDir)
	if err != nil {
		return amtinit.Options{}, err
	}
	password, err := amt.Password()
	if err != nil {
		return amtinit.Options{}, fmt.Errorf("%s: %w", p.config, err)
	}
	o := amtinit.Options{
		User: amt.User, Password: wsman.Secret(password.Reveal()), Enterprise: amt.Enterprise,
		TLS: amt.TLS, AddressFirst: c.Dcmamtin.Resolve == "file",
	}
	if o.Port, err = amt.PortNumber(); err != nil {
		return amtinit.Options{}, fmt.Errorf("%s: %w", p.config, err)
	}
	if o.RootCAs, o.PinSPKI, err = amt.Trust(); err != nil {
		return amtinit.Options{}, fmt.Errorf("%s: %w", p.config, err)
	}
	if o.TLS && o.RootCAs == nil && o.PinSPKI == nil {
		return amtinit.Options{}, fmt.Errorf("%s: [amt] tls = true needs tls_ca or tls_pin beside it", p.config)
	}
	return o, nil
}

// withKeptSettings is [amt] with the settings that the manager told this relay, where the file leaves them to it (config.AMT.FromManager).
func withKeptSettings(a config.AMT, dataDir string) (config.AMT, error) {
	if !a.FromManager {
		return a, nil
	}
	k, err := checkin.ReadKeptSettings(dataDir, checkin.SettingsFileName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, nil
	case err != nil:
		return a, fmt.Errorf("%w; write password_file into [amt], or have the manager tell it again", err)
	case k.AMT == nil:
		return a, nil
	}
	return a.With(config.Given{
		User: k.AMT.User, Password: config.NewSecret(k.AMT.Password.Reveal()), Port: k.AMT.Port, TLS: k.AMT.TLS,
		TLSCA: k.AMT.TLSCA, TLSPin: k.AMT.TLSPin, Enterprise: k.AMT.Enterprise,
	}), nil
}

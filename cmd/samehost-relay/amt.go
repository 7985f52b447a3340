package main

import (
	"fmt"

	"samehost/internal/amtinit"
	"samehost/internal/amtsettings"
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
	amt, err := amtsettings.WithKept(c.AMT, c.DataDir)
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

package main

import (
	"errors"
	"fmt"

	"samehost/internal/amt"
	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// remedies are what to do about errors of the AMT store (docs/operations/client.en.md has the same list, at more length),
// in the order in which they are looked for: the first error found decides.
var remedies = []struct {
	of   error
	what string
}{
	{amt.ErrLockedOut, "check user and password in [amt], and wait some minutes until AMT lets anybody in again"},
	{wsman.ErrLogOn, "check user and password in [amt]: they must be those of this PC's AMT management user"},
	{amt.ErrNoRealm, "give the AMT management user the realm for third-party data storage, local access included"},
	{amt.ErrNo3PDS, "this PC's firmware cannot keep a host ID; remove the [amt] table, or update the firmware"},
	{amt.ErrNotProvisioned, "set AMT up on this PC"},
	{amt.ErrMode, "set AMT up in Small Business mode, or with TLS"},
	{amt.ErrNotReady, "nothing: the next check-in tries again"},
	{amt.StatusBlockLockedByOther, "find the application that locks the host ID's block, or restart the PC; the next check-in tries again"},
	{amt.StatusFlashWriteLimitExceeded, "AMT limits how often flash is written: have its administrator reset the flash wear-out counter"},
	{wsman.ErrNoTrust, "set tls_ca or tls_pin in [amt]"},
	{wsman.ErrCert, "check tls_ca or tls_pin in [amt]"},
	{wsman.ErrTLSOnly, "write url = \"https://...:16993\" into [amt], with tls_ca or tls_pin"},
	{wsman.ErrNotTLS, "write url = \"http://...:16992\" into [amt]"},
	{hostid.ErrNotInitialized, "run dcmamtin for this PC at the manager or a relay"},
	{hostid.ErrUnavailable, "check that Intel LMS (Local Manageability Service) is installed and runs, and url in [amt]"},
}

func withRemedy(err error) error {
	if err == nil {
		return nil
	}
	for _, r := range remedies {
		if errors.Is(err, r.of) {
			return fmt.Errorf("%w; what to do: %s", err, r.what)
		}
	}
	return err
}

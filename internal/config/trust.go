package config

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// PortNumber is the port that the table names; 0 for "auto".
func (a AMT) PortNumber() (int, error) {
	if a.Port == "auto" {
		return 0, nil
	}
	n, err := strconv.Atoi(a.Port)
	if err != nil {
		return 0, fmt.Errorf("[amt] port: %w", err)
	}
	return n, nil
}

// Trust reads what the TLS certificates of AMT are judged by: a file of CAs, or the pin of a public key (SHA-256 of its SPKI).
// Both are nil where the table says nothing.
func (a AMT) Trust() (roots *x509.CertPool, pinSPKI []byte, err error) {
	if a.Given != nil && a.Given.TLSCA != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(a.Given.TLSCA)) {
			return nil, nil, errors.New("tls_ca of the manager's AMT settings holds no PEM certificate")
		}
		return pool, nil, nil
	}
	if a.TLSPin != "" {
		pin, err := hex.DecodeString(strings.TrimPrefix(a.TLSPin, "sha256:"))
		if err != nil {
			return nil, nil, fmt.Errorf("[amt] tls_pin: %w", err)
		}
		return nil, pin, nil
	}
	if a.TLSCA == "" {
		return nil, nil, nil
	}
	pem, err := os.ReadFile(a.TLSCA)
	if err != nil {
		return nil, nil, fmt.Errorf("[amt] tls_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("[amt] tls_ca: %s holds no PEM certificate; put the CA's certificate there", a.TLSCA)
	}
	return pool, nil, nil
}

// Given are AMT settings that came from the manager: what [amt] says, with the password and the certificates themselves.
type Given struct {
	User       string
	Password   Secret
	Port       string // "auto" or a number
	TLS        bool
	TLSCA      string // certificates, PEM
	TLSPin     string
	Enterprise string
}

// With is the table with given settings in the place of its own. URL stays, since only the machine itself knows it, and so
// does whom to trust where nobody is given: a pin may be for one device.
func (a AMT) With(g Given) AMT {
	a.Given = &g
	a.User, a.Port, a.TLS, a.Enterprise = g.User, g.Port, g.TLS, g.Enterprise
	a.PasswordFile, a.PasswordEnv = "", ""
	if g.TLSCA != "" || g.TLSPin != "" {
		a.TLSCA, a.TLSPin = "", g.TLSPin
	}
	return a
}

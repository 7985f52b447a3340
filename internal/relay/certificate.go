package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const (
	certificateFile = "relay.pem" // key, certificate and CA in one, so that they always belong together
	maxCertificate  = 64 << 10
)

// certificate is the relay's own, for what is below it and for its higher system.
type certificate struct {
	path string

	mu      sync.Mutex
	current *tls.Certificate
	ca      *x509.Certificate
}

// loadCertificate reads the certificate of a data folder, if there is one that belongs to this host ID.
func loadCertificate(dir string, id hostid.ID) (*certificate, error) {
	c := &certificate{path: filepath.Join(dir, certificateFile)}
	b, err := hostid.ReadRegularFile(c.path, maxCertificate)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = c.parse(b, id)
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w; it is asked for anew", c.path, err)
	}
	return c, nil
}

func (c *certificate) parse(b []byte, id hostid.ID) error {
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return err
	}
	if len(pair.Certificate) != 2 {
		return errors.New("not a certificate and its CA")
	}
	ca, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		return err
	}
	owner, err := checkin.RelayOf(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Leaf}}, ca, pair.Leaf.NotBefore)
	if err != nil {
		return err
	}
	if owner != id {
		return fmt.Errorf("it is the certificate of host ID %s", owner)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.ca = &pair, ca
	return nil
}

// get is the certificate that is valid now, nil for none.
func (c *certificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil || time.Now().After(c.current.Leaf.NotAfter) {
		return nil, nil
	}
	return c.current, nil
}

// authority is the manager's CA, nil while there is no certificate.
func (c *certificate) authority() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ca
}

// due reports that the certificate is to be asked for: there is none, a third of its time is left, or it is not for one of
// these names.
func (c *certificate) due(now time.Time, names []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return true
	}
	leaf := c.current.Leaf
	if left := leaf.NotAfter.Sub(now); left < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return !isFor(leaf, n) })
}

func isFor(leaf *x509.Certificate, name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		return slices.ContainsFunc(leaf.IPAddresses, ip.Equal)
	}
	return slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, name) })
}

// names are what the certificate is for.
func (c *certificate) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return nil
	}
	names := slices.Clone(c.current.Leaf.DNSNames)
	for _, ip := range c.current.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func (c *certificate) expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return time.Time{}
	}
	return c.current.Leaf.NotAfter
}

// identity is who a relay is.
type identity struct {
	record  hostid.Record
	manager checkin.Fingerprint
}

func (i identity) same(o identity) bool {
	return i.record.HostID == o.record.HostID && i.record.Seed == o.record.Seed && i.manager == o.manager
}

// obtain asks the manager for a certificate for those names, all that are allowed if there are none, and makes it durable.
func (c *certificate) obtain(ctx context.Context, up *checkin.RelayClient, who identity, names []string, tokenFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.CertificateRequest{}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	var token *checkin.EnrolmentToken
	if tokenFile != "" {
		t, err := agent.ReadToken(tokenFile)
		switch {
		case err == nil && t.Manager == who.manager:
			token = &t
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrPermission):
			return err
		}
	}
	request, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: who.manager, HostID: who.record.HostID, CSR: csr},
		who.record.Seed.SigningKey(), token)
	if err != nil {
		return err
	}
	issued, err := up.Certificate(ctx, request)
	if err != nil {
		return err
	}
	leaf, ca, err := checkin.VerifyIssuedCertificate(issued, who.manager, request)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, block := range []pem.Block{{Type: "PRIVATE KEY", Bytes: der}, {Type: "CERTIFICATE", Bytes: leaf.Raw}, {Type: "CERTIFICATE", Bytes: ca.Raw}} {
		if err := pem.Encode(&b, &block); err != nil {
			return err
		}
	}
	if err := hostid.WriteFileDurably(c.path, b.Bytes()); err != nil {
		return err
	}
	return c.parse(b.Bytes(), who.record.HostID)
}

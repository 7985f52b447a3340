package manager

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	caYears    = 20
	serverDays = 90 // the certificate is made anew at every start, and when a third of this is left
	backdated  = 24 * time.Hour
)

// newCA makes the certificate authority that clients are given as ca_file. It signs servers only.
func newCA(now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	name, _ := os.Hostname()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "samehost CA of " + name},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.AddDate(caYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// certificates makes the server's certificates. Its key lives in memory only: who pins, pins the CA, which is part
// of the chain.
type certificates struct {
	ca    *x509.Certificate
	caKey crypto.Signer
	names []string
	ips   []net.IP
	now   func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
}

// loadCertificates reads the CA of a data folder, for a server that is reached at the host of the listen address,
// this machine's name, localhost, the loopback addresses and further names or addresses.
func loadCertificates(dir, host string, further []string, now func() time.Time) (*certificates, error) {
	path := filepath.Join(dir, caFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, permission(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: not a certificate in PEM; put back the one from a backup", path)
	}
	c := &certificates{now: now}
	if c.ca, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w; put back the one from a backup", path, err)
	}
	keyPath := filepath.Join(dir, caKeyFile)
	key, err := readPrivate(keyPath)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if pub, same := c.ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same || !pub.Equal(signer.Public()) {
		return nil, fmt.Errorf("%s is not the key of %s; put back both from a backup", keyPath, path)
	}
	c.caKey = signer
	for _, n := range []string{"localhost", "127.0.0.1", "::1"} {
		c.add(n)
	}
	name, err := os.Hostname()                                                              // with its domain or without, as the machine is set up; DNS is not asked
	ascii := !strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) // certificates hold no other
	if err == nil && name != "" && ascii {
		c.add(name)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		// Every address of this machine answers.
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				c.add(n.IP.String())
			}
		}
	} else {
		c.add(host)
	}
	for _, n := range further {
		c.add(n)
	}
	_, err = c.get(nil)
	return c, err
}

// add makes the certificate good for a name or address. One that it is good for already is left out: names are
// compared as DNS does.
func (c *certificates) add(name string) {
	if ip := net.ParseIP(name); ip != nil {
		if !slices.ContainsFunc(c.ips, ip.Equal) {
			c.ips = append(c.ips, ip)
		}
		return
	}
	if !slices.ContainsFunc(c.names, func(n string) bool { return strings.EqualFold(n, name) }) {
		c.names = append(c.names, name)
	}
}

// goodFor lists all names and addresses.
func (c *certificates) goodFor() []string {
	list := slices.Clone(c.names)
	for _, ip := range c.ips {
		list = append(list, ip.String())
	}
	return list
}

// get is tls.Config.GetCertificate.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.current != nil && now.Before(c.current.Leaf.NotAfter.AddDate(0, 0, -serverDays/3)) {
		return c.current, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "samehost manager"}, // for people; the names count
		NotBefore:    now.Add(-backdated),
		NotAfter:     now.AddDate(0, 0, serverDays),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     c.names,
		IPAddresses:  c.ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, key.Public(), c.caKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c.current = &tls.Certificate{Certificate: [][]byte{der, c.ca.Raw}, PrivateKey: key, Leaf: leaf}
	return c.current, nil
}

// serial is a random serial number, below 2^159 as RFC 5280 4.1.2.2 bounds it.
func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func keyToPEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certToPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

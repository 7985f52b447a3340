package wsman

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// rsaKey is made once: making one takes longer than all that is tested with it.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// selfSigned makes a CA certificate for 127.0.0.1 that is valid now, or expired.
func selfSigned(t *testing.T, withRSA, expired bool) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if expired {
		template.NotAfter = time.Now().Add(-24 * time.Hour)
	}
	var public, private any
	if withRSA {
		public, private = &rsaKey().PublicKey, rsaKey()
	} else {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, private = &key.PublicKey, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, parsed
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

func pinOf(c *x509.Certificate) []byte {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return sum[:]
}

func TestTLS(t *testing.T) {
	t.Parallel()
	good, goodCert := selfSigned(t, false, false)
	old, oldCert := selfSigned(t, false, true)
	legacy, legacyCert := selfSigned(t, true, false)
	_, otherCert := selfSigned(t, false, false)
	firmware := func(version uint16, suites ...uint16) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{legacy}, MinVersion: tls.VersionTLS10, MaxVersion: version, CipherSuites: suites}
	}
	modern := &tls.Config{Certificates: []tls.Certificate{good}}
	for _, test := range []struct {
		name   string
		server *tls.Config
		trust  Endpoint
		host   string // "" as the certificate says
		want   error
	}{
		{"CA", modern, Endpoint{RootCAs: pool(goodCert)}, "", nil},
		{"another CA", modern, Endpoint{RootCAs: pool(otherCert)}, "", ErrCert},
		{"no CA in the pool", modern, Endpoint{RootCAs: pool()}, "", ErrCert},
		{"another name", modern, Endpoint{RootCAs: pool(goodCert)}, "127.0.0.2", ErrCert},
		{"expired", &tls.Config{Certificates: []tls.Certificate{old}}, Endpoint{RootCAs: pool(oldCert)}, "", ErrCert},
		{"pin", modern, Endpoint{PinSPKI: pinOf(goodCert)}, "", nil},
		{"pin, another name", modern, Endpoint{PinSPKI: pinOf(goodCert)}, "127.0.0.2", nil},
		{"pin, expired", &tls.Config{Certificates: []tls.Certificate{old}}, Endpoint{PinSPKI: pinOf(oldCert)}, "", nil},
		{"another pin", modern, Endpoint{PinSPKI: pinOf(otherCert)}, "", ErrCert},
		{"CA, TLS 1.2 with RSA key exchange", firmware(tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA), Endpoint{RootCAs: pool(legacyCert)}, "", nil},
		{"pin, TLS 1.2 with RSA key exchange", firmware(tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256), Endpoint{PinSPKI: pinOf(legacyCert)}, "", nil},
		{"pin, TLS 1.1", firmware(tls.VersionTLS11, tls.TLS_RSA_WITH_AES_256_CBC_SHA), Endpoint{PinSPKI: pinOf(legacyCert)}, "", nil},
		{"pin, TLS 1.0", firmware(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA), Endpoint{PinSPKI: pinOf(legacyCert)}, "", nil},
		{"another pin, TLS 1.0", firmware(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA), Endpoint{PinSPKI: pinOf(goodCert)}, "", ErrCert},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := startDevice(t, logOn(okGet), test.server)
			e := test.trust
			e.URL = "https://" + d.listener.Addr().String()
			if test.host != "" {
				// Dialled where the device is, asked for under another name.
				real := d.listener.Addr().String()
				e.URL = "https://" + test.host + ":16993"
				e.Dial = dialTo(real)
			}
			c := newTestClient(t, e)
			for range 2 { // with a resumed session, too: the 401 closed the first one
				_, err := c.Get(testContext(t), generalSettings)
				if !errors.Is(err, test.want) || test.want == nil && err != nil {
					t.Fatalf("got %v, want %v", err, test.want)
				}
			}
			conns, requests := d.seen()
			switch {
			case test.want == nil && (conns != 2 || len(requests) != 3):
				t.Errorf("%d connections, %d requests", conns, len(requests))
			case test.want != nil && len(requests) != 0:
				t.Errorf("%d requests to a device that is not trusted", len(requests))
			}
		})
	}
	t.Run("CA, TLS 1.1", func(t *testing.T) {
		t.Parallel()
		d := startDevice(t, okGet, firmware(tls.VersionTLS11, tls.TLS_RSA_WITH_AES_128_CBC_SHA))
		c := newTestClient(t, Endpoint{URL: "https://" + d.listener.Addr().String(), RootCAs: pool(legacyCert)})
		if _, err := c.Get(testContext(t), generalSettings); err == nil || errors.Is(err, ErrCert) || errors.Is(err, ErrNotTLS) {
			t.Errorf("got %v", err)
		}
	})
}

// TestPinHoldsForResumedSessions: a session is resumed, and the pin is judged again.
func TestPinHoldsForResumedSessions(t *testing.T) {
	t.Parallel()
	cert, parsed := selfSigned(t, false, false)
	d := startDevice(t, func(r request) answer { a := okGet(r); a.close = true; return a }, &tls.Config{Certificates: []tls.Certificate{cert}})
	c := newTestClient(t, Endpoint{URL: "https://" + d.listener.Addr().String(), PinSPKI: pinOf(parsed)})
	var resumed []bool
	judge := c.tls.VerifyConnection
	c.tls.VerifyConnection = func(s tls.ConnectionState) error {
		resumed = append(resumed, s.DidResume)
		return judge(s)
	}
	for range 2 {
		if _, err := c.Get(testContext(t), generalSettings); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if len(resumed) != 2 || resumed[0] || !resumed[1] {
		t.Errorf("resumed: %v", resumed)
	}
}

func TestNoTrust(t *testing.T) {
	t.Parallel()
	_, err := NewClient(Endpoint{URL: "https://127.0.0.1:16993", User: "admin"})
	if !errors.Is(err, ErrNoTrust) {
		t.Errorf("got %v", err)
	}
	_, err = NewClient(Endpoint{URL: "https://127.0.0.1:16993", User: "admin", RootCAs: pool(), PinSPKI: make([]byte, 32)})
	if err == nil || errors.Is(err, ErrNoTrust) {
		t.Errorf("both: %v", err)
	}
}

// TestWrongProtocol tells TLS spoken to a plain port from plain HTTP spoken to a TLS port.
func TestWrongProtocol(t *testing.T) {
	t.Parallel()
	cert, parsed := selfSigned(t, false, false)

	for name, d := range map[string]*device{
		// Many servers answer a ClientHello with a page; this one sends it before it has read any.
		"page":     startGreeting(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
		"hangs up": newDevice(t, okGet),
	} {
		_, err := newTestClient(t, Endpoint{URL: "https" + strings.TrimPrefix(d.url(), "http"), PinSPKI: pinOf(parsed)}).Get(testContext(t), generalSettings)
		if !errors.Is(err, ErrNotTLS) {
			t.Errorf("TLS to a plain port, %s: %v", name, err)
		}
	}
	mute := newDevice(t, func(request) answer { return answer{close: true} })
	if _, err := newTestClient(t, Endpoint{URL: "https" + strings.TrimPrefix(mute.url(), "http"), PinSPKI: pinOf(parsed)}).
		Get(testContext(t), generalSettings); err == nil || errors.Is(err, ErrNotTLS) {
		t.Errorf("TLS to a device that always hangs up: %v", err)
	}

	// Go's TLS server hangs up on plain HTTP without an alert; OpenSSL's sends one (TestReplyRefused).
	secure := startDevice(t, okGet, &tls.Config{Certificates: []tls.Certificate{cert}})
	_, err := newTestClient(t, Endpoint{URL: secure.url()}).Get(testContext(t), generalSettings)
	if !errors.Is(err, ErrTLSOnly) {
		t.Errorf("plain HTTP to a TLS port: %v", err)
	}
	// One that wants a client certificate, or an unknown version, refuses by alert: TLS all the same.
	strict := startDevice(t, okGet, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12})
	if _, err = newTestClient(t, Endpoint{URL: strict.url()}).Get(testContext(t), generalSettings); !errors.Is(err, ErrTLSOnly) {
		t.Errorf("plain HTTP to a TLS port that wants a certificate: %v", err)
	}
	// One that just hangs up is neither.
	closing := newDevice(t, func(request) answer { return answer{close: true} })
	if _, err = newTestClient(t, Endpoint{URL: closing.url()}).Get(testContext(t), generalSettings); errors.Is(err, ErrTLSOnly) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a device that hangs up: %v", err)
	}
}

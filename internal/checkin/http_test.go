package checkin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
)

// higher is the smallest HigherSystem: it answers what its function says.
type higher func(checkin.SignedReport) (checkin.Reply, error)

func (h higher) CheckIn(_ context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	return h(r)
}

func accept(r checkin.SignedReport) (checkin.Reply, error) {
	v, err := checkin.Verify(r)
	if err != nil {
		return checkin.Reply{}, err
	}
	return checkin.SignReply(checkin.Reply{Report: r.Digest(), Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Minute}, managerKey)
}

var validFrom, validTo = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)

// pki is a CA and a certificate by it.
type pki struct {
	ca   *x509.Certificate
	leaf tls.Certificate
}

func newPKI(t *testing.T) pki {
	t.Helper()
	return newPKIFor(t, nil, []net.IP{net.IPv4(127, 0, 0, 1)})
}

func newPKIFor(t *testing.T, names []string, ips []net.IP) pki {
	t.Helper()
	make := func(tmpl, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = tmpl, k
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, k.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, k
	}
	ca, caKey := make(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: validFrom, NotAfter: validTo, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, leafKey := make(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: validFrom, NotAfter: validTo, DNSNames: names, IPAddresses: ips, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	return pki{ca, tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: leafKey}}
}

func (p pki) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return pool
}

func (p pki) serve(t *testing.T, h http.Handler) string {
	t.Helper()
	return p.serveAt(t, "127.0.0.1:0", h)
}

func (p pki) serveAt(t *testing.T, address string, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.Listener = l
	s.TLS = &tls.Config{Certificates: []tls.Certificate{p.leaf}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestCheckInOverHTTPS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	url := p.serve(t, checkin.Handler(higher(accept), discard()))
	spki := sha256.Sum256(p.ca.RawSubjectPublicKeyInfo)
	leaf, err := x509.ParseCertificate(p.leaf.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	leafSPKI := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	during := func() time.Time { return validFrom.AddDate(1, 0, 0) }
	for name, o := range map[string]checkin.ClientOptions{
		"CA file":                 {RootCAs: p.pool(), Now: during},
		"pinned CA":               {PinSPKI: spki[:], Now: during},
		"pinned leaf":             {PinSPKI: leafSPKI[:], Now: during},
		"clock years in the past": {PinSPKI: spki[:], Now: func() time.Time { return time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		o.URL, o.Manager = url, manager
		c, err := checkin.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r := mustSign(t, report(), nil)
		reply, err := c.CheckIn(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if reply.Report != r.Digest() || reply.Status != checkin.Accepted || reply.HostID != id("0a") || reply.Raw == "" {
			t.Errorf("%s: reply %+v", name, reply)
		}
	}
}

func TestUntrustedHigherSystems(t *testing.T) {
	t.Parallel()
	p, stranger := newPKI(t), newPKI(t)
	during := func() time.Time { return validFrom.AddDate(1, 0, 0) }
	after := func() time.Time { return validTo.AddDate(1, 0, 0) }
	spki := sha256.Sum256(p.ca.RawSubjectPublicKeyInfo)
	strangeKey := key("stranger")
	var reached atomic.Bool
	h := checkin.Handler(higher(func(r checkin.SignedReport) (checkin.Reply, error) {
		reached.Store(true)
		return accept(r)
	}), discard())
	url := p.serve(t, h)
	for _, test := range []struct {
		name, want string
		o          checkin.ClientOptions
	}{
		{"another CA", "certificate is not trusted", checkin.ClientOptions{RootCAs: stranger.pool(), Now: during}},
		{"another pin", "no key in its chain is the pinned one", checkin.ClientOptions{PinSPKI: make([]byte, 32), Now: during}},
		{"expired", "expired", checkin.ClientOptions{PinSPKI: spki[:], Now: after}},
		{"another CA and another name", "certificate is not trusted: x509: certificate signed by unknown authority", checkin.ClientOptions{URL: strings.Replace(url, "127.0.0.1", "localhost", 1), RootCAs: stranger.pool(), Now: during}},
	} {
		if test.o.URL == "" {
			test.o.URL = url
		}
		test.o.Manager = manager
		c, err := checkin.NewClient(test.o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.CheckIn(t.Context(), mustSign(t, report(), nil))
		if !errors.Is(err, checkin.ErrUnavailable) || !errors.Is(err, checkin.ErrUntrusted) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "ca_pin") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if reached.Load() {
		t.Error("a report was sent before the certificate was judged")
	}

	forged := p.serve(t, checkin.Handler(higher(func(r checkin.SignedReport) (checkin.Reply, error) {
		return checkin.SignReply(checkin.Reply{Report: r.Digest(), Status: checkin.Accepted, HostID: id("0a"), Interval: time.Minute}, strangeKey)
	}), discard()))
	c, err := checkin.NewClient(checkin.ClientOptions{URL: forged, RootCAs: p.pool(), Now: during, Manager: manager})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); !errors.Is(err, checkin.ErrUnavailable) || !errors.Is(err, checkin.ErrUntrusted) || !strings.Contains(err.Error(), "signed by sha256:") {
		t.Errorf("a reply by another key: %v", err)
	}
}

// The likeliest mistake of all: the manager is called by a name that its certificate does not have.
func TestAnotherName(t *testing.T) {
	t.Parallel()
	during := func() time.Time { return validFrom.AddDate(1, 0, 0) }
	many := make([]string, 12)
	for i := range many {
		many[i] = fmt.Sprintf("m%d.example", i)
	}
	for _, test := range []struct {
		names []string
		ips   []net.IP
		want  string
	}{
		{[]string{"manager", "manager.example"}, []net.IP{net.IPv4(192, 0, 2, 7)}, "it is for manager, manager.example, 192.0.2.7, not for localhost; "},
		{nil, []net.IP{net.IPv4(127, 0, 0, 1)}, "it is for 127.0.0.1, not for localhost; "},
		{nil, nil, "it is for no name, not for localhost; "},
		{many, nil, "it is for m0.example, m1.example, m2.example, m3.example, m4.example, m5.example, m6.example, m7.example, m8.example, m9.example and 2 more, not for localhost; "},
	} {
		p := newPKIFor(t, test.names, test.ips)
		url := p.serve(t, checkin.Handler(higher(accept), discard()))
		url = strings.Replace(url, "127.0.0.1", "localhost", 1)
		spki := sha256.Sum256(p.ca.RawSubjectPublicKeyInfo)
		for name, o := range map[string]checkin.ClientOptions{
			"CA file": {RootCAs: p.pool()}, "pinned CA": {PinSPKI: spki[:]},
		} {
			o.URL, o.Now, o.Manager = url, during, manager
			c, err := checkin.NewClient(o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.CheckIn(t.Context(), mustSign(t, report(), nil))
			want := "the higher system cannot be reached: " + url + checkin.Path + ": its certificate is not trusted: " + test.want
			if test.names != nil || test.ips != nil {
				want += "use one of these names in higher_system, or "
			}
			want += `add "localhost" to names in manager.toml`
			if err == nil || err.Error() != want || !errors.Is(err, checkin.ErrUnavailable) || !errors.Is(err, checkin.ErrUntrusted) {
				t.Errorf("%s:\n got %v\nwant %s", name, err, want)
			}
		}
	}
}

func TestWhatTheHandlerAnswers(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	during := func() time.Time { return validFrom.AddDate(1, 0, 0) }
	for _, test := range []struct {
		name   string
		higher higher
		check  func(checkin.Reply, error) bool
	}{
		{"deferred", func(r checkin.SignedReport) (checkin.Reply, error) {
			return checkin.Reply{Status: checkin.Deferred, Report: r.Digest()}, nil
		}, func(r checkin.Reply, err error) bool {
			return err == nil && r.Status == checkin.Deferred && r.Orders == nil
		}},
		{"refusal", func(checkin.SignedReport) (checkin.Reply, error) {
			return checkin.Reply{}, &checkin.Refusal{Code: checkin.NeedsEnrolment, Detail: "host 0a \x1b[31m"}
		}, func(_ checkin.Reply, err error) bool {
			return cmp.Equal(err, error(&checkin.Refusal{Code: checkin.NeedsEnrolment, Detail: "host 0a \uFFFD[31m"})) && errors.Is(err, checkin.ErrRefused)
		}},
		{"failure", func(checkin.SignedReport) (checkin.Reply, error) {
			return checkin.Reply{}, errors.New("disk full at /secret/path")
		}, func(_ checkin.Reply, err error) bool {
			return errors.Is(err, checkin.ErrUnavailable) && strings.Contains(err.Error(), "Try again later") && !strings.Contains(err.Error(), "secret")
		}},
	} {
		c, err := checkin.NewClient(checkin.ClientOptions{URL: p.serve(t, checkin.Handler(test.higher, discard())), RootCAs: p.pool(), Now: during, Manager: manager})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if reply, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); !test.check(reply, err) {
			t.Errorf("%s: %+v, %v", test.name, reply, err)
		}
	}
}

func TestHandlerRefusesWhatIsNoReport(t *testing.T) {
	t.Parallel()
	h := checkin.Handler(higher(accept), discard())
	for _, test := range []struct {
		name, method, media, body string
		status                    int
	}{
		{"a GET", "GET", "application/jose", "", http.StatusMethodNotAllowed},
		{"JSON", "POST", "application/json", "{}", http.StatusUnsupportedMediaType},
		{"no JWS", "POST", "application/jose", "x", http.StatusBadRequest},
		{"too much", "POST", "application/jose", strings.Repeat("x", checkin.MaxReport+1), http.StatusRequestEntityTooLarge},
	} {
		req := httptest.NewRequest(test.method, checkin.Path, strings.NewReader(test.body))
		req.Header.Set("Content-Type", test.media)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != test.status || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", test.name, w.Code, w.Header())
		}
	}
}

func TestAnswersThatAreNoReply(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	during := func() time.Time { return validFrom.AddDate(1, 0, 0) }
	for name, answer := range map[string]http.HandlerFunc{
		"a web page": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>hello") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/jose")
			io.WriteString(w, strings.Repeat("x", 300<<10))
		},
		"half a reply": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/jose")
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "ey")
		},
		"gone": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		c, err := checkin.NewClient(checkin.ClientOptions{URL: p.serve(t, answer), RootCAs: p.pool(), Now: during, Manager: manager})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); !errors.Is(err, checkin.ErrUnavailable) || errors.Is(err, checkin.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientOptions(t *testing.T) {
	t.Parallel()
	pool := x509.NewCertPool()
	for _, o := range []checkin.ClientOptions{
		{URL: "http://manager:8740", RootCAs: pool, Manager: manager},
		{URL: "manager:8740", RootCAs: pool, Manager: manager},
		{URL: "https://user:pass@manager", RootCAs: pool, Manager: manager},
		{URL: "https://manager", Manager: manager},
		{URL: "https://manager", RootCAs: pool, PinSPKI: make([]byte, 32), Manager: manager},
		{URL: "https://manager", PinSPKI: make([]byte, 31), Manager: manager},
		{URL: "https://manager", RootCAs: pool},
	} {
		if _, err := checkin.NewClient(o); err == nil {
			t.Errorf("%+v is taken", o)
		} else if strings.Contains(err.Error(), "pass@") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := checkin.NewClient(checkin.ClientOptions{URL: "https://" + l.Addr().String(), RootCAs: x509.NewCertPool(), Manager: manager})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CheckIn(t.Context(), mustSign(t, report(), nil))
	if !errors.Is(err, checkin.ErrUnavailable) || errors.Is(err, checkin.ErrUntrusted) || !strings.HasSuffix(err.Error(), "; see that higher_system is right, and that the manager or relay there runs and can be reached") {
		t.Errorf("got %v", err)
	}
}

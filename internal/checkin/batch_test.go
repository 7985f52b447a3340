package checkin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// authority is a manager's CA, which is for servers only.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return authority{cert, key}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for the key.
func (a authority) issue(t *testing.T, key *ecdsa.PublicKey, uri string, usage ...x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	u, err := url.Parse(uri)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute), ExtKeyUsage: usage, URIs: []*url.URL{u}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

var both = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// relayWorld is a higher system that serves relays, and one of them.
type relayWorld struct {
	h        *answering
	requests atomic.Int64
	client   *checkin.RelayClient
	server   *httptest.Server
	ca       authority
	me       hostid.ID
}

// answering answers each report as a test says.
type answering struct {
	mu   sync.Mutex
	seen []checkin.SignedReport
	do   func(checkin.SignedReport) (checkin.Reply, error)
}

func (a *answering) CheckIn(_ context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	a.mu.Lock()
	a.seen = append(a.seen, r)
	a.mu.Unlock()
	return a.do(r)
}

func acceptAny(r checkin.SignedReport) (checkin.Reply, error) {
	return checkin.SignReply(checkin.Reply{Report: r.Digest(), Status: checkin.Accepted, HostID: id("0a"), Interval: time.Minute, Time: time.Now().UTC()}, managerKey)
}

func newRelayWorld(t *testing.T, uri string, usage ...x509.ExtKeyUsage) *relayWorld {
	t.Helper()
	w := &relayWorld{h: &answering{do: acceptAny}, ca: newAuthority(t), me: id("0e")}
	handler := checkin.RelayHandler(w.h, checkin.ForRelays{
		Who: func(r *http.Request) (hostid.ID, error) { return checkin.RelayOf(r.TLS, w.ca.cert, time.Now()) },
		Work: func(ctx context.Context, from hostid.ID, q checkin.WorkQuery) (checkin.WorkAnswer, error) {
			return checkin.WorkAnswer{Work: []string{fmt.Sprint(from, q.Relays, q.Have)}}, nil
		},
		Progress: func(_ context.Context, _ hostid.ID, jws string) error {
			if jws == "gone" {
				return &checkin.Refusal{Code: checkin.UnknownWork, Detail: "called off"}
			}
			return nil
		},
		Certificate: func(_ context.Context, request string) (string, error) { return "issued for " + request, nil },
	}, slog.New(slog.DiscardHandler))
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		handler.ServeHTTP(rw, r)
	}))
	w.server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(w.server.Certificate())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	var shown *tls.Certificate
	if uri != "" {
		leaf := w.ca.issue(t, &key.PublicKey, uri, usage...)
		shown = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	}
	w.client, err = checkin.NewRelayClient(checkin.ClientOptions{URL: w.server.URL, RootCAs: roots, Manager: manager,
		Certificate: func() (*tls.Certificate, error) { return shown, nil }})
	must(t, err)
	t.Cleanup(w.client.Close)
	return w
}

func (w *relayWorld) report(t *testing.T, n int, hops ...checkin.Hop) checkin.SignedReport {
	t.Helper()
	r := report()
	r.Counter = uint64(n + 1)
	s := mustSign(t, r, nil)
	s.Hops = append(hops, checkin.Hop{Relay: w.me, Held: 1500 * time.Millisecond, Uncertain: true})
	return s
}

// Check-ins that come together travel together; each gets its own answer.
func TestBatch(t *testing.T) {
	t.Parallel()
	w := newRelayWorld(t, checkin.RelayURI(id("0e")), both...)
	const n = 600
	reports := make([]checkin.SignedReport, n)
	for i := range reports {
		reports[i] = w.report(t, i, checkin.Hop{Relay: id("0f"), Held: time.Hour})
	}
	kinds := map[checkin.Digest]int{}
	for i, r := range reports {
		kinds[r.Digest()] = i % 5
	}
	late, err := acceptAny(w.report(t, 9999))
	must(t, err)
	w.h.do = func(r checkin.SignedReport) (checkin.Reply, error) {
		switch kinds[r.Digest()] {
		case 1:
			return checkin.Reply{Report: r.Digest(), Status: checkin.Deferred, Late: &checkin.LateReply{Report: late.Report, Raw: late.Raw}}, nil
		case 2:
			return checkin.Reply{}, &checkin.Refusal{Code: checkin.BadToken, Detail: "revoked"}
		case 3:
			return checkin.Reply{}, &checkin.Busy{After: 7 * time.Second, Reason: "load"}
		case 4:
			return late, nil // a genuine reply, to another report
		}
		return acceptAny(r)
	}
	var all sync.WaitGroup
	for i, r := range reports {
		all.Go(func() {
			reply, err := w.client.CheckIn(t.Context(), r)
			var refusal *checkin.Refusal
			var busy *checkin.Busy
			switch i % 5 {
			case 0:
				if err != nil || reply.Report != r.Digest() || reply.Status != checkin.Accepted {
					t.Errorf("accepted: %+v, %v", reply, err)
				}
			case 1:
				if err != nil || reply.Status != checkin.Deferred || reply.Late == nil || reply.Late.Raw != late.Raw {
					t.Errorf("deferred: %+v, %v", reply, err)
				}
			case 2:
				if !errors.As(err, &refusal) || *refusal != (checkin.Refusal{Code: checkin.BadToken, Detail: "revoked"}) {
					t.Errorf("refused: %v", err)
				}
			case 3:
				if !errors.As(err, &busy) || *busy != (checkin.Busy{After: 7 * time.Second, Reason: "load"}) {
					t.Errorf("busy: %v", err)
				}
			case 4:
				if !errors.Is(err, checkin.ErrForged) || !errors.Is(err, checkin.ErrUnavailable) {
					t.Errorf("forged: %v", err)
				}
			}
		})
	}
	all.Wait()
	if got := w.requests.Load(); got > n/10 {
		t.Errorf("%d requests for %d reports", got, n)
	}
	want := []checkin.Hop{{Relay: id("0f"), Held: time.Hour}, {Relay: w.me, Held: 1500 * time.Millisecond, Uncertain: true}}
	for _, r := range w.h.seen {
		if diff := cmp.Diff(want, r.Hops); diff != "" {
			t.Fatal(diff)
		}
	}
}

// A relay that names hops that cannot be is told later, and its reports are not refused: nothing is wrong with them.
func TestHopsOfABatch(t *testing.T) {
	t.Parallel()
	w := newRelayWorld(t, checkin.RelayURI(id("0e")), both...)
	for name, hops := range map[string][]checkin.Hop{
		"none":             nil,
		"of another relay": {{Relay: id("0f")}},
		"in a circle":      {{Relay: id("0e")}, {Relay: id("0f")}, {Relay: id("0e")}},
		"negative":         {{Relay: id("0e"), Held: -time.Second}},
		"too many":         slices.Repeat([]checkin.Hop{{Relay: id("0e")}}, checkin.MaxHops+1),
	} {
		s := w.report(t, 1)
		s.Hops = hops
		_, err := w.client.CheckIn(t.Context(), s)
		var busy *checkin.Busy
		if !errors.As(err, &busy) || busy.Reason == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.h.seen) > 0 {
		t.Errorf("%d reports were taken", len(w.h.seen))
	}
}

// Only a certificate that the CA issued to a relay, for clients, makes a connection a relay's.
func TestOnlyRelaysSendBatches(t *testing.T) {
	t.Parallel()
	relay := checkin.RelayURI(id("0e"))
	for name, w := range map[string]*relayWorld{
		"no certificate":  newRelayWorld(t, ""),
		"of a server":     newRelayWorld(t, relay, x509.ExtKeyUsageServerAuth),
		"of no relay":     newRelayWorld(t, "samehost:other:"+id("0e").String(), both...),
		"of no host ID":   newRelayWorld(t, "samehost:relay:ROOT", both...),
		"of another CA's": func() *relayWorld { w := newRelayWorld(t, relay, both...); w.ca = newAuthority(t); return w }(),
	} {
		_, err := w.client.CheckIn(t.Context(), w.report(t, 1))
		if !errors.Is(err, checkin.ErrUnavailable) || errors.Is(err, checkin.ErrRefused) {
			t.Errorf("%s: check-in: %v", name, err)
		}
		if _, err := w.client.Work(t.Context(), checkin.WorkQuery{Relays: []hostid.ID{w.me}}); !errors.Is(err, checkin.ErrUnavailable) {
			t.Errorf("%s: work: %v", name, err)
		}
		if err := w.client.Progress(t.Context(), "jws"); !errors.Is(err, checkin.ErrUnavailable) {
			t.Errorf("%s: progress: %v", name, err)
		}
		if len(w.h.seen) > 0 {
			t.Errorf("%s: a report was taken", name)
		}
		if got, err := w.client.Certificate(t.Context(), "x"); err != nil || got != "issued for x" {
			t.Errorf("%s: a certificate: %q, %v", name, got, err)
		}
	}
}

func TestWorkAndProgressTravel(t *testing.T) {
	t.Parallel()
	w := newRelayWorld(t, checkin.RelayURI(id("0e")), both...)
	a, err := w.client.Work(t.Context(), checkin.WorkQuery{Relays: []hostid.ID{id("0e"), id("0f")}, Have: []string{"w-1"}})
	must(t, err)
	if want := fmt.Sprint(id("0e"), []hostid.ID{id("0e"), id("0f")}, []string{"w-1"}); len(a.Work) != 1 || a.Work[0] != want {
		t.Errorf("%q, want %q", a.Work, want)
	}
	must(t, w.client.Progress(t.Context(), "jws"))
	var refusal *checkin.Refusal
	if err := w.client.Progress(t.Context(), "gone"); !errors.As(err, &refusal) || refusal.Code != checkin.UnknownWork {
		t.Errorf("%v", err)
	}
}

// What was issued holds only as the manager's answer to this request, for this key.
func TestIssuedCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	ask := func(who string) (string, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"relay1.example"}}, key)
		must(t, err)
		jws, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: manager, HostID: id(who), CSR: csr}, clientKey, &token)
		must(t, err)
		return jws, key
	}
	request, key := ask("0e")
	v, err := checkin.VerifyCertificateRequest(request)
	must(t, err)
	if !v.Proves(token.Verifier()) || v.Proves(checkin.NewEnrolmentToken(manager).Verifier()) {
		t.Error("the token is not proved, or any is")
	}
	if diff := cmp.Diff([]string{"relay1.example"}, v.Names()); diff != "" {
		t.Error(diff)
	}
	other, otherKey := ask("0f")
	issue := func(of string, leaf *x509.Certificate, by ed25519.PrivateKey) string {
		jws, err := checkin.SignIssuedCertificate(checkin.IssuedCertificate{Request: checkin.SignedReport{JWS: of}.Digest(), Certificates: [][]byte{leaf.Raw, ca.cert.Raw}}, by)
		must(t, err)
		return jws
	}
	good := ca.issue(t, &key.PublicKey, checkin.RelayURI(id("0e")), both...)
	if _, _, err := checkin.VerifyIssuedCertificate(issue(request, good, managerKey), manager, request); err != nil {
		t.Error(err)
	}
	for name, jws := range map[string]string{
		"by another key":     issue(request, good, clientKey),
		"to another request": issue(other, good, managerKey),
		"for another key":    issue(request, ca.issue(t, &otherKey.PublicKey, checkin.RelayURI(id("0e")), both...), managerKey),
		"of another relay":   issue(request, ca.issue(t, &key.PublicKey, checkin.RelayURI(id("0f")), both...), managerKey),
		"of another CA":      issue(request, newAuthority(t).issue(t, &key.PublicKey, checkin.RelayURI(id("0e")), both...), managerKey),
		"something else":     request,
	} {
		if _, _, err := checkin.VerifyIssuedCertificate(jws, manager, request); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Anybody may ask for a certificate: a key of a kind that is not taken is not computed with, since whoever sends it says how long that takes.
func TestCertificateRequestByAnotherKindOfKey(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	csr[len(csr)-1]++ // its signature is wrong, and nobody should know
	seed := hostid.NewSeed()
	jws, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: manager, HostID: id("0e"), CSR: csr}, seed.SigningKey(), nil)
	must(t, err)
	_, err = checkin.VerifyCertificateRequest(jws)
	if err == nil || !strings.Contains(err.Error(), "want an ECDSA key on P-256") {
		t.Errorf("%v", err)
	}
}

// A few requests for certificates are judged at a time, whoever sends them: each costs more than a check-in, and at a relay a
// connection to its higher system.
func TestCertificateRequestsAtATime(t *testing.T) {
	t.Parallel()
	const most = 16
	begun, end := make(chan struct{}, 2*most), make(chan struct{})
	server := httptest.NewServer(checkin.RelayHandler(&answering{do: acceptAny}, checkin.ForRelays{
		Certificate: func(context.Context, string) (string, error) {
			begun <- struct{}{}
			<-end
			return "issued", nil
		},
	}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	ask := func() *http.Response {
		res, err := http.Post(server.URL+checkin.RelayPath+"certificate", "application/json", strings.NewReader(`{"request":"any"}`))
		if err != nil {
			t.Error(err)
			return &http.Response{}
		}
		res.Body.Close()
		return res
	}
	var all sync.WaitGroup
	for range most {
		all.Go(func() {
			if res := ask(); res.StatusCode != http.StatusOK {
				t.Errorf("HTTP %d", res.StatusCode)
			}
		})
	}
	for range most {
		<-begun
	}
	answered := make(chan *http.Response, 1)
	go func() { answered <- ask() }()
	select {
	case res := <-answered:
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("one too many: HTTP %d", res.StatusCode)
		}
	case <-begun:
		t.Error("one too many is judged")
	}
	close(end)
	all.Wait()
	if res := ask(); res.StatusCode != http.StatusOK {
		t.Errorf("then: HTTP %d", res.StatusCode)
	}
}

// A relay asks for itself first, and names work by what can be its name.
func TestQuestionsForWorkThatAreNone(t *testing.T) {
	t.Parallel()
	w := newRelayWorld(t, checkin.RelayURI(id("0e")), both...)
	for name, q := range map[string]checkin.WorkQuery{
		"another one's":     {Relays: []hostid.ID{id("0f")}},
		"another one first": {Relays: []hostid.ID{id("0f"), id("0e")}},
		"no name of work":   {Relays: []hostid.ID{id("0e")}, Have: []string{"../w"}},
		"too long a name":   {Relays: []hostid.ID{id("0e")}, Have: []string{strings.Repeat("w", 65)}},
	} {
		if a, err := w.client.Work(t.Context(), q); err == nil {
			t.Errorf("%s: %q", name, a.Work)
		}
	}
}

// What a relay sends wrongly, thousands of times, makes no thousands of lines.
func TestWrongBatchesAreLoggedWithinBounds(t *testing.T) {
	t.Parallel()
	var log strings.Builder // one request at a time writes to it
	server := httptest.NewServer(checkin.RelayHandler(&answering{do: acceptAny}, checkin.ForRelays{
		Who: func(*http.Request) (hostid.ID, error) { return id("0e"), nil },
	}, slog.New(slog.NewTextHandler(&log, nil))))
	defer server.Close()
	for range 10 {
		body := `{"reports":[` + strings.Repeat(`{"jws":"x","hops":[]},`, 99) + `{"jws":"x","hops":[]}]}`
		res, err := http.Post(server.URL+checkin.RelayPath+"batch", "application/json", strings.NewReader(body))
		must(t, err)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("HTTP %d", res.StatusCode)
		}
	}
	if n := strings.Count(log.String(), "\n"); n == 0 || n > 25 {
		t.Errorf("%d lines", n)
	}
}

// No relay takes the places of others, nor the memory: each has few requests of a kind under way.
func TestRequestsOfOneRelayAtATime(t *testing.T) {
	t.Parallel()
	begun, end := make(chan struct{}, 1000), make(chan struct{})
	wait := func() {
		begun <- struct{}{}
		<-end
	}
	server := httptest.NewServer(checkin.RelayHandler(&answering{do: func(r checkin.SignedReport) (checkin.Reply, error) {
		wait()
		return acceptAny(r)
	}}, checkin.ForRelays{
		Who: func(r *http.Request) (hostid.ID, error) { return hostid.ParseID(r.Header.Get("Relay")) },
		Work: func(context.Context, hostid.ID, checkin.WorkQuery) (checkin.WorkAnswer, error) {
			wait()
			return checkin.WorkAnswer{}, nil
		},
		Progress: func(context.Context, hostid.ID, string) error { wait(); return nil },
	}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	bad, other := id("0e"), id("0f")
	ask := func(path string, relay hostid.ID, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+checkin.RelayPath+path, strings.NewReader(strings.ReplaceAll(body, "ME", relay.String())))
		must(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Relay", relay.String())
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	var all sync.WaitGroup
	for _, c := range []struct {
		path, body string
		most       int
	}{
		{"batch", `{"reports":[{"jws":"x","hops":[{"relay":"ME","held_ms":0}]}]}`, 8},
		{"work", `{"relays":["ME"],"have":[]}`, 4},
		{"progress", `{"progress":"x"}`, 64},
	} {
		served := func(relay hostid.ID) {
			all.Go(func() {
				if status := ask(c.path, relay, c.body); status != http.StatusOK {
					t.Errorf("%s: HTTP %d", c.path, status)
				}
			})
			<-begun
		}
		for range c.most {
			served(bad)
		}
		tooMany := make(chan int, 1)
		go func() { tooMany <- ask(c.path, bad, c.body) }()
		select {
		case status := <-tooMany:
			if status != http.StatusServiceUnavailable {
				t.Errorf("%s: one too many: HTTP %d", c.path, status)
			}
		case <-begun:
			t.Errorf("%s: one too many is served", c.path)
		}
		served(other)
	}
	close(end)
	all.Wait()
	if status := ask("work", bad, `{"relays":["ME"],"have":[]}`); status != http.StatusOK {
		t.Errorf("then: HTTP %d", status)
	}
}

// asked is a body that tells when it is read first, and never comes.
type asked struct {
	once sync.Once
	c    chan struct{}
	end  <-chan struct{}
}

func (a *asked) Read([]byte) (int, error) {
	a.once.Do(func() { a.c <- struct{}{} })
	<-a.end
	return 0, io.ErrUnexpectedEOF
}

// Strangers that send half of a large request for a certificate, on as many connections as there are, take memory for few.
func TestLargeCertificateRequestsAtATime(t *testing.T) {
	t.Parallel()
	const most, size = 256, 32 << 10
	server := httptest.NewServer(checkin.RelayHandler(&answering{do: acceptAny}, checkin.ForRelays{
		Certificate: func(context.Context, string) (string, error) { return "issued", nil },
	}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Hour}} // so that a body is sent once the server reads it
	reading := make(chan struct{}, 2*most)
	post := func(length int64) (int, error) {
		body := strings.NewReader(`{"request":"any"}`)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+checkin.RelayPath+"certificate", body)
		must(t, err)
		req.Header.Set("Content-Type", "application/json")
		if length > 0 {
			req, err = http.NewRequestWithContext(ctx, http.MethodPost, req.URL.String(), &asked{c: reading, end: ctx.Done()})
			must(t, err)
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Expect", "100-continue")
			req.ContentLength = length
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	for range most {
		go post(size)
	}
	for range most {
		<-reading
	}
	tooMany := make(chan int, 1)
	go func() {
		status, err := post(size)
		if err != nil {
			t.Error(err)
		}
		tooMany <- status
	}()
	select {
	case status := <-tooMany:
		if status != http.StatusServiceUnavailable {
			t.Errorf("one too many: HTTP %d", status)
		}
	case <-reading:
		t.Error("one too many is read")
	}
	if status, err := post(0); err != nil || status != http.StatusOK {
		t.Errorf("one of the usual size: HTTP %d, %v", status, err)
	}
}

// Replies that do not all fit into one answer come with several: the relay asks again for those that did not.
func TestRepliesThatDoNotFit(t *testing.T) {
	t.Parallel()
	w := newRelayWorld(t, checkin.RelayURI(id("0e")), both...)
	list := strings.Repeat("serial 12345678\n", 64<<10/16) // the manager's longest list of placeholders
	w.h.do = func(r checkin.SignedReport) (checkin.Reply, error) {
		return checkin.SignReply(checkin.Reply{Report: r.Digest(), Status: checkin.Accepted, HostID: id("0a"), Interval: time.Minute, Time: time.Now().UTC(), Placeholders: list}, managerKey)
	}
	var all sync.WaitGroup
	var replied, busy atomic.Int64
	for n := range 256 {
		r := w.report(t, n)
		all.Go(func() {
			reply, err := w.client.CheckIn(t.Context(), r)
			var b *checkin.Busy
			switch {
			case err == nil && reply.Placeholders == list:
				replied.Add(1)
			case errors.As(err, &b) && b.After <= time.Second:
				busy.Add(1)
			default:
				t.Errorf("%+v, %.200v", reply.Status, err)
			}
		})
	}
	all.Wait()
	if replied.Load() < 150 || replied.Load()+busy.Load() != 256 {
		t.Errorf("%d replied, %d later", replied.Load(), busy.Load())
	}
}

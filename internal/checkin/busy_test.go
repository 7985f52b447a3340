package checkin_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
)

// client makes a Client of what serves h.
func (p pki) client(t *testing.T, h http.Handler, now time.Time) *checkin.Client {
	t.Helper()
	c, err := checkin.NewClient(checkin.ClientOptions{URL: p.serve(t, h), RootCAs: p.pool(), Manager: manager, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Whoever is busy says so: a report comes back after the time named, and no error is logged.
func TestBusy(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	busy := &checkin.Busy{After: 2500 * time.Millisecond, Reason: "900 check-ins are under way"}
	c := newPKI(t).client(t, checkin.Handler(higher(func(checkin.SignedReport) (checkin.Reply, error) {
		return checkin.Reply{}, fmt.Errorf("registry: %w", busy)
	}), slog.New(slog.NewTextHandler(&log, nil))), validFrom)
	_, err := c.CheckIn(t.Context(), mustSign(t, report(), nil))
	var got *checkin.Busy
	if !errors.As(err, &got) || !errors.Is(err, checkin.ErrUnavailable) || errors.Is(err, checkin.ErrRefused) {
		t.Fatalf("%v, want Busy", err)
	}
	if got.After != 3*time.Second || !strings.HasSuffix(got.Reason, ": HTTP 503 900 check-ins are under way") {
		t.Errorf("%+v, want 2.5 s rounded up to 3 s, and the reason", got)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := validFrom.AddDate(1, 0, 0)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, test := range []struct {
		name   string
		status int
		after  string
		date   string // "-": none
		want   time.Duration
		busy   bool
	}{
		{"seconds", 503, "30", "-", 30 * time.Second, true},
		{"too many requests", 429, " 7 ", "-", 7 * time.Second, true},
		{"none", 503, "0", "-", 0, true},
		{"a week", 503, "604800", "-", 24 * time.Hour, true},
		{"beyond numbers", 503, strings.Repeat("9", 40), "-", 24 * time.Hour, true},
		{"a date", 503, at(90 * time.Second), "-", 90 * time.Second, true},
		{"a date by another clock", 503, at(10*time.Hour + time.Minute), at(10 * time.Hour), time.Minute, true},
		{"a date that is past", 503, at(-time.Hour), "-", 0, true},
		{"a far date", 503, at(400 * 24 * time.Hour), "-", 24 * time.Hour, true},
		{"no word of it", 503, "", "-", 0, false},
		{"nonsense", 503, "-5", "-", 0, false},
		{"words", 503, "soon", "-", 0, false},
		{"another status", 500, "30", "-", 0, false},
	} {
		c := newPKI(t).client(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			if test.date != "-" {
				w.Header().Set("Date", test.date)
			}
			if test.after != "" {
				w.Header().Set("Retry-After", test.after)
			}
			w.WriteHeader(test.status)
		}), now)
		_, err := c.CheckIn(t.Context(), mustSign(t, report(), nil))
		var busy *checkin.Busy
		switch is := errors.As(err, &busy); {
		case !errors.Is(err, checkin.ErrUnavailable) || is != test.busy:
			t.Errorf("%s: %v, want busy %v", test.name, err, test.busy)
		case is && busy.After != test.want:
			t.Errorf("%s: after %s, want %s", test.name, busy.After, test.want)
		}
	}
}

// A TLS session is resumed, and judged again: by the clock of now, against the trust of now.
func TestResumedSessionIsJudged(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	var mu sync.Mutex
	var resumed []bool
	inner := checkin.Handler(higher(accept), discard())
	url := p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		resumed = append(resumed, r.TLS.DidResume)
		mu.Unlock()
		if r.TLS.Version != tls.VersionTLS13 {
			t.Errorf("TLS version %x", r.TLS.Version)
		}
		inner.ServeHTTP(w, r)
	}))
	spki := sha256.Sum256(p.ca.RawSubjectPublicKeyInfo)
	now := validFrom.AddDate(1, 0, 0)
	c, err := checkin.NewClient(checkin.ClientOptions{URL: url, PinSPKI: spki[:], Manager: manager, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if diff := cmp.Diff([]bool{false, true, true}, resumed); diff != "" {
		t.Errorf("resumed (-want +got):\n%s", diff)
	}
	now = validTo.Add(time.Hour)
	_, err = c.CheckIn(t.Context(), mustSign(t, report(), nil))
	if !errors.Is(err, checkin.ErrUntrusted) || !strings.Contains(err.Error(), "expired") || len(resumed) != 3 {
		t.Errorf("a session of a certificate that has ended: %v, %d connections served", err, len(resumed))
	}
}

// A client of TLS 1.2 and below is none of ours, and neither is such a server.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	s := httptest.NewUnstartedServer(checkin.Handler(higher(accept), discard()))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{p.leaf}, MaxVersion: tls.VersionTLS12}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	c, err := checkin.NewClient(checkin.ClientOptions{URL: s.URL, RootCAs: p.pool(), Manager: manager, Now: func() time.Time { return validFrom }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); !errors.Is(err, checkin.ErrUnavailable) || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("%v", err)
	}
}

// A certificate is shown as it is at that time, and never a former one in a resumed session.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	p, relay := newPKI(t), newPKIFor(t, []string{"relay"}, nil)
	var shown []int
	inner := checkin.Handler(higher(accept), discard())
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, len(r.TLS.PeerCertificates))
		if r.TLS.DidResume {
			t.Error("a session was resumed")
		}
		inner.ServeHTTP(w, r)
	}))
	s.Listener.Close()
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{p.leaf}, ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	var certificate *tls.Certificate
	var fault error
	c, err := checkin.NewClient(checkin.ClientOptions{URL: s.URL, RootCAs: p.pool(), Manager: manager, Now: func() time.Time { return validFrom },
		Certificate: func() (*tls.Certificate, error) { return certificate, fault }})
	if err != nil {
		t.Fatal(err)
	}
	for _, next := range []*tls.Certificate{nil, &relay.leaf, nil} {
		certificate = next
		if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if diff := cmp.Diff([]int{0, 2, 0}, shown); diff != "" {
		t.Errorf("certificates shown (-want +got):\n%s", diff)
	}
	fault = errors.New("the key is gone")
	if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); !errors.Is(err, checkin.ErrUnavailable) || !strings.Contains(err.Error(), "the key is gone") {
		t.Errorf("%v", err)
	}
}

// slow is a body that comes when the test wants.
type slow struct{ c chan struct{} }

func (s slow) Read([]byte) (int, error) { <-s.c; return 0, errors.New("cut") }

// Large reports that never end take a bounded number of places, and small ones none of them.
func TestLargeReportsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := checkin.Handler(higher(accept), discard())
		post := func(body slow, n int64) *httptest.ResponseRecorder {
			req := httptest.NewRequest("POST", checkin.Path, body)
			req.ContentLength = n
			req.Header.Set("Content-Type", "application/jose")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			return w
		}
		s := slow{make(chan struct{})}
		for i := range 300 {
			n := int64(9 << 10)
			if i%2 == 0 {
				n = -1
			}
			go post(s, n)
		}
		synctest.Wait()
		if w := post(s, -1); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one too many: %d %v", w.Code, w.Header())
		}
		req := httptest.NewRequest("POST", checkin.Path, strings.NewReader(mustSign(t, report(), nil).JWS))
		req.Header.Set("Content-Type", "application/jose")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, req); w.Code != http.StatusOK {
			t.Errorf("a small report: %d %s", w.Code, w.Body)
		}
		close(s.c)
		synctest.Wait()
		if w := post(s, -1); w.Code != http.StatusBadRequest {
			t.Errorf("when there is room again: %d", w.Code)
		}
	})
}

// lines makes a logger, and what it wrote.
func lines() (*slog.Logger, func() []string) {
	var b bytes.Buffer
	var mu sync.Mutex
	h := slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	}), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	return slog.New(h), func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer b.Reset()
		if b.Len() == 0 {
			return nil
		}
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// A PC that fails a thousand times writes one line, and one more in ten minutes.
func TestQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, written := lines()
		h := checkin.Handler(higher(func(r checkin.SignedReport) (checkin.Reply, error) {
			return checkin.Reply{}, fmt.Errorf("host %s: more than a client sends", r.JWS)
		}), log)
		fail := func(host string) {
			req := httptest.NewRequest("POST", checkin.Path, strings.NewReader(host))
			req.Header.Set("Content-Type", "application/jose")
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, req); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "" {
				t.Errorf("%d %v, want 503 without a time", w.Code, w.Header())
			}
		}
		check := func(what string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, written()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		const first = `level=ERROR msg="check-in failed" error="host A: more than a client sends"`
		for range 1000 {
			fail("A")
		}
		check("at once", first)
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		check("after ten minutes", first+" times=999 within=10m0s")
		fail("A")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		check("it goes on", first+" times=1 within=10m0s")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		check("it stopped")
		fail("A")
		check("it came back", first)
		for i := range 100 {
			fail(fmt.Sprint(i))
		}
		if got := len(written()); got != 19 {
			t.Errorf("%d lines for 100 other texts at once, want 19", got)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		check("many", `level=ERROR msg="further errors, each not logged" times=81 within=10m0s`)
		time.Sleep(time.Hour) // nothing of it is left
		synctest.Wait()
		check("long after")
	})
}

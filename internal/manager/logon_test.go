package manager

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"samehost/internal/registry"
)

func TestFailedLogonsAreSlowed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC)
	l := newLogons(nil, slog.New(slog.DiscardHandler))
	l.now = func() time.Time { return now }
	here, there := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	want := func(what, name string, at netip.Prefix, wait time.Duration) {
		t.Helper()
		if got := l.attempt(name, at); got != wait {
			t.Fatalf("%s: wait %v, want %v", what, got, wait)
		}
	}
	for range freeFailures {
		want("free", "sato", here, 0)
	}
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		want("slowed", "sato", here, wait*time.Second)
		want("under another name", "abe", here, wait*time.Second)
		now = now.Add(wait*time.Second - time.Millisecond)
		want("nearly", "sato", here, time.Millisecond)
		now = now.Add(time.Millisecond)
		want("after it", "sato", here, 0)
	}
	want("elsewhere", "sato", there, 0)

	// The administrator, where he has logged on before, is not slowed by what others do elsewhere; nor is he for long where he has not.
	l.succeeded("sato", there, [32]byte{1}, registry.Verifier{})
	for i := range nameFailures {
		l.attempt("sato", netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i)))
	}
	want("a new address", "sato", netip.MustParsePrefix("203.0.113.1/32"), nameWait)
	want("a known address", "sato", there, 0)
	now = now.Add(nameWait)
	want("a new address, later", "sato", netip.MustParsePrefix("203.0.113.1/32"), 0)
	now = now.Add(forgotten + time.Second)
	for range freeFailures {
		want("forgotten", "sato", here, 0)
	}

	// What is remembered is bounded.
	for i := range maxRemembered + 100 {
		l.attempt("abe", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	if n := len(l.addresses); n > maxRemembered {
		t.Errorf("%d addresses are remembered", n)
	}
	for i := range maxCredentials + 10 {
		l.succeeded("sato", there, [32]byte{byte(i), byte(i >> 8)}, registry.Verifier{})
	}
	if n := len(l.credentials); n > maxCredentials {
		t.Errorf("%d passwords are remembered", n)
	}
	if !l.remembers([32]byte{byte((maxCredentials + 9) & 255), byte((maxCredentials + 9) >> 8)}, registry.Verifier{}) {
		t.Error("the last password is not remembered")
	}
	now = now.Add(remembered)
	if l.remembers([32]byte{byte((maxCredentials + 9) & 255), byte((maxCredentials + 9) >> 8)}, registry.Verifier{}) {
		t.Error("a password is remembered for more than a minute")
	}
}

func TestAddressOf(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1/32", "[::ffff:192.0.2.1]:5": "192.0.2.1/32", "[2001:db8:1:2:3:4:5:6]:5": "2001:db8:1:2::/64", "nonsense": "invalid Prefix",
	} {
		if got := addressOf(&http.Request{RemoteAddr: remote}).String(); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

// More than maxChecks at a time are sent away without a processor being taken.
func TestLogonsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLogons(opened(t, bare(t)), slog.New(slog.DiscardHandler))
	for range maxChecks {
		l.waiting <- struct{}{}
	}
	r := &http.Request{Header: http.Header{}, RemoteAddr: "192.0.2.1:5"}
	r.SetBasicAuth(Administrator, "wrong")
	for range 2 * freeFailures { // and count as no failures
		_, refused, err := l.check(t.Context(), r)
		must(t, err)
		if refused == nil || refused.status != http.StatusServiceUnavailable {
			t.Fatalf("got %+v", refused)
		}
	}
}

package amtinit

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"samehost/internal/amt"
	"samehost/internal/amtsim"
	"samehost/internal/wsman"
)

// simulate starts a device on a free port and says where.
func simulate(t *testing.T, o amtsim.Options) (*amtsim.Device, netip.AddrPort) {
	t.Helper()
	o.Local = "none"
	d, err := amtsim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	u, err := url.Parse(d.NetworkURL())
	if err != nil {
		t.Fatal(err)
	}
	at, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return d, at
}

func access(at netip.AddrPort) Options {
	return Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, Port: int(at.Port())}
}

// initializeOne runs one target through the whole engine.
func initializeOne(t *testing.T, at netip.AddrPort, o Options) Outcome {
	t.Helper()
	var got []Outcome
	sum, err := Run(t.Context(), o, slices.Values([]Target{{Address: at.Addr()}}), func(o Outcome) { got = append(got, o) })
	if err != nil || len(got) != 1 || sum.OK+sum.Failed != 1 {
		t.Fatalf("%d outcomes, %+v, %v", len(got), sum, err)
	}
	return got[0]
}

func TestInitializeDevice(t *testing.T) {
	t.Parallel()
	d, at := simulate(t, amtsim.Options{})
	first := initializeOne(t, at, access(at))
	if !first.OK() || !first.Result.EnterpriseAdded || !first.Result.AllocationAdded || first.Reached != at {
		t.Fatalf("%+v", first)
	}
	again := initializeOne(t, at, access(at))
	if !again.OK() || !again.Result.AlreadyInitialized() {
		t.Errorf("again: %+v", again)
	}
	s := d.Snapshot()
	if s.Calls["AddStorageEaclEntry"] != 1 || s.Calls["AddStorageFpaclEntry"] != 1 || s.Calls["RegisterApplication"] != 0 || s.FailedLogons != 0 {
		t.Errorf("calls %v, %d failed log-ons", s.Calls, s.FailedLogons)
	}
}

// lowerLimit makes the storage smaller, as another administrator could.
func lowerLimit(t *testing.T, d *amtsim.Device, attribute string) {
	t.Helper()
	c, err := wsman.NewClient(wsman.Endpoint{URL: d.NetworkURL(), User: amtsim.DefaultUser, Password: amtsim.DefaultPassword})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, err := c.Invoke(t.Context(), "http://intel.com/wbem/wscim/1/amt-schema/1/AMT_ThirdPartyDataStorageAdministrationService",
		"SetGlobalStorageAttributes", wsman.Param{Name: attribute, Value: "4096"})
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := out.Value("ReturnValue"); v != "0" {
		t.Fatalf("SetGlobalStorageAttributes: %s", v)
	}
}

func TestReasonsOfDevices(t *testing.T) {
	t.Parallel()
	none, some := 0, 3
	for _, test := range []struct {
		name   string
		device amtsim.Options
		user   *amtsim.User // log on as this one
		change func(*Options)
		want   Code
		step   Step
		status amt.Status
		logOns uint64 // failed ones, at most
		limits string // a global attribute of the storage that is lowered to 4096 bytes
	}{
		{name: "wrong password", device: amtsim.Options{Password: "Another1!"}, want: LogOnRefused, step: Initialize, logOns: 2},
		{name: "wrong user", change: func(o *Options) { o.User = "nobody" }, want: LogOnRefused, step: Initialize, logOns: 2},
		{name: "locked out", device: amtsim.Options{Faults: amtsim.Faults{LockedOut: true}}, want: LogOnRefused, step: Initialize, logOns: 2},
		{name: "no realm, as a fault", user: &amtsim.User{Realms: []uint32{13}}, want: RealmMissing, step: Initialize},
		{name: "no realm, as 401", device: amtsim.Options{Faults: amtsim.Faults{LacksRealm: "401"}}, user: &amtsim.User{Realms: []uint32{13}}, want: RealmMissing, step: Initialize, logOns: 2},
		{name: "no realm, as 403", device: amtsim.Options{Faults: amtsim.Faults{LacksRealm: "403"}}, user: &amtsim.User{Realms: []uint32{13}}, want: RealmMissing, step: Initialize},
		{name: "no realm but the one that is needed, as 401", device: amtsim.Options{Faults: amtsim.Faults{LacksRealm: "401"}}, user: &amtsim.User{Realms: []uint32{8}}},
		{name: "no 3PDS", device: amtsim.Options{Faults: amtsim.Faults{No3PDS: true}}, want: No3PDS, step: Initialize},
		{name: "Enterprise mode before 6.0", device: amtsim.Options{Release: "5.2.10", Mode: "enterprise"}, want: EnterpriseMode, step: Initialize},
		{name: "Small Business before 6.0", device: amtsim.Options{Release: "5.2.10", Mode: "smb"}},
		{name: "Client Control Mode", device: amtsim.Options{Mode: "client"}},
		{name: "EACL full", device: amtsim.Options{Faults: amtsim.Faults{FullEACL: true}}, want: EACLFull, step: Initialize},
		{name: "FPACL full, the non-partner area serves", device: amtsim.Options{Faults: amtsim.Faults{FullFPACL: true}}},
		{name: "FPACL full, the non-partner area is small", device: amtsim.Options{Faults: amtsim.Faults{FullFPACL: true}}, limits: "MaxNonPartnerTotalAllocationSize", want: AllocationFull, step: Initialize},
		{name: "busy", device: amtsim.Options{Faults: amtsim.Faults{Busy: true}}, want: Busy, step: Initialize, status: amt.StatusNotReady},
		{name: "hangs", device: amtsim.Options{Faults: amtsim.Faults{HangAfterCalls: &none}}, change: func(o *Options) { o.Timeout = time.Second }, want: TimedOut, step: Initialize},
		{name: "every reply is cut", device: amtsim.Options{Faults: amtsim.Faults{CutReplyAfter: &none}}, want: ConnectionBroken, step: Initialize},
		{name: "one restart", device: amtsim.Options{Faults: amtsim.Faults{RestartAfterCalls: &some}}},
		{name: "one restart while it writes", device: amtsim.Options{Faults: amtsim.Faults{RestartInCall: "AddStorageEaclEntry"}}},
		{name: "no XML", device: amtsim.Options{Faults: amtsim.Faults{GarbleEachReply: true}}, want: NotAMT, step: Initialize},
		{name: "closed", device: amtsim.Options{Faults: amtsim.Faults{Refuse: true}}, want: NothingAnswers, step: Connect},
		{name: "not set up", device: amtsim.Options{Faults: amtsim.Faults{Unprovisioned: true}}, want: NothingAnswers, step: Connect},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, at := simulate(t, test.device)
			o := access(at)
			if test.user != nil {
				u := *test.user
				u.Name, u.Password, u.Access = "keeper", "Keeper-1!", amtsim.AccessAny
				if err := d.AddUser(u); err != nil {
					t.Fatal(err)
				}
				o.User, o.Password = u.Name, wsman.Secret(u.Password)
			}
			if test.change != nil {
				test.change(&o)
			}
			if test.limits != "" {
				lowerLimit(t, d, test.limits)
			}
			out := initializeOne(t, at, o)
			if out.Code != test.want || out.Step != test.step || out.Status != test.status {
				t.Errorf("%q in step %q with status %d (%v), want %q in %q with %d",
					out.Code, out.Step, out.Status, out.Err, test.want, test.step, test.status)
			}
			if test.want == EACLFull && !strings.Contains(fmt.Sprint(out.Err), `"`) {
				t.Errorf("%v does not say who holds the places", out.Err)
			}
			if n := d.Snapshot().FailedLogons; n > test.logOns {
				t.Errorf("%d failed log-ons, want at most %d", n, test.logOns)
			}
			if out.Err != nil && strings.Contains(out.Err.Error(), string(o.Password)) {
				t.Errorf("%v shows the password", out.Err)
			}
		})
	}
}

// A company with a wrong password: five devices see it, whatever is between them that does not answer.
func TestGuardOverDevices(t *testing.T) {
	t.Parallel()
	f, err := amtsim.StartFleet(amtsim.FleetOptions{
		Devices: 20, Network: netip.MustParseAddr("127.49.3.1"), Port: PortHTTP,
		Faults: map[int]amtsim.Faults{1: {Refuse: true}, 3: {Refuse: true}, 4: {Unprovisioned: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	all := func(yield func(Target) bool) {
		for a, n := netip.MustParseAddr("127.49.3.1"), 0; n < 20; a, n = a.Next(), n+1 {
			if !yield(Target{Address: a}) {
				return
			}
		}
	}
	o := Options{User: amtsim.DefaultUser, Password: "Wrong-0ne!"}
	sum, err := Run(t.Context(), o, all, func(Outcome) {})
	if err != nil {
		t.Fatal(err)
	}
	if sum.OK != 0 || sum.Reasons[LogOnRefused] != 5 || sum.Failed+sum.NotTried != 20 || sum.Reasons[NotTried] != sum.NotTried {
		t.Errorf("%+v", sum)
	}
	hit := 0
	for _, d := range f.Devices {
		if n := d.Snapshot().FailedLogons; n > 2 {
			t.Errorf("device %d saw %d failed log-ons", d.Snapshot().Device, n)
		} else if n > 0 {
			hit++
		}
	}
	if hit != 5 {
		t.Errorf("%d devices saw a failed log-on, want 5", hit)
	}

	// Once it has stopped, the rest is not even connected to. (The simulator would count late what the first run let go of.)
	o.Parallel = 1
	var mu sync.Mutex
	connected := make(map[netip.Addr]bool)
	one := engine{Options: o, dial: func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		connected[at.Addr()] = true
		mu.Unlock()
		return dial(ctx, at)
	}}
	sum = one.run(t.Context(), all, func(Outcome) {})
	if sum.Reasons[LogOnRefused] != 5 || sum.NotTried != 12 {
		t.Errorf("one at a time: %+v", sum)
	}
	if len(connected) != 8 || !connected[netip.MustParseAddr("127.49.3.8")] {
		t.Errorf("connected to %v, want the first eight", connected)
	}

	o.Password, o.Parallel = amtsim.DefaultPassword, 0
	sum, err = Run(t.Context(), o, all, func(Outcome) {})
	if err != nil || sum.OK != 17 || sum.Reasons[NothingAnswers] != 3 {
		t.Errorf("with the right password: %+v, %v", sum, err)
	}
}

// AMT before 6.0 in Enterprise mode with both ports open: where we have something to judge TLS by, TLS it is.
func TestEnterpriseModeIsReachedOverTLS(t *testing.T) {
	t.Parallel()
	start := func(address, secure string) *amtsim.Device {
		d, err := amtsim.Start(amtsim.Options{Network: fmt.Sprintf("%s:%d", address, PortHTTP), NetworkTLS: secure, Local: "none", Release: "5.2.10", Mode: "enterprise"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	const both, plain = "127.49.4.1", "127.49.4.2"
	d := start(both, fmt.Sprintf("%s:%d", both, PortTLS))
	start(plain, "none")
	block, _ := pem.Decode(d.CertificatePEM())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pin := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	for _, test := range []struct {
		name    string
		address string
		change  func(*Options)
		want    Code
		port    uint16
	}{
		{"no trust", both, func(o *Options) {}, EnterpriseMode, PortHTTP},
		{"a pin", both, func(o *Options) { o.PinSPKI = pin[:] }, "", PortTLS},
		{"another pin", both, func(o *Options) { o.PinSPKI = make([]byte, 32) }, BadCertificate, PortTLS},
		{"a pin, but a numbered port", both, func(o *Options) { o.PinSPKI, o.Port = pin[:], PortHTTP }, EnterpriseMode, PortHTTP},
		{"a pin, but no TLS port", plain, func(o *Options) { o.PinSPKI = pin[:] }, EnterpriseMode, PortHTTP},
	} {
		o := Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword}
		test.change(&o)
		out := initializeOne(t, netip.AddrPortFrom(netip.MustParseAddr(test.address), 0), o)
		if out.Code != test.want || out.Reached.Port() != test.port || out.TLS != (test.port == PortTLS) {
			t.Errorf("%s: %q at %s, TLS %v (%v), want %q at port %d", test.name, out.Code, out.Reached, out.TLS, out.Err, test.want, test.port)
		}
	}
}

// What was done over a connection that broke was not so before, even where its answer was lost.
func TestDoneBeforeTheConnectionBroke(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"AddStorageEaclEntry", "AddStorageFpaclEntry"} {
		_, at := simulate(t, amtsim.Options{Faults: amtsim.Faults{RestartInCall: method}})
		out := initializeOne(t, at, access(at))
		if !out.OK() || !out.Result.EnterpriseAdded || !out.Result.AllocationAdded {
			t.Errorf("%s: %s, %+v", method, out.Code, out.Result)
		}
		if out = initializeOne(t, at, access(at)); !out.OK() || !out.Result.AlreadyInitialized() {
			t.Errorf("%s, again: %s, %+v", method, out.Code, out.Result)
		}
	}
}

// A device that answers with more than any answer needs is not read to its end: thousands of them must fit into memory.
func TestAnEndlessReplyIsNotAMT(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for block := make([]byte, 4<<10); ; {
			n, err := w.Write(block)
			if sent.Add(int64(n)); err != nil || sent.Load() > 256<<20 {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	out := initializeOne(t, at, access(at))
	if out.Code != NotAMT || !errors.Is(out.Err, wsman.ErrTooLarge) || !strings.Contains(fmt.Sprint(out.Err), fmt.Sprint(maxReply)) {
		t.Errorf("%s: %v", out.Code, out.Err)
	}
}

// Cancelling breaks off a device that hangs, and says so.
func TestCancelInFlight(t *testing.T) {
	t.Parallel()
	none := 0
	_, at := simulate(t, amtsim.Options{Faults: amtsim.Faults{HangAfterCalls: &none}})
	ctx, cancel := context.WithCancelCause(t.Context())
	o := access(at)
	o.IgnoreLogonFailures = true
	began := time.Now()
	time.AfterFunc(200*time.Millisecond, func() { cancel(errors.New("enough")) })
	sum, err := Run(ctx, o, slices.Values([]Target{{Address: at.Addr()}}), func(out Outcome) {
		if out.Code != Interrupted {
			t.Errorf("%s: %v", out.Code, out.Err)
		}
	})
	if err != nil || sum.Failed != 1 || time.Since(began) > 10*time.Second {
		t.Errorf("%+v, %v after %s", sum, err, time.Since(began))
	}
}

// Those that wait for the lockout guard when the command is interrupted are interrupted: nobody has refused a password.
func TestCancelBeforeTheGuard(t *testing.T) {
	t.Parallel()
	none := 0
	_, at := simulate(t, amtsim.Options{Faults: amtsim.Faults{HangAfterCalls: &none}})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	targets := slices.Repeat([]Target{{Address: at.Addr()}}, guardPlaces+2)
	sum, err := Run(ctx, access(at), slices.Values(targets), func(Outcome) {})
	if err != nil || sum.Failed != len(targets) || sum.Reasons[Interrupted] != len(targets) {
		t.Errorf("%+v, %v", sum, err)
	}
}

// What listens on the port without being AMT.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	serve := func(start func(*httptest.Server)) *httptest.Server {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		start(s)
		t.Cleanup(s.Close)
		return s
	}
	web, secure := serve((*httptest.Server).Start), serve((*httptest.Server).StartTLS)
	pin := sha256.Sum256(secure.Certificate().RawSubjectPublicKeyInfo)
	at := func(s *httptest.Server) netip.AddrPort { return netip.MustParseAddrPort(s.Listener.Addr().String()) }
	for _, test := range []struct {
		name string
		at   netip.AddrPort
		tls  bool
		pin  []byte
		want Code
	}{
		{"a web server", at(web), false, nil, NotAMT},
		{"TLS to it", at(web), true, make([]byte, 32), NotTLS},
		{"a web server with TLS", at(secure), true, pin[:], NotAMT},
		{"another pin", at(secure), true, make([]byte, 32), BadCertificate},
		{"no trust", at(secure), true, nil, NoTrust},
	} {
		o := access(test.at)
		o.TLS, o.PinSPKI = test.tls, test.pin
		if out := initializeOne(t, test.at, o); out.Code != test.want {
			t.Errorf("%s: %s (%v), want %s", test.name, out.Code, out.Err, test.want)
		}
	}
}

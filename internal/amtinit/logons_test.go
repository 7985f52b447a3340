package amtinit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amtsim"
	"samehost/internal/wsman"
)

// cutter loses the answers to some of the requests that carry credentials, counted over all connections to a device: they
// arrive, and the connection breaks.
type cutter struct {
	mu   sync.Mutex
	sent int
	lose func(n int) bool
}

func (c *cutter) dial(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	conn, err := dial(ctx, at)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, c: c}, nil
}

type cutConn struct {
	net.Conn
	c   *cutter
	cut bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("\r\nAuthorization:")) {
		c.c.mu.Lock()
		c.cut = c.c.lose(c.c.sent)
		c.c.sent++
		c.c.mu.Unlock()
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut && err == nil {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// runWith works on one device through connections that dial makes.
func runWith(t *testing.T, o Options, at netip.AddrPort, dialing func(context.Context, netip.AddrPort) (net.Conn, error)) Outcome {
	t.Helper()
	var out Outcome
	e := engine{Options: o, dial: dialing}
	sum := e.run(t.Context(), slices.Values([]Target{{Address: at.Addr()}}), func(o Outcome) { out = o })
	if sum.OK+sum.Failed != 1 {
		t.Fatalf("%+v", sum)
	}
	return out
}

// However the connection breaks, before an answer to a log-on or after it: a wrong password is shown to a device twice at
// most, the second connection included.
func TestNoMoreThanTwoFailedLogOns(t *testing.T) {
	t.Parallel()
	for lost := range 16 { // which of the first four answers
		for _, password := range []string{amtsim.DefaultPassword, "Another1!"} {
			t.Run(fmt.Sprintf("%04b %v", lost, password == amtsim.DefaultPassword), func(t *testing.T) {
				t.Parallel()
				d, at := simulate(t, amtsim.Options{Password: password})
				c := &cutter{lose: func(n int) bool { return n < 4 && lost>>n&1 == 1 }}
				out := runWith(t, access(at), at, c.dial)
				failed := d.Snapshot().FailedLogons
				if password != amtsim.DefaultPassword {
					want := LogOnRefused
					if lost&3 == 3 {
						want = ConnectionBroken // nothing was seen but two broken connections
					}
					if failed != 2 || out.Code != want {
						t.Errorf("%d failed log-ons, want 2; %s (%v), want %s", failed, out.Code, out.Err, want)
					}
					return
				}
				// One break is made good. A second may be, too: a request that only reads is repeated on its own.
				if failed != 0 || lost&(lost-1) == 0 && !out.OK() {
					t.Errorf("%d failed log-ons, %s (%v)", failed, out.Code, out.Err)
				}
			})
		}
	}
}

// A device that locks the account in the middle says so at the next call, for the used nonce and for a fresh one. While we
// ask who it is, it may seem that a realm is missing, which costs one more.
func TestFailedLogOnsOfADeviceThatLocks(t *testing.T) {
	t.Parallel()
	for at, want := range map[int]uint64{1: 3, 3: 2, 4: 2, 6: 2, 9: 2} { // requests with credentials before it
		d, address := simulate(t, amtsim.Options{})
		c := &cutter{lose: func(n int) bool {
			if n == at {
				if err := d.SetFaults(amtsim.Faults{LockedOut: true}); err != nil {
					t.Error(err)
				}
			}
			return false
		}}
		out := runWith(t, access(address), address, c.dial)
		if n := d.Snapshot().FailedLogons; n != want || out.Code != LockedOut {
			t.Errorf("locked before request %d: %d failed log-ons, want %d; %s (%v)", at, n, want, out.Code, out.Err)
		}
	}
}

// Firmware that answers 401 for a missing realm looks as if it had refused two log-ons when the connection breaks: no other is
// made, and the reason is the break.
func TestNoLogOnIsLeftForTheSecondConnection(t *testing.T) {
	t.Parallel()
	d, at := simulate(t, amtsim.Options{Faults: amtsim.Faults{LacksRealm: "401"}})
	if err := d.AddUser(amtsim.User{Name: "keeper", Password: "Keeper-1!", Access: amtsim.AccessAny, Realms: []uint32{8}}); err != nil {
		t.Fatal(err)
	}
	o := access(at)
	o.User, o.Password = "keeper", "Keeper-1!"
	c := &cutter{lose: func(n int) bool { return n == 4 }}
	if out := runWith(t, o, at, c.dial); out.Code != ConnectionBroken || errors.Is(out.Err, wsman.ErrLogOnsSpent) || c.sent != 5 {
		t.Errorf("%s (%v) after %d requests with credentials", out.Code, out.Err, c.sent)
	}
}

// The TLS port is a second connection to the same device, and the log-ons to both are counted together.
func TestFailedLogOnsOverBothPorts(t *testing.T) {
	t.Parallel()
	const address = "127.121.200.1"
	{
		d, err := amtsim.Start(amtsim.Options{Network: fmt.Sprintf("%s:%d", address, PortHTTP), NetworkTLS: fmt.Sprintf("%s:%d", address, PortTLS), Local: "none", Release: "5.2.10", Mode: "enterprise"})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(d.CertificatePEM())
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		pin := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		secure := 0
		o := Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, PinSPKI: pin[:]}
		out := runWith(t, o, netip.AddrPortFrom(netip.MustParseAddr(address), 0), func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
			if at.Port() == PortTLS {
				if secure++; secure == 1 { // the password is changed between the two
					if err := d.SetFaults(amtsim.Faults{Password: "Another1!"}); err != nil {
						t.Error(err)
					}
				}
			}
			return dial(ctx, at)
		})
		if n := d.Snapshot().FailedLogons; n != 2 || out.Code != LogOnRefused || !out.TLS {
			t.Errorf("%d failed log-ons, want 2; %s, TLS %v, %v", n, out.Code, out.TLS, out.Err)
		}
		d.Close()
	}
}

// Fewer PCs than the guard has places: all are tried, and none sees more than two failed log-ons.
func TestWrongPasswordOnFewPCs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ devices, refused, notTried int }{{1, 1, 0}, {4, 4, 0}, {5, 5, 0}, {6, 5, 1}} {
		address := netip.MustParseAddr(fmt.Sprintf("127.121.201.%d", 10*test.devices))
		f, err := amtsim.StartFleet(amtsim.FleetOptions{Devices: test.devices, Network: address, Port: PortHTTP})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		var targets []Target
		for range test.devices {
			targets = append(targets, Target{Address: address})
			address = address.Next()
		}
		sum, err := Run(t.Context(), Options{User: amtsim.DefaultUser, Password: "Wrong-0ne!"}, slices.Values(targets), func(Outcome) {})
		if err != nil || sum.Reasons[LogOnRefused] != test.refused || sum.NotTried != test.notTried {
			t.Errorf("%d PCs: %+v, %v", test.devices, sum, err)
		}
		var logOns []uint64
		for _, d := range f.Devices {
			logOns = append(logOns, d.Snapshot().FailedLogons)
		}
		slices.Sort(logOns)
		want := append(slices.Repeat([]uint64{0}, test.notTried), slices.Repeat([]uint64{2}, test.refused)...)
		if !slices.Equal(logOns, want) {
			t.Errorf("%d PCs saw failed log-ons: %v, want %v", test.devices, logOns, want)
		}
	}
}

// One PC that lets us in switches the guard off with its first answer, and the wrong ones are told one by one.
func TestOnePCThatLetsUsIn(t *testing.T) {
	t.Parallel()
	const devices = 40
	first := netip.MustParseAddr("127.121.202.1")
	faults := map[int]amtsim.Faults{}
	for n := 2; n <= devices; n++ {
		faults[n] = amtsim.Faults{Password: "Another1!"}
	}
	f, err := amtsim.StartFleet(amtsim.FleetOptions{Devices: devices, Network: first, Port: PortHTTP, Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	targets := func(yield func(Target) bool) {
		for a, n := first, 0; n < devices; a, n = a.Next(), n+1 {
			if !yield(Target{Address: a}) {
				return
			}
		}
	}
	o := Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, Parallel: 1} // so that the right one comes first
	sum, err := Run(t.Context(), o, targets, func(Outcome) {})
	if err != nil || sum.OK != 1 || sum.Reasons[LogOnRefused] != devices-1 {
		t.Errorf("%+v, %v", sum, err)
	}
	for n, d := range f.Devices {
		if got, want := d.Snapshot().FailedLogons, uint64(min(n, 1)*2); got != want {
			t.Errorf("device %d saw %d failed log-ons, want %d", n+1, got, want)
		}
	}
}

// What a PC is asked. Before, it was 15 calls for a fresh one and 10 for an initialized one.
func TestCallsPerPC(t *testing.T) {
	t.Parallel()
	d, at := simulate(t, amtsim.Options{})
	asked := map[string]uint64{}
	more := func(want map[string]uint64, connections uint64) {
		t.Helper()
		s := d.Snapshot()
		got, total := map[string]uint64{}, uint64(0)
		for method, n := range s.Calls {
			if n -= asked[method]; n > 0 {
				got[method] = n
				total += n
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d calls (-want +got):\n%s", total, diff)
		}
		asked = s.Calls
		if n := s.Connections; n != connections {
			t.Errorf("%d connections, want %d", n, connections)
		}
	}
	initializeOne(t, at, access(at))
	more(map[string]uint64{ // 10
		"EnumerateStorageEaclEntries": 1, "Get CIM_SoftwareIdentity": 1, "Get CIM_ComputerSystemPackage": 1,
		"EnumerateStorageAllocEntries": 1, "GetGlobalStorageAttributes": 1, "Get AMT_SetupAndConfigurationService": 1,
		"AddStorageEaclEntry": 1, "AddStorageFpaclEntry": 1, "GetStorageEaclEntry": 1, "GetStorageAllocEntry": 1,
	}, 2)
	initializeOne(t, at, access(at))
	more(map[string]uint64{ // 8
		"EnumerateStorageEaclEntries": 1, "Get CIM_SoftwareIdentity": 1, "Get CIM_ComputerSystemPackage": 1,
		"GetStorageEaclEntry": 1, "EnumerateStorageAllocEntries": 1, "GetStorageAllocEntry": 1,
		"AdminGetRegisteredApplications": 1, "GetGlobalStorageAttributes": 1,
	}, 4)
}

// A target that cannot be tried any more costs nothing but its line.
func TestNotTriedCostsNothing(t *testing.T) {
	t.Parallel()
	const refusing, rest = guardPlaces, 100_000
	d, at := simulate(t, amtsim.Options{Password: "Another1!"})
	dials := 0
	var mu sync.Mutex
	o := access(at)
	o.Parallel = 1
	e := engine{Options: o, dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		return dial(ctx, at)
	}}
	sum := e.run(t.Context(), func(yield func(Target) bool) {
		for n := range refusing + rest {
			if !yield(Target{Address: netip.AddrFrom4([4]byte{127, byte(130 + n>>16), byte(n >> 8), byte(n)})}) {
				return
			}
		}
	}, func(o Outcome) {
		if o.Code == NotTried && (o.Step != Connect || o.Reached.IsValid()) {
			t.Fatalf("%+v", o)
		}
	})
	if sum.Reasons[LogOnRefused] != refusing || sum.NotTried < rest-1 || sum.NotTried > rest {
		t.Errorf("%+v", sum)
	}
	if n := d.Snapshot().FailedLogons; n != 2*refusing {
		t.Errorf("%d failed log-ons", n)
	}
	if limit := refusing*5 + 1; dials > limit {
		t.Errorf("%d connections, want at most %d", dials, limit)
	}
}

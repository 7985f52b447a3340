package amt

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/amtsim"
	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
	"samehost/internal/wsman"
)

// sim starts a simulated device.
func sim(t *testing.T, o amtsim.Options) *amtsim.Device {
	t.Helper()
	d, err := amtsim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func network(t *testing.T, d *amtsim.Device) *wsman.Client {
	t.Helper()
	return newClient(t, d.NetworkURL(), amtsim.DefaultUser, amtsim.DefaultPassword)
}

func local(t *testing.T, d *amtsim.Device) *wsman.Client {
	t.Helper()
	return newClient(t, d.LocalURL(), amtsim.DefaultUser, amtsim.DefaultPassword)
}

func localStore(t *testing.T, d *amtsim.Device) *Store {
	return NewStore(local(t, d), DefaultEnterprise)
}

func setFaults(t *testing.T, d *amtsim.Device, f amtsim.Faults) {
	t.Helper()
	if err := d.SetFaults(f); err != nil {
		t.Fatal(err)
	}
}

// initialized is a device after Initialize.
func initialized(t *testing.T) *amtsim.Device {
	t.Helper()
	d := sim(t, amtsim.Options{})
	initialize(t, d)
	return d
}

func initialize(t *testing.T, d *amtsim.Device) Result {
	t.Helper()
	r, err := Initialize(t.Context(), network(t, d), DefaultEnterprise)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func save(t *testing.T, s hostid.Store, r hostid.Record) {
	t.Helper()
	if err := s.Save(t.Context(), r); err != nil {
		t.Fatalf("Save: %v", err)
	}
}

func wantLoad(t *testing.T, s hostid.Store, want hostid.Record) {
	t.Helper()
	got, err := s.Load(t.Context())
	if err != nil || !got.Equal(want) {
		t.Fatalf("Load gives %+v, %v", got, err)
	}
}

func blockWrites(d *amtsim.Device) int { return int(d.Snapshot().Calls["WriteBlock"]) }

// rawBlock gives the handle of our block of that name, 0 if there is none, and its content as the simulator sees it.
func rawBlock(d *amtsim.Device, slot int) (handle uint32, b []byte) {
	for _, block := range d.Snapshot().Blocks {
		if block.Name == blockNames[slot] {
			return block.Handle, block.Data
		}
	}
	return 0, nil
}

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		d := initialized(t)
		c := local(t, d)
		return storetest.Fixture{
			Reopen: func(t *testing.T) hostid.Store {
				setFaults(t, d, amtsim.Faults{})
				c.Close()
				c = local(t, d)
				return NewStore(c, DefaultEnterprise)
			},
			Copies: len(blockNames),
			Read: func(_ *testing.T, i int) []byte {
				_, b := rawBlock(d, i)
				return b
			},
			Write: func(t *testing.T, i int, b []byte) {
				handle, _ := rawBlock(d, i)
				if err := d.WriteMemory(handle, 0, b); err != nil {
					t.Fatal(err)
				}
			},
			Writes: func() int { return blockWrites(d) },
			Cut: func(n int) {
				if err := d.SetFaults(amtsim.Faults{CutWriteAfter: &n}); err != nil {
					panic(err)
				}
			},
		}
	})
}

func TestUnchangedSavesWriteNothing(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	s := localStore(t, d)
	save(t, s, record(1))
	save(t, s, record(2))
	before := blockWrites(d)
	if before == 0 {
		t.Fatal("no WriteBlock was counted at all")
	}
	for i := range 100 {
		if i%10 == 9 {
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			s = localStore(t, d)
		}
		wantLoad(t, s, record(2))
		save(t, s, record(2))
	}
	if n := blockWrites(d) - before; n != 0 {
		t.Errorf("%d writes", n)
	}
}

func TestInitializeASimulatedDevice(t *testing.T) {
	t.Parallel()
	d := sim(t, amtsim.Options{})
	c := network(t, d)
	foreseen, err := Inspect(t.Context(), c, DefaultEnterprise)
	if err != nil || !foreseen.EnterpriseAdded || !foreseen.AllocationAdded || foreseen.AlreadyInitialized() {
		t.Fatalf("Inspect gives %+v, %v", foreseen, err)
	}
	if n := d.Snapshot().Calls["AddStorageEaclEntry"] + d.Snapshot().Calls["AddStorageFpaclEntry"]; n != 0 {
		t.Fatalf("Inspect made %d changes", n)
	}
	first := initialize(t, d)
	if !first.EnterpriseAdded || !first.AllocationAdded || first.Registered || !slices.Equal(first.Enterprises, []string{DefaultEnterprise}) {
		t.Errorf("%+v", first)
	}
	if a := first.About; len(a.PlatformGUID) != 32 || a.Version != amtsim.DefaultRelease || a.Build != "" || a.ProvisioningState != 2 || a.ProvisioningMode != 1 {
		t.Errorf("%+v", a)
	}
	if a := foreseen.About; a.PlatformGUID != first.About.PlatformGUID || a.Version != amtsim.DefaultRelease || len(a.Build) != 4 {
		t.Errorf("Inspect tells %+v", a)
	}
	save(t, localStore(t, d), record(1))
	second := initialize(t, d)
	if !second.AlreadyInitialized() || !second.Registered {
		t.Errorf("again: %+v", second)
	}
	wantLoad(t, localStore(t, d), record(1))
	calls := d.Snapshot().Calls
	if calls["AddStorageEaclEntry"] != 1 || calls["AddStorageFpaclEntry"] != 1 || calls["RegisterApplication"] == 0 ||
		calls["RemoveStorageEaclEntry"]+calls["RemoveStorageFpaclEntry"]+calls["AdminRemoveApplication"] != 0 {
		t.Errorf("calls %v", calls)
	}
}

func TestAnExistingEnterpriseIsUsed(t *testing.T) {
	t.Parallel()
	d := sim(t, amtsim.Options{})
	c := network(t, d)
	for _, name := range []string{"Virtualization", "B", "C", "D"} { // all four places, one of them to be shared
		if _, err := c.Invoke(t.Context(), amtSchema+adminClass, "AddStorageEaclEntry", wsman.Param{Name: "EnterpriseName", Value: name}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Initialize(t.Context(), c, DefaultEnterprise); !errors.Is(err, ErrEACLFull) {
		t.Errorf("with all places taken: %v", err)
	}
	if n := len(d.Snapshot().Entries); n != 0 {
		t.Errorf("a device that cannot serve was changed: %d allocation entries", n)
	}
	r, err := Initialize(t.Context(), c, "Virtualization")
	if err != nil || r.EnterpriseAdded || !r.AllocationAdded || !slices.Equal(r.Enterprises, []string{"Virtualization"}) {
		t.Fatalf("%+v, %v", r, err)
	}
	s := NewStore(local(t, d), "Virtualization")
	save(t, s, record(1))
	wantLoad(t, s, record(1))
	_, err = localStore(t, d).Load(t.Context())
	wantOnly(t, err, hostid.ErrNotInitialized) // the name must be the same on both sides
}

func TestManyInitializeAtOnce(t *testing.T) {
	t.Parallel()
	d := sim(t, amtsim.Options{})
	var all sync.WaitGroup
	for range 8 {
		c := network(t, d)
		all.Go(func() {
			if _, err := Initialize(t.Context(), c, DefaultEnterprise); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if r := initialize(t, d); !r.AlreadyInitialized() || len(r.Enterprises) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestInitializeCutAtEachCallCanBeDoneAgain(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		d := sim(t, amtsim.Options{})
		setFaults(t, d, amtsim.Faults{RestartAfterCalls: &n})
		_, err := Initialize(t.Context(), untilRestart(t, d, d.NetworkURL()), DefaultEnterprise)
		if err == nil && n == 0 {
			t.Fatal("nothing was cut")
		}
		setFaults(t, d, amtsim.Faults{})
		initialize(t, d)
		if r := initialize(t, d); !r.AlreadyInitialized() || len(r.Enterprises) != 1 {
			t.Fatalf("cut after %d calls: %+v", n, r)
		}
		save(t, localStore(t, d), record(1))
		if err == nil {
			return
		}
	}
}

// limited is a user with these realms only.
func limited(t *testing.T, d *amtsim.Device, realms ...uint32) {
	t.Helper()
	if err := d.AddUser(amtsim.User{Name: "limited", Password: "P@ssw0rd!", Access: amtsim.AccessAny, Realms: realms}); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkReasons(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		options  amtsim.Options
		faults   amtsim.Faults
		realms   []uint32 // log on as a user with these instead of the administrator
		password wsman.Secret
		url      func(*amtsim.Device) string
		want     error
		text     string
	}{
		{name: "in order"},
		{name: "no 3PDS", faults: amtsim.Faults{No3PDS: true}, want: ErrNo3PDS, text: "no third-party data storage"},
		{name: "only the realm that is needed", realms: []uint32{8}},
		{name: "only the realm that is needed, others refused by 401", realms: []uint32{8}, faults: amtsim.Faults{LacksRealm: "401"}},
		{name: "realm missing, by fault", realms: []uint32{6, 13}, want: ErrNoRealm, text: "StorageAdmin"},
		{name: "realm missing, by 401", realms: []uint32{6, 13}, faults: amtsim.Faults{LacksRealm: "401"}, want: ErrNoRealm, text: "StorageAdmin"},
		{name: "realm missing, by 403", realms: []uint32{6, 13}, faults: amtsim.Faults{LacksRealm: "403"}, want: ErrNoRealm, text: "StorageAdmin"},
		{name: "wrong password", password: "Wr0ng!word", want: wsman.ErrLogOn},
		{name: "another administrator's password", faults: amtsim.Faults{Password: "0ther!Word"}, want: wsman.ErrLogOn},
		{name: "locked out, and nobody knows of an earlier log-on", faults: amtsim.Faults{LockedOut: true}, want: wsman.ErrLogOn},
		{name: "busy", faults: amtsim.Faults{Busy: true}, want: ErrNotReady, text: "PT_STATUS_NOT_READY (2)"},
		{name: "EACL full", faults: amtsim.Faults{FullEACL: true}, want: ErrEACLFull,
			text: `"Other Enterprise 1", "Other Enterprise 2", "Other Enterprise 3", "Other Enterprise 4"`},
		{name: "Small Business before 6.0", options: amtsim.Options{Release: "5.2.1"}},
		{name: "Enterprise before 6.0", options: amtsim.Options{Release: "5.2.1", Mode: "enterprise"}, want: ErrMode, text: "AMT 5.2.1"},
		{name: "Enterprise from 6.0", options: amtsim.Options{Release: "6.0.0", Mode: "enterprise"}},
		{name: "Client Control", options: amtsim.Options{Mode: "client"}},
		{name: "TLS only", options: amtsim.Options{NetworkTLS: "127.18.0.1:0"},
			url:  func(d *amtsim.Device) string { return strings.Replace(d.NetworkTLSURL(), "https:", "http:", 1) },
			want: wsman.ErrTLSOnly},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := sim(t, test.options)
			user, password := amtsim.DefaultUser, wsman.Secret(amtsim.DefaultPassword)
			if test.realms != nil {
				limited(t, d, test.realms...)
				user = "limited"
			}
			if test.password != "" {
				password = test.password
			}
			setFaults(t, d, test.faults)
			url := d.NetworkURL()
			if test.url != nil {
				url = test.url(d)
			}
			_, err := Initialize(t.Context(), newClient(t, url, user, password), DefaultEnterprise)
			if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, want %v with %q", err, test.want, test.text)
			}
			for _, sentinel := range []error{ErrNo3PDS, ErrNoRealm, ErrLockedOut, ErrNotProvisioned, ErrMode, ErrNotReady, ErrEACLFull, ErrNoSpace} {
				if sentinel != test.want && errors.Is(err, sentinel) {
					t.Errorf("%v is %q too", err, sentinel)
				}
			}
			if errors.Is(err, wsman.ErrLogOn) && !errors.Is(err, ErrNoRealm) && !errors.Is(AcceptedBefore(err), ErrLockedOut) {
				t.Errorf("AcceptedBefore gives %v", AcceptedBefore(err))
			}
			if n := d.Snapshot().Calls["RegisterApplication"]; n != 0 {
				t.Errorf("the application was registered %d times over the network", n)
			}
		})
	}
}

func TestEnterpriseModeBefore6OverTLS(t *testing.T) {
	t.Parallel()
	d := sim(t, amtsim.Options{Release: "5.2.1", Mode: "enterprise", NetworkTLS: "127.18.0.1:0"})
	pin, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(d.SPKIPin(), "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := wsman.NewClient(wsman.Endpoint{URL: d.NetworkTLSURL(), User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, PinSPKI: pin})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := Initialize(t.Context(), c, DefaultEnterprise); err != nil || r.About.ProvisioningMode != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAFullFPACLLeavesTheNonPartnerArea(t *testing.T) {
	t.Parallel()
	d := sim(t, amtsim.Options{Faults: amtsim.Faults{FullFPACL: true}})
	if r := initialize(t, d); !r.NonPartner || r.AllocationAdded || !r.EnterpriseAdded {
		t.Errorf("%+v", r)
	}
	save(t, localStore(t, d), record(1))
	wantLoad(t, localStore(t, d), record(1))
	if r := initialize(t, d); !r.NonPartner || !r.Registered || !r.AlreadyInitialized() {
		t.Errorf("after the client registered: %+v", r)
	}
	// With places free again it stays where it is: what is stored is never put at risk.
	setFaults(t, d, amtsim.Faults{})
	if r := initialize(t, d); !r.NonPartner || !r.AlreadyInitialized() {
		t.Errorf("with free places: %+v", r)
	}
}

func TestLogOnRefusedAfterItWasAccepted(t *testing.T) {
	t.Parallel()
	// Initialize is locked out in the middle, after each number of requests.
	for n := 3; n < 9; n++ {
		d := sim(t, amtsim.Options{})
		requests := 0
		c := dialing(t, d.NetworkURL(), func(conn net.Conn) net.Conn {
			return &cutConn{Conn: conn, onRequest: func() bool {
				if requests++; requests == n {
					setFaults(t, d, amtsim.Faults{LockedOut: true})
				}
				return false
			}}
		})
		_, err := Initialize(t.Context(), c, DefaultEnterprise)
		if !errors.Is(err, ErrLockedOut) || !errors.Is(err, wsman.ErrLogOn) || errors.Is(err, ErrNoRealm) {
			t.Errorf("locked out at request %d: %v", n, err)
		}
	}
	d := initialized(t)
	s := localStore(t, d)
	save(t, s, record(1))
	setFaults(t, d, amtsim.Faults{LockedOut: true})
	_, err := s.Load(t.Context())
	wantOnly(t, err, hostid.ErrUnavailable)
	if !errors.Is(err, ErrLockedOut) {
		t.Errorf("%v", err)
	}
	setFaults(t, d, amtsim.Faults{})
	wantLoad(t, s, record(1))
}

func TestLocalReasons(t *testing.T) {
	t.Parallel()
	n := 0
	for _, test := range []struct {
		name   string
		faults amtsim.Faults
		before func(t *testing.T, d *amtsim.Device)
		want   error // of hostid's; nil: Load gives the record
		is     error
		text   string
		anew   bool // shows in a new session only
	}{
		{name: "in order"},
		{name: "log-on refused", faults: amtsim.Faults{Password: "0ther!Word"}, want: hostid.ErrUnavailable, is: wsman.ErrLogOn},
		{name: "locked out", faults: amtsim.Faults{LockedOut: true}, want: hostid.ErrUnavailable, is: wsman.ErrLogOn},
		{name: "busy", faults: amtsim.Faults{Busy: true}, want: hostid.ErrUnavailable, is: ErrNotReady},
		{name: "no 3PDS", faults: amtsim.Faults{No3PDS: true}, want: hostid.ErrUnavailable, is: ErrNo3PDS},
		{name: "not set up", faults: amtsim.Faults{Unprovisioned: true}, want: hostid.ErrUnavailable, is: ErrNotProvisioned},
		{name: "full unprovision", before: func(t *testing.T, d *amtsim.Device) {
			if err := d.Unprovision(); err != nil {
				t.Fatal(err)
			}
		}, want: hostid.ErrUnavailable, is: ErrNotProvisioned, text: "AMT is not set up, or its setup is under way"},
		{name: "full unprovision, and set up anew", before: func(t *testing.T, d *amtsim.Device) {
			if err := errors.Join(d.Unprovision(), d.Provision("")); err != nil {
				t.Fatal(err)
			}
		}, want: hostid.ErrNotInitialized, is: StatusInvalidRegistrationData},
		{name: "LMS is not there", faults: amtsim.Faults{Refuse: true, Side: "local"}, want: hostid.ErrUnavailable, text: "nothing answers for AMT"},
		{name: "locked by another", faults: amtsim.Faults{LockByOther: true}, want: hostid.ErrUnavailable, is: StatusBlockLockedByOther, text: `block "host ID 0"`},
		{name: "the enterprise's entry was removed", faults: amtsim.Faults{RemoveEnterprise: DefaultEnterprise},
			want: hostid.ErrNotInitialized, is: StatusInvalidRegistrationData, text: `no enterprise "samehost"`, anew: true},
		{name: "replies are cut", faults: amtsim.Faults{CutReplyAfter: &n}, want: hostid.ErrUnavailable},
		{name: "replies are no XML", faults: amtsim.Faults{GarbleEachReply: true}, want: hostid.ErrUnavailable, is: wsman.ErrBadReply},
		{name: "one bit is read wrong", faults: amtsim.Faults{CorruptReads: true}, want: hostid.ErrCorrupt},
		{name: "worn out, which reading does not mind", faults: amtsim.Faults{WornOut: true}},
		{name: "each reply closes the connection", faults: amtsim.Faults{CloseEachReply: true}},
		{name: "nonces that serve once", faults: amtsim.Faults{NonceUses: 1}},
		{name: "a restart", before: func(_ *testing.T, d *amtsim.Device) { d.Restart() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := initialized(t)
			open := localStore(t, d)
			save(t, open, record(1))
			if test.before != nil {
				test.before(t, d)
			}
			setFaults(t, d, test.faults)
			for name, s := range map[string]*Store{"a Store that was in use": open, "a new Store": localStore(t, d)} {
				if test.anew && s == open {
					continue
				}
				got, err := s.Load(t.Context())
				if test.want == nil {
					if err != nil || !got.Equal(record(1)) {
						t.Errorf("%s: %+v, %v", name, got, err)
					}
					continue
				}
				wantOnly(t, err, test.want)
				if test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%s: %v; want %v with %q", name, err, test.is, test.text)
				}
			}
		})
	}
}

func TestRealmMissingLocally(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"fault", "401", "403"} {
		d := initialized(t)
		limited(t, d, 8, 13)
		setFaults(t, d, amtsim.Faults{LacksRealm: form})
		_, err := NewStore(newClient(t, d.LocalURL(), "limited", "P@ssw0rd!"), DefaultEnterprise).Load(t.Context())
		wantOnly(t, err, hostid.ErrUnavailable)
		if !errors.Is(err, ErrNoRealm) || !strings.Contains(err.Error(), "the realm Storage:") {
			t.Errorf("%s: %v", form, err)
		}
	}
}

func TestPinnedToTheOtherInterface(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	// Somebody registers as us over the network.
	if _, err := NewStore(network(t, d), DefaultEnterprise).Load(t.Context()); !errors.Is(err, hostid.ErrNotStored) {
		t.Fatal(err)
	}
	_, err := localStore(t, d).Load(t.Context())
	wantOnly(t, err, hostid.ErrNotInitialized)
	if !errors.Is(err, StatusInvalidRegistrationData) || !strings.Contains(err.Error(), "first registered over the network") {
		t.Errorf("%v", err)
	}
}

func TestBeforeInitialize(t *testing.T) {
	t.Parallel()
	d := sim(t, amtsim.Options{})
	s := localStore(t, d)
	_, err := s.Load(t.Context())
	wantOnly(t, err, hostid.ErrNotInitialized)
	wantOnly(t, s.Save(t.Context(), record(1)), hostid.ErrNotInitialized)
	initialize(t, d)
	save(t, s, record(1))
	wantLoad(t, s, record(1))
}

func TestWornOutRefusesSaveOnly(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	s := localStore(t, d)
	save(t, s, record(1))
	setFaults(t, d, amtsim.Faults{WornOut: true})
	err := s.Save(t.Context(), record(2))
	wantOnly(t, err, hostid.ErrUnavailable)
	if !errors.Is(err, StatusFlashWriteLimitExceeded) {
		t.Errorf("%v", err)
	}
	wantLoad(t, s, record(1))
	save(t, s, record(1))
	setFaults(t, d, amtsim.Faults{})
	save(t, s, record(2))
	wantLoad(t, s, record(2))
}

func TestPartialWritesAreContinued(t *testing.T) {
	t.Parallel()
	for _, status := range []uint32{0, 1} {
		d := initialized(t)
		setFaults(t, d, amtsim.Faults{ShortWrite: 50, ShortWriteStatus: status})
		s := localStore(t, d)
		save(t, s, record(1))
		save(t, s, record(2))
		wantLoad(t, s, record(2))
	}
}

func TestSessionsLostAtEachCall(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	count := 0
	for n := range 24 {
		setFaults(t, d, amtsim.Faults{DropSessionAfter: &n})
		s := localStore(t, d)
		save(t, s, record(n))
		wantLoad(t, s, record(n))
		if d.Faults().DropSessionAfter == nil {
			count++
		}
	}
	if count < 10 {
		t.Errorf("sessions were dropped in %d of the runs only", count)
	}
}

func TestTwoStoresTakeTheSessionFromEachOther(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	a, b := localStore(t, d), localStore(t, d)
	for n := range 5 {
		save(t, a, record(2*n))
		wantLoad(t, b, record(2*n))
		save(t, b, record(2*n+1))
		wantLoad(t, a, record(2*n+1))
	}
}

func TestAStoreIsSafeForSeveralGoroutines(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	s := localStore(t, d)
	save(t, s, record(0))
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for range 5 {
				if err := s.Save(t.Context(), record(n)); err != nil {
					t.Error(err)
				}
				if _, err := s.Load(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestCloseUnregistersAndRemoveRemoves(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	s := localStore(t, d)
	save(t, s, record(1))
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := d.Snapshot().Calls["UnregisterApplication"]; n != 1 {
		t.Errorf("%d calls of UnregisterApplication", n)
	}
	wantLoad(t, s, record(1)) // a closed Store opens again

	for range 2 { // the second time there is nothing to remove
		if err := s.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := initialize(t, d); r.Registered || !r.AlreadyInitialized() {
			t.Errorf("after Remove: %+v", r)
		}
	}
	_, err := s.Load(t.Context())
	wantOnly(t, err, hostid.ErrNotStored)
	save(t, s, record(2))
	wantLoad(t, localStore(t, d), record(2))
}

func TestAnAdministratorRemovesTheApplication(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	s := localStore(t, d)
	save(t, s, record(1))
	c := network(t, d)
	list, err := c.Invoke(t.Context(), amtSchema+adminClass, "AdminGetRegisteredApplications")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range list.Values("ApplicationHandles") {
		if _, err := c.Invoke(t.Context(), amtSchema+adminClass, "AdminRemoveApplication", wsman.Param{Name: "Handle", Value: h}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Load(t.Context())
	wantOnly(t, err, hostid.ErrNotStored)
	save(t, s, record(2))
	wantLoad(t, s, record(2))
}

// cutConn is a connection that can be cut at a request. The client sends each request with one Write.
type cutConn struct {
	net.Conn
	onRequest func() (lose bool) // before a request; true: its reply is lost
	lost      bool
}

var errCut = errors.New("cut by the test")

func (c *cutConn) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), "POST ") {
		c.lost = c.onRequest()
	}
	return c.Conn.Write(b)
}

// Read loses a reply once its first byte is there: then the device has carried the request out.
func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lost {
		c.Conn.Close()
		return 0, errCut
	}
	return n, err
}

// dialing is a client whose connections go through wrap. Where that gives nil nobody listens any more, so that the client
// does not look, for two seconds, whether the device speaks TLS now.
func dialing(t *testing.T, url string, wrap func(net.Conn) net.Conn) *wsman.Client {
	t.Helper()
	c, err := wsman.NewClient(wsman.Endpoint{URL: url, User: amtsim.DefaultUser, Password: amtsim.DefaultPassword,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			if wrapped := wrap(conn); wrapped != nil {
				return wrapped, nil
			}
			conn.Close()
			return nil, errCut
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// untilRestart is a client that nobody listens to any more once a restart that the faults order has come.
func untilRestart(t *testing.T, d *amtsim.Device, url string) *wsman.Client {
	t.Helper()
	return dialing(t, url, func(conn net.Conn) net.Conn {
		if f := d.Faults(); f.RestartAfterCalls == nil && f.RestartInCall == "" {
			return nil
		}
		return conn
	})
}

// crashes runs Save of a new record over an old one, or over nothing, with a crash that arrange prepares at step n, until
// one Save meets no crash any more. Whatever the crash, a client that starts anew finds the old or the new record.
func crashes(t *testing.T, arrange func(t *testing.T, d *amtsim.Device, n int) (s *Store, met func() bool)) {
	for _, old := range []int{0, 1, 2} { // how many records were saved before
		t.Run(fmt.Sprintf("after %d saves", old), func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				if n == 200 {
					t.Fatal("200 crashes and no end")
				}
				d := initialized(t)
				for i := range old {
					save(t, localStore(t, d), record(i))
				}
				s, met := arrange(t, d, n)
				saveErr := s.Save(t.Context(), record(old))
				wasMet := met()
				setFaults(t, d, amtsim.Faults{})
				again := localStore(t, d)
				got, err := again.Load(t.Context())
				switch {
				case saveErr == nil && (err != nil || !got.Equal(record(old))):
					t.Fatalf("crash %d: Save succeeds, and Load gives %+v, %v", n, got, err)
				case old == 0 && (errors.Is(err, hostid.ErrNotStored) || errors.Is(err, hostid.ErrCorrupt)):
				case err != nil:
					t.Fatalf("crash %d: Save: %v; Load: %v", n, saveErr, err)
				case !got.Equal(record(old)) && (old == 0 || !got.Equal(record(old-1))):
					t.Fatalf("crash %d: neither the old nor the new record: %+v", n, got)
				}
				if !wasMet {
					if saveErr != nil {
						t.Fatalf("crash %d was not met, and yet Save: %v", n, saveErr)
					}
					if n < 5 {
						t.Fatalf("only %d crashes were met", n)
					}
					return
				}
				save(t, again, record(old))
				wantLoad(t, localStore(t, d), record(old))
			}
		})
	}
}

func TestSaveWhenTheConnectionIsCutBeforeARequest(t *testing.T) {
	t.Parallel()
	crashes(t, func(t *testing.T, d *amtsim.Device, n int) (*Store, func() bool) {
		requests := 0
		c := dialing(t, d.LocalURL(), func(conn net.Conn) net.Conn {
			if requests > n {
				return nil
			}
			return &cutConn{Conn: conn, onRequest: func() bool {
				if requests++; requests > n {
					conn.Close()
				}
				return false
			}}
		})
		return NewStore(c, DefaultEnterprise), func() bool { return requests > n }
	})
}

func TestSaveWhenAReplyIsLost(t *testing.T) {
	t.Parallel()
	crashes(t, func(t *testing.T, d *amtsim.Device, n int) (*Store, func() bool) {
		requests := 0
		c := dialing(t, d.LocalURL(), func(conn net.Conn) net.Conn {
			if requests > n {
				return nil
			}
			return &cutConn{Conn: conn, onRequest: func() bool {
				requests++
				return requests == n+1
			}}
		})
		return NewStore(c, DefaultEnterprise), func() bool { return requests > n }
	})
}

func TestSaveWhenTheFirmwareRestartsBeforeACall(t *testing.T) {
	t.Parallel()
	crashes(t, func(t *testing.T, d *amtsim.Device, n int) (*Store, func() bool) {
		setFaults(t, d, amtsim.Faults{RestartAfterCalls: &n})
		return NewStore(untilRestart(t, d, d.LocalURL()), DefaultEnterprise), func() bool { return d.Faults().RestartAfterCalls == nil }
	})
}

func TestSaveWhenTheFirmwareRestartsInACall(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"RegisterApplication", "GetCurrentApplicationHandle", "GetAllocatedBlocks", "GetBlockAttributes",
		"AllocateBlock", "ReadBlock", "WriteBlock"} {
		d := initialized(t)
		if method != "AllocateBlock" {
			save(t, localStore(t, d), record(1))
		}
		setFaults(t, d, amtsim.Faults{RestartInCall: method})
		s := NewStore(untilRestart(t, d, d.LocalURL()), DefaultEnterprise)
		if err := s.Save(t.Context(), record(2)); !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", method, err)
		}
		got, err := localStore(t, d).Load(t.Context())
		if method == "AllocateBlock" {
			wantOnly(t, err, hostid.ErrNotStored)
		} else if err != nil || !got.Equal(record(1)) && !got.Equal(record(2)) {
			t.Errorf("%s: Load gives %+v, %v", method, got, err)
		}
		setFaults(t, d, amtsim.Faults{RestartInCall: "GetMTU"}) // which nobody calls: the same Store connects again
		save(t, s, record(2))
		wantLoad(t, s, record(2))
		if h := d.Snapshot(); len(h.Blocks) != 2 {
			t.Errorf("%s: %d blocks", method, len(h.Blocks))
		}
	}
}

func TestSaveWhenTheFirmwareHangs(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	save(t, localStore(t, d), record(0))
	last, hung := 0, 0
	for n := range 14 {
		setFaults(t, d, amtsim.Faults{HangAfterCalls: &n})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := localStore(t, d).Save(ctx, record(n+1))
		cancel()
		if err != nil {
			hung++
			if !errors.Is(err, hostid.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("hang after %d: %v", n, err)
			}
		}
		setFaults(t, d, amtsim.Faults{})
		got, loadErr := localStore(t, d).Load(t.Context())
		if loadErr != nil || !got.Equal(record(last)) && !got.Equal(record(n+1)) {
			t.Fatalf("hang after %d: Save: %v; Load gives %+v, %v", n, err, got, loadErr)
		}
		if got.Equal(record(n + 1)) {
			last = n + 1
		}
	}
	if hung < 6 {
		t.Errorf("only %d of the Saves met a device that hangs", hung)
	}
}

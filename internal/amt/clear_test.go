package amt

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amtsim"
	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

func anyDevice(About) error { return nil }

// register registers an application, with one block where it has data, as another product does.
func register(t *testing.T, c *wsman.Client, uuid, vendor, application, enterprise, data string) {
	t.Helper()
	call := func(method string, in ...wsman.Param) wsman.Instance {
		t.Helper()
		out, err := c.Invoke(t.Context(), amtSchema+storageClass, method, in...)
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := out.Value("ReturnValue"); v != "0" {
			t.Fatalf("%s of %s: status %s", method, application, v)
		}
		return out
	}
	out := call("RegisterApplication", wsman.Param{Name: "CallerUUID", Value: uuid}, wsman.Param{Name: "VendorName", Value: vendor},
		wsman.Param{Name: "ApplicationName", Value: application}, wsman.Param{Name: "EnterpriseName", Value: enterprise})
	session, _ := out.Value("SessionHandle")
	handle := wsman.Param{Name: "SessionHandle", Value: session}
	if data == "" {
		call("UnregisterApplication", handle)
		return
	}
	out = call("AllocateBlock", handle, wsman.Param{Name: "BytesRequested", Value: "4096"}, wsman.Param{Name: "BlockHidden", Value: "false"}, wsman.Param{Name: "BlockName", Value: "notes"})
	block, _ := out.Value("BlockHandle")
	call("WriteBlock", handle, wsman.Param{Name: "BlockHandle", Value: block}, wsman.Param{Name: "ByteOffset", Value: "0"},
		wsman.Param{Name: "Data", Value: base64.StdEncoding.EncodeToString([]byte(data))})
	call("UnregisterApplication", handle)
}

// Only our application goes; others, EACL and FPACL stay as they are. What is gone already is no failure.
func TestClear(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	other := strings.Repeat("AB", 16)
	register(t, local(t, d), other, "Vendor", "Notes", DefaultEnterprise, "theirs")
	register(t, local(t, d), other, Vendor, "another", DefaultEnterprise, "near")
	register(t, local(t, d), other, Vendor, Application, DefaultEnterprise, "") // our names, another caller
	before := d.Snapshot()
	save(t, localStore(t, d), record(1))
	save(t, localStore(t, d), record(2)) // both blocks

	asked := About{}
	got, err := Clear(t.Context(), network(t, d), DefaultEnterprise, func(a About) error { asked = a; return nil })
	if err != nil || got.Removed != 1 || len(got.Left) != 1 || got.Left[0] != DefaultEnterprise {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(asked.PlatformGUID) != 32 || asked != got.About {
		t.Errorf("asked with %+v, found %+v", asked, got.About)
	}
	after := d.Snapshot()
	for _, diff := range []string{cmp.Diff(before.Applications, after.Applications), cmp.Diff(before.Blocks, after.Blocks), cmp.Diff(before.Entries, after.Entries)} {
		if diff != "" {
			t.Errorf("what is others' changed:\n%s", diff)
		}
	}
	if n := after.Calls["AdminRemoveApplication"]; n != 1 {
		t.Errorf("%d removals", n)
	}
	if n := after.Calls["RemoveStorageEaclEntry"] + after.Calls["RemoveStorageFpaclEntry"]; n != 0 {
		t.Errorf("%d changes of access lists", n)
	}
	got, err = Clear(t.Context(), network(t, d), DefaultEnterprise, anyDevice)
	if err != nil || got.Removed != 0 {
		t.Errorf("again: %+v, %v", got, err)
	}
	if n := d.Snapshot().Calls["AdminRemoveApplication"]; n != 1 {
		t.Errorf("%d removals", n)
	}
	_, err = localStore(t, d).Load(t.Context())
	wantOnly(t, err, hostid.ErrNotStored)

	if r := initialize(t, d); !r.AlreadyInitialized() {
		t.Errorf("the area is not as it was: %+v", r)
	}
}

func TestClearAsksFirst(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	save(t, localStore(t, d), record(1))
	no := errors.New("no")
	if _, err := Clear(t.Context(), network(t, d), DefaultEnterprise, func(About) error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	got, err := Clear(t.Context(), network(t, d), "other", anyDevice)
	if err != nil || got.Removed != 0 || len(got.Left) != 1 {
		t.Errorf("under another enterprise: %+v, %v", got, err)
	}
	wantLoad(t, localStore(t, d), record(1))
	empty := sim(t, amtsim.Options{})
	if got, err := Clear(t.Context(), network(t, empty), DefaultEnterprise, anyDevice); err != nil || got.Removed != 0 || len(got.Left) != 0 {
		t.Errorf("never initialized: %+v, %v", got, err)
	}
}

func TestClearCutAtEachCallCanBeDoneAgain(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		d := initialized(t)
		save(t, localStore(t, d), record(1))
		setFaults(t, d, amtsim.Faults{RestartAfterCalls: &n})
		_, err := Clear(t.Context(), untilRestart(t, d, d.NetworkURL()), DefaultEnterprise, anyDevice)
		if err == nil && n == 0 {
			t.Fatal("nothing was cut")
		}
		setFaults(t, d, amtsim.Faults{})
		if _, err := Clear(context.WithoutCancel(t.Context()), network(t, d), DefaultEnterprise, anyDevice); err != nil {
			t.Fatal(err)
		}
		if left := d.Snapshot().Applications; len(left) != 0 {
			t.Fatalf("cut after %d calls: %+v", n, left)
		}
		if err == nil {
			return
		}
	}
}

func TestClearFails(t *testing.T) {
	t.Parallel()
	d := initialized(t)
	setFaults(t, d, amtsim.Faults{No3PDS: true})
	if _, err := Clear(t.Context(), network(t, d), DefaultEnterprise, anyDevice); !errors.Is(err, ErrNo3PDS) {
		t.Errorf("no storage: %v", err)
	}
	setFaults(t, d, amtsim.Faults{})
	before := d.Snapshot().FailedLogons
	c := newClient(t, d.NetworkURL(), amtsim.DefaultUser, "wrong password")
	if _, err := Clear(t.Context(), c, DefaultEnterprise, anyDevice); !errors.Is(err, wsman.ErrLogOn) {
		t.Errorf("wrong password: %v", err)
	}
	if n := d.Snapshot().FailedLogons - before; n > 2 {
		t.Errorf("%d failed log-ons", n)
	}
	if _, err := Clear(t.Context(), network(t, d), "", anyDevice); err == nil {
		t.Error("no enterprise: no error")
	}
}

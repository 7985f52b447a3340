package amtsim

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scene is a device with one enterprise, and clients on both sides.
type scene struct {
	d              *Device
	clock          *clock
	network, local *client
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{clock: newClock()}
	s.d = start(t, Options{Now: s.clock.now})
	s.network, s.local = newClient(t, s.d.NetworkURL()), newClient(t, s.d.LocalURL())
	s.network.must(adm, "AddStorageEaclEntry", "EnterpriseName", "Corp")
	return s
}

// step is one call and its whole answer: the outputs in order, or the fault's subcode.
type step struct {
	who    *instanceOf // nil: the client without a session
	method string
	args   []string
	want   string
}

func play(t *testing.T, c *client, class string, steps []step) {
	t.Helper()
	for i, s := range steps {
		var a answer
		if s.who != nil {
			a = s.who.invoke(s.method, s.args...)
		} else {
			a = c.invoke(class, s.method, s.args...)
		}
		if got := a.outputs(); got != s.want {
			t.Errorf("step %d: %s %q\n got %s\nwant %s", i, s.method, s.args, got, s.want)
		}
	}
}

func rv(n int) string { return "ReturnValue=" + strconv.Itoa(n) }

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestMethodsAreComplete holds the method lists of the reference, in and out: 29 and 14.
func TestMethodsAreComplete(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		sto: {"GetMTU", "RegisterApplication", "UnregisterApplication", "GetRegisteredApplications", "GetCurrentApplicationHandle",
			"GetApplicationAttributes", "RemoveApplication", "GetBytesAvailable", "AllocateBlock", "DeallocateBlock", "RemovePermissionsGroup",
			"GetPermissionsGroupMembers", "GetAllocatedBlocks", "RemovePermissionsGroupMembers", "GetBlockAttributes", "AddPermissionsGroupMembers",
			"UnlockBlock", "SetPermissionsGroupName", "GetTimeoutValues", "ReadBlock", "WriteBlock", "SetPermissionsGroupPermissions",
			"SetBlockVisibility", "GetPermissionsGroupAttributes", "GetPermissionsGroups", "SetBlockName", "AddPermissionsGroup", "LockBlock",
			"GetWriteEraseLimit"},
		adm: {"GetGlobalStorageAttributes", "SetGlobalStorageAttributes", "AdminGetRegisteredApplications", "AdminGetApplicationAttributes",
			"AdminRemoveApplication", "AddStorageEaclEntry", "EnumerateStorageEaclEntries", "GetStorageEaclEntry", "RemoveStorageEaclEntry",
			"AddStorageFpaclEntry", "EnumerateStorageAllocEntries", "GetStorageAllocEntry", "UpdateStorageFpaclEntry", "RemoveStorageFpaclEntry"},
	}
	for uri, names := range want {
		var got []string
		for _, m := range classOf[uri].methods {
			got = append(got, m.name)
		}
		if d := cmp.Diff(names, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", uri, d)
		}
	}
}

func TestMethodsWithoutSession(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	play(t, s.local, sto, []step{
		{nil, "GetMTU", nil, "Mtu=4096 ReturnValue=0"},
		{nil, "GetTimeoutValues", nil, "RegistrationTimeout=1800 LockTimeout=60 ReturnValue=0"},
		{nil, "GetWriteEraseLimit", nil, "WriteEraseLimit=10000 ReturnValue=0"},
	})
}

func TestRegisterApplication(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	long := strings.Repeat("x", 65)
	reg := func(id, vendor, app, ent string) []string {
		return []string{"CallerUUID", id, "VendorName", vendor, "ApplicationName", app, "EnterpriseName", ent}
	}
	play(t, s.local, sto, []step{
		{nil, "RegisterApplication", reg(testUUID, "V", "A", "Nobody"), rv(9)},
		{nil, "RegisterApplication", reg(testUUID, "V", "A", "corp"), rv(9)},
		{nil, "RegisterApplication", reg(testUUID, "", "A", "Corp"), rv(9)},
		{nil, "RegisterApplication", reg(testUUID, "V", "", "Corp"), rv(9)},
		{nil, "RegisterApplication", reg(testUUID, "V", "A", ""), rv(9)},
		{nil, "RegisterApplication", reg(testUUID, long, "A", "Corp"), rv(9)},
		{nil, "RegisterApplication", reg(testUUID, "V", long, "Corp"), rv(9)},
		{nil, "RegisterApplication", reg(testUUID[1:], "V", "A", "Corp"), "e:SchemaValidationError"},
		{nil, "RegisterApplication", reg("13AEE355-D2BF-BB61-17A0-88AEDD7037EA", "V", "A", "Corp"), "e:SchemaValidationError"},
		{nil, "RegisterApplication", reg("G"+testUUID[1:], "V", "A", "Corp"), "e:SchemaValidationError"},
	})
	if n := len(s.d.Snapshot().Applications); n != 0 {
		t.Fatalf("%d applications after refused registrations", n)
	}
	limit := strings.Repeat("ü", 64)
	s.local.register(testUUID, limit, limit, "Corp")

	a := s.local.register(testUUID, "V", "A", "Corp")
	if len(a.session) != 16 || strings.ToUpper(a.session) != a.session {
		t.Errorf("session handle %q", a.session)
	}
	// The same data from the other interface is refused for ever; other data is another instance.
	play(t, s.network, sto, []step{{nil, "RegisterApplication", reg(testUUID, "V", "A", "Corp"), rv(9)}})
	a.must("UnregisterApplication")
	play(t, s.network, sto, []step{{nil, "RegisterApplication", reg(testUUID, "V", "A", "Corp"), rv(9)}})
	other := s.network.register(uuidOf(2), "V", "A", "Corp")
	// A session belongs to the interface that opened it.
	play(t, s.local, sto, []step{{nil, "GetBytesAvailable", []string{"SessionHandle", other.session}, rv(8)}})

	// Registering again gives the same application another session, and ends the old one with its locks.
	a = s.local.register(testUUID, "V", "A", "Corp")
	block := a.block("b", false)
	a.must("LockBlock", "BlockHandle", block)
	again := s.local.register(testUUID, "V", "A", "Corp")
	if again.handle != a.handle || again.session == a.session {
		t.Errorf("registered again: handle %s then %s, session %s then %s", a.handle, again.handle, a.session, again.session)
	}
	play(t, s.local, sto, []step{
		{a, "GetBytesAvailable", nil, rv(8)},
		{again, "UnlockBlock", []string{"BlockHandle", block}, rv(19)},
	})
}

func TestSessionsAreLimited(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	var all []*instanceOf
	for i := range 16 {
		all = append(all, s.local.register(uuidOf(i+1), "V", "A", "Corp"))
	}
	reg := []string{"CallerUUID", uuidOf(99), "VendorName", "V", "ApplicationName", "A", "EnterpriseName", "Corp"}
	play(t, s.local, sto, []step{{nil, "RegisterApplication", reg, rv(23)}})
	if n := len(s.d.Snapshot().Applications); n != 16 {
		t.Errorf("%d applications after a refused seventeenth session", n)
	}
	s.local.register(uuidOf(1), "V", "A", "Corp") // taking one's own place again
	all[5].must("UnregisterApplication")
	s.local.must(sto, "RegisterApplication", reg...)
}

func TestApplications(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(uuidOf(1), "V", "A", "Corp")
	b := s.local.register(uuidOf(2), "V", "B", "Corp")
	c := s.local.register(uuidOf(3), "W", "A", "Corp")
	play(t, s.local, sto, []step{
		{a, "GetRegisteredApplications", nil, "AppHandles=1 AppHandles=2 ReturnValue=0"},
		{c, "GetRegisteredApplications", nil, "AppHandles=3 ReturnValue=0"},
		{a, "GetCurrentApplicationHandle", nil, "ApplicationHandle=1 ReturnValue=0"},
		{a, "GetApplicationAttributes", []string{"ApplicationBeingRequested", b.handle}, "VendorName=V ApplicationName=B ReturnValue=0"},
		{a, "GetApplicationAttributes", []string{"ApplicationBeingRequested", c.handle}, rv(10)},
		{a, "GetApplicationAttributes", []string{"ApplicationBeingRequested", "77"}, rv(10)},
	})
	// Unregistering keeps the application and its data.
	block := a.block("kept", false)
	a.must("UnregisterApplication")
	play(t, s.local, sto, []step{
		{a, "GetBytesAvailable", nil, rv(8)},
		{a, "UnregisterApplication", nil, rv(8)},
		{b, "GetRegisteredApplications", nil, "AppHandles=1 AppHandles=2 ReturnValue=0"},
		{b, "GetAllocatedBlocks", []string{"BlockOwnerApplication", a.handle}, "BlockHandles=" + block + " ReturnValue=0"},
	})
	// Removing frees blocks, and leaves other owners' groups.
	mine := b.block("shared", false)
	group := b.must("AddPermissionsGroup", "BlockHandle", mine, "GroupPermissions", "1").get("GroupHandle")
	b.must("AddPermissionsGroupMembers", "BlockHandle", mine, "GroupHandle", group, "MemberHandles", a.handle, "MemberHandles", c.handle)
	a = s.local.register(uuidOf(1), "V", "A", "Corp")
	play(t, s.local, sto, []step{
		{a, "RemoveApplication", nil, rv(0)},
		{a, "RemoveApplication", nil, rv(8)},
		{b, "GetPermissionsGroupMembers", []string{"BlockHandle", mine, "GroupHandle", group}, "MemberHandles=3 ReturnValue=0"},
		{b, "GetBlockAttributes", []string{"BlockHandle", block}, rv(13)},
		{b, "GetAllocatedBlocks", []string{"BlockOwnerApplication", a.handle}, rv(10)},
	})
	// A handle is not given out twice.
	if again := s.local.register(uuidOf(1), "V", "A", "Corp"); again.handle != "4" {
		t.Errorf("handle %s after 1 to 3", again.handle)
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(uuidOf(1), "V", "A", "Corp")
	other := s.local.register(uuidOf(2), "V", "B", "Corp")
	alloc := func(size, hidden string, name ...string) []string {
		args := []string{"BytesRequested", size, "BlockHidden", hidden}
		for _, n := range name {
			args = append(args, "BlockName", n)
		}
		return args
	}
	play(t, s.local, sto, []step{
		{a, "AllocateBlock", alloc("0", "false", "x"), rv(15)},
		{a, "AllocateBlock", alloc("4095", "false", "x"), rv(15)},
		{a, "AllocateBlock", alloc("4096", "no", "x"), "e:SchemaValidationError"},
		{a, "AllocateBlock", alloc("4096", "false", strings.Repeat("n", 33)), rv(12)},
		{a, "AllocateBlock", alloc("4096", "false", strings.Repeat("n", 32)), "BlockHandle=1 ReturnValue=0"},
		{a, "AllocateBlock", alloc("8192", "1"), "BlockHandle=2 ReturnValue=0"},
		{a, "AllocateBlock", alloc("4096", "0", strings.Repeat("n", 32)), "BlockHandle=3 ReturnValue=0"}, // names need not differ
		{a, "GetAllocatedBlocks", []string{"BlockOwnerApplication", a.handle}, "BlockHandles=1 BlockHandles=2 BlockHandles=3 ReturnValue=0"},
		{other, "GetAllocatedBlocks", []string{"BlockOwnerApplication", a.handle}, "BlockHandles=1 BlockHandles=3 ReturnValue=0"},
		{other, "GetAllocatedBlocks", []string{"BlockOwnerApplication", other.handle}, rv(0)},
		{other, "GetAllocatedBlocks", []string{"BlockOwnerApplication", "9"}, rv(10)},
		{a, "GetBlockAttributes", []string{"BlockHandle", "2"}, "BlockSize=8192 BlockHidden=true BlockName= ReturnValue=0"},
		{other, "GetBlockAttributes", []string{"BlockHandle", "2"}, rv(13)},
		{other, "GetBlockAttributes", []string{"BlockHandle", "3"}, "BlockSize=4096 BlockHidden=false BlockName=" + strings.Repeat("n", 32) + " ReturnValue=0"},
		{a, "GetBlockAttributes", []string{"BlockHandle", "4"}, rv(13)},
		{a, "SetBlockName", []string{"BlockHandle", "2", "BlockName", "<&> \"ü\""}, rv(0)},
		{a, "SetBlockName", []string{"BlockHandle", "2", "BlockName", strings.Repeat("n", 33)}, rv(12)},
		{other, "SetBlockName", []string{"BlockHandle", "1", "BlockName", "mine"}, rv(17)},
		{other, "SetBlockName", []string{"BlockHandle", "2", "BlockName", "mine"}, rv(13)},
		{a, "GetBlockAttributes", []string{"BlockHandle", "2"}, `BlockSize=8192 BlockHidden=true BlockName=<&> "ü" ReturnValue=0`},
		{other, "SetBlockVisibility", []string{"BlockHandle", "1", "BlockHidden", "true"}, rv(17)},
		{a, "SetBlockVisibility", []string{"BlockHandle", "1", "BlockHidden", "true"}, rv(0)},
		{other, "GetBlockAttributes", []string{"BlockHandle", "1"}, rv(13)},
		{a, "SetBlockVisibility", []string{"BlockHandle", "1", "BlockHidden", "0"}, rv(0)},
		{other, "DeallocateBlock", []string{"BlockHandle", "1"}, rv(17)},
		{other, "DeallocateBlock", []string{"BlockHandle", "2"}, rv(13)},
		{a, "DeallocateBlock", []string{"BlockHandle", "1"}, rv(0)},
		{a, "DeallocateBlock", []string{"BlockHandle", "1"}, rv(13)},
		{a, "AllocateBlock", alloc("4096", "false"), "BlockHandle=4 ReturnValue=0"},
	})
}

func TestReadAndWrite(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(uuidOf(1), "V", "A", "Corp")
	other := s.local.register(uuidOf(2), "V", "B", "Corp")
	b := a.must("AllocateBlock", "BytesRequested", "8192", "BlockHidden", "false").get("BlockHandle")
	read := func(offset, count int) []string {
		return []string{"BlockHandle", b, "ByteOffset", strconv.Itoa(offset), "ByteCount", strconv.Itoa(count)}
	}
	write := func(offset int, data string) []string {
		return []string{"BlockHandle", b, "ByteOffset", strconv.Itoa(offset), "Data", data}
	}
	ff := strings.Repeat("\xff", 4096)
	full := strings.Repeat("x", 4096)
	play(t, s.local, sto, []step{
		{a, "ReadBlock", read(0, 16), "Data=/////////////////////w== ReturnValue=0"}, // as in the reference
		{a, "ReadBlock", read(4096, 4096), "Data=" + b64(ff) + " ReturnValue=0"},
		{a, "ReadBlock", read(0, 4097), rv(15)},
		{a, "ReadBlock", read(0, 0), rv(15)},
		{a, "ReadBlock", read(8191, 1), "Data=" + b64("\xff") + " ReturnValue=0"},
		{a, "ReadBlock", read(8191, 2), rv(15)},
		{a, "ReadBlock", read(8192, 1), rv(14)},
		{a, "ReadBlock", []string{"BlockHandle", b, "ByteOffset", "4294967295", "ByteCount", "4294967295"}, rv(14)},
		{a, "ReadBlock", []string{"BlockHandle", b, "ByteOffset", "1", "ByteCount", "4294967295"}, rv(15)},
		{a, "ReadBlock", []string{"BlockHandle", "9", "ByteOffset", "0", "ByteCount", "1"}, rv(13)},
		{a, "WriteBlock", write(0, "aG9zdC1pZA=="), "BytesWritten=7 ReturnValue=0"},
		{a, "ReadBlock", read(0, 8), "Data=" + b64("host-id\xff") + " ReturnValue=0"},
		{a, "WriteBlock", write(5, b64("ID and more")), "BytesWritten=11 ReturnValue=0"},
		{a, "ReadBlock", read(4, 13), "Data=" + b64("-ID and more\xff") + " ReturnValue=0"},
		{a, "WriteBlock", write(4090, b64("across sectors")), "BytesWritten=14 ReturnValue=0"},
		{a, "ReadBlock", read(4089, 16), "Data=" + b64("\xffacross sectors\xff") + " ReturnValue=0"},
		{a, "WriteBlock", write(0, ""), "BytesWritten=0 ReturnValue=15"},
		{a, "WriteBlock", write(0, b64(full)), "BytesWritten=4096 ReturnValue=0"},
		{a, "WriteBlock", write(0, b64(full+"x")), "BytesWritten=0 ReturnValue=15"},
		{a, "WriteBlock", write(8190, b64("xyz")), "BytesWritten=0 ReturnValue=15"},
		{a, "WriteBlock", write(8192, b64("x")), "BytesWritten=0 ReturnValue=14"},
		{a, "WriteBlock", write(0, "not base64!"), "e:SchemaValidationError"},
		{a, "WriteBlock", write(0, "AB"), "e:SchemaValidationError"},
		{a, "WriteBlock", write(0, " eHl6\n "), "BytesWritten=3 ReturnValue=0"},
		{other, "ReadBlock", read(0, 1), rv(16)},
		{other, "WriteBlock", write(0, b64("x")), "BytesWritten=0 ReturnValue=16"},
	})
	if got, want := s.d.Snapshot().BlockWrites, uint64(5); got != want {
		t.Errorf("%d block writes counted, want %d", got, want)
	}
	// One sector each, but the one across two.
	s.local.must(sto, "GetMTU")
	if got := s.local.must(sto, "GetWriteEraseLimit").get("WriteEraseLimit"); got != "9994" {
		t.Errorf("WriteEraseLimit %s after 6 sectors", got)
	}
	// A block that is allocated again is erased.
	a.must("DeallocateBlock", "BlockHandle", b)
	b = a.must("AllocateBlock", "BytesRequested", "8192", "BlockHidden", "false").get("BlockHandle")
	play(t, s.local, sto, []step{{a, "ReadBlock", read(0, 3), "Data=////" + " ReturnValue=0"}})
}

func TestPermissionsGroups(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	owner := s.local.register(uuidOf(1), "V", "A", "Corp")
	sibling := s.local.register(uuidOf(2), "V", "A", "Corp")  // same program
	cousin := s.local.register(uuidOf(3), "V", "B", "Corp")   // same vendor
	stranger := s.local.register(uuidOf(4), "W", "A", "Corp") // same application name, another vendor
	b, hidden := owner.block("open", false), owner.block("hidden", true)
	args := func(block, group string, more ...string) []string {
		return append([]string{"BlockHandle", block, "GroupHandle", group}, more...)
	}
	read := func(b string) []string { return []string{"BlockHandle", b, "ByteOffset", "0", "ByteCount", "1"} }
	write := func(b string) []string { return []string{"BlockHandle", b, "ByteOffset", "0", "Data", "AA=="} }
	const app, vendor = "4294967280", "4294967281"
	play(t, s.local, sto, []step{
		{owner, "GetPermissionsGroups", []string{"BlockHandle", b}, rv(0)},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "0"}, rv(20)},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "3"}, rv(20)},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "1", "GroupName", strings.Repeat("g", 17)}, rv(12)},
		{sibling, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "1"}, rv(17)},
		{sibling, "AddPermissionsGroup", []string{"BlockHandle", hidden, "GroupPermissions", "1"}, rv(13)},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "1", "GroupName", "readers"}, "GroupHandle=1 ReturnValue=0"},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "2"}, "GroupHandle=2 ReturnValue=0"},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", b, "GroupPermissions", "1"}, rv(23)},
		{owner, "AddPermissionsGroup", []string{"BlockHandle", hidden, "GroupPermissions", "1", "GroupName", "h"}, "GroupHandle=3 ReturnValue=0"},
		{stranger, "GetPermissionsGroups", []string{"BlockHandle", b}, "GroupHandles=1 GroupHandles=2 ReturnValue=0"},
		{stranger, "GetPermissionsGroups", []string{"BlockHandle", hidden}, rv(13)},
		{stranger, "GetPermissionsGroupAttributes", args(b, "1"), "Name=readers Permissions=1 ReturnValue=0"},
		{stranger, "GetPermissionsGroupAttributes", args(b, "3"), rv(21)}, // a group belongs to one block
		{stranger, "GetPermissionsGroupAttributes", args(hidden, "3"), rv(13)},

		{owner, "AddPermissionsGroupMembers", args(b, "1"), rv(22)},
		{owner, "AddPermissionsGroupMembers", args(b, "9", "MemberHandles", app), rv(21)},
		{owner, "AddPermissionsGroupMembers", args(b, "1", "MemberHandles", "99"), rv(10)},
		{owner, "AddPermissionsGroupMembers", args(b, "1", "MemberHandles", "4294967295"), rv(10)},
		{sibling, "AddPermissionsGroupMembers", args(b, "1", "MemberHandles", app), rv(17)},
		{sibling, "ReadBlock", read(b), rv(16)},
		// By application name: every instance of the owner's program, and no other's.
		{owner, "AddPermissionsGroupMembers", args(b, "1", "MemberHandles", app), rv(0)},
		{sibling, "ReadBlock", read(b), "Data=/w== ReturnValue=0"},
		{sibling, "WriteBlock", write(b), "BytesWritten=0 ReturnValue=16"},
		{cousin, "ReadBlock", read(b), rv(16)},
		{stranger, "ReadBlock", read(b), rv(16)},
		// By vendor.
		{owner, "AddPermissionsGroupMembers", args(b, "1", "MemberHandles", vendor), rv(0)},
		{cousin, "ReadBlock", read(b), "Data=/w== ReturnValue=0"},
		{stranger, "ReadBlock", read(b), rv(16)},
		// By handle; the better of two groups counts.
		{owner, "AddPermissionsGroupMembers", args(b, "2", "MemberHandles", stranger.handle, "MemberHandles", cousin.handle), rv(0)},
		{stranger, "WriteBlock", write(b), "BytesWritten=1 ReturnValue=0"},
		{cousin, "WriteBlock", write(b), "BytesWritten=1 ReturnValue=0"},
		{stranger, "GetPermissionsGroupMembers", args(b, "2"), "MemberHandles=4 MemberHandles=3 ReturnValue=0"},
		{stranger, "GetPermissionsGroupMembers", args(b, "1"), "MemberHandles=4294967280 MemberHandles=4294967281 ReturnValue=0"},

		{owner, "SetPermissionsGroupPermissions", args(b, "2", "Permissions", "7"), rv(20)},
		{stranger, "SetPermissionsGroupPermissions", args(b, "2", "Permissions", "2"), rv(17)},
		{owner, "SetPermissionsGroupPermissions", args(b, "2", "Permissions", "1"), rv(0)},
		{stranger, "WriteBlock", write(b), "BytesWritten=0 ReturnValue=16"},
		{owner, "SetPermissionsGroupName", args(b, "2", "GroupName", strings.Repeat("g", 17)), rv(12)},
		{owner, "SetPermissionsGroupName", args(b, "2", "GroupName", strings.Repeat("g", 16)), rv(0)},
		{stranger, "SetPermissionsGroupName", args(b, "2", "GroupName", "x"), rv(17)},
		{owner, "GetPermissionsGroupAttributes", args(b, "2"), "Name=gggggggggggggggg Permissions=1 ReturnValue=0"},

		{owner, "RemovePermissionsGroupMembers", args(b, "2"), rv(22)},
		{owner, "RemovePermissionsGroupMembers", args(b, "2", "MemberHandles", "1"), rv(10)},
		{stranger, "RemovePermissionsGroupMembers", args(b, "2", "MemberHandles", "4"), rv(17)},
		{owner, "RemovePermissionsGroupMembers", args(b, "2", "MemberHandles", "4"), rv(0)},
		{stranger, "ReadBlock", read(b), rv(16)},
		{stranger, "RemovePermissionsGroup", args(b, "2"), rv(17)},
		{owner, "RemovePermissionsGroup", args(b, "2"), rv(0)},
		{owner, "RemovePermissionsGroup", args(b, "2"), rv(21)},
		{owner, "GetPermissionsGroups", []string{"BlockHandle", b}, "GroupHandles=1 ReturnValue=0"},

		// A hidden block does not exist for others; a group gives reading and writing, not sight.
		{sibling, "ReadBlock", read(hidden), rv(13)},
		{sibling, "LockBlock", []string{"BlockHandle", hidden}, rv(13)},
		{owner, "AddPermissionsGroupMembers", args(hidden, "3", "MemberHandles", sibling.handle), rv(0)},
		{sibling, "ReadBlock", read(hidden), "Data=/w== ReturnValue=0"},
		{sibling, "WriteBlock", write(hidden), "BytesWritten=0 ReturnValue=16"},
		{sibling, "GetBlockAttributes", []string{"BlockHandle", hidden}, rv(13)},
		{sibling, "GetAllocatedBlocks", []string{"BlockOwnerApplication", owner.handle}, "BlockHandles=" + b + " ReturnValue=0"},
		{sibling, "GetPermissionsGroupMembers", args(hidden, "3"), rv(13)},
	})
	// Eight members and no more; adding one twice changes nothing.
	group := owner.must("AddPermissionsGroup", "BlockHandle", b, "GroupPermissions", "1").get("GroupHandle")
	var eight []string
	for i := range 8 {
		eight = append(eight, "MemberHandles", s.local.register(uuidOf(10+i), "V", "M", "Corp").handle)
	}
	play(t, s.local, sto, []step{
		{owner, "AddPermissionsGroupMembers", args(b, group, append(slices.Clone(eight), "MemberHandles", app)...), rv(23)},
		{owner, "GetPermissionsGroupMembers", args(b, group), rv(0)},
		{owner, "AddPermissionsGroupMembers", args(b, group, append(slices.Clone(eight), eight...)...), rv(0)},
		{owner, "AddPermissionsGroupMembers", args(b, group, "MemberHandles", app), rv(23)},
	})
}

func TestLocks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(uuidOf(1), "V", "A", "Corp")
	o := s.local.register(uuidOf(2), "V", "A", "Corp")
	w := s.local.register(uuidOf(3), "W", "W", "Corp")
	b := a.block("b", false)
	g := a.must("AddPermissionsGroup", "BlockHandle", b, "GroupPermissions", "2").get("GroupHandle")
	a.must("AddPermissionsGroupMembers", "BlockHandle", b, "GroupHandle", g, "MemberHandles", o.handle)
	block := []string{"BlockHandle", b}
	read, write := append(slices.Clone(block), "ByteOffset", "0", "ByteCount", "1"), append(slices.Clone(block), "ByteOffset", "0", "Data", "AA==")
	play(t, s.local, sto, []step{
		{a, "UnlockBlock", block, rv(19)},
		{a, "LockBlock", block, rv(0)},
		{a, "LockBlock", block, rv(0)},
		{o, "LockBlock", block, rv(18)},
		{o, "UnlockBlock", block, rv(18)},
		{o, "ReadBlock", read, rv(18)},
		{o, "WriteBlock", write, "BytesWritten=0 ReturnValue=18"},
		{w, "LockBlock", block, rv(16)},
		{w, "UnlockBlock", block, rv(16)},
		{a, "WriteBlock", write, "BytesWritten=1 ReturnValue=0"},
		{a, "UnlockBlock", block, rv(0)},
		{o, "LockBlock", block, rv(0)},
		{a, "ReadBlock", read, rv(18)}, // the owner too
	})
	// Reading, writing and locking keep a lock alive; 60 idle seconds end it.
	for _, method := range []struct {
		name string
		args []string
	}{{"ReadBlock", read}, {"WriteBlock", write}, {"LockBlock", block}} {
		s.clock.add(59 * time.Second)
		o.must(method.name, method.args...)
	}
	s.clock.add(59 * time.Second)
	play(t, s.local, sto, []step{{a, "ReadBlock", read, rv(18)}})
	s.clock.add(time.Second)
	play(t, s.local, sto, []step{{a, "ReadBlock", read, "Data=AA== ReturnValue=0"}})
	// The end of the session ends its locks.
	o.must("LockBlock", block...)
	o.must("UnregisterApplication")
	a.must("ReadBlock", read...)
	// A lock does not keep the owner from deallocating.
	o = s.local.register(uuidOf(2), "V", "A", "Corp")
	o.must("LockBlock", block...)
	a.must("DeallocateBlock", block...)
}

func TestRegistrationTimeout(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(uuidOf(1), "V", "A", "Corp")
	b := a.block("b", false)
	s.clock.add(registrationTimeout - time.Second)
	a.must("GetBytesAvailable")
	s.clock.add(registrationTimeout - time.Second)
	a.must("LockBlock", "BlockHandle", b)
	s.clock.add(registrationTimeout)
	if a := s.d.Snapshot(); a.Applications[0].ActiveSession || a.Blocks[0].LockedBy != 0 {
		t.Errorf("idle session: %+v", a.Applications[0])
	}
	play(t, s.local, sto, []step{{a, "GetBytesAvailable", nil, rv(8)}})
	again := s.local.register(uuidOf(1), "V", "A", "Corp")
	if again.handle != a.handle {
		t.Errorf("handle %s, was %s", again.handle, a.handle)
	}
	again.must("GetBlockAttributes", "BlockHandle", b)
}

func TestEnterprises(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	play(t, s.network, adm, []step{
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "Corp"}, rv(2058)},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", ""}, rv(12)},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", strings.Repeat("e", 65)}, rv(12)},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "CORP"}, "Handle=2 ReturnValue=0"},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", strings.Repeat("e", 64)}, "Handle=3 ReturnValue=0"},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "D & E"}, "Handle=4 ReturnValue=0"},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "Fifth"}, rv(23)},
		{nil, "EnumerateStorageEaclEntries", nil, "Handles=1 Handles=2 Handles=3 Handles=4 ReturnValue=0"},
		{nil, "GetStorageEaclEntry", []string{"Handle", "4"}, "EnterpriseName=D & E ReturnValue=0"},
		{nil, "GetStorageEaclEntry", []string{"Handle", "5"}, rv(2053)},
		{nil, "RemoveStorageEaclEntry", []string{"Handle", "5"}, rv(2053)},
		{nil, "RemoveStorageEaclEntry", []string{"Handle", "2"}, rv(0)},
		{nil, "GetStorageEaclEntry", []string{"Handle", "2"}, rv(2053)},
		{nil, "AddStorageEaclEntry", []string{"EnterpriseName", "Fifth"}, "Handle=5 ReturnValue=0"},
	})
	a := s.local.register(testUUID, "V", "A", "Corp")
	a.must("UnregisterApplication")
	play(t, s.network, adm, []step{
		{nil, "RemoveStorageEaclEntry", []string{"Handle", "1"}, rv(2056)},
		{nil, "AdminRemoveApplication", []string{"Handle", a.handle}, rv(0)},
		{nil, "RemoveStorageEaclEntry", []string{"Handle", "1"}, rv(0)},
		{nil, "EnumerateStorageEaclEntries", nil, "Handles=3 Handles=4 Handles=5 ReturnValue=0"},
	})
}

func TestAllocationEntries(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	add := func(kind, app, vendor, partner, size string) []string {
		return []string{"AttrType", kind, "ApplicationName", app, "VendorName", vendor, "IsPartner", partner, "TotalAllocationSize", size}
	}
	long := strings.Repeat("n", 65)
	play(t, s.network, adm, []step{
		{nil, "EnumerateStorageAllocEntries", nil, rv(0)},
		{nil, "AddStorageFpaclEntry", add("0", "A", "V", "true", "8192"), rv(36)},
		{nil, "AddStorageFpaclEntry", add("1", "A", "V", "false", "8192"), rv(36)},
		{nil, "AddStorageFpaclEntry", add("1", "A", "V", "true", "8191"), rv(36)},
		{nil, "AddStorageFpaclEntry", add("1", "A", "V", "true", "0"), rv(36)},
		{nil, "AddStorageFpaclEntry", add("1", long, "V", "true", "8192"), rv(12)},
		{nil, "AddStorageFpaclEntry", add("1", "A", long, "true", "8192"), rv(12)},
		{nil, "AddStorageFpaclEntry", add("1", "", "V", "true", "8192"), rv(12)},
		{nil, "AddStorageFpaclEntry", add("1", "A", "V", "true", "8192"), "Handle=1 ReturnValue=0"},
		{nil, "AddStorageFpaclEntry", add("1", "A", "V", "1", "4096"), rv(2058)},
		{nil, "AddStorageFpaclEntry", add("1", "V", "A", "1", "4096"), "Handle=2 ReturnValue=0"},
		{nil, "GetStorageAllocEntry", []string{"Handle", "1"}, "AttrType=1 ApplicationName=A VendorName=V IsPartner=true TotalAllocationSize=8192 ReturnValue=0"},
		{nil, "GetStorageAllocEntry", []string{"Handle", "9"}, rv(2053)},
		{nil, "UpdateStorageFpaclEntry", []string{"Handle", "9", "NewAllocationSize", "4096"}, rv(2053)},
		{nil, "UpdateStorageFpaclEntry", []string{"Handle", "1", "NewAllocationSize", "4097"}, rv(36)},
		{nil, "UpdateStorageFpaclEntry", []string{"Handle", "1", "NewAllocationSize", "12288"}, rv(0)},
		{nil, "RemoveStorageFpaclEntry", []string{"Handle", "2"}, rv(0)},
		{nil, "RemoveStorageFpaclEntry", []string{"Handle", "2"}, rv(2053)},
	})
	// An application without a partner entry gets a NACL entry at its first registration, which goes with its last instance.
	n1 := s.local.register(uuidOf(1), "N", "N", "Corp")
	n2 := s.local.register(uuidOf(2), "N", "N", "Corp")
	a := s.local.register(uuidOf(3), "V", "A", "Corp")
	play(t, s.network, adm, []step{
		{nil, "EnumerateStorageAllocEntries", nil, "Handles=1 Handles=3 ReturnValue=0"},
		{nil, "GetStorageAllocEntry", []string{"Handle", "3"}, "AttrType=1 ApplicationName=N VendorName=N IsPartner=false TotalAllocationSize=49152 ReturnValue=0"},
		{nil, "AddStorageFpaclEntry", add("1", "N", "N", "true", "4096"), rv(2058)},
		{nil, "UpdateStorageFpaclEntry", []string{"Handle", "3", "NewAllocationSize", "4096"}, rv(36)},
		{nil, "RemoveStorageFpaclEntry", []string{"Handle", "3"}, rv(36)},
	})
	n1.must("RemoveApplication")
	play(t, s.network, adm, []step{{nil, "EnumerateStorageAllocEntries", nil, "Handles=1 Handles=3 ReturnValue=0"}})
	n2.must("RemoveApplication")
	a.block("1", false)
	a.block("2", false)
	play(t, s.network, adm, []step{
		{nil, "EnumerateStorageAllocEntries", nil, "Handles=1 ReturnValue=0"},
		// A partner entry stays while an application is registered, and shrinks only to what is used.
		{nil, "UpdateStorageFpaclEntry", []string{"Handle", "1", "NewAllocationSize", "4096"}, rv(36)},
		{nil, "UpdateStorageFpaclEntry", []string{"Handle", "1", "NewAllocationSize", "8192"}, rv(0)},
		{nil, "RemoveStorageFpaclEntry", []string{"Handle", "1"}, rv(2056)},
	})
	a.must("RemoveApplication")
	play(t, s.network, adm, []step{
		{nil, "EnumerateStorageAllocEntries", nil, "Handles=1 ReturnValue=0"},
		{nil, "RemoveStorageFpaclEntry", []string{"Handle", "1"}, rv(0)},
	})
	for i := range 24 {
		s.network.must(adm, "AddStorageFpaclEntry", add("1", fmt.Sprint("A", i), "V", "true", "4096")...)
	}
	play(t, s.network, adm, []step{{nil, "AddStorageFpaclEntry", add("1", "one more", "V", "true", "4096"), rv(23)}})
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.network.must(adm, "SetGlobalStorageAttributes", "MaxNonPartnerTotalAllocationSize", "12288")
	for _, e := range []struct{ app, size string }{{"P", "12288"}, {"Q", "196608"}} {
		s.network.must(adm, "AddStorageFpaclEntry", "AttrType", "1", "ApplicationName", e.app, "VendorName", "V", "IsPartner", "true", "TotalAllocationSize", e.size)
	}
	p1, p2 := s.local.register(uuidOf(1), "V", "P", "Corp"), s.local.register(uuidOf(2), "V", "P", "Corp")
	q, n := s.local.register(uuidOf(3), "V", "Q", "Corp"), s.local.register(uuidOf(4), "V", "N", "Corp")
	alloc := func(size string) []string { return []string{"BytesRequested", size, "BlockHidden", "false"} }
	play(t, s.local, sto, []step{
		{p1, "GetBytesAvailable", nil, "BytesAvailable=12288 ReturnValue=0"},
		{p1, "AllocateBlock", alloc("16384"), rv(11)},
		{p1, "AllocateBlock", alloc("8192"), "BlockHandle=1 ReturnValue=0"},
		{p2, "GetBytesAvailable", nil, "BytesAvailable=4096 ReturnValue=0"}, // the entry is the program's, not the instance's
		{p2, "AllocateBlock", alloc("8192"), rv(11)},
		{p2, "AllocateBlock", alloc("4096"), "BlockHandle=2 ReturnValue=0"},
		{p2, "GetBytesAvailable", nil, "BytesAvailable=0 ReturnValue=0"},
		{n, "GetBytesAvailable", nil, "BytesAvailable=12288 ReturnValue=0"},
		{n, "AllocateBlock", alloc("12288"), "BlockHandle=3 ReturnValue=0"},
		{n, "AllocateBlock", alloc("4096"), rv(11)},
		// Partners overflow into the non-partner area: 147456-12288 there, 49152-12288 here.
		{q, "GetBytesAvailable", nil, "BytesAvailable=172032 ReturnValue=0"},
		{q, "AllocateBlock", alloc("135168"), "BlockHandle=4 ReturnValue=0"},
		{q, "AllocateBlock", alloc("4096"), "BlockHandle=5 ReturnValue=0"},
		{q, "GetBytesAvailable", nil, "BytesAvailable=32768 ReturnValue=0"},
		{q, "AllocateBlock", alloc("36864"), rv(11)},
	})
	play(t, s.network, adm, []step{
		{nil, "GetGlobalStorageAttributes", nil, "TotalStorage=196608 TotalAllocatedStorage=163840 MaxPartnerStorage=147456 " +
			"TotalPartnerAllocatedStorage=147456 MaxNonPartnerStorage=49152 MaxFpaclEntries=24 MaxAslEntries=16 MaxEaclEntries=4 " +
			"MaxGroupsPerBlock=2 MaxMembersPerGroup=8 MaxNonPartnerTotalAllocationSize=12288 ReturnValue=0"},
		{nil, "SetGlobalStorageAttributes", nil, rv(0)},
		{nil, "SetGlobalStorageAttributes", []string{"MaxPartnerStorage", "4097"}, rv(36)},
		{nil, "SetGlobalStorageAttributes", []string{"MaxNonPartnerTotalAllocationSize", "100"}, rv(36)},
		{nil, "SetGlobalStorageAttributes", []string{"MaxPartnerStorage", "143360"}, rv(36)}, // less than is allocated
		{nil, "SetGlobalStorageAttributes", []string{"MaxPartnerStorage", "200704"}, rv(36)}, // more than there is
		{nil, "SetGlobalStorageAttributes", []string{"MaxPartnerStorage", "184320"}, rv(36)}, // leaves too little for others
		{nil, "SetGlobalStorageAttributes", []string{"MaxPartnerStorage", "151552", "MaxNonPartnerTotalAllocationSize", "45056"}, rv(0)},
		{nil, "SetGlobalStorageAttributes", []string{"MaxNonPartnerTotalAllocationSize", "45056", "MaxPartnerStorage", "151552"}, "e:SchemaValidationError"},
	})
	if got := s.network.must(adm, "GetGlobalStorageAttributes"); got.get("MaxNonPartnerStorage") != "45056" || got.get("MaxPartnerStorage") != "151552" {
		t.Errorf("after SetGlobalStorageAttributes: %s", got.outputs())
	}
	areas := map[uint32]string{}
	for _, b := range s.d.Snapshot().Blocks {
		areas[b.Handle] = b.Area
	}
	if d := cmp.Diff(map[uint32]string{1: "partner", 2: "partner", 3: "non-partner", 4: "partner", 5: "non-partner"}, areas); d != "" {
		t.Errorf("areas (-want +got):\n%s", d)
	}
}

func TestAdministrationOfApplications(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.network.must(adm, "AddStorageFpaclEntry", "AttrType", "1", "ApplicationName", "HostIdent", "VendorName", "Example", "IsPartner", "true", "TotalAllocationSize", "49152")
	play(t, s.network, adm, []step{
		{nil, "AdminGetRegisteredApplications", nil, rv(0)},
		{nil, "AdminGetApplicationAttributes", []string{"Handle", "1"}, rv(10)},
		{nil, "AdminRemoveApplication", []string{"Handle", "1"}, rv(10)},
	})
	a := s.local.register(testUUID, "Example", "HostIdent", "Corp")
	b := a.block("host-id", false)
	s.local.register(uuidOf(5), "V", "N", "Corp")
	play(t, s.network, adm, []step{
		{nil, "AdminGetRegisteredApplications", nil, "ApplicationHandles=1 ApplicationHandles=2 ReturnValue=0"},
		{nil, "AdminGetApplicationAttributes", []string{"Handle", "1"}, "AttrType=1 UUID=E67jVdK/u2EXoIiu3XA36g== VendorName=Example " +
			"ApplicationName=HostIdent EnterpriseName=Corp CurrentAllocationSize=4096 ActiveSession=true Partner=true ReturnValue=0"},
	})
	a.must("UnregisterApplication")
	play(t, s.network, adm, []step{
		{nil, "AdminGetApplicationAttributes", []string{"Handle", "1"}, "AttrType=1 UUID=E67jVdK/u2EXoIiu3XA36g== VendorName=Example " +
			"ApplicationName=HostIdent EnterpriseName=Corp CurrentAllocationSize=4096 ActiveSession=false Partner=true ReturnValue=0"},
		{nil, "AdminRemoveApplication", []string{"Handle", "1"}, rv(0)},
		{nil, "AdminGetApplicationAttributes", []string{"Handle", "1"}, rv(10)},
		{nil, "AdminGetRegisteredApplications", nil, "ApplicationHandles=2 ReturnValue=0"},
	})
	for _, left := range s.d.Snapshot().Blocks {
		t.Errorf("block %d (of %s) is left", left.Handle, b)
	}
	// What the removal frees may be registered again, from the other side too.
	s.network.register(testUUID, "Example", "HostIdent", "Corp")
}

func TestApplicationsAreLimited(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range maxApplications {
		s.local.register(uuidOf(i+1), "V", "A", "Corp").must("UnregisterApplication")
	}
	play(t, s.local, sto, []step{{nil, "RegisterApplication",
		[]string{"CallerUUID", uuidOf(99), "VendorName", "V", "ApplicationName", "A", "EnterpriseName", "Corp"}, rv(23)}})
}

func TestWearOut(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	a := s.local.register(uuidOf(1), "V", "A", "Corp")
	b := a.block("b", false)
	s.d.mu.Lock()
	s.d.mem.Writes = writeEraseLimit - 2
	s.d.mu.Unlock()
	write := []string{"BlockHandle", b, "ByteOffset", "0", "Data", "AA=="}
	play(t, s.local, sto, []step{
		{nil, "GetWriteEraseLimit", nil, "WriteEraseLimit=2 ReturnValue=0"},
		{a, "WriteBlock", write, "BytesWritten=1 ReturnValue=0"},
		{a, "WriteBlock", write, "BytesWritten=1 ReturnValue=0"},
		{a, "WriteBlock", write, "BytesWritten=0 ReturnValue=38"},
		{nil, "GetWriteEraseLimit", nil, "WriteEraseLimit=0 ReturnValue=0"},
		{a, "ReadBlock", []string{"BlockHandle", b, "ByteOffset", "0", "ByteCount", "1"}, "Data=AA== ReturnValue=0"},
	})
	s.clock.add(wearRecovery / 2)
	a = s.local.register(uuidOf(1), "V", "A", "Corp")
	play(t, s.local, sto, []step{{a, "WriteBlock", write, "BytesWritten=0 ReturnValue=38"}})
	s.clock.add(wearRecovery / 2)
	play(t, s.local, sto, []step{
		{a, "WriteBlock", write, "BytesWritten=1 ReturnValue=0"},
		{nil, "GetWriteEraseLimit", nil, "WriteEraseLimit=9999 ReturnValue=0"},
	})
}

// TestInputSchema: the firmware insists on order, presence and type, and on nothing else.
func TestInputSchema(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ok := "ReturnValue"
	bad := "e:SchemaValidationError"
	for _, test := range []struct{ name, body, want string }{
		{"as the reference has it", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>1</r:Handle></r:GetStorageEaclEntry_INPUT>`, ok},
		{"another prefix", `<h:GetStorageEaclEntry_INPUT xmlns:h="` + adm + `"><h:Handle>1</h:Handle></h:GetStorageEaclEntry_INPUT>`, ok},
		{"default namespace", `<GetStorageEaclEntry_INPUT xmlns="` + adm + `"><Handle>1</Handle></GetStorageEaclEntry_INPUT>`, ok},
		{"two prefixes", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><x:Handle xmlns:x="` + adm + `">1</x:Handle></r:GetStorageEaclEntry_INPUT>`, ok},
		{"without _INPUT", `<r:GetStorageEaclEntry xmlns:r="` + adm + `"><r:Handle>1</r:Handle></r:GetStorageEaclEntry>`, ok},
		{"white space", "\n <r:GetStorageEaclEntry_INPUT xmlns:r='" + adm + "' >\n\t<r:Handle> 1\n</r:Handle>\n</r:GetStorageEaclEntry_INPUT>\n", ok},
		{"comments and CDATA", `<!-- x --><r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><!-- y --><r:Handle><![CDATA[1]]></r:Handle></r:GetStorageEaclEntry_INPUT>`, ok},
		{"character reference", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>&#x31;</r:Handle></r:GetStorageEaclEntry_INPUT>`, ok},
		{"no namespace", `<GetStorageEaclEntry_INPUT xmlns=""><Handle>1</Handle></GetStorageEaclEntry_INPUT>`, bad},
		{"parameter in no namespace", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><Handle xmlns="">1</Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"another class's namespace", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + sto + `"><r:Handle>1</r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"another method's input", `<r:AddStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>1</r:Handle></r:AddStorageEaclEntry_INPUT>`, bad},
		{"missing", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"></r:GetStorageEaclEntry_INPUT>`, bad},
		{"no body", ``, bad},
		{"empty", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle></r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"twice", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>1</r:Handle><r:Handle>1</r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"unknown", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>1</r:Handle><r:More>1</r:More></r:GetStorageEaclEntry_INPUT>`, bad},
		{"nested", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle><r:Handle>1</r:Handle></r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"not a number", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>one</r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"negative", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>-1</r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
		{"beyond uint32", `<r:GetStorageEaclEntry_INPUT xmlns:r="` + adm + `"><r:Handle>4294967296</r:Handle></r:GetStorageEaclEntry_INPUT>`, bad},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t, s.d.NetworkURL())
			a := c.send(adm+"/GetStorageEaclEntry", adm, "", test.body)
			if got := a.outputs(); got != test.want && !(test.want == ok && got == "EnterpriseName=Corp ReturnValue=0") {
				t.Errorf("got %s", got)
			}
		})
	}
	// Order is the MOF's: the reverse of another method's order here.
	c := s.network
	play(t, c, adm, []step{{nil, "AddStorageFpaclEntry",
		[]string{"AttrType", "1", "VendorName", "V", "ApplicationName", "A", "IsPartner", "true", "TotalAllocationSize", "4096"}, bad}})
	// Methods without input take no element, an empty one, and one without _INPUT.
	for _, body := range []string{"", input(sto, "GetMTU"), `<h:GetMTU xmlns:h="` + sto + `"/>`, `<h:GetMTU_INPUT xmlns:h="` + sto + `"/>`} {
		if got := c.send(sto+"/GetMTU", sto, "", body).outputs(); got != "Mtu=4096 ReturnValue=0" {
			t.Errorf("GetMTU with body %q: %s", body, got)
		}
	}
	if got := c.send(sto+"/GetMTU", sto, "", `<h:GetMTU xmlns:h="`+sto+`">x</h:GetMTU>`).outputs(); got != bad {
		t.Errorf("GetMTU with text: %s", got)
	}
}

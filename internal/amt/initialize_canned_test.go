package amt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/wsman"
)

// pc1 is what healthy says of itself; how it is set up is not asked.
var pc1 = About{PlatformGUID: "13AEE355D2BFBB6117A088AEDD7037EA", Version: "11.8.50", ProvisioningState: -1, ProvisioningMode: -1}

// setUp is pc1 where that was asked.
func setUp() About {
	a := pc1
	a.ProvisioningState, a.ProvisioningMode = 2, 1
	return a
}

func TestInitializeOfAnInitializedDeviceOnlyReads(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(context.Context, *wsman.Client, string) (Result, error){"Initialize": Initialize, "Inspect": Inspect} {
		c := healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": says(handleList(3) + returns(0)),
			"GetStorageEaclEntry": func(_ int, in []wsman.Param) any {
				return "<EnterpriseName>" + []string{"Virtualization", DefaultEnterprise, "Other"}[atoi(in[0].Value)-1] + "</EnterpriseName>" + returns(0)
			},
		})
		got, err := run(t.Context(), c.client(t), DefaultEnterprise)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := Result{About: pc1, Registered: true, Enterprises: []string{"Virtualization", "samehost"}}
		if name == "Inspect" {
			want.Enterprises = append(want.Enterprises, "Other")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !got.AlreadyInitialized() {
			t.Errorf("%s: not already initialized", name)
		}
		const admin = "AMT_ThirdPartyDataStorageAdministrationService."
		wantCalls := []string{
			admin + "EnumerateStorageEaclEntries()",
			"Get CIM_SoftwareIdentity", "Get CIM_ComputerSystemPackage",
			admin + "GetStorageEaclEntry(Handle=1)", admin + "GetStorageEaclEntry(Handle=2)",
			admin + "EnumerateStorageAllocEntries()", admin + "GetStorageAllocEntry(Handle=5)",
			admin + "AdminGetRegisteredApplications()", admin + "AdminGetApplicationAttributes(Handle=9)",
		}
		if name == "Inspect" { // the build number, and who else holds a place
			wantCalls = slices.Insert(wantCalls, 3, "Get CIM_SoftwareIdentity")
			wantCalls = slices.Insert(wantCalls, 6, admin+"GetStorageEaclEntry(Handle=3)")
		}
		if diff := cmp.Diff(wantCalls, c.made()); diff != "" {
			t.Errorf("%s calls (-want +got):\n%s", name, diff)
		}
	}
}

// blank is a device that nobody uses: the arrays are absent. It takes what is added.
func blank() *canned {
	var enterprises, allocations []string
	return healthy.with(map[string]answer{
		"EnumerateStorageEaclEntries": func(int, []wsman.Param) any {
			return handleList(len(enterprises)) + returns(0)
		},
		"GetStorageEaclEntry": func(_ int, in []wsman.Param) any {
			return "<EnterpriseName>" + enterprises[atoi(in[0].Value)-1] + "</EnterpriseName>" + returns(0)
		},
		"AddStorageEaclEntry": func(_ int, in []wsman.Param) any {
			enterprises = append(enterprises, in[0].Value)
			return fmt.Sprintf("<Handle>%d</Handle>", len(enterprises)) + returns(0)
		},
		"EnumerateStorageAllocEntries": func(int, []wsman.Param) any {
			return handleList(len(allocations)) + returns(0)
		},
		"GetStorageAllocEntry": func(_ int, in []wsman.Param) any { return allocations[atoi(in[0].Value)-1] },
		"AddStorageFpaclEntry": func(_ int, in []wsman.Param) any {
			allocations = append(allocations, allocEntry(in[1].Value, in[2].Value, true, atoi(in[4].Value)))
			return fmt.Sprintf("<Handle>%d</Handle>", len(allocations)) + returns(0)
		},
		"AdminGetRegisteredApplications": says("<ApplicationHandles></ApplicationHandles>" + returns(0)),
	})
}

func handleList(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<Handles>%d</Handles>", i+1)
	}
	return b.String()
}

func atoi(s string) int {
	n, err := parseUint32(s)
	if err != nil {
		panic(err)
	}
	return int(n)
}

// changes are the calls that change something, and any of the storage class.
func changes(calls []string) (got []string) {
	for _, c := range calls {
		_, method, ok := strings.Cut(c, ".")
		if ok && !strings.HasPrefix(method, "Get") && !strings.HasPrefix(method, "Enumerate") && !strings.HasPrefix(method, "AdminGet") ||
			strings.Contains(c, storageClass+".") {
			got = append(got, method)
		}
	}
	return got
}

func TestInitializeAddsWhatIsMissingInMOFOrder(t *testing.T) {
	t.Parallel()
	const addEnterprise = "AddStorageEaclEntry(EnterpriseName=Example Corp)"
	const addAllocation = "AddStorageFpaclEntry(AttrType=1, ApplicationName=samehost, VendorName=samehost, IsPartner=true, TotalAllocationSize=8192)"
	c := blank()
	client := c.client(t)

	foreseen, err := Inspect(t.Context(), client, "Example Corp")
	if err != nil || len(changes(c.made())) != 0 {
		t.Fatalf("Inspect: %v, changes %q", err, changes(c.made()))
	}
	got, err := Initialize(t.Context(), client, "Example Corp")
	if err != nil {
		t.Fatal(err)
	}
	want := Result{About: setUp(), EnterpriseAdded: true, AllocationAdded: true, Enterprises: []string{"Example Corp"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want.Enterprises = []string{}
	if diff := cmp.Diff(want, foreseen); diff != "" {
		t.Errorf("Inspect (-want +got):\n%s", diff)
	}
	if got := changes(c.made()); !slices.Equal(got, []string{addEnterprise, addAllocation}) {
		t.Errorf("changes %q", got)
	}
	// Each is read back under the handle that the device named.
	made := c.made()
	const admin = "AMT_ThirdPartyDataStorageAdministrationService."
	wantLast := []string{admin + addEnterprise, admin + addAllocation, admin + "GetStorageEaclEntry(Handle=1)", admin + "GetStorageAllocEntry(Handle=1)"}
	if diff := cmp.Diff(wantLast, made[len(made)-len(wantLast):]); diff != "" {
		t.Errorf("the last calls (-want +got):\n%s", diff)
	}

	again, err := Initialize(t.Context(), client, "Example Corp")
	if err != nil || !again.AlreadyInitialized() {
		t.Errorf("again: %+v, %v", again, err)
	}
	if got := changes(c.made()); len(got) != 2 {
		t.Errorf("changes after the second run: %q", got)
	}
}

func TestInitializeAgainstOddLists(t *testing.T) {
	t.Parallel()
	vanished := says(returns(StatusInvalidHandle))
	ours := allocEntry(Application, Vendor, true, 8192)
	for _, test := range []struct {
		name    string
		device  *canned
		want    Result // without About and Enterprises
		changes []string
	}{
		{"entries vanish between list and reading", blank().with(map[string]answer{
			"EnumerateStorageEaclEntries": func(n int, _ []wsman.Param) any {
				return []string{"<Handles>7</Handles>", "<Handles>7</Handles><Handles>8</Handles>"}[min(n, 1)] + returns(0)
			},
			"GetStorageEaclEntry": func(_ int, in []wsman.Param) any {
				if in[0].Value == "7" {
					return returns(StatusInvalidHandle)
				}
				return "<EnterpriseName>samehost</EnterpriseName>" + returns(0)
			},
			"EnumerateStorageAllocEntries": says("<Handles>1</Handles><Handles>2</Handles>" + returns(0)),
			"GetStorageAllocEntry": func(_ int, in []wsman.Param) any {
				if in[0].Value == "1" {
					return returns(StatusInvalidHandle)
				}
				return ours
			},
			"AdminGetRegisteredApplications": says("<ApplicationHandles>1</ApplicationHandles>" + returns(0)),
			"AdminGetApplicationAttributes":  says(returns(StatusApplicationDoesNotExist)),
		}), Result{EnterpriseAdded: true}, []string{"AddStorageEaclEntry"}},
		{"another adds both meanwhile", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "<Handles>2</Handles>"}[min(n, 1)] + returns(0)
			},
			"AddStorageEaclEntry": says(returns(StatusDuplicate)),
			"EnumerateStorageAllocEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "<Handles>5</Handles>"}[min(n, 1)] + returns(0)
			},
			"AddStorageFpaclEntry": says(returns(StatusDuplicate)),
		}), Result{Registered: true}, []string{"AddStorageEaclEntry", "AddStorageFpaclEntry"}},
		{"another takes the last place, for the same enterprise", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "<Handles>2</Handles>"}[min(n, 1)] + returns(0)
			},
			"AddStorageEaclEntry": says(returns(StatusMaxLimitReached)),
		}), Result{Registered: true}, []string{"AddStorageEaclEntry"}},
		{"what was added is removed at once: a second round", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "", "<Handles>2</Handles>"}[min(n, 2)] + returns(0)
			},
			"AddStorageEaclEntry": says("<Handle>3</Handle>" + returns(0)),
			"GetStorageEaclEntry": func(_ int, in []wsman.Param) any {
				if in[0].Value == "3" {
					return returns(StatusInvalidHandle)
				}
				return "<EnterpriseName>samehost</EnterpriseName>" + returns(0)
			},
		}), Result{EnterpriseAdded: true, Registered: true}, []string{"AddStorageEaclEntry", "AddStorageEaclEntry"}},
		{"the new handles are not told", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "<Handles>2</Handles>"}[min(n, 1)] + returns(0)
			},
			"AddStorageEaclEntry": says(returns(0)),
			"EnumerateStorageAllocEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "<Handles>5</Handles>"}[min(n, 1)] + returns(0)
			},
			"AddStorageFpaclEntry": says("<Handle>4294967296</Handle>" + returns(0)),
		}), Result{EnterpriseAdded: true, AllocationAdded: true, Registered: true}, []string{"AddStorageEaclEntry", "AddStorageFpaclEntry"}},
		{"another's entry is under the new handle", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": func(n int, _ []wsman.Param) any {
				return []string{"", "<Handles>1</Handles><Handles>2</Handles>"}[min(n, 1)] + returns(0)
			},
			"AddStorageEaclEntry": says("<Handle>1</Handle>" + returns(0)),
		}), Result{EnterpriseAdded: true, Registered: true}, []string{"AddStorageEaclEntry"}},
		{"the entry is larger than needed", healthy.with(map[string]answer{
			"GetStorageAllocEntry": says(allocEntry(Application, Vendor, true, 49152)),
		}), Result{Registered: true}, nil},
		{"the entry is too small", healthy.with(map[string]answer{
			"GetStorageAllocEntry": func(n int, _ []wsman.Param) any {
				return allocEntry(Application, Vendor, true, []int{4096, 4096, 8192}[min(n, 2)])
			},
			"UpdateStorageFpaclEntry": says(returns(0)),
		}), Result{AllocationEnlarged: true, Registered: true}, []string{"UpdateStorageFpaclEntry"}},
		{"the handle of the entry that is too small changes hands", healthy.with(map[string]answer{
			"GetStorageAllocEntry": func(n int, _ []wsman.Param) any {
				if n == 0 {
					return allocEntry(Application, Vendor, true, 4096)
				}
				if n == 1 {
					return allocEntry("another", "vendor", true, 4096)
				}
				return ours
			},
			"UpdateStorageFpaclEntry": says(returns(0)),
		}), Result{Registered: true}, nil},
		{"the entry that is too small is gone", healthy.with(map[string]answer{
			"GetStorageAllocEntry": func(n int, in []wsman.Param) any {
				switch {
				case in[0].Value == "6":
					return ours
				case n == 0:
					return allocEntry(Application, Vendor, true, 4096)
				}
				return returns(StatusInvalidHandle)
			},
			"EnumerateStorageAllocEntries": func(n int, _ []wsman.Param) any {
				return []string{"<Handles>5</Handles>", "", "<Handles>6</Handles>"}[min(n, 2)] + returns(0)
			},
			"AddStorageFpaclEntry": says("<Handle>6</Handle>" + returns(0)),
		}), Result{AllocationAdded: true, Registered: true}, []string{"AddStorageFpaclEntry"}},
		{"same application of another vendor, same vendor with another application", blank().with(map[string]answer{
			"EnumerateStorageEaclEntries": says("<Handles>1</Handles>" + returns(0)),
			"GetStorageEaclEntry":         says("<EnterpriseName>samehost</EnterpriseName>" + returns(0)),
			"EnumerateStorageAllocEntries": func(n int, _ []wsman.Param) any {
				return "<Handles>1</Handles><Handles>2</Handles>" + []string{"", "<Handles>3</Handles>"}[min(n, 1)] + returns(0)
			},
			"GetStorageAllocEntry": func(_ int, in []wsman.Param) any {
				return []string{allocEntry("samehost", "other", true, 8192), allocEntry("other", "samehost", true, 8192), ours}[atoi(in[0].Value)-1]
			},
		}), Result{AllocationAdded: true}, []string{"AddStorageFpaclEntry"}},
		{"a partner entry counts before a non-partner entry", healthy.with(map[string]answer{
			"EnumerateStorageAllocEntries": says("<Handles>1</Handles><Handles>2</Handles>" + returns(0)),
			"GetStorageAllocEntry": func(_ int, in []wsman.Param) any {
				return allocEntry(Application, Vendor, in[0].Value == "2", 8192)
			},
		}), Result{Registered: true}, nil},
		{"a non-partner entry that is large enough serves", healthy.with(map[string]answer{
			"GetStorageAllocEntry": says(allocEntry(Application, Vendor, false, 8192)),
		}), Result{Registered: true, NonPartner: true}, nil},
		{"the application is registered with another UUID", healthy.with(map[string]answer{
			"AdminGetApplicationAttributes": says("<UUID>E67jVdK/u2EXoIiu3XA36g==</UUID><VendorName>samehost</VendorName>" +
				"<ApplicationName>samehost</ApplicationName><EnterpriseName>samehost</EnterpriseName>" + returns(0)),
		}), Result{}, nil},
		{"all entries are taken, though the attributes say otherwise", healthy.with(map[string]answer{
			"EnumerateStorageAllocEntries": says(returns(0)),
			"AddStorageFpaclEntry":         says(returns(StatusMaxLimitReached)),
		}), Result{Registered: true, NonPartner: true}, []string{"AddStorageFpaclEntry"}},
		{"no global attributes, no list of applications", healthy.with(map[string]answer{
			"GetGlobalStorageAttributes":     says(returns(StatusUnsupported)),
			"AdminGetRegisteredApplications": says(returns(StatusNotPermitted)),
		}), Result{}, nil},
		{"global attributes in another form", healthy.with(map[string]answer{
			"GetGlobalStorageAttributes": says("<TotalStorage>196608</TotalStorage>" + returns(0)),
		}), Result{Registered: true}, nil},
		{"all storage is allocated, ours with it", healthy.with(map[string]answer{
			"GetGlobalStorageAttributes": says(globals(196608, 196608, 147456, 147456, 49152, 24, 4, 8192)),
		}), Result{Registered: true}, nil},
		{"handles that vanish are told otherwise", healthy.with(map[string]answer{
			"AdminGetApplicationAttributes": vanished,
		}), Result{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := Initialize(t.Context(), test.device.client(t), DefaultEnterprise)
			if err != nil {
				t.Fatal(err)
			}
			got.About, got.Enterprises = About{}, nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var methods []string
			for _, c := range changes(test.device.made()) {
				methods = append(methods, c[:strings.IndexByte(c, '(')])
			}
			if !slices.Equal(methods, test.changes) {
				t.Errorf("changes %q, want %q", methods, test.changes)
			}
		})
	}
}

func TestInitializeFails(t *testing.T) {
	t.Parallel()
	refused := map[string]answer{
		"EnumerateStorageAllocEntries": says(returns(0)),
		"AddStorageFpaclEntry":         says(returns(StatusNotEnoughStorage)),
	}
	for _, test := range []struct {
		name    string
		device  *canned
		want    []error
		text    string // in the error's text
		changes int
	}{
		{"no 3PDS", (&canned{answers: map[string]answer{"AMT_GeneralSettings": says("<HostName>pc1</HostName>")}}),
			[]error{ErrNo3PDS}, "this firmware has no third-party data storage: AMT_ThirdPartyDataStorageAdministrationService.EnumerateStorageEaclEntries: the device", 0},
		{"realm missing, as a fault", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says(fault("AccessDenied"))}),
			[]error{ErrNoRealm}, "lacks the realm StorageAdmin", 0},
		{"realm missing, as HTTP 403", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says(httpStatus(403))}),
			[]error{ErrNoRealm}, "lacks the realm StorageAdmin", 0},
		{"not ready", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says(returns(StatusNotReady))}),
			[]error{ErrNotReady, StatusNotReady}, "PT_STATUS_NOT_READY (2)", 0},
		{"busy, as HTTP 503", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says(httpStatus(503))}),
			[]error{ErrNotReady}, "", 0},
		{"not provisioned, by the method's answer", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries":      says(returns(StatusInvalidPTMode)),
			"AMT_SetupAndConfigurationService": nil,
		}), []error{ErrNotProvisioned, StatusInvalidPTMode}, "", 0},
		{"not provisioned, by its state", blank().with(map[string]answer{
			"AMT_SetupAndConfigurationService": says("<ProvisioningMode>1</ProvisioningMode><ProvisioningState>1</ProvisioningState>"),
		}), []error{ErrNotProvisioned}, "provisioning state 1", 0},
		{"not provisioned explains a missing class", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries":      nil,
			"AMT_SetupAndConfigurationService": says("<ProvisioningState>0</ProvisioningState>"),
		}), []error{ErrNotProvisioned, ErrNo3PDS}, "", 0},
		{"Enterprise mode before 6.0", blank().with(map[string]answer{"CIM_SoftwareIdentity": says("<VersionString>5.2.1</VersionString>")}),
			[]error{ErrMode}, "AMT 5.2.1, provisioning mode 1", 0},
		{"EACL full by its limit", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": says(handleList(4) + returns(0)),
			"GetStorageEaclEntry": func(_ int, in []wsman.Param) any {
				return "<EnterpriseName>E" + in[0].Value + " \u202e&lt;b&gt;</EnterpriseName>" + returns(0)
			},
		}), []error{ErrEACLFull}, `all enterprise places are taken: "E1 ?<b>", "E2 ?<b>", "E3 ?<b>", "E4 ?<b>"`, 0},
		{"EACL full by the answer", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": says(handleList(1) + returns(0)),
			"AddStorageEaclEntry":         says(returns(StatusMaxLimitReached)),
		}), []error{ErrEACLFull, StatusMaxLimitReached}, `"Virtualization"`, 1},
		{"the enterprise's name is not allowed", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": says(returns(0)),
			"AddStorageEaclEntry":         says(returns(StatusInvalidName)),
		}), []error{StatusInvalidName}, "AddStorageEaclEntry: the name is not allowed", 1},
		{"what was added is never there", healthy.with(map[string]answer{
			"EnumerateStorageEaclEntries": says(returns(0)),
			"AddStorageEaclEntry":         says("<Handle>1</Handle>" + returns(0)),
		}), []error{wsman.ErrBadReply}, "does not show it", 2},
		{"no entry, and others get one block", healthy.with(refused).with(map[string]answer{
			"GetGlobalStorageAttributes": says(globals(196608, 4096, 147456, 4096, 49152, 24, 4, 4096)),
		}), []error{ErrNoSpace, StatusNotEnoughStorage}, "an application without one gets 4096 bytes of 8192", 1},
		{"no entry, and the non-partner area is full", healthy.with(refused).with(map[string]answer{
			"GetGlobalStorageAttributes":    says(globals(196608, 4096+45056, 147456, 4096, 49152, 24, 4, 49152)),
			"AdminGetApplicationAttributes": nil, "AdminGetRegisteredApplications": says(returns(0)),
		}), []error{ErrNoSpace}, "45056 of 49152 bytes of the non-partner area are allocated", 1},
		{"no entry, and nothing is known of the other area", healthy.with(refused).with(map[string]answer{
			"GetGlobalStorageAttributes": says(returns(StatusUnsupported)),
		}), []error{ErrNoSpace}, "does not say", 1},
		{"all entries taken by the limit", healthy.with(refused).with(map[string]answer{
			"EnumerateStorageAllocEntries": says(handleList(2) + returns(0)),
			"GetStorageAllocEntry":         says(allocEntry("other", "other", true, 4096)),
			"GetGlobalStorageAttributes":   says(globals(196608, 8192, 147456, 8192, 49152, 2, 4, 4096)),
		}), []error{ErrNoSpace}, "", 0},
		{"a small non-partner entry, and no other is accepted", healthy.with(map[string]answer{
			"GetStorageAllocEntry": says(allocEntry(Application, Vendor, false, 4096)),
			"AddStorageFpaclEntry": says(returns(StatusDuplicate)),
		}), []error{ErrNoSpace}, "gives 4096 bytes of 8192", 2},
		{"the entry cannot be enlarged", healthy.with(map[string]answer{
			"GetStorageAllocEntry":    says(allocEntry(Application, Vendor, true, 4096)),
			"UpdateStorageFpaclEntry": says(returns(StatusNotEnoughStorage)),
		}), []error{ErrNoSpace, StatusNotEnoughStorage}, "4096 bytes cannot be enlarged", 1},
		{"all storage is allocated", blank().with(map[string]answer{
			"GetGlobalStorageAttributes": says(globals(196608, 192512, 147456, 147456, 49152, 24, 4, 8192)),
		}), []error{ErrNoSpace}, "192512 of 196608 bytes are allocated, and it needs 8192 more", 0},
		{"wear-out protection", blank().with(map[string]answer{"AddStorageEaclEntry": says(returns(StatusFlashWriteLimitExceeded))}),
			[]error{StatusFlashWriteLimitExceeded}, "AddStorageEaclEntry: ", 1},
		{"a fault that says the number", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says(fault("InternalError: AMT-STATUS 2"))}),
			[]error{ErrNotReady, StatusNotReady}, "InternalError: so it is (AMT-STATUS 2)", 0},
		{"a fault that does not", blank().with(map[string]answer{"GetGlobalStorageAttributes": says(fault("InternalError"))}),
			[]error{}, "AMT_ThirdPartyDataStorageAdministrationService.GetGlobalStorageAttributes: the device answers HTTP 400, InternalError", 0},
		{"no ReturnValue", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says("<Handles>1</Handles>")}),
			[]error{wsman.ErrBadReply}, "EnumerateStorageEaclEntries: the reply is not what WS-Management allows: no ReturnValue", 0},
		{"handles that are none", healthy.with(map[string]answer{"EnumerateStorageEaclEntries": says("<Handles>0x1</Handles>" + returns(0))}),
			[]error{wsman.ErrBadReply}, `handle "0x1"`, 0},
		{"a list without end", healthy.with(map[string]answer{"EnumerateStorageAllocEntries": says(handleList(maxHandles+1) + returns(0))}),
			[]error{wsman.ErrBadReply}, "more than 256 handles", 0},
		{"neither true nor false", healthy.with(map[string]answer{
			"GetStorageAllocEntry": says(strings.Replace(allocEntry(Application, Vendor, true, 8192), "true", "perhaps", 1)),
		}), []error{wsman.ErrBadReply}, `IsPartner is "perhaps"`, 0},
		{"another web server", &canned{answers: map[string]answer{"EnumerateStorageEaclEntries": says(httpStatus(404))}},
			[]error{}, "HTTP 404", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := Initialize(t.Context(), test.device.client(t), DefaultEnterprise)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !errors.Is(err, want) {
					t.Errorf("%v\nis not %q", err, want)
				}
			}
			for _, sentinel := range []error{ErrNo3PDS, ErrNoRealm, ErrLockedOut, ErrNotProvisioned, ErrMode, ErrNotReady, ErrEACLFull, ErrNoSpace, wsman.ErrBadReply} {
				if errors.Is(err, sentinel) && !slices.Contains(test.want, sentinel) {
					t.Errorf("%v\nis %q too", err, sentinel)
				}
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v\ndoes not say %q", err, test.text)
			}
			if strings.ContainsAny(err.Error(), "\r\n\u202e") {
				t.Errorf("%q is more than one plain line", err)
			}
			// What is lacking is told by this, where the non-partner area would have had to serve.
			if want := strings.HasPrefix(test.name, "no entry") || test.name == "all entries taken by the limit" ||
				strings.HasPrefix(test.name, "a small non-partner entry"); got.NonPartner != want {
				t.Errorf("NonPartner is %v", got.NonPartner)
			}
			if got := changes(test.device.made()); len(got) != test.changes {
				t.Errorf("changes %q, want %d", got, test.changes)
			}
		})
	}
}

func TestInitializeRefusesANameBeforeAnyCall(t *testing.T) {
	t.Parallel()
	c := healthy.with(nil)
	for _, run := range []func(context.Context, *wsman.Client, string) (Result, error){Initialize, Inspect} {
		r, err := run(t.Context(), c.client(t), "")
		if err == nil || !strings.Contains(err.Error(), "enterprise name") {
			t.Errorf("%v", err)
		}
		if r.About != unknown {
			t.Errorf("About is %+v", r.About)
		}
	}
	if got := c.made(); len(got) != 0 {
		t.Errorf("calls %q", got)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		device *canned
		want   About
		ok     bool
	}{
		{"all told", healthy, setUp(), true},
		{"nothing told", &canned{}, unknown, true},
		{"some not shown", healthy.with(map[string]answer{
			"CIM_ComputerSystemPackage":        says(fault("AccessDenied")),
			"CIM_SoftwareIdentity":             says(httpStatus(403)),
			"AMT_SetupAndConfigurationService": says("<ProvisioningMode>many</ProvisioningMode><ProvisioningState>2</ProvisioningState>"),
		}), About{ProvisioningState: 2, ProvisioningMode: -1}, true},
		{"one reply that is none", healthy.with(map[string]answer{"CIM_ComputerSystemPackage": says("<PlatformGUID>")}),
			About{Version: pc1.Version, ProvisioningState: 2, ProvisioningMode: 1}, true},
		{"no reply that is one", &canned{answers: map[string]answer{
			"AMT_SetupAndConfigurationService": says("<A>"), "CIM_ComputerSystemPackage": says("<A>"), "CIM_SoftwareIdentity": says("<A>"),
		}}, unknown, false},
		{"hostile text", healthy.with(map[string]answer{
			"CIM_ComputerSystemPackage": says("<PlatformGUID>; rm -rf</PlatformGUID>"),
			"CIM_SoftwareIdentity":      says("<VersionString>" + strings.Repeat("9", 100) + "</VersionString>"),
		}), About{ProvisioningState: 2, ProvisioningMode: 1}, true},
		{"a build number", healthy.with(map[string]answer{"CIM_SoftwareIdentity": says("<VersionString> 3425 </VersionString>")}),
			About{PlatformGUID: pc1.PlatformGUID, Version: "3425", Build: "3425", ProvisioningState: 2, ProvisioningMode: 1}, true},
	} {
		got := unknown
		err := (&device{c: test.device.with(nil).client(t)}).describe(t.Context(), &got, askVersion, askPlatform, askBuild, askSetup)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

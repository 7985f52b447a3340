package amtinit

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amt"
	"samehost/internal/amtsim"
)

// What every reason says, and what was seen before it says besides.
func TestFindings(t *testing.T) {
	t.Parallel()
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port) }
	reached := Outcome{Reached: at(PortHTTP)}
	letIn := Outcome{Reached: at(PortHTTP), letIn: true}
	const y, n, u = Yes, No, Unknown
	covered := map[Code]bool{"": true}
	for _, test := range []struct {
		name string
		o    Outcome
		code Code
		want [6]Answer // reachable, AMT, lets in, storage, initialized, room
	}{
		{"initialized", letIn, "", [6]Answer{y, y, y, y, y, y}},
		{"would succeed", Outcome{Reached: at(PortTLS), letIn: true, Result: amt.Result{EnterpriseAdded: true}}, "", [6]Answer{y, y, y, y, n, y}},
		{"", Outcome{}, Unresolvable, [6]Answer{u, u, u, u, u, u}},
		{"", Outcome{}, NothingAnswers, [6]Answer{n, u, u, u, u, u}},
		{"", reached, ConnectionBroken, [6]Answer{y, u, u, u, u, u}},
		{"after the log-on", letIn, ConnectionBroken, [6]Answer{y, y, y, u, u, u}},
		{"after the enterprises", Outcome{Reached: at(PortHTTP), Result: amt.Result{Enterprises: []string{"a"}}}, ConnectionBroken, [6]Answer{y, y, y, y, u, u}},
		{"", reached, TimedOut, [6]Answer{y, u, u, u, u, u}},
		{"after the log-on", letIn, TimedOut, [6]Answer{y, y, y, u, u, u}},
		{"", Outcome{}, OwnMachine, [6]Answer{u, u, u, u, u, u}},
		{"", reached, NoTrust, [6]Answer{y, u, u, u, u, u}},
		{"", reached, BadCertificate, [6]Answer{y, u, u, u, u, u}},
		{"", reached, NotTLS, [6]Answer{y, u, u, u, u, u}},
		{"", reached, TLSRequired, [6]Answer{y, u, u, u, u, u}},
		{"", reached, LogOnRefused, [6]Answer{y, y, n, u, u, u}},
		{"on a port that is not AMT's", Outcome{Reached: at(700)}, LogOnRefused, [6]Answer{y, u, n, u, u, u}},
		{"", letIn, LockedOut, [6]Answer{y, y, n, u, u, u}},
		{"", reached, RealmMissing, [6]Answer{y, y, y, u, u, u}},
		{"", reached, NotAMT, [6]Answer{y, n, u, u, u, u}},
		{"", reached, No3PDS, [6]Answer{y, y, y, n, u, u}},
		{"", reached, NotProvisioned, [6]Answer{y, y, y, u, u, u}},
		{"", letIn, EnterpriseMode, [6]Answer{y, y, y, u, u, u}},
		{"", letIn, EACLFull, [6]Answer{y, y, y, y, n, n}},
		{"", letIn, AllocationFull, [6]Answer{y, y, y, y, n, n}},
		{"", letIn, OutOfStorage, [6]Answer{y, y, y, y, n, n}},
		{"", letIn, WornOut, [6]Answer{y, y, y, y, n, u}},
		{"HTTP 503", reached, Busy, [6]Answer{y, u, u, u, u, u}},
		{"a status", Outcome{Reached: at(PortHTTP), Status: amt.StatusNotReady}, Busy, [6]Answer{y, y, y, u, u, u}},
		{"", letIn, UnexpectedStatus, [6]Answer{y, y, y, y, u, u}},
		{"", reached, DeviceFault, [6]Answer{y, u, u, u, u, u}},
		{"after the log-on", letIn, DeviceFault, [6]Answer{y, y, y, u, u, u}},
		{"", Outcome{}, LocalResources, [6]Answer{u, u, u, u, u, u}},
		{"", reached, OtherError, [6]Answer{y, u, u, u, u, u}},
		{"", Outcome{}, Interrupted, [6]Answer{u, u, u, u, u, u}},
		{"in the middle", letIn, Interrupted, [6]Answer{y, y, y, u, u, u}},
		{"", Outcome{}, NotTried, [6]Answer{u, u, u, u, u, u}},
		{"waited for the guard", reached, NotTried, [6]Answer{y, u, u, u, u, u}},
	} {
		covered[test.code] = true
		o := test.o
		o.Code = test.code
		f := o.Findings()
		got := [6]Answer{f.Reachable, f.AMT, f.LetsIn, f.Storage, f.Initialized, f.Room}
		if got != test.want {
			t.Errorf("%q %s: %v, want %v", test.code, test.name, got, test.want)
		}
		if diff := cmp.Diff(o.Result.Enterprises, f.Enterprises); diff != "" {
			t.Errorf("%q %s: enterprises (-want +got):\n%s", test.code, test.name, diff)
		}
	}
	for _, r := range Reasons() {
		if !covered[r.Code] {
			t.Errorf("%s has no row", r.Code)
		}
	}
}

// A dry run finds what there is and leaves every device as it was.
func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		device  amtsim.Options
		prepare bool   // initialize first
		limits  string // see lowerLimit
		code    Code
		want    Findings
	}{
		{name: "fresh", want: Findings{Yes, Yes, Yes, Yes, No, Yes, nil}},
		{name: "initialized", prepare: true, want: Findings{Yes, Yes, Yes, Yes, Yes, Yes, []string{"samehost"}}},
		{name: "EACL full", device: amtsim.Options{Faults: amtsim.Faults{FullEACL: true}}, code: EACLFull,
			want: Findings{Yes, Yes, Yes, Yes, No, No, []string{"Other Enterprise 1", "Other Enterprise 2", "Other Enterprise 3", "Other Enterprise 4"}}},
		{name: "FPACL full, the non-partner area serves", device: amtsim.Options{Faults: amtsim.Faults{FullFPACL: true}}, want: Findings{Yes, Yes, Yes, Yes, No, Yes, nil}},
		{name: "FPACL full, the non-partner area is small", device: amtsim.Options{Faults: amtsim.Faults{FullFPACL: true}}, limits: "MaxNonPartnerTotalAllocationSize", code: AllocationFull,
			want: Findings{Yes, Yes, Yes, Yes, No, No, nil}},
		{name: "no 3PDS", device: amtsim.Options{Faults: amtsim.Faults{No3PDS: true}}, code: No3PDS, want: Findings{Yes, Yes, Yes, No, Unknown, Unknown, nil}},
		{name: "wrong password", device: amtsim.Options{Password: "Another1!"}, code: LogOnRefused, want: Findings{Yes, Unknown, No, Unknown, Unknown, Unknown, nil}},
		{name: "busy", device: amtsim.Options{Faults: amtsim.Faults{Busy: true}}, code: Busy, want: Findings{Yes, Yes, Yes, Unknown, Unknown, Unknown, nil}},
		{name: "worn out", device: amtsim.Options{Faults: amtsim.Faults{WornOut: true}}, want: Findings{Yes, Yes, Yes, Yes, No, Yes, nil}},
		{name: "not set up", device: amtsim.Options{Faults: amtsim.Faults{Unprovisioned: true}}, code: NothingAnswers, want: Findings{No, Unknown, Unknown, Unknown, Unknown, Unknown, nil}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, at := simulate(t, test.device)
			o := access(at)
			if test.prepare {
				initializeOne(t, at, o)
			}
			if test.limits != "" {
				lowerLimit(t, d, test.limits)
			}
			before := d.Snapshot()
			o.DryRun = true
			out := initializeOne(t, at, o)
			after := d.Snapshot()
			f := out.Findings()
			if len(f.Enterprises) == 0 {
				f.Enterprises = nil
			}
			if diff := cmp.Diff(test.want, f); diff != "" || out.Code != test.code {
				t.Errorf("%s, %v (-want +got):\n%s", out.Code, out.Err, diff)
			}
			for method, n := range after.Calls {
				if n != before.Calls[method] && !reads(method) {
					t.Errorf("%s was called", method)
				}
			}
			after.Calls, before.Calls, after.Connections, before.Connections = nil, nil, 0, 0
			after.FailedLogons, before.FailedLogons, after.Open, before.Open = 0, 0, 0, 0
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the device was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// reads reports whether a call only reads.
func reads(method string) bool {
	switch method {
	case "EnumerateStorageEaclEntries", "GetStorageEaclEntry", "EnumerateStorageAllocEntries", "GetStorageAllocEntry", "GetGlobalStorageAttributes",
		"AdminGetRegisteredApplications", "AdminGetApplicationAttributes",
		"Get CIM_SoftwareIdentity", "Get CIM_ComputerSystemPackage", "Get AMT_SetupAndConfigurationService", "Get AMT_GeneralSettings":
		return true
	}
	return false
}

func TestWarningsOfVersions(t *testing.T) {
	t.Parallel()
	const open, perhaps = "SHAM2001-W", "SHAM2002-W"
	for _, test := range []struct{ version, build, want string }{
		// Intel's list: the first fixed build of each line, and what comes right before it.
		{"6.2.61", "3535", ""}, {"7.1.91", "3272", ""}, {"8.1.71", "3608", ""}, {"9.1.41", "3024", ""}, {"9.5.61", "3012", ""},
		{"10.0.55", "3000", ""}, {"11.0.25", "3001", ""}, {"11.6.27", "3264", ""},
		{"6.2.61", "2999", open}, {"10.0.55", "2999", open}, {"9.5.40", "1892", open}, {"11.0.25", "1205", open}, {"11.6.27", "1000", open},
		{"6.0.0", "0", open}, {"11.5.0", "1000", open}, {"11.6.99", "2999", open},
		{"11.0.18", "3003", ""}, {"10.0.50", "3000", ""}, // makers fixed older versions, too
		{"5.2.70", "1040", ""}, {"4.0", "", ""}, {"11.7.0", "1000", ""}, {"11.8.50", "1000", ""}, {"12.0.0", "1", ""}, {"16.1.25", "1885", ""},
		// Without a build number.
		{"6.2.60", "", perhaps}, {"6.2.61", "", ""}, {"6.1.99", "", perhaps}, {"7.1.90", "", perhaps}, {"7.1.92", "", ""},
		{"9.1.41", "", ""}, {"9.5.41", "", perhaps}, {"9.5.61", "", ""}, {"9.0.99", "", perhaps}, {"11.0.24", "", perhaps},
		{"11.5.99", "", perhaps}, {"11.6.26", "", perhaps}, {"11.6.27", "", ""}, {"11.7.0", "", ""}, {"11.6", "", perhaps},
		{"11.6.10", "many", perhaps},
		// With the build number in the version.
		{"11.0.18.3003", "", ""}, {"11.0.18.1002", "", open},
		{"", "", ""}, {"", "1000", ""}, {"11", "1000", ""}, {"eleven.six", "1000", ""},
	} {
		got := ""
		for _, w := range warningsOf(amt.About{Version: test.version, Build: test.build}) {
			got += w.ID
		}
		if got != test.want {
			t.Errorf("version %q build %q: %q, want %q", test.version, test.build, got, test.want)
		}
	}
}

// A dry run asks for the build number, another run does not and says so.
func TestWarningsOfARun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ release, run, dryRun string }{
		{"11.8.50", "", ""}, {"11.0.18.1002", "SHAM2002-W", "SHAM2001-W"}, {"11.0.18.3003", "SHAM2002-W", ""},
	} {
		_, at := simulate(t, amtsim.Options{Release: test.release})
		for _, dry := range []bool{true, false} {
			o := access(at)
			o.DryRun = dry
			out := initializeOne(t, at, o)
			want, got := test.run, ""
			if dry {
				want = test.dryRun
			}
			for _, w := range out.Warnings {
				got += w.ID
			}
			if !out.OK() || got != want {
				t.Errorf("%s, dry run %v: %q, want %q (%v, %+v)", test.release, dry, got, want, out.Err, out.Result.About)
			}
		}
	}
}

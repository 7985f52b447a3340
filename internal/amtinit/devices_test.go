package amtinit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"samehost/internal/amtsim"
)

// A list may have a PC under several names. It is one device all the same: with one call at a time, and two refused log-ons
// in a run, however many names it has; and for the guard it is one device that refuses.
func TestOnePCUnderSeveralNames(t *testing.T) {
	t.Parallel()
	const names = 8
	for _, test := range []struct {
		name    string
		device  amtsim.Options
		change  func(*Options)
		code    Code
		logOns  uint64
		already int
	}{
		{name: "initialized", device: amtsim.Options{Latency: 5 * time.Millisecond}, already: names - 1},
		{name: "wrong password", device: amtsim.Options{Password: "Another1!"}, code: LogOnRefused, logOns: 2},
		{name: "wrong password, without the guard", device: amtsim.Options{Password: "Another1!"},
			change: func(o *Options) { o.IgnoreLogonFailures = true }, code: LogOnRefused, logOns: 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, at := simulate(t, test.device)
			o := access(at)
			o.AddressFirst = true
			if test.change != nil {
				test.change(&o)
			}
			var targets []Target
			for n := range names {
				targets = append(targets, Target{Host: fmt.Sprintf("name-%d", n), Address: at.Addr()})
			}
			sum, err := Run(t.Context(), o, slices.Values(targets), func(out Outcome) {
				if out.Code != test.code || out.Reached != at {
					t.Errorf("%s: %q at %s: %v", out.Target, out.Code, out.Reached, out.Err)
				}
			})
			if err != nil || sum.OK+sum.Failed != names || sum.Already != test.already {
				t.Errorf("%+v, %v", sum, err)
			}
			s := d.Snapshot()
			if s.FailedLogons != test.logOns {
				t.Errorf("%d refused log-ons, want %d", s.FailedLogons, test.logOns)
			}
			if test.code == "" && s.Calls["AddStorageEaclEntry"] != 1 {
				t.Errorf("calls %v", s.Calls)
			}
		})
	}
}

// Names that wait for a device which does not answer do not wait out its time one after the other.
func TestSeveralNamesOfADeviceThatHangs(t *testing.T) {
	t.Parallel()
	after := 1
	_, at := simulate(t, amtsim.Options{Faults: amtsim.Faults{HangAfterCalls: &after}})
	o := access(at)
	o.AddressFirst, o.Timeout = true, 3*time.Second
	var targets []Target
	for n := range 5 {
		targets = append(targets, Target{Host: fmt.Sprintf("name-%d", n), Address: at.Addr()})
	}
	repeated := 0
	sum, err := Run(t.Context(), o, slices.Values(targets), func(out Outcome) {
		if out.Code != TimedOut {
			t.Errorf("%s: %q: %v", out.Target, out.Code, out.Err)
		}
		if strings.Contains(fmt.Sprint(out.Err), "under another name") {
			repeated++
		}
	})
	if err != nil || sum.Failed != len(targets) || repeated != len(targets)-1 {
		t.Errorf("%+v, %v; %d were told what the first one met", sum, err, repeated)
	}
}

// What is kept of a device ends with the last target at its address, unless it may lock the account.
func TestDevicesAreForgotten(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		password string
		want     int
	}{{amtsim.DefaultPassword, 0}, {"Another1!", 1}} {
		_, at := simulate(t, amtsim.Options{Password: test.password})
		e := engine{Options: access(at), dial: dial}
		e.run(t.Context(), slices.Values([]Target{{Address: at.Addr()}}), func(Outcome) {})
		if got := len(e.devices.at); got != test.want {
			t.Errorf("%s: %d devices are kept, want %d", test.password, got, test.want)
		}
	}
}

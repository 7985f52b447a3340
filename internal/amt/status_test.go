package amt

import (
	"errors"
	"fmt"
	"regexp"
	"testing"

	"samehost/internal/wsman"
)

func TestStatusNamesEveryNumberOfIntelsTable(t *testing.T) {
	t.Parallel()
	var numbers []Status
	add := func(from, to Status) {
		for n := from; n <= to; n++ {
			numbers = append(numbers, n)
		}
	}
	add(0, 49)
	add(512, 513)
	add(2048, 2070)
	for _, n := range []Status{2072, 2075, 2076, 2081, 2082} {
		add(n, n)
	}
	if len(statusTable) != len(numbers) {
		t.Errorf("the table has %d numbers, Intel's %d", len(statusTable), len(numbers))
	}
	name := regexp.MustCompile(`^PT_STATUS_[A-Z_]+$`)
	seen := map[string]Status{}
	for _, n := range numbers {
		if !name.MatchString(n.Name()) {
			t.Errorf("%d is named %q", n, n.Name())
		}
		if other, twice := seen[n.Name()]; twice {
			t.Errorf("%d and %d are both %s", n, other, n.Name())
		}
		seen[n.Name()] = n
		if statusTable[n].meaning == "" {
			t.Errorf("%s has no meaning", n)
		}
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status            Status
		name, text, error string
	}{
		{StatusNotReady, "PT_STATUS_NOT_READY", "PT_STATUS_NOT_READY (2)",
			"the firmware is not ready for this command yet: PT_STATUS_NOT_READY (2)"},
		{StatusInvalidRegistrationData, "PT_STATUS_INVALID_REGISTRATION_DATA", "PT_STATUS_INVALID_REGISTRATION_DATA (9)",
			"a name is not allowed, or the enterprise has no entry: PT_STATUS_INVALID_REGISTRATION_DATA (9)"},
		{StatusDuplicate, "PT_STATUS_DUPLICATE", "PT_STATUS_DUPLICATE (2058)",
			"the same entry is there already: PT_STATUS_DUPLICATE (2058)"},
		{4660, "PT_STATUS 0x1234", "PT_STATUS 0x1234", "the firmware answers PT_STATUS 0x1234"},
		{4294967295, "PT_STATUS 0xFFFFFFFF", "PT_STATUS 0xFFFFFFFF", "the firmware answers PT_STATUS 0xFFFFFFFF"},
	} {
		if got := test.status.Name(); got != test.name {
			t.Errorf("%d: Name %q, want %q", test.status, got, test.name)
		}
		if got := test.status.String(); got != test.text {
			t.Errorf("%d: String %q, want %q", test.status, got, test.text)
		}
		if got := test.status.Error(); got != test.error {
			t.Errorf("%d: Error %q, want %q", test.status, got, test.error)
		}
	}
}

func TestStatusIsAnError(t *testing.T) {
	t.Parallel()
	for n := range statusTable {
		err := fmt.Errorf("host: %w", fmt.Errorf("Method: %w", n))
		var got Status
		if !errors.As(err, &got) || got != n {
			t.Errorf("errors.As finds %d under %q", got, err)
		}
		if !errors.Is(err, n) {
			t.Errorf("errors.Is does not find %d", n)
		}
		if want := n == 2 || n == 46 || n == 2082; errors.Is(err, ErrNotReady) != want {
			t.Errorf("%s is ErrNotReady: %v, want %v", n, !want, want)
		}
		if want := n == 3 || n == 32; errors.Is(err, ErrNotProvisioned) != want {
			t.Errorf("%s is ErrNotProvisioned: %v, want %v", n, !want, want)
		}
	}
}

func TestFaultStatus(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		detail string
		want   Status
		ok     bool
	}{
		{"AMT-STATUS 38", 38, true},
		{" text AMT-STATUS   2 more", 2, true},
		{"AMT-STATUS 4294967295", 4294967295, true},
		{"AMT-STATUS 4294967296", 0, false},
		{"AMT-STATUS 0", 0, false},
		{"AMT-STATUS", 0, false},
		{"AMT-STATUS x", 0, false},
		{"AMT-STATUS -1", 0, false},
		{"", 0, false},
	} {
		got, ok := faultStatus(&wsman.Fault{Detail: test.detail})
		if ok != test.ok || ok && got != test.want {
			t.Errorf("%q: %d, %v, want %d, %v", test.detail, got, ok, test.want, test.ok)
		}
	}
}

func FuzzFaultStatus(f *testing.F) {
	f.Add("AMT-STATUS 38")
	f.Add("AMT-STATUS")
	f.Add("AMT-STATUS 99999999999")
	f.Fuzz(func(t *testing.T, detail string) {
		if s, ok := faultStatus(&wsman.Fault{Detail: detail}); ok && s == StatusSuccess {
			t.Errorf("%q is a failure with status 0", detail)
		}
	})
}

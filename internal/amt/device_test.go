package amt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestParseHandles(t *testing.T) {
	t.Parallel()
	many := make([]string, maxHandles+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for _, test := range []struct {
		name string
		in   []string
		want []uint32
		ok   bool
	}{
		{"absent", nil, nil, true},
		{"one empty element, as AMT writes nothing", []string{""}, nil, true},
		{"single", []string{"7"}, []uint32{7}, true},
		{"repeated", []string{"2", " 1\n", "4294967295"}, []uint32{2, 1, 4294967295}, true},
		{"given twice", []string{"2", "2", "3"}, []uint32{2, 3}, true},
		{"no number", []string{"1", "x"}, nil, false},
		{"negative", []string{"-1"}, nil, false},
		{"too large", []string{"4294967296"}, nil, false},
		{"as many as are read", many[:maxHandles], nil, true},
		{"too many", many, nil, false},
	} {
		got, err := parseHandles(test.in)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.want != nil && !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func FuzzParseHandles(f *testing.F) {
	f.Add("1 2 3")
	f.Add("")
	f.Add("4294967295 4294967296")
	f.Fuzz(func(t *testing.T, list string) {
		values := strings.Split(list, " ")
		handles, err := parseHandles(values)
		if err != nil {
			if handles != nil {
				t.Error("handles come with an error")
			}
			return
		}
		if len(handles) > maxHandles || len(handles) > len(values) {
			t.Errorf("%d handles from %d elements", len(handles), len(values))
		}
		seen := map[uint32]bool{}
		for _, h := range handles {
			if seen[h] {
				t.Errorf("handle %d twice", h)
			}
			seen[h] = true
			if !slices.ContainsFunc(values, func(v string) bool { n, err := parseUint32(v); return err == nil && n == h }) {
				t.Errorf("handle %d was not given", h)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                        "",
		"Example Corp":            "Example Corp",
		"資産管理":                    "資産管理",
		"a\x1b[31mred\r\nnext":    "a?[31mred??next",
		"right\u202eto left":      "right?to left",
		"bad \xff\xfe bytes":      "bad ?? bytes",
		"no\u00a0break\u2028line": "no?break?line",
		strings.Repeat("x", 64):   strings.Repeat("x", 64),
		strings.Repeat("x", 65):   strings.Repeat("x", 64) + "...",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31mred\r\nnext")
	f.Add("\u202e\u2066\ufeff")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > 67 {
			t.Errorf("%q", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r != ' ' && unicode.IsSpace(r) {
				t.Errorf("%U in %q", r, got)
			}
		}
		if printable(got) != got && !strings.HasSuffix(got, "...") {
			t.Errorf("%q becomes %q the second time", got, printable(got))
		}
	})
}

func TestVersionAndPlatformGUID(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"11.8.50": "11.8.50", " 5.2.1 ": "5.2.1", "9": "9", "11.8.50.3425": "11.8.50.3425",
		"": "", "11.": "", "v11": "", "11.8-beta": "", "1.99999999999": "", strings.Repeat("1.", 20) + "1": "",
	} {
		if got := version(in); got != want {
			t.Errorf("version %q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"13AEE355D2BFBB6117A088AEDD7037EA":     "13AEE355D2BFBB6117A088AEDD7037EA",
		"13aee355d2bfbb6117a088aedd7037ea\n":   "13AEE355D2BFBB6117A088AEDD7037EA",
		"55E3AE13-BFD2-61BB-17A0-88AEDD7037EA": "",
		"13AEE355D2BFBB6117A088AEDD7037E":      "",
		"13AEE355D2BFBB6117A088AEDD7037EG":     "",
		"":                                     "",
	} {
		if got := platformGUID(in); got != want {
			t.Errorf("PlatformGUID %q: %q, want %q", in, got, want)
		}
	}
}

func TestUnfit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		about About
		tls   bool
		want  error
	}{
		{About{Version: "11.8.50", ProvisioningState: 2, ProvisioningMode: 1}, false, nil},
		{About{Version: "6.0.0", ProvisioningState: 2, ProvisioningMode: 1}, false, nil},
		{About{Version: "11.8.50", ProvisioningState: 2, ProvisioningMode: 4}, false, nil},
		{About{Version: "5.2.1", ProvisioningState: 2, ProvisioningMode: 2}, false, nil},
		{About{Version: "5.2.1", ProvisioningState: 2, ProvisioningMode: 1}, false, ErrMode},
		{About{Version: "5.2.1", ProvisioningState: 2, ProvisioningMode: 1}, true, nil},
		{About{Version: "3.0", ProvisioningState: -1, ProvisioningMode: 1}, false, ErrMode},
		{About{Version: "", ProvisioningState: 2, ProvisioningMode: 1}, false, nil},
		{About{Version: "5.2.1", ProvisioningState: 0, ProvisioningMode: 1}, false, ErrNotProvisioned},
		{About{Version: "11.8.50", ProvisioningState: 1, ProvisioningMode: 1}, true, ErrNotProvisioned},
		{About{ProvisioningState: -1, ProvisioningMode: -1}, false, nil},
	} {
		err := test.about.unfit(test.tls)
		if !errors.Is(err, test.want) {
			t.Errorf("%+v, TLS %v: %v, want %v", test.about, test.tls, err, test.want)
		}
	}
}

func TestCheckEnterprise(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"samehost": true, "Virtualization": true, "Example Corp": true, "資産": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, " samehost": false, "a\nb": false, "a\xff": false, strings.Repeat("資", 22): false,
	} {
		if err := checkEnterprise(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

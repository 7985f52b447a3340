package hardware

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
)

const full = `{"system_uuid": "55E3AE13-BFD2-61BB-17A0-88AEDD7037EA", "system_serial": " SYS1 ", "board_serial": "B1", "chassis_serial": "C1",
 "disks": [{"serial": "D1", "system": true}, {"serial": "D2"}],
 "nics": [{"mac": "00:11:22:33:44:aa", "permanent": true, "onboard": true}],
 "tpm_ek_sha256": "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "smbios_amt": true}`

var fullFacts = Facts{
	SystemUUID: "55e3ae13-bfd2-61bb-17a0-88aedd7037ea", SystemSerial: "SYS1", BoardSerial: "B1", ChassisSerial: "C1",
	Disks:       []Disk{{"D1", true}, {"D2", false}},
	NICs:        []NIC{{"00-11-22-33-44-AA", true, true}},
	TPMEKSHA256: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", SMBIOSAMT: true,
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pc.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Facts{
		full: fullFacts, "\ufeff{}\r\n": {}, `{"disks": [], "nics": []}`: {Disks: []Disk{}, NICs: []NIC{}},
		`{"system_uuid": "", "tpm_ek_sha256": "", "disks": [{}]}`: {Disks: []Disk{{}}}, `{"nics": null, "board_serial": null}`: {},
	} {
		got, err := Load(write(t, text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestLoadMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                               "line 1: not JSON: it ends too early",
		`{"disks": [`:                    "line 1: not JSON: it ends too early",
		"{\n\"uuid\": 1}":                `line 2: "uuid" is not known; leave it out (known: system_uuid, system_serial, board_serial, chassis_serial, disks, nics, tpm_ek_sha256, smbios_amt)`,
		`{"System_UUID": "x"}`:           `line 1: "System_UUID" is not known; leave it out (known: system_uuid, system_serial, board_serial, chassis_serial, disks, nics, tpm_ek_sha256, smbios_amt)`,
		`{"disks": [{"name": "x"}]}`:     `line 1: "name" is not known in disks; leave it out (known: serial, system)`,
		`{"nics": [{"\u001b[2J": "x"}]}`: `line 1: "?[2J" is not known in nics; leave it out (known: mac, permanent, onboard)`,
		"{\"board_serial\": \"a\",\n \"board_serial\": \"b\"}": `line 2: "board_serial" stands there twice; leave one out`,
		`null`:                                "line 1: the facts must be an object, {...}",
		"{}\n{}":                              "line 2: text after the end of the object",
		"{\"smbios_amt\":\n\"yes\"}":          "line 2: smbios_amt must be true or false, not string",
		`{"disks": {}}`:                       "line 1: disks must be a list, not object",
		`{"board_serial": 7}`:                 "line 1: board_serial must be text, not number",
		`[]`:                                  "line 1: the facts must be an object, {...}",
		`{"disks": [[[[[]]]]]}`:               "line 1: nested too deeply",
		`{"board_serial": "a` + "\xff" + `"}`: "not UTF-8; save it as UTF-8",
		"{\"board_serial\": \"\n\"}":          "line 1: not JSON: invalid character '\\n' in string literal",
		`{"board_serial": "a\u0007b"}`:        `board_serial: "a?b" must be at most 128 printable characters`,
		`{"system_uuid": "pc-1"}`:             `system_uuid: "pc-1" must be a UUID, as 55e3ae13-bfd2-61bb-17a0-88aedd7037ea`,
		`{"nics": [{}]}`:                      `nics[0] mac: "" must be a MAC address, as 00-11-22-33-44-55`,
		`{"tpm_ek_sha256": "00"}`:             `tpm_ek_sha256: "00" must be 64 hex digits`,
		`{"disks": [` + strings.Repeat("{},", 64) + `{}]}`: "more than 64 disks or network interfaces",
	} {
		path := write(t, text)
		want = "hardware file " + path + ": " + want
		if _, err := Load(path); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Load(write(t, strings.Repeat(" ", maxFile+1))); err == nil || !strings.HasSuffix(err.Error(), "longer than 64 KiB, as no such file is; name another") {
		t.Errorf("got %v", err)
	}
}

func TestEvidence(t *testing.T) {
	t.Parallel()
	f := fullFacts
	f.BoardSerial = "  b1  of\ta "
	f.NICs = []NIC{
		{"02-00-00-00-00-01", true, true}, // locally administered
		{"00-50-56-C0-00-01", true, true}, // virtual
		{"00-00-00-00-00-00", true, true},
		{"00-01-00-00-00-00", false, true}, // lower, but set by software
		{"00-01-00-00-00-00", true, false}, // lower, but in a dock
		{"nonsense", true, true},
		{"00:11:22:33:44:bb", true, true},
		{"00-11-22-33-44-AA", true, true},
	}
	f.Disks = []Disk{{"A0", false}, {"None", true}, {"m2", true}, {"M1", true}}
	want := hostid.Evidence{
		hostid.SystemUUID: "55e3ae13-bfd2-61bb-17a0-88aedd7037ea", hostid.BoardSerial: "B1 OF A", hostid.OnboardMAC: "00-11-22-33-44-AA",
		hostid.SystemSerial: "SYS1", hostid.ChassisSerial: "C1", hostid.DiskSerial: "M1",
		hostid.TPMEndorsementKey: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
	}
	if diff := cmp.Diff(want, f.Evidence()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(hostid.Evidence{}, Facts{}.Evidence()); diff != "" {
		t.Error(diff)
	}
}

// What enters digests hangs on no table of Unicode: which characters can be printed and what their capitals are
// changes between its versions, and so between releases of ours.
func TestSerialIsASCII(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"stra\u00dfe-\u017f1": "STRA?E-?1", "12\xff34": "12?34", "ab\u200bc": "AB?C", "\u212a98": "?98", "a\u3000b": "A?B", "\u01c612": "?12",
		"\U0001fae812": "?12", // printable since Unicode 15
		"\u30b7-12":    "?-12", "~!1a b": "~!1A B",
	} {
		if got := (Facts{BoardSerial: s}).Evidence()[hostid.BoardSerial]; got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

// Every placeholder that the field has shown proves nothing, in any spelling; what only contains one is a serial.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", " ", "0", "00000000", "xxxxxxx", "........", "00-00-00", "0 0 0 0", ".-.", "\xff\xfe", "\u200b", "To Be Filled By O.E.M.", "to be filled by o.e.m", "To Be Set By OEM",
		"System Serial Number", "Default string", "default  STRING", "Not Specified", "Not Applicable", "None", "SYS-1234567890", "Enter Serial",
		"Enter Serial Number Here", "0123456789", "Chassis Serial Number", "Base Board Serial Number", "\x00\x00"} {
		if e := (Facts{BoardSerial: s, SystemSerial: s, ChassisSerial: s, Disks: []Disk{{s, true}}}).Evidence(); e != (hostid.Evidence{}) {
			t.Errorf("serial %q counts: %q", s, e)
		}
	}
	for _, s := range []string{"NONE1", "1.2.3", "00000001", "AB0123456789", "0123456789AB", "N0NE", "X To Be Filled By O.E.M."} {
		if e := (Facts{BoardSerial: s}).Evidence(); e[hostid.BoardSerial] != strings.ToUpper(s) {
			t.Errorf("serial %q: got %q", s, e[hostid.BoardSerial])
		}
	}
	for _, s := range []string{"", "x", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "11111111-1111-1111-1111-111111111111",
		"03000200-0400-0500-0006-000700080009", "03020100-0504-0706-0809-0A0B0C0D0E0F", "10000000-0000-8000-0040-000000000000",
		"6ab5b300538d10149fb5b0684d007b53", "{01010101-0101-0101-0101-010101010101}"} {
		if e := (Facts{SystemUUID: s}).Evidence(); e[hostid.SystemUUID] != "" {
			t.Errorf("UUID %q counts: %q", s, e[hostid.SystemUUID])
		}
	}
	for _, s := range []string{"44-45-53-54-00-00", "00-50-56-c0-00-08", "01-00-5E-00-00-01", "FF-FF-FF-FF-FF-FF", "00-00-00-00-00-00", "0A-00-27-00-00-00"} {
		if e := (Facts{NICs: []NIC{{s, true, true}}}).Evidence(); e[hostid.OnboardMAC] != "" {
			t.Errorf("MAC %q counts: %q", s, e[hostid.OnboardMAC])
		}
	}
	if e := (Facts{TPMEKSHA256: strings.Repeat("0", 64)}).Evidence(); e != (hostid.Evidence{}) {
		t.Errorf("an empty key digest counts: %q", e)
	}
}

// A folder given as file is named once.
func TestLoadFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(dir); err == nil || strings.Count(err.Error(), dir) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestExtraPlaceholders(t *testing.T) {
	t.Parallel()
	extra, err := ParsePlaceholders(strings.NewReader("# seen on many\n\nserial  sample *-lot\nuuid 55e3ae13-bfd2-61bb-17a0-88aedd7037ea\nmac 00:11:22:*\n"))
	if err != nil {
		t.Fatal(err)
	}
	f := fullFacts
	f.BoardSerial = "Sample  7-Lot"
	want := f.Evidence()
	want[hostid.BoardSerial], want[hostid.SystemUUID], want[hostid.OnboardMAC] = "", "", ""
	if diff := cmp.Diff(want, f.EvidenceWithout(extra)); diff != "" {
		t.Error(diff)
	}
	f.BoardSerial = "Sample 7-Lot2"
	if got := f.EvidenceWithout(extra)[hostid.BoardSerial]; got != "SAMPLE 7-LOT2" {
		t.Errorf("a part of a value is enough for the pattern: %q", got)
	}
	for text, want := range map[string]string{
		"\nserials X": `line 2: "serials" is no kind of value; write uuid, serial or mac before the value`,
		"serial":      "line 1: a placeholder for every serial; write the value that proves nothing",
		"mac **":      "line 1: a placeholder for every mac; write the value that proves nothing",
		strings.Repeat("serial 1234567\n", MaxPlaceholderList/15+1): "more than 64 KiB: shorten the list, with '*' where values begin alike",
		distinctMACs(3800): "more than 64 KiB: shorten the list, with '*' where values begin alike", // once written with hyphens
		"serial " + strings.Repeat("x", MaxPlaceholderList): "more than 64 KiB: shorten the list, with '*' where values begin alike",
	} {
		if _, err := ParsePlaceholders(strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"A", "A", true}, {"A", "AB", false}, {"A", "BA", false}, {"A*", "A", true}, {"*A", "BA", true}, {"*A", "AB", false},
		{"A*B*C", "AXXBYYC", true}, {"A*B*C", "ABCB", false}, {"*AB", "AAAB", true}, {"", "", true}, {"*", "", true}, {"A", "", false},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func distinctMACs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "mac 0011%08x\n", i)
	}
	return b.String()
}

// What ParsePlaceholders reads has one spelling, which it reads as the same list; no list is longer than a reply takes.
func FuzzParsePlaceholders(f *testing.F) {
	f.Add("uuid {55e3ae13-bfd2-61bb-17a0-88aedd7037ea}\nserial  sample *\r\nmac 00:11:22:33:44:55\n# seen\n")
	f.Add(builtinPlaceholders)
	f.Add("serial *\n")
	f.Add("mac 00112233445\nuuid {}\nserial \x00\xff\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePlaceholders(strings.NewReader(text))
		if err != nil {
			return
		}
		spelled := p.String()
		again, err := ParsePlaceholders(strings.NewReader(spelled))
		if err != nil || again.String() != spelled || again.Digest() != p.Digest() || (len(p) == 0) != (p.Digest() == "") || len(spelled) > MaxPlaceholderList {
			t.Fatalf("%q is spelled %q, which is %q, %v", text, spelled, again.String(), err)
		}
		for _, x := range p {
			if !strings.Contains(x.pattern, "*") && !again.match(x.kind, x.pattern) {
				t.Fatalf("%q does not match itself in %q", x.pattern, spelled)
			}
		}
	})
}

// A list has one spelling and one digest, however it was written.
func TestPlaceholderListHasOneSpelling(t *testing.T) {
	t.Parallel()
	const want = "mac 00-11-22-*\nmac 00-11-22-33-44-55\nserial SAMPLE *-LOT\nuuid 55E3AE13-BFD2-61BB-17A0-88AEDD7037EA\n"
	for _, text := range []string{
		want,
		"# seen\n\nuuid {55e3ae13-bfd2-61bb-17a0-88aedd7037ea}\r\nserial  sample   *-lot\nmac 00:11:22:*\nmac 001122334455",
		"serial SAMPLE *-LOT\nserial sample *-lot\nmac 00-11-22-33-44-55\nmac 00-11-22-*\nuuid 55e3ae13bfd261bb17a088aedd7037ea\nmac 00:11:22:33:44:55\n",
	} {
		p, err := ParsePlaceholders(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.String(); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
		// From sha256sum over the four lines: managers of all versions must agree with clients of all versions.
		if got := p.Digest(); got != "5547f0da003f694ed16ef04d2c803318382658f5a925aa3d1af2b00a364245d9" {
			t.Errorf("digest %s", got)
		}
	}
	p, err := ParsePlaceholders(strings.NewReader("# nothing\n"))
	if err != nil || p.Digest() != "" || p.String() == "" {
		t.Errorf("empty list: digest %q, text %q, %v", p.Digest(), p.String(), err)
	}
	if again, err := ParsePlaceholders(strings.NewReader(p.String())); err != nil || len(again) != 0 {
		t.Errorf("the empty list's text gives %v, %v", again, err)
	}
}

// The fixture is AMT's: PlatformGUID and what the same machine's SMBIOS displays.
func TestUUIDOrders(t *testing.T) {
	t.Parallel()
	const raw, displayed = "13AEE355D2BFBB6117A088AEDD7037EA", "55e3ae13-bfd2-61bb-17a0-88aedd7037ea"
	if got, ok := DisplayUUID(raw); !ok || got != displayed {
		t.Errorf("got %q, %v", got, ok)
	}
	for _, s := range []string{displayed, strings.ToUpper(displayed), "{" + displayed + "}", strings.ReplaceAll(displayed, "-", ""), " " + displayed} {
		if got, ok := RawUUID(s); !ok || got != raw {
			t.Errorf("%q: got %q, %v", s, got, ok)
		}
		if got, ok := NormalizeUUID(s); !ok || got != displayed {
			t.Errorf("%q: got %q, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "55e3ae13", displayed + "0", "55e3ae13bfd2-61bb-17a0-88aedd7037ea-", strings.Replace(displayed, "5", "g", 1), "{" + displayed} {
		if got, ok := NormalizeUUID(s); ok {
			t.Errorf("%q: got %q", s, got)
		}
		if got, ok := RawUUID(s); ok {
			t.Errorf("%q: got %q", s, got)
		}
	}
	if got, ok := DisplayUUID(displayed); ok {
		t.Errorf("a displayed UUID is taken for a raw one: %q", got)
	}
}

// structure builds one SMBIOS structure.
func structure(kind byte, formatted []byte, texts ...string) []byte {
	b := append([]byte{kind, byte(4 + len(formatted)), 0, 0}, formatted...)
	for _, s := range texts {
		b = append(append(b, s...), 0)
	}
	if len(texts) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

var testTable = bytes.Join([][]byte{
	structure(0, make([]byte, 20), "BIOS"),
	structure(1, append([]byte{1, 2, 3, 4, 0x13, 0xAE, 0xE3, 0x55, 0xD2, 0xBF, 0xBB, 0x61, 0x17, 0xA0, 0x88, 0xAE, 0xDD, 0x70, 0x37, 0xEA}, 6, 0, 0), "Maker", "Model", "1.0", " SYS\x071 "),
	structure(2, []byte{1, 0, 0, 2, 0, 0, 0, 0, 0, 0x0B}, "Maker", "RISER"), // not the motherboard
	structure(2, []byte{1, 0, 0, 2, 0, 0, 0, 0, 0, 0x0A}, "Maker", "BOARD"),
	structure(2, []byte{1, 0, 0, 2, 0, 0, 0, 0, 0, 0x0A}, "Maker", "SECOND"),
	structure(3, []byte{1, 3, 0, 2}, "Maker", "CASE"),
	structure(130, append([]byte("$AMT"), 1, 1, 0, 0)),
	structure(127, nil),
	[]byte("after the end"),
}, nil)

func TestSMBIOS(t *testing.T) {
	t.Parallel()
	var f Facts
	if err := readSMBIOS(testTable, &f); err != nil {
		t.Fatal(err)
	}
	want := Facts{SystemUUID: "55e3ae13-bfd2-61bb-17a0-88aedd7037ea", SystemSerial: "SYS?1", BoardSerial: "BOARD", ChassisSerial: "CASE", SMBIOSAMT: true}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		table []byte
		want  Facts
		err   error
	}{
		"empty":                    {nil, Facts{}, nil},
		"no end structure":         {structure(3, []byte{0, 0, 0, 1}, "CASE"), Facts{ChassisSerial: "CASE"}, nil},
		"string that is not there": {structure(3, []byte{0, 0, 0, 9}, "CASE"), Facts{}, nil},
		"too short for a serial":   {structure(3, []byte{0, 0}, "CASE"), Facts{}, nil},
		"AMT not supported":        {structure(130, append([]byte("$AMT"), 0, 0)), Facts{}, nil},
		"type 130 of another":      {structure(130, append([]byte("$ABC"), 1, 1)), Facts{}, nil},
		"type 130 cut":             {structure(130, []byte("$AMT")), Facts{}, nil},
		"length below the header":  {[]byte{1, 3, 0, 0, 0, 0}, Facts{}, errTruncated},
		"length past the end":      {[]byte{1, 0xFF, 0, 0, 0, 0}, Facts{}, errTruncated},
		"strings without end":      {append(structure(3, []byte{0, 0, 0, 1}, "CASE"), 1, 4, 0, 0, 'x', 0), Facts{ChassisSerial: "CASE"}, errTruncated},
	} {
		var f Facts
		if err := readSMBIOS(c.table, &f); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, f); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWindowsStructures(t *testing.T) {
	t.Parallel()
	raw := binary.LittleEndian.AppendUint32([]byte{0, 3, 2, 0}, uint32(len(testTable)))
	if got, err := rawSMBIOSTable(append(append(raw, testTable...), "rest"...)); err != nil || !bytes.Equal(got, testTable) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	for _, b := range [][]byte{nil, raw[:7], append(raw[:8:8], testTable[1:]...), {0, 0, 0, 0, 255, 255, 255, 255}} {
		if _, err := rawSMBIOSTable(b); !errors.Is(err, errTruncated) {
			t.Errorf("%x: %v", b, err)
		}
	}
	descriptor := make([]byte, 36)
	binary.LittleEndian.PutUint32(descriptor[24:], 36)
	if got := storageSerial(append(descriptor, "  SN 1  \x00rest"...)); got != "SN 1" {
		t.Errorf("got %q", got)
	}
	for _, at := range []uint32{0, 36, 1 << 31, 0xFFFFFFFF} {
		binary.LittleEndian.PutUint32(descriptor[24:], at)
		if got := storageSerial(descriptor); got != "" {
			t.Errorf("offset %d: %q", at, got)
		}
	}
	extents := make([]byte, 8+24*2)
	extents[0], extents[8], extents[32] = 2, 1, 3
	if diff := cmp.Diff([]uint32{1, 3}, volumeDisks(extents)); diff != "" {
		t.Error(diff)
	}
	extents[3] = 0xFF // a count that is not true
	if diff := cmp.Diff([]uint32{1, 3}, volumeDisks(extents)); diff != "" {
		t.Error(diff)
	}
	if got := vpdSerial([]byte("\x00\x80\x00\x06 AB12 rest")); got != "AB12" {
		t.Errorf("got %q", got)
	}
	if got := vpdSerial([]byte("\x00\x80\xFF\xFFAB")); got != "AB" {
		t.Errorf("got %q", got)
	}
	if got := vpdSerial([]byte("\x00\x83\x00\x02AB")); got != "" {
		t.Errorf("got %q", got)
	}
}

// checkHarmless holds what every origin of facts promises: text that can be shown, bounded.
func checkHarmless(t *testing.T, f Facts) {
	t.Helper()
	for _, s := range append([]string{f.SystemUUID, f.SystemSerial, f.BoardSerial, f.ChassisSerial}, func() (out []string) {
		e := f.Evidence()
		return e[:]
	}()...) {
		if printable(s) != s {
			t.Errorf("%q is not printable", s)
		}
	}
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(testTable)
	f.Add([]byte{1, 4, 0, 0, 0, 0, 127, 4, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var facts Facts
		err := readSMBIOS(b, &facts)
		if err != nil && !errors.Is(err, errTruncated) {
			t.Errorf("got %v", err)
		}
		checkHarmless(t, facts)
		if table, err := rawSMBIOSTable(b); err == nil && len(table) > len(b)-8 {
			t.Errorf("%d bytes out of %d", len(table), len(b))
		}
		storageSerial(b)
		volumeDisks(b)
		vpdSerial(b)
	})
}

// What is accepted is written and read back the same, and its evidence is the evidence of its own normal form.
func FuzzFile(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"nics":[{"mac":"001122334455","permanent":true,"onboard":true}],"disks":[{"serial":"None","system":true}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := parse(b)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\x00\n") {
				t.Errorf("an error that is no plain line: %q", err)
			}
			return
		}
		checkHarmless(t, facts)
		out, err := json.Marshal(facts)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parse(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if diff := cmp.Diff(facts, back); diff != "" {
			t.Error(diff)
		}
	})
}

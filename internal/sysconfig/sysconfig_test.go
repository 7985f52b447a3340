package sysconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/text/encoding/japanese"
	"pgregory.net/rapid"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

var sameButLine = append(compare, cmpopts.IgnoreFields(Entry{}, "Line"))

// readAll collects until the first error.
func readAll(b []byte) ([]Entry, error) {
	var out []Entry
	for e, err := range Read(bytes.NewReader(b)) {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

const sample = `# exported
' by hand: 192.0.2.1 not-a-host HID=x
192.0.2.10 PC0001 HID=0f1e2d3c4b5a69788796a5b4c3d2e1f0,TYPE=client,MAC=00-11-22-aa-bb-cc,COMMENT=3F, window, FLOOR=3 #7, ROOT=\relay1\relay2,DATE=2025/4/1 9:00:00

192.0.2.11	総務課01   type=RELAY , mac=00:11:22:AA:BB:CD,ROOT=\
2001:db8::5 pc5.example OWNER=Bob,HID=#CKEL82P,COMMENT=,DATE=
192.0.2.1 center TYPE=manager,COMMENT=日本語, ok
192.0.2.12 pc12
`

var sampleEntries = []Entry{
	{Line: 3, Address: addr("192.0.2.10"), Name: "PC0001", HID: "0f1e2d3c4b5a69788796a5b4c3d2e1f0", Type: Client,
		MAC: "00-11-22-AA-BB-CC", Comment: "3F, window, FLOOR=3 #7", Root: `\relay1\relay2`, Date: "2025/04/01 09:00:00"},
	{Line: 5, Address: addr("192.0.2.11"), Name: "総務課01", Type: Relay, MAC: "00-11-22-AA-BB-CD", Root: `\`},
	{Line: 6, Address: addr("2001:db8::5"), Name: "pc5.example", HID: "#CKEL82P", Unknown: []Operand{{"OWNER", "Bob"}}},
	{Line: 7, Address: addr("192.0.2.1"), Name: "center", Type: Manager, Comment: "日本語, ok"},
	{Line: 8, Address: addr("192.0.2.12"), Name: "pc12"},
}

func utf16Of(s string, big bool) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + s)) {
		if big {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return b
}

func cp932(t testing.TB, s string) []byte {
	t.Helper()
	b, err := japanese.ShiftJIS.NewEncoder().Bytes([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadEveryEncodingAndLineEnd(t *testing.T) {
	t.Parallel()
	crlf := strings.ReplaceAll(sample, "\n", "\r\n")
	for name, b := range map[string][]byte{
		"UTF-8": []byte(sample), "UTF-8 CRLF": []byte(crlf), "UTF-8 with mark": []byte("\ufeff" + sample),
		"no line end at the end": []byte(strings.TrimSuffix(sample, "\n")), "DOS end mark": []byte(crlf + "\x1a"),
		"UTF-16 LE": utf16Of(sample, false), "UTF-16 BE CRLF": utf16Of(crlf, true),
		"Shift_JIS": cp932(t, sample), "Shift_JIS CRLF": cp932(t, crlf),
	} {
		got, err := readAll(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(sampleEntries, got, compare); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// 0x0A as half of a UTF-16 unit ends no line; 0x5C as the second byte of a Shift_JIS character is no backslash; the
// characters that Windows added to Shift_JIS are read; a character may lie across any border of the reads.
func TestReadTreacherousBytes(t *testing.T) {
	t.Parallel()
	for _, big := range []bool{false, true} {
		got, err := readAll(utf16Of("192.0.2.1 \u0a0a\u010a\n192.0.2.2 \U0001f5a5", big))
		if err != nil || len(got) != 2 || got[0].Name != "\u0a0a\u010a" || got[1].Name != "\U0001f5a5" || got[1].Line != 2 {
			t.Errorf("big %v: %+v, %v", big, got, err)
		}
	}
	got, err := readAll(append(cp932(t, "192.0.2.1 表ソ能 COMMENT="), 0x87, 0x40, 0xFB, 0xFC)) // ①, 髙
	if err != nil || len(got) != 1 || got[0].Name != "表ソ能" || got[0].Comment != "①髙" {
		t.Errorf("%+v, %v", got, err)
	}
	long := strings.Repeat("# あいう\n", 1000) + sample
	if whole, err := readAll([]byte(strings.Repeat(long, 20))); err != nil || len(whole) != 20*len(sampleEntries) {
		t.Errorf("%d hosts, %v", len(whole), err)
	}
	var one []Entry
	for e, err := range Read(slow{strings.NewReader(long)}) {
		if err != nil {
			t.Fatal(err)
		}
		one = append(one, e)
	}
	if len(one) != len(sampleEntries) || one[1].Name != "総務課01" || one[1].Line != 1005 {
		t.Errorf("read byte by byte: %+v", one)
	}
}

// What is found out about the encoding holds across the borders of the reads.
func TestEncodingOfALongFile(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("# 0123456789\n", 4000) // 13 bytes each: more than one read
	for name, c := range map[string]struct{ text, want string }{
		"damaged": {"# あ\n" + filler + "\x83A", "line 4002, column 1: expected a character in UTF-8, found the byte 0x83; save the file as UTF-8"},
		"columns": {filler[:13*2514] + "# " + strings.Repeat("±", 100) + "\xff", "line 2515, column 203: expected a character in Shift_JIS (line 2515, column 103 is none in UTF-8), found the byte 0xFF; save the file as UTF-8"},
		"cut":     {filler[:13*2520] + "# " + strings.Repeat("±", 10) + "\xc2", ""}, // half-width katakana
	} {
		_, err := readAll([]byte(c.text))
		if got := fmt.Sprint(err); got != c.want && (c.want != "" || err != nil) {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

type slow struct{ io.ReadSeeker }

func (s slow) Read(p []byte) (int, error) { return iotest.OneByteReader(s.ReadSeeker).Read(p) }

func TestReadHostsFile(t *testing.T) {
	t.Parallel()
	const hosts = `127.0.0.1	localhost localhost.localdomain
127.0.1.1 simulated # a name of its own
127.0.0.1 this-pc localhost
::1     ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff02::1 ip6-allnodes
255.255.255.255 broadcasthost
255.255.255.255 everyone
224.0.0.1 all-systems
0.0.0.0 advertisements.example
fe80::1%lo0 localhost
10.0.0.1 pc1 pc1.example.com  # comment with owner=Bob
10.0.0.2 pc2#comment
   10.0.0.3 pc3
   # indented
10.0.0.4 sub.localhost
`
	var targets, others []string
	entries, err := readAll([]byte(hosts))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Target() {
			targets = append(targets, e.Name)
		} else {
			others = append(others, e.Name)
		}
	}
	if diff := cmp.Diff([]string{"simulated", "pc1", "pc2", "pc3"}, targets); diff != "" {
		t.Error(diff)
	}
	if len(others) != 11 {
		t.Errorf("no targets: %q", others)
	}
	if diff := cmp.Diff([]string{"pc1.example.com"}, entries[11].Aliases); diff != "" {
		t.Error(diff)
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"192.0.2.1 a TYPE=client": true, "192.0.2.1 a TYPE=relay": true, "192.0.2.1 a TYPE=manager": false, "192.0.2.1 a HID=x": true,
		"127.16.0.1 a TYPE=client": true, "127.0.0.1 localhost TYPE=client": true, "127.0.0.1 localhost HID=x": false,
		"192.0.2.1 LOCALHOST.": false, "192.0.2.1 ip6": true, "192.0.2.1 localhosts": true,
	} {
		got, err := readAll([]byte(line))
		if err != nil || len(got) != 1 || got[0].Target() != want {
			t.Errorf("%s: %+v, %v; want target %v", line, got, err, want)
		}
	}
	if (Entry{Name: "a"}).Target() {
		t.Error("an entry without address is a target")
	}
}

func TestSyntaxErrors(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"pc1 192.0.2.1":                              `line 1, column 1: expected an IP address, or ' or # before a comment, found "pc1"`,
		" ' indented":                                `line 1, column 2: expected an IP address, or ' or # before a comment, found "'"`,
		"192.0.2.256 pc":                             `line 1, column 1: expected an IP address, or ' or # before a comment, found "192.0.2.256"`,
		"192.0.2.1":                                  `line 1, column 10: expected a host name of at most 255 bytes, found the end of the line`,
		"192.0.2.1 # pc":                             `line 1, column 11: expected a host name of at most 255 bytes, found the end of the line`,
		"192.0.2.1 HID=a":                            `line 1, column 11: expected a host name of at most 255 bytes, found "HID=a"`,
		"192.0.2.1 a,b":                              `line 1, column 11: expected a host name of at most 255 bytes, found "a,b"`,
		"192.0.2.1 総務課 TYPE=pc":                      `line 1, column 20: expected client, relay or manager, found "pc"`,
		"192.0.2.1 a TYPE=client,TYPE=relay":         `line 1, column 25: expected each operand once, found "TYPE="`,
		"192.0.2.1 a HID=x,":                         `line 1, column 19: expected KEY=value, found the end of the line`,
		"192.0.2.1 a HID=x,,TYPE=client":             `line 1, column 19: expected KEY=value, found ","`,
		"192.0.2.1 a HID=x,pc,TYPE=client":           `line 1, column 19: expected KEY=value, found "pc,"`,
		"192.0.2.1 a =x":                             `line 1, column 13: expected KEY=value, found "="`,
		"192.0.2.1 a MAC= 001122334455":              `line 1, column 18: expected a MAC address as 00-11-22-33-44-55, found "001122334455"`,
		"192.0.2.1 a MAC=00-11:22-33-44-55":          `line 1, column 17: expected a MAC address as 00-11-22-33-44-55, found "00-11:22-33-44-55"`,
		"192.0.2.1 a ROOT=relay1":                    `line 1, column 18: expected \ or \relay1\relay2, found "relay1"`,
		`192.0.2.1 a ROOT=\relay1\`:                  `line 1, column 18: expected \ or \relay1\relay2, found "\\relay1\\"`,
		"192.0.2.1 a DATE=01.04.2025":                `line 1, column 18: expected a date as 2025/04/01 09:00:00, found "01.04.2025"`,
		"192.0.2.1 a DATE=2025/02/30 00:00:00":       `line 1, column 18: expected a date as 2025/04/01 09:00:00, found "2025/02/30 00:00:00"`,
		"192.0.2.1 a HID=" + strings.Repeat("f", 65): `line 1, column 17: expected a host ID of at most 64 bytes, found "ffffffffffffffffffffffffffffffffffffffff..."`,
		"192.0.2.1 a COMMENT=\x1b[2J":                `line 1, column 21: expected text, found "\x1b"`,
		"192.0.2.1 a\rb":                             `line 1, column 12: expected lines that end with LF or CRLF, found "\r"`,
		"# hosts\r192.0.2.1 pc\r":                    `line 1, column 8: expected lines that end with LF or CRLF, found "\r"`,
		"' \x1b[2J":                                  `line 1, column 3: expected text, found "\x1b"`,
		"192.0.2.1 pc\u3000pc2":                      `line 1, column 11: expected a host name of at most 255 bytes, found "pc\u3000pc2"`,
		"192.0.2.1 pc\u202e1":                        `line 1, column 11: expected a host name of at most 255 bytes, found "pc\u202e1"`,
		"192.0.2.1 pc1 pc\u200b1":                    `line 1, column 15: expected a host name of at most 255 bytes, found "pc\u200b1"`,
	} {
		_, err := readAll([]byte(line))
		var se *SyntaxError
		if !errors.As(err, &se) || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", line, err, want)
		}
	}
}

// Who goes on after a wrong line gets all of them.
func TestGoesOnAfterASyntaxError(t *testing.T) {
	t.Parallel()
	var got []string
	for e, err := range Read(strings.NewReader("nonsense\n192.0.2.1 a\n192.0.2.2 b TYPE=x\n192.0.2.3 c")) {
		var se *SyntaxError
		if errors.As(err, &se) {
			got = append(got, fmt.Sprint("line ", se.Line))
		} else if err != nil {
			t.Fatal(err)
		} else {
			got = append(got, e.Name)
		}
	}
	if diff := cmp.Diff([]string{"line 1", "a", "line 3", "c"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFilesThatAreNoText(t *testing.T) {
	t.Parallel()
	noMark := utf16Of("192.0.2.1 a", false)[2:]
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"UTF-16 without mark":           {noMark, "line 1, column 2: expected text, in UTF-16 only after a byte order mark, found a NUL; save the file as UTF-8"},
		"UTF-16 without mark, no UTF-8": {utf16Of("# \u3042\u8868", false)[2:], "line 1, column 2: expected text, in UTF-16 only after a byte order mark, found a NUL; save the file as UTF-8"},
		"odd UTF-16":                    {append(utf16Of("192.0.2.1 a", false), 0), "line 1, column 12: expected a character in UTF-16, found half a character at the end of the file: it is cut; save the file as UTF-8"},
		"odd UTF-16 BE":                 {append(utf16Of("192.0.2.1 a\n", true), 0), "line 2, column 1: expected a character in UTF-16, found half a character at the end of the file: it is cut; save the file as UTF-8"},
		"odd UTF-16 after a line end":   {append(utf16Of("192.0.2.1 a\n", false), '\n'), "line 2, column 1: expected a character in UTF-16, found half a character at the end of the file: it is cut; save the file as UTF-8"},
		"lone surrogate":                {append(utf16Of("# ", false), 0x00, 0xD8, 'x', 0), "line 1, column 3: expected a character in UTF-16, found half of a surrogate pair; save the file as UTF-8"},
		"surrogate at the end":          {append(utf16Of("# ", false), 0x00, 0xD8), "line 1, column 3: expected a character in UTF-16, found half of a surrogate pair; save the file as UTF-8"},
		"surrogates the wrong way":      {append(utf16Of("# ", false), 0x00, 0xDC, 0x00, 0xD8), "line 1, column 3: expected a character in UTF-16, found half of a surrogate pair; save the file as UTF-8"},
		"neither":                       {[]byte("# \xc2\xb1\xb1\n192.0.2.1 \x83A\xff"), "line 2, column 12: expected a character in Shift_JIS (line 1, column 4 is none in UTF-8), found the byte 0xFF; save the file as UTF-8"},
		"damaged UTF-8":                 {[]byte("# \xe3\x81\x82\n192.0.2.1 \x83A"), "line 2, column 11: expected a character in UTF-8, found the byte 0x83; save the file as UTF-8"},
		"neither, in columns":           {[]byte("# \x82\xa0\x82\xa2\xb1\xff"), "line 1, column 6: expected a character in Shift_JIS (line 1, column 3 is none in UTF-8), found the byte 0xFF; save the file as UTF-8"},
		"cut":                           {[]byte("192.0.2.1 a\n\xe3"), "line 2, column 1: expected a character in Shift_JIS (line 2, column 1 is none in UTF-8), found the byte 0xE3; save the file as UTF-8"},
		"UTF-8 with mark":               {[]byte("\xef\xbb\xbf# \n\x83A"), "line 2, column 1: expected a character in UTF-8, found the byte 0x83; save the file as UTF-8"},
		"long line":                     {[]byte("\n#" + strings.Repeat("x", maxLine)), `line 2, column 8193: expected the end of the line after at most 8192 bytes, found "x"`},
		"very long line":                {[]byte("#" + strings.Repeat("x", 1<<20)), `line 1, column 8193: expected the end of the line after at most 8192 bytes, found "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."`},
		"long in UTF-8":                 {append(cp932(t, "# 表"), bytes.Repeat([]byte{0xB1}, maxLine/3)...), `line 1, column 2733: expected the end of the line after at most 8192 bytes, found "ｱ"`},
	} {
		if _, err := readAll(c.b); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if got, err := readAll(nil); len(got) != 0 || err != nil {
		t.Errorf("an empty file: %v, %v", got, err)
	}
	broken := errors.New("broken")
	for _, err := range Read(failing{strings.NewReader(sample), broken}) {
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	if _, _, err := survey(strings.NewReader(strings.Repeat("#", 1<<20+1)), 1<<20, true); err == nil || err.Error() != "more than 1 MiB: this is no system configuration information file" {
		t.Errorf("got %v", err)
	}
	if notUTF8, _, err := survey(strings.NewReader(strings.Repeat("#", 1<<20)), 1<<20, true); err != nil || notUTF8 != "" {
		t.Errorf("got %q, %v", notUTF8, err)
	}
}

type failing struct {
	io.ReadSeeker
	err error
}

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWrite(t *testing.T) {
	t.Parallel()
	const want = `192.0.2.10 PC0001 HID=0f1e2d3c4b5a69788796a5b4c3d2e1f0,TYPE=client,MAC=00-11-22-AA-BB-CC,COMMENT=3F, window, FLOOR=3 #7,ROOT=\relay1\relay2,DATE=2025/04/01 09:00:00
192.0.2.11 総務課01 TYPE=relay,MAC=00-11-22-AA-BB-CD,ROOT=\
2001:db8::5 pc5.example HID=#CKEL82P,OWNER=Bob
192.0.2.1 center TYPE=manager,COMMENT=日本語, ok
192.0.2.12 pc12
`
	var b bytes.Buffer
	if err := Write(&b, slices.Values(sampleEntries), UTF8); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := Write(&b, slices.Values(sampleEntries), ShiftJIS); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(cp932(t, shiftJISHead+"\r\n"+strings.ReplaceAll(want, "\n", "\r\n"))), b.String()); diff != "" {
		t.Error(diff)
	}
}

// Half-width katakana in pairs are UTF-8 too: the first line makes sure of the encoding.
func TestShiftJISIsRecognised(t *testing.T) {
	t.Parallel()
	in := []Entry{{Address: addr("192.0.2.1"), Name: "ﾂｱ"}}
	var b bytes.Buffer
	if err := Write(&b, slices.Values(in), ShiftJIS); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, got, sameButLine); diff != "" {
		t.Error(diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	a := addr("192.0.2.1")
	for _, c := range []struct {
		e    Entry
		enc  Encoding
		want string
	}{
		{Entry{Name: "pc"}, UTF8, `host "pc": IP address: missing; every line begins with one`},
		{Entry{Address: a}, UTF8, `host "192.0.2.1": host name: "" is none; it must be at most 255 bytes without blanks and without = , # \`},
		{Entry{Address: a, Name: "a b"}, UTF8, `host "a b": host name: "a b" is none; it must be at most 255 bytes without blanks and without = , # \`},
		{Entry{Address: a, Name: "a\n192.0.2.2"}, UTF8, `host "a\n192.0.2.2": host name: "a\n192.0.2.2" holds a control character`},
		{Entry{Address: a, Name: "pc", Aliases: []string{"x=y"}}, UTF8, `host "pc": alias: "x=y" is none; it must be at most 255 bytes without blanks and without = , # \`},
		{Entry{Address: addr("fe80::1%a b"), Name: "pc"}, UTF8, `host "pc": IP address: the zone "a b" holds a blank or #`},
		{Entry{Address: a, Name: "pc", HID: "a,b"}, UTF8, `host "pc": HID: holds a comma, which ends it`},
		{Entry{Address: a, Name: "pc", Type: "server"}, UTF8, `host "pc": TYPE: "server" is not client, relay or manager`},
		{Entry{Address: a, Name: "pc", MAC: "00:11:22:33:44:55"}, UTF8, `host "pc": MAC: "00:11:22:33:44:55" must be written "00-11-22-33-44-55"`},
		{Entry{Address: a, Name: "pc", Comment: "x, root=y"}, UTF8, `host "pc": COMMENT: "x, root=y" holds what begins the next operand`},
		{Entry{Address: a, Name: "pc", Comment: "two\nlines"}, UTF8, `host "pc": COMMENT: "two\nlines" holds a control character`},
		{Entry{Address: a, Name: "pc", Comment: " x"}, UTF8, `host "pc": COMMENT: " x" begins or ends with a blank`},
		{Entry{Address: a, Name: "pc", Comment: "\xff"}, UTF8, `host "pc": COMMENT: "\xff" is not UTF-8`},
		{Entry{Address: a, Name: "pc", Comment: strings.Repeat("x", maxLine)}, UTF8, `host "pc": line: longer than 8192 bytes`},
		{Entry{Address: a, Name: "pc", Unknown: []Operand{{"hid", "x"}}}, UTF8, `host "pc": operand "hid": not a key for an operand of another program`},
		{Entry{Address: a, Name: "pc", Unknown: []Operand{{"X", "a,b"}}}, UTF8, `host "pc": X: holds a comma, which ends it`},
		{Entry{Address: a, Name: "pc", Comment: "fine 表 not 한"}, ShiftJIS, `host "pc": COMMENT: the character '한' (U+D55C) does not exist in Shift_JIS; write the file as UTF-8`},
		{Entry{Address: a, Name: "pc", Comment: "¥100"}, ShiftJIS, `host "pc": COMMENT: the character '¥' (U+00A5) does not exist in Shift_JIS; write the file as UTF-8`},
		{Entry{Address: a, Name: "パソコン～〜"}, ShiftJIS, `host "パソコン～〜": host name: the character '〜' (U+301C) does not exist in Shift_JIS; write the file as UTF-8`},
	} {
		if err := Write(io.Discard, slices.Values([]Entry{c.e}), c.enc); err == nil || err.Error() != c.want {
			t.Errorf("%+v:\n got %v\nwant %s", c.e, err, c.want)
		}
	}
}

func TestParseEncoding(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Encoding{"utf-8": UTF8, "UTF8": UTF8, "shift_jis": ShiftJIS, "SJIS": ShiftJIS, "cp932": ShiftJIS} {
		if got, err := ParseEncoding(name); got != want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := ParseEncoding("euc-jp"); err == nil {
		t.Error("euc-jp is accepted")
	}
}

// Ten thousand hosts are read with the memory of one.
func TestStreams(t *testing.T) {
	line := sample[strings.Index(sample, "192.0.2.10"):]
	line = line[:strings.IndexByte(line, '\n')+1]
	all := strings.Repeat(line, 10_000)
	count := 0
	total := testing.AllocsPerRun(1, func() {
		count = 0
		for _, err := range Read(strings.NewReader(all)) {
			if err != nil {
				t.Fatal(err)
			}
			count++
		}
	})
	if count != 10_000 {
		t.Errorf("%d hosts", count)
	}
	if per := total / 10_000; per > 20 {
		t.Errorf("%.1f allocations per host", per)
	}
}

// Every character that Windows' code page 932 has comes back as its bytes or as another place of the same character;
// the users' own characters too, which the library lacks.
func TestEveryShiftJISCharacter(t *testing.T) {
	t.Parallel()
	characters, own := 0, 0
	for lead := 0x81; lead <= 0xFF; lead++ {
		for trail := 0; trail <= 0xFF; trail++ {
			raw := []byte{byte(lead), byte(trail)}
			text, bad := decodeShiftJIS(raw)
			if bad >= 0 || !isLead(raw[0]) {
				continue
			}
			characters++
			if lead >= 0xF0 && lead <= 0xF9 {
				if r := []rune(text); len(r) != 1 || int(r[0]) != 0xE000+own {
					t.Errorf("% X is %+q, want %U", raw, text, 0xE000+own)
				}
				own++
			}
			out, err := toShiftJIS(text)
			if err != nil {
				t.Errorf("% X %s: %v", raw, text, err)
			} else if back, bad := decodeShiftJIS([]byte(out)); bad >= 0 || back != text {
				t.Errorf("% X %s: written as % X, which is %s", raw, text, out, back)
			}
		}
	}
	if own != 1880 || characters != 9604 {
		t.Errorf("%d characters, %d of them users' own", characters, own)
	}
	if text, bad := decodeShiftJIS([]byte("a\xf0\x40\xb1\xf0\x7f")); bad != 4 {
		t.Errorf("%q, %d", text, bad)
	}
	if text, bad := decodeShiftJIS([]byte("\x81\xf0\xf0\x80\x41\xf9\xfc")); bad >= 0 || text != "\u212b\ue03fA\ue757" {
		t.Errorf("%+q, %d", text, bad)
	}
}

// A line of the greatest length can be read, and written, in every encoding; one byte more is an error.
func TestLongestLine(t *testing.T) {
	t.Parallel()
	const head = "192.0.2.1 pc COMMENT="
	room := maxLine - len(head)
	for name, encode := range map[string]func(string) []byte{
		"UTF-8":       func(s string) []byte { return []byte(s) },
		"UTF-8 mark":  func(s string) []byte { return []byte("\ufeff" + s) },
		"UTF-16 LE":   func(s string) []byte { return utf16Of(s, false) },
		"UTF-16 BE":   func(s string) []byte { return utf16Of(s, true) },
		"Shift_JIS":   func(s string) []byte { return cp932(t, s) },
		"end mark":    func(s string) []byte { return []byte(s + "\x1a") },
		"marks, CRLF": func(s string) []byte { return []byte(s + "\x1a\x1a\r\n") },
	} {
		for _, c := range []string{"x", "ｱ", "表"} {
			for _, end := range []string{"", "\n", "\r\n"} {
				if strings.HasPrefix(name, "mark") || strings.HasPrefix(name, "end") {
					end = ""
				}
				longest := head + strings.Repeat(c, room/len(c)) + strings.Repeat("y", room%len(c))
				got, err := readAll(encode(longest + end))
				if err != nil || len(got) != 1 || got[0].Comment != longest[len(head):] {
					t.Fatalf("%s, %s: %d, %.200v", name, c, len(got), err)
				}
				for _, enc := range []Encoding{UTF8, ShiftJIS} {
					if err := Write(io.Discard, slices.Values(got), enc); err != nil {
						t.Errorf("%s, %s: %.200v", name, c, err)
					}
				}
				_, err = readAll(encode(longest + "z" + end))
				want := fmt.Sprintf("line 1, column %d: expected the end of the line after at most 8192 bytes, found \"z\"", len([]rune(longest))+1)
				if err == nil || err.Error() != want {
					t.Errorf("%s, %s: got %.200v, want %s", name, c, err, want)
				}
			}
		}
	}
	for _, line := range []string{"::ffff:ffff:ffff pc COMMENT=", "192.0.2.1 pc DATE=2025/1/1 0:0:0,COMMENT="} {
		if _, err := readAll([]byte(line + strings.Repeat("x", maxLine-len(line)))); err == nil || !strings.HasPrefix(err.Error(), "line 1, column 1: expected a line of at most 8192 bytes with address and DATE in full, found ") {
			t.Errorf("%s: got %.200v", line, err)
		}
		if _, err := readAll([]byte(line + strings.Repeat("x", maxLine-len(line)-6))); err != nil {
			t.Errorf("%s: got %.200v", line, err)
		}
	}
}

// generated are entries that can be written in UTF-8.
func generated() *rapid.Generator[Entry] {
	letters := []rune("aZ09_-.~'\"*:;/+&()ｱﾂ表ソ能～①髙\ue000\ue757é한\U0001f5a5")
	name := rapid.StringOfN(rapid.RuneFrom(letters), 1, 12, -1)
	// Texts that end in blanks are no values; "=" and "," stand where they are hard to tell from operands.
	text := rapid.Map(rapid.StringOfN(rapid.RuneFrom(append([]rune("  \t==##'\\¥\u3000\u2028\ufeffHIDTYPE"), letters...)), 0, 20, -1),
		func(s string) string { return strings.Trim(s, blanks) })
	address := rapid.OneOf(
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 4, 4), func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }),
		rapid.SampledFrom([]netip.Addr{addr("::"), addr("fe80::1%eth0"), addr("fe80::1%a=,'b"), addr("::ffff:192.0.2.1"), addr("::ffff:0.0.0.0%x")}))
	return rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{
			Address: address.Draw(t, "address"), Name: name.Draw(t, "name"), Aliases: rapid.SliceOfN(name, 0, 3).Draw(t, "aliases"),
			HID: text.Draw(t, "HID"), Type: rapid.SampledFrom([]Type{"", Client, Relay, Manager}).Draw(t, "TYPE"),
			MAC:  rapid.StringMatching(`|([0-9A-F]{2}-){5}[0-9A-F]{2}`).Draw(t, "MAC"),
			Root: rapid.SampledFrom([]string{"", `\`, `\a`, `\表\ソ`, `\relay 1\relay=2\#3`}).Draw(t, "ROOT"),
			Date: rapid.StringMatching(`|(0001|1999|2025|9999)/(0[1-9]|1[0-2])/(0[1-9]|1[0-9]|2[0-8]) ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]`).Draw(t, "DATE"),
		}
		if len(e.HID) > maxHID {
			e.HID = ""
		}
		for range rapid.IntRange(0, 3).Draw(t, "unknown") {
			e.Unknown = append(e.Unknown, Operand{rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_-]{0,5}`).Filter(func(k string) bool { return knownKey(k) == "" }).Draw(t, "key"), text.Draw(t, "value")})
		}
		e.Comment = strings.Trim(strings.Join(rapid.SliceOfN(rapid.OneOf(text, rapid.SampledFrom([]string{"hid", "MAC =", "x=", " DATE"})), 0, 4).Draw(t, "COMMENT"), ","), blanks)
		if commentEnd(e.Comment, 0) != len(e.Comment) {
			e.Comment = ""
		}
		return e
	})
}

func TestWrittenComesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(generated(), 0, 5).Draw(t, "entries")
		for _, enc := range []Encoding{UTF8, ShiftJIS} {
			var out bytes.Buffer
			err := Write(&out, slices.Values(entries), enc)
			if lacks := (*FieldError)(nil); enc == ShiftJIS && errors.As(err, &lacks) && strings.Contains(err.Error(), "does not exist in Shift_JIS") {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			back, err := readAll(out.Bytes())
			if err != nil {
				t.Fatalf("%v\n%q", err, out.Bytes())
			}
			if diff := cmp.Diff(entries, back, sameButLine); diff != "" {
				t.Errorf("%s\n%q", diff, out.Bytes())
			}
			var again bytes.Buffer
			if err := Write(&again, slices.Values(back), enc); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
				t.Errorf("%v: %q, then %q", err, out.Bytes(), again.Bytes())
			}
		}
	})
}

// What is read can be written, and what was written reads back the same; in Shift_JIS unless it lacks a character.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte(sample))
	f.Add(utf16Of(sample, true))
	f.Add(cp932(f, sample))
	files, err := filepath.Glob(filepath.Join(corpus, "*[Ds]")) // .NDD and .hosts, without .want
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := readAll(b)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n\x1b\x00") {
				t.Errorf("an error that is no plain line: %q", err)
			}
			return
		}
		for _, enc := range []Encoding{UTF8, ShiftJIS} {
			var out bytes.Buffer
			if err := Write(&out, slices.Values(entries), enc); err != nil {
				if enc == UTF8 {
					t.Errorf("read but not written: %v", err)
				}
				continue
			}
			back, err := readAll(out.Bytes())
			if err != nil {
				t.Fatalf("written but not read: %v\n%q", err, out.Bytes())
			}
			if diff := cmp.Diff(entries, back, sameButLine); diff != "" {
				t.Errorf("%s\n%q", diff, out.Bytes())
			}
		}
	})
}

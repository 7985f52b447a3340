package hardware

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"samehost/internal/hostid"
)

// Evidence is what of the facts tells this PC from others, in the form that enters digests: a placeholder or what
// has not the form of its kind is "". Facts of any origin may be hostile; Evidence takes them as they are.
//
//   - system UUID: lower case with hyphens, as SMBIOS 2.6 and later display it
//   - serial numbers: upper case, blanks trimmed and single, '?' for what is not ASCII; the disk's is the system disk's (of several,
//     as in a mirror, the lowest)
//   - onboard MAC: the lowest permanent one on the board, 00-11-22-33-44-FF
//   - TPM endorsement key: SHA-256 in lower-case hex
func (f Facts) Evidence() hostid.Evidence { return f.EvidenceWithout(nil) }

// EvidenceWithout is Evidence with further placeholders blanked, such as values that a manager saw on many hosts.
func (f Facts) EvidenceWithout(extra Placeholders) hostid.Evidence {
	serial := func(s string) string {
		s = normalizeSerial(s)
		if oneCharacter(strings.Map(letterOrDigit, s)) || builtin.match("serial", s) || extra.match("serial", s) {
			return ""
		}
		return s
	}
	var e hostid.Evidence
	if u, ok := NormalizeUUID(f.SystemUUID); ok && !oneCharacter(strings.ReplaceAll(u, "-", "")) &&
		!builtin.match("uuid", strings.ToUpper(u)) && !extra.match("uuid", strings.ToUpper(u)) {
		e[hostid.SystemUUID] = u
	}
	e[hostid.BoardSerial] = serial(f.BoardSerial)
	e[hostid.SystemSerial] = serial(f.SystemSerial)
	e[hostid.ChassisSerial] = serial(f.ChassisSerial)
	for _, n := range f.NICs {
		m, ok := normalizeMAC(n.MAC)
		if !n.Permanent || !n.Onboard || !ok || builtin.match("mac", m) || extra.match("mac", m) {
			continue
		}
		if first, _ := hex.DecodeString(m[:2]); first[0]&3 != 0 { // locally administered, or no single adapter's
			continue
		}
		if old := e[hostid.OnboardMAC]; old == "" || m < old {
			e[hostid.OnboardMAC] = m
		}
	}
	for _, d := range f.Disks {
		if s := serial(d.Serial); d.System && s != "" && (e[hostid.DiskSerial] == "" || s < e[hostid.DiskSerial]) {
			e[hostid.DiskSerial] = s
		}
	}
	if raw, err := hex.DecodeString(f.TPMEKSHA256); err == nil && len(raw) == 32 && !oneCharacter(hex.EncodeToString(raw)) {
		e[hostid.TPMEndorsementKey] = hex.EncodeToString(raw)
	}
	return e
}

// builtinPlaceholders are the values that manufacturers leave where something of this PC alone should stand: the
// union of what tools that met them in the field have collected. What consists of one repeated letter or digit (all
// zeros, all F, xxxx, 00-00-00), or of none, needs no line here, nor does a MAC with the locally administered bit.
const builtinPlaceholders = `
uuid 03000200-0400-0500-0006-000700080009
uuid 03020100-0504-0706-0809-0A0B0C0D0E0F
uuid 00020003-0004-0005-0006-000700080009
uuid 10000000-0000-8000-0040-000000000000
uuid 6AB5B300-538D-1014-9FB5-B0684D007B53
uuid 12345678-1234-5678-90AB-CDDEEFAABBCC
uuid 01010101-0101-0101-0101-010101010101
uuid FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE
serial To Be Filled By O.E.M*
serial To Be Set By OEM*
serial System Serial Number
serial System SerialNumber
serial Serial Number
serial SerialNumber
serial Chassis Serial Number
serial Base Board Serial Number
serial Board Serial Number
serial Default
serial Default string
serial Default_string
serial Not Specified
serial Not Applicable
serial Not Available
serial Not Provided
serial Not Set
serial None
serial Null
serial N/A
serial NA
serial Unknown
serial Undefined
serial Invalid
serial Empty
serial OEM
serial O.E.M.
serial Enter Serial*
serial SYS-1234567890
serial MB-1234567890
serial 123456
serial 1234567
serial 12345678
serial 123456789
serial 1234567890
serial 0123456789
serial 0123456789ABCDEF
mac 44-45-53-54-*
mac 00-50-56-C0-*
mac 00-05-9A-3C-7*
mac 00-09-0F-FE-*
mac 00-09-0F-AA-*
mac 00-1C-42-00-00-*
mac 00-FF-*
mac 00-00-00-00-00-*
`

var builtin = func() Placeholders {
	p, err := ParsePlaceholders(strings.NewReader(builtinPlaceholders))
	if err != nil {
		panic(err)
	}
	return p
}()

// Placeholders are patterns of values that prove nothing. A pattern matches a whole value, never a part of it.
type Placeholders []placeholder

type placeholder struct{ kind, pattern string }

// MaxPlaceholderList is how many bytes a list may have: a manager hands it out in one reply.
const MaxPlaceholderList = 64 << 10

// ParsePlaceholders reads a list of at most MaxPlaceholderList bytes: per line a kind (uuid, serial or mac), a blank,
// and the value; '*' in it stands for any characters. Case and the number of blanks do not count, nor how a whole UUID
// or MAC address is spelled. Empty lines and lines that begin with '#' are skipped.
func ParsePlaceholders(r io.Reader) (Placeholders, error) {
	var out Placeholders
	b, err := io.ReadAll(io.LimitReader(r, MaxPlaceholderList+1))
	if err != nil {
		return nil, err
	}
	tooLong := fmt.Errorf("more than %d KiB: shorten the list, with '*' where values begin alike", MaxPlaceholderList>>10)
	if len(b) > MaxPlaceholderList {
		return nil, tooLong
	}
	line := 0
	for text := range strings.Lines(string(b)) {
		line++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		kind, pattern, _ := strings.Cut(text, " ")
		pattern = normalizeSerial(pattern)
		switch kind {
		case "uuid":
			if u, ok := NormalizeUUID(pattern); ok {
				pattern = strings.ToUpper(u)
			}
		case "mac":
			if m, ok := normalizeMAC(pattern); ok {
				pattern = m
			}
			pattern = strings.ReplaceAll(pattern, ":", "-")
		case "serial":
		default:
			return nil, fmt.Errorf("line %d: %q is no kind of value; write uuid, serial or mac before the value", line, printable(kind))
		}
		if strings.Trim(pattern, "* ") == "" {
			return nil, fmt.Errorf("line %d: a placeholder for every %s; write the value that proves nothing", line, kind)
		}
		out = append(out, placeholder{kind, pattern})
	}
	if len(out.String()) > MaxPlaceholderList { // with the hyphens that it may have left out
		return nil, tooLong
	}
	return out, nil
}

// String is the list in its one spelling, as ParsePlaceholders reads it: a line for each value, sorted, none twice. The
// empty list is a comment, so that it can be told from no list at all.
func (p Placeholders) String() string {
	lines := make([]string, 0, len(p))
	for _, x := range p {
		lines = append(lines, x.kind+" "+x.pattern+"\n")
	}
	slices.Sort(lines)
	if len(lines) == 0 {
		return "# none\n"
	}
	return strings.Join(slices.Compact(lines), "")
}

// Digest names the list, however it was written: SHA-256 of String in lower-case hex; "" for the empty list.
func (p Placeholders) Digest() string {
	if len(p) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(p.String()))
	return hex.EncodeToString(sum[:])
}

// match compares a normalised value in upper case.
func (p Placeholders) match(kind, value string) bool {
	for _, x := range p {
		if x.kind == kind && glob(x.pattern, value) {
			return true
		}
	}
	return false
}

// glob matches the whole of s; '*' stands for any bytes. It goes back to the last star only, so it is no worse than
// the product of the lengths.
func glob(pattern, s string) bool {
	p, i, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// oneCharacter reports whether s repeats one character, a single one included.
func oneCharacter(s string) bool {
	for _, r := range s {
		return strings.Trim(s, string(r)) == ""
	}
	return true
}

// letterOrDigit drops what stands between the digits of 00-00-00 and what could not be read.
func letterOrDigit(r rune) rune {
	if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' {
		return r
	}
	return -1
}

// normalizeSerial looks up nothing in Unicode's tables: what is printable and what is upper case there changes from
// one version of the standard to the next, and digests of this text lie in nonvolatile memory for years.
func normalizeSerial(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, printable(s))
	return strings.Join(strings.Fields(s), " ")
}

// normalizeMAC accepts hyphens, colons or nothing between the bytes.
func normalizeMAC(s string) (string, bool) {
	s = strings.ToUpper(strings.TrimSpace(s))
	digits := s
	if len(s) == 17 {
		if sep := s[2]; sep != '-' && sep != ':' || s[5] != sep || s[8] != sep || s[11] != sep || s[14] != sep {
			return "", false
		}
		digits = s[:2] + s[3:5] + s[6:8] + s[9:11] + s[12:14] + s[15:]
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 6 {
		return "", false
	}
	return formatMAC(raw), true
}

func formatMAC(b []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", b), " ", "-")
}

// NormalizeUUID writes a UUID in lower case with hyphens. It takes any case, braces, and 32 digits without hyphens;
// the order of the digits stays (see RawUUID).
func NormalizeUUID(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if len(s) == 38 && s[0] == '{' && s[37] == '}' {
		s = s[1:37]
	}
	if len(s) == 36 {
		if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return "", false
		}
		s = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 16 {
		return "", false
	}
	return formatUUID(raw), true
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// RawUUID turns a UUID as it is displayed into the 32 upper-case hex digits of its raw SMBIOS bytes, the form of
// AMT's PlatformGUID.
func RawUUID(displayed string) (string, bool) {
	u, ok := NormalizeUUID(displayed)
	if !ok {
		return "", false
	}
	b, _ := hex.DecodeString(strings.ReplaceAll(u, "-", ""))
	swapUUID(b)
	return strings.ToUpper(hex.EncodeToString(b)), true
}

// DisplayUUID turns raw SMBIOS bytes, 32 hex digits as in AMT's PlatformGUID, into the form of Facts.SystemUUID.
func DisplayUUID(raw string) (string, bool) {
	b, err := hex.DecodeString(raw)
	if err != nil || len(b) != 16 {
		return "", false
	}
	swapUUID(b)
	return formatUUID(b), true
}

// swapUUID turns raw SMBIOS order into display order and back: the first three fields are little-endian (SMBIOS
// 2.6, 7.2.1).
func swapUUID(b []byte) {
	slices.Reverse(b[:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
}

// Package hardware gathers evidence about this PC: SMBIOS, disks, network interfaces, TPM. Values that
// manufacturers leave as placeholders prove nothing and are told apart.
//
// Facts are what was found, Evidence is what of it counts. docs/protocol/hardware.md states both, and the forms in
// which values enter digests that stay in nonvolatile memory for years.
package hardware

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"samehost/internal/hostid"
)

// Facts are the raw facts about a PC, as a client reports them and as a [hardware] file states them
// (docs/protocol/hardware.md). Strings are as found, trimmed; a placeholder is still in here.
type Facts struct {
	SystemUUID    string `json:"system_uuid"` // as SMBIOS 2.6 and later display it, lower case
	SystemSerial  string `json:"system_serial"`
	BoardSerial   string `json:"board_serial"`
	ChassisSerial string `json:"chassis_serial"`
	Disks         []Disk `json:"disks"`
	NICs          []NIC  `json:"nics"`
	TPMEKSHA256   string `json:"tpm_ek_sha256"` // SHA-256 of the endorsement key, hex
	SMBIOSAMT     bool   `json:"smbios_amt"`    // SMBIOS says that this PC has AMT
}

// Disk is one disk of the PC.
type Disk struct {
	Serial string `json:"serial"`
	System bool   `json:"system"` // holds the running system
}

// NIC is one network interface of the PC.
type NIC struct {
	MAC       string `json:"mac"`       // 00-11-22-33-44-55
	Permanent bool   `json:"permanent"` // burnt in, not set by software
	Onboard   bool   `json:"onboard"`   // sits on the board
}

const (
	maxFile  = 64 << 10 // bytes of a [hardware] file
	maxText  = 128      // characters of one text; serial numbers have a few dozen
	maxItems = 64       // disks, and network interfaces
)

// Load reads the facts from a [hardware] file instead of this machine: tests and simulated PCs. Unknown, misspelled
// and repeated keys are errors that name the key and its line; so are values that no hardware has.
func Load(path string) (Facts, error) {
	b, err := hostid.ReadRegularFile(path, maxFile)
	if errors.Is(err, hostid.ErrCorrupt) {
		return Facts{}, fmt.Errorf("hardware file %s: longer than %d KiB, as no such file is; name another", path, maxFile>>10)
	}
	if err != nil {
		return Facts{}, fmt.Errorf("hardware file %s: %w", path, err)
	}
	facts, err := parse(b)
	if err != nil {
		return Facts{}, fmt.Errorf("hardware file %s: %w", path, err)
	}
	return facts, nil
}

func parse(b []byte) (Facts, error) {
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // Notepad's mark
	if !utf8.Valid(b) {
		return Facts{}, errors.New("not UTF-8; save it as UTF-8")
	}
	if err := judgeKeys(b); err != nil {
		return Facts{}, err
	}
	var f Facts
	if err := json.Unmarshal(b, &f); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return Facts{}, fmt.Errorf("line %d: %s must be %s, not %s", lineAt(b, te.Offset), te.Field, jsonKind(te.Type.Kind().String()), te.Value)
		}
		return Facts{}, fmt.Errorf("not JSON: %w", err)
	}
	if err := f.judge(); err != nil {
		return Facts{}, err
	}
	return f, nil
}

func jsonKind(kind string) string {
	switch kind {
	case "bool":
		return "true or false"
	case "slice":
		return "a list"
	case "struct":
		return "an object"
	default:
		return "text"
	}
}

// fileKeys are the keys of a file's object, and of the objects in its lists.
var fileKeys = map[string][]string{
	"":      {"system_uuid", "system_serial", "board_serial", "chassis_serial", "disks", "nics", "tpm_ek_sha256", "smbios_amt"},
	"disks": {"serial", "system"},
	"nics":  {"mac", "permanent", "onboard"},
}

// judgeKeys refuses what encoding/json would take: keys in another case, repeated keys, and text after the end.
func judgeKeys(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	notJSON := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("line %d: not JSON: it ends too early", lineAt(b, int64(len(b))))
		}
		var se *json.SyntaxError
		if errors.As(err, &se) {
			return fmt.Errorf("line %d: not JSON: %w", lineAt(b, se.Offset), err)
		}
		return fmt.Errorf("line %d: not JSON: %w", lineAt(b, d.InputOffset()), err)
	}
	var value func(in string, depth int) error
	value = func(in string, depth int) error {
		t, err := d.Token()
		if err != nil {
			return notJSON(err)
		}
		line := lineAt(b, d.InputOffset())
		if depth == 0 && t != json.Delim('{') {
			return fmt.Errorf("line %d: the facts must be an object, {...}", line)
		}
		if t != json.Delim('{') && t != json.Delim('[') {
			return nil
		}
		if depth == 4 {
			return fmt.Errorf("line %d: nested too deeply", line)
		}
		seen := map[string]bool{}
		for d.More() {
			if t == json.Delim('[') {
				if err := value(in, depth+1); err != nil {
					return err
				}
				continue
			}
			k, err := d.Token()
			if err != nil {
				return notJSON(err)
			}
			key, _ := k.(string)
			line := lineAt(b, d.InputOffset())
			if !slices.Contains(fileKeys[in], key) {
				where := ""
				if in != "" {
					where = " in " + in
				}
				return fmt.Errorf("line %d: %s is not known%s; leave it out (known: %s)", line, strconv.Quote(printable(key)), where, strings.Join(fileKeys[in], ", "))
			}
			if seen[key] {
				return fmt.Errorf("line %d: %q stands there twice; leave one out", line, key)
			}
			seen[key] = true
			if err := value(key, depth+1); err != nil {
				return err
			}
		}
		if _, err := d.Token(); err != nil {
			return notJSON(err)
		}
		return nil
	}
	if err := value("", 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("line %d: text after the end of the object", lineAt(b, d.InputOffset()))
	}
	return nil
}

func lineAt(b []byte, offset int64) int {
	return 1 + bytes.Count(b[:min(max(offset, 0), int64(len(b)))], []byte("\n"))
}

// judge checks the values of a file, which somebody wrote on purpose, and brings them into the form of Facts.
// What firmware says is never an error; Gather and Evidence take what they can of it.
func (f *Facts) judge() error {
	texts := []struct {
		name string
		s    *string
	}{{"system_serial", &f.SystemSerial}, {"board_serial", &f.BoardSerial}, {"chassis_serial", &f.ChassisSerial}}
	if len(f.Disks) > maxItems || len(f.NICs) > maxItems {
		return fmt.Errorf("more than %d disks or network interfaces", maxItems)
	}
	for i := range f.Disks {
		texts = append(texts, struct {
			name string
			s    *string
		}{fmt.Sprintf("disks[%d] serial", i), &f.Disks[i].Serial})
	}
	for _, t := range texts {
		s := strings.TrimSpace(*t.s)
		if printable(s) != s {
			return fmt.Errorf("%s: %q must be at most %d printable characters", t.name, printable(s), maxText)
		}
		*t.s = s
	}
	if f.SystemUUID != "" {
		u, ok := NormalizeUUID(f.SystemUUID)
		if !ok {
			return fmt.Errorf("system_uuid: %q must be a UUID, as 55e3ae13-bfd2-61bb-17a0-88aedd7037ea", printable(f.SystemUUID))
		}
		f.SystemUUID = u
	}
	for i := range f.NICs {
		m, ok := normalizeMAC(f.NICs[i].MAC)
		if !ok {
			return fmt.Errorf("nics[%d] mac: %q must be a MAC address, as 00-11-22-33-44-55", i, printable(f.NICs[i].MAC))
		}
		f.NICs[i].MAC = m
	}
	if f.TPMEKSHA256 != "" {
		raw, err := hex.DecodeString(f.TPMEKSHA256)
		if err != nil || len(raw) != 32 {
			return fmt.Errorf("tpm_ek_sha256: %q must be 64 hex digits", printable(f.TPMEKSHA256))
		}
		f.TPMEKSHA256 = hex.EncodeToString(raw)
	}
	return nil
}

// printable makes text from firmware harmless: UTF-8 of at most maxText characters, trimmed. What cannot be shown
// becomes '?', other blanks a space.
func printable(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.TrimSpace(s) {
		if n == maxText {
			break
		}
		n++
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			r = ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			r = '?'
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

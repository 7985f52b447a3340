package sysconfig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"
)

// Encoding is what a file is written in.
type Encoding int

// The encodings of Write.
const (
	UTF8     Encoding = iota // no byte order mark, lines end with LF
	ShiftJIS                 // CP932, lines end with CRLF, for the tools of its time
)

// ParseEncoding reads the value of --encoding.
func ParseEncoding(name string) (Encoding, error) {
	switch strings.ToLower(name) {
	case "utf-8", "utf8":
		return UTF8, nil
	case "shift_jis", "shift-jis", "sjis", "cp932":
		return ShiftJIS, nil
	}
	return 0, fmt.Errorf("encoding %q is not known; use utf-8 or shift_jis", name)
}

// shiftJISHead begins every Shift_JIS file. Its first characters are wrong as UTF-8, so that a file whose other
// bytes could be either (half-width katakana in pairs) is still read as what it is.
const shiftJISHead = "# システム構成情報ファイル (Shift_JIS)"

// Write writes one line per entry; Read returns the same entries, apart from Line. A value that cannot be written so
// that it comes back (a line end, a comma outside the comment, a character that the encoding lacks) is an error that
// names the host and the field; what was written until then is then incomplete, so write to a temporary file.
func Write(w io.Writer, entries iter.Seq[Entry], enc Encoding) error {
	bw := bufio.NewWriter(w)
	end := "\n"
	if enc == ShiftJIS {
		end = "\r\n"
		head, err := toShiftJIS(shiftJISHead)
		if err != nil {
			return err
		}
		bw.WriteString(head + end)
	}
	for e := range entries {
		line, err := format(e, enc)
		if err != nil {
			name := e.Name
			if name == "" {
				name = e.Address.String()
			}
			return fmt.Errorf("host %s: %w", quote(name), err)
		}
		bw.WriteString(line)
		if _, err := bw.WriteString(end); err != nil {
			return err
		}
	}
	return bw.Flush()
}

func format(e Entry, enc Encoding) (string, error) {
	if !e.Address.IsValid() {
		return "", errors.New("IP address: missing; every line begins with one")
	}
	var b strings.Builder
	add := func(field, before, text string) error {
		if err := writable(text); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if enc == ShiftJIS {
			t, err := toShiftJIS(text)
			if err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
			text = t
		}
		b.WriteString(before)
		b.WriteString(text)
		return nil
	}
	if zone := e.Address.Zone(); strings.ContainsAny(zone, blanks+"#") {
		return "", fmt.Errorf("IP address: the zone %s holds a blank or #", quote(zone))
	}
	if err := add("IP address", "", e.Address.String()); err != nil {
		return "", err
	}
	for i, name := range append([]string{e.Name}, e.Aliases...) {
		field := "host name"
		if i > 0 {
			field = "alias"
		}
		if why := badName(name); why != "" || strings.ContainsAny(name, blanks+"#") {
			return "", fmt.Errorf("%s: %s is none; it must be at most %d bytes without blanks and without = , # \\", field, quote(name), maxName)
		}
		if err := add(field, " ", name); err != nil {
			return "", err
		}
	}
	before := " "
	operand := func(key, value string) error {
		err := add(key, before+key+"=", value)
		before = ","
		return err
	}
	for _, key := range known {
		if key == "COMMENT" {
			for _, o := range e.Unknown {
				if badKey(o.Key) || knownKey(o.Key) != "" {
					return "", fmt.Errorf("operand %s: not a key for an operand of another program", quote(o.Key))
				}
				if strings.ContainsRune(o.Value, ',') {
					return "", fmt.Errorf("%s: holds a comma, which ends it", o.Key)
				}
				if err := operand(o.Key, o.Value); err != nil {
					return "", err
				}
			}
		}
		v := e.get(key)
		if v == "" {
			continue
		}
		if n, expected := normalize(key, v); expected != "" {
			return "", fmt.Errorf("%s: %s is not %s", key, quote(v), expected)
		} else if n != v {
			return "", fmt.Errorf("%s: %s must be written %s", key, quote(v), quote(n))
		}
		if key == "COMMENT" {
			if commentEnd(v, 0) != len(v) {
				return "", fmt.Errorf("COMMENT: %s holds what begins the next operand", quote(v))
			}
		} else if strings.ContainsRune(v, ',') {
			return "", fmt.Errorf("%s: holds a comma, which ends it", key)
		}
		if err := operand(key, v); err != nil {
			return "", err
		}
	}
	if b.Len() > maxLine-2 {
		return "", fmt.Errorf("line: longer than %d bytes", maxLine-2)
	}
	return b.String(), nil
}

// writable refuses what would not come back as it is.
func writable(text string) error {
	if text != strings.Trim(text, blanks) {
		return fmt.Errorf("%s begins or ends with a blank", quote(text))
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s is not UTF-8", quote(text))
	}
	for _, r := range text {
		if r != '\t' && unicode.IsControl(r) {
			return fmt.Errorf("%s holds a control character", quote(text))
		}
	}
	return nil
}

// toShiftJIS converts text, and refuses what would come back as another character: the encoder writes the yen sign
// as a backslash, for one.
func toShiftJIS(text string) (string, error) {
	encoder, decoder := japanese.ShiftJIS.NewEncoder(), japanese.ShiftJIS.NewDecoder()
	if out, err := encoder.String(text); err == nil {
		if back, err := decoder.String(out); err == nil && back == text && !strings.ContainsRune(text, utf8.RuneError) {
			return out, nil
		}
	}
	for _, r := range text {
		out, err := japanese.ShiftJIS.NewEncoder().String(string(r))
		if err == nil {
			back, err := japanese.ShiftJIS.NewDecoder().String(out)
			if err == nil && back == string(r) && r != utf8.RuneError {
				continue
			}
		}
		return "", fmt.Errorf("the character %q (%U) does not exist in Shift_JIS; write the file as UTF-8", r, r)
	}
	return "", fmt.Errorf("%s cannot be written in Shift_JIS; write the file as UTF-8", quote(text))
}

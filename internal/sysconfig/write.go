package sysconfig

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
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

// FieldError says which part of an entry cannot be written so that it comes back, and why.
type FieldError struct {
	Host  string // the entry's name, or its address
	Field string // FieldAddress, FieldName, FieldAlias, FieldLine, or the operand's key
	Value string
	Err   error
}

// The fields of a FieldError that are no operands.
const (
	FieldAddress = "IP address"
	FieldName    = "host name"
	FieldAlias   = "alias"
	FieldLine    = "line" // all of it: it is too long
)

func (e *FieldError) Error() string {
	return fmt.Sprintf("host %s: %s: %v", quote(e.Host), e.Field, e.Err)
}

// Unwrap returns the reason without host and field.
func (e *FieldError) Unwrap() error { return e.Err }

// Write writes one line per entry; Read returns the same entries, apart from Line. A value that cannot be written so
// that it comes back (a line end, a comma outside the comment, a character that the encoding lacks) is a *FieldError;
// what was written until then is then incomplete, so write to a temporary file.
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
			return err
		}
		bw.WriteString(line)
		if _, err := bw.WriteString(end); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// Writable returns the *FieldError with which Write would fail because of this entry, nil if it would not.
func (e Entry) Writable(enc Encoding) error {
	_, err := format(e, enc)
	return err
}

func format(e Entry, enc Encoding) (string, error) {
	fail := func(field, value, why string, args ...any) (string, error) {
		host := e.Name
		if host == "" {
			host = e.Address.String()
		}
		return "", &FieldError{host, field, value, fmt.Errorf(why, args...)}
	}
	if !e.Address.IsValid() {
		return fail(FieldAddress, "", "missing; every line begins with one")
	}
	var b strings.Builder
	length := 0 // in UTF-8, as a reader counts
	add := func(before, text string) error {
		if err := writable(text); err != nil {
			return err
		}
		length += len(before) + len(text)
		if enc == ShiftJIS {
			t, err := toShiftJIS(text)
			if err != nil {
				return err
			}
			text = t
		}
		b.WriteString(before)
		b.WriteString(text)
		return nil
	}
	address := e.Address.String()
	if zone := e.Address.Zone(); strings.ContainsAny(zone, blanks+"#") {
		return fail(FieldAddress, address, "the zone %s holds a blank or #", quote(zone))
	}
	if err := add("", address); err != nil {
		return fail(FieldAddress, address, "%w", err)
	}
	for i, name := range append([]string{e.Name}, e.Aliases...) {
		field := FieldName
		if i > 0 {
			field = FieldAlias
		}
		if why := badName(name); why != "" || strings.ContainsAny(name, blanks+"#") {
			return fail(field, name, "%s is none; it must be at most %d bytes without blanks and without = , # \\", quote(name), maxName)
		}
		if err := add(" ", name); err != nil {
			return fail(field, name, "%w", err)
		}
	}
	before := " "
	operand := func(key, value string) error {
		err := add(before+key+"=", value)
		before = ","
		return err
	}
	for _, key := range known {
		if key == "COMMENT" {
			for _, o := range e.Unknown {
				if badKey(o.Key) || knownKey(o.Key) != "" {
					return fail("operand "+quote(o.Key), o.Value, "not a key for an operand of another program")
				}
				if strings.ContainsRune(o.Value, ',') {
					return fail(o.Key, o.Value, "holds a comma, which ends it")
				}
				if err := operand(o.Key, o.Value); err != nil {
					return fail(o.Key, o.Value, "%w", err)
				}
			}
		}
		v := e.get(key)
		if v == "" {
			continue
		}
		if n, expected := normalize(key, v); expected != "" {
			return fail(key, v, "%s is not %s", quote(v), expected)
		} else if n != v {
			return fail(key, v, "%s must be written %s", quote(v), quote(n))
		}
		if key == "COMMENT" {
			if commentEnd(v, 0) != len(v) {
				return fail(key, v, "%s holds what begins the next operand", quote(v))
			}
		} else if strings.ContainsRune(v, ',') {
			return fail(key, v, "holds a comma, which ends it")
		}
		if err := operand(key, v); err != nil {
			return fail(key, v, "%w", err)
		}
	}
	if length > maxLine {
		return fail(FieldLine, "", "longer than %d bytes", maxLine)
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

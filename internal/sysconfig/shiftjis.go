package sysconfig

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"
)

// Shift_JIS here is Windows' code page 932: with the characters of NEC and IBM, and with the 1880 places from F040 to F9FC
// for characters that users draw themselves (gaiji, common in names). The library lacks the latter; Windows maps them
// to U+E000 and on in their order, and so do we.

const (
	firstOwn = 0xE000
	lastOwn  = firstOwn + 10*trails - 1
	trails   = 188 // second bytes: 0x40 to 0xFC without 0x7F
)

func isLead(b byte) bool { return b >= 0x81 && b <= 0x9F || b >= 0xE0 && b <= 0xFC }

func isTrail(b byte) bool { return b >= 0x40 && b <= 0xFC && b != 0x7F }

// decodeShiftJIS returns the text and the offset of the first byte that is no character, or -1.
func decodeShiftJIS(raw []byte) (string, int) {
	var b strings.Builder
	done := 0 // all before it is in b
	library := func(to int) (bad int) {
		out, _ := japanese.ShiftJIS.NewDecoder().Bytes(raw[done:to]) // it replaces what it cannot read, and never fails
		// CP932 has no U+FFFD, so each is a byte that could not be read. Find the first: every character before it is
		// of one byte, or of two if the first is a lead byte.
		at := done
		for _, c := range string(out) {
			if c == utf8.RuneError {
				return at
			}
			if isLead(raw[at]) {
				at++
			}
			at++
		}
		b.Write(out)
		done = to
		return -1
	}
	for i := 0; i < len(raw); i++ {
		if !isLead(raw[i]) {
			continue
		}
		if raw[i] >= 0xF0 && raw[i] <= 0xF9 && i+1 < len(raw) && isTrail(raw[i+1]) {
			if bad := library(i); bad >= 0 {
				return "", bad
			}
			trail := int(raw[i+1]) - 0x40
			if raw[i+1] > 0x7F {
				trail--
			}
			b.WriteRune(rune(firstOwn + int(raw[i]-0xF0)*trails + trail))
			done = i + 2
		}
		i++
	}
	if bad := library(len(raw)); bad >= 0 {
		return "", bad
	}
	return b.String(), -1
}

// encodeShiftJIS fails for what the encoding lacks.
func encodeShiftJIS(text string) (string, bool) {
	var b strings.Builder
	for text != "" {
		end := strings.IndexFunc(text, func(r rune) bool { return r >= firstOwn && r <= lastOwn })
		if end < 0 {
			end = len(text)
		}
		out, err := japanese.ShiftJIS.NewEncoder().String(text[:end])
		if err != nil {
			return "", false
		}
		b.WriteString(out)
		if text = text[end:]; text != "" {
			r, size := utf8.DecodeRuneInString(text)
			n := int(r - firstOwn)
			trail := byte(0x40 + n%trails)
			if trail >= 0x7F {
				trail++
			}
			b.WriteByte(byte(0xF0 + n/trails))
			b.WriteByte(trail)
			text = text[size:]
		}
	}
	return b.String(), true
}

// toShiftJIS converts text, and refuses what would come back as another character: the encoder writes the yen sign
// as a backslash, for one.
func toShiftJIS(text string) (string, error) {
	if !strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return text, nil
	}
	there := func(s string) (string, bool) {
		out, ok := encodeShiftJIS(s)
		if !ok || strings.ContainsRune(s, utf8.RuneError) {
			return "", false
		}
		back, bad := decodeShiftJIS([]byte(out))
		return out, bad < 0 && back == s
	}
	if out, ok := there(text); ok {
		return out, nil
	}
	for _, r := range text {
		if _, ok := there(string(r)); !ok {
			return "", fmt.Errorf("the character %q (%U) does not exist in Shift_JIS; write the file as UTF-8", r, r)
		}
	}
	return "", fmt.Errorf("%s cannot be written in Shift_JIS; write the file as UTF-8", quote(text))
}

package sysconfig

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Read yields the hosts of a file from its beginning, one at a time, so that files of any size take the same memory.
//
// What is wrong with the text yields a *SyntaxError. After a wrong line, a caller that goes on gets the following
// lines; where the text itself cannot be read (no character of the encoding, a NUL, a line too long), the error is
// the last thing yielded, and so is any other (a file too long, the reader's own).
//
// The encoding is found out in a pass of its own: a byte order mark says UTF-8 or UTF-16; without one, a file that
// is UTF-8 throughout is UTF-8, and any other is Shift_JIS as Windows has it (CP932), of which every byte must be
// right. A file whose first wrong byte follows characters of three bytes and more is UTF-8 that was damaged or cut: read as
// Shift_JIS, it would be wrong names. Lines end with LF or CRLF.
func Read(r io.ReadSeeker) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		lines, err := newLines(r)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for {
			text, err := lines.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			e, ok, err := parseLine(lines.line, text)
			if (ok || err != nil) && !yield(e, err) {
				return
			}
		}
	}
}

type lines struct {
	r      *bufio.Reader
	line   int // of the text that next returned last, from 1
	decode func(raw []byte) (text string, bad int)
	unit   int // bytes of a code unit: 1, or 2 in UTF-16
	big    bool
	name   string // of the encoding, for messages
	raw    []byte
}

// newLines finds out the encoding and goes back to the beginning of the text.
func newLines(r io.ReadSeeker) (*lines, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(r, 64<<10)
	mark, err := br.Peek(3)
	if err != nil && err != io.EOF {
		return nil, err
	}
	l := &lines{unit: 1, name: "UTF-8", decode: decodeUTF8}
	skip := int64(0)
	switch {
	case bytes.HasPrefix(mark, []byte{0xEF, 0xBB, 0xBF}):
		skip = 3
	case bytes.HasPrefix(mark, []byte{0xFF, 0xFE}):
		skip, l.unit, l.name = 2, 2, "UTF-16"
		l.decode = l.decodeUTF16
	case bytes.HasPrefix(mark, []byte{0xFE, 0xFF}):
		skip, l.unit, l.name, l.big = 2, 2, "UTF-16", true
		l.decode = l.decodeUTF16
	}
	notUTF8, damaged, err := survey(br, maxFile, skip == 0)
	if err != nil {
		return nil, err
	}
	if notUTF8 != "" && !damaged {
		l.name, l.decode = "Shift_JIS ("+notUTF8+" is none in UTF-8)", decodeShiftJIS
	}
	if _, err := r.Seek(skip, io.SeekStart); err != nil {
		return nil, err
	}
	br.Reset(r)
	l.r = br
	return l, nil
}

// survey reads to the end, and says, if asked for, the first place that is not UTF-8, "" if there is none, and whether
// that is damage to what was UTF-8 until there: Shift_JIS hardly ever begins with what is a long character in UTF-8.
func survey(r io.Reader, limit int64, judge bool) (notUTF8 string, damaged bool, err error) {
	buf := make([]byte, 32<<10)
	held := 0 // bytes of a character that the next read completes
	size := int64(0)
	line, column := 1, 1
	long := false
	for {
		n, err := r.Read(buf[held:])
		size += int64(n)
		if size > limit {
			return "", false, fmt.Errorf("more than %d MiB: this is no system configuration information file", limit>>20)
		}
		b := buf[:held+n]
		held = 0
		if !judge || notUTF8 != "" {
			b = nil
		}
		if utf8.Valid(b) { // nearly always, and quickly
			long = long || bytes.ContainsFunc(b, isLong)
			if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
				line, column = line+bytes.Count(b, []byte{'\n'}), 1
				b = b[i+1:]
			}
			column += utf8.RuneCount(b)
			b = nil
		}
		for notUTF8 == "" && len(b) > 0 {
			c, width := utf8.DecodeRune(b)
			if c == utf8.RuneError && width == 1 {
				if err == nil && !utf8.FullRune(b) {
					held = copy(buf, b)
					break
				}
				notUTF8, damaged = fmt.Sprintf("line %d, column %d", line, column), long
			}
			long = long || isLong(c)
			if column++; c == '\n' {
				line, column = line+1, 1
			}
			b = b[width:]
		}
		if err == io.EOF {
			return notUTF8, damaged, nil
		}
		if err != nil {
			return "", false, err
		}
	}
}

// isLong knows the characters that take three bytes or four in UTF-8.
func isLong(r rune) bool { return r >= 0x800 }

// next is the next line, decoded, without its end. io.EOF after the last.
func (l *lines) next() (string, error) {
	l.raw = l.raw[:0]
	// No line of maxLine bytes in UTF-8 takes more in the other encodings. What is above leaves room for the line's end.
	over := func() bool { return len(l.raw) > (maxLine+8)*l.unit }
	for ended := false; !ended && !over(); {
		chunk, err := l.r.ReadSlice('\n')
		l.raw = append(l.raw, chunk...)
		switch {
		case err == bufio.ErrBufferFull:
		case err == io.EOF:
			if len(l.raw) == 0 {
				return "", io.EOF
			}
			ended = true
		case err != nil:
			return "", err
		case l.unit == 1:
			ended = true
		default: // 0x0A may be half of a UTF-16 unit
			if !l.big && len(l.raw)%2 == 1 {
				c, err := l.r.ReadByte()
				if err == nil {
					l.raw = append(l.raw, c)
				} else if err != io.EOF {
					return "", err
				}
				ended = err == io.EOF || c == 0
			} else if l.big && len(l.raw)%2 == 0 {
				ended = l.raw[len(l.raw)-2] == 0
			}
		}
	}
	l.line++
	if i := bytes.IndexByte(l.raw, 0); i >= 0 && l.unit == 1 {
		before, _ := l.decode(l.raw[:i])
		return "", l.errorAfter(before, "text, in UTF-16 only after a byte order mark", "a NUL; save the file as UTF-8")
	}
	text, bad := l.decode(l.raw)
	if bad >= 0 {
		text, _ = l.decode(l.raw[:bad])
	}
	whole := strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if strings.HasSuffix(whole, "\x1a") { // what DOS ends a file with
		if _, err := l.r.Peek(1); err == io.EOF {
			whole = strings.TrimRight(whole, "\x1a")
		}
	}
	if len(whole) > maxLine {
		fits := maxLine
		for !utf8.RuneStart(whole[fits]) {
			fits--
		}
		return "", l.errorAfter(whole[:fits], fmt.Sprintf("the end of the line after at most %d bytes", maxLine), quote(whole[fits:]))
	}
	if bad >= 0 {
		found := fmt.Sprintf("the byte 0x%02X", l.raw[bad])
		switch {
		case l.unit == 2 && bad == len(l.raw)-1:
			found = "half a character at the end of the file: it is cut"
		case l.unit == 2:
			found = "half of a surrogate pair"
		}
		return "", l.errorAfter(text, "a character in "+l.name, found+"; save the file as UTF-8")
	}
	return whole, nil
}

// errorAfter places an error behind what could be read of the line.
func (l *lines) errorAfter(text, expected, found string) error {
	return &SyntaxError{l.line, utf8.RuneCountInString(text) + 1, expected, found}
}

// The decoders return the offset of the first byte that is no character, or -1.

func decodeUTF8(raw []byte) (string, int) {
	for i := 0; i < len(raw); {
		c, width := utf8.DecodeRune(raw[i:])
		if c == utf8.RuneError && width == 1 {
			return "", i
		}
		i += width
	}
	return string(raw), -1
}

func (l *lines) decodeUTF16(raw []byte) (string, int) {
	var b strings.Builder
	unit := func(i int) rune {
		if l.big {
			return rune(raw[i])<<8 | rune(raw[i+1])
		}
		return rune(raw[i+1])<<8 | rune(raw[i])
	}
	for i := 0; i < len(raw); i += 2 {
		if i+1 == len(raw) {
			return "", i
		}
		c := unit(i)
		if utf16.IsSurrogate(c) {
			if i+3 >= len(raw) {
				return "", i
			}
			if c = utf16.DecodeRune(c, unit(i+2)); c == utf8.RuneError {
				return "", i
			}
			i += 2
		}
		b.WriteRune(c)
	}
	return b.String(), -1
}

package sysconfig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"
)

// Read yields the hosts of a file from its beginning, one at a time, so that files of any size take the same memory.
//
// A line that is wrong yields a *SyntaxError; a caller that goes on gets the following lines. Any other error (the
// encoding, a line or a file too long, the reader's own) is the last thing yielded.
//
// The encoding is found out in a pass of its own: a byte order mark says UTF-8 or UTF-16; without one, a file that
// is UTF-8 throughout is UTF-8, and any other is Shift_JIS as Windows has it (CP932), of which every byte must be
// right. Lines end with LF or CRLF.
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

var errUTF16 = errors.New("NUL bytes: this is no text, or UTF-16 without its byte order mark; save it as UTF-8")

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
	size, notUTF8, err := survey(br, maxFile, l.unit == 1)
	if err != nil {
		return nil, err
	}
	if l.unit == 2 && size%2 != 0 {
		return nil, errors.New("half a character at the end of the UTF-16 text: the file is cut")
	}
	if skip == 0 && notUTF8 != "" {
		l.name, l.decode = "Shift_JIS (nor is "+notUTF8+" one in UTF-8)", decodeShiftJIS
	}
	if _, err := r.Seek(skip, io.SeekStart); err != nil {
		return nil, err
	}
	br.Reset(r)
	l.r = br
	return l, nil
}

// survey reads to the end, and says how many bytes there are and, if they are not UTF-8, the first place where.
func survey(r io.Reader, limit int64, bytewise bool) (size int64, notUTF8 string, err error) {
	buf := make([]byte, 32<<10)
	held := 0 // bytes of a character that the next read completes
	line, column := 1, 1
	for {
		n, err := r.Read(buf[held:])
		size += int64(n)
		if size > limit {
			return 0, "", fmt.Errorf("more than %d MiB: this is no system configuration information file", limit>>20)
		}
		b := buf[:held+n]
		held = 0
		if bytewise && bytes.IndexByte(b, 0) >= 0 {
			return 0, "", errUTF16
		}
		if !bytewise || notUTF8 != "" {
			b = nil
		}
		if utf8.Valid(b) { // nearly always, and quickly
			if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
				line, column = line+bytes.Count(b, []byte{'\n'}), 1
				b = b[i+1:]
			}
			column += len(b)
			b = nil
		}
		for notUTF8 == "" && len(b) > 0 {
			c, width := utf8.DecodeRune(b)
			if c == utf8.RuneError && width == 1 {
				if err == nil && !utf8.FullRune(b) {
					held = copy(buf, b)
					break
				}
				notUTF8 = fmt.Sprintf("line %d, byte %d", line, column)
			}
			if column += width; c == '\n' {
				line, column = line+1, 1
			}
			b = b[width:]
		}
		if err == io.EOF {
			return size, notUTF8, nil
		}
		if err != nil {
			return 0, "", err
		}
	}
}

// next is the next line, decoded, without its end. io.EOF after the last.
func (l *lines) next() (string, error) {
	l.raw = l.raw[:0]
	ended := false
	for !ended {
		chunk, err := l.r.ReadSlice('\n')
		l.raw = append(l.raw, chunk...)
		switch {
		case len(l.raw) > maxLine*l.unit:
			return "", fmt.Errorf("line %d: longer than %d characters", l.line+1, maxLine)
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
				if err != nil {
					return "", err
				}
				l.raw = append(l.raw, c)
				ended = c == 0
			} else if l.big && len(l.raw)%2 == 0 {
				ended = l.raw[len(l.raw)-2] == 0
			}
		}
	}
	l.line++
	text, bad := l.decode(l.raw)
	if bad >= 0 {
		return "", fmt.Errorf("line %d, byte %d: not a character in %s; save the file as UTF-8", l.line, bad+1, l.name)
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if text == "\x1a" { // the end mark of DOS editors
		text = ""
	}
	return text, nil
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
	for i := 0; i+1 < len(raw); i += 2 {
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

func decodeShiftJIS(raw []byte) (string, int) {
	out, err := japanese.ShiftJIS.NewDecoder().Bytes(raw)
	if err != nil {
		return "", 0
	}
	text := string(out)
	if !strings.ContainsRune(text, utf8.RuneError) {
		return text, -1
	}
	// CP932 has no U+FFFD, so each is a byte that could not be read. Find the first: every character before it is
	// of one byte, or of two if the first is a lead byte.
	at := 0
	for _, c := range text {
		if c == utf8.RuneError {
			break
		}
		if lead := raw[at]; lead >= 0x81 && lead <= 0x9F || lead >= 0xE0 && lead <= 0xFC {
			at++
		}
		at++
	}
	return "", at
}

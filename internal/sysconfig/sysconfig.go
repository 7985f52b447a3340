// Package sysconfig reads and writes the system configuration information file (extension .NDD) of JP1/NETM/DM: one
// host per line, in the shape of a hosts file with operands.
//
//	192.0.2.10 PC0001 HID=0f1e...,TYPE=client,MAC=00-11-22-33-44-55,COMMENT=3F, window,ROOT=\relay1,DATE=2025/04/01 09:00:00
//
// The manual (Setup Guide 8.1.4) gives the line and the comment mark; what it leaves open is settled in
// docs/protocol/sysconfig.md. A plain hosts file is such a file too.
package sysconfig

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Type is what a host is in the system.
type Type string

// The three types. A line without TYPE has "" and counts as a client.
const (
	Client  Type = "client"
	Relay   Type = "relay"
	Manager Type = "manager"
)

// DateLayout is how DATE is written, in the local time of the host that wrote the file.
const DateLayout = "2006/01/02 15:04:05"

// Bounds. A line past maxLine or a file past maxFile is an error, so that a wrong file costs little.
const (
	maxLine = 8 << 10   // bytes in UTF-8, without the line's end; the longest comment of the product family is far below
	maxFile = 256 << 20 // bytes; more than a million hosts
	maxName = 255       // bytes, as DNS has it
	maxHID  = 64        // bytes; the width of the manual's database column for host IDs (Guide, appendix C.71)
	maxKey  = 32
)

// Entry is one host. Texts are trimmed of blanks; "" means not stated. The names of its JSON form never change: the
// manager's database holds it.
type Entry struct {
	Line    int        `json:"-"` // where it was read, from 1
	Address netip.Addr `json:"address"`
	Name    string     `json:"name"`
	Aliases []string   `json:"aliases,omitempty"` // further names of a hosts file
	HID     string     `json:"hid,omitempty"`     // as the file states it: a foreign one has any form
	Type    Type       `json:"type,omitempty"`
	MAC     string     `json:"mac,omitempty"`     // 00-11-22-33-44-FF
	Comment string     `json:"comment,omitempty"` // may hold commas
	Root    string     `json:"root,omitempty"`    // the relays above it: \ or \relay1\relay2
	Date    string     `json:"date,omitempty"`    // DateLayout
	Unknown []Operand  `json:"unknown,omitempty"` // operands of other keys, in their order
}

// Operand is a KEY=value that this version gives no meaning.
type Operand struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Key is what tells hosts apart: the name, in whatever case it is written and with or without the dot at the end of a full
// domain name.
func (e Entry) Key() string { return HostKey(e.Name) }

// HostKey is the Key of an entry of that name.
func HostKey(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Target reports whether dcmamtin /f initializes this host: clients and relay systems, not a manager. Of lines
// without TYPE, which are what a hosts file consists of, those that name this machine itself, all machines or none
// are no targets. A loopback address under a name of its own is one: simulated PCs live there.
func (e Entry) Target() bool {
	if e.Type != "" {
		return e.Type != Manager
	}
	a := e.Address.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == broadcast {
		return false
	}
	if loopbackName(e.Name) {
		return false
	}
	for _, a := range e.Aliases {
		if loopbackName(a) {
			return false
		}
	}
	return true
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// loopbackName knows the names that hosts files of Linux, Windows and macOS come with.
func loopbackName(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	switch name {
	case "localhost", "loopback", "broadcasthost", "localhost4", "localhost6":
		return true
	}
	return strings.HasPrefix(name, "ip6-") || strings.HasPrefix(name, "localhost.") || strings.HasSuffix(name, ".localhost") ||
		name == "localhost4.localdomain4" || name == "localhost6.localdomain6"
}

// SyntaxError says what is wrong with a text, and where. Line and Column count from 1, columns in characters.
type SyntaxError struct {
	Line, Column    int
	Expected, Found string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: expected %s, found %s", e.Line, e.Column, e.Expected, e.Found)
}

// known are the operands with a meaning here, in the order they are written. COMMENT is followed by known ones only,
// because nothing else ends it.
var known = []string{"HID", "TYPE", "MAC", "COMMENT", "ROOT", "DATE"}

func knownKey(key string) string {
	for _, k := range known {
		if strings.EqualFold(k, key) {
			return k
		}
	}
	return ""
}

const blanks = " \t"

// parser goes through one line.
type parser struct {
	line  int
	text  string
	pos   int // in bytes
	grown int // by how many bytes it is longer when it is written as Write does it
}

func (p *parser) errorAt(pos int, expected, found string) error {
	if found == "" {
		found = "the end of the line"
	} else {
		found = quote(found)
	}
	return &SyntaxError{p.line, utf8.RuneCountInString(p.text[:pos]) + 1, expected, found}
}

// quote shows text from a file so that it cannot act on a terminal, cut to a length that stays readable.
func quote(s string) string {
	if utf8.RuneCountInString(s) > 40 {
		s = string([]rune(s)[:40]) + "..."
	}
	return fmt.Sprintf("%q", s)
}

// word skips blanks and takes what stands before the next one. '#' ends the line, as in a hosts file.
func (p *parser) word() (start int, word string) {
	p.skipBlanks()
	start = p.pos
	end := len(p.text)
	if i := strings.IndexAny(p.text[start:], blanks+"#"); i >= 0 {
		end = start + i
	}
	p.pos = end
	return start, p.text[start:end]
}

func (p *parser) skipBlanks() {
	for p.pos < len(p.text) && strings.IndexByte(blanks, p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// parseLine reads one decoded line without its line end. ok is false for a line without a host.
func parseLine(line int, text string) (e Entry, ok bool, err error) {
	p := &parser{line: line, text: text}
	for i, r := range text { // in comments too: a file whose lines end with CR alone would be one comment, and its hosts forgotten
		if r == '\r' {
			return Entry{}, false, p.errorAt(i, "lines that end with LF or CRLF", string(r))
		}
		if r != '\t' && unicode.IsControl(r) {
			return Entry{}, false, p.errorAt(i, "text", string(r))
		}
	}
	if strings.HasPrefix(text, "'") || strings.HasPrefix(text, "#") {
		return Entry{}, false, nil
	}
	start, word := p.word()
	if word == "" {
		return Entry{}, false, nil
	}
	e.Line = line
	if e.Address, err = netip.ParseAddr(word); err != nil {
		return Entry{}, false, p.errorAt(start, "an IP address, or ' or # before a comment", word)
	}
	p.grown = len(e.Address.String()) - len(word)
	start, e.Name = p.word()
	if err := p.name(start, e.Name); err != nil {
		return Entry{}, false, err
	}
	for {
		start, word = p.word()
		if word == "" || strings.Contains(word, "=") {
			break
		}
		if err := p.name(start, word); err != nil {
			return Entry{}, false, err
		}
		e.Aliases = append(e.Aliases, word)
	}
	if p.pos = start; word != "" {
		if err := p.operands(&e); err != nil {
			return Entry{}, false, err
		}
	}
	if len(p.text)+p.grown > maxLine { // what is read can be written
		return Entry{}, false, p.errorAt(0, fmt.Sprintf("a line of at most %d bytes with address and DATE in full", maxLine), p.text)
	}
	return e, true, nil
}

func (p *parser) name(start int, s string) error {
	if why := badName(s); why != "" {
		return p.errorAt(start, why, s)
	}
	return nil
}

// badName says what a host name should be if s is none. Letters of any script are taken: NetBIOS has them. The wide
// blank of Japanese text and what reorders or hides its neighbours on a screen belongs to no name.
func badName(s string) string {
	hidden := func(r rune) bool { return unicode.In(r, unicode.Z, unicode.Cf) }
	if s == "" || strings.ContainsAny(s, "=,\\") || strings.ContainsFunc(s, hidden) || len(s) > maxName {
		return fmt.Sprintf("a host name of at most %d bytes", maxName)
	}
	return ""
}

// operands reads KEY=value,KEY=value to the end of the line.
func (p *parser) operands(e *Entry) error {
	seen := make(map[string]bool, len(known))
	for {
		p.skipBlanks()
		start := p.pos
		rest := p.text[start:]
		i := strings.IndexAny(rest, "=,")
		if i < 0 || rest[i] != '=' || badKey(rest[:i]) {
			if i >= 0 {
				rest = rest[:i+1]
			}
			return p.errorAt(start, "KEY=value", rest)
		}
		key := rest[:i]
		valueStart := start + i + 1
		end := len(p.text)
		if k := knownKey(key); k != "COMMENT" {
			if j := strings.IndexByte(p.text[valueStart:], ','); j >= 0 {
				end = valueStart + j
			}
		} else {
			end = commentEnd(p.text, valueStart)
		}
		raw := p.text[valueStart:end]
		value := strings.Trim(raw, blanks)
		at := valueStart + len(raw) - len(strings.TrimLeft(raw, blanks))
		if k := knownKey(key); k == "" {
			e.Unknown = append(e.Unknown, Operand{key, value})
		} else {
			if seen[k] {
				return p.errorAt(start, "each operand once", key+"=")
			}
			seen[k] = true
			v, why := normalize(k, value)
			if why != "" {
				return p.errorAt(at, why, value)
			}
			p.grown += len(v) - len(value)
			e.set(k, v)
		}
		if end == len(p.text) {
			return nil
		}
		p.pos = end + 1
	}
}

func badKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return true
	}
	for i := range len(key) {
		c := key[i]
		if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c == '-' || i > 0 && c >= '0' && c <= '9') {
			return true
		}
	}
	return false
}

// commentEnd is where the next ",KEY=" of a known key stands, else the end: a comment may hold commas.
func commentEnd(text string, from int) int {
	for i := from; ; i++ {
		j := strings.IndexByte(text[i:], ',')
		if j < 0 {
			return len(text)
		}
		i += j
		next := strings.TrimLeft(text[i+1:], blanks)
		for _, k := range known {
			if len(next) > len(k) && next[len(k)] == '=' && strings.EqualFold(next[:len(k)], k) {
				return i
			}
		}
	}
}

// normalize brings the value of a known operand into the one form that an Entry holds, or says what was expected.
// The empty value is the same as none.
func normalize(key, v string) (value, expected string) {
	if v == "" {
		return "", ""
	}
	switch key {
	case "HID":
		if len(v) > maxHID {
			return "", fmt.Sprintf("a host ID of at most %d bytes", maxHID)
		}
	case "TYPE":
		switch t := Type(strings.ToLower(v)); t {
		case Client, Relay, Manager:
			return string(t), ""
		}
		return "", "client, relay or manager"
	case "MAC":
		m, ok := parseMAC(v)
		if !ok {
			return "", "a MAC address as 00-11-22-33-44-55"
		}
		return m, ""
	case "ROOT":
		if v != `\` {
			for i, part := range strings.Split(v, `\`) {
				if i == 0 && part != "" || i > 0 && (part == "" || len(part) > maxName || part != strings.Trim(part, blanks)) {
					return "", `\ or \relay1\relay2`
				}
			}
		}
	case "DATE":
		t, err := time.Parse("2006/1/2 15:4:5", v)
		if err != nil || t.Year() < 1 || strings.Contains(v, ".") { // Parse takes fractions of a second unasked
			return "", "a date as 2025/04/01 09:00:00"
		}
		return t.Format(DateLayout), ""
	}
	return v, ""
}

func parseMAC(s string) (string, bool) {
	if len(s) != 17 || s[2] != '-' && s[2] != ':' {
		return "", false
	}
	for i := range len(s) {
		c := s[i]
		hex := c >= '0' && c <= '9' || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f'
		if i%3 == 2 && c != s[2] || i%3 != 2 && !hex {
			return "", false
		}
	}
	return strings.ToUpper(strings.ReplaceAll(s, ":", "-")), true
}

func (e *Entry) set(key, v string) {
	switch key {
	case "HID":
		e.HID = v
	case "TYPE":
		e.Type = Type(v)
	case "MAC":
		e.MAC = v
	case "COMMENT":
		e.Comment = v
	case "ROOT":
		e.Root = v
	case "DATE":
		e.Date = v
	}
}

func (e *Entry) get(key string) string {
	switch key {
	case "HID":
		return e.HID
	case "TYPE":
		return string(e.Type)
	case "MAC":
		return e.MAC
	case "COMMENT":
		return e.Comment
	case "ROOT":
		return e.Root
	default:
		return e.Date
	}
}

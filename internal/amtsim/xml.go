package amtsim

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Bounds on a request's XML. A 64 KB body cannot reach them by accident.
const (
	maxDepth      = 32
	maxElements   = 4096
	maxAttributes = 64
)

// errNotXML stands for every way in which a body is no namespace-well-formed XML 1.0 document that this firmware reads:
// UTF-8 only, no document type.
var errNotXML = errors.New("not well-formed XML")

type attribute struct{ space, name, value string }

// element is one element of a document. Its relatives are indexes into the document's elements; none is -1.
type element struct {
	space, name string
	text        string // character data directly inside, concatenated
	attrs       []attribute
	child, last int32
	next        int32
	parent      int32
	qname       string // as written, to match the end tag
}

// document is a parsed body. Its memory is used again by the next parse, and its strings are parts of the body.
type document struct {
	elements []element
	attrs    []attribute
	names    []attribute // name bindings in force: name is the prefix, value the URI
	marks    []int       // length of names before each open element
}

// parse reads one XML document. The root is element 0.
func (d *document) parse(s string) error {
	clear(d.elements)
	clear(d.attrs)
	d.elements, d.attrs, d.names, d.marks = d.elements[:0], d.attrs[:0], d.names[:0], d.marks[:0]
	if !legalText(s) {
		return errNotXML
	}
	s = strings.TrimPrefix(s, "\uFEFF")
	if strings.HasPrefix(s, "<?xml") && len(s) > 5 && isSpace(s[5]) {
		end := strings.Index(s, "?>")
		if end < 0 || !readableEncoding(s[5:end]) {
			return errNotXML
		}
		s = s[end+2:]
	}
	cur := int32(-1)
	for len(s) > 0 {
		if s[0] != '<' {
			end := strings.IndexByte(s, '<')
			if end < 0 {
				end = len(s)
			}
			if err := d.addText(cur, s[:end], false); err != nil {
				return err
			}
			s = s[end:]
			continue
		}
		switch {
		case strings.HasPrefix(s, "</"):
			end := strings.IndexByte(s, '>')
			if end < 0 || cur < 0 || strings.TrimRight(s[2:end], " \t\r\n") != d.elements[cur].qname {
				return errNotXML
			}
			cur = d.close(cur)
			s = s[end+1:]
		case strings.HasPrefix(s, "<!--"):
			end := strings.Index(s[4:], "--")
			if end < 0 || !strings.HasPrefix(s[4+end:], "-->") {
				return errNotXML
			}
			s = s[4+end+3:]
		case strings.HasPrefix(s, "<![CDATA["):
			end := strings.Index(s, "]]>")
			if end < 0 || cur < 0 {
				return errNotXML
			}
			if err := d.addText(cur, s[9:end], true); err != nil {
				return err
			}
			s = s[end+3:]
		case strings.HasPrefix(s, "<?"):
			end := strings.Index(s, "?>")
			if end < 0 {
				return errNotXML
			}
			target, _, _ := strings.Cut(s[2:end], " ")
			if !isNCName(target) || strings.EqualFold(target, "xml") {
				return errNotXML
			}
			s = s[end+2:]
		case strings.HasPrefix(s, "<!"):
			return errNotXML // no document types: they are how a small body becomes a big one
		default:
			if cur < 0 && len(d.elements) > 0 {
				return errNotXML // a second root
			}
			rest, open, err := d.startTag(s[1:], cur)
			if err != nil {
				return err
			}
			if cur = int32(len(d.elements) - 1); !open {
				cur = d.close(cur)
			}
			s = rest
		}
	}
	if cur >= 0 || len(d.elements) == 0 {
		return errNotXML
	}
	return nil
}

func (d *document) close(cur int32) int32 {
	d.names = d.names[:d.marks[len(d.marks)-1]]
	d.marks = d.marks[:len(d.marks)-1]
	return d.elements[cur].parent
}

func (d *document) addText(cur int32, text string, literal bool) error {
	if cur < 0 {
		if !isBlank(text) {
			return errNotXML
		}
		return nil
	}
	e := &d.elements[cur]
	if !literal {
		if strings.Contains(text, "]]>") {
			return errNotXML
		}
		if e.child >= 0 && isBlank(text) {
			return nil // white space between elements means nothing here
		}
		var err error
		if text, err = unescape(text); err != nil {
			return err
		}
	} else if strings.IndexByte(text, '\r') >= 0 {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	}
	e.text += text
	return nil
}

// startTag reads a start tag after its "<" and appends the element. It returns what follows the tag, and whether the
// element stays open.
func (d *document) startTag(s string, parent int32) (rest string, open bool, err error) {
	if len(d.elements) >= maxElements || len(d.marks) >= maxDepth {
		return "", false, errNotXML
	}
	qname, s := cutName(s)
	if qname == "" {
		return "", false, errNotXML
	}
	d.marks = append(d.marks, len(d.names))
	first := len(d.attrs)
	for {
		trimmed := strings.TrimLeft(s, " \t\r\n")
		if strings.HasPrefix(trimmed, ">") {
			s, open = trimmed[1:], true
			break
		}
		if strings.HasPrefix(trimmed, "/>") {
			s = trimmed[2:]
			break
		}
		if len(trimmed) == len(s) {
			return "", false, errNotXML // no space before an attribute, or the end of the text
		}
		var name string
		if name, s = cutName(trimmed); name == "" {
			return "", false, errNotXML
		}
		s = strings.TrimLeft(s, " \t\r\n")
		if !strings.HasPrefix(s, "=") {
			return "", false, errNotXML
		}
		s = strings.TrimLeft(s[1:], " \t\r\n")
		if s == "" || s[0] != '"' && s[0] != '\'' {
			return "", false, errNotXML
		}
		end := strings.IndexByte(s[1:], s[0])
		if end < 0 || strings.IndexByte(s[1:1+end], '<') >= 0 {
			return "", false, errNotXML
		}
		value, err := unescape(s[1 : 1+end])
		if err != nil {
			return "", false, err
		}
		s = s[end+2:]
		prefix, local, hasPrefix := strings.Cut(name, ":")
		switch {
		case hasPrefix && prefix == "xmlns":
			if value == "" || local == "xmlns" || local == "xml" || !isNCName(local) {
				return "", false, errNotXML
			}
			if err := d.bind(local, value); err != nil {
				return "", false, err
			}
		case name == "xmlns":
			if err := d.bind("", value); err != nil {
				return "", false, err
			}
		default:
			if len(d.attrs)-first >= maxAttributes {
				return "", false, errNotXML
			}
			d.attrs = append(d.attrs, attribute{name: name, value: value})
		}
	}
	attrs := d.attrs[first:len(d.attrs):len(d.attrs)]
	for i := range attrs {
		// An attribute without a prefix is in no namespace, whatever the default is.
		if strings.IndexByte(attrs[i].name, ':') >= 0 {
			if attrs[i].space, attrs[i].name, err = d.resolve(attrs[i].name); err != nil {
				return "", false, err
			}
		} else if !isNCName(attrs[i].name) {
			return "", false, errNotXML
		}
		for j := range i {
			if attrs[j].name == attrs[i].name && attrs[j].space == attrs[i].space {
				return "", false, errNotXML
			}
		}
	}
	e := element{attrs: attrs, qname: qname, child: -1, last: -1, next: -1, parent: parent}
	if e.space, e.name, err = d.resolve(qname); err != nil {
		return "", false, err
	}
	i := int32(len(d.elements))
	d.elements = append(d.elements, e)
	if parent >= 0 {
		p := &d.elements[parent]
		if p.child < 0 {
			p.child = i
			if isBlank(p.text) {
				p.text = ""
			}
		} else {
			d.elements[p.last].next = i
		}
		p.last = i
	}
	return s, open, nil
}

func (d *document) bind(prefix, uri string) error {
	mark := d.marks[len(d.marks)-1]
	if len(d.names)-mark >= maxAttributes {
		return errNotXML
	}
	for _, b := range d.names[mark:] {
		if b.name == prefix {
			return errNotXML // the same attribute twice
		}
	}
	d.names = append(d.names, attribute{name: prefix, value: uri})
	return nil
}

func (d *document) resolve(qname string) (space, local string, err error) {
	prefix, local, found := strings.Cut(qname, ":")
	if !found {
		prefix, local = "", qname
	} else if !isNCName(prefix) {
		return "", "", errNotXML
	}
	if !isNCName(local) {
		return "", "", errNotXML
	}
	for i := len(d.names) - 1; i >= 0; i-- {
		if d.names[i].name == prefix {
			return d.names[i].value, local, nil
		}
	}
	switch prefix {
	case "":
		return "", local, nil
	case "xml":
		return "http://www.w3.org/XML/1998/namespace", local, nil
	}
	return "", "", errNotXML
}

// attr gives the value of an attribute, with its presence.
func (e *element) attr(space, name string) (string, bool) {
	for _, a := range e.attrs {
		if a.name == name && a.space == space {
			return a.value, true
		}
	}
	return "", false
}

// cutName cuts a name with its prefix off the front of s.
func cutName(s string) (name, rest string) {
	i := 0
	for i < len(s) && (s[i] == ':' || isNameByte(s[i])) {
		i++
	}
	return s[:i], s[i:]
}

func isNCName(s string) bool {
	if s == "" || s[0] == '-' || s[0] == '.' || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' || c >= 0x80
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func isBlank(s string) bool {
	for i := range len(s) {
		if !isSpace(s[i]) {
			return false
		}
	}
	return true
}

// legalText reports whether s is UTF-8 and holds only characters of XML 1.0 section 2.2.
func legalText(s string) bool {
	ascii := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 && !isSpace(c) {
			return false
		} else if c >= 0x80 {
			ascii = false
		}
	}
	return ascii || utf8.ValidString(s) && !strings.Contains(s, "\uFFFE") && !strings.Contains(s, "\uFFFF")
}

// readableEncoding looks at the pseudo attributes of an XML declaration.
func readableEncoding(decl string) bool {
	_, after, found := strings.Cut(decl, "encoding")
	if !found {
		return true
	}
	after = strings.TrimLeft(after, " \t\r\n=")
	if after == "" {
		return false
	}
	end := strings.IndexByte(after[1:], after[0])
	if end < 0 {
		return false
	}
	name := after[1 : 1+end]
	return strings.EqualFold(name, "utf-8") || strings.EqualFold(name, "us-ascii")
}

// unescape resolves entities and line ends.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '&') < 0 && strings.IndexByte(s, '\r') < 0 {
		return s, nil
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		switch s[i] {
		case '\r':
			b.WriteByte('\n')
			if i++; i < len(s) && s[i] == '\n' {
				i++
			}
		case '&':
			end := strings.IndexByte(s[i:], ';')
			if end < 0 {
				return "", errNotXML
			}
			r, ok := entity(s[i+1 : i+end])
			if !ok {
				return "", errNotXML
			}
			b.WriteRune(r)
			i += end + 1
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return b.String(), nil
}

func entity(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	digits, found := strings.CutPrefix(name, "#")
	if !found || digits == "" || len(digits) > 8 {
		return 0, false
	}
	base := rune(10)
	if digits[0] == 'x' {
		base, digits = 16, digits[1:]
	}
	var r rune
	for _, c := range []byte(digits) {
		var v rune
		switch {
		case c >= '0' && c <= '9':
			v = rune(c - '0')
		case base == 16 && c >= 'a' && c <= 'f':
			v = rune(c-'a') + 10
		case base == 16 && c >= 'A' && c <= 'F':
			v = rune(c-'A') + 10
		default:
			return 0, false
		}
		if r = r*base + v; r > utf8.MaxRune {
			return 0, false
		}
	}
	ok := digits != "" && utf8.ValidRune(r) && (r >= 0x20 || r == '\t' || r == '\n' || r == '\r') && r != 0xFFFE && r != 0xFFFF
	return r, ok
}

// appendEscaped appends character data as the firmware writes it. Characters that XML cannot hold become U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		size := 1
		var with string
		switch {
		case c == '<':
			with = "&lt;"
		case c == '>':
			with = "&gt;"
		case c == '&':
			with = "&amp;"
		case c == '\r':
			with = "&#xD;"
		case c < 0x20 && c != '\t' && c != '\n':
			with = "\uFFFD"
		case c >= utf8.RuneSelf:
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && size == 1 || r == 0xFFFE || r == 0xFFFF {
				with = "\uFFFD"
			}
		}
		if with != "" {
			b = append(append(b, s[from:i]...), with...)
			from = i + size
		}
		i += size
	}
	return append(b, s[from:]...)
}

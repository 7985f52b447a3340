package wsman

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Namespaces of the messages.
const (
	nsSOAP        = "http://www.w3.org/2003/05/soap-envelope"
	nsAddressing  = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsWSMan       = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsEnumeration = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsTransfer    = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	nsIdentity    = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
	nsInstance    = "http://www.w3.org/2001/XMLSchema-instance"
	nsXML         = "http://www.w3.org/XML/1998/namespace"
)

// Bounds of a document besides its size. The captured replies have depth 6 and 9 attributes.
const (
	maxDepth = 64
	maxAttrs = 64 // of one element, namespace declarations included

	maxBindings = 256 // in force at one place: each name is looked up among them
)

type token uint8

const (
	tokenEOF token = iota
	tokenStart
	tokenEnd
	tokenText
)

// decoder is a pull parser for the XML that WS-Management sends: XML 1.0 in UTF-8 with namespaces. It takes a
// subset: no document type (so no entities but the five and no default attributes), and ASCII names. Within that
// it is stricter than encoding/xml: an undeclared prefix, a repeated attribute, or anything beside the one root
// element is an error. Texts and names are parts of the document wherever nothing had to be replaced in them, which is
// why a whole reply costs a handful of allocations.
//
// All errors wrap ErrBadReply.
type decoder struct {
	doc string
	pos int

	space, local string // of the element of the last tokenStart or tokenEnd
	text         string // of the last tokenText
	attrs        []attr // of the last tokenStart, namespace declarations left out

	open       []openElement
	bindings   []binding
	selfClosed bool // an end token is owed for <x/>
	rooted     bool // the root element has begun
}

type attr struct{ space, local, value string }

type openElement struct {
	space, local string
	name         string // as written: the end tag must repeat it
	bindings     int    // how many bindings were in force outside it
}

type binding struct{ prefix, uri string }

// start takes a document and checks its characters.
func (d *decoder) start(doc string) error {
	*d = decoder{attrs: d.attrs[:0], open: d.open[:0], bindings: d.bindings[:0]}
	d.doc = strings.TrimPrefix(doc, "\ufeff")
	for i := 0; i < len(d.doc); {
		c := d.doc[i]
		switch {
		case c < ' ' && c != '\t' && c != '\n' && c != '\r':
			d.pos = i
			return d.errorf("a control character")
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRuneInString(d.doc[i:])
			if r == utf8.RuneError && n == 1 || r == 0xFFFE || r == 0xFFFF {
				d.pos = i
				return d.errorf("a character that is none in UTF-8 and XML")
			}
			i += n
		}
	}
	return d.declaration()
}

// release lets go of the document's text.
func (d *decoder) release() {
	clear(d.attrs[:cap(d.attrs)])
	clear(d.open[:cap(d.open)])
	clear(d.bindings[:cap(d.bindings)])
	*d = decoder{attrs: d.attrs[:0], open: d.open[:0], bindings: d.bindings[:0]}
}

func (d *decoder) errorf(format string, args ...any) error {
	return fmt.Errorf("%w: XML, byte %d: %s", ErrBadReply, d.pos, fmt.Sprintf(format, args...))
}

// declaration takes <?xml version="1.0" encoding="UTF-8" standalone="yes"?>, if it is there.
func (d *decoder) declaration() error {
	const opening = "<?xml"
	if !strings.HasPrefix(d.doc, opening) || len(d.doc) == len(opening) || !isSpace(d.doc[len(opening)]) {
		return nil
	}
	d.pos = len(opening)
	for _, part := range []string{"version", "encoding", "standalone"} {
		before := d.pos
		if !d.skipSpace() || !strings.HasPrefix(d.doc[d.pos:], part) {
			if part == "version" {
				return d.errorf("the XML declaration names no version")
			}
			d.pos = before
			continue
		}
		d.pos += len(part)
		value, err := d.attrValue()
		if err != nil {
			return err
		}
		switch {
		case part == "version" && value != "1.0":
			return d.errorf("XML version %.10q", value)
		case part == "encoding" && !strings.EqualFold(value, "utf-8"):
			return d.errorf("encoding %.20q", value)
		case part == "standalone" && value != "yes" && value != "no":
			return d.errorf("standalone %.10q", value)
		}
	}
	d.skipSpace()
	if !strings.HasPrefix(d.doc[d.pos:], "?>") {
		return d.errorf("the XML declaration does not end")
	}
	d.pos += len("?>")
	return nil
}

// next reads one token. Comments and processing instructions are passed over, so one text may come in several
// tokens.
func (d *decoder) next() (token, error) {
	if d.selfClosed {
		d.selfClosed = false
		return d.closeElement(), nil
	}
	for {
		rest := d.doc[d.pos:]
		switch {
		case rest == "":
			if len(d.open) > 0 || !d.rooted {
				return 0, d.errorf("the document ends early")
			}
			return tokenEOF, nil
		case rest[0] != '<':
			end := strings.IndexByte(rest, '<')
			if end < 0 {
				end = len(rest)
			}
			raw := rest[:end]
			if len(d.open) == 0 {
				if strings.TrimLeft(raw, " \t\r\n") != "" {
					return 0, d.errorf("text outside the root element")
				}
				d.pos += end
				continue
			}
			if strings.Contains(raw, "]]>") {
				return 0, d.errorf("]]> in a text")
			}
			text, err := d.unescape(raw, false)
			if err != nil {
				return 0, err
			}
			d.pos += end
			d.text = text
			return tokenText, nil
		case strings.HasPrefix(rest, "</"):
			return d.endTag()
		case strings.HasPrefix(rest, "<!--"):
			end := strings.Index(rest[4:], "--")
			if end < 0 || !strings.HasPrefix(rest[4+end:], "-->") {
				return 0, d.errorf("a comment that does not end as comments do")
			}
			d.pos += 4 + end + 3
		case strings.HasPrefix(rest, "<![CDATA["):
			end := strings.Index(rest, "]]>")
			if end < 0 || len(d.open) == 0 {
				return 0, d.errorf("a misplaced or endless CDATA section")
			}
			d.text = unifyLineEnds(rest[9:end])
			d.pos += end + 3
			return tokenText, nil
		case strings.HasPrefix(rest, "<!"):
			return 0, d.errorf("a document type or other declaration; they are refused")
		case strings.HasPrefix(rest, "<?"):
			if err := d.instruction(); err != nil {
				return 0, err
			}
		default:
			return d.startTag()
		}
	}
}

// instruction passes over <?target ...?>.
func (d *decoder) instruction() error {
	d.pos += 2
	target := d.ncName()
	if target == "" || strings.EqualFold(target, "xml") {
		return d.errorf("a misplaced XML declaration or a processing instruction without a name")
	}
	end := strings.Index(d.doc[d.pos:], "?>")
	if end < 0 || end > 0 && !isSpace(d.doc[d.pos]) {
		return d.errorf("a processing instruction that does not end")
	}
	d.pos += end + 2
	return nil
}

func (d *decoder) startTag() (token, error) {
	if d.rooted && len(d.open) == 0 {
		return 0, d.errorf("a second root element")
	}
	if len(d.open) == maxDepth {
		return 0, d.errorf("elements nest deeper than %d", maxDepth)
	}
	d.pos++
	begin := d.pos
	prefix, local, err := d.qName()
	if err != nil {
		return 0, err
	}
	if prefix == "xmlns" || prefix == "" && local == "xmlns" {
		return 0, d.errorf("an element of the reserved name xmlns")
	}
	element := openElement{local: local, name: d.doc[begin:d.pos], bindings: len(d.bindings)}
	d.attrs = d.attrs[:0]
	for count := 0; ; count++ {
		spaced := d.skipSpace()
		rest := d.doc[d.pos:]
		if strings.HasPrefix(rest, ">") {
			d.pos++
			break
		}
		if strings.HasPrefix(rest, "/>") {
			d.pos += 2
			d.selfClosed = true
			break
		}
		if !spaced {
			return 0, d.errorf("no space before an attribute, or a tag that does not end")
		}
		if count == maxAttrs {
			return 0, d.errorf("more than %d attributes", maxAttrs)
		}
		if err := d.attribute(element.bindings); err != nil {
			return 0, err
		}
	}
	for i := range d.attrs {
		a := &d.attrs[i]
		if a.space == "" { // an attribute without a prefix is in no namespace
			continue
		}
		if a.space, err = d.lookup(a.space); err != nil {
			return 0, err
		}
	}
	for i, a := range d.attrs {
		for _, b := range d.attrs[:i] {
			if a.local == b.local && a.space == b.space {
				return 0, d.errorf("attribute %.40s twice", a.local)
			}
		}
	}
	if element.space, err = d.lookup(prefix); err != nil {
		return 0, err
	}
	d.rooted = true
	d.open = append(d.open, element)
	d.space, d.local = element.space, element.local
	return tokenStart, nil
}

// attribute reads one attribute: a namespace declaration goes to the bindings, another to attrs with its prefix
// still unresolved, since a later attribute may declare it.
func (d *decoder) attribute(outer int) error {
	prefix, local, err := d.qName()
	if err != nil {
		return err
	}
	value, err := d.attrValue()
	if err != nil {
		return err
	}
	switch {
	case prefix == "" && local == "xmlns":
		return d.bind("", value, outer)
	case prefix == "xmlns":
		return d.bind(local, value, outer)
	}
	d.attrs = append(d.attrs, attr{space: prefix, local: local, value: value})
	return nil
}

func (d *decoder) bind(prefix, uri string, outer int) error {
	if prefix == "xmlns" || (prefix == "xml") != (uri == nsXML) || prefix != "" && uri == "" {
		return d.errorf("prefix %.40q may not be declared so", prefix)
	}
	for _, b := range d.bindings[outer:] {
		if b.prefix == prefix {
			return d.errorf("prefix %.40q declared twice", prefix)
		}
	}
	if len(d.bindings) == maxBindings {
		return d.errorf("more than %d namespace declarations", maxBindings)
	}
	d.bindings = append(d.bindings, binding{prefix, uri})
	return nil
}

func (d *decoder) lookup(prefix string) (uri string, err error) {
	for i := len(d.bindings) - 1; i >= 0; i-- {
		if d.bindings[i].prefix == prefix {
			return d.bindings[i].uri, nil
		}
	}
	switch prefix {
	case "":
		return "", nil
	case "xml":
		return nsXML, nil
	}
	return "", d.errorf("prefix %.40q is not declared", prefix)
}

func (d *decoder) endTag() (token, error) {
	if len(d.open) == 0 {
		return 0, d.errorf("an end tag without its start")
	}
	name := d.open[len(d.open)-1].name
	d.pos += 2
	if !strings.HasPrefix(d.doc[d.pos:], name) {
		return 0, d.errorf("the end tag of %.40s is missing", name)
	}
	d.pos += len(name)
	d.skipSpace()
	if !strings.HasPrefix(d.doc[d.pos:], ">") {
		return 0, d.errorf("the end tag of %.40s is missing", name)
	}
	d.pos++
	return d.closeElement(), nil
}

func (d *decoder) closeElement() token {
	last := d.open[len(d.open)-1]
	d.open = d.open[:len(d.open)-1]
	d.bindings = d.bindings[:last.bindings]
	d.space, d.local = last.space, last.local
	return tokenEnd
}

func (d *decoder) qName() (prefix, local string, err error) {
	local = d.ncName()
	if local != "" && d.pos < len(d.doc) && d.doc[d.pos] == ':' {
		d.pos++
		prefix, local = local, d.ncName()
	}
	if local == "" {
		return "", "", d.errorf("no name where one must be")
	}
	return prefix, local, nil
}

func (d *decoder) ncName() string {
	n := ncNameLen(d.doc[d.pos:])
	name := d.doc[d.pos : d.pos+n]
	d.pos += n
	return name
}

// ncNameLen is the length of the ASCII name without a colon that s begins with.
func ncNameLen(s string) int {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_':
		case i > 0 && ('0' <= c && c <= '9' || c == '-' || c == '.'):
		default:
			return i
		}
	}
	return len(s)
}

// attrValue reads ="value" with what follows the attribute's name.
func (d *decoder) attrValue() (string, error) {
	d.skipSpace()
	if !strings.HasPrefix(d.doc[d.pos:], "=") {
		return "", d.errorf("an attribute without a value")
	}
	d.pos++
	d.skipSpace()
	if d.pos == len(d.doc) || d.doc[d.pos] != '"' && d.doc[d.pos] != '\'' {
		return "", d.errorf("an attribute's value without quotes")
	}
	quote := d.doc[d.pos]
	d.pos++
	end := strings.IndexByte(d.doc[d.pos:], quote)
	if end < 0 {
		return "", d.errorf("an attribute's value that does not end")
	}
	raw := d.doc[d.pos : d.pos+end]
	if strings.IndexByte(raw, '<') >= 0 {
		return "", d.errorf("< in an attribute's value")
	}
	value, err := d.unescape(raw, true)
	d.pos += end + 1
	return value, err
}

func (d *decoder) skipSpace() bool {
	begin := d.pos
	for d.pos < len(d.doc) && isSpace(d.doc[d.pos]) {
		d.pos++
	}
	return d.pos > begin
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// unescape replaces references and unifies line ends (XML 1.0, 2.11); in an attribute's value, white space becomes
// spaces (3.3.3).
func (d *decoder) unescape(raw string, attribute bool) (string, error) {
	plain := strings.IndexByte(raw, '&') < 0 && strings.IndexByte(raw, '\r') < 0
	if attribute && plain {
		plain = !strings.ContainsAny(raw, "\t\n")
	}
	if plain {
		return raw, nil
	}
	var b strings.Builder
	b.Grow(len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '&' {
			end := strings.IndexByte(raw[i:], ';')
			if end < 0 {
				return "", d.errorf("& without ;")
			}
			r, ok := reference(raw[i+1 : i+end])
			if !ok {
				return "", d.errorf("unknown reference %.20q", raw[i:i+end+1])
			}
			b.WriteRune(r)
			i += end
			continue
		}
		if c == '\r' {
			if i+1 < len(raw) && raw[i+1] == '\n' {
				i++
			}
			c = '\n'
		}
		if attribute && (c == '\n' || c == '\t') {
			c = ' '
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// reference is what stands between & and ;.
func reference(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "apos":
		return '\'', true
	case "quot":
		return '"', true
	}
	digits, found := strings.CutPrefix(name, "#")
	base := rune(10)
	if hex, isHex := strings.CutPrefix(digits, "x"); isHex {
		digits, base = hex, 16
	}
	if !found || digits == "" {
		return 0, false
	}
	var r rune
	for i := 0; i < len(digits); i++ {
		v, ok := hexDigit(digits[i])
		if !ok || rune(v) >= base {
			return 0, false
		}
		if r = r*base + rune(v); r > utf8.MaxRune {
			return 0, false
		}
	}
	return r, isXMLChar(r)
}

func hexDigit(c byte) (v int, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10, true
	}
	return 0, false
}

// isXMLChar tells whether XML 1.0 can carry the character at all, even as a reference (production 2).
func isXMLChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= ' ' && r <= 0xD7FF ||
		r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= utf8.MaxRune
}

func unifyLineEnds(s string) string {
	if strings.IndexByte(s, '\r') < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

// child moves to the next child of the element that is open, passing over text; false: the element has ended.
func (d *decoder) child() (bool, error) {
	for {
		t, err := d.next()
		if err != nil || t == tokenEnd || t == tokenEOF {
			return false, err
		}
		if t == tokenStart {
			return true, nil
		}
	}
}

// skip passes over the rest of the element that has just begun.
func (d *decoder) skip() error {
	_, err := d.textOnly()
	return err
}

// textOnly reads the element that has just begun to its end and gives the text that stands directly in it.
func (d *decoder) textOnly() (string, error) {
	var text pieces
	for depth := 1; ; {
		t, err := d.next()
		if err != nil {
			return "", err
		}
		switch t {
		case tokenStart:
			depth++
		case tokenEnd:
			if depth--; depth == 0 {
				return text.String(), nil
			}
		case tokenText:
			if depth == 1 {
				text.add(d.text)
			}
		}
	}
}

// pieces joins the texts of one element. Nearly always there is one, which is then not copied; a hostile document
// may have a hundred thousand.
type pieces struct {
	first string
	all   []byte // nil until there is a second piece
}

func (p *pieces) add(s string) {
	switch {
	case p.all != nil:
		p.all = append(p.all, s...)
	case p.first == "":
		p.first = s
	case s != "":
		p.all = append(append(p.all, p.first...), s...)
	}
}

func (p *pieces) String() string {
	if p.all != nil {
		return string(p.all)
	}
	return p.first
}

// is compares the element of the last start or end.
func (d *decoder) is(space, local string) bool { return d.local == local && d.space == space }

// attr is the value of an attribute of the element that has just begun.
func (d *decoder) attr(space, local string) string {
	for _, a := range d.attrs {
		if a.local == local && a.space == space {
			return a.value
		}
	}
	return ""
}

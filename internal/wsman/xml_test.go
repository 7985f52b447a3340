package wsman

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// outline reads a document with our decoder and writes down what it means: "<{space}local attr=value ...>", texts
// joined, "</>".
func outline(doc string) ([]string, error) {
	var (
		d   decoder
		out []string
	)
	if err := d.start(doc); err != nil {
		return nil, err
	}
	text := ""
	for {
		t, err := d.next()
		if err != nil {
			return nil, err
		}
		if t == tokenText {
			text += d.text
			continue
		}
		if text != "" {
			out, text = append(out, text), ""
		}
		switch t {
		case tokenStart:
			s := fmt.Sprintf("<{%s}%s", d.space, d.local)
			for _, a := range d.attrs {
				s += fmt.Sprintf(" {%s}%s=%q", a.space, a.local, a.value)
			}
			out = append(out, s+">")
		case tokenEnd:
			out = append(out, "</"+d.local+">")
		case tokenEOF:
			return out, nil
		}
	}
}

func TestDecoder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, doc string
		want      []string
	}{
		{"smallest", `<a/>`, []string{"<{}a>", "</a>"}},
		{"empty pair", `<a></a >`, []string{"<{}a>", "</a>"}},
		{"byte order mark, declaration, space around", "\ufeff<?xml version=\"1.0\" encoding='utf-8' standalone=\"yes\" ?>\r\n <a/>\n<!-- end --> ", []string{"<{}a>", "</a>"}},
		{"default namespace and its end", `<a xmlns="u"><b xmlns=""/><c/></a>`, []string{"<{u}a>", "<{}b>", "</b>", "<{u}c>", "</c>", "</a>"}},
		{"prefixes, redeclared inside", `<p:a xmlns:p="u" x="1" p:x="2"><p:b xmlns:p="v"/><p:c/></p:a>`,
			[]string{`<{u}a {}x="1" {u}x="2">`, "<{v}b>", "</b>", "<{u}c>", "</c>", "</a>"}},
		{"prefix declared after its use", `<a p:x="1" xmlns:p="u"/>`, []string{`<{}a {u}x="1">`, "</a>"}},
		{"xml prefix", `<a xml:lang="en"/>`, []string{`<{}a {` + nsXML + `}lang="en">`, "</a>"}},
		{"references", `<a b="&lt;&quot;&#9;">&amp;&#65;&#x42;&#x1F600;&apos;&gt;</a>`, []string{`<{}a {}b="<\"\t">`, "&AB😀'>", "</a>"}},
		{"line ends", "<a b='1\r\n2\t3'>x\r\ny\rz&#13;</a>", []string{`<{}a {}b="1 2 3">`, "x\ny\nz\r", "</a>"}},
		{"CDATA", "<a>1<![CDATA[<b>&amp;]]]]><![CDATA[>\r\n]]>2</a>", []string{"<{}a>", "1<b>&amp;]]>\n2", "</a>"}},
		{"comments and instructions", `<?p?><!----><a>1<!-- - -->2<?p x?>3<?xml-style y?></a><?q?>`, []string{"<{}a>", "123", "</a>"}},
		{"other letters in texts", `<a>日本語 é</a>`, []string{"<{}a>", "日本語 é", "</a>"}},
		{"long names end at theirs", `<ab><abc></abc></ab>`, []string{"<{}ab>", "<{}abc>", "</abc>", "</ab>"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := outline(test.doc)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecoderRefuses(t *testing.T) {
	t.Parallel()
	for name, doc := range map[string]string{
		"nothing":                        "",
		"white space":                    " \n",
		"text only":                      "hello",
		"text before":                    "x<a/>",
		"text behind":                    "<a/>x",
		"two roots":                      "<a/><b/>",
		"document type":                  `<!DOCTYPE a><a/>`,
		"entities":                       `<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`,
		"element declaration":            `<a><!ELEMENT b ANY></a>`,
		"unknown entity":                 `<a>&b;</a>`,
		"half an entity":                 `<a>&amp</a>`,
		"reference to nothing":           `<a>&#;</a>`,
		"reference to NUL":               `<a>&#0;</a>`,
		"reference to a surrogate":       `<a>&#xD800;</a>`,
		"reference beyond Unicode":       `<a>&#x110000;</a>`,
		"reference that wraps":           `<a>&#4294967361;</a>`,
		"reference, signed":              `<a>&#-65;</a>`,
		"reference, wrong base":          `<a>&#4A;</a>`,
		"control character":              "<a>\x01</a>",
		"NUL":                            "<a>\x00</a>",
		"invalid UTF-8":                  "<a>\xff</a>",
		"surrogate in UTF-8":             "<a>\xed\xa0\x80</a>",
		"U+FFFF":                         "<a>\uffff</a>",
		"UTF-16":                         "\xff\xfe<\x00a\x00/\x00>\x00",
		"other encoding":                 `<?xml version="1.0" encoding="ISO-8859-1"?><a/>`,
		"other version":                  `<?xml version="1.1"?><a/>`,
		"declaration without version":    `<?xml encoding="utf-8"?><a/>`,
		"declaration without end":        `<?xml version="1.0"><a/>`,
		"declaration not at the start":   ` <?xml version="1.0"?><a/>`,
		"standalone neither":             `<?xml version="1.0" standalone="maybe"?><a/>`,
		"instruction without end":        `<a><?b </a>`,
		"instruction without name":       `<a><? ?></a>`,
		"instruction, no space":          `<a><?b!?></a>`,
		"comment with --":                `<a><!-- -- --></a>`,
		"comment without end":            `<a><!-- </a>`,
		"comment ending in --->":         `<a><!-- ---></a>`,
		"CDATA outside":                  `<![CDATA[x]]><a/>`,
		"CDATA without end":              `<a><![CDATA[x]]</a>`,
		"]]> in text":                    `<a>]]></a>`,
		"unclosed":                       `<a><b></b>`,
		"wrong end":                      `<a></b>`,
		"end of another prefix":          `<p:a xmlns:p="u" xmlns:q="u"></q:a>`,
		"longer end":                     `<a></ab>`,
		"end only":                       `</a>`,
		"half a tag":                     `<a`,
		"half an end tag":                `<a></a`,
		"no name":                        `< a/>`,
		"number as name":                 `<1/>`,
		"two colons":                     `<a:b:c xmlns:a="u"/>`,
		"colon first":                    `<:a/>`,
		"colon last":                     `<a: xmlns:a="u"/>`,
		"letters beyond ASCII in a name": `<é/>`,
		"undeclared prefix":              `<p:a/>`,
		"undeclared attribute prefix":    `<a p:b="1"/>`,
		"prefix out of scope":            `<a><b xmlns:p="u"/><p:c/></a>`,
		"prefix undeclared":              `<a xmlns:p=""/>`,
		"xmlns redeclared":               `<a xmlns:xmlns="u"/>`,
		"xml redeclared":                 `<a xmlns:xml="u"/>`,
		"xml's namespace elsewhere":      `<a xmlns:p="` + nsXML + `"/>`,
		"element of prefix xmlns":        `<xmlns:a/>`,
		"declared twice":                 `<a xmlns:p="u" xmlns:p="v"/>`,
		"attribute twice":                `<a b="1" b="2"/>`,
		"attribute twice by namespace":   `<a xmlns:p="u" xmlns:q="u" p:b="1" q:b="2"/>`,
		"attribute without value":        `<a b/>`,
		"attribute without quotes":       `<a b=1/>`,
		"attribute without end":          `<a b="1/>`,
		"attributes without space":       `<a b="1"c="2"/>`,
		"< in an attribute":              `<a b="<"/>`,
		"too deep":                       strings.Repeat("<a>", maxDepth+1) + strings.Repeat("</a>", maxDepth+1),
		"too many attributes":            "<a" + manyAttributes("b", maxAttrs+1) + "/>",
		"too many declarations":          strings.Repeat("<a"+manyAttributes("xmlns:b", maxAttrs)+">", 5) + strings.Repeat("</a>", 5),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := outline(doc); !errors.Is(err, ErrBadReply) {
				t.Errorf("reads as %q, %v", got, err)
			}
		})
	}
}

func manyAttributes(name string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ` %s%d="u"`, name, i)
	}
	return b.String()
}

func TestDecoderBounds(t *testing.T) {
	t.Parallel()
	for name, doc := range map[string]string{
		"depth":        strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth),
		"attributes":   "<a" + manyAttributes("b", maxAttrs) + "/>",
		"declarations": strings.Repeat("<a"+manyAttributes("xmlns:b", maxAttrs)+">", 4) + strings.Repeat("</a>", 4),
	} {
		if _, err := outline(doc); err != nil {
			t.Errorf("%s at its bound: %v", name, err)
		}
	}
}

// standardOutline is outline by encoding/xml.
func standardOutline(doc string) ([]string, error) {
	d := xml.NewDecoder(strings.NewReader(doc))
	var out []string
	text, depth := "", 0
	for {
		t, err := d.Token()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if c, ok := t.(xml.CharData); ok {
			if depth > 0 {
				text += string(c)
			}
			continue
		}
		switch t := t.(type) {
		case xml.StartElement:
			if text != "" {
				out, text = append(out, text), ""
			}
			depth++
			s := fmt.Sprintf("<{%s}%s", t.Name.Space, t.Name.Local)
			for _, a := range t.Attr {
				if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
					continue
				}
				s += fmt.Sprintf(" {%s}%s=%q", a.Name.Space, a.Name.Local, a.Value)
			}
			out = append(out, s+">")
		case xml.EndElement:
			if text != "" {
				out, text = append(out, text), ""
			}
			depth--
			out = append(out, "</"+t.Name.Local+">")
		}
	}
}

// sameSpace makes comparable what XML 1.0 section 3.3.3 does and encoding/xml leaves: white space in attributes.
func sameSpace(outline []string) []string {
	var all []string
	for _, s := range outline {
		if strings.HasPrefix(s, "<{") {
			s = strings.NewReplacer(`\t`, " ", `\n`, " ").Replace(s)
		}
		all = append(all, s)
	}
	return all
}

// FuzzDecoder compares with encoding/xml: what we accept, it accepts, and it means the same.
func FuzzDecoder(f *testing.F) {
	f.Add(envelope("1", getResponse, generalSettings, settingsBody))
	for _, s := range []string{
		`<?xml version="1.0" encoding="utf-8"?><a xmlns="u" xmlns:p="v" p:b='&lt;'><p:c/>x<![CDATA[<]]>&#65;<!-- c --><?p i?></a>`,
		"<a b='1\r\n2\t3'>x\r\ny\rz&#13;&#xD;</a>", `<a xml:lang="de"/>`, `<a xmlns:p="u"><p:b xmlns:p="v" xmlns=""/></a>`,
		"\ufeff<a>é</a> ", `<a><![CDATA[]]]]></a>`, `<!DOCTYPE a><a/>`, `<a>&#xD800;</a>`, `<a:b xmlns:a="` + nsXML + `"/>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		var d decoder
		m := message{action: nsTransfer + "/Get", id: 1}
		if err := d.openReply(doc, m, 200); err == nil {
			d.instance()
		} else if _, fault := err.(*Fault); !fault && !errors.Is(err, ErrBadReply) {
			t.Errorf("an error of no known kind: %v", err)
		}
		got, err := outline(doc)
		if err != nil {
			if !errors.Is(err, ErrBadReply) {
				t.Errorf("an error of no known kind: %v", err)
			}
			return
		}
		want, err := standardOutline(strings.TrimPrefix(doc, "\ufeff"))
		if err != nil {
			t.Fatalf("accepted, but encoding/xml says: %v", err)
		}
		if diff := cmp.Diff(sameSpace(want), sameSpace(got)); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzEscape: whatever text we write is read back the same.
func FuzzEscape(f *testing.F) {
	f.Add("plain", "a<b>&\"'\r\n\t]]>")
	f.Add("日本", "\x7f")
	f.Fuzz(func(t *testing.T, attribute, text string) {
		if !isXMLText(attribute) || !isXMLText(text) {
			return
		}
		b := appendEscaped([]byte(`<a b="`), attribute)
		b = append(appendEscaped(append(b, `">`...), text), "</a>"...)
		want := []string{fmt.Sprintf("<{}a {}b=%q>", attribute)}
		if text != "" {
			want = append(want, text)
		}
		want = append(want, "</a>")
		for name, read := range map[string]func(string) ([]string, error){"ours": outline, "encoding/xml": standardOutline} {
			got, err := read(string(b))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	})
}

package amtsim

import (
	"fmt"
	"strings"
	"testing"
)

func TestXML(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		want string // "" where it is none
	}{
		{`<a/>`, `{}a`},
		{`<a></a >`, `{}a`},
		{"\uFEFF<?xml version=\"1.0\" encoding=\"utf-8\" standalone='yes'?>\n<a>1</a>\n<!-- end -->\n<?pi?>", `{}a=1`},
		{`<?xml version="1.0" encoding="US-ASCII"?><a/>`, `{}a`},
		{`<x:a xmlns:x="u"><x:b y="1"/><c xmlns="v"><d/></c></x:a>`, `{u}a {u}b {v}c {v}d`},
		{`<a xmlns="u"><b xmlns=""/></a>`, `{u}a {}b`},
		{`<a>1<b/>2<!-- -->3<![CDATA[<&>]]></a>`, `{}a=123<&> {}b`},
		{"<a>\r\n\r&#xD;&#10;&lt;&gt;&amp;&quot;&apos;&#x1F600;</a>", "{}a=\n\n\r\n<>&\"'\U0001F600"},
		{`<a><b>x</b> <b/></a>`, `{}a {}b=x {}b`},
		{`<日本 属="性"/>`, `{}日本`},

		{``, ""}, {` `, ""}, {`x`, ""}, {`<a>`, ""}, {`<a/><b/>`, ""}, {`<a/>x`, ""}, {`x<a/>`, ""}, {`</a>`, ""}, {`<a></b>`, ""}, {`<a></a`, ""},
		{`<!DOCTYPE a><a/>`, ""}, {`<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`, ""}, {`<a><!ELEMENT b></a>`, ""},
		{`<?xml version="1.0" encoding="utf-16"?><a/>`, ""}, {`<?xml version="1.0"`, ""}, {`<a/><?xml version="1.0"?>`, ""}, {`<a><?xml x?></a>`, ""},
		{`<a><!-- -- --></a>`, ""}, {`<a><!-- `, ""}, {`<a><![CDATA[</a>`, ""}, {`<![CDATA[x]]><a/>`, ""}, {`<a><?pi</a>`, ""},
		{`<a b/>`, ""}, {`<a b=1/>`, ""}, {`<a b="<"/>`, ""}, {`<a b="1"c="2"/>`, ""}, {`<a b="1" b="2"/>`, ""}, {`<a b="1`, ""}, {`<a / >`, ""},
		{`<a xmlns:x="u" xmlns:y="u" x:b="1" y:b="2"/>`, ""}, {`<a xmlns="u" xmlns="v"/>`, ""}, {`<a xmlns:x=""/>`, ""}, {`<a xmlns:xmlns="u"/>`, ""},
		{`<x:a/>`, ""}, {`<a x:b="1"/>`, ""}, {`<a xmlns:x="u"><b x:y:z="1"/></a>`, ""}, {`<:a/>`, ""}, {`<a:/>`, ""}, {`<1a/>`, ""}, {`< a/>`, ""}, {`<-a/>`, ""},
		{`<a xmlns:x="u"/><x:b/>`, ""}, {`<a><b xmlns:x="u"/><x:c/></a>`, ""}, // a binding ends with its element
		{`<a>&</a>`, ""}, {`<a>&b;</a>`, ""}, {`<a>&#;</a>`, ""}, {`<a>&#x;</a>`, ""}, {`<a>&#0;</a>`, ""}, {`<a>&#xD800;</a>`, ""}, {`<a>&#x110000;</a>`, ""},
		{`<a>&#xFFFE;</a>`, ""}, {`<a>&#1x;</a>`, ""}, {`<a>]]></a>`, ""}, {"<a>\x01</a>", ""}, {"<a>\xff</a>", ""}, {"<a>\uFFFF</a>", ""},
		{strings.Repeat("<a>", maxDepth+1) + strings.Repeat("</a>", maxDepth+1), ""},
		{"<a>" + strings.Repeat("<b/>", maxElements) + "</a>", ""},
	} {
		var d document
		got := ""
		if err := d.parse(test.text); err == nil {
			var parts []string
			for _, e := range d.elements {
				s := fmt.Sprintf("{%s}%s", e.space, e.name)
				if e.text != "" {
					s += "=" + e.text
				}
				parts = append(parts, s)
			}
			got = strings.Join(parts, " ")
		}
		if got != test.want {
			t.Errorf("%.200q: %q, want %q", test.text, got, test.want)
		}
	}
	var d document
	if err := d.parse(strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth)); err != nil {
		t.Errorf("%d deep: %v", maxDepth, err)
	}
}

package amtsim

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzEnvelope feeds bodies to the envelope parser. What it takes, encoding/xml must be able to read too, with the same
// root; and what it makes of a message must not depend on what was parsed before.
func FuzzEnvelope(f *testing.F) {
	for _, body := range []string{
		envelope(actionGet, gen, "0", "", ""),
		envelope(sto+"/RegisterApplication", sto, "uuid:1", `<w:SelectorSet><w:Selector Name="Name">x</w:Selector></w:SelectorSet>`,
			input(sto, "RegisterApplication", "CallerUUID", testUUID, "VendorName", "V & <W>", "ApplicationName", "A", "EnterpriseName", "ü")),
		`<s:Envelope xmlns:s="` + nsSOAP + `"><s:Body><i:Identify xmlns:i="` + nsIdentity + `"/></s:Body></s:Envelope>`,
		"\uFEFF<?xml version='1.0' encoding='UTF-8'?><!-- c --><?pi x?><a b='1' xmlns:c='d' c:b='2'><![CDATA[<x>]]>&#x41;&amp;\r\n</a>",
		`<a><b></a></b>`, `<a xmlns:x="1"><x:b/></a><c/>`, `<!DOCTYPE a><a/>`, `<a b="1" b="2"/>`, `<a>]]></a>`, `<x:a/>`, `<a>&unknown;</a>`,
		strings.Repeat("<a>", 40), `<a b=1/>`, `<a`, `<a>&#0;</a>`, "<a>\x00</a>", "<a>\xff</a>",
	} {
		f.Add([]byte(body))
	}
	used := new(message)
	used.read(envelope(actionPull, gen, "9", `<w:SelectorSet><w:Selector Name="Name">x</w:Selector></w:SelectorSet>`, "<x><y/></x>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > maxBody {
			return
		}
		fresh := new(message)
		err := fresh.read(string(body))
		if again := used.read(string(body)); again != err {
			t.Fatalf("fresh: %v, used: %v", err, again)
		}
		if err == errNotXML {
			return
		}
		if used.action != fresh.action || used.resource != fresh.resource || used.id != fresh.id || used.body != fresh.body ||
			len(used.elements) != len(fresh.elements) || len(used.selectors) != len(fresh.selectors) {
			t.Fatal("a message depends on the one before")
		}
		dec := xml.NewDecoder(bytes.NewReader(body))
		dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
		elements := 0
		for {
			token, err := dec.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("encoding/xml: %v", err)
			}
			if e, ok := token.(xml.StartElement); ok {
				got := fresh.elements[elements]
				if got.name != e.Name.Local || got.space != e.Name.Space {
					t.Fatalf("element %d is {%s}%s, encoding/xml has {%s}%s", elements, got.space, got.name, e.Name.Space, e.Name.Local)
				}
				elements++
			}
		}
		if elements != len(fresh.elements) {
			t.Fatalf("%d elements, encoding/xml has %d", len(fresh.elements), elements)
		}
	})
}

// FuzzEscape: every text comes back from an XML reader, but for what XML cannot hold.
func FuzzEscape(f *testing.F) {
	f.Add("plain")
	f.Add("<&>\"'\r\n\t ü 日本 \x00\x1f\uFFFE\xff]]>")
	f.Fuzz(func(t *testing.T, text string) {
		written := string(appendElement(append([]byte(nil), `<r xmlns:g="x">`...), 'g', "e", text)) + "</r>"
		var d document
		if err := d.parse(written); err != nil {
			t.Fatalf("%q: %v", written, err)
		}
		if len(d.elements) != 2 || d.elements[1].name != "e" {
			t.Fatalf("%q breaks out", written)
		}
		want := strings.Map(func(r rune) rune {
			if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
				return '\uFFFD'
			}
			return r
		}, strings.ToValidUTF8(replaceEachInvalid(text), "\uFFFD"))
		if got := d.elements[1].text; got != want {
			t.Fatalf("%q became %q", want, got)
		}
	})
}

// replaceEachInvalid puts U+FFFD for every single invalid byte.
func replaceEachInvalid(s string) string { return string([]rune(s)) }

// FuzzAuthorization: whatever is accepted can be written out and read again as the same.
func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{
		`Digest username="admin", realm="Digest:A4070000000000000000000000000000", nonce="wlbEK1EtAAAAAAAAWW5aUHFp+mQQ1j63", uri="/wsman", response="0123456789abcdef0123456789abcdef", qop=auth, nc=00000001, cnonce="0a4f113b"`,
		`Digest username="a\"b\\c",realm="",nonce="n",uri="u",response="r",qop="auth",nc="1",cnonce="c",algorithm="MD5",opaque=""`,
		`digest	,, nc = 1 ,username=x,nonce=y,uri=z,response=w,cnonce=v`,
		`Basic YWRtaW46`, `Digest`, `Digest nc="1`, `Digest a=b"c`, `Digest nc=1,nc=2`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAuthorization(s)
		if err != nil {
			return
		}
		quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
		again, err := parseAuthorization("Digest username=" + quote(a.username) + ",realm=" + quote(a.realm) + ",nonce=" + quote(a.nonce) + ",uri=" + quote(a.uri) +
			",response=" + quote(a.response) + ",qop=" + quote(a.qop) + ",cnonce=" + quote(a.cnonce) + ",algorithm=" + quote(a.algorithm) + ",nc=" + quote(a.ncWords))
		if err != nil || again != a {
			t.Fatalf("%+v became %+v, %v", a, again, err)
		}
	})
}

// FuzzHead: a head that is accepted has exactly one meaning.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"POST /wsman HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nAuthorization: Digest x=y",
		"POST http://h/wsman HTTP/1.1\r\nHOST:x\r\ntransfer-encoding: Chunked\r\nExpect: 100-Continue\r\nConnection: keep-alive, Close",
		"GET / HTTP/1.0", "POST /wsman HTTP/1.1\r\nHost: x\r\nContent-Length: +1", "POST /wsman HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseHead(s)
		if err != nil {
			return
		}
		if r.chunked && r.length >= 0 || r.length < -1 || strings.ContainsAny(r.method+r.target, " \r\n\x00") || strings.ContainsAny(r.authorization, "\r\n\x00") {
			t.Fatalf("%q: %+v", s, r)
		}
	})
}

// FuzzFaults: a faults file that is accepted says the same when written again.
func FuzzFaults(f *testing.F) {
	for _, s := range []string{
		`{"3": {"silent": true}, "10-12": {"full_eacl": true, "hang_after_calls": 0, "mode": "smb"}}`,
		`{"1": {"restart_in_call": "WriteBlock", "cut_write_after": 5, "latency_ms": 3, "password": "x"}}`,
		`{"1": null}`, `{"1-99999999999": {}}`, `{"1": {"x": 1}}`, `[]`, `{"5-20": {}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const n = 20
		all, err := ParseFaultsFile(b, n)
		if err != nil {
			return
		}
		for i, faults := range all {
			if i < 1 || i > n {
				t.Fatalf("faults for device %d", i)
			}
			written, err := json.Marshal(faults)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseFaults(written)
			if d := cmp.Diff(faults, again); err != nil || d != "" {
				t.Fatalf("%s: %v %s", written, err, d)
			}
		}
	})
}

package wsman

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGetAfterChallenge(t *testing.T) {
	t.Parallel()
	d := newDevice(t, logOn(okGet))
	c := newTestClient(t, Endpoint{URL: d.url()})
	for range 3 {
		in, err := c.Get(testContext(t), generalSettings, Selector{"InstanceID", `<&"a">`})
		if err != nil {
			t.Fatal(err)
		}
		if realm, ok := in.Value("DigestRealm"); in.Class != "AMT_GeneralSettings" || realm != testRealm || !ok {
			t.Errorf("class %q, realm %q, %v", in.Class, realm, ok)
		}
	}
	conns, requests := d.seen()
	if conns != 2 || len(requests) != 4 {
		t.Errorf("%d connections and %d requests; want one more than calls of each, since the 401 closes", conns, len(requests))
	}
	if requests[0].authorized() || requests[0].body != requests[1].body {
		t.Error("the first request carries credentials, or another body than the second")
	}
	var counts []string
	for _, r := range requests[1:] {
		counts = append(counts, r.param("nc"))
	}
	if diff := cmp.Diff([]string{"00000001", "00000002", "00000003"}, counts); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(requests[0].body, `<w:SelectorSet><w:Selector Name="InstanceID">&lt;&amp;&quot;a&quot;&gt;</w:Selector></w:SelectorSet></Header><Body></Body>`) {
		t.Errorf("selector not escaped: %s", requests[0].body)
	}
	if id, next := requests[1].messageID(), requests[2].messageID(); id == next {
		t.Errorf("two calls with MessageID %s", id)
	}
}

// TestLogOn: which requests a log-on takes. Each letter is a request: - without credentials, f answering a fresh
// challenge, r with a nonce that was used before.
func TestLogOn(t *testing.T) {
	t.Parallel()
	challengeFor := func(nonce string) string {
		return `HTTP/1.1 401 Unauthorized` + "\r\n" + `WWW-Authenticate: Digest realm="` + testRealm + `", nonce="` + nonce + `", qop="auth"` + "\r\nContent-Length: 3\r\n\r\nno\n"
	}
	fault401 := func(err error) bool {
		f, ok := errors.AsType[*Fault](err)
		return ok && f.HTTPStatus == 401 && !errors.Is(err, ErrLogOn)
	}
	refused := func(err error) bool { return errors.Is(err, ErrLogOn) }
	fine := func(err error) bool { return err == nil }
	for _, test := range []struct {
		name   string
		accept func(r request) bool // of the n-th request
		deny   func(r request) string
		want   []func(error) bool
		letter string
	}{
		{"no log-on wanted", func(r request) bool { return true }, nil, []func(error) bool{fine, fine}, "--"},
		{"wrong password: one try per call", func(r request) bool { return false }, nil, []func(error) bool{refused, refused}, "-f-f"},
		{"nonce refused once", func(r request) bool { return r.authorized() && r.n != 2 }, nil, []func(error) bool{fine, fine, fine}, "-frfr"},
		{"locked out later", func(r request) bool { return r.n == 1 }, nil, []func(error) bool{fine, refused, refused}, "-frf-f"},
		{"every nonce for one request only", func(r request) bool { return r.param("nc") == "00000001" }, nil, []func(error) bool{fine, fine, fine}, "-frfrf"},
		{"Basic only", func(r request) bool { return false }, func(request) string {
			return "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n"
		}, []func(error) bool{fault401, fault401}, "--"},
		{"no challenge", func(r request) bool { return false }, func(request) string {
			return "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
		}, []func(error) bool{fault401}, "-"},
		{"no challenge to a used nonce", func(r request) bool { return r.n == 1 }, func(r request) string {
			if r.n == 0 {
				return challengeFor("n0")
			}
			return "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
		}, []func(error) bool{fine, fault401, fault401}, "-fr-"},
		{"stale answer to a fresh challenge is final", func(r request) bool { return false }, func(r request) string {
			return strings.Replace(challengeFor("n"+strconv.Itoa(r.n)), `qop=`, `stale=true, qop=`, 1)
		}, []func(error) bool{refused}, "-f"},
	} {
		for call, do := range map[string]func(*Client) error{
			"Get":    func(c *Client) error { _, err := c.Get(testContext(t), generalSettings); return err },
			"Invoke": func(c *Client) error { _, err := c.Invoke(testContext(t), storage, "GetMTU"); return err },
		} {
			t.Run(test.name+", "+call, func(t *testing.T) {
				t.Parallel()
				d := newDevice(t, func(r request) answer {
					switch {
					case test.accept(r) && call == "Get":
						return okGet(r)
					case test.accept(r):
						return answer{raw: okHead + chunks(mtuReply(r))}
					case test.deny != nil:
						return answer{raw: test.deny(r)}
					}
					return answer{raw: challengeFor("n" + strconv.Itoa(r.n))}
				})
				c := newTestClient(t, Endpoint{URL: d.url()})
				for i, want := range test.want {
					if err := do(c); !want(err) {
						t.Errorf("call %d: %v", i, err)
					}
				}
				letters, nonces := "", map[string]bool{}
				conns, requests := d.seen()
				for _, r := range requests {
					nonce := r.param("nonce")
					switch {
					case !r.authorized():
						letters += "-"
					case nonces[nonce]:
						letters += "r"
					default:
						letters += "f"
					}
					nonces[nonce] = true
				}
				if letters != test.letter || conns != 1 {
					t.Errorf("requests %s on %d connections, want %s on 1", letters, conns, test.letter)
				}
			})
		}
	}
}

// TestNextNonceIsUsed: the announced nonce serves the next request, with a count of its own, and may be refused like any
// other that is not of this call's challenge.
func TestNextNonceIsUsed(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer {
		if r.n == 0 || r.n == 3 {
			return answer{raw: captured401, close: true}
		}
		a := okGet(r)
		a.raw = strings.Replace(a.raw, "\r\n", fmt.Sprintf("\r\nAuthentication-Info: qop=auth, nextnonce=\"next%d==\"\r\n", r.n), 1)
		return a
	})
	c := newTestClient(t, Endpoint{URL: d.url()})
	for range 3 {
		if _, err := c.Get(testContext(t), generalSettings); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	_, requests := d.seen()
	for _, r := range requests {
		got = append(got, r.param("nonce")+" "+r.param("nc"))
	}
	want := []string{" ", testNonce + " 00000001", "next1== 00000001", "next2== 00000001", testNonce + " 00000001"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInvoke(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer {
		return answer{raw: okHead + chunks(envelope(r.messageID(), storage+"/AllocateBlockResponse", storage,
			"<g:AllocateBlock_OUTPUT><g:BlockHandle>7</g:BlockHandle><g:BlockHandle>8</g:BlockHandle><g:Empty></g:Empty><g:ReturnValue>0</g:ReturnValue></g:AllocateBlock_OUTPUT>"))}
	})
	c := newTestClient(t, Endpoint{URL: d.url()})
	out, err := c.Invoke(testContext(t), storage, "AllocateBlock",
		Param{"SessionHandle", "00FF"}, Param{"BytesRequested", "4096"}, Param{"BlockHidden", "true"}, Param{"BlockName", "a<b>&\"c\"\r\n日本"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"7", "8"}, out.Values("BlockHandle")); diff != "" || out.Class != "AllocateBlock_OUTPUT" {
		t.Error(out.Class, diff)
	}
	first, _ := out.Value("BlockHandle")
	empty, isThere := out.Value("Empty")
	_, other := out.Value("Other")
	if first != "7" || empty != "" || !isThere || other || out.Values("Other") != nil {
		t.Errorf("%q %q %v %v", first, empty, isThere, other)
	}
	_, requests := d.seen()
	want := `<r:AllocateBlock_INPUT xmlns:r="` + storage + `"><r:SessionHandle>00FF</r:SessionHandle><r:BytesRequested>4096</r:BytesRequested>` +
		`<r:BlockHidden>true</r:BlockHidden><r:BlockName>a&lt;b&gt;&amp;&quot;c&quot;&#13;&#10;日本</r:BlockName></r:AllocateBlock_INPUT>`
	if got := between(requests[0].body, "<Body>", "</Body>"); got != want {
		t.Errorf("body %s", got)
	}
}

// TestUnsendable: what XML cannot carry is refused before anything is sent.
func TestUnsendable(t *testing.T) {
	t.Parallel()
	c := newTestClient(t, Endpoint{URL: "http://127.0.0.1:1", Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, errors.New("no")
	}})
	ctx := testContext(t)
	for name, call := range map[string]func() error{
		"NUL in a parameter":     func() error { _, err := c.Invoke(ctx, storage, "A", Param{"B", "\x00"}); return err },
		"invalid UTF-8":          func() error { _, err := c.Invoke(ctx, storage, "A", Param{"B", "\xff"}); return err },
		"markup as a name":       func() error { _, err := c.Invoke(ctx, storage, "A", Param{"B><C", ""}); return err },
		"parameter without name": func() error { _, err := c.Invoke(ctx, storage, "A", Param{"", "x"}); return err },
		"method of markup":       func() error { _, err := c.Invoke(ctx, storage, "A/>"); return err },
		"no method":              func() error { _, err := c.Invoke(ctx, storage, ""); return err },
		"no resource":            func() error { _, err := c.Get(ctx, ""); return err },
		"resource of controls":   func() error { _, err := c.Enumerate(ctx, "a\x01"); return err },
		"selector of controls":   func() error { _, err := c.Get(ctx, storage, Selector{"Name", "\x1f"}); return err },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
}

// TestReplyMustAnswer: a well-formed reply that is not this request's answer is refused.
func TestReplyMustAnswer(t *testing.T) {
	t.Parallel()
	const body = "<g:GetMTU_OUTPUT><g:ReturnValue>0</g:ReturnValue></g:GetMTU_OUTPUT>"
	const action = storage + "/GetMTUResponse"
	good := func(r request) string { return envelope(r.messageID(), action, storage, body) }
	for name, reply := range map[string]func(request) string{
		"another message": func(r request) string { return envelope("99", action, storage, body) },
		"no RelatesTo":    func(r request) string { return strings.ReplaceAll(good(r), "b:RelatesTo", "b:Other") },
		"RelatesTo of another namespace": func(r request) string {
			return strings.ReplaceAll(good(r), "b:RelatesTo", "c:RelatesTo")
		},
		"two RelatesTo": func(r request) string {
			return strings.Replace(good(r), "<b:Action", "<b:RelatesTo>99</b:RelatesTo><b:Action", 1)
		},
		"another method's action": func(r request) string { return envelope(r.messageID(), storage+"/GetXResponse", storage, body) },
		"another class's action": func(r request) string {
			return envelope(r.messageID(), generalSettings+"/GetMTUResponse", storage, body)
		},
		"the request's own action": func(r request) string { return envelope(r.messageID(), storage+"/GetMTU", storage, body) },
		"no action":                func(r request) string { return strings.ReplaceAll(good(r), "b:Action", "b:Other") },
		"another output": func(r request) string {
			return envelope(r.messageID(), action, storage, strings.ReplaceAll(body, "GetMTU_", "GetX_"))
		},
		"no output": func(r request) string {
			return envelope(r.messageID(), action, storage, strings.ReplaceAll(body, "_OUTPUT", ""))
		},
		"empty Body": func(r request) string { return envelope(r.messageID(), action, storage, "") },
		"SOAP 1.1": func(r request) string {
			return strings.Replace(good(r), "http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/", 1)
		},
		"no Body":         func(r request) string { return strings.ReplaceAll(good(r), "a:Body", "a:Other") },
		"half":            func(r request) string { return good(r)[:len(good(r))-3] },
		"something after": func(r request) string { return good(r) + "<x/>" },
		"document type": func(r request) string {
			return strings.Replace(good(r), "<a:Envelope", "<!DOCTYPE a><a:Envelope", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, func(r request) answer {
				if r.n == 0 {
					return answer{raw: okHead + chunks(reply(r))}
				}
				return answer{raw: okHead + chunks(good(r))}
			})
			c := newTestClient(t, Endpoint{URL: d.url()})
			if out, err := c.Invoke(testContext(t), storage, "GetMTU"); !errors.Is(err, ErrBadReply) {
				t.Errorf("got %v, %v", out, err)
			}
			if _, err := c.Invoke(testContext(t), storage, "GetMTU"); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// TestReplyInOtherForms: other spellings of the same reply give the same outputs.
func TestReplyInOtherForms(t *testing.T) {
	t.Parallel()
	good := func(r request) string { return mtuReply(r) }
	for name, reply := range map[string]func(request) string{
		"as captured": good,
		"indented":    func(r request) string { return strings.ReplaceAll(good(r), "><", ">\r\n  <") },
		"other prefixes": func(r request) string {
			return strings.NewReplacer("xmlns:a=", "xmlns:s=", "<a:", "<s:", "</a:", "</s:", " a:", " s:", "xmlns:g=", "xmlns=", "<g:", "<", "</g:", "</").Replace(good(r))
		},
		"space in RelatesTo and Action": func(r request) string {
			return strings.NewReplacer("<b:RelatesTo>", "<b:RelatesTo> ", "</b:Action>", "\n</b:Action>").Replace(good(r))
		},
		"unknown headers and comments": func(r request) string {
			return strings.Replace(good(r), "<a:Header>", `<!-- x --><a:Header><z:A xmlns:z="z"><b:RelatesTo>9</b:RelatesTo></z:A>`, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, func(r request) answer { return answer{raw: okHead + chunks(reply(r))} })
			out, err := newTestClient(t, Endpoint{URL: d.url()}).Invoke(testContext(t), storage, "GetMTU")
			if err != nil {
				t.Fatal(err)
			}
			want := Instance{Class: "GetMTU_OUTPUT", elements: []element{{"Mtu", "4096"}, {"ReturnValue", "0"}}}
			if diff := cmp.Diff(want, out, cmp.AllowUnexported(Instance{}, element{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestInstance: what is listed, under which name.
func TestInstance(t *testing.T) {
	t.Parallel()
	doc := `<g:C xmlns:g="c" xmlns:b="` + nsAddressing + `" xmlns:w="` + nsWSMan + `" xmlns:xsi="` + nsInstance + `">` +
		`<g:Text> a  b </g:Text><g:Mixed>1<!-- -->2<![CDATA[<3>]]></g:Mixed><g:Null xsi:nil="true"/><g:NotNull xsi:nil="false"></g:NotNull>` +
		`<g:Antecedent>
			<b:Address>/wsman</b:Address>
			<b:ReferenceParameters><w:ResourceURI>uri</w:ResourceURI><w:SelectorSet><w:Selector Name="Name">n</w:Selector><w:Selector Name="Id">i</w:Selector></w:SelectorSet></b:ReferenceParameters>
		</g:Antecedent><g:Array>1</g:Array><g:Array></g:Array></g:C>`
	var d decoder
	if err := d.start(doc); err != nil {
		t.Fatal(err)
	}
	d.child()
	in, err := d.instance()
	if err != nil {
		t.Fatal(err)
	}
	want := []element{
		{"Text", " a  b "}, {"Mixed", "12<3>"}, {"NotNull", ""},
		{"Antecedent/Address", "/wsman"}, {"Antecedent/ReferenceParameters/ResourceURI", "uri"},
		{"Antecedent/ReferenceParameters/SelectorSet/Selector[Name]", "n"}, {"Antecedent/ReferenceParameters/SelectorSet/Selector[Id]", "i"},
		{"Array", "1"}, {"Array", ""},
	}
	if diff := cmp.Diff(want, in.elements, cmp.AllowUnexported(element{})); diff != "" {
		t.Error(diff)
	}
}

func TestLongPathIsRefused(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", maxPath-2)
	for inner, ok := range map[string]bool{"a": true, "ab": false} {
		var d decoder
		if err := d.start("<c><" + name + "><" + inner + "/></" + name + "></c>"); err != nil {
			t.Fatal(err)
		}
		d.child()
		if _, err := d.instance(); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadReply) {
			t.Errorf("path of %d: %v", len(name)+1+len(inner), err)
		}
	}
}

// TestManyPieces: a text cut into very many pieces costs no more than its length.
func TestManyPieces(t *testing.T) {
	t.Parallel()
	const n = 100_000
	var d decoder
	if err := d.start("<c><a>" + strings.Repeat("x<?p?>", n) + "</a></c>"); err != nil {
		t.Fatal(err)
	}
	d.child()
	in, err := d.instance()
	if v, _ := in.Value("a"); err != nil || v != strings.Repeat("x", n) {
		t.Errorf("%d bytes, %v", len(v), err)
	}
}

// enumeration answers Enumerate with a context and each Pull with the next of pages.
func enumeration(pages ...string) func(request) answer {
	const g = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	return func(r request) answer {
		if r.n == 0 {
			return answer{raw: okHead + chunks(envelope(r.messageID(), g+"/EnumerateResponse", g,
				"<g:EnumerateResponse><g:EnumerationContext>5C00&amp;0</g:EnumerationContext></g:EnumerateResponse>"))}
		}
		p := pages[min(r.n, len(pages))-1]
		return answer{raw: okHead + chunks(envelope(r.messageID(), g+"/PullResponse", g, "<g:PullResponse>"+p+"</g:PullResponse>"))}
	}
}

func item(id string) string {
	return `<h:CIM_Card xmlns:h="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_Card"><h:Tag>` + id + `</h:Tag></h:CIM_Card>`
}

func TestEnumerate(t *testing.T) {
	t.Parallel()
	const end = "<g:EndOfSequence></g:EndOfSequence>"
	for _, test := range []struct {
		name     string
		pages    []string
		want     []string // tags
		contexts []string // in the Pulls
		err      error
	}{
		{"one page", []string{"<g:Items>" + item("a") + item("b") + "</g:Items>" + end}, []string{"a", "b"}, []string{"5C00&amp;0"}, nil},
		{"no instances", []string{"<g:Items></g:Items>" + end}, nil, []string{"5C00&amp;0"}, nil},
		{"no Items at all", []string{end}, nil, []string{"5C00&amp;0"}, nil},
		{"three pages, contexts renewed and kept", []string{
			"<g:EnumerationContext>9400</g:EnumerationContext><g:Items>" + item("a") + "</g:Items>",
			"<g:Items>" + item("b") + "</g:Items>",
			"<g:Items></g:Items>" + end,
		}, []string{"a", "b"}, []string{"5C00&amp;0", "9400", "9400"}, nil},
		{"without end", []string{"<g:Items>" + item("a") + "</g:Items>"}, nil, nil, ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, enumeration(test.pages...))
			c := newTestClient(t, Endpoint{URL: d.url(), MaxReply: 5000})
			all, err := c.Enumerate(testContext(t), "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_Card")
			if !errors.Is(err, test.err) {
				t.Fatal(err)
			}
			var tags, contexts []string
			for _, in := range all {
				tag, _ := in.Value("Tag")
				if tags = append(tags, tag); in.Class != "CIM_Card" {
					t.Errorf("class %s", in.Class)
				}
			}
			conns, requests := d.seen()
			if conns != 1 || len(requests) > maxPulls+1 {
				t.Errorf("%d connections, %d requests", conns, len(requests))
			}
			if err != nil {
				return
			}
			if requests[0].body == "" || between(requests[0].body, "<Body>", "</Body>") != `<Enumerate xmlns="http://schemas.xmlsoap.org/ws/2004/09/enumeration" />` {
				t.Errorf("Enumerate is %s", requests[0].body)
			}
			for _, r := range requests[1:] {
				contexts = append(contexts, between(r.body, "<EnumerationContext>", "</EnumerationContext>"))
			}
			if diff := cmp.Diff(test.want, tags); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.contexts, contexts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestEnumerateEnds: what bounds a sequence without end: its pages if they are small, else their bytes.
func TestEnumerateEnds(t *testing.T) {
	t.Parallel()
	large := "<g:Items>" + item(strings.Repeat("x", 3000)) + "</g:Items>"
	for _, test := range []struct {
		page              string
		maxReply          int64
		fewest, mostPulls int
	}{
		{"<g:Items></g:Items>", 0, maxPulls, maxPulls},
		{large, 5000, maxReplies, 2 * maxReplies},
	} {
		d := newDevice(t, enumeration(test.page))
		_, err := newTestClient(t, Endpoint{URL: d.url(), MaxReply: test.maxReply}).Enumerate(testContext(t), generalSettings)
		if _, requests := d.seen(); !errors.Is(err, ErrTooLarge) || len(requests)-1 < test.fewest || len(requests)-1 > test.mostPulls {
			t.Errorf("%d Pulls, %v; want %d to %d", len(requests)-1, err, test.fewest, test.mostPulls)
		}
	}
}

func TestEnumerateRefused(t *testing.T) {
	t.Parallel()
	const g = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	for name, body := range map[string]string{
		"no context":     "<g:EnumerateResponse></g:EnumerateResponse>",
		"something else": "<g:PullResponse><g:EndOfSequence></g:EndOfSequence></g:PullResponse>",
	} {
		d := newDevice(t, func(r request) answer {
			return answer{raw: okHead + chunks(envelope(r.messageID(), g+"/EnumerateResponse", g, body))}
		})
		if _, err := newTestClient(t, Endpoint{URL: d.url()}).Enumerate(testContext(t), generalSettings); !errors.Is(err, ErrBadReply) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// 20,000 instances in one reply are still taken, one more is not.
	for extra, want := range []error{nil, ErrTooLarge} {
		d := newDevice(t, enumeration("<g:Items>"+strings.Repeat("<g:C/>", maxInstances+extra)+"</g:Items><g:EndOfSequence></g:EndOfSequence>"))
		all, err := newTestClient(t, Endpoint{URL: d.url()}).Enumerate(testContext(t), generalSettings)
		if !errors.Is(err, want) || err == nil && len(all) != maxInstances {
			t.Errorf("%d instances, %v", len(all), err)
		}
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	const identity = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
	reply := `<s:Envelope xmlns:s="` + nsSOAP + `" xmlns:i="` + identity + `"><s:Header/><s:Body><i:IdentifyResponse>` +
		`<i:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</i:ProtocolVersion><i:ProductVendor>Intel(r)</i:ProductVendor>` +
		`<i:ProductVersion>AMT 11.8.50</i:ProductVersion></i:IdentifyResponse></s:Body></s:Envelope>`
	for name, change := range map[string]func(string) string{
		"bare": func(s string) string { return s },
		"with addressing header": func(s string) string {
			return strings.Replace(s, "<s:Header/>", `<s:Header><a:RelatesTo xmlns:a="`+nsAddressing+`">x</a:RelatesTo></s:Header>`, 1)
		},
		"another answer": func(s string) string { return strings.ReplaceAll(s, "IdentifyResponse", "Response") },
	} {
		d := newDevice(t, func(r request) answer { return answer{raw: okHead + chunks(change(reply))} })
		id, err := newTestClient(t, Endpoint{URL: d.url()}).Identify(testContext(t))
		if name == "another answer" {
			if !errors.Is(err, ErrBadReply) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		want := Identity{"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd", "Intel(r)", "AMT 11.8.50"}
		if err != nil || id != want {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
		_, requests := d.seen()
		if body := requests[0].body; strings.Contains(body, "addressing") || !strings.Contains(body, `xmlns:i="`+identity+`"`) {
			t.Errorf("Identify is %s", body)
		}
	}
}

// capturedFault is the fault that AMT sends for a class it does not know.
const capturedFault = `<?xml version="1.0" encoding="UTF-8"?><a:Envelope xmlns:g="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:f="http://schemas.xmlsoap.org/ws/2004/08/eventing" xmlns:e="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:d="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:c="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:a="http://www.w3.org/2003/05/soap-envelope" xmlns:h="http://schemas.xmlsoap.org/ws/2005/02/trust" xmlns:i="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><a:Header><b:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</b:To><b:RelatesTo>1</b:RelatesTo><b:Action a:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/fault</b:Action><b:MessageID>uuid:00000000-8086-8086-8086-000000000061</b:MessageID></a:Header><a:Body><a:Fault><a:Code><a:Value>a:Sender</a:Value><a:Subcode><a:Value>b:DestinationUnreachable</a:Value></a:Subcode></a:Code><a:Reason><a:Text xml:lang="en-US">No route can be determined to reach the destination role defined by the WSAddressing To.</a:Text></a:Reason><a:Detail></a:Detail></a:Fault></a:Body></a:Envelope>`

func TestFaults(t *testing.T) {
	t.Parallel()
	const noRoute = "No route can be determined to reach the destination role defined by the WSAddressing To."
	unreachable := Fault{400, "http://schemas.xmlsoap.org/ws/2004/08/addressing/fault", "Sender", "DestinationUnreachable", noRoute, ""}
	with := func(change func(*Fault)) Fault { f := unreachable; change(&f); return f }
	html := func(status, page string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(page), page)
	}
	for _, test := range []struct {
		name, raw string
		want      Fault
		text      string
	}{
		{"captured", faultHead + chunks(capturedFault, 0x220), unreachable, "the device answers HTTP 400, DestinationUnreachable: " + noRoute},
		{"with status 200", okHead + chunks(capturedFault), with(func(f *Fault) { f.HTTPStatus = 200 }), ""},
		{"internal error with detail", "HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(strings.NewReplacer(
			"a:Sender", "a:Receiver", "b:Dest", "e:Dest", "<a:Detail></a:Detail>", "<a:Detail><x>AMT-STATUS</x> <y> 38\n</y></a:Detail>").Replace(capturedFault)),
			with(func(f *Fault) { f.HTTPStatus, f.Code, f.Detail = 500, "Receiver", "AMT-STATUS 38" }),
			"the device answers HTTP 500, DestinationUnreachable: " + noRoute + " (AMT-STATUS 38)"},
		{"relating to nothing", faultHead + chunks(strings.Replace(capturedFault, "<b:RelatesTo>1</b:RelatesTo>", "", 1)), unreachable, ""},
		{"without header", faultHead + chunks(strings.ReplaceAll(capturedFault, "a:Header", "a:Other")), with(func(f *Fault) { f.Action = "" }), ""},
		{"code only", faultHead + chunks(`<Envelope xmlns="`+nsSOAP+`"><Body><Fault><Code><Value> x:Receiver </Value></Code></Fault></Body></Envelope>`),
			Fault{HTTPStatus: 400, Code: "Receiver"}, "the device answers HTTP 400, Receiver"},
		{"nested subcodes", faultHead + chunks(`<Envelope xmlns="`+nsSOAP+`"><Body><Fault><Code><Value>a:Sender</Value><Subcode><Value>b:One</Value><Subcode><Value>Two</Value></Subcode></Subcode></Code>`+
			`<Reason><Text xml:lang="en">first</Text><Text xml:lang="de">zweiter</Text></Reason></Fault></Body></Envelope>`),
			Fault{HTTPStatus: 400, Code: "Sender", Subcode: "One", Reason: "first"}, "the device answers HTTP 400, One: first"},
		{"hostile texts", faultHead + chunks(strings.NewReplacer(noRoute, "a&#13;&#10;b\u202e\tc\u0085d "+strings.Repeat("é", 1000), "b:Dest", "b:\n\u200bDest").Replace(capturedFault)),
			with(func(f *Fault) { f.Reason = "a b c d " + strings.Repeat("é", (maxFaultText-5-8)/2+1) + "..." }), ""},

		{"HTML 400", html("400 Bad Request", "<HTML><title>t</title><body><h2>Bad <b>Request</b>.\r\n The  request</h2></body>"), Fault{HTTPStatus: 400, Reason: "Bad Request. The request"}, "the device answers HTTP 400: Bad Request. The request"},
		{"HTML 403 with a title", html("403 Forbidden", "<html><head><title>Not yours</title></head></html>"), Fault{HTTPStatus: 403, Reason: "Not yours"}, ""},
		{"500 with nothing to say", html("500 Internal Server Error", ""), Fault{HTTPStatus: 500, Reason: "Internal Server Error"}, ""},
		{"503 without a phrase", html("503", "busy"), Fault{HTTPStatus: 503, Reason: "Service Unavailable"}, ""},
		{"heading without end", html("404 Gone astray", "<h2>x"), Fault{HTTPStatus: 404, Reason: "Gone astray"}, ""},
		{"page of rubbish", html("404 Not\x80 Found", "\xff\xfe<h2>\x00</h2>"), Fault{HTTPStatus: 404, Reason: "Not Found"}, ""},
		{"redirect", html("302 Found", ""), Fault{HTTPStatus: 302, Reason: "Found"}, ""},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", Fault{HTTPStatus: 204, Reason: "No Content"}, ""},
		{"SOAP success with 500", strings.Replace(okHead, "200 OK", "500 Oops", 1) + chunks(envelope("1", getResponse, generalSettings, settingsBody)), Fault{HTTPStatus: 500, Reason: "Oops"}, ""},
		{"SOAP fault cut off", html("400 Bad Request", capturedFault[:len(capturedFault)-20]), Fault{HTTPStatus: 400, Reason: "Bad Request"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, func(r request) answer { return answer{raw: test.raw} })
			_, err := newTestClient(t, Endpoint{URL: d.url()}).Get(testContext(t), generalSettings)
			f, ok := errors.AsType[*Fault](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(test.want, *f); diff != "" {
				t.Error(diff)
			}
			if test.text != "" && err.Error() != "Get AMT_GeneralSettings: "+test.text {
				t.Errorf("reads %q", err)
			}
		})
	}
}

// TestFaultOfAnotherMessage: a fault that names another message is not this call's.
func TestFaultOfAnotherMessage(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer {
		return answer{raw: faultHead + chunks(strings.Replace(capturedFault, "<b:RelatesTo>1<", "<b:RelatesTo>2<", 1)), close: true}
	})
	_, err := newTestClient(t, Endpoint{URL: d.url()}).Get(testContext(t), generalSettings)
	if _, fault := errors.AsType[*Fault](err); fault || !errors.Is(err, ErrBadReply) {
		t.Errorf("got %v", err)
	}
}

// TestConcurrentCalls: calls of one client take turns, and those of many clients share nothing.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	d := newDevice(t, logOn(okGet))
	c := newTestClient(t, Endpoint{URL: d.url()})
	var wg sync.WaitGroup
	const callers, calls = 8, 20
	for range callers {
		wg.Go(func() {
			for range calls {
				if _, err := c.Get(testContext(t), generalSettings); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	conns, requests := d.seen()
	ids := map[string]bool{}
	for _, r := range requests {
		ids[r.messageID()] = true
	}
	if conns != 2 || len(requests) != callers*calls+1 || len(ids) != callers*calls {
		t.Errorf("%d connections, %d requests, %d MessageIDs", conns, len(requests), len(ids))
	}
}

// TestInstanceOutlivesReply: what a call returned is not touched by later calls.
func TestInstanceOutlivesReply(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer {
		return answer{raw: okHead + chunks(envelope(r.messageID(), getResponse, generalSettings, "<g:C><g:A>value "+r.messageID()+"</g:A></g:C>"))}
	})
	c := newTestClient(t, Endpoint{URL: d.url()})
	var all []Instance
	for range 3 {
		in, err := c.Get(testContext(t), generalSettings)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, in)
	}
	for i, in := range all {
		if v, _ := in.Value("A"); v != fmt.Sprintf("value %d", i+1) {
			t.Errorf("reply %d is now %q", i, v)
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]Endpoint{
		"no URL":                 {URL: ""},
		"no scheme":              {URL: "127.0.0.1:16992"},
		"another scheme":         {URL: "ftp://127.0.0.1:16992"},
		"no host":                {URL: "http://:16992"},
		"no port":                {URL: "http://device"},
		"user in the URL":        {URL: "http://admin:hidden-word@device:16992"},
		"bad escape":             {URL: "http://admin:hidden-word%zz@device:16992"},
		"line end in the URL":    {URL: "http://device:16992/a\r\nX: y"},
		"space in the host":      {URL: "http://dev ice:16992/"},
		"fragment":               {URL: "http://device:16992/#a"},
		"no user":                {URL: "http://device:16992", User: "-"},
		"line end in the user":   {URL: "http://device:16992", User: "a\r\nX: y"},
		"negative limit":         {URL: "http://device:16992", MaxReply: -1},
		"pin of the wrong size":  {URL: "https://device:16993", PinSPKI: make([]byte, 20)},
		"port that is no number": {URL: "http://device:http"},
	} {
		switch e.User {
		case "":
			e.User = "admin"
		case "-":
			e.User = ""
		}
		if _, err := NewClient(e); err == nil || strings.Contains(err.Error(), "hidden-word") || strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewClient(Endpoint{URL: "https://device:16993", User: "admin"}); !errors.Is(err, ErrNoTrust) {
		t.Errorf("TLS without trust: %v", err)
	}
}

func TestURLForms(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][3]string{ // address, path, Host
		"http://device:16992":               {"device:16992", "/wsman", "device:16992"},
		"http://device:16992/":              {"device:16992", "/wsman", "device:16992"},
		"http://127.0.0.1:1/a%20b?c=d":      {"127.0.0.1:1", "/a%20b?c=d", "127.0.0.1:1"},
		"http://[::1]:16992/wsman":          {"[::1]:16992", "/wsman", "[::1]:16992"},
		"http://[fe80::1%25eth0]:16992/x":   {"[fe80::1%eth0]:16992", "/x", "[fe80::1]:16992"},
		"HTTP://device:16992":               {"device:16992", "/wsman", "device:16992"},
		"http://device:16992/a/b;c=%22x%22": {"device:16992", "/a/b;c=%22x%22", "device:16992"},
	} {
		c, err := NewClient(Endpoint{URL: raw, User: "admin"})
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		got := [3]string{c.address, c.path, between(c.head, "Host: ", "\r\n")}
		if got != want || !strings.HasPrefix(c.head, "POST "+want[1]+" HTTP/1.1\r\n") {
			t.Errorf("%s: %q", raw, got)
		}
	}
}

// TestSecretsStayHidden prints everything that holds the password in every way that is at hand.
func TestSecretsStayHidden(t *testing.T) {
	t.Parallel()
	const word = "P@ss-wörd"
	e := Endpoint{URL: "http://device:16992", User: "admin", Password: word}
	c := newTestClient(t, e)
	c.auth.accept(challenge{realm: "r", nonce: "n"})
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	logJSON := slog.New(slog.NewJSONHandler(&out, nil))
	for _, v := range []any{e.Password, &e.Password, e, &e, c, []Secret{word}, map[string]Secret{"a": word}, struct{ S Secret }{word}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%U", "%10.3s"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		log.Info("x", "v", v)
		logJSON.Info("x", "v", v)
		for _, encode := range []func(any) ([]byte, error){json.Marshal, xml.Marshal} {
			b, _ := encode(v)
			out.Write(b)
		}
	}
	out.WriteString(e.Password.String())
	text := out.String()
	for _, secret := range []string{word, "ss-w", fmt.Sprintf("%x", word), fmt.Sprintf("%X", word), fmt.Sprintf("% x", word), fmt.Sprintf("%q", word), string(c.auth.ha1)} {
		if strings.Contains(text, secret) {
			t.Errorf("%s shows", secret)
		}
	}
	if got := fmt.Sprintf("%v %s %+v", e.Password, c, struct{ P Secret }{word}); got != "*** WS-Management client of device:16992 {P:***}" {
		t.Error(got)
	}
	b, err := json.Marshal(struct{ P Secret }{word})
	if string(b) != `{"P":"***"}` || err != nil {
		t.Errorf("%s, %v", b, err)
	}
}

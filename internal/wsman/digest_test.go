package wsman

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// answerOf parses a challenge, answers it and gives the parameters of the Authorization header.
func answerOf(t *testing.T, www, user string, password Secret, cnonce, method, uri string) map[string]string {
	t.Helper()
	ch, ok := chooseChallenge([]string{www})
	if !ok {
		t.Fatalf("no challenge in %s", www)
	}
	d := digest{user: user, password: password}
	d.acceptWith(ch, cnonce)
	return authorization(t, string(d.appendHeader(nil, method, uri)))
}

func authorization(t *testing.T, header string) map[string]string {
	t.Helper()
	rest, ok := strings.CutPrefix(header, "Authorization: ")
	if !ok || !strings.HasSuffix(rest, "\r\n") || strings.Count(rest, "\r")+strings.Count(rest, "\n") != 2 {
		t.Fatalf("no single header line: %q", header)
	}
	items := authItems{rest: strings.TrimSuffix(rest, "\r\n")}
	if first, _ := items.next(); !first.scheme || first.name != "Digest" {
		t.Fatalf("scheme %+v", first)
	}
	params := map[string]string{}
	for {
		p, ok := items.next()
		if !ok {
			return params
		}
		if _, twice := params[p.name]; p.scheme || twice {
			t.Fatalf("%+v in %q", p, header)
		}
		params[p.name] = p.value
	}
}

func TestDigestVectors(t *testing.T) {
	t.Parallel()
	const (
		nonce2617 = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
		www2617   = `Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="` + nonce2617 + `", opaque="5ccc069c403ebaf9f0171e9517f40e41"`
		nonce7616 = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
		cnonce    = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
		tail7616  = `, nonce="` + nonce7616 + `", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`
	)
	for _, test := range []struct {
		name, www, password, cnonce string
		want                        map[string]string
	}{
		{"RFC 2617 3.5", www2617, "Circle Of Life", "0a4f113b", map[string]string{
			"username": "Mufasa", "realm": "testrealm@host.com", "nonce": nonce2617, "uri": "/dir/index.html", "qop": "auth", "nc": "00000001",
			"cnonce": "0a4f113b", "response": "6629fae49393a05397450978507c4ef1", "opaque": "5ccc069c403ebaf9f0171e9517f40e41"}},
		{"RFC 2069: no qop", `Digest realm="testrealm@host.com", nonce="` + nonce2617 + `"`, "Circle Of Life", "0a4f113b", map[string]string{
			"username": "Mufasa", "realm": "testrealm@host.com", "nonce": nonce2617, "uri": "/dir/index.html",
			"response": "670fd8c2df070c60b045671b8b24ff02"}},
		{"RFC 7616 3.9.1, MD5", `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5` + tail7616, "Circle of Life", cnonce, map[string]string{
			"username": "Mufasa", "realm": "http-auth@example.org", "nonce": nonce7616, "uri": "/dir/index.html", "algorithm": "MD5", "qop": "auth",
			"nc": "00000001", "cnonce": cnonce, "response": "8ca523f5e9506fed4657c9700eebdbec", "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"}},
		{"RFC 7616 3.9.1, SHA-256", `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256` + tail7616, "Circle of Life", cnonce, map[string]string{
			"username": "Mufasa", "realm": "http-auth@example.org", "nonce": nonce7616, "uri": "/dir/index.html", "algorithm": "SHA-256", "qop": "auth",
			"nc": "00000001", "cnonce": cnonce, "response": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := answerOf(t, test.www, "Mufasa", Secret(test.password), test.cnonce, "GET", "/dir/index.html")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDigestSession: A1 = H(user:realm:password):nonce:cnonce, made once per challenge (RFC 7616 section 3.4.2).
func TestDigestSession(t *testing.T) {
	t.Parallel()
	md := func(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }
	sha := func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }
	for name, h := range map[string]func(string) string{"MD5-sess": md, "sha-256-SESS": sha} {
		ch, ok := chooseChallenge([]string{`Digest realm="r", nonce="n1", algorithm=` + name + `, qop="auth"`})
		if !ok {
			t.Fatalf("%s is not understood", name)
		}
		d := digest{user: "u", password: "p"}
		d.acceptWith(ch, "cn")
		ha1 := h(h("u:r:p") + ":n1:cn")
		for i, want := range []string{
			h(ha1 + ":n1:00000001:cn:auth:" + h("POST:/wsman")),
			h(ha1 + ":n1:00000002:cn:auth:" + h("POST:/wsman")),
			h(ha1 + ":n2:00000001:cn:auth:" + h("POST:/wsman")), // after nextnonce: the session key stays
		} {
			if i == 2 {
				d.renew("n2")
			}
			got := authorization(t, string(d.appendHeader(nil, "POST", "/wsman")))
			if got["response"] != want || got["algorithm"] != name {
				t.Errorf("%s, answer %d: %v, want response %s", name, i+1, got, want)
			}
		}
	}
}

func TestDigestQuoting(t *testing.T) {
	t.Parallel()
	md := func(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }
	got := answerOf(t, `Digest realm="a \"b\" \\ c, d", nonce="x=y:z==", opaque=""`, `us"er\`, "p", "", "POST", "/wsman")
	want := map[string]string{
		"username": `us"er\`, "realm": `a "b" \ c, d`, "nonce": "x=y:z==", "uri": "/wsman", "opaque": "",
		"response": md(md(`us"er\:a "b" \ c, d:p`) + ":x=y:z==:" + md("POST:/wsman")),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestChooseChallenge(t *testing.T) {
	t.Parallel()
	amt := challenge{realm: testRealm, nonce: testNonce, qopAuth: true}
	md := challenge{realm: "r", nonce: "n", algorithm: "MD5", qopAuth: true}
	sha := challenge{realm: "r", nonce: "n", algorithm: "SHA-256", sha256: true, qopAuth: true}
	with := func(c challenge, change func(*challenge)) challenge { change(&c); return c }
	const (
		mdText  = `Digest realm="r", nonce="n", algorithm=MD5, qop="auth"`
		shaText = `Digest realm="r", nonce="n", algorithm=SHA-256, qop="auth"`
	)
	for _, test := range []struct {
		name    string
		headers []string
		want    *challenge
	}{
		{"AMT, captured", []string{`Digest realm="` + testRealm + `", nonce="` + testNonce + `",stale="false",qop="auth"`}, &amt},
		{"scheme in any case, no spaces", []string{`dIgEsT realm="r",nonce="n",algorithm="MD5",qop="auth"`}, &md},
		{"spaces everywhere", []string{"  Digest \t realm = \"r\" ,, nonce= \"n\"\t,algorithm =MD5 , qop=auth ,"}, &md},
		{"unknown parameters", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop="auth", domain="/a /b", charset=UTF-8, userhash=true, foo="x,y=\"z\""`}, &md},
		{"qop list", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop="auth-int, auth"`}, &md},
		{"qop list, spaces", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop="auth-int auth"`}, &md},
		{"qop list, no space", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop="AUTH,auth-int"`}, &md},
		{"qop bare list", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop=auth-int, qop=auth`}, &md},
		{"qop repeated", []string{`Digest qop="auth-int", realm="r", nonce="n", qop="auth", algorithm=MD5`}, &md},
		{"qop repeated inside", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop="auth,auth,auth-int"`}, &md},
		{"qop empty is none", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop=""`}, new(with(md, func(c *challenge) { c.qopAuth = false }))},
		{"no qop", []string{`Digest realm="r", nonce="n"`}, &challenge{realm: "r", nonce: "n"}},
		{"auth-int only", []string{`Digest realm="r", nonce="n", qop="auth-int"`}, nil},
		{"unknown qop", []string{`Digest realm="r", nonce="n", qop="authority"`}, nil},
		{"opaque", []string{`Digest realm="r", nonce="n", opaque="o=", algorithm=MD5, qop="auth"`}, new(with(md, func(c *challenge) { c.opaque, c.hasOpaque = "o=", true }))},
		{"empty realm", []string{`Digest realm="", nonce="n"`}, &challenge{nonce: "n"}},
		{"bare nonce with =", []string{`Digest realm=r, nonce=abc==, qop=auth, algorithm=MD5`}, new(with(md, func(c *challenge) { c.nonce = "abc==" }))},
		{"colon in nonce", []string{`Digest realm="r", nonce="Wd:a=:b==", qop="auth", algorithm=MD5`}, new(with(md, func(c *challenge) { c.nonce = "Wd:a=:b==" }))},
		{"escapes", []string{`Digest realm="a\"\\\b", nonce="n", qop="auth", algorithm=MD5`}, new(with(md, func(c *challenge) { c.realm = `a"\b` }))},
		{"session", []string{`Digest realm="r", nonce="n", algorithm=MD5-sess, qop="auth"`}, new(with(md, func(c *challenge) { c.algorithm, c.session = "MD5-sess", true }))},
		{"first of a parameter counts", []string{`Digest realm="r", nonce="n", nonce="m", realm="s", algorithm=MD5, algorithm=SHA-256, qop="auth"`}, &md},

		{"SHA-256 after MD5, two headers", []string{mdText, shaText}, &sha},
		{"SHA-256 first, two headers", []string{shaText, mdText}, &sha},
		{"both in one header", []string{mdText + ", " + shaText}, &sha},
		{"both in one header, turned", []string{shaText + "," + mdText}, &sha},
		{"the first of equals", []string{`Digest realm="r", nonce="n", algorithm=MD5, qop="auth", Digest realm="s", nonce="m"`}, &md},
		{"Basic first", []string{`Basic realm="b, Digest realm=\"x\", nonce=\"y\"", ` + mdText}, &md},
		{"Negotiate first", []string{"Negotiate, " + mdText}, &md},
		{"token68", []string{"NTLM TlRMTVNTUAAC/+AAAA==, " + mdText}, &md},
		{"Negotiate in a header of its own", []string{"Negotiate", "Kerberos", mdText}, &md},
		{"unknown algorithm beside", []string{`Digest realm="r", nonce="n", algorithm=SHA-512-256, qop="auth", ` + mdText}, &md},
		{"SHA-256 with auth-int only beside MD5", []string{`Digest realm="r", nonce="n", algorithm=SHA-256, qop="auth-int"`, mdText}, &md},
		{"rubbish before a comma", []string{`=?"a, Digest", ` + mdText}, &md},

		{"none", nil, nil},
		{"Basic only", []string{`Basic realm="r"`}, nil},
		{"Basic with a nonce", []string{`Basic realm="r", nonce="n"`}, nil},
		{"unknown algorithm", []string{`Digest realm="r", nonce="n", algorithm=SHA-512-256`}, nil},
		{"-sess of nothing", []string{`Digest realm="r", nonce="n", algorithm="-sess"`}, nil},
		{"no nonce", []string{`Digest realm="r"`}, nil},
		{"no realm", []string{`Digest nonce="n"`}, nil},
		{"parameters split over headers", []string{`Digest realm="r"`, `nonce="n"`}, nil},
		{"string without end", []string{`Digest nonce="n, realm="r"`}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got *challenge
			if ch, ok := chooseChallenge(test.headers); ok {
				got = &ch
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChallengesAreBounded(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`Digest realm="r", nonce="n", `, 500)
	if n := len(parseChallenges([]string{many, many})); n != maxChallenges {
		t.Errorf("%d challenges", n)
	}
}

func TestNextNonce(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		`nextnonce="a=b:c"`: "a=b:c",
		`rspauth="00", cnonce="x", nc=00000001, qop=auth, NextNonce="n"`: "n",
		`rspauth="nextnonce=\"n\""`:                                      "",
		``:                                                               "",
		`nextnonce`:                                                      "",
	} {
		if got := nextNonce(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
}

// FuzzChallenge reads whatever a device may send as a challenge, and checks that the answer is one header line, repeats
// the challenge's texts exactly, and that a challenge written down canonically reads the same.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Digest realm="` + testRealm + `", nonce="` + testNonce + `",stale="false",qop="auth"`,
		`Basic realm="b", Digest realm="a\"b", nonce=x==, algorithm=SHA-256-sess, qop="auth-int auth", opaque=""`,
		`Negotiate abc==, Digest realm="r",nonce="n"`,
		`Digest realm="r", nonce="n`, `,=,"`, `Digest realm="\`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		for i := 0; i < len(header); i++ {
			if c := header[i]; c < ' ' && c != '\t' || c == 0x7f {
				t.Skip("refused before it comes here")
			}
		}
		ch, ok := chooseChallenge([]string{header})
		if !ok {
			return
		}
		d := digest{user: testUser, password: testPassword}
		d.accept(ch)
		params := authorization(t, string(d.appendHeader(nil, "POST", "/wsman")))
		if params["realm"] != ch.realm || params["nonce"] != ch.nonce || params["opaque"] != ch.opaque || params["algorithm"] != ch.algorithm {
			t.Errorf("%q is answered by %v", header, params)
		}
		b := appendQuoted([]byte("Digest realm="), ch.realm)
		b = appendQuoted(append(b, ", nonce="...), ch.nonce)
		if ch.hasOpaque {
			b = appendQuoted(append(b, ", opaque="...), ch.opaque)
		}
		if ch.algorithm != "" {
			b = appendQuoted(append(b, ", algorithm="...), ch.algorithm)
		}
		if ch.qopAuth {
			b = append(b, ", qop=auth"...)
		}
		if again, ok := chooseChallenge([]string{string(b)}); !ok || again != ch {
			t.Errorf("%s reads as %+v, not %+v", b, again, ch)
		}
	})
}

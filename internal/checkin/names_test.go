package checkin_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"samehost/internal/checkin"
)

// What is signed must read the same for everybody who reads JSON: in Go, in a browser, by hand.
func TestOneReading(t *testing.T) {
	t.Parallel()
	payload, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	plain := string(payload)
	var indented bytes.Buffer
	json.Indent(&indented, payload, "\r\n", "\t")
	add := func(member string) string { return "{" + member + "," + plain[1:] }
	r := report()
	r.Run = checkin.Token{0xAB}
	lettered, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, payload, want string // want "": verified
	}{
		{"as it is", plain, ""},
		{"a member of later versions", add(`"mood_2":[{"a":1,"b":"{\"a\":1,\"a\":2}"},{"a":"x:"}]`), ""},
		{"blanks", indented.String(), ""},
		{"a member twice", add(`"host_id":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"`), "twice"},
		{"an unknown one twice", add(`"mood":1,"mood":2`), "twice"},
		{"twice, deeper", add(`"mood":[{"a":{"b":1,"b":2}}]`), "twice"},
		{"another case", add(`"HOST_ID":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"`), "lower-case"},
		{"only in another case", strings.Replace(plain, `"host_id"`, `"Host_ID"`, 1), "lower-case"},
		{"a letter that folds", add("\"\u017ftores\":[]"), "lower-case"},
		{"an escaped name", add(`"host\u005fid":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"`), "lower-case"},
		{"no name", add(`"":1`), "lower-case"},
		{"a tower", add(`"mood":` + strings.Repeat("[", 16) + strings.Repeat("]", 16)), "nested"},
		{"a run with letters", string(lettered), ""},
		{"digits in capitals", strings.Replace(string(lettered), `"ab0`, `"AB0`, 1), "lower-case hex"},
	} {
		_, err := checkin.Verify(signPayload(t, []byte(test.payload)))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// A header that changes what the signature is over, or that reads in two ways, is none.
func TestOneHeader(t *testing.T) {
	t.Parallel()
	payload, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	for name, extra := range map[string]map[jose.HeaderKey]any{
		"payload not encoded": {"b64": false},
		"critical":            {"b64": true, "crit": []string{"b64"}},
		"another case":        {"Typ": "samehost/reply/1"},
		"enrol twice":         {"enrol": json.RawMessage(`{"token":"0123456789abcdef","TOKEN":"0123456789abcdee","mac":"` + base64.StdEncoding.EncodeToString(make([]byte, sha256.Size)) + `"}`)},
	} {
		opts := (&jose.SignerOptions{EmbedJWK: true}).WithType("samehost/report/1")
		for k, v := range extra {
			opts = opts.WithHeader(k, v)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: clientKey}, opts)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		full := jws.FullSerialize() // CompactSerialize refuses what is not encoded
		var parts struct{ Protected, Signature string }
		if err := json.Unmarshal([]byte(full), &parts); err != nil {
			t.Fatal(err)
		}
		raw := parts.Protected + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts.Signature
		if _, err := checkin.Verify(checkin.SignedReport{JWS: raw}); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

// A higher system that is named by its IP address needs a certificate for that address: crypto/tls hands the judge no
// name for one.
func TestCertificateForAnotherAddress(t *testing.T) {
	t.Parallel()
	p := newPKI(t) // for 127.0.0.1
	url := p.serveAt(t, "127.0.0.2:0", checkin.Handler(higher(accept), discard()))
	spki := sha256.Sum256(p.ca.RawSubjectPublicKeyInfo)
	during := func() time.Time { return validFrom.AddDate(1, 0, 0) }
	for name, o := range map[string]checkin.ClientOptions{
		"CA file": {RootCAs: p.pool(), Now: during},
		"pin":     {PinSPKI: spki[:], Now: during},
	} {
		o.URL, o.Manager = url, manager
		c, err := checkin.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.CheckIn(t.Context(), mustSign(t, report(), nil)); !errors.Is(err, checkin.ErrUnavailable) || !strings.Contains(err.Error(), "127.0.0.2") || !strings.Contains(err.Error(), "not trusted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

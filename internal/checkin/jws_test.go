package checkin_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"samehost/internal/checkin"
)

// What we write ourselves is what go-jose would have written, to the byte: the form of messages is permanent.
func TestOwnHeaderIsTheLibrarys(t *testing.T) {
	t.Parallel()
	own := mustSign(t, report(), nil)
	v, err := checkin.Verify(own)
	if err != nil {
		t.Fatal(err)
	}
	if library := signPayload(t, v.Payload); own.JWS != library.JWS {
		t.Errorf("we write\n%s\ngo-jose writes\n%s", own.JWS, library.JWS)
	}
}

// A header that differs from ours is judged by go-jose: the same things in another order are a message, other things none.
func TestOtherHeaders(t *testing.T) {
	t.Parallel()
	x := base64.RawURLEncoding.EncodeToString(clientKey.Public().(ed25519.PublicKey))
	own := `{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"` + x + `"},"typ":"samehost/report/1"}`
	another := base64.RawURLEncoding.EncodeToString(key("another").Public().(ed25519.PublicKey))
	for _, test := range []struct{ name, header, want string }{
		{"ours", own, ""},
		{"another order", `{"typ":"samehost/report/1","jwk":{"x":"` + x + `","crv":"Ed25519","kty":"OKP"},"alg":"EdDSA"}`, ""},
		{"blanks", strings.ReplaceAll(own, ",", ", "), ""},
		{"a member of later versions", `{"alg":"EdDSA","colour":"red"` + own[len(`{"alg":"EdDSA"`):], ""},
		{"another algorithm", strings.Replace(own, "EdDSA", "HS256", 1), "unexpected signature algorithm"},
		{"another curve", strings.Replace(own, "Ed25519", "X25519", 1), "not a signed message"},
		{"another key", strings.Replace(own, x, another, 1), "the signature is wrong"},
		{"another typ", strings.Replace(own, "report", "reply", 1), "typ is"},
		{"a longer typ", strings.Replace(own, "report/1", "report/10", 1), "typ is"},
		{"a short key", strings.Replace(own, x, x[:42], 1), "not a signed message"},
		{"blank in the key", strings.Replace(own, x, " "+x[1:], 1), "not a signed message"},
		{"line end in the key", strings.Replace(own, x, "\n"+x[1:], 1), "not a signed message"},
		{"nothing", "", "not a signed message"},
		{"cut off", own[:len(own)-1], "not a signed message"},
		{"something after", own + "{}", "not a signed message"},
	} {
		_, err := checkin.Verify(withHeader(t, test.header, clientKey))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	s := withHeader(t, own, clientKey).JWS
	for name, raw := range map[string]string{"two parts": s[:strings.LastIndex(s, ".")], "four parts": s + ".", "no signature": s[:strings.LastIndex(s, ".")+1]} {
		if _, err := checkin.Verify(checkin.SignedReport{JWS: raw}); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

// withHeader is the report under a header of the caller's making.
func withHeader(t *testing.T, header string, key ed25519.PrivateKey) checkin.SignedReport {
	t.Helper()
	payload, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString(payload)
	return checkin.SignedReport{JWS: signed + "." + b64.EncodeToString(ed25519.Sign(key, []byte(signed)))}
}

// A signature that anybody can make for any message, by a key of low order, proves nothing.
func TestKeysOfLowOrder(t *testing.T) {
	t.Parallel()
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		for _, bit := range []byte{0, 0x80} {
			point, err := hex.DecodeString(y)
			if err != nil {
				t.Fatal(err)
			}
			point[31] |= bit
			r := report()
			r.SignKey = point
			// R is the neutral element and S zero: right wherever the hash of the message takes the key to the neutral element.
			forged := make([]byte, ed25519.SignatureSize)
			forged[0] = 1
			passed := false
			for try := range 64 { // until the hash divides by the order
				r.Names.Host = fmt.Sprint("pc-", try)
				payload, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				b64 := base64.RawURLEncoding
				header := `{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"` + b64.EncodeToString(point) + `"},"typ":"samehost/report/1"}`
				signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString(payload)
				passed = passed || ed25519.Verify(point, []byte(signed), forged)
				if _, err := checkin.Verify(checkin.SignedReport{JWS: signed + "." + b64.EncodeToString(forged)}); err == nil || !strings.Contains(err.Error(), "low-order") {
					t.Fatalf("%x: %v", point, err)
				}
			}
			if canonical := y < "ed" && bit == 0; canonical && !passed {
				t.Errorf("%x: no forged signature fits, so this shows nothing", point)
			}
		}
	}
}

// An object with very many members is judged as one with few.
func TestManyMembers(t *testing.T) {
	t.Parallel()
	payload, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, `"m%d":{"a":1,"b":[{"a":2}]},`, i)
	}
	for name, test := range map[string]struct {
		more string
		good bool
	}{
		"each once":         {many.String(), true},
		"the last one once": {many.String() + `"m1000":0,`, true},
		"the first twice":   {many.String() + `"m0":0,`, false},
		"a late one twice":  {many.String() + `"m999":0,`, false},
		"the 32nd twice":    {many.String() + `"m31":0,`, false},
		"the 33rd twice":    {many.String() + `"m32":0,`, false},
	} {
		_, err := checkin.Verify(signPayload(t, []byte("{"+test.more+string(payload[1:]))))
		if (err == nil) != test.good || err != nil && !strings.Contains(err.Error(), "twice") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A member that means something to others does so without a value, too.
func TestHeaderWithNull(t *testing.T) {
	t.Parallel()
	b64 := base64.RawURLEncoding
	header, rest, _ := strings.Cut(mustSign(t, report(), nil).JWS, ".")
	payload, _, _ := strings.Cut(rest, ".")
	plain, err := b64.DecodeString(header)
	must(t, err)
	for _, name := range []string{"crit", "b64"} {
		text := b64.EncodeToString([]byte(strings.TrimSuffix(string(plain), "}")+`,"`+name+`":null}`)) + "." + payload
		_, err := checkin.Verify(checkin.SignedReport{JWS: text + "." + b64.EncodeToString(ed25519.Sign(clientKey, []byte(text)))})
		if err == nil || !strings.Contains(err.Error(), `"`+name+`" in its header`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

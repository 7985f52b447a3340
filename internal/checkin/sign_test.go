package checkin_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// key makes the same key for the same name, so that signed forms can be compared with committed ones.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

var (
	clientKey  = key("client")
	managerKey = key("manager")
	manager    = checkin.FingerprintOf(managerKey.Public().(ed25519.PublicKey))
	token      = checkin.EnrolmentToken{ID: "0123456789abcdef", Secret: checkin.TokenSecret(sha256.Sum256([]byte("secret"))), Manager: manager}
)

func id(s string) hostid.ID {
	id, err := hostid.ParseID(strings.Repeat(s, 32/len(s)))
	if err != nil {
		panic(err)
	}
	return id
}

func report() checkin.Report {
	return checkin.Report{
		Audience: manager,
		HostID:   id("0a"),
		SignKey:  clientKey.Public().(ed25519.PublicKey),
		SealKey:  make([]byte, 32),
		Epoch:    checkin.Token{1},
		Counter:  7,
		Previous: checkin.Digest{2},
		Run:      checkin.Token{3},
		AgeMS:    61_000,
		Time:     "2026-04-01T09:00:00+09:00",
		Facts: hardware.Facts{
			SystemUUID: "55e3ae13-bfd2-61bb-17a0-88aedd7037ea",
			Disks:      []hardware.Disk{{Serial: "S1", System: true}},
			NICs:       []hardware.NIC{{MAC: "00-11-22-33-44-55", Permanent: true, Onboard: true}},
			SMBIOSAMT:  true,
		},
		Names:        checkin.Names{Host: "営業-01"},
		Addresses:    []string{"127.16.0.1", "::1"},
		Versions:     checkin.Versions{Client: "1.0.0", OS: "linux"},
		Stores:       []checkin.StoreState{{Name: "amt", State: "stored"}},
		Origin:       hostid.Restored,
		EpochBy:      checkin.EpochRestore,
		Observations: []checkin.Observation{{Kind: "moved", Mine: id("0a"), Other: id("0b")}},
		Replaced:     []string{"x"},
		Done:         []string{"order-1"},
	}
}

func mustSign(t *testing.T, r checkin.Report, enrol *checkin.EnrolmentToken) checkin.SignedReport {
	t.Helper()
	s, err := checkin.Sign(r, clientKey, enrol)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReportSurvivesTheWire(t *testing.T) {
	t.Parallel()
	for _, enrol := range []*checkin.EnrolmentToken{nil, &token} {
		want := report()
		v, err := checkin.Verify(mustSign(t, want, enrol))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, v.Report); diff != "" {
			t.Errorf("report changed (-sent +received):\n%s", diff)
		}
		if !v.Key.Equal(clientKey.Public()) {
			t.Error("another key came out")
		}
		if (v.Enrol != nil) != (enrol != nil) {
			t.Errorf("enrol part: %v, token given: %v", v.Enrol, enrol != nil)
		}
	}
}

// The signed form is permanent: a manager must understand every client that was ever installed.
func TestReportFormIsPermanent(t *testing.T) {
	t.Parallel()
	committed, err := os.ReadFile("testdata/report-1.jws")
	if err != nil {
		t.Fatal(err)
	}
	if got := mustSign(t, report(), &token).JWS; got != strings.TrimSpace(string(committed)) {
		t.Errorf("the signed form has changed; it is now\n%s", got)
	}
}

func TestEveryAlteredByteIsRefused(t *testing.T) {
	t.Parallel()
	jws := mustSign(t, report(), &token).JWS
	want, err := checkin.Verify(checkin.SignedReport{JWS: jws})
	if err != nil {
		t.Fatal(err)
	}
	for i := range jws {
		for _, c := range []byte{'A', 'z', '.', '=', ' '} {
			if jws[i] == c {
				continue
			}
			altered := jws[:i] + string(c) + jws[i+1:]
			got, err := checkin.Verify(checkin.SignedReport{JWS: altered})
			// The last character of a base64 part has bits that mean nothing; then the content must be untouched.
			if err == nil && (string(got.Payload) != string(want.Payload) || !got.Key.Equal(want.Key) || cmp.Diff(got.Enrol, want.Enrol) != "") {
				t.Fatalf("byte %d as %q: an altered report passed", i, c)
			}
			var refusal *checkin.Refusal
			if err != nil && (!errors.As(err, &refusal) || refusal.Code != checkin.Malformed) {
				t.Fatalf("byte %d as %q: %v is no refusal as malformed", i, c, err)
			}
		}
	}
}

func TestASignatureServesOnePurpose(t *testing.T) {
	t.Parallel()
	statement, err := checkin.SignReplacement(checkin.Replacement{Old: id("0b"), New: id("0a"), NewKey: clientKey.Public().(ed25519.PublicKey), Audience: manager}, key("old"))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := checkin.SignReply(checkin.Reply{Report: checkin.Digest{1}, Status: checkin.Accepted, HostID: id("0a"), Interval: time.Minute}, managerKey)
	if err != nil {
		t.Fatal(err)
	}
	signed := mustSign(t, report(), nil)
	for name, jws := range map[string]string{"statement": statement, "reply": reply.Raw} {
		if _, err := checkin.Verify(checkin.SignedReport{JWS: jws}); err == nil {
			t.Errorf("a %s passed as a report", name)
		}
	}
	for name, jws := range map[string]string{"report": signed.JWS, "reply": reply.Raw} {
		if _, _, err := checkin.VerifyReplacement(jws); err == nil {
			t.Errorf("a %s passed as a replacement", name)
		}
	}
	for name, jws := range map[string]string{"report": signed.JWS, "statement": statement} {
		if _, err := checkin.VerifyReply(jws, manager, checkin.Digest{1}); err == nil {
			t.Errorf("a %s passed as a reply", name)
		}
	}
}

func TestReportLimits(t *testing.T) {
	t.Parallel()
	bad := func(change func(*checkin.Report)) checkin.Report { r := report(); change(&r); return r }
	for name, r := range map[string]checkin.Report{
		"audience":   bad(func(r *checkin.Report) { r.Audience = "sha256:00" }),
		"host ID":    bad(func(r *checkin.Report) { r.HostID = hostid.ID{} }),
		"seal key":   bad(func(r *checkin.Report) { r.SealKey = nil }),
		"epoch":      bad(func(r *checkin.Report) { r.Epoch = checkin.Token{} }),
		"run":        bad(func(r *checkin.Report) { r.Run = checkin.Token{} }),
		"counter":    bad(func(r *checkin.Report) { r.Counter = 0 }),
		"age":        bad(func(r *checkin.Report) { r.AgeMS = 1 << 62 }),
		"address":    bad(func(r *checkin.Report) { r.Addresses = []string{"'; DROP TABLE hosts"} }),
		"statements": bad(func(r *checkin.Report) { r.Replaced = make([]string, 17) }),
		"statement":  bad(func(r *checkin.Report) { r.Replaced = []string{strings.Repeat("x", 2049)} }),
	} {
		if _, err := checkin.Sign(r, clientKey, nil); err == nil {
			t.Errorf("%s: signed all the same", name)
		}
		if _, err := checkin.Verify(signRaw(t, r)); err == nil {
			t.Errorf("%s: accepted all the same", name)
		}
	}
	for name, k := range map[string][]byte{"none": nil, "short": make([]byte, 31), "another": key("another").Public().(ed25519.PublicKey)} {
		if _, err := checkin.Verify(signRaw(t, bad(func(r *checkin.Report) { r.SignKey = k }))); err == nil {
			t.Errorf("sign key %s: accepted all the same", name)
		}
	}
	long := bad(func(r *checkin.Report) { r.Names.Host = strings.Repeat("あ", 100) })
	if _, err := checkin.Verify(signRaw(t, long)); err == nil {
		t.Error("a name of 300 bytes was accepted")
	}
	if _, err := checkin.Verify(checkin.SignedReport{JWS: strings.Repeat("x", checkin.MaxReport+1)}); err == nil {
		t.Error("an oversized report was accepted")
	}
}

func TestOddTextIsCutNotRefused(t *testing.T) {
	t.Parallel()
	r := report()
	r.Names.Host = strings.Repeat("あ", 100) // 300 bytes
	r.Versions.OS = "a\xffb"
	r.Stores[0].Error = strings.Repeat("e", 2000)
	for range 100 {
		r.Facts.Disks = append(r.Facts.Disks, hardware.Disk{Serial: "\x1b[31m<script>' OR 1=1;--"})
	}
	before := r.Facts.Disks[1]
	v, err := checkin.Verify(mustSign(t, r, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Report.Names.Host; got != strings.Repeat("あ", 85) {
		t.Errorf("host name is %d bytes", len(got))
	}
	if got := v.Report.Versions.OS; got != "a\uFFFDb" {
		t.Errorf("OS is %q", got)
	}
	if got := len(v.Report.Stores[0].Error); got != 1024 {
		t.Errorf("store error has %d bytes", got)
	}
	if got := len(v.Report.Facts.Disks); got != 64 {
		t.Errorf("%d disks", got)
	}
	if got := v.Report.Facts.Disks[1]; got != before {
		t.Errorf("hostile text arrived as %q", got.Serial)
	}
	if len(r.Stores[0].Error) != 2000 || len(r.Facts.Disks) != 101 {
		t.Error("the caller's report was cut")
	}
}

func TestEnrolmentProof(t *testing.T) {
	t.Parallel()
	v, err := checkin.Verify(mustSign(t, report(), &token))
	if err != nil {
		t.Fatal(err)
	}
	if v.Enrol.TokenID != token.ID || !v.Enrol.Check(token.Verifier(), v.Payload) {
		t.Error("the right token is not recognised")
	}
	other := checkin.NewEnrolmentToken(manager)
	if v.Enrol.Check(other.Verifier(), v.Payload) {
		t.Error("another token's verifier passes")
	}
	if v.Enrol.Check(token.Verifier(), append([]byte(" "), v.Payload...)) {
		t.Error("the proof covers another payload too")
	}
	moved := *v.Enrol
	moved.TokenID = other.ID
	if moved.Check(token.Verifier(), v.Payload) {
		t.Error("the proof serves another token ID")
	}
	// A hostile relay signs what it was given with its own key, and leaves the proof in.
	opts := (&jose.SignerOptions{EmbedJWK: true}).WithType("samehost/report/1").WithHeader("enrol", v.Enrol)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key("relay")}, opts)
	if err != nil {
		t.Fatal(err)
	}
	again, err := signer.Sign(v.Payload)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := again.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkin.Verify(checkin.SignedReport{JWS: jws}); err == nil || !strings.Contains(err.Error(), "sign_key") {
		t.Errorf("a report with another key's signature and the proof: %v", err)
	}
	if strings.Contains(mustSign(t, report(), &token).JWS, base64.RawURLEncoding.EncodeToString(token.Secret[:])) {
		t.Error("the secret is sent")
	}
}

func TestReplacement(t *testing.T) {
	t.Parallel()
	want := checkin.Replacement{Old: id("0b"), New: id("0a"), NewKey: clientKey.Public().(ed25519.PublicKey), Audience: manager}
	jws, err := checkin.SignReplacement(want, key("old"))
	if err != nil {
		t.Fatal(err)
	}
	got, by, err := checkin.VerifyReplacement(jws)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !by.Equal(key("old").Public()) {
		t.Error("signed by another key")
	}
	same := want
	same.New = same.Old
	jws, err = checkin.SignReplacement(same, key("old"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := checkin.VerifyReplacement(jws); err == nil {
		t.Error("an ID replaces itself")
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	want := checkin.Reply{
		Report: checkin.Digest{9}, Status: checkin.Accepted, HostID: id("0a"), Interval: 15 * time.Minute,
		Time:   time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC),
		Orders: []checkin.Order{{ID: "1", Kind: "full-report", HostID: id("0a"), Epoch: checkin.Token{1}, Run: checkin.Token{2}}},
		Named:  []hostid.ID{id("0b")},
	}
	signed, err := checkin.SignReply(want, managerKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := checkin.VerifyReply(signed.Raw, manager, checkin.Digest{9})
	if err != nil {
		t.Fatal(err)
	}
	want.Raw = signed.Raw
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := checkin.VerifyReply(signed.Raw, manager, checkin.Digest{8}); err == nil {
		t.Error("a reply to another report passes")
	}
	forged, err := checkin.SignReply(want, key("somebody"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkin.VerifyReply(forged.Raw, manager, checkin.Digest{9}); err == nil {
		t.Error("a reply by another key passes")
	}
}

func TestTokenText(t *testing.T) {
	t.Parallel()
	got, err := checkin.ParseToken("  " + token.Text() + "\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if got != token {
		t.Errorf("%v came back as %v", token, got)
	}
	for _, bad := range []string{"", "samehost1.", strings.ToUpper(token.Text()), token.Text()[:60], token.Text() + ".x", "samehost2" + token.Text()[9:]} {
		_, err := checkin.ParseToken(bad)
		if err == nil {
			t.Errorf("%q is taken for a token", bad)
		} else if len(bad) > 12 && strings.Contains(err.Error(), bad[10:]) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	asJSON, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	secret := token.Secret
	for _, s := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %x %d", token, token, token, token, secret, secret), string(asJSON)} {
		for _, form := range []string{fmt.Sprintf("%x", secret[:]), fmt.Sprint(secret[:]), base64.RawURLEncoding.EncodeToString(secret[:])} {
			if strings.Contains(s, form) {
				t.Errorf("the secret shows in %s", s)
			}
		}
		if !strings.Contains(s, "***") {
			t.Errorf("no *** in %s", s)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s, err := checkin.Sign(report(), clientKey, &token)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.JWS)
	f.Add("")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, jws string) {
		v, err := checkin.Verify(checkin.SignedReport{JWS: jws})
		if err != nil {
			return
		}
		again, err := checkin.Sign(v.Report, clientKey, nil)
		if err != nil {
			t.Fatalf("a verified report cannot be signed: %v", err)
		}
		w, err := checkin.Verify(again)
		if err != nil {
			t.Fatalf("a signed report cannot be verified: %v", err)
		}
		if diff := cmp.Diff(v.Report, w.Report, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzPayload signs whatever payload comes, so that what lies behind the signature check is reached.
func FuzzPayload(f *testing.F) {
	r := report()
	payload, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Add([]byte(`{"aud":"sha256:","seal_key":"AA==","facts":{"nics":[null]},"addresses":[null]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := checkin.Verify(signPayload(t, payload))
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(payload, &members); err != nil {
			t.Fatal(err)
		}
		if _, facts := members["facts"]; facts && v.Report.Base != (checkin.Digest{}) {
			t.Fatal("a delta with facts")
		}
		again := mustSign(t, v.Report, nil)
		w, err := checkin.Verify(again)
		if err != nil {
			t.Fatalf("a signed report cannot be verified: %v", err)
		}
		if diff := cmp.Diff(v.Report, w.Report, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(token.Text())
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := checkin.ParseToken(s)
		if err != nil {
			return
		}
		if tok.Text() != strings.TrimSpace(s) {
			t.Fatalf("%q reads as %q", s, tok.Text())
		}
	})
}

// Verified spares the next one the work, for the text that was verified and no other.
func TestVerified(t *testing.T) {
	t.Parallel()
	s := mustSign(t, report(), nil)
	v, err := checkin.Verify(s)
	if err != nil {
		t.Fatal(err)
	}
	known := s.Verified(v)
	if again, err := checkin.Verify(known); err != nil || &again.Payload[0] != &v.Payload[0] {
		t.Errorf("verified anew: %v", err)
	}
	known.JWS = known.JWS[:len(known.JWS)-10] + "AAAAAAAAAA"
	if _, err := checkin.Verify(known); err == nil {
		t.Error("another text is believed")
	}
}

package checkin_test

import (
	"crypto/sha256"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
)

// told are the members of a report that do not describe the PC; a delta has them, and Placeholders.
var told = []string{
	"Audience", "HostID", "SignKey", "SealKey", "Epoch", "EpochBy", "Counter", "Previous", "Run", "AgeMS", "Time", "Base", "Relay",
}

// plain is a report that may be a delta.
func plain() checkin.Report {
	r := report()
	r.Observations, r.Replaced, r.Done = nil, nil, nil
	r.Placeholders = strings.Repeat("ab", 32)
	r.Relay = &checkin.RelayState{Reports: 7, Bytes: 9000, Bound: 1 << 30}
	return r
}

// Every member of a report either describes the PC, or is one that a delta has.
func TestDescribesOrTells(t *testing.T) {
	t.Parallel()
	full := plain()
	described := full.Describes()
	typ := reflect.TypeFor[checkin.Report]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		other := full
		f := reflect.ValueOf(&other).Elem().Field(i)
		f.SetZero()
		if reflect.DeepEqual(other, full) { // it has none
			switch {
			case f.Kind() == reflect.Slice:
				f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			case f.Kind() == reflect.Bool:
				f.SetBool(true)
			case f.Type() == reflect.TypeFor[checkin.Digest]():
				f.Set(reflect.ValueOf(checkin.Digest{9}))
			default:
				other.CopyOf = id("0c")
			}
		}
		tells := false
		for _, n := range told {
			tells = tells || n == name
		}
		if (other.Describes() == described) != tells {
			t.Errorf("%s: described alike %v, want %v", name, !tells, tells)
		}
	}
}

// A report says the same of a PC before it is signed, where it may be too long, and when it is read.
func TestDescribesAcrossTheWire(t *testing.T) {
	t.Parallel()
	long := plain()
	long.Names.Host = strings.Repeat("あ", 200) + "\xff"
	long.Addresses = []string{}
	for range 100 {
		long.Facts.Disks = append(long.Facts.Disks, hardware.Disk{Serial: strings.Repeat("S", 300)})
	}
	for name, r := range map[string]checkin.Report{"plain": plain(), "all": report(), "long": long} {
		v, err := checkin.Verify(mustSign(t, r, nil))
		if err != nil {
			t.Fatal(err)
		}
		if v.Report.Describes() != r.Describes() {
			t.Errorf("%s: the report describes another PC once it is signed", name)
		}
	}
}

func TestDelta(t *testing.T) {
	t.Parallel()
	full := plain()
	base := checkin.Digest{7}
	delta, ok := full.Delta(base)
	if !ok {
		t.Fatal("no delta of a report that has nothing special to say")
	}
	signed := mustSign(t, delta, nil)
	v, err := checkin.Verify(signed)
	if err != nil {
		t.Fatal(err)
	}
	want := full
	want.Base = base
	want.Facts, want.Names, want.Addresses, want.Versions, want.Stores, want.Origin = hardware.Facts{}, checkin.Names{}, nil, checkin.Versions{}, nil, ""
	if diff := cmp.Diff(want, v.Report); diff != "" {
		t.Errorf("delta (-want +got):\n%s", diff)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(v.Payload, &members); err != nil {
		t.Fatal(err)
	}
	if len(members) != len(told)+1 { // and placeholders
		t.Errorf("a delta has the members %v", members)
	}
	if whole := mustSign(t, full, nil); len(signed.JWS) > len(whole.JWS)*4/5 {
		t.Errorf("a delta takes %d bytes, a full report of a small PC %d", len(signed.JWS), len(whole.JWS))
	}

	for name, change := range map[string]func(*checkin.Report){
		"observations": func(r *checkin.Report) { r.Observations = report().Observations },
		"replaced":     func(r *checkin.Report) { r.Replaced = []string{"x"} },
		"done":         func(r *checkin.Report) { r.Done = []string{"order-1"} },
		"the first":    func(r *checkin.Report) { r.Previous = checkin.Digest{} },
	} {
		r := plain()
		change(&r)
		if _, ok := r.Delta(base); ok {
			t.Errorf("%s: a delta of what must be told in full", name)
		}
	}
	if _, ok := full.Delta(checkin.Digest{}); ok {
		t.Error("a delta without a base")
	}
}

// A delta has nothing of what it leaves out, not even an empty one: two readers must not read two things.
func TestDeltaIsStrict(t *testing.T) {
	t.Parallel()
	delta, _ := plain().Delta(checkin.Digest{7})
	payload, err := json.Marshal(delta)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkin.Verify(signPayload(t, payload)); err != nil {
		t.Fatal(err)
	}
	if _, err := checkin.Verify(signPayload(t, []byte(`{"mood":1,`+string(payload[1:])))); err != nil {
		t.Errorf("a member of later versions: %v", err)
	}
	for _, harmless := range []string{`"mood":{"facts":{},"names":["facts",{"stores":1}]}`, `"mood":"\",\"facts\":{"`, `"mood":["facts","pending"]`, `"mood" : "facts"`} {
		if _, err := checkin.Verify(signPayload(t, []byte(`{`+harmless+`,`+string(payload[1:])))); err != nil {
			t.Errorf("%s: %v", harmless, err)
		}
	}
	for _, member := range []string{
		`"facts":{}`, `"facts":null`, `"names":{"host":"a"}`, `"addresses":[]`, `"versions":{}`, `"stores":null`, `"origin":""`,
		`"provisional":false`, `"pending":true`, `"copy_of":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"`, `"observations":[]`, `"replaced":[]`, `"done":[]`,
	} {
		for _, whole := range []string{
			`{` + member + `,` + string(payload[1:]),
			string(payload[:len(payload)-1]) + ` , ` + member + `}`,
			`{"mood":[{"a":"}]\\"},{}],` + member + `,` + string(payload[1:]),
		} {
			if _, err := checkin.Verify(signPayload(t, []byte(whole))); err == nil || !strings.Contains(err.Error(), "a delta has no") {
				t.Errorf("%s: %v", whole, err)
			}
		}
	}
	for name, change := range map[string]func(*checkin.Report){
		"the first by previous": func(r *checkin.Report) { r.Previous = checkin.Digest{} },
		"the first by counter":  func(r *checkin.Report) { r.Counter = 1 },
		"with facts":            func(r *checkin.Report) { r.Facts = plain().Facts },
	} {
		r := delta
		change(&r)
		if _, err := checkin.Verify(signRaw(t, r)); err == nil {
			t.Errorf("%s: verified", name)
		}
		if _, err := checkin.Sign(r, clientKey, nil); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := checkin.Sign(delta, clientKey, &token); err == nil {
		t.Error("a delta enrols")
	}
	opts := (&jose.SignerOptions{EmbedJWK: true}).WithType("samehost/report/1").WithHeader("enrol", checkin.Enrolment{TokenID: token.ID, MAC: make([]byte, sha256.Size)})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: clientKey}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkin.Verify(checkin.SignedReport{JWS: text}); err == nil || !strings.Contains(err.Error(), "enrols") {
		t.Errorf("a delta that enrols: %v", err)
	}
}

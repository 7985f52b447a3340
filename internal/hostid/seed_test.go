package hostid

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestSeedNeverShows(t *testing.T) {
	t.Parallel()
	s := Seed(bytes.Repeat([]byte{0xAB}, 32))
	r := Record{HostID: ID{1}, Seed: s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%o", "%b", "%c", "%U", "%t", "%e", "%100v", "%T %v"} {
		for _, v := range []any{s, &s, []Seed{s}, map[Seed]Seed{s: s}, r, &r, Outcome{Record: r}, Overwrite{Old: r, New: r}} {
			args := []any{v}
			if verb == "%T %v" {
				args = []any{v, v}
			}
			checkHidden(t, fmt.Sprintf("%s of %T", verb, v), fmt.Sprintf(verb, args...))
		}
	}
	for _, v := range []any{s, r, &r, Outcome{Record: r}} {
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		checkHidden(t, "json", string(j))
		var b bytes.Buffer
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
		checkHidden(t, "slog", b.String())
		b.Reset()
		if err := gob.NewEncoder(&b).Encode(v); err == nil {
			checkHidden(t, "gob", b.String())
		}
		if c, err := cbor.Marshal(v); err == nil {
			checkHidden(t, "cbor", string(c))
		}
	}
	if fmt.Sprint(s) != "***" {
		t.Errorf("%v, want ***", s)
	}
}

func checkHidden(t *testing.T, how, out string) {
	t.Helper()
	for _, shown := range []string{"\xab\xab", "abab", "ABAB", "ab ab", "AB AB", "171 171", "171, 171", "171,171", "0xab, 0xab", "253 253", "10101011", "«", "q6ur"} {
		if strings.Contains(out, shown) {
			t.Errorf("%s shows the seed: %q", how, out)
			return
		}
	}
}

func TestSeedGivesTwoKeys(t *testing.T) {
	t.Parallel()
	a, b := NewSeed(), NewSeed()
	if a == b || a == (Seed{}) {
		t.Fatal("NewSeed is not random")
	}
	sign := a.SigningKey()
	if !ed25519.Verify(sign.Public().(ed25519.PublicKey), []byte("m"), ed25519.Sign(a.SigningKey(), []byte("m"))) {
		t.Error("a signature by the signing key does not verify")
	}
	if bytes.Equal(sign, b.SigningKey()) {
		t.Error("two seeds give one signing key")
	}
	sealed, err := hpke.Seal(a.SealingKey().PublicKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), nil, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := hpke.Open(a.SealingKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), nil, sealed); err != nil || string(m) != "secret" {
		t.Errorf("opened %q, %v", m, err)
	}
	if _, err := hpke.Open(b.SealingKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), nil, sealed); err == nil {
		t.Error("another seed's key opens it")
	}
	if k, err := a.SealingKey().Bytes(); err != nil || hex.EncodeToString(k) == hex.EncodeToString(sign.Seed()) {
		t.Errorf("signing and sealing key are one (%v)", err)
	}
}

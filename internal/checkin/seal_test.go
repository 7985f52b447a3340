package checkin

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"samehost/internal/hostid"
)

// A sealed token opens for its host and its order, and for nothing else.
func TestSealedOrder(t *testing.T) {
	t.Parallel()
	seed := hostid.NewSeed()
	token := NewEnrolmentToken(FingerprintOf(hostid.NewSeed().SigningKey().Public().(ed25519.PublicKey)))
	sealed, err := SealOrder(seed.SealingKey().PublicKey().Bytes(), "order-1", token)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenOrder(seed.SealingKey(), "order-1", sealed); err != nil || got != token {
		t.Fatalf("opened %v, %v", got, err)
	}
	again, err := SealOrder(seed.SealingKey().PublicKey().Bytes(), "order-1", token)
	if err != nil || again == sealed {
		t.Errorf("the same token seals to the same text twice, %v", err)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(sealed)
	damaged := append([]byte(nil), raw...)
	damaged[len(damaged)-1] ^= 1
	for why, c := range map[string]struct {
		seed          hostid.Seed
		order, sealed string
	}{
		"another host":     {hostid.NewSeed(), "order-1", sealed},
		"another order":    {seed, "order-2", sealed},
		"damaged":          {seed, "order-1", base64.RawURLEncoding.EncodeToString(damaged)},
		"cut":              {seed, "order-1", sealed[:20]},
		"empty":            {seed, "order-1", ""},
		"a line end in it": {seed, "order-1", sealed[:8] + "\n" + sealed[8:]},
		"padded":           {seed, "order-1", sealed + "="},
		"too long":         {seed, "order-1", sealed + strings.Repeat("A", maxSealed)},
	} {
		got, err := OpenOrder(c.seed.SealingKey(), c.order, c.sealed)
		if err == nil {
			t.Errorf("%s: opened %v", why, got)
			continue
		}
		if _, secret, _ := strings.Cut(token.Text(), "."); strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the token", why)
		}
	}
	for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
		if _, err := SealOrder(key, "order-1", token); err == nil {
			t.Errorf("sealed to a key of %d bytes", len(key))
		}
	}
	// The zero key makes a shared secret of zeros, which everybody knows.
	if _, err := SealOrder(make([]byte, 32), "order-1", token); err == nil {
		t.Error("sealed to the zero key")
	}
}

// Whatever an order says is sealed in it: an error, or a token.
func FuzzOpenOrder(f *testing.F) {
	var seed hostid.Seed
	seed[0] = 1
	sealed, err := SealOrder(seed.SealingKey().PublicKey().Bytes(), "order-1", NewEnrolmentToken("sha256:"+Fingerprint(strings.Repeat("0", 64))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("order-1", sealed)
	f.Add("order-1", "")
	f.Add("", sealed)
	f.Add("order-1", strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, order, text string) {
		token, err := OpenOrder(seed.SealingKey(), order, text)
		if err == nil && (order != "order-1" || !validTokenID(token.ID)) {
			t.Fatalf("order %q opens as %v", order, token)
		}
	})
}

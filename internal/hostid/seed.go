package hostid

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Seed is the secret that a host's keys derive from. It prints as ***, in every format verb and encoding but
// the record's own. (fmt cannot call methods of an unexported field: a type that carries a Seed exports it.)
type Seed [32]byte

// NewSeed draws a seed from the system's random source.
func NewSeed() Seed {
	var s Seed
	rand.Read(s[:])
	return s
}

// The strings that keys are derived with (RFC 5869: salt and info). They are permanent: another string is
// another key, and then no higher system knows the host any more (docs/protocol/record.md).
const (
	keySalt  = "samehost/keys/1"
	infoSign = "sign"
	infoSeal = "seal"
)

// SigningKey is the Ed25519 key that signs this host's reports: HKDF-SHA256 with info "sign" gives the seed of
// RFC 8032.
func (s Seed) SigningKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(s.derive(infoSign, ed25519.SeedSize))
}

// SealingKey is the key that opens what the manager seals for this host: HKDF-SHA256 with info "seal" gives the
// private key of DHKEM(X25519, HKDF-SHA256), RFC 9180.
func (s Seed) SealingKey() hpke.PrivateKey {
	k, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(s.derive(infoSeal, 32))
	if err != nil {
		panic("hostid: any 32 bytes are an X25519 key: " + err.Error())
	}
	return k
}

func (s Seed) derive(info string, n int) []byte {
	k, err := hkdf.Key(sha256.New, s[:], []byte(keySalt), info, n)
	if err != nil {
		panic("hostid: HKDF refuses a length it must know: " + err.Error())
	}
	return k
}

const hidden = "***"

// String hides the seed.
func (Seed) String() string { return hidden }

// GoString hides the seed.
func (Seed) GoString() string { return hidden }

// Format hides the seed under every verb and flag, %x and %d included.
func (Seed) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// LogValue hides the seed from log/slog.
func (Seed) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the seed from encoding/json and every other encoder of text.
func (Seed) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalBinary refuses: only the record's own encoding may carry a seed.
func (Seed) MarshalBinary() ([]byte, error) {
	return nil, errors.New("a seed is written by the record's own encoding only")
}

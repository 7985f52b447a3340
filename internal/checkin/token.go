package checkin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// EnrolmentToken is what an administrator hands to clients: ID, secret and the fingerprint of the manager's key,
// written as one line. It prints without its secret.
type EnrolmentToken struct {
	ID      string
	Secret  TokenSecret
	Manager Fingerprint
}

// TokenSecret is the secret part of an enrolment token. It prints as ***.
type TokenSecret [32]byte

// Format hides the secret under every verb.
func (TokenSecret) Format(f fmt.State, _ rune) { io.WriteString(f, "***") }

// MarshalText hides the secret in every encoding; Text is the way to write a token.
func (TokenSecret) MarshalText() ([]byte, error) { return []byte("***"), nil }

const tokenPrefix = "samehost1."

// NewEnrolmentToken draws a token for the manager of that fingerprint.
func NewEnrolmentToken(manager Fingerprint) EnrolmentToken {
	t := EnrolmentToken{Manager: manager}
	var id [8]byte
	rand.Read(id[:])
	rand.Read(t.Secret[:])
	t.ID = hex.EncodeToString(id[:])
	return t
}

// ParseToken reads the line that Text writes; white space around it is ignored. Its errors never show the line.
func ParseToken(s string) (EnrolmentToken, error) {
	bad := errors.New("this is no enrolment token: want the whole line that `samehost-manager token create` printed; it starts with \"" + tokenPrefix + "\"")
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 || !validTokenID(parts[0]) || strings.ContainsAny(rest, "\r\n") { // the base64 decoder skips line ends
		return EnrolmentToken{}, bad
	}
	b64 := base64.RawURLEncoding.Strict()
	secret, err := b64.DecodeString(parts[1])
	if err != nil || len(secret) != 32 {
		return EnrolmentToken{}, bad
	}
	print, err := b64.DecodeString(parts[2])
	if err != nil || len(print) != 32 {
		return EnrolmentToken{}, bad
	}
	return EnrolmentToken{parts[0], TokenSecret(secret), Fingerprint(fingerprintPrefix + hex.EncodeToString(print))}, nil
}

// Text is the line, secret included.
func (t EnrolmentToken) Text() string {
	digits, _ := strings.CutPrefix(string(t.Manager), fingerprintPrefix)
	print, err := hex.DecodeString(digits)
	if err != nil {
		panic(err) // Manager comes from FingerprintOf or ParseToken
	}
	b64 := base64.RawURLEncoding
	return tokenPrefix + t.ID + "." + b64.EncodeToString(t.Secret[:]) + "." + b64.EncodeToString(print)
}

// Verifier is SHA-256 of the secret: what the manager keeps. Whoever reads it can enrol, so it is a secret too.
func (t EnrolmentToken) Verifier() [32]byte { return sha256.Sum256(t.Secret[:]) }

// Enrolment proves that its sender holds an enrolment token without sending it. It stands in the report's
// protected header, so "the payload without the enrol part" is simply the payload, to the byte. The payload names the
// key that signs, so the proof serves no other key.
type Enrolment struct {
	TokenID string `json:"token"`
	MAC     []byte `json:"mac"` // HMAC-SHA256(verifier, typ 0x00 token ID 0x00 payload)
}

func (t EnrolmentToken) prove(payload []byte) Enrolment {
	return Enrolment{t.ID, enrolMAC(t.Verifier(), typReport, t.ID, payload)}
}

// Check reports whether the MAC is right for the payload under that verifier, in constant time.
func (e Enrolment) Check(verifier [32]byte, payload []byte) bool {
	return e.check(verifier, typReport, payload)
}

func (e Enrolment) check(verifier [32]byte, typ string, payload []byte) bool {
	return hmac.Equal(e.MAC, enrolMAC(verifier, typ, e.TokenID, payload))
}

func enrolMAC(verifier [32]byte, typ, id string, payload []byte) []byte {
	mac := hmac.New(sha256.New, verifier[:])
	io.WriteString(mac, typ+"\x00"+id+"\x00")
	mac.Write(payload)
	return mac.Sum(nil)
}

func validTokenID(id string) bool {
	return len(id) == 16 && strings.Trim(id, "0123456789abcdef") == ""
}

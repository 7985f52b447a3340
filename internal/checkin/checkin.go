package checkin

import (
	"crypto/ed25519"
	"errors"
)

// Fingerprint names a manager's key: "sha256:" and the SHA-256 of its SubjectPublicKeyInfo in lower-case hex.
type Fingerprint string

// Digest is the SHA-256 of a report's signed form.
type Digest [32]byte

// Token is 128 random bits: an epoch or a run.
type Token [16]byte

// SignedReport is a report as it travels and is kept.
type SignedReport struct {
	JWS string // compact serialization
}

// Digest of the signed form: what replies and successors name.
func (r SignedReport) Digest() Digest { panic("unwritten") }

// VerifiedReport is a report whose signature, form and limits hold. Whether the key is the one that the host ID is
// bound to is the registry's question.
type VerifiedReport struct {
	Report  Report
	Key     ed25519.PublicKey
	Enrol   *Enrolment // nil where the client does not enrol
	Digest  Digest
	Payload []byte // the exact bytes signed, for Enrolment.Check
}

// What CheckIn can fail with besides the context's error.
var (
	ErrRefused     = errors.New("the higher system refused the report")
	ErrUnavailable = errors.New("the higher system cannot be reached")
)

// Sign makes the signed form of a report; enrol may be nil.
func Sign(r Report, key ed25519.PrivateKey, enrol *EnrolmentToken) (SignedReport, error) {
	panic("unwritten")
}

// Verify checks signature, typ, form and limits.
func Verify(s SignedReport) (VerifiedReport, error) { panic("unwritten") }

// EnrolmentToken is what an administrator hands to clients: ID, secret and the manager's key fingerprint, written
// as one line. It prints without its secret.
type EnrolmentToken struct {
	ID      string
	Secret  [32]byte
	Manager Fingerprint
}

// ParseToken reads the line.
func ParseToken(s string) (EnrolmentToken, error) { panic("unwritten") }

// Text is the line, secret included.
func (t EnrolmentToken) Text() string { panic("unwritten") }

// Verifier is SHA-256 of the secret: what the manager keeps.
func (t EnrolmentToken) Verifier() [32]byte { panic("unwritten") }

// Check reports whether the MAC is right for the payload under that verifier, in constant time.
func (e Enrolment) Check(verifier [32]byte, payload []byte) bool { panic("unwritten") }

// SignReplacement makes the `replaced` statement with the old record's key.
func SignReplacement(r Replacement, old ed25519.PrivateKey) (string, error) { panic("unwritten") }

// VerifyReplacement checks the signature and returns the statement and the old record's key.
func VerifyReplacement(jws string) (Replacement, ed25519.PublicKey, error) { panic("unwritten") }

// SignReply signs with the manager's key and sets Raw.
func SignReply(r Reply, key ed25519.PrivateKey) (Reply, error) { panic("unwritten") }

// VerifyReply checks a reply against the fingerprint that the client pins and the report it answers.
func VerifyReply(raw string, manager Fingerprint, report Digest) (Reply, error) { panic("unwritten") }

// FingerprintOf names a manager's key.
func FingerprintOf(key ed25519.PublicKey) Fingerprint { panic("unwritten") }

package checkin

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"samehost/internal/hostid"
)

// Digest is the SHA-256 of a report's signed form, written as 64 lower-case hex digits; "" is the zero digest.
type Digest [32]byte

// String is the digest in hex, "" for the zero digest.
func (d Digest) String() string {
	if d == (Digest{}) {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// MarshalText writes what String shows.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(b []byte) error {
	*d = Digest{}
	if len(b) == 0 {
		return nil
	}
	return unhex(d[:], b, "digest")
}

// Token is 128 random bits that name an epoch or a run, written as 32 lower-case hex digits.
type Token [16]byte

// NewToken draws a token.
func NewToken() Token {
	var t Token
	rand.Read(t[:])
	return t
}

// String is the token in hex.
func (t Token) String() string { return hex.EncodeToString(t[:]) }

// MarshalText writes what String shows.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (t *Token) UnmarshalText(b []byte) error { return unhex(t[:], b, "epoch or run") }

func unhex(dst, src []byte, what string) error {
	if len(src) != 2*len(dst) {
		return fmt.Errorf("%s: want %d lower-case hex digits, not %d characters", what, 2*len(dst), len(src))
	}
	if _, err := hex.Decode(dst, src); err != nil || bytes.ContainsAny(src, "ABCDEF") { // who compares texts sees what we see
		return fmt.Errorf("%s: want %d lower-case hex digits", what, 2*len(dst))
	}
	return nil
}

// SignedReport is a report as it travels and is kept.
type SignedReport struct {
	JWS string // compact serialization, at most MaxReport bytes

	// Hops are the relays that it came through, the client's own first; none where the client itself sent it. They are
	// the relays' word, not the client's: who takes reports from anybody leaves them empty.
	Hops []Hop

	verified *VerifiedReport // what Verify would say again; nil: it has to look
}

// Verified is the same report for those that call Verify after somebody who did: it costs them nothing. v is what Verify
// said of it.
func (r SignedReport) Verified(v VerifiedReport) SignedReport {
	r.verified = &v
	return r
}

// MaxHops bounds the relays between a client and the manager.
const MaxHops = 16

// Hop is one relay on a report's way.
type Hop struct {
	Relay hostid.ID     // the relay's own
	Held  time.Duration // from its receipt there until it was sent on; never negative
	// Uncertain says that Held is not known for sure: the relay was restarted in between, or its clock was set.
	Uncertain bool
}

// Digest of the signed form: what replies and successors name.
func (r SignedReport) Digest() Digest { return sha256.Sum256([]byte(r.JWS)) }

// What CheckIn can fail with besides the context's error. All say what went wrong; a Refusal is an ErrRefused.
var (
	// ErrRefused: as it is, the report will never be accepted.
	ErrRefused = errors.New("the higher system refused the report")
	// ErrUnavailable: nobody knows whether it was accepted; send it again unchanged.
	ErrUnavailable = errors.New("the higher system cannot be reached")
	// ErrUntrusted comes with ErrUnavailable: something answers, but by another certificate or key than the one that
	// this client was told to trust. Mostly a mistake in the set-up, never one that waiting mends.
	ErrUntrusted = errors.New("the higher system is not the one to trust")
	// ErrForged comes with ErrUnavailable: what answers this one report of a batch is nothing that the manager signed for
	// it. The others of the batch may be answered well.
	ErrForged = errors.New("the answer to the report is not the manager's")
)

// Busy is an ErrUnavailable that says when to try again: nothing is wrong but the load.
type Busy struct {
	After  time.Duration // at least this long; 0: no advice
	Reason string        // for a log; "" for none
}

func (b *Busy) Error() string {
	if b.Reason == "" {
		return fmt.Sprintf("%v: busy; again in %s", ErrUnavailable, b.After)
	}
	return fmt.Sprintf("%v: %s; again in %s", ErrUnavailable, b.Reason, b.After)
}

// Is makes errors.Is(err, ErrUnavailable) hold.
func (b *Busy) Is(target error) bool { return target == ErrUnavailable }

// Refusal says why a report is refused, by a word to branch on and a sentence to show. errors.Is(err, ErrRefused)
// holds for it.
type Refusal struct {
	Code   RefusalCode
	Detail string
}

// RefusalCode is the word for a reason; it travels as the last part of the problem's type.
type RefusalCode string

// The reasons for which a report is refused.
const (
	Malformed      RefusalCode = "malformed"       // no report, signature wrong, or over a limit
	WrongAudience  RefusalCode = "wrong-audience"  // made for another manager
	NeedsEnrolment RefusalCode = "needs-enrolment" // host ID unknown and no enrolment token
	BadToken       RefusalCode = "bad-token"       // enrolment token unknown, revoked or used up, or its proof is wrong
	NotRelay       RefusalCode = "not-relay"       // a certificate for a host that is no relay any more
	UnknownWork    RefusalCode = "unknown-work"    // progress of work that this manager does not have, or not any more
)

func (r *Refusal) Error() string { return fmt.Sprintf("refused (%s): %s", r.Code, r.Detail) }

// Is makes errors.Is(err, ErrRefused) hold.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

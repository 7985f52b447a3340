package checkin

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"samehost/internal/hostid"
)

const (
	typWork     = "samehost/work/1"
	typProgress = "samehost/progress/1"
)

// Limits on what goes between the manager and a relay besides check-ins.
const (
	MaxWork     = 4 << 20   // bytes of the signed form: the targets of ten thousand PCs and more
	MaxProgress = 256 << 10 // bytes of the signed form
	maxKind     = 64        // bytes
	maxWorkID   = 64        // bytes
)

// Work is something that the manager has one relay do, signed by the manager's key. It is passed down unchanged.
// Secrets in Body are sealed to the relay's seal key.
//
// Member names anywhere in Body are made of lower-case letters, digits and '_', and stand once in their object; objects
// and lists nest 14 deep at most.
type Work struct {
	ID   string          `json:"id"` // 1 to 64 lower-case letters, digits and '-'; names the work for ever
	To   hostid.ID       `json:"to"` // the relay
	Kind string          `json:"kind"`
	Made time.Time       `json:"made"` // the manager's clock
	Body json.RawMessage `json:"body"`
}

// SignWork signs with the manager's key. The same work gives the same text.
func SignWork(w Work, key ed25519.PrivateKey) (string, error) {
	w.Made = w.Made.UTC()
	if err := w.check(); err != nil {
		return "", fmt.Errorf("sign work %s: %w", printable(w.ID, maxWorkID), err)
	}
	return signBounded(w, typWork, key, MaxWork, "work "+w.ID)
}

// VerifyWork checks signature, form and limits, and that the manager of that fingerprint signed it. Whether the relay
// that it is for is oneself is the caller's question.
func VerifyWork(jws string, manager Fingerprint) (Work, error) {
	var w Work
	key, err := verifyBounded(jws, typWork, MaxWork, &w)
	if err != nil {
		return Work{}, fmt.Errorf("work: %w", err)
	}
	if FingerprintOf(key) != manager {
		return Work{}, fmt.Errorf("%w: the work is signed by %s, not by the manager %s", ErrUntrusted, FingerprintOf(key), manager)
	}
	if err := w.check(); err != nil {
		return Work{}, fmt.Errorf("work: %w", err)
	}
	return w, nil
}

func (w Work) check() error {
	switch {
	case !validWorkID(w.ID):
		return errors.New("id: want 1 to 64 lower-case letters, digits and hyphens")
	case w.To.IsZero():
		return errors.New("to is missing")
	case w.Kind == "" || len(w.Kind) > maxKind:
		return fmt.Errorf("kind: want 1 to %d bytes", maxKind)
	case w.Made.IsZero():
		return errors.New("made is missing")
	}
	return nil
}

func validWorkID(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= maxWorkID
}

// Progress is what a relay says about work that it was given, signed by its record's key. What it says of one work is
// numbered from 1 without gaps; the last one is Done. Member names in Body are as in Work.
type Progress struct {
	Work     string          `json:"work"` // Work.ID
	From     hostid.ID       `json:"from"`
	Sequence uint64          `json:"sequence"`
	Done     bool            `json:"done,omitzero"`
	Body     json.RawMessage `json:"body"`
}

// SignProgress signs with the relay's record key. The same progress gives the same text.
func SignProgress(p Progress, key ed25519.PrivateKey) (string, error) {
	if err := p.check(); err != nil {
		return "", fmt.Errorf("sign progress of work %s: %w", printable(p.Work, maxWorkID), err)
	}
	return signBounded(p, typProgress, key, MaxProgress, "progress of work "+p.Work)
}

// VerifyProgress checks signature, form and limits, and returns the key that signed. Whether that one is bound to From
// is the registry's question. Every error is a Refusal with code Malformed.
func VerifyProgress(jws string) (Progress, ed25519.PublicKey, error) {
	var p Progress
	key, err := verifyBounded(jws, typProgress, MaxProgress, &p)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return Progress{}, nil, &Refusal{Malformed, "progress: " + err.Error()}
	}
	return p, key, nil
}

func (p Progress) check() error {
	switch {
	case !validWorkID(p.Work):
		return errors.New("work: want 1 to 64 lower-case letters, digits and hyphens")
	case p.From.IsZero():
		return errors.New("from is missing")
	case p.Sequence == 0:
		return errors.New("sequence counts from 1")
	}
	return nil
}

func signBounded(v any, typ string, key ed25519.PrivateKey, limit int, what string) (string, error) {
	payload, err := json.Marshal(v)
	if err == nil {
		err = plainNames(payload)
	}
	var jws string
	if err == nil {
		jws, err = sign(payload, typ, key, nil)
	}
	if err == nil && len(jws) > limit {
		err = fmt.Errorf("%d bytes, more than %d", len(jws), limit)
	}
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", what, err)
	}
	return jws, nil
}

func verifyBounded(jws, typ string, limit int, v any) (ed25519.PublicKey, error) {
	if len(jws) > limit {
		return nil, fmt.Errorf("%d bytes, more than %d", len(jws), limit)
	}
	payload, key, _, err := verify(jws, typ)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return key, nil
}

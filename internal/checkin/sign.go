package checkin

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"samehost/internal/hardware"
)

// The JWS types. They keep a signature made for one purpose from serving another.
const (
	typReport   = "samehost/report/1"
	typReply    = "samehost/reply/1"
	typReplaced = "samehost/replaced/1"
)

// Limits on a report. Sign cuts what is longer; Verify refuses it.
const (
	MaxReport    = 64 << 10 // bytes of the signed form
	maxText      = 1024     // bytes of a sentence: store errors, observations
	maxName      = 255      // bytes of a name, an address, a version, a hardware fact
	maxItems     = 64       // disks, interfaces, addresses, stores, observations, orders done
	maxReplaced  = 16       // statements about replaced IDs
	maxStatement = 2048     // bytes of one statement
)

// Fingerprint names a manager's key: "sha256:" and the SHA-256 of its SubjectPublicKeyInfo in lower-case hex.
type Fingerprint string

const fingerprintPrefix = "sha256:"

// FingerprintOf names a key.
func FingerprintOf(key ed25519.PublicKey) Fingerprint {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err) // cannot fail for an Ed25519 key
	}
	sum := sha256.Sum256(der)
	return Fingerprint(fingerprintPrefix + hex.EncodeToString(sum[:]))
}

func (f Fingerprint) valid() bool {
	digits, ok := strings.CutPrefix(string(f), fingerprintPrefix)
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

// VerifiedReport is a report whose signature, form and limits hold. Whether the key is the one that the host ID is
// bound to is the registry's question.
type VerifiedReport struct {
	Report  Report
	Key     ed25519.PublicKey
	Enrol   *Enrolment // nil where the client does not enrol
	Digest  Digest
	Payload []byte // the exact bytes signed, for Enrolment.Check
}

// Sign makes the signed form of a report. With a token, the report also enrols its host. Texts over a limit are
// cut, lists shortened, and what is no UTF-8 is replaced: what is odd about a PC must not keep it from reporting.
func Sign(r Report, key ed25519.PrivateKey, enrol *EnrolmentToken) (SignedReport, error) {
	r.clip()
	r.SignKey = key.Public().(ed25519.PublicKey)
	if err := r.check(); err != nil {
		return SignedReport{}, fmt.Errorf("sign report: %w", err)
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return SignedReport{}, fmt.Errorf("sign report: %w", err)
	}
	if err := checkDelta(payload, r, enrol != nil); err != nil {
		return SignedReport{}, fmt.Errorf("sign report: %w", err)
	}
	var extra map[jose.HeaderKey]any
	if enrol != nil {
		extra = map[jose.HeaderKey]any{"enrol": enrol.prove(payload)}
	}
	jws, err := sign(payload, typReport, key, extra)
	if err == nil && len(jws) > MaxReport {
		err = fmt.Errorf("%d bytes, more than %d", len(jws), MaxReport)
	}
	if err != nil {
		return SignedReport{}, fmt.Errorf("sign report: %w", err)
	}
	return SignedReport{JWS: jws}, nil
}

// Verify checks signature, typ, form and limits. Every error is a Refusal with code Malformed.
func Verify(s SignedReport) (VerifiedReport, error) {
	if s.verified != nil && s.verified.Digest == s.Digest() { // whoever changed the text since is not believed
		return *s.verified, nil
	}
	v, err := verifyReport(s)
	if err != nil {
		return VerifiedReport{}, &Refusal{Malformed, err.Error()}
	}
	return v, nil
}

func verifyReport(s SignedReport) (VerifiedReport, error) {
	if len(s.JWS) > MaxReport {
		return VerifiedReport{}, fmt.Errorf("%d bytes, more than %d", len(s.JWS), MaxReport)
	}
	payload, key, extra, err := verify(s.JWS, typReport)
	if err != nil {
		return VerifiedReport{}, err
	}
	v := VerifiedReport{Key: key, Digest: s.Digest(), Payload: payload}
	if err := json.Unmarshal(payload, &v.Report); err != nil {
		return VerifiedReport{}, fmt.Errorf("payload: %w", err)
	}
	if err := v.Report.check(); err != nil {
		return VerifiedReport{}, err
	}
	// Else whoever passes an enrolling report on could sign the same payload with a key of his own.
	if !key.Equal(ed25519.PublicKey(v.Report.SignKey)) {
		return VerifiedReport{}, errors.New("sign_key is not the key that signed")
	}
	if part, ok := extra["enrol"]; ok {
		v.Enrol, err = readEnrolment(part)
		if err != nil {
			return VerifiedReport{}, err
		}
	}
	if err := checkDelta(payload, v.Report, v.Enrol != nil); err != nil {
		return VerifiedReport{}, err
	}
	return v, nil
}

// SignReplacement makes the `replaced` statement with the old record's key.
func SignReplacement(r Replacement, old ed25519.PrivateKey) (string, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("sign replacement: %w", err)
	}
	return sign(payload, typReplaced, old, nil)
}

// VerifyReplacement checks the signature and returns the statement and the old record's key. Whether that key was
// the old ID's is the registry's question.
func VerifyReplacement(jws string) (Replacement, ed25519.PublicKey, error) {
	if len(jws) > maxStatement {
		return Replacement{}, nil, fmt.Errorf("replaced: %d bytes, more than %d", len(jws), maxStatement)
	}
	payload, key, _, err := verify(jws, typReplaced)
	if err != nil {
		return Replacement{}, nil, fmt.Errorf("replaced: %w", err)
	}
	var r Replacement
	if err := json.Unmarshal(payload, &r); err != nil {
		return Replacement{}, nil, fmt.Errorf("replaced: %w", err)
	}
	if r.Old.IsZero() || r.New.IsZero() || r.Old == r.New || len(r.NewKey) != ed25519.PublicKeySize || !r.Audience.valid() {
		return Replacement{}, nil, errors.New("replaced: a part is missing or wrong")
	}
	return r, key, nil
}

// SignReply signs with the manager's key and sets Raw.
func SignReply(r Reply, key ed25519.PrivateKey) (Reply, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return Reply{}, fmt.Errorf("sign reply: %w", err)
	}
	r.Raw, err = sign(payload, typReply, key, nil)
	return r, err
}

// VerifyReply checks a reply against the fingerprint that the client pins and the report it answers.
func VerifyReply(raw string, manager Fingerprint, report Digest) (Reply, error) {
	payload, key, _, err := verify(raw, typReply)
	if err != nil {
		return Reply{}, fmt.Errorf("reply: %w", err)
	}
	if FingerprintOf(key) != manager {
		return Reply{}, fmt.Errorf("%w: the reply is signed by %s, but the enrolment token names the manager %s", ErrUntrusted, FingerprintOf(key), manager)
	}
	var r Reply
	if err := json.Unmarshal(payload, &r); err != nil {
		return Reply{}, fmt.Errorf("reply: %w", err)
	}
	if r.Report != report {
		return Reply{}, errors.New("reply: it answers another report")
	}
	if r.Status != Accepted || r.HostID.IsZero() || r.Interval <= 0 {
		return Reply{}, errors.New("reply: a part is missing or wrong")
	}
	r.Raw = raw
	return r, nil
}

func readEnrolment(part any) (*Enrolment, error) {
	raw, err := json.Marshal(part)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	var e Enrolment
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	if !validTokenID(e.TokenID) || len(e.MAC) != sha256.Size {
		return nil, errors.New("enrol: a part is missing or wrong")
	}
	return &e, nil
}

// texts calls f with every string of the report and its limit in bytes.
func (r *Report) texts(f func(s *string, limit int)) {
	f(&r.Time, maxName)
	f(&r.Names.Host, maxName)
	f(&r.Names.FQDN, maxName)
	f(&r.Versions.Client, maxName)
	f(&r.Versions.OS, maxName)
	for i := range r.Addresses {
		f(&r.Addresses[i], maxName)
	}
	for i := range r.Stores {
		f(&r.Stores[i].Name, maxName)
		f(&r.Stores[i].State, maxName)
		f(&r.Stores[i].Error, maxText)
	}
	for i := range r.Observations {
		f(&r.Observations[i].Kind, maxName)
		f(&r.Observations[i].Order, maxName)
		f(&r.Observations[i].Detail, maxText)
	}
	for i := range r.Done {
		f(&r.Done[i], maxName)
	}
	f(&r.Placeholders, maxName)
	f((*string)(&r.Origin), maxName)
	f((*string)(&r.EpochBy), maxName)
	for _, s := range []*string{&r.Facts.SystemUUID, &r.Facts.SystemSerial, &r.Facts.BoardSerial, &r.Facts.ChassisSerial, &r.Facts.TPMEKSHA256} {
		f(s, maxName)
	}
	for i := range r.Facts.Disks {
		f(&r.Facts.Disks[i].Serial, maxName)
	}
	for i := range r.Facts.NICs {
		f(&r.Facts.NICs[i].MAC, maxName)
	}
}

// clip cuts what is over a limit. Lists and texts are copied first: the caller's report stays as it is.
func (r *Report) clip() {
	r.Addresses = shortened(r.Addresses)
	r.Stores = shortened(r.Stores)
	r.Observations = shortened(r.Observations)
	r.Done = shortened(r.Done)
	r.Facts.Disks = shortened[hardware.Disk](r.Facts.Disks)
	r.Facts.NICs = shortened[hardware.NIC](r.Facts.NICs)
	r.texts(func(s *string, limit int) {
		*s = strings.ToValidUTF8(*s, "\uFFFD")
		for len(*s) > limit {
			_, n := utf8.DecodeLastRuneInString(*s)
			*s = (*s)[:len(*s)-n]
		}
	})
}

func shortened[T any](list []T) []T {
	if list == nil {
		return nil
	}
	return append([]T{}, list[:min(len(list), maxItems)]...)
}

func (r *Report) check() error {
	switch {
	case !r.Audience.valid():
		return errors.New("aud: not a key fingerprint")
	case r.HostID.IsZero():
		return errors.New("host_id is missing")
	case len(r.SignKey) != ed25519.PublicKeySize:
		return fmt.Errorf("sign_key: %d bytes, want %d", len(r.SignKey), ed25519.PublicKeySize)
	case len(r.SealKey) != 32:
		return fmt.Errorf("seal_key: %d bytes, want 32", len(r.SealKey))
	case r.Epoch == Token{}:
		return errors.New("epoch is missing")
	case r.Run == Token{}:
		return errors.New("run is missing")
	case r.Counter == 0:
		return errors.New("counter counts from 1")
	case r.AgeMS > maxAgeMS:
		return errors.New("age_ms: more than a hundred years")
	case len(r.Replaced) > maxReplaced:
		return fmt.Errorf("replaced: %d statements, more than %d", len(r.Replaced), maxReplaced)
	case max(len(r.Addresses), len(r.Stores), len(r.Observations), len(r.Done), len(r.Facts.Disks), len(r.Facts.NICs)) > maxItems:
		return fmt.Errorf("a list is longer than %d", maxItems)
	}
	for _, s := range r.Replaced {
		if len(s) > maxStatement {
			return fmt.Errorf("replaced: a statement of %d bytes, more than %d", len(s), maxStatement)
		}
	}
	for _, a := range r.Addresses {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("addresses: %.64q is no IP address", a)
		}
	}
	var err error
	r.texts(func(s *string, limit int) {
		if len(*s) > limit {
			err = fmt.Errorf("a text of %d bytes, more than %d", len(*s), limit)
		}
	})
	return err
}

// maxAgeMS keeps interval arithmetic within time.Duration whatever a client says.
const maxAgeMS = 100 * 365 * 24 * 3600 * 1000

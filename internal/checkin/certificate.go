package checkin

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"samehost/internal/hostid"
)

const (
	typCertificate        = "samehost/relay-certificate/1"
	typIssued             = "samehost/relay-certificate-issued/1"
	maxCertificateRequest = 64 << 10 // bytes of the signed form: a hundred names take a tenth of it
	maxCertificateNames   = 100
	maxIssued             = 128 << 10
	relayURI              = "samehost:relay:" // and the host ID: a URI in every relay's certificate
)

// CertificateRequest is a relay's request for a TLS certificate, signed by its record key. Relays on the way pass it on
// unchanged. Which names it may have is the manager's to say; the names in CSR are those it would like.
type CertificateRequest struct {
	Audience Fingerprint `json:"aud"`
	HostID   hostid.ID   `json:"host_id"`
	CSR      []byte      `json:"csr"` // PKCS #10 (RFC 2986), DER; an ECDSA key on P-256
}

// VerifiedCertificateRequest is a request whose signature, form and limits hold. Whether the key is the one that the host
// ID is bound to is the registry's question.
type VerifiedCertificateRequest struct {
	CertificateRequest
	Key   ed25519.PublicKey
	CSR   *x509.CertificateRequest
	Enrol *Enrolment // proof of a relay's token; nil where none was shown

	Digest  Digest // of the signed form
	payload []byte
}

// Proves reports whether the request proves possession of the token of that verifier.
func (v VerifiedCertificateRequest) Proves(verifier [32]byte) bool {
	return v.Enrol != nil && v.Enrol.check(verifier, typCertificate, v.payload)
}

// Names are the DNS names and IP addresses that the certificate is wanted for.
func (v VerifiedCertificateRequest) Names() []string {
	names := slices.Clone(v.CSR.DNSNames)
	for _, ip := range v.CSR.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// SignCertificateRequest signs with the relay's record key. With a token the request also shows that the relay holds it.
func SignCertificateRequest(r CertificateRequest, key ed25519.PrivateKey, token *EnrolmentToken) (string, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("sign request for a certificate: %w", err)
	}
	var extra map[jose.HeaderKey]any
	if token != nil {
		extra = map[jose.HeaderKey]any{"enrol": Enrolment{token.ID, enrolMAC(token.Verifier(), typCertificate, token.ID, payload)}}
	}
	jws, err := sign(payload, typCertificate, key, extra)
	if err == nil && len(jws) > maxCertificateRequest {
		err = fmt.Errorf("%d bytes, more than %d", len(jws), maxCertificateRequest)
	}
	if err != nil {
		return "", fmt.Errorf("sign request for a certificate: %w", err)
	}
	return jws, nil
}

// VerifyCertificateRequest checks signatures, form and limits. Every error is a Refusal with code Malformed.
func VerifyCertificateRequest(jws string) (VerifiedCertificateRequest, error) {
	v, err := verifyCertificateRequest(jws)
	if err != nil {
		return VerifiedCertificateRequest{}, &Refusal{Malformed, "request for a certificate: " + err.Error()}
	}
	return v, nil
}

func verifyCertificateRequest(jws string) (v VerifiedCertificateRequest, err error) {
	if len(jws) > maxCertificateRequest {
		return v, fmt.Errorf("%d bytes, more than %d", len(jws), maxCertificateRequest)
	}
	payload, key, extra, err := verify(jws, typCertificate)
	if err != nil {
		return v, err
	}
	v.payload, v.Key, v.Digest = payload, key, SignedReport{JWS: jws}.Digest()
	if err := json.Unmarshal(payload, &v.CertificateRequest); err != nil {
		return v, fmt.Errorf("payload: %w", err)
	}
	if !v.Audience.valid() || v.HostID.IsZero() {
		return v, errors.New("a part is missing or wrong")
	}
	if part, ok := extra["enrol"]; ok {
		if v.Enrol, err = readEnrolment(part); err != nil {
			return v, err
		}
	}
	if v.CSR, err = x509.ParseCertificateRequest(v.CertificateRequest.CSR); err != nil {
		return v, fmt.Errorf("csr: %w", err)
	}
	// The kind of key first: anybody may ask, and an RSA key that fills a request takes a second of a processor.
	if k, ok := v.CSR.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return v, errors.New("csr: want an ECDSA key on P-256")
	}
	if err := v.CSR.CheckSignature(); err != nil {
		return v, fmt.Errorf("csr: %w", err)
	}
	if len(v.CSR.DNSNames)+len(v.CSR.IPAddresses) > maxCertificateNames {
		return v, fmt.Errorf("csr: more than %d names", maxCertificateNames)
	}
	for _, n := range v.CSR.DNSNames {
		if len(n) > maxName {
			return v, fmt.Errorf("csr: a name of %d bytes, more than %d", len(n), maxName)
		}
	}
	return v, nil
}

// IssuedCertificate is the manager's answer to a CertificateRequest, signed by its key, so that a relay on the way can put
// no other authority in the place of the manager's.
type IssuedCertificate struct {
	Request      Digest   `json:"request"`      // digest of the request as signed
	Certificates [][]byte `json:"certificates"` // DER; the relay's own, then the manager's CA
}

// SignIssuedCertificate signs with the manager's key.
func SignIssuedCertificate(i IssuedCertificate, key ed25519.PrivateKey) (string, error) {
	return signBounded(i, typIssued, key, maxIssued, "certificate")
}

// VerifyIssuedCertificate checks that the manager of that fingerprint signed the answer to that request, and that the
// certificate is by its CA and for the key that was asked for.
func VerifyIssuedCertificate(jws string, manager Fingerprint, request string) (relay, ca *x509.Certificate, err error) {
	var i IssuedCertificate
	key, err := verifyBounded(jws, typIssued, maxIssued, &i)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	if FingerprintOf(key) != manager {
		return nil, nil, fmt.Errorf("%w: the certificate is signed by %s, not by the manager %s", ErrUntrusted, FingerprintOf(key), manager)
	}
	if i.Request != (SignedReport{JWS: request}).Digest() || len(i.Certificates) != 2 {
		return nil, nil, errors.New("certificate: it answers another request")
	}
	v, err := VerifyCertificateRequest(request)
	if err != nil {
		return nil, nil, err
	}
	if relay, err = x509.ParseCertificate(i.Certificates[0]); err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	if ca, err = x509.ParseCertificate(i.Certificates[1]); err != nil {
		return nil, nil, fmt.Errorf("certificate: the CA's: %w", err)
	}
	if id, err := relayIn(relay, ca, relay.NotBefore); err != nil || id != v.HostID {
		return nil, nil, errors.New("certificate: it is not this relay's")
	}
	if k, ok := relay.PublicKey.(*ecdsa.PublicKey); !ok || !k.Equal(v.CSR.PublicKey) {
		return nil, nil, errors.New("certificate: it is for another key")
	}
	return relay, ca, nil
}

// ErrNoRelay says that a connection is not a relay's.
var ErrNoRelay = errors.New("this takes a relay's client certificate, issued by the manager")

// RelayURI is the URI that a relay's certificate carries.
func RelayURI(id hostid.ID) string { return relayURI + id.String() }

// RelayOf tells whose connection it is: the host ID in the client's certificate, which ca must have issued, for clients,
// and which must be valid at that time. All errors wrap ErrNoRelay. Whether the relay is still one is not asked here.
func RelayOf(s *tls.ConnectionState, ca *x509.Certificate, now time.Time) (hostid.ID, error) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return hostid.ID{}, ErrNoRelay
	}
	return relayIn(s.PeerCertificates[0], ca, now)
}

func relayIn(c, ca *x509.Certificate, now time.Time) (hostid.ID, error) {
	// Not x509.Verify: the CA is restricted to servers, as managers before relays made it, and issues relays all the same.
	if err := c.CheckSignatureFrom(ca); err != nil {
		return hostid.ID{}, fmt.Errorf("%w; this one is another's", ErrNoRelay)
	}
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return hostid.ID{}, fmt.Errorf("%w; this one was valid from %s to %s", ErrNoRelay, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || c.IsCA {
		return hostid.ID{}, fmt.Errorf("%w; this one is for servers", ErrNoRelay)
	}
	for _, u := range c.URIs {
		if text, ok := strings.CutPrefix(u.String(), relayURI); ok {
			id, err := hostid.ParseID(text)
			if err != nil {
				return hostid.ID{}, fmt.Errorf("%w; this one names no host ID", ErrNoRelay)
			}
			return id, nil
		}
	}
	return hostid.ID{}, fmt.Errorf("%w; this one is no relay's", ErrNoRelay)
}

package checkin_test

import (
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"samehost/internal/checkin"
)

// signRaw signs a report without the checks of Sign, as a hostile client would.
func signRaw(t *testing.T, r checkin.Report) checkin.SignedReport {
	t.Helper()
	payload, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return signPayload(t, payload)
}

func signPayload(t *testing.T, payload []byte) checkin.SignedReport {
	t.Helper()
	opts := (&jose.SignerOptions{EmbedJWK: true}).WithType("samehost/report/1")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: clientKey}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return checkin.SignedReport{JWS: s}
}

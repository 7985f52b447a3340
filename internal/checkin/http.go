package checkin

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"
)

// Path is where reports are posted: one report, media type application/jose; the answer is a reply of the same type
// or an RFC 9457 problem.
const Path = "/checkin/v1"

// Client is the HigherSystem at the other end of HTTPS.
type Client struct{}

// ClientOptions say where the higher system is and how its certificate is judged: RootCAs or PinSPKI.
type ClientOptions struct {
	URL     string
	RootCAs *x509.CertPool
	PinSPKI []byte           // SHA-256 of a public key in the served chain, 32 bytes
	Now     func() time.Time // judges certificate validity: the later of clock and last signed reply; nil: time.Now
	Manager Fingerprint
}

// NewClient makes a Client. HTTPS_PROXY is honoured.
func NewClient(o ClientOptions) (*Client, error) { panic("unwritten") }

// CheckIn implements HigherSystem.
func (c *Client) CheckIn(ctx context.Context, r SignedReport) (Reply, error) { panic("unwritten") }

// Handler serves a HigherSystem at Path.
func Handler(h HigherSystem) http.Handler { panic("unwritten") }

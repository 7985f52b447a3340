// Package wsman is a WS-Management client for Intel AMT: SOAP 1.2 and WS-Addressing over HTTP with digest
// authentication, as DSP0226 1.0 and the firmware want it.
package wsman

import (
	"context"
	"crypto/x509"
	"net"
)

// Endpoint is a device's WS-Management service and how to log on to it.
type Endpoint struct {
	URL      string // http://host:16992 or https://host:16993; an empty path means /wsman
	User     string
	Password Secret

	// TLS needs one of these two; with neither, an https URL is refused with ErrNoTrust.
	RootCAs *x509.CertPool
	PinSPKI []byte // SHA-256 of the server's SubjectPublicKeyInfo, 32 bytes; the certificate's dates are then not judged

	// Dial replaces the net.Dialer, for callers that resolve or pace connections themselves. May be nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// MaxReply bounds a reply body in bytes; 0 means 1 MiB.
	MaxReply int64
}

// Secret is a password. It prints as ***.
type Secret string

// String hides the secret.
func (Secret) String() string { return "***" }

// Client talks to one device over one connection at a time. Nothing is shared between clients. Safe for
// concurrent use: calls wait for each other.
type Client struct{}

// NewClient checks the endpoint and makes a client; it does not connect.
func NewClient(e Endpoint) (*Client, error) { panic("unwritten") }

// Close drops the connection.
func (c *Client) Close() error { panic("unwritten") }

// Selector picks an instance by a key property.
type Selector struct{ Name, Value string }

// Param is one input of a method. Order is kept: AMT judges bodies against its schema.
type Param struct{ Name, Value string }

// Instance is the flat list of elements of a reply's body: an instance's properties or a method's outputs.
type Instance struct {
	Class string // local name of the wrapping element
	// ... unexported
}

// Value is the text of the first element of that local name; ok is false if there is none.
func (i Instance) Value(name string) (value string, ok bool) { panic("unwritten") }

// Values are the texts of all elements of that local name, in order: arrays are repeated elements.
func (i Instance) Values(name string) []string { panic("unwritten") }

// Identity is the answer to Identify.
type Identity struct{ ProtocolVersion, ProductVendor, ProductVersion string }

// Identify asks who serves here (DSP0226 section 11).
func (c *Client) Identify(ctx context.Context) (Identity, error) { panic("unwritten") }

// Get reads one instance.
func (c *Client) Get(ctx context.Context, resourceURI string, keys ...Selector) (Instance, error) {
	panic("unwritten")
}

// Enumerate reads all instances of a class: Enumerate, then Pull until the end of the sequence.
func (c *Client) Enumerate(ctx context.Context, resourceURI string) ([]Instance, error) {
	panic("unwritten")
}

// Invoke calls an extrinsic method. The outputs come with ReturnValue among them; judging it is the caller's.
func (c *Client) Invoke(ctx context.Context, resourceURI, method string, in ...Param) (Instance, error) {
	panic("unwritten")
}

// Package wsman is a WS-Management client for Intel AMT: SOAP 1.2 and WS-Addressing over HTTP with digest
// authentication, as DSP0226 1.0 and the firmware want it.
//
// # What a call does
//
// One call is one exchange: a POST and its answer, on a connection that is kept. The first exchange is answered 401, which
// costs one more and, since AMT closes the connection with it, one more connection. Later calls answer the same
// challenge with a rising count and cost one exchange each, until the device wants a new nonce.
//
// # What is sent twice
//
// A request that the device refused to execute (401), once. A request that only reads, if the connection turns out to
// have been closed by the device since the last call. An Invoke is not sent again once a byte of it went out, because it may
// have been executed: the caller gets the error.
//
// # What is believed
//
// Nothing, until it was checked: the size of header, body and every element; that the body is XML of the one kind that
// WS-Management uses; that the answer relates to this request and is this action's answer. Texts of a device in an error are
// printable and bounded.
package wsman

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// DefaultTimeout bounds a call whose context has no deadline: DSP0226 support in AMT promises an answer, or a
// fault, within 30 seconds.
const DefaultTimeout = 30 * time.Second

// defaultMaxReply holds the largest reply that was thought of: an Enumerate of a thousand instances.
const defaultMaxReply = 1 << 20

// Endpoint is a device's WS-Management service and how to log on to it.
type Endpoint struct {
	URL      string // http://host:16992 or https://host:16993; an empty path means /wsman
	User     string
	Password Secret

	// TLS needs one of these two; with neither, an https URL is refused with ErrNoTrust. A pin also admits TLS 1.0
	// and 1.1, which is all that firmware before AMT 11 speaks.
	RootCAs *x509.CertPool
	PinSPKI []byte // SHA-256 of the server's SubjectPublicKeyInfo, 32 bytes; the certificate's names and dates are then not judged

	// Dial replaces the net.Dialer, for callers that resolve or pace connections themselves. May be nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// MaxReply bounds a reply body in bytes; 0 means 1 MiB.
	MaxReply int64

	// LogOns bounds how often credentials are sent to a device that may refuse them. May be nil: no bound beyond that of
	// a call.
	LogOns *LogOns
}

// LogOns is what the clients of one device share about the log-on to it, where a failed one counts towards a lock-out.
// Clients that share it are to be used one after the other.
type LogOns struct {
	// Left is how many requests with credentials may still go to the device without it having let that client in. Each
	// that it refuses takes one, and so does one whose answer is missing, since the device may have counted it. With none
	// left, a client that was not let in yet gets ErrLogOnsSpent instead of sending credentials.
	Left int

	// LetIn is called once by each client, when a device first answers WS-Management to a request with credentials. May be nil.
	LetIn func()
}

// LogValue names the device and the user.
func (e Endpoint) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", e.URL), slog.String("user", e.User))
}

// Secret is a password. It prints as *** under every verb of fmt, in slog, and as text, JSON or XML.
type Secret string

const hidden = "***"

// String hides the secret.
func (Secret) String() string { return hidden }

// Format hides the secret from %x, %d, %#v and the like, too.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// LogValue hides the secret in logs.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the secret in JSON and every other encoding that asks.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Client talks to one device over one connection at a time. Nothing is shared between clients. Safe for
// concurrent use: calls wait for each other.
type Client struct {
	endpoint Endpoint
	address  string // host:port to dial
	path     string // request target and digest uri
	head     string // the request's header up to where it varies
	tls      *tls.Config
	maxReply int64

	turn chan struct{} // holds one value while no call is under way; it guards all that follows

	conn     *conn
	dials    int  // connections made so far
	answered bool // the device has answered as the endpoint expects, so it is not the other protocol that it wants
	letIn    bool // it has answered a request with credentials
	auth     digest
	lastID   uint64
	body     []byte // the envelope to send
	out      []byte // the whole request
	readBuf  []byte // a connection's buffer between two connections
	replyBuf []byte
	xml      decoder

	mu     sync.Mutex // guards what Close shares with a call under way
	open   net.Conn   // the socket under conn
	closes int        // how often Close was called
}

// NewClient checks the endpoint and makes a client; it does not connect.
func NewClient(e Endpoint) (*Client, error) {
	u, err := url.Parse(e.URL)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // the outer one repeats the URL, which may hold a password
		}
		return nil, fmt.Errorf("the device's URL cannot be read: %w", err)
	}
	if u.User != nil {
		return nil, errors.New("the device's URL holds a user; name user and password apart from it")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no device URL: it must read http://HOST:16992, or https://HOST:16993 for TLS", e.URL)
	}
	if e.User == "" || strings.ContainsFunc(e.User, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errors.New("the user name is empty or holds a control character")
	}
	if e.MaxReply < 0 {
		return nil, fmt.Errorf("MaxReply is %d", e.MaxReply)
	}
	c := &Client{
		endpoint: e,
		address:  net.JoinHostPort(u.Hostname(), u.Port()),
		path:     u.RequestURI(),
		maxReply: e.MaxReply,
		turn:     make(chan struct{}, 1),
		auth:     digest{user: e.User, password: e.Password},
	}
	if u.Path == "" || u.Path == "/" {
		c.path = "/wsman"
	}
	if c.maxReply == 0 {
		c.maxReply = defaultMaxReply
	}
	if u.Scheme == "https" {
		if c.tls, err = tlsConfig(e, u.Hostname()); err != nil {
			return nil, err
		}
	}
	// A zone (fe80::1%eth0) means something on this side only: RFC 6874 section 4.
	host, _, _ := strings.Cut(u.Hostname(), "%")
	c.head = "POST " + c.path + " HTTP/1.1\r\nHost: " + net.JoinHostPort(host, u.Port()) +
		"\r\nUser-Agent: samehost\r\nContent-Type: application/soap+xml;charset=UTF-8\r\n"
	if strings.Count(c.head, "\r\n") != 4 || strings.ContainsAny(c.path, " \t\r\n") || strings.ContainsAny(host, " \t\r\n/\"\\") {
		return nil, fmt.Errorf("%q is no device URL: a space or a line end is in it", e.URL)
	}
	c.turn <- struct{}{}
	return c, nil
}

// tlsConfig is for one client; so is its session cache, which makes the connections after a close cheap for the device.
func tlsConfig(e Endpoint, host string) (*tls.Config, error) {
	host, _, _ = strings.Cut(host, "%")
	config := &tls.Config{
		ServerName:         host,
		RootCAs:            e.RootCAs,
		MinVersion:         tls.VersionTLS12,
		CipherSuites:       legacySuites(),
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	switch {
	case e.RootCAs == nil && len(e.PinSPKI) == 0:
		return nil, ErrNoTrust
	case e.RootCAs != nil && len(e.PinSPKI) != 0:
		return nil, errors.New("a CA and a pin are both set to judge TLS by; name one")
	case e.RootCAs != nil:
		return config, nil
	case len(e.PinSPKI) != sha256.Size:
		return nil, fmt.Errorf("the pin has %d bytes; the SHA-256 of a public key has %d", len(e.PinSPKI), sha256.Size)
	}
	pin := bytes.Clone(e.PinSPKI)
	config.MinVersion = tls.VersionTLS10
	config.InsecureSkipVerify = true // VerifyConnection judges instead
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return fmt.Errorf("%w: it sent none", ErrCert)
		}
		sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
			return fmt.Errorf("%w: its public key is sha256:%x, not the pinned one", ErrCert, sum)
		}
		return nil
	}
	return config, nil
}

// legacySuites are Go's own suites for TLS 1.2 and before, and those with RSA key exchange, which Go has ceased to offer and
// which is all that much firmware has. See docs/decisions on TLS.
func legacySuites() []uint16 {
	var ids []uint16
	for _, s := range tls.CipherSuites() {
		ids = append(ids, s.ID)
	}
	return append(ids,
		tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
		tls.TLS_RSA_WITH_AES_256_CBC_SHA,
		tls.TLS_RSA_WITH_AES_128_CBC_SHA)
}

// Close drops the connection. A call under way fails with net.ErrClosed; a later call connects anew.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	if c.open != nil {
		c.open.Close()
		c.open = nil
	}
	return nil
}

// String names the device, and nothing else of what the client holds.
func (c *Client) String() string { return "WS-Management client of " + c.address }

// Format keeps every verb from printing the fields.
func (c *Client) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// Selector picks an instance by a key property.
type Selector struct{ Name, Value string }

// Param is one input of a method. Order is kept: AMT judges bodies against its schema.
type Param struct{ Name, Value string }

// Instance is the flat list of elements of a reply's body: an instance's properties or a method's outputs.
//
// An element that holds others, such as an endpoint reference, is not listed itself; the innermost elements are, under
// their path: "Antecedent/Address", "Antecedent/ReferenceParameters/SelectorSet/Selector[Name]" (a selector carries its
// key in brackets). An element that is xsi:nil has no value and is not listed, which DSP0230 makes the same as
// its absence.
type Instance struct {
	Class    string // local name of the wrapping element
	elements []element
}

type element struct{ name, text string }

// Value is the text of the first element of that local name; ok is false if there is none.
func (i Instance) Value(name string) (value string, ok bool) {
	for _, e := range i.elements {
		if e.name == name {
			return e.text, true
		}
	}
	return "", false
}

// Values are the texts of all elements of that local name, in order: arrays are repeated elements.
func (i Instance) Values(name string) []string {
	var all []string
	for _, e := range i.elements {
		if e.name == name {
			all = append(all, e.text)
		}
	}
	return all
}

// Identity is the answer to Identify.
type Identity struct{ ProtocolVersion, ProductVendor, ProductVersion string }

// Identify asks who serves here (DSP0226 section 11).
func (c *Client) Identify(ctx context.Context) (Identity, error) {
	id, err := c.identify(ctx)
	if err != nil {
		return Identity{}, fmt.Errorf("Identify: %w", err)
	}
	return id, nil
}

func (c *Client) identify(ctx context.Context) (Identity, error) {
	deadline, err := c.begin(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer c.end()
	c.body = append(c.body[:0], `<?xml version="1.0" encoding="utf-8"?><Envelope xmlns="`+nsSOAP+`" xmlns:i="`+nsIdentity+
		`"><Header></Header><Body><i:Identify></i:Identify></Body></Envelope>`...)
	if err := c.ask(ctx, deadline, true, message{identify: true}); err != nil {
		return Identity{}, err
	}
	d := &c.xml
	if !d.is(nsIdentity, "IdentifyResponse") {
		return Identity{}, fmt.Errorf("%w: %.40s instead of IdentifyResponse", ErrBadReply, d.local)
	}
	in, err := d.instance()
	if err == nil {
		err = d.finish()
	}
	var id Identity
	id.ProtocolVersion, _ = in.Value("ProtocolVersion")
	id.ProductVendor, _ = in.Value("ProductVendor")
	id.ProductVersion, _ = in.Value("ProductVersion")
	return id, err
}

// Get reads one instance.
func (c *Client) Get(ctx context.Context, resourceURI string, keys ...Selector) (Instance, error) {
	in, err := c.get(ctx, resourceURI, keys)
	if err != nil {
		return Instance{}, fmt.Errorf("Get %s: %w", className(resourceURI), err)
	}
	return in, nil
}

func (c *Client) get(ctx context.Context, resourceURI string, keys []Selector) (Instance, error) {
	deadline, err := c.begin(ctx)
	if err != nil {
		return Instance{}, err
	}
	defer c.end()
	m := message{action: nsTransfer + "/Get"}
	if err := c.openEnvelope(&m, resourceURI, keys); err != nil {
		return Instance{}, err
	}
	c.closeEnvelope()
	if err := c.ask(ctx, deadline, true, m); err != nil {
		return Instance{}, err
	}
	in, err := c.xml.instance()
	if err == nil {
		err = c.xml.finish()
	}
	return in, err
}

// Bounds of an enumeration: no class of AMT has more than some hundred instances.
const (
	maxPulls     = 1000
	maxInstances = 20000
	maxReplies   = 16 // times MaxReply: bytes of all replies of one enumeration
)

// Enumerate reads all instances of a class: Enumerate, then Pull until the end of the sequence. The context's
// deadline, or DefaultTimeout, holds for the whole of it. A sequence without end is ErrTooLarge.
func (c *Client) Enumerate(ctx context.Context, resourceURI string) ([]Instance, error) {
	all, err := c.enumerate(ctx, resourceURI)
	if err != nil {
		return nil, fmt.Errorf("Enumerate %s: %w", className(resourceURI), err)
	}
	return all, nil
}

func (c *Client) enumerate(ctx context.Context, resourceURI string) ([]Instance, error) {
	deadline, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer c.end() // only now: AMT keeps one enumeration at a time
	m := message{action: nsEnumeration + "/Enumerate"}
	if err := c.openEnvelope(&m, resourceURI, nil); err != nil {
		return nil, err
	}
	c.body = append(c.body, `<Enumerate xmlns="`+nsEnumeration+`" />`...)
	c.closeEnvelope()
	if err := c.ask(ctx, deadline, true, m); err != nil {
		return nil, err
	}
	p, err := c.xml.page("EnumerateResponse", nil)
	if err != nil {
		return nil, err
	}
	all, size := p.instances, int64(0)
	for pulls := 0; !p.last; pulls++ {
		if pulls == maxPulls || size > maxReplies*c.maxReply {
			return nil, fmt.Errorf("%w: the enumeration does not end", ErrTooLarge)
		}
		if p.context == "" {
			return nil, fmt.Errorf("%w: an enumeration without context", ErrBadReply)
		}
		enumeration := p.context
		m := message{action: nsEnumeration + "/Pull"}
		if err := c.openEnvelope(&m, resourceURI, nil); err != nil {
			return nil, err
		}
		c.body = append(c.body, `<Pull xmlns="`+nsEnumeration+`"><EnumerationContext>`...)
		c.body = appendEscaped(c.body, enumeration)
		c.body = append(c.body, `</EnumerationContext><MaxElements>999</MaxElements><MaxCharacters>99999</MaxCharacters></Pull>`...)
		c.closeEnvelope()
		// A Pull moves the context on: one whose answer was lost would, sent again, skip instances.
		if err := c.ask(ctx, deadline, false, m); err != nil {
			return nil, err
		}
		size += int64(len(c.xml.doc))
		if p, err = c.xml.page("PullResponse", all); err != nil {
			return nil, err
		}
		if all = p.instances; p.context == "" { // not renewed: it stays valid (WS-Enumeration section 3.2)
			p.context = enumeration
		}
	}
	return all, nil
}

// Invoke calls an extrinsic method. The outputs come with ReturnValue among them; judging it is the caller's.
// The device executes it at most once: see the package comment. Another error than a Fault, ErrLogOn or one of a
// connection that was never made leaves open whether it has.
func (c *Client) Invoke(ctx context.Context, resourceURI, method string, in ...Param) (Instance, error) {
	out, err := c.invoke(ctx, resourceURI, method, in)
	if err != nil {
		return Instance{}, fmt.Errorf("%s.%s: %w", className(resourceURI), method, err)
	}
	return out, nil
}

func (c *Client) invoke(ctx context.Context, resourceURI, method string, in []Param) (Instance, error) {
	if ncNameLen(method) != len(method) || method == "" {
		return Instance{}, fmt.Errorf("%q is no method name", method)
	}
	deadline, err := c.begin(ctx)
	if err != nil {
		return Instance{}, err
	}
	defer c.end()
	m := message{action: resourceURI, method: method}
	if err := c.openEnvelope(&m, resourceURI, nil); err != nil {
		return Instance{}, err
	}
	b := append(append(c.body, "<r:"...), method...)
	b = append(b, `_INPUT xmlns:r="`...)
	b = append(appendEscaped(b, resourceURI), `">`...)
	for _, p := range in {
		if ncNameLen(p.Name) != len(p.Name) || p.Name == "" {
			return Instance{}, fmt.Errorf("%q is no parameter name", p.Name)
		}
		if !isXMLText(p.Value) {
			return Instance{}, fmt.Errorf("parameter %s holds a character that XML cannot carry", p.Name)
		}
		b = append(append(append(b, "<r:"...), p.Name...), '>')
		b = appendEscaped(b, p.Value)
		b = append(append(append(b, "</r:"...), p.Name...), '>')
	}
	b = append(append(append(b, "</r:"...), method...), "_INPUT>"...)
	c.body = b
	c.closeEnvelope()
	if err := c.ask(ctx, deadline, false, m); err != nil {
		return Instance{}, err
	}
	d := &c.xml
	if name, ok := strings.CutSuffix(d.local, "_OUTPUT"); !ok || name != method {
		return Instance{}, fmt.Errorf("%w: %.80s instead of %s_OUTPUT", ErrBadReply, d.local, method)
	}
	out, err := d.instance()
	if err == nil {
		err = d.finish()
	}
	return out, err
}

// className is the last part of a resource URI, for errors.
func className(resourceURI string) string {
	return printable(resourceURI[strings.LastIndexByte(resourceURI, '/')+1:])
}

// begin waits for the call's turn and gives its deadline.
func (c *Client) begin(ctx context.Context) (time.Time, error) {
	select {
	case <-c.turn:
	default:
		select {
		case <-c.turn:
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		c.turn <- struct{}{}
		return time.Time{}, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(DefaultTimeout)
	}
	return deadline, nil
}

func (c *Client) end() {
	c.xml.release()
	c.turn <- struct{}{}
}

// message is what the answer is compared with.
type message struct {
	action   string // without the method
	method   string // of an Invoke: the action ends in "/" and this
	id       uint64
	identify bool // Identify: neither request nor answer have addressing headers
}

// openEnvelope begins the envelope in c.body, up to the body's content. Its form is the one that the commonest clients send
// and real AMT accepts.
func (c *Client) openEnvelope(m *message, resourceURI string, keys []Selector) error {
	if resourceURI == "" || !isXMLText(resourceURI) {
		return fmt.Errorf("%q is no resource URI", resourceURI)
	}
	c.lastID++
	m.id = c.lastID
	b := append(c.body[:0], `<?xml version="1.0" encoding="utf-8"?>`+
		`<Envelope xmlns:xsi="`+nsInstance+`" xmlns:xsd="http://www.w3.org/2001/XMLSchema"`+
		` xmlns:a="`+nsAddressing+`" xmlns:w="`+nsWSMan+`" xmlns="`+nsSOAP+`"><Header><a:Action>`...)
	b = appendEscaped(b, m.action)
	if m.method != "" {
		b = append(append(b, '/'), m.method...)
	}
	b = append(b, `</a:Action><a:To>`...)
	b = appendEscaped(b, c.path)
	b = append(b, `</a:To><w:ResourceURI>`...)
	b = appendEscaped(b, resourceURI)
	b = append(b, `</w:ResourceURI><a:MessageID>`...)
	b = strconv.AppendUint(b, m.id, 10)
	b = append(b, `</a:MessageID><a:ReplyTo><a:Address>`+nsAddressing+`/role/anonymous</a:Address></a:ReplyTo>`+
		`<w:OperationTimeout>PT60S</w:OperationTimeout>`...)
	if len(keys) > 0 {
		b = append(b, "<w:SelectorSet>"...)
		for _, k := range keys {
			if !isXMLText(k.Name) || !isXMLText(k.Value) {
				return fmt.Errorf("selector %q holds a character that XML cannot carry", k.Name)
			}
			b = append(b, `<w:Selector Name="`...)
			b = append(appendEscaped(b, k.Name), `">`...)
			b = append(appendEscaped(b, k.Value), `</w:Selector>`...)
		}
		b = append(b, "</w:SelectorSet>"...)
	}
	c.body = append(b, "</Header><Body>"...)
	return nil
}

func (c *Client) closeEnvelope() { c.body = append(c.body, "</Body></Envelope>"...) }

// appendEscaped writes s as element text or as the value of an attribute in double quotes.
func appendEscaped(b []byte, s string) []byte {
	begin := 0
	for i := 0; i < len(s); i++ {
		var as string
		switch s[i] {
		case '<':
			as = "&lt;"
		case '>':
			as = "&gt;"
		case '&':
			as = "&amp;"
		case '"':
			as = "&quot;"
		case '\r':
			as = "&#13;"
		case '\n':
			as = "&#10;"
		case '\t':
			as = "&#9;"
		default:
			continue
		}
		b = append(append(b, s[begin:i]...), as...)
		begin = i + 1
	}
	return append(b, s[begin:]...)
}

func isXMLText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !isXMLChar(r) {
			return false
		}
	}
	return true
}

// ask sends c.body and reads the answer up to the start tag of what its Body holds, which the caller then reads from
// c.xml. A fault is an error.
func (c *Client) ask(ctx context.Context, deadline time.Time, repeatable bool, m message) error {
	r, err := c.post(ctx, deadline, repeatable)
	if err != nil {
		return err
	}
	d := &c.xml
	text := string(r.body)
	if r.status != 200 {
		// SOAP faults come with 400 and 500; but so do pages of the device or of something on the way.
		var fault *Fault
		fault, err = d.faultReply(text, m, r.status)
		switch {
		case err == nil:
			if fault.Subcode != "" {
				c.wasLetIn()
			}
			return fault
		case !errors.Is(err, errUnrelated):
			return httpFault(r.status, r.phrase, text)
		}
	} else {
		if err = d.openReply(text, m, r.status); err == nil {
			c.wasLetIn()
		}
	}
	if errors.Is(err, ErrBadReply) { // then the next answer may not be the next request's either
		c.drop()
	}
	return err
}

// wasLetIn notes that an answer of WS-Management came; if the request had credentials, the device has taken them.
func (c *Client) wasLetIn() {
	if c.letIn || !c.auth.ready {
		return
	}
	c.letIn = true
	if l := c.endpoint.LogOns; l != nil && l.LetIn != nil {
		l.LetIn()
	}
}

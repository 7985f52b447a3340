package checkin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Path is where reports are posted: one report, media type application/jose. The answer is 200 with a reply of the
// same type, 202 with a relay's own "deferred", or an RFC 9457 problem.
const Path = "/checkin/v1"

const (
	mediaJOSE    = "application/jose"
	mediaProblem = "application/problem+json"
	problemBase  = "urn:samehost:problem:"
	maxReply     = 256 << 10
	maxAfter     = 24 * time.Hour   // of what Retry-After says; longer is a mistake, and nobody waits for it
	callTimeout  = 30 * time.Second // where the context has no deadline
	connTimeout  = 10 * time.Second // dial, and separately the TLS handshake
)

// problem is an RFC 9457 problem.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// text is what a problem says, in one line.
func (p problem) text() string {
	if p.Detail == "" || p.Title == "" {
		return p.Title + p.Detail
	}
	return p.Title + ": " + p.Detail
}

type deferral struct {
	Status ReplyStatus `json:"status"`
	Report Digest      `json:"report"`
	Late   *wireLate   `json:"late,omitempty"`
}

// ClientOptions say where the higher system is and how its certificate is judged: by RootCAs, or by PinSPKI; anew on
// every connection, also on one that resumes a TLS session.
type ClientOptions struct {
	URL     string // https://host:port, an optional path goes before Path
	RootCAs *x509.CertPool
	PinSPKI []byte // SHA-256 of a SubjectPublicKeyInfo in the served chain, 32 bytes

	// Now judges the end of a certificate's validity: the later of the clock and the last signed reply, since a PC
	// after repair often has a wrong clock. Nil: time.Now. A certificate's beginning is never judged against it:
	// that its trusted issuer signed it proves that the time is not before it.
	Now func() time.Time

	Manager Fingerprint // replies by any other key are refused

	// Certificate is what this side shows where the higher system asks for a certificate, as a manager does that wants
	// to know its relays: called for each connection; nil, or a nil certificate: none. With it no TLS session is resumed:
	// a resumed one would show the certificate of the first.
	Certificate func() (*tls.Certificate, error)
}

// Client is the HigherSystem at the other end of HTTPS (TLS 1.3). A connection stays open for a minute, for what follows at
// once, or until Close; the TLS session is kept beyond that, in memory, and resumed.
type Client struct {
	url     string
	manager Fingerprint
	now     func() time.Time
	http    *http.Client
}

// NewClient checks the options and makes a Client; it does not connect. HTTPS_PROXY is honoured.
func NewClient(o ClientOptions) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.User != nil { // the text may hold a password: it is not repeated
		return nil, errors.New("higher system: want https://HOST:PORT, without user and password")
	}
	if u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("higher system %q: want https://HOST:PORT", o.URL)
	}
	if (o.RootCAs == nil) == (o.PinSPKI == nil) {
		return nil, errors.New("higher system: set either a CA file or a pin to judge its certificate by")
	}
	if o.PinSPKI != nil && len(o.PinSPKI) != sha256.Size {
		return nil, fmt.Errorf("higher system: a pin is %d bytes, not %d", sha256.Size, len(o.PinSPKI))
	}
	if !o.Manager.valid() {
		return nil, fmt.Errorf("higher system: %q is no fingerprint of a manager's key", o.Manager)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	dialer := &net.Dialer{Timeout: connTimeout}
	host, _, _ := strings.Cut(u.Hostname(), "%") // a zone is this machine's word for one of its interfaces, in no certificate
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection judges, by the option's own clock
		// Called for a resumed session too, with the certificates that were shown when it began: what has ended since, or
		// is not trusted any more, ends it.
		VerifyConnection: func(s tls.ConnectionState) error {
			name := s.ServerName
			if name == "" { // it is what was sent as SNI, and an IP address never is (RFC 6066, 3)
				name = host
			}
			return o.judge(name, s.PeerCertificates)
		},
	}
	if o.Certificate == nil {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // of one higher system; gone with the process
	} else {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := o.Certificate()
			if c == nil && err == nil {
				c = &tls.Certificate{} // none is shown
			}
			return c, err
		}
	}
	return &Client{
		url:     strings.TrimSuffix(u.String(), "/") + Path,
		manager: o.Manager,
		now:     o.Now,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            dialer.DialContext,
				TLSHandshakeTimeout:    connTimeout,
				TLSClientConfig:        config,
				DisableCompression:     true,
				MaxIdleConns:           1,
				IdleConnTimeout:        time.Minute,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// certError is a certificate that does not hold, and what to do; it tells a wrong set-up from a network that is down.
type certError struct{ reason, remedy string }

func (e *certError) Error() string {
	return "its certificate is not trusted: " + e.reason + "; " + e.remedy
}

// checkTrust is the remedy where the certificate itself is in doubt.
const checkTrust = "check ca_file or ca_pin, and this PC's clock"

// Is makes errors.Is(err, ErrUntrusted) hold.
func (e *certError) Is(target error) bool { return target == ErrUntrusted }

func (o ClientOptions) judge(name string, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &certError{"none was shown", checkTrust}
	}
	opts := x509.VerifyOptions{Roots: o.RootCAs, Intermediates: x509.NewCertPool(), CurrentTime: o.Now()}
	if o.PinSPKI != nil {
		opts.Roots = x509.NewCertPool()
		found := false
		for _, c := range chain {
			if sum := sha256.Sum256(c.RawSubjectPublicKeyInfo); bytes.Equal(sum[:], o.PinSPKI) {
				opts.Roots.AddCert(c)
				found = true
			}
		}
		if !found {
			return &certError{"no key in its chain is the pinned one", checkTrust}
		}
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	for _, c := range chain {
		if opts.CurrentTime.Before(c.NotBefore) {
			opts.CurrentTime = c.NotBefore
		}
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return &certError{printable(err.Error(), maxText), checkTrust}
	}
	// The name last: its remedy is no advice about a certificate of somebody else.
	if err := chain[0].VerifyHostname(name); err != nil {
		remedy := fmt.Sprintf("add %q to names in manager.toml", name)
		if len(chain[0].DNSNames)+len(chain[0].IPAddresses) > 0 {
			remedy = "use one of these names in higher_system, or " + remedy
		}
		return &certError{fmt.Sprintf("it is for %s, not for %s", namesOf(chain[0]), name), remedy}
	}
	return nil
}

// maxNamesShown is how many of a certificate's names an error shows.
const maxNamesShown = 10

// namesOf lists what a certificate is for.
func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for i, n := range names {
		names[i] = printable(n, maxName)
	}
	switch more := len(names) - maxNamesShown; {
	case len(names) == 0:
		return "no name"
	case more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamesShown], ", "), more)
	}
	return strings.Join(names, ", ")
}

// CheckIn implements HigherSystem. A reply is returned only if the manager's key signed it for this report; a
// deferred one, which a relay gives by itself, carries nothing but its status.
func (c *Client) CheckIn(ctx context.Context, r SignedReport) (Reply, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(r.JWS))
	if err != nil {
		return Reply{}, fmt.Errorf("%w: %v", ErrRefused, err)
	}
	req.Header.Set("Content-Type", mediaJOSE)
	res, err := c.http.Do(req)
	if err != nil {
		return Reply{}, c.unavailable(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return Reply{}, c.unavailable(err)
	}
	if len(body) > maxReply {
		return Reply{}, c.unavailable(fmt.Errorf("an answer of more than %d bytes", maxReply))
	}
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode == http.StatusServiceUnavailable || res.StatusCode == http.StatusTooManyRequests {
		if after, ok := retryAfter(res.Header, c.now()); ok { // a proxy or a load balancer says it too
			var p problem
			if media != mediaProblem || json.Unmarshal(body, &p) != nil {
				p = problem{}
			}
			return Reply{}, &Busy{After: after, Reason: strings.TrimSpace(fmt.Sprintf("%s: HTTP %d %s", c.url, res.StatusCode, printable(p.Detail, maxText)))}
		}
	}
	switch {
	case res.StatusCode == http.StatusOK && media == mediaJOSE:
		reply, err := VerifyReply(string(body), c.manager, r.Digest())
		if err != nil {
			return Reply{}, c.unavailable(err)
		}
		return reply, nil
	case res.StatusCode == http.StatusAccepted:
		var d deferral
		if err := json.Unmarshal(body, &d); err != nil || d.Status != Deferred || d.Report != r.Digest() {
			return Reply{}, c.unavailable(errors.New("an answer that is neither a reply nor deferred"))
		}
		return Reply{Report: d.Report, Status: Deferred, Late: readLate(d.Late, c.manager)}, nil
	case media == mediaProblem:
		var p problem
		if err := json.Unmarshal(body, &p); err != nil {
			return Reply{}, c.unavailable(fmt.Errorf("HTTP %d", res.StatusCode))
		}
		if code, ok := strings.CutPrefix(p.Type, problemBase); ok && res.StatusCode >= 400 && res.StatusCode < 500 {
			return Reply{}, &Refusal{RefusalCode(printable(code, maxName)), printable(p.Detail, maxText)}
		}
		return Reply{}, c.unavailable(fmt.Errorf("HTTP %d: %s", res.StatusCode, printable(p.text(), maxText)))
	}
	return Reply{}, c.unavailable(fmt.Errorf("HTTP %d with %q: is this really a samehost manager or relay?", res.StatusCode, printable(media, maxName)))
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3): seconds, or a date, which is compared with the answer's own
// Date where it has one, since this side's clock may be years off. At most maxAfter; what is past is 0. It reports false
// where the header is missing or says neither.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text != "" && strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseUint(text, 10, 64)
		if err != nil || seconds > uint64(maxAfter/time.Second) { // digits only: it is too large a number
			return maxAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxAfter), true
}

// Close closes idle connections; the next check-in opens another, which resumes the TLS session.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) unavailable(err error) error {
	// The URL is stated once; url.Error would repeat it with the method.
	var u *url.Error
	var cert *certError
	switch {
	case errors.As(err, &cert):
		err = cert
	case errors.As(err, &u):
		err = u.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		err = fmt.Errorf("%w; see that higher_system is right, and that the manager or relay there runs and can be reached", err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, c.url, err)
}

func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// A report of more than smallReport bytes needs one of largeReports places while it is read and answered, so that thousands of
// connections that each send half of one cannot take the memory. Honest PCs stay below by far.
const (
	smallReport  = 8 << 10
	largeReports = 256
)

// Handler serves a HigherSystem at Path. A Busy is answered with 503 and Retry-After, and is no error. Any other error of the
// HigherSystem that is no refusal is logged, within the bounds of Quiet, and answered with 503: the client sends the
// report again.
func Handler(h HigherSystem, log *slog.Logger) http.Handler {
	quiet := NewQuiet(log)
	large := make(chan struct{}, largeReports)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if req.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			sendProblem(w, http.StatusMethodNotAllowed, problem{Type: "about:blank", Title: "Reports are posted"})
			return
		}
		if media, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")); media != mediaJOSE {
			sendProblem(w, http.StatusUnsupportedMediaType, problem{Type: "about:blank", Title: "A report is " + mediaJOSE})
			return
		}
		if req.ContentLength < 0 || req.ContentLength > smallReport {
			select {
			case large <- struct{}{}:
				defer func() { <-large }()
			default:
				sendBusy(w, &Busy{After: 5*time.Second + rand.N(10*time.Second), Reason: "too many large reports at once"})
				return
			}
		}
		body, err := readReport(w, req)
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			refuse(w, http.StatusRequestEntityTooLarge, &Refusal{Malformed, fmt.Sprintf("a report has at most %d bytes", MaxReport)})
			return
		case err != nil:
			sendProblem(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "The report was cut short"})
			return
		}
		report := SignedReport{JWS: body}
		reply, err := h.CheckIn(req.Context(), report)
		var refusal *Refusal
		var busy *Busy
		switch {
		case err == nil && reply.Status == Deferred:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusAccepted)
			json.NewEncoder(w).Encode(deferral{Deferred, report.Digest(), writeLate(reply.Late)})
		case err == nil:
			w.Header().Set("Content-Type", mediaJOSE)
			io.WriteString(w, reply.Raw)
		case errors.As(err, &refusal):
			status := http.StatusForbidden
			if refusal.Code == Malformed {
				status = http.StatusBadRequest
			}
			refuse(w, status, refusal)
		case errors.As(err, &busy):
			sendBusy(w, busy)
		default:
			if req.Context().Err() == nil {
				quiet.Error("check-in failed", err)
			}
			sendProblem(w, http.StatusServiceUnavailable, problem{Type: "about:blank", Title: "Try again later"})
		}
	})
}

// readReport reads the body into no more memory than it takes.
func readReport(w http.ResponseWriter, req *http.Request) (string, error) {
	limited := http.MaxBytesReader(w, req.Body, MaxReport)
	if n := req.ContentLength; n >= 0 && n <= MaxReport {
		b := make([]byte, n)
		_, err := io.ReadFull(limited, b)
		return string(b), err
	}
	b, err := io.ReadAll(limited)
	return string(b), err
}

// sendBusy rounds up: who comes on time must not come early.
func sendBusy(w http.ResponseWriter, b *Busy) {
	w.Header().Set("Retry-After", strconv.FormatInt(int64((max(b.After, 0)+time.Second-1)/time.Second), 10))
	sendProblem(w, http.StatusServiceUnavailable, problem{Type: "about:blank", Title: "Busy", Detail: b.Reason})
}

func refuse(w http.ResponseWriter, status int, r *Refusal) {
	sendProblem(w, status, problem{problemBase + string(r.Code), "The report is refused", status, r.Detail})
}

func sendProblem(w http.ResponseWriter, status int, p problem) {
	p.Status = status
	w.Header().Set("Content-Type", mediaProblem)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(p)
}

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"samehost/internal/checkin"
)

const (
	dialTimeout = 10 * time.Second // and separately the TLS handshake: as the real client
	callTimeout = 30 * time.Second
	maxAnswer   = 256 << 10
)

// How connections are used.
const (
	kept    = "kept"    // for one check-in after the other
	resumed = "resumed" // one per check-in, by the session ticket of the one before
	fresh   = "new"     // one per check-in, with a full handshake
)

// A higher is one higher system: what is the same for all connections to it.
type higher struct {
	address string // HOST:PORT
	head    string // of every request, up to the value of Content-Length
	tls     *tls.Config
}

func newHigher(text, caFile string) (*higher, error) {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("--higher-system: want https://HOST:PORT")
	}
	h := &higher{address: u.Host, tls: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}}
	if u.Port() == "" {
		h.address = net.JoinHostPort(u.Hostname(), "443")
	}
	h.head = "POST " + strings.TrimSuffix(u.EscapedPath(), "/") + checkin.Path + " HTTP/1.1\r\nHost: " + u.Host +
		"\r\nUser-Agent: fleetsim\r\nContent-Type: application/jose\r\nContent-Length: "
	if caFile == "" {
		h.tls.InsecureSkipVerify = true // a reply proves itself by the manager's key
		return h, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	h.tls.RootCAs = x509.NewCertPool()
	if !h.tls.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file %s: no certificate in PEM", caFile)
	}
	return h, nil
}

// counts of all connections together.
type traffic struct{ connections, handshakesResumed, sent, received atomic.Int64 }

// A connection posts reports to one of the higher systems, a single one at a time. It is HTTP/1.1 without what net/http
// does besides: the load is to be in the manager, not here.
type connection struct {
	systems []*higher
	at      int // which one
	use     string
	traffic *traffic
	configs []*tls.Config // by system; with the session ticket of the connection before

	conn *tls.Conn
	r    *bufio.Reader
	buf  []byte
}

// An answer is what came back.
type answer struct {
	status     int
	media      string
	retryAfter time.Duration // 0: none told
	body       []byte
}

// A failure is an attempt that brought no answer, and its kind for the table.
type failure struct {
	kind string
	err  error
}

func (f *failure) Error() string { return f.kind + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func (c *connection) post(ctx context.Context, jws string) (answer, *failure) {
	reused := c.conn != nil
	a, began, f := c.try(ctx, jws)
	if f != nil && reused && !began && ctx.Err() == nil { // closed while it was idle: no fault, and net/http does the same
		a, _, f = c.try(ctx, jws)
	}
	if f != nil {
		c.close()
		if len(c.systems) > 1 {
			c.at = (c.at + 1) % len(c.systems)
		}
	}
	return a, f
}

// try is one attempt; began says that an answer had begun to come.
func (c *connection) try(ctx context.Context, jws string) (_ answer, began bool, _ *failure) {
	if c.conn == nil {
		if f := c.dial(ctx); f != nil {
			return answer{}, false, f
		}
	}
	conn := c.conn // which may be another one, or none, when the context ends
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.conn.SetDeadline(time.Now().Add(callTimeout))
	h := c.systems[c.at]
	c.buf = append(c.buf[:0], h.head...)
	c.buf = strconv.AppendInt(c.buf, int64(len(jws)), 10)
	if c.use != kept {
		c.buf = append(c.buf, "\r\nConnection: close"...)
	}
	c.buf = append(append(c.buf, "\r\n\r\n"...), jws...)
	c.traffic.sent.Add(int64(len(c.buf)))
	if _, err := c.conn.Write(c.buf); err != nil {
		return answer{}, false, c.failed("send", err)
	}
	if _, err := c.r.Peek(1); err != nil {
		return answer{}, false, c.failed("receive", err)
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return answer{}, true, c.failed("receive", err)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	res.Body.Close()
	if err != nil {
		return answer{}, true, c.failed("receive", err)
	}
	c.traffic.received.Add(int64(len(body)))
	if res.Close || c.use != kept {
		c.close()
	}
	a := answer{status: res.StatusCode, body: body}
	a.media, _, _ = strings.Cut(res.Header.Get("Content-Type"), ";")
	if s, err := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16); err == nil {
		a.retryAfter = time.Duration(s) * time.Second
	}
	return a, true, nil
}

func (c *connection) dial(ctx context.Context) *failure {
	h := c.systems[c.at]
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	plain, err := (&net.Dialer{}).DialContext(dialing, "tcp", h.address)
	if err != nil {
		return c.failed("connect", err)
	}
	if c.configs[c.at] == nil {
		c.configs[c.at] = h.tls.Clone()
		if c.use == resumed {
			c.configs[c.at].ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
	}
	conn := tls.Client(plain, c.configs[c.at])
	if err := conn.HandshakeContext(dialing); err != nil {
		plain.Close()
		return c.failed("tls", err)
	}
	c.traffic.connections.Add(1)
	if conn.ConnectionState().DidResume {
		c.traffic.handshakesResumed.Add(1)
	}
	c.conn = conn
	if c.r == nil {
		c.r = bufio.NewReaderSize(conn, 2<<10)
	} else {
		c.r.Reset(conn)
	}
	return nil
}

// failed closes the connection and names what went wrong.
func (c *connection) failed(kind string, err error) *failure {
	c.close()
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		kind = "timeout"
	}
	return &failure{kind, err}
}

func (c *connection) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

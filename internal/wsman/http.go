package wsman

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Bounds of what a device may send beside the body.
const (
	maxHead      = 16 << 10 // bytes of status line and header, or of a trailer; the captured ones have 400
	maxInterim   = 8        // 1xx answers before the real one
	maxChunkLine = 1 << 10  // a chunk's size with its extensions
	readBuffer   = 4 << 10
	keepBuffer   = 64 << 10 // a larger buffer is given back after the call that needed it
)

// longAgo as a deadline makes every read and write return at once.
var longAgo = time.Unix(1, 0)

// conn is one connection. It is used by one call at a time.
type conn struct {
	net.Conn
	plain    bool // no TLS
	raw      syscall.RawConn
	buf      []byte
	r, w     int  // buf[r:w] was received and not yet read
	served   bool // a whole exchange has been done on it, so it may since have been closed by the device
	received bool // something came back in this exchange
	closes   int  // Client.closes when it was made
}

// reply is one HTTP answer. The body is valid until the next exchange.
type reply struct {
	status     int
	phrase     string
	body       []byte
	challenges []string // WWW-Authenticate values of a 401
	nextNonce  string
	closes     bool // the connection is not to be used again
}

// post sends the request body that stands in c.body, logs on where that is asked for, and gives the answer, whatever its
// status but 401.
//
// The first request of a client goes out whole and without credentials: nobody can answer a challenge that was not made.
// A device that wants a log-on answers 401 before it looks at the body; one that wants none has executed the request, and
// this is the answer. A 401 says that nothing was executed, so what it refuses may be sent again, whatever it is. It is
// sent again once: either it carried no credentials or a nonce that was used before, and the fresh challenge is
// answered. A 401 to that answer is final, since each try counts towards the device's lock-out.
func (c *Client) post(ctx context.Context, deadline time.Time, repeatable bool) (reply, error) {
	l := c.endpoint.LogOns
	refused := false // credentials, by this call
	for fresh := false; ; fresh = true {
		r, err := c.send(ctx, deadline, repeatable)
		if err != nil {
			return reply{}, err
		}
		if l != nil && r.status == 401 && c.auth.ready {
			refused = true
			l.Left--
		}
		if r.status != 401 {
			if refused {
				l.Left++ // only the nonce had run out
			}
			if r.nextNonce != "" && c.auth.ready {
				c.auth.renew(r.nextNonce)
			}
			return r, nil
		}
		ch, ok := chooseChallenge(r.challenges)
		if fresh || !ok {
			c.auth.forget()
		}
		if !ok {
			return reply{}, &Fault{HTTPStatus: 401, Reason: "the device offers no digest log-on (MD5 or SHA-256 with qop auth)"}
		}
		if fresh {
			return reply{}, ErrLogOn
		}
		c.auth.accept(ch)
	}
}

// send does one exchange on the connection that is open, or on a new one.
//
// A connection that has served before may have been closed by the device in the meantime. It is looked at first, and
// given up if anything arrived on it. Should it fail all the same before a byte came back, the request is sent once more on
// a new connection if it is repeatable (it only reads), or if no byte of it was sent. An Invoke that may have reached the
// device is never repeated: its error goes to the caller, who can look what became of it.
func (c *Client) send(ctx context.Context, deadline time.Time, repeatable bool) (reply, error) {
	for {
		k, err := c.connect(ctx, deadline)
		if err != nil {
			return reply{}, c.because(ctx, err)
		}
		reused := k.served
		l := c.endpoint.LogOns
		risky := l != nil && c.auth.ready && !c.letIn
		if risky && l.Left <= 0 {
			return reply{}, ErrLogOnsSpent
		}
		r, sent, err := c.exchange(ctx, k, deadline)
		if risky && err != nil && sent > 0 {
			l.Left--
		}
		if err == nil {
			k.served, c.answered = true, true
			if r.closes {
				c.drop()
			}
			return r, nil
		}
		c.drop()
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return reply{}, c.because(ctx, err)
		}
		if reused && !k.received && (repeatable || sent == 0) {
			continue
		}
		if !c.answered && !k.received && k.plain {
			probing, cancel := context.WithDeadline(ctx, deadline)
			secure := c.probe(probing, speaksTLS)
			cancel()
			if secure {
				return reply{}, ErrTLSOnly
			}
		}
		return reply{}, c.because(ctx, err)
	}
}

// because makes the error say what the caller can branch on: the context's error where the context or the deadline ended
// the call.
func (c *Client) because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if t, ok := errors.AsType[net.Error](err); errors.Is(err, os.ErrDeadlineExceeded) || ok && t.Timeout() {
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	return err
}

// connect gives the open connection, if it is still good, or a new one.
func (c *Client) connect(ctx context.Context, deadline time.Time) (*conn, error) {
	c.mu.Lock()
	closes := c.closes
	c.mu.Unlock()
	if c.conn != nil && (c.conn.closes != closes || readable(c.conn.raw)) {
		c.drop()
	}
	if c.conn != nil {
		return c.conn, nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tcp, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	k := &conn{Conn: tcp, plain: c.tls == nil, closes: closes, buf: c.readBuf}
	if sc, ok := tcp.(syscall.Conn); ok {
		k.raw, _ = sc.SyscallConn()
	}
	if c.tls != nil {
		t := tls.Client(tcp, c.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			tcp.Close()
			return nil, c.tlsError(ctx, err)
		}
		k.Conn = t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closes != closes {
		tcp.Close()
		return nil, net.ErrClosed
	}
	c.conn, c.open = k, tcp
	c.dials++
	return k, nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.endpoint.Dial != nil {
		return c.endpoint.Dial(ctx, "tcp", c.address)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", c.address)
}

// drop closes the connection. The socket is closed without a TLS goodbye, which could block.
func (c *Client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.readBuf = c.conn.buf
		if cap(c.readBuf) > keepBuffer {
			c.readBuf = nil
		}
		c.conn = nil
	}
	if c.open != nil {
		c.open.Close()
		c.open = nil
	}
}

// tlsError tells apart why a handshake failed.
func (c *Client) tlsError(ctx context.Context, err error) error {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%w (%v)", ErrNotTLS, err)
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: %w", ErrCert, e.Err)
	}
	if op, ok := errors.AsType[*net.OpError](err); !c.answered && (ok && op.Op == "read" && !op.Timeout() || errors.Is(err, io.EOF)) {
		if c.probe(ctx, speaksHTTP) {
			return ErrNotTLS
		}
	}
	return fmt.Errorf("TLS handshake: %w", err)
}

// probeTimeout bounds a probe; an old firmware takes a second for its RSA.
const probeTimeout = 2 * time.Second

// probe asks a device that hung up without a word, which some do when they are spoken to in the wrong protocol, whether it
// speaks the other one. It takes a connection of its own, says nothing secret and believes nothing.
func (c *Client) probe(ctx context.Context, speaks func(context.Context, net.Conn) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return false
	}
	defer nc.Close()
	return speaks(ctx, nc)
}

func speaksTLS(ctx context.Context, nc net.Conn) bool {
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, CipherSuites: legacySuites()}
	err := tls.Client(nc, config).HandshakeContext(ctx)
	op, ok := errors.AsType[*net.OpError](err)
	return err == nil || ok && op.Op == "remote error" // crypto/tls's word for an alert that was received
}

func speaksHTTP(ctx context.Context, nc net.Conn) bool {
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(longAgo) })
	defer stop()
	var start [5]byte
	if _, err := io.WriteString(nc, "HEAD / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"); err != nil {
		return false
	}
	_, err := io.ReadFull(nc, start[:])
	return err == nil && string(start[:]) == "HTTP/"
}

// exchange writes the request and reads the answer. sent is how many bytes of the request went out at least.
func (c *Client) exchange(ctx context.Context, k *conn, deadline time.Time) (r reply, sent int, err error) {
	k.received = false
	if err := k.SetDeadline(deadline); err != nil {
		return reply{}, 0, err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { k.SetDeadline(longAgo) })
		defer func() {
			if !stop() { // its deadline may be set at any moment
				r.closes = true
			}
		}()
	}
	c.appendRequest()
	sent, err = k.Write(c.out)
	if err != nil && (sent == 0 || errors.Is(err, os.ErrDeadlineExceeded)) {
		return reply{}, sent, err
	}
	writeErr := err // a device may answer 401 and hang up before it has read everything: see whether an answer came
	r, err = k.readReply(c.maxReply, c.replyBuf[:0])
	c.replyBuf = r.body[:0]
	if cap(c.replyBuf) > keepBuffer {
		c.replyBuf = nil
	}
	if writeErr != nil {
		if err != nil {
			err = writeErr
		}
		r.closes = true
	}
	return r, sent, err
}

// appendRequest builds the request in c.out: header and body in one piece, so that they travel in one segment if they can.
func (c *Client) appendRequest() {
	b := append(c.out[:0], c.head...)
	if c.auth.ready {
		b = c.auth.appendHeader(b, "POST", c.path)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(c.body)), 10)
	b = append(b, "\r\n\r\n"...)
	c.out = append(b, c.body...)
}

// fill reads more into the buffer, which must have room or be able to get it.
func (k *conn) fill() error {
	if k.r == k.w {
		k.r, k.w = 0, 0
	}
	if k.buf == nil {
		k.buf = make([]byte, readBuffer)
	}
	if k.w == len(k.buf) {
		if k.r > 0 {
			k.w = copy(k.buf, k.buf[k.r:k.w])
			k.r = 0
		} else {
			k.buf = slices.Grow(k.buf, len(k.buf))
			k.buf = k.buf[:cap(k.buf)]
		}
	}
	return k.read(k.buf[k.w:], &k.w)
}

// read reads at least one byte into p and adds the number to *n.
func (k *conn) read(p []byte, n *int) error {
	for range 100 { // a Read may return nothing; no Conn does so for ever
		m, err := k.Conn.Read(p)
		if m > 0 {
			k.received = true
			*n += m
			return nil
		}
		if err == io.EOF {
			if !k.received {
				return fmt.Errorf("the device closed the connection without an answer: %w", io.ErrUnexpectedEOF)
			}
			return fmt.Errorf("the device closed the connection in the middle of its answer: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// block reads lines up to and with the empty one (a header or a trailer) and gives all of them, continued lines joined
// (RFC 9112 section 5.2). The result lies in the buffer and is valid until the next read.
func (k *conn) block() ([]byte, error) {
	for {
		if n := blockLen(k.buf[k.r:k.w]); n > 0 {
			b := k.buf[k.r : k.r+n]
			k.r += n
			for i := 1; i < len(b); i++ {
				if b[i-1] == '\n' && (b[i] == ' ' || b[i] == '\t') {
					b[i-1] = ' '
					if i > 1 && b[i-2] == '\r' {
						b[i-2] = ' '
					}
				}
			}
			return b, nil
		}
		if k.w-k.r >= maxHead {
			return nil, fmt.Errorf("%w: its header exceeds %d bytes", ErrTooLarge, maxHead)
		}
		if err := k.fill(); err != nil {
			return nil, err
		}
	}
}

// blockLen is the length of the lines up to and with the first empty one, or 0 if there is none yet.
func blockLen(b []byte) int {
	for n := 0; ; {
		i := bytes.IndexByte(b[n:], '\n')
		switch {
		case i < 0:
			return 0
		case i == 0 || i == 1 && b[n] == '\r':
			return n + i + 1
		}
		n += i + 1
	}
}

// line reads one line of at most limit bytes, without its end.
func (k *conn) line(limit int) ([]byte, error) {
	for {
		if i := bytes.IndexByte(k.buf[k.r:k.w], '\n'); i >= 0 {
			b := k.buf[k.r : k.r+i]
			k.r += i + 1
			return bytes.TrimSuffix(b, []byte{'\r'}), nil
		}
		if k.w-k.r >= limit {
			return nil, fmt.Errorf("%w: a line exceeds %d bytes", ErrBadReply, limit)
		}
		if err := k.fill(); err != nil {
			return nil, err
		}
	}
}

// framing is what the header says about the body.
type framing struct {
	length  int64 // -1: not told
	chunked bool
	oldHTTP bool // 1.0
	keep    bool // Connection: keep-alive
	close   bool // Connection: close
}

// readReply reads one answer; the body is appended to body.
func (k *conn) readReply(limit int64, body []byte) (reply, error) {
	for range maxInterim {
		r, f, err := k.readHead()
		if err != nil {
			return reply{}, err
		}
		if r.status == 101 {
			return reply{}, fmt.Errorf("%w: HTTP 101 without being asked", ErrBadReply)
		}
		if r.status < 200 {
			continue
		}
		r.closes = f.close || f.oldHTTP && !f.keep
		if r.status == 401 && r.closes {
			return r, nil // its page says nothing that the status does not say; the connection ends here anyway
		}
		if r.body, err = k.readBody(&r, f, limit, body); err != nil {
			return reply{}, err
		}
		if k.r != k.w { // more than was asked for: the next answer could be taken for another request's
			r.closes = true
		}
		return r, nil
	}
	return reply{}, fmt.Errorf("%w: interim HTTP answers and no real one", ErrBadReply)
}

// readHead reads status line and header.
func (k *conn) readHead() (r reply, f framing, err error) {
	const magic = "HTTP/" // what greets with anything else may never send an empty line
	for k.w-k.r < len(magic) {
		if err := k.fill(); err != nil {
			return r, f, err
		}
		if k.plain && k.buf[k.r] == 0x15 { // a TLS alert record (RFC 8446 section 5.1)
			return r, f, ErrTLSOnly
		}
		if n := min(k.w-k.r, len(magic)); string(k.buf[k.r:k.r+n]) != magic[:n] {
			return r, f, fmt.Errorf("%w: not HTTP", ErrBadReply)
		}
	}
	block, err := k.block()
	if err != nil {
		return r, f, err
	}
	f.length = -1
	line, rest, _ := bytes.Cut(block, []byte{'\n'})
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if err := r.statusLine(line, &f); err != nil {
		return r, f, err
	}
	for {
		line, rest, _ = bytes.Cut(rest, []byte{'\n'})
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if len(line) == 0 {
			return r, f, nil
		}
		if err := r.headerLine(line, &f); err != nil {
			return r, f, err
		}
	}
}

// statusLine takes "HTTP/1.1 200 OK".
func (r *reply) statusLine(line []byte, f *framing) error {
	if len(line) < len("HTTP/1.1 200") || string(line[:len("HTTP/1.")]) != "HTTP/1." || line[7] < '0' || line[7] > '9' || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return fmt.Errorf("%w: not HTTP", ErrBadReply)
	}
	f.oldHTTP = line[7] == '0'
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return fmt.Errorf("%w: not HTTP", ErrBadReply)
		}
		r.status = r.status*10 + int(c-'0')
	}
	if r.status < 100 {
		return fmt.Errorf("%w: HTTP status %d", ErrBadReply, r.status)
	}
	if r.status != 200 && len(line) > 13 {
		r.phrase = string(line[13:])
	}
	return nil
}

// headerLine takes one field of the header.
func (r *reply) headerLine(line []byte, f *framing) error {
	i := bytes.IndexByte(line, ':')
	if i <= 0 || !isToken(line[:i]) {
		return fmt.Errorf("%w: a malformed HTTP header line", ErrBadReply)
	}
	name, value := line[:i], bytes.Trim(line[i+1:], " \t")
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("%w: a control character in the HTTP header", ErrBadReply)
		}
	}
	switch {
	case asciiEqualFold(name, "content-length"):
		n, err := strconv.ParseUint(string(value), 10, 63)
		if err != nil || value[0] == '+' || f.length >= 0 && f.length != int64(n) {
			return fmt.Errorf("%w: Content-Length %.40q", ErrBadReply, value)
		}
		f.length = int64(n)
	case asciiEqualFold(name, "transfer-encoding"):
		if f.chunked || !asciiEqualFold(value, "chunked") {
			return fmt.Errorf("%w: Transfer-Encoding %.40q", ErrBadReply, value)
		}
		f.chunked = true
	case asciiEqualFold(name, "connection"):
		for option := range bytes.SplitSeq(value, []byte{','}) {
			option = bytes.Trim(option, " \t")
			f.close = f.close || asciiEqualFold(option, "close")
			f.keep = f.keep || asciiEqualFold(option, "keep-alive")
		}
	case r.status == 401 && asciiEqualFold(name, "www-authenticate"):
		r.challenges = append(r.challenges, string(value))
	case asciiEqualFold(name, "authentication-info"):
		if nonce := nextNonce(string(value)); nonce != "" {
			r.nextNonce = nonce
		}
	}
	return nil
}

// readBody reads a body of at most limit bytes and says in r whether the connection can go on after it.
func (k *conn) readBody(r *reply, f framing, limit int64, body []byte) ([]byte, error) {
	switch {
	case r.status == 204 || r.status == 304:
		return body, nil
	case f.chunked && f.oldHTTP: // RFC 9112 section 6.1: the framing is faulty
		return nil, fmt.Errorf("%w: chunks in HTTP/1.0", ErrBadReply)
	case f.chunked:
		if f.length >= 0 { // RFC 9112 section 6.3: chunked counts, and something on the way is confused
			r.closes = true
		}
		return k.readChunks(limit, body)
	case f.length >= 0:
		if f.length > limit {
			return nil, tooLarge(limit)
		}
		return k.readN(int(f.length), body)
	}
	r.closes = true // the body ends with the connection
	for {
		body = append(body, k.buf[k.r:k.w]...)
		k.r, k.w = 0, 0
		if int64(len(body)) > limit {
			return nil, tooLarge(limit)
		}
		n, err := k.Conn.Read(k.buf)
		k.w = n
		if n == 0 && err == io.EOF {
			return body, nil
		}
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

func tooLarge(limit int64) error { return fmt.Errorf("%w: %d bytes", ErrTooLarge, limit) }

// readChunks reads a chunked body with its trailer (RFC 9112 section 7.1).
func (k *conn) readChunks(limit int64, body []byte) ([]byte, error) {
	begin := len(body)
	for {
		line, err := k.line(maxChunkLine)
		if err != nil {
			return nil, err
		}
		size, ok := chunkSize(line)
		if !ok {
			return nil, fmt.Errorf("%w: chunk size %.20q", ErrBadReply, line)
		}
		if size == 0 {
			break
		}
		if size > limit-int64(len(body)-begin) {
			return nil, tooLarge(limit)
		}
		if body, err = k.readN(int(size), body); err != nil {
			return nil, err
		}
		if line, err = k.line(2); err != nil {
			return nil, err
		}
		if len(line) != 0 {
			return nil, fmt.Errorf("%w: a chunk is longer than it says", ErrBadReply)
		}
	}
	_, err := k.block()
	return body, err
}

// chunkSize reads hex digits, leading zeros as AMT sends them included; extensions are passed over.
func chunkSize(line []byte) (size int64, ok bool) {
	line, _, _ = bytes.Cut(line, []byte{';'})
	line = bytes.TrimRight(line, " \t")
	for _, c := range line {
		v, hex := hexDigit(c)
		if !hex || size >= 1<<32 {
			return 0, false
		}
		size = size<<4 | int64(v)
	}
	return size, len(line) > 0
}

// readN reads exactly n bytes. Memory is taken as they come, not as they are announced.
func (k *conn) readN(n int, body []byte) ([]byte, error) {
	m := min(n, k.w-k.r)
	body = append(body, k.buf[k.r:k.r+m]...)
	k.r += m
	for n -= m; n > 0; {
		body = slices.Grow(body, min(n, 32<<10))
		had := len(body)
		got := had
		if err := k.read(body[had:had+min(n, cap(body)-had)], &got); err != nil {
			return nil, err
		}
		body = body[:got]
		n -= got - had
	}
	return body, nil
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !isTokenChar(c) {
			return false
		}
	}
	return len(b) > 0
}

// asciiEqualFold compares a header text with a lower-case constant.
func asciiEqualFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

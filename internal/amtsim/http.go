package amtsim

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// request is the head of an HTTP request, as far as the firmware looks at it.
type request struct {
	method, target string
	http10         bool
	authorization  string
	length         int64
	chunked        bool
	expect         bool // 100-continue
	close          bool
}

// errHead stands for a request head that breaks RFC 9112; the answer is an HTML page and a closed connection.
var errHead = errors.New("malformed request head")

// parseHead reads a request line and header fields, up to and without the empty line.
func parseHead(s string) (request, error) {
	r := request{length: -1}
	line, rest, _ := strings.Cut(s, "\r\n")
	var ok bool
	var version string
	if r.method, line, ok = strings.Cut(line, " "); !ok || !isToken(r.method) {
		return r, errHead
	}
	if r.target, version, ok = strings.Cut(line, " "); !ok || r.target == "" {
		return r, errHead
	}
	for i := range len(r.target) {
		if r.target[i] <= ' ' || r.target[i] == 0x7F {
			return r, errHead
		}
	}
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		r.http10, r.close = true, true
	default:
		return r, errHead
	}
	hosts := 0
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, found := strings.Cut(line, ":")
		if !found || !isToken(name) {
			return r, errHead
		}
		value = strings.Trim(value, " \t")
		for i := range len(value) {
			if value[i] < ' ' && value[i] != '\t' || value[i] == 0x7F {
				return r, errHead
			}
		}
		switch {
		case strings.EqualFold(name, "Authorization"):
			if r.authorization != "" {
				return r, errHead
			}
			r.authorization = value
		case strings.EqualFold(name, "Content-Length"):
			n, err := strconv.ParseUint(value, 10, 62)
			if err != nil || value[0] == '+' || r.length >= 0 && r.length != int64(n) {
				return r, errHead
			}
			r.length = int64(n)
		case strings.EqualFold(name, "Transfer-Encoding"):
			if r.chunked || !strings.EqualFold(value, "chunked") {
				return r, errHead
			}
			r.chunked = true
		case strings.EqualFold(name, "Expect"):
			r.expect = strings.EqualFold(value, "100-continue")
		case strings.EqualFold(name, "Connection"):
			for _, option := range strings.Split(value, ",") {
				if strings.EqualFold(strings.TrimSpace(option), "close") {
					r.close = true
				}
			}
		case strings.EqualFold(name, "Host"):
			hosts++
		}
	}
	if r.chunked && r.length >= 0 || hosts > 1 || hosts == 0 && !r.http10 {
		return r, errHead
	}
	return r, nil
}

func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

// connection is one accepted connection with its buffers, which grow to what a request needs and are used again.
type connection struct {
	d    *Device
	c    net.Conn
	raw  *net.TCPConn
	from side
	hung bool // under Device.connsMu: never to be answered

	buf  []byte // what was read and not yet used: buf[at:]
	at   int
	body []byte
	msg  message
	xml  []byte // the reply's envelope
	out  []byte // the reply as it goes out
}

var buffers = sync.Pool{New: func() any { return new(connection) }}

var errTooBig = errors.New("too big")

// fill reads more into the buffer.
func (h *connection) fill() error {
	if h.at > 0 && h.at == len(h.buf) {
		h.buf, h.at = h.buf[:0], 0
	}
	if len(h.buf) == cap(h.buf) {
		if h.at > 0 {
			h.buf = h.buf[:copy(h.buf, h.buf[h.at:])]
			h.at = 0
		} else {
			bigger := make([]byte, len(h.buf), max(2*cap(h.buf), 4096))
			copy(bigger, h.buf)
			h.buf = bigger
		}
	}
	n, err := h.c.Read(h.buf[len(h.buf):cap(h.buf)])
	h.buf = h.buf[:len(h.buf)+n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// head reads a request head.
func (h *connection) head() (request, error) {
	began := false
	searched := 0
	for {
		for h.at < len(h.buf) && !began && (h.buf[h.at] == '\r' || h.buf[h.at] == '\n') {
			h.at++ // RFC 9112 2.2: empty lines before a request line
		}
		data := h.buf[h.at:]
		if len(data) > 0 && !began {
			began = true
			h.c.SetReadDeadline(time.Now().Add(requestTimeout))
		}
		if i := bytes.Index(data[min(searched, len(data)):], []byte("\r\n\r\n")); i >= 0 {
			i += searched
			if i > maxHeader {
				return request{}, errTooBig
			}
			h.at += i + 4
			return parseHead(string(data[:i]))
		}
		if len(data) > maxHeader {
			return request{}, errTooBig
		}
		searched = max(len(data)-3, 0)
		if err := h.fill(); err != nil {
			return request{}, err
		}
	}
}

// read takes n bytes of the connection into the body.
func (h *connection) read(n int) error {
	for n > 0 {
		if h.at == len(h.buf) {
			if err := h.fill(); err != nil {
				return err
			}
		}
		part := h.buf[h.at:min(h.at+n, len(h.buf))]
		h.body = append(h.body, part...)
		h.at += len(part)
		n -= len(part)
	}
	return nil
}

// write sends bytes to a client that must take them within the time for a request.
func (h *connection) write(b []byte) error {
	h.c.SetWriteDeadline(time.Now().Add(requestTimeout))
	_, err := h.c.Write(b)
	return err
}

// line reads a short line of a chunked body.
func (h *connection) line() (string, error) {
	for {
		data := h.buf[h.at:]
		if i := bytes.Index(data, []byte("\r\n")); i >= 0 {
			h.at += i + 2
			return string(data[:i]), nil
		}
		if len(data) > 256 {
			return "", errHead
		}
		if err := h.fill(); err != nil {
			return "", err
		}
	}
}

// readBody reads the body that a head announces.
func (h *connection) readBody(r *request) error {
	h.body = h.body[:0]
	if !r.chunked {
		if r.length > maxBody {
			return errTooBig
		}
		return h.read(int(max(r.length, 0)))
	}
	for {
		line, err := h.line()
		if err != nil {
			return err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 32)
		if err != nil {
			return errHead
		}
		if n == 0 {
			break
		}
		if n > maxBody || len(h.body)+int(n) > maxBody {
			return errTooBig
		}
		if err := h.read(int(n)); err != nil {
			return err
		}
		if line, err = h.line(); err != nil || line != "" {
			return errors.Join(err, errHead)
		}
	}
	for range maxAttributes { // trailers
		line, err := h.line()
		if err != nil || line == "" {
			return err
		}
	}
	return errHead
}

// newConnection takes buffers for an accepted connection.
func (d *Device) newConnection(raw *net.TCPConn, from side, withTLS bool) *connection {
	h := buffers.Get().(*connection)
	h.d, h.raw, h.c, h.from, h.hung = d, raw, raw, from, false
	h.buf, h.at = h.buf[:0], 0
	if withTLS {
		h.c = tls.Server(raw, d.tlsConfig())
	}
	return h
}

// serve answers the requests of one connection until it ends.
func (h *connection) serve() {
	for h.serveOne() {
	}
	h.d.leave(h)
	h.c.Close()
	if cap(h.buf)+cap(h.body)+cap(h.xml)+cap(h.out) < 64<<10 {
		h.d, h.c, h.raw = nil, nil, nil
		buffers.Put(h)
	}
}

// serveOne answers one request, and reports whether another may follow.
func (h *connection) serveOne() bool {
	d := h.d
	if h.at == len(h.buf) {
		h.c.SetReadDeadline(time.Now().Add(idleTimeout))
	}
	r, err := h.head()
	switch {
	case errors.Is(err, errTooBig):
		return h.refuse(statusHeaderSize, "Bad Request. The header is too large.")
	case errors.Is(err, errHead):
		return h.refuse(statusUnreadable, "Bad Request.")
	case err != nil:
		return false
	}
	if r.expect && !r.http10 && (r.chunked || r.length > 0) && r.length <= maxBody {
		if h.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) != nil {
			return false
		}
	}
	switch err := h.readBody(&r); {
	case errors.Is(err, errTooBig):
		return h.refuse(statusBodySize, "Bad Request. The body is too large.")
	case errors.Is(err, errHead):
		return h.refuse(statusUnreadable, "Bad Request.")
	case err != nil:
		return false
	}

	d.mu.Lock()
	user, why := d.logOn(r.authorization, r.method, r.target, h.body, h.from)
	latency := d.latency(h.from)
	hang := false
	if why == admitted && d.faults.HangAfterCalls != nil && d.faults.on(h.from) {
		hang = d.admitted >= *d.faults.HangAfterCalls
		d.admitted++
	}
	d.mu.Unlock()
	if hang {
		return h.hang()
	}
	if latency > 0 && !d.sleep(latency) {
		return false
	}
	if why != admitted {
		return h.challenge(why == staleNonce)
	}
	switch {
	case path(r.target) != "/wsman":
		return h.refuse(statusWrongPath, "Not Found.")
	case r.method != http.MethodPost:
		return h.refuse(statusWrongVerb, "Bad Request. Method not allowed.")
	}
	err = h.msg.read(string(h.body))

	d.mu.Lock()
	d.pending = pendingNothing
	var code int
	h.xml, code = d.handle(&h.msg, err, user, h.from, h.xml[:0])
	after, faults := d.pending, &d.faults
	closing, chunk, cut, garble := faults.CloseEachReply || r.close, faults.ChunkSize, faults.CutReplyAfter, faults.GarbleEachReply
	d.mu.Unlock()

	switch {
	case after == pendingRestart:
		d.Restart()
		return false
	case code == 0:
		return h.refuse(statusUnreadable, "Bad Request. The request could not be read.")
	case code == http.StatusUnauthorized:
		return h.challenge(false)
	case code == http.StatusForbidden:
		return h.refuse(http.StatusForbidden, "Forbidden.")
	}
	if garble && code == http.StatusOK {
		h.xml = append(h.xml[:0], "<a:Envelope "...)
	}
	closing = closing || code != http.StatusOK
	h.soap(code, closing, r.http10, chunk)
	if cut != nil && code == http.StatusOK && *cut < len(h.out) {
		h.write(h.out[:*cut])
		h.raw.SetLinger(0)
		return false
	}
	err = h.write(h.out)
	if after == pendingUnprovision {
		d.logError(d.Unprovision())
		return false
	}
	return err == nil && !closing
}

// firstChunk and nextChunk are the sizes that a capture shows: 0220, then 02FA, then the rest.
const (
	firstChunk = 0x220
	nextChunk  = 0x2FA
)

// soap lays out a reply with an envelope: header fields in the captured order, and a chunked body.
func (h *connection) soap(code int, closing, http10 bool, chunk int) {
	b := append(h.out[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(append(b, ' '), http.StatusText(code)...)
	b = append(b, "\r\nDate: "...)
	b = h.d.now().UTC().AppendFormat(b, http.TimeFormat)
	b = append(append(b, "\r\nServer: "...), h.d.release.server...)
	b = append(b, "\r\nX-Frame-Options: DENY\r\nContent-Type: application/soap+xml; charset=UTF-8\r\n"...)
	if !http10 {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if closing {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if http10 {
		h.out = append(b, h.xml...)
		return
	}
	size := firstChunk
	for rest := h.xml; len(rest) > 0; {
		if chunk > 0 {
			size = chunk
		}
		n := min(size, len(rest))
		const digits = "0123456789ABCDEF"
		b = append(b, digits[n>>12&15], digits[n>>8&15], digits[n>>4&15], digits[n&15], '\r', '\n')
		b = append(append(b, rest[:n]...), "\r\n"...)
		rest, size = rest[n:], nextChunk
	}
	h.out = append(b, "0\r\n\r\n"...)
}

// challenge answers 401 and closes the connection.
func (h *connection) challenge(stale bool) bool {
	d := h.d
	d.mu.Lock()
	realm, nonce, f := d.mem.Realm, d.guard.newNonce(d.now()), &d.faults
	word := "false"
	if stale && f.Stale == "true" {
		word = "true"
	}
	qop := "auth"
	if f.Challenge == "auth-int" {
		qop = "auth,auth-int"
	}
	b := append(h.out[:0], "HTTP/1.1 401 Unauthorized\r\n"...)
	if f.offers("sha-256") { // as RFC 7616 would have it; no firmware was seen to
		b = append(b, `WWW-Authenticate: Digest realm="`+realm+`", nonce="`+nonce+`",stale="`+word+`",qop="`+qop+`",algorithm="SHA-256"`+"\r\n"...)
	}
	if f.offers("md5") {
		b = append(b, `WWW-Authenticate: Digest realm="`+realm+`", nonce="`+nonce+`",stale="`+word+`",qop="`+qop+`"`+"\r\n"...)
	}
	d.mu.Unlock()
	return h.page(b, logOnPage)
}

// refuse answers with an HTML page and closes the connection.
func (h *connection) refuse(code int, text string) bool {
	b := append(h.out[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(append(append(b, ' '), http.StatusText(code)...), "\r\n"...)
	return h.page(b, page(text))
}

// page sends an HTML page: no Date, and the connection is closed.
func (h *connection) page(b []byte, html string) bool {
	b = append(b, "Content-Type: text/html\r\nServer: "...)
	b = append(b, h.d.release.server...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(html)), 10)
	b = append(b, "\r\nConnection: close\r\n\r\n"...)
	h.out = append(b, html...)
	if h.write(h.out) != nil {
		return false
	}
	// Closing with unread bytes would reset the connection and could take the page with it.
	if c, ok := h.c.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		h.c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		io.CopyN(io.Discard, h.c, 4*maxBody)
	}
	return false
}

// hang keeps the connection and says nothing until somebody closes it.
func (h *connection) hang() bool {
	if h.d.markHung(h) {
		h.c.SetReadDeadline(time.Time{})
		io.Copy(io.Discard, h.c)
	}
	return false
}

func page(text string) string {
	return `<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN" ><html><head><meta http-equiv="Content-Type" content="text/html; charset=utf-8">` +
		`<title>Intel&reg; Active Management Technology</title></head><body><h1>Intel&reg; Active Management Technology</h1><h2 class=warn>` +
		text + `</h2></body></html>`
}

// logOnPage has the text of the firmware's own page and, filled up with blanks, its length.
var logOnPage = func() string {
	const length = 690 // Content-Length in the capture of 11.8.50.3425
	s := page("Log on failed. Incorrect user name or password, or user account temporarily locked.")
	return s + strings.Repeat(" ", length-len(s)-1) + "\n"
}()

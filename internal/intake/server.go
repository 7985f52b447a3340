// Package intake stands between the network and whoever takes check-ins, a manager or a relay: an HTTPS server that keeps
// memory, latency and its log within bounds whatever comes, and figures about it.
//
// # Connections
//
// A connection that waits for its next request costs a tenth of what net/http keeps for it: it is taken from the
// http.Server after a second and given back when something arrives (park). Beyond MaxConnections those that have waited
// longest make way for new ones.
//
// # Handshakes
//
// At most one handshake per processor is computed at a time, in the order of arrival; those that would wait for too long
// are turned away before they cost anything. TLS sessions resume across restarts, and across all managers that share a
// secret.
//
// # Check-ins
//
// A Gate bounds the check-ins under way. Who does not fit is told when to come again, each at another time.
//
// Nothing here goes by addresses: thousands of PCs come from behind one.
package intake

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"samehost/internal/checkin"
)

const (
	// Bounds on one request. A report is at most 64 KiB, so that even a slow line brings it in time.
	handshakeTimeout = 10 * time.Second
	headerTimeout    = 10 * time.Second
	readTimeout      = 30 * time.Second
	maxHeader        = 8 << 10

	// WriteTimeout is how long an answer may take, from the end of the request's header to its own.
	WriteTimeout = 60 * time.Second

	// idleTimeout is how long a connection waits for its next request: clients with an interval of up to a minute keep
	// theirs, all others close it.
	idleTimeout = 75 * time.Second
	// linger is how long it waits in net/http before it is parked: for whatever follows at once, or the client's close.
	linger = 100 * time.Millisecond

	// MaxConnections is how many connections are open at most where the system lets a process have twice as many files:
	// some 100 MB.
	MaxConnections = 10_000

	// maxQueue is how many handshakes wait for a processor at most: about half a second of work.
	maxQueue = 1000

	// patience is how long a connection may take to begin its handshake before it makes way for others.
	patience = time.Second
)

// Options say what to serve.
type Options struct {
	Handler http.Handler

	// TLS has what is the server's own: its certificate and what it wants of clients. Version, protocols, tickets and
	// GetConfigForClient are set here.
	TLS *tls.Config

	// TicketSecret is what the keys of TLS session tickets are derived from, a new one each day: the same for all processes
	// that serve one name, and across their restarts. Nil: drawn at each start.
	TicketSecret []byte

	Log *slog.Logger

	MaxConnections int // 0: MaxConnections, or fewer if the process may not open as many files
}

// Server is an HTTPS server (HTTP/1.1, TLS 1.3) within bounds.
type Server struct {
	o       Options
	http    *http.Server
	tls     *tls.Config
	again   *tls.Config // for who resumes
	tickets *tickets
	quiet   *checkin.Quiet
	most    int

	ready  chan *conn // to the http.Server
	ended  chan struct{}
	end    func()
	slots  chan struct{} // handshakes being computed
	queued atomic.Int64  // handshakes that wait for a slot

	mu       sync.Mutex
	listener net.Listener
	open     int
	greeting *list.List // connections in their handshake, and
	parked   *list.List // those that wait for a request; the oldest in front

	count counts
}

// counts are what a Server counts from its start on.
type counts struct {
	opened, full, resumed, failed                      atomic.Uint64 // connections; handshakes
	shedConnections, shedHandshakes, shedParked, woken atomic.Uint64
}

// NewServer makes a Server.
func NewServer(o Options) *Server {
	s := &Server{
		o: o, most: o.MaxConnections, quiet: checkin.NewQuiet(o.Log), ready: make(chan *conn), ended: make(chan struct{}),
		slots: make(chan struct{}, runtime.GOMAXPROCS(0)), greeting: list.New(), parked: list.New(),
	}
	if s.most == 0 {
		s.most = min(MaxConnections, maxFiles()/2)
	}
	s.end = sync.OnceFunc(func() { close(s.ended) })
	s.tls = o.TLS.Clone()
	s.tls.MinVersion = tls.VersionTLS13
	s.tls.NextProtos = []string{"http/1.1"} // HTTP/2 keeps ten times as much for a connection, and nobody here needs it
	s.tls.GetConfigForClient = s.hello
	s.again = s.tls.Clone()
	s.again.CurvePreferences = []tls.CurveID{tls.X25519}
	s.tickets = newTickets(o.TicketSecret)
	s.tickets.renew(time.Now(), s.tls, s.again)
	s.http = &http.Server{
		Handler:           o.Handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      WriteTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         new(http.Protocols),
		ConnState:         connState,
		ErrorLog:          slog.NewLogLogger(quietHandler{s.quiet}, slog.LevelWarn),
	}
	s.http.Protocols.SetHTTP1(true)
	return s
}

// Serve serves connections to l until Shutdown; then it returns http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	failed := make(chan error, 1)
	go func() { failed <- s.accept(l) }()
	go s.keep()
	err := s.http.Serve(queue{s, l.Addr()})
	if !errors.Is(err, http.ErrServerClosed) { // accept has failed
		err = <-failed
	}
	return err
}

// Shutdown takes no more connections, closes those that wait, and waits for requests under way until the context ends;
// then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx) // which closes the queue
	if err != nil {
		s.http.Close()
	}
	return err
}

// close ends everything but requests under way.
func (s *Server) close() {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener.Close()
	for _, waiting := range []*list.List{s.greeting, s.parked} {
		for e := waiting.Front(); e != nil; e = e.Next() {
			e.Value.(*conn).wire.Close()
		}
	}
}

const (
	// keepEvery is how often a server looks after itself.
	keepEvery = 15 * time.Second
	// A burst is this many connections; after one it is quiet when no tenth of it came within keepEvery. What a burst took
	// in memory is given back then: where nothing happens the runtime would wait for minutes.
	burst = 2000
)

// keep goes with the days, and tidies up after bursts, until the server ends.
func (s *Server) keep() {
	look := time.NewTicker(keepEvery)
	defer look.Stop()
	var before, tidied uint64
	for {
		select {
		case now := <-look.C:
			s.tickets.renew(now, s.tls, s.again)
			n := s.count.opened.Load() + s.count.woken.Load()
			if n-tidied >= burst && n-before < burst/10 {
				debug.FreeOSMemory()
				tidied = n
			}
			before = n
		case <-s.ended:
			return
		}
	}
}

// accept greets whoever comes.
func (s *Server) accept(l net.Listener) error {
	defer s.end()
	for pause := time.Duration(0); ; {
		raw, err := l.Accept()
		if err == nil {
			pause = 0
			if c := s.admit(raw); c != nil {
				go s.greet(c)
			}
			continue
		}
		select {
		case <-s.ended:
			return http.ErrServerClosed
		default:
		}
		//lint:ignore SA1019 there is no other word for what net/http's own server tries again
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Temporary() {
			return err
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			s.makeWay()
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.quiet.Warn("no connection can be taken; tried again", err.Error())
		select {
		case <-time.After(pause):
		case <-s.ended:
			return http.ErrServerClosed
		}
	}
}

// admit counts a connection in, or closes it.
func (s *Server) admit(raw net.Conn) *conn {
	c := &conn{server: s, wire: &wire{Conn: raw, server: s}, since: time.Now()}
	s.mu.Lock()
	full := s.open >= s.most && !s.makeWayLocked()
	if !full {
		s.open++
		c.element = s.greeting.PushBack(c)
	}
	s.mu.Unlock()
	s.count.opened.Add(1)
	if full {
		s.count.shedConnections.Add(1)
		raw.Close()
		return nil
	}
	c.tls = tls.Server(c.wire, s.tls)
	return c
}

func (s *Server) makeWay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeWayLocked()
}

// makeWayLocked ends the connection that has waited longest, and reports whether there was any.
func (s *Server) makeWayLocked() bool {
	if e := s.parked.Front(); e != nil {
		s.count.shedParked.Add(1)
		s.leave(e.Value.(*conn), s.parked)
		return true
	}
	if e := s.greeting.Front(); e != nil && time.Since(e.Value.(*conn).since) > patience {
		s.count.shedConnections.Add(1)
		s.leave(e.Value.(*conn), s.greeting)
		return true
	}
	return false
}

// leave cuts a waiting connection off; whoever waits for it sees to the rest.
func (s *Server) leave(c *conn, waiting *list.List) {
	waiting.Remove(c.element)
	c.element = nil
	s.out(c)
	c.wire.Close()
}

// out counts a connection out, once.
func (s *Server) out(c *conn) {
	if !c.out {
		c.out = true
		s.open--
	}
}

// take takes a connection out of those that wait, and reports whether it still was one of them.
func (s *Server) take(c *conn, waiting *list.List) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.element == nil {
		return false
	}
	waiting.Remove(c.element)
	c.element = nil
	return true
}

// greet makes the handshake and hands the connection to the http.Server.
func (s *Server) greet(c *conn) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	err := c.tls.HandshakeContext(ctx)
	cancel()
	c.wire.release()
	if !s.take(c, s.greeting) {
		return // cut off
	}
	if err != nil {
		s.count.failed.Add(1)
		if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && e.Conn != nil && strings.HasPrefix(string(e.RecordHeader[:]), "GET /") {
			c.wire.SetWriteDeadline(time.Now().Add(time.Second))
			io.WriteString(c.wire, "HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nThis is an HTTPS port.\n")
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("not done within %s", handshakeTimeout)
		}
		if !c.wire.shed.Load() && !errors.Is(err, io.EOF) { // load is no fault, nor is who only looks whether somebody listens
			host, _, _ := net.SplitHostPort(c.wire.RemoteAddr().String())
			s.quiet.Warn("a TLS handshake failed", host+": "+err.Error())
		}
		c.end()
		return
	}
	if c.tls.ConnectionState().DidResume {
		s.count.resumed.Add(1)
	} else {
		s.count.full.Add(1)
	}
	s.deliver(c)
}

// preSharedKey is the extension by which a ClientHello offers to resume a session (RFC 8446, 4.2.11).
const preSharedKey = 41

// hello is called when a ClientHello has come: from here to the first answer it is all computing. It waits for its turn.
//
// Who resumes gets by with X25519 alone: the keys follow from the session's secret too, which was agreed on with ML-KEM, so that
// whoever recorded it all and breaks X25519 one day needs that secret or the tickets' key besides.
func (s *Server) hello(info *tls.ClientHelloInfo) (*tls.Config, error) {
	if s.queued.Add(1) > maxQueue {
		s.queued.Add(-1)
		return nil, s.shed(info)
	}
	defer s.queued.Add(-1)
	select {
	case s.slots <- struct{}{}:
		info.Conn.(*wire).slot.Store(true)
		if slices.Contains(info.Extensions, preSharedKey) {
			return s.again, nil
		}
		return nil, nil
	case <-info.Context().Done():
		return nil, s.shed(info)
	}
}

func (s *Server) shed(info *tls.ClientHelloInfo) error {
	s.count.shedHandshakes.Add(1)
	info.Conn.(*wire).shed.Store(true)
	return errors.New("too many handshakes wait")
}

// deliver hands a connection on which something is to be read to the http.Server.
func (s *Server) deliver(c *conn) {
	select {
	case s.ready <- c:
	case <-s.ended:
		c.end()
	}
}

// park waits for the next request in place of the http.Server. All that is kept meanwhile is the TLS connection and this
// goroutine's small stack.
func (s *Server) park(c *conn) {
	s.mu.Lock()
	select {
	case <-s.ended:
		s.mu.Unlock()
		c.end()
		return
	default:
	}
	c.element = s.parked.PushBack(c)
	s.mu.Unlock()
	c.wire.SetReadDeadline(time.Now().Add(idleTimeout - linger))
	err := c.wire.await()
	if !s.take(c, s.parked) {
		return // cut off
	}
	if err != nil {
		c.end()
		return
	}
	c.wire.SetReadDeadline(time.Time{})
	s.count.woken.Add(1)
	s.deliver(c)
}

// conn is a connection as the http.Server sees it. It gets the same one several times.
type conn struct {
	server  *Server
	wire    *wire
	tls     *tls.Conn
	since   time.Time
	parking atomic.Bool // Close does not mean to close it

	// Guarded by the server's mu:
	element *list.Element // in one of the server's lists while it waits
	out     bool          // not counted any more

	// Where net/http is with it. It reads ahead in another goroutine, but not while it is looking.
	state    atomic.Int32
	whole    int       // the size of net/http's buffer, which it offers where nothing is in it
	deadline time.Time // for reading
}

// The states of a connection follow net/http between two requests: it says that the connection is idle, sets the time that it may wait, looks
// whether something comes, and sets the time for that to come whole. Only while it looks has it nothing to lose.
const (
	serving = iota
	idle
	looking
)

// connState is http.Server.ConnState.
func connState(nc net.Conn, to http.ConnState) {
	switch c := nc.(*conn); to {
	case http.StateNew:
		c.state.Store(serving)
		c.whole = 0
	case http.StateIdle:
		c.state.Store(idle)
	case http.StateActive:
		c.state.Store(serving)
	}
}

// Read is tls.Conn's, but for a connection that waits for a request and has nothing of it yet: that one ends for the
// http.Server after linger, and is parked.
func (c *conn) Read(p []byte) (int, error) {
	if c.whole == 0 {
		c.whole = len(p)
	}
	// What net/http has read of the next request already stands in its buffer, and would be lost.
	if c.state.Load() != looking || len(p) < c.whole {
		return c.tls.Read(p)
	}
	c.tls.SetReadDeadline(time.Now().Add(linger))
	n, err := c.tls.Read(p)
	if e, ok := errors.AsType[net.Error](err); n == 0 && ok && e.Timeout() {
		c.parking.Store(true)
		return 0, io.EOF
	}
	c.tls.SetReadDeadline(c.deadline)
	return n, err // more may follow: net/http looks for four bytes
}

// Close closes or parks the connection. Shutdown may call it beside the goroutine that has the connection.
func (c *conn) Close() error {
	if c.parking.CompareAndSwap(true, false) {
		go c.server.park(c)
		return nil
	}
	return c.end()
}

// end closes the connection.
func (c *conn) end() error {
	c.server.mu.Lock()
	c.server.out(c)
	c.server.mu.Unlock()
	return c.tls.Close()
}

func (c *conn) Write(p []byte) (int, error)          { return c.tls.Write(p) }
func (c *conn) CloseWrite() error                    { return c.tls.CloseWrite() }
func (c *conn) LocalAddr() net.Addr                  { return c.wire.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr                 { return c.wire.RemoteAddr() }
func (c *conn) SetWriteDeadline(t time.Time) error   { return c.tls.SetWriteDeadline(t) }
func (c *conn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() } // becomes http.Request.TLS

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.deadline = t
	if !c.state.CompareAndSwap(idle, looking) {
		c.state.Store(serving)
	}
	return c.tls.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.deadline = t
	return c.tls.SetDeadline(t)
}

// wire is what lies below TLS.
type wire struct {
	net.Conn
	server *Server
	slot   atomic.Bool // computes a handshake
	shed   atomic.Bool // may not

	ahead [1]byte // read by await
	has   bool
}

// await waits until there is something to read.
func (w *wire) await() error {
	n, err := w.Conn.Read(w.ahead[:])
	w.has = n == 1
	if w.has {
		return nil
	}
	return err
}

func (w *wire) Read(p []byte) (int, error) {
	if w.has && len(p) > 0 {
		p[0], w.has = w.ahead[0], false
		return 1, nil
	}
	return w.Conn.Read(p)
}

// Write sends; the first answer of a handshake is computed by then.
func (w *wire) Write(p []byte) (int, error) {
	w.release()
	return w.Conn.Write(p)
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.release()
	return w.Conn.Close()
}

// release lets the next handshake begin.
func (w *wire) release() {
	if w.slot.CompareAndSwap(true, false) {
		<-w.server.slots
	}
}

// queue is the net.Listener that connections come from once their handshake is done.
type queue struct {
	s    *Server
	addr net.Addr
}

func (q queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.s.ready:
		return c, nil
	case <-q.s.ended:
		return nil, net.ErrClosed
	}
}

func (q queue) Close() error   { q.s.close(); return nil }
func (q queue) Addr() net.Addr { return q.addr }

// quietHandler is for what net/http logs: mostly what clients do.
type quietHandler struct{ quiet *checkin.Quiet }

func (quietHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h quietHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h quietHandler) WithGroup(string) slog.Handler          { return h }

func (h quietHandler) Handle(_ context.Context, r slog.Record) error {
	h.quiet.Warn("HTTP server", r.Message)
	return nil
}

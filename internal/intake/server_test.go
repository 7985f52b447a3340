package intake

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pipes is a listener within a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe:0" }

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

// certificate is made once: its dates do not matter to clients that do not judge it.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// world is a Server in a bubble, where an hour takes no time.
type world struct {
	*Server
	t     *testing.T
	pipes *pipes
	log   *bytes.Buffer
	ended chan error
}

func serve(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{t: t, pipes: newPipes(), log: new(bytes.Buffer), ended: make(chan error, 1)}
	if o.Handler == nil {
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %v", r.URL.Path, b, r.TLS != nil && r.TLS.Version == tls.VersionTLS13)
		})
	}
	o.Log = slog.New(slog.NewTextHandler(w.log, nil))
	o.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	w.Server = NewServer(o)
	go func() { w.ended <- w.Serve(w.pipes) }()
	return w
}

// stop ends the server, which must leave nothing behind: the bubble sees to that.
func (w *world) stop() {
	w.t.Helper()
	w.Shutdown(context.Background())
	if err := <-w.ended; err != http.ErrServerClosed {
		w.t.Errorf("Serve: %v", err)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if w.open != 0 || w.parked.Len() != 0 || w.greeting.Len() != 0 || len(w.slots) != 0 || w.queued.Load() != 0 {
		w.t.Errorf("left: %d connections, %d parked, %d greeting, %d handshakes computed, %d waiting", w.open, w.parked.Len(), w.greeting.Len(), len(w.slots), w.queued.Load())
	}
}

// expect compares numbers of connections: open, in their handshake, parked.
func (w *world) expect(what string, open, greeting, parked int) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff([]int{open, greeting, parked}, []int{w.open, w.greeting.Len(), w.parked.Len()}); diff != "" {
		w.t.Errorf("%s: open, greeting, parked (-want +got):\n%s", what, diff)
	}
}

// raw opens a connection.
func (w *world) raw() net.Conn {
	a, b := net.Pipe()
	w.pipes.conns <- a
	e := &eager{Conn: b}
	e.some.L = &e.mu
	go e.read()
	return e
}

// eager is the client's end of a connection with room on the way, which net.Pipe has not: a server that sends a ticket does
// not wait for the client to ask for it.
type eager struct {
	net.Conn
	mu   sync.Mutex
	some sync.Cond
	got  []byte
	err  error
}

func (e *eager) read() {
	b := make([]byte, 4096)
	for {
		n, err := e.Conn.Read(b)
		e.mu.Lock()
		e.got, e.err = append(e.got, b[:n]...), err
		e.mu.Unlock()
		e.some.Broadcast()
		if err != nil {
			return
		}
	}
}

func (e *eager) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.got) == 0 && e.err == nil {
		e.some.Wait()
	}
	n := copy(p, e.got)
	e.got = e.got[n:]
	if n == 0 {
		return 0, e.err
	}
	return n, nil
}

// caller is a client's connection.
type caller struct {
	*tls.Conn
	r *bufio.Reader
}

func (w *world) dial(cache tls.ClientSessionCache) (*caller, error) {
	c := tls.Client(w.raw(), &tls.Config{InsecureSkipVerify: true, ServerName: "x", ClientSessionCache: cache, NextProtos: []string{"h2", "http/1.1"}})
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	return &caller{c, bufio.NewReader(c)}, nil
}

func (w *world) mustDial() *caller {
	w.t.Helper()
	c, err := w.dial(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

const get = "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"

// answer reads one answer's body.
func (c *caller) answer() (string, error) {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func (c *caller) get(t *testing.T, path string) {
	t.Helper()
	fmt.Fprintf(c, get, path)
	if got, err := c.answer(); err != nil || got != "/"+path+"  true" {
		t.Errorf("%s: %q, %v", path, got, err)
	}
}

// A connection that waits is parked, comes back, and ends when its time is over.
func TestPark(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := serve(t, Options{})
		c := w.mustDial()
		for i := range 3 {
			c.get(t, fmt.Sprint("now-", i))
			w.expect("at once", 1, 0, 0)
			time.Sleep(linger / 2)
		}
		for range 3 {
			time.Sleep(time.Minute)
			w.expect("after a minute", 1, 0, 1)
			c.get(t, "later")
			w.expect("again", 1, 0, 0)
		}
		if n := w.count.woken.Load(); n != 3 {
			t.Errorf("woken %d times", n)
		}
		if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
			t.Errorf("protocol %q", p)
		}
		time.Sleep(idleTimeout + time.Second)
		w.expect("its time is over", 0, 0, 0)
		if _, err := c.answer(); err == nil {
			t.Error("still open")
		}
		// A client that closes is seen to at once, parked or not.
		for _, wait := range []time.Duration{0, time.Minute} {
			c := w.mustDial()
			c.get(t, "x")
			time.Sleep(wait)
			go c.Close()
			w.expect("closed", 0, 0, 0)
		}
		w.stop()
		if w.log.Len() > 0 {
			t.Errorf("logged: %s", w.log)
		}
	})
}

// What a client has sent of the next request is not lost, however it is cut and whenever it comes.
func TestParkLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make(chan bool)
		w := serve(t, Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-next
			}
			io.WriteString(w, r.URL.Path)
		})})
		expect := func(c *caller, what, want string) {
			t.Helper()
			if got, err := c.answer(); err != nil || got != want {
				t.Errorf("%s: %q, %v", what, got, err)
			}
		}
		second := fmt.Sprintf(get, "second")
		for cut := range len(second) {
			c := w.mustDial()
			// With the first, in one record.
			go fmt.Fprintf(c, get+"%s", "first", second[:cut])
			expect(c, "first", "/first")
			time.Sleep(3 * time.Second)
			go io.WriteString(c, second[cut:])
			expect(c, fmt.Sprintf("cut at %d", cut), "/second")
			c.Close()
		}
		for cut := range 6 {
			c := w.mustDial()
			go fmt.Fprintf(c, get, "slow")
			synctest.Wait()
			go io.WriteString(c, second[:cut]) // while the first is being answered
			synctest.Wait()
			next <- true
			expect(c, "slow", "/slow")
			time.Sleep(3 * time.Second)
			go io.WriteString(c, second[cut:])
			expect(c, fmt.Sprintf("meanwhile, cut at %d", cut), "/second")
			time.Sleep(3 * time.Second)
			w.expect("whole requests only", 1, 0, 1)
			c.Close()
			w.expect("closed", 0, 0, 0)
		}
		w.stop()
	})
}

// Whoever waits makes way for those who come; whoever is being served does not.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make(chan bool)
		w := serve(t, Options{MaxConnections: 3, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-next
			}
			fmt.Fprintf(w, "%s  true", r.URL.Path)
		})})
		var c [5]*caller
		for i := range 3 {
			c[i] = w.mustDial()
			c[i].get(t, "x")
			time.Sleep(2 * time.Second)
		}
		w.expect("full", 3, 0, 3)
		c[3] = w.mustDial()
		w.expect("one made way", 3, 0, 2)
		if _, err := c[0].answer(); err == nil {
			t.Error("the oldest is still open")
		}
		for i := 1; i <= 3; i++ {
			go fmt.Fprintf(c[i], get, "slow")
		}
		w.expect("all are served", 3, 0, 0)
		if _, err := w.dial(nil); err == nil {
			t.Error("one too many is taken")
		}
		if n := w.count.shedConnections.Load(); n != 1 {
			t.Errorf("%d turned away", n)
		}
		for range 3 {
			next <- true
		}
		for i := 1; i <= 3; i++ {
			if got, err := c[i].answer(); got != "/slow  true" {
				t.Errorf("%q, %v", got, err)
			}
			c[i].Close()
		}
		w.expect("all have gone", 0, 0, 0)
		// Who says nothing does not keep others out, once he had his second.
		silent := []net.Conn{w.raw(), w.raw(), w.raw()}
		w.expect("silent", 3, 3, 0)
		if _, err := w.dial(nil); err == nil {
			t.Error("taken before their time")
		}
		time.Sleep(2 * time.Second)
		c[4] = w.mustDial()
		c[4].get(t, "x")
		w.expect("one made way", 3, 2, 0)
		time.Sleep(handshakeTimeout)
		w.expect("the others have ended", 1, 0, 1)
		for _, s := range silent {
			s.Close()
		}
		w.stop()
	})
}

// clientHello is the first message of a handshake.
func clientHello() []byte {
	a, b := net.Pipe()
	go tls.Client(a, &tls.Config{InsecureSkipVerify: true}).Handshake()
	hello := make([]byte, 4096)
	n, _ := b.Read(hello)
	b.Close()
	return hello[:n]
}

// Handshakes wait for a processor in turn, and not in any number.
func TestHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := serve(t, Options{})
		for range cap(w.slots) {
			w.slots <- struct{}{}
		}
		dialed := make(chan error, 1)
		go func() { c, err := w.dial(nil); dialed <- err; c.Close() }()
		synctest.Wait()
		if n := w.queued.Load(); n != 1 {
			t.Errorf("%d wait", n)
		}
		w.queued.Add(maxQueue - 1)
		if _, err := w.dial(nil); err == nil || w.count.shedHandshakes.Load() != 1 {
			t.Errorf("one too many: %v", err)
		}
		w.queued.Add(1 - maxQueue)
		<-w.slots
		if err := <-dialed; err != nil {
			t.Errorf("its turn came: %v", err)
		}
		for range cap(w.slots) - 1 {
			<-w.slots
		}
		synctest.Wait()
		if n := len(w.slots); n != 0 {
			t.Errorf("%d slots are held by nobody", n)
		}
		// Who got the answer to his first message, and says no more, holds nothing.
		greets := w.raw()
		go greets.Write(clientHello())
		w.expect("a half handshake", 1, 1, 0)
		if n := len(w.slots); n != 0 {
			t.Errorf("%d slots are held by who says nothing", n)
		}
		greets.Close()
		w.expect("given up", 0, 0, 0)
		// Who waits for too long is turned away.
		for range cap(w.slots) {
			w.slots <- struct{}{}
		}
		if c, err := w.dial(nil); err == nil {
			t.Error("served without a slot")
			c.Close()
		}
		for range cap(w.slots) {
			<-w.slots
		}
		w.stop()
		if w.log.Len() > 0 {
			t.Errorf("load is logged: %s", w.log)
		}
	})
}

// A session resumes at another process with the same secret, for a day and more, and not for ever.
func TestTickets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		secret := []byte("the manager's")
		w := serve(t, Options{TicketSecret: secret})
		first := func() tls.ClientSessionCache {
			cache := tls.NewLRUClientSessionCache(1)
			c, err := w.dial(cache)
			if err != nil {
				t.Fatal(err)
			}
			if curve := c.ConnectionState().CurveID; curve != tls.X25519MLKEM768 {
				t.Errorf("a full handshake by %v", curve)
			}
			c.get(t, "x") // the ticket comes with the first answer
			c.Close()
			return cache
		}
		resumes := func(w *world, cache tls.ClientSessionCache) bool {
			t.Helper()
			c, err := w.dial(cache)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if s := c.ConnectionState(); s.DidResume && s.CurveID != tls.X25519 {
				t.Errorf("resumed by %v", s.CurveID)
			}
			return c.ConnectionState().DidResume
		}
		a, b, c := first(), first(), first()
		restarted, stranger, random := serve(t, Options{TicketSecret: secret}), serve(t, Options{TicketSecret: []byte("another's")}), serve(t, Options{})
		if !resumes(w, a) || !resumes(restarted, a) {
			t.Error("no resumption")
		}
		if resumes(stranger, b) || resumes(random, c) {
			t.Error("resumed under another secret")
		}
		for _, test := range []struct {
			hours int
			want  bool
		}{{25, true}, {50, false}} {
			cache := first()
			time.Sleep(time.Duration(test.hours) * time.Hour)
			if got := resumes(w, cache); got != test.want {
				t.Errorf("after %d hours: resumed %v", test.hours, got)
			}
		}
		if full, resumed := w.count.full.Load(), w.count.resumed.Load(); full != 6 || resumed != 2 {
			t.Errorf("%d full handshakes, %d resumed", full, resumed)
		}
		for _, s := range []*world{w, restarted, stranger, random} {
			s.stop()
		}
	})
}

// What is under way ends; nothing else keeps the server.
func TestShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make(chan bool)
		w := serve(t, Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-next
			}
			fmt.Fprintf(w, "%s  true", r.URL.Path)
		})})
		parked, idle, busy, silent := w.mustDial(), w.mustDial(), w.mustDial(), w.raw()
		parked.get(t, "x")
		time.Sleep(2 * time.Second)
		idle.get(t, "x")
		go fmt.Fprintf(busy, get, "slow")
		w.expect("before", 4, 1, 1)
		go func() {
			time.Sleep(5 * time.Second)
			next <- true
		}()
		answered := make(chan string, 1)
		go func() { s, _ := busy.answer(); answered <- s }()
		began := time.Now()
		w.stop()
		if took := time.Since(began); took < 5*time.Second || took > 90*time.Second {
			t.Errorf("took %s", took)
		}
		if got := <-answered; got != "/slow  true" {
			t.Errorf("what was under way got %q", got)
		}
		for name, c := range map[string]net.Conn{"parked": parked.Conn, "idle": idle.Conn, "silent": silent} {
			if _, err := c.Read(make([]byte, 100)); err == nil {
				t.Errorf("%s: still open", name)
			}
		}
	})
}

// Mistakes of clients are logged by where they come from, a few times, and a browser is told.
func TestNoTLS(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := serve(t, Options{})
		c := w.raw()
		go io.WriteString(c, "GET / HTTP/1.1\r\n")
		if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "400 Bad Request") || !strings.Contains(string(b), "This is an HTTPS port.") {
			t.Errorf("%q, %v", b, err)
		}
		for range 10 {
			c := w.raw()
			go c.Write(make([]byte, 500))
			io.ReadAll(c)
			c.Close()
		}
		w.raw().Close() // somebody looks whether the port is open
		synctest.Wait()
		if n := strings.Count(w.log.String(), "a TLS handshake failed"); n != 1 {
			t.Errorf("%d lines, want one:\n%s", n, w.log)
		}
		if n := w.count.failed.Load(); n != 12 {
			t.Errorf("%d failed, want 12", n)
		}
		w.stop()
	})
}

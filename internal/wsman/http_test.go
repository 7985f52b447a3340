package wsman

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// plainOK is a success with the given header lines.
func plainOK(header, body string) string { return "HTTP/1.1 200 OK\r\n" + header + "\r\n" + body }

// getReply is the envelope that answers r, a Get of AMT_GeneralSettings.
func getReply(r request) string {
	return envelope(r.messageID(), getResponse, generalSettings, settingsBody)
}

// TestReplyForms: every form of HTTP answer that is allowed gives the same instance; conns is how many connections two
// calls take.
func TestReplyForms(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		reply func(body string) answer
		conns int
	}{
		{"chunks as AMT 15 cuts them", func(b string) answer { return answer{raw: okHead + chunks(b, 0x0220, 0x02FA, 0x02FA, 0x3C)} }, 1},
		{"one chunk", func(b string) answer { return answer{raw: okHead + chunks(b)} }, 1},
		{"chunks of one byte", func(b string) answer {
			ones := make([]int, len(b))
			for i := range ones {
				ones[i] = 1
			}
			return answer{raw: okHead + chunks(b, ones...)}
		}, 1},
		{"many segments", func(b string) answer {
			all := okHead + chunks(b, 1, 2, 700)
			a := answer{}
			for _, cut := range []int{1, 4, 5, 9, 17, len(okHead) - 3, len(okHead) - 1, len(okHead) + 2, len(okHead) + 7, len(all) - 4, len(all) - 1} {
				a.parts = append(a.parts, all[len(strings.Join(a.parts, "")):cut])
			}
			a.parts = append(a.parts, all[len(strings.Join(a.parts, "")):])
			return a
		}, 1},
		{"chunk extensions and trailer", func(b string) answer {
			return answer{raw: okHead + fmt.Sprintf("%x;name=\"v\" \r\n%s\r\n000;last\r\nX-Trailer: a\r\nX-Other: b\r\n\r\n", len(b), b)}
		}, 1},
		{"bare line feeds", func(b string) answer {
			return answer{raw: fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n%s", len(b), b)}
		}, 1},
		{"Content-Length", func(b string) answer { return answer{raw: plainOK(fmt.Sprintf("Content-Length: %d\r\n", len(b)), b)} }, 1},
		{"Content-Length twice the same", func(b string) answer {
			return answer{raw: plainOK(fmt.Sprintf("content-length:%d\r\nCONTENT-LENGTH: %d \r\n", len(b), len(b)), b)}
		}, 1},
		{"Content-Length and close", func(b string) answer {
			return answer{raw: plainOK(fmt.Sprintf("Connection: Close\r\nContent-Length: %d\r\n", len(b)), b), close: true}
		}, 2},
		{"close announced, not done", func(b string) answer {
			return answer{raw: plainOK(fmt.Sprintf("Connection: upgrade , close\r\nContent-Length: %d\r\n", len(b)), b), hold: true}
		}, 2},
		{"until the end of the connection", func(b string) answer { return answer{raw: plainOK("", b), close: true} }, 2},
		{"HTTP/1.0", func(b string) answer {
			return answer{raw: fmt.Sprintf("HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b), hold: true}
		}, 2},
		{"HTTP/1.0 that keeps", func(b string) answer {
			return answer{raw: fmt.Sprintf("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s", len(b), b)}
		}, 1},
		{"interim answers", func(b string) answer {
			return answer{raw: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\n" + okHead + chunks(b)}
		}, 1},
		{"no reason phrase", func(b string) answer {
			return answer{raw: fmt.Sprintf("HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n%s", len(b), b)}
		}, 1},
		{"folded header line", func(b string) answer {
			return answer{raw: plainOK(fmt.Sprintf("X-A: b\r\n\tc\r\nContent-Length:\r\n  %d\r\n", len(b)), b)}
		}, 1},
		{"chunked and a length", func(b string) answer {
			return answer{raw: plainOK("Content-Length: 3\r\nTransfer-Encoding: Chunked\r\n", chunks(b))}
		}, 2},
		{"bytes behind the answer", func(b string) answer {
			return answer{raw: plainOK(fmt.Sprintf("Content-Length: %d\r\n", len(b)), b+"HTTP/1.1 200 OK\r\n")}
		}, 2},
		{"large header", func(b string) answer {
			return answer{raw: plainOK(fmt.Sprintf("X: %s\r\nContent-Length: %d\r\n", strings.Repeat("x", 15<<10), len(b)), b)}
		}, 1},
		{"large body", func(b string) answer {
			return answer{raw: okHead + chunks(b+strings.Repeat(" ", 200<<10), 70000)}
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, func(r request) answer { return test.reply(getReply(r)) })
			c := newTestClient(t, Endpoint{URL: d.url()})
			for range 2 {
				in, err := c.Get(testContext(t), generalSettings)
				if err != nil {
					t.Fatal(err)
				}
				if v, ok := in.Value("WsmanOnlyMode"); len(in.elements) != 24 || v != "false" || !ok {
					t.Errorf("%d properties, %q", len(in.elements), v)
				}
			}
			if conns, requests := d.seen(); conns != test.conns || len(requests) != 2 || c.dials != conns {
				t.Errorf("%d connections (%d dialled), %d requests; want %d and 2", conns, c.dials, len(requests), test.conns)
			}
		})
	}
}

// TestReplyRefused: what is no reply gives the right error, at once, and nothing is sent twice.
func TestReplyRefused(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 5000)
	for _, test := range []struct {
		name, raw string
		close     bool
		want      error
	}{
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n", false, ErrBadReply},
		{"another protocol, one byte", "S", false, ErrBadReply},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", false, ErrBadReply},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n", false, ErrBadReply},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", false, ErrBadReply},
		{"status below 100", "HTTP/1.1 099 OK\r\n\r\n", false, ErrBadReply},
		{"status of letters", "HTTP/1.1 abc OK\r\n\r\n", false, ErrBadReply},
		{"no status", "HTTP/1.1 \r\n\r\n", false, ErrBadReply},
		{"header without a colon", plainOK("Content-Length 3\r\n", ""), false, ErrBadReply},
		{"space before the colon", plainOK("Content-Length : 3\r\n", "abc"), false, ErrBadReply},
		{"header without a name", plainOK(": 3\r\n", ""), false, ErrBadReply},
		{"NUL in a header", plainOK("X: \x00\r\n", ""), false, ErrBadReply},
		{"carriage return in a header", plainOK("X: a\rb\r\n", ""), false, ErrBadReply},
		{"length of letters", plainOK("Content-Length: 0x10\r\n", ""), false, ErrBadReply},
		{"negative length", plainOK("Content-Length: -1\r\n", ""), false, ErrBadReply},
		{"length with a sign", plainOK("Content-Length: +1\r\n", ""), false, ErrBadReply},
		{"no length", plainOK("Content-Length:\r\n", ""), false, ErrBadReply},
		{"length beyond 63 bits", plainOK("Content-Length: 99999999999999999999\r\n", ""), false, ErrBadReply},
		{"two lengths", plainOK("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"), false, ErrBadReply},
		{"list of lengths", plainOK("Content-Length: 1, 1\r\n", "a"), false, ErrBadReply},
		{"compressed", plainOK("Transfer-Encoding: gzip, chunked\r\n", ""), false, ErrBadReply},
		{"chunked twice", plainOK("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""), false, ErrBadReply},
		{"chunks in HTTP/1.0", strings.Replace(okHead, "1.1", "1.0", 1) + "0\r\n\r\n", false, ErrBadReply},
		{"chunk size of letters", okHead + "xyz\r\n", false, ErrBadReply},
		{"chunk size empty", okHead + "\r\n", false, ErrBadReply},
		{"chunk size negative", okHead + "-1\r\n", false, ErrBadReply},
		{"chunk size of 64 bits", okHead + "fffffffffffffffff\r\n", false, ErrBadReply},
		{"chunk longer than it says", okHead + "2\r\nabc\r\n0\r\n\r\n", false, ErrBadReply},
		{"endless chunk line", okHead + "0;" + big, false, ErrBadReply},
		{"switching protocols", "HTTP/1.1 101 Switching Protocols\r\n\r\n", false, ErrBadReply},
		{"interim for ever", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20), false, ErrBadReply},
		{"empty body", plainOK("Content-Length: 0\r\n", ""), false, ErrBadReply},
		{"HTML", plainOK("Content-Length: 13\r\n", "<html></html>"), false, ErrBadReply},
		{"not XML", plainOK("Content-Length: 2\r\n", "{}"), false, ErrBadReply},

		{"TLS alert", "\x15\x03\x01\x00\x02\x02\x46", false, ErrTLSOnly},
		{"TLS alert and end", "\x15\x03\x03\x00\x02\x02\x0a", true, ErrTLSOnly},

		{"endless header", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+big+"\r\n", 4), false, ErrTooLarge},
		{"endless header line", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20000), false, ErrTooLarge},
		{"endless trailer", okHead + "0\r\n" + strings.Repeat("X: "+big+"\r\n", 4), false, ErrTooLarge},
		{"length above the limit", plainOK("Content-Length: 4001\r\n", ""), false, ErrTooLarge},
		{"chunk above the limit", okHead + "0FA1\r\n", false, ErrTooLarge},
		{"chunks above the limit", okHead + "0FA0\r\n" + big[:4000] + "\r\n1\r\n", false, ErrTooLarge},
		{"until the end above the limit", plainOK("", big), false, ErrTooLarge},

		{"nothing", "", true, io.ErrUnexpectedEOF},
		{"half a status line", "HTTP/1.1 2", true, io.ErrUnexpectedEOF},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-", true, io.ErrUnexpectedEOF},
		{"half a body", plainOK("Content-Length: 10\r\n", "abc"), true, io.ErrUnexpectedEOF},
		{"half a chunk", okHead + "0220\r\nabc", true, io.ErrUnexpectedEOF},
		{"no last chunk", okHead + "0003\r\nabc\r\n", true, io.ErrUnexpectedEOF},
		{"no end of the trailer", okHead + "0003\r\nabc\r\n0\r\n", true, io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, func(r request) answer { return answer{raw: test.raw, close: test.close, hold: !test.close} })
			c := newTestClient(t, Endpoint{URL: d.url(), MaxReply: 4000})
			_, err := c.Get(testContext(t), generalSettings)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if _, requests := d.seen(); len(requests) != 1 {
				t.Errorf("%d requests", len(requests))
			}
			if c.conn != nil {
				t.Error("the connection is kept")
			}
		})
	}
}

// TestLimitIsInclusive: a body of exactly MaxReply bytes is taken.
func TestLimitIsInclusive(t *testing.T) {
	t.Parallel()
	for _, excess := range []int{0, 1} {
		for name, form := range map[string]func(string) string{
			"length": func(b string) string { return plainOK(fmt.Sprintf("Content-Length: %d\r\n", len(b)), b) },
			"chunks": func(b string) string { return okHead + chunks(b, 1000, 500) },
			"end":    func(b string) string { return plainOK("", b) },
		} {
			d := newDevice(t, func(r request) answer {
				b := getReply(r)
				return answer{raw: form(b + strings.Repeat(" ", 4000+excess-len(b))), close: true}
			})
			_, err := newTestClient(t, Endpoint{URL: d.url(), MaxReply: 4000}).Get(testContext(t), generalSettings)
			if excess == 0 && err != nil || excess == 1 && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s, %d over the limit: %v", name, excess, err)
			}
		}
	}
}

// waitUntilReadable waits for what the device does to an idle connection to arrive.
func waitUntilReadable(t *testing.T, c *Client) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !readable(c.conn.raw); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("nothing arrives on the idle connection")
		}
	}
}

// TestIdleConnectionClosed: a connection that the device closed in the meantime is noticed before anything is sent, so
// that even an Invoke goes through, once.
func TestIdleConnectionClosed(t *testing.T) {
	t.Parallel()
	for name, parting := range map[string]string{"closed": "", "unasked answer": "HTTP/1.1 408 Request Timeout\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replied := make(chan struct{})
			d := newDevice(t, func(r request) answer {
				if r.n > 0 {
					return answer{raw: okHead + chunks(mtuReply(r))}
				}
				return answer{raw: okHead + chunks(getReply(r)), close: true, then: func(nc net.Conn) {
					<-replied
					io.WriteString(nc, parting)
				}}
			})
			c := newTestClient(t, Endpoint{URL: d.url()})
			_, err := c.Get(testContext(t), generalSettings)
			close(replied)
			if err != nil {
				t.Fatal(err)
			}
			waitUntilReadable(t, c)
			if _, err := c.Invoke(testContext(t), storage, "GetMTU"); err != nil {
				t.Fatal(err)
			}
			if conns, requests := d.seen(); conns != 2 || len(requests) != 2 {
				t.Errorf("%d connections, %d requests", conns, len(requests))
			}
		})
	}
}

// opaqueConn hides the socket, so that the client cannot look at it between two calls, and can refuse to write.
type opaqueConn struct {
	net.Conn
	refuse *atomic.Bool
}

func (c opaqueConn) Write(b []byte) (int, error) {
	if c.refuse.CompareAndSwap(true, false) {
		return 0, errors.New("no buffer space")
	}
	return c.Conn.Write(b)
}

// TestRepeat: what happens when a connection that served before fails before a byte of the answer came.
func TestRepeat(t *testing.T) {
	t.Parallel()
	get := func(c *Client, ctx context.Context) error { _, err := c.Get(ctx, generalSettings); return err }
	invoke := func(c *Client, ctx context.Context) error { _, err := c.Invoke(ctx, storage, "GetMTU"); return err }
	for _, test := range []struct {
		name     string
		call     func(*Client, context.Context) error
		reply    func(request) string
		fail     string // "read": the device takes the request and hangs up; "half": after half an answer; "write": nothing goes out
		ok       bool
		requests int // that the device took, the first one included
	}{
		{"Get, hung up on", get, getReply, "read", true, 3},
		{"Get, half answered", get, getReply, "half", false, 2},
		{"Get, not sent", get, getReply, "write", true, 2},
		{"Invoke, hung up on", invoke, mtuReply, "read", false, 2},
		{"Invoke, half answered", invoke, mtuReply, "half", false, 2},
		{"Invoke, not sent", invoke, mtuReply, "write", true, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, func(r request) answer {
				all := okHead + chunks(test.reply(r))
				switch {
				case r.n == 1 && test.fail == "read":
					return answer{close: true}
				case r.n == 1 && test.fail == "half":
					return answer{raw: all[:len(all)/2], close: true}
				}
				return answer{raw: all}
			})
			var refuse atomic.Bool
			c := newTestClient(t, Endpoint{URL: d.url(), Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				var dialer net.Dialer
				nc, err := dialer.DialContext(ctx, network, address)
				return opaqueConn{nc, &refuse}, err
			}})
			if err := test.call(c, testContext(t)); err != nil {
				t.Fatal(err)
			}
			refuse.Store(test.fail == "write")
			if err := test.call(c, testContext(t)); (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
			if _, requests := d.seen(); len(requests) != test.requests {
				t.Errorf("the device took %d requests, want %d", len(requests), test.requests)
			}
			if err := test.call(c, testContext(t)); err != nil {
				t.Errorf("a later call: %v", err)
			}
		})
	}
}

// TestNewConnectionIsNotRepeated: what fails on a connection of its own is not sent again, even if it only reads.
func TestNewConnectionIsNotRepeated(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer { return answer{close: true} })
	c := newTestClient(t, Endpoint{URL: d.url()})
	if _, err := c.Get(testContext(t), generalSettings); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if _, requests := d.seen(); len(requests) != 1 {
		t.Errorf("%d requests", len(requests))
	}
}

// TestEarlyRefusal: a device that answers before it has read the whole request, and hangs up, is understood.
func TestEarlyRefusal(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	go func() {
		br := bufio.NewReader(server)
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = br.ReadString('\n'); err != nil {
				return
			}
		}
		io.WriteString(server, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		server.Close()
	}()
	c := newTestClient(t, Endpoint{URL: "http://device:16992", Dial: func(context.Context, string, string) (net.Conn, error) {
		return halfWriter{client}, nil
	}})
	_, err := c.Invoke(testContext(t), storage, "GetMTU")
	f, ok := errors.AsType[*Fault](err)
	if !ok || f.HTTPStatus != 403 {
		t.Errorf("got %v", err)
	}
}

// halfWriter writes the header and fails at the body, as a socket does whose peer has closed it.
type halfWriter struct{ net.Conn }

func (c halfWriter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:bytes.Index(b, []byte("\r\n\r\n"))+4])
	if err == nil {
		err = errors.New("broken pipe")
	}
	return n, err
}

// TestCancel: a cancelled context ends a call at once, wherever it waits, and the client can be used again.
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]answer{
		"no answer":     {hold: true},
		"half a header": {raw: okHead[:50], hold: true},
		"half a body":   {raw: okHead + "0220\r\n<?xml", hold: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(testContext(t))
			begin := time.Now()
			d := newDevice(t, func(r request) answer {
				if r.n > 0 {
					return okGet(r)
				}
				a.then = func(net.Conn) { cancel() }
				return a
			})
			c := newTestClient(t, Endpoint{URL: d.url()})
			if _, err := c.Get(ctx, generalSettings); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begin); took > 10*time.Second { // the deadline is at 20
				t.Errorf("not before %v", took)
			}
			if _, err := c.Get(ctx, generalSettings); !errors.Is(err, context.Canceled) {
				t.Errorf("with a context that has ended: %v", err)
			}
			if _, err := c.Get(testContext(t), generalSettings); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if conns, requests := d.seen(); conns != 2 || len(requests) != 2 {
				t.Errorf("%d connections, %d requests", conns, len(requests))
			}
		})
	}
}

// TestDeadline: the context's deadline holds for dialling, handshake and reading, and gives the context's error.
func TestDeadline(t *testing.T) {
	t.Parallel()
	silent := newDevice(t, func(r request) answer { return answer{hold: true} })
	dripping := newDevice(t, func(r request) answer {
		return answer{raw: okHead, then: func(nc net.Conn) {
			for {
				if _, err := io.WriteString(nc, "1\r\n \r\n"); err != nil {
					return
				}
				runtime.Gosched()
			}
		}}
	})
	mute, err := net.Listen("tcp", "127.0.0.1:0") // connects, and no more
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	noDial := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for name, e := range map[string]Endpoint{
		"reading":   {URL: silent.url()},
		"drip":      {URL: dripping.url(), MaxReply: 1 << 40},
		"handshake": {URL: "https://" + mute.Addr().String(), PinSPKI: make([]byte, 32)},
		"dialling":  {URL: "http://device:16992", Dial: noDial},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer cancel()
			c := newTestClient(t, e)
			if _, err := c.Get(ctx, generalSettings); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// recorder notes the deadline that a connection was given.
type recorder struct {
	net.Conn
	deadline *time.Time
}

func (r recorder) SetDeadline(t time.Time) error {
	*r.deadline = t
	return r.Conn.SetDeadline(t)
}

// TestDefaultDeadline: a context without a deadline gets 30 seconds; another keeps its own.
func TestDefaultDeadline(t *testing.T) {
	t.Parallel()
	d := newDevice(t, okGet)
	var deadline, dialDeadline time.Time
	c := newTestClient(t, Endpoint{URL: d.url(), Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialDeadline, _ = ctx.Deadline()
		nc, err := net.Dial(network, address)
		return recorder{nc, &deadline}, err
	}})
	before := time.Now()
	if _, err := c.Get(context.Background(), generalSettings); err != nil {
		t.Fatal(err)
	}
	if after := time.Now(); deadline.Before(before.Add(DefaultTimeout)) || deadline.After(after.Add(DefaultTimeout)) || !dialDeadline.Equal(deadline) {
		t.Errorf("deadline %v after the call's begin", deadline.Sub(before))
	}
	want := before.Add(time.Hour)
	ctx, cancel := context.WithDeadline(context.Background(), want)
	defer cancel()
	if _, err := c.Get(ctx, generalSettings); err != nil {
		t.Fatal(err)
	}
	if !deadline.Equal(want) {
		t.Errorf("deadline %v, want %v", deadline, want)
	}
}

// TestWaitingForTurn: a call that waits for another one's end gives up with its context.
func TestWaitingForTurn(t *testing.T) {
	t.Parallel()
	started, finish := make(chan struct{}), make(chan struct{})
	d := newDevice(t, func(r request) answer {
		close(started)
		<-finish
		return okGet(r)
	})
	c := newTestClient(t, Endpoint{URL: d.url()})
	done := make(chan error)
	go func() {
		_, err := c.Get(testContext(t), generalSettings)
		done <- err
	}()
	<-started
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, generalSettings); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(finish)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, requests := d.seen(); len(requests) != 1 {
		t.Errorf("%d requests", len(requests))
	}
}

// TestClose: Close ends a call under way at once and without repeating it; the client can be used again.
func TestClose(t *testing.T) {
	t.Parallel()
	var c *Client
	d := newDevice(t, func(r request) answer {
		if r.n == 1 {
			c.Close()
			return answer{hold: true}
		}
		return okGet(r)
	})
	c = newTestClient(t, Endpoint{URL: d.url()})
	for i, want := range []error{nil, net.ErrClosed, nil} {
		if _, err := c.Get(testContext(t), generalSettings); !errors.Is(err, want) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if conns, requests := d.seen(); conns != 2 || len(requests) != 3 {
		t.Errorf("%d connections, %d requests", conns, len(requests))
	}
	c.Close()
	if _, err := c.Get(testContext(t), generalSettings); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, err = newTestClient(t, Endpoint{URL: "http://" + address}).Get(testContext(t), generalSettings)
	if _, ok := errors.AsType[*net.OpError](err); !ok || os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// scriptConn is a connection that gives one answer in pieces of size bytes.
type scriptConn struct {
	net.Conn
	answer []byte
	size   int
}

func (c *scriptConn) Read(p []byte) (int, error) {
	if len(c.answer) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// FuzzHTTP compares with net/http: an answer that both take has the same status and body, however it is cut.
func FuzzHTTP(f *testing.F) {
	f.Add([]byte(captured401), 1)
	f.Add([]byte(okHead+chunks("<a></a>", 3)), 5)
	f.Add([]byte(faultHead+"0;x\r\nA: b\r\n\r\n"), 700)
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nAuthentication-Info: nextnonce=\"a\"\r\n\r\nabc"), 2)
	f.Add([]byte("HTTP/1.1 500 No\r\nContent-Length: 3\r\nX: a\r\n b\r\n\r\nabcd"), 9)
	f.Fuzz(func(t *testing.T, answer []byte, size int) {
		const limit = 1 << 16
		k := &conn{Conn: &scriptConn{answer: answer, size: 1 + max(0, size)%4096}, plain: true}
		r, err := k.readReply(limit, nil)
		if err != nil {
			if !errors.Is(err, ErrBadReply) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrTLSOnly) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("an error of no known kind: %v", err)
			}
			return
		}
		if len(r.body) > limit || r.status < 200 || r.status > 999 {
			t.Errorf("status %d, %d bytes", r.status, len(r.body))
		}
		br := bufio.NewReader(bytes.NewReader(answer))
		var theirs *http.Response
		for theirs == nil || theirs.StatusCode < 200 {
			if theirs, err = http.ReadResponse(br, &http.Request{Method: "POST"}); err != nil {
				return
			}
		}
		body, err := io.ReadAll(theirs.Body)
		if err != nil {
			return
		}
		if theirs.StatusCode != r.status || r.status != 401 && string(body) != string(r.body) {
			t.Errorf("net/http reads %d %q, we %d %q", theirs.StatusCode, body, r.status, r.body)
		}
	})
}

// TestRequestForm: the request is one segment, with exactly these header lines, and the envelope as captured.
func TestRequestForm(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer { return answer{raw: okHead + chunks(mtuReply(r))} })
	var writes [][]byte
	c := newTestClient(t, Endpoint{URL: d.url(), Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := net.Dial(network, address)
		return writeLog{nc, &writes}, err
	}})
	if _, err := c.Invoke(testContext(t), storage, "GetMTU"); err != nil {
		t.Fatal(err)
	}
	body := `<?xml version="1.0" encoding="utf-8"?><Envelope xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"` +
		` xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"` +
		` xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns="http://www.w3.org/2003/05/soap-envelope"><Header>` +
		`<a:Action>` + storage + `/GetMTU</a:Action><a:To>/wsman</a:To><w:ResourceURI>` + storage + `</w:ResourceURI>` +
		`<a:MessageID>1</a:MessageID><a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>` +
		`<w:OperationTimeout>PT60S</w:OperationTimeout></Header><Body><r:GetMTU_INPUT xmlns:r="` + storage + `"></r:GetMTU_INPUT></Body></Envelope>`
	want := "POST /wsman HTTP/1.1\r\nHost: " + d.listener.Addr().String() + "\r\nUser-Agent: samehost\r\n" +
		"Content-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n" + body
	if len(writes) != 1 {
		t.Fatalf("%d writes", len(writes))
	}
	if diff := cmp.Diff(want, string(writes[0])); diff != "" {
		t.Error(diff)
	}
}

type writeLog struct {
	net.Conn
	writes *[][]byte
}

func (w writeLog) Write(b []byte) (int, error) {
	*w.writes = append(*w.writes, bytes.Clone(b))
	return w.Conn.Write(b)
}

// TestNoProbeOfAKnownDevice: a device that has answered in HTTP and later hangs up is not asked whether it wants TLS.
func TestNoProbeOfAKnownDevice(t *testing.T) {
	t.Parallel()
	d := newDevice(t, func(r request) answer {
		if r.n == 0 {
			a := okGet(r) // announced: a close that is only noticed later would be a race
			a.raw = strings.Replace(a.raw, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
			a.close = true
			return a
		}
		return answer{close: true}
	})
	c := newTestClient(t, Endpoint{URL: d.url()})
	if _, err := c.Get(testContext(t), generalSettings); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Invoke(testContext(t), storage, "GetMTU"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if conns, _ := d.seen(); conns != 2 {
		t.Errorf("%d connections, want 2: one for each call", conns)
	}
}

package wsman

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// request is what a test's device received.
type request struct {
	conn   int // number of the connection, from 0
	n      int // number of the request, from 0
	line   string
	header map[string]string // lower-case names
	body   string
}

// messageID is the text of the request's MessageID.
func (r request) messageID() string { return between(r.body, "<a:MessageID>", "</a:MessageID>") }

// authorized reports an Authorization header.
func (r request) authorized() bool { return r.header["authorization"] != "" }

// param reads one parameter of the Authorization header, quoted or not.
func (r request) param(name string) string {
	for _, p := range strings.Split(strings.TrimPrefix(r.header["authorization"], "Digest "), ", ") {
		if k, v, _ := strings.Cut(p, "="); k == name {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// answer is what a test's device does with a request.
type answer struct {
	raw   string   // bytes to write
	parts []string // further writes, each a segment of its own
	then  func(net.Conn)
	close bool // hang up afterwards
	hold  bool // keep the connection, answer nothing more on it
}

// device is a scripted server speaking raw bytes over TCP.
type device struct {
	t        *testing.T
	listener net.Listener
	handle   func(request) answer
	greet    string // written before anything was received
	stop     chan struct{}

	mu       sync.Mutex
	conns    int
	requests []request
}

// newDevice starts a device; it ends with the test.
func newDevice(t *testing.T, handle func(request) answer) *device {
	t.Helper()
	return startDevice(t, handle, nil)
}

// startGreeting starts a device that speaks first.
func startGreeting(t *testing.T, greet string) *device {
	return start(t, nil, nil, greet)
}

// startDevice starts a device that speaks TLS, if config is not nil.
func startDevice(t *testing.T, handle func(request) answer, config *tls.Config) *device {
	return start(t, handle, config, "")
}

func start(t *testing.T, handle func(request) answer, config *tls.Config, greet string) *device {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	d := &device{t: t, listener: l, handle: handle, greet: greet, stop: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			n := d.conns
			d.conns++
			d.mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				unblock := make(chan struct{})
				defer close(unblock)
				go func() {
					select {
					case <-d.stop:
						nc.Close()
					case <-unblock:
					}
				}()
				d.serve(nc, n)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(d.stop)
		wg.Wait()
	})
	return d
}

func (d *device) serve(nc net.Conn, conn int) {
	io.WriteString(nc, d.greet)
	br := bufio.NewReader(nc)
	for {
		r, err := readRequest(br)
		if err != nil {
			return
		}
		d.mu.Lock()
		r.conn, r.n = conn, len(d.requests)
		d.requests = append(d.requests, r)
		d.mu.Unlock()
		a := d.handle(r)
		io.WriteString(nc, a.raw)
		for _, p := range a.parts {
			io.WriteString(nc, p)
		}
		if a.then != nil {
			a.then(nc)
		}
		if a.hold {
			<-d.stop
			return
		}
		if a.close {
			return
		}
	}
}

func readRequest(br *bufio.Reader) (request, error) {
	r := request{header: map[string]string{}}
	if first, err := br.Peek(1); err != nil || first[0] == 0x16 {
		return r, errors.New("a TLS ClientHello, or nothing")
	}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return r, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		switch {
		case r.line == "":
			if r.line = line; line != "HEAD / HTTP/1.1" && line != "POST /wsman HTTP/1.1" {
				return r, errors.New("not the client's request")
			}
		case line == "":
			if r.header["content-length"] == "" {
				return r, nil
			}
			n, err := strconv.Atoi(r.header["content-length"])
			if err != nil {
				return r, err
			}
			body := make([]byte, n)
			_, err = io.ReadFull(br, body)
			r.body = string(body)
			return r, err
		default:
			k, v, _ := strings.Cut(line, ": ")
			r.header[strings.ToLower(k)] = v
		}
	}
}

func (d *device) url() string { return "http://" + d.listener.Addr().String() }

// seen gives the number of connections and the requests so far.
func (d *device) seen() (conns int, requests []request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conns, append([]request(nil), d.requests...)
}

// The log-on that the devices of the tests want.
const (
	testUser     = "admin"
	testPassword = "P@ssw0rd!"
	testRealm    = "Digest:A4070000000000000000000000000000"
	testNonce    = "wlbEK1EtAAAAAAAAWW5aUHFp+mQQ1j63"
)

func newTestClient(t *testing.T, e Endpoint) *Client {
	t.Helper()
	if e.User == "" {
		e.User, e.Password = testUser, testPassword
	}
	c, err := NewClient(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// testContext ends a hanging test long before the test binary's own limit.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// captured401 is what AMT 11.8.50 sends, its page shortened.
const captured401 = "HTTP/1.1 401 Unauthorized\r\n" +
	`WWW-Authenticate: Digest realm="` + testRealm + `", nonce="` + testNonce + `",stale="false",qop="auth"` + "\r\n" +
	"Content-Type: text/html\r\nServer: Intel(R) Active Management Technology 11.8.50.3425\r\n" +
	"Content-Length: 66\r\nConnection: close\r\n\r\n" +
	"<!DOCTYPE HTML><html><body><h2>Log on failed.</h2></body></html>\r\n"

// okHead is the header of AMT 15's success.
const okHead = "HTTP/1.1 200 OK\r\nDate: Mon, 31 Jan 2022 10:23:04 GMT\r\n" +
	"Server: Intel(R) Active Management Technology 15.0.23.1706\r\nX-Frame-Options: DENY\r\n" +
	"Content-Type: application/soap+xml; charset=UTF-8\r\nTransfer-Encoding: chunked\r\n\r\n"

// faultHead is the header of AMT's faults.
const faultHead = "HTTP/1.1 400 Bad Request\r\nDate: Mon, 31 Jan 2022 10:23:04 GMT\r\n" +
	"Server: Intel(R) Active Management Technology 15.0.23.1706\r\nX-Frame-Options: DENY\r\n" +
	"Content-Type: application/soap+xml; charset=UTF-8\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

// chunks cuts a body as AMT does: sizes of four upper-case digits, wherever the boundaries fall.
func chunks(body string, sizes ...int) string {
	var b strings.Builder
	for body != "" {
		n := len(body)
		if len(sizes) > 0 {
			n, sizes = min(n, sizes[0]), sizes[1:]
		}
		fmt.Fprintf(&b, "%04X\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// envelope is a reply in the captured form.
func envelope(relatesTo, action, resource, body string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><a:Envelope xmlns:a="http://www.w3.org/2003/05/soap-envelope"` +
		` xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:c="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"` +
		` xmlns:d="http://schemas.xmlsoap.org/ws/2005/02/trust"` +
		` xmlns:e="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"` +
		` xmlns:f="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:g="` + resource + `"` +
		` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><a:Header>` +
		`<b:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</b:To><b:RelatesTo>` + relatesTo + `</b:RelatesTo>` +
		`<b:Action a:mustUnderstand="true">` + action + `</b:Action>` +
		`<b:MessageID>uuid:00000000-8086-8086-8086-0000000001EB</b:MessageID><c:ResourceURI>` + resource + `</c:ResourceURI>` +
		`</a:Header><a:Body>` + body + `</a:Body></a:Envelope>`
}

const (
	generalSettings = "http://intel.com/wbem/wscim/1/amt-schema/1/AMT_GeneralSettings"
	storage         = "http://intel.com/wbem/wscim/1/amt-schema/1/AMT_ThirdPartyDataStorageService"
	getResponse     = "http://schemas.xmlsoap.org/ws/2004/09/transfer/GetResponse"
)

// settingsBody is the body of a reply to Get AMT_GeneralSettings.
const settingsBody = `<g:AMT_GeneralSettings><g:AMTNetworkEnabled>1</g:AMTNetworkEnabled><g:DDNSPeriodicUpdateInterval>1440</g:DDNSPeriodicUpdateInterval>` +
	`<g:DDNSTTL>900</g:DDNSTTL><g:DDNSUpdateByDHCPServerEnabled>true</g:DDNSUpdateByDHCPServerEnabled><g:DDNSUpdateEnabled>false</g:DDNSUpdateEnabled>` +
	`<g:DHCPSyncRequiresHostname>1</g:DHCPSyncRequiresHostname><g:DHCPv6ConfigurationTimeout>0</g:DHCPv6ConfigurationTimeout>` +
	`<g:DigestRealm>` + testRealm + `</g:DigestRealm><g:DomainName></g:DomainName><g:ElementName>Intel(r) AMT: General Settings</g:ElementName>` +
	`<g:HostName></g:HostName><g:HostOSFQDN></g:HostOSFQDN><g:IdleWakeTimeout>65535</g:IdleWakeTimeout>` +
	`<g:InstanceID>Intel(r) AMT: General Settings</g:InstanceID><g:NetworkInterfaceEnabled>true</g:NetworkInterfaceEnabled>` +
	`<g:PingResponseEnabled>true</g:PingResponseEnabled><g:PowerSource>0</g:PowerSource><g:PreferredAddressFamily>0</g:PreferredAddressFamily>` +
	`<g:PresenceNotificationInterval>0</g:PresenceNotificationInterval><g:PrivacyLevel>0</g:PrivacyLevel>` +
	`<g:RmcpPingResponseEnabled>true</g:RmcpPingResponseEnabled><g:SharedFQDN>true</g:SharedFQDN>` +
	`<g:ThunderboltDockEnabled>0</g:ThunderboltDockEnabled><g:WsmanOnlyMode>false</g:WsmanOnlyMode></g:AMT_GeneralSettings>`

// okGet answers a Get of AMT_GeneralSettings.
func okGet(r request) answer {
	return answer{raw: okHead + chunks(envelope(r.messageID(), getResponse, generalSettings, settingsBody), 544, 762, 762)}
}

// logOn lets handle see only requests whose digest is right for the nonce; nc must rise. Others get AMT's 401.
func logOn(handle func(request) answer) func(request) answer {
	var mu sync.Mutex
	last := uint64(0)
	return func(r request) answer {
		mu.Lock()
		defer mu.Unlock()
		nc, err := strconv.ParseUint(r.param("nc"), 16, 32)
		if err != nil || nc <= last || r.param("nonce") != testNonce || r.param("response") != rfcResponse(r) {
			return answer{raw: captured401, close: true}
		}
		last = nc
		return handle(r)
	}
}

// rfcResponse is the digest of RFC 2617 for the request's own parameters, written down independently.
func rfcResponse(r request) string {
	h := func(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }
	return h(h(testUser+":"+testRealm+":"+testPassword) + ":" + r.param("nonce") + ":" + r.param("nc") + ":" + r.param("cnonce") + ":auth:" + h("POST:"+r.param("uri")))
}

// mtuReply is the envelope that answers r, an Invoke of GetMTU.
func mtuReply(r request) string {
	return envelope(r.messageID(), storage+"/GetMTUResponse", storage,
		"<g:GetMTU_OUTPUT><g:Mtu>4096</g:Mtu><g:ReturnValue>0</g:ReturnValue></g:GetMTU_OUTPUT>")
}

// dialTo dials the same address whatever is asked for.
func dialTo(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
}

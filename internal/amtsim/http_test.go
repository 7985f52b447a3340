package amtsim

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// raw is a TCP connection to a device.
type raw struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, url string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{t, c, bufio.NewReader(c)}
}

func (r *raw) send(s string) {
	r.t.Helper()
	if _, err := r.Write([]byte(s)); err != nil {
		r.t.Fatal(err)
	}
}

// head reads a response head, with its empty line.
func (r *raw) head() string {
	r.t.Helper()
	var b strings.Builder
	for {
		line, err := r.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			r.t.Fatalf("response head: %v after %q", err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// body reads the body that a head announces; chunks are the sizes as they stood there.
func (r *raw) body(head string) (body string, chunks []string) {
	r.t.Helper()
	if n := between(head, "Content-Length: ", "\r\n"); n != "" {
		size, _ := strconv.Atoi(n)
		b := make([]byte, size)
		if _, err := io.ReadFull(r.r, b); err != nil {
			r.t.Fatal(err)
		}
		return string(b), nil
	}
	var b strings.Builder
	for {
		line, err := r.r.ReadString('\n')
		if err != nil || !strings.HasSuffix(line, "\r\n") {
			r.t.Fatalf("chunk size %q: %v", line, err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		n, err := strconv.ParseUint(line, 16, 32)
		if err != nil {
			r.t.Fatalf("chunk size %q", line)
		}
		chunks = append(chunks, line)
		data := make([]byte, n+2)
		if _, err := io.ReadFull(r.r, data); err != nil || !bytes.HasSuffix(data, []byte("\r\n")) {
			r.t.Fatalf("chunk %q: %v", data, err)
		}
		if n == 0 {
			return b.String(), chunks
		}
		b.Write(data[:n])
	}
}

// ended reports whether the peer has closed.
func (r *raw) ended() bool {
	_, err := r.r.ReadByte()
	return err == io.EOF
}

func requestBody() string { return envelope(actionGet, gen, "0", "", "") }

func post(authorization, body string) string {
	if authorization != "" {
		authorization = "Authorization: " + authorization + "\r\n"
	}
	return fmt.Sprintf("POST /wsman HTTP/1.1\r\nHost: x\r\n%sContent-Type: application/soap+xml\r\nContent-Length: %d\r\n\r\n%s", authorization, len(body), body)
}

// challengeOf fetches a challenge.
func challengeOf(t testing.TB, url string) string {
	t.Helper()
	r := dial(t, url)
	r.send(post("", ""))
	return between(r.head(), "WWW-Authenticate: ", "\r\n")
}

// digest is an Authorization value being made.
type digest struct {
	user, password, method, uri, nc, cnonce, qop, algorithm, body string
	form                                                          string // with %s for user, realm, nonce, uri, response, qop, nc, cnonce
}

func newDigest() digest {
	return digest{user: DefaultUser, password: DefaultPassword, method: "POST", uri: "/wsman", nc: "00000001", cnonce: "deadbeef", qop: "auth",
		form: `Digest username="%s", realm="%s", nonce="%s", uri="%s", response="%s", qop=%s, nc=%s, cnonce="%s"`}
}

func (d digest) answer(challenge string) string {
	sum := md5hex
	if d.algorithm == "SHA-256" {
		sum = func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	}
	realm, nonce := between(challenge, `realm="`, `"`), between(challenge, `nonce="`, `"`)
	a2 := d.method + ":" + d.uri
	if d.qop == "auth-int" {
		a2 += ":" + sum(d.body)
	}
	response := sum(sum(d.user+":"+realm+":"+d.password) + ":" + nonce + ":" + d.nc + ":" + d.cnonce + ":" + d.qop + ":" + sum(a2))
	s := fmt.Sprintf(d.form, d.user, realm, nonce, d.uri, response, d.qop, d.nc, d.cnonce)
	if d.algorithm != "" {
		s += ", algorithm=" + d.algorithm
	}
	return s
}

// TestChallengeIsVerbatim compares the 401 with the capture of 11.8.50.3425, of which only realm and nonce may differ.
func TestChallengeIsVerbatim(t *testing.T) {
	t.Parallel()
	d := start(t, Options{Release: "11.8.50.3425"})
	const captured = "HTTP/1.1 401 Unauthorized\r\n" +
		`WWW-Authenticate: Digest realm="Digest:A4070000000000000000000000000000", nonce="wlbEK1EtAAAAAAAAWW5aUHFp+mQQ1j63",stale="false",qop="auth"` + "\r\n" +
		"Content-Type: text/html\r\n" +
		"Server: Intel(R) Active Management Technology 11.8.50.3425\r\n" +
		"Content-Length: 690\r\n" +
		"Connection: close\r\n\r\n"
	for name, request := range map[string]string{
		"no body":        post("", ""),
		"a body":         post("", requestBody()),
		"not XML":        post("", "<<<"),
		"no length":      "POST /wsman HTTP/1.1\r\nHost: x\r\n\r\n",
		"another path":   "GET /index.htm HTTP/1.1\r\nHost: x\r\n\r\n",
		"basic":          post("Basic YWRtaW46UEBzc3cwcmQh", requestBody()),
		"malformed":      post("Digest username=", requestBody()),
		"foreign nonce":  post(newDigest().answer(captured), requestBody()),
		"absolute form":  strings.Replace(post("", ""), "/wsman", "http://x/wsman", 1),
		"chunked":        "POST /wsman HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"empty lines":    "\r\n\r\n" + post("", ""),
		"close wanted":   "POST /wsman HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		"old HTTP":       "POST /wsman HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
		"trailing bytes": post("", "") + strings.Repeat("x", 100),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := dial(t, d.NetworkURL())
			r.send(request)
			head := r.head()
			realm, nonce := between(head, `realm="`, `"`), between(head, `nonce="`, `"`)
			if realm != d.Snapshot().DigestRealm || len(realm) != len("Digest:")+32 {
				t.Errorf("realm %q", realm)
			}
			if len(nonce) != 32 || strings.Contains(nonce, "=") || nonce[8:16] != "AAAAAAAA" {
				t.Errorf("nonce %q is not of the captured shape", nonce)
			}
			want := strings.NewReplacer("Digest:A4070000000000000000000000000000", realm, "wlbEK1EtAAAAAAAAWW5aUHFp+mQQ1j63", nonce).Replace(captured)
			if d := cmp.Diff(want, head); d != "" {
				t.Errorf("head (-captured +got):\n%s", d)
			}
			page, _ := r.body(head)
			if !strings.Contains(page, "<h2 class=warn>Log on failed. Incorrect user name or password, or user account temporarily locked.</h2>") {
				t.Errorf("page %q", page)
			}
			if !r.ended() {
				t.Error("a 401 must close the connection")
			}
		})
	}
}

// TestSuccessIsVerbatim compares the head of a 200 with the capture of 15.0.23.1706, and its chunk sizes.
func TestSuccessIsVerbatim(t *testing.T) {
	t.Parallel()
	d := start(t, Options{Release: "15.0.23.1706", Now: newClock().now})
	challenge := challengeOf(t, d.NetworkURL())
	r := dial(t, d.NetworkURL())
	dig := newDigest()
	r.send(post(dig.answer(challenge), requestBody()))
	head := r.head()
	if d := cmp.Diff("HTTP/1.1 200 OK\r\nDate: Mon, 31 Jan 2022 10:23:04 GMT\r\nServer: Intel(R) Active Management Technology 15.0.23.1706\r\n"+
		"X-Frame-Options: DENY\r\nContent-Type: application/soap+xml; charset=UTF-8\r\nTransfer-Encoding: chunked\r\n\r\n", head); d != "" {
		t.Errorf("head (-captured +got):\n%s", d)
	}
	body, chunks := r.body(head)
	if n := len(chunks); n != 5 || chunks[0] != "0220" || chunks[1] != "02FA" || chunks[2] != "02FA" || len(chunks[3]) != 4 || chunks[4] != "0" {
		t.Errorf("chunk sizes %q; captured were 0220 02FA 02FA 003C 0", chunks)
	}
	if strings.ContainsAny(body, "\r\n") || strings.Contains(body, "/>") {
		t.Errorf("not one line without self-closed elements: %s", body)
	}
	// The connection is kept.
	dig.nc = "00000002"
	r.send(post(dig.answer(challenge), requestBody()))
	if head := r.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		t.Errorf("second request: %s", head)
	}
}

// TestFaultIsVerbatim compares a fault with the capture, in full.
func TestFaultIsVerbatim(t *testing.T) {
	t.Parallel()
	d := start(t, Options{Now: newClock().now})
	d.messages = 0x60
	challenge := challengeOf(t, d.NetworkURL())
	r := dial(t, d.NetworkURL())
	r.send(post(newDigest().answer(challenge), envelope(actionGet, nsAMT+"AMT_Unknown", "0", "", "")))
	head := r.head()
	if d := cmp.Diff("HTTP/1.1 400 Bad Request\r\nDate: Mon, 31 Jan 2022 10:23:04 GMT\r\nServer: Intel(R) Active Management Technology 11.8.50\r\n"+
		"X-Frame-Options: DENY\r\nContent-Type: application/soap+xml; charset=UTF-8\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", head); d != "" {
		t.Errorf("head (-want +got):\n%s", d)
	}
	const captured = `<?xml version="1.0" encoding="UTF-8"?><a:Envelope xmlns:g="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:f="http://schemas.xmlsoap.org/ws/2004/08/eventing" xmlns:e="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:d="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:c="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:a="http://www.w3.org/2003/05/soap-envelope" xmlns:h="http://schemas.xmlsoap.org/ws/2005/02/trust" xmlns:i="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><a:Header><b:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</b:To><b:RelatesTo>0</b:RelatesTo><b:Action a:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/fault</b:Action><b:MessageID>uuid:00000000-8086-8086-8086-000000000061</b:MessageID></a:Header><a:Body><a:Fault><a:Code><a:Value>a:Sender</a:Value><a:Subcode><a:Value>b:DestinationUnreachable</a:Value></a:Subcode></a:Code><a:Reason><a:Text xml:lang="en-US">No route can be determined to reach the destination role defined by the WSAddressing To.</a:Text></a:Reason><a:Detail></a:Detail></a:Fault></a:Body></a:Envelope>`
	body, _ := r.body(head)
	if d := cmp.Diff(captured, body); d != "" {
		t.Errorf("fault (-captured +got):\n%s", d)
	}
	if !r.ended() {
		t.Error("a fault closes the connection")
	}
}

// TestReplyEnvelope compares the envelopes of replies with the captured form, byte by byte.
func TestReplyEnvelope(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	d.messages = 0x1EA
	c := newClient(t, d.NetworkURL())
	const form = `<?xml version="1.0" encoding="UTF-8"?><a:Envelope xmlns:a="http://www.w3.org/2003/05/soap-envelope" xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:c="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:d="http://schemas.xmlsoap.org/ws/2005/02/trust" xmlns:e="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd" xmlns:f="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" %s xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><a:Header><b:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</b:To><b:RelatesTo>%s</b:RelatesTo><b:Action a:mustUnderstand="true">%s</b:Action><b:MessageID>uuid:00000000-8086-8086-8086-%012X</b:MessageID><c:ResourceURI>%s</c:ResourceURI></a:Header><a:Body>%s</a:Body></a:Envelope>`
	context := ""
	for i, test := range []struct {
		action, resource, id, body           string
		namespaces, actionResponse, response string
	}{
		{actionGet, sto, "7", "", `xmlns:g="` + sto + `" xmlns:h="http://schemas.dmtf.org/wbem/wscim/1/common"`, actionGet + "Response",
			`<g:AMT_ThirdPartyDataStorageService><g:CreationClassName>AMT_ThirdPartyDataStorageService</g:CreationClassName><g:ElementName>Intel(r) AMT Third Party Data Storage Service</g:ElementName><g:EnabledState>5</g:EnabledState><g:Name>Intel(r) AMT Third Party Data Storage Service</g:Name><g:RequestedState>12</g:RequestedState><g:SystemCreationClassName>CIM_ComputerSystem</g:SystemCreationClassName><g:SystemName>Intel(r) AMT</g:SystemName></g:AMT_ThirdPartyDataStorageService>`},
		{adm + "/AddStorageEaclEntry", adm, "uuid:6B29FC40-CA47-1067-B31D-00DD010662DA", input(adm, "AddStorageEaclEntry", "EnterpriseName", "Example Corp"),
			`xmlns:g="` + adm + `"`, adm + "/AddStorageEaclEntryResponse",
			`<g:AddStorageEaclEntry_OUTPUT><g:Handle>1</g:Handle><g:ReturnValue>0</g:ReturnValue></g:AddStorageEaclEntry_OUTPUT>`},
		{adm + "/EnumerateStorageAllocEntries", adm, " <&> ", input(adm, "EnumerateStorageAllocEntries"),
			`xmlns:g="` + adm + `"`, adm + "/EnumerateStorageAllocEntriesResponse",
			`<g:EnumerateStorageAllocEntries_OUTPUT><g:ReturnValue>0</g:ReturnValue></g:EnumerateStorageAllocEntries_OUTPUT>`},
		{sto + "/RegisterApplication", sto, "", input(sto, "RegisterApplication", "CallerUUID", testUUID, "VendorName", "V", "ApplicationName", "A", "EnterpriseName", "none"),
			`xmlns:g="` + sto + `"`, sto + "/RegisterApplicationResponse",
			`<g:RegisterApplication_OUTPUT><g:ReturnValue>9</g:ReturnValue></g:RegisterApplication_OUTPUT>`},
		{actionEnumerate, sac, "1", `<Enumerate xmlns="` + nsEnumeration + `" />`, `xmlns:g="` + nsEnumeration + `"`, actionEnumerate + "Response",
			`<g:EnumerateResponse><g:EnumerationContext>01000000-0000-0000-0000-000000000000</g:EnumerationContext></g:EnumerateResponse>`},
		{actionPull, sac, "2", `<Pull xmlns="` + nsEnumeration + `"><EnumerationContext>01000000-0000-0000-0000-000000000000</EnumerationContext><MaxElements>999</MaxElements><MaxCharacters>99999</MaxCharacters></Pull>`,
			`xmlns:g="` + nsEnumeration + `" xmlns:h="` + sac + `" xmlns:i="http://schemas.dmtf.org/wbem/wscim/1/common"`, actionPull + "Response",
			`<g:PullResponse><g:Items><h:AMT_SetupAndConfigurationService><h:CreationClassName>AMT_SetupAndConfigurationService</h:CreationClassName><h:ElementName>Intel(r) AMT Setup and Configuration Service</h:ElementName><h:EnabledState>5</h:EnabledState><h:Name>Intel(r) AMT Setup and Configuration Service</h:Name><h:PasswordModel>1</h:PasswordModel><h:ProvisioningMode>1</h:ProvisioningMode><h:ProvisioningServerOTP></h:ProvisioningServerOTP><h:ProvisioningState>2</h:ProvisioningState><h:RequestedState>12</h:RequestedState><h:SystemCreationClassName>CIM_ComputerSystem</h:SystemCreationClassName><h:SystemName>Intel(r) AMT</h:SystemName><h:ZeroTouchConfigurationEnabled>true</h:ZeroTouchConfigurationEnabled></h:AMT_SetupAndConfigurationService></g:Items><g:EndOfSequence></g:EndOfSequence></g:PullResponse>`},
	} {
		id := strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;").Replace(test.id)
		code, got := c.post(envelope(test.action, test.resource, id, "", test.body+context))
		want := fmt.Sprintf(form, test.namespaces, id, test.actionResponse, 0x1EB+i, test.resource, test.response)
		if d := cmp.Diff(want, got); code != 200 || d != "" {
			t.Errorf("%s: HTTP %d (-want +got):\n%s", test.action, code, d)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	challenge := challengeOf(t, d.NetworkURL())
	for _, test := range []struct{ authorization, status string }{{"", "401"}, {newDigest().answer(challenge), "200"}} {
		r := dial(t, d.NetworkURL())
		request := strings.Replace(post(test.authorization, requestBody()), "Host:", "Expect: 100-continue\r\nHost:", 1)
		head, body, _ := strings.Cut(request, "\r\n\r\n")
		r.send(head + "\r\n\r\n")
		if got := r.head(); got != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("before the body: %q", got)
		}
		r.send(body)
		if got := r.head(); !strings.HasPrefix(got, "HTTP/1.1 "+test.status) {
			t.Errorf("after the body: %q, want %s", got, test.status)
		}
	}
}

// TestPipelining sends requests at once, then one in single bytes.
func TestPipelining(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	challenge := challengeOf(t, d.LocalURL())
	r := dial(t, d.LocalURL())
	dig := newDigest()
	var all strings.Builder
	for i := range 20 {
		dig.nc = fmt.Sprintf("%08x", i+1)
		all.WriteString(post(dig.answer(challenge), envelope(actionGet, gen, strconv.Itoa(i), "", "")))
	}
	go io.WriteString(r, all.String())
	for i := range 20 {
		head := r.head()
		body, _ := r.body(head)
		if got := between(body, "<b:RelatesTo>", "<"); !strings.HasPrefix(head, "HTTP/1.1 200") || got != strconv.Itoa(i) {
			t.Fatalf("answer %d: RelatesTo %q, %s", i, got, head)
		}
	}
	dig.nc = "00000020"
	request := post(dig.answer(challenge), requestBody())
	for i := range len(request) {
		r.send(request[i : i+1])
	}
	if head := r.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Errorf("byte by byte: %s", head)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	auth := func(method, uri string) string {
		dig := newDigest()
		dig.method, dig.uri = method, uri
		return dig.answer(challengeOf(t, d.NetworkURL()))
	}
	big := strings.Repeat("x", maxBody+1)
	for _, test := range []struct{ name, request, status string }{
		{"another path", strings.Replace(post(auth("POST", "/StorageService"), ""), "/wsman", "/StorageService", 1), "404 Not Found"},
		{"GET", strings.Replace(post(auth("GET", "/wsman"), ""), "POST", "GET", 1), "405 Method Not Allowed"},
		{"not XML", post(auth("POST", "/wsman"), "hello"), "400 Bad Request"},
		{"empty", post(auth("POST", "/wsman"), ""), "400 Bad Request"},
		{"a document type", post(auth("POST", "/wsman"), `<!DOCTYPE x [<!ENTITY a "b">]>`+requestBody()[38:]), "400 Bad Request"},
		{"big body", post("", big), "413 Request Entity Too Large"},
		{"big chunks", "POST /wsman HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("8000\r\n"+strings.Repeat("x", 0x8000)+"\r\n", 3), "413 Request Entity Too Large"},
		{"big header", "POST /wsman HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", maxHeader) + "\r\n\r\n", "431 Request Header Fields Too Large"},
		{"endless header", "POST /wsman HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 2*maxHeader), "431 Request Header Fields Too Large"},
		{"no HTTP", "hello\r\n\r\n", "400 Bad Request"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\r\n\r\n", "400 Bad Request"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 Bad Request"},
		{"no host", "POST /wsman HTTP/1.1\r\n\r\n", "400 Bad Request"},
		{"two hosts", "POST /wsman HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request"},
		{"two lengths", "POST /wsman HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400 Bad Request"},
		{"length and chunks", "POST /wsman HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400 Bad Request"},
		{"gzip", "POST /wsman HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "400 Bad Request"},
		{"negative length", "POST /wsman HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400 Bad Request"},
		{"folded header", "POST /wsman HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "400 Bad Request"},
		{"space before colon", "POST /wsman HTTP/1.1\r\nHost : a\r\n\r\n", "400 Bad Request"},
		{"bad chunk", "POST /wsman HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400 Bad Request"},
		{"two credentials", "POST /wsman HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", "400 Bad Request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := dial(t, d.NetworkURL())
			r.send(test.request)
			head := r.head()
			if want := "HTTP/1.1 " + test.status + "\r\nContent-Type: text/html\r\nServer: "; !strings.HasPrefix(head, want) || !strings.Contains(head, "\r\nConnection: close\r\n") {
				t.Errorf("got %q, want %q", head, want)
			}
			if page, _ := r.body(head); !strings.HasPrefix(page, "<!DOCTYPE HTML") {
				t.Errorf("page %q", page)
			}
			if !r.ended() {
				t.Error("connection stays open")
			}
		})
	}
}

// TestDigestForms: what clients send in the field.
func TestDigestForms(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	set := func(change func(*digest)) digest {
		x := newDigest()
		change(&x)
		return x
	}
	for _, test := range []struct {
		name  string
		d     digest
		admit bool
	}{
		{"curl", newDigest(), true},
		{"quoted nc and qop", set(func(d *digest) {
			d.form = `Digest username="%s",realm="%s",nonce="%s",uri="%s",response="%s",qop="%s",nc="%s",cnonce="%s"`
		}), true},
		{"nc from 2", set(func(d *digest) { d.nc = "00000002" }), true},
		{"nc from 5", set(func(d *digest) { d.nc = "00000005" }), true},
		{"short nc", set(func(d *digest) { d.nc = "1" }), true},
		{"nc 0", set(func(d *digest) { d.nc = "00000000" }), false},
		{"no nc", set(func(d *digest) { d.nc = "" }), false},
		{"full URL", set(func(d *digest) { d.uri = "http://127.0.0.1:16992/wsman" }), true},
		{"another uri", set(func(d *digest) { d.uri = "/index.htm" }), false},
		{"short cnonce", set(func(d *digest) { d.cnonce = "0a1b2c" }), true},
		{"long cnonce", set(func(d *digest) { d.cnonce = strings.Repeat("0a1b2c3d", 4) }), true},
		{"algorithm MD5", set(func(d *digest) { d.algorithm = "MD5" }), true},
		{"algorithm quoted", set(func(d *digest) { d.algorithm = `"MD5"` }), true},
		{"algorithm SHA-256, not offered", set(func(d *digest) { d.algorithm = "SHA-256" }), false},
		{"auth-int, not offered", set(func(d *digest) { d.qop = "auth-int" }), false},
		{"another order, spaces, unknown fields", set(func(d *digest) {
			d.form = "DIGEST  opaque=\"\", username = \"%s\" ,, realm=\"%s\", nonce=\"%s\", x=y,\turi=\"%s\", response=\"%s\", qop=%s, nc=%s, cnonce=\"%s\",\t"
		}), true},
		{"upper-case response", set(func(d *digest) { d.form = strings.Replace(d.form, "response=", "Response=", 1) }), true},
		{"wrong password", set(func(d *digest) { d.password = "p@ssw0rd!" }), false},
		{"unknown user", set(func(d *digest) { d.user = "root" }), false},
		{"another case of the user", set(func(d *digest) { d.user = "Admin" }), false},
		{"a field twice", set(func(d *digest) { d.form += `, username="admin"` }), false},
		{"text after a quoted value", set(func(d *digest) { d.form = strings.Replace(d.form, `uri="%s",`, `uri="%s"x,`, 1) }), false},
		{"a realm of another", set(func(d *digest) { d.form = strings.Replace(d.form, `realm="%s"`, `realm="x%s"`, 1) }), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.d.body = requestBody()
			r := dial(t, d.NetworkURL())
			r.send(post(test.d.answer(challengeOf(t, d.NetworkURL())), requestBody()))
			head := r.head()
			if got := strings.HasPrefix(head, "HTTP/1.1 200"); got != test.admit {
				t.Errorf("let in %v, want %v: %s", got, test.admit, head)
			}
		})
	}
}

// TestNonces: nc may rise and arrive out of order but never twice; a nonce is tied to no connection and not for ever.
func TestNonces(t *testing.T) {
	t.Parallel()
	clock := newClock()
	d := start(t, Options{Now: clock.now})
	try := func(challenge, nc string) string {
		dig := newDigest()
		dig.nc = nc
		r := dial(t, d.NetworkURL())
		r.send(post(dig.answer(challenge), requestBody()))
		return r.head()
	}
	challenge := challengeOf(t, d.NetworkURL())
	for _, step := range []struct {
		nc    string
		admit bool
	}{{"00000001", true}, {"00000001", false}, {"00000002", true}, {"00000005", true}, {"00000003", true}, {"00000003", false}, {"00000005", false},
		{"00000004", true}, {"00000064", true}, {"00000025", true}, {"00000024", false}, {"00000064", false}, {"ffffffff", true}, {"ffffffff", false}} {
		if got := strings.HasPrefix(try(challenge, step.nc), "HTTP/1.1 200"); got != step.admit {
			t.Errorf("nc %s: let in %v, want %v", step.nc, got, step.admit)
		}
	}
	if n := d.Snapshot().FailedLogons; n != 0 {
		t.Errorf("%d failed log-ons: a used nc is none", n)
	}
	for _, stale := range []string{"false", "true"} {
		if err := d.SetFaults(Faults{Stale: stale}); err != nil {
			t.Fatal(err)
		}
		challenge = challengeOf(t, d.NetworkURL())
		clock.add(nonceLife - 20*time.Millisecond) // every challenge moves the nonce's clock by a tick
		if head := try(challenge, "00000001"); !strings.HasPrefix(head, "HTTP/1.1 200") {
			t.Errorf("young nonce: %s", head)
		}
		clock.add(40 * time.Millisecond)
		head := try(challenge, "00000002")
		if got := between(head, `stale="`, `"`); got != stale {
			t.Errorf("expired nonce: stale %q, want %q", got, stale)
		}
		if fresh := between(head, "WWW-Authenticate: ", "\r\n"); !strings.HasPrefix(try(fresh, "00000001"), "HTTP/1.1 200") {
			t.Error("the fresh challenge does not serve")
		}
	}
	// First challenge and wrong password are never stale.
	if got := between(challengeOf(t, d.NetworkURL()), `stale="`, `"`); got != "false" {
		t.Errorf("first challenge: stale %q", got)
	}
	// Many nonces: those that were used and forgotten are refused, not taken for unused.
	first := challengeOf(t, d.NetworkURL())
	try(first, "00000001")
	for range noncesInUse + 1 {
		try(challengeOf(t, d.NetworkURL()), "00000001")
	}
	if head := try(first, "00000001"); !strings.HasPrefix(head, "HTTP/1.1 401") {
		t.Errorf("a replay after %d other nonces: %s", noncesInUse+1, head)
	}
}

func TestChallengesOfNewerFirmware(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	for _, test := range []struct {
		fault                string
		challenges           int
		plain, sha256, whole bool // which answers are let in
	}{{"md5", 1, true, false, false}, {"auth-int", 1, true, false, true}, {"sha-256", 1, false, true, false}, {"both", 2, true, true, false}} {
		if err := d.SetFaults(Faults{Challenge: test.fault}); err != nil {
			t.Fatal(err)
		}
		r := dial(t, d.NetworkURL())
		r.send(post("", ""))
		head := r.head()
		if n := strings.Count(head, "WWW-Authenticate: Digest "); n != test.challenges {
			t.Errorf("%s: %d challenges", test.fault, n)
		}
		if got := strings.Contains(head, `algorithm="SHA-256"`); got != test.sha256 {
			t.Errorf("%s: SHA-256 offered %v", test.fault, got)
		}
		if got := strings.Contains(head, `qop="auth,auth-int"`); got != test.whole {
			t.Errorf("%s: auth-int offered %v", test.fault, got)
		}
		for _, with := range []struct {
			algorithm, qop string
			want           bool
		}{{"", "auth", test.plain}, {"SHA-256", "auth", test.sha256}, {"", "auth-int", test.whole}} {
			dig := newDigest()
			dig.algorithm, dig.qop, dig.body = with.algorithm, with.qop, requestBody()
			r := dial(t, d.NetworkURL())
			r.send(post(dig.answer(challengeOf(t, d.NetworkURL())), requestBody()))
			if got := strings.HasPrefix(r.head(), "HTTP/1.1 200"); got != with.want {
				t.Errorf("challenge %s, answer %q %q: let in %v", test.fault, with.algorithm, with.qop, got)
			}
		}
	}
}

// TestLockout: ten failures in a row, then 5 s growing to 80 s, forgotten after an hour of quiet.
func TestLockout(t *testing.T) {
	t.Parallel()
	clock := newClock()
	d := start(t, Options{Now: clock.now})
	if err := d.AddUser(User{Name: "other", Password: "Other0!!", Access: AccessAny, Realms: []uint32{3}}); err != nil {
		t.Fatal(err)
	}
	good, bad, other := newClient(t, d.NetworkURL()), newClient(t, d.NetworkURL()).as("admin", "wrong"), newClient(t, d.LocalURL()).as("other", "Other0!!")
	lets := func(c *client) bool {
		t.Helper()
		c.challenge = ""
		return c.send(actionGet, gen, "", "").code == 200
	}
	for range 9 {
		lets(bad)
	}
	if !lets(good) {
		t.Fatal("locked after nine failures")
	}
	for range 9 { // the success began the count anew
		lets(bad)
	}
	if !lets(good) {
		t.Fatal("locked after nine failures since the last success")
	}
	for range 10 {
		lets(bad)
	}
	clock.add(5 * time.Second)
	if !lets(good) {
		t.Fatal("still locked after 5 s")
	}
	for range 10 { // and the success made the next time short again
		lets(bad)
	}
	for _, seconds := range []int{5, 10, 20, 40, 80, 80} {
		clock.add(time.Duration(seconds)*time.Second - time.Millisecond)
		if lets(good) {
			t.Fatalf("let in before %d s are over", seconds)
		}
		if !lets(other) {
			t.Fatal("another account is locked too")
		}
		clock.add(time.Millisecond)
		lets(bad) // locks again
	}
	clock.add(80 * time.Second)
	if !lets(good) {
		t.Error("still locked after 80 s")
	}
	// An hour of quiet clears the count.
	for range 9 {
		lets(bad)
	}
	clock.add(time.Hour)
	lets(bad)
	if !lets(good) {
		t.Error("failures are counted for more than an hour")
	}
	if n := d.Snapshot().FailedLogons; n != 9+9+10+10+6*2+9+1 {
		t.Errorf("%d failed log-ons", n)
	}
	// A restart forgets.
	for range 10 {
		lets(bad)
	}
	d.Restart()
	if !lets(good) {
		t.Error("locked across a restart")
	}
}

func TestUsersAndRealms(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	for _, u := range []User{
		{Name: "store", Password: "Store0!!", Access: AccessLocal, Realms: []uint32{realmStorage}},
		{Name: "admin3pds", Password: "Admin0!!", Access: AccessNetwork, Realms: []uint32{realmStorageAdmin}},
		{Name: "info", Password: "Info00!!", Access: AccessAny, Realms: []uint32{realmGeneralInfo, realmHardwareAsset}},
		{Name: "all", Password: "All000!!", Access: AccessAny, Realms: []uint32{realmAdministration}},
	} {
		if err := d.AddUser(u); err != nil {
			t.Fatal(err)
		}
	}
	at := map[side]string{networkSide: d.NetworkURL(), localSide: d.LocalURL()}
	for _, test := range []struct {
		user, password string
		side           side
		class          string
		want           string // HTTP status and subcode
	}{
		{"store", "Store0!!", localSide, sto, "200 "},
		{"store", "Store0!!", localSide, adm, "400 e:AccessDenied"},
		{"store", "Store0!!", localSide, gen, "400 e:AccessDenied"},
		{"store", "Store0!!", networkSide, sto, "401 "},
		{"admin3pds", "Admin0!!", networkSide, adm, "200 "},
		{"admin3pds", "Admin0!!", networkSide, sto, "400 e:AccessDenied"},
		{"admin3pds", "Admin0!!", localSide, adm, "401 "},
		{"info", "Info00!!", networkSide, gen, "200 "},
		{"info", "Info00!!", localSide, nsCIM + "CIM_Chassis", "200 "},
		{"info", "Info00!!", localSide, aut, "400 e:AccessDenied"},
		{"all", "All000!!", localSide, sto, "200 "},
		{"all", "All000!!", networkSide, adm, "200 "},
		{"all", "All000!!", networkSide, aut, "200 "},
	} {
		a := newClient(t, at[test.side]).as(test.user, test.password).send(actionGet, test.class, "", "")
		if got := fmt.Sprint(a.code, " ", a.sub); got != test.want {
			t.Errorf("%s on the %s side, %s: %s, want %s", test.user, test.side, test.class, got, test.want)
		}
	}
	for form, want := range map[string]string{"401": "401 ", "403": "403 ", "fault": "400 e:AccessDenied"} {
		if err := d.SetFaults(Faults{LacksRealm: form}); err != nil {
			t.Fatal(err)
		}
		a := newClient(t, d.LocalURL()).as("store", "Store0!!").invoke(adm, "GetGlobalStorageAttributes")
		if got := fmt.Sprint(a.code, " ", a.sub); got != want {
			t.Errorf("lacks_realm %s: %s", form, got)
		}
	}
}

func TestAuthorizationService(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	c := newClient(t, d.NetworkURL())
	digestOf := func(user, password string) string {
		sum := md5.Sum([]byte(user + ":" + d.Snapshot().DigestRealm + ":" + password))
		return b64(string(sum[:]))
	}
	add := func(user, password string, access string, realms ...string) []string {
		args := []string{"DigestUsername", user, "DigestPassword", digestOf(user, password), "AccessPermission", access}
		for _, r := range realms {
			args = append(args, "Realms", r)
		}
		return args
	}
	play(t, c, aut, []step{
		{nil, "EnumerateUserAclEntries", []string{"StartIndex", "1"}, "TotalCount=0 HandlesCount=0 ReturnValue=0"},
		{nil, "AddUserAclEntryEx", add("store", "Store0!!", "0", "6"), "Handle=1 ReturnValue=0"},
		{nil, "AddUserAclEntryEx", add("store", "Store0!!", "0", "6"), rv(2058)},
		{nil, "AddUserAclEntryEx", add("admin", "Store0!!", "0", "6"), rv(36)},
		{nil, "AddUserAclEntryEx", add("$$user", "Store0!!", "0", "6"), rv(36)},
		{nil, "AddUserAclEntryEx", add("x", "Store0!!", "3", "6"), rv(36)},
		{nil, "AddUserAclEntryEx", add("x", "Store0!!", "2", "99"), rv(2055)},
		{nil, "AddUserAclEntryEx", []string{"KerberosUserSid", "AQUAAA==", "AccessPermission", "2", "Realms", "6"}, rv(2066)},
		{nil, "AddUserAclEntryEx", add("two", "Two000!!", "2", "6", "8"), "Handle=2 ReturnValue=0"},
		{nil, "EnumerateUserAclEntries", []string{"StartIndex", "1"}, "TotalCount=2 HandlesCount=2 Handles=1 Handles=2 ReturnValue=0"},
		{nil, "EnumerateUserAclEntries", []string{"StartIndex", "2"}, "TotalCount=2 HandlesCount=1 Handles=2 ReturnValue=0"},
		{nil, "EnumerateUserAclEntries", []string{"StartIndex", "0"}, rv(36)},
		{nil, "GetUserAclEntryEx", []string{"Handle", "2"}, "DigestUsername=two AccessPermission=2 Realms=6 Realms=8 ReturnValue=0"},
		{nil, "GetUserAclEntryEx", []string{"Handle", "3"}, rv(2053)},
		{nil, "UpdateUserAclEntryEx", append([]string{"Handle", "2"}, add("zwei", "Zwei00!!", "2", "6")...), rv(0)},
		{nil, "GetAclEnabledState", []string{"Handle", "2"}, "Enabled=true ReturnValue=0"},
		{nil, "GetAdminAclEntry", nil, "Username=admin ReturnValue=0"},
		{nil, "GetAdminAclEntryStatus", nil, "IsDefault=false ReturnValue=0"},
	})
	zwei := newClient(t, d.NetworkURL()).as("zwei", "Zwei00!!")
	if a := zwei.invoke(sto, "GetMTU"); a.code != 200 {
		t.Errorf("the new user: HTTP %d", a.code)
	}
	play(t, c, aut, []step{{nil, "SetAclEnabledState", []string{"Handle", "2", "Enabled", "false"}, rv(0)}})
	if a := zwei.invoke(sto, "GetMTU"); a.code != 401 {
		t.Errorf("a disabled user: HTTP %d", a.code)
	}
	play(t, c, aut, []step{ // changing a user does not enable it
		{nil, "UpdateUserAclEntryEx", append([]string{"Handle", "2"}, add("zwei", "Zwei00!!", "2", "6")...), rv(0)},
		{nil, "GetAclEnabledState", []string{"Handle", "2"}, "Enabled=false ReturnValue=0"},
	})
	play(t, c, aut, []step{
		{nil, "RemoveUserAclEntry", []string{"Handle", "2"}, rv(0)},
		{nil, "RemoveUserAclEntry", []string{"Handle", "2"}, rv(2053)},
	})
	for i := range 6 {
		c.must(aut, "AddUserAclEntryEx", add(fmt.Sprint("u", i), "User00!!", "2", "6")...)
	}
	play(t, c, aut, []step{
		{nil, "AddUserAclEntryEx", add("eighth", "User00!!", "2", "6"), rv(23)},
		{nil, "SetAdminAclEntryEx", []string{"Username", "boss", "DigestPassword", digestOf("boss", "Boss00!!")}, rv(0)},
	})
	if a := c.as("admin", DefaultPassword).invoke(sto, "GetMTU"); a.code != 401 {
		t.Errorf("the old administrator: HTTP %d", a.code)
	}
	if a := c.as("boss", "Boss00!!").invoke(adm, "EnumerateStorageEaclEntries"); a.code != 200 {
		t.Errorf("the new administrator: HTTP %d", a.code)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		release, mode              string
		network, local             bool // plain ports open
		networkTLS, localTLS       bool
		wantMode, provisioningMode string
	}{
		{"5.2.10", "", true, true, false, false, "smb", "2"},
		{"5.2.10", "enterprise", true, true, true, true, "enterprise", "1"},
		{"11.8.50", "", true, true, true, true, "enterprise", "1"},
		{"11.8.50", "client", true, true, true, true, "client", "4"},
		{"16.0.0", "", true, true, true, true, "enterprise", "1"},
		{"16.1.25", "", false, true, true, true, "enterprise", "1"},
		{"19.0.5", "", false, false, true, true, "enterprise", "1"},
	} {
		d := start(t, Options{Release: test.release, Mode: test.mode, NetworkTLS: defaultAddress, LocalTLS: defaultAddress})
		for url, want := range map[string]bool{d.NetworkURL(): test.network, d.LocalURL(): test.local, d.NetworkTLSURL(): test.networkTLS, d.LocalTLSURL(): test.localTLS} {
			_, address, _ := strings.Cut(url, "://")
			c, err := net.Dial("tcp", address)
			if err == nil {
				c.Close()
			}
			if got := err == nil; got != want {
				t.Errorf("%s %s: %s open %v, want %v", test.release, test.mode, url, got, want)
			}
		}
		if got := d.Snapshot().Mode; got != test.wantMode {
			t.Errorf("%s: mode %s", test.release, got)
		}
		if !test.networkTLS {
			continue
		}
		c := newClient(t, d.NetworkTLSURL())
		c.http.Transport.(*http.Transport).TLSClientConfig = tlsTrust(t, d)
		if got := c.send(actionGet, sac, "", "").get("ProvisioningMode"); got != test.provisioningMode {
			t.Errorf("%s: ProvisioningMode %s", test.release, got)
		}
	}
}

package amtsim

import (
	"bytes"
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a firmware clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2022, 1, 31, 10, 23, 4, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func start(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// client is a plain WS-Management client: net/http, encoding/xml, and the digest of RFC 2617 written out.
type client struct {
	t              testing.TB
	url            string
	user, password string
	http           *http.Client
	challenge      string
	nc             int
	ids            int
}

func newClient(t testing.TB, url string) *client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, url: url + "/wsman", user: DefaultUser, password: DefaultPassword, http: &http.Client{Transport: tr, Timeout: 20 * time.Second}}
}

func (c *client) as(user, password string) *client {
	o := newClient(c.t, strings.TrimSuffix(c.url, "/wsman"))
	o.user, o.password = user, password
	return o
}

func md5hex(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }

// between cuts what stands between two strings.
func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

func (c *client) authorization(method, uri string) string {
	realm, nonce := between(c.challenge, `realm="`, `"`), between(c.challenge, `nonce="`, `"`)
	c.nc++
	nc := fmt.Sprintf("%08x", c.nc)
	const cnonce = "0a4f113b"
	response := md5hex(md5hex(c.user+":"+realm+":"+c.password) + ":" + nonce + ":" + nc + ":" + cnonce + ":auth:" + md5hex(method+":"+uri))
	return fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", response="%s", qop=auth, nc=%s, cnonce="%s"`,
		c.user, realm, nonce, uri, response, nc, cnonce)
}

// post sends a body, answering one challenge.
func (c *client) post(body string) (int, string) {
	c.t.Helper()
	code, answer, err := c.try(body)
	if err != nil {
		c.t.Fatal(err)
	}
	return code, answer
}

func (c *client) try(body string) (int, string, error) {
	for attempt := 0; ; attempt++ {
		r, err := http.NewRequest("POST", c.url, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		r.Header.Set("Content-Type", "application/soap+xml; charset=utf-8")
		if c.challenge != "" {
			r.Header.Set("Authorization", c.authorization("POST", "/wsman"))
		}
		answer, err := c.http.Do(r)
		if err != nil {
			return 0, "", err
		}
		b, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return 0, "", err
		}
		if answer.StatusCode != http.StatusUnauthorized {
			return answer.StatusCode, string(b), nil
		}
		old := c.challenge
		c.challenge, c.nc = answer.Header.Get("WWW-Authenticate"), 0
		if attempt > 0 || old != "" && attempt > 0 {
			c.challenge = ""
			return answer.StatusCode, string(b), nil
		}
	}
}

const (
	sto = nsAMT + "AMT_ThirdPartyDataStorageService"
	adm = nsAMT + "AMT_ThirdPartyDataStorageAdministrationService"
	aut = nsAMT + "AMT_AuthorizationService"
	sac = nsAMT + "AMT_SetupAndConfigurationService"
	gen = nsAMT + "AMT_GeneralSettings"
)

func envelope(action, resource, id, selectors, body string) string {
	return `<?xml version="1.0" encoding="utf-8"?><Envelope xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"` +
		` xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:a="` + nsAddressing + `" xmlns:w="` + nsWSMan + `" xmlns="` + nsSOAP + `"><Header>` +
		`<a:Action>` + action + `</a:Action><a:To>/wsman</a:To><w:ResourceURI>` + resource + `</w:ResourceURI><a:MessageID>` + id +
		`</a:MessageID><a:ReplyTo><a:Address>` + anonymous + `</a:Address></a:ReplyTo><w:OperationTimeout>PT60S</w:OperationTimeout>` + selectors +
		`</Header><Body>` + body + `</Body></Envelope>`
}

// answer is a reply taken apart.
type answer struct {
	code   int
	raw    string
	body   []string // "name=text" of every leaf in the Body
	sub    string   // fault subcode
	action string
}

func (c *client) send(action, resource, selectors, body string) answer {
	c.t.Helper()
	c.ids++
	code, raw := c.post(envelope(action, resource, strconv.Itoa(c.ids), selectors, body))
	return parseAnswer(c.t, code, raw)
}

func parseAnswer(t testing.TB, code int, raw string) answer {
	t.Helper()
	a := answer{code: code, raw: raw}
	if !strings.HasPrefix(raw, "<?xml") {
		return a
	}
	dec := xml.NewDecoder(strings.NewReader(raw))
	var stack []string
	var text strings.Builder
	leaf, inBody := false, false
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("reply is no XML: %v\n%s", err, raw)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			stack, leaf = append(stack, e.Name.Local), true
			text.Reset()
			if e.Name.Local == "Body" && e.Name.Space == nsSOAP {
				inBody = true
			}
		case xml.CharData:
			text.Write(e)
		case xml.EndElement:
			name := stack[len(stack)-1]
			if leaf {
				if inBody {
					a.body = append(a.body, name+"="+text.String())
				}
				if name == "Action" {
					a.action = text.String()
				}
				if name == "Value" && len(stack) > 1 && stack[len(stack)-2] == "Subcode" {
					a.sub = text.String()
				}
			}
			stack, leaf = stack[:len(stack)-1], false
		}
	}
	return a
}

// get is the first value of a name.
func (a answer) get(name string) string {
	for _, l := range a.body {
		if n, v, _ := strings.Cut(l, "="); n == name {
			return v
		}
	}
	return ""
}

func (a answer) all(name string) (values []string) {
	for _, l := range a.body {
		if n, v, _ := strings.Cut(l, "="); n == name {
			values = append(values, v)
		}
	}
	return values
}

// outputs is the whole output of a method in one line, or the fault.
func (a answer) outputs() string {
	if a.sub != "" {
		return a.sub
	}
	return strings.Join(a.body, " ")
}

// input writes an input element; args are names and values in turn.
func input(class, method string, args ...string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<r:%s_INPUT xmlns:r="%s">`, method, class)
	for i := 0; i < len(args); i += 2 {
		fmt.Fprintf(&b, "<r:%s>", args[i])
		xml.EscapeText(&b, []byte(args[i+1]))
		fmt.Fprintf(&b, "</r:%s>", args[i])
	}
	fmt.Fprintf(&b, `</r:%s_INPUT>`, method)
	return b.String()
}

func (c *client) invoke(class, method string, args ...string) answer {
	c.t.Helper()
	return c.send(class+"/"+method, class, "", input(class, method, args...))
}

// must invokes and wants ReturnValue 0.
func (c *client) must(class, method string, args ...string) answer {
	c.t.Helper()
	a := c.invoke(class, method, args...)
	if a.code != 200 || a.get("ReturnValue") != "0" {
		c.t.Fatalf("%s%q: HTTP %d, %s", method, args, a.code, a.outputs())
	}
	return a
}

const testUUID = "13AEE355D2BFBB6117A088AEDD7037EA"

// application is a registered instance in a test.
type instanceOf struct {
	c       *client
	session string
	handle  string
}

func (c *client) register(id, vendor, name, enterprise string) *instanceOf {
	c.t.Helper()
	a := &instanceOf{c: c}
	a.session = c.must(sto, "RegisterApplication", "CallerUUID", id, "VendorName", vendor, "ApplicationName", name, "EnterpriseName", enterprise).get("SessionHandle")
	a.handle = a.must("GetCurrentApplicationHandle").get("ApplicationHandle")
	return a
}

func (a *instanceOf) invoke(method string, args ...string) answer {
	a.c.t.Helper()
	return a.c.invoke(sto, method, append([]string{"SessionHandle", a.session}, args...)...)
}

func (a *instanceOf) must(method string, args ...string) answer {
	a.c.t.Helper()
	return a.c.must(sto, method, append([]string{"SessionHandle", a.session}, args...)...)
}

func (a *instanceOf) block(name string, hidden bool) string {
	a.c.t.Helper()
	return a.must("AllocateBlock", "BytesRequested", "4096", "BlockHidden", strconv.FormatBool(hidden), "BlockName", name).get("BlockHandle")
}

func uuidOf(n int) string { return fmt.Sprintf("%032X", n) }

package wsman

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// canned is a device for benchmarks: it answers 401 to what carries no credentials, and the same reply to all else. It
// allocates nothing per request, so that all allocations counted are the client's.
type canned struct {
	listener net.Listener
	conns    atomic.Int64
}

// firstID makes all MessageIDs of a benchmark ten digits long, so that the canned reply's length is constant.
const firstID = 1_000_000_000

func startCanned(b testing.TB, reply string) *canned {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &canned{listener: l}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			go serveCanned(nc, []byte(reply))
		}
	}()
	return s
}

func serveCanned(nc net.Conn, reply []byte) {
	defer nc.Close()
	var (
		buf       [16 << 10]byte
		challenge = []byte(captured401)
		end       = []byte("</Envelope>")
		idOpen    = []byte("<a:MessageID>")
		authorize = []byte("\r\nAuthorization: ")
		at        = bytes.Index(reply, []byte("0000000000</b:RelatesTo>"))
	)
	for n := 0; ; {
		m, err := nc.Read(buf[n:])
		if err != nil {
			return
		}
		n += m
		if !bytes.HasSuffix(buf[:n], end) {
			continue
		}
		if !bytes.Contains(buf[:n], authorize) {
			nc.Write(challenge)
			return
		}
		id := bytes.Index(buf[:n], idOpen) + len(idOpen)
		copy(reply[at:at+10], buf[id:])
		if _, err := nc.Write(reply); err != nil {
			return
		}
		n = 0
	}
}

func benchClient(b testing.TB, s *canned) *Client {
	b.Helper()
	c, err := NewClient(Endpoint{URL: "http://" + s.listener.Addr().String(), User: testUser, Password: testPassword})
	if err != nil {
		b.Fatal(err)
	}
	c.lastID = firstID
	b.Cleanup(func() { c.Close() })
	return c
}

func cannedGet() string {
	return okHead + chunks(envelope("0000000000", getResponse, generalSettings, settingsBody), 544, 762, 762)
}

// BenchmarkGet is a Get of AMT_GeneralSettings (24 properties, 2.9 KB) with log-on and decoding, client and device sharing
// the processors. The aim: at most 100 µs and 120 allocations.
func BenchmarkGet(b *testing.B) {
	s := startCanned(b, cannedGet())
	c := benchClient(b, s)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := c.Get(ctx, generalSettings); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		in, err := c.Get(ctx, generalSettings)
		if err != nil {
			b.Fatal(err)
		}
		if v, _ := in.Value("WsmanOnlyMode"); v != "false" {
			b.Fatalf("WsmanOnlyMode %q", v)
		}
	}
	b.ReportMetric(float64(s.conns.Load()), "conns")
}

// BenchmarkInvoke is a ReadBlock of 3000 bytes: the largest transfer of the host ID's storage.
func BenchmarkInvoke(b *testing.B) {
	data := strings.Repeat("/", 4000)
	s := startCanned(b, okHead+chunks(envelope("0000000000", storage+"/ReadBlockResponse", storage,
		"<g:ReadBlock_OUTPUT><g:Data>"+data+"</g:Data><g:ReturnValue>0</g:ReturnValue></g:ReadBlock_OUTPUT>"), 544, 762, 762))
	c := benchClient(b, s)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := []Param{{"SessionHandle", "0001E24000000001"}, {"BlockHandle", "1"}, {"ByteOffset", "0"}, {"ByteCount", "3000"}}
	if _, err := c.Invoke(ctx, storage, "ReadBlock", in...); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		out, err := c.Invoke(ctx, storage, "ReadBlock", in...)
		if err != nil {
			b.Fatal(err)
		}
		if v, _ := out.Value("Data"); len(v) != len(data) {
			b.Fatalf("%d bytes", len(v))
		}
	}
	b.ReportMetric(float64(s.conns.Load()), "conns")
}

// BenchmarkGetConnect is the first Get of a client: two connections, a challenge, and the answer.
func BenchmarkGetConnect(b *testing.B) {
	s := startCanned(b, cannedGet())
	b.ReportAllocs()
	for b.Loop() {
		c, err := NewClient(Endpoint{URL: "http://" + s.listener.Addr().String(), User: testUser, Password: testPassword})
		if err != nil {
			b.Fatal(err)
		}
		c.lastID = firstID
		if _, err := c.Get(context.Background(), generalSettings); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	b.ReportMetric(float64(s.conns.Load())/float64(b.N), "conns/op")
}

// BenchmarkStandardLibrary is the same Get as one would write it with net/http and encoding/xml, with the digest already
// computed: what the decision for our own transport and decoder is measured against.
func BenchmarkStandardLibrary(b *testing.B) {
	s := startCanned(b, cannedGet())
	url := "http://" + s.listener.Addr().String() + "/wsman"
	c := benchClient(b, s)
	m := message{action: nsTransfer + "/Get"}
	if err := c.openEnvelope(&m, generalSettings, nil); err != nil {
		b.Fatal(err)
	}
	c.closeEnvelope()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequestWithContext(context.Background(), "POST", url, bytes.NewReader(c.body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", `Digest username="admin", realm="`+testRealm+`", nonce="`+testNonce+`", uri="/wsman", response="0", qop=auth, nc=00000001, cnonce="0"`)
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		var reply struct {
			Body struct {
				Instance struct {
					Properties []struct {
						XMLName xml.Name
						Text    string `xml:",chardata"`
					} `xml:",any"`
				} `xml:",any"`
			}
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			err = xml.Unmarshal(text, &reply)
		}
		if err != nil || len(reply.Body.Instance.Properties) != 24 {
			b.Fatalf("%v, %d properties", err, len(reply.Body.Instance.Properties))
		}
	}
	b.ReportMetric(float64(s.conns.Load()), "conns")
}

// BenchmarkDecode is the decoding of one Get's reply alone.
func BenchmarkDecode(b *testing.B) {
	doc := envelope("1", getResponse, generalSettings, settingsBody)
	m := message{action: nsTransfer + "/Get", id: 1}
	var d decoder
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.openReply(doc, m, 200); err != nil {
			b.Fatal(err)
		}
		if _, err := d.instance(); err != nil {
			b.Fatal(err)
		}
		if err := d.finish(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations holds what the decision for our own transport and decoder promises, with room for a new Go. It does not
// run in parallel: other tests' allocations would count.
func TestAllocations(t *testing.T) {
	c := benchClient(t, startCanned(t, cannedGet()))
	ctx := testContext(t)
	get := func() {
		if _, err := c.Get(ctx, generalSettings); err != nil {
			t.Fatal(err)
		}
	}
	get()
	if n := testing.AllocsPerRun(200, get); n > 20 {
		t.Errorf("%.0f allocations per Get, want at most 20", n)
	}
}

package amtsim

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// getter sends Gets over one connection with a rising nc, and reads the replies without decoding them: the cost measured
// is the device's.
type getter struct {
	c         net.Conn
	r         *bufio.Reader
	challenge string
	ha1, ha2  string
	body      string
	nc        int
	out       []byte
}

func newGetter(t testing.TB, url string) *getter {
	challenge := challengeOf(t, url)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	realm := between(challenge, `realm="`, `"`)
	return &getter{c: c, r: bufio.NewReaderSize(c, 8192), challenge: challenge, body: requestBody(),
		ha1: md5hex(DefaultUser + ":" + realm + ":" + DefaultPassword), ha2: md5hex("POST:/wsman")}
}

func (g *getter) get() error {
	g.nc++
	nc := fmt.Sprintf("%08x", g.nc)
	nonce := between(g.challenge, `nonce="`, `"`)
	response := md5hex(g.ha1 + ":" + nonce + ":" + nc + ":c0ffee:auth:" + g.ha2)
	g.out = append(g.out[:0], "POST /wsman HTTP/1.1\r\nHost: x\r\nAuthorization: Digest username=\"admin\", realm=\""...)
	g.out = append(append(g.out, between(g.challenge, `realm="`, `"`)...), `", nonce="`...)
	g.out = append(append(append(g.out, nonce...), `", uri="/wsman", response="`...), response...)
	g.out = append(append(g.out, `", qop=auth, nc=`...), nc...)
	g.out = append(strconv.AppendInt(append(g.out, ", cnonce=\"c0ffee\"\r\nContent-Length: "...), int64(len(g.body)), 10), "\r\n\r\n"...)
	g.out = append(g.out, g.body...)
	if _, err := g.c.Write(g.out); err != nil {
		return err
	}
	line, err := g.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("%s", line)
	}
	for len(line) > 2 {
		if line, err = g.r.ReadSlice('\n'); err != nil {
			return err
		}
	}
	for {
		if line, err = g.r.ReadSlice('\n'); err != nil {
			return err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(line)), 16, 32)
		if err != nil {
			return err
		}
		if _, err := g.r.Discard(int(n) + 2); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// BenchmarkGet is one device and one connection: the time of a Get, its client included.
func BenchmarkGet(b *testing.B) {
	d := start(b, Options{})
	g := newGetter(b, d.NetworkURL())
	b.ReportAllocs()
	for b.Loop() {
		if err := g.get(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

// BenchmarkGetParallel is a device with a connection per client goroutine: the promise is 8,000 Gets per second on two
// processors, clients included.
func BenchmarkGetParallel(b *testing.B) {
	d := start(b, Options{})
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		g := newGetter(b, d.NetworkURL())
		for pb.Next() {
			if err := g.get(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

// BenchmarkHandle is the firmware alone: a message parsed and answered, without HTTP.
func BenchmarkHandle(b *testing.B) {
	d := start(b, Options{})
	body := requestBody()
	var m message
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		err := m.read(body)
		d.mu.Lock()
		out, _ = d.handle(&m, err, d.admin, networkSide, out[:0])
		d.mu.Unlock()
	}
}

// TestThroughput holds a floor far below what the benchmark shows, so that a busy machine does not fail it.
func TestThroughput(t *testing.T) {
	d := start(t, Options{})
	g := newGetter(t, d.NetworkURL())
	const n = 2000
	began := time.Now()
	for range n {
		if err := g.get(); err != nil {
			t.Fatal(err)
		}
	}
	if rate := n / time.Since(began).Seconds(); rate < 800 {
		t.Errorf("%.0f Gets per second over one connection", rate)
	}
	if c := d.Snapshot().Connections; c != 2 {
		t.Errorf("%d connections for %d Gets", c, n)
	}
}

// TestMemory: 2,000 fresh devices take less than 200 MB, and a device that was written to one block more.
func TestMemory(t *testing.T) {
	const devices = 2000
	if limit := openFiles(); limit > 0 && limit < 2*devices+reserved {
		t.Skipf("SKIPPED: %d devices need %d open files, the limit is %d (ulimit -n)", devices, 2*devices+reserved, limit)
	}
	before := resident(t)
	f, err := StartFleet(FleetOptions{Devices: devices, Network: netip.MustParseAddr("127.20.0.1"), Local: netip.MustParseAddr("127.24.0.1"), Port: 16992})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	took := resident(t) - before
	t.Logf("%d devices take %d MB", devices, took>>20)
	if took > 200<<20 {
		t.Errorf("%d devices take %d MB", devices, took>>20)
	}
	for _, i := range []int{0, devices - 1} {
		newClient(t, f.Devices[i].LocalURL()).must(sto, "GetMTU")
	}
}

// resident is the memory of this process in bytes, after a collection.
func resident(t *testing.T) int64 {
	runtime.GC()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil { // not Linux: what the runtime has of the system, without stacks of the kernel
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.Sys)
	}
	n, err := strconv.ParseInt(strings.Fields(between(string(b), "VmRSS:", "kB"))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

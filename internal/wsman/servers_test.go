package wsman

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// These tests put digest servers that others wrote in front of a device without log-on, so that our digest agrees with
// the world and not just with our own reading of it. A missing server fails them, unless SAMEHOST_SKIP_INTEROP is set.
//
// The realm has no colon, as AMT's has, since the servers' files part user, realm and hash by colons; and no quotes, since
// neither server gets them right (lighttpd sends them bare, Apache compares the escaped realm with the unescaped one).
// Apache's user has quotes; lighttpd does not undo their escapes.
const (
	interopRealm    = `A407, = %20`
	lighttpdUser    = `admin`
	apacheUser      = `ad"min\1`
	interopPassword = `P@ss:wörd"!`
)

// findServer gives the path of a server program.
func findServer(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	if os.Getenv("SAMEHOST_SKIP_INTEROP") != "" {
		t.Skipf("SKIPPED, NOT TESTED: %s is not installed and SAMEHOST_SKIP_INTEROP is set", name)
	}
	t.Fatalf("%s is not installed: install the packages lighttpd and apache2, or set SAMEHOST_SKIP_INTEROP=1 to go without this test", name)
	return ""
}

var serverHosts atomic.Int32

// ownHost is a loopback address that nothing else uses; the server listens at its serverPort. A free port of 127.0.0.1
// would not do: until the server listens on it, any connection that is made on this machine may take it.
func ownHost() string { return fmt.Sprintf("127.123.%d.1", serverHosts.Add(1)) }

const serverPort = "8080"

// runServer starts a server program in the foreground and waits until it listens. It ends with the test.
func runServer(t *testing.T, host, program string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // lets it end its own children
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s says: %s", filepath.Base(program), output.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; {
		nc, err := net.DialTimeout("tcp", host+":"+serverPort, time.Second)
		if err == nil {
			nc.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", program, output.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen: %v", program, err)
		}
	}
}

// writeFile writes into a folder that a server running as another user can read.
func writeFile(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// serverDir is the test's folder, open to the user that a server changes to.
func serverDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// backend is the device behind the servers: it wants no log-on, and says what it is asked.
func backend(t *testing.T) *device {
	return newDevice(t, func(r request) answer {
		body := mtuReply(r)
		if strings.Contains(r.body, "transfer/Get") {
			body = getReply(r)
		}
		return answer{raw: plainOK(fmt.Sprintf("Content-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: %d\r\nConnection: close\r\n", len(body)), body), close: true}
	})
}

// refusals counts the 401s that a client receives, and its connections.
type refusals struct{ count, conns atomic.Int64 }

func (c *refusals) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	c.conns.Add(1)
	return refusalConn{nc, c}, err
}

type refusalConn struct {
	net.Conn
	counter *refusals
}

func (c refusalConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.HasPrefix(p[:n], []byte("HTTP/1.1 401")) {
		c.counter.count.Add(1)
	}
	return n, err
}

// checkServer logs on to a server: rightly, wrongly, and many times on one nonce.
func checkServer(t *testing.T, host, user string, sha256 bool) {
	t.Helper()
	var seen refusals
	e := Endpoint{URL: "http://" + host + ":" + serverPort, User: user, Password: interopPassword, Dial: seen.dial}
	c := newTestClient(t, e)
	for i := range 20 {
		in, err := c.Get(testContext(t), generalSettings, Selector{"InstanceID", "Intel(r) AMT: General Settings"})
		if err != nil {
			t.Fatalf("Get %d: %v", i, err)
		}
		if v, _ := in.Value("DigestRealm"); v != testRealm {
			t.Errorf("realm %q", v)
		}
		out, err := c.Invoke(testContext(t), storage, "GetMTU")
		if err != nil {
			t.Fatalf("Invoke %d: %v", i, err)
		}
		if v, _ := out.Value("Mtu"); v != "4096" {
			t.Errorf("MTU %q", v)
		}
	}
	if c.auth.ch.sha256 != sha256 || !c.auth.ch.qopAuth {
		t.Errorf("the challenge chosen is %+v", c.auth.ch)
	}
	if seen.count.Load() != 1 || seen.conns.Load() > 2 {
		t.Errorf("%d refusals and %d connections for 40 calls", seen.count.Load(), seen.conns.Load())
	}
	e.Password = "wrong"
	if _, err := newTestClient(t, e).Get(testContext(t), generalSettings); !errors.Is(err, ErrLogOn) {
		t.Errorf("a wrong password: %v", err)
	}
	if got := seen.count.Load(); got != 3 {
		t.Errorf("a wrong password was refused %d times, want 2: no credentials, wrong credentials", got-1)
	}
}

func TestLighttpd(t *testing.T) {
	t.Parallel()
	program := findServer(t, "lighttpd")
	a1 := lighttpdUser + ":" + interopRealm + ":" + interopPassword
	md := fmt.Sprintf("%s:%s:%x\n", lighttpdUser, interopRealm, md5.Sum([]byte(a1)))
	sha := fmt.Sprintf("%s:%s:%x\n", lighttpdUser, interopRealm, sha256.Sum256([]byte(a1)))
	for _, test := range []struct {
		name, algorithm, users string
		sha256                 bool
	}{
		{"MD5", "MD5", md, false},
		{"SHA-256", "SHA-256", sha, true},
		{"both", "MD5|SHA-256", md + sha, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, listen := serverDir(t), ownHost()
			behind := backend(t)
			host, backendPort, _ := net.SplitHostPort(behind.listener.Addr().String())
			users := writeFile(t, dir, "users", test.users)
			config := writeFile(t, dir, "lighttpd.conf", fmt.Sprintf(`server.modules = ("mod_auth", "mod_authn_file", "mod_proxy")
server.document-root = %q
server.bind = %q
server.port = %s
server.max-keep-alive-requests = 1000
auth.backend = "htdigest"
auth.backend.htdigest.userfile = %q
auth.require = ("/" => ("method" => "digest", "algorithm" => %q, "realm" => %q, "require" => "valid-user"))
proxy.server = ("" => (("host" => %q, "port" => %s)))
`, dir, listen, serverPort, users, test.algorithm, interopRealm, host, backendPort))
			runServer(t, listen, program, "-D", "-f", config)
			checkServer(t, listen, lighttpdUser, test.sha256)
			if _, requests := behind.seen(); len(requests) != 40 {
				t.Errorf("%d requests came through, want 40", len(requests))
			}
		})
	}
}

// startApache starts a server whose nonces live for so many seconds.
func startApache(t *testing.T, behind *device, nonceLife int) (host string) {
	t.Helper()
	program := findServer(t, "apache2")
	dir := serverDir(t)
	host = ownHost()
	modules := "/usr/lib/apache2/modules"
	users := writeFile(t, dir, "users", fmt.Sprintf("%s:%s:%x\n", apacheUser, interopRealm, md5.Sum([]byte(apacheUser+":"+interopRealm+":"+interopPassword))))
	var load strings.Builder
	for _, m := range []string{"mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest", "proxy", "proxy_http"} {
		fmt.Fprintf(&load, "LoadModule %s_module %s/mod_%s.so\n", m, modules, m)
	}
	user := ""
	if os.Getuid() == 0 { // it will not serve as root
		user = "User www-data\nGroup www-data\n"
	}
	config := writeFile(t, dir, "apache.conf", load.String()+user+fmt.Sprintf(`ServerRoot %q
DefaultRuntimeDir %q
PidFile %q
ErrorLog "/dev/stderr"
ServerName %s
Listen %s:%s
StartServers 1
KeepAlive On
MaxKeepAliveRequests 0
<Location "/">
  AuthType Digest
  AuthName "%s"
  AuthDigestProvider file
  AuthDigestQop auth
  AuthDigestNonceLifetime %d
  AuthUserFile %q
  Require valid-user
</Location>
ProxyPass "/" %q
`, dir, dir, filepath.Join(dir, "pid"), host, host, serverPort, interopRealm, nonceLife, users, behind.url()+"/"))
	runServer(t, host, program, "-D", "FOREGROUND", "-f", config)
	return host
}

func TestApache(t *testing.T) {
	t.Parallel()
	behind := backend(t)
	checkServer(t, startApache(t, behind, 300), apacheUser, false)
	if _, requests := behind.seen(); len(requests) != 40 {
		t.Errorf("%d requests came through, want 40", len(requests))
	}
}

// TestApacheNonceExpires: Apache announces a next nonce with each answer when nonces live for less than 30 seconds, and
// refuses an expired one.
func TestApacheNonceExpires(t *testing.T) {
	t.Parallel()
	behind := backend(t)
	host := startApache(t, behind, 1)
	var seen refusals
	c := newTestClient(t, Endpoint{URL: "http://" + host + ":" + serverPort, User: apacheUser, Password: interopPassword, Dial: seen.dial})
	ctx := testContext(t)
	if _, err := c.Get(ctx, generalSettings); err != nil {
		t.Fatal(err)
	}
	first := c.auth.ch.nonce
	if !strings.Contains(first, "=") {
		t.Errorf("nonce %q was thought to hold a =", first)
	}
	// With the announced nonces, calls go on beyond the life of any of them without a refusal. A machine that stalls for
	// a second in between may see one.
	for begin := time.Now(); time.Since(begin) < 1500*time.Millisecond; {
		if _, err := c.Get(ctx, generalSettings); err != nil {
			t.Fatal(err)
		}
	}
	if c.auth.ch.nonce == first {
		t.Error("the announced nonce is not used")
	}
	// The first nonce has expired by now: it is refused, and the Invoke done once, with a fresh one.
	refused := seen.count.Load()
	_, before := behind.seen()
	c.auth.renew(first)
	if _, err := c.Invoke(ctx, storage, "GetMTU"); err != nil {
		t.Fatal(err)
	}
	_, after := behind.seen()
	if got := seen.count.Load() - refused; got != 1 || len(after)-len(before) != 1 {
		t.Errorf("%d refusals, and the device executed it %d times; want 1 and 1", got, len(after)-len(before))
	}
}

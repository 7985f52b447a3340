package manager

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func initialized(t *testing.T) (dir string, made Initialized) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "m")
	made, err := Init(t.Context(), dir, "127.0.0.1:0")
	must(t, err)
	return dir, made
}

func database(dir string) string { return "sqlite:" + filepath.Join(dir, databaseFile) }

func TestCertificates(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	now := time.Now()
	certs, err := loadCertificates(dir, "manager.example", nil, func() time.Time { return now })
	must(t, err)
	first, err := certs.get(nil)
	must(t, err)
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, caFile))
	must(t, err)
	roots.AppendCertsFromPEM(pem)
	host, err := os.Hostname()
	must(t, err)
	for _, name := range []string{"manager.example", "localhost", "127.0.0.1", "::1", host} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: "other.example", Roots: roots}); err == nil {
		t.Error("good for a name that it does not have")
	}
	if len(first.Certificate) != 2 {
		t.Errorf("a chain of %d certificates: whoever pins the CA needs it in there", len(first.Certificate))
	}

	// The same one until a third of its time is left, then another, while running.
	now = now.AddDate(0, 0, serverDays*2/3-1)
	if again, _ := certs.get(nil); again != first {
		t.Error("renewed too early")
	}
	now = now.AddDate(0, 0, 2)
	renewed, err := certs.get(nil)
	must(t, err)
	if renewed == first || !renewed.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("not renewed")
	}
	if _, err := renewed.Leaf.Verify(x509.VerifyOptions{DNSName: "localhost", Roots: roots, CurrentTime: now}); err != nil {
		t.Error(err)
	}
}

func TestCertificateForEveryAddress(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, host := range []string{"", "0.0.0.0", "::"} {
		certs, err := loadCertificates(dir, host, nil, time.Now)
		must(t, err)
		leaf := certs.current.Leaf
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			if err := leaf.VerifyHostname(ip.String()); err != nil && !ip.IsLoopback() {
				t.Errorf("listening on %q: %v", host, err)
			}
		}
	}
}

// A real handshake under each further name; no name twice in the certificate.
func TestFurtherNames(t *testing.T) {
	t.Parallel()
	dir, made := initialized(t)
	host, err := os.Hostname()
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	listening := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Options{DataDir: dir, Database: database(dir), Listen: "127.0.0.1:0",
			Names: []string{"manager.example", "192.0.2.7", "Manager.EXAMPLE", "LOCALHOST", "::1", "2001:DB8::7", "2001:db8:0::7"},
			Log:   slog.New(slog.DiscardHandler), Listening: func(a net.Addr) { listening <- a }})
	}()
	var addr net.Addr
	select {
	case addr = <-listening:
	case err := <-ended:
		t.Fatal(err)
	}
	pem, err := os.ReadFile(made.CAFile)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var leaf *x509.Certificate
	for _, name := range []string{"manager.example", "MANAGER.example", "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1", "::1", host} {
		c, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: roots, ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		leaf = c.ConnectionState().PeerCertificates[0]
		c.Close()
	}
	var wrong x509.HostnameError
	if c, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: roots, ServerName: "other.example"}); !errors.As(err, &wrong) {
		t.Errorf("other.example: %v", err)
		if err == nil {
			c.Close()
		}
	}
	if leaf != nil {
		wantNames := []string{"localhost", host, "manager.example"}
		if host == "localhost" {
			wantNames = wantNames[1:]
		}
		var ips []string
		for _, ip := range leaf.IPAddresses {
			ips = append(ips, ip.String())
		}
		if d := cmp.Diff([][]string{wantNames, {"127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"}}, [][]string{leaf.DNSNames, ips}); d != "" {
			t.Errorf("certificate (-want +got):\n%s", d)
		}
	}
	stop()
	must(t, <-ended)
}

// Told to end before it has begun, it ends in order: that is no failure of the service.
func TestServeEndsBeforeItBegins(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	for _, d := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond} {
		ctx, stop := context.WithCancel(t.Context())
		timer := time.AfterFunc(d, stop)
		if d == 0 {
			stop()
		}
		if err := Serve(ctx, Options{DataDir: dir, Database: database(dir), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Errorf("ended after %s: %v", d, err)
		}
		timer.Stop()
		stop()
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	dir, made := initialized(t)
	var log strings.Builder
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	listening := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Options{DataDir: dir, Database: database(dir), Listen: "127.0.0.1:0",
			Log: slog.New(slog.NewTextHandler(&log, nil)), Listening: func(a net.Addr) { listening <- a }})
	}()
	var addr net.Addr
	select {
	case addr = <-listening:
	case err := <-ended:
		t.Fatal(err)
	}
	pem, err := os.ReadFile(made.CAFile)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	client := &http.Client{Transport: transport}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/": 404, checkin.Path: 405} {
		res, err := client.Get("https://" + addr.String() + path)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, res.Status, want)
		}
	}
	res, err := client.Post("https://"+addr.String()+checkin.Path, "application/jose", strings.NewReader(strings.Repeat("x", 1<<20)))
	must(t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a report of 1 MiB: %s", res.Status)
	}
	old := &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	if c, err := tls.Dial("tcp", addr.String(), old); err == nil {
		c.Close()
		t.Error("TLS 1.1 is taken")
	}

	// A second one is kept out of the folder, and out of the address.
	quiet := slog.New(slog.DiscardHandler)
	if err := Serve(ctx, Options{DataDir: dir, Database: database(dir), Listen: "127.0.0.1:0", Log: quiet}); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	other, _ := initialized(t)
	err = Serve(ctx, Options{DataDir: other, Database: database(other), Listen: addr.String(), Log: quiet})
	if err == nil || !strings.Contains(err.Error(), "another program uses this address") {
		t.Errorf("got %v", err)
	}

	transport.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("told to end: %v", err)
	}
	tok, err := checkin.ParseToken(made.Token)
	must(t, err)
	if strings.Contains(log.String(), made.Token) || strings.Contains(log.String(), string(tok.Secret[:])) {
		t.Error("the log holds the token")
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	reg, err := OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	h := handler(reg, reg, Options{Log: slog.New(slog.DiscardHandler)}, nil)
	must(t, reg.Close())
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != want {
			t.Errorf("%s without a database: %d, want %d", path, rec.Code, want)
		}
	}
}

func TestInitLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the database cannot be made: the last thing of all
	if _, err := Init(ctx, filepath.Join(parent, "m"), DefaultListen); err == nil {
		t.Fatal("made under a context that had ended")
	}
	entries, err := os.ReadDir(parent)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	dir, made := initialized(t)
	file := filepath.Join(t.TempDir(), "backup.tar")
	must(t, Backup(t.Context(), dir, database(dir), made.Config, file))
	info, err := os.Stat(file)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o", info.Mode().Perm())
	}
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	restored := filepath.Join(t.TempDir(), "r")
	must(t, os.Mkdir(restored, 0o700))
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		names = append(names, h.Name)
		data, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(restored, h.Name), data, 0o600))
	}
	slices.Sort(names)
	want := []string{caKeyFile, caFile, keyFile, configFile, databaseFile}
	slices.Sort(want)
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	reg, err := OpenRegistry(t.Context(), restored, database(restored))
	must(t, err)
	defer reg.Close()
	toks, err := reg.Tokens(t.Context())
	must(t, err)
	if len(toks) != 1 || !strings.Contains(made.Token, toks[0].ID) {
		t.Errorf("tokens %+v", toks)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	must(t, err)
	if len(left) != 1 {
		t.Errorf("left beside the backup: %v", left)
	}
	if err := Backup(t.Context(), dir, database(dir), made.Config, file); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a backup over another: %v", err)
	}
}

// result is an error as SQLite's driver gives it.
type result int

func (result) Error() string { return "r" }
func (r result) Code() int   { return int(r) }

func TestWithRemedy(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{other, "other"},
		{fmt.Errorf("x: %w", result(13)), "x: r; make room on that disk, then do this again"},
		{&fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, "write p: no space left on device; make room on that disk, then do this again"},
		{result(11 | 1<<8), "r; the database is damaged: end serve and put back the one from a backup"}, // an extended code
		{result(10 | 19<<8), "r; make room on that disk, then do this again"},
		{result(10 | 1<<8), "r; see that the disk is there, has room and works"},
		{result(26), "r; the database is damaged: end serve and put back the one from a backup"},
		{result(8), "r; see that this user may write to the database, its folder and its disk"},
		{result(5), "r; another program holds the database: end it, or wait for it"},
		{result(1), "r"},
	} {
		if got := WithRemedy(tt.err); got.Error() != tt.want || !errors.Is(got, tt.err) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if err := WithRemedy(nil); err != nil {
		t.Error(err)
	}
}

func TestCannotWrite(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&fs.PathError{Op: "open", Path: ".f-123", Err: syscall.ENOENT}, "cannot write f: no such file or directory; make the folder above it first"},
		{&fs.PathError{Op: "open", Path: ".f-123", Err: syscall.ENOTDIR}, "cannot write f: not a directory; make the folder above it first"},
		{&fs.PathError{Op: "open", Path: ".f-123", Err: syscall.EACCES}, "cannot write f: permission denied; name a place where you may write, or run this as a user who may"},
		{&fs.PathError{Op: "open", Path: ".f-123", Err: syscall.EROFS}, "cannot write f: read-only file system; name a place where you may write, or run this as a user who may"},
		{&os.LinkError{Op: "rename", Old: ".f-123", New: "f", Err: syscall.EBUSY}, "cannot write f: device or resource busy"},
		{fmt.Errorf("copy to .f-123: %w", result(13)), "cannot write f: the disk is full; make room on it, then do this again"},
	} {
		if got := CannotWrite("f", tt.err).Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/manager"
	"samehost/internal/registry"
	"samehost/internal/relay"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a manager, a relay system below it, and PCs of it.
type site struct {
	t      *testing.T
	reg    *registry.Registry
	config string // of the relay
	dir    string // its data folder
	roots  *x509.CertPool
	token  checkin.EnrolmentToken
}

// newSite starts the manager; amt is the relay's [amt].
func newSite(t *testing.T, managerAddress, relayAddress, amt string) *site {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "manager")
	made, err := manager.Init(t.Context(), dir, managerAddress)
	must(t, err)
	database := "sqlite:" + filepath.Join(dir, "samehost.db")
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		ended <- manager.Serve(ctx, manager.Options{DataDir: dir, Database: database, Listen: managerAddress, Log: slog.New(slog.DiscardHandler),
			Listening: func(a net.Addr) { listening <- a }})
	}()
	t.Cleanup(func() { stop(); <-ended })
	var address net.Addr
	select {
	case address = <-listening:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	s := &site{t: t, config: filepath.Join(root, "relay.toml"), dir: filepath.Join(root, "relay"), roots: x509.NewCertPool()}
	s.reg, err = manager.OpenRegistry(t.Context(), dir, database)
	must(t, err)
	t.Cleanup(func() { s.reg.Close() })
	ca, err := os.ReadFile(made.CAFile)
	must(t, err)
	s.roots.AppendCertsFromPEM(ca)
	s.token, err = s.reg.CreateToken(t.Context(), time.Time{}, "", "")
	must(t, err)
	host, _, err := net.SplitHostPort(relayAddress)
	must(t, err)
	token, err := manager.MakeRelayToken(t.Context(), s.reg, []string{host}, time.Time{}, "", "")
	must(t, err)
	for name, text := range map[string]string{
		"ca.pem": string(ca), "token": token.Token + "\n", "amt-password": "P@ssw0rd\n",
		"hardware.json": `{"system_uuid": "4c4c4544-0051-4d10-8051-b4c04f5a3139", "system_serial": "SYS1", "board_serial": "BRD1", "chassis_serial": "CHS1"}`,
		"relay.toml": fmt.Sprintf("data_dir = 'relay'\nlisten = %q\nhigher_system = 'https://%s'\nca_file = 'ca.pem'\nenrolment_token_file = 'token'\n%s\n[hardware]\nfile = 'hardware.json'\n",
			relayAddress, address, amt),
	} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	return s
}

// start runs the relay until the function that it returns is called.
func (s *site) start() (address string, stop func()) {
	s.t.Helper()
	p := &program{config: s.config, stdout: io.Discard, stderr: io.Discard}
	conf, err := p.load()
	must(s.t, err)
	var log bytes.Buffer
	o, err := p.options(conf, slog.New(slog.NewTextHandler(&log, nil)))
	must(s.t, err)
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	o.Listening = func(a net.Addr) { listening <- a }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- relay.Serve(ctx, o) }()
	s.t.Cleanup(cancel)
	select {
	case a := <-listening:
		return a.String(), func() {
			s.t.Helper()
			cancel()
			must(s.t, <-ended)
		}
	case err := <-ended:
		s.t.Fatalf("%v\n%s", err, log.String())
	}
	return "", nil
}

// get asks the relay for a page over a connection of its own, and tells whether the TLS session was resumed.
func (s *site) get(address, path string, sessions tls.ClientSessionCache) (body string, resumed bool) {
	s.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.roots, ClientSessionCache: sessions}}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get("https://" + address + path)
	must(s.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(s.t, err)
	return string(b), res.TLS.DidResume
}

// A relay from end to end: a PC enrols through it, the figures tell of it, TLS sessions outlive the process, and its system configuration
// can be exported while it works and while it does not.
func TestSite(t *testing.T) {
	t.Parallel()
	s := newSite(t, "127.165.1.1:0", "127.165.2.1:0", "")
	address, stop := s.start()
	seed, id := hostid.NewSeed(), hostid.NewID()
	report, err := checkin.Sign(checkin.Report{
		Audience: s.token.Manager, HostID: id, SealKey: seed.SealingKey().PublicKey().Bytes(), Counter: 1,
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated,
		Names: checkin.Names{Host: "PC0001"}, Addresses: []string{"192.0.2.10"},
	}, seed.SigningKey(), &s.token)
	must(t, err)
	client, err := checkin.NewClient(checkin.ClientOptions{URL: "https://" + address, RootCAs: s.roots, Manager: s.token.Manager})
	must(t, err)
	if reply, err := client.CheckIn(t.Context(), report); err != nil || reply.Status != checkin.Accepted {
		t.Fatalf("%+v, %v", reply, err)
	}
	sessions := tls.NewLRUClientSessionCache(1)
	figures, _ := s.get(address, "/metrics", sessions)
	for _, line := range []string{"samehost_relay_up 1", "samehost_relay_delivered_total 1", `samehost_checkins_total{outcome="accepted"} 1`, `samehost_tls_handshakes_total{kind="resumed"} 0`} {
		if !strings.Contains(figures, "\n"+line+"\n") {
			t.Errorf("%q is missing in\n%s", line, figures)
		}
	}
	stop()

	file := filepath.Join(t.TempDir(), "site.NDD")
	export := func(args ...string) (stdout string, lines []string) {
		t.Helper()
		code, out, stderr := call(append([]string{"sysconfig", "export", file, "--config", s.config}, args...)...)
		b, err := os.ReadFile(file)
		if err != nil || code != exitDone || stderr != "" {
			t.Fatalf("%v: code %d, %q, %q", err, code, out, stderr)
		}
		for l := range strings.Lines(string(b)) {
			_, rest, _ := strings.Cut(l, " ") // the relay's own address is this machine's
			rest, _, _ = strings.Cut(rest, ",DATE=")
			lines = append(lines, rest)
		}
		return out, lines
	}
	status, err := relay.ReadStatus(s.dir)
	must(t, err)
	name, err := os.Hostname()
	must(t, err)
	want := []string{
		fmt.Sprintf(`%s HID=%s,TYPE=relay,ROOT=\`, name, status.HostID),
		fmt.Sprintf(`PC0001 HID=%s,TYPE=client,ROOT=\%s`, id, name),
	}
	out, lines := export()
	if d := cmp.Diff(want, lines); d != "" || out != file+": exported 2\n" {
		t.Errorf("while it does not work: %q (-want +got):\n%s", out, d)
	}
	again, stop := s.start()
	if _, lines := export("--json"); !cmp.Equal(want, lines) {
		t.Errorf("while it works: %q", lines)
	}
	if _, resumed := s.get(again, "/healthz", sessions); !resumed {
		t.Error("a TLS session did not outlive the process")
	}
	stop()
}

// AMT settings come by file too, whether the relay works or not; and only where it goes by the manager's.
func TestAmtsetupImport(t *testing.T) {
	t.Parallel()
	s := newSite(t, "127.165.3.1:0", "127.165.4.1:0", "[amt]\nuser = 'admin'")
	file, phrase := filepath.Join(t.TempDir(), "amtsetup.json"), filepath.Join(t.TempDir(), "phrase")
	must(t, os.WriteFile(phrase, []byte("a long passphrase\n"), 0o600))
	settings := checkin.AMTSettings{User: "fromfile", Password: checkin.NewPassword("P@ssw0rd")}
	_, _, err := s.reg.SetAMTSettings(t.Context(), hostid.ID{}, settings, "")
	must(t, err)
	sealed, version, err := manager.ExportAMTSettings(t.Context(), s.reg, filepath.Join(filepath.Dir(s.config), "manager"), hostid.ID{}, "a long passphrase")
	must(t, err)
	must(t, os.WriteFile(file, sealed, 0o600))
	user := func() string {
		t.Helper()
		o, err := (&program{config: s.config}).amtOptions()
		must(t, err)
		return o.User
	}
	run := func(want string) {
		t.Helper()
		code, out, stderr := call("amtsetup", "import", file, "--passphrase-file", phrase, "--config", s.config)
		if code != exitDone || stderr != "" || out != fmt.Sprintf("AMT management user fromfile (version %d): %s\n", version, want) {
			t.Errorf("code %d, %q, %q; want %q", code, out, stderr, want)
		}
	}
	run("taken with the next check-in")
	_, stop := s.start()
	run("taken")
	if got := user(); got != "fromfile" {
		t.Errorf("the user is %q", got)
	}
	stop()

	must(t, os.WriteFile(phrase, []byte("a wrong passphrase\n"), 0o600))
	for args, says := range map[string]string{
		file: "the passphrase", filepath.Join(s.dir, "none.json"): "no such file",
	} {
		code, out, stderr := call("amtsetup", "import", args, "--passphrase-file", phrase, "--config", s.config)
		if code != exitFailed || out != "" || !strings.Contains(stderr, says) {
			t.Errorf("%s: code %d, %q, %q", args, code, out, stderr)
		}
	}
	text, err := os.ReadFile(s.config)
	must(t, err)
	must(t, os.WriteFile(s.config, []byte(strings.Replace(string(text), "user = 'admin'", "user = 'admin'\npassword_file = 'amt-password'", 1)), 0o600))
	code, out, stderr := call("amtsetup", "import", file, "--passphrase-file", phrase, "--config", s.config)
	if code != exitFailed || out != "" || !strings.Contains(stderr, "from_manager = true there changes that") {
		t.Errorf("with a password of its own: code %d, %q, %q", code, out, stderr)
	}
}

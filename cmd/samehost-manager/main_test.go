package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/layout"
	"samehost/internal/manager"
	"samehost/internal/registry"
)

func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for what tests start without a script
	testscript.Main(m, map[string]func(){"samehost-manager": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Values["pcs"] = map[string]*pc{}
			env.Setenv("TZ", "Asia/Tokyo")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector every process would sleep a second before it ends
			env.Setenv("LC_ALL", "C.UTF-8")
			env.Setenv("ADDRESS", ownAddress())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       exits,
			"ready":       ready,
			"certificate": certificate,
			"checkin":     checkIn,
			"want80":      want80,
			"tokenof":     tokenOf,
		},
	})
}

var (
	addresses atomic.Int32

	// ownNet is 127.122.N, of which no other run of these tests on this machine uses an address meanwhile: the listener at its
	// last one says so until this process ends.
	ownNet = sync.OnceValues(func() (string, net.Listener) {
		for n := range 256 {
			prefix := fmt.Sprintf("127.122.%d.", n)
			if l, err := net.Listen("tcp", prefix+"254:8740"); err == nil {
				return prefix, l
			}
		}
		panic("no run of these tests can have a net of its own: 256 others hold theirs")
	})
)

// ownAddress is a loopback address that nothing else uses. A free port of 127.0.0.1 would not do: until the manager
// listens on it, any connection that is made on this machine may take it. Addresses that are the same in each run would not
// do either: another run may be under way, and what one left that was broken off may still listen.
func ownAddress() string {
	prefix, _ := ownNet()
	for {
		host := addresses.Add(1)
		if host >= 254 {
			panic("more addresses than a net has")
		}
		address := fmt.Sprint(prefix, host, ":8740")
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
}

// exits N PROGRAM ARGS...: the program ends with exactly that exit code, and with one line on standard error
// unless it is 0.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	if stderr := ts.ReadFile("stderr"); want != 0 && (strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "samehost-manager: ")) {
		ts.Fatalf("standard error %q, want one line", stderr)
	}
}

// tokenof FILE: sets TOKEN, and TOKEN_ID, to the token in what init --json or token create --json printed.
func tokenOf(ts *testscript.TestScript, neg bool, args []string) {
	var made struct{ Token string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &made))
	ts.Setenv("TOKEN", made.Token)
	ts.Setenv("TOKEN_ID", strings.Split(made.Token, ".")[1])
}

// ready: waits until the manager at ADDRESS, with the data folder m, takes check-ins.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(untilReady(ts.Getenv("ADDRESS"), ts.MkAbs("m/ca.pem")))
}

// certificate NAME...: the certificate of the manager at ADDRESS is good for each name or address.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	pool, err := roots(ts.MkAbs("m/ca.pem"))
	ts.Check(err)
	for _, name := range args {
		c, err := tls.Dial("tcp", ts.Getenv("ADDRESS"), &tls.Config{RootCAs: pool, ServerName: name, MinVersion: tls.VersionTLS12})
		if err == nil {
			c.Close()
		}
		switch wrong := (x509.HostnameError{}); {
		case neg && !errors.As(err, &wrong):
			ts.Fatalf("%s: got %v, want another name", name, err)
		case neg:
			fmt.Fprintln(ts.Stderr(), err)
		default:
			ts.Check(err)
		}
	}
}

func roots(caFile string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	return pool, nil
}

func untilReady(address, caFile string) error {
	pool, err := roots(caFile)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; {
		res, err := client.Get("https://" + address + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond) // a poll of another process
	}
}

// pc is a client's side of check-ins.
type pc struct {
	seed   hostid.Seed
	report checkin.Report
	client *checkin.Client
	token  checkin.EnrolmentToken
	orders []checkin.Order // of the last reply
}

func newPC(name, address, caFile, token string) (*pc, error) {
	tok, err := checkin.ParseToken(token)
	if err != nil {
		return nil, err
	}
	pool, err := roots(caFile)
	if err != nil {
		return nil, err
	}
	p := &pc{seed: hostid.NewSeed(), token: tok}
	p.client, err = checkin.NewClient(checkin.ClientOptions{URL: "https://" + address, RootCAs: pool, Manager: tok.Manager})
	p.report = checkin.Report{
		Audience: tok.Manager, HostID: hostid.NewID(), SealKey: make([]byte, 32),
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall,
		Facts: hardware.Facts{
			BoardSerial: "B-" + name, SystemSerial: "S-" + name, Disks: []hardware.Disk{{Serial: "D-" + name, System: true}},
			NICs: []hardware.NIC{{MAC: "00-1B-21-01-02-03", Permanent: true, Onboard: true}},
		},
		Names: checkin.Names{Host: name}, Addresses: []string{"127.0.0.1", "192.0.2.10"},
		Versions: checkin.Versions{Client: "1.0", OS: "TestOS 1"},
		Stores:   []checkin.StoreState{{Name: "file", State: "stored"}, {Name: "amt", State: "stored"}},
		Origin:   hostid.Generated,
	}
	return p, err
}

func (p *pc) next() (checkin.SignedReport, error) {
	p.report.Counter++
	s, err := checkin.Sign(p.report, p.seed.SigningKey(), &p.token)
	p.report.Previous = s.Digest()
	return s, err
}

// checkin PC [FIELD=VALUE...]: PC reports to ADDRESS under TOKEN; it is made when first named, and its host ID is
// put into the variable ID_PC. Fields: name (Go-quoted), amt, epoch=new, board, board=PC (that PC's facts), done=all (every
// order of the last reply). A refusal is an error.
func checkIn(ts *testscript.TestScript, neg bool, args []string) {
	pcs := ts.Value("pcs").(map[string]*pc)
	p := pcs[args[0]]
	if p == nil {
		var err error
		p, err = newPC(args[0], ts.Getenv("ADDRESS"), ts.MkAbs("m/ca.pem"), ts.Getenv("TOKEN"))
		ts.Check(err)
		pcs[args[0]] = p
		ts.Setenv("ID_"+args[0], p.report.HostID.String())
		ts.Defer(p.client.Close)
	}
	for _, a := range args[1:] {
		field, value, _ := strings.Cut(a, "=")
		switch field {
		case "name":
			var err error
			p.report.Names.Host, err = strconv.Unquote(`"` + value + `"`)
			ts.Check(err)
		case "amt":
			p.report.Stores[1].State = value
		case "epoch":
			p.report.Epoch, p.report.Run, p.report.Previous = checkin.NewToken(), checkin.NewToken(), checkin.Digest{}
			p.report.EpochBy = checkin.EpochRestore
		case "done":
			p.report.Done = nil
			for _, o := range p.orders {
				p.report.Done = append(p.report.Done, o.ID)
			}
		case "board":
			if other := pcs[value]; other != nil {
				p.report.Facts = other.report.Facts
				break
			}
			p.report.Facts.BoardSerial, p.report.Facts.SystemSerial = value, value
			p.report.Facts.NICs = nil
		default:
			ts.Fatalf("no field %q", field)
		}
	}
	s, err := p.next()
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reply, err := p.client.CheckIn(ctx, s)
	p.orders, p.report.Done = reply.Orders, nil
	if neg {
		if !errors.Is(err, checkin.ErrRefused) {
			ts.Fatalf("got %v, want a refusal", err)
		}
		fmt.Fprintln(ts.Stderr(), err)
		return
	}
	ts.Check(err)
}

// want80 FILE: no line takes more than 80 columns, and none holds what steers a terminal.
func want80(ts *testscript.TestScript, neg bool, args []string) {
	for _, line := range strings.Split(ts.ReadFile(args[0]), "\n") {
		if n := layout.Columns(line); n > 80 {
			ts.Fatalf("%d columns: %s", n, line)
		}
		if shown(line) != line {
			ts.Fatalf("not fit to be shown: %q", line)
		}
	}
}

// The manager is killed with a report committed and its answer not read; after a restart the same report gets the
// same reply.
func TestKilledBetweenCommitAndAnswer(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "m")
	address := ownAddress()
	made, err := manager.Init(t.Context(), dir, address)
	must(t, err)
	p, err := newPC("alpha", address, made.CAFile, made.Token)
	must(t, err)
	defer p.client.Close()

	for range 3 {
		serve := startServe(t, made.Config)
		must(t, untilReady(address, made.CAFile))
		report, err := p.next()
		must(t, err)

		// Send the report, and never read the answer.
		pool, err := roots(made.CAFile)
		must(t, err)
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
		must(t, err)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose\r\nContent-Length: %d\r\n\r\n%s",
			checkin.Path, len(report.JWS), report.JWS)
		until(t, "the report is committed", func() bool {
			reg, err := manager.OpenRegistry(t.Context(), dir, "sqlite:"+filepath.Join(dir, "samehost.db"))
			must(t, err)
			defer reg.Close()
			a, err := reg.Asset(t.Context(), p.report.HostID)
			return err == nil && a.Seen.Time == p.report.Time && !a.LastCheckin.IsZero()
		})
		must(t, serve.Process.Kill())
		serve.Wait()
		killed := time.Now()
		conn.Close()

		serve = startServe(t, made.Config)
		must(t, untilReady(address, made.CAFile))
		first, err := p.client.CheckIn(t.Context(), report)
		must(t, err)
		if first.Time.After(killed) {
			t.Errorf("the reply is of %v, after the kill at %v: it was made anew", first.Time, killed)
		}
		again, err := p.client.CheckIn(t.Context(), report)
		must(t, err)
		if d := cmp.Diff(first, again); d != "" {
			t.Errorf("another reply to the same report:\n%s", d)
		}
		must(t, serve.Process.Signal(syscall.SIGTERM))
		if err := serve.Wait(); err != nil {
			t.Errorf("serve, told to end: %v", err)
		}
		p.report.Time += "x" // tells this report from the next
	}
}

func startServe(t *testing.T, config string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("samehost-manager", "serve", "--config", config)
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(10 * time.Millisecond) // a poll of another process
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The help of the program and of every command is one screen, with examples.
func TestHelpIsOneScreen(t *testing.T) {
	t.Parallel()
	var check func(n *kong.Node, args ...string)
	commands := 0
	check = func(n *kong.Node, args ...string) {
		commands++
		var stdout, stderr bytes.Buffer
		code := run(append(args, "--help"), &stdout, &stderr)
		if code != 0 || stderr.Len() > 0 {
			t.Errorf("%q --help: exit code %d, standard error %q", args, code, stderr.String())
		}
		lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
		if len(lines) > 24 {
			t.Errorf("%q --help: %d lines", args, len(lines))
		}
		for _, l := range lines {
			if layout.Columns(l) > layout.Screen || strings.HasSuffix(l, " ") {
				t.Errorf("%q --help: %d columns: %q", args, layout.Columns(l), l)
			}
			if strings.HasPrefix(l, "  --") && strings.Contains(l, `"`) {
				t.Errorf("%q --help: a default stands where the flag's value is to be named: %q", args, l)
			}
		}
		example := strings.Join(append([]string{"\n  samehost-manager"}, args...), " ")
		if !strings.HasPrefix(lines[0], "Usage: samehost-manager ") || strings.Count(stdout.String(), example) < 2 {
			t.Errorf("%q --help: no usage, or fewer than two examples:\n%s", args, stdout.String())
		}
		for _, c := range n.Children {
			check(c, append(slices.Clip(args), c.Name)...)
		}
	}
	check(newParser(&cli{}, io.Discard, io.Discard, func(int) {}).Model.Node)
	if commands < 10 {
		t.Errorf("%d commands looked at", commands)
	}
}

// Every text that is printed in the language that is asked for has a Japanese one, which takes the same arguments; none is left over.
func TestTextsAreTranslated(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	must(t, err)
	used := map[string]bool{}
	constants := map[string]string{"textMade": textMade, "textMadeOneMore": textMadeOneMore}
	text := func(e ast.Expr) {
		if name, ok := e.(*ast.Ident); ok && constants[name.Name] != "" {
			used[constants[name.Name]] = true
		}
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, err := strconv.Unquote(lit.Value)
			must(t, err)
			used[s] = true
		}
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "in" {
					text(n.Args[0])
				}
			case *ast.CompositeLit: // []column{{"HEAD", 32}}
				if a, ok := n.Type.(*ast.ArrayType); ok && fmt.Sprint(a.Elt) == "column" {
					for _, e := range n.Elts {
						text(e.(*ast.CompositeLit).Elts[0])
					}
				}
			}
			return true
		})
	}
	verbs := regexp.MustCompile(`%(\[\d\])?[sd]`)
	for s := range used {
		ja, ok := japanese[s]
		if !ok {
			t.Errorf("no Japanese for %q", s)
		}
		args := []any{"1", "2", "3", "4"}[:0]
		for range verbs.FindAllString(s, -1) {
			args = append(args, 7)
		}
		if strings.Contains(s, "%[3]s") {
			args = args[:3]
		} else if strings.Contains(s, "%[2]d") {
			args = args[:2]
		}
		for _, l := range []string{s, ja} {
			if out := strings.ReplaceAll(fmt.Sprintf(l, args...), "%!s(int=7)", "7"); strings.Contains(out, "%!") {
				t.Errorf("%q: %s", s, out)
			}
		}
	}
	for s := range japanese {
		if !used[s] {
			t.Errorf("%q is printed nowhere", s)
		}
	}
}

func TestShown(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"PC 0001":                "PC 0001",
		"経理部　端末":                 "経理部　端末",
		"a\x1b[31mb\a":           `a\x1b[31mb\x07`,
		"two\nlines\r\t":         `two\x0alines\x0d\x09`,
		"\u202egnp.exe":          `\u202egnp.exe`,
		"zero\u200bwidth":        `zero\u200bwidth`,
		"\u0085\u009b31m":        `\x85\x9b31m`,
		"tag\U000e0041":          `tag\U000e0041`,
		"<b>&amp;'; DROP --":     "<b>&amp;'; DROP --",
		"line\u2028separator":    `line\u2028separator`,
		"a\u3164b\u115f\u2800c":  `a\u3164b\u115f\u2800c`,
		"a\ufe0fb\u034fc":        `a\ufe0fb\u034fc`,
		"non\u00a0breaking":      `non\xa0breaking`,
		string([]byte{'a', 255}): `a\ufffd`,
	} {
		if got := shown(in); got != want {
			t.Errorf("shown(%q) = %q, want %q", in, got, want)
		}
	}
}

// JSON means what it meant, and a terminal that it is printed on gets nothing that steers it.
func TestJSONOnATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &program{stdout: bufio.NewWriter(&out)}
	want := map[string]string{"name": "a\x1b[2J\u009b31m\x7f\u202eb\U000e0041\u3164<経理部　>\n\ufffd"}
	must(t, p.printJSON(want))
	must(t, p.stdout.Flush())
	line, end := strings.CutSuffix(out.String(), "\n")
	if !end || shown(line) != line || !strings.Contains(line, "<経理部　>") {
		t.Errorf("printed %q", out.String())
	}
	var got map[string]string
	must(t, json.Unmarshal([]byte(line), &got))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("read back (-want +got):\n%s", d)
	}
}

func TestFitAndWrap(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"abc", 5, "abc  "}, {"abcdef", 5, "abcd~"}, {"日本語", 6, "日本語"}, {"日本語", 5, "日本~"}, {"日本語", 4, "日~ "}, {"e\u0301e", 3, "e\u0301e "},
	} {
		if got := fit(tt.in, tt.n); got != tt.want {
			t.Errorf("fit(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
	got := wrap("one two three 日本語日本語 abcdefghijkl", 8)
	want := []string{"one two", "three 日", "本語日本", "語", "abcdefgh", "ijkl"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("wrap (-want +got):\n%s", d)
	}
	got = wrap("PC の指示。完了ABC", 10) // no line begins with a full stop
	want = []string{"PC の指", "示。完了", "ABC"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("wrap (-want +got):\n%s", d)
	}
}

// The key of the reply is the one that the token names, and no secret stands in the configuration.
func TestInitKeepsSecrets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "m")
	made, err := manager.Init(t.Context(), dir, manager.DefaultListen)
	must(t, err)
	tok, err := checkin.ParseToken(made.Token)
	must(t, err)
	password, err := os.ReadFile(made.PasswordFile)
	must(t, err)
	if len(strings.TrimSpace(string(password))) < 20 {
		t.Errorf("the password has %d characters", len(password))
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		want := os.FileMode(0o600)
		if e.Name() == "ca.pem" {
			want = 0o644
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", e.Name(), info.Mode().Perm(), want)
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		if strings.Contains(string(data), string(tok.Secret[:])) || strings.Contains(string(data), made.Token) {
			t.Errorf("%s holds the token", e.Name())
		}
		if e.Name() != "admin-password" && strings.Contains(string(data), strings.TrimSpace(string(password))) {
			t.Errorf("%s holds the administrator's password", e.Name())
		}
	}
	reg, err := manager.OpenRegistry(t.Context(), dir, "sqlite:"+filepath.Join(dir, "samehost.db"))
	must(t, err)
	defer reg.Close()
	other, err := reg.CreateToken(t.Context(), time.Time{}, "", "")
	must(t, err)
	if other.Manager != tok.Manager {
		t.Errorf("tokens of one manager name %s and %s", other.Manager, tok.Manager)
	}
}

// A relay that has begun and is not heard of any more is told with since when, in 80 columns.
func TestSilentRelay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	route := func(name, state string, heard *time.Time) registry.RunRoute {
		return registry.RunRoute{Route: name, Relay: "0123456789abcdef0123456789abcdef", State: state, Heard: heard}
	}
	long := `\` + strings.Repeat("osaka", 12) + `\second`
	run := manager.Run{RunState: registry.RunState{ID: 3, Source: "pcs.NDD", By: "alice", Started: now, Routes: []registry.RunRoute{
		{Route: `\`, State: "running"},
		route(`\tokyo`, "running", ago(4*time.Minute)), route(`\kyoto`, "running", ago(2*time.Minute)), route(`\kobe`, "ended", ago(time.Hour)),
		route(`\nara`, "waiting", ago(time.Hour)), route(`\nagoya\first`, "running", ago(19*time.Minute)), route(long, "running", ago(21*time.Minute)),
		route(`\new`, "running", nil),
	}}}
	for lang, want := range map[registry.Language]string{registry.English: "Nothing was heard of the relay system of ", registry.Japanese: "の中継システムからは、"} {
		var out bytes.Buffer
		p := &program{stdout: bufio.NewWriter(&out)}
		if err := errors.Join(p.printRun(run, lang), p.stdout.Flush()); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		for line := range strings.Lines(text) {
			if n := layout.Columns(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		flat := strings.ReplaceAll(strings.ReplaceAll(text, "\n", ""), " ", "")
		for name, told := range map[string]bool{`\tokyo`: true, `\kyoto`: false, `\kobe`: false, `\nara`: false, `\nagoya\first`: false, long: true, `\new`: false} {
			sentence := strings.ReplaceAll(name+want, " ", "")
			if lang == registry.English {
				sentence = strings.ReplaceAll(want+name+" since", " ", "")
			}
			if strings.Contains(flat, sentence) != told {
				t.Errorf("%s: told of %s: %v in\n%s", lang, name, !told, text)
			}
		}
		if n := strings.Count(flat, "retire0123456789abcdef0123456789abcdef"); n != 2 {
			t.Errorf("%s: what to do is told %d times in\n%s", lang, n, text)
		}
		if !strings.Contains(flat, strings.ReplaceAll(when(now.Add(-4*time.Minute)), " ", "")) {
			t.Errorf("%s: since when is missing in\n%s", lang, text)
		}
	}
}

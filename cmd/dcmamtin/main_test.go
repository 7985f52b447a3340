package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/text/width"
)

// simulator is the amtsim program, built once: the scripts run both programs as processes.
var simulator string

func TestMain(m *testing.M) {
	// testscript.Main starts this binary again under the name dcmamtin, and that one needs no simulator.
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == "dcmamtin" {
		testscript.Main(m, map[string]func(){"dcmamtin": main})
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for what tests start without a script
	testscript.Main(built{m}, map[string]func(){"dcmamtin": main})
}

// built builds the simulator before the tests run and removes it afterwards.
type built struct{ m *testing.M }

func (b built) Run() int {
	dir, err := os.MkdirTemp("", "dcmamtin-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	simulator = filepath.Join(dir, "amtsim")
	build := exec.Command("go", "build", "-o", simulator, "samehost/cmd/amtsim")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n%s", build, err, out)
		return 1
	}
	return b.m.Run()
}

// What is found the second time must be what was counted the first time.
func TestFileThatChangesUnderneath(t *testing.T) {
	t.Parallel()
	const two = "127.0.0.1 A TYPE=client\n127.0.0.1 B TYPE=client\n"
	for _, test := range []struct {
		now    string
		yields int
		ok     bool
	}{
		{two, 2, true},
		{two + "127.0.0.1 C TYPE=client\n", 2, false},
		{two[:len(two)/2], 1, false},
		{two[:len(two)/2] + "what is this", 1, false},
	} {
		file := filepath.Join(t.TempDir(), "NETM.NDD")
		if err := os.WriteFile(file, []byte(two), 0o600); err != nil {
			t.Fatal(err)
		}
		l, p := openTargets(arguments{file: file})
		if p != nil || l.count != 2 {
			t.Fatalf("%+v, %v", l, p)
		}
		defer l.close()
		if err := os.WriteFile(file, []byte(test.now), 0o600); err != nil {
			t.Fatal(err)
		}
		n := 0
		for range l.until(new(atomic.Bool)) {
			n++
		}
		if n != test.yields || (l.err == nil) != test.ok {
			t.Errorf("%q: %d targets, %+v", test.now, n, l.err)
		}
		if l.err != nil && l.err.exit != exitOther {
			t.Errorf("%q: exit code %d", test.now, l.err.exit)
		}
	}
}

// Each script has addresses of its own in 127.0.0.0/8 (40 to 48, 125): port 16992 can then be probed without
// meeting the devices of another.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LANG", "C")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector every process would sleep a second before it ends
			env.Setenv("AMT_PASSWORD", "P@ssw0rd!")   // amtsim's default
			if own := ownAddress(); own != "" {
				env.Setenv("OWN", own)
			}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "own-address":
				return ownAddress() != "", nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"sim":         simCommand,
			"cause":       causeCommand,
			"webserver":   webserverCommand,
			"exits":       exitsCommand,
			"interrupt":   interruptCommand,
			"nobodyreads": nobodyReadsCommand,
			"lines":       linesCommand,
			"refusals":    refusalsCommand,
			"screen":      screenCommand,
			"certificate": certificateCommand,
			"pinned":      pinnedCommand,

			"unprivileged": unprivilegedCommand,

			"journal":  journalCommand,
			"breakoff": breakoffCommand,
			"held":     heldCommand,
			"faults":   faultsCommand,
		},
	})
}

// ownAddress is an address of this machine that is not loopback, "" if it has none.
func ownAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return ""
}

// simCommand starts amtsim and goes on when it listens: sim ARG...
func simCommand(ts *testscript.TestScript, neg bool, args []string) {
	c := exec.Command(simulator, args...)
	c.Dir = ts.MkAbs(".")
	var problems strings.Builder
	c.Stderr = &problems
	out, err := c.StdoutPipe()
	ts.Check(err)
	ts.Check(c.Start())
	ts.Defer(func() {
		c.Process.Kill()
		c.Wait()
	})
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.HasPrefix(s.Text(), "ready") {
			return
		}
	}
	c.Wait()
	ts.Fatalf("amtsim %s did not get ready: %s", strings.Join(args, " "), problems.String())
}

// webserverCommand serves 404 to everything at an address: webserver ADDRESS:PORT
func webserverCommand(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	s := &http.Server{Handler: http.NotFoundHandler()}
	ts.Defer(func() { s.Close() })
	go s.Serve(l)
}

// exitsCommand runs dcmamtin and wants exactly that exit code: exits CODE ARG...
func exitsCommand(ts *testscript.TestScript, neg bool, args []string) {
	wantExit(ts, args[0], "dcmamtin", args[1:])
}

// unprivilegedCommand is exitsCommand for a superuser who lacks the privilege to read and write every file.
func unprivilegedCommand(ts *testscript.TestScript, neg bool, args []string) {
	wantExit(ts, args[0], "setpriv", append([]string{"--bounding-set=-dac_override,-dac_read_search", "dcmamtin"}, args[1:]...))
}

func wantExit(ts *testscript.TestScript, code, program string, args []string) {
	want, err := strconv.Atoi(code)
	ts.Check(err)
	err = ts.Exec(program, args...)
	got := 0
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if want == exitArguments || want == exitFile {
		if stderr := ts.ReadFile("stderr"); strings.Count(stderr, "\n") != 1 || ts.ReadFile("stdout") != "" {
			ts.Fatalf("want one line on standard error and nothing else")
		}
	}
}

// interruptCommand runs dcmamtin, sends it SIGINT once its output has a text, and wants an exit code within a minute. With
// -twice it sends another when the first was heard. What was said is in interrupted.out and interrupted.err:
// interrupt [-twice] CODE TEXT ARG...
func interruptCommand(ts *testscript.TestScript, neg bool, args []string) {
	twice := args[0] == "-twice"
	if twice {
		args = args[1:]
	}
	path, err := lookPath(ts.Getenv("PATH"), "dcmamtin")
	ts.Check(err)
	c := exec.Command(path, args[2:]...)
	c.Args[0] = "dcmamtin"
	c.Dir = ts.MkAbs(".")
	c.Env = append(os.Environ(), "LANG=C", "AMT_PASSWORD="+ts.Getenv("AMT_PASSWORD"), "PATH="+ts.Getenv("PATH"))
	stderr, err := c.StderrPipe()
	ts.Check(err)
	stdout, err := c.StdoutPipe()
	ts.Check(err)
	ts.Check(c.Start())
	kill := time.AfterFunc(time.Minute, func() { c.Process.Kill() })
	defer kill.Stop()
	// read signals at the first line that has the text, and returns what there was.
	read := func(r io.Reader, text string) (said string, sent bool) {
		for s := bufio.NewScanner(r); s.Scan(); {
			said += s.Text() + "\n"
			if !sent && text != "" && strings.Contains(s.Text(), text) {
				sent = c.Process.Signal(syscall.SIGINT) == nil
			}
		}
		return said, sent
	}
	again := ""
	if twice {
		again = "interrupted: nothing further begins"
	}
	errors, sentAgain := make(chan string, 1), false
	go func() {
		said, sent := read(stderr, again)
		sentAgain = sent
		errors <- said
	}()
	out, sent := read(stdout, args[1])
	problems := <-errors
	c.Wait()
	ts.Logf("[stdout]\n%s[stderr]\n%s", out, problems)
	if got := fmt.Sprint(c.ProcessState.ExitCode()); got != args[0] || !sent || sentAgain != twice {
		ts.Fatalf("exit code %s, want %s; interrupted: %v, again: %v", got, args[0], sent, sentAgain)
	}
	ts.Check(os.WriteFile(ts.MkAbs("interrupted.out"), []byte(out), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("interrupted.err"), []byte(problems), 0o600))
}

// nobodyReadsCommand runs dcmamtin with a standard output that nobody reads any more, and wants an exit code: nobodyreads
// CODE ARG...
func nobodyReadsCommand(ts *testscript.TestScript, neg bool, args []string) {
	path, err := lookPath(ts.Getenv("PATH"), "dcmamtin")
	ts.Check(err)
	r, w, err := os.Pipe()
	ts.Check(err)
	r.Close()
	c := exec.Command(path, args[1:]...)
	c.Dir = ts.MkAbs(".")
	c.Env = append(os.Environ(), "LANG=C", "AMT_PASSWORD="+ts.Getenv("AMT_PASSWORD"), "PATH="+ts.Getenv("PATH"))
	c.Stdout = w
	var stderr strings.Builder
	c.Stderr = &stderr
	c.Run()
	w.Close()
	ts.Logf("[stderr]\n%s", stderr.String())
	if got := fmt.Sprint(c.ProcessState.ExitCode()); got != args[0] || !strings.Contains(stderr.String(), "standard output cannot be written") {
		ts.Fatalf("exit code %s, want %s and a line that says why", got, args[0])
	}
}

func lookPath(path, program string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, program)
		if _, err := os.Stat(full); err == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("%s is not on the path", program)
}

// linesCommand counts the lines of a file, or of stdout, that contain a text: lines FILE N TEXT
func linesCommand(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if strings.Contains(line, args[2]) {
			n++
		}
	}
	if fmt.Sprint(n) != args[1] {
		ts.Fatalf("%d lines of %s contain %q, want %s", n, args[0], args[2], args[1])
	}
}

// refusalsCommand adds up the failed log-ons that a simulator counted on its first N devices, and wants at most MAX on
// each and exactly TOTAL devices with any: refusals CONTROL-ADDRESS:PORT N MAX TOTAL
func refusalsCommand(ts *testscript.TestScript, neg bool, args []string) {
	client := http.Client{Timeout: 10 * time.Second}
	var numbers [3]int
	for i, a := range args[1:] {
		var err error
		numbers[i], err = strconv.Atoi(a)
		ts.Check(err)
	}
	devices, most, want := numbers[0], numbers[1], numbers[2]
	refused := 0
	for n := 1; n <= devices; n++ {
		resp, err := client.Get(fmt.Sprintf("http://%s/devices/%d", args[0], n))
		ts.Check(err)
		var state struct {
			FailedLogOns *int `json:"failed_logons"`
		}
		err = json.NewDecoder(resp.Body).Decode(&state)
		resp.Body.Close()
		ts.Check(err)
		if state.FailedLogOns == nil {
			ts.Fatalf("the control API does not count failed log-ons")
		}
		if *state.FailedLogOns > most {
			ts.Fatalf("device %d: %d failed log-ons, at most %d are allowed", n, *state.FailedLogOns, most)
		}
		if *state.FailedLogOns > 0 {
			refused++
		}
	}
	if refused != want {
		ts.Fatalf("%d devices saw a failed log-on, want %d", refused, want)
	}
}

// screenCommand wants a text to fit one screen of 24 lines and 80 columns: screen FILE
func screenCommand(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile(args[0]), "\n"), "\n")
	if len(lines) > 24 {
		ts.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		columns := 0
		for _, r := range line {
			columns++
			if k := width.LookupRune(r).Kind(); k == width.EastAsianWide || k == width.EastAsianFullwidth {
				columns++
			}
		}
		if columns > 80 {
			ts.Fatalf("%d columns: %s", columns, line)
		}
	}
}

// certificateCommand stores what a TLS server shows, and the pin of its key in a variable: certificate ADDRESS:PORT FILE VARIABLE
func certificateCommand(ts *testscript.TestScript, neg bool, args []string) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", args[0], &tls.Config{InsecureSkipVerify: true})
	ts.Check(err)
	defer conn.Close()
	cert := conn.ConnectionState().PeerCertificates[0]
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600))
	ts.Setenv(args[2], fmt.Sprintf("sha256:%x", sha256.Sum256(cert.RawSubjectPublicKeyInfo)))
}

// pinnedCommand writes a configuration: pinned PIN FILE PORT TLS
func pinnedCommand(ts *testscript.TestScript, neg bool, args []string) {
	toml := fmt.Sprintf("data_dir = \".\"\n[amt]\npassword_env = \"AMT_PASSWORD\"\ntls_pin = %q\nport = %q\ntls = %s\n", args[0], args[2], args[3])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(toml), 0o600))
}

package main

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"amtsim": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	setup := func(env *testscript.Env) error {
		env.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector every process would sleep a second before it ends
		return nil
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: setup, Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"exits": exits, "sim": startSim, "signal": signalSim, "fetch": fetch}})
}

// The help is one screen, with examples.
func TestHelpIsOneScreen(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
		t.Errorf("exit code %d, standard error %q", code, stderr.String())
	}
	lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if len(l) > 80 {
			t.Errorf("%d columns: %s", len(l), l)
		}
	}
	if strings.Count(stdout.String(), "\n  amtsim --") < 2 {
		t.Errorf("fewer than two examples:\n%s", stdout.String())
	}
}

// exits CODE PROGRAM ARGS... runs a program and wants exactly that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s exits with %d, want %d", args[1], got, want)
	}
}

var sims sync.Map // *testscript.TestScript -> *exec.Cmd

// startSim: sim ARGS... starts amtsim and waits for its "ready".
func startSim(ts *testscript.TestScript, neg bool, args []string) {
	exe, err := os.Executable()
	ts.Check(err)
	cmd := exec.Command(exe, args...)
	cmd.Args[0] = "amtsim"
	cmd.Dir = ts.Getenv("WORK")
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if control, ok := strings.CutPrefix(lines.Text(), "control "); ok {
			ts.Setenv("CONTROL", control)
		}
		if lines.Text() == "ready" {
			sims.Store(ts, cmd)
			return
		}
	}
	ts.Fatalf("amtsim ended without ready: %s", stderr)
}

// signalSim: signal int|kill CODE sends a signal and wants that exit code; -1 stands for killed.
func signalSim(ts *testscript.TestScript, neg bool, args []string) {
	v, _ := sims.Load(ts)
	cmd := v.(*exec.Cmd)
	ts.Check(cmd.Process.Signal(map[string]os.Signal{"int": os.Interrupt, "kill": os.Kill, "term": syscall.SIGTERM}[args[0]]))
	cmd.Wait()
	if got := fmt.Sprint(cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("after %s: exit code %s, want %s", args[0], got, args[1])
	}
}

// fetch METHOD PATH STATUS [BODY] calls the control API; the answer is its standard output.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	body := ""
	if len(args) > 3 {
		body = args[3]
	}
	r, err := http.NewRequest(args[0], ts.Getenv("CONTROL")+args[1], strings.NewReader(body))
	ts.Check(err)
	a, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s", b)
	if fmt.Sprint(a.StatusCode) != args[2] {
		ts.Fatalf("%s %s: HTTP %d, want %s", args[0], args[1], a.StatusCode, args[2])
	}
}

// device is a client of one simulated device: just enough to invoke a method.
type device struct {
	url, challenge string
	nc             int
}

const storage = "http://intel.com/wbem/wscim/1/amt-schema/1/AMT_ThirdPartyDataStorageService"
const administration = "http://intel.com/wbem/wscim/1/amt-schema/1/AMT_ThirdPartyDataStorageAdministrationService"

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

func (d *device) invoke(class, method, input string) (string, error) {
	body := `<Envelope xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns="http://www.w3.org/2003/05/soap-envelope"><Header><a:Action>` +
		class + "/" + method + `</a:Action><a:To>/wsman</a:To><w:ResourceURI>` + class + `</w:ResourceURI><a:MessageID>1</a:MessageID></Header><Body><` +
		method + `_INPUT xmlns="` + class + `">` + input + `</` + method + `_INPUT></Body></Envelope>`
	hash := func(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }
	for try := 0; ; try++ {
		r, err := http.NewRequest("POST", d.url+"/wsman", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		if d.challenge != "" {
			d.nc++
			realm, nonce := between(d.challenge, `realm="`, `"`), between(d.challenge, `nonce="`, `"`)
			response := hash(hash("admin:"+realm+":P@ssw0rd!") + ":" + nonce + ":" + fmt.Sprintf("%08x", d.nc) + ":c0ffee:auth:" + hash("POST:/wsman"))
			r.Header.Set("Authorization", fmt.Sprintf(`Digest username="admin", realm="%s", nonce="%s", uri="/wsman", response="%s", qop=auth, nc=%08x, cnonce="c0ffee"`,
				realm, nonce, response, d.nc))
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil {
			return "", err
		}
		if a.StatusCode == 401 && try == 0 {
			d.challenge, d.nc = a.Header.Get("WWW-Authenticate"), 0
			continue
		}
		if a.StatusCode != 200 || between(string(b), "<g:ReturnValue>", "<") != "0" {
			return "", fmt.Errorf("%s: HTTP %d: %s", method, a.StatusCode, b)
		}
		return string(b), nil
	}
}

// TestKillKeepsWhatWasAnswered kills the process at a random moment while it writes, again and again: what was answered
// must be there afterwards, and at most the one write that was under way may be there too.
func TestKillKeepsWhatWasAnswered(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	acknowledged, block := 0, ""
	for round := range 6 {
		cmd := exec.Command(exe, "--network", "127.21.9.1", "--local", "127.21.10.1", "--state", dir, "--control", "127.0.0.1:0")
		cmd.Args[0] = "amtsim"
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		control := ""
		for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
			control = strings.TrimPrefix(lines.Text(), "control ")
		}
		if round > 0 {
			a, err := http.Get(control + "/devices/1")
			if err != nil {
				t.Fatal(err)
			}
			var s struct {
				Blocks []struct{ Data string }
			}
			if err := json.NewDecoder(a.Body).Decode(&s); err != nil {
				t.Fatal(err)
			}
			a.Body.Close()
			data, err := base64.StdEncoding.DecodeString(s.Blocks[0].Data)
			if err != nil {
				t.Fatal(err)
			}
			stored, err := strconv.Atoi(string(bytes.TrimRight(data[:16], "\xff")))
			if err != nil || stored != acknowledged && stored != acknowledged+1 {
				t.Fatalf("round %d: %q is stored (%v), %d was answered", round, data[:16], err, acknowledged)
			}
			if !bytes.Equal(data[16:3000], bytes.Repeat(data[:16], 187)[:2984]) {
				t.Fatalf("round %d: a mixture of two writes is stored", round)
			}
			acknowledged = stored
		}
		d := &device{url: "http://127.21.10.1:16992"}
		invoke := func(class, method, input string) string {
			t.Helper()
			s, err := d.invoke(class, method, input)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if round == 0 {
			invoke(administration, "AddStorageEaclEntry", "<EnterpriseName>E</EnterpriseName>")
		}
		session := "<SessionHandle>" + between(invoke(storage, "RegisterApplication",
			"<CallerUUID>13AEE355D2BFBB6117A088AEDD7037EA</CallerUUID><VendorName>V</VendorName><ApplicationName>A</ApplicationName><EnterpriseName>E</EnterpriseName>"),
			"<g:SessionHandle>", "<") + "</SessionHandle>"
		if round == 0 {
			block = between(invoke(storage, "AllocateBlock", session+"<BytesRequested>4096</BytesRequested><BlockHidden>true</BlockHidden>"), "<g:BlockHandle>", "<")
		}
		write := func(n int) error {
			text := fmt.Sprintf("%016d", n)
			_, err := d.invoke(storage, "WriteBlock", session+"<BlockHandle>"+block+"</BlockHandle><ByteOffset>0</ByteOffset><Data>"+
				base64.StdEncoding.EncodeToString([]byte(strings.Repeat(text, 188)[:3000]))+"</Data>")
			return err
		}
		acknowledged++
		if err := write(acknowledged); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { cmd.Process.Kill() })
		for write(acknowledged+1) == nil {
			acknowledged++
		}
		timer.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Logf("%d writes answered", acknowledged)
}

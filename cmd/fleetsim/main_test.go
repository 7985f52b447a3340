package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"samehost/internal/manager"
	"samehost/internal/registry"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fleetsim": main})
}

// Each script has a manager at $MANAGER, whose CA is in ca.pem and a token in the file token.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: setup, Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"exits": exits, "registry": registryHas, "field": field, "ledger": ledgerHas,
	}})
}

var addresses atomic.Int32 // third octet: listeners of two scripts never meet

func setup(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, "manager")
	ctx, stop := context.WithCancel(context.Background())
	made, err := manager.Init(ctx, dir, "127.154.0.1:0")
	if err != nil {
		stop()
		return err
	}
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- manager.Serve(ctx, manager.Options{DataDir: dir, Database: "sqlite:" + filepath.Join(dir, "samehost.db"),
			Listen: fmt.Sprintf("127.154.%d.1:0", addresses.Add(1)), Log: slog.New(slog.DiscardHandler), Listening: func(a net.Addr) { listening <- a }})
	}()
	env.Defer(func() { stop(); <-ended })
	select {
	case a := <-listening:
		env.Setenv("MANAGER", "https://"+a.String())
		env.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector every process would sleep a second before it ends
	case err := <-ended:
		stop()
		ended <- nil
		return err
	}
	ca, err := os.ReadFile(made.CAFile)
	return errors.Join(err, os.WriteFile(filepath.Join(env.WorkDir, "ca.pem"), ca, 0o600),
		os.WriteFile(filepath.Join(env.WorkDir, "token"), []byte(made.Token+"\n"), 0o600))
}

// exits CODE ARGS... runs fleetsim and wants exactly that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec("fleetsim", args[1:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d; standard error: %s", got, want, ts.ReadFile("stderr"))
	}
}

// registryHas: registry ASSETS: the manager has so many assets, each of one host ID, no conflict, and no chain with a gap or fork.
func registryHas(ts *testscript.TestScript, neg bool, args []string) {
	ctx := context.Background()
	reg, err := registry.Open(ctx, "sqlite:"+filepath.Join(ts.Getenv("WORK"), "manager", "samehost.db"), registry.Options{})
	ts.Check(err)
	defer reg.Close()
	assets, err := reg.Assets(ctx)
	ts.Check(err)
	conflicts, err := reg.Conflicts(ctx)
	ts.Check(err)
	if fmt.Sprint(len(assets)) != args[0] || len(conflicts) != 0 {
		ts.Fatalf("%d assets and %d conflicts, want %s and none", len(assets), len(conflicts), args[0])
	}
	for _, a := range assets {
		if len(a.HostIDs) != 1 {
			ts.Fatalf("asset %s has %d host IDs", a.Name, len(a.HostIDs))
		}
	}
	events, err := reg.History(ctx)
	ts.Check(err)
	for _, e := range events {
		if e.Kind == "gap" || e.Kind == "fork" {
			ts.Fatalf("history: %s", e.Sentence(registry.English))
		}
	}
}

// field: field PATH VALUE: what --json printed has that value there; a value that ends in + is a least number.
func field(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for name := range strings.SplitSeq(args[0], ".") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	if least, ok := strings.CutSuffix(args[1], "+"); ok {
		n, err := strconv.ParseFloat(least, 64)
		ts.Check(err)
		if got, ok := v.(float64); !ok || got < n {
			ts.Fatalf("%s is %v, want at least %s", args[0], v, least)
		}
	} else if got := fmt.Sprint(v); got != args[1] {
		ts.Fatalf("%s is %v, want %s", args[0], got, args[1])
	}
}

// ledgerHas: ledger FILE: it names as many different reports as standard output says were accepted.
func ledgerHas(ts *testscript.TestScript, neg bool, args []string) {
	var r result
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &r))
	digests := map[string]bool{}
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var word, digest, host string
		if n, err := fmt.Sscanf(line, "%s %s %s\n", &word, &digest, &host); n != 3 || err != nil || word != "accepted" || len(digest) != 64 || len(host) != 32 {
			ts.Fatalf("line %q", line)
		}
		digests[digest] = true
	}
	if want := r.Enrolment.Accepted + r.CheckIns.Accepted; int64(len(digests)) != want {
		ts.Fatalf("%d reports in the ledger, want %d", len(digests), want)
	}
}

// The help is one screen, names every flag, and has an example.
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
	for i := range reflect.TypeFor[flags]().NumField() {
		f := reflect.TypeFor[flags]().Field(i)
		name := f.Tag.Get("name")
		if name == "" { // as kong does
			for j, r := range f.Name {
				if j > 0 && r >= 'A' && r <= 'Z' {
					name += "-"
				}
				name += strings.ToLower(string(r))
			}
		}
		if _, negatable := f.Tag.Lookup("negatable"); negatable {
			name = "no-" + name
		}
		if !strings.Contains(stdout.String(), "--"+name) {
			t.Errorf("--%s is not in the help", name)
		}
	}
	if !strings.Contains(stdout.String(), "\n  fleetsim --higher-system ") {
		t.Error("no example")
	}
}

// Standard output that cannot be written is a failure.
func TestOutputThatFails(t *testing.T) {
	t.Parallel()
	if err := (&result{}).print(failing{}); err == nil {
		t.Error("no error")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

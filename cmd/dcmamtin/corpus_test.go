package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// The corpus of internal/sysconfig through the command: a file that is wrong, or names no client, is exit code 1 with one
// line that says what is wrong where, and no PC is touched. A file that names a client gets past that: the
// configuration, which is looked at next, is missing (12).
func TestCorpus(t *testing.T) {
	t.Parallel()
	corpus, err := filepath.Abs("../../internal/sysconfig/testdata/corpus")
	if err != nil {
		t.Fatal(err)
	}
	wants, err := filepath.Glob(filepath.Join(corpus, "*.want"))
	if err != nil || len(wants) < 100 {
		t.Fatalf("%d files, %v", len(wants), err)
	}

	// Most of the wrong files name this PC in a line that is right.
	const bait = "127.131.0.1"
	l, err := net.Listen("tcp", bait+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var touched atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			touched.Add(1)
			c.Close()
		}
	}()
	dir := t.TempDir()
	config := filepath.Join(dir, "m.toml")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(config, fmt.Appendf(nil, "data_dir = %q\n[amt]\npassword_env = \"AMT_PASSWORD\"\nport = \"%d\"\n[dcmamtin]\nresolve = \"file\"\n",
		dir, l.Addr().(*net.TCPAddr).Port), 0o600))
	run := func(file, config string) (code int, stdout, stderr string) {
		t.Helper()
		var out, diagnostics strings.Builder
		c := exec.Command("dcmamtin", "/f", file, "--config", config, "--progress", "none", "--lang", "en")
		c.Env = append(os.Environ(), "AMT_PASSWORD=P@ssw0rd!")
		c.Stdout, c.Stderr = &out, &diagnostics
		var exit *exec.ExitError
		if err := c.Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), out.String(), diagnostics.String()
	}

	for _, w := range wants {
		b, err := os.ReadFile(w)
		must(err)
		file, want := strings.TrimSuffix(w, ".want"), strings.TrimSuffix(string(b), "\n")
		message, wrong := strings.CutPrefix(want, "error: ")
		switch {
		case wrong:
			message = file + ": " + message + "; correct the line, no PC was touched"
		case !strings.Contains(want, ": target "):
			message = file + " names no client; "
		default:
			if code, _, stderr := run(file, filepath.Join(dir, "missing.toml")); code != exitOther || !strings.Contains(stderr, "missing.toml") {
				t.Errorf("%s: exit code %d, %s", filepath.Base(file), code, stderr)
			}
			continue
		}
		code, stdout, stderr := run(file, config)
		if code != exitFile || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "dcmamtin: "+message) {
			t.Errorf("%s: exit code %d, standard output %q, standard error %q, want %q", filepath.Base(file), code, stdout, stderr, message)
		}
	}
	if touched.Load() > 0 {
		t.Errorf("the PC of a wrong file was touched %d times", touched.Load())
	}
	if logs, err := filepath.Glob(filepath.Join(dir, "DCMAMT*")); err != nil || len(logs) > 0 {
		t.Errorf("a log was written: %q, %v", logs, err)
	}

	// That PC would have shown it.
	good := filepath.Join(dir, "good.NDD")
	must(os.WriteFile(good, []byte(bait+" bait TYPE=client\n"), 0o600))
	if code, stdout, stderr := run(good, config); code != exitAll || touched.Load() == 0 {
		t.Errorf("exit code %d, touched %d times: %s%s", code, touched.Load(), stdout, stderr)
	}
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call runs one command line.
func call(args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = Main(args, &out, &errOut)
	return code, out.String(), errOut.String()
}

// The help of the program and of every command is one screen.
func TestHelpIsOneScreen(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"status"}, {"sysconfig"}, {"sysconfig", "export"}, {"amtsetup"}, {"amtsetup", "import"}, {"install"}, {"uninstall"}} {
		code, out, stderr := call(append(args, "--help")...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if code != exitDone || stderr != "" || len(lines) > 24 {
			t.Errorf("%q: code %d, %d lines, %q", args, code, len(lines), stderr)
		}
		for _, l := range lines {
			if len(l) > 80 {
				t.Errorf("%q: %d columns: %q", args, len(l), l)
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "relay.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args   []string
		config string
		code   int
		says   string
	}{
		{[]string{"paint"}, "", exitUsage, "see samehost-relay --help"},
		{[]string{"status"}, "", exitFailed, "no configuration"},
		{[]string{"serve"}, "data_dir = 'd'", exitFailed, "higher_system is missing"},
		{[]string{"serve"}, "data_dir = 'd'\nhigher_system = 'https://127.146.1.1:8740'\nca_file = 'none'", exitFailed, "copy the manager's CA certificate there"},
		{[]string{"serve"}, "data_dir = 'd'\nhigher_system = 'https://127.146.1.1:8740'\nspool_mb = 1", exitFailed, "spool_mb must be a number of megabytes"},
		{[]string{"sysconfig", "export", "x.NDD"}, "data_dir = 'd'\nhigher_system = 'https://127.146.1.1:8740'", exitFailed, "no relay has taken check-ins in"},
		{[]string{"sysconfig", "export", "x.NDD", "--encoding", "ebcdic"}, "", exitUsage, "--encoding"},
		{[]string{"amtsetup", "import", "x.json"}, "data_dir = 'd'\nhigher_system = 'https://127.146.1.1:8740'", exitFailed, "[amt] is missing"},
		{[]string{"status"}, "data_dir = 'd'\nhigher_system = 'https://127.146.1.1:8740'", exitFailed, "start it with samehost-relay serve"},
	} {
		os.Remove(config)
		if c.config != "" {
			write(c.config)
		}
		code, out, stderr := call(append(c.args, "--config", config)...)
		if code != c.code || out != "" || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q with %q: code %d, %q, %q; want %d and one line with %q", c.args, c.config, code, out, stderr, c.code, c.says)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, out, _ := call("--version"); code != exitDone || out != fmt.Sprintf("samehost-relay %s\n", version) {
		t.Errorf("code %d, %q", code, out)
	}
}

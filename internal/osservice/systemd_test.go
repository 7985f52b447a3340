//go:build !windows

package osservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const exe = "/usr/bin/samehost-client"

var client = Service{Name: "samehost-client", Description: "Keeps the host ID (100%)", Exec: exe,
	Args: []string{"run", "--config", `/etc/my "host"/$HOME\client.toml`}, Writable: []string{"/var/lib/samehost client/"}}

// system makes a fake root, with a systemctl that writes down what it is called with and fails where told to.
func system(t *testing.T, booted bool, failing string) (d systemd, calls func() string) {
	t.Helper()
	root := t.TempDir()
	log := filepath.Join(root, "calls")
	script := "echo \"$*\" >>'" + log + "'\ncase \"$*\" in *'" + failing + "'*) [ -n '" + failing + "' ] && { printf 'no \\033[31m bus\\n'; exit 4; };; esac\nexit 0\n"
	if err := os.WriteFile(filepath.Join(root, "systemctl"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	if booted {
		if err := os.MkdirAll(filepath.Join(root, "run/systemd/system"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return systemd{root, []string{"/bin/sh", filepath.Join(root, "systemctl")}}, func() string {
		b, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestInstallAndUninstall(t *testing.T) {
	t.Parallel()
	d, calls := system(t, true, "")
	for range 2 { // again is as good as once
		if err := d.install(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(d.root, "etc/systemd/system/samehost-client.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		mark,
		"Description=Keeps the host ID (100%%)",
		`ExecStart="/usr/bin/samehost-client" "run" "--config" "/etc/my \"host\"/$$HOME\\client.toml"`,
		`ReadWritePaths="/var/lib/samehost client"`,
		"Restart=on-failure", "ProtectSystem=strict", "NoNewPrivileges=yes", "WantedBy=multi-user.target",
	} {
		if !strings.Contains("\n"+string(b), "\n"+line+"\n") {
			t.Errorf("the unit file lacks %s:\n%s", line, b)
		}
	}
	const install = "daemon-reload\nenable samehost-client.service\nrestart samehost-client.service\n"
	if diff := cmp.Diff(install+install, calls()); diff != "" {
		t.Error(diff)
	}

	wants := filepath.Join(d.root, "etc/systemd/system/multi-user.target.wants/samehost-client.service")
	if err := os.MkdirAll(filepath.Dir(wants), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../samehost-client.service", wants); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.uninstall(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(install+install+"stop samehost-client.service\ndaemon-reload\n", calls()); diff != "" {
		t.Error(diff)
	}
	left, err := filepath.Glob(filepath.Join(d.root, "etc/systemd/system/*.*"))
	if err != nil || len(left) != 1 { // the folder multi-user.target.wants
		t.Errorf("left behind: %q, %v", left, err)
	}
	if _, err := os.Lstat(wants); !os.IsNotExist(err) {
		t.Errorf("the link is left behind: %v", err)
	}
}

func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	d, calls := system(t, false, "")
	if err := d.install(t.Context(), client); !errors.Is(err, ErrNoManager) {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(d.root, "etc")); len(entries) != 0 || calls() != "" {
		t.Errorf("without systemd something was done: %v %s", entries, calls())
	}
	if err := d.uninstall(t.Context(), client); err != nil {
		t.Errorf("got %v", err)
	}

	d, calls = system(t, true, "")
	unit := d.unit(client)
	if err := os.MkdirAll(filepath.Dir(unit), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, []byte("[Unit]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := "register service samehost-client: " + unit + " was not written by this program; remove it, or keep it and leave the registration out"
	if err := d.install(t.Context(), client); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	want = "remove service samehost-client: " + unit + " was not written by this program; remove it by hand"
	if err := d.uninstall(t.Context(), client); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if calls() != "" {
		t.Errorf("systemctl was called: %s", calls())
	}

	inTemp := client
	inTemp.Writable = []string{"/tmp/x"}
	want = "service samehost-client: /tmp/x is below /tmp, which is emptied and not shared with services; use another data_dir"
	if err := d.install(t.Context(), inTemp); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSystemctlFails(t *testing.T) {
	t.Parallel()
	d, _ := system(t, true, "enable")
	want := `register service samehost-client: systemctl enable samehost-client.service: exit status 4: no \x1b[31m bus`
	if err := d.install(t.Context(), client); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	d.systemctl = []string{filepath.Join(d.root, "none")}
	if err := d.install(t.Context(), client); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.install(ctx, client); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// SIGTERM, which systemd sends, ends Run.
func TestRunEndsOnSIGTERM(t *testing.T) {
	err := Run(t.Context(), "x", func(ctx context.Context) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("got %v", err)
	}
}

//go:build !windows

package osservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Install registers the service, starts it with the machine from now on, and starts it. What was registered under the
// name before is replaced and started again; a unit file of somebody else is left alone and is an error. It needs root.
func (s Service) Install(ctx context.Context) error { return here.install(ctx, s) }

// Uninstall stops the service and takes its registration away. Where there is none it does nothing. It needs root.
func (s Service) Uninstall(ctx context.Context) error { return here.uninstall(ctx, s) }

// Run runs f until it returns or the program is told to end (Ctrl-C, systemctl stop); then f's context is cancelled and
// Run waits for it. That f returns the cancellation is no error. The name counts on Windows only.
func Run(ctx context.Context, name string, f func(context.Context) error) error {
	return interactive(ctx, f)
}

// systemd is where its files are and which command reaches it.
type systemd struct {
	root      string
	systemctl []string
}

var here = systemd{root: "/", systemctl: []string{"systemctl", "--no-ask-password"}}

// mark is the first line of the unit files that are ours to replace and remove.
const mark = "# Registered by samehost; `uninstall` removes this file, changes belong into a drop-in."

// commandTimeout bounds one systemctl call. A service that has to end first may take systemd's 90 seconds.
const commandTimeout = 2 * time.Minute

func (d systemd) unit(s Service) string {
	return filepath.Join(d.root, "etc/systemd/system", s.Name+".service")
}

// wants is the link that `systemctl enable` makes.
func (d systemd) wants(s Service) string {
	return filepath.Join(d.root, "etc/systemd/system/multi-user.target.wants", s.Name+".service")
}

func (d systemd) running() bool {
	_, err := os.Stat(filepath.Join(d.root, "run/systemd/system")) // sd_booted(3)
	return err == nil
}

func (d systemd) install(ctx context.Context, s Service) error {
	text, err := unitFile(s)
	if err != nil {
		return err
	}
	if !d.running() {
		return fmt.Errorf("register service %s: %w", s.Name, ErrNoManager)
	}
	if ours, err := d.ours(s); err != nil {
		return err
	} else if !ours {
		return fmt.Errorf("register service %s: %s was not written by this program; remove it, or keep it and leave the registration out", s.Name, d.unit(s))
	}
	if err := os.MkdirAll(filepath.Dir(d.unit(s)), 0o755); err != nil {
		return fmt.Errorf("register service %s: %w", s.Name, err)
	}
	temporary := d.unit(s) + ".new" // systemd reads no such name
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return fmt.Errorf("register service %s: %w", s.Name, err)
	}
	if err := os.Rename(temporary, d.unit(s)); err != nil {
		os.Remove(temporary)
		return fmt.Errorf("register service %s: %w", s.Name, err)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", s.Name + ".service"}, {"restart", s.Name + ".service"}} {
		if err := d.call(ctx, args...); err != nil {
			return fmt.Errorf("register service %s: %w", s.Name, err)
		}
	}
	return nil
}

func (d systemd) uninstall(ctx context.Context, s Service) error {
	if err := s.check(); err != nil {
		return err
	}
	if _, err := os.Lstat(d.unit(s)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if ours, err := d.ours(s); err != nil {
		return err
	} else if !ours {
		return fmt.Errorf("remove service %s: %s was not written by this program; remove it by hand", s.Name, d.unit(s))
	}
	if d.running() {
		if err := d.call(ctx, "stop", s.Name+".service"); err != nil {
			return fmt.Errorf("remove service %s: %w", s.Name, err)
		}
	}
	for _, path := range []string{d.wants(s), d.unit(s)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove service %s: %w", s.Name, err)
		}
	}
	if d.running() {
		if err := d.call(ctx, "daemon-reload"); err != nil {
			return fmt.Errorf("remove service %s: %w", s.Name, err)
		}
	}
	return nil
}

// ours reports whether the unit file may be replaced: there is none, or we wrote it.
func (d systemd) ours(s Service) (bool, error) {
	b, err := os.ReadFile(d.unit(s))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("service %s: %w", s.Name, err)
	}
	return bytes.HasPrefix(b, []byte(mark+"\n")), nil
}

func (d systemd) call(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, d.systemctl[0], append(d.systemctl[1:len(d.systemctl):len(d.systemctl)], args...)...).CombinedOutput()
	if err == nil {
		return nil
	}
	what := "systemctl " + strings.Join(args, " ")
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	said := strings.Join(strings.Fields(string(out[:min(len(out), 500)])), " ")
	if said == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %s", what, err, strings.Trim(strconv.QuoteToGraphic(said), `"`))
}

// unitFile is the service as systemd wants it. The service reads what root may read (SMBIOS tables are root's) and
// writes its own folders; everything else it does not need is closed, so that a fault in it stays small.
func unitFile(s Service) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	command := make([]string, 0, 1+len(s.Args))
	for _, a := range append([]string{s.Exec}, s.Args...) {
		command = append(command, quote(strings.ReplaceAll(a, "$", "$$"))) // no variables
	}
	var writable []string
	for _, w := range s.Writable {
		w = filepath.Clean(w)
		for _, tmp := range []string{"/tmp", "/var/tmp"} {
			if w == tmp || strings.HasPrefix(w, tmp+"/") {
				return nil, fmt.Errorf("service %s: %s is below %s, which is emptied and not shared with services; use another data_dir", s.Name, w, tmp)
			}
		}
		writable = append(writable, quote(w))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `%s
[Unit]
Description=%s
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart=%s
Restart=on-failure
RestartSec=10
UMask=0077
ReadWritePaths=%s
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
NoNewPrivileges=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_NET_BIND_SERVICE
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
`, mark, strings.ReplaceAll(s.Description, "%", "%%"), strings.Join(command, " "), strings.Join(writable, " "))
	return b.Bytes(), nil
}

// quote makes one word of a unit file's value (systemd.syntax(7)): in double quotes, with %, \ and " escaped.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

// Package osservice registers a program as a service of the operating system (a systemd unit, a Windows service) and
// runs it as one.
package osservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Service is a program to be started with the machine, as root or LocalSystem, and again when it fails.
type Service struct {
	Name        string   // samehost-client: letters, digits, '-', '_' and '.', at most 64
	DisplayName string   // for lists of services on Windows; may be empty
	Description string   // one line
	Exec        string   // full path of the program
	Args        []string // no passwords: everybody can read them
	Writable    []string // on Linux all that the service may write: full paths of folders that exist
}

// ErrNoManager reports that nothing here manages services, as in a container. Nothing was changed then.
var ErrNoManager = errors.New("systemd does not run here, so no service can be registered; start the program by other means")

// check refuses what would not arrive as it is in a unit file or the Windows registry.
func (s Service) check() error {
	if s.Name == "" || len(s.Name) > 64 {
		return fmt.Errorf("service name %q: must have 1 to 64 characters", s.Name)
	}
	for i, r := range s.Name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && (r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')) {
			return fmt.Errorf("service name %q: must be letters, digits, '-', '_' and '.'", s.Name)
		}
	}
	for _, text := range append([]string{s.DisplayName, s.Description, s.Exec}, append(s.Args, s.Writable...)...) {
		if !utf8.ValidString(text) {
			return fmt.Errorf("service %s: %q is not UTF-8", s.Name, text)
		}
		for _, r := range text {
			if unicode.IsControl(r) {
				return fmt.Errorf("service %s: %q holds a control character", s.Name, text)
			}
		}
	}
	for _, path := range append([]string{s.Exec}, s.Writable...) {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("service %s: %q is not a full path", s.Name, path)
		}
	}
	return nil
}

// interactive runs f until it returns or somebody ends the program (Ctrl-C, SIGTERM).
func interactive(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return withoutCancel(ctx, f(ctx))
}

// withoutCancel takes the error away that only says that f was told to end.
func withoutCancel(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

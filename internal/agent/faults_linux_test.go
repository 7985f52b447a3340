package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"samehost/internal/hostid"
)

// What stands in a file's place, such as a pipe or a folder, is named once and said at once; nothing hangs.
func TestWhatIsNoRegularFile(t *testing.T) {
	t.Parallel()
	for what, make := range map[string]func(string) error{
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		pc := newPC(t, newManager(t))
		for name, read := range map[string]func(path string) error{
			chainName:       func(string) error { a, err := Open(pc.options()); closed(a, err); return err },
			overwrittenName: func(string) error { a, err := Open(pc.options()); closed(a, err); return err },
			hostid.FileName: func(string) error { _, err := ReadStatus(t.Context(), pc.dir); return err },
			lockName:        func(string) error { a, err := Open(pc.options()); closed(a, err); return err },
			statusName:      func(string) error { _, err := ReadStatus(t.Context(), pc.dir); return err },
			controlName:     func(string) error { _, err := RequestCheckIn(t.Context(), pc.dir); return err },
			"enrol.txt":     func(path string) error { _, err := ReadToken(path); return err },
		} {
			pc.accepted(t)
			path := filepath.Join(pc.dir, name)
			os.Remove(path)
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			done := goes(func() error { return read(path) })
			select {
			case err := <-done:
				if err == nil || errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), name) != 1 || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "move it away") {
					t.Errorf("%s as %s: %v; want one line that names it once and says what to do", what, name, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s as %s: hangs", what, name)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func goes(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func closed(a *Agent, err error) {
	if err == nil {
		a.Close()
	}
}

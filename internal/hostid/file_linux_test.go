package hostid_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"samehost/internal/hostid"
)

func TestFileSaysWhatToDoWhenItCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		call string
		err  error
		says string
	}{
		{"create", &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, "run this as root or Administrator"},
		{"create", &fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, "read-only"},
		{"write", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, "disk is full; what was stored before is untouched"},
		{"write", &fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, "disk is full"},
		{"sync", &fs.PathError{Op: "sync", Path: "x", Err: syscall.ENOSPC}, "free some space"},
		{"close", &fs.PathError{Op: "close", Path: "x", Err: syscall.EIO}, "input/output error"},
		{"rename", &fs.PathError{Op: "rename", Path: "x", Err: syscall.EPERM}, "run this as root or Administrator"},
	} {
		dir := t.TempDir()
		f := hostid.NewFile(dir)
		if err := f.Save(t.Context(), record(1)); err != nil {
			t.Fatal(err)
		}
		f.CutAt(func(call string, data []byte) (int, error) {
			if call == c.call {
				return len(data) / 2, c.err
			}
			return len(data), nil
		})
		err := f.Save(t.Context(), record(2))
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), f.Path()) {
			t.Errorf("%s fails with %v: %v, want it to say %q", c.call, c.err, err, c.says)
		}
		if names := namesIn(t, dir); !slices.Equal(names, []string{hostid.FileName}) {
			t.Errorf("%s fails: the folder holds %q", c.call, names)
		}
		if got, err := f.Load(t.Context()); err != nil || !got.Equal(record(1)) {
			t.Errorf("%s fails: Load: %v, %v", c.call, got, err)
		}
	}
}

func TestFileReadsOnlyARegularFile(t *testing.T) {
	t.Parallel()
	good := t.TempDir()
	if err := hostid.NewFile(good).Save(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"folder": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":   func(p string) error { return os.Symlink(filepath.Join(good, hostid.FileName), p) },
		"pipe":   func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		f := hostid.NewFile(t.TempDir())
		if err := make(f.Path()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(t.Context()); !errors.Is(err, hostid.ErrUnavailable) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: Load: %v", name, err)
		}
		if err := f.Save(t.Context(), record(2)); !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("%s: Save: %v", name, err)
		}
	}
	notAFolder := filepath.Join(good, hostid.FileName)
	if _, err := hostid.NewFile(notAFolder).Load(t.Context()); !errors.Is(err, hostid.ErrUnavailable) {
		t.Errorf("the data folder is a file: Load: %v", err)
	}
	if err := hostid.WriteFileDurably(filepath.Join(notAFolder, "x"), nil); err == nil || !strings.Contains(err.Error(), "no folder") {
		t.Errorf("the data folder is a file: %v", err)
	}
}

func TestFileIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "data")
	f := hostid.NewFile(dir)
	if err := f.Save(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	aside, err := f.SetAside(t.Context(), "replaced")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := hostid.LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	for path, want := range map[string]fs.FileMode{
		dir: 0o700, filepath.Dir(dir): 0o700, f.Path(): 0o600, aside: 0o600, filepath.Join(dir, "lock"): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
}

// Root may read everything, so the thread that touches the files takes another user's rights (setfsuid(2)).
func TestFileThatCannotBeReadIsUnavailable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := hostid.NewFile(dir)
	if err := f.Save(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the test's own folder above it
		t.Fatal(err)
	}
	asNobody := func(do func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if os.Getuid() == 0 {
				runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
				unix.SetfsuidRetUid(65534)
			}
			do()
		}()
		<-done
	}
	if err := os.Chmod(f.Path(), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(func() {
		if _, err := f.Load(t.Context()); !errors.Is(err, hostid.ErrUnavailable) || !strings.Contains(err.Error(), "run this as root") {
			t.Errorf("Load of an unreadable file: %v", err)
		}
		if err := f.Save(t.Context(), record(2)); !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("Save over an unreadable file: %v", err)
		}
	})
	if err := errors.Join(os.Chmod(f.Path(), 0o644), os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	asNobody(func() {
		if err := f.Save(t.Context(), record(2)); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "run this as root") {
			t.Errorf("Save in a folder without write permission: %v", err)
		}
		if got, err := f.Load(t.Context()); err != nil || !got.Equal(record(1)) {
			t.Errorf("Load: %v, %v", got, err)
		}
	})
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	asNobody(func() {
		if _, err := f.Load(t.Context()); os.Getuid() == 0 && !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("Load in a folder of another user: %v", err)
		}
	})
}

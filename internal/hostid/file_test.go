package hostid_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

var errPowerCut = errors.New("power is cut")

// disk stands between a File and the disk: it counts files written, and cuts after a number of steps, each byte
// and each call being one.
type disk struct {
	writes int
	calls  []string
	armed  bool
	steps  int
}

func (d *disk) call(name string, data []byte) (int, error) {
	d.calls = append(d.calls, name)
	if name == "write" {
		d.writes++
	}
	need := max(1, len(data))
	if d.armed && d.steps < need {
		n := d.steps
		d.steps = 0
		return n, errPowerCut
	}
	d.steps -= need
	return len(data), nil
}

func record(n byte) hostid.Record {
	r := hostid.Record{Issued: time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)}
	r.HostID[0], r.Seed[0], r.Local.Origin = n, n, hostid.Generated
	return r
}

func TestFileKeepsTheContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		dir := filepath.Join(t.TempDir(), "data")
		path := filepath.Join(dir, hostid.FileName)
		var d disk
		return storetest.Fixture{
			Reopen: func(*testing.T) hostid.Store {
				d.armed = false
				f := hostid.NewFile(dir)
				f.CutAt(d.call)
				return f
			},
			KeepsLocal: true,
			Copies:     1,
			Read: func(t *testing.T, _ int) []byte {
				b, err := os.ReadFile(path)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				return b
			},
			Write: func(t *testing.T, _ int, b []byte) {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			Writes: func() int { return d.writes },
			Cut:    func(n int) { d.armed, d.steps = true, n },
		}
	})
}

// A rename that was not flushed may be undone by a power cut, and data that was not flushed before the rename may
// be missing behind it. So the order of calls is the promise.
func TestFileIsWrittenInTheOrderThatSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	var d disk
	f := hostid.NewFile(dir)
	f.CutAt(d.call)
	if err := f.Save(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	want := []string{"make folder", "make folder", "create", "write", "sync", "close", "rename", "sync folder"}
	if !slices.Equal(d.calls, want) {
		t.Errorf("calls %q, want %q", d.calls, want)
	}
}

// Whatever a power cut leaves behind, the next process reads the old or the new record and can save.
func TestFileAfterEveryPowerCut(t *testing.T) {
	t.Parallel()
	old, r := record(1), record(2)
	for steps := 0; ; steps++ {
		dir := t.TempDir()
		f := hostid.NewFile(dir)
		if err := f.Save(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		d := disk{armed: true, steps: steps}
		f.CutAt(d.call)
		err = f.Save(t.Context(), r)
		if err == nil {
			if want := len(before) + len([]string{"create", "sync", "close", "rename", "sync folder"}); steps != want {
				t.Fatalf("%d steps were cut, want %d", steps, want)
			}
			return
		}
		if !errors.Is(err, errPowerCut) {
			t.Fatal(err)
		}
		renamed := slices.Contains(d.calls, "sync folder") // it failed: the rename was not made durable
		outcomes := [][]byte{nil}
		if renamed {
			outcomes = append(outcomes, before)
		}
		for _, undone := range outcomes {
			if undone != nil {
				if err := os.WriteFile(f.Path(), undone, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := hostid.NewFile(dir).Load(t.Context())
			want := old
			if renamed && undone == nil {
				want = r
			}
			if err != nil || !got.Equal(want) {
				t.Fatalf("%d steps, calls %q: Load: %v, %v, want %v", steps, d.calls, got.HostID, err, want.HostID)
			}
			lock, err := hostid.LockFolder(dir)
			if err != nil {
				t.Fatal(err)
			}
			if names := namesIn(t, dir); !slices.Equal(names, []string{hostid.FileName, "lock"}) {
				t.Fatalf("%d steps: the folder holds %q", steps, names)
			}
			if err := hostid.NewFile(dir).Save(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if err := lock.Unlock(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFileSetsAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := hostid.NewFile(dir)
	if _, err := f.SetAside(t.Context(), "replaced"); !errors.Is(err, hostid.ErrNotStored) {
		t.Fatalf("with nothing stored: %v", err)
	}
	if err := f.Save(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for range 3 { // an attempt that is repeated keeps one copy
		name, err := f.SetAside(t.Context(), "replaced")
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if names[0] != names[1] || names[1] != names[2] {
		t.Errorf("set aside as %q", names)
	}
	if !regexp.MustCompile(`/host-id\.replaced-\d{8}T\d{6}Z-[0-9a-f]{16}$`).MatchString(filepath.ToSlash(names[0])) {
		t.Errorf("set aside as %q", names[0])
	}
	if got, err := f.Load(t.Context()); err != nil || !got.Equal(record(1)) {
		t.Errorf("set aside, the file holds %v, %v", got, err)
	}
	if err := f.Save(t.Context(), record(2)); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(names[0]); err != nil || !bytes.Equal(kept, before) {
		t.Errorf("kept %x, %v, want %x", kept, err, before)
	}
	a, err := f.SetAsideRecord(t.Context(), record(3), "replaced")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := f.SetAsideRecord(t.Context(), record(3), "replaced"); err != nil || a != b {
		t.Errorf("set aside again as %q, %v, want %q", b, err, a)
	}
	kept, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, r, err := hostid.DecodeFrame(kept); err != nil || !r.Equal(record(3)) {
		t.Errorf("kept %v, %v", r, err)
	}
}

func TestCorruptFileIsNeverLost(t *testing.T) {
	t.Parallel()
	whole, err := hostid.EncodeFrame(1, record(1))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":        {},
		"zeros":        make([]byte, 300),
		"text":         []byte("hello"),
		"half":         whole[:40],
		"two":          append(bytes.Clone(whole), whole...),
		"long":         bytes.Repeat([]byte("x"), 64<<10),
		"longer":       bytes.Repeat([]byte("x"), 64<<10+1),
		"long padding": hostid.PadFrame(whole, 64<<10+1),
	} {
		dir := t.TempDir()
		f := hostid.NewFile(dir)
		if err := os.WriteFile(f.Path(), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := f.Load(t.Context()); !errors.Is(err, hostid.ErrCorrupt) {
			t.Errorf("%s: Load: %v, %v", name, r, err)
		}
		if err := f.Save(t.Context(), record(2)); err != nil {
			t.Errorf("%s: Save: %v", name, err)
		}
		if r, err := f.Load(t.Context()); err != nil || !r.Equal(record(2)) {
			t.Errorf("%s: Load after Save: %v, %v", name, r, err)
		}
		names := namesIn(t, dir)
		if len(names) != 2 || !strings.HasPrefix(names[1], "host-id.corrupt-") {
			t.Fatalf("%s: the folder holds %q", name, names)
		}
		if kept, err := os.ReadFile(filepath.Join(dir, names[1])); err != nil || !bytes.Equal(kept, content) {
			t.Errorf("%s: kept %d bytes, %v, want %d", name, len(kept), err, len(content))
		}
	}
}

func TestWriteFileDurably(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "state")
	for _, content := range []string{"one", "", "three"} {
		// Left by a process that was killed.
		if content != "one" {
			if err := os.WriteFile(path+hostid.TempSuffix, []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := hostid.WriteFileDurably(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("holds %q, %v, want %q", b, err, content)
		}
		if names := namesIn(t, filepath.Dir(path)); !slices.Equal(names, []string{"state"}) {
			t.Errorf("the folder holds %q", names)
		}
	}
}

func TestOneProcessWorksInADataFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	lock, err := hostid.LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = hostid.LockFolder(dir)
		if !errors.Is(err, hostid.ErrLocked) || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())+" works in it") {
			t.Errorf("locked twice: %v", err)
		}
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	lock, err = hostid.LockFolder(dir)
	if err != nil {
		t.Fatalf("after Unlock: %v", err)
	}
	lock.Unlock()
}

const lockHelper = "HOSTID_TEST_LOCK_FOLDER"

// TestHelperHoldsLock is the other process of the test after it.
func TestHelperHoldsLock(t *testing.T) {
	dir := os.Getenv(lockHelper)
	if dir == "" {
		return
	}
	if _, err := hostid.LockFolder(dir); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("locked\n")
	select {} // until killed
}

func TestLockEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperHoldsLock$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), lockHelper+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := hostid.LockFolder(dir); !errors.Is(err, hostid.ErrLocked) || !strings.Contains(err.Error(), "process "+strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("held by process %d: %v", cmd.Process.Pid, err)
	}
	for name, content := range map[string]string{"host-id" + hostid.TempSuffix: "half", "x.tmp": "not ours", "host-id": "stays"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	lock, err := hostid.LockFolder(dir)
	if err != nil {
		t.Fatalf("its process was killed: %v", err)
	}
	defer lock.Unlock()
	if names := namesIn(t, dir); !slices.Equal(names, []string{"host-id", "lock", "x.tmp"}) {
		t.Errorf("the folder holds %q", names)
	}
}

func TestReadRegularFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := hostid.ReadRegularFile(path, 5); err != nil || string(b) != "12345" {
		t.Errorf("of the limit's length: %q, %v", b, err)
	}
	if b, err := hostid.ReadRegularFile(path, 4); !errors.Is(err, hostid.ErrCorrupt) || b != nil {
		t.Errorf("longer than the limit: %q, %v; want ErrCorrupt", b, err)
	}
	for name, want := range map[string]error{"nosuch": fs.ErrNotExist, "": nil} {
		_, err := hostid.ReadRegularFile(filepath.Join(dir, name), 5)
		if err == nil || want != nil && !errors.Is(err, want) || strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %v; want %v, and the caller to name the file", name, err, want)
		}
	}
}

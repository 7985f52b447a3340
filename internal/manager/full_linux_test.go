package manager

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A full disk is called that, and nothing half-made stays.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); errors.Is(err, syscall.EPERM) {
		t.Skip("NOT TESTED: a full disk, for it takes root to mount a small one")
	} else {
		must(t, err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(disk, syscall.MNT_DETACH)) })
	filler := filepath.Join(disk, "filler")
	fill := func(leave int64) {
		t.Helper()
		must(t, os.RemoveAll(filler))
		var s syscall.Statfs_t
		must(t, syscall.Statfs(disk, &s))
		must(t, os.WriteFile(filler, make([]byte, int64(s.Bavail)*s.Bsize-leave), 0o600))
	}
	names := func() string {
		t.Helper()
		entries, err := os.ReadDir(disk)
		must(t, err)
		var list []string
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return strings.Join(list, " ")
	}
	dir := filepath.Join(disk, "m")
	for _, leave := range []int64{0, 16 << 10, 64 << 10, 512 << 10} {
		fill(leave)
		_, err := Init(t.Context(), dir, DefaultListen)
		if want := "cannot write " + dir + ": the disk is full; make room on it, then do this again"; err == nil || err.Error() != want {
			t.Errorf("init with %d bytes left:\n got %v\nwant %s", leave, err, want)
		}
		if got := names(); got != "filler" {
			t.Errorf("left behind: %s", got)
		}
	}
	must(t, os.Remove(filler))
	made, err := Init(t.Context(), dir, DefaultListen)
	must(t, err)

	fill(0)
	if _, err := OpenRegistry(t.Context(), dir, database(dir)); err == nil || !strings.HasSuffix(WithRemedy(err).Error(), "; make room on that disk, then do this again") {
		t.Errorf("opened: %v", err)
	}
	must(t, os.Remove(filler))
	reg, err := OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	defer reg.Close()
	file := filepath.Join(disk, "b.tar")
	fill(40 << 10) // room for the folder, and less than the copy takes
	err = Backup(t.Context(), dir, database(dir), made.Config, file)
	if want := "backup: cannot write " + file + ": the disk is full; make room on it, then do this again"; err == nil || err.Error() != want {
		t.Errorf("backup:\n got %v\nwant %s", err, want)
	}
	if got := names(); got != "filler m" {
		t.Errorf("left behind: %s", got)
	}
	fill(0)
	if _, err := reg.CreateToken(t.Context(), time.Time{}, "", ""); err == nil || !strings.HasSuffix(WithRemedy(err).Error(), "; make room on that disk, then do this again") {
		t.Errorf("a token: %v", err)
	}
	must(t, os.Remove(filler))
	toks, err := reg.Tokens(t.Context())
	must(t, err)
	if len(toks) != 1 {
		t.Errorf("%d tokens, want the first one only", len(toks))
	}
}

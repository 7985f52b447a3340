package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
)

// FuzzStateFile: what is read is written again to the same content, and what is no state file is corrupt or newer,
// never a crash and never another error.
func FuzzStateFile(f *testing.F) {
	dir := f.TempDir()
	for _, content := range []any{chain{HostID: hostid.NewID()}, overwritten{Entries: []overwriting{{Kind: hostid.Returned, Store: "file", Old: hostid.NewID(), New: hostid.NewID()}}}} {
		path := filepath.Join(dir, "seed")
		if err := writeState(path, content); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip[chain](t, b)
		roundTrip[overwritten](t, b)
		roundTrip[Status](t, b)
	})
}

func roundTrip[T any](t *testing.T, b []byte) {
	var first T
	if err := parseState(b, &first); err != nil {
		if errors.Is(err, hostid.ErrCorrupt) == errors.Is(err, hostid.ErrNewer) {
			t.Fatalf("%v is neither corrupt nor newer", err)
		}
		return
	}
	if c, ok := any(first).(chain); ok {
		c.check()
	}
	path := filepath.Join(t.TempDir(), "state")
	if err := writeState(path, first); err != nil {
		return // a zero host ID in it: nothing that we write
	}
	var second T
	if err := readState(path, &second); err != nil {
		return
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Fatalf("written and read again (-first +second):\n%s", diff)
	}
}

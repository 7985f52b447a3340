package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// A state file that was cut or has a wrong bit is never taken for another one.
func TestStateFileDamaged(t *testing.T) {
	t.Parallel()
	want := chain{HostID: hostid.NewID(), Manager: "sha256:00", Epoch: checkin.NewToken(), EpochBy: checkin.EpochInstall, Counter: 7, Previous: checkin.Digest{1}, Done: []string{"a"}}
	path := filepath.Join(t.TempDir(), "state")
	if err := writeState(path, want); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	judge := func(b []byte, what string) {
		var got chain
		err := parseState(b, &got)
		if errors.Is(err, hostid.ErrCorrupt) || errors.Is(err, hostid.ErrNewer) {
			return
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, read as another content:\n%s", what, err, diff)
		}
	}
	for n := range whole {
		judge(whole[:n], fmt.Sprintf("cut at %d", n))
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[n] ^= 1 << bit
			judge(b, fmt.Sprintf("byte %d bit %d", n, bit))
		}
	}
}

func TestChainCheck(t *testing.T) {
	t.Parallel()
	good := chain{HostID: hostid.NewID(), Epoch: checkin.NewToken(), EpochBy: checkin.EpochInstall, Counter: 7, Previous: checkin.Digest{1}}
	for name, change := range map[string]func(*chain){
		"no host ID":              func(c *chain) { c.HostID = hostid.ID{} },
		"no epoch":                func(c *chain) { c.Epoch = checkin.Token{} },
		"no reason for the epoch": func(c *chain) { c.EpochBy = "" },
		"counter without digest":  func(c *chain) { c.Previous = checkin.Digest{} },
		"digest without counter":  func(c *chain) { c.Counter = 0 },
		"unsigned pending":        func(c *chain) { c.Pending = "eyJ.eyJ.AA" },
		"unsigned reply":          func(c *chain) { c.Reply = "eyJ.eyJ.AA" },
	} {
		c := good
		change(&c)
		if c.check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
}

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

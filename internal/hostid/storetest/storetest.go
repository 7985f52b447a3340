// Package storetest is the contract that every hostid.Store keeps, as a test suite, and a Store in memory for
// tests.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
)

// Fixture is one store under test: initialised, empty, and used by nobody else.
type Fixture struct {
	// Reopen returns a Store on the fixture's storage, as a process that starts anew makes it, and heals a cut.
	Reopen func(t *testing.T) hostid.Store

	// KeepsLocal: Local marks and the disk digest are kept (the host ID management file). Otherwise the suite
	// saves portable records only.
	KeepsLocal bool

	// Copies is how many physical copies there are, written in turn: 1 or 2.
	Copies int

	// Read and Write reach the raw bytes of copy i past the Store. Read returns nil where nothing was written
	// yet; it may return more than the frame (blank flash). Write replaces the copy's beginning, and is called
	// only for copies that Read returns something for.
	Read  func(t *testing.T, i int) []byte
	Write func(t *testing.T, i int, b []byte)

	// Writes counts the writes that reached the storage so far: WriteBlock calls, files written.
	Writes func() int

	// Cut lets n more steps of writing through (bytes, and calls where a call is a step of its own) and then
	// fails everything until Reopen, as a power cut does. nil: this storage cannot be cut, which the suite says
	// loudly. The suite raises n until Save succeeds.
	Cut func(n int)
}

// maxSteps bounds the steps that the suite cuts one Save into.
const maxSteps = 20_000

// Run runs the contract suite; open makes a fresh fixture for each test.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s *suite)
	}{
		{"an empty store has no record", testEmpty},
		{"what is saved is loaded", testSaveLoad},
		{"saving the same writes nothing", testSaveTwice},
		{"the sequence grows and the copies take turns", testSequence},
		{"one damaged copy loses nothing and is healed", testOneCorrupt},
		{"all copies damaged is corrupt, and can be saved over", testAllCorrupt},
		{"a newer version is never overwritten", testNewer},
		{"a cancelled context stops before anything is written", testCancelled},
		{"an impossible record changes nothing", testImpossible},
		{"a first save that is cut leaves nothing or the record", testCutFirst},
		{"a save that is cut leaves the old or the new record", testCut},
		{"a save that is cut spares the only whole copy", testCutWithDamage},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, &suite{open(t), open})
		})
	}
}

type suite struct {
	Fixture
	open func(t *testing.T) Fixture
}

// record is the nth of as many different records as a test needs; their lengths differ too.
func (s *suite) record(n int) hostid.Record {
	r := hostid.Record{Issued: time.Date(2026, 11, 23, 1, 2, n%60, 0, time.UTC)}
	for i := range r.HostID {
		r.HostID[i] = byte(n + i + 1)
	}
	for i := range r.Seed {
		r.Seed[i] = byte(2*n + i + 1)
	}
	for f := range (5 * n) % (hostid.NumFacts + 1) {
		r.Facts[f] = hostid.DigestOf(r.HostID, hostid.Fact(f), "value")
	}
	if !s.KeepsLocal {
		return r.Portable()
	}
	switch n % 3 {
	case 0:
		r.Local = hostid.Local{Fresh: true, Provisional: true, Origin: hostid.Generated}
	case 1:
		r.Local = hostid.Local{Stored: true, Pending: true, Origin: hostid.Restored, CopyOf: r.HostID, DropFor: r.HostID}
	}
	return r
}

func (s *suite) save(t *testing.T, store hostid.Store, r hostid.Record) {
	t.Helper()
	if err := store.Save(t.Context(), r); err != nil {
		t.Fatalf("Save: %v", err)
	}
}

func (s *suite) wantLoad(t *testing.T, store hostid.Store, want hostid.Record) {
	t.Helper()
	got, err := store.Load(t.Context())
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("Load (-want +got):\n%s", diff)
	}
}

// wantLoadError checks that Load wraps want and no other sentinel.
func (s *suite) wantLoadError(t *testing.T, store hostid.Store, want error) {
	t.Helper()
	r, err := store.Load(t.Context())
	for _, sentinel := range []error{hostid.ErrNotStored, hostid.ErrNotInitialized, hostid.ErrCorrupt, hostid.ErrNewer, hostid.ErrUnavailable} {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Fatalf("Load: %v, want only %q", err, want)
		}
	}
	if !r.Equal(hostid.Record{}) {
		t.Fatalf("Load: a record comes with the error %v", err)
	}
}

// copies are the copies that hold something.
func (s *suite) copies(t *testing.T) (is []int) {
	t.Helper()
	for i := range s.Copies {
		if _, _, err := hostid.DecodeFrame(s.Read(t, i)); !errors.Is(err, hostid.ErrNotStored) {
			is = append(is, i)
		}
	}
	return is
}

// damage changes one byte of what a copy holds.
func (s *suite) damage(t *testing.T, i int) {
	t.Helper()
	b := bytes.Clone(s.Read(t, i))
	if len(b) <= hostid.FrameHeader+5 {
		t.Fatalf("copy %d holds %d bytes: nothing to damage", i, len(b))
	}
	b[hostid.FrameHeader+5] ^= 0x10
	s.Write(t, i, b)
	if _, _, err := hostid.DecodeFrame(s.Read(t, i)); !errors.Is(err, hostid.ErrCorrupt) {
		t.Fatalf("copy %d is damaged, yet reads: %v", i, err)
	}
}

func testEmpty(t *testing.T, s *suite) {
	store := s.Reopen(t)
	s.wantLoadError(t, store, hostid.ErrNotStored)
	s.wantLoadError(t, store, hostid.ErrNotStored)
	if n := s.Writes(); n != 0 {
		t.Errorf("%d writes", n)
	}
}

func testSaveLoad(t *testing.T, s *suite) {
	store := s.Reopen(t)
	for n := range 7 { // longer and shorter ones in turn
		r := s.record(n)
		s.save(t, store, r)
		s.wantLoad(t, store, r)
		s.wantLoad(t, s.Reopen(t), r)
		if n%2 == 1 {
			store = s.Reopen(t)
		}
	}
}

func testSaveTwice(t *testing.T, s *suite) {
	store := s.Reopen(t)
	for n := range 3 {
		r := s.record(n)
		s.save(t, store, r)
		before := s.Writes()
		if before == 0 {
			t.Fatal("Save did not write, or writes are not counted")
		}
		s.save(t, store, r)
		store = s.Reopen(t)
		s.save(t, store, r)
		s.wantLoad(t, store, r)
		s.save(t, store, r)
		if got := s.Writes(); got != before {
			t.Fatalf("saving the same record again wrote %d times", got-before)
		}
	}
}

func testSequence(t *testing.T, s *suite) {
	store := s.Reopen(t)
	var last uint64
	var lastCopy int
	for n := range 5 {
		r := s.record(n)
		s.save(t, store, r)
		var seq uint64
		at := -1
		for _, i := range s.copies(t) {
			if sq, got, err := hostid.DecodeFrame(s.Read(t, i)); err != nil {
				t.Fatalf("copy %d: %v", i, err)
			} else if got.Equal(r) {
				seq, at = sq, i
			}
		}
		if at < 0 {
			t.Fatalf("no copy holds record %d", n)
		}
		if n > 0 {
			if seq <= last {
				t.Errorf("save %d has sequence %d after %d", n, seq, last)
			}
			if s.Copies > 1 && at == lastCopy {
				t.Errorf("save %d went to copy %d again: the copies take turns", n, at)
			}
		}
		last, lastCopy = seq, at
	}
}

func testOneCorrupt(t *testing.T, s *suite) {
	if s.Copies < 2 {
		return // the next test is this one's whole content
	}
	for i := range s.Copies {
		store := s.Reopen(t)
		old, r := s.record(10+3*i), s.record(11+3*i)
		s.save(t, store, old)
		s.save(t, store, r)
		s.damage(t, i)
		store = s.Reopen(t)
		got, err := store.Load(t.Context())
		if err != nil || !got.Equal(old) && !got.Equal(r) {
			t.Fatalf("copy %d damaged: Load gives %+v, %v", i, got, err)
		}
		// Saving what is loaded rewrites the damaged copy, so that the other one may be lost next.
		s.save(t, store, got)
		s.damage(t, 1-i)
		s.wantLoad(t, s.Reopen(t), got)
	}
}

func testAllCorrupt(t *testing.T, s *suite) {
	store := s.Reopen(t)
	s.save(t, store, s.record(1))
	s.save(t, store, s.record(2))
	for _, i := range s.copies(t) {
		s.damage(t, i)
	}
	store = s.Reopen(t)
	s.wantLoadError(t, store, hostid.ErrCorrupt)
	s.save(t, store, s.record(3))
	s.wantLoad(t, s.Reopen(t), s.record(3))
}

// NewerFrame is a whole frame of a format version that does not exist yet, put together from
// docs/protocol/record.md and not by hostid.
func NewerFrame(seq uint64) []byte {
	payload := []byte("whatever a newer version keeps here")
	b := []byte("SHID\x00\x02")
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint64(b, seq)
	crc := crc32.Checksum(append(bytes.Clone(b), payload...), crc32.MakeTable(crc32.Castagnoli))
	return append(binary.BigEndian.AppendUint32(b, crc), payload...)
}

func testNewer(t *testing.T, s *suite) {
	store := s.Reopen(t)
	s.save(t, store, s.record(1))
	s.save(t, store, s.record(2))
	for _, i := range s.copies(t) {
		was := bytes.Clone(s.Read(t, i))
		for _, seq := range []uint64{0, 1, 1 << 40} { // it counts whatever its sequence is
			newer := NewerFrame(seq)
			if s.KeepsLocal {
				s.Write(t, i, newer)
			} else {
				s.Write(t, i, hostid.PadFrame(newer, hostid.MaxFrame))
			}
			store = s.Reopen(t)
			before := s.Writes()
			s.wantLoadError(t, store, hostid.ErrNewer)
			for _, store := range []hostid.Store{store, s.Reopen(t)} { // with and without a Load before
				if err := store.Save(t.Context(), s.record(3)); !errors.Is(err, hostid.ErrNewer) {
					t.Errorf("Save over a newer version in copy %d: %v, want ErrNewer", i, err)
				}
			}
			if got := s.Read(t, i); !bytes.HasPrefix(got, newer) {
				t.Fatalf("copy %d was overwritten", i)
			}
			if s.Writes() != before {
				t.Errorf("%d writes beside a newer version", s.Writes()-before)
			}
		}
		s.Write(t, i, was)
	}
}

func testCancelled(t *testing.T, s *suite) {
	store := s.Reopen(t)
	s.save(t, store, s.record(1))
	before := s.Writes()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if _, err := store.Load(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("Load: %v, want ErrUnavailable and context.Canceled", err)
		}
		if err := store.Save(ctx, s.record(2)); !errors.Is(err, context.Canceled) {
			t.Errorf("Save: %v, want context.Canceled", err)
		}
		store = s.Reopen(t)
	}
	if s.Writes() != before {
		t.Error("something was written after the context was cancelled")
	}
	s.wantLoad(t, store, s.record(1))
}

func testImpossible(t *testing.T, s *suite) {
	store := s.Reopen(t)
	s.save(t, store, s.record(1))
	before := s.Writes()
	if err := store.Save(t.Context(), hostid.Record{}); err == nil {
		t.Error("the zero record was saved")
	}
	if s.Writes() != before {
		t.Error("something was written")
	}
	s.wantLoad(t, store, s.record(1))
}

// eachCut calls prepare, cuts a Save of r after n steps, and calls check with a reopened store, for every n until
// the Save succeeds.
func (s *suite) eachCut(t *testing.T, prepare func(), next func(n int) hostid.Record, check func(cut string, store hostid.Store, r hostid.Record)) {
	t.Helper()
	if s.Cut == nil {
		t.Skip("NOT TESTED: this store's storage cannot be cut while it writes")
	}
	for n := range maxSteps {
		prepare()
		store, r := s.Reopen(t), next(n)
		s.Cut(n)
		err := store.Save(t.Context(), r)
		store = s.Reopen(t)
		if err == nil {
			if n == 0 {
				t.Fatal("Save succeeds although power is cut at once")
			}
			s.wantLoad(t, store, r)
			return
		}
		check(fmt.Sprintf("cut after %d steps", n), store, r)
		s.save(t, store, r)
		s.wantLoad(t, s.Reopen(t), r)
	}
	t.Fatalf("Save needs more than %d steps", maxSteps)
}

func testCutFirst(t *testing.T, s *suite) {
	if s.Cut == nil {
		t.Skip("NOT TESTED: this store's storage cannot be cut while it writes")
	}
	for n := range maxSteps {
		s := &suite{Fixture: s.open(t)}
		store, r := s.Reopen(t), s.record(1)
		s.Cut(n)
		err := store.Save(t.Context(), r)
		store = s.Reopen(t)
		if err == nil {
			s.wantLoad(t, store, r)
			return
		}
		got, loadErr := store.Load(t.Context())
		if !errors.Is(loadErr, hostid.ErrNotStored) && !errors.Is(loadErr, hostid.ErrCorrupt) && (loadErr != nil || !got.Equal(r)) {
			t.Fatalf("cut after %d steps: Load gives %+v, %v", n, got, loadErr)
		}
		s.save(t, store, r)
		s.wantLoad(t, s.Reopen(t), r)
	}
	t.Fatalf("Save needs more than %d steps", maxSteps)
}

func testCut(t *testing.T, s *suite) {
	var old hostid.Record
	count := 0
	s.eachCut(t, func() {
		old = s.record(2 * count)
		s.save(t, s.Reopen(t), old)
	}, func(int) hostid.Record {
		count++
		return s.record(2*count - 1)
	}, func(cut string, store hostid.Store, r hostid.Record) {
		got, err := store.Load(t.Context())
		if err != nil {
			t.Fatalf("%s: Load: %v", cut, err)
		}
		if !got.Equal(old) && !got.Equal(r) {
			t.Fatalf("%s: Load gives neither the old nor the new record: %+v", cut, got)
		}
	})
}

func testCutWithDamage(t *testing.T, s *suite) {
	if s.Copies < 2 {
		return // there is no other copy to spare
	}
	for i := range s.Copies {
		var left hostid.Record
		s.eachCut(t, func() {
			s.save(t, s.Reopen(t), s.record(1))
			s.save(t, s.Reopen(t), s.record(2))
			s.damage(t, i)
			var err error
			if left, err = s.Reopen(t).Load(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, func(int) hostid.Record {
			return s.record(3)
		}, func(cut string, store hostid.Store, r hostid.Record) {
			got, err := store.Load(t.Context())
			if err != nil {
				t.Fatalf("copy %d damaged, %s: Load: %v", i, cut, err)
			}
			if !got.Equal(left) && !got.Equal(r) {
				t.Fatalf("copy %d damaged, %s: Load gives neither the old nor the new record: %+v", i, cut, got)
			}
		})
	}
}

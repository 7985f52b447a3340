// Package storetest is the contract that every hostid.Store keeps, as a test suite, and a Store in memory for
// tests.
package storetest

import (
	"testing"

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
	// yet; it may return more than the frame (blank flash). Write replaces the copy's beginning.
	Read  func(t *testing.T, i int) []byte
	Write func(t *testing.T, i int, b []byte)

	// Writes counts the writes that reached the storage so far: WriteBlock calls, files written.
	Writes func() int

	// Cut lets n more steps of writing through (bytes, and calls where a call is a step of its own) and then
	// fails everything until Reopen, as a power cut does. nil: this storage cannot be cut, which the suite says
	// loudly. The suite raises n until Save succeeds.
	Cut func(n int)
}

// Run runs the contract suite; open makes a fresh fixture for each test.
func Run(t *testing.T, open func(t *testing.T) Fixture) { panic("unwritten") }

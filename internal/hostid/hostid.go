// Package hostid is the identity of a PC: the host ID, the record that carries it, the stores that keep the
// record, and the policy that restores and preserves it.
//
// It knows no hardware. Where a record is kept, what is known about the board and why a store could not be read
// are data here; nothing in this package branches on a kind of hardware.
package hostid

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ID is a host ID: 128 random bits, never derived from hardware. Written as 32 lower-case hex digits everywhere.
type ID [16]byte

// NewID draws a host ID from the system's random source.
func NewID() ID {
	var id ID
	rand.Read(id[:])
	return id
}

// ParseID reads 32 lower-case hex digits. The zero ID is refused: it is never issued.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("host ID %q: want 32 lower-case hex digits", s)
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("host ID %q: want 32 lower-case hex digits", s)
		}
	}
	hex.Decode(id[:], []byte(s))
	if id.IsZero() {
		return ID{}, fmt.Errorf("host ID %q: the zero ID is never issued", s)
	}
	return id, nil
}

// String is the ID as 32 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID is unset.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText writes the 32 hex digits.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Record is what every store keeps, in the same encoding (docs/protocol/record.md).
type Record struct {
	HostID ID
	Seed   Seed      // the client's keys derive from it; a secret
	Facts  Facts     // what was known of the board and the disk when the record was written, as digests keyed with HostID
	Issued time.Time // when the host ID was generated, UTC, whole seconds

	// Local holds marks that concern this data folder only. Memory on the board never carries them.
	Local Local
}

// Local are the marks of the host ID management file (docs/host-id.md).
type Local struct {
	Fresh       bool // generated here while the memory could not be read, and never stored there since
	Stored      bool // was once stored in memory; ends Fresh for ever
	Provisional bool // not yet stored, or in a conflict that nobody resolved
	Pending     bool // restored, but the board sits in another case: an operator decides
	CopyOf      ID   // lineage: the host ID that this one replaced because the data was a copy; zero if none
	DropFor     ID   // by order: what memory drops for this ID: the ID that this one took the place of; its own: whatever it holds, once; zero: nothing
	Origin      Origin
}

// Origin says where this installation got its host ID from.
type Origin string

// The origins, as they appear in reports and in `samehost-client install`.
const (
	Kept        Origin = "kept"
	Restored    Origin = "restored"
	Generated   Origin = "generated"
	Provisional Origin = "provisional"
)

// A Store keeps one Record where reinstalling the client cannot reach it.
//
// Load returns the record, or an error that wraps exactly one of ErrNotStored, ErrNotInitialized, ErrCorrupt,
// ErrNewer or ErrUnavailable. Save makes the record durable; afterwards, and after a Save that was cut short at
// any point, Load returns the old or the new Record, never a mixture, and never an error where one whole copy is
// left. Save of what is already stored writes nothing, but rewrites a copy that is damaged; Save over a record of a
// newer format version writes nothing and wraps ErrNewer. A Store that keeps no data folder's marks is given
// portable records (Record.Portable). A Store is used by one goroutine at a time.
type Store interface {
	Load(ctx context.Context) (Record, error)
	Save(ctx context.Context, r Record) error
}

// What a Store answers when it has no record to give. A caller branches on these with errors.Is.
var (
	ErrNotStored      = errors.New("no host ID is stored")
	ErrNotInitialized = errors.New("the host ID area is not initialized")
	ErrCorrupt        = errors.New("the stored record is corrupt")
	ErrNewer          = errors.New("the stored record was written by a newer samehost: upgrade this client")
	ErrUnavailable    = errors.New("the store cannot be reached")
)

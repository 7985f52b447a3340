// Package amt keeps a host ID record in Intel AMT's third-party data storage (3PDS): Initialize prepares the area
// over the network with the administration class, Store reads and writes it from the PC itself.
package amt

import (
	"context"
	"errors"

	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// Names and sizes in every AMT; see docs/protocol/3pds.md. They never change.
const (
	Vendor            = "samehost"
	Application       = "samehost"
	DefaultEnterprise = "samehost"
	CallerUUID        = "7C1D0F6E2B5A4E0C9D3B61A84F2E9C57"
	BlockSize         = 4096
	AllocationSize    = 2 * BlockSize
	maxTransfer       = 3000
)

// About is what a device says of itself.
type About struct {
	PlatformGUID      string // 32 upper-case hex digits, raw SMBIOS byte order; "" if not told
	HostName          string
	Version           string // AMT version, e.g. 11.8.50
	ProvisioningState int    // 0 pre, 1 in, 2 post; -1 unknown
	ProvisioningMode  int    // 1 Enterprise, 2 Small Business, 4 Client Control; -1 unknown
}

// Describe reads About. A class the firmware lacks or does not show leaves its fields unset; only a failure
// that would stop every later call is an error.
func Describe(ctx context.Context, c *wsman.Client) (About, error) { panic("unwritten") }

// Result is what Initialize found and did.
type Result struct {
	About              About
	EnterpriseAdded    bool
	AllocationAdded    bool
	AllocationEnlarged bool
	NonPartner         bool     // no free allocation entry: the non-partner area serves
	Registered         bool     // the client's application is registered already
	Enterprises        []string // who holds EACL places
}

// AlreadyInitialized reports that nothing had to be changed.
func (r Result) AlreadyInitialized() bool {
	return !r.EnterpriseAdded && !r.AllocationAdded && !r.AllocationEnlarged
}

// Initialize makes sure that the client's application can register and allocate its blocks. It uses the
// administration class only, never registers an application and never removes anything. Doing it again is harmless.
func Initialize(ctx context.Context, c *wsman.Client, enterprise string) (Result, error) {
	panic("unwritten")
}

// Inspect says what Initialize would find, and changes nothing.
func Inspect(ctx context.Context, c *wsman.Client, enterprise string) (Result, error) {
	panic("unwritten")
}

// Why a device cannot be initialized or used. Callers branch with errors.Is; Status and wsman's errors come through.
var (
	ErrNo3PDS         = errors.New("this firmware has no third-party data storage")
	ErrNoRealm        = errors.New("the AMT management user lacks the realm")
	ErrLockedOut      = errors.New("the device refuses a log-on it accepted before: locked out for a while, or its password was changed")
	ErrNotProvisioned = errors.New("AMT is not set up")
	ErrMode           = errors.New("AMT is in Enterprise mode without TLS settings of ours") // before 6.0 only
	ErrEACLFull       = errors.New("all enterprise places are taken")                        // see EACLFullError
)

// EACLFullError says who holds the enterprise places.
type EACLFullError struct{ Holders []string }

func (e *EACLFullError) Error() string { panic("unwritten") }

// Is makes errors.Is(err, ErrEACLFull) hold.
func (e *EACLFullError) Is(target error) bool { return target == ErrEACLFull }

// Store keeps the record in two hidden blocks of the local AMT. It implements hostid.Store.
type Store struct{}

// NewStore makes a Store on the AMT that c reaches, under that EACL enterprise.
func NewStore(c *wsman.Client, enterprise string) *Store { panic("unwritten") }

// Load implements hostid.Store.
func (s *Store) Load(ctx context.Context) (hostid.Record, error) { panic("unwritten") }

// Save implements hostid.Store.
func (s *Store) Save(ctx context.Context, r hostid.Record) error { panic("unwritten") }

// Close unregisters the application's session and drops the connection. The data stays.
func (s *Store) Close(ctx context.Context) error { panic("unwritten") }

// Remove deallocates our blocks and removes our application: `samehost-client uninstall --erase-nvm`.
func (s *Store) Remove(ctx context.Context) error { panic("unwritten") }

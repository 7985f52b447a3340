// Package amt keeps a host ID record in Intel AMT's third-party data storage (3PDS): Initialize prepares the area
// over the network with the administration class, Store reads and writes it from the PC itself.
//
// AMT pins an application to the interface, local or network, that first registered it, so the two sides never do
// each other's work: nothing here registers the application over the network, and the Store never touches the
// administration class. Names, sizes, the order of the calls and what is known of the firmware's answers are in
// docs/protocol/3pds.md.
//
// # Errors
//
// A method's own answer is a Status. What wsman reports (a Fault, ErrLogOn, ErrTLSOnly, a transport error) comes
// through; where the reason is known it is also one of the sentinels below. Texts name the method and what is
// wrong with it; which device it was, and what to do about it, are the caller's to say.
//
// Nothing is sent twice in the dark: when a connection breaks under a call, the error is returned, and it is for
// the caller to do the whole operation again. Each of them begins by reading what is there.
package amt

import (
	"errors"
	"fmt"
	"strings"

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

	// maxTransfer is how many bytes one ReadBlock or WriteBlock moves at most. The firmware's buffer is 4 KB, and
	// whether that counts the bytes or their base64 text is not told: 3000 bytes are 4000 characters.
	maxTransfer = 3000
)

// Why a device cannot be initialized or used. Callers branch with errors.Is; Status and wsman's errors come through.
var (
	ErrNo3PDS         = errors.New("this firmware has no third-party data storage")
	ErrNoRealm        = errors.New("the AMT management user lacks the realm")
	ErrLockedOut      = errors.New("the device refuses a log-on it accepted before: locked out for a while, or its password was changed")
	ErrNotProvisioned = errors.New("AMT is not set up")
	ErrMode           = errors.New("AMT is in Enterprise mode and was reached without TLS") // before 6.0 only
	ErrNotReady       = errors.New("the firmware is busy or not ready yet")                 // worth another try later
	ErrEACLFull       = errors.New("all enterprise places are taken")                       // see EACLFullError
	ErrNoSpace        = errors.New("the storage has no room for the host ID")
)

// EACLFullError says who holds the enterprise places.
type EACLFullError struct{ Holders []string }

func (e *EACLFullError) Error() string {
	if len(e.Holders) == 0 {
		return ErrEACLFull.Error()
	}
	quoted := make([]string, len(e.Holders))
	for i, h := range e.Holders {
		quoted[i] = fmt.Sprintf("%q", h)
	}
	return ErrEACLFull.Error() + ": " + strings.Join(quoted, ", ")
}

// Is makes errors.Is(err, ErrEACLFull) hold.
func (e *EACLFullError) Is(target error) bool { return target == ErrEACLFull }

// AcceptedBefore is err as someone must read it who knows that the device accepted the same log-on earlier (from a
// journal, say): a refused log-on is then ErrLockedOut too. The firmware's own answer does not tell a locked account
// from a wrong password.
func AcceptedBefore(err error) error {
	if errors.Is(err, wsman.ErrLogOn) && !errors.Is(err, ErrLockedOut) && !errors.Is(err, ErrNoRealm) {
		return fmt.Errorf("%w: %w", ErrLockedOut, err)
	}
	return err
}

// checkEnterprise refuses a name that no EACL entry can have: AMT takes at most 64, and whether that counts bytes
// or characters is not told, so it is bytes here.
func checkEnterprise(name string) error {
	if name == "" || len(name) > 64 || printable(name) != name || strings.TrimSpace(name) != name {
		return fmt.Errorf("enterprise name %q: want 1 to 64 bytes of printable text", printable(name))
	}
	return nil
}

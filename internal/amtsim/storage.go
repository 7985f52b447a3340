package amtsim

import (
	"slices"
	"strings"
	"time"
)

// Generic members of permissions groups (Intel's iamt_api.h).
const (
	filterApplicationName = 0xFFFFFFF0 // every instance with the owner's vendor and application name
	filterVendorName      = 0xFFFFFFF1 // every application of the owner's vendor
)

// side is the interface a request came in by.
type side int

const (
	networkSide side = iota
	localSide
)

func (s side) String() string {
	if s == localSide {
		return "local"
	}
	return "network"
}

// flash is the part of the firmware's memory that outlives a restart. Full unprovisioning clears it.
type flash struct {
	MaxPartner         uint32         `json:"max_partner_storage"`
	MaxNonPartnerTotal uint32         `json:"max_non_partner_total_allocation_size"`
	Enterprises        []*enterprise  `json:"eacl,omitempty"`
	Allocations        []*allocation  `json:"allocations,omitempty"`
	Applications       []*application `json:"applications,omitempty"`
	Blocks             []*block       `json:"blocks,omitempty"`
	// The last handle given out, per kind; handles are not used twice.
	LastEnterprise  uint32 `json:"last_enterprise"`
	LastAllocation  uint32 `json:"last_allocation"`
	LastApplication uint32 `json:"last_application"`
	LastBlock       uint32 `json:"last_block"`
	LastGroup       uint32 `json:"last_group"`
}

// enterprise is an EACL entry.
type enterprise struct {
	Handle uint32 `json:"handle"`
	Name   string `json:"name"`
	filler bool   // put there by the fault switch full_eacl
}

// allocation is an FPACL entry (Partner) or a NACL entry, which the firmware made itself.
type allocation struct {
	Handle      uint32 `json:"handle"`
	Vendor      string `json:"vendor"`
	Application string `json:"application"`
	Partner     bool   `json:"partner"`
	Total       uint32 `json:"total_allocation_size"`
	filler      bool
}

// application is an ARL entry: an instance that was registered at some time.
type application struct {
	Handle     uint32   `json:"handle"`
	UUID       [16]byte `json:"uuid"`
	Vendor     string   `json:"vendor"`
	Name       string   `json:"application"`
	Enterprise string   `json:"enterprise"`
	Local      bool     `json:"local"` // the interface that first registered it, for ever

	session     string // handle; "" when not in the ASL
	sessionUsed time.Time
}

type block struct {
	Handle     uint32   `json:"handle"`
	Owner      uint32   `json:"owner"`
	Name       string   `json:"name"`
	Hidden     bool     `json:"hidden"`
	Size       uint32   `json:"size"`
	NonPartner bool     `json:"non_partner"` // which area it was taken from
	Data       []byte   `json:"data,omitempty"`
	Groups     []*group `json:"groups,omitempty"`

	lockedBy uint32 // application handle; 0 when not locked
	lockUsed time.Time
}

type group struct {
	Handle      uint32   `json:"handle"`
	Name        string   `json:"name"`
	Permissions uint32   `json:"permissions"` // 1 read, 2 read and write
	Members     []uint32 `json:"members,omitempty"`
}

func newFlash() flash {
	return flash{MaxPartner: maxPartnerStorage, MaxNonPartnerTotal: maxNonPartnerTotalAllocation}
}

func (f *flash) enterprise(name string) *enterprise {
	for _, e := range f.Enterprises {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// allocationOf finds the entry that an application draws on: vendor and application name decide, nothing else.
func (f *flash) allocationOf(vendor, application string) *allocation {
	for _, a := range f.Allocations {
		if a.Vendor == vendor && a.Application == application {
			return a
		}
	}
	return nil
}

func (f *flash) partners() int {
	n := 0
	for _, a := range f.Allocations {
		if a.Partner {
			n++
		}
	}
	return n
}

func (f *flash) application(handle uint32) *application {
	for _, a := range f.Applications {
		if a.Handle == handle {
			return a
		}
	}
	return nil
}

func (f *flash) block(handle uint32) *block {
	for _, b := range f.Blocks {
		if b.Handle == handle {
			return b
		}
	}
	return nil
}

func (b *block) group(handle uint32) *group {
	for _, g := range b.Groups {
		if g.Handle == handle {
			return g
		}
	}
	return nil
}

// registered reports whether any instance of that vendor and application is in the ARL.
func (f *flash) registered(vendor, name string) bool {
	return slices.ContainsFunc(f.Applications, func(a *application) bool { return a.Vendor == vendor && a.Name == name })
}

// allocated sums block sizes: of an area, or of the instances of one program.
func (f *flash) allocatedIn(nonPartner bool) uint32 {
	var sum uint32
	for _, b := range f.Blocks {
		if b.NonPartner == nonPartner {
			sum += b.Size
		}
	}
	return sum
}

func (f *flash) allocatedBy(vendor, name string) uint32 {
	var sum uint32
	for _, b := range f.Blocks {
		if o := f.application(b.Owner); o != nil && o.Vendor == vendor && o.Name == name {
			sum += b.Size
		}
	}
	return sum
}

func (f *flash) ownedBy(handle uint32) uint32 {
	var sum uint32
	for _, b := range f.Blocks {
		if b.Owner == handle {
			sum += b.Size
		}
	}
	return sum
}

func (f *flash) maxNonPartner() uint32 { return totalStorage - f.MaxPartner }

// free says how much an application may still allocate, and how much of that one block may take from each area.
func (f *flash) free(a *application) (total, partner, nonPartner uint32) {
	entry := f.allocationOf(a.Vendor, a.Name)
	if entry == nil {
		return 0, 0, 0
	}
	limit := entry.Total
	if !entry.Partner {
		limit = f.MaxNonPartnerTotal // the entry's own figure is what it was when the entry was made
	}
	used := f.allocatedBy(a.Vendor, a.Name)
	if used >= limit {
		return 0, 0, 0
	}
	quota := limit - used
	nonPartner = f.maxNonPartner() - min(f.allocatedIn(true), f.maxNonPartner())
	if entry.Partner {
		partner = f.MaxPartner - min(f.allocatedIn(false), f.MaxPartner)
	}
	return min(quota, partner+nonPartner), min(quota, partner), min(quota, nonPartner)
}

// rights says what a may do with b: 2 write and read, 1 read, 0 nothing.
func (f *flash) rights(a *application, b *block) uint32 {
	if b.Owner == a.Handle {
		return 2
	}
	owner := f.application(b.Owner)
	var rights uint32
	for _, g := range b.Groups {
		for _, m := range g.Members {
			if m == a.Handle || owner != nil && owner.Vendor == a.Vendor &&
				(m == filterVendorName || m == filterApplicationName && owner.Name == a.Name) {
				rights = max(rights, g.Permissions)
			}
		}
	}
	return rights
}

// endSession does what UnregisterApplication does: the session and its locks go, application and data stay.
func (f *flash) endSession(a *application) {
	a.session = ""
	for _, b := range f.Blocks {
		if b.lockedBy == a.Handle {
			b.lockedBy = 0
		}
	}
}

func (f *flash) endSessions() {
	for _, a := range f.Applications {
		f.endSession(a)
	}
}

func (f *flash) sessions() int {
	n := 0
	for _, a := range f.Applications {
		if a.session != "" {
			n++
		}
	}
	return n
}

// expire drops sessions and locks that were idle too long.
func (f *flash) expire(now time.Time) {
	for _, a := range f.Applications {
		if a.session != "" && now.Sub(a.sessionUsed) >= registrationTimeout {
			f.endSession(a)
		}
	}
	for _, b := range f.Blocks {
		if b.lockedBy != 0 && now.Sub(b.lockUsed) >= lockTimeout {
			b.lockedBy = 0
		}
	}
}

// session finds the application of a session handle used on the interface it belongs to.
func (f *flash) session(handle string, from side) *application {
	if handle == "" {
		return nil
	}
	for _, a := range f.Applications {
		if a.session == handle && a.Local == (from == localSide) {
			return a
		}
	}
	return nil
}

// remove takes an application out of the ARL with everything it owns and every group that names it. Its FPACL entry
// stays; a NACL entry goes with the last instance.
func (f *flash) remove(a *application) {
	f.endSession(a)
	f.Blocks = slices.DeleteFunc(f.Blocks, func(b *block) bool { return b.Owner == a.Handle })
	for _, b := range f.Blocks {
		for _, g := range b.Groups {
			g.Members = slices.DeleteFunc(g.Members, func(m uint32) bool { return m == a.Handle })
		}
	}
	f.Applications = slices.DeleteFunc(f.Applications, func(o *application) bool { return o == a })
	if !f.registered(a.Vendor, a.Name) {
		f.Allocations = slices.DeleteFunc(f.Allocations, func(e *allocation) bool {
			return !e.Partner && e.Vendor == a.Vendor && e.Application == a.Name
		})
	}
}

// read gives bytes of a block; those never written read as erased flash.
func (b *block) read(offset, count uint32) []byte {
	if b.Data != nil {
		return b.Data[offset : offset+count]
	}
	return erased[:count]
}

var erased = []byte(strings.Repeat(string([]byte{unwritten}), maxTransfer))

// write puts bytes into a block; its memory is made by the first.
func (b *block) write(offset uint32, data []byte) {
	if len(data) == 0 {
		return
	}
	if b.Data == nil {
		b.Data = make([]byte, b.Size)
		for i := range b.Data {
			b.Data[i] = unwritten
		}
	}
	copy(b.Data[offset:], data)
}

// sectors counts the 4 KB pieces of flash that a write touches.
func sectors(offset uint32, count int) uint32 {
	if count == 0 {
		return 0
	}
	return (offset+uint32(count)-1)/allocationUnit - offset/allocationUnit + 1
}

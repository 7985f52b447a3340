package amt

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"samehost/internal/wsman"
)

// Result is what Initialize found and did.
type Result struct {
	About              About
	EnterpriseAdded    bool
	AllocationAdded    bool
	AllocationEnlarged bool
	NonPartner         bool     // no free allocation entry: the non-partner area serves
	Registered         bool     // the client's application is registered already
	Enterprises        []string // who holds EACL places, made printable; Initialize reads no further than to ours
}

// AlreadyInitialized reports that nothing had to be changed.
func (r Result) AlreadyInitialized() bool {
	return !r.EnterpriseAdded && !r.AllocationAdded && !r.AllocationEnlarged
}

// Initialize makes sure that the client's application can register and allocate its blocks. It uses the
// administration class only, never registers an application and never removes anything. Doing it again is harmless,
// and so is another doing it at the same time.
//
// With an error the Result says what was found and done until then, a change whose answer is missing included; About is
// filled as far as the device answered.
// Before anything is changed it is judged whether all of it can succeed, so a device that cannot serve is left as it
// was: ErrNotProvisioned, ErrMode, ErrEACLFull, ErrNoSpace. Further reasons: ErrNo3PDS, ErrNoRealm, ErrLockedOut,
// ErrNotReady, and what wsman reports.
func Initialize(ctx context.Context, c *wsman.Client, enterprise string) (Result, error) {
	if err := checkEnterprise(enterprise); err != nil {
		return Result{About: unknown}, err
	}
	d := &device{c: c}
	r, a, err := d.survey(ctx, enterprise, false)
	if err != nil {
		return r, err
	}
	// What is missing is added, and then read back: nothing counts as done because the device said so. A second
	// round serves one who worked here at the same time; a device that needs a third does not keep what it accepts.
	for range 2 {
		if a.ready() {
			break
		}
		if err := d.add(ctx, enterprise, &a, &r); err != nil {
			return r, err
		}
		if err := d.readBack(ctx, enterprise, &a); err != nil {
			return r, fmt.Errorf("reading back: %w", err)
		}
		a.tell(&r)
	}
	if a.entry != nil && a.entry.size < AllocationSize {
		return r, fmt.Errorf("reading back: %w: our allocation entry still gives %d bytes of %d", ErrNoSpace, a.entry.size, AllocationSize)
	}
	if !a.ready() {
		return r, fmt.Errorf("reading back: %w: the device accepts an entry for %q but does not show it", wsman.ErrBadReply, enterprise)
	}
	return r, nil
}

// add adds what is missing.
func (d *device) add(ctx context.Context, enterprise string, a *area, r *Result) error {
	a.newEnterprise, a.newEntry = 0, 0
	if !a.found {
		handle, added, err := d.addEnterprise(ctx, enterprise)
		r.EnterpriseAdded = r.EnterpriseAdded || added
		if err != nil {
			return err
		}
		a.newEnterprise = handle
	}
	switch {
	case a.wantsEntry():
		handle, added, err := d.addAllocation(ctx)
		r.AllocationAdded = r.AllocationAdded || added
		if isStatus(err, StatusMaxLimitReached, StatusNotEnoughStorage) {
			// No free entry, though the lists did not say so: what the non-partner area gives decides.
			a.partnersFull = true
			a.tell(r)
			if space := a.nonPartnerSpace(); space != nil {
				return fmt.Errorf("%w (%w)", space, err)
			}
		} else if err != nil {
			return err
		}
		a.newEntry = handle
	case a.wantsMore():
		enlarged, err := d.enlargeAllocation(ctx, *a.entry)
		r.AllocationEnlarged = r.AllocationEnlarged || enlarged
		if err != nil {
			return err
		}
		if enlarged {
			a.newEntry = a.entry.handle
		}
	}
	return nil
}

// readBack reads what add has changed. The device named the handles of the new entries, and an entry that can be read
// under its handle and is ours is there; where that is not so, everything is read again.
func (d *device) readBack(ctx context.Context, enterprise string, a *area) error {
	now := *a
	if !now.found && now.newEnterprise != 0 {
		name, err := d.enterpriseName(ctx, now.newEnterprise)
		switch {
		case err == nil:
			now.found = name == enterprise
		case !isStatus(err, StatusInvalidHandle, StatusNotFound):
			return err
		}
		if now.found {
			now.holders = append(slices.Clip(now.holders), printable(enterprise))
		}
	}
	if now.found && now.newEntry != 0 {
		entry, ours, err := d.allocation(ctx, now.newEntry)
		switch {
		case err == nil && ours && entry.partner:
			now.entry = &entry
		case err != nil && !isStatus(err, StatusInvalidHandle, StatusNotFound):
			return err
		}
	}
	if now.ready() {
		*a = now
		return nil
	}
	full := a.partnersFull
	handles, err := d.eacl(ctx)
	if err != nil {
		return err
	}
	if *a, err = d.readArea(ctx, enterprise, handles, false); err != nil {
		return err
	}
	a.partnersFull = a.partnersFull || full
	return nil
}

// Inspect says what Initialize would find, and changes nothing: EnterpriseAdded, AllocationAdded and
// AllocationEnlarged stand for what would have to be done, Enterprises are all that hold a place, and About has the build
// number. It fails where Initialize would, as far as reading shows.
func Inspect(ctx context.Context, c *wsman.Client, enterprise string) (Result, error) {
	if err := checkEnterprise(enterprise); err != nil {
		return Result{About: unknown}, err
	}
	r, a, err := (&device{c: c}).survey(ctx, enterprise, true)
	if err != nil {
		return r, err
	}
	r.EnterpriseAdded = !a.found
	r.AllocationAdded = a.wantsEntry()
	r.AllocationEnlarged = a.wantsMore()
	return r, nil
}

var unknown = About{ProvisioningState: -1, ProvisioningMode: -1}

// area is what the storage administration of a device holds, as far as it concerns us.
type area struct {
	holders      []string    // enterprises with an EACL place
	found        bool        // ours is among them
	entry        *allocation // ours: the partner entry, else the non-partner entry; nil if there is none
	partners     int         // entries in the FPACL
	partnersFull bool        // no entry of ours can be added
	registered   bool        // the client's application is registered
	allocated    uint32      // bytes of blocks it holds
	limits       *limits     // nil if the device does not tell them, or where they decide nothing

	newEnterprise, newEntry uint32 // handles of what was just added or enlarged; 0: none, or not told
}

// allocation is an FPACL entry (partner) or an NACL entry.
type allocation struct {
	handle  uint32
	partner bool
	size    uint32 // bytes that the application may allocate
}

// limits is what GetGlobalStorageAttributes tells, in bytes and entries.
type limits struct {
	allocated, maxPartner, partnerAllocated, maxNonPartner uint32
	maxNonPartnerPerApplication                            uint32
	maxPartners, maxEnterprises                            uint32
}

// ready reports that the client's application can register and allocate.
func (a *area) ready() bool {
	return a.found && (a.entry == nil && a.partnersFull || a.entry != nil && a.entry.size >= AllocationSize)
}

// wantsEntry reports that an FPACL entry of ours is to be added: there is none at all, or a non-partner entry that is
// too small to serve, and the list has room.
func (a *area) wantsEntry() bool {
	return !a.partnersFull && (a.entry == nil || !a.entry.partner && a.entry.size < AllocationSize)
}

// wantsMore reports that our FPACL entry is to be enlarged.
func (a *area) wantsMore() bool {
	return a.entry != nil && a.entry.partner && a.entry.size < AllocationSize
}

// tell writes what was found into the result.
func (a *area) tell(r *Result) {
	r.Enterprises = a.holders
	r.Registered = a.registered
	r.NonPartner = a.entry == nil && a.partnersFull || a.entry != nil && !a.entry.partner
}

// survey reads what there is to know before anything is changed, and fails if Initialize cannot succeed. all: also what
// does not decide that.
func (d *device) survey(ctx context.Context, enterprise string, all bool) (Result, area, error) {
	r := Result{About: unknown}
	// The administration class comes first: an account that may do nothing else is enough, and which of the other
	// classes it may read decides nothing.
	handles, err := d.eacl(ctx)
	if err != nil && !answered(err) {
		return r, area{}, err
	}
	questions := []question{askVersion, askPlatform}
	if all {
		questions = append(questions, askBuild)
	}
	describeErr := d.describe(ctx, &r.About, questions...)
	// How AMT is set up explains a refusal and decides before 6.0. Later it is asked only before something is changed:
	// an area that is there was made when AMT was set up.
	setup := describeErr == nil && (err != nil || r.About.Version == "" || r.About.before6())
	if setup {
		describeErr = d.describe(ctx, &r.About, askSetup)
	}
	if err = r.About.judge(d.c.OverTLS(), cmp.Or(err, describeErr)); err != nil {
		return r, area{}, err
	}
	a, err := d.readArea(ctx, enterprise, handles, all)
	if err != nil {
		return r, a, err
	}
	a.tell(&r)
	if !a.ready() && !setup {
		if err := r.About.judge(d.c.OverTLS(), d.describe(ctx, &r.About, askSetup)); err != nil {
			return r, a, err
		}
	}
	return r, a, a.obstacle()
}

// judge is err, as what is known of the device explains it, or why a device in this state cannot be initialized.
func (a About) judge(tls bool, err error) error {
	unfit := a.unfit(tls)
	switch {
	case unfit != nil && err == nil:
		return unfit
	case errors.Is(unfit, ErrNotProvisioned): // explains whatever else it answered
		return fmt.Errorf("%w: %w", unfit, err)
	}
	return err
}

// obstacle is what keeps Initialize from succeeding on this area.
func (a *area) obstacle() error {
	if !a.found && a.limits != nil && a.limits.maxEnterprises > 0 && len(a.holders) >= int(a.limits.maxEnterprises) {
		return &EACLFullError{Holders: a.holders}
	}
	if a.wantsEntry() || a.entry != nil && a.entry.partner {
		return a.partnerSpace()
	}
	return a.nonPartnerSpace()
}

// missing is how many bytes the application has still to allocate.
func (a *area) missing() uint64 {
	return uint64(max(AllocationSize, a.allocated) - a.allocated)
}

// partnerSpace is an error if a partner application would find no room. It allocates from the partner area and, when
// that is full, from the non-partner area.
func (a *area) partnerSpace() error {
	if a.limits == nil {
		return nil // allocating will tell
	}
	total := uint64(a.limits.maxPartner) + uint64(a.limits.maxNonPartner)
	if total < uint64(a.limits.allocated)+a.missing() {
		return fmt.Errorf("%w: %d of %d bytes are allocated, and it needs %d more", ErrNoSpace, a.limits.allocated, total, a.missing())
	}
	return nil
}

// nonPartnerSpace is an error if an application without an FPACL entry would find no room.
func (a *area) nonPartnerSpace() error {
	const why = "there is no allocation entry for it"
	if a.entry != nil && a.entry.size < AllocationSize {
		return fmt.Errorf("%w: %s and the non-partner entry gives %d bytes of %d", ErrNoSpace, why, a.entry.size, AllocationSize)
	}
	l := a.limits
	if l == nil && a.entry != nil {
		return nil // allocating will tell
	}
	if l == nil {
		return fmt.Errorf("%w: %s and the device does not say how much room others get", ErrNoSpace, why)
	}
	if a.entry == nil && l.maxNonPartnerPerApplication < AllocationSize {
		return fmt.Errorf("%w: %s and an application without one gets %d bytes of %d", ErrNoSpace, why, l.maxNonPartnerPerApplication, AllocationSize)
	}
	// What partners hold beyond their own area lies in this one.
	used := uint64(l.allocated) - min(uint64(l.allocated), uint64(l.partnerAllocated), uint64(l.maxPartner))
	if uint64(l.maxNonPartner) < used+a.missing() {
		return fmt.Errorf("%w: %s and %d of %d bytes of the non-partner area are allocated", ErrNoSpace, why, used, l.maxNonPartner)
	}
	return nil
}

// readArea reads the area whose enterprises have these handles; all: every enterprise, not only those up to ours.
func (d *device) readArea(ctx context.Context, enterprise string, eacl []uint32, all bool) (a area, err error) {
	until := enterprise
	if all {
		until = ""
	}
	names, err := d.enterprises(ctx, eacl, until)
	if err != nil {
		return a, err
	}
	a.found = slices.Contains(names, enterprise)
	a.holders = allPrintable(names)
	if err := d.readAllocations(ctx, &a); err != nil {
		return a, err
	}
	if a.found {
		if err := d.readRegistration(ctx, enterprise, &a); err != nil {
			return a, err
		}
	}
	if a.ready() && a.missing() == 0 {
		return a, nil // the client has its blocks: what room others leave does not matter
	}
	if a.limits, err = d.limits(ctx); err != nil {
		return a, err
	}
	a.partnersFull = (a.entry == nil || !a.entry.partner) && a.limits != nil && a.limits.maxPartners > 0 && a.partners >= int(a.limits.maxPartners)
	return a, nil
}

// mayBeDone reports whether a call that changes something has, or has perhaps: its answer is missing.
func mayBeDone(err error) bool { return err == nil || !answered(err) }

// eacl lists the handles of the enterprises.
func (d *device) eacl(ctx context.Context) ([]uint32, error) {
	out, err := d.invoke(ctx, adminClass, "EnumerateStorageEaclEntries")
	if err != nil {
		return nil, err
	}
	return out.handles("Handles")
}

// enterprises are the names of these EACL entries, as the device spells them, up to one of that name.
func (d *device) enterprises(ctx context.Context, handles []uint32, until string) ([]string, error) {
	var names []string
	for _, h := range handles {
		name, err := d.enterpriseName(ctx, h)
		if isStatus(err, StatusInvalidHandle, StatusNotFound) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		if until != "" && name == until {
			break
		}
	}
	return names, nil
}

func (d *device) enterpriseName(ctx context.Context, handle uint32) (string, error) {
	out, err := d.invoke(ctx, adminClass, "GetStorageEaclEntry", wsman.Param{Name: "Handle", Value: formatUint32(handle)})
	if err != nil {
		return "", err
	}
	return out.text("EnterpriseName")
}

func allPrintable(names []string) []string {
	safe := make([]string, len(names))
	for i, n := range names {
		safe[i] = printable(n)
	}
	return safe
}

// limits reads the global attributes; nil where the firmware has no answer or not all of them. Then adding and
// allocating tell what has room.
func (d *device) limits(ctx context.Context) (*limits, error) {
	out, err := d.invoke(ctx, adminClass, "GetGlobalStorageAttributes")
	if isStatus(err, StatusUnsupported, StatusInternalError, StatusNotPermitted) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var l limits
	for _, f := range []struct {
		name string
		to   *uint32
	}{
		{"TotalAllocatedStorage", &l.allocated},
		{"MaxPartnerStorage", &l.maxPartner},
		{"TotalPartnerAllocatedStorage", &l.partnerAllocated},
		{"MaxNonPartnerStorage", &l.maxNonPartner},
		{"MaxFpaclEntries", &l.maxPartners},
		{"MaxEaclEntries", &l.maxEnterprises},
		{"MaxNonPartnerTotalAllocationSize", &l.maxNonPartnerPerApplication},
	} {
		if *f.to, err = out.uint32(f.name); err != nil {
			return nil, nil
		}
	}
	return &l, nil
}

// readAllocations looks through FPACL and NACL for our entry.
func (d *device) readAllocations(ctx context.Context, a *area) error {
	out, err := d.invoke(ctx, adminClass, "EnumerateStorageAllocEntries")
	if err != nil {
		return err
	}
	handles, err := out.handles("Handles")
	if err != nil {
		return err
	}
	for _, h := range handles {
		entry, ours, err := d.allocation(ctx, h)
		if isStatus(err, StatusInvalidHandle, StatusNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if entry.partner {
			a.partners++
		}
		if ours && (a.entry == nil || entry.partner && !a.entry.partner) {
			a.entry = &entry
		}
		if ours && entry.partner {
			return nil // how full the list is does not matter any more
		}
	}
	return nil
}

// allocation reads an entry of FPACL or NACL, and whether it is for our application.
func (d *device) allocation(ctx context.Context, handle uint32) (entry allocation, ours bool, err error) {
	out, err := d.invoke(ctx, adminClass, "GetStorageAllocEntry", wsman.Param{Name: "Handle", Value: formatUint32(handle)})
	if err != nil {
		return entry, false, err
	}
	entry.handle = handle
	if entry.partner, err = out.bool("IsPartner"); err != nil {
		return entry, false, err
	}
	if entry.size, err = out.uint32("TotalAllocationSize"); err != nil {
		return entry, false, err
	}
	application, err := out.text("ApplicationName")
	if err != nil {
		return entry, false, err
	}
	vendor, err := out.text("VendorName")
	return entry, application == Application && vendor == Vendor, err
}

// readRegistration looks for the client's application among the registered ones. It informs only, so a device that
// does not tell is taken as one where nothing is registered.
func (d *device) readRegistration(ctx context.Context, enterprise string, a *area) error {
	out, err := d.invoke(ctx, adminClass, "AdminGetRegisteredApplications")
	if isStatus(err, StatusUnsupported, StatusInternalError, StatusNotPermitted) {
		return nil
	}
	if err != nil {
		return err
	}
	handles, err := out.handles("ApplicationHandles")
	if err != nil {
		return err
	}
	for _, h := range handles {
		out, err := d.invoke(ctx, adminClass, "AdminGetApplicationAttributes", wsman.Param{Name: "Handle", Value: formatUint32(h)})
		if isStatus(err, StatusApplicationDoesNotExist, StatusInvalidHandle, StatusNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !isOurs(out.Instance, enterprise) {
			continue
		}
		a.registered = true
		a.allocated, err = out.uint32("CurrentAllocationSize")
		return err
	}
	return nil
}

// isOurs reports whether these attributes are those of the client's application. The UUID comes as base64 of the 16
// bytes whose hex digits it registered with.
func isOurs(i wsman.Instance, enterprise string) bool {
	for _, want := range []struct{ name, value string }{
		{"VendorName", Vendor}, {"ApplicationName", Application}, {"EnterpriseName", enterprise},
	} {
		if v, _ := i.Value(want.name); v != want.value {
			return false
		}
	}
	v, _ := i.Value("UUID")
	uuid, err := base64.StdEncoding.DecodeString(strings.TrimSpace(v))
	return err == nil && strings.EqualFold(hex.EncodeToString(uuid), CallerUUID)
}

// addEnterprise takes an EACL place. DUPLICATE means that another did so since we looked; the reading afterwards
// proves it.
func (d *device) addEnterprise(ctx context.Context, enterprise string) (handle uint32, added bool, err error) {
	out, err := d.invoke(ctx, adminClass, "AddStorageEaclEntry", wsman.Param{Name: "EnterpriseName", Value: enterprise})
	switch {
	case isStatus(err, StatusDuplicate):
		return 0, false, nil
	case isStatus(err, StatusMaxLimitReached, StatusNotEnoughStorage):
		handles, readErr := d.eacl(ctx)
		if readErr != nil {
			return 0, false, readErr
		}
		names, readErr := d.enterprises(ctx, handles, "")
		if readErr != nil {
			return 0, false, readErr
		}
		if slices.Contains(names, enterprise) {
			return 0, false, nil
		}
		return 0, false, fmt.Errorf("%w: %w", &EACLFullError{Holders: allPrintable(names)}, err)
	}
	return out.handle(), mayBeDone(err), err
}

// addAllocation adds our FPACL entry. The application's name comes before the vendor's here, the reverse of
// RegisterApplication: AMT judges the order.
func (d *device) addAllocation(ctx context.Context) (handle uint32, added bool, err error) {
	out, err := d.invoke(ctx, adminClass, "AddStorageFpaclEntry",
		wsman.Param{Name: "AttrType", Value: "1"},
		wsman.Param{Name: "ApplicationName", Value: Application},
		wsman.Param{Name: "VendorName", Value: Vendor},
		wsman.Param{Name: "IsPartner", Value: "true"},
		wsman.Param{Name: "TotalAllocationSize", Value: formatUint32(AllocationSize)})
	if isStatus(err, StatusDuplicate) {
		return 0, false, nil
	}
	return out.handle(), mayBeDone(err), err
}

// enlargeAllocation raises our FPACL entry to what two blocks need; never down. A handle may have changed hands since
// it was read, so it is read once more: the entry of another is never touched.
func (d *device) enlargeAllocation(ctx context.Context, known allocation) (enlarged bool, err error) {
	entry, ours, err := d.allocation(ctx, known.handle)
	switch {
	case isStatus(err, StatusInvalidHandle, StatusNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !ours || !entry.partner || entry.size >= AllocationSize:
		return false, nil
	}
	_, err = d.invoke(ctx, adminClass, "UpdateStorageFpaclEntry",
		wsman.Param{Name: "Handle", Value: formatUint32(known.handle)},
		wsman.Param{Name: "NewAllocationSize", Value: formatUint32(AllocationSize)})
	switch {
	case isStatus(err, StatusInvalidHandle, StatusNotFound):
		return false, nil
	case isStatus(err, StatusNotEnoughStorage, StatusMaxLimitReached):
		return false, fmt.Errorf("%w: our allocation entry of %d bytes cannot be enlarged: %w", ErrNoSpace, entry.size, err)
	}
	return mayBeDone(err), err
}

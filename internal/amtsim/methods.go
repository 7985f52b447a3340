package amtsim

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"strings"
)

// kind is the type of an input element.
type kind int

const (
	asText    kind = iota
	asUUID         // exactly 32 hex digits
	asNumber       // uint32, decimal
	asBool         // true, false, 1, 0
	asBase64       // base64
	asNumbers      // uint32, any number of elements
	asSession      // a text that must be a live session of the interface it comes by
)

// parameter is one input element. Order is as in the MOF, and the firmware insists on it.
type parameter struct {
	name     string
	kind     kind
	optional bool
}

// method is one extrinsic method: what its input must look like, and what it does. run appends the outputs in MOF order,
// none if it fails; ReturnValue is appended by the caller.
type method struct {
	name string
	in   []parameter
	keep bool // BytesWritten stands beside every ReturnValue, also where the call was refused before run
	run  func(*call) status
}

// argument is the value of one parameter.
type argument struct {
	present bool
	text    string
	number  uint32
	flag    bool
	bytes   []byte
	numbers []uint32
}

// call is one invocation while it runs, under the device's lock.
type call struct {
	d    *Device
	from side
	user *account
	args []argument
	out  []byte
	app  *application // of the session handle
}

func (c *call) u32(name string, v uint32) { c.out = appendUint(c.out, 'g', name, v) }
func (c *call) str(name, v string)        { c.out = appendElement(c.out, 'g', name, v) }
func (c *call) flag(name string, v bool) {
	c.out = appendElement(c.out, 'g', name, strconv.FormatBool(v))
}
func (c *call) data(name string, v []byte) { c.str(name, base64.StdEncoding.EncodeToString(v)) }
func (c *call) list(name string, v []uint32) { // a list is its elements; an empty one is nothing
	for _, n := range v {
		c.u32(name, n)
	}
}

func p(name string, k kind) parameter        { return parameter{name: name, kind: k} }
func optional(name string, k kind) parameter { return parameter{name: name, kind: k, optional: true} }

var (
	sessionHandle = p("SessionHandle", asSession)
	blockHandle   = p("BlockHandle", asNumber)
	groupHandle   = p("GroupHandle", asNumber)
)

// arguments checks an input element's children against the method's schema: each required one there, in order, in the
// class's namespace, of its type, and nothing else. first is the input element's first child, or -1.
func (m *message) arguments(first int32, space string, in []parameter, args []argument) ([]argument, bool) {
	args = append(args[:0], make([]argument, len(in))...)
	i := first
	for n, param := range in {
		a := &args[n]
		for i >= 0 && m.elements[i].name == param.name && m.elements[i].space == space && (!a.present || param.kind == asNumbers) {
			e := &m.elements[i]
			if e.child >= 0 || !a.set(param.kind, e.text) {
				return args, false
			}
			i = e.next
		}
		if !a.present && !param.optional && param.kind != asNumbers {
			return args, false
		}
	}
	return args, i < 0
}

func (a *argument) set(k kind, s string) bool {
	a.present = true
	switch k {
	case asText:
		a.text = s
	case asSession:
		a.text = strings.TrimSpace(s)
		return a.text != ""
	case asUUID:
		a.text = strings.TrimSpace(s)
		id, err := hex.DecodeString(a.text)
		a.bytes = id
		return err == nil && len(id) == 16 || !callerUUIDFault
	case asNumber, asNumbers:
		s = strings.TrimSpace(s)
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || s[0] == '+' {
			return false
		}
		a.number = uint32(n)
		a.numbers = append(a.numbers, a.number)
	case asBool:
		switch strings.TrimSpace(s) {
		case "true", "1":
			a.flag = true
		case "false", "0":
		default:
			return false
		}
	case asBase64:
		s = strings.Map(func(r rune) rune { // XML Schema's base64Binary allows white space
			if r < 0x80 && isSpace(byte(r)) {
				return -1
			}
			return r
		}, s)
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		a.bytes = b
		return err == nil
	}
	return true
}

// ownBlock finds the block of an owner-only call. hidden blocks of others do not exist.
func (c *call) ownBlock(handle uint32) (*block, status) {
	b := c.d.mem.Storage.block(handle)
	switch {
	case b == nil || b.Owner != c.app.Handle && b.Hidden:
		return nil, codeUnknownBlock
	case b.Owner != c.app.Handle:
		return nil, codeNotOwner
	}
	return b, 0
}

func (c *call) ownGroup() (*block, *group, status) {
	b, st := c.ownBlock(c.args[1].number)
	if st != 0 {
		return nil, nil, st
	}
	g := b.group(c.args[2].number)
	if g == nil {
		return nil, nil, codeUnknownGroup
	}
	return b, g, 0
}

// seenBlock finds the block of a call that only looks at attributes: anyone may, unless it is hidden.
func (c *call) seenBlock() (*block, status) {
	b := c.d.mem.Storage.block(c.args[1].number)
	if b == nil || b.Hidden && b.Owner != c.app.Handle {
		return nil, codeUnknownBlock
	}
	return b, 0
}

func (c *call) seenGroup() (*group, status) {
	b, st := c.seenBlock()
	if st != 0 {
		return nil, st
	}
	g := b.group(c.args[2].number)
	if g == nil {
		return nil, codeUnknownGroup
	}
	return g, 0
}

// usableBlock finds the block of a read, write or lock, for which the application needs rights and no other may hold the lock.
func (c *call) usableBlock(rights uint32) (*block, status) {
	f := &c.d.mem.Storage
	b := f.block(c.args[1].number)
	if b == nil {
		return nil, codeUnknownBlock
	}
	switch has := f.rights(c.app, b); {
	case has == 0 && b.Hidden:
		return nil, codeUnknownBlock
	case has < rights:
		return nil, codeNoPermission
	case b.lockedBy != 0 && b.lockedBy != c.app.Handle || c.d.faults.LockByOther:
		return nil, codeLocked
	}
	return b, 0
}

// members checks handles that are to become members of a group.
func (c *call) members(list []uint32) status {
	if len(list) == 0 {
		return codeNoMembers
	}
	for _, m := range list {
		if m != filterApplicationName && m != filterVendorName && c.d.mem.Storage.application(m) == nil {
			return codeUnknownApplication
		}
	}
	return 0
}

// storageMethods are those of AMT_ThirdPartyDataStorageService.
var storageMethods = []method{
	{name: "GetMTU", run: func(c *call) status {
		c.u32("Mtu", mtu)
		return 0
	}},
	{name: "RegisterApplication", in: []parameter{p("CallerUUID", asUUID), p("VendorName", asText), p("ApplicationName", asText), p("EnterpriseName", asText)},
		run: register},
	{name: "UnregisterApplication", in: []parameter{sessionHandle}, run: func(c *call) status {
		c.d.mem.Storage.endSession(c.app)
		return 0
	}},
	{name: "GetRegisteredApplications", in: []parameter{sessionHandle}, run: func(c *call) status {
		for _, a := range c.d.mem.Storage.Applications {
			if a.Vendor == c.app.Vendor {
				c.u32("AppHandles", a.Handle)
			}
		}
		return 0
	}},
	{name: "GetCurrentApplicationHandle", in: []parameter{sessionHandle}, run: func(c *call) status {
		c.u32("ApplicationHandle", c.app.Handle)
		return 0
	}},
	{name: "GetApplicationAttributes", in: []parameter{sessionHandle, p("ApplicationBeingRequested", asNumber)}, run: func(c *call) status {
		a := c.d.mem.Storage.application(c.args[1].number)
		if a == nil || a.Vendor != c.app.Vendor {
			return codeUnknownApplication
		}
		c.str("VendorName", a.Vendor)
		c.str("ApplicationName", a.Name)
		return 0
	}},
	{name: "RemoveApplication", in: []parameter{sessionHandle}, run: func(c *call) status {
		c.d.mem.Storage.remove(c.app)
		c.d.dirty = true
		return 0
	}},
	{name: "GetBytesAvailable", in: []parameter{sessionHandle}, run: func(c *call) status {
		total, _, _ := c.d.mem.Storage.free(c.app)
		c.u32("BytesAvailable", total)
		return 0
	}},
	{name: "AllocateBlock", in: []parameter{sessionHandle, p("BytesRequested", asNumber), p("BlockHidden", asBool), optional("BlockName", asText)},
		run: allocate},
	{name: "DeallocateBlock", in: []parameter{sessionHandle, blockHandle}, run: func(c *call) status {
		b, st := c.ownBlock(c.args[1].number)
		if st != 0 {
			return st
		}
		f := &c.d.mem.Storage
		f.Blocks = slices.DeleteFunc(f.Blocks, func(o *block) bool { return o == b })
		c.d.dirty = true
		return 0
	}},
	{name: "RemovePermissionsGroup", in: []parameter{sessionHandle, blockHandle, groupHandle}, run: func(c *call) status {
		b, g, st := c.ownGroup()
		if st != 0 {
			return st
		}
		b.Groups = slices.DeleteFunc(b.Groups, func(o *group) bool { return o == g })
		c.d.dirty = true
		return 0
	}},
	{name: "GetPermissionsGroupMembers", in: []parameter{sessionHandle, blockHandle, groupHandle}, run: func(c *call) status {
		g, st := c.seenGroup()
		if st != 0 {
			return st
		}
		c.list("MemberHandles", g.Members)
		return 0
	}},
	{name: "GetAllocatedBlocks", in: []parameter{sessionHandle, p("BlockOwnerApplication", asNumber)}, run: func(c *call) status {
		f := &c.d.mem.Storage
		owner := f.application(c.args[1].number)
		if owner == nil {
			return codeUnknownApplication
		}
		for _, b := range f.Blocks {
			if b.Owner == owner.Handle && (!b.Hidden || owner == c.app) {
				c.u32("BlockHandles", b.Handle)
			}
		}
		return 0
	}},
	{name: "RemovePermissionsGroupMembers", in: []parameter{sessionHandle, blockHandle, groupHandle, p("MemberHandles", asNumbers)}, run: func(c *call) status {
		_, g, st := c.ownGroup()
		if st != 0 {
			return st
		}
		list := c.args[3].numbers
		if len(list) == 0 {
			return codeNoMembers
		}
		for _, m := range list {
			if !slices.Contains(g.Members, m) {
				return codeNotAMember
			}
		}
		g.Members = slices.DeleteFunc(g.Members, func(m uint32) bool { return slices.Contains(list, m) })
		c.d.dirty = true
		return 0
	}},
	{name: "GetBlockAttributes", in: []parameter{sessionHandle, blockHandle}, run: func(c *call) status {
		b, st := c.seenBlock()
		if st != 0 {
			return st
		}
		c.u32("BlockSize", b.Size)
		c.flag("BlockHidden", b.Hidden)
		c.str("BlockName", b.Name)
		return 0
	}},
	{name: "AddPermissionsGroupMembers", in: []parameter{sessionHandle, blockHandle, groupHandle, p("MemberHandles", asNumbers)}, run: func(c *call) status {
		_, g, st := c.ownGroup()
		if st != 0 {
			return st
		}
		if st := c.members(c.args[3].numbers); st != 0 {
			return st
		}
		after := slices.Clone(g.Members)
		for _, m := range c.args[3].numbers {
			if !slices.Contains(after, m) {
				after = append(after, m)
			}
		}
		if len(after) > maxMembersPerGroup {
			return codeTooMany
		}
		g.Members = after
		c.d.dirty = true
		return 0
	}},
	{name: "UnlockBlock", in: []parameter{sessionHandle, blockHandle}, run: func(c *call) status {
		b, st := c.usableBlock(1)
		if st != 0 {
			return st
		}
		if b.lockedBy == 0 {
			return codeNotLocked
		}
		b.lockedBy = 0
		return 0
	}},
	{name: "SetPermissionsGroupName", in: []parameter{sessionHandle, blockHandle, groupHandle, p("GroupName", asText)}, run: func(c *call) status {
		_, g, st := c.ownGroup()
		if st != 0 {
			return st
		}
		if nameLength(c.args[3].text) > maxGroupName {
			return codeLongName
		}
		g.Name = strings.Clone(c.args[3].text)
		c.d.dirty = true
		return 0
	}},
	{name: "GetTimeoutValues", run: func(c *call) status {
		c.u32("RegistrationTimeout", uint32(registrationTimeout.Seconds()))
		c.u32("LockTimeout", uint32(lockTimeout.Seconds()))
		return 0
	}},
	{name: "ReadBlock", in: []parameter{sessionHandle, blockHandle, p("ByteOffset", asNumber), p("ByteCount", asNumber)}, run: func(c *call) status {
		b, st := c.usableBlock(1)
		if st != 0 {
			return st
		}
		offset, count := c.args[2].number, c.args[3].number
		switch {
		case offset >= b.Size:
			return codeOffset
		case count == 0 || count > maxTransfer || count > b.Size-offset:
			return codeCount
		}
		if b.lockedBy == c.app.Handle {
			b.lockUsed = c.d.now()
		}
		data := b.read(offset, count)
		if c.d.faults.CorruptReads {
			data = slices.Clone(data)
			data[len(data)/2] ^= 1
		}
		c.data("Data", data)
		return 0
	}},
	{name: "WriteBlock", in: []parameter{sessionHandle, blockHandle, p("ByteOffset", asNumber), p("Data", asBase64)}, keep: true, run: write},
	{name: "SetPermissionsGroupPermissions", in: []parameter{sessionHandle, blockHandle, groupHandle, p("Permissions", asNumber)}, run: func(c *call) status {
		_, g, st := c.ownGroup()
		if st != 0 {
			return st
		}
		if n := c.args[3].number; n != 1 && n != 2 {
			return codePermissions
		}
		g.Permissions = c.args[3].number
		c.d.dirty = true
		return 0
	}},
	{name: "SetBlockVisibility", in: []parameter{sessionHandle, blockHandle, p("BlockHidden", asBool)}, run: func(c *call) status {
		b, st := c.ownBlock(c.args[1].number)
		if st != 0 {
			return st
		}
		b.Hidden = c.args[2].flag
		c.d.dirty = true
		return 0
	}},
	{name: "GetPermissionsGroupAttributes", in: []parameter{sessionHandle, blockHandle, groupHandle}, run: func(c *call) status {
		g, st := c.seenGroup()
		if st != 0 {
			return st
		}
		c.str("Name", g.Name)
		c.u32("Permissions", g.Permissions)
		return 0
	}},
	{name: "GetPermissionsGroups", in: []parameter{sessionHandle, blockHandle}, run: func(c *call) status {
		b, st := c.seenBlock()
		if st != 0 {
			return st
		}
		for _, g := range b.Groups {
			c.u32("GroupHandles", g.Handle)
		}
		return 0
	}},
	{name: "SetBlockName", in: []parameter{sessionHandle, blockHandle, p("BlockName", asText)}, run: func(c *call) status {
		b, st := c.ownBlock(c.args[1].number)
		if st != 0 {
			return st
		}
		if nameLength(c.args[2].text) > maxBlockName {
			return codeLongName
		}
		b.Name = strings.Clone(c.args[2].text)
		c.d.dirty = true
		return 0
	}},
	{name: "AddPermissionsGroup", in: []parameter{sessionHandle, blockHandle, p("GroupPermissions", asNumber), optional("GroupName", asText)}, run: func(c *call) status {
		b, st := c.ownBlock(c.args[1].number)
		switch {
		case st != 0:
			return st
		case c.args[2].number != 1 && c.args[2].number != 2:
			return codePermissions
		case nameLength(c.args[3].text) > maxGroupName:
			return codeLongName
		case len(b.Groups) >= maxGroupsPerBlock:
			return codeTooMany
		}
		f := &c.d.mem.Storage
		f.LastGroup++
		b.Groups = append(b.Groups, &group{Handle: f.LastGroup, Name: strings.Clone(c.args[3].text), Permissions: c.args[2].number})
		c.u32("GroupHandle", f.LastGroup)
		c.d.dirty = true
		return 0
	}},
	{name: "LockBlock", in: []parameter{sessionHandle, blockHandle}, run: func(c *call) status {
		b, st := c.usableBlock(1)
		if st != 0 {
			return st
		}
		b.lockedBy, b.lockUsed = c.app.Handle, c.d.now()
		return 0
	}},
	{name: "GetWriteEraseLimit", run: func(c *call) status {
		c.u32("WriteEraseLimit", c.d.writesLeft())
		return 0
	}},
}

func register(c *call) status {
	f, id, vendor, name, ent := &c.d.mem.Storage, c.args[0].bytes, c.args[1].text, c.args[2].text, c.args[3].text
	if len(id) != 16 {
		return statusInvalidParameter
	}
	for _, s := range []string{vendor, name} {
		if s == "" || nameLength(s) > maxNameLength {
			return codeRegistrationName
		}
	}
	if f.enterprise(ent) == nil { // an empty or over-long one never is
		return statusRegistration
	}
	var a *application
	for _, o := range f.Applications {
		if o.UUID == [16]byte(id) && o.Vendor == vendor && o.Name == name && o.Enterprise == ent {
			a = o
		}
	}
	switch {
	case a != nil && a.Local != (c.from == localSide):
		return codeWrongInterface
	case f.sessions() >= maxSessions && (a == nil || a.session == ""):
		return codeTooManySessions
	case a == nil && len(f.Applications) >= maxApplications:
		return codeTooManyApplications
	case a == nil:
		f.LastApplication++
		a = &application{Handle: f.LastApplication, UUID: [16]byte(id), Vendor: strings.Clone(vendor), Name: strings.Clone(name),
			Enterprise: strings.Clone(ent), Local: c.from == localSide}
		f.Applications = append(f.Applications, a)
		if f.allocationOf(vendor, name) == nil {
			f.LastAllocation++
			f.Allocations = append(f.Allocations, &allocation{Handle: f.LastAllocation, Vendor: a.Vendor, Application: a.Name, Total: f.MaxNonPartnerTotal})
		}
		c.d.dirty = true
	}
	f.endSession(a)
	a.session, a.sessionUsed = c.d.newSession(), c.d.now()
	c.str("SessionHandle", a.session)
	return 0
}

func allocate(c *call) status {
	f, size := &c.d.mem.Storage, c.args[1].number
	switch {
	case size == 0 || size%mtu != 0:
		return codeBytesRequested
	case nameLength(c.args[3].text) > maxBlockName:
		return codeLongName
	}
	_, partner, nonPartner := f.free(c.app)
	if size > max(partner, nonPartner) {
		return codeQuota
	}
	f.LastBlock++
	f.Blocks = append(f.Blocks, &block{Handle: f.LastBlock, Owner: c.app.Handle, Name: strings.Clone(c.args[3].text),
		Hidden: c.args[2].flag, Size: size, NonPartner: size > partner})
	c.u32("BlockHandle", f.LastBlock)
	c.d.dirty = true
	return 0
}

func write(c *call) status {
	written := 0
	st := func() status {
		b, st := c.usableBlock(2)
		if st != 0 {
			return st
		}
		offset, data := c.args[2].number, c.args[3].bytes
		switch {
		case offset >= b.Size:
			return codeOffset
		case len(data) == 0 || len(data) > maxTransfer || uint32(len(data)) > b.Size-offset:
			return codeCount
		}
		if b.lockedBy == c.app.Handle {
			b.lockUsed = c.d.now()
		}
		if c.d.writesLeft() < sectors(offset, len(data)) {
			if c.d.mem.WornSince.IsZero() && !c.d.faults.WornOut {
				c.d.mem.WornSince, c.d.dirty = c.d.now(), true
			}
			return statusFlashWriteLimit
		}
		written, st = c.d.cutWrite(len(data))
		if written > 0 {
			c.d.spendWrites(sectors(offset, written))
			b.write(offset, data[:written])
			c.d.count.blockWrites++
			c.d.count.bytesWritten += uint64(written)
			c.d.dirty = true
		}
		return st
	}()
	c.u32("BytesWritten", uint32(written))
	return st
}

// administrationMethods are those of AMT_ThirdPartyDataStorageAdministrationService.
var administrationMethods = []method{
	{name: "GetGlobalStorageAttributes", run: func(c *call) status {
		f := &c.d.mem.Storage
		partner := f.allocatedIn(false)
		c.u32("TotalStorage", totalStorage)
		c.u32("TotalAllocatedStorage", partner+f.allocatedIn(true))
		c.u32("MaxPartnerStorage", f.MaxPartner)
		c.u32("TotalPartnerAllocatedStorage", partner)
		c.u32("MaxNonPartnerStorage", f.maxNonPartner())
		c.u32("MaxFpaclEntries", maxFPACL)
		c.u32("MaxAslEntries", maxSessions)
		c.u32("MaxEaclEntries", maxEACL)
		c.u32("MaxGroupsPerBlock", maxGroupsPerBlock)
		c.u32("MaxMembersPerGroup", maxMembersPerGroup)
		c.u32("MaxNonPartnerTotalAllocationSize", f.MaxNonPartnerTotal)
		return 0
	}},
	{name: "SetGlobalStorageAttributes", in: []parameter{optional("MaxPartnerStorage", asNumber), optional("MaxNonPartnerTotalAllocationSize", asNumber)}, run: func(c *call) status {
		f := &c.d.mem.Storage
		partner, perApplication := f.MaxPartner, f.MaxNonPartnerTotal
		if c.args[0].present {
			partner = c.args[0].number
		}
		if c.args[1].present {
			perApplication = c.args[1].number
		}
		if partner%allocationUnit != 0 || perApplication%allocationUnit != 0 || partner > totalStorage ||
			perApplication > totalStorage-partner || f.allocatedIn(false) > partner || f.allocatedIn(true) > totalStorage-partner {
			return codeGlobalDoesNotFit
		}
		f.MaxPartner, f.MaxNonPartnerTotal = partner, perApplication
		c.d.dirty = true
		return 0
	}},
	{name: "AdminGetRegisteredApplications", run: func(c *call) status {
		for _, a := range c.d.mem.Storage.Applications {
			c.u32("ApplicationHandles", a.Handle)
		}
		return 0
	}},
	{name: "AdminGetApplicationAttributes", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		f := &c.d.mem.Storage
		a := f.application(c.args[0].number)
		if a == nil {
			return codeUnknownApplication
		}
		entry := f.allocationOf(a.Vendor, a.Name)
		c.u32("AttrType", 1)
		c.data("UUID", a.UUID[:])
		c.str("VendorName", a.Vendor)
		c.str("ApplicationName", a.Name)
		c.str("EnterpriseName", a.Enterprise)
		c.u32("CurrentAllocationSize", f.ownedBy(a.Handle))
		c.flag("ActiveSession", a.session != "")
		c.flag("Partner", entry != nil && entry.Partner)
		return 0
	}},
	{name: "AdminRemoveApplication", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		a := c.d.mem.Storage.application(c.args[0].number)
		if a == nil {
			return codeUnknownApplication
		}
		c.d.mem.Storage.remove(a)
		c.d.dirty = true
		return 0
	}},
	{name: "AddStorageEaclEntry", in: []parameter{p("EnterpriseName", asText)}, run: func(c *call) status {
		f, name := &c.d.mem.Storage, c.args[0].text
		switch {
		case name == "":
			return codeEmptyAdminName
		case nameLength(name) > maxNameLength:
			return codeLongName
		case f.enterprise(name) != nil:
			return codeDuplicateEnterprise
		case len(f.Enterprises) >= maxEACL:
			return codeTooMany
		}
		c.u32("Handle", f.addEnterprise(strings.Clone(name)).Handle)
		c.d.dirty = true
		return 0
	}},
	{name: "EnumerateStorageEaclEntries", run: func(c *call) status {
		for _, e := range c.d.mem.Storage.Enterprises {
			c.u32("Handles", e.Handle)
		}
		return 0
	}},
	{name: "GetStorageEaclEntry", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		for _, e := range c.d.mem.Storage.Enterprises {
			if e.Handle == c.args[0].number {
				c.str("EnterpriseName", e.Name)
				return 0
			}
		}
		return codeUnknownEntry
	}},
	{name: "RemoveStorageEaclEntry", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		f := &c.d.mem.Storage
		i := slices.IndexFunc(f.Enterprises, func(e *enterprise) bool { return e.Handle == c.args[0].number })
		if i < 0 {
			return codeUnknownEntry
		}
		if slices.ContainsFunc(f.Applications, func(a *application) bool { return a.Enterprise == f.Enterprises[i].Name }) {
			return statusACLEntryInUse
		}
		f.Enterprises = slices.Delete(f.Enterprises, i, i+1)
		c.d.dirty = true
		return 0
	}},
	{name: "AddStorageFpaclEntry", in: []parameter{p("AttrType", asNumber), p("ApplicationName", asText), p("VendorName", asText), p("IsPartner", asBool), p("TotalAllocationSize", asNumber)},
		run: func(c *call) status {
			f, name, vendor, size := &c.d.mem.Storage, c.args[1].text, c.args[2].text, c.args[4].number
			switch entry := f.allocationOf(vendor, name); {
			case c.args[0].number != 1 || !c.args[3].flag || size%allocationUnit != 0 || size == 0:
				return codeBadEntry
			case name == "" || vendor == "":
				return codeEmptyAdminName
			case nameLength(name) > maxNameLength || nameLength(vendor) > maxNameLength:
				return codeLongName
			case entry != nil && entry.Partner:
				return statusDuplicate
			case entry != nil:
				return codeFPACLOverNACL
			case f.partners() >= maxFPACL:
				return codeTooMany
			}
			c.u32("Handle", f.addPartner(strings.Clone(vendor), strings.Clone(name), size).Handle)
			c.d.dirty = true
			return 0
		}},
	{name: "EnumerateStorageAllocEntries", run: func(c *call) status {
		for _, a := range c.d.mem.Storage.Allocations {
			c.u32("Handles", a.Handle)
		}
		return 0
	}},
	{name: "GetStorageAllocEntry", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		a := c.d.mem.Storage.allocation(c.args[0].number)
		if a == nil {
			return codeUnknownEntry
		}
		c.u32("AttrType", 1)
		c.str("ApplicationName", a.Application)
		c.str("VendorName", a.Vendor)
		c.flag("IsPartner", a.Partner)
		c.u32("TotalAllocationSize", a.Total)
		return 0
	}},
	{name: "UpdateStorageFpaclEntry", in: []parameter{p("Handle", asNumber), p("NewAllocationSize", asNumber)}, run: func(c *call) status {
		f, size := &c.d.mem.Storage, c.args[1].number
		a := f.allocation(c.args[0].number)
		switch {
		case a == nil:
			return codeUnknownEntry
		case !a.Partner || size%allocationUnit != 0 || size == 0:
			return codeBadEntry
		case size < f.allocatedBy(a.Vendor, a.Application):
			return codeDecreaseBelowUse
		}
		a.Total = size
		c.d.dirty = true
		return 0
	}},
	{name: "RemoveStorageFpaclEntry", in: []parameter{p("Handle", asNumber)}, run: func(c *call) status {
		f := &c.d.mem.Storage
		a := f.allocation(c.args[0].number)
		switch {
		case a == nil:
			return codeUnknownEntry
		case !a.Partner:
			return codeBadEntry
		case f.registered(a.Vendor, a.Application):
			return statusACLEntryInUse
		}
		f.Allocations = slices.DeleteFunc(f.Allocations, func(o *allocation) bool { return o == a })
		c.d.dirty = true
		return 0
	}},
}

func (f *flash) allocation(handle uint32) *allocation {
	for _, a := range f.Allocations {
		if a.Handle == handle {
			return a
		}
	}
	return nil
}

func (f *flash) addEnterprise(name string) *enterprise {
	f.LastEnterprise++
	e := &enterprise{Handle: f.LastEnterprise, Name: name}
	f.Enterprises = append(f.Enterprises, e)
	return e
}

func (f *flash) addPartner(vendor, name string, size uint32) *allocation {
	f.LastAllocation++
	a := &allocation{Handle: f.LastAllocation, Vendor: vendor, Application: name, Partner: true, Total: size}
	f.Allocations = append(f.Allocations, a)
	return a
}

// cutWrite says how many of n bytes reach the flash, and with which code WriteBlock answers.
func (d *Device) cutWrite(n int) (int, status) {
	if d.restarting {
		return n / 2, 0
	}
	if cut := d.faults.CutWriteAfter; cut != nil {
		if left := max(*cut-d.cutBytes, 0); n > left {
			d.cutBytes += left
			return left, codeCut
		}
		d.cutBytes += n
	}
	if short := d.faults.ShortWrite; short > 0 && n > short {
		return short, status(d.faults.ShortWriteStatus)
	}
	return n, 0
}

// writesLeft is the wear-out budget. Once spent, it is whole again after the recovery time.
func (d *Device) writesLeft() uint32 {
	if d.faults.WornOut {
		return 0
	}
	if !d.mem.WornSince.IsZero() && d.now().Sub(d.mem.WornSince) >= wearRecovery {
		d.mem.Writes, d.mem.WornSince = 0, zeroTime
		d.dirty = true
	}
	return writeEraseLimit - min(d.mem.Writes, writeEraseLimit)
}

func (d *Device) spendWrites(n uint32) {
	d.mem.Writes = min(d.mem.Writes+n, math.MaxInt32)
	if d.mem.Writes >= writeEraseLimit {
		d.mem.WornSince = d.now()
	}
}

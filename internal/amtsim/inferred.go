package amtsim

import (
	"net/http"
	"time"
	"unicode/utf8"
)

// This file holds everything that this simulator has to decide although no public text or capture says it. One capture of
// a real exchange corrects it here and nowhere else. Each group names the doubt; docs/protocol/amtsim.md lists them with
// what is captured and what is documented. "Documented" remarks mark the neighbours that are certain.

// status is a PT_STATUS, the ReturnValue of AMT classes.
type status uint32

// PT_STATUS numbers are captured (Intel's StatusCodeDefinitions.h).
const (
	statusSuccess          status = 0
	statusInternalError    status = 1
	statusNotReady         status = 2
	statusNotRegistered    status = 8
	statusRegistration     status = 9
	statusNoApplication    status = 10
	statusNotEnoughStorage status = 11
	statusInvalidName      status = 12
	statusNoBlock          status = 13
	statusByteOffset       status = 14
	statusByteCount        status = 15
	statusNotPermitted     status = 16
	statusNotOwner         status = 17
	statusLockedByOther    status = 18
	statusNotLocked        status = 19
	statusGroupPermissions status = 20
	statusNoGroup          status = 21
	statusMemberCount      status = 22
	statusMaxLimit         status = 23
	statusProvisioning     status = 32
	statusInvalidParameter status = 36
	statusFlashWriteLimit  status = 38
	statusInvalidHandle    status = 2053
	statusInvalidRealm     status = 2055
	statusACLEntryInUse    status = 2056
	statusDuplicate        status = 2058
	statusUnsupported      status = 2066
	statusNotFound         status = 2068
)

// The code per failing case. Doubt: the per-method value maps of Intel's class reference could not be had (doubt 2).
// Documented: other vendor's application 10, hidden block of another 13, enterprise not registered or bad name 9, entry
// in use 2056, duplicate 2058, wear-out 38.
const (
	codeUnknownSession      = statusNotRegistered
	codeWrongInterface      = statusRegistration // doubt 7
	codeRegistrationName    = statusRegistration // empty or over-long vendor or application
	codeLongName            = statusInvalidName  // block, group, EACL and FPACL names
	codeEmptyAdminName      = statusInvalidName
	codeTooManySessions     = statusMaxLimit
	codeTooManyApplications = statusMaxLimit
	codeBytesRequested      = statusByteCount // 0, or no multiple of the MTU
	codeQuota               = statusNotEnoughStorage
	codeUnknownBlock        = statusNoBlock
	codeUnknownGroup        = statusNoGroup
	codeUnknownApplication  = statusNoApplication // also for group members, and for AdminGet/AdminRemove
	codeNotAMember          = statusNoApplication // RemovePermissionsGroupMembers of an application that is in no such group
	codeOffset              = statusByteOffset
	codeCount               = statusByteCount
	codeNotOwner            = statusNotOwner
	codeNoPermission        = statusNotPermitted
	codeLocked              = statusLockedByOther
	codeNotLocked           = statusNotLocked
	codePermissions         = statusGroupPermissions
	codeTooMany             = statusMaxLimit // groups, members, EACL and FPACL places
	codeNoMembers           = statusMemberCount
	codeUnknownEntry        = statusInvalidHandle    // admin calls
	codeBadEntry            = statusInvalidParameter // size no multiple of 4096, AttrType, IsPartner, NACL updated or removed
	codeDecreaseBelowUse    = statusInvalidParameter
	codeGlobalDoesNotFit    = statusInvalidParameter
	codeFPACLOverNACL       = statusDuplicate     // a partner entry for an application that is registered as non-partner
	codeDuplicateEnterprise = statusDuplicate     // and not the old handle (doubt 9)
	codeUnprovisioned       = statusProvisioning  // 3PDS methods on the local side of an AMT that is not set up
	codeBusy                = statusNotReady      // fault switch busy
	codeCut                 = statusInternalError // a write that stops in the middle: fault switch cut_write_after
)

// Timing and sizes (doubt 4, 5). Documented: the five small limits, the 4 KB unit, a total of at least 96 KB, and that
// about 40 minutes pass after wear-out protection blocked writing.
const (
	mtu                 = 4096
	maxTransfer         = 4096 // raw bytes of one ReadBlock or WriteBlock
	registrationTimeout = 30 * time.Minute
	lockTimeout         = 60 * time.Second
	writeEraseLimit     = 10000 // budget of a fresh device, one per 4 KB sector that a WriteBlock touches; no other call costs
	wearRecovery        = 40 * time.Minute

	totalStorage      = 196608
	maxPartnerStorage = 147456
	// Taken as the rest of the storage, and following MaxPartnerStorage when the administrator changes it.
	maxNonPartnerStorage = totalStorage - maxPartnerStorage
	// No narrower than the area: a simulator that refused a second block here would invent a limit.
	maxNonPartnerTotalAllocation = maxNonPartnerStorage

	maxFPACL           = 24
	maxSessions        = 16
	maxEACL            = 4
	maxGroupsPerBlock  = 2
	maxMembersPerGroup = 8
	maxApplications    = 32 // bound of the legacy interface's list

	allocationUnit = 4096
	unwritten      = 0xFF // never-written bytes (doubt 6); a block that is allocated again reads so too
)

// Names (doubt 15). The limits are documented, their unit is not: characters here. Comparison is case-sensitive (doubt 7).
const (
	maxNameLength  = 64
	maxBlockName   = 32
	maxGroupName   = 16
	sessionHandles = 8 // bytes, written as upper-case hex digits (doubt 3). Any user may use a handle, on its own interface only
)

func nameLength(s string) int { return utf8.RuneCountInString(s) }

// callerUUIDFault: a CallerUUID that is not 32 hex digits breaks the schema; false would answer 36 instead.
const callerUUIDFault = true

// Log-on (doubt 11). Documented: ten failures in a row, 5 s growing to 80 s, cleared after an hour of quiet; how it grows
// and that it counts per account are not. A refused stale nonce and a malformed header are no failures.
const (
	lockoutFailures = 10
	lockoutFirst    = 5 * time.Second
	lockoutLongest  = 80 * time.Second // doubling
	lockoutQuiet    = time.Hour
	nonceLife       = 10 * time.Minute
	noncesInUse     = 64 // used nonces whose nc is remembered; the oldest is refused as stale beyond that
	ncWindow        = 64 // answers on one nonce may arrive out of order by this much, but never twice
)

// Connections and requests: no limit is published.
const (
	maxConnections   = 256 // of one device; more are reset
	maxHeader        = 16 << 10
	maxBody          = 64 << 10
	idleTimeout      = 2 * time.Minute // of a kept-alive connection
	requestTimeout   = 30 * time.Second
	statusHeaderSize = http.StatusRequestHeaderFieldsTooLarge
	statusBodySize   = http.StatusRequestEntityTooLarge
	statusWrongPath  = http.StatusNotFound
	statusWrongVerb  = http.StatusMethodNotAllowed
	statusUnreadable = http.StatusBadRequest // HTML page; for bodies that are no XML and heads that are no HTTP
)

// Enumeration. The form of a context is captured; how many live at once and how long is not.
const (
	maxEnumerations     = 8
	enumerationLife     = 60 * time.Second
	pulledWithoutAsking = 1 // MaxElements when a Pull has none (WS-Enumeration 3.2)
	maxPulled           = 999
)

// lacksRealmForms are the three answers thinkable when a user lacks the realm (doubt 10). The fault switch lacks_realm
// chooses; the first is what an unset switch means.
var lacksRealmForms = []string{"fault", "401", "403"}

// Realm numbers are captured; which realm opens which class is documented for the two storage classes only.
const (
	realmAdministration = 3 // PTAdministration: all
	realmHardwareAsset  = 4
	realmStorage        = 6
	realmStorageAdmin   = 8
	realmGeneralInfo    = 13
	realmACL            = 21
)

// actionNotSupported and its neighbours: texts in the wording of DSP0226, actions and subcodes as the specifications have
// them. Captured are only DestinationUnreachable, AlreadyExists (not used here) and the text of SchemaValidationError.
var (
	faultUnreachable = fault{http.StatusBadRequest, faultAddressing, "a:Sender", "b:DestinationUnreachable",
		"No route can be determined to reach the destination role defined by the WSAddressing To.", ""}
	faultSchema = fault{http.StatusBadRequest, faultWSMan, "a:Sender", "e:SchemaValidationError",
		"The supplied SOAP violates the corresponding XML schema definition.", ""}
	faultSelectors = fault{http.StatusBadRequest, faultWSMan, "a:Sender", "e:InvalidSelectors",
		"The Selectors for the resource were not valid.", ""}
	faultAction = fault{http.StatusBadRequest, faultAddressing, "a:Sender", "b:ActionNotSupported",
		"The action is not supported by the service.", ""}
	faultHeader = fault{http.StatusBadRequest, faultAddressing, "a:Sender", "b:MessageInformationHeaderRequired",
		"A required header was missing.", ""}
	faultMustUnderstand = fault{http.StatusBadRequest, faultAddressing, "a:MustUnderstand", "",
		"The WS-Management service cannot process a SOAP header in the request that is marked as mustUnderstand by the client.", ""}
	faultVersion = fault{http.StatusBadRequest, faultAddressing, "a:VersionMismatch", "",
		"The service does not support the SOAP version of the request.", ""}
	faultDenied = fault{http.StatusBadRequest, faultWSMan, "a:Sender", "e:AccessDenied",
		"The sender was not authorized to access the resource.", ""}
	faultContext = fault{http.StatusBadRequest, faultEnumeration, "a:Receiver", "c:InvalidEnumerationContext",
		"The supplied enumeration context is invalid.", ""}
	faultFiltering = fault{http.StatusBadRequest, faultEnumeration, "a:Sender", "c:FilteringNotSupported",
		"Filtering over the enumeration is not supported.", ""}
	// The text is documented, the detail AMT-STATUS n too; a:Receiver is not.
	faultInternal = fault{http.StatusInternalServerError, faultWSMan, "a:Receiver", "e:InternalError",
		"The service cannot comply with the request due to internal processing errors.", "AMT-STATUS 1"}
)

// identifyBody answers Identify (doubt 16), with the elements of DSP0226 11.1.
func identifyBody(release string) string {
	return `<g:IdentifyResponse><g:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</g:ProtocolVersion>` +
		`<g:ProductVendor>Intel(r)</g:ProductVendor><g:ProductVersion>AMT ` + release + `</g:ProductVersion></g:IdentifyResponse>`
}

// After a full unprovision handles are counted from one again, the digest realm is another, and only the account that
// the simulator was started with still logs on, on the local side.

package amt

import (
	"fmt"
	"strconv"
	"strings"

	"samehost/internal/wsman"
)

// Status is PT_STATUS, the ReturnValue of AMT's methods, with Intel's numbers and names (StatusCodeDefinitions.h
// of the AMT SDK). Every number but StatusSuccess is an error; errors.As finds it under what this package returns,
// and errors.Is holds for ErrNotReady and ErrNotProvisioned where the number says so.
//
// AMT classes return PT_STATUS as it is. Standard CIM classes add 32768; nothing here calls a method of those.
type Status uint32

// The numbers that a storage method can plausibly return (the class reference does not list them method by
// method). The others have a name in the table only.
const (
	StatusSuccess                  Status = 0
	StatusInternalError            Status = 1
	StatusNotReady                 Status = 2
	StatusInvalidPTMode            Status = 3
	StatusInvalidMessageLength     Status = 4
	StatusUnsupportedISVSVersion   Status = 7
	StatusApplicationNotRegistered Status = 8
	StatusInvalidRegistrationData  Status = 9
	StatusApplicationDoesNotExist  Status = 10
	StatusNotEnoughStorage         Status = 11
	StatusInvalidName              Status = 12
	StatusBlockDoesNotExist        Status = 13
	StatusInvalidByteOffset        Status = 14
	StatusInvalidByteCount         Status = 15
	StatusNotPermitted             Status = 16
	StatusNotOwner                 Status = 17
	StatusBlockLockedByOther       Status = 18
	StatusBlockNotLocked           Status = 19
	StatusInvalidGroupPermissions  Status = 20
	StatusGroupDoesNotExist        Status = 21
	StatusInvalidMemberCount       Status = 22
	StatusMaxLimitReached          Status = 23
	StatusRequestUnexpected        Status = 30
	StatusInvalidProvisioningState Status = 32
	StatusInvalidParameter         Status = 36
	StatusFlashWriteLimitExceeded  Status = 38
	StatusConnectionTooMany        Status = 46
	StatusInvalidHandle            Status = 2053
	StatusStorageACLEntryInUse     Status = 2056
	StatusDataMissing              Status = 2057
	StatusDuplicate                Status = 2058
	StatusUnsupported              Status = 2066
	StatusNotFound                 Status = 2068
	StatusOperationInProgress      Status = 2082
)

// statusTable has Intel's name without PT_STATUS_, and the meaning in words of ours.
var statusTable = map[Status]struct{ name, meaning string }{
	0:    {"SUCCESS", "success"},
	1:    {"INTERNAL_ERROR", "the firmware failed internally"},
	2:    {"NOT_READY", "the firmware is not ready for this command yet"},
	3:    {"INVALID_PT_MODE", "the command is not allowed in AMT's present mode"},
	4:    {"INVALID_MESSAGE_LENGTH", "a length in the request is wrong"},
	5:    {"TABLE_FINGERPRINT_NOT_AVAILABLE", "the hardware table has no fingerprint"},
	6:    {"INTEGRITY_CHECK_FAILED", "an integrity check failed"},
	7:    {"UNSUPPORTED_ISVS_VERSION", "this version of the storage protocol is not supported"},
	8:    {"APPLICATION_NOT_REGISTERED", "the application has no session"},
	9:    {"INVALID_REGISTRATION_DATA", "a name is not allowed, or the enterprise has no entry"},
	10:   {"APPLICATION_DOES_NOT_EXIST", "there is no application of this handle"},
	11:   {"NOT_ENOUGH_STORAGE", "the storage asked for cannot be allocated"},
	12:   {"INVALID_NAME", "the name is not allowed"},
	13:   {"BLOCK_DOES_NOT_EXIST", "there is no such block, or it is hidden from us"},
	14:   {"INVALID_BYTE_OFFSET", "the offset lies outside the block"},
	15:   {"INVALID_BYTE_COUNT", "the number of bytes is not allowed"},
	16:   {"NOT_PERMITTED", "the application has no permission for this"},
	17:   {"NOT_OWNER", "the block belongs to another application"},
	18:   {"BLOCK_LOCKED_BY_OTHER", "another application has locked the block"},
	19:   {"BLOCK_NOT_LOCKED", "the block is not locked"},
	20:   {"INVALID_GROUP_PERMISSIONS", "these group permissions do not exist"},
	21:   {"GROUP_DOES_NOT_EXIST", "there is no such permissions group"},
	22:   {"INVALID_MEMBER_COUNT", "the number of group members is not allowed"},
	23:   {"MAX_LIMIT_REACHED", "a limit of the firmware is reached"},
	24:   {"INVALID_AUTH_TYPE", "this kind of authentication does not exist"},
	25:   {"AUTHENTICATION_FAILED", "authentication failed"},
	26:   {"INVALID_DHCP_MODE", "this DHCP mode does not exist"},
	27:   {"INVALID_IP_ADDRESS", "the IP address is not valid"},
	28:   {"INVALID_DOMAIN_NAME", "the domain name is not valid"},
	29:   {"UNSUPPORTED_VERSION", "this version is not supported"},
	30:   {"REQUEST_UNEXPECTED", "a request that must come before this one is missing"},
	31:   {"INVALID_TABLE_TYPE", "this kind of table does not exist"},
	32:   {"INVALID_PROVISIONING_STATE", "AMT is not set up, or its setup is under way"},
	33:   {"UNSUPPORTED_OBJECT", "this object is not supported"},
	34:   {"INVALID_TIME", "the time is not valid"},
	35:   {"INVALID_INDEX", "the index is not valid"},
	36:   {"INVALID_PARAMETER", "a parameter is not valid"},
	37:   {"INVALID_NETMASK", "the network mask is not valid"},
	38:   {"FLASH_WRITE_LIMIT_EXCEEDED", "the firmware refuses writes for a while to spare its flash memory"},
	39:   {"INVALID_IMAGE_LENGTH", "the image has a wrong length"},
	40:   {"INVALID_IMAGE_SIGNATURE", "the image's signature does not hold"},
	41:   {"PROPOSE_ANOTHER_VERSION", "the firmware proposes another version"},
	42:   {"INVALID_PID_FORMAT", "the PID has a wrong form"},
	43:   {"INVALID_PPS_FORMAT", "the PPS has a wrong form"},
	44:   {"BIST_COMMAND_BLOCKED", "the built-in self-test command is blocked"},
	45:   {"CONNECTION_FAILED", "the connection failed"},
	46:   {"CONNECTION_TOO_MANY", "too many connections are open"},
	47:   {"RNG_GENERATION_IN_PROGRESS", "random numbers are being generated"},
	48:   {"RNG_NOT_READY", "the random number generator is not ready"},
	49:   {"CERTIFICATE_NOT_READY", "the certificate is not ready"},
	512:  {"REMOTE_ACCESS_NOT_GRANTED", "remote access is not granted"},
	513:  {"REMOTE_ACCESS_HOST_VPN_IS_DISABLED", "the host's VPN is disabled for remote access"},
	2048: {"NETWORK_IF_ERROR_BASE", "an error of the network interface"},
	2049: {"UNSUPPORTED_OEM_NUMBER", "this OEM number is not supported"},
	2050: {"UNSUPPORTED_BOOT_OPTION", "this boot option is not supported"},
	2051: {"INVALID_COMMAND", "the command is not valid"},
	2052: {"INVALID_SPECIAL_COMMAND", "the special command is not valid"},
	2053: {"INVALID_HANDLE", "there is no entry of this handle"},
	2054: {"INVALID_PASSWORD", "the password is not allowed"},
	2055: {"INVALID_REALM", "the realm does not exist"},
	2056: {"STORAGE_ACL_ENTRY_IN_USE", "a registered application uses this entry"},
	2057: {"DATA_MISSING", "required data is missing"},
	2058: {"DUPLICATE", "the same entry is there already"},
	2059: {"EVENTLOG_FROZEN", "the event log is frozen"},
	2060: {"PKI_MISSING_KEYS", "keys are missing"},
	2061: {"PKI_GENERATING_KEYS", "keys are being generated"},
	2062: {"INVALID_KEY", "the key is not valid"},
	2063: {"INVALID_CERT", "the certificate is not valid"},
	2064: {"CERT_KEY_NOT_MATCH", "certificate and key do not belong together"},
	2065: {"MAX_KERB_DOMAIN_REACHED", "no more Kerberos domains are possible"},
	2066: {"UNSUPPORTED", "the firmware does not support this"},
	2067: {"INVALID_PRIORITY", "the priority is not valid"},
	2068: {"NOT_FOUND", "there is no such thing"},
	2069: {"INVALID_CREDENTIALS", "the credentials are not valid"},
	2070: {"INVALID_PASSPHRASE", "the passphrase is not valid"},
	2072: {"NO_ASSOCIATION", "the association is missing"},
	2075: {"AUDIT_FAIL", "the audit log could not take the event"},
	2076: {"BLOCKING_COMPONENT", "another component blocks this"},
	2081: {"USER_CONSENT_REQUIRED", "the user at the PC has to consent"},
	2082: {"OPERATION_IN_PROGRESS", "an operation is in progress"},
}

// Name is Intel's name, e.g. PT_STATUS_NOT_READY; for a number that Intel does not name it is the number in hex.
func (s Status) Name() string {
	if e, ok := statusTable[s]; ok {
		return "PT_STATUS_" + e.name
	}
	return fmt.Sprintf("PT_STATUS 0x%X", uint32(s))
}

// String is the name and the number, e.g. PT_STATUS_NOT_READY (2).
func (s Status) String() string {
	if _, ok := statusTable[s]; ok {
		return s.Name() + " (" + strconv.FormatUint(uint64(s), 10) + ")"
	}
	return s.Name()
}

// Error is the meaning in our words, with name and number.
func (s Status) Error() string {
	if e, ok := statusTable[s]; ok {
		return e.meaning + ": " + s.String()
	}
	return "the firmware answers " + s.String()
}

// Is makes errors.Is hold for the reasons that a number alone proves.
func (s Status) Is(target error) bool {
	switch target {
	case ErrNotReady:
		return s == StatusNotReady || s == StatusConnectionTooMany || s == StatusOperationInProgress
	case ErrNotProvisioned:
		return s == StatusInvalidPTMode || s == StatusInvalidProvisioningState
	}
	return false
}

// faultStatus is the PT_STATUS in the detail of an internal error fault: intrinsic operations that fail inside
// say "AMT-STATUS n" there (AMT Implementation and Reference Guide, "Errors and Return Values").
func faultStatus(f *wsman.Fault) (Status, bool) {
	_, after, ok := strings.Cut(f.Detail, "AMT-STATUS")
	if !ok {
		return 0, false
	}
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0, false
	}
	n, err := parseUint32(fields[0])
	return Status(n), err == nil && n != 0
}

package amt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"samehost/internal/wsman"
)

// Classes and where their names live.
const (
	amtSchema = "http://intel.com/wbem/wscim/1/amt-schema/1/"
	cimSchema = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"

	storageClass = "AMT_ThirdPartyDataStorageService"               // realm Storage (6)
	adminClass   = "AMT_ThirdPartyDataStorageAdministrationService" // realm StorageAdmin (8)

	generalSettings = "AMT_GeneralSettings" // what nearly every user may read
)

// device is one AMT, with what is known of the log-on to it.
type device struct {
	c        *wsman.Client
	accepted bool   // the device let these credentials in earlier
	lets     string // the storage class that it let them into; an operation uses one of the two only
	shy      bool   // it refused the log-on to a class that only informs: no other such class is asked
}

// output is what a method answered with ReturnValue 0.
type output struct {
	method string
	wsman.Instance
}

// invoke calls a method of a storage class. An answer other than ReturnValue 0 comes back as a Status together with
// its outputs, since WriteBlock's count is valid with any.
func (d *device) invoke(ctx context.Context, class, method string, in ...wsman.Param) (output, error) {
	i, err := d.c.Invoke(ctx, amtSchema+class, method, in...)
	if err != nil {
		return output{}, d.reason(ctx, class, err)
	}
	d.accepted, d.lets = true, class
	out := output{method, i}
	status, err := out.uint32("ReturnValue")
	if err != nil {
		return output{}, err
	}
	if status != 0 {
		return out, fmt.Errorf("%s: %w", method, Status(status))
	}
	return out, nil
}

// get reads an instance. Fault and ErrLogOn come through unexplained: what a missing class means is the caller's.
func (d *device) get(ctx context.Context, resourceURI string, keys ...wsman.Selector) (wsman.Instance, error) {
	i, err := d.c.Get(ctx, resourceURI, keys...)
	var fault *wsman.Fault
	if err == nil || errors.As(err, &fault) && fault.Subcode != "" {
		d.accepted = true // a SOAP answer, even a fault, comes only after the log-on
	}
	return i, err
}

// reason adds to what a call of a storage class failed with what is known of its cause.
func (d *device) reason(ctx context.Context, class string, err error) error {
	var fault *wsman.Fault
	if errors.As(err, &fault) {
		if fault.Subcode != "" {
			d.accepted = true
			if fault.Subcode != "AccessDenied" {
				d.lets = class
			}
		}
		if status, ok := faultStatus(fault); ok {
			return fmt.Errorf("%w: %w", status, err)
		}
		switch {
		case fault.Subcode == "DestinationUnreachable":
			return fmt.Errorf("%w: %w", ErrNo3PDS, err)
		case fault.Subcode == "AccessDenied" || fault.HTTPStatus == http.StatusForbidden:
			return fmt.Errorf("%w: %w", noRealm(class), err)
		case fault.HTTPStatus == http.StatusServiceUnavailable:
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		return err
	}
	if !errors.Is(err, wsman.ErrLogOn) {
		return err
	}
	// A 401 may be about the user, or about this class only: the reference leaves open how firmware refuses a
	// missing realm. Where this class let the user in before, it is about the user. Else another class tells, at the
	// price of one more refused log-on: the second for the device.
	if d.lets == class {
		return AcceptedBefore(err)
	}
	before := d.accepted
	_, probe := d.get(ctx, amtSchema+generalSettings)
	switch {
	case probe == nil || errors.As(probe, &fault) && fault.Subcode != "":
		return fmt.Errorf("%w: %w", noRealm(class), err)
	case before && errors.Is(probe, wsman.ErrLogOn):
		return AcceptedBefore(err)
	}
	return err
}

// noRealm names the realm that a storage class needs.
func noRealm(class string) error {
	if class == adminClass {
		return fmt.Errorf("%w StorageAdmin", ErrNoRealm)
	}
	return fmt.Errorf("%w Storage", ErrNoRealm)
}

// answered reports whether err came from a device that took the call and said no, so that asking it other things
// makes sense.
func answered(err error) bool {
	var status Status
	var fault *wsman.Fault
	return errors.As(err, &status) || errors.As(err, &fault) || errors.Is(err, ErrNoRealm)
}

// isStatus reports whether err is one of these numbers.
func isStatus(err error, of ...Status) bool {
	var status Status
	if !errors.As(err, &status) {
		return false
	}
	return slices.Contains(of, status)
}

// text is one output as the device wrote it.
func (o output) text(name string) (string, error) {
	v, ok := o.Value(name)
	if !ok {
		return "", fmt.Errorf("%s: %w: no %s", o.method, wsman.ErrBadReply, name)
	}
	return v, nil
}

func (o output) uint32(name string) (uint32, error) {
	v, err := o.text(name)
	if err != nil {
		return 0, err
	}
	n, err := parseUint32(v)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s is %q", o.method, wsman.ErrBadReply, name, printable(v))
	}
	return n, nil
}

func (o output) bool(name string) (bool, error) {
	v, err := o.text(name)
	if err != nil {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("%s: %w: %s is %q", o.method, wsman.ErrBadReply, name, printable(v))
}

// handle is the handle of what was added; 0 where the device does not tell it.
func (o output) handle() uint32 {
	v, _ := o.Value("Handle")
	h, err := parseUint32(v)
	if err != nil {
		return 0
	}
	return h
}

// handles is an array of handles: absent, single or repeated.
func (o output) handles(name string) ([]uint32, error) {
	h, err := parseHandles(o.Values(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s: %w", o.method, wsman.ErrBadReply, name, err)
	}
	return h, nil
}

// maxHandles bounds a list of handles. The largest that the firmware's old interface could give is 32; each costs
// us a call.
const maxHandles = 256

// parseHandles reads the elements of an array of handles. An empty element, which is how AMT writes "nothing",
// counts as none; a handle given twice counts once.
func parseHandles(values []string) ([]uint32, error) {
	var handles []uint32
	seen := make(map[uint32]bool)
	for _, v := range values {
		if strings.TrimSpace(v) == "" {
			continue
		}
		h, err := parseUint32(v)
		if err != nil {
			return nil, fmt.Errorf("handle %q", printable(v))
		}
		if seen[h] {
			continue
		}
		if len(handles) == maxHandles {
			return nil, fmt.Errorf("more than %d handles", maxHandles)
		}
		seen[h] = true
		handles = append(handles, h)
	}
	return handles, nil
}

func parseUint32(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	return uint32(n), err
}

func formatUint32(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// printable is foreign text fit for a terminal, a log and an error: at most 64 characters, none of them a control,
// a line break or one that turns the direction of writing.
func printable(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == 64 {
			b.WriteString("...")
			break
		}
		if r == utf8.RuneError || !unicode.IsGraphic(r) || r != ' ' && unicode.IsSpace(r) {
			r = '?'
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// About is what a device says of itself.
type About struct {
	PlatformGUID      string // 32 upper-case hex digits, raw SMBIOS byte order; "" if not told
	Version           string // AMT version, e.g. 11.8.50; "" if not told
	Build             string // build number of the firmware, e.g. 3425; "" if not told or not asked: only Inspect asks
	ProvisioningState int    // 0 pre, 1 in, 2 post; -1 unknown, or not asked where it decides nothing
	ProvisioningMode  int    // 1 Enterprise, 2 Small Business, 4 Client Control; -1 like ProvisioningState
}

// question is a class that informs about the device, and what to take from the answer.
type question struct {
	uri  string
	keys []wsman.Selector
	take func(*About, wsman.Instance)
}

var (
	askVersion = software("AMT", func(a *About, v string) { a.Version = version(v) })
	askBuild   = software("Build Number", func(a *About, v string) {
		if v = version(v); !strings.Contains(v, ".") {
			a.Build = v
		}
	})
	askPlatform = question{cimSchema + "CIM_ComputerSystemPackage", nil, func(a *About, i wsman.Instance) {
		v, _ := i.Value("PlatformGUID")
		a.PlatformGUID = platformGUID(v)
	}}
	askSetup = question{amtSchema + "AMT_SetupAndConfigurationService", nil, func(a *About, i wsman.Instance) {
		a.ProvisioningState = small(i, "ProvisioningState")
		a.ProvisioningMode = small(i, "ProvisioningMode")
	}}
)

func software(instance string, take func(*About, string)) question {
	return question{cimSchema + "CIM_SoftwareIdentity", []wsman.Selector{{Name: "InstanceID", Value: instance}}, func(a *About, i wsman.Instance) {
		v, _ := i.Value("VersionString")
		take(a, v)
	}}
}

// describe asks these questions. A class the firmware lacks or does not show leaves its fields as they are; only a
// failure that would stop every later call is an error.
func (d *device) describe(ctx context.Context, about *About, questions ...question) error {
	var odd error // the first reply that was no WS-Management
	readable := false
	for _, q := range questions {
		if d.shy {
			return nil
		}
		before := d.accepted
		i, err := d.get(ctx, q.uri, q.keys...)
		var fault *wsman.Fault
		switch {
		case err == nil:
			readable = true
			q.take(about, i)
		case errors.As(err, &fault):
			readable = true
		case errors.Is(err, wsman.ErrLogOn) && before:
			// Let in elsewhere, refused here: another realm is missing, which costs us these fields only. The same
			// realm is behind all these classes, and each refusal may count towards a lock-out.
			d.shy = true
			return nil
		case errors.Is(err, wsman.ErrBadReply) || errors.Is(err, wsman.ErrTooLarge):
			if odd == nil {
				odd = err
			}
		default:
			return err
		}
	}
	if !readable {
		return odd
	}
	return nil
}

// small reads a small number, -1 if it is not there or none.
func small(i wsman.Instance, name string) int {
	v, ok := i.Value(name)
	if !ok {
		return -1
	}
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 8)
	if err != nil {
		return -1
	}
	return int(n)
}

// platformGUID normalises a PlatformGUID; "" if it is none.
func platformGUID(s string) string {
	s = strings.ToUpper(strings.TrimSpace(s))
	if len(s) != 32 || strings.Trim(s, "0123456789ABCDEF") != "" {
		return ""
	}
	return s
}

// version is s if it is a version, numbers with dots, else "".
func version(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 32 {
		return ""
	}
	for part := range strings.SplitSeq(s, ".") {
		if _, err := strconv.ParseUint(part, 10, 32); err != nil {
			return ""
		}
	}
	return s
}

// before6 reports whether the version is known and older than 6.0, where Small Business and Enterprise are modes
// that matter.
func (a About) before6() bool {
	major, _, _ := strings.Cut(a.Version, ".")
	n, err := strconv.ParseUint(major, 10, 32)
	return err == nil && n < 6
}

// unfit says why a device in this state cannot be initialized, nil if it can.
func (a About) unfit(tls bool) error {
	if a.ProvisioningState >= 0 && a.ProvisioningState != 2 {
		return fmt.Errorf("%w: provisioning state %d, want 2 (post)", ErrNotProvisioned, a.ProvisioningState)
	}
	if a.before6() && a.ProvisioningMode == 1 && !tls {
		return fmt.Errorf("%w: AMT %s, provisioning mode 1", ErrMode, a.Version)
	}
	return nil
}

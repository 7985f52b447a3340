// Package amtsim is simulated Intel AMT firmware with third-party data storage (3PDS): devices that speak HTTP and
// WS-Management on loopback addresses as the firmware does, keep flash memory, and misbehave on demand.
//
// # A witness
//
// It is written from Intel's documents and from captures, and shares no line with this project's client, so that a mistake
// in one cannot hide in the other. What no document and no capture says stands in inferred.go and nowhere else;
// docs/protocol/amtsim.md tells the three kinds apart.
//
// # Two interfaces
//
// A device has a network interface, as a managing server reaches it, and a local one, as the PC itself reaches it through
// LMS. Both lead to the same firmware, which knows a request's interface by the listener that took it.
//
// # In tests
//
//	d, err := amtsim.Start(amtsim.Options{})
//	defer d.Close()
//	client(d.NetworkURL(), "admin", amtsim.DefaultPassword)
//	d.SetFaults(amtsim.Faults{FullEACL: true})
//	d.Snapshot().Calls["WriteBlock"]
package amtsim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What a device is unless its Options say otherwise.
const (
	DefaultUser     = "admin"
	DefaultPassword = "P@ssw0rd!"
	DefaultRelease  = "11.8.50"
	defaultAddress  = "127.18.0.1:0"
)

var modes = []string{"smb", "enterprise", "client"}

// provisioningMode is AMT_SetupAndConfigurationService.ProvisioningMode (documented).
var provisioningMode = map[string]string{"enterprise": "1", "smb": "2", "client": "4"}

// Options say which machine a device is. The zero value is device 1 of seed 0, on free ports of a loopback address.
type Options struct {
	// Addresses to listen on, host:port with a loopback host; port 0 takes a free one, "none" none. Empty: a free port
	// for Network and Local, none for TLS.
	Network, Local, NetworkTLS, LocalTLS string

	Index int    // number of the device, from 1; 0 means 1
	Seed  uint64 // with Index decides UUID, serials, MAC, host name, digest realm and TLS key

	User, Password string // the administrator's account
	Release        string // x.y.z or x.y.z.build; see DefaultRelease
	Mode           string // "smb", "enterprise" or "client"; empty: what the release would have

	StateFile string        // keeps the flash across restarts of the process; empty: memory only
	Latency   time.Duration // before each reply
	Faults    Faults

	Now  func() time.Time              // the firmware's clock; nil: time.Now
	Logf func(format string, a ...any) // trouble that no reply can tell, such as a full disk; nil: nowhere
}

// Device is one simulated AMT. Its methods may be called at any time from any goroutine.
type Device struct {
	options Options
	now     func() time.Time
	logf    func(string, ...any)
	id      identity
	release release
	tlsOnce sync.Once
	tls     *tls.Config
	cert    []byte // DER
	pin     string

	mu     sync.Mutex // the firmware
	mem    memory
	admin  *account
	guard  guard
	faults Faults
	count  counters
	// Since the faults were set:
	admitted, sessionCalls, methodCalls, cutBytes int

	messages     uint64 // counter of MessageID
	lastContext  uint32
	enumerations []*enumeration
	args         []argument
	dirty        bool // mem differs from the state file
	restarting   bool // inside the call that restart_in_call names
	pending      pending

	listenMu  sync.Mutex // listeners, and everything that changes which are open
	listeners []*listener
	closed    bool
	down      chan struct{} // closed by Close

	connsMu sync.Mutex
	conns   map[*connection]struct{}
	over    bool // Close was called
	work    sync.WaitGroup
}

// memory is all that survives a restart: the flash with the 3PDS storage, accounts, and provisioning.
type memory struct {
	Seed        uint64     `json:"seed"`
	Device      int        `json:"device"`
	Generation  int        `json:"generation"` // how often it was provisioned; the digest realm follows it
	Realm       string     `json:"realm"`
	Provisioned bool       `json:"provisioned"`
	Mode        string     `json:"mode,omitempty"`
	Admin       *account   `json:"admin,omitempty"` // set by SetAdminAclEntryEx; else the account of Options
	Users       []*account `json:"users,omitempty"`
	LastUser    uint32     `json:"last_user"`
	Writes      uint32     `json:"writes"` // of the wear-out budget
	WornSince   time.Time  `json:"worn_since,omitzero"`
	Storage     flash      `json:"storage"`
}

var zeroTime time.Time

type counters struct {
	calls        map[string]uint64
	blockWrites  uint64
	bytesWritten uint64
	failedLogons uint64
	connections  uint64
}

// identity is what tells one PC from another. It follows from seed and device number alone.
type identity struct {
	uuid                      [16]byte // raw SMBIOS byte order
	host, domain, mac         string
	manufacturer, model       string
	systemSerial, boardSerial string
}

func newIdentity(seed uint64, index int) identity {
	id := identity{host: fmt.Sprintf("pc-%04d", index), domain: "example.test", manufacturer: "Example Computers", model: "Desk 8000"}
	copy(id.uuid[:], derive(seed, index, "uuid"))
	// A random UUID of RFC 9562; SMBIOS swaps the first three fields, so the version is in byte 7.
	id.uuid[7] = id.uuid[7]&0x0F | 0x40
	id.uuid[8] = id.uuid[8]&0x3F | 0x80
	m := derive(seed, index, "mac")
	id.mac = fmt.Sprintf("00-1b-21-%02x-%02x-%02x", m[0], m[1], m[2])
	id.systemSerial = "PC" + strings.ToUpper(hex.EncodeToString(derive(seed, index, "system")[:4]))
	id.boardSerial = "BD" + strings.ToUpper(hex.EncodeToString(derive(seed, index, "board")[:5]))
	return id
}

func (id *identity) platformGUID() string { return strings.ToUpper(hex.EncodeToString(id.uuid[:])) }

// derive gives 32 bytes for a purpose.
func derive(seed uint64, index int, purpose string) []byte {
	sum := sha256.Sum256([]byte("amtsim " + strconv.FormatUint(seed, 10) + " " + strconv.Itoa(index) + " " + purpose))
	return sum[:]
}

// release is a firmware version.
type release struct {
	parts  []int // 3 or 4
	server string
}

// parseRelease reads x.y.z or x.y.z.build.
func parseRelease(s string) (release, error) {
	var r release
	for _, part := range strings.Split(s, ".") {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || strconv.FormatUint(n, 10) != part {
			return r, fmt.Errorf("release %q is not of the form 11.8.50 or 11.8.50.3425", s)
		}
		r.parts = append(r.parts, int(n))
	}
	if len(r.parts) != 3 && len(r.parts) != 4 {
		return r, fmt.Errorf("release %q is not of the form 11.8.50 or 11.8.50.3425", s)
	}
	r.server = "Intel(R) Active Management Technology " + s
	return r, nil
}

func (r *release) number() string { return fmt.Sprintf("%d.%d.%d", r.parts[0], r.parts[1], r.parts[2]) }

func (r *release) buildNumber() string {
	if len(r.parts) == 4 {
		return strconv.Itoa(r.parts[3])
	}
	return "3425"
}

func (r *release) atLeast(major, minor int) bool {
	return r.parts[0] > major || r.parts[0] == major && r.parts[1] >= minor
}

// Start makes a device, loads its state file if there is one, and listens.
func Start(o Options) (*Device, error) {
	d := &Device{options: o, now: o.Now, logf: o.Logf, down: make(chan struct{}), conns: map[*connection]struct{}{}}
	o = Options{} // the filled-in ones are d.options
	setDefault(&d.options.Network, defaultAddress)
	setDefault(&d.options.Local, defaultAddress)
	setDefault(&d.options.NetworkTLS, "none")
	setDefault(&d.options.LocalTLS, "none")
	setDefault(&d.options.User, DefaultUser)
	setDefault(&d.options.Password, DefaultPassword)
	setDefault(&d.options.Release, DefaultRelease)
	d.options.Index = max(d.options.Index, 1)
	if d.now == nil {
		d.now = time.Now
	}
	if d.logf == nil {
		d.logf = func(string, ...any) {}
	}
	var err error
	if d.release, err = parseRelease(d.options.Release); err != nil {
		return nil, err
	}
	if m := d.options.Mode; m != "" && !slices.Contains(modes, m) {
		return nil, fmt.Errorf("mode %q is none of %s", m, strings.Join(modes, ", "))
	}
	d.count.calls = map[string]uint64{}
	d.id = newIdentity(d.options.Seed, d.options.Index)
	d.guard.reset()
	if err := d.load(); err != nil {
		return nil, err
	}
	d.setAdmin()
	faults := d.options.Faults
	if err := faults.check(); err != nil {
		return nil, err
	}
	for _, l := range []*listener{
		{side: networkSide, addr: d.options.Network},
		{side: localSide, addr: d.options.Local},
		{side: networkSide, addr: d.options.NetworkTLS, tls: true},
		{side: localSide, addr: d.options.LocalTLS, tls: true},
	} {
		if l.addr == "none" {
			continue
		}
		if err := l.listen(); err != nil {
			d.Close()
			return nil, err
		}
		d.listeners = append(d.listeners, l)
	}
	if err := d.SetFaults(faults); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func setDefault(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

// Close ends the device. Its state file stays.
func (d *Device) Close() error {
	d.listenMu.Lock()
	if d.closed {
		d.listenMu.Unlock()
		return nil
	}
	d.closed = true
	close(d.down)
	var errs []error
	for _, l := range d.listeners {
		errs = append(errs, d.change(l, listenClosed))
	}
	d.listenMu.Unlock()
	d.connsMu.Lock()
	d.over = true
	d.connsMu.Unlock()
	d.resetConnections(func(*connection) bool { return true })
	d.work.Wait()
	return errors.Join(errs...)
}

// NetworkURL is the base URL of the network interface without TLS, "" if it has no listener.
func (d *Device) NetworkURL() string { return d.url(networkSide, false) }

// LocalURL is the base URL of the local interface without TLS.
func (d *Device) LocalURL() string { return d.url(localSide, false) }

// NetworkTLSURL is the base URL of the network interface with TLS.
func (d *Device) NetworkTLSURL() string { return d.url(networkSide, true) }

// LocalTLSURL is the base URL of the local interface with TLS.
func (d *Device) LocalTLSURL() string { return d.url(localSide, true) }

func (d *Device) url(s side, withTLS bool) string {
	d.listenMu.Lock()
	defer d.listenMu.Unlock()
	for _, l := range d.listeners {
		if l.side == s && l.tls == withTLS {
			if withTLS {
				return "https://" + l.addr
			}
			return "http://" + l.addr
		}
	}
	return ""
}

// SetFaults replaces all fault switches, and counts "after n" from now.
func (d *Device) SetFaults(f Faults) error {
	if err := f.check(); err != nil {
		return err
	}
	d.mu.Lock()
	d.dropFillers()
	d.faults = f
	d.admitted, d.sessionCalls, d.methodCalls, d.cutBytes = 0, 0, 0, 0
	d.setAdmin()
	s := &d.mem.Storage
	if name := f.RemoveEnterprise; name != "" {
		s.Enterprises = slices.DeleteFunc(s.Enterprises, func(e *enterprise) bool { return e.Name == name })
		d.faults.RemoveEnterprise = ""
		d.dirty = true
	}
	if f.FullEACL {
		for i := 1; len(s.Enterprises) < maxEACL; i++ {
			if name := fmt.Sprintf("Other Enterprise %d", i); s.enterprise(name) == nil {
				s.addEnterprise(name).filler = true
			}
		}
	}
	if f.FullFPACL {
		for i := 1; s.partners() < maxFPACL; i++ {
			if name := fmt.Sprintf("Other Application %d", i); s.allocationOf("Other Vendor", name) == nil {
				s.addPartner("Other Vendor", name, allocationUnit).filler = true
			}
		}
	}
	err := d.save()
	d.mu.Unlock()
	d.resetConnections(func(h *connection) bool { return h.hung })
	return errors.Join(err, d.apply())
}

// dropFillers takes away what full_eacl and full_fpacl put there, unless an application has come to need it.
func (d *Device) dropFillers() {
	s := &d.mem.Storage
	s.Enterprises = slices.DeleteFunc(s.Enterprises, func(e *enterprise) bool {
		return e.filler && !slices.ContainsFunc(s.Applications, func(a *application) bool { return a.Enterprise == e.Name })
	})
	s.Allocations = slices.DeleteFunc(s.Allocations, func(a *allocation) bool { return a.filler && !s.registered(a.Vendor, a.Application) })
}

// Faults are the switches as they stand; those that act once are gone when they have.
func (d *Device) Faults() Faults {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.faults
}

// Restart is a reset of the firmware: connections, sessions, locks, nonces, lockouts and enumerations are gone, handles
// and data stay.
func (d *Device) Restart() {
	d.mu.Lock()
	d.mem.Storage.endSessions()
	d.enumerations = nil
	d.guard.reset()
	for _, u := range append([]*account{d.admin}, d.mem.Users...) {
		u.failures, u.lastLock, u.lockedUntil, u.lastFailure = 0, 0, zeroTime, zeroTime
	}
	d.mu.Unlock()
	d.resetConnections(func(*connection) bool { return true })
}

// Unprovision is a full unprovision: storage, accounts and mode are cleared, and the network side no longer listens.
func (d *Device) Unprovision() error {
	d.mu.Lock()
	d.mem.Provisioned = false
	d.clearMemory()
	err := d.save()
	d.mu.Unlock()
	d.Restart()
	return errors.Join(err, d.apply())
}

// Provision sets the device up again, with a new digest realm and the account of its Options. mode may be empty.
func (d *Device) Provision(mode string) error {
	if mode != "" && !slices.Contains(modes, mode) {
		return fmt.Errorf("mode %q is none of %s", mode, strings.Join(modes, ", "))
	}
	d.mu.Lock()
	d.clearMemory()
	d.mem.Provisioned, d.mem.Mode = true, mode
	err := d.save()
	d.mu.Unlock()
	d.Restart()
	return errors.Join(err, d.apply())
}

func (d *Device) clearMemory() {
	d.mem.Storage = newFlash()
	d.mem.Users, d.mem.LastUser, d.mem.Admin, d.mem.Mode = nil, 0, nil, ""
	d.mem.Generation++
	d.setRealm()
	d.setAdmin()
	d.dirty = true
}

func (d *Device) setRealm() {
	purpose := "realm " + strconv.Itoa(d.mem.Generation)
	d.mem.Realm = "Digest:" + strings.ToUpper(hex.EncodeToString(derive(d.options.Seed, d.options.Index, purpose)[:16]))
}

// setAdmin makes the administrator's account from memory, Options and the password switch.
func (d *Device) setAdmin() {
	password := d.options.Password
	if d.faults.Password != "" {
		password = d.faults.Password
	}
	admin := &account{Name: d.options.User, Access: AccessAny, Realms: []uint32{realmAdministration}, Enabled: true}
	if d.mem.Admin != nil && d.faults.Password == "" {
		*admin = *d.mem.Admin
	} else {
		if d.mem.Admin != nil {
			admin.Name = d.mem.Admin.Name
		}
		admin.setPassword(d.mem.Realm, password)
	}
	if d.admin != nil {
		admin.failures, admin.lastLock, admin.lockedUntil, admin.lastFailure = d.admin.failures, d.admin.lastLock, d.admin.lockedUntil, d.admin.lastFailure
	}
	d.admin = admin
}

func (d *Device) provisioned() bool { return d.mem.Provisioned && !d.faults.Unprovisioned }

func (d *Device) mode() string {
	for _, m := range []string{d.faults.Mode, d.mem.Mode, d.options.Mode} {
		if m != "" {
			return m
		}
	}
	if !d.release.atLeast(6, 0) {
		return "smb"
	}
	return "enterprise"
}

// User is a digest user of a device.
type User struct {
	Handle   uint32   `json:"handle,omitempty"` // given by the firmware
	Name     string   `json:"name"`
	Password string   `json:"password,omitempty"` // only on the way in
	Access   int      `json:"access_permission"`  // AccessLocal, AccessNetwork or AccessAny
	Realms   []uint32 `json:"realms"`             // 3 all, 6 storage, 8 storage administration, 13 general information, ...
}

// AddUser adds a digest user, or replaces the one of that name.
func (d *Device) AddUser(u User) error {
	if !legalUser(u.Name) || u.Access < AccessLocal || u.Access > AccessAny {
		return fmt.Errorf("user %q: the name or the access permission is not allowed", u.Name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if u.Name == d.admin.Name {
		return fmt.Errorf("user %q is the administrator", u.Name)
	}
	a := d.account(u.Name)
	if a == nil {
		if len(d.mem.Users) >= maxUsers {
			return fmt.Errorf("user %q: there are %d users already", u.Name, maxUsers)
		}
		d.mem.LastUser++
		a = &account{Handle: d.mem.LastUser, Name: u.Name}
		d.mem.Users = append(d.mem.Users, a)
	}
	a.Access, a.Realms, a.Enabled = u.Access, slices.Clone(u.Realms), true
	a.setPassword(d.mem.Realm, u.Password)
	d.dirty = true
	return d.save()
}

// RemoveUser removes a digest user.
func (d *Device) RemoveUser(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.mem.Users)
	d.mem.Users = slices.DeleteFunc(d.mem.Users, func(u *account) bool { return u.Name == name })
	if len(d.mem.Users) == n {
		return fmt.Errorf("there is no user %q", name)
	}
	d.dirty = true
	return d.save()
}

// WriteMemory changes a block behind the firmware's back: a worn cell, or a cosmic ray. It counts as no write.
func (d *Device) WriteMemory(blockHandle, offset uint32, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.mem.Storage.block(blockHandle)
	if b == nil {
		return fmt.Errorf("there is no block %d", blockHandle)
	}
	if offset > b.Size || uint64(len(data)) > uint64(b.Size-offset) {
		return fmt.Errorf("%d bytes at %d do not fit into block %d of %d bytes", len(data), offset, blockHandle, b.Size)
	}
	b.write(offset, data)
	d.dirty = true
	return d.save()
}

// load reads the state file, or makes a fresh memory.
func (d *Device) load() error {
	d.mem = memory{Seed: d.options.Seed, Device: d.options.Index, Provisioned: true, Storage: newFlash()}
	d.setRealm()
	if d.options.StateFile == "" {
		return nil
	}
	b, err := os.ReadFile(d.options.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		d.dirty = true
		return d.save()
	}
	if err != nil {
		return err
	}
	d.mem = memory{}
	if err := strictJSON(b, &d.mem); err != nil {
		return fmt.Errorf("state file %s: %w; remove it to start with fresh memory", d.options.StateFile, err)
	}
	if d.mem.Seed != d.options.Seed || d.mem.Device != d.options.Index {
		return fmt.Errorf("state file %s is of device %d with seed %d, not of device %d with seed %d",
			d.options.StateFile, d.mem.Device, d.mem.Seed, d.options.Index, d.options.Seed)
	}
	if err := d.mem.Storage.check(); err != nil {
		return fmt.Errorf("state file %s: %w; remove it to start with fresh memory", d.options.StateFile, err)
	}
	return nil
}

// check refuses a state that the firmware could not have left.
func (f *flash) check() error {
	for _, b := range f.Blocks {
		if f.application(b.Owner) == nil || b.Size == 0 || b.Size > totalStorage || b.Data != nil && len(b.Data) != int(b.Size) {
			return fmt.Errorf("block %d makes no sense", b.Handle)
		}
	}
	if f.MaxPartner > totalStorage {
		return errors.New("the storage areas make no sense")
	}
	return nil
}

// save makes the state file what the memory is, before the reply that tells of the change: a process that is killed
// afterwards has kept it. The file is replaced as a whole. There is no fsync: a simulator need not outlive the machine.
func (d *Device) save() error {
	dirty := d.dirty
	d.dirty = false
	if !dirty || d.options.StateFile == "" {
		return nil
	}
	kept := d.mem
	kept.Storage.Enterprises = slices.DeleteFunc(slices.Clone(kept.Storage.Enterprises), func(e *enterprise) bool { return e.filler })
	kept.Storage.Allocations = slices.DeleteFunc(slices.Clone(kept.Storage.Allocations), func(a *allocation) bool { return a.filler })
	b, err := json.Marshal(&kept)
	if err != nil {
		return err
	}
	temporary := d.options.StateFile + ".new"
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, d.options.StateFile)
}

func (d *Device) newSession() string {
	var b [sessionHandles]byte
	rand.Read(b[:])
	return strings.ToUpper(hex.EncodeToString(b[:]))
}

func (d *Device) logError(err error) {
	if err != nil {
		d.logf("device %d: %v", d.options.Index, err)
	}
}

// latency is the wait before a reply, under the lock.
func (d *Device) latency(s side) time.Duration {
	if d.faults.LatencyMS > 0 && d.faults.on(s) {
		return time.Duration(d.faults.LatencyMS) * time.Millisecond
	}
	return d.options.Latency
}

func (d *Device) sleep(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.down:
		return false
	}
}

// TLS.

// CertificatePEM is the self-signed certificate of the TLS listeners. It follows from seed and device number, so it stays
// the same across restarts.
func (d *Device) CertificatePEM() []byte {
	d.tlsConfig()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.cert})
}

// SPKIPin is "sha256:" and the base64 SHA-256 of the certificate's public key.
func (d *Device) SPKIPin() string {
	d.tlsConfig()
	return d.pin
}

// fixedSigner signs as RFC 6979 has it, so that the same key makes the same certificate.
type fixedSigner struct{ *ecdsa.PrivateKey }

func (s fixedSigner) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, o)
}

func (d *Device) tlsConfig() *tls.Config {
	d.tlsOnce.Do(func() {
		raw := derive(d.options.Seed, d.options.Index, "tls key")
		raw[0] &= 0x7F // below the order of P-256
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
		if err != nil {
			panic(err) // only a scalar of zero or beyond the order can fail
		}
		template := &x509.Certificate{
			SerialNumber:          big.NewInt(int64(d.options.Index)),
			Subject:               pkix.Name{CommonName: d.id.host + "." + d.id.domain},
			NotBefore:             time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
			NotAfter:              time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
			KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			BasicConstraintsValid: true,
			IsCA:                  true,
			DNSNames:              []string{d.id.host, d.id.host + "." + d.id.domain},
		}
		for _, addr := range []string{d.options.Network, d.options.Local, d.options.NetworkTLS, d.options.LocalTLS} {
			if ip := net.ParseIP(hostOf(addr)); ip != nil && !slices.ContainsFunc(template.IPAddresses, ip.Equal) {
				template.IPAddresses = append(template.IPAddresses, ip)
			}
		}
		if d.cert, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), fixedSigner{key}); err != nil {
			panic(err) // nothing in the template comes from outside
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(spki)
		d.pin = "sha256:" + base64.StdEncoding.EncodeToString(sum[:])
		d.tls = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{d.cert}, PrivateKey: key}}}
	})
	return d.tls
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// Connections.

// enter notes a connection; false means that it is not wanted.
func (d *Device) enter(h *connection) bool {
	d.mu.Lock()
	d.count.connections++
	d.mu.Unlock()
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	if d.over || len(d.conns) >= maxConnections {
		return false
	}
	d.conns[h] = struct{}{}
	return true
}

func (d *Device) leave(h *connection) {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	delete(d.conns, h)
}

func (d *Device) markHung(h *connection) bool {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	h.hung = true
	return !d.over
}

// resetConnections breaks connections off, as a machine does that loses its state.
func (d *Device) resetConnections(which func(*connection) bool) {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	for h := range d.conns {
		if which(h) {
			h.raw.SetLinger(0)
			h.raw.Close()
		}
	}
}

// Listeners.

type listenState int

const (
	listenClosed listenState = iota
	listenOpen
	listenSilent
)

type listener struct {
	side    side
	tls     bool
	addr    string // with the port that was found, once it listened
	ln      *net.TCPListener
	state   listenState
	done    chan struct{} // closed when the accepting goroutine has ended
	fillers []net.Conn
}

// listen opens the socket. A port that was once ours may be in use for a moment.
func (l *listener) listen() error {
	if ip := net.ParseIP(hostOf(l.addr)); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s is no loopback address: simulated firmware listens on no other", l.addr)
	}
	var err error
	for try := range 20 {
		if try > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		var ln net.Listener
		if ln, err = net.Listen("tcp", l.addr); err == nil {
			l.ln = ln.(*net.TCPListener)
			l.addr = ln.Addr().String()
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || l.done == nil { // the first time, in use means somebody else's
			break
		}
	}
	return err
}

// apply opens, closes and silences listeners as the switches and the state of provisioning want it.
func (d *Device) apply() error {
	d.listenMu.Lock()
	defer d.listenMu.Unlock()
	if d.closed {
		return nil
	}
	d.mu.Lock()
	f, provisioned, mode := d.faults, d.provisioned(), d.mode()
	d.mu.Unlock()
	var errs []error
	for _, l := range d.listeners {
		want := listenOpen
		switch {
		case f.Refuse && f.on(l.side),
			l.side == networkSide && !provisioned,
			l.tls && mode == "smb",
			!l.tls && d.tlsOnly(l.side) && mode != "smb":
			want = listenClosed
		case f.Silent && f.on(l.side):
			want = listenSilent
		}
		errs = append(errs, d.change(l, want))
	}
	return errors.Join(errs...)
}

// tlsOnly reports whether a side of this release has no port without TLS. A device without a TLS listener keeps the
// plain one, whatever its release.
func (d *Device) tlsOnly(s side) bool {
	has := slices.ContainsFunc(d.listeners, func(l *listener) bool { return l.tls && l.side == s })
	return has && (s == networkSide && d.release.atLeast(16, 1) || d.release.atLeast(19, 0))
}

// change brings a listener into a state, under listenMu.
func (d *Device) change(l *listener, want listenState) error {
	if l.state == want && (want == listenClosed) == (l.ln == nil) {
		return nil
	}
	if l.state == listenOpen && l.done != nil { // stop accepting
		l.ln.SetDeadline(time.Unix(1, 0))
		<-l.done
		if want != listenClosed {
			l.ln.SetDeadline(zeroTime)
		}
	}
	fillers := l.fillers
	l.fillers = nil
	switch want {
	case listenClosed:
		l.state = listenClosed
		for _, c := range fillers {
			c.Close()
		}
		var err error
		if l.ln != nil {
			err = l.ln.Close()
			l.ln = nil
		}
		if l.done == nil {
			l.done = make(chan struct{})
			close(l.done)
		}
		d.resetSide(l)
		return err
	case listenSilent:
		if l.ln == nil {
			if err := l.listen(); err != nil {
				return err
			}
		}
		d.resetSide(l)
		var err error
		l.fillers, err = silence(l.ln)
		l.state = listenSilent
		return err
	}
	if l.ln == nil {
		if err := l.listen(); err != nil {
			return err
		}
	}
	if l.state == listenSilent {
		if err := wake(l.ln, fillers); err != nil {
			return err
		}
	}
	l.state = listenOpen
	l.done = make(chan struct{})
	go d.accept(l.ln, l.side, l.tls, l.done)
	return nil
}

func (d *Device) resetSide(l *listener) {
	d.resetConnections(func(h *connection) bool {
		_, withTLS := h.c.(*tls.Conn)
		return h.from == l.side && withTLS == l.tls
	})
}

// accept takes connections until the listener is stopped.
func (d *Device) accept(ln *net.TCPListener, s side, withTLS bool, done chan struct{}) {
	defer close(done)
	for {
		c, err := ln.AcceptTCP()
		switch {
		case err == nil:
			// Noted before the next is accepted: once this goroutine has ended, resetConnections finds them all.
			if h := d.newConnection(c, s, withTLS); d.enter(h) {
				d.work.Go(h.serve)
			} else {
				c.SetLinger(0)
				c.Close()
			}
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		default: // no file descriptor free, or a connection that is gone already
			if !d.sleep(10 * time.Millisecond) {
				return
			}
		}
	}
}

// stateFile is where a device of a fleet keeps its memory.
func stateFile(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("device-%05d.json", index))
}

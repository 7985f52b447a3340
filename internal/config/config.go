// Package config reads the TOML files of the programs into structs, strictly: an unknown key, a wrong type or an
// impossible value is an error with file, line and what to do. docs/protocol/config.md states every key.
//
// # Rules for all files
//
// Relative paths are taken from the file's folder. What is not written has the default that the field's comment
// names. Nothing is read but the file itself, until [AMT.Password] is called.
package config

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AMT is the [amt] table, the same in every program's file but for url.
//
// AMT linkage is in use where the table is present, even an empty one.
type AMT struct {
	InUse        bool   // the file has an [amt] table
	User         string `toml:"user"`          // the AMT management user; default "admin"
	PasswordFile string `toml:"password_file"` // or PasswordEnv, not both; see Password
	PasswordEnv  string `toml:"password_env"`
	Port         string `toml:"port,integer"` // "auto" (default) or "1" to "65535"; never "auto" with TLS
	TLS          bool   `toml:"tls"`          // TLS on the numbered port; with port "auto" in the file: 16993 only
	TLSCA        string `toml:"tls_ca"`       // file with the certificates (PEM) that vouch for the devices
	TLSPin       string `toml:"tls_pin"`      // or the device's public key: "sha256:" and 64 lower-case hex digits
	Enterprise   string `toml:"enterprise"`   // default "samehost"
	URL          string `toml:"url"`          // client only: LMS (the default where AMT is in use), or a simulated PC

	// FromManager: settings that came from the manager take the place of what stands here (With). Default: in a client's
	// file true where it names a password, which is the one to begin with; in the others where they name none.
	FromManager bool `toml:"from_manager"`

	Given *Given // what With put in place of the table; nil: nothing
}

// Dcmamtin is the [dcmamtin] table.
type Dcmamtin struct {
	Resolve string `toml:"resolve"` // "dns" (default): host name, then file address; "file": the other way round
}

// Hardware is the [hardware] table of a client.
type Hardware struct {
	File string `toml:"file"` // facts from this file instead of this machine's (docs/protocol/hardware.md)
}

// Client is samehost-client's file.
type Client struct {
	DataDir            string        `toml:"data_dir"`             // required
	HigherSystem       string        `toml:"higher_system"`        // https://HOST[:PORT]; "" until there is one
	CAFile             string        `toml:"ca_file"`              // or CAPin, not both; neither: the system's CAs
	CAPin              string        `toml:"ca_pin"`               // "sha256:" and 64 lower-case hex digits
	EnrolmentTokenFile string        `toml:"enrolment_token_file"` //
	RestoreWait        time.Duration `toml:"restore_wait"`         // written "2m", the default; 0 to 1h
	AMT                AMT           `toml:"amt"`
	Hardware           Hardware      `toml:"hardware"`
}

// Manager is samehost-manager's file. dcmamtin reads it (or the relay's) too, with LoadForDcmamtin.
type Manager struct {
	DataDir  string   `toml:"data_dir"` // required
	Listen   string   `toml:"listen"`   // HOST:PORT; default 127.0.0.1:8740
	Names    []string `toml:"names"`    // what clients call this machine, each good by CheckName; for the certificate
	Database string   `toml:"database"` // "sqlite:/full/path" (default samehost.db in DataDir) or "postgres://..."
	AMT      AMT      `toml:"amt"`
	Dcmamtin Dcmamtin `toml:"dcmamtin"`

	Maintenance Maintenance `toml:"maintenance"`
}

// Maintenance is the [maintenance] table of a manager.
type Maintenance struct {
	ArchiveAfterDays int `toml:"archive_after_days"` // 0 (default): never; to 36500
}

// Relay is samehost-relay's file: a client of its higher system, and a higher system itself.
type Relay struct {
	DataDir            string   `toml:"data_dir"`             // required
	Listen             string   `toml:"listen"`               // HOST:PORT; default 127.0.0.1:8740
	HigherSystem       string   `toml:"higher_system"`        // https://HOST[:PORT]; required
	CAFile             string   `toml:"ca_file"`              // as in Client
	CAPin              string   `toml:"ca_pin"`               //
	EnrolmentTokenFile string   `toml:"enrolment_token_file"` // made with `samehost-manager token create --relay`
	Names              []string `toml:"names"`                // what clients call this machine, each good by CheckName; none: all that its token allows
	SpoolMB            int      `toml:"spool_mb"`             // that kept reports may take on the disk; default 1024; 16 to 1048576
	AMT                AMT      `toml:"amt"`
	Dcmamtin           Dcmamtin `toml:"dcmamtin"`
	Hardware           Hardware `toml:"hardware"`
}

// ForDcmamtin is what dcmamtin needs of a manager's or a relay's file.
type ForDcmamtin struct {
	Path     string // of the file read
	DataDir  string // "": log and journal go to the current folder
	AMT      AMT
	Dcmamtin Dcmamtin
}

const (
	defaultListen = "127.0.0.1:8740"
	defaultLMS    = "http://127.0.0.1:16992" // where Intel's LMS hands the PC's own firmware through

	maxFile     = 256 << 10 // no file of ours comes near; bounds what a wrong path can cost
	maxPassword = 1024      // bytes; AMT itself stops at 32
	maxName     = 64        // characters of an enterprise name in 3PDS (Intel: storage registration, CFG_MAX)
	maxWait     = time.Hour // installation waits that long at most for AMT to answer
	maxDays     = 36500     // a century

	defaultSpoolMB = 1024 // three weeks of two hundred PCs that report four times an hour
	minSpoolMB     = 16
	maxSpoolMB     = 1 << 20
	maxNames       = 100 // more would make a certificate that is a burden in every handshake
)

// DefaultPath is where the program ("manager", "relay" or "client") looks without --config:
// /etc/samehost/PROGRAM.toml, on Windows %ProgramData%\samehost\PROGRAM.toml.
func DefaultPath(program string) string {
	if runtime.GOOS != "windows" {
		return filepath.Join("/etc/samehost", program+".toml")
	}
	base := os.Getenv("ProgramData")
	if base == "" {
		base = `C:\ProgramData`
	}
	return filepath.Join(base, "samehost", program+".toml")
}

// FindForDcmamtin is the manager's file of this machine, else the relay's. If there is neither the error wraps
// fs.ErrNotExist and names both.
func FindForDcmamtin() (path string, err error) {
	return firstThatExists(DefaultPath("manager"), DefaultPath("relay"))
}

func firstThatExists(paths ...string) (string, error) {
	for _, p := range paths {
		_, err := os.Stat(p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err // there, but out of reach: do not go on to another program's file
		}
	}
	return "", noneExists(strings.Join(paths, ", "))
}

// noneExists are the paths of which none exists; it is an fs.ErrNotExist.
type noneExists string

func (e noneExists) Error() string {
	return fmt.Sprintf("no configuration: none of %s exists; write one or name it with --config", string(e))
}

func (noneExists) Is(target error) bool { return target == fs.ErrNotExist }

// LoadClient reads samehost-client's file. A file that is not there is an error that wraps fs.ErrNotExist.
func LoadClient(path string) (Client, error) {
	c := Client{RestoreWait: 2 * time.Minute}
	d, err := load(path, &c)
	if err != nil {
		return Client{}, err
	}
	d.required("data_dir", &c.DataDir)
	d.higherSystem(c.HigherSystem)
	d.trust("", "ca_file", &c.CAFile, "ca_pin", &c.CAPin)
	d.resolve(&c.EnrolmentTokenFile)
	d.resolve(&c.Hardware.File)
	if c.RestoreWait < 0 || c.RestoreWait > maxWait {
		d.fail("restore_wait", "must be between 0s and %s", maxWait)
	}
	d.amt(&c.AMT, true)
	if d.err != nil {
		return Client{}, d.err
	}
	return c, nil
}

// LoadManager reads samehost-manager's file. A file that is not there is an error that wraps fs.ErrNotExist.
func LoadManager(path string) (Manager, error) {
	var m Manager
	d, err := load(path, &m)
	if err != nil {
		return Manager{}, err
	}
	d.required("data_dir", &m.DataDir)
	d.listen(&m.Listen)
	d.names(m.Names)
	d.database(&m.Database, m.DataDir)
	d.amt(&m.AMT, false)
	d.dcmamtin(&m.Dcmamtin)
	if n := m.Maintenance.ArchiveAfterDays; n < 0 || n > maxDays {
		d.fail("maintenance.archive_after_days", "must be a number of days from 1 to %d, or 0 for never", maxDays)
	}
	if d.err != nil {
		return Manager{}, d.err
	}
	return m, nil
}

// LoadRelay reads samehost-relay's file. A file that is not there is an error that wraps fs.ErrNotExist.
func LoadRelay(path string) (Relay, error) {
	var r Relay
	d, err := load(path, &r)
	if err != nil {
		return Relay{}, err
	}
	d.required("data_dir", &r.DataDir)
	d.listen(&r.Listen)
	if r.HigherSystem == "" {
		d.fail("higher_system", `is missing; write the manager's or the next relay's address, as "https://manager.example:8740"`)
	}
	d.higherSystem(r.HigherSystem)
	d.trust("", "ca_file", &r.CAFile, "ca_pin", &r.CAPin)
	d.resolve(&r.EnrolmentTokenFile)
	d.resolve(&r.Hardware.File)
	d.names(r.Names)
	switch {
	case r.SpoolMB == 0 && !d.has("spool_mb"):
		r.SpoolMB = defaultSpoolMB
	case r.SpoolMB < minSpoolMB || r.SpoolMB > maxSpoolMB:
		d.fail("spool_mb", "must be a number of megabytes from %d to %d", minSpoolMB, maxSpoolMB)
	}
	d.amt(&r.AMT, false)
	d.dcmamtin(&r.Dcmamtin)
	if d.err != nil {
		return Relay{}, d.err
	}
	return r, nil
}

// LoadForDcmamtin reads a manager's or a relay's file: a key must be known to one of the two, and only data_dir,
// [amt] and [dcmamtin] are judged further. A file that is not there is an error that wraps fs.ErrNotExist.
func LoadForDcmamtin(path string) (ForDcmamtin, error) {
	var m Manager
	d, err := load(path, &m, &Relay{})
	if err != nil {
		return ForDcmamtin{}, err
	}
	d.resolve(&m.DataDir)
	d.amt(&m.AMT, false)
	d.dcmamtin(&m.Dcmamtin)
	if d.err != nil {
		return ForDcmamtin{}, d.err
	}
	return ForDcmamtin{Path: path, DataDir: m.DataDir, AMT: m.AMT, Dcmamtin: m.Dcmamtin}, nil
}

// The checks below note the first impossible value in d.err, put defaults in place and resolve paths.

func (d *document) required(key string, path *string) {
	if *path == "" {
		d.fail(key, "is missing; name the folder that holds this program's data")
	}
	d.resolve(path)
}

// resolve takes a path from the file's folder; "" stays.
func (d *document) resolve(p *string) {
	if *p != "" {
		*p = joined(d.dir, *p)
	}
}

func joined(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

func (d *document) listen(addr *string) {
	if *addr == "" {
		*addr = defaultListen
	}
	if err := CheckListen(*addr); err != nil {
		d.fail("listen", "%v", err)
	}
}

// CheckListen accepts HOST:PORT as listen has it. The error does not name the key.
func CheckListen(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || strings.ContainsAny(host, " /") {
		return fmt.Errorf(`must be ADDRESS:PORT, as %q`, defaultListen)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return errors.New("has no port number from 0 to 65535")
	}
	return nil
}

func (d *document) names(names []string) {
	if len(names) > maxNames {
		d.fail("names", "has more than %d entries", maxNames)
	}
	for _, n := range names {
		if err := CheckName(n); err != nil {
			d.fail("names", "holds %s", err)
		}
	}
}

// CheckName accepts what a server's certificate can be issued for: a DNS name of letters, digits, hyphens and
// underscores, written out (RFC 1123 2.1; underscores are in use), or an IP address that a machine can have. The
// error begins with the name, quoted, and says what to write instead.
func CheckName(name string) error {
	shown := strconv.QuoteToASCII(name)
	if len(name) > maxKeyShown {
		shown = strconv.QuoteToASCII(name[:maxKeyShown]) + "..."
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		switch {
		case ip.IsUnspecified() || ip.IsMulticast():
			return fmt.Errorf("%s, an address that no machine has; write one that clients connect to", shown)
		case ip.Zone() != "":
			return fmt.Errorf("%s, an address with a zone; write it without", shown)
		}
		return nil
	}
	labels := strings.Split(name, ".")
	last := labels[len(labels)-1]
	switch {
	case strings.ContainsAny(name, ":/[]"):
		return fmt.Errorf("%s, which is no DNS name or IP address; write it without https://, brackets and port", shown)
	case strings.Contains(name, "*"):
		return fmt.Errorf("%s, a pattern; write each name out", shown)
	case strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }):
		return fmt.Errorf("%s, with characters that DNS does not have; write the form that begins with xn--", shown)
	case len(name) > 253 || last == "" || strings.Trim(last, "0123456789") == "" || slices.ContainsFunc(labels, notLabel):
		return fmt.Errorf(`%s, which is no DNS name or IP address; write it as "manager.example" or "192.0.2.7"`, shown)
	}
	return nil
}

// notLabel says whether s cannot be one part of a DNS name: 1 to 63 characters, no hyphen at either end.
func notLabel(s string) bool {
	const in = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s == "" || len(s) > 63 || strings.TrimLeft(s, in) != "" || s[0] == '-' || s[len(s)-1] == '-'
}

// higherSystem accepts https://HOST[:PORT] only: check-ins are signed, but host names and addresses in them are nobody
// else's business.
func (d *document) higherSystem(s string) {
	if s == "" {
		return
	}
	if _, ok := d.baseURL("higher_system", s); ok && !strings.HasPrefix(strings.ToLower(s), "https:") {
		d.fail("higher_system", "must begin with https://")
	}
}

// baseURL accepts http(s)://HOST[:PORT] and says which host.
func (d *document) baseURL(key, s string) (host string, ok bool) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		d.fail(key, `must be a URL, as "https://manager.example:8740"`)
	case u.User != nil:
		d.fail(key, "must not hold a user or password")
	case (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		d.fail(key, "must end after the host and port")
	case u.Port() != "" && !isPort(u.Port()) || strings.HasSuffix(u.Host, ":"):
		d.fail(key, "has no port number from 1 to 65535")
	default:
		return u.Hostname(), true
	}
	return "", false
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// trust checks a CA file and a pin, which exclude each other.
func (d *document) trust(table, fileKey string, file *string, pinKey string, pin *string) {
	if *file != "" && *pin != "" {
		d.fail(table+pinKey, "and %s exclude each other; leave one out", fileKey)
	}
	d.resolve(file)
	if *pin == "" {
		return
	}
	p, err := parsePin(*pin)
	if err != nil {
		d.fail(table+pinKey, "%v", err)
		return
	}
	*pin = p
}

// parsePin reads "sha256:" followed by 64 hex digits or by base64 (as curl and HPKP write it), and writes it the
// one way: "sha256:" and lower-case hex.
func parsePin(s string) (string, error) {
	text, ok := strings.CutPrefix(s, "sha256:")
	if ok {
		raw, err := hex.DecodeString(text)
		if err != nil {
			raw, err = base64.StdEncoding.Strict().DecodeString(text)
		}
		if err == nil && len(raw) == 32 {
			return "sha256:" + hex.EncodeToString(raw), nil
		}
	}
	return "", errors.New(`must be "sha256:" and the SHA-256 of the public key (SPKI), as 64 hex digits or in base64`)
}

func (d *document) database(db *string, dataDir string) {
	if *db == "" {
		*db = "sqlite:samehost.db"
	}
	if name, ok := strings.CutPrefix(*db, "sqlite:"); ok {
		if name == "" || strings.HasPrefix(name, "//") || strings.ContainsAny(name, "?#\x00") {
			d.fail("database", `must name a file after "sqlite:", as "sqlite:samehost.db" (taken from data_dir)`)
			return
		}
		*db = "sqlite:" + joined(dataDir, name)
		return
	}
	if !strings.HasPrefix(*db, "postgres://") && !strings.HasPrefix(*db, "postgresql://") {
		d.fail("database", `must be "sqlite:FILE" or "postgres://..."`)
		return
	}
	// The parse error would quote the URL, which may hold a password.
	if u, err := url.Parse(*db); err != nil || (u.Host == "" && u.Query().Get("host") == "") {
		d.fail("database", `is not a URL that can be read; write "postgres://USER@HOST/DATABASE"`)
	}
}

func (d *document) dcmamtin(t *Dcmamtin) {
	switch t.Resolve {
	case "":
		t.Resolve = "dns"
	case "dns", "file":
	default:
		d.fail("dcmamtin.resolve", `must be "dns" (host name first) or "file" (the file's address first)`)
	}
}

func (d *document) amt(a *AMT, client bool) {
	a.InUse = d.has("amt")
	if a.User == "" {
		if d.has("amt.user") {
			d.fail("amt.user", `is empty; name the AMT management user, or leave it out for "admin"`)
		}
		a.User = "admin"
	}
	// RFC 7616 3.4: the digest is taken over user:realm:password, so a colon would say something else.
	if !printable(a.User) || len(a.User) > maxName || strings.Contains(a.User, ":") {
		d.fail("amt.user", "must be at most %d printable characters without a colon", maxName)
	}
	if a.PasswordFile != "" && a.PasswordEnv != "" {
		d.fail("amt.password_env", "and password_file exclude each other; leave one out")
	}
	if strings.ContainsAny(a.PasswordEnv, "=\x00 ") {
		d.fail("amt.password_env", "must be the name of an environment variable, not the password")
	}
	d.resolve(&a.PasswordFile)
	switch {
	case a.Port == "" && d.has("amt.port"):
		d.fail("amt.port", `must be "auto" or a number from 1 to 65535`)
	case (a.Port == "" || a.Port == "auto") && a.TLS:
		a.Port = "16993" // who asks for TLS must never be served by the probe of 16992 without it
	case a.Port == "" || a.Port == "auto":
		a.Port = "auto"
	case !isPort(a.Port):
		d.fail("amt.port", `must be "auto" or a number from 1 to 65535`)
	}
	d.trust("amt.", "tls_ca", &a.TLSCA, "tls_pin", &a.TLSPin)
	if a.Enterprise == "" {
		if d.has("amt.enterprise") {
			d.fail("amt.enterprise", `is empty; name an entry, or leave it out for "samehost"`)
		}
		a.Enterprise = "samehost"
	}
	if !printable(a.Enterprise) || utf8.RuneCountInString(a.Enterprise) > maxName {
		d.fail("amt.enterprise", "must be 1 to %d printable characters", maxName)
	}
	if !d.has("amt.from_manager") {
		a.FromManager = client == (a.PasswordFile != "" || a.PasswordEnv != "")
	}
	switch {
	case !client && d.has("amt.url"):
		d.fail("amt.url", "belongs into the client's file; leave it out here")
	case client && a.URL != "":
		d.baseURL("amt.url", a.URL)
	case client && a.InUse:
		a.URL = defaultLMS
	}
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// ErrNoPassword reports that the file says no place to take the AMT management user's password from.
var ErrNoPassword = errors.New("no password for the AMT management user; write password_file (or password_env) into [amt], or from_manager = true where the manager tells it (samehost-manager amtsetup set)")

// Password is the AMT management user's password: the given one (With), else the one line of PasswordFile, without its line end, or the
// variable that PasswordEnv names. It fails if neither is set (ErrNoPassword), and if what it finds is empty, has
// more than one line, or is longer than 1024 bytes. Errors never quote what was read.
func (a AMT) Password() (Secret, error) {
	switch {
	case a.Given != nil:
		return a.Given.Password, nil
	case a.PasswordFile != "":
		b, err := readBounded(a.PasswordFile, maxPassword+2)
		if errors.Is(err, errTooLong) {
			return Secret{}, fmt.Errorf("password file %s: longer than %d bytes; it must hold the password and nothing else", a.PasswordFile, maxPassword)
		}
		if err != nil {
			return Secret{}, fmt.Errorf("password file %s: %w; make it readable for this program, or name another in [amt] password_file", a.PasswordFile, Bare(err))
		}
		s := strings.TrimPrefix(string(b), "\ufeff") // Notepad's mark
		s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
		if err := judgePassword(s); err != nil {
			return Secret{}, fmt.Errorf("password file %s: %w", a.PasswordFile, err)
		}
		return NewSecret(s), nil
	case a.PasswordEnv != "":
		s := os.Getenv(a.PasswordEnv)
		if err := judgePassword(s); err != nil {
			return Secret{}, fmt.Errorf("environment variable %s (from [amt] password_env): %w", a.PasswordEnv, err)
		}
		return NewSecret(s), nil
	}
	return Secret{}, ErrNoPassword
}

func judgePassword(s string) error {
	switch {
	case s == "":
		return errors.New("empty; write it there")
	case len(s) > maxPassword:
		return fmt.Errorf("longer than %d bytes", maxPassword)
	case strings.ContainsAny(s, "\r\n"):
		return errors.New("more than one line; it must hold the password and nothing else")
	case !printable(s):
		return errors.New("holds characters that no password has; write it as UTF-8 text")
	}
	return nil
}

// Warnings are lines for the log about things that work but should not stay: a password file that other users of
// this machine can read. (It is no error: a file made with the usual umask would stop every first try.)
func (a AMT) Warnings() []string {
	if runtime.GOOS == "windows" || a.PasswordFile == "" || a.Given != nil {
		return nil
	}
	info, err := os.Stat(a.PasswordFile)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return []string{fmt.Sprintf("password file %s is open to other users (mode %04o); close it: chmod 600 %[1]s",
		a.PasswordFile, info.Mode().Perm())}
}

// Secret is text that must not be seen. However it is printed, logged or encoded, it shows as ***; also as a
// field that the printer cannot call methods on, which is why it holds a pointer.
type Secret struct{ text *string }

// NewSecret makes s a Secret.
func NewSecret(s string) Secret { return Secret{&s} }

// Reveal is the secret itself, for the one place that needs it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// String hides the secret.
func (Secret) String() string { return hidden }

// MarshalText hides the secret, in logs too.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

const hidden = "***"

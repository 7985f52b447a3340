package checkin

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"samehost/internal/hostid"
)

// Limits on settings. What fits them fits into a reply, sealed and signed.
const (
	maxAMTName     = 64       // characters of the user's and the enterprise's name, as in [amt] of every program's file
	maxAMTPassword = 1024     // bytes, as in [amt]; AMT itself stops at 32
	maxAMTCA       = 16 << 10 // bytes of certificates: some ten authorities
	sealedStep     = 512      // bytes: what is sealed is filled up to a multiple, so that its length tells no password's
	maxSettings    = 48 << 10 // bytes of what is sealed, in base64url
)

// Password is the AMT management user's. However it is printed, logged or encoded it shows as ***, also as a field that
// the printer cannot call methods on, which is why it holds a pointer.
type Password struct{ text *string }

// NewPassword makes s a Password.
func NewPassword(s string) Password { return Password{&s} }

// Reveal is the password itself, for the one place that needs it.
func (p Password) Reveal() string {
	if p.text == nil {
		return ""
	}
	return *p.text
}

// Equal compares what is hidden.
func (p Password) Equal(q Password) bool { return p.Reveal() == q.Reveal() }

// Format hides the password under every verb.
func (Password) Format(f fmt.State, _ rune) { io.WriteString(f, "***") }

// String hides the password.
func (Password) String() string { return "***" }

// MarshalText hides the password in every encoding.
func (Password) MarshalText() ([]byte, error) { return []byte("***"), nil }

// AMTSettings are what the manager says of the AMT management user: the [amt] table of a program's file
// (docs/protocol/config.md), but for what only the machine itself knows. The meaning of its JSON names never changes; the
// password is not among them.
type AMTSettings struct {
	User       string   `json:"user"`
	Password   Password `json:"-"`
	Port       string   `json:"port"` // "auto" or a number; where AMT is reached from elsewhere
	TLS        bool     `json:"tls"`
	TLSCA      string   `json:"tls_ca,omitempty"`  // certificates, PEM
	TLSPin     string   `json:"tls_pin,omitempty"` // "sha256:" and 64 lower-case hex digits
	Enterprise string   `json:"enterprise"`
}

// Equal reports whether two settings say the same, the password included.
func (s AMTSettings) Equal(o AMTSettings) bool { return s.secret() == o.secret() }

// secretSettings is AMTSettings with the password, for what is sealed and for nothing else.
type secretSettings struct {
	User       string `json:"user"`
	Password   string `json:"password"`
	Port       string `json:"port"`
	TLS        bool   `json:"tls"`
	TLSCA      string `json:"tls_ca,omitempty"`
	TLSPin     string `json:"tls_pin,omitempty"`
	Enterprise string `json:"enterprise"`
}

func (s AMTSettings) secret() secretSettings {
	return secretSettings{s.User, s.Password.Reveal(), s.Port, s.TLS, s.TLSCA, s.TLSPin, s.Enterprise}
}

func (s secretSettings) settings() AMTSettings {
	return AMTSettings{s.User, NewPassword(s.Password), s.Port, s.TLS, s.TLSCA, s.TLSPin, s.Enterprise}
}

// Reveal is the settings as JSON, the password included: for what is sealed or encrypted, and for nothing else.
func (s AMTSettings) Reveal() []byte {
	b, err := json.Marshal(s.secret())
	if err != nil {
		panic("checkin: settings always encode: " + err.Error())
	}
	return b
}

// ParseAMTSettings reads what Reveal wrote. Its errors show nothing of it.
func ParseAMTSettings(b []byte) (AMTSettings, error) {
	var s secretSettings
	if err := decodeHidden(b, &s); err != nil {
		return AMTSettings{}, err
	}
	return s.settings().Checked()
}

// decodeHidden decodes one JSON value. encoding/json quotes what it stumbles over, which may be part of a password.
func decodeHidden(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return errors.New("what was sealed is no settings that this version can read")
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("what was sealed is followed by something else")
	}
	return nil
}

// Checked is the settings with their defaults in place (user "admin", port "auto", with TLS 16993, enterprise "samehost"),
// or says what is wrong with them; never with the password in the error.
func (s AMTSettings) Checked() (AMTSettings, error) {
	if s.User == "" {
		s.User = "admin"
	}
	if s.Enterprise == "" {
		s.Enterprise = "samehost"
	}
	if s.Port == "" {
		s.Port = "auto"
	}
	if s.Port == "auto" && s.TLS {
		s.Port = "16993" // who asks for TLS must never be served by the probe of 16992 without it
	}
	password := s.Password.Reveal()
	port, err := strconv.ParseUint(s.Port, 10, 16)
	switch {
	case !plain(s.User) || utf8.RuneCountInString(s.User) > maxAMTName || strings.Contains(s.User, ":"):
		return s, fmt.Errorf("user: must be at most %d printable characters without a colon", maxAMTName)
	case password == "":
		return s, errors.New("password: is missing")
	case len(password) > maxAMTPassword:
		return s, fmt.Errorf("password: longer than %d bytes", maxAMTPassword)
	case !plain(password):
		return s, errors.New("password: holds characters that no password has")
	case s.Port != "auto" && (err != nil || port == 0 || strconv.FormatUint(port, 10) != s.Port):
		return s, errors.New(`port: must be "auto" or a number from 1 to 65535`)
	case s.TLSCA != "" && s.TLSPin != "":
		return s, errors.New("tls_ca and tls_pin exclude each other; leave one out")
	case !plain(s.Enterprise) || utf8.RuneCountInString(s.Enterprise) > maxAMTName:
		return s, fmt.Errorf("enterprise: must be 1 to %d printable characters", maxAMTName)
	}
	if s.TLSCA != "" {
		if len(s.TLSCA) > maxAMTCA {
			return s, fmt.Errorf("tls_ca: %d bytes, more than %d", len(s.TLSCA), maxAMTCA)
		}
		if !utf8.ValidString(s.TLSCA) || !x509.NewCertPool().AppendCertsFromPEM([]byte(s.TLSCA)) {
			return s, errors.New("tls_ca: no PEM certificate in it")
		}
	}
	if s.TLSPin != "" {
		digits, ok := strings.CutPrefix(s.TLSPin, "sha256:")
		if raw, err := hex.DecodeString(digits); !ok || err != nil || len(raw) != 32 || strings.ToLower(digits) != digits {
			return s, errors.New(`tls_pin: must be "sha256:" and 64 lower-case hex digits`)
		}
	}
	return s, nil
}

func plain(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// SettingsState is what a client says of the settings that it holds; in a report, that it takes any.
type SettingsState struct {
	Serial  uint64 `json:"serial"`  // counts what this client has taken from replies; 0: nothing yet
	Version uint64 `json:"version"` // the manager's name for the settings; 0: none
}

// Settings are what a manager has a host work with.
type Settings struct {
	SettingsState
	AMT *AMTSettings // nil, with version 0: none, what stands in the host's own file holds
}

// maxSerial leaves the next serial a number that every reader of JSON takes for what it is.
const maxSerial = 1 << 52

// SealedSettings are settings as they travel in a reply: only the host that they are for can read them.
type SealedSettings struct {
	SettingsState
	Sealed string `json:"sealed"`
}

// settingsInfo is HPKE's info. It binds what is sealed to its host, the epoch of the report that is answered, and its
// numbers, so that it cannot be put into another reply, nor be told as newer than it is.
func settingsInfo(id hostid.ID, epoch Token, s SettingsState) []byte {
	return fmt.Appendf(nil, "samehost/settings/1\x00%s\x00%s\x00%d\x00%d", id, epoch, s.Serial, s.Version)
}

// SealSettings seals settings to a host: sealKey is Report.SealKey, epoch the Report.Epoch that is answered. HPKE (RFC
// 9180) in base mode as in SealOrder; info is "samehost/settings/1", host ID, epoch, serial and version (decimal), with
// 0x00 in between. What is sealed is JSON, filled up with spaces to a multiple of 512 bytes. Base mode proves no sender:
// the signature of the reply does.
func SealSettings(sealKey []byte, id hostid.ID, epoch Token, s Settings) (SealedSettings, error) {
	failed := func(err error) (SealedSettings, error) {
		return SealedSettings{}, fmt.Errorf("seal settings to host ID %s: %w", id, err)
	}
	if err := s.check(); err != nil {
		return failed(err)
	}
	key, err := ecdh.X25519().NewPublicKey(sealKey)
	if err != nil {
		return failed(fmt.Errorf("seal_key is no X25519 key: %w", err))
	}
	to, err := hpke.NewDHKEMPublicKey(key)
	if err != nil {
		return failed(err)
	}
	text := []byte("null")
	if s.AMT != nil {
		text = s.AMT.Reveal()
	}
	for len(text)%sealedStep != 0 {
		text = append(text, ' ')
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), settingsInfo(id, epoch, s.SettingsState), text)
	if err != nil {
		return failed(err)
	}
	return SealedSettings{s.SettingsState, base64.RawURLEncoding.EncodeToString(sealed)}, nil
}

// Open opens what SealSettings made, with the host's sealing key (hostid.Seed.SealingKey). Its errors show nothing of
// what was sealed.
func (s SealedSettings) Open(key hpke.PrivateKey, id hostid.ID, epoch Token) (Settings, error) {
	if len(s.Sealed) > maxSettings || strings.ContainsAny(s.Sealed, "\r\n") {
		return Settings{}, errors.New("settings: what is sealed has not their form")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s.Sealed)
	if err != nil {
		return Settings{}, errors.New("settings: what is sealed is not base64url")
	}
	text, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), settingsInfo(id, epoch, s.SettingsState), b)
	if err != nil {
		return Settings{}, errors.New("settings: they were not sealed for this host, epoch and version")
	}
	opened := Settings{SettingsState: s.SettingsState}
	var wire *secretSettings
	if err := decodeHidden(text, &wire); err != nil {
		return Settings{}, fmt.Errorf("settings: %w", err)
	}
	if wire != nil {
		amt, err := wire.settings().Checked()
		if err != nil {
			return Settings{}, fmt.Errorf("settings: %w", err)
		}
		opened.AMT = &amt
	}
	return opened, opened.check()
}

func (s Settings) check() error {
	switch {
	case s.Serial == 0 || s.Serial > maxSerial:
		return errors.New("settings: their serial is no number that counts")
	case (s.Version == 0) != (s.AMT == nil):
		return errors.New("settings: version and content do not agree")
	}
	return nil
}

// Next is the serial of what is sent to a client in that state; false if it cannot count any further, which no honest
// client comes to.
func (s SettingsState) Next() (serial uint64, ok bool) {
	return s.Serial + 1, s.Serial < maxSerial
}

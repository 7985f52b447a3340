package checkin

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"samehost/internal/hostid"
)

// The two files that settings stand in: the one that an administrator carries to PCs (export and import), and the one
// that a data folder keeps.

// An exported file is one JSON object. Anybody may carry it: without the passphrase it cannot be read, and one that was
// altered is found. Inside is a statement by the manager's key, so that whoever knows the passphrase can read but
// not write settings.
type exportedFile struct {
	Format string `json:"format"`
	Rounds int    `json:"rounds"` // of PBKDF2-HMAC-SHA256, over the passphrase in NFC: keyboards differ in how they compose
	Salt   []byte `json:"salt"`
	Check  []byte `json:"check"` // tells a wrong passphrase from a file that was altered
	Nonce  []byte `json:"nonce"`
	Sealed []byte `json:"sealed"` // AES-256-GCM; additional data: format, rounds and salt
}

const (
	exportFormat = "samehost/amtsetup/1"
	typSettings  = "samehost/amt-settings/1"

	// exportRounds is what OWASP advises for PBKDF2 with SHA-256 (Password Storage Cheat Sheet, 2023): some 0.2 s.
	exportRounds = 600_000
	minRounds    = 100_000
	maxRounds    = 10_000_000 // bounds what a file can cost its reader

	// MinPassphrase is the length of the shortest passphrase that a file is sealed with, in characters: whoever has the file
	// may try as many as he likes.
	MinPassphrase = 12
	maxPassphrase = 1024

	// MaxSettingsFile bounds an exported file, in bytes.
	MaxSettingsFile = 128 << 10
)

// Exported is what an exported file says.
type Exported struct {
	Version uint64
	Made    time.Time   // by the manager's clock
	Manager Fingerprint // whose key signed it
	AMT     AMTSettings
}

type exportedSettings struct {
	Version uint64          `json:"version"`
	Made    time.Time       `json:"made"`
	AMT     *secretSettings `json:"amt"`
}

// What ImportSettings can fail with.
var (
	ErrPassphrase = errors.New("the passphrase is not the one that the file was sealed with")
	ErrAltered    = errors.New("the file was altered or is damaged since it was exported; have it exported anew")
)

// ExportSettings makes a file of settings, signed by the manager's key and sealed by a passphrase of 12 characters or more.
func ExportSettings(version uint64, s AMTSettings, made time.Time, manager ed25519.PrivateKey, passphrase string) ([]byte, error) {
	if n := utf8.RuneCountInString(passphrase); n < MinPassphrase || len(passphrase) > maxPassphrase {
		return nil, fmt.Errorf("passphrase: must have %d characters or more: whoever has the file may try as many as he likes", MinPassphrase)
	}
	s, err := s.Checked()
	if err != nil {
		return nil, err
	}
	secret := s.secret()
	payload, err := json.Marshal(exportedSettings{version, made.UTC().Truncate(time.Second), &secret})
	if err != nil {
		return nil, errors.New("settings do not encode")
	}
	jws, err := sign(payload, typSettings, manager, nil)
	if err != nil {
		return nil, err
	}
	f := exportedFile{Format: exportFormat, Rounds: exportRounds, Salt: make([]byte, 16), Nonce: make([]byte, 12)}
	rand.Read(f.Salt)
	rand.Read(f.Nonce)
	aead, check, err := f.keys(passphrase)
	if err != nil {
		return nil, err
	}
	f.Check, f.Sealed = check, aead.Seal(nil, f.Nonce, []byte(jws), f.head())
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// ImportSettings opens what ExportSettings made. It fails with ErrPassphrase, with ErrAltered, or says why this is no
// such file. Whether Manager is the right one is for the caller to judge.
func ImportSettings(file []byte, passphrase string) (Exported, error) {
	if len(file) > MaxSettingsFile {
		return Exported{}, fmt.Errorf("%d bytes, more than an exported file has", len(file))
	}
	var any struct {
		Format string `json:"format"`
	}
	if json.Unmarshal(file, &any) != nil || any.Format == "" {
		return Exported{}, errors.New("this is no file that `samehost-manager amtsetup export` wrote")
	}
	if any.Format != exportFormat {
		return Exported{}, fmt.Errorf("it has the form %.64q, which this version does not know: upgrade this program", any.Format)
	}
	var f exportedFile
	if err := json.Unmarshal(file, &f); err != nil || len(f.Nonce) != 12 || len(f.Salt) != 16 || f.Rounds < minRounds || f.Rounds > maxRounds {
		return Exported{}, ErrAltered
	}
	aead, check, err := f.keys(passphrase)
	if err != nil {
		return Exported{}, err
	}
	if !hmac.Equal(check, f.Check) {
		return Exported{}, ErrPassphrase
	}
	jws, err := aead.Open(nil, f.Nonce, f.Sealed, f.head())
	if err != nil {
		return Exported{}, ErrAltered
	}
	payload, key, _, err := verify(string(jws), typSettings)
	if err != nil {
		return Exported{}, fmt.Errorf("%w (%w)", ErrAltered, err)
	}
	var s exportedSettings
	if err := decodeHidden(payload, &s); err != nil {
		return Exported{}, err
	}
	if s.AMT == nil || s.Version == 0 || s.Made.IsZero() {
		return Exported{}, ErrAltered
	}
	amt, err := s.AMT.settings().Checked()
	if err != nil {
		return Exported{}, err
	}
	return Exported{s.Version, s.Made, FingerprintOf(key), amt}, nil
}

func (f exportedFile) head() []byte {
	return fmt.Appendf(nil, "%s\x00%d\x00%x", f.Format, f.Rounds, f.Salt)
}

// keys are what a passphrase opens the file with, and what shows that it is the right one.
func (f exportedFile) keys(passphrase string) (cipher.AEAD, []byte, error) {
	master, err := pbkdf2.Key(sha256.New, norm.NFC.String(passphrase), f.Salt, f.Rounds, 32)
	if err != nil {
		return nil, nil, err
	}
	key, err := hkdf.Expand(sha256.New, master, exportFormat+" seal", 32)
	if err != nil {
		return nil, nil, err
	}
	check, err := hkdf.Expand(sha256.New, master, exportFormat+" check", 16)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, check, err
}

// SettingsFileName is the file of a data folder that holds the settings that came from the manager.
const SettingsFileName = "settings.json"

// How settings came.
const (
	BySettingsReply = "check-in"
	BySettingsFile  = "file"

	// BySettingsManager: this is the manager's own folder.
	BySettingsManager = "manager"
)

// KeptSettings are settings in a data folder.
type KeptSettings struct {
	Settings
	Manager Fingerprint // whose they are
	Came    string      // BySettingsReply, BySettingsFile or BySettingsManager
	Since   time.Time   // by this machine's clock
}

type keptFile struct {
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"` // of the content's bytes as they stand: a torn or decayed file is not taken for another password
	Content json.RawMessage `json:"content"`
}

type keptContent struct {
	SettingsState
	Manager Fingerprint     `json:"manager"`
	Came    string          `json:"came"`
	Since   time.Time       `json:"since"`
	AMT     *secretSettings `json:"amt"`
}

const keptVersion = 1

// KeepSettings makes a file of a data folder hold settings, durably and readable by its owner only, as the record is.
func KeepSettings(folder, name string, k KeptSettings) error {
	c := keptContent{SettingsState: k.SettingsState, Manager: k.Manager, Came: k.Came, Since: k.Since.UTC().Truncate(time.Second)}
	if k.AMT != nil {
		s := k.AMT.secret()
		c.AMT = &s
	}
	path := filepath.Join(folder, name)
	content, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write %s: settings do not encode", path)
	}
	sum := sha256.Sum256(content)
	b, err := json.Marshal(keptFile{keptVersion, hex.EncodeToString(sum[:]), content})
	if err != nil {
		return fmt.Errorf("write %s: settings do not encode", path)
	}
	return hostid.WriteFileDurably(path, append(b, '\n'))
}

// ReadKeptSettings reads what KeepSettings wrote. The error wraps fs.ErrNotExist, hostid.ErrNewer, hostid.ErrCorrupt, or
// says why the file cannot be read; it shows nothing of the content.
func ReadKeptSettings(folder, name string) (KeptSettings, error) {
	path := filepath.Join(folder, name)
	b, err := hostid.ReadRegularFile(path, MaxSettingsFile)
	if err != nil {
		return KeptSettings{}, fmt.Errorf("%s: %w", path, err)
	}
	var any struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(b, &any) == nil && any.Version > keptVersion {
		return KeptSettings{}, fmt.Errorf("%s: %w", path, hostid.ErrNewer)
	}
	corrupt := func(why string) (KeptSettings, error) {
		return KeptSettings{}, fmt.Errorf("%s: %w: %s", path, hostid.ErrCorrupt, why)
	}
	var f keptFile
	if decodeHidden(b, &f) != nil || f.Version != keptVersion {
		return corrupt("it has not the form of settings")
	}
	if sum := sha256.Sum256(f.Content); f.SHA256 != hex.EncodeToString(sum[:]) {
		return corrupt("its checksum is wrong")
	}
	var c keptContent
	if decodeHidden(f.Content, &c) != nil {
		return corrupt("it has not the form of settings")
	}
	k := KeptSettings{Settings: Settings{SettingsState: c.SettingsState}, Manager: c.Manager, Came: c.Came, Since: c.Since}
	if c.AMT != nil {
		amt, err := c.AMT.settings().Checked()
		if err != nil {
			return corrupt(err.Error())
		}
		k.AMT = &amt
	}
	if (k.Version == 0) != (k.AMT == nil) {
		return corrupt("version and content do not agree")
	}
	return k, nil
}

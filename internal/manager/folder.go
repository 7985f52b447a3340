// Package manager is the managing server: its data folder, its certificates, and the HTTPS server that takes
// check-ins into the registry.
package manager

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"samehost/internal/registry"
)

// The files of a data folder.
const (
	configFile   = "manager.toml"
	databaseFile = "samehost.db"
	keyFile      = "manager-key.pem" // signs replies; its fingerprint is in every enrolment token
	caFile       = "ca.pem"
	caKeyFile    = "ca-key.pem"
	passwordFile = "admin-password"
	lockFile     = "lock"
)

// newDatabase is more than a new database takes in bytes, its write-ahead log included.
const newDatabase = 1 << 20

// Administrator is the name of the first administrator.
const Administrator = "admin"

// DefaultListen is where a manager listens unless told otherwise: nowhere but this machine.
const DefaultListen = "127.0.0.1:8740"

// Initialized is what Init made. Its JSON names never change their meaning.
type Initialized struct {
	Config       string `json:"config"`  // full path of manager.toml
	CAFile       string `json:"ca_file"` // what clients get as ca_file
	Token        string `json:"token"`   // the first enrolment token: shown here and never again
	PasswordFile string `json:"admin_password_file"`
}

// Setup says what kind of data folder is to be made.
type Setup struct {
	Dir    string   // must not exist yet, or be empty
	Listen string   // HOST:PORT; it goes into manager.toml as it is
	Names  []string // further ones for the server's certificate (Options.Names)

	// Database is a PostgreSQL database without tables, as registry.Create has it; "": a SQLite file in the folder.
	Database string

	// Join names a folder with the keys, the CA and the manager.toml of a manager on PostgreSQL: this one becomes one more on the
	// same database, and nothing is made there.
	Join string
}

// Init makes the data folder of a manager with its database in it.
func Init(ctx context.Context, dir, listen string, names ...string) (made Initialized, err error) {
	return Setup{Dir: dir, Listen: listen, Names: names}.Init(ctx)
}

// Init makes a data folder: keys, CA, database, first administrator, first enrolment token, manager.toml. It is built
// beside its place and renamed at the end, so that a failure leaves nothing behind.
func (s Setup) Init(ctx context.Context) (made Initialized, err error) {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return Initialized{}, err
	}
	s.Dir = dir
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		if _, err := os.Stat(filepath.Join(dir, configFile)); err == nil {
			return Initialized{}, fmt.Errorf("%s holds a manager already; it is left as it is", dir)
		}
		return Initialized{}, fmt.Errorf("%s is not empty: name a new folder", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Initialized{}, CannotWrite(dir, err)
	}
	existed := err == nil
	parent := filepath.Dir(dir)
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+"-*")
	if err != nil {
		return Initialized{}, CannotWrite(dir, err)
	}
	defer os.RemoveAll(tmp) // after the rename there is nothing under that name
	if err := protect(tmp); err != nil {
		return Initialized{}, CannotWrite(dir, err)
	}
	token := ""
	if s.Join == "" {
		token, err = s.fill(ctx, tmp)
	} else {
		err = s.join(ctx, tmp)
	}
	if err != nil {
		if registry.Remedy(err) != "" && !isFull(err) { // it is about the database
			return Initialized{}, err
		}
		return Initialized{}, CannotWrite(dir, err)
	}
	if existed {
		if err := os.Remove(dir); err != nil { // Windows renames over no folder
			return Initialized{}, CannotWrite(dir, err)
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		return Initialized{}, CannotWrite(dir, err)
	}
	if err := syncFolder(parent); err != nil {
		return Initialized{}, CannotWrite(dir, err)
	}
	made = Initialized{Config: filepath.Join(dir, configFile), CAFile: filepath.Join(dir, caFile), Token: token}
	if s.Join == "" {
		made.PasswordFile = filepath.Join(dir, passwordFile)
	}
	return made, nil
}

// config is the manager.toml of a data folder.
func (s Setup) config(database string) ([]byte, error) {
	text, err := toml.Marshal(struct {
		DataDir  string   `toml:"data_dir"`
		Listen   string   `toml:"listen"`
		Names    []string `toml:"names" comment:"What clients call this machine in higher_system: DNS names and IP addresses for the\ncertificate, as \"manager.example\", beside its host name and what is in listen."`
		Database string   `toml:"database"`
	}{s.Dir, s.Listen, append([]string{}, s.Names...), database})
	return append(text, configHelp...), err
}

// join writes everything into tmp that a further manager on a database needs.
func (s Setup) join(ctx context.Context, tmp string) error {
	key, err := readKey(s.Join)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(s.Join, configFile))
	if err != nil {
		return permission(err)
	}
	var other struct {
		Database string `toml:"database"`
	}
	if err := toml.Unmarshal(text, &other); err != nil { // the error may show a line with a password
		return fmt.Errorf("%s: it cannot be read as TOML", filepath.Join(s.Join, configFile))
	}
	if s.Database != "" {
		other.Database = s.Database
	}
	if !registry.IsPostgres(other.Database) {
		return fmt.Errorf("%s: its database is a file, which one machine has to itself; take it to PostgreSQL with samehost-manager database transfer first", filepath.Join(s.Join, configFile))
	}
	reg, err := registry.Open(ctx, other.Database, registry.Options{Key: key})
	if err != nil {
		return err
	}
	if err := reg.Close(); err != nil {
		return err
	}
	config, err := s.config(other.Database)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(tmp, configFile), config, 0o600); err != nil {
		return err
	}
	for name, mode := range map[string]os.FileMode{keyFile: 0o600, caKeyFile: 0o600, caFile: 0o644} {
		data, err := os.ReadFile(filepath.Join(s.Join, name))
		if err != nil {
			return permission(err)
		}
		if err := writeFile(filepath.Join(tmp, name), data, mode); err != nil {
			return err
		}
	}
	return syncFolder(tmp)
}

// fill writes everything into tmp that a new manager needs, and returns the enrolment token.
func (s Setup) fill(ctx context.Context, tmp string) (token string, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	ca, caKey, err := newCA(time.Now())
	if err != nil {
		return "", err
	}
	keyPEM, err := keyToPEM(key)
	if err != nil {
		return "", err
	}
	caKeyPEM, err := keyToPEM(caKey)
	if err != nil {
		return "", err
	}
	written, database := s.Database, s.Database
	if database == "" {
		written, database = "sqlite:"+databaseFile, "sqlite:"+filepath.Join(tmp, databaseFile)
	}
	config, err := s.config(written)
	if err != nil {
		return "", err
	}
	// The database library says "no such table" where the disk is full, so room is looked for before.
	room := filepath.Join(tmp, databaseFile)
	if err := errors.Join(writeFile(room, make([]byte, newDatabase), 0o600), os.Remove(room)); err != nil {
		return "", err
	}
	password := rand.Text() // 128 bits and more, in letters and digits that can be read aloud
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{keyFile, keyPEM, 0o600},
		{caKeyFile, caKeyPEM, 0o600},
		{caFile, certToPEM(ca), 0o644},
		{passwordFile, []byte(password + "\n"), 0o600},
		{configFile, config, 0o600},
	} {
		if err := writeFile(filepath.Join(tmp, f.name), f.data, f.mode); err != nil {
			return "", err
		}
	}
	reg, err := registry.Create(ctx, database, registry.Options{Key: key})
	if err != nil {
		return "", err
	}
	defer reg.Close()
	if err := reg.CreateAdministrator(ctx, Administrator, password, "samehost-manager init"); err != nil {
		return "", err
	}
	tok, err := reg.CreateToken(ctx, time.Time{}, "made by init", "")
	if err != nil {
		return "", err
	}
	if err := reg.Close(); err != nil {
		return "", err
	}
	return tok.Text(), syncFolder(tmp)
}

const configHelp = `
# For dcmamtin on this machine: the AMT management user of the PCs.
# [amt]
# user = "admin"
# password_file = "amt-password"   # beside this file, readable by its owner only
`

// ErrNotInitialized says that a data folder holds no manager.
var ErrNotInitialized = errors.New("no manager here")

// OpenRegistry opens the registry of a data folder with the manager's key.
func OpenRegistry(ctx context.Context, dir, database string) (*registry.Registry, error) {
	key, err := readKey(dir)
	if err != nil {
		return nil, err
	}
	return registry.Open(ctx, database, registry.Options{Key: key})
}

func readKey(dir string) (ed25519.PrivateKey, error) {
	key, err := readPrivate(filepath.Join(dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("data folder %s: %w; make one with samehost-manager init --data-dir, or name its manager.toml with --config", dir, ErrNotInitialized)
	}
	if err != nil {
		return nil, err
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an Ed25519 key; put back the one from a backup", filepath.Join(dir, keyFile))
	}
	return k, nil
}

// readPrivate reads a PKCS #8 key that nobody else can read.
func readPrivate(path string) (any, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, permission(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to other users (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, permission(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: not a key in PEM; put back the one from a backup", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put back the one from a backup", path, err)
	}
	return key, nil
}

// permission adds what to do to an error of a file that may not be opened.
func permission(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: run this as the user that owns the data folder", err)
	}
	return err
}

// writeFile makes a file that must not exist, durably.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

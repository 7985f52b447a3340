package registry

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"samehost/internal/hostid"
)

// Administrator is a person, or a program, that may use the manager's API.
type Administrator struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"` // the password, last
}

// What changing administrators can fail with besides ErrUnknown.
var (
	ErrExists       = errors.New("there is an administrator of that name already")
	ErrLast         = errors.New("this is the last administrator; add another one first")
	ErrName         = errors.New("no name for an administrator")
	ErrWeakPassword = errors.New("no password for an administrator")
)

const (
	// minPassword is what NIST SP 800-63B-4, 3.1.1.2 asks of a password that is the only factor, in characters.
	minPassword = 15
	// MaxPassword is how long a password may be, in bytes.
	MaxPassword = 1024
	// MaxAdministratorName is how long a name may be, in bytes.
	MaxAdministratorName = 64
)

// CheckAdministratorName fails with ErrName unless the name can be one: letters, digits and . _ - @ of any language, without
// the colon that ends it in HTTP Basic, and without blanks, so that in the history it is nobody else's.
func CheckAdministratorName(name string) error {
	switch {
	case name == "" || len(name) > MaxAdministratorName:
		return fmt.Errorf("%w: it takes 1 to %d bytes", ErrName, MaxAdministratorName)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.Is(unicode.M, r) && !strings.ContainsRune("._-@", r)
	}):
		return fmt.Errorf("%w: use letters, digits and . _ - @ only", ErrName)
	}
	return nil
}

func checkPassword(password string) error {
	switch {
	case len(password) > MaxPassword:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrWeakPassword, MaxPassword)
	case !utf8.ValidString(password) || strings.ContainsFunc(password, unicode.IsControl):
		return fmt.Errorf("%w: it has control characters, or is not UTF-8", ErrWeakPassword)
	case utf8.RuneCountInString(norm.NFC.String(password)) < minPassword:
		return fmt.Errorf("%w: it must have %d characters or more", ErrWeakPassword, minPassword)
	}
	return nil
}

// hashPassword makes the text that is kept: "pbkdf2-sha256$rounds$salt$hash", base64. Names and passwords are taken in
// Unicode's form NFC, as HTTP Basic has them (RFC 7617, 2.1), whatever keyboard they come from.
func hashPassword(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	hash, err := pbkdf2.Key(sha256.New, norm.NFC.String(password), salt, passwordRounds, sha256.Size)
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("pbkdf2-sha256$%d$%s$%s", passwordRounds, b64.EncodeToString(salt), b64.EncodeToString(hash)), nil
}

// CreateAdministrator makes an administrator; the password is kept as a salted hash only. who does it is told in the history. It
// fails with ErrName, ErrWeakPassword or ErrExists.
func (r *Registry) CreateAdministrator(ctx context.Context, name, password, who string) error {
	name = norm.NFC.String(name)
	if err := errors.Join(CheckAdministratorName(name), checkPassword(password)); err != nil {
		return err
	}
	hash, err := hashPassword(password) // outside of the transaction: nobody waits for it
	if err != nil {
		return err
	}
	return r.write(ctx, func(t *transaction) error {
		n, err := t.exec(`INSERT INTO administrators (name, password_hash, created, changed) VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING`, name, hash, millis(t.now))
		if err == nil && n == 0 {
			err = fmt.Errorf("%s: %w", name, ErrExists)
		}
		if err != nil {
			return err
		}
		return t.record(hostid.ID{}, "administrator-added", map[string]any{"name": name, "who": who})
	})
}

// ChangePassword gives an administrator another password; the old one is void from then on. It fails with ErrWeakPassword or
// ErrUnknown.
func (r *Registry) ChangePassword(ctx context.Context, name, password, who string) error {
	name = norm.NFC.String(name)
	if err := checkPassword(password); err != nil {
		return err
	}
	hash, err := hashPassword(password)
	if err != nil {
		return err
	}
	return r.write(ctx, func(t *transaction) error {
		n, err := t.exec(`UPDATE administrators SET password_hash = $1, changed = $2 WHERE name = $3`, hash, millis(t.now), name)
		if err == nil && n == 0 {
			err = fmt.Errorf("administrator %q: %w", name, ErrUnknown)
		}
		if err != nil {
			return err
		}
		return t.record(hostid.ID{}, "administrator-password", map[string]any{"name": name, "who": who})
	})
}

// RemoveAdministrator removes one; what he did stays in the history. It fails with ErrUnknown, or with ErrLast: one remains.
func (r *Registry) RemoveAdministrator(ctx context.Context, name, who string) error {
	name = norm.NFC.String(name)
	return r.write(ctx, func(t *transaction) error {
		n, err := t.exec(`DELETE FROM administrators WHERE name = $1`, name)
		if err == nil && n == 0 {
			err = fmt.Errorf("administrator %q: %w", name, ErrUnknown)
		}
		if err != nil {
			return err
		}
		left, err := t.get(`SELECT 1 FROM administrators LIMIT 1`, nil, []any{new(int)})
		if err == nil && !left {
			err = fmt.Errorf("%s: %w", name, ErrLast)
		}
		if err != nil {
			return err
		}
		return t.record(hostid.ID{}, "administrator-removed", map[string]any{"name": name, "who": who})
	})
}

// Administrators returns every administrator, by name.
func (r *Registry) Administrators(ctx context.Context) ([]Administrator, error) {
	return scanAll(ctx, r.readers, func(scan func(...any) error) (a Administrator, err error) {
		var created, changed int64
		err = scan(&a.Name, &created, &changed)
		a.Created, a.Changed = fromMillis(created), fromMillis(changed)
		return a, err
	}, `SELECT name, created, COALESCE(changed, created) FROM administrators ORDER BY name`)
}

// Verifier checks the password of one administrator. Two are equal if the password was not set in between.
type Verifier struct {
	name string
	hash string
}

// String shows nothing of it.
func (Verifier) String() string { return "***" }

// GoString shows nothing of it.
func (Verifier) GoString() string { return "***" }

// Name is the administrator's.
func (v Verifier) Name() string { return v.name }

// nobody is a hash that no password matches, at the cost of one that some does.
var nobody = fmt.Sprintf("pbkdf2-sha256$%d$%s$", passwordRounds, base64.RawStdEncoding.EncodeToString(make([]byte, 16)))

// Verifier returns the one for an administrator. For a name that is nobody's it returns one that no password matches; how long
// that takes tells nothing.
func (r *Registry) Verifier(ctx context.Context, name string) (Verifier, error) {
	v := Verifier{name: norm.NFC.String(name), hash: nobody}
	err := r.readers.QueryRowContext(ctx, `SELECT password_hash FROM administrators WHERE name = $1`, v.name).Scan(&v.hash)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return v, err
}

// Matches reports whether the password is the administrator's. It takes a tenth of a second of one processor and more, on
// purpose; the caller bounds how many run at a time. One that is longer than MaxPassword matches nothing.
func (v Verifier) Matches(password string) bool {
	part := strings.Split(v.hash, "$")
	if len(part) != 4 || part[0] != "pbkdf2-sha256" || len(password) > MaxPassword {
		return false
	}
	rounds, err := strconv.Atoi(part[1])
	if err != nil || rounds < 1 || rounds > 100*passwordRounds {
		return false
	}
	salt, err := base64.RawStdEncoding.DecodeString(part[2])
	if err != nil {
		return false
	}
	want, err := base64.RawStdEncoding.DecodeString(part[3])
	if err != nil {
		return false
	}
	hash, err := pbkdf2.Key(sha256.New, norm.NFC.String(password), salt, rounds, sha256.Size)
	return err == nil && subtle.ConstantTimeCompare(hash, want) == 1
}

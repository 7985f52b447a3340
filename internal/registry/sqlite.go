package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
)

// putBack is the remedy for a database that is lost.
const putBack = "end serve and put back the one from a backup"

// applicationID marks a SQLite file as a registry (PRAGMA application_id): "same" in ASCII. The first migration
// sets it.
const applicationID = 0x73616d65

// busyTimeout is how long a writer waits for another process's transaction. Ours last milliseconds; only a
// restore or a check of the whole file by someone else takes seconds.
const busyTimeout = 10 * time.Second

// What connections keep of the database in memory, in KiB: at most, and each for itself. The writer's is large,
// so that it seldom asks the system for what it wrote a moment ago.
const (
	writerCache = 64 << 10
	readerCache = 4 << 10
)

func sqlitePath(dsn string) (string, error) {
	path, ok := strings.CutPrefix(dsn, "sqlite:")
	if !ok || path == "" {
		scheme, _, _ := strings.Cut(dsn, ":") // the rest may hold a password
		return "", fmt.Errorf("database %q: write sqlite:FILE or postgres://USER@HOST/NAME", scheme+":")
	}
	return filepath.Abs(path)
}

// sqliteDatabase is the database in a file. There is one writer: its transactions begin with BEGIN IMMEDIATE, so nobody
// is ever in its way, and what it reads is as new as its moment.
func sqliteDatabase(path string) (*database, error) {
	connect := func(lock string, cache, connections int) (*sql.DB, error) {
		c, err := sqlite.NewConnector(sqliteDSN(path, lock, cache))
		if err != nil {
			return nil, fmt.Errorf("open database %s: %w", path, err)
		}
		db := sql.OpenDB(prepared{c})
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections) // a new one reads the schema and compiles its statements
		return db, nil
	}
	readers, err := connect("deferred", readerCache, 8)
	if err != nil {
		return nil, err
	}
	writers, err := connect("immediate", writerCache, 1)
	if err != nil {
		return nil, err
	}
	return &database{
		name: path, readers: readers, writers: writers,
		dialect: goose.DialectSQLite3, migrations: "migrations/sqlite", checkOwner: checkSQLiteOwner,
		repeatable: func(error) bool { return false },
		// The driver starts a goroutine to watch each statement that can be cancelled. Ours take microseconds; between
		// them database/sql sees the end of the context.
		within: context.WithoutCancel,
	}, nil
}

// sqliteDSN puts the settings into the DSN, so that every connection of the pool has them.
func sqliteDSN(path, lock string, cache int) string {
	q := url.Values{
		"_txlock":       {lock},
		"_busy_timeout": {fmt.Sprint(busyTimeout.Milliseconds())},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},
		"_foreign_keys": {"1"},
		"_dqs":          {"0"}, // a misspelt column is an error, not a string
		"_defensive":    {"1"},
		"_pragma":       {"trusted_schema(0)", fmt.Sprintf("cache_size(%d)", -cache)},
		"mode":          {"rw"},
	}
	// In a file: URI the path's own ?, # and % must be escaped; a Windows path needs a leading slash.
	p := filepath.ToSlash(path)
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return (&url.URL{Scheme: "file", Path: p, RawQuery: q.Encode()}).String()
}

// createFile makes an empty file that is readable by its owner only, and must not be there yet.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	return nil
}

// checkFile finds a database file that is missing, empty or something else. SQLite takes an empty file for a new
// database: every PC would be unknown, and nobody would know why.
func checkFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // SQLite says "unable to open" to everything
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("database: %w; correct database in manager.toml, or put back the one from a backup", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("database: %w; run this as the user that the manager runs as", err)
	case err != nil:
		return fmt.Errorf("database: %w", err)
	}
	defer f.Close()
	const begin = "SQLite format 3\x00" // sqlite.org/fileformat2.html, 1.3
	head := make([]byte, len(begin))
	switch _, err := io.ReadFull(f, head); {
	case err == io.EOF:
		return fmt.Errorf("database %s is empty: %s", path, putBack)
	case err == nil && string(head) != begin || err == io.ErrUnexpectedEOF:
		return fmt.Errorf("%s is no SQLite database: %s", path, putBack)
	case err != nil:
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

// checkSQLiteOwner refuses a database that is another program's. One without any table but goose's is being made.
func checkSQLiteOwner(ctx context.Context, db *sql.DB) error {
	var id, tables int
	if err := db.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&id); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_master WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE 'goose\_%' ESCAPE '\'`).Scan(&tables); err != nil {
		return err
	}
	if id != applicationID && tables > 0 {
		return errors.New("it is another program's, or its marks are damaged; correct database in manager.toml, or " + putBack)
	}
	return nil
}

// SQLite's result codes (sqlite.org/rescode.html). The primary ones stand in the low byte.
const (
	sqliteBusy         = 5
	sqliteReadOnly     = 8
	sqliteIO           = 10
	sqliteCorrupt      = 11
	sqliteFull         = 13
	sqliteNotADatabase = 26
	sqliteShmSize      = sqliteIO | 19<<8 // no room for the index of the write-ahead log: what opening says on a full disk
)

// resultCode is SQLite's extended result code of an error, 0 for others.
func resultCode(err error) int {
	var e interface {
		error
		Code() int
	}
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// IsFull reports whether an error of the database says that its disk is full.
func IsFull(err error) bool {
	code := resultCode(err)
	return code == sqliteFull || code == sqliteShmSize || sqlState(err) == pgDiskFull
}

// Remedy is what to do about an error that the database gives without saying it; "" where nothing is known.
func Remedy(err error) string {
	switch code := resultCode(err); {
	case IsFull(err):
		return "make room on that disk, then do this again"
	case code&0xff == sqliteCorrupt || code&0xff == sqliteNotADatabase:
		return "the database is damaged: " + putBack
	case code&0xff == sqliteReadOnly:
		return "see that this user may write to the database, its folder and its disk"
	case code&0xff == sqliteIO:
		return "see that the disk is there, has room and works"
	case code&0xff == sqliteBusy:
		return "another program holds the database: end it, or wait for it"
	}
	return postgresRemedy(err)
}

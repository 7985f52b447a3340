// Package registry is the manager's memory of its PCs: assets, the host IDs that they had, every report that was
// accepted, every decision about identity with its evidence, and the conflicts that wait for an operator. It owns
// the database: no other package holds SQL.
//
// A Registry is the checkin.HigherSystem at the end of every way up. What CheckIn decides is stated in
// docs/decisions/0030-accepting-reports.md; each rule is a check followed by a write, so it all runs inside one
// transaction that no other writer can enter.
//
// # Time
//
// The time of a report is its receipt, by Options.Now. A client's own clock decides nothing.
//
// # Text
//
// Whatever a client reported is stored and returned as it came. Whoever shows it escapes it for the place where
// it is shown.
package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
)

// DefaultInterval is the time between two check-ins of a client. A host counts as live for three of them: with
// 15 minutes a PC that went away shows within the hour, and ten thousand PCs make eleven reports per second.
const DefaultInterval = 15 * time.Minute

// liveIntervals is how many intervals may pass before a host that says nothing is no longer live (protocol).
const liveIntervals = 3

// Options are what a Registry needs besides its database.
type Options struct {
	Key      ed25519.PrivateKey // the manager's; without it CheckIn fails, everything else works
	Interval time.Duration      // told to clients with every reply; 0: DefaultInterval
	Now      func() time.Time   // nil: time.Now
}

// Registry is the open database. It may be used by many goroutines, and by several processes at once.
type Registry struct {
	*database
	key      ed25519.PrivateKey
	audience checkin.Fingerprint
	interval time.Duration
	now      func() time.Time
	marks    atomic.Pointer[placeholderList] // as last read
	paced    atomic.Pointer[pace]            // as last read

	quick lane   // all check-ins
	lanes []lane // those that are to be decided about, where that is not done in quick, too; the reports of a host keep to one
	busy  busyness

	wrote wrote // figures

	latest atomic.Int64 // the time of the latest batch, in milliseconds; 0 before the first

	gather time.Duration // Gather

	restless bool // no host comes to rest: tests compare

	posted, progressed bell // work for relays, and what they said of it
}

// A database is all that differs between the places that a Registry may live in. The SQL is one text for all of them;
// what that text may use is stated in docs/decisions/0034-databases.md.
type database struct {
	name    string // for messages: without a password
	readers *sql.DB
	writers *sql.DB

	postgres *pgx.ConnConfig // what River connects with; nil where it has a file of its own (openQueue)

	dialect    goose.Dialect
	migrations string // their folder
	checkOwner func(context.Context, *sql.DB) error

	side       int            // lanes that decide about check-ins side by side; 0: that is done with the others
	snapshot   *sql.TxOptions // of a transaction that sees everything as of one moment; nil: every one does
	isolation  sql.IsolationLevel
	light      sql.IsolationLevel                    // of a transaction that finds out by itself whether others were in its way (errMoved)
	within     func(context.Context) context.Context // for the statements of a transaction that began under that context
	repeatable func(error) bool                      // reports whether a transaction that failed so has left nothing behind, and may go well the next time
}

// ErrUnknown is what a question about something that is not in the registry is answered with.
var ErrUnknown = errors.New("unknown")

//go:embed migrations
var migrations embed.FS

// Create makes the tables in the database that dsn names, and opens it. A SQLite file must not exist yet, and becomes
// readable by its owner only; a PostgreSQL database must be there, without tables, or with ours and nothing in them: else
// the error wraps ErrNotEmpty.
func Create(ctx context.Context, dsn string, o Options) (*Registry, error) {
	if IsPostgres(dsn) {
		return createPostgres(ctx, dsn, o)
	}
	path, err := sqlitePath(dsn)
	if err != nil {
		return nil, err
	}
	if err := createFile(path); err != nil {
		return nil, err
	}
	r, err := openSQLite(ctx, path, o)
	if err != nil {
		os.Remove(path)
	}
	return r, err
}

// Open opens the database that dsn names ("sqlite:" and a full path, or "postgres://...") and brings its tables up to
// date. A database that is not there, or a PostgreSQL database without our tables, wraps fs.ErrNotExist. The caller
// closes the Registry.
func Open(ctx context.Context, dsn string, o Options) (*Registry, error) {
	if IsPostgres(dsn) {
		return openPostgres(ctx, dsn, o)
	}
	path, err := sqlitePath(dsn)
	if err != nil {
		return nil, err
	}
	if err := checkFile(path); err != nil {
		return nil, err
	}
	return openSQLite(ctx, path, o)
}

func openSQLite(ctx context.Context, path string, o Options) (*Registry, error) {
	d, err := sqliteDatabase(path)
	if err != nil {
		return nil, err
	}
	return open(ctx, d, o)
}

// open takes over d, also when it fails.
func open(ctx context.Context, d *database, o Options) (*Registry, error) {
	r := &Registry{database: d, interval: o.Interval, now: o.Now, lanes: make([]lane, d.side)}
	if r.interval == 0 {
		r.interval = DefaultInterval
	}
	if r.now == nil {
		r.now = time.Now
	}
	err := r.checkOwner(ctx, r.writers)
	if err == nil {
		err = r.migrate(ctx)
	}
	if err == nil && o.Key != nil {
		err = r.claim(ctx, o.Key)
	}
	if err == nil {
		_, err = r.readPace(ctx, r.readers)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("open database %s: %w", d.name, err)
	}
	return r, nil
}

// Close ends the use of the database.
func (r *Registry) Close() error { return errors.Join(r.writers.Close(), r.readers.Close()) }

// Ready reports whether the database answers.
func (r *Registry) Ready(ctx context.Context) error {
	var n int
	return r.readers.QueryRowContext(ctx, `SELECT COUNT(*) FROM tokens WHERE id = ''`).Scan(&n)
}

// migrate brings the tables up to date. Two processes may try it at once: each migration is a transaction, so the
// later one fails whole, looks again and finds it done.
func (r *Registry) migrate(ctx context.Context) error {
	sub, err := fs.Sub(migrations, r.migrations)
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true), goose.WithAllowOutofOrder(true), goose.WithSlog(slog.New(slog.DiscardHandler))}
	if r.dialect == goose.DialectPostgres {
		alone, err := migrationLock()
		if err != nil {
			return err
		}
		options = append(options, alone)
	}
	p, err := goose.NewProvider(r.dialect, r.writers, sub, options...)
	if err != nil {
		return err
	}
	const tries = 3
	for try := 1; ; try++ {
		current, target, err := p.GetVersions(ctx)
		switch {
		case err == nil && current > target:
			return fmt.Errorf("a newer samehost-manager wrote it (tables of version %d, this one knows %d): upgrade this program", current, target)
		case err == nil:
			pending, failed := p.HasPending(ctx) // whatever number is missing: releases may add them in another order
			if err = failed; err == nil && !pending {
				return nil
			}
			if err == nil {
				_, err = p.Up(ctx)
			}
		}
		if err != nil && (try == tries || ctx.Err() != nil) {
			return fmt.Errorf("bring tables up to date: %w", err)
		}
	}
}

// A transaction is one writing transaction and the moment at which it decides. It carries its context, since it
// lives and dies within one call.
type transaction struct {
	*sql.Tx
	ctx context.Context
	reg *Registry
	now time.Time

	placeholders hardware.Placeholders // the manager's own, beside those that are built in (decide)
	listDigest   string                // that they are named by
	pace         pace

	// Of the report that is decided about: its receipt by the first that took it, whether that is known for sure only if other
	// reports agree, and the relays on its way.
	received  time.Time
	uncertain bool
	route     string

	conflictsChanged bool // a conflict was opened or closed
	wonders          bool // whether its host is a copy may have to be asked later
}

// How often a transaction is run that others are in the way of. A batch of reports has waited for a second or two by then, and whoever
// sent them sends them again; nobody gives a command again by himself, so one waits for up to half a minute.
const (
	maxTries        = 10
	maxCommandTries = 50
)

// write runs f as if alone among all writers, and commits what it did unless it fails. Where another transaction was
// in the way it runs f again, from the beginning: whatever f changes outside the transaction it must set anew each
// time. Every transaction that writes goes through here.
func (r *Registry) write(ctx context.Context, f func(*transaction) error) error {
	return r.writeIn(ctx, r.isolation, maxCommandTries, f)
}

func (r *Registry) writeIn(ctx context.Context, level sql.IsolationLevel, tries int, f func(*transaction) error) error {
	for try := 1; ; try++ {
		err := r.writeOnce(ctx, level, f)
		if err == nil || !r.again(err) {
			return err
		}
		if try >= tries {
			return fmt.Errorf("%w (tried %d times)", err, try)
		}
		pause := time.NewTimer(rand.N(time.Millisecond << min(try, 10))) // apart from the one that it met
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// errMoved says that what a transaction was about to write over is not what it had read.
var errMoved = errors.New("another transaction wrote the same rows")

// again reports whether a transaction that failed so may go well the next time.
func (r *Registry) again(err error) bool { return errors.Is(err, errMoved) || r.repeatable(err) }

func (r *Registry) writeOnce(ctx context.Context, level sql.IsolationLevel, f func(*transaction) error) (err error) {
	defer r.wrote.since(time.Now(), &err)
	tx, err := r.writers.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// The moment is taken inside: whoever writes later has the later time.
	t := &transaction{Tx: tx, ctx: r.within(ctx), reg: r, now: r.now().UTC().Truncate(time.Millisecond)}
	if err := f(t); err != nil {
		if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil { // which rolls back, between two statements
			err = ctx.Err()
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		if level != sql.LevelDefault && connectionLost(err) {
			return &UncertainError{err}
		}
		return err
	}
	return nil
}

// UncertainError says that the connection to the database was lost while it was told to keep what was done: nobody knows
// whether it did. A report can be sent again; whoever gave a command looks first.
type UncertainError struct{ Err error }

func (e *UncertainError) Error() string {
	return "the database went away, and whether this was done is not known: look, and do it again if it was not: " + e.Err.Error()
}

func (e *UncertainError) Unwrap() error { return e.Err }

// exec runs a statement and returns how many rows it changed.
func (t *transaction) exec(query string, args ...any) (int64, error) {
	res, err := t.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// get scans the one row of a query; false if there is none.
func (t *transaction) get(query string, args, dest []any) (bool, error) {
	err := t.QueryRowContext(t.ctx, query, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// insert runs INSERT ... RETURNING id.
func (t *transaction) insert(query string, args ...any) (id int64, err error) {
	err = t.QueryRowContext(t.ctx, query+` RETURNING id`, args...).Scan(&id)
	return id, err
}

func millis(t time.Time) int64 { return t.UnixMilli() }

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func nullTime(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromNullTime(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return fromMillis(n.Int64)
}

// toJSON is for values of our own types, which always encode.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("registry: " + err.Error())
	}
	return string(b)
}

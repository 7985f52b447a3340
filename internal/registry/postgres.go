package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	postgresConnections = 8 // of each kind, per process: PostgreSQL's own default is 100 for all
	postgresIdle        = 5 * time.Minute
	postgresLife        = time.Hour // so that what changes behind a name, and certificates, are taken note of
	connectTimeout      = 10        // seconds
	oldestPostgres      = 140000    // server_version_num

	// A manager that is cut off in the middle of a transaction must not be in the way of the others.
	idleInTransaction = "60s"
)

// postgresProgram begins the names under which PostgreSQL shows our connections.
const postgresProgram = "samehost-manager"

// postgresMark is the comment on the table assets that marks a database as a registry's. The first migration sets it.
const postgresMark = "samehost registry"

// IsPostgres reports whether a DSN names a PostgreSQL database.
func IsPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres:") || strings.HasPrefix(dsn, "postgresql:")
}

// postgresConfig reads a DSN (postgresql.org/docs/current/libpq-connect.html, 34.1.1.2). A server on another machine is
// spoken to with TLS, and its certificate verified, unless the DSN says otherwise. No error holds any of the password.
func postgresConfig(dsn string) (*pgx.ConnConfig, error) {
	const form = "write it as postgres://USER@HOST/NAME?sslmode=verify-full, the password in a file that passfile=FILE names, or with its special characters as %XX"
	u, err := url.Parse(dsn)
	if err != nil || u.Opaque != "" { // the error holds the text
		return nil, errors.New("database: that is no URI: " + form)
	}
	c, err := pgx.ParseConfig(dsn)
	if err == nil && u.Query().Get("sslmode") == "" && u.Query().Get("service") == "" && os.Getenv("PGSSLMODE") == "" && !isLocal(c) {
		q := u.Query()
		q.Set("sslmode", "verify-full")
		u.RawQuery = q.Encode()
		c, err = pgx.ParseConfig(u.String())
	}
	if err != nil {
		what := "its settings cannot be read"
		var parse *pgconn.ParseConfigError
		if errors.As(err, &parse) && parse.Unwrap() != nil {
			what = hide(parse.Unwrap().Error(), u)
		}
		return nil, fmt.Errorf("database %s: %s; %s", postgresName(u), what, form)
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout * time.Second
	}
	for name, value := range map[string]string{"application_name": programName(), "idle_in_transaction_session_timeout": idleInTransaction} {
		if c.RuntimeParams[name] == "" {
			c.RuntimeParams[name] = value
		}
	}
	return c, nil
}

// isLocal reports whether every server that may be connected to is on this machine.
func isLocal(c *pgx.ConnConfig) bool {
	hosts := []string{c.Host}
	for _, f := range c.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	return !slices.ContainsFunc(hosts, func(host string) bool {
		a, err := netip.ParseAddr(host)
		return host != "localhost" && !strings.HasPrefix(host, "/") && (err != nil || !a.IsLoopback())
	})
}

// postgresName is what a database is called in messages: without password and settings.
func postgresName(u *url.URL) string {
	host := u.Host
	if host == "" {
		host = u.Query().Get("host")
	}
	name := "postgres://" + host + "/" + strings.TrimPrefix(u.Path, "/")
	if user := u.User.Username(); user != "" {
		name = "postgres://" + user + "@" + strings.TrimPrefix(name, "postgres://")
	}
	return name
}

// hide takes every password of the DSN out of a text.
func hide(text string, u *url.URL) string {
	secrets := []string{u.Query().Get("password"), u.Query().Get("sslpassword")}
	if p, ok := u.User.Password(); ok {
		secrets = append(secrets, p)
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.NewReplacer(s, "***", url.QueryEscape(s), "***", url.PathEscape(s), "***").Replace(text)
		}
	}
	return text
}

// postgresLanes is how many batches of decisions are under way at a time: while one waits for the server, another is made. Reports
// that need no decision are one batch at a time, since what that costs the server is by the batch.
const postgresLanes = 4

// postgresDatabase is the database that a server holds. Several managers may work on it at once: every transaction that
// writes is serializable, and run again where it met another one.
func postgresDatabase(dsn string) (*database, error) {
	c, err := postgresConfig(dsn)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, errors.New("database: that is no URI")
	}
	connect := func() *sql.DB {
		db := sql.OpenDB(postgresConnector{stdlib.GetConnector(*c)})
		db.SetMaxOpenConns(postgresConnections)
		db.SetMaxIdleConns(postgresConnections)
		db.SetConnMaxIdleTime(postgresIdle)
		db.SetConnMaxLifetime(postgresLife)
		return db
	}
	return &database{
		name: postgresName(u), readers: connect(), writers: connect(), postgres: c,
		dialect: goose.DialectPostgres, migrations: "migrations/postgres",
		snapshot: &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
		side:     postgresLanes, isolation: sql.LevelSerializable, light: sql.LevelReadCommitted, repeatable: postgresRepeatable,
		within: func(ctx context.Context) context.Context { return ctx },
	}, nil
}

// openPostgres opens a database that has our tables.
func openPostgres(ctx context.Context, dsn string, o Options) (*Registry, error) {
	d, err := postgresDatabase(dsn)
	if err != nil {
		return nil, err
	}
	d.checkOwner = func(ctx context.Context, db *sql.DB) error {
		tables, err := checkPostgres(ctx, db)
		if err == nil && tables == 0 {
			err = fmt.Errorf("%w: it has no tables; correct database in manager.toml, or put back a backup", fs.ErrNotExist)
		}
		return err
	}
	return open(ctx, d, o)
}

// createPostgres makes our tables in a database that has none, and opens it. Where the tables are there and nobody was
// ever in them, somebody was interrupted.
func createPostgres(ctx context.Context, dsn string, o Options) (*Registry, error) {
	d, err := postgresDatabase(dsn)
	if err != nil {
		return nil, err
	}
	d.checkOwner = func(ctx context.Context, db *sql.DB) error { _, err := checkPostgres(ctx, db); return err }
	key := o.Key
	o.Key = nil
	r, err := open(ctx, d, o)
	if err != nil {
		return nil, err
	}
	var used bool
	err = r.readers.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM administrators) OR EXISTS (SELECT 1 FROM tokens) OR EXISTS (SELECT 1 FROM hosts) OR EXISTS (SELECT 1 FROM history)`).Scan(&used)
	if err == nil && used {
		err = fmt.Errorf("%w: make another database", ErrNotEmpty)
	}
	if err == nil && key != nil { // whoever was interrupted had another one
		if _, err = r.writers.ExecContext(ctx, `DELETE FROM manager`); err == nil {
			err = r.claim(ctx, key)
		}
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("database %s: %w", d.name, err)
	}
	return r, nil
}

// checkPostgres refuses a database that is another program's, or whose settings break what is promised, and counts the
// tables in it.
func checkPostgres(ctx context.Context, db *sql.DB) (tables int, err error) {
	var version int
	var encoding, provider, collate, ctype, synchronous string
	// The catalog's columns differ between releases; as JSON it has those that there are.
	err = db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, pg_encoding_to_char(d.encoding), COALESCE(to_jsonb(d)->>'datlocprovider', 'c'),
		COALESCE(CASE WHEN to_jsonb(d)->>'datlocprovider' = 'b' THEN to_jsonb(d)->>'datlocale' END, d.datcollate), d.datctype, current_setting('synchronous_commit')
		FROM pg_database d WHERE d.datname = current_database()`).Scan(&version, &encoding, &provider, &collate, &ctype, &synchronous)
	if err != nil {
		return 0, err
	}
	bytewise := func(s string) bool { return s == "C" || s == "POSIX" }
	switch {
	case version < oldestPostgres:
		return 0, fmt.Errorf("PostgreSQL %d is too old: this program needs %d or later", version/10000, oldestPostgres/10000)
	case encoding != "UTF8" || provider != "b" && provider != "c" || !bytewise(collate) || provider == "c" && !bytewise(ctype):
		return 0, fmt.Errorf(`its encoding is %s and its collation %s, but text is to be UTF8 and compared byte by byte: make the database with CREATE DATABASE NAME TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`, encoding, collate)
	case synchronous == "off":
		return 0, errors.New("synchronous_commit is off, and a loss of power would lose what PCs were told is kept: set it to on for this database, with ALTER DATABASE NAME SET synchronous_commit = on")
	}
	mark := ""
	tables, mark, err = postgresTables(ctx, db)
	if err != nil {
		return 0, err
	}
	if tables > 0 && mark != postgresMark {
		return 0, errors.New("it is another program's; correct database in manager.toml, or " + putBack)
	}
	return tables, nil
}

// postgresTables counts the tables in the schema that ours are made in, and reads what marks them as ours.
func postgresTables(ctx context.Context, db *sql.DB) (tables int, mark string, err error) {
	err = db.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MAX(CASE WHEN c.relname = 'assets' THEN obj_description(c.oid, 'pg_class') END), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname NOT LIKE 'goose\_%' AND c.relname NOT LIKE 'river\_%'`).Scan(&tables, &mark)
	return tables, mark, err
}

// migrationLock lets one process at a time change tables.
func migrationLock() (goose.ProviderOption, error) {
	l, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, err
	}
	return goose.WithSessionLocker(l), nil
}

// postgresConnector makes connections whose text is plain and whose serializable transactions have their view of the
// data from the beginning. pgx keeps statements prepared by itself.
type postgresConnector struct{ driver.Connector }

func (p postgresConnector) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &postgresConn{c.(*stdlib.Conn)}, nil
}

type postgresConn struct{ *stdlib.Conn }

// CheckNamedValue implements driver.NamedValueChecker.
func (c *postgresConn) CheckNamedValue(v *driver.NamedValue) error { return plainText(v) }

// BeginTx implements driver.ConnBeginTx. PostgreSQL takes a transaction's view of the data at its first query, not when
// it begins; one that is sent along makes what a writer reads no newer than its moment, at no cost.
func (c *postgresConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if sql.IsolationLevel(o.Isolation) != sql.LevelSerializable || o.ReadOnly {
		return c.Conn.BeginTx(ctx, o)
	}
	if c.Conn.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	tx, err := c.Conn.Conn().BeginTx(ctx, pgx.TxOptions{BeginQuery: `BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; SELECT 1`})
	if err != nil {
		return nil, err
	}
	return postgresTx{ctx, tx}, nil
}

type postgresTx struct {
	ctx context.Context
	tx  pgx.Tx
}

func (t postgresTx) Commit() error { return t.tx.Commit(t.ctx) }

func (t postgresTx) Rollback() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), connectTimeout*time.Second)
	defer cancel()
	return t.tx.Rollback(ctx)
}

// SQLSTATEs (postgresql.org/docs/current/errcodes-appendix.html). The first two characters are the class.
const (
	pgConnection      = "08"
	pgBadLogon        = "28"
	pgNoDatabase      = "3D000"
	pgNoRight         = "42501"
	pgReadOnly        = "25006"
	pgUnique          = "23505"
	pgSerialization   = "40001"
	pgDeadlock        = "40P01"
	pgNoResources     = "53"
	pgDiskFull        = "53100"
	pgTooMany         = "53300"
	pgAdminShutdown   = "57P01"
	pgCrashShutdown   = "57P02"
	pgCannotConnect   = "57P03"
	pgIdleTransaction = "25P03"
	pgSystem          = "58" // input and output
	pgDamaged         = "XX001"
	pgDamagedIndex    = "XX002"
)

// sqlState is PostgreSQL's code of an error, "" for others.
func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// connectionLost reports whether an error says that the server was not reached, or went away.
func connectionLost(err error) bool {
	switch code := sqlState(err); {
	case code == pgAdminShutdown, code == pgCrashShutdown, code == pgCannotConnect, code == pgIdleTransaction, strings.HasPrefix(code, pgConnection):
		return true
	case code != "":
		return false
	}
	var network *net.OpError
	var connect *pgconn.ConnectError
	return errors.As(err, &network) || errors.As(err, &connect) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// postgresRepeatable: what a serializable transaction that failed so was meant to do, it may do the next time. A key that
// is there already may be one that another transaction made meanwhile (postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
func postgresRepeatable(err error) bool {
	var uncertain *UncertainError
	if errors.As(err, &uncertain) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	switch sqlState(err) {
	case pgSerialization, pgDeadlock, pgUnique, pgTooMany:
		return true
	}
	return connectionLost(err) && !strings.HasPrefix(sqlState(err), pgBadLogon)
}

// postgresRemedy is what to do about an error of PostgreSQL.
func postgresRemedy(err error) string {
	switch code := sqlState(err); {
	case code == pgDiskFull:
		return "make room on that disk, then do this again"
	case code == pgReadOnly:
		return "that server takes no changes: name the one that does in database, or add target_session_attrs=read-write to it"
	case code == pgNoRight:
		return "let this user own the database and its tables"
	case code == pgNoDatabase:
		return "make that database, or correct database in manager.toml"
	case strings.HasPrefix(code, pgBadLogon):
		return "correct user and password in database, and see pg_hba.conf of that server"
	case code == pgTooMany || strings.HasPrefix(code, pgNoResources):
		return "raise max_connections of that server, or end what else uses it"
	case code == pgDamaged || code == pgDamagedIndex:
		return "the database is damaged: " + putBack
	case strings.HasPrefix(code, pgSystem):
		return "see that the disk of that server is there, has room and works"
	case code == pgSerialization || code == pgDeadlock:
		return "others were in the way all the time: do this again"
	case code != "" && connectionLost(err) || errors.As(err, new(*pgconn.ConnectError)): // other errors of the network are not known to be its
		return "see that PostgreSQL runs and can be reached from here"
	}
	return ""
}

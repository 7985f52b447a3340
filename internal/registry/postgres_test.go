package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"samehost/internal/checkin"
	"samehost/internal/registry/pgtest"
)

// onPostgres tells the tests to run on PostgreSQL: the folder of a server's socket, and the name of a database with the
// tables to copy.
const onPostgres = "SAMEHOST_TEST_POSTGRES"

// databases are those with the tables in them that no test uses. Making one takes longer than most tests do.
type databases struct {
	server   *pgtest.Server
	template string
	mu       sync.Mutex
	free     []string
}

// forget makes a database as it was made: the schema initial holds the rows that were there then.
const forget = `DO $$ DECLARE r record; BEGIN
	SET LOCAL session_replication_role = replica;
	FOR r IN SELECT quote_ident(relname) AS name, relkind = 'S' AS counts FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') LOOP
		IF r.counts THEN PERFORM setval(r.name::regclass, 1, FALSE); ELSE EXECUTE 'DELETE FROM ' || r.name; END IF;
	END LOOP;
	FOR r IN SELECT quote_ident(relname) AS name FROM pg_class WHERE relnamespace = 'initial'::regnamespace AND relkind = 'r' LOOP
		EXECUTE 'INSERT INTO public.' || r.name || ' SELECT * FROM initial.' || r.name;
	END LOOP;
END $$`

const remember = `DO $$ DECLARE r record; n bigint; BEGIN
	CREATE SCHEMA initial;
	FOR r IN SELECT quote_ident(relname) AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
		EXECUTE 'SELECT COUNT(*) FROM public.' || r.name INTO n;
		IF n > 0 THEN EXECUTE 'CREATE TABLE initial.' || r.name || ' AS TABLE public.' || r.name; END IF;
	END LOOP;
END $$`

// take returns the DSN of a database that the test has for itself.
func (d *databases) take(t testing.TB) string {
	t.Helper()
	d.mu.Lock()
	var name string
	if n := len(d.free); n > 0 {
		name, d.free = d.free[n-1], d.free[:n-1]
	}
	d.mu.Unlock()
	if name == "" {
		name = d.server.Make(t, d.template) // ends with the server
	}
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		d.server.In(t, name, forget)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.free = append(d.free, name)
	})
	return d.server.DSN(name)
}

// ranOn is where the tests run, nil for SQLite.
var ranOn = sync.OnceValue(func() *databases {
	at := os.Getenv(onPostgres)
	if at == "" {
		return nil
	}
	socket, template, _ := strings.Cut(at, " ")
	return &databases{server: pgtest.At(socket), template: template}
})

// needsSQLite leaves out what is about SQLite where the tests run on PostgreSQL.
func needsSQLite(t testing.TB) {
	t.Helper()
	if os.Getenv(onPostgres) != "" {
		t.Skip("about SQLite")
	}
}

// tables makes a database with the tables in it.
func tables(t testing.TB, s *pgtest.Server) (template string) {
	t.Helper()
	template = s.Make(t, "")
	reg, err := Create(t.Context(), s.DSN(template), Options{})
	must(t, err)
	must(t, reg.Close())
	s.In(t, template, remember)
	return template
}

// All tests of this package hold on PostgreSQL too. To run one of them there: -run 'TestOnPostgreSQL/TestName'.
func TestOnPostgreSQL(t *testing.T) {
	t.Parallel()
	if os.Getenv(onPostgres) != "" {
		t.Skip("this is it")
	}
	s := pgtest.Start(t)
	which, _ := strings.CutPrefix(flag.Lookup("test.run").Value.String(), "TestOnPostgreSQL/")
	if !strings.HasPrefix(flag.Lookup("test.run").Value.String(), "TestOnPostgreSQL/") {
		which = postgresTests
	}
	args := []string{"-test.run=" + which, "-test.skip=^TestOnPostgreSQL$", "-test.count=1", "-test.failfast=" + flag.Lookup("test.failfast").Value.String()}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), onPostgres+"="+s.Socket+" "+tables(t, s))
	out, err := c.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("on PostgreSQL: %v\n%s", err, out)
	}
	if err != nil {
		t.Fail()
	}
}

// unlucky makes connections on which every third transaction that writes has met another one when it commits: whatever
// is decided in one must come out the same the second time.
type unlucky struct {
	driver.Connector
	begun *atomic.Int64
}

func (u unlucky) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := u.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return unluckyConn{c.(*postgresConn), u.begun}, nil
}

type unluckyConn struct {
	*postgresConn
	begun *atomic.Int64
}

// numbersAsTheyAre makes a statement that gives the next rows the numbers that they get now: tests look at them, and PostgreSQL
// never gives one twice.
const numbersAsTheyAre = `SELECT string_agg(format('SELECT setval(%L, %s, %L)', oid::regclass, COALESCE(pg_sequence_last_value(oid), 1), pg_sequence_last_value(oid) IS NOT NULL), '; ')
	FROM pg_class WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace`

func (c unluckyConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.postgresConn.BeginTx(ctx, o)
	if err != nil || sql.IsolationLevel(o.Isolation) != sql.LevelSerializable || c.begun.Add(1)%3 != 0 {
		return tx, err
	}
	var before string
	if err := c.Conn.Conn().QueryRow(ctx, numbersAsTheyAre).Scan(&before); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return unluckyTx{tx, func() error { _, err := c.Conn.Conn().Exec(ctx, before); return err }}, nil
}

type unluckyTx struct {
	driver.Tx
	reset func() error
}

func (t unluckyTx) Commit() error {
	if err := errors.Join(t.Rollback(), t.reset()); err != nil {
		return err
	}
	return &pgconn.PgError{Code: pgSerialization, Severity: "ERROR", Message: "unlucky"}
}

// unlucky makes the manager's transactions fail now and then.
func (m *manager) unlucky(t testing.TB) {
	t.Helper()
	c, err := postgresConfig(m.dsn)
	must(t, err)
	must(t, m.writers.Close())
	m.lanes = nil // while numbers are set back nobody else may draw any
	m.writers = sql.OpenDB(unlucky{postgresConnector{stdlib.GetConnector(*c)}, new(atomic.Int64)})
	m.writers.SetMaxOpenConns(postgresConnections)
	m.writers.SetMaxIdleConns(postgresConnections)
}

// No error says any of a password, whatever is wrong with the address or the server.
func TestPasswordStaysSecret(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	at := url.QueryEscape(s.Socket)
	for name, dsn := range map[string]string{
		"no URI":            "postgres://samehost:hunter2@[::1/samehost",
		"bad escape":        "postgres://samehost:hunter2%zz@/samehost?host=" + at,
		"bad port":          "postgres://samehost:hunter2@127.144.0.1:nonsense/samehost",
		"opaque":            "postgres:samehost:hunter2@127.144.0.1",
		"bad mode":          "postgres://samehost:hunter2@/samehost?sslmode=nonsense&host=" + at,
		"no CA":             "postgres://samehost@/samehost?password=hunter2&sslmode=verify-full&sslrootcert=/none/hunter2&host=" + at,
		"slash in it":       "postgres://samehost:hunter2/x@127.144.0.1/samehost",
		"at sign in it":     "postgres://samehost:hunter2@x@127.144.0.1/samehost?connect_timeout=1",
		"nobody there":      "postgres://samehost:hunter2@127.144.0.1:1/samehost?connect_timeout=1",
		"no such user":      "postgres://samehost:hunter2@/postgres?host=" + at,
		"no such database":  "postgres://postgres:hunter2@/none?host=" + at,
		"password as a key": "postgres://postgres@/none?password=hunter2&host=" + at,
		"no tables":         "postgres://postgres:hunter2@/postgres?host=" + at,
	} {
		t.Run(name, func(t *testing.T) {
			reg, err := Open(t.Context(), dsn, Options{})
			if err == nil {
				reg.Close()
				t.Fatal("it was opened")
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(Remedy(err), "hunter2") {
				t.Errorf("%v; %s", err, Remedy(err))
			}
			if !strings.Contains(err.Error(), "database") {
				t.Errorf("%v: want to know that it is about the database", err)
			}
		})
	}
}

// A database whose settings break what is promised is refused, with what to do.
func TestUnfitPostgreSQL(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	for name, test := range map[string]struct{ create, within, want string }{
		"collation":   {create: `CREATE DATABASE unfit TEMPLATE template0 LOCALE 'C.UTF-8'`, want: "LOCALE 'C'"},
		"encoding":    {create: `CREATE DATABASE unfit TEMPLATE template0 ENCODING 'SQL_ASCII'`, want: "ENCODING 'UTF8'"},
		"no promises": {create: `CREATE DATABASE unfit`, within: `ALTER DATABASE unfit SET synchronous_commit = off`, want: "SET synchronous_commit = on"},
		"another's":   {create: `CREATE DATABASE unfit`, within: `CREATE TABLE assets (id BIGINT)`, want: "it is another program's"},
	} {
		s.In(t, "postgres", test.create)
		if test.within != "" {
			s.In(t, "unfit", test.within)
		}
		for what, open := range map[string]func(context.Context, string, Options) (*Registry, error){"Create": Create, "Open": Open} {
			if _, err := open(t.Context(), s.DSN("unfit"), Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %s: got %v, want %q", name, what, err, test.want)
			}
		}
		s.In(t, "postgres", `DROP DATABASE unfit WITH (FORCE)`)
	}
	empty := s.DSN(s.Make(t, ""))
	if _, err := Open(t.Context(), empty, Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "correct database") {
		t.Errorf("empty: got %v", err)
	}
	reg, err := Create(t.Context(), empty, Options{})
	must(t, err)
	defer reg.Close()
	must(t, reg.CreateAdministrator(t.Context(), "sato", "correct horse battery staple", ""))
	if _, err := Create(t.Context(), empty, Options{}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("in use: got %v", err)
	}
}

// A server on another machine is spoken to with TLS unless the address says otherwise.
func TestTLSUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]bool{
		"postgres://a@db.example/x":                   true,
		"postgres://a@192.0.2.1/x":                    true,
		"postgres://a@localhost,db.example/x":         true,
		"postgres://a@db.example/x?sslmode=disable":   false,
		"postgres://a@127.0.0.1/x":                    false,
		"postgres://a@[::1]/x":                        false,
		"postgres://a@localhost/x":                    false,
		"postgres://a@/x?host=/var/run/postgresql":    false,
		"postgresql://a@db.example/x?sslmode=require": true,
	} {
		c, err := postgresConfig(dsn)
		must(t, err)
		verified := c.TLSConfig != nil && !c.TLSConfig.InsecureSkipVerify
		if strings.Contains(dsn, "require") {
			verified = c.TLSConfig != nil
		}
		for _, f := range c.Fallbacks {
			verified = verified && f.TLSConfig != nil
		}
		if verified != want {
			t.Errorf("%s: TLS for sure: %t, want %t", dsn, verified, want)
		}
	}
}

// Two managers work on one database, whose connections break now and then, and whose server is killed once: each check-in that
// was acknowledged is there once, in its place, and no PC became two.
func TestManagersOnOneDatabase(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	dsn := s.DSN(s.Make(t, tables(t, s)))
	m := openManager(t, dsn)
	managers := []*Registry{m.Registry, m.again(t)}
	const pcs, rounds = 6, 12
	acknowledged := make(chan struct{}, pcs*rounds)
	var wg sync.WaitGroup
	for i := range pcs {
		p := newPC(m, fmt.Sprint("pc", i))
		wg.Go(func() {
			for range rounds {
				r := p.next()
				for try := 0; ; try++ {
					_, err := managers[(i+try)%2].CheckIn(t.Context(), r)
					if err == nil {
						break
					}
					var refusal *checkin.Refusal
					if errors.As(err, &refusal) || try == 200 || t.Context().Err() != nil {
						t.Errorf("%s: %v", p.report.Names.Host, err)
						return
					}
					select { // as a client that is told to come again
					case <-time.After(20 * time.Millisecond):
					case <-t.Context().Done():
					}
				}
				acknowledged <- struct{}{}
			}
		})
	}
	wg.Go(func() {
		for n := range pcs * rounds {
			select {
			case <-acknowledged:
			case <-t.Context().Done():
				return
			}
			switch {
			case n == pcs*rounds/2:
				s.Kill()
				s.Run(t)
			case n%5 == 0:
				s.In(t, "postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'samehost-manager %'`)
			}
		}
	})
	wg.Wait()
	assets, err := m.Assets(t.Context())
	must(t, err)
	expect(t, "assets", len(assets), pcs)
	for _, a := range assets {
		expect(t, a.Name+": epochs, branches", []int{len(a.Hosts), a.Hosts[0].Epochs, a.Hosts[0].Branches}, []int{1, 1, 1})
	}
	kept, err := numbers(t.Context(), m.readers, `SELECT CAST((SELECT COUNT(*) FROM reports) + (SELECT COALESCE(SUM(reports), 0) FROM resting) AS BIGINT)`)
	must(t, err)
	if kept[0] < pcs { // resting hosts count what they said, the others keep it
		t.Errorf("%d reports", kept[0])
	}
	ids, err := scanAll(t.Context(), m.readers, scanText, `SELECT missing FROM branches WHERE missing IS NOT NULL`)
	must(t, err)
	expect(t, "gaps", len(ids), 0)
}

func TestRepeatable(t *testing.T) {
	t.Parallel()
	broken := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for err, want := range map[error]bool{
		&pgconn.PgError{Code: pgSerialization}:                     true,
		fmt.Errorf("x: %w", &pgconn.PgError{Code: pgDeadlock}):     true,
		&pgconn.PgError{Code: pgAdminShutdown}:                     true,
		&pgconn.PgError{Code: "23503"}:                             false,
		&pgconn.PgError{Code: pgDiskFull}:                          false,
		&pgconn.PgError{Code: "28P01"}:                             false,
		broken:                                                     true,
		error(&UncertainError{broken}):                             false,
		fmt.Errorf("x: %w", context.Canceled):                      false,
		errors.New("an answer of ours"):                            false,
		fmt.Errorf("open %w", &fs.PathError{Err: syscall.ENOTDIR}): false,
	} {
		if got := postgresRepeatable(err); got != want {
			t.Errorf("%v: %t, want %t", err, got, want)
		}
	}
	if remedy := Remedy(&fs.PathError{Err: syscall.ENOTDIR}); remedy != "" {
		t.Errorf("a file's error has the remedy %q", remedy)
	}
	if !IsFull(&pgconn.PgError{Code: pgDiskFull}) {
		t.Error("a full disk of the server is none")
	}
}

// Text that PostgreSQL takes in no form is kept in another one, by either database.
func TestTextThatCannotBeKept(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "al\x00pha")
	p.report.Facts.Disks[0].Serial = "disk\x00\x01\u202e"
	p.report.Names.FQDN = "al\x00pha.example"
	p.checkIn()
	p.report.Names.Host = "other\x00"
	p.checkIn()
	made, err := m.CreateToken(t.Context(), time.Time{}, "note \xff\x00 end", "who\x00")
	must(t, err)
	all, err := m.Tokens(t.Context())
	must(t, err)
	all = slices.DeleteFunc(all, func(tok Token) bool { return tok.ID != made.ID })
	expect(t, "note", all[0].Note, "note \uFFFD\uFFFD end")
	assets, err := m.Assets(t.Context())
	must(t, err)
	expect(t, "name, as it was reported", assets[0].Name, "other\x00")
	found, err := scanAll(t.Context(), m.readers, scanText, `SELECT name FROM asset_names WHERE name = $1`, "al\x00pha.example")
	must(t, err)
	for _, name := range found {
		expect(t, "name to search by", name, "al\uFFFDpha.example")
	}
	if _, err := m.History(t.Context()); err != nil {
		t.Error(err)
	}
}

// The tables come forward from the first ones that there were on PostgreSQL, with what is in them.
func TestMigrationsOfPostgreSQL(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	dsn := s.DSN(s.Make(t, ""))
	d, err := postgresDatabase(dsn)
	must(t, err)
	defer d.readers.Close()
	defer d.writers.Close()
	sub, err := fs.Sub(migrations, d.migrations)
	must(t, err)
	p, err := goose.NewProvider(d.dialect, d.writers, sub, goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	must(t, err)
	if _, err := p.UpTo(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`INSERT INTO tokens (id, verifier, note, created) VALUES ('t', 'v', 'first', 1)`,
		`INSERT INTO assets (created, facts, seen, seen_host) VALUES (1, '{}', '{}', '')`,
		`INSERT INTO hosts (host_id, asset_id, home, last_checkin) VALUES ('0123456789abcdef0123456789abcdef', 1, 1, 1)`,
	} {
		_, err := d.writers.ExecContext(t.Context(), q)
		must(t, err)
	}
	m := openManager(t, dsn)
	all, err := m.Tokens(t.Context())
	must(t, err)
	expect(t, "first token", all[0].Note, "first")
	assets, err := m.Assets(t.Context())
	must(t, err)
	expect(t, "assets", len(assets), 1)
	newPC(m, "alpha").checkIn()
	assets, err = m.Assets(t.Context())
	must(t, err)
	expect(t, "assets", len(assets), 2)
}

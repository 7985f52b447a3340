package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

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
		which = "."
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
	m.writers = sql.OpenDB(unlucky{postgresConnector{stdlib.GetConnector(*c)}, new(atomic.Int64)})
	m.writers.SetMaxOpenConns(postgresConnections)
	m.writers.SetMaxIdleConns(postgresConnections)
}

package registry

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"samehost/internal/registry/pgtest"
)

// onPostgres tells the tests to run on PostgreSQL: the folder of a server's socket, and the name of a database with the
// tables to copy.
const onPostgres = "SAMEHOST_TEST_POSTGRES"

// newPostgres is a manager on PostgreSQL.
func newPostgres(t testing.TB, s *pgtest.Server, copyOf string) *manager {
	t.Helper()
	return openManager(t, s.DSN(s.Create(t, copyOf)))
}

// ranOn is the server that the tests run on, nil for SQLite; template is what newManager copies there.
var ranOn = sync.OnceValues(func() (s *pgtest.Server, template string) {
	if at := os.Getenv(onPostgres); at != "" {
		socket, template, _ := strings.Cut(at, " ")
		return pgtest.At(socket), template
	}
	return nil, ""
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
	template = s.Create(t, "")
	reg, err := Create(t.Context(), s.DSN(template), Options{})
	must(t, err)
	must(t, reg.Close())
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

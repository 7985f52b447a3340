package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"samehost/internal/registry/pgtest"
)

// The commands on PostgreSQL. DATABASE, EMPTY and EMPTY2 are databases without tables, NONE is not there, nobody answers at
// NOWHERE, and SECRET and what the file secret holds have a password.
func TestScriptsOnPostgreSQL(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/postgres",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "Asia/Tokyo")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector every process would sleep a second before it ends
			env.Setenv("LC_ALL", "C.UTF-8")
			env.Setenv("ADDRESS", ownAddress())
			for _, name := range []string{"DATABASE", "EMPTY", "EMPTY2"} {
				env.Setenv(name, s.DSN(s.Make(t, "")))
			}
			env.Setenv("NONE", s.DSN("none"))
			secret := strings.Replace(s.DSN(s.Make(t, "")), "postgres@", "postgres:hunter2@", 1)
			env.Setenv("SECRET", secret)
			env.Setenv("NOWHERE", strings.Replace(secret, filepath.Base(s.Socket), "nowhere", 1))
			return os.WriteFile(filepath.Join(env.WorkDir, "secret"), []byte(secret+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"ready":   ready,
			"tokenof": tokenOf,
			"toml":    setDatabase,
		},
	})
}

// toml FILE DATABASE: writes the database into a manager.toml, as a person is told to.
func setDatabase(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	line := regexp.MustCompile(`(?m)^database = .*$`)
	ts.Check(os.WriteFile(path, line.ReplaceAllLiteral(b, []byte(`database = "`+args[1]+`"`)), 0o600))
}

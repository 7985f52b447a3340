// Package pgtest starts a PostgreSQL server for tests: a private one in a temporary folder, reached through a socket
// there, that ends with the test. It needs PostgreSQL's own programs, which test/install installs.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Server is a running server. Its databases have the encoding UTF-8 and the collation "C"; everybody on this machine
// who may enter its folder may do everything in it.
type Server struct {
	Socket string // the folder of its socket

	bin, data string
	owner     owner
	process   *exec.Cmd
	ended     chan struct{} // closed when process has
	log       bytes.Buffer  // read only after that
	last      atomic.Int64  // database made
	prefix    string
}

// Start starts a server that ends with the test. Without the programs the test fails, or is left out if
// SAMEHOST_SKIP_POSTGRES is set.
func Start(t testing.TB) *Server {
	t.Helper()
	bin := programs(t)
	dir, err := os.MkdirTemp("", "pg") // the name of a socket is at most 107 bytes long
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Socket: dir, bin: bin, data: filepath.Join(dir, "data"), prefix: "d"}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	s.owner = giveAway(t, dir)
	initdb := s.command("initdb", "--pgdata", s.data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Run(t)
	return s
}

// At is the server of another test process, that one's parent: by the folder of its socket. Its databases have names of
// their own.
func At(socket string) *Server {
	return &Server{Socket: socket, prefix: fmt.Sprintf("p%d_", os.Getpid())}
}

// Run starts the server again after Kill.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.log.Reset()
	s.process = s.command("postgres", "-D", s.data, "-k", s.Socket, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "full_page_writes=off", // nothing here outlives the machine
		"-c", "max_connections=400", "-c", "autovacuum_naptime=10min", "-c", "max_wal_size=256MB",
		"-c", "log_statement=none", "-c", "log_min_messages=fatal")
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	s.ended = make(chan struct{})
	go func() { s.process.Wait(); close(s.ended) }()
	// The server says nothing when it is ready; whoever waits for it asks.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := pgx.Connect(t.Context(), s.DSN("postgres"))
		if err == nil {
			c.Close(t.Context())
			return
		}
		select {
		case <-s.ended:
			t.Fatalf("postgres ended: %v\n%s", s.process.ProcessState, s.log.Bytes())
		case <-t.Context().Done():
			t.Fatalf("postgres does not answer: %v", err)
		case <-tick.C:
		}
	}
}

// Kill ends the server as a loss of power does.
func (s *Server) Kill() {
	if s.ended == nil {
		return
	}
	quit(s.process.Process)
	<-s.ended
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, program), args...)
	c.Dir = s.Socket
	c.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	run(c, s.owner)
	return c
}

// DSN names a database of this server.
func (s *Server) DSN(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Host: "", Path: "/" + database, RawQuery: url.Values{"host": {s.Socket}}.Encode()}).String()
}

// Make makes a database, a copy of another one unless that is "", and returns its name. It ends with the server.
func (s *Server) Make(t testing.TB, copyOf string) string {
	t.Helper()
	if copyOf == "" {
		copyOf = "template0"
	}
	name := s.prefix + strconv.FormatInt(s.last.Add(1), 10)
	s.In(t, "postgres", `CREATE DATABASE `+name+` TEMPLATE `+copyOf)
	return name
}

// In runs one statement in a database, as the server's owner.
func (s *Server) In(t testing.TB, database, statement string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // also at the end of the test
	c, err := pgx.Connect(ctx, s.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// programs is the folder of initdb and postgres: on the path, or where Debian puts them, the newest.
func programs(t testing.TB) string {
	t.Helper()
	for _, program := range []string{"postgres", "initdb"} {
		if _, err := exec.LookPath(program); err != nil {
			break
		}
		if program == "initdb" {
			return ""
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is well-formed
	if len(found) > 0 {
		version := func(p string) int {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p)))) // 0, before all: not a release
			return n
		}
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }))
	}
	if os.Getenv("SAMEHOST_SKIP_POSTGRES") != "" {
		t.Skip("NOT TESTED: PostgreSQL is not installed and SAMEHOST_SKIP_POSTGRES is set")
	}
	t.Fatal("PostgreSQL is not installed: run test/install as root, or set SAMEHOST_SKIP_POSTGRES to leave this test out")
	return ""
}

package play

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Postgres is a private PostgreSQL server that ends with the stage. It is as durable as its makers set it.
type Postgres struct {
	*Process
	socket string
	bin    string
	owner  *user.User // nil: who runs this
}

// ErrNoPostgres says that PostgreSQL's own programs are not installed; test/install installs them.
var ErrNoPostgres = errors.New("PostgreSQL is not installed")

// StartPostgres starts a server that listens on a socket only; all of it is in a temporary folder that Close removes.
func (s *Stage) StartPostgres() (*Postgres, error) {
	p := new(Postgres)
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			p.bin = filepath.Dir(path)
		}
	}
	if p.bin == "" || !isFile(filepath.Join(p.bin, "postgres")) {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is well-formed
		if len(found) == 0 {
			return nil, ErrNoPostgres
		}
		release := func(path string) int {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0, before all: not a release
			return n
		}
		p.bin = filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return release(a) - release(b) }))
	}
	var err error
	if p.socket, err = os.MkdirTemp("", "pg"); err != nil { // the name of a socket is at most 107 bytes long
		return nil, err
	}
	data := filepath.Join(p.socket, "data")
	if os.Getuid() == 0 { // the server refuses to run as root
		if p.owner, err = user.Lookup("postgres"); err != nil {
			p.owner, err = user.Lookup("nobody")
		}
		if err == nil {
			err = giveAway(p.socket, p.owner)
		}
		if err != nil {
			return nil, err
		}
	}
	if out, err := p.command("initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if p.Process, err = s.launch(p.command("postgres", "-D", data, "-k", p.socket, "-c", "listen_addresses=", "-c", "max_connections=100")); err != nil {
		return nil, err
	}
	return p, p.until(func() bool {
		return p.command("psql", "-h", p.socket, "-U", "postgres", "-c", "SELECT 1").Run() == nil
	}, "to take connections")
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

func (p *Postgres) command(program string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, program), args...)
	c.Dir = p.socket
	c.Env = append(environment(), "TZ=UTC")
	if p.owner != nil {
		runAs(c, p.owner)
	}
	return c
}

// Make makes an empty database and returns its DSN.
func (p *Postgres) Make(name string) (dsn string, err error) {
	out, err := p.command("psql", "-h", p.socket, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", "CREATE DATABASE "+name).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make database %s: %w\n%s", name, err, out)
	}
	return fmt.Sprintf("postgres:///%s?host=%s&user=postgres", name, p.socket), nil
}

// Query runs a statement in a database that Make made and returns its rows as lines, columns between bars.
func (p *Postgres) Query(name, statement string) (string, error) {
	out, err := p.command("psql", "-h", p.socket, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-At", "-c", statement, name).Output()
	return string(out), err
}

// Close ends the server, which writes everything out, and removes its folder.
func (p *Postgres) Close() error {
	p.cmd.Process.Signal(syscall.SIGINT) // "fast": connections that are open are cut
	select {
	case <-p.done:
	case <-time.After(ready):
		p.Kill()
	}
	return os.RemoveAll(p.socket)
}

// Join makes another manager on this one's PostgreSQL database; it listens at an address of its own.
func (m *Manager) Join() (*Manager, error) {
	other := *m
	other.Process, other.Listen = nil, m.stage.service(4)
	folder := filepath.Dir(m.Config)
	_, err := m.stage.Must("samehost-manager", "init", "--data-dir", folder+"-2", "--listen", other.Listen, "--join", folder)
	other.Config = filepath.Join(folder+"-2", filepath.Base(m.Config))
	return &other, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"samehost/internal/config"
	"samehost/internal/manager"
	"samehost/internal/registry"
)

type databaseCmd struct {
	Transfer databaseTransferCmd `cmd:"" help:"Copy everything into another database, which must be empty." example:"database transfer --to postgres://samehost@db.example/pcs; database transfer --from sqlite:/restore/samehost.db"`
}

type databaseTransferCmd struct {
	From   string `placeholder:"DATABASE" help:"Copy from this one (default: the configured one)."`
	To     string `placeholder:"DATABASE" help:"Copy to this one (default: the configured one)."`
	ToFile string `placeholder:"FILE" help:"Read --to here: for one with a password."`
}

func (c *databaseTransferCmd) Run(ctx context.Context, p *program) error {
	to, err := databaseArg("--to", c.To, c.ToFile)
	if err != nil {
		return err
	}
	from, err := databaseArg("--from", c.From, "")
	if err != nil {
		return err
	}
	if from == "" && to == "" {
		return usageError("name another database with --to, --to-file or --from")
	}
	conf, err := p.load()
	if err != nil {
		return err
	}
	if from == "" {
		from = conf.Database
	}
	if to == "" {
		to = conf.Database
	}
	if from == to {
		return usageError("both are the same database")
	}
	copied, err := manager.Transfer(ctx, conf.DataDir, from, to)
	if err != nil {
		return fmt.Errorf("%w; nothing has been copied", err)
	}
	if p.json {
		for _, t := range copied {
			if err := p.printJSON(t); err != nil {
				return err
			}
		}
		return nil
	}
	var rows int64
	for _, t := range copied {
		rows += t.Rows
	}
	p.paragraph("", p.in("Copied %d rows of %d tables, and compared them.", rows, len(copied)))
	if to != conf.Database {
		line := "database = " + fmt.Sprintf("%q", withoutPassword(to))
		fmt.Fprintf(p.stdout, p.in("In %s, write\n  %s\n"), shown(p.config), shown(line)) // not broken: they are there to be copied
		if line != "database = "+fmt.Sprintf("%q", to) {
			p.paragraph("", p.in("with the password in the place of ***."))
		}
		p.paragraph("", p.in("then start serve. The former database is as it was."))
	}
	return nil
}

// databaseArg is the database that a command line names by a flag or a file. A password never stands on a command line,
// where everybody on this machine can read it.
func databaseArg(flag, value, file string) (string, error) {
	switch {
	case value != "" && file != "":
		return "", usageError(flag + " and " + flag + "-file say the same: give one")
	case file != "":
		line, err := readDatabase(file)
		if err != nil {
			return "", err
		}
		return line, nil
	case value == "":
		return "", nil
	}
	if hasPassword(value) {
		return "", usageError(flag + " must hold no password: leave it to passfile=FILE in the address, or write the address into a file and name that with " + flag + "-file")
	}
	return fullDatabase(value)
}

// maxDatabaseFile is more than any address takes.
const maxDatabaseFile = 4096

func readDatabase(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("database: %s: %w; check the path, and that you may read it", file, config.Bare(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDatabaseFile+1))
	if err != nil {
		return "", fmt.Errorf("database: %w", err)
	}
	line := strings.TrimSpace(string(b))
	if line == "" || len(b) > maxDatabaseFile || strings.ContainsAny(line, "\r\n") {
		return "", fmt.Errorf("database: %s must hold one line, as postgres://USER:PASSWORD@HOST/NAME", file)
	}
	return fullDatabase(line)
}

// fullDatabase makes a file's path a full one.
func fullDatabase(database string) (string, error) {
	if registry.IsPostgres(database) {
		return database, nil
	}
	name, ok := strings.CutPrefix(database, "sqlite:")
	if !ok || name == "" {
		return "", usageError("a database is sqlite:FILE or postgres://USER@HOST/NAME") // whatever it is, it may hold a password
	}
	path, err := filepath.Abs(name)
	return "sqlite:" + path, err
}

func hasPassword(database string) bool { return withoutPassword(database) != database }

// withoutPassword puts *** in the place of each password.
func withoutPassword(database string) string {
	if !registry.IsPostgres(database) {
		return database
	}
	u, err := url.Parse(database)
	if err != nil {
		return "postgres://***"
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "***")
	}
	q := u.Query()
	for _, name := range []string{"password", "sslpassword"} {
		if q.Has(name) {
			q.Set(name, "***")
			u.RawQuery = q.Encode()
		}
	}
	if text := u.String(); text != database {
		return strings.ReplaceAll(text, "%2A%2A%2A", "***")
	}
	return database
}

// setup is what init is told.
func (c *initCmd) setup() (manager.Setup, error) {
	s := manager.Setup{Dir: c.DataDir, Listen: c.Listen, Names: c.Name, Join: c.Join}
	database, err := databaseArg("--database", c.Database, c.DatabaseFile)
	if err != nil || database == "" {
		return s, err
	}
	if !registry.IsPostgres(database) {
		return s, usageError("--database is for PostgreSQL, as postgres://USER@HOST/NAME; without it the folder holds a file")
	}
	s.Database = database
	return s, nil
}

// notEmpty says what init does about a database with something in it.
func notEmpty(err error) error {
	if errors.Is(err, registry.ErrNotEmpty) {
		return fmt.Errorf("%w; or name the folder of the manager that uses it with --join", err)
	}
	return err
}

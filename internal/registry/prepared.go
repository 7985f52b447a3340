package registry

import (
	"context"
	"database/sql/driver"
	"strconv"
	"strings"
	"unicode/utf8"
)

// plainText is what becomes of text on its way into the database, whichever it is: PostgreSQL takes neither U+0000 nor
// what is not UTF-8, and some functions of SQLite end at the former. What a client said stands in JSON, which has
// another way to write it; here is the text that is searched for, and whoever searches goes the same way.
func plainText(v *driver.NamedValue) (err error) {
	if v.Value, err = driver.DefaultParameterConverter.ConvertValue(v.Value); err != nil {
		return err
	}
	if s, ok := v.Value.(string); ok && (strings.Contains(s, "\x00") || !utf8.ValidString(s)) {
		v.Value = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	}
	return nil
}

// maxPrepared bounds the statements that one connection keeps compiled. The program has about 300 texts, few of which
// make up nearly all of its work.
const maxPrepared = 128

// prepared makes connections that keep their statements compiled, as pgx does by itself: SQLite's own driver compiles
// a text anew for each use, which takes longer than most statements take to run. It is done below database/sql because
// a *sql.Stmt cannot be had inside of a transaction on the only connection.
type prepared struct{ driver.Connector }

func (p prepared) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &preparedConn{sqliteConn: c.(sqliteConn), kept: map[string]*preparedStmt{}}, nil
}

// sqliteConn is what the driver's connections are to database/sql.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type preparedConn struct {
	sqliteConn
	kept map[string]*preparedStmt // by their text
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *preparedConn) CheckNamedValue(v *driver.NamedValue) error { return plainText(v) }

type preparedStmt struct {
	driver.Stmt
	inUse bool // rows of it are being read
}

// stmt returns the statement for a text, nil for one to be run without: one that is in use, or that is rare by nature.
func (c *preparedConn) stmt(ctx context.Context, query string) (*preparedStmt, error) {
	if s := c.kept[query]; s != nil {
		if s.inUse {
			return nil, nil
		}
		return s, nil
	}
	switch verb, _, _ := strings.Cut(strings.TrimSpace(query), " "); verb {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH":
	default:
		return nil, nil
	}
	if len(c.kept) >= maxPrepared {
		for text, old := range c.kept { // any: what is used often is soon back
			if !old.inUse {
				delete(c.kept, text)
				if err := old.Close(); err != nil {
					return nil, err
				}
				break
			}
		}
	}
	s, err := c.PrepareContext(ctx, unnumbered(query))
	if err != nil {
		return nil, err
	}
	kept := &preparedStmt{Stmt: s}
	c.kept[query] = kept
	return kept, nil
}

// unnumbered is a text whose parameters $1, $2 and so on stand in this order, each once, with ? for each: to SQLite those
// are names, for which its driver looks anew whenever a statement is used, and a statement may have 240 of them.
func unnumbered(query string) string {
	var b strings.Builder
	rest := query
	for n := 1; ; n++ {
		before, after, found := strings.Cut(rest, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		number := strconv.Itoa(n)
		after, found = strings.CutPrefix(after, number)
		if !found || after != "" && '0' <= after[0] && after[0] <= '9' {
			return query
		}
		b.WriteByte('?')
		rest = after
	}
}

func (c *preparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.ExecContext(ctx, query, args)
	}
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (c *preparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.QueryContext(ctx, query, args)
	}
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	s.inUse = true
	return &preparedRows{rows, s}, nil
}

func (c *preparedConn) Close() error {
	for _, s := range c.kept {
		s.Close() // the connection's own Close says what is wrong
	}
	clear(c.kept)
	return c.sqliteConn.Close()
}

// preparedRows give their statement back when they are closed.
type preparedRows struct {
	driver.Rows
	of *preparedStmt
}

func (r *preparedRows) Close() error {
	r.of.inUse = false
	return r.Rows.Close()
}

package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/bits"
	"os"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
)

// Copied says what was copied of one table.
type Copied struct {
	Table  string `json:"table"`
	Rows   int64  `json:"rows"`
	Digest string `json:"digest"` // of all rows, in whatever order; the same in both databases
}

// ErrNotEmpty says that a database to be filled holds something already.
var ErrNotEmpty = errors.New("it is not empty")

// Transfer copies everything from one database into another one, which must be empty: a SQLite file that is not there,
// or a PostgreSQL database without tables, or with ours and nothing in them. Each table is read again from where it went,
// and compared. Where it fails nothing has been copied. Nobody may write to the first one meanwhile: what is written
// after Transfer began stays behind.
func Transfer(ctx context.Context, from, to string) (_ []Copied, err error) {
	src, err := Open(ctx, from, Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if other, err := src.others(ctx); err != nil {
		return nil, err
	} else if other != "" {
		return nil, fmt.Errorf("database %s is in use by %s: end serve everywhere, then do this again", src.name, other)
	}
	if !IsPostgres(to) {
		return src.copyToFile(ctx, to)
	}
	dst, err := createPostgres(ctx, to, Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	return copyAll(ctx, src.database, dst.database)
}

// copyToFile copies everything into a SQLite file that is not there yet, and is there whole or not at all.
func (r *Registry) copyToFile(ctx context.Context, dsn string) (_ []Copied, err error) {
	path, err := sqlitePath(dsn)
	if err != nil {
		return nil, err
	}
	dst, err := Create(ctx, "sqlite:"+path, Options{})
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("database %s: %w: name a new file", path, ErrNotEmpty)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	copied, err := copyAll(ctx, r.database, dst.database)
	return copied, errors.Join(err, dst.Close()) // the last one to close takes the log into the file
}

// others names whoever else has the database open; "" for nobody, or where that cannot be seen.
func (d *database) others(ctx context.Context) (who string, err error) {
	if d.dialect != goose.DialectPostgres {
		return "", nil
	}
	err = d.readers.QueryRowContext(ctx, `SELECT COALESCE(MIN(application_name), '') FROM pg_stat_activity
		WHERE datname = current_database() AND starts_with(application_name, $1) AND application_name <> current_setting('application_name')`, postgresProgram+" ").Scan(&who)
	return who, err
}

// A column is one of a table, with what its values are.
type column struct{ name, kind string }

// kinds are how the two databases call what we keep.
var kinds = map[string]string{"integer": "number", "bigint": "number", "text": "text", "blob": "bytes", "bytea": "bytes", "boolean": "truth"}

// tablesOf lists the tables of the registry with their columns in the order of their names: all there are, but for what
// goose and River keep, which is made anew.
func (d *database) tablesOf(ctx context.Context, q queryer) (map[string][]column, error) {
	query := `SELECT m.name, c.name, lower(c.type) FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.name`
	if d.dialect == goose.DialectPostgres {
		query = `SELECT c.table_name, c.column_name, c.data_type FROM information_schema.columns c JOIN information_schema.tables t
			ON t.table_schema = c.table_schema AND t.table_name = c.table_name
			WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.column_name`
	}
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string][]column{}
	for rows.Next() {
		var table string
		var c column
		if err := rows.Scan(&table, &c.name, &c.kind); err != nil {
			return nil, err
		}
		if foreignTable(table) {
			continue
		}
		kind, ok := kinds[c.kind]
		if !ok {
			return nil, fmt.Errorf("table %s: column %s is of the type %s, which cannot be copied", table, c.name, c.kind)
		}
		c.kind = kind
		all[table] = append(all[table], c)
	}
	return all, rows.Err()
}

// foreignTable reports whether a table is goose's, River's or SQLite's own.
func foreignTable(name string) bool {
	return strings.HasPrefix(name, "goose_") || strings.HasPrefix(name, "river_") || strings.HasPrefix(name, "sqlite_")
}

// copyAll copies what is in every table of src, as of one moment, in one transaction. What dst holds is replaced.
func copyAll(ctx context.Context, src, dst *database) (_ []Copied, err error) {
	failed := func(err error) error { return fmt.Errorf("copy %s to %s: %w", src.name, dst.name, err) }
	from, err := src.readers.BeginTx(ctx, src.snapshot)
	if err != nil {
		return nil, failed(err)
	}
	defer from.Rollback()
	to, err := dst.writers.BeginTx(ctx, nil)
	if err != nil {
		return nil, failed(err)
	}
	defer to.Rollback()
	tables, err := src.tablesOf(ctx, from)
	if err != nil {
		return nil, failed(err)
	}
	there, err := dst.tablesOf(ctx, to)
	if err != nil {
		return nil, failed(err)
	}
	if !maps.EqualFunc(tables, there, slices.Equal[[]column]) {
		return nil, failed(errors.New("their tables are not the same: another program changed one of them"))
	}
	names := slices.Sorted(maps.Keys(tables))
	after, err := dst.deferKeys(ctx, to)
	if err != nil {
		return nil, failed(err)
	}
	for _, name := range names {
		if _, err := to.ExecContext(ctx, `DELETE FROM `+name); err != nil {
			return nil, failed(fmt.Errorf("table %s: %w", name, err))
		}
	}
	var all []Copied
	for _, name := range names {
		c, err := copyTable(ctx, from, to, name, tables[name])
		if err != nil {
			return nil, failed(fmt.Errorf("table %s: %w", name, err))
		}
		is, err := digestTable(ctx, to, name, tables[name], nil)
		if err == nil && is != c {
			err = fmt.Errorf("%d rows (%s) became %d rows (%s)", c.Rows, c.Digest, is.Rows, is.Digest)
		}
		if err != nil {
			return nil, failed(fmt.Errorf("table %s: %w", name, err))
		}
		all = append(all, c)
	}
	for _, statement := range after {
		if _, err := to.ExecContext(ctx, statement); err != nil {
			return nil, failed(err)
		}
	}
	counters, err := src.counters(ctx, from)
	if err != nil {
		return nil, failed(err)
	}
	if err := dst.setCounters(ctx, to, counters); err != nil {
		return nil, failed(err)
	}
	if err := to.Commit(); err != nil {
		return nil, failed(err)
	}
	return all, nil
}

// deferKeys lets rows come before those that they refer to, within this transaction; after are the statements that hold
// them to it again.
func (d *database) deferKeys(ctx context.Context, tx *sql.Tx) (after []string, err error) {
	if d.dialect != goose.DialectPostgres {
		_, err := tx.ExecContext(ctx, `PRAGMA defer_foreign_keys = 1`)
		return nil, err
	}
	keys, err := scanAll(ctx, tx, scanText, `SELECT 'ALTER TABLE ' || conrelid::regclass || ' ALTER CONSTRAINT ' || quote_ident(conname)
		FROM pg_constraint WHERE contype = 'f' AND connamespace = current_schema()::regnamespace AND NOT condeferrable`)
	if err != nil {
		return nil, err
	}
	after = append(after, `SET CONSTRAINTS ALL IMMEDIATE`)
	for _, k := range keys {
		if _, err := tx.ExecContext(ctx, k+` DEFERRABLE`); err != nil {
			return nil, err
		}
		after = append(after, k+` NOT DEFERRABLE`)
	}
	_, err = tx.ExecContext(ctx, `SET CONSTRAINTS ALL DEFERRED`)
	return after, err
}

// maxParameters of one statement: SQLite takes 32,766, PostgreSQL 65,535.
const maxParameters = 8000

// copyTable copies one table.
func copyTable(ctx context.Context, from, to *sql.Tx, name string, columns []column) (Copied, error) {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	begin := `INSERT INTO ` + name + ` (` + strings.Join(names, ", ") + `) VALUES `
	most := max(1, maxParameters/len(columns))
	var args []any
	flush := func() error {
		if len(args) == 0 {
			return nil
		}
		var b strings.Builder
		b.WriteString(begin)
		for i := range args {
			switch {
			case i == 0:
				b.WriteString("(")
			case i%len(columns) == 0:
				b.WriteString("), (")
			default:
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "$%d", i+1)
		}
		b.WriteString(")")
		_, err := to.ExecContext(ctx, b.String(), args...)
		args = args[:0]
		return err
	}
	c, err := digestTable(ctx, from, name, columns, func(row []any) error {
		args = append(args, row...)
		if len(args) < most*len(columns) {
			return nil
		}
		return flush()
	})
	if err != nil {
		return c, err
	}
	return c, flush()
}

// digestTable reads a table, and hands each row to take, if that is not nil. The digest is the sum of the rows' SHA-256:
// databases keep them in orders of their own.
func digestTable(ctx context.Context, q queryer, name string, columns []column, take func([]any) error) (Copied, error) {
	names := make([]string, len(columns))
	row, dest := make([]any, len(columns)), make([]any, len(columns))
	for i, c := range columns {
		names[i], dest[i] = c.name, &row[i]
	}
	c := Copied{Table: name}
	rows, err := q.QueryContext(ctx, `SELECT `+strings.Join(names, ", ")+` FROM `+name)
	if err != nil {
		return c, err
	}
	defer rows.Close()
	var sum [4]uint64
	var b []byte
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return c, err
		}
		b = b[:0]
		for i, v := range row {
			if row[i], err = columns[i].value(v); err != nil {
				return c, err
			}
			b = appendValue(b, row[i])
		}
		digest := sha256.Sum256(b)
		var carry uint64
		for i := range sum {
			sum[i], carry = bits.Add64(sum[i], binary.LittleEndian.Uint64(digest[8*i:]), carry)
		}
		c.Rows++
		if take != nil {
			if err := take(row); err != nil {
				return c, err
			}
		}
	}
	b = b[:0]
	for _, s := range sum {
		b = binary.LittleEndian.AppendUint64(b, s)
	}
	c.Digest = hex.EncodeToString(b)
	return c, rows.Err()
}

// value makes one of what a driver read: nil, int64, string, []byte or bool. SQLite has no truth values, and keeps what it is given.
func (c column) value(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		switch {
		case c.kind == "number":
			return v, nil
		case c.kind == "truth" && (v == 0 || v == 1):
			return v == 1, nil
		}
	case bool:
		if c.kind == "truth" {
			return v, nil
		}
	case string:
		if c.kind == "text" {
			plain := driver.NamedValue{Value: v}
			err := plainText(&plain)
			return plain.Value, err
		}
	case []byte:
		switch c.kind {
		case "bytes":
			return append([]byte{}, v...), nil // an empty one is not NULL
		case "text":
			return c.value(string(v))
		}
	}
	return nil, fmt.Errorf("column %s: a value of the type %T in a column for %s", c.name, v, c.kind)
}

// appendValue writes a value so that no two rows are written alike.
func appendValue(b []byte, v any) []byte {
	text := func(kind byte, s []byte) []byte {
		return append(binary.BigEndian.AppendUint64(append(b, kind), uint64(len(s))), s...)
	}
	switch v := v.(type) {
	case int64:
		return binary.BigEndian.AppendUint64(append(b, 'n'), uint64(v))
	case bool:
		if v {
			return append(b, 't')
		}
		return append(b, 'f')
	case string:
		return text('s', []byte(v))
	case []byte:
		return text('b', v)
	}
	return append(b, '0')
}

// counters are the highest numbers ever given, by table: none is given twice, even if its row is gone.
func (d *database) counters(ctx context.Context, tx *sql.Tx) (map[string]int64, error) {
	query := `SELECT name, seq FROM sqlite_sequence`
	if d.dialect == goose.DialectPostgres {
		query = `SELECT c.relname, COALESCE(pg_sequence_last_value(s.oid), 0) FROM pg_class s JOIN pg_depend p ON p.objid = s.oid AND p.deptype IN ('a', 'i')
			JOIN pg_class c ON c.oid = p.refobjid WHERE s.relkind = 'S' AND s.relnamespace = current_schema()::regnamespace`
	}
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]int64{}
	for rows.Next() {
		var table string
		var n int64
		if err := rows.Scan(&table, &n); err != nil {
			return nil, err
		}
		if !foreignTable(table) && n > 0 {
			all[table] = n
		}
	}
	return all, rows.Err()
}

func (d *database) setCounters(ctx context.Context, tx *sql.Tx, counters map[string]int64) error {
	for table, n := range counters {
		var err error
		if d.dialect == goose.DialectPostgres {
			_, err = tx.ExecContext(ctx, `SELECT setval(pg_get_serial_sequence($1, 'id'), $2)`, table, n)
		} else if _, err = tx.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = $1`, table); err == nil {
			_, err = tx.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)`, table, n)
		}
		if err != nil {
			return fmt.Errorf("numbers of %s: %w", table, err)
		}
	}
	return nil
}

// Backup writes a copy of the database, as of this moment, into a SQLite file that must not exist yet and is readable by
// its owner only. Others keep reading and writing meanwhile. Whatever the database is, the copy is a whole registry:
// Transfer puts it back into either.
func (r *Registry) Backup(ctx context.Context, path string) error {
	if r.dialect == goose.DialectPostgres {
		if _, err := r.copyToFile(ctx, "sqlite:"+path); err != nil {
			return fmt.Errorf("copy database: %w", err)
		}
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // SQLite fills an empty file, and keeps its mode
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	if _, err := r.readers.ExecContext(ctx, `VACUUM INTO $1`, path); err != nil {
		os.Remove(path)
		return fmt.Errorf("copy database to %s: %w", path, err)
	}
	return nil
}

// programName is how this process is called where the database tells who uses it.
func programName() string {
	host, _ := os.Hostname() // only to tell several apart
	return fmt.Sprintf("%s %s %d", postgresProgram, cmp.Or(host, "?"), os.Getpid())
}

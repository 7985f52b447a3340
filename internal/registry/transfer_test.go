package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"samehost/internal/registry/pgtest"
)

// fill adds a row to every table, whatever tables there are: all numbers are 7, all text is "k7", so that every reference
// is to a row that is there.
func (m *manager) fill(t *testing.T) {
	t.Helper()
	must(t, m.write(t.Context(), func(tx *transaction) error {
		after, err := m.deferKeys(tx.ctx, tx.Tx)
		if err != nil {
			return err
		}
		all, err := m.tablesOf(tx.ctx, tx.Tx)
		if err != nil {
			return err
		}
		for table, columns := range all {
			var names, values []string
			for _, c := range columns {
				names = append(names, c.name)
				values = append(values, map[string]string{"number": "7", "text": "'k7'", "bytes": "CAST('k7' AS BLOB)", "truth": "TRUE"}[c.kind])
			}
			if _, err := tx.exec(fmt.Sprintf(`INSERT INTO %s (%s) VALUES (%s)`, table, strings.Join(names, ", "), strings.Join(values, ", "))); err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
		for _, s := range after {
			if _, err := tx.exec(s); err != nil {
				return err
			}
		}
		return nil
	}))
}

// everything reads all tables.
func everything(t *testing.T, d *database) (all []Copied) {
	t.Helper()
	tables, err := d.tablesOf(t.Context(), d.readers)
	must(t, err)
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		c, err := digestTable(t.Context(), d.readers, name, tables[name], nil)
		must(t, err)
		all = append(all, c)
	}
	return all
}

func opened(t *testing.T, dsn string) *Registry {
	t.Helper()
	r, err := Open(t.Context(), dsn, Options{})
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// A database goes to PostgreSQL, from there into a backup, and back: all the time it is the same.
func TestTransfer(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	s := pgtest.Start(t)
	p := newPC(m, "alpha")
	p.checkIn()
	_, err := m.writers.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
		INSERT INTO asset_names (asset_id, name, label, qualified) SELECT 1, 'n' || i, '', i % 2 FROM n`)
	must(t, err)
	m.fill(t)
	for _, q := range []string{
		`INSERT INTO tokens (id, verifier, note, created) VALUES ('empty', CAST('' AS BLOB), '', -9223372036854775808)`,
		`INSERT INTO tokens (id, verifier, note, created) VALUES ('zero', x'00ff00', 'ünïcode 主机' || char(10), 9223372036854775807)`,
		`INSERT INTO history (id, at, kind, evidence) VALUES (1000, 0, 'gone', '{}')`,
		`DELETE FROM history WHERE id = 1000`, // no number is given twice
	} {
		_, err := m.writers.Exec(q)
		must(t, err)
	}
	before := everything(t, m.database)
	for _, c := range before {
		if c.Rows == 0 {
			t.Errorf("%s: the test puts nothing into it", c.Table)
		}
	}
	// Only what is in no registry's interest stays behind.
	known, err := scanAll(t.Context(), m.readers, scanText, `SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`)
	must(t, err)
	for _, c := range before {
		known = slices.DeleteFunc(known, func(name string) bool { return name == c.Table })
	}
	expect(t, "tables left behind", known, []string{"goose_db_version", "sqlite_sequence"})
	wide := s.DSN(s.Make(t, ""))
	copied, err := Transfer(t.Context(), m.dsn, wide)
	must(t, err)
	expect(t, "copied", copied, before)
	pg := opened(t, wide)
	expect(t, "on PostgreSQL", everything(t, pg.database), before)

	// It goes on there, with numbers that were never given.
	must(t, pg.write(t.Context(), func(tx *transaction) error { return tx.record(p.report.HostID, "keeps", map[string]any{}) }))
	ids, err := numbers(t.Context(), pg.readers, `SELECT MAX(id) FROM history`)
	must(t, err)
	expect(t, "next event", ids, []int{1001})
	var loose []string
	loose, err = scanAll(t.Context(), pg.readers, scanText, `SELECT conname FROM pg_constraint WHERE contype = 'f' AND condeferrable`)
	must(t, err)
	expect(t, "references that may be wrong for a while", len(loose), 0)

	before = everything(t, pg.database)
	back := filepath.Join(t.TempDir(), "back.db")
	must(t, pg.Backup(t.Context(), back))
	restored := opened(t, "sqlite:"+back)
	expect(t, "from the backup", everything(t, restored.database), before)
	must(t, restored.write(t.Context(), func(tx *transaction) error { return tx.record(p.report.HostID, "keeps", map[string]any{}) }))
	ids, err = numbers(t.Context(), restored.readers, `SELECT MAX(id) FROM history`)
	must(t, err)
	expect(t, "next event", ids, []int{1002})
	if info, err := os.Stat(back); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", info.Mode(), err)
	}

	// Neither goes over what is there.
	for _, to := range []string{wide, "sqlite:" + back} {
		if _, err := Transfer(t.Context(), m.dsn, to); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("to %s: got %v", to, err)
		}
	}
	if err := pg.Backup(t.Context(), back); err == nil {
		t.Error("a backup went over another file")
	}
	expect(t, "on PostgreSQL", everything(t, pg.database), before)
}

// Where it fails, nothing has been copied, and it can be done again.
func TestTransferFails(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	s := pgtest.Start(t)
	to := s.Make(t, "")
	c, err := m.writers.Conn(t.Context())
	must(t, err)
	for _, q := range []string{`PRAGMA foreign_keys = 0`, `INSERT INTO orders (id, demand, epoch, run, enrol, issued) VALUES ('dangling', 77, '', '', '', 0)`, `PRAGMA foreign_keys = 1`} {
		_, err := c.ExecContext(t.Context(), q)
		must(t, err)
	}
	must(t, c.Close())
	if _, err := Transfer(t.Context(), m.dsn, s.DSN(to)); err == nil || !strings.Contains(err.Error(), "demand") {
		t.Fatalf("got %v, want a reference to nothing", err)
	}
	for _, left := range everything(t, opened(t, s.DSN(to)).database) {
		if left.Rows > 1 { // the row that its migration made
			t.Errorf("%s: %d rows", left.Table, left.Rows)
		}
	}
	_, err = m.writers.Exec(`DELETE FROM orders`)
	must(t, err)

	// One that is not the same as ours.
	s.In(t, to, `ALTER TABLE orders ADD COLUMN more TEXT`)
	if _, err := Transfer(t.Context(), m.dsn, s.DSN(to)); err == nil || !strings.Contains(err.Error(), "not the same") {
		t.Fatalf("got %v, want the tables to differ", err)
	}
	s.In(t, to, `ALTER TABLE orders DROP COLUMN more`)
	if _, err := Transfer(t.Context(), m.dsn, s.DSN(to)); err != nil {
		t.Fatal(err)
	}

	// Another program of ours works on it.
	busy, err := postgresDatabase(s.DSN(to) + "&application_name=samehost-manager%20other%201")
	must(t, err)
	defer busy.readers.Close()
	defer busy.writers.Close()
	held, err := busy.readers.Conn(t.Context())
	must(t, err)
	defer held.Close()
	must(t, held.PingContext(t.Context()))
	if _, err := Transfer(t.Context(), s.DSN(to), "sqlite:"+filepath.Join(t.TempDir(), "x.db")); err == nil || !strings.Contains(err.Error(), "samehost-manager other 1") {
		t.Fatalf("got %v, want to know who uses it", err)
	}
}

// The databases' migrations are of the same numbers, from the first one of PostgreSQL on, but for how SQLite alone keeps rows.
func TestMigrationsOfBothDatabases(t *testing.T) {
	t.Parallel()
	list := func(of string) (names []string) {
		entries, err := migrations.ReadDir("migrations/" + of)
		must(t, err)
		for _, e := range entries {
			if e.Name() > "00006_s" && e.Name() != "00013_resting_rows.sql" {
				names = append(names, e.Name())
			}
		}
		return names
	}
	expect(t, "PostgreSQL's", list("postgres"), list("sqlite"))
}

// Cut off in the middle, a copy is not there.
func TestBackupCancelled(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := m.Backup(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(path + "*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

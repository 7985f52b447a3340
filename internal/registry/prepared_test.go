package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
)

// keptBy is how many statements the writing connection keeps.
func keptBy(t *testing.T, m *manager) (n int) {
	t.Helper()
	c, err := m.writers.Conn(t.Context())
	must(t, err)
	defer c.Close()
	must(t, c.Raw(func(c any) error { n = len(c.(*preparedConn).kept); return nil }))
	return n
}

func numbers(ctx context.Context, q queryer, query string, args ...any) ([]int, error) {
	return scanAll(ctx, q, func(scan func(...any) error) (n int, err error) { return n, scan(&n) }, query, args...)
}

// A statement that is being read from may be run again by then, with other arguments.
func TestPreparedWithin(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	const count = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) SELECT i FROM n ORDER BY i`
	must(t, m.write(t.Context(), func(t *transaction) error {
		var got []string
		rows, err := t.QueryContext(t.ctx, count, 3)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var i int
			if err := rows.Scan(&i); err != nil {
				return err
			}
			inner, err := numbers(t.ctx, t, count, i)
			if err != nil {
				return err
			}
			got = append(got, fmt.Sprint(i, inner))
		}
		expect(m.t, "rows", got, []string{"1 [1]", "2 [1 2]", "3 [1 2 3]"})
		return rows.Err()
	}))
}

func TestUnnumbered(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                                   "",
		"SELECT 1":                           "SELECT 1",
		"a = $1":                             "a = ?",
		"$1, $2,$3":                          "?, ?,?",
		"$2, $1":                             "$2, $1",
		"$1 OR $1":                           "$1 OR $1",
		"$1, $3":                             "$1, $3",
		"$10":                                "$10",
		"$1 $2 $12":                          "$1 $2 $12",
		"json($1, '$.of')":                   "json($1, '$.of')",
		"$1 $":                               "$1 $",
		"1$2$3$4$5$6$7$8$9$0":                "1$2$3$4$5$6$7$8$9$0",
		"$1 $2 $3 $4 $5 $6 $7 $8 $9 $10 $11": "? ? ? ? ? ? ? ? ? ? ?",
	} {
		expect(t, query, unnumbered(query), want)
	}
}

func TestPreparedBound(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	must(t, m.write(t.Context(), func(t *transaction) error {
		for i := range 3 * maxPrepared {
			if got, err := numbers(t.ctx, t, fmt.Sprintf(`SELECT %d WHERE 1 = $1`, i), 1); err != nil || len(got) != 1 || got[0] != i {
				m.t.Errorf("%d: got %v, %v", i, got, err)
			}
		}
		return nil
	}))
	expect(t, "kept", keptBy(t, m), maxPrepared)
}

// Another process brings the tables up to date while this one keeps its statements.
func TestPreparedAndChangedTables(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	other := m.again(t)
	const read = `SELECT last FROM archiving`
	if _, err := m.writers.Exec(read); err != nil {
		t.Fatal(err)
	}
	if _, err := other.writers.Exec(`ALTER TABLE archiving RENAME COLUMN last TO former`); err != nil {
		t.Fatal(err)
	}
	if _, err := m.writers.Exec(read); err == nil {
		t.Error("the column is gone, and nothing was said")
	}
	if _, err := other.writers.Exec(`ALTER TABLE archiving RENAME COLUMN former TO last`); err != nil {
		t.Fatal(err)
	}
	if _, err := m.writers.Exec(read); err != nil {
		t.Errorf("the column is back: %v", err)
	}
}

// Whoever gives up gets to know that he did, and nothing stays.
func TestCancelledWrite(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := m.write(ctx, func(t *transaction) error {
		if _, err := t.exec(`INSERT INTO contact_days (day) VALUES (1)`); err != nil {
			return err
		}
		cancel()
		for {
			if _, err := t.exec(`UPDATE contact_days SET day = 2 WHERE day = 3`); err != nil {
				return err
			}
		}
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrTxDone) {
		t.Errorf("got %v", err)
	}
	days, err := numbers(t.Context(), m.readers, `SELECT day FROM contact_days`)
	must(t, err)
	expect(t, "days", len(days), 0)
}

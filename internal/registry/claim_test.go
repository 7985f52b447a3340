package registry

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"samehost/internal/checkin"
)

// A manager with another key than the one that the clients of a database believe does not serve it.
func TestOtherManagersKey(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	refused := func() {
		t.Helper()
		reg, err := Open(t.Context(), m.dsn, Options{Key: other})
		if err == nil {
			reg.Close()
		}
		if !errors.Is(err, ErrOtherManager) || !strings.Contains(err.Error(), string(checkin.FingerprintOf(other.Public().(ed25519.PublicKey)))) {
			t.Errorf("got %v, want that it is another manager's, and whose the key is", err)
		}
	}
	owners := func() int {
		t.Helper()
		var n int
		must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM manager`).Scan(&n))
		return n
	}
	refused()

	newPC(m, "alpha").checkIn()
	_, err := m.writers.Exec(`DELETE FROM manager`) // as earlier releases left it
	must(t, err)
	refused()
	expect(t, "owners after a stranger", owners(), 0)
	m.again(t)
	expect(t, "owners after the manager", owners(), 1)
	m.again(t)
	expect(t, "owners after the manager again", owners(), 1)
	refused()

	reg, err := Open(t.Context(), m.dsn, Options{}) // to look at, and to copy
	must(t, err)
	must(t, reg.Close())
}

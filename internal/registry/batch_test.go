package registry

import (
	"sync"
	"testing"
	"time"
)

// Who gathers others' reports goes when a few have come, however much of his time is left.
func TestGatherEndsWhenFewWait(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	pcs := make([]*pc, few)
	for i := range pcs {
		pcs[i] = newPC(m, string(rune('a'+i)))
		pcs[i].checkIn()
		pcs[i].enrol = nil
	}
	m.Gather(time.Hour)
	before := m.Figures().Writes
	var ended sync.WaitGroup
	for _, p := range pcs {
		s := p.next()
		ended.Go(func() {
			if _, err := m.CheckIn(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	all := make(chan struct{})
	go func() { ended.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(time.Minute):
		t.Fatal("the reports still wait for more")
	}
	expect(t, "transactions for all of them: who is at rest, and all others", m.Figures().Writes-before, uint64(2))
}

// Others that are in the way of a command for a while do not end it.
func TestCommandsOutwaitOthers(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	for name, write := range map[string]func(func(*transaction) error) error{
		"write":  func(f func(*transaction) error) error { return m.write(t.Context(), f) },
		"decide": func(f func(*transaction) error) error { return m.decide(t.Context(), f) },
	} {
		tries := 0
		err := write(func(*transaction) error {
			if tries++; tries <= maxTries {
				return errMoved
			}
			return nil
		})
		if err != nil || tries != maxTries+1 {
			t.Errorf("%s: %v after %d tries; want success with number %d", name, err, tries, maxTries+1)
		}
	}
}

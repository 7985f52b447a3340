package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// killed is what ends a process in these tests.
type killed struct{ at string }

// killAt lets n steps pass and kills the process at the next.
func killAt(n int) func(string) {
	return func(at string) {
		if n--; n < 0 {
			panic(killed{at})
		}
	}
}

// steppingStore and steppingSystem make what leaves this PC's disk a step, before and after it happened.
type steppingStore struct {
	hostid.Store
	step func(string)
}

func (s steppingStore) Save(ctx context.Context, r hostid.Record) error {
	s.step("before memory")
	err := s.Store.Save(ctx, r)
	s.step("after memory")
	return err
}

type steppingSystem struct {
	checkin.HigherSystem
	step func(string)
}

func (s steppingSystem) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	s.step("before sending")
	reply, err := s.HigherSystem.CheckIn(ctx, r)
	s.step("after sending")
	return reply, err
}

// checkInKilled runs a process that is killed after n steps; at says where, "" if it came to its end.
func (pc *testPC) checkInKilled(t *testing.T, n int) (at string) {
	t.Helper()
	step := killAt(n)
	pc.step = step
	pc.store = steppingStore{pc.memory, step}
	pc.wrap = func(h checkin.HigherSystem) checkin.HigherSystem { return steppingSystem{h, step} }
	a := pc.open(t)
	defer func() {
		a.lock.Unlock() // as the system does
		pc.step, pc.store, pc.wrap = nil, nil, nil
		switch k := recover().(type) {
		case nil:
		case killed:
			at = k.at
		default:
			panic(k)
		}
	}()
	checkIn(t, a)
	return ""
}

// everyCrash plays a scenario, kills the process in its last check-in at every step in turn, and judges what the
// next processes make of it.
func everyCrash(t *testing.T, play func(t *testing.T, m *testManager, pc *testPC), judge func(t *testing.T, m *testManager, pc *testPC)) {
	t.Helper()
	const most = 100
	for n := range most {
		m := newManager(t)
		pc := newPC(t, m)
		play(t, m, pc)
		at := pc.checkInKilled(t, n)
		t.Run(fmt.Sprintf("%d %s", n, at), func(t *testing.T) {
			pc.accepted(t)
			pc.accepted(t)
			m.checkChains(t)
			judge(t, m, pc)
		})
		if at == "" {
			if n < 8 {
				t.Errorf("only %d steps", n)
			}
			return
		}
	}
	t.Errorf("more than %d steps", most)
}

func TestCrashAtInstallation(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(*testing.T, *testManager, *testPC) {}, func(t *testing.T, m *testManager, pc *testPC) {
		if len(m.known) != 1 {
			t.Errorf("the manager knows %d hosts, want 1", len(m.known))
		}
		if id := m.last(t).HostID; pc.storedID(t) != id {
			t.Errorf("memory holds %s, want %s", pc.storedID(t), id)
		}
	})
}

func TestCrashInOrdinaryCheckIn(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, m *testManager, pc *testPC) {
		pc.accepted(t)
		m.orders = func(v checkin.VerifiedReport) []checkin.Order {
			if v.Report.Counter != 2 {
				return nil
			}
			return []checkin.Order{{ID: "one", Kind: checkin.OrderFullReport, HostID: v.Report.HostID, Epoch: v.Report.Epoch, Run: v.Report.Run}}
		}
	}, func(t *testing.T, m *testManager, pc *testPC) {
		epochs := map[checkin.Token]bool{}
		for _, v := range m.reports {
			epochs[v.Report.Epoch] = true
		}
		if len(epochs) != 1 || len(m.known) != 1 {
			t.Errorf("%d epochs, %d hosts; want one of each", len(epochs), len(m.known))
		}
	})
}

func TestCrashAtRestore(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, m *testManager, pc *testPC) {
		pc.accepted(t)
		pc.newDisk(t)
	}, func(t *testing.T, m *testManager, pc *testPC) {
		if len(m.known) != 1 || m.last(t).EpochBy != checkin.EpochRestore {
			t.Errorf("%d hosts, epoch by %s; want 1 by restore", len(m.known), m.last(t).EpochBy)
		}
	})
}

// S11: wherever the power goes, memory is not overwritten without the proof reaching the manager.
func TestCrashWhileOverwriting(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, m *testManager, pc *testPC) {
		pc.accepted(t)
		pc.newDisk(t)
		pc.memory.Err = errors.Join(hostid.ErrUnavailable)
		pc.accepted(t)
		pc.memory.Err = nil
	}, func(t *testing.T, m *testManager, pc *testPC) {
		old, fresh := m.reports[0].Report.HostID, m.reports[1].Report.HostID
		if old == fresh || len(m.known) != 2 || pc.storedID(t) != fresh {
			t.Fatalf("IDs %s and %s, %d hosts, memory holds %s", old, fresh, len(m.known), pc.storedID(t))
		}
		if r := m.last(t); r.HostID != fresh || len(r.Replaced) != 1 {
			t.Errorf("%s reports with %d proofs, want %s with 1", r.HostID, len(r.Replaced), fresh)
		}
	})
}

// The manager names the old ID in the reply during which the process is killed: the proof ends, once that reply is
// known.
func TestCrashWhileNamed(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, m *testManager, pc *testPC) {
		pc.accepted(t)
		pc.newDisk(t)
		pc.memory.Err = errors.Join(hostid.ErrUnavailable)
		pc.accepted(t)
		pc.memory.Err = nil
		pc.accepted(t)
		m.named = []hostid.ID{m.reports[0].Report.HostID}
	}, func(t *testing.T, m *testManager, pc *testPC) {
		if r := m.last(t); len(r.Replaced) != 0 {
			t.Errorf("%d proofs, want none", len(r.Replaced))
		}
	})
}

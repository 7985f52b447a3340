package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// orderOnce has the manager order something in the reply to the next report of a host that it is meant for.
func (m *testManager) orderOnce(t *testing.T, id string, kind checkin.OrderKind, other hostid.ID, enrol *checkin.EnrolmentToken) {
	t.Helper()
	given := false
	m.set(func() {
		m.orders = func(v checkin.VerifiedReport) []checkin.Order {
			if given {
				return nil
			}
			given = true
			o := checkin.Order{ID: id, Kind: kind, HostID: v.Report.HostID, Epoch: v.Report.Epoch, Run: v.Report.Run, Other: other}
			if enrol != nil {
				sealed, err := checkin.SealOrder(v.Report.SealKey, id, *enrol)
				if err != nil {
					t.Error(err)
				}
				o.Enrol = sealed
			}
			return []checkin.Order{o}
		}
	})
}

// A copy is ordered to take a new ID: it is somebody else from the next report on, memory follows, and what it was
// stays set aside.
func TestOrderNewID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	old := checkIn(t, a).HostID
	m.orderOnce(t, "o1", checkin.OrderNewID, hostid.ID{}, &m.token)
	out := checkIn(t, a)
	if out.HostID == old || pc.storedID(t) != out.HostID || len(out.Conflicts) != 0 {
		t.Fatalf("after the order: %s (it was %s), memory holds %s, conflicts %v", out.HostID, old, pc.storedID(t), out.Conflicts)
	}
	if again := checkIn(t, a); again.HostID != out.HostID {
		t.Fatalf("then %s", again.HostID)
	}
	r := m.last(t)
	if r.HostID != out.HostID || r.CopyOf != old || r.EpochBy != checkin.EpochNewID || r.Counter != 1 {
		t.Errorf("host ID %s, copy of %s, epoch by %s, counter %d", r.HostID, r.CopyOf, r.EpochBy, r.Counter)
	}
	if diff := cmp.Diff([]string{"o1"}, r.Done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	checkIn(t, a)
	if r := m.last(t); len(r.Done) != 0 {
		t.Errorf("done %v after it was acknowledged", r.Done)
	}
	m.checkChains(t)
}

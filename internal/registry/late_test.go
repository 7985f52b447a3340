package registry

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// One PC, whose reports take other ways and come in any order, is one PC, and is never told to be another.
func TestLateInAnyOrder(t *testing.T) {
	t.Parallel()
	relay := hostid.NewID()
	rapid.Check(t, func(rt *rapid.T) {
		m := newSQLite(t)
		defer m.Close()
		p := newPC(m, "alpha")
		p.checkIn()
		type sent struct {
			s    checkin.SignedReport
			made time.Time
			at   time.Time
		}
		var all []sent
		what := ""
		epochs := rapid.Bool().Draw(rt, "epochs")
		for range rapid.IntRange(2, 14).Draw(rt, "reports") {
			pause := time.Duration(rapid.SampledFrom([]int{60, 600, 900, 900, 900, 3600, 10000}).Draw(rt, "pause")) * time.Second
			m.pass(pause)
			if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
				p.start()
				what += "R"
			}
			if epochs && rapid.IntRange(0, 6).Draw(rt, "epoch") == 0 {
				p.begin(checkin.EpochRestore)
				what += "E"
			}
			if rapid.IntRange(0, 2).Draw(rt, "words") == 0 {
				p.report.Versions.OS = fmt.Sprint("OS ", len(all))
			}
			delay := time.Duration(rapid.SampledFrom([]int{0, 0, 0, 600, 4000, 20000}).Draw(rt, "delay")) * time.Second
			what += fmt.Sprint(" ", pause, "+", delay)
			all = append(all, sent{p.next(), m.clock(), m.clock().Add(delay)})
		}
		slices.SortStableFunc(all, func(a, b sent) int { return a.at.Compare(b.at) })
		end := m.clock()
		m.mu.Lock()
		m.now = testEpoch
		m.mu.Unlock()
		for _, s := range all {
			m.pass(s.at.Sub(m.clock()))
			if held := s.at.Sub(s.made); held > 0 {
				s.s.Hops = []checkin.Hop{{Relay: relay, Held: held}}
			}
			reply, err := m.CheckIn(t.Context(), s.s)
			must(t, err)
			for _, o := range reply.Orders {
				if o.Kind != checkin.OrderFullReport {
					rt.Fatalf("%s: order %+v", what, o)
				}
			}
			m.restHolds(rt)
		}
		a := m.asset(p.report.HostID)
		if !a.LastCheckin.Equal(end) || len(a.HostIDs) != 1 {
			rt.Fatalf("%s: last check-in %v, want %v", what, a.LastCheckin, end)
		}
		if a.Seen.Versions != p.report.Versions {
			rt.Fatalf("%s: %+v, want %+v", what, a.Seen.Versions, p.report.Versions)
		}
		if c := m.conflictKinds(); len(c) > 0 {
			rt.Fatalf("%s: conflicts %v", what, c)
		}
		if !epochs && a.Hosts[0].Branches != 1 {
			rt.Fatalf("%s: %d branches", what, a.Hosts[0].Branches)
		}
	})
}

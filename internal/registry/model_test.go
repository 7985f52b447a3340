package registry

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// TestMain bounds the model test: one run of it is fifty check-ins, each durable. -rapid.checks overrides it.
func TestMain(m *testing.M) {
	flag.Set("rapid.checks", modelChecks)
	os.Exit(m.Run())
}

// Whatever happens to PCs of which none is a copy of another, in whatever order their reports arrive: each is one
// asset under all its host IDs, nothing forks, nothing overlaps, no conflict is opened, and the facts are the PC's.
func TestHonestPCsStayThemselves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := newManager(t)
		defer m.Close()
		var all []*honest
		for i := range rapid.IntRange(1, 3).Draw(rt, "pcs") {
			all = append(all, &honest{pc: newPC(m, fmt.Sprint("pc", i))})
		}
		steps := rapid.IntRange(1, 25).Draw(rt, "steps")
		for range steps {
			h := all[rapid.IntRange(0, len(all)-1).Draw(rt, "pc")]
			m.pass(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "seconds")) * time.Second)
			switch rapid.SampledFrom([]string{"report", "report", "report", "deliver", "deliver", "repeat", "restart", "reinstall", "disk", "replace", "unread", "hibernate"}).Draw(rt, "step") {
			case "report":
				h.under = append(h.under, h.next())
			case "deliver":
				h.deliver(rt)
			case "repeat":
				if len(h.sent) > 0 {
					s := rapid.SampledFrom(h.sent).Draw(rt, "which")
					if again := h.send(s); again.Raw != h.replies[s.Digest()] {
						rt.Fatalf("another reply to the same report")
					}
				}
			case "restart":
				h.start()
			case "reinstall":
				h.flush(rt)
				h.begin(checkin.EpochRestore)
			case "unread":
				h.flush(rt)
				run, began := h.report.Run, h.runBegan
				h.begin(checkin.EpochUnread)
				if rapid.Bool().Draw(rt, "within the run") {
					h.report.Run, h.runBegan = run, began
				}
			case "hibernate": // and does not notice
				d := time.Duration(rapid.IntRange(1, 20000).Draw(rt, "asleep")) * time.Second
				m.pass(d)
				h.runBegan = h.runBegan.Add(d)
			case "disk":
				h.report.Facts.Disks = []hardware.Disk{{Serial: fmt.Sprint("disk ", len(h.sent), h.report.HostID), System: true}}
			case "replace":
				h.flush(rt)
				if len(h.sent) > 0 { // else the statement that names the ID before is lost with the disk
					h.replace()
				}
			}
		}
		ids := 0
		for _, h := range all {
			h.under = append(h.under, h.next()) // at the latest now everybody has checked in
			h.flush(rt)
			ids += len(h.ids())
		}

		assets, err := m.Assets(t.Context())
		must(t, err)
		grouped := 0
		for _, a := range assets {
			grouped += len(a.HostIDs)
		}
		if len(assets) != len(all) || grouped != ids {
			rt.Fatalf("%d assets with %d host IDs, want %d with %d", len(assets), grouped, len(all), ids)
		}
		expect(t, "open conflicts", len(m.conflictKinds()), 0)
		for _, h := range all {
			a := m.asset(h.report.HostID)
			got, want := slices.Clone(a.HostIDs), h.ids()
			slices.SortFunc(got, compareIDs)
			slices.SortFunc(want, compareIDs)
			if !slices.Equal(got, want) {
				rt.Fatalf("%s has the host IDs %v, want %v", h.report.Names.Host, got, want)
			}
			if a.HostID != h.report.HostID {
				rt.Fatalf("%s is seen as %v, reports as %v", h.report.Names.Host, a.HostID, h.report.HostID)
			}
			for _, host := range a.Hosts {
				if host.Branches != host.Epochs {
					rt.Fatalf("%s has %d branches in %d epochs", h.report.Names.Host, host.Branches, host.Epochs)
				}
			}
			// A report that was late by just as long as its PC slept unnoticed looks as if it had been sent at once, beside those
			// that came before it: a conflict, until what is missing between them has come.
			kinds := m.kinds(h.report.HostID)
			for i, k := range kinds {
				passed := k == "conflict-late" || k == "conflict-overlap" && slices.Contains(kinds[i:], "conflict-late")
				if k == "fork" || strings.HasPrefix(k, "conflict") && !passed {
					rt.Fatalf("%s: %s", h.report.Names.Host, k)
				}
			}
			// Once the former line is silent, the present one gives the facts.
			m.pass(3 * DefaultInterval)
			h.checkIn()
			expect(t, "facts", m.asset(h.report.HostID).Facts, h.report.Facts)
			expect(t, "state", m.asset(h.report.HostID).State, Live)
		}
	})
}

func compareIDs(a, b hostid.ID) int { return strings.Compare(a.String(), b.String()) }

// honest is a PC whose reports may be under way for a while.
type honest struct {
	*pc
	former  []hostid.ID
	under   []checkin.SignedReport
	sent    []checkin.SignedReport
	replies map[checkin.Digest]string
}

func (h *honest) ids() []hostid.ID { return append(slices.Clone(h.former), h.report.HostID) }

// deliver lets one report arrive, whichever.
func (h *honest) deliver(rt *rapid.T) {
	if len(h.under) == 0 {
		return
	}
	i := rapid.IntRange(0, len(h.under)-1).Draw(rt, "arrives")
	s := h.under[i]
	h.under = slices.Delete(h.under, i, i+1)
	if h.replies == nil {
		h.replies = map[checkin.Digest]string{}
	}
	h.replies[s.Digest()] = h.send(s).Raw
	h.sent = append(h.sent, s)
}

func (h *honest) flush(rt *rapid.T) {
	for len(h.under) > 0 {
		h.deliver(rt)
	}
}

// replace is S11: the disk failed, the memory could not be read, a new ID took its place, with the proof.
func (h *honest) replace() {
	old := h.clone()
	q := h.successor()
	q.report.Names = old.report.Names
	q.replaces(old)
	h.former = append(h.former, old.report.HostID)
	h.pc, h.sent = q, nil
}

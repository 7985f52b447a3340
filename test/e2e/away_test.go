package e2e

import (
	"testing"
	"time"

	"samehost/test/play"
)

// AMT is down for a week: the PC keeps its host ID, through restarts too, and heals by itself once AMT answers.
func TestMemoryAwayForAWeek(t *testing.T) {
	for name, faults := range map[string]string{
		"refuses":         `{"refuse": true}`,
		"no log-on":       `{"locked_out": true}`,
		"held by another": `{"lock_by_other": true}`,
	} {
		for _, since := range []string{"before the installation", "after it"} {
			t.Run(name+" "+since, func(t *testing.T) {
				w := clockedWorld(t, 1)
				pc := w.pc(1)
				w.initialize(1)
				var id play.Identity
				if since == "after it" {
					id = w.install(pc)
					w.must(w.firmware.Faults(1, faults))
				} else {
					w.must(w.firmware.Faults(1, faults))
					id = w.install(pc)
				}
				for range 7 { // days
					service := w.serve(pc)
					for range 3 {
						w.pass(8 * time.Hour)
						w.checkIn(pc)
					}
					w.want(w.status(pc), id.HostID, "", "unavailable")
					w.must(service.Stop())
				}
				w.must(w.firmware.Faults(1, `{}`))
				service := w.serve(pc)
				w.want(w.status(pc), id.HostID, "", "stored")
				w.must(service.Stop())
				w.assets([]string{id.HostID})
				w.open()
				w.fail(pc)
				w.want(w.install(pc), id.HostID, "restored", "stored")
				w.checkIn(pc)
				w.assets([]string{id.HostID})
				w.open()
			})
		}
	}
}

// Enrolment is tried again, by several processes at once, while answers and requests get lost: one asset, one host ID, one
// enrolment.
func TestEnrolmentIsIdempotent(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	p := w.through(pc)
	w.initialize(1)
	for _, do := range []answer{drop, lose, lose} {
		p.set(always(do))
		if id, err := pc.Install(); err != nil || id.HostID == "" { // the host ID is made, the answer will come
			t.Fatalf("%+v, %v", id, err)
		}
	}
	id := w.status(pc).HostID
	p.set(func(n int, _ string) answer { return []answer{forward, lose, drop}[n%3] })
	same := make([]*play.PC, 12)
	for i := range same {
		same[i] = pc
	}
	each(t, same, func(pc *play.PC) error {
		_, err := pc.Command("checkin")
		return err
	})
	p.set(nil)
	w.checkIn(pc)
	w.want(w.status(pc), id, "", "stored")
	w.assets([]string{id})
	w.open()
	enrolled := 0
	for _, e := range w.shown(id)["history"].([]any) {
		if e.(object)["kind"] == "enrolled" {
			enrolled++
		}
	}
	if enrolled != 1 {
		t.Errorf("enrolled %d times, want once", enrolled)
	}
	// The disk fails before the answer to the enrolment came: still one.
	p.set(always(lose))
	w.fail(pc)
	w.want(w.install(pc), id, "restored", "stored")
	p.set(nil)
	w.checkIn(pc)
	w.assets([]string{id})
	w.open()
}

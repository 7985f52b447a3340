package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
	"samehost/internal/layout"
	"samehost/internal/relay"
)

// status says in plain words what goes on, in lines that fit a screen.
func TestStatusText(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.Local)
	when := at.Format(time.RFC3339)
	const away = "the higher system cannot be reached: https://127.0.0.1:8740/checkin/v1: dial tcp 127.0.0.1:8740: connect: connection refused; see that higher_system is right"
	const unborn = "no host ID was made yet" // what a relay that has just started says of itself
	for _, c := range []struct {
		name  string
		s     relay.Status
		later time.Duration
		want  string
	}{
		{"just started", relay.Status{HigherSystem: "https://manager:8740", Waiting: unborn, Written: at}, time.Second, `
host ID:        being made
higher system:  https://manager:8740
listening:      no: the relay has just started: it makes its host ID and checks
                in; look again in some seconds
as of:          ` + when},
		{"never came so far", relay.Status{HigherSystem: "https://manager:8740", Waiting: unborn, Written: at}, time.Minute, `
host ID:        none yet
higher system:  https://manager:8740
listening:      no: no host ID could be made yet; the relay's log says why
as of:          ` + when},
		{"away", relay.Status{HostID: hostid.ID{0x10}, HigherSystem: "https://127.0.0.1:8740", Listening: "127.0.0.2:8740", Refused: away, Written: at,
			State: &relay.State{Since: at, Reports: 1, Clients: 1, OldestS: 5, Bound: 1 << 30, Reason: away}}, 0, `
host ID:        10000000000000000000000000000000
higher system:  https://127.0.0.1:8740
listening:      127.0.0.2:8740
work:           none can be fetched, for the reason below
state:          higher system out of reach since ` + when + `
                1 report is kept, for 5s
                spool 0 of 1024 MB
reason:         the higher system cannot be reached:
                https://127.0.0.1:8740/checkin/v1: dial tcp 127.0.0.1:8740:
                connect: connection refused; see that higher_system is right
as of:          ` + when},
		{"reached", relay.Status{HostID: hostid.ID{0x10}, HigherSystem: "https://127.0.0.1:8740", Listening: "127.0.0.2:8740", Written: at,
			State: &relay.State{Up: true, Since: at, Bound: 1 << 30}}, 0, `
host ID:        10000000000000000000000000000000
higher system:  https://127.0.0.1:8740
listening:      127.0.0.2:8740
state:          higher system reached
                0 reports are kept
                spool 0 of 1024 MB
as of:          ` + when},
		{"full and ended", relay.Status{HostID: hostid.ID{0x10}, HigherSystem: "https://127.0.0.1:8740", Written: at, Refused: "x",
			State: &relay.State{Since: at, Reports: 3, Clients: 2, OldestS: 65, Bytes: 1 << 30, Bound: 1 << 30, Full: true}}, 0, `
host ID:        10000000000000000000000000000000
higher system:  https://127.0.0.1:8740
listening:      no: samehost-relay does not run
work:           none can be fetched: x
state:          higher system out of reach since ` + when + `
                3 reports of 2 clients are kept, the oldest for 1m5s
                spool 1024 of 1024 MB; FULL: no reports are taken
as of:          ` + when},
	} {
		got := statusText(c.s, at.Add(c.later))
		if d := cmp.Diff(c.want[1:]+"\n", got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
		for l := range strings.Lines(got) {
			if n := layout.Columns(strings.TrimSuffix(l, "\n")); n > layout.Screen {
				t.Errorf("%s: %d columns: %q", c.name, n, l)
			}
		}
	}
}

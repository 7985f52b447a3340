package agent

import (
	"time"

	"samehost/internal/checkin"
)

// Clock is the time as an Agent sees it.
type Clock struct {
	Wall  func() time.Time     // for display, file names and certificates
	Awake func() time.Duration // since boot, stopping in sleep
	Boot  func() time.Duration // since boot, sleep included
}

func systemClock() Clock { return Clock{Wall: time.Now, Awake: awakeTime, Boot: bootTime} }

// sleepSlack is how far the two clocks may drift apart without a sleep: they are read one after the other, and
// Windows counts one of them in ticks of 16 ms.
const sleepSlack = time.Second

// run is what a report calls a run: from the start of the service, or from the end of a sleep, until the next of
// these. A PC that was copied or rolled back while it slept thus never speaks in the run it had before.
type run struct {
	token  checkin.Token
	began  time.Duration // on the awake clock
	asleep time.Duration // boot minus awake when it began
}

func beginRun(c Clock) run {
	awake := c.Awake()
	return run{token: checkin.NewToken(), began: awake, asleep: c.Boot() - awake}
}

// slept reports whether the PC has slept since the run began.
func (r run) slept(c Clock) bool {
	awake := c.Awake()
	return c.Boot()-awake-r.asleep > sleepSlack
}

// age is how long the run has lasted, sleep left out; never negative.
func (r run) age(c Clock) time.Duration { return max(0, c.Awake()-r.began) }

package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

const (
	// DefaultInterval is kept until a manager says another.
	DefaultInterval = 5 * time.Minute
	minInterval     = time.Second
	maxInterval     = 24 * time.Hour

	// firstRetry is how long the loop waits at most after a check-in that failed; each further failure doubles that, up
	// to the interval and maxRetry. How long it waits indeed is drawn between minRetry and that ("full jitter"): what
	// failed for thousands of PCs at once must not come back from all of them at once.
	firstRetry = 10 * time.Second
	minRetry   = time.Second
	maxRetry   = 15 * time.Minute

	// maxBusy bounds what a busy higher system may ask for where the interval is shorter.
	maxBusy = time.Hour

	// atBoot is how soon after its machine a service starts that starts with it. Thousands of PCs are switched on at
	// nine, or wake up then: they check in within maxSpread, and within half of the interval, each at its own moment. A
	// PC that the manager does not know yet does so at once, and so does every command of a person.
	atBoot    = 5 * time.Minute
	maxSpread = time.Minute

	// keepOpen is how long a connection waits for the next check-in; what comes later opens another, and neither side
	// has anything to keep meanwhile.
	keepOpen = time.Minute

	// look is how often the loop looks at the clock: timers stand still in sleep, and a PC that wakes up should be
	// heard of soon.
	look = 30 * time.Second
)

// Run checks in at once, or within a minute where the machine has just started, and then at the interval that the
// replies ask for, until ctx ends; meanwhile other processes may have it check in with RequestCheckIn. What goes wrong is logged, stands in the status, and is
// tried again: Run itself fails only if the port for RequestCheckIn cannot be opened, or with ErrGone.
func (a *Agent) Run(ctx context.Context) error {
	// Between two check-ins the process does nothing for minutes on thousands of PCs: what the last one needed goes
	// back to the system (measured: 13 MB resident instead of 17).
	checkIn := func(ctx context.Context) (Outcome, error) {
		defer debug.FreeOSMemory()
		return a.CheckIn(ctx)
	}
	control, err := serveControl(ctx, a.o.DataDir, checkIn)
	if err != nil {
		return fmt.Errorf("open the port that other commands ask this service through: %w", err)
	}
	defer control.Close()
	a.begin()
	for {
		for left := a.left(); left > 0; left = a.left() {
			timer := time.NewTimer(min(left, look))
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if _, err := checkIn(ctx); errors.Is(err, ErrGone) {
			return err
		}
	}
}

// begin sets when the first check-in of a service is due.
func (a *Agent) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = a.o.Clock.Awake()
	if a.chain.Enrolled && a.o.Clock.Boot() < atBoot {
		a.due += a.spread()
	}
}

// spread is how long this PC waits where many have the same reason to check in.
func (a *Agent) spread() time.Duration { return rand.N(min(maxSpread, a.interval()/2)) }

// left is how long until a check-in is due: soon after a sleep.
func (a *Agent) left() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.o.Clock.Awake()
	if !a.woke && a.run.slept(a.o.Clock) {
		a.woke, a.due = true, min(a.due, now+a.spread())
	}
	return a.due - now
}

// plan sets when the next check-in is due. settled means that trying again sooner will not help.
func (a *Agent) plan(settled bool) {
	a.failures++
	if settled {
		a.failures = 0
	}
	interval := a.interval()
	wait := jitter(interval)
	switch {
	case a.busy != nil: // more jitter each time, in case it asks everybody to come at the same time
		wait = min(a.busy.After, max(interval, maxBusy)) + fullJitter(interval, a.failures)
	case a.failures > 0:
		wait = fullJitter(interval, a.failures)
	}
	// What was ordered is acknowledged soon; but only once in a row, or a manager that orders without end would be
	// asked without end.
	owes := len(a.chain.Done) > 0 || len(a.orders.Failed) > 0 || a.untold
	if owes && settled && !a.hurried {
		wait = min(wait, jitter(firstRetry))
	}
	a.hurried, a.woke = owes, false
	a.due = a.o.Clock.Awake() + wait
	if wait > keepOpen {
		a.hangUp()
	}
}

// hangUp closes the connection to the higher system; the next check-in opens another.
func (a *Agent) hangUp() {
	if c, ok := a.higher.(interface{ Close() }); ok {
		c.Close()
	}
}

// interval is until the next check-in, as the last reply says.
func (a *Agent) interval() time.Duration {
	reply, err := a.chain.reply()
	if err != nil || reply.Interval == 0 {
		return DefaultInterval
	}
	return min(max(reply.Interval, minInterval), maxInterval)
}

// delay is how long to wait at most after that many failures in a row.
func delay(interval time.Duration, failures int) time.Duration {
	most := min(interval, maxRetry)
	d := firstRetry
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// fullJitter draws how long to wait after that many failures in a row.
func fullJitter(interval time.Duration, failures int) time.Duration {
	return max(minRetry, rand.N(delay(interval, failures)+1))
}

// jitter spreads PCs that were switched on together: ±10 %.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

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

	// firstRetry is how long the loop waits after a check-in that failed; each further failure doubles it, up to
	// the interval.
	firstRetry = 10 * time.Second

	// look is how often the loop looks at the clock: timers stand still in sleep, and a PC that wakes up should be
	// heard of soon.
	look = 30 * time.Second
)

// Run checks in at once and then at the interval that the replies ask for, until ctx ends; meanwhile other
// processes may have it check in with RequestCheckIn. What goes wrong is logged, stands in the status, and is
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
	for {
		if _, err := checkIn(ctx); errors.Is(err, ErrGone) {
			return err
		}
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
	}
}

// left is how long until a check-in is due: none after a sleep.
func (a *Agent) left() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.run.slept(a.o.Clock) {
		return 0
	}
	return a.due - a.o.Clock.Awake()
}

// plan sets when the next check-in is due. settled means that trying again sooner will not help.
func (a *Agent) plan(settled bool) {
	a.failures++
	if settled {
		a.failures = 0
	}
	wait := delay(a.interval(), a.failures)
	// What was ordered is acknowledged soon; but only once in a row, or a manager that orders without end would be
	// asked without end.
	owes := len(a.chain.Done) > 0 || len(a.orders.Failed) > 0
	if owes && settled && !a.hurried {
		wait = min(wait, firstRetry)
	}
	a.hurried = owes
	a.due = a.o.Clock.Awake() + jitter(wait)
}

// interval is until the next check-in, as the last reply says.
func (a *Agent) interval() time.Duration {
	reply, err := a.chain.reply()
	if err != nil || reply.Interval == 0 {
		return DefaultInterval
	}
	return min(max(reply.Interval, minInterval), maxInterval)
}

// delay is how long to wait after that many failures in a row.
func delay(interval time.Duration, failures int) time.Duration {
	if failures == 0 {
		return interval
	}
	d := firstRetry
	for i := 1; i < failures && d < interval; i++ {
		d *= 2
	}
	return min(d, interval)
}

// jitter spreads PCs that were switched on together: ±10 %.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

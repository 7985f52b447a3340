package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// Check-ins are taken in batches: whatever came while one batch was being made durable is the next. So a single report
// waits for nobody, and a thousand at once share one write to the disk.
const (
	maxBatch = 256 // reports: a batch takes a few milliseconds where most hosts are at rest

	// A report that would wait for longer than maxWait is refused at once: its sender comes again at a time that is spread.
	maxWait    = 5 * time.Second
	maxWaiting = 8192 // reports, each up to checkin.MaxReport bytes
	batchTime  = time.Minute
)

// checkInJob is one report on its way through a batch.
type checkInJob struct {
	s         checkin.SignedReport
	v         checkin.VerifiedReport
	held      time.Duration
	uncertain bool
	route     string

	reply checkin.Reply // unsigned, and signed by whoever waits for it, unless Raw is set
	err   error
	open  bool // it is to be decided about, elsewhere

	turn chan bool // true: lead the next batch; false: done
}

// A lane takes reports one batch at a time. There is no process of its own in it: of those who wait, one works for all.
type lane struct {
	mu      sync.Mutex
	waiting []*checkInJob
	led     bool

	last   time.Time     // when the batch before ended
	enough chan struct{} // closed when whoever leads need not wait for more; nil: he does not wait

	// Of the latest batches, each with less weight than the one after it.
	took    time.Duration
	reports float64
}

// tellingReports is how many reports tell what one costs. A batch of fewer may have waited for the disk most of the time, and then
// takes as long as one of so many.
const tellingReports = 16

// few is how many reports make a batch of their own, for which no more are waited for.
const few = 32

// Gather has check-ins that come one by one, but often, wait so long for others to be made durable with. It is called before
// the first one comes; 0, which is what holds without it: they wait for nobody.
func (r *Registry) Gather(d time.Duration) { r.gather = d }

// gather waits for others where they come one by one, but often: a batch costs as much as several reports. When a few are there it goes.
func (l *lane) gather(d time.Duration) {
	l.mu.Lock()
	if len(l.waiting) >= few || time.Since(l.last) >= 4*d {
		l.mu.Unlock()
		return
	}
	enough := make(chan struct{})
	l.enough = enough
	l.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-enough:
	case <-timer.C:
	}
	l.mu.Lock()
	l.enough = nil
	l.mu.Unlock()
}

// wait is how long whoever comes now will have to wait, about. l.mu is held.
func (l *lane) wait() time.Duration {
	if len(l.waiting) == 0 {
		return 0
	}
	took := float64(l.took)
	return time.Duration(max(took/max(l.reports, 1), took/max(l.reports, tellingReports)*float64(len(l.waiting))))
}

// join waits until a batch with the job is done, after gathering others for so long.
func (l *lane) join(j *checkInJob, gather time.Duration, do func([]*checkInJob)) error {
	l.mu.Lock()
	if wait := l.wait(); len(l.waiting) >= maxWaiting || wait > maxWait {
		l.mu.Unlock()
		after := max(wait, maxWait)
		return &checkin.Busy{After: after + rand.N(after), Reason: "too many reports wait for the database"}
	}
	l.waiting = append(l.waiting, j)
	if l.enough != nil && len(l.waiting) >= few {
		close(l.enough)
		l.enough = nil
	}
	lead := !l.led
	l.led = true
	l.mu.Unlock()
	if lead || <-j.turn {
		l.gather(gather)
		l.mu.Lock()
		batch := l.waiting[:min(len(l.waiting), maxBatch)]
		l.waiting = append([]*checkInJob(nil), l.waiting[len(batch):]...)
		l.mu.Unlock()
		began := time.Now()
		do(batch) // which does not panic, or nobody would lead any more
		took := time.Since(began)
		l.mu.Lock()
		l.last = time.Now()
		l.took, l.reports = l.took*7/8+took, l.reports*7/8+float64(len(batch))
		if l.led = len(l.waiting) > 0; l.led {
			l.waiting[0].turn <- true
		}
		l.mu.Unlock()
		for _, other := range batch {
			if other != j {
				other.turn <- false
			}
		}
	}
	return nil // who leads is the first of his batch
}

// CheckIn implements checkin.HigherSystem. The report, every decision about it and the signed reply are durable
// when it returns; the same report again is answered with the same reply, to the byte. It fails with a
// checkin.Refusal, with ErrTooMuch, with a checkin.Busy, or with an error of the database, after which nothing of the report is
// kept.
func (r *Registry) CheckIn(ctx context.Context, s checkin.SignedReport) (checkin.Reply, error) {
	if r.key == nil {
		return checkin.Reply{}, errors.New("the registry was opened without the manager's key")
	}
	v, err := checkin.Verify(s)
	if err != nil {
		return checkin.Reply{}, err
	}
	if v.Report.Audience != r.audience {
		return checkin.Reply{}, &checkin.Refusal{Code: checkin.WrongAudience,
			Detail: "the report is made for another manager"}
	}
	if err := ctx.Err(); err != nil {
		return checkin.Reply{}, err
	}
	j := &checkInJob{s: s, v: v, turn: make(chan bool, 2)}
	if err := j.way(s.Hops); err != nil {
		return checkin.Reply{}, err
	}
	err = r.quick.join(j, r.gather, r.acceptAll)
	if err == nil && j.open {
		err = r.laneOf(v.Report.HostID).join(j, 0, r.decideAll)
	}
	if err != nil {
		return checkin.Reply{}, err
	}
	if j.err != nil {
		return checkin.Reply{}, j.err
	}
	if j.reply.Raw == "" { // outside of the batch, so that others need not wait for it; what is signed is durable
		return checkin.SignReply(j.reply, r.key)
	}
	return j.reply, nil
}

func (r *Registry) laneOf(id hostid.ID) *lane { return &r.lanes[int(id[0])%len(r.lanes)] }

// maxHeld is the longest that relays may have held a report; what is said beyond it is not believed.
const maxHeld = 60 * 24 * time.Hour

// way takes what the relays on the way say.
func (j *checkInJob) way(hops []checkin.Hop) error {
	if len(hops) > checkin.MaxHops {
		return &checkin.Refusal{Code: checkin.Malformed, Detail: fmt.Sprintf("the report came through more than %d relays", checkin.MaxHops)}
	}
	for _, h := range hops {
		j.held += min(max(h.Held, 0), maxHeld)
		j.uncertain = j.uncertain || h.Uncertain || h.Held < 0 || h.Held > maxHeld
		j.route = `\` + h.Relay.String() + j.route
	}
	j.held = min(j.held, maxHeld)
	return nil
}

// acceptAll takes a batch: first the reports that need no decision, then all others, or leaves those to the lanes for it where there
// are any. A batch that fails is done again one by one: what is wrong with one report must not harm another.
func (r *Registry) acceptAll(batch []*checkInJob) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), batchTime) // who waits may be gone, the batch is others' too
	defer cancel()
	var rest []*checkInJob
	r.each(batch, func(some []*checkInJob) error {
		decided, err := r.takeUp(ctx, some)
		if err == nil {
			rest = append(rest, decided...)
		}
		return err
	})
	if len(r.lanes) == 0 {
		r.decideEach(ctx, rest)
	} else {
		for _, j := range rest {
			j.open = true
		}
	}
	r.busy.add(&r.busy.quick, time.Since(began))
}

// decideAll decides about the reports of a batch.
func (r *Registry) decideAll(batch []*checkInJob) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), batchTime)
	defer cancel()
	r.decideEach(ctx, batch)
	r.busy.add(&r.busy.deciding, time.Since(began))
}

func (r *Registry) decideEach(ctx context.Context, batch []*checkInJob) {
	r.each(batch, func(some []*checkInJob) error {
		return r.decideIn(ctx, r.isolation, maxTries, func(t *transaction) error {
			for _, j := range some {
				j.reply, j.err = checkin.Reply{}, nil
				if err := t.alone(func() error { return t.decideAbout(j) }, &j.err); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// each does something with a batch, or if that fails with each report of it.
func (r *Registry) each(batch []*checkInJob, do func([]*checkInJob) error) {
	if len(batch) == 0 {
		return
	}
	do = calmly(do)
	err := do(batch)
	if err == nil {
		return
	}
	for i, j := range batch {
		if len(batch) > 1 {
			err = do(batch[i : i+1])
		}
		if _, mistake := errors.AsType[*panicError](err); mistake {
			j.err = err
			continue
		}
		if err != nil && !r.again(err) { // the disk is full, or the database is away: for the others too
			for _, j := range batch[i:] {
				j.err = err
			}
			return
		}
		if err != nil { // others are in the way, time and again
			j.err = &checkin.Busy{After: time.Second + rand.N(maxWait), Reason: err.Error()}
		}
	}
}

// A panicError is a mistake in this program that a report has brought to light. Whoever works for others gives it back as
// an error: it is that report's alone.
type panicError struct {
	what  any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("deciding about a report failed, which is a mistake in this program: %v\n%s", e.what, e.stack)
}

// calmly is do without its panics.
func calmly(do func([]*checkInJob) error) func([]*checkInJob) error {
	return func(batch []*checkInJob) (err error) {
		defer func() {
			if what := recover(); what != nil {
				err = &panicError{what, debug.Stack()}
			}
		}()
		return do(batch)
	}
}

// takeUp takes the reports of hosts at rest that say nothing new, and returns all others. What it read is what it writes over,
// or it is done again; so it need not be kept apart from others in any other way.
func (r *Registry) takeUp(ctx context.Context, batch []*checkInJob) (decided []*checkInJob, err error) {
	ids := make([]string, 0, len(batch))
	seen := make(map[string]bool, len(batch))
	for _, j := range batch {
		if id := j.v.Report.HostID.String(); !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	if err := r.wakeIfSetBack(ctx); err != nil {
		return nil, err
	}
	err = r.decideIn(ctx, r.light, maxTries, func(t *transaction) error {
		decided = nil
		resting, err := t.restingOf(ids)
		if err != nil {
			return err
		}
		changed := make([]*restingHost, 0, len(resting))
		passed := make(map[string]bool) // hosts of which a report is decided about: those after it are, too
		hour := hourOf(t.now)
		for _, j := range batch {
			j.reply, j.err = checkin.Reply{}, nil
			id := j.v.Report.HostID.String()
			q := resting[id]
			received := t.arrived(j)
			switch {
			case q == nil || passed[id]:
				decided = append(decided, j)
			case q.again(&j.v):
				j.reply = q.lastReply(&j.v)
			case !q.continues(t, &j.v, received, j.uncertain) || q.hour == hour && q.inHour >= maxReportsPerHour:
				passed[id] = true
				decided = append(decided, j)
			default:
				if q.was == "" {
					q.was = q.tip
					changed = append(changed, q)
				}
				q.take(t, &j.v, received, hour)
				j.reply = q.lastReply(&j.v)
			}
		}
		if len(changed) == 0 {
			return nil
		}
		if err := t.saveResting(changed); err != nil {
			return err
		}
		return t.contact()
	})
	return decided, err
}

// wakeIfSetBack wakes the hosts whose latest report is later than now: where the clock was set back, what was measured before
// is certain of nothing any more (span), and nobody rests on it.
func (r *Registry) wakeIfSetBack(ctx context.Context) error {
	now, last := millis(r.now()), r.latest.Load()
	if last == 0 || last > now+slack.Milliseconds() {
		if err := r.decide(ctx, func(t *transaction) error { return t.wake(`received > $1`, millis(t.now.Add(slack))) }); err != nil {
			return err
		}
	} else if now < last { // by little: it counts from before that
		return nil
	}
	r.latest.Store(now)
	return nil
}

// arrived takes up a report: when it came to the first of the relays, and by which way. The time is never later than now.
func (t *transaction) arrived(j *checkInJob) time.Time {
	t.received, t.uncertain, t.route = t.now.Add(-j.held).Truncate(time.Millisecond), j.uncertain, j.route
	return t.received
}

// alone does something within a batch. If it fails only that is undone, and its error is for one report: into. An error that
// is returned ends the batch.
func (t *transaction) alone(f func() error, into *error) error {
	if _, err := t.exec(`SAVEPOINT alone`); err != nil {
		return err
	}
	err := f()
	if err != nil && t.reg.again(err) {
		return err
	}
	end := `RELEASE SAVEPOINT alone`
	if err != nil {
		*into = err
		if _, failed := t.exec(`ROLLBACK TO SAVEPOINT alone`); failed != nil {
			return err
		}
	}
	_, failed := t.exec(end)
	return failed
}

// decideAbout decides about one report in full, unless it was accepted before.
func (t *transaction) decideAbout(j *checkInJob) error {
	t.arrived(j)
	var raw string
	known, err := t.get(`SELECT reply FROM reports WHERE digest = $1`, []any{j.v.Digest.String()}, []any{&raw})
	switch {
	case err != nil:
	case raw != "":
		j.reply, err = checkin.VerifyReply(raw, t.reg.audience, j.v.Digest)
	case known: // trimmed: it was accepted long ago, and that is all there is to say
		j.reply = t.reply(j.v)
	default:
		j.reply, err = t.accept(j.s, j.v)
	}
	return err
}

// A pace is how busy the managers of a database are: the interval that clients are told grows with it.
type pace struct {
	factor     int64
	longest    int64 // that may still be in force with some client
	until      int64 // milliseconds; longest holds until then
	generation int64
}

// maxPace is how much longer than the one that is set the interval becomes where the manager cannot keep up.
const maxPace = 8

// interval is what clients are told.
func (t *transaction) interval() time.Duration {
	return t.reg.interval * time.Duration(min(max(t.pace.factor, 1), maxPace))
}

// silence is how long a host may say nothing before it is no longer live: three of the longest interval that it may have been told.
func (r *Registry) silence() time.Duration {
	longest := int64(1)
	if p := r.paced.Load(); p != nil {
		if longest = max(p.factor, 1); r.now().UnixMilli() < p.until {
			longest = max(longest, p.longest)
		}
	}
	return liveIntervals * r.interval * time.Duration(min(longest, maxPace))
}

// readPace takes note of the pace.
func (r *Registry) readPace(ctx context.Context, q queryer) (pace, error) {
	all, err := scanAll(ctx, q, func(scan func(...any) error) (p pace, err error) {
		return p, scan(&p.factor, &p.longest, &p.until, &p.generation)
	}, `SELECT factor, longest, until, generation FROM pace`)
	if err != nil || len(all) == 0 {
		return pace{factor: 1, longest: 1}, err
	}
	r.paced.Store(&all[0])
	return all[0], nil
}

// setPace changes the interval that clients are told from now on.
func (t *transaction) setPace(factor int64) error {
	p := t.pace
	if longest := max(factor, p.factor, p.longest); millis(t.now) < p.until || factor != p.factor {
		// Who was told the longer interval just now comes when it is over; then three of the new one count.
		p.longest, p.until = longest, max(p.until, millis(t.now.Add(liveIntervals*t.reg.interval*time.Duration(longest))))
	}
	p.factor = factor
	t.pace = p
	_, err := t.exec(`UPDATE pace SET factor = $1, longest = $2, until = $3`, p.factor, p.longest, p.until)
	return err
}

// unsettle has every host at rest decided about in full with its next report.
func (t *transaction) unsettle() error {
	_, err := t.exec(`UPDATE pace SET generation = generation + 1`)
	return err
}

// busyness measures which part of the time the database's writers work.
type busyness struct {
	mu              sync.Mutex
	since           time.Time
	quick, deciding time.Duration // since then; deciding in all lanes for it
	part            float64       // of the last whole stretch
}

// stretch is what busyness is measured over: long enough that a single burst does not slow ten thousand PCs down.
const stretch = 15 * time.Second

func (b *busyness) add(to *time.Duration, d time.Duration) {
	b.mu.Lock()
	*to += d
	b.mu.Unlock()
}

// take returns the part of the last stretch that was spent working, with that many lanes that decide, once for each stretch.
func (b *busyness) take(now time.Time, lanes int) (part float64, over bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() {
		b.since = now
	}
	gone := now.Sub(b.since)
	if gone < stretch {
		return b.part, false
	}
	b.part = max(b.quick.Seconds(), b.deciding.Seconds()/max(float64(lanes), 1)) / gone.Seconds()
	b.since, b.quick, b.deciding = now, 0, 0
	return b.part, true
}

// Above tooBusy the interval doubles, below idle it halves.
const (
	tooBusy = 0.75
	idle    = 0.25
)

// Pace lengthens the interval that clients are told while the database cannot keep up with them, and shortens it again
// afterwards. It is meant to be called every few seconds by one who serves check-ins; it returns the interval in force.
func (r *Registry) Pace(ctx context.Context) (time.Duration, error) {
	part, over := r.busy.take(time.Now(), len(r.lanes))
	p, err := r.readPace(ctx, r.readers)
	if err != nil {
		return 0, err
	}
	if over {
		factor := p.factor
		switch {
		case part > tooBusy && factor < maxPace:
			factor *= 2
		case part < idle && factor > 1:
			factor /= 2
		}
		if factor != p.factor {
			err = r.decide(ctx, func(t *transaction) error {
				if t.pace.factor != p.factor { // another manager was first
					return nil
				}
				return t.setPace(factor)
			})
			p.factor = factor
		}
	}
	return r.interval * time.Duration(min(max(p.factor, 1), maxPace)), err
}

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"samehost/internal/checkin"
)

// A load is check-ins of a fleet: from a schedule to what became of each.
type load struct {
	fleet       *fleet
	systems     []*higher
	connections int
	use         string        // kept, resumed, fresh
	verify      bool          // every reply's signature
	firstRetry  time.Duration // doubled with each further attempt
	drain       time.Duration // how long after the end of a phase what is under way may take
	ledger      *ledger

	jobs    chan job
	traffic traffic
	workers sync.WaitGroup
	stop    context.CancelFunc
}

// A job is one check-in of one client.
type job struct {
	client   int
	intended time.Time // when it was due: latency counts from here, whatever kept it from being sent
	attempt  int
	phase    *phase
}

// A phase is what is counted together: the enrolment, the ramp, the load.
type phase struct {
	began, ended time.Time
	times        histogram

	offered, accepted, deferred, refused, retried, full, delta, skipped, bad atomic.Int64

	mu      sync.Mutex
	kinds   map[string]int64 // attempts that failed, by kind
	orders  map[checkin.OrderKind]int64
	example string // of a refusal
	under   sync.WaitGroup
}

func newPhase() *phase {
	return &phase{kinds: map[string]int64{}, orders: map[checkin.OrderKind]int64{}}
}

// unanswered is how many check-ins nobody knows the end of.
func (p *phase) unanswered() int64 {
	return p.offered.Load() - p.accepted.Load() - p.deferred.Load() - p.refused.Load()
}

func (p *phase) failed(kind string) {
	p.mu.Lock()
	p.kinds[kind]++
	p.mu.Unlock()
}

// start opens the workers, each with a connection of its own.
func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	l.jobs = make(chan job)
	for n := range l.connections {
		l.workers.Go(func() {
			c := &connection{systems: l.systems, at: n % len(l.systems), use: l.use, traffic: &l.traffic, configs: make([]*tls.Config, len(l.systems))}
			defer c.close()
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-l.jobs:
					l.checkIn(ctx, c, j)
				}
			}
		})
	}
}

// end stops the workers and closes their connections.
func (l *load) end() {
	l.stop()
	l.workers.Wait()
}

// enrol checks every client in that is not known yet, as fast as it goes. It ends at the first refusal: the next
// client would meet the same.
func (l *load) enrol(ctx context.Context) (*phase, error) {
	return l.each(ctx, "enrolment", func(c *client) bool { return !c.enrolled })
}

// settle has every client check in once, as fast as it goes.
func (l *load) settle(ctx context.Context) (*phase, error) {
	return l.each(ctx, "settling", func(*client) bool { return true })
}

// each has every client of a kind check in once, and waits for what became of it.
func (l *load) each(ctx context.Context, name string, of func(*client) bool) (*phase, error) {
	p := newPhase()
	p.began = time.Now()
	for i := range l.fleet.clients {
		c := &l.fleet.clients[i]
		if !c.busy.CompareAndSwap(false, true) {
			continue
		}
		if !of(c) {
			c.busy.Store(false)
			continue
		}
		if !l.hand(ctx, job{client: i, intended: time.Now(), phase: p}) {
			return p, ctx.Err()
		}
		if p.refused.Load() > 0 {
			break
		}
	}
	err := l.await(ctx, p)
	p.ended = time.Now()
	if p.refused.Load() > 0 {
		return p, fmt.Errorf("%s: %s", name, p.example)
	}
	if left := p.unanswered(); err == nil && left > 0 {
		return p, fmt.Errorf("%s: %d clients had no answer: %s", name, left, p.troubles())
	}
	return p, err
}

// hand gives a job to a worker as soon as one is free.
func (l *load) hand(ctx context.Context, j job) bool {
	j.phase.offered.Add(1)
	j.phase.under.Add(1)
	select {
	case l.jobs <- j:
		return true
	case <-ctx.Done():
		l.done(j)
		return false
	}
}

// signAhead signs n reports in the order in which they will be due at that rate, from then on.
func (l *load) signAhead(n int, rate float64) error {
	clients := len(l.fleet.clients)
	each := (n + clients - 1) / clients
	if n == 0 {
		return nil
	}
	var next atomic.Int64
	errs := make(chan error, runtime.GOMAXPROCS(0))
	begin := time.Since(l.fleet.began)
	for range cap(errs) {
		go func() {
			at := make([]time.Duration, 0, each)
			for {
				i := int(next.Add(1) - 1)
				if i >= clients {
					errs <- nil
					return
				}
				at = at[:0]
				for k := i; k < n; k += clients {
					due := begin
					if rate > 0 {
						due += time.Duration(float64(k) / rate * float64(time.Second))
					}
					at = append(at, due)
				}
				if err := l.fleet.signAhead(i, at); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	var err error
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

// run brings check-ins at a rate for a time, in an order that is the same for the same seed: as of clients that know nothing
// of one another, so the gaps between two vary (a Poisson process), and an answer that is late keeps none of the others
// back. A rate of 0 means as fast as the connections take them. What comes in the ramp, while the rate grows, is
// counted apart.
func (l *load) run(ctx context.Context, rate float64, ramp, duration time.Duration) (ramped, p *phase) {
	ramped, p = newPhase(), newPhase()
	clients := l.fleet.clients
	random := rand.New(rand.NewPCG(l.fleet.seed, 1))
	cursor := 0
	pick := func() int {
		for range len(clients) {
			i := cursor
			if cursor++; cursor == len(clients) {
				cursor = 0
			}
			if !clients[i].busy.CompareAndSwap(false, true) {
				continue
			}
			if clients[i].enrolled { // to be read by its holder only
				return i
			}
			clients[i].busy.Store(false)
		}
		return -1
	}
	began := time.Now()
	ramped.began, ramped.ended, p.began = began, began.Add(ramp), began.Add(ramp)
	timer := time.NewTimer(0)
	defer timer.Stop()
	waiting := make(chan job, 1<<16) // due, and no worker free
	var handing sync.WaitGroup
	handing.Go(func() {
		for j := range waiting {
			l.hand(ctx, j)
		}
	})
	end := began.Add(ramp + duration)
	at := 0.0 // seconds after the beginning, in the time in which the rate is constant
	for ctx.Err() == nil {
		due := time.Now()
		if rate > 0 {
			at += random.ExpFloat64() / rate
			due = began.Add(unramped(at, ramp.Seconds()))
			if wait := time.Until(due); wait > 0 && due.Before(end) {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
			}
		}
		if !due.Before(end) {
			break
		}
		in := p
		if due.Before(p.began) {
			in = ramped
		}
		i := pick()
		if i < 0 {
			if in.skipped.Add(1); rate == 0 { // every client waits for an answer
				time.Sleep(time.Millisecond)
			}
			continue
		}
		j := job{client: i, intended: due, phase: in}
		if rate > 0 {
			waiting <- j // where it is full, the intended time stays what it is
		} else {
			l.hand(ctx, j)
		}
	}
	p.ended = time.Now()
	close(waiting)
	handing.Wait()
	l.await(ctx, ramped)
	l.await(ctx, p)
	return ramped, p
}

// unramped turns the time of a constant rate into the time of one that grows from 0 to it within the ramp.
func unramped(at, ramp float64) time.Duration {
	t := at + ramp/2
	if t < ramp {
		t = math.Sqrt(2 * ramp * at)
	}
	return time.Duration(t * float64(time.Second))
}

// await waits for what is under way, as long as the drain lets it.
func (l *load) await(ctx context.Context, p *phase) error {
	done := make(chan struct{})
	go func() {
		p.under.Wait()
		close(done)
	}()
	timer := time.NewTimer(l.drain)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// checkIn sends a client's report and deals with the answer; what has none is tried again later, unchanged.
func (l *load) checkIn(ctx context.Context, conn *connection, j job) {
	c := &l.fleet.clients[j.client]
	if err := l.fleet.prepare(j.client); err != nil {
		j.phase.refuse("sign: " + err.Error())
		l.done(j)
		return
	}
	a, f := conn.post(ctx, c.pending.jws)
	if f != nil {
		if ctx.Err() != nil {
			l.done(j)
			return
		}
		j.phase.failed(f.kind)
		l.again(ctx, j, 0)
		return
	}
	digest := checkin.SignedReport{JWS: c.pending.jws}.Digest()
	switch {
	case a.status == 200 && a.media == "application/jose":
		reply, err := l.read(string(a.body), digest)
		if err != nil {
			j.phase.bad.Add(1)
			j.phase.failed("bad reply")
			l.again(ctx, j, 0)
			return
		}
		l.taken(j, digest, checkin.Accepted)
		for _, kind := range l.fleet.follow(j.client, reply) {
			j.phase.mu.Lock()
			j.phase.orders[kind]++
			j.phase.mu.Unlock()
		}
		j.phase.accepted.Add(1)
		l.done(j)
	case a.status == 202:
		var d struct {
			Status checkin.ReplyStatus `json:"status"`
			Report checkin.Digest      `json:"report"`
		}
		if err := json.Unmarshal(a.body, &d); err != nil || d.Status != checkin.Deferred || d.Report != digest {
			j.phase.bad.Add(1)
			j.phase.failed("bad reply")
			l.again(ctx, j, 0)
			return
		}
		l.taken(j, digest, checkin.Deferred)
		j.phase.deferred.Add(1)
		l.done(j)
	case a.status >= 400 && a.status < 500 && a.media == "application/problem+json":
		var problem struct {
			Type   string `json:"type"`
			Detail string `json:"detail"`
		}
		json.Unmarshal(a.body, &problem)
		if code, ok := strings.CutPrefix(problem.Type, "urn:samehost:problem:"); ok {
			c.refused()
			j.phase.failed("refused: " + clean(code))
			j.phase.refuse("the higher system refuses it (" + clean(code) + "): " + clean(problem.Detail))
			l.done(j)
			return
		}
		fallthrough
	default:
		kind := fmt.Sprintf("HTTP %d", a.status)
		if a.status == 503 {
			kind = "busy"
		}
		j.phase.failed(kind)
		l.again(ctx, j, a.retryAfter)
	}
}

// clean keeps what a higher system says from playing with the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 300)])
}

func (p *phase) refuse(example string) {
	p.mu.Lock()
	p.example = example
	p.mu.Unlock()
	p.refused.Add(1)
}

// read takes a reply, after its signature was verified or as it stands.
func (l *load) read(raw string, digest checkin.Digest) (checkin.Reply, error) {
	if l.verify {
		return checkin.VerifyReply(raw, l.fleet.token.Manager, digest)
	}
	var reply checkin.Reply
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return reply, errors.New("not three parts")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &reply)
	}
	if err == nil && (reply.Report != digest || reply.Status != checkin.Accepted) {
		err = errors.New("it answers another report")
	}
	return reply, err
}

func (l *load) taken(j job, digest checkin.Digest, word checkin.ReplyStatus) {
	c := &l.fleet.clients[j.client]
	j.phase.times.add(time.Since(j.intended))
	if c.pending.full {
		j.phase.full.Add(1)
	} else {
		j.phase.delta.Add(1)
	}
	l.ledger.add(word, digest, l.fleet.hostID(j.client).String())
	c.taken(digest, word)
}

func (l *load) done(j job) {
	l.fleet.clients[j.client].busy.Store(false)
	j.phase.under.Done()
}

// again sends the same report once more: not before the higher system says, else after a time that doubles; spread by a
// tenth, so that those who were turned away together do not come back together.
func (l *load) again(ctx context.Context, j job, after time.Duration) {
	if after == 0 {
		after = l.firstRetry << min(j.attempt, 6)
	}
	j.attempt++
	j.phase.retried.Add(1)
	time.AfterFunc(after+rand.N(after/10+1), func() {
		select {
		case l.jobs <- j:
		case <-ctx.Done():
			l.done(j)
		}
	})
}

// A ledger is the list of what was acknowledged: a line per report, "accepted" or "deferred", digest and host ID.
type ledger struct {
	mu  sync.Mutex
	w   *bufio.Writer
	c   io.Closer
	err error
}

func newLedger(w io.WriteCloser) *ledger { return &ledger{w: bufio.NewWriter(w), c: w} }

func (l *ledger) add(word checkin.ReplyStatus, digest checkin.Digest, host string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := fmt.Fprintf(l.w, "%s %s %s\n", word, digest, host); err != nil && l.err == nil {
		l.err = err
	}
}

func (l *ledger) close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.w.Flush(), l.c.Close())
}

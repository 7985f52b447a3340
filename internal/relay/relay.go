// Package relay is a relay system: a higher system for what is below it, which has a higher system itself. It takes
// signed reports, keeps them on its disk until the higher system has taken them, and hands the manager's replies back. It
// can neither alter nor forge: reports are signed by their PCs, replies by the manager.
//
// # What is promised
//
// A report that CheckIn answered with `deferred` is durable. It goes up once as the manager sees it (a repetition is
// answered with the stored reply), and after those that the same client gave before it by the same way. At the bound of the spool new
// reports are refused with checkin.Busy; nothing that was taken is ever dropped.
//
// # Bounds
//
// What is kept in memory is some hundred bytes for each report of the spool, and that is bounded in bytes of the disk.
// Clients that the manager has never answered through this relay share an eighth of it, so that whoever invents PCs
// cannot fill it; one client that the manager knows may use a thirty-second part by each way that it comes.
package relay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const (
	// DefaultWait is how long a client waits for the manager's own reply before it is told `deferred`.
	DefaultWait = 10 * time.Second
	// DefaultSpool is the bound in bytes: three weeks of two hundred PCs that report four times an hour.
	DefaultSpool = 1 << 30
	// MinSpool is the least bound that makes sense.
	MinSpool = 1 << 20

	sendTimeout   = 45 * time.Second // of one report on its way up; longer than a relay above waits for its own
	maxUnderWay   = 1024             // reports on their way up at once: four full batches
	firstProbe    = time.Second      // between attempts while the higher system cannot be reached; doubled
	lastProbe     = 10 * time.Second
	firstBackOff  = time.Second // of one client's line
	lastBackOff   = 10 * time.Minute
	fullRetry     = time.Minute     // told at the bound
	limitRetry    = 5 * time.Minute // told at one client's limit
	maxOfClient   = 10_000          // reports of one client that wait
	maxTaking     = 4               // of one client that are being made durable: an honest one sends one after the other
	maxOfUnknown  = 8               // and of one that the manager has not answered yet
	unknownPart   = 8               // of the bound, for all of those together
	clientPart    = 32              // of the bound, for one that is known
	minClientPart = 1 << 20
	maxLate       = 4096 // replies that came too late, kept for their clients
	maxLateBytes  = 16 << 20
	sayVerifying  = 10 * time.Second // between lines of the log while what is kept is verified at the start
	clockSlack    = 2 * time.Second  // how far two clocks may drift apart before one of them was set
)

// Options are what a Relay is made of.
type Options struct {
	DataDir string
	HostID  hostid.ID           // the relay's own
	Manager checkin.Fingerprint // reports for another manager are refused
	Higher  checkin.HigherSystem
	Spool   int64         // bytes that kept reports may take; 0: DefaultSpool
	Wait    time.Duration // 0: DefaultWait
	Log     *slog.Logger

	// For tests that simulate time.
	Wall  func() time.Time     // nil: time.Now
	Awake func() time.Duration // since some moment of this run, going on in leaps of Wall; nil: the monotonic clock
}

// Relay takes reports and sends them up. Its methods may be called from several goroutines.
type Relay struct {
	o     Options
	quiet *checkin.Quiet // for what clients and relays can cause without end
	spool *spool
	ctx   context.Context
	stop  context.CancelFunc
	all   sync.WaitGroup

	mu       sync.Mutex
	lines    map[source]*line
	clients  map[client]int // lines of each
	ready    []*line        // that have something to send, in turn
	underWay int
	taking   map[source]int // reports that are being made durable
	unknown  int64          // bytes of clients that the manager has not answered yet
	known    *clients
	late     lateReplies
	subtree  *subtree // locks itself

	down    bool      // the higher system cannot be reached
	since   time.Time // since when it is up or down
	reason  string    // why it is down
	probing bool
	probe   time.Duration
	timer   *time.Timer // until the next attempt

	counts Counts
}

// Counts are totals since the relay started.
type Counts struct {
	Taken     int64 `json:"taken"`      // reports made durable
	Repeated  int64 `json:"repeated"`   // that were kept already
	Delivered int64 `json:"delivered"`  // accepted by the manager
	HandedOn  int64 `json:"handed_on"`  // taken into the keeping of a relay above
	Refused   int64 `json:"refused"`    // refused by the manager
	TurnedOff int64 `json:"turned_off"` // not taken: a bound was reached
	Forged    int64 `json:"forged"`     // answers that the manager did not sign
	Lost      int64 `json:"lost"`       // that the disk gave back damaged
}

// client tells clients apart: digest of host ID and key, so that nobody speaks for another.
type client [16]byte

func clientOf(v checkin.VerifiedReport) client {
	h := sha256.New()
	h.Write(v.Report.HostID[:])
	h.Write(v.Key)
	return client(h.Sum(nil)[:16])
}

// source is a client, and the relay below that brought its report; the zero relay where it came by itself. Each has a line and bounds of
// its own: what a relay below says of the way, or repeats, keeps nobody waiting who comes by another one.
type source struct {
	who client
	by  hostid.ID
}

func sourceOf(v checkin.VerifiedReport, hops []checkin.Hop) source {
	s := source{who: clientOf(v)}
	if len(hops) > 0 {
		s.by = hops[len(hops)-1].Relay
	}
	return s
}

// line is what one client gave by one way that has not gone up, in order. One report of it is under way at a time.
type line struct {
	source
	entries  []*kept
	bytes    int64
	unknown  bool // the manager has not answered this client yet
	underWay bool
	queued   bool // in ready
	waits    bool // for its back-off
	backOff  time.Duration
	waiters  map[uint64][]chan outcome // by number
}

// outcome is what became of a report.
type outcome struct {
	reply checkin.Reply
	err   error // a Refusal, or errLater
}

var errLater = errors.New("kept, and not answered yet")

// Open reads what a relay of that data folder keeps, and begins to send it up. The caller closes the Relay.
func Open(o Options) (*Relay, error) {
	if o.Spool == 0 {
		o.Spool = DefaultSpool
	}
	if o.Wait == 0 {
		o.Wait = DefaultWait
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Awake == nil {
		began := time.Now()
		o.Awake = func() time.Duration { return time.Since(began) + 1 } // never 0
	}
	if o.Spool < MinSpool {
		return nil, fmt.Errorf("a spool of %d bytes is too small: at least %d", o.Spool, MinSpool)
	}
	known, err := loadClients(o.DataDir, o.Log)
	if err != nil {
		return nil, err
	}
	s, entries, err := openSpool(spoolDir(o.DataDir), o.Spool, o.Log)
	if err != nil {
		return nil, err
	}
	r := &Relay{o: o, quiet: checkin.NewQuiet(o.Log), spool: s, lines: map[source]*line{}, clients: map[client]int{}, known: known, taking: map[source]int{}, since: o.Wall(),
		subtree: loadSubtree(o.DataDir, o.HostID, o.Log)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	sources, errs := r.sources(entries)
	for i, e := range entries {
		if errs[i] != nil {
			r.lost(e, errs[i])
		} else {
			r.enlist(sources[i], e)
		}
	}
	if len(entries) > 0 {
		o.Log.Info("reports are kept from before", "reports", len(entries))
	}
	r.mu.Lock()
	r.schedule()
	r.mu.Unlock()
	return r, nil
}

// sources reads and verifies what is kept, and tells whose each report is, or why it cannot be sent.
func (r *Relay) sources(entries []*kept) ([]source, []error) {
	sources, errs := make([]source, len(entries)), make([]error, len(entries))
	var done atomic.Int64
	began := time.Now()
	said := time.NewTicker(sayVerifying)
	defer said.Stop()
	over := make(chan struct{})
	go func() {
		defer close(over)
		onAllProcessors(len(entries), func(i int) {
			p, err := r.spool.read(entries[i])
			if err == nil {
				var v checkin.VerifiedReport
				if v, err = checkin.Verify(p.report); err == nil {
					sources[i] = sourceOf(v, p.report.Hops)
				}
			}
			errs[i] = err
			done.Add(1)
		})
	}()
	for {
		select {
		case <-over:
			return sources, errs
		case <-said.C:
			r.o.Log.Info("reports that are kept from before are being verified; no check-ins are taken until that is done",
				"verified", done.Load(), "of", len(entries), "seconds", int(time.Since(began).Seconds()))
		}
	}
}

// onAllProcessors calls f with each number below n, some at a time: as many as there are processors. It returns when all have returned.
func onAllProcessors(n int, f func(i int)) {
	const atOnce = 64 // neighbours, which are read from one place of the disk
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+atOnce-1)/atOnce) {
		all.Go(func() {
			for {
				from := int(next.Add(atOnce)) - atOnce
				if from >= n {
					return
				}
				for i := from; i < min(from+atOnce, n); i++ {
					f(i)
				}
			}
		})
	}
	all.Wait()
}

// Close ends sending, and makes the rest durable. What was under way stays in the spool.
func (r *Relay) Close() error {
	r.stop()
	r.mu.Lock()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.all.Wait()
	return errors.Join(r.spool.close(), r.SaveClients(false), r.subtree.save(r.o.Wall(), true))
}

// SaveClients makes durable which clients the manager knows; with onlyNew, where there are new ones.
func (r *Relay) SaveClients(onlyNew bool) error {
	r.mu.Lock()
	var b []byte
	if r.known.added || !onlyNew {
		b = r.known.bytes()
	}
	r.mu.Unlock()
	return r.known.write(b)
}

// lost notes a report that the disk does not give back.
func (r *Relay) lost(e *kept, err error) {
	r.o.Log.Error("a report that was kept cannot be read back: it is lost", "number", e.number, "error", err)
	r.counts.Lost++
	r.spool.done(e)
}

// CheckIn implements checkin.HigherSystem: the manager's reply if it comes in time, else Deferred, with the report
// durable here. It fails with a Refusal, with Busy where the report is not taken, or with an error of the disk.
func (r *Relay) CheckIn(ctx context.Context, s checkin.SignedReport) (checkin.Reply, error) {
	if err := r.judgeHops(s.Hops); err != nil {
		return checkin.Reply{}, err
	}
	v, err := checkin.Verify(s)
	if err != nil {
		return checkin.Reply{}, err
	}
	if v.Report.Audience != r.o.Manager {
		return checkin.Reply{}, &checkin.Refusal{Code: checkin.WrongAudience,
			Detail: "the report is made for another manager than this relay's; give this client an enrolment token of that one"}
	}
	from := sourceOf(v, s.Hops)
	wait, number, err := r.take(from, v.Digest, s)
	if err != nil {
		return checkin.Reply{}, err
	}
	if r.isKnown(from.who) {
		r.subtree.note(v, s.Hops, r.o.Wall())
	}
	deferred := checkin.Reply{Report: v.Digest, Status: checkin.Deferred}
	timer := time.NewTimer(r.o.Wait)
	defer timer.Stop()
	select {
	case out := <-wait:
		switch {
		case out.err == nil && out.reply.Status == checkin.Accepted:
			return out.reply, nil
		case out.err != nil && !errors.Is(out.err, errLater):
			return checkin.Reply{}, out.err
		}
	case <-timer.C:
		r.forget(from, number, wait)
	case <-ctx.Done():
		r.forget(from, number, wait)
		return checkin.Reply{}, ctx.Err()
	case <-r.ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	deferred.Late = r.late.take(from.who, v.Report.Previous)
	return deferred, nil
}

// judgeHops refuses a way that leads in a circle or is too long, for the time being: nothing is wrong with the report.
func (r *Relay) judgeHops(hops []checkin.Hop) error {
	reason := ""
	for _, h := range hops {
		if h.Relay == r.o.HostID {
			reason = fmt.Sprintf("relays lead in a circle: the report came through this relay (%s) before; correct higher_system of one of them", h.Relay)
		}
	}
	if len(hops) >= checkin.MaxHops {
		reason = fmt.Sprintf("the report came through %d relays; no more than %d may stand between a PC and its manager", len(hops), checkin.MaxHops)
	}
	if reason == "" {
		return nil
	}
	r.quiet.Error("reports cannot be passed on", errors.New(reason))
	return &checkin.Busy{After: fullRetry, Reason: reason}
}

// take sees to it that the report is durable here, and returns where its outcome will be told. A report that is kept
// already is not kept twice.
func (r *Relay) take(from source, d checkin.Digest, s checkin.SignedReport) (wait chan outcome, number uint64, err error) {
	wait = make(chan outcome, 1)
	size := int64(len(s.JWS))
	r.mu.Lock()
	if l := r.lines[from]; l != nil {
		if e := l.find(d); e != nil {
			r.counts.Repeated++
			r.await(l, e, wait)
			r.mu.Unlock()
			return wait, e.number, nil
		}
	}
	unknown := !r.known.has(from.who)
	if err := r.limit(from, unknown, size); err != nil {
		r.counts.TurnedOff++
		r.mu.Unlock()
		return nil, 0, err
	}
	if unknown {
		r.unknown += size // held until it is in a line
	}
	r.taking[from]++
	r.mu.Unlock()
	e, err := r.spool.append(spooled{report: s, received: r.o.Wall().UnixMilli(), awake: r.o.Awake()})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taking[from]--; r.taking[from] == 0 {
		delete(r.taking, from)
	}
	if unknown {
		r.unknown -= size
	}
	if err != nil {
		r.counts.TurnedOff++
		reason := "the disk of this relay cannot be written"
		if errors.Is(err, errFull) {
			reason = "the spool of this relay is full"
		}
		return nil, 0, &checkin.Busy{After: jitter(fullRetry), Reason: reason}
	}
	r.counts.Taken++
	l := r.enlist(from, e)
	r.await(l, e, wait)
	r.schedule()
	return wait, e.number, nil
}

// limit bounds what one client, and all that are unknown together, may make this relay keep.
func (r *Relay) limit(from source, unknown bool, size int64) error {
	reports, most := 0, maxOfClient
	var bytes, mostBytes int64
	if l := r.lines[from]; l != nil {
		reports, bytes = len(l.entries), l.bytes
	}
	mostBytes = max(r.o.Spool/clientPart, minClientPart)
	reason := "this relay keeps as many reports of this client as it may"
	if unknown {
		most = maxOfUnknown
		if r.unknown+size > r.o.Spool/unknownPart {
			return &checkin.Busy{After: jitter(limitRetry), Reason: "this relay keeps as many reports of clients that the manager has not answered yet as it may"}
		}
		reason = "the manager has not answered this client yet, and this relay keeps as many of its reports as it may"
	}
	if r.taking[from] >= maxTaking {
		return &checkin.Busy{After: jitter(fullRetry), Reason: "this client sends several reports at once"}
	}
	if reports >= most || bytes+size > mostBytes {
		return &checkin.Busy{After: jitter(limitRetry), Reason: reason}
	}
	return nil
}

// enlist puts an entry into its client's line, by number.
func (r *Relay) enlist(from source, e *kept) *line {
	l := r.lines[from]
	if l == nil {
		l = &line{source: from, unknown: !r.known.has(from.who)}
		r.lines[from] = l
		r.clients[from.who]++
	}
	at := len(l.entries)
	for at > 0 && l.entries[at-1].number > e.number && !(at == 1 && l.underWay) {
		at--
	}
	l.entries = slices.Insert(l.entries, at, e)
	l.bytes += int64(e.size)
	if l.unknown {
		r.unknown += int64(e.size)
	}
	r.enqueue(l)
	return l
}

func (r *Relay) enqueue(l *line) {
	if !l.queued && !l.underWay && !l.waits && len(l.entries) > 0 {
		l.queued = true
		r.ready = append(r.ready, l)
	}
}

// find returns the entry of that report, if it is kept.
func (l *line) find(d checkin.Digest) *kept {
	short := binary.BigEndian.Uint64(d[:])
	for _, e := range l.entries {
		if e.digest == short {
			return e
		}
	}
	return nil
}

// await has the outcome of an entry told. Where it cannot come soon, it is told so at once.
func (r *Relay) await(l *line, e *kept, wait chan outcome) {
	if r.down || l.waits {
		wait <- outcome{err: errLater}
		return
	}
	if l.waiters == nil {
		l.waiters = map[uint64][]chan outcome{}
	}
	l.waiters[e.number] = append(l.waiters[e.number], wait)
}

// forget takes back await.
func (r *Relay) forget(from source, number uint64, wait chan outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lines[from]
	if l == nil {
		return
	}
	if left := slices.DeleteFunc(l.waiters[number], func(c chan outcome) bool { return c == wait }); len(left) > 0 {
		l.waiters[number] = left
	} else {
		delete(l.waiters, number)
	}
}

// tell tells an outcome to those who wait for one number, and reports whether anybody did.
func (l *line) tell(number uint64, out outcome) bool {
	list := l.waiters[number]
	delete(l.waiters, number)
	for _, c := range list {
		c <- out
	}
	return len(list) > 0
}

// release tells all who wait that it will take longer.
func (l *line) release() {
	for n := range l.waiters {
		l.tell(n, outcome{err: errLater})
	}
}

// schedule starts what can be sent. While the higher system cannot be reached, one report at a time tries.
func (r *Relay) schedule() {
	for len(r.ready) > 0 && r.underWay < maxUnderWay && r.ctx.Err() == nil {
		if r.down && (r.probing || r.timer != nil) {
			return
		}
		l := r.ready[0]
		r.ready[0] = nil
		r.ready = r.ready[1:]
		l.queued, l.underWay = false, true
		r.underWay++
		r.probing = r.down
		first := l.entries[0]
		r.all.Go(func() { r.send(l, first) })
	}
}

// send brings one report up.
func (r *Relay) send(l *line, e *kept) {
	p, err := r.spool.read(e)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lost(e, err)
		r.finish(l, e, outcome{err: errLater})
		return
	}
	report := checkin.SignedReport{JWS: p.report.JWS, Hops: append(slices.Clip(p.report.Hops), r.hop(e))}
	ctx, cancel := context.WithTimeout(r.ctx, sendTimeout)
	reply, err := r.o.Higher.CheckIn(ctx, report)
	cancel()
	if err == nil && reply.Status == checkin.Accepted && !r.subtree.has(l.who) { // CheckIn did not know yet that the manager knows it
		if v, err := checkin.Verify(p.report); err == nil {
			r.subtree.note(v, p.report.Hops, time.UnixMilli(p.received))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil { // the outcome is not known: it goes up again
		l.underWay = false
		r.underWay--
		l.release()
		return
	}
	var refusal *checkin.Refusal
	var busy *checkin.Busy
	switch {
	case err == nil && reply.Status == checkin.Deferred:
		r.counts.HandedOn++
		r.reached()
		if reply.Late != nil {
			r.late.put(l.who, *reply.Late)
		}
		r.spool.done(e)
		r.finish(l, e, outcome{err: errLater})
	case err == nil:
		r.counts.Delivered++
		r.reached()
		r.answered(l)
		r.spool.done(e)
		if !l.tell(e.number, outcome{reply: reply}) {
			r.late.put(l.who, checkin.LateReply{Report: reply.Report, Raw: reply.Raw})
		}
		r.finish(l, e, outcome{})
	case errors.As(err, &refusal):
		r.counts.Refused++
		r.reached()
		r.quiet.Warn("a report was refused", refusal.Error())
		r.spool.done(e)
		if !l.tell(e.number, outcome{err: refusal}) {
			r.late.put(l.who, checkin.LateReply{Report: report.Digest(), Refused: refusal})
		}
		r.finish(l, e, outcome{})
	case errors.As(err, &busy):
		r.reached()
		r.later(l, busy.After)
	case errors.Is(err, checkin.ErrForged):
		r.counts.Forged++
		r.quiet.Error("the higher system answered with what the manager did not sign: the report is kept", err)
		r.reached()
		r.later(l, 0)
	default:
		r.unreachable(err)
		r.again(l)
	}
	r.schedule()
}

// hop is what this relay says of its keeping the report.
func (r *Relay) hop(e *kept) checkin.Hop {
	wall := time.Duration(r.o.Wall().UnixMilli()-e.received) * time.Millisecond
	h := checkin.Hop{Relay: r.o.HostID, Held: max(0, wall), Uncertain: true}
	if e.awake != 0 {
		held := max(0, r.o.Awake()-e.awake)
		h.Held, h.Uncertain = held, (held-wall).Abs() > clockSlack
	}
	return h
}

// finish takes a report out of its line.
func (r *Relay) finish(l *line, e *kept, out outcome) {
	l.underWay = false
	r.underWay--
	l.backOff = 0
	if i := slices.Index(l.entries, e); i >= 0 {
		l.entries = slices.Delete(l.entries, i, i+1)
		l.bytes -= int64(e.size)
		if l.unknown {
			r.unknown -= int64(e.size)
		}
	}
	l.tell(e.number, out)
	if len(l.entries) == 0 {
		delete(r.lines, l.source)
		if r.clients[l.who]--; r.clients[l.who] == 0 {
			delete(r.clients, l.who)
		}
	}
	r.enqueue(l)
	r.schedule()
}

func (r *Relay) isKnown(who client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known.has(who)
}

// answered notes that the manager knows this client.
func (r *Relay) answered(l *line) {
	r.known.add(l.who, r.o.Wall())
	if l.unknown {
		l.unknown = false
		r.unknown -= l.bytes
	}
}

// again puts a line back whose report did not get through.
func (r *Relay) again(l *line) {
	l.underWay = false
	r.underWay--
	l.release()
	r.enqueue(l)
}

// later has a line wait: its report is not wanted now, while others may be.
func (r *Relay) later(l *line, after time.Duration) {
	l.underWay = false
	r.underWay--
	l.backOff = min(max(2*l.backOff, firstBackOff), lastBackOff)
	wait := min(max(after, l.backOff), lastBackOff)
	l.waits = true
	l.release()
	time.AfterFunc(jitter(wait), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		l.waits = false
		r.enqueue(l)
		r.schedule()
	})
}

// reached notes that the higher system answers.
func (r *Relay) reached() {
	r.probing, r.probe = false, 0
	if !r.down {
		return
	}
	r.down, r.since, r.reason = false, r.o.Wall(), ""
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.o.Log.Info("the higher system is reached again")
}

// unreachable notes that it does not, and plans the next attempt.
func (r *Relay) unreachable(err error) {
	if !r.down {
		r.down, r.since = true, r.o.Wall()
		r.o.Log.Warn("the higher system cannot be reached: reports are kept", "reason", err)
		for _, l := range r.lines {
			l.release()
		}
	}
	r.reason = err.Error()
	r.probing = false
	if r.timer != nil {
		return // others that were under way fail too
	}
	r.probe = min(max(2*r.probe, firstProbe), lastProbe)
	r.timer = time.AfterFunc(jitter(r.probe), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.timer = nil
		r.schedule()
	})
}

// jitter spreads what happened together: ±10 %.
func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// Report is what the relay's own report says of its spool.
func (r *Relay) Report() checkin.RelayState {
	s := r.State()
	return checkin.RelayState{Reports: int64(s.Reports), Bytes: s.Bytes, Bound: s.Bound, OldestS: s.OldestS, Refused: s.TurnedOff}
}

// State is how a relay stands. Its JSON names never change their meaning.
type State struct {
	Up      bool      `json:"up"`    // the higher system answers, as far as is known
	Since   time.Time `json:"since"` // that it does, or does not
	Reason  string    `json:"reason,omitempty"`
	Reports int       `json:"reports"` // kept
	Clients int       `json:"clients"` // whose reports are kept
	Bytes   int64     `json:"bytes"`   // of the disk
	Bound   int64     `json:"bound"`
	OldestS int64     `json:"oldest_s"` // seconds that the oldest report has waited
	Full    bool      `json:"full"`     // no report is taken
	Counts
}

// State tells how the relay stands.
func (r *Relay) State() State {
	reports, used := r.spool.size()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := State{Up: !r.down, Since: r.since, Reason: r.reason, Reports: reports, Clients: len(r.clients), Bytes: used, Bound: r.o.Spool, Counts: r.counts,
		Full: used+checkin.MaxReport/8 > r.o.Spool}
	oldest := int64(0)
	for _, l := range r.lines {
		if len(l.entries) > 0 && (oldest == 0 || l.entries[0].received < oldest) {
			oldest = l.entries[0].received
		}
	}
	if oldest > 0 {
		s.OldestS = max(0, (r.o.Wall().UnixMilli()-oldest)/1000)
	}
	return s
}

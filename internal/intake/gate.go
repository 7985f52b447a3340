package intake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"samehost/internal/checkin"
)

const (
	// mostUnderWay bounds the check-ins under way, and with them memory: some 10 KB each.
	mostUnderWay = 4096

	// Where a check-in takes slow on the average, no more than fewUnderWay are under way: a longer queue would make each
	// of them slower, and none faster.
	fewUnderWay = 64
	slow        = time.Second

	// mostOfOne bounds what one PC has under way: an honest one sends a report and waits. But the clones of one image begin as
	// one PC, all at once, so as many as mostWaiting more may wait for their turn, and take up no place while they do.
	mostOfOne   = 4
	mostWaiting = 256

	// Who does not fit is given a place in a queue that moves at a part of the rate at which check-ins end, and at
	// slowestRate at least; nobody is told to stay away longer than mostAway, plus a fifth that is drawn.
	partOfRate  = 0.8
	slowestRate = 50.0 // a second
	leastAway   = 2 * time.Second
	mostAway    = 10 * time.Minute
)

// Gate is a HigherSystem that lets a bounded number of check-ins at a time through to another. The others are Busy, each with
// another time to come back: the longer the queue of those that were sent away, the later.
type Gate struct {
	next  checkin.HigherSystem
	waits bool // next mostly waits for another: how long that takes says nothing of how busy this machine is

	mu       sync.Mutex
	underWay int
	of       map[string]*one // by the key that signs
	took     time.Duration   // a check-in on the average, lately
	rate     float64         // check-ins that ended in a second, lately
	ended    int             // since counted
	counted  time.Time
	place    time.Time // when the last one that was sent away may come back

	figures *gateFigures
}

// one is what one PC has under way, and what waits until that is less.
type one struct {
	underWay int
	waiting  []chan struct{} // closed when it is its turn
}

// NewGate makes a Gate before next.
func NewGate(next checkin.HigherSystem) *Gate {
	return &Gate{next: next, of: make(map[string]*one), figures: newGateFigures()}
}

// NewRelayGate makes a Gate before a relay, whose check-ins wait for the manager's reply. It lets as many through however long
// they take: where that is too long the relay keeps them and says so, which is better than to send them away.
func NewRelayGate(next checkin.HigherSystem) *Gate {
	g := NewGate(next)
	g.waits = true
	return g
}

// CheckIn implements checkin.HigherSystem.
func (g *Gate) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	reply, err := g.checkIn(ctx, r)
	g.figures.count(ctx, reply, err)
	return reply, err
}

func (g *Gate) checkIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	if err := g.enter(time.Now()); err != nil {
		return checkin.Reply{}, err
	}
	// Before anything is counted for a PC: else whoever knows its key could use up what is its own.
	v, err := checkin.Verify(r)
	if err != nil {
		g.leave(time.Now(), -1)
		return checkin.Reply{}, err
	}
	who := ""
	if len(r.Hops) == 0 { // what a relay has kept for days comes in one go
		who = string(v.Key)
		if err := g.turn(ctx, who); err != nil {
			return checkin.Reply{}, err
		}
	}
	began := time.Now()
	defer func() {
		took := time.Since(began)
		g.figures.took(took)
		g.leave(time.Now(), took)
		g.oneLess(who)
	}()
	return g.next.CheckIn(ctx, r.Verified(v))
}

// enter counts a check-in in, or sends it away.
func (g *Gate) enter(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick(now)
	if g.underWay < fewUnderWay || g.underWay < mostUnderWay && (g.waits || g.took < slow) {
		g.underWay++
		return nil
	}
	if earliest := now.Add(leastAway); g.place.Before(earliest) {
		g.place = earliest
	}
	g.place = g.place.Add(time.Duration(float64(time.Second) / max(partOfRate*g.rate, slowestRate)))
	after := min(g.place.Sub(now), mostAway)
	if after == mostAway { // and not all of them at that moment
		g.place = now.Add(mostAway)
	}
	return &checkin.Busy{After: after + rand.N(after/5), Reason: fmt.Sprintf("%d check-ins are under way", g.underWay)}
}

// leave counts one out that took so long; below 0: it does not count for the average.
func (g *Gate) leave(now time.Time, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.underWay--
	if took >= 0 {
		g.took += (took - g.took) / 32
		g.ended++
	}
	g.tick(now)
}

// tick takes the rate of the last second or more. While nothing ends, what took long before says nothing.
func (g *Gate) tick(now time.Time) {
	passed := now.Sub(g.counted)
	if passed < time.Second {
		return
	}
	if passed > time.Minute {
		g.rate, g.took = 0, 0
	} else {
		g.rate = (g.rate + float64(g.ended)/passed.Seconds()) / 2
	}
	g.ended, g.counted = 0, now
}

// turn waits until one more of that PC may be under way. It keeps the place in the Gate, but for an error; while it waits it has none.
func (g *Gate) turn(ctx context.Context, who string) error {
	g.mu.Lock()
	o := g.of[who]
	if o == nil {
		o = &one{}
		g.of[who] = o
	}
	if o.underWay < mostOfOne {
		o.underWay++
		g.mu.Unlock()
		return nil
	}
	if len(o.waiting) == mostWaiting {
		g.mu.Unlock()
		g.leave(time.Now(), -1)
		return &checkin.Busy{After: leastAway + rand.N(leastAway), Reason: fmt.Sprintf("%d reports of this host are under way", mostOfOne+mostWaiting)}
	}
	mine := make(chan struct{})
	o.waiting = append(o.waiting, mine)
	g.mu.Unlock()
	g.leave(time.Now(), -1)
	select {
	case <-mine:
	case <-ctx.Done():
		g.mu.Lock()
		i := slices.Index(o.waiting, mine)
		if i >= 0 {
			o.waiting = slices.Delete(o.waiting, i, i+1)
		}
		g.mu.Unlock()
		if i < 0 { // its turn came just now
			g.oneLess(who)
		}
		return ctx.Err()
	}
	err := g.enter(time.Now())
	if err != nil {
		g.oneLess(who)
	}
	return err
}

// oneLess ends one of that PC's: the next one has its turn.
func (g *Gate) oneLess(who string) {
	if who == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.of[who]
	if len(o.waiting) > 0 {
		close(o.waiting[0])
		o.waiting = slices.Delete(o.waiting, 0, 1)
		return
	}
	if o.underWay--; o.underWay == 0 {
		delete(g.of, who)
	}
}

// outcome names what became of a check-in, for figures.
func outcome(ctx context.Context, reply checkin.Reply, err error) string {
	var refusal *checkin.Refusal
	var busy *checkin.Busy
	switch {
	case err == nil:
		return string(reply.Status)
	case errors.As(err, &refusal):
		return string(refusal.Code)
	case errors.As(err, &busy):
		return outcomeBusy
	case ctx.Err() != nil:
		return outcomeGone
	}
	return outcomeFailed
}

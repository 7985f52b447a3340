package agent

import (
	"slices"
	"time"

	"samehost/internal/checkin"
)

const (
	// fullEvery is how old the last full report may be. A manager that lost what it knew, and relays and people who look
	// at reports, have the whole of it after a day.
	fullEvery = 24 * time.Hour

	// noDeltas is how long full reports follow an order for one: a manager that cannot do with deltas at all is asked
	// once an hour whether that has changed.
	noDeltas = time.Hour
)

// fullReport is what this process remembers of full reports. It is lost with the process on purpose: who starts tells
// everything once.
type fullReport struct {
	// The last one that the manager accepted, and what it said; zero digest: none to go by.
	base      checkin.Digest
	epoch     checkin.Token
	run       checkin.Token
	describes checkin.Digest

	sent  time.Duration // on the boot clock: when the last one was accepted or taken into a relay's keeping
	until time.Duration // on the boot clock: before this, full reports only
}

// delta is the report as a delta, where the manager knows from this run all that it would say.
func (a *Agent) delta(r checkin.Report) (checkin.Report, bool) {
	f, now := a.full, a.o.Clock.Boot()
	if f.base == (checkin.Digest{}) || f.epoch != r.Epoch || f.run != r.Run || now-f.sent >= fullEvery || now < f.until || f.describes != r.Describes() {
		return checkin.Report{}, false
	}
	return r.Delta(f.base)
}

// taken notes a report that was accepted or deferred.
func (a *Agent) taken(sent checkin.VerifiedReport, reply checkin.Reply) {
	now := a.o.Clock.Boot()
	full := sent.Report.Base == checkin.Digest{}
	if full {
		a.full.sent = now
	}
	switch {
	case reply.Status != checkin.Accepted: // the manager does not know it yet; what it accepted before still stands
	case len(reply.Orders) > 0: // it wants to see what comes of them
		a.full.base = checkin.Digest{}
	case full:
		a.full.base, a.full.epoch, a.full.run, a.full.describes = sent.Digest, sent.Report.Epoch, sent.Report.Run, sent.Report.Describes()
	}
	if slices.ContainsFunc(reply.Orders, func(o checkin.Order) bool { return o.Kind == checkin.OrderFullReport }) {
		a.full.until = now + noDeltas
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// gather asks what this PC is made of. unread, in one line, is why facts are missing that the hardware has, "" if
// none are. On a disk without host ID the answer decides which one the PC gets, so where nothing that tells boards
// apart can be read it is waited for as memory is, RestoreWait at most. err is the context's.
func (a *Agent) gather(ctx context.Context) (facts hardware.Facts, unread string, err error) {
	deadline := time.Now().Add(a.o.RestoreWait)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		facts, err = a.o.Hardware(ctx)
		if ctx.Err() != nil {
			return hardware.Facts{}, "", ctx.Err()
		}
		if unread = ""; err != nil {
			unread = strings.Join(strings.Fields(err.Error()), " ")
		}
		left := time.Until(deadline)
		if unread == "" || !blind(a.evidence(facts)) || left <= 0 || !a.withoutID(ctx) {
			break
		}
		if pause == firstLook {
			a.o.Log.Info("waiting for the hardware facts before a host ID is generated", "at_most", a.o.RestoreWait, "error", unread)
		}
		again := time.NewTimer(min(pause, left))
		select {
		case <-ctx.Done():
			again.Stop()
			return hardware.Facts{}, "", fmt.Errorf("waiting for the hardware facts of this PC (%s): %w", unread, ctx.Err())
		case <-again.C:
		}
	}
	if unread != "" && unread != a.unseen {
		a.o.Log.Warn("facts about this PC cannot be read", "error", unread)
	}
	a.unseen = unread
	return facts, unread, nil
}

// Hardware that could not be read is asked again soon, for it is a moment's trouble mostly, and then every two
// seconds, as the Keeper asks memory.
const (
	firstLook = 100 * time.Millisecond
	lastLook  = 2 * time.Second
)

// withoutID reports that the host ID management file holds none.
func (a *Agent) withoutID(ctx context.Context) bool {
	_, err := hostid.NewFile(a.o.DataDir).Load(ctx)
	return errors.Is(err, hostid.ErrNotStored) || errors.Is(err, hostid.ErrCorrupt)
}

// blind reports that nothing is known that tells one board from another: compared with itself it stays undecided.
func blind(e hostid.Evidence) bool {
	var any hostid.ID
	return undecided(e.Facts(any), e, any)
}

func undecided(recorded hostid.Facts, present hostid.Evidence, id hostid.ID) bool {
	return hostid.Compare(recorded, present.Facts(id)) == hostid.Undecided
}

// judgedStore is memory while hardware facts are missing that this PC has. What Compare leaves undecided counts as
// this board's own, rightly where the facts are not to be had; but here it would let one failed reading pass another
// board's record for this PC's, or a copied disk's for the original's. So what the facts that are left do not decide
// is as if memory did not answer: not restored from and not written to. docs/decisions/0043.
type judgedStore struct {
	hostid.Store
	present hostid.Evidence
	unread  string
}

func (s judgedStore) Load(ctx context.Context) (hostid.Record, error) {
	r, err := s.Store.Load(ctx)
	switch {
	case err == nil && undecided(r.Facts, s.present, r.HostID):
		return hostid.Record{}, s.unavailable("whose host ID it holds")
	case (errors.Is(err, hostid.ErrNotStored) || errors.Is(err, hostid.ErrCorrupt)) && blind(s.present):
		return hostid.Record{}, s.unavailable("whether the host ID is this board's")
	}
	return r, err
}

func (s judgedStore) Save(ctx context.Context, r hostid.Record) error {
	if undecided(r.Facts, s.present, r.HostID) {
		return s.unavailable("whether the host ID is this board's")
	}
	return s.Store.Save(ctx, r)
}

func (s judgedStore) unavailable(what string) error {
	return fmt.Errorf("%w: hardware facts of this PC cannot be read (%s), so nothing tells %s; the next check-in tries again", hostid.ErrUnavailable, s.unread, what)
}

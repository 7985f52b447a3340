package registry

import (
	"errors"
	"fmt"
	"time"

	"samehost/internal/checkin"
)

// What one host ID may make the manager store. Nothing honest comes near: a client reports four times an hour, and
// one that a relay kept for a week while it was offline brings 700 reports at once.
const (
	maxReportsPerHour = 3600
	// Reports beyond these are accepted and kept without their text, which may be 64 KiB each: 8 MB an hour at most.
	keepTextPerHour     = 1000
	keepLongTextPerHour = 60
	longText            = 4096 // bytes; a PC with two disks and two interfaces takes half of it
	// maxEpochsPerDay is about twice what a client makes that loses its data folder between any two reports.
	maxEpochsPerDay = 200
	// maxEventsPerDay bounds the history, which is kept for ever.
	maxEventsPerDay = 1000
)

// ErrTooMuch says that a host ID sends more than any client does. The report is not accepted now; it is some time
// later, when it is sent again.
var ErrTooMuch = errors.New("more than a client sends")

// bound fails with ErrTooMuch, or says whether the report is to be kept with its text. Whoever holds the bound key
// and all others that claim the ID are counted apart: a stranger cannot use up what is the PC's.
func (t *transaction) bound(s checkin.SignedReport, v checkin.VerifiedReport, proven bool) (text bool, err error) {
	id := v.Report.HostID.String()
	var reports, epochs, events int64
	if _, err := t.get(`SELECT reports FROM rates WHERE host_id = $1 AND proven = $2 AND hour = $3`, []any{id, proven, hourOf(t.now)}, []any{&reports}); err != nil {
		return false, err
	}
	day := millis(t.now.Add(-24 * time.Hour))
	_, err = t.get(`SELECT COUNT(*) FROM epochs WHERE host_id = $1 AND proven = $2 AND began > $3`,
		[]any{id, proven, day}, []any{&epochs})
	if err != nil {
		return false, err
	}
	begun, err := t.get(`SELECT 1 FROM epochs WHERE host_id = $1 AND key = $2 AND epoch = $3`,
		[]any{id, []byte(v.Key), v.Report.Epoch.String()}, []any{new(int)})
	if err != nil {
		return false, err
	}
	if _, err = t.get(`SELECT COUNT(*) FROM history WHERE host_id = $1 AND at > $2`, []any{id, day}, []any{&events}); err != nil {
		return false, err
	}
	mostEvents := int64(maxEventsPerDay)
	if !proven {
		mostEvents /= 2 // the history is one: the rest of it is the PC's
	}
	for _, b := range []struct {
		over bool
		what string
	}{
		{reports >= maxReportsPerHour, fmt.Sprintf("%d reports within an hour", reports)},
		{!begun && epochs >= maxEpochsPerDay, fmt.Sprintf("%d new beginnings within a day", epochs)},
		{events >= mostEvents, fmt.Sprintf("%d events within a day", events)},
	} {
		if b.over {
			return false, fmt.Errorf("host ID %s: %s: %w; see what runs there", id, b.what, ErrTooMuch)
		}
	}
	return reports < keepLongTextPerHour || len(s.JWS) <= longText && reports < keepTextPerHour, nil
}

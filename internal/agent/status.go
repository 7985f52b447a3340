package agent

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// Status is what `samehost-client status` shows: what the last check-in found and came to. JSON names are
// permanent.
type Status struct {
	HostID      hostid.ID           `json:"host_id,omitzero"`
	Origin      hostid.Origin       `json:"origin"`
	Provisional bool                `json:"provisional"`
	Pending     bool                `json:"pending"`
	Stores      []hostid.StoreState `json:"stores"`
	Reasons     []string            `json:"reasons,omitempty"` // why the host ID was not restored when this one was generated
	Conflicts   []hostid.Conflict   `json:"conflicts,omitempty"`

	HardwareError string `json:"hardware_error,omitempty"` // why facts about this PC are missing

	OpenOrders   []OpenOrder `json:"open_orders,omitempty"`   // the manager's, that wait, and for what
	FailedOrders []OpenOrder `json:"failed_orders,omitempty"` // that cannot be carried out, until the manager was told
	DoneOrders   []DoneOrder `json:"done_orders,omitempty"`   // carried out last, the latest first

	Settings *SettingsStatus `json:"settings,omitempty"` // the manager's that this PC holds

	HigherSystem string              `json:"higher_system"`
	Manager      checkin.Fingerprint `json:"manager,omitempty"` // the key that replies are signed by
	Enrolled     bool                `json:"enrolled"`          // the manager has accepted a report of this host ID
	LastCheckIn  *time.Time          `json:"last_checkin"`      // the last one that succeeded; null before
	LastAccepted *time.Time          `json:"last_accepted"`     // the last one that the manager itself answered; null before
	LastReply    checkin.ReplyStatus `json:"last_reply,omitempty"`
	LastAttempt  *time.Time          `json:"last_attempt"`
	LastError    string              `json:"last_error,omitempty"` // why the last attempt failed, and what to do
	IntervalS    int64               `json:"interval_s,omitempty"` // until the next check-in
}

// origin is where this installation got its host ID from, for as long as it lives.
func origin(l hostid.Local) hostid.Origin {
	if l.Provisional {
		return hostid.Provisional
	}
	return l.Origin
}

// ReadStatus reads the status of a data folder, also while a service works there. The error wraps
// hostid.ErrNotStored where no host ID has been made yet.
func ReadStatus(ctx context.Context, folder string) (Status, error) {
	record, err := hostid.NewFile(folder).Load(ctx)
	if err != nil {
		return Status{}, err
	}
	s, err := readStatusFile(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, hostid.ErrCorrupt) {
		return Status{}, err
	}
	if s.HostID != record.HostID { // of a time before, or none yet
		s = Status{Stores: []hostid.StoreState{}, LastAttempt: s.LastAttempt, LastError: s.LastError, DoneOrders: s.DoneOrders}
	}
	s.HostID, s.Origin = record.HostID, origin(record.Local)
	s.Provisional, s.Pending = record.Local.Provisional, record.Local.Pending
	s.Settings = settingsStatus(folder)
	return s, nil
}

func readStatusFile(folder string) (s Status, err error) {
	if err := readState(filepath.Join(folder, statusName), &s); err != nil {
		return Status{}, err
	}
	return s, nil
}

// finished notes what a check-in came to.
func (a *Agent) finished(est hostid.Outcome, out Outcome) {
	now := a.o.Clock.Wall().UTC().Truncate(time.Second)
	s := Status{
		HostID:        out.HostID,
		Origin:        origin(est.Record.Local),
		Provisional:   out.Provisional,
		Pending:       out.Pending,
		Stores:        out.Stores,
		Reasons:       out.Reasons,
		Conflicts:     out.Conflicts,
		HardwareError: out.HardwareError,

		OpenOrders:   a.openOrders(),
		FailedOrders: a.failedOrders(),
		DoneOrders:   a.doneOrders(),

		HigherSystem: a.o.HigherSystem,
		Manager:      a.chain.Manager,
		Enrolled:     a.chain.Enrolled,
		LastCheckIn:  a.status.LastCheckIn,
		LastAccepted: a.status.LastAccepted,
		LastReply:    a.status.LastReply,
		LastAttempt:  &now,
		LastError:    out.Error,
		IntervalS:    int64(a.interval() / time.Second),
	}
	if a.status.HostID != s.HostID {
		s.LastCheckIn, s.LastAccepted, s.LastReply = nil, nil, ""
	}
	if a.status.HostID == s.HostID && out.Origin != hostid.Restored && len(s.Reasons) == 0 {
		s.Reasons = a.status.Reasons // whoever asks tomorrow wants to know, too
	}
	if out.CheckedIn {
		s.LastCheckIn, s.LastReply = &now, out.Reply
	}
	if out.Reply == checkin.Accepted {
		s.LastAccepted = &now
	}
	a.save(s)
	shown := out.Error
	switch {
	case a.busy != nil:
		shown = "busy" // each time with another time to wait
	case out.Reply == checkin.Deferred:
		shown = "deferred"
	}
	switch {
	case shown == a.shown && (shown != "" || a.reported):
	case a.busy != nil:
		a.o.Log.Info("not checked in: the higher system is busy", "reason", out.Error)
	case out.Error != "":
		a.o.Log.Warn("not checked in", "reason", out.Error)
	case out.Reply == checkin.Deferred:
		a.o.Log.Info("the report is stored at a relay, not accepted yet", "host_id", out.HostID, "origin", out.Origin, "enrolled", out.Enrolled)
	default:
		a.o.Log.Info("checked in", "host_id", out.HostID, "origin", out.Origin, "reply", out.Reply)
	}
	a.shown, a.reported = shown, a.reported || out.CheckedIn
	for _, reason := range out.Reasons {
		if !a.told[reason] {
			a.o.Log.Warn(reason)
		}
	}
	a.told = map[string]bool{}
	for _, reason := range out.Reasons {
		a.told[reason] = true
	}
}

// failed notes that there is no host ID to report.
func (a *Agent) failed(err error) {
	now := a.o.Clock.Wall().UTC().Truncate(time.Second)
	s := a.status
	s.LastAttempt, s.LastError = &now, err.Error()
	a.save(s)
	if s.LastError != a.shown {
		a.o.Log.Warn("no host ID", "reason", err)
	}
	a.shown = s.LastError
}

func (a *Agent) save(s Status) {
	if err := a.write(statusName, s); err != nil {
		a.o.Log.Warn("status cannot be written", "error", err)
	}
	a.status = s
}

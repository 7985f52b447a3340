package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// The state files of a data folder, beside the host ID management file.
const (
	chainName       = "chain.json"
	overwrittenName = "overwritten.json"
	statusName      = "status.json"
)

// chain is what a data folder knows of its talk with the manager. It is durable before anything that depends on
// it leaves this PC: a report is here before it is sent, and stays until it is accepted.
type chain struct {
	HostID  hostid.ID           `json:"host_id"` // whose chain this is
	Manager checkin.Fingerprint `json:"manager"` // the key that every reply must be signed by
	Epoch   checkin.Token       `json:"epoch"`
	EpochBy checkin.EpochBy     `json:"epoch_by"`

	// The last report of the epoch that was accepted or taken into a relay's keeping; 0 and zero before the first.
	Counter  uint64         `json:"counter"`
	Previous checkin.Digest `json:"previous"`

	// Pending is the report after that one, signed, until it is accepted, deferred or refused. A refused report
	// never happened: the next one takes its place in the chain.
	Pending string `json:"pending"`

	Enrolled bool           `json:"enrolled"` // the manager has accepted a report of this host
	Reply    string         `json:"reply"`    // the last reply by the manager's key, as signed
	ReplyTo  checkin.Digest `json:"reply_to"` // the report that it answers

	Done    []string    `json:"done"`              // orders carried out that no accepted report has acknowledged yet
	History []DoneOrder `json:"history,omitempty"` // orders carried out last
}

// newEpoch is the chain of a host that starts one; what it owes to the manager carries over.
func (c chain) newEpoch(by checkin.EpochBy) chain {
	c.Epoch, c.EpochBy = checkin.NewToken(), by
	c.Counter, c.Previous, c.Pending = 0, checkin.Digest{}, ""
	return c
}

// check reports what writeState cannot have written: pending and reply are signed, so that whatever the checksum
// missed shows here.
func (c chain) check() error {
	switch {
	case c.HostID.IsZero() || c.Epoch == checkin.Token{} || c.EpochBy == "":
		return errors.New("host ID or epoch is missing")
	case (c.Counter == 0) != (c.Previous == checkin.Digest{}):
		return errors.New("counter and previous do not agree")
	}
	if c.Pending != "" {
		v, err := checkin.Verify(checkin.SignedReport{JWS: c.Pending})
		if err != nil {
			return fmt.Errorf("pending: %w", err)
		}
		if r := v.Report; r.HostID != c.HostID || r.Epoch != c.Epoch || r.Counter != c.Counter+1 || r.Previous != c.Previous {
			return errors.New("pending: it is not the next report of this chain")
		}
	}
	if _, err := c.reply(); err != nil {
		return err
	}
	return nil
}

// reply is the last reply by the manager, verified; its zero value before the first.
func (c chain) reply() (checkin.Reply, error) {
	if c.Reply == "" {
		return checkin.Reply{}, nil
	}
	return checkin.VerifyReply(c.Reply, c.Manager, c.ReplyTo)
}

// loadChain reads the chain of a data folder. One that cannot be read is set aside, and unread says so; one that a
// newer version wrote is an error that wraps hostid.ErrNewer.
func loadChain(folder string, now time.Time) (c chain, unread string, err error) {
	path := filepath.Join(folder, chainName)
	err = readState(path, &c)
	if err == nil {
		if err = c.check(); err != nil {
			err = fmt.Errorf("%s: %w: %w", path, hostid.ErrCorrupt, err)
		}
	}
	switch {
	case err == nil:
		return c, "", nil
	case errors.Is(err, fs.ErrNotExist):
		return chain{}, "", nil
	case !errors.Is(err, hostid.ErrCorrupt):
		return chain{}, "", err
	}
	name, asideErr := setAside(path, "corrupt", now)
	if asideErr != nil {
		return chain{}, "", fmt.Errorf("%w; and it cannot be set aside: %w", err, asideErr)
	}
	return chain{}, fmt.Sprintf("%v; kept as %s, a new epoch begins", err, filepath.Base(name)), nil
}

// overwritten is what this folder must tell the manager about records that gave way, apart from the chain, so that
// losing the one does not lose the other. It outlives host IDs and epochs.
type overwritten struct {
	Entries []overwriting `json:"entries"`
}

// overwriting is one record that gave way, or was about to when the PC stopped.
type overwriting struct {
	Kind  hostid.OverwriteKind `json:"kind"`
	Store string               `json:"store"`
	Old   hostid.ID            `json:"old"`
	New   hostid.ID            `json:"new"`

	// Where memory took an ID that was generated while it could not be read, or took it by the order to rebind: the
	// statement by the old record's key, and the manager that it is for. It is kept until that one names Old.
	Audience checkin.Fingerprint `json:"aud,omitempty"`
	Proof    string              `json:"proof,omitempty"`

	// InUse: New was this PC's host ID since. Before that is durable no report is made under New, so that without it
	// nobody was ever told of New.
	InUse bool `json:"in_use,omitempty"`
}

// A PC meets two or three in its life. These bound the file where a manager never answers: one proof more, and
// memory is not overwritten; of observations the oldest makes way, since without a host ID there would be nothing to
// report at all.
const (
	maxProofs   = 64
	maxObserved = 64
)

// observations are what the manager is told of a record that gave way, besides a proof (with one by order, always: it is no
// merge, and says so); without a proof none before it is known to have come about. That memory's ID took the place of the file's is a conflict besides, and is told from here:
// hostid.Keeper sees it in that one call only, and nobody may be there to be told.
func (w overwriting) observations() []checkin.Observation {
	if byOrder := w.Proof != "" && w.Kind == hostid.Rebound; !byOrder && (w.Proof != "" || !w.InUse) {
		return nil
	}
	list := []checkin.Observation{{
		Kind:   string(w.Kind),
		Mine:   w.New,
		Other:  w.Old,
		Detail: fmt.Sprintf("store %s: host ID %s took the place of %s", w.Store, w.New, w.Old),
	}}
	if w.Old == w.New {
		list[0].Other = hostid.ID{}
		list[0].Detail = fmt.Sprintf("store %s: host ID %s took another key", w.Store, w.New)
	}
	if w.Kind == hostid.Returned {
		list = append(list, checkin.Observation{
			Kind:  string(hostid.OtherID),
			Mine:  w.New,
			Other: w.Old,
			Detail: fmt.Sprintf("The host ID management file held %s, and memory on the board %s: this PC is %s again, and the other record was set aside.",
				w.Old, w.New, w.New),
		})
	}
	return list
}

// returned reports whether the file's record old gave way to memory's new.
func (o overwritten) returned(old, new hostid.ID) bool {
	return slices.ContainsFunc(o.Entries, func(e overwriting) bool {
		return e.Kind == hostid.Returned && e.Old == old && e.New == new
	})
}

// with adds an announcement. Its old record is still in its store, so what was announced of it before did not come
// about, and makes way unless New was in use all the same; a proof makes way for a proof only.
func (o overwritten) with(w overwriting) (next overwritten, lost int) {
	for _, e := range o.Entries {
		never := !e.InUse && e.Store == w.Store && e.Old == w.Old && e.New != w.New
		if never && (e.Kind == w.Kind || e.Proof == "") {
			continue
		}
		next.Entries = append(next.Entries, e)
	}
	next.Entries = append(next.Entries, w)
	observed := len(next.Entries) - next.proofs()
	next.Entries = slices.DeleteFunc(next.Entries, func(e overwriting) bool {
		if e.Proof != "" || observed <= maxObserved {
			return false
		}
		observed--
		lost++
		return true
	})
	return next, lost
}

// proofs counts them.
func (o overwritten) proofs() (n int) {
	for _, e := range o.Entries {
		if e.Proof != "" {
			n++
		}
	}
	return n
}

func (o overwritten) has(w overwriting) bool {
	return slices.ContainsFunc(o.Entries, func(e overwriting) bool {
		return e.Kind == w.Kind && e.Store == w.Store && e.Old == w.Old && e.New == w.New && e.Audience == w.Audience
	})
}

func loadOverwritten(folder string, now time.Time) (o overwritten, unread string, err error) {
	path := filepath.Join(folder, overwrittenName)
	err = readState(path, &o)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return o, "", nil
	case !errors.Is(err, hostid.ErrCorrupt):
		return overwritten{}, "", err
	}
	name, asideErr := setAside(path, "corrupt", now)
	if asideErr != nil {
		return overwritten{}, "", fmt.Errorf("%w; and it cannot be set aside: %w", err, asideErr)
	}
	return overwritten{}, fmt.Sprintf("%v; kept as %s: proofs of replaced host IDs in it do not reach the manager any more", err, filepath.Base(name)), nil
}

// Purge removes the host ID management file, what was set aside, and all other state from a data folder, and the
// folder itself unless it holds what is not ours. The error wraps hostid.ErrLocked if a process works there.
func Purge(folder string) error {
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := hostid.LockFolder(folder)
	if err != nil {
		return err
	}
	err = purge(folder)
	lock.Unlock()
	if err != nil {
		return fmt.Errorf("empty the data folder: %w", err)
	}
	os.Remove(filepath.Join(folder, lockName))
	os.Remove(folder) // fails, rightly, where something else is in it
	return nil
}

// lockName is hostid.LockFolder's file.
const lockName = "lock"

func purge(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, ours := range []string{hostid.FileName, chainName, overwrittenName, ordersName, placeholdersName, checkin.SettingsFileName, importName, statusName, controlName} {
			if aside := strings.HasPrefix(e.Name(), ours+"."); e.Name() == ours || aside {
				if err := os.Remove(filepath.Join(folder, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

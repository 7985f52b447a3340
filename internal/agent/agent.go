// Package agent is what a PC does to stay the same asset: it keeps the host ID (hostid.Keeper), makes signed
// reports, sees them delivered, and does what the replies say. It knows no hardware: the stores and the facts are
// handed to it.
//
// # What is durable when
//
// The data folder holds, beside the host ID management file, the chain of reports (chain.json), what must be told
// about overwritten records (overwritten.json), an order that is being carried out (orders.json), the manager's list of
// values that prove nothing (placeholders.json), its AMT settings (settings.json) and what the last check-in came to
// (status.json, for people). A
// proof is on disk before the record that it speaks of is overwritten; a report is on disk before it is sent, and
// is sent again unchanged until it is accepted. So a crash or power cut at any point loses neither a proof nor a
// link of the chain, and never makes two reports out of one.
//
// A chain that cannot be read is set aside under a dated name and a new epoch begins. One that a newer version
// wrote is left alone, and the agent does not start.
//
// # One process at a time
//
// An Agent holds the folder's lock from Open to Close. ReadStatus needs no lock. RequestCheckIn asks the process
// that holds it.
package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// Options are what an Agent is made of.
type Options struct {
	DataDir string

	// HigherSystem is the address of the manager or relay, for status; "" while there is none. Connect makes the
	// way to it: manager is the key that replies must be signed by, now the clock to judge certificates by.
	HigherSystem string
	Connect      func(manager checkin.Fingerprint, now func() time.Time) (checkin.HigherSystem, error)

	TokenFile string // the enrolment token; needed until the manager has accepted a report. "": none

	Stores      []hostid.NamedStore                           // memory on the board, in board order
	Hardware    func(context.Context) (hardware.Facts, error) // what is known of this PC now; with an error, what is known all the same
	RestoreWait time.Duration                                 // hostid.Keeper's, but 0 does not wait
	Version     string                                        // of the program, for reports
	Log         *slog.Logger

	// Settings is told the AMT settings of the manager: those that the data folder holds, within Open; and every time that
	// others come. nil settings: none, what stands in this PC's own file holds. It is called while no store is in use. A nil
	// function: this PC takes none.
	Settings func(*checkin.AMTSettings) error

	// Relay tells how this PC's spool stands, where it is a relay; nil: it is none.
	Relay func() checkin.RelayState

	// For tests that simulate time, and processes that end between two steps.
	Clock Clock        // the zero Clock is the system's
	Step  func(string) // called before and after every write of a state file; nil: nothing
}

// Outcome is what one check-in came to.
type Outcome struct {
	HostID      hostid.ID           `json:"host_id"`
	Origin      hostid.Origin       `json:"origin"`
	Provisional bool                `json:"provisional"`
	Pending     bool                `json:"pending"`           // restored, but the board sits in another case
	Stores      []hostid.StoreState `json:"stores"`            // memory on the board
	Reasons     []string            `json:"reasons,omitempty"` // why the host ID was not restored, and what to do
	Conflicts   []hostid.Conflict   `json:"conflicts,omitempty"`

	HardwareError string `json:"hardware_error,omitempty"` // why facts about this PC are missing

	CheckedIn bool                `json:"checked_in"`      // accepted, or taken into a relay's keeping
	Reply     checkin.ReplyStatus `json:"reply,omitempty"` // which of the two
	Enrolled  bool                `json:"enrolled"`        // the manager has accepted a report of this host ID, now or before
	Refused   bool                `json:"refused"`         // trying again will not help: Error says what will
	Error     string              `json:"error,omitempty"` // why not checked in, and what to do
}

const (
	storeTimeout = time.Minute     // one Load or Save; flash takes seconds, and firmware may be busy
	sendTimeout  = time.Minute     // one report and its reply
	closeTimeout = 5 * time.Second // of a store; also what a stopping service may wait for it
)

// Agent works in one data folder. Its methods may be called from several goroutines; check-ins follow one another.
type Agent struct {
	o    Options
	lock *hostid.Lock
	dir  fs.FileInfo // the data folder, to see if it goes

	mu     sync.Mutex // one check-in at a time; guards everything below
	chain  chain
	over   overwritten
	unread string // why the chain could not be read; the next epoch says so
	orders ordersFile
	open   []openOrder // orders that this process has yet to carry out
	known  hardware.Placeholders
	offer  string // a list of placeholders from the last reply
	run    run
	status Status

	failures int           // check-ins in a row that trying again may mend
	busy     *checkin.Busy // what the last check-in came to, if that
	due      time.Duration // on the awake clock: when the next check-in is due
	woke     bool          // due takes the sleep into account that ended the run
	hurried  bool          // the last check-in was followed by an early one, to acknowledge an order

	// What was logged last: a fault that lasts is logged once, not every five minutes.
	shown    string          // the error of the last check-in
	reported bool            // a check-in of this process succeeded
	unseen   string          // why facts about this PC were missing
	told     map[string]bool // sentences about stores

	unadopted string // why a list of placeholders is not used

	kept    checkin.KeptSettings
	brought *brought // settings from the last reply
	untold  bool     // no accepted report has named what is kept
	untaken string   // why settings are not taken

	higher    checkin.HigherSystem
	higherKey checkin.Fingerprint

	full fullReport // what deltas go by

	lastReply struct { // the manager's clock, for certificates: a PC after repair often has a wrong one
		sync.Mutex
		time time.Time
	}
}

// Open takes the data folder's lock, making the folder if it is missing, and reads its state. The error wraps
// hostid.ErrLocked if another process works there, hostid.ErrNewer if a newer version wrote the state.
func Open(o Options) (_ *Agent, err error) {
	if o.Clock.Wall == nil {
		o.Clock = systemClock()
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	lock, err := hostid.LockFolder(o.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Unlock()
		}
	}()
	dir, err := os.Stat(o.DataDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{o: o, lock: lock, dir: dir, run: beginRun(o.Clock)}
	if a.chain, a.unread, err = loadChain(o.DataDir, o.Clock.Wall()); err != nil {
		return nil, err
	}
	if a.unread != "" {
		o.Log.Error("the chain of reports cannot be read", "reason", a.unread)
	}
	over, lost, err := loadOverwritten(o.DataDir, o.Clock.Wall())
	if err != nil {
		return nil, err
	}
	if lost != "" {
		o.Log.Error("the list of overwritten records cannot be read", "reason", lost)
	}
	a.over = over
	if a.orders, lost, err = loadOrders(o.DataDir, o.Clock.Wall()); err != nil {
		return nil, err
	}
	if lost != "" {
		o.Log.Error("the state of orders cannot be read: an order that was being carried out may not be acknowledged", "reason", lost)
	}
	if a.known, lost, err = loadPlaceholders(o.DataDir, o.Clock.Wall()); err != nil {
		return nil, err
	}
	if lost != "" {
		o.Log.Error("the manager's list of placeholder values cannot be read; it is asked for again", "reason", lost)
	}
	if err := a.loadSettings(); err != nil {
		return nil, err
	}
	if reply, err := a.chain.reply(); err == nil { // check has verified it
		a.lastReply.time = reply.Time
	}
	a.status, _ = readStatusFile(o.DataDir) // what cannot be read is written anew
	return a, nil
}

// Close lets the next process in. It must not be called while a check-in runs.
func (a *Agent) Close() error {
	a.hangUp()
	return a.lock.Unlock()
}

// now is the later of this PC's clock and the last reply's: a certificate that had ended by then has ended.
func (a *Agent) now() time.Time {
	a.lastReply.Lock()
	defer a.lastReply.Unlock()
	if now := a.o.Clock.Wall(); now.After(a.lastReply.time) {
		return now
	}
	return a.lastReply.time
}

// ErrGone says that the data folder was removed or replaced while an Agent worked in it. What another process may
// have put there since is not its own: it must end.
var ErrGone = errors.New("the data folder was removed or replaced while samehost-client worked in it")

// CheckIn makes sure of the host ID, reports, and does what the reply says. It fails only where there is no host ID
// to report (hostid.Keeper.Establish), with ErrGone, or with the context's error; that the higher system did not
// take the report stands in the Outcome.
func (a *Agent) CheckIn(ctx context.Context) (Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out, err := a.checkIn(ctx)
	a.plan(err == nil && (out.CheckedIn && out.Enrolled || out.Refused))
	return out, err
}

func (a *Agent) checkIn(ctx context.Context) (Outcome, error) {
	a.busy = nil
	if dir, err := os.Stat(a.o.DataDir); err != nil || !os.SameFile(dir, a.dir) {
		return Outcome{}, fmt.Errorf("%w: %s", ErrGone, a.o.DataDir)
	}
	if a.run.slept(a.o.Clock) {
		a.run = beginRun(a.o.Clock)
	}
	if a.takeImported() {
		a.hand(a.kept.AMT)
	}
	// The file says whether an order that was begun was carried out; so it must not change before.
	if err := a.finishBegun(ctx); err != nil {
		return Outcome{}, a.without(ctx, err)
	}
	facts, unread, err := a.gather(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if err := a.carryOut(ctx, facts, unread); err != nil {
		return Outcome{}, a.without(ctx, err)
	}
	est, err := a.establish(ctx, facts, unread)
	if err != nil {
		return Outcome{}, a.without(ctx, err)
	}
	var reply checkin.ReplyStatus
	if err = a.inUse(est.Record.HostID); err == nil {
		reply, err = a.report(ctx, est, facts)
	}
	if err != nil && ctx.Err() != nil {
		return outcome(est, unread), ctx.Err()
	}
	if err == nil {
		if est, err = a.follow(ctx, est, facts, unread); err != nil {
			return outcome(est, unread), a.without(ctx, err)
		}
	}
	out := outcome(est, unread)
	out.CheckedIn, out.Reply, out.Enrolled = err == nil, reply, a.chain.Enrolled
	if err != nil {
		errors.As(err, &a.busy)
		out.Refused = errors.Is(err, checkin.ErrRefused) || errors.Is(err, checkin.ErrUntrusted)
		out.Error = err.Error()
	}
	a.finished(est, out)
	return out, nil
}

// follow does what the reply asks for, and lets memory follow at once.
func (a *Agent) follow(ctx context.Context, est hostid.Outcome, facts hardware.Facts, unread string) (hostid.Outcome, error) {
	a.adopt(ctx, facts, unread)
	settings := a.takeSettings(est.Record)
	if len(a.open) == 0 && !settings {
		return est, nil
	}
	done := len(a.chain.Done)
	if err := a.carryOut(ctx, facts, unread); err != nil {
		if ctx.Err() == nil {
			a.o.Log.Warn("an order is not noted as carried out yet", "reason", err)
		}
		return est, ctx.Err()
	}
	if len(a.chain.Done) == done && !settings {
		return est, nil
	}
	next, err := a.establish(ctx, facts, unread)
	if err != nil {
		return est, err
	}
	if next.Record.HostID == est.Record.HostID {
		// To whoever asked it is one call: a host ID that it generated or restored was not there already, and why stays said.
		switch {
		case next.Origin != hostid.Kept:
		case len(est.Reasons) > 0:
			next.Origin = hostid.Generated // perhaps as provisional, which it is no more
		case est.Origin != hostid.Provisional:
			next.Origin = est.Origin
		}
		if len(next.Reasons) == 0 {
			next.Reasons = est.Reasons
		}
	}
	return next, nil
}

// without notes that there is no check-in, and why.
func (a *Agent) without(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		a.failed(err)
	}
	return err
}

func outcome(est hostid.Outcome, unread string) Outcome {
	return Outcome{
		HostID:      est.Record.HostID,
		Origin:      est.Origin,
		Provisional: est.Record.Local.Provisional,
		Pending:     est.Pending,
		Stores:      memoryOf(est),
		Reasons:     est.Reasons,
		Conflicts:   est.Conflicts,

		HardwareError: unread,
	}
}

// memoryOf leaves out the host ID management file: after Establish it always holds the host ID.
func memoryOf(est hostid.Outcome) []hostid.StoreState {
	states := []hostid.StoreState{}
	for _, s := range est.Stores {
		if s.Name != hostid.FileStoreName {
			states = append(states, s)
		}
	}
	return states
}

func (a *Agent) establish(ctx context.Context, facts hardware.Facts, unread string) (hostid.Outcome, error) {
	defer a.closeStores(ctx)
	return a.keeper(facts, unread).Establish(ctx)
}

// evidence is what of the facts tells this PC from others, as this client knows.
func (a *Agent) evidence(facts hardware.Facts) hostid.Evidence { return facts.EvidenceWithout(a.known) }

func (a *Agent) keeper(facts hardware.Facts, unread string) *hostid.Keeper {
	wait := a.o.RestoreWait
	if wait == 0 {
		wait = -1
	}
	keeper := &hostid.Keeper{
		File:            hostid.NewFile(a.o.DataDir),
		Evidence:        a.evidence(facts),
		Expected:        facts.SMBIOSAMT,
		RestoreWait:     wait,
		BeforeOverwrite: a.beforeOverwrite,
		Log:             a.o.Log,
	}
	for _, s := range a.o.Stores {
		var store hostid.Store = boundedStore{s.Store}
		if unread != "" {
			store = judgedStore{store, keeper.Evidence, unread}
		}
		keeper.Memory = append(keeper.Memory, hostid.NamedStore{Name: s.Name, Store: store})
	}
	return keeper
}

// closeStores ends what stores keep open: a session would hold one of the few places for it until the next check-in.
func (a *Agent) closeStores(ctx context.Context) {
	for _, s := range a.o.Stores {
		if c, ok := s.Store.(interface{ Close(context.Context) error }); ok {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			if err := c.Close(ctx); err != nil {
				a.o.Log.Debug("close store", "store", s.Name, "error", err)
			}
			cancel()
		}
	}
}

// boundedStore gives every call of a store its own deadline: one that hangs is unavailable, and does not keep the
// PC from checking in.
type boundedStore struct{ hostid.Store }

func (s boundedStore) Load(ctx context.Context) (r hostid.Record, err error) {
	err = bounded(ctx, func(ctx context.Context) (err error) {
		r, err = s.Store.Load(ctx)
		return err
	})
	return r, err
}

func (s boundedStore) Save(ctx context.Context, r hostid.Record) error {
	return bounded(ctx, func(ctx context.Context) error { return s.Store.Save(ctx, r) })
}

func bounded(ctx context.Context, call func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := call(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil && !errors.Is(err, hostid.ErrUnavailable) {
		return fmt.Errorf("%w: no answer within %s: %w", hostid.ErrUnavailable, storeTimeout, err)
	}
	return err
}

// beforeOverwrite is the Keeper's: what the manager must be told is durable before a record is gone.
func (a *Agent) beforeOverwrite(_ context.Context, o hostid.Overwrite) error {
	w := overwriting{Kind: o.Kind, Store: o.Store, Old: o.Old.HostID, New: o.New.HostID}
	if o.Kind == hostid.Replaced || o.Kind == hostid.Rebound && o.Old.HostID != o.New.HostID {
		manager, err := a.manager()
		if err != nil {
			return fmt.Errorf("the proof for the manager cannot be made yet: %w", err)
		}
		w.Audience = manager
	}
	if a.over.has(w) {
		return nil
	}
	if w.Audience != "" {
		proof, err := checkin.SignReplacement(checkin.Replacement{
			Old:      w.Old,
			New:      w.New,
			NewKey:   o.New.Seed.SigningKey().Public().(ed25519.PublicKey),
			Audience: w.Audience,
		}, o.Old.Seed.SigningKey())
		if err != nil {
			return err
		}
		w.Proof = proof
	}
	next, lost := a.over.with(w)
	if next.proofs() > maxProofs {
		return fmt.Errorf("%d overwritten records wait for the manager to take note of them: check in first", maxProofs)
	}
	if lost > 0 {
		a.o.Log.Warn("too much waits to be told to a manager that never answers: the oldest is forgotten", "how_many", lost)
	}
	return a.saveOverwritten(next)
}

// inUse makes durable which of the announced host IDs this PC has now. Only then may a report be made under it.
func (a *Agent) inUse(id hostid.ID) error {
	next := overwritten{Entries: slices.Clone(a.over.Entries)}
	changed := false
	for i := range next.Entries {
		if w := &next.Entries[i]; w.New == id && !w.InUse {
			w.InUse, changed = true, true
		}
	}
	if !changed {
		return nil
	}
	return a.saveOverwritten(next)
}

func (a *Agent) saveOverwritten(next overwritten) error {
	if err := a.write(overwrittenName, next); err != nil {
		return err
	}
	a.over = next
	return nil
}

// write makes a state file durable.
func (a *Agent) write(name string, content any) error {
	a.o.Step("before " + name)
	defer a.o.Step("after " + name)
	return writeState(filepath.Join(a.o.DataDir, name), content)
}

func (a *Agent) saveChain(c chain) error {
	if err := a.write(chainName, c); err != nil {
		return err
	}
	a.chain = c
	return nil
}

// ErrNoToken says that this PC knows no manager yet, or is unknown there, and has no enrolment token.
var ErrNoToken = errors.New("no enrolment token")

// anotherToken says how to come by an enrolment token: a client's does not admit a relay.
func (a *Agent) anotherToken(line string) string {
	command := "samehost-manager token create"
	if a.o.Relay != nil {
		command += " --relay"
	}
	return "have the manager's administrator run `" + command + "` and put the " + line + " into the file that enrolment_token_file names"
}

func (a *Agent) noToken() error { return fmt.Errorf("%w: %s", ErrNoToken, a.anotherToken("line")) }

// token reads the enrolment token; nil if there is none.
func (a *Agent) token() (*checkin.EnrolmentToken, error) {
	if a.o.TokenFile == "" {
		return nil, nil
	}
	t, err := ReadToken(a.o.TokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// ReadToken reads a file that holds an enrolment token. The error never shows the token; it wraps fs.ErrNotExist if
// there is no such file.
func ReadToken(path string) (checkin.EnrolmentToken, error) {
	b, err := hostid.ReadRegularFile(path, 4096)
	if err != nil {
		if errors.Is(err, hostid.ErrCorrupt) {
			err = errors.New("too long for one enrolment token")
		}
		return checkin.EnrolmentToken{}, fmt.Errorf("enrolment token file %s: %w", path, err)
	}
	t, err := checkin.ParseToken(strings.TrimPrefix(string(b), "\ufeff"))
	if err != nil {
		return checkin.EnrolmentToken{}, fmt.Errorf("enrolment token file %s: %w", path, err)
	}
	return t, nil
}

// manager is the key that this PC trusts: the enrolment token's, which an administrator put there, else the one of
// the chain. A token that cannot be read does not keep an enrolled PC from its manager.
func (a *Agent) manager() (checkin.Fingerprint, error) {
	t, err := a.token()
	switch {
	case t != nil:
		return t.Manager, nil
	case a.chain.Manager != "":
		return a.chain.Manager, nil
	case err != nil:
		return "", err
	}
	return "", a.noToken()
}

// continueChain makes sure that the chain is this host's and this manager's, or begins an epoch.
func (a *Agent) continueChain(est hostid.Outcome, manager checkin.Fingerprint) error {
	c := a.chain
	restored := est.Record.Local.Origin == hostid.Restored
	var by checkin.EpochBy
	switch {
	case a.unread != "":
		by = checkin.EpochUnread
	case c.HostID.IsZero() && restored:
		by = checkin.EpochRestore
	case c.HostID.IsZero():
		by = checkin.EpochInstall
	case c.HostID != est.Record.HostID && restored:
		by = checkin.EpochRestore
	case c.HostID != est.Record.HostID:
		by = checkin.EpochNewID
	case est.Origin == hostid.Restored: // the host ID management file alone was lost
		by = checkin.EpochRestore
	case c.Manager != manager: // a new installation, as that manager sees it
		by = checkin.EpochInstall
	default:
		return nil
	}
	next := c.newEpoch(by)
	if c.HostID != est.Record.HostID || c.Manager != manager {
		next.Enrolled = false
	}
	if c.Manager != manager {
		next.Reply, next.ReplyTo = "", checkin.Digest{}
		if c.Manager != "" {
			next.Done = nil
		}
	}
	next.HostID, next.Manager = est.Record.HostID, manager
	if err := a.saveChain(next); err != nil {
		return err
	}
	a.unread = ""
	a.o.Log.Info("a new epoch begins", "host_id", next.HostID, "by", by)
	return nil
}

// connect is the way to the higher system, made anew when the manager changes.
func (a *Agent) connect(manager checkin.Fingerprint) (checkin.HigherSystem, error) {
	if a.higher == nil || a.higherKey != manager {
		higher, err := a.o.Connect(manager, a.now)
		if err != nil {
			return nil, err
		}
		a.hangUp()
		a.higher, a.higherKey = higher, manager
	}
	return a.higher, nil
}

// report delivers what is pending, then a report of how things are now.
func (a *Agent) report(ctx context.Context, est hostid.Outcome, facts hardware.Facts) (checkin.ReplyStatus, error) {
	if a.o.HigherSystem == "" {
		return "", errors.New("no higher_system is configured: this PC keeps its host ID, but no manager knows of it")
	}
	manager, err := a.manager()
	if err != nil {
		return "", err
	}
	token, tokenErr := a.token()
	if err := a.continueChain(est, manager); err != nil {
		return "", err
	}
	higher, err := a.connect(manager)
	if err != nil {
		return "", err
	}
	if a.chain.Pending != "" {
		status, err := a.deliver(ctx, higher)
		if err != nil && !errors.Is(err, checkin.ErrRefused) {
			return "", err
		}
		if err == nil && !a.chain.Enrolled {
			return status, nil // a relay keeps it, and the manager does not know this PC yet
		}
	}

	// The order's first: it proves that this is the PC that was ordered.
	tokens := []*checkin.EnrolmentToken{a.orderedToken(est.Record.HostID), token}
	tokens = slices.DeleteFunc(tokens, func(t *checkin.EnrolmentToken) bool { return t == nil })
	// A reinstalled PC that kept its key needs no token, so an old one on the image does no harm; and a manager that
	// forgot this host, or lost its database, takes it in again.
	attempts := append(slices.Clone(tokens), nil)
	if a.chain.Enrolled || len(tokens) == 0 {
		attempts = append([]*checkin.EnrolmentToken{nil}, tokens...)
	}
	var status checkin.ReplyStatus
	var refused error // what an administrator can help against
	for _, enrol := range attempts {
		status, err = a.reportNow(ctx, higher, est, facts, enrol)
		var refusal *checkin.Refusal
		if !errors.As(err, &refusal) {
			return status, err
		}
		if refused == nil || enrol != nil {
			refused = a.advise(refusal, tokenErr)
		}
		if refusal.Code != checkin.BadToken && refusal.Code != checkin.NeedsEnrolment {
			break
		}
	}
	return "", refused
}

// advise adds to a refusal what to do about it.
func (a *Agent) advise(r *checkin.Refusal, tokenErr error) error {
	switch r.Code {
	case checkin.NeedsEnrolment:
		if tokenErr != nil {
			return fmt.Errorf("%w; %w", r, tokenErr)
		}
		return fmt.Errorf("%w; %w", r, a.noToken())
	case checkin.BadToken:
		return fmt.Errorf("%w; %s", r, a.anotherToken("new line"))
	case checkin.WrongAudience:
		return fmt.Errorf("%w; the enrolment token is another manager's than higher_system leads to: check both", r)
	}
	return fmt.Errorf("%w; see the manager's log for this host, and check that client and manager are of versions that fit", r)
}

// reportNow makes a report durable and delivers it.
func (a *Agent) reportNow(ctx context.Context, higher checkin.HigherSystem, est hostid.Outcome, facts hardware.Facts, enrol *checkin.EnrolmentToken) (checkin.ReplyStatus, error) {
	report := a.compose(est, facts)
	if delta, ok := a.delta(report); ok && enrol == nil {
		report = delta
	}
	signed, err := checkin.Sign(report, est.Record.Seed.SigningKey(), enrol)
	if err != nil {
		return "", err
	}
	next := a.chain
	next.Pending = signed.JWS
	if err := a.saveChain(next); err != nil {
		return "", err
	}
	return a.deliver(ctx, higher)
}

func (a *Agent) compose(est hostid.Outcome, facts hardware.Facts) checkin.Report {
	local := est.Record.Local
	r := checkin.Report{
		Audience: a.chain.Manager,
		HostID:   est.Record.HostID,
		SealKey:  est.Record.Seed.SealingKey().PublicKey().Bytes(),

		Epoch:    a.chain.Epoch,
		Counter:  a.chain.Counter + 1,
		Previous: a.chain.Previous,
		Run:      a.run.token,
		AgeMS:    uint64(a.run.age(a.o.Clock).Milliseconds()),
		Time:     a.o.Clock.Wall().UTC().Format(time.RFC3339),

		Facts:     facts,
		Names:     machineNames(),
		Addresses: machineAddresses(a.o.HigherSystem),
		Versions:  checkin.Versions{Client: a.o.Version, OS: osVersion()},

		Origin:      origin(local),
		Provisional: local.Provisional,
		Pending:     est.Pending,
		EpochBy:     a.chain.EpochBy,
		CopyOf:      local.CopyOf,
		Done:        a.chain.Done,

		Placeholders: a.known.Digest(),
		Settings:     a.holds(),
	}
	if a.o.Relay != nil {
		state := a.o.Relay()
		r.Relay = &state
	}
	for _, f := range a.orders.Failed {
		r.Observations = append(r.Observations, f.observation(r.HostID))
	}
	for _, s := range memoryOf(est) {
		state := checkin.StoreState{Name: s.Name, State: string(s.State), Error: s.Error}
		if s.HostID != r.HostID {
			state.HostID = s.HostID
		}
		r.Stores = append(r.Stores, state)
	}
	otherCase := fmt.Sprintf("Host ID %s was restored, but the serial number of the system or chassis has changed: the board sits in another case.", r.HostID)
	for _, c := range est.Conflicts {
		switch {
		case c.Kind == hostid.OtherCase:
			otherCase = c.Sentence
			continue
		case c.Kind == hostid.OtherID && a.over.returned(c.File, c.Memory):
			continue // told with that
		}
		other := c.Memory
		if other == r.HostID {
			other = c.File
		}
		if other == r.HostID {
			other = hostid.ID{}
		}
		r.Observations = append(r.Observations, checkin.Observation{Kind: string(c.Kind), Mine: r.HostID, Other: other, Detail: c.Sentence})
	}
	if est.Pending { // in every report: the Keeper sees it in the call that restores only, but it lasts
		r.Observations = append(r.Observations, checkin.Observation{Kind: string(hostid.OtherCase), Mine: r.HostID, Detail: otherCase})
	}
	for _, w := range a.over.Entries {
		r.Observations = append(r.Observations, w.observations()...)
		if w.Proof != "" && w.Audience == r.Audience && len(r.Replaced) < maxReplaced {
			r.Replaced = append(r.Replaced, w.Proof)
		}
	}
	return r
}

// maxReplaced is how many statements one report may carry (docs/protocol/checkin.md); the others follow once the
// manager has named these.
const maxReplaced = 16

// deliver sends the pending report and makes durable what came of it.
func (a *Agent) deliver(ctx context.Context, higher checkin.HigherSystem) (checkin.ReplyStatus, error) {
	signed := checkin.SignedReport{JWS: a.chain.Pending}
	sending, cancel := context.WithTimeout(ctx, sendTimeout)
	reply, err := higher.CheckIn(sending, signed)
	cancel()
	next := a.chain
	next.Done = slices.Clone(next.Done)
	switch {
	case errors.Is(err, checkin.ErrRefused):
		a.full = fullReport{}
		next.Pending = ""
		if saveErr := a.saveChain(next); saveErr != nil {
			return "", saveErr
		}
		return "", err
	case err != nil:
		return "", err
	}
	sent, err := checkin.Verify(signed)
	if err != nil {
		return "", err // check and Sign have seen to it that this cannot be
	}
	// Who is not enrolled yet sends the same report until the manager has answered it: the relay keeps it once, and has
	// the answer as soon as there is one.
	if reply.Status != checkin.Accepted && !next.Enrolled {
		return reply.Status, nil
	}
	next.Counter, next.Previous, next.Pending = sent.Report.Counter, sent.Digest, ""
	a.taken(sent, reply)
	if reply.Status != checkin.Accepted {
		return reply.Status, a.takeLate(next, reply.Late, sent.Report)
	}
	next.Enrolled = true
	next.Reply, next.ReplyTo = reply.Raw, sent.Digest
	next.Done = slices.DeleteFunc(next.Done, func(id string) bool { return slices.Contains(sent.Report.Done, id) })
	next, open := a.take(next, reply.Orders, sent.Report)
	// The list first: told twice does no harm, and a proof that was named is not lost with the reply.
	if err := a.forget(reply, sent.Report); err != nil {
		return "", err
	}
	if err := a.saveChain(next); err != nil {
		return "", err
	}
	a.open, a.offer = append(a.open, open...), reply.Placeholders
	a.bring(reply, sent.Report)
	a.lastReply.Lock()
	a.lastReply.time = reply.Time
	a.lastReply.Unlock()
	return reply.Status, a.settle(sent.Report)
}

// takeLate makes a deferred report durable in the chain, with what the manager said meanwhile to the one before it, which
// nobody waited for any more. What it took note of is told again until a reply comes in time: that does no harm.
func (a *Agent) takeLate(next chain, late *checkin.LateReply, sent checkin.Report) error {
	if late == nil || late.Report != a.chain.Previous {
		return a.saveChain(next)
	}
	if late.Refused != nil { // the relays' word, so that nothing depends on it
		a.o.Log.Warn("the report before this one was refused", "reason", late.Refused)
		return a.saveChain(next)
	}
	reply, err := checkin.VerifyReply(late.Raw, a.chain.Manager, late.Report)
	if err != nil {
		return a.saveChain(next)
	}
	next.Enrolled = true
	next.Reply, next.ReplyTo = reply.Raw, late.Report
	next, open := a.take(next, reply.Orders, sent)
	if err := a.saveChain(next); err != nil {
		return err
	}
	a.open, a.offer = append(a.open, open...), reply.Placeholders
	sent.Settings = nil // what this report says of them has not been accepted
	a.bring(reply, sent)
	a.lastReply.Lock()
	a.lastReply.time = reply.Time
	a.lastReply.Unlock()
	return nil
}

// forget drops what the manager has taken note of: proofs that it names, observations in the report it accepted.
func (a *Agent) forget(reply checkin.Reply, sent checkin.Report) error {
	left := slices.DeleteFunc(slices.Clone(a.over.Entries), func(w overwriting) bool {
		if w.Proof != "" {
			return w.Audience == sent.Audience && slices.Contains(reply.Named, w.Old)
		}
		told := w.observations()
		for _, o := range told {
			if !slices.Contains(sent.Observations, o) {
				return false
			}
		}
		return len(told) > 0
	})
	if len(left) == len(a.over.Entries) {
		return nil
	}
	return a.saveOverwritten(overwritten{Entries: left})
}

// maxDone bounds what waits to be acknowledged; a report carries no more.
const maxDone = 64

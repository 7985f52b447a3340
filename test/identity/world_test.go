// Package identity is the model test of what the product promises about identity: random things happen to simulated PCs, which
// run the real client (internal/agent, with its real state files) and report to the real registry, in simulated time and over a
// network that loses, delays and reorders. invariants_test.go states what must hold, one function for each sentence; every way in
// which it ever did not is a test of its own in regressions_test.go.
//
// Simulated are the hardware (facts of board, case and disk; memory on the board that can be cleared, damaged, unavailable or not
// initialized), the clocks of each PC, the network with a relay that keeps reports while its way up is down, and the operator.
package identity

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"samehost/internal/agent"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
	"samehost/internal/registry"
)

// tester is what a world needs of a test: *testing.T and *rapid.T are both.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// interval is how often PCs check in.
const interval = registry.DefaultInterval

// world is a manager, its PCs, and all that happens to them.
type world struct {
	t    tester
	ctx  context.Context
	dir  string
	reg  *registry.Registry
	now  time.Time
	pcs  []*pc
	next int // numbers whatever is made

	fleet    fleet
	disks    int
	offline  bool // the relay's way up is down
	trace    []string
	checkIns int

	mu      sync.Mutex // several PCs may check in at once
	held    []checkin.SignedReport
	spoken  map[hostid.ID]bool // host IDs of which a report was accepted
	refusal string             // why somebody was refused service, "" for nobody

	stays    []stay                // who lived under which host ID, and when
	said     map[int64][]hostid.ID // operator's resolutions in force that make one asset of several, or block: the host IDs concerned
	history  []registry.Event      // as it was last seen
	judged   map[string]bool       // orders that were looked at
	undoable map[int64]undoable
	failed   func()                             // called when the trace fails
	blocked  map[hostid.ID]bool                 // by an operator, when assets was called last
	hidden   map[hostid.ID]registry.Maintenance // deleted or archived, then

	maintained int                    // maintenance that was not taken back at once
	decided    int                    // whatever else an operator said
	deleted    map[int64]state        // deletions in force: how things were before
	succeeded  map[int64]succession   // replacements in force
	deletions  []registry.Maintenance // as they were last seen
}

// succession is a PC that took the place of another one.
type succession struct {
	registry.Maintenance
	groupings int // events that there were then
}

// stay is a stretch of time in which an installation lived under a host ID without a break, heard or not yet.
type stay struct {
	pc       *pc
	id       hostid.ID
	from, to time.Time
}

// template is a registry with an enrolment token and nothing else, copied for each world: migrations take longer than a trace.
type template struct {
	database []byte
	key      ed25519.PrivateKey
	token    checkin.EnrolmentToken
}

// began is when every world begins.
var began = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// newTemplate makes the template.
var newTemplate = sync.OnceValues(func() (template, error) {
	dir, err := os.MkdirTemp(scratch(), "samehost-model-")
	if err != nil {
		return template{}, err
	}
	defer os.RemoveAll(dir)
	var t template
	_, t.key, err = ed25519.GenerateKey(nil)
	if err != nil {
		return template{}, err
	}
	reg, err := registry.Create(context.Background(), "sqlite:"+filepath.Join(dir, "db"), registry.Options{Key: t.key, Now: func() time.Time { return began }})
	if err != nil {
		return template{}, err
	}
	t.token, err = reg.CreateToken(context.Background(), time.Time{}, "", "")
	if err == nil {
		err = reg.Backup(context.Background(), filepath.Join(dir, "copy"))
	}
	if err := errors.Join(err, reg.Close()); err != nil {
		return template{}, err
	}
	t.database, err = os.ReadFile(filepath.Join(dir, "copy"))
	return t, err
})

// scratch is a folder where flushing a file costs nothing, if there is one: a trace flushes a thousand times.
func scratch() string {
	const memory = "/dev/shm"
	if i, err := os.Stat(memory); err == nil && i.IsDir() {
		return memory
	}
	return ""
}

// newWorld makes a manager without PCs. The caller closes it.
func newWorld(t tester, f fleet) *world {
	t.Helper()
	tmpl, err := newTemplate()
	if err != nil {
		t.Fatalf("make the template: %v", err)
	}
	w := &world{t: t, ctx: context.Background(), now: began, fleet: f, spoken: map[hostid.ID]bool{}, said: map[int64][]hostid.ID{}, judged: map[string]bool{}, undoable: map[int64]undoable{},
		deleted: map[int64]state{}, succeeded: map[int64]succession{}}
	if w.dir, err = os.MkdirTemp(scratch(), "samehost-model-"); err != nil {
		t.Fatalf("%v", err)
	}
	db := filepath.Join(w.dir, "db")
	w.must(os.WriteFile(db, tmpl.database, 0o600))
	w.must(os.WriteFile(filepath.Join(w.dir, "token"), []byte(tmpl.token.Text()+"\n"), 0o600))
	w.reg, err = registry.Open(w.ctx, "sqlite:"+db, registry.Options{Key: tmpl.key, Interval: interval, Now: func() time.Time { return w.now }})
	w.must(err)
	return w
}

func (w *world) close() {
	for _, p := range w.pcs {
		p.stop()
	}
	if w.reg != nil {
		w.reg.Close()
	}
	os.RemoveAll(w.dir)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fail("%v", err)
	}
}

// fail ends the trace, and tells it.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if w.failed != nil {
		w.failed()
	}
	w.t.Fatalf("%s\nafter:\n  %s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n  "))
}

// did notes what happened.
func (w *world) did(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// made is a value that nothing else has.
func (w *world) made(what string) string {
	w.next++
	return fmt.Sprintf("%s%06d", what, w.next)
}

// board is a PC's board with the memory on it.
type board struct {
	name              string
	uuid, serial, mac string
	memory            *storetest.Memory // nil: it has none
}

// disk is a disk with one installation on it, or none yet.
type disk struct {
	name   string
	serial string
	folder string
	home   *pc // whose installation it is: where it was made, or where it took a host ID of its own
}

// network is how a PC reaches its higher system.
type network int

const (
	works network = iota
	losesReports
	losesReplies
)

// pc is a case with what is in it.
type pc struct {
	w               *world
	name            string
	board           *board
	system, chassis string
	disk            *disk
	second          *disk // of the other system, if there is one
	backup          string
	snapshot        *snapshot

	on      bool
	agent   *agent.Agent // nil: the service does not run
	booted  time.Time
	asleep  time.Duration // of the time since then
	unseen  time.Duration // the same, and neither of its clocks knows of it
	skew    time.Duration
	network network
	behind  bool // the relay
	crash   int  // ends the process after so many steps more; 0: never

	as       hostid.ID   // that its last report named, wherever that is now
	id       hostid.ID   // under which it was answered last
	answered []time.Time // check-ins that count, since it started or took another host ID
	owes     bool        // the last reply brought orders: it is heard again soon

	was      hostid.ID // whose asset it is, for as long as something of its own survives
	wasSince time.Time
}

func (p *pc) String() string { return p.name }

// facts are what the PC says of itself.
func (p *pc) facts() hardware.Facts {
	f := hardware.Facts{
		SystemUUID: p.board.uuid, BoardSerial: p.board.serial, SystemSerial: p.system, ChassisSerial: p.chassis,
		Disks: []hardware.Disk{{Serial: p.disk.serial, System: true}},
	}
	if p.board.mac != "" {
		f.NICs = []hardware.NIC{{MAC: p.board.mac, Permanent: true, Onboard: true}}
	}
	return f
}

// killed is what ends a process at a step.
type killed struct{}

func (p *pc) step(string) {
	if p.crash > 0 {
		if p.crash--; p.crash == 0 {
			panic(killed{})
		}
	}
}

// steppingMemory makes a write to memory a step, before and after it happened.
type steppingMemory struct {
	hostid.Store
	step func(string)
}

func (s steppingMemory) Save(ctx context.Context, r hostid.Record) error {
	s.step("before memory")
	err := s.Store.Save(ctx, r)
	s.step("after memory")
	return err
}

// way is a PC's way to its higher system.
type way struct{ p *pc }

var errLost = errors.New("no answer")

func (v way) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	p := v.p
	p.step("before sending")
	p.owes = false
	sent, err := checkin.Verify(r)
	if err != nil {
		return checkin.Reply{}, err
	}
	p.as = sent.Report.HostID
	if p.network == losesReports {
		return checkin.Reply{}, errLost
	}
	if p.behind && p.w.offline {
		p.w.mu.Lock()
		p.w.held = append(p.w.held, r)
		p.w.mu.Unlock()
		return checkin.Reply{Report: sent.Digest, Status: checkin.Deferred}, nil
	}
	reply, err := p.w.deliver(r)
	p.step("after sending")
	if err != nil {
		return reply, err
	}
	if p.network == losesReplies {
		return checkin.Reply{}, errLost
	}
	p.owes = len(reply.Orders) > 0
	p.hear(reply.HostID)
	return reply, nil
}

// deliver hands a report to the registry.
func (w *world) deliver(r checkin.SignedReport) (checkin.Reply, error) {
	reply, err := w.reg.CheckIn(w.ctx, r)
	if err == nil {
		w.mu.Lock()
		w.spoken[reply.HostID] = true
		w.mu.Unlock()
	}
	return reply, err
}

// hear notes that the PC was answered under a host ID.
func (p *pc) hear(id hostid.ID) {
	now := p.w.now
	if p.id != id {
		p.answered = nil
	}
	p.id = id
	// Only what is farther apart than the slack of two minutes can prove that two PCs live at the same time.
	if n := len(p.answered); n == 0 || now.Sub(p.answered[n-1]) > 3*time.Minute {
		p.answered = append(p.answered, now)
	}
}

// lives notes under which host ID the PC lives, while it lives.
func (w *world) lives(p *pc) {
	for i := range w.stays {
		if s := &w.stays[i]; s.pc == p && s.id == p.as && s.to.IsZero() {
			return
		}
	}
	w.ended(p)
	w.stays = append(w.stays, stay{p, p.as, w.now, time.Time{}})
}

// ended notes that the PC does not live under that host ID any more.
func (w *world) ended(p *pc) {
	for i := range w.stays {
		if s := &w.stays[i]; s.pc == p && s.to.IsZero() {
			s.to = w.now
		}
	}
}

// start starts the service. Its clocks begin with the PC.
func (p *pc) start() error {
	o := agent.Options{
		DataDir:      p.disk.folder,
		HigherSystem: "https://127.0.0.1",
		Connect:      func(checkin.Fingerprint, func() time.Time) (checkin.HigherSystem, error) { return way{p}, nil },
		TokenFile:    filepath.Join(p.w.dir, "token"),
		Hardware:     func(context.Context) (hardware.Facts, error) { return p.facts(), nil },
		Version:      "model",
		Clock: agent.Clock{
			Wall:  func() time.Time { return p.w.now.Add(p.skew) },
			Awake: func() time.Duration { return p.w.now.Sub(p.booted) - p.asleep - p.unseen },
			Boot:  func() time.Duration { return p.w.now.Sub(p.booted) - p.unseen },
		},
		Step: p.step,
	}
	if p.board.memory != nil {
		o.Stores = []hostid.NamedStore{{Name: "memory", Store: steppingMemory{p.board.memory, p.step}}}
	}
	var err error
	p.agent, err = agent.Open(o)
	return err
}

// powerOn boots the PC; powerOff is its opposite, at any time.
func (p *pc) powerOn() {
	if !p.on {
		p.on, p.booted, p.asleep, p.unseen = true, p.w.now, 0, 0
	}
}

func (p *pc) powerOff() {
	p.stop()
	p.on = false
	p.w.ended(p)
}

// stop ends the service.
func (p *pc) stop() {
	if p.agent != nil {
		p.agent.Close()
		p.agent = nil
	}
	p.answered = nil
}

// checkIn has a PC that is on check in, and again after ten seconds if it was ordered something, as the service does.
func (w *world) checkIn(p *pc) {
	w.t.Helper()
	for range 2 {
		p.once()
		w.outcome(p)
		if !p.owes || p.agent == nil {
			return
		}
		w.now = w.now.Add(10 * time.Second)
	}
}

// outcome judges what a check-in came to.
func (w *world) outcome(p *pc) {
	w.t.Helper()
	w.checkIns++
	if w.refusal != "" {
		w.fail("%s", w.refusal)
	}
	if p.agent != nil && !p.as.IsZero() {
		w.lives(p)
	}
}

// once checks in once. The process may be killed in it.
func (p *pc) once() {
	defer func() {
		switch k := recover().(type) {
		case nil:
		case killed:
			p.stop()
		default:
			panic(k)
		}
	}()
	p.owes = false
	if p.agent == nil {
		if err := p.start(); err != nil {
			p.refused("the service does not start: %v", err)
			return
		}
	}
	out, err := p.agent.CheckIn(p.w.ctx)
	switch {
	case err != nil:
		p.refused("no host ID: %v", err)
	case out.Refused || !out.CheckedIn && !strings.Contains(out.Error, errLost.Error()):
		p.refused("%s", out.Error)
	}
}

// refused notes that a PC gets no service: nobody is, whatever is known of him.
func (p *pc) refused(format string, args ...any) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.refusal = fmt.Sprintf("%s is refused service: ", p) + fmt.Sprintf(format, args...)
}

// living are the PCs that are on.
func (w *world) living() []*pc {
	return slices.DeleteFunc(slices.Clone(w.pcs), func(p *pc) bool { return !p.on })
}

// round lets an interval pass in which every PC that is on checks in once.
func (w *world) round() {
	w.t.Helper()
	living := w.living()
	pause := interval / time.Duration(len(living)+1)
	end := w.now.Add(interval)
	for _, p := range living {
		w.now = w.now.Add(pause)
		w.checkIn(p)
	}
	if w.now.Before(end) {
		w.now = end
	}
	w.check()
}

func copyFolder(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(filepath.Join(to, "lock")); err != nil && !errors.Is(err, fs.ErrNotExist) { // the system's, not the installation's
		return err
	}
	return nil
}

// newDisk is a disk with nothing on it.
func (w *world) newDisk(home *pc) *disk {
	w.disks++
	name := fmt.Sprint("disk", w.disks)
	return &disk{name: name, serial: w.fleet.disk(w), folder: filepath.Join(w.dir, name), home: home}
}

// clone is a copy of a disk, on another disk.
func (w *world) clone(d *disk) *disk {
	c := w.newDisk(d.home)
	if _, err := os.Stat(d.folder); err == nil {
		if err := copyFolder(d.folder, c.folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.fail("%v", err)
		}
	}
	return c
}

// record is what the host ID management file on a disk holds.
func (d *disk) record() (hostid.Record, bool) {
	r, err := hostid.NewFile(d.folder).Load(context.Background())
	return r, err == nil
}

// records are what the memory of a board holds, read past its state.
func (b *board) records() (all []hostid.Record) {
	if b.memory == nil {
		return nil
	}
	for _, block := range b.memory.Blocks {
		if _, r, err := hostid.DecodeFrame(block); err == nil {
			all = append(all, r)
		}
	}
	return all
}

// assets are the host IDs of each asset, by each of its host IDs.
func (w *world) assets() map[hostid.ID][]hostid.ID {
	all, err := w.reg.Assets(w.ctx)
	w.must(err)
	of := map[hostid.ID][]hostid.ID{}
	w.blocked, w.hidden = map[hostid.ID]bool{}, map[hostid.ID]registry.Maintenance{}
	add := func(a registry.AssetDetail) {
		for _, h := range a.Hosts {
			of[h.HostID] = a.HostIDs
			w.blocked[h.HostID] = h.Blocked || h.BlockedBranches > 0
			// Of a PC whose place another took for good, that one's asset is not seen by its reports.
			if !h.Succeeded && (a.State == registry.Deleted || a.State == registry.Archived) {
				w.hidden[h.HostID] = *a.Maintenance
			}
		}
	}
	for _, a := range all {
		add(a)
	}
	for id := range w.spoken {
		if of[id] == nil { // deleted, if it is anything
			if a, err := w.reg.Asset(w.ctx, id); err == nil {
				add(a)
			}
		}
	}
	return of
}

// conflicts are the host IDs that open conflicts are about.
func (w *world) conflicts() map[hostid.ID]bool {
	all, err := w.reg.Conflicts(w.ctx)
	w.must(err)
	about := map[hostid.ID]bool{}
	for _, c := range all {
		about[c.HostID], about[c.Other] = true, true
	}
	delete(about, hostid.ID{})
	return about
}

// operators are the host IDs that an operator made one asset of, or blocked.
func (w *world) operators() map[hostid.ID]bool {
	of := maps.Clone(w.blocked) // of a conflict between many, all may be
	for ids := range maps.Values(w.said) {
		for _, id := range ids {
			of[id] = true
		}
	}
	for s := range maps.Values(w.succeeded) {
		of[s.HostID], of[s.Successor] = true, true
	}
	return of
}

// snapshot is a halted virtual machine: its disk and what its client had in mind.
type snapshot struct {
	folder string
	disk   *disk
	agent  reflect.Value // a copy of the Agent
	dir    fs.FileInfo
	taken  time.Time
	booted time.Time
	asleep time.Duration
	unseen time.Duration
}

// takeSnapshot keeps the PC as it is now.
func (p *pc) takeSnapshot() *snapshot {
	w := p.w
	w.disks++
	s := &snapshot{
		folder: filepath.Join(w.dir, fmt.Sprint("snapshot", w.disks)), disk: p.disk, agent: reflect.New(reflect.TypeFor[agent.Agent]()),
		taken: w.now, booted: p.booted, asleep: p.asleep, unseen: p.unseen,
	}
	s.agent.Elem().Set(reflect.ValueOf(p.agent).Elem())
	var err error
	s.dir, err = os.Stat(p.disk.folder)
	w.must(err)
	w.must(copyFolder(p.disk.folder, s.folder))
	return s
}

// resume goes on from a snapshot, in the run that the client was in then: it knows of no time that passed. It reports whether
// that disk is still there.
func (p *pc) resume(s *snapshot) bool {
	w := p.w
	dir, err := os.Stat(s.disk.folder)
	if err != nil || !os.SameFile(dir, s.dir) || p.disk != s.disk {
		return false
	}
	p.powerOff()
	entries, err := os.ReadDir(s.disk.folder)
	w.must(err)
	for _, e := range entries {
		w.must(os.Remove(filepath.Join(s.disk.folder, e.Name())))
	}
	w.must(os.CopyFS(s.disk.folder, os.DirFS(s.folder)))
	again := reflect.New(reflect.TypeFor[agent.Agent]())
	again.Elem().Set(s.agent.Elem())
	p.agent = again.Interface().(*agent.Agent)
	p.on, p.booted, p.asleep, p.unseen = true, s.booted, s.asleep, s.unseen+w.now.Sub(s.taken)
	return true
}

package registry

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

func (m *manager) run(q RunRequest) int64 {
	m.t.Helper()
	if q.By == "" {
		q.By = "alice"
	}
	id, again, _, err := m.NewRun(m.t.Context(), q)
	must(m.t, err)
	expect(m.t, "begun before", again, false)
	return id
}

func (m *manager) runState(id int64) RunState {
	m.t.Helper()
	s, err := m.Run(m.t.Context(), id)
	must(m.t, err)
	return s
}

// targets are the PCs of a run as "NAME ADDRESS ROUTE OUTCOME".
func (m *manager) targets(id int64) (list []string) {
	m.t.Helper()
	page, next, err := m.RunTargets(m.t.Context(), id, "", 0, 100)
	must(m.t, err)
	expect(m.t, "next page", next, 0)
	for _, p := range page {
		list = append(list, fmt.Sprintf("%s %s %s %s", p.Host, p.Address, p.Route, p.Outcome))
	}
	return list
}

// parts holds what is due, as a process with that name.
func (m *manager) parts(holder string) (list []RunPart) {
	m.t.Helper()
	due, err := m.dueParts(m.t.Context(), holder)
	must(m.t, err)
	for _, d := range due {
		p, err := m.holdPart(m.t.Context(), d.partJob, holder)
		must(m.t, err)
		list = append(list, p)
	}
	return list
}

// leftAlone is the result of a PC of a run that was called off.
var leftAlone = Initialization{Reason: "cancelled", MessageID: "SHAM1102-W"}

func entry(address, name, root string) sysconfig.Entry {
	return sysconfig.Entry{Address: netip.MustParseAddr(address), Name: name, Type: sysconfig.Client, Root: root}
}

// result is what became of a PC.
func (m *manager) result(number int, host, reason string) PartResult {
	m.pass(time.Second)
	i := Initialization{Host: host, Address: "192.0.2.1", Finished: m.clock(), OK: reason == "", Reason: reason}
	if reason == "" {
		i.Done = []string{"allocation-added"}
	} else {
		i.Step = "initialize"
	}
	return PartResult{Number: number, Initialization: i}
}

func TestWhichPCsARunIsFor(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	alpha, beta, gamma := newPC(m, "alpha"), newPC(m, "beta"), newPC(m, "gamma")
	beta.report.Names.FQDN = "beta.example.com"
	alpha.says(hostid.NotInitialized)
	for _, p := range []*pc{alpha, beta, gamma} {
		p.checkIn()
	}
	j := newJournal(m, "one")
	j.take(m.failed("delta", ""), m.failed("gamma", gamma.report.Facts.SystemUUID))

	id := m.run(RunRequest{NotInitialized: true, Source: "all"})
	expect(t, "not initialized", m.targets(id), []string{`alpha 192.0.2.7 \ `, `delta 192.0.2.1 \ `})
	for _, p := range m.parts("x") {
		must(t, m.BeginPart(t.Context(), p))
	}
	must(t, m.CancelRun(t.Context(), id, "bob", leftAlone))
	s := m.runState(id)
	expect(t, "called off by", s.CancelledBy, "bob")
	expect(t, "done of what somebody is at", s.Done, 0)
	must(t, m.CancelRun(t.Context(), id, "carol", leftAlone))
	expect(t, "called off twice by", m.runState(id).CancelledBy, "bob")
	m.pass(lease + time.Second)
	for _, p := range m.parts("y") {
		expect(t, "part called off", p.Cancelled, true)
		must(t, m.PartProgress(t.Context(), p, PartProgress{Results: []PartResult{m.result(1, "alpha", "cancelled"), m.result(2, "delta", "cancelled")}}))
	}
	if err := m.CancelRun(t.Context(), id, "bob", leftAlone); !errors.Is(err, ErrRunEnded) {
		t.Errorf("a run that ended is called off: %v", err)
	}

	id = m.run(RunRequest{Hosts: []string{"BETA", beta.report.HostID.String(), "beta.example.com.", "192.0.2.9", "epsilon", "delta"}, Source: "list"})
	expect(t, "list", m.targets(id), []string{`beta.example.com 192.0.2.7 \ `, ` 192.0.2.9 \ `, `epsilon  \ `, `delta 192.0.2.1 \ `})
	if _, _, _, err := m.NewRun(t.Context(), RunRequest{Hosts: []string{hostid.NewID().String()}}); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown host ID: %v", err)
	}

	file := []sysconfig.Entry{entry("192.0.2.20", "gamma", `\`), entry("192.0.2.21", "new", `\`), entry("192.0.2.22", "NEW", `\`), entry("192.0.2.23", "far", `\nowhere`), {Address: netip.MustParseAddr("192.0.2.1"), Name: "mgr", Type: sysconfig.Manager}}
	q := RunRequest{Entries: file, Source: "NETM.NDD", RetryFailed: false, By: "alice"}
	id, _, remarks, err := m.NewRun(t.Context(), q)
	must(t, err)
	expect(t, "file", m.targets(id), []string{`gamma 192.0.2.7 \ `, `new 192.0.2.21 \ `, `far 192.0.2.23 \ `})
	expect(t, "remarks", remarks, []Text{{EN: `far: ROOT names nowhere, which is no relay system of this manager; the manager does this PC`,
		JA: `far: ROOTのnowhereはこのマネージャの中継システムではありません。このPCはマネージャが処理します`}})

	q.RetryFailed = true
	again := m.run(q)
	expect(t, "failed ones of the file, still under way", m.targets(again), []string{`gamma 192.0.2.7 \ under-way`})
	s = m.runState(again)
	if s.Ended == nil || s.Done != 1 || s.Reasons[OutcomeUnderWay] != 1 {
		t.Errorf("a run with nothing to do: %+v", s)
	}
	page, _, err := m.RunTargets(t.Context(), again, OutcomeUnderWay, 0, 10)
	must(t, err)
	expect(t, "which run", page[0].Result.Detail, fmt.Sprintf("run %d", id))
	q.Entries = file[1:2]
	if _, _, _, err := m.NewRun(t.Context(), q); !errors.Is(err, ErrNoTargets) {
		t.Errorf("nothing failed: %v", err)
	}
}

func TestOneRequestIsOneRun(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	q := RunRequest{Hosts: []string{"alpha"}, Source: "list", Key: "k", By: "alice"}
	first, again, _, err := m.NewRun(t.Context(), q)
	must(t, err)
	expect(t, "again", again, false)
	second, again, _, err := m.NewRun(t.Context(), q)
	must(t, err)
	expect(t, "again", again, true)
	expect(t, "run", second, first)
	other := q
	other.Hosts = []string{"beta"}
	if _, _, _, err := m.NewRun(t.Context(), other); !errors.Is(err, ErrOtherRequest) {
		t.Errorf("another request under the same key: %v", err)
	}
	other.By = "bob" // whose key it is not
	if id := m.run(other); id == first {
		t.Error("another administrator's run is the first one's")
	}
	var wait sync.WaitGroup
	ids := make([]int64, 8)
	q.Key, q.Hosts = "at once", []string{"gamma"}
	for i := range ids {
		wait.Go(func() {
			id, _, _, err := m.again(t).NewRun(t.Context(), q)
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	wait.Wait()
	expect(t, "runs of one request", len(slices.Compact(ids)), 1)
}

// Each PC is done once, whoever holds its part; what an earlier holder still says counts nothing.
func TestPartsAndTheirHolders(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	alpha := newPC(m, "alpha")
	alpha.checkIn()
	id := m.run(RunRequest{Hosts: []string{"alpha", "beta", "gamma"}, Source: "list"})
	ctx := t.Context()
	old := m.parts("one")
	expect(t, "parts", len(old), 1)
	expect(t, "parts for others", len(m.parts("two")), 0)
	s := m.runState(id)
	expect(t, "state", s.Routes[0].State, "waiting")
	must(t, m.BeginPart(ctx, old[0]))
	expect(t, "state", m.runState(id).Routes[0].State, "running")
	must(t, m.PartProgress(ctx, old[0], PartProgress{Results: []PartResult{m.result(2, "beta", "log-on-refused")}}))
	if v := m.runState(id).Version; v <= s.Version {
		t.Errorf("version %d after %d", v, s.Version)
	}

	for range 5 {
		m.pass(lease - time.Second) // held for as long as its holder is there
		expect(t, "parts for the holder", len(m.parts("one")), 0)
	}
	m.pass(lease + time.Second)
	now := m.parts("two")
	expect(t, "parts after the lease", len(now), 1)
	if err := m.PartProgress(ctx, old[0], PartProgress{Results: []PartResult{m.result(1, "alpha", "timeout")}}); !errors.Is(err, ErrHeldByOther) {
		t.Errorf("an earlier holder is heard: %v", err)
	}
	left, err := m.OpenTargets(ctx, now[0], 0)
	must(t, err)
	expect(t, "left", left, []PartTarget{{1, "alpha", "192.0.2.7"}, {3, "gamma", ""}})
	already := m.result(3, "gamma", "")
	already.Already, already.Done = true, nil
	must(t, m.PartProgress(ctx, now[0], PartProgress{Results: []PartResult{m.result(1, "alpha", ""), already, m.result(2, "beta", ""), m.result(9, "nobody", "")}}))
	expect(t, "targets", m.targets(id), []string{`alpha 192.0.2.7 \ initialized`, `beta  \ log-on-refused`, `gamma  \ already`})
	s = m.runState(id)
	if s.Ended == nil || s.Routes[0].State != "ended" {
		t.Errorf("the run did not end: %+v", s)
	}
	expect(t, "counts", s.RunCounts, RunCounts{Targets: 3, Done: 3, Initialized: 2, Already: 1, Failed: 1, Reasons: map[string]int{"log-on-refused": 1}})
	expect(t, "hosts", s.Hosts, map[string][]string{"log-on-refused": {"beta"}})
	expect(t, "parts that are left", len(m.parts("three")), 0)

	// What was done is known of the PCs, as if dcmamtin had done it.
	expect(t, "alpha's last attempt", m.last(alpha), "name ok")
	expect(t, "not checked in", m.unmatched(), []string{"beta unknown"})
	a := m.asset(alpha.report.HostID)
	expect(t, "who and for what", []string{a.Initialization.By, a.Initialization.Source}, []string{"alice", fmt.Sprintf("run %d: list", id)})

	// A PC is free again once its run is over.
	m.run(RunRequest{Hosts: []string{"alpha"}, Source: "list", DryRun: true})
	p := m.parts("one")[0]
	expect(t, "dry", p.DryRun, true)
	failed := m.result(1, "alpha", "timeout")
	must(t, m.PartProgress(ctx, p, PartProgress{Results: []PartResult{failed}}))
	expect(t, "a dry run is no attempt", m.last(alpha), "name ok")
	events, err := m.History(ctx)
	must(t, err)
	var told []string
	for _, e := range events {
		if e.Kind == "run-started" || e.Kind == "dry-run-started" {
			told = append(told, e.Sentence(English))
		}
	}
	expect(t, "history", told, []string{"alice started run 1 (list): initialize the memory of 3 PCs.", "alice started run 2 (list): see whether the memory of 1 PC can be initialized, and change nothing."})
}

// A job is done by one of those that work, and is done again, by whoever is there, when one is gone.
func TestJobs(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	real := func() *Registry { // time passes: the lease has to end by itself
		reg, err := Open(t.Context(), m.dsn, Options{Key: m.key})
		must(t, err)
		t.Cleanup(func() { reg.Close() })
		return reg
	}
	reg := real()
	log := slog.New(slog.DiscardHandler)
	begun, ended := make(chan RunPart, 10), make(chan RunPart, 10)
	jobs, err := reg.StartJobs(t.Context(), true, log, func(ctx context.Context, p RunPart) error {
		begun <- p
		<-ctx.Done()
		ended <- p
		return ctx.Err()
	})
	must(t, err)
	id := m.run(RunRequest{Hosts: []string{"alpha"}, Source: "list"}) // as a command does it: in another process
	first := <-begun
	expect(t, "run", first.Run, id)
	must(t, jobs.Close())
	<-ended

	// Another process goes on at once with what the first gave back, and with what fails after a while.
	other := real()
	fails, leaves := 1, 1
	jobs, err = other.StartJobs(t.Context(), true, log, func(ctx context.Context, p RunPart) error {
		begun <- p
		if fails--; fails >= 0 {
			return errors.New("no luck")
		}
		if leaves--; leaves >= 0 { // PCs came to the part meanwhile
			return nil
		}
		if err := other.PartProgress(ctx, p, PartProgress{Results: []PartResult{{Number: 1, Initialization: Initialization{Host: "alpha", OK: true, Finished: time.Now()}}}}); err != nil {
			return err
		}
		ended <- p
		return nil
	})
	must(t, err)
	defer jobs.Close()
	second, third, fourth := <-begun, <-begun, <-begun
	<-ended
	if !(first.Generation <= second.Generation && second.Generation < third.Generation && third.Generation < fourth.Generation) {
		t.Errorf("generations %d, %d, %d, %d", first.Generation, second.Generation, third.Generation, fourth.Generation)
	}
	expect(t, "targets", m.targets(id), []string{`alpha  \ initialized`})
}

// A job that fails because the database does, and cannot even note that, is done again when the database works.
func TestJobsWhileTheDatabaseFails(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	reg, err := Open(t.Context(), m.dsn, Options{Key: m.key})
	must(t, err)
	defer reg.Close()
	id := m.run(RunRequest{Hosts: []string{"alpha"}, Source: "list"})
	calls := 0
	ended := make(chan struct{})
	jobs, err := reg.StartJobs(t.Context(), true, slog.New(slog.DiscardHandler), func(ctx context.Context, p RunPart) error {
		if calls++; calls == 1 {
			_, err := reg.writers.ExecContext(ctx, `CREATE TRIGGER no BEFORE UPDATE ON run_parts BEGIN SELECT RAISE(ABORT, 'broken'); END`)
			if err != nil {
				t.Error(err)
			}
			return reg.BeginPart(ctx, p)
		}
		defer close(ended)
		return reg.PartProgress(ctx, p, PartProgress{Results: []PartResult{{Number: 1, Initialization: Initialization{Host: "alpha", OK: true, Finished: time.Now()}}}})
	})
	must(t, err)
	defer jobs.Close()
	for job := (partJob{}); job == (partJob{}); time.Sleep(10 * time.Millisecond) {
		jobs.mu.Lock()
		for job = range jobs.left {
		}
		jobs.mu.Unlock()
	}
	_, err = reg.writers.ExecContext(t.Context(), `DROP TRIGGER no`)
	must(t, err)
	<-ended
	expect(t, "targets", m.targets(id), []string{`alpha  \ initialized`})
}

// via checks in through relays, the PC's own higher system first.
func (p *pc) via(relays ...*pc) *pc {
	p.m.t.Helper()
	p.m.pass(time.Second)
	s := p.next()
	for _, r := range relays {
		s.Hops = append(s.Hops, checkin.Hop{Relay: r.report.HostID})
	}
	p.send(s)
	return p
}

// reporting is a relay's report of itself.
func (p *pc) reporting(relays ...*pc) *pc {
	p.report.Relay = &checkin.RelayState{}
	return p.via(relays...)
}

// Each PC is done by the relay that is nearest to it, and the run follows PCs that move and relays that are none any more.
func TestRoutesOfARun(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	upper, lower, other := newRelay(m, "upper"), newRelay(m, "lower"), newRelay(m, "other")
	upper.reporting()
	lower.reporting(upper)
	other.reporting()
	direct, near, far, moved := newPC(m, "direct").via(), newPC(m, "near").via(upper), newPC(m, "far").via(lower, upper), newPC(m, "moved").via(lower, upper)
	var hosts []string
	for _, p := range []*pc{direct, near, far, moved, lower} {
		hosts = append(hosts, p.report.HostID.String())
	}
	first := m.run(RunRequest{Hosts: hosts, Source: "list"})
	expect(t, "by what the PCs reported", m.targets(first), []string{
		`direct 192.0.2.7 \ `, `near 192.0.2.7 \upper `, `far 192.0.2.7 \upper\lower `, `moved 192.0.2.7 \upper\lower `, `lower 192.0.2.7 \upper `})
	id, _, remarks, err := m.NewRun(ctx, RunRequest{By: "alice", Source: "file", Entries: []sysconfig.Entry{
		entry("192.0.2.30", "new1", `\upper\lower`), entry("192.0.2.31", "new2", `\`+upper.report.HostID.String()), entry("192.0.2.32", "far", `\`)}})
	must(t, err)
	expect(t, "by what the file says", m.targets(id), []string{`new1 192.0.2.30 \upper\lower `, `new2 192.0.2.31 \upper `, `far 192.0.2.7 \upper\lower under-way`})
	expect(t, "remarks", len(remarks), 0)
	must(t, m.CancelRun(ctx, id, "alice", leftAlone))
	if s := m.runState(id); s.Ended == nil || s.Reasons["cancelled"] != 2 {
		t.Errorf("nobody had begun, and the run goes on: %+v", s)
	}

	parts := map[hostid.ID]RunPart{}
	for _, p := range m.parts("one") {
		if p.Run == first {
			parts[p.Relay] = p
		}
	}
	expect(t, "parts", len(parts), 3)
	again := func(p RunPart) RunPart {
		t.Helper()
		p, err := m.Part(ctx, p)
		must(t, err)
		return p
	}
	hand := func(p RunPart, want ...PartTarget) RunPart {
		t.Helper()
		id, made, targets, err := m.HandOver(ctx, p)
		must(t, err)
		expect(t, "handed over", targets, want)
		m.pass(time.Second)
		id2, made2, targets2, err := m.HandOver(ctx, p)
		must(t, err)
		if id2 != id || !made2.Equal(made) || len(targets2) != len(targets) {
			t.Errorf("handed over once more: %s %s %v, before %s %s %v", id2, made2, targets2, id, made, targets)
		}
		must(t, m.PostWork(ctx, checkin.Work{ID: id, To: p.Relay, Kind: "initialize", Made: made, Body: []byte(`{}`)}))
		return again(p)
	}
	l := hand(parts[lower.report.HostID], PartTarget{3, "far", "192.0.2.7"}, PartTarget{4, "moved", "192.0.2.7"})

	// A PC that moves before its relay has begun is taken from it, with what was handed over.
	moved.via(other)
	n, err := m.Reroute(ctx, l)
	must(t, err)
	expect(t, "moved", n, 1)
	open, err := m.WorkFor(ctx, []hostid.ID{lower.report.HostID}, nil)
	must(t, err)
	expect(t, "work that is left for the relay", len(open), 0)
	if refusal(m.TakeProgress(ctx, lower.progress(l.Work, 1, false))) != checkin.UnknownWork {
		t.Error("a relay may begin with what was called off")
	}
	l = hand(again(l), PartTarget{3, "far", "192.0.2.7"})
	o := m.parts("one")
	expect(t, "a part for the other relay", len(o), 1)
	expect(t, "relay", o[0].Relay, other.report.HostID)
	o[0] = hand(o[0], PartTarget{4, "moved", "192.0.2.7"})

	// Once it has begun, it ends what it has: a PC that it does not find is tried where it is by then.
	say := func(p RunPart, relay *pc, sequence uint64, done bool, results ...PartResult) {
		t.Helper()
		must(t, m.TakeProgress(ctx, relay.progress(p.Work, sequence, done)))
		g := PartProgress{Sequence: sequence, Done: done, Results: results}
		if done {
			g.Rest = &Initialization{Finished: m.clock(), Reason: "nothing-reported"}
		}
		must(t, m.PartProgress(ctx, p, g))
		if err := m.PartProgress(ctx, p, g); err != nil && !errors.Is(err, ErrHeldByOther) { // once more; the part may have ended
			t.Error(err)
		}
	}
	say(l, lower, 1, false)
	say(o[0], other, 1, false)
	l = again(l)
	expect(t, "begun", l.Begun, true)
	heard := func(relay *pc) (at string) { // since the first report of all
		for _, route := range m.runState(first).Routes {
			if route.Relay == relay.report.HostID.String() && route.Heard != nil {
				at = route.State + route.Heard.Sub(m.clock()).String()
			}
		}
		return at
	}
	m.pass(time.Hour)
	expect(t, "heard by what it said of its part", heard(lower), "running-1h0m0s")
	m.pass(time.Minute)
	lower.reporting(upper) // a second passes
	m.pass(time.Minute)
	expect(t, "heard by its check-in", heard(lower), "running-1m0s")
	must(t, m.RelayHeard(ctx, lower.report.HostID))
	m.pass(time.Second)
	expect(t, "heard by its contact", heard(lower), "running-1s")
	far.via(other)
	n, err = m.Reroute(ctx, l)
	must(t, err)
	expect(t, "moved from a relay that works", n, 0)
	absent := m.result(3, "far", "nothing-answers")
	absent.Absent = true
	say(l, lower, 2, true, absent)
	expect(t, "targets", m.targets(first)[2], `far 192.0.2.7 \other `)
	if _, err := m.Part(ctx, l); !errors.Is(err, ErrHeldByOther) {
		t.Errorf("a part without a PC is still there: %v", err)
	}
	say(again(o[0]), other, 2, true, m.result(4, "moved", ""))
	o[0] = hand(again(o[0]), PartTarget{3, "far", "192.0.2.7"})

	// A relay that is none any more: what it did not say goes to the next one above.
	say(o[0], other, 1, false)
	_, err = m.Retire(ctx, other.report.HostID, alice)
	must(t, err)
	n, err = m.Reroute(ctx, again(o[0]))
	must(t, err)
	expect(t, "moved from a relay that was retired", n, 1)
	expect(t, "targets", m.targets(first)[2:4], []string{`far 192.0.2.7 \ `, `moved 192.0.2.7 \other initialized`})

	// What a relay says nothing of by its end has a reason; what it says of others' PCs counts nothing.
	u := hand(parts[upper.report.HostID], PartTarget{2, "near", "192.0.2.7"}, PartTarget{5, "lower", "192.0.2.7"})
	say(u, upper, 1, false)
	say(u, upper, 2, true, m.result(1, "direct", ""), m.result(5, "lower", "own-machine"))
	expect(t, "targets", m.targets(first), []string{
		`direct 192.0.2.7 \ `, `near 192.0.2.7 \upper nothing-reported`, `far 192.0.2.7 \ `, `moved 192.0.2.7 \other initialized`, `lower 192.0.2.7 \upper own-machine`})
}

// A run that is called off ends at once, but for what somebody has begun with; what is handed to a relay that has not is not begun
// with any more, and one that has is heard first.
func TestRunIsCalledOff(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	away, works := newRelay(m, "away"), newRelay(m, "works")
	away.reporting()
	works.reporting()
	id := m.run(RunRequest{Source: "file", Entries: []sysconfig.Entry{
		entry("192.0.2.30", "one", `\away`), entry("192.0.2.31", "two", `\works`), entry("192.0.2.32", "three", `\`)}})
	work := map[hostid.ID]RunPart{}
	for _, p := range m.parts("a") {
		if !p.Relay.IsZero() {
			handed, made, _, err := m.HandOver(ctx, p)
			must(t, err)
			must(t, m.PostWork(ctx, checkin.Work{ID: handed, To: p.Relay, Kind: "initialize", Made: made, Body: []byte(`{}`)}))
			p, err = m.Part(ctx, p)
			must(t, err)
		}
		work[p.Relay] = p
	}
	must(t, m.TakeProgress(ctx, works.progress(work[works.report.HostID].Work, 1, false))) // nobody has looked at that yet

	must(t, m.CancelRun(ctx, id, "bob", leftAlone))
	expect(t, "targets", m.targets(id), []string{`one 192.0.2.30 \away cancelled`, `two 192.0.2.31 \works `, `three 192.0.2.32 \ cancelled`})
	page, _, err := m.RunTargets(ctx, id, "cancelled", 0, 10)
	must(t, err)
	expect(t, "result", *page[0].Result, Initialization{Host: "one", Address: "192.0.2.30", Finished: m.clock(), Reason: "cancelled", MessageID: "SHAM1102-W"})
	if refusal(m.TakeProgress(ctx, away.progress(work[away.report.HostID].Work, 1, false))) != checkin.UnknownWork {
		t.Error("a relay may begin with what was called off")
	}
	own := work[hostid.ID{}]
	if err := m.BeginPart(ctx, own); !errors.Is(err, ErrHeldByOther) {
		t.Errorf("the manager begins with what was called off: %v", err)
	}
	s := m.runState(id)
	if s.Ended != nil {
		t.Error("it has ended while a relay is at it")
	}
	p := work[works.report.HostID]
	must(t, m.PartProgress(ctx, p, PartProgress{Sequence: 1}))
	must(t, m.CallOff(ctx, p))
	must(t, m.PartProgress(ctx, p, PartProgress{Results: []PartResult{m.result(2, "two", "cancelled")}}))
	if s = m.runState(id); s.Ended == nil || s.Reasons["cancelled"] != 3 {
		t.Errorf("in the end: %+v", s)
	}
	expect(t, "PCs that are free again", m.targets(m.run(RunRequest{Hosts: []string{"one", "three"}, Source: "list"})), []string{`one  \ `, `three  \ `})
}

// A part that had ended is worked on again when a PC comes to it, by whoever is there, its last holder among them.
func TestPartThatGetsAnotherPC(t *testing.T) {
	t.Parallel()
	for _, holder := range []string{"one", "two"} {
		m := newManager(t)
		ctx := t.Context()
		relay := newRelay(m, "relay")
		relay.reporting()
		id := m.run(RunRequest{Source: "file", Entries: []sysconfig.Entry{entry("192.0.2.30", "alpha", `\`), entry("192.0.2.31", "beta", `\relay`)}})
		var below RunPart
		for _, p := range m.parts("one") {
			if below = p; p.Relay.IsZero() {
				must(t, m.BeginPart(ctx, p))
				must(t, m.PartProgress(ctx, p, PartProgress{Results: []PartResult{m.result(1, "alpha", "")}}))
			}
		}
		if below.Relay.IsZero() {
			t.Fatal("the manager's part comes last")
		}
		_, err := m.Retire(ctx, relay.report.HostID, alice)
		must(t, err)
		n, err := m.Reroute(ctx, below)
		must(t, err)
		expect(t, "moved", n, 1)
		m.pass(time.Millisecond)
		again := m.parts(holder)
		if len(again) != 1 || !again[0].Relay.IsZero() {
			t.Fatalf("%s holds %+v", holder, again)
		}
		must(t, m.PartProgress(ctx, again[0], PartProgress{Results: []PartResult{m.result(2, "beta", "")}}))
		if s := m.runState(id); s.Ended == nil || s.Initialized != 2 {
			t.Errorf("in the end: %+v", s)
		}
	}
}

// What dcmamtin did at a relay is taken once, in order, whatever is said twice or comes late.
func TestJournalsOfARelay(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	relay, plain := newRelay(m, "relay"), newPC(m, "plain")
	plain.checkIn()
	verified := relay.seed.SigningKey().Public().(ed25519.PublicKey)
	take := func(stream string, sequence uint64, attempts ...Initialization) error {
		t.Helper()
		_, _, err := m.TakeRelayJournal(t.Context(), checkin.Progress{Work: stream, From: relay.report.HostID, Sequence: sequence}, verified, attempts)
		return err
	}
	at := func(name string) Initialization {
		i := m.failed(name, "")
		i.By, i.Machine, i.Source = "bob", "site-relay", "/NETM.NDD"
		return i
	}
	a, b, c := at("a"), at("b"), at("c")
	if err := take("journals-1", 2, b); refusal(err) != checkin.UnknownWork {
		t.Errorf("the second before the first: %v", err)
	}
	must(t, take("journals-1", 1, a))
	must(t, take("journals-1", 1, a))
	must(t, take("journals-1", 2, b))
	if err := take("journals-1", 4, c); refusal(err) != checkin.UnknownWork {
		t.Errorf("with a gap: %v", err)
	}
	expect(t, "not checked in", m.unmatched(), []string{"a unknown", "b unknown"})
	must(t, take("journals-2", 1, a, b, c)) // the relay began anew
	if err := take("journals-1", 3, c); refusal(err) != checkin.UnknownWork {
		t.Errorf("the stream that ended: %v", err)
	}
	all, err := m.Unmatched(t.Context())
	must(t, err)
	expect(t, "how many", len(all), 3)
	expect(t, "where", all[0].Initialization.Machine, "site-relay")
	var count int
	must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM initializations`).Scan(&count))
	expect(t, "attempts", count, 3)
	if _, _, err := m.TakeRelayJournal(t.Context(), checkin.Progress{Work: "journals-1", From: plain.report.HostID, Sequence: 1}, plain.seed.SigningKey().Public().(ed25519.PublicKey), nil); refusal(err) != checkin.NotRelay {
		t.Errorf("a client's journals: %v", err)
	}
	if _, _, err := m.TakeRelayJournal(t.Context(), checkin.Progress{Work: "journals-2", From: relay.report.HostID, Sequence: 2}, plain.seed.SigningKey().Public().(ed25519.PublicKey), nil); refusal(err) != checkin.Malformed {
		t.Errorf("by another key: %v", err)
	}
}

// A relay that invents PCs takes a part of the room for PCs that have not checked in, and leaves the rest to others.
func TestJournalsOfARelayThatInventsPCs(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	bad, other := newRelay(m, "bad"), newRelay(m, "other")
	take := func(relay *pc, sequence uint64, names ...string) (dropped int) {
		t.Helper()
		var attempts []Initialization
		for _, n := range names {
			attempts = append(attempts, m.failed(n, ""))
		}
		dropped, _, err := m.takeRelayJournal(t.Context(), checkin.Progress{Work: "journals-" + relay.report.Names.Host, From: relay.report.HostID, Sequence: sequence},
			relay.seed.SigningKey().Public().(ed25519.PublicKey), attempts, 3)
		must(t, err)
		return dropped
	}
	expect(t, "dropped", take(bad, 1, "a", "b"), 0)
	expect(t, "dropped then", take(bad, 2, "c", "d", "e"), 2)
	expect(t, "dropped for good", take(bad, 3, "f"), 1)
	expect(t, "another's", take(other, 1, "g", "h", "i"), 0)
	expect(t, "kept", m.unmatched(), []string{"a unknown", "b unknown", "c unknown", "g unknown", "h unknown", "i unknown"})
}

// What a relay says of PCs that do not report through it counts for none of them, by whatever it calls them: neither as results of its
// part of a run nor as what dcmamtin did there.
func TestRelayTellsOfOthersPCs(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	ctx := t.Context()
	bad, good := newRelay(m, "bad"), newRelay(m, "good")
	bad.reporting()
	good.reporting()
	mine, theirs, direct := newPC(m, "near").via(bad), newPC(m, "theirs").via(good), newPC(m, "direct").via()
	uuid := func(p *pc) string { return p.report.Facts.SystemUUID }
	verified := bad.seed.SigningKey().Public().(ed25519.PublicKey)
	sequence := uint64(0)
	journal := func(attempts ...Initialization) (foreign int) {
		t.Helper()
		sequence++
		_, foreign, err := m.TakeRelayJournal(ctx, checkin.Progress{Work: "journals-1", From: bad.report.HostID, Sequence: sequence}, verified, attempts)
		must(t, err)
		return foreign
	}
	expect(t, "not taken of a journal", journal(m.failed("theirs", ""), m.failed("direct", ""), m.failed("", uuid(theirs)), m.done("near", uuid(direct)),
		m.failed("x", uuid(theirs)), m.failed("y", uuid(theirs))), 6)
	for _, p := range []*pc{mine, theirs, direct} {
		expect(t, "attempts at "+p.report.Names.Host, m.last(p), "")
	}
	var shared int
	must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM shared_uuids`).Scan(&shared))
	expect(t, "UUIDs that tell no PC", shared, 0)
	expect(t, "not taken of its own", journal(m.failed("near", uuid(mine)), m.failed("bad", ""), m.failed("stranger", "")), 0)
	expect(t, "its own", m.last(mine), "uuid log-on-refused")
	expect(t, "itself", m.last(bad), "name log-on-refused")
	expect(t, "what never checked in", m.unmatched(), []string{"stranger unknown"})

	// In a run the relay has three PCs: one of its own, one that has moved since, and one that is no asset.
	moved := newPC(m, "moved").via(bad)
	run := m.run(RunRequest{Entries: []sysconfig.Entry{entry("192.0.2.11", "near", `\bad`), entry("192.0.2.12", "moved", `\bad`), entry("192.0.2.13", "new", `\bad`)}})
	var part RunPart
	for _, p := range m.parts("one") {
		if p.Run == run {
			part = p
		}
	}
	expect(t, "whose part", part.Relay, bad.report.HostID)
	moved.via(good)
	result := func(number int, host, uuid string) PartResult {
		r := m.result(number, host, "")
		r.SystemUUID = uuid
		return r
	}
	must(t, m.PartProgress(ctx, part, PartProgress{Results: []PartResult{
		result(1, "theirs", uuid(theirs)), result(2, "theirs", uuid(moved)), result(3, "direct", "")}}))
	expect(t, "the run", m.targets(run), []string{`near 192.0.2.7 \bad initialized`, `moved 192.0.2.7 \bad initialized`, `new 192.0.2.13 \bad initialized`})
	for p, want := range map[*pc]string{mine: "uuid log-on-refused", moved: "uuid ok", theirs: "", direct: ""} {
		expect(t, "last attempt at "+p.report.Names.Host, m.last(p), want)
	}
	fresh := newPC(m, "new").via(good) // the operator called it so
	expect(t, "last attempt at what was no asset", m.last(fresh), "name ok")
}

// The numbers of runs and parts come again where a database is put back from a backup; the names of work do not, so that no relay takes
// one work for another.
func TestNamesOfWorkDoNotComeAgain(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for range 2 {
		m := newManager(t)
		relay := newRelay(m, "relay")
		relay.reporting()
		m.run(RunRequest{Entries: []sysconfig.Entry{entry("192.0.2.11", "alpha", `\relay`)}})
		id, _, _, err := m.HandOver(t.Context(), m.parts("one")[0])
		must(t, err)
		if !strings.HasPrefix(id, "initialize-1-1-1-") {
			t.Errorf("named %s", id)
		}
		names[id] = true
	}
	expect(t, "names", len(names), 2)
}

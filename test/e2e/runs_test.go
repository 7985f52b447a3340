package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"samehost/test/play"
)

// company is simulated PCs that never checked in, a manager, and relay systems above some of the PCs.
type company struct {
	*world
	first   netip.Addr // of the PCs
	control string
}

// newCompany starts n PCs whose calls take that long, and a manager that serves. net is an octet that no other test has.
func newCompany(t *testing.T, n int, net int, latency time.Duration) *company {
	t.Helper()
	t.Parallel()
	c := &company{world: &world{t: t, stage: &play.Stage{Dir: t.TempDir(), Bin: bin, Net: 9 + int(stages.Add(1))}},
		first: netip.AddrFrom4([4]byte{127, 184, byte(net), 1}), control: fmt.Sprintf("127.185.%d.1:8740", net)}
	t.Cleanup(func() {
		if err := c.stage.Close(); err != nil {
			t.Error(err)
		}
	})
	simulator, err := c.stage.Start("amtsim", "--devices", fmt.Sprint(n), "--network", c.first.String(), "--local", "none",
		"--password", play.Password, "--latency", latency.String(), "--control", c.control)
	c.must(err)
	c.manager, err = c.stage.InitManager()
	c.must(err)
	config, err := os.OpenFile(c.manager.Config, os.O_WRONLY|os.O_APPEND, 0)
	c.must(err)
	_, err = config.WriteString("\n[dcmamtin]\nresolve = \"file\"\n")
	c.must(err)
	c.must(config.Close())
	c.must(c.manager.Serve())
	c.must(simulator.Until("ready"))
	return c
}

// file is a system configuration information file of PCs from one number on, below a relay's host ID, "" for the manager.
func (c *company) file(from, n int, relay string) string {
	var b strings.Builder
	for i := from; i < from+n; i++ {
		fmt.Fprintf(&b, "%s %s TYPE=client,ROOT=\\%s\n", c.address(i), c.name(i), relay)
	}
	return b.String()
}

func (c *company) name(i int) string { return fmt.Sprintf("pc%03d", i) }

func (c *company) address(i int) netip.Addr {
	a := c.first
	for range i - 1 {
		a = a.Next()
	}
	return a
}

// seen is what a PC counted of us.
func (c *company) seen(i int) (d struct {
	Calls       map[string]int `json:"calls"`
	Connections int            `json:"connections"`
}) {
	c.t.Helper()
	res, err := http.Get(fmt.Sprintf("http://%s/devices/%d", c.control, i))
	c.must(err)
	defer res.Body.Close()
	c.must(json.NewDecoder(res.Body).Decode(&d))
	return d
}

// show is what the command tells of a run, which needs no manager that serves.
func (c *company) show(id int64) (r run) {
	c.t.Helper()
	out, err := c.manager.Command("initializations", "show", fmt.Sprint(id), "--json")
	c.must(err)
	c.must(json.Unmarshal([]byte(out.Stdout), &r))
	sum := 0
	for _, route := range r.Routes {
		sum += route.Done
	}
	if sum != r.Done || r.Initialized+r.Failed != r.Done || (r.Ended != nil) != (r.Done == r.Targets) {
		c.t.Fatalf("this does not fit together: %s", out.Stdout)
	}
	return r
}

// outcomes are those of a run's PCs, "" for the open ones.
func (c *company) outcomes(id int64) map[string]string {
	c.t.Helper()
	out, err := c.manager.Command("initializations", "show", fmt.Sprint(id), "--targets", "--json")
	c.must(err)
	all := make(map[string]string)
	for line := range strings.Lines(out.Stdout) {
		var t struct{ Host, Outcome string }
		c.must(json.Unmarshal([]byte(line), &t))
		all[t.Host] = t.Outcome
	}
	return all
}

// until polls the command until what it tells of a run holds.
func (c *company) until(id int64, what string, holds func(run) bool) run {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // a poll of other processes
		r := c.show(id)
		if holds(r) {
			return r
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("in vain: %s: %+v", what, r)
		}
	}
}

// The manager is killed in the middle of a run, and started again: both ways go on, what was done is not touched again, and every
// PC is done once.
func TestManagerKilledInARun(t *testing.T) {
	const n, parallel = 120, 4
	c := newCompany(t, n, 1, 10*time.Millisecond)
	site := c.relay(3, "127.185.1.2:8740")
	ask := c.api()
	var r run
	ask(http.MethodPost, "", map[string]any{"file": c.file(1, n/2, "") + c.file(n/2+1, n/2, site.hostID), "parallel": parallel}, &r)
	c.until(r.ID, "both are at it", func(r run) bool { return r.route("").Done > 4 && r.route(site.hostID).Done > 4 })
	c.manager.Kill()

	down := c.show(r.ID)
	if down.Ended != nil || down.route("").Done >= n/2 || down.route("").State != "running" {
		t.Fatalf("killed, and it is told: %+v", down)
	}
	finished := make(map[int]map[string]int)
	then := c.outcomes(r.ID)
	for i := 1; i <= n; i++ {
		if then[c.name(i)] != "" {
			finished[i] = c.seen(i).Calls
		}
	}
	if len(finished) != down.Done {
		t.Errorf("%d are done, and %d have an outcome", down.Done, len(finished))
	}
	c.must(c.manager.Serve())
	before := down
	end := c.until(r.ID, "it ends", func(r run) bool {
		for _, route := range r.Routes {
			if was := before.route(route.Relay); route.Done < was.Done || route.Targets != n/2 {
				t.Fatalf("%+v after %+v", route, was)
			}
		}
		before = r
		return r.Ended != nil
	})
	if end.Initialized != n || end.Failed != 0 || end.Already > parallel {
		t.Errorf("in the end: %+v", end)
	}
	now, already := c.outcomes(r.ID), 0
	for i := 1; i <= n; i++ {
		host, calls := c.name(i), c.seen(i).Calls
		if calls["AddStorageEaclEntry"] != 1 || calls["AddStorageFpaclEntry"] != 1 {
			t.Errorf("%s was added to: %v", host, calls)
		}
		if was, done := finished[i]; done && (now[host] != then[host] || fmt.Sprint(was) != fmt.Sprint(calls)) {
			t.Errorf("%s was done, and was begun with again: %q %v, then %q %v", host, then[host], was, now[host], calls)
		}
		switch {
		case now[host] == "already" && i <= n/2: // killed between its last answer and the note of it
			already++
		case now[host] != "initialized":
			t.Errorf("%s: %q", host, now[host])
		}
	}
	if already != end.Already {
		t.Errorf("%d were found done, the run says %d", already, end.Already)
	}
}

// A run is called off: while the relay works, before it has ever been there, and while it cannot be reached. What was done stays
// done and is known, the rest is left alone, and the run ends at once.
func TestRunCalledOffAtARelay(t *testing.T) {
	const n, parallel = 30, 2
	c := newCompany(t, 3*n, 2, 10*time.Millisecond)
	site := c.relay(4, "127.185.2.2:8740")
	ask := c.api()
	start := func(from int) (r run) {
		ask(http.MethodPost, "", map[string]any{"file": c.file(from, n, site.hostID), "parallel": parallel}, &r)
		return r
	}
	called := func(id int64) string {
		t.Helper()
		out, err := c.manager.Command("initializations", "cancel", fmt.Sprint(id), "--lang", "en")
		c.must(err)
		return out.Stdout
	}
	// settled holds a run that was called off against the PCs' own word. What the relay was at is there in its journals, which
	// come by themselves.
	settled := func(id int64, from int, atLeast int) {
		t.Helper()
		outcomes, done := c.outcomes(id), 0
		for i := from; i < from+n; i++ {
			added := c.seen(i).Calls["AddStorageFpaclEntry"]
			switch o := outcomes[c.name(i)]; {
			case o == "initialized" && added == 1, o == "cancelled":
			default:
				t.Errorf("%s: %q, and it was added to %d times", c.name(i), o, added)
			}
			if done += added; added > 1 {
				t.Errorf("%s was added to %d times", c.name(i), added)
			}
		}
		if done < atLeast || done == n {
			t.Errorf("run %d: %d of %d were done, want %d and not all", id, done, n, atLeast)
		}
	}

	first := start(1)
	c.until(first.ID, "the relay is at it", func(r run) bool { return r.Done > 2 })
	said := called(first.ID)
	if !strings.HasPrefix(said, fmt.Sprintf("Run %d is called off; PCs left alone: 0.", first.ID)) {
		t.Errorf("the command says %q", said)
	}
	end := c.until(first.ID, "it ends", func(r run) bool { return r.Ended != nil })
	if end.Cancelled == nil || end.Failed != end.Reasons["cancelled"] || end.Initialized < 3 || end.Failed == 0 {
		t.Errorf("called off: %+v", end)
	}
	c.must(site.UntilSays("the manager does not want this work any more"))
	journal := func(id int64) bool {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(site.config), "data", "initializations", fmt.Sprintf("initialize-%d-*.journal", id)))
		c.must(err)
		return len(files) == 1
	}
	eventually(t, "what it did is handed on", func() bool { return journal(first.ID) })
	settled(first.ID, 1, end.Initialized)

	// The relay is not there when the run begins, and nothing is left of it when it comes.
	site.Kill()
	second := start(n + 1)
	if said = called(second.ID); said != fmt.Sprintf("Run %d is called off and has ended; PCs left alone: %d.\n", second.ID, n) {
		t.Errorf("the command says %q", said)
	}
	if end = c.show(second.ID); end.Ended == nil || end.Reasons["cancelled"] != n || end.route(site.hostID).State != "ended" {
		t.Errorf("called off before the relay came: %+v", end)
	}
	site.serve()

	// It has no way up while it works, and the run is called off without a manager that serves.
	third := start(2*n + 1)
	c.until(third.ID, "the relay is at it", func(r run) bool { return r.Done > 2 })
	c.manager.Kill()
	if said = called(third.ID); !strings.HasPrefix(said, fmt.Sprintf("Run %d is called off; PCs left alone: 0.", third.ID)) {
		t.Errorf("the command says %q", said)
	}
	c.must(c.manager.Serve())
	end = c.until(third.ID, "it ends", func(r run) bool { return r.Ended != nil })
	if end.Reasons["cancelled"] == 0 || end.Initialized+end.Reasons["cancelled"] != n {
		t.Errorf("called off without a way up: %+v", end)
	}
	eventually(t, "what it did is handed on", func() bool { return journal(third.ID) })
	for i := n + 1; i <= 2*n; i++ {
		if d := c.seen(i); d.Connections > 0 {
			t.Errorf("%s was left alone, and there were connections: %+v", c.name(i), d)
		}
	}

	// A PC that was called off is free for another run, which finds done what is done.
	last := start(2*n + 1)
	end = c.until(last.ID, "it ends", func(r run) bool { return r.Ended != nil })
	if end.Initialized != n || end.Already == 0 {
		t.Errorf("once more: %+v", end)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(50 * time.Millisecond) { // a poll of other processes
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// PCs move between the making of a run and its carrying out, and their relay never comes: who is below another by then is done there,
// and when the relay is retired the manager does the rest.
func TestPCsOfARunMove(t *testing.T) {
	w := newWorld(t, 3)
	away, there := w.relay(5, "127.185.3.2:8740"), w.relay(6, "127.185.3.3:8740")
	var hosts []string
	pcs := []*play.PC{w.pc(1), w.pc(2), w.pc(3)}
	below := func(pc *play.PC, s *site) {
		pc.HigherSystem = w.manager.Listen
		if s != nil {
			pc.HigherSystem = s.listen
		}
		w.must(pc.Configure())
	}
	for _, pc := range pcs {
		below(pc, away)
		hosts = append(hosts, w.install(pc).HostID)
	}
	away.Kill()
	c := &company{world: w}
	ask := w.api()
	var r run
	ask(http.MethodPost, "", map[string]any{"hosts": hosts}, &r)
	if len(r.Routes) != 1 || r.route(away.hostID).Targets != 3 {
		t.Fatalf("started: %+v", r)
	}
	below(pcs[0], there)
	w.checkIn(pcs[0])
	below(pcs[1], nil)
	w.checkIn(pcs[1])
	r = c.until(r.ID, "those that moved are done", func(r run) bool { return r.Done == 2 })
	if r.route(there.hostID).Done != 1 || r.route("").Done != 1 || r.route(away.hostID).State != "waiting" || r.Reasons["own-machine"] != 2 { // as they all are: they were begun with
		t.Errorf("after two have moved: %+v", r)
	}
	out, err := w.stage.Run("samehost-manager", "initializations", "show", fmt.Sprint(r.ID), "--lang", "en", "--config", w.manager.Config)
	w.must(err)
	if !slices.ContainsFunc(strings.Split(out.Stdout, "\n"), func(l string) bool { return strings.Contains(l, " waiting 2") && strings.Contains(l, " 0/1 ") }) {
		t.Errorf("who waits cannot be seen:\n%s", out.Stdout)
	}
	_, err = w.manager.Command("retire", away.hostID)
	w.must(err)
	r = c.until(r.ID, "it ends", func(r run) bool { return r.Ended != nil })
	if r.Reasons["own-machine"] != 3 || r.route("").Done != 2 || len(r.Routes) != 2 {
		t.Errorf("in the end: %+v", r)
	}
}

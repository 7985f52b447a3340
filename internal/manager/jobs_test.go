package manager

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amtinit"
	"samehost/internal/amtsim"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// fleet are n simulated PCs from that address on.
func fleet(t *testing.T, first string, n int, faults map[int]amtsim.Faults) *amtsim.Fleet {
	t.Helper()
	f, err := amtsim.StartFleet(amtsim.FleetOptions{Devices: n, Network: netip.MustParseAddr(first), Port: 16992, Faults: faults})
	must(t, err)
	t.Cleanup(f.Close)
	return f
}

// file is a system configuration information file of PCs from that address on.
func file(first string, n int, prefix, root string) string {
	var b strings.Builder
	a := netip.MustParseAddr(first)
	for i := range n {
		fmt.Fprintf(&b, "%s %s%02d TYPE=client,ROOT=%s\n", a, prefix, i+1, root)
		a = a.Next()
	}
	return b.String()
}

func withAMT(o *Options) {
	o.AMT = func() (amtinit.Options, error) {
		return amtinit.Options{User: amtsim.DefaultUser, Password: amtsim.DefaultPassword, Port: 16992, AddressFirst: true}, nil
	}
}

func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// until watches a run until it has ended, as a console does.
func (s *server) until(id int64) Run {
	s.t.Helper()
	var run Run
	for version := int64(0); run.Ended == nil; version = run.Version {
		s.do(http.MethodGet, fmt.Sprintf("%s/%d?wait=20&version=%d", runsPath, id, version), "", 200, &run)
		if run.Version == version {
			s.t.Fatalf("nothing changes any more: %s", toJSON(run))
		}
	}
	return run
}

// The bound of an idempotency key is one number: of the API and its description, of the database, and of docs/protocol/runs.md.
func TestIdempotencyKeyBound(t *testing.T) {
	t.Parallel()
	s := serving(t)
	doc, err := os.ReadFile("../../docs/protocol/runs.md")
	must(t, err)
	if !strings.Contains(string(doc), fmt.Sprintf("`Idempotency-Key` (%d bytes)", registry.MaxKey)) {
		t.Errorf("runs.md does not say that an idempotency key has %d bytes at most", registry.MaxKey)
	}
	for key, says := range map[string]string{
		strings.Repeat("k", registry.MaxKey):     "no PC is to be initialized",
		strings.Repeat("k", registry.MaxKey+1):   fmt.Sprintf(`expected length \u003c= %d`, registry.MaxKey),
		strings.Repeat("é", registry.MaxKey/2+1): fmt.Sprintf("the idempotency key is longer than %d bytes", registry.MaxKey),
	} {
		if a := s.request(Administrator, s.admin, http.MethodPost, runsPath, `{"not_initialized": true}`, "Idempotency-Key", key); a.status != 422 || !strings.Contains(string(a.body), says) {
			t.Errorf("a key of %d bytes: %d %s; want %q", len(key), a.status, a.body, says)
		}
	}
}

func TestRunFromTheManager(t *testing.T) {
	t.Parallel()
	s := serving(t, withAMT)
	s.secret = append(s.secret, amtsim.DefaultPassword)
	const first, n = "127.158.1.1", 24
	devices := fleet(t, first, n, map[int]amtsim.Faults{12: {Refuse: true}, 13: {Refuse: true}, 14: {Password: "other"}, 15: {FullEACL: true}})

	var run StartedRun
	request := toJSON(NewRun{File: file(first, n, "pc", `\`), Name: "NETM.NDD"})
	s.do(http.MethodPost, runsPath, strings.Replace(request, "{", `{"dry_run": true, `, 1), 202, &run)
	dry := s.until(run.ID)
	want := registry.RunCounts{Targets: n, Done: n, Initialized: n - 4, Failed: 4, Reasons: map[string]int{"nothing-answers": 2, "log-on-refused": 1, "eacl-full": 1}}
	if d := cmp.Diff(want, dry.RunCounts); d != "" {
		t.Errorf("dry run (-want +got):\n%s", d)
	}
	for i, d := range devices.Devices {
		if e := d.Snapshot().Enterprises; len(e) > 0 && i != 14 {
			t.Fatalf("a dry run left %v on device %d", e, i+1)
		}
	}

	a := s.request(Administrator, s.admin, http.MethodPost, runsPath, request, "Idempotency-Key", "monday")
	a.decode(t, &run)
	if a.status != 202 || run.Again {
		t.Fatalf("%d %s", a.status, a.body)
	}
	var again StartedRun
	s.request(Administrator, s.admin, http.MethodPost, runsPath, request, "Idempotency-Key", "monday").decode(t, &again)
	if !again.Again || again.ID != run.ID {
		t.Errorf("the same request is run %d, not %d", again.ID, run.ID)
	}
	s.problem(s.request(Administrator, s.admin, http.MethodPost, runsPath, `{"not_initialized": true}`, "Idempotency-Key", "monday"), 422, "this idempotency key was used for another request")

	real := s.until(run.ID)
	if d := cmp.Diff(want, real.RunCounts); d != "" {
		t.Errorf("run (-want +got):\n%s", d)
	}
	if len(real.Routes) != 1 || real.Routes[0].Route != `\` || real.Routes[0].State != "ended" || real.Routes[0].Relay != "" {
		t.Errorf("routes: %s", toJSON(real.Routes))
	}
	wantTable := []RunReason{
		{"nothing-answers", 2, "SHAM1002-E", "", "", []string{"pc12", "pc13"}},
		{"log-on-refused", 1, "SHAM1010-E", "", "", []string{"pc14"}},
		{"eacl-full", 1, "SHAM1017-E", "", "", []string{"pc15"}},
	}
	for i := range real.Table {
		if real.Table[i].Cause == "" || real.Table[i].Remedy == "" {
			t.Errorf("%s has no words", real.Table[i].Reason)
		}
		real.Table[i].Cause, real.Table[i].Remedy = "", ""
	}
	if d := cmp.Diff(wantTable, real.Table); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
	for i, d := range devices.Devices {
		if e := d.Snapshot().Enterprises; i < 11 && len(e) != 1 {
			t.Errorf("device %d has the enterprises %v", i+1, e)
		}
	}
	var page RunTargetPage
	s.do(http.MethodGet, fmt.Sprintf("%s/%d/targets?outcome=nothing-answers", runsPath, run.ID), "", 200, &page)
	if len(page.Targets) != 2 || page.Targets[0].Number != 12 || page.Targets[0].Result.MessageID != "SHAM1002-E" || page.Targets[0].Route != `\` {
		t.Errorf("targets: %s", toJSON(page))
	}
	s.do(http.MethodGet, fmt.Sprintf("%s/%d/targets?limit=5&after=20", runsPath, run.ID), "", 200, &page)
	if len(page.Targets) != 4 || page.Next != 0 || page.Targets[0].Host != "pc21" || page.Targets[0].Outcome != "initialized" {
		t.Errorf("targets: %s", toJSON(page))
	}

	// What failed, once more: one was mended.
	devices.Devices[13].SetFaults(amtsim.Faults{})
	s.do(http.MethodPost, runsPath, strings.Replace(request, "{", `{"retry_failed": true, `, 1), 202, &run)
	if got := s.until(run.ID).RunCounts; got.Targets != 4 || got.Initialized != 1 || got.Failed != 3 {
		t.Errorf("what failed: %+v", got)
	}

	var list RunPage
	s.do(http.MethodGet, runsPath+"?limit=2", "", 200, &list)
	if len(list.Runs) != 2 || list.Runs[0].ID != run.ID || list.Next != list.Runs[1].ID {
		t.Errorf("list: %s", toJSON(list))
	}
	for body, detail := range map[string]string{
		`{}`: "name not_initialized, hosts or file",
		`{"hosts": ["a"], "not_initialized": true}`:       "one of them only",
		`{"file": "192.0.2.1 pc1 TYPE=nonsense\n"}`:       "line 1",
		`{"not_initialized": true}`:                       "",
		`{"hosts": ["0123456789abcdef0123456789abcdef"]}`: "unknown",
	} {
		a := s.request(Administrator, s.admin, http.MethodPost, runsPath, body)
		if a.status != 422 && a.status != 404 && a.status != 202 || !strings.Contains(a.body, detail) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	s.problem(s.request(Administrator, s.admin, http.MethodGet, runsPath+"/99", ""), 404, "run 99")
	s.problem(s.request(Administrator, s.admin, http.MethodPost, fmt.Sprintf("%s/%d/cancel", runsPath, run.ID), ""), 409, "has ended")
}

// A run is called off while its PCs keep it waiting.
func TestRunIsCalledOff(t *testing.T) {
	t.Parallel()
	s := serving(t, withAMT)
	s.secret = append(s.secret, amtsim.DefaultPassword)
	const first, n = "127.158.2.1", 12
	fleet(t, first, n, map[int]amtsim.Faults{1: {LatencyMS: 500}})
	var one, two StartedRun
	s.do(http.MethodPost, runsPath, toJSON(NewRun{File: file(first, n, "pc", `\`), Parallel: 1}), 202, &one)
	s.do(http.MethodPost, runsPath, toJSON(NewRun{Hosts: []string{"pc12", "pc13"}}), 202, &two)
	s.do(http.MethodPost, fmt.Sprintf("%s/%d/cancel", runsPath, one.ID), "", 200, nil)
	run := s.until(one.ID)
	if run.Cancelled == nil || run.CancelledBy != Administrator || run.Reasons["cancelled"] < n-2 || run.Done != n || run.Initialized+run.Failed != n {
		t.Errorf("called off: %s", toJSON(run))
	}
	run = s.until(two.ID)
	if run.Targets != 2 || run.Reasons["under-way"] != 1 || run.Failed != 2 {
		t.Errorf("a PC that another run has: %s", toJSON(run))
	}
	var page RunTargetPage
	s.do(http.MethodGet, fmt.Sprintf("%s/%d/targets?outcome=under-way", runsPath, two.ID), "", 200, &page)
	if len(page.Targets) != 1 || page.Targets[0].Host != "pc12" || page.Targets[0].Result.Detail != fmt.Sprintf("run %d", one.ID) || page.Targets[0].Result.MessageID != "SHAM1102-W" && page.Targets[0].Outcome != "under-way" {
		t.Errorf("targets: %s", toJSON(page))
	}
	for _, u := range unmatched(t, s.reg) {
		if u.Initialization.Reason == "cancelled" || u.Initialization.Reason == "under-way" {
			t.Errorf("nobody was at %s, and it counts as tried: %s", u.Name, toJSON(u))
		}
	}
}

func unmatched(t *testing.T, reg *registry.Registry) []registry.Unmatched {
	t.Helper()
	all, err := reg.Unmatched(t.Context())
	must(t, err)
	return all
}

func TestRunWithoutAMT(t *testing.T) {
	t.Parallel()
	s := serving(t, func(o *Options) {
		o.AMT = func() (amtinit.Options, error) { return amtinit.Options{}, errors.New("no [amt] table") }
	})
	var run StartedRun
	s.do(http.MethodPost, runsPath, toJSON(NewRun{Hosts: []string{"pc1", "pc2"}}), 202, &run)
	got := s.until(run.ID)
	if got.Reasons["manager-without-amt"] != 2 || got.Done != 2 {
		t.Errorf("%s", toJSON(got))
	}
	var page RunTargetPage
	s.do(http.MethodGet, fmt.Sprintf("%s/%d/targets", runsPath, run.ID), "", 200, &page)
	if r := page.Targets[0].Result; r.Detail != "no [amt] table" || r.MessageID != "SHAM1103-E" {
		t.Errorf("%s", toJSON(page))
	}
}

// admitted is a relay whose way up the test is.
type admitted struct {
	seed hostid.Seed
	id   hostid.ID
}

func admit(t *testing.T, reg *registry.Registry, name string) admitted {
	t.Helper()
	made, err := MakeRelayToken(t.Context(), reg, nil, time.Time{}, "", "")
	must(t, err)
	token, err := checkin.ParseToken(made.Token)
	must(t, err)
	r := admitted{hostid.NewSeed(), hostid.NewID()}
	report := checkin.Report{Audience: token.Manager, HostID: r.id, SealKey: r.seed.SealingKey().PublicKey().Bytes(), Counter: 1,
		Epoch: checkin.NewToken(), Run: checkin.NewToken(), EpochBy: checkin.EpochInstall, Origin: hostid.Generated, Names: checkin.Names{Host: name}}
	signed, err := checkin.Sign(report, r.seed.SigningKey(), &token)
	must(t, err)
	_, err = reg.CheckIn(t.Context(), signed)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	request, err := checkin.SignCertificateRequest(checkin.CertificateRequest{Audience: token.Manager, HostID: r.id, CSR: csr}, r.seed.SigningKey(), &token)
	must(t, err)
	v, err := checkin.VerifyCertificateRequest(request)
	must(t, err)
	_, err = reg.AdmitRelay(t.Context(), v)
	must(t, err)
	return r
}

// says is what the relay says of a work, signed.
func (r admitted) says(t *testing.T, work string, sequence uint64, done bool, p amtinit.PartProgress) string {
	t.Helper()
	jws, err := checkin.SignProgress(checkin.Progress{Work: work, From: r.id, Sequence: sequence, Done: done, Body: json.RawMessage(toJSON(p))}, r.seed.SigningKey())
	must(t, err)
	return jws
}

// work waits for the first work that is there for the relay.
func (r admitted) work(t *testing.T, reg *registry.Registry, manager checkin.Fingerprint) checkin.Work {
	t.Helper()
	a, err := waitForWork(t.Context(), t.Context(), reg, r.id, checkin.WorkQuery{Relays: []hostid.ID{r.id}})
	must(t, err)
	if len(a.Work) != 1 {
		t.Fatalf("%d works for the relay", len(a.Work))
	}
	w, err := checkin.VerifyWork(a.Work[0], manager)
	must(t, err)
	return w
}

// watched waits until what is told of a run holds.
func watched(t *testing.T, reg *registry.Registry, id int64, what string, holds func(registry.RunState) bool) registry.RunState {
	t.Helper()
	for version := int64(0); ; {
		s, err := WatchRun(t.Context(), reg, id, version, maxWatch)
		must(t, err)
		if holds(s) {
			return s
		}
		if s.Version == version {
			t.Fatalf("in vain: %s: %s", what, toJSON(s))
		}
		version = s.Version
	}
}

// A relay that has begun with its part and is retired then: what it did stays done, and the manager does the rest.
func TestRelayIsRetiredInARun(t *testing.T) {
	t.Parallel()
	dir, made := initialized(t)
	reg, err := OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	defer reg.Close()
	client, err := checkin.ParseToken(made.Token)
	must(t, err)
	relay := admit(t, reg, "site")
	const first, n = "127.158.3.1", 3
	devices := fleet(t, first, n, nil)
	var o Options
	withAMT(&o)
	r := &runner{reg: reg, amt: o.AMT, reroute: 10 * time.Millisecond, log: slog.New(slog.DiscardHandler)}
	jobs, err := reg.StartJobs(t.Context(), true, r.log, r.work)
	must(t, err)
	defer jobs.Close()
	run, err := StartRun(t.Context(), reg, NewRun{File: file(first, n, "pc", `\site`)}, "", "alice", registry.English)
	must(t, err)
	if len(run.Routes) != 1 || run.Routes[0].Relay != relay.id.String() {
		t.Fatalf("started: %s", toJSON(run))
	}
	w := relay.work(t, reg, client.Manager)
	must(t, reg.TakeProgress(t.Context(), relay.says(t, w.ID, 1, false, amtinit.PartProgress{})))
	must(t, reg.TakeProgress(t.Context(), relay.says(t, w.ID, 2, false, amtinit.PartProgress{Machine: "site",
		Results: []amtinit.JournalTarget{{Host: "pc01", Number: 1, Finished: time.Now(), OK: true, Done: []string{"allocation-added"}}}})))
	watched(t, reg, run.ID, "the relay has done one PC", func(s registry.RunState) bool { return s.Routes[0].State == "running" && s.Done == 1 })

	_, err = reg.Retire(t.Context(), relay.id, registry.Actor{Who: "alice"})
	must(t, err)
	s := watched(t, reg, run.ID, "the run ends", func(s registry.RunState) bool { return s.Ended != nil })
	if s.Initialized != n || len(s.Routes) != 2 || s.Routes[0].Route != `\` || s.Routes[0].Done != n-1 || s.Routes[1].Done != 1 {
		t.Errorf("in the end: %s", toJSON(s))
	}
	var refusal *checkin.Refusal
	if err := reg.TakeProgress(t.Context(), relay.says(t, w.ID, 3, true, amtinit.PartProgress{})); !errors.As(err, &refusal) || refusal.Code != checkin.UnknownWork {
		t.Errorf("what the relay says after that: %v", err)
	}
	for i, d := range devices.Devices {
		if added := d.Snapshot().Calls["AddStorageEaclEntry"]; added != uint64(min(i, 1)) {
			t.Errorf("PC %d was added to %d times", i+1, added)
		}
	}
}

// What a relay did of work that was called off comes with what dcmamtin did there, and is the run's.
func TestWhatARelayDidOfWorkThatWasCalledOff(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	reg, err := OpenRegistry(t.Context(), dir, database(dir))
	must(t, err)
	defer reg.Close()
	relay := admit(t, reg, "site")
	failed := func(name string) amtinit.JournalLine {
		return amtinit.JournalLine{Target: &amtinit.JournalTarget{Host: name, Finished: time.Now(), Reason: amtinit.NothingAnswers, Step: amtinit.Connect}}
	}
	part := amtinit.JournalPart{Lines: []amtinit.JournalLine{
		{Run: &amtinit.JournalRun{Format: 1, Mode: "all", Started: time.Now(), Program: "samehost-relay", Source: "initialize-7-12-1", By: "root", Machine: "site"}}, failed("alpha"),
		{Run: &amtinit.JournalRun{Format: 1, Mode: "all", Started: time.Now(), Program: "dcmamtin", Source: "/initialize-7.NDD", By: "bob", Machine: "site"}}, failed("beta")}}
	jws, err := checkin.SignProgress(checkin.Progress{Work: journalsOf(relay.id) + "0123456789abcdef", From: relay.id, Sequence: 1, Body: json.RawMessage(toJSON(part))}, relay.seed.SigningKey())
	must(t, err)
	must(t, takeProgress(t.Context(), reg, jws, slog.New(slog.DiscardHandler)))
	var got []string
	for _, u := range unmatched(t, reg) {
		got = append(got, u.Name+" "+u.Initialization.Source+" "+u.Initialization.By)
	}
	if d := cmp.Diff([]string{"alpha run 7 root", "beta /initialize-7.NDD bob"}, got); d != "" {
		t.Errorf("attempts (-want +got):\n%s", d)
	}
}

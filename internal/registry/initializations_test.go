package registry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A journal is one whose attempts are taken as soon as they are written.
type journal struct {
	m  *manager
	at Position
}

func newJournal(m *manager, name string) *journal {
	return &journal{m: m, at: Position{Name: name, Head: "head of " + name, Run: Run{By: "admin", Machine: "mgr", Source: "/NETM.NDD"}}}
}

func (j *journal) take(attempts ...Initialization) {
	j.m.t.Helper()
	to := j.at
	to.Offset += int64(len(attempts))
	for i := range attempts {
		attempts[i].By, attempts[i].Machine, attempts[i].Source = to.Run.By, to.Run.Machine, to.Run.Source
	}
	dropped, err := j.m.Initializations(j.m.t.Context(), j.at, to, attempts)
	must(j.m.t, err)
	expect(j.m.t, "dropped", dropped, 0)
	j.at = to
}

func (m *manager) done(host, uuid string) Initialization {
	m.pass(time.Second)
	return Initialization{Host: host, Address: "192.0.2.1", SystemUUID: uuid, Finished: m.clock(), OK: true, Done: []string{"allocation-added"}}
}

func (m *manager) failed(host, uuid string) Initialization {
	m.pass(time.Second)
	return Initialization{Host: host, Address: "192.0.2.1", SystemUUID: uuid, Finished: m.clock(), Reason: "log-on-refused",
		MessageID: "SHAM1010-E", Cause: Text{"The device refuses.", "拒否しました。"}, Step: "initialize"}
}

// unmatched are the PCs that no asset could be told for, as "NAME STATE".
func (m *manager) unmatched() (list []string) {
	m.t.Helper()
	all, err := m.Unmatched(m.t.Context())
	must(m.t, err)
	for _, u := range all {
		if u.HostID != "" || u.HostIDs == nil || u.LastCheckin != nil || u.Initialized {
			m.t.Errorf("%+v: says more of a PC than is known", u)
		}
		list = append(list, u.Name+" "+string(u.State))
	}
	return list
}

// last says of the asset's last attempt by what it was told and what became of it; "" for none.
func (m *manager) last(p *pc) string {
	m.t.Helper()
	i := m.asset(p.report.HostID).Initialization
	switch {
	case i == nil:
		return ""
	case i.OK:
		return string(i.Matched) + " ok"
	}
	return string(i.Matched) + " " + i.Reason
}

// says lets the client say how its memory stands; "" for nothing.
func (p *pc) says(state hostid.State) *pc {
	p.report.Stores = []checkin.StoreState{{Name: "file", State: "stored"}}
	if state != "" {
		p.report.Stores = append(p.report.Stores, checkin.StoreState{Name: "amt", State: string(state)})
	}
	return p
}

func (m *manager) initialized(p *pc) string {
	m.t.Helper()
	switch yes := m.asset(p.report.HostID).Initialized; {
	case yes == nil:
		return "unknown"
	case *yes:
		return "yes"
	}
	return "no"
}

func TestAttemptBeforeEnrolment(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	j := newJournal(m, "one")
	alpha, beta := newPC(m, "alpha").says(""), newPC(m, "beta").says("")
	j.take(m.failed("ALPHA", ""), m.failed("alpha.example.com.", alpha.report.Facts.SystemUUID), m.done("beta", beta.report.Facts.SystemUUID), m.failed("gamma", ""))
	expect(t, "not checked in", m.unmatched(), []string{"ALPHA unknown", "alpha.example.com. unknown", "gamma unknown"})

	alpha.checkIn()
	expect(t, "alpha's last", m.last(alpha), "uuid log-on-refused")
	expect(t, "initialized", m.initialized(alpha), "no")
	expect(t, "events", m.kinds(alpha.report.HostID), []string{"token-used", "enrolled", "initialization-failed", "initialization-failed"})
	expect(t, "not checked in", m.unmatched(), []string{"gamma unknown"})

	beta.report.Names.Host = "renamed"
	beta.checkIn()
	expect(t, "beta's last", m.last(beta), "uuid ok")
	expect(t, "initialized", m.initialized(beta), "yes")
	expect(t, "events", m.kinds(beta.report.HostID), []string{"token-used", "enrolled", "initialized"})

	events, err := m.HistoryOf(t.Context(), alpha.report.HostID)
	must(t, err)
	expect(t, "sentence", events[2].Sentence(English), "admin on mgr could not initialize the memory of ALPHA (2026-04-01T09:00:01Z): SHAM1010-E The device refuses.")
	expect(t, "sentence", events[2].Sentence(Japanese), "mgr の admin による ALPHA のメモリの初期設定は失敗しました (2026-04-01T09:00:01Z): SHAM1010-E 拒否しました。")
	alpha.checkIn()
	expect(t, "events", len(m.kinds(alpha.report.HostID)), 4)
}

func TestAttemptAfterEnrolment(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha").says("")
	p.checkIn()
	expect(t, "last", m.last(p), "")
	expect(t, "initialized", m.initialized(p), "unknown")
	j := newJournal(m, "one")
	j.take(m.failed("alpha", ""))
	expect(t, "last", m.last(p), "name log-on-refused")
	j.take(m.done("alpha", p.report.Facts.SystemUUID))
	expect(t, "last", m.last(p), "uuid ok")
	i := *m.asset(p.report.HostID).Initialization
	expect(t, "attempt", i, Initialization{Host: "alpha", Address: "192.0.2.1", SystemUUID: p.report.Facts.SystemUUID, Finished: testEpoch.Add(2 * time.Second),
		By: "admin", Machine: "mgr", Source: "/NETM.NDD", OK: true, Done: []string{"allocation-added"}, Matched: ByUUID})
	expect(t, "not checked in", m.unmatched(), nil)

	// What finished earlier and comes later, as from another journal, is not the last.
	late := m.failed("alpha", "")
	late.Finished = testEpoch
	newJournal(m, "two").take(late)
	expect(t, "last", m.last(p), "uuid ok")
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "initialization-failed", "initialized", "initialization-failed"})
}

// An attempt counts once, however often its journal is read and under whatever name.
func TestAttemptsTakenTwice(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	j := newJournal(m, "one")
	before := j.at
	attempts := []Initialization{m.failed("alpha", ""), m.done("alpha", "")}
	j.take(attempts...)
	if _, err := m.Initializations(t.Context(), before, j.at, attempts); !errors.Is(err, ErrTaken) {
		t.Errorf("from where the journal is not any more: got %v, want ErrTaken", err)
	}
	newJournal(m, "copy").take(attempts...)
	again := j.at
	again.Offset = 0
	_, err := m.Initializations(t.Context(), j.at, again, attempts)
	must(t, err)
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "initialization-failed", "initialized"})
	at, err := m.Positions(t.Context())
	must(t, err)
	expect(t, "position", at["one"], again)
}

func TestAttemptsByTwoImporters(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	second, err := Open(t.Context(), m.dsn, Options{Now: m.clock})
	must(t, err)
	defer second.Close()
	var attempts []Initialization
	for range 8 {
		attempts = append(attempts, m.failed("alpha", ""))
	}
	var wg sync.WaitGroup
	for _, reg := range []*Registry{m.Registry, second, m.Registry, second} {
		wg.Go(func() {
			at := newJournal(m, "one").at
			for n := 0; n < len(attempts); {
				to := at
				to.Offset++
				_, err := reg.Initializations(t.Context(), at, to, attempts[n:n+1])
				if err != nil && !errors.Is(err, ErrTaken) {
					t.Error(err)
					return
				}
				at, n = to, n+1
			}
		})
	}
	wg.Wait()
	expect(t, "events", len(m.kinds(p.report.HostID)), 2+len(attempts))
}

// The client's word and the last attempt: the later one counts, but a failure takes no yes back.
func TestInitialized(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		client  hostid.State
		attempt string // "" for none; "before" it comes before the client's report
		want    string
	}{
		{"", "", "unknown"}, {hostid.Empty, "", "yes"}, {hostid.NotInitialized, "", "no"},
		{"", "ok before", "yes"}, {"", "failed before", "no"}, {"", "ok", "yes"}, {"", "failed", "no"},
		{hostid.Empty, "ok before", "yes"}, {hostid.Empty, "failed before", "yes"}, {hostid.Empty, "ok", "yes"}, {hostid.Empty, "failed", "yes"},
		{hostid.NotInitialized, "ok before", "no"}, {hostid.NotInitialized, "failed before", "no"},
		{hostid.NotInitialized, "ok", "yes"}, {hostid.NotInitialized, "failed", "no"},
	} {
		t.Run(string(tt.client)+" "+tt.attempt, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			p := newPC(m, "alpha").says(tt.client)
			what, before, _ := strings.Cut(tt.attempt, " ")
			attempt := func() {
				switch what {
				case "ok":
					newJournal(m, "one").take(m.done("alpha", ""))
				case "failed":
					newJournal(m, "one").take(m.failed("alpha", ""))
				}
				m.pass(time.Second)
			}
			if before != "" {
				attempt()
			}
			p.checkIn()
			if before == "" {
				attempt()
			}
			expect(t, "initialized", m.initialized(p), tt.want)
		})
	}
}

func TestClockOfTheAttemptIsAhead(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha").says(hostid.NotInitialized)
	p.checkIn()
	ahead := m.done("alpha", "")
	ahead.Finished = testEpoch.AddDate(50, 0, 0)
	newJournal(m, "one").take(ahead)
	expect(t, "initialized", m.initialized(p), "yes")
	m.pass(time.Minute)
	p.checkIn()
	expect(t, "initialized", m.initialized(p), "no")
	newJournal(m, "two").take(m.failed("alpha", ""))
	expect(t, "last", m.last(p), "name log-on-refused")
}

const placeholderUUID = "03000200-0400-0500-0006-000700080009"

func TestMatching(t *testing.T) {
	t.Parallel()
	uuid := func(name string) string { return board(name).SystemUUID }
	type known struct{ host, fqdn, uuid string }
	for name, tt := range map[string]struct {
		known []known
		host  string
		uuid  string
		want  string // as pc.last of the asset, after its index; or the state of what is not matched
	}{
		"UUID":                            {[]known{{"a", "", uuid("a")}, {"b", "", uuid("b")}}, "b", uuid("b"), "1 uuid"},
		"UUID against the name":           {[]known{{"a", "", uuid("a")}, {"b", "", uuid("b")}}, "a", uuid("b"), "1 uuid"},
		"UUID without a name":             {[]known{{"a", "", uuid("a")}, {"b", "", uuid("b")}}, "", uuid("b"), "1 uuid"},
		"name, no UUID met":               {[]known{{"a", "", uuid("a")}, {"b", "", uuid("b")}}, "B", "", "1 name"},
		"name, placeholder met":           {[]known{{"a", "", uuid("a")}, {"b", "", uuid("b")}}, "b", placeholderUUID, "1 name"},
		"name, placeholder known":         {[]known{{"a", "", uuid("a")}, {"b", "", placeholderUUID}}, "b", uuid("b"), "1 name"},
		"name, another UUID known":        {[]known{{"a", "", uuid("a")}, {"b", "", uuid("c")}}, "b", uuid("b"), "unknown"},
		"two have the name":               {[]known{{"a", "", uuid("a")}, {"a", "", uuid("b")}}, "a", "", "ambiguous"},
		"two have the name, one the UUID": {[]known{{"a", "", uuid("a")}, {"a", "", uuid("b")}}, "a", uuid("b"), "1 uuid"},
		"two have the name, one may":      {[]known{{"a", "", uuid("a")}, {"a", "", ""}}, "a", uuid("b"), "ambiguous"},
		"two have the UUID":               {[]known{{"a", "", uuid("x")}, {"b", "", uuid("x")}}, "b", uuid("x"), "1 name"},
		"two have UUID and name":          {[]known{{"a", "", uuid("x")}, {"a", "", uuid("x")}}, "a", uuid("x"), "ambiguous"},
		"two have the UUID, no name met":  {[]known{{"a", "", uuid("x")}, {"b", "", uuid("x")}}, "", uuid("x"), "ambiguous"},
		"two have the UUID, a third is":   {[]known{{"a", "", uuid("x")}, {"b", "", uuid("x")}, {"c", "", uuid("c")}}, "c", uuid("x"), "unknown"},
		"full name met, short known":      {[]known{{"a", "", uuid("a")}}, "a.example.com", "", "0 name"},
		"short name met, full known":      {[]known{{"a", "a.example.com", uuid("a")}}, "a", "", "0 name"},
		"full names equal":                {[]known{{"a", "a.one.example", uuid("a")}, {"a", "a.two.example", uuid("b")}}, "A.Two.Example.", "", "1 name"},
		"full names differ":               {[]known{{"a", "a.one.example", uuid("a")}}, "a.two.example", "", "unknown"},
		"short name, two domains":         {[]known{{"a", "a.one.example", uuid("a")}, {"a", "a.two.example", uuid("b")}}, "a", "", "ambiguous"},
		"full name, one short":            {[]known{{"a", "a.one.example", uuid("a")}, {"a", "", uuid("b")}}, "a.one.example", "", "ambiguous"},
		"an address is no name":           {[]known{{"192.0.2.9", "", uuid("a")}}, "192.0.2.9", "", "unknown"},
		"localhost is no name":            {[]known{{"localhost", "localhost.localdomain", uuid("a")}}, "localhost", "", "unknown"},
		"full-width letters":              {[]known{{"ＰＣ営業", "", uuid("a")}}, "ｐｃ営業", "", "0 name"},
	} {
		for _, first := range []string{"attempt first", "check-ins first"} {
			// Which comes first decides only while nothing but one of two is known: see TestMoves.
			if first == "attempt first" && len(tt.known) > 1 && strings.HasPrefix(name, "two have") || name == "short name, two domains" || name == "full name, one short" {
				continue
			}
			t.Run(name+"/"+first, func(t *testing.T) {
				t.Parallel()
				m := newManager(t)
				take := func() { newJournal(m, "one").take(m.failed(tt.host, tt.uuid)) }
				if first == "attempt first" {
					take()
				}
				var pcs []*pc
				for i, k := range tt.known {
					p := newPC(m, fmt.Sprint("board", i)).says("")
					p.report.Names = checkin.Names{Host: k.host, FQDN: k.fqdn}
					p.report.Facts.SystemUUID = k.uuid
					p.checkIn()
					pcs = append(pcs, p)
				}
				if first != "attempt first" {
					take()
				}
				got := strings.Join(m.unmatched(), ",")
				_, got, _ = strings.Cut(got, " ")
				for i, p := range pcs {
					if how, _, ok := strings.Cut(m.last(p), " "); ok {
						got += fmt.Sprint(i, " ", how)
					}
				}
				expect(t, "told", got, tt.want)
			})
		}
	}
}

// A name told it; then the UUID shows that it was another.
func TestMovesToTheUUID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a, b := newPC(m, "alpha").says(""), newPC(m, "beta").says("")
	uuid := b.report.Facts.SystemUUID
	a.report.Facts.SystemUUID = ""
	a.checkIn()
	newJournal(m, "one").take(m.done("alpha", uuid))
	expect(t, "alpha's", m.last(a), "name ok")
	b.checkIn()
	expect(t, "alpha's", m.last(a), "")
	expect(t, "beta's", m.last(b), "uuid ok")
	expect(t, "alpha's events", m.kinds(a.report.HostID), []string{"token-used", "enrolled", "initialized", "initialization-moved"})
	expect(t, "beta's events", m.kinds(b.report.HostID), []string{"token-used", "enrolled", "initialized"})
	expect(t, "initialized", m.initialized(a), "unknown")
}

// A name told it; then the asset says that its UUID is another.
func TestWithdrawn(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a := newPC(m, "alpha").says("")
	uuid := a.report.Facts.SystemUUID
	a.report.Facts.SystemUUID = ""
	a.checkIn()
	newJournal(m, "one").take(m.failed("alpha", board("other").SystemUUID))
	expect(t, "last", m.last(a), "name log-on-refused")
	a.report.Facts.SystemUUID = uuid
	a.checkIn()
	expect(t, "last", m.last(a), "")
	expect(t, "not told", m.unmatched(), []string{"alpha unknown"})
	expect(t, "events", m.kinds(a.report.HostID), []string{"token-used", "enrolled", "initialization-failed", "facts", "initialization-withdrawn"})
}

// A whole model shares a UUID, and the wrong one checked in first.
func TestSharedUUID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	shared := board("x").SystemUUID
	a, b := newPC(m, "alpha").says(""), newPC(m, "beta").says("")
	a.report.Facts.SystemUUID, b.report.Facts.SystemUUID = shared, shared
	a.checkIn()
	newJournal(m, "one").take(m.done("beta", shared))
	expect(t, "alpha's", m.last(a), "uuid ok")
	b.checkIn()
	expect(t, "alpha's", m.last(a), "")
	expect(t, "beta's", m.last(b), "name ok")

	// One run that meets it under two names at two addresses says so by itself.
	m = newManager(t)
	a, b = newPC(m, "alpha").says(""), newPC(m, "beta").says("")
	a.report.Facts.SystemUUID, b.report.Facts.SystemUUID = shared, shared
	a.checkIn()
	j := newJournal(m, "one")
	j.take(m.failed("beta", shared))
	expect(t, "alpha's", m.last(a), "uuid log-on-refused")
	second := m.failed("alpha", shared)
	second.Address = "192.0.2.2"
	j.take(second)
	expect(t, "alpha's", m.last(a), "name log-on-refused")
	expect(t, "not told", m.unmatched(), []string{"beta unknown"})
	b.checkIn()
	expect(t, "beta's", m.last(b), "name log-on-refused")
	expect(t, "not told", m.unmatched(), nil)
}

// Its UUID came to stand for two assets, and the name for both: what hung on one stays, except where the name tells it apart.
func TestStaysWithItsName(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ met, want string }{
		"the same name":   {"alpha", "uuid ok"},
		"with its domain": {"alpha.one.example", "uuid ok"},
		"another domain":  {"alpha.two.example", ""},
		"no name":         {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			a, b := newPC(m, "alpha").says(""), newPC(m, "beta").says("")
			a.report.Names.FQDN = "alpha.one.example"
			b.report.Names, b.report.Facts.SystemUUID = a.report.Names, a.report.Facts.SystemUUID
			a.checkIn()
			newJournal(m, "one").take(m.done(tt.met, a.report.Facts.SystemUUID))
			expect(t, "before", m.last(a), "uuid ok")
			b.checkIn()
			expect(t, "the first one's", m.last(a), tt.want)
			expect(t, "the second one's", m.last(b), "")
		})
	}
}

// A PC that came back without its host ID is two assets until proof comes; what could not be told between them is then.
func TestToldWhenMerged(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old := newPC(m, "alpha").says("")
	old.checkIn()
	m.pass(3 * DefaultInterval)
	p := old.clone()
	p.seed, p.report.HostID, p.enrol = hostid.NewSeed(), hostid.NewID(), &m.token
	p.begin(checkin.EpochInstall)
	p.checkIn()
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
	newJournal(m, "one").take(m.failed("alpha", p.report.Facts.SystemUUID))
	expect(t, "not told", m.unmatched(), []string{"alpha ambiguous"})

	jws, err := checkin.SignReplacement(checkin.Replacement{Old: old.report.HostID, New: p.report.HostID,
		NewKey: p.seed.SigningKey().Public().(ed25519.PublicKey), Audience: m.audience}, old.seed.SigningKey())
	must(t, err)
	p.report.Replaced = []string{jws}
	m.pass(3 * DefaultInterval)
	p.checkIn()
	expect(t, "assets", m.assetCount(), 1)
	expect(t, "not told", m.unmatched(), nil)
	expect(t, "last", m.last(p), "uuid log-on-refused")
}

// A name that changed hands later says nothing about the time of the attempt.
func TestNameChangesHands(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a, b := newPC(m, "alpha").says(""), newPC(m, "beta").says("")
	a.checkIn()
	newJournal(m, "one").take(m.done("alpha", ""))
	a.report.Names.Host = "former"
	a.checkIn()
	b.report.Names.Host = "alpha"
	b.checkIn()
	expect(t, "the former's", m.last(a), "name ok")
	expect(t, "the new one's", m.last(b), "")
	newJournal(m, "two").take(m.failed("alpha", ""))
	expect(t, "the new one's", m.last(b), "name log-on-refused")
}

// A later attempt for the same PC makes up for an earlier one, also while no asset is known.
func TestUnmatchedIsTheLast(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	j := newJournal(m, "one")
	at := func(i Initialization, address string) Initialization { i.Address = address; return i }
	j.take(m.failed("alpha", ""), at(m.failed("", ""), "192.0.2.2"), at(m.failed("", ""), "192.0.2.3"), m.failed("beta", board("beta").SystemUUID))
	expect(t, "not checked in", m.unmatched(), []string{"192.0.2.2 unknown", "192.0.2.3 unknown", "alpha unknown", "beta unknown"})
	j.take(m.done("alpha", board("alpha").SystemUUID), at(m.done("gamma", ""), "192.0.2.2"), at(m.done("", board("beta").SystemUUID), "192.0.2.9"))
	expect(t, "not checked in", m.unmatched(), []string{"192.0.2.3 unknown"})
	j.take(m.failed("alpha", ""))
	expect(t, "not checked in", m.unmatched(), []string{"192.0.2.3 unknown", "alpha unknown"})
}

// What a journal may make the registry store is bounded, and it keeps no PC from checking in.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	j := newJournal(m, "one")
	var many []Initialization
	for range 3 * maxAttemptEvents {
		i := m.failed("alpha", "")
		i.Detail, i.By = strings.Repeat("語", 5000), strings.Repeat("x", 5000)
		i.Done = make([]string, 1000)
		many = append(many, i)
	}
	j.take(many...)
	expect(t, "events", len(m.kinds(p.report.HostID)), 2+maxAttemptEvents)
	var kept int
	must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM initializations`).Scan(&kept))
	expect(t, "kept", kept, keepAttempts)
	i := m.asset(p.report.HostID).Initialization
	expect(t, "the last", i.Finished, many[len(many)-1].Finished)
	expect(t, "detail", i.Detail, strings.Repeat("語", 333))
	p.checkIn()

	j.take(m.failed("x1", ""), m.failed("x2", ""), m.failed("x3", ""))
	to := j.at
	to.Offset++
	dropped, _, err := m.initializations(t.Context(), j.at, to, []Initialization{m.failed("nobody", ""), m.done("alpha", "")}, 3, 3, teller{})
	must(t, err)
	expect(t, "dropped", dropped, 1)
	expect(t, "last", m.last(p), "name ok")
	must(t, m.Trim(t.Context()))
	expect(t, "not checked in", m.unmatched(), []string{"x1 unknown", "x2 unknown", "x3 unknown"})
	m.pass(keepOpen)
	must(t, m.Trim(t.Context()))
	expect(t, "not checked in after a year", m.unmatched(), nil)
	expect(t, "last", m.last(p), "name ok")
}

// A database of the first release gets its assets' names and the time of their reports.
func TestMigrationOfInitializations(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	p := newPC(m, "Alpha")
	p.report.Names.FQDN = "Alpha.Example.com"
	p.checkIn()
	want := dump(t, m, `SELECT asset_id, name, label, qualified FROM asset_names ORDER BY name`)
	expect(t, "names", want, []string{"1 alpha alpha 0", "1 alpha.example.com alpha 1"})
	down := []string{`DROP TABLE asset_names`, `DROP TABLE shared_uuids`, `DROP TABLE initializations`, `DROP TABLE journals`,
		`ALTER TABLE assets DROP COLUMN seen_at`, `DELETE FROM goose_db_version WHERE version_id = 3`}
	for _, q := range down {
		if _, err := m.writers.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(t.Context(), m.dsn, Options{Now: m.clock})
	must(t, err)
	defer again.Close()
	expect(t, "names", dump(t, m, `SELECT asset_id, name, label, qualified FROM asset_names ORDER BY name`), want)
	expect(t, "reported", dump(t, m, `SELECT seen_at, '', '', '' FROM assets`), []string{fmt.Sprint(testEpoch.UnixMilli(), "   ")})
}

func dump(t *testing.T, m *manager, query string) []string {
	t.Helper()
	rows, err := scanAll(t.Context(), m.readers, func(scan func(...any) error) (string, error) {
		var v [4]string
		err := scan(&v[0], &v[1], &v[2], &v[3])
		return strings.Join(v[:], " "), err
	}, query)
	must(t, err)
	return rows
}

func BenchmarkInitializations(b *testing.B) {
	m := newManager(b)
	j := newJournal(m, "one")
	const batch = 500
	for n := 0; b.Loop(); n++ {
		var list []Initialization
		for i := range batch {
			list = append(list, m.failed(fmt.Sprintf("pc%d-%d.example.com", n, i), hardware.Facts{}.SystemUUID))
		}
		j.take(list...)
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "attempts/s")
}

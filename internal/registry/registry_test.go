package registry

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A manager is a registry with a clock that the test turns.
type manager struct {
	*Registry
	t     testing.TB
	dsn   string
	token checkin.EnrolmentToken

	mu  sync.Mutex
	now time.Time
}

// emptyDatabase is a database with its tables, made once: making them costs more than most tests.
var emptyDatabase = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "registry")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "samehost.db")
	reg, err := Create(context.Background(), "sqlite:"+path, Options{})
	if err == nil {
		err = reg.Close() // the last connection takes the log into the file
	}
	if err != nil {
		panic(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return b
})

var testEpoch = time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC)

func newManager(t testing.TB) *manager {
	t.Helper()
	if d := ranOn(); d != nil {
		m := openManager(t, d.take(t))
		m.unlucky(t)
		return m
	}
	return newSQLite(t)
}

// newSQLite is for what is about SQLite.
func newSQLite(t testing.TB) *manager {
	t.Helper()
	needsSQLite(t)
	path := filepath.Join(t.TempDir(), "samehost.db")
	must(t, os.WriteFile(path, emptyDatabase(), 0o600))
	return openManager(t, "sqlite:"+path)
}

func openManager(t testing.TB, dsn string) *manager {
	t.Helper()
	m := &manager{t: t, now: testEpoch, dsn: dsn}
	m.Registry = m.again(t)
	var err error
	m.token, err = m.CreateToken(t.Context(), time.Time{}, "", "")
	must(t, err)
	return m
}

// again opens the manager's database as another process does.
func (m *manager) again(t testing.TB) *Registry {
	t.Helper()
	reg, err := Open(t.Context(), m.dsn, Options{Key: ed25519.NewKeyFromSeed(make([]byte, 32)), Now: m.clock})
	must(t, err)
	t.Cleanup(func() { reg.Close() })
	return reg
}

func (m *manager) clock() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *manager) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
}

// A pc is a client: what the next report of it says. Copying it copies its disk.
type pc struct {
	m        *manager
	seed     hostid.Seed
	report   checkin.Report
	runBegan time.Time
	enrol    *checkin.EnrolmentToken
	aside    map[hostid.ID]hostid.Seed // records that orders replaced
	memory   map[hostid.ID]hostid.Seed // what nonvolatile memory may hold
	obeyed   map[string]bool
}

func newPC(m *manager, name string) *pc {
	p := &pc{m: m, seed: hostid.NewSeed(), enrol: &m.token}
	p.report = checkin.Report{
		Audience: m.audience, HostID: hostid.NewID(), SealKey: p.seed.SealingKey().PublicKey().Bytes(),
		Facts:     board(name),
		Names:     checkin.Names{Host: name},
		Addresses: []string{"192.0.2.7"},
		Versions:  checkin.Versions{Client: "1.0", OS: "TestOS"},
		Stores:    []checkin.StoreState{{Name: "file", State: "stored"}, {Name: "amt", State: "stored"}},
		Origin:    hostid.Generated,
	}
	p.begin(checkin.EpochInstall)
	return p
}

func board(name string) hardware.Facts {
	return hardware.Facts{
		SystemUUID: "4c4c4544-0031-4a10-8042-0000000000" + strings.ToLower(mac(name)), BoardSerial: "board " + name, SystemSerial: "system " + name, ChassisSerial: "chassis " + name,
		Disks: []hardware.Disk{{Serial: "disk " + name, System: true}},
		NICs:  []hardware.NIC{{MAC: "00-1B-21-00-00-" + mac(name), Permanent: true, Onboard: true}},
	}
}

func mac(name string) string {
	sum := 0
	for _, c := range name {
		sum += int(c)
	}
	const hex = "0123456789ABCDEF"
	return string([]byte{hex[sum/16%16], hex[sum%16]})
}

// begin starts a new epoch, as a new data folder does.
func (p *pc) begin(by checkin.EpochBy) {
	p.report.Epoch = checkin.NewToken()
	p.report.EpochBy = by
	p.report.Counter = 0
	p.report.Previous = checkin.Digest{}
	p.start()
}

// start starts a new run, as a service start does.
func (p *pc) start() {
	p.report.Run = checkin.NewToken()
	p.runBegan = p.m.clock()
}

func (p *pc) clone() *pc {
	q := *p
	return &q
}

// next makes the next report and takes it for accepted.
func (p *pc) next() checkin.SignedReport {
	p.m.t.Helper()
	p.report.Counter++
	p.report.AgeMS = uint64(p.m.clock().Sub(p.runBegan).Milliseconds())
	s, err := checkin.Sign(p.report, p.seed.SigningKey(), p.enrol)
	if err != nil {
		p.m.t.Fatal(err)
	}
	p.report.Previous = s.Digest()
	return s
}

// checkIn reports once; the manager must accept it.
func (p *pc) checkIn() checkin.Reply {
	p.m.t.Helper()
	return p.send(p.next())
}

func (p *pc) send(s checkin.SignedReport) checkin.Reply {
	p.m.t.Helper()
	reply, err := p.m.CheckIn(p.m.t.Context(), s)
	if err != nil {
		p.m.t.Fatalf("check-in of %s: %v", p.report.Names.Host, err)
	}
	if reply.Status != checkin.Accepted || reply.HostID != p.report.HostID || reply.Report != s.Digest() {
		p.m.t.Fatalf("reply %+v is not about this report", reply)
	}
	if _, err := checkin.VerifyReply(reply.Raw, p.m.audience, s.Digest()); err != nil {
		p.m.t.Fatal(err)
	}
	return reply
}

func (m *manager) asset(id hostid.ID) AssetDetail {
	m.t.Helper()
	a, err := m.Asset(m.t.Context(), id)
	if err != nil {
		m.t.Fatal(err)
	}
	return a
}

func (m *manager) assetCount() int {
	m.t.Helper()
	all, err := m.Assets(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return len(all)
}

// kinds are the kinds of the events of one asset, in order.
func (m *manager) kinds(id hostid.ID) []string {
	m.t.Helper()
	events, err := m.HistoryOf(m.t.Context(), id)
	if err != nil {
		m.t.Fatal(err)
	}
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (m *manager) conflictKinds() []string {
	m.t.Helper()
	all, err := m.Conflicts(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	var kinds []string
	for _, c := range all {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

func expect[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestFirstCheckIn(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	reply := p.checkIn()
	expect(t, "interval", reply.Interval, DefaultInterval)
	expect(t, "time", reply.Time, testEpoch)
	expect(t, "provisional", reply.Provisional, false)

	a := m.asset(p.report.HostID)
	yes := true
	expect(t, "asset", a.Asset, Asset{
		HostID: p.report.HostID, HostIDs: []hostid.ID{p.report.HostID}, Name: "alpha", State: Live,
		Initialized: &yes, LastCheckin: testEpoch, Seen: seenIn(p.report),
	})
	expect(t, "facts", a.Facts, p.report.Facts)
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled"})

	m.pass(3 * DefaultInterval)
	expect(t, "state when silent", m.asset(p.report.HostID).State, Silent)
	p.enrol = nil // the client stops enrolling once it is accepted
	p.checkIn()
	expect(t, "state", m.asset(p.report.HostID).State, Live)
	expect(t, "assets", m.assetCount(), 1)
	expect(t, "events", len(m.kinds(p.report.HostID)), 2)
}

func TestReinstalledIsTheSameAsset(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(3 * DefaultInterval)

	p.begin(checkin.EpochRestore) // disk failure: new data folder, ID and seed from memory on the board
	p.report.Facts.Disks[0].Serial = "new disk"
	p.report.Names.Host = "alpha-new"
	p.report.Origin = hostid.Restored
	p.checkIn()

	a := m.asset(p.report.HostID)
	expect(t, "assets", m.assetCount(), 1)
	expect(t, "name", a.Name, "alpha-new")
	expect(t, "state", a.State, Live)
	expect(t, "disk", a.Facts.Disks[0].Serial, "new disk")
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "reinstalled", "facts"})
	expect(t, "conflicts", m.conflictKinds(), nil)
}

func TestReinstalledWhileTheFormerWasJustHeardWaits(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(time.Minute)
	p.begin(checkin.EpochRestore)
	p.report.Facts.Disks = []hardware.Disk{{Serial: "new disk", System: true}}
	p.checkIn()
	a := m.asset(p.report.HostID)
	expect(t, "state", a.State, Pending)
	expect(t, "assets", m.assetCount(), 1)
	expect(t, "disk", a.Facts.Disks[0].Serial, "disk alpha")
	for range 3 {
		m.pass(DefaultInterval)
		p.checkIn()
	}
	a = m.asset(p.report.HostID)
	expect(t, "state", a.State, Live)
	expect(t, "disk", a.Facts.Disks[0].Serial, "new disk")
	expect(t, "events", m.kinds(p.report.HostID),
		[]string{"token-used", "enrolled", "reinstalled-waits", "keeps", "facts"})
	expect(t, "conflicts", m.conflictKinds(), nil)
}

// Only the one that was heard last says how the asset stands.
func TestReinstalledButTheFormerGoesOn(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	m.pass(time.Minute)
	q := p.clone()
	q.begin(checkin.EpochRestore)
	q.checkIn()
	expect(t, "state", m.asset(p.report.HostID).State, Pending)
	m.pass(time.Minute)
	p.checkIn()
	expect(t, "state", m.asset(p.report.HostID).State, Live)
	expect(t, "conflicts", m.conflictKinds(), nil)
}

func TestSameReportAgain(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	s := p.next()
	first := p.send(s)
	m.pass(time.Hour)
	again := p.send(s)
	expect(t, "reply", again, first)
	expect(t, "events", len(m.kinds(p.report.HostID)), 2)
	toks, err := m.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "uses", toks[0].Uses, int64(1))
	p.checkIn() // with the enrol part again: same key, same epoch
	toks, _ = m.Tokens(t.Context())
	expect(t, "uses", toks[0].Uses, int64(1))
	expect(t, "assets", m.assetCount(), 1)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, tt := range map[string]struct {
		prepare func(*manager, *pc)
		want    checkin.RefusalCode
	}{
		"no token":      {func(m *manager, p *pc) { p.enrol = nil }, checkin.NeedsEnrolment},
		"unknown token": {func(m *manager, p *pc) { tok := checkin.NewEnrolmentToken(m.audience); p.enrol = &tok }, checkin.BadToken},
		"wrong secret":  {func(m *manager, p *pc) { tok := m.token; tok.Secret[0] ^= 1; p.enrol = &tok }, checkin.BadToken},
		"revoked":       {func(m *manager, p *pc) { must(m.t, m.RevokeToken(ctx, m.token.ID, "")) }, checkin.BadToken},
		"other audience": {func(m *manager, p *pc) {
			p.report.Audience = checkin.FingerprintOf(p.seed.SigningKey().Public().(ed25519.PublicKey))
		}, checkin.WrongAudience},
		"expired": {func(m *manager, p *pc) {
			tok, err := m.CreateToken(ctx, testEpoch.Add(time.Hour), "", "")
			must(m.t, err)
			m.pass(time.Hour)
			p.enrol = &tok
		}, checkin.BadToken},
		"other key of a known ID without a token": {func(m *manager, p *pc) {
			q := newPC(m, "victim")
			q.checkIn()
			p.report.HostID = q.report.HostID
			p.enrol = nil
		}, checkin.NeedsEnrolment},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			p := newPC(m, "alpha")
			tt.prepare(m, p)
			before, err := m.History(ctx)
			must(t, err)
			_, err = m.CheckIn(ctx, p.next())
			var refusal *checkin.Refusal
			if !errors.As(err, &refusal) || refusal.Code != tt.want {
				t.Fatalf("got %v, want a refusal %s", err, tt.want)
			}
			after, err := m.History(ctx)
			must(t, err)
			expect(t, "history", after, before)
			expect(t, "conflicts", m.conflictKinds(), nil)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenWhatIsNotThere(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "none.db"), Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	if _, err := Open(t.Context(), "postgres://user:hidden@db/x", Options{}); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
}

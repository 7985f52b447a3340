package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

// testManager is a higher system that enrols by token, keeps every report, and answers one that it has seen with
// the reply that it gave. It listens on real TLS.
type testManager struct {
	key    ed25519.PrivateKey
	token  checkin.EnrolmentToken
	server *httptest.Server
	roots  *x509.CertPool

	mu       sync.Mutex
	known    map[hostid.ID]string // host ID and the key that it is bound to
	replies  map[checkin.Digest]checkin.Reply
	reports  []checkin.VerifiedReport // accepted, each once
	received []checkin.Digest         // all that came, in order

	judge     func(v checkin.VerifiedReport) error // refuses or is unavailable
	loseReply bool                                 // the connection breaks after the report was accepted
	deferring bool
	late      *checkin.LateReply // goes with the next deferred
	revoked   bool               // the token holds no longer
	interval  time.Duration
	orders    func(v checkin.VerifiedReport) []checkin.Order
	settings  func(v checkin.VerifiedReport) *checkin.SealedSettings
	named     []hostid.ID
	clock     time.Time // in replies; zero: now
	accepted  chan struct{}
}

func newManager(t *testing.T) *testManager {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &testManager{
		key:      key,
		token:    checkin.NewEnrolmentToken(checkin.FingerprintOf(key.Public().(ed25519.PublicKey))),
		known:    map[hostid.ID]string{},
		replies:  map[checkin.Digest]checkin.Reply{},
		interval: time.Hour,
		accepted: make(chan struct{}, 1000),
	}
	handler := checkin.Handler(m, slog.New(slog.DiscardHandler))
	m.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		lose := m.loseReply
		m.mu.Unlock()
		if !lose {
			handler.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(m.server.Close)
	m.roots = x509.NewCertPool()
	m.roots.AddCert(m.server.Certificate())
	return m
}

func (m *testManager) fingerprint() checkin.Fingerprint { return m.token.Manager }

func refuse(code checkin.RefusalCode) error {
	return &checkin.Refusal{Code: code, Detail: "as the test wants"}
}

// CheckIn implements checkin.HigherSystem.
func (m *testManager) CheckIn(_ context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := checkin.Verify(r)
	if err != nil {
		return checkin.Reply{}, err
	}
	m.received = append(m.received, v.Digest)
	if reply, seen := m.replies[v.Digest]; seen {
		return reply, nil
	}
	if m.judge != nil {
		if err := m.judge(v); err != nil {
			return checkin.Reply{}, err
		}
	}
	if v.Report.Audience != m.fingerprint() {
		return checkin.Reply{}, refuse(checkin.WrongAudience)
	}
	if v.Enrol != nil && (m.revoked || v.Enrol.TokenID != m.token.ID || !v.Enrol.Check(m.token.Verifier(), v.Payload)) {
		return checkin.Reply{}, refuse(checkin.BadToken)
	}
	if m.known[v.Report.HostID] != string(v.Key) {
		if v.Enrol == nil {
			return checkin.Reply{}, refuse(checkin.NeedsEnrolment)
		}
		m.known[v.Report.HostID] = string(v.Key)
	}
	if m.deferring {
		late := m.late
		m.late = nil
		return checkin.Reply{Report: v.Digest, Status: checkin.Deferred, Late: late}, nil
	}
	reply := checkin.Reply{Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: m.interval, Time: m.clock, Named: m.named}
	if m.clock.IsZero() {
		reply.Time = time.Now().UTC()
	}
	if m.orders != nil {
		reply.Orders = m.orders(v)
	}
	if m.settings != nil {
		reply.Settings = m.settings(v)
	}
	reply, err = checkin.SignReply(reply, m.key)
	if err != nil {
		return checkin.Reply{}, err
	}
	m.replies[v.Digest] = reply
	m.reports = append(m.reports, v)
	m.accepted <- struct{}{}
	return reply, nil
}

// set changes the manager's behaviour while it serves.
func (m *testManager) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// last is the report accepted last.
func (m *testManager) last(t *testing.T) checkin.Report {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reports) == 0 {
		t.Fatal("no report was accepted")
	}
	return m.reports[len(m.reports)-1].Report
}

// checkChains fails unless each epoch's accepted reports are one unbroken line of one host ID.
func (m *testManager) checkChains(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	type tip struct {
		counter uint64
		digest  checkin.Digest
		id      hostid.ID
	}
	tips := map[checkin.Token]tip{}
	for i, v := range m.reports {
		r := v.Report
		last := tips[r.Epoch]
		if r.Counter != last.counter+1 || r.Previous != last.digest || (last.counter > 0 && r.HostID != last.id) {
			t.Errorf("report %d: counter %d after %d, previous %s after %s: not the next of epoch %s", i, r.Counter, last.counter, r.Previous, last.digest, r.Epoch)
		}
		tips[r.Epoch] = tip{r.Counter, v.Digest, r.HostID}
	}
}

// testPC is a PC: what it is made of, and its disk.
type testPC struct {
	manager *testManager
	dir     string // the data folder
	token   string // the token's file
	facts   hardware.Facts
	memory  *storetest.Memory // nil: none at all
	store   hostid.Store      // in its place, if set
	step    func(string)

	settings func(*checkin.AMTSettings) error
	log      *slog.Logger

	boot, awake time.Duration
	skew        time.Duration // of the wall clock
	wrap        func(checkin.HigherSystem) checkin.HigherSystem
}

func newPC(t *testing.T, m *testManager) *testPC {
	t.Helper()
	root := t.TempDir()
	pc := &testPC{
		manager: m,
		dir:     filepath.Join(root, "disk"),
		token:   filepath.Join(root, "token"),
		memory:  &storetest.Memory{},
		facts: hardware.Facts{
			SystemUUID:    "4c4c4544-0051-4d10-8051-b4c04f5a3132",
			SystemSerial:  "SYS4711",
			BoardSerial:   "BRD4711",
			ChassisSerial: "CHS4711",
			Disks:         []hardware.Disk{{Serial: "DSK4711A", System: true}},
			NICs:          []hardware.NIC{{MAC: "00-1B-21-3C-4D-5E", Permanent: true, Onboard: true}},
		},
		boot:  time.Hour,
		awake: time.Hour,
	}
	pc.writeToken(t, m.token)
	return pc
}

func (pc *testPC) writeToken(t *testing.T, token checkin.EnrolmentToken) {
	t.Helper()
	if err := os.WriteFile(pc.token, []byte(token.Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newDisk is the disk failure.
func (pc *testPC) newDisk(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(pc.dir); err != nil {
		t.Fatal(err)
	}
	pc.facts.Disks = []hardware.Disk{{Serial: pc.facts.Disks[0].Serial + "X", System: true}}
}

func (pc *testPC) options() Options {
	o := Options{
		DataDir:      pc.dir,
		HigherSystem: pc.manager.server.URL,
		Connect: func(manager checkin.Fingerprint, now func() time.Time) (checkin.HigherSystem, error) {
			var higher checkin.HigherSystem
			higher, err := checkin.NewClient(checkin.ClientOptions{URL: pc.manager.server.URL, RootCAs: pc.manager.roots, Manager: manager, Now: now})
			if err == nil && pc.wrap != nil {
				higher = pc.wrap(higher)
			}
			return higher, err
		},
		TokenFile: pc.token,
		Hardware:  func(context.Context) (hardware.Facts, error) { return pc.facts, nil },
		Version:   "test",
		Clock: Clock{
			Wall:  func() time.Time { return time.Now().Add(pc.skew) },
			Awake: func() time.Duration { return pc.awake },
			Boot:  func() time.Duration { return pc.boot },
		},
		Step: pc.step,

		Settings: pc.settings,
		Log:      pc.log,
	}
	switch {
	case pc.store != nil:
		o.Stores = []hostid.NamedStore{{Name: "memory", Store: pc.store}}
	case pc.memory != nil:
		o.Stores = []hostid.NamedStore{{Name: "memory", Store: pc.memory}}
	}
	return o
}

func (pc *testPC) open(t *testing.T) *Agent {
	t.Helper()
	a, err := Open(pc.options())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// checkIn starts an agent, checks in once and ends it.
func (pc *testPC) checkIn(t *testing.T) Outcome {
	t.Helper()
	a := pc.open(t)
	defer a.Close()
	return checkIn(t, a)
}

func checkIn(t *testing.T, a *Agent) Outcome {
	t.Helper()
	out, err := a.CheckIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// accepted checks in and fails unless that was accepted.
func (pc *testPC) accepted(t *testing.T) Outcome {
	t.Helper()
	out := pc.checkIn(t)
	if !out.CheckedIn || out.Reply != checkin.Accepted || out.Error != "" {
		t.Fatalf("checked_in %v, reply %q, error %q; want accepted", out.CheckedIn, out.Reply, out.Error)
	}
	return out
}

// storedID is the host ID in memory.
func (pc *testPC) storedID(t *testing.T) hostid.ID {
	t.Helper()
	r, err := pc.memory.Load(t.Context())
	if err != nil && !errors.Is(err, hostid.ErrNotStored) {
		t.Fatal(err)
	}
	return r.HostID
}

// asides are the names in the data folder that begin so.
func (pc *testPC) files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(pc.dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	slices.Sort(names)
	return names
}

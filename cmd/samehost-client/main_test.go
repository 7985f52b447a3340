package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"samehost/internal/amt"
	"samehost/internal/amtsim"
	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"samehost-client": main})
}

// Each script has a PC (hardware.json, client.toml, disk/ as its data folder), its AMT, not initialized yet, and a
// manager that enrols by the token in the file token.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      exits,
			"manager":    managerIs,
			"exports":    exports,
			"amt":        amtIs,
			"initialize": initialize,
			"saveid":     saveID,
			"storedid":   storedID,
			"waitfor":    waitFor,
			"edit":       edit,
		},
	})
}

// world is what surrounds a script's PC.
type world struct {
	amt     *amtsim.Device
	manager *manager
}

func setup(env *testscript.Env) error {
	device, err := amtsim.Start(amtsim.Options{})
	if err != nil {
		return err
	}
	env.Defer(func() { device.Close() })
	m, err := newManager()
	if err != nil {
		return err
	}
	env.Defer(m.server.Close)
	env.Values["world"] = &world{device, m}

	cert := m.server.Certificate()
	pin := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	env.Setenv("MANAGER", m.server.URL)
	env.Setenv("PIN", "sha256:"+hex.EncodeToString(pin[:]))
	env.Setenv("TZ", "UTC")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector every process would sleep a second before it ends
	facts, err := json.Marshal(hardware.Facts{
		SystemUUID: "4c4c4544-0051-4d10-8051-b4c04f5a3132", SystemSerial: "SYS4711", BoardSerial: "BRD4711", ChassisSerial: "CHS4711",
		Disks:     []hardware.Disk{{Serial: "DSK4711A", System: true}},
		NICs:      []hardware.NIC{{MAC: "00-1B-21-3C-4D-5E", Permanent: true, Onboard: true}},
		SMBIOSAMT: true,
	})
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"ca.pem":        string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		"token":         m.token.Text() + "\n",
		"amt-password":  amtsim.DefaultPassword + "\n",
		"hardware.json": string(facts),
		"client.toml": fmt.Sprintf(`data_dir = "disk"
higher_system = %q
ca_file = "ca.pem"
enrolment_token_file = "token"
restore_wait = "0s"

[amt]
url = %q
password_file = "amt-password"

[hardware]
file = "hardware.json"
`, m.server.URL, device.LocalURL()),
		"plain.toml": fmt.Sprintf("data_dir = \"plain\"\nhigher_system = %q\nca_file = \"ca.pem\"\nenrolment_token_file = \"token\"\n", m.server.URL),
		"alone.toml": "data_dir = \"alone\"\n[hardware]\nfile = \"hardware.json\"\n",
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func theWorld(ts *testscript.TestScript) *world { return ts.Value("world").(*world) }

// exits N ARGS...: samehost-client ends with exactly that exit code, and with one line on standard error unless it
// is 0.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec("samehost-client", args[1:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	stderr := ts.ReadFile("stderr")
	if code != want {
		ts.Fatalf("exit code %d, want %d; standard error: %s", code, want, stderr)
	}
	if want != 0 && (strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "samehost-client: ")) {
		ts.Fatalf("standard error %q, want one line", stderr)
	}
	if strings.Contains(stderr+ts.ReadFile("stdout"), amtsim.DefaultPassword) {
		ts.Fatalf("the password was printed")
	}
}

// exports FILE USER PASSWORD PASSPHRASE: what samehost-manager amtsetup export writes.
func exports(ts *testscript.TestScript, neg bool, args []string) {
	w := theWorld(ts)
	w.manager.mu.Lock()
	defer w.manager.mu.Unlock()
	key := w.manager.key
	if neg {
		_, key, _ = ed25519.GenerateKey(rand.Reader)
	}
	w.manager.version++
	b, err := checkin.ExportSettings(w.manager.version, checkin.AMTSettings{User: args[1], Password: checkin.NewPassword(args[2])}, time.Now(), key, args[3])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// manager away | serves | refuses CODE | tells USER PASSWORD | tells nothing
func managerIs(ts *testscript.TestScript, neg bool, args []string) {
	m := theWorld(ts).manager
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.failure = nil; args[0] {
	case "away":
		m.failure = errors.New("away")
	case "refuses":
		m.failure = &checkin.Refusal{Code: checkin.RefusalCode(args[1]), Detail: "as the test wants"}
	case "tells":
		m.version++
		m.settings = nil
		if len(args) == 3 {
			s, err := checkin.AMTSettings{User: args[1], Password: checkin.NewPassword(args[2])}.Checked()
			ts.Check(err)
			m.settings = &s
		}
	}
}

// amt FAULTS: what is wrong with the AMT from now on, as amtsim writes it.
func amtIs(ts *testscript.TestScript, neg bool, args []string) {
	var f amtsim.Faults
	ts.Check(json.Unmarshal([]byte(args[0]), &f))
	ts.Check(theWorld(ts).amt.SetFaults(f))
}

// initialize: what dcmamtin does.
func initialize(ts *testscript.TestScript, neg bool, args []string) {
	c, err := wsman.NewClient(wsman.Endpoint{URL: theWorld(ts).amt.NetworkURL(), User: amtsim.DefaultUser, Password: wsman.Secret(amtsim.DefaultPassword)})
	ts.Check(err)
	defer c.Close()
	_, err = amt.Initialize(context.Background(), c, amt.DefaultEnterprise)
	ts.Check(err)
}

// saveid NAME: sets NAME to the host ID that the last command printed, as text or as JSON.
func saveID(ts *testscript.TestScript, neg bool, args []string) {
	out := ts.ReadFile("stdout")
	var object struct {
		HostID string `json:"host_id"`
	}
	if json.Unmarshal([]byte(out), &object) != nil {
		object.HostID, _, _ = strings.Cut(out, " ")
	}
	if _, err := hostid.ParseID(object.HostID); err != nil {
		ts.Fatalf("%v", err)
	}
	ts.Setenv(args[0], object.HostID)
}

// storedid ID|none: what the AMT holds, read behind the client's back.
func storedID(ts *testscript.TestScript, neg bool, args []string) {
	c, err := wsman.NewClient(wsman.Endpoint{URL: theWorld(ts).amt.LocalURL(), User: amtsim.DefaultUser, Password: wsman.Secret(amtsim.DefaultPassword)})
	ts.Check(err)
	store := amt.NewStore(c, amt.DefaultEnterprise)
	defer store.Close(context.Background())
	got := "none"
	if r, err := store.Load(context.Background()); err == nil {
		got = r.HostID.String()
	} else if !errors.Is(err, hostid.ErrNotStored) && !errors.Is(err, hostid.ErrNotInitialized) {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("the AMT holds %s, want %s", got, args[0])
	}
}

// waitfor N: the manager has accepted N reports in all.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	m := theWorld(ts).manager
	timeout := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		got, changed := m.accepted, m.changed
		m.mu.Unlock()
		if got >= want {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			ts.Fatalf("%d reports accepted within 30 s, want %d", got, want)
		}
	}
}

// edit FILE OLD NEW: replaces a text that must be there. A NEW of "-" removes it.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], strings.TrimPrefix(args[2], "-"), 1)), 0o600))
}

// manager is a higher system on real TLS: it enrols by token and signs its replies.
type manager struct {
	key    ed25519.PrivateKey
	token  checkin.EnrolmentToken
	server *httptest.Server

	mu       sync.Mutex
	known    map[hostid.ID]string
	accepted int
	changed  chan struct{} // closed when accepted grows
	failure  error
	version  uint64
	settings *checkin.AMTSettings
}

func newManager() (*manager, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	m := &manager{
		key:     key,
		token:   checkin.NewEnrolmentToken(checkin.FingerprintOf(key.Public().(ed25519.PublicKey))),
		known:   map[hostid.ID]string{},
		changed: make(chan struct{}),
	}
	m.server = httptest.NewTLSServer(checkin.Handler(m, slog.New(slog.DiscardHandler)))
	m.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	return m, nil
}

// CheckIn implements checkin.HigherSystem.
func (m *manager) CheckIn(_ context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := checkin.Verify(r)
	if err != nil {
		return checkin.Reply{}, err
	}
	if m.failure != nil {
		return checkin.Reply{}, m.failure
	}
	if v.Enrol != nil && v.Enrol.Check(m.token.Verifier(), v.Payload) {
		m.known[v.Report.HostID] = string(v.Key)
	}
	if m.known[v.Report.HostID] != string(v.Key) {
		return checkin.Reply{}, &checkin.Refusal{Code: checkin.NeedsEnrolment, Detail: "unknown"}
	}
	m.accepted++
	close(m.changed)
	m.changed = make(chan struct{})
	reply := checkin.Reply{Report: v.Digest, Status: checkin.Accepted, HostID: v.Report.HostID, Interval: time.Hour, Time: time.Now().UTC()}
	s := checkin.Settings{AMT: m.settings}
	if m.settings != nil {
		s.Version = m.version
	}
	if held := v.Report.Settings; held != nil && held.Version != s.Version {
		s.Serial, _ = held.Next()
		sealed, err := checkin.SealSettings(v.Report.SealKey, v.Report.HostID, v.Report.Epoch, s)
		if err != nil {
			return checkin.Reply{}, err
		}
		reply.Settings = &sealed
	}
	return checkin.SignReply(reply, m.key)
}

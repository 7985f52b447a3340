package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const amtSecret = "Zwölf-Geheim-47!"

// settingsManager tells settings as the registry does, and may be on the way as a relay.
type settingsManager struct {
	*testManager
	version uint64
	amt     *checkin.AMTSettings
	told    []string // what the PC handed on
	log     bytes.Buffer
}

// settled is a PC that takes settings, and its manager.
func settled(t *testing.T) (*settingsManager, *testPC) {
	m := &settingsManager{testManager: newManager(t)}
	m.settings = func(v checkin.VerifiedReport) *checkin.SealedSettings {
		held := v.Report.Settings
		if held == nil || held.Version == m.version {
			return nil
		}
		s := checkin.Settings{AMT: m.amt}
		s.Version = m.version
		s.Serial, _ = held.Next()
		sealed, err := checkin.SealSettings(v.Report.SealKey, v.Report.HostID, v.Report.Epoch, s)
		if err != nil {
			t.Error(err)
		}
		return &sealed
	}
	pc := newPC(t, m.testManager)
	pc.settings = func(s *checkin.AMTSettings) error {
		if s == nil {
			m.told = append(m.told, "none")
		} else {
			m.told = append(m.told, s.User+" "+s.Password.Reveal())
		}
		return nil
	}
	pc.log = slog.New(slog.NewTextHandler(&m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return m, pc
}

func (m *settingsManager) tells(version uint64, password string) {
	m.set(func() {
		m.version, m.amt = version, nil
		if version != 0 {
			m.amt = &checkin.AMTSettings{User: "admin", Password: checkin.NewPassword(password), Port: "auto", Enterprise: "samehost"}
		}
	})
}

// want fails unless the PC handed on exactly that since the last call.
func (m *settingsManager) want(t *testing.T, what string, told ...string) {
	t.Helper()
	if got, want := strings.Join(m.told, ", "), strings.Join(told, ", "); got != want {
		t.Errorf("%s: told %q, want %q", what, got, want)
	}
	m.told = nil
}

// An installation to which the first reply brings settings looks at memory twice. What it says is what it did.
func TestOriginThoughSettingsCome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what    string
		away    bool // memory does not answer before the settings came
		again   bool // it is installed once more, on a new disk
		origin  hostid.Origin
		reasons int
	}{
		{"generated", false, false, hostid.Generated, 1},
		{"generated while memory is away", true, false, hostid.Generated, 1},
		{"restored", false, true, hostid.Restored, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			m, pc := settled(t)
			if c.again {
				pc.accepted(t)
				pc.newDisk(t)
				m.told = nil
			}
			if c.away {
				pc.memory.Err = hostid.ErrUnavailable
			}
			take := pc.settings
			pc.settings = func(s *checkin.AMTSettings) error {
				if s != nil {
					pc.memory.Err = nil
				}
				return take(s)
			}
			m.tells(1001, amtSecret)
			out := pc.accepted(t)
			m.want(t, "told", "none", "admin "+amtSecret)
			if out.Origin != c.origin || len(out.Reasons) != c.reasons {
				t.Errorf("%s, reasons %q; want %s and %d of them", out.Origin, out.Reasons, c.origin, c.reasons)
			}
			s, err := ReadStatus(t.Context(), pc.dir)
			if err != nil || s.Origin != c.origin || len(s.Reasons) != c.reasons {
				t.Errorf("status: %s, reasons %q, %v; want %s and %d of them", s.Origin, s.Reasons, err, c.origin, c.reasons)
			}
			if again := pc.accepted(t); again.Origin != hostid.Kept {
				t.Errorf("the next check-in: %s, want kept", again.Origin)
			}
		})
	}
}

// Settings are handed on at once, kept across a restart, named in the next report, and shown without their secret.
func TestSettingsAreTaken(t *testing.T) {
	t.Parallel()
	m, pc := settled(t)
	a := pc.open(t)
	m.want(t, "nothing kept", "none")
	checkIn(t, a)
	if got := m.last(t).Settings; got == nil || *got != (checkin.SettingsState{}) {
		t.Errorf("first report: settings %v, want 0 of 0", got)
	}
	m.want(t, "nothing told")
	m.tells(1001, amtSecret)
	checkIn(t, a)
	m.want(t, "told", "admin "+amtSecret)
	if left := a.left(); left > 2*firstRetry {
		t.Errorf("the next check-in, which acknowledges, is due in %s", left)
	}
	checkIn(t, a)
	if got := *m.last(t).Settings; got != (checkin.SettingsState{Serial: 1, Version: 1001}) {
		t.Errorf("acknowledged as %v", got)
	}
	if left := a.left(); left < time.Minute {
		t.Errorf("acknowledged, and yet due in %s", left)
	}
	m.want(t, "told once")
	a.Close()

	a = pc.open(t)
	m.want(t, "after a restart", "admin "+amtSecret)
	m.tells(1002, "another")
	checkIn(t, a)
	m.want(t, "changed", "admin another")
	m.tells(0, "")
	checkIn(t, a)
	m.want(t, "taken back", "none")
	checkIn(t, a)
	m.want(t, "taken back once")
	m.tells(1001, amtSecret) // an older version holds again: the manager's word, not a replay
	checkIn(t, a)
	m.want(t, "an older version", "admin "+amtSecret)
	a.Close()

	s, err := ReadStatus(t.Context(), pc.dir)
	if err != nil || s.Settings == nil || s.Settings.Version != 1001 || s.Settings.Serial != 4 || s.Settings.Came != checkin.BySettingsReply || s.Settings.Since.IsZero() {
		t.Errorf("status %+v, %v", s.Settings, err)
	}
	if strings.Contains(m.log.String(), "Geheim") || strings.Contains(m.log.String(), "another") {
		t.Errorf("the log shows a password: %s", m.log.String())
	}
	for _, name := range pc.files(t, "*") {
		b, err := os.ReadFile(filepath.Join(pc.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name != checkin.SettingsFileName && bytes.Contains(b, []byte("Geheim")) {
			t.Errorf("%s holds the password", name)
		}
	}
	if err := Purge(pc.dir); err != nil {
		t.Error(err)
	}
	if left := pc.files(t, "*"); len(left) > 0 {
		t.Errorf("purged, and yet %v", left)
	}
}

// A PC that goes by its own file says so by saying nothing.
func TestSettingsNotWanted(t *testing.T) {
	t.Parallel()
	m, pc := settled(t)
	pc.settings = nil
	m.tells(1001, amtSecret)
	pc.accepted(t)
	if got := m.last(t).Settings; got != nil {
		t.Errorf("reported %v", got)
	}
	if left := pc.files(t, "settings*"); len(left) > 0 {
		t.Errorf("kept all the same: %v", left)
	}
}

// onTheWay changes replies as a relay could that has the manager's signature only for what the manager signed.
type onTheWay struct {
	checkin.HigherSystem
	reply func(checkin.SignedReport, checkin.Reply) (checkin.Reply, error)
}

func (w onTheWay) CheckIn(ctx context.Context, s checkin.SignedReport) (checkin.Reply, error) {
	r, err := w.HigherSystem.CheckIn(ctx, s)
	if err != nil {
		return r, err
	}
	return w.reply(s, r)
}

// Whatever sits on the way, and even a manager that makes a mistake: no settings but those meant for this host, epoch and
// moment are taken.
func TestSettingsOfTheWrongKind(t *testing.T) {
	t.Parallel()
	for why, change := range map[string]func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings){
		"a serial that it has had": func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) {
			*s, _ = checkin.SealSettings(v.Report.SealKey, v.Report.HostID, v.Report.Epoch, checkin.Settings{
				SettingsState: checkin.SettingsState{Serial: 1, Version: 1003}, AMT: m.amt})
		},
		"a serial that was raised":  func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) { s.Serial++ },
		"a version that was raised": func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) { s.Version++ },
		"for another host": func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) {
			*s, _ = checkin.SealSettings(v.Report.SealKey, hostid.NewID(), v.Report.Epoch, checkin.Settings{SettingsState: s.SettingsState, AMT: m.amt})
		},
		"to another host's key": func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) {
			*s, _ = checkin.SealSettings(hostid.NewSeed().SealingKey().PublicKey().Bytes(), v.Report.HostID, v.Report.Epoch, checkin.Settings{SettingsState: s.SettingsState, AMT: m.amt})
		},
		"of another epoch": func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) {
			*s, _ = checkin.SealSettings(v.Report.SealKey, v.Report.HostID, checkin.NewToken(), checkin.Settings{SettingsState: s.SettingsState, AMT: m.amt})
		},
		"damaged": func(m *settingsManager, v checkin.VerifiedReport, s *checkin.SealedSettings) {
			s.Sealed = "AAAA" + s.Sealed[4:]
		},
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			m, pc := settled(t)
			a := pc.open(t)
			defer a.Close()
			m.tells(1001, amtSecret)
			checkIn(t, a)
			m.want(t, "at first", "none", "admin "+amtSecret)
			right := m.settings
			m.set(func() {
				m.settings = func(v checkin.VerifiedReport) *checkin.SealedSettings {
					s := right(v)
					if s != nil {
						change(m, v, s)
					}
					return s
				}
			})
			m.tells(1002, "another")
			if out := checkIn(t, a); out.Error != "" {
				t.Errorf("the check-in itself: %s", out.Error)
			}
			m.want(t, "the wrong ones")
			if got := a.kept; got.Version != 1001 || got.Serial != 1 {
				t.Errorf("kept %v", got)
			}
			m.set(func() { m.settings = right })
			checkIn(t, a)
			m.want(t, "the right ones", "admin another")
		})
	}
}

// A relay can alter, hold back and repeat replies: what is altered or repeated is no reply at all.
func TestSettingsOnTheWay(t *testing.T) {
	t.Parallel()
	m, pc := settled(t)
	var replies []checkin.Reply
	mode := ""
	pc.wrap = func(h checkin.HigherSystem) checkin.HigherSystem {
		return onTheWay{h, func(s checkin.SignedReport, r checkin.Reply) (checkin.Reply, error) {
			replies = append(replies, r)
			switch mode {
			case "strip":
				r.Settings = nil
			case "repeat": // an older reply of the manager's, whose text is genuine
				r = replies[1]
			case "take another's":
				other := *replies[1].Settings
				r.Settings = &other
			}
			// As the client's HTTP does: only what the manager signed for this very report counts.
			again, err := checkin.VerifyReply(r.Raw, m.fingerprint(), s.Digest())
			if err != nil {
				return checkin.Reply{}, errors.Join(checkin.ErrUnavailable, err)
			}
			return again, nil
		}}
	}
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	m.tells(1001, "first")
	checkIn(t, a)
	m.tells(1002, "second")
	checkIn(t, a)
	m.want(t, "honest", "none", "admin first", "admin second")
	for _, mode = range []string{"repeat", "take another's", "strip"} {
		checkIn(t, a)
		m.want(t, mode)
		if a.kept.Version != 1002 {
			t.Errorf("%s: version %d", mode, a.kept.Version)
		}
	}
	mode = ""
	m.tells(1003, "third")
	checkIn(t, a)
	checkIn(t, a)
	m.want(t, "honest again", "admin third")
}

// A file that cannot be read is set aside, and the manager is asked again; what cannot be written is asked for again.
func TestSettingsFile(t *testing.T) {
	t.Parallel()
	m, pc := settled(t)
	m.tells(1001, amtSecret)
	pc.accepted(t)
	m.want(t, "at first", "none", "admin "+amtSecret)
	path := filepath.Join(pc.dir, checkin.SettingsFileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	pc.accepted(t)
	m.want(t, "half a file", "none", "admin "+amtSecret)
	if aside := pc.files(t, "settings.json.corrupt-*"); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}

	if err := os.WriteFile(path, []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pc.options()); !errors.Is(err, hostid.ErrNewer) {
		t.Errorf("a newer version's: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if a, err := Open(pc.options()); err == nil {
		a.Close()
		t.Error("a folder in its place was taken for nothing")
	}
}

// What is told while memory does not answer is used in the same check-in.
func TestSettingsOpenMemory(t *testing.T) {
	t.Parallel()
	m, pc := settled(t)
	open := false
	pc.store = lockedStore{pc.memory, &open}
	pc.settings = func(s *checkin.AMTSettings) error {
		open = s != nil && s.Password.Reveal() == amtSecret
		return nil
	}
	if out := pc.accepted(t); out.Stores[0].State != hostid.Unavailable {
		t.Fatalf("store %+v", out.Stores)
	}
	m.tells(1001, amtSecret)
	if out := pc.accepted(t); out.Stores[0].State != hostid.Stored {
		t.Errorf("store %+v, want stored in the check-in that told the password", out.Stores)
	}
}

type lockedStore struct {
	hostid.Store
	open *bool
}

func (s lockedStore) Load(ctx context.Context) (hostid.Record, error) {
	if !*s.open {
		return hostid.Record{}, hostid.ErrUnavailable
	}
	return s.Store.Load(ctx)
}

func (s lockedStore) Save(ctx context.Context, r hostid.Record) error {
	if !*s.open {
		return hostid.ErrUnavailable
	}
	return s.Store.Save(ctx, r)
}

// By file: of this manager, not older, whether a service works there or not; and no reply from before sets it back.
func TestImportSettings(t *testing.T) {
	t.Parallel()
	m, pc := settled(t)
	const phrase = "a passphrase of words"
	amt := func(password string) checkin.AMTSettings {
		return checkin.AMTSettings{User: "admin", Password: checkin.NewPassword(password)}
	}
	export := func(version uint64, password string, other bool) []byte {
		key := m.key
		if other {
			key = hostid.NewSeed().SigningKey()
		}
		b, err := checkin.ExportSettings(version, amt(password), time.Now(), key, phrase)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := export(1001, "by file", false)
	if _, err := ImportSettings(pc.dir, pc.token, first, "another passphrase"); !errors.Is(err, checkin.ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	if _, err := ImportSettings(pc.dir, pc.token, export(1001, "x", true), phrase); !errors.Is(err, ErrOtherManager) {
		t.Errorf("another manager's, by the token: %v", err)
	}
	e, err := ImportSettings(pc.dir, pc.token, first, phrase) // before anything else: on an image
	if err != nil || e.Version != 1001 {
		t.Fatalf("imported %v, %v", e.Version, err)
	}
	a := pc.open(t)
	m.want(t, "when it starts", "admin by file")
	if left := pc.files(t, importName); len(left) > 0 {
		t.Error("what was imported is left")
	}
	m.version = 1001
	checkIn(t, a)
	m.want(t, "the manager has nothing else to tell")
	if got := *m.last(t).Settings; got != (checkin.SettingsState{Serial: 1, Version: 1001}) {
		t.Errorf("acknowledged as %v", got)
	}

	if _, err := ImportSettings(pc.dir, "", export(1003, "while it works", false), phrase); err != nil {
		t.Fatal(err)
	}
	m.version = 1003
	checkIn(t, a)
	m.want(t, "while it works", "admin while it works")
	a.Close()
	if _, err := ImportSettings(pc.dir, "", first, phrase); !errors.Is(err, ErrOlderSettings) {
		t.Errorf("an older file: %v", err)
	}
	if _, err := ImportSettings(pc.dir, "", export(2000, "x", true), phrase); !errors.Is(err, ErrOtherManager) {
		t.Errorf("another manager's, by the chain: %v", err)
	}
	if err := os.WriteFile(filepath.Join(pc.dir, importName), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	pc.accepted(t)
	m.want(t, "rubbish", "admin while it works")
	if left := pc.files(t, importName); len(left) > 0 {
		t.Error("rubbish is left")
	}
	if strings.Contains(m.log.String(), "while it works") || strings.Contains(m.log.String(), "by file\"") {
		t.Errorf("the log shows a password: %s", m.log.String())
	}
}

// A power cut at any write leaves the old settings or the new ones, and in the end the new ones.
func TestSettingsAcrossACrash(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"before " + checkin.SettingsFileName, "after " + checkin.SettingsFileName, "after " + chainName} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			m, pc := settled(t)
			pc.accepted(t)
			m.tells(1001, amtSecret)
			func() {
				defer func() { recover() }()
				cut := false
				pc.step = func(step string) {
					if step == at && len(m.reports) == 2 && !cut { // the reply is there
						cut = true
						panic("power cut")
					}
				}
				a := pc.open(t)
				defer a.lock.Unlock()
				a.CheckIn(t.Context())
				t.Error("nothing was cut")
			}()
			pc.step = nil
			pc.accepted(t)
			pc.accepted(t)
			if got := *m.last(t).Settings; got != (checkin.SettingsState{Serial: 1, Version: 1001}) {
				t.Errorf("in the end %v", got)
			}
		})
	}
}

package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const amtSecret = "Zwölf-Geheim-47!"

func amtUser(name, password string) checkin.AMTSettings {
	return checkin.AMTSettings{User: name, Password: checkin.NewPassword(password)}
}

// takes has the PC take settings.
func (p *pc) takes() *pc {
	p.report.Settings = &checkin.SettingsState{}
	return p
}

// told checks in and takes what the reply brings; "" where it brings nothing, "none" where it takes settings back.
func (p *pc) told(hops ...checkin.Hop) string {
	p.m.t.Helper()
	s := p.next()
	s.Hops = hops
	reply := p.send(s)
	if reply.Settings == nil {
		return ""
	}
	opened, err := reply.Settings.Open(p.seed.SealingKey(), p.report.HostID, p.report.Epoch)
	must(p.m.t, err)
	if opened.Serial != p.report.Settings.Serial+1 {
		p.m.t.Errorf("serial %d after %d", opened.Serial, p.report.Settings.Serial)
	}
	p.report.Settings = &opened.SettingsState
	if opened.AMT == nil {
		return "none"
	}
	return opened.AMT.User + " " + opened.AMT.Password.Reveal()
}

func (m *manager) set(scope hostid.ID, s checkin.AMTSettings) uint64 {
	m.t.Helper()
	version, _, err := m.SetAMTSettings(m.t.Context(), scope, s, "sato")
	must(m.t, err)
	return version
}

// Settings come once, to whoever takes them, and again only when they change.
func TestSettingsReachHosts(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, other := newPC(m, "alpha").takes(), newPC(m, "beta")
	expect(t, "before", p.told(), "")
	first := m.set(hostid.ID{}, amtUser("", amtSecret))
	expect(t, "set", p.told(), "admin "+amtSecret)
	expect(t, "version", p.report.Settings.Version, first)
	expect(t, "who takes none", other.told(), "")
	expect(t, "again", p.told(), "")

	version, changed, err := m.SetAMTSettings(t.Context(), hostid.ID{}, amtUser("admin", amtSecret), "sato")
	must(t, err)
	expect(t, "the same", changed, false)
	expect(t, "its version", version, first)
	m.pass(-24 * time.Hour) // a clock that was set back names no version twice
	if second := m.set(hostid.ID{}, amtUser("amtuser", "other")); second <= first {
		t.Errorf("version %d after %d", second, first)
	}
	m.pass(24*time.Hour + time.Minute)
	expect(t, "changed", p.told(), "amtuser other")
	expect(t, "acknowledged", p.told(), "")
	expect(t, "shown", *m.asset(p.report.HostID).Seen.Settings, *p.report.Settings)

	must(t, m.ClearAMTSettings(t.Context(), hostid.ID{}, "sato"))
	expect(t, "cleared", p.told(), "none")
	expect(t, "version", *p.report.Settings, checkin.SettingsState{Serial: 3})
	expect(t, "again", p.told(), "")
	if err := m.ClearAMTSettings(t.Context(), hostid.ID{}, "sato"); !errors.Is(err, ErrUnknown) {
		t.Errorf("cleared twice: %v", err)
	}
	m.set(hostid.ID{}, amtUser("", amtSecret))
	expect(t, "set again", p.told(), "admin "+amtSecret)

	events, err := m.History(t.Context())
	must(t, err)
	var told []string
	for _, e := range events {
		if strings.HasPrefix(e.Kind, "amt-settings") {
			told = append(told, e.Kind)
		}
		if strings.Contains(string(e.Evidence)+e.Sentence(English)+e.Sentence(Japanese), amtSecret) {
			t.Errorf("the history shows the password: %s", e.Evidence)
		}
	}
	expect(t, "history", told, []string{"amt-settings-set", "amt-settings-set", "amt-settings-cleared", "amt-settings-set"})
}

// The same report gets the same reply, though other settings hold by now.
func TestSettingsInAReplyThatIsGivenAgain(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha").takes()
	m.set(hostid.ID{}, amtUser("one", "secret 1"))
	s := p.next()
	first := p.send(s)
	m.set(hostid.ID{}, amtUser("two", "secret 2"))
	expect(t, "reply", p.send(s).Raw, first.Raw)
}

// A host all of whose reports say the same is told all the same, and rests again.
func TestSettingsReachAHostAtRest(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha").takes()
	resting := func() (n int) {
		must(t, m.readers.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM resting`).Scan(&n))
		return n
	}
	rest := func() {
		for range 4 {
			m.pass(DefaultInterval)
			expect(t, "told", p.told(), "")
		}
		expect(t, "resting", resting(), 1)
	}
	p.told()
	rest()
	m.set(hostid.ID{}, amtUser("admin", amtSecret))
	m.pass(DefaultInterval)
	expect(t, "set", p.told(), "admin "+amtSecret)
	expect(t, "resting before it acknowledged", resting(), 0)
	rest()
	must(t, m.ClearAMTSettings(t.Context(), hostid.ID{}, "sato"))
	m.pass(DefaultInterval)
	expect(t, "cleared", p.told(), "none")
}

// A site may have another AMT management user: the nearest one counts.
func TestSettingsOfASite(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	upper, relay := newPC(m, "upper").takes(), newPC(m, "relay").takes()
	above, here := checkin.Hop{Relay: upper.report.HostID}, checkin.Hop{Relay: relay.report.HostID}
	upper.told()
	relay.told(above)
	p, q := newPC(m, "alpha").takes(), newPC(m, "beta").takes()
	m.set(hostid.ID{}, amtUser("everywhere", "1"))
	m.set(relay.report.HostID, amtUser("site", "2"))
	expect(t, "behind the site's relay", p.told(here, above), "site 2")
	expect(t, "the relay itself", relay.told(above), "site 2")
	expect(t, "its higher system", upper.told(), "everywhere 1")
	expect(t, "elsewhere", q.told(above), "everywhere 1")
	m.set(upper.report.HostID, amtUser("country", "3"))
	expect(t, "the nearer one stays", p.told(here, above), "")
	expect(t, "elsewhere behind the upper relay", q.told(above), "country 3")
	expect(t, "moved away", p.told(), "everywhere 1") // older than what it had, and yet the one that holds
	expect(t, "moved back", p.told(here, above), "site 2")
	must(t, m.ClearAMTSettings(t.Context(), relay.report.HostID, "sato"))
	expect(t, "the site has none of its own any more", p.told(here, above), "country 3")

	s, err := m.AMTSettingsFor(t.Context(), relay.report.HostID, upper.report.HostID)
	must(t, err)
	expect(t, "for a run of the relay", s.AMT.User, "country")
	s, err = m.AMTSettingsFor(t.Context())
	must(t, err)
	expect(t, "for the manager's own", s.AMT.User, "everywhere")
	if _, _, err := m.SetAMTSettings(t.Context(), hostid.NewID(), amtUser("x", "y"), "sato"); !errors.Is(err, ErrUnknown) {
		t.Errorf("for a host that nobody knows: %v", err)
	}
	all, err := m.AMTSettings(t.Context())
	must(t, err)
	var names []string
	for _, s := range all {
		names = append(names, s.Name+":"+s.AMT.User)
	}
	expect(t, "all", len(names), 2)
	expect(t, "the first is for all", names[0], ":everywhere")
	expect(t, "then the upper relay's", names[1], "upper:country")
}

// A relay that names another one before itself, on the way of its own report or of a host that is its friend's, is not told what is
// set for that one's site; nor does the manager work with it for that host.
func TestRelayThatNamesAnotherSite(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	bad, victim, lower := newPC(m, "bad").takes(), newPC(m, "victim").takes(), newPC(m, "lower").takes()
	hop := func(p *pc) checkin.Hop { return checkin.Hop{Relay: p.report.HostID} }
	bad.told()
	victim.told()
	lower.told(hop(bad))
	m.set(hostid.ID{}, amtUser("everywhere", "1"))
	m.set(victim.report.HostID, amtUser("site", "2"))
	m.set(lower.report.HostID, amtUser("below", "3"))
	friend := newPC(m, "friend").takes()
	expect(t, "another site is on the way", friend.told(hop(victim), hop(bad)), "")
	expect(t, "another site is far on the way", friend.told(hop(victim), hop(lower), hop(bad)), "")
	expect(t, "as the relay's own", bad.told(hop(victim), hop(bad)), "")
	expect(t, "another way to the relay below", friend.told(hop(lower), hop(victim)), "")
	expect(t, "a relay below", friend.told(hop(lower), hop(bad)), "below 3")
	expect(t, "by the relay itself", friend.told(hop(bad)), "everywhere 1")
	for _, c := range []struct {
		what string
		hops []checkin.Hop
		want string
	}{
		{"another site", []checkin.Hop{hop(victim), hop(bad)}, "everywhere"},
		{"a relay below", []checkin.Hop{hop(lower), hop(bad)}, "below"},
	} {
		friend.told(c.hops...)
		way, err := m.Way(t.Context(), friend.report.HostID)
		must(t, err)
		s, err := m.AMTSettingsFor(t.Context(), way...)
		must(t, err)
		expect(t, "the manager goes by "+c.what, s.AMT.User, c.want)
	}
	// The other relay moves: its own report says so.
	victim.told(hop(bad))
	expect(t, "below by now", friend.told(hop(victim), hop(bad)), "site 2")
}

// Who is in doubt is told nothing, and keeps what it has.
func TestSettingsWaitWhileInDoubt(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (*manager, *pc) {
		m := newManager(t)
		p := newPC(m, "alpha").takes()
		p.told()
		m.set(hostid.ID{}, amtUser("admin", amtSecret))
		return m, p
	}
	t.Run("pending", func(t *testing.T) {
		t.Parallel()
		m, p := start(t)
		m.pass(time.Minute)
		p.begin(checkin.EpochRestore)
		expect(t, "while the former installation is live", p.told(), "")
		m.pass(DefaultInterval)
		expect(t, "still", p.told(), "")
		m.pass(3 * DefaultInterval)
		expect(t, "once it is silent", p.told(), "admin "+amtSecret)
	})
	t.Run("in conflict", func(t *testing.T) {
		t.Parallel()
		m, p := start(t)
		m.pass(4 * DefaultInterval)
		q := p.successor().takes() // the same board, and nothing that proves it
		expect(t, "in conflict", q.told(), "")
		expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
		expect(t, "again", q.told(), "")
		all, err := m.Conflicts(t.Context())
		must(t, err)
		_, err = m.Resolve(t.Context(), all[0].ID, KeepBoth, "sato")
		must(t, err)
		expect(t, "while the order is not acknowledged", q.obey(q.checkIn()).Settings == nil, true)
		expect(t, "once it is resolved", q.told(), "admin "+amtSecret)
	})
	t.Run("unproven", func(t *testing.T) {
		t.Parallel()
		m, p := start(t)
		thief := newPC(m, "alpha").takes()
		thief.report.HostID = p.report.HostID
		expect(t, "another key", thief.told(), "")
		expect(t, "again", thief.told(), "")
	})
	t.Run("on another board", func(t *testing.T) {
		t.Parallel()
		m, p := start(t)
		m.pass(4 * DefaultInterval)
		p.report.Facts = board("another")
		expect(t, "by the bound key", p.told(), "")
	})
	t.Run("in another case", func(t *testing.T) {
		t.Parallel()
		_, p := start(t)
		p.report.Pending = true
		expect(t, "pending by its own word", p.told(), "")
	})
	t.Run("blocked", func(t *testing.T) {
		t.Parallel()
		m, p := start(t)
		m.pass(4 * DefaultInterval)
		p.report.Facts = board("another")
		p.told()
		all, err := m.Conflicts(t.Context())
		must(t, err)
		_, err = m.Resolve(t.Context(), all[0].ID, Block, "sato")
		must(t, err)
		p.report.Facts = board("alpha")
		expect(t, "blocked", p.told(), "")
		m.pass(4 * DefaultInterval)
		expect(t, "still", p.told(), "")
	})
	t.Run("late", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p := newPC(m, "alpha").takes()
		first := p.next()
		p.send(first)
		held := p.next()
		p.send(p.next()) // overtakes
		m.set(hostid.ID{}, amtUser("admin", amtSecret))
		expect(t, "a report that others followed", p.send(held).Settings == nil, true)
		expect(t, "the next", p.told(), "admin "+amtSecret)
	})
	for state, mark := range map[string]func(m *manager, id hostid.ID) error{
		"retired": func(m *manager, id hostid.ID) error {
			_, err := m.Retire(context.Background(), id, Actor{Who: "sato"})
			return err
		},
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			m, p := start(t)
			must(t, mark(m, p.report.HostID))
			expect(t, state, p.told(), "")
		})
	}
}

// What one host is told opens for no other host, epoch or number.
func TestSettingsAreForOneHost(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, q := newPC(m, "alpha").takes(), newPC(m, "beta").takes()
	m.set(hostid.ID{}, amtUser("admin", amtSecret))
	reply, other := p.checkIn(), q.checkIn()
	if strings.Contains(reply.Raw, amtSecret) {
		t.Error("the reply shows the password")
	}
	for why, open := range map[string]func() (checkin.Settings, error){
		"another host's in its place": func() (checkin.Settings, error) {
			return other.Settings.Open(p.seed.SealingKey(), p.report.HostID, p.report.Epoch)
		},
		"another host's key": func() (checkin.Settings, error) {
			return reply.Settings.Open(q.seed.SealingKey(), p.report.HostID, p.report.Epoch)
		},
		"another epoch": func() (checkin.Settings, error) {
			return reply.Settings.Open(p.seed.SealingKey(), p.report.HostID, checkin.NewToken())
		},
		"a higher serial": func() (checkin.Settings, error) {
			s := *reply.Settings
			s.Serial += 7
			return s.Open(p.seed.SealingKey(), p.report.HostID, p.report.Epoch)
		},
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opened", why)
		}
	}
}

// Neither the database nor a copy of it holds the password, and a row serves only where it was put.
func TestSettingsAtRest(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha").takes()
	p.told()
	m.set(hostid.ID{}, amtUser("admin", amtSecret))
	m.set(p.report.HostID, amtUser("site", amtSecret+"2"))
	expect(t, "told", p.told(), "site "+amtSecret+"2")
	if path, is := strings.CutPrefix(m.dsn, "sqlite:"); is {
		copied := filepath.Join(t.TempDir(), "copy.db")
		must(t, m.Backup(t.Context(), copied))
		for _, file := range []string{path, path + "-wal", copied} {
			b, err := os.ReadFile(file)
			must(t, err)
			if bytes.Contains(b, []byte(amtSecret)) {
				t.Errorf("%s holds the password", filepath.Base(file))
			}
		}
	} else {
		rows := func(query string) []string {
			list, err := scanAll(t.Context(), m.readers, scanText, query)
			must(t, err)
			return list
		}
		tables := rows(`SELECT CAST(relname AS TEXT) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'`)
		if !slices.Contains(tables, "amt_settings") {
			t.Fatalf("tables: %q", tables)
		}
		for _, table := range tables {
			for _, row := range rows(`SELECT CAST(x AS TEXT) FROM ` + table + ` x`) { // bytes as hex digits
				if strings.Contains(row, amtSecret) || strings.Contains(row, hex.EncodeToString([]byte(amtSecret))) {
					t.Errorf("table %s holds the password", table)
				}
			}
		}
	}

	own := m.key
	m.key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	if _, err := m.AMTSettings(t.Context()); !errors.Is(err, ErrSettingsKey) {
		t.Errorf("another manager's key: %v", err)
	}
	m.key = own
	_, err := m.writers.ExecContext(t.Context(), `UPDATE amt_settings SET sealed = (SELECT sealed FROM amt_settings WHERE scope <> '')`)
	must(t, err)
	if _, err := m.AMTSettings(t.Context()); !errors.Is(err, ErrSettingsKey) {
		t.Errorf("a row in the place of another: %v", err)
	}
	q := newPC(m, "beta").takes()
	expect(t, "a check-in goes on without them", q.told(), "")
}

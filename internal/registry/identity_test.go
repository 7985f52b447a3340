package registry

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

func key(p *pc) ed25519.PublicKey { return p.seed.SigningKey().Public().(ed25519.PublicKey) }

// replaces puts the statement into the reports of p that it took the place of old.
func (p *pc) replaces(old *pc) {
	p.m.t.Helper()
	p.replacesAs(old, checkin.Replacement{Old: old.report.HostID, New: p.report.HostID, NewKey: key(p), Audience: p.m.audience})
}

func (p *pc) replacesAs(signer *pc, r checkin.Replacement) {
	p.m.t.Helper()
	jws, err := checkin.SignReplacement(r, signer.seed.SigningKey())
	must(p.m.t, err)
	p.report.Replaced = []string{jws}
}

// successor is the PC after its disk failed and its memory could not be read: a new ID and seed on the same board.
func (p *pc) successor() *pc {
	q := newPC(p.m, p.report.Names.Host)
	q.report.Facts = p.report.Facts
	return q
}

// S11: even where the old ID was overwritten, one asset is left, under both IDs.
func TestReplacedIDBecomesAnAlias(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old := newPC(m, "alpha")
	old.checkIn()
	m.pass(4 * DefaultInterval)
	p := old.successor()
	expect(t, "named", p.checkIn().Named, nil)
	expect(t, "assets", m.assetCount(), 2)
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})

	p.replaces(old)
	expect(t, "named", p.checkIn().Named, []hostid.ID{old.report.HostID})
	expect(t, "assets", m.assetCount(), 1)
	a := m.asset(old.report.HostID)
	expect(t, "IDs", a.HostIDs, []hostid.ID{p.report.HostID, old.report.HostID})
	expect(t, "the same by its other ID", m.asset(p.report.HostID), a)
	expect(t, "state", a.State, Live)
	expect(t, "conflicts", m.conflictKinds(), nil)
	expect(t, "events", m.kinds(old.report.HostID), []string{
		"token-used", "enrolled", "token-used", "enrolled", "conflict-same-board", "rule-would", "conflict-settled", "replaced"})

	// The statement stays in the reports until a reply that names it has come.
	expect(t, "named again", p.checkIn().Named, []hostid.ID{old.report.HostID})
	expect(t, "events", len(m.kinds(old.report.HostID)), 8)
}

func TestReplacedWhileTheOldOneWasJustHeard(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old := newPC(m, "alpha")
	old.checkIn()
	m.pass(time.Minute)
	p := old.successor()
	p.replaces(old)
	expect(t, "named", p.checkIn().Named, []hostid.ID{old.report.HostID})
	expect(t, "assets", m.assetCount(), 1)
	expect(t, "state", m.asset(old.report.HostID).State, Pending)
	expect(t, "host ID", m.asset(old.report.HostID).HostID, p.report.HostID)
	m.pass(3 * DefaultInterval)
	p.checkIn()
	expect(t, "state", m.asset(old.report.HostID).State, Live)
}

// A reinstalled PC that still waits for its former installation names nothing yet.
func TestReplacedWaitsWithItsEpoch(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old := newPC(m, "alpha")
	old.checkIn()
	p := newPC(m, "alpha")
	p.report.Facts = old.report.Facts
	p.checkIn()
	p.begin(checkin.EpochRestore)
	p.replaces(old)
	expect(t, "named", p.checkIn().Named, nil)
	expect(t, "assets", m.assetCount(), 2)
	m.pass(3 * DefaultInterval)
	expect(t, "named", p.checkIn().Named, []hostid.ID{old.report.HostID})
	expect(t, "assets", m.assetCount(), 1)
}

func TestReplacementsThatDoNotHold(t *testing.T) {
	t.Parallel()
	for reason, forge := range map[string]func(m *manager, p, old *pc){
		"key": func(m *manager, p, old *pc) {
			p.replacesAs(newPC(m, "stranger"), checkin.Replacement{Old: old.report.HostID, New: p.report.HostID, NewKey: key(p), Audience: m.audience})
		},
		"new-key": func(m *manager, p, old *pc) {
			p.replacesAs(old, checkin.Replacement{Old: old.report.HostID, New: p.report.HostID, NewKey: key(old), Audience: m.audience})
		},
		"audience": func(m *manager, p, old *pc) {
			p.replacesAs(old, checkin.Replacement{Old: old.report.HostID, New: p.report.HostID, NewKey: key(p), Audience: checkin.FingerprintOf(key(old))})
		},
		"signature": func(m *manager, p, old *pc) { p.report.Replaced = []string{"no.such.jws"} },
		"board": func(m *manager, p, old *pc) {
			p.report.Facts = board("another")
			p.replaces(old)
		},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			old := newPC(m, "alpha")
			old.checkIn()
			before := m.asset(old.report.HostID)
			p := old.successor()
			forge(m, p, old)
			expect(t, "named", p.checkIn().Named, nil)
			expect(t, "named", p.checkIn().Named, nil)
			expect(t, "assets", m.assetCount(), 2)
			expect(t, "the old asset", m.asset(old.report.HostID), before)
			conflicts := []string{"replacement", "same-board"}
			if reason == "board" {
				conflicts = conflicts[:1]
			}
			expect(t, "conflicts", m.conflictKinds(), conflicts)
			all, err := m.Conflicts(t.Context())
			must(t, err)
			var evidence struct{ Reason string }
			must(t, json.Unmarshal(all[0].Evidence, &evidence))
			expect(t, "reason", evidence.Reason, reason)
		})
	}
}

// A PC that was reinstalled and restored nothing has evidence but no proof: a person decides, and nothing is joined.
func TestEvidenceWithoutAKey(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	old, bystander := newPC(m, "alpha"), newPC(m, "beta")
	old.checkIn()
	bystander.checkIn()
	m.pass(4 * DefaultInterval)
	p := old.successor()
	p.report.Facts.Disks = board("new disk").Disks
	p.report.Names.Host = "alpha-reinstalled"
	expect(t, "provisional", p.checkIn().Provisional, true)
	p.checkIn()
	expect(t, "assets", m.assetCount(), 3)
	all, err := m.Conflicts(t.Context())
	must(t, err)
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
	var evidence struct {
		OtherHost  hostid.ID `json:"other_host"`
		OtherName  string    `json:"other_name"`
		OtherLive  bool      `json:"other_live"`
		OtherHeard time.Time `json:"other_heard"`
		Assets     int       `json:"assets_on_this_board"`
	}
	must(t, json.Unmarshal(all[0].Evidence, &evidence))
	expect(t, "other host", evidence.OtherHost, old.report.HostID)
	expect(t, "other name", evidence.OtherName, "alpha")
	expect(t, "other live", evidence.OtherLive, false)
	expect(t, "other heard", evidence.OtherHeard, testEpoch)
	expect(t, "assets on this board", evidence.Assets, 2)
	expect(t, "host", all[0].HostID, p.report.HostID)
	expect(t, "the bystander is not provisional", bystander.checkIn().Provisional, false)
}

// What many PCs share is evidence of nothing; one fact more makes it a conflict, once for each asset.
func TestSharedFactsAreNoEvidence(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	var last *pc
	for i := range 5 {
		p := newPC(m, fmt.Sprint("model-", i))
		p.report.Facts.SystemUUID = "4c4c4544-0031-4a10-8042-b4c04f5a3131" // the whole model's
		p.checkIn()
		last = p
	}
	expect(t, "conflicts", m.conflictKinds(), nil)

	var crowd []*pc
	for range 4 {
		p := newPC(m, "crowd")
		p.report.Facts = last.report.Facts
		p.report.Facts.NICs = nil
		p.checkIn()
		crowd = append(crowd, p)
	}
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
	for _, p := range crowd {
		p.report.Facts.NICs = last.report.Facts.NICs
		p.checkIn()
	}
	expect(t, "one conflict for all", len(m.conflictKinds()), 1)
	expect(t, "assets", m.assetCount(), 9)
}

// The board facts by which others are found follow the asset.
func TestFoundByFactsLearntLater(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	a := newPC(m, "alpha")
	whole := a.report.Facts
	a.report.Facts = hardware.Facts{SystemUUID: "00000000-0000-0000-0000-000000000000", SystemSerial: "To Be Filled By O.E.M."}
	a.checkIn()
	b := newPC(m, "beta")
	b.report.Facts = whole
	b.checkIn()
	expect(t, "conflicts", m.conflictKinds(), nil)
	a.report.Facts = whole
	expect(t, "provisional", a.checkIn().Provisional, true)
	expect(t, "conflicts", m.conflictKinds(), []string{"same-board"})
}

// An ID that was replaced before it ever checked in is an alias; its proof binds nothing.
func TestReplacedUnknownID(t *testing.T) {
	t.Parallel()
	t.Run("never heard", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		old, p := newPC(m, "alpha"), newPC(m, "alpha")
		p.replaces(old)
		expect(t, "named", p.checkIn().Named, []hostid.ID{old.report.HostID})
		expect(t, "IDs", m.asset(old.report.HostID).HostIDs, []hostid.ID{p.report.HostID, old.report.HostID})
		expect(t, "conflicts", m.conflictKinds(), nil)
		old.enrol = nil
		if _, err := m.CheckIn(t.Context(), old.next()); err == nil {
			t.Error("an ID that never enrolled was accepted without a token")
		}
	})
	t.Run("comes later with the same key", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		old, p := newPC(m, "alpha"), newPC(m, "alpha")
		p.replaces(old)
		p.checkIn()
		old.checkIn()
		expect(t, "assets", m.assetCount(), 1)
		expect(t, "conflicts", m.conflictKinds(), nil)
	})
	t.Run("comes later with another key", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		victim, thief := newPC(m, "victim"), newPC(m, "thief")
		thief.replacesAs(newPC(m, "x"), checkin.Replacement{Old: victim.report.HostID, New: thief.report.HostID, NewKey: key(thief), Audience: m.audience})
		thief.checkIn()
		victim.checkIn()
		expect(t, "assets", m.assetCount(), 2)
		expect(t, "victim's", m.asset(victim.report.HostID).HostIDs, []hostid.ID{victim.report.HostID})
		expect(t, "thief's", m.asset(thief.report.HostID).HostIDs, []hostid.ID{thief.report.HostID})
		expect(t, "conflicts", m.conflictKinds(), []string{"replacement"})
	})
}

// A known ID under another key gets service, and nothing of the asset.
func TestOtherKey(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	p.checkIn()
	before := m.asset(p.report.HostID)
	thief := newPC(m, "thief")
	thief.report.HostID = p.report.HostID
	thief.report.Facts = p.report.Facts
	thief.replaces(newPC(m, "x"))
	expect(t, "provisional", thief.checkIn().Provisional, true)
	thief.enrol = nil
	m.pass(10 * time.Minute)
	thief.checkIn()
	expect(t, "conflicts", m.conflictKinds(), []string{"other-key"})
	after := m.asset(p.report.HostID)
	expect(t, "state", after.State, InConflict)
	after.State, after.Conflicts, after.Open = before.State, before.Conflicts, before.Open
	expect(t, "asset", after, before)
	expect(t, "the true one", p.checkIn().Provisional, false)
}

// A key that is proven on another board changes nothing until somebody decides.
func TestOtherBoard(t *testing.T) {
	t.Parallel()
	for _, newEpoch := range []bool{false, true} {
		t.Run(fmt.Sprint("new epoch ", newEpoch), func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			p := newPC(m, "alpha")
			p.checkIn()
			m.pass(time.Hour)
			if newEpoch {
				p.begin(checkin.EpochRestore)
			}
			p.report.Facts = board("other")
			p.report.Names.Host = "other"
			expect(t, "provisional", p.checkIn().Provisional, true)
			p.checkIn()
			a := m.asset(p.report.HostID)
			expect(t, "facts", a.Facts, board("alpha"))
			expect(t, "name", a.Name, "alpha")
			expect(t, "state", a.State, InConflict)
			expect(t, "last check-in", a.LastCheckin, m.clock())
			expect(t, "conflicts", m.conflictKinds(), []string{"other-board"})
		})
	}
}

// The acceptance table of what may change on a PC that stays the same asset, and does.
func TestFacts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*hardware.Facts)
		want   func(*hardware.Facts)
		event  string
	}{
		"disk replaced": {
			func(f *hardware.Facts) { f.Disks = []hardware.Disk{{Serial: "disk 2", System: true}} },
			func(f *hardware.Facts) { f.Disks = []hardware.Disk{{Serial: "disk 2", System: true}} }, "disk_serial"},
		"onboard interface dead": {
			func(f *hardware.Facts) { f.NICs = []hardware.NIC{{MAC: "02-00-00-00-00-01"}} }, nil, ""},
		"interface replaced": {
			func(f *hardware.Facts) {
				f.NICs = []hardware.NIC{{MAC: "00-1B-21-0A-0B-0C", Permanent: true, Onboard: true}}
			},
			func(f *hardware.Facts) {
				f.NICs = []hardware.NIC{{MAC: "00-1B-21-0A-0B-0C", Permanent: true, Onboard: true}}
			}, "onboard_mac"},
		"serial becomes a placeholder": {func(f *hardware.Facts) { f.BoardSerial = "Default string" }, nil, ""},
		"serial not read":              {func(f *hardware.Facts) { f.SystemSerial = "" }, nil, ""},
		"board undecided": {
			func(f *hardware.Facts) {
				f.SystemUUID, f.NICs, f.SystemSerial, f.ChassisSerial = "4c4c4544-0031-4a10-8042-ffffffffff00", nil, "", ""
				f.Disks = []hardware.Disk{{Serial: "disk 2", System: true}}
			}, nil, ""},
		"everything not read": {func(f *hardware.Facts) { *f = hardware.Facts{} }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			p := newPC(m, "alpha")
			p.checkIn()
			want := p.report.Facts
			tt.change(&p.report.Facts)
			p.checkIn()
			if tt.want != nil {
				tt.want(&want)
			}
			expect(t, "facts", m.asset(p.report.HostID).Facts, want)
			wantEvents := []string{"token-used", "enrolled"}
			if tt.event != "" {
				wantEvents = append(wantEvents, "facts")
			}
			expect(t, "events", m.kinds(p.report.HostID), wantEvents)
			if tt.event != "" {
				events, err := m.HistoryOf(t.Context(), p.report.HostID)
				must(t, err)
				if s := events[2].Sentence(English); !strings.Contains(s, tt.event) {
					t.Errorf("sentence %q does not name %s", s, tt.event)
				}
			}
			expect(t, "conflicts", m.conflictKinds(), nil)
		})
	}
}

// A PC that says nothing that tells boards apart is known by its key; facts it learns later become its own.
func TestFactsLearntLate(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	facts := p.report.Facts
	p.report.Facts = hardware.Facts{}
	p.checkIn()
	p.report.Facts = facts
	p.checkIn()
	expect(t, "facts", m.asset(p.report.HostID).Facts, facts)
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "facts"})
}

func TestChain(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*manager, *pc) {
		m := newManager(t)
		p := newPC(m, "alpha")
		p.checkIn()
		m.pass(DefaultInterval)
		return m, p
	}
	branches := func(m *manager, p *pc) int { return m.asset(p.report.HostID).Hosts[0].Branches }

	t.Run("rollback", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		backup := p.clone()
		p.checkIn()
		m.pass(DefaultInterval)
		backup.start() // the machine is set back: later, alone
		backup.checkIn()
		m.pass(DefaultInterval)
		backup.checkIn()
		expect(t, "branches", branches(m, p), 2)
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "fork", "waits"})
		m.pass(DefaultInterval)
		backup.checkIn()
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "fork", "waits", "keeps"})
		expect(t, "conflicts", m.conflictKinds(), nil)
	})
	t.Run("snapshot with its memory", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		snapshot := p.clone() // the same run goes on, its age reaching back
		for range 4 {
			p.checkIn()
			m.pass(DefaultInterval)
		}
		for range 4 {
			snapshot.checkIn()
			m.pass(DefaultInterval)
		}
		expect(t, "branches", branches(m, p), 2)
		expect(t, "conflicts", m.conflictKinds(), nil)
	})
	t.Run("fork from the beginning", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p := newPC(m, "alpha")
		backup := p.clone()
		p.checkIn()
		m.pass(time.Hour)
		backup.start()
		backup.checkIn()
		expect(t, "branches", branches(m, p), 2)
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "fork", "keeps"})
	})
	t.Run("two live copies", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		copied := p.clone()
		copied.start()
		for range 3 {
			p.checkIn()
			m.pass(time.Minute)
			copied.checkIn()
			m.pass(time.Minute)
		}
		expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
		expect(t, "state", m.asset(p.report.HostID).State, InConflict)
		expect(t, "provisional", p.checkIn().Provisional, true)
		expect(t, "provisional", copied.checkIn().Provisional, true)
		expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
	})
	t.Run("live copy under a new epoch", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		copied := p.clone()
		copied.begin(checkin.EpochUnread)
		for range 3 {
			p.checkIn()
			m.pass(time.Minute)
			copied.checkIn()
			m.pass(time.Minute)
		}
		expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
	})
	t.Run("live copy of a state that was trimmed", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		image := p.clone()
		p.checkIn()
		m.pass(keepReport + time.Hour)
		p.start()
		p.checkIn()
		p.checkIn()
		must(t, m.Trim(t.Context()))
		image.start()
		for range 3 {
			image.checkIn()
			m.pass(time.Minute)
			p.checkIn()
			m.pass(time.Minute)
		}
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "gap", "conflict-overlap"})
	})
	t.Run("replaced ID lives on", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		q := p.successor()
		q.replaces(p)
		for range 3 {
			q.checkIn()
			m.pass(time.Minute)
			p.checkIn()
			m.pass(time.Minute)
		}
		expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
		expect(t, "assets", m.assetCount(), 2)
	})
	t.Run("exactly two minutes are no overlap", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		p.checkIn()
		copied := p.clone()
		copied.start()
		copied.checkIn()
		m.pass(2 * time.Minute)
		p.checkIn()
		copied.checkIn()
		expect(t, "conflicts", m.conflictKinds(), nil)
		m.pass(time.Millisecond)
		p.checkIn()
		expect(t, "conflicts", m.conflictKinds(), nil)
		copied.checkIn()
		expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
	})
	t.Run("a copy that was heard once is not yet certain", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		p.checkIn()
		copied := p.clone()
		copied.start()
		p.checkIn()
		m.pass(10 * time.Minute)
		copied.checkIn()
		m.pass(time.Minute)
		p.checkIn()
		expect(t, "conflicts", m.conflictKinds(), nil)
		copied.checkIn()
		expect(t, "conflicts", m.conflictKinds(), []string{"overlap"})
	})
	t.Run("two systems on one PC, one long without a network", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		other := p.clone()
		other.begin(checkin.EpochRestore)
		m.pass(2 * time.Hour)
		kept := p.next() // made after hours, not delivered
		m.pass(time.Minute)
		other.start()
		for range 6 {
			other.checkIn()
			m.pass(DefaultInterval)
		}
		p.start()
		p.send(kept) // sent again in another run: its age reaches into the other's time
		p.checkIn()
		m.pass(time.Minute)
		p.checkIn()
		expect(t, "conflicts", m.conflictKinds(), nil)
		expect(t, "assets", m.assetCount(), 1)
	})
	t.Run("gap closed", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		late := p.next()
		p.checkIn()
		expect(t, "branches", branches(m, p), 2)
		p.send(late)
		p.checkIn()
		expect(t, "branches", branches(m, p), 1)
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "gap", "gap-closed"})
	})
	t.Run("gap left open", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		p.next()
		p.report.Names.Host = "renamed"
		p.checkIn()
		p.checkIn()
		expect(t, "branches", branches(m, p), 2)
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "gap"})
		expect(t, "state", m.asset(p.report.HostID).State, Live)
		expect(t, "name", m.asset(p.report.HostID).Name, "renamed")
		expect(t, "conflicts", m.conflictKinds(), nil)
	})
	t.Run("the missing report shows a fork", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		late := p.next()
		copied := p.clone()
		copied.start()
		p.checkIn()
		copied.checkIn()
		p.send(late)
		expect(t, "branches", branches(m, p), 2)
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "gap", "gap", "gap-closed", "fork"})
	})
	t.Run("first report comes last", func(t *testing.T) {
		t.Parallel()
		m := newManager(t)
		p := newPC(m, "alpha")
		first := p.next()
		p.checkIn()
		p.send(first)
		p.checkIn()
		expect(t, "branches", branches(m, p), 1)
		expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "gap", "gap-closed"})
	})
	t.Run("restart and reinstallation do not overlap", func(t *testing.T) {
		t.Parallel()
		m, p := setup(t)
		for i := range 6 {
			m.pass(DefaultInterval)
			p.checkIn()
			m.pass(time.Second)
			if p.start(); i%2 == 1 {
				p.begin(checkin.EpochRestore)
			}
			p.checkIn()
		}
		expect(t, "conflicts", m.conflictKinds(), nil)
		expect(t, "assets", m.assetCount(), 1)
	})
}

func TestTrim(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, quiet := newPC(m, "alpha"), newPC(m, "quiet")
	quietReport := quiet.next()
	quietReply := quiet.send(quietReport)
	const reports = trimAtOnce + 20 // more than one transaction takes
	first := p.next()
	firstReply := p.send(first)
	// All but the last, told to the database in one go.
	_, err := m.writers.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO reports SELECT 'x' || i, epoch_id, branch_id, 'y' || i, run, 0, received, '', jws, reply FROM n, reports WHERE digest = $2`,
		reports-1, first.Digest().String())
	must(t, err)
	p.checkIn()
	count := func(where string) (n int) {
		t.Helper()
		must(t, m.readers.QueryRow(`SELECT COUNT(*) FROM reports WHERE `+where).Scan(&n))
		return n
	}
	m.pass(keepText)
	must(t, m.Trim(t.Context()))
	expect(t, "texts kept", count(`jws <> ''`), reports+2)
	m.pass(time.Millisecond)
	must(t, m.Trim(t.Context()))
	expect(t, "texts kept", count(`jws <> ''`), 2)
	expect(t, "reports", count(`TRUE`), reports+2)

	again := p.send(first) // accepted already: a new reply, and nothing else
	expect(t, "time of the new reply", again.Time, firstReply.Time.Add(keepText+time.Millisecond))
	expect(t, "reports", count(`TRUE`), reports+2)
	expect(t, "reply of a tip", quiet.send(quietReport), quietReply)

	m.pass(keepReport)
	must(t, m.Trim(t.Context()))
	expect(t, "reports", count(`TRUE`), 2)
	p.start()
	p.checkIn() // the line goes on
	expect(t, "branches", m.asset(p.report.HostID).Hosts[0].Branches, 1)
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled"})
}

func TestObservations(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	other := hostid.NewID()
	p.report.Observations = []checkin.Observation{
		{Kind: string(hostid.MemoryForeign), Mine: p.report.HostID, Other: other, Detail: "the memory is another PC's"},
		{Kind: "dropped", Mine: p.report.HostID, Detail: "given way"},
	}
	p.report.Pending = true
	expect(t, "provisional", p.checkIn().Provisional, true)
	p.checkIn()
	expect(t, "conflicts", m.conflictKinds(), []string{"observed", "observed"})
	expect(t, "events", m.kinds(p.report.HostID), []string{"token-used", "enrolled", "conflict-observed", "observed", "conflict-observed"})

	p.report.Observations = nil
	for i := range maxObservations { // ever new things
		p.report.Observations = append(p.report.Observations, checkin.Observation{Kind: fmt.Sprint("new", i)})
	}
	for range 3 {
		p.checkIn()
		for i := range p.report.Observations {
			p.report.Observations[i].Kind += "x"
		}
	}
	expect(t, "events", len(m.kinds(p.report.HostID)), 4+maxObservations)
}

func TestLineage(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p, q := newPC(m, "alpha"), newPC(m, "beta")
	p.checkIn()
	q.report.CopyOf = p.report.HostID
	q.checkIn()
	expect(t, "assets", m.assetCount(), 2)
	expect(t, "copy of", m.asset(q.report.HostID).Hosts[0].CopyOf, p.report.HostID.String())
	expect(t, "events", m.kinds(q.report.HostID), []string{"token-used", "enrolled-copy"})
}

// A delta on another report than the latest full one says too little to show: the manager asks for a full report.
func TestDelta(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	p := newPC(m, "alpha")
	first := p.next()
	p.send(first)
	p.checkIn()
	d := p.clone()
	d.report, _ = d.report.Delta(first.Digest())
	d.enrol = nil
	reply := d.checkIn()
	if len(reply.Orders) != 1 || reply.Orders[0].Kind != "full-report" || reply.Orders[0].Epoch != d.report.Epoch || reply.Orders[0].Run != d.report.Run {
		t.Errorf("orders %+v, want one full-report", reply.Orders)
	}
	expect(t, "name", m.asset(p.report.HostID).Name, "alpha")
	expect(t, "facts", m.asset(p.report.HostID).Facts, p.report.Facts)
}

// Text in a report is text: it is stored as it came, whatever it looks like.
func TestHostileText(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	bystander := newPC(m, "bystander")
	bystander.checkIn()
	hostile := "'; DROP TABLE hosts; --\x00\x1b[2J\u202egnp.exe\u2028<script>alert(1)</script>{host_id}{old}%s%!d\\\"\r\n" + strings.Repeat("A", 100)
	p := newPC(m, hostile)
	r := &p.report
	r.Names.FQDN, r.Versions.OS, r.Versions.Client, r.Time = hostile, hostile, hostile, hostile
	r.Stores = []checkin.StoreState{{Name: hostile, State: hostile, Error: strings.Repeat(hostile, 4)}}
	r.Origin, r.EpochBy = hostid.Origin(hostile), checkin.EpochBy(hostile)
	r.Observations = []checkin.Observation{{Kind: hostile, Detail: hostile}, {Kind: string(hostid.Moved), Detail: hostile}}
	r.Facts = hardware.Facts{SystemUUID: hostile, SystemSerial: hostile, BoardSerial: hostile, ChassisSerial: hostile, TPMEKSHA256: hostile,
		Disks: []hardware.Disk{{Serial: hostile, System: true}}, NICs: []hardware.NIC{{MAC: hostile, Permanent: true, Onboard: true}}}
	p.checkIn()
	a := m.asset(r.HostID)
	expect(t, "name", a.Name, hostile)
	expect(t, "seen", a.Seen, seenIn(*r))
	expect(t, "facts", a.Facts, r.Facts)
	var back AssetDetail
	b, err := json.Marshal(a)
	must(t, err)
	must(t, json.Unmarshal(b, &back))
	expect(t, "through JSON", back.Name, hostile)
	events, err := m.HistoryOf(t.Context(), r.HostID)
	must(t, err)
	if s := events[1].Sentence(English); !strings.HasPrefix(s, hostile+" was enrolled under host ID "+r.HostID.String()) {
		t.Errorf("sentence %q", s)
	}
	expect(t, "assets", m.assetCount(), 2)
	must(t, m.Ready(t.Context()))
}

// Every kind of event has both sentences, with the same names in them.
func TestSentences(t *testing.T) {
	t.Parallel()
	names := func(s string) map[string]bool {
		found := map[string]bool{}
		for {
			_, rest, ok := strings.Cut(s, "{")
			if !ok {
				return found
			}
			name, after, _ := strings.Cut(rest, "}")
			if !strings.HasSuffix(name, ":s") { // an English ending
				found[name] = true
			}
			s = after
		}
	}
	for kind, s := range sentences {
		if s.en == "" || s.ja == "" {
			t.Errorf("%s lacks a sentence", kind)
		}
		expect(t, "names in the sentences of "+kind, names(s.ja), names(s.en))
		if strings.ContainsAny(s.ja, "abcdefghijklmnopqrstuvwxyz") && len(names(s.ja)) == 0 {
			t.Errorf("%s: %q does not look Japanese", kind, s.ja)
		}
	}
	got := sentence("relay-certified", hostid.ID{1}, json.RawMessage(`{"names": ["relay1.example", "192.0.2.20"], "until": "tomorrow"}`), English)
	expect(t, "several names in a sentence", got, "The relay of host ID 01000000000000000000000000000000 was given a certificate for relay1.example, 192.0.2.20, valid until tomorrow.")
}

// Check-ins come at the same time, over two openings of one database as two processes have; each counts once.
func TestConcurrentCheckIns(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	second, err := Open(t.Context(), m.dsn, Options{Key: m.key, Now: m.clock})
	must(t, err)
	defer second.Close()
	const pcs, reports = 8, 5
	var wg sync.WaitGroup
	for i := range pcs {
		p := newPC(m, fmt.Sprint("pc", i))
		for range reports {
			s := p.next()
			for _, reg := range []*Registry{m.Registry, second} { // each report arrives twice, in any order
				wg.Go(func() {
					if _, err := reg.CheckIn(t.Context(), s); err != nil {
						t.Errorf("check-in: %v", err)
					}
				})
			}
		}
	}
	wg.Wait()
	all, err := m.Assets(t.Context())
	must(t, err)
	expect(t, "assets", len(all), pcs)
	for _, a := range all {
		expect(t, "epochs of "+a.Name, a.Hosts[0].Epochs, 1)
		expect(t, "branches of "+a.Name, a.Hosts[0].Branches, 1)
	}
	toks, err := m.Tokens(t.Context())
	must(t, err)
	expect(t, "uses", toks[0].Uses, int64(pcs))
}

// Processes that find an empty database at the same time make its tables once.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "samehost.db")
	must(t, os.WriteFile(path, nil, 0o600))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			reg, err := openSQLite(t.Context(), path, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer reg.Close()
			if _, err := reg.Assets(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A database that is somebody else's, or that lost what marks it as ours, is left alone.
func TestForeignDatabase(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	must(t, m.write(t.Context(), func(t *transaction) error {
		_, err := t.exec(`PRAGMA application_id = 0`)
		return err
	}))
	if _, err := Open(t.Context(), m.dsn, Options{}); err == nil || !strings.Contains(err.Error(), "another program's") {
		t.Errorf("got %v", err)
	}
	path := strings.TrimPrefix(m.dsn, "sqlite:")
	for content, want := range map[string]string{"": "is empty", "short": "is no SQLite database", strings.Repeat("long enough ", 500): "is no SQLite database"} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := Open(t.Context(), m.dsn, Options{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%.10q: got %v", content, err)
		}
	}
}

func TestNewerDatabase(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	must(t, m.write(t.Context(), func(t *transaction) error {
		_, err := t.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, TRUE)`)
		return err
	}))
	_, err := Open(t.Context(), m.dsn, Options{})
	if err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("got %v, want the advice to upgrade", err)
	}
}

// What CheckIn returned is on disk: every connection works with synchronous=FULL, in a write-ahead log.
func TestSettingsOfEveryConnection(t *testing.T) {
	t.Parallel()
	m := newSQLite(t)
	for _, db := range []interface {
		queryer
	}{m.readers, m.writers} {
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
			got, err := scanAll(t.Context(), db, func(scan func(...any) error) (s string, err error) { return s, scan(&s) }, "PRAGMA "+pragma)
			must(t, err)
			expect(t, pragma, got, []string{want})
		}
	}
}

package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

// named is a PC with a name, an address and an adapter.
func named(t testing.TB, name, address, mac string) *pc {
	p := newPC(t)
	p.report.Names.Host = name
	p.report.Addresses = []string{"127.0.0.1", address}
	p.report.Facts.NICs = []hardware.NIC{{MAC: mac, Permanent: true, Onboard: true}}
	return p
}

// lines are what `sysconfig export` writes, each without its date.
func lines(t testing.TB, dir string, enc sysconfig.Encoding) (text, remarks []string) {
	t.Helper()
	entries, remarks, err := SystemConfiguration(dir, enc)
	must(t, err)
	var b bytes.Buffer
	must(t, sysconfig.Write(&b, slices.Values(entries), enc))
	for l := range strings.Lines(b.String()) {
		before, _, _ := strings.Cut(strings.TrimSpace(l), ",DATE=")
		text = append(text, before)
	}
	return text, remarks
}

func own(name, address string) host {
	return host{HostID: relayID, Name: name, Address: netip.MustParseAddr(address), Last: 1}
}

// What stands in the file: the relay, hosts below it and below lower relays, as they said themselves; deltas keep it, a move and a new
// name change it, a restart loses nothing.
func TestSystemConfigurationOfASite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir, up := t.TempDir(), newAbove()
		if _, _, err := SystemConfiguration(dir, sysconfig.UTF8); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("before anything: %v", err)
		}
		var later atomic.Int64
		wall := func(o *Options) { o.Wall = func() time.Time { return time.Now().Add(time.Duration(later.Load())) } }
		r := open(t, dir, up, wall)
		r.noteOwn(own("relay1", "192.0.2.1"))
		one, two, lower := named(t, "PC0001", "192.0.2.10", "00-1B-21-00-00-01"), named(t, "PC0002", "192.0.2.11", ""), named(t, "relay2", "192.0.2.2", "")
		lower.report.Relay = &checkin.RelayState{Bound: 1}
		hops := []checkin.Hop{{Relay: lower.report.HostID}}
		report := func(p *pc, hops []checkin.Hop) checkin.SignedReport {
			t.Helper()
			s := p.next()
			s.Hops = hops
			if _, err := r.CheckIn(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			return s
		}
		base := report(one, nil)
		report(two, hops)
		report(lower, nil)
		time.Sleep(saveChanged + time.Second)
		must(t, r.SaveSubtree())
		want := []string{
			`192.0.2.1 relay1 HID=` + relayID.String() + `,TYPE=relay,ROOT=\`,
			`192.0.2.10 PC0001 HID=` + one.report.HostID.String() + `,TYPE=client,MAC=00-1B-21-00-00-01,ROOT=\relay1`,
			`192.0.2.11 PC0002 HID=` + two.report.HostID.String() + `,TYPE=client,ROOT=\relay1\relay2`,
			`192.0.2.2 relay2 HID=` + lower.report.HostID.String() + `,TYPE=relay,ROOT=\relay1`,
		}
		check := func(when string) {
			t.Helper()
			got, remarks := lines(t, dir, sysconfig.UTF8)
			if d := cmp.Diff(want, got); d != "" || remarks != nil {
				t.Errorf("%s (-want +got):\n%s%q", when, d, remarks)
			}
		}
		check("while it works")

		// A delta, by another way.
		delta, ok := one.report.Delta(base.Digest())
		if !ok {
			t.Fatal("no delta")
		}
		delta.Counter++
		s, err := checkin.Sign(delta, one.seed.SigningKey(), nil)
		must(t, err)
		s.Hops = hops
		if _, err := r.CheckIn(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		// Another name, while the way up is down; and one that the manager does not know stays out.
		up.set(func(checkin.SignedReport) error { return errDown })
		two.report.Names.Host = "PC0003"
		report(two, hops)
		stranger := named(t, "stranger", "192.0.2.66", "")
		report(stranger, nil)
		must(t, r.Close())
		want[1] = strings.Replace(want[1], `\relay1`, `\relay1\relay2`, 1)
		want[2] = strings.Replace(want[2], "PC0002", "PC0003", 1)
		check("after its end")
		r = open(t, dir, up, wall)
		must(t, r.SaveSubtree())
		check("after a restart")

		// The way up is back: the manager takes the stranger, whose report came when nobody knew that.
		up.set(nil)
		time.Sleep(20 * time.Second)
		must(t, r.SaveSubtree())
		want = append(want, `192.0.2.66 stranger HID=`+stranger.report.HostID.String()+`,TYPE=client,ROOT=\relay1`)
		check("once the manager took it")

		// Three months later all but who is heard are gone.
		later.Store(int64(forgetHost - 10*time.Second))
		report(lower, nil)
		later.Store(int64(forgetHost + time.Minute))
		must(t, r.Close())
		want = []string{want[0], want[3]}
		check("after three months")
	})
}

// A delta of a host that is not known says nothing, and neither does one that the manager refuses.
func TestSubtreeTakesNoStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir, up := t.TempDir(), newAbove()
		up.set(func(checkin.SignedReport) error { return &checkin.Refusal{Code: checkin.NeedsEnrolment} })
		r := open(t, dir, up)
		p := named(t, "PC0001", "192.0.2.10", "")
		first := p.next()
		if _, err := r.CheckIn(t.Context(), first); !errors.Is(err, checkin.ErrRefused) {
			t.Fatal(err)
		}
		up.set(nil)
		delta, _ := p.report.Delta(first.Digest())
		delta.Counter++
		s, err := checkin.Sign(delta, p.seed.SigningKey(), nil)
		must(t, err)
		if _, err := r.CheckIn(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		must(t, r.Close())
		if text, err := readSubtree(dir); err != nil || len(text.Hosts) != 0 {
			t.Errorf("%v, %v", text, err)
		}
	})
}

// Who has seen reports of a PC can send them again, by another way too, and the manager answers them as before: what is known of the PC
// stays, also over a restart of the relay, and whether the way up is there or not.
func TestSubtreeTakesNoOlderReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir, up := t.TempDir(), newAbove()
		r := open(t, dir, up)
		p := named(t, "PC0001", "192.0.2.10", "")
		give := func(s checkin.SignedReport, hops ...checkin.Hop) {
			t.Helper()
			s.Hops = hops
			if _, err := r.CheckIn(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		stands := func(when, want string) {
			t.Helper()
			var got string
			for _, h := range r.subtree.sorted() {
				got += fmt.Sprintf("%s %s %d %s;", h.Name, h.Address, len(h.Way), time.UnixMilli(h.Last).UTC().Format("15:04"))
			}
			if got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		restart := func() {
			t.Helper()
			must(t, r.Close())
			r = open(t, dir, up)
		}
		elsewhere := checkin.Hop{Relay: hostid.ID{9}}
		old := p.next()
		delta, _ := p.report.Delta(old.Digest())
		p.report.Counter++ // which is the delta's
		delta.Counter = p.report.Counter
		give(old)
		time.Sleep(time.Hour)
		p.report.Names.Host, p.report.Addresses = "PC0009", []string{"192.0.2.19"}
		first := p.next()
		give(first)
		stands("at first", "PC0009 192.0.2.19 0 01:00;")
		time.Sleep(time.Hour)
		give(old, elsewhere)
		give(first, elsewhere)
		s, err := checkin.Sign(delta, p.seed.SigningKey(), nil)
		must(t, err)
		give(s, elsewhere)
		stands("after older ones of its epoch", "PC0009 192.0.2.19 0 01:00;")
		up.set(down)
		give(old)
		up.set(nil)
		restart()
		give(old, elsewhere)
		stands("after a restart", "PC0009 192.0.2.19 0 01:00;")

		// The PC is installed anew: another epoch, which counts from 1 again.
		p.report.Epoch, p.report.Counter, p.report.Previous, p.report.Names.Host = checkin.NewToken(), 0, checkin.Digest{}, "PC0010"
		second := p.next()
		give(second, elsewhere)
		stands("in another epoch", "PC0010 192.0.2.19 1 02:00;")
		restart()
		for _, s := range []checkin.SignedReport{old, first, second} {
			give(s)
		}
		stands("after those of the one before", "PC0010 192.0.2.19 1 02:00;")
		// Many more epochs push the first ones out, and no more than some are remembered.
		for range 2 * maxEpochs {
			p.report.Epoch, p.report.Counter = checkin.NewToken(), 0
			give(p.next())
		}
		if n := len(r.subtree.sorted()[0].Epochs); n != maxEpochs {
			t.Errorf("%d epochs are remembered", n)
		}
		must(t, r.Close())
	})
}

// No name twice, one line for one PC, and a remark about whatever is not as it was said.
func TestSystemConfigurationNamesEachOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree := loadSubtree(dir, relayID, slog.New(slog.DiscardHandler))
	tree.own = own("relay1", "192.0.2.1")
	a := netip.MustParseAddr("192.0.2.9")
	for i, h := range []host{
		{Name: "PC1", Address: a, MAC: "00-1B-21-00-00-01"}, // reinstalled as the one after it
		{Name: "pc1", Address: a, MAC: "00-1B-21-00-00-01"},
		{Name: "PC1", Address: a, MAC: "00-1B-21-00-00-02"}, // another PC, heard last
		{Name: "RELAY1", Address: a},
		{Name: "no address"},
		{Name: "高橋\u3000PC", Address: a},
		{Name: "é", Address: a, Way: []hostid.ID{{9}}},
	} {
		h.HostID, h.Client, h.Last = hostid.ID{byte(i + 1)}, append(make([]byte, 15), byte(i)), int64(1000+i)
		tree.hosts[client(h.Client)] = h
	}
	must(t, tree.save(time.UnixMilli(2000), true))
	id := func(i byte) string { return hostid.ID{i}.String() }
	got, remarks := lines(t, dir, sysconfig.ShiftJIS)
	want := []string{
		"# システム構成情報ファイル (Shift_JIS)",
		`192.0.2.1 relay1 HID=` + relayID.String() + `,TYPE=relay,ROOT=\`,
		`192.0.2.9 ` + id(2) + ` HID=` + id(2) + `,TYPE=client,MAC=00-1B-21-00-00-01,ROOT=\relay1`,
		`192.0.2.9 ` + id(4) + ` HID=` + id(4) + `,TYPE=client,ROOT=\relay1`,
		`192.0.2.9 ` + id(6) + ` HID=` + id(6) + `,TYPE=client,ROOT=\relay1`,
		`192.0.2.9 ` + id(7) + ` HID=` + id(7) + `,TYPE=client,ROOT=\relay1\` + id(9),
		`192.0.2.9 PC1 HID=` + id(3) + `,TYPE=client,MAC=00-1B-21-00-00-02,ROOT=\relay1`,
	}
	want[0] = got[0] // in Shift_JIS
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	said := strings.Join(remarks, "\n")
	for _, part := range []string{
		"host ID " + id(1) + " is left out: it is the PC PC1, which has host ID " + id(2) + " by now",
		"host ID " + id(2) + ` stands under its host ID: its name "pc1" is that of another PC too`,
		"host ID " + id(4) + ` stands under its host ID: its name "RELAY1" is that of another PC too`,
		"host ID " + id(5) + " (", "it has reported no address",
		"host ID " + id(7) + " stands under its host ID: its name \"é\" cannot be written into such a file",
	} {
		if !strings.Contains(said, part) {
			t.Errorf("%q is missing in\n%s", part, said)
		}
	}
}

// It stays within its bound: who was silent for longest goes.
func TestSubtreeIsBounded(t *testing.T) {
	t.Parallel()
	tree := loadSubtree(t.TempDir(), relayID, slog.New(slog.DiscardHandler))
	v := checkin.VerifiedReport{Key: make([]byte, 32), Report: checkin.Report{Counter: 1}}
	for i := range maxHosts + 1 {
		v.Report.HostID = hostid.ID{1, byte(i >> 16), byte(i >> 8), byte(i)}
		tree.note(v, nil, time.UnixMilli(int64(i)))
	}
	oldest := tree.sorted()[0].Last
	if n := len(tree.hosts); n != maxHosts+1-(maxHosts+1)/10 || oldest != (maxHosts+1)/10 {
		t.Errorf("%d hosts are left, the oldest heard at %d", n, oldest)
	}
}

// The file is written no more often than it has to be.
func TestSubtreeIsWrittenSeldom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree := loadSubtree(dir, relayID, slog.New(slog.DiscardHandler))
	now := time.Unix(1_000_000, 0)
	written := func(after time.Duration, what func()) bool {
		t.Helper()
		os.Remove(tree.path)
		what()
		now = now.Add(after)
		must(t, tree.save(now, false))
		_, err := os.Stat(tree.path)
		return err == nil
	}
	v := checkin.VerifiedReport{Key: make([]byte, 32), Report: checkin.Report{HostID: hostid.ID{1}}}
	heard := func() { v.Report.Counter++; tree.note(v, nil, now) }
	renamed := func() { v.Report.Names.Host += "x"; heard() }
	for i, c := range []struct {
		after time.Duration
		what  func()
		want  bool
	}{
		{0, func() {}, true}, {time.Hour, func() {}, false}, {time.Second, renamed, true}, {time.Second, renamed, false}, {saveChanged, func() {}, true},
		{saveChanged + time.Second, heard, false}, {saveHeard, func() {}, true},
	} {
		if got := written(c.after, c.what); got != c.want {
			t.Errorf("step %d: written %v", i, got)
		}
	}
}

// What cannot be read is learnt anew, and what a later version wrote is left as it is.
func TestSubtreeThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"": hostid.ErrCorrupt, "{": hostid.ErrCorrupt, "null": hostid.ErrCorrupt, `{"version":0}`: hostid.ErrCorrupt,
		`{"version":1,"hosts":[{"host_id":"zz"}]}`: hostid.ErrCorrupt, `{"version":2}`: ErrNewerSubtree, `{"version":1,"hosts":[{}]}`: nil,
	} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, subtreeFile)
			must(t, os.WriteFile(path, []byte(text), 0o600))
			if _, _, err := SystemConfiguration(dir, sysconfig.UTF8); !errors.Is(err, want) {
				t.Fatalf("%v, want %v", err, want)
			}
			tree := loadSubtree(dir, relayID, slog.New(slog.DiscardHandler))
			must(t, tree.save(time.Unix(1_000_000, 0), true))
			b, err := os.ReadFile(path)
			must(t, err)
			if left := string(b) == text; left != errors.Is(want, ErrNewerSubtree) {
				t.Errorf("left as it was: %v", left)
			}
		})
	}
}

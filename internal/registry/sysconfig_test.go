package registry

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

func (m *manager) importFile(text string) Imported {
	m.t.Helper()
	done, err := m.ImportSystemConfiguration(m.t.Context(), "/tmp/NETM.NDD", "root", sysconfig.Read(strings.NewReader(text)))
	must(m.t, err)
	return done
}

// export is the text of an exported file, and the remarks.
func (m *manager) export(enc sysconfig.Encoding) (string, []string) {
	m.t.Helper()
	entries, remarks, err := m.SystemConfiguration(m.t.Context(), enc, hostid.ID{})
	must(m.t, err)
	var b bytes.Buffer
	must(m.t, sysconfig.Write(&b, slices.Values(entries), enc))
	return b.String(), remarks
}

// wantExport wants those lines, in which {NAME} is the host ID of a PC and {now} the date of a check-in at testEpoch.
func (m *manager) wantExport(pcs map[string]*pc, want ...string) {
	m.t.Helper()
	text, remarks := m.export(sysconfig.UTF8)
	if len(remarks) > 0 {
		m.t.Errorf("remarks %q", remarks)
	}
	m.wantLines(pcs, text, want...)
}

func (m *manager) wantLines(pcs map[string]*pc, text string, want ...string) {
	m.t.Helper()
	pairs := []string{"{now}", testEpoch.Local().Format(sysconfig.DateLayout)}
	for name, p := range pcs {
		pairs = append(pairs, "{"+name+"}", p.report.HostID.String())
	}
	lines := ""
	for _, l := range want {
		lines += strings.NewReplacer(pairs...).Replace(l) + "\n"
	}
	if d := cmp.Diff(lines, text); d != "" {
		m.t.Errorf("exported (-want +got):\n%s", d)
	}
}

func (m *manager) historyKinds() (kinds []string) {
	m.t.Helper()
	events, err := m.History(m.t.Context())
	must(m.t, err)
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func TestImport(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	const first = `192.0.2.1 center TYPE=manager,COMMENT=the manager, ours
192.0.2.2 PC2 HID=#CKEL82P,TYPE=client,FLOOR=3,MAC=00-11-22-33-44-55,ROOT=\relay1,DATE=2025/04/01 09:00:00
192.0.2.3 pc3 pc3.example 経理 TYPE=relay
2001:db8::4 pc4
`
	if d := cmp.Diff(Imported{Added: 4, Remarks: []string{}}, m.importFile(first)); d != "" {
		t.Error(d)
	}
	m.wantExport(nil, strings.Split(strings.TrimSuffix(strings.Replace(first, "FLOOR=3,MAC=00-11-22-33-44-55", "MAC=00-11-22-33-44-55,FLOOR=3", 1), "\n"), "\n")...)

	// The same file, in another encoding: nothing changes, and nothing is told.
	m.pass(time.Hour)
	if d := cmp.Diff(Imported{Unchanged: 4, Remarks: []string{}}, m.importFile("\ufeff"+strings.ReplaceAll(first, "\n", "\r\n"))); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"token-created", "sysconfig-imported"}, m.historyKinds()); d != "" {
		t.Error(d)
	}

	// A changed line replaces what was there, also under another spelling of the name; who is missing stays, and so
	// does everybody's place.
	if d := cmp.Diff(Imported{Added: 1, Changed: 1, Unchanged: 1, Remarks: []string{}},
		m.importFile("192.0.2.5 pc5\n2001:db8::4 pc4\n192.0.2.22 pc2. COMMENT=new\n")); d != "" {
		t.Error(d)
	}
	m.wantExport(nil, "192.0.2.1 center TYPE=manager,COMMENT=the manager, ours", "192.0.2.22 pc2. COMMENT=new",
		"192.0.2.3 pc3 pc3.example 経理 TYPE=relay", "2001:db8::4 pc4", "192.0.2.5 pc5")

	events, err := m.History(t.Context())
	must(t, err)
	last := events[len(events)-1]
	if d := cmp.Diff([]string{
		"root imported the system configuration information file /tmp/NETM.NDD: new hosts: 1, changed: 1, known: 1.",
		"root がシステム構成情報ファイル /tmp/NETM.NDD を取り込みました。追加 1 台、変更 1 台、変更なし 1 台です。",
	}, []string{last.Sentence(English), last.Sentence(Japanese)}); d != "" || len(events) != 3 || !last.HostID.IsZero() {
		t.Errorf("%d events, of host %v\n%s", len(events), last.HostID, d)
	}
}

func TestImportIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.importFile("192.0.2.1 pc1\n")
	_, err := m.ImportSystemConfiguration(t.Context(), "f", "root", sysconfig.Read(strings.NewReader("192.0.2.9 pc1\n192.0.2.2 pc2\n192.0.2.3 pc3 TYPE=pc\n")))
	var se *sysconfig.SyntaxError
	if !errors.As(err, &se) || err.Error() != `line 3, column 20: expected client, relay or manager, found "pc"` {
		t.Errorf("got %v", err)
	}
	// A file that is another one when it is read again.
	broken := errors.New("broken")
	for name, second := range map[string]struct {
		lines string
		err   error
		want  string
	}{
		"error": {"192.0.2.9 pc1\n", broken, "broken"},
		"cut":   {"192.0.2.9 pc1\n", nil, "the file changed while it was read; import it again when it is at rest"},
		"other": {"192.0.2.9 pc1\n192.0.2.9 pc3\n", nil, "the file changed while it was read; import it again when it is at rest"},
	} {
		times := 0
		var changing iter.Seq2[sysconfig.Entry, error] = func(yield func(sysconfig.Entry, error) bool) {
			text := "192.0.2.9 pc1\n192.0.2.2 pc2\n"
			if times++; times == 2 {
				text = second.lines
			}
			for e, err := range sysconfig.Read(strings.NewReader(text)) {
				if !yield(e, err) {
					return
				}
			}
			if times == 2 && second.err != nil {
				yield(sysconfig.Entry{}, second.err)
			}
		}
		if done, err := m.ImportSystemConfiguration(t.Context(), "f", "root", changing); err == nil || err.Error() != second.want || done.Added+done.Changed > 0 {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
	}
	m.wantExport(nil, "192.0.2.1 pc1")
	if d := cmp.Diff([]string{"token-created", "sysconfig-imported"}, m.historyKinds()); d != "" {
		t.Error(d)
	}
}

func TestImportLeavesOut(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	got := m.importFile(`127.0.0.1 localhost
::1 ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
10.0.0.1 pc1 pc1.example
10.0.0.2 PC1. other
127.0.0.9 localhost TYPE=client
10.0.0.3 pc3
`)
	want := Imported{Added: 3, LeftOut: 4, Remarks: []string{
		"line 1 (localhost) is left out: this names no host of a system configuration",
		"line 2 (ip6-localhost) is left out: this names no host of a system configuration",
		"line 3 (ip6-allnodes) is left out: this names no host of a system configuration",
		"line 5 (PC1.) is left out: line 4 names this host",
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	m.wantExport(nil, "10.0.0.1 pc1 pc1.example", "127.0.0.9 localhost TYPE=client", "10.0.0.3 pc3")
	many := m.importFile(strings.Repeat("10.0.0.1 pc1 pc1.example\n", 100))
	if many.Unchanged != 1 || many.LeftOut != 99 || len(many.Remarks) != 21 || many.Remarks[20] != "lines left out besides: 79" {
		t.Errorf("%+v", many)
	}
	if none := m.importFile("# nothing\n"); none.Added+none.Changed+none.Unchanged != 0 {
		t.Errorf("%+v", none)
	}
}

// What an asset knows goes before the file's words; what only the file says stays.
func TestExportJoinsFilesAndAssets(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pcs := map[string]*pc{}
	for _, name := range []string{"alone", "byname", "byid", "renamed", "byfqdn"} {
		p := newPC(m, name)
		p.report.Names.FQDN = name + ".example"
		p.report.Addresses = []string{"127.0.0.1", "192.0.2.7"}
		pcs[name] = p
	}
	pcs["byfqdn"].report.Addresses = nil
	pcs["byfqdn"].report.Facts.NICs = nil
	m.importFile(strings.NewReplacer("{byid}", strings.ToUpper(pcs["byid"].report.HostID.String()), "{renamed}", pcs["renamed"].report.HostID.String()).Replace(
		`10.0.0.1 ByName. alias1 HID=#CKEL82P,TYPE=relay,MAC=00-11-22-33-44-55,X=1,COMMENT=a, b,ROOT=\r1\r2,DATE=2001/01/01 00:00:00,Y=2
10.0.0.2 otherwise HID={byid},COMMENT=by ID
10.0.0.3 was1 HID={renamed},COMMENT=an older name
10.0.0.4 was2 HID={renamed},COMMENT=old name
10.0.0.5 ByFQDN.example HID=ffffffffffffffffffffffffffffffff,MAC=00-11-22-33-44-66,COMMENT=unknown ID
10.0.0.6 stays HID=ffffffffffffffffffffffffffffffff,DATE=2001/01/01 00:00:00
`))
	for _, name := range []string{"alone", "byname", "byid", "renamed", "byfqdn"} {
		pcs[name].checkIn()
	}
	want := []string{
		`192.0.2.7 byname alias1 HID={byname},TYPE=relay,MAC=00-1B-21-00-00-` + mac("byname") + `,X=1,Y=2,COMMENT=a, b,ROOT=\r1\r2,DATE={now}`,
		`192.0.2.7 byid HID={byid},TYPE=client,MAC=00-1B-21-00-00-` + mac("byid") + `,COMMENT=by ID,ROOT=\,DATE={now}`,
		`192.0.2.7 renamed HID={renamed},TYPE=client,MAC=00-1B-21-00-00-` + mac("renamed") + `,COMMENT=old name,ROOT=\,DATE={now}`,
		`10.0.0.5 ByFQDN.example HID={byfqdn},TYPE=client,MAC=00-11-22-33-44-66,COMMENT=unknown ID,ROOT=\,DATE={now}`,
		`10.0.0.6 stays HID=ffffffffffffffffffffffffffffffff,DATE=2001/01/01 00:00:00`,
		`192.0.2.7 alone HID={alone},TYPE=client,MAC=00-1B-21-00-00-` + mac("alone") + `,ROOT=\,DATE={now}`,
	}
	m.wantExport(pcs, want...)

	// The present name of the renamed one, once it is imported too, brings its own words.
	m.importFile("10.0.0.7 RENAMED HID=" + pcs["renamed"].report.HostID.String() + ",COMMENT=present name\n")
	m.pass(time.Second)
	m.importFile("10.0.0.3 was1 HID=" + pcs["renamed"].report.HostID.String() + ",COMMENT=later\n")
	want = slices.Delete(want, 2, 3)
	want = slices.Insert(want, 4, `192.0.2.7 renamed HID={renamed},TYPE=client,MAC=00-1B-21-00-00-`+mac("renamed")+`,COMMENT=present name,ROOT=\,DATE={now}`)
	m.wantExport(pcs, want...)
}

// No asset is lost because another has its name, and no name stands twice.
func TestExportNamesEachOnce(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pcs := map[string]*pc{}
	for _, key := range []string{"old", "new", "other"} {
		p := newPC(m, key)
		p.report.Names.Host = "PC0001"
		pcs[key] = p
	}
	pcs["new"].report.Names.Host = "pc0001"
	pcs["other"].report.Names.Host = "other"
	m.importFile("10.0.0.1 Pc0001 COMMENT=c\n10.0.0.2 other HID=" + pcs["old"].report.HostID.String() + "\n10.0.0.3 free HID=" + pcs["other"].report.HostID.String() + "\n")
	pcs["old"].checkIn()
	pcs["other"].checkIn()
	m.pass(time.Minute)
	pcs["new"].checkIn()
	text, remarks := m.export(sysconfig.UTF8)
	later := testEpoch.Add(time.Minute).Local().Format(sysconfig.DateLayout)
	m.wantLines(pcs, text,
		`192.0.2.7 pc0001 HID={new},TYPE=client,MAC=00-1B-21-00-00-`+mac("new")+`,COMMENT=c,ROOT=\,DATE=`+later,
		`192.0.2.7 {old} HID={old},TYPE=client,MAC=00-1B-21-00-00-`+mac("old")+`,ROOT=\,DATE={now}`,
		`192.0.2.7 other HID={other},TYPE=client,MAC=00-1B-21-00-00-`+mac("other")+`,ROOT=\,DATE={now}`)
	if d := cmp.Diff([]string{"host ID " + pcs["old"].report.HostID.String() + ` stands under its host ID: its name "PC0001" is that of another PC too`}, remarks); d != "" {
		t.Error(d)
	}

	// A host of a file with the name of an asset that is another host of the file.
	m.importFile("10.0.0.4 OTHER HID=#X\n") // replaces what named the old one
	text, remarks = m.export(sysconfig.UTF8)
	if strings.Count(text, "other") != 1 || len(remarks) != 2 || !slices.Contains(remarks, "host OTHER of an imported file is left out: an asset under another host ID has this name") {
		t.Errorf("%s%q", text, remarks)
	}
}

// A PC that calls itself by another's host ID, or a file that does, takes nobody's place.
func TestExportKeepsHostIDsForTheirOwners(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	owner, thief, third := newPC(m, "a b"), newPC(m, "thief"), newPC(m, "a c")
	thief.report.Names.Host = strings.ToUpper(owner.report.HostID.String())
	m.importFile("10.0.0.1 " + third.report.HostID.String() + " HID=#X\n")
	for _, p := range []*pc{owner, third, thief} {
		p.checkIn()
		m.pass(time.Minute)
	}
	text, remarks := m.export(sysconfig.UTF8)
	entries, err := readEntries(text)
	must(t, err)
	var names, want []string
	for _, e := range entries {
		names = append(names, e.Name+" "+e.HID)
	}
	for _, p := range []*pc{owner, third, thief} {
		want = append(want, p.report.HostID.String()+" "+p.report.HostID.String())
	}
	if d := cmp.Diff(want, names); d != "" || len(remarks) != 4 || !strings.HasSuffix(remarks[3], "is left out: an asset under another host ID has this name") {
		t.Errorf("%s%q", d, remarks)
	}
}

func TestExportLeavesOutWhatCannotBeWritten(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pcs := map[string]*pc{"korean": newPC(m, "한"), "blank": newPC(m, "a b"), "nowhere": newPC(m, "nowhere")}
	pcs["nowhere"].report.Addresses = []string{"0.0.0.0", "ff02::1"}
	long := "COMMENT=" + strings.Repeat("x", 8192-len("10.0.0.4 nowhere COMMENT="))
	m.importFile("10.0.0.1 表 한 é alias HID=é,OWNER=한,FLOOR=3,COMMENT=¥100,ROOT=\\〜\n10.0.0.2 é\n10.0.0.3 ok\n")
	for _, key := range []string{"korean", "blank", "nowhere"} {
		pcs[key].checkIn()
	}
	text, remarks := m.export(sysconfig.ShiftJIS)
	entries, err := readEntries(text)
	must(t, err)
	want := []string{
		"host ID {korean} stands under its host ID: its name \"한\" cannot be written into such a file",
		"host ID {blank} stands under its host ID: its name \"a b\" cannot be written into such a file",
		"host 表 stands without its alias: the character '한' (U+D55C) does not exist in Shift_JIS; write the file as UTF-8",
		"host 表 stands without its alias: the character 'é' (U+00E9) does not exist in Shift_JIS; write the file as UTF-8",
		"host 表 stands without its HID: the character 'é' (U+00E9) does not exist in Shift_JIS; write the file as UTF-8",
		"host 表 stands without its OWNER: the character '한' (U+D55C) does not exist in Shift_JIS; write the file as UTF-8",
		"host 表 stands without its COMMENT: the character '¥' (U+00A5) does not exist in Shift_JIS; write the file as UTF-8",
		"host 表 stands without its ROOT: the character '〜' (U+301C) does not exist in Shift_JIS; write the file as UTF-8",
		"host é is left out: host \"é\": host name: the character 'é' (U+00E9) does not exist in Shift_JIS; write the file as UTF-8",
		"host ID {nowhere} (nowhere) is left out: it has reported no address",
	}
	for i := range want {
		for name, p := range pcs {
			want[i] = strings.ReplaceAll(want[i], "{"+name+"}", p.report.HostID.String())
		}
	}
	if d := cmp.Diff(want, remarks); d != "" {
		t.Error(d)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, fmt.Sprint(e.Name, " ", e.Aliases, " ", e.Unknown))
	}
	if d := cmp.Diff([]string{"表 [alias] [{FLOOR 3}]", "ok [] []", pcs["korean"].report.HostID.String() + " [] []", pcs["blank"].report.HostID.String() + " [] []"}, names); d != "" {
		t.Error(d)
	}

	// A file helps with the address; a line that what the asset knows makes too long goes without its comment.
	m.importFile("10.0.0.4 nowhere " + long + "\n")
	text, remarks = m.export(sysconfig.UTF8)
	if !strings.Contains(text, "\n10.0.0.4 nowhere HID="+pcs["nowhere"].report.HostID.String()+",TYPE=client,MAC=") ||
		remarks[len(remarks)-1] != "host nowhere stands without its COMMENT: longer than 8192 bytes" {
		t.Errorf("%q\n%s", remarks, text)
	}
}

// An asset that never checked in has no date, or the file's.
func TestExportWithoutCheckIn(t *testing.T) {
	t.Parallel()
	a := AssetDetail{Asset: Asset{HostID: hostid.ID{1}, Name: "pc1", Seen: Seen{Addresses: []string{"192.0.2.1"}}}}
	for date, want := range map[string]string{"": "", "2025/04/01 09:00:00": "2025/04/01 09:00:00"} {
		f := configurationFile{}
		f.addAsset(a, "pc1", &sysconfig.Entry{Date: date})
		if len(f.entries) != 1 || f.entries[0].Date != want {
			t.Errorf("%q: %+v", date, f.entries)
		}
	}
}

func readEntries(text string) (entries []sysconfig.Entry, err error) {
	for e, err := range sysconfig.Read(strings.NewReader(text)) {
		if err != nil {
			return nil, err
		}
		e.Line = 0
		entries = append(entries, e)
	}
	return entries, nil
}

// Export, import and export into another registry give the same bytes, in both encodings.
func TestExportImportExport(t *testing.T) {
	t.Parallel()
	for _, enc := range []sysconfig.Encoding{sysconfig.UTF8, sysconfig.ShiftJIS} {
		m := newManager(t)
		m.importFile(`10.0.0.1 pc1 pc1.example 表計算 # a hosts file
10.0.0.2 center TYPE=manager,COMMENT=3F, 窓側, FLOOR=3 #7,OWNER=not an operand
fe80::1%eth0 ﾊﾟｿｺﾝ HID=#CKEL82P,TYPE=relay,OWNER=Bob,owner=Eve,MAC=00-11-22-33-44-55,ROOT=\能\ソ,DATE=2025/4/1 9:0:0
`)
		for _, name := range []string{"PC1", "pc1", "a b", "経理"} {
			p := newPC(m, name)
			p.checkIn()
			m.pass(time.Second)
		}
		first, _ := m.export(enc)
		if strings.Count(first, "\n") < 6 {
			t.Fatal(first)
		}
		second := newManager(t)
		if done := second.importFile(first); done.LeftOut > 0 || done.Added < 6 {
			t.Errorf("%+v", done)
		}
		again, remarks := second.export(enc)
		if d := cmp.Diff(first, again); d != "" || len(remarks) > 0 {
			t.Errorf("%q\n%s", remarks, d)
		}
		// And so does the file's own way back.
		if done := m.importFile(first); done.LeftOut > 0 {
			t.Errorf("%+v", done)
		}
		if back, _ := m.export(enc); back != first {
			t.Errorf("after importing its own export:\n%s", cmp.Diff(first, back))
		}
	}
}

// Whatever was imported and whoever checked in: every PC is exported once, no name stands twice, another registry gives
// the same bytes back, and importing one's own export changes no line.
func TestExportOfAnything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) { // 300 were tried; each makes three databases
		r := rand.New(rand.NewPCG(seed, 0))
		pick := func(from ...string) string { return from[r.IntN(len(from))] }
		m := newManager(t)
		names := []string{"pc1", "PC1.", "pc2", "pc2.example", "表", "한", "a b", "localhost", "pc3"}
		var pcs []*pc
		hids := []string{"", "#CKEL82P", strings.Repeat("f", 32)}
		for range r.IntN(5) {
			p := newPC(m, pick(names...))
			p.report.Names.FQDN = pick("", "pc2.example", "pc1.example")
			if r.IntN(4) == 0 {
				p.report.Addresses = nil
			}
			pcs = append(pcs, p)
			hids = append(hids, p.report.HostID.String(), strings.ToUpper(p.report.HostID.String()))
		}
		file := func() string {
			var b strings.Builder
			for range r.IntN(8) {
				name := pick(names...)
				if name == "a b" {
					name = "a_b"
				}
				fmt.Fprintf(&b, "10.0.0.%d %s%s HID=%s%s%s\n", r.IntN(9), name, pick("", " alias", " 한"), pick(hids...),
					pick("", ",TYPE=client", ",TYPE=manager", ",OWNER=Bob"), pick("", ",COMMENT=a, b", ",COMMENT=¥", `,ROOT=\r`))
			}
			return b.String()
		}
		m.importFile(file())
		for _, p := range pcs {
			p.checkIn()
			m.pass(time.Duration(r.IntN(2)) * time.Second)
		}
		m.importFile(file())
		for _, enc := range []sysconfig.Encoding{sysconfig.UTF8, sysconfig.ShiftJIS} {
			text, remarks := m.export(enc)
			entries, err := readEntries(text)
			must(t, err)
			keys := map[string]bool{}
			for _, e := range entries {
				if keys[e.Key()] {
					t.Errorf("seed %d: %s stands twice:\n%s", seed, e.Name, text)
				}
				keys[e.Key()] = true
			}
			for _, p := range pcs {
				n := strings.Count(strings.ToLower(text), " hid="+p.report.HostID.String())
				if n == 0 && p.report.Addresses == nil && slices.ContainsFunc(remarks, func(r string) bool {
					return strings.HasPrefix(r, "host ID "+p.report.HostID.String()) && strings.HasSuffix(r, "it has reported no address")
				}) {
					continue
				}
				if n != 1 {
					t.Errorf("seed %d: %s (%s) stands %d times:\n%s%q", seed, p.report.HostID, p.report.Names.Host, n, text, remarks)
				}
			}
			other := newManager(t)
			if done := other.importFile(text); done.Added != len(entries) || done.LeftOut > 0 {
				t.Errorf("seed %d: %+v of\n%s", seed, done, text)
			}
			if again, remarks := other.export(enc); again != text || len(remarks) > 0 {
				t.Errorf("seed %d: from another registry %q\n%s", seed, remarks, cmp.Diff(text, again))
			}
			sorted := func(text string) []string { return slices.Sorted(strings.Lines(text)) }
			m.importFile(text)
			if again, _ := m.export(enc); enc == sysconfig.UTF8 && !slices.Equal(sorted(again), sorted(text)) {
				t.Errorf("seed %d: after importing its own export\n%s", seed, cmp.Diff(sorted(text), sorted(again)))
			}
		}
	}
}

// The time of 100,000 lines is the operator's; serve waits for it with its own writing.
func BenchmarkImport(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "10.%d.%d.%d PC%06d HID=%s,TYPE=client,MAC=00-11-22-33-44-55,COMMENT=floor %d,ROOT=\\relay1,DATE=2025/04/01 09:00:00\n",
			i>>16&255, i>>8&255, i&255, i, hostid.NewID(), i%40)
	}
	for b.Loop() {
		m := newManager(b)
		begin := time.Now()
		if done := m.importFile(text.String()); done.Added != 100_000 {
			b.Fatalf("%+v", done)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/new")
		begin = time.Now()
		if done := m.importFile(text.String()); done.Unchanged != 100_000 {
			b.Fatalf("%+v", done)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/known")
		begin = time.Now()
		if done := m.importFile(strings.ReplaceAll(text.String(), "floor", "room")); done.Changed != 100_000 {
			b.Fatalf("%+v", done)
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/changed")
		begin = time.Now()
		if out, _ := m.export(sysconfig.ShiftJIS); strings.Count(out, "\n") != 100_001 {
			b.Fatal("not all are exported")
		}
		b.ReportMetric(time.Since(begin).Seconds(), "s/export")
	}
}

// Routes come from reports: whatever relays a report came through stands in ROOT, and a relay as such.
func TestRoutesInSystemConfiguration(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	upper, lower, near, far, direct := newPC(m, "upper"), newPC(m, "lower"), newPC(m, "near"), newPC(m, "far"), newPC(m, "direct")
	through := func(p *pc, relays ...*pc) {
		t.Helper()
		s := p.next()
		for _, r := range relays { // the nearest first
			s.Hops = append(s.Hops, checkin.Hop{Relay: r.report.HostID})
		}
		p.send(s)
	}
	for i, p := range []*pc{upper, lower, near, far, direct} {
		p.report.Addresses = []string{fmt.Sprint("192.0.2.", i+1)}
		p.report.Facts.NICs = nil
	}
	m.importFile("192.0.2.9 far ROOT=\\former,COMMENT=third floor\n192.0.2.8 direct ROOT=\\elsewhere\n192.0.2.7 never ROOT=\\upper\\lower\n192.0.2.6 nowhere\n")
	through(upper)
	through(lower, upper)
	through(near, upper)
	through(far, lower, upper)
	through(direct)
	for _, p := range []*pc{upper, lower} {
		_, err := m.writers.Exec(`INSERT INTO relays (host_id, token_id, names, admitted, via, state) VALUES ($1, $2, '[]', 0, '[]', '{}')`, p.report.HostID.String(), m.token.ID+p.report.Names.Host)
		must(t, err)
	}
	lines := func(below hostid.ID) (all []string) {
		t.Helper()
		entries, remarks, err := m.SystemConfiguration(t.Context(), sysconfig.UTF8, below)
		must(t, err)
		expect(t, "remarks", len(remarks), 0)
		for _, e := range entries {
			all = append(all, strings.TrimSpace(fmt.Sprint(e.Name, " ", e.Type, " ", e.Root, " ", e.Comment)))
		}
		return all
	}
	expect(t, "all", lines(hostid.ID{}), []string{`far client \upper\lower third floor`, `direct client \elsewhere`, `never  \upper\lower`, `nowhere`,
		`upper relay \`, `lower relay \upper`, `near client \upper`})
	expect(t, "below upper", lines(upper.report.HostID), []string{`far client \upper\lower third floor`, `never  \upper\lower`, `upper relay \`, `lower relay \upper`, `near client \upper`})
	expect(t, "below lower", lines(lower.report.HostID), []string{`far client \upper\lower third floor`, `never  \upper\lower`, `lower relay \upper`})
	if _, _, err := m.SystemConfiguration(t.Context(), sysconfig.UTF8, near.report.HostID); !errors.Is(err, ErrUnknown) {
		t.Errorf("below a PC that is no relay: %v", err)
	}
	// A PC that moves stands where it reports now, also while it is at rest there.
	for range 3 {
		m.pass(time.Minute)
		through(far, upper)
	}
	m.pass(time.Minute)
	through(near)
	expect(t, "moved", lines(hostid.ID{}), []string{`far client \upper third floor`, `direct client \elsewhere`, `never  \upper\lower`, `nowhere`,
		`upper relay \`, `lower relay \upper`, `near client \`})
}

package hostid

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The PC of these tests, and what a record may say of where it was written.
const (
	thisPC     = "abcdefg" // UUID, board, MAC, system, chassis, disk, TPM
	otherPC    = "tuvwxyz" // another board, case and disk
	otherBoard = "tuvwxfg" // another board and case, this disk
	newBoard   = "tuvdefg" // another board in this case, this disk
	otherCase  = "abcWXfg" // this board and disk in another case
	otherDisk  = "abcdeXg" // this board, another disk
	undecided  = "-----f-" // nothing known but this disk
	unknown    = "-------"
)

// String writes a decision as the table tests spell it.
func (d decision) String() string {
	s := [...]string{keep: "keep", restore: "restore", generate: "generate", wait: "wait", stop: "stop"}[d.do]
	for _, part := range []struct {
		on   bool
		word string
	}{
		{d.pending, "pending"}, {d.uncertain, "provisional"}, {d.fresh, "fresh"}, {d.refresh, "refresh"},
		{d.overwrite != "", string(d.overwrite)}, {len(d.writes) > 0, fmt.Sprintf("write%v", d.writes)},
	} {
		if part.on {
			s += " " + part.word
		}
	}
	for i, c := range d.conflicts {
		s += []string{": ", ", "}[min(i, 1)] + string(c.Kind)
	}
	return s
}

func policyRecord(id byte, facts string) Record {
	r := Record{HostID: ID{id}, Seed: Seed{id}, Issued: time.Unix(1, 0).UTC()}
	r.Facts = evidenceOf(facts).Facts(r.HostID)
	return r
}

// viewOf makes what the policy sees from a file's record (nil: fileState none, corrupt or newer) and memory.
func viewOf(file fileState, r *Record, memory ...memoryView) view {
	v := view{file: file, evidence: evidenceOf(thisPC), memory: memory}
	if r != nil {
		k := Keeper{Evidence: v.evidence}
		v.file, v.record = k.classify(*r), *r
	}
	for i := range v.memory {
		m := &v.memory[i]
		if m.name = fmt.Sprintf("memory %d", i); m.state == "" {
			m.state = Stored
			if Compare(m.record.Facts, v.evidence.Facts(m.record.HostID)) == AnotherBoard {
				m.state = Foreign
			}
		}
	}
	return v
}

// TestPolicyTable has every cell of the table in docs/host-id.md: each memory with each file.
func TestPolicyTable(t *testing.T) {
	t.Parallel()
	const fileID, otherID = 1, 2
	holds := func(id byte, facts string) []memoryView {
		return []memoryView{{record: policyRecord(id, facts).Portable()}}
	}
	is := func(s State) []memoryView { return []memoryView{{state: s}} }
	files := []struct {
		name  string
		state fileState // for those without a record
		facts string
	}{
		{"none", fileNone, ""}, {"corrupt", fileCorrupt, ""}, {"newer", fileNewer, ""},
		{"own", fileOwn, thisPC}, {"undecided", fileUndecided, undecided}, {"moved", fileMoved, otherBoard}, {"copy", fileCopy, otherPC},
	}
	const same = "keep refresh write[0]"
	const otherWins = "restore: other-id"
	for _, row := range []struct {
		memory  string
		views   []memoryView
		patient bool
		want    [7]string // one for each of files
	}{
		{"own, same ID", holds(fileID, thisPC), false, [7]string{"restore", "restore", "stop", same, same, same, same}},
		{"own, other ID", holds(otherID, thisPC), false, [7]string{"restore", "restore", "stop", otherWins, otherWins, otherWins, otherWins}},
		{"own, nothing known", holds(otherID, unknown), false, [7]string{"restore", "restore", "stop", otherWins, otherWins, otherWins, otherWins}},
		{"own, another case", holds(otherID, otherCase), false, [7]string{
			"restore pending: other-case", "restore pending: other-case", "stop", "restore pending: other-id, other-case",
			"restore pending: other-id, other-case", "restore pending: other-id, other-case", "restore pending: other-id, other-case"}},
		{"own, same ID, another case", holds(fileID, otherCase), false, [7]string{
			"restore pending: other-case", "restore pending: other-case", "stop", same, same, same, same}},
		{"foreign", holds(otherID, otherPC), false, [7]string{
			"generate provisional: memory-foreign", "generate provisional: memory-foreign", "stop",
			"keep: memory-foreign", "keep: memory-foreign", "keep: memory-foreign", "generate provisional: memory-foreign"}},
		{"foreign, same ID", holds(fileID, otherPC), false, [7]string{
			"generate provisional: memory-foreign", "generate provisional: memory-foreign", "stop",
			"keep: memory-foreign", "keep: memory-foreign", "keep: memory-foreign", "generate provisional: memory-foreign"}},
		{"empty", is(Empty), false, [7]string{
			"generate write[0]", "generate write[0]", "stop", "keep write[0]", "keep write[0]", "keep: moved", "generate write[0]"}},
		{"corrupt", is(Corrupt), false, [7]string{
			"generate write[0]", "generate write[0]", "stop", "keep write[0]", "keep write[0]", "keep: moved", "generate write[0]"}},
		{"not initialized", is(NotInitialized), false, [7]string{
			"generate", "generate", "stop", "keep", "keep", "keep: moved", "generate"}},
		{"unavailable, patience over", is(Unavailable), false, [7]string{
			"generate provisional fresh", "generate provisional fresh", "stop", "keep", "keep", "keep: moved", "generate provisional fresh"}},
		{"unavailable, patient", is(Unavailable), true, [7]string{
			"wait", "wait", "stop", "keep", "keep", "keep: moved", "wait"}},
		{"empty, patient", is(Empty), true, [7]string{
			"generate write[0]", "generate write[0]", "stop", "keep write[0]", "keep write[0]", "keep: moved", "generate write[0]"}},
		{"newer", is(Newer), false, [7]string{"stop", "stop", "stop", "keep", "keep", "stop", "stop"}},
		{"newer, patient", is(Newer), true, [7]string{"stop", "stop", "stop", "keep", "keep", "stop", "stop"}},
		{"no store at all", nil, true, [7]string{"generate", "generate", "stop", "keep", "keep", "keep: moved", "generate"}},
	} {
		for i, file := range files {
			t.Run(row.memory+"/"+file.name, func(t *testing.T) {
				var r *Record
				if file.facts != "" {
					rec := policyRecord(fileID, file.facts)
					r = &rec
				}
				v := viewOf(file.state, r, append([]memoryView(nil), row.views...)...)
				v.patient = row.patient
				if v.file != file.state {
					t.Fatalf("the file is in state %d, want %d", v.file, file.state)
				}
				d := decide(v)
				if got := d.String(); got != row.want[i] {
					t.Errorf("%q, want %q", got, row.want[i])
				}
				if _, aside := d.aside(v); aside != (file.state >= fileOwn && (d.do == restore || d.do == generate)) {
					t.Errorf("the file's record is set aside: %v", aside)
				}
				for _, c := range d.conflicts {
					if c.File != v.record.HostID || c.Sentence == "" || c.Kind != Moved && c.Memory != v.memory[0].record.HostID {
						t.Errorf("conflict %+v does not name what it is about", c)
					}
				}
			})
		}
	}
}

// The files that hold their place against another ID in memory.
func TestPolicyMarks(t *testing.T) {
	t.Parallel()
	fresh, drop := Local{Fresh: true}, Local{DropFor: ID{2}}
	const overwritten, dropped, otherWins = "keep replaced write[0]", "keep dropped write[0]", "restore: other-id"
	for _, c := range []struct {
		why   string
		facts string
		local Local
		want  string
	}{
		{"fresh", thisPC, fresh, overwritten},
		{"fresh, disk then unknown", "abcde-g", fresh, overwritten},
		{"fresh, on another disk", otherDisk, fresh, otherWins},
		{"fresh, undecided, same disk", undecided, fresh, overwritten},
		{"fresh, undecided, disk then unknown", unknown, fresh, otherWins},
		{"fresh, undecided, on another disk", "-----X-", fresh, otherWins},
		{"fresh, moved", otherBoard, fresh, otherWins},
		{"fresh, copy", otherPC, fresh, otherWins},
		{"fresh, but stored once", thisPC, Local{Fresh: true, Stored: true}, otherWins},
		{"provisional but not fresh", thisPC, Local{Provisional: true}, otherWins},
		{"ordered to leave memory's ID", thisPC, drop, dropped},
		{"ordered to leave memory's ID, undecided", undecided, drop, dropped},
		{"ordered to leave memory's ID, on another disk", otherDisk, drop, dropped},
		{"ordered to leave memory's ID, moved", otherBoard, drop, otherWins},
		{"ordered to leave memory's ID, copy", otherPC, drop, otherWins},
		{"ordered to leave another ID", thisPC, Local{DropFor: ID{3}}, otherWins},
		{"copy of memory's ID, not by order", thisPC, Local{CopyOf: ID{2}}, otherWins},
		{"ordered to leave memory's ID, and fresh", thisPC, Local{Fresh: true, DropFor: ID{2}}, dropped},
	} {
		r := policyRecord(1, c.facts)
		r.Local = c.local
		v := viewOf(fileNone, &r, memoryView{record: policyRecord(2, thisPC)})
		if got := decide(v).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
	// A fresh file keeps nobody from conflict where memory is foreign.
	r := policyRecord(1, thisPC)
	r.Local = fresh
	if got := decide(viewOf(fileNone, &r, memoryView{record: policyRecord(2, otherPC)})).String(); got != "keep: memory-foreign" {
		t.Errorf("fresh file, foreign memory: %q", got)
	}
}

// What the manager ordered to be this PC's record holds its place against whatever memory holds.
func TestPolicyRebound(t *testing.T) {
	t.Parallel()
	own := func(id byte) memoryView { return memoryView{record: policyRecord(id, thisPC)} }
	foreign := func(id byte) memoryView { return memoryView{record: policyRecord(id, otherPC)} }
	is := func(s State) memoryView { return memoryView{state: s} }
	twin := own(1)
	twin.record.Seed[9] = 9
	for _, c := range []struct {
		why    string
		facts  string
		memory []memoryView
		want   string
	}{
		{"another ID", thisPC, []memoryView{own(2)}, "keep rebound write[0]"},
		{"another board's", thisPC, []memoryView{foreign(2)}, "keep rebound write[0]"},
		{"the same ID, another board's", thisPC, []memoryView{foreign(1)}, "keep refresh rebound write[0]"},
		{"the same", thisPC, []memoryView{own(1)}, "keep refresh rebound write[0]"},
		{"twin", thisPC, []memoryView{twin}, "keep rebound write[0]"},
		{"empty", thisPC, []memoryView{is(Empty)}, "keep rebound write[0]"},
		{"corrupt", thisPC, []memoryView{is(Corrupt)}, "keep rebound write[0]"},
		{"not initialized", thisPC, []memoryView{is(NotInitialized)}, "keep rebound"},
		{"not there", thisPC, []memoryView{is(Unavailable)}, "keep"},
		{"newer", thisPC, []memoryView{is(Newer)}, "keep"},
		{"several that differ", thisPC, []memoryView{own(2), foreign(3), own(1), is(Empty)}, "keep refresh rebound write[0 1 2 3]"},
		{"one is not there", thisPC, []memoryView{is(Unavailable), foreign(2), own(3), own(1), is(Empty)}, "keep refresh write[3 4]"},
		{"one is newer", thisPC, []memoryView{is(Newer), foreign(2)}, "keep"},
		{"undecided", undecided, []memoryView{foreign(2)}, "keep rebound write[0]"},
		{"nothing known", unknown, []memoryView{own(2)}, "keep rebound write[0]"},
		{"on another disk", otherDisk, []memoryView{own(2)}, "keep rebound write[0]"},
		// The disk went to another PC since, and the order does not hold there.
		{"undecided, on another disk", "-----X-", []memoryView{own(2)}, "restore: other-id"},
		{"moved", otherBoard, []memoryView{own(2)}, "restore: other-id"},
		{"moved, foreign", otherBoard, []memoryView{foreign(2)}, "keep: memory-foreign"},
		{"copy", otherPC, []memoryView{own(2)}, "restore: other-id"},
		{"copy, empty", otherPC, []memoryView{is(Empty)}, "generate write[0]"},
	} {
		r := policyRecord(1, c.facts)
		r.Local = Local{Fresh: true, DropFor: r.HostID}
		if got := decide(viewOf(fileNone, &r, c.memory...)).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
}

// Which facts an order leaves: what sits on another board than the record knew goes, even if nothing takes its place.
func TestOrderedFacts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ recorded, present, want string }{
		{thisPC, thisPC, thisPC},
		{otherBoard, thisPC, thisPC},
		{"abcdefg", "ab-----", "abcdefg"}, // the same board: what is not known now stays
		{"abcdefg", "abcDEFg", "abcDEFg"}, // in another case
		{"abcdefg", "xyz----", "xyzdef-"},
		{"abcdefg", "x------", "x--def-"},
		{"abcdefg", "aXY----", "aXYdef-"},
		{"abcdefg", "-------", "---def-"}, // undecided
		{"-------", "abcdefg", "abcdefg"},
	} {
		id := ID{1}
		got := evidenceOf(c.recorded).Facts(id).ordered(evidenceOf(c.present).Facts(id))
		if got != evidenceOf(c.want).Facts(id) {
			t.Errorf("recorded %s, present %s: not %s", c.recorded, c.present, c.want)
		}
	}
}

// The same ID with another seed: nothing is written, whatever file and memory are.
func TestPolicyTwin(t *testing.T) {
	t.Parallel()
	for _, file := range []string{thisPC, undecided, otherBoard, otherPC} {
		for _, memory := range []string{thisPC, otherPC, otherCase} {
			r, m := policyRecord(1, file), policyRecord(1, memory)
			m.Seed[5] = 1
			r.Local = Local{Fresh: true, DropFor: ID{2}}
			if got := decide(viewOf(fileNone, &r, memoryView{record: m})).String(); got != "keep: twin" {
				t.Errorf("file %s, memory %s: %q", file, memory, got)
			}
		}
	}
}

func TestPolicyOfSeveralMemories(t *testing.T) {
	t.Parallel()
	own := func(id byte) memoryView { return memoryView{record: policyRecord(id, thisPC)} }
	foreign := func(id byte) memoryView { return memoryView{record: policyRecord(id, otherPC)} }
	is := func(s State) memoryView { return memoryView{state: s} }
	file := func(facts string, l Local) *Record {
		r := policyRecord(1, facts)
		r.Local = l
		return &r
	}
	twin := own(2)
	twin.record.Seed[9] = 9
	for _, c := range []struct {
		why    string
		file   *Record
		memory []memoryView
		want   string
	}{
		{"the same ID heals the lower one", file(thisPC, Local{}), []memoryView{own(1), is(Empty)}, "keep refresh write[0 1]"},
		{"the same ID heals the higher one", file(thisPC, Local{}), []memoryView{is(Corrupt), own(1)}, "keep refresh write[0 1]"},
		{"one of them not there", file(thisPC, Local{}), []memoryView{is(Unavailable), own(1), is(NotInitialized)}, "keep refresh write[1]"},
		{"restored from the first own one", nil, []memoryView{is(Empty), own(2), own(2)}, "restore"},
		{"first install", nil, []memoryView{is(Empty), is(NotInitialized), is(Corrupt)}, "generate write[0 2]"},
		{"one may hold a record", nil, []memoryView{is(Empty), is(Unavailable)}, "generate provisional fresh"},
		{"different IDs, file kept", file(thisPC, Local{}), []memoryView{own(1), own(2)}, "keep: stores-differ"},
		{"different IDs, fresh file kept", file(thisPC, Local{Fresh: true}), []memoryView{own(2), own(3)}, "keep: stores-differ"},
		{"different IDs, no file", nil, []memoryView{foreign(3), own(2)}, "restore: stores-differ"},
		{"different IDs, copied file", file(otherPC, Local{}), []memoryView{own(2), own(3)}, "restore: stores-differ"},
		{"different IDs, all foreign, no file", nil, []memoryView{foreign(3), foreign(2)}, "generate provisional: stores-differ"},
		{"different IDs, all foreign, copied file", file(otherPC, Local{}), []memoryView{foreign(3), foreign(2)}, "generate provisional: stores-differ"},
		{"different keys", nil, []memoryView{own(2), twin}, "restore: twin"},
		{"newer in one of them", file(thisPC, Local{}), []memoryView{own(1), is(Newer)}, "keep"},
		{"newer in one of them, no file", nil, []memoryView{own(1), is(Newer)}, "stop"},
		{"fresh, all answer", file(thisPC, Local{Fresh: true}), []memoryView{own(2), is(Empty)}, "keep replaced write[0 1]"},
		{"fresh, one does not answer", file(thisPC, Local{Fresh: true}), []memoryView{is(Unavailable), own(2)}, "keep"},
		{"fresh, one does not answer, one is empty", file(thisPC, Local{Fresh: true}), []memoryView{is(Unavailable), is(Empty)}, "keep"},
		{"not fresh, one does not answer, one is empty", file(thisPC, Local{}), []memoryView{is(Unavailable), is(Empty)}, "keep write[1]"},
		{"dropped, one does not answer", file(thisPC, Local{DropFor: ID{2}}), []memoryView{is(Unavailable), own(2)}, "keep"},
	} {
		if got := decide(viewOf(fileNone, c.file, c.memory...)).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
}

func TestMovedSaysWhatTheCaseSuggests(t *testing.T) {
	t.Parallel()
	for facts, want := range map[string]string{
		otherBoard: "suggests a moved disk", newBoard: "suggests a replaced board", "tuv--fg": "moved here or the board was replaced.",
	} {
		r := policyRecord(1, facts)
		d := decide(viewOf(fileNone, &r, memoryView{state: Empty}))
		if len(d.conflicts) != 1 || !strings.Contains(d.conflicts[0].Sentence, want) {
			t.Errorf("%s: %+v, want %q", facts, d.conflicts, want)
		}
	}
}

// A PC after repair has any clock; each gives a time that a record can hold.
func TestIssueTime(t *testing.T) {
	t.Parallel()
	for now, want := range map[time.Time]time.Time{
		time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC):                 time.Unix(0, 0).UTC(),
		time.Unix(-1, 999):                                          time.Unix(0, 0).UTC(),
		time.Date(2099, 12, 31, 23, 59, 59, 999, time.UTC):          time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC):                time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)): time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
	} {
		got := issueTime(now)
		if got != want {
			t.Errorf("%s: got %s, want %s", now, got, want)
		}
		r := policyRecord(1, thisPC)
		r.Issued = got
		if _, err := EncodeFrame(1, r); err != nil {
			t.Errorf("%s: %v", now, err)
		}
	}
}

package hostid

import "fmt"

// This file decides and does nothing: a view of the stores goes in, what is to be done comes out. The table that
// it carries out, and why each cell is as it is, stand in docs/host-id.md; TestPolicyTable has a row for each cell.

// fileState is what the host ID management file is to this PC.
type fileState int

const (
	fileNone fileState = iota
	fileCorrupt
	fileNewer
	fileOwn       // written on this board
	fileUndecided // the facts do not say
	fileMoved     // written on another board; the disk is the same, or unknown
	fileCopy      // written on another board and another disk
)

// view is everything the policy looks at.
type view struct {
	file     fileState
	record   Record // the file's, if it can be read
	memory   []memoryView
	evidence Evidence
	patient  bool // memory that does not answer may still do so: better wait than generate
}

// memoryView is one store on the board. Its state is one of Empty, NotInitialized, Unavailable, Corrupt, Newer,
// Foreign and Stored; the last means only that it holds a record that is this board's own, of whatever host ID.
type memoryView struct {
	name   string
	state  State
	record Record // if it can be read
}

func (m memoryView) readable() bool { return m.state == Stored || m.state == Foreign }
func (m memoryView) writable() bool { return m.state == Empty || m.state == Corrupt }

type action int

const (
	keep     action = iota // go on with the file's record
	restore                // take the record of memory[from] into the file
	generate               // make a new host ID
	wait                   // look again later
	stop                   // a newer samehost was here: do nothing at all
)

// decision is what is to be done. The order of doing it is Keeper's.
type decision struct {
	do        action
	from      int           // restore: from this memory
	pending   bool          // restore: the board sits in another case
	fresh     bool          // generate: memory could not be read
	uncertain bool          // generate: provisional
	refresh   bool          // keep: the file takes the present known facts, and memory holds its ID
	overwrite OverwriteKind // keep: the readable records in writes are of another ID, and give way for this reason
	rebinds   bool          // keep: once writes hold the file's record, the order to rebind ends
	writes    []int         // memory that takes the record
	conflicts []Conflict
}

// aside reports that the file's readable record gives way to another, and why.
func (d decision) aside(v view) (why OverwriteKind, ok bool) {
	switch {
	case v.file < fileOwn:
		return "", false
	case d.do == restore:
		return Returned, true
	case d.do == generate:
		return Copied, true
	default:
		return "", false
	}
}

// decide is the whole policy.
func decide(v view) decision {
	readable := v.file >= fileOwn
	lead := -1 // the memory that speaks: the first own one in board order, else the first foreign one
	var unavailable, newer bool
	for i, m := range v.memory {
		switch m.state {
		case Stored:
			if lead < 0 || v.memory[lead].state != Stored {
				lead = i
			}
		case Foreign:
			if lead < 0 {
				lead = i
			}
		case Unavailable:
			unavailable = true
		case Newer:
			newer = true
		}
	}

	switch {
	case v.file == fileNewer:
		return decision{do: stop}
	case newer && (v.file == fileOwn || v.file == fileUndecided):
		return decision{do: keep}
	case newer:
		return decision{do: stop}
	}
	if v.rebound() {
		return v.rebind(unavailable)
	}
	if c, ok := v.twin(); ok {
		return decision{do: keep, conflicts: []Conflict{c}}
	}
	if lead < 0 {
		return v.withoutMemory(unavailable)
	}
	m := v.memory[lead]
	if other, ok := v.differing(lead); ok {
		// Nothing says which of them is right, so no store is written; the file is made only where there is none to keep.
		c := v.conflict(StoresDiffer, m, fmt.Sprintf("%s holds host ID %s and %s holds another, %s: nothing was written to them.",
			m.name, m.record.HostID, other.name, other.record.HostID))
		if other.record.HostID == m.record.HostID {
			c = v.conflict(Twin, m, fmt.Sprintf("%s and %s hold host ID %s with different keys: nothing was written to them.",
				m.name, other.name, m.record.HostID))
		}
		var d decision
		switch {
		case readable && v.file != fileCopy:
			d = decision{do: keep}
		case m.state == Stored:
			d = v.restore(lead)
		default:
			d = decision{do: generate, uncertain: true}
		}
		d.conflicts = append(d.conflicts, c)
		return d
	}
	if m.state == Foreign {
		return v.withForeign(m)
	}
	switch sameID := v.record.HostID == m.record.HostID; {
	case !readable:
		return v.restore(lead)
	case sameID:
		return decision{do: keep, refresh: true, writes: v.where(func(m memoryView) bool { return m.readable() || m.writable() })}
	case v.file != fileMoved && v.file != fileCopy && v.record.Local.DropFor == m.record.HostID:
		return v.overwrite(Dropped, unavailable)
	case v.fresh():
		return v.overwrite(Replaced, unavailable)
	default:
		d := v.restore(lead)
		d.conflicts = append([]Conflict{v.conflict(OtherID, m, fmt.Sprintf(
			"The host ID management file held %s, and %s, which sits on the board, %s: this PC is %s again, and the other record was set aside.",
			v.record.HostID, m.name, m.record.HostID, m.record.HostID))}, d.conflicts...)
		return d
	}
}

// withForeign: memory holds the record of another board. It is never written, since what it holds may be the only
// copy of another PC's identity.
func (v view) withForeign(m memoryView) decision {
	c := v.conflict(MemoryForeign, m, fmt.Sprintf("%s holds host ID %s, which was stored on another board: nothing was written to it.",
		m.name, m.record.HostID))
	if v.file >= fileOwn && v.file != fileCopy {
		return decision{do: keep, conflicts: []Conflict{c}}
	}
	return decision{do: generate, uncertain: true, conflicts: []Conflict{c}}
}

// withoutMemory: no memory holds a record that can be read.
func (v view) withoutMemory(unavailable bool) decision {
	switch v.file {
	case fileOwn, fileUndecided:
		if unavailable && v.fresh() {
			// Stored anywhere, it would no longer be fresh, and the store that does not answer would win against it.
			return decision{do: keep}
		}
		return decision{do: keep, writes: v.where(memoryView.writable)}
	case fileMoved:
		why := "the disk was moved here or the board was replaced"
		present := v.evidence.Facts(v.record.HostID)
		switch system := compare(SystemSerial, v.record.Facts, present) + compare(ChassisSerial, v.record.Facts, present); {
		case system > 0:
			why += "; the serial numbers of system and chassis are the same, which suggests a replaced board"
		case system < 0:
			why += "; the serial numbers of system and chassis differ, which suggests a moved disk"
		}
		return decision{do: keep, conflicts: []Conflict{v.conflict(Moved, memoryView{}, fmt.Sprintf(
			"Host ID %s was last seen on another board, with this disk: %s.", v.record.HostID, why))}}
	}
	switch {
	case unavailable && v.patient:
		return decision{do: wait}
	case unavailable:
		return decision{do: generate, uncertain: true, fresh: true}
	default:
		return decision{do: generate, writes: v.where(memoryView.writable)}
	}
}

func (v view) restore(from int) decision {
	m := v.memory[from]
	d := decision{do: restore, from: from, pending: AnotherCase(m.record.Facts, v.evidence.Facts(m.record.HostID))}
	if d.pending {
		d.conflicts = []Conflict{v.conflict(OtherCase, m, fmt.Sprintf(
			"Host ID %s was restored from %s, but the serial number of the system or chassis has changed: the board sits in another case.",
			m.record.HostID, m.name))}
	}
	return d
}

// overwrite lets memory take the file's record in place of another ID's.
func (v view) overwrite(kind OverwriteKind, unavailable bool) decision {
	if unavailable { // a later one may hold the same ID: all of them or none, lest they differ
		return decision{do: keep}
	}
	return decision{do: keep, overwrite: kind, writes: v.where(func(m memoryView) bool { return m.readable() || m.writable() })}
}

// rebound reports that the manager ordered this record to be this PC's, whatever memory holds. A disk that was moved to
// another PC since takes the order along, and there it means nothing.
func (v view) rebound() bool {
	return v.file == fileOwn && v.record.rebound() ||
		v.file == fileUndecided && v.record.rebound() && !AnotherDisk(v.record.Facts, v.evidence.Facts(v.record.HostID))
}

// rebind lets memory take the file's record, whatever it holds; another's only when all of it answers.
func (v view) rebind(unavailable bool) decision {
	holds := func(m memoryView) bool { return m.readable() && m.record.sameKeys(v.record) }
	d := decision{do: keep, refresh: len(v.where(holds)) > 0, writes: v.where(func(m memoryView) bool { return m.writable() || holds(m) })}
	if !unavailable {
		d.overwrite, d.rebinds = Rebound, true
		d.writes = v.where(func(m memoryView) bool { return m.writable() || m.readable() })
	}
	return d
}

// fresh reports that the file's ID was generated here while memory could not be read, so that memory gives way.
func (v view) fresh() bool {
	l, present := v.record.Local, v.evidence.Facts(v.record.HostID)
	return l.Fresh && !l.Stored &&
		(v.file == fileOwn && !AnotherDisk(v.record.Facts, present) || v.file == fileUndecided && SameDisk(v.record.Facts, present))
}

// twin finds memory that holds the file's ID with another seed: one of the two was forged or damaged.
func (v view) twin() (Conflict, bool) {
	if v.file < fileOwn {
		return Conflict{}, false
	}
	for _, m := range v.memory {
		if m.readable() && m.record.HostID == v.record.HostID && m.record.Seed != v.record.Seed {
			return v.conflict(Twin, m, fmt.Sprintf(
				"%s holds host ID %s with another key than the host ID management file: nothing was written.", m.name, m.record.HostID)), true
		}
	}
	return Conflict{}, false
}

// differing finds memory whose record is not that of the lead.
func (v view) differing(lead int) (memoryView, bool) {
	l := v.memory[lead].record
	for _, m := range v.memory {
		if m.readable() && (m.record.HostID != l.HostID || m.record.Seed != l.Seed) {
			return m, true
		}
	}
	return memoryView{}, false
}

func (v view) where(fit func(memoryView) bool) (is []int) {
	for i, m := range v.memory {
		if fit(m) {
			is = append(is, i)
		}
	}
	return is
}

func (v view) conflict(kind ConflictKind, m memoryView, sentence string) Conflict {
	return Conflict{Kind: kind, Store: m.name, File: v.record.HostID, Memory: m.record.HostID, Sentence: sentence}
}

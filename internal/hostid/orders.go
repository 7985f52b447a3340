package hostid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// This file is what the manager may order done to the record (docs/host-id.md, "Orders"). Each order is one new
// content of the host ID management file; memory on the board follows with Establish, which finds in the file's marks
// what has to give way. So an order is done or not begun, wherever the power goes.
//
// Each method calls begin last before the file is written, with what it will hold; begin returns nil only when what
// the caller needs for finishing the order survives a power cut. What the file held is set aside and announced
// (BeforeOverwrite, Ordered) before that, if another host ID or key takes its place.

// ErrNoRecord says that an order names a record which is not there to be taken.
var ErrNoRecord = errors.New("the record that the order names is not there")

// asideByOrder is the word in the name of a record that gave way by order.
const asideByOrder = "ordered"

// TakeNewID makes a new host ID and seed: this installation is a copy. The new record says what it is a copy of, and
// that memory which holds the old ID gives way (Dropped); no other memory does.
func (k *Keeper) TakeNewID(ctx context.Context, begin func(next Record) error) (Record, error) {
	old, err := k.ordered(ctx)
	if err != nil {
		return Record{}, err
	}
	next := Record{HostID: NewID(), Seed: NewSeed(), Issued: issueTime(time.Now())}
	next.Facts = k.Evidence.Facts(next.HostID)
	next.Local = Local{CopyOf: old.HostID, DropFor: old.leftInMemory(next.HostID), Origin: Generated}
	return k.become(ctx, old, next, begin)
}

// TakeBack takes the record of that host ID from those set aside, with the present facts. Memory that holds the
// present ID gives way (Dropped). It fails with ErrNoRecord if no whole record of that ID was set aside.
func (k *Keeper) TakeBack(ctx context.Context, id ID, begin func(next Record) error) (Record, error) {
	old, err := k.ordered(ctx)
	if err != nil {
		return Record{}, err
	}
	next, err := k.File.LoadAside(ctx, id)
	if errors.Is(err, ErrNotStored) {
		return Record{}, fmt.Errorf("%w: %w", ErrNoRecord, err)
	}
	if err != nil {
		return Record{}, err
	}
	next.Facts = next.Facts.ordered(k.Evidence.Facts(id))
	// What memory holds now is not what it held when this record gave way.
	next.Local.Fresh, next.Local.Stored = next.Local.Fresh && !next.Local.Stored, false
	next.Local.Pending, next.Local.DropFor = false, old.leftInMemory(id)
	return k.become(ctx, old, next, begin)
}

// Rebind keeps the host ID and takes the present facts: the board was replaced, or sits in another case. Memory takes
// the record as soon as all of it answers, whatever it holds (Rebound), once.
func (k *Keeper) Rebind(ctx context.Context, begin func(next Record) error) (Record, error) {
	old, err := k.ordered(ctx)
	if err != nil {
		return Record{}, err
	}
	next := old
	next.Facts = next.Facts.ordered(k.Evidence.Facts(old.HostID))
	next.Local.Pending = false
	k.markRebound(&next)
	return k.become(ctx, old, next, begin)
}

// UseNonvolatile takes the record of that host ID which memory holds, another board's and a twin's too, with the
// present facts; the rest of memory follows as after Rebind. It fails with ErrNoRecord if memory answers and none holds
// that ID, with ErrUnavailable while some of it does not answer and none of the rest does.
func (k *Keeper) UseNonvolatile(ctx context.Context, id ID, begin func(next Record) error) (Record, error) {
	old, err := k.ordered(ctx)
	if err != nil {
		return Record{}, err
	}
	var next Record
	var silent error
	for _, m := range k.Memory {
		r, err := m.Store.Load(ctx)
		switch {
		case ctx.Err() != nil:
			return Record{}, ctx.Err()
		case err == nil && r.HostID == id && (next.HostID.IsZero() || next.sameKeys(old)): // a twin before the file's own
			next = r
		case err != nil && !errors.Is(err, ErrNotStored) && !errors.Is(err, ErrNotInitialized) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer):
			silent = fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	switch {
	case !next.HostID.IsZero():
	case silent != nil:
		return Record{}, fmt.Errorf("host ID %s is not to be found in memory, and not all of it answers: %w", id, silent)
	default:
		return Record{}, fmt.Errorf("%w: memory holds no host ID %s", ErrNoRecord, id)
	}
	next.Facts = next.Facts.ordered(k.Evidence.Facts(id))
	next.Local = Local{Stored: true, Origin: Restored}
	k.markRebound(&next)
	return k.become(ctx, old, next, begin)
}

// TakeFacts has the file's record take the present known facts where they say that this is its board, which Establish
// does only while memory holds the record. It is called before a value ceases to count: a network interface that was
// swapped would else be all that is left, and say another board. On a disk that is known to be another one nothing is
// taken: a copy that only the value passed for its original comes to light then.
func (k *Keeper) TakeFacts(ctx context.Context) error {
	old, err := k.ordered(ctx)
	if err != nil {
		return err
	}
	present := k.Evidence.Facts(old.HostID)
	board := Compare(old.Facts, present)
	if board == AnotherBoard || AnotherDisk(old.Facts, present) || board == Undecided && !SameDisk(old.Facts, present) {
		return nil
	}
	next := old
	next.Facts = next.Facts.Merge(present)
	next.Facts[DiskSerial] = old.Facts[DiskSerial] // a fresh record goes by the disk that it was made on
	if next == old {
		return nil
	}
	return k.File.Save(ctx, next)
}

// ordered is the file's record that an order is about.
func (k *Keeper) ordered(ctx context.Context) (Record, error) {
	r, err := k.File.Load(ctx)
	if err != nil {
		return Record{}, fmt.Errorf("the host ID management file: %w", err)
	}
	return r, nil
}

// become is an order carried out.
func (k *Keeper) become(ctx context.Context, old, next Record, begin func(Record) error) (Record, error) {
	if !next.sameKeys(old) {
		name, err := k.File.SetAside(ctx, asideByOrder)
		if err != nil {
			return Record{}, err
		}
		if err := k.before(ctx, Overwrite{Kind: Ordered, Store: FileStoreName, Old: old, New: next}); err != nil {
			return Record{}, err
		}
		k.log().Warn("the record in the host ID management file gives way", "why", Ordered, "old", old.HostID, "new", next.HostID, "set_aside", name)
	}
	if err := begin(next); err != nil {
		return Record{}, err
	}
	if err := k.File.Save(ctx, next); err != nil {
		return Record{}, fmt.Errorf("host ID %s was ordered, but not written: %w", next.HostID, err)
	}
	return next, nil
}

// markRebound lets the file's record win over whatever memory holds, until all of it holds the record.
func (k *Keeper) markRebound(r *Record) {
	r.Local.DropFor = ID{}
	if len(k.Memory) > 0 {
		r.Local.DropFor = r.HostID
	} else {
		r.Local.Provisional = false // there is nothing that could still decide otherwise
	}
}

// rebound reports the mark of markRebound.
func (r Record) rebound() bool { return !r.HostID.IsZero() && r.Local.DropFor == r.HostID }

// sameKeys reports that the two are one identity: the same host ID with the same seed.
func (r Record) sameKeys(o Record) bool { return r.HostID == o.HostID && r.Seed == o.Seed }

// leftInMemory is the host ID that memory may still hold when the file's record r gives way to next by order: its own,
// or, where memory never took that, the one that r was ordered to leave.
func (r Record) leftInMemory(next ID) ID {
	if d := r.Local.DropFor; !r.Local.Stored && !d.IsZero() && !r.rebound() && d != next {
		return d
	}
	return r.HostID
}

// ordered are the facts of a record that an operator says is this PC's. Of the same board, what is not known now stays
// as ever. Of another, nothing that sits on the board does: it would go on saying "another board".
func (f Facts) ordered(present Facts) Facts {
	next := f.Merge(present)
	if Compare(f, present) != SameBoard {
		for _, fact := range []Fact{SystemUUID, BoardSerial, OnboardMAC, TPMEndorsementKey} {
			next[fact] = present[fact]
		}
	}
	return next
}

// LoadAside implements LocalStore: of several, those that gave way by order come first, then the latest.
func (f *File) LoadAside(ctx context.Context, id ID) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, fmt.Errorf("look for host ID %s: %w", id, err)
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return Record{}, fmt.Errorf("look for host ID %s: %w: %w%s", id, ErrUnavailable, err, advice(err))
	}
	type kept struct {
		byOrder int
		date    string
		name    string
		record  Record
	}
	var found []kept
	damaged := 0
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), FileName+".")
		parts := strings.Split(rest, "-") // WHY-DATE-DIGEST
		if !ok || len(parts) != 3 || !e.Type().IsRegular() {
			continue
		}
		b, err := ReadRegularFile(filepath.Join(f.dir, e.Name()), maxFile)
		if err == nil {
			var r Record
			if _, r, err = DecodeFrame(b); err == nil && r.HostID == id {
				k := kept{date: parts[1], name: e.Name(), record: r}
				if parts[0] == asideByOrder {
					k.byOrder = 1
				}
				found = append(found, k)
			}
		}
		if err != nil {
			damaged++
		}
	}
	if len(found) == 0 {
		why := ""
		if damaged > 0 {
			why = fmt.Sprintf("; %d that were set aside cannot be read", damaged)
		}
		return Record{}, fmt.Errorf("%w: no record of host ID %s was set aside in %s%s", ErrNotStored, id, f.dir, why)
	}
	return slices.MaxFunc(found, func(a, b kept) int {
		return cmp.Or(cmp.Compare(a.byOrder, b.byOrder), strings.Compare(a.date, b.date), strings.Compare(a.name, b.name))
	}).record, nil
}

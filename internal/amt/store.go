package amt

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// The names of the two blocks. They never change.
var blockNames = [2]string{"host ID 0", "host ID 1"}

// Bounds of one Load or Save, so that no device keeps us busy or wears its own flash out.
const (
	// maxRegistrations: the session that another run of ours replaced, or that idled away, costs one more; so does
	// a device that restarts meanwhile. One that drops sessions all the time has to be left alone.
	maxRegistrations = 3

	// maxWrites is how many WriteBlock calls a frame may take. A frame fits into one; the others continue after
	// partial writes.
	maxWrites = 16

	// maxBlocks is how many blocks of our names are looked at. There are two; names need not be unique.
	maxBlocks = 16
)

// Store keeps the record in two hidden blocks of the local AMT. It implements hostid.Store.
//
// The blocks are written in turn, each record with the next sequence, and the higher valid sequence counts: whatever
// cuts a Save short, the other block is whole. A block that holds nothing or nothing valid is filled from the one that
// does, so that after a first Save there are two copies.
//
// What the two methods return wraps exactly one of hostid's errors, and the cause: ErrNotInitialized where the
// firmware does not know the enterprise or gives no room; ErrUnavailable where AMT does not answer, is busy, is not set
// up, refuses the log-on, keeps a block locked, or refuses writes to spare its flash. A Save that failed with one of
// these can be done again. One block that cannot be read makes both methods fail, though the other may be whole: the
// newer record may be in it.
//
// Calls wait for each other, since AMT wants the calls of one application one at a time; of two Stores on one device
// the later takes the session from the earlier, which then takes it back.
type Store struct {
	enterprise string

	mu          sync.Mutex
	d           device
	session     string // opaque; "" without a registration
	application uint32 // our application's handle, with the session
	spent       int    // registrations of the present operation
	unrepaired  bool   // a bad block could not be rewritten: not tried again, it would only wear the flash
}

// NewStore makes a Store on the AMT that c reaches, under that EACL enterprise.
func NewStore(c *wsman.Client, enterprise string) *Store {
	return &Store{d: device{c: c}, enterprise: enterprise}
}

// Load implements hostid.Store. It registers the application, which AMT remembers, and writes no block.
func (s *Store) Load(ctx context.Context) (r hostid.Record, err error) {
	err = s.operate(ctx, func() error {
		blocks, err := s.readAll(ctx)
		if err != nil {
			return err
		}
		best, err := newest(blocks)
		if err != nil {
			return err
		}
		if best == nil {
			return nothingIn(blocks)
		}
		r = best.record
		return nil
	})
	return r, err
}

// Save implements hostid.Store. It allocates the blocks that are missing, and never writes over the only valid copy.
// Once the record is in one block, read back and equal, Save succeeds, whether or not a bad second block could be
// rewritten too.
func (s *Store) Save(ctx context.Context, r hostid.Record) error {
	r = r.Portable()
	if _, err := hostid.EncodeFrame(1, r); err != nil {
		return err
	}
	return s.operate(ctx, func() error { return s.save(ctx, r) })
}

// Close unregisters the application's session and drops the connection. The data stays.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.session != "" {
		_, err = s.d.invoke(ctx, storageClass, "UnregisterApplication", s.sessionParam())
		if isStatus(err, StatusApplicationNotRegistered) {
			err = nil
		}
		s.session = ""
	}
	return errors.Join(err, s.d.c.Close())
}

// Remove blanks and deallocates our blocks and removes our application: `samehost-client uninstall --erase-nvm`. The
// entries that Initialize made stay. Doing it again is harmless. Where the enterprise is unknown it wraps
// hostid.ErrNotInitialized: then there is nothing of ours, unless it was left under another enterprise's name.
func (s *Store) Remove(ctx context.Context) error {
	return s.operate(ctx, func() error {
		blocks, err := s.blocks(ctx)
		if err != nil {
			return err
		}
		// Deallocating need not erase, and the record holds the seed of the keys.
		var unblanked error
		for _, b := range blocks {
			err := s.write(ctx, b, bytes.Repeat([]byte{0xFF}, int(min(b.size, hostid.MaxFrame))))
			if err != nil && !answered(err) {
				return err
			}
			if err != nil && !s.stale(err) && unblanked == nil {
				unblanked = fmt.Errorf("removed, but %q could not be overwritten first: %w", b.name(), err)
			}
			_, err = s.call(ctx, "DeallocateBlock", wsman.Param{Name: "BlockHandle", Value: formatUint32(b.handle)})
			if err != nil && !isStatus(err, StatusBlockDoesNotExist) {
				return err
			}
		}
		if _, err := s.call(ctx, "RemoveApplication"); err != nil {
			return err
		}
		s.session = ""
		return unblanked
	})
}

// operate runs op with a session. If what op knew of the firmware's state no longer holds, op is run again from the
// beginning.
func (s *Store) operate(ctx context.Context, op func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent = 0
	for {
		var err error
		if s.session == "" {
			err = s.register(ctx)
		}
		if err == nil {
			err = op()
		}
		if err == nil {
			return nil
		}
		if !s.stale(err) {
			return s.explain(err)
		}
		s.session = ""
		if s.spent >= maxRegistrations {
			return s.explain(err)
		}
	}
}

// errMoved: the application has another handle than a moment ago, so the block handles mean nothing any more.
var errMoved = errors.New("the application was removed and registered anew meanwhile")

// stale reports that session, application or block are not what they were: the application was removed by an
// administrator, or AMT restarted.
func (s *Store) stale(err error) bool {
	return errors.Is(err, errMoved) ||
		isStatus(err, StatusApplicationNotRegistered, StatusApplicationDoesNotExist, StatusBlockDoesNotExist)
}

// explain makes err wrap exactly one of hostid's errors.
func (s *Store) explain(err error) error {
	for _, is := range []error{hostid.ErrNotStored, hostid.ErrNotInitialized, hostid.ErrCorrupt, hostid.ErrNewer, hostid.ErrUnavailable} {
		if errors.Is(err, is) {
			return err
		}
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("%w: nothing answers for AMT (is LMS running?): %w", hostid.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", hostid.ErrUnavailable, err)
}

func (s *Store) sessionParam() wsman.Param {
	return wsman.Param{Name: "SessionHandle", Value: s.session}
}

// register opens a session and asks for our application's handle. Registering with the same names and UUID ends the
// session that was open before.
func (s *Store) register(ctx context.Context) error {
	if err := checkEnterprise(s.enterprise); err != nil {
		return fmt.Errorf("%w: %w", hostid.ErrNotInitialized, err)
	}
	s.spent++
	out, err := s.d.invoke(ctx, storageClass, "RegisterApplication",
		wsman.Param{Name: "CallerUUID", Value: CallerUUID},
		wsman.Param{Name: "VendorName", Value: Vendor},
		wsman.Param{Name: "ApplicationName", Value: Application},
		wsman.Param{Name: "EnterpriseName", Value: s.enterprise})
	if isStatus(err, StatusInvalidRegistrationData) {
		return s.notRegistered(ctx, err)
	}
	if err != nil {
		return err
	}
	session, err := out.text("SessionHandle")
	if err != nil {
		return err
	}
	if session == "" || len(session) > 256 {
		return fmt.Errorf("RegisterApplication: %w: SessionHandle of %d characters", wsman.ErrBadReply, len(session))
	}
	out, err = s.d.invoke(ctx, storageClass, "GetCurrentApplicationHandle", wsman.Param{Name: "SessionHandle", Value: session})
	if err != nil {
		return err
	}
	application, err := out.uint32("ApplicationHandle")
	if err != nil {
		return err
	}
	s.session, s.application = session, application
	return nil
}

// notRegistered says why the firmware refused our names. An AMT that lost its setup has lost its enterprises too, and
// says so elsewhere; a registration pinned to the network interface looks like a missing enterprise from here.
func (s *Store) notRegistered(ctx context.Context, cause error) error {
	about := unknown
	if err := s.d.describe(ctx, &about, askSetup); err == nil && about.ProvisioningState >= 0 && about.ProvisioningState != 2 {
		return fmt.Errorf("%w: %w: %w", hostid.ErrUnavailable, about.unfit(true), cause)
	}
	return fmt.Errorf("%w: no enterprise %q in this AMT, or the application was first registered over the network, which AMT answers alike: %w",
		hostid.ErrNotInitialized, s.enterprise, cause)
}

// call calls a method within the session. A lost session is opened again and the call repeated: AMT refused it before
// doing anything.
func (s *Store) call(ctx context.Context, method string, in ...wsman.Param) (output, error) {
	for {
		out, err := s.d.invoke(ctx, storageClass, method, append([]wsman.Param{s.sessionParam()}, in...)...)
		if !isStatus(err, StatusApplicationNotRegistered) || s.spent >= maxRegistrations {
			return out, err
		}
		before := s.application
		if err := s.register(ctx); err != nil {
			return output{}, err
		}
		if s.application != before {
			return output{}, errMoved
		}
	}
}

// block is a block of ours and what it holds.
type block struct {
	slot   int // which of blockNames
	handle uint32
	size   uint32

	raw      []byte // what was read: the block's first MaxFrame bytes
	sequence uint64 // 0 if not valid
	record   hostid.Record
	state    error // nil: valid; else hostid.ErrNotStored (blank), ErrCorrupt or ErrNewer is in it
}

func (b *block) name() string { return blockNames[b.slot] }
func (b *block) valid() bool  { return b.state == nil }

// writable reports that a frame can be put here. A smaller block of our name is not of our making: it is read, and
// left alone.
func (b *block) writable() bool { return b.size >= BlockSize }

// blocks lists the blocks that have our names, by name and handle: a fixed order, since names need not be unique.
func (s *Store) blocks(ctx context.Context) ([]*block, error) {
	out, err := s.call(ctx, "GetAllocatedBlocks", wsman.Param{Name: "BlockOwnerApplication", Value: formatUint32(s.application)})
	if err != nil {
		return nil, err
	}
	handles, err := out.handles("BlockHandles")
	if err != nil {
		return nil, err
	}
	var blocks []*block
	for _, h := range handles {
		out, err := s.call(ctx, "GetBlockAttributes", wsman.Param{Name: "BlockHandle", Value: formatUint32(h)})
		if isStatus(err, StatusBlockDoesNotExist) {
			continue // deallocated since it was listed
		}
		if err != nil {
			return nil, err
		}
		name, _ := out.Value("BlockName") // a block need not have one
		slot := slices.Index(blockNames[:], name)
		if slot < 0 {
			continue
		}
		size, err := out.uint32("BlockSize")
		if err != nil {
			return nil, err
		}
		if size < hostid.FrameHeader {
			continue // cannot hold a record of any version
		}
		if len(blocks) == maxBlocks {
			return nil, fmt.Errorf("GetAllocatedBlocks: %w: more than %d blocks of our names", wsman.ErrBadReply, maxBlocks)
		}
		blocks = append(blocks, &block{slot: slot, handle: h, size: size})
	}
	slices.SortFunc(blocks, func(a, b *block) int {
		if a.slot != b.slot {
			return a.slot - b.slot
		}
		if a.handle < b.handle {
			return -1
		}
		return 1
	})
	return blocks, nil
}

// readAll lists our blocks and reads each.
func (s *Store) readAll(ctx context.Context) ([]*block, error) {
	blocks, err := s.blocks(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if err := s.load(ctx, b); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

// load reads the part of a block that a frame can lie in.
func (s *Store) load(ctx context.Context, b *block) (err error) {
	if b.raw, err = s.read(ctx, b, int(min(b.size, hostid.MaxFrame))); err != nil {
		return err
	}
	b.sequence, b.record, b.state = hostid.DecodeFrame(b.raw)
	if b.state != nil {
		b.sequence = 0 // older than all that are valid
		b.state = fmt.Errorf("block %q: %w", b.name(), b.state)
	}
	return nil
}

// read reads the first n bytes of a block, in transfers of at most maxTransfer.
func (s *Store) read(ctx context.Context, b *block, n int) ([]byte, error) {
	data := make([]byte, 0, n)
	for len(data) < n {
		want := min(n-len(data), maxTransfer)
		out, err := s.call(ctx, "ReadBlock",
			wsman.Param{Name: "BlockHandle", Value: formatUint32(b.handle)},
			wsman.Param{Name: "ByteOffset", Value: formatUint32(uint32(len(data)))},
			wsman.Param{Name: "ByteCount", Value: formatUint32(uint32(want))})
		if err != nil {
			return nil, fmt.Errorf("block %q: %w", b.name(), err)
		}
		v, err := out.text("Data")
		if err != nil {
			return nil, err
		}
		part, err := base64.StdEncoding.DecodeString(strings.TrimSpace(v))
		if err != nil || len(part) == 0 || len(part) > want {
			return nil, fmt.Errorf("block %q: ReadBlock: %w: %d bytes of Data, %d asked for", b.name(), wsman.ErrBadReply, len(part), want)
		}
		data = append(data, part...)
	}
	return data, nil
}

// write puts data at the beginning of a block, in transfers of at most maxTransfer. BytesWritten counts with every
// ReturnValue: what was written is not written again.
func (s *Store) write(ctx context.Context, b *block, data []byte) error {
	for done, calls := 0, 0; done < len(data); calls++ {
		if calls == maxWrites {
			return fmt.Errorf("block %q: WriteBlock: only %d of %d bytes written after %d calls", b.name(), done, len(data), calls)
		}
		part := data[done:min(len(data), done+maxTransfer)]
		out, err := s.call(ctx, "WriteBlock",
			wsman.Param{Name: "BlockHandle", Value: formatUint32(b.handle)},
			wsman.Param{Name: "ByteOffset", Value: formatUint32(uint32(done))},
			wsman.Param{Name: "Data", Value: base64.StdEncoding.EncodeToString(part)})
		var status Status
		if err != nil && !errors.As(err, &status) {
			return fmt.Errorf("block %q: %w", b.name(), err)
		}
		n, ok := out.Value("BytesWritten")
		written, parseErr := parseUint32(n)
		switch {
		case !ok && err != nil:
			return fmt.Errorf("block %q: %w", b.name(), err)
		case !ok:
			written = uint32(len(part)) // success without a count; reading back will tell
		case parseErr != nil || int64(written) > int64(len(part)):
			return fmt.Errorf("block %q: WriteBlock: %w: BytesWritten is %q of %d", b.name(), wsman.ErrBadReply, printable(n), len(part))
		}
		if written == 0 && err == nil {
			err = fmt.Errorf("WriteBlock: %w: success with nothing written", wsman.ErrBadReply)
		}
		if written == 0 {
			return fmt.Errorf("block %q: %w", b.name(), err)
		}
		done += int(written)
	}
	return nil
}

// newest is the block with the highest valid sequence, the last of them if there are several (then the next record goes
// to the first); nil if none is valid. A record of a newer version in any block stops everything: it may well be the
// newest, and only a newer samehost knows what it promises.
func newest(blocks []*block) (best *block, err error) {
	for _, b := range blocks {
		switch {
		case errors.Is(b.state, hostid.ErrNewer):
			return nil, b.state
		case b.valid() && (best == nil || b.sequence >= best.sequence):
			best = b
		}
	}
	return best, nil
}

// nothingIn says why none of these blocks is valid: something unreadable in one of them is worth knowing.
func nothingIn(blocks []*block) error {
	for _, b := range blocks {
		if errors.Is(b.state, hostid.ErrCorrupt) {
			return b.state
		}
	}
	if len(blocks) == 0 {
		return fmt.Errorf("%w: the application has no block", hostid.ErrNotStored)
	}
	return fmt.Errorf("%w: the application's blocks are blank", hostid.ErrNotStored)
}

func (s *Store) save(ctx context.Context, r hostid.Record) error {
	blocks, err := s.readAll(ctx)
	if err != nil {
		return err
	}
	best, err := newest(blocks)
	if err != nil {
		return err
	}
	stored, err := holds(best, r)
	if err != nil {
		return err
	}
	// Without room for both blocks nothing can be written, but what is stored already is.
	slots, made, noRoom := s.slots(ctx, blocks)
	if noRoom != nil && !stored {
		return noRoom
	}
	if len(made) > 0 {
		// A block that was ours before may come with what it held then: it counts like any other.
		if best, err = newest(append(blocks, made...)); err != nil {
			return err
		}
		if stored, err = holds(best, r); err != nil {
			return err
		}
	}
	if !stored && noRoom != nil {
		return noRoom
	}
	if !stored {
		var sequence uint64 = 1
		if best != nil {
			sequence = best.sequence + 1
		}
		frame, err := hostid.EncodeFrame(sequence, r)
		if err != nil {
			return err
		}
		target := turn(slots, best)
		if err := s.put(ctx, target, frame); err != nil {
			return err
		}
		best = target
	}
	s.repair(ctx, slots, best)
	return nil
}

// holds reports whether the block holds exactly this record.
func holds(b *block, r hostid.Record) (bool, error) {
	if b == nil {
		return false, nil
	}
	frame, err := hostid.EncodeFrame(b.sequence, r)
	return err == nil && bytes.HasPrefix(b.raw, frame), err
}

// slots is the block of each name that is written to: the first of its name that is large enough, allocated (made) if
// there is none. On an error the slots found until then are returned too.
func (s *Store) slots(ctx context.Context, blocks []*block) (slots [2]*block, made []*block, err error) {
	for _, b := range blocks {
		if b.writable() && slots[b.slot] == nil {
			slots[b.slot] = b
		}
	}
	for i := range slots {
		if slots[i] != nil {
			continue
		}
		if slots[i], err = s.allocate(ctx, i); err != nil {
			return slots, made, err
		}
		made = append(made, slots[i])
	}
	return slots, made, nil
}

// allocate makes a hidden block without groups: nobody else sees or reads it.
func (s *Store) allocate(ctx context.Context, slot int) (*block, error) {
	out, err := s.call(ctx, "AllocateBlock",
		wsman.Param{Name: "BytesRequested", Value: formatUint32(BlockSize)},
		wsman.Param{Name: "BlockHidden", Value: "true"},
		wsman.Param{Name: "BlockName", Value: blockNames[slot]})
	if isStatus(err, StatusNotEnoughStorage, StatusMaxLimitReached) {
		return nil, fmt.Errorf("%w: no room for block %q of %d bytes: %w", hostid.ErrNotInitialized, blockNames[slot], BlockSize, err)
	}
	if err != nil {
		return nil, err
	}
	handle, err := out.uint32("BlockHandle")
	if err != nil {
		return nil, err
	}
	b := &block{slot: slot, handle: handle, size: BlockSize}
	if err := s.load(ctx, b); err != nil { // it is not told whether a block comes erased
		return nil, err
	}
	return b, nil
}

// turn is the block to write next: the one that does not hold the best copy; where that lies elsewhere, the older, which
// one that holds nothing valid is.
func turn(slots [2]*block, best *block) *block {
	a, b := slots[0], slots[1]
	switch {
	case a == best:
		return b
	case b == best:
		return a
	case b.sequence < a.sequence:
		return b
	}
	return a
}

// put writes a frame into a block, blanks what a longer one left behind it, and proves it by reading it back.
func (s *Store) put(ctx context.Context, b *block, frame []byte) error {
	end := len(b.raw)
	for end > 0 && b.raw[end-1] == 0xFF {
		end--
	}
	data := hostid.PadFrame(slices.Clone(frame), end)
	if err := s.write(ctx, b, data); err != nil {
		return err
	}
	if err := s.load(ctx, b); err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if !bytes.HasPrefix(b.raw, data) || !b.valid() {
		return fmt.Errorf("block %q: %w", b.name(), errNotKept)
	}
	return nil
}

// errNotKept: the flash or the firmware did not keep what WriteBlock accepted.
var errNotKept = errors.New("what was read back is not what was written")

// repair rewrites what is not valid from the best copy. It never fails a Save, which has kept its promise by then. A
// device that refuses, or whose block does not keep what is written, is not asked again by this Store.
func (s *Store) repair(ctx context.Context, slots [2]*block, best *block) {
	if s.unrepaired {
		return
	}
	frame, err := hostid.EncodeFrame(best.sequence, best.record)
	if err != nil {
		return
	}
	for _, b := range slots {
		if b == nil || b.valid() {
			continue
		}
		if err := s.put(ctx, b, frame); err != nil {
			var status Status
			s.unrepaired = errors.Is(err, errNotKept) ||
				errors.As(err, &status) && !s.stale(err) && !errors.Is(err, ErrNotReady)
			return
		}
	}
}

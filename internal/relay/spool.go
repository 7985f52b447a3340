package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// The spool keeps reports in segments, files that are only ever appended to. docs/protocol/relay.md states their form.
//
// A report is durable when append returns; one fsync serves all that wait at the same time. That a report was answered is
// written too, but not waited for: if that is lost, the report goes up once more and is answered as before. Segments go
// from the oldest on, so that what says "answered" never goes before what was answered; where few reports keep the oldest,
// they are written again at the end.
const (
	frameMagic  = 0x53485331 // "SHS1"
	frameHead   = 12         // magic, length, CRC-32C of length and content; each 4 bytes, big endian
	spoolFormat = 1

	kindSegment  = 0
	kindReport   = 1
	kindAnswered = 2

	segmentSize  = 16 << 20
	minSegment   = 64 << 10
	maxFrame     = checkin.MaxReport + 1024
	maxGroup     = 1024        // reports of one fsync
	maxGroupText = 4 << 20     // and their bytes
	maxAnswered  = 4096        // numbers that wait to be written
	flushEvery   = time.Second // how long they wait
	sparse       = 4           // a segment of which less than this part is kept is written again
	maxSegments  = 1 << 20     // no spool has more files
	hopSize      = 16 + 8 + 1  // in a frame
	segmentGlob  = ".spool"    // their names end so
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errFull says that the spool has reached its bound.
var errFull = errors.New("the spool is full")

// kept is where a report is. There may be hundreds of thousands.
type kept struct {
	number   uint64 // counts reports from 1
	segment  *segment
	offset   uint32
	size     uint32        // of the frame
	digest   uint64        // the first bytes of the report's
	received int64         // milliseconds since 1970
	awake    time.Duration // when, on the clock of this run; 0: in a run before
}

type segment struct {
	path  string
	seq   uint64
	size  int64
	file  *os.File // for reading
	live  int      // reports that are kept
	bytes int64    // that they take
}

// spooled is a report as it is kept.
type spooled struct {
	report   checkin.SignedReport // with the hops that it came with
	received int64                // as kept.received
	awake    time.Duration        // as kept.awake; not written
}

type spool struct {
	dir     string
	bound   int64
	log     *slog.Logger
	step    func(string) // for tests that end the process between two steps; nil: nothing
	sync    func(*os.File) error
	segSize int64

	requests chan *appending
	closing  chan struct{}
	closed   chan struct{}

	// The writing goroutine's own.
	next uint64   // number of the next report
	seq  uint64   // of the last segment
	tail *os.File // that segment, for writing; nil: begin another

	mu       sync.Mutex
	segments []*segment // the oldest first
	entries  map[uint64]*kept
	used     int64    // bytes of all segments
	answered []uint64 // not written yet
	waiting  int64    // bytes of reports that are about to be written
}

type appending struct {
	spooled
	entry *kept
	err   error
	done  chan struct{}
}

// openSpool reads what is kept in dir, making it if it is missing, and returns it in the order in which it came. A torn
// end is cut off; what is damaged elsewhere is passed over, logged, and a copy of its segment set aside.
func openSpool(dir string, bound int64, log *slog.Logger, change ...func(*spool)) (*spool, []*kept, error) {
	s := &spool{dir: dir, bound: bound, log: log, entries: map[uint64]*kept{}, next: 1, sync: (*os.File).Sync,
		requests: make(chan *appending, maxGroup), closing: make(chan struct{}), closed: make(chan struct{})}
	s.segSize = min(segmentSize, max(minSegment, bound/16))
	for _, c := range change {
		c(s)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	var seqs []uint64
	for _, n := range names {
		text, ok := strings.CutSuffix(n.Name(), segmentGlob)
		if seq, err := strconv.ParseUint(text, 10, 64); ok && err == nil && n.Type().IsRegular() {
			seqs = append(seqs, seq)
		}
	}
	if len(seqs) > maxSegments {
		return nil, nil, fmt.Errorf("%s: %d segments", dir, len(seqs))
	}
	slices.Sort(seqs)
	gone := map[uint64]bool{}
	for i, seq := range seqs {
		if err := s.load(seq, i == len(seqs)-1, gone); err != nil {
			s.closeFiles()
			return nil, nil, err
		}
		s.seq = seq
	}
	var all []*kept
	for n, e := range s.entries {
		if gone[n] {
			s.drop(e)
			continue
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *kept) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	if err := s.collect(); err != nil {
		s.closeFiles()
		return nil, nil, err
	}
	go s.write()
	return s, all, nil
}

func segmentName(seq uint64) string { return fmt.Sprintf("%016d%s", seq, segmentGlob) }

// load reads one segment.
func (s *spool) load(seq uint64, last bool, gone map[uint64]bool) error {
	path := filepath.Join(s.dir, segmentName(seq))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	g := &segment{path: path, seq: seq, file: f}
	s.segments = append(s.segments, g)
	data, err := io.ReadAll(io.LimitReader(f, 2*segmentSize))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	end, damaged := int64(0), false
	for at := 0; at < len(data); {
		content, size := readFrame(data[at:])
		if size == 0 {
			next := nextFrame(data, at+1)
			if next < 0 {
				break
			}
			damaged, at = true, next
			continue
		}
		if err := s.loadFrame(g, content, at, size, gone); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		at += size
		end = int64(at)
	}
	torn := end < int64(len(data))
	if (damaged || torn && !last) && !s.setAside(seq) {
		aside := path + "." + time.Now().UTC().Format("20060102T150405Z") + ".damaged"
		if err := hostid.WriteFileDurably(aside, data); err != nil {
			return err
		}
		s.log.Error("a part of the spool is damaged: reports in it may be lost; a copy is set aside", "segment", path, "copy", aside)
	}
	if torn {
		if err := errors.Join(f.Truncate(end), s.sync(f)); err != nil {
			return err
		}
	}
	g.size = end
	s.used += end
	return nil
}

// setAside reports whether a copy of a segment was set aside at an earlier start: the damage in its middle stays, and each start meets it.
func (s *spool) setAside(seq uint64) bool {
	names, err := os.ReadDir(s.dir)
	return err == nil && slices.ContainsFunc(names, func(n fs.DirEntry) bool {
		return strings.HasPrefix(n.Name(), segmentName(seq)+".") && strings.HasSuffix(n.Name(), ".damaged")
	})
}

func (s *spool) loadFrame(g *segment, content []byte, at, size int, gone map[uint64]bool) error {
	switch content[0] {
	case kindSegment:
		if len(content) < 2 || content[1] > spoolFormat {
			return fmt.Errorf("%w: a newer samehost-relay wrote it: upgrade this program", hostid.ErrNewer)
		}
	case kindReport:
		number, r, err := decodeReport(content)
		if err != nil {
			s.log.Error("a report in the spool cannot be read", "segment", g.path, "error", err)
			return nil
		}
		d := r.report.Digest()
		if old := s.entries[number]; old != nil { // written again, and the process ended before the old segment went
			old.segment.live--
			old.segment.bytes -= int64(old.size)
		}
		s.entries[number] = &kept{number: number, segment: g, offset: uint32(at), size: uint32(size), digest: binary.BigEndian.Uint64(d[:]), received: r.received}
		g.live++
		g.bytes += int64(size)
		s.next = max(s.next, number+1)
	case kindAnswered:
		for b := content[1:]; len(b) >= 8; b = b[8:] {
			n := binary.BigEndian.Uint64(b)
			gone[n] = true
			s.next = max(s.next, n+1)
		}
	}
	return nil
}

// readFrame returns the content of the frame that b begins with and the size of the frame, 0 if there is none.
func readFrame(b []byte) (content []byte, size int) { return readFrameOf(b, maxFrame) }

func readFrameOf(b []byte, limit int) (content []byte, size int) {
	n := frameLength(b)
	if n < 1 || n > limit || frameHead+n > len(b) {
		return nil, 0
	}
	content = b[frameHead : frameHead+n]
	if checksum(b[4:8], content) != binary.BigEndian.Uint32(b[8:]) {
		return nil, 0
	}
	return content, frameHead + n
}

// frameLength is the length of the content of the frame that b begins with, 0 if it begins with none.
func frameLength(b []byte) int {
	if len(b) < frameHead || binary.BigEndian.Uint32(b) != frameMagic {
		return 0
	}
	return int(binary.BigEndian.Uint32(b[4:]))
}

func checksum(length, content []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, content)
}

// nextFrame is where the next whole frame begins; -1 if there is none.
func nextFrame(b []byte, from int) int {
	magic := binary.BigEndian.AppendUint32(nil, frameMagic)
	for from < len(b) {
		i := bytes.Index(b[from:], magic)
		if i < 0 {
			return -1
		}
		from += i
		if _, size := readFrame(b[from:]); size > 0 {
			return from
		}
		from++
	}
	return -1
}

func appendFrame(b, content []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, frameMagic)
	length := binary.BigEndian.AppendUint32(nil, uint32(len(content)))
	b = append(b, length...)
	b = binary.BigEndian.AppendUint32(b, checksum(length, content))
	return append(b, content...)
}

func encodeReport(number uint64, r spooled) []byte {
	b := []byte{kindReport}
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(r.received))
	b = append(b, byte(len(r.report.Hops)))
	for _, h := range r.report.Hops {
		b = append(b, h.Relay[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(h.Held.Milliseconds()))
		if h.Uncertain {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return append(b, r.report.JWS...)
}

func decodeReport(b []byte) (number uint64, r spooled, err error) {
	const head = 1 + 8 + 8 + 1
	if len(b) < head || len(b) < head+int(b[head-1])*hopSize {
		return 0, r, errors.New("too short")
	}
	number, r.received = binary.BigEndian.Uint64(b[1:]), int64(binary.BigEndian.Uint64(b[9:]))
	hops := int(b[head-1])
	for b = b[head:]; hops > 0; hops-- {
		h := checkin.Hop{Held: time.Duration(binary.BigEndian.Uint64(b[16:])) * time.Millisecond, Uncertain: b[24] != 0}
		copy(h.Relay[:], b)
		r.report.Hops = append(r.report.Hops, h)
		b = b[hopSize:]
	}
	r.report.JWS = string(b)
	return number, r, nil
}

// append keeps a report and returns where it is once it is durable. It fails with errFull at the bound, or with an error
// of the disk; then nothing is kept.
func (s *spool) append(r spooled) (*kept, error) {
	size := int64(len(r.report.JWS) + frameHead + 64 + hopSize*len(r.report.Hops))
	s.mu.Lock()
	if s.used+s.waiting+size > s.bound {
		s.mu.Unlock()
		return nil, errFull
	}
	s.waiting += size
	s.mu.Unlock()
	a := &appending{spooled: r, done: make(chan struct{})}
	select {
	case s.requests <- a:
		select {
		case <-a.done:
		case <-s.closed:
			select {
			case <-a.done:
			default:
				a.err = fs.ErrClosed
			}
		}
	case <-s.closing:
		a.err = fs.ErrClosed
	}
	s.mu.Lock()
	s.waiting -= size
	s.mu.Unlock()
	return a.entry, a.err
}

// read reads a report back.
func (s *spool) read(e *kept) (spooled, error) {
	s.mu.Lock()
	f, at, size := e.segment.file, int64(e.offset), int(e.size)
	s.mu.Unlock()
	b := make([]byte, size)
	_, err := f.ReadAt(b, at)
	if errors.Is(err, fs.ErrClosed) { // it has just been written again elsewhere
		s.mu.Lock()
		f, at = e.segment.file, int64(e.offset)
		s.mu.Unlock()
		_, err = f.ReadAt(b, at)
	}
	if err != nil {
		return spooled{}, err
	}
	content, n := readFrame(b)
	if n != size || content[0] != kindReport {
		return spooled{}, fmt.Errorf("report %d in %s: %w", e.number, e.segment.path, hostid.ErrCorrupt)
	}
	number, r, err := decodeReport(content)
	if err == nil && number != e.number {
		err = fmt.Errorf("report %d in %s: %w", e.number, e.segment.path, hostid.ErrCorrupt)
	}
	return r, err
}

// done says that a report need not be kept any more.
func (s *spool) done(e *kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.number] != e {
		return
	}
	s.answered = append(s.answered, e.number)
	s.drop(e)
}

func (s *spool) drop(e *kept) {
	delete(s.entries, e.number)
	e.segment.live--
	e.segment.bytes -= int64(e.size)
}

// size is how many reports are kept, and how many bytes the segments take.
func (s *spool) size() (reports int, used int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries), s.used
}

// close writes what waits and ends.
func (s *spool) close() error {
	close(s.closing)
	<-s.closed
	return s.closeFiles()
}

func (s *spool) closeFiles() error {
	var errs []error
	for _, g := range s.segments {
		errs = append(errs, g.file.Close())
	}
	if s.tail != nil {
		errs = append(errs, s.tail.Close())
	}
	return errors.Join(errs...)
}

// write is the one goroutine that changes files.
func (s *spool) write() {
	defer close(s.closed)
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	for ending := false; !ending; {
		var group []*appending
		size := 0
		take := func(a *appending) {
			group = append(group, a)
			size += len(a.report.JWS)
		}
		select {
		case a := <-s.requests:
			take(a)
		case <-flush.C:
		case <-s.closing:
			ending = true
		}
		for more := true; more && len(group) < maxGroup && size < maxGroupText; {
			select {
			case a := <-s.requests:
				take(a)
				ending = false // there may be others behind it
			default:
				more = false
			}
		}
		s.commit(group)
		if err := s.collect(); err != nil {
			s.log.Error("the spool cannot be tidied up", "error", err)
		}
		if !ending {
			select {
			case <-s.closing:
				ending = len(s.requests) == 0
			default:
			}
		}
	}
}

// commit makes a group of reports durable and lets those go on who wait for it.
func (s *spool) commit(group []*appending) {
	s.mu.Lock()
	answered := s.answered
	s.answered = nil
	s.mu.Unlock()
	if len(group) == 0 && len(answered) == 0 {
		return
	}
	err := s.begin()
	var buf []byte
	var g *segment
	if err == nil {
		g = s.last()
		for rest := answered; len(rest) > 0; rest = rest[min(len(rest), maxAnswered):] {
			content := []byte{kindAnswered}
			for _, n := range rest[:min(len(rest), maxAnswered)] {
				content = binary.BigEndian.AppendUint64(content, n)
			}
			buf = appendFrame(buf, content)
		}
		for _, a := range group {
			at := int64(len(buf))
			buf = appendFrame(buf, encodeReport(s.next, a.spooled))
			d := a.report.Digest()
			a.entry = &kept{number: s.next, segment: g, offset: uint32(g.size + at), size: uint32(int64(len(buf)) - at),
				digest: binary.BigEndian.Uint64(d[:]), received: a.received, awake: a.awake}
			s.next++
		}
		if err = s.flush(buf, len(group) > 0); err != nil {
			s.abandon(g.size)
		}
	}
	s.mu.Lock()
	if err == nil {
		g.size += int64(len(buf))
		s.used += int64(len(buf))
		for _, a := range group {
			s.entries[a.entry.number] = a.entry
			g.live++
			g.bytes += int64(a.entry.size)
		}
	} else {
		s.answered = append(answered, s.answered...)
	}
	s.mu.Unlock()
	if err != nil {
		s.log.Error("the spool cannot be written", "error", err)
	}
	for _, a := range group {
		if err != nil {
			a.entry, a.err = nil, err
		}
		close(a.done)
	}
}

// last is the segment that is written to, once begin has seen to one.
func (s *spool) last() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments[len(s.segments)-1]
}

// begin sees to it that there is a segment to write to.
func (s *spool) begin() error {
	if s.tail != nil && s.last().size < s.segSize {
		return nil
	}
	if s.tail != nil {
		s.tail.Close() // what must be durable in it is
		s.tail = nil
	}
	s.seq++
	path := filepath.Join(s.dir, segmentName(s.seq))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	head := appendFrame(nil, []byte{kindSegment, spoolFormat})
	s.did("created")
	if _, err = f.Write(head); err == nil {
		err = s.sync(f)
	}
	if err == nil {
		err = syncFolder(s.dir)
	}
	var read *os.File
	if err == nil {
		read, err = os.Open(path)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return err
	}
	s.did("begun")
	s.tail = f
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, &segment{path: path, seq: s.seq, size: int64(len(head)), file: read})
	s.used += int64(len(head))
	return nil
}

func (s *spool) flush(b []byte, durable bool) error {
	if _, err := s.tail.Write(b); err != nil {
		return err
	}
	s.did("written")
	if !durable {
		return nil
	}
	err := s.sync(s.tail)
	s.did("synced")
	return err
}

func (s *spool) did(step string) {
	if s.step != nil {
		s.step(step)
	}
}

// abandon gives up the segment that could not be written: what was durable in it stays, and the next report begins another.
func (s *spool) abandon(size int64) {
	s.tail.Truncate(size) // if it fails, a report that nobody was told of may go up: it is a report all the same
	s.tail.Close()
	s.tail = nil
}

// collect deletes segments, from the oldest on, in which nothing is kept; where little is, it is written again first.
func (s *spool) collect() error {
	for {
		s.mu.Lock()
		if len(s.segments) == 0 || len(s.segments) == 1 && s.tail != nil {
			s.mu.Unlock()
			return nil
		}
		g, few := s.segments[0], len(s.segments) < 4
		live, bytes := g.live, g.bytes
		s.mu.Unlock()
		if live > 0 {
			if bytes*sparse > g.size || few || s.tail == nil {
				return nil
			}
			if err := s.writeAgain(g); err != nil {
				return err
			}
		}
		s.mu.Lock()
		s.segments = s.segments[1:]
		s.used -= g.size
		s.mu.Unlock()
		g.file.Close()
		if err := os.Remove(g.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.did("removed")
	}
}

// writeAgain puts what is kept in a segment at the end.
func (s *spool) writeAgain(g *segment) error {
	if err := s.begin(); err != nil {
		return err
	}
	to := s.last()
	var moved []*kept
	s.mu.Lock()
	for _, e := range s.entries {
		if e.segment == g {
			moved = append(moved, e)
		}
	}
	s.mu.Unlock()
	var buf []byte
	offsets := make([]uint32, len(moved))
	for i, e := range moved {
		b := make([]byte, e.size)
		if _, err := g.file.ReadAt(b, int64(e.offset)); err != nil {
			return err
		}
		offsets[i] = uint32(to.size + int64(len(buf)))
		buf = append(buf, b...)
	}
	if err := s.flush(buf, true); err != nil {
		s.abandon(to.size)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	to.size += int64(len(buf))
	s.used += int64(len(buf))
	for i, e := range moved {
		if s.entries[e.number] == e { // not answered meanwhile
			e.segment, e.offset = to, offsets[i]
			to.live++
			to.bytes += int64(e.size)
		}
	}
	return nil
}

package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"samehost/internal/amtinit"
	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const (
	workFolder     = "work"
	workSuffix     = ".work"     // the work as signed
	progressSuffix = ".progress" // what was said of it, in frames as the spool's
	offSuffix      = ".off"      // it was called off, and its journals have not been handed on
	endedSuffix    = ".ended"    // what was said of work that has ended

	lease         = 3 * time.Minute // a relay below that has not asked for so long is gone
	firstAsk      = time.Second     // between polls that fail; doubled
	lastAsk       = time.Minute
	standing      = 2 * time.Second  // a question stands that long before another one takes its place
	againAfter    = time.Minute      // work whose doing failed is begun again
	revokedFor    = 10 * time.Minute // until it is asked again whether a relay below is one
	maxBelow      = 999              // which the higher system takes beside this one
	maxHave       = 48_000           // names of work in a question: 3 MiB
	maxPassing    = 64 << 20         // bytes of work for relays below that are kept until they fetch it
	endedFor      = 10 * time.Minute // work that has ended is neither begun nor told of again: an answer may still bring it
	keepEnded     = 30 * 24 * time.Hour
	maxEnded      = 64        // of which what was said is kept
	maxEndedBytes = 256 << 20 // and the bytes of that
	rewindAfter   = 4         // answers that progress is not wanted now, until all of its work is said again
	frameProgress = 3         // kind of a frame
)

// Do does one kind of work. It is called once the manager has taken that the work begins. It is called again with the same work
// after the relay was ended in the middle of it, so it looks first at what is done already. report makes progress durable, to be
// sent in order until the manager has it; the one that is done is the last. off is closed when the manager does not want the work
// any more: nothing further is begun then, what is being worked on is finished, and report fails with ErrCalledOff. The context
// ends with the relay. Another error, or an end without progress that is done, means that the work is begun again after a minute.
type Do func(ctx context.Context, w checkin.Work, off <-chan struct{}, report func(body json.RawMessage, done bool) error) error

// ErrCalledOff says that the manager does not want work any more.
var ErrCalledOff = errors.New("it was called off")

// works is the work of this relay, and what passes through it to relays below.
type works struct {
	dir string
	who identity
	up  *checkin.RelayClient
	do  map[string]Do
	log *slog.Logger

	quiet *checkin.Quiet // for what a higher system may cause without end

	mu      sync.Mutex
	own     map[string]*ownWork
	ask     chan struct{} // closed when another question is to be asked
	below   map[hostid.ID]*relayBelow
	passing map[string]passing
	handed  map[string]hostid.ID    // work that passed, and to whom: what those below may say that they have
	size    int                     // bytes of passing
	revoked map[hostid.ID]time.Time // of relays below, when they were said to be none any more
	wake    chan struct{}           // closed when there is something for those below, or to send
	refused string                  // why this relay itself is none any more; "" while it is one
	kinds   map[string]*sync.Mutex  // one work of a kind at a time
	ended   map[string]time.Time    // work dropped of late, and when
}

type ownWork struct {
	work     checkin.Work
	sent     uint64 // sequence of the progress that the higher system has
	said     uint64 // of the last one that is durable here
	done     bool   // the last one said that it is done
	offsets  []int64
	file     *os.File
	size     int64
	again    bool          // it had ended here, and the manager wants it once more: its database was put back
	called   bool          // off: the manager does not want it any more
	off      chan struct{} // closed when called is set
	finished bool          // its goroutine has ended
}

type relayBelow struct {
	by    hostid.ID // on whose connection it was named first; itself, once it has asked itself
	have  []string
	until time.Time
}

type passing struct {
	to  hostid.ID
	jws string
}

// openWorks reads the work that is not finished.
func openWorks(dataDir string, who identity, up *checkin.RelayClient, do map[string]Do, log *slog.Logger) (*works, error) {
	w := &works{dir: filepath.Join(dataDir, workFolder), who: who, up: up, do: do, log: log, quiet: checkin.NewQuiet(log), own: map[string]*ownWork{},
		ask: make(chan struct{}), wake: make(chan struct{}), below: map[hostid.ID]*relayBelow{}, passing: map[string]passing{}, handed: map[string]hostid.ID{},
		revoked: map[hostid.ID]time.Time{}, kinds: map[string]*sync.Mutex{}, ended: map[string]time.Time{}}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if id, ok := strings.CutSuffix(n.Name(), offSuffix); ok { // the relay ended before it had removed it
			if err := errors.Join(w.remove(id), w.handOn(id)); err != nil {
				return nil, err
			}
		}
	}
	for _, n := range names {
		id, ok := strings.CutSuffix(n.Name(), workSuffix)
		if !ok {
			if of, ok := strings.CutSuffix(n.Name(), progressSuffix); ok {
				if _, err := os.Stat(w.path(of, workSuffix)); errors.Is(err, fs.ErrNotExist) {
					os.Remove(w.path(of, progressSuffix)) // its work was finished
				}
			}
			continue
		}
		if err := w.load(id); err != nil && !errors.Is(err, fs.ErrNotExist) { // not there: it was called off
			w.closeFiles()
			return nil, err
		}
	}
	return w, w.trimEnded(time.Now())
}

// trimEnded removes what was said of work that ended long ago, or of the oldest where it is too much.
func (w *works) trimEnded(now time.Time) error {
	names, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	for _, n := range names {
		if strings.HasSuffix(n.Name(), endedSuffix) {
			if info, err := n.Info(); err == nil {
				files = append(files, info)
			}
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	size := int64(0)
	for i, f := range files {
		if size += f.Size(); i < maxEnded && size <= maxEndedBytes && now.Sub(f.ModTime()) < keepEnded {
			continue
		}
		if gone := os.Remove(filepath.Join(w.dir, f.Name())); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

func (w *works) path(id, suffix string) string { return filepath.Join(w.dir, id+suffix) }

func (w *works) closeFiles() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.own {
		if o.file != nil {
			o.file.Close()
		}
	}
}

// load reads one work and what was said of it. What cannot be read is set aside: the manager sends the work again.
func (w *works) load(id string) error {
	b, err := hostid.ReadRegularFile(w.path(id, workSuffix), checkin.MaxWork)
	if err != nil && !errors.Is(err, hostid.ErrCorrupt) {
		return err
	}
	var work checkin.Work
	if err == nil {
		work, err = checkin.VerifyWork(string(b), w.who.manager)
	}
	if err == nil && (work.ID != id || work.To != w.who.record.HostID) {
		err = errors.New("it is another relay's")
	}
	if err != nil {
		w.log.Error("work that was kept cannot be read; it is set aside", "work", id, "error", err)
		return os.Rename(w.path(id, workSuffix), w.path(id, workSuffix)+".damaged")
	}
	o := &ownWork{work: work, off: make(chan struct{})}
	if err := w.openProgress(o); err != nil {
		return err
	}
	w.own[id] = o
	return nil
}

// openProgress opens the file of what was said, and cuts off a torn end.
// Where the work had ended, all that was said of it is there, and is said again.
func (w *works) openProgress(o *ownWork) error {
	path := w.path(o.work.ID, progressSuffix)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		err := os.Rename(w.path(o.work.ID, endedSuffix), path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		o.again = err == nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	o.file = f
	for {
		_, size, p, err := w.readProgress(f, o.size)
		if err != nil || p.Sequence != o.said+1 {
			break
		}
		o.offsets = append(o.offsets, o.size)
		o.size += int64(size)
		o.said, o.done = p.Sequence, p.Done
	}
	return errors.Join(f.Truncate(o.size), f.Sync(), syncFolder(w.dir))
}

// readProgress reads the frame at an offset.
func (w *works) readProgress(f *os.File, at int64) (jws string, size int, p checkin.Progress, err error) {
	head := make([]byte, frameHead)
	if _, err := f.ReadAt(head, at); err != nil {
		return "", 0, p, err
	}
	n := frameLength(head)
	if n < 2 || n > checkin.MaxProgress+1 {
		return "", 0, p, hostid.ErrCorrupt
	}
	b := make([]byte, frameHead+n)
	if _, err := f.ReadAt(b, at); err != nil {
		return "", 0, p, err
	}
	content, size := readFrameOf(b, checkin.MaxProgress+1)
	if size == 0 || content[0] != frameProgress {
		return "", 0, p, hostid.ErrCorrupt
	}
	jws = string(content[1:])
	p, _, err = checkin.VerifyProgress(jws)
	return jws, size, p, err
}

// run does the work until the context ends.
func (w *works) run(ctx context.Context) {
	var all sync.WaitGroup
	w.mu.Lock()
	for _, o := range w.own {
		w.begin(ctx, &all, o)
	}
	w.mu.Unlock()
	all.Go(func() { w.sendProgress(ctx) })
	w.poll(ctx, &all)
	all.Wait()
	w.closeFiles()
}

// begin begins work in a goroutine of its own.
func (w *works) begin(ctx context.Context, all *sync.WaitGroup, o *ownWork) {
	if o.done {
		o.finished = true
		return
	}
	kind := w.kinds[o.work.Kind]
	if kind == nil {
		kind = &sync.Mutex{}
		w.kinds[o.work.Kind] = kind
	}
	all.Go(func() {
		kind.Lock()
		defer kind.Unlock()
		w.doIt(ctx, o)
		w.mu.Lock()
		if o.called {
			if err := w.handOn(o.work.ID); err != nil {
				w.log.Error("what was done of work before it was called off cannot be handed on; tried again at the next start", "work", o.work.ID, "error", err)
			}
		}
		o.finished = true
		w.ring()
		w.mu.Unlock()
	})
}

func (w *works) doIt(ctx context.Context, o *ownWork) {
	report := func(body json.RawMessage, done bool) error { return w.said(o, body, done) }
	for ctx.Err() == nil {
		do := w.do[o.work.Kind]
		var err error
		switch {
		case do == nil:
			err = report(json.RawMessage(`{"error":"unknown-kind"}`), true)
		default:
			if err = w.announce(ctx, o); err == nil {
				err = do(ctx, o.work, o.off, report)
			}
		}
		w.mu.Lock()
		over := o.done || o.called
		w.mu.Unlock()
		if over {
			return
		}
		if err == nil {
			err = errors.New("it ended without saying that it is done")
		}
		if ctx.Err() != nil {
			return
		}
		w.log.Error("work failed; it is begun again", "work", o.work.ID, "kind", o.work.Kind, "error", err)
		select {
		case <-time.After(againAfter):
		case <-o.off:
			return
		case <-ctx.Done():
		}
	}
}

// announce says that the work begins, and waits until the higher system has taken that: work that was called off while nobody
// could tell this relay is not begun with. Once there was more to say of it, it had been taken.
func (w *works) announce(ctx context.Context, o *ownWork) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.said == 0 && !o.called {
		w.mu.Unlock()
		err := w.said(o, nil, false)
		w.mu.Lock()
		if err != nil {
			return err
		}
	}
	for (o.sent == 0 && o.said == 1 || o.again && o.sent < o.said) && !o.called {
		wake := w.wake
		w.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		w.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if o.called {
		return fmt.Errorf("work %s: %w", o.work.ID, ErrCalledOff)
	}
	return nil
}

// said makes progress durable.
func (w *works) said(o *ownWork, body json.RawMessage, done bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case o.done:
		return fmt.Errorf("work %s is done", o.work.ID)
	case o.called:
		return fmt.Errorf("work %s: %w", o.work.ID, ErrCalledOff)
	}
	if body == nil {
		body = json.RawMessage(`{}`)
	}
	jws, err := checkin.SignProgress(checkin.Progress{Work: o.work.ID, From: w.who.record.HostID, Sequence: o.said + 1, Done: done, Body: body},
		w.who.record.Seed.SigningKey())
	if err != nil {
		return err
	}
	frame := appendFrame(nil, append([]byte{frameProgress}, jws...))
	if _, err := o.file.WriteAt(frame, o.size); err != nil {
		return err
	}
	if err := o.file.Sync(); err != nil {
		return err
	}
	o.offsets = append(o.offsets, o.size)
	o.size += int64(len(frame))
	o.said, o.done = o.said+1, done
	w.ring()
	return nil
}

// ring wakes who waits for anything to send or to hand out. The caller holds the lock.
func (w *works) ring() {
	close(w.wake)
	w.wake = make(chan struct{})
}

// sendProgress brings what was said up, in order.
func (w *works) sendProgress(ctx context.Context) {
	wait, notNow := time.Duration(0), 0
	for {
		w.mu.Lock()
		wake := w.wake
		var next *ownWork
		for _, o := range w.own {
			if o.sent < o.said && (next == nil || o.work.Made.Before(next.work.Made)) {
				next = o
			}
		}
		var jws string
		var err error
		if next != nil {
			jws, _, _, err = w.readProgress(next.file, next.offsets[next.sent])
		}
		w.mu.Unlock()
		if next == nil {
			select {
			case <-wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err == nil {
			err = w.up.Progress(ctx, jws)
		}
		var refusal *checkin.Refusal
		var busy *checkin.Busy
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			wait, notNow = 0, 0
			w.mu.Lock()
			if next.sent++; next.sent == 1 || next.again && next.sent == next.said {
				w.ring() // who waits in announce
			}
			if next.done && next.sent == next.said {
				w.drop(next)
			}
			w.mu.Unlock()
			continue
		case errors.As(err, &refusal):
			w.log.Warn("the manager does not want this work any more", "work", next.work.ID, "reason", refusal.Detail)
			w.mu.Lock()
			next.called = true
			close(next.off)
			w.drop(next)
			w.ring() // who waits in announce
			w.mu.Unlock()
			continue
		}
		if wait == 0 {
			w.log.Warn("progress of work cannot be sent yet", "work", next.work.ID, "reason", err)
		}
		// The manager takes progress in order. Where its database was put back, it lacks what it had taken, and waits for that.
		if !errors.As(err, &busy) {
			notNow = 0
		} else if notNow++; notNow%rewindAfter == 0 {
			w.mu.Lock()
			if next.sent > 0 {
				w.log.Warn("progress of work is not taken: all that was said of it is sent once more", "work", next.work.ID)
				next.sent = 0
			}
			w.mu.Unlock()
		}
		wait = min(max(2*wait, firstAsk), lastProbe)
		select {
		case <-time.After(jitter(wait)):
		case <-ctx.Done():
			return
		}
	}
}

// drop forgets work that is finished or called off. The caller holds the lock.
func (w *works) drop(o *ownWork) {
	o.file.Close()
	delete(w.own, o.work.ID)
	w.ended[o.work.ID] = time.Now()
	var err error
	if o.called {
		err = hostid.WriteFileDurably(w.path(o.work.ID, offSuffix), nil)
	}
	err = errors.Join(err, os.Rename(w.path(o.work.ID, progressSuffix), w.path(o.work.ID, endedSuffix)), w.trimEnded(time.Now()))
	if err = errors.Join(err, w.remove(o.work.ID)); err == nil && o.called && o.finished { // nobody else does it
		err = w.handOn(o.work.ID)
	}
	if err != nil {
		w.log.Error("finished work cannot be removed", "work", o.work.ID, "error", err)
	}
}

// remove removes work from the disk.
func (w *works) remove(id string) error {
	var all error
	for _, suffix := range []string{workSuffix, progressSuffix} { // the work first: progress without work is removed at the next start
		if err := os.Remove(w.path(id, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return errors.Join(all, syncFolder(w.dir))
}

// handOn puts the journals of work that was called off, and that nobody does any more, among dcmamtin's: what was done of it stays
// done, and the manager is told of it with those.
func (w *works) handOn(id string) error {
	files, err := amtinit.ListJournals(w.dir)
	if err != nil {
		return err
	}
	to := filepath.Join(filepath.Dir(w.dir), amtinit.JournalFolder)
	key := amtinit.JournalKey(id)
	for _, f := range files {
		if f.Key != key {
			continue
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		if err := os.Rename(f.Path, filepath.Join(to, filepath.Base(f.Path))); err != nil {
			return err
		}
		if err := syncFolder(to); err != nil {
			return err
		}
	}
	os.Remove(filepath.Join(w.dir, key+".lock")) // is empty
	return errors.Join(os.Remove(w.path(id, offSuffix)), syncFolder(w.dir))
}

// poll asks the higher system for work, for this relay and all below it.
func (w *works) poll(ctx context.Context, all *sync.WaitGroup) {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		w.mu.Lock()
		q, ask := w.question(), w.ask
		w.mu.Unlock()
		began := time.Now()
		asking, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-ask:
				// However often those below change what is to be asked: what was asked may be answered first.
				select {
				case <-time.After(standing - time.Since(began)):
					cancel()
				case <-asking.Done():
				}
			case <-asking.Done():
			}
		}()
		a, err := w.up.Work(asking, q)
		other := asking.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil && other {
			continue // there is another question
		}
		if err == nil {
			is, news := w.take(ctx, all, a)
			switch {
			case !is:
				err = errors.New("the higher system says that this relay is none any more: it was retired, replaced or deleted")
			case news || time.Since(began) >= firstAsk:
				wait = 0
				continue
			}
		}
		if err != nil {
			w.mu.Lock()
			told := w.refused == err.Error()
			w.refused = err.Error()
			w.mu.Unlock()
			if !told {
				w.log.Warn("no work is fetched", "reason", err)
			}
		} // else what was answered at once is nothing that this relay takes: asked at once, it would be answered so again
		wait = min(max(2*wait, firstAsk), lastAsk)
		select {
		case <-time.After(jitter(wait)):
		case <-ctx.Done():
		}
	}
}

// question is what is asked above. The caller holds the lock.
func (w *works) question() checkin.WorkQuery {
	q := checkin.WorkQuery{Relays: []hostid.ID{w.who.record.HostID}, Have: []string{}}
	for id := range w.own {
		q.Have = append(q.Have, id)
	}
	now := time.Now()
	maps.DeleteFunc(w.ended, func(_ string, at time.Time) bool { return !now.Before(at.Add(endedFor)) })
	for id := range w.ended { // a relay above may not know yet that it has ended
		if len(q.Have) < maxHave {
			q.Have = append(q.Have, id)
		}
	}
	for id, b := range w.below {
		if now.After(b.until) {
			delete(w.below, id)
			continue
		}
		if now.Before(w.revoked[id].Add(revokedFor)) {
			continue
		}
		q.Relays = append(q.Relays, id)
	}
	had := make(map[string]bool)
	for id, p := range w.passing {
		if w.below[p.to] == nil {
			w.size -= len(p.jws)
			delete(w.passing, id)
			continue
		}
		had[id] = true
	}
	for from, b := range w.below {
		for _, id := range b.have {
			had[id] = had[id] || w.speaksFor(from, w.handed[id])
		}
	}
	maps.DeleteFunc(w.handed, func(id string, _ hostid.ID) bool { return !had[id] })
	for id := range w.handed {
		if len(q.Have) < maxHave {
			q.Have = append(q.Have, id)
		}
	}
	slices.Sort(q.Have) // two questions that are alike look alike
	return q
}

// take takes an answer from above, and reports whether this relay is one, and whether anything in it was new.
func (w *works) take(ctx context.Context, all *sync.WaitGroup, a checkin.WorkAnswer) (is, news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	me := w.who.record.HostID
	if slices.Contains(a.Revoked, me) {
		return false, false
	}
	w.refused = ""
	now := time.Now()
	maps.DeleteFunc(w.revoked, func(_ hostid.ID, at time.Time) bool { return !now.Before(at.Add(revokedFor)) })
	for _, id := range a.Revoked {
		w.revoked[id], news = now, true
	}
	for _, jws := range a.Work {
		work, err := checkin.VerifyWork(jws, w.who.manager)
		switch {
		case err != nil:
			w.quiet.Error("work that the manager did not sign is not done", err)
		case work.To != me:
			if w.below[work.To] != nil && w.size+len(jws) <= maxPassing {
				if _, ok := w.passing[work.ID]; !ok {
					w.passing[work.ID] = passing{work.To, jws}
					w.handed[work.ID] = work.To
					w.size += len(jws)
					news = true
				}
			}
		case w.own[work.ID] == nil && !w.endedOfLate(work.ID, now):
			if err := w.accept(work, jws); err != nil {
				w.quiet.Error("work cannot be kept", fmt.Errorf("work %s: %w", work.ID, err))
				continue
			}
			w.begin(ctx, all, w.own[work.ID])
			news = true
		}
	}
	w.ring()
	return true, news
}

// endedOfLate reports whether work has just ended here, or is still to be ended. What ended longer ago the manager would not offer, unless
// its database was put back, or a relay above did not hear of the end: it is told again what was said of it, and nothing of it is done
// twice. The caller holds the lock.
func (w *works) endedOfLate(id string, now time.Time) bool {
	at, of := w.ended[id]
	if of && now.Before(at.Add(endedFor)) {
		return true
	}
	_, err := os.Stat(w.path(id, offSuffix))
	return err == nil
}

// accept makes work durable.
func (w *works) accept(work checkin.Work, jws string) error {
	if err := os.Remove(w.path(work.ID, progressSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := hostid.WriteFileDurably(w.path(work.ID, workSuffix), []byte(jws)); err != nil {
		return err
	}
	o := &ownWork{work: work, off: make(chan struct{})}
	if err := w.openProgress(o); err != nil {
		return err
	}
	w.own[work.ID] = o
	text := "work begins"
	if o.again {
		text = "work that had ended is asked for again: what was said of it is sent once more"
	}
	w.log.Info(text, "work", work.ID, "kind", work.Kind)
	return nil
}

// forBelow answers a relay below: at once if there is something for it, else when there is.
func (w *works) forBelow(ctx context.Context, from hostid.ID, q checkin.WorkQuery) (checkin.WorkAnswer, error) {
	if slices.Contains(q.Relays, w.who.record.HostID) {
		return checkin.WorkAnswer{}, &checkin.Busy{After: lastAsk, Reason: "relays lead in a circle: correct higher_system of one of them"}
	}
	for {
		w.mu.Lock()
		if err := w.register(from, q); err != nil {
			w.mu.Unlock()
			return checkin.WorkAnswer{}, err
		}
		a := checkin.WorkAnswer{Work: []string{}, Revoked: []hostid.ID{}}
		now := time.Now()
		for _, id := range q.Relays {
			if now.Before(w.revoked[id].Add(revokedFor)) {
				a.Revoked = append(a.Revoked, id)
			}
		}
		for id, p := range w.passing {
			switch {
			case !slices.Contains(q.Relays, p.to) || !w.speaksFor(from, p.to):
			case slices.Contains(q.Have, id):
				w.size -= len(p.jws)
				delete(w.passing, id)
			default:
				a.Work = append(a.Work, p.jws)
			}
		}
		wake := w.wake
		w.mu.Unlock()
		if len(a.Work)+len(a.Revoked) > 0 {
			return a, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return a, nil
		}
	}
}

// register notes who is below and what they have, and has the question above asked anew if that changed.
func (w *works) register(from hostid.ID, q checkin.WorkQuery) error {
	changed := false
	until := time.Now().Add(lease)
	for i, id := range q.Relays {
		b := w.below[id]
		if b == nil {
			if len(w.below) >= maxBelow && !w.makeRoom(from) {
				return &checkin.Busy{After: lastAsk, Reason: fmt.Sprintf("more than %d relays are below this one", maxBelow)}
			}
			b = &relayBelow{by: from}
			w.below[id], changed = b, true
		}
		if id == from {
			b.by = from
		}
		b.until = until
		if i == 0 && !slices.Equal(b.have, q.Have) {
			b.have, changed = q.Have, true
		}
	}
	if changed {
		close(w.ask)
		w.ask = make(chan struct{})
	}
	return nil
}

// speaksFor reports whether what a relay below says of another one counts: that one is below it, as far as is known here, where the first
// to name a relay is believed, and a relay itself before all others. The caller holds the lock.
func (w *works) speaksFor(from, id hostid.ID) bool {
	b := w.below[id]
	return b != nil && b.by == from
}

// makeRoom forgets a relay that was named by the one that named most, if that is more than a relay has named that wants room
// for another. The caller holds the lock.
func (w *works) makeRoom(from hostid.ID) bool {
	named := make(map[hostid.ID]int)
	most := from
	for _, b := range w.below {
		if named[b.by]++; named[b.by] > named[most] {
			most = b.by
		}
	}
	for id, b := range w.below {
		if b.by == most && id != most && named[most] > named[from]+1 {
			delete(w.below, id)
			return true
		}
	}
	return false
}

// isRevoked reports whether a relay below is known to be none any more.
func (w *works) isRevoked(id hostid.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.revoked[id].Add(revokedFor))
}

// state is how many works are open here, and why this relay is none any more, if it is none.
func (w *works) state() (open int, refused string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.own), w.refused
}

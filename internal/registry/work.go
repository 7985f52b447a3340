package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const (
	// maxOpenWork is how much one relay may be given at once: it keeps all of it on its disk.
	maxOpenWork = 64
	// maxSequence bounds what a relay says of one work: ten for each of ten thousand PCs.
	maxSequence = 100_000
	// maxProgressOfWork bounds the text of all that; a PC's result has some hundred bytes, and those of a relay that was killed come
	// once more. It is looked at with each progressesAtOnce.
	maxProgressOfWork = 256 << 20
	progressesAtOnce  = 256
	// maxWorkBytes is about what one answer to a relay's poll holds; the rest comes with the next.
	maxWorkBytes = 8 << 20
	// maxProgressPage bounds what ProgressOf returns at once.
	maxProgressPage = 1000
	// keepWork is how long work is kept after its end.
	keepWork = 30 * 24 * time.Hour
)

// ErrNotRelay says that a host is no relay, or not any more.
var ErrNotRelay = errors.New("not a relay")

// ErrTooMuchWork says that a relay has as much to do as it may be given at once.
var ErrTooMuchWork = errors.New("the relay has too much to do already")

// A bell wakes all who wait for it. The zero bell is ready.
type bell struct {
	mu sync.Mutex
	c  chan struct{}
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}

// WorkPosted is closed when the next work is posted by this process. What other processes post is only seen by asking again.
func (r *Registry) WorkPosted() <-chan struct{} { return r.posted.next() }

// ProgressTaken is closed when the next progress is taken by this process.
func (r *Registry) ProgressTaken() <-chan struct{} { return r.progressed.next() }

// PostWork signs work with the manager's key and keeps it for the relay to fetch, until its last progress comes. The same
// work again changes nothing; another one under its ID is an error. It wraps ErrNotRelay or ErrTooMuchWork where the
// relay cannot be given it.
func (r *Registry) PostWork(ctx context.Context, w checkin.Work) error {
	if r.key == nil {
		return errors.New("the registry was opened without the manager's key")
	}
	jws, err := checkin.SignWork(w, r.key)
	if err != nil {
		return err
	}
	err = r.write(ctx, func(t *transaction) error {
		var known string
		found, err := t.get(`SELECT jws FROM work WHERE id = $1`, []any{w.ID}, []any{&known})
		if err != nil {
			return err
		}
		if found {
			if known != jws {
				return fmt.Errorf("work %s: another one has this ID", w.ID)
			}
			return nil
		}
		if err := t.isRelay(w.To); err != nil {
			return err
		}
		var open int
		if _, err := t.get(`SELECT COUNT(*) FROM work WHERE relay = $1 AND ended IS NULL`, []any{w.To.String()}, []any{&open}); err != nil {
			return err
		}
		if open >= maxOpenWork {
			return fmt.Errorf("relay %s: %w", w.To, ErrTooMuchWork)
		}
		_, err = t.exec(`INSERT INTO work (id, relay, kind, made, jws, sequence) VALUES ($1, $2, $3, $4, $5, 0)`,
			w.ID, w.To.String(), w.Kind, millis(w.Made), jws)
		return err
	})
	if err == nil {
		r.posted.ring()
	}
	return err
}

// WorkFor returns the open work of those relays that is not among have, the oldest first, as signed. Some eight megabytes
// come at once.
func (r *Registry) WorkFor(ctx context.Context, relays []hostid.ID, have []string) ([]string, error) {
	type open struct{ id, relay string }
	all, err := scanAll(ctx, r.readers, func(scan func(...any) error) (o open, err error) {
		return o, scan(&o.id, &o.relay)
	}, `SELECT id, relay FROM work WHERE ended IS NULL ORDER BY made, id`)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(have))
	for _, id := range have {
		known[id] = true
	}
	var texts []string
	size := 0
	for _, o := range all {
		id, err := hostid.ParseID(o.relay)
		if err != nil {
			return nil, err
		}
		if known[o.id] || !slices.Contains(relays, id) {
			continue
		}
		var jws string
		err = r.readers.QueryRowContext(ctx, `SELECT jws FROM work WHERE id = $1 AND ended IS NULL`, o.id).Scan(&jws)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if size += len(jws); size > maxWorkBytes && len(texts) > 0 {
			break
		}
		texts = append(texts, jws)
	}
	return texts, nil
}

// TakeProgress takes what a relay says about its work. What was taken before changes nothing. It fails with a
// checkin.Refusal where this progress will never be taken: malformed, by another key than the relay's, or of work that is
// not there any more (UnknownWork); and with another error where it may be, sent again; a checkin.Busy where one before it is
// missing: a relay sends all of the work once more then.
func (r *Registry) TakeProgress(ctx context.Context, jws string) error {
	return r.takeProgress(ctx, jws, maxProgressOfWork)
}

func (r *Registry) takeProgress(ctx context.Context, jws string, most int64) error {
	p, key, err := checkin.VerifyProgress(jws)
	if err != nil {
		return err
	}
	err = r.write(ctx, func(t *transaction) error {
		var relay string
		var sequence uint64
		var ended sql.NullInt64
		known, err := t.get(`SELECT relay, sequence, ended FROM work WHERE id = $1`, []any{p.Work}, []any{&relay, &sequence, &ended})
		if err != nil {
			return err
		}
		h, _, err := t.host(p.From)
		if err != nil {
			return err
		}
		switch {
		case !known || relay != p.From.String():
			return &checkin.Refusal{Code: checkin.UnknownWork, Detail: "this manager has no work " + p.Work + " for the relay " + p.From.String()}
		case !h.key.Equal(key):
			return &checkin.Refusal{Code: checkin.Malformed, Detail: "progress: it is not signed by the key of relay " + relay}
		case ended.Valid && sequence > 0:
			// A relay says all once more where it does not know how far that came; of what was called off it is to begin with nothing.
			var done bool
			if _, err := t.get(`SELECT done FROM progress WHERE work_id = $1 AND sequence = $2`, []any{p.Work, int64(sequence)}, []any{&done}); err != nil {
				return err
			}
			if done && p.Sequence <= sequence {
				return nil
			}
			return &checkin.Refusal{Code: checkin.UnknownWork, Detail: "work " + p.Work + " has ended"}
		case p.Sequence <= sequence:
			return nil
		case ended.Valid:
			return &checkin.Refusal{Code: checkin.UnknownWork, Detail: "work " + p.Work + " has ended"}
		case p.Sequence > maxSequence:
			return &checkin.Refusal{Code: checkin.Malformed, Detail: fmt.Sprintf("progress: more than %d of one work", maxSequence)}
		case p.Sequence != sequence+1:
			return &checkin.Busy{After: time.Second, Reason: fmt.Sprintf("progress %d of work %s comes before %d", p.Sequence, p.Work, sequence+1)}
		}
		if p.Sequence%progressesAtOnce == 0 {
			if err := t.progressFits(p, most); err != nil {
				return err
			}
		}
		if _, err := t.exec(`INSERT INTO progress (work_id, sequence, received, done, body) VALUES ($1, $2, $3, $4, $5)`,
			p.Work, int64(p.Sequence), millis(t.now), p.Done, string(p.Body)); err != nil {
			return err
		}
		at := sql.NullInt64{Int64: millis(t.now), Valid: p.Done}
		_, err = t.exec(`UPDATE work SET sequence = $1, ended = $2 WHERE id = $3`, int64(p.Sequence), at, p.Work)
		return err
	})
	if err == nil {
		r.progressed.ring()
	}
	return err
}

// progressFits refuses more of one work where all that was said of it is too long.
func (t *transaction) progressFits(p checkin.Progress, most int64) error {
	var size int64
	if _, err := t.get(`SELECT COALESCE(SUM(LENGTH(body)), 0) FROM progress WHERE work_id = $1`, []any{p.Work}, []any{&size}); err != nil {
		return err
	}
	if size > most {
		return &checkin.Refusal{Code: checkin.Malformed, Detail: fmt.Sprintf("progress: more than %d MiB of one work", most>>20)}
	}
	return nil
}

// ProgressOf returns what was said about a work after that sequence, in order, at most a thousand at once.
func (r *Registry) ProgressOf(ctx context.Context, work string, after uint64) ([]checkin.Progress, error) {
	return scanAll(ctx, r.readers, func(scan func(...any) error) (p checkin.Progress, err error) {
		var sequence int64
		var from, body string
		if err := scan(&from, &sequence, &p.Done, &body); err != nil {
			return p, err
		}
		p.Work, p.Sequence, p.Body = work, uint64(sequence), json.RawMessage(body)
		p.From, err = hostid.ParseID(from)
		return p, err
	}, `SELECT w.relay, p.sequence, p.done, p.body FROM progress p JOIN work w ON w.id = p.work_id
		WHERE p.work_id = $1 AND p.sequence > $2 ORDER BY p.sequence LIMIT $3`, work, int64(min(after, maxSequence)), maxProgressPage)
}

// EndWork calls work off: no relay gets it any more, and one that has it ends it when it next says something of it. Work
// that has ended, or never was, is none to call off.
func (r *Registry) EndWork(ctx context.Context, id string) error {
	return r.write(ctx, func(t *transaction) error {
		_, err := t.exec(`UPDATE work SET ended = $1 WHERE id = $2 AND ended IS NULL`, millis(t.now), id)
		return err
	})
}

// trimWork removes work that ended long ago, one after the other: each may have many progress reports.
func (r *Registry) trimWork(ctx context.Context) error {
	old := millis(r.now().Add(-keepWork))
	for {
		var id string
		var more bool
		err := r.write(ctx, func(t *transaction) (err error) {
			if more, err = t.get(`SELECT id FROM work WHERE ended < $1 ORDER BY ended LIMIT 1`, []any{old}, []any{&id}); err != nil || !more {
				return err
			}
			if _, err = t.exec(`DELETE FROM progress WHERE work_id = $1`, id); err == nil {
				_, err = t.exec(`DELETE FROM work WHERE id = $1`, id)
			}
			return err
		})
		if err != nil || !more {
			return err
		}
	}
}

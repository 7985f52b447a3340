package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// What has to be done is in our own tables: the parts of runs that have not ended. River says who does it when: each part of
// a run is one job, and there is one more for it whenever the one before came to nothing, because its process was killed or could
// not reach the database. A part belongs to the job with its generation; what an older one says counts nothing. So no job
// is lost if River's tables are, and none is done by two at once.
const (
	// lease is how long a part is held without a word from its holder: other managers go on with it then.
	lease = 20 * time.Second
	// renewEvery leaves three more tries.
	renewEvery = 5 * time.Second
	// lookEvery is how often due parts are looked for: runs begin at commands, too.
	lookEvery = time.Second
	// againAfter is when a part is tried again that failed as a whole.
	againAfter = 5 * time.Second
	// maxRelayJobs is how many relays work at a time; a job waits for its relay and takes no processor.
	maxRelayJobs = 1000
	// riverSchema is where River's tables are on PostgreSQL, apart from ours.
	riverSchema = "river"
	// jobTimeout is what River's bookkeeping needs: it takes a job for stuck after longer.
	jobTimeout = 7 * 24 * time.Hour
)

// RunPart is what of a run goes one way, for whoever does it.
type RunPart struct {
	ID         int64
	Generation int64 // what holds the part has this one
	Run        int64
	Relay      hostid.ID // zero: the manager itself
	Route      string
	Source     string
	By         string
	DryRun     bool
	Parallel   int
	Cancelled  bool
	Handed     int    // how often work was handed over
	Work       string // handed over and not ended; "" for none
	Sequence   uint64 // of the progress of that work that was taken last
	Waiting    time.Time
	Begun      bool // since it was handed over last

	holder string
}

// PartTarget is one PC of a part.
type PartTarget struct {
	Number  int    `json:"number"`
	Host    string `json:"host,omitempty"`
	Address string `json:"address,omitempty"`
}

// PartResult is what became of one PC of a part.
type PartResult struct {
	Number int
	Initialization
	Absent bool // it was not there: should it be on another route by now, it is tried there
}

// Jobs works on the parts of runs.
type Jobs struct {
	reg    *Registry
	holder string
	log    *slog.Logger
	queue  queue
	stop   context.CancelFunc
	looked sync.WaitGroup

	mu   sync.Mutex
	left map[partJob]time.Time // jobs that came to nothing, and when their parts are due again: to be noted
}

// queue is River on either database.
type queue struct {
	start  func(context.Context) error
	stop   func(context.Context) error
	insert func(context.Context, partJob, *river.InsertOpts) error
	close  func() error
}

// partJob names a part and who holds it.
type partJob struct {
	Part       int64 `json:"part"`
	Generation int64 `json:"generation"`
}

func (partJob) Kind() string { return "initialize-part" }

const (
	managerQueue = "manager"
	relayQueue   = "relays"
)

// StartJobs works on the parts of runs with work, from now until Close: at a time one of the manager's own, and all of relays.
// alone says that no other process works on this database: what a killed one held is gone on with at once. work returns nil when
// the part has ended, or when another holds it; where the part has not, as PCs come to it from other ways, with another error, and
// where it returns because the context ended, it is called again, here or in another process.
func (r *Registry) StartJobs(ctx context.Context, alone bool, log *slog.Logger, work func(context.Context, RunPart) error) (*Jobs, error) {
	j := &Jobs{reg: r, holder: rand.Text(), log: log, left: map[partJob]time.Time{}}
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(ctx context.Context, job *river.Job[partJob]) error { return j.work(ctx, job.Args, work) }))
	config := &river.Config{
		Logger:  slog.New(quieter{log.Handler()}),
		Workers: workers,
		Queues:  map[string]river.QueueConfig{managerQueue: {MaxWorkers: 1}, relayQueue: {MaxWorkers: maxRelayJobs}},

		JobTimeout: jobTimeout, RescueStuckJobsAfter: jobTimeout + time.Hour,
		FetchPollInterval: lookEvery, FetchCooldown: 100 * time.Millisecond,
		MaxAttempts: 1, // the next generation is the next try
	}
	var err error
	if j.queue, err = r.openQueue(ctx, config); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	if alone {
		err = r.write(ctx, func(t *transaction) error {
			_, err := t.exec(`UPDATE run_parts SET due = 0 WHERE ended IS NULL AND due > 0`)
			return err
		})
	}
	if err == nil {
		err = j.queue.start(context.WithoutCancel(ctx))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("jobs: %w", err), j.queue.close())
	}
	looking, stop := context.WithCancel(context.WithoutCancel(ctx))
	j.stop = stop
	j.looked.Go(func() { j.look(looking) })
	return j, nil
}

// Close ends the work, and lets others go on with it at once.
func (j *Jobs) Close() error {
	j.stop()
	j.looked.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lease)
	defer cancel()
	err := j.queue.stop(ctx)
	return errors.Join(err, j.reg.releaseParts(ctx, j.holder), j.queue.close())
}

// look makes jobs of parts that are due, and keeps those that are worked on here.
func (j *Jobs) look(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	said := ""
	for {
		rung := j.reg.progressed.next()
		err := j.letGo(ctx)
		var due []duePart
		if err == nil {
			due, err = j.reg.dueParts(ctx, j.holder)
		}
		for _, p := range due {
			opts := &river.InsertOpts{Queue: managerQueue, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByArgs: true}}
			if p.relay {
				opts.Queue = relayQueue
			}
			if err == nil {
				err = j.queue.insert(ctx, p.partJob, opts)
			}
		}
		text := ""
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != said && text != "" {
			j.log.Warn("runs cannot be worked on; tried again every second", "error", text)
		}
		said = text
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-rung:
			select { // progress comes often; nothing is as urgent as that
			case <-ctx.Done():
				return
			case <-time.After(lookEvery / 10):
			}
		}
	}
}

func (j *Jobs) work(ctx context.Context, job partJob, work func(context.Context, RunPart) error) error {
	p, err := j.reg.holdPart(ctx, job, j.holder)
	if err == nil {
		err = work(ctx, p)
	}
	if errors.Is(err, ErrHeldByOther) {
		return nil
	}
	after := time.Duration(0) // it has ended, or PCs came to it that the work had passed
	if err != nil {
		if ctx.Err() != nil {
			return river.JobCancel(err)
		}
		after = againAfter
		j.log.Warn("a part of a run failed; it is tried again", "run", p.Run, "route", p.Route, "error", err)
	}
	j.mu.Lock()
	j.left[job] = j.reg.now().Add(after)
	j.mu.Unlock()
	if err = errors.Join(err, j.letGo(ctx)); err != nil {
		return river.JobCancel(err)
	}
	return nil
}

// letGo gives back the parts that no job here works on any more: nobody would work on what this process holds for good.
func (j *Jobs) letGo(ctx context.Context) error {
	j.mu.Lock()
	left := maps.Clone(j.left)
	j.mu.Unlock()
	if len(left) == 0 {
		return nil
	}
	err := j.reg.write(ctx, func(t *transaction) error {
		for job, due := range left {
			if _, err := t.exec(`UPDATE run_parts SET due = $1, holder = '' WHERE id = $2 AND generation = $3 AND holder = $4 AND ended IS NULL`,
				millis(due), job.Part, job.Generation, j.holder); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for job := range left {
		delete(j.left, job)
	}
	return nil
}

type duePart struct {
	partJob
	relay bool
}

// dueParts renews what the holder holds, and gives each part that nobody holds its next generation.
func (r *Registry) dueParts(ctx context.Context, holder string) ([]duePart, error) {
	now := r.now()
	some, err := scanAll(ctx, r.readers, func(scan func(...any) error) (n int64, err error) { return n, scan(&n) },
		`SELECT id FROM run_parts WHERE ended IS NULL AND (due < $1 OR holder = $2 AND due < $3) LIMIT 1`,
		millis(now), holder, millis(now.Add(lease-renewEvery)))
	if err != nil || len(some) == 0 {
		return nil, err
	}
	var due []duePart
	err = r.write(ctx, func(t *transaction) error {
		if _, err := t.exec(`UPDATE run_parts SET due = $1 WHERE holder = $2 AND ended IS NULL`, millis(t.now.Add(lease)), holder); err != nil {
			return err
		}
		due, err = collect(t, func(scan func(...any) error) (p duePart, err error) { return p, scan(&p.Part, &p.Generation, &p.relay) },
			`UPDATE run_parts SET generation = generation + 1, due = $1, holder = '' WHERE ended IS NULL AND due < $2 RETURNING id, generation, relay <> ''`,
			millis(t.now.Add(lease)), millis(t.now))
		return err
	})
	return due, err
}

func (r *Registry) holdPart(ctx context.Context, job partJob, holder string) (RunPart, error) {
	err := r.write(ctx, func(t *transaction) error {
		n, err := t.exec(`UPDATE run_parts SET holder = $1, due = $2 WHERE id = $3 AND generation = $4 AND ended IS NULL AND (holder = '' OR due < $5)`,
			holder, millis(t.now.Add(lease)), job.Part, job.Generation, millis(t.now))
		if err == nil && n == 0 {
			err = ErrHeldByOther
		}
		return err
	})
	if err != nil {
		return RunPart{}, err
	}
	return r.Part(ctx, RunPart{ID: job.Part, Generation: job.Generation, holder: holder})
}

func (r *Registry) releaseParts(ctx context.Context, holder string) error {
	return r.write(ctx, func(t *transaction) error {
		_, err := t.exec(`UPDATE run_parts SET due = 0, holder = '' WHERE holder = $1 AND ended IS NULL`, holder)
		return err
	})
}

// Part reads a part again; ErrHeldByOther if it has ended or is another's.
func (r *Registry) Part(ctx context.Context, p RunPart) (RunPart, error) {
	all, err := scanAll(ctx, r.readers, func(scan func(...any) error) (q RunPart, err error) {
		var relay string
		var sequence int64
		var waiting, begun, cancelled sql.NullInt64
		err = scan(&q.ID, &q.Generation, &q.Run, &relay, &q.Route, &q.Source, &q.By, &q.DryRun, &q.Parallel, &cancelled, &q.Handed, &q.Work, &sequence, &waiting, &begun)
		if err != nil {
			return q, err
		}
		if relay != "" {
			q.Relay, err = hostid.ParseID(relay)
		}
		q.holder = p.holder
		q.Sequence, q.Waiting, q.Begun, q.Cancelled = uint64(sequence), fromNullTime(waiting), begun.Valid && !waiting.Valid, cancelled.Valid
		return q, err
	}, `SELECT p.id, p.generation, p.run_id, p.relay, p.route, r.source, r.made_by, r.dry_run, r.parallel, r.cancelled, p.handed, p.work, p.sequence, p.waiting, p.begun
		FROM run_parts p JOIN runs r ON r.id = p.run_id WHERE p.id = $1 AND p.generation = $2 AND p.holder = $3 AND p.ended IS NULL`, p.ID, p.Generation, p.holder)
	if err == nil && len(all) == 0 {
		err = ErrHeldByOther
	}
	if err != nil {
		return RunPart{}, err
	}
	return all[0], nil
}

// OpenTargets returns the PCs of a part that have come to no end, after that number, in order, at most MaxPage.
func (r *Registry) OpenTargets(ctx context.Context, p RunPart, after int) ([]PartTarget, error) {
	return scanAll(ctx, r.readers, scanPartTarget,
		`SELECT number, host, address FROM run_targets WHERE part_id = $1 AND ended IS NULL AND number > $2 ORDER BY number LIMIT $3`, p.ID, after, MaxPage)
}

func scanPartTarget(scan func(...any) error) (t PartTarget, err error) {
	return t, scan(&t.Number, &t.Host, &t.Address)
}

// held runs f in a transaction if the part is the caller's.
func (r *Registry) held(ctx context.Context, p RunPart, f func(*transaction) error) error {
	err := r.write(ctx, func(t *transaction) error {
		n, err := t.exec(`UPDATE run_parts SET due = due WHERE id = $1 AND generation = $2 AND holder = $3 AND ended IS NULL`, p.ID, p.Generation, p.holder)
		if err == nil && n == 0 {
			err = ErrHeldByOther
		}
		if err == nil {
			err = f(t)
		}
		return err
	})
	if err == nil {
		r.progressed.ring()
	}
	return err
}

// BeginPart notes that work on a part has begun.
func (r *Registry) BeginPart(ctx context.Context, p RunPart) error {
	return r.held(ctx, p, func(t *transaction) error {
		n, err := t.exec(`UPDATE run_parts SET begun = COALESCE(begun, $1), waiting = NULL WHERE id = $2 AND (begun IS NULL OR waiting IS NOT NULL)`, millis(t.now), p.ID)
		if err == nil && n > 0 {
			err = t.changed(p.ID)
		}
		return err
	})
}

// PartProgress is what is known of a part at once: results, each of which counts once.
type PartProgress struct {
	Results  []PartResult
	Sequence uint64 // of the relay's progress that they came with; 0: of none
	Done     bool   // that was the last one of the work that was handed over

	Rest *Initialization // with Done: what becomes of the PCs that no progress had a result for; nil: they stay open
}

// PartProgress takes what became of PCs of a part, and ends the part with its last PC. It fails with ErrHeldByOther, and
// changes nothing, where the part is not the caller's any more.
func (r *Registry) PartProgress(ctx context.Context, p RunPart, g PartProgress) error {
	if g.Sequence == 0 && len(g.Results) == 0 {
		return nil
	}
	return r.held(ctx, p, func(t *transaction) error {
		if g.Sequence > 0 {
			n, err := t.exec(`UPDATE run_parts SET sequence = $1, begun = COALESCE(begun, $2), waiting = NULL WHERE id = $3 AND work = $4 AND sequence < $1`,
				int64(g.Sequence), millis(t.now), p.ID, p.Work)
			if err != nil || n == 0 {
				return err
			}
		}
		results := g.Results
		if g.Done && g.Rest != nil {
			said := make(map[int]bool, len(results))
			for _, result := range results {
				said[result.Number] = true
			}
			left, err := collect(t, scanPartTarget, `SELECT number, host, address FROM run_targets WHERE part_id = $1 AND handed = $2 AND ended IS NULL ORDER BY number`, p.ID, p.Handed)
			if err != nil {
				return err
			}
			for _, target := range left {
				if !said[target.Number] {
					i := *g.Rest
					i.Host, i.Address = target.Host, target.Address
					results = append(results, PartResult{Number: target.Number, Initialization: i})
				}
			}
		}
		var open int
		if _, err := t.get(`SELECT COUNT(*) FROM initializations WHERE host_id IS NULL`, nil, []any{&open}); err != nil {
			return err
		}
		for _, result := range results {
			kept, err := t.partResult(p, result, open < maxOpenAttempts)
			if err != nil {
				return err
			}
			if kept == attemptOpen {
				open++
			}
		}
		if g.Done {
			if _, err := t.exec(`UPDATE run_parts SET work = '', sequence = 0 WHERE id = $1`, p.ID); err != nil {
				return err
			}
		}
		if err := t.changed(p.ID); err != nil {
			return err
		}
		return t.endPart(p.ID)
	})
}

func (t *transaction) partResult(p RunPart, result PartResult, room bool) (taken, error) {
	var host, name, address string
	var moves int
	open, err := t.get(`SELECT host_id, host, address, moves FROM run_targets WHERE run_id = $1 AND number = $2 AND part_id = $3 AND ended IS NULL`,
		[]any{p.Run, result.Number, p.ID}, []any{&host, &name, &address, &moves})
	if err != nil || !open {
		return attemptKnown, err
	}
	if result.Absent && moves < maxMoves && host != "" && !p.Cancelled {
		relay, err := t.relayOf(host)
		if err != nil {
			return attemptKnown, err
		}
		if relay != p.Relay {
			return attemptKnown, t.moveTarget(p.Run, result.Number, relay)
		}
	}
	i := result.Initialization.clipped()
	by := teller{relay: p.Relay, run: true}
	if !p.Relay.IsZero() { // which PC it is the run says, not the relay
		if i.Host = name; name == "" {
			i.Address = address
		}
		if _, err := t.get(`SELECT asset_id FROM hosts WHERE host_id = $1`, []any{host}, []any{&by.meant}); err != nil {
			return attemptKnown, err
		}
	}
	i.By, i.Source = clip(p.By, 255), clip(fmt.Sprintf("run %d: %s", p.Run, p.Source), 1024)
	outcome := OutcomeInitialized
	switch {
	case !i.OK:
		outcome = i.Reason
	case i.Already:
		outcome = OutcomeAlready
	}
	if _, err := t.exec(`UPDATE run_targets SET ended = $1, outcome = $2, result = $3 WHERE run_id = $4 AND number = $5`,
		millis(t.now), outcome, toJSON(i), p.Run, result.Number); err != nil {
		return attemptKnown, err
	}
	if p.DryRun || i.Step == "" && !i.OK { // nobody has been at the PC
		return attemptKnown, nil
	}
	return t.initialization(fmt.Sprintf("run %d", p.Run), i, room, by)
}

// moveTarget gives a PC of a run to another way.
func (t *transaction) moveTarget(run int64, number int, relay hostid.ID) error {
	part, err := t.part(run, relay)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE run_targets SET part_id = $1, handed = 0, moves = moves + 1 WHERE run_id = $2 AND number = $3`, part, run, number)
	return err
}

// HandOver is the work that a relay is given of its part: the same again until it has ended, the next ten thousand PCs then. The
// caller posts it (PostWork), and reads the part again.
func (r *Registry) HandOver(ctx context.Context, p RunPart) (id string, made time.Time, targets []PartTarget, err error) {
	err = r.held(ctx, p, func(t *transaction) error {
		var waiting sql.NullInt64
		var handed int
		if _, err := t.get(`SELECT work, handed, waiting FROM run_parts WHERE id = $1`, []any{p.ID}, []any{&id, &handed, &waiting}); err != nil {
			return err
		}
		made = t.now
		if id == "" {
			handed++
			// The numbers come again where this database is put back from a backup, and a relay may have work from after that.
			id = fmt.Sprintf("initialize-%d-%d-%d-%s", p.Run, p.ID, handed, checkin.NewToken().String()[:8])
			if _, err := t.exec(`UPDATE run_targets SET handed = $1 WHERE run_id = $2 AND part_id = $3 AND ended IS NULL
				AND number IN (SELECT number FROM run_targets WHERE part_id = $3 AND ended IS NULL ORDER BY number LIMIT $4)`, handed, p.Run, p.ID, handOver); err != nil {
				return err
			}
			if _, err := t.exec(`UPDATE run_parts SET handed = $1, work = $2, sequence = 0, waiting = $3 WHERE id = $4`, handed, id, millis(t.now), p.ID); err != nil {
				return err
			}
			if err := t.changed(p.ID); err != nil {
				return err
			}
		} else if waiting.Valid {
			made = fromMillis(waiting.Int64)
		}
		targets, err = collect(t, scanPartTarget, `SELECT number, host, address FROM run_targets WHERE part_id = $1 AND handed = $2 ORDER BY number`, p.ID, handed)
		return err
	})
	return id, made, targets, err
}

// CallOff ends what was handed over, so that the PCs of the part that are open can be handed over anew. The work itself is called
// off: a relay that has not begun with it does not begin any more.
func (r *Registry) CallOff(ctx context.Context, p RunPart) error {
	return r.held(ctx, p, func(t *transaction) error { return t.callBack(p) })
}

func (t *transaction) callBack(p RunPart) error {
	if p.Work != "" {
		if _, err := t.exec(`UPDATE work SET ended = $1 WHERE id = $2 AND ended IS NULL`, millis(t.now), p.Work); err != nil {
			return err
		}
	}
	if _, err := t.exec(`UPDATE run_parts SET work = '', sequence = 0 WHERE id = $1`, p.ID); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE run_targets SET handed = 0 WHERE part_id = $1 AND ended IS NULL`, p.ID)
	return err
}

// Reroute moves PCs of a part to the way that they are on by now, for as long as its relay has not begun with them; once it has,
// only where it is no relay any more. moved says how many went: what was handed over is called off then.
func (r *Registry) Reroute(ctx context.Context, p RunPart) (moved int, err error) {
	relays, err := r.relays(ctx)
	if err != nil {
		return 0, err
	}
	_, still := relays[p.Relay]
	if p.Begun && still {
		return 0, nil
	}
	type open struct {
		number int
		host   string
		moves  int
		route  string
	}
	all, err := scanAll(ctx, r.readers, func(scan func(...any) error) (o open, err error) {
		return o, scan(&o.number, &o.host, &o.moves, &o.route)
	},
		`SELECT t.number, t.host_id, t.moves, COALESCE(s.route, h.route, '') FROM run_targets t LEFT JOIN hosts h ON h.host_id = t.host_id
			LEFT JOIN assets a ON a.id = h.asset_id LEFT JOIN hosts s ON s.host_id = a.seen_host
			WHERE t.part_id = $1 AND t.ended IS NULL ORDER BY t.number`, p.ID)
	if err != nil {
		return 0, err
	}
	last := func(way []hostid.ID) (relay hostid.ID) {
		for _, id := range way {
			if _, is := relays[id]; is {
				relay = id
			}
		}
		return relay
	}
	var above hostid.ID // the next one on the way to a relay that is none any more
	if !still {
		err := r.write(ctx, func(t *transaction) error {
			way, err := t.wayTo(p.Relay)
			above = last(way)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	to := make(map[int]hostid.ID)
	for _, o := range all {
		switch {
		case o.host != "" && (o.moves < maxMoves || !still):
			way, err := parseRoute(o.route)
			if err != nil {
				return 0, err
			}
			if relay := last(way); relay != p.Relay {
				to[o.number] = relay
			}
		case !still:
			to[o.number] = above
		}
	}
	if len(to) == 0 {
		return 0, nil
	}
	err = r.held(ctx, p, func(t *transaction) error {
		moved = 0
		for _, o := range all {
			relay, moves := to[o.number]
			if !moves {
				continue
			}
			if err := t.moveTarget(p.Run, o.number, relay); err != nil {
				return err
			}
			moved++
		}
		if err := t.callBack(p); err != nil {
			return err
		}
		if err := t.changed(p.ID); err != nil {
			return err
		}
		return t.endPart(p.ID)
	})
	return moved, err
}

// relays are those that are in force.
func (r *Registry) relays(ctx context.Context) (map[hostid.ID]struct{}, error) {
	texts, err := scanAll(ctx, r.readers, scanText, `SELECT r.host_id FROM relays r JOIN hosts h ON h.host_id = r.host_id WHERE `+relayInForce)
	if err != nil {
		return nil, err
	}
	all := make(map[hostid.ID]struct{}, len(texts))
	for _, text := range texts {
		id, err := hostid.ParseID(text)
		if err != nil {
			return nil, err
		}
		all[id] = struct{}{}
	}
	return all, nil
}

// relayOf is the relay that a PC is done by, by any host ID of it.
func (t *transaction) relayOf(host string) (hostid.ID, error) {
	way, err := t.routeOf(host)
	if err != nil {
		return hostid.ID{}, err
	}
	return t.lastInForce(way)
}

func (t *transaction) lastInForce(way []hostid.ID) (hostid.ID, error) {
	for len(way) > 0 {
		id := way[len(way)-1]
		err := t.isRelay(id)
		if err == nil || !errors.Is(err, ErrNotRelay) {
			return id, err
		}
		way = way[:len(way)-1]
	}
	return hostid.ID{}, nil
}

// openQueue opens River beside or in the registry's database, and brings its tables up to date.
func (r *Registry) openQueue(ctx context.Context, config *river.Config) (queue, error) {
	if r.postgres != nil {
		settings, err := pgxpool.ParseConfig("")
		if err != nil {
			return queue{}, err
		}
		settings.ConnConfig = r.postgres.Copy()
		pool, err := pgxpool.NewWithConfig(ctx, settings)
		if err != nil {
			return queue{}, err
		}
		config.Schema = riverSchema
		var q queue
		for try := 1; ; try++ { // several managers may begin at once
			if _, err = pool.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+riverSchema); err == nil {
				q, err = newQueue(ctx, riverpgxv5.New(pool), config, func() error { pool.Close(); return nil })
			}
			if err == nil {
				return q, nil
			}
			if try == 3 || ctx.Err() != nil {
				pool.Close()
				return queue{}, err
			}
		}
	}
	path := jobsFile(r.name)
	q, err := sqliteQueue(ctx, path, config)
	if err == nil || ctx.Err() != nil || IsFull(err) {
		return q, err
	}
	// All that it holds is made again from the registry.
	aside := path + ".damaged"
	for _, end := range []string{"-wal", "-shm", ""} {
		if gone := os.Rename(path+end, aside+end); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			return queue{}, errors.Join(err, gone)
		}
	}
	config.Logger.Warn("the queue of jobs could not be read and is made anew", "set aside as", aside, "error", err)
	return sqliteQueue(ctx, path, config)
}

// jobsFile is where River's tables are on SQLite: in a file of their own, since its transactions would make check-ins wait.
func jobsFile(database string) string {
	return strings.TrimSuffix(database, filepath.Ext(database)) + "-jobs.db"
}

func sqliteQueue(ctx context.Context, path string, config *river.Config) (queue, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return queue{}, err
	}
	if err := f.Close(); err != nil {
		return queue{}, err
	}
	db, err := sql.Open("sqlite", strings.Replace(sqliteDSN(path, "immediate", readerCache), "_synchronous=FULL", "_synchronous=NORMAL", 1))
	if err != nil {
		return queue{}, err
	}
	db.SetMaxOpenConns(1) // as River's driver advises
	q, err := newQueue(ctx, riversqlite.New(db), config, db.Close)
	if err != nil {
		db.Close()
	}
	return q, err
}

func newQueue[T any](ctx context.Context, driver riverdriver.Driver[T], config *river.Config, closeIt func() error) (queue, error) {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler), Schema: config.Schema})
	if err != nil {
		return queue{}, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return queue{}, fmt.Errorf("bring the queue's tables up to date: %w", err)
	}
	client, err := river.NewClient(driver, config)
	if err != nil {
		return queue{}, err
	}
	return queue{
		start: client.Start,
		stop:  client.StopAndCancel,
		insert: func(ctx context.Context, job partJob, opts *river.InsertOpts) error {
			_, err := client.Insert(ctx, job, opts)
			return err
		},
		close: closeIt,
	}, nil
}

// quieter lets through what an administrator can use: River tells much at level Info.
type quieter struct{ slog.Handler }

func (q quieter) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}
func (q quieter) WithAttrs(a []slog.Attr) slog.Handler { return quieter{q.Handler.WithAttrs(a)} }
func (q quieter) WithGroup(n string) slog.Handler      { return quieter{q.Handler.WithGroup(n)} }

// routes are the relays between the manager and each asset that reports through any, the manager's own first, by asset.
func (r *Registry) routes(ctx context.Context) (map[int64][]hostid.ID, error) {
	type way struct {
		asset int64
		route string
	}
	all, err := scanAll(ctx, r.readers, func(scan func(...any) error) (w way, err error) { return w, scan(&w.asset, &w.route) },
		`SELECT a.id, h.route FROM assets a JOIN hosts h ON h.host_id = a.seen_host WHERE h.route <> ''`)
	if err != nil {
		return nil, err
	}
	routes := make(map[int64][]hostid.ID, len(all))
	for _, w := range all {
		if routes[w.asset], err = parseRoute(w.route); err != nil {
			return nil, err
		}
	}
	return routes, nil
}

// routeOf are the relays between the manager and the asset of a host ID, the manager's own first; none where it reports to the
// manager itself.
func (t *transaction) routeOf(host string) ([]hostid.ID, error) {
	route := ""
	_, err := t.get(`SELECT COALESCE(s.route, h.route) FROM hosts h LEFT JOIN assets a ON a.id = h.asset_id LEFT JOIN hosts s ON s.host_id = a.seen_host WHERE h.host_id = $1`,
		[]any{host}, []any{&route})
	if err != nil {
		return nil, err
	}
	return parseRoute(route)
}

// parseRoute reads a route as hosts have it: each relay's host ID behind a backslash.
func parseRoute(route string) (way []hostid.ID, err error) {
	for text := range strings.SplitSeq(route, `\`) {
		if text == "" {
			continue
		}
		id, err := hostid.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", route, err)
		}
		way = append(way, id)
	}
	return way, nil
}

package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

const (
	// MaxRunTargets bounds the PCs of one run.
	MaxRunTargets = 100_000
	// MaxKey bounds an idempotency key, in bytes. docs/protocol/runs.md says the same number.
	MaxKey = 128
	// keepRuns is how many runs that ended are kept with the results of every PC.
	keepRuns = 200
	// maxMoves is how often one PC of a run goes from one route to another: PCs do move, but not without end.
	maxMoves = 3
	// handOver is how many PCs a relay is given at a time: the list, signed, is some 2 MiB.
	handOver = 10_000
	// maxRemarks bounds the remarks that are made about a request.
	maxRemarks = 20
)

// Outcomes of a PC that are no reasons for a failure.
const (
	OutcomeInitialized = "initialized" // now; in a dry run: would be
	OutcomeAlready     = "already"     // nothing had to be changed
)

// OutcomeUnderWay is the reason for which a run leaves a PC alone that another run has not finished.
const OutcomeUnderWay = "under-way"

var (
	// ErrLongKey says that an idempotency key is longer than MaxKey.
	ErrLongKey = fmt.Errorf("the idempotency key is longer than %d bytes", MaxKey)
	// ErrOtherRequest says that an idempotency key was used for something else.
	ErrOtherRequest = errors.New("this idempotency key was used for another request")
	// ErrNoTargets says that nothing is left to do for a run.
	ErrNoTargets = errors.New("no PC is to be initialized")
	// ErrUnknownRun says that there is no run with a number; it is an ErrUnknown.
	ErrUnknownRun = fmt.Errorf("%w", ErrUnknown)
	// ErrRunEnded says that a run has ended.
	ErrRunEnded = errors.New("the run has ended")
	// ErrHeldByOther says that another process has gone on with a part of a run.
	ErrHeldByOther = errors.New("another process has gone on with this part of the run")
	// ErrAmbiguousName says that several PCs have a name.
	ErrAmbiguousName = errors.New("several PCs have this name; name a host ID")
	// ErrTooManyTargets says that a run names more than MaxRunTargets PCs.
	ErrTooManyTargets = fmt.Errorf("more than %d PCs in one run", MaxRunTargets)
)

// RunRequest says which PCs a run is for. Exactly one of NotInitialized, Hosts and Entries is given.
type RunRequest struct {
	NotInitialized bool              // every PC whose memory is known not to be initialized
	Hosts          []string          // host IDs, names or addresses
	Entries        []sysconfig.Entry // of a system configuration information file; those that are no targets are left out

	Source      string // what the run is called, for people
	DryRun      bool
	Parallel    int  // 0: as many at a time as whoever does it takes
	RetryFailed bool // of these PCs, only those whose last attempt failed

	Key string // idempotency key; "" for none
	By  string
}

// digest names what was asked for.
func (q RunRequest) digest() string {
	q.Key = ""
	sum := sha256.Sum256([]byte(toJSON(q)))
	return hex.EncodeToString(sum[:])
}

// runCandidate is a PC that a run may be for.
type runCandidate struct {
	subject string
	hostID  string
	host    string
	address string
	relay   hostid.ID // zero: the manager itself
	failed  bool      // the last attempt did
}

// NewRun begins a run. again says that a request with the same key has begun it before. remarks are sentences about what was
// taken otherwise than asked for. It fails with ErrNoTargets, ErrTooManyTargets, ErrUnknown, ErrAmbiguousName, ErrLongKey or ErrOtherRequest.
func (r *Registry) NewRun(ctx context.Context, q RunRequest) (id int64, again bool, remarks []Text, err error) {
	if len(q.Key) > MaxKey {
		return 0, false, nil, ErrLongKey
	}
	key := sql.NullString{String: q.By + " " + q.Key, Valid: q.Key != ""}
	known := func(q2 queryer) (int64, error) {
		type was struct {
			id      int64
			request string
		}
		if !key.Valid {
			return 0, nil
		}
		rows, err := scanAll(ctx, q2, func(scan func(...any) error) (w was, err error) { return w, scan(&w.id, &w.request) },
			`SELECT id, request FROM runs WHERE same_key = $1`, key.String)
		switch {
		case err != nil || len(rows) == 0:
			return 0, err
		case rows[0].request != q.digest():
			return 0, ErrOtherRequest
		}
		return rows[0].id, nil
	}
	if id, err = known(r.readers); err != nil || id != 0 {
		return id, id != 0, nil, err
	}
	candidates, remarks, err := r.candidates(ctx, q)
	if err != nil {
		return 0, false, nil, err
	}
	if len(candidates) == 0 {
		return 0, false, nil, ErrNoTargets
	}
	if len(candidates) > MaxRunTargets {
		return 0, false, nil, ErrTooManyTargets
	}
	err = r.write(ctx, func(t *transaction) error {
		again = false
		if id, err = known(t.Tx); err != nil || id != 0 {
			again = id != 0
			return err
		}
		id, err = t.newRun(q, key, candidates)
		return err
	})
	if err != nil {
		return 0, false, nil, err
	}
	r.progressed.ring()
	return id, again, remarks, nil
}

func (t *transaction) newRun(q RunRequest, key sql.NullString, candidates []runCandidate) (int64, error) {
	id, err := t.insert(`INSERT INTO runs (made, made_by, same_key, request, source, dry_run, parallel, retry_failed, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1)`, millis(t.now), q.By, key, q.digest(), clip(q.Source, 1024), q.DryRun, q.Parallel, q.RetryFailed)
	if err != nil {
		return 0, err
	}
	type open struct {
		subject string
		run     int64
	}
	busy, err := collect(t, func(scan func(...any) error) (o open, err error) { return o, scan(&o.subject, &o.run) },
		`SELECT subject, run_id FROM run_targets WHERE ended IS NULL`)
	if err != nil {
		return 0, err
	}
	underWay := make(map[string]int64, len(busy))
	for _, o := range busy {
		underWay[o.subject] = o.run
	}
	parts := make(map[hostid.ID]int64)
	for i, c := range candidates {
		part, known := parts[c.relay]
		if !known {
			if part, err = t.part(id, c.relay); err != nil {
				return 0, err
			}
			parts[c.relay] = part
		}
		var ended sql.NullInt64
		outcome, result := "", ""
		if other, is := underWay[c.subject]; is {
			ended, outcome = sql.NullInt64{Int64: millis(t.now), Valid: true}, OutcomeUnderWay
			result = toJSON(Initialization{Host: c.host, Address: c.address, Finished: t.now, Reason: OutcomeUnderWay, Detail: fmt.Sprintf("run %d", other)})
		}
		if _, err := t.exec(`INSERT INTO run_targets (run_id, number, part_id, subject, host_id, host, address, handed, moves, ended, outcome, result)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, $8, $9, $10)`,
			id, i+1, part, c.subject, c.hostID, clip(c.host, 255), c.address, ended, outcome, result); err != nil {
			return 0, err
		}
	}
	for _, part := range parts {
		if err := t.endPart(part); err != nil { // one whose PCs are all under way
			return 0, err
		}
	}
	if _, err := t.exec(`DELETE FROM run_targets WHERE run_id IN (SELECT id FROM runs WHERE ended IS NOT NULL ORDER BY id DESC LIMIT 1000 OFFSET $1)`, keepRuns); err != nil {
		return 0, err
	}
	for _, table := range []string{"run_parts WHERE run_id", "runs WHERE id"} {
		if _, err := t.exec(`DELETE FROM `+table+` IN (SELECT id FROM runs WHERE ended IS NOT NULL ORDER BY id DESC LIMIT 1000 OFFSET $1)`, keepRuns); err != nil {
			return 0, err
		}
	}
	kind := "run-started"
	if q.DryRun {
		kind = "dry-run-started"
	}
	return id, t.record(hostid.ID{}, kind, map[string]any{"run": id, "who": q.By, "source": clip(q.Source, 1024), "targets": len(candidates)})
}

// part is the part of a run that goes through a relay, made or begun again where it has ended.
func (t *transaction) part(run int64, relay hostid.ID) (id int64, err error) {
	text, route := "", `\`
	if !relay.IsZero() {
		text = relay.String()
		if route, err = t.routeName(relay); err != nil {
			return 0, err
		}
	}
	known, err := t.get(`UPDATE run_parts SET ended = NULL, due = CASE WHEN ended IS NULL THEN due ELSE 0 END, holder = CASE WHEN ended IS NULL THEN holder ELSE '' END
		WHERE run_id = $1 AND relay = $2 RETURNING id`,
		[]any{run, text}, []any{&id})
	if err != nil || known {
		return id, err
	}
	return t.insert(`INSERT INTO run_parts (run_id, relay, route, generation, due, holder, handed, work, sequence) VALUES ($1, $2, $3, 0, 0, '', 0, '', 0)`, run, text, route)
}

// routeName is what people call the way to a relay's PCs: the relays from the manager on, the relay itself last.
func (t *transaction) routeName(relay hostid.ID) (string, error) {
	way, err := t.wayTo(relay)
	if err != nil {
		return "", err
	}
	name := ""
	for _, id := range append(way, relay) {
		n := ""
		if _, err := t.get(`SELECT seen FROM hosts WHERE host_id = $1`, []any{id.String()}, []any{&n}); err != nil {
			return "", err
		}
		var seen Seen
		if json.Unmarshal([]byte(cmp.Or(n, "{}")), &seen) != nil || seen.Name == "" {
			seen.Name = id.String()
		}
		name += `\` + seen.Name
	}
	return name, nil
}

// wayTo are the relays between the manager and a relay, the manager's own first.
func (t *transaction) wayTo(relay hostid.ID) ([]hostid.ID, error) {
	via := "[]"
	if _, err := t.get(`SELECT via FROM relays WHERE host_id = $1`, []any{relay.String()}, []any{&via}); err != nil {
		return nil, err
	}
	var way []hostid.ID
	if err := json.Unmarshal([]byte(via), &way); err != nil {
		return nil, fmt.Errorf("relay %s: way up: %w", relay, err)
	}
	slices.Reverse(way)
	return way, nil
}

// directory finds PCs by what a request calls them.
type directory struct {
	assets []AssetDetail
	ids    map[int]int64 // asset numbers, by places in assets
	byHost map[string]int
	byName map[string][]int
	open   map[string]Unmatched // by name
	relays map[string]hostid.ID // that are in force, by host ID and by name; zero where several have the name
	routes map[int64][]hostid.ID
}

func (r *Registry) directory(ctx context.Context) (*directory, error) {
	d := &directory{ids: map[int]int64{}, byHost: map[string]int{}, byName: map[string][]int{}, open: map[string]Unmatched{}, relays: map[string]hostid.ID{}}
	var err error
	if d.assets, err = r.Assets(ctx); err != nil {
		return nil, err
	}
	type pair struct {
		host  string
		asset int64
	}
	pairs, err := scanAll(ctx, r.readers, func(scan func(...any) error) (p pair, err error) { return p, scan(&p.host, &p.asset) },
		`SELECT host_id, asset_id FROM hosts`)
	if err != nil {
		return nil, err
	}
	assetOf := make(map[string]int64, len(pairs))
	for _, p := range pairs {
		assetOf[p.host] = p.asset
	}
	for i, a := range d.assets {
		d.ids[i] = assetOf[a.HostID.String()]
		for _, h := range a.Hosts {
			if !h.Succeeded {
				d.byHost[h.HostID.String()] = i
			}
		}
		if a.State.Listed() {
			for _, n := range a.Seen.names() {
				d.byName[n] = append(d.byName[n], i)
			}
		}
	}
	unmatched, err := r.Unmatched(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range unmatched {
		d.open[sysconfig.HostKey(u.Name)] = u
	}
	inForce, err := scanAll(ctx, r.readers, scanText, `SELECT r.host_id FROM relays r JOIN hosts h ON h.host_id = r.host_id WHERE `+relayInForce)
	if err != nil {
		return nil, err
	}
	for _, text := range inForce {
		id, err := hostid.ParseID(text)
		if err != nil {
			return nil, err
		}
		d.relays[text] = id
		if i, known := d.byHost[text]; known {
			for _, n := range d.assets[i].Seen.names() {
				if other, taken := d.relays[n]; taken && other != id {
					id = hostid.ID{}
				}
				d.relays[n] = id
				id, _ = hostid.ParseID(text)
			}
		}
	}
	d.routes, err = r.routes(ctx)
	return d, err
}

// relayOf is the relay that a PC is done by: the last one on its way that is still one.
func (d *directory) relayOf(way []hostid.ID) hostid.ID {
	for _, id := range slices.Backward(way) {
		if _, is := d.relays[id.String()]; is {
			return id
		}
	}
	return hostid.ID{}
}

// asset is a candidate for a known PC; entry is what a file says of it, nil for nothing.
func (d *directory) asset(i int, entry *sysconfig.Entry) runCandidate {
	a := d.assets[i]
	c := runCandidate{
		subject: fmt.Sprintf("asset %d", d.ids[i]), hostID: a.HostID.String(), host: cmp.Or(a.Seen.FQDN, a.Name), relay: d.relayOf(d.routes[d.ids[i]]),
		failed: a.Initialization != nil && !a.Initialization.OK,
	}
	if address, ok := sysconfig.BestAddress(a.Seen.Addresses); ok {
		c.address = address.String()
	}
	if entry != nil {
		c.host = entry.Name
		if c.address == "" {
			c.address = entry.Address.String()
		}
	}
	return c
}

// named are the places of assets that have a name, with its domain or without.
func (d *directory) named(name string) []int {
	full, label := assetName(name)
	if full == "" {
		return nil
	}
	if at := d.byName[full]; len(at) > 0 || full != label {
		return at
	}
	var all []int
	for n, at := range d.byName {
		if l, _, _ := strings.Cut(n, "."); l == label {
			all = append(all, at...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// candidates are the PCs that a request is about, each once.
func (r *Registry) candidates(ctx context.Context, q RunRequest) (all []runCandidate, remarks []Text, err error) {
	d, err := r.directory(ctx)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool)
	left := 0
	remark := func(format Text, args ...any) {
		if left++; left <= maxRemarks {
			remarks = append(remarks, Text{EN: fmt.Sprintf(format.EN, args...), JA: fmt.Sprintf(format.JA, args...)})
		}
	}
	add := func(c runCandidate) {
		if seen[c.subject] || q.RetryFailed && !c.failed {
			return
		}
		seen[c.subject] = true
		all = append(all, c)
	}
	switch {
	case q.NotInitialized:
		for i, a := range d.assets {
			if (AssetFilter{NotInitialized: true}).Shows(a.Asset) {
				add(d.asset(i, nil))
			}
		}
		for _, u := range d.open {
			add(stranger(u.Initialization.Host, u.Initialization.Address, true))
		}
	case q.Entries != nil:
		for i := range q.Entries {
			e := &q.Entries[i]
			if !e.Target() {
				continue
			}
			add(d.entry(e, remark))
		}
	default:
		for _, h := range q.Hosts {
			c, err := d.host(h)
			if err != nil {
				return nil, nil, err
			}
			add(c)
		}
	}
	if left > maxRemarks {
		remarks = append(remarks, Text{EN: fmt.Sprintf("and %d more remarks", left-maxRemarks), JA: fmt.Sprintf("ほかに%d件あります", left-maxRemarks)})
	}
	return all, remarks, nil
}

// stranger is a PC that is no asset.
func stranger(host, address string, failed bool) runCandidate {
	c := runCandidate{subject: "name " + sysconfig.HostKey(host), host: host, address: address, failed: failed}
	if host == "" {
		c.subject = "address " + address
	}
	return c
}

func (d *directory) entry(e *sysconfig.Entry, remark func(Text, ...any)) runCandidate {
	if i, known := d.byHost[strings.ToLower(e.HID)]; known {
		return d.asset(i, e)
	}
	if at := d.named(e.Name); len(at) == 1 {
		return d.asset(at[0], e)
	}
	u, failed := d.open[e.Key()]
	c := stranger(e.Name, e.Address.String(), failed && !u.Initialization.OK)
	parts := strings.Split(strings.Trim(e.Root, `\`), `\`)
	last := parts[len(parts)-1]
	if last == "" {
		return c
	}
	switch relay, known := d.relays[sysconfig.HostKey(last)]; {
	case !known:
		remark(Text{EN: "%s: ROOT names %s, which is no relay system of this manager; the manager does this PC",
			JA: "%s: ROOTの%sはこのマネージャの中継システムではありません。このPCはマネージャが処理します"}, e.Name, last)
	case relay.IsZero():
		remark(Text{EN: "%s: several relay systems are called %s (write the host ID of one); the manager does this PC",
			JA: "%s: %sという名前の中継システムが複数あります(ホスト識別子で指定してください)。このPCはマネージャが処理します"}, e.Name, last)
	default:
		c.relay = relay
	}
	return c
}

func (d *directory) host(h string) (runCandidate, error) {
	if id, err := hostid.ParseID(strings.ToLower(h)); err == nil {
		i, known := d.byHost[id.String()]
		if !known {
			return runCandidate{}, fmt.Errorf("host ID %s: %w", id, ErrUnknown)
		}
		return d.asset(i, nil), nil
	}
	if a, err := netip.ParseAddr(h); err == nil {
		return stranger("", a.Unmap().String(), false), nil
	}
	switch at := d.named(h); len(at) {
	case 0:
		u, failed := d.open[sysconfig.HostKey(h)]
		return stranger(h, u.Initialization.Address, failed), nil
	case 1:
		return d.asset(at[0], nil), nil
	}
	return runCandidate{}, fmt.Errorf("%s: %w", clip(h, 255), ErrAmbiguousName)
}

// Run is a run that initializes PCs, as it stands. The meaning of its JSON names never changes.
type RunState struct {
	ID          int64      `json:"id"`
	Version     int64      `json:"version"` // grows with every change
	Started     time.Time  `json:"started"`
	By          string     `json:"by"`
	Source      string     `json:"source"`
	DryRun      bool       `json:"dry_run"`
	Parallel    int        `json:"parallel"`
	RetryFailed bool       `json:"retry_failed"`
	Cancelled   *time.Time `json:"cancelled"` // null: not called off
	CancelledBy string     `json:"cancelled_by,omitempty"`
	Ended       *time.Time `json:"ended"` // null: under way
	RunCounts
	Hosts  map[string][]string `json:"hosts"` // the first three PCs of each reason
	Routes []RunRoute          `json:"routes"`
}

// RunCounts says what became of PCs.
type RunCounts struct {
	Targets     int            `json:"targets"`
	Done        int            `json:"done"`                // came to an end, well or badly
	Initialized int            `json:"initialized"`         // Already among them
	Already     int            `json:"already_initialized"` // nothing had to be changed
	Failed      int            `json:"failed"`
	Reasons     map[string]int `json:"reasons"`
}

// RunRoute is what of a run goes one way.
type RunRoute struct {
	Route   string     `json:"route"`    // \ is the manager itself; \relay1\relay2 is done by relay2
	Relay   string     `json:"relay"`    // its host ID; "" for the manager itself
	State   string     `json:"state"`    // waiting, running or ended
	Waiting *time.Time `json:"waiting"`  // since when; null: not
	Begun   *time.Time `json:"begun"`    // null: not yet
	Ended   *time.Time `json:"ended_at"` // null: not yet
	Heard   *time.Time `json:"heard"`    // when the relay was heard last: a check-in, a question for work, or progress of its part; null: never, or the manager itself
	RunCounts
}

func (c *RunCounts) count(outcome string, n int) {
	if c.Reasons == nil {
		c.Reasons = map[string]int{}
	}
	c.Targets += n
	if outcome != "" {
		c.Done += n
	}
	switch outcome {
	case "":
	case OutcomeAlready:
		c.Already += n
		c.Initialized += n
	case OutcomeInitialized:
		c.Initialized += n
	default:
		c.Failed += n
		c.Reasons[outcome] += n
	}
}

const runColumns = `SELECT id, version, made, made_by, source, dry_run, parallel, retry_failed, cancelled, cancelled_by, ended FROM runs `

func scanRun(scan func(...any) error) (s RunState, err error) {
	var made int64
	var cancelled, ended sql.NullInt64
	err = scan(&s.ID, &s.Version, &made, &s.By, &s.Source, &s.DryRun, &s.Parallel, &s.RetryFailed, &cancelled, &s.CancelledBy, &ended)
	s.Started, s.Cancelled, s.Ended = fromMillis(made), orNil(cancelled), orNil(ended)
	s.Hosts, s.Routes, s.Reasons = map[string][]string{}, []RunRoute{}, map[string]int{}
	return s, err
}

func orNil(n sql.NullInt64) *time.Time {
	if !n.Valid {
		return nil
	}
	t := fromMillis(n.Int64)
	return &t
}

// Run returns a run as it stands; ErrUnknown if there is none with that number.
func (r *Registry) Run(ctx context.Context, id int64) (RunState, error) {
	runs, err := r.runs(ctx, `WHERE id = $1`, id)
	if err == nil && len(runs) == 0 {
		err = fmt.Errorf("run %d: %w", id, ErrUnknownRun)
	}
	if err != nil {
		return RunState{}, err
	}
	s := runs[0]
	type first struct{ outcome, host, address string }
	hosts, err := scanAll(ctx, r.readers, func(scan func(...any) error) (f first, err error) { return f, scan(&f.outcome, &f.host, &f.address) },
		`SELECT outcome, host, address FROM (SELECT outcome, host, address, number, ROW_NUMBER() OVER (PARTITION BY outcome ORDER BY number) AS place
			FROM run_targets WHERE run_id = $1 AND outcome NOT IN ('', 'initialized', 'already')) f WHERE place <= 3 ORDER BY outcome, number`, id)
	for _, f := range hosts {
		s.Hosts[f.outcome] = append(s.Hosts[f.outcome], cmp.Or(f.host, f.address))
	}
	return s, err
}

// Runs returns runs, the newest first, from before the one with that number (0: from the newest); next is 0 where none follow.
func (r *Registry) Runs(ctx context.Context, before int64, limit int) (page []RunState, next int64, err error) {
	page, err = r.runs(ctx, `WHERE id IN (SELECT id FROM runs WHERE $1 = 0 OR id < $1 ORDER BY id DESC LIMIT $2)`, before, limitOf(limit)+1)
	if err == nil && len(page) > limitOf(limit) {
		page = page[:limitOf(limit)]
		next = page[len(page)-1].ID
	}
	return page, next, err
}

func (r *Registry) runs(ctx context.Context, where string, args ...any) ([]RunState, error) {
	runs, err := scanAll(ctx, r.readers, scanRun, runColumns+where+` ORDER BY id DESC`, args...)
	if err != nil {
		return nil, fmt.Errorf("runs: %w", err)
	}
	for i := range runs {
		if err := r.routesOf(ctx, &runs[i]); err != nil {
			return nil, fmt.Errorf("run %d: %w", runs[i].ID, err)
		}
	}
	return runs, nil
}

func (r *Registry) routesOf(ctx context.Context, s *RunState) error {
	type count struct {
		part    int64
		outcome string
		n       int
	}
	counts, err := scanAll(ctx, r.readers, func(scan func(...any) error) (c count, err error) { return c, scan(&c.part, &c.outcome, &c.n) },
		`SELECT part_id, outcome, COUNT(*) FROM run_targets WHERE run_id = $1 GROUP BY part_id, outcome`, s.ID)
	if err != nil {
		return err
	}
	type part struct {
		id int64
		RunRoute
	}
	parts, err := scanAll(ctx, r.readers, func(scan func(...any) error) (p part, err error) {
		var waiting, begun, ended, contact, checkedIn, progress sql.NullInt64
		if err := scan(&p.id, &p.Relay, &p.Route, &waiting, &begun, &ended, &contact, &checkedIn, &progress); err != nil {
			return p, err
		}
		p.Heard = orNil(sql.NullInt64{Int64: max(contact.Int64, checkedIn.Int64, progress.Int64), Valid: contact.Valid || checkedIn.Valid || progress.Valid})
		p.Begun, p.Ended, p.Reasons = orNil(begun), orNil(ended), map[string]int{}
		switch {
		case p.Ended != nil:
			p.State = "ended"
		case p.Begun != nil && !waiting.Valid:
			p.State = "running"
		default:
			p.State, p.Waiting = "waiting", orNil(waiting)
		}
		return p, err
	}, `SELECT p.id, p.relay, p.route, p.waiting, p.begun, p.ended, l.heard, h.last_checkin,
			(SELECT g.received FROM progress g WHERE g.work_id = p.work ORDER BY g.sequence DESC LIMIT 1)
		FROM run_parts p LEFT JOIN relays l ON l.host_id = p.relay LEFT JOIN hosts_now h ON h.host_id = p.relay
		WHERE p.run_id = $1 ORDER BY p.route, p.id`, s.ID)
	if err != nil {
		return err
	}
	for _, p := range parts {
		for _, c := range counts {
			if c.part == p.id {
				p.count(c.outcome, c.n)
				s.count(c.outcome, c.n)
			}
		}
		if p.State == "waiting" && p.Waiting == nil {
			p.Waiting = &s.Started
		}
		if p.Targets > 0 { // else all of its PCs have gone another way
			s.Routes = append(s.Routes, p.RunRoute)
		}
	}
	return nil
}

// RunVersion is the version of a run; ErrUnknown if there is none with that number.
func (r *Registry) RunVersion(ctx context.Context, id int64) (int64, error) {
	v, err := scanAll(ctx, r.readers, func(scan func(...any) error) (v int64, err error) { return v, scan(&v) }, `SELECT version FROM runs WHERE id = $1`, id)
	if err == nil && len(v) == 0 {
		err = fmt.Errorf("run %d: %w", id, ErrUnknownRun)
	}
	if err != nil {
		return 0, err
	}
	return v[0], nil
}

// RunTarget is one PC of a run. The meaning of its JSON names never changes.
type RunTarget struct {
	Number  int             `json:"number"`
	HostID  string          `json:"host_id"` // "" where no asset could be told when the run began
	Host    string          `json:"host"`    // what it is called by; "" if by its address only
	Address string          `json:"address"`
	Route   string          `json:"route"`
	Outcome string          `json:"outcome"` // "" while it is open, else initialized, already, or the reason why not
	Result  *Initialization `json:"result"`  // null while it is open
}

// RunTargets returns PCs of a run after that number, in order; next is 0 where none follow. outcome leaves only those with that one, "" all.
func (r *Registry) RunTargets(ctx context.Context, run int64, outcome string, after int64, limit int) (page []RunTarget, next int64, err error) {
	if _, err := r.RunVersion(ctx, run); err != nil {
		return nil, 0, err
	}
	page, err = scanAll(ctx, r.readers, func(scan func(...any) error) (t RunTarget, err error) {
		var result string
		if err := scan(&t.Number, &t.HostID, &t.Host, &t.Address, &t.Route, &t.Outcome, &result); err != nil || result == "" {
			return t, err
		}
		t.Result = new(Initialization)
		err = json.Unmarshal([]byte(result), t.Result)
		t.Result.Host, t.Result.Address = cmp.Or(t.Result.Host, t.Host), cmp.Or(t.Result.Address, t.Address) // many at once were given one result
		return t, err
	}, `SELECT t.number, t.host_id, t.host, t.address, p.route, t.outcome, t.result FROM run_targets t JOIN run_parts p ON p.id = t.part_id
		WHERE t.run_id = $1 AND t.number > $2 AND ($3 = '' OR t.outcome = $3) ORDER BY t.number LIMIT $4`, run, after, outcome, limitOf(limit)+1)
	if err == nil && len(page) > limitOf(limit) {
		page = page[:limitOf(limit)]
		next = int64(page[len(page)-1].Number)
	}
	return page, next, err
}

// CancelRun calls a run off. What nobody has begun with gets the outcome at once, whoever works; of what somebody has begun
// with he learns that it is called off. left is the result of PCs that are left alone: its reason is the outcome, and each PC's
// own name and address take the place of its. It fails with ErrUnknown or ErrRunEnded; calling off twice is no error.
func (r *Registry) CancelRun(ctx context.Context, id int64, by string, left Initialization) error {
	err := r.write(ctx, func(t *transaction) error {
		var ended, cancelled sql.NullInt64
		known, err := t.get(`SELECT ended, cancelled FROM runs WHERE id = $1`, []any{id}, []any{&ended, &cancelled})
		switch {
		case err != nil:
			return err
		case !known:
			return fmt.Errorf("run %d: %w", id, ErrUnknownRun)
		case ended.Valid:
			return fmt.Errorf("run %d: %w", id, ErrRunEnded)
		case cancelled.Valid:
			return nil
		}
		if _, err := t.exec(`UPDATE runs SET cancelled = $1, cancelled_by = $2, version = version + 1 WHERE id = $3`, millis(t.now), by, id); err != nil {
			return err
		}
		// A relay that has said anything of its work has begun, also where nobody has looked at that yet.
		parts, err := collect(t, func(scan func(...any) error) (p RunPart, err error) { return p, scan(&p.ID, &p.Work) },
			`SELECT p.id, p.work FROM run_parts p LEFT JOIN work w ON w.id = p.work
				WHERE p.run_id = $1 AND p.ended IS NULL AND (p.begun IS NULL OR p.waiting IS NOT NULL) AND COALESCE(w.sequence, 0) = 0`, id)
		if err != nil {
			return err
		}
		left.Finished, left.Host, left.Address = t.now, "", ""
		for _, p := range parts {
			if err := t.callBack(p); err != nil {
				return err
			}
			if _, err := t.exec(`UPDATE run_targets SET ended = $1, outcome = $2, result = $3 WHERE part_id = $4 AND ended IS NULL`,
				millis(t.now), left.Reason, toJSON(left.clipped()), p.ID); err != nil {
				return err
			}
			if err := t.endPart(p.ID); err != nil {
				return err
			}
		}
		return t.record(hostid.ID{}, "run-cancelled", map[string]any{"run": id, "who": by})
	})
	if err == nil {
		r.progressed.ring()
	}
	return err
}

// changed makes whoever watches the part's run look again.
func (t *transaction) changed(part int64) error {
	_, err := t.exec(`UPDATE runs SET version = version + 1 WHERE id = (SELECT run_id FROM run_parts WHERE id = $1)`, part)
	return err
}

// endPart ends a part that has no open PC, and its run with the last part.
func (t *transaction) endPart(part int64) error {
	n, err := t.exec(`UPDATE run_parts SET ended = $1, waiting = NULL, work = '' WHERE id = $2 AND ended IS NULL
		AND NOT EXISTS (SELECT 1 FROM run_targets WHERE part_id = $2 AND ended IS NULL)`, millis(t.now), part)
	if err != nil || n == 0 {
		return err
	}
	_, err = t.exec(`UPDATE runs SET ended = $1 WHERE id = (SELECT run_id FROM run_parts WHERE id = $2)
		AND NOT EXISTS (SELECT 1 FROM run_parts p WHERE p.run_id = runs.id AND p.ended IS NULL)`, millis(t.now), part)
	return err
}

package registry

import (
	"cmp"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// What is known of a PC hangs on its host IDs, and an asset only groups them: whatever the row of an asset says is made
// out of its hosts by derive. So joining and separating move hosts and nothing else, in any order, also after
// later check-ins.

// An asset is joined to another by a grouping, at most one at a time: the groups are trees, and a host belongs to the
// root above its home, the asset that was made with it.
type grouping struct {
	id     int64
	from   int64
	into   int64
	madeBy string
}

// Who made a grouping. What proof or a rule joined is separated again where both sides live at the same time; what an
// operator joined stays, and silences overlap between its sides.
const (
	byProof    = "proof"
	byRule     = "rule"
	byOperator = "operator"
)

// host is a row of hosts.
type host struct {
	id       hostid.ID
	asset    int64
	home     int64             // the asset that was made with it
	key      ed25519.PublicKey // nil: only named by a replacement, never enrolled
	proofKey ed25519.PublicKey
	keeper   int64 // branch whose tip gives the facts; 0 before the first report
	waiting  int64 // branch; 0: none
	facts    facts
	seen     Seen
	heard    time.Time // when it last presented itself
	since    time.Time // from when it was heard without three intervals of silence
	enrolled int64
	last     time.Time // its last check-in, presented or not
	marks    marks
	route    string // the relays on the way of its latest report
}

const hostColumns = `SELECT host_id, asset_id, home, key, proof_key, keeper, waiting, facts, seen, heard, since, COALESCE(enrolled, 0), last_checkin,
	COALESCE(deleted, 0), COALESCE(archived, 0), COALESCE(retired, 0), COALESCE(succeeded, 0), route, COALESCE(clock, '') FROM hosts_now `

func scanHost(scan func(...any) error) (h host, err error) {
	var id, factsText, seenText string
	var keeper, waiting, heard, since, last sql.NullInt64
	var clock string
	err = scan(&id, &h.asset, &h.home, (*[]byte)(&h.key), (*[]byte)(&h.proofKey), &keeper, &waiting, &factsText, &seenText, &heard, &since, &h.enrolled, &last,
		&h.marks.deleted, &h.marks.archived, &h.marks.retired, &h.marks.succeeded, &h.route, &clock)
	if err != nil {
		return h, err
	}
	h.keeper, h.waiting, h.heard, h.since, h.last = keeper.Int64, waiting.Int64, fromNullTime(heard), fromNullTime(since), fromNullTime(last)
	if err := decodeText("facts of host ID "+id, factsText, &h.facts); err != nil {
		return h, err
	}
	if err := decodeText("last report of host ID "+id, seenText, &h.seen); err != nil {
		return h, err
	}
	if clock != "" {
		h.seen.Time = clock
	}
	h.id, err = hostid.ParseID(id)
	return h, err
}

func (t *transaction) host(id hostid.ID) (h host, known bool, err error) {
	all, err := collect(t, scanHost, hostColumns+`WHERE host_id = $1`, id.String())
	if err != nil || len(all) == 0 {
		return host{id: id}, false, err
	}
	return all[0], true, nil
}

func (t *transaction) saveHost(h host) error {
	if err := t.wake(`host_id = $1`, h.id.String()); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE hosts SET keeper = $1, waiting = $2, facts = $3, seen = $4, heard = $5, since = $6, last_checkin = $7, route = $8 WHERE host_id = $9`,
		nullID(h.keeper), nullID(h.waiting), toJSON(h.facts), toJSON(h.seen), nullTime(h.heard), nullTime(h.since), nullTime(h.last), h.route, h.id.String())
	return err
}

// derive makes what the asset says of itself out of its hosts.
//
// The host that keeps it is, of those that are live at the latest report of any, the one that has been heard without
// three intervals of silence for longest: who comes later waits until the former is silent. Facts are those that this host
// knows; what it does not know is taken from hosts that kept the asset before it on a board that is not another one. The
// words are those of the host that was heard last. Hosts of a predecessor, which is another PC, say nothing.
func (t *transaction) derive(id int64, all []host) asset {
	a := asset{id: id}
	all = ownHosts(all, func(h host) int64 { return h.marks.succeeded })
	var hosts []host
	limit := t.now.Add(slack) // later than that only while the manager's clock is set back
	for _, future := range []bool{false, true} {
		for _, h := range all {
			if !h.heard.IsZero() && (future || !h.heard.After(limit)) {
				hosts = append(hosts, h)
			}
		}
		if len(hosts) > 0 {
			break
		}
	}
	if len(hosts) == 0 {
		return a
	}
	latest := slices.MaxFunc(hosts, func(x, y host) int {
		return cmp.Or(x.heard.Compare(y.heard), cmp.Compare(x.home, y.home), compareText(x.id, y.id))
	})
	keeps := latest
	for _, h := range hosts {
		if latest.heard.Sub(h.heard) < t.reg.silence() &&
			cmp.Or(h.since.Compare(keeps.since), cmp.Compare(h.home, keeps.home), compareText(h.id, keeps.id)) < 0 {
			keeps = h
		}
	}
	a.keeper, a.waiting, a.keepHost = keeps.keeper, keeps.waiting, keeps.id
	if latest.id != keeps.id {
		a.waiting = latest.keeper
	}
	a.facts = keeps.facts
	slices.SortFunc(hosts, func(x, y host) int {
		return cmp.Or(y.heard.Compare(x.heard), cmp.Compare(y.home, x.home), compareText(x.id, y.id))
	})
	for _, h := range hosts {
		if h.id != keeps.id && h.since.Before(keeps.since) && t.compare(h.facts, keeps.facts) != hostid.AnotherBoard {
			a.facts = t.merged(h.facts, hardware.Facts(a.facts))
		}
	}
	a.seen, a.seenHost, a.seenAt = latest.seen, latest.id, latest.heard
	return a
}

func compareText(a, b hostid.ID) int { return cmp.Compare(a.String(), b.String()) }

// regroup derives the asset anew and keeps what others find it by in step.
func (t *transaction) regroup(id int64) (was, is asset, err error) {
	if was, err = t.asset(id); err != nil {
		return was, is, err
	}
	hosts, err := collect(t, scanHost, hostColumns+`WHERE asset_id = $1 ORDER BY host_id`, id)
	if err != nil {
		return was, is, err
	}
	is = t.derive(id, hosts)
	if err := t.saveAsset(is); err != nil {
		return was, is, err
	}
	if t.evidence(was.facts) != t.evidence(is.facts) {
		if err := t.indexBoard(is); err != nil {
			return was, is, err
		}
	}
	return was, is, t.renamed(was, is)
}

// indexBoard keeps the board facts by which an asset is found.
func (t *transaction) indexBoard(a asset) error {
	if _, err := t.exec(`DELETE FROM board_facts WHERE asset_id = $1`, a.id); err != nil {
		return err
	}
	ev := t.evidence(a.facts)
	for _, fact := range indexedFacts {
		if ev[fact] == "" {
			continue
		}
		if _, err := t.exec(`INSERT INTO board_facts (asset_id, fact, value) VALUES ($1, $2, $3)`, a.id, fact.String(), ev[fact]); err != nil {
			return err
		}
	}
	return nil
}

// group joins a root to another asset of another group; what the root above is then comes from all hosts of both.
func (t *transaction) group(from, into int64, madeBy string) (id int64, err error) {
	id, err = t.insert(`INSERT INTO groupings (from_asset, into_asset, made_by, made) VALUES ($1, $2, $3, $4)`, from, into, madeBy, millis(t.now))
	if err != nil {
		return 0, err
	}
	if _, err := t.exec(`UPDATE assets SET merged_into = $1 WHERE id = $2`, into, from); err != nil {
		return 0, err
	}
	moved, err := t.hostsOf(from)
	if err != nil {
		return 0, err
	}
	root := into
	for n := 0; ; n++ {
		above := int64(0)
		found, err := t.get(`SELECT into_asset FROM groupings WHERE from_asset = $1 AND undone IS NULL`, []any{root}, []any{&above})
		if err != nil || n > maxDepth {
			return 0, fmt.Errorf("asset %d: groupings: %w", into, cmp.Or(err, errCircle))
		}
		if !found {
			break
		}
		root = above
	}
	return id, t.move(moved, from, root)
}

// ungroup takes back a grouping, whatever was joined or reported since.
func (t *transaction) ungroup(id int64) error {
	var from int64
	found, err := t.get(`UPDATE groupings SET undone = $1 WHERE id = $2 AND undone IS NULL RETURNING from_asset`, []any{millis(t.now), id}, []any{&from})
	if err != nil || !found {
		return err
	}
	if _, err := t.exec(`UPDATE assets SET merged_into = NULL WHERE id = $1`, from); err != nil {
		return err
	}
	moved, err := collect(t, scanText, `WITH RECURSIVE below (id) AS (SELECT id FROM assets WHERE id = $1
		UNION SELECT g.from_asset FROM groupings g JOIN below ON g.into_asset = below.id WHERE g.undone IS NULL)
		SELECT host_id FROM hosts WHERE home IN (SELECT id FROM below) ORDER BY host_id`, from)
	if err != nil || len(moved) == 0 {
		return err
	}
	var root int64
	if _, err := t.get(`SELECT asset_id FROM hosts WHERE host_id = $1`, []any{moved[0]}, []any{&root}); err != nil {
		return err
	}
	if err := t.move(moved, root, from); err != nil {
		return err
	}
	apart, err := t.separated(moved)
	if err == nil && apart {
		_, _, err = t.regroup(from)
	}
	return err
}

// move takes hosts from one asset to another and makes both anew.
func (t *transaction) move(hosts []string, from, to int64) error {
	if err := errors.Join(t.wakeAsset(from), t.wakeAsset(to)); err != nil {
		return err
	}
	for _, h := range hosts {
		for _, q := range []string{
			`UPDATE hosts SET asset_id = $1 WHERE host_id = $2`,
			`UPDATE conflicts SET asset_id = $1 WHERE host_id = $2`,
			`UPDATE conflicts SET other_asset = $1 WHERE other_host = $2`,
		} {
			if _, err := t.exec(q, to, h); err != nil {
				return err
			}
		}
	}
	for _, id := range []int64{from, to} {
		_, is, err := t.regroup(id)
		if err == nil {
			err = t.rematchAsset(id, is.uuid()) // what could not be told between the two
		}
		if err != nil {
			return err
		}
	}
	return t.settleSameBoard(to)
}

func (t *transaction) hostsOf(asset int64) ([]string, error) {
	return collect(t, scanText, `SELECT host_id FROM hosts WHERE asset_id = $1 ORDER BY host_id`, asset)
}

func scanText(scan func(...any) error) (s string, err error) { return s, scan(&s) }

// between are the groupings by which two hosts are in one asset, the latest first; none if their homes are one.
func (t *transaction) between(homeA, homeB int64) ([]grouping, error) {
	climb := func(id int64) (up []grouping, err error) {
		for {
			g := grouping{from: id}
			found, err := t.get(`SELECT id, into_asset, made_by FROM groupings WHERE from_asset = $1 AND undone IS NULL`,
				[]any{id}, []any{&g.id, &g.into, &g.madeBy})
			if err != nil || !found {
				return up, err
			}
			if id = g.into; len(up) > maxDepth {
				return nil, fmt.Errorf("asset %d: %w", homeA, errCircle)
			}
			up = append(up, g)
		}
	}
	a, err := climb(homeA)
	if err != nil {
		return nil, err
	}
	b, err := climb(homeB)
	if err != nil {
		return nil, err
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1].id == b[len(b)-1].id {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	path := append(a, b...)
	slices.SortFunc(path, func(x, y grouping) int { return cmp.Compare(y.id, x.id) })
	return path, nil
}

// maxDepth bounds a climb through groupings; each is made by an operator, by a rule or by a proof.
const maxDepth = 100_000

var errCircle = errors.New("groupings go in a circle")

// groupingOf is the grouping by which an asset is joined to another; 0: none.
func (t *transaction) groupingOf(from int64) (id int64, err error) {
	_, err = t.get(`SELECT id FROM groupings WHERE from_asset = $1 AND undone IS NULL`, []any{from}, []any{&id})
	return id, err
}

// hostPair names two hosts, in whatever order.
func hostPair(a, b hostid.ID) string {
	if compareText(a, b) > 0 {
		a, b = b, a
	}
	return a.String() + " " + b.String()
}

package registry

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// Initialization is one attempt to initialize the memory on the board of one PC, over the network. Reasons, steps and
// causes are data here: whoever made the attempt knows their meaning. The meaning of its JSON names never changes.
type Initialization struct {
	Host       string    `json:"host"`                  // what the PC was called by; "" if by its address only
	Address    string    `json:"address"`               // where it answered, else where it was looked for
	SystemUUID string    `json:"system_uuid,omitempty"` // as displayed; "" if it did not tell
	Finished   time.Time `json:"finished"`
	By         string    `json:"by"`      // the operating system's name of who ran it
	Machine    string    `json:"machine"` // where
	Source     string    `json:"source"`  // the file, host or address it was run for
	OK         bool      `json:"ok"`
	Already    bool      `json:"already_initialized"` // nothing had to be changed
	Done       []string  `json:"done,omitempty"`      // what was changed
	Reason     string    `json:"reason,omitempty"`    // why it failed, for programs
	MessageID  string    `json:"message_id,omitempty"`
	Cause      Text      `json:"cause,omitzero"`
	Step       string    `json:"step,omitempty"`        // where it failed
	Status     uint32    `json:"status,omitempty"`      // what the PC answered to the failing call
	Detail     string    `json:"detail,omitempty"`      // may quote the PC
	Version    string    `json:"amt_version,omitempty"` // of what answered there
	Matched    Match     `json:"matched"`
}

// Text is a message in every language.
type Text struct {
	EN string `json:"en"`
	JA string `json:"ja"`
}

// In is the message in that language.
func (t Text) In(l Language) string {
	if l == Japanese {
		return t.JA
	}
	return t.EN
}

// Match says how the PC of an attempt was told.
type Match string

// The ways.
const (
	ByUUID  Match = "uuid"    // by its system UUID, which no other PC has
	ByName  Match = "name"    // by its name: the UUID is not known, or tells nothing
	Several Match = "several" // not told: several assets may be meant
	NoMatch Match = "none"    // not told: no asset may be meant
)

// Run says whose attempts follow in a journal.
type Run struct {
	By      string `json:"by"`
	Machine string `json:"machine"`
	Source  string `json:"source"`
}

// Position says how far a journal of attempts has been taken. Head tells the file from another under its Name.
type Position struct {
	Name     string
	Head     string
	Offset   int64 // bytes
	Size     int64 // of the file, when it was last read to its end; else 0
	Modified int64 // as Size; nanoseconds since 1970
	Run      Run   // the run that the next attempts belong to
}

// ErrTaken says that somebody else has taken from the journal meanwhile.
var ErrTaken = errors.New("somebody else has taken from this journal")

// Bounds on what journals can make the registry store. Whoever may write them is an administrator of this machine, but
// what stands in them came from PCs.
const (
	// keepAttempts: how many attempts for one name are kept beside the history.
	keepAttempts = 16
	// maxOpenAttempts is how many attempts for PCs that have not checked in are kept: all that are for 10,000 PCs.
	maxOpenAttempts = 200_000
	// maxOpenOfRelay is how many of them may be what one relay says that was done there: it may invent PCs, and is not to take the
	// room of all others.
	maxOpenOfRelay = 50_000
	// keepOpen: a PC that has not checked in a year after the attempt is not going to.
	keepOpen = 400 * 24 * time.Hour
	// maxAttemptEvents bounds the attempts of one host ID that enter the history in a day, far below maxEventsPerDay:
	// a journal must not keep the PC from checking in.
	maxAttemptEvents = 50
	// maxRematched bounds how many attempts one report moves; there are keepAttempts for one name.
	maxRematched = 256
	// maxSubjectsPerUUID: no PC has more names.
	maxSubjectsPerUUID = 16
)

// Positions returns how far every journal has been taken, by name.
func (r *Registry) Positions(ctx context.Context) (map[string]Position, error) {
	all, err := scanAll(ctx, r.readers, scanPosition, positionColumns)
	if err != nil {
		return nil, fmt.Errorf("journals: %w", err)
	}
	byName := make(map[string]Position, len(all))
	for _, p := range all {
		byName[p.Name] = p
	}
	return byName, nil
}

const positionColumns = `SELECT name, head, position, size, modified, run FROM journals `

func scanPosition(scan func(...any) error) (p Position, err error) {
	var run string
	if err := scan(&p.Name, &p.Head, &p.Offset, &p.Size, &p.Modified, &run); err != nil {
		return p, err
	}
	return p, json.Unmarshal([]byte(run), &p.Run)
}

// Initializations takes the attempts that stand in a journal between two positions, in one transaction with the new
// position. It fails with ErrTaken, and changes nothing, if the journal is not at from any more; a journal that
// is not known is at the zero Offset. An attempt that was taken before is not taken again, wherever it stands. dropped
// is how many could not be kept because too many wait for PCs that never checked in.
func (r *Registry) Initializations(ctx context.Context, from, to Position, attempts []Initialization) (dropped int, err error) {
	dropped, _, err = r.initializations(ctx, from, to, attempts, maxOpenAttempts, maxOpenAttempts, teller{})
	return dropped, err
}

// teller is who says what became of PCs. A relay's word counts for those whose latest report came through it, for the one that a run gave it,
// and for what is no asset.
type teller struct {
	relay hostid.ID // zero: this manager, whose word counts for all
	run   bool      // of a run's target, whose name the run gave it; else the name is the relay's word, too
	meant int64     // the asset of that target; 0: the run knew of none
}

// mayTell reports whether somebody's word counts for an asset that was told in that way.
func (t *transaction) mayTell(by teller, asset int64, how Match) (bool, error) {
	if by.relay.IsZero() || by.run && (by.meant == asset || by.meant == 0 && how == ByName) {
		return true, nil
	}
	var route string
	if _, err := t.get(`SELECT h.route FROM assets a JOIN hosts h ON h.host_id = a.seen_host WHERE a.id = $1`, []any{asset}, []any{&route}); err != nil {
		return false, err
	}
	if through(route, by.relay) {
		return true, nil
	}
	return t.get(`SELECT 1 FROM hosts WHERE host_id = $1 AND asset_id = $2`, []any{by.relay.String(), asset}, []any{new(int)}) // the relay itself
}

// mayTellUUID reports whether somebody's word counts for a PC with that UUID: none has it, or one of those that have is his.
func (t *transaction) mayTellUUID(by teller, uuid string) (bool, error) {
	if by.relay.IsZero() || uuid == "" {
		return true, nil
	}
	ids, err := t.assetIDs(`SELECT asset_id FROM board_facts WHERE fact = $1 AND value = $2 ORDER BY asset_id LIMIT $3`, hostid.SystemUUID.String(), uuid, maxSubjectsPerUUID)
	if err != nil || len(ids) == 0 {
		return err == nil, err
	}
	for _, id := range ids {
		if may, err := t.mayTell(by, id, ByUUID); may || err != nil {
			return may, err
		}
	}
	return false, nil
}

// TakeRelayJournal takes attempts that a relay's own dcmamtin made, as the relay hands them on: a stream of its journals, numbered
// from 1. Verified is who signed it. What was taken before changes nothing. It fails with a checkin.Refusal where it will never be
// taken: UnknownWork where what came before it in its stream is not known here, so that the relay begins a new stream. dropped is as in
// Initializations; foreign is how many are about assets whose latest report did not come through this relay: those are not taken.
func (r *Registry) TakeRelayJournal(ctx context.Context, p checkin.Progress, verified ed25519.PublicKey, attempts []Initialization) (dropped, foreign int, err error) {
	return r.takeRelayJournal(ctx, p, verified, attempts, maxOpenOfRelay)
}

func (r *Registry) takeRelayJournal(ctx context.Context, p checkin.Progress, verified ed25519.PublicKey, attempts []Initialization, maxOpen int) (dropped, foreign int, err error) {
	name := "relay " + p.From.String()
	for try := 1; ; try++ {
		err := r.write(ctx, func(t *transaction) error {
			h, is, err := t.host(p.From)
			if err == nil && is {
				err = t.isRelay(p.From)
			}
			switch {
			case errors.Is(err, ErrNotRelay) || err == nil && !is:
				return &checkin.Refusal{Code: checkin.NotRelay, Detail: "host ID " + p.From.String() + " is no relay, or not any more"}
			case err != nil:
				return err
			case !h.key.Equal(verified):
				return &checkin.Refusal{Code: checkin.Malformed, Detail: "progress: it is not signed by the key of relay " + p.From.String()}
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
		positions, err := scanAll(ctx, r.readers, scanPosition, positionColumns+`WHERE name = $1`, name)
		if err != nil {
			return 0, 0, err
		}
		from := Position{Name: name}
		if len(positions) > 0 {
			from = positions[0]
		}
		switch {
		case from.Head == p.Work && uint64(from.Offset) >= p.Sequence:
			return 0, 0, nil
		case p.Sequence != 1 && (from.Head != p.Work || uint64(from.Offset)+1 != p.Sequence):
			return 0, 0, &checkin.Refusal{Code: checkin.UnknownWork, Detail: fmt.Sprintf("what came before %d in %s is not known here", p.Sequence, p.Work)}
		}
		dropped, foreign, err = r.initializations(ctx, from, Position{Name: name, Head: p.Work, Offset: int64(p.Sequence)}, attempts, maxOpenAttempts, maxOpen, teller{relay: p.From})
		if !errors.Is(err, ErrTaken) || try == 10 { // it came twice at once
			return dropped, foreign, err
		}
	}
}

// initializations keeps no more than maxOpen that wait for their PC, and of this journal no more than maxOwn.
func (r *Registry) initializations(ctx context.Context, from, to Position, attempts []Initialization, maxOpen, maxOwn int, by teller) (dropped, foreign int, err error) {
	err = r.write(ctx, func(t *transaction) error {
		var head string
		var offset int64
		known, err := t.get(`SELECT head, position FROM journals WHERE name = $1`, []any{from.Name}, []any{&head, &offset})
		if err != nil {
			return err
		}
		if known && (head != from.Head || offset != from.Offset) || !known && from.Offset != 0 {
			return fmt.Errorf("journal %s: %w", from.Name, ErrTaken)
		}
		_, err = t.exec(`INSERT INTO journals (name, head, position, size, modified, run) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (name) DO UPDATE SET head = excluded.head, position = excluded.position, size = excluded.size,
			modified = excluded.modified, run = excluded.run`, to.Name, to.Head, to.Offset, to.Size, to.Modified, toJSON(to.Run))
		if err != nil || len(attempts) == 0 {
			return err
		}
		var open int
		if _, err := t.get(`SELECT COUNT(*) FROM initializations WHERE host_id IS NULL`, nil, []any{&open}); err != nil {
			return err
		}
		own := 0
		if maxOwn < maxOpen {
			if _, err := t.get(`SELECT COUNT(*) FROM initializations WHERE host_id IS NULL AND journal = $1`, []any{to.Name}, []any{&own}); err != nil {
				return err
			}
		}
		dropped, foreign = 0, 0
		for _, i := range attempts {
			taken, err := t.initialization(to.Name, i, open < maxOpen && own < maxOwn, by)
			if err != nil {
				return err
			}
			switch taken {
			case attemptOpen:
				open++
				own++
			case attemptDropped:
				dropped++
			case attemptForeign:
				foreign++
			}
		}
		return nil
	})
	return dropped, foreign, err
}

// What became of an attempt.
type taken int

const (
	attemptKnown    taken = iota // it had been taken, or is older than all that is kept
	attemptAttached              // to an asset
	attemptOpen                  // it waits for its PC
	attemptDropped
	attemptForeign // who says so has no say about that asset
)

// attempt is a row of initializations.
type attempt struct {
	id      int64
	name    string // lower case; "" for none
	label   string
	uuid    string // "" for none and for placeholders
	address string
	ok      bool
	result  Initialization
	host    string // the host ID it hangs on; "" for none
	matched Match
}

// subject is what attempts are about that may replace each other.
func (a attempt) subject() string {
	switch {
	case a.name != "":
		return "name " + a.name
	case a.uuid != "":
		return "uuid " + a.uuid
	}
	return "address " + a.address
}

func (t *transaction) initialization(journal string, i Initialization, room bool, by teller) (taken, error) {
	i = i.clipped()
	a := attempt{uuid: usableUUID(i.SystemUUID), address: i.Address, ok: i.OK}
	a.name, a.label = assetName(i.Host)
	if addr, err := netip.ParseAddr(i.Host); err == nil && a.address == "" {
		a.address = addr.String()
	}
	counted := i.Finished
	if counted.After(t.now) { // the clock there is wrong; the time must not outdo what is going to happen
		counted = t.now
	}
	if may, err := t.mayTellUUID(by, a.uuid); err != nil || !may {
		return attemptForeign, err
	}
	if a.uuid != "" {
		if err := t.meetUUID(journal, a); err != nil {
			return attemptKnown, err
		}
	}
	asset, how, err := t.assetOf(a)
	if err != nil {
		return attemptKnown, err
	}
	if asset != 0 {
		if may, err := t.mayTell(by, asset, how); err != nil || !may {
			return attemptForeign, err
		}
	}
	if asset == 0 && !room {
		return attemptDropped, nil
	}
	a.matched = how
	a.id, err = t.insertAttempt(journal, counted, a, i)
	if err != nil || a.id == 0 {
		return attemptKnown, err
	}
	a.result = i
	if kept, err := t.pruneAttempts(a); err != nil || !kept {
		return attemptKnown, err
	}
	if asset == 0 {
		return attemptOpen, nil
	}
	return attemptAttached, t.attach(&a, asset, how)
}

// insertAttempt returns 0 if the attempt is there.
func (t *transaction) insertAttempt(journal string, counted time.Time, a attempt, i Initialization) (id int64, err error) {
	_, err = t.get(`INSERT INTO initializations (subject, finished, counted, journal, name, label, uuid, address, ok, result, matched)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (subject, finished) DO NOTHING RETURNING id`,
		[]any{a.subject(), millis(i.Finished), millis(counted), journal, a.name, a.label, a.uuid, a.address, a.ok, toJSON(i), string(a.matched)},
		[]any{&id})
	return id, err
}

// pruneAttempts removes the oldest attempts about the same subject, and tells whether the new one is still there.
func (t *transaction) pruneAttempts(a attempt) (kept bool, err error) {
	var count int
	_, err = t.get(`SELECT COUNT(*) FROM initializations WHERE subject = $1`, []any{a.subject()}, []any{&count})
	if err != nil || count <= keepAttempts {
		return true, err
	}
	type row struct {
		id   int64
		host sql.NullString
	}
	gone, err := collect(t, func(scan func(...any) error) (r row, err error) { return r, scan(&r.id, &r.host) },
		`DELETE FROM initializations WHERE id IN (SELECT id FROM initializations WHERE subject = $1
			ORDER BY counted DESC, id DESC LIMIT $2 OFFSET $3) RETURNING id, host_id`, a.subject(), maxRematched, keepAttempts)
	if err != nil {
		return false, err
	}
	kept = true
	for _, r := range gone {
		kept = kept && r.id != a.id
		if r.host.Valid {
			if err := t.newest(r.host.String); err != nil {
				return false, err
			}
		}
	}
	return kept, nil
}

// newest marks the last of the attempts that hang on a host ID.
func (t *transaction) newest(host string) error {
	const last = `(SELECT id FROM initializations WHERE host_id = $1 ORDER BY counted DESC, id DESC LIMIT 1)`
	if _, err := t.exec(`UPDATE initializations SET newest = FALSE WHERE host_id = $1 AND newest AND id <> `+last, host); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE initializations SET newest = TRUE WHERE NOT newest AND id = `+last, host)
	return err
}

// meetUUID notes a UUID that several PCs have: one run meets it under two names at two addresses, or it comes with
// more names than a PC has. What was told by it is told anew.
func (t *transaction) meetUUID(journal string, a attempt) error {
	shared, err := t.shared(a.uuid)
	if err != nil || shared {
		return err
	}
	if a.name != "" {
		shared, err = t.get(`SELECT 1 FROM initializations WHERE uuid = $1 AND journal = $2 AND name <> '' AND name <> $3 AND address <> $4 LIMIT 1`,
			[]any{a.uuid, journal, a.name, a.address}, []any{new(int)})
	}
	if err == nil && !shared {
		var subjects int
		_, err = t.get(`SELECT COUNT(*) FROM (SELECT DISTINCT subject FROM initializations WHERE uuid = $1) AS subjects`, []any{a.uuid}, []any{&subjects})
		shared = subjects >= maxSubjectsPerUUID
	}
	if err != nil || !shared {
		return err
	}
	if _, err := t.exec(`INSERT INTO shared_uuids (uuid) VALUES ($1) ON CONFLICT DO NOTHING`, a.uuid); err != nil {
		return err
	}
	return t.rematch(`uuid = $1`, a.uuid)
}

func (t *transaction) shared(uuid string) (bool, error) {
	return t.get(`SELECT 1 FROM shared_uuids WHERE uuid = $1`, []any{uuid}, []any{new(int)})
}

// assetOf finds the one asset that an attempt is about; 0 if there is none, or no telling which. The system UUID
// decides if exactly one asset has it. Else the name does, if exactly one asset has it, and if what both sides know of
// the UUID does not speak against it.
func (t *transaction) assetOf(a attempt) (asset int64, how Match, err error) {
	how = NoMatch
	if a.uuid != "" {
		shared, err := t.shared(a.uuid)
		if err != nil {
			return 0, how, err
		}
		ids, err := t.assetIDs(`SELECT asset_id FROM board_facts WHERE fact = $1 AND value = $2 ORDER BY asset_id LIMIT 2`, hostid.SystemUUID.String(), a.uuid)
		switch {
		case err != nil:
			return 0, how, err
		case len(ids) == 1 && !shared:
			return ids[0], ByUUID, nil
		case len(ids) > 0:
			how = Several
		}
	}
	if a.name == "" {
		return 0, how, nil
	}
	ids, err := t.named(a)
	switch {
	case err != nil:
		return 0, NoMatch, err
	case len(ids) == 0:
		return 0, NoMatch, nil
	case len(ids) > 1:
		return 0, Several, nil
	}
	against, err := t.contradicts(a, ids[0])
	if err != nil || against {
		return 0, NoMatch, err
	}
	return ids[0], ByName, nil
}

// hasName: a row of asset_names, n, is of an asset with the name $1 that has the label $2. Two names with a domain must
// be equal; if one side has none, what stands before it decides.
const hasName = `(n.name = $1 OR n.label = $2 AND ($1 = $2 OR NOT EXISTS
	(SELECT 1 FROM asset_names q WHERE q.asset_id = n.asset_id AND q.qualified)))`

// named returns the assets that have the attempt's name, two at most.
func (t *transaction) named(a attempt) ([]int64, error) {
	return t.assetIDs(`SELECT DISTINCT asset_id FROM asset_names n WHERE `+hasName+` ORDER BY asset_id LIMIT 2`, a.name, a.label)
}

func (t *transaction) assetIDs(query string, args ...any) ([]int64, error) {
	return collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) }, query, args...)
}

// contradicts reports whether the asset is known to have another UUID than the attempt met.
func (t *transaction) contradicts(a attempt, asset int64) (bool, error) {
	var uuid string
	_, err := t.get(`SELECT value FROM board_facts WHERE asset_id = $1 AND fact = $2`, []any{asset, hostid.SystemUUID.String()}, []any{&uuid})
	return a.uuid != "" && uuid != "" && a.uuid != uuid, err
}

// attach hangs an attempt on the asset's host ID, and tells the asset's history.
func (t *transaction) attach(a *attempt, asset int64, how Match) error {
	var host string
	_, err := t.get(`SELECT host_id FROM hosts WHERE asset_id = $1
		ORDER BY host_id = (SELECT seen_host FROM assets WHERE id = $1) DESC, COALESCE(enrolled, 0), host_id LIMIT 1`, []any{asset}, []any{&host})
	if err != nil {
		return err
	}
	from := a.host
	if err := t.hang(a, host, how); err != nil {
		return err
	}
	if from != "" {
		if err := t.tellMoved(from, *a); err != nil {
			return err
		}
	}
	return t.tell(host, a.kind(), *a)
}

// detach takes an attempt from the asset that it hangs on.
func (t *transaction) detach(a *attempt, why Match) error {
	from := a.host
	if err := t.hang(a, "", why); err != nil {
		return err
	}
	return t.tellMoved(from, *a)
}

// hang makes the attempt hang on a host ID, "" for none.
func (t *transaction) hang(a *attempt, host string, how Match) error {
	from := a.host
	a.host, a.matched = host, how
	_, err := t.exec(`UPDATE initializations SET host_id = $1, matched = $2, newest = FALSE WHERE id = $3`,
		sql.NullString{String: host, Valid: host != ""}, string(how), a.id)
	for _, h := range []string{from, host} {
		if err == nil && h != "" {
			err = t.newest(h)
		}
	}
	return err
}

// kind is the event that tells the attempt.
func (a attempt) kind() string {
	switch {
	case !a.result.OK:
		return "initialization-failed"
	case a.result.Already:
		return "initialized-already"
	}
	return "initialized"
}

// tell records an event about the attempt in the history of a host ID.
func (t *transaction) tell(host, kind string, a attempt) error {
	var count int
	_, err := t.get(`SELECT COUNT(*) FROM history WHERE host_id = $1 AND at > $2 AND kind IN
		('initialized', 'initialized-already', 'initialization-failed', 'initialization-moved', 'initialization-withdrawn')`,
		[]any{host, millis(t.now.Add(-24 * time.Hour))}, []any{&count})
	if err != nil || count >= maxAttemptEvents {
		return err
	}
	id, err := hostid.ParseID(host)
	if err != nil {
		return err
	}
	i := a.result
	evidence := map[string]any{
		"target": i.target(), "finished": i.Finished.UTC().Format(time.RFC3339), "by": i.By, "machine": i.Machine, "source": i.Source,
		"host": i.Host, "address": i.Address, "system_uuid": i.SystemUUID, "matched": a.matched, "amt_version": i.Version,
	}
	if i.OK {
		evidence["done"] = append([]string{}, i.Done...)
	} else {
		evidence["reason"], evidence["message_id"], evidence["cause"] = i.Reason, i.MessageID, i.Cause
		evidence["step"], evidence["status"], evidence["detail"] = i.Step, i.Status, i.Detail
	}
	if kind == "initialization-moved" {
		evidence["to"] = a.host
	}
	return t.record(id, kind, evidence)
}

func (t *transaction) tellMoved(from string, a attempt) error {
	if a.host == "" {
		return t.tell(from, "initialization-withdrawn", a)
	}
	return t.tell(from, "initialization-moved", a)
}

// target is what the PC was called by.
func (i Initialization) target() string {
	if i.Host != "" {
		return i.Host
	}
	return i.Address
}

// renamed takes note of what an asset calls itself and of its UUID, and tells attempts anew that this may decide. was
// is the asset before the report.
func (t *transaction) renamed(was, is asset) error {
	names, uuid := is.seen.names(), is.uuid()
	known, err := collect(t, func(scan func(...any) error) (n string, err error) { return n, scan(&n) },
		`SELECT name FROM asset_names WHERE asset_id = $1 ORDER BY name`, is.id)
	if err != nil || slices.Equal(names, known) && was.uuid() == uuid {
		return err
	}
	if _, err := t.exec(`DELETE FROM asset_names WHERE asset_id = $1`, is.id); err != nil {
		return err
	}
	for _, n := range names {
		_, label := assetName(n)
		_, err := t.exec(`INSERT INTO asset_names (asset_id, name, label, qualified) VALUES ($1, $2, $3, $4)`, is.id, n, label, n != label)
		if err != nil {
			return err
		}
	}
	return t.rematchAsset(is.id, uuid)
}

// rematchAsset tells anew the attempts that an asset's names and UUID may decide.
func (t *transaction) rematchAsset(asset int64, uuid string) error {
	const byLabel = `host_id IS NULL AND label IN (SELECT label FROM asset_names WHERE asset_id = `
	if uuid != "" {
		// First what its names gave it and its UUID now speaks against.
		err := t.rematch(`host_id IN (SELECT host_id FROM hosts WHERE asset_id = $1) AND matched = 'name' AND uuid <> '' AND uuid <> $2`, asset, uuid)
		if err != nil {
			return err
		}
		shared, err := t.shared(uuid)
		if err != nil {
			return err
		}
		if !shared {
			return t.rematch(`uuid = $1 OR `+byLabel+`$2)`, uuid, asset)
		}
	}
	return t.rematch(byLabel+`$1)`, asset)
}

// rematch tells anew the attempts that fulfil a condition, the oldest first, so that they enter the history in order.
func (t *transaction) rematch(condition string, args ...any) error {
	rows, err := collect(t, scanAttempt, fmt.Sprintf(attemptColumns+`WHERE id IN (SELECT id FROM initializations WHERE %s ORDER BY counted DESC, id DESC LIMIT %d)
		ORDER BY counted, id`, condition, maxRematched), args...)
	if err != nil {
		return err
	}
	for _, a := range rows {
		if err := t.rejudge(a); err != nil {
			return err
		}
	}
	return nil
}

// rejudge decides about one attempt again. One that hangs on an asset leaves it only for what is known better by now:
// a UUID. That a name has changed hands since says nothing about the time of the attempt.
func (t *transaction) rejudge(a attempt) error {
	asset, how, err := t.assetOf(a)
	if err != nil {
		return err
	}
	if a.host == "" {
		if asset != 0 {
			return t.attach(&a, asset, how)
		}
		if how != a.matched {
			return t.hang(&a, "", how)
		}
		return nil
	}
	var current int64
	var succeeded bool
	if _, err := t.get(`SELECT asset_id, succeeded IS NOT NULL FROM hosts WHERE host_id = $1`, []any{a.host}, []any{&current, &succeeded}); err != nil {
		return err
	}
	switch {
	case succeeded: // it is about the PC before, whose board its asset does not know any more
		return nil
	case asset == current:
		if how == a.matched {
			return nil
		}
		return t.hang(&a, a.host, how)
	case how == ByUUID:
		return t.attach(&a, asset, how)
	case a.matched == ByName:
		against, err := t.contradicts(a, current)
		if err != nil || !against {
			return err
		}
	case asset == 0:
		// Its UUID tells nothing any more. If the asset has the name that the PC was called by, it stays.
		has, err := t.get(`SELECT 1 FROM asset_names n WHERE asset_id = $3 AND `+hasName+` LIMIT 1`, []any{a.name, a.label, current}, []any{new(int)})
		if err != nil || has {
			return err
		}
	}
	if asset != 0 {
		return t.attach(&a, asset, how)
	}
	return t.detach(&a, how)
}

const attemptColumns = `SELECT id, name, label, uuid, address, ok, result, COALESCE(host_id, ''), matched FROM initializations `

func scanAttempt(scan func(...any) error) (a attempt, err error) {
	var result, matched string
	if err := scan(&a.id, &a.name, &a.label, &a.uuid, &a.address, &a.ok, &result, &a.host, &matched); err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(result), &a.result); err != nil {
		return a, fmt.Errorf("attempt %d: %w", a.id, err)
	}
	a.matched, a.result.Matched = Match(matched), Match(matched)
	return a, nil
}

// uuid is the asset's system UUID, "" for none and for a placeholder.
func (a asset) uuid() string { return hardware.Facts(a.facts).Evidence()[hostid.SystemUUID] }

// usableUUID is a UUID that tells one PC from others; "" for what does not.
func usableUUID(s string) string {
	return hardware.Facts{SystemUUID: s}.Evidence()[hostid.SystemUUID]
}

// names are what the PC calls itself, in the form of assetName, sorted.
func (s Seen) names() (names []string) {
	for _, n := range []string{s.Name, s.FQDN} {
		if n, _ := assetName(n); n != "" {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// assetName is a host name as names are compared, and what stands before its domain; "" for what names no PC, such as
// an address.
func assetName(s string) (name, label string) {
	name = strings.TrimSuffix(strings.ToLower(s), ".")
	label, _, _ = strings.Cut(name, ".")
	if _, err := netip.ParseAddr(name); err == nil || label == "" || label == "localhost" {
		return "", ""
	}
	return name, label
}

// clipped is the attempt within the bounds of what is stored.
func (i Initialization) clipped() Initialization {
	const name, path, text = 255, 1024, 1000 // bytes
	for _, f := range []struct {
		s     *string
		limit int
	}{
		{&i.Host, name}, {&i.Address, name}, {&i.SystemUUID, name}, {&i.By, name}, {&i.Machine, name}, {&i.Source, path},
		{&i.Reason, name}, {&i.MessageID, name}, {&i.Cause.EN, text}, {&i.Cause.JA, text}, {&i.Step, name}, {&i.Detail, text}, {&i.Version, name},
	} {
		*f.s = clip(*f.s, f.limit)
	}
	const maxDone = 16
	done := i.Done[:min(len(i.Done), maxDone)]
	i.Done = nil
	for _, d := range done {
		i.Done = append(i.Done, clip(d, name))
	}
	i.Finished = i.Finished.UTC().Truncate(time.Millisecond)
	return i
}

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// lastAttempt is the last one that hangs on a host ID of an asset.
type lastAttempt struct {
	asset   int64
	counted time.Time
	Initialization
}

func scanLastAttempt(scan func(...any) error) (l lastAttempt, err error) {
	var counted int64
	var result, matched string
	if err := scan(&l.asset, &counted, &result, &matched); err != nil {
		return l, err
	}
	l.counted = fromMillis(counted)
	err = json.Unmarshal([]byte(result), &l.Initialization)
	l.Matched = Match(matched)
	return l, err
}

const lastAttemptColumns = `SELECT h.asset_id, i.counted, i.result, i.matched FROM initializations i JOIN hosts h ON h.host_id = i.host_id WHERE i.newest AND h.succeeded IS NULL`

// lastAttempts returns the last attempt of each asset, or of the one asset that has that host ID.
func (r *Registry) lastAttempts(ctx context.Context, of hostid.ID) (map[int64]lastAttempt, error) {
	query, args := lastAttemptColumns, []any(nil)
	if !of.IsZero() {
		query, args = query+` AND i.host_id IN (SELECT host_id FROM hosts WHERE asset_id = (SELECT asset_id FROM hosts WHERE host_id = $1))`, []any{of.String()}
	}
	all, err := scanAll(ctx, r.readers, scanLastAttempt, query+` ORDER BY i.counted, i.id`, args...)
	if err != nil {
		return nil, err
	}
	last := make(map[int64]lastAttempt, len(all))
	for _, l := range all {
		last[l.asset] = l
	}
	return last, nil
}

// initialized combines what the client said of its memory, and when, with the last attempt to initialize it: the later
// one counts, but that an attempt failed takes back no yes of the client.
func initialized(client *bool, said time.Time, last *lastAttempt) *bool {
	switch yes, no := true, false; {
	case last == nil:
		return client
	case last.OK && (client == nil || last.counted.After(said)):
		return &yes
	case !last.OK && client == nil:
		return &no
	}
	return client
}

// Unmatched is a PC whose last attempt failed, and that no asset could be told for. The meaning of its JSON names
// never changes; those that Asset has, too, mean the same.
type Unmatched struct {
	HostID         string         `json:"host_id"`  // always ""
	HostIDs        []string       `json:"host_ids"` // always empty
	Name           string         `json:"name"`     // else its address
	State          State          `json:"state"`    // Unknown or Ambiguous
	Initialized    bool           `json:"initialized"`
	LastCheckin    *time.Time     `json:"last_checkin"` // always null
	Initialization Initialization `json:"initialization"`
}

// Unmatched returns the PCs that no asset could be told for and whose last attempt failed, by name.
func (r *Registry) Unmatched(ctx context.Context) ([]Unmatched, error) {
	const later = ` AND (l.counted > i.counted OR l.counted = i.counted AND l.id > i.id)) `
	rows, err := scanAll(ctx, r.readers, scanAttempt, `SELECT id, name, label, uuid, address, ok, result, '', matched FROM initializations i
		WHERE host_id IS NULL AND NOT ok
		AND NOT EXISTS (SELECT 1 FROM initializations l WHERE l.subject = i.subject`+later+`
		AND NOT EXISTS (SELECT 1 FROM initializations l WHERE i.uuid <> '' AND l.uuid = i.uuid AND (i.name = '' OR l.name = '')
			AND NOT EXISTS (SELECT 1 FROM shared_uuids s WHERE s.uuid = i.uuid)`+later+`
		AND NOT EXISTS (SELECT 1 FROM initializations l WHERE i.name = '' AND i.uuid = '' AND l.address = i.address`+later+`
		ORDER BY subject`)
	if err != nil {
		return nil, fmt.Errorf("attempts: %w", err)
	}
	var all []Unmatched
	for _, a := range rows {
		n := Unmatched{HostIDs: []string{}, Name: a.result.target(), State: Unknown, Initialization: a.result}
		if a.matched == Several {
			n.State = Ambiguous
		}
		all = append(all, n)
	}
	return all, nil
}

package registry

import (
	"cmp"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// facts are what is known of an asset's hardware.
type facts hardware.Facts

// evidence is what of the facts counts, without the manager's placeholders.
func (t *transaction) evidence(f facts) hostid.Evidence {
	return hardware.Facts(f).EvidenceWithout(t.placeholders)
}

// compare says whether two sets of facts describe one board. Any host ID makes them comparable, as long as both sides
// use the same one.
func (t *transaction) compare(a, b facts) hostid.Board {
	return hostid.Compare(t.evidence(a).Facts(hostid.ID{}), t.evidence(b).Facts(hostid.ID{}))
}

// decides reports whether anything is known that can tell boards apart.
func (t *transaction) decides(f facts) bool {
	ev := t.evidence(f)
	for _, fact := range indexedFacts {
		if ev[fact] != "" {
			return true
		}
	}
	return false
}

// boardName names the board that facts describe: the same facts, the same name.
func (t *transaction) boardName(f facts) string {
	ev := t.evidence(f)
	ev[hostid.DiskSerial], ev[hostid.TPMEndorsementKey] = "", ""
	sum := sha256.Sum256([]byte(toJSON(ev)))
	return hex.EncodeToString(sum[:8])
}

// merged takes what the report knows; an unknown or a placeholder never replaces a known value.
func (t *transaction) merged(f facts, r hardware.Facts) facts {
	ev, known := t.evidence(facts(r)), t.evidence(f)
	take := func(old *string, new string, fact hostid.Fact) {
		if ev[fact] != "" || known[fact] == "" && new != "" {
			*old = new
		}
	}
	take(&f.SystemUUID, r.SystemUUID, hostid.SystemUUID)
	take(&f.SystemSerial, r.SystemSerial, hostid.SystemSerial)
	take(&f.BoardSerial, r.BoardSerial, hostid.BoardSerial)
	take(&f.ChassisSerial, r.ChassisSerial, hostid.ChassisSerial)
	take(&f.TPMEKSHA256, r.TPMEKSHA256, hostid.TPMEndorsementKey)
	if ev[hostid.DiskSerial] != "" || known[hostid.DiskSerial] == "" && len(r.Disks) > 0 {
		f.Disks = r.Disks
	}
	if ev[hostid.OnboardMAC] != "" || known[hostid.OnboardMAC] == "" && len(r.NICs) > 0 {
		f.NICs = r.NICs
	}
	f.SMBIOSAMT = f.SMBIOSAMT || r.SMBIOSAMT
	return f
}

// learn puts the report's facts into the host's, and what changed into the history. Lists that change without
// changing an identifying fact (a USB stick, a VPN) change the facts, but are no event.
func (t *transaction) learn(h *host, r hardware.Facts) error {
	was := t.evidence(h.facts)
	h.facts = t.merged(h.facts, r)
	is := t.evidence(h.facts)
	type change struct {
		Fact string `json:"fact"`
		From string `json:"from"`
		To   string `json:"to"`
	}
	var changes []change
	names := ""
	for i := range is {
		if is[i] == was[i] {
			continue
		}
		changes = append(changes, change{hostid.Fact(i).String(), was[i], is[i]})
		if names != "" {
			names += ", "
		}
		names += hostid.Fact(i).String()
	}
	if len(changes) == 0 || h.heard.IsZero() { // the first facts stand in the enrolment
		return nil
	}
	return t.record(h.id, "facts", map[string]any{"facts": names, "changes": changes})
}

// indexedFacts are those that say something about the board or its case.
var indexedFacts = []hostid.Fact{hostid.SystemUUID, hostid.BoardSerial, hostid.OnboardMAC, hostid.SystemSerial, hostid.ChassisSerial}

// boardFacts are those that decide whether two boards are the same.
var boardFacts = []hostid.Fact{hostid.SystemUUID, hostid.BoardSerial, hostid.OnboardMAC}

// maxSameBoard bounds how many assets one conflict looks at: more than a few on "the same board" mean that a value
// is shared by a whole model, and the operator needs to see that, not each of them.
const maxSameBoard = 16

// sameBoard opens a conflict if other assets are on the same board as this one: a PC that came back without anything
// to prove that it is the old one, or values that several PCs share. Evidence without a key joins nothing by
// itself; an asset has one such conflict at a time, with the asset that was heard last.
func (t *transaction) sameBoard(v checkin.VerifiedReport, a asset, line branch) error {
	open, err := t.get(`SELECT 1 FROM conflicts WHERE kind = 'same-board' AND asset_id = $1 AND closed IS NULL LIMIT 1`, []any{a.id}, []any{new(int)})
	if err != nil || open {
		return err
	}
	ev := t.evidence(a.facts)
	others := map[int64]bool{}
	for _, fact := range boardFacts {
		if ev[fact] == "" {
			continue
		}
		ids, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
			`SELECT asset_id FROM board_facts WHERE fact = $1 AND value = $2 AND asset_id <> $3 ORDER BY asset_id DESC LIMIT $4`,
			fact.String(), ev[fact], a.id, maxSameBoard)
		if err != nil {
			return err
		}
		for _, id := range ids {
			others[id] = true
		}
	}
	type candidate struct {
		asset
		host  string
		heard sql.NullInt64
	}
	var same []candidate
	live := 0
	for _, id := range slices.Sorted(maps.Keys(others)) {
		c := candidate{}
		if c.asset, err = t.asset(id); err != nil {
			return err
		}
		if t.compare(c.facts, facts(v.Report.Facts)) != hostid.SameBoard {
			continue
		}
		known, err := t.get(`SELECT host_id, last_checkin FROM hosts_now WHERE asset_id = $1 ORDER BY last_checkin IS NULL, last_checkin DESC, host_id LIMIT 1`,
			[]any{id}, []any{&c.host, &c.heard})
		if err != nil {
			return err
		}
		if !known { // nothing but an asset that was merged into another
			continue
		}
		apart, err := t.assetsKeptApart(a, c.asset)
		if err != nil {
			return err
		}
		if apart {
			continue
		}
		if same = append(same, c); t.reg.live(fromNullTime(c.heard), t.now) {
			live++
		}
	}
	if len(same) == 0 {
		return nil
	}
	last := slices.MaxFunc(same, func(a, b candidate) int { return cmp.Compare(a.heard.Int64, b.heard.Int64) })
	heard := fromNullTime(last.heard)
	otherHost, err := hostid.ParseID(last.host)
	if err != nil {
		return err
	}
	c := conflict{
		kind: "same-board", subject: pairSubject(a.id, last.id), asset: a.id, other: last.id, host: v.Report.HostID, otherHost: otherHost, lines: []int64{line.id},
		evidence: map[string]any{
			"host": v.Report.HostID, "name": v.Report.Names.Host, "reported": v.Report.Facts, "report": v.Digest, "epoch": v.Report.Epoch,
			"other_host": last.host, "other_name": last.seen.Name, "known": last.facts, "other_heard": heard,
			"other_live": t.reg.live(heard, t.now), "assets_on_this_board": len(same) + 1, "shared": t.agreeing(facts(v.Report.Facts), last.facts),
		},
	}
	if live+1 >= suggestFrom || len(same) >= maxSameBoard {
		// A PC that was reinstalled is not alive three times: whoever else comes with these values counts to this one, and no
		// proof settles it.
		c.subject, c.other, c.otherHost = "shared "+toJSON([]string{ev[hostid.SystemUUID], ev[hostid.BoardSerial]}), 0, hostid.ID{}
		if apart, err := t.keptApart("same-board", c.subject, nil); err != nil || apart {
			return err
		}
	}
	o, err := t.openConflict(c)
	if err != nil {
		return err
	}
	if c.otherHost.IsZero() {
		for _, s := range same {
			if err := t.countTo(o.id, s.id); err != nil {
				return err
			}
		}
	}
	return t.applyRule(o.id)
}

// countTo lets what was asked about an asset and one other count to the conflict about the values that many share.
func (t *transaction) countTo(shared, asset int64) error {
	ids, err := collect(t, func(scan func(...any) error) (id int64, err error) { return id, scan(&id) },
		`SELECT id FROM conflicts WHERE kind = 'same-board' AND asset_id = $1 AND id <> $2 AND closed IS NULL AND resolution IS NULL AND other_host <> '' ORDER BY id`,
		asset, shared)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := t.conflictRow(id)
		if err != nil {
			return err
		}
		if err := t.wakeLines(c.id); err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO conflict_lines (conflict_id, branch_id) SELECT $1, branch_id FROM conflict_lines WHERE conflict_id = $2 AND left_at IS NULL ON CONFLICT DO NOTHING`,
			shared, id)
		if err != nil {
			return err
		}
		if err := t.closeConflict(id, c.kind, c.host, "conflict-counted"); err != nil {
			return err
		}
	}
	return nil
}

// assetsKeptApart reports whether an operator said that two hosts of these assets are two PCs, by evidence of which nothing
// is new.
func (t *transaction) assetsKeptApart(a, b asset) (bool, error) {
	if found, err := t.get(`SELECT 1 FROM kept_apart WHERE kind = 'hosts' LIMIT 1`, nil, []any{new(int)}); err != nil || !found {
		return false, err
	}
	mine, err := t.hostsOf(a.id)
	if err != nil {
		return false, err
	}
	others, err := t.hostsOf(b.id)
	if err != nil {
		return false, err
	}
	agreeing := t.agreeing(a.facts, b.facts)
	for _, x := range mine {
		for _, y := range others {
			apart, err := t.keptApart("hosts", min(x, y)+" "+max(x, y), agreeing)
			if err != nil || apart {
				return apart, err
			}
		}
	}
	return false, nil
}

func pairSubject(a, b int64) string { return fmt.Sprint("assets ", min(a, b), " ", max(a, b)) }

// Seen is how an asset last presented itself: the words of its latest report from the board that is known.
type Seen struct {
	Name        string               `json:"name"`
	FQDN        string               `json:"fqdn,omitzero"`
	Addresses   []string             `json:"addresses"`
	Versions    checkin.Versions     `json:"versions"`
	Stores      []checkin.StoreState `json:"stores"`
	Origin      hostid.Origin        `json:"origin"`
	Provisional bool                 `json:"provisional"`
	Time        string               `json:"client_time"`

	Settings *checkin.SettingsState `json:"settings,omitempty"` // of the manager's that it holds; nil: it takes none
}

func seenIn(r checkin.Report) Seen {
	return Seen{r.Names.Host, r.Names.FQDN, r.Addresses, r.Versions, r.Stores, r.Origin, r.Provisional, r.Time, r.Settings}
}

// initialized reports whether memory on the board is ready for host IDs, as far as the last report says; nil if it
// says nothing about it. The store on the disk is no memory on the board.
func (s Seen) initialized() *bool {
	var answer *bool
	for _, st := range s.Stores {
		if st.Name == hostid.FileStoreName {
			continue
		}
		switch hostid.State(st.State) {
		case hostid.Stored, hostid.Empty, hostid.Corrupt, hostid.Newer, hostid.Foreign, hostid.Differs:
			yes := true
			return &yes
		case hostid.NotInitialized:
			no := false
			answer = &no
		}
	}
	return answer
}

func (a *asset) decode(factsText, seenText, seenHost string) error {
	if err := decodeText(fmt.Sprint("facts of asset ", a.id), factsText, &a.facts); err != nil {
		return err
	}
	if err := decodeText(fmt.Sprint("last report of asset ", a.id), seenText, &a.seen); err != nil {
		return err
	}
	var err error
	a.seenHost, err = parseID(seenHost)
	return err
}

// decodeText reads JSON that this program wrote.
func decodeText(what, text string, into any) error {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

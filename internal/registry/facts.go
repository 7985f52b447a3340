package registry

import (
	"cmp"
	"database/sql"
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

// digests makes facts comparable. Any host ID serves, as long as both sides use the same one.
func (f facts) digests() hostid.Facts {
	return hardware.Facts(f).Evidence().Facts(hostid.ID{})
}

// decides reports whether anything is known that can tell boards apart.
func (f facts) decides() bool {
	ev := hardware.Facts(f).Evidence()
	for _, fact := range []hostid.Fact{hostid.SystemUUID, hostid.BoardSerial, hostid.OnboardMAC, hostid.SystemSerial, hostid.ChassisSerial} {
		if ev[fact] != "" {
			return true
		}
	}
	return false
}

// board compares a report's facts with the asset's.
func (a asset) board(reported hardware.Facts) hostid.Board {
	return hostid.Compare(a.facts.digests(), facts(reported).digests())
}

// merged takes what the report knows; an unknown or a placeholder never replaces a known value.
func (f facts) merged(r hardware.Facts) facts {
	ev, known := r.Evidence(), hardware.Facts(f).Evidence()
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

// learn puts the report's facts into the asset's, and what changed into the history. Lists that change without
// changing an identifying fact (a USB stick, a VPN) change the facts, but are no event. It tells whether an
// identifying fact has changed.
func (t *transaction) learn(id hostid.ID, a *asset, r hardware.Facts) (changed bool, err error) {
	was := hardware.Facts(a.facts).Evidence()
	a.facts = a.facts.merged(r)
	is := hardware.Facts(a.facts).Evidence()
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
	if len(changes) == 0 {
		return false, nil
	}
	for _, fact := range boardFacts {
		if is[fact] == was[fact] {
			continue
		}
		_, err := t.exec(`INSERT INTO board_facts (asset_id, fact, value) VALUES ($1, $2, $3)
			ON CONFLICT (asset_id, fact) DO UPDATE SET value = excluded.value`, a.id, fact.String(), is[fact])
		if err != nil {
			return true, err
		}
	}
	if a.seenHost.IsZero() {
		return true, nil // the first facts stand in the enrolment
	}
	return true, t.record(id, "facts", map[string]any{"facts": names, "changes": changes})
}

// boardFacts are those that decide whether two boards are the same.
var boardFacts = []hostid.Fact{hostid.SystemUUID, hostid.BoardSerial, hostid.OnboardMAC}

// maxSameBoard bounds how many assets one conflict looks at: more than a few on "the same board" mean that a value
// is shared by a whole model, and the operator needs to see that, not each of them.
const maxSameBoard = 16

// sameBoard opens a conflict if other assets are on the same board as this one: a PC that came back without anything
// to prove that it is the old one, or values that several PCs share. Evidence without a key joins nothing by
// itself; an asset has one such conflict at a time, with the asset that was heard last.
func (t *transaction) sameBoard(v checkin.VerifiedReport, a asset, e epoch) error {
	open, err := t.get(`SELECT 1 FROM conflicts WHERE kind = 'same-board' AND asset_id = $1 AND closed IS NULL LIMIT 1`, []any{a.id}, []any{new(int)})
	if err != nil || open {
		return err
	}
	ev := hardware.Facts(a.facts).Evidence()
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
	for _, id := range slices.Sorted(maps.Keys(others)) {
		c := candidate{}
		if c.asset, err = t.asset(id); err != nil {
			return err
		}
		if c.board(v.Report.Facts) != hostid.SameBoard {
			continue
		}
		known, err := t.get(`SELECT host_id, last_checkin FROM hosts WHERE asset_id = $1 ORDER BY last_checkin IS NULL, last_checkin DESC, host_id LIMIT 1`,
			[]any{id}, []any{&c.host, &c.heard})
		if err != nil {
			return err
		}
		if known { // else nothing but an asset that was merged into another
			same = append(same, c)
		}
	}
	if len(same) == 0 {
		return nil
	}
	last := slices.MaxFunc(same, func(a, b candidate) int { return cmp.Compare(a.heard.Int64, b.heard.Int64) })
	heard := fromNullTime(last.heard)
	subject, other := pairSubject(a.id, last.id), last.id
	if len(same) >= maxSameBoard { // whoever else comes with these values counts to this one; no proof settles it
		subject, other = "shared "+toJSON([]string{ev[hostid.SystemUUID], ev[hostid.BoardSerial], ev[hostid.OnboardMAC]}), 0
	}
	return t.openConflict(conflict{
		kind: "same-board", subject: subject, asset: a.id, other: other, host: v.Report.HostID, epochs: []int64{e.id},
		evidence: map[string]any{
			"host": v.Report.HostID, "name": v.Report.Names.Host, "reported": v.Report.Facts, "report": v.Digest, "epoch": e.epoch,
			"other_host": last.host, "other_name": last.seen.Name, "known": last.facts, "other_heard": heard,
			"other_live": t.reg.live(heard, t.now), "assets_on_this_board": len(same) + 1,
		},
	})
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
}

func seenIn(r checkin.Report) Seen {
	return Seen{r.Names.Host, r.Names.FQDN, r.Addresses, r.Versions, r.Stores, r.Origin, r.Provisional, r.Time}
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
	if err := json.Unmarshal([]byte(factsText), &a.facts); err != nil {
		return fmt.Errorf("facts of asset %d: %w", a.id, err)
	}
	if err := json.Unmarshal([]byte(seenText), &a.seen); err != nil {
		return fmt.Errorf("last report of asset %d: %w", a.id, err)
	}
	if seenHost == "" {
		return nil
	}
	var err error
	a.seenHost, err = hostid.ParseID(seenHost)
	return err
}

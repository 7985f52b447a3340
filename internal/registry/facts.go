package registry

import (
	"encoding/json"
	"fmt"

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
// changing an identifying fact (a USB stick, a VPN) change the facts, but are no event.
func (t *transaction) learn(id hostid.ID, a *asset, r hardware.Facts) error {
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
	if len(changes) == 0 || a.seenHost.IsZero() {
		return nil // the first facts stand in the enrolment
	}
	return t.record(id, "facts", map[string]any{"facts": names, "changes": changes})
}

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

package checkin

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// description is what a full report says of the PC: every member but those that say who speaks to whom (aud, host_id,
// sign_key, seal_key), where the report stands in its chain (epoch, epoch_by, counter, previous, base) and when it was
// made (run, age_ms, time), and how a relay's spool stood then (relay). A new member of Report belongs either here or there; a test sees to it.
type description struct {
	Facts        hardware.Facts `json:"facts"`
	Names        Names          `json:"names"`
	Addresses    []string       `json:"addresses"`
	Versions     Versions       `json:"versions"`
	Stores       []StoreState   `json:"stores"`
	Origin       hostid.Origin  `json:"origin"`
	Provisional  bool           `json:"provisional"`
	Pending      bool           `json:"pending"`
	CopyOf       hostid.ID      `json:"copy_of"`
	Observations []Observation  `json:"observations"`
	Replaced     []string       `json:"replaced"`
	Done         []string       `json:"done"`
	Placeholders string         `json:"placeholders"`
	Settings     *SettingsState `json:"settings"`
}

// Describes is the same for two full reports exactly where they say the same of the PC: facts, names, addresses,
// versions, stores, origin, provisional, pending, copy_of, observations, replaced, done, placeholders and settings, lists
// in their order; all other members tell reports apart, not PCs. It is the same before Sign, which cuts, and after Verify. It
// never travels: only digests that one version of this program made may be compared. Of a delta it says nothing.
func (r Report) Describes() Digest {
	r.clip()
	b, err := json.Marshal(description{
		r.Facts, r.Names, none(r.Addresses), r.Versions, none(r.Stores), r.Origin, r.Provisional, r.Pending, r.CopyOf,
		none(r.Observations), none(r.Replaced), none(r.Done), r.Placeholders, r.Settings,
	})
	if err != nil {
		panic(err) // strings, bools and hex: cannot fail
	}
	return sha256.Sum256(b)
}

// none makes an empty list a missing one.
func none[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// Delta is the report without what a full report, base, of the same epoch said of the PC already; it means "as the
// base said". It is for reports that describe the same as their base (Describes). Where there is more to say than a
// delta may, which is observations, replaced or done, ok is false and the report has to be a full one; so has one that
// enrols.
func (r Report) Delta(base Digest) (delta Report, ok bool) {
	if len(r.Observations)+len(r.Replaced)+len(r.Done) > 0 || r.Previous == (Digest{}) || base == (Digest{}) {
		return Report{}, false
	}
	return Report{
		Audience: r.Audience, HostID: r.HostID, SignKey: r.SignKey, SealKey: r.SealKey,
		Epoch: r.Epoch, EpochBy: r.EpochBy, Counter: r.Counter, Previous: r.Previous,
		Run: r.Run, AgeMS: r.AgeMS, Time: r.Time,
		Base: base,
		// So that the manager sees in every report whether this client has its list and its settings.
		Placeholders: r.Placeholders,
		Settings:     r.Settings,
		Relay:        r.Relay,
	}, true
}

// left are the members that a delta leaves out: it has none of them, not even an empty one.
var left = []string{
	"facts", "names", "addresses", "versions", "stores", "origin", "provisional", "pending", "copy_of",
	"observations", "replaced", "done",
}

// checkDelta refuses a delta that says more, or other, than that all is as its base said. Whether the base is a full
// report of this epoch is the registry's question.
func checkDelta(payload []byte, r Report, enrols bool) error {
	if r.Base == (Digest{}) {
		return nil
	}
	switch {
	case enrols:
		return errors.New("base: a report that enrols is a full one")
	case r.Previous == Digest{} || r.Counter == 1:
		return errors.New("base: the first report of an epoch is a full one")
	}
	for name := range members(payload) {
		if slices.Contains(left, string(name)) {
			return fmt.Errorf("base: a delta has no %q", name)
		}
	}
	return nil
}

// members are the names in an object, without those in the objects within. It is one that plainNames has let through.
func members(object []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		depth, name := 0, false // whether the next string is a name
		for i := 0; i < len(object); i++ {
			switch object[i] {
			case '{', '[':
				depth++
				name = depth == 1
			case '}', ']':
				depth--
			case ',':
				name = depth == 1
			case '"':
				start := i + 1
				for i++; object[i] != '"'; i++ {
					if object[i] == '\\' {
						i++
					}
				}
				if name && depth == 1 && !yield(object[start:i]) {
					return
				}
				name = false
			}
		}
	}
}

package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// Agreement is something that two assets may agree in.
type Agreement string

// What duplicates are found by.
const (
	InMAC  Agreement = "mac"  // of the onboard network interface, the permanent one
	InIP   Agreement = "ip"   // any that other machines can reach
	InName Agreement = "name" // the host name, in whatever case
)

// Agreements are all of them.
var Agreements = []Agreement{InMAC, InIP, InName}

// Duplicate is a pair of assets that agree in everything that was asked for, though their host IDs differ: most likely one PC,
// reinstalled without its host ID. It is a proposal; DecideDuplicate decides it. The meaning of its JSON names never changes.
type Duplicate struct {
	HostID     hostid.ID   `json:"host_id"` // of the asset that was made later
	Name       string      `json:"name"`
	State      State       `json:"state"`
	Other      hostid.ID   `json:"other_host_id"` // of the asset that was made earlier, which it would join
	OtherName  string      `json:"other_name"`
	OtherState State       `json:"other_state"`
	By         []Agreement `json:"by"`
	Values     []string    `json:"values"` // one for each of By
}

// manyShare is how many assets make a MAC say nothing: what three have, a dock or a virtual machine, no board has.
const manyShare = 3

// Duplicates returns the pairs of assets that agree in every one of by: each with the latest one before it, so that of five
// with one name there are four pairs. What is deleted or retired is left out, and pairs that an operator said are two.
// Placeholders, and MACs of three or more assets, are no agreement. It fails with ErrUnknown if by is empty or names nothing
// known.
func (r *Registry) Duplicates(ctx context.Context, by []Agreement) ([]Duplicate, error) {
	by = slices.Compact(slices.SortedFunc(slices.Values(by), compareAgreements))
	for _, a := range by {
		if !slices.Contains(Agreements, a) {
			return nil, fmt.Errorf("%q: %w; duplicates are found by mac, ip and name", a, ErrUnknown)
		}
	}
	if len(by) == 0 {
		return nil, fmt.Errorf("nothing to agree in: %w; duplicates are found by mac, ip and name", ErrUnknown)
	}
	assets, err := r.Assets(ctx)
	if err != nil {
		return nil, err
	}
	marks, err := readPlaceholders(ctx, r.readers)
	if err != nil {
		return nil, err
	}
	apart, err := r.saidToBeTwo(ctx)
	if err != nil {
		return nil, err
	}
	agrees := func(a AssetDetail) [][]string {
		var values [][]string
		for _, b := range by {
			values = append(values, agreeingIn(a, b, marks))
		}
		return values
	}
	shared := map[string]int{}
	for _, a := range assets {
		for _, mac := range agreeingIn(a, InMAC, marks) {
			shared[mac]++
		}
	}
	var all []Duplicate
	latest := map[string][]int{} // assets by what they agree in, one key for each combination of values
	for i, a := range assets {
		if a.State == Retired {
			continue
		}
		met := map[int]bool{}
		for _, values := range combinations(agrees(a)) {
			if m := slices.Index(by, InMAC); m >= 0 && shared[values[m]] >= manyShare {
				continue
			}
			key := strings.Join(values, " ")
			for _, j := range slices.Backward(latest[key]) {
				o := assets[j]
				if met[j] {
					break
				}
				if apart.any(a.HostIDs, o.HostIDs) {
					continue
				}
				met[j] = true
				all = append(all, Duplicate{HostID: a.HostID, Name: a.Name, State: a.State, Other: o.HostID, OtherName: o.Name, OtherState: o.State, By: by, Values: values})
				break // with the others that one is a pair itself
			}
			latest[key] = append(latest[key], i)
		}
	}
	return all, nil
}

// maxCombinations bounds what an asset with hundreds of addresses can make of them.
const maxCombinations = 64

// combinations are all ways to take one value of each list.
func combinations(lists [][]string) [][]string {
	all := [][]string{nil}
	for _, list := range lists {
		var longer [][]string
		for _, c := range all {
			for _, v := range list {
				if len(longer) < maxCombinations {
					longer = append(longer, append(slices.Clip(c), v))
				}
			}
		}
		all = longer
	}
	return all
}

// agreeingIn are the asset's values that count.
func agreeingIn(a AssetDetail, by Agreement, marks hardware.Placeholders) []string {
	values := map[string]bool{}
	switch by {
	case InMAC:
		if mac := a.Facts.EvidenceWithout(marks)[hostid.OnboardMAC]; mac != "" {
			values[mac] = true
		}
	case InName:
		if name, _ := assetName(a.Name); name != "" {
			values[name] = true
		}
	case InIP:
		for _, s := range a.Seen.Addresses {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			if ip = ip.Unmap().WithZone(""); !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
				values[ip.String()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(values))
}

// apartPairs are pairs of hosts that an operator said are two PCs.
type apartPairs map[string]bool

func (r *Registry) saidToBeTwo(ctx context.Context) (apartPairs, error) {
	all, err := scanAll(ctx, r.readers, scanText, `SELECT k.subject FROM kept_apart k JOIN resolutions r ON r.id = k.resolution
		WHERE k.kind IN ('duplicate', 'hosts') AND r.undone IS NULL`)
	pairs := apartPairs{}
	for _, s := range all {
		pairs[s] = true
	}
	return pairs, err
}

func (p apartPairs) any(a, b []hostid.ID) bool {
	if len(p) == 0 {
		return false
	}
	for _, x := range a {
		for _, y := range b {
			if p[hostPair(x, y)] {
				return true
			}
		}
	}
	return false
}

// ErrNoDuplicate says that two assets agree in nothing.
var ErrNoDuplicate = errors.New("these two agree in nothing; if they are one PC nevertheless, or one takes the other's place, use replace")

// DecideDuplicate decides that two assets which agree in something are one PC (Merge), or two (KeepBoth): a conflict about them is
// opened, decided and closed at once, since no PC has to be told anything; so it can be undone as any other. It fails with
// ErrUnknown, ErrState if they are one asset or one of them is deleted, ErrSucceeded, ErrNoDuplicate, ErrManyOpen, ErrVerb and as Resolve does.
func (r *Registry) DecideDuplicate(ctx context.Context, one, other hostid.ID, verb Verb, who string) (Resolution, error) {
	var id int64
	var conflictID int64
	err := r.decide(ctx, func(t *transaction) error {
		c, err := t.duplicateConflict(one, other)
		if err != nil {
			return err
		}
		conflictID = c.id
		id, err = t.resolve(c, verb, who, "")
		return err
	})
	if err != nil {
		return Resolution{}, err
	}
	all, err := r.resolutions(ctx, `WHERE r.id = $1`, id)
	if err != nil || len(all) == 0 {
		return Resolution{}, fmt.Errorf("resolution %d of conflict %d: %w", id, conflictID, errors.Join(err, ErrUnknown))
	}
	return all[0], nil
}

func (t *transaction) duplicateConflict(one, other hostid.ID) (c conflictRow, err error) {
	a, err := t.maintained(one)
	if err != nil {
		return c, err
	}
	b, err := t.maintained(other)
	if err != nil {
		return c, err
	}
	for _, x := range []maintainedAsset{a, b} {
		if x.state() == Deleted {
			return c, fmt.Errorf("asset %s: %w: it is deleted; restore it first", x.name, ErrState)
		}
	}
	if a.id == b.id {
		return c, fmt.Errorf("host IDs %s and %s: %w: they are one asset", one, other, ErrState)
	}
	if a.id < b.id { // it is about the later one
		a, b, one, other = b, a, other, one
	}
	x, err := t.asset(a.id)
	if err != nil {
		return c, err
	}
	y, err := t.asset(b.id)
	if err != nil {
		return c, err
	}
	var by, values []string
	for _, in := range Agreements {
		mine := agreeingIn(AssetDetail{Asset: Asset{Name: x.seen.Name, Seen: x.seen}, Facts: hardware.Facts(x.facts)}, in, t.placeholders)
		others := agreeingIn(AssetDetail{Asset: Asset{Name: y.seen.Name, Seen: y.seen}, Facts: hardware.Facts(y.facts)}, in, t.placeholders)
		if i := slices.IndexFunc(mine, func(v string) bool { return slices.Contains(others, v) }); i >= 0 {
			by, values = append(by, string(in)), append(values, mine[i])
		}
	}
	if len(by) == 0 {
		return c, fmt.Errorf("host IDs %s and %s: %w", one, other, ErrNoDuplicate)
	}
	subject := hostPair(one, other)
	o, err := t.openConflict(conflict{
		kind: "duplicate", subject: subject, asset: a.id, host: one, other: b.id, otherHost: other,
		evidence: map[string]any{"host": one, "name": x.seen.Name, "reported": x.facts, "other_host": other, "other_name": y.seen.Name, "known": y.facts,
			"by": strings.Join(by, ", "), "values": strings.Join(values, ", ")},
	})
	if err != nil {
		return c, err
	}
	if c, err = t.conflictRow(o.id); err == nil && c.subject != subject { // the bound on open conflicts
		err = fmt.Errorf("host ID %s: %w; decide those first", one, ErrManyOpen)
	}
	return c, err
}

// ErrManyOpen says that no further conflict about a host ID can be opened.
var ErrManyOpen = errors.New("too many conflicts about it are open")

func compareAgreements(a, b Agreement) int {
	return cmp.Compare(slices.Index(Agreements, a), slices.Index(Agreements, b))
}

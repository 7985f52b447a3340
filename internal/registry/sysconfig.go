package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

// Imported says what an import did. The meaning of its JSON names never changes.
type Imported struct {
	Added     int      `json:"added"`
	Changed   int      `json:"changed"`
	Unchanged int      `json:"unchanged"`
	LeftOut   int      `json:"left_out"` // lines that name no host, or one that an earlier line names
	Remarks   []string `json:"remarks"`  // a sentence about each of those, maxImportRemarks at most
}

// maxImportRemarks keeps the answer to a wrong file readable: whoever needs more of them has the file.
const maxImportRemarks = 20

// ImportSystemConfiguration takes the hosts of a system configuration information file into the registry: all of them, or
// none if it fails. Each is kept as the file states it, under its name (sysconfig.Entry.Key): one that is there already is
// replaced, and nothing is ever deleted. Of several lines with one name the first counts, as for dcmamtin. hosts is gone
// through twice, to check and to store; it must yield the same both times, as sysconfig.Read does. file and user
// (who does it, on the manager's system) are for the history, which tells of every import that changed something.
func (r *Registry) ImportSystemConfiguration(ctx context.Context, file, user string, hosts iter.Seq2[sysconfig.Entry, error]) (Imported, error) {
	done := Imported{Remarks: []string{}}
	lines := make(map[string]int) // of the line that counts
	for e, err := range hosts {
		if err != nil {
			return Imported{}, err
		}
		why := ""
		first, again := lines[e.Key()]
		switch {
		case e.Type == "" && !e.Target():
			why = "this names no host of a system configuration"
		case again:
			why = fmt.Sprintf("line %d names this host", first)
		default:
			lines[e.Key()] = e.Line
			continue
		}
		if done.LeftOut++; done.LeftOut <= maxImportRemarks {
			done.Remarks = append(done.Remarks, fmt.Sprintf("line %d (%s) is left out: %s", e.Line, e.Name, why))
		}
	}
	if more := done.LeftOut - maxImportRemarks; more > 0 {
		done.Remarks = append(done.Remarks, fmt.Sprintf("lines left out besides: %d", more))
	}
	err := r.write(ctx, func(t *transaction) error {
		done.Added, done.Changed, done.Unchanged = 0, 0, 0
		add, err := t.PrepareContext(ctx, `INSERT INTO system_configuration (host, entry, imported) VALUES ($1, $2, $3) ON CONFLICT (host) DO NOTHING`)
		if err != nil {
			return err
		}
		defer add.Close()
		change, err := t.PrepareContext(ctx, `UPDATE system_configuration SET entry = $1, imported = $2 WHERE host = $3 AND entry <> $1`)
		if err != nil {
			return err
		}
		defer change.Close()
		for e, err := range hosts {
			if err != nil {
				return err
			}
			key, text := e.Key(), toJSON(e)
			if lines[key] != e.Line {
				continue
			}
			res, err := add.ExecContext(ctx, key, text, millis(t.now))
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err == nil && n == 1 {
				done.Added++
				continue
			}
			if err == nil {
				res, err = change.ExecContext(ctx, text, millis(t.now), key)
			}
			if err == nil {
				n, err = res.RowsAffected()
			}
			if err != nil {
				return err
			}
			done.Changed += int(n)
			done.Unchanged += 1 - int(n)
		}
		if done.Added+done.Changed+done.Unchanged != len(lines) {
			return errors.New("the file changed while it was read; import it again when it is at rest")
		}
		if done.Added+done.Changed == 0 {
			return nil
		}
		return t.record(hostid.ID{}, "sysconfig-imported", map[string]any{
			"file": file, "user": user, "added": done.Added, "changed": done.Changed, "unchanged": done.Unchanged,
		})
	})
	if err != nil {
		return Imported{}, err
	}
	return done, nil
}

// importedHost is one row of what was imported.
type importedHost struct {
	sysconfig.Entry
	at time.Time
}

func scanImportedHost(scan func(...any) error) (h importedHost, err error) {
	var text string
	var at int64
	if err := scan(&text, &at); err != nil {
		return h, err
	}
	h.at = fromMillis(at)
	if err := json.Unmarshal([]byte(text), &h.Entry); err != nil {
		return h, fmt.Errorf("imported host: %w", err)
	}
	return h, nil
}

// importedHosts are all hosts that were imported, in the order in which they first were.
func (r *Registry) importedHosts(ctx context.Context) ([]importedHost, error) {
	return scanAll(ctx, r.readers, scanImportedHost, `SELECT entry, imported FROM system_configuration ORDER BY id`)
}

// SystemConfiguration returns the entries of a system configuration information file in that encoding, one per PC: the
// imported hosts in the order of their import, then the assets that are none of them, the oldest first.
//
// An imported host is an asset if its HID is one of the asset's host IDs, else if it has its name, else its full domain
// name, else the name of a PC whose place the asset's took. What is deleted, retired or archived does not stand there, nor does its
// line. What the asset knows (its name, address, host ID, MAC, last check-in, the relays on its way, that it is a relay) then goes before what the file
// said; what only the file said (aliases, TYPE, COMMENT, unknown operands, a ROOT through relays that are none of this manager's) stays.
//
// below leaves only that relay and what reports through it: the zero ID is the manager itself, with everything.
//
// No name stands twice, since dcmamtin would take both for one PC: of two assets with one name the one heard last keeps
// it. Whatever could not be entered as it is has a remark, one sentence: an asset whose name is taken or cannot be written
// stands under its host ID, an operand or alias that cannot be written is missing, and a host without a usable address
// or name is left out.
func (r *Registry) SystemConfiguration(ctx context.Context, enc sysconfig.Encoding, below hostid.ID) (entries []sysconfig.Entry, remarks []string, err error) {
	hosts, err := r.importedHosts(ctx)
	if err != nil {
		return nil, nil, err
	}
	assets, err := r.allAssets(ctx)
	if err != nil {
		return nil, nil, err
	}
	f := configurationFile{enc: enc, taken: make(map[string]bool), below: below, relays: make(map[hostid.ID]string), relayNames: make(map[string]bool)}
	m := matchHosts(hosts, assets)
	known := below.IsZero()
	for _, a := range assets {
		if a.Relay {
			known = known || slices.Contains(a.HostIDs, below)
			f.relayNames[sysconfig.HostKey(a.Name)] = true
		}
	}
	if !known {
		return nil, nil, fmt.Errorf("relay %s: %w", below, ErrUnknown)
	}
	// Names first: an asset goes before a host that is only known from a file.
	names := make([]string, len(assets))
	for _, a := range m.heard {
		h := (*sysconfig.Entry)(nil)
		if i := m.hostOf[a]; i >= 0 {
			h = &hosts[i].Entry
		}
		if !assets[a].State.Listed() {
			continue
		}
		names[a] = f.nameOf(assets[a], h)
	}
	for a, name := range names {
		if assets[a].Relay {
			for _, id := range assets[a].HostIDs {
				f.relays[id] = name
			}
		}
	}
	for i, h := range hosts {
		switch a := m.assetOf[i]; {
		case a >= 0 && !assets[a].State.Listed():
		case a < 0 && !f.isBelow(nil, h.Root): // of a host that never reported only the file says where it is
		case a < 0 && f.taken[h.Key()]:
			f.remark("host %s of an imported file is left out: an asset under another host ID has this name", h.Name)
		case a < 0:
			f.taken[h.Key()] = true
			f.add(h.Entry)
		case m.hostOf[a] == i:
			if h.Comment == "" {
				h.Comment = m.comments[a]
			}
			f.addAsset(assets[a], names[a], &h.Entry)
		} // else the same PC under a name that it had
	}
	for a := range assets {
		if m.hostOf[a] < 0 && assets[a].State.Listed() {
			f.addAsset(assets[a], names[a], nil)
		}
	}
	return f.entries, f.remarks, nil
}

// matching says which imported host is which asset, by their places; -1 for none.
type matching struct {
	assetOf []int // of each host; several may be one asset
	hostOf  []int // of each asset: the one whose words count
	heard   []int // the assets, those in sight first, the one heard last first

	comments map[int]string // of assets: what a line of the PC before said
}

func matchHosts(hosts []importedHost, assets []AssetDetail) matching {
	m := matching{slices.Repeat([]int{-1}, len(hosts)), slices.Repeat([]int{-1}, len(assets)), make([]int, len(assets)), map[int]string{}}
	owner := make(map[hostid.ID]int)
	before := make(map[hostid.ID]int) // host IDs of the PCs whose place the assets' took
	for a := range assets {
		m.heard[a] = a
		for _, h := range assets[a].Hosts {
			if h.Succeeded {
				before[h.HostID] = a
			} else {
				owner[h.HostID] = a
			}
		}
	}
	slices.SortStableFunc(m.heard, func(a, b int) int {
		return cmp.Or(inSight(assets[b])-inSight(assets[a]), assets[b].LastCheckin.Compare(assets[a].LastCheckin), cmp.Compare(a, b))
	})
	byName := make(map[string]int, len(hosts))
	for i, h := range hosts {
		byName[h.Key()] = i
		id, err := hostid.ParseID(strings.ToLower(h.HID))
		if err != nil {
			continue
		}
		a, known := owner[id]
		if !known {
			continue
		}
		m.assetOf[i] = a
		// A PC that was renamed may stand there under both names: the present one counts, else what was imported last.
		present := func(i int) bool { return hosts[i].Key() == sysconfig.HostKey(assets[a].Name) }
		if was := m.hostOf[a]; was < 0 || present(i) || !present(was) && !h.at.Before(hosts[was].at) {
			m.hostOf[a] = i
		}
	}
	for _, name := range []func(AssetDetail) string{
		func(a AssetDetail) string { return a.Name },
		func(a AssetDetail) string { return a.Seen.FQDN },
	} {
		for _, a := range m.heard {
			i, found := byName[sysconfig.HostKey(name(assets[a]))]
			if m.hostOf[a] < 0 && found && m.assetOf[i] < 0 {
				m.hostOf[a], m.assetOf[i] = i, a
			}
		}
	}
	take := func(a, i int) {
		if m.assetOf[i] >= 0 {
			return
		}
		if m.assetOf[i] = a; m.hostOf[a] < 0 {
			m.hostOf[a] = i
		}
		m.comments[a] = cmp.Or(m.comments[a], hosts[i].Comment)
	}
	for i, h := range hosts {
		if id, err := hostid.ParseID(strings.ToLower(h.HID)); err == nil && len(before) > 0 {
			if a, known := before[id]; known {
				take(a, i)
			}
		}
	}
	for _, a := range m.heard {
		for _, p := range assets[a].Predecessors {
			if i, found := byName[sysconfig.HostKey(p.Name)]; found {
				take(a, i)
			}
		}
	}
	return m
}

func inSight(a AssetDetail) int {
	if a.State.Listed() {
		return 1
	}
	return 0
}

// configurationFile collects what SystemConfiguration returns.
type configurationFile struct {
	enc   sysconfig.Encoding
	taken map[string]bool // names, by their keys

	below      hostid.ID
	relays     map[hostid.ID]string // the names that relays stand under
	relayNames map[string]bool      // by their keys

	entries []sysconfig.Entry
	remarks []string
}

func (f *configurationFile) remark(format string, args ...any) {
	f.remarks = append(f.remarks, fmt.Sprintf(format, args...))
}

// nameOf takes the name under which an asset stands. Where the file has the full domain name, it stays.
func (f *configurationFile) nameOf(a AssetDetail, h *sysconfig.Entry) string {
	name := a.Name
	if h != nil && a.Seen.FQDN != "" && h.Key() == sysconfig.HostKey(a.Seen.FQDN) {
		name = h.Name
	}
	key := sysconfig.HostKey(name)
	other, err := hostid.ParseID(key) // under it, that other one may have to stand
	switch {
	case sysconfig.Entry{Address: netip.IPv4Unspecified(), Name: name}.Writable(f.enc) != nil:
		f.remark("host ID %s stands under its host ID: its name %q cannot be written into such a file", a.HostID, name)
	case f.taken[key] || err == nil && other != a.HostID:
		f.remark("host ID %s stands under its host ID: its name %q is that of another PC too", a.HostID, name)
	default:
		f.taken[key] = true
		return name
	}
	f.taken[a.HostID.String()] = true
	return a.HostID.String()
}

// rootOf is the route to an asset as such a file writes it. What a file said stands where the asset reports to the manager
// itself, and the file's relays are none of this manager's.
func (f *configurationFile) rootOf(a AssetDetail, said string) string {
	var b strings.Builder
	for _, id := range a.Route {
		name := f.relays[id]
		if name == "" || strings.ContainsAny(name, `\,`) {
			name = id.String() // not listed any more, or not to be written there
		}
		b.WriteString(`\` + name)
	}
	if b.Len() > 0 {
		return b.String()
	}
	for name := range strings.SplitSeq(strings.Trim(said, `\`), `\`) {
		if f.relayNames[sysconfig.HostKey(name)] {
			return `\`
		}
	}
	return cmp.Or(said, `\`)
}

// isBelow reports whether a host belongs into the file: by its asset, or by what a file said of its route.
func (f *configurationFile) isBelow(a *AssetDetail, root string) bool {
	switch {
	case f.below.IsZero():
		return true
	case a != nil:
		return slices.Contains(a.HostIDs, f.below) || slices.Contains(a.Route, f.below)
	}
	name := f.relays[f.below]
	return name != "" && slices.ContainsFunc(strings.Split(root, `\`), func(n string) bool { return sysconfig.HostKey(n) == sysconfig.HostKey(name) })
}

// addAsset enters an asset; h is what a file said about it, nil if none did.
func (f *configurationFile) addAsset(a AssetDetail, name string, h *sysconfig.Entry) {
	if !f.isBelow(&a, "") {
		return
	}
	e := sysconfig.Entry{Type: sysconfig.Client}
	if h != nil {
		e = *h
		e.Type = cmp.Or(e.Type, sysconfig.Client)
	}
	if e.Root = f.rootOf(a, e.Root); a.Relay {
		e.Type = sysconfig.Relay
	}
	e.Name, e.HID = name, a.HostID.String()
	if address, ok := sysconfig.BestAddress(a.Seen.Addresses); ok {
		e.Address = address
	}
	if !e.Address.IsValid() {
		f.remark("host ID %s (%s) is left out: it has reported no address", a.HostID, a.Name)
		return
	}
	e.MAC = cmp.Or(hardware.Facts(a.Facts).Evidence()[hostid.OnboardMAC], e.MAC)
	if !a.LastCheckin.IsZero() {
		e.Date = a.LastCheckin.Local().Format(sysconfig.DateLayout)
	}
	f.add(e)
}

// add enters what of an entry can be written.
func (f *configurationFile) add(e sysconfig.Entry) {
	name := e.Name
	e, without, err := e.Fit(f.enc)
	for _, field := range without {
		f.remark("host %s stands without its %s: %v", name, field.Field, field.Err)
	}
	if err != nil {
		f.remark("host %s is left out: %v", name, err)
		return
	}
	f.entries = append(f.entries, e)
}

package relay

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
	"samehost/internal/sysconfig"
)

const (
	subtreeFile    = "subtree.json"
	subtreeVersion = 1
	maxSubtree     = 64 << 20 // bytes of the file
	maxHosts       = 100_000  // beyond it the longest silent tenth is forgotten
	forgetHost     = 90 * 24 * time.Hour
	maxEpochs      = 4 // of one host, of which it is known how far they went

	// The file is written so soon after something changed, and so soon after hosts were heard that are as they were; for each
	// host in it a millisecond later, so that a large one does not keep the disk busy.
	saveChanged = 5 * time.Second
	saveHeard   = time.Minute
	saveHost    = time.Millisecond
)

// ErrNewerSubtree says that a later version wrote the file.
var ErrNewerSubtree = errors.New("a later version of samehost-relay wrote it: use that one")

// host is what the relay knows of one host below it. Its JSON names never change their meaning.
type host struct {
	HostID  hostid.ID   `json:"host_id"`
	Client  []byte      `json:"client"`        // host ID and key in one: who may say something about it
	Name    string      `json:"name"`          // as it calls itself
	Address netip.Addr  `json:"address"`       // the one that others reach it by; zero: none was reported
	MAC     string      `json:"mac,omitempty"` // of the adapter on its board
	Relay   bool        `json:"relay,omitempty"`
	Way     []hostid.ID `json:"way,omitempty"` // the relays between, its own first
	Last    int64       `json:"last_ms"`       // when it was heard last, ms since 1970

	Epochs []epochSeen `json:"epochs,omitempty"` // the one heard last at the end
}

// epochSeen is how far an epoch of a host went: what was said in it before is older than what is known.
type epochSeen struct {
	Epoch   checkin.Token `json:"epoch"`
	Counter uint64        `json:"counter"`
}

// news reports whether a report was made after all that were heard of its epoch, and takes note of it. Whoever passed reports on can send
// them again, and the manager answers them as before; each is signed with its place in its epoch. Of an epoch that was never heard here
// nothing is known: one that ended before this relay knew the host is taken for a new one, until the host's next full report.
func (h *host) news(r checkin.Report) bool {
	i := slices.IndexFunc(h.Epochs, func(e epochSeen) bool { return e.Epoch == r.Epoch })
	if i >= 0 && r.Counter <= h.Epochs[i].Counter {
		return false
	}
	was := h.Epochs
	h.Epochs = make([]epochSeen, 0, maxEpochs)
	for j, e := range was {
		if j != i {
			h.Epochs = append(h.Epochs, e)
		}
	}
	if over := len(h.Epochs) - (maxEpochs - 1); over > 0 {
		h.Epochs = h.Epochs[over:]
	}
	h.Epochs = append(h.Epochs, epochSeen{r.Epoch, r.Counter})
	return true
}

// subtreeText is the file.
type subtreeText struct {
	Version int    `json:"version"`
	Own     host   `json:"own"` // the relay itself
	Hosts   []host `json:"hosts"`
}

// subtree is what the relay knows of the hosts below it: those that the manager has accepted, from what they said themselves.
// Losing it does no harm: a host says everything anew once a day.
type subtree struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	own     host
	hosts   map[client]host
	saved   time.Time
	heard   bool // since it was saved
	changed bool // more than that
	broken  bool // the file is a later version's, and left alone
}

func loadSubtree(dir string, id hostid.ID, log *slog.Logger) *subtree {
	t := &subtree{path: filepath.Join(dir, subtreeFile), log: log, hosts: map[client]host{}, changed: true}
	text, err := readSubtree(dir)
	switch {
	case errors.Is(err, ErrNewerSubtree):
		t.broken = true
		fallthrough
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		log.Warn("what is known of the hosts below cannot be read; it is learnt anew", "error", err)
	}
	for _, h := range text.Hosts {
		t.hosts[client(h.Client)] = h
	}
	if t.own = text.Own; t.own.HostID != id {
		t.own = host{HostID: id, Relay: true}
	}
	return t
}

// readSubtree reads the file of a data folder.
func readSubtree(dir string) (text subtreeText, err error) {
	path := filepath.Join(dir, subtreeFile)
	b, err := hostid.ReadRegularFile(path, maxSubtree)
	if err != nil {
		return text, err
	}
	if err := json.Unmarshal(b, &text); err != nil || text.Version < 1 {
		return subtreeText{}, fmt.Errorf("%s: %w", path, hostid.ErrCorrupt)
	}
	if text.Version > subtreeVersion {
		return subtreeText{}, fmt.Errorf("%s: %w", path, ErrNewerSubtree)
	}
	text.Hosts = slices.DeleteFunc(text.Hosts, func(h host) bool { return len(h.Client) != len(client{}) || h.HostID.IsZero() })
	return text, nil
}

// describe is what a full report says of its host.
func describe(v checkin.VerifiedReport, hops []checkin.Hop) host {
	who := clientOf(v)
	h := host{HostID: v.Report.HostID, Client: who[:], Name: cmp.Or(v.Report.Names.Host, v.Report.Names.FQDN), Relay: v.Report.Relay != nil,
		MAC: v.Report.Facts.Evidence()[hostid.OnboardMAC]}
	h.Address, _ = sysconfig.BestAddress(v.Report.Addresses)
	for _, hop := range hops {
		h.Way = append(h.Way, hop.Relay)
	}
	return h
}

// note takes what a report says that is newer than what is known: a delta says that all is as it was, and only the way may be another.
func (t *subtree) note(v checkin.VerifiedReport, hops []checkin.Hop, received time.Time) {
	h := describe(v, hops)
	t.mu.Lock()
	defer t.mu.Unlock()
	is, known := t.hosts[client(h.Client)]
	if v.Report.Base != (checkin.Digest{}) {
		if !known {
			return
		}
		way := h.Way
		h = is
		h.Way = way
	}
	h.Epochs = is.Epochs
	if !h.news(v.Report) {
		return
	}
	h.Last = max(is.Last, received.UnixMilli())
	t.heard = true
	t.changed = t.changed || !known || !is.same(h)
	t.hosts[client(h.Client)] = h
	if len(t.hosts) > maxHosts {
		t.forget(len(t.hosts) / 10)
	}
}

// noteOwn takes what the relay's own report says; that of a relay with another host ID does not count.
func (r *Relay) noteOwn(h host) {
	if h.HostID != r.o.HostID {
		return
	}
	h.Relay = true
	t := r.subtree
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard, t.changed = true, t.changed || !t.own.same(h)
	t.own = h
}

func (t *subtree) has(who client) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.hosts[who]
	return ok
}

// same leaves out when it was heard.
func (h host) same(o host) bool {
	return h.HostID == o.HostID && h.Name == o.Name && h.Address == o.Address && h.MAC == o.MAC && h.Relay == o.Relay && slices.Equal(h.Way, o.Way)
}

// forget drops the n hosts that were silent for longest.
func (t *subtree) forget(n int) {
	for _, h := range t.sorted()[:n] {
		delete(t.hosts, client(h.Client))
	}
	t.changed = true
}

// sorted are the hosts, the one heard last at the end.
func (t *subtree) sorted() []host {
	all := make([]host, 0, len(t.hosts))
	for _, h := range t.hosts {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b host) int { return cmp.Or(cmp.Compare(a.Last, b.Last), slices.Compare(a.Client, b.Client)) })
	return all
}

// save makes it durable where that is due, or where anything is new if it is the last time.
func (t *subtree) save(now time.Time, last bool) error {
	t.mu.Lock()
	after := saveHeard
	if t.changed {
		after = saveChanged
	}
	after += time.Duration(len(t.hosts)) * saveHost
	if since := now.Sub(t.saved); t.broken || !t.heard && !t.changed || !last && since >= 0 && since < after {
		t.mu.Unlock()
		return nil
	}
	for who, h := range t.hosts {
		if now.Sub(time.UnixMilli(h.Last)) > forgetHost {
			delete(t.hosts, who)
		}
	}
	text := subtreeText{Version: subtreeVersion, Own: t.own, Hosts: t.sorted()}
	t.saved, t.heard, t.changed = now, false, false
	t.mu.Unlock()
	b, err := json.Marshal(text)
	for err == nil && len(b) > maxSubtree {
		text.Hosts = text.Hosts[(len(text.Hosts)+9)/10:]
		b, err = json.Marshal(text)
	}
	if err == nil {
		err = hostid.WriteFileDurably(t.path, append(b, '\n'))
	}
	if err != nil {
		t.mu.Lock()
		t.changed = true
		t.mu.Unlock()
		return fmt.Errorf("what is known of the hosts below: %w", err)
	}
	return nil
}

// SaveSubtree makes durable what is known of the hosts below, where it is due: a few seconds after something changed, a minute
// after hosts were heard.
func (r *Relay) SaveSubtree() error { return r.subtree.save(r.o.Wall(), false) }

// SystemConfiguration returns the entries of a system configuration information file in that encoding: the relay of a data
// folder, and the hosts below it as they said themselves, also while the relay works there; what is new may take some seconds
// to stand there. It fails with fs.ErrNotExist where no relay has worked yet.
//
// ROOT begins at this relay: `\` for itself, `\NAME` with its name for what reports to it, `\NAME\LOWER` for what reports
// through a lower relay. What is above this relay it does not know.
//
// No name stands twice: of two hosts with one name the one heard last keeps it, and the other stands under its host ID; of one
// PC under two host IDs (same name and board) only the one heard last stands there. What could not be entered as it is has a remark.
func SystemConfiguration(dataDir string, enc sysconfig.Encoding) (entries []sysconfig.Entry, remarks []string, err error) {
	text, err := readSubtree(dataDir)
	if err != nil {
		return nil, nil, err
	}
	remark := func(format string, args ...any) { remarks = append(remarks, fmt.Sprintf(format, args...)) }
	all := append(text.Hosts, text.Own)
	// The relay itself first, then the hosts, the one heard last first.
	slices.Reverse(all)
	slices.SortStableFunc(all[1:], func(a, b host) int { return cmp.Compare(b.Last, a.Last) })
	type pc struct{ name, mac string }
	names, taken := map[hostid.ID]string{}, map[string]bool{}
	seen := map[pc]hostid.ID{}
	relays := map[hostid.ID]bool{text.Own.HostID: true}
	var stand []host
	for _, h := range all {
		for _, id := range h.Way {
			relays[id] = true
		}
		if _, again := names[h.HostID]; again {
			continue // under another key, before
		}
		key := sysconfig.HostKey(h.Name)
		if is := (pc{key, h.MAC}); h.Name != "" && h.MAC != "" {
			if other, again := seen[is]; again {
				remark("host ID %s is left out: it is the PC %s, which has host ID %s by now", h.HostID, h.Name, other)
				continue
			}
			seen[is] = h.HostID
		}
		name := h.Name
		other, err := hostid.ParseID(key)
		switch {
		case name == "" || (sysconfig.Entry{Address: netip.IPv4Unspecified(), Name: name}).Writable(enc) != nil:
			remark("host ID %s stands under its host ID: its name %q cannot be written into such a file", h.HostID, h.Name)
			name = h.HostID.String()
		case taken[key] || err == nil && other != h.HostID:
			remark("host ID %s stands under its host ID: its name %q is that of another PC too", h.HostID, h.Name)
			name = h.HostID.String()
		}
		taken[sysconfig.HostKey(name)] = true
		names[h.HostID] = name
		stand = append(stand, h)
	}
	slices.SortStableFunc(stand[1:], func(a, b host) int { return strings.Compare(names[a.HostID], names[b.HostID]) })
	for i, h := range stand {
		if !h.Address.IsValid() {
			remark("host ID %s (%s) is left out: it has reported no address", h.HostID, names[h.HostID])
			continue
		}
		e := sysconfig.Entry{Address: h.Address, Name: names[h.HostID], HID: h.HostID.String(), Type: sysconfig.Client, MAC: h.MAC, Root: `\`}
		if h.Relay || relays[h.HostID] {
			e.Type = sysconfig.Relay
		}
		if h.Last > 0 {
			e.Date = time.UnixMilli(h.Last).Local().Format(sysconfig.DateLayout)
		}
		if i > 0 {
			e.Root = rootThrough(append(slices.Clone(h.Way), text.Own.HostID), names)
		}
		e, without, err := e.Fit(enc)
		for _, field := range without {
			remark("host %s stands without its %s: %v", names[h.HostID], field.Field, field.Err)
		}
		if err != nil {
			remark("host %s is left out: %v", names[h.HostID], err)
			continue
		}
		entries = append(entries, e)
	}
	return entries, remarks, nil
}

// rootThrough writes a way, the host's own relay first, as such a file does.
func rootThrough(way []hostid.ID, names map[hostid.ID]string) string {
	var b strings.Builder
	for _, id := range slices.Backward(way) {
		name := names[id]
		if name == "" || strings.ContainsAny(name, `\,`) {
			name = id.String()
		}
		b.WriteString(`\` + name)
	}
	return b.String()
}

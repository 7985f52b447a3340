package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

const (
	spoolFolder = "spool"
	clientsFile = "clients.bin"
	maxClients  = 200_000 // that are remembered; beyond it the longest silent tenth is forgotten
	clientsHead = 8       // magic and checksum
)

var clientsMagic = []byte("SHC1")

func spoolDir(dataDir string) string { return filepath.Join(dataDir, spoolFolder) }

// clients are those that the manager has answered through this relay, with the day of its last answer. Losing them does no
// harm: its next answer brings each back.
type clients struct {
	path    string
	days    map[client]uint32 // since 1970
	changed bool              // since the last call of bytes
	added   bool              // a new one
}

func loadClients(dir string, log *slog.Logger) (*clients, error) {
	c := &clients{path: filepath.Join(dir, clientsFile), days: map[client]uint32{}}
	b, err := hostid.ReadRegularFile(c.path, clientsHead+20*maxClients)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil && !errors.Is(err, hostid.ErrCorrupt):
		return nil, err
	case err != nil || len(b) < clientsHead || (len(b)-clientsHead)%20 != 0 || !slices.Equal(b[:4], clientsMagic) ||
		crc32.Checksum(b[clientsHead:], castagnoli) != binary.BigEndian.Uint32(b[4:]):
		log.Warn("the list of known clients cannot be read; it is made anew", "file", c.path)
		return c, nil
	}
	for b = b[clientsHead:]; len(b) > 0; b = b[20:] {
		c.days[client(b[:16])] = binary.BigEndian.Uint32(b[16:])
	}
	return c, nil
}

func (c *clients) has(who client) bool {
	_, ok := c.days[who]
	return ok
}

func (c *clients) add(who client, now time.Time) {
	day := uint32(max(0, now.Unix()/86400))
	if c.days[who] == day {
		return
	}
	c.added = c.added || !c.has(who)
	c.days[who], c.changed = day, true
	if len(c.days) <= maxClients {
		return
	}
	days := make([]uint32, 0, len(c.days))
	for _, d := range c.days {
		days = append(days, d)
	}
	slices.Sort(days)
	limit, n := days[len(days)/10], 0
	for w, d := range c.days {
		if d <= limit && n < len(days)/10 && w != who {
			delete(c.days, w)
			n++
		}
	}
}

// bytes is the file, nil if nothing changed since the last call.
func (c *clients) bytes() []byte {
	if !c.changed {
		return nil
	}
	c.changed, c.added = false, false
	b := append(slices.Clone(clientsMagic), 0, 0, 0, 0)
	for w, d := range c.days {
		b = binary.BigEndian.AppendUint32(append(b, w[:]...), d)
	}
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[clientsHead:], castagnoli))
	return b
}

// write makes what bytes returned durable.
func (c *clients) write(b []byte) error {
	if b == nil {
		return nil
	}
	if err := hostid.WriteFileDurably(c.path, b); err != nil {
		return fmt.Errorf("list of known clients: %w", err)
	}
	return nil
}

// lateReplies are those that nobody waited for any more, one for each client, the oldest given up beyond the bounds. A
// client that sends its report again gets it all the same: the manager answers it as before.
type lateReplies struct {
	of    map[client]checkin.LateReply
	order []client
	bytes int
}

func (l *lateReplies) put(who client, r checkin.LateReply) {
	if l.of == nil {
		l.of = map[client]checkin.LateReply{}
	}
	if old, ok := l.of[who]; ok {
		l.bytes -= len(old.Raw)
	} else {
		l.order = append(l.order, who)
	}
	l.of[who] = r
	l.bytes += len(r.Raw)
	for len(l.order) > maxLate || l.bytes > maxLateBytes {
		first := l.order[0]
		l.order = l.order[1:]
		l.bytes -= len(l.of[first].Raw)
		delete(l.of, first)
	}
}

// take is the late reply to the report before this one, nil if there is none. It is given once.
func (l *lateReplies) take(who client, previous checkin.Digest) *checkin.LateReply {
	r, ok := l.of[who]
	if !ok || r.Report != previous {
		return nil
	}
	delete(l.of, who)
	l.bytes -= len(r.Raw)
	l.order = slices.DeleteFunc(l.order, func(c client) bool { return c == who })
	return &r
}

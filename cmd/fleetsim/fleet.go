package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// A client is one simulated PC, as small as can be: everything that does not change follows from the seed and its number.
// Whoever has set busy owns it.
type client struct {
	busy atomic.Bool

	enrolled bool // a report was accepted, or taken into a relay's keeping
	keyed    bool // key and seal are there

	key   [ed25519.PrivateKeySize]byte
	seal  [32]byte
	epoch checkin.Token

	counter  uint64         // of the last report that was accepted or deferred
	previous checkin.Digest // and its digest
	base     checkin.Digest // the last full one of this run that was accepted; zero: the next is full

	pending report   // sent, or about to be, and not yet answered: it is sent again unchanged
	ready   []report // signed ahead; they follow one another
}

// A report is a signed report on its way.
type report struct {
	jws  string
	full bool
}

// A fleet is all simulated clients.
type fleet struct {
	seed    uint64
	token   checkin.EnrolmentToken
	version string
	full    bool // no deltas

	began   time.Time // the run of every client
	clients []client

	placeholders sync.Map // a manager's list of placeholders as it travels -> its digest
	placed       atomic.Pointer[string]
}

func newFleet(seed uint64, n int, token checkin.EnrolmentToken) *fleet {
	f := &fleet{seed: seed, token: token, version: version, began: time.Now(), clients: make([]client, n)}
	f.placed.Store(new(string))
	return f
}

// derived is the same for the same seed, client and purpose.
func (f *fleet) derived(i int, purpose string) [32]byte {
	b := binary.BigEndian.AppendUint64(nil, f.seed)
	b = binary.BigEndian.AppendUint64(b, uint64(i))
	return sha256.Sum256(append(b, purpose...))
}

func (f *fleet) hostID(i int) (id hostid.ID) {
	d := f.derived(i, "host ID")
	copy(id[:], d[:])
	return id
}

// run is the client's run: that of all began at the same moment.
func (f *fleet) run(i int) (t checkin.Token) {
	d := f.derived(i, "run"+f.moment())
	copy(t[:], d[:])
	return t
}

func (f *fleet) moment() string { return f.began.UTC().Format(time.RFC3339Nano) }

// makeKeys derives a client's keys from its seed as the real client does; it takes a tenth of a millisecond.
func (f *fleet) makeKeys(i int) {
	c := &f.clients[i]
	if c.keyed {
		return
	}
	seed := hostid.Seed(f.derived(i, "seed"))
	copy(c.key[:], seed.SigningKey())
	copy(c.seal[:], seed.SealingKey().PublicKey().Bytes())
	if c.epoch == (checkin.Token{}) {
		d := f.derived(i, "epoch"+f.moment()) // without its state, a client is a reinstalled one
		copy(c.epoch[:], d[:])
	}
	c.keyed = true
}

// next makes the report that follows the last one: at that time after the run began, by the chain in the arguments.
func (f *fleet) next(i int, counter uint64, previous, base checkin.Digest, at time.Duration) (report, error) {
	c := &f.clients[i]
	r := checkin.Report{
		Audience: f.token.Manager,
		HostID:   f.hostID(i),
		SignKey:  c.key[32:],
		SealKey:  c.seal[:],
		Epoch:    c.epoch,
		EpochBy:  checkin.EpochInstall,
		Counter:  counter,
		Previous: previous,
		Run:      f.run(i),
		AgeMS:    uint64(max(0, at).Milliseconds()),
		Time:     f.began.Add(at).UTC().Format(time.RFC3339),

		Placeholders: *f.placed.Load(),
	}
	var enrol *checkin.EnrolmentToken
	if !c.enrolled && counter == 1 {
		enrol = &f.token
	}
	delta, ok := r.Delta(base)
	if ok = ok && !f.full && enrol == nil; ok {
		r = delta
	} else {
		f.describe(i, &r)
	}
	signed, err := checkin.Sign(r, c.key[:], enrol)
	return report{signed.JWS, !ok}, err
}

// describe adds what a full report says of the PC: the hardware of office PCs, each with serial numbers of its own.
func (f *fleet) describe(i int, r *checkin.Report) {
	m := models[i%len(models)]
	d := f.derived(i, "hardware")
	random := rand.New(rand.NewPCG(binary.BigEndian.Uint64(d[:]), binary.BigEndian.Uint64(d[8:])))
	serial := func(n int) string {
		const letters = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
		var b strings.Builder
		for range n {
			b.WriteByte(letters[random.IntN(len(letters))])
		}
		return b.String()
	}
	mac := func(vendor string) string {
		return fmt.Sprintf("%s-%02x-%02x-%02x", vendor, random.IntN(256), random.IntN(256), random.IntN(256))
	}
	system := serial(m.serial)
	uuid := hex.EncodeToString(d[16:32])
	r.Facts = hardware.Facts{
		SystemUUID:    uuid[:8] + "-" + uuid[8:12] + "-4" + uuid[13:16] + "-a" + uuid[17:20] + "-" + uuid[20:],
		SystemSerial:  system,
		BoardSerial:   m.board + serial(m.serial+4),
		ChassisSerial: system,
		Disks:         []hardware.Disk{{Serial: m.disk + serial(12), System: true}},
		NICs:          []hardware.NIC{{MAC: mac(m.mac), Permanent: true, Onboard: true}},
		SMBIOSAMT:     true,
	}
	if m.wireless != "" {
		r.Facts.NICs = append(r.Facts.NICs, hardware.NIC{MAC: mac(m.wireless), Permanent: true})
	}
	if m.tpm {
		ek := f.derived(i, "endorsement key")
		r.Facts.TPMEKSHA256 = hex.EncodeToString(ek[:])
	}
	host := fmt.Sprintf("sim-%08x-%06d", uint32(f.seed), i+1)
	r.Names = checkin.Names{Host: host, FQDN: host + ".fleet.example"}
	r.Addresses = []string{fmt.Sprintf("10.%d.%d.%d", i>>16&0xff, i>>8&0xff, i&0xff)}
	r.Versions = checkin.Versions{Client: f.version, OS: m.os}
	r.Stores = []checkin.StoreState{{Name: "amt", State: "stored"}}
	r.Origin = hostid.Generated
}

// models are the kinds of PC: how long serial numbers are, what they begin with, and who made the interfaces.
var models = []struct {
	serial        int
	board, disk   string
	mac, wireless string
	tpm           bool
	os            string
}{
	{7, "/CN7", "S4EVNX0", "d8-9e-f3", "", true, "Windows 11 Pro 24H2"},
	{10, "PFN", "WD-WX", "54-e1-ad", "3c-6a-a7", true, "Windows 11 Enterprise 24H2"},
	{8, "L1HF", "50026B", "98-fa-9b", "a4-c3-f0", true, "Windows 10 Enterprise LTSC 2021"},
	{12, "DMK", "BTNH", "00-23-24", "", false, "Debian GNU/Linux 12"},
}

// prepare makes the client's next report, unless one waits to be sent again.
func (f *fleet) prepare(i int) error {
	c := &f.clients[i]
	if c.pending.jws != "" {
		return nil
	}
	if len(c.ready) > 0 {
		c.pending, c.ready = c.ready[0], c.ready[1:]
		return nil
	}
	f.makeKeys(i)
	var err error
	c.pending, err = f.next(i, c.counter+1, c.previous, c.base, time.Since(f.began))
	return err
}

// signAhead signs the client's next reports, one for each of these times after the run began.
func (f *fleet) signAhead(i int, at []time.Duration) error {
	c := &f.clients[i]
	f.makeKeys(i)
	counter, previous, base := c.counter, c.previous, c.base
	c.ready = make([]report, 0, len(at))
	for _, at := range at {
		counter++
		r, err := f.next(i, counter, previous, base, at)
		if err != nil {
			return err
		}
		previous = checkin.SignedReport{JWS: r.jws}.Digest()
		if r.full {
			base = previous
		}
		c.ready = append(c.ready, r)
	}
	return nil
}

// taken moves the chain on: the pending report was accepted, or is in a relay's keeping.
func (c *client) taken(digest checkin.Digest, word checkin.ReplyStatus) {
	c.counter++
	c.previous = digest
	if c.pending.full && word == checkin.Accepted {
		c.base = digest
	}
	c.enrolled, c.pending = true, report{}
}

// refused drops the pending report: it never happened, and another takes its place in the chain.
func (c *client) refused() { c.pending, c.ready = report{}, nil }

// follow does what a reply to the last report asks for, as far as a simulated client does it: a full report after an order,
// and the manager's list of values that prove nothing. It returns the kinds of all orders.
func (f *fleet) follow(i int, reply checkin.Reply) []checkin.OrderKind {
	c := &f.clients[i]
	var kinds []checkin.OrderKind
	for _, o := range reply.Orders {
		kinds = append(kinds, o.Kind)
		c.base, c.ready = checkin.Digest{}, nil // as the agent: whoever orders wants to see what comes of it
	}
	if reply.Placeholders == "" {
		return kinds
	}
	digest, known := f.placeholders.Load(reply.Placeholders)
	if !known {
		list, err := hardware.ParsePlaceholders(strings.NewReader(reply.Placeholders))
		if err != nil {
			return kinds // a list that cannot be read is not adopted
		}
		text := list.Digest()
		digest, _ = f.placeholders.LoadOrStore(reply.Placeholders, &text)
	}
	f.placed.Store(digest.(*string))
	c.ready = nil
	return kinds
}

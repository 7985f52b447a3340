package hostid

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// vector is one entry of testdata/record-v1.json. The file is written once and never again: records in flash
// outlive every release, so a test that no longer matches it has found a break of the format.
type vector struct {
	Name     string            `json:"name"`
	Sequence uint64            `json:"sequence"`
	HostID   ID                `json:"host_id"`
	Seed     string            `json:"seed"`
	Sign     string            `json:"signing_public_key"`
	Seal     string            `json:"sealing_public_key"`
	Facts    map[string]string `json:"facts"`
	Digests  map[string]string `json:"digests"`
	Issued   time.Time         `json:"issued"`
	Local    vectorMarks       `json:"local"`
	Frame    string            `json:"frame"`
}

type vectorMarks struct { // Local, with names for JSON
	Fresh       bool   `json:"fresh,omitzero"`
	Stored      bool   `json:"stored,omitzero"`
	Provisional bool   `json:"provisional,omitzero"`
	Pending     bool   `json:"pending,omitzero"`
	CopyOf      ID     `json:"copy_of,omitzero"`
	DropFor     ID     `json:"drop_for,omitzero"`
	Origin      Origin `json:"origin,omitzero"`
}

var writeVectors = flag.Bool("write-vectors", false, "write testdata/record-v1.json anew; only before the first release")

func vectorRecords() []vector {
	seq := func(from byte, n int) (b []byte) {
		for i := range n {
			b = append(b, from+byte(i))
		}
		return b
	}
	id := ID(seq(0x10, 16))
	seed := hex.EncodeToString(seq(0x80, 32))
	issued := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	facts := map[string]string{
		"system_uuid": "4c4c4544-0042-3510-8052-b4c04f4d3132", "board_serial": "/1B5RM12/CN129633CA0085/",
		"onboard_mac": "D4-BE-D9-11-22-33", "system_serial": "1B5RM12", "chassis_serial": "1B5RM12",
		"disk_serial": "S2BBNX0H600123", "tpm_ek_sha256": strings.Repeat("ab", 32),
	}
	return []vector{
		{Name: "memory on the board, nothing known", Sequence: 1, HostID: id, Seed: seed, Issued: issued},
		{Name: "file with every field", Sequence: 1<<64 - 1, HostID: id, Seed: seed, Issued: issued, Facts: facts, Local: vectorMarks{
			Fresh: true, Stored: true, Provisional: true, Pending: true,
			CopyOf: ID(seq(0x30, 16)), DropFor: ID(seq(0x50, 16)), Origin: Restored,
		}},
		{Name: "memory on the board, two facts", Sequence: 258, HostID: id, Seed: seed, Issued: issued, Facts: map[string]string{
			"board_serial": "PF-0815", "onboard_mac": "D4-BE-D9-11-22-33",
		}},
	}
}

func (v vector) evidence(t *testing.T) (e Evidence) {
	for name, value := range v.Facts {
		i := indexOf(factNames[:], name)
		if i < 0 {
			t.Fatalf("no fact %q", name)
		}
		e[i] = value
	}
	return e
}

func indexOf(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

func (v vector) record(t *testing.T) Record {
	seed, err := hex.DecodeString(v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	return Record{HostID: v.HostID, Seed: Seed(seed), Issued: v.Issued, Facts: v.evidence(t).Facts(v.HostID), Local: Local(v.Local)}
}

// complete fills in what the code computes.
func (v vector) complete(t *testing.T) vector {
	r := v.record(t)
	v.Sign = hex.EncodeToString(r.Seed.SigningKey()[32:])
	v.Seal = hex.EncodeToString(r.Seed.SealingKey().PublicKey().Bytes())
	v.Digests = map[string]string{}
	for i, d := range r.Facts {
		if d != (Digest{}) {
			v.Digests[Fact(i).String()] = hex.EncodeToString(d[:])
		}
	}
	frame, err := EncodeFrame(v.Sequence, r)
	if err != nil {
		t.Fatal(err)
	}
	v.Frame = hex.EncodeToString(frame)
	return v
}

func TestRecordVectors(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "record-v1.json")
	if *writeVectors {
		var all []vector
		for _, v := range vectorRecords() {
			all = append(all, v.complete(t))
		}
		b, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var stored []vector
	if err := json.Unmarshal(b, &stored); err != nil {
		t.Fatal(err)
	}
	if len(stored) < 3 {
		t.Fatalf("%d vectors, want at least 3", len(stored))
	}
	for _, v := range stored {
		t.Run(v.Name, func(t *testing.T) {
			if diff := cmp.Diff(v, v.complete(t)); diff != "" {
				t.Errorf("the format has changed (-stored +now):\n%s", diff)
			}
			frame, err := hex.DecodeString(v.Frame)
			if err != nil {
				t.Fatal(err)
			}
			seq, r, err := DecodeFrame(frame)
			if err != nil {
				t.Fatal(err)
			}
			if seq != v.Sequence {
				t.Errorf("sequence %d, want %d", seq, v.Sequence)
			}
			if diff := cmp.Diff(v.record(t), r); diff != "" {
				t.Errorf("decoded record (-want +got):\n%s", diff)
			}
		})
	}
}

// records draws any record that can be encoded.
func records(t *rapid.T) Record {
	var r Record
	fill := func(b []byte, label string) {
		copy(b, rapid.SliceOfN(rapid.Byte(), len(b), len(b)).Draw(t, label))
	}
	fill(r.HostID[:], "id")
	fill(r.Seed[:], "seed")
	r.HostID[0] |= 1
	r.Seed[0] |= 1
	for i := range r.Facts {
		if rapid.Bool().Draw(t, "known") {
			fill(r.Facts[i][:], "digest")
		}
	}
	r.Issued = time.Unix(rapid.Int64Range(0, maxIssued).Draw(t, "issued"), 0).UTC()
	if rapid.Bool().Draw(t, "local") {
		b := rapid.Bool()
		r.Local = Local{
			Fresh: b.Draw(t, "fresh"), Stored: b.Draw(t, "stored"), Provisional: b.Draw(t, "provisional"),
			Pending: b.Draw(t, "pending"), Origin: rapid.SampledFrom(origins[:]).Draw(t, "origin"),
		}
		if b.Draw(t, "copy") {
			fill(r.Local.CopyOf[:], "copy of")
		}
		if b.Draw(t, "drop") {
			fill(r.Local.DropFor[:], "drop for")
		}
	}
	return r
}

func TestEncodedRecordDecodesToItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, seq := records(t), rapid.Uint64().Draw(t, "sequence")
		frame, err := EncodeFrame(seq, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(frame) > MaxFrame {
			t.Fatalf("%d bytes, more than %d", len(frame), MaxFrame)
		}
		for _, b := range [][]byte{frame, PadFrame(frame, 4096), append(bytes.Clone(frame), make([]byte, 99)...)} {
			gotSeq, got, err := DecodeFrame(b)
			if err != nil {
				t.Fatal(err)
			}
			if gotSeq != seq || got != r {
				t.Fatalf("sequence %d, record %+v; want %d, %+v", gotSeq, got, seq, r)
			}
		}
	})
}

func TestEveryChangedBitIsNoticed(t *testing.T) {
	t.Parallel()
	v := vectorRecords()[1]
	frame, err := EncodeFrame(v.Sequence, v.record(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(frame) * 8 {
		b := bytes.Clone(frame)
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := DecodeFrame(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d changed: %v, want ErrCorrupt", i, err)
		}
	}
	for n := 1; n < len(frame); n++ {
		if _, _, err := DecodeFrame(frame[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v, want ErrCorrupt", n, err)
		}
		// What a write that was cut leaves in flash.
		if _, _, err := DecodeFrame(PadFrame(frame[:n], MaxFrame)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes in blank flash: %v, want ErrCorrupt", n, err)
		}
	}
}

// reframe puts a payload into a valid frame of some version.
func reframe(version uint16, body []byte) []byte {
	b := make([]byte, FrameHeader, FrameHeader+len(body))
	copy(b, frameMagic)
	binary.BigEndian.PutUint16(b[atVersion:], version)
	binary.BigEndian.PutUint16(b[atLength:], uint16(len(body)))
	binary.BigEndian.PutUint64(b[atSequence:], 7)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[atCRC:], frameCRC(b))
	return b
}

func TestDecodeFrameTellsWhatItIs(t *testing.T) {
	t.Parallel()
	id, seed := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32)
	encode := func(v any) []byte {
		b, err := encMode.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := map[int]any{1: id, 2: seed, 3: map[int][]byte{}, 4: 5}
	with := func(key int, value any) []byte {
		m := map[int]any{}
		for k, v := range good {
			m[k] = v
		}
		if m[key] = value; value == nil {
			delete(m, key)
		}
		return reframe(1, encode(m))
	}
	whole := reframe(1, encode(good))
	dup := append([]byte{0xA5}, encode(good)[1:]...)
	dup = append(dup, 0x04, 0x05)

	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"whole", whole, nil},
		{"nothing", nil, ErrNotStored},
		{"blank flash", bytes.Repeat([]byte{0xFF}, 4096), ErrNotStored},
		{"zeroed flash", make([]byte, 4096), ErrNotStored},
		{"blank flash of both kinds", append(make([]byte, 8), 0xFF), ErrCorrupt},
		{"one other byte", []byte{0x42}, ErrCorrupt},
		{"another magic", append([]byte("SHIE"), whole[4:]...), ErrCorrupt},
		{"blank flash behind", append(bytes.Clone(whole), 0xFF, 0xFF), nil},
		{"zeros behind", append(bytes.Clone(whole), 0, 0), nil},
		{"something behind", append(bytes.Clone(whole), 0xFF, 0xFE), ErrCorrupt},
		{"half blank behind", append(bytes.Clone(whole), 0xFF, 0x00), ErrCorrupt},
		{"version 0", reframe(0, encode(good)), ErrCorrupt},
		{"version 2", reframe(2, []byte("unknown here")), ErrNewer},
		{"version 2, no payload", reframe(2, nil), ErrNewer},
		{"version 2, something behind", append(reframe(2, []byte("x")), "yz"...), ErrNewer},
		{"version 65535", reframe(65535, bytes.Repeat([]byte{9}, MaxFrame-FrameHeader)), ErrNewer},
		{"version 2, damaged", append(reframe(2, []byte("abc"))[:FrameHeader], "abd"...), ErrCorrupt},
		{"version 2, cut", reframe(2, []byte("abc"))[:FrameHeader+2], ErrCorrupt},
		{"version 2, too long", reframe(2, make([]byte, MaxFrame-FrameHeader+1)), ErrCorrupt},
		{"no payload", reframe(1, nil), ErrCorrupt},
		{"no host ID", with(1, nil), ErrCorrupt},
		{"zero host ID", with(1, make([]byte, 16)), ErrCorrupt},
		{"short host ID", with(1, id[:15]), ErrCorrupt},
		{"host ID as text", with(1, strings.Repeat("a", 16)), ErrCorrupt},
		{"zero seed", with(2, make([]byte, 32)), ErrCorrupt},
		{"long seed", with(2, append(seed, 1)), ErrCorrupt},
		{"no facts", with(3, nil), ErrCorrupt},
		{"fact of number 7", with(3, map[int][]byte{7: make([]byte, 8)}), ErrCorrupt},
		{"fact of number -1", with(3, map[int][]byte{-1: id[:8]}), ErrCorrupt},
		{"zero digest", with(3, map[int][]byte{1: make([]byte, 8)}), ErrCorrupt},
		{"long digest", with(3, map[int][]byte{1: id}), ErrCorrupt},
		{"no time", with(4, nil), ErrCorrupt},
		{"time before 1970", with(4, -1), ErrCorrupt},
		{"time after 9999", with(4, int64(maxIssued+1)), ErrCorrupt},
		{"unknown key", with(6, 1), ErrCorrupt},
		{"empty marks", with(5, map[int]any{}), ErrCorrupt},
		{"unknown mark", with(5, map[int]any{8: true}), ErrCorrupt},
		{"false mark", with(5, map[int]any{1: false}), ErrCorrupt},
		{"unknown origin", with(5, map[int]any{7: 5}), ErrCorrupt},
		{"marks", with(5, map[int]any{2: true, 7: 2}), nil},
		{"same key twice", reframe(1, dup), ErrCorrupt},
		{"two values", reframe(1, append(encode(good), 0x01)), ErrCorrupt},
		{"tagged", reframe(1, append([]byte{0xC1}, encode(good)...)), ErrCorrupt},
		{"long form of a number", reframe(1, bytes.Replace(encode(good), []byte{0x04, 0x05}, []byte{0x04, 0x18, 0x05}, 1)), ErrCorrupt},
		{"indefinite length", reframe(1, append(append([]byte{0xBF}, encode(good)[1:]...), 0xFF)), ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, r, err := DecodeFrame(c.in)
			if c.want == nil && err != nil || !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if err != nil && r != (Record{}) {
				t.Errorf("a record comes with the error: %+v", r)
			}
		})
	}
}

func TestEncodeFrameRefusesWhatNoStoreMayHold(t *testing.T) {
	t.Parallel()
	good := vectorRecords()[1].record(t)
	for name, spoil := range map[string]func(*Record){
		"no host ID":      func(r *Record) { r.HostID = ID{} },
		"no seed":         func(r *Record) { r.Seed = Seed{} },
		"no time":         func(r *Record) { r.Issued = time.Time{} },
		"half a second":   func(r *Record) { r.Issued = r.Issued.Add(time.Second / 2) },
		"year 10000":      func(r *Record) { r.Issued = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"unknown origin":  func(r *Record) { r.Local.Origin = "stolen" },
		"before the 1970": func(r *Record) { r.Issued = time.Unix(-1, 0) },
	} {
		r := good
		spoil(&r)
		if b, err := EncodeFrame(1, r); err == nil {
			t.Errorf("%s: encoded as %x, want an error", name, b)
		} else if strings.Contains(err.Error(), "80818283") {
			t.Errorf("%s: the error shows the seed: %v", name, err)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	for _, v := range vectorRecords() {
		seed, _ := hex.DecodeString(v.Seed)
		frame, err := EncodeFrame(v.Sequence, Record{HostID: v.HostID, Seed: Seed(seed), Issued: v.Issued, Local: Local(v.Local)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame, true)
		f.Add(frame[FrameHeader:], false)
	}
	f.Add(reframe(2, []byte("newer")), true)
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		if !framed { // so that the fuzzer reaches the payload without guessing a checksum
			if len(b) > MaxFrame-FrameHeader {
				return
			}
			b = reframe(1, b)
		}
		seq, r, err := DecodeFrame(b)
		if err != nil {
			n := 0
			for _, sentinel := range []error{ErrNotStored, ErrNotInitialized, ErrCorrupt, ErrNewer, ErrUnavailable} {
				if errors.Is(err, sentinel) {
					n++
				}
			}
			if n != 1 {
				t.Fatalf("the error wraps %d of the sentinels: %v", n, err)
			}
			return
		}
		frame, err := EncodeFrame(seq, r)
		if err != nil {
			t.Fatalf("decoded, but cannot be encoded: %v", err)
		}
		if !bytes.Equal(frame, b[:len(frame)]) || !blank(b[len(frame):]) {
			t.Fatalf("decoded from\n%x, encodes to\n%x", b, frame)
		}
	})
}

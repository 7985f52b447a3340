package hostid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Sizes of the encoded record, for every format version that will ever be (docs/protocol/record.md).
const (
	MaxFrame    = 1024 // bytes of a whole frame, at most
	FrameHeader = 20   // bytes before the payload
)

// The header: magic (4), format version (2), length of the payload (2), sequence (8), CRC-32C of all the rest (4);
// big-endian. It is the same in every version, so that an old client recognises a newer record as whole.
const (
	frameMagic   = "SHID"
	frameVersion = 1

	atVersion  = 4
	atLength   = 6
	atSequence = 8
	atCRC      = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The payload of version 1. Keys and numbers are permanent.
type payload struct {
	HostID []byte         `cbor:"1,keyasint"`
	Seed   []byte         `cbor:"2,keyasint"`
	Facts  map[int][]byte `cbor:"3,keyasint"` // fact number -> digest; an unknown fact is left out
	Issued int64          `cbor:"4,keyasint"` // seconds since 1970-01-01 00:00:00 UTC
	Local  *localMarks    `cbor:"5,keyasint,omitempty"`
}

type localMarks struct {
	Fresh       bool   `cbor:"1,keyasint,omitempty"`
	Stored      bool   `cbor:"2,keyasint,omitempty"`
	Provisional bool   `cbor:"3,keyasint,omitempty"`
	Pending     bool   `cbor:"4,keyasint,omitempty"`
	CopyOf      []byte `cbor:"5,keyasint,omitempty"`
	DropFor     []byte `cbor:"6,keyasint,omitempty"`
	Origin      int    `cbor:"7,keyasint,omitempty"` // index into origins
}

// origins are the origins by their number in the encoding.
var origins = [...]Origin{0: "", 1: Kept, 2: Restored, 3: Generated, 4: Provisional}

// maxIssued is the last second of the year 9999, which is as far as dates are written with four digits.
const maxIssued = 253402300799

var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{
			DupMapKey:         cbor.DupMapKeyEnforcedAPF,
			IndefLength:       cbor.IndefLengthForbidden,
			TagsMd:            cbor.TagsForbidden,
			ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
			MaxNestedLevels:   4,
			MaxArrayElements:  16,
			MaxMapPairs:       16,
		}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

// EncodeFrame writes r as a frame: magic, format version, length, sequence, CRC-32C, then the record in
// deterministic CBOR. Equal arguments give equal bytes. A record that no store may hold is an error: a zero host
// ID or seed, a time of issue with fractions of a second or outside the years 1970 to 9999, an origin that is
// not one of the four.
func EncodeFrame(seq uint64, r Record) ([]byte, error) {
	body, err := encodePayload(r)
	if err != nil {
		return nil, fmt.Errorf("record of host ID %s cannot be encoded: %w", r.HostID, err)
	}
	if FrameHeader+len(body) > MaxFrame {
		return nil, fmt.Errorf("record of host ID %s takes %d bytes, more than %d", r.HostID, FrameHeader+len(body), MaxFrame)
	}
	b := make([]byte, FrameHeader, FrameHeader+len(body))
	copy(b, frameMagic)
	binary.BigEndian.PutUint16(b[atVersion:], frameVersion)
	binary.BigEndian.PutUint16(b[atLength:], uint16(len(body)))
	binary.BigEndian.PutUint64(b[atSequence:], seq)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[atCRC:], frameCRC(b))
	return b, nil
}

// DecodeFrame reads a frame from the beginning of b. Bytes after it must be blank flash, all 0xFF or all 0x00; a
// writer that puts a shorter frame over a longer one blanks the rest (PadFrame).
//
// It wraps ErrNotStored if b is empty, all 0xFF or all 0x00; ErrNewer if b begins with a whole frame of a newer
// format version, whatever follows it; ErrCorrupt for everything else that EncodeFrame cannot have written.
func DecodeFrame(b []byte) (seq uint64, r Record, err error) {
	if blank(b) {
		return 0, Record{}, ErrNotStored
	}
	corrupt := func(what string) (uint64, Record, error) {
		return 0, Record{}, fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	if len(b) < FrameHeader {
		return corrupt("it is shorter than a frame's header")
	}
	if string(b[:len(frameMagic)]) != frameMagic {
		return corrupt("it does not begin as a record does")
	}
	end := FrameHeader + int(binary.BigEndian.Uint16(b[atLength:]))
	if end > MaxFrame || end > len(b) {
		return corrupt("its length is impossible")
	}
	frame, rest := b[:end], b[end:]
	if frameCRC(frame) != binary.BigEndian.Uint32(frame[atCRC:]) {
		return corrupt("its checksum is wrong")
	}
	version := binary.BigEndian.Uint16(frame[atVersion:])
	if version > frameVersion {
		return 0, Record{}, fmt.Errorf("%w (format version %d, this client reads %d)", ErrNewer, version, frameVersion)
	}
	if version != frameVersion {
		return corrupt(fmt.Sprintf("there is no format version %d", version))
	}
	if !blank(rest) {
		return corrupt("something stands behind it")
	}
	r, err = decodePayload(frame[FrameHeader:])
	if err != nil {
		return corrupt(err.Error())
	}
	return binary.BigEndian.Uint64(frame[atSequence:]), r, nil
}

// PadFrame blanks what follows a frame with 0xFF up to n bytes, so that nothing of a longer frame stays behind it.
func PadFrame(frame []byte, n int) []byte {
	frame = bytes.Clone(frame)
	for len(frame) < n {
		frame = append(frame, 0xFF)
	}
	return frame
}

// blank reports that b is flash that nothing was written to: all 0xFF, all 0x00, or empty.
func blank(b []byte) bool {
	for _, c := range b {
		if c != b[0] || c != 0x00 && c != 0xFF {
			return false
		}
	}
	return true
}

// frameCRC is CRC-32C over the frame without the CRC's own four bytes.
func frameCRC(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:atCRC], castagnoli), castagnoli, frame[FrameHeader:])
}

func encodePayload(r Record) ([]byte, error) {
	switch s := r.Issued.Unix(); {
	case r.HostID.IsZero():
		return nil, errors.New("it has no host ID")
	case r.Seed == Seed{}:
		return nil, errors.New("it has no seed")
	case r.Issued.Nanosecond() != 0:
		return nil, errors.New("its time of issue is not in whole seconds")
	case s < 0 || s > maxIssued:
		return nil, fmt.Errorf("its time of issue, %s, is outside the years 1970 to 9999", r.Issued.UTC().Format(time.RFC3339))
	}
	p := payload{HostID: r.HostID[:], Seed: r.Seed[:], Facts: map[int][]byte{}, Issued: r.Issued.Unix()}
	for i, d := range r.Facts {
		if d != (Digest{}) {
			p.Facts[i] = d[:]
		}
	}
	if l := r.Local; l != (Local{}) {
		p.Local = &localMarks{
			Fresh: l.Fresh, Stored: l.Stored, Provisional: l.Provisional, Pending: l.Pending, Origin: -1,
		}
		for n, o := range origins {
			if o == l.Origin {
				p.Local.Origin = n
			}
		}
		if p.Local.Origin < 0 {
			return nil, fmt.Errorf("%q is no origin", l.Origin)
		}
		if !l.CopyOf.IsZero() {
			p.Local.CopyOf = l.CopyOf[:]
		}
		if !l.DropFor.IsZero() {
			p.Local.DropFor = l.DropFor[:]
		}
	}
	return encMode.Marshal(p)
}

func decodePayload(b []byte) (Record, error) {
	var p payload
	if err := decMode.Unmarshal(b, &p); err != nil {
		return Record{}, errors.New("its content is not that of a record") // the decoder's words may quote the content
	}
	r := Record{Issued: time.Unix(p.Issued, 0).UTC()}
	if len(p.HostID) != len(r.HostID) || len(p.Seed) != len(r.Seed) {
		return Record{}, errors.New("its host ID or seed has a wrong length")
	}
	r.HostID, r.Seed = ID(p.HostID), Seed(p.Seed)
	for i, d := range p.Facts {
		if i < 0 || i >= NumFacts || len(d) != len(Digest{}) {
			return Record{}, errors.New("one of its facts is impossible")
		}
		r.Facts[i] = Digest(d)
	}
	if l := p.Local; l != nil {
		if l.Origin < 0 || l.Origin >= len(origins) {
			return Record{}, errors.New("its origin is impossible")
		}
		r.Local = Local{
			Fresh: l.Fresh, Stored: l.Stored, Provisional: l.Provisional, Pending: l.Pending, Origin: origins[l.Origin],
		}
		for _, id := range []struct {
			from []byte
			to   *ID
		}{{l.CopyOf, &r.Local.CopyOf}, {l.DropFor, &r.Local.DropFor}} {
			if len(id.from) != 0 && len(id.from) != len(id.to) {
				return Record{}, errors.New("one of its marks has a wrong length")
			}
			copy(id.to[:], id.from)
		}
	}
	// One record has one encoding: what this client would write otherwise was not written by samehost.
	again, err := encodePayload(r)
	if err != nil {
		return Record{}, err
	}
	if !bytes.Equal(again, b) {
		return Record{}, errors.New("its content is not in the one permitted form")
	}
	return r, nil
}

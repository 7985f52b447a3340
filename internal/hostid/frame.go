package hostid

// Sizes of the encoded record, for every format version that will ever be (docs/protocol/record.md).
const (
	MaxFrame    = 1024 // bytes of a whole frame, at most
	FrameHeader = 20   // bytes before the payload
)

// EncodeFrame writes r as a frame: magic, format version, length, sequence, CRC-32C, then the record in
// deterministic CBOR. Equal arguments give equal bytes. A record that no store may hold is an error: a zero host
// ID or seed, a time of issue with fractions of a second or outside the years 1970 to 9999, an origin that is
// not one of the four.
func EncodeFrame(seq uint64, r Record) ([]byte, error) { panic("unwritten") }

// DecodeFrame reads a frame from the beginning of b. Bytes after it must be blank flash, all 0xFF or all 0x00; a
// writer that puts a shorter frame over a longer one blanks the rest (PadFrame).
//
// It wraps ErrNotStored if b is empty, all 0xFF or all 0x00; ErrNewer if b begins with a whole frame of a newer
// format version, whatever follows it; ErrCorrupt for everything else that EncodeFrame cannot have written.
func DecodeFrame(b []byte) (seq uint64, r Record, err error) { panic("unwritten") }

// PadFrame blanks what follows a frame with 0xFF up to n bytes, so that nothing of a longer frame stays behind it.
func PadFrame(frame []byte, n int) []byte {
	for len(frame) < n {
		frame = append(frame, 0xFF)
	}
	return frame
}

package hardware

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Bounds of an SMBIOS table. Real ones have a few hundred structures in some kilobytes.
const (
	maxTable      = 1 << 20
	maxStructures = 16384
)

var errTruncated = errors.New("SMBIOS: the table ends inside a structure")

// readSMBIOS takes the facts out of an SMBIOS structure table (DMTF DSP0134, 6.1): type 1 (system), 2 (board), 3
// (chassis), and Intel's type 130, which says that there is AMT. Of several structures of a type the first that
// states something counts, a motherboard before other boards. With errTruncated, f holds what stood before the damage.
//
// The UUID is displayed with its first three fields swapped whatever version the table claims. SMBIOS before 2.6 did
// not say which order is meant; Windows always swaps; and a BIOS update that raises the version must not change the
// evidence.
func readSMBIOS(table []byte, f *Facts) error {
	if len(table) > maxTable {
		table = table[:maxTable]
	}
	boardIsMain := false
	for range maxStructures {
		if len(table) == 0 {
			return nil
		}
		if len(table) < 4 || table[1] < 4 || int(table[1]) > len(table) {
			return errTruncated
		}
		kind, formatted := table[0], table[:table[1]]
		rest := table[len(formatted):]
		end := bytes.Index(rest, []byte{0, 0})
		if end < 0 {
			return errTruncated
		}
		text := func(offset int) string {
			if offset >= len(formatted) {
				return ""
			}
			return smbiosString(rest[:end], formatted[offset])
		}
		switch kind {
		case 1:
			if f.SystemSerial == "" {
				f.SystemSerial = text(0x07)
			}
			if f.SystemUUID == "" && len(formatted) >= 0x18 {
				b := bytes.Clone(formatted[0x08:0x18])
				swapUUID(b)
				f.SystemUUID = formatUUID(b)
			}
		case 2:
			main := len(formatted) > 0x0D && formatted[0x0D] == 0x0A
			if s := text(0x07); s != "" && (f.BoardSerial == "" || main && !boardIsMain) {
				f.BoardSerial, boardIsMain = s, main
			}
		case 3:
			if f.ChassisSerial == "" {
				f.ChassisSerial = text(0x07)
			}
		case 130:
			// Intel's AMT table: "$AMT", then a byte each for supported and enabled. A PC whose AMT is switched
			// off counts: who waits for it in vain loses two minutes, who does not may lose a host ID.
			if len(formatted) > 8 && bytes.Equal(formatted[4:8], []byte("$AMT")) && formatted[8] != 0 {
				f.SMBIOSAMT = true
			}
		case 127: // end of table
			return nil
		}
		table = rest[end+2:]
	}
	return nil
}

// smbiosString is the n-th string, from 1, of the zero-separated strings after a structure; 0 is none.
func smbiosString(set []byte, n byte) string {
	if n == 0 {
		return ""
	}
	for ; n > 1; n-- {
		i := bytes.IndexByte(set, 0)
		if i < 0 {
			return ""
		}
		set = set[i+1:]
	}
	if i := bytes.IndexByte(set, 0); i >= 0 {
		set = set[:i]
	}
	return printable(string(set))
}

// rawSMBIOSTable is the structure table inside Windows' RawSMBIOSData: four bytes, its length, the table.
func rawSMBIOSTable(b []byte) ([]byte, error) {
	if len(b) < 8 || uint64(binary.LittleEndian.Uint32(b[4:])) > uint64(len(b)-8) {
		return nil, errTruncated
	}
	return b[8:][:binary.LittleEndian.Uint32(b[4:])], nil
}

// storageSerial is the serial number in Windows' STORAGE_DEVICE_DESCRIPTOR; "" if there is none.
func storageSerial(b []byte) string {
	if len(b) < 28 {
		return ""
	}
	at := binary.LittleEndian.Uint32(b[24:])
	if at == 0 || uint64(at) >= uint64(len(b)) {
		return ""
	}
	s := b[at:]
	if i := bytes.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return printable(string(s))
}

// volumeDisks are the disk numbers in Windows' VOLUME_DISK_EXTENTS: a count, then extents of 24 bytes from byte 8.
func volumeDisks(b []byte) []uint32 {
	if len(b) < 8 {
		return nil
	}
	var out []uint32
	for i := range int(min(binary.LittleEndian.Uint32(b), maxItems)) {
		at := 8 + 24*i
		if at+24 > len(b) {
			break
		}
		out = append(out, binary.LittleEndian.Uint32(b[at:]))
	}
	return out
}

// vpdSerial is the serial number in the SCSI vital product data page 80h, as Linux shows it.
func vpdSerial(b []byte) string {
	if len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := min(int(binary.BigEndian.Uint16(b[2:])), len(b)-4)
	return printable(string(bytes.Trim(b[4:4+n], "\x00 ")))
}

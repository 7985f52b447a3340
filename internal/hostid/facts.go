package hostid

import (
	"crypto/sha256"
	"fmt"
)

// Fact names one thing known about a PC that says which board, case or disk it is. Its number and its name are
// permanent: records carry the one, digests the other.
type Fact int

// Board facts decide whether two sets of facts describe the same board; the helpers after them break a tie
// (SystemSerial, ChassisSerial), tell a copied disk (DiskSerial) or inform an operator.
const (
	SystemUUID Fact = iota
	BoardSerial
	OnboardMAC
	SystemSerial
	ChassisSerial
	DiskSerial
	TPMEndorsementKey
	NumFacts int = iota
)

var factNames = [NumFacts]string{
	"system_uuid", "board_serial", "onboard_mac", "system_serial", "chassis_serial", "disk_serial", "tpm_ek_sha256",
}

// String is the fact's name, as reports and digests spell it: system_uuid, board_serial, onboard_mac,
// system_serial, chassis_serial, disk_serial, tpm_ek_sha256.
func (f Fact) String() string {
	if f < 0 || int(f) >= NumFacts {
		return fmt.Sprintf("fact(%d)", int(f))
	}
	return factNames[f]
}

// Evidence is the present value of each fact, normalised, indexed by Fact; "" where it is unknown or a
// placeholder that proves nothing.
type Evidence [NumFacts]string

// Facts are the digests of what is known, under that host ID.
func (e Evidence) Facts(id ID) Facts {
	var fs Facts
	for i, v := range e {
		fs[i] = DigestOf(id, Fact(i), v)
	}
	return fs
}

// Digest is the first 8 bytes of SHA-256 over a host ID and a fact; zero means unknown.
type Digest [8]byte

// DigestOf is the digest of one fact under a host ID: SHA-256("samehost/fact/1" 0x00, the ID's 16 bytes, the
// fact's name, 0x00, value), its first 8 bytes; zero for the value "". The ID in it keeps records from being
// matched against a list of serial numbers across hosts; it does not hide a value from who can guess it.
func DigestOf(id ID, f Fact, value string) Digest {
	if value == "" {
		return Digest{}
	}
	h := sha256.New()
	h.Write([]byte("samehost/fact/1\x00"))
	h.Write(id[:])
	h.Write([]byte(f.String() + "\x00" + value))
	return Digest(h.Sum(nil)[:len(Digest{})])
}

// Facts are the digests of Evidence under one host ID, indexed by Fact. Digests under different host IDs cannot
// be compared.
type Facts [NumFacts]Digest

// Merge takes what newer knows; what newer does not know stays as it is in f.
func (f Facts) Merge(newer Facts) Facts {
	for i, d := range newer {
		if d != (Digest{}) {
			f[i] = d
		}
	}
	return f
}

// compare is +1 where both know the fact and agree, -1 where both know it and do not, 0 where one does not know.
func compare(fact Fact, a, b Facts) int {
	switch {
	case a[fact] == (Digest{}) || b[fact] == (Digest{}):
		return 0
	case a[fact] == b[fact]:
		return +1
	default:
		return -1
	}
}

// Board is the answer to "is this the same board?".
type Board int

// The three answers.
const (
	Undecided Board = iota
	SameBoard
	AnotherBoard
)

// String is "undecided", "same board" or "another board".
func (b Board) String() string {
	switch b {
	case SameBoard:
		return "same board"
	case AnotherBoard:
		return "another board"
	default:
		return "undecided"
	}
}

// Compare says whether two sets of facts, digested under one host ID, describe the same board. Each board fact
// that both know counts +1 if equal and -1 if different; a sum above zero is the same board, below zero another.
// At zero the serial numbers of system and chassis are counted likewise; if that too is zero, it stays undecided.
// So one swapped network interface, a UUID reset by a BIOS update, or a UUID shared by a whole model come out
// right where the other two facts are known.
func Compare(recorded, present Facts) Board {
	sum := compare(SystemUUID, recorded, present) + compare(BoardSerial, recorded, present) + compare(OnboardMAC, recorded, present)
	if sum == 0 {
		sum = compare(SystemSerial, recorded, present) + compare(ChassisSerial, recorded, present)
	}
	switch {
	case sum > 0:
		return SameBoard
	case sum < 0:
		return AnotherBoard
	default:
		return Undecided
	}
}

// SameDisk reports that both know the serial number of the system's disk, and it is the same.
func SameDisk(recorded, present Facts) bool { return compare(DiskSerial, recorded, present) > 0 }

// AnotherDisk reports that both know the serial number of the system's disk, and it is not the same.
func AnotherDisk(recorded, present Facts) bool { return compare(DiskSerial, recorded, present) < 0 }

// SameCase reports that the serial number of the system or of the chassis is known to both and the same, and neither differs.
func SameCase(recorded, present Facts) bool {
	return !AnotherCase(recorded, present) && (compare(SystemSerial, recorded, present) > 0 || compare(ChassisSerial, recorded, present) > 0)
}

// AnotherCase reports that the serial number of the system or of the chassis is known to both and differs.
func AnotherCase(recorded, present Facts) bool {
	return compare(SystemSerial, recorded, present) < 0 || compare(ChassisSerial, recorded, present) < 0
}

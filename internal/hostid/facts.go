package hostid

// Fact names one thing known about a PC that says which board, case or disk it is.
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

// Evidence is the present value of each fact, normalised, indexed by Fact; "" where it is unknown or a
// placeholder that proves nothing.
type Evidence [NumFacts]string

// Digest is the first 8 bytes of SHA-256 over a host ID and a fact; zero means unknown.
type Digest [8]byte

// Facts are the digests of Evidence under one host ID, indexed by Fact. Digests under different host IDs cannot
// be compared.
type Facts [NumFacts]Digest

// Board is the answer to "is this the same board?".
type Board int

// The three answers.
const (
	Undecided Board = iota
	SameBoard
	AnotherBoard
)

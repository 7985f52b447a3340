package hostid

// Seed is the secret that a host's keys derive from. It prints as ***, in every format verb and encoding but
// the record's own.
type Seed [32]byte

// String hides the seed.
func (Seed) String() string { return "***" }

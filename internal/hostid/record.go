package hostid

// Portable is the record as memory on the board keeps it: without the marks of this data folder and without the
// disk's digest, since the disk is what memory outlives.
func (r Record) Portable() Record {
	r.Local = Local{}
	r.Facts[DiskSerial] = Digest{}
	return r
}

// Equal reports whether two records are the same in every field.
func (r Record) Equal(o Record) bool {
	issued := r.Issued.Equal(o.Issued)
	r.Issued = o.Issued
	return issued && r == o
}

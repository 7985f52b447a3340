package hostid

// CutAt makes tests see, and cut, each call by which f changes the disk.
func (f *File) CutAt(c func(call string, data []byte) (int, error)) { f.cut = c }

// TempSuffix ends the names of files being written.
const TempSuffix = tempSuffix

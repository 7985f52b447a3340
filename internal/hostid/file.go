package hostid

import (
	"context"
	"errors"
)

// FileName is the host ID management file inside the data folder.
const FileName = "host-id"

// File is the host ID management file (ホスト識別子管理ファイル): the record on disk, with this folder's marks.
// It implements Store and LocalStore.
//
// Load wraps ErrNotStored where file or folder is missing, ErrUnavailable where it cannot be read or is no
// regular file, ErrCorrupt where what is in it is not a whole record. Whoever saves holds the folder's lock
// (LockFolder); reading needs none.
type File struct {
	dir string
}

// NewFile is the host ID management file in a data folder. Nothing is opened or made until it is used.
func NewFile(dir string) *File { return &File{dir: dir} }

// Path is the file's full name.
func (f *File) Path() string { panic("unwritten") }

// Load implements Store.
func (f *File) Load(ctx context.Context) (Record, error) { panic("unwritten") }

// Save implements Store. It makes the data folder if that is missing.
func (f *File) Save(ctx context.Context, r Record) error { panic("unwritten") }

// SetAside implements LocalStore.
func (f *File) SetAside(ctx context.Context, why string) (string, error) { panic("unwritten") }

// SetAsideRecord implements LocalStore.
func (f *File) SetAsideRecord(ctx context.Context, r Record, why string) (string, error) {
	panic("unwritten")
}

// WriteFileDurably makes path hold data and survive a power cut: written to a temporary name in the same folder
// (which is made if missing), flushed, renamed over path, the folder flushed. Whatever happens, path holds the
// old or the new data whole. The file is readable by its owner only (on Windows by SYSTEM and Administrators).
// An error says what to do, and no temporary file stays; those of a killed process are removed by LockFolder.
func WriteFileDurably(path string, data []byte) error { panic("unwritten") }

// Lock is the hold on a data folder: one process works in it at a time.
type Lock struct{}

// ErrLocked says that another process works in the data folder.
var ErrLocked = errors.New("the data folder is in use")

// LockFolder takes the data folder's lock, without waiting, and makes the folder if that is missing. An error
// that wraps ErrLocked names the process that holds it. The lock ends with Unlock or with the process, however
// it ends. Temporary files that a killed process left are removed.
func LockFolder(dir string) (*Lock, error) { panic("unwritten") }

// Unlock lets the next process in.
func (l *Lock) Unlock() error { panic("unwritten") }

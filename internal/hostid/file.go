package hostid

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// FileName is the host ID management file inside the data folder.
const FileName = "host-id"

// maxFile bounds what is read of the host ID management file. A record takes at most MaxFrame; more is read only
// to keep a damaged file whole when it is set aside.
const maxFile = 64 << 10

// A LocalStore is the Store of the host ID management file: it can set aside what it holds. Setting aside copies
// under a dated name, durably, and does it once for the same content; what is stored stays until it is saved over.
// Save over a corrupt record sets that aside by itself, as "corrupt".
type LocalStore interface {
	Store
	// SetAside keeps what is stored now, readable or not, and returns the name it is kept under. why is a word
	// of lower-case letters for that name: "replaced", "copy", "ordered".
	SetAside(ctx context.Context, why string) (name string, err error)
	// SetAsideRecord keeps a record that came from elsewhere.
	SetAsideRecord(ctx context.Context, r Record, why string) (name string, err error)
	// LoadAside returns the record of that host ID that was set aside; of several, the one that gave way last, those by
	// order first. It wraps ErrNotStored if there is no whole one.
	LoadAside(ctx context.Context, id ID) (Record, error)
}

// File is the host ID management file (ホスト識別子管理ファイル): the record on disk, with this folder's marks.
// It implements LocalStore.
//
// Load wraps ErrNotStored where file or folder is missing, ErrUnavailable where it cannot be read or is no
// regular file, ErrCorrupt where what is in it is not a whole record. Whoever saves holds the folder's lock
// (LockFolder); reading needs none.
type File struct {
	dir string
	cut cut // nil but in tests
}

// NewFile is the host ID management file in a data folder. Nothing is opened or made until it is used.
func NewFile(dir string) *File { return &File{dir: dir} }

// Path is the file's full name.
func (f *File) Path() string { return filepath.Join(f.dir, FileName) }

// Load implements Store.
func (f *File) Load(ctx context.Context) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, fmt.Errorf("read %s: %w: %w", f.Path(), ErrUnavailable, err)
	}
	_, r, err := f.read()
	return r, err
}

// read decodes the file. What is not a whole record is told apart from what cannot be read.
func (f *File) read() (seq uint64, r Record, err error) {
	b, whole, err := f.bytes()
	if err != nil {
		return 0, Record{}, err
	}
	seq, r, err = DecodeFrame(b)
	switch {
	case errors.Is(err, ErrNotStored): // a file is there, but a crash of the file system emptied it
		err = fmt.Errorf("%w: it is empty", ErrCorrupt)
	case err == nil && !whole:
		err = fmt.Errorf("%w: it is longer than %d bytes", ErrCorrupt, maxFile)
	}
	if err != nil {
		return 0, Record{}, fmt.Errorf("read %s: %w", f.Path(), err)
	}
	return seq, r, nil
}

// bytes reads the file, at most maxFile of it; whole is false if there is more.
func (f *File) bytes() (b []byte, whole bool, err error) {
	info, err := os.Lstat(f.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("read %s: %w", f.Path(), ErrNotStored)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w%s", ErrUnavailable, err, advice(err))
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%w: %s is no regular file: move it away", ErrUnavailable, f.Path())
	}
	file, err := openToRead(f.Path())
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w%s", ErrUnavailable, err, advice(err))
	}
	defer file.Close()
	b, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w%s", ErrUnavailable, err, advice(err))
	}
	return b[:min(len(b), maxFile)], len(b) <= maxFile, nil
}

// Save implements Store. It makes the data folder if that is missing.
func (f *File) Save(ctx context.Context, r Record) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write %s: %w", f.Path(), err)
	}
	seq, old, err := f.read()
	switch {
	case err == nil && old.Equal(r):
		return nil
	case errors.Is(err, ErrCorrupt):
		if _, err := f.SetAside(ctx, "corrupt"); err != nil {
			return err
		}
	case err != nil && !errors.Is(err, ErrNotStored):
		return err
	}
	frame, err := EncodeFrame(seq+1, r)
	if err != nil {
		return err
	}
	return f.cut.writeFileDurably(f.Path(), frame)
}

// SetAside implements LocalStore: the file's content is copied to host-id.WHY-DATE-DIGEST beside it. A file too
// long for any record is moved there instead.
func (f *File) SetAside(ctx context.Context, why string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("set %s aside: %w", f.Path(), err)
	}
	b, whole, err := f.bytes()
	if err != nil {
		return "", fmt.Errorf("set %s aside: %w", f.Path(), err)
	}
	if whole {
		return f.keep(b, why)
	}
	name, _ := f.asideName(b, why)
	if _, err := os.Lstat(name); err == nil { // the same beginning was moved there in this second: not over it
		return "", fmt.Errorf("set %s aside: %s is there already: try again", f.Path(), name)
	}
	if err := f.cut.rename(f.Path(), name); err != nil {
		return "", fmt.Errorf("set %s aside: %w%s", f.Path(), err, advice(err))
	}
	return name, nil
}

// SetAsideRecord implements LocalStore.
func (f *File) SetAsideRecord(ctx context.Context, r Record, why string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("set host ID %s aside: %w", r.HostID, err)
	}
	frame, err := EncodeFrame(0, r)
	if err != nil {
		return "", err
	}
	return f.keep(frame, why)
}

// keep writes b beside the file, unless it stands there already from an attempt before.
func (f *File) keep(b []byte, why string) (string, error) {
	name, there := f.asideName(b, why)
	if there {
		return name, nil
	}
	if err := f.cut.writeFileDurably(name, b); err != nil {
		return "", err
	}
	return name, nil
}

// asideName is the name under which b is set aside: the one it has already, or one with the present time.
func (f *File) asideName(b []byte, why string) (name string, there bool) {
	digest := sha256.Sum256(b)
	suffix := fmt.Sprintf("-%x", digest[:8])
	prefix := FileName + "." + why + "-"
	entries, _ := os.ReadDir(f.dir) // unreadable: then it cannot be written to either
	for _, e := range entries {
		n := e.Name()
		if len(n) > len(prefix)+len(suffix) && n[:len(prefix)] == prefix && n[len(n)-len(suffix):] == suffix {
			if have, err := ReadRegularFile(filepath.Join(f.dir, n), maxFile); err == nil && sha256.Sum256(have) == digest {
				return filepath.Join(f.dir, n), true
			}
		}
	}
	return filepath.Join(f.dir, prefix+time.Now().UTC().Format("20060102T150405Z")+suffix), false
}

package hostid

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// tempSuffix marks a file that is being written. No other file in a data folder ends so.
const tempSuffix = ".samehost-tmp"

// cut is where tests cut a write: it is asked before each call that changes the disk, with the data if it is a
// write, lets the first n bytes through, and fails the call if err is set. nil lets everything through.
type cut func(call string, data []byte) (n int, err error)

func (c cut) before(call string) error {
	if c == nil {
		return nil
	}
	_, err := c(call, nil)
	return err
}

// WriteFileDurably makes path hold data and survive a power cut: written to a temporary name in the same folder
// (which is made if missing), flushed, renamed over path, the folder flushed. Whatever happens, path holds the
// old or the new data whole. The file is readable by its owner only (on Windows by SYSTEM and Administrators).
// An error says what to do, and no temporary file stays; those of a killed process are removed by LockFolder.
func WriteFileDurably(path string, data []byte) error { return cut(nil).writeFileDurably(path, data) }

func (c cut) writeFileDurably(path string, data []byte) error {
	if err := c.writeAndRename(path, data); err != nil {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) && pe.Path == path+tempSuffix {
			err = pe.Err // the name that people know stands before it
		}
		return fmt.Errorf("write %s: %w%s", path, err, advice(err))
	}
	return nil
}

func (c cut) writeAndRename(path string, data []byte) (err error) {
	if err := c.makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	tmp := path + tempSuffix
	// One left by a process that was killed. Under the folder's lock nobody else is writing it.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.before("create"); err != nil {
		return err
	}
	f, err := createPrivate(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			if c.before("remove") == nil {
				os.Remove(tmp)
			}
		}
	}()
	if c != nil {
		n, cutErr := c("write", data)
		if cutErr != nil {
			f.Write(data[:n])
			return cutErr
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := c.before("sync"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := c.before("close"); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return c.rename(tmp, path)
}

// rename moves a file over another in the same folder, durably.
func (c cut) rename(from, to string) error {
	if err := c.before("rename"); err != nil {
		return err
	}
	if err := replaceFile(from, to); err != nil {
		return err
	}
	if err := c.before("sync folder"); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(to))
}

// makeFolder makes a folder, and those above it, for its owner only. One that is there stays as it is.
func (c cut) makeFolder(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is no folder: move it away, or name another data_dir", dir)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if above == dir {
		return fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	if err := c.makeFolder(above); err != nil {
		return err
	}
	if err := c.before("make folder"); err != nil {
		return err
	}
	if err := makePrivateFolder(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(above)
}

// ReadRegularFile reads a file whole that an administrator or this program put there. It follows links, and hangs
// on nothing that may stand in the file's place: what is no regular file is an error. One of more than limit bytes
// wraps ErrCorrupt, a missing one fs.ErrNotExist. The error says what to do, and does not name the file: that is
// the caller's.
func ReadRegularFile(path string, limit int64) ([]byte, error) {
	b, err := readRegularFile(path, limit)
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, advice(err))
	}
	return b, nil
}

func readRegularFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened, which alone can move a tape or reset a port
	if err != nil {
		return nil, err
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	f, err := openAtOnce(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", ErrCorrupt, limit)
	}
	return b, err
}

func regular(info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return errors.New("it is a folder, not a file: move it away")
	case !info.Mode().IsRegular():
		return errors.New("it is no regular file: move it away")
	}
	return nil
}

// advice is what to do about an error of the file system, as the end of a sentence.
func advice(err error) string {
	switch {
	case isDiskFull(err):
		return ": the disk is full; what was stored before is untouched; free some space"
	case isReadOnly(err):
		return ": the file system is read-only; name another data_dir, or mount it for writing"
	case errors.Is(err, syscall.ENOTDIR):
		return ": a file stands where a folder must be: move it away, or name another data_dir"
	case errors.Is(err, fs.ErrPermission):
		return ": run this as root or Administrator, or give the account of the service access to it"
	default:
		return ""
	}
}

// ErrLocked says that another process works in the data folder.
var ErrLocked = errors.New("the data folder is in use")

// lockName is the file in a data folder that is locked and holds the process ID of who locked it. It is never
// removed: a process that waits for it must not lock another file of the same name.
const lockName = "lock"

// Lock is the hold on a data folder: one process works in it at a time.
type Lock struct{ file *os.File }

// LockFolder takes the data folder's lock, without waiting, and makes the folder if that is missing. An error
// that wraps ErrLocked names the process that holds it. The lock ends with Unlock or with the process, however
// it ends. Temporary files that a killed process left are removed.
func LockFolder(dir string) (*Lock, error) {
	if err := cut(nil).makeFolder(dir); err != nil {
		return nil, fmt.Errorf("data folder: %w%s", err, advice(err)) // which names it
	}
	path := filepath.Join(dir, lockName)
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("data folder: %s is no regular file: move it away", path)
	}
	f, err := openLock(path)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w%s", err, advice(err))
	}
	taken, err := tryLock(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	if !taken {
		defer f.Close()
		return nil, fmt.Errorf("%w: %s: %s works in it; stop that one, or ask the running service", ErrLocked, dir, holder(f))
	}
	l := &Lock{f}
	if err := l.begin(dir); err != nil {
		l.Unlock()
		return nil, fmt.Errorf("lock data folder: %w%s", err, advice(err))
	}
	return l, nil
}

// begin writes down who holds the lock and clears away what a killed process left half written.
func (l *Lock) begin(dir string) error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	if _, err := l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tempSuffix) && e.Type().IsRegular() {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// holder names the process that wrote its ID into the lock file.
func holder(f *os.File) string {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
		return fmt.Sprintf("process %d", pid)
	}
	return "another process"
}

// Unlock lets the next process in.
func (l *Lock) Unlock() error { return l.file.Close() } // the system drops the lock with the last handle

package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// WithRemedy adds what to do to errors that the system or the database gives without saying it: a full disk, a
// damaged or locked database. Others come back as they are.
func WithRemedy(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w; make room on that disk, then do this again", err)
	}
	switch resultCode(err) & 0xff {
	case sqliteCorrupt, sqliteNotADatabase:
		return fmt.Errorf("%w; the database is damaged: end serve and %s", err, putBack)
	case sqliteReadOnly:
		return fmt.Errorf("%w; see that this user may write to the database, its folder and its disk", err)
	case sqliteIO:
		return fmt.Errorf("%w; see that the disk is there, has room and works", err)
	case sqliteBusy:
		return fmt.Errorf("%w; another program holds the database: end it, or wait for it", err)
	}
	return err
}

const putBack = "put back the one from a backup"

// CannotWrite is the error of writing the file or folder that a person named. It names that one, not the temporary
// one beside it that the system's error is about, and says what to do.
func CannotWrite(path string, err error) error {
	var ofPath *fs.PathError
	var ofLink *os.LinkError
	switch {
	case isFull(err):
		return fmt.Errorf("cannot write %s: the disk is full; make room on it, then do this again", path)
	case errors.As(err, &ofPath):
		err = ofPath.Err
	case errors.As(err, &ofLink):
		err = ofLink.Err
	}
	remedy := ""
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		remedy = "; make the folder above it first"
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		remedy = "; name a place where you may write, or run this as a user who may"
	}
	return fmt.Errorf("cannot write %s: %w%s", path, err, remedy)
}

func isFull(err error) bool {
	const onWindows = syscall.Errno(112) // ERROR_DISK_FULL; elsewhere the number means something else
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || resultCode(err) == sqliteFull || resultCode(err) == sqliteShmSize ||
		runtime.GOOS == "windows" && errors.Is(err, onWindows)
}

// SQLite's result codes (sqlite.org/rescode.html). The primary ones stand in the low byte.
const (
	sqliteBusy         = 5
	sqliteReadOnly     = 8
	sqliteIO           = 10
	sqliteCorrupt      = 11
	sqliteFull         = 13
	sqliteNotADatabase = 26
	sqliteShmSize      = sqliteIO | 19<<8 // no room for the index of the write-ahead log: what opening says on a full disk
)

// resultCode is SQLite's extended result code of an error, 0 for others.
func resultCode(err error) int {
	var e interface {
		error
		Code() int
	}
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"samehost/internal/registry"
)

// WithRemedy adds what to do to errors that the system or the database gives without saying it: a full disk, a
// damaged or locked database. Others come back as they are.
func WithRemedy(err error) error {
	remedy := registry.Remedy(err)
	if remedy == "" && isFull(err) {
		remedy = "make room on that disk, then do this again"
	}
	if remedy == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, remedy)
}

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
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || registry.IsFull(err) ||
		runtime.GOOS == "windows" && errors.Is(err, onWindows)
}

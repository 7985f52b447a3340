//go:build unix

package amtinit

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// exhausted reports that this machine, not the device, is the reason.
func exhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lock waits for the file's lock; closing the file gives it back, and so does the end of the process.
func lock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != syscall.EINTR {
			return err
		}
	}
}

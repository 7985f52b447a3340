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

// openFiles is how many files this process may have open; 0 is unknown. The Go runtime has raised the soft limit to the hard
// one already.
func openFiles() int {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	return int(min(uint64(r.Cur), 1<<30))
}

// lock waits for the file's lock; closing the file gives it back, and so does the end of the process.
func lock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != syscall.EINTR {
			return err
		}
	}
}

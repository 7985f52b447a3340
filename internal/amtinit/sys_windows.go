package amtinit

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// exhausted reports that this machine, not the device, is the reason.
func exhausted(err error) bool {
	for _, e := range []error{windows.WSAEMFILE, windows.WSAENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openFiles: Windows has no limit worth a thought.
func openFiles() int { return 0 }

// lock waits for the file's lock; closing the file gives it back, and so does the end of the process.
func lock(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, new(windows.Overlapped))
}

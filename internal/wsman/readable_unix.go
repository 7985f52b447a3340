//go:build unix

package wsman

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// readable tells, without waiting or consuming anything, whether a read from an idle connection would return at once:
// the device has closed it, or sent what nobody asked for. Not knowing (no socket behind it) is false.
func readable(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	ready := false
	err := raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds[:], 0)
		ready = err == nil && n > 0
	})
	return err != nil || ready
}

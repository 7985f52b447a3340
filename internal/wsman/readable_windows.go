package wsman

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

var wsaPoll = windows.NewLazySystemDLL("ws2_32.dll").NewProc("WSAPoll")

// pollFD is WSAPOLLFD of winsock2.h.
type pollFD struct {
	fd      uintptr
	events  int16
	revents int16
}

const pollReadNormal = 0x0100 // POLLRDNORM

// readable tells, without waiting or consuming anything, whether a read from an idle connection would return at once:
// the device has closed it, or sent what nobody asked for. Not knowing (no socket behind it) is false.
func readable(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	ready := false
	err := raw.Control(func(fd uintptr) {
		p := pollFD{fd: fd, events: pollReadNormal}
		n, _, _ := wsaPoll.Call(uintptr(unsafe.Pointer(&p)), 1, 0)
		ready = int32(n) > 0
	})
	return err != nil || ready
}

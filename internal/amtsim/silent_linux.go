package amtsim

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

const canBeSilent = true

// silence makes a listening socket deaf: its backlog becomes as short as Linux allows and is filled with connections of
// our own, after which the kernel drops every further SYN. Nobody may be accepting. The returned connections keep it so.
func silence(l *net.TCPListener) ([]net.Conn, error) {
	if err := setBacklog(l, 0); err != nil {
		return nil, err
	}
	var fillers []net.Conn
	for range 64 {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return fillers, nil
		}
		if err != nil {
			wake(l, fillers)
			return nil, err
		}
		fillers = append(fillers, c)
	}
	wake(l, fillers)
	return nil, errors.New("the listener's backlog does not fill")
}

// wake undoes silence.
func wake(l *net.TCPListener, fillers []net.Conn) error {
	for _, c := range fillers {
		c.Close()
	}
	return setBacklog(l, 1024)
}

func setBacklog(l *net.TCPListener, n int) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = syscall.Listen(int(fd), n) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", inner)
}

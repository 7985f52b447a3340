//go:build !linux

package amtsim

import (
	"errors"
	"net"
)

const canBeSilent = false

func silence(*net.TCPListener) ([]net.Conn, error) {
	return nil, errors.New("a listener cannot be made silent on this system")
}

func wake(*net.TCPListener, []net.Conn) error { return nil }

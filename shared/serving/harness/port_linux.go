package harness

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// HoldPort finds a free port and holds it, by a socket that is bound and never
// listens. With SO_REUSEADDR on both, Linux lets a server bind the same port by its
// number as long as nobody listens on it, and passes the port over where it chooses
// one itself.
func HoldPort() (*Port, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	number, err := bind(socket)
	if err != nil {
		return nil, errors.Join(err, syscall.Close(socket))
	}
	return &Port{
		address: net.JoinHostPort("127.0.0.1", strconv.Itoa(number)),
		release: sync.OnceValue(func() error { return syscall.Close(socket) }),
	}, nil
}

// bind binds a socket to any free loopback port.
func bind(socket int) (number int, err error) {
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	in4, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		return 0, errors.New("a socket of IPv4 has another address")
	}
	return in4.Port, nil
}

package harness

import (
	"net"
	"strconv"
	"syscall"
	"testing"
)

// A held port is given to nobody who takes any, though all other ports are taken,
// and to a server that asks for it, again and again.
func TestHoldPort(t *testing.T) {
	port, err := HoldPort()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	number, err := strconv.Atoi(port.Number())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		server, err := net.Listen("tcp", port.Address())
		if err != nil {
			t.Fatal("the server for which it is held:", err)
		}
		client, err := net.Dial("tcp", port.Address())
		if err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
		_ = server.Close()
	}
	if got := dialFrom(t, number); got != 0 {
		t.Error("where the range is this port only, a connection got", got)
	}
	if got := listenFrom(t, number); got != 0 {
		t.Error("where the range is this port only, a listener got", got)
	}
}

// only has a socket's range of ports be one port (ip(7), IP_LOCAL_PORT_RANGE), or
// skips the rest of the test before Linux 6.3.
func only(t *testing.T, number int) func(_, _ string, raw syscall.RawConn) error {
	t.Helper()
	return func(_, _ string, raw syscall.RawConn) error {
		const ipLocalPortRange = 51
		return raw.Control(func(fd uintptr) {
			if err := syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, number<<16|number); err != nil {
				t.Skip("no IP_LOCAL_PORT_RANGE:", err)
			}
		})
	}
}

// dialFrom returns the port that a connection gets, or 0 for none.
func dialFrom(t *testing.T, number int) int {
	t.Helper()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	dialer := net.Dialer{Control: only(t, number)}
	conn, err := dialer.Dial("tcp", target.Addr().String())
	if err != nil {
		return 0
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.TCPAddr).Port
}

// listenFrom returns the port that a listener gets, or 0 for none.
func listenFrom(t *testing.T, number int) int {
	t.Helper()
	config := net.ListenConfig{Control: only(t, number)}
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

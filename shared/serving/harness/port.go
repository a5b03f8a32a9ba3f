// Package harness has what tests, the demo and benchmarks need to start real
// processes, and no testing.T.
//
//	port, err := harness.HoldPort()
//	defer port.Close()
//	start("redis-server", "--port", port.Number())
package harness

import "net"

// Port is a loopback port that is kept for one process, from before it starts until
// after it has come back on it: while it is held, the kernel gives it to nobody who
// takes any port, neither to a listener nor to a connection. A process that asks for
// it by its number, and for SO_REUSEADDR as servers do, gets it.
type Port struct {
	address string // 127.0.0.1:PORT
	release func() error
}

// Address is 127.0.0.1:PORT.
func (p *Port) Address() string { return p.address }

// Number is the port's number.
func (p *Port) Number() string {
	_, number, _ := net.SplitHostPort(p.address)
	return number
}

// Close gives the port up. A process that listens on it goes on. A second call does
// nothing.
func (p *Port) Close() error { return p.release() }

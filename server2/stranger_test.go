//go:build unix

package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// residentOf returns the memory that a process holds, in MiB.
func residentOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no /proc on this system")
	}
	for line := range strings.Lines(string(text)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n >> 10
		}
	}
	t.Fatal("the process is gone:", err)
	return 0
}

// stranger opens a connection from an address of this machine, as its own network.
func stranger(from, address string, pool *x509.CertPool) (net.Conn, error) {
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience},
		Config:    &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13},
	}
	return dialer.Dial("tcp", address)
}

// beginCalls sends the headers of n calls, the first of them of the number first, and no body. What the server answers is
// read and forgotten.
func beginCalls(conn net.Conn, raw string, first, n int) error {
	var all, block bytes.Buffer
	framer, encoder := http2.NewFramer(&all, nil), hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0) // each header stands by itself
	if first == 0 {
		all.WriteString(http2.ClientPreface)
		if err := framer.WriteSettings(); err != nil {
			return err
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
	}
	for i := first; i < first+n; i++ {
		block.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"},
			{Name: ":scheme", Value: "https"},
			{Name: ":path", Value: getMethod},
			{Name: ":authority", Value: "localhost"},
			{Name: "content-type", Value: "application/grpc"},
			{Name: "te", Value: "trailers"},
			{Name: "authorization", Value: "Bearer " + raw},
		} {
			if err := encoder.WriteField(f); err != nil {
				return err
			}
		}
		header := http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndHeaders: true}
		if err := framer.WriteHeaders(header); err != nil {
			return err
		}
	}
	_, err := conn.Write(all.Bytes())
	return err
}

// I01: somebody with a reusable token opens 20,000 calls whose body never comes (one without is refused at the header).
// What SERVER2 holds for them stays small, and someone from another network is served all the while.
func TestI01CallsWithoutABody(t *testing.T) {
	if raced {
		t.Skip("the race detector holds memory of its own; .ci/run runs this without it as well")
	}
	const connections, calls = 200, 100
	t.Setenv("GOGC", "25") // so that what is held is what lives
	s, key := goodSettings(t)
	s["skew"] = "1s"
	r, _ := spawn(t, s.args())
	r.connect(t, s["tls-cert"])
	issuer := newIssuer(t, key, nil)
	get := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	reusable := token(t, issuer, getMethod, get, nil)
	before := residentOf(t, r.pid)
	pool := poolOf(t, s["tls-cert"])
	var open []net.Conn
	for range connections {
		conn, err := stranger("127.0.0.2", r.address, pool)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		open = append(open, conn)
	}
	for i := 0; i < calls; i += 5 { // little at a time: what comes at once is shed
		for _, conn := range open {
			if err := beginCalls(conn, reusable, i, 5); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	most, req := 0, payment("INV-404", 1, 1)
	for range 30 {
		most = max(most, residentOf(t, r.pid))
		_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(token(t, issuer, payMethod, req, nil)))
		if status.Code(err) != codes.NotFound { // the handler's own answer
			t.Errorf("an honest caller: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Unbounded, these calls took 296 MiB; a connection takes some 60 KiB.
	if grown := most - before; grown > 120 {
		t.Errorf("%d MiB more are held, of %d", grown, most)
	}
}

// I01: an idle connection holds little, so that as many as may be open leave room for calls in 512 MiB.
func TestI01IdleConnectionsHoldLittle(t *testing.T) {
	if raced {
		t.Skip("the race detector holds memory of its own; .ci/run runs this without it as well")
	}
	const connections = 500
	t.Setenv("GOGC", "25") // so that what is held is what lives
	s, _ := goodSettings(t)
	r, _ := spawn(t, s.args())
	pool := poolOf(t, s["tls-cert"])
	before := residentOf(t, r.pid)
	for range connections {
		conn, err := stranger("127.0.0.2", r.address, pool)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := beginCalls(conn, "", 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	// With gRPC's own buffers these hold 31 MiB.
	grown := residentOf(t, r.pid) - before
	t.Logf("%d connections hold %d MiB", connections, grown)
	if grown > 24 {
		t.Errorf("%d MiB are held for %d idle connections", grown, connections)
	}
}

// I05: with fewer descriptors than --max-connections asks for, a stranger takes no more than a share of those that
// there are, the log says so, and others are served.
func TestI05FewDescriptors(t *testing.T) {
	s, key := goodSettings(t)
	s["skew"] = "1s"
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	limited := filepath.Join(t.TempDir(), "limited")
	write(t, limited, []byte("#!"+shell+"\nulimit -n 512\nexec \"$@\"\n"))
	if err := os.Chmod(limited, 0o700); err != nil {
		t.Fatal(err)
	}
	r, _ := spawn(t, s.args(), limited)
	r.connect(t, s["tls-cert"])
	var open []net.Conn
	for range 600 {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}}).Dial("tcp", r.address)
		if err != nil {
			break
		}
		open = append(open, conn)
		defer conn.Close()
	}
	if len(open) < 100 {
		t.Fatalf("only %d connections", len(open))
	}
	req := payment("INV-404", 1, 1)
	_, err = r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(token(t, newIssuer(t, key, nil), payMethod, req, nil)))
	if status.Code(err) != codes.NotFound {
		t.Errorf("an honest caller: %v\n%s", err, r.log)
	}
	r.dial(t, s["tls-cert"]) // a new connection
	r.health(t, healthpb.HealthCheckResponse_SERVING)
	if log := r.log.String(); !strings.Contains(log, `"connections":128`) || strings.Contains(log, "too many open files") {
		t.Errorf("the log: %s", log)
	}
}

// I04: who has a reusable token can use it without end, and fills no log by that.
func TestI04ReusableToken(t *testing.T) {
	s, key := goodSettings(t)
	s["skew"] = "1s"
	r, _ := spawn(t, s.args())
	r.connect(t, s["tls-cert"])
	get := &server2v1.GetInvoiceRequest{InvoiceId: "INV-404"}
	reusable := token(t, newIssuer(t, key, nil), getMethod, get, nil)
	const uses = 200
	for range uses {
		if _, err := r.client.GetInvoice(t.Context(), get, handoffgrpc.Token(reusable)); status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
	}
	log := r.log.String()
	if n := strings.Count(log, `"outcome":"redeemed"`); n == 0 || n > uses/4 {
		t.Errorf("I04: %d uses of one token have %d lines", uses, n)
	}
	if !strings.Contains(log, `"reusable":true`) {
		t.Error("I04: no line says that the token is reusable")
	}
}

// Package pair starts SERVER1 and SERVER2 as processes of their own, as two
// teams would: each with a folder of its own, and nothing in SERVER2's that came
// from SERVER1 but a file with a public key.
package pair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// The names by which the two know each other, and the password of every demo
// user.
const (
	Issuer        = "https://shop.localhost"
	Audience      = "https://billing.localhost"
	OtherAudience = "https://archive.localhost" // SERVER1 may hand off to it; nobody runs it
	Password      = "correct horse battery staple"
)

// User is a demo user.
type User struct {
	Name  string
	Roles []string
	ID    string // the immutable id, the `sub` of the user's handoffs
}

// Config says how to start a pair.
type Config struct {
	// Bin is the folder of the built programs.
	Bin string
	// Dir is the folder for everything that the pair keeps. It is made.
	Dir string
	// Server1 and Server2 are flags in addition to the necessary ones.
	Server1, Server2 []string
}

// Pair is the two running processes.
type Pair struct {
	Server1, Server2 *Process
	// CA is the file with the certificate of the development authority.
	CA string
	// Users are the demo users, by name.
	Users map[string]User

	config Config
}

// Start makes the keys, the certificates, the users and the invoices, and starts
// both servers on free loopback ports.
func Start(ctx context.Context, config Config) (*Pair, error) {
	p := &Pair{config: config, CA: filepath.Join(config.Dir, "tls", "ca.pem")}
	for _, folder := range []string{p.path("server1"), p.path("server2")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{
		p.makeKeys, p.addUsers, p.writeInvoices, p.StartServer2, p.writePolicy, p.StartServer1,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, p.Stop())
		}
	}
	return p, nil
}

// Stop stops both processes, and says if either did not end well.
func (p *Pair) Stop() error {
	var failures []error
	for _, process := range []*Process{p.Server1, p.Server2} {
		if process != nil {
			failures = append(failures, process.Stop())
		}
	}
	return errors.Join(failures...)
}

// Dial returns a client of the pair.
func (p *Pair) Dial() (*Client, error) { return Dial(p.Server1.Address, p.Server2.Address, p.CA) }

func (p *Pair) path(elements ...string) string {
	return filepath.Join(append([]string{p.config.Dir}, elements...)...)
}

func (p *Pair) program(name string) string { return filepath.Join(p.config.Bin, name) }

// makeKeys makes SERVER1's signing key, gives SERVER2 the public key file, and
// makes certificates for both.
func (p *Pair) makeKeys(ctx context.Context) error {
	handoff := p.program("handoff")
	for _, args := range [][]string{
		{"keygen", "--out", p.path("server1", "signing.key")},
		{"public", "--key", p.path("server1", "signing.key"), "--out", p.path("server2", "issuer.jwks")},
		{"devcert", "--out", p.path("tls"), "--host", "localhost", "--host", "127.0.0.1"},
	} {
		if _, err := run(ctx, "", handoff, args...); err != nil {
			return err
		}
	}
	return nil
}

var addedID = regexp.MustCompile(`\bid ([^ ,]+)`)

// addUsers adds alice, who may pay, and bob, who may look at the books as well.
func (p *Pair) addUsers(ctx context.Context) error {
	p.Users = map[string]User{}
	for _, user := range []User{
		{Name: "alice", Roles: []string{"payer"}},
		{Name: "bob", Roles: []string{"payer", "auditor"}},
	} {
		args := []string{"user", "add", "--database", p.path("server1", "server1.db"), "--name", user.Name}
		for _, role := range user.Roles {
			args = append(args, "--role", role)
		}
		output, err := run(ctx, Password+"\n", p.program("handoff-server1"), args...)
		if err != nil {
			return err
		}
		id := addedID.FindStringSubmatch(output)
		if id == nil {
			return fmt.Errorf("user add does not say the user's id: %q", output)
		}
		user.ID = id[1]
		p.Users[user.Name] = user
	}
	return nil
}

// writeInvoices gives SERVER2 its invoices. It knows users by (iss, sub) alone.
func (p *Pair) writeInvoices(ctx context.Context) error {
	type invoice struct {
		ID           string `json:"invoice_id"`
		Issuer       string `json:"issuer"`
		Subject      string `json:"subject"`
		CurrencyCode string `json:"currency_code"`
		MinorUnits   int64  `json:"minor_units"`
	}
	var all []invoice
	for id, of := range map[string]struct {
		user       string
		minorUnits int64
	}{
		"INV-42": {"alice", 1200}, "INV-44": {"alice", 500}, "INV-43": {"bob", 9900}, "INV-45": {"bob", 2500},
	} {
		all = append(all, invoice{id, Issuer, p.Users[of.user].ID, "EUR", of.minorUnits})
	}
	if err := writeJSON(p.path("server2", "invoices.json"), all); err != nil {
		return err
	}
	_, err := run(ctx, "", p.program("handoff-server2"), "seed", "--database", p.path("server2", "server2.db"), p.path("server2", "invoices.json"))
	return err
}

// writePolicy writes which roles may hand off what to whom.
func (p *Pair) writePolicy(context.Context) error {
	roles := func(names ...string) any { return map[string]any{"roles": names} }
	return writeJSON(p.path("server1", "policy.json"), map[string]any{"audiences": map[string]any{
		Audience: map[string]any{
			"target": p.Server2.Address,
			"methods": map[string]any{
				server2v1.InvoiceService_GetInvoice_FullMethodName:     roles("payer"),
				server2v1.InvoiceService_PayInvoice_FullMethodName:     roles("payer"),
				server2v1.InvoiceService_ExportPayments_FullMethodName: roles("auditor"),
			},
		},
		OtherAudience: map[string]any{
			"target":  "dns:///archive.localhost:443",
			"methods": map[string]any{server2v1.InvoiceService_PayInvoice_FullMethodName: roles("payer")},
		},
	}})
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// StartServer1 starts SERVER1, which must not be running.
func (p *Pair) StartServer1(ctx context.Context) (err error) {
	p.Server1, err = startProcess(ctx, "SERVER1", p.path("server1", "server1.log"), p.program("handoff-server1"),
		slices.Concat([]string{
			"serve", "--listen", listenAgain(p.Server1),
			"--tls-cert", p.path("tls", "server.pem"), "--tls-key", p.path("tls", "server.key"),
			"--issuer", Issuer, "--key", p.path("server1", "signing.key"),
			"--policy", p.path("server1", "policy.json"), "--database", p.path("server1", "server1.db"),
		}, p.config.Server1)...)
	return err
}

// StartServer2 starts SERVER2, which must not be running.
func (p *Pair) StartServer2(ctx context.Context) (err error) {
	p.Server2, err = startProcess(ctx, "SERVER2", p.path("server2", "server2.log"), p.program("handoff-server2"),
		slices.Concat([]string{
			"serve", "--listen", listenAgain(p.Server2),
			"--tls-cert", p.path("tls", "server.pem"), "--tls-key", p.path("tls", "server.key"),
			"--audience", Audience, "--issuer", Issuer, "--keys", p.path("server2", "issuer.jwks"),
			"--database", p.path("server2", "server2.db"),
		}, p.config.Server2)...)
	return err
}

// listenAgain is where a server listens: where it did before, or on a free port.
func listenAgain(before *Process) string {
	if before == nil {
		return "127.0.0.1:0"
	}
	return before.Address
}

// Ready waits until both servers say that they are serving.
func (p *Pair) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client, err := p.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	for _, connection := range client.connections {
		if err := waitServing(ctx, connection); err != nil {
			return fmt.Errorf("%s is not ready: %w", connection.Target(), err)
		}
	}
	return nil
}

// waitServing follows a server's own word for its health.
func waitServing(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := healthpb.NewHealthClient(connection).Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if response.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
	}
}

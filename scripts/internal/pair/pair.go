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

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// The names by which the two know each other, and the password of every demo
// user.
const (
	Issuer        = "https://shop.localhost"
	Audience      = "https://billing.localhost"
	OtherAudience = "https://archive.localhost" // SERVER1 may hand off to it; nobody runs it
	Password      = "correct horse battery staple"
)

// The hosts that a browser visits.
const (
	shopHost    = "shop.localhost"
	billingHost = "billing.localhost"
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
	// Audiences is how many SERVER2s there are, each with a folder and a database
	// of its own. Zero: one.
	Audiences int
	// Issuers is how many SERVER1s there are: processes of one issuer, which need
	// Postgres to be more than one. Zero: one.
	Issuers int
	// Postgres has all SERVER1s keep one database in it, and all SERVER2s another.
	// Nil: files.
	Postgres *harness.Postgres
	// Trust has SERVER2 follow SERVER1's trust list, with only the public trust key,
	// and both serve pages for browsers. Otherwise it is given a file with the public
	// signing key, and there are no pages.
	Trust bool
	// Visits is how long a visit can last; zero: there are none. It needs Trust. Payers
	// may visit each audience, to look at invoices and payments. A key that is retired
	// stays on the list for as long.
	Visits time.Duration
	// Linked is how many audiences, the last ones, read the trust list through a
	// link of their own: Pair.Links.
	Linked int
	// FollowAll has each audience read the trust list of every SERVER1, and not just of
	// the first.
	FollowAll bool
	// Guests is how many users there are besides: guest-1, guest-2, and so on, who
	// may look at invoices, and have none.
	Guests int
	// Server1 and Server2 are flags in addition to the necessary ones.
	Server1, Server2 []string
	// Audience returns more flags of one audience. Nil: there are none.
	Audience func(i int) []string
}

// Pair is the running processes: two, unless there are more audiences.
type Pair struct {
	// Server1 is the first of the issuer's processes.
	Server1 *Process
	Issuers []*Process
	// Server2 is the first of the audiences.
	Server2   *Process
	Audiences []*Process
	// Links are those of the last audiences, with Config.Linked.
	Links []*Link
	// CA is the file with the certificate of the development authority.
	CA string
	// Users are the demo users, by name.
	Users map[string]User

	config  Config
	sealTo  string   // the file of the key to which SERVER1 seals; empty: it does not
	listen1 []string // where each SERVER1 listens: audiences are told before it starts
	web1    []string // and where for browsers
	listen2 []string // where each SERVER2 does; empty until it starts
	web2    []string // and where for browsers
	held    []*harness.Port
}

// Start makes the keys, the certificates, the users and the invoices, and starts
// both servers on free loopback ports.
func Start(ctx context.Context, config Config) (*Pair, error) {
	config.Audiences = max(config.Audiences, 1)
	config.Issuers = max(config.Issuers, 1)
	p := &Pair{
		config: config, CA: filepath.Join(config.Dir, "tls", "ca.pem"),
		Issuers: make([]*Process, config.Issuers), Audiences: make([]*Process, config.Audiences), listen1: make([]string, config.Issuers),
		listen2: make([]string, config.Audiences), web2: make([]string, config.Audiences),
		web1: make([]string, config.Issuers),
	}
	folders := []string{p.path("server1")}
	for i := range p.Audiences {
		folders = append(folders, p.server2(i))
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	for i := range p.listen1 {
		var err error
		if p.listen1[i], err = p.hold(); err != nil {
			return nil, err
		}
		if p.web1[i], err = p.hold(); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{
		p.makeLinks, p.makeKeys, p.addUsers, p.writeInvoices, p.startAudiences, p.writePolicy, p.startIssuers,
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
	for _, process := range slices.Concat(p.Issuers, p.Audiences) {
		if process != nil {
			failures = append(failures, process.Stop())
		}
	}
	for _, link := range p.Links {
		link.Close()
	}
	for _, port := range p.held {
		failures = append(failures, port.Close())
	}
	p.held = nil
	return errors.Join(failures...)
}

func (p *Pair) makeLinks(ctx context.Context) error {
	for range p.config.Linked {
		link, err := NewLink(ctx, p.listen1[0])
		if err != nil {
			return err
		}
		p.Links = append(p.Links, link)
	}
	return nil
}

// trustSources are where an audience reads the trust list.
func (p *Pair) trustSources(i int) []string {
	if linked := i - (len(p.Audiences) - len(p.Links)); linked >= 0 {
		return []string{p.Links[linked].Address()}
	}
	if p.config.FollowAll {
		return p.listen1
	}
	return p.listen1[:1]
}

// Dial returns a client of the pair.
func (p *Pair) Dial() (*Client, error) { return Dial(p.Server1.Address, p.Server2.Address, p.CA) }

func (p *Pair) path(elements ...string) string {
	return filepath.Join(append([]string{p.config.Dir}, elements...)...)
}

// server2 is the folder of an audience: server2, server2-1, server2-2.
func (p *Pair) server2(i int, elements ...string) string {
	folder := "server2"
	if i > 0 {
		folder = fmt.Sprintf("server2-%d", i)
	}
	return p.path(append([]string{folder}, elements...)...)
}

func (p *Pair) program(name string) string { return filepath.Join(p.config.Bin, name) }

// makeKeys makes SERVER1's keys, gives each SERVER2 its public key file, and makes
// certificates for all.
func (p *Pair) makeKeys(ctx context.Context) error {
	public := "signing.key"
	if p.config.Trust {
		public = "trust.key" // SERVER1 makes its signing keys itself, and they change
	}
	commands := [][]string{
		{"keygen", "--out", p.path("server1", public)},
		{"devcert", "--out", p.path("tls"), "--host", "localhost", "--host", "127.0.0.1", "--host", shopHost, "--host", billingHost},
	}
	for i := range p.Audiences {
		commands = append(commands, []string{"public", "--key", p.path("server1", public), "--out", p.server2(i, "issuer.jwks")})
	}
	commands = append(commands,
		[]string{"keygen", "--use", "enc", "--out", p.unsealKey()},
		[]string{"public", "--key", p.unsealKey(), "--out", p.SealKey()})
	return p.handoff(ctx, commands...)
}

// handoff runs commands of the operators'.
func (p *Pair) handoff(ctx context.Context, commands ...[]string) error {
	for _, args := range commands {
		if _, err := run(ctx, "", p.program("handoff"), args...); err != nil {
			return err
		}
	}
	return nil
}

// unsealKey is the file of the key that opens what is sealed to SERVER2, which all
// replicas have.
func (p *Pair) unsealKey() string { return p.server2(0, "unseal.key") }

// SealKey is the file of its public half, which SERVER2's operator has given to
// SERVER1's.
func (p *Pair) SealKey() string { return p.path("server1", "billing-seal.jwks") }

// Seal has SERVER1 seal all tokens for SERVER2 within the second, or no longer.
func (p *Pair) Seal(ctx context.Context, on bool) error {
	p.sealTo = ""
	if on {
		p.sealTo = p.SealKey()
	}
	return p.writePolicy(ctx)
}

// SealTo has SERVER1 seal them to the public key in a file.
func (p *Pair) SealTo(ctx context.Context, file string) error {
	p.sealTo = file
	return p.writePolicy(ctx)
}

// NewUnsealKey makes a key that opens sealed tokens, in a file, and its public half in
// another.
func (p *Pair) NewUnsealKey(ctx context.Context, name string) (private, public string, err error) {
	private, public = p.path(name+".key"), p.path(name+".jwks")
	return private, public, p.handoff(ctx, []string{"keygen", "--use", "enc", "--out", private}, []string{"public", "--key", private, "--out", public})
}

var addedID = regexp.MustCompile(`\bid ([^ ,]+)`)

// addUsers adds alice, who may pay, and bob, who may look at the books as well.
func (p *Pair) addUsers(ctx context.Context) error {
	p.Users = map[string]User{}
	users := []User{
		{Name: "alice", Roles: []string{"payer"}},
		{Name: "bob", Roles: []string{"payer", "auditor"}},
	}
	for i := range p.config.Guests {
		users = append(users, User{Name: fmt.Sprintf("guest-%d", i+1), Roles: []string{"payer"}})
	}
	for _, user := range users {
		args := []string{"user", "add", "--database", p.database1(), "--name", user.Name}
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
		"INV-46": {"alice", 700}, "INV-47": {"alice", 300}, "INV-48": {"alice", 1900}, "INV-49": {"alice", 850},
	} {
		all = append(all, invoice{id, Issuer, p.Users[of.user].ID, "EUR", of.minorUnits})
	}
	for i := range p.Audiences {
		if err := writeJSON(p.server2(i, "invoices.json"), all); err != nil {
			return err
		}
		_, err := run(ctx, "", p.program("handoff-server2"), "seed", "--database", p.database2(i), p.server2(i, "invoices.json"))
		if err != nil {
			return err
		}
		if p.config.Postgres != nil {
			break // which all have
		}
	}
	return nil
}

// writePolicy writes which roles may hand off what to whom.
func (p *Pair) writePolicy(context.Context) error {
	roles := func(names ...string) any { return map[string]any{"roles": names} }
	billing := map[string]any{
		"target": p.Server2.Address,
		"methods": map[string]any{
			server2v1.InvoiceService_GetInvoice_FullMethodName:     roles("payer"),
			server2v1.InvoiceService_PayInvoice_FullMethodName:     roles("payer"),
			server2v1.InvoiceService_ExportPayments_FullMethodName: roles("auditor"),
		},
	}
	if p.config.Trust {
		billing["web"] = p.Billing()
	}
	if p.sealTo != "" {
		keys, err := os.ReadFile(p.sealTo)
		if err != nil {
			return err
		}
		billing["seal"] = json.RawMessage(keys)
	}
	if p.config.Visits > 0 {
		billing["visits"] = map[string]any{"roles": []string{"payer"}, "methods": []string{
			server2v1.InvoiceService_GetInvoice_FullMethodName, server2v1.InvoiceService_ListInvoices_FullMethodName,
			server2v1.InvoiceService_ExportPayments_FullMethodName,
		}}
	}
	return writeJSON(p.path("server1", "policy.json"), map[string]any{"audiences": map[string]any{
		Audience: billing,
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
	temporary := path + ".new" // a server may be reading
	if err := os.WriteFile(temporary, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// database1 is what SERVER1's --database is given, and database2 an audience's.
func (p *Pair) database1() string {
	if p.config.Postgres != nil {
		return p.config.Postgres.URL("server1")
	}
	return p.path("server1", "server1.db")
}

func (p *Pair) database2(i int) string {
	if p.config.Postgres != nil {
		return p.config.Postgres.URL("server2")
	}
	return p.server2(i, "server2.db")
}

// StartServer1 starts the first SERVER1, which must not be running.
func (p *Pair) StartServer1(ctx context.Context) error { return p.startIssuer(ctx, 0) }

func (p *Pair) startIssuers(ctx context.Context) error {
	for i := range p.Issuers {
		if err := p.startIssuer(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pair) startIssuer(ctx context.Context, i int) error {
	args := []string{
		"serve", "--listen", p.listen1[i],
		"--tls-cert", p.path("tls", "server.pem"), "--tls-key", p.path("tls", "server.key"),
		"--issuer", Issuer, "--policy", p.path("server1", "policy.json"), "--database", p.database1(), "--client-certificates",
	}
	if p.config.Trust {
		args = append(args, "--key-dir", p.path("server1", "keys"), "--trust-key", p.path("server1", "trust.key"), "--http", p.web1[i])
	} else {
		args = append(args, "--key", p.path("server1", "signing.key"))
	}
	if p.config.Visits > 0 {
		args = append(args, "--max-visit-lifetime", p.config.Visits.String())
	}
	log := p.path("server1", "server1.log")
	if i > 0 {
		log = p.path("server1", fmt.Sprintf("server1-%d.log", i))
	}
	process, err := startProcess(ctx, "SERVER1", log, p.program("handoff-server1"), append(args, p.config.Server1...)...)
	if err != nil {
		return err
	}
	p.Issuers[i] = process
	p.Server1 = p.Issuers[0]
	return nil
}

// Restart starts those that have ended, where they were.
func (p *Pair) Restart(ctx context.Context) error {
	for i, process := range p.Issuers {
		if process.ended() {
			if err := p.startIssuer(ctx, i); err != nil {
				return err
			}
		}
	}
	for i, process := range p.Audiences {
		if process.ended() {
			if err := p.StartServer2(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// StartServer2 starts an audience, which must not be running: on a free port, or
// where it was before.
func (p *Pair) StartServer2(ctx context.Context, i int) (err error) {
	if p.listen2[i] == "" {
		if p.listen2[i], err = p.hold(); err != nil {
			return err
		}
		if p.web2[i], err = p.hold(); err != nil {
			return err
		}
	}
	args := []string{
		"serve", "--listen", p.listen2[i],
		"--tls-cert", p.path("tls", "server.pem"), "--tls-key", p.path("tls", "server.key"),
		"--audience", Audience, "--issuer", Issuer, "--database", p.database2(i), "--unseal-key", p.unsealKey(), "--client-certificates",
	}
	if p.config.Trust {
		args = append(args, "--trust-key", p.server2(i, "issuer.jwks"), "--trust-ca", p.CA,
			"--http", p.web2[i], "--issuer-origin", p.Shop(), "--issuer-return", p.Shop()+"/orders/")
		for _, source := range p.trustSources(i) {
			args = append(args, "--trust", "grpc://"+source)
		}
	} else {
		args = append(args, "--keys", p.server2(i, "issuer.jwks"))
	}
	if p.config.Visits > 0 {
		args = append(args, "--issuer-visit", p.Shop()+"/visit")
	}
	args = append(args, p.config.Server2...)
	if p.config.Audience != nil {
		args = append(args, p.config.Audience(i)...)
	}
	process, err := startProcess(ctx, "SERVER2", p.server2(i, "server2.log"), p.program("handoff-server2"), args...)
	if err != nil {
		return err
	}
	p.Audiences[i] = process
	p.Server2 = p.Audiences[0]
	return nil
}

func (p *Pair) startAudiences(ctx context.Context) error {
	for i := range p.Audiences {
		if err := p.StartServer2(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// hold holds a port for a server that may come back on it, until Stop.
func (p *Pair) hold() (address string, err error) {
	port, err := harness.HoldPort()
	if err != nil {
		return "", err
	}
	p.held = append(p.held, port)
	return port.Address(), nil
}

// Operate runs a command of SERVER1's operator on the database of the running
// server, such as keys activate, and returns what it prints. The arguments are
// the command's: an id may begin with a dash.
func (p *Pair) Operate(ctx context.Context, command []string, arguments ...string) (string, error) {
	args := append(slices.Clip(command), "--database", p.database1())
	if len(arguments) > 0 {
		args = append(append(args, "--"), arguments...)
	}
	return run(ctx, "", p.program("handoff-server1"), args...)
}

// KeyDir is the folder of SERVER1's signing keys, with Config.Trust.
func (p *Pair) KeyDir() string { return p.path("server1", "keys") }

// Ready waits until all servers say that they are serving.
func (p *Pair) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for i, audience := range p.Audiences {
		client, err := Dial(p.Issuers[i%len(p.Issuers)].Address, audience.Address, p.CA)
		if err != nil {
			return err
		}
		defer client.Close()
		if err := client.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

//go:build cgo

package pkcs11

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

const password = "a long enough password"

const policy = `{"audiences": {"https://billing.example": {"target": "127.0.0.1:8442", "methods": {
	"/handoff.server2.v1.InvoiceService/GetInvoice": {"roles": ["payer"]}}}}}`

// operators is a shell with the programs on its PATH, in a folder with what both servers
// need.
type operators struct {
	*testing.T
	folder  string
	environ []string
}

func (o operators) command(script string) *exec.Cmd {
	command := exec.Command("sh", "-euc", script)
	command.Dir, command.Env = o.folder, o.environ
	return command
}

// shell runs a script to its end.
func (o operators) shell(script, input string) string {
	o.Helper()
	command := o.command(script)
	command.Stdin = strings.NewReader(input)
	output, err := command.CombinedOutput()
	if err != nil {
		o.Fatalf("%s\n%v: %s", script, err, output)
	}
	return string(output)
}

// serve runs a script that becomes a server until the test ends, and returns its address.
func (o operators) serve(script string) (address string) {
	o.Helper()
	command, log := o.command(script), &servingtest.Log{}
	command.Stderr = log
	stdout, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		o.Fatal(err)
	}
	o.Cleanup(func() {
		_ = command.Process.Signal(os.Interrupt)
		if err := command.Wait(); err != nil {
			o.Errorf("%v: %s", err, log)
		}
	})
	lines := bufio.NewReader(stdout)
	line, _ := lines.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		o.Fatalf("%s\nsays %q: %s", script, line, log)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return address
}

// programs has both servers, as make builds them.
var programs = sync.OnceValues(func() (string, error) {
	into, err := os.MkdirTemp("", "handoff-programs-")
	if err != nil {
		return "", err
	}
	leavings = append(leavings, into)
	for _, build := range []struct{ in, cgo, tags, of, name string }{
		{".", "1", "netgo,osusergo", "./cmd/handoff-server1", "handoff-server1"},
		{filepath.Join("..", ".."), "0", "", "./server2", "handoff-server2"},
	} {
		command := exec.Command("go", "build", "-trimpath", "-tags="+build.tags, "-o", filepath.Join(into, build.name), build.of)
		command.Dir, command.Env = build.in, append(os.Environ(), "CGO_ENABLED="+build.cgo)
		if output, err := command.CombinedOutput(); err != nil {
			return into, fmt.Errorf("%s: %w: %s", build.of, err, output)
		}
	}
	return into, nil
})

func newOperators(t *testing.T, h softHSM) (operators, *servingtest.Authority) {
	t.Helper()
	into, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	o, authority := operators{T: t, folder: t.TempDir()}, servingtest.NewAuthority(t)
	authority.Issue(t, filepath.Join(o.folder, "tls"), "127.0.0.1")
	config := filepath.Join(o.folder, "softhsm2.conf") // with tokens of its own, as it makes keys in them
	if err := errors.Join(os.CopyFS(filepath.Join(o.folder, "tokens"), os.DirFS(filepath.Join(h.folder, "tokens"))), configure(config)); err != nil {
		t.Fatal(err)
	}
	o.environ = []string{"PATH=" + into + ":" + os.Getenv("PATH"), "SOFTHSM2_CONF=" + config, "MODULE=" + h.module, "PIN=" + pin}
	return o, authority
}

// SERVER1 signs its trust list and its handoffs with keys in tokens, by the commands of its
// page, and SERVER2 takes them.
func TestServer1(t *testing.T) {
	h := tokens(t)
	o, authority := newOperators(t, h)
	page, err := os.ReadFile(filepath.Join("..", "OPERATING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Keys in an HSM\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) != 2 {
		t.Fatalf("the section has %d blocks of commands, want 2", len(blocks))
	}
	prepare, serve, ok := strings.Cut(blocks[1][1], "handoff-server1 serve …")
	if !ok {
		t.Fatalf("no server is started:\n%s", blocks[1][1])
	}
	o.shell(prepare, "")
	if err := os.WriteFile(filepath.Join(o.folder, "policy.json"), []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	o.shell("handoff-server1 user add --database server1.db --name alice --role payer", password+"\n")
	variable := regexp.MustCompile(`(?m)^TRUST_KEY=.*$`).FindString(prepare)
	signing := h.uri("token=first;object=edwards", "pin")
	one := o.serve(variable + "\nexec handoff-server1 serve --listen 127.0.0.1:0 --tls-cert tls.crt --tls-key tls.key --database server1.db " +
		"--issuer https://shop.example --policy policy.json --key '" + signing + "'" + serve)
	two := o.serve("exec handoff-server2 serve --listen 127.0.0.1:0 --tls-cert tls.crt --tls-key tls.key --database server2.db --skew 1s " +
		"--audience https://billing.example --issuer https://shop.example --trust-key trust.jwks --trust grpc://" + one + " --trust-ca " + authority.File)

	if keys := o.shell("handoff-server1 keys list --database server1.db", ""); !strings.Contains(keys, "EdDSA") || strings.Count(keys, "signs") != 1 {
		t.Errorf("another key signs than the token's:\n%s", keys)
	}
	o.shell("handoff-server1 keys prepare --database server1.db --key-dir keys --key '"+signing+"'", "")

	roots, err := credentials.NewClientTLSFromFile(authority.File, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{T: t, shop: dial(t, one, roots), billing: dial(t, two, roots)}
	issued, session := c.handOff()
	c.becomes(issued.GetToken(), 0)
	_, err = handoffv1.NewHandoffServiceClient(c.shop).RevokeHandoff(t.Context(),
		&handoffv1.RevokeHandoffRequest{HandoffId: issued.GetHandoffId()}, handoffgrpc.Token(session))
	if err != nil {
		t.Fatal(err)
	}
	c.becomes(issued.GetToken(), handoff.ReasonTokenRevoked)
}

// A setting that is wrong is named, and ends the start with status 2.
func TestServer1Refuses(t *testing.T) {
	h := tokens(t)
	o, _ := newOperators(t, h)
	for name, key := range map[string]string{
		"a wrong PIN": h.uri("token=first;object=edwards", "wrong"), "no key": h.uri("token=first;object=absent", "pin"),
		"the PIN itself": "pkcs11:token=first;object=edwards?pin-value=" + pin,
	} {
		var said bytes.Buffer
		command := o.command("exec handoff-server1 keys public --key '" + key + "'")
		command.Stderr = &said
		err := command.Run()
		exited := new(exec.ExitError)
		if !errors.As(err, &exited) || exited.ExitCode() != 2 || !strings.Contains(said.String(), "--key") || strings.Contains(said.String(), pin) {
			t.Errorf("%s: %v: %s", name, err, &said)
		}
	}
}

func dial(t *testing.T, address string, roots credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(roots))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// client is alice's.
type client struct {
	*testing.T
	shop, billing *grpc.ClientConn
}

// look is of an invoice that nobody has: the handler says so to whom the guard lets through.
var look = &server2v1.GetInvoiceRequest{InvoiceId: "INV-404"}

func (c *client) handOff() (issued *handoffv1.IssueHandoffResponse, session string) {
	c.Helper()
	in, err := server1v1.NewSessionServiceClient(c.shop).SignIn(c.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
	if err != nil {
		c.Fatal(err)
	}
	request, err := anypb.New(look)
	if err != nil {
		c.Fatal(err)
	}
	issued, err = handoffv1.NewHandoffServiceClient(c.shop).IssueHandoff(c.Context(), &handoffv1.IssueHandoffRequest{
		Audience: "https://billing.example", Method: server2v1.InvoiceService_GetInvoice_FullMethodName, Request: request,
	}, handoffgrpc.Token(in.GetSession()))
	if err != nil {
		c.Fatal(err)
	}
	return issued, in.GetSession()
}

// becomes waits until SERVER2 makes that of a token; 0 is that it lets it through.
func (c *client) becomes(token string, want handoff.Reason) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute) // on a busy machine
	defer cancel()
	for said := ""; ; time.Sleep(50 * time.Millisecond) {
		_, err := server2v1.NewInvoiceServiceClient(c.billing).GetInvoice(ctx, look, handoffgrpc.Token(token))
		if reason := handoffgrpc.ReasonOf(err); reason == want && (want != 0 || status.Code(err) == codes.NotFound) {
			return
		}
		if ctx.Err() != nil {
			c.Fatalf("want %s, and the last word is %s", want, said)
		}
		said = fmt.Sprint(err)
	}
}

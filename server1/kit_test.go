package server1

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/signkey"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

const (
	issuerName = "https://shop.example"
	billing    = "https://billing.example"
	password   = "correct horse"
	payInvoice = server2v1.InvoiceService_PayInvoice_FullMethodName
	getInvoice = server2v1.InvoiceService_GetInvoice_FullMethodName
	goodPolicy = `{"audiences": {"` + billing + `": {
		"target": "dns:///billing.example:443",
		"methods": {
			"` + getInvoice + `": {"roles": ["payer", "reader"]},
			"` + payInvoice + `": {"roles": ["payer"], "max_lifetime_seconds": 30}
		}}}}`
)

// site is a folder with everything that SERVER1 needs.
type site struct {
	dir  string
	pool *x509.CertPool
	key  *signkey.Key

	trustKey *signkey.Key // nil: no trust list
	database string       // where it is
}

func newSite(t testing.TB) *site {
	t.Helper()
	authority := servingtest.NewAuthority(t)
	s := &site{dir: t.TempDir(), pool: authority.Pool}
	s.database = s.path("server1.db")
	var err error
	if s.key, err = signkey.Generate(handoff.EdDSA); err != nil {
		t.Fatal(err)
	}
	if err := s.key.Save(s.path("shop.key")); err != nil {
		t.Fatal(err)
	}
	s.write(t, "policy.json", goodPolicy, 0o644)
	authority.Issue(t, s.path("tls"), "127.0.0.1")
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return s.path(name)
}

// settings returns the flags of a server that starts.
func (s *site) settings() map[string]string {
	return map[string]string{
		"database": s.database, "issuer": issuerName, "key": s.path("shop.key"),
		"policy": s.path("policy.json"), "tls-cert": s.path("tls.crt"), "tls-key": s.path("tls.key"),
		"listen": "127.0.0.1:0", "shutdown-delay": "0s", "shutdown-grace": "5s",
	}
}

func arguments(command string, settings map[string]string) []string {
	args := []string{command}
	for flag, value := range settings {
		args = append(args, "--"+flag+"="+value)
	}
	return args
}

// running is a started server.
type running struct {
	*site
	log  *servingtest.Log
	conn *grpc.ClientConn
	http string // the address of the HTTPS listener, if there is one
}

// start runs the program until the test ends, and checks that it stops in order.
func (s *site) start(t testing.TB, more map[string]string) *running {
	t.Helper()
	settings := s.settings()
	for flag, value := range more {
		if settings[flag] = value; value == "" {
			delete(settings, flag)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	r := &running{site: s, log: &servingtest.Log{}}
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, arguments("serve", settings), nil, strings.NewReader(""), stdout, r.log)
		stdout.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-status; got != 0 {
			t.Errorf("exit status %d after an orderly stop; the log:\n%s", got, r.log)
		}
	})
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "listening on ")
	if err != nil || !ok {
		t.Fatalf("stdout is %q, %v; the log:\n%s", line, err, r.log)
	}
	if settings["http"] != "" {
		line, err := lines.ReadString('\n')
		if r.http, ok = strings.CutPrefix(strings.TrimSuffix(line, "\n"), "https on "); err != nil || !ok {
			t.Fatalf("stdout is %q, %v", line, err)
		}
	}
	go io.Copy(io.Discard, lines)
	r.conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: s.pool, MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r
}

func (r *running) sessions() server1v1.SessionServiceClient {
	return server1v1.NewSessionServiceClient(r.conn)
}

func (r *running) handoffs() handoffv1.HandoffServiceClient {
	return handoffv1.NewHandoffServiceClient(r.conn)
}

// cheapHash is a hash of the password that is quick to check: the least that the program takes for its own. Most of
// what the tests of a server do is signing in.
var cheapHash = sync.OnceValue(func() string {
	const memory = 8 << 10
	salt := []byte("a salt for tests")
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=1,p=1$%s$%s", argon2.Version, memory,
		encode(salt), encode(argon2.IDKey([]byte(password), salt, 1, memory, 1, 32)))
})

// addUser adds a user, as the program's own command does.
func (s *site) addUser(t testing.TB, name string, roles ...string) {
	t.Helper()
	db, err := database.Open(t.Context(), s.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.AddUser(t.Context(), database.User{
		ID: handoff.NewID(), Name: name, PasswordHash: cheapHash(), Roles: roles, Created: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
}

// patiently makes a call that is refused where the database does not answer in time, as on a machine that is busy
// enough: then once more.
func patiently[T any](call func() (T, error)) (answer T, err error) {
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		answer, err = call()
		if handoffgrpc.ReasonOf(err) != handoff.ReasonIssuerUnavailable || time.Since(start) > patience {
			return answer, err
		}
	}
}

// signIn returns a context with a new session of the user, and its id.
func (r *running) signIn(t testing.TB, name string) (context.Context, string) {
	t.Helper()
	resp, err := patiently(func() (*server1v1.SignInResponse, error) {
		return r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: name, Password: password})
	})
	if err != nil {
		t.Fatal(err)
	}
	return with(t, "Bearer "+resp.GetSession()), resp.GetSession()
}

// with returns a context with these values of authorization.
func with(t testing.TB, values ...string) context.Context {
	ctx := t.Context()
	for _, value := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
	}
	return ctx
}

// main and run are the program, as most builds have it.
func main() { Main(Config{}) }

func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return Config{}.run(ctx, args, env, stdin, stdout, stderr)
}

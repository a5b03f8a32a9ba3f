package handoff_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/trust"
)

// kind is a kind of JWT that the project makes: make makes one by what makes it
// for real, and take offers a text to what takes it for real. All are made with
// one key that everything trusts, so that the key refuses none.
type kind struct {
	typ  string
	make func(t *testing.T, key *forge.Key) string
	take func(t *testing.T, key *forge.Key, raw string) handoff.Check // empty: taken
}

var kinds = []kind{
	{"handoff+jwt", makeToken, takeToken},
	{"handoff-visit+jwt", makeVisit, takeVisit},
	{"handoff-trust+jwt", makeList, takeList},
	{"client-authentication+jwt", makeAssertion, takeAssertion},
	{"handoff-proof+jwt", makeProof, takeProof}, // signkey's, of a key to itself
}

// A17: every kind of JWT offered everywhere one is taken. Only the diagonal passes,
// and other people's kinds pass nowhere.
func TestA17Matrix(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	for _, made := range kinds {
		raw := made.make(t, key)
		for _, taken := range kinds {
			want := handoff.Check("")
			if made.typ != taken.typ {
				want = "header.typ"
			}
			if got := taken.take(t, key, raw); got != want {
				t.Errorf("a %s offered as a %s: refused by %q, want %q", made.typ, taken.typ, got, want)
			}
		}
	}
	good := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now})
	for _, typ := range []string{
		"JWT", "at+jwt", "id_token+jwt", "client-authentication+JWT", "dpop+jwt", "secevent+jwt", "logout+jwt", "oauth-authz-req+jwt",
		"token-introspection+jwt", "kb+jwt", "application/handoff+jwt", "HANDOFF+JWT", "handoff-trust+JWT", "handoff",
	} {
		for _, taken := range kinds {
			if got := taken.take(t, key, good.WithHeader("typ", forge.Quote(typ)).Compact()); got != "header.typ" {
				t.Errorf("a %s offered as a %s: refused by %q", typ, taken.typ, got)
			}
		}
	}
}

func makeToken(t *testing.T, key *forge.Key) string {
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: shop, Key: signer{key}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := issuer.Issue(t.Context(), params())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func takeToken(t *testing.T, key *forge.Key, raw string) handoff.Check {
	_, err := trusting(t, key).Verify(t.Context(), raw)
	return checkOf(t, err)
}

func makeVisit(t *testing.T, key *forge.Key) string {
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: shop, Key: signer{key}, MaxVisitLifetime: time.Hour, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := issuer.Issue(t.Context(), visitParams())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func takeVisit(t *testing.T, key *forge.Key, raw string) handoff.Check {
	_, err := trusting(t, key).VerifyVisit(t.Context(), raw)
	return checkOf(t, err)
}

// trusting returns billing's verifier, which follows a trust list of shop with one key.
func trusting(t *testing.T, key *forge.Key) *handoff.Verifier {
	t.Helper()
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: following{keys: keys{key.Public}}}, Store: &recorder{},
		Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

func checkOf(t *testing.T, err error) handoff.Check {
	if err == nil {
		return ""
	}
	return refusal(t, err).Check
}

// listed is what a trust list states.
type listed []handoff.Key

func (l listed) State(context.Context) (trust.State, error) { return trust.State{Keys: l}, nil }

func makeList(t *testing.T, key *forge.Key) string {
	file := filepath.Join(t.TempDir(), "list.jwt")
	publisher, err := trust.NewPublisher(trust.PublisherConfig{
		Terms: trust.Terms{Issuer: shop}, Key: signer{key}, Source: listed{forge.NewKey(handoff.EdDSA).Public},
		File: file, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := publisher.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	statement, _, _ := strings.Cut(string(raw), "\n")
	return statement
}

// feed brings one text.
type feed string

func (f feed) Follow(ctx context.Context, _ string, deliver func(string, trust.Fetch) error) error {
	if err := deliver(string(f), trust.Given("")); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func takeList(t *testing.T, key *forge.Key, raw string) handoff.Check {
	events := make(chan trust.Event, 100)
	follower, err := trust.NewFollower(trust.FollowerConfig{
		Issuer: shop, TrustKeys: []handoff.Key{key.Public}, Feed: feed(raw), Now: func() time.Time { return now },
		Report: func(e trust.Event) { events <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		follower.Run(ctx)
	}()
	event := <-events
	stop()
	<-done
	if event.Fault == "" {
		return ""
	}
	if event.Fault != trust.FaultSignature || follower.Healthy() == nil {
		t.Errorf("the list is refused as %q", event.Fault)
	}
	return event.Check
}

func makeAssertion(t *testing.T, key *forge.Key) string {
	raw, err := assertion.Sign(t.Context(), signer{key}, assertion.Params{Client: "c-1", Audience: shop, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// owner is a client that has one key.
type owner struct{ key handoff.Key }

func (o owner) Client(context.Context, string) (string, handoff.Key, error) { return "c-1", o.key, nil }

func takeAssertion(t *testing.T, key *forge.Key, raw string) handoff.Check {
	verifier, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: shop, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = verifier.Verify(t.Context(), raw, owner{key.Public})
	return checkOf(t, err)
}

func makeProof(t *testing.T, key *forge.Key) string {
	raw, err := handoff.Profile{Typ: "handoff-proof+jwt", MaxLength: 4096}.Seal(t.Context(), []byte("{}"), signer{key})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func takeProof(t *testing.T, key *forge.Key, raw string) handoff.Check {
	_, _, err := handoff.Profile{Typ: "handoff-proof+jwt", MaxLength: 4096}.Open(t.Context(), raw, keys{key.Public})
	return checkOf(t, err)
}

// A kind of JWT is made by a handoff.Profile and by nothing else, and each is in
// the matrix above.
func TestA17EveryKindIsInTheMatrix(t *testing.T) {
	found := map[string]string{}
	parsed := 0
	source(t, func(name string, file *ast.File) {
		parsed++
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if profileName(name, n.Type) && len(n.Elts) > 0 {
					found[typOf(t, name, n)] = name
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && (x.Name == "jose" && n.Sel.Name == "NewSigner" || x.Name == "jwt" && strings.HasPrefix(n.Sel.Name, "Signed")) {
					t.Errorf("%s makes a JWT by %s.%s: make it by a handoff.Profile", name, x.Name, n.Sel.Name)
				}
			}
			return true
		})
	})
	var want []string
	for _, kind := range kinds {
		want = append(want, kind.typ)
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("the project makes %v (%v), the matrix has %v", got, found, want)
	}
	if parsed < 20 {
		t.Errorf("only %d files were looked at", parsed)
	}
}

// source calls look with each file of the module that is no test and not for tests.
func source(t *testing.T, look func(name string, file *ast.File)) {
	t.Helper()
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || path == root:
			return err
		case entry.IsDir():
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || strings.HasPrefix(entry.Name(), ".") ||
				entry.Name() == "testdata" || entry.Name() == "forge" || entry.Name() == "harness" || strings.HasSuffix(entry.Name(), "test") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		look(filepath.ToSlash(name), file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// profileName reports whether an expression is the name of handoff.Profile.
func profileName(name string, of ast.Expr) bool {
	switch of := of.(type) {
	case *ast.Ident:
		return of.Name == "Profile" && strings.HasPrefix(name, "shared/handoff/")
	case *ast.SelectorExpr:
		return of.Sel.Name == "Profile"
	}
	return false
}

// typOf returns the Typ of a literal handoff.Profile.
func typOf(t *testing.T, name string, of *ast.CompositeLit) string {
	t.Helper()
	for _, element := range of.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			break
		}
		if key, ok := pair.Key.(*ast.Ident); !ok || key.Name != "Typ" {
			continue
		}
		if literal, ok := pair.Value.(*ast.BasicLit); ok {
			typ, err := strconv.Unquote(literal.Value)
			if err == nil {
				return typ
			}
		}
	}
	t.Errorf("%s: a Profile whose Typ is not written out: this test cannot tell which kind it is", name)
	return ""
}

package check

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	connect    = "connectrpc.com/connect"
	edwards    = "filippo.io/edwards25519"
	errdetails = "google.golang.org/genproto/googleapis/rpc"
	grpc       = "google.golang.org/grpc"
	jose       = "github.com/go-jose/go-jose/v4"
	jsontext   = "github.com/go-json-experiment/json"
	kong       = "github.com/alecthomas/kong"
	middleware = "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	nistec     = "filippo.io/nistec"
	pgx        = "github.com/jackc/pgx/v5"
	protobuf   = "google.golang.org/protobuf"
	rueidis    = "github.com/redis/rueidis"
)

// room is a package with everything below it. What it imports from this module and from others is listed here, or
// refused; it may import the standard library and itself.
type room struct {
	path    string
	ours    []string
	modules []string
	std     []string // of hooks: what the package is about
	public  bool     // adopters import it
}

var rooms = []room{
	{
		path:    "shared/handoff",
		ours:    []string{"shared/internal/ident", "shared/internal/prepared", "shared/strictjson"},
		modules: []string{jose, jsontext}, public: true,
	},
	{path: "shared/internal/forge", ours: []string{"shared/handoff"}}, // for tests: it signs anything
	{path: "shared/internal/gate", ours: []string{"shared/internal/quota"}, public: true},
	{path: "shared/internal/ident", public: true},
	{path: "shared/internal/jwk", public: true},
	{path: "shared/internal/prepared", modules: []string{edwards, nistec}, public: true},
	{path: "shared/internal/quota", modules: []string{grpc}, public: true},
	{path: "shared/internal/vectors"}, // for tests
	{path: "shared/measure"},          // likewise
	{path: "shared/strictjson", modules: []string{jsontext}, public: true},
	{path: "shared/vetted", public: true},
	{
		path: "shared/keyset",
		ours: []string{"shared/handoff", "shared/internal/jwk", "shared/strictjson", "shared/vetted"}, modules: []string{jose}, public: true,
	},
	{
		path: "shared/sealed",
		ours: []string{"shared/handoff", "shared/internal/jwk", "shared/strictjson", "shared/vetted"}, modules: []string{jose}, public: true,
	},
	{
		path: "shared/signkey",
		ours: []string{"shared/handoff", "shared/internal/jwk", "shared/strictjson", "shared/vetted"}, modules: []string{jose}, public: true,
	},
	{path: "shared/replay", ours: []string{"shared/handoff", "shared/replay/internal/remote", "shared/vetted"}, modules: []string{jose, "golang.org/x/sys"}, public: true},
	{
		path: "shared/assertion",
		ours: []string{"shared/handoff", "shared/internal/ident", "shared/strictjson"}, modules: []string{jsontext}, public: true,
	},
	{
		path: "shared/replay/redisreplay",
		ours: []string{"shared/handoff", "shared/replay", "shared/replay/internal/remote"}, modules: []string{rueidis}, public: true,
	},
	{path: "shared/replay/internal/remote", ours: []string{"shared/handoff"}, public: true},
	{path: "shared/replay/sqlreplay", ours: []string{"shared/handoff", "shared/replay", "shared/replay/internal/remote"}, std: []string{"database/sql"}, public: true},
	{
		path: "shared/rule",
		ours: []string{"shared/handoff", "shared/strictjson", "proto/handoff/v1"}, modules: []string{protobuf}, public: true,
	},
	{
		path:    "shared/trust",
		ours:    []string{"shared/handoff", "shared/internal/ident", "shared/keyset", "shared/strictjson", "shared/vetted", "proto/handoff/v1"},
		modules: []string{errdetails, grpc, jose, jsontext, protobuf}, public: true,
	},
	{
		path: "shared/trust/rotation",
		ours: []string{"shared/handoff", "shared/keyset", "shared/signkey", "shared/strictjson", "shared/trust"}, public: true,
	},
	{
		path:    "shared/handoffgrpc",
		ours:    []string{"shared/assertion", "shared/handoff", "shared/rule", "shared/sealed", "proto/handoff/v1"},
		modules: []string{errdetails, grpc, protobuf}, public: true,
	},
	{
		path:    "shared/handoffconnect",
		ours:    []string{"shared/handoff", "shared/handoffgrpc"},
		modules: []string{connect, errdetails, grpc, protobuf}, public: true,
	},
	{
		path:    "shared/handoffweb",
		ours:    []string{"shared/handoff", "shared/handoffgrpc", "shared/internal/quota", "shared/rule", "shared/sealed", "proto/handoff/v1"},
		modules: []string{errdetails, grpc, protobuf}, public: true,
	},
	{
		path:    "shared/handoffweb/rpc",
		ours:    []string{"shared/handoff", "shared/handoffgrpc", "shared/handoffweb", "shared/internal/quota", "shared/rule"},
		modules: []string{connect, grpc, protobuf}, public: true,
	},
	{
		path: "shared/handoffprom",
		ours: []string{"shared/handoff", "shared/handoffgrpc", "shared/trust"}, modules: prometheus, public: true,
	},
	{path: "shared/overload", ours: []string{"shared/internal/gate", "shared/internal/quota"}, modules: []string{errdetails, grpc}, public: true},
	{
		path:    "shared/handofftest",
		ours:    []string{"shared/handoff", "shared/handoffgrpc", "shared/internal/forge", "shared/rule", "shared/sealed"},
		modules: []string{grpc, protobuf}, public: true,
	},
	{
		path: "shared/serving",
		ours: []string{"shared/handoff", "shared/internal/gate", "shared/internal/quota", "shared/vetted"},
		modules: []string{
			errdetails, grpc, middleware, protobuf, "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus",
			"github.com/prometheus/client_golang", "golang.org/x/net", "golang.org/x/sys",
		},
	},
	{path: "shared/serving/sqlite", modules: []string{"modernc.org/sqlite"}},                                     // for the demo servers' databases
	{path: "shared/serving/harness", modules: []string{pgx}},                                                     // for tests, the demo and benchmarks
	{path: "shared/serving/migration"},                                                                           // for the demo servers' databases
	{path: "shared/serving/servingtest", ours: []string{"shared/serving/harness"}, modules: []string{pgx}},       // for the demo servers' tests
	{path: "shared/serving/postgres", ours: []string{"shared/serving", "shared/vetted"}, modules: []string{pgx}}, // likewise
	{path: "shared/serving/tracing", ours: []string{"shared/vetted"}, modules: []string{
		grpc, "go.opentelemetry.io/otel", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/trace",
		"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc",
	}}, // for the demo servers
	{path: "shared/serving/commandline", modules: []string{kong}}, // for all programs
	{
		path: "shared/cmd/handoff",
		ours: []string{
			"shared/handoff", "shared/keyset", "shared/rule", "shared/sealed", "shared/serving/commandline", "shared/signkey",
			"shared/strictjson", "shared/trust", "shared/trust/rotation", "shared/vetted",
			"proto/handoff/v1",
		},
		modules: []string{jose, jsontext, kong, protobuf},
	},
	{path: "proto/handoff/v1", modules: []string{grpc, protobuf}, public: true},
	{path: "proto/handoff/server1/v1", ours: []string{"proto/handoff/v1"}, modules: []string{grpc, protobuf}},
	{path: "proto/handoff/server2/v1", ours: []string{"proto/handoff/v1"}, modules: []string{grpc, protobuf}},
}

// prometheus is what its client brings along.
var prometheus = []string{
	"github.com/prometheus/client_golang", "github.com/prometheus/client_model", "github.com/prometheus/common", "github.com/prometheus/procfs",
	"github.com/beorn7/perks", "github.com/cespare/xxhash/v2", "github.com/munnerz/goautoneg",
}

// publicModules are all the modules that a public package may bring along beyond its own: the five that this project is
// about with the curves that check their signatures, and what grpc itself needs. No logging, metrics, middleware or database module is among them.
var publicModules = []string{
	edwards, errdetails, grpc, jose, jsontext, nistec, protobuf, "golang.org/x/net", "golang.org/x/sys", "golang.org/x/text",
}

// hooks are the packages of the standard library that would be a second way out beside the hook Observe.
var hooks = []string{"database/sql", "expvar", "log", "log/slog"}

// never says what a room does not link, however indirectly.
var never = map[string][]string{
	"proto":   {"shared", "server1", "server2", "scripts"},
	"shared":  {"server1", "server2", "scripts"},
	"server1": {"server2", "scripts", "shared/replay", "shared/internal/forge", "shared/handofftest"},
	"server2": {
		"server1", "scripts", "shared/signkey", "shared/internal/forge", "shared/handofftest", jose + "/cryptosigner",
	},
	"scripts": {},
}

func TestRoomsImportOnlyWhatIsListed(t *testing.T) {
	all := list(t)
	for _, r := range rooms {
		t.Run(r.path, func(t *testing.T) {
			found := false
			for _, p := range all {
				if home, ok := roomOf(p.ImportPath); !ok || home.path != r.path {
					continue
				}
				found = true
				for _, complaint := range r.complaints(p, all) {
					t.Errorf("%s %s", p.ImportPath, complaint)
				}
			}
			if !found {
				t.Skip("does not exist yet")
			}
		})
	}
}

func TestRoomsNeverLink(t *testing.T) {
	for _, p := range list(t) {
		rel, ours := strings.CutPrefix(p.ImportPath, module+"/")
		if !ours {
			continue
		}
		top, _, _ := strings.Cut(rel, "/")
		banned, ok := never[top]
		if !ok {
			t.Errorf("%s stands in no room", p.ImportPath)
		}
		if _, ok := roomOf(p.ImportPath); !ok && (top == "shared" || top == "proto") {
			t.Errorf("%s is in no row of rooms", p.ImportPath)
		}
		for _, dep := range p.Deps {
			if slices.ContainsFunc(banned, func(b string) bool { return dep == b || within(dep, b) }) {
				t.Errorf("%s links %s", p.ImportPath, dep)
			}
		}
	}
}

// Redis, PostgreSQL and Connect are matters of who chooses them: what links them reaches
// nobody who does not import that package, neither in this module nor in a stranger's.
func TestChoicesReachOnlyWhoImportsThem(t *testing.T) {
	all := list(t)
	text, err := exec.Command("go", "-C", "../adopter", "list", "-deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	adopter := strings.Fields(string(text))
	if !slices.Contains(adopter, module+"/shared/replay") {
		t.Fatal("the adopter links no store: the test shows nothing")
	}
	for choice, reach := range map[string][]string{
		rueidis:                             {"shared/replay/redisreplay", "server2", "scripts"},
		connect:                             {"shared/handoffconnect", "shared/handoffweb/rpc", "server2", "scripts"},
		module + "/shared/replay/sqlreplay": {"shared/replay/sqlreplay", "server2", "scripts"},
	} {
		links := func(dep string) bool { return dep == choice || strings.HasPrefix(dep, choice+"/") }
		met := false
		for _, p := range all {
			if !strings.HasPrefix(p.ImportPath, module) || !slices.ContainsFunc(p.Deps, links) && p.ImportPath != choice {
				continue
			}
			met = true
			if !slices.ContainsFunc(reach, func(dir string) bool { return within(p.ImportPath, dir) }) {
				t.Errorf("%s links %s", p.ImportPath, choice)
			}
		}
		if !met {
			t.Errorf("no package links %s: the test shows nothing", choice)
		}
		if slices.ContainsFunc(adopter, links) {
			t.Errorf("the adopter links %s", choice)
		}
	}
}

func TestImportRulesRefuse(t *testing.T) {
	const core = module + "/shared/handoff"
	all := map[string]pkg{
		"log":                            {ImportPath: "log", Standard: true},
		"crypto":                         {ImportPath: "crypto", Standard: true},
		jose:                             {ImportPath: jose, Module: struct{ Path string }{jose}},
		middleware:                       {ImportPath: middleware, Module: struct{ Path string }{middleware}},
		module + "/shared/rule":          {ImportPath: module + "/shared/rule"},
		core + "/internal/strict":        {ImportPath: core + "/internal/strict"},
		module + "/shared/handoffgrpc/x": {ImportPath: module + "/shared/handoffgrpc/x"},
	}
	for _, c := range []struct {
		imports, deps []string
		refused       int
	}{
		{imports: []string{"crypto", jose, core + "/internal/strict"}},
		{imports: []string{"log"}, refused: 1},
		{imports: []string{module + "/shared/rule"}, refused: 1},
		{imports: []string{module + "/shared/handoffgrpc/x"}, refused: 1},
		{imports: []string{middleware}, refused: 1},
		{deps: []string{middleware}, refused: 1},
	} {
		r, _ := roomOf(core)
		if got := r.complaints(pkg{ImportPath: core, Imports: c.imports, Deps: c.deps}, all); len(got) != c.refused {
			t.Errorf("importing %v, linking %v: got %q, want %d complaints", c.imports, c.deps, got, c.refused)
		}
	}
}

// complaints says which imports of p its room does not allow.
func (r room) complaints(p pkg, all map[string]pkg) (found []string) {
	for _, path := range p.Imports {
		in := all[path]
		switch {
		case in.Standard:
			if r.public && slices.Contains(hooks, path) && !slices.Contains(r.std, path) {
				found = append(found, "imports "+path+": adopters have one hook, Observe")
			}
		case path == module || strings.HasPrefix(path, module+"/"):
			if home, _ := roomOf(path); home.path != r.path && !slices.Contains(r.ours, home.path) {
				found = append(found, "imports "+path)
			}
		case !slices.Contains(r.modules, in.Module.Path):
			found = append(found, "imports "+path)
		}
	}
	if !r.public {
		return found
	}
	allowed := slices.Concat(publicModules, r.modules, []string{module, ""}) // the standard library has no module
	for _, path := range p.Deps {
		if m := all[path].Module.Path; !slices.Contains(allowed, m) {
			allowed = append(allowed, m) // said once
			found = append(found, "brings "+m+" to everyone who imports it")
		}
	}
	return found
}

// roomOf finds the narrowest room that a package stands in.
func roomOf(path string) (home room, ok bool) {
	for _, r := range rooms {
		if within(path, r.path) && len(r.path) > len(home.path) {
			home, ok = r, true
		}
	}
	return home, ok
}

func within(path, dir string) bool {
	return path == module+"/"+dir || strings.HasPrefix(path, module+"/"+dir+"/")
}

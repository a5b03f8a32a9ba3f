package check

import (
	"slices"
	"strings"
	"testing"
)

const (
	errdetails = "google.golang.org/genproto/googleapis/rpc"
	grpc       = "google.golang.org/grpc"
	jose       = "github.com/go-jose/go-jose/v4"
	jsontext   = "github.com/go-json-experiment/json"
	kong       = "github.com/alecthomas/kong"
	middleware = "github.com/grpc-ecosystem/go-grpc-middleware/v2"
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
	public  bool // adopters import it
}

var rooms = []room{
	{
		path: "shared/handoff",
		ours: []string{"shared/strictjson"}, modules: []string{jose, jsontext}, public: true,
	},
	{path: "shared/internal/forge", ours: []string{"shared/handoff"}}, // for tests: it signs whatever it is told
	{path: "shared/internal/vectors"},                                 // for tests
	{path: "shared/strictjson", modules: []string{jsontext}, public: true},
	{
		path: "shared/keyset",
		ours: []string{"shared/handoff", "shared/strictjson"}, modules: []string{jose}, public: true,
	},
	{
		path: "shared/signkey",
		ours: []string{"shared/handoff", "shared/strictjson"}, modules: []string{jose}, public: true,
	},
	{path: "shared/replay", ours: []string{"shared/handoff"}, modules: []string{jose}, public: true},
	{
		path: "shared/replay/redisreplay",
		ours: []string{"shared/handoff", "shared/replay"}, modules: []string{rueidis}, public: true,
	},
	{
		path: "shared/rule",
		ours: []string{"shared/handoff", "proto/handoff/v1"}, modules: []string{protobuf}, public: true,
	},
	{
		path:    "shared/trust",
		ours:    []string{"shared/handoff", "shared/keyset", "shared/strictjson", "proto/handoff/v1"},
		modules: []string{grpc, jose, jsontext, protobuf}, public: true,
	},
	{
		path:    "shared/handoffgrpc",
		ours:    []string{"shared/handoff", "shared/rule", "proto/handoff/v1"},
		modules: []string{errdetails, grpc, protobuf}, public: true,
	},
	{
		path:    "shared/handofftest",
		ours:    []string{"shared/handoff", "shared/handoffgrpc", "shared/internal/forge", "shared/rule"},
		modules: []string{grpc, protobuf}, public: true,
	},
	{
		path: "shared/serving",
		modules: []string{
			errdetails, grpc, middleware, protobuf, "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus",
			"github.com/prometheus/client_golang", "golang.org/x/net",
		},
	},
	{path: "shared/serving/servingtest", modules: []string{pgx}}, // for the demo servers' tests
	{
		path: "shared/cmd/handoff",
		ours: []string{
			"shared/handoff", "shared/keyset", "shared/rule", "shared/signkey", "shared/strictjson", "shared/trust",
			"proto/handoff/v1",
		},
		modules: []string{jose, jsontext, kong, protobuf},
	},
	{path: "proto/handoff/v1", modules: []string{grpc, protobuf}, public: true},
	{path: "proto/handoff/server1/v1", ours: []string{"proto/handoff/v1"}, modules: []string{grpc, protobuf}},
	{path: "proto/handoff/server2/v1", ours: []string{"proto/handoff/v1"}, modules: []string{grpc, protobuf}},
}

// publicModules are all the modules that a public package may bring along beyond its own: the five that this project is
// about and what grpc itself needs. No logging, metrics, middleware or database module is among them.
var publicModules = []string{
	errdetails, grpc, jose, jsontext, protobuf, "golang.org/x/net", "golang.org/x/sys", "golang.org/x/text",
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
			if r.public && slices.Contains(hooks, path) {
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

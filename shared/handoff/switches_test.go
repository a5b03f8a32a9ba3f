package handoff_test

import (
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
)

// H10: no setting turns a check of a token off. The settings that can be on or off,
// of the packages and the servers, are these; each was looked at. Nothing
// is read from the environment behind a setting's back.
func TestH10EverySwitchIsKnown(t *testing.T) {
	known := []string{
		"Actors",                    // of a rule: lets clients act for users
		"AcceptLastSecondLoss",      // of redisreplay: it says what it accepts, of a machine that crashes
		"CertificateBound",          // of a rule: it demands more, and turns nothing off
		"ClientCerts",               // of the servers: ask for more than is needed, and believe none of it
		"IfMissing",                 // of server2 init: a journal that is there stays as it is
		"Live",                      // of the health command: it asks less, and lets nothing in
		"Published",                 // of SERVER1: without it, taking back is refused
		"Reflection",                // of the servers: show the contract, which is public
		"RedisAcceptLastSecondLoss", // of server2: by this name alone, a Redis with appendfsync everysec
		"Reusable",
		"Sealed", // of a rule: it demands more, and turns nothing off
		"Visit",  // of a rule: it takes a token that names no values, of an issuer whose trust list is followed
	}
	found := map[string]bool{}
	settings := 0
	source(t, func(name string, file *ast.File) {
		if !strings.HasPrefix(name, "shared/") && !strings.HasPrefix(name, "server") ||
			strings.HasPrefix(name, "shared/internal/vectors/") || strings.HasPrefix(name, "shared/measure/") || strings.HasPrefix(name, "shared/cmd/") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				if of, ok := n.Type.(*ast.StructType); ok {
					settings += switches(n.Name.Name, of, found)
				}
			case *ast.SelectorExpr:
				if name == "shared/serving/tracing/tracing.go" { // the variables of OpenTelemetry, which are its settings
					return true
				}
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && slices.Contains([]string{"Getenv", "LookupEnv"}, n.Sel.Name) {
					t.Errorf("%s reads the environment by os.%s: make it a setting", name, n.Sel.Name)
				}
			}
			return true
		})
	})
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if !slices.Contains(known, name) {
			t.Errorf("%s can be on or off: what does it turn off?", name)
		}
	}
	if !found["Reusable"] || settings < 20 {
		t.Errorf("of %d settings, %v can be on or off: the search finds too little", settings, found)
	}
}

// switches adds the settings of a struct that can be on or off, and counts all of
// them: the fields of what is named for it, and what a command line explains.
func switches(name string, of *ast.StructType, found map[string]bool) (settings int) {
	named := slices.ContainsFunc([]string{"Config", "Params", "Profile", "Rule", "Settings", "Terms"}, func(end string) bool {
		return strings.HasSuffix(name, end)
	})
	for _, field := range of.Fields.List {
		if !named && (field.Tag == nil || !strings.Contains(field.Tag.Value, `help:"`)) {
			continue
		}
		kind, _ := field.Type.(*ast.Ident)
		for _, field := range field.Names {
			settings++
			if kind != nil && kind.Name == "bool" {
				found[field.Name] = true
			}
		}
	}
	return settings
}

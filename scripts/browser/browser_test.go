package browser

import (
	"context"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/scripts/internal/pair/pairtest"
)

// attacks are those that the story tries in both browsers.
const attacks = "H01, H02, H03, H04, H05, J01, J02, J03, J04, J05, J06, J07, J08, J09"

// What happens in real browsers, side by side. Every page is looked at by axe-core,
// and its screenshots are kept in shots/.
func TestBrowsers(t *testing.T) {
	only := os.Getenv("HANDOFF_BROWSER")
	if only == "" {
		t.Skip("make browser runs it")
	}
	if only == "1" {
		only = ""
	}
	bin := filepath.Join(t.TempDir(), "bin")
	if err := pairtest.Build(bin, nil); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"chromium", "firefox"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			inBrowser(t, kind, bin, only)
		})
	}
}

// inBrowser has one browser do what the story tells, or only what has a name that
// matches.
func inBrowser(t *testing.T, kind, bin, only string) {
	program := map[string]string{"chromium": "chromium", "firefox": "firefox-esr"}[kind]
	executable, err := exec.LookPath(program)
	if err == nil {
		_, err = exec.LookPath("node")
	}
	if err == nil {
		_, err = os.Stat("node_modules/puppeteer-core")
	}
	if err != nil {
		t.Fatal("it takes chromium, firefox-esr, node and npm:", err)
	}
	p := pairtest.Start(t, pair.Config{
		Bin: bin, Visits: 15 * time.Minute, Guests: 1,
		Server1: []string{"--log-level", "debug", "--lifetime", "120s"},
		Server2: []string{"--log-level", "debug", "--max-staleness", "4s"},
	})
	control := httptest.NewServer(newControls(t, p))
	t.Cleanup(control.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	shots, err := filepath.Abs(filepath.Join("shots", kind))
	if err != nil {
		t.Fatal(err)
	}
	story := exec.CommandContext(ctx, "node", "story.mjs")
	story.Env = append(os.Environ(), "BROWSER="+kind, "EXECUTABLE="+executable, "SHOP="+p.Shop(), "BILLING="+p.Billing(),
		"PASSWORD="+pair.Password, "CONTROL="+control.URL, "GRPC="+p.Server2.Address, "SHOTS="+shots, "TLS="+filepath.Dir(p.CA), "ONLY="+only, "XDG_CONFIG_HOME="+t.TempDir(), "HOME="+t.TempDir())
	var told strings.Builder
	story.Stdout, story.Stderr = io.MultiWriter(t.Output(), &told), t.Output()
	if err := story.Run(); err != nil {
		t.Error(err)
	}
	for _, id := range strings.Split(attacks, ", ") {
		if only == "" && !regexp.MustCompile(`(?m)^ok .*\b`+id+`\b`).MatchString(told.String()) {
			t.Errorf("%s: nothing of it went as it should", id)
		}
	}
	for _, log := range []string{p.Server1.Log, p.Server2.Log} {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "eyJhbGci") || strings.Contains(string(text), "__Host-") {
			t.Errorf("%s has a token or a cookie", log)
		}
	}
}

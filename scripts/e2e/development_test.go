package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/scripts/internal/pair/pairtest"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// With the commands that SERVER2's page gives to developers, a restart costs no 5 s: with
// a small skew a second, and with a journal nothing.
func TestRestartInDevelopment(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "server2", "OPERATING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## In development\n")
	section, _, _ = strings.Cut(section, "\n## ")
	block := shellBlock.FindStringSubmatch(section)
	if block == nil {
		t.Fatal("the page has no commands for development")
	}
	small, journal, _ := strings.Cut(block[1], "\n\n")
	serve1 := regexp.MustCompile(`handoff-server1 serve … (.*)`).FindStringSubmatch(small)
	serve2 := regexp.MustCompile(`handoff-server2 serve … (.*)`).FindStringSubmatch(small)
	made := regexp.MustCompile(`handoff-server2 init (.*) && handoff-server2 serve … (.*)`).FindStringSubmatch(journal)
	if serve1 == nil || serve2 == nil || made == nil {
		t.Fatalf("the commands for development are others:\n%s", block[1])
	}
	t.Run("skew", func(t *testing.T) {
		t.Parallel()
		config := pair.Config{Server1: strings.Fields(serve1[1]), Server2: strings.Fields(serve2[1])}
		// A token is dated by the second, so that one of the first second may be older than it.
		(&developer{T: t, patient: 1100 * time.Millisecond}).restarts(config)
	})
	t.Run("journal", func(t *testing.T) {
		t.Parallel()
		folder := filepath.Join(t.TempDir(), "journal")
		init := strings.Fields(strings.ReplaceAll(made[1], " journal", " "+folder))
		if output, err := exec.Command(filepath.Join(bin, "handoff-server2"), append([]string{"init"}, init...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		(&developer{T: t}).restarts(pair.Config{Server2: strings.Fields(strings.ReplaceAll(made[2], " journal", " "+folder))})
	})
}

// developer restarts SERVER2 and tries it at once.
type developer struct {
	*testing.T
	patient time.Duration // with handoffs that were issued so soon after the start
}

func (d *developer) restarts(config pair.Config) {
	config.Bin = bin
	p := pairtest.Start(d, config)
	bob := signIn(d.T, p, "bob")
	spent := d.handOff(bob)
	if reason := d.pay(bob, spent); reason != 0 {
		d.Fatalf("before the restart: %s", reason)
	}
	if err := p.Server2.Stop(); err != nil {
		d.Fatal(err)
	}
	if err := p.StartServer2(d.Context(), 0); err != nil {
		d.Fatal(err)
	}
	listening := time.Now()
	var err error
	if bob.Client, err = pair.Dial(p.Server1.Address, p.Server2.Address, p.CA); err != nil {
		d.Fatal(err)
	}
	d.Cleanup(bob.Close)
	for reason := handoff.ReasonTrustStale; reason != 0; time.Sleep(10 * time.Millisecond) {
		serving, err := bob.Serving(d.Context())
		if err != nil {
			d.Fatal(err)
		}
		asked := time.Since(listening)
		reason = d.pay(bob, d.handOff(bob))
		switch {
		case reason == 0:
			d.Logf("the first handoff that is taken was asked for %s after the start", asked.Round(time.Millisecond))
		case serving:
			d.Fatalf("SERVER2 serves, and refuses the next handoff with %s", reason)
		case reason == handoff.ReasonIssuedBeforeStart && asked < d.patient:
		case reason == handoff.ReasonTrustStale && asked < patience: // it has no trust list yet
		default:
			d.Fatalf("a handoff that was asked for %s after the start is refused with %s", asked, reason)
		}
	}
	want := handoff.ReasonTokenReplayed
	if d.patient > 0 { // memory does not know
		want = handoff.ReasonIssuedBeforeStart
	}
	if reason := d.pay(bob, spent); reason != want {
		d.Errorf("what was spent before the restart: %s, want %s", reason, want)
	}
}

func (d *developer) handOff(by *user) string {
	d.Helper()
	issued, err := by.Issue(d.Context(), by.session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, order, 0)
	if err != nil {
		d.Fatal(err)
	}
	return issued.GetToken()
}

// pay spends a handoff. That the invoice is not bob's is the handler's to say.
func (d *developer) pay(by *user, token string) handoff.Reason {
	_, err := by.Invoices.PayInvoice(d.Context(), order, handoffgrpc.Token(token))
	if status.Code(err) == codes.NotFound {
		return 0
	}
	if handoffgrpc.ReasonOf(err) == 0 {
		d.Fatal(err)
	}
	return handoffgrpc.ReasonOf(err)
}

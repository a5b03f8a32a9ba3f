package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// asProgram makes a process of this binary run the program instead of its tests.
const asProgram = "HANDOFF_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// spawn runs the program in a process of its own, which kill ends as kill -9 does.
func spawn(t *testing.T, args []string) (r *running, kill func()) {
	t.Helper()
	r = &running{log: &buffer{}}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = r.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	var ok bool
	if r.address, ok = strings.CutPrefix(strings.TrimSpace(line), "listening on "); !ok {
		t.Fatalf("%q, %v: %s", line, err, r.log)
	}
	return r, kill
}

// newJournal makes a journal with the init command.
func newJournal(t *testing.T, skew string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "journal")
	var out buffer
	if code := run(t.Context(), []string{"init", "--replay", folder, "--skew", skew}, &out, &out); code != 0 {
		t.Fatalf("status %d: %s", code, &out)
	}
	return folder
}

// TestE02: a SERVER2 with a journal that is killed with kill -9 under load forgets
// no redemption that it has acknowledged, and is ready as soon as it is back: it
// refuses nothing that is new.
func TestE02(t *testing.T) {
	t.Parallel()
	const rounds, callers = 3, 8
	s, key := goodSettings(t)
	s["skew"], s["replay"] = "30s", newJournal(t, "50ms") // one that began anew would refuse for 30 s
	issuer := newIssuer(t, key, nil)
	spent := map[string]int{} // token -> number of its payment
	number := 0
	for round := range rounds {
		r, kill := spawn(t, s.args())
		r.connect(t, s["tls-cert"])
		if round > 0 && !strings.Contains(r.log.String(), `"event":"restored"`) {
			t.Errorf("round %d: the journal was not restored: %s", round, r.log)
		}
		for raw, n := range spent {
			_, err := r.client.PayInvoice(t.Context(), payment("INV-404", 1, n), handoffgrpc.Token(raw))
			wantReason(t, fmt.Sprintf("round %d, token %d", round, n), err, handoff.ReasonTokenReplayed)
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range callers {
			wg.Go(func() {
				for ctx.Err() == nil {
					mu.Lock()
					number++
					n := number
					mu.Unlock()
					req := payment("INV-404", 1, n)
					raw := token(t, issuer, payMethod, req, nil)
					_, err := r.client.PayInvoice(ctx, req, handoffgrpc.Token(raw))
					switch {
					case status.Code(err) == codes.NotFound: // the handler's own answer: there is no such invoice
						mu.Lock()
						spent[raw] = n
						mu.Unlock()
					case handoffgrpc.ReasonOf(err) != 0:
						t.Errorf("round %d: a new token: %v", round, err)
					}
				}
			})
		}
		time.Sleep(300 * time.Millisecond)
		kill()
		cancel()
		wg.Wait()
	}
	if len(spent) == 0 {
		t.Error("nothing was spent")
	}
}

// A journal is one process's.
func TestJournalInUse(t *testing.T) {
	t.Parallel()
	journal := newJournal(t, "50ms")
	r := startWith(t, func(s settings) { s["replay"] = journal })
	other, _ := goodSettings(t)
	other["replay"] = journal
	refused(t, other.args(), "--replay")
	req := payment("INV-42", 1200, 1)
	raw := token(t, r.issuer, payMethod, req, nil)
	if _, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); err != nil {
		t.Error("the one that has it:", err)
	}
	_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
	wantReason(t, "twice", err, handoff.ReasonTokenReplayed)
}

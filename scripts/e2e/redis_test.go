package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/measure"
)

const (
	// refusedWithin is how long a call may take while the Redis gives no answer.
	refusedWithin = 250 * time.Millisecond
	// backWithin is how long SERVER2 takes at most to accept tokens again once its
	// Redis answers, on a machine that is not late.
	backWithin = 2 * time.Second
)

// E06: while Redis stands still, each call is refused soon, and nothing piles up
// in SERVER2; when it goes on, so does SERVER2.
func TestRedisStandsStill(t *testing.T) {
	const callers = 8 // of each replica
	s := startShared(t)
	s.calm(replicas, 1)
	lasts := time.Duration(measure.Of(2, 4, 60)) * time.Second
	var tokens [16]string // none of them is spent, or else it does not matter
	for i := range tokens {
		issued, err := s.bob.Issue(t.Context(), s.bob.session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, order, 300*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		tokens[i] = issued.GetToken()
	}
	if err := s.redis.Stall(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var all, others lateness
	var group sync.WaitGroup
	group.Go(func() {
		for time.Since(began) < lasts {
			for _, replica := range s.bob.audiences {
				called := time.Now()
				_, _ = replica.PayInvoice(t.Context(), order) // without a token, it needs no Redis
				others.add(time.Since(called))
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	for i := range replicas * callers {
		group.Go(func() {
			for time.Since(began) < lasts {
				called := time.Now()
				_, err := s.present(i%replicas, tokens[rand.IntN(len(tokens))])
				all.add(time.Since(called))
				if handoffgrpc.ReasonOf(err) != handoff.ReasonStoreUnavailable {
					t.Errorf("a call is answered by %v", err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	done := progress(t, func() string { return fmt.Sprintf("%d refusals", all.calls()) })
	time.Sleep(lasts / 4)
	first := s.vitals()
	group.Wait()
	done()
	for i, last := range s.vitals() {
		t.Logf("replica %d: %s, and %s after %s", i, first[i], last, lasts)
		if last.goroutines > first[i].goroutines+callers || last.resident > first[i].resident+16<<20 {
			t.Errorf("replica %d: what it holds has grown", i)
		}
	}
	if err := s.redis.Continue(); err != nil {
		t.Fatal(err)
	}
	took := s.back()
	t.Logf("%d refusals; all replicas accept again %s after Redis went on", all.calls(), took.Round(time.Millisecond))
	all.inTime(t, &others)
}

// back waits until every replica accepts, and says how long that took.
func (s *shared) back() time.Duration {
	s.Helper()
	began := time.Now()
	for replica := range replicas {
		for got := doubtful; got != accepted; got, _ = s.present(replica, s.fresh()) {
			if time.Since(began) > patience {
				s.Fatalf("replica %d does not accept %s after its Redis answers", replica, time.Since(began))
			}
		}
	}
	return time.Since(began)
}

// lateness is how long calls took.
type lateness struct {
	mu      sync.Mutex
	took    []time.Duration
	slowest time.Duration
}

func (l *lateness) add(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
	l.slowest = max(l.slowest, took)
}

func (l *lateness) calls() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.took)
}

// inTime holds refusals to their time; in `make test` all but one in 20, which the
// machine may have delayed more than the others. What it is late with shows in other
// calls, which do not wait for the Redis.
func (l *lateness) inTime(t *testing.T, others *lateness) {
	t.Helper()
	slices.Sort(l.took)
	late := l.took[(len(l.took)-1)*measure.Of(95, 100, 100)/100]
	t.Logf("the slowest of %d refusals took %s, the slowest of %d other calls %s",
		len(l.took), l.slowest.Round(time.Millisecond), len(others.took), others.slowest.Round(time.Millisecond))
	if late > refusedWithin+others.slowest {
		t.Errorf("a refusal took %s, more than %s", late, refusedWithin)
	}
}

// vitals are what a replica holds, by its own metrics.
type vitals struct {
	goroutines int
	resident   int // bytes
}

func (v vitals) String() string {
	return fmt.Sprintf("%d goroutines and %.1f MiB", v.goroutines, float64(v.resident)/(1<<20))
}

func (s *shared) vitals() (all [replicas]vitals) {
	s.Helper()
	for i, audience := range s.pair.Audiences {
		answer, err := http.Get("http://" + s.metricsOf(audience) + "/metrics")
		if err != nil {
			s.Fatal(err)
		}
		defer answer.Body.Close()
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() {
			name, text, _ := strings.Cut(lines.Text(), " ")
			value, _ := strconv.ParseFloat(text, 64)
			switch name {
			case "go_goroutines":
				all[i].goroutines = int(value)
			case "process_resident_memory_bytes":
				all[i].resident = int(value)
			}
		}
		if all[i].goroutines == 0 || all[i].resident == 0 {
			s.Fatal("the metrics tell neither goroutines nor memory")
		}
	}
	return all
}

// metricsOf reads in a server's log where it has put its metrics.
func (s *shared) metricsOf(server *pair.Process) (address string) {
	s.Helper()
	log, err := os.ReadFile(server.Log)
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		var entry struct{ Msg, Address string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "metrics" {
			address = entry.Address // the last, of a server that was started again
		}
	}
	return address
}

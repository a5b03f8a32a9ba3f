package e2e

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/measure"
)

// E06: a replica that does not reach its Redis says so to health at the first
// call that it refuses: clients that balance, and look at health, lose no more
// than the calls that are under way, and come back. Where no replica reaches it,
// calls fail at once.
func TestBalancedClientsAvoidADoubtfulReplica(t *testing.T) {
	s := startShared(t)
	client, err := pair.DialReplicas(s.pair.Issuers, s.pair.Audiences, s.pair.CA)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	pay := func() error {
		_, err := client.Invoices.PayInvoice(t.Context(), order, handoffgrpc.Token(s.fresh()))
		if status.Code(err) == codes.NotFound {
			return nil
		}
		return err
	}
	calls := measure.Of(100, 150, 1500)
	var others lateness
	for _, fault := range []struct {
		name string
		harm func(*pair.Link)
	}{
		{"stalled", (*pair.Link).Stall},
		{"cut", (*pair.Link).Cut},
	} {
		for range 10 * replicas { // each has a connection
			began := time.Now()
			if err := pay(); err != nil {
				t.Fatal(err)
			}
			others.add(time.Since(began))
		}
		fault.harm(s.links[1])
		lost := 0
		for range calls {
			if err := pay(); handoffgrpc.ReasonOf(err) == handoff.ReasonStoreUnavailable {
				lost++
			} else if err != nil {
				t.Errorf("%s: %v", fault.name, err)
			}
		}
		if got, _ := s.present(1, s.fresh()); got != doubtful {
			t.Errorf("%s: the replica itself answers %v: the test shows nothing", fault.name, got)
		}
		s.links[1].Pass()
		t.Logf("%s: %d of %d calls were refused", fault.name, lost, calls)
		if lost > calls/10 { // the word that health sends is under way for a while
			t.Errorf("%s: %d calls were refused, want the one that meets with it", fault.name, lost)
		}
		s.back()
		if err := s.pair.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.redis.Stall(); err != nil {
		t.Fatal(err)
	}
	var all lateness
	for range 20 * replicas {
		began := time.Now()
		if err := pay(); !broken(err) {
			t.Errorf("without a Redis: %v", err)
		}
		all.add(time.Since(began))
	}
	all.inTime(t, &others)
	if err := s.redis.Continue(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); pay() != nil; {
		if time.Since(began) > patience {
			t.Fatalf("no call succeeds %s after Redis went on", time.Since(began))
		}
	}
}

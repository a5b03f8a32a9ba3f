package issuing

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// Clients measures IssueHandoff by one API client, whose calls all touch one row
// and each spend an assertion, beside as many calls by the sessions of many users. What
// an API client signs with is its own machine's: the callers here share the cores with
// SERVER1, so they sign before a round begins. What they get when they sign for each call
// as it is made is in the table as well.
func Clients(ctx context.Context, s measure.Settings, t *measure.Table) error {
	for _, postgres := range []bool{false, true} {
		err := clientsOn(ctx, s, t, postgres)
		if errors.Is(err, exec.ErrNotFound) {
			t.Add(measure.Line{What: "PostgreSQL", Note: "is not installed here"})
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func clientsOn(ctx context.Context, s measure.Settings, t *measure.Table, postgres bool) (err error) {
	rounds, n, users := 5, 4000, 1000
	if s.Short {
		rounds, n, users = 3, 500, 20
	}
	shop, err := openShop(ctx, s, fmt.Sprintf("clients-%t", postgres), shopOf{postgres: postgres, users: users})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.close()) }()
	robot, err := shop.newRobot(ctx, s.Bin)
	if err != nil {
		return err
	}
	assertions := make([]string, n)
	before := func() error { return robot.signAll(ctx, assertions) }
	ways := []struct {
		name  string
		first func() error // before a round
		call  measure.Call
		took  []float64
	}{
		{call: shop.issue(users)},
		{name: "signed before", first: before, call: shop.issueAs(func(i int) grpc.CallOption { return handoffgrpc.Token(assertions[i]) })},
		{name: "signed by the callers", call: shop.issueAs(func(int) grpc.CallOption { return grpc.PerRPCCredentials(robot) })},
	}
	for round := range rounds {
		s.Say("clients: %s, round %d of %d", shop.database, round+1, rounds)
		for i := range ways { // side by side, in turns
			way := &ways[i]
			if way.first != nil {
				if err := way.first(); err != nil {
					return err
				}
			}
			took, err := measure.Closed(ctx, n, callers, way.call)
			if err != nil {
				return err
			}
			way.took = append(way.took, took.Seconds())
		}
	}
	what := "IssueHandoff by one API client, " + shop.database
	for _, way := range ways[1:] {
		t.Add(measure.Line{
			What: what + ", " + way.name, Median: measure.Grouped(float64(n)/measure.Median(way.took, same)) + " /s",
			Note: fmt.Sprintf("%.2f x of that by the sessions of %d users; %d callers", ratios(ways[0].took, way.took), users, callers),
		})
	}
	t.Least(what+", to the sessions of many users", ratios(ways[0].took, ways[1].took), 0.8, " x")
	return nil
}

// robot is an API client, and what it calls with.
type robot struct {
	credentials.PerRPCCredentials
	key    *signkey.Key
	params assertion.Params
}

// signAll signs an assertion for each of many calls.
func (r *robot) signAll(ctx context.Context, assertions []string) (err error) {
	for i := range assertions {
		if assertions[i], err = assertion.Sign(ctx, r.key, r.params); err != nil {
			return err
		}
	}
	return nil
}

var addedClient = regexp.MustCompile(`\bid ([^ ,]+)`)

// newRobot registers an API client.
func (s *shop) newRobot(ctx context.Context, bin string) (*robot, error) {
	private, public := filepath.Join(s.dir, "nightly.key"), filepath.Join(s.dir, "nightly.jwks")
	for _, args := range [][]string{{"keygen", "--out", private}, {"public", "--key", private, "--out", public}} {
		if said, err := exec.CommandContext(ctx, filepath.Join(bin, "handoff"), args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("handoff %s: %w: %s", args[0], err, said)
		}
	}
	said, err := s.Operate(ctx, []string{"client", "add", "--name", "nightly", "--key", public, "--role", "payer"})
	if err != nil {
		return nil, err
	}
	id := addedClient.FindStringSubmatch(said)
	if id == nil {
		return nil, errors.New("client add does not say the client's id")
	}
	key, err := signkey.Load(private)
	if err != nil {
		return nil, err
	}
	params := assertion.Params{Client: id[1], Audience: pair.Issuer}
	signs, err := handoffgrpc.ClientKey(key, params)
	return &robot{signs, key, params}, err
}

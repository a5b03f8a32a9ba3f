package issuing

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// Clients measures IssueHandoff by one API client, whose calls all touch one row
// and each spend an assertion, beside as many calls by the sessions of many users.
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
	byClient := shop.issueAs(func(int) grpc.CallOption { return robot })
	ratios, rates := make([]float64, rounds), make([]float64, rounds)
	for round := range rounds {
		s.Say("clients: %s, round %d of %d", shop.database, round+1, rounds)
		var took [2]time.Duration
		for i, do := range []measure.Call{shop.issue(users), byClient} { // side by side, in turns
			if took[i], err = measure.Closed(ctx, n, callers, do); err != nil {
				return err
			}
		}
		ratios[round], rates[round] = took[0].Seconds()/took[1].Seconds(), float64(n)/took[1].Seconds()
	}
	ratio := measure.Median(ratios, same)
	what := "IssueHandoff by one API client, " + shop.database
	t.Add(measure.Line{
		What: what, Median: measure.Grouped(measure.Median(rates, same)) + " /s",
		Note: fmt.Sprintf("%.2f x of that by the sessions of %d users; %d callers, who sign as well", ratio, users, callers),
	})
	t.Least(what+", to the sessions of many users", ratio, 0.8, " x")
	return nil
}

var addedClient = regexp.MustCompile(`\bid ([^ ,]+)`)

// newRobot registers an API client, and returns what it calls with.
func (s *shop) newRobot(ctx context.Context, bin string) (grpc.CallOption, error) {
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
	signs, err := handoffgrpc.ClientKey(key, assertion.Params{Client: id[1], Audience: pair.Issuer})
	if err != nil {
		return nil, err
	}
	return grpc.PerRPCCredentials(signs), nil
}

package wire

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving/harness"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// Replicas measures what SERVER2s cost that share a Redis, and what one
// Redis bears. All of them share the machine's processors: it is processor time
// that counts, and not the rate.
func Replicas(ctx context.Context, s measure.Settings, t *measure.Table) error {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Add(measure.Line{What: "Redis", Note: "is not installed here: its Debian package is redis-server"})
		return nil
	}
	var alone float64
	for n := range 3 {
		s.Say("replicas: %d over one Redis", n+1)
		found, err := measureSharing(ctx, s, n+1)
		if err != nil {
			return fmt.Errorf("%d replicas (make build comes first): %w", n+1, err)
		}
		if n == 0 {
			alone = found.replicas
		}
		t.Add(measure.Line{
			What: fmt.Sprintf("processor time of SERVER2 a redemption, %d of them over one Redis", n+1), Median: measure.Microseconds(found.replicas),
			Ratio: found.replicas / alone,
			Note:  fmt.Sprintf("of Redis %s; %s /s from %d callers, who share the machine", measure.Microseconds(found.redis), measure.Grouped(found.rate), callers),
		})
	}
	for _, fsync := range []string{"always", "everysec"} {
		s.Say("replicas: one Redis, appendfsync %s", fsync)
		found, err := measureRedis(ctx, s, fsync)
		if err != nil {
			return fmt.Errorf("appendfsync %s: %w", fsync, err)
		}
		what := "one Redis, appendfsync " + fsync + ": "
		many := fmt.Sprintf("%s callers, who share the machine", measure.Grouped(redisCallers))
		t.Add(measure.Line{
			What: what + "processor time a redemption", Median: measure.Microseconds(found.redis),
			Note: "its one core bears " + measure.Grouped(1e9/found.redis) + " /s",
		})
		t.Add(measure.Line{What: what + "redemptions", Median: measure.Grouped(found.rate) + " /s", Note: many})
		t.Add(measure.Line{
			What: what + "memory a mark", Median: fmt.Sprintf("%.0f B", found.memory),
			Note: fmt.Sprintf("%s marks; %.0f B in the file, which it rewrites", measure.Grouped(float64(found.marks)), found.file),
		})
	}
	return nil
}

// sharing is what one redemption cost.
type sharing struct {
	rate            float64 // redemptions a second
	replicas, redis float64 // processor time, in ns
}

// measureSharing has SERVER2s let calls through to a handler that finds no such
// invoice: that is the guard's work and the Redis's, and little else.
func measureSharing(ctx context.Context, s measure.Settings, n int) (_ sharing, err error) {
	rounds, calls := 3, 8000
	if s.Short {
		rounds, calls = 1, 2000
	}
	dir := filepath.Join(s.Dir, "replicas"+strconv.Itoa(n))
	redis, err := harness.StartRedis(ctx, filepath.Join(dir, "redis"))
	if err != nil {
		return sharing{}, err
	}
	defer func() { err = errors.Join(err, redis.Stop()) }()
	p, err := pair.Start(ctx, pair.Config{
		Server1: Unbounded(),
		Bin:     s.Bin, Dir: filepath.Join(dir, "pair"), Audiences: n,
		Server2: []string{"--replay", redis.URL, "--redis-timeout", "1s", "--skew", "500ms"},
	})
	if err != nil {
		return sharing{}, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	if err := p.Ready(ctx); err != nil {
		return sharing{}, err
	}
	var clients []server2v1.InvoiceServiceClient
	for _, audience := range p.Audiences {
		client, err := pair.Dial(p.Server1.Address, audience.Address, p.CA)
		if err != nil {
			return sharing{}, err
		}
		defer client.Close()
		clients = append(clients, client.Invoices)
	}
	key, err := signkey.Load(filepath.Join(dir, "pair", "server1", "signing.key"))
	if err != nil {
		return sharing{}, err
	}
	used := func() (replicas, ofRedis time.Duration) {
		for _, audience := range p.Audiences {
			replicas += measure.UsageOf(audience.Pid()).Processor
		}
		return replicas, measure.UsageOf(redis.Pid()).Processor
	}
	replicas, ofRedis := used()
	rates := make([]float64, rounds)
	for round := range rates {
		do, err := payNothing(ctx, key, clients, calls)
		if err != nil {
			return sharing{}, err
		}
		took, err := measure.Closed(ctx, calls, callers, do)
		if err != nil {
			return sharing{}, err
		}
		rates[round] = float64(calls) / took.Seconds()
	}
	replicasNow, redisNow := used()
	each := func(d time.Duration) float64 { return float64(d) / float64(rounds*calls) }
	return sharing{
		rate:     measure.Median(rates, func(x float64) float64 { return x }),
		replicas: each(replicasNow - replicas), redis: each(redisNow - ofRedis),
	}, nil
}

// payNothing returns calls that spend a token each, at the replicas in turns.
func payNothing(ctx context.Context, key *signkey.Key, clients []server2v1.InvoiceServiceClient, n int) (measure.Call, error) {
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: pair.Issuer, Key: key})
	if err != nil {
		return nil, err
	}
	op, err := rule.Operation(raced.PayMethod, raced.Payment()) // of an invoice that nobody has
	if err != nil {
		return nil, err
	}
	raws := make([]string, n)
	for i := range raws {
		raws[i], _, err = issuer.Issue(ctx, handoff.IssueParams{Audience: pair.Audience, Subject: raced.User, Operation: op})
		if err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, i int) error {
		_, err := clients[i%len(clients)].PayInvoice(ctx, raced.Payment(), handoffgrpc.Token(raws[i]))
		if status.Code(err) == codes.NotFound {
			return nil
		}
		return fmt.Errorf("want NOT_FOUND, from the handler: %w", err)
	}, nil
}

const (
	redisStores  = 3
	redisCallers = 3 * 512
)

// bearing is what one Redis was seen to bear.
type bearing struct {
	rate         float64 // redemptions a second
	redis        float64 // processor time of the Redis for one, in ns
	marks        int
	memory, file float64 // bytes a mark
}

// measureRedis loads one Redis only by stores, as replicas have them.
func measureRedis(ctx context.Context, s measure.Settings, fsync string) (_ bearing, err error) {
	n := 1_000_000
	if s.Short {
		n = 100_000
	}
	redis, err := harness.StartRedis(ctx, filepath.Join(s.Dir, "redis-"+fsync), "--appendfsync", fsync)
	if err != nil {
		return bearing{}, err
	}
	defer func() { err = errors.Join(err, redis.Stop()) }()
	var stores [redisStores]*redisreplay.Store
	for i := range stores {
		stores[i], err = redisreplay.Open(ctx, redisreplay.Config{URL: redis.URL, Timeout: time.Second, AcceptLastSecondLoss: true})
		if err != nil {
			return bearing{}, err
		}
		defer func() { err = errors.Join(err, stores[i].Close()) }()
	}
	issued := stores[0].Ready() // it refuses what was issued before
	memory, file, err := held(ctx, redis)
	if err != nil {
		return bearing{}, err
	}
	used := measure.UsageOf(redis.Pid()).Processor
	took, err := measure.Closed(ctx, n, redisCallers, func(ctx context.Context, i int) error {
		return stores[i%len(stores)].Redeem(ctx, handoff.Redemption{
			Issuer: raced.ShopName, ID: strconv.Itoa(i), IssuedAt: issued, Expires: issued.Add(handoff.MaxLifetime - time.Minute),
		})
	})
	if err != nil {
		return bearing{}, err
	}
	used = measure.UsageOf(redis.Pid()).Processor - used
	memoryNow, fileNow, err := held(ctx, redis)
	return bearing{
		rate: float64(n) / took.Seconds(), redis: float64(used) / float64(n), marks: n,
		memory: (memoryNow - memory) / float64(n), file: (fileNow - file) / float64(n),
	}, err
}

// held is what a Redis keeps in memory, without what is on its way to the file,
// and in the file, in bytes.
func held(ctx context.Context, redis *harness.Redis) (memory, file float64, err error) {
	said, err := redis.Info(ctx)
	if err != nil {
		return 0, 0, err
	}
	var figures [3]float64
	for i, name := range []string{"used_memory", "mem_aof_buffer", "aof_current_size"} {
		if figures[i], err = strconv.ParseFloat(said[name], 64); err != nil {
			return 0, 0, fmt.Errorf("INFO says no %s: %w", name, err)
		}
	}
	return figures[0] - figures[1], figures[2], nil
}

package main

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
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// measureReplicas measures what SERVER2s cost that share a Redis, and what one
// Redis bears. All of them share the machine's processors: it is processor time
// that counts, and not the rate.
func measureReplicas(ctx context.Context, s settings, t *table) error {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.add(line{what: "Redis", note: "is not installed here: its Debian package is redis-server"})
		return nil
	}
	var alone float64
	for n := range 3 {
		s.say("replicas: %d over one Redis", n+1)
		found, err := measureSharing(ctx, s, n+1)
		if err != nil {
			return fmt.Errorf("%d replicas (make build comes first): %w", n+1, err)
		}
		if n == 0 {
			alone = found.replicas
		}
		t.add(line{
			what: fmt.Sprintf("processor time of SERVER2 a redemption, %d of them over one Redis", n+1), median: microseconds(found.replicas),
			ratio: found.replicas / alone,
			note:  fmt.Sprintf("of Redis %s; %s /s from %d callers, who share the machine", microseconds(found.redis), grouped(found.rate), callers),
		})
	}
	for _, fsync := range []string{"always", "everysec"} {
		s.say("replicas: one Redis, appendfsync %s", fsync)
		found, err := measureRedis(ctx, s, fsync)
		if err != nil {
			return fmt.Errorf("appendfsync %s: %w", fsync, err)
		}
		t.add(line{
			what: "processor time of Redis a redemption, appendfsync " + fsync, median: microseconds(found.redis),
			note: fmt.Sprintf("%s /s from %d callers, who share the machine; its one core bears %s /s; %.0f B a mark in memory at %s, %.0f in the file, which it rewrites",
				grouped(found.rate), redisCallers, grouped(1e9/found.redis), found.memory, grouped(float64(found.marks)), found.file),
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
func measureSharing(ctx context.Context, s settings, n int) (_ sharing, err error) {
	rounds, calls := 3, 8000
	if s.short {
		rounds, calls = 1, 2000
	}
	dir := filepath.Join(s.dir, "replicas"+strconv.Itoa(n))
	redis, err := pair.StartRedis(ctx, filepath.Join(dir, "redis"))
	if err != nil {
		return sharing{}, err
	}
	defer func() { err = errors.Join(err, redis.Stop()) }()
	p, err := pair.Start(ctx, pair.Config{
		Bin: s.bin, Dir: filepath.Join(dir, "pair"), Audiences: n,
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
			replicas += usageOf(audience.Pid()).Processor
		}
		return replicas, usageOf(redis.Pid()).Processor
	}
	replicas, ofRedis := used()
	rates := make([]float64, rounds)
	for round := range rates {
		do, err := payNothing(ctx, key, clients, calls)
		if err != nil {
			return sharing{}, err
		}
		took, err := closed(ctx, calls, callers, do)
		if err != nil {
			return sharing{}, err
		}
		rates[round] = float64(calls) / took.Seconds()
	}
	replicasNow, redisNow := used()
	each := func(d time.Duration) float64 { return float64(d) / float64(rounds*calls) }
	return sharing{
		rate:     median(rates, func(x float64) float64 { return x }),
		replicas: each(replicasNow - replicas), redis: each(redisNow - ofRedis),
	}, nil
}

// payNothing returns calls that spend a token each, at the replicas in turns.
func payNothing(ctx context.Context, key *signkey.Key, clients []server2v1.InvoiceServiceClient, n int) (call, error) {
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: pair.Issuer, Key: key})
	if err != nil {
		return nil, err
	}
	op, err := rule.Operation(payMethod, payment()) // of an invoice that nobody has
	if err != nil {
		return nil, err
	}
	raws := make([]string, n)
	for i := range raws {
		raws[i], _, err = issuer.Issue(ctx, handoff.IssueParams{Audience: pair.Audience, Subject: user, Operation: op})
		if err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, i int) error {
		_, err := clients[i%len(clients)].PayInvoice(ctx, payment(), handoffgrpc.Token(raws[i]))
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

// measureRedis loads one Redis by stores alone, as replicas have them.
func measureRedis(ctx context.Context, s settings, fsync string) (_ bearing, err error) {
	n := 1_000_000
	if s.short {
		n = 100_000
	}
	redis, err := pair.StartRedis(ctx, filepath.Join(s.dir, "redis-"+fsync), "--appendfsync", fsync)
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
	used := usageOf(redis.Pid()).Processor
	took, err := closed(ctx, n, redisCallers, func(ctx context.Context, i int) error {
		return stores[i%len(stores)].Redeem(ctx, handoff.Redemption{
			Issuer: shopName, ID: strconv.Itoa(i), IssuedAt: issued, Expires: issued.Add(handoff.MaxLifetime - time.Minute),
		})
	})
	if err != nil {
		return bearing{}, err
	}
	used = usageOf(redis.Pid()).Processor - used
	memoryNow, fileNow, err := held(ctx, redis)
	return bearing{
		rate: float64(n) / took.Seconds(), redis: float64(used) / float64(n), marks: n,
		memory: (memoryNow - memory) / float64(n), file: (fileNow - file) / float64(n),
	}, err
}

// held is what a Redis keeps in memory, without what is on its way to the file,
// and in the file, in bytes.
func held(ctx context.Context, redis *pair.Redis) (memory, file float64, err error) {
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

package redisreplay_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestStoreConforms(t *testing.T) {
	r := start(t)
	s := open(t, redisreplay.Config{URL: r.url()})
	t.Run("store", func(t *testing.T) {
		handofftest.Store(t, func(*testing.T) handoff.Store { return s })
	})
}

// E01: of many callers at several replicas, one redeems a token.
func TestE01OneOfManyReplicas(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	var replicas []*opened
	for range 3 {
		replicas = append(replicas, open(t, redisreplay.Config{URL: r.url()}))
	}
	for range 50 {
		r := token()
		var succeeded, replayed atomic.Int32
		var wait sync.WaitGroup
		for i := range 64 {
			wait.Go(func() {
				switch err := replicas[i%3].Redeem(context.Background(), r); {
				case err == nil:
					succeeded.Add(1)
				case errors.Is(err, handoff.ErrReplayed):
					replayed.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if succeeded.Load() != 1 || replayed.Load() != 63 {
			t.Fatalf("%d redeemed, %d replayed, want 1 and 63", succeeded.Load(), replayed.Load())
		}
	}
}

// E02: a Redis that has no marks yet, or none any more, refuses what was issued
// before.
func TestE02ANewRedisBegins(t *testing.T) {
	t.Parallel()
	r := start(t)
	s := open(t, redisreplay.Config{URL: r.url()})
	redeem(t, s, token(), handoff.ErrIssuedBeforeStart)
	if s.Healthy() == nil {
		t.Error("healthy, and refuses")
	}
	late := token()
	late.IssuedAt = s.Ready()
	redeem(t, s, late, nil)
	if s.told() != "[started over]" {
		t.Errorf("told %s", s.told())
	}
	again := open(t, redisreplay.Config{URL: r.url()})
	if again.told() != "[]" || !again.Ready().Equal(s.Ready()) {
		t.Errorf("another replica: told %s, ready at %v, want %v", again.told(), again.Ready(), s.Ready())
	}
}

func TestE02AnEmptiedRedisBeginsAnew(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	replicas := []*opened{open(t, redisreplay.Config{URL: r.url()}), open(t, redisreplay.Config{URL: r.url()})}
	spent := token()
	redeem(t, replicas[0], spent, nil)
	r.do("FLUSHALL")
	for range 50 {
		for _, s := range replicas {
			refused(t, s, spent)
			refused(t, s, token())
		}
	}
	for _, s := range replicas {
		servingtest.Eventually(t, "it is known", func() bool { return errors.Is(s.Healthy(), handoff.ErrIssuedBeforeStart) })
	}
	redeem(t, replicas[1], spent, handoff.ErrIssuedBeforeStart)
	late := token()
	late.IssuedAt = later(replicas[0].Ready(), replicas[1].Ready())
	redeem(t, replicas[0], late, nil)
	redeem(t, replicas[1], late, handoff.ErrReplayed)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// E03: what was acknowledged survives kill -9 of a Redis that writes each mark
// down, and the store goes on with it.
func TestE03RedisKilled(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	var mu sync.Mutex
	var acknowledged []handoff.Redemption
	for round := range 3 {
		var wait sync.WaitGroup
		before, stop := len(acknowledged), make(chan struct{})
		for range 16 {
			wait.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					r := token()
					if s.Redeem(context.Background(), r) == nil {
						mu.Lock()
						acknowledged = append(acknowledged, r)
						mu.Unlock()
					}
				}
			})
		}
		servingtest.Eventually(t, "enough is acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) >= before+100
		})
		r.kill()
		close(stop)
		wait.Wait()
		if s.Redeem(context.Background(), token()) == nil {
			t.Error("redeemed without a Redis")
		}
		r.run()
		recovers(t, s)
		for _, a := range acknowledged {
			redeem(t, s, a, handoff.ErrReplayed)
		}
		t.Logf("kill %d: %d acknowledged redemptions", round, len(acknowledged))
	}
}

// E04: what replicas do not have is not acknowledged; and after a failover the
// store starts over, so that a mark that was lost with the old primary does not
// matter.
func TestE04Failover(t *testing.T) {
	t.Parallel()
	primary := start(t).age()
	replica := start(t, "--replicaof", "127.0.0.1 "+primary.port)
	other := start(t, "--replicaof", "127.0.0.1 "+primary.port)
	for _, r := range []*redis{replica, other} {
		servingtest.Eventually(t, "the replica is in step", func() bool { return r.info("master_link_status") == "up" })
	}
	p := newProxy(t, primary)
	s := open(t, redisreplay.Config{URL: p.url(), WaitReplicas: 1, Timeout: 2 * time.Second})
	var acknowledged []handoff.Redemption
	for range 100 {
		acknowledged = append(acknowledged, token())
		redeem(t, s, acknowledged[len(acknowledged)-1], nil)
	}
	replica.stall()
	other.stall()
	half := token()
	refused(t, s, half)
	primary.kill()
	refused(t, s, token())
	replica.cont()
	other.cont()
	replica.do("REPLICAOF", "NO", "ONE")
	other.do("REPLICAOF", "127.0.0.1", replica.port)
	servingtest.Eventually(t, "the other follows", func() bool { return other.info("master_link_status") == "up" })
	p.pass(replica, nil)
	p.cut()
	servingtest.Eventually(t, "the store finds the new primary", func() bool {
		return errors.Is(s.Redeem(context.Background(), token()), handoff.ErrIssuedBeforeStart)
	})
	for _, r := range append(acknowledged, half) {
		redeem(t, s, r, handoff.ErrIssuedBeforeStart)
	}
	late := token()
	late.IssuedAt = s.Ready()
	redeem(t, s, late, nil)
	redeem(t, s, late, handoff.ErrReplayed)
}

// E04: a WAIT that ends before enough replicas have the redemption, for any
// reason, acknowledges nothing.
func TestE04TooFewReplicasHaveIt(t *testing.T) {
	t.Parallel()
	primary := start(t).age()
	start(t, "--replicaof", "127.0.0.1 "+primary.port)
	servingtest.Eventually(t, "the replica is there", func() bool { return primary.info("connected_slaves") == "1" })
	p := newProxy(t, primary)
	var none atomic.Bool
	var changed atomic.Bool
	p.change(primary, func(reply []byte) []byte {
		// WAIT's answer comes with the script's, which ends with a text, or after it.
		if none.Load() && bytes.HasSuffix(reply, []byte(":1\r\n")) {
			reply[len(reply)-3] = '0'
			changed.Store(true)
		}
		return reply
	})
	s := open(t, redisreplay.Config{URL: p.url(), WaitReplicas: 1})
	together(t, s)
	none.Store(true)
	began := time.Now()
	refused(t, s, token())
	if took := time.Since(began); took >= unhurried {
		t.Errorf("refused after %s: the timeout decided", took)
	}
	if !changed.Load() {
		t.Error("WAIT's answer was not changed: the test shows nothing")
	}
	none.Store(false)
	recovers(t, s)
}

// E04: the loss that was measured without WAIT, at a primary whose replica the
// store has not seen yet: every mark that the new primary lacks is refused.
func TestE04FailoverThatLosesMarks(t *testing.T) {
	t.Parallel()
	primary := start(t).age()
	p := newProxy(t, primary)
	p.change(primary, func(reply []byte) []byte {
		return bytes.Replace(reply, []byte("connected_slaves:1"), []byte("connected_slaves:0"), 1)
	})
	s := open(t, redisreplay.Config{URL: p.url()})
	replica := start(t, "--replicaof", "127.0.0.1 "+primary.port)
	servingtest.Eventually(t, "the replica is in step", func() bool { return replica.info("master_link_status") == "up" })
	replica.stall()
	var lost []handoff.Redemption
	for range 100 {
		r := token()
		if s.Redeem(context.Background(), r) == nil {
			lost = append(lost, r)
		}
	}
	if len(lost) == 0 {
		t.Fatal("the primary acknowledged nothing that the replica lacks: the test shows nothing")
	}
	primary.kill()
	replica.cont()
	replica.do("REPLICAOF", "NO", "ONE")
	p.pass(replica, nil)
	p.cut()
	servingtest.Eventually(t, "the store finds the new primary", func() bool { return s.Healthy() != nil && s.Ready().After(time.Now()) })
	for _, r := range lost {
		redeem(t, s, r, handoff.ErrIssuedBeforeStart)
	}
}

// E05: a Redis that may evict is refused at the start; one that begins to, while
// the store runs, within seconds; and what it may have evicted stays refused.
func TestE05Eviction(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	spent := token()
	redeem(t, s, spent, nil)
	r.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	r.do("CONFIG", "SET", "maxmemory", "1") // evicts every key that is not in use
	r.do("CONFIG", "SET", "maxmemory", "0")
	for range 20 {
		refused(t, s, spent)
		time.Sleep(100 * time.Millisecond)
	}
	servingtest.Eventually(t, "it is found unsafe", func() bool { return s.Healthy() != nil })
	refused(t, s, token())
	r.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	servingtest.Eventually(t, "it is found safe again", func() bool {
		return errors.Is(s.Redeem(context.Background(), token()), handoff.ErrIssuedBeforeStart)
	})
	redeem(t, s, spent, handoff.ErrIssuedBeforeStart)
	late := token()
	late.IssuedAt = s.Ready()
	redeem(t, s, late, nil)
}

// E05: marks that were evicted while nobody looked are noticed by their number.
func TestE05EvictedBetweenChecks(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	spent := token()
	redeem(t, s, spent, nil)
	r.do("SET", "bystander", "1", "PX", "100000")
	r.do("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
	r.do("CONFIG", "SET", "maxmemory", "1")
	_, _ = r.server.Ask("SET", "x", "1")
	r.do("CONFIG", "SET", "maxmemory", "0")
	r.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	if r.info("evicted_keys") == "0" {
		t.Fatal("the Redis evicted nothing: the test shows nothing")
	}
	servingtest.Eventually(t, "the store starts over", func() bool { return errors.Is(s.Healthy(), handoff.ErrIssuedBeforeStart) })
	redeem(t, s, spent, handoff.ErrIssuedBeforeStart)
}

// E13: a verifier with a larger skew accepts tokens longer than their marks live.
func TestE13LargerSkew(t *testing.T) {
	t.Parallel()
	s := open(t, redisreplay.Config{URL: start(t).age().url()})
	r := token()
	r.Skew = 6 * time.Second
	refused(t, s, r)
	r.Skew = 5 * time.Second
	redeem(t, s, r, nil)
}

// I08: the number of the newest trust list never goes back, is one for all replicas,
// and is each issuer's own.
func TestI08TheFloorIsShared(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	one, other := open(t, redisreplay.Config{URL: r.url()}), open(t, redisreplay.Config{URL: r.url()})
	const shop = "https://shop.example"
	want := func(issuer string, seq int64) {
		t.Helper()
		for _, s := range []*opened{one, other} {
			if got, err := s.Floor(t.Context(), issuer); got != seq || err != nil {
				t.Errorf("%d (%v), want %d", got, err, seq)
			}
		}
	}
	want(shop, 0)
	for _, seq := range []int64{1_800_000_000_002, 1_800_000_000_001, 9_007_199_254_740_991, 7} {
		for _, s := range []*opened{one, other} {
			if err := s.Raise(t.Context(), shop, seq); err != nil {
				t.Error(err)
			}
		}
	}
	want(shop, 9_007_199_254_740_991)
	want(shop+"/", 0)
	r.kill()
	if _, err := one.Floor(t.Context(), shop); err == nil {
		t.Error("a number without a Redis")
	}
	if one.Raise(t.Context(), shop, 9) == nil {
		t.Error("kept without a Redis")
	}
	r.run()
	recovers(t, one)
	want(shop, 9_007_199_254_740_991)
}

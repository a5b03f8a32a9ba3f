package redisreplay_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// kept is a Redis of whose files a test makes a copy, and puts it back.
type kept struct {
	*redis
	files, copied string
}

func startKept(t *testing.T) *kept {
	t.Helper()
	dir := t.TempDir()
	return &kept{start(t, "--dir", dir).age(), filepath.Join(dir, "appendonlydir"), filepath.Join(t.TempDir(), "copy")}
}

func (k *kept) copy() {
	k.Helper()
	if err := os.CopyFS(k.copied, os.DirFS(k.files)); err != nil {
		k.Fatal(err)
	}
}

// putBack starts the Redis again with the files that were copied.
func (k *kept) putBack() {
	k.Helper()
	k.kill()
	if err := os.RemoveAll(k.files); err != nil {
		k.Fatal(err)
	}
	if err := os.CopyFS(k.files, os.DirFS(k.copied)); err != nil {
		k.Fatal(err)
	}
	k.run()
}

func startedOver(s *opened) bool { return strings.Contains(s.told(), fmt.Sprint(replay.StartedOver)) }

// isBeforeStart waits until a store that has started over says so of what it has redeemed.
func isBeforeStart(t *testing.T, s handoff.Store, r handoff.Redemption) {
	t.Helper()
	servingtest.Eventually(t, "it was issued before the start", func() bool {
		err := s.Redeem(context.Background(), r)
		if err == nil {
			t.Fatal("redeemed twice")
		}
		return errors.Is(err, handoff.ErrIssuedBeforeStart)
	})
}

// I07: a Redis is put back to what it was a moment ago, between two checks. It starts
// over: what was redeemed since is not redeemed again.
func TestI07TheRedisIsPutBack(t *testing.T) {
	t.Parallel()
	r := startKept(t)
	s := open(t, redisreplay.Config{URL: r.url()})
	before, since := token(), token()
	redeem(t, s, before, nil)
	r.copy()
	redeem(t, s, since, nil)
	r.putBack()
	servingtest.Eventually(t, "the store starts over", func() bool {
		again(t, s, since)
		return startedOver(s)
	})
	isBeforeStart(t, s, before)
	isBeforeStart(t, s, since)
}

// I07: another replica has redeemed in such a Redis before the one asks that can tell.
func TestI07AnotherReplicaComesFirst(t *testing.T) {
	t.Parallel()
	r := startKept(t)
	p := newProxy(t, r.redis)
	witness := open(t, redisreplay.Config{URL: p.url()})
	redeem(t, witness, token(), nil)
	r.copy()
	since := token()
	redeem(t, witness, since, nil)
	nowhere := start(t)
	nowhere.kill()
	p.pass(nowhere, nil) // until the other has redeemed more than was lost
	r.putBack()
	other := open(t, redisreplay.Config{URL: r.url()})
	for range 3 {
		redeem(t, other, token(), nil)
	}
	p.pass(r.redis, nil)
	servingtest.Eventually(t, "the witness has the Redis start over", func() bool { return startedOver(witness) })
	isBeforeStart(t, witness, since)
	isBeforeStart(t, other, since)
}

// A Redis that is killed and starts again has all that it had, and does not start over:
// not with several replicas either, of which some have redeemed more than the others.
func TestE03NotPutBack(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	a, b := open(t, redisreplay.Config{URL: r.url()}), open(t, redisreplay.Config{URL: r.url()})
	for range 3 {
		for range 20 {
			recovers(t, a)
		}
		recovers(t, b)
		r.kill()
		r.run()
		recovers(t, b)
		recovers(t, a)
	}
	if startedOver(a) || startedOver(b) {
		t.Error("it started over: ", a.told(), b.told())
	}
}

// A Redis that is emptied while several replicas run starts over, and then goes on for
// all of them.
func TestE02GoesOnForAllReplicas(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	stores := []*opened{open(t, redisreplay.Config{URL: r.url(), Skew: time.Second}), open(t, redisreplay.Config{URL: r.url(), Skew: time.Second})}
	for i, s := range stores {
		for range 10 * (i + 1) {
			redeem(t, s, token(), nil)
		}
	}
	spent := token()
	redeem(t, stores[0], spent, nil)
	r.do("FLUSHALL")
	for _, s := range stores {
		isBeforeStart(t, s, spent)
	}
	for range 3 {
		for _, s := range stores {
			recovers(t, s)
		}
	}
}

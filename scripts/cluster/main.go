// Command cluster runs the demo services as more than one machine would: two
// processes of SERVER1 over one PostgreSQL, three of SERVER2 over another
// database and one Redis. It tells what must hold across them, stops everything,
// leaves nothing, and exits with 0 only if every line went as told.
//
// It needs Debian's packages redis-server and postgresql, and the built programs
// beside itself. Both are started privately, in a temporary folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := perform(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

// perform starts everything, tells the story and stops everything.
func perform(ctx context.Context) (err error) {
	began := time.Now()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "handoff-cluster-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Println("starting Redis, PostgreSQL and five servers (some five seconds)")
	redis, err := pair.StartRedis(ctx, filepath.Join(dir, "redis"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Stop()) }()
	postgres, err := pair.StartPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, postgres.Stop()) }()
	cluster, err := start(ctx, dir, filepath.Dir(program), redis, postgres)
	if err != nil {
		return err
	}
	s := &story{pair: cluster, redis: redis}
	err = errors.Join(s.tell(ctx), cluster.Stop())
	if err != nil {
		return err
	}
	fmt.Printf("\nEverything has stopped. %d of %d lines went as told, in %s.\n", s.steps-s.wrong, s.steps, time.Since(began).Round(100*time.Millisecond))
	if s.wrong > 0 {
		return fmt.Errorf("%d lines went otherwise than told", s.wrong)
	}
	return nil
}

// start starts the servers, waits until they serve, and says where they are.
func start(ctx context.Context, dir, bin string, redis *pair.Redis, postgres *pair.Postgres) (*pair.Pair, error) {
	const skew = "500ms" // the clocks are one machine's own
	cluster, err := pair.Start(ctx, pair.Config{
		Bin: bin, Dir: filepath.Join(dir, "servers"), Trust: true, Issuers: 2, Audiences: 3, Postgres: postgres,
		Server1: []string{"--skew", skew, "--sign-in-attempts", "100"},
		Server2: []string{"--skew", skew, "--replay", redis.URL},
	})
	if err != nil {
		return nil, err
	}
	for _, process := range cluster.Issuers {
		fmt.Printf("SERVER1     %-22s process %d\n", process.Address, process.Pid())
	}
	for _, process := range cluster.Audiences {
		fmt.Printf("SERVER2     %-22s process %d\n", process.Address, process.Pid())
	}
	fmt.Printf("PostgreSQL  %-22s process %d: a database for each service\n", "a socket", postgres.Pid())
	fmt.Printf("Redis       %-22s process %d: what SERVER2 has redeemed\n", strings.TrimPrefix(redis.URL, "redis://"), redis.Pid())
	if err := cluster.Ready(ctx); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return cluster, nil
}

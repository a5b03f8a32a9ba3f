package overload

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// I01: nothing stays of a call that is refused, however far its deadline is, and its caller
// hears why, also of a stream.
func TestI01NothingStaysOfTheRefused(t *testing.T) {
	s := newShedder(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(s.Options()...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(s.Listener(l)) }()
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	many := metadata.MD{}
	for i := range maxFields + 1 {
		many.Set(fmt.Sprint("x", i), "")
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), many), 10000*time.Hour)
	defer cancel()
	hears := func(what string, err error) {
		answer := status.Convert(err)
		if answer.Code() != codes.ResourceExhausted || len(answer.Details()) != 1 || answer.Details()[0].(*errdetails.ErrorInfo).GetReason() != "LIMIT_EXCEEDED" {
			t.Errorf("I01: %s: %v", what, err)
		}
	}
	refuse := func(n int) {
		const callers = 16
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range n / callers {
					_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
					if code := status.Code(err); code != codes.ResourceExhausted && code != codes.DeadlineExceeded { // on a busy machine
						t.Errorf("I01: %v", err)
					}
				}
			})
		}
		all.Wait()
	}
	inTime := func(call func() error) (err error) {
		for range 20 { // a busy machine can miss the moment
			if err = call(); status.Code(err) != codes.DeadlineExceeded {
				break
			}
		}
		return err
	}
	hears("a call", inTime(func() error {
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}))
	hears("a stream", inTime(func() error {
		watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = watch.Recv()
		}
		return err
	}))

	const calls = 8000
	refuse(calls) // what it keeps for later
	before := heap()
	refuse(calls)
	time.Sleep(3 * soon)
	if grown := (float64(heap()) - float64(before)) / calls; grown > 100 {
		t.Errorf("I01: %.0f bytes stay of a call that was refused", grown)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

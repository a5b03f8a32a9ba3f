package trust

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// long is a state with n entries, and the longest that entries can be.
func long(c *clock, n int, key handoff.Key) State {
	s := State{Keys: []handoff.Key{key}, Revoked: make([]Entry, n)}
	for i := range s.Revoked {
		var subject digest
		binary.BigEndian.PutUint64(subject[:], uint64(i))
		s.Revoked[i] = Entry{
			Kind: KindSubject, ID: base64url.EncodeToString(subject[:]), Cutoff: c.Now(), Until: c.Now().Add(time.Minute),
		}
	}
	return s
}

// heap returns how many bytes of it are in use.
func heap() int {
	for range 3 { // one lets go of what another looks for
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// next makes a list of this length the newest, as fast as nobody can sign.
func (p *Publisher) next(t testing.TB, length int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &list{keys: p.config.Source.(*fixed).state.Keys, seq: p.seq + 1, expires: p.config.Now().Add(time.Minute)}
	if err := p.replace(l, strings.Repeat("A", length)); err != nil {
		t.Fatal(err)
	}
}

// narrow are the options of a client that takes 64 KiB and no more until it reads.
func narrow(dial []grpc.DialOption) []grpc.DialOption {
	return append(dial, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
}

// Whoever does not read has the publisher hold a few parts of a list, and none of
// the lists that have been the newest since. What is sent whole is short.
func TestReadersThatDoNotRead(t *testing.T) {
	c, key := newClock(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: &fixed{state: long(c, 100_000, key.Key())}, Now: c.Now})
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	size := len(p.newest().raw)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial, _ := serveOn(t, listener, func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}, p.Register)
	web, roots := serveHTTPS(t, p.Handler())
	before := heap()
	const lists, watchers = 32, 8
	for range lists {
		conn, err := grpc.NewClient("passthrough:///shop", narrow(dial)...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := handoffv1.NewTrustServiceClient(conn)
		for range watchers {
			if _, err := client.WatchTrustList(t.Context(), &handoffv1.WatchTrustListRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.GetTrustList(t.Context(), &handoffv1.GetTrustListRequest{}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("GetTrustList of a long list: %v", err)
		}
		https := &http.Client{Transport: &http.Transport{TLSClientConfig: roots}}
		defer https.CloseIdleConnections()
		response, err := https.Get(web.URL + ListPath)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		p.next(t, size)
	}
	time.Sleep(100 * time.Millisecond) // so that each has been sent all that it will be
	held := heap() - before - maxFormer
	t.Logf("%d readers that came while %d lists of %d bytes were the newest: %d bytes are held, %d a reader",
		lists*(watchers+1), lists, size, held, held/(lists*(watchers+1)))
	const each = 384 << 10 // what waits, what is to wait next, and a part of the connection's own, at both ends
	if held > lists*(watchers+1)*each {
		t.Errorf("%d bytes are held for readers that do not read", held)
	}
}

// A reader that is slower than the lists are signed is told to begin anew, over
// gRPC and HTTP; one that is only slow has the list that it began with, whole.
func TestSlowReaders(t *testing.T) {
	c, key := newClock(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: &fixed{state: State{Keys: []handoff.Key{key.Key()}}}, Now: c.Now})
	const size, kept = 4 << 20, maxFormer / (4 << 20)
	p.next(t, size)
	dial, _ := serveGRPC(t, p.Register)
	conn, err := grpc.NewClient("passthrough:///shop", narrow(dial)...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, reader := range []struct {
		name  string
		newer int
		whole bool
	}{{"slow", kept, true}, {"slower", kept + 1, false}} {
		stream, err := handoffv1.NewTrustServiceClient(conn).WatchTrustList(t.Context(), &handoffv1.WatchTrustListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil || !first.GetContinued() || len(first.GetTrustList()) != part {
			t.Fatalf("%s: the first part: %d bytes, %v", reader.name, len(first.GetTrustList()), err)
		}
		w := &pausing{ResponseRecorder: httptest.NewRecorder(), pause: make(chan struct{}), paused: make(chan struct{})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			p.Handler().ServeHTTP(w, httptest.NewRequest("GET", ListPath, nil))
		}()
		<-w.paused
		for range reader.newer {
			p.next(t, size)
		}
		runtime.GC()
		rest, err := receive(stream)
		if reader.whole != (err == nil) || err == nil && len(rest) != size-part || err != nil && status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %d bytes more, %v", reader.name, len(rest), err)
		}
		close(w.pause)
		<-served
		if got := w.Body.Len(); reader.whole != (got == size) {
			t.Errorf("%s over HTTP: %d bytes of %d", reader.name, got, size)
		}
	}
}

// pausing is a reader that takes a little and then waits.
type pausing struct {
	*httptest.ResponseRecorder
	pause, paused chan struct{}
	writes        int
}

func (p *pausing) Write(b []byte) (int, error) {
	if p.writes++; p.writes == 2 {
		close(p.paused)
		<-p.pause
	}
	return p.ResponseRecorder.Write(b)
}

// A follower like any other reads 100,000 entries, and what is new within a second.
func TestFollowerOfALongList(t *testing.T) {
	key, trustKey := newSigner(), newSigner()
	now := &clock{now: time.Now()}
	s := &fixed{state: long(now, 100_000, key.Key())}
	for i := range s.state.Revoked {
		s.state.Revoked[i].Until = now.Now().Add(time.Hour)
	}
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s})
	dial, _ := serveGRPC(t, p.Register)
	source, err := NewStreamFeed("passthrough:///shop", dial...)
	if err != nil {
		t.Fatal(err)
	}
	f := newFollower(t, trustKey.Key(), time.Now)
	done := errors.New("done")
	for range 2 {
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = source.Follow(t.Context(), func(raw string) error {
			if newer, err := f.apply(t.Context(), raw); err != nil || !newer {
				t.Errorf("newer: %v, %v", newer, err)
			}
			return done
		})
		if !errors.Is(err, done) {
			t.Fatal(err)
		}
		if f.Status().Entries != len(s.state.Revoked) {
			t.Errorf("%d entries", f.Status().Entries)
		}
		t.Logf("%d bytes are read and applied in %s", len(p.newest().raw), time.Since(start))
		s.state.Revoked = append(s.state.Revoked, Entry{Kind: KindToken, ID: handoff.NewID(), Until: time.Now().Add(time.Hour)})
	}
}

// parts is a service that sends each list as it stands here, and ends.
type parts struct {
	handoffv1.UnimplementedTrustServiceServer
	messages []*handoffv1.WatchTrustListResponse
}

func (p parts) WatchTrustList(_ *handoffv1.WatchTrustListRequest, stream grpc.ServerStreamingServer[handoffv1.WatchTrustListResponse]) error {
	for _, m := range p.messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "that was all")
}

// What a feed of any server delivers: lists of up to 16 MiB, however they come, of
// a longer one what shows that it is, and of one that ends too early nothing.
func TestStreamFeedDelivers(t *testing.T) {
	message := func(length int, continued bool) *handoffv1.WatchTrustListResponse {
		return &handoffv1.WatchTrustListResponse{TrustList: strings.Repeat("A", length), Continued: continued}
	}
	longest := profile.MaxLength
	for _, c := range []struct {
		name     string
		messages []*handoffv1.WatchTrustListResponse
		want     []int
	}{
		{"short", []*handoffv1.WatchTrustListResponse{message(10, false), message(20, false)}, []int{10, 20}},
		{"in parts", []*handoffv1.WatchTrustListResponse{message(10, true), message(0, true), message(20, false), message(5, false)}, []int{30, 5}},
		{"empty", []*handoffv1.WatchTrustListResponse{message(0, false)}, []int{0}},
		{"the longest, whole", []*handoffv1.WatchTrustListResponse{message(longest, false)}, []int{longest}},
		{"the longest, in parts", []*handoffv1.WatchTrustListResponse{message(longest-1, true), message(1, false)}, []int{longest}},
		{"too long, whole", []*handoffv1.WatchTrustListResponse{message(longest+1, false)}, []int{longest + 1}},
		{"too long, in parts", []*handoffv1.WatchTrustListResponse{message(longest, true), message(10, true), message(10, true), message(10, false)}, []int{longest + 10}},
		{"much too long", []*handoffv1.WatchTrustListResponse{message(2*longest, false)}, nil},
		{"a part alone", []*handoffv1.WatchTrustListResponse{message(10, true)}, nil},
	} {
		dial, stop := serveGRPC(t, func(s grpc.ServiceRegistrar) { handoffv1.RegisterTrustServiceServer(s, parts{messages: c.messages}) })
		source, err := NewStreamFeed("passthrough:///shop", dial...)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		tooLong := errors.New("too long")
		_ = source.Follow(t.Context(), func(raw string) error {
			if got = append(got, len(raw)); len(raw) > longest {
				return tooLong // as a follower says
			}
			return nil
		})
		if len(got) != len(c.want) || len(got) > 0 && (got[0] != c.want[0] || got[len(got)-1] != c.want[len(got)-1]) {
			t.Errorf("%s: delivered lists of %d bytes, want %d", c.name, got, c.want)
		}
		stop()
	}
}

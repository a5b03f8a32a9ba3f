package trust

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
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

// next makes a list with entries of this length the newest, as fast as nobody can sign.
func (p *Publisher) next(t testing.TB, length int) (name string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	text := []byte(strings.Repeat("A", length))
	binary.BigEndian.PutUint64(text, uint64(p.seq))
	l := &list{
		keys: p.config.Source.(*fixed).state.Keys, seq: p.seq + 1, expires: p.config.Now().Add(time.Minute), digest: hash(text), entries: newEntries(),
	}
	if err := p.replace(l, text, "A", 1); err != nil {
		t.Fatal(err)
	}
	return p.newest().digest
}

// narrow are the options of a client that takes 64 KiB and no more until it reads.
func narrow(dial []grpc.DialOption) []grpc.DialOption {
	return append(dial, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
}

// A caller who does not read has the publisher hold a few parts of some entries, and
// none of the entries that have been the newest since.
func TestReadersThatDoNotRead(t *testing.T) {
	c, key := newClock(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: &fixed{state: State{Keys: []handoff.Key{key.Key()}}}, Now: c.Now})
	const size = 5 << 20
	newest := p.next(t, size)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial, _ := serveOn(t, listener, func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}, p.Register)
	web, roots := serveHTTPS(t, p.Handler())
	before := heap()
	const lists, readers = 12, 8
	for range lists {
		conn, err := grpc.NewClient("passthrough:///shop", narrow(dial)...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := handoffv1.NewTrustServiceClient(conn)
		for range readers {
			stream, err := client.GetTrustEntries(t.Context(), &handoffv1.GetTrustEntriesRequest{RevokedSha256: newest})
			if err == nil {
				_, err = stream.Recv()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		https := &http.Client{Transport: &http.Transport{TLSClientConfig: roots}}
		defer https.CloseIdleConnections()
		response, err := https.Get(web.URL + ListPath + "/" + newest)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(err, response.Status)
		}
		defer response.Body.Close()
		newest = p.next(t, size)
	}
	time.Sleep(100 * time.Millisecond) // so that each has been sent all that it will be
	held := heap() - before - maxFormer
	t.Logf("%d readers that came while %d times %d bytes were the newest: %d bytes are held, %d a reader",
		lists*(readers+1), lists, size, held, held/(lists*(readers+1)))
	const each = 384 << 10 // what waits, what is to wait next, and a part of the connection's own, at both ends
	if held > lists*(readers+1)*each {
		t.Errorf("%d bytes are held for readers that do not read", held)
	}
}

// A reader that is slower than the lists are signed is told to begin again, over
// gRPC and HTTP; one that is only slow has the entries that it began with, whole.
func TestSlowReaders(t *testing.T) {
	c, key := newClock(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: &fixed{state: State{Keys: []handoff.Key{key.Key()}}}, Now: c.Now})
	const size, kept = 4 << 20, maxFormer / (4 << 20)
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
		name := p.next(t, size)
		stream, err := handoffv1.NewTrustServiceClient(conn).GetTrustEntries(t.Context(), &handoffv1.GetTrustEntriesRequest{RevokedSha256: name})
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil || len(first.GetPart()) != part {
			t.Fatalf("%s: the first part: %d bytes, %v", reader.name, len(first.GetPart()), err)
		}
		w := &pausing{ResponseRecorder: httptest.NewRecorder(), pause: make(chan struct{}), paused: make(chan struct{})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			p.Handler().ServeHTTP(w, httptest.NewRequest("GET", ListPath+"/"+name, nil))
		}()
		<-w.paused
		for range reader.newer {
			p.next(t, size)
		}
		read := part
		for err == nil {
			var sent *handoffv1.GetTrustEntriesResponse
			sent, err = stream.Recv()
			read += len(sent.GetPart())
		}
		if whole := errors.Is(err, io.EOF) && read == size; whole != reader.whole || !whole && told(err) != "Unavailable handoff.trust READER_SLOW" {
			t.Errorf("%s: %d bytes, %v", reader.name, read, err)
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

// A follower like any other reads many entries, and what is new.
func TestFollowerOfALongList(t *testing.T) {
	key, trustKey := newSigner(), newSigner()
	now := &clock{now: time.Now()}
	s := &fixed{state: long(now, 25_000, key.Key())}
	for i := range s.state.Revoked {
		s.state.Revoked[i].Until = now.Now().Add(time.Hour)
	}
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s})
	dial, _ := serveGRPC(t, p.Register)
	source, err := NewStreamFeed("passthrough:///shop", dial...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFollower(FollowerConfig{ // that waits for a machine that is busy
		Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: noFeed{}, MaxStaleness: 50 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := errors.New("done")
	for range 2 {
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err = source.Follow(t.Context(), f.has(), func(raw string, fetch Fetch) error {
			if _, newer, err := f.apply(t.Context(), raw, fetch); err != nil || !newer {
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
		t.Logf("%d entries are read and applied in %s", len(s.state.Revoked), time.Since(start))
		s.state.Revoked = append(s.state.Revoked, Entry{Kind: KindToken, ID: handoff.NewID(), Until: time.Now().Add(time.Hour)})
	}
}

// parts is a service that sends entries as they stand here.
type parts struct {
	handoffv1.UnimplementedTrustServiceServer
	lengths []int
}

func (p parts) WatchTrustList(_ *handoffv1.WatchTrustListRequest, stream grpc.ServerStreamingServer[handoffv1.WatchTrustListResponse]) error {
	return stream.Send(&handoffv1.WatchTrustListResponse{TrustList: "x"})
}

func (p parts) GetTrustEntries(_ *handoffv1.GetTrustEntriesRequest, stream grpc.ServerStreamingServer[handoffv1.GetTrustEntriesResponse]) error {
	for _, length := range p.lengths {
		if length < 0 {
			return status.Error(codes.Unavailable, "no more")
		}
		if err := stream.Send(&handoffv1.GetTrustEntriesResponse{Part: strings.Repeat("A", length)}); err != nil {
			return err
		}
	}
	return nil
}

// What a feed of any server makes of entries: up to 32 MiB, however they come, and
// nothing of those that are longer or end too early.
func TestStreamFeedFetches(t *testing.T) {
	for _, c := range []struct {
		name    string
		lengths []int
		want    int
	}{
		{"short", []int{10}, 10},
		{"in parts", []int{10, 0, 20}, 30},
		{"empty", nil, 0},
		{"the longest", slices.Repeat([]int{256 << 10}, 128), maxText},
		{"too long", append(slices.Repeat([]int{256 << 10}, 128), 1), -1},
		{"a part of a megabyte", []int{1 << 20}, -1},
		{"a part only", []int{10, -1}, -1},
	} {
		dial, stop := serveGRPC(t, func(s grpc.ServiceRegistrar) { handoffv1.RegisterTrustServiceServer(s, parts{lengths: c.lengths}) })
		source, err := NewStreamFeed("passthrough:///shop", dial...)
		if err != nil {
			t.Fatal(err)
		}
		got, done := -1, errors.New("done")
		_ = source.Follow(t.Context(), "", func(_ string, fetch Fetch) error {
			if text, err := fetch(t.Context(), "x", ""); err == nil {
				got = len(text)
			}
			return done
		})
		if got != c.want {
			t.Errorf("%s: fetched %d bytes, want %d", c.name, got, c.want)
		}
		stop()
	}
}

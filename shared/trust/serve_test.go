package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// patience is how long a busy machine may take for what is soon done.
const patience = 30 * time.Second

// serveHTTPS serves a handler, and returns its URL with how a client trusts it.
func serveHTTPS(t testing.TB, handler http.Handler) (*httptest.Server, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// serveGRPC serves over TLS in memory. dial are the options of its clients; stop
// ends the server and every connection.
func serveGRPC(t testing.TB, register func(grpc.ServiceRegistrar)) (dial []grpc.DialOption, stop func()) {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	return serveOn(t, listener, func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }, register)
}

// serveOn is serveGRPC on a listener, to which dialer connects.
func serveOn(t testing.TB, listener net.Listener, dialer func(context.Context, string) (net.Conn, error), register func(grpc.ServiceRegistrar)) (dial []grpc.DialOption, stop func()) {
	t.Helper()
	web, client := serveHTTPS(t, http.NotFoundHandler())
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: web.TLS.Certificates, NextProtos: []string{"h2"}})))
	register(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(listener)
	}()
	stop = func() {
		s.Stop()
		<-done
	}
	t.Cleanup(stop)
	return []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(client)), grpc.WithContextDialer(dialer)}, stop
}

// told returns what a caller learns of an error: its code, and the domain and reason
// of each google.rpc.ErrorInfo, without which servers hide the rest.
func told(err error) string {
	st := status.Convert(err)
	text := st.Code().String()
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			text += " " + info.GetDomain() + " " + info.GetReason()
		}
	}
	return text
}

func TestService(t *testing.T) {
	c, key := newClock(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: newStore(key.Key()), Now: c.Now})
	dial, _ := serveGRPC(t, p.Register)
	conn, err := grpc.NewClient("passthrough:///shop", dial...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := handoffv1.NewTrustServiceClient(conn)

	unavailable := func(when string) {
		t.Helper()
		if _, err := client.GetTrustList(t.Context(), &handoffv1.GetTrustListRequest{}); told(err) != "Unavailable handoff.trust LIST_MISSING" {
			t.Errorf("GetTrustList %s: %v", when, err)
		}
		stream, err := client.WatchTrustList(t.Context(), &handoffv1.WatchTrustListRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if told(err) != "Unavailable handoff.trust LIST_MISSING" {
			t.Errorf("WatchTrustList %s: %v", when, err)
		}
	}
	unavailable("before the first list")
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := client.GetTrustList(t.Context(), &handoffv1.GetTrustListRequest{})
	if err != nil || got.GetTrustList() != p.newest().raw {
		t.Errorf("GetTrustList: %v", err)
	}
	stream, err := client.WatchTrustList(t.Context(), &handoffv1.WatchTrustListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		response, err := stream.Recv()
		if err != nil || response.GetTrustList() != p.newest().raw {
			t.Fatalf("WatchTrustList: %v", err)
		}
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.stop()
	for err == nil {
		_, err = stream.Recv()
	}
	if told(err) != "Unavailable handoff.trust SERVER_STOPS" {
		t.Errorf("at the end: %v", err)
	}
	entries, err := client.GetTrustEntries(t.Context(), &handoffv1.GetTrustEntriesRequest{RevokedSha256: "nobody's"})
	if err == nil {
		_, err = entries.Recv()
	}
	if told(err) != "NotFound handoff.trust ENTRIES_UNKNOWN" {
		t.Errorf("GetTrustEntries of no statement: %v", err)
	}
	c.advance(time.Minute)
	unavailable("when the list has expired")
}

// A watcher that does not read is sent the newest list when it does, and holds
// nobody up.
func TestSlowWatcher(t *testing.T) {
	c, key := newClock(), newSigner()
	s := newStore(key.Key())
	for range MaxKeys - 1 { // 17 kB a statement: all are more than the windows between here and there hold
		s.keys = append(s.keys, newSigner().Key())
	}
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: s, Now: c.Now})
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	dial, _ := serveGRPC(t, p.Register)
	conn, err := grpc.NewClient("passthrough:///shop", dial...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := handoffv1.NewTrustServiceClient(conn).WatchTrustList(t.Context(), &handoffv1.WatchTrustListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	const lists = 30
	for range lists {
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	received := 0
	for newest := p.newest().raw; ; received++ {
		sent, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if sent.GetTrustList() == newest {
			break
		}
	}
	if received > lists/2 {
		t.Errorf("a slow watcher was sent %d of %d lists", received, lists)
	}
}

func TestHandler(t *testing.T) {
	c, key := newClock(), newSigner()
	s := newStore(key.Key())
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: s, Now: c.Now})
	handler := p.Handler()
	ask := func(method, path, tag string) *http.Response {
		r := httptest.NewRequest(method, path, nil)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Result()
	}
	for _, path := range []string{ListPath, keysPath} {
		if got := ask("GET", path, ""); got.StatusCode != 503 || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s before the first list: %d", path, got.StatusCode)
		}
	}
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for path, kind := range map[string]string{ListPath: "application/jwt", keysPath: "application/jwk-set+json"} {
		got := ask("GET", path, "")
		tags[path] = got.Header.Get("ETag")
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != kind || tags[path] == "" ||
			got.Header.Get("Cache-Control") != "public, max-age=2, must-revalidate" {
			t.Errorf("%s: %d %v", path, got.StatusCode, got.Header)
		}
		if got := ask("GET", path, tags[path]); got.StatusCode != 304 || got.Header.Get("ETag") != tags[path] {
			t.Errorf("%s again: %d", path, got.StatusCode)
		}
		if got := ask("HEAD", path, ""); got.StatusCode != 200 {
			t.Errorf("HEAD %s: %d", path, got.StatusCode)
		}
		if got := ask("POST", path, ""); got.StatusCode != 405 {
			t.Errorf("POST %s: %d", path, got.StatusCode)
		}
	}
	body, _ := io.ReadAll(ask("GET", ListPath, "").Body)
	if string(body) != p.newest().raw {
		t.Error("another list")
	}
	body, _ = io.ReadAll(ask("GET", keysPath, "").Body)
	if set, err := keyset.Parse(body); err != nil || len(set.Keys()) != 1 || set.Keys()[0].ID() != key.Key().ID() {
		t.Errorf("the key set: %v %s", err, body)
	}
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask("GET", ListPath, tags[ListPath]); got.StatusCode != 200 {
		t.Errorf("a newer list: %d", got.StatusCode)
	}
	if got := ask("GET", keysPath, tags[keysPath]); got.StatusCode != 304 {
		t.Errorf("the same keys: %d", got.StatusCode)
	}
	if got := ask("GET", "/.well-known/other", ""); got.StatusCode != 404 {
		t.Errorf("another path: %d", got.StatusCode)
	}
	c.advance(time.Minute)
	for _, path := range []string{ListPath, keysPath} {
		if got := ask("GET", path, ""); got.StatusCode != 503 {
			t.Errorf("%s when the list has expired: %d", path, got.StatusCode)
		}
	}
}

// A request for ranges gets the whole: one for many of them would make the answer
// many times as long.
func TestHandlerAnswersWhole(t *testing.T) {
	c, key := newClock(), newSigner()
	s := newStore(key.Key())
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: s, Now: c.Now})
	publish := func() string {
		t.Helper()
		e, err := terms.Token(handoff.NewID(), c.Now().Add(time.Minute))
		s.record(t, e, err)
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p.newest().digest
	}
	before, digest := publish(), publish()
	for _, path := range []string{ListPath, keysPath, ListPath + "/" + digest, ListPath + "/" + digest + "/" + before} {
		ask := func(method, ranges string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, path, nil)
			if ranges != "" {
				r.Header.Set("Range", ranges)
			}
			w := httptest.NewRecorder()
			p.Handler().ServeHTTP(w, r)
			return w
		}
		whole := ask("GET", "")
		if whole.Code != 200 || whole.Body.Len() == 0 {
			t.Fatalf("%s: %d", path, whole.Code)
		}
		for _, ranges := range []string{"bytes=0-0", "bytes=0-0" + strings.Repeat(",1-1", 50), "bytes=1000000000-", "bytes=x"} {
			if got := ask("GET", ranges); got.Code != 200 || got.Body.String() != whole.Body.String() {
				t.Errorf("%s, %.20s: %d with %d bytes, want %d", path, ranges, got.Code, got.Body.Len(), whole.Body.Len())
			}
			if got := ask("HEAD", ranges); got.Code != 200 || got.Header().Get("Content-Length") != strconv.Itoa(whole.Body.Len()) {
				t.Errorf("HEAD %s, %.20s: %d %v", path, ranges, got.Code, got.Header())
			}
		}
	}
}

// The file is replaced whole: a reader sees one list or the next.
func TestFileIsReplacedAtomically(t *testing.T) {
	c, key, trustKey := newClock(), newSigner(), newSigner()
	path := filepath.Join(t.TempDir(), "trust.jwt")
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: newStore(key.Key()), Now: c.Now, File: path})
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := newFollower(t, trustKey.Key(), c.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := p.Publish(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	for range 500 {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var refused *listError
		if _, err := f.take(t.Context(), string(raw)); err != nil && (!errors.As(err, &refused) || refused.fault != FaultFuture) {
			t.Fatalf("read a broken list: %v", err)
		}
	}
	cancel()
	<-done
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
	p = newPublisher(t, PublisherConfig{Key: trustKey, Source: newStore(key.Key()), Now: c.Now, File: filepath.Join(path, "x")})
	if err := p.Publish(t.Context()); err == nil || p.Healthy() == nil {
		t.Error("a file that cannot be written goes unnoticed")
	}
}

// Every way of reading brings a revocation soon after its record.
func TestRevocationsArrive(t *testing.T) {
	key, trustKey := newSigner(), newSigner()
	s := newStore(key.Key())
	path := filepath.Join(t.TempDir(), "trust.jwt")
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s, File: path})
	ctx, cancel := context.WithCancel(t.Context())
	var running []chan struct{}
	start := func(run func(context.Context)) {
		done := make(chan struct{})
		running = append(running, done)
		go func() {
			defer close(done)
			run(ctx)
		}()
	}
	start(p.Run)
	defer func() {
		cancel()
		for _, done := range running {
			<-done
		}
	}()

	dial, _ := serveGRPC(t, p.Register)
	web, roots := serveHTTPS(t, p.Handler())
	stream, err1 := NewStreamFeed("passthrough:///shop", dial...)
	https, err2 := NewHTTPSFeed(web.URL+ListPath, roots, 0)
	file, err3 := NewFileFeed(path, 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	verifiers := map[string]*handoff.Verifier{}
	for name, feed := range map[string]Feed{"stream": stream, "https": https, "file": file} {
		f, err := NewFollower(FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: feed})
		if err != nil {
			t.Fatal(err)
		}
		start(f.Run)
		for deadline := time.Now().Add(patience); f.Healthy() != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", name, f.Healthy())
			}
		}
		verifiers[name] = newVerifier(t, f, time.Now)
	}

	for range 5 {
		session := handoff.NewID()
		raw, claims := issue(t, key, time.Now, "ann", session)
		other, _ := issue(t, key, time.Now, "ann", handoff.NewID())
		for _, v := range verifiers {
			verified(t, v, raw, 0)
		}
		e, err := terms.Token(claims.ID, claims.Expires)
		s.record(t, e, err)
		p.Changed()
		acknowledged := time.Now()
		for name, v := range verifiers {
			for {
				_, err := v.Verify(t.Context(), raw)
				if handoff.ReasonOf(err) == handoff.ReasonTokenRevoked {
					break
				}
				if time.Since(acknowledged) > patience {
					t.Fatalf("%s: %s after the acknowledgement: %v", name, patience, err)
				}
				time.Sleep(time.Millisecond)
			}
			verified(t, v, other, 0)
		}
	}
}

// F03, F09: the service goes, and all is refused once the list is too old; it
// comes back, and soon nothing is.
func TestServiceGoesAndComesBack(t *testing.T) {
	t.Parallel()
	key, trustKey := newSigner(), newSigner()
	s := newStore(key.Key())
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s, Refresh: 200 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	published := make(chan struct{})
	go func() {
		defer close(published)
		p.Run(ctx)
	}()
	dial, stop := serveGRPC(t, p.Register)
	var back atomic.Pointer[[]grpc.DialOption]
	back.Store(&dial)
	f, err := NewFollower(FollowerConfig{
		Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Key()}, MaxStaleness: 5 * time.Second,
		Feed: feed(func(ctx context.Context, deliver func(string, Fetch) error) error {
			stream, err := NewStreamFeed("passthrough:///shop", *back.Load()...)
			if err != nil {
				return err
			}
			return stream.Follow(ctx, "", deliver)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		f.Run(ctx)
	}()
	until := func(what string, healthy bool) {
		t.Helper()
		for start := time.Now(); (f.Healthy() == nil) != healthy; time.Sleep(time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("%s: not within %s", what, patience)
			}
		}
	}
	until("the first list", true)
	raw, _ := issue(t, key, time.Now, "ann", "")
	v := newVerifier(t, f, time.Now)
	stop()
	verified(t, v, raw, 0)
	until("too old", false)
	verified(t, v, raw, handoff.ReasonTrustStale)
	dial, _ = serveGRPC(t, p.Register)
	back.Store(&dial)
	until("back", true)
	verified(t, v, raw, 0)
	cancel()
	<-followed
	<-published
}

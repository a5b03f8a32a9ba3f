package trust

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// A bound refuses no revocation: beyond it one cut-off stands for the oldest, and it
// moves only when more must be folded.
func TestCutOffsStandForMany(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	at := now
	var all []Entry
	var f folding
	claims := map[Entry]*handoff.Claims{}
	revoke := func(kind Kind) {
		var e Entry
		var err error
		c := &handoff.Claims{Issuer: issuer, ID: handoff.NewID(), Session: handoff.NewID(), Subject: handoff.NewID(), IssuedAt: at.Truncate(time.Second)}
		switch kind {
		case KindToken:
			e, err = terms.Token(c.ID, at.Add(time.Minute))
		case KindSession:
			e, err = terms.Session(c.Session, at)
			e.Until = at.Add(time.Minute) // the latest token's end, where it is known
		case KindSubject:
			e, err = terms.Subject(c.Subject, at)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
		claims[e] = c
	}
	const most = 100
	moved := map[int64]bool{}
	for i := range 400 {
		at = now.Add(time.Duration(i) * 100 * time.Millisecond)
		revoke([]Kind{KindToken, KindSession, KindSubject}[i%3])
		listed, cutoff := f.fold(all, at, most)
		moved[cutoff] = true
		e := newEntries()
		e.all = cutoff
		for _, entry := range listed {
			if err := e.add(entry); err != nil {
				t.Fatal(err)
			}
		}
		if len(listed) > most {
			t.Fatalf("%d listed, want %d at most", len(listed), most)
		}
		for _, entry := range all {
			if !e.revoked(claims[entry]) {
				t.Fatalf("after %d, what was taken back stands: %+v", i+1, entry)
			}
		}
		fresh := &handoff.Claims{Issuer: issuer, ID: handoff.NewID(), Subject: "ann", IssuedAt: at.Truncate(time.Second).Add(time.Second)}
		if e.revoked(fresh) {
			t.Fatalf("after %d, a token that is issued a second later is refused", i+1)
		}
	}
	if len(moved) > 8 {
		t.Errorf("the cut-off moved %d times", len(moved)-1)
	}
	if listed, cutoff := f.fold(all, now.Add(time.Hour), most); len(listed) != 0 || cutoff != 0 {
		t.Errorf("when all is over, %d entries and the cut-off %d are listed", len(listed), cutoff)
	}
}

// A change makes of the entries that one has exactly those that it is for, and of
// others nothing.
func TestChange(t *testing.T) {
	c := newClock()
	states := []*entries{newEntries()}
	for i := range 20 {
		e := newEntries()
		for j := range 10 {
			if (i+j)%3 != 0 {
				_ = e.add(Entry{Kind: KindToken, ID: fmt.Sprintf("AAAAAAAAAAAAAAAAAAAA%dA", j)})
				_ = e.add(Entry{Kind: KindSession, ID: fmt.Sprintf("AAAAAAAAAAAAAAAAAAA%dAA", j)})
				subject, _ := terms.Subject(fmt.Sprint(j), c.Now().Add(time.Duration(i/2)*time.Second))
				_ = e.add(subject)
			}
		}
		if i%4 == 1 {
			e.all = int64(i)
		}
		states = append(states, e)
	}
	for _, before := range states {
		have := &list{digest: hash(before.encode()), entries: before}
		for _, after := range states {
			want := hash(after.encode())
			text := string(difference(have.digest, before, after).encode())
			was := string(before.encode())
			got, err := become(text, want, have)
			if err != nil || !equalEntries(got, after) || string(before.encode()) != was {
				t.Fatalf("%v: %s", err, text)
			}
			other := &list{digest: digest{1}, entries: before}
			if _, err := become(text, want, other); err == nil {
				t.Error("a change of other entries is taken")
			}
			if _, err := become(text, digest{2}, have); !errors.Is(err, errOtherEntries) {
				t.Errorf("a change to other entries: %v", err)
			}
			for _, bad := range []string{text + " ", text[:len(text)-1], strings.Replace(text, `"added"`, `"more"`, 1), strings.Replace(text, `,"removed"`, `,"x":1,"removed"`, 1)} {
				if _, err := become(bad, want, have); err == nil {
					t.Errorf("accepted: %s", bad)
				}
			}
		}
	}
}

// A follower hears what changed, over each transport, and is sent no more than that;
// where its own entries are not known it reads them whole.
func TestFollowersAreSentTheChange(t *testing.T) {
	key, trustKey := newSigner(), newSigner()
	s := many(t, &clock{now: time.Now()}, 2000, key.Key())
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s})
	publish := func() {
		t.Helper()
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	var sent atomic.Int64
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Handler().ServeHTTP(&counter{w, &sent}, r)
	})
	web, roots := serveHTTPS(t, counted)
	overHTTPS, err := NewHTTPSFeed(web.URL+ListPath, roots, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	dial, _ := serveGRPC(t, p.Register)
	overGRPC, err := NewStreamFeed("passthrough:///shop", append(dial, grpc.WithChainStreamInterceptor(
		func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, s grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := s(ctx, d, cc, method, o...)
			return &countedStream{stream, &sent}, err
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]Feed{"HTTPS": overHTTPS, "gRPC": overGRPC} {
		t.Run(name, func(t *testing.T) {
			f, err := NewFollower(FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: source})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); f.Run(ctx) }()
			defer func() { cancel(); <-done }()
			arrives := func() {
				t.Helper()
				for deadline := time.Now().Add(patience); f.Status().Seq != p.newest().seq; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("the list has not come: %+v", f.Status())
					}
				}
			}
			arrives()
			if whole := int64(len(p.archive.newest().text)); sent.Load() < whole {
				t.Errorf("%d bytes were sent of %d", sent.Load(), whole)
			}
			sent.Store(0)
			e, err := terms.Token(handoff.NewID(), time.Now().Add(time.Minute))
			taken := s.record(t, e, err)
			publish()
			arrives()
			if err := f.Revoked(t.Context(), &handoff.Claims{Issuer: issuer, ID: taken.ID, IssuedAt: time.Now()}); !errors.Is(err, handoff.ErrRevoked) {
				t.Errorf("what was added: %v", err)
			}
			if n := sent.Load(); n > 4000 {
				t.Errorf("%d bytes were sent for one revocation", n)
			}
			sent.Store(0)
			publish()
			arrives()
			if n := sent.Load(); n > 2000 {
				t.Errorf("%d bytes were sent for none", n)
			}
			if got := f.Status().Entries; got != p.archive.newest().entries.len() {
				t.Errorf("%d entries", got)
			}
		})
	}
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ResponseWriter.Write(b)
}

type countedStream struct {
	grpc.ClientStream
	n *atomic.Int64
}

func (c *countedStream) RecvMsg(m any) error {
	err := c.ClientStream.RecvMsg(m)
	switch m := m.(type) {
	case *handoffv1.WatchTrustListResponse:
		c.n.Add(int64(len(m.GetTrustList()) + len(m.GetChange())))
	case *handoffv1.GetTrustEntriesResponse:
		c.n.Add(int64(len(m.GetPart())))
	}
	return err
}

// Nothing is in force before the digest agrees: a publisher's word for its entries is
// not taken, nor a change's for what it makes.
func TestNothingIsInForceBeforeTheDigestAgrees(t *testing.T) {
	trustKey, key, c := forge.NewKey(handoff.EdDSA), newSigner(), newClock()
	good := goodList(trustKey, c.Now(), key.Key())
	full := `{"tokens":["AAAAAAAAAAAAAAAAAAAAAA"],"sessions":[],"subjects":{}}`
	statement, _, _ := strings.Cut(naming(good, full), "\n")
	for name, answer := range map[string]struct {
		text string
		err  error
	}{
		"none":                {noEntries, nil},
		"nothing":             {"", nil},
		"others":              {strings.ReplaceAll(full, "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAQ"), nil},
		"a byte more":         {full + " ", nil},
		"a change of nothing": {string(difference(digest{}, newEntries(), newEntries()).encode()), nil},
		"a change that lies":  {string(difference(hash([]byte(noEntries)), newEntries(), newEntries()).encode()), nil},
		"an error":            {full, errors.New("no")},
	} {
		for _, before := range []bool{false, true} {
			f := newFollower(t, trustKey.Public, c.Now)
			if before {
				if _, err := f.take(t.Context(), numbered(good, c.Now().UnixMilli()-1).Compact()); err != nil {
					t.Fatal(err)
				}
			}
			was := f.Status()
			_, newer, err := f.apply(t.Context(), statement, func(context.Context, string, string) (string, error) { return answer.text, answer.err })
			if newer || err == nil || f.Status() != was {
				t.Errorf("%s, with a list before %t: newer %t, %v, in force %+v", name, before, newer, err, f.Status())
			}
			if newer, err := f.take(t.Context(), statement+"\n"+full); !newer || err != nil {
				t.Errorf("control: %v", err)
			}
		}
	}
}

// I08: an older list is not believed after a restart, though it is still good.
func TestI08AnOlderListAfterARestart(t *testing.T) {
	trustKey, key, c := forge.NewKey(handoff.EdDSA), newSigner(), newClock()
	path := filepath.Join(t.TempDir(), "trust-state")
	start := func() *Follower {
		t.Helper()
		floor, err := NewFileFloor(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewFollower(FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Public}, Feed: noFeed{}, Now: c.Now, Floor: floor})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	at := func(ahead int64) string {
		return numbered(goodList(trustKey, c.Now(), key.Key()), c.Now().UnixMilli()+ahead).Compact()
	}
	older, list, newer := at(-1), at(0), at(1)
	f := start()
	for _, raw := range []string{older, list} {
		if _, err := f.take(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
	}
	f = start() // nobody has closed the former
	var refused *listError
	if _, err := f.take(t.Context(), older); !errors.As(err, &refused) || refused.fault != FaultRolledBack || f.Healthy() == nil {
		t.Errorf("an older list after a restart: %v", err)
	}
	if _, err := f.take(t.Context(), list); err != nil {
		t.Errorf("the same list: %v", err)
	}
	if _, err := f.take(t.Context(), newer); err != nil {
		t.Errorf("a newer list: %v", err)
	}
	if _, err := start().take(t.Context(), list); err == nil {
		t.Error("the list before the last is believed after a restart")
	}
	for text, what := range map[string]string{"": "empty", "{}": "nothing", `{"iss":"x"}`: "half", "12": "a number", `{"iss":"x","seq":1,"y":2}`: "more"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewFileFloor(path); err == nil {
			t.Errorf("a file with %s is taken", what)
		}
		if _, err := f.take(t.Context(), at(2)); err != nil {
			t.Error("a newer list is withheld, as its number cannot be kept:", err)
		}
		c.advance(10 * time.Millisecond)
	}
	for _, mode := range []os.FileMode{0o666, 0o620} {
		if err := errors.Join(os.WriteFile(path, []byte(`{"iss":"x","seq":1}`), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := NewFileFloor(path); err == nil {
			t.Errorf("a file with mode %o is taken", mode)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 10002, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := NewFileFloor(path); err == nil {
			t.Error("another user's file is taken")
		}
		if err := os.Chown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := start().take(t.Context(), at(3)); !errors.As(err, &refused) || refused.fault != FaultFloor {
		t.Errorf("another issuer's number: %v", err)
	}
}

// A follower for which the service has no place asks for the list now and then.
func TestFollowerWithoutAPlacePolls(t *testing.T) {
	key, trustKey := newSigner(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: many(t, &clock{now: time.Now()}, 100, key.Key())})
	dial, _ := serveGRPC(t, func(s grpc.ServiceRegistrar) {
		handoffv1.RegisterTrustServiceServer(s, crowded{service{publisher: p}})
	})
	source, err := NewStreamFeed("passthrough:///shop", dial...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFollower(FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: source})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for range 3 {
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); f.Status().Seq != p.newest().seq; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the list has not come")
			}
		}
	}
	if f.Status().Entries != 100 || f.Healthy() != nil {
		t.Errorf("%+v %v", f.Status(), f.Healthy())
	}
}

// crowded is a service that has no place for another watcher.
type crowded struct{ service }

func (crowded) WatchTrustList(*handoffv1.WatchTrustListRequest, grpc.ServerStreamingServer[handoffv1.WatchTrustListResponse]) error {
	return status.Error(codes.ResourceExhausted, "as many readers as it takes")
}

// Of several places the newest valid list wins, and one that fails, lags or lies harms
// nothing.
func TestSeveralFeeds(t *testing.T) {
	trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
	lists := func(lag time.Duration) Feed {
		return feed(func(ctx context.Context, deliver func(string, Fetch) error) error {
			for {
				if err := deliver(goodList(trustKey, time.Now().Add(-lag), key.Key()).Compact(), Given("")); err != nil {
					return err
				}
				if !pause(ctx, 20*time.Millisecond, nil) {
					return ctx.Err()
				}
			}
		})
	}
	broken := feed(func(context.Context, func(string, Fetch) error) error { return errors.New("no") })
	stranger := feed(func(ctx context.Context, deliver func(string, Fetch) error) error {
		return deliver(goodList(forge.NewKey(handoff.EdDSA), time.Now().Add(time.Second), key.Key()).Compact(), Given(""))
	})
	var faults atomic.Int64
	f, err := NewFollower(FollowerConfig{
		Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Public}, Feed: broken, Others: []Feed{lists(7 * time.Second), stranger, lists(0)},
		MaxStaleness: 5 * time.Second,
		Report: func(e Event) {
			if e.Fault == FaultRolledBack || e.Fault == FaultStale && e.Status.Seq != 0 && time.Since(e.Status.IssuedAt) < time.Second {
				faults.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	for deadline := time.Now().Add(patience); f.Healthy() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(f.Healthy())
		}
	}
	for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if err := f.Healthy(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	if _, err := NewFollower(FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Public}, Feed: broken, Others: []Feed{nil}}); err == nil {
		t.Error("a feed that is nil is accepted")
	}
}

// Entries are immutable under their digest, and a digest that no list names is not there.
func TestEntriesOverHTTP(t *testing.T) {
	c, key := newClock(), newSigner()
	s := many(t, c, 10, key.Key())
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: s, Now: c.Now})
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, httptest.NewRequest("GET", ListPath+path, nil))
		return w
	}
	if w := ask("/AAAA"); w.Code != 404 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("before the first list: %d", w.Code)
	}
	var digests []string
	for range 3 {
		if err := p.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, p.newest().digest)
		e, err := terms.Token(handoff.NewID(), c.Now().Add(time.Minute))
		s.record(t, e, err)
	}
	for _, digest := range digests {
		w := ask("/" + digest)
		if sum := hash(w.Body.Bytes()); w.Code != 200 || base64url.EncodeToString(sum[:]) != digest || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %q", digest, w.Code, w.Header())
		}
	}
	for _, from := range digests[:2] {
		if w := ask("/" + digests[2] + "/" + from); w.Code != 200 || !strings.HasPrefix(w.Body.String(), beginsChange+from) {
			t.Errorf("the change: %d %s", w.Code, w.Body)
		}
	}
	for _, path := range []string{"/" + digests[0] + "/" + digests[2], "/" + digests[2] + "/AAAA", "/" + digests[2] + "/" + digests[2], "/x/y/z"} {
		if w := ask(path); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

package server1

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/signing"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// The list says the same over gRPC, over HTTPS and in the file.
func TestPublished(t *testing.T) {
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing("http", "127.0.0.1:0", "trust-file", s.path("trust.jwt")))
	https, err := trust.NewHTTPSFeed("https://"+r.http+trust.ListPath, &tls.Config{RootCAs: s.pool}, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	file, err := trust.NewFileFeed(s.path("trust.jwt"), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*audience{"gRPC": r.audience(t), "HTTPS": r.follow(t, https), "a file": r.follow(t, file)}
	ctx, _ := r.signIn(t, "alice")
	raw := r.issue(t, ctx).GetToken()
	for way, a := range all {
		a.wantNow(t, way, raw, 0)
	}
	if _, err := r.sessions().SignOut(ctx, &server1v1.SignOutRequest{}); err != nil {
		t.Fatal(err)
	}
	for way, a := range all {
		a.wantSoon(t, way, raw, handoff.ReasonTokenRevoked)
	}

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}}, Timeout: patience}
	get := func(path, tag string) (int, string, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("If-None-Match", tag)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header.Get("ETag"), string(body)
	}
	code, tag, jwks := get("/.well-known/jwks.json", "")
	keys, err := keyset.Parse([]byte(jwks))
	if code != http.StatusOK || err != nil || len(keys.Keys()) != 1 || keys.Keys()[0].ID() != s.key.Key().ID() {
		t.Errorf("the JWK Set: %d, %v, %s", code, err, jwks)
	}
	if code, _, _ := get("/.well-known/jwks.json", tag); code != http.StatusNotModified {
		t.Errorf("the same JWK Set again: %d", code)
	}
	if code, _, _ := get("/", ""); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
	}
	old, err := tls.Dial("tcp", r.http, &tls.Config{RootCAs: s.pool, MaxVersion: tls.VersionTLS12})
	if err == nil {
		old.Close()
		t.Error("TLS 1.2 is spoken")
	}
}

// G05 over HTTPS: a header longer than the limit is refused.
func TestG05HTTPHeader(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	r := s.start(t, s.publishing("http", "127.0.0.1:0"))
	for length, want := range map[int]int{1 << 10: http.StatusOK, 32 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}}, Timeout: patience}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.http+trust.ListPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Long", strings.Repeat("x", length))
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil || response.StatusCode != want {
			t.Errorf("a header of %d bytes: %d, want %d", length, response.StatusCode, want)
		}
	}
}

// I03: one network's connections to the HTTPS listener end at a quarter of the flag's
// too, and one that says nothing is closed.
func TestG09HTTPIsBounded(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	r := s.start(t, s.publishing("http", "127.0.0.1:0", "max-connections", "8"))
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", r.http)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	ended := func(conn net.Conn, within time.Duration) bool {
		_ = conn.SetReadDeadline(time.Now().Add(within))
		_, err := conn.Read(make([]byte, 1))
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	var before []net.Conn
	for range 3 {
		before = append(before, dial())
	}
	first, second := dial(), dial()
	for _, conn := range before {
		if !ended(conn, patience) {
			t.Error("more than a quarter of eight are open: the ones that were idle for longest are to make room")
		}
	}
	if ended(first, 100*time.Millisecond) || ended(second, 100*time.Millisecond) {
		t.Error("the last two are not open")
	}
	r.audience(t) // over gRPC, which has connections of its own
	if !ended(first, patience) || !ended(second, patience) {
		t.Error("a connection that says nothing stays open")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}}, Timeout: patience}
	servingtest.Eventually(t, "there is room again", func() bool {
		response, err := client.Get("https://" + r.http + trust.ListPath)
		return err == nil && response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	if n := strings.Count(r.log.String(), "--max-connections"); n != 1 {
		t.Errorf("the log tells of it %d times", n)
	}
}

// One connection has few requests under way.
func TestG07HTTPRequestsAreBounded(t *testing.T) {
	s := newTrustedSite(t)
	r := s.start(t, s.publishing("http", "127.0.0.1:0"))
	conn, err := tls.Dial("tcp", r.http, &tls.Config{RootCAs: s.pool, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	frame, err := framer.ReadFrame()
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("the first frame is %v, %v", frame, err)
	}
	if most, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || most != serving.MaxRequests {
		t.Errorf("%d requests at once, %v; want %d", most, ok, serving.MaxRequests)
	}
}

// Nobody needs a session to read the list, or a list where there is none.
func TestTrustServiceIsOpen(t *testing.T) {
	s := newTrustedSite(t)
	get := func(r *running) error {
		_, err := handoffv1.NewTrustServiceClient(r.conn).GetTrustList(t.Context(), &handoffv1.GetTrustListRequest{})
		return err
	}
	if err := get(s.start(t, s.publishing())); err != nil {
		t.Error(err)
	}
	if err := get(s.start(t, nil)); status.Code(err) != codes.Unimplemented {
		t.Errorf("without a trust key: %v", err)
	}
}

// Where nobody would learn of it, nothing is taken back, and users are told; what
// ends sessions does so.
func TestWithoutTrustKey(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, _ := r.signIn(t, "alice")
	h := r.issue(t, ctx)
	_, err := r.handoffs().RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()})
	wantReason(t, "RevokeHandoff", err, handoff.ReasonIssuerUnavailable)
	for _, args := range [][]string{{"--handoff=" + h.GetHandoffId()}, {"--subject=" + s.verify(t, h.GetToken()).Claims().Subject}} {
		if status, stdout, stderr := s.try(append([]string{"revoke"}, args...)...); status != 1 || stdout != "" || stderr == "" {
			t.Errorf("revoke %s: exit status %d, %q, %q", args[0], status, stdout, stderr)
		}
	}
	if status, stdout, stderr := s.try("keys", "prepare", "--key-dir", s.path("keys")); status != 1 || stdout != "" || stderr == "" {
		t.Errorf("keys prepare: exit status %d, %q, %q", status, stdout, stderr)
	}
	if _, err := r.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
		t.Error(err)
	}
	_, err = r.sessions().GetSession(ctx, &server1v1.GetSessionRequest{})
	wantReason(t, "the session", err, handoff.ReasonSessionInvalid)
}

// F03: while what was taken back cannot be read, no list is made up: audiences
// refuse everything once the last is too old, until SERVER1 can read again.
func TestF03StoreFails(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing("trust-lifetime", "2s"))
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")
	raw := r.issue(t, ctx).GetToken()
	a.wantNow(t, "before", raw, 0)
	db := s.open(t)
	reason := func() handoff.Reason {
		_, err := a.verifier.Verify(t.Context(), raw)
		return handoff.ReasonOf(err)
	}
	if _, err := db.Exec(`ALTER TABLE revocations RENAME TO away`); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "the list is too old", func() bool { return reason() == handoff.ReasonTrustStale })
	servingtest.Eventually(t, "SERVER1 says that it is not well", func() bool { return !r.serving(t) })
	servingtest.Eventually(t, "callers are told that there is no list", func() bool {
		_, err := handoffv1.NewTrustServiceClient(r.conn).GetTrustList(t.Context(), &handoffv1.GetTrustListRequest{})
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "no current trust list")
	})
	_, err := r.sessions().SignOut(ctx, &server1v1.SignOutRequest{})
	wantReason(t, "a sign-out that cannot be recorded", err, handoff.ReasonIssuerUnavailable)
	if _, err := db.Exec(`ALTER TABLE away RENAME TO revocations`); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "the audience accepts again", func() bool { return reason() == 0 })
	if _, err := r.sessions().SignOut(ctx, &server1v1.SignOutRequest{}); err != nil {
		t.Error(err)
	}
	a.wantSoon(t, "after signing out", raw, handoff.ReasonTokenRevoked)
}

// F05: a user is an id that nobody else ever has, even if the name is given again:
// what was taken from the former alice is not taken from the next.
func TestF05NameGivenAgain(t *testing.T) {
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing())
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")
	former := r.issue(t, ctx).GetToken()
	s.command(t, "user", "disable", "alice")
	a.wantSoon(t, "the former alice", former, handoff.ReasonTokenRevoked)
	if _, err := s.open(t).Exec(`DELETE FROM users WHERE name = 'alice'`); err != nil {
		t.Fatal(err)
	}
	s.addUser(t, "alice", "payer")
	ctx, _ = r.signIn(t, "alice")
	next := r.issue(t, ctx).GetToken()
	a.wantNow(t, "the next alice", next, 0)
	if s.verify(t, former).Claims().Subject == s.verify(t, next).Claims().Subject {
		t.Error("both are one subject")
	}
}

// Only a user's own handoffs can be taken back, and nobody learns of others'.
func TestRevokeHandoffRefuses(t *testing.T) {
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob", "payer")
	r := s.start(t, s.publishing())
	alice, _ := r.signIn(t, "alice")
	bob, _ := r.signIn(t, "bob")
	h := r.issue(t, alice)
	revoke := func(id string) error {
		_, err := r.handoffs().RevokeHandoff(bob, &handoffv1.RevokeHandoffRequest{HandoffId: id})
		return err
	}
	first := revoke(h.GetHandoffId())
	for name, err := range map[string]error{
		"another user's": first, "unknown": revoke(handoff.NewID()), "empty": revoke(""), "none": revoke("' OR 1=1 --"),
		"its token": revoke(h.GetToken()),
	} {
		wantField(t, name, err, handoff.ReasonArgumentInvalid, "handoff_id")
		if err.Error() != first.Error() {
			t.Errorf("%s: %v, not %v", name, err, first)
		}
	}
	for range 2 { // it is idempotent
		if _, err := r.handoffs().RevokeHandoff(alice, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()}); err != nil {
			t.Error(err)
		}
	}
	rows := column(t, s.open(t), `SELECT event || ' ' || user_id FROM audit WHERE handoff_id = $1 ORDER BY rowid`, h.GetHandoffId())
	subject := s.verify(t, h.GetToken()).Claims().Subject
	if want := []string{"handoff_issued " + subject, "handoff_revoked " + subject}; !slices.Equal(rows, want) {
		t.Errorf("audit %q, want %q", rows, want)
	}
	for _, args := range [][]string{
		{"--handoff=" + handoff.NewID()}, {"--session=" + handoff.NewID()}, {"--subject=" + handoff.NewID()},
	} {
		if status, stdout, stderr := s.try(append([]string{"revoke"}, args...)...); status != 1 || stdout != "" || !strings.Contains(stderr, "no such") {
			t.Errorf("revoke of an unknown %s: exit status %d, %q", args[0], status, stdout)
		}
	}
	if status, _, stderr := s.try("revoke"); status != 2 || !strings.Contains(stderr, "one of") {
		t.Errorf("revoke of nothing: exit status %d", status)
	}
	if status, _, _ := s.try("revoke", "--subject="+subject, "--handoff="+h.GetHandoffId()); status != 2 {
		t.Errorf("revoke of two things: exit status %d", status)
	}
	var several []string
	for range 2 {
		several = append(several, "--handoff="+r.issue(t, alice).GetHandoffId())
	}
	if status, stdout, stderr := s.try(append([]string{"revoke"}, several...)...); status != 0 || strings.Count(stdout, "taken back: handoff ") != len(several) {
		t.Errorf("revoke of %d handoffs: exit status %d, %q, %q", len(several), status, stdout, stderr)
	}
	if ended := column(t, s.open(t), `SELECT handoff_id FROM audit WHERE event = 'handoff_revoked'`); len(ended) != 1+len(several) {
		t.Errorf("%d handoffs are taken back, not %d", len(ended), 1+len(several))
	}
}

func TestChangePassword(t *testing.T) {
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing("sign-in-attempts", "3"))
	ctx, _ := r.signIn(t, "alice")
	change := func(old, next string) error {
		_, err := r.sessions().ChangePassword(ctx, &server1v1.ChangePasswordRequest{OldPassword: old, NewPassword: next})
		return err
	}
	signIn := func(password string) error {
		_, err := r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
		return err
	}
	for range 2 {
		wantReason(t, "a stranger", signIn("not hers"), handoff.ReasonSessionInvalid)
	}
	wantReason(t, "a stranger once more", signIn("not hers"), handoff.ReasonLimitExceeded) // which locks nobody out who has a session
	wantField(t, "no old", change("", "another one"), handoff.ReasonArgumentInvalid, "old_password")
	wantField(t, "short", change(password, "1234567"), handoff.ReasonArgumentInvalid, "new_password")
	wantField(t, "no text that is typed", change(password, "\ufeffanother one"), handoff.ReasonArgumentInvalid, "new_password")
	wantField(t, "the same", change(password, password), handoff.ReasonArgumentInvalid, "new_password")
	wantField(t, "wrong", change(password+"!", "another one"), handoff.ReasonArgumentInvalid, "old_password") // the first attempt
	if err := change(password, "another one"); err != nil {                                                   // the second
		t.Fatal(err)
	}
	wantField(t, "the old password", change(password, "a third one"), handoff.ReasonArgumentInvalid, "old_password")
	err := change("another one", password)
	wantReason(t, "one too many", err, handoff.ReasonLimitExceeded)
	if wait := retryOf(err); wait <= 0 || wait > 20*time.Second {
		t.Errorf("it is to be tried again in %s", wait)
	}
	if _, err := r.sessions().GetSession(ctx, &server1v1.GetSessionRequest{}); err != nil {
		t.Errorf("the session in which the password was changed: %v", err)
	}
}

// A list that cannot be written is no list: the server says that it is not well.
func TestTrustFileFails(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	if err := os.Mkdir(s.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := s.start(t, s.publishing("trust-file", s.path("out/trust.jwt"), "trust-lifetime", "2s"))
	servingtest.Eventually(t, "it serves", func() bool { return r.serving(t) })
	if err := os.Rename(s.path("out"), s.path("away")); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "it is not well", func() bool { return !r.serving(t) })
	if err := os.Rename(s.path("away"), s.path("out")); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "it serves again", func() bool { return r.serving(t) })
}

// F07: by when a list without a tainted key is signed, this process signs with
// another, whether or not it was told that something has changed.
func TestF07TaintedKeySignsNothingThatIsPublishedWithoutIt(t *testing.T) {
	ctx := t.Context()
	db, err := database.Open(ctx, filepath.Join(t.TempDir(), "server1.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	terms := trust.Terms{Issuer: issuerName, TokenLifetime: time.Minute, ListLifetime: time.Minute, Skew: 5 * time.Second}
	if err := db.KeepTerms(ctx, terms, time.Now()); err != nil {
		t.Fatal(err)
	}
	folder, err := signkey.OpenFolder(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signing.New(ctx, signing.Config{
		DB: db, Folder: folder, Terms: terms, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	former, err := keys.Signer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	other := rotation.Steps{Store: db, Folder: folder, Now: time.Now} // as the command beside the server
	next, _, err := other.Prepare(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Taint(ctx, former.Key().ID()); err != nil {
		t.Fatal(err)
	}
	state, err := statement{DB: db, keys: keys}.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(state.Keys) != 1 || state.Keys[0].ID() != next.ID() {
		t.Errorf("the list names %v", state.Keys)
	}
	if now, err := keys.Signer(ctx); err != nil || now.Key().ID() != next.ID() {
		t.Errorf("what signs: %v, %v", now, err)
	}
}

package trust

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Where Handler serves.
const (
	ListPath = "/.well-known/handoff-trust"
	keysPath = "/.well-known/jwks.json"
)

// Register adds handoff.v1.TrustService to a server. Its methods carry no rule:
// a guard of the same server exempts "/handoff.v1.TrustService/".
func (p *Publisher) Register(s grpc.ServiceRegistrar) {
	handoffv1.RegisterTrustServiceServer(s, service{publisher: p})
}

type service struct {
	handoffv1.UnimplementedTrustServiceServer
	publisher *Publisher
}

func (s service) GetTrustList(context.Context, *handoffv1.GetTrustListRequest) (*handoffv1.GetTrustListResponse, error) {
	e := s.publisher.newest()
	if e == nil {
		return nil, errNoList()
	}
	return &handoffv1.GetTrustListResponse{TrustList: e.raw}, nil
}

// part is how many bytes of entries go into one message. gRPC keeps whole messages for
// a peer that does not read, until they are more than 64 KiB together: anybody can be
// that peer, so no message has megabytes. It keeps them in buffers of 32 KiB
// or else of 1 MiB, so none is a little longer than the former either.
const part = 30_000

// WatchTrustList sends the newest statement each time that the watcher has taken the
// one before: one that is slow misses what came between. With it goes what its
// entries differ by from those that the watcher knows of.
func (s service) WatchTrustList(request *handoffv1.WatchTrustListRequest, stream grpc.ServerStreamingServer[handoffv1.WatchTrustListResponse]) error {
	known := request.GetHaveSha256()
	for {
		e := s.publisher.newest()
		if e == nil {
			return errNoList()
		}
		message := &handoffv1.WatchTrustListResponse{TrustList: e.raw}
		if change := s.publisher.archive.change(known, e.digest); len(change)+len(e.raw) <= part {
			message.Change = change
		}
		known = e.digest
		if err := stream.Send(message); err != nil {
			return err
		}
		select {
		case <-e.superseded:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.publisher.stopped:
			return errStops()
		}
	}
}

// GetTrustEntries sends entries in parts. While it waits for the reader it holds one.
func (s service) GetTrustEntries(request *handoffv1.GetTrustEntriesRequest, stream grpc.ServerStreamingServer[handoffv1.GetTrustEntriesResponse]) error {
	a := &s.publisher.archive
	if change := a.change(request.GetHaveSha256(), request.GetRevokedSha256()); change != "" {
		return stream.Send(&handoffv1.GetTrustEntriesResponse{Part: change})
	}
	for from := 0; ; from += part {
		text := a.text(request.GetRevokedSha256())
		switch {
		case text == "" && from == 0:
			return errEntriesUnknown()
		case text == "":
			return errReaderSlow()
		}
		rest := text[from:]
		err := stream.Send(&handoffv1.GetTrustEntriesResponse{Part: strings.Clone(rest[:min(part, len(rest))])})
		if err != nil || len(rest) <= part {
			return err
		}
	}
}

// What the service says no with, as trust_service.proto lists it at each method. A
// server hides from callers what carries no google.rpc.ErrorInfo.
func errNoList() error {
	return answer(codes.Unavailable, "LIST_MISSING", "there is no current trust list")
}
func errStops() error { return answer(codes.Unavailable, "SERVER_STOPS", "the server stops") }

func errEntriesUnknown() error { return answer(codes.NotFound, "ENTRIES_UNKNOWN", textNoEntries) }
func errReaderSlow() error     { return answer(codes.Unavailable, "READER_SLOW", textTooSlow) }

const (
	textNoEntries = "no current trust list names these entries"
	textTooSlow   = "the reader is slower than the trust lists are signed"
)

// domain is that of google.rpc.ErrorInfo in the errors of TrustService.
const domain = "handoff.trust"

func answer(code codes.Code, reason, text string) error {
	st := status.New(code, text)
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: reason}); err == nil { // fails only for codes.OK
		st = detailed
	}
	return st.Err()
}

// Handler serves the statement at ListPath, its entries under their digest below it
// and what they differ by from former ones below that, and at keysPath the plain JWK
// Set, for other people's verifiers. The statement and the keys have an ETag and a
// Cache-Control of the refresh interval, 304 where the reader has it already, and 503
// where there is no list to rely on. Entries never change: any cache may keep them.
func (p *Publisher) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ListPath, func(w http.ResponseWriter, r *http.Request) {
		if e := p.newest(); e == nil {
			unavailable(w)
		} else {
			p.serve(w, r, "application/jwt", strconv.FormatInt(e.seq, 10), e.raw)
		}
	})
	mux.HandleFunc("GET "+keysPath, func(w http.ResponseWriter, r *http.Request) {
		if e := p.newest(); e == nil {
			unavailable(w)
		} else {
			tag := sha256.Sum256(e.keys)
			p.serve(w, r, "application/jwk-set+json", base64url.EncodeToString(tag[:16]), string(e.keys))
		}
	})
	mux.HandleFunc("GET "+ListPath+"/{digest}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("digest")
		p.immutable(w, r, name, func() string { return p.archive.text(name) })
	})
	mux.HandleFunc("GET "+ListPath+"/{digest}/{from}", func(w http.ResponseWriter, r *http.Request) {
		from, to := r.PathValue("from"), r.PathValue("digest")
		text := p.archive.change(from, to) // short
		p.immutable(w, r, from+"."+to, func() string { return text })
	})
	return mux
}

// immutable serves entries, or a change of them.
func (p *Publisher) immutable(w http.ResponseWriter, r *http.Request, tag string, find func() string) {
	size := int64(len(find()))
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if size == 0 {
		h.Set("Cache-Control", "no-store")
		http.Error(w, textNoEntries, http.StatusNotFound)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "public, max-age=86400, immutable")
	serveWhole(w, r, io.NewSectionReader(content{find}, 0, size))
}

// serveWhole answers a conditional request, and none for ranges: hundreds of them in
// one header would make an answer many times as long as the content.
func serveWhole(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) {
	whole := *r
	whole.Header = r.Header.Clone()
	whole.Header.Del("Range")
	http.ServeContent(w, &whole, "", time.Time{}, content)
}

// content finds what it reads each time, and does not keep it.
type content struct{ find func() string }

func (c content) ReadAt(b []byte, from int64) (int, error) {
	text := c.find()
	if from >= int64(len(text)) {
		return 0, errors.New(textTooSlow)
	}
	n := copy(b, text[from:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *Publisher) serve(w http.ResponseWriter, r *http.Request, kind, tag, content string) {
	seconds := max(1, int(p.config.Refresh/time.Second))
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(seconds)+", must-revalidate")
	h.Set("X-Content-Type-Options", "nosniff")
	serveWhole(w, r, strings.NewReader(content))
}

func unavailable(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Retry-After", "1")
	http.Error(w, "there is no current trust list", http.StatusServiceUnavailable)
}

// replaceFile puts content in the place of a file, so that a reader sees the former
// or the new, whole, and a crash leaves one of them.
func replaceFile(path, content string, mode os.FileMode) error {
	if err := vetted.Replaceable(path); err != nil {
		return err
	}
	// A name of its own, for there may be several publishers.
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()+".next")
	if err := vetted.WriteNew(next, []byte(content), mode); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return nil
}

package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// Where Handler serves.
const (
	ListPath = "/.well-known/handoff-trust"
	KeysPath = "/.well-known/jwks.json"
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
	switch {
	case e == nil:
		return nil, errNoList()
	case len(e.raw) > part:
		return nil, status.Error(codes.ResourceExhausted, "the trust list is longer than 30,000 bytes: watch it")
	}
	return &handoffv1.GetTrustListResponse{TrustList: e.raw}, nil
}

// part is how many bytes of a list go into one message. gRPC keeps whole messages for
// a peer that does not read, until they are more than 64 KiB together: anybody can be
// that peer, so no message is a list of megabytes. It keeps them in buffers of 32 KiB
// or else of 1 MiB, so none is a little longer than the former either.
const part = 30_000

// WatchTrustList sends whatever is newest each time that the watcher has taken
// the one before: one that is slow misses what came between.
func (s service) WatchTrustList(_ *handoffv1.WatchTrustListRequest, stream grpc.ServerStreamingServer[handoffv1.WatchTrustListResponse]) error {
	for {
		e := s.publisher.newest()
		if e == nil {
			return errNoList()
		}
		superseded := e.superseded
		if err := send(stream, e); err != nil {
			return err
		}
		select {
		case <-superseded:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.publisher.stopped:
			return status.Error(codes.Unavailable, "the server stops")
		}
	}
}

// send sends a list in parts. While it waits for the reader it holds one of them, and
// does not keep the list.
func send(stream grpc.ServerStreamingServer[handoffv1.WatchTrustListResponse], e *edition) error {
	list := weak.Make(e)
	for from := 0; ; from += part {
		rest := e.raw[from:]
		message := &handoffv1.WatchTrustListResponse{TrustList: strings.Clone(rest[:min(part, len(rest))]), Continued: len(rest) > part}
		if err := stream.Send(message); err != nil || !message.GetContinued() {
			return err
		}
		if e = list.Value(); e == nil {
			return status.Error(codes.Unavailable, "the reader is slower than the trust lists are signed")
		}
	}
}

func errNoList() error {
	return status.Error(codes.Unavailable, "there is no current trust list")
}

// Handler serves the list at ListPath and the plain JWK Set, for other people's
// verifiers, at KeysPath: each with an ETag and with a Cache-Control of the
// refresh interval, 304 where the reader has it already, and 503 where there is
// no list to rely on.
func (p *Publisher) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ListPath, func(w http.ResponseWriter, r *http.Request) {
		if e := p.newest(); e == nil {
			unavailable(w)
		} else {
			p.serve(w, r, "application/jwt", strconv.FormatInt(e.seq, 10), e.reader())
		}
	})
	mux.HandleFunc("GET "+KeysPath, func(w http.ResponseWriter, r *http.Request) {
		if e := p.newest(); e == nil {
			unavailable(w)
		} else {
			tag := sha256.Sum256(e.keys)
			p.serve(w, r, "application/jwk-set+json", base64url.EncodeToString(tag[:16]), bytes.NewReader(e.keys))
		}
	})
	return mux
}

// reader reads the list, and where it is long does not keep it.
func (e *edition) reader() io.ReadSeeker {
	if len(e.raw) <= part {
		return strings.NewReader(e.raw)
	}
	return io.NewSectionReader(content{weak.Make(e)}, 0, int64(len(e.raw)))
}

type content struct{ list weak.Pointer[edition] }

func (c content) ReadAt(b []byte, from int64) (int, error) {
	e := c.list.Value()
	if e == nil {
		return 0, errors.New("the reader is slower than the trust lists are signed")
	}
	n := copy(b, e.raw[from:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *Publisher) serve(w http.ResponseWriter, r *http.Request, kind, tag string, content io.ReadSeeker) {
	seconds := max(1, int(p.config.Refresh/time.Second))
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(seconds)+", must-revalidate")
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, content)
}

func unavailable(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Retry-After", "1")
	http.Error(w, "there is no current trust list", http.StatusServiceUnavailable)
}

// writeFile puts content in the place of a file, so that a reader sees the former
// or the new, whole, and a crash leaves one of them.
func writeFile(path, content string) (err error) {
	// A name of its own, for there may be several publishers.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.next")
	if err != nil {
		return err
	}
	next := f.Name()
	defer func() {
		if err != nil {
			_ = os.Remove(next)
		}
	}()
	if err = f.Chmod(0o644); err == nil {
		_, err = f.WriteString(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(next, path)
}

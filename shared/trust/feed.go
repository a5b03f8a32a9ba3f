package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// DefaultPoll is how often a feed that must look for a new list does so, where it
// is not told.
const DefaultPoll = 500 * time.Millisecond

func checkPoll(poll time.Duration) (time.Duration, error) {
	if poll == 0 {
		poll = DefaultPoll
	}
	if poll < 10*time.Millisecond || poll > time.Hour {
		return 0, fmt.Errorf("the trust list is to be polled every %s: that must be from 10ms to 1h", poll)
	}
	return poll, nil
}

// readList reads no more of a list than shows that it is too long.
func readList(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(profile.MaxLength)+1))
	return string(b), err
}

// FileFeed reads the list from a file that somebody else replaces: a publisher,
// or a job that copies it. It is safe for concurrent use.
type FileFeed struct {
	path string
	poll time.Duration
}

// NewFileFeed returns a feed of the file, which is read every poll; zero: 500 ms.
func NewFileFeed(path string, poll time.Duration) (*FileFeed, error) {
	if path == "" {
		return nil, errors.New("the trust list's file has no name")
	}
	poll, err := checkPoll(poll)
	if err != nil {
		return nil, err
	}
	return &FileFeed{path: path, poll: poll}, nil
}

// Follow delivers the file now and whenever it has changed.
func (f *FileFeed) Follow(ctx context.Context, deliver func(raw string) error) error {
	last := ""
	for {
		raw, err := f.read()
		if err != nil {
			return fmt.Errorf("the trust list's file: %w", err)
		}
		if raw != last || raw == "" {
			if err := deliver(raw); err != nil {
				return err
			}
			last = raw
		}
		if !pause(ctx, f.poll, nil) {
			return ctx.Err()
		}
	}
}

func (f *FileFeed) read() (string, error) {
	// To open a pipe would wait for its writer.
	if info, err := os.Stat(f.path); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	file, err := os.Open(f.path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return readList(file)
}

// StreamFeed reads the list from handoff.v1.TrustService: it hears of a
// revocation without asking. It is safe for concurrent use.
type StreamFeed struct {
	target  string
	options []grpc.DialOption
}

// NewStreamFeed returns a feed of the service at a gRPC target. The options are
// those of grpc.NewClient, which demands transport credentials among them.
func NewStreamFeed(target string, options ...grpc.DialOption) (*StreamFeed, error) {
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("the trust list's service: %w", err)
	}
	return &StreamFeed{target: target, options: options}, conn.Close()
}

// Follow connects anew, so that how soon it is tried again is its caller's to
// say, and delivers each list that the service sends.
func (f *StreamFeed) Follow(ctx context.Context, deliver func(raw string) error) error {
	conn, err := grpc.NewClient(f.target, f.options...)
	if err != nil {
		return fmt.Errorf("the trust list's service: %w", err)
	}
	defer conn.Close()
	const framing = 64
	stream, err := handoffv1.NewTrustServiceClient(conn).WatchTrustList(ctx, &handoffv1.WatchTrustListRequest{},
		grpc.MaxCallRecvMsgSize(profile.MaxLength+framing))
	for err == nil {
		var raw string
		if raw, err = receive(stream); err != nil {
			break
		}
		if err := deliver(raw); err != nil {
			return err
		}
	}
	return fmt.Errorf("the trust list's service: %s: %s", status.Code(err), legible(status.Convert(err).Message()))
}

// legible returns one line of a gRPC status's message, which may be the server's own
// text: cut, and without what gRPC puts around a cause that it quotes again and again.
func legible(message string) string {
	message = strings.ReplaceAll(message, "connection error: desc = ", "")
	message = strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return -1
		case !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, message)
	const most = 300 // runes
	if runes := []rune(message); len(runes) > most {
		message = string(runes[:most]) + "…"
	}
	return message
}

// receive receives a list and joins its parts: of one that is too long, no more than
// shows that it is.
func receive(stream grpc.ServerStreamingClient[handoffv1.WatchTrustListResponse]) (string, error) {
	var raw strings.Builder
	for {
		response, err := stream.Recv()
		if err != nil {
			return "", err
		}
		if raw.WriteString(response.GetTrustList()); !response.GetContinued() || raw.Len() > profile.MaxLength {
			return raw.String(), nil
		}
	}
}

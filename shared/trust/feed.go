package trust

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// defaultPoll is how often a feed that must look for a new list does so, where it
// is not told.
const defaultPoll = 500 * time.Millisecond

func checkPoll(poll time.Duration) (time.Duration, error) {
	poll = cmp.Or(poll, defaultPoll)
	if poll < 10*time.Millisecond || poll > time.Hour {
		return 0, fmt.Errorf("the trust list is to be polled every %s: that must be from 10ms to 1h", poll)
	}
	return poll, nil
}

// ReadList reads a trust list as a file has it, or standard input: the statement on
// one line, and its entries on the next, where they are there. A line feed at the end
// may be missing. It reads no more than shows that it is too long.
func ReadList(r io.Reader) (statement, entries string, err error) {
	in := bufio.NewReader(r)
	var line []byte
	for len(line) <= profile.MaxLength {
		switch c, err := in.ReadByte(); {
		case errors.Is(err, io.EOF):
			return string(line), "", nil
		case err != nil:
			return "", "", err
		case c == '\n':
			rest, err := io.ReadAll(io.LimitReader(in, maxText+2))
			return string(line), strings.TrimSuffix(string(rest), "\n"), err
		default:
			line = append(line, c)
		}
	}
	return string(line), "", nil
}

// Given fetches the entries that came with a statement: of a feed that reads both at
// once. Empty: none did.
func Given(entries string) Fetch {
	return func(context.Context, string, string) (string, error) {
		if entries == "" {
			return "", &listError{fault: FaultEntries, text: "the entries that the statement names are not there: they belong on the line after it"}
		}
		return entries, nil
	}
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
func (f *FileFeed) Follow(ctx context.Context, _ string, deliver func(statement string, fetch Fetch) error) error {
	last := ""
	for {
		statement, entries, err := f.read()
		if err != nil {
			return fmt.Errorf("the trust list's file: %w", err)
		}
		if statement != last || statement == "" {
			if err := deliver(statement, Given(entries)); err != nil {
				return err
			}
			last = statement
		}
		if !pause(ctx, f.poll, nil) {
			return ctx.Err()
		}
	}
}

func (f *FileFeed) read() (statement, entries string, err error) {
	// To open a pipe would wait for its writer.
	if info, err := os.Stat(f.path); err != nil {
		return "", "", err
	} else if !info.Mode().IsRegular() {
		return "", "", errors.New("not a regular file")
	}
	file, err := os.Open(f.path)
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	return ReadList(file)
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

// Follow connects again each time, so that how soon it is tried again is its caller's to
// say, and delivers each list that the service sends. Where the service has no place
// for another reader it asks for the list now and then.
func (f *StreamFeed) Follow(ctx context.Context, have string, deliver func(statement string, fetch Fetch) error) error {
	conn, err := grpc.NewClient(f.target, f.options...)
	if err != nil {
		return fmt.Errorf("the trust list's service: %w", err)
	}
	defer conn.Close()
	s := &streamed{handoffv1.NewTrustServiceClient(conn), deliver}
	err = s.watch(ctx, have)
	if status.Code(err) == codes.ResourceExhausted {
		err = s.poll(ctx)
	}
	if _, ours := status.FromError(err); !ours {
		return err // deliver's
	}
	return serviceError(err)
}

func serviceError(err error) error {
	return fmt.Errorf("the trust list's service: %s: %s", status.Code(err), legible(status.Convert(err).Message()))
}

// streamed reads the list from one connection.
type streamed struct {
	client  handoffv1.TrustServiceClient
	deliver func(statement string, fetch Fetch) error
}

func (s *streamed) watch(ctx context.Context, have string) error {
	stream, err := s.client.WatchTrustList(ctx, &handoffv1.WatchTrustListRequest{HaveSha256: have}, limit())
	for err == nil {
		var sent *handoffv1.WatchTrustListResponse
		if sent, err = stream.Recv(); err != nil {
			break
		}
		err = s.deliver(sent.GetTrustList(), func(ctx context.Context, digest, have string) (string, error) {
			// A change that came along is of those, or else of no use.
			if have != "" && strings.HasPrefix(sent.GetChange(), beginsChange+have+`"`) {
				return sent.GetChange(), nil
			}
			return s.fetch(ctx, digest, have)
		})
	}
	return err
}

// places is for how long a follower without a place polls until it looks for one.
const places = time.Minute

func (s *streamed) poll(ctx context.Context) error {
	last := ""
	for began := time.Now(); time.Since(began) < places; {
		sent, err := s.client.GetTrustList(ctx, &handoffv1.GetTrustListRequest{}, limit())
		if err != nil {
			return err
		}
		if raw := sent.GetTrustList(); raw != last {
			if err := s.deliver(raw, s.fetch); err != nil {
				return err
			}
			last = raw
		}
		if !pause(ctx, defaultPoll, nil) {
			return ctx.Err()
		}
	}
	return status.Error(codes.ResourceExhausted, "it has no place for another reader")
}

// limit bounds a message: a statement or a part, and a change.
func limit() grpc.CallOption { return grpc.MaxCallRecvMsgSize(profile.MaxLength + 256<<10) }

// fetch asks for entries and joins their parts: of what is too long, no more than
// shows that it is.
func (s *streamed) fetch(ctx context.Context, digest, have string) (string, error) {
	stream, err := s.client.GetTrustEntries(ctx, &handoffv1.GetTrustEntriesRequest{RevokedSha256: digest, HaveSha256: have}, limit())
	if err != nil {
		return "", serviceError(err)
	}
	var text strings.Builder
	for text.Len() <= maxText {
		sent, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return text.String(), nil
		case err != nil:
			return "", serviceError(err)
		}
		text.WriteString(sent.GetPart())
	}
	return "", errTooLong
}

var errTooLong = errors.New("the trust list's entries are longer than 32 MiB")

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

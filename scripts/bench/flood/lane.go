package flood

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	"github.com/handoff-auth/handoff/scripts/bench/raced"
)

// A lane is one HTTP/2 connection of a flood.
type lane struct {
	conn    net.Conn
	body    []byte // of every call
	current atomic.Pointer[wave]
	backlog []int // calls that are due and not sent: only the sender uses it

	mu      sync.Mutex // of what follows
	writer  *bufio.Writer
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	calls   []int // by stream: 1, 3, 5, …
	open    int   // of them have no answer
	allowed int   // may be open
	window  int   // bytes of bodies that the server has room for

	// Only the reader uses these.
	decoder *hpack.Decoder
	status  string // in the header block that is being read

	ended chan struct{} // the reader has ended
	err   error         // why
}

func newLane(ctx context.Context, to *target, body []byte) (*lane, error) {
	config := &tls.Config{RootCAs: to.roots, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", to.address)
	if err != nil {
		return nil, err
	}
	l := &lane{
		conn: conn, body: body, writer: bufio.NewWriterSize(conn, 64<<10),
		allowed: math.MaxInt, window: 65535, ended: make(chan struct{}),
	}
	l.framer = http2.NewFramer(l.writer, bufio.NewReaderSize(conn, 64<<10))
	l.framer.SetReuseFrames()
	l.encoder = hpack.NewEncoder(&l.block)
	l.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == "grpc-status" {
			l.status = f.Value
		}
	})
	_, err = l.writer.WriteString(http2.ClientPreface)
	err = errors.Join(err, l.framer.WriteSettings(), l.framer.WriteWindowUpdate(0, 1<<30), l.writer.Flush())
	if err == nil { // the server's settings come first: they say how many streams it allows
		var settings http2.Frame
		if settings, err = l.framer.ReadFrame(); err == nil {
			err = l.control(settings)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		l.err = l.read()
		close(l.ended)
	}()
	return l, nil
}

// pump sends of the backlog what may be sent, and gives up what has waited too
// long.
func (l *lane) pump(w *wave) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.backlog) > 0 {
		i := l.backlog[0]
		now := time.Since(w.start)
		switch {
		case w.patience > 0 && now-w.answers[i].due > w.patience:
			w.answered(i, codes.DeadlineExceeded)
		case l.open >= l.allowed || l.window < len(l.body) || w.open > 0 && w.under.Load() >= int64(w.open):
			return l.writer.Flush()
		default:
			if w.every == 0 {
				w.answers[i].due = now
			}
			if err := l.call(i, w.token(i)); err != nil {
				return err
			}
		}
		l.backlog = l.backlog[1:]
	}
	return l.writer.Flush()
}

// call writes a call.
func (l *lane) call(i int, raw string) error {
	l.block.Reset()
	for _, field := range [...]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":path", Value: raced.PayMethod},
		{Name: ":authority", Value: "billing.example"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
		{Name: "authorization", Value: "Bearer " + raw},
	} {
		if err := l.encoder.WriteField(field); err != nil {
			return err
		}
	}
	l.calls = append(l.calls, i)
	l.open++
	l.current.Load().under.Add(1)
	l.window -= len(l.body)
	stream := uint32(2*len(l.calls) - 1)
	return errors.Join(
		l.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: l.block.Bytes(), EndHeaders: true}),
		l.framer.WriteData(stream, true, l.body))
}

// read reads until the connection ends.
func (l *lane) read() error {
	for {
		frame, err := l.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			err = l.header(frame)
		case *http2.RSTStreamFrame:
			if frame.ErrCode != http2.ErrCodeNo { // which follows an answer
				l.answered(frame.StreamID, refusedStream)
			}
		case *http2.GoAwayFrame:
			err = fmt.Errorf("GOAWAY with %s", frame.ErrCode)
		default:
			err = l.control(frame)
		}
		if err != nil {
			return err
		}
	}
}

func (l *lane) header(frame *http2.HeadersFrame) error {
	l.status = ""
	if _, err := l.decoder.Write(frame.HeaderBlockFragment()); err != nil {
		return err
	}
	if !frame.HeadersEnded() {
		return errors.New("a header block of several frames")
	}
	if !frame.StreamEnded() {
		return nil
	}
	code, err := strconv.Atoi(l.status)
	if err != nil {
		return errors.New("an answer without a status")
	}
	l.answered(frame.StreamID, codes.Code(code))
	return nil
}

// answered notes the answer to a call.
func (l *lane) answered(stream uint32, code codes.Code) {
	l.mu.Lock()
	i := l.calls[stream/2]
	l.open--
	l.mu.Unlock()
	w := l.current.Load()
	w.under.Add(-1)
	w.answered(i, code)
}

// control does what HTTP/2 asks of a client beside its calls.
func (l *lane) control(frame http2.Frame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if frame.IsAck() {
			return nil
		}
		if most, ok := frame.Value(http2.SettingMaxConcurrentStreams); ok {
			l.allowed = int(most)
		}
		return errors.Join(l.framer.WriteSettingsAck(), l.writer.Flush())
	case *http2.PingFrame:
		if !frame.IsAck() {
			return errors.Join(l.framer.WritePing(true, frame.Data), l.writer.Flush())
		}
	case *http2.WindowUpdateFrame:
		if frame.StreamID == 0 {
			l.window += int(frame.Increment)
		}
	}
	return nil
}

// Package flood offers a server more calls than it can answer, and measures what
// it still does.
package flood

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// A flood makes more calls than a gRPC client could make from one processor: its
// lanes write the frames themselves and read only the status of an answer. As
// every HTTP/2 client must, it keeps to the number of streams that a server
// allows on a connection.
type flood struct{ lanes []*lane }

func newFlood(ctx context.Context, to *target, lanes int) (*flood, error) {
	message, err := proto.Marshal(to.request)
	if err != nil {
		return nil, err
	}
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	f := &flood{}
	for range lanes {
		l, err := newLane(ctx, to, body)
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.lanes = append(f.lanes, l)
	}
	return f, nil
}

func (f *flood) close() error {
	var failures []error
	for _, l := range f.lanes {
		failures = append(failures, l.conn.Close())
	}
	return errors.Join(failures...)
}

// A wave is a number of calls, and what became of them.
type wave struct {
	want     outcomes
	token    func(i int) string
	every    time.Duration // from one call to the next; zero: each is due when it can be sent
	open     int           // calls without an answer at a time; zero: as many as the server allows
	patience time.Duration // how long a call waits to be sent; zero: for ever
	answers  []answer

	start time.Time
	under atomic.Int64 // calls that are sent and have no answer
	left  atomic.Int64 // calls that have no answer
	done  chan struct{}
}

// answer is what became of a call.
type answer struct {
	code codes.Code
	due  time.Duration // since the wave's start
	took time.Duration // since it was due
}

// refusedStream is the code of a call that HTTP/2 itself refused.
const refusedStream codes.Code = 99

// tick is how often calls that are due are written: several to a TLS record.
const tick = time.Millisecond

// send makes the calls of a wave, and returns when all have their answer.
func (f *flood) send(ctx context.Context, w *wave) error {
	w.start, w.done = time.Now(), make(chan struct{})
	w.left.Store(int64(len(w.answers)))
	for _, l := range f.lanes {
		l.current.Store(w)
	}
	for next, first := 0, 0; ; measure.Pause(tick) {
		now := time.Since(w.start)
		for ; next < len(w.answers) && time.Duration(next)*w.every <= now; next++ {
			w.answers[next].due = time.Duration(next) * w.every
			l := f.lanes[next%len(f.lanes)]
			l.backlog = append(l.backlog, next)
		}
		waiting := len(w.answers) - next
		first++
		for k := range f.lanes {
			l := f.lanes[(first+k)%len(f.lanes)]
			if err := l.pump(w); err != nil {
				return err
			}
			waiting += len(l.backlog)
		}
		if err := errors.Join(context.Cause(ctx), f.ended()); err != nil {
			return err
		}
		if waiting == 0 {
			break
		}
	}
	for {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
			if err := f.ended(); err != nil {
				return err
			}
		}
	}
}

// ended returns why a lane has ended, or nil.
func (f *flood) ended() error {
	for _, l := range f.lanes {
		select {
		case <-l.ended:
			return fmt.Errorf("a connection ended: %w", l.err)
		default:
		}
	}
	return nil
}

// answered notes what became of a call.
func (w *wave) answered(i int, code codes.Code) {
	a := &w.answers[i]
	a.code, a.took = code, time.Since(w.start)-a.due
	if w.left.Add(-1) == 0 {
		close(w.done)
	}
}

package replay

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"
)

// E06: a disk that does not answer holds no caller longer than its context, and
// what is written once it answers was not acknowledged.
func TestE06WriterWhenTheDiskStalls(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := &segment{file: w, codec: (&header{}).codec()}
	var full int
	for w.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err == nil; {
		var n int
		n, err = w.Write(make([]byte, 4096))
		full += n
	}
	w.SetWriteDeadline(time.Time{})

	writer := startWriter(s, func() time.Time { return time.Time{} }, func() error { return nil }, func(Event) {})
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			began := time.Now()
			err := writer.append(ctx, mark{key: key{byte(i)}})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
				t.Errorf("got %v after %s, want DeadlineExceeded", err, time.Since(began))
			}
		})
	}
	wait.Wait()

	if _, err := io.CopyN(io.Discard, r, int64(full)); err != nil {
		t.Fatal(err)
	}
	if err := writer.append(t.Context(), mark{key: key{200}}); err != nil {
		t.Errorf("once it answers: %v", err)
	}
	if clean, err := writer.close(2); err != nil || !clean {
		t.Error(err)
	}
	if err := writer.append(t.Context(), mark{}); !errors.Is(err, errClosed) {
		t.Errorf("after close: got %v, want errClosed", err)
	}
	written, err := io.ReadAll(r)
	if err != nil || len(written) != 52*recordSize {
		t.Errorf("%d bytes written (%v), want every mark once, and a seal", len(written), err)
	}
}

package flood

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
)

// A pace tells how fast a processor is, moment by moment: what others do on the
// machine, or on the same core, may slow it by half from one second to the next,
// and what is compared across waves would be that. It is a process that checks a
// few signatures on the processor every while, and takes the time it was at work.
type pace struct {
	command *exec.Cmd
	ended   chan struct{} // nothing more is noted

	mu     sync.Mutex
	checks []check
}

// check is how long a signature check took, in processor time, when.
type check struct {
	at   time.Time
	took time.Duration
}

// A measurement takes some hundredth of the processor.
const (
	paceEvery  = 50 * time.Millisecond
	paceChecks = 16
)

// Beat is the process's life.
func Beat(w io.Writer) error {
	runtime.LockOSThread()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	message := make([]byte, 500)
	signature := ed25519.Sign(private, message)
	for {
		measure.Pause(paceEvery)
		start := measure.ThreadTime()
		for range paceChecks {
			if !ed25519.Verify(public, message, signature) {
				return raced.ErrSignature
			}
		}
		if _, err := fmt.Fprintln(w, int64(measure.ThreadTime()-start)/paceChecks); err != nil {
			return err
		}
	}
}

func startPace(ctx context.Context, core int) (*pace, error) {
	command, err := measure.OwnCommand(ctx, "beat")
	if err != nil {
		return nil, err
	}
	p := &pace{command: command, ended: make(chan struct{})}
	output, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := measure.StartOn(p.command, []int{core}); err != nil {
		return nil, err
	}
	go p.note(output)
	return p, nil
}

func (p *pace) note(output io.Reader) {
	defer close(p.ended)
	for lines := bufio.NewScanner(output); lines.Scan(); {
		took, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.checks = append(p.checks, check{time.Now(), time.Duration(took)})
		p.mu.Unlock()
	}
}

func (p *pace) stop() error {
	err := p.command.Process.Kill()
	<-p.ended
	_ = p.command.Wait() // which says that it was killed
	return err
}

// during is how long a signature check took, on average, while a wave was sent.
func (p *pace) during(w *wave) (time.Duration, error) {
	end := w.start.Add(w.length())
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum time.Duration
	n := 0
	for _, c := range p.checks {
		if c.at.After(w.start) && c.at.Before(end) {
			sum, n = sum+c.took, n+1
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("no signature check in %s", end.Sub(w.start))
	}
	return sum / time.Duration(n), nil
}

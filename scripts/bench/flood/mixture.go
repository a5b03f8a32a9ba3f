package flood

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// A mixture makes waves in which a third of the tokens is good, each its own, a
// third forged, and a third spent.
type mixture struct {
	to     *target
	flood  *flood
	forged string
	spent  []string
}

// kinds of calls, by their number in the wave.
const (
	goodOnes = iota
	forgedOnes
	spentOnes
	kinds
)

// busy is how many calls keep a processor busy, without one being shed.
const busy = 32

// patience is the deadline of the calls: one that could not be sent by then is
// given up by its own caller.
const patience = time.Second

// outcomes are what a call of each kind is answered, unless it is shed.
type outcomes [kinds]codes.Code

func newMixture(ctx context.Context, to *target, f *flood) (*mixture, error) {
	spent := make([]string, 1000)
	for i := range spent {
		var err error
		if spent[i], err = to.issue(ctx); err != nil {
			return nil, err
		}
	}
	w := &wave{token: func(i int) string { return spent[i] }, open: busy, answers: make([]answer, len(spent))}
	if err := f.send(ctx, w); err != nil {
		return nil, err
	}
	for _, a := range w.answers {
		if a.code != codes.OK {
			return nil, fmt.Errorf("a good token was answered %s", a.code)
		}
	}
	// A signature over other bytes: all of it must be checked to find out.
	raw, other := spent[0], spent[1]
	return &mixture{to, f, raw[:len(raw)-86] + other[len(other)-86:], spent}, nil
}

// prepare makes a wave of n calls at a rate a second; at 0, as fast as the server
// answers.
func (m *mixture) prepare(ctx context.Context, n int, rate float64) (*wave, error) {
	fresh := make([]string, (n+kinds-1)/kinds)
	failures := make(chan error, runtime.NumCPU())
	var wait sync.WaitGroup
	for c := range runtime.NumCPU() {
		wait.Go(func() {
			for i := c; i < len(fresh); i += runtime.NumCPU() {
				var err error
				if fresh[i], err = m.to.issue(ctx); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	want := outcomes{codes.OK, codes.Unauthenticated, m.to.spent}
	w := &wave{want: want, answers: make([]answer, n), token: func(i int) string {
		switch i % kinds {
		case forgedOnes:
			return m.forged
		case spentOnes:
			return m.spent[i%len(m.spent)]
		}
		return fresh[i/kinds]
	}}
	if rate > 0 {
		w.every, w.patience = time.Duration(float64(time.Second)/rate), patience
	} else {
		w.open = busy
	}
	select {
	case err := <-failures:
		return nil, err
	default:
		return w, nil
	}
}

// decides checks that every call of a wave was decided, and rightly.
func (w *wave) decides() error {
	for i, a := range w.answers {
		if a.code != w.want[i%kinds] {
			return fmt.Errorf("a call with a token of kind %d was answered %s", i%kinds, a.code)
		}
	}
	return nil
}

// wrong is the part of the calls that were decided as they should not be: refused
// though their token was good, or the other way round.
func (w *wave) wrong() float64 {
	n := 0.0
	for i, a := range w.answers {
		if a.decided() && a.code != w.want[i%kinds] {
			n++
		}
	}
	return n / float64(len(w.answers))
}

// send sends a wave from the flood's processor, and returns what processor time
// the server has used meanwhile.
func (m *mixture) send(ctx context.Context, w *wave) (time.Duration, error) {
	runtime.GC()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer measure.Unconfine(os.Getpid())
	if err := measure.Confine(os.Getpid(), floodCore); err != nil {
		return 0, err
	}
	before := measure.UsageOf(m.to.pid).Processor
	if err := m.flood.send(ctx, w); err != nil {
		return 0, err
	}
	return measure.UsageOf(m.to.pid).Processor - before, nil
}

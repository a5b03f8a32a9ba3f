package flood

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// shed reports whether the call was refused unseen.
func (a answer) shed() bool { return a.code == codes.ResourceExhausted || a.code == refusedStream }

// unsent reports whether the caller gave the call up before it could be sent.
func (a answer) unsent() bool { return a.code == codes.DeadlineExceeded }

func (a answer) decided() bool { return !a.shed() && !a.unsent() }

// length is the time to the last answer.
func (w *wave) length() time.Duration {
	var last time.Duration
	for _, a := range w.answers {
		last = max(last, a.due+a.took)
	}
	return last
}

// good is how many calls with a good token succeeded, a second.
func (w *wave) good() float64 {
	n := 0.0
	for i, a := range w.answers {
		if i%kinds == goodOnes && a.code == codes.OK {
			n++
		}
	}
	return n / w.length().Seconds()
}

// part is the part of the calls of which something holds.
func (w *wave) part(holds func(answer) bool) float64 {
	n := 0.0
	for _, a := range w.answers {
		if holds(a) {
			n++
		}
	}
	return n / float64(len(w.answers))
}

// p99 is that of the calls that were decided.
func (w *wave) p99() time.Duration {
	var took []time.Duration
	for _, a := range w.answers {
		if a.decided() {
			took = append(took, a.took)
		}
	}
	return time.Duration(measure.Quantile(took, 0.99, func(d time.Duration) float64 { return float64(d) }))
}

// recovered is how long it took until, for a second, every call was decided and
// no tenth of a second had a p99 above what is normal.
func (w *wave) recovered(normal time.Duration) time.Duration {
	const window, quiet = 100 * time.Millisecond, time.Second
	var end time.Duration
	for first := 0; first < len(w.answers); {
		last := first
		start := w.answers[first].due
		for last < len(w.answers) && w.answers[last].due < start+window {
			last++
		}
		part := &wave{answers: w.answers[first:last]}
		if part.part(answer.decided) < 1 || part.p99() > normal {
			end = start + window
		} else if start+window-end >= quiet {
			break
		}
		first = last
	}
	return end
}

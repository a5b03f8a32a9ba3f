package e2e

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/anishathalye/porcupine"
)

// outcome is what a use of a token came to.
type outcome string

const (
	accepted outcome = "accepted" // SERVER2 has run the call
	replayed outcome = "replayed" // the token was spent before
	refused  outcome = "refused"  // before the token was looked up: it is not spent
	doubtful outcome = "doubtful" // no answer, or none that can be relied on: it may be spent, or be yet
)

// spending is how a token must behave for every user and everywhere: it is unspent,
// and then spent for ever. A doubtful use may take effect as late as it likes, so
// that it returns at the end of time; there, it spends what nobody asks about.
var spending = porcupine.Model{
	Init: func() any { return false },
	Step: func(spent, _, output any) (bool, any) {
		switch output {
		case accepted:
			return !spent.(bool), true
		case replayed:
			return spent.(bool), true
		case doubtful:
			return true, true
		}
		return true, spent
	},
}

// use is one use of a token, between two moments.
func use(client int, called, returned int64, output outcome) porcupine.Operation {
	if output == doubtful {
		returned = math.MaxInt64
	}
	return porcupine.Operation{ClientId: client, Call: called, Return: returned, Output: output}
}

// telling is the part of a history that decides whether all of it is one: every
// acceptance; of the uses that may have spent the token the first, as any other
// can come last; and of those who found it spent the one who was told first, as
// the others can come after. Without this the search would try every order of
// what does not matter.
func telling(history []porcupine.Operation) (told []porcupine.Operation) {
	var doubt, replay *porcupine.Operation
	for i, operation := range history {
		switch operation.Output {
		case accepted:
			told = append(told, operation)
		case doubtful:
			if doubt == nil || operation.Call < doubt.Call {
				doubt = &history[i]
			}
		case replayed:
			if replay == nil || operation.Return < replay.Return {
				replay = &history[i]
			}
		}
	}
	for _, operation := range []*porcupine.Operation{doubt, replay} {
		if operation != nil {
			told = append(told, *operation)
		}
	}
	return told
}

// The model knows which histories are those of one token.
func TestHistories(t *testing.T) {
	for name, c := range map[string]struct {
		history []porcupine.Operation
		is      bool
	}{
		"nobody":                             {nil, true},
		"one":                                {[]porcupine.Operation{use(0, 0, 9, accepted)}, true},
		"one, then the other":                {[]porcupine.Operation{use(0, 0, 1, accepted), use(1, 2, 3, replayed)}, true},
		"told before, by one who is as fast": {[]porcupine.Operation{use(0, 0, 9, accepted), use(1, 1, 2, replayed)}, true},
		"accepted twice":                     {[]porcupine.Operation{use(0, 0, 9, accepted), use(1, 0, 9, accepted)}, false},
		"accepted twice, one after another":  {[]porcupine.Operation{use(0, 0, 1, accepted), use(1, 2, 3, accepted)}, false},
		"replayed before it was used":        {[]porcupine.Operation{use(0, 0, 1, replayed), use(1, 2, 3, accepted)}, false},
		"replayed by nobody":                 {[]porcupine.Operation{use(0, 0, 1, replayed)}, false},
		"replayed, of one that was refused":  {[]porcupine.Operation{use(0, 0, 1, refused), use(1, 2, 3, replayed)}, false},
		"accepted, after one was refused":    {[]porcupine.Operation{use(0, 0, 1, refused), use(1, 2, 3, accepted)}, true},
		"spent in doubt":                     {[]porcupine.Operation{use(0, 0, 1, doubtful), use(1, 2, 3, replayed)}, true},
		"not spent in doubt":                 {[]porcupine.Operation{use(0, 0, 1, doubtful), use(1, 2, 3, accepted)}, true},
		"spent in doubt, long after":         {[]porcupine.Operation{use(0, 0, 1, doubtful), use(1, 2, 3, accepted), use(2, 4, 5, replayed)}, true},
		"a doubt that came too late":         {[]porcupine.Operation{use(0, 0, 1, replayed), use(1, 2, 3, doubtful)}, false},
		"accepted twice beside a doubt":      {[]porcupine.Operation{use(0, 0, 1, doubtful), use(1, 2, 3, accepted), use(2, 2, 3, accepted)}, false},
		"accepted once it is known as spent": {[]porcupine.Operation{use(0, 0, 1, doubtful), use(1, 2, 3, replayed), use(2, 4, 5, accepted)}, false},
	} {
		if got := porcupine.CheckOperations(spending, c.history); got != c.is {
			t.Errorf("%s: %t", name, got)
		}
		if got := porcupine.CheckOperations(spending, telling(c.history)); got != c.is {
			t.Errorf("%s, its telling part: %t", name, got)
		}
	}
}

// Of random histories, the telling part is one when all of it is.
func TestTelling(t *testing.T) {
	counts := map[bool]int{}
	for range 5000 {
		history := make([]porcupine.Operation, 1+rand.IntN(6))
		for i := range history {
			called := rand.Int64N(12)
			outcomes := []outcome{accepted, replayed, replayed, refused, doubtful}
			history[i] = use(i, called, called+1+rand.Int64N(8), outcomes[rand.IntN(len(outcomes))])
		}
		all := porcupine.CheckOperations(spending, history)
		counts[all]++
		if told := telling(history); porcupine.CheckOperations(spending, told) != all {
			t.Fatalf("one history: %t, and its telling part is not: %v of %v", all, told, history)
		}
	}
	if counts[true] < 500 || counts[false] < 500 {
		t.Errorf("of the histories, %d are one and %d are not: that shows little", counts[true], counts[false])
	}
}

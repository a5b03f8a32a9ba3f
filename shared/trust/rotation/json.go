package rotation

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// times are the members of a record that are times, in Unix milliseconds, with
// the states whose records must and may have each.
var times = []struct {
	name      string
	of        func(*Record) *time.Time
	must, may []State
}{
	{"prepared", func(k *Record) *time.Time { return &k.Prepared }, []State{Active, Retired}, []State{Next, Tainted}},
	{"activated", func(k *Record) *time.Time { return &k.Activated }, []State{Active, Retired}, []State{Tainted}},
	{"ended", func(k *Record) *time.Time { return &k.Ended }, []State{Retired, Tainted}, nil},
	{"until", func(k *Record) *time.Time { return &k.Until }, nil, []State{Retired}},
}

const maxSize = 1 << 20

// MarshalJSON returns the ring as Parse reads it:
//
//	{"keys":[{"state":"active","prepared":…,"activated":…,"jwk":{…}}]}
//
// with times in Unix milliseconds, and none that the key's state has not or that is
// open.
func (r Ring) MarshalJSON() ([]byte, error) {
	b := []byte(`{"keys":[`)
	for i, k := range r.records {
		set, err := keyset.New(k.Key)
		if err != nil {
			return nil, err
		}
		text, err := set.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"state":"`+string(k.State)+`"`...)
		for _, t := range times {
			if at := *t.of(&k); !at.IsZero() {
				b = append(b, `,"`+t.name+`":`...)
				b = strconv.AppendInt(b, at.UnixMilli(), 10)
			}
		}
		b = append(b, `,"jwk":`...)
		b = append(b, text[len(`{"keys":[`):len(text)-len(`]}`)]...)
		b = append(b, '}')
	}
	return append(b, "]}"...), nil
}

// Parse reads a ring. The schema is closed; the error says which record is
// refused and contains no part of it.
func Parse(b []byte) (Ring, error) {
	if len(b) > maxSize {
		return Ring{}, errors.New("the ring of keys is too long")
	}
	var records []Record
	var hasKeys bool
	err := strictjson.Read(string(b), func(r *strictjson.Reader) error {
		return r.Object(func(name string) error {
			if name != "keys" {
				return errMember
			}
			hasKeys = true
			return r.Array(func(i int) error {
				k, err := readRecord(r)
				if err != nil {
					return fmt.Errorf("key %d: %w", i+1, err)
				}
				if _, err := (Ring{records}).find(k.Key.ID()); err == nil {
					return fmt.Errorf("key %d: it is there twice", i+1)
				}
				records = append(records, k)
				return nil
			})
		})
	})
	if err == nil && !hasKeys {
		err = errors.New("keys is missing")
	}
	if err != nil {
		return Ring{}, fmt.Errorf("the ring of keys cannot be read: %w", err)
	}
	return Ring{records}, nil
}

var errMember = errors.New("a member is not in the schema")

func readRecord(r *strictjson.Reader) (k Record, err error) {
	var jwk string
	err = r.Object(func(name string) (err error) {
		switch name {
		case "state":
			var state string
			state, err = r.String()
			k.State = State(state)
			return err
		case "jwk":
			jwk, err = r.Raw()
			return err
		}
		for _, t := range times {
			if t.name == name {
				*t.of(&k), err = r.Time(time.Millisecond)
				return err
			}
		}
		return errMember
	})
	if err != nil {
		return k, err
	}
	for _, t := range times {
		switch has := !t.of(&k).IsZero(); {
		case has && !slices.Contains(t.must, k.State) && !slices.Contains(t.may, k.State):
			return k, errors.New("its state has no time " + t.name)
		case !has && slices.Contains(t.must, k.State):
			return k, errors.New(t.name + " is missing")
		}
	}
	if !slices.Contains([]State{Next, Active, Retired, Tainted}, k.State) {
		return k, errors.New("state is none of next, active, retired and tainted")
	}
	k.Key, err = readKey(jwk)
	return k, err
}

// readKey has keyset vet the key as one of a published set.
func readKey(jwk string) (handoff.Key, error) {
	set, err := keyset.Parse([]byte(`{"keys":[` + jwk + `]}`))
	if err != nil {
		return handoff.Key{}, err
	}
	return set.Keys()[0], nil
}

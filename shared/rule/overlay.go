package rule

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/strictjson"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// Overlay returns the set with rules for methods whose .proto cannot be changed, from
// one strict JSON object. Issuer and audience use the same text:
//
//	{
//	  "rules": {
//	    "/billing.v1.Billing/Pay": {"free": ["memo"], "max_lifetime_seconds": 30},
//	    "/billing.v1.Billing/Get": {"reusable": true}
//	  }
//	}
//
// The members are the fields of the option, `max_lifetime` as whole seconds; {} is the
// strictest rule. Each rule is checked as the option is. Where the method carries the
// option, an entry can only tighten it: it says what is to differ, and a member that
// loosens something is an error. So are a method that the set does not have, and an
// unknown member. The error says where.
func (s *Set) Overlay(text []byte) (*Set, error) {
	over := &Set{files: s.files, types: s.types, over: maps.Clone(s.over)}
	if over.over == nil {
		over.over = map[string]*handoffv1.Rule{}
	}
	found := false
	err := strictjson.Read(string(text), func(r *strictjson.Reader) error {
		return r.Object(func(name string) error {
			if name != "rules" {
				return errUnknownMember
			}
			found = true
			return r.Object(func(method string) error {
				if err := over.lay(method, r); err != nil {
					return fmt.Errorf("%q: %w", method, err)
				}
				return nil
			})
		})
	})
	if err == nil && !found {
		err = errors.New("rules is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("rule: the overlay: %w", err)
	}
	return over, nil
}

var errUnknownMember = errors.New("a member that the format does not have")

// lay reads one method's entry, and keeps what the method's rule is with it.
func (s *Set) lay(fullMethod string, r *strictjson.Reader) error {
	desc := s.find(fullMethod)
	if desc == nil {
		return ErrUnknownMethod
	}
	option := s.over[fullMethod]
	if option == nil {
		var err error
		if option, err = optionOf(desc); err != nil {
			return err
		}
	}
	merged := new(handoffv1.Rule)
	if option != nil {
		merged = proto.CloneOf(option)
	}
	says := false // whether the entry says visit itself
	if err := r.Object(func(name string) error {
		says = says || name == "visit"
		if err := readMember(r, name, merged.ProtoReflect()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}); err != nil {
		return err
	}
	if !says && (!merged.GetReusable() || merged.GetSealed()) {
		merged.Visit = false // as a rule that is tightened so takes none
	}
	if err := tightens(option, merged); err != nil {
		return err
	}
	if err := new(Method).apply(merged, desc); err != nil {
		return err
	}
	s.over[fullMethod] = merged
	return nil
}

const maxLifetimeMember = "max_lifetime_seconds"

// readMember reads one member into the field of the rule that it is named for.
func readMember(r *strictjson.Reader, name string, into protoreflect.Message) error {
	if name == maxLifetimeMember {
		seconds, err := r.Integer()
		if err == nil && seconds < 1 {
			err = errors.New("must be at least 1")
		}
		if err == nil && seconds > int64(longest/time.Second) {
			err = errors.New("is too long")
		}
		into.Interface().(*handoffv1.Rule).MaxLifetime = durationpb.New(time.Duration(seconds) * time.Second)
		return err
	}
	field := into.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch {
	case field != nil && field.Kind() == protoreflect.BoolKind && !field.IsList():
		value, err := r.Bool()
		into.Set(field, protoreflect.ValueOfBool(value))
		return err
	case field != nil && field.Kind() == protoreflect.StringKind && field.IsList():
		into.Clear(field)
		list := into.Mutable(field).List()
		return r.Array(func(int) error {
			value, err := r.String()
			list.Append(protoreflect.ValueOfString(value))
			return err
		})
	}
	return errUnknownMember
}

// longest is the longest lifetime that an overlay can say: no token lives longer.
const longest = 24 * time.Hour

// demands are the members of a rule that tighten it by being true. Every other one that
// can be true loosens it.
var demands = []protoreflect.Name{"sealed", "certificate_bound"}

// tightens returns an error unless merged is at least as strict as the option, which is
// nil where the method carries none.
func tightens(option, merged *handoffv1.Rule) error {
	if option == nil {
		return nil
	}
	fields := merged.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.Kind() != protoreflect.BoolKind {
			continue
		}
		before, after := option.ProtoReflect().Get(field).Bool(), merged.ProtoReflect().Get(field).Bool()
		if before != after && after != slices.Contains(demands, field.Name()) {
			return loosens(string(field.Name()))
		}
	}
	for _, path := range merged.GetFree() {
		if !slices.ContainsFunc(option.GetFree(), func(free string) bool { return path == free || strings.HasPrefix(path, free+".") }) {
			return loosens("free")
		}
	}
	if most := option.GetMaxLifetime(); most != nil && merged.GetMaxLifetime().AsDuration() > most.AsDuration() {
		return loosens(maxLifetimeMember)
	}
	return nil
}

func loosens(member string) error {
	return fmt.Errorf("%s: it loosens the option that the method carries", member)
}

// Package rule reads what a method's .proto demands of a handoff token, the
// option (handoff.v1.rule), and makes the operation of a real request: the
// method and the values of its fields, as text that a token can name.
//
// # Use
//
// An issuer signs what rule.Operation returns; an audience compares with it what
// a token names. Both call it with the request itself, so what was signed is
// what runs.
//
//	op, err := rule.Operation(billingv1.Billing_Pay_FullMethodName, req)
//
// A server resolves its methods once, at its start, so that a rule which cannot
// hold is found there:
//
//	set := rule.Linked()                      // or rule.ReadDescriptorSet(image)
//	method, err := set.Method("/billing.v1.Billing/Pay")
//	demands, ok := method.Rule()              // false: the method carries no rule
//	op, err := method.Operation(req)
//
// A method whose .proto is somebody else's gets its rule from a file, the same for
// issuer and audience:
//
//	set, err := rule.Linked().Overlay(text)
//
// An audience that shows a person what was signed makes the request from the token:
//
//	req, err := method.Request(verified.Claims())
//
// # How a request becomes fields
//
// SPEC.md in package handoff defines paths and values, with frozen vectors. In
// short: every populated field yields its path and its value as text, a
// populated message yields itself and then its fields, and the rule's `free`
// paths sort them into Operation.Bound and Operation.Free.
//
// # Invariants
//
//   - Two requests of one type with the same Bound differ only in what the
//     rule frees.
//   - A request that holds anything outside the freed fields that cannot be named
//     (an unknown field, an unknown enum number, a NaN, text that is not UTF-8)
//     is refused with REQUEST_UNBINDABLE.
//   - A request type that could hold what can never be named (groups, extensions)
//     outside the freed fields is refused by Method, before any request.
//   - Request is the inverse of Operation: a token's fields have one request or
//     none, and that request has these fields and no others.
//   - Flattening reads the decoded message. Protobuf's bytes are not canonical and
//     are never compared.
//   - The work and the memory for one request are bounded by constants, and grow
//     no faster than the request: a path is repeated for each field below it, so
//     what all paths and values may take together is bounded too.
//
// # What it does not do
//
// It knows no token, no key and no network, and does not judge values: whether
// an amount is right is the handler's to say.
package rule

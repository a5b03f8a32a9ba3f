// Package vectorspb is the generated Go of the protos that the frozen vectors of
// SPEC.md are made from. Only tests link it.
//
// Generate it, and the descriptor set beside the vectors, with go generate.
package vectorspb

//go:generate sh generate.sh

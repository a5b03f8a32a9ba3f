// Package check holds the project's rules about its own source, as tests: who may import whom, what SERVER2's binary
// must not contain, no package-level state, no switch that turns a check off, and what may stand in the repository.
//
// Each rule is a table or a short function over what `go list`, `go tool nm`, go/ast and `git ls-files` report, and each
// rule over source has a test of its own that shows it refuse. A rule about a package that does not exist yet is skipped
// until it does. To allow something new, extend the table beside the rule and say why in the commit.
package check

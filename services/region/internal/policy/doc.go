// Package policy knows placement policies: the presets that are always there, the
// records that operators made, and the predicate of each, compiled.
//
// A predicate is a CEL expression over `host` and `machine`. Its variables are
// typed, so that a misspelt field is an error when the policy is made and not when
// a machine is placed. Its cost is bounded twice: estimated when it is compiled,
// for the largest host there can be, and counted when it runs.
//
// The package keeps what it compiled by policy and revision. It owns no goroutine
// and writes nothing; it decides no placement.
package policy

// Package hypervisortest is the conformance suite of hypervisor drivers: one
// test per rule of package hypervisor. Every driver runs it in its own tests,
// against the real thing.
package hypervisortest

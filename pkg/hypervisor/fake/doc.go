// Package fake is a hypervisor that exists in memory: named hosts that keep
// machines and volumes, or keep them in a file, and answer through
// hypervisor.Opener at addresses `fake://NAME`. The rack offers it as a driver
// of its own, for demonstrations, for scale and for faults.
//
// A fake host keeps every rule of package hypervisor, and has knobs that break
// what real ones break: latency, refusals, hangs, lost connections, effects whose
// answer is lost, half-made machines, machines that others make and change.
//
// Invariants: what a host holds outlives its connections; everything is safe
// for concurrent use; a host costs a few hundred bytes while nobody subscribes
// to it. The only goroutines are one per subscription to events; it ends with
// the subscription's context, its connection or its driver.
package fake

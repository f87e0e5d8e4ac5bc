// Package ctl is vmhostctl: the region's API as a command line.
//
// What it keeps to: data goes to stdout and everything else to stderr; JSON and
// YAML are the exact proto JSON; text that others wrote is made safe before a
// terminal sees it, but for the one console that a user attaches to by name;
// secrets are never read from arguments; a failure is three lines (what, why,
// what to do) and one of the exit codes of `vmhostctl help exit-codes`; every
// change carries a request id, so that trying again inside one call makes
// nothing twice.
//
// Run is the whole program with everything it needs handed in, so that tests
// run it as users do. It owns a goroutine that receives interrupts, one while an
// operation is waited for, one while a question is open and two while a console
// is attached; those that read what is typed outlive an interrupt, because
// reading cannot be taken back. It decides nothing about hosts or machines: that
// is the region's.
package ctl

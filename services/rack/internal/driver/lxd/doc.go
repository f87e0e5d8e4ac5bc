// Package lxd drives LXD servers, as a hypervisor.Driver, over HTTPS or a unix
// socket. One Driver stands for one server and project, in a cluster also for
// one member.
//
// Invariants:
//
//   - An instance is ours when it is in the driver's project and our labels on it
//     name the uuid that it has. A copy of one of our instances carries our labels
//     and another uuid: it is not ours. Nothing that is not ours is ever changed.
//   - Nothing is sent to a server that is not the confirmed one: its certificate is
//     compared byte by byte by its fingerprint, and never by a name or a CA.
//   - Every request belongs to the context of its call and has a connection of its
//     own while it lasts, so that a server that hangs keeps nobody. The events
//     websocket is what says whether the server is there: with it, the driver is
//     lost and answers ErrUnreachable from then on.
//   - No connection to a unix socket is kept: LXD accepts none while one is silent.
//   - LXD answers most refusals as text with the status 400 or 500. The few that
//     must be told apart are in one table, see errors.go; that something is absent
//     is known only from a list or a 404.
//   - Reading costs one list of instances (recursion=1; recursion=2 asks every
//     instance for its state and was measured sixteen times dearer). Addresses are
//     read for what changed or is looked at, and kept.
//
// Goroutines of a Driver: the reader and the ping of the events websocket, the
// one that turns names in events into uuids, the poll of addresses, and one per
// listener of Events. All end with Close or with the connection.
//
// The package does not reconnect, makes no networks or profiles, and keeps
// nothing on disk.
package lxd

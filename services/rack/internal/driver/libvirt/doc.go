// Package libvirt drives libvirt with QEMU, as a hypervisor.Driver, over a unix
// socket, SSH or TLS.
//
// Invariants:
//
//   - A domain is ours when our metadata element on it names its UUID: as the uid
//     on what vmhost made, as the uuid on what it adopted. A copy of one of our
//     domains carries our metadata and another UUID: it is not ours. Nothing that
//     is not ours is ever changed but by Adopt, and that by its metadata alone.
//   - libvirt's RPC knows no deadlines and libvirtd may hang at any point, so
//     every call runs in a goroutine of its own and is left alone when its
//     context ends. A call whose deadline passed leaves the connection in an
//     unknown state: the connection is closed and answers ErrUnreachable from
//     then on. One Driver is one generation of a connection; there is no
//     reconnect inside.
//   - Error numbers of libvirt differ from one of its drivers to the next. They
//     decide whether trying again makes sense and nothing else; that something
//     is absent is known only from a list without it.
//   - A call with a stream (a console, the download of a log) has a connection of
//     its own, which ends with the driver's.
//   - Reading costs one bulk call, however many domains there are: see
//     snapshot.go for what is kept between two readings and why that is safe.
//
// Goroutines of a Driver: the ping that notices a dead peer, one per subscribed
// kind of event, the poll of DHCP leases, one per listener of Events, and two per
// open console or log. All end with Close or with the connection. A call that was left alone ends when
// libvirtd answers it or the connection is closed.
//
// The package makes no pools or networks but where Fix is called, does not
// reconnect, and keeps nothing on disk.
package libvirt

// Package hypervisor is what vmhost asks of a hypervisor: the Driver interface,
// its error classes and the rules that every driver keeps.
//
// The model of hosts and machines is that of the protocol (rackv1, vmhostv1):
// what a driver reads is what travels, without a copy in between.
//
// Rules, proven for every driver by package hypervisortest:
//
//   - Every call ends when its context does, also when the hypervisor hangs.
//   - Every mutating call is idempotent on the machine's uid: it observes, acts
//     and observes again. There with our uid is done; there with another uid, or
//     with none, is ErrForeign and is never changed (promises P3 and P5).
//   - A call of several steps that fails undoes its own steps, and only those.
//   - Errors are classed by the sentinels of this package and keep the
//     hypervisor's own words (promise P9).
package hypervisor

import (
	"context"
	"time"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Target says where a hypervisor answers and how to log in.
type Target struct {
	// Name is the host's resource name, for logs.
	Name string
	// Address is the parsed, validated address.
	Address Address
	// HostKey is the confirmed host key, see vmhostv1.VmHost.host_key. Empty only
	// where the address has none, or a CA verifies the server.
	HostKey string
	// Credential is what to log in with; nil for local sockets.
	Credential *vmhostv1.Credential
}

// Opener makes connections of one driver.
type Opener interface {
	// Open connects and logs in. The driver is good until Close, or until a call
	// answers ErrUnreachable; then a new one is opened.
	Open(ctx context.Context, target Target) (Driver, error)
	// HostKey reads the key that the address presents, without logging in or
	// sending any credential. Empty for addresses without host keys.
	HostKey(ctx context.Context, address Address) (key, fingerprint string, err error)
}

// Driver is one connection to one hypervisor. Its methods may be called from
// several goroutines at once.
type Driver interface {
	// Probe reads everything of the host but its machines' list: capacity, storage
	// pools, networks, versions, and what foreign machines use. ForeignUsage is
	// filled from the same bulk call as Machines.
	Probe(ctx context.Context) (*vmhostv1.VmHostObservation, error)
	// Machines reads all machines of the host, ours and foreign, by bulk calls. A
	// machine that cannot be read whole is in the list with its problem.
	Machines(ctx context.Context) ([]*rackv1.MachineObservation, error)
	// Machine reads one machine by the hypervisor's uuid. ErrNotFound when it is
	// not there.
	Machine(ctx context.Context, uuid string) (*rackv1.MachineObservation, error)
	// Create makes a machine with its volumes and does not start it. There with
	// our uid counts as made. After a failure nothing of it is left, or the error
	// is classed ErrUnreachable or ErrTimeout and it is not known.
	Create(ctx context.Context, machine *rackv1.CreateMachine) (*rackv1.MachineObservation, error)
	// Delete turns a machine off hard and removes it with the volumes listed in
	// its disks, and no other. Not there counts as removed; volumes that were
	// left behind by a broken create or delete are removed as well. When it
	// returns nil the hypervisor was seen without the machine and the volumes.
	Delete(ctx context.Context, machine *vmhostv1.Machine) error
	// SetPower changes whether a machine of ours runs and answers when it does.
	// A stop asks the guest and turns it off after grace.
	SetPower(ctx context.Context, uid string, action rackv1.PowerAction, grace time.Duration) (*rackv1.MachineObservation, error)
	// Events delivers changes of machines until ctx ends or the connection is
	// lost; then the channel is closed. List after subscribing: an event between
	// the two is then not missed.
	Events(ctx context.Context) (<-chan Event, error)
	// Close ends the connection. It never waits for the hypervisor.
	Close() error
}

// Event says that a machine changed. Only the uuid is certain: read the machine
// to know how it is now.
type Event struct {
	// UUID is the hypervisor's uuid of the machine.
	UUID string
}

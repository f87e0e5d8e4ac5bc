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
	"io"
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
	// Project is the LXD project, empty: default.
	Project string
	// ClusterMember is the LXD cluster member that the host stands for, empty: the
	// one that answers.
	ClusterMember string
	// LookOnly says that opening must make nothing, as a missing LXD project.
	LookOnly bool
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
	// Inventory is Probe and Machines from one set of bulk calls: what a host is
	// read with every minute.
	Inventory(ctx context.Context) (*vmhostv1.VmHostObservation, []*rackv1.MachineObservation, error)
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
	// A stop asks the guest and turns it off after grace; a soft one only asks,
	// and is classed ErrTimeout when the guest does not stop.
	SetPower(ctx context.Context, ref Ref, action rackv1.PowerAction, grace time.Duration) (*rackv1.MachineObservation, error)
	// Events delivers changes of machines until ctx ends or the connection is
	// lost; then the channel is closed. List after subscribing: an event between
	// the two is then not missed.
	Events(ctx context.Context) (<-chan Event, error)
	// Close ends the connection. It never waits for the hypervisor.
	Close() error
}

// Ref names a machine of ours on its hypervisor.
type Ref struct {
	// UID is the uid in our metadata on it; what carries another is never touched.
	UID string
	// UUID is the hypervisor's uuid of it; empty: the uid.
	UUID string
	// Name is its name on the hypervisor when it was made or adopted. A hint: it
	// may have been renamed since.
	Name string
}

// Domain is the hypervisor's uuid of the machine.
func (r Ref) Domain() string {
	if r.UUID != "" {
		return r.UUID
	}
	return r.UID
}

// RefOf is the ref of a machine's record.
func RefOf(m *vmhostv1.Machine) Ref {
	return Ref{UID: m.GetUid(), UUID: m.GetHypervisorUuid(), Name: m.GetHypervisorName()}
}

// Adopter is a driver that can take over machines it did not make. Every driver
// for production does.
type Adopter interface {
	// Adopt puts our metadata, with the operation, on a machine that carries none.
	// Ours under the same uid already counts as done; another's uid is
	// ErrForeign. Nothing else of the machine changes, and it is not restarted.
	Adopt(ctx context.Context, ref Ref, operation string) (*rackv1.MachineObservation, error)
	// Release takes our metadata off a machine. Without it, or not there, counts
	// as done. What was adopted and released is byte-identical to what it was.
	Release(ctx context.Context, ref Ref) (*rackv1.MachineObservation, error)
}

// Consoler is a driver that reaches serial consoles.
type Consoler interface {
	// OpenConsole opens the serial console of a running machine of ours. Classed
	// ErrBusy when somebody else has it and force is not set. Close ends it; a
	// read answers io.EOF when the machine stops.
	OpenConsole(ctx context.Context, ref Ref, force bool) (io.ReadWriteCloser, error)
	// ConsoleLog reads the last so many bytes of what the machine wrote to its
	// serial console, also when it is off. ErrUnsupported where none is kept.
	ConsoleLog(ctx context.Context, ref Ref, tail int64) (io.ReadCloser, error)
}

// Fixer is a driver that can make a host usable where something is missing.
type Fixer interface {
	// Fix does what is safe about what is missing: it defines a storage pool where
	// there is none and starts inactive storage pools and networks. What it did is
	// answered in words, by the check of CheckItem that it mends.
	Fix(ctx context.Context) (map[string]string, error)
}

// ProjectLister is a driver whose server divides machines into projects.
type ProjectLister interface {
	// Projects are the names of the projects that the credential may see, sorted.
	Projects(ctx context.Context) ([]string, error)
}

// Event says that a machine changed. Only the uuid is certain: read the machine
// to know how it is now.
type Event struct {
	// UUID is the hypervisor's uuid of the machine.
	UUID string
}

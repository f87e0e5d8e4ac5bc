package store

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// The families of keys: the one place that says what is where. Who writes each
// and when is in docs/etcd-schema.md.
var (
	// Deployment is the one record of the deployment; it has no id.
	Deployment = Family[*storev1.StoredDeployment]{prefix: "deployment"}
	// VmHosts: what operators asked for, by host id.
	VmHosts = Family[*storev1.StoredVmHost]{prefix: "hosts/", keep: keepLent}
	// Observed: what hypervisors reported, by host id.
	Observed = Family[*storev1.StoredVmHostObservation]{prefix: "observed/", keep: keepLent}
	// Ledgers: what is committed, by host id.
	Ledgers = Family[*storev1.StoredLedger]{prefix: "ledger/", keep: keepLent}
	// Machines: composed and adopted machines, by uid.
	Machines = Family[*storev1.StoredMachine]{prefix: "machines/", keep: keepPacked}
	// Seen: machines as hypervisors show them, by host id and hypervisor uuid.
	Seen = Family[*storev1.StoredSeenMachine]{prefix: "seen/", keep: keepPacked}
	// Names: hostnames in use, by pool id and hostname.
	Names = Family[*storev1.StoredName]{prefix: "names/", keep: keepPacked}
	// Addresses: host addresses in use, by EscapeID of the canonical address.
	Addresses = Family[*storev1.StoredAddress]{prefix: "addresses/", keep: keepPacked}
	// Operations by uid.
	Operations = Family[*storev1.StoredOperation]{prefix: "operations/", keep: keepPacked}
	// Requests: request ids in use, by EscapeID of the principal and request id.
	Requests = Family[*storev1.StoredRequest]{prefix: "requests/", keep: keepPacked}
	// Racks by id.
	Racks = Family[*storev1.StoredRack]{prefix: "racks/"}
	// Sessions: live rack sessions, by rack id, under their region's lease.
	Sessions = Family[*storev1.StoredSession]{prefix: "sessions/"}
	// Consoles: consoles that a region waits for, by their unguessable id, under
	// its lease.
	Consoles = Family[*storev1.StoredConsole]{prefix: "consoles/"}
	// Assignments: which rack drives a host, by host id.
	Assignments = Family[*storev1.StoredAssignment]{prefix: "assignments/", keep: keepLent}
	// Zones by id.
	Zones = Family[*storev1.StoredZone]{prefix: "zones/"}
	// ResourcePools by id.
	ResourcePools = Family[*storev1.StoredResourcePool]{prefix: "pools/"}
	// PoolUsage: what the machines of a resource pool with a quota take, by pool id.
	PoolUsage = Family[*storev1.StoredPoolUsage]{prefix: "usage/"}
	// SharedPools: what is committed in storage pools that several hosts have, by
	// EscapeID of what is behind them.
	SharedPools = Family[*storev1.StoredSharedPool]{prefix: "shared/"}
	// Policies: placement policies that operators made, by id. Those that are there
	// from the start are no records.
	Policies = Family[*storev1.StoredPlacementPolicy]{prefix: "policies/"}
	// Reservations: capacity that is held for later, by uid.
	Reservations = Family[*storev1.StoredReservation]{prefix: "reservations/"}
	// Groups: what composes compare and write that must not see other zones of a
	// group change, by pool id and group.
	Groups = Family[*storev1.StoredGroup]{prefix: "groups/", keep: keepPacked}
	// HostRemoval: the removal of a host that was last; it has no id.
	HostRemoval = Family[*storev1.StoredHostRemoval]{prefix: "lasthostremoval"}
	// References: who uses a zone, pool or rack, by kind (`zones`, `pools`,
	// `racks`), id, kind of user (`vmHosts`, `racks`, `reservations`) and its id. Machines refer to
	// their pool by Names.
	References = Family[*storev1.StoredReference]{prefix: "refs/", keep: keepPacked}
	// Events by id.
	Events = Family[*storev1.StoredEvent]{prefix: "events/", keep: keepPacked}
	// JoinTokens by id, under a lease that ends with the token.
	JoinTokens = Family[*storev1.StoredJoinToken]{prefix: "jointokens/", keep: keepPacked}
	// Tokens: API tokens, by id.
	Tokens = Family[*storev1.StoredToken]{prefix: "tokens/"}
	// Secrets by name, encrypted.
	Secrets = Family[*storev1.StoredSecret]{prefix: "secrets/", keep: keepPacked}
)

type family interface {
	name() string
	empty() proto.Message
	keeping() keeping
}

func (f Family[T]) keeping() keeping { return f.keep }

func (f Family[T]) name() string { return strings.TrimSuffix(f.prefix, "/") }

func (f Family[T]) empty() proto.Message {
	var t T
	return t.ProtoReflect().New().Interface()
}

// kind is a family as keys are known by. There is one of each.
type kind struct {
	family
	shape func() *shape // of its message
}

// kinds are all families by the first part of their keys.
var kinds = kindsOf(map[string]family{
	"deployment":      Deployment,
	"hosts":           VmHosts,
	"observed":        Observed,
	"ledger":          Ledgers,
	"machines":        Machines,
	"seen":            Seen,
	"names":           Names,
	"addresses":       Addresses,
	"operations":      Operations,
	"requests":        Requests,
	"racks":           Racks,
	"sessions":        Sessions,
	"consoles":        Consoles,
	"assignments":     Assignments,
	"zones":           Zones,
	"pools":           ResourcePools,
	"usage":           PoolUsage,
	"shared":          SharedPools,
	"policies":        Policies,
	"groups":          Groups,
	"reservations":    Reservations,
	"lasthostremoval": HostRemoval,
	"refs":            References,
	"events":          Events,
	"jointokens":      JoinTokens,
	"tokens":          Tokens,
	"secrets":         Secrets,
})

func kindsOf(families map[string]family) map[string]*kind {
	out := make(map[string]*kind, len(families))
	for first, f := range families {
		out[first] = &kind{f, sync.OnceValue(func() *shape {
			return shapeOf(f.empty().ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})
		})}
	}
	return out
}

// familyOf finds the family of a key; nil for a key of no known family, which a
// newer version may have written.
func familyOf(key string) *kind {
	rest, ok := strings.CutPrefix(key, Root)
	if !ok {
		return nil
	}
	first, _, _ := strings.Cut(rest, "/")
	return kinds[first]
}

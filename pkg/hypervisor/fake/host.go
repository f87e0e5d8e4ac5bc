package fake

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Host is one fake host. Its methods are what happens to it without vmhost.
type Host struct {
	faults  faults
	journal *journal

	mu       sync.Mutex
	spec     HostSpec
	machines map[string]*rackv1.MachineObservation // by uuid; values are replaced, never changed
	uuids    map[string][]string                   // of machines, by name
	storages map[string]*storage                   // by pool; made when they are needed
	line     *line                                 // the connection that drivers share; replaced when it is lost
	down     bool
	stubborn bool
	logins   int
	consoles map[string]*console // by uuid
	stopped  map[string]string   // machines that were stopped to be moved, and by which operation
}

type volumeKey struct{ pool, name string }

type volume struct {
	size, allocation int64
	content          string // what was written into it
}

// line is what one generation of connections hangs on.
type line struct {
	lost chan struct{}
	subs map[*subscription]struct{} // guarded by Host.mu
}

func newLine() *line { return &line{lost: make(chan struct{}), subs: map[*subscription]struct{}{}} }

func (f *Fleet) newHost(spec HostSpec) *Host {
	h := &Host{spec: spec, journal: f.journal, line: newLine()}
	for _, p := range spec.Pools {
		if p.Shared == "" {
			continue
		}
		if h.storages == nil {
			h.storages = map[string]*storage{}
		}
		h.storages[p.Name] = f.behind(p.Shared)
	}
	return h
}

// Name is the host's name in its address.
func (h *Host) Name() string { return h.spec.Name }

// Address is the host's address, `fake://NAME`.
func (h *Host) Address() string { return "fake://" + h.spec.Name }

// Disconnect loses every connection; a new one can be opened at once.
func (h *Host) Disconnect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLine()
}

// Crash loses every connection and refuses new ones until Recover. Machines that
// ran are off afterwards.
func (h *Host) Crash() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = true
	h.dropLine()
	for _, m := range h.sorted() {
		if m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF {
			h.replacePower(m, vmhostv1.PowerState_POWER_STATE_OFF)
		}
	}
}

// Recover ends Crash.
func (h *Host) Recover() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = false
}

// SetHostKey changes the key the host presents.
func (h *Host) SetHostKey(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spec.HostKey = key
}

// SetPassword changes the password the host wants.
func (h *Host) SetPassword(password string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spec.Password = password
}

// Logins is how often a credential was sent to the host, right or wrong.
func (h *Host) Logins() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logins
}

// IgnoreShutdown makes guests deaf to being asked to stop.
func (h *Host) IgnoreShutdown(deaf bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stubborn = deaf
}

// Put adds a machine, or replaces the one of its uuid, without vmhost. A machine
// without uid is foreign. Its disks become volumes.
func (h *Host) Put(m *rackv1.MachineObservation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range m.GetDisks() {
		h.putVolume(volumeKey{d.GetStoragePool(), d.GetVolume()}, volume{size: d.GetSizeBytes(), allocation: d.GetSizeBytes()})
	}
	h.putMachine(proto.CloneOf(m))
}

// Remove takes a machine away without vmhost; its volumes stay.
func (h *Host) Remove(uuid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropMachine(uuid)
}

// Power changes whether a machine runs, without vmhost.
func (h *Host) Power(uuid string, state vmhostv1.PowerState) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[uuid]
	if m == nil {
		return fmt.Errorf("change power of machine %s: %w", uuid, hypervisor.ErrNotFound)
	}
	h.replacePower(m, state)
	return nil
}

// Notify sends an event of a machine although nothing changed.
func (h *Host) Notify(uuid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notify(uuid)
}

// Get is a copy of one machine, nil when it is not there.
func (h *Host) Get(uuid string) *rackv1.MachineObservation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return proto.CloneOf(h.machines[uuid])
}

// All are copies of the machines, by uuid.
func (h *Host) All() []*rackv1.MachineObservation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.copies()
}

// Volumes are the names of the volumes in a pool, sorted.
func (h *Host) Volumes(pool string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for name := range h.volumesIn(pool) {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// The rest is called with h.mu held.

func (h *Host) dropLine() {
	old := h.line
	h.line = newLine()
	close(old.lost)
}

func (h *Host) notify(uuid string) {
	for s := range h.line.subs {
		s.push(hypervisor.Event{UUID: uuid})
	}
}

func (h *Host) putMachine(m *rackv1.MachineObservation) {
	if h.machines == nil {
		h.machines, h.uuids = map[string]*rackv1.MachineObservation{}, map[string][]string{}
	}
	if old := h.machines[m.GetUuid()]; old == nil || old.GetName() != m.GetName() {
		h.unname(old)
		h.uuids[m.GetName()] = append(h.uuids[m.GetName()], m.GetUuid())
	}
	h.machines[m.GetUuid()] = m
	h.journal.putMachine(h.spec.Name, m)
	h.notify(m.GetUuid())
}

func (h *Host) dropMachine(uuid string) {
	m := h.machines[uuid]
	if m == nil {
		return
	}
	h.unname(m)
	delete(h.machines, uuid)
	h.dropConsole(uuid)
	h.journal.dropMachine(h.spec.Name, uuid)
	h.notify(uuid)
}

// named is a machine of that name, nil when there is none.
func (h *Host) named(name string) *rackv1.MachineObservation {
	if uuids := h.uuids[name]; len(uuids) > 0 {
		return h.machines[uuids[0]]
	}
	return nil
}

// unname forgets the name of a machine, which may be nil.
func (h *Host) unname(m *rackv1.MachineObservation) {
	if m == nil {
		return
	}
	left := slices.DeleteFunc(h.uuids[m.GetName()], func(uuid string) bool { return uuid == m.GetUuid() })
	if h.uuids[m.GetName()] = left; len(left) == 0 {
		delete(h.uuids, m.GetName())
	}
}

func (h *Host) replacePower(m *rackv1.MachineObservation, state vmhostv1.PowerState) *rackv1.MachineObservation {
	before := m.GetPowerState()
	m = proto.CloneOf(m)
	m.PowerState = state
	h.putMachine(m)
	h.consolePower(m, before)
	return m
}

// claims sums up a pool: ours are volumes that are named after the machine they
// belong to, unclaimed those that are named after one that is not here, by its uid.
func (h *Host) claims(pool string) (ours int64, unclaimed map[string]int64) {
	owned := map[volumeKey]bool{} // by a machine that they are named after, or not
	for _, m := range h.machines {
		for _, d := range m.GetDisks() {
			owned[volumeKey{d.GetStoragePool(), d.GetVolume()}] = m.GetUid() != "" && strings.HasPrefix(d.GetVolume(), "vmhost-"+m.GetUid()+"-")
		}
	}
	for name, v := range h.volumesIn(pool) {
		uid, named := strings.CutPrefix(name, "vmhost-")
		byUs, has := owned[volumeKey{pool, name}]
		switch end := strings.LastIndexByte(uid, '-'); {
		case has && named && byUs:
			ours += v.allocation
		case !has && named && end > 0 && h.identity(pool) == "": // else it may be another host's
			if unclaimed == nil {
				unclaimed = map[string]int64{}
			}
			unclaimed[uid[:end]] += v.allocation
		}
	}
	return ours, unclaimed
}

func (h *Host) copies() []*rackv1.MachineObservation {
	out := h.sorted()
	for i, m := range out {
		out[i] = proto.CloneOf(m)
	}
	return out
}

func (h *Host) sorted() []*rackv1.MachineObservation {
	out := make([]*rackv1.MachineObservation, 0, len(h.machines))
	for _, uuid := range slices.Sorted(maps.Keys(h.machines)) {
		out = append(out, h.machines[uuid])
	}
	return out
}

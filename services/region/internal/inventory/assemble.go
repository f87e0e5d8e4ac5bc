package inventory

import (
	"strconv"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxOpen is how many reports of one session may be under way: one per host, and
// no rack drives more than a few hundred.
const maxOpen = 1024

// Report is what a host has, whole, cleaned.
type Report struct {
	vmHost      string
	epoch       int64
	sequence    int64
	observation *vmhostv1.VmHostObservation
	machines    map[string]*rackv1.MachineObservation // by uuid
	dropped     int
	refused     string // why it is refused as a whole
}

// Assembler puts the parts of reports of one session together. It holds a
// bounded amount whatever the rack sends. It is not safe for several goroutines.
type Assembler struct{ open map[string]*Report }

// NewAssembler makes an assembler for one session.
func NewAssembler() *Assembler { return &Assembler{open: map[string]*Report{}} }

// Add takes a part. It answers the report when this was its last part, else nil.
func (a *Assembler) Add(part *rackv1.HostInventory) *Report {
	r := a.open[part.GetVmHost()]
	if r == nil || r.sequence != part.GetSequence() || r.epoch != part.GetEpoch() {
		// A new report; what is left of an older one is of no use.
		r = &Report{vmHost: part.GetVmHost(), epoch: part.GetEpoch(), sequence: part.GetSequence(), machines: map[string]*rackv1.MachineObservation{}}
		if a.open[part.GetVmHost()] == nil && len(a.open) >= maxOpen {
			return nil
		}
		a.open[part.GetVmHost()] = r
	}
	if part.GetObservation() != nil {
		r.observation = cleanObservation(part.GetObservation())
	}
	r.add(part.GetMachines())
	if !part.GetLast() {
		return nil
	}
	delete(a.open, part.GetVmHost())
	if r.observation == nil && r.refused == "" {
		r.refused = "it says nothing of the host itself"
	}
	return r
}

func (r *Report) add(machines []*rackv1.MachineObservation) {
	for _, m := range machines {
		if r.refused != "" {
			return
		}
		uuid, ok := cleanUUID(m.GetUuid())
		if !ok || r.machines[uuid] != nil {
			r.dropped++
			continue
		}
		if len(r.machines) >= maxMachines {
			r.refused = "it has more than " + strconv.Itoa(maxMachines) + " machines"
			r.machines = nil // nothing of it is kept
			return
		}
		r.machines[uuid] = cleanMachine(m, uuid)
	}
}

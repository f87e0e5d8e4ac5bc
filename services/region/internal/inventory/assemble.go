package inventory

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// ErrReportAgain says that what came cannot be understood without more: the rack
// must send the host's inventory whole.
var ErrReportAgain = errors.New("the host must be reported whole")

const (
	// maxOpen is how many reports of one session may be under way: one per host,
	// and no rack drives more than a few hundred.
	maxOpen = 1024
	// quiet is how long a host is not asked for again that was refused as a whole.
	quiet = 10 * time.Minute
)

// Report is what a host has, cleaned: whole, or what changed since the report
// before.
type Report struct {
	vmHost      string
	epoch       int64
	sequence    int64
	delta       bool
	observation *vmhostv1.VmHostObservation           // nil in a delta: as before
	machines    map[string]*rackv1.MachineObservation // by uuid; of a delta those that changed; nil: gone
	bytes       int
	dropped     int
	refused     string // why it is refused as a whole
	session     *Assembler
}

// Assembler puts the parts of reports of one session together, and knows which
// hosts were reported whole in it. It holds a bounded amount whatever the rack
// sends. Add is not safe for several goroutines.
type Assembler struct {
	open map[string]*Report

	mu    sync.Mutex
	known map[string]standing // by host
}

// standing is what a session knows of one host.
type standing struct {
	epoch int64
	quiet time.Time // it was refused as a whole; it is asked for again after this
}

// NewAssembler makes an assembler for one session.
func NewAssembler() *Assembler {
	return &Assembler{open: map[string]*Report{}, known: map[string]standing{}}
}

// Add takes a part. It answers the report when this was its last part, else nil.
func (a *Assembler) Add(part *rackv1.HostInventory) *Report {
	r := a.open[part.GetVmHost()]
	if r == nil || r.sequence != part.GetSequence() || r.epoch != part.GetEpoch() {
		// A new report; what is left of an older one is of no use.
		r = &Report{
			vmHost: part.GetVmHost(), epoch: part.GetEpoch(), sequence: part.GetSequence(), delta: part.GetDelta(),
			machines: map[string]*rackv1.MachineObservation{}, session: a,
		}
		if a.open[part.GetVmHost()] == nil && len(a.open) >= maxOpen {
			return nil
		}
		a.open[part.GetVmHost()] = r
	}
	if part.GetDelta() != r.delta {
		r.refuse("its parts disagree on whether it is whole")
	}
	if part.GetObservation() != nil {
		r.observation = cleanObservation(part.GetObservation())
	}
	r.add(part.GetMachines())
	r.gone(part.GetGoneUuids())
	if !part.GetLast() {
		return nil
	}
	delete(a.open, part.GetVmHost())
	if r.observation == nil && !r.delta {
		r.refuse("it says nothing of the host itself")
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
		clean := cleanMachine(m, uuid)
		if !r.room(proto.Size(clean)) {
			return
		}
		r.machines[uuid] = clean
	}
}

// gone notes machines that are not there any more. Of a whole report that is
// those that are not in it.
func (r *Report) gone(uuids []string) {
	for _, u := range uuids {
		if r.refused != "" || !r.delta {
			return
		}
		uuid, ok := cleanUUID(u)
		if _, there := r.machines[uuid]; !ok || there {
			continue
		}
		if !r.room(len(uuid)) {
			return
		}
		r.machines[uuid] = nil
	}
}

// room takes room for one more machine.
func (r *Report) room(bytes int) bool {
	r.bytes += bytes
	switch {
	case len(r.machines) >= maxMachines:
		r.refuse("it has more than " + strconv.Itoa(maxMachines) + " machines")
	case r.bytes > maxReportBytes:
		r.refuse("its machines take more than " + strconv.Itoa(maxReportBytes>>20) + " MiB")
	}
	return r.refused == ""
}

func (r *Report) refuse(why string) {
	if r.refused == "" {
		r.refused = why
	}
	r.machines = nil // nothing of it is kept
}

// follows says whether a delta follows a whole report that was recorded.
// ErrReportAgain when it does not; false alone when the host is not to be asked
// for now, because it was refused as a whole a while ago.
func (r *Report) follows(now time.Time) (bool, error) {
	r.session.mu.Lock()
	defer r.session.mu.Unlock()
	k, ok := r.session.known[r.vmHost]
	switch {
	case !ok || k.epoch != r.epoch:
		return false, ErrReportAgain
	case k.quiet.IsZero():
		return true, nil
	case now.Before(k.quiet):
		return false, nil
	default:
		delete(r.session.known, r.vmHost)
		return false, ErrReportAgain
	}
}

// settle notes what became of a whole report, so that deltas can follow it. Call
// it only for a host that is assigned to the rack, which bounds what is kept.
func (r *Report) settle(refusedAt time.Time) {
	k := standing{epoch: r.epoch}
	if !refusedAt.IsZero() {
		k.quiet = refusedAt.Add(quiet)
	}
	r.session.mu.Lock()
	defer r.session.mu.Unlock()
	r.session.known[r.vmHost] = k
}

package executor

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// partMachines and partBytes bound what travels in one message. A single
	// machine may weigh more; then it travels alone.
	partMachines, partBytes = 500, 1 << 20
)

// inventory reads the host and sends what the region does not know of it: all in
// the first report of a session and epoch, what changed afterwards. errUnheard
// when nobody listens.
func (h *host) inventory(ctx context.Context, conn *connection) error {
	if to, _ := h.e.listener(); to == nil {
		return errUnheard
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return h.readAndSend(ctx, conn)
}

// readAndSend is inventory with the reading of the host held.
func (h *host) readAndSend(ctx context.Context, conn *connection) error {
	to, round := h.e.listener() // one session gets all of it
	if to == nil {
		return errUnheard
	}
	began := time.Now()
	observation, machines, err := conn.driver.Inventory(ctx)
	h.e.cfg.Metrics.Inventory(hypervisor.StepError(err))
	if err != nil {
		return fmt.Errorf("read host: %w", err)
	}
	a := h.assignment()
	h.doubt()
	now := h.e.draw(observation, machines, round, a.GetEpoch())
	before := h.told.of(round, a.GetEpoch())
	report := now.since(before, observation, machines)
	report.VmHost, report.Epoch, report.Sequence = a.GetVmHost(), a.GetEpoch(), h.e.sequence.Add(1)
	for _, part := range split(report) {
		if to.Send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_HostInventory{HostInventory: part}}) != nil {
			return errUnheard // a report without its last part counts for nothing
		}
	}
	h.told = now
	h.log.DebugContext(ctx, "the host was read and reported", "began", began, "machines", len(machines), "changed", len(report.GetMachines()), "whole", !report.GetDelta())
	return nil
}

// mention notes that the region learns of a machine by another way than a report.
// What it has of it then may be older than what it was told.
func (h *host) mention(uuid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mentioned[uuid] = struct{}{}
}

// doubt takes what was mentioned out of what the region is known to have right;
// the reading of the host is held.
func (h *host) doubt() {
	h.mu.Lock()
	mentioned := h.mentioned
	h.mentioned = map[string]struct{}{}
	h.mu.Unlock()
	if h.told == nil {
		return
	}
	for uuid := range mentioned {
		h.told.machines[uuid] = rand.Uint64() //nolint:gosec // any other number will do
	}
}

// forgetTold makes the next report a whole one.
func (h *host) forgetTold(ctx context.Context) {
	if unlock, err := h.lock(ctx); err == nil {
		h.told = nil
		unlock()
	}
}

// changes reads the machines that events named and sends what is new.
func (h *host) changes(ctx context.Context, conn *connection, uuids map[string]struct{}) error {
	if to, _ := h.e.listener(); to == nil {
		return errUnheard
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	to, round := h.e.listener()
	a := h.assignment()
	h.doubt()
	told := h.told.of(round, a.GetEpoch())
	if told == nil { // nothing that a change could be a change of
		return h.readAndSend(ctx, conn)
	}
	present, err := look(ctx, conn.driver, uuids)
	if err != nil {
		return fmt.Errorf("read changed machines: %w", err)
	}
	sent := 0
	defer func() { h.e.cfg.Metrics.Changed(sent) }()
	for uuid := range uuids {
		change, hash := h.e.changeOf(told, uuid, present[uuid])
		if change == nil {
			continue
		}
		change.VmHost, change.Epoch, change.Time = a.GetVmHost(), a.GetEpoch(), timestamppb.Now()
		if to.Send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_MachineChange{MachineChange: change}}) != nil {
			return errUnheard
		}
		told.note(uuid, hash, change)
		sent++
	}
	return nil
}

// changeOf is what to tell of one machine; nil when the region knows it so.
func (e *Executor) changeOf(told *picture, uuid string, m *rackv1.MachineObservation) (change *rackv1.MachineChange, hash uint64) {
	old, known := told.machines[uuid]
	if m == nil {
		if !known {
			return nil, 0
		}
		return &rackv1.MachineChange{Change: &rackv1.MachineChange_GoneUuid{GoneUuid: uuid}}, 0
	}
	if hash = e.fingerprint(m); known && old == hash {
		return nil, 0
	}
	return &rackv1.MachineChange{Change: &rackv1.MachineChange_Present{Present: m}}, hash
}

// split cuts a report into parts that can be sent. There is always one.
func split(report *rackv1.HostInventory) []*rackv1.HostInventory {
	head := func() *rackv1.HostInventory {
		return &rackv1.HostInventory{VmHost: report.GetVmHost(), Epoch: report.GetEpoch(), Sequence: report.GetSequence(), Delta: report.GetDelta()}
	}
	part := head()
	part.Observation = report.GetObservation()
	parts, size := []*rackv1.HostInventory{part}, proto.Size(part)
	room := func(n int) {
		if len(part.GetMachines()) == partMachines || size+n > partBytes && (len(part.GetMachines()) > 0 || len(part.GetGoneUuids()) > 0 || part.GetObservation() != nil) {
			part = head()
			parts, size = append(parts, part), proto.Size(part)
		}
		size += n
	}
	const frame = 8 // of a field and its length
	for _, uuid := range report.GetGoneUuids() {
		room(len(uuid) + frame)
		part.GoneUuids = append(part.GoneUuids, uuid)
	}
	for _, m := range report.GetMachines() {
		room(proto.Size(m) + frame)
		part.Machines = append(part.Machines, m)
	}
	part.Last = true
	return parts
}

// picture is what the region of one session was told of a host under one epoch,
// as fingerprints. A nil picture is that it was told nothing.
type picture struct {
	round       int
	epoch       int64
	observation uint64
	machines    map[string]uint64 // by the hypervisor's uuid
}

// draw is the picture of what was read.
func (e *Executor) draw(o *vmhostv1.VmHostObservation, machines []*rackv1.MachineObservation, round int, epoch int64) *picture {
	p := &picture{round: round, epoch: epoch, machines: make(map[string]uint64, len(machines))}
	timeless := proto.CloneOf(o)
	if timeless != nil {
		timeless.ObserveTime = nil
	}
	p.observation = e.fingerprint(timeless)
	for _, m := range machines {
		p.machines[m.GetUuid()] = e.fingerprint(m)
	}
	return p
}

// of is the picture if it is that of a session and epoch, else nil.
func (p *picture) of(round int, epoch int64) *picture {
	if p == nil || p.round != round || p.epoch != epoch {
		return nil
	}
	return p
}

// since is what to tell whoever was told before: all, when before is nil.
func (p *picture) since(before *picture, o *vmhostv1.VmHostObservation, machines []*rackv1.MachineObservation) *rackv1.HostInventory {
	if before == nil {
		return &rackv1.HostInventory{Observation: o, Machines: machines}
	}
	out := &rackv1.HostInventory{Delta: true}
	if before.observation != p.observation {
		out.Observation = o
	}
	for _, m := range machines {
		if old, known := before.machines[m.GetUuid()]; !known || old != p.machines[m.GetUuid()] {
			out.Machines = append(out.Machines, m)
		}
	}
	for uuid := range before.machines {
		if _, there := p.machines[uuid]; !there {
			out.GoneUuids = append(out.GoneUuids, uuid)
		}
	}
	return out
}

// note keeps what was sent of one machine.
func (p *picture) note(uuid string, hash uint64, change *rackv1.MachineChange) {
	if change.GetPresent() == nil {
		delete(p.machines, uuid)
		return
	}
	p.machines[uuid] = hash
}

// fingerprint tells two observations apart. Should it once not, the region is
// told with the next change, or in the next session.
func (e *Executor) fingerprint(m proto.Message) uint64 {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // text that is not UTF-8; never equal, so always sent
		return rand.Uint64() //nolint:gosec // any other number will do
	}
	return maphash.Bytes(e.seed, raw)
}

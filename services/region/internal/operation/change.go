package operation

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// change is one transition of an operation, decided on one revision of it.
type change struct {
	engine   *Engine
	view     *store.View
	uid      string
	revision int64
	op       *storev1.StoredOperation
}

// begin is a transaction that makes next the operation's record if nobody
// advanced it meanwhile. next must be complete.
func (c *change) begin(next *storev1.StoredOperation) *store.Txn {
	next.Resource.UpdateTime = timestamppb.Now()
	tx := store.NewTxn()
	tx.IfRevision(store.Operations.Key(c.uid), c.revision)
	store.Put(tx, store.Operations, next, c.uid)
	return tx
}

func (c *change) commit(ctx context.Context, tx *store.Txn) error {
	revision, err := c.engine.commit(ctx, tx)
	if err != nil {
		return err
	}
	c.revision = revision
	return nil
}

// machine adds a change of the operation's machine, if it has a record.
func (c *change) machine(tx *store.Txn, fn func(m *vmhostv1.Machine)) {
	uid := c.op.GetMachineUid()
	m, ok := store.Machines.Get(c.view, uid)
	if uid == "" || !ok || m.Value.GetResource().GetOperation() != c.op.GetResource().GetName() {
		return // nothing is claimed, as by a query, or the record is gone
	}
	next := proto.CloneOf(m.Value)
	fn(next.GetResource())
	next.Resource.UpdateTime = timestamppb.Now()
	tx.IfRevision(store.Machines.Key(uid), m.Revision)
	store.Put(tx, store.Machines, next, uid)
}

// free lets go of the machine; phase unspecified leaves its phase.
func (c *change) free(tx *store.Txn, phase vmhostv1.MachinePhase) {
	c.machine(tx, func(m *vmhostv1.Machine) {
		m.Operation = ""
		if phase != vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED {
			m.Phase = phase
		}
	})
}

// finished is the record of the operation after its end.
func (c *change) finished(phase vmhostv1.OperationPhase, why *vmhostv1.OperationError) *storev1.StoredOperation {
	next := proto.CloneOf(c.op)
	r := next.GetResource()
	r.Phase, r.Error, r.EndTime = phase, cloneError(why), timestamppb.Now()
	next.StepId, next.EncryptedCredential = "", nil
	switch phase {
	case succeeded:
		r.ProgressPercent, r.Message = 100, ""
	case cancelled:
		r.Message = "cancelled"
	default:
		r.Message = why.GetMessage()
	}
	return next
}

// end ends the operation and lets go of its machine.
func (c *change) end(ctx context.Context, next *storev1.StoredOperation, phase vmhostv1.MachinePhase) error {
	tx := c.begin(next)
	c.free(tx, phase)
	c.event(tx, next)
	return c.last(ctx, tx, next)
}

// last commits what ends the operation.
func (c *change) last(ctx context.Context, tx *store.Txn, next *storev1.StoredOperation) error {
	if err := c.commit(ctx, tx); err != nil {
		return err
	}
	c.engine.cfg.Ended(next.GetResource())
	return nil
}

// release ends the operation and gives back all that its machine holds.
func (c *change) release(ctx context.Context, next *storev1.StoredOperation) error {
	return c.byTurns(ctx, next, func(tx *store.Txn, v *store.View) { ledger.Release(tx, v, c.op.GetMachineUid()) })
}

// restPhase is the phase of a machine whose removal or release ended early: there
// as long as its hypervisor shows it.
func (c *change) restPhase() vmhostv1.MachinePhase {
	m, ok := store.Machines.Get(c.view, c.op.GetMachineUid())
	if !ok {
		return vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED
	}
	r := m.Value.GetResource()
	if _, seen := store.Seen.Get(c.view, strings.TrimPrefix(r.GetVmHost(), "vmHosts/"), r.GetHypervisorUuid()); seen {
		return vmhostv1.MachinePhase_MACHINE_PHASE_READY
	}
	return vmhostv1.MachinePhase_MACHINE_PHASE_FAILED
}

// giveUp ends an operation whose deadline has passed. What a rack may have begun
// is not known, so that the machine keeps its capacity (P4).
func (c *change) giveUp(ctx context.Context) error {
	phase := vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED
	switch c.op.GetResource().GetVerb() {
	case vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE:
		if c.op.GetStep() == 0 || c.op.GetResource().GetPhase() == compensating {
			phase = vmhostv1.MachinePhase_MACHINE_PHASE_FAILED
		}
	case vmhostv1.OperationVerb_OPERATION_VERB_DELETE:
		phase = vmhostv1.MachinePhase_MACHINE_PHASE_FAILED
	case vmhostv1.OperationVerb_OPERATION_VERB_RELEASE:
		phase = c.restPhase()
	case vmhostv1.OperationVerb_OPERATION_VERB_MOVE:
		return c.endMove(ctx, failed, late(c.op))
	case vmhostv1.OperationVerb_OPERATION_VERB_ADOPT:
		// It stays on its host and is counted there whatever became of the step.
		return c.letGo(ctx, c.finished(failed, late(c.op)), nil)
	default:
	}
	return c.end(ctx, c.finished(failed, late(c.op)), phase)
}

// hostGone ends an operation whose host was taken out of the fleet.
func (c *change) hostGone(ctx context.Context) error {
	return c.end(ctx, c.finished(failed, hostRemoved(c.op)), vmhostv1.MachinePhase_MACHINE_PHASE_FAILED)
}

// cancel ends an operation of which no step is under way.
func (c *change) cancel(ctx context.Context) error {
	switch c.op.GetResource().GetVerb() {
	case vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE:
		if c.op.GetStep() == 0 && c.op.GetResource().GetAttempt() == 0 {
			return c.release(ctx, c.finished(cancelled, cancelledByUser())) // no rack ever heard of it
		}
		return c.compensate(ctx, proto.CloneOf(c.op), cancelledByUser())
	case vmhostv1.OperationVerb_OPERATION_VERB_DELETE, vmhostv1.OperationVerb_OPERATION_VERB_RELEASE:
		return c.end(ctx, c.finished(cancelled, cancelledByUser()), c.restPhase())
	case vmhostv1.OperationVerb_OPERATION_VERB_MOVE:
		return c.endMove(ctx, cancelled, cancelledByUser())
	case vmhostv1.OperationVerb_OPERATION_VERB_ADOPT:
		return c.letGo(ctx, c.finished(cancelled, cancelledByUser()), nil)
	default:
		return c.end(ctx, c.finished(cancelled, cancelledByUser()), vmhostv1.MachinePhase_MACHINE_PHASE_UNSPECIFIED)
	}
}

// compensate begins to undo a compose: a delete behind the steps of the plan.
func (c *change) compensate(ctx context.Context, next *storev1.StoredOperation, cause *vmhostv1.OperationError) error {
	r := next.GetResource()
	next.Cause, next.Step, next.StepId = cause, int32(len(next.GetPlan())), ""
	r.Phase, r.Attempt = compensating, 0
	r.Message = "undoing: " + cause.GetMessage()
	r.Steps = append(r.GetSteps(), &vmhostv1.OperationStep{Verb: "delete"})
	tx := c.begin(next)
	c.machine(tx, func(m *vmhostv1.Machine) { m.Phase = vmhostv1.MachinePhase_MACHINE_PHASE_DELETING })
	c.engine.proceed(c.uid)
	return c.commit(ctx, tx)
}

// event tells of the operation's end.
func (c *change) event(tx *store.Txn, next *storev1.StoredOperation) {
	r := next.GetResource()
	attributes := map[string]string{"phase": strings.TrimPrefix(r.GetPhase().String(), "OPERATION_PHASE_")}
	if _, hostname := c.subject(r); hostname != "" {
		attributes["hostname"] = hostname
	}
	host := r.GetVmHost()
	if to := destination(next); to != "" {
		attributes["from"], attributes["to"] = host, to
		if r.GetPhase() == succeeded {
			host = to // as of a machine that its cluster moved
		}
	}
	store.AddEvent(tx, &vmhostv1.Event{
		Type: eventType(r), Resource: r.GetTarget(), VmHost: host, Operation: r.GetName(), Principal: r.GetPrincipal(),
		Message: c.told(r), Attributes: attributes,
	})
}

// subject is what the operation was on, as people call it: a machine by its
// hostname.
func (c *change) subject(r *vmhostv1.Operation) (name, hostname string) {
	if m, ok := store.Machines.Get(c.view, c.op.GetMachineUid()); ok {
		hostname = m.Value.GetResource().GetHostname()
		return hostname, hostname
	}
	return strings.TrimPrefix(cmp.Or(r.GetTarget(), r.GetVmHost()), "vmHosts/"), ""
}

// told is the end of the operation in words.
func (c *change) told(r *vmhostv1.Operation) string {
	verb := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(r.GetVerb().String(), "OPERATION_VERB_"), "_", " "))
	name, _ := c.subject(r)
	switch r.GetPhase() {
	case succeeded:
		_, done, _ := strings.Cut(eventType(r), ".")
		if to := destination(c.op); to != "" {
			return name + " moved from " + idOf(r.GetVmHost()) + " to " + idOf(to)
		}
		return done + " " + name
	case cancelled:
		return verb + " of " + name + " was cancelled"
	default:
		return verb + " of " + name + " failed: " + r.GetError().GetMessage()
	}
}

func eventType(r *vmhostv1.Operation) string {
	subject, done := "machine", ""
	switch r.GetVerb() {
	case vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE:
		done = "composed"
	case vmhostv1.OperationVerb_OPERATION_VERB_DELETE:
		done = "deleted"
	case vmhostv1.OperationVerb_OPERATION_VERB_START:
		done = "started"
	case vmhostv1.OperationVerb_OPERATION_VERB_STOP:
		done = "stopped"
	case vmhostv1.OperationVerb_OPERATION_VERB_RESET:
		done = "reset"
	case vmhostv1.OperationVerb_OPERATION_VERB_CYCLE:
		done = "cycled"
	case vmhostv1.OperationVerb_OPERATION_VERB_PAUSE:
		done = "paused"
	case vmhostv1.OperationVerb_OPERATION_VERB_RESUME:
		done = "resumed"
	case vmhostv1.OperationVerb_OPERATION_VERB_ADOPT:
		done = "adopted"
	case vmhostv1.OperationVerb_OPERATION_VERB_RELEASE:
		done = "released"
	case vmhostv1.OperationVerb_OPERATION_VERB_MOVE:
		done = "moved"
	case vmhostv1.OperationVerb_OPERATION_VERB_QUERY_POWER:
		done = "queried"
	case vmhostv1.OperationVerb_OPERATION_VERB_REFRESH:
		subject, done = "vm_host", "refreshed"
	case vmhostv1.OperationVerb_OPERATION_VERB_CHECK:
		subject, done = "vm_host", "checked"
	case vmhostv1.OperationVerb_OPERATION_VERB_REMOVE:
		subject, done = "vm_host", "removed"
	case vmhostv1.OperationVerb_OPERATION_VERB_DRAIN:
		subject, done = "vm_host", "drained"
	default:
	}
	switch r.GetPhase() {
	case succeeded:
		return subject + "." + done
	case cancelled:
		return "operation.cancelled"
	default:
		return "operation.failed"
	}
}

func packed(m proto.Message) (*anypb.Any, error) {
	out, err := anypb.New(m)
	if err != nil {
		return nil, fmt.Errorf("pack the operation's response: %w", err)
	}
	return out, nil
}

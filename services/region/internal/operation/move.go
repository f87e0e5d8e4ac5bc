package operation

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// moveTimeout is how long one try may take beside the copying: connecting,
	// looking, memory that goes along.
	moveTimeout = 30 * time.Minute
	// copyRate is how many bytes of disks are copied in a second at the least.
	copyRate = 20 << 20
)

// movePlan is how a machine is moved.
type movePlan struct {
	to           string // id of the only destination; empty: any
	allowOffline bool
	grace        time.Duration
	not          map[string]string // more hosts that cannot be it, by id, with why
}

// Move begins to bring a machine to another host. From the transaction that
// records the operation on it holds room on both; whichever it is not on gives it
// back when that is known. A machine of which a move ended before it was known is
// brought to where that move was going. Errors: NOT_FOUND, FOREIGN_OBJECT,
// ETAG_MISMATCH, MACHINE_BUSY, WRONG_STATE, INVALID_FIELD, UNSUPPORTED,
// NO_CAPACITY, QUOTA_EXCEEDED, REQUEST_ID_REUSED.
func (e *Engine) Move(ctx context.Context, principal string, req *vmhostv1.MoveMachineRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "MoveMachine", req)
	if err != nil {
		return nil, err
	}
	plan := movePlan{to: idOf(req.GetVmHost()), allowOffline: req.GetAllowOffline(), grace: defaultGrace}
	if req.GetVmHost() != "" && "vmHosts/"+plan.to != req.GetVmHost() {
		return nil, apierror.InvalidField("vm_host", "must have the form vmHosts/{id}")
	}
	if req.GetGracePeriod() != nil {
		plan.grace = req.GetGracePeriod().AsDuration()
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_MOVE, id: id,
		deadline: e.cfg.Deadlines.Move, validateOnly: req.GetValidateOnly(), turn: true,
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			m, err := e.ours(v, req.GetName())
			if err != nil {
				return err
			}
			if err := checkEtag(m, req.GetEtag()); err != nil {
				return err
			}
			if req.GetValidateOnly() {
				return e.explainMove(v, op, m.Value, plan)
			}
			return e.planMove(v, tx, op, m, plan)
		},
	})
}

// planMove makes the operation the one that moves the machine, and takes room for
// it.
func (e *Engine) planMove(v *store.View, tx *store.Txn, op *storev1.StoredOperation, m store.Record[*storev1.StoredMachine], plan movePlan) error {
	return claimRecord(v, tx, op, m, func(next *storev1.StoredMachine) error {
		if err := e.mayMove(v, next, plan); err != nil {
			return err
		}
		if next.GetMove() == nil {
			not := notDestinations(v, next)
			maps.Copy(not, plan.not)
			choice := e.cfg.Places.ChooseMove(v, next, ledger.MoveQuery{To: plan.to, Not: not})
			if choice.Move == nil {
				return choice.Refusal()
			}
			if err := e.cfg.Places.TakeMove(tx, v, next, choice); err != nil {
				return err
			}
			next.Move = choice.Move
		}
		addMove(v, op, next, plan)
		return nil
	})
}

// explainMove fills the operation of a dry run.
func (e *Engine) explainMove(v *store.View, op *storev1.StoredOperation, m *storev1.StoredMachine, plan movePlan) error {
	if err := notBusy(v, m.GetResource()); err != nil {
		return err
	}
	if err := e.mayMove(v, m, plan); err != nil {
		return err
	}
	op.Resource.Target, op.Resource.VmHost, op.Resource.Message = m.GetResource().GetName(), m.GetResource().GetVmHost(), ""
	out := &vmhostv1.ComposePlan{}
	if to := m.GetMove(); to != nil {
		out.Placement, out.Machine = &vmhostv1.Placement{VmHost: "vmHosts/" + to.GetVmHost()}, to.GetMoved()
	} else {
		choice := e.cfg.Places.ChooseMove(v, m, ledger.MoveQuery{To: plan.to, Not: notDestinations(v, m), Explain: true})
		out.Placement, out.Machine = choice.Plan.Proto(), choice.Move.GetMoved()
	}
	var err error
	op.Resource.Response, err = packed(out)
	return err
}

// mayMove refuses machines that are not to be moved, or not in this way.
func (e *Engine) mayMove(v *store.View, m *storev1.StoredMachine, plan movePlan) error {
	r := m.GetResource()
	if err := needReady(r); err != nil {
		return err
	}
	if plan.to != "" {
		if _, ok := store.VmHosts.Get(v, plan.to); !ok {
			return apierror.NotFound("vmHosts/"+plan.to).WithField("vm_host", "does not exist")
		}
		if to := m.GetMove(); to != nil && to.GetVmHost() != plan.to {
			return moveOpen(m)
		}
		if plan.to == idOf(r.GetVmHost()) {
			return apierror.InvalidField("vm_host", "is the host that the machine is on").WithHint("name another host, or leave it out and have one chosen")
		}
	}
	if err := copyable(v, m); err != nil {
		return err
	}
	if why := notLive(v, r); why != "" && runs(v, m) && !plan.allowOffline {
		return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s runs, and cannot be moved while it does: %s", r.GetName(), why).
			With("resource", r.GetName()).
			WithHint("stop it first, or allow it to be stopped, moved and started again (allow_offline)")
	}
	return nil
}

// moveOpen refuses what cannot deal with a machine of which it is not known where
// it is.
func moveOpen(m *storev1.StoredMachine) error {
	r, to := m.GetResource(), "vmHosts/"+m.GetMove().GetVmHost()
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE,
		"a move of %s from %s to %s ended without it being known on which of them it is", r.GetName(), r.GetVmHost(), to).
		With("resource", r.GetName()).With("vm_host", r.GetVmHost()).With("destination", to).
		WithHint("move it again without naming another host, which goes on from there; or delete it, which cleans up both")
}

// copyable refuses a machine with a disk that can neither be copied nor stay where it
// is. Those of composed machines are ours and can be copied; who found a machine has
// not looked at every disk.
func copyable(v *store.View, m *storev1.StoredMachine) error {
	r := m.GetResource()
	if r.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED {
		return nil
	}
	host := idOf(r.GetVmHost())
	shared := sharedPools(v, host)
	for i, d := range r.GetDisks() {
		var why string
		local, stays := ledger.IsLocal(v, host, d.GetStoragePool()), slices.Contains(m.GetMove().GetStayingDisks(), int32(i))
		switch {
		case d.GetVolume() == "" || d.GetSizeBytes() <= 0:
			why = "is no volume of a storage pool"
		case !local && !stays && shared[d.GetStoragePool()] == "":
			why = "is in storage pool " + d.GetStoragePool() + ", which is not the host's alone"
		case !local && !stays && reach.WhyCopies(v, host) != "":
			why = "is in storage pool " + d.GetStoragePool() + ", which is not the host's alone, and cannot stay in it: " + reach.WhyCopies(v, host)
		case usedByOthers(v, r, d):
			why = "is used by another machine as well"
		default:
			continue
		}
		return apierror.New(codes.Unimplemented, vmhostv1.ErrorReason_UNSUPPORTED, "%s was adopted, and its disk %d (%s) %s", r.GetName(), i, d.GetVolume()+d.GetPath(), why).
			With("resource", r.GetName()).WithHint("move it by hand, or take the disk off it first")
	}
	return nil
}

// notLive is why a running machine cannot be moved while it runs, as far as that
// is known here; empty when it can be tried.
func notLive(v *store.View, r *vmhostv1.Machine) string {
	host, _ := store.VmHosts.Get(v, idOf(r.GetVmHost()))
	switch {
	case host.Value.GetResource().GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_LXD:
		return "LXD servers do not move what runs"
	case r.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER:
		return "it is a container"
	case len(functions(r.GetInterfaces())) > 0:
		return "it has a virtual function of a network device"
	default:
		return ""
	}
}

// runs says whether a machine was seen running, or paused.
func runs(v *store.View, m *storev1.StoredMachine) bool {
	for _, host := range ledger.HostsOf(m) {
		if seen, ok := store.Seen.Get(v, host, m.GetResource().GetHypervisorUuid()); ok && !off(seen.Value.GetObservation()) {
			return true
		}
	}
	return false
}

func off(o *rackv1.MachineObservation) bool {
	return o.GetPowerState() == vmhostv1.PowerState_POWER_STATE_OFF || o.GetPowerState() == vmhostv1.PowerState_POWER_STATE_CRASHED
}

// addMove adds the one step of a move.
func addMove(v *store.View, op *storev1.StoredOperation, m *storev1.StoredMachine, plan movePlan) {
	r, to := m.GetResource(), m.GetMove()
	bytes := int64(0)
	for i, d := range r.GetDisks() {
		if !slices.Contains(to.GetStayingDisks(), int32(i)) {
			bytes += d.GetSizeBytes()
		}
	}
	copying := time.Duration(bytes/copyRate) * time.Second
	deadline := op.GetResource().GetDeadlineTime().AsTime().Add(copying + plan.grace)
	op.Resource.DeadlineTime = timestamppb.New(deadline)
	moved := proto.CloneOf(to.GetMoved())
	moved.Operation = r.GetOperation()
	addStep(op, "move", moveTimeout+copying+plan.grace, &rackv1.Step{Action: &rackv1.Step_MoveMachine{MoveMachine: &rackv1.MoveMachine{
		Machine: wholeMachine(r), Moved: wholeMachine(moved),
		Destination: &rackv1.MoveDestination{VmHost: "vmHosts/" + to.GetVmHost(), Uid: to.GetVmHostUid()},
		Live:        notLive(v, r) == "", AllowOffline: plan.allowOffline, GracePeriod: durationpb.New(plan.grace), Autostart: m.GetAutostart(),
		StayingDisks: to.GetStayingDisks(),
	}}})
	// Who goes on with a move under the name that it was begun by knows what was
	// stopped for it.
	op.GetPlan()[0].Operation = to.GetMoved().GetOperation()
}

// wholeMachine is what a rack needs of a machine to make it elsewhere.
func wholeMachine(r *vmhostv1.Machine) *vmhostv1.Machine {
	out := wireMachine(r)
	out.Architecture, out.Cores, out.MemoryMib, out.PinnedCores = r.GetArchitecture(), r.GetCores(), r.GetMemoryMib(), r.GetPinnedCores()
	out.Interfaces, out.Hugepages, out.Firmware, out.SecureBoot = r.GetInterfaces(), r.GetHugepages(), r.GetFirmware(), r.GetSecureBoot()
	out.Profiles, out.Image, out.Autostart = r.GetProfiles(), r.GetImage(), r.GetAutostart()
	return out
}

// destination is where a move goes, `vmHosts/{vm_host}`; empty for what is none.
func destination(op *storev1.StoredOperation) string {
	if len(op.GetPlan()) == 0 {
		return ""
	}
	return op.GetPlan()[0].GetMoveMachine().GetDestination().GetVmHost()
}

package operation

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// defaultGrace is how long a guest may take to stop when the request does not
// say.
const defaultGrace = 60 * time.Second

// powerPlan is a change of power as it is recorded and sent.
type powerPlan struct {
	word   string // of the step, and of the request
	action rackv1.PowerAction
	grace  *durationpb.Duration // nil for what waits for no guest
	mode   vmhostv1.StopMode
}

func (p powerPlan) wait() time.Duration { return p.grace.AsDuration() }

// planPower reads what is wanted. Errors: INVALID_FIELD.
func planPower(want *vmhostv1.BatchChangePowerRequest) (powerPlan, error) {
	plan := powerPlan{mode: want.GetMode()}
	switch want.GetVerb() {
	case vmhostv1.OperationVerb_OPERATION_VERB_START:
		plan.word, plan.action = "start", rackv1.PowerAction_POWER_ACTION_START
	case vmhostv1.OperationVerb_OPERATION_VERB_STOP:
		return planStop(want, plan)
	case vmhostv1.OperationVerb_OPERATION_VERB_RESET:
		plan.word, plan.action = "reset", rackv1.PowerAction_POWER_ACTION_RESET
	case vmhostv1.OperationVerb_OPERATION_VERB_CYCLE:
		plan.word, plan.action = "cycle", rackv1.PowerAction_POWER_ACTION_CYCLE
		plan.grace = graceOf(want)
	case vmhostv1.OperationVerb_OPERATION_VERB_PAUSE:
		plan.word, plan.action = "pause", rackv1.PowerAction_POWER_ACTION_PAUSE
	case vmhostv1.OperationVerb_OPERATION_VERB_RESUME:
		plan.word, plan.action = "resume", rackv1.PowerAction_POWER_ACTION_RESUME
	default:
		return plan, apierror.InvalidField("verb", "must be START, STOP, RESET, CYCLE, PAUSE or RESUME")
	}
	if want.GetMode() != vmhostv1.StopMode_STOP_MODE_UNSPECIFIED {
		return plan, apierror.InvalidField("mode", "is only for STOP")
	}
	if want.GetGracePeriod() != nil && plan.grace == nil {
		return plan, apierror.InvalidField("grace_period", "is only for STOP and CYCLE")
	}
	return plan, nil
}

func planStop(want *vmhostv1.BatchChangePowerRequest, plan powerPlan) (powerPlan, error) {
	plan.word, plan.action, plan.grace = "stop", rackv1.PowerAction_POWER_ACTION_STOP, graceOf(want)
	switch want.GetMode() {
	case vmhostv1.StopMode_STOP_MODE_SOFT:
		if plan.wait() == 0 {
			return plan, apierror.InvalidField("grace_period", "is 0, and a soft stop needs time").
				WithHint("give the guest some seconds, or stop it hard")
		}
		plan.action = rackv1.PowerAction_POWER_ACTION_STOP_SOFT
	case vmhostv1.StopMode_STOP_MODE_HARD:
		if want.GetGracePeriod().AsDuration() > 0 {
			return plan, apierror.InvalidField("grace_period", "is set, and a hard stop waits for nothing").
				WithHint("leave it out; or leave out the mode to turn the machine off after that time")
		}
		plan.grace = durationpb.New(0)
	default:
	}
	return plan, nil
}

func graceOf(want *vmhostv1.BatchChangePowerRequest) *durationpb.Duration {
	if want.GetGracePeriod() == nil {
		return durationpb.New(defaultGrace)
	}
	return want.GetGracePeriod()
}

// Power begins to change the power of one machine of ours. want says how: verb,
// grace_period, mode, request_id and validate_only; its names and filter are not
// looked at. Errors: INVALID_FIELD, NOT_FOUND, FOREIGN_OBJECT, WRONG_STATE,
// MACHINE_BUSY, REQUEST_ID_REUSED.
func (e *Engine) Power(ctx context.Context, principal, name string, want *vmhostv1.BatchChangePowerRequest) (*vmhostv1.Operation, error) {
	plan, err := planPower(want)
	if err != nil {
		return nil, err
	}
	id, err := request.New(principal, plan.word, &vmhostv1.StopMachineRequest{
		Name: name, GracePeriod: plan.grace, Mode: plan.mode, RequestId: want.GetRequestId(),
	})
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: want.GetVerb(), id: id,
		deadline: e.cfg.Deadlines.Power + plan.wait(), validateOnly: want.GetValidateOnly(),
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			m, err := e.ours(v, name)
			if err != nil {
				return err
			}
			return claim(v, tx, op, m, func(r *vmhostv1.Machine) error {
				if err := needReady(r); err != nil {
					return err
				}
				op.GracePeriod = plan.grace
				addStep(op, plan.word, powerTimeout+plan.wait(), &rackv1.Step{Action: &rackv1.Step_SetPower{SetPower: setPower(r, plan)}})
				return nil
			})
		},
	})
}

func setPower(r *vmhostv1.Machine, plan powerPlan) *rackv1.SetPower {
	out := &rackv1.SetPower{Uid: r.GetUid(), Action: plan.action, GracePeriod: plan.grace, HypervisorName: r.GetHypervisorName()}
	if r.GetHypervisorUuid() != r.GetUid() {
		out.HypervisorUuid = r.GetHypervisorUuid()
	}
	return out
}

// needReady refuses a machine that is being made or removed, or may not exist.
func needReady(r *vmhostv1.Machine) error {
	if r.GetPhase() == vmhostv1.MachinePhase_MACHINE_PHASE_READY {
		return nil
	}
	e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is %s, not ready", r.GetName(), phaseWord(r.GetPhase())).
		With("resource", r.GetName()).With("phase", r.GetPhase().String())
	return e.WithHint("delete it to have it cleaned up")
}

// isSoftStop says whether the step under way only asks the guest: that the guest
// did not stop in its time is then the answer, and no trouble of the host.
func isSoftStop(op *storev1.StoredOperation) bool {
	if len(op.GetPlan()) == 0 {
		return false
	}
	return planned(op).GetSetPower().GetAction() == rackv1.PowerAction_POWER_ACTION_STOP_SOFT
}

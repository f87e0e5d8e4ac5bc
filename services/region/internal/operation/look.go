package operation

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// look does whatever an operation's record asks for now. It answers when to look
// again, 0 for when something changes.
func (e *Engine) look(ctx context.Context, uid string) (time.Duration, error) {
	v := e.store.Cached()
	rec, ok := store.Operations.Get(v, uid)
	if !ok || ended(rec.Value) {
		e.forget(uid)
		return 0, nil
	}
	c := &change{engine: e, view: v, uid: uid, revision: rec.Revision, op: rec.Value}
	if host := hostOf(rec.Value); host != "" {
		if h, ok := store.VmHosts.Get(v, host); !ok || h.Value.GetResource().GetUid() != hostUID(rec.Value) {
			return 0, c.hostGone(ctx)
		}
	}
	if clears(rec.Value) {
		return e.clear(ctx, c)
	}
	left := time.Until(rec.Value.GetResource().GetDeadlineTime().AsTime())
	if left <= 0 {
		return 0, c.giveUp(ctx)
	}
	next, err := e.drive(ctx, c)
	if err != nil {
		return 0, err
	}
	if next == 0 || next > left {
		next = left
	}
	return next, nil
}

// drive cancels, or sends the present step, if it is for this process to do so.
func (e *Engine) drive(ctx context.Context, c *change) (time.Duration, error) {
	op := c.op
	if op.GetResource().GetCancelRequested() && op.GetStepId() == "" && op.GetResource().GetPhase() != compensating {
		return 0, c.cancel(ctx)
	}
	rack, epoch := e.rackOf(c.view, op)
	session := ""
	if rack != "" {
		session = e.cfg.Sender.Session(rack)
	}
	if session == "" {
		return 0, nil // another process drives it, or nobody can now
	}
	if !c.mayHave(rack, session) {
		return 0, nil // until a rack has the host that leaves disks where they are
	}
	to := link{rack: rack, session: session, epoch: epoch}
	if op.GetStepId() != "" {
		if wait := e.resendIn(c.uid, to, op.GetStepId()); wait > 0 {
			return wait, nil
		}
		return e.send(ctx, c, to)
	}
	if wait := e.retryIn(c.uid); wait > 0 {
		return wait, nil
	}
	next := proto.CloneOf(op)
	r := next.GetResource()
	r.Attempt++
	next.StepId = c.uid + "/" + strconv.Itoa(int(next.GetStep())) + "/" + strconv.Itoa(int(r.GetAttempt()))
	if r.GetPhase() == pending {
		r.Phase = running
	}
	s := r.GetSteps()[next.GetStep()]
	if s.GetStartTime() == nil {
		s.StartTime = timestamppb.Now()
	}
	r.Message = "rack " + rack + ": " + s.GetVerb()
	if r.GetAttempt() > 1 {
		r.Message += fmt.Sprintf(", attempt %d after: %s", r.GetAttempt(), s.GetError())
	}
	if p := planned(next); p.GetMoveMachine() != nil {
		p.Epoch = epoch // to tell whether another rack had it after this one
	}
	tx := c.begin(next)
	if host := hostOf(op); host != "" {
		tx.IfRevision(store.Assignments.Key(host), epoch)
	}
	if err := c.commit(ctx, tx); err != nil {
		return 0, err
	}
	c.op = next
	return e.send(ctx, c, to)
}

// link is a rack's session that this process holds, and the epoch for the host.
type link struct {
	rack, session string
	epoch         int64
}

func (e *Engine) send(ctx context.Context, c *change, to link) (time.Duration, error) {
	step, err := e.step(c, to.rack, to.epoch)
	if err != nil {
		return 0, err
	}
	// Noted before it is sent: the result can be here before Send has returned.
	e.noteSent(c.uid, to, step.GetId())
	if !e.cfg.Sender.Send(to.rack, step) {
		e.noteSent(c.uid, link{}, "")
		return e.cfg.RetryMin, nil
	}
	e.log.DebugContext(ctx, "step sent", "step", step.GetId(), "rack", to.rack, "session", to.session)
	return e.cfg.FullPass, nil
}

// step is the step under way as it is sent.
func (e *Engine) step(c *change, rack string, epoch int64) (*rackv1.Step, error) {
	step := proto.CloneOf(planned(c.op))
	step.Id, step.Epoch = c.op.GetStepId(), epoch
	if move := step.GetMoveMachine(); move != nil {
		return step, e.address(c.view, rack, step.GetOperation(), move.GetDestination())
	}
	check := step.GetCheckHost()
	if check == nil || len(c.op.GetEncryptedCredential()) == 0 {
		return step, nil
	}
	plain, err := e.cfg.Secrets.Decrypt(store.Operations.Key(c.uid), c.op.GetEncryptedCredential())
	if err != nil {
		return nil, fmt.Errorf("read the credential to check: %w", err)
	}
	check.SealedCredential, err = seal(c.view, rack, "check/"+step.GetOperation(), plain)
	return step, err
}

// address completes where a machine is brought to: as the host is reached now,
// with the credential sealed to the rack that does it (P8).
func (e *Engine) address(v *store.View, rack, operation string, to *rackv1.MoveDestination) error {
	host := idOf(to.GetVmHost())
	spec, ok := store.VmHosts.Get(v, host)
	r := spec.Value.GetResource()
	if !ok || r.GetUid() != to.GetUid() {
		return fmt.Errorf("address the destination: %s is not there any more", to.GetVmHost())
	}
	to.Type, to.Address, to.HostKey, to.Project, to.ClusterMember = r.GetType(), r.GetAddress(), r.GetHostKey(), r.GetProject(), r.GetClusterMember()
	secret, ok := store.Secrets.Get(v, "vmHosts", host)
	if !ok {
		return nil // a local socket needs none
	}
	plain, err := e.cfg.Secrets.Decrypt(store.Secrets.Key("vmHosts", host), secret.Value.GetCiphertext())
	if err != nil {
		return fmt.Errorf("read the destination's credential: %w", err)
	}
	to.SealedCredential, err = seal(v, rack, "move/"+operation, plain)
	return err
}

// seal encrypts a credential so that only the rack can read it.
func seal(v *store.View, rack, data string, plain []byte) ([]byte, error) {
	r, ok := store.Racks.Get(v, rack)
	if !ok {
		return nil, fmt.Errorf("seal the credential: rack %s is not enrolled", rack)
	}
	sealed, err := pki.Seal(r.Value.GetHpkePublicKey(), []byte(data), plain)
	if err != nil {
		return nil, fmt.Errorf("seal the credential: %w", err)
	}
	return sealed, nil
}

// rackOf is the rack that drives the operation, and the epoch to drive it with;
// empty when none does.
func (e *Engine) rackOf(v *store.View, op *storev1.StoredOperation) (string, int64) {
	host := hostOf(op)
	if host == "" {
		return op.GetRack(), 0
	}
	a, ok := store.Assignments.Get(v, host)
	if !ok || a.Value.GetVmHostUid() != hostUID(op) {
		return "", 0
	}
	return a.Value.GetRack(), a.Revision
}

const (
	pending      = vmhostv1.OperationPhase_OPERATION_PHASE_PENDING
	running      = vmhostv1.OperationPhase_OPERATION_PHASE_RUNNING
	compensating = vmhostv1.OperationPhase_OPERATION_PHASE_COMPENSATING
	succeeded    = vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED
	failed       = vmhostv1.OperationPhase_OPERATION_PHASE_FAILED
	cancelled    = vmhostv1.OperationPhase_OPERATION_PHASE_CANCELLED
)

func ended(op *storev1.StoredOperation) bool { return endedPhase(op.GetResource().GetPhase()) }

func endedPhase(p vmhostv1.OperationPhase) bool {
	return p == succeeded || p == failed || p == cancelled
}

func hostOf(op *storev1.StoredOperation) string {
	return strings.TrimPrefix(op.GetResource().GetVmHost(), "vmHosts/")
}

func hostUID(op *storev1.StoredOperation) string {
	if r := op.GetRemoval(); r != nil {
		return r.GetVmHostUid()
	}
	if d := op.GetDrain(); d != nil {
		return d.GetVmHostUid()
	}
	if len(op.GetPlan()) == 0 {
		return ""
	}
	return planned(op).GetVmHostUid()
}

// planned is the step under way without what changes from one sending to the
// next. Behind the last step of the plan comes the one that undoes a compose.
func planned(op *storev1.StoredOperation) *rackv1.Step {
	if i := int(op.GetStep()); i < len(op.GetPlan()) {
		return op.GetPlan()[i]
	}
	first := op.GetPlan()[0]
	return &rackv1.Step{
		Operation: first.GetOperation(), VmHost: first.GetVmHost(), VmHostUid: first.GetVmHostUid(), Timeout: timeoutProto(deleteTimeout),
		Action: &rackv1.Step_DeleteMachine{DeleteMachine: &rackv1.DeleteMachine{Machine: first.GetCreateMachine().GetMachine()}},
	}
}

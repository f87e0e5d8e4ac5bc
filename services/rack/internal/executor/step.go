package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/journal"
)

// usualTimeout is what a step may take that does not say.
const usualTimeout = 5 * time.Minute

// errLeave ends a step without a result: it will be sent again.
var errLeave = errors.New("the step is left for another time")

// Do does a step, or joins the one of that id that is under way.
func (e *Executor) Do(ctx context.Context, step *rackv1.Step) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing { // it is sent again to whoever comes next
		return
	}
	if e.running[step.GetId()] {
		e.steps.Go(func() { e.sendAccepted(e.life, step) })
		return
	}
	h := e.hosts[step.GetVmHostUid()]
	var turn *turn
	refusal := error(nil)
	switch {
	case step.GetCheckHost() != nil:
		h = nil
	case h == nil:
		refusal = &hypervisor.Error{Class: hypervisor.ErrBusy, Op: "accept step", Err: fmt.Errorf("%s is not assigned to this rack", step.GetVmHost())}
	default:
		turn = h.queue(machineOf(step))
		if turn == nil {
			refusal = &hypervisor.Error{Class: hypervisor.ErrBusy, Op: "accept step", Err: fmt.Errorf("%d steps wait for %s already", maxQueued, step.GetVmHost())}
		}
	}
	e.running[step.GetId()] = true
	log := e.cfg.Log.With("rack", e.cfg.Rack(), "session", e.session, "step", step.GetId(), "operation", step.GetOperation(), "vm_host", step.GetVmHost())
	e.steps.Go(func() {
		defer func() {
			turn.leave()
			e.mu.Lock()
			delete(e.running, step.GetId())
			e.mu.Unlock()
		}()
		began := time.Now()
		result, err := e.step(e.life, h, step, turn, refusal) //nolint:contextcheck // a step outlives the session that it came by
		if err != nil {
			log.WarnContext(ctx, "left a step", "action", actionOf(step), "error", err)
			return
		}
		log.InfoContext(ctx, "a step ended", "action", actionOf(step), "class", result.GetError().GetClass(),
			"duration", time.Since(began), "error", result.GetError().GetMessage())
		settled := h.settle(e.life) //nolint:contextcheck // as above
		defer settled()
		if uuid := result.GetMachine().GetUuid(); uuid != "" {
			h.mention(uuid)
		}
		_ = e.send(e.life, resultMessage(result)) //nolint:contextcheck // as above; without a session the journal keeps it
	})
}

// step takes a step from its arrival to its result. An error says that there is
// no result.
func (e *Executor) step(ctx context.Context, h *host, step *rackv1.Step, turn *turn, refusal error) (*rackv1.StepResult, error) {
	if refusal != nil { // it had no effect, so that the journal need not know
		if result, err := e.cfg.Journal.Result(step.GetId()); result != nil && err == nil {
			return result, nil
		}
		if step.GetMoveMachine() != nil {
			refusal = untouched(refusal, e.begunBefore(step))
		}
		return &rackv1.StepResult{Id: step.GetId(), Error: stepError(refusal)}, nil
	}
	begunBefore := e.begunBefore(step)
	result, err := e.accept(step)
	if result != nil {
		return result, nil
	}
	if errors.Is(err, journal.ErrStaleEpoch) {
		return stale(step, err), nil
	}
	if err != nil {
		return nil, err
	}
	e.cfg.Metrics.StepBegan()
	e.sendAccepted(ctx, step)
	release, err := e.admit(ctx, h, step, turn)
	if err != nil {
		e.cfg.Metrics.StepLeft()
		return nil, err
	}
	defer release()
	began := time.Now()
	result, err = e.perform(ctx, h, step, begunBefore)
	if err != nil {
		e.cfg.Metrics.StepLeft()
		return nil, err
	}
	e.cfg.Metrics.StepEnded(actionOf(step), result.GetError(), time.Since(began))
	if looks(step) {
		return result, nil
	}
	if err := e.cfg.Journal.Finish(result); err != nil {
		e.cfg.Log.ErrorContext(ctx, "could not record a result", "step", step.GetId(), "error", err)
	}
	return result, nil
}

// accept puts a step into the journal, and answers with its result if it was done
// before. A step that only looks needs no memory: doing it again changes nothing,
// and it is sent again when its result was lost.
func (e *Executor) accept(step *rackv1.Step) (*rackv1.StepResult, error) {
	if !looks(step) {
		return e.cfg.Journal.Accept(step)
	}
	if uid := step.GetVmHostUid(); uid != "" && !e.cfg.Journal.Raise(uid, step.GetEpoch()) {
		return nil, fmt.Errorf("accept step %s: epoch %d: %w", step.GetId(), step.GetEpoch(), journal.ErrStaleEpoch)
	}
	return nil, nil //nolint:nilnil // no result yet is what is expected
}

// looks says whether a step changes nothing on a hypervisor.
func looks(step *rackv1.Step) bool {
	switch step.GetAction().(type) {
	case *rackv1.Step_ObserveMachine, *rackv1.Step_RefreshHost, *rackv1.Step_CheckHost:
		return true
	default:
		return false
	}
}

// admit waits until it is the step's turn and there is room for it.
func (e *Executor) admit(ctx context.Context, h *host, step *rackv1.Step, turn *turn) (release func(), err error) {
	slots := e.checks
	if h != nil {
		slots = h.slots
		if step.GetMoveMachine() != nil {
			slots = h.moves
		}
		select {
		case <-turn.before:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// perform does what the step says, in the time it has.
func (e *Executor) perform(ctx context.Context, h *host, step *rackv1.Step, begunBefore bool) (*rackv1.StepResult, error) {
	if uid := step.GetVmHostUid(); h != nil && step.GetEpoch() < e.cfg.Journal.Epoch(uid) {
		return stale(step, fmt.Errorf("epoch %d is older than %d: %w", step.GetEpoch(), e.cfg.Journal.Epoch(uid), journal.ErrStaleEpoch)), nil
	}
	timeout := step.GetTimeout().AsDuration()
	if timeout <= 0 {
		timeout = usualTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result := &rackv1.StepResult{Id: step.GetId()}
	var err error
	if check := step.GetCheckHost(); check != nil {
		result.Check = e.check(limited, check, step.GetOperation())
	} else {
		err = h.act(limited, step, result, begunBefore)
	}
	if errors.Is(err, errLeave) || ctx.Err() != nil && (err != nil || result.GetCheck() != nil) {
		return nil, errors.Join(err, context.Cause(ctx)) // stopped in the middle: how it ended is not known
	}
	if err != nil && limited.Err() != nil && hypervisor.Class(err) == rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED {
		late := error(&hypervisor.Error{Class: hypervisor.ErrTimeout, Op: actionOf(step), Err: err})
		if f, ok := errors.AsType[*moveError](err); ok {
			late = &moveError{error: late, destination: f.destination, host: f.host}
		}
		err = late
	}
	result.Error = stepError(err)
	return result, nil
}

func stepError(err error) *rackv1.StepError {
	if f, ok := errors.AsType[*moveError](err); ok {
		return f.wire()
	}
	return hypervisor.StepError(err)
}

// begunBefore says whether the rack has begun with a step before, also in another
// life, or may have. Only moves ask.
func (e *Executor) begunBefore(step *rackv1.Step) bool {
	if step.GetMoveMachine() == nil {
		return false
	}
	begun, err := e.cfg.Journal.Accepted(step.GetId())
	return begun || err != nil
}

// act does a step on a host's connection, and fills its result.
func (h *host) act(ctx context.Context, step *rackv1.Step, result *rackv1.StepResult, begunBefore bool) error {
	// Who asks for a refresh has often just mended what was refused.
	conn, err := h.driver(ctx, step.GetRefreshHost() != nil)
	if err != nil && step.GetMoveMachine() != nil {
		return untouched(err, begunBefore)
	}
	if err != nil {
		return err
	}
	var machine *rackv1.MachineObservation
	switch action := step.GetAction().(type) {
	case *rackv1.Step_CreateMachine:
		machine, err = conn.driver.Create(ctx, action.CreateMachine)
	case *rackv1.Step_DeleteMachine:
		err = conn.driver.Delete(ctx, action.DeleteMachine.GetMachine())
	case *rackv1.Step_AdoptMachine:
		machine, err = adopt(ctx, conn.driver, action.AdoptMachine.GetMachine(), step.GetOperation())
	case *rackv1.Step_ReleaseMachine:
		machine, err = release(ctx, conn.driver, action.ReleaseMachine.GetMachine())
	case *rackv1.Step_MoveMachine:
		// What is not reached may be the destination: the source's connection is
		// judged by what else uses it.
		moved, err := h.move(ctx, conn.driver, action.MoveMachine, step.GetOperation(), begunBefore)
		if err != nil {
			return err
		}
		result.Machine, result.Move = moved.Machine, &rackv1.MoveOutcome{How: moved.How, NotLive: moved.NotLive}
		return nil
	case *rackv1.Step_SetPower:
		machine, err = conn.driver.SetPower(ctx, refOf(action.SetPower), action.SetPower.GetAction(), action.SetPower.GetGracePeriod().AsDuration())
	case *rackv1.Step_ObserveMachine:
		machine, err = conn.driver.Machine(ctx, action.ObserveMachine.GetUid())
	case *rackv1.Step_RefreshHost:
		if err = h.inventory(ctx, conn); errors.Is(err, errUnheard) {
			return errLeave // its result must not come before the inventory
		}
	default:
		return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "do step", Err: errors.New("this rack does not know the action"), Hint: "bring the rack to the region's version"}
	}
	if errors.Is(err, hypervisor.ErrUnreachable) {
		conn.lose(err)
	}
	result.Machine = machine
	return err
}

func refOf(p *rackv1.SetPower) hypervisor.Ref {
	return hypervisor.Ref{UID: p.GetUid(), UUID: p.GetHypervisorUuid(), Name: p.GetHypervisorName()}
}

func adopt(ctx context.Context, driver hypervisor.Driver, m *vmhostv1.Machine, operation string) (*rackv1.MachineObservation, error) {
	adopter, ok := driver.(hypervisor.Adopter)
	if !ok {
		return nil, noAdopter("adopt machine")
	}
	return adopter.Adopt(ctx, hypervisor.RefOf(m), operation)
}

func release(ctx context.Context, driver hypervisor.Driver, m *vmhostv1.Machine) (*rackv1.MachineObservation, error) {
	adopter, ok := driver.(hypervisor.Adopter)
	if !ok {
		return nil, noAdopter("release machine")
	}
	return adopter.Release(ctx, hypervisor.RefOf(m))
}

func noAdopter(op string) error {
	return &hypervisor.Error{
		Class: hypervisor.ErrUnsupported, Op: op, Err: errors.New("this driver takes over no machines that it did not make"),
		Hint: "bring the rack to the region's version",
	}
}

func (e *Executor) sendAccepted(ctx context.Context, step *rackv1.Step) {
	_ = e.send(ctx, &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_StepAccepted{StepAccepted: &rackv1.StepAccepted{Id: step.GetId()}}})
}

func stale(step *rackv1.Step, err error) *rackv1.StepResult {
	return &rackv1.StepResult{Id: step.GetId(), Error: &rackv1.StepError{
		Class: rackv1.ErrorClass_ERROR_CLASS_STALE_EPOCH, Message: err.Error(),
	}}
}

// machineOf is what steps are serial on: the hypervisor's uuid of the machine,
// which every action names.
func machineOf(step *rackv1.Step) string {
	switch action := step.GetAction().(type) {
	case *rackv1.Step_CreateMachine:
		return hypervisor.RefOf(action.CreateMachine.GetMachine()).Domain()
	case *rackv1.Step_DeleteMachine:
		return hypervisor.RefOf(action.DeleteMachine.GetMachine()).Domain()
	case *rackv1.Step_AdoptMachine:
		return hypervisor.RefOf(action.AdoptMachine.GetMachine()).Domain()
	case *rackv1.Step_ReleaseMachine:
		return hypervisor.RefOf(action.ReleaseMachine.GetMachine()).Domain()
	case *rackv1.Step_MoveMachine:
		return hypervisor.RefOf(action.MoveMachine.GetMachine()).Domain()
	case *rackv1.Step_SetPower:
		return refOf(action.SetPower).Domain()
	case *rackv1.Step_ObserveMachine:
		return action.ObserveMachine.GetUid()
	default:
		return "the host itself"
	}
}

func actionOf(step *rackv1.Step) string {
	switch step.GetAction().(type) {
	case *rackv1.Step_CreateMachine:
		return "create"
	case *rackv1.Step_DeleteMachine:
		return "delete"
	case *rackv1.Step_AdoptMachine:
		return "adopt"
	case *rackv1.Step_ReleaseMachine:
		return "release"
	case *rackv1.Step_MoveMachine:
		return "move"
	case *rackv1.Step_SetPower:
		return "power"
	case *rackv1.Step_ObserveMachine:
		return "observe"
	case *rackv1.Step_RefreshHost:
		return "refresh"
	case *rackv1.Step_CheckHost:
		return "check"
	default:
		return "unknown"
	}
}

package ctl

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const (
	// secondInterrupt is how long the second Ctrl-C may follow the first.
	secondInterrupt = 2 * time.Second
	// outOfTouch is how long a region may be gone while it is waited for.
	outOfTouch = time.Minute
	// patience is one call to wait; on a terminal a shorter one shows progress.
	patience     = 30 * time.Second
	patienceOnce = time.Second
)

// finish waits for an operation as the flags say and gives it ended well. With
// --async it prints the operation and ends quietly. what is what the operation
// does, such as `start machine web-1`.
func (a *app) finish(ctx context.Context, op *vmhostv1.Operation, what string, f *changeFlags) (*vmhostv1.Operation, error) {
	if f.dryRun {
		fmt.Fprintln(a.stderr, "dry run: the request is valid; nothing was changed")
		if err := a.print(op, op.GetTarget(), func() error { return nil }); err != nil {
			return nil, err
		}
		return nil, f.checked()
	}
	if f.async {
		if err := printRow(a, op, operationColumns(a.now())); err != nil {
			return nil, err
		}
		return nil, quietError{exitOK}
	}
	return a.await(ctx, op, what, f.wait)
}

// waiting is one wait for one operation.
type waiting struct {
	app      *app
	op       *vmhostv1.Operation
	what     string
	line     *progress
	caught   <-chan struct{}
	deadline <-chan time.Time
	asked    bool // to cancel
}

// await waits until an operation has ended. limit 0 waits as long as it takes.
func (a *app) await(ctx context.Context, op *vmhostv1.Operation, what string, limit time.Duration) (*vmhostv1.Operation, error) {
	w := &waiting{app: a, op: op, what: what, line: a.progress()}
	defer w.line.clear()
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		w.deadline = timer.C
	}
	caught, release := a.interrupts.catch()
	defer release()
	w.caught = caught
	for !ended(w.op) {
		if err := w.step(ctx); err != nil {
			return nil, err
		}
	}
	return w.op, w.verdict()
}

// step asks once how far the operation is, and looks after the terminal until
// the answer is there.
func (w *waiting) step(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		op  *vmhostv1.Operation
		err error
	}
	answers := make(chan answer, 1)
	go func() { // ends with the call, which ends with ctx
		op, err := w.ask(ctx)
		answers <- answer{op, err}
	}()
	defer cancel()
	tick := time.NewTicker(120 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case got := <-answers:
			if got.err != nil {
				return w.lost(ctx, got.err)
			}
			w.op = got.op
			return nil
		case <-tick.C:
			w.line.show(w.op, w.what, w.asked)
		case <-w.deadline:
			return w.gaveUp()
		case <-w.caught:
			if err := w.interrupted(ctx); err != nil {
				return err
			}
		}
	}
}

// ask makes one call that waits; while the region is out of touch it tries
// again for a while, because operations outlive a region's restart.
func (w *waiting) ask(ctx context.Context) (*vmhostv1.Operation, error) {
	timeout := patience
	if w.line.on {
		timeout = patienceOnce
	}
	began := w.app.now()
	pause := backoff.Backoff{Min: 200 * time.Millisecond, Max: 5 * time.Second}
	for {
		callCtx, cancel := context.WithTimeout(ctx, timeout+10*time.Second)
		op, err := w.app.api.operations.WaitOperation(callCtx, &vmhostv1.WaitOperationRequest{
			Name: w.op.GetName(), Timeout: durationpb.New(timeout),
		})
		cancel()
		if err == nil || ctx.Err() != nil || !repeatable(err) || w.app.now().Sub(began) > outOfTouch {
			return op, err
		}
		if backoff.Wait(ctx, pause.Next()) != nil {
			return nil, err
		}
	}
}

// lost says that the end of the operation cannot be seen; it goes on all the
// same.
func (w *waiting) lost(ctx context.Context, err error) error {
	if context.Cause(ctx) == errInterrupted { //nolint:errorlint // the cause is that very value
		return errInterrupted
	}
	e := apierror.FromStatus(err)
	if e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded {
		e = e.WithHint("the operation goes on; wait for it again: `%s`", w.again())
	}
	return fail(e, "wait for %s, which is to %s", w.op.GetName(), w.what)
}

func (w *waiting) again() string { return "vmhostctl operation wait " + display.ID(w.op.GetName()) }

func (w *waiting) gaveUp() error {
	e := apierror.New(codes.DeadlineExceeded, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED,
		"%s has not ended in the time of --wait; it goes on (%s)", w.op.GetName(), stands(w.op)).
		WithHint("wait for it again: `%s`", w.again())
	return &failure{what: "stopped waiting to " + w.what, err: e, code: exitStillRunning}
}

// interrupted is the first Ctrl-C: a second one soon after cancels the
// operation, else the command lets go of it.
func (w *waiting) interrupted(ctx context.Context) error {
	stderr := w.app.stderr
	w.line.clear()
	if w.asked {
		fmt.Fprintf(stderr, "%s is being cancelled; see its end with\n  %s\n", w.op.GetName(), w.again())
		return quietError{exitInterrupted}
	}
	if w.line.on {
		fmt.Fprintln(stderr, "letting go; press Ctrl-C again to cancel the operation")
	}
	timer := time.NewTimer(secondInterrupt)
	defer timer.Stop()
	select {
	case <-w.caught:
	case <-timer.C:
		fmt.Fprintf(stderr, "%s goes on; see its end with\n  %s\n", w.op.GetName(), w.again())
		return quietError{exitInterrupted}
	}
	fmt.Fprintf(stderr, "cancelling %s\n", w.op.GetName())
	w.asked = true
	_, err := call(ctx, w.app.api.operations.CancelOperation, &vmhostv1.CancelOperationRequest{Name: w.op.GetName()})
	return fail(err, "cancel %s", w.op.GetName())
}

// verdict is nil when the operation ended well.
func (w *waiting) verdict() error {
	switch w.op.GetPhase() {
	case vmhostv1.OperationPhase_OPERATION_PHASE_FAILED:
		return &failure{what: "cannot " + w.what, err: operationError(w.op), code: exitFailed}
	case vmhostv1.OperationPhase_OPERATION_PHASE_CANCELLED:
		e := apierror.New(codes.Canceled, vmhostv1.ErrorReason_CANCELLED, "%s was cancelled; nothing was left behind", w.op.GetName()).
			WithHint("give the command again if that was not meant")
		return &failure{what: "cannot " + w.what, err: e, code: exitStillRunning}
	default:
		return nil
	}
}

func operationError(op *vmhostv1.Operation) *apierror.Error {
	in := op.GetError()
	e := apierror.New(codes.Code(in.GetCode()), vmhostv1.ErrorReason(vmhostv1.ErrorReason_value[in.GetReason()]), "%s", in.GetMessage())
	if e.Code == codes.OK {
		e.Code = codes.Unknown
	}
	if e.Message == "" {
		e.Message = op.GetName() + " failed"
	}
	for k, v := range in.GetMetadata() {
		e = e.With(k, v)
	}
	e.Hint = in.GetHint()
	return e.With("operation", op.GetName())
}

func ended(op *vmhostv1.Operation) bool {
	switch op.GetPhase() {
	case vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED, vmhostv1.OperationPhase_OPERATION_PHASE_FAILED,
		vmhostv1.OperationPhase_OPERATION_PHASE_CANCELLED:
		return true
	default:
		return false
	}
}

// stands is where an operation stands, in a few words.
func stands(op *vmhostv1.Operation) string {
	s := display.Word(op.GetPhase(), "OPERATION_PHASE_")
	if step := currentStep(op); step != "" {
		s += ", step " + step
	}
	if op.GetMessage() != "" {
		s += ": " + op.GetMessage()
	}
	return s
}

func currentStep(op *vmhostv1.Operation) string {
	for _, step := range op.GetSteps() {
		if !step.GetDone() {
			return step.GetVerb()
		}
	}
	return ""
}

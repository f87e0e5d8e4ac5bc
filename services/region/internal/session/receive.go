package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/inventory"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// receive handles what the rack sends, in order, until the stream ends.
func (ss *session) receive(ctx context.Context) {
	parts := inventory.NewAssembler()
	first := true
	for {
		m, err := ss.stream.Recv()
		if err != nil {
			ss.end(vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "the stream ended")
			return
		}
		ss.heard()
		hello := m.GetHello()
		switch {
		case first && hello != nil:
			first = false
			ss.hello <- hello
			continue
		case first || hello != nil:
			ss.end(vmhostv1.ErrorReason_INVALID_FIELD, "a session begins with one Hello and has no other")
			return
		}
		if m.GetHeartbeat() != nil {
			continue
		}
		err = ss.apart(func() error { return ss.handle(ctx, parts, m) })
		if err != nil && ctx.Err() == nil && ss.again(ctx, m, err) {
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				ss.log().WarnContext(ctx, "what the rack sent could not be recorded", "error", err)
			}
			// The rack sends it again in its next session.
			ss.end(vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the region could not record what the rack sent")
			return
		}
	}
}

// apart does something in a goroutine of its own, which has ended when it answers.
// What reads and writes the store needs a deep stack for a moment; the session's
// goroutines wait for hours, and a stack that has grown hardly shrinks.
func (ss *session) apart(do func() error) error {
	done := make(chan error, 1)
	ss.server.workers.Go(func() { done <- do() })
	return <-done
}

// handle does one message. Its error means that the state store did not take it.
func (ss *session) handle(ctx context.Context, parts *inventory.Assembler, m *rackv1.ConnectRequest) error {
	inv := ss.server.cfg.Inventory
	switch m := m.GetMessage().(type) {
	case *rackv1.ConnectRequest_HostStatus:
		return ss.persist(ctx, func() error { return inv.Status(ctx, ss.rack, m.HostStatus) })
	case *rackv1.ConnectRequest_HostInventory:
		if report := parts.Add(m.HostInventory); report != nil {
			return ss.persist(ctx, func() error { return inv.Report(ctx, ss.rack, report) })
		}
	case *rackv1.ConnectRequest_MachineChange:
		return ss.persist(ctx, func() error { return inv.Change(ctx, ss.rack, m.MachineChange) })
	case *rackv1.ConnectRequest_StepAccepted:
		ss.log().DebugContext(ctx, "step accepted", "step", clip(m.StepAccepted.GetId()))
	case *rackv1.ConnectRequest_StepResult:
		return ss.result(ctx, m.StepResult)
	default: // something of a newer version
	}
	return nil
}

// again asks for the host of a report whole, because what was sent could not be
// recorded; false when the message is no report. The rack answers that ever more
// seldom, so that nothing loops.
func (ss *session) again(ctx context.Context, m *rackv1.ConnectRequest, failure error) bool {
	var name string
	var epoch int64
	switch m := m.GetMessage().(type) {
	case *rackv1.ConnectRequest_HostStatus:
		name, epoch = m.HostStatus.GetVmHost(), m.HostStatus.GetEpoch()
	case *rackv1.ConnectRequest_HostInventory:
		name, epoch = m.HostInventory.GetVmHost(), m.HostInventory.GetEpoch()
	case *rackv1.ConnectRequest_MachineChange:
		name, epoch = m.MachineChange.GetVmHost(), m.MachineChange.GetEpoch()
	default:
		return false
	}
	host := strings.TrimPrefix(name, "vmHosts/")
	a, ok := store.Assignments.Get(ss.server.store.Cached(), host)
	if !ok || a.Revision != epoch || a.Value.GetRack() != ss.rack {
		return true // it does not count any more
	}
	level := slog.LevelWarn
	if errors.Is(failure, inventory.ErrReportAgain) {
		level = slog.LevelInfo
	}
	ss.log().Log(ctx, level, "a report could not be recorded, asking for the host whole", "vm_host", name, "epoch", epoch, "error", failure)
	return ss.queue(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_ReportAgain{
		ReportAgain: &rackv1.ReportAgain{Uid: a.Value.GetVmHostUid(), Epoch: epoch},
	}})
}

// result records a result, first the machine it tells of, and acknowledges it.
func (ss *session) result(ctx context.Context, res *rackv1.StepResult) error {
	err := ss.persist(ctx, func() error {
		if res.GetMachine() != nil {
			uid, _, _ := strings.Cut(res.GetId(), "/")
			if op, ok := store.Operations.Get(ss.server.store.Cached(), uid); ok && op.Value.GetResource().GetVmHost() != "" {
				if err := ss.server.cfg.Inventory.Observe(ctx, ss.rack, observedOn(op.Value), res.GetMachine()); err != nil {
					return err
				}
			}
		}
		return ss.server.cfg.Results.Result(ctx, ss.rack, res)
	})
	if err != nil {
		return fmt.Errorf("record the result of step %s: %w", clip(res.GetId()), err)
	}
	ss.queue(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_StepResultAck{StepResultAck: &rackv1.StepResultAck{Id: res.GetId()}}})
	return nil
}

// observedOn is the host that the result of the operation's step tells of: a
// machine that was moved is seen at its destination.
func observedOn(op *storev1.StoredOperation) string {
	if i := int(op.GetStep()); i < len(op.GetPlan()) {
		if to := op.GetPlan()[i].GetMoveMachine().GetDestination(); to != nil {
			return to.GetVmHost()
		}
	}
	return op.GetResource().GetVmHost()
}

// persist tries a write a few times: a store that changes its leader is back in
// a moment, and ending the session costs a whole inventory.
func (ss *session) persist(ctx context.Context, write func() error) error {
	const tries = 4
	retry := backoff.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for try := 1; ; try++ {
		err := write()
		if err == nil || try == tries || errors.Is(err, inventory.ErrReportAgain) {
			return err
		}
		if backoff.Wait(ctx, retry.Next()) != nil {
			return err
		}
	}
}

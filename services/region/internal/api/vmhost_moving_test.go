package api_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// A host stays as long as a machine is being moved to it, or may be there. Whoever
// gives a lost one up gives up those moves.
func TestAHostStaysWhileAMoveGoesToIt_P4(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	from, to := f.addHost(ctx, "h1"), f.addHost(ctx, "h2")
	f.ready(from)
	f.ready(to)
	name := f.compose(ctx, "").GetTarget()
	f.settle(name)
	m, err := f.mach.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	source, destination := m.GetVmHost(), "vmHosts/h1"
	if source == destination {
		destination = "vmHosts/h2"
	}
	op, err := f.mach.MoveMachine(ctx, &vmhostv1.MoveMachineRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	for _, forget := range []bool{false, true} {
		_, err := f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: destination, Forget: forget})
		wantReason(t, "the destination of a move under way", err, codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY)
	}
	// As it is left when nobody could say where the machine is.
	uid := name[len("machines/"):]
	rec, _ := store.Machines.Get(f.store.Cached(), uid)
	open := proto.CloneOf(rec.Value)
	open.Resource.Operation = ""
	tx := store.NewTxn()
	store.Put(tx, store.Machines, open, uid)
	tx.Delete(store.Operations.Key(op.GetName()[len("operations/"):]))
	if _, err := f.store.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	_, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: destination})
	wantReason(t, "the destination of an open move", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	_, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: source, Forget: true})
	wantReason(t, "the source of an open move", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	if _, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: destination, Forget: true}); err != nil {
		t.Fatal(err)
	}
	rec, ok := store.Machines.Get(f.store.Cached(), uid)
	if !ok || rec.Value.GetMove() != nil || rec.Value.GetResource().GetVmHost() != source {
		t.Errorf("the machine is %v", rec.Value)
	}
	if _, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: source, Forget: true}); err != nil {
		t.Errorf("the source afterwards: %v", err)
	}
}

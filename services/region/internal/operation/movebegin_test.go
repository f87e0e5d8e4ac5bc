package operation

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func TestMovesThatCannotBeAreRefusedWithTheReason(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	found := w.legacy(found("legacy", 1))[0]
	e := w.mover()
	for _, tt := range []struct {
		word    string
		prepare func()
		req     *moveRequest
		reason  vmhostv1.ErrorReason
		hint    string // of NO_CAPACITY
	}{
		{"unknown machine", nil, &moveRequest{Name: "machines/none"}, vmhostv1.ErrorReason_NOT_FOUND, ""},
		{"unknown host", nil, &moveRequest{Name: name, VmHost: "vmHosts/none"}, vmhostv1.ErrorReason_NOT_FOUND, ""},
		{"malformed host", nil, &moveRequest{Name: name, VmHost: "h2"}, vmhostv1.ErrorReason_INVALID_FIELD, ""},
		{"its own host", nil, &moveRequest{Name: name, VmHost: "vmHosts/h"}, vmhostv1.ErrorReason_INVALID_FIELD, ""},
		{"discovered", nil, &moveRequest{Name: found}, vmhostv1.ErrorReason_FOREIGN_OBJECT, ""},
		{"changed since", nil, &moveRequest{Name: name, Etag: "1"}, vmhostv1.ErrorReason_ETAG_MISMATCH, ""},
		{"something with its uuid is there", func() { w.see("h2", name, 0) }, &moveRequest{Name: name, VmHost: "vmHosts/h2"}, vmhostv1.ErrorReason_NO_CAPACITY, "name another destination or none, or put that right, or add a host"},
		{"cordoned", func() { w.unsee("h2", name); w.change("h2", func(h *vmhostv1.VmHost) { h.Cordoned = true }) }, &moveRequest{Name: name, VmHost: "vmHosts/h2"}, vmhostv1.ErrorReason_NO_CAPACITY, "name another destination or none, or uncordon a host, or add one"},
		{"no room", func() { w.change("h2", func(h *vmhostv1.VmHost) { h.Cordoned, h.ReservedCores = false, 100 }) }, &moveRequest{Name: name}, vmhostv1.ErrorReason_NO_CAPACITY, "add a larger host; a ratio makes no host larger"},
		{"another kind of host", func() {
			w.change("h2", func(h *vmhostv1.VmHost) { h.ReservedCores, h.Type = 0, vmhostv1.VmHostType_VM_HOST_TYPE_LXD })
			w.change("h", func(h *vmhostv1.VmHost) { h.Type = vmhostv1.VmHostType_VM_HOST_TYPE_FAKE })
		}, &moveRequest{Name: name}, vmhostv1.ErrorReason_NO_CAPACITY, "add a host of type fake"},
		{"not reached by the rack", func() {
			w.change("h2", func(h *vmhostv1.VmHost) {
				h.Type, h.Address = vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, "qemu+unix://h2/system"
			})
		}, &moveRequest{Name: name}, vmhostv1.ErrorReason_NO_CAPACITY, "put that right, or add a host"},
		{"busy", func() {
			w.change("h2", func(h *vmhostv1.VmHost) { h.Address = "fake://h2" })
			w.move(name)
		}, &moveRequest{Name: name}, vmhostv1.ErrorReason_MACHINE_BUSY, ""},
	} {
		if tt.prepare != nil {
			tt.prepare()
		}
		for _, dry := range []bool{true, false} {
			req := proto.CloneOf(tt.req)
			req.ValidateOnly = dry
			op, err := e.Move(t.Context(), "alice", req)
			if dry && tt.reason == vmhostv1.ErrorReason_NO_CAPACITY {
				plan := &vmhostv1.ComposePlan{}
				if err != nil || op.GetResponse().UnmarshalTo(plan) != nil || plan.GetPlacement().GetVmHost() != "" || len(plan.GetPlacement().GetRefusals()) == 0 || plan.GetPlacement().GetHint() != tt.hint {
					t.Errorf("%s, dry: %v, %v", tt.word, op, err)
				}
				continue
			}
			if hint := "the machine stays where it is; " + tt.hint + "; a dry run of the move explains every host"; tt.hint != "" && apierror.FromStatus(err).Hint != hint {
				t.Errorf("%s: %q, want %q", tt.word, apierror.FromStatus(err).Hint, hint)
			}
			if apierror.Reason(err) != tt.reason || apierror.FromStatus(err).Message == "" {
				t.Errorf("%s, dry %v: %v (%v)", tt.word, dry, err, apierror.Reason(err))
			}
		}
	}
	if got := w.holds(); got != [2]int32{1, 1} {
		t.Errorf("%v machines hold room", got)
	}
}

// One that runs and cannot be moved so is refused, unless it may be stopped.
func TestARunningMachineThatCannotMoveLiveNeedsLeaveToStop(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	for _, h := range []string{"h", "h2"} {
		w.change(h, func(h *vmhostv1.VmHost) { h.Type = vmhostv1.VmHostType_VM_HOST_TYPE_LXD })
	}
	tx := store.NewTxn()
	s, _ := store.Sessions.Get(w.store.Cached(), "r1")
	session := proto.CloneOf(s.Value)
	session.Drivers = append(session.Drivers, "lxd")
	session.Movers = session.GetDrivers()
	store.Put(tx, store.Sessions, session, "r1")
	for _, h := range []string{"h", "h2"} {
		o, _ := store.Observed.Get(w.store.Cached(), h)
		next := proto.CloneOf(o.Value)
		next.Observation.Capabilities = []string{"virtual-machines"}
		store.Put(tx, store.Observed, next, h)
	}
	w.put(tx)
	w.see("h", name, vmhostv1.PowerState_POWER_STATE_ON)
	if _, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name}); apierror.Reason(err) != vmhostv1.ErrorReason_WRONG_STATE || !strings.Contains(apierror.FromStatus(err).Hint, "allow_offline") {
		t.Errorf("moved while it runs: %v", err)
	}
	op, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name, AllowOffline: true})
	if err != nil {
		t.Fatal(err)
	}
	if move := w.operation(op.GetName()).GetPlan()[0].GetMoveMachine(); move.GetLive() || !move.GetAllowOffline() || move.GetGracePeriod().AsDuration() != time.Minute {
		t.Errorf("step %v", move)
	}
}

// What a rack cannot do is said before anything is begun, and so is a destination
// that is the source.
func TestNothingIsMovedWhereNoRackMovesIt(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	lxd := func(h *vmhostv1.VmHost) {
		h.Type, h.HostKey = vmhostv1.VmHostType_VM_HOST_TYPE_LXD, "tls-sha256:one"
	}
	w.change("h", lxd)
	w.change("h2", lxd)
	for word, want := range map[string]string{"lxdc1": "same LXD server", "lxdc2": "moves no machines between hosts of this kind"} {
		tx := store.NewTxn()
		for host, member := range map[string]string{"h": "lxdc1", "h2": word} {
			o, _ := store.Observed.Get(w.store.Cached(), host)
			next := proto.CloneOf(o.Value)
			next.Observation.ClusterMember, next.Observation.Capabilities = member, []string{"virtual-machines"}
			store.Put(tx, store.Observed, next, host)
		}
		w.put(tx)
		_, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name})
		if apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), want) {
			t.Errorf("h2 is on %s: %v, want %q", word, err, want)
		}
	}
}

// A libvirt machine does not become one of LXD, nor the other way round: placement
// says so of the host, and not the rack when it is asked.
func TestAMachineStaysOneOfItsKindOfHypervisor(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	w.change("h", func(h *vmhostv1.VmHost) { h.Type = vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT })
	w.change("h2", func(h *vmhostv1.VmHost) { h.Type = vmhostv1.VmHostType_VM_HOST_TYPE_LXD })
	_, err := w.mover().Move(t.Context(), "alice", &moveRequest{Name: name})
	if apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), "is a host of type lxd; the machine is one of libvirt and cannot become another") {
		t.Errorf("moved to another kind of hypervisor: %v", err)
	}
}

// A request_id moves a machine once, and a dry run takes nothing.
func TestAMoveIsRepeatedByItsRequestIDAndPlannedWithoutATrace_P2(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	e := w.mover()
	before := w.store.Cached().Revision
	op, err := e.Move(t.Context(), "alice", &moveRequest{Name: name, ValidateOnly: true})
	plan := &vmhostv1.ComposePlan{}
	if err != nil || op.GetName() != "" || op.GetResponse().UnmarshalTo(plan) != nil || plan.GetPlacement().GetVmHost() != "vmHosts/h2" || plan.GetMachine().GetVmHost() != "vmHosts/h2" {
		t.Errorf("dry run: %v, %v", op, err)
	}
	if v, _ := w.store.View(t.Context()); v.Revision != before {
		t.Error("a dry run wrote something")
	}
	req := &moveRequest{Name: name, RequestId: uuid.NewString()}
	first, err := e.Move(t.Context(), "alice", req)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.Move(t.Context(), "alice", req); err != nil || again.GetName() != first.GetName() {
		t.Errorf("repeated: %v, %v", again, err)
	}
	req.AllowOffline = true
	if _, err := e.Move(t.Context(), "alice", req); apierror.Reason(err) != vmhostv1.ErrorReason_REQUEST_ID_REUSED {
		t.Errorf("another request: %v", err)
	}
	if got := w.holds(); got != [2]int32{1, 1} {
		t.Errorf("%v machines hold room", got)
	}
}

// Room is given to one of two that want it at once.
func TestAMoveDecidedOnWhatChangedMeanwhileIsDecidedAgain_P1(t *testing.T) {
	w := newWorld(t)
	name := w.made()
	e := w.mover()
	tries := 0
	e.commit = func(ctx context.Context, tx *store.Txn) (int64, error) {
		if tries++; tries == 1 {
			w.change("h2", func(h *vmhostv1.VmHost) { h.Cordoned = true }) //nolint:contextcheck // the test's
		}
		return w.store.Commit(ctx, tx)
	}
	if _, err := e.Move(t.Context(), "alice", &moveRequest{Name: name}); apierror.Reason(err) != vmhostv1.ErrorReason_NO_CAPACITY || tries != 1 {
		t.Errorf("moved to a host that was cordoned meanwhile: %v, %d commits", err, tries)
	}
	if got := w.holds(); got != [2]int32{1, 0} || w.stored(name).GetMove() != nil {
		t.Errorf("%v machines hold room", got)
	}
}

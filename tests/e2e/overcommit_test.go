package e2e

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// P1 on LXD: limit = physical × ratio, rounded down; what other instances of the
// server use counts, also those of other projects and those that are off; of
// machines for which there is room, exactly as many are made as fit.
func TestP1OvercommitOnLXDCountsInstancesOfOtherProjects(t *testing.T) {
	h, other := lxdProject(t, "lxd3", "ratios"), lxdProject(t, "lxd3", "neighbour")
	s := newStandalone(t)
	s.addLXD(h)
	v := s.vmHost(h.name)
	cores, memory := v.GetObservation().GetCores(), v.GetObservation().GetMemoryMib()
	set := func(cores, memory float64) *vmhostv1.VmHostUsage {
		t.Helper()
		s.mustCtl("vm-host", "update", h.name, "--overcommit", fmt.Sprintf("cores=%v,memory=%v", cores, memory))
		return s.vmHost(h.name).GetUsage()
	}
	for _, ratio := range []float64{1, 0.5, 10, 5.5, 0} {
		u := set(ratio, ratio)
		if got, want := u.GetCores().GetLimit(), int64(math.Floor(float64(cores)*ratio+1e-6)); got != want {
			t.Errorf("%d cores at ratio %v: limit %d, want %d", cores, ratio, got, want)
		}
		if got, want := u.GetMemoryMib().GetLimit(), int64(math.Floor(float64(memory)*ratio+1e-6)); got != want {
			t.Errorf("%d MiB at ratio %v: limit %d, want %d", memory, ratio, got, want)
		}
	}
	set(10, 10)
	if _, errs, code := s.ctl("machine", "compose", "larger", "--vm-host", h.name, "--container", "--image", "tiny", "--memory", "64MiB", "--disk", "10MB",
		"--cores", fmt.Sprint(cores+1)); code != 8 {
		t.Errorf("a machine larger than its host at ratio 10: exit code %d\n%s", code, errs)
	}

	// Somebody else's: one in a project that vmhost knows nothing of, one in ours.
	before := v.GetUsage()
	other.init(t, "neighbour", "limits.cpu=1", "limits.memory=96MiB")
	h.init(t, "byhand", "limits.cpu=2", "limits.memory=32MiB")
	s.mustCtl("vm-host", "refresh", h.name)
	u := s.vmHost(h.name).GetUsage()
	if c, m := u.GetCores().GetForeign()-before.GetCores().GetForeign(), u.GetMemoryMib().GetForeign()-before.GetMemoryMib().GetForeign(); c != 3 || m != 128 {
		t.Fatalf("the instances of others count as %d cores and %d MiB", c, m)
	}

	// Room for four machines of 2 cores and 64 MiB beside them, and not for a
	// fifth: first by cores, then by memory.
	machineCores := min(2, int64(cores))
	coreLimit, memoryLimit := u.GetCores().GetForeign()+4*machineCores, u.GetMemoryMib().GetForeign()+4*64
	u = set((float64(coreLimit)+0.5)/float64(cores), (float64(memoryLimit)+0.5)/float64(memory))
	if u.GetCores().GetFree() != 4*machineCores || u.GetMemoryMib().GetFree() != 4*64 {
		t.Fatalf("room for four is %v", u)
	}
	api := s.grpc()
	type answer struct {
		op  *vmhostv1.Operation
		err error
	}
	answers := make(chan answer)
	const asked = 12
	for i := range asked {
		go func() {
			op, err := api.Machines.ComposeMachine(t.Context(), &vmhostv1.ComposeMachineRequest{
				Hostname: fmt.Sprintf("many-%d", i), Cores: int32(machineCores), MemoryMib: 64, RequestId: uuid.NewString(),
				Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER, Image: "tiny", Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}},
			})
			answers <- answer{op, err}
		}()
	}
	var accepted []*vmhostv1.Operation
	for range asked {
		a := <-answers
		if a.err == nil {
			accepted = append(accepted, a.op)
		} else if !strings.Contains(a.err.Error(), "used by others") {
			t.Errorf("a refusal does not say what others use: %v", a.err)
		}
	}
	if len(accepted) != 4 {
		t.Errorf("%d of %d were accepted, there is room for 4", len(accepted), asked)
	}
	for _, op := range accepted {
		if op = finish(t, api, op); op.GetError() != nil {
			t.Errorf("%s: %v", op.GetTarget(), op.GetError())
		}
	}
	u = s.vmHost(h.name).GetUsage()
	if u.GetCores().GetCommitted() != 4*machineCores || u.GetCores().GetFree() != 0 || u.GetMemoryMib().GetFree() != 0 {
		t.Errorf("with four: %v", u)
	}
	if got := strings.Count(h.instances(t), "many-"); got != 4 {
		t.Errorf("%d are on the server:\n%s", got, h.instances(t))
	}
	// What the neighbour gives up is there for others, and not before.
	other.lxc(t, "delete", "neighbour")
	s.mustCtl("vm-host", "refresh", h.name)
	if u := s.vmHost(h.name).GetUsage(); u.GetCores().GetFree() != 1 || u.GetMemoryMib().GetFree() != 96 {
		t.Errorf("without the neighbour: %v", u)
	}
	s.mustCtl("vm-host", "remove", h.name, "--decompose", "--yes")
	if got := h.instances(t); got != "byhand,STOPPED" {
		t.Errorf("left on the server: %s", got)
	}
}

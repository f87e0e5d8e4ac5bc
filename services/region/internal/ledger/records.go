package ledger

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

// How long a compose and its steps may take. A create can copy a large image or
// wait for a pool that others write to; a start only for the hypervisor.
const (
	composeDeadline = 30 * time.Minute
	createTimeout   = 10 * time.Minute
	startTimeout    = 2 * time.Minute
)

// newMachine is the record of a machine with every decision made.
func (w *want) newMachine(plan *placement.Plan, hostname string) *storev1.StoredMachine {
	h, boot := plan.Host, w.boot()
	m := &vmhostv1.Machine{
		Name:           "machines/" + w.uid,
		Uid:            w.uid,
		CreateTime:     timestamppb.New(w.now),
		UpdateTime:     timestamppb.New(w.now),
		Hostname:       hostname,
		Origin:         vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED,
		VmHost:         "vmHosts/" + h.ID,
		Zone:           "zones/" + h.Zone,
		ResourcePool:   "resourcePools/" + w.place.ResourcePool,
		HypervisorName: hypervisorName(hostname, w.place.ResourcePool),
		HypervisorUuid: w.uid,
		Architecture:   plan.Architecture,
		Cores:          w.place.Cores,
		MemoryMib:      w.place.MemoryMiB,
		Tags:           w.req.GetTags(),
		Phase:          vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING,
		Operation:      "operations/" + w.operationUID,
		Type:           w.place.Type,
		PinnedCores:    plan.PinnedCores,
		Group:          w.place.Group,
		Hugepages:      w.place.Hugepages,
		Firmware:       w.req.GetFirmware(),
		SecureBoot:     w.place.SecureBoot,
		Profiles:       w.place.Profiles,
		Image:          w.place.Image,
		Autostart:      w.req.GetAutostart(),
	}
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		m.HypervisorName, m.Project = instanceName(hostname, w.place.ResourcePool), h.Project
	}
	for i, d := range w.place.Disks {
		m.Disks = append(m.Disks, &vmhostv1.MachineDisk{
			StoragePool: plan.Pools[i], Volume: "vmhost-" + w.uid + "-" + strconv.Itoa(i), SizeBytes: d.SizeBytes,
			Boot: i == boot.disk, Tags: d.Tags,
		})
	}
	for i, n := range plan.Networks {
		out := &vmhostv1.MachineInterface{Mac: w.macs[i], Source: n.Source, Kind: n.Kind, Vlan: n.VLAN, Boot: i == boot.network}
		if a := w.place.Interfaces[i].Address; a.IsValid() {
			out.FixedAddress = a.String()
		}
		if n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN {
			out.MacvlanMode = macvlanMode(w.req.GetInterfaces()[i].GetMacvlanMode(), h.MacvlanMode)
		}
		m.Interfaces = append(m.Interfaces, out)
	}
	return &storev1.StoredMachine{Resource: m, Commitment: w.commitment(plan), Autostart: w.req.GetAutostart(), Placement: w.asked()}
}

// commitment is all that the machine takes of its host.
func (w *want) commitment(plan *placement.Plan) *storev1.Commitment {
	c := plan.Commitment(&w.place)
	if w.place.Group != "" {
		c.Groups = map[string]int32{placement.GroupKey(w.place.ResourcePool, w.place.Group): 1}
	}
	return c
}

func macvlanMode(asked, host vmhostv1.MacvlanMode) vmhostv1.MacvlanMode {
	for _, m := range []vmhostv1.MacvlanMode{asked, host} {
		if m != vmhostv1.MacvlanMode_MACVLAN_MODE_UNSPECIFIED {
			return m
		}
	}
	return vmhostv1.MacvlanMode_MACVLAN_MODE_BRIDGE
}

// record is the operation that makes the machine, with all its steps.
func (w *want) record(m *storev1.StoredMachine, hostUID string) *storev1.StoredOperation {
	r := m.GetResource()
	op := &storev1.StoredOperation{
		MachineUid: w.uid,
		Resource: &vmhostv1.Operation{
			Name:         r.GetOperation(),
			Verb:         vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE,
			Target:       r.GetName(),
			Phase:        vmhostv1.OperationPhase_OPERATION_PHASE_PENDING,
			Message:      "waiting for a rack",
			VmHost:       r.GetVmHost(),
			Principal:    w.principal,
			RequestId:    w.id.RequestID(),
			CreateTime:   r.GetCreateTime(),
			UpdateTime:   r.GetCreateTime(),
			DeadlineTime: timestamppb.New(w.now.Add(composeDeadline)),
		},
	}
	step := func(verb string, s *rackv1.Step) {
		s.Operation, s.VmHost, s.VmHostUid = r.GetOperation(), r.GetVmHost(), hostUID
		op.Plan = append(op.Plan, s)
		op.Resource.Steps = append(op.Resource.Steps, &vmhostv1.OperationStep{Verb: verb})
	}
	step("create", &rackv1.Step{
		Timeout: durationpb.New(createTimeout),
		Action: &rackv1.Step_CreateMachine{CreateMachine: &rackv1.CreateMachine{
			Machine: wireMachine(r), Autostart: m.GetAutostart(),
		}},
	})
	if w.req.GetStart() {
		step("start", &rackv1.Step{
			Timeout: durationpb.New(startTimeout),
			Action:  &rackv1.Step_SetPower{SetPower: &rackv1.SetPower{Uid: w.uid, HypervisorName: r.GetHypervisorName(), Action: rackv1.PowerAction_POWER_ACTION_START}},
		})
	}
	return op
}

// wireMachine is what a rack needs of a machine, and nothing else.
func wireMachine(r *vmhostv1.Machine) *vmhostv1.Machine {
	return &vmhostv1.Machine{
		Name: r.GetName(), Uid: r.GetUid(), Hostname: r.GetHostname(), HypervisorName: r.GetHypervisorName(),
		HypervisorUuid: r.GetHypervisorUuid(), Architecture: r.GetArchitecture(), Cores: r.GetCores(), MemoryMib: r.GetMemoryMib(),
		Disks: r.GetDisks(), Interfaces: r.GetInterfaces(), Operation: r.GetOperation(), VmHost: r.GetVmHost(),
		Type: r.GetType(), PinnedCores: r.GetPinnedCores(), Hugepages: r.GetHugepages(), Firmware: r.GetFirmware(), SecureBoot: r.GetSecureBoot(),
		Profiles: r.GetProfiles(), Image: r.GetImage(), Project: r.GetProject(), Autostart: r.GetAutostart(),
	}
}

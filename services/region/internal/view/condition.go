package view

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// The conditions of hosts that are shown.
const (
	// conditionReachable says whether the host is reached.
	conditionReachable = "Reachable"
	// conditionOvercommitted: more is in use than the limits allow.
	conditionOvercommitted = "Overcommitted"
	// conditionMembersMissing: members of the host's cluster have no VM host.
	conditionMembersMissing = "ClusterMembersMissing"
)

func noRack(h *vmhostv1.VmHost) *vmhostv1.Condition {
	c := &vmhostv1.Condition{
		Type:    conditionReachable,
		Reason:  vmhostv1.ErrorReason_NO_RACK.String(),
		Message: "no rack that could drive the host is connected",
		Hint:    "start a rack near it; `vmhostctl rack list` shows which are connected",
	}
	if h.GetAssignedRack() != "" {
		c.Message = h.GetAssignedRack() + ", which drives the host, is not connected"
		c.Hint = "start it again; after a while another rack that can reach the host takes over"
	}
	return c
}

// setCondition replaces the condition of the same type.
func setCondition(h *vmhostv1.VmHost, c *vmhostv1.Condition) {
	for i, old := range h.GetConditions() {
		if old.GetType() == c.GetType() {
			h.Conditions[i] = c
			return
		}
	}
	h.Conditions = append(h.Conditions, c)
}

// overcommitted is the condition of a host that has more in use than its limits
// allow, by its usage; nil when it has not. Nobody is to blame and nothing is
// lost: the hardware shrank, machines of others came, or a ratio was lowered.
func overcommitted(h *vmhostv1.VmHost) *vmhostv1.Condition {
	if h.GetObservation() == nil {
		return nil // nothing is known of it
	}
	var over []string
	full := false // the host itself
	check := func(what string, measure units.Measure, u *vmhostv1.ResourceUsage, own bool) {
		if u.GetCommitted()+u.GetForeign() > u.GetLimit() {
			full = full || own
			said := measure.Say(units.Need(u.GetCommitted()), units.Need(u.GetForeign()), units.Room(u.GetLimit()), units.Room(u.GetPhysical()), units.Need(u.GetReserved()))
			over = append(over, fmt.Sprintf("%s: %s committed and %s of others, limit %s (%s there, %s reserved, ratio %g)",
				what, said[0], said[1], said[2], said[3], said[4], u.GetRatio()))
		}
	}
	check("cores", units.Count, h.GetUsage().GetCores(), true)
	check("memory", units.MiB, h.GetUsage().GetMemoryMib(), true)
	storage := h.GetUsage().GetStorageBytes()
	for _, pool := range slices.Sorted(maps.Keys(storage)) {
		if s := h.GetUsage().GetSharedStorage()[pool]; s != nil {
			check(fmt.Sprintf("storage pool %s (%s, which %d hosts share)", pool, s.GetIdentity(), s.GetVmHosts()), units.Bytes, storage[pool], false)
			continue
		}
		check("storage pool "+pool, units.Bytes, storage[pool], true)
	}
	if len(over) == 0 {
		return nil
	}
	if !full {
		return &vmhostv1.Condition{
			Type: conditionOvercommitted, Status: true, Message: strings.Join(over, "; "),
			Hint: "nothing new is put into it on any host, and nothing that is there is touched; remove machines, make it larger, or raise the ratio of hosts",
		}
	}
	return &vmhostv1.Condition{
		Type: conditionOvercommitted, Status: true, Message: strings.Join(over, "; "),
		Hint: "nothing new is placed here, and nothing that is here is touched; remove machines, or raise the ratio with `vmhostctl vm-host update " + id(h.GetName()) + "`",
	}
}

// membersMissing is the condition of a host of a cluster that has members without
// a VM host; nil when all have one.
func membersMissing(v *store.View, h *vmhostv1.VmHost) *vmhostv1.Condition {
	o := h.GetObservation()
	if len(o.GetClusterMembers()) == 0 {
		return nil
	}
	group := h.GetClusterGroup()
	if group == "" {
		group = id(h.GetName())
	}
	there := map[string]bool{o.GetClusterMember(): true, h.GetClusterMember(): true}
	if len(o.GetClusterMembers()) > 1 { // else nobody else can be missing
		for _, r := range store.VmHosts.All(v) {
			if other := r.Value.GetResource(); other.GetClusterGroup() == group && other.GetProject() == h.GetProject() {
				there[other.GetClusterMember()] = true
			}
		}
	}
	var missing []string
	for _, m := range o.GetClusterMembers() {
		if !there[m.GetName()] {
			missing = append(missing, m.GetName())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return &vmhostv1.Condition{
		Type: conditionMembersMissing, Status: true,
		Message: "no VM host of this deployment stands for the cluster members " + strings.Join(missing, ", ") + ": what runs there is neither seen nor placed",
		Hint:    "add them with `vmhostctl vm-host add-cluster-members " + id(h.GetName()) + "`",
	}
}

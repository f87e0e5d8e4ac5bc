// Package view shows resources as the API answers with them: what users asked
// for, merged with what was observed, committed and assigned. It is the one place
// where records of several families become one resource. It only reads
// snapshots, and what it answers with is the caller's to change.
package view

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Fleets know the hosts of a view as placement sees them, see ledger.Ledger.
type Fleets interface {
	// Fleet is the fleet at a view.
	Fleet(v *store.View) *placement.Fleet
}

// VmHost is a host as the API shows it: what the operator asked for, what
// the hypervisor reported, what is committed, and who drives it. In storage pools
// that it shares is what all who share them have in them, which fleets knows; nil:
// nobody knows, and it is what the host itself has.
func VmHost(v *store.View, fresh LastSeen, fleets Fleets, r store.Record[*storev1.StoredVmHost]) *vmhostv1.VmHost {
	h := proto.CloneOf(r.Value.GetResource())
	host := id(h.GetName())
	h.Etag = Etag(r.Revision)
	h.Credential = nil // never there; and if it were, not shown
	if h.GetCredentialKind() == "" {
		h.CredentialKind = "none"
	}
	observed := observationOf(v, h)
	ledger, _ := store.Ledgers.Get(v, host)
	placed := placement.NewHost(r.Value, observed, ledger.Value)
	if fleets != nil && len(ledger.Value.GetSharedPools()) > 0 {
		placed = fleets.Fleet(v).Together(placed)
	}
	h.Usage = placement.Usage(placed)
	h.Usage.HeldMachines = heldOn(v, host)
	h.Usage.Machines -= h.GetUsage().GetHeldMachines()
	h.Observation = proto.CloneOf(observed.GetObservation())
	at := observeTime(observed.GetObservation().GetObserveTime(), fresh, host)
	if h.GetObservation() != nil {
		h.Observation.ObserveTime = proto.CloneOf(at)
	}
	for _, c := range observed.GetConditions() {
		h.Conditions = append(h.Conditions, proto.CloneOf(c))
	}
	rack := driverOf(v, h)
	if rack != "" {
		h.AssignedRack = "racks/" + rack
	}
	h.State = HostState(v, h)
	if h.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK && !connected(v, rack) {
		setCondition(h, noRack(h))
	}
	for _, c := range h.GetConditions() {
		if c.GetType() == conditionReachable && !c.GetStatus() {
			c.Message += lastSeenAt(at)
		}
	}
	for _, c := range []*vmhostv1.Condition{overcommitted(h), membersMissing(v, h)} {
		if c != nil {
			h.Conditions = append(h.Conditions, c)
		}
	}
	return h
}

// HostState is where a host stands: what its rack reported last, if that rack is
// connected.
func HostState(v *store.View, h *vmhostv1.VmHost) vmhostv1.VmHostState {
	observed := observationOf(v, h)
	switch {
	case connected(v, driverOf(v, h)):
		if s := observed.GetState(); s != vmhostv1.VmHostState_VM_HOST_STATE_UNSPECIFIED {
			return s
		}
		return vmhostv1.VmHostState_VM_HOST_STATE_PENDING
	case observed == nil && hasSessions(v):
		return vmhostv1.VmHostState_VM_HOST_STATE_PENDING // a rack is being chosen
	default:
		return vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK
	}
}

// observationOf is what was reported of this host, and not of one that had its
// id before; nil when nothing was.
func observationOf(v *store.View, h *vmhostv1.VmHost) *storev1.StoredVmHostObservation {
	r, ok := store.Observed.Get(v, id(h.GetName()))
	if !ok || r.Value.GetVmHostUid() != h.GetUid() {
		return nil
	}
	return r.Value
}

// driverOf is the id of the rack that is assigned to the host, empty when none
// is.
func driverOf(v *store.View, h *vmhostv1.VmHost) string {
	a, ok := store.Assignments.Get(v, id(h.GetName()))
	if !ok || a.Value.GetVmHostUid() != h.GetUid() {
		return ""
	}
	return a.Value.GetRack()
}

func connected(v *store.View, rack string) bool {
	if rack == "" {
		return false
	}
	_, ok := store.Sessions.Get(v, rack)
	return ok
}

func hasSessions(v *store.View) bool {
	for range store.Sessions.All(v) {
		return true
	}
	return false
}

// hostReady says whether what is known of a host's machines is known now.
func hostReady(v *store.View, h *vmhostv1.VmHost, observed *storev1.StoredVmHostObservation) bool {
	return observed.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY && connected(v, driverOf(v, h))
}

// Etag is the version of a record, from its mod revision.
func Etag(revision int64) string { return strconv.FormatInt(revision, 36) }

// id is the last part of a resource name.
func id(name string) string {
	_, last, _ := strings.Cut(name, "/")
	return last
}

package view

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Discovered is a machine that vmhost did not make, with all that its hypervisor
// says of it: this is what a user decides by whether to adopt it.
func Discovered(v *store.View, fresh LastSeen, host *vmhostv1.VmHost, r store.Record[*storev1.StoredSeenMachine]) *vmhostv1.Machine {
	o := r.Value.GetObservation()
	uid := DiscoveredUID(host.GetUid(), o.GetUuid())
	m := &vmhostv1.Machine{
		Name: "machines/" + uid, Uid: uid, Etag: Etag(r.Revision),
		CreateTime: proto.CloneOf(r.Value.GetFirstSeenTime()), UpdateTime: proto.CloneOf(r.Value.GetChangeTime()),
		Hostname: o.GetName(), Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED,
		VmHost: host.GetName(), Zone: host.GetZone(), ResourcePool: host.GetResourcePool(),
		HypervisorName: o.GetName(), HypervisorUuid: o.GetUuid(), Architecture: o.GetArchitecture(),
		Cores: o.GetCores(), MemoryMib: o.GetMemoryMib(), Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY,
		Type: o.GetType(), PinnedCores: slices.Clone(o.GetPinnedCores()), Hugepages: o.GetHugepages(),
		Firmware: o.GetFirmware(), SecureBoot: o.GetSecureBoot(), Autostart: o.GetAutostart(),
		Profiles: slices.Clone(o.GetProfiles()), Image: o.GetImage(), Project: o.GetProject(),
	}
	for _, d := range o.GetDisks() {
		m.Disks = append(m.Disks, proto.CloneOf(d))
	}
	for _, i := range o.GetInterfaces() {
		m.Interfaces = append(m.Interfaces, proto.CloneOf(i))
	}
	observe(m, o)
	unreadable(m, o)
	if c := carriesOurs(v, o.GetUid()); c != nil {
		m.Conditions = append(m.Conditions, c)
	}
	judge(m, v, fresh, host, r.Value)
	return m
}

// carriesOurs is the condition of a machine of others that carries our metadata.
func carriesOurs(v *store.View, uid string) *vmhostv1.Condition {
	if uid == "" {
		return nil
	}
	c := &vmhostv1.Condition{
		Type: "CarriesOurMetadata", Status: true, Reason: vmhostv1.ErrorReason_FOREIGN_OBJECT.String(),
		Message: "it carries the metadata of machines/" + uid + ", which is no machine of this deployment; it counts as one of others",
		Hint:    "remove it if it was left behind, or take the metadata off on the hypervisor",
	}
	if m, ok := store.Machines.Get(v, uid); ok {
		c.Message = "it carries the metadata of machines/" + uid + ", which is on " + m.Value.GetResource().GetVmHost() + ": it is a clone of it, and counts as one of others"
		c.Hint = "take the metadata off the clone on the hypervisor, then it can be adopted"
	}
	return c
}

// Known says whether what was seen on a host has a record: on this host, or as an
// instance of another project of its LXD server, which is a host of its own. Such
// a one takes room on both and is listed once.
func Known(v *store.View, host *vmhostv1.VmHost, o *rackv1.MachineObservation) bool {
	if _, ours := Ours(v, host, o); ours {
		return true
	}
	if o.GetProject() == "" || o.GetProject() == cmp.Or(host.GetProject(), "default") {
		return false
	}
	for _, uid := range [...]string{o.GetUuid(), o.GetUid()} {
		if m, ok := store.Machines.Get(v, uid); ok && uid != "" && Domain(m.Value.GetResource()) == o.GetUuid() {
			return true
		}
	}
	return false
}

// AllDiscovered are the machines on hosts that have no record.
func AllDiscovered(v *store.View) iter.Seq2[*vmhostv1.VmHost, store.Record[*storev1.StoredSeenMachine]] {
	return func(yield func(*vmhostv1.VmHost, store.Record[*storev1.StoredSeenMachine]) bool) {
		for hostID, host := range store.VmHosts.All(v) {
			for _, seen := range store.Seen.All(v, hostID) {
				if Known(v, host.Value.GetResource(), seen.Value.GetObservation()) {
					continue
				}
				if !yield(host.Value.GetResource(), seen) {
					return
				}
			}
		}
	}
}

// Locator is a LastSeen that knows where machines were seen as well, so that not
// all of them are gone through to find one.
type Locator interface {
	// Locate is the host and the hypervisor's uuid of the machine that is discovered
	// with the uid, empty when none is known. Sure is false when the view may have
	// it nevertheless.
	Locate(v *store.View, uid uuid.UUID) (host, domain string, sure bool)
}

// FindDiscovered is the discovered machine of a uid. A uid does not say which
// host it is of: a Locator knows; without one the keys of what was seen are gone
// through, and no record is decoded but the one that is found.
func FindDiscovered(v *store.View, seen LastSeen, uid string) (*vmhostv1.Machine, bool) {
	wanted, err := uuid.Parse(uid)
	if err != nil || wanted.Version() != 5 { //nolint:mnd // the version of uuids made of names
		return nil, false
	}
	host, domain := "", ""
	sure := false
	if l, ok := seen.(Locator); ok {
		host, domain, sure = l.Locate(v, wanted)
	}
	if !sure {
		host, domain = walk(v, wanted)
	}
	h, there := store.VmHosts.Get(v, host)
	r, ok := store.Seen.Get(v, host, domain)
	spec := h.Value.GetResource()
	if !ok || !there || DiscoveredUID(spec.GetUid(), domain) != wanted.String() {
		return nil, false
	}
	if Known(v, spec, r.Value.GetObservation()) {
		return nil, false
	}
	return Discovered(v, seen, spec, r), true
}

// walk goes through all that was seen.
func walk(v *store.View, wanted uuid.UUID) (host, domain string) {
	space := uuid.Nil
	for key := range store.Seen.IDs(v) {
		of, uuidOf, _ := strings.Cut(key, "/")
		if of != host {
			r, _ := store.VmHosts.Get(v, of)
			host, space = of, spaceOf(r.Value.GetResource().GetUid())
		}
		if uuid.NewSHA1(space, []byte(uuidOf)) == wanted {
			return of, uuidOf
		}
	}
	return "", ""
}

package lxd

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/google/uuid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Our labels on an instance. LXD leaves keys that start with user. to users.
const (
	labelUID       = "user.vmhost.uid"
	labelOperation = "user.vmhost.operation"
	labelHost      = "user.vmhost.host"
	// labelUUID is the uuid of the instance that the labels were put on: a copy has
	// the labels too, and another uuid.
	labelUUID = "user.vmhost.uuid"
	// labelRoot is what the region calls the root disk's volume, which LXD names
	// after the instance.
	labelRoot = "user.vmhost.root"
	// labelMoving names the operation that has stopped an instance to move it.
	labelMoving = "user.vmhost.moving"
	// labelAside is the name of an instance that is out of the way of its copy, see
	// moveaside.go.
	labelAside = "user.vmhost.aside"

	labelPrefix  = "user.vmhost."
	volatileUUID = "volatile.uuid"
)

// Types of instances, in LXD's words.
const (
	typeContainer = "container"
	typeVM        = "virtual-machine"
)

// instance is one of LXD's instances with what is derived of it.
type instance struct {
	lxdapi.Instance
	uuid string
	// derived: LXD has given it no uuid of its own.
	derived bool
}

// derivedUUIDs is the namespace of the uuids of instances that have none.
var derivedUUIDs = uuid.MustParse("5f1c6c0e-0d5f-5a52-9a3c-6b7d6f0e4a11")

func (d *Driver) read(i lxdapi.Instance) *instance {
	i.Project = projectOf(i.Project)
	out := &instance{Instance: i}
	if id, err := uuid.Parse(i.Config[volatileUUID]); err == nil {
		out.uuid = id.String()
		return out
	}
	// Made by an old LXD and not started since, or broken. The time of its making
	// tells it from another of the same name.
	out.derived = true
	out.uuid = uuid.NewSHA1(derivedUUIDs, []byte(strings.Join([]string{d.certificate, i.Project, i.Name, i.CreatedAt.UTC().String()}, "\x00"))).String()
	return out
}

// ours says whether the instance carries our labels, and not only a copy of them.
func (d *Driver) ours(i *instance) bool {
	return i.Project == d.project && i.Config[labelUID] != "" && strings.EqualFold(i.Config[labelUUID], i.uuid)
}

// is says whether the instance is the machine of that uid.
func (d *Driver) is(i *instance, uid string) bool {
	return d.ours(i) && strings.EqualFold(i.Config[labelUID], uid)
}

// expanded are the instance's devices with those of its profiles.
func (i *instance) expanded() map[string]map[string]string {
	if i.ExpandedDevices != nil {
		return i.ExpandedDevices
	}
	return i.Devices
}

// option is a key of the configuration, with that of the profiles.
func (i *instance) option(key string) string {
	if v, ok := i.ExpandedConfig[key]; ok {
		return v
	}
	return i.Config[key]
}

func (i *instance) running() bool {
	return i.StatusCode == lxdapi.Running || i.StatusCode == lxdapi.Ready || i.StatusCode == lxdapi.Frozen
}

func powerOf(code lxdapi.StatusCode) vmhostv1.PowerState {
	switch code {
	case lxdapi.Running, lxdapi.Ready, lxdapi.Started, lxdapi.Stopping, lxdapi.Aborting, lxdapi.Freezing, lxdapi.Thawed:
		return vmhostv1.PowerState_POWER_STATE_ON
	case lxdapi.Stopped, lxdapi.Starting:
		return vmhostv1.PowerState_POWER_STATE_OFF
	case lxdapi.Frozen:
		return vmhostv1.PowerState_POWER_STATE_PAUSED
	case lxdapi.Error:
		return vmhostv1.PowerState_POWER_STATE_CRASHED
	default:
		return vmhostv1.PowerState_POWER_STATE_UNSPECIFIED
	}
}

// view is what an observation of an instance needs besides the instance.
type view struct {
	hostMiB  int64
	pools    map[string]*pool
	networks map[string]*network
	volumes  map[volumeKey]int64 // sizes of custom volumes
}

// observation is an instance in the protocol's form. What cannot be read becomes
// its problem; the rest is there.
func (d *Driver) observation(i *instance, v *view) *rackv1.MachineObservation {
	out := &rackv1.MachineObservation{
		Uuid: i.uuid, Name: i.Name, PowerState: powerOf(i.StatusCode), Architecture: i.Architecture, Profiles: slices.Clone(i.Profiles),
		Autostart: truth(i.option("boot.autostart")), Project: i.Project, Hugepages: truth(i.option("limits.memory.hugepages")),
		Image: i.option("volatile.base_image"),
	}
	if d.ours(i) {
		out.Uid, out.Operation = i.Config[labelUID], i.Config[labelOperation]
	}
	var errs []error
	if i.derived {
		errs = append(errs, errors.New("LXD has given the instance no uuid (volatile.uuid); it gets one when it is started"))
	}
	switch i.Type {
	case typeContainer:
		out.Type = vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
	case typeVM:
		out.Type, out.Firmware = vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, vmhostv1.Firmware_FIRMWARE_UEFI
		if truth(i.option("security.csm")) {
			out.Firmware = vmhostv1.Firmware_FIRMWARE_BIOS
		} else {
			// LXD's default is on.
			out.SecureBoot = i.option("security.secureboot") == "" || truth(i.option("security.secureboot"))
		}
	default:
		errs = append(errs, fmt.Errorf("the instance is of an unknown type %q", i.Type))
	}
	var err error
	if out.Cores, out.PinnedCores, err = cpuLimit(i.option("limits.cpu")); err != nil {
		errs = append(errs, err)
	}
	if out.MemoryMib, err = memoryLimit(i.option("limits.memory"), v.hostMiB); err != nil {
		errs = append(errs, err)
	}
	if out.Disks, err = d.disksOf(i, v); err != nil {
		errs = append(errs, err)
	}
	out.Interfaces = d.interfacesOf(i, v)
	if err := errors.Join(errs...); err != nil {
		out.Problem = valid(err).Error()
	}
	return out
}

func truth(s string) bool {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		return true
	}
	return false
}

// devicesOf are the names of an instance's devices of a type, in a stable order
// in which eth10 is behind eth9.
func devicesOf(i *instance, kind string) []string {
	var out []string
	for name, dev := range i.expanded() {
		if dev["type"] == kind {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		as, an := numbered(a)
		bs, bn := numbered(b)
		return cmp.Or(cmp.Compare(as, bs), cmp.Compare(an, bn), cmp.Compare(a, b))
	})
	return out
}

// numbered splits the number off the end of a name.
func numbered(s string) (stem string, n int) {
	at := len(s)
	for at > 0 && s[at-1] >= '0' && s[at-1] <= '9' {
		at--
	}
	n, err := strconv.Atoi(s[at:])
	if err != nil {
		n = -1
	}
	return s[:at], n
}

package placement

import (
	"fmt"
	"slices"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Words of VmHostObservation.capabilities.
const (
	virtualMachines = "virtual-machines"
	containers      = "containers"
	secureBoot      = "secure-boot"
	hugePages       = "hugepages"
	srIOV           = "sr-iov"
)

// maxImages is how many images an observation lists at most; a host that lists
// so many may have others.
const maxImages = 1000

func (h *Host) can(word string) bool { return slices.Contains(h.Capabilities, word) }

// typeFits says whether the host can run that kind of machine. Only an LXD server
// can be without virtual machines.
func (h *Host) typeFits(req *Request) bool {
	if req.HostType != vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED && req.HostType != h.Type {
		return false
	}
	if req.container() {
		return h.can(containers)
	}
	return h.Type != vmhostv1.VmHostType_VM_HOST_TYPE_LXD || h.can(virtualMachines)
}

func typeWord(t vmhostv1.VmHostType) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), "VM_HOST_TYPE_"))
}

func (r Refusal) kind() string {
	switch {
	case r.req.HostType != vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED && r.req.HostType != r.Host.Type:
		return fmt.Sprintf("is a host of type %s; the machine is one of %s and cannot become another", typeWord(r.Host.Type), typeWord(r.req.HostType))
	case r.req.container() && r.Host.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT:
		return "runs virtual machines only, as every libvirt host does, and no containers"
	case r.req.container():
		return "runs no containers"
	case r.Host.can(containers):
		return "runs containers only: its LXD server cannot run virtual machines"
	default:
		return "has not said that it can run virtual machines"
	}
}

// missingCapability is the first capability that the host lacks; empty when it
// has all.
func (h *Host) missingCapability(req *Request) string {
	switch {
	case req.SecureBoot && !h.can(secureBoot):
		return secureBoot
	case req.Hugepages && !h.can(hugePages):
		return hugePages
	case req.functions() && !h.can(srIOV):
		return srIOV
	}
	for _, word := range req.Capabilities {
		if !h.can(word) {
			return word
		}
	}
	return ""
}

// chooseImage says whether the host has the profiles and the image. An image also
// decides the architecture when the request does not.
func (f *fitting) chooseImage(h *Host, req *Request) bool {
	if req.Image == "" && len(req.Profiles) == 0 {
		return true
	}
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT || h.missingProfile(req) != "" {
		return false
	}
	if req.Image == "" || h.lenient(len(h.Images)) {
		return true
	}
	image := h.image(req)
	if image == nil {
		return len(h.Images) >= maxImages
	}
	switch {
	case image.GetType() != vmhostv1.MachineType_MACHINE_TYPE_UNSPECIFIED && (image.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER) != req.container():
		return false
	case image.GetArchitecture() == "":
		return true
	case req.Architecture == "" && slices.Contains(h.Architectures, image.GetArchitecture()):
		f.architecture = image.GetArchitecture()
		return true
	}
	return image.GetArchitecture() == req.Architecture
}

// lenient says whether an empty list means that nothing is known: only LXD is
// asked for what it has.
func (h *Host) lenient(listed int) bool {
	return h.Type != vmhostv1.VmHostType_VM_HOST_TYPE_LXD && listed == 0
}

func (h *Host) missingProfile(req *Request) string {
	if h.lenient(len(h.Profiles)) {
		return ""
	}
	for _, p := range req.Profiles {
		if !slices.Contains(h.Profiles, p) {
			return p
		}
	}
	return ""
}

// image is the one that is asked for, by alias or fingerprint; of several of the
// name that of the wanted type and architecture comes first.
func (h *Host) image(req *Request) *vmhostv1.HostImage {
	const shortest = 12 // of a fingerprint that is cut
	var found *vmhostv1.HostImage
	rank := -1
	for _, i := range h.Images {
		cut := len(req.Image) >= shortest && strings.HasPrefix(i.GetFingerprint(), req.Image)
		if i.GetFingerprint() != req.Image && !cut && !slices.Contains(i.GetAliases(), req.Image) {
			continue
		}
		good := 0
		if (i.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER) == req.container() {
			good += 2
		}
		if req.Architecture == i.GetArchitecture() || (req.Architecture == "" && slices.Contains(h.Architectures, i.GetArchitecture())) {
			good++
		}
		if good > rank {
			found, rank = i, good
		}
	}
	return found
}

func (r Refusal) image() string {
	h, req := r.Host, r.req
	if h.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT {
		return "is a libvirt host, which has no images and no profiles"
	}
	if p := h.missingProfile(req); p != "" {
		return "has no profile named " + p
	}
	image := h.image(req)
	if image == nil {
		return "has no image " + req.Image
	}
	if (image.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER) != req.container() {
		if req.container() {
			return fmt.Sprintf("has image %s for virtual machines, not for containers", req.Image)
		}
		return fmt.Sprintf("has image %s for containers, not for virtual machines", req.Image)
	}
	if req.Architecture == "" {
		return fmt.Sprintf("has image %s for %s, which it does not run", req.Image, image.GetArchitecture())
	}
	return fmt.Sprintf("has image %s for %s, not for %s", req.Image, image.GetArchitecture(), req.Architecture)
}

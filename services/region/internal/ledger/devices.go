package ledger

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

const (
	defaultDiskBytes = 8_000_000_000
	sectorBytes      = 512
)

// kind refuses what cannot be of a machine of the type.
func (w *want) kind() error {
	req := w.req
	if req.GetSecureBoot() {
		if req.GetFirmware() == vmhostv1.Firmware_FIRMWARE_BIOS {
			return apierror.InvalidField("secure_boot", "needs UEFI, but firmware is BIOS")
		}
		req.Firmware = vmhostv1.Firmware_FIRMWARE_UEFI
	}
	if w.place.Type != vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		return nil
	}
	switch {
	case req.GetImage() == "":
		return apierror.InvalidField("image", "is needed for a container").
			WithHint("name an image of the LXD host; `vmhostctl vm-host get HOST -o yaml` lists those it has")
	case req.GetSecureBoot():
		return apierror.InvalidField("secure_boot", "is for virtual machines; a container has no firmware")
	case req.GetFirmware() != vmhostv1.Firmware_FIRMWARE_UNSPECIFIED:
		return apierror.InvalidField("firmware", "is for virtual machines; a container has none")
	case req.GetHugepages():
		return apierror.InvalidField("hugepages", "is for virtual machines; a container's memory is the host's")
	case req.GetDiskless():
		return apierror.InvalidField("diskless", "is for virtual machines; a container needs a root disk")
	}
	return nil
}

// pin takes over which cores the machine is pinned to.
func (w *want) pin() error {
	pinned := w.req.GetPinnedCores()
	if len(pinned) == 0 {
		return nil
	}
	if w.req.GetCores() == 0 {
		w.place.Cores = int32(len(pinned))
	}
	if int(w.place.Cores) != len(pinned) {
		return apierror.InvalidField("pinned_cores", "names %d cores for a machine of %d", len(pinned), w.place.Cores).
			WithHint("name one core of the host for each core of the machine, or leave cores out")
	}
	for i, c := range pinned {
		if c < 0 || slices.Contains(pinned[:i], c) {
			return apierror.InvalidField(fmt.Sprintf("pinned_cores[%d]", i), "is %d, which is negative or named twice", c)
		}
	}
	w.place.PinnedCores = pinned
	return nil
}

func (w *want) disks() error {
	disks := w.req.GetDisks()
	switch {
	case w.req.GetDiskless() && len(disks) > 0:
		return apierror.InvalidField("diskless", "is set, but disks are asked for")
	case w.req.GetDiskless():
		return nil
	case len(disks) == 0:
		disks = []*vmhostv1.DiskRequest{{SizeBytes: defaultDiskBytes}}
	}
	root := -1
	for i, d := range disks {
		if d.GetSizeBytes() <= 0 || d.GetSizeBytes() > 1<<60 {
			return apierror.InvalidField(fmt.Sprintf("disks[%d].size_bytes", i), "must be more than 0")
		}
		if d.GetBoot() {
			field := fmt.Sprintf("disks[%d].boot", i)
			if root >= 0 {
				return apierror.InvalidField(field, "is set, and so is that of disks[%d]; a machine boots from one", root)
			}
			if i > 0 && w.place.Type == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
				return apierror.InvalidField(field, "is set, but a container's root is its first disk")
			}
			root = i
		}
		size := (d.GetSizeBytes() + sectorBytes - 1) / sectorBytes * sectorBytes
		w.place.Disks = append(w.place.Disks, placement.Disk{SizeBytes: size, Pool: d.GetStoragePool(), Tags: d.GetTags()})
	}
	return nil
}

func (w *want) interfaces() error {
	if len(w.req.GetInterfaces()) == 0 {
		w.req.Interfaces = []*vmhostv1.InterfaceRequest{{}}
	}
	boot := -1
	macs, addresses := map[string]bool{}, map[netip.Addr]bool{}
	for i, n := range w.req.GetInterfaces() {
		field := func(name string) string { return fmt.Sprintf("interfaces[%d].%s", i, name) }
		mac := strings.ToLower(n.GetMac())
		if mac != "" {
			if macs[mac] {
				return apierror.InvalidField(field("mac"), "is given twice")
			}
			if hw, err := net.ParseMAC(mac); err != nil || len(hw) != 6 || hw[0]&1 != 0 || mac == "00:00:00:00:00:00" {
				return apierror.InvalidField(field("mac"), "is not the address of one interface: it must be unicast and not zero")
			}
		}
		macs[mac] = true
		w.macs = append(w.macs, mac)
		if n.GetBoot() {
			if boot >= 0 {
				return apierror.InvalidField(field("boot"), "is set, and so is that of interfaces[%d]; a machine boots by one", boot)
			}
			boot = i
		}
		want := placement.Interface{Source: n.GetSource(), Kind: n.GetKind(), VLAN: n.Vlan, Space: n.GetSpace(), Tags: n.GetTags()}
		if err := addressOf(&want, n, field); err != nil {
			return err
		}
		if want.Address.IsValid() {
			if addresses[want.Address] {
				return apierror.InvalidField(field("ip_address"), "is given twice")
			}
			addresses[want.Address] = true
		}
		w.place.Interfaces = append(w.place.Interfaces, want)
	}
	return nil
}

// addressOf reads the subnet and the address that are wanted.
func addressOf(want *placement.Interface, n *vmhostv1.InterfaceRequest, field func(string) string) error {
	if n.GetSubnetCidr() != "" {
		p, err := netip.ParsePrefix(n.GetSubnetCidr())
		if err != nil {
			return apierror.InvalidField(field("subnet_cidr"), "is no subnet such as 10.0.0.0/24")
		}
		want.Subnet = p.Masked()
	}
	if n.GetIpAddress() == "" {
		return nil
	}
	a, err := netip.ParseAddr(n.GetIpAddress())
	switch {
	case err != nil || a.Zone() != "":
		return apierror.InvalidField(field("ip_address"), "is no IP address")
	case a.IsMulticast() || a.IsUnspecified() || a.IsLoopback():
		return apierror.InvalidField(field("ip_address"), "is no address of one machine")
	case want.Subnet.IsValid() && !want.Subnet.Contains(a.Unmap()):
		return apierror.InvalidField(field("ip_address"), "is not in %s, which subnet_cidr asks for", want.Subnet)
	}
	want.Address = a.Unmap()
	return nil
}

// bootFrom is what a machine boots from, by place; -1: nothing.
type bootFrom struct{ disk, network int }

// boot is what the request marks, else the first of each.
func (w *want) boot() bootFrom {
	return bootFrom{
		disk:    max(slices.IndexFunc(w.req.GetDisks(), (*vmhostv1.DiskRequest).GetBoot), 0),
		network: max(slices.IndexFunc(w.req.GetInterfaces(), (*vmhostv1.InterfaceRequest).GetBoot), 0),
	}
}

// addressTaken refuses a request whose fixed address other machines have wherever
// everything before that fits: to choose another host would not help.
func addressTaken(plan *placement.Plan, req *placement.Request) error {
	if plan.Host != nil || len(plan.Refusals) == 0 || !plan.Refusals[0].TakenAddress() {
		return nil
	}
	first := plan.Refusals[0]
	return apierror.InvalidField(fmt.Sprintf("interfaces[%d].ip_address", first.Item), "is %s, which another machine has: vmHosts/%s %s",
		req.Interfaces[first.Item].Address, first.Host.ID, first.Message()).
		WithHint("choose another address, or leave it out and have the hypervisor choose")
}

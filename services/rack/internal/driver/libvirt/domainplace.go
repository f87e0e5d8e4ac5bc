package libvirt

import (
	"slices"
	"strconv"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// readPlacement reads what a domain boots with and what of its host it is bound
// to. Nothing here is worth a problem: what is written in another way than this
// package does is shown as not there.
func (d *domain) readPlacement(x *domainXML) {
	d.hugepages = x.HugePages != nil
	// Only a domain each of whose cores has one core of the host is pinned in the
	// sense of this system; sets are a matter between it and its host.
	pins := map[int]int32{}
	for _, p := range x.Pins {
		vcpu, err := strconv.Atoi(p.VCPU)
		core, cerr := strconv.ParseInt(strings.TrimSpace(p.Set), 10, 32)
		if err != nil || cerr != nil || core < 0 {
			pins = nil
			break
		}
		pins[vcpu] = int32(core)
	}
	if n := len(pins); n > 0 && n == int(d.cores) {
		for vcpu := range n {
			if core, ok := pins[vcpu]; ok {
				d.pinned = append(d.pinned, core)
			}
		}
		if len(d.pinned) != n {
			d.pinned = nil
		}
	}
	os := &x.OS
	d.firmware = vmhostv1.Firmware_FIRMWARE_BIOS
	if os.Firmware == "efi" || os.Loader.Type == "pflash" {
		d.firmware = vmhostv1.Firmware_FIRMWARE_UEFI
	}
	if d.architecture != "x86_64" && d.architecture != "i686" && d.firmware == vmhostv1.Firmware_FIRMWARE_BIOS {
		d.firmware = vmhostv1.Firmware_FIRMWARE_UNSPECIFIED // no BIOS there, and libvirt does not say
	}
	d.secureBoot = d.firmware == vmhostv1.Firmware_FIRMWARE_UEFI && os.Loader.Secure == "yes"
	for _, f := range os.Features {
		if f.Name == "secure-boot" {
			d.secureBoot = f.Enabled == "yes"
		}
	}
	// <boot dev='hd'/> means the first disk.
	if slices.Contains(os.Boot, bootDevXML{"hd"}) && len(d.disks) > 0 {
		d.disks[0].boot = true
	}
}

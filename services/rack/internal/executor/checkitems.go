package executor

import (
	"fmt"
	"slices"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// mendable says whether a driver may be able to mend what an item lacks.
func mendable(check string) bool { return check == checkStorage || check == checkNetwork }

// findings are the items that follow from what a hypervisor has.
type findings []*vmhostv1.CheckItem

// lacks says whether something is missing that may be mended.
func (f findings) lacks() bool {
	return slices.ContainsFunc(f, func(i *vmhostv1.CheckItem) bool { return mendable(i.GetCheck()) && i.GetStatus() != checkOK })
}

func (f *findings) add(check string, status vmhostv1.CheckStatus, message, hint string) {
	*f = append(*f, &vmhostv1.CheckItem{Check: check, Status: status, Message: message, Hint: hint})
}

// judge says what is good and what is not of what the hypervisor has.
func (c checklist) judge(o *vmhostv1.VmHostObservation) findings {
	var f findings
	about := fmt.Sprintf("%s, %d cores, %d MiB", o.GetHypervisorVersion(), o.GetCores(), o.GetMemoryMib())
	if len(o.GetProblems()) == 0 {
		f.add(checkHypervisor, checkOK, about, "")
	} else {
		f.add(checkHypervisor, checkWarning, about+"; not all could be read: "+strings.Join(o.GetProblems(), "; "), "look into the hypervisor's log; the rest is good")
	}
	machines := f.types(o)
	f.kvm(o, machines)
	f.storage(c, o)
	f.network(c, o)
	f.uplink(c, o)
	return f
}

// types adds what kinds of machines the host can run, and answers whether virtual
// machines are among them.
func (f *findings) types(o *vmhostv1.VmHostObservation) (virtual bool) {
	virtual = slices.Contains(o.GetCapabilities(), "virtual-machines")
	containers := slices.Contains(o.GetCapabilities(), "containers")
	where := " for " + strings.Join(o.GetArchitectures(), ", ")
	switch {
	case virtual && containers:
		f.add(checkTypes, checkOK, "virtual machines and containers"+where, "")
	case virtual:
		f.add(checkTypes, checkOK, "virtual machines"+where, "")
	case containers:
		f.add(checkTypes, checkWarning, "containers only"+where+"; a compose of a virtual machine is refused here",
			"if it should run virtual machines: install QEMU on the host, for example `apt install qemu-system-x86`, load `modprobe vhost_vsock`, and start LXD again")
	default:
		f.add(checkTypes, checkFailed, "the host can run neither virtual machines nor containers", "install QEMU on the host, for example `apt install qemu-system-x86`")
	}
	return virtual
}

func (f *findings) kvm(o *vmhostv1.VmHostObservation, virtual bool) {
	switch {
	case o.GetKvm():
		f.add(checkKVM, checkOK, "guests run by KVM", "")
	case !virtual:
		f.add(checkKVM, checkOK, "containers need none", "")
	default:
		f.add(checkKVM, checkWarning, "guests run by emulation, many times slower",
			"turn on virtualization in the firmware, and load the module: `modprobe kvm_intel` or `modprobe kvm_amd`")
	}
}

func (f *findings) storage(c checklist, o *vmhostv1.VmHostObservation) {
	start, define := "virsh pool-start %s && virsh pool-autostart %[1]s",
		"virsh pool-define-as default dir --target /var/lib/libvirt/images && virsh pool-build default && virsh pool-start default && virsh pool-autostart default"
	if c.lxd {
		start, define = "lxc storage show %s", "lxc storage create default dir"
	}
	var good, bad, words []string
	for _, p := range o.GetStoragePools() {
		switch {
		case p.GetActive() && p.GetProblem() == "":
			good = append(good, p.GetName())
		case p.GetProblem() != "":
			bad, words = append(bad, p.GetName()), append(words, p.GetName()+": "+p.GetProblem())
		default:
			bad, words = append(bad, p.GetName()), append(words, p.GetName()+" is not active")
		}
	}
	switch {
	case len(good) > 0 && len(bad) > 0:
		f.add(checkStorage, checkWarning, "storage pools: "+strings.Join(good, ", ")+"; not usable: "+strings.Join(words, "; "), "on the host: `"+fmt.Sprintf(start, bad[0])+"`")
	case len(good) > 0:
		f.add(checkStorage, checkOK, "storage pools: "+strings.Join(good, ", "), "")
	case len(bad) > 0:
		f.add(checkStorage, checkFailed, "no storage pool can be used: "+strings.Join(words, "; "), "on the host: `"+fmt.Sprintf(start, bad[0])+"`, or check with `--fix`")
	default:
		f.add(checkStorage, checkFailed, "the host has no storage pool", "on the host: `"+define+"`, or check with `--fix`")
	}
}

func (f *findings) network(c checklist, o *vmhostv1.VmHostObservation) {
	start, define := "virsh net-start %s && virsh net-autostart %[1]s",
		"virsh net-define /usr/share/libvirt/networks/default.xml && virsh net-start default && virsh net-autostart default"
	serve := "virsh net-edit %s"
	if c.lxd {
		start, define, serve = "lxc network show %s", "lxc network create lxdbr0", "lxc network set %s ipv4.dhcp true"
	}
	var dhcp, uplinked, plain, inactive []string
	managed := ""
	for _, n := range o.GetNetworks() {
		switch {
		case !n.GetActive():
			inactive = append(inactive, n.GetName())
		case n.GetDhcp():
			dhcp = append(dhcp, n.GetName()+" (DHCP)")
		case len(n.GetUplinks()) > 0 || n.GetKind() == vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE:
			uplinked = append(uplinked, n.GetName())
		default:
			plain = append(plain, n.GetName())
			if managed == "" && n.GetKind() == vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK {
				managed = n.GetName()
			}
		}
	}
	all := strings.Join(slices.Concat(dhcp, uplinked, plain), ", ")
	switch {
	case len(dhcp) > 0 && len(inactive) > 0: // who stopped them may have meant it
		f.add(checkNetwork, checkOK, "networks: "+all+"; not active: "+strings.Join(inactive, ", "), "")
	case len(dhcp) > 0:
		f.add(checkNetwork, checkOK, "networks: "+all, "")
	case len(uplinked) > 0:
		f.add(checkNetwork, checkOK, "networks: "+all+"; none has DHCP of the hypervisor, so that addresses come from the network outside", "")
	case len(plain) > 0:
		hint := "give machines fixed addresses, or turn on DHCP"
		if managed != "" {
			hint += " on the host: `" + fmt.Sprintf(serve, managed) + "`"
		}
		f.add(checkNetwork, checkWarning, "networks: "+all+"; none has DHCP, and none leads outside, so that machines get no addresses by themselves", hint)
	case len(inactive) > 0:
		f.add(checkNetwork, checkWarning, "no network is active; there are: "+strings.Join(inactive, ", "), "on the host: `"+fmt.Sprintf(start, inactive[0])+"`, or check with `--fix`")
	default:
		f.add(checkNetwork, checkWarning, "the host has no network that machines can be attached to", "on the host: `"+define+"`")
	}
}

// uplink adds whether networks lead outside.
func (f *findings) uplink(c checklist, o *vmhostv1.VmHostObservation) {
	backing := map[string]bool{} // bridges that are the hypervisor's own
	taken := map[string]bool{}   // devices that carry something already
	for _, n := range o.GetNetworks() {
		if n.GetKind() != vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE && n.GetBridge() != "" {
			backing[n.GetBridge()] = true
		}
		for _, u := range n.GetUplinks() {
			taken[u] = true
		}
	}
	var out, alone []string
	spare := "NIC"
	for _, n := range o.GetNetworks() {
		switch {
		case !n.GetActive():
		case n.GetKind() == vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE:
			out = append(out, n.GetName())
			if spare == "NIC" && !taken[n.GetName()] && len(n.GetAddresses()) == 0 && n.GetParent() == "" {
				spare = n.GetName() // moving one with an address would cut the host off
			}
		case len(n.GetUplinks()) > 0:
			out = append(out, n.GetName()+" over "+strings.Join(n.GetUplinks(), ", "))
		case n.GetForward() != "":
			out = append(out, n.GetName()+" by "+n.GetForward())
		case n.GetKind() == vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE && !backing[n.GetName()]:
			alone = append(alone, n.GetName())
		}
	}
	switch {
	case len(alone) > 0:
		hint := "on the host: `ip link set dev " + spare + " master " + alone[0] + "`, and the same in its network configuration"
		if c.lxd {
			hint = "on the host: `lxc network set " + alone[0] + " bridge.external_interfaces " + spare + "` if LXD manages it, else `ip link set dev " + spare + " master " + alone[0] + "`"
		}
		f.add(checkUplink, checkWarning, "without uplink, so that machines on it reach only one another and the host: "+strings.Join(alone, ", "), hint)
	case len(out) > 0:
		f.add(checkUplink, checkOK, "networks lead outside: "+strings.Join(out, "; "), "")
	default:
		f.add(checkUplink, checkWarning, "no network leads outside the host", "make a bridge with an uplink on the host: `ip link add br0 type bridge && ip link set br0 up && ip link set dev "+spare+" master br0`")
	}
}

package ctl

import (
	"strconv"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// parseDisk reads `SIZE[@POOL][,tag=WORD][,boot]`.
func parseDisk(s string) (*vmhostv1.DiskRequest, error) {
	const hint = "write for example --disk 10GB, --disk 40GiB@fast or --disk 20GB,tag=ssd,boot"
	parts := strings.Split(s, ",")
	size, pool, named := strings.Cut(parts[0], "@")
	bytes, err := units.ParseBytes(size)
	if err != nil {
		return nil, usage(hint, "--disk %q: %w", s, err)
	}
	if named && pool == "" {
		return nil, usage(hint, "--disk %q names no storage pool after the @", s)
	}
	d := &vmhostv1.DiskRequest{SizeBytes: bytes, StoragePool: pool}
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		switch {
		case part == "boot":
			d.Boot = true
		case key == "tag" && value != "":
			d.Tags = append(d.Tags, value)
		case key == "pool" && value != "" && d.GetStoragePool() == "":
			d.StoragePool = value
		default:
			return nil, usage(hint, "--disk %q: %q is not understood", s, part)
		}
	}
	return d, nil
}

// parseNIC reads `KEY=VALUE[,KEY=VALUE…]`.
func parseNIC(s string) (*vmhostv1.InterfaceRequest, error) {
	const hint = "write for example --nic network=lab, --nic macvlan=eth1,mode=bridge or --nic subnet=10.0.0.0/24,ip=10.0.0.7"
	i := &vmhostv1.InterfaceRequest{}
	once := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if part == "boot" {
			i.Boot = true
			continue
		}
		if !ok || value == "" {
			return nil, usage(hint, "--nic %q: %q is not key=value", s, part)
		}
		if once[key] && key != "tag" {
			return nil, usage(hint, "--nic %q: %s is said twice", s, key)
		}
		once[key] = true
		if kind, is := nicKind(key); is {
			if i.GetSource() != "" {
				return nil, usage(hint, "--nic %q: an interface is attached to one thing", s)
			}
			i.Source, i.Kind = value, kind
			continue
		}
		if known, err := nicDetail(i, key, value); err != nil {
			return nil, err
		} else if !known {
			return nil, usage(hint, "--nic %q: there is no %q", s, key)
		}
	}
	if i.GetMacvlanMode() != 0 && i.GetKind() != vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN {
		return nil, usage(hint, "--nic %q: mode is for macvlan only", s)
	}
	return i, nil
}

func nicKind(key string) (vmhostv1.InterfaceKind, bool) {
	switch key {
	case "network":
		return vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, true
	case "bridge":
		return vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE, true
	case "macvlan":
		return vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, true
	case "sriov":
		return vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, true
	default:
		return 0, false
	}
}

func nicDetail(i *vmhostv1.InterfaceRequest, key, value string) (known bool, err error) {
	switch key {
	case "mac":
		i.Mac = value
	case "mode":
		i.MacvlanMode, err = parseMacvlan(value)
	case "subnet":
		i.SubnetCidr = value
	case "vlan":
		id, perr := strconv.ParseInt(value, 10, 32)
		if perr != nil || id < 0 || id > 4094 {
			return true, usage("write for example --nic vlan=12", "--nic vlan %q is no number from 0 to 4094", value)
		}
		vlan := int32(id)
		i.Vlan = &vlan
	case "space":
		i.Space = value
	case "tag":
		i.Tags = append(i.Tags, value)
	case "ip":
		i.IpAddress = value
	default:
		return false, nil
	}
	return true, err
}

// maxCores is more than any machine may have.
const maxCores = 4096

// parseCores reads `0-3,8`.
func parseCores(s string) ([]int32, error) {
	const hint = "write for example --pin-cores 0-3,8"
	if s == "" {
		return nil, nil
	}
	var out []int32
	seen := map[int]bool{}
	for part := range strings.SplitSeq(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		first, ok := coreNumber(low)
		last := first
		if ranged && ok {
			last, ok = coreNumber(high)
		}
		if !ok || last < first {
			return nil, usage(hint, "--pin-cores %q: %q names no cores", s, part)
		}
		for core := first; core <= last; core++ {
			if seen[core] {
				return nil, usage(hint, "--pin-cores names core %d twice", core)
			}
			if len(out) == maxCores {
				return nil, usage(hint, "--pin-cores names more than %d cores", maxCores)
			}
			seen[core] = true
			out = append(out, int32(core))
		}
	}
	return out, nil
}

// coreNumber reads digits and nothing else.
func coreNumber(s string) (int, bool) {
	const most = 65535
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n <= most
}

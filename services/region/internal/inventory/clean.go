package inventory

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Bounds on what is recorded of a host, whatever a rack says: far above what
// hosts have, far below what would hurt the region or etcd.
const (
	maxMachines = 20_000
	maxCores    = 1 << 20
	maxMiB      = 1 << 40
	maxBytes    = 1 << 60
	maxList     = 1024
	maxDevices  = 64
	maxName     = 255
	maxMessage  = 4096
)

// cleanText makes text safe to show and to keep: valid UTF-8 without control
// characters, of at most n bytes.
func cleanText(s string, n int) string {
	s = strings.ToValidUTF8(s[:min(len(s), n)], "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) {
			return '\uFFFD'
		}
		return r
	}, s)
	for len(s) > n { // what was replaced may be longer than before
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

func cleanUUID(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	u, err := uuid.Parse(s)
	return u.String(), err == nil
}

func clamp[N int32 | int64](n, top N) N { return min(max(n, 0), top) }

func cut[T any](list []T, n int) []T { return list[:min(len(list), n)] }

// cleanMachine is a machine with every value in bounds.
func cleanMachine(in *rackv1.MachineObservation, uuid string) *rackv1.MachineObservation {
	m := proto.CloneOf(in)
	m.ProtoReflect().SetUnknown(nil)
	m.Uuid = uuid
	m.Name = cleanText(m.GetName(), maxName)
	m.Uid, m.Operation = cleanText(m.GetUid(), maxName), cleanText(m.GetOperation(), maxName)
	if _, known := vmhostv1.PowerState_name[int32(m.GetPowerState())]; !known {
		m.PowerState = vmhostv1.PowerState_POWER_STATE_UNSPECIFIED
	}
	m.Cores, m.MemoryMib = clamp(m.GetCores(), maxCores), clamp(m.GetMemoryMib(), maxMiB)
	m.Architecture = cleanText(m.GetArchitecture(), maxName)
	m.ConsoleLogPath, m.Problem = cleanText(m.GetConsoleLogPath(), maxMessage), cleanText(m.GetProblem(), maxMessage)
	m.Disks, m.Interfaces = cut(m.GetDisks(), maxDevices), cut(m.GetInterfaces(), maxDevices)
	for i, d := range m.GetDisks() {
		m.Disks[i] = &vmhostv1.MachineDisk{
			StoragePool: cleanText(d.GetStoragePool(), maxName), Volume: cleanText(d.GetVolume(), maxName),
			SizeBytes: clamp(d.GetSizeBytes(), maxBytes), Device: cleanText(d.GetDevice(), maxName), Path: cleanText(d.GetPath(), maxMessage),
		}
	}
	for i, n := range m.GetInterfaces() {
		out := &vmhostv1.MachineInterface{
			Mac: strings.ToLower(cleanText(n.GetMac(), maxName)), Source: cleanText(n.GetSource(), maxName), Kind: n.GetKind(), MacvlanMode: n.GetMacvlanMode(),
		}
		for _, a := range cut(n.GetAddresses(), maxDevices) {
			out.Addresses = append(out.Addresses, cleanText(a, maxName))
		}
		m.Interfaces[i] = out
	}
	return m
}

// cleanObservation is what a host has with every value in bounds.
func cleanObservation(in *vmhostv1.VmHostObservation) *vmhostv1.VmHostObservation {
	o := &vmhostv1.VmHostObservation{
		HypervisorVersion: cleanText(in.GetHypervisorVersion(), maxName),
		Hostname:          cleanText(in.GetHostname(), maxName),
		Cores:             clamp(in.GetCores(), maxCores),
		CpuMhz:            clamp(in.GetCpuMhz(), maxCores),
		CpuModel:          cleanText(in.GetCpuModel(), maxName),
		MemoryMib:         clamp(in.GetMemoryMib(), maxMiB),
		Kvm:               in.GetKvm(),
		HostUuid:          cleanText(in.GetHostUuid(), maxName),
	}
	for _, a := range cut(in.GetArchitectures(), maxDevices) {
		o.Architectures = append(o.Architectures, cleanText(a, maxName))
	}
	for _, c := range cut(in.GetCapabilities(), maxDevices) {
		o.Capabilities = append(o.Capabilities, cleanText(c, maxName))
	}
	for _, n := range cut(in.GetNumaNodes(), maxDevices) {
		node := &vmhostv1.NumaNode{Id: clamp(n.GetId(), maxCores), MemoryMib: clamp(n.GetMemoryMib(), maxMiB)}
		for _, c := range cut(n.GetCores(), 4*maxList) {
			node.Cores = append(node.Cores, clamp(c, maxCores))
		}
		for _, p := range cut(n.GetHugePages(), maxDevices) {
			node.HugePages = append(node.HugePages, &vmhostv1.HugePages{
				SizeKib: clamp(p.GetSizeKib(), maxMiB), Total: clamp(p.GetTotal(), maxMiB), Free: clamp(p.GetFree(), maxMiB),
			})
		}
		o.NumaNodes = append(o.NumaNodes, node)
	}
	names := map[string]bool{}
	for _, p := range cut(in.GetStoragePools(), maxList) {
		name := cleanText(p.GetName(), maxName)
		if name == "" || names[name] {
			continue
		}
		names[name] = true
		o.StoragePools = append(o.StoragePools, &vmhostv1.StoragePool{
			Name: name, Type: cleanText(p.GetType(), maxName), Path: cleanText(p.GetPath(), maxMessage),
			CapacityBytes: clamp(p.GetCapacityBytes(), maxBytes), AllocationBytes: clamp(p.GetAllocationBytes(), maxBytes),
			OursBytes: clamp(p.GetOursBytes(), maxBytes), AvailableBytes: clamp(p.GetAvailableBytes(), maxBytes),
			Active: p.GetActive(), Thin: p.GetThin(),
		})
	}
	for _, n := range cut(in.GetNetworks(), maxList) {
		out := &vmhostv1.HostNetwork{
			Name: cleanText(n.GetName(), maxName), Kind: n.GetKind(), Bridge: cleanText(n.GetBridge(), maxName),
			Dhcp: n.GetDhcp(), Active: n.GetActive(), Vlan: clamp(n.GetVlan(), maxList*4),
		}
		for _, c := range cut(n.GetCidrs(), maxDevices) {
			out.Cidrs = append(out.Cidrs, cleanText(c, maxName))
		}
		o.Networks = append(o.Networks, out)
	}
	return o
}

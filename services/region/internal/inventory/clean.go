package inventory

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
	maxVLAN     = 4095
	maxName     = 255
	maxMessage  = 4096
	// maxMachineBytes is of one machine, maxReportBytes of all of a host.
	maxMachineBytes = 64 << 10
	maxReportBytes  = 64 << 20
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

// known is the value, or none where this version has no name for it.
func known[E protoreflect.Enum](e E) E {
	if e.Descriptor().Values().ByNumber(e.Number()) == nil {
		var none E
		return none
	}
	return e
}

func cleanTexts(in []string, n int) []string {
	var out []string
	for _, s := range cut(in, n) {
		out = append(out, cleanText(s, maxName))
	}
	return out
}

func cleanNumbers(in []int32, n int) []int32 {
	var out []int32
	for _, x := range cut(in, n) {
		out = append(out, clamp(x, maxCores))
	}
	return out
}

// cleanMachine is a machine with every value in bounds.
func cleanMachine(in *rackv1.MachineObservation, uuid string) *rackv1.MachineObservation {
	m := &rackv1.MachineObservation{
		Uuid: uuid, Name: cleanText(in.GetName(), maxName),
		Uid: cleanText(in.GetUid(), maxName), Operation: cleanText(in.GetOperation(), maxName),
		PowerState: known(in.GetPowerState()), Cores: clamp(in.GetCores(), maxCores), MemoryMib: clamp(in.GetMemoryMib(), maxMiB),
		Architecture:   cleanText(in.GetArchitecture(), maxName),
		ConsoleLogPath: cleanText(in.GetConsoleLogPath(), maxMessage), Problem: cleanText(in.GetProblem(), maxMessage),
		Autostart: in.GetAutostart(), Type: known(in.GetType()), PinnedCores: cleanNumbers(in.GetPinnedCores(), 4*maxList), Hugepages: in.GetHugepages(),
		Firmware: known(in.GetFirmware()), SecureBoot: in.GetSecureBoot(), Profiles: cleanTexts(in.GetProfiles(), maxDevices),
		Image: cleanText(in.GetImage(), maxName), Project: cleanText(in.GetProject(), maxName),
	}
	for _, d := range cut(in.GetDisks(), maxDevices) {
		m.Disks = append(m.Disks, &vmhostv1.MachineDisk{
			StoragePool: cleanText(d.GetStoragePool(), maxName), Volume: cleanText(d.GetVolume(), maxName),
			SizeBytes: clamp(d.GetSizeBytes(), maxBytes), Device: cleanText(d.GetDevice(), maxName), Path: cleanText(d.GetPath(), maxMessage),
			Boot: d.GetBoot(), Name: cleanText(d.GetName(), maxName),
		})
	}
	for _, n := range cut(in.GetInterfaces(), maxDevices) {
		m.Interfaces = append(m.Interfaces, &vmhostv1.MachineInterface{
			Mac: strings.ToLower(cleanText(n.GetMac(), maxName)), Source: cleanText(n.GetSource(), maxName), Kind: known(n.GetKind()),
			Addresses: cleanTexts(n.GetAddresses(), maxDevices), MacvlanMode: known(n.GetMacvlanMode()), Vlan: clamp(n.GetVlan(), maxVLAN),
			FixedAddress: cleanText(n.GetFixedAddress(), maxName), Name: cleanText(n.GetName(), maxName), Boot: n.GetBoot(),
		})
	}
	fitMachine(m)
	return m
}

// fitMachine takes of what is long until the record is in bounds, and says so.
func fitMachine(m *rackv1.MachineObservation) {
	for proto.Size(m) > maxMachineBytes {
		m.Problem = "it has more than is kept; parts of its lists are left out"
		for _, n := range m.GetInterfaces() {
			n.Addresses = cut(n.GetAddresses(), len(n.GetAddresses())/2)
		}
		m.Disks = cut(m.GetDisks(), len(m.GetDisks())/2)
		m.Interfaces = cut(m.GetInterfaces(), max(len(m.GetInterfaces())/2, 1))
		m.Profiles = cut(m.GetProfiles(), len(m.GetProfiles())/2)
	}
}

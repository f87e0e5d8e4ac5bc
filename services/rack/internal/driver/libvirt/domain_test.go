package libvirt

import (
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
	"libvirt.org/go/libvirtxml"
	"pgregory.net/rapid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	goldenUID = "019ab000-1111-7222-8333-444455556666"
	goldenLog = "/var/lib/libvirt/images/vmhost-" + goldenUID + "-serial0.log"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); -update writes it anew:\n%s", name, diff)
	}
}

func goldenMachine() *rackv1.CreateMachine {
	return &rackv1.CreateMachine{Machine: &vmhostv1.Machine{
		Uid: goldenUID, Hostname: "web-1", HypervisorName: "web-1.lab", VmHost: "vmHosts/h1", Operation: "operations/019ab000-0000-7000-8000-000000000001",
		Architecture: "x86_64", Cores: 2, MemoryMib: 512,
		Disks: []*vmhostv1.MachineDisk{
			{StoragePool: "default", Volume: volumePrefix(goldenUID) + "0", SizeBytes: 1 << 30},
			{StoragePool: "vg0", Volume: volumePrefix(goldenUID) + "1", SizeBytes: 1 << 30},
			{StoragePool: "ceph", Volume: volumePrefix(goldenUID) + "2", SizeBytes: 1 << 30},
		},
		Interfaces: []*vmhostv1.MachineInterface{
			{Mac: "52:54:00:00:00:01", Source: "netboot", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK},
			{Mac: "52:54:00:00:00:02", Source: "br0", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE},
			{Mac: "52:54:00:00:00:03", Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, MacvlanMode: vmhostv1.MacvlanMode_MACVLAN_MODE_PASSTHRU},
		},
	}}
}

func goldenSources() []volumeSource {
	p := volumePrefix(goldenUID)
	return []volumeSource{
		{pool: "default", volume: p + "0", path: "/var/lib/libvirt/images/" + p + "0", format: "qcow2"},
		{pool: "vg0", volume: p + "1", path: "/dev/vg0/" + p + "1", block: true, format: "raw"},
		{pool: "ceph", volume: p + "2", format: "raw"},
	}
}

func TestDefinitionOfAMachine(t *testing.T) {
	for name, host := range map[string]hostFacts{
		"define-qemu.xml": {libVersion: 9_000_000, consoleLog: goldenLog},
		"define-kvm.xml":  {libVersion: 9_000_000, kvm: true, consoleLog: goldenLog},
		"define-old.xml":  {libVersion: 6_000_000, consoleLog: goldenLog},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := defineXML(goldenMachine(), goldenSources(), host)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, got+"\n")
		})
	}
}

func TestMarkupInAMachineStaysText(t *testing.T) {
	m := goldenMachine()
	m.Machine.Operation = `"/><evil xmlns="x`
	m.Machine.HypervisorName = "a</name><uuid>evil</uuid>"
	m.Machine.Interfaces[0].Source = "n'/><evil/>"
	text, err := defineXML(m, goldenSources(), hostFacts{})
	if err != nil {
		t.Fatal(err)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	d, err := parseDomain(text)
	if err != nil {
		t.Fatal(err)
	}
	if x.UUID != goldenUID || d.operation != m.GetMachine().GetOperation() || d.name != m.GetMachine().GetHypervisorName() ||
		d.interfaces[0].GetSource() != m.GetMachine().GetInterfaces()[0].GetSource() {
		t.Errorf("markup took effect: %+v", d)
	}
}

// what is observed of a domain, with statistics made up for its disks.
func observed(t *testing.T, text string) *rackv1.MachineObservation {
	t.Helper()
	d := &Driver{leases: newLeases()}
	one := &seen{state: lv.DomainRunning, record: &record{}}
	var err error
	if one.record.domain, err = parseDomain(text); err != nil {
		one.record.problem = err.Error()
	}
	if x := one.record.domain; x != nil {
		one.dom.Name = x.name
		if id, err := uuid.Parse(x.uuid); err == nil {
			one.dom.UUID = lv.UUID(id)
		}
		for i, k := range x.disks {
			one.blocks = append(one.blocks, blockStats{device: k.device, capacity: uint64(i+1) << 30})
		}
		d.leases.put("netboot", map[string][]string{"52:54:00:00:00:01": {"192.168.131.10", "fd00:131::10"}})
	}
	return d.observation(one,
		[]pool{{name: "default", path: "/var/lib/libvirt/images"}, {name: "vg0", path: "/dev/vg0"}},
		[]network{{name: "netboot", bridge: "virbr1", dhcp: true, active: true}})
}

// The XML files in testdata/domains are what libvirt 9.0 wrote of real domains,
// and some of what other hypervisors and hands write.
func TestObservationOfRealDomains(t *testing.T) {
	files, err := filepath.Glob("testdata/domains/*.xml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d domains in testdata, error %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out := protojson.Format(observed(t, string(text)))
			// protojson varies its white space on purpose.
			out = strings.ReplaceAll(out, ":  ", ": ")
			golden(t, filepath.Join("domains", strings.TrimSuffix(filepath.Base(f), ".xml")+".json"), out+"\n")
		})
	}
}

func TestOnlyAMachinesOwnUUIDMakesItOurs(t *testing.T) {
	define := func(change func(x *libvirtxml.Domain)) *domain {
		text, err := defineXML(goldenMachine(), goldenSources(), hostFacts{})
		if err != nil {
			t.Fatal(err)
		}
		var x libvirtxml.Domain
		if err := x.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		change(&x)
		if text, err = x.Marshal(); err != nil {
			t.Fatal(err)
		}
		d, err := parseDomain(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		name   string
		change func(x *libvirtxml.Domain)
		want   bool
	}{
		{"as made", func(*libvirtxml.Domain) {}, true},
		{"renamed", func(x *libvirtxml.Domain) { x.Name = "other" }, true},
		{"uuid in upper case", func(x *libvirtxml.Domain) { x.UUID = strings.ToUpper(x.UUID) }, true},
		{"cloned", func(x *libvirtxml.Domain) { x.UUID = uuid.NewString() }, false},
		{"metadata removed", func(x *libvirtxml.Domain) { x.Metadata = nil }, false},
		{"metadata of another namespace", func(x *libvirtxml.Domain) {
			x.Metadata.XML = strings.ReplaceAll(x.Metadata.XML, namespace, "https://example.com/")
		}, false},
		{"metadata nested in another's", func(x *libvirtxml.Domain) {
			x.Metadata.XML = `<o:o xmlns:o="urn:o">` + x.Metadata.XML + `</o:o>`
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := define(c.change).ours(); got != c.want {
				t.Errorf("ours is %v, want %v", got, c.want)
			}
		})
	}
}

func TestWhatIsMadeIsWhatIsSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := goldenMachine()
		m.Machine.Cores = rapid.Int32Range(1, 1024).Draw(t, "cores")
		m.Machine.MemoryMib = rapid.Int64Range(1, 1<<24).Draw(t, "memory")
		m.Machine.HypervisorName = rapid.StringMatching(`[a-z0-9][-a-z0-9]{0,20}(\.[a-z0-9]{1,20})?`).Draw(t, "name")
		disks := rapid.IntRange(0, 3).Draw(t, "disks")
		m.Machine.Disks = m.GetMachine().GetDisks()[:disks]
		text, err := defineXML(m, goldenSources()[:disks], hostFacts{kvm: rapid.Bool().Draw(t, "kvm"), consoleLog: goldenLog})
		if err != nil {
			t.Fatal(err)
		}
		x, err := parseDomain(text)
		if err != nil {
			t.Fatal(err)
		}
		if !x.ours() || x.cores != m.GetMachine().GetCores() || x.memoryMiB != m.GetMachine().GetMemoryMib() || x.name != m.GetMachine().GetHypervisorName() ||
			x.architecture != "x86_64" || len(x.disks) != disks || x.consoleLog != goldenLog {
			t.Fatalf("made %v, seen %+v", m, x)
		}
		if diff := cmp.Diff(m.GetMachine().GetInterfaces(), x.interfaces, protocmp.Transform()); diff != "" {
			t.Fatalf("interfaces (-made +seen):\n%s", diff)
		}
	})
}

// FuzzObservation feeds the reader what no libvirt writes: it must answer.
func FuzzObservation(f *testing.F) {
	files, err := filepath.Glob("testdata/domains/*.xml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("<domain><vcpu>99999999999999999999</vcpu><memory unit='parsec'>-1</memory></domain>")
	f.Fuzz(func(t *testing.T, text string) {
		o := observed(t, text)
		if o.GetCores() < 0 || o.GetMemoryMib() < 0 {
			t.Errorf("negative size: %v", o)
		}
		if o.GetProblem() == "" && (o.GetCores() == 0) {
			t.Errorf("no cores and no problem: %v", o)
		}
	})
}

// Every part of a real domain may be missing or damaged.
func TestDamagedDomainsHaveAProblemAndNoPanic(t *testing.T) {
	text, err := os.ReadFile("testdata/domains/ours-running.xml")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) {
		b := []byte(string(text))
		for range rapid.IntRange(1, 4).Draw(r, "damages") {
			i := rapid.IntRange(0, len(b)-1).Draw(r, "at")
			switch rapid.IntRange(0, 2).Draw(r, "how") {
			case 0:
				b[i] = rapid.Byte().Draw(r, "byte")
			case 1:
				b = b[:i+1]
			default:
				j := rapid.IntRange(i, min(len(b), i+200)).Draw(r, "to")
				b = append(b[:i:i], b[j:]...)
			}
			if len(b) == 0 {
				break
			}
		}
		o := observed(t, string(b))
		if o.GetProblem() == "" && (o.GetCores() < 1 || o.GetMemoryMib() < 0) {
			r.Fatalf("no problem, and %v", o)
		}
	})
}

func TestMemoryUnits(t *testing.T) {
	for _, c := range []struct {
		value, unit string
		want        int64
		bad         bool
	}{
		{"131072", "KiB", 128, false},
		{"131072", "", 128, false},
		{"131073", "KiB", 129, false},
		{"2", "GiB", 2048, false},
		{"1000", "MB", 954, false},
		{" 1048576 ", "b", 1, false},
		{"1", "parsec", 0, true},
		{"-1", "KiB", 0, true},
		{"18446744073709551615", "TiB", 0, true},
		{"", "KiB", 0, true},
	} {
		got, err := mebibytes(c.value, c.unit)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%q %q is %d, error %v; want %d", c.value, c.unit, got, err, c.want)
		}
	}
}

func TestNetworksOfLibvirt(t *testing.T) {
	for name, want := range map[string]network{
		"nat.xml": {
			bridge: "virbr1", cidrs: []string{"192.168.131.0/24", "fd00:131::/64"}, dhcp: true, forward: "nat",
			addresses: []string{"192.168.131.1", "fd00:131::1"},
		},
		"bridged.xml": {bridge: "br0", bridged: true, vlan: 42, forward: "bridge", switched: true},
		"hostdev.xml": {forward: "hostdev", uplinks: []string{"ens1f0"}, functionsOf: "ens1f0"},
		"fixed.xml": {
			bridge: "virbr2", cidrs: []string{"10.5.0.0/16"}, dhcp: true, forward: "route", uplinks: []string{"eth1"}, addresses: []string{"10.5.0.1"},
			mtu: 9000, fixed: map[string]string{"52:54:00:00:00:0a": "10.5.0.10"},
		},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", "networks", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseNetwork(string(text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(network{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCapabilitiesSayWhatRunsHere(t *testing.T) {
	read := func(name string) *libvirtxml.Caps {
		text, err := os.ReadFile(filepath.Join("testdata", "capabilities", name))
		if err != nil {
			t.Fatal(err)
		}
		var c libvirtxml.Caps
		if err := xml.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
		return &c
	}
	tcg := read("tcg.xml")
	if got := architectures(tcg); !cmp.Equal(got, []string{"x86_64", "i686"}) || hasKVM(tcg, "") {
		t.Errorf("architectures %v, KVM %v", got, hasKVM(tcg, ""))
	}
	kvm := read("tcg.xml")
	for i, g := range kvm.Guests {
		if g.Arch.Name == "x86_64" {
			kvm.Guests[i].Arch.Domains = append(kvm.Guests[i].Arch.Domains, libvirtxml.CapsGuestDomain{Type: "kvm"})
		}
	}
	if !hasKVM(kvm, "") || !hasKVM(kvm, "x86_64") || hasKVM(kvm, "aarch64") {
		t.Error("KVM is where capabilities list its domain type, and nowhere else")
	}
	nodes := numaNodes(tcg, map[int32]map[uint32]uint64{0: {2048: 7}})
	if len(nodes) != 1 || len(nodes[0].GetCores()) != 2 || nodes[0].GetMemoryMib() < 1024 {
		t.Fatalf("NUMA nodes %v", nodes)
	}
	for _, p := range nodes[0].GetHugePages() {
		if p.GetSizeKib() == 4 || (p.GetSizeKib() == 2048 && p.GetFree() != 7) {
			t.Errorf("huge pages %v", p)
		}
	}
	if got := architectures(&libvirtxml.Caps{}); got != nil || numaNodes(&libvirtxml.Caps{}, nil) != nil || cpuModel(&libvirtxml.Caps{}) != "" {
		t.Error("empty capabilities give something")
	}
}

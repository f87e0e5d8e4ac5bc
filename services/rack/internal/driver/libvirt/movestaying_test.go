package libvirt

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func volumesIn(pool string, names ...string) *vmhostv1.Machine {
	out := &vmhostv1.Machine{Uid: "u", HypervisorName: "m"}
	for _, name := range names {
		out.Disks = append(out.Disks, &vmhostv1.MachineDisk{StoragePool: pool, Volume: name})
	}
	return out
}

func TestAMoveThatDoesNotSayWhichDisksStayIsRefused_P3(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to []string
		staying  []int32
		want     []int
		refused  bool
	}{
		{"none", []string{"a"}, []string{"b"}, nil, nil, false},
		{"all", []string{"a", "b"}, []string{"a", "b"}, []int32{1, 0}, []int{0, 1}, false},
		{"one of two", []string{"a", "b"}, []string{"a", "vmhost-u-1"}, []int32{0}, []int{0}, false},
		{"the same twice", []string{"a"}, []string{"a"}, []int32{0, 0}, []int{0}, false},
		{"one that it has not", []string{"a"}, []string{"a"}, []int32{1}, nil, true},
		{"one before the first", []string{"a"}, []string{"a"}, []int32{-1}, nil, true},
		{"under another name", []string{"a"}, []string{"b"}, []int32{0}, nil, true},
		{"under no name", []string{""}, []string{""}, []int32{0}, nil, true},
		{"of another number of disks", []string{"a", "b"}, []string{"a"}, []int32{0}, nil, true},
		{"with a copy of its name", []string{"a", "b"}, []string{"a", "a"}, []int32{0}, nil, true},
		{"with a copy of what has its name", []string{"a", "a"}, []string{"a", "b"}, []int32{0}, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := staysOf(&rackv1.MoveMachine{Machine: volumesIn("p", test.from...), Moved: volumesIn("q", test.to...), StayingDisks: test.staying})
			if errors.Is(err, hypervisor.ErrRefused) != test.refused || !slices.Equal(slices.Sorted(maps.Keys(got)), test.want) {
				t.Errorf("%v stay, error %v", got, err)
			}
		})
	}
}

func TestWhatStaysIsInNoListOfWhatIsRemoved_P3(t *testing.T) {
	names := []string{volumePrefix("u") + "0", volumePrefix("u") + "1", volumePrefix("u") + "2"}
	m := &move{what: &rackv1.MoveMachine{Machine: volumesIn("p", names...), Moved: volumesIn("q", names...), StayingDisks: []int32{0, 2}}, ref: hypervisor.Ref{UID: "u"}}
	var err error
	if m.stays, err = staysOf(m.what); err != nil {
		t.Fatal(err)
	}
	for where, one := range map[string]*vmhostv1.Machine{"source": m.leaving(), "destination": m.ours()} {
		if len(one.GetDisks()) != 1 || one.GetDisks()[0].GetVolume() != names[1] || one.GetUid() != "u" || one.GetHypervisorName() != "m" {
			t.Errorf("on the %s is removed %v", where, one)
		}
	}
	if got := m.what.GetMachine().GetDisks(); len(got) != 3 {
		t.Errorf("the step has lost disks: %v", got)
	}
	if !m.staysIn(m.what.GetMoved(), "q") || m.staysIn(m.what.GetMoved(), "p") {
		t.Error("it is not told in which pool disks stay")
	}
}

func TestLibvirtCopiesNothingOfWhatStays(t *testing.T) {
	const copies, unsafe = uint32(lv.MigrateNonSharedDisk), uint32(lv.MigrateUnsafe)
	for _, test := range []struct {
		name   string
		stay   bool
		copied []string
		flags  uint32
		named  []string
	}{
		{"all are copied", false, []string{"vda", "vdb"}, copies, nil}, // it copies all by itself
		{"it has none", false, nil, copies, nil},
		{"some stay", true, []string{"vda", "vdc"}, copies | unsafe, []string{"vda", "vdc"}},
		{"all stay", true, nil, unsafe, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &migration{}
			g.storage(test.stay, test.copied)
			var named []string
			for _, p := range g.params {
				if s, ok := p.Value.I.(string); ok && p.Field == "migrate_disks" {
					named = append(named, s)
				}
			}
			if g.flags != test.flags || !slices.Equal(named, test.named) {
				t.Errorf("flags %v, disks %v", lv.DomainMigrateFlags(g.flags), named)
			}
		})
	}
}

func TestADiskIsHandedOverLiveOnlyIfTheDestinationReadsWhatTheSourceWrote(t *testing.T) {
	const old, recent = 3_001_001, 4_000_000
	for _, test := range []struct {
		cache string
		qemu  uint64
		live  bool
	}{
		{"none", old, true},
		{"directsync", old, true},
		{"", recent, true},
		{"default", recent, true},
		{"writeback", recent, true},
		{"writethrough", recent, true},
		{"", old, false},
		{"writeback", old, false},
		{"writethrough", old, false},
		{"unsafe", recent, false},
	} {
		err := liveInPlace(movedDisk{device: "vda", cache: test.cache}, test.qemu)
		if (err == nil) != test.live || err != nil && !errors.Is(err, hypervisor.ErrUnsupported) {
			t.Errorf("cache mode %q with QEMU %s: %v", test.cache, versionOf(test.qemu), err)
		}
	}
}

func TestADiskThatStaysKeepsWhatItsDefinitionSays(t *testing.T) {
	with := func(disk string) string {
		return `<domain><metadata><machine xmlns="` + namespace + `" uid="u"/></metadata><devices>` + disk + `<serial><log file='/a/l' append='off'/></serial></devices></domain>`
	}
	for name, test := range map[string]struct {
		disk, want string
		source     volumeSource
	}{
		"a file": {
			`<disk type='file'><driver type='raw'/><source file='/a/v' index='1'><encryption format='luks'/></source><backingStore/></disk>`,
			`<disk type='file'><driver type='raw'/><source file='/b/v' index='1'><encryption format='luks'/></source></disk>`,
			volumeSource{pool: "b", volume: "v", path: "/b/v", format: "raw", stays: true},
		},
		"a device": {
			`<disk type='block'><driver type='raw'/><source dev='/dev/a/v'><reservations managed='yes'/></source></disk>`,
			`<disk type='block'><driver type='raw'/><source dev='/dev/b/v'><reservations managed='yes'/></source></disk>`,
			volumeSource{pool: "b", volume: "v", path: "/dev/b/v", block: true, format: "raw", stays: true},
		},
		"a volume": {
			`<disk type='volume'><driver type='raw'/><source pool='a' volume='v' startupPolicy='mandatory'/></disk>`,
			`<disk type='volume'><driver type='raw'/><source pool='b' volume='v' startupPolicy='mandatory'/></disk>`,
			volumeSource{pool: "b", volume: "v", format: "raw", stays: true},
		},
		"a volume that the destination has a path for": {
			`<disk type='volume'><driver type='qcow2'/><source pool='a' volume='v'/></disk>`,
			`<disk type='file'><driver type='qcow2'/><source file="/b/v"></source></disk>`,
			volumeSource{pool: "b", volume: "v", path: "/b/v", format: "qcow2", stays: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := arrival{moved: volumesIn("b", "v"), disks: []volumeSource{test.source}, logs: map[string]string{"/a/l": "/b/l"}}
			got, err := arrive(with(test.disk), a)
			if err != nil || !strings.Contains(got, test.want) || !strings.Contains(got, "file='/b/l' append='off'") {
				t.Errorf("error %v, got\n%s\nwant\n%s", err, got, test.want)
			}
			a.appendLogs = true
			if got, err = arrive(with(test.disk), a); err != nil || !strings.Contains(got, "file='/b/l' append='on'") {
				t.Errorf("the log that stays is begun anew: error %v\n%s", err, got)
			}
		})
	}
}

func TestWhatLibvirtRemovesWithADefinitionIsFound(t *testing.T) {
	x, err := readXMLText(`<domain><os><nvram template='/t' format='raw'> /pool/a_VARS.fd </nvram><nvram type='file'><source file='/pool/b_VARS.fd'/></nvram><nvram/></os>
		<devices><tpm><backend type='emulator'><source type='dir' path='/pool/tpm'/></backend></tpm><disk><source file='/pool/v'/></disk></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	got := besideDisks(x)
	for _, want := range []string{"/pool/a_VARS.fd", "/pool/b_VARS.fd", "/pool/tpm"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among %q", want, got)
		}
	}
	if slices.Contains(got, "/pool/v") {
		t.Errorf("a disk is among %q", got)
	}
}

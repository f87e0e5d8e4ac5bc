package libvirt

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestRealFixMakesAPoolAndStartsWhatDoesNotRun(t *testing.T) {
	socket, _ := ownLibvirtd(t)
	r := rawConnection(t, socket)
	d := openTarget(t, NewOpener(Config{LocalSockets: map[string]string{"": socket}}), hypervisor.Target{Address: mustParse(t, "qemu:///system")})
	ctx := timeout(t, 30*time.Second)
	fix := func(want ...string) {
		t.Helper()
		got, err := d.Fix(ctx)
		if err != nil || len(got) != len(want)/2 {
			t.Fatalf("fixed %v, error %v; want %v", got, err, want)
		}
		for i := 0; i < len(want); i += 2 {
			if !strings.Contains(got[want[i]], want[i+1]) {
				t.Errorf("%s: %q, want %q in it", want[i], got[want[i]], want[i+1])
			}
		}
	}
	fix("storage-pool", "made storage pool default")
	fix() // again there is nothing to do
	p, err := r.StoragePoolLookupByName("default")
	if err != nil {
		t.Fatal(err)
	}
	if start, err := r.StoragePoolGetAutostart(p); err != nil || start != 1 {
		t.Errorf("autostart of the pool is %d, error %v", start, err)
	}
	o, err := d.Probe(ctx)
	if err != nil || len(o.GetStoragePools()) != 1 || !o.GetStoragePools()[0].GetActive() || o.GetStoragePools()[0].GetPath() != defaultPoolPath {
		t.Errorf("storage pools %v, error %v", o.GetStoragePools(), err)
	}
	if err := r.StoragePoolDestroy(p); err != nil {
		t.Fatal(err)
	}
	if err := r.StoragePoolSetAutostart(p, 0); err != nil {
		t.Fatal(err)
	}
	text, err := (&libvirtxml.Network{Name: "isolated", Bridge: &libvirtxml.NetworkBridge{Name: "vmhfix0"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.NetworkDefineXML(text); err != nil {
		t.Fatal(err)
	}
	if o, err := d.Probe(ctx); err != nil || o.GetStoragePools()[0].GetActive() || o.GetStoragePools()[0].GetProblem() == "" {
		t.Errorf("a stopped pool is %v, error %v; want a problem", o.GetStoragePools(), err)
	}
	fix("storage-pool", "started storage pool default", "network", "started network isolated")
	n, err := r.NetworkLookupByName("isolated")
	if err != nil {
		t.Fatal(err)
	}
	if start, err := r.NetworkGetAutostart(n); err != nil || start != 1 {
		t.Errorf("autostart of the network is %d, error %v", start, err)
	}
	fix()
}

var connections = regexp.MustCompile(`<network connections='\d+'>`)

func TestRealFixedAddressIsGivenAndTakenBack(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	network := func(kept bool) string {
		n, err := r.NetworkLookupByName("default")
		if err != nil {
			t.Fatal(err)
		}
		text, err := r.NetworkGetXMLDesc(n, map[bool]uint32{true: 1}[kept])
		if err != nil {
			t.Fatal(err)
		}
		// How many are attached is the business of whoever else is on the host.
		return connections.ReplaceAllString(text, "<network>")
	}
	before := [2]string{network(false), network(true)}
	probed, err := d.Probe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	subnet := ""
	for _, n := range probed.GetNetworks() {
		if n.GetName() == "default" {
			subnet = strings.TrimSuffix(n.GetCidrs()[0], "0/24")
		}
	}
	c := realMachine(t, d, "default", 0)
	c.Machine.Interfaces[0].FixedAddress = subnet + "77"
	for range 2 { // again changes nothing
		o, err := d.Create(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.GetInterfaces()[0].GetFixedAddress(); got != subnet+"77" {
			t.Errorf("seen with the fixed address %q", got)
		}
	}
	entry := "<host mac='" + c.GetMachine().GetInterfaces()[0].GetMac() + "' ip='" + subnet + "77'/>"
	for i, kept := range []bool{false, true} {
		if got := network(kept); strings.Count(got, entry) != 1 {
			t.Errorf("%d: the network has not the entry %s once:\n%s", i, entry, got)
		}
	}
	other := realMachine(t, d, "default", 0)
	other.Machine.Interfaces[0].FixedAddress = subnet + "77"
	_, err = d.Create(ctx, other)
	wantClass(t, err, hypervisor.ErrForeign)
	if err := d.Delete(ctx, other.GetMachine()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(network(true), entry) {
		t.Error("the delete of another machine took the entry")
	}
	other.Machine.Interfaces[0].FixedAddress = "203.0.113.1"
	_, err = d.Create(ctx, other)
	wantClass(t, err, hypervisor.ErrUnsupported)
	other.Machine.Interfaces[0] = &vmhostv1.MachineInterface{
		Mac: "52:54:00:" + uuid.NewString()[:2] + ":00:01", Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, Vlan: 7,
	}
	_, err = d.Create(ctx, other)
	wantClass(t, err, hypervisor.ErrUnsupported)
	if !strings.Contains(err.Error(), `"default"`) {
		t.Errorf("the refusal does not name the network: %v", err)
	}
	other.Machine.Interfaces = nil
	if err := d.Delete(ctx, c.GetMachine()); err != nil {
		t.Fatal(err)
	}
	if after := [2]string{network(false), network(true)}; after != before {
		t.Errorf("the network is not what it was:\n%s\n%s", before, after)
	}
}

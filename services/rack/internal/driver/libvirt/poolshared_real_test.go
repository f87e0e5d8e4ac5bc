package libvirt

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// definePool defines a storage pool until the test ends, and starts it if wanted.
func (r raw) definePool(t testing.TB, text string, start bool) {
	t.Helper()
	p, err := r.StoragePoolDefineXML(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.StoragePoolUndefine(p) })
	if start {
		if err := r.StoragePoolCreate(p, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.StoragePoolDestroy(p) })
	}
}

func probedPool(t testing.TB, h devhost, host, name string) *vmhostv1.StoragePool {
	t.Helper()
	d := openTarget(t, NewOpener(Config{LocalSockets: map[string]string{host: h.socket}}), hypervisor.Target{Name: "vmHosts/" + host, Address: mustParse(t, "qemu+unix://"+host+"/system")})
	o, err := d.Probe(timeout(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(o.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetName() == name })
	if i < 0 {
		t.Fatalf("%s has no pool %s", host, name)
	}
	return o.GetStoragePools()[i]
}

// What libvirt writes of a pool, which it need not have reached, says what is behind
// it, the same on two hosts that mount it in different places.
func TestRealLibvirtTellsWhatIsBehindANetworkPool(t *testing.T) {
	name := "vmhost-test-" + uuid.NewString()[:8]
	for i, host := range []string{"h1", "h2"} {
		h := devhostNamed(t, []string{"H1", "H2"}[i])
		rawConnection(t, h.socket).definePool(t, fmt.Sprintf(
			"<pool type='netfs'><name>%s</name><source><host name='nas.invalid'/><dir path='/export/vm'/><format type='%s'/></source><target><path>/mnt/%s-%d</path></target></pool>",
			name, []string{"nfs", "auto"}[i], name, i), false)
		if p := probedPool(t, h, host, name); p.GetShared() != "nfs://nas.invalid/export/vm" || p.GetActive() {
			t.Errorf("%s: %v", host, p)
		}
	}
}

// A folder that two hosts have says nothing of itself. A volume that one of them has
// made is no machine's of the other, and is never removed with one of it (P3, P5).
func TestRealFolderOfTwoHostsIsForTheOperatorToDeclare(t *testing.T) {
	name := "vmhost-test-" + uuid.NewString()[:8]
	folder, err := os.MkdirTemp("", name) //nolint:usetesting // libvirt's namespaces see the machine's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	xml := fmt.Sprintf("<pool type='dir'><name>%s</name><target><path>%s</path></target></pool>", name, folder)
	hosts := []devhost{devhostNamed(t, "H1"), devhostNamed(t, "H2")}
	var pools []lv.StoragePool
	var raws []raw
	for _, h := range hosts {
		r := rawConnection(t, h.socket)
		r.definePool(t, xml, true)
		p, err := r.StoragePoolLookupByName(name)
		if err != nil {
			t.Fatal(err)
		}
		raws, pools = append(raws, r), append(pools, p)
	}
	v, err := raws[0].StorageVolCreateXML(pools[0], "<volume><name>vmhost-"+uuid.NewString()+"-0</name><capacity unit='bytes'>1048576</capacity></volume>", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := raws[1].StoragePoolRefresh(pools[1], 0); err != nil {
		t.Fatal(err)
	}
	if _, err := raws[1].StorageVolLookupByName(pools[1], v.Name); err != nil {
		t.Fatalf("the folder is not one of both hosts: %v", err)
	}
	for i, host := range []string{"h1", "h2"} {
		p := probedPool(t, hosts[i], host, name)
		if p.GetShared() != "" || p.GetOursBytes() != 0 || !p.GetActive() {
			t.Errorf("%s: %v", host, p)
		}
	}
	if _, err := raws[0].StorageVolLookupByName(pools[0], v.Name); err != nil {
		t.Errorf("looking has removed it: %v", err)
	}
}

package libvirt

import (
	"errors"
	"strings"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// defineText defines a domain from text, as a person would, and removes it.
func (r raw) defineText(t testing.TB, text string) {
	t.Helper()
	dom, err := r.DomainDefineXML(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.DomainDestroy(dom)
		_ = r.DomainUndefine(dom)
	})
}

// inactive is what `virsh dumpxml --inactive --security-info` writes.
func (r raw) inactive(t testing.TB, id string) string {
	t.Helper()
	text, err := r.DomainGetXMLDesc(r.domain(t, id), lv.DomainXMLInactive|lv.DomainXMLSecure)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// P5: what was adopted and released is byte for byte what it was.
func TestRealAdoptedAndReleasedIsByteIdentical(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	const body = `<memory>65536</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>`
	const others = `<app:notes xmlns:app="urn:app" owner="somebody"><app:tag>one</app:tag>
   <!-- written by hand -->
 <app:tag/></app:notes>`
	for name, c := range map[string]struct{ metadata, rest, attrs string }{
		"no metadata":           {},
		"empty metadata":        {metadata: `<metadata/>`},
		"others' metadata":      {metadata: `<metadata>` + others + `</metadata>`},
		"others' on many lines": {metadata: "<metadata>\n    " + others + "\n<x:y xmlns:x='urn:x'/>\n  </metadata>"},
		"parts that libvirtxml does not know": {
			attrs: ` xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'`,
			rest: `<qemu:commandline><qemu:arg value='-fw_cfg'/><qemu:arg value='name=opt/x,string=y'/></qemu:commandline>` +
				`<description>a &lt;metadata/&gt; in words</description>` +
				`<devices><graphics type='vnc' port='-1' passwd='secret'/></devices>`,
		},
	} {
		for _, running := range []bool{false, true} {
			t.Run(name+map[bool]string{false: " off", true: " running"}[running], func(t *testing.T) {
				ctx := timeout(t, time.Minute)
				id := uuid.NewString()
				r.defineText(t, `<domain type='qemu'`+c.attrs+`><name>adopt-`+id[:8]+`</name><uuid>`+id+`</uuid>`+c.metadata+body+c.rest+`</domain>`)
				if running {
					if err := r.DomainCreate(r.domain(t, id)); err != nil {
						t.Fatal(err)
					}
				}
				before := r.inactive(t, id)
				ref := hypervisor.Ref{UID: uuid.NewString(), UUID: id}
				if o, err := d.Adopt(ctx, ref, "operations/1"); err != nil || o.GetUid() != ref.UID {
					t.Fatalf("adopt: %v, error %v", o, err)
				}
				adopted := r.inactive(t, id)
				if !strings.Contains(adopted, ref.UID) {
					t.Fatal("the domain as it is kept does not carry our uid")
				}
				if c.metadata != "" && c.metadata != `<metadata/>` && !strings.Contains(adopted, "<app:tag>one</app:tag>") {
					t.Errorf("others' metadata are gone:\n%s", adopted)
				}
				if o, err := d.Release(ctx, ref); err != nil || o.GetUid() != "" {
					t.Fatalf("release: %v, error %v", o, err)
				}
				if diff := cmp.Diff(before, r.inactive(t, id)); diff != "" {
					t.Errorf("not what it was (-before +after):\n%s", diff)
				}
				want := vmhostv1.PowerState_POWER_STATE_OFF
				if running {
					want = vmhostv1.PowerState_POWER_STATE_ON
				}
				if o, err := d.Machine(ctx, id); err != nil || o.GetPowerState() != want || o.GetUid() != "" {
					t.Errorf("the machine is %v, error %v", o, err)
				}
			})
		}
	}
}

func TestRealCloneOfAnAdoptedMachineIsForeign(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	id, clone := uuid.NewString(), uuid.NewString()
	r.define(t, foreignDomain(id, "adopted-"+id[:8], 1, 64))
	ref := hypervisor.Ref{UID: uuid.NewString(), UUID: id}
	if _, err := d.Adopt(ctx, ref, "operations/1"); err != nil {
		t.Fatal(err)
	}
	r.defineText(t, strings.NewReplacer("<uuid>"+id, "<uuid>"+clone, "<name>", "<name>clone-of-").Replace(r.inactive(t, id)))
	before := r.dump(t, clone)
	if o, err := d.Machine(ctx, clone); err != nil || o.GetUid() != "" {
		t.Errorf("the clone is seen as %v, error %v; want without uid", o, err)
	}
	for _, uid := range []string{ref.UID, uuid.NewString()} {
		as := hypervisor.Ref{UID: uid, UUID: clone}
		_, err := d.Adopt(ctx, as, "operations/1")
		wantClass(t, err, hypervisor.ErrForeign)
		_, err = d.Release(ctx, as)
		wantClass(t, err, hypervisor.ErrForeign)
		_, err = d.SetPower(ctx, as, rackv1.PowerAction_POWER_ACTION_START, 0)
		wantClass(t, err, hypervisor.ErrForeign)
	}
	if diff := cmp.Diff(before, r.dump(t, clone)); diff != "" {
		t.Errorf("the clone changed:\n%s", diff)
	}
}

// P5: a record may list a volume that was never, or is no longer, the machine's.
func TestRealDeleteOfAnAdoptedMachineRemovesItsListedVolumesOnly(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	id := uuid.NewString()
	listed, kept, others := "listed-"+id[:8], "kept-"+id[:8], "others-"+id[:8]
	for _, v := range []string{listed, kept, others} {
		r.addVolume(t, "default", v, 1<<20)
	}
	disk := func(volume, device string) string {
		return `<disk type='file'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/` + volume + `'/><target dev='` + device + `'/></disk>`
	}
	r.defineText(t, `<domain type='qemu'><name>adopt-`+id[:8]+`</name><uuid>`+id+`</uuid><memory>65536</memory><vcpu>1</vcpu>`+
		`<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>`+disk(listed, "vda")+disk(kept, "vdb")+`</devices></domain>`)
	ref := hypervisor.Ref{UID: uuid.NewString(), UUID: id}
	o, err := d.Adopt(ctx, ref, "operations/1")
	if err != nil || len(o.GetDisks()) != 2 || o.GetDisks()[0].GetVolume() != listed {
		t.Fatalf("adopted as %v, error %v", o, err)
	}
	record := &vmhostv1.Machine{Uid: ref.UID, HypervisorUuid: id, Disks: []*vmhostv1.MachineDisk{
		{StoragePool: "default", Volume: listed}, {StoragePool: "default", Volume: others},
	}}
	wantClass(t, d.Delete(ctx, record), hypervisor.ErrForeign)
	if o, err := d.Machine(ctx, id); err != nil || o.GetUid() != ref.UID {
		t.Fatalf("the machine is %v, error %v; want it there", o, err)
	}
	record.Disks = record.GetDisks()[:1]
	if err := d.Delete(ctx, record); err != nil {
		t.Fatal(err)
	}
	left := r.volumes(t, "default")
	if contains(left, listed) || !contains(left, kept) || !contains(left, others) {
		t.Errorf("left are %v", left)
	}
}

// P5: what others are laid over may be a template, whatever machine it is on.
func TestRealDeleteOfAnAdoptedMachineKeepsWhatOthersAreLaidOver(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	for name, c := range map[string]struct {
		beside, used, running bool
	}{
		"a volume of nobody":                   {},
		"a file that libvirt was not told of":  {beside: true},
		"a disk of a machine that is off":      {beside: true, used: true},
		"a disk of a machine that runs":        {used: true, running: true},
		"a file outside pools, that is in use": {beside: true, used: true, running: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := timeout(t, time.Minute)
			id := uuid.NewString()
			base, overlay := "base-"+id[:8], "overlay-"+id[:8]
			const folder = "/var/lib/libvirt/images/"
			at := folder + overlay
			if c.beside && c.running {
				at = "/var/lib/libvirt/" + overlay
			}
			r.addVolume(t, "default", base, 1<<20)
			if c.beside {
				r.inside(t, h.socket, "qemu-img create -q -f qcow2 -b "+folder+base+" -F qcow2 "+at)
				t.Cleanup(func() { r.inside(t, h.socket, "rm -f "+at) })
			} else {
				r.addOverlay(t, "default", overlay, folder+base)
			}
			disk := func(path string) string {
				return `<devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='` + path + `'/><target dev='vda' bus='virtio'/></disk></devices>`
			}
			domain := func(id, path string) string {
				return `<domain type='qemu'><name>laid-` + id[:8] + `</name><uuid>` + id + `</uuid><memory>65536</memory><vcpu>1</vcpu>` +
					`<os><type arch='x86_64' machine='q35'>hvm</type></os>` + disk(path) + `</domain>`
			}
			r.defineText(t, domain(id, folder+base))
			other := uuid.NewString()
			if c.used {
				r.defineText(t, domain(other, at))
			}
			if c.running {
				if err := r.DomainCreate(r.domain(t, other)); err != nil {
					t.Fatal(err)
				}
			}
			ref := hypervisor.Ref{UID: uuid.NewString(), UUID: id}
			if _, err := d.Adopt(ctx, ref, "operations/1"); err != nil {
				t.Fatal(err)
			}
			record := &vmhostv1.Machine{Uid: ref.UID, HypervisorUuid: id, Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: base}}}
			err := d.Delete(ctx, record)
			wantClass(t, err, hypervisor.ErrBusy)
			if e, ok := errors.AsType[*hypervisor.Error](err); !ok || e.Hint == "" {
				t.Errorf("no hint in %v", err)
			}
			if !contains(r.volumes(t, "default"), base) {
				t.Fatal("the volume is gone that another is laid over")
			}
			if o, err := d.Machine(ctx, id); err != nil || o.GetUid() != ref.UID {
				t.Errorf("the machine is %v, error %v; want it there", o, err)
			}
			if _, err := d.Release(ctx, ref); err != nil {
				t.Error(err)
			}
		})
	}
}

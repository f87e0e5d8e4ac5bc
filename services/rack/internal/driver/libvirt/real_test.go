package libvirt

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// harness connects the conformance suite to a real host through a proxy.
func harness(t *testing.T, h devhost, p *hypervisortest.Proxy, target hypervisor.Target) hypervisortest.Harness {
	t.Helper()
	r := rawConnection(t, h.socket)
	sockets := map[string]string{}
	if target.Address.Transport == hypervisor.TransportUnix {
		sockets["h1"] = p.At()
	} else {
		target.Address = p.Address(target.Address)
	}
	opener := &damaging{Opener: NewOpener(Config{LocalSockets: sockets})}
	out := hypervisortest.Harness{
		Opener: opener, Target: target, AddBroken: addBroken(r, opener), Guest: realGuest(), Deaf: deaf, PinTo: []int32{1, 0},
		StoragePool: "default", Network: "default", MemoryMiB: 128,
		AddForeign: func(t testing.TB, f hypervisortest.Foreign) {
			r.define(t, foreignDomain(f.UUID, f.Name, f.Cores, f.MemoryMiB))
		},
		ForeignState: r.dump,
		AddVolume:    r.addVolume,
		Volumes:      r.volumes,
		Disconnect:   func(testing.TB) { p.Drop() },
		// What was held up never arrives: libvirt 9.0 dies, seldom, of a connection that
		// ends while it registers for events on it.
		Hang: func(testing.TB) func() { p.Hang(); return sync.OnceFunc(func() { p.Drop(); p.Flow() }) },
		ChangeOutside: func(t testing.TB, id string) {
			if err := r.DomainCreate(r.domain(t, id)); err != nil {
				t.Fatal(err)
			}
		},
	}
	if small := "small-" + uuid.NewString()[:6]; r.addSmallPool(t, h.socket, small) {
		// qcow2 files are thin, but not even an empty one fits.
		out.ThickPool, out.TooLarge = small, 1<<30
	}
	return out
}

func TestRealUnixKeepsTheRulesOfConnections(t *testing.T) {
	h := theDevhost(t)
	p := hypervisortest.NewProxy(t, "unix", h.socket)
	hypervisortest.RunConnection(t, harness(t, h, p, hypervisor.Target{Name: "vmHosts/h1", Address: mustParse(t, "qemu+unix://h1/system")}))
}

func TestRealSSHKeepsTheRulesOfHypervisors(t *testing.T) {
	h := theDevhost(t)
	p := hypervisortest.NewProxy(t, "tcp", h.ip+":22")
	keys := knownHostKeys(t, h.ip)
	target := hypervisor.Target{Name: "vmHosts/h1", Address: mustParse(t, h.ssh), HostKey: keys["ssh-ed25519"], Credential: sshKey(t)}
	c := harness(t, h, p, target)
	wrongKey, wrongCredential := c.Target, c.Target
	// A good key of another machine: fetched from none, made here.
	wrongKey.HostKey = authorizedKey(newSigner(t).PublicKey())
	wrongCredential.Credential = &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: "wrong"}}
	c.WrongHostKey, c.WrongCredential = &wrongKey, &wrongCredential
	hypervisortest.Run(t, c)
}

func TestRealTLSKeepsTheRulesOfConnections(t *testing.T) {
	h := theDevhost(t)
	address := mustParse(t, h.tls)
	p := hypervisortest.NewProxy(t, "tcp", address.HostPort())
	pin, _, err := NewOpener(Config{}).HostKey(timeout(t, 10*time.Second), address)
	if err != nil {
		t.Fatal(err)
	}
	credential := tlsCredential(t)
	// By pin alone: the proxy's address is not in the certificate.
	credential.GetTls().CaPem = ""
	c := harness(t, h, p, hypervisor.Target{Name: "vmHosts/h1", Address: address, HostKey: pin, Credential: credential})
	wrongKey, wrongCredential := c.Target, c.Target
	wrongKey.HostKey = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	wrongCredential.Credential = selfSigned(t)
	c.WrongHostKey, c.WrongCredential = &wrongKey, &wrongCredential
	hypervisortest.RunConnection(t, c)
}

func TestRealTLSVerifiesByTheCAAsWell(t *testing.T) {
	h := theDevhost(t)
	o := NewOpener(Config{})
	target := hypervisor.Target{Address: mustParse(t, h.tls), Credential: tlsCredential(t)}
	if _, err := openTarget(t, o, target).Probe(timeout(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	p := hypervisortest.NewProxy(t, "tcp", target.Address.HostPort())
	target.Address = p.Address(target.Address)
	_, err := o.Open(timeout(t, 10*time.Second), target)
	wantClass(t, err, hypervisor.ErrHostKey)
}

func TestRealSSHLogsInByPasswordAndKnowsTheHostByAnyOfItsKeys(t *testing.T) {
	h := theDevhost(t)
	o := NewOpener(Config{})
	for kind, key := range knownHostKeys(t, h.ip) {
		parsed, err := parseHostKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, confirmed := range []string{key, parsed.fingerprint} {
			d := openTarget(t, o, hypervisor.Target{Address: mustParse(t, h.ssh), HostKey: confirmed, Credential: sshPassword(t)})
			if _, err := d.Machines(timeout(t, 20*time.Second)); err != nil {
				t.Errorf("%s, confirmed as %s: %v", kind, confirmed, err)
			}
			_ = d.Close()
		}
	}
}

// realMachine is a machine to create on the host; it is removed at the end.
func realMachine(t *testing.T, d *Driver, network string, disks int) *rackv1.CreateMachine {
	t.Helper()
	uid := uuid.Must(uuid.NewV7()).String()
	short := uid[len(uid)-6:]
	m := &vmhostv1.Machine{
		Uid: uid, Hostname: "real-" + short, HypervisorName: "real-" + short, Operation: "operations/1", VmHost: "vmHosts/h1",
		Architecture: "x86_64", Cores: 1, MemoryMib: 128,
		Interfaces: []*vmhostv1.MachineInterface{{
			Mac: "52:54:00:" + short[0:2] + ":" + short[2:4] + ":" + short[4:6], Source: network, Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK,
		}},
	}
	for i := range disks {
		m.Disks = append(m.Disks, &vmhostv1.MachineDisk{StoragePool: "default", Volume: volumePrefix(uid) + string(rune('0'+i)), SizeBytes: 64<<20 + 1})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := d.Delete(ctx, m); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return &rackv1.CreateMachine{Machine: m}
}

func unixDriver(t *testing.T, h devhost) *Driver {
	t.Helper()
	return openTarget(t, NewOpener(Config{LocalSockets: map[string]string{"": h.socket}}), hypervisor.Target{Address: mustParse(t, "qemu:///system")})
}

func TestRealGuestBootsFromTheNetworkAndItsAddressAppears(t *testing.T) {
	h := theDevhost(t)
	d := unixDriver(t, h)
	ctx := timeout(t, 2*time.Minute)
	c := realMachine(t, d, "netboot", 2)
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	made, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if got := made.GetDisks()[1].GetSizeBytes(); got < 64<<20+1 || got > 64<<20+1024 {
		t.Errorf("the second disk has %d bytes, want its odd size rounded up", got)
	}
	if _, err := d.Create(ctx, c); err != nil {
		t.Errorf("create again with a size that was rounded up: %v", err)
	}
	uid := c.GetMachine().GetUid()
	if _, err := d.SetPower(ctx, hypervisor.Ref{UID: uid}, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for address := ""; address == ""; {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the events ended")
			}
			if e.UUID != uid {
				continue
			}
			o, err := d.Machine(ctx, uid)
			if err != nil {
				t.Fatal(err)
			}
			if got := o.GetInterfaces()[0].GetAddresses(); len(got) > 0 {
				address = got[0]
				t.Logf("%s after %v; console in %s", address, time.Since(began), o.GetConsoleLogPath())
			}
		case <-ctx.Done():
			t.Fatal("no address")
		}
	}
	// The guest's firmware takes its address before the guest runs; give the
	// guest the time that a user would.
	o, err := d.SetPower(ctx, hypervisor.Ref{UID: uid}, rackv1.PowerAction_POWER_ACTION_STOP, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if o.GetPowerState() != vmhostv1.PowerState_POWER_STATE_OFF {
		t.Errorf("after a stop it is %v", o.GetPowerState())
	}
}

func TestRealRedefinitionFromOutsideShows(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	id := uuid.NewString()
	name := "redefined-" + id[:6]
	r.define(t, foreignDomain(id, name, 1, 64))
	ctx := timeout(t, 30*time.Second)
	if o, err := d.Machine(ctx, id); err != nil || o.GetCores() != 1 {
		t.Fatalf("%v, error %v", o, err)
	}
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.define(t, foreignDomain(id, name, 3, 96))
	for e := range events {
		if e.UUID == id {
			break
		}
	}
	list, err := d.Machines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		if o.GetUuid() == id && (o.GetCores() != 3 || o.GetMemoryMib() != 96) {
			t.Errorf("listed as %v after it was redefined with 3 cores and 96 MiB", o)
		}
	}
}

func TestRealCloneOfAMachineIsForeign(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	c := realMachine(t, d, "default", 0)
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	text, err := r.DomainGetXMLDesc(r.domain(t, c.GetMachine().GetUid()), 0)
	if err != nil {
		t.Fatal(err)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	x.UUID = uuid.NewString()
	x.Name += "-clone"
	r.define(t, &x)
	before := r.dump(t, x.UUID)
	o, err := d.Machine(ctx, x.UUID)
	if err != nil || o.GetUid() != "" {
		t.Errorf("the clone is seen as %v, error %v; want without uid", o, err)
	}
	_, err = d.SetPower(ctx, hypervisor.Ref{UID: x.UUID}, rackv1.PowerAction_POWER_ACTION_START, 0)
	wantClass(t, err, hypervisor.ErrForeign)
	if diff := cmp.Diff(before, r.dump(t, x.UUID)); diff != "" {
		t.Errorf("the clone changed:\n%s", diff)
	}
}

func TestRealVolumeThatAnotherDomainUsesStays(t *testing.T) {
	h := theDevhost(t)
	d, r := unixDriver(t, h), rawConnection(t, h.socket)
	ctx := timeout(t, 30*time.Second)
	c := realMachine(t, d, "default", 1)
	o, err := d.Create(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	x := foreignDomain(uuid.NewString(), "uses-"+c.GetMachine().GetHostname(), 1, 64)
	x.Devices.Disks = []libvirtxml.DomainDisk{{
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: o.GetDisks()[0].GetPath()}},
		Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
	}}
	t.Run("used", func(t *testing.T) {
		r.define(t, x)
		wantClass(t, d.Delete(ctx, c.GetMachine()), hypervisor.ErrBusy)
		if v := r.volumes(t, "default"); !contains(v, c.GetMachine().GetDisks()[0].GetVolume()) {
			t.Error("the volume is gone")
		}
	})
	if err := d.Delete(ctx, c.GetMachine()); err != nil {
		t.Errorf("delete when nobody uses the volume any more: %v", err)
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

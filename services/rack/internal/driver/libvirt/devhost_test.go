package libvirt

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// devhost is a real libvirt host of deploy/devhosts.
type devhost struct{ socket, ip, ssh, tls string }

// env reads a variable of deploy/devhosts/devhosts.sh env, or skips.
func env(t testing.TB, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Skipf("%s is not set: needs the hosts of deploy/devhosts/devhosts.sh up, and its env", name)
	}
	return v
}

func readEnvFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(env(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func theDevhost(t testing.TB) devhost {
	t.Helper()
	// Tests count what a host has, so nobody else should be at work on theirs:
	// another host can be chosen.
	h := "DEVHOSTS_" + cmp.Or(os.Getenv("DEVHOSTS_DRIVER_HOST"), "H1")
	return devhost{socket: env(t, h+"_SOCKET"), ip: env(t, h+"_IP"), ssh: env(t, h+"_SSH"), tls: env(t, h+"_TLS")}
}

func mustParse(t testing.TB, s string) hypervisor.Address {
	t.Helper()
	a, err := hypervisor.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sshKey(t testing.TB) *vmhostv1.Credential {
	t.Helper()
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_SshPrivateKey{SshPrivateKey: readEnvFile(t, "DEVHOSTS_SSH_KEY")}}
}

func sshPassword(t testing.TB) *vmhostv1.Credential {
	t.Helper()
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: env(t, "DEVHOSTS_SSH_PASSWORD")}}
}

func tlsCredential(t testing.TB) *vmhostv1.Credential {
	t.Helper()
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Tls{Tls: &vmhostv1.TlsCredential{
		CertificatePem: readEnvFile(t, "DEVHOSTS_TLS_CERT"), PrivateKeyPem: readEnvFile(t, "DEVHOSTS_TLS_KEY"), CaPem: readEnvFile(t, "DEVHOSTS_TLS_CA"),
	}}}
}

// knownHostKeys are the confirmed keys of the host, by type.
func knownHostKeys(t testing.TB, ip string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(readEnvFile(t, "DEVHOSTS_KNOWN_HOSTS")) {
		f := strings.Fields(line)
		if len(f) >= 3 && (f[0] == ip || strings.HasPrefix(f[0], ip+",") || strings.HasSuffix(f[0], ","+ip)) {
			out[f[1]] = f[1] + " " + f[2]
		}
	}
	if len(out) == 0 {
		t.Fatalf("no key of %s in DEVHOSTS_KNOWN_HOSTS", ip)
	}
	return out
}

func timeout(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func openTarget(t testing.TB, o *Opener, target hypervisor.Target) *Driver {
	t.Helper()
	d, err := o.Open(timeout(t, 20*time.Second), target)
	if err != nil {
		t.Fatalf("open %s: %v", target.Address, err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d.(*Driver)
}

// raw is a connection beside the driver: what somebody else does to the host.
type raw struct{ *lv.Libvirt }

func rawConnection(t testing.TB, socket string) raw {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l := lv.NewWithDialer(fixedDialer{guard(conn, nil)})
	if err := l.ConnectToURI(lv.QEMUSystem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return raw{l}
}

func (r raw) domain(t testing.TB, id string) lv.Domain {
	t.Helper()
	dom, err := r.DomainLookupByUUID(lv.UUID(uuid.MustParse(id)))
	if err != nil {
		t.Fatal(err)
	}
	return dom
}

// dump is everything the host holds of a domain.
func (r raw) dump(t testing.TB, id string) string {
	t.Helper()
	dom := r.domain(t, id)
	live, err := r.DomainGetXMLDesc(dom, 0)
	if err != nil {
		t.Fatal(err)
	}
	state, _, err := r.DomainGetState(dom, 0)
	if err != nil {
		t.Fatal(err)
	}
	start, err := r.DomainGetAutostart(dom)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("state %d autostart %d\n%s\n%s", state, start, live, r.inactive(t, id))
}

// define defines a domain and removes it at the end.
func (r raw) define(t testing.TB, d *libvirtxml.Domain) {
	t.Helper()
	text, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	dom, err := r.DomainDefineXML(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.DomainDestroy(dom)
		_ = r.DomainUndefine(dom)
	})
}

func foreignDomain(id, name string, cores int32, memoryMiB int64) *libvirtxml.Domain {
	return &libvirtxml.Domain{
		Type: "qemu", Name: name, UUID: id,
		Memory:  &libvirtxml.DomainMemory{Value: uint(memoryMiB), Unit: "MiB"},
		VCPU:    &libvirtxml.DomainVCPU{Value: uint(cores)},
		OS:      &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"}},
		Devices: &libvirtxml.DomainDeviceList{},
	}
}

func (r raw) addVolume(t testing.TB, pool, name string, size int64) {
	t.Helper()
	p, err := r.StoragePoolLookupByName(pool)
	if err != nil {
		t.Fatal(err)
	}
	text, err := (&libvirtxml.StorageVolume{
		Name: name, Capacity: &libvirtxml.StorageVolumeSize{Value: uint64(size)}, Allocation: &libvirtxml.StorageVolumeSize{},
		Target: &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "qcow2"}},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.StorageVolCreateXML(p, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.StorageVolDelete(v, 0) })
}

func (r raw) volumes(t testing.TB, pool string) []string {
	t.Helper()
	p, err := r.StoragePoolLookupByName(pool)
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := r.StoragePoolListAllVolumes(p, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range list {
		out = append(out, v.Name)
	}
	return out
}

// libvirtdOf is the process that listens on a socket.
func libvirtdOf(t testing.TB, socket string) int {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cred, err := syscall.GetsockoptUcred(int(file.Fd()), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		t.Fatal(err)
	}
	return int(cred.Pid)
}

// addOverlay makes a volume that is laid over a file, as libvirt's tools do.
func (r raw) addOverlay(t testing.TB, pool, name, over string) {
	t.Helper()
	p, err := r.StoragePoolLookupByName(pool)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.StorageVolCreateXML(p, `<volume><name>`+name+`</name><capacity>1048576</capacity><target><format type='qcow2'/></target>`+
		`<backingStore><path>`+over+`</path><format type='qcow2'/></backingStore></volume>`, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.StorageVolDelete(v, 0) })
}

// inside runs a command where libvirtd sees the files.
func (r raw) inside(t testing.TB, socket, script string) {
	t.Helper()
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(libvirtdOf(t, socket)), "-m", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// addSmallPool makes a pool on a file system that is too small for any volume;
// false when a file system cannot be mounted where libvirtd is.
func (r raw) addSmallPool(t testing.TB, socket, name string) bool {
	t.Helper()
	pid, path := strconv.Itoa(libvirtdOf(t, socket)), "/var/lib/libvirt/"+name
	inside := func(script string) error {
		return exec.Command("nsenter", "-t", pid, "-m", "sh", "-c", script).Run()
	}
	if err := inside("mkdir -p " + path + " && mount -t tmpfs -o size=64k tmpfs " + path); err != nil {
		return false
	}
	t.Cleanup(func() {
		if err := inside("umount " + path + " && rmdir " + path); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	r.addPool(t, name, path)
	return true
}

// addPool makes a running folder pool for the test.
func (r raw) addPool(t testing.TB, name, path string) lv.StoragePool {
	t.Helper()
	text, err := (&libvirtxml.StoragePool{Type: "dir", Name: name, Target: &libvirtxml.StoragePoolTarget{Path: path}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.StoragePoolDefineXML(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.StoragePoolDestroy(p)
		_ = r.StoragePoolUndefine(p)
	})
	if err := r.StoragePoolBuild(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.StoragePoolCreate(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

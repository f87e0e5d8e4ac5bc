package hypervisor_test

import (
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestParseAddressReadsTheCanonicalForm(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"default socket", "qemu:///system", "qemu:///system"},
		{"default socket, long", "qemu+unix:///system", "qemu:///system"},
		{"named socket", "qemu+unix://h1/system", "qemu+unix://h1/system"},
		{"ssh", "qemu+ssh://root@h1/system", "qemu+ssh://root@h1:22/system"},
		{"ssh with a port", "qemu+ssh://vm_host@h1.example.com:2222/system", "qemu+ssh://vm_host@h1.example.com:2222/system"},
		{"upper case host", "qemu+ssh://root@H1.Example.COM/system", "qemu+ssh://root@h1.example.com:22/system"},
		{"host with a final dot", "qemu+tls://h1.example.com./system", "qemu+tls://h1.example.com:16514/system"},
		{"IPv4", "qemu+tls://192.0.2.1/system", "qemu+tls://192.0.2.1:16514/system"},
		{"IPv6", "qemu+ssh://root@[2001:DB8::1]/system", "qemu+ssh://root@[2001:db8::1]:22/system"},
		{"IPv4 in IPv6", "qemu+tls://[::ffff:192.0.2.1]/system", "qemu+tls://192.0.2.1:16514/system"},
		{"LXD", "https://L1.example", "https://l1.example:8443"},
		{"LXD with a port and a slash", "https://l1:443/", "https://l1:443"},
		{"LXD, IPv6", "https://[2001:DB8::1]", "https://[2001:db8::1]:8443"},
		{"LXD, default socket", "lxd+unix://", "lxd+unix://"},
		{"LXD, named socket", "lxd+unix://l1", "lxd+unix://l1"},
		{"fake", "fake://h1", "fake://h1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := hypervisor.ParseAddress(test.in)
			if err != nil || got.String() != test.want {
				t.Errorf("%q is %q, error %v; want %q", test.in, got, err, test.want)
			}
		})
	}
}

func TestParseAddressRefusesEverythingElse(t *testing.T) {
	for _, in := range []string{
		"", "h1", "system", "qemu", "qemu://", "qemu:/system", "qemu:///", "qemu:///session", "qemu:///system/", "qemu:///system/..",
		"qemu://h1/system", "qemu+unix://h1", "qemu+unix://H1/system", "qemu+unix://../system", "qemu+unix://h1:22/system",
		"qemu+unix://root@h1/system", "qemu+ssh://h1/system", "qemu+ssh://root@/system", "qemu+ssh://root:secret@h1/system",
		"qemu+ssh://-oProxyCommand=x@h1/system", "qemu+ssh://root@-oProxyCommand=x/system", "qemu+ssh://root@h1:0/system",
		"qemu+ssh://root@h1:65536/system", "qemu+ssh://root@h1:/system", "qemu+ssh://root@h1/session", "qemu+ssh://root@h 1/system",
		"qemu+ssh://root@h1/system?keyfile=/etc/shadow", "qemu+ssh://root@h1/system?command=sh", "qemu+ssh://root@h1/system?",
		"qemu+ssh://root@h1/system#x", "qemu+ssh://root@h1/%73ystem", "qemu+ssh://root@h1%00/system", "qemu+ssh://root@0.0.0.0/system",
		"qemu+ssh://root@[ff02::1]/system", "qemu+tls://root@h1/system", "qemu+tcp://h1/system", "qemu+ext://h1/system",
		"qemu+libssh2://root@h1/system", "test:///default", "lxc:///system", "http://h1/", "fake://", "fake://H1", "fake://h1/x",
		"fake://h1:1", "https://", "https://user@l1", "https://l1/1.0", "https://l1//", "https://l1:0", "https://l1?x=y", "https://0.0.0.0",
		"lxd+unix://l1/system", "lxd+unix://../x", "lxd+unix:///var/lib/lxd/unix.socket", "lxd+unix://L1", "lxd://l1", "qemu:///system\n", "qemu:///sys\ttem", "qemu+ssh://root@h1/system\x00", "qemu+ssh://root@" + strings.Repeat("h", 300) + "/system",
	} {
		t.Run(in, func(t *testing.T) {
			got, err := hypervisor.ParseAddress(in)
			if err == nil {
				t.Errorf("%q is accepted as %q", in, got)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q shows a password (P8)", err)
			}
		})
	}
}

// sound is what holds for every address that is accepted.
func sound(t interface{ Errorf(string, ...any) }, in string) {
	a, err := hypervisor.ParseAddress(in)
	if err != nil {
		return
	}
	if strings.ContainsAny(in, "?#") || strings.ContainsFunc(in, func(r rune) bool { return unicode.IsControl(r) && r < 0x80 || r == ' ' }) {
		t.Errorf("%q is accepted with a query, white space or a control character", in)
	}
	canonical := a.String()
	again, err := hypervisor.ParseAddress(canonical)
	if err != nil || again != a || again.String() != canonical {
		t.Errorf("%q is %+v, its canonical form %q is %+v, error %v", in, a, canonical, again, err)
	}
	if strings.HasPrefix(a.Host, "-") || strings.HasPrefix(a.User, "-") {
		t.Errorf("%q: host %q or user %q could be read as an option", in, a.Host, a.User)
	}
}

func TestCanonicalAddressIsAFixedPoint(t *testing.T) {
	label := rapid.StringMatching(`[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,8}[a-zA-Z0-9_])?`)
	host := rapid.OneOf(
		rapid.Map(rapid.SliceOfN(label, 1, 4), func(l []string) string { return strings.Join(l, ".") }),
		rapid.StringMatching(`[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}`),
		rapid.StringMatching(`\[([0-9a-fA-F]{1,4}:){1,7}(:[0-9a-fA-F]{1,4}){0,2}\]`),
	)
	rapid.Check(t, func(t *rapid.T) {
		scheme := rapid.SampledFrom([]string{"qemu", "qemu+unix", "qemu+ssh", "qemu+tls", "https", "lxd+unix", "fake"}).Draw(t, "scheme")
		user := rapid.StringMatching(`([a-z_][-a-z0-9_.]{0,5}@)?`).Draw(t, "user")
		port := rapid.StringMatching(`(:[0-9]{0,6})?`).Draw(t, "port")
		tail := rapid.SampledFrom([]string{"/system", "", "/", "/system?x", "/session", "/system\x7f"}).Draw(t, "tail")
		sound(t, scheme+"://"+user+host.Draw(t, "host")+port+tail)
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"qemu:///system", "qemu+ssh://root@[2001:db8::1%25eth0]:22/system", "qemu+unix://h1/system", "fake://h1", "https://[2001:db8::1]", "lxd+unix://", "qemu+tls://x/system?no_verify=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) { sound(t, in) })
}

func TestParseAddressNamesTypeAndTransport(t *testing.T) {
	got, err := hypervisor.ParseAddress("qemu+ssh://root@h1:2222/system")
	want := hypervisor.Address{
		Type: vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, Transport: hypervisor.TransportSSH, User: "root", Host: "h1", Port: 2222,
	}
	if err != nil || got != want || got.HostPort() != "h1:2222" {
		t.Errorf("%+v, error %v; want %+v", got, err, want)
	}
}

func TestAnLXDServerMayBeWrittenAsItsOwnToolsDo(t *testing.T) {
	lxd := vmhostv1.VmHostType_VM_HOST_TYPE_LXD
	for in, want := range map[string]string{
		"l1": "https://l1:8443", "l1:443": "https://l1:443", "192.0.2.1": "https://192.0.2.1:8443", "[2001:db8::1]:443": "https://[2001:db8::1]:443",
		"2001:db8::1": "https://[2001:db8::1]:8443", "https://l1": "https://l1:8443", "lxd+unix://": "lxd+unix://", "qemu:///system": "qemu:///system",
	} {
		if got, err := hypervisor.ParseAddressAs(lxd, in); err != nil || got.String() != want {
			t.Errorf("%q is %q, error %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "l1/x", "l1?x", "user@l1", "l 1", "l1:"} {
		if got, err := hypervisor.ParseAddressAs(lxd, in); err == nil {
			t.Errorf("%q is accepted as %q", in, got)
		}
	}
	if got, err := hypervisor.ParseAddressAs(vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED, "l1"); err == nil {
		t.Errorf("without a type, l1 is accepted as %q", got)
	}
}

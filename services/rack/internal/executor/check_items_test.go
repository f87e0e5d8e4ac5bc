package executor_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// scripted is a hypervisor that answers as a test says.
type scripted struct {
	hypervisor.Driver
	key      string
	openErr  error
	observed *vmhostv1.VmHostObservation
	mended   *vmhostv1.VmHostObservation // after Fix
	words    map[string]string
	fixErr   error
	fixes    int
}

func (s *scripted) HostKey(context.Context, hypervisor.Address) (key, fingerprint string, err error) {
	return s.key, "SHA256:" + s.key, nil
}

func (s *scripted) Open(context.Context, hypervisor.Target) (hypervisor.Driver, error) {
	if s.openErr != nil {
		return nil, s.openErr
	}
	return s, nil
}
func (s *scripted) Close() error { return nil }

func (s *scripted) Probe(context.Context) (*vmhostv1.VmHostObservation, error) {
	return s.observed, nil
}

func (s *scripted) Projects(context.Context) ([]string, error) { return []string{"default", "p"}, nil }

func (s *scripted) Fix(context.Context) (map[string]string, error) {
	s.fixes++
	if s.mended != nil {
		s.observed = s.mended
	}
	return s.words, s.fixErr
}

func classed(class error, hint string) error {
	return &hypervisor.Error{Class: class, Op: "try", Err: errors.New("the hypervisor's words"), Hint: hint}
}

const (
	isNetwork = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK
	isBridge  = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE
	isDevice  = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE
)

// seen is a good host, changed.
func seen(change func(o *vmhostv1.VmHostObservation)) *vmhostv1.VmHostObservation {
	o := &vmhostv1.VmHostObservation{
		HypervisorVersion: "v", Cores: 4, MemoryMib: 1024, Architectures: []string{"x86_64"}, Kvm: true, Capabilities: []string{"virtual-machines"},
		StoragePools: []*vmhostv1.StoragePool{{Name: "default", Active: true}},
		Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: isNetwork, Bridge: "virbr0", Active: true, Dhcp: true, Forward: "nat"}},
	}
	change(o)
	return o
}

func (r *rig) check(s *scripted, address string, fix bool) *vmhostv1.CheckVmHostResult {
	r.t.Helper()
	parsed, err := hypervisor.ParseAddress(address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.drivers[parsed.Type] = s
	step := step("", "c", 0)
	step.VmHost, step.VmHostUid = "", ""
	step.Action = &rackv1.Step_CheckHost{CheckHost: &rackv1.CheckHost{Type: parsed.Type, Address: address, HostKey: s.key, Fix: fix, Project: "p"}}
	r.region.forget()
	r.Do(r.t.Context(), step)
	wait(time.Minute)
	return r.result("c").GetCheck()
}

func item(res *vmhostv1.CheckVmHostResult, check string) *vmhostv1.CheckItem {
	for _, i := range res.GetItems() {
		if i.GetCheck() == check {
			return i
		}
	}
	return nil
}

const (
	overSSH  = "qemu+ssh://admin@host.example/system"
	overUnix = "qemu:///system"
	onLXD    = "https://host.example:8443"
)

func TestWhatKeepsUsOutIsToldApart_P9(t *testing.T) {
	for _, test := range []struct {
		name, address, key string
		err                error
		want               string // items up to the one that failed
		hint               string // words of its hint
	}{
		{"login refused", overSSH, "k", classed(hypervisor.ErrAuth, ""), "reach=OK host-key=OK login=FAILED", "user may log in"},
		{"not in the group", overSSH, "k", classed(hypervisor.ErrUnreachable, "the driver's"), "reach=OK host-key=OK login=OK group=FAILED", "`sudo usermod -aG libvirt admin`"},
		{"no forwarding to sockets", overSSH, "k", classed(hypervisor.ErrRefused, "AllowStreamLocalForwarding yes"), "reach=OK host-key=OK login=OK group=FAILED", "AllowStreamLocalForwarding yes"},
		{"local socket not permitted", overUnix, "", classed(hypervisor.ErrAuth, ""), "reach=OK group=FAILED", "sudo usermod -aG libvirt "},
		{"no local socket", overUnix, "", classed(hypervisor.ErrUnreachable, "start it"), "reach=FAILED", "start it"},
		{"not trusted", onLXD, "k", classed(hypervisor.ErrAuth, "lxc config trust add x"), "reach=OK host-key=OK trust=FAILED", "lxc config trust add x"},
		{"forbidden project", onLXD, "k", classed(hypervisor.ErrRefused, "lxc project create p"), "reach=OK host-key=OK trust=OK project=FAILED", "lxc project create p"},
		{"another certificate", onLXD, "k", classed(hypervisor.ErrHostKey, ""), "reach=OK host-key=FAILED", "find out why"},
		{"LXD that hangs", onLXD, "k", classed(hypervisor.ErrUnreachable, ""), "reach=OK host-key=OK trust=SKIPPED project=SKIPPED hypervisor=FAILED", "see that the hypervisor runs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 0, func(r *rig) {
				res := r.check(&scripted{key: test.key, openErr: test.err}, test.address, false)
				var got []string
				for _, i := range res.GetItems() {
					got = append(got, i.GetCheck()+"="+strings.TrimPrefix(i.GetStatus().String(), "CHECK_STATUS_"))
					if i.GetStatus() == vmhostv1.CheckStatus_CHECK_STATUS_FAILED {
						if !strings.Contains(i.GetHint(), test.hint) || !strings.Contains(i.GetMessage(), "words") {
							t.Errorf("message %q, hint %q, want %q", i.GetMessage(), i.GetHint(), test.hint)
						}
						break
					}
				}
				if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
					t.Errorf("items (-want +got):\n%s", diff)
				}
				if last := res.GetItems()[len(res.GetItems())-1]; last.GetCheck() != "uplink" || last.GetStatus() != vmhostv1.CheckStatus_CHECK_STATUS_SKIPPED {
					t.Errorf("the last item is %v", last)
				}
			})
		})
	}
}

func TestWhatAHostHasIsJudged(t *testing.T) {
	const ok, warning, failed = vmhostv1.CheckStatus_CHECK_STATUS_OK, vmhostv1.CheckStatus_CHECK_STATUS_WARNING, vmhostv1.CheckStatus_CHECK_STATUS_FAILED
	for _, test := range []struct {
		name, address string
		change        func(o *vmhostv1.VmHostObservation)
		check         string
		status        vmhostv1.CheckStatus
		hint          string
	}{
		{"a NAT network leads outside", overSSH, func(*vmhostv1.VmHostObservation) {}, "uplink", ok, ""},
		{"its own bridge is none to mend", overSSH, func(o *vmhostv1.VmHostObservation) {
			o.Networks = append(o.Networks, &vmhostv1.HostNetwork{Name: "virbr0", Kind: isBridge, Active: true})
		}, "uplink", ok, ""},
		{"a bridge without uplink", overSSH, func(o *vmhostv1.VmHostObservation) {
			o.Networks = append(o.Networks, &vmhostv1.HostNetwork{Name: "br0", Kind: isBridge, Active: true})
		}, "uplink", warning, "ip link set dev NIC master br0"},
		{"and a spare device to give it", overSSH, func(o *vmhostv1.VmHostObservation) {
			o.Networks = append(o.Networks, &vmhostv1.HostNetwork{Name: "br0", Kind: isBridge, Active: true},
				&vmhostv1.HostNetwork{Name: "eth0", Kind: isDevice, Active: true, Addresses: []string{"192.0.2.1"}},
				&vmhostv1.HostNetwork{Name: "eth1", Kind: isDevice, Active: true})
		}, "uplink", warning, "ip link set dev eth1 master br0"},
		{"a bridge with uplink", overSSH, func(o *vmhostv1.VmHostObservation) {
			o.Networks = []*vmhostv1.HostNetwork{{Name: "br0", Kind: isBridge, Active: true, Uplinks: []string{"eth0"}}}
		}, "uplink", ok, ""},
		{"addresses come from outside", overSSH, func(o *vmhostv1.VmHostObservation) {
			o.Networks = []*vmhostv1.HostNetwork{{Name: "br0", Kind: isBridge, Active: true, Uplinks: []string{"eth0"}}}
		}, "network", ok, ""},
		{"nobody gives addresses", overSSH, func(o *vmhostv1.VmHostObservation) { o.Networks[0].Dhcp = false }, "network", warning, "virsh net-edit default"},
		{"an inactive network", overSSH, func(o *vmhostv1.VmHostObservation) { o.Networks[0].Active = false }, "network", warning, "virsh net-start default"},
		{"no network", overSSH, func(o *vmhostv1.VmHostObservation) { o.Networks = nil }, "network", warning, "virsh net-define"},
		{"no network of LXD", onLXD, func(o *vmhostv1.VmHostObservation) { o.Networks = nil }, "network", warning, "lxc network create lxdbr0"},
		{"nothing leads outside", overSSH, func(o *vmhostv1.VmHostObservation) { o.Networks = nil }, "uplink", warning, "ip link add br0"},
		{"no pool", overSSH, func(o *vmhostv1.VmHostObservation) { o.StoragePools = nil }, "storage-pool", failed, "virsh pool-define-as default"},
		{"no pool of LXD", onLXD, func(o *vmhostv1.VmHostObservation) { o.StoragePools = nil }, "storage-pool", failed, "lxc storage create default dir"},
		{"an inactive pool", overSSH, func(o *vmhostv1.VmHostObservation) { o.StoragePools[0].Active = false }, "storage-pool", failed, "virsh pool-start default"},
		{"a pool with a problem beside", overSSH, func(o *vmhostv1.VmHostObservation) {
			o.StoragePools = append(o.StoragePools, &vmhostv1.StoragePool{Name: "bad", Active: true, Problem: "disk full"})
		}, "storage-pool", warning, "virsh pool-start bad"},
		{"emulation", overSSH, func(o *vmhostv1.VmHostObservation) { o.Kvm = false }, "kvm", warning, "modprobe kvm_intel"},
		{"containers need no KVM", onLXD, func(o *vmhostv1.VmHostObservation) { o.Kvm, o.Capabilities = false, []string{"containers"} }, "kvm", ok, ""},
		{"containers only", onLXD, func(o *vmhostv1.VmHostObservation) { o.Capabilities = []string{"containers"} }, "machine-types", warning, "qemu"},
		{"neither", onLXD, func(o *vmhostv1.VmHostObservation) { o.Capabilities = nil }, "machine-types", failed, "qemu"},
		{"not all read", overSSH, func(o *vmhostv1.VmHostObservation) { o.Problems = []string{"pool x"} }, "hypervisor", warning, "log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 0, func(r *rig) {
				s := &scripted{key: "k", observed: seen(test.change)}
				res := r.check(s, test.address, false)
				i := item(res, test.check)
				if i.GetStatus() != test.status || !strings.Contains(i.GetHint(), test.hint) || (i.GetHint() == "") != (test.status == ok) || i.GetMessage() == "" {
					t.Errorf("%v, want %v with the hint %q", i, test.status, test.hint)
				}
				if s.fixes != 0 {
					t.Error("P5: something was mended that nobody asked for")
				}
				if test.address == onLXD != slices.Equal(res.GetProjects(), []string{"default", "p"}) {
					t.Errorf("projects %v", res.GetProjects())
				}
			})
		})
	}
}

func TestWhatIsMendedIsSaidAndLookedAtAgain(t *testing.T) {
	broken := func(o *vmhostv1.VmHostObservation) { o.StoragePools, o.Networks[0].Active = nil, false }
	bubble(t, 0, func(r *rig) {
		s := &scripted{key: "k", observed: seen(broken), mended: seen(func(*vmhostv1.VmHostObservation) {}), words: map[string]string{
			"storage-pool": "defined default", "network": "started default", "other": "something else",
		}}
		res := r.check(s, overSSH, true)
		for check, fixed := range map[string]string{"storage-pool": "defined default", "network": "started default", "hypervisor": "something else", "uplink": ""} {
			if i := item(res, check); i.GetStatus() != vmhostv1.CheckStatus_CHECK_STATUS_OK || i.GetFixed() != fixed {
				t.Errorf("%s: %v", check, i)
			}
		}
		if s.fixes != 1 || len(res.GetObservation().GetStoragePools()) != 1 {
			t.Errorf("%d fixes, observation %v", s.fixes, res.GetObservation())
		}
	})
	bubble(t, 0, func(r *rig) {
		s := &scripted{key: "k", observed: seen(broken), fixErr: classed(hypervisor.ErrRefused, "")}
		res := r.check(s, overSSH, true)
		if i := item(res, "storage-pool"); i.GetStatus() != vmhostv1.CheckStatus_CHECK_STATUS_FAILED || !strings.Contains(i.GetMessage(), "words") {
			t.Errorf("%v", i)
		}
	})
	bubble(t, 0, func(r *rig) {
		s := &scripted{key: "k", observed: seen(func(*vmhostv1.VmHostObservation) {})}
		if r.check(s, overSSH, true); s.fixes != 0 {
			t.Error("a good host was mended")
		}
	})
}

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// libvirt 11.0 gives the interfaces of a plain Linux bridge VLAN tags; before it
// did so for Open vSwitch and for virtual functions only.
const bridgeTagsSince = 11_000_000

// tagsOf answers which interfaces of a machine, by MAC, need a VLAN tag in their
// definition. What cannot have one is refused here, with its name: libvirt itself
// says so only when the machine is started.
func (d *Driver) tagsOf(ctx context.Context, m *vmhostv1.Machine, libVersion uint64) (map[string]bool, error) {
	if !slices.ContainsFunc(m.GetInterfaces(), func(i *vmhostv1.MachineInterface) bool { return i.GetVlan() != 0 }) {
		return nil, nil //nolint:nilnil // none need one
	}
	if err := d.readNetworks(ctx); err != nil {
		return nil, err
	}
	links, err := d.readLinks(ctx)
	if err != nil {
		return nil, err
	}
	return tags(m, d.facts.networks(), links, libVersion)
}

func tags(m *vmhostv1.Machine, networks []network, links []*vmhostv1.HostNetwork, libVersion uint64) (map[string]bool, error) {
	out := map[string]bool{}
	for _, i := range m.GetInterfaces() {
		if i.GetVlan() == 0 {
			continue
		}
		refuse := func(why, hint string) error {
			return &hypervisor.Error{
				Class: hypervisor.ErrUnsupported, Op: "attach interface " + i.GetMac(), Hint: hint,
				Err: fmt.Errorf("its frames cannot get VLAN %d on %q: %w", i.GetVlan(), i.GetSource(), errors.New(why)),
			}
		}
		plain := libVersion >= bridgeTagsSince
		const older = "before libvirt 11.0 a plain bridge gives no tags"
		const hint = "attach it to a network or bridge of that VLAN, or to an Open vSwitch network"
		switch i.GetKind() {
		case vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
			out[i.GetMac()] = true
		case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
			if !plain {
				return nil, refuse(older, hint)
			}
			out[i.GetMac()] = true
		case vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK:
			at := slices.IndexFunc(networks, func(n network) bool { return n.name == i.GetSource() })
			switch {
			case at < 0, networks[at].vlan == i.GetVlan():
				// Not there is said by whoever attaches it; its own tag it has anyway.
			case networks[at].switched, networks[at].functionsOf != "", networks[at].bridged && plain:
				out[i.GetMac()] = true
			case networks[at].bridged:
				return nil, refuse(older, hint)
			default:
				return nil, refuse("libvirt routes this network itself", hint)
			}
		default:
			if !slices.ContainsFunc(links, func(l *vmhostv1.HostNetwork) bool { return l.GetName() == i.GetSource() && l.GetVlan() == i.GetVlan() }) {
				return nil, refuse("macvlan gives no tags", "attach it to a device of that VLAN")
			}
		}
	}
	return out, nil
}

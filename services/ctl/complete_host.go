package ctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// What a host has completes the flags that name it. Without a host that is named
// on the command line there is nothing to complete with: asking all would take
// longer than pressing Tab may.

// parts gives words for a flag from what a host has. typed is what is there so
// far, which each word must begin with.
type parts func(h *vmhostv1.VmHost, typed string) []string

// completeOf completes a flag by the host that host names.
func (a *app) completeOf(c *cobra.Command, flag string, host func(c *cobra.Command, args []string) string, words parts) {
	// Fails only for a flag that is not there, which a test would see.
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		const more = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		name := host(c, args)
		if name == "" {
			return words(&vmhostv1.VmHost{}, typed), more
		}
		return a.live(c.Context(), func(ctx context.Context, api *region) ([]string, error) {
			h, err := call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: full(vmHosts, name)})
			return words(h, typed), err
		}), more
	})
}

// completeCompose completes by the host of --vm-host.
func (a *app) completeCompose(c *cobra.Command) {
	host := func(c *cobra.Command, _ []string) string { return c.Flag("vm-host").Value.String() }
	a.completeOf(c, "image", host, func(h *vmhostv1.VmHost, _ string) []string {
		var out []string
		for _, i := range h.GetObservation().GetImages() {
			for _, alias := range i.GetAliases() {
				out = append(out, describe(alias, strings.TrimSpace(machineTypeWord(i.GetType())+" "+i.GetDescription())))
			}
		}
		return out
	})
	a.completeOf(c, "profile", host, func(h *vmhostv1.VmHost, _ string) []string {
		var out []string
		for _, p := range h.GetObservation().GetProfiles() {
			out = append(out, display.Clean(p))
		}
		return out
	})
	a.completeOf(c, "disk", host, diskWords)
	a.completeOf(c, "nic", host, nicWords)
}

// completeHostParts completes by the host that is changed.
func (a *app) completeHostParts(c *cobra.Command) {
	host := func(c *cobra.Command, args []string) string {
		if c.Name() != "update" || len(args) == 0 {
			return "" // it is being added: nobody has seen it
		}
		return args[0]
	}
	a.completeOf(c, "default-storage-pool", host, func(h *vmhostv1.VmHost, _ string) []string { return poolWords(h, "", "") })
	a.completeOf(c, "storage-pool-label", host, func(h *vmhostv1.VmHost, _ string) []string { return poolWords(h, "", ":tag=") })
	a.completeOf(c, "shared-pool", host, func(h *vmhostv1.VmHost, _ string) []string { return poolWords(h, "", "=") })
	a.completeOf(c, "network-label", host, func(h *vmhostv1.VmHost, _ string) []string {
		var out []string
		for _, n := range h.GetObservation().GetNetworks() {
			out = append(out, describe(n.GetName()+":", networkNote(n)))
		}
		return out
	})
}

func poolWords(h *vmhostv1.VmHost, before, after string) []string {
	var out []string
	for _, p := range h.GetObservation().GetStoragePools() {
		out = append(out, describe(before+p.GetName()+after, p.GetType()+", "+display.Bytes(p.GetAvailableBytes())+" available"))
	}
	return out
}

// diskWords completes the storage pool after the size.
func diskWords(h *vmhostv1.VmHost, typed string) []string {
	size, _, named := strings.Cut(typed, "@")
	if !named || strings.Contains(typed, ",") {
		return nil
	}
	return poolWords(h, size+"@", "")
}

// nicWords completes the keys, and what the host has of what they name.
func nicWords(h *vmhostv1.VmHost, typed string) []string {
	at := strings.LastIndexByte(typed, ',') + 1
	before := typed[:at]
	key, _, valued := strings.Cut(typed[at:], "=")
	var out []string
	if !valued {
		for _, k := range []string{"network=", "bridge=", "macvlan=", "sriov=", "subnet=", "vlan=", "space=", "tag=", "ip=", "mac=", "mode=", "boot"} {
			out = append(out, before+k)
		}
		return out
	}
	if key == "mode" {
		for _, m := range []string{"bridge", "private", "vepa", "passthru"} {
			out = append(out, before+"mode="+m)
		}
		return out
	}
	if key == "sriov" {
		for _, d := range h.GetObservation().GetSriovDevices() {
			out = append(out, describe(before+"sriov="+d.GetName(), plainNumber(int64(d.GetFree()))+" free"))
		}
		return out
	}
	kinds := map[string]vmhostv1.HostNetworkKind{
		"network": vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, "bridge": vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE,
		"macvlan": vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE,
	}
	for _, n := range h.GetObservation().GetNetworks() {
		if kind, ok := kinds[key]; ok && kind == n.GetKind() {
			out = append(out, describe(before+key+"="+n.GetName(), networkNote(n)))
		}
		if key == "subnet" {
			for _, cidr := range n.GetCidrs() {
				out = append(out, describe(before+"subnet="+cidr, n.GetName()))
			}
		}
	}
	return out
}

func networkNote(n *vmhostv1.HostNetwork) string {
	notes := n.GetCidrs()
	if n.GetDhcp() {
		notes = append(notes[:len(notes):len(notes)], "DHCP")
	}
	return strings.Join(notes, " ")
}

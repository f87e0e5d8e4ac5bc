package ctl

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// hostFlags say what an operator asks for of a host.
type hostFlags struct {
	zone, pool, rack, storagePool string
	displayName, macvlan          string
	tags                          []string
	overcommit                    string
	reservedCores                 int32
	reservedMemory                string
	networks, pools, shared       []string
	project, member, group        string
	lxd                           bool
	hostKey                       string
	acceptHostKey                 bool
	login                         loginFlags
}

func (f *hostFlags) register(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.zone, "zone", "", "`ZONE` it is in")
	c.Flags().StringVar(&f.pool, "pool", "", "resource `POOL` whose machines it takes")
	c.Flags().StringArrayVar(&f.tags, "tag", nil, "`WORD` that requests can ask for; repeat for more")
	c.Flags().StringVar(&f.overcommit, "overcommit", "", "`RATIOS` of limits to what is there, 0 to 10, such as cores=2,memory=1.5")
	c.Flags().StringVar(&f.storagePool, "default-storage-pool", "", "storage `POOL` for disks that name none")
	c.Flags().StringVar(&f.macvlan, "default-macvlan-mode", "", "`MODE` of macvlan interfaces: bridge, private, vepa or passthru")
	c.Flags().StringVar(&f.rack, "rack", "", "`RACK` that must drive the host")
	c.Flags().StringVar(&f.displayName, "display-name", "", "`NAME` for people")
	c.Flags().StringVar(&f.hostKey, "host-key", "", "`KEY` the host must present: a line such as 'ssh-ed25519 AAAA…', or SHA256:…")
	c.Flags().BoolVar(&f.acceptHostKey, "accept-host-key", false, "trust the key that the host presents now, and show it")
	c.MarkFlagsMutuallyExclusive("host-key", "accept-host-key")
	c.Flags().Int32Var(&f.reservedCores, "reserved-cores", 0, "`NUMBER` of cores kept for the host itself")
	c.Flags().StringVar(&f.reservedMemory, "reserved-memory", "", "`SIZE` of memory kept for the host itself, such as 2GiB")
	c.Flags().StringArrayVar(&f.networks, "network-label", nil, "`LABEL` of a network of the host, such as br0:space=lab,tag=fast; repeat for more")
	c.Flags().StringArrayVar(&f.pools, "storage-pool-label", nil, "`LABEL` of a storage pool of the host, such as fast:tag=ssd; repeat for more")
	c.Flags().StringArrayVar(&f.shared, "shared-pool", nil, "`POOL=IDENTITY` of a storage pool that other hosts have as well, such as vm=nfs://nas/vm, the same on each; POOL= for one that is the host's alone; repeat for more")
	f.login.register(c)
	a.completeFlag(c, "zone", completeZones)
	a.completeFlag(c, "pool", completePools)
	a.completeFlag(c, "rack", completeRacks)
	a.completeWords(c, "default-macvlan-mode", "bridge", "private", "vepa", "passthru")
	a.completeHostParts(c)
}

// apply puts what was given into the host, and names the fields it changed.
func (f *hostFlags) apply(ctx context.Context, a *app, c *cobra.Command, h *vmhostv1.VmHost) (paths []string, err error) {
	given := func(flag, path string) bool {
		if !c.Flags().Changed(flag) {
			return false
		}
		paths = append(paths, path)
		return true
	}
	if given("zone", "zone") {
		h.Zone = full(zones, f.zone)
	}
	if given("pool", "resource_pool") {
		h.ResourcePool = full(resourcePools, f.pool)
	}
	if given("tag", "tags") {
		h.Tags = withoutEmpty(f.tags)
	}
	if c.Flags().Changed("overcommit") {
		var changed []string
		if h.Overcommit, changed, err = parseOvercommit(f.overcommit); err != nil {
			return nil, err
		}
		paths = append(paths, changed...)
	}
	if given("default-storage-pool", "default_storage_pool") {
		h.DefaultStoragePool = f.storagePool
	}
	if given("default-macvlan-mode", "default_macvlan_mode") {
		if h.DefaultMacvlanMode, err = parseMacvlan(f.macvlan); err != nil {
			return nil, err
		}
	}
	if given("rack", "rack") {
		h.Rack = full(racks, f.rack)
	}
	if given("display-name", "display_name") {
		h.DisplayName = f.displayName
	}
	if given("host-key", "host_key") {
		h.HostKey = f.hostKey
	}
	if given("reserved-cores", "reserved_cores") {
		h.ReservedCores = f.reservedCores
	}
	if given("reserved-memory", "reserved_memory_mib") {
		if h.ReservedMemoryMib, err = units.ParseMemoryMiB(f.reservedMemory); err != nil {
			return nil, usage("write for example --reserved-memory 2GiB", "--reserved-memory %q: %w", f.reservedMemory, err)
		}
	}
	if given("network-label", "network_labels") {
		if h.NetworkLabels, err = parseNetworkLabels(f.networks); err != nil {
			return nil, err
		}
	}
	if given("storage-pool-label", "storage_pool_labels") {
		if h.StoragePoolLabels, err = parsePoolLabels(f.pools); err != nil {
			return nil, err
		}
	}
	if given("shared-pool", "shared_storage_pools") {
		if h.SharedStoragePools, err = parseSharedPools(f.shared); err != nil {
			return nil, err
		}
	}
	if h.Credential, err = f.login.credential(ctx, a, h.GetType()); err != nil {
		return nil, err
	}
	if h.GetCredential() != nil {
		paths = append(paths, "credential")
	}
	return paths, nil
}

func withoutEmpty(words []string) []string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, w)
		}
	}
	return out
}

// parseOvercommit reads `cores=2,memory=1.5`. What is left out stays as it is.
func parseOvercommit(s string) (*vmhostv1.OvercommitRatios, []string, error) {
	const hint = "write for example --overcommit cores=2,memory=1.5,storage=1"
	o := &vmhostv1.OvercommitRatios{}
	into := map[string]**float64{"cores": &o.Cores, "memory": &o.Memory, "storage": &o.Storage}
	var paths []string
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		field, ok := into[key]
		if !ok {
			return nil, nil, usage(hint, "--overcommit has no %q: there are cores, memory and storage", key)
		}
		if *field != nil {
			return nil, nil, usage(hint, "--overcommit names %s twice", key)
		}
		ratio, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(ratio) || ratio < 0 || ratio > 10 {
			return nil, nil, usage(hint, "--overcommit %s is %q, which is no number from 0 to 10", key, value)
		}
		*field = &ratio
		paths = append(paths, "overcommit."+key)
	}
	return o, paths, nil
}

func parseMacvlan(s string) (vmhostv1.MacvlanMode, error) {
	mode, ok := vmhostv1.MacvlanMode_value["MACVLAN_MODE_"+strings.ToUpper(s)]
	if !ok || mode == 0 {
		return 0, usage("use bridge, private, vepa or passthru", "there is no macvlan mode %q", s)
	}
	return vmhostv1.MacvlanMode(mode), nil
}

// registerLXD adds the flags that say which part of an LXD server a host is;
// they never change.
func (f *hostFlags) registerLXD(c *cobra.Command) {
	c.Flags().BoolVar(&f.lxd, "lxd", false, "the address is that of an LXD server, also without https://")
	c.Flags().StringVar(&f.project, "project", "", "LXD `PROJECT` that the host is; made when it is not there; default when left out")
	c.Flags().StringVar(&f.member, "cluster-member", "", "LXD cluster `MEMBER` that the host is; the one that answers when left out")
	c.Flags().StringVar(&f.group, "cluster-group", "", "`NAME` that the hosts of one cluster share")
}

// typeOf is LXD where the user or the address says so; else the address tells.
func (f *hostFlags) typeOf(address string) vmhostv1.VmHostType {
	parsed, err := hypervisor.ParseAddress(address)
	if f.lxd || err == nil && parsed.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		return vmhostv1.VmHostType_VM_HOST_TYPE_LXD
	}
	return vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED
}

// parseNetworkLabels reads `NETWORK:space=SPACE,tag=WORD`. One empty text takes
// all labels away.
func parseNetworkLabels(in []string) ([]*vmhostv1.NetworkLabels, error) {
	var out []*vmhostv1.NetworkLabels
	for _, s := range withoutEmpty(in) {
		l := &vmhostv1.NetworkLabels{}
		err := parseLabel("--network-label", "br0:space=lab,tag=fast", s, &l.Network, func(key, value string) bool {
			switch {
			case key == "space" && l.GetSpace() == "":
				l.Space = value
			case key == "tag":
				l.Tags = append(l.Tags, value)
			default:
				return false
			}
			return true
		})
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o *vmhostv1.NetworkLabels) bool { return o.GetNetwork() == l.GetNetwork() }) {
			return nil, usage("say everything of a network in one --network-label", "--network-label names %s twice", l.GetNetwork())
		}
		out = append(out, l)
	}
	return out, nil
}

// parsePoolLabels reads `POOL:tag=WORD`.
func parsePoolLabels(in []string) ([]*vmhostv1.StoragePoolLabels, error) {
	var out []*vmhostv1.StoragePoolLabels
	for _, s := range withoutEmpty(in) {
		l := &vmhostv1.StoragePoolLabels{}
		err := parseLabel("--storage-pool-label", "fast:tag=ssd,tag=local", s, &l.StoragePool, func(key, value string) bool {
			if key == "tag" {
				l.Tags = append(l.Tags, value)
			}
			return key == "tag"
		})
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o *vmhostv1.StoragePoolLabels) bool { return o.GetStoragePool() == l.GetStoragePool() }) {
			return nil, usage("say everything of a storage pool in one --storage-pool-label", "--storage-pool-label names %s twice", l.GetStoragePool())
		}
		out = append(out, l)
	}
	return out, nil
}

// parseSharedPools reads `POOL=IDENTITY`. One empty text takes all away.
func parseSharedPools(in []string) ([]*vmhostv1.SharedStoragePool, error) {
	const hint = "write for example --shared-pool vm=nfs://nas/vm, by the same word on every host; or vm= for a pool that is the host's alone"
	var out []*vmhostv1.SharedStoragePool
	for _, s := range withoutEmpty(in) {
		pool, identity, ok := strings.Cut(s, "=")
		if !ok || pool == "" {
			return nil, usage(hint, "--shared-pool %q names no pool before a =", s)
		}
		if strings.ContainsFunc(identity, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, usage(hint, "--shared-pool %q: what is behind a pool is one word of ASCII, without spaces", s)
		}
		if slices.ContainsFunc(out, func(o *vmhostv1.SharedStoragePool) bool { return o.GetStoragePool() == pool }) {
			return nil, usage(hint, "--shared-pool names %s twice", pool)
		}
		out = append(out, &vmhostv1.SharedStoragePool{StoragePool: pool, Identity: identity})
	}
	return out, nil
}

func parseLabel(flag, example, s string, name *string, set func(key, value string) bool) error {
	hint := "write for example " + flag + " " + example
	// The name may have colons; what follows the last one has none.
	at := strings.LastIndex(s, ":")
	if at <= 0 {
		return usage(hint, "%s %q names nothing before a colon", flag, s)
	}
	*name = s[:at]
	for part := range strings.SplitSeq(s[at+1:], ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || value == "" || !set(key, value) {
			return usage(hint, "%s %q: %q is not understood", flag, s, part)
		}
	}
	return nil
}

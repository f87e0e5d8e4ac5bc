package ctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const composeLong = `Makes a machine: chooses the host with the most room among those that fit, takes
the room, and has the machine made. What is left out is chosen: a hostname, one
core, 2 GiB of memory, one disk of 8 GB, one interface on the default network.

--nic takes network=NAME, bridge=NAME or macvlan=DEVICE; mode is for macvlan and
one of bridge, private, vepa and passthru.

--dry-run shows where it would go, and why each other host was refused.`

const composeExample = `  vmhostctl machine compose web-1 --cores 2 --memory 4GiB --disk 20GB --start
  vmhostctl machine compose --disk 10GB@fast --disk 100GB@big --nic network=lab --nic macvlan=eth1,mode=bridge
  vmhostctl machine compose db --zone a --require-tag ssd --dry-run`

// composeFlags say what machine is wanted.
type composeFlags struct {
	cores                      int32
	memory                     string
	disks, nics                []string
	diskless, start, autostart bool
	zone, pool, host, arch     string
	require, forbid, tags      []string
	change                     changeFlags
}

func (a *app) machineCompose() *cobra.Command {
	var f composeFlags
	c := &cobra.Command{
		Use: "compose [HOSTNAME]", Short: "Make a machine", Long: composeLong, Example: composeExample,
		Args: between(0, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			request, err := f.request(args)
			if err != nil {
				return err
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			return a.compose(ctx, api, request, &f.change)
		},
	}
	c.Flags().Int32Var(&f.cores, "cores", 0, "`NUMBER` of virtual cores; 1 when left out")
	c.Flags().StringVar(&f.memory, "memory", "", "`SIZE` of memory, such as 512MiB or 8GiB; 2GiB when left out")
	c.Flags().StringArrayVar(&f.disks, "disk", nil, "disk of `SIZE[@POOL]`, such as 10GB or 40GiB@fast; repeat for more, the first boots")
	c.Flags().BoolVar(&f.diskless, "diskless", false, "no disk at all")
	c.Flags().StringArrayVar(&f.nics, "nic", nil, "interface on `KIND=NAME` with [,mac=MAC][,mode=MODE]; repeat for more")
	c.Flags().StringVar(&f.zone, "zone", "", "`ZONE` it must be in")
	c.Flags().StringVar(&f.pool, "pool", "", "resource `POOL` it belongs to")
	c.Flags().StringVar(&f.host, "vm-host", "", "`HOST` it must be on")
	c.Flags().StringVar(&f.arch, "arch", "", "`ARCHITECTURE`, as in uname -m")
	c.Flags().StringArrayVar(&f.require, "require-tag", nil, "`TAG` the host must have; repeat for more")
	c.Flags().StringArrayVar(&f.forbid, "forbid-tag", nil, "`TAG` the host must not have; repeat for more")
	c.Flags().StringArrayVar(&f.tags, "tag", nil, "`WORD` to give the machine; repeat for more")
	c.Flags().BoolVar(&f.start, "start", false, "start it once it is made")
	c.Flags().BoolVar(&f.autostart, "autostart", false, "start it whenever its host boots")
	c.MarkFlagsMutuallyExclusive("disk", "diskless")
	f.change.registerWait(c)
	a.completeFlag(c, "zone", completeZones)
	a.completeFlag(c, "pool", completePools)
	a.completeFlag(c, "vm-host", completeHosts)
	return c
}

func (f *composeFlags) request(args []string) (*vmhostv1.ComposeMachineRequest, error) {
	r := &vmhostv1.ComposeMachineRequest{
		Cores: f.cores, Diskless: f.diskless, Start: f.start, Autostart: f.autostart, Architecture: f.arch,
		Zone: full(zones, f.zone), ResourcePool: full(resourcePools, f.pool), VmHost: full(vmHosts, f.host),
		RequiredTags: f.require, ForbiddenTags: f.forbid, Tags: f.tags,
		RequestId: f.change.id(), ValidateOnly: f.change.dryRun,
	}
	if len(args) == 1 {
		r.Hostname = args[0]
	}
	var err error
	if f.memory != "" {
		if r.MemoryMib, err = units.ParseMemoryMiB(f.memory); err != nil {
			return nil, usage("write for example --memory 512MiB or --memory 8GiB", "--memory %q: %w", f.memory, err)
		}
	}
	for _, s := range f.disks {
		d, err := parseDisk(s)
		if err != nil {
			return nil, err
		}
		r.Disks = append(r.Disks, d)
	}
	for _, s := range f.nics {
		i, err := parseNIC(s)
		if err != nil {
			return nil, err
		}
		r.Interfaces = append(r.Interfaces, i)
	}
	return r, nil
}

// compose sends the request, waits, and shows the machine.
func (a *app) compose(ctx context.Context, api *region, r *vmhostv1.ComposeMachineRequest, f *changeFlags) error {
	what := "compose a machine"
	if r.GetHostname() != "" {
		what = "compose machine " + r.GetHostname()
	}
	op, err := change(ctx, api.machines.ComposeMachine, r)
	if err != nil {
		return fail(err, "%s", what)
	}
	if f.dryRun {
		return a.printPlan(op, what, f)
	}
	if op, err = a.finish(ctx, op, what, f); err != nil {
		return err
	}
	m, err := machineOf(ctx, api, op, op.GetTarget())
	if err != nil {
		return fail(err, "show the machine that was composed")
	}
	return printRow(a, m, machineColumns(a.now()))
}

// parseDisk reads `SIZE[@POOL]`.
func parseDisk(s string) (*vmhostv1.DiskRequest, error) {
	size, pool, named := strings.Cut(s, "@")
	bytes, err := units.ParseBytes(size)
	if err != nil {
		return nil, usage("write for example --disk 10GB or --disk 40GiB@fast", "--disk %q: %w", s, err)
	}
	if named && pool == "" {
		return nil, usage("write for example --disk 40GiB@fast", "--disk %q names no storage pool after the @", s)
	}
	return &vmhostv1.DiskRequest{SizeBytes: bytes, StoragePool: pool}, nil
}

// parseNIC reads `network=NAME|bridge=NAME|macvlan=DEVICE[,mac=MAC][,mode=MODE]`.
func parseNIC(s string) (*vmhostv1.InterfaceRequest, error) {
	const hint = "write for example --nic network=lab or --nic macvlan=eth1,mode=bridge"
	i := &vmhostv1.InterfaceRequest{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || value == "" {
			return nil, usage(hint, "--nic %q: %q is not key=value", s, part)
		}
		var kind vmhostv1.InterfaceKind
		switch key {
		case "network":
			kind = vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK
		case "bridge":
			kind = vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE
		case "macvlan":
			kind = vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN
		case "mac":
			i.Mac = value
			continue
		case "mode":
			mode, err := parseMacvlan(value)
			if err != nil {
				return nil, err
			}
			i.MacvlanMode = mode
			continue
		default:
			return nil, usage(hint, "--nic %q: there is no %q", s, key)
		}
		if i.GetSource() != "" {
			return nil, usage(hint, "--nic %q names two things to attach to", s)
		}
		i.Kind, i.Source = kind, value
	}
	if i.GetMacvlanMode() != 0 && i.GetKind() != vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN {
		return nil, usage(hint, "--nic %q: mode is for macvlan only", s)
	}
	return i, nil
}

package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const composeLong = `Makes a machine: chooses the host with the most room among those that fit, takes
the room, and has the machine made. What is left out is chosen: a hostname, one
core, 2 GiB of memory, one disk of 8 GB, one interface on the default network.

--nic says what an interface is attached to, by one or more of these; all of
them must hold
  network=NAME bridge=NAME       what it is on the host
  macvlan=DEVICE sriov=DEVICE
  subnet=CIDR vlan=ID            what the host has it on
  space=SPACE tag=WORD
  ip=ADDRESS mac=MAC             its own, else chosen
  mode=MODE                      of macvlan: bridge, private, vepa, passthru
  boot                           boot from the network by it

--disk is SIZE[@POOL], and after commas tag=WORD for a storage pool with that
tag, and boot for the disk to boot from, else the first. Sizes are exact: 20GB
are 20 000 000 000 bytes.

` + preferLong + `

--dry-run shows where it would go and why, how other hosts that fit are judged,
and why each host that does not was refused.`

const composeExample = `  vmhostctl machine compose web-1 --cores 2 --memory 4GiB --disk 20GB --start
  vmhostctl machine compose --disk 10GB@fast --disk 100GB@big \
      --nic network=lab --nic macvlan=eth1,mode=bridge
  vmhostctl machine compose --disk 20GB,tag=ssd \
      --nic subnet=10.0.0.0/24,ip=10.0.0.7 --nic space=storage,vlan=12
  vmhostctl machine compose c1 --container --image tiny --disk 4GB
  vmhostctl machine compose web --count 3 --group web --away web,zone
  vmhostctl machine compose web-1 --reservation RESERVATION
  vmhostctl machine compose db --zone a --require-tag ssd --dry-run`

// composeFlags say what machine is wanted.
type composeFlags struct {
	cores                      int32
	memory                     string
	disks, nics                []string
	diskless, start, autostart bool
	zone, pool, host, arch     string
	require, forbid, tags      []string
	container, hugepages       bool
	secureBoot                 bool
	firmware, pinned, image    string
	profiles                   []string
	prefer                     preferFlags
	reservation                string
	many                       manyFlags
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
			many, err := f.many.wanted(c)
			if err != nil {
				return err
			}
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			if many {
				return a.composeMany(ctx, api, request, &f.many, &f.change)
			}
			return a.compose(ctx, api, request, &f.change)
		},
	}
	f.register(a, c)
	c.Flags().StringVar(&f.reservation, "reservation", "", "take a place of `RESERVATION`; what is left out is as reserved")
	a.completeFlag(c, "reservation", completeReservations)
	f.many.register(c)
	f.change.registerWait(c)
	return c
}

// register adds the flags of a machine that is wanted.
func (f *composeFlags) register(a *app, c *cobra.Command) {
	c.Flags().Int32Var(&f.cores, "cores", 0, "`NUMBER` of virtual cores; 1 when left out")
	c.Flags().StringVar(&f.memory, "memory", "", "`SIZE` of memory, such as 512MiB or 8GiB; 2GiB when left out")
	c.Flags().StringArrayVar(&f.disks, "disk", nil, "`DISK` such as 10GB or 40GiB@fast, see above; repeat for more")
	c.Flags().BoolVar(&f.diskless, "diskless", false, "no disk at all")
	c.Flags().StringArrayVar(&f.nics, "nic", nil, "`INTERFACE` such as network=lab, see above; repeat for more")
	c.Flags().BoolVar(&f.container, "container", false, "a container (LXD) instead of a virtual machine; needs --image")
	c.Flags().StringVar(&f.image, "image", "", "LXD `IMAGE` to make it from, an alias or fingerprint on the host")
	c.Flags().StringArrayVar(&f.profiles, "profile", nil, "LXD `PROFILE` to apply; repeat for more, in order")
	c.Flags().StringVar(&f.pinned, "pin-cores", "", "`CORES` of the host to pin to, such as 0-3,8; they say how many there are")
	c.Flags().BoolVar(&f.hugepages, "hugepages", false, "back its memory by huge pages")
	c.Flags().StringVar(&f.firmware, "firmware", "", "`FIRMWARE` it boots with: bios or uefi")
	c.Flags().BoolVar(&f.secureBoot, "secure-boot", false, "start only signed boot loaders; needs --firmware uefi")
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
	f.prefer.register(a, c)
	a.completeWords(c, "firmware", "bios", "uefi")
	a.completeCompose(c)
	a.completeFlag(c, "zone", completeZones)
	a.completeFlag(c, "pool", completePools)
	a.completeFlag(c, "vm-host", completeHosts)
}

func (f *composeFlags) request(args []string) (*vmhostv1.ComposeMachineRequest, error) {
	r := &vmhostv1.ComposeMachineRequest{
		Cores: f.cores, Diskless: f.diskless, Start: f.start, Autostart: f.autostart, Architecture: f.arch,
		Zone: full(zones, f.zone), ResourcePool: full(resourcePools, f.pool), VmHost: full(vmHosts, f.host),
		RequiredTags: f.require, ForbiddenTags: f.forbid, Tags: f.tags,
		Hugepages: f.hugepages, SecureBoot: f.secureBoot, Image: f.image, Profiles: f.profiles,
		RequestId: f.change.id(), ValidateOnly: f.change.dryRun, Reservation: full(reservations, f.reservation),
	}
	if len(args) == 1 {
		r.Hostname = args[0]
	}
	if f.container {
		r.Type = vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
	}
	if err := f.prefer.apply(r); err != nil {
		return nil, err
	}
	var err error
	if r.PinnedCores, err = parseCores(f.pinned); err != nil {
		return nil, err
	}
	switch f.firmware {
	case "":
	case "bios":
		r.Firmware = vmhostv1.Firmware_FIRMWARE_BIOS
	case "uefi":
		r.Firmware = vmhostv1.Firmware_FIRMWARE_UEFI
	default:
		return nil, usage("use --firmware bios or --firmware uefi", "there is no firmware %q", f.firmware)
	}
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
		return a.printPlan(ctx, api, r, op, what, f)
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

package ctl

import (
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) vmHostUpdate() *cobra.Command {
	var f changeFlags
	var spec hostFlags
	var address, etag string
	c := &cobra.Command{
		Use: "update NAME", Short: "Change what is asked of a host", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts),
		Long:    "Changes what is given and nothing else. --tag, --network-label,\n--storage-pool-label and --shared-pool replace all there are; '' takes them\naway. A new address,\ncredential or host key is tried at once.",
		Example: "  vmhostctl vm-host update h1 --overcommit cores=4\n  vmhostctl vm-host update h2 --accept-host-key",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			what := "update VM host " + display.ID(args[0])
			h := &vmhostv1.VmHost{Name: full(vmHosts, args[0]), Etag: etag}
			if spec.login.given() {
				now, err := call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: h.GetName()})
				if err != nil {
					return fail(err, "%s", what)
				}
				h.Type = now.GetType()
			}
			paths, err := spec.apply(ctx, a, c, h)
			if err != nil {
				return err
			}
			if c.Flags().Changed("address") {
				h.Address = address
				paths = append(paths, "address")
			}
			if spec.acceptHostKey {
				if err := a.acceptKeyOf(c, api, h, what); err != nil {
					return err
				}
				paths = append(paths, "host_key")
			}
			if len(paths) == 0 {
				return usage(a.helpHintOf("vm-host update"), "nothing to change was given")
			}
			changed, err := change(ctx, api.vmHosts.UpdateVmHost, &vmhostv1.UpdateVmHostRequest{
				VmHost: h, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "%s", what)
			}
			return a.changedHost(changed, &f)
		},
	}
	c.Flags().StringVar(&address, "address", "", "`ADDRESS` of the hypervisor, as for vm-host add")
	c.Flags().StringVar(&etag, "etag", "", "refuse when the host has changed since `VERSION`")
	spec.register(a, c)
	f.register(c)
	return c
}

// acceptKeyOf takes the key that the host presents, at its new address or the
// one that it has.
func (a *app) acceptKeyOf(c *cobra.Command, api *region, h *vmhostv1.VmHost, what string) error {
	ctx, _, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	now, err := call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: h.GetName()})
	if err != nil {
		return fail(err, "%s", what)
	}
	asked := &vmhostv1.VmHost{
		Type: now.GetType(), Address: first(h.GetAddress(), now.GetAddress()), Rack: first(h.GetRack(), now.GetRack()), Zone: first(h.GetZone(), now.GetZone()),
	}
	if err := a.ensureHostKey(ctx, api, asked, true, what); err != nil {
		return err
	}
	if asked.GetHostKey() == "" {
		return usage("leave --accept-host-key out", "%s presents no host key", asked.GetAddress())
	}
	h.HostKey = asked.GetHostKey()
	return nil
}

const vmHostCheckLong = `Has a rack reach an address and shows, one by one, what stands between it and a
working host. Nothing is recorded. Without --host-key only the key that the host
presents is shown, and no credential is sent.

With --fix what can safely be done is done: a storage pool is defined where
there is none, storage pools and networks that do not run are started. With
--new-ssh-key an SSH key is made, and where it goes is shown.`

const vmHostCheckExample = `  vmhostctl vm-host check qemu+ssh://root@h2.example/system \
      --ssh-key ~/.ssh/id_ed25519 --host-key SHA256:…
  vmhostctl vm-host check qemu+ssh://root@h2.example/system \
      --new-ssh-key --ssh-key h2.key
  vmhostctl vm-host check qemu:///system --fix
  vmhostctl vm-host check https://l1.example`

func (a *app) vmHostCheck() *cobra.Command {
	var f changeFlags
	var login loginFlags
	var zone, rack, key, project string
	var lxd, fix, newKey bool
	c := &cobra.Command{
		Use: "check ADDRESS", Short: "Try an address before it is added", Args: takes(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: vmHostCheckLong, Example: vmHostCheckExample,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			what := "check " + args[0]
			if newKey {
				if err := a.makeSSHKey(login.sshKey, args[0], f.dryRun); err != nil {
					return err
				}
				if f.dryRun {
					login.sshKey = "" // there is none yet
				}
			}
			spec := hostFlags{lxd: lxd}
			request := &vmhostv1.CheckVmHostRequest{
				Address: args[0], Type: spec.typeOf(args[0]), Project: project, Fix: fix, HostKey: key,
				Rack: full(racks, rack), Zone: full(zones, zone), RequestId: f.id(), ValidateOnly: f.dryRun,
			}
			if request.Credential, err = login.credential(ctx, a, request.GetType()); err != nil {
				return err
			}
			op, err := change(ctx, api.vmHosts.CheckVmHost, request)
			if err != nil {
				return fail(err, "%s", what)
			}
			if op, err = a.finish(ctx, op, what, &f); err != nil {
				return err
			}
			result := &vmhostv1.CheckVmHostResult{}
			if err := op.GetResponse().UnmarshalTo(result); err != nil {
				return fail(err, "%s", what)
			}
			return a.printCheck(result, args[0])
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "`ZONE` whose racks are preferred")
	c.Flags().StringVar(&rack, "rack", "", "`RACK` to try from")
	c.Flags().StringVar(&key, "host-key", "", "`KEY` that is expected of the host")
	c.Flags().BoolVar(&lxd, "lxd", false, "the address is that of an LXD server, also without https://")
	c.Flags().StringVar(&project, "project", "", "LXD `PROJECT` to look at; default when left out")
	c.Flags().BoolVar(&fix, "fix", false, "do what can safely be done about what is missing")
	c.Flags().BoolVar(&newKey, "new-ssh-key", false, "make the key that --ssh-key names, and show where it goes")
	login.register(c)
	f.registerWait(c)
	a.completeFlag(c, "zone", completeZones)
	a.completeFlag(c, "rack", completeRacks)
	return c
}

// printCheck shows what was tried. It fails when something failed.
func (a *app) printCheck(r *vmhostv1.CheckVmHostResult, address string) error {
	type item = *vmhostv1.CheckItem
	err := a.print(r, address, func() error {
		if err := printTable(a, r.GetItems(), []display.Column[item]{
			{Head: "CHECK", Cell: item.GetCheck},
			{Head: "STATUS", State: true, Cell: func(i item) string { return display.Word(i.GetStatus(), "CHECK_STATUS_") }},
			{Head: "FOUND", Cell: withFixed},
		}); err != nil {
			return err
		}
		b := &display.Block{Palette: a.palette()}
		var todo []display.Note
		for _, i := range r.GetItems() {
			if i.GetHint() != "" {
				todo = append(todo, display.Note{Head: i.GetCheck(), Hint: i.GetHint()})
			}
		}
		b.AddNotes("To do", todo)
		projects := make([]display.Note, 0, len(r.GetProjects()))
		for _, p := range r.GetProjects() {
			projects = append(projects, display.Note{Head: p})
		}
		b.AddNotes("Projects", projects)
		if r.GetHostKey() != "" {
			b.AddNotes("Host key", []display.Note{{Head: r.GetFingerprint(), Message: r.GetHostKey()}})
		}
		return b.Write(a.stdout)
	})
	if err != nil {
		return err
	}
	for _, i := range r.GetItems() {
		if i.GetStatus() == vmhostv1.CheckStatus_CHECK_STATUS_FAILED {
			e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "%s: %s", i.GetCheck(), i.GetMessage())
			e.Hint = first(i.GetHint(), "put that right, then check again")
			return &failure{what: "cannot use " + address + " as it is", err: e, code: exitFailed}
		}
	}
	return nil
}

// withFixed is what was found and what was done about it.
func withFixed(i *vmhostv1.CheckItem) string {
	if i.GetFixed() == "" {
		return i.GetMessage()
	}
	return i.GetMessage() + "; fixed: " + i.GetFixed()
}

// helpHintOf names the help of a command.
func (a *app) helpHintOf(command string) string {
	return fmt.Sprintf("see `vmhostctl %s --help`", command)
}

package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

const opCreate = "create machine"

// LXD takes the name for a host name: letters, digits and dashes, none of them a
// dot, which separates projects in names of its own.
var plainName = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)

// Create makes a machine with its volumes and does not start it.
func (d *Driver) Create(ctx context.Context, m *rackv1.CreateMachine) (*rackv1.MachineObservation, error) {
	if err := checkCreate(m); err != nil {
		return nil, err
	}
	machine := m.GetMachine()
	unlock, err := d.changing.Lock(ctx, machine.GetUid(), opCreate)
	if err != nil {
		return nil, err
	}
	defer unlock()
	there, err := d.ownOrFree(ctx, machine)
	if err != nil {
		return nil, err
	}
	if there {
		// What made it may be at work still.
		if err := d.settle(ctx, opCreate, instanceName(machine)); err != nil {
			return nil, err
		}
		if there, err = d.ownOrFree(ctx, machine); err != nil {
			return nil, err
		}
	}
	if !there {
		var steps []func(context.Context) error
		if err := d.create(ctx, m, &steps); err != nil {
			return nil, undo.All(ctx, opCreate, err, steps)
		}
	}
	i, err := d.own(ctx, hypervisor.Ref{UID: machine.GetUid(), Name: instanceName(machine)}, opCreate)
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, &hypervisor.Error{Op: opCreate, Err: errors.New("LXD has made the instance and does not show it")}
	}
	d.index.put(i)
	return d.Machine(ctx, machine.GetUid())
}

func instanceName(m *vmhostv1.Machine) string { return firstOf(m.GetHypervisorName(), m.GetHostname()) }

func checkCreate(m *rackv1.CreateMachine) error {
	machine := m.GetMachine()
	refuse := func(format string, args ...any) error {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opCreate, Err: fmt.Errorf(format, args...)}
	}
	if err := checkUUID(machine.GetUid()); err != nil {
		return err
	}
	switch {
	case !plainName.MatchString(instanceName(machine)):
		return refuse("%q is no name for an instance: it starts with a letter and has letters, digits and dashes", instanceName(machine))
	case machine.GetCores() < 1 && len(machine.GetPinnedCores()) == 0:
		return refuse("a machine needs at least one core")
	case len(machine.GetPinnedCores()) > 0 && int(machine.GetCores()) != len(machine.GetPinnedCores()):
		return refuse("a machine of %d cores is pinned to %d", machine.GetCores(), len(machine.GetPinnedCores()))
	case machine.GetMemoryMib() < 1:
		return refuse("a machine needs memory")
	case len(machine.GetDisks()) == 0:
		return refuse("an instance of LXD needs a root disk")
	case machine.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER && machine.GetImage() == "":
		return refuse("a container needs an image")
	}
	for _, k := range machine.GetDisks() {
		if k.GetStoragePool() == "" || k.GetVolume() == "" || k.GetSizeBytes() < 1 {
			return refuse("disk %q needs a storage pool, a volume and a size", k.GetVolume())
		}
	}
	return nil
}

func checkUUID(s string) error {
	if _, err := uuid.Parse(s); err != nil || len(s) != 36 {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "read the machine's uid", Err: fmt.Errorf("%q is no UUID", s)}
	}
	return nil
}

// ownOrFree says whether the machine is there already. An instance of that uuid
// or name that is not this machine is ErrForeign.
func (d *Driver) ownOrFree(ctx context.Context, m *vmhostv1.Machine) (bool, error) {
	// All members of a cluster share the names of a project.
	list, err := d.listOwn(ctx)
	if err != nil {
		return false, err
	}
	found := false
	for _, i := range list {
		foreign := func(what string) error {
			return &hypervisor.Error{
				Class: hypervisor.ErrForeign, Op: opCreate, Err: fmt.Errorf("project %q has another instance %s", d.project, what),
				Hint: "choose another hostname, or rename the instance on the server",
			}
		}
		switch {
		case i.uuid == m.GetUid() && d.is(i, m.GetUid()) && d.here(i.Location):
			found = true
		case i.uuid == m.GetUid():
			return false, foreign(fmt.Sprintf("with the uuid %s: %q", i.uuid, i.Name))
		case i.Name == instanceName(m):
			return false, foreign(fmt.Sprintf("named %q", i.Name))
		}
	}
	return found, nil
}

// create does the steps and collects how to undo them.
func (d *Driver) create(ctx context.Context, m *rackv1.CreateMachine, steps *[]func(context.Context) error) error {
	machine := m.GetMachine()
	if err := d.canRun(ctx, machine); err != nil {
		return err
	}
	source, err := d.source(ctx, machine)
	if err != nil {
		return err
	}
	if err := d.checkProfiles(ctx, machine.GetProfiles()); err != nil {
		return err
	}
	nics, err := d.nicDevices(ctx, machine)
	if err != nil {
		return err
	}
	root, extra := rootAndExtra(machine)
	p, err := d.usablePool(ctx, root.GetStoragePool())
	if err != nil {
		return err
	}
	if err := d.roomFor(ctx, p, root.GetSizeBytes(), "the root disk"); err != nil {
		return err
	}
	for _, k := range extra {
		created, err := d.makeVolume(ctx, machine, k, content(machine))
		if created {
			*steps = append(*steps, func(ctx context.Context) error { return d.deleteVolume(ctx, k.GetStoragePool(), k.GetVolume()) })
		}
		if err != nil {
			return err
		}
	}
	post := define(m, source, nics)
	if err := d.change(ctx, "make instance "+post.Name, http.MethodPost, d.onMember(d.in("/1.0/instances")), post, ""); err != nil {
		return d.full(ctx, p, root.GetSizeBytes(), err)
	}
	return nil
}

// canRun refuses a virtual machine where LXD cannot run any, in LXD's words.
func (d *Driver) canRun(ctx context.Context, m *vmhostv1.Machine) error {
	server, err := d.readServer(ctx)
	if err != nil {
		return err
	}
	refuse := func(format string, args ...any) error {
		return &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opCreate, Err: fmt.Errorf(format, args...)}
	}
	if a := m.GetArchitecture(); a != "" && !slices.Contains(server.Environment.Architectures, a) {
		return refuse("the server runs %s, not %s", strings.Join(server.Environment.Architectures, ", "), a)
	}
	if m.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		if !runs(server, "lxc") {
			return refuse("the server cannot run containers")
		}
		return nil
	}
	if runs(server, "qemu") {
		return nil
	}
	why := ""
	// A restricted certificate may not read the warnings.
	if list, err := get[[]lxdapi.Warning](ctx, d.conn, "read the server's warnings", "/1.0/warnings?recursion=1"); err == nil {
		for _, w := range list {
			if w.Type == "Instance type not operational" && d.here(w.Location) {
				why = ": " + w.LastMessage
			}
		}
	}
	return refuse("the server cannot run virtual machines%s", why)
}

// source is what the root disk is made of: an image of the server, or nothing.
func (d *Driver) source(ctx context.Context, m *vmhostv1.Machine) (lxdapi.InstanceSource, error) {
	if m.GetImage() == "" {
		return lxdapi.InstanceSource{Type: "none"}, nil
	}
	d.facts.images.drop()
	images, err := d.readImages(ctx)
	if err != nil {
		return lxdapi.InstanceSource{}, err
	}
	want := typeVM
	if m.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		want = typeContainer
	}
	i := findImage(images, m.GetImage(), want)
	if i == nil {
		return lxdapi.InstanceSource{}, &hypervisor.Error{
			Class: hypervisor.ErrNotFound, Op: opCreate, Err: fmt.Errorf("the server has no image %q in project %q", m.GetImage(), d.project),
			Hint: "`lxc image list` on the server shows its images",
		}
	}
	if i.Type != want {
		return lxdapi.InstanceSource{}, &hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: opCreate, Err: fmt.Errorf("image %q is of a %s, the machine is a %s", m.GetImage(), i.Type, want),
		}
	}
	return lxdapi.InstanceSource{Type: "image", Fingerprint: i.Fingerprint}, nil
}

// findImage finds an image by its alias, or by a fingerprint or its beginning; of
// several the one that makes what is wanted.
func findImage(images []lxdapi.Image, name, want string) *lxdapi.Image {
	var found *lxdapi.Image
	for n := range images {
		i := &images[n]
		match := slices.ContainsFunc(i.Aliases, func(a lxdapi.ImageAlias) bool { return a.Name == name }) ||
			(len(name) >= 12 && strings.HasPrefix(i.Fingerprint, strings.ToLower(name)))
		if match && (found == nil || i.Type == want) {
			found = i
		}
	}
	return found
}

func (d *Driver) checkProfiles(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	d.facts.profiles.drop()
	there, err := d.readProfiles(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(there, name) {
			return &hypervisor.Error{
				Class: hypervisor.ErrNotFound, Op: opCreate, Err: fmt.Errorf("project %q has no profile %q", d.project, name),
				Hint: "`lxc profile list` on the server shows its profiles",
			}
		}
	}
	return nil
}

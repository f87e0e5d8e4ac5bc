package libvirt

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/driver/undo"
)

const opCreate = "create machine"

// A name is part of a path on the host (the console's log).
var plainName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9_.]{0,126}[a-z0-9])?$`)

// Create makes a machine with its volumes and does not start it.
func (d *Driver) Create(ctx context.Context, m *rackv1.CreateMachine) (*rackv1.MachineObservation, error) {
	id, err := checkCreate(m)
	if err != nil {
		return nil, err
	}
	machine := m.GetMachine()
	unlock, err := d.changing.Lock(ctx, uuid.UUID(id).String(), opCreate)
	if err != nil {
		return nil, err
	}
	defer unlock()
	there, err := d.ownOrFree(ctx, id, machine)
	if err != nil {
		return nil, err
	}
	var steps []func(context.Context) error
	err = d.create(ctx, m, there, &steps)
	// What was read before is not good any more; events say so too, but later.
	d.library.changed(id)
	if err != nil {
		err = undo.All(ctx, opCreate, err, steps)
		d.library.changed(id)
		return nil, err
	}
	return d.Machine(ctx, machine.GetUid())
}

func checkCreate(m *rackv1.CreateMachine) (lv.UUID, error) {
	machine := m.GetMachine()
	id, err := parseUUID(machine.GetUid())
	if err != nil {
		return id, err
	}
	refuse := func(format string, args ...any) error {
		return &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opCreate, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case !plainName.MatchString(domainName(machine)) || strings.Contains(domainName(machine), ".."):
		return id, refuse("%q is no name for a domain", domainName(machine))
	case machine.GetCores() < 1:
		return id, refuse("a machine needs at least one core")
	case machine.GetMemoryMib() < 1:
		return id, refuse("a machine needs memory")
	case machineTypes[machine.GetArchitecture()] == "":
		return id, &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opCreate, Err: fmt.Errorf("machines of architecture %q cannot be made on libvirt hosts", machine.GetArchitecture()),
		}
	}
	if n := len(machine.GetPinnedCores()); n > 0 && n != int(machine.GetCores()) {
		return id, refuse("%d cores are pinned of %d", n, machine.GetCores())
	}
	if machine.GetSecureBoot() && machine.GetFirmware() == vmhostv1.Firmware_FIRMWARE_BIOS {
		return id, refuse("a machine with BIOS cannot have secure boot")
	}
	if machine.GetType() == vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		return id, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opCreate, Err: errors.New("containers cannot be made on libvirt hosts")}
	}
	for _, k := range machine.GetDisks() {
		if k.GetStoragePool() == "" || k.GetVolume() == "" || k.GetSizeBytes() < 1 {
			return id, refuse("disk %q needs a storage pool, a volume and a size", k.GetVolume())
		}
	}
	return id, nil
}

// ownOrFree answers the machine's domain, nil when there is none. A domain of
// that UUID or name that is not this machine is ErrForeign.
func (d *Driver) ownOrFree(ctx context.Context, id lv.UUID, machine *vmhostv1.Machine) (*seen, error) {
	name := domainName(machine)
	doms, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, dom := range doms {
		if dom.UUID != id && dom.Name == name {
			return nil, &hypervisor.Error{
				Class: hypervisor.ErrForeign, Op: opCreate, Err: fmt.Errorf("the host has another domain named %q", name),
				Hint: "choose another hostname, or rename the domain on the host",
			}
		}
	}
	if !slices.ContainsFunc(doms, func(dom lv.Domain) bool { return dom.UUID == id }) {
		return nil, nil //nolint:nilnil // free is no error
	}
	return d.own(ctx, id, machine.GetUid(), opCreate)
}

// own reads a domain and makes sure that it is the machine of a uid; nil when it
// is not there.
func (d *Driver) own(ctx context.Context, id lv.UUID, uid, op string) (*seen, error) {
	one, err := d.look(ctx, id)
	if err != nil || one == nil {
		return nil, err
	}
	if one.record.domain == nil {
		return nil, &hypervisor.Error{Op: op, Err: fmt.Errorf("domain %q cannot be read, so it is not known to be ours: %s", one.dom.Name, one.record.problem)}
	}
	if !one.record.domain.is(uid) {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrForeign, Op: op, Err: fmt.Errorf("domain %q does not carry this machine's uid", one.dom.Name),
			Hint: "it was made or changed outside of vmhost, which leaves it alone",
		}
	}
	return one, nil
}

// create does the steps that are not done yet and collects how to undo them.
func (d *Driver) create(ctx context.Context, m *rackv1.CreateMachine, there *seen, steps *[]func(context.Context) error) error {
	machine := m.GetMachine()
	sources := make([]volumeSource, 0, len(machine.GetDisks()))
	for _, k := range machine.GetDisks() {
		v, err := d.makeVolume(ctx, machine.GetUid(), k)
		if v != nil && v.created {
			*steps = append(*steps, func(ctx context.Context) error { return d.deleteVolume(ctx, v.handle) })
		}
		if err != nil {
			return err
		}
		sources = append(sources, v.source)
	}
	log, err := d.makeLog(ctx, machine)
	if err != nil {
		return err
	}
	if log != nil {
		*steps = append(*steps, func(ctx context.Context) error { return d.deleteVolume(ctx, *log) })
	}
	if err := d.fixAddresses(ctx, machine, steps); err != nil {
		return err
	}
	dom := lv.Domain{}
	if there != nil {
		dom = there.dom
	} else {
		var err error
		if dom, err = d.define(ctx, m, sources); err != nil {
			return err
		}
		*steps = append(*steps, func(ctx context.Context) error { return d.undefine(ctx, dom) })
	}
	if !m.GetAutostart() {
		return nil
	}
	return do(ctx, d.conn, "set autostart of domain "+dom.Name, fast, func(a api) error { return a.DomainSetAutostart(dom, 1) })
}

func (d *Driver) define(ctx context.Context, m *rackv1.CreateMachine, sources []volumeSource) (lv.Domain, error) {
	caps, err := d.capabilities(ctx)
	if err != nil {
		return lv.Domain{}, err
	}
	static, err := d.readStatic(ctx)
	if err != nil {
		return lv.Domain{}, err
	}
	architecture := m.GetMachine().GetArchitecture()
	if !slices.Contains(architectures(caps), architecture) {
		return lv.Domain{}, &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: opCreate, Err: fmt.Errorf("the host cannot run machines of architecture %q", architecture),
		}
	}
	host := hostFacts{kvm: hasKVM(caps, architecture), libVersion: static.libvirt, consoleLog: d.consoleLogOf(m.GetMachine())}
	if host.hostdevNetworks, host.functions, err = d.freeFunctions(ctx, m.GetMachine()); err != nil {
		return lv.Domain{}, err
	}
	if host.tagged, err = d.tagsOf(ctx, m.GetMachine(), static.libvirt); err != nil {
		return lv.Domain{}, err
	}
	text, err := defineXML(m, sources, host)
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		return lv.Domain{}, e
	} else if err != nil {
		return lv.Domain{}, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "write the domain's XML", Err: err}
	}
	return call(ctx, d.conn, "define domain "+domainName(m.GetMachine()), slow, func(a api) (lv.Domain, error) {
		return a.DomainDefineXMLFlags(text, 0)
	})
}

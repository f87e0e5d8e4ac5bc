package libvirt

import (
	"context"
	"errors"
	"net"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// abortTime is how long a migration that is given up may take to end.
const abortTime = 10 * time.Second

// migration is a live migration that this process drives, by the phases of
// libvirt's protocol: begin on the source, prepare on the destination, perform on
// the source, finish on the destination, confirm on the source. It has connections
// of its own: when they end, by our death too, libvirt ends the migration, so that
// the guest goes on where it was.
type migration struct {
	m        *move
	from, to *conn
	flags    uint32
	params   []lv.TypedParam
	cookie   []byte
}

// handover is what a step of the protocol gives to the next.
type handover struct {
	cookie []byte
	xml    string       // of the domain, from the beginning
	uri    lv.OptString // where the destination listens, from the preparation
}

// live moves a running domain with its memory and disks.
func (m *move) live(ctx context.Context, here *seen, p *plan) error {
	if p.notLive != nil {
		return p.notLive
	}
	if !here.running() && here.state != lv.DomainPaused {
		return cannot("the domain neither runs nor is paused")
	}
	text, err := m.definition(ctx, lv.DomainXMLMigratable)
	if err != nil {
		return err
	}
	a := arrival{moved: m.what.GetMoved(), host: p.host, logs: p.logs, made: !adopted(m.ref)}
	var copied []string
	for _, k := range p.disks {
		var source volumeSource
		if k.stays {
			source, err = k.source(ctx, m.to)
		} else {
			copied = append(copied, k.device)
			source, err = m.to.emptyDisk(ctx, k)
		}
		if err != nil {
			return atDestination(err)
		}
		a.disks = append(a.disks, source)
	}
	if err := m.makeLog(ctx, p); err != nil {
		return err
	}
	var addresses []func(context.Context) error // takeBack frees them
	if err := m.to.fixAddresses(ctx, m.what.GetMoved(), &addresses); err != nil {
		return err
	}
	b := a
	b.appendLogs = m.logStays()
	running, err := arrive(text, b)
	if err != nil {
		return refusedXML(err)
	}
	kept, err := arrive(p.text, a)
	if err != nil {
		return refusedXML(err)
	}
	if err := m.holdBack(ctx); err != nil {
		return err
	}
	if here.running() {
		if err := m.note(ctx, m.operation); err != nil {
			return err
		}
	}
	g := &migration{m: m, flags: uint32(lv.MigrateLive | lv.MigratePersistDest | lv.MigrateChangeProtection | lv.MigrateAutoConverge)}
	g.storage(len(m.stays) > 0, copied)
	if here.state == lv.DomainPaused {
		g.flags |= uint32(lv.MigratePaused)
	}
	g.set(lv.MigrateParamDestXML, running)
	g.set(lv.MigrateParamPersistXML, kept)
	if host := m.to.target.Address.Host; m.to.target.Address.Transport != hypervisor.TransportUnix {
		g.set(lv.MigrateParamURI, "tcp:"+hostOnly(host))
	}
	if err := g.run(ctx); err != nil {
		return definite(err)
	}
	dom := lv.Domain{Name: m.dom.Name, UUID: m.dom.UUID, ID: -1}
	return m.arrived(ctx, dom)
}

// emptyDisk makes a volume that a disk is mirrored to.
func (d *Driver) emptyDisk(ctx context.Context, k movedDisk) (volumeSource, error) {
	kind := kindOf(k.to.kind)
	x := &libvirtxml.StorageVolume{
		Name:       k.name,
		Capacity:   &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: k.size},
		Allocation: &libvirtxml.StorageVolumeSize{Unit: "bytes"},
		Target:     &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: kind.format}},
	}
	if !kind.thin {
		x.Allocation.Value = k.size
	}
	v, err := d.makeNew(ctx, k.to, x)
	if err != nil {
		return volumeSource{}, err
	}
	placed, err := d.placed(ctx, k.to, v)
	if err != nil {
		return volumeSource{}, err
	}
	return placed.source, nil
}

// storage says which disks libvirt copies, by the devices that they are in the
// guest. It copies all of them where nobody says which, or none.
func (g *migration) storage(stay bool, copied []string) {
	if !stay || len(copied) > 0 {
		g.flags |= uint32(lv.MigrateNonSharedDisk)
	}
	if !stay {
		return
	}
	// That the others are the destination's too was tried, see apart, and what they
	// are cached by was judged, see liveInPlace.
	g.flags |= uint32(lv.MigrateUnsafe)
	for _, device := range copied {
		g.params = append(g.params, lv.TypedParam{Field: lv.MigrateParamMigrateDisks, Value: *lv.NewTypedParamValueString(device)})
	}
}

// set gives a parameter a value, once.
func (g *migration) set(name, value string) {
	param := lv.TypedParam{Field: name, Value: *lv.NewTypedParamValueString(value)}
	for i, p := range g.params {
		if p.Field == name {
			g.params[i] = param
			return
		}
	}
	g.params = append(g.params, param)
}

func (g *migration) run(ctx context.Context) error {
	for _, end := range []struct {
		conn **conn
		d    *Driver
	}{{&g.from, g.m.from}, {&g.to, g.m.to}} {
		c, stop, err := end.d.beside(ctx)
		if err != nil {
			return err
		}
		defer stop()
		*end.conn = c
	}
	begun, err := call(ctx, g.from, "begin the migration", slow, func(a api) (out handover, err error) {
		out.cookie, out.xml, err = a.DomainMigrateBegin3Params(g.m.dom, g.params, g.flags)
		return out, err
	})
	if err != nil {
		return err
	}
	g.cookie = begun.cookie
	g.set(lv.MigrateParamDestXML, begun.xml)
	prepared, err := call(ctx, g.to, "prepare the destination for the migration", slow, func(a api) (out handover, err error) {
		out.cookie, out.uri, err = a.DomainMigratePrepare3Params(g.params, begun.cookie, g.flags)
		return out, err
	})
	if err != nil {
		return g.cancel(ctx, err)
	}
	g.cookie = prepared.cookie
	if len(prepared.uri) > 0 {
		g.set(lv.MigrateParamURI, prepared.uri[0])
	}
	g.set(lv.MigrateParamDestName, g.m.dom.Name)
	failed := g.perform(ctx)
	// From here on it is known only by looking where it runs.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	g.m.started = failed == nil
	params, cookie := g.params, g.cookie
	finished, err := call(ctx, g.to, "finish the migration", slow, func(a api) (out []byte, err error) {
		_, out, err = a.DomainMigrateFinish3Params(params, cookie, g.flags, truth(failed != nil))
		return out, err
	})
	g.cookie = finished
	switch {
	case failed != nil:
		return g.cancel(ctx, failed)
	case err != nil && number(err) == lv.ErrOk:
		// Whether it runs there is not known: nobody lets it go on here.
		return err
	case err != nil:
		g.m.started = false
		return g.cancel(ctx, err)
	}
	return g.confirm(ctx, false)
}

// perform sends memory and disks, until it is done or ctx ends.
func (g *migration) perform(ctx context.Context) error {
	const op = "migrate the domain"
	type result struct {
		cookie []byte
		err    error
	}
	done := make(chan result, 1)
	params, cookie := g.params, g.cookie
	calling, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	go func() { // ends with the call, which the abort or the end of the connection ends
		out, err := call(calling, g.from, op, slow, func(a api) ([]byte, error) {
			return a.DomainMigratePerform3Params(g.m.dom, nil, params, cookie, lv.DomainMigrateFlags(g.flags))
		})
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		g.cookie = r.cookie
		return r.err
	case <-ctx.Done():
	}
	late := &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: context.Cause(ctx), Hint: "the machine changes its memory faster than the network between the hosts takes it: move it when it is quieter, or offline"}
	aborting, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	abort := do(aborting, g.m.from.conn, "abort the migration", fast, func(a api) error { return a.DomainAbortJob(g.m.dom) })
	select {
	case r := <-done:
		if r.err == nil {
			g.cookie = r.cookie // it was done just then
			return nil
		}
	case <-aborting.Done():
		abort = errors.Join(abort, aborting.Err())
	}
	if abort != nil {
		late.Err = errors.Join(late.Err, abort)
	}
	g.cookie = nil
	return late
}

// confirm ends the migration on the source, where the domain is off then, or goes
// on if it was cancelled.
func (g *migration) confirm(ctx context.Context, cancelled bool) error {
	return do(ctx, g.from, "end the migration on the source", slow, func(a api) error {
		return a.DomainMigrateConfirm3Params(g.m.dom, g.params, g.cookie, g.flags, truth(cancelled))
	})
}

// cancel lets the domain go on where it was, and answers why. libvirt may have
// done so by itself; whether it has is seen by whoever gives up.
func (g *migration) cancel(ctx context.Context, cause error) error {
	if err := g.confirm(ctx, true); err != nil {
		g.m.from.log.DebugContext(ctx, "migration was not to be confirmed", "domain", g.m.dom.Name, "error", err)
	}
	return cause
}

func truth(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// beside opens another connection to the driver's host, which ends with stop or
// with the driver's own.
func (d *Driver) beside(ctx context.Context) (c *conn, stop func(), err error) {
	dialing, cancel := context.WithTimeout(ctx, d.cfg.DialTimeout)
	defer cancel()
	if c, err = d.opener.connect(dialing, d.target, false); err != nil {
		return nil, nil, err
	}
	ended := make(chan struct{})
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	go func() { // ends with stop
		defer close(ended)
		watch := context.AfterFunc(d.background, func() { c.fail(errClosed) }) //nolint:contextcheck // the life of the driver's connection
		defer watch()
		c.ping(life, d.cfg.PingInterval, d.cfg.PingTimeout)
	}()
	return c, func() {
		c.fail(errClosed)
		end()
		<-ended
	}, nil
}

// hostOnly is a host as a URI has it.
func hostOnly(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return "//[" + host + "]"
	}
	return "//" + host
}

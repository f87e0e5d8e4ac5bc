package console

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// closeLimit bounds what is recorded at the end of a console.
const closeLimit = 5 * time.Second

// Request is what is wanted.
type Request struct {
	// Principal is who wants it.
	Principal string
	// Machine is the machine's uid.
	Machine string
	// Force takes the console from whoever has it.
	Force bool
	// LogBytes, more than 0: the last so many bytes of the log, and no console.
	LogBytes int64
}

// Console is one open console, or log that is read. Close it.
type Console struct {
	server    *Server
	open      *rackv1.OpenConsole
	id        string
	uid       string
	name      string // the machine's, as people call it
	host      string
	rack      string
	epoch     int64
	principal string
	log       *slog.Logger

	claimed bool // guarded by Server.mu

	ctx    context.Context //nolint:containedctx // it is the console's life
	cancel context.CancelCauseFunc
	opened chan struct{} // closed when the rack has opened it
	out    chan []byte
	in     chan []byte
	began  time.Time
	once   sync.Once

	mu sync.Mutex
	at int64 // the revision at which it was asked for
}

// Machine is the machine's resource name.
func (c *Console) Machine() string { return "machines/" + c.uid }

// Rack is the resource name of the rack that it goes through.
func (c *Console) Rack() string { return "racks/" + c.rack }

// errClosed is why a console ends that its user closed.
var errClosed = errors.New("the console was closed")

func (c *Console) end(why error) { c.cancel(why) }

func (c *Console) isOpen() bool {
	select {
	case <-c.opened:
		return true
	default:
		return false
	}
}

func (c *Console) revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Open opens a console, which ends with ctx.
func (s *Server) Open(ctx context.Context, req Request) (*Console, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.plan(v, req)
	if err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	if err := s.add(c); err != nil {
		c.cancel(nil)
		return nil, err
	}
	if err = s.ask(ctx, c); err == nil {
		err = s.await(ctx, c)
	}
	if err != nil {
		c.close(err) //nolint:contextcheck // what is recorded of its end outlives the call
		return nil, err
	}
	return c, nil
}

// plan finds out where the machine is and whether its console can be opened.
func (s *Server) plan(v *store.View, req Request) (*Console, error) {
	name := "machines/" + req.Machine
	r, ok := store.Machines.Get(v, req.Machine)
	if !ok {
		return nil, apierror.NotFound(name)
	}
	m := r.Value.GetResource()
	host := strings.TrimPrefix(m.GetVmHost(), "vmHosts/")
	if m.GetPhase() != vmhostv1.MachinePhase_MACHINE_PHASE_READY {
		return nil, apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is not ready", name).
			With("resource", name).With("phase", m.GetPhase().String()).WithHint("look at it with `vmhostctl machine get`")
	}
	if off(v, m) && req.LogBytes == 0 {
		return nil, isOff(name)
	}
	spec, ok := store.VmHosts.Get(v, host)
	if !ok {
		return nil, apierror.NotFound(m.GetVmHost())
	}
	a, assigned := store.Assignments.Get(v, host)
	_, connected := store.Sessions.Get(v, a.Value.GetRack())
	if !assigned || !connected || a.Value.GetVmHostUid() != spec.Value.GetResource().GetUid() {
		return nil, noRack(host, "no rack that can reach %s is connected", m.GetVmHost())
	}
	observed, _ := store.Observed.Get(v, host)
	if state := observed.Value.GetState(); state != vmhostv1.VmHostState_VM_HOST_STATE_READY {
		return nil, apierror.New(codes.Unavailable, vmhostv1.ErrorReason_HOST_UNREACHABLE, "%s is not reached now", m.GetVmHost()).
			With("vm_host", m.GetVmHost()).With("state", state.String()).WithHint("look at the host with `vmhostctl vm-host get %s`", host)
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails
	c := &Console{
		server: s, id: base64.RawURLEncoding.EncodeToString(secret), uid: req.Machine, name: m.GetHostname(), host: host, rack: a.Value.GetRack(), epoch: a.Revision,
		principal: req.Principal, opened: make(chan struct{}), out: make(chan []byte), in: make(chan []byte), began: time.Now(),
	}
	c.open = &rackv1.OpenConsole{
		Id: c.id, VmHost: m.GetVmHost(), VmHostUid: a.Value.GetVmHostUid(), Epoch: c.epoch,
		Uid: m.GetUid(), HypervisorUuid: m.GetHypervisorUuid(), HypervisorName: m.GetHypervisorName(), LogBytes: req.LogBytes, Force: req.Force,
	}
	c.log = s.log.With("machine", name, "vm_host", m.GetVmHost(), "rack", c.rack, "principal", req.Principal)
	if s.cfg.Local(c.rack) {
		return c, nil
	}
	if c.open.Endpoint = s.cfg.Endpoint; c.open.GetEndpoint() == "" {
		return nil, noRack(host, "racks/%s has its session with another region, and this one does not know where racks reach it", c.rack).
			WithHint("set rack_advertise in this region's configuration, or use the region that has the rack's session")
	}
	return c, nil
}

// off says whether the machine was seen turned off.
func off(v *store.View, m *vmhostv1.Machine) bool {
	uuid := m.GetHypervisorUuid()
	if uuid == "" {
		uuid = m.GetUid()
	}
	seen, ok := store.Seen.Get(v, strings.TrimPrefix(m.GetVmHost(), "vmHosts/"), uuid)
	return ok && seen.Value.GetObservation().GetPowerState() == vmhostv1.PowerState_POWER_STATE_OFF
}

func isOff(name string) error {
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is off, and has no console", name).
		With("resource", name).WithHint("start it with `vmhostctl machine start`, or read what it wrote with `vmhostctl machine console --log`")
}

// ask writes the console down, for the region that has the rack's session.
func (s *Server) ask(ctx context.Context, c *Console) error {
	lease, ok := s.cfg.Lease()
	if !ok {
		return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the region has no lease for consoles now").WithHint("try again in a moment")
	}
	tx := store.NewTxn()
	tx.IfRevision(store.Assignments.Key(c.host), c.epoch)
	tx.IfPresent(store.Sessions.Key(c.rack))
	tx.WithLease(lease)
	store.Put(tx, store.Consoles, c.record(), c.id)
	revision, err := s.store.Commit(ctx, tx)
	if errors.Is(err, store.ErrConflict) {
		return noRack(c.host, "the rack of vmHosts/%s changed meanwhile", c.host).WithHint("try again")
	}
	c.mu.Lock()
	c.at = revision
	c.mu.Unlock()
	return err
}

// await waits until the rack has opened the console, and records that.
func (s *Server) await(ctx context.Context, c *Console) error {
	timer := time.NewTimer(s.cfg.Patience)
	defer timer.Stop()
	select {
	case <-c.opened:
	case <-c.ctx.Done():
		return c.cause()
	case <-timer.C:
		where := "over its session"
		if c.open.GetEndpoint() != "" {
			where = "at " + c.open.GetEndpoint()
		}
		return noRack(c.host, "racks/%s did not open the console in %s", c.rack, s.cfg.Patience).With("endpoint", c.open.GetEndpoint()).
			WithHint("see that the rack reaches this region %s (rack_advertise in the region's configuration), and look into the rack's log", where)
	}
	tx := store.NewTxn()
	tx.Delete(store.Consoles.Key(c.id))
	if c.open.GetLogBytes() == 0 {
		store.AddEvent(tx, c.event("machine.console_opened", c.principal+" opened the console of "+c.name))
	}
	if _, err := s.store.Commit(ctx, tx); err != nil {
		return err
	}
	c.log.InfoContext(ctx, "console opened", "log", c.open.GetLogBytes() > 0, "force", c.open.GetForce())
	return nil
}

func (c *Console) event(kind, message string) *vmhostv1.Event {
	return &vmhostv1.Event{
		Type: kind, Resource: c.Machine(), VmHost: "vmHosts/" + c.host, Principal: c.principal, Message: message,
		Attributes: map[string]string{"hostname": c.name, "rack": c.Rack(), "force": strconv.FormatBool(c.open.GetForce())},
	}
}

// Read waits for what the machine wrote. io.EOF when it stopped, or all of its
// log was read.
func (c *Console) Read() ([]byte, error) {
	select {
	case data := <-c.out:
		return data, nil
	case <-c.ctx.Done():
		return nil, c.cause()
	}
}

// Write types, and waits until the machine's rack takes it.
func (c *Console) Write(data []byte) error {
	select {
	case c.in <- data:
		return nil
	case <-c.ctx.Done():
		return c.cause()
	}
}

// cause is why the console has ended.
func (c *Console) cause() error {
	err := context.Cause(c.ctx)
	if errors.Is(err, errClosed) {
		return io.EOF
	}
	return err
}

// Close ends the console.
func (c *Console) Close() { c.close(errClosed) }

// CloseWith ends the console for a reason, io.EOF when its user is done. It does
// not wait; Close must be called all the same.
func (c *Console) CloseWith(why error) {
	if errors.Is(why, io.EOF) {
		why = errClosed
	}
	c.end(why)
}

func (c *Console) close(why error) {
	c.once.Do(func() {
		c.cancel(why)
		c.server.remove(c)
		why = context.Cause(c.ctx) // the first reason
		tx := store.NewTxn()
		tx.Delete(store.Consoles.Key(c.id))
		if c.isOpen() && c.open.GetLogBytes() == 0 {
			e := c.event("machine.console_closed", "the console of "+c.name+" that "+c.principal+" had was closed: "+reason(why))
			e.Attributes["seconds"] = strconv.FormatInt(int64(time.Since(c.began).Seconds()), 10)
			store.AddEvent(tx, e)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), closeLimit)
		defer cancel()
		if _, err := c.server.store.Commit(ctx, tx); err != nil {
			c.log.WarnContext(ctx, "the end of a console was not recorded", "error", err)
		}
		c.log.InfoContext(ctx, "console closed", "log", c.open.GetLogBytes() > 0, "opened", c.isOpen(), "duration", time.Since(c.began), "cause", reason(why))
	})
}

// reason is why a console ended, for people.
func reason(why error) string {
	switch {
	case errors.Is(why, io.EOF):
		return "the machine stopped, or closed it"
	case errors.Is(why, errClosed), errors.Is(why, context.Canceled):
		return "by its user"
	default:
		return why.Error()
	}
}

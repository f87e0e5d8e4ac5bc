package fake

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// driver is one connection to a fake host.
type driver struct {
	host    *Host
	line    *line
	project string
	closed  chan struct{}
	once    sync.Once
}

var (
	_ hypervisor.Driver   = (*driver)(nil)
	_ hypervisor.Adopter  = (*driver)(nil)
	_ hypervisor.Consoler = (*driver)(nil)
	_ hypervisor.Fixer    = (*driver)(nil)
	_ hypervisor.Mover    = (*driver)(nil)
)

func (h *Host) readHostKey(ctx context.Context) (key, fingerprint string, err error) {
	h.mu.Lock()
	d := &driver{host: h, line: h.line, closed: make(chan struct{})}
	h.mu.Unlock()
	fault, err := d.begin(ctx, HostKey)
	if err == nil {
		err = fault.Err
	}
	if err != nil {
		return "", "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spec.HostKey == "" {
		return "", "", nil
	}
	sum := sha256.Sum256([]byte(h.spec.HostKey))
	return h.spec.HostKey, "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
}

func (h *Host) open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	h.mu.Lock()
	d := &driver{host: h, line: h.line, project: target.Project, closed: make(chan struct{})}
	h.mu.Unlock()
	fault, err := d.begin(ctx, Open)
	if err == nil {
		err = fault.Err
	}
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if key := h.spec.HostKey; key != target.HostKey && key != "" {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrHostKey, Op: "verify host key", Err: errors.New("another key than the confirmed one"),
			PresentedHostKey: key, Hint: "find out why the key changed before you confirm it",
		}
	}
	if target.Credential != nil {
		h.logins++
	}
	if h.spec.Password != "" && target.Credential.GetPassword() != h.spec.Password {
		return nil, &hypervisor.Error{Class: hypervisor.ErrAuth, Op: "log in", Err: errors.New("password refused")}
	}
	return d, nil
}

// begin waits as the knobs say. Its error says that the call ends here; the
// fault is for the call to act on.
func (d *driver) begin(ctx context.Context, m Method) (Fault, error) {
	latency, hangs, fault := d.host.faults.next(m)
	if err := d.alive(ctx, m); err != nil {
		return fault, err
	}
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		if err := d.wait(ctx, m, timer.C, nil); err != nil {
			return fault, err
		}
	}
	for _, hang := range hangs {
		if err := d.wait(ctx, m, nil, hang); err != nil {
			return fault, err
		}
	}
	return fault, d.alive(ctx, m)
}

func (d *driver) wait(ctx context.Context, m Method, timer <-chan time.Time, hang <-chan struct{}) error {
	select {
	case <-timer:
	case <-hang:
	case <-ctx.Done():
	case <-d.line.lost:
	case <-d.closed:
	}
	return d.alive(ctx, m)
}

// alive is nil while calls can be answered.
func (d *driver) alive(ctx context.Context, m Method) error {
	fail := func(class, err error) error {
		return &hypervisor.Error{Class: class, Op: string(m) + " on fake host " + d.host.Name(), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(hypervisor.ErrTimeout, context.Cause(ctx))
	}
	select {
	case <-d.line.lost:
		return fail(hypervisor.ErrUnreachable, errors.New("connection lost"))
	case <-d.closed:
		return fail(hypervisor.ErrUnreachable, errors.New("connection closed"))
	default:
	}
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	if d.host.down {
		return fail(hypervisor.ErrUnreachable, errors.New("no route to host"))
	}
	return nil
}

// read is a call that changes nothing, with the host's state locked.
func read[T any](ctx context.Context, d *driver, m Method, answer func(h *Host) (T, error)) (T, error) {
	fault, err := d.begin(ctx, m)
	if err == nil {
		err = fault.Err
	}
	if err != nil {
		var zero T
		return zero, err
	}
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return answer(d.host)
}

// Probe reads the host.
func (d *driver) Probe(ctx context.Context) (*vmhostv1.VmHostObservation, error) {
	return read(ctx, d, Probe, func(h *Host) (*vmhostv1.VmHostObservation, error) { return h.observe(d.project), nil })
}

// Machines reads all machines.
func (d *driver) Machines(ctx context.Context) ([]*rackv1.MachineObservation, error) {
	return read(ctx, d, Machines, func(h *Host) ([]*rackv1.MachineObservation, error) { return h.copies(), nil })
}

// Inventory reads the host and all machines. It counts as a call of Probe and of
// Machines, and the faults of both are its own.
func (d *driver) Inventory(ctx context.Context) (*vmhostv1.VmHostObservation, []*rackv1.MachineObservation, error) {
	if _, err := d.Probe(ctx); err != nil {
		return nil, nil, err
	}
	var o *vmhostv1.VmHostObservation
	machines, err := read(ctx, d, Machines, func(h *Host) ([]*rackv1.MachineObservation, error) {
		o = h.observe(d.project)
		return h.copies(), nil
	})
	return o, machines, err
}

// Machine reads one machine.
func (d *driver) Machine(ctx context.Context, uuid string) (*rackv1.MachineObservation, error) {
	return read(ctx, d, Machine, func(h *Host) (*rackv1.MachineObservation, error) {
		m := h.machines[uuid]
		if m == nil {
			return nil, notFound("read machine", uuid)
		}
		return proto.CloneOf(m), nil
	})
}

// Events subscribes.
func (d *driver) Events(ctx context.Context) (<-chan hypervisor.Event, error) {
	return read(ctx, d, Events, func(h *Host) (<-chan hypervisor.Event, error) {
		s := newSubscription()
		d.line.subs[s] = struct{}{}
		go func() {
			s.pump(ctx, d.line.lost, d.closed)
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(d.line.subs, s)
		}()
		return s.out, nil
	})
}

// Close ends the connection.
func (d *driver) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func notFound(op, uuid string) error {
	return &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: op, Err: fmt.Errorf("no machine with uuid %s", uuid)}
}

package fake

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// driver is one connection to a fake host.
type driver struct {
	host   *Host
	line   *line
	closed chan struct{}
	once   sync.Once
}

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
	d := &driver{host: h, line: h.line, closed: make(chan struct{})}
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
	return read(ctx, d, Probe, func(h *Host) (*vmhostv1.VmHostObservation, error) { return h.observe(), nil })
}

// Machines reads all machines.
func (d *driver) Machines(ctx context.Context) ([]*rackv1.MachineObservation, error) {
	return read(ctx, d, Machines, func(h *Host) ([]*rackv1.MachineObservation, error) {
		out := h.sorted()
		for i, m := range out {
			out[i] = proto.CloneOf(m)
		}
		return out, nil
	})
}

// Inventory reads the host and all machines.
func (d *driver) Inventory(ctx context.Context) (*vmhostv1.VmHostObservation, []*rackv1.MachineObservation, error) {
	o, err := d.Probe(ctx)
	if err != nil {
		return nil, nil, err
	}
	machines, err := d.Machines(ctx)
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

// observe is called with h.mu held.
func (h *Host) observe() *vmhostv1.VmHostObservation {
	o := &vmhostv1.VmHostObservation{
		ObserveTime:       timestamppb.Now(),
		HypervisorVersion: "fake 1",
		Hostname:          h.spec.Name,
		Architectures:     h.spec.Architectures,
		Cores:             h.spec.Cores,
		CpuMhz:            2000,
		CpuModel:          "fake",
		MemoryMib:         h.spec.MemoryMiB,
		Kvm:               !h.spec.Emulation,
		Capabilities:      []string{"virtual-machines"},
		Foreign:           &vmhostv1.ForeignUsage{},
		HostUuid:          uuid.NewSHA1(uuid.NameSpaceURL, []byte("fake://"+h.spec.Name)).String(),
	}
	if o.GetKvm() {
		o.Capabilities = append(o.Capabilities, "kvm")
	}
	node := &vmhostv1.NumaNode{MemoryMib: h.spec.MemoryMiB}
	for c := range h.spec.Cores {
		node.Cores = append(node.Cores, c)
	}
	o.NumaNodes = []*vmhostv1.NumaNode{node}
	for _, p := range h.spec.Pools {
		all, ours := h.allocated(p.Name)
		o.StoragePools = append(o.StoragePools, &vmhostv1.StoragePool{
			Name: p.Name, Type: "dir", Path: "/fake/" + p.Name, CapacityBytes: p.CapacityBytes,
			AllocationBytes: all, OursBytes: ours, AvailableBytes: max(0, p.CapacityBytes-all), Active: true, Thin: p.Thin,
		})
		if p.Thin && o.GetCapabilities()[len(o.GetCapabilities())-1] != "thin-volumes" {
			o.Capabilities = append(o.Capabilities, "thin-volumes")
		}
	}
	for _, n := range h.spec.Networks {
		net := &vmhostv1.HostNetwork{Name: n.Name, Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Active: true, Dhcp: true, Cidrs: []string{"192.0.2.0/24"}}
		if n.Bridge {
			net.Kind, net.Bridge, net.Dhcp, net.Cidrs = vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, n.Name, false, nil
		}
		o.Networks = append(o.Networks, net)
	}
	for _, m := range h.machines {
		if m.GetUid() == "" {
			o.Foreign.Machines++
			o.Foreign.Cores += m.GetCores()
			o.Foreign.MemoryMib += m.GetMemoryMib()
		}
	}
	return o
}

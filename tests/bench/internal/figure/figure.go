// Package figure has the figures of `make bench`: what each compares, and how it
// is set up. What is expensive to set up is set up once, by the first figure that
// needs it, and taken down when one begins on something else, or by Env.Close.
package figure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	golibvirt "github.com/digitalocean/go-libvirt"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/lab"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
	"github.com/vmhost-project/vmhost/tests/bench/internal/process"
)

// Figure is one comparison.
type Figure struct {
	Name string
	// About says in one line what is compared.
	About string
	// Pair sets it up.
	Pair func(ctx context.Context, e *Env) (measure.Pair, error)
}

// All are the figures, in the order in which they are measured: those that leave
// something on the host come last.
func All() []Figure {
	return append(placements(),
		regionStart(),
		memoryPerMachine(),
		listMany(),
		rackStreamMemory(),
		rackStreamCPU(),
		watchLatency(),
		watchFanout(),
		durableMany(),
		durableCeiling(),
		durableOne(),
		ledgerCommit(),
		composeAcknowledged(),
		composeStart(),
		jsonGet(),
		jsonGetMany(),
		resyncLXD(),
		resyncMAAS(),
		resyncMAASUnpaused(),
		refreshDomains(),
		refreshNarrow(),
		refreshDriver(),
		refreshVirsh(),
		resyncLibvirt(),
		resyncNarrow(),
	)
}

// Env is what figures are measured on.
type Env struct {
	// Root is the repository, Dir a folder on a real disk.
	Root, Dir string
	// Progress gets what the set-up says.
	Progress io.Writer

	lab     *lab.Lab
	libvirt *golibvirt.Libvirt
	vmhost  *process.Standalone
	machine *vmhostv1.Machine
	defined []string
	resync  *resync
	fleet   *loaded
	streams *connected
	many    *durable
	// closers end what figures run on: at the end, and when the next begins.
	closers, current []func(context.Context) error
}

// Close takes down what was set up, the last first.
func (e *Env) Close(ctx context.Context) error {
	err := errors.Join(e.begin(ctx), endAll(ctx, e.closers))
	e.closers = nil
	return err
}

func (e *Env) onClose(f func(context.Context) error) { e.closers = append(e.closers, f) }

// untilNext has something ended when the next figures begin on something else.
func (e *Env) untilNext(f func(context.Context) error) { e.current = append(e.current, f) }

// begin ends what the figures before ran on. It would take its part of the machine:
// a fleet heartbeats and makes what was composed last, and what an etcd or a ledger
// in this process holds is gone through by its garbage collector.
func (e *Env) begin(ctx context.Context) error {
	err := endAll(ctx, e.current)
	e.current, e.fleet, e.streams, e.many = nil, nil, nil, nil
	return err
}

func endAll(ctx context.Context, closers []func(context.Context) error) error {
	var errs []error
	for _, end := range slices.Backward(closers) {
		errs = append(errs, end(ctx))
	}
	return errors.Join(errs...)
}

// Lab is the libvirt host, and a connection to it that is not ours.
func (e *Env) Lab(ctx context.Context) (*lab.Lab, *golibvirt.Libvirt, error) {
	if e.lab != nil {
		return e.lab, e.libvirt, nil
	}
	l, err := lab.Up(ctx, e.Root, e.Progress)
	if err != nil {
		return nil, nil, err
	}
	e.onClose(l.Down)
	c, err := l.Dial()
	if err != nil {
		return nil, nil, err
	}
	e.onClose(func(context.Context) error { return c.Disconnect() })
	e.lab, e.libvirt = l, c
	return l, c, nil
}

const (
	// hostID is the host's id in vmhost.
	hostID = "h1"
	// overcommit is the most that hosts can be given.
	overcommit = 10
)

// Vmhost is the built standalone vmhost with the lab's host in it.
func (e *Env) Vmhost(ctx context.Context) (*process.Standalone, error) {
	if e.vmhost != nil {
		return e.vmhost, nil
	}
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	l, _, err := e.Lab(ctx)
	if err != nil {
		return nil, err
	}
	s, err := process.StartStandalone(ctx, process.Options{
		Binary: filepath.Join(e.Root, "bin/vmhost"), Dir: filepath.Join(e.Dir, "vmhost"), Sockets: map[string]string{hostID: l.Socket},
	})
	if err != nil {
		return nil, err
	}
	e.onClose(func(context.Context) error { return s.Close() })
	if err := s.AddHost(ctx, hostID, "qemu+unix://"+hostID+"/system", overcommit); err != nil {
		return nil, err
	}
	e.vmhost = s
	return s, nil
}

// Fakes is another vmhost, whose hosts are fakes.
func (e *Env) Fakes(ctx context.Context) (*process.Standalone, error) {
	s, err := process.StartStandalone(ctx, process.Options{
		Binary: filepath.Join(e.Root, "bin/vmhost"), Dir: filepath.Join(e.Dir, "fakes"), Fakes: ledgerHosts,
	})
	if err != nil {
		return nil, err
	}
	e.untilNext(func(context.Context) error { return s.Close() })
	for i := range ledgerHosts {
		id := fmt.Sprintf("fake-%d", i+1)
		if err := s.AddHost(ctx, id, "fake://"+id, overcommit); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// request is the machine that figures compose: small, so that as much as possible
// of the time is not QEMU's.
func request(hostname string, start bool) *vmhostv1.ComposeMachineRequest {
	return &vmhostv1.ComposeMachineRequest{
		Hostname: hostname, Cores: 1, MemoryMib: 128, Start: start,
		Disks:  []*vmhostv1.DiskRequest{{SizeBytes: 1 << 30}},
		VmHost: "vmHosts/" + hostID,
	}
}

// Machine is a machine that was composed and does not run.
func (e *Env) Machine(ctx context.Context) (*vmhostv1.Machine, error) {
	if e.machine != nil {
		return e.machine, nil
	}
	s, err := e.Vmhost(ctx)
	if err != nil {
		return nil, err
	}
	m, err := compose(ctx, s, request("bench-template", false))
	if err != nil {
		return nil, err
	}
	e.onClose(func(ctx context.Context) error { return remove(ctx, s, m.GetName()) })
	e.machine = m
	return m, nil
}

// Defined are 200 domains on the host that somebody else made, seen by vmhost.
func (e *Env) Defined(ctx context.Context) ([]string, error) {
	const n = 200
	s, err := e.Vmhost(ctx)
	if err != nil || len(e.defined) == n {
		return e.defined, err
	}
	if err := e.define(n); err != nil {
		return nil, err
	}
	if err := refreshHost(ctx, s); err != nil {
		return nil, err
	}
	return e.defined, allListed(ctx, s, n)
}

// define makes domains on the host until there are n. They only get more: figures
// are in the order of how many they need.
func (e *Env) define(n int) error {
	if len(e.defined) >= n {
		return nil
	}
	names, undefine, err := e.lab.Define(len(e.defined), n)
	if err != nil {
		return err
	}
	e.onClose(func(context.Context) error { return undefine() })
	e.defined = append(e.defined, names...)
	return nil
}

// allListed makes sure that what is measured does what it should: vmhost shows
// every domain.
func allListed(ctx context.Context, s *process.Standalone, n int) error {
	list, err := s.Client.Machines.ListMachines(ctx, &vmhostv1.ListMachinesRequest{
		PageSize: 1000, Filter: `vm_host = "vmHosts/` + hostID + `" AND origin = MACHINE_ORIGIN_DISCOVERED`,
	})
	if err != nil {
		return fmt.Errorf("list the discovered machines: %w", err)
	}
	if len(list.GetMachines()) != n {
		return fmt.Errorf("vmhost lists %d of %d domains", len(list.GetMachines()), n)
	}
	return nil
}

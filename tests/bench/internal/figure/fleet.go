package figure

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/regiontest/fleetload"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

// The fleets that are written straight into etcd.
const (
	fleetHosts, fleetMachinesPerHost = 10_000, 10
	listHosts, listMachinesPerHost   = 2_500, 10
	fleetSeed                        = 4
)

func regionStart() Figure {
	return Figure{
		Name:  "region_start",
		About: "a region that starts over 10,000 hosts and 100,000 machines in etcd, from the start of its process until the API answers, against a bare range read of the same keys",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			l, err := e.loaded(ctx, fleetHosts, fleetMachinesPerHost)
			if err != nil {
				return measure.Pair{}, err
			}
			start := func(ctx context.Context) (float64, error) {
				if err := l.stopRegion(); err != nil {
					return 0, err
				}
				began := time.Now()
				if err := l.startRegion(ctx); err != nil {
					return 0, err
				}
				if _, err := l.client.VmHosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{PageSize: 1}); err != nil {
					return 0, fmt.Errorf("ask the region: %w", err)
				}
				return measure.Milliseconds(time.Since(began)), nil
			}
			return measure.Pair{Unit: "ms", A: start, Vs: "range-read", B: l.rangeRead, Target: measure.Target{AtMost: 3}}, nil
		},
	}
}

func memoryPerMachine() Figure {
	return Figure{
		Name:  "memory_per_machine",
		About: "what a region holds in memory for 10,000 hosts and 100,000 machines, less what an empty one holds, for each machine, hosts included; against the bytes of their keys and values",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			l, err := e.loaded(ctx, fleetHosts, fleetMachinesPerHost)
			if err != nil {
				return measure.Pair{}, err
			}
			memory := func(ctx context.Context) (float64, error) {
				if err := l.stopRegion(); err != nil {
					return 0, err
				}
				if err := l.startRegion(ctx); err != nil {
					return 0, err
				}
				if err := l.settled(ctx); err != nil {
					return 0, err
				}
				m, err := l.region.Memory(ctx)
				return float64(m.Resident-l.empty) / (fleetHosts * fleetMachinesPerHost), err
			}
			bytes := func(ctx context.Context) (float64, error) {
				_, size, err := l.read(ctx)
				return float64(size) / (fleetHosts * fleetMachinesPerHost), err
			}
			return measure.Pair{Unit: "bytes", A: memory, Vs: "keys-and-values", B: bytes, Target: measure.Target{ValueAtMost: 2048}}, nil
		},
	}
}

func listMany() Figure {
	return Figure{
		Name:  "list_25000",
		About: "all of 25,000 machines, in pages of 1,000 one after another, by one gRPC client over TLS; against a bare range read of all keys of the same state",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			l, err := e.loaded(ctx, listHosts, listMachinesPerHost)
			if err != nil {
				return measure.Pair{}, err
			}
			list := func(ctx context.Context) (float64, error) {
				took, err := measure.Times(ctx, 3, func(ctx context.Context, _ int) error { return l.listAll(ctx, listHosts*listMachinesPerHost) })
				return measure.Milliseconds(took), err
			}
			return measure.Pair{Unit: "ms", A: list, Vs: "range-read", B: l.rangeRead, Target: measure.Target{ValueAtMost: 250}}, nil
		},
	}
}

// loaded is a site over a fleet that was written into its etcd.
type loaded struct {
	*site
	etcdClient *clientv3.Client
	empty      int64 // what an empty region holds
}

// loaded keeps the last one: figures of the same fleet follow one another.
func (e *Env) loaded(ctx context.Context, hosts, machines int) (*loaded, error) {
	name := fmt.Sprintf("fleet-%d", hosts)
	if e.fleet != nil && e.fleet.dir == filepath.Join(e.Dir, name) {
		return e.fleet, nil
	}
	s, err := e.openSite(ctx, &site{dir: filepath.Join(e.Dir, name), patient: true})
	if err != nil {
		return nil, err
	}
	l := &loaded{site: s}
	if l.etcdClient, err = clientv3.New(clientv3.Config{Endpoints: []string{s.etcdUp.Endpoint}, DialTimeout: 10 * time.Second, MaxCallRecvMsgSize: 1 << 30}); err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	e.untilNext(func(context.Context) error { _ = l.etcdClient.Close(); return nil })
	if err := l.settled(ctx); err != nil {
		return nil, err
	}
	m, err := s.region.Memory(ctx)
	if err != nil {
		return nil, err
	}
	l.empty = m.Resident
	if err := s.stopRegion(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := fleetload.Load(ctx, l.etcdClient, fleetload.Fleet{Hosts: hosts, MachinesPerHost: machines, Seed: fleetSeed}); err != nil {
		return nil, err
	}
	keys, size, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(e.Progress, "bench: wrote %d hosts with %d machines each in %v: %d keys, %d MiB\n", hosts, machines, time.Since(began).Round(time.Millisecond), keys, size>>20)
	if err := s.startRegion(ctx); err != nil {
		return nil, err
	}
	e.fleet = l
	return l, nil
}

// settled waits until what a region does after its start is done.
func (l *loaded) settled(ctx context.Context) error {
	const calm = 3 * time.Second // several times what its loops take to come round
	select {
	case <-time.After(calm):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err := l.client.VmHosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{PageSize: 1})
	if err != nil {
		return fmt.Errorf("ask the region: %w", err)
	}
	return nil
}

// read is the bare range read: all keys by one request.
func (l *loaded) read(ctx context.Context) (keys int, size int64, err error) {
	resp, err := l.etcdClient.Get(ctx, "/vmhost/v1/", clientv3.WithPrefix())
	if err != nil {
		return 0, 0, fmt.Errorf("read a range: %w", err)
	}
	for _, kv := range resp.Kvs {
		size += int64(len(kv.GetKey()) + len(kv.GetValue()))
	}
	return len(resp.Kvs), size, nil
}

func (l *loaded) rangeRead(ctx context.Context) (float64, error) {
	began := time.Now()
	_, _, err := l.read(ctx)
	return measure.Milliseconds(time.Since(began)), err
}

func (l *loaded) listAll(ctx context.Context, want int) error {
	got, token := 0, ""
	for {
		list, err := l.client.Machines.ListMachines(ctx, &vmhostv1.ListMachinesRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return fmt.Errorf("list the machines: %w", err)
		}
		got += len(list.GetMachines())
		if token = list.GetNextPageToken(); token == "" {
			break
		}
	}
	if got != want {
		return fmt.Errorf("listed %d of %d machines", got, want)
	}
	return nil
}

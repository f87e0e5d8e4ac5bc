package figure

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/child"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

const (
	streamRacks, streamHosts = 1000, 10
	kibi                     = 1 << 10
	// beats is how long the processor is looked at: several heartbeats, and half of
	// the resyncs of a minute.
	beats = 30 * time.Second
)

func rackStreamMemory() Figure {
	return Figure{
		Name: "rack_stream_memory",
		About: "what 1,000 connected racks with 10 fake hosts each cost a region in memory, each, over the same region and state without them, " +
			"against bare grpc-go streams over TLS on which heartbeats are echoed",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			f, err := e.connected(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			bare := func(ctx context.Context) (float64, error) {
				return e.echo(ctx, func(server *child.Handle, connect func() error) (float64, error) {
					before, err := memoryOf(ctx, server)
					if err != nil {
						return 0, err
					}
					if err := connect(); err != nil {
						return 0, err
					}
					after, err := memoryOf(ctx, server)
					return (after - before) / streamRacks, err
				})
			}
			return measure.Pair{Unit: "KiB", A: f.memory, Vs: "bare-streams", B: bare, Target: measure.Target{AtMost: 1.5}}, nil
		},
	}
}

func rackStreamCPU() Figure {
	return Figure{
		Name:  "rack_stream_cpu",
		About: "how much of one core a region with the same 1,000 racks uses while nothing happens, in percent: heartbeats, and 10,000 resyncs a minute; against the bare streams",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			f, err := e.connected(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			ours := func(ctx context.Context) (float64, error) { return usage(ctx, f.region) }
			bare := func(ctx context.Context) (float64, error) {
				return e.echo(ctx, func(server *child.Handle, connect func() error) (float64, error) {
					if err := connect(); err != nil {
						return 0, err
					}
					return usage(ctx, server)
				})
			}
			return measure.Pair{Unit: "percent", A: ours, Vs: "bare-streams", B: bare, Target: measure.Target{ValueAtMost: 25}}, nil
		},
	}
}

// usage is how much of one core a process uses, in percent.
func usage(ctx context.Context, h *child.Handle) (float64, error) {
	before, err := h.CPU()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := sleep(ctx, beats); err != nil {
		return 0, err
	}
	after, err := h.CPU()
	return 100 * float64(after-before) / float64(time.Since(began)), err
}

func memoryOf(ctx context.Context, h *child.Handle) (float64, error) {
	m, err := h.Memory(ctx)
	return float64(m.Resident) / kibi, err
}

// echo runs a server of bare streams; connect gives it as many clients as there
// are racks.
func (e *Env) echo(ctx context.Context, look func(server *child.Handle, connect func() error) (float64, error)) (float64, error) {
	dir := filepath.Join(e.Dir, "echo")
	var up child.EchoUp
	server, err := child.Start(ctx, dir, child.RoleEcho, struct{}{}, &up)
	if err != nil {
		return 0, err
	}
	defer func() { _ = server.Close() }()
	var clients *child.Handle
	connect := func() error {
		if clients, err = child.Start(ctx, dir, child.RoleEchoClients, child.EchoClientsConfig{Address: up.Address, CA: up.CA, Clients: streamRacks}, &struct{}{}); err != nil {
			return err
		}
		return sleep(ctx, 6*time.Second) // more than a heartbeat
	}
	defer func() {
		if clients != nil {
			_ = clients.Close()
		}
	}()
	return look(server, connect)
}

// connected is a site with many racks, whose hosts have all been reported.
type connected struct {
	*site
	racksConfig child.RacksConfig
}

func (e *Env) connected(ctx context.Context) (*connected, error) {
	if e.streams != nil {
		return e.streams, nil
	}
	s, err := e.openSite(ctx, &site{dir: filepath.Join(e.Dir, "streams"), patient: true})
	if err != nil {
		return nil, err
	}
	f := &connected{site: s, racksConfig: child.RacksConfig{Racks: streamRacks, Hosts: streamHosts, Machines: 1}}
	began := time.Now()
	if err := f.startRacks(ctx, f.racksConfig); err != nil {
		return nil, err
	}
	fmt.Fprintf(e.Progress, "bench: %d racks enrolled and connected in %v\n", streamRacks, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	if err := f.addHosts(ctx, streamRacks, streamHosts); err != nil {
		return nil, err
	}
	if err := f.reported(ctx, streamRacks*streamHosts, began); err != nil {
		return nil, err
	}
	fmt.Fprintf(e.Progress, "bench: %d hosts added and reported in %v\n", streamRacks*streamHosts, time.Since(began).Round(time.Millisecond))
	e.streams = f
	return f, nil
}

// addHosts adds the fake hosts of all racks, each pinned to its rack.
func (s *site) addHosts(ctx context.Context, racks, hosts int) error {
	const atOnce = 32
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		fault error
	)
	next := make(chan int)
	for range atOnce {
		group.Go(func() {
			for i := range next {
				_, err := s.client.VmHosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: child.HostName(i), VmHost: &vmhostv1.VmHost{
					Address: "fake://" + child.HostName(i), Rack: "racks/" + child.RackName(i/hosts),
				}})
				if err != nil {
					mu.Lock()
					fault = fmt.Errorf("add a host: %w", err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range racks * hosts {
		next <- i
	}
	close(next)
	group.Wait()
	return fault
}

// reported waits until all hosts have been read since a time.
func (s *site) reported(ctx context.Context, hosts int, since time.Time) error {
	return until(ctx, 5*time.Minute, func() error {
		ready, token := 0, ""
		for {
			list, err := s.client.VmHosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{PageSize: 1000, PageToken: token})
			if err != nil {
				return fmt.Errorf("list the hosts: %w", err)
			}
			for _, h := range list.GetVmHosts() {
				if h.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY && h.GetObservation().GetObserveTime().AsTime().After(since) {
					ready++
				}
			}
			if token = list.GetNextPageToken(); token == "" {
				break
			}
		}
		if ready < hosts {
			_ = sleep(ctx, time.Second) // to look is work as well
			return fmt.Errorf("%d of %d hosts are reported", ready, hosts)
		}
		return nil
	})
}

// memory is what each rack adds to a region that was started anew.
func (f *connected) memory(ctx context.Context) (float64, error) {
	if err := f.racks.Close(); err != nil {
		return 0, err
	}
	f.racks = nil
	if err := f.stopRegion(); err != nil {
		return 0, err
	}
	if err := f.startRegion(ctx); err != nil {
		return 0, err
	}
	// Once, so that what a list needs is there before as well as after.
	if _, err := f.client.VmHosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{PageSize: 1000}); err != nil {
		return 0, fmt.Errorf("list the hosts: %w", err)
	}
	if err := sleep(ctx, 3*time.Second); err != nil {
		return 0, err
	}
	before, err := memoryOf(ctx, f.region)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := f.startRacks(ctx, f.racksConfig); err != nil {
		return 0, err
	}
	if err := f.reported(ctx, streamRacks*streamHosts, began); err != nil {
		return 0, err
	}
	if err := sleep(ctx, 6*time.Second); err != nil { // more than a heartbeat
		return 0, err
	}
	after, err := memoryOf(ctx, f.region)
	return (after - before) / streamRacks, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

package figure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/child"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

const (
	flips        = 30
	watchClients = 1000
	fanoutHosts  = 20
)

func watchLatency() Figure {
	return Figure{
		Name:  "watch_latency",
		About: "from a change of power on one of 10,000 fake hosts to its event at a client that watches the fleet, median of 30; against a bare put to the same etcd until a watcher of etcd has it",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			f, err := e.connected(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			return measure.Pair{Unit: "ms", A: f.latency, Vs: "etcd-watch", B: f.etcdLatency, Target: measure.Target{ValueAtMost: 20}}, nil
		},
	}
}

// latency is how long changes on hosts take to a watcher.
func (f *connected) latency(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.client.Events.WatchEvents(ctx, &vmhostv1.WatchEventsRequest{})
	if err != nil {
		return 0, fmt.Errorf("watch: %w", err)
	}
	if _, err := stream.Recv(); err != nil { // the sign of life that comes first
		return 0, fmt.Errorf("watch: %w", err)
	}
	var took []time.Duration
	for range flips {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
		host := child.HostName(rand.IntN(streamRacks * streamHosts)) //nolint:gosec // no secret
		var began time.Time
		if err := f.racks.Ask(ctx, "/flip?host="+host, &began); err != nil {
			return 0, err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				return 0, fmt.Errorf("watch: %w", err)
			}
			if m.GetEvent().GetVmHost() == "vmHosts/"+host {
				break
			}
		}
		took = append(took, time.Since(began))
	}
	return measure.Milliseconds(measure.Median(took)), nil
}

// etcdLatency is how long a put takes to a watcher of etcd.
func (f *connected) etcdLatency(ctx context.Context) (float64, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{f.etcdUp.Endpoint}, DialTimeout: 10 * time.Second})
	if err != nil {
		return 0, fmt.Errorf("connect to etcd: %w", err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := c.Watch(ctx, "/floor/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if _, ok := <-watch; !ok {
		return 0, errors.New("watch etcd: it ended")
	}
	var took []time.Duration
	for range flips {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
		began := time.Now()
		if _, err := c.Put(ctx, "/floor/change", began.String()); err != nil {
			return 0, fmt.Errorf("put: %w", err)
		}
		if _, ok := <-watch; !ok {
			return 0, errors.New("watch etcd: it ended")
		}
		took = append(took, time.Since(began))
	}
	return measure.Milliseconds(measure.Median(took)), nil
}

func watchFanout() Figure {
	return Figure{
		Name:  "watch_fanout",
		About: "composes acknowledged per second over gRPC and TLS by 64 clients on fake hosts while 1,000 clients watch the whole fleet, against the same without anybody watching",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			s, err := e.newSite(ctx, "fanout")
			if err != nil {
				return measure.Pair{}, err
			}
			if err := s.startRacks(ctx, child.RacksConfig{Racks: 1, Hosts: fanoutHosts, Endless: true}); err != nil {
				return measure.Pair{}, err
			}
			began := time.Now()
			if err := s.addHosts(ctx, 1, fanoutHosts); err != nil {
				return measure.Pair{}, err
			}
			if err := s.reported(ctx, fanoutHosts, began); err != nil {
				return measure.Pair{}, err
			}
			compose := quietly(rate(func(ctx context.Context, name string) error {
				_, err := s.client.Machines.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{
					Hostname: name, Cores: 1, MemoryMib: 1, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}},
				})
				if err != nil {
					return fmt.Errorf("compose %s: %w", name, err)
				}
				return nil
			}))
			watched := func(ctx context.Context) (float64, error) {
				watchers, err := child.Start(ctx, filepath.Join(s.dir, "watchers"), child.RoleWatchers, child.WatchersConfig{Region: s.up, Clients: watchClients}, &struct{}{})
				if err != nil {
					return 0, err
				}
				defer func() { _ = watchers.Close() }()
				value, err := compose(ctx)
				if err != nil {
					return 0, err
				}
				var got child.Watched
				if err := watchers.Ask(ctx, "/watched", &got); err != nil {
					return 0, err
				}
				fmt.Fprintf(e.Progress, "bench: %d watchers got %d messages of %d MiB; %d of them ended\n", watchClients, got.Messages, got.Bytes>>20, got.Ended)
				if got.Ended > 0 || got.Messages == 0 {
					return 0, fmt.Errorf("%d of %d watchers ended, and all got %d messages", got.Ended, watchClients, got.Messages)
				}
				return value, nil
			}
			return measure.Pair{Unit: "composes/s", A: watched, Vs: "unwatched", B: compose, Before: s.made, Target: measure.Target{AtLeast: 0.8}}, nil
		},
	}
}

// made waits until all machines that were asked for have been made: what one turn has
// left to do is none of the next.
func (s *site) made(ctx context.Context) error {
	for {
		open, err := s.client.Operations.ListOperations(ctx, &vmhostv1.ListOperationsRequest{
			PageSize: 1, Filter: `phase = "OPERATION_PHASE_PENDING" OR phase = "OPERATION_PHASE_RUNNING"`,
		})
		if err != nil {
			return fmt.Errorf("look for operations that have not ended: %w", err)
		}
		if len(open.GetOperations()) == 0 {
			return nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// quietly is a side that waits for a quiet machine by itself, after what it has
// prepared.
func quietly(side measure.Side) measure.Side {
	return func(ctx context.Context) (float64, error) {
		measure.Quiet(ctx)
		return side(ctx)
	}
}

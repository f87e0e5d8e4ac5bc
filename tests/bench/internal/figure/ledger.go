package figure

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/regiontest/ledgerbench"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
	"github.com/vmhost-project/vmhost/tests/bench/internal/process"
)

const (
	ledgerClients = 64
	ledgerTime    = 3 * time.Second
	ledgerHosts   = 20
	rawBytes      = 512
)

func ledgerCommit() Figure {
	return Figure{
		Name:  "ledger_commit_vs_etcd",
		About: "machines placed and committed per second by 64 clients at once, against raw compare-and-put of 512 bytes to the same etcd over the same client",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			if err := e.begin(ctx); err != nil {
				return measure.Pair{}, err
			}
			etcd, err := e.etcd(ctx, "ledger")
			if err != nil {
				return measure.Pair{}, err
			}
			l, err := ledgerbench.Start(ctx, etcd.Wire, ledgerHosts)
			if err != nil {
				return measure.Pair{}, err
			}
			e.untilNext(func(context.Context) error { l.Close(); return nil })
			ours := rate(func(ctx context.Context, name string) error { return l.Commit(ctx, name) })
			return measure.Pair{Unit: "commits/s", A: ours, Vs: "etcd-cas", B: rawPut(etcd.Wire), Target: measure.Target{AtLeast: 0.7}}, nil
		},
	}
}

func composeAcknowledged() Figure {
	return Figure{
		Name:  "compose_ack_vs_etcd",
		About: "ComposeMachine acknowledged per second over gRPC and TLS by 64 clients while fake hosts make the machines, against raw compare-and-put of 512 bytes over gRPC",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			if err := e.begin(ctx); err != nil {
				return measure.Pair{}, err
			}
			etcd, err := e.etcd(ctx, "acknowledged")
			if err != nil {
				return measure.Pair{}, err
			}
			s, err := e.Fakes(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			ours := rate(func(ctx context.Context, name string) error {
				_, err := s.Client.Machines.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{
					Hostname: name, Cores: 1, MemoryMib: 1, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}},
				})
				if err != nil {
					return fmt.Errorf("compose %s: %w", name, err)
				}
				return nil
			})
			return measure.Pair{Unit: "composes/s", A: ours, Vs: "etcd-cas", B: rawPut(etcd.Wire)}, nil
		},
	}
}

// etcd is a raw member for one figure.
func (e *Env) etcd(ctx context.Context, name string) (*process.Etcd, error) {
	etcd, err := process.StartEtcd(ctx, filepath.Join(e.Dir, "etcd-"+name))
	if err != nil {
		return nil, err
	}
	e.untilNext(func(context.Context) error { etcd.Close(); return nil })
	return etcd, nil
}

// rate is a run of 64 clients, each call with a name that nobody had before.
func rate(call func(ctx context.Context, name string) error) measure.Side {
	run := 0
	return func(ctx context.Context) (float64, error) {
		run++
		l, err := measure.Clients(ctx, ledgerClients, ledgerTime, func(ctx context.Context, _ int, number int64) error {
			return call(ctx, fmt.Sprintf("bench-%d-%d", run, number))
		})
		if err != nil {
			return 0, err
		}
		return l.PerSecond(), nil
	}
}

func rawPut(c *clientv3.Client) measure.Side {
	value := strings.Repeat("x", rawBytes)
	return rate(func(ctx context.Context, name string) error {
		return process.CompareAndPut(ctx, c, "/raw/"+name, value)
	})
}

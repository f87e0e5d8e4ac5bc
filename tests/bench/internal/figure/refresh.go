package figure

import (
	"context"
	"fmt"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
	"github.com/vmhost-project/vmhost/tests/bench/internal/process"
)

// refreshes is how many refreshes one run is the median of.
const refreshes = 20

func refreshDomains() Figure {
	return Figure{
		Name:  "refresh_200_domains",
		About: "RefreshVmHost of a host with 200 domains, from the call to the end of the operation, against one ConnectGetAllDomainStats of all of them",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			bulk, err := e.bulk(ctx, 0)
			return measure.Pair{Unit: "ms", A: e.refresh, Vs: "bulk-call", B: bulk, Target: measure.Target{AtMost: 1.5}}, err
		},
	}
}

func refreshNarrow() Figure {
	return Figure{
		Name:  "refresh_200_vs_narrow",
		About: "the same against a bulk call for nothing but state and disks, which is what the driver asks for",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			bulk, err := e.bulk(ctx, golibvirt.DomainStatsState|golibvirt.DomainStatsBlock)
			return measure.Pair{Unit: "ms", A: e.refresh, Vs: "narrow-bulk-call", B: bulk}, err
		},
	}
}

func refreshDriver() Figure {
	return Figure{
		Name:  "refresh_200_driver",
		About: "the part of RefreshVmHost that is the rack's: reading the host and sending what was read; against the same one call",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			bulk, err := e.bulk(ctx, 0)
			return measure.Pair{Unit: "ms", A: e.refreshStep, Vs: "bulk-call", B: bulk}, err
		},
	}
}

// bulk is the median of a run's bulk calls, on a connection of its own. 0 asks
// for everything that libvirt can say of a domain.
func (e *Env) bulk(ctx context.Context, stats golibvirt.DomainStatsTypes) (measure.Side, error) {
	names, err := e.Defined(ctx)
	if err != nil {
		return nil, err
	}
	return e.bulkOf(stats, len(names))
}

// bulkOf is bulk, of a host that has that many domains at least.
func (e *Env) bulkOf(stats golibvirt.DomainStatsTypes, domains int) (measure.Side, error) {
	own, err := e.lab.Dial()
	if err != nil {
		return nil, err
	}
	e.onClose(func(context.Context) error { return own.Disconnect() })
	return func(ctx context.Context) (float64, error) {
		took, err := measure.Times(ctx, refreshes, func(context.Context, int) error {
			rows, err := own.ConnectGetAllDomainStats(nil, uint32(stats), uint32(golibvirt.ConnectGetAllDomainsStatsNowait))
			if err != nil {
				return fmt.Errorf("bulk call: %w", err)
			}
			if len(rows) < domains {
				return fmt.Errorf("bulk call: %d of %d domains", len(rows), domains)
			}
			return nil
		})
		return measure.Milliseconds(took), err
	}, nil
}

func refreshVirsh() Figure {
	return Figure{
		Name:  "refresh_200_vs_virsh",
		About: "virsh dominfo and dumpxml of each of 200 domains, a process per command, against RefreshVmHost of the host",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			names, err := e.Defined(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			virsh := func(ctx context.Context) (float64, error) {
				began := time.Now()
				for _, name := range names {
					for _, verb := range []string{"dominfo", "dumpxml"} {
						if _, err := e.lab.Virsh(ctx, verb, name); err != nil {
							return 0, err
						}
					}
				}
				return measure.Milliseconds(time.Since(began)), nil
			}
			return measure.Pair{Unit: "ms", A: virsh, Vs: "vmhost-refresh", B: e.refresh, Target: measure.Target{AtLeast: 20}}, nil
		},
	}
}

// refresh is the median of a run's refreshes through the whole stack.
func (e *Env) refresh(ctx context.Context) (float64, error) {
	took, err := measure.Times(ctx, refreshes, func(ctx context.Context, _ int) error { return refreshHost(ctx, e.vmhost) })
	return measure.Milliseconds(took), err
}

// refreshStep is the mean of what the rack says its part took.
func (e *Env) refreshStep(ctx context.Context) (float64, error) {
	const name, label = "vmhost_rack_step_duration_seconds", `{action="refresh"}`
	sum, err := e.vmhost.Metric(ctx, name+"_sum"+label)
	if err != nil {
		return 0, err
	}
	count, err := e.vmhost.Metric(ctx, name+"_count"+label)
	if err != nil {
		return 0, err
	}
	if _, err := e.refresh(ctx); err != nil {
		return 0, err
	}
	sum2, err := e.vmhost.Metric(ctx, name+"_sum"+label)
	if err != nil {
		return 0, err
	}
	count2, err := e.vmhost.Metric(ctx, name+"_count"+label)
	if err != nil {
		return 0, err
	}
	const milli = 1000
	return (sum2 - sum) / (count2 - count) * milli, nil
}

func refreshHost(ctx context.Context, s *process.Standalone) error {
	op, err := s.Client.VmHosts.RefreshVmHost(ctx, &vmhostv1.RefreshVmHostRequest{Name: "vmHosts/" + hostID})
	if err != nil {
		return fmt.Errorf("refresh: %w", err)
	}
	_, err = s.Finish(ctx, op)
	return err
}

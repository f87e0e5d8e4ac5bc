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
		About: "RefreshVmHost of a host with 200 domains, from the call to the end of the operation, against the one bulk call of libvirt",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			names, err := e.Defined(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			own, err := e.lab.Dial()
			if err != nil {
				return measure.Pair{}, err
			}
			e.onClose(func(context.Context) error { return own.Disconnect() })
			bulk := func(ctx context.Context) (float64, error) {
				took, err := measure.Times(ctx, refreshes, func(context.Context, int) error { return bulkCall(own, len(names)) })
				return measure.Milliseconds(took), err
			}
			return measure.Pair{Unit: "ms", A: e.refresh, Vs: "bulk-call", B: bulk, Target: measure.Target{AtMost: 1.5}}, nil
		},
	}
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

// bulkCall asks for what a refresh needs of every domain: state and disks.
func bulkCall(c *golibvirt.Libvirt, n int) error {
	stats, err := c.ConnectGetAllDomainStats(nil, uint32(golibvirt.DomainStatsState|golibvirt.DomainStatsBlock), uint32(golibvirt.ConnectGetAllDomainsStatsNowait))
	if err != nil {
		return fmt.Errorf("bulk call: %w", err)
	}
	if len(stats) < n {
		return fmt.Errorf("bulk call: %d of %d domains", len(stats), n)
	}
	return nil
}

// refresh is the median of a run's refreshes through the whole stack.
func (e *Env) refresh(ctx context.Context) (float64, error) {
	took, err := measure.Times(ctx, refreshes, func(ctx context.Context, _ int) error { return refreshHost(ctx, e.vmhost) })
	return measure.Milliseconds(took), err
}

func refreshHost(ctx context.Context, s *process.Standalone) error {
	op, err := s.Client.VmHosts.RefreshVmHost(ctx, &vmhostv1.RefreshVmHostRequest{Name: "vmHosts/" + hostID})
	if err != nil {
		return fmt.Errorf("refresh: %w", err)
	}
	_, err = s.Finish(ctx, op)
	return err
}

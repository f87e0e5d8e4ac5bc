package figure

import (
	"context"
	"fmt"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/lab"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
	"github.com/vmhost-project/vmhost/tests/bench/internal/process"
)

// composes is how many machines one run makes, one after another.
const composes = 3

func composeStart() Figure {
	return Figure{
		Name:  "compose_start_libvirt",
		About: "compose with start, from the call to the end of the operation, against volume, define and start by go-libvirt with the same XML",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			s, err := e.Vmhost(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			m, err := e.Machine(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			template, err := e.lab.Template(e.libvirt, lab.Machine{
				UID: m.GetUid(), Name: m.GetHypervisorName(), MAC: m.GetInterfaces()[0].GetMac(),
				Pool: m.GetDisks()[0].GetStoragePool(), Volume: m.GetDisks()[0].GetVolume(),
			})
			if err != nil {
				return measure.Pair{}, err
			}
			number := 0
			ours := func(ctx context.Context) (float64, error) {
				return medianOf(ctx, composes, func() (time.Duration, error) {
					// An interrupt waits for this one, so that nothing stays on the host.
					ctx := context.WithoutCancel(ctx)
					number++
					began := time.Now()
					m, err := compose(ctx, s, request(fmt.Sprintf("bench-%d", number), true))
					took := time.Since(began)
					if err != nil {
						return 0, err
					}
					return took, remove(ctx, s, m.GetName())
				})
			}
			straight := func(ctx context.Context) (float64, error) {
				return medianOf(ctx, composes, func() (time.Duration, error) {
					began := time.Now()
					twin, err := template.Start()
					took := time.Since(began)
					if err != nil {
						return 0, err
					}
					return took, template.Remove(twin)
				})
			}
			return measure.Pair{Unit: "ms", A: ours, Vs: "go-libvirt", B: straight, Target: measure.Target{AtMost: 1.2}}, nil
		},
	}
}

func medianOf(ctx context.Context, n int, once func() (time.Duration, error)) (float64, error) {
	var took []time.Duration
	for range n {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		// What the removal of the one before left to do is not this one's time.
		measure.Quiet(ctx)
		d, err := once()
		if err != nil {
			return 0, err
		}
		took = append(took, d)
	}
	return measure.Milliseconds(measure.Median(took)), nil
}

// compose makes a machine and waits until it is there.
func compose(ctx context.Context, s *process.Standalone, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Machine, error) {
	op, err := s.Client.Machines.ComposeMachine(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("compose %s: %w", req.GetHostname(), err)
	}
	if op, err = s.Finish(ctx, op); err != nil {
		return nil, err
	}
	m := &vmhostv1.Machine{}
	if err := op.GetResponse().UnmarshalTo(m); err != nil {
		return nil, fmt.Errorf("read what was composed: %w", err)
	}
	return m, nil
}

// remove decomposes a machine and waits until it is gone.
func remove(ctx context.Context, s *process.Standalone, name string) error {
	op, err := s.Client.Machines.DeleteMachine(ctx, &vmhostv1.DeleteMachineRequest{Name: name})
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	_, err = s.Finish(ctx, op)
	return err
}

package figure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

const (
	getTime    = 2 * time.Second
	getClients = 16
)

func jsonGet() Figure {
	return Figure{
		Name:  "json_get_vs_grpc",
		About: "GET of a machine as JSON over HTTPS with keep-alive against the same by gRPC over TLS; one client, median time of a call",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			return e.get(ctx, 1, func(l measure.Load) float64 { return microseconds(l.P50()) })
		},
	}
}

func jsonGetMany() Figure {
	return Figure{
		Name:  "json_get_vs_grpc_16",
		About: "the same with 16 clients: time per call, the inverse of the rate",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			return e.get(ctx, getClients, func(l measure.Load) float64 { return 1e6 / l.PerSecond() })
		},
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (e *Env) get(ctx context.Context, clients int, value func(measure.Load) float64) (measure.Pair, error) {
	m, err := e.Machine(ctx)
	if err != nil {
		return measure.Pair{}, err
	}
	side := func(call func(ctx context.Context) error) measure.Side {
		return func(ctx context.Context) (float64, error) {
			l, err := measure.Clients(ctx, clients, getTime, func(ctx context.Context, _ int, _ int64) error { return call(ctx) })
			if err != nil {
				return 0, err
			}
			return value(l), nil
		}
	}
	byJSON := func(ctx context.Context) error { return e.getJSON(ctx, "/v1/"+m.GetName()) }
	byGRPC := func(ctx context.Context) error {
		if _, err := e.vmhost.Client.Machines.GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: m.GetName()}); err != nil {
			return fmt.Errorf("get a machine by gRPC: %w", err)
		}
		return nil
	}
	return measure.Pair{Unit: "us", A: side(byJSON), Vs: "grpc", B: side(byGRPC), Target: measure.Target{AtMost: 2}}, nil
}

// getJSON reads the whole answer, so that the connection can be used again.
func (e *Env) getJSON(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.vmhost.URL+path, nil)
	if err != nil {
		return fmt.Errorf("get a machine as JSON: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+e.vmhost.Token)
	resp, err := e.vmhost.JSON.Do(req)
	if err != nil {
		return fmt.Errorf("get a machine as JSON: %w", err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err != nil {
		return fmt.Errorf("get a machine as JSON: %w", err)
	}
	if resp.StatusCode != http.StatusOK || n == 0 {
		return fmt.Errorf("get a machine as JSON: %s, %d bytes", resp.Status, n)
	}
	return nil
}

package feed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/regiontest/ledgerbench"
)

// gigabyte is what a unit of DISK_GB is here.
const gigabyte = 1_000_000_000

// Read is the values of JSON lines.
func Read[T any](r io.Reader) ([]T, error) {
	var out []T
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		var v T
		if err := json.Unmarshal(scan.Bytes(), &v); err != nil {
			return nil, fmt.Errorf("read line %d: %w", len(out)+1, err)
		}
		out = append(out, v)
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("read line %d: %w", len(out)+1, err)
	}
	return out, nil
}

// ForLedger is a host as vmhost's ledger takes it.
func (h *Host) ForLedger() ledgerbench.Host {
	i := h.Inventories
	return ledgerbench.Host{
		ID: h.Provider.Name, Zone: h.Zone, Tags: h.Tags,
		Cores: int32(i.VCPU.Total), MemoryMiB: i.MemoryMB.Total, DiskBytes: i.DiskGB.Total * gigabyte,
		Overcommit: &vmhostv1.OvercommitRatios{
			Cores: &i.VCPU.AllocationRatio, Memory: &i.MemoryMB.AllocationRatio, Storage: &i.DiskGB.AllocationRatio,
		},
	}
}

// Compose is a request as vmhost takes it.
func (q *Request) Compose() *vmhostv1.ComposeMachineRequest {
	req := &vmhostv1.ComposeMachineRequest{
		Cores: int32(q.Resources.VCPU), MemoryMib: q.Resources.MemoryMB,
		Disks:        []*vmhostv1.DiskRequest{{SizeBytes: q.Resources.DiskGB * gigabyte}},
		RequiredTags: q.RequiredTags, ForbiddenTags: q.ForbiddenTags,
	}
	if q.Zone != "" {
		req.Zone = "zones/" + q.Zone
	}
	return req
}

// Result is how a stream went.
type Result struct {
	// Placed and Refused are requests; Refused fitted nowhere.
	Placed, Refused int
	Took            time.Duration
	// P50 and P99 are of one call, from the request to the acknowledged commit.
	P50, P99 time.Duration
}

// PerSecond is how many requests were answered in a second.
func (r Result) PerSecond() float64 { return float64(r.Placed+r.Refused) / r.Took.Seconds() }

// Run sends the requests in their order from so many clients, until all are
// answered or limit has passed. compose decides and commits.
func Run(ctx context.Context, requests []Request, clients int, limit time.Duration, compose func(context.Context, *vmhostv1.ComposeMachineRequest) error) (Result, error) {
	var (
		next atomic.Int64
		out  Result
		mu   sync.Mutex
		took []time.Duration
		errs []error
		wg   sync.WaitGroup
	)
	begin := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(begin) < limit && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					return
				}
				at := time.Now()
				err := compose(ctx, requests[i].Compose())
				d := time.Since(at)
				mu.Lock()
				took = append(took, d)
				switch {
				case err == nil:
					out.Placed++
				case apierror.Reason(err) == vmhostv1.ErrorReason_NO_CAPACITY:
					out.Refused++
				default:
					errs = append(errs, fmt.Errorf("request %d: %w", i+1, err))
				}
				failed := len(errs) > 0
				mu.Unlock()
				if failed {
					return
				}
			}
		})
	}
	wg.Wait()
	out.Took = time.Since(begin)
	if len(took) > 0 {
		slices.Sort(took)
		out.P50, out.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return out, errors.Join(append(errs, ctx.Err())...)
}

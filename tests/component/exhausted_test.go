package component

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// books are the cores that hosts and the default pool have and have given, as one
// region shows them.
type books struct {
	free        map[string]int64 // by host
	given       int64            // on all hosts
	quota, used int64
}

// readBooks also says if anything is past its limit.
func readBooks(ctx context.Context, api *client.Client) (*books, error) {
	b := &books{free: map[string]int64{}}
	hosts, err := api.VmHosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{})
	if err != nil {
		return nil, err
	}
	for _, h := range hosts.GetVmHosts() {
		c := h.GetUsage().GetCores()
		b.given += c.GetCommitted()
		b.free[h.GetName()] = c.GetLimit() - c.GetCommitted() - c.GetForeign()
		if b.free[h.GetName()] < 0 {
			return nil, fmt.Errorf("%s is past its limit: %v", h.GetName(), c)
		}
	}
	pool, err := api.ResourcePools.GetResourcePool(ctx, &vmhostv1.GetResourcePoolRequest{Name: "resourcePools/default"})
	if err != nil {
		return nil, err
	}
	b.quota, b.used = pool.GetQuota().GetCores(), pool.GetUsed().GetCores()
	if pool.GetQuota() != nil && b.used > b.quota {
		return nil, fmt.Errorf("the pool is past its quota: %d of %d", b.used, b.quota)
	}
	return b, nil
}

// untrue says what is not true of a refusal of so many cores, now that all is
// given; empty: it is true, and so are its numbers.
func (b *books) untrue(err error, cores int64) string {
	if err == nil {
		return "it is accepted"
	}
	e := apierror.FromStatus(err)
	switch e.Reason {
	case vmhostv1.ErrorReason_QUOTA_EXCEEDED:
		quota, used := e.Metadata["quota"], e.Metadata["used"]
		before, bad := strconv.ParseInt(used, 10, 64)
		if bad != nil || quota != fmt.Sprint(b.quota) || before+cores <= b.quota || b.used+cores <= b.quota {
			return fmt.Sprintf("%s of %s are used it says, %d of %d are", used, quota, b.used, b.quota)
		}
	case vmhostv1.ErrorReason_NO_CAPACITY:
		for name, free := range b.free {
			if free >= cores {
				return fmt.Sprintf("%s has %d free", name, free)
			}
		}
		for n := 1; n <= len(b.free); n++ {
			var host, filter string
			var requested, free int64
			text := e.Metadata[fmt.Sprintf("refusal_%d", n)]
			if _, bad := fmt.Sscanf(text, "vm_host=%s filter=%s requested=%d free=%d", &host, &filter, &requested, &free); bad != nil ||
				filter != "cores" || requested != cores || free >= cores || free < b.free["vmHosts/"+host] {
				return fmt.Sprintf("it says %q: %v", text, bad)
			}
		}
	default:
		return "it is not refused for room or quota"
	}
	return ""
}

// P1, P9: two regions, each with what it has seen so far, are sent composes of
// several sizes for the same few hosts at the same time, more than there is room or
// quota for. At no moment anything is past its limit, in either region; in the end
// whatever was refused does not fit, and the refusal said so by true numbers.
func TestTwoRegionsOnFewHostsRefuseOnlyWhatIsExhausted_P1_P9(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		cores []int32 // of each host
		quota int64
		// apart has each region ask for a host of its own: there is room, and the quota
		// is all that they have in common.
		apart bool
		why   vmhostv1.ErrorReason
	}{
		{"room", []int32{5, 6, 7}, 0, false, vmhostv1.ErrorReason_NO_CAPACITY},
		{"quota", []int32{20, 20}, 11, true, vmhostv1.ErrorReason_QUOTA_EXCEEDED},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			const clients, each = 4, 6
			etcd := regiontest.NewEtcd(t)
			regions := []*regiontest.Region{start(t, etcd), start(t, etcd)}
			fleet := fake.NewFleet()
			var hosts []*fake.Host
			for i, cores := range tc.cores {
				hosts = append(hosts, fleet.AddHost(fake.HostSpec{Name: fmt.Sprintf("h%d", i), Cores: cores}))
			}
			racktest.Start(t, racktest.Options{JoinToken: regions[0].Join("a"), Fleet: fleet})
			for _, h := range hosts {
				addHost(t, regions[0].Admin, h, "a")
			}
			if tc.quota > 0 {
				if _, err := regions[0].Admin.ResourcePools.UpdateResourcePool(t.Context(), &vmhostv1.UpdateResourcePoolRequest{
					ResourcePool: &vmhostv1.ResourcePool{Name: "resourcePools/default", Quota: &vmhostv1.ResourceQuota{Cores: proto.Int64(tc.quota)}},
					UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"quota"}},
				}); err != nil {
					t.Fatal(err)
				}
			}

			var mu sync.Mutex
			var machines []string
			refused := map[*vmhostv1.ComposeMachineRequest]error{}
			var composing, auditing sync.WaitGroup
			begin, done := make(chan struct{}), make(chan struct{})
			for j, r := range regions {
				for c := range clients {
					composing.Go(func() {
						<-begin
						for i := range each {
							req := order(fmt.Sprintf("m-%d-%d-%d", j, c, i))
							req.Cores = int32(1 + (c+i)%3)
							if tc.apart {
								req.VmHost = "vmHosts/" + hosts[j].Name()
							}
							op, err := r.Admin.Machines.ComposeMachine(t.Context(), req)
							mu.Lock()
							if err != nil {
								refused[req] = err
							} else {
								machines = append(machines, op.GetTarget())
							}
							mu.Unlock()
						}
					})
				}
				auditing.Go(func() {
					for {
						if _, err := readBooks(t.Context(), r.Admin); err != nil {
							t.Errorf("region %d: %v", j, err)
							return
						}
						select {
						case <-done:
							return
						default:
						}
					}
				})
			}
			close(begin)
			composing.Wait()
			close(done)
			auditing.Wait()

			// What a machine that was accepted took it still has: nothing failed.
			await(t, "all machines to be made", func(ctx context.Context) error {
				list, err := regions[1].Admin.Operations.ListOperations(ctx, &vmhostv1.ListOperationsRequest{PageSize: 1000})
				if err != nil {
					return err
				}
				for _, op := range list.GetOperations() {
					if op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
						return fmt.Errorf("%s is %v: %v", op.GetName(), op.GetPhase(), op.GetError())
					}
				}
				return nil
			})
			if len(refused) == 0 || len(machines)+len(refused) != len(regions)*clients*each {
				t.Fatalf("%d were accepted and %d refused", len(machines), len(refused))
			}
			why := 0
			for j, r := range regions {
				agreeOn(t, r.Admin, machines, hosts...)
				b, err := readBooks(t.Context(), r.Admin)
				if err != nil {
					t.Fatal(err)
				}
				if tc.quota > 0 && b.given != b.used {
					t.Errorf("region %d shows that the pool uses %d cores, and that %d are given", j, b.used, b.given)
				}
				for req, refusal := range refused {
					if what := b.untrue(refusal, int64(req.GetCores())); what != "" {
						t.Errorf("%d cores were refused and region %d shows that %s: %v, %v", req.GetCores(), j, what, refusal, apierror.FromStatus(refusal).Metadata)
					}
					_, again := r.Admin.Machines.ComposeMachine(t.Context(), req)
					if what := b.untrue(again, int64(req.GetCores())); what != "" {
						t.Errorf("%d cores again at region %d: %v; %s", req.GetCores(), j, again, what)
					}
					if apierror.Reason(refusal) == tc.why {
						why++
					}
				}
			}
			if why == 0 {
				t.Errorf("nothing was refused with %v", tc.why)
			}
		})
	}
}

package api_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/direct"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// overTCP is the API as a client reaches it. The counter is of answers that were
// put together of bytes.
func (f *fixture) overTCP() (grpc.ClientConnInterface, *atomic.Int32) {
	f.t.Helper()
	var count atomic.Int32
	counting := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		resp, err := f.chain.Unary(ctx, req, info, handler)
		if _, ok := resp.(*encoded.Message); ok {
			count.Add(1)
		}
		return resp, err
	}
	server := grpc.NewServer(append(encoded.Options(), grpc.UnaryInterceptor(counting))...)
	f.api.Register(server)
	listener, err := new(net.ListenConfig).Listen(f.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close(); server.Stop(); serving.Wait() })
	return conn, &count
}

// inProcess is the API as a gateway in the same process calls it.
func (f *fixture) inProcess() grpc.ClientConnInterface {
	conn := direct.New(nil, f.chain.Unary)
	f.api.Register(conn)
	return conn
}

// motley writes machines of every kind that a list can show, on a host that is
// reached, one that is not, and one that is gone.
func (f *fixture) motley(reached, lost *vmhostv1.VmHost) (count int) {
	f.t.Helper()
	now := timestamppb.Now()
	add := func(host *vmhostv1.VmHost, uid string, change func(r *storev1.StoredMachine, o *rackv1.MachineObservation) (seen bool)) {
		m := &vmhostv1.Machine{
			Name: "machines/" + uid, Uid: uid, CreateTime: now, UpdateTime: now, Hostname: "m-" + uid, Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED,
			VmHost: host.GetName(), Zone: "zones/default", ResourcePool: "resourcePools/default", HypervisorName: "m-" + uid, HypervisorUuid: uid,
			Cores: 2, MemoryMib: 512, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY, Tags: []string{"a", "b"},
			Disks:      []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "vmhost-" + uid + "-0", SizeBytes: 1 << 30, Boot: true}, {StoragePool: "default", Volume: "vmhost-" + uid + "-1", SizeBytes: 1 << 20}},
			Interfaces: []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01", Source: "default"}, {Mac: "52:54:00:00:00:02", Source: "br0"}},
		}
		o := &rackv1.MachineObservation{
			Uuid: uid, Uid: uid, Name: m.GetHypervisorName(), PowerState: vmhostv1.PowerState_POWER_STATE_ON, Cores: 2, MemoryMib: 512,
			ConsoleLogPath: "/var/log/" + uid, Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE, Firmware: vmhostv1.Firmware_FIRMWARE_UEFI,
		}
		for i, d := range m.GetDisks() {
			d = proto.CloneOf(d)
			d.Device, d.Path = "vd"+string(rune('a'+i)), "/pool/"+d.GetVolume()
			o.Disks = append(o.Disks, d)
		}
		for _, i := range m.GetInterfaces() {
			i = proto.CloneOf(i)
			i.Addresses = []string{"10.0.0.7", "fe80::" + i.GetMac()[15:]}
			o.Interfaces = append(o.Interfaces, i)
		}
		r := &storev1.StoredMachine{Resource: m}
		seen := change(r, o)
		tx := store.NewTxn()
		store.Put(tx, store.Machines, r, uid)
		if seen {
			store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: o, FirstSeenTime: now, ChangeTime: now}, m.GetVmHost()[len("vmHosts/"):], o.GetUuid())
		}
		f.commit(tx)
		count++
	}
	type kind = func(r *storev1.StoredMachine, o *rackv1.MachineObservation) bool
	phase := func(p vmhostv1.MachinePhase, seen bool) kind {
		return func(r *storev1.StoredMachine, _ *rackv1.MachineObservation) bool {
			r.Resource.Phase, r.Resource.Operation = p, "operations/o"
			return seen
		}
	}
	kinds := map[string]kind{
		"ready":     func(*storev1.StoredMachine, *rackv1.MachineObservation) bool { return true },
		"missing":   func(*storev1.StoredMachine, *rackv1.MachineObservation) bool { return false },
		"composing": phase(vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING, false),
		"composed":  phase(vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING, true),
		"deleting":  phase(vmhostv1.MachinePhase_MACHINE_PHASE_DELETING, true),
		"failed":    phase(vmhostv1.MachinePhase_MACHINE_PHASE_FAILED, false),
		"failing":   phase(vmhostv1.MachinePhase_MACHINE_PHASE_FAILED, true),
		"off": func(_ *storev1.StoredMachine, o *rackv1.MachineObservation) bool {
			o.PowerState = vmhostv1.PowerState_POWER_STATE_OFF
			return true
		},
		"adopted": func(r *storev1.StoredMachine, o *rackv1.MachineObservation) bool {
			r.Resource.Origin, r.Resource.HypervisorUuid = vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, "d0"+r.GetResource().GetUid()
			o.Uuid, o.Disks[0].Volume, r.Resource.Disks[0].Volume = r.GetResource().GetHypervisorUuid(), "", ""
			r.Resource.Disks[0].Path, r.Resource.Disks[0].Device = o.GetDisks()[0].GetPath(), o.GetDisks()[0].GetDevice()
			return true
		},
		"changed": func(_ *storev1.StoredMachine, o *rackv1.MachineObservation) bool { o.Cores = 3; return true },
		"unreadable": func(_ *storev1.StoredMachine, o *rackv1.MachineObservation) bool {
			o.Problem = "the hypervisor does not say"
			return true
		},
		"condition": func(r *storev1.StoredMachine, _ *rackv1.MachineObservation) bool {
			r.Resource.Conditions = []*vmhostv1.Condition{{Type: "Said", Status: true}}
			return true
		},
		"moving": func(r *storev1.StoredMachine, _ *rackv1.MachineObservation) bool {
			r.Resource.Operation, r.Move = "operations/none", &storev1.StoredMove{VmHost: "lost", VmHostUid: lost.GetUid()}
			return true
		},
		"between": func(r *storev1.StoredMachine, _ *rackv1.MachineObservation) bool {
			r.Move = &storev1.StoredMove{VmHost: "lost", VmHostUid: lost.GetUid()}
			return false
		},
		"large": func(r *storev1.StoredMachine, _ *rackv1.MachineObservation) bool {
			r.Resource.Tags = slices.Repeat([]string{"a word that is long enough"}, 1000)
			return true
		},
		"lxd": func(r *storev1.StoredMachine, o *rackv1.MachineObservation) bool {
			o.Project, r.Resource.Type = "default", vmhostv1.MachineType_MACHINE_TYPE_CONTAINER
			o.Disks = append(o.Disks, &vmhostv1.MachineDisk{Name: "cdrom", Path: "/iso"})
			return true
		},
	}
	for name, kind := range kinds {
		add(reached, "r-"+name, kind)
		add(lost, "l-"+name, kind)
		add(&vmhostv1.VmHost{Name: "vmHosts/gone"}, "g-"+name, kind)
	}
	for _, host := range []*vmhostv1.VmHost{reached, lost} {
		for _, uuid := range []string{"11111111-0000-4000-8000-00000000000a", "11111111-0000-4000-8000-00000000000b"} {
			f.see(host, &rackv1.MachineObservation{Uuid: uuid, Name: "found", PowerState: vmhostv1.PowerState_POWER_STATE_ON, Disks: []*vmhostv1.MachineDisk{{Path: "/x"}}})
			count++
		}
	}
	return count
}

// A page that is put together of encoded records is the page that callers in the
// same process get, whatever there is to say about its machines.
func TestAClientIsSentWhatACallerInTheProcessGets(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	reached, lost := f.addHost(ctx, "reached"), f.addHost(ctx, "lost")
	f.ready(reached)
	f.ready(lost)
	tx := store.NewTxn()
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r2", VmHostUid: lost.GetUid()}, "lost")
	f.commit(tx)
	all := f.motley(reached, lost)
	remote, sent := f.overTCP()
	local := f.inProcess()
	for _, tt := range []struct {
		name    string
		req     *vmhostv1.ListMachinesRequest
		encoded bool
	}{
		{"all at once", &vmhostv1.ListMachinesRequest{PageSize: 1000}, true},
		{"pages", &vmhostv1.ListMachinesRequest{PageSize: 7}, true},
		{"one by one", &vmhostv1.ListMachinesRequest{PageSize: 1, OrderBy: "name"}, true},
		{"falling", &vmhostv1.ListMachinesRequest{PageSize: 7, OrderBy: "name desc"}, false},
		{"another order", &vmhostv1.ListMachinesRequest{PageSize: 7, OrderBy: "power_state, hostname"}, false},
		{"a filter", &vmhostv1.ListMachinesRequest{PageSize: 3, Filter: "power_state = POWER_STATE_ON"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent.Store(0)
			pages, machines := int32(0), 0
			for {
				got, err := vmhostv1.NewMachineServiceClient(remote).ListMachines(ctx, tt.req)
				if err != nil {
					t.Fatal(err)
				}
				want, err := vmhostv1.NewMachineServiceClient(local).ListMachines(ctx, tt.req)
				if err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(got, want) {
					t.Fatal(cmp.Diff(want, got, protocmp.Transform()))
				}
				for _, m := range got.GetMachines() {
					one, err := vmhostv1.NewMachineServiceClient(remote).GetMachine(ctx, &vmhostv1.GetMachineRequest{Name: m.GetName()})
					if err != nil || !proto.Equal(one, m) {
						t.Errorf("got by its name: %v\n%s", err, cmp.Diff(one, m, protocmp.Transform()))
					}
				}
				pages++
				machines += len(got.GetMachines())
				if tt.req.PageToken = got.GetNextPageToken(); tt.req.GetPageToken() == "" {
					break
				}
			}
			if tt.req.GetFilter() == "" && machines != all {
				t.Errorf("%d machines, want %d", machines, all)
			}
			if n := sent.Load(); tt.encoded != (n == pages) || !tt.encoded && n > 0 {
				t.Errorf("%d of %d pages were put together of bytes", n, pages)
			}
		})
	}
	got, err := vmhostv1.NewVmHostServiceClient(remote).ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	want, err := vmhostv1.NewVmHostServiceClient(local).ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{PageSize: 1})
	if err != nil || !proto.Equal(got, want) || got.GetNextPageToken() == "" {
		t.Errorf("hosts: %v\n%s", err, cmp.Diff(want, got, protocmp.Transform()))
	}
}

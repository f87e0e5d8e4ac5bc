package api_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api"
	"github.com/vmhost-project/vmhost/services/region/internal/bootstrap"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/operation"
	"github.com/vmhost-project/vmhost/services/region/internal/secret"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is the API over a real store, ledger and operations engine, without
// any rack.
type fixture struct {
	t     *testing.T
	store *store.Store
	conn  *grpc.ClientConn
	log   *logBuffer
	api   *api.Server
	chain interceptor.Interceptors

	hosts   vmhostv1.VmHostServiceClient
	mach    vmhostv1.MachineServiceClient
	ops     vmhostv1.OperationServiceClient
	zones   vmhostv1.ZoneServiceClient
	pools   vmhostv1.ResourcePoolServiceClient
	racks   vmhostv1.RackServiceClient
	events  vmhostv1.EventServiceClient
	rules   vmhostv1.PlacementPolicyServiceClient
	ask     vmhostv1.PlacementServiceClient
	secrets *secret.Keyset
}

// noRacks is a sender without any session.
type noRacks struct{}

func (noRacks) Session(string) string          { return "" }
func (noRacks) Send(string, *rackv1.Step) bool { return false }

// logBuffer collects all that is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, store: storetest.New(t), log: &logBuffer{}}
	log := slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.secrets, err = secret.OpenOrGenerate(filepath.Join(t.TempDir(), "keyset")); err != nil {
		t.Fatal(err)
	}
	deployment, err := bootstrap.Ensure(t.Context(), bootstrap.Config{Store: f.store, Secrets: f.secrets, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	key, err := deployment.Key("api")
	if err != nil {
		t.Fatal(err)
	}
	composer := ledger.New(f.store, log)
	engine := operation.New(operation.Config{Store: f.store, Sender: noRacks{}, Turn: composer, Places: composer, Secrets: f.secrets, Log: log, TakeOut: api.TakeOut})
	f.api = api.New(api.Config{
		Store: f.store, Secrets: f.secrets, Composer: composer, Operations: engine, Key: key,
		RackEndpoints: []string{"127.0.0.1:1"}, CASPKI: "pin", Log: log,
	})
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	f.chain = interceptor.Chain(interceptor.Config{
		Log: log, Auth: interceptor.NewBearerTokens(f.store, interceptor.APIPolicy()), Validator: validator,
	})
	server := grpc.NewServer(slices.Concat(f.chain.Options(), encoded.Options())...)
	f.api.Register(server)
	reflection.Register(server)
	f.serve(server, composer.Run, engine.Run, f.api.Run)
	return f
}

// serve runs the server and the parts behind it until the test ends.
func (f *fixture) serve(server *grpc.Server, parts ...func(context.Context) error) {
	f.t.Helper()
	lis := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) })
	for _, run := range parts {
		wg.Go(func() { _ = run(ctx) })
	}
	conn, err := grpc.NewClient("passthrough:///region",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close(); cancel(); server.Stop(); wg.Wait() })
	f.conn = conn
	f.hosts, f.mach, f.ops = vmhostv1.NewVmHostServiceClient(conn), vmhostv1.NewMachineServiceClient(conn), vmhostv1.NewOperationServiceClient(conn)
	f.zones, f.pools = vmhostv1.NewZoneServiceClient(conn), vmhostv1.NewResourcePoolServiceClient(conn)
	f.rules, f.ask = vmhostv1.NewPlacementPolicyServiceClient(conn), vmhostv1.NewPlacementServiceClient(conn)
	f.racks, f.events = vmhostv1.NewRackServiceClient(conn), vmhostv1.NewEventServiceClient(conn)
}

// as is a context of calls by a principal of that role.
func (f *fixture) as(role storev1.Role) context.Context {
	f.t.Helper()
	text, id, record, err := token.New("user-"+role.String(), role, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	tx := store.NewTxn()
	store.Put(tx, store.Tokens, record, id)
	f.commit(tx)
	return metadata.AppendToOutgoingContext(f.t.Context(), "authorization", "Bearer "+text)
}

func (f *fixture) admin() context.Context { return f.as(storev1.Role_ROLE_ADMIN) }

func (f *fixture) commit(tx *store.Txn) {
	f.t.Helper()
	if _, err := f.store.Commit(f.t.Context(), tx); err != nil {
		f.t.Fatal(err)
	}
}

// wantReason fails the test unless err is an answer with that reason, and with
// the fields if any are named.
func wantReason(t *testing.T, what string, err error, code codes.Code, reason vmhostv1.ErrorReason, fields ...string) {
	t.Helper()
	e := apierror.FromStatus(err)
	if err == nil || e.Code != code || e.Reason != reason {
		t.Errorf("%s: got %v (%v), want %s %s", what, err, apierror.Reason(err), code, reason)
		return
	}
	for _, want := range fields {
		found := false
		for _, v := range e.Fields {
			found = found || v.GetField() == want
		}
		if !found {
			t.Errorf("%s: the fields %v do not name %s", what, e.Fields, want)
		}
	}
}

// addHost adds a fake host.
func (f *fixture) addHost(ctx context.Context, id string) *vmhostv1.VmHost {
	f.t.Helper()
	h, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: id, VmHost: &vmhostv1.VmHost{Address: "fake://" + id}})
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

// ready makes the host seen by a connected rack r1: 8 cores, 16 GiB, 1 TB.
func (f *fixture) ready(h *vmhostv1.VmHost) {
	f.t.Helper()
	id := h.GetName()[len("vmHosts/"):]
	tx := store.NewTxn()
	store.Put(tx, store.Racks, &storev1.StoredRack{Resource: &vmhostv1.Rack{Name: "racks/r1", Uid: "r1uid", Zone: "zones/default"}}, "r1")
	store.Put(tx, store.Sessions, &storev1.StoredSession{Drivers: []string{"fake", "libvirt"}, LocalSockets: []string{""}, ConnectTime: timestamppb.Now()}, "r1")
	store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: h.GetUid()}, id)
	store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
		VmHostUid: h.GetUid(), State: vmhostv1.VmHostState_VM_HOST_STATE_READY,
		Observation: &vmhostv1.VmHostObservation{
			ObserveTime: timestamppb.Now(), Architectures: []string{"x86_64"}, Cores: 8, MemoryMib: 16384,
			StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 1e12, AvailableBytes: 1e12, Active: true}},
			Networks:     []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Dhcp: true, Active: true}},
		},
	}, id)
	f.commit(tx)
}

// see makes a domain seen on a host.
func (f *fixture) see(h *vmhostv1.VmHost, o *rackv1.MachineObservation) {
	f.t.Helper()
	tx := store.NewTxn()
	now := timestamppb.Now()
	store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: o, FirstSeenTime: now, ChangeTime: now}, h.GetName()[len("vmHosts/"):], o.GetUuid())
	f.commit(tx)
}

// compose commits a machine; no rack ever makes it.
func (f *fixture) compose(ctx context.Context, hostname string) *vmhostv1.Operation {
	f.t.Helper()
	op, err := f.mach.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{Hostname: hostname, Cores: 1, MemoryMib: 512})
	if err != nil {
		f.t.Fatal(err)
	}
	return op
}

// settle makes a machine ready, as its compose would.
func (f *fixture) settle(name string) {
	f.t.Helper()
	uid := name[len("machines/"):]
	m, ok := store.Machines.Get(f.store.Cached(), uid)
	if !ok {
		f.t.Fatalf("%s is not there", name)
	}
	tx := store.NewTxn()
	done := proto.CloneOf(m.Value)
	operation := done.GetResource().GetOperation()[len("operations/"):]
	done.Resource.Phase, done.Resource.Operation = vmhostv1.MachinePhase_MACHINE_PHASE_READY, ""
	store.Put(tx, store.Machines, done, uid)
	op, _ := store.Operations.Get(f.store.Cached(), operation)
	ended := proto.CloneOf(op.Value)
	ended.Resource.Phase, ended.Resource.EndTime = vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED, timestamppb.Now()
	store.Put(tx, store.Operations, ended, operation)
	f.commit(tx)
}

// within is a context for what must end soon.
func (f *fixture) within(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	f.t.Cleanup(cancel)
	return ctx
}

package session

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/inventory"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// results takes results, and refuses them while err is set.
type results struct {
	mu  sync.Mutex
	got []string
	err error
}

func (r *results) Result(_ context.Context, rack string, res *rackv1.StepResult) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.got = append(r.got, rack+" "+res.GetId())
	return nil
}

type plain struct{}

func (plain) Decrypt(_ string, c []byte) ([]byte, error) { return c, nil }

type service struct {
	rackv1.UnimplementedRackServiceServer
	*Server
}

func (s service) Connect(stream bidi) error { return s.Server.Connect(stream) }

// region is one region process: a store of its own, a server, a listener.
type region struct {
	t       *testing.T
	store   *store.Store
	server  *Server
	hub     *Hub
	results *results
	conn    *grpc.ClientConn
	stop    func()
}

func newRegion(t *testing.T, client *clientv3.Client, id string, change ...func(*Config)) *region {
	t.Helper()
	s := storetest.On(t, client)
	log := slog.New(slog.DiscardHandler)
	r := &region{t: t, store: s, hub: NewHub(), results: &results{}}
	cfg := Config{
		Store: s, Hub: r.hub, Inventory: inventory.New(s, log), Results: r.results, Secrets: plain{}, RegionID: id, Version: "test", Log: log,
		Identity: func(ctx context.Context) (string, string, bool) {
			md, _ := metadata.FromIncomingContext(ctx)
			who := md.Get("rack") // the certificate of this test
			if len(who) != 1 {
				return "", "", false
			}
			rack, uid, ok := strings.Cut(who[0], "/")
			return rack, uid, ok
		},
		Heartbeat: 200 * time.Millisecond, Grace: 300 * time.Millisecond, AssignEvery: 10 * time.Millisecond, LeaseTTL: 5 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	r.server = New(cfg)
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	rackv1.RegisterRackServiceServer(g, service{Server: r.server})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(listener) })
	wg.Go(func() { _ = r.server.Run(ctx) })
	var err error
	r.conn, err = grpc.NewClient("passthrough:///"+id, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		g.GracefulStop()
		_ = r.conn.Close()
		wg.Wait()
	})
	t.Cleanup(r.stop)
	eventually(t, "a lease", func() bool {
		r.server.mu.Lock()
		defer r.server.mu.Unlock()
		return r.server.lease != nil
	})
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick, late := time.NewTicker(2*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not in 20 s", what)
		}
	}
}

// rack is the other half of a session: what the region sends goes into got.
type rack struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[rackv1.ConnectRequest, rackv1.ConnectResponse]
	got    chan *rackv1.ConnectResponse // closed at the end of the stream
	cancel func()
}

func (r *region) dial(id, uid string) *rack {
	r.t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "rack", id+"/"+uid))
	stream, err := rackv1.NewRackServiceClient(r.conn).Connect(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	k := &rack{t: r.t, stream: stream, got: make(chan *rackv1.ConnectResponse, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(k.got)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			k.got <- m
		}
	})
	k.cancel = func() { cancel(); wg.Wait() }
	r.t.Cleanup(k.cancel)
	return k
}

func (k *rack) send(m *rackv1.ConnectRequest) { _ = k.stream.Send(m) }

func hello(drivers ...string) *rackv1.ConnectRequest {
	return &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_Hello{Hello: &rackv1.RackHello{Protocol: 1, Version: "r", BootId: "b", Drivers: drivers, LocalSockets: []string{""}}}}
}

func (k *rack) beat() {
	k.send(&rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_Heartbeat{Heartbeat: &rackv1.Heartbeat{}}})
}

// next is the next message of the wanted kind; heartbeats go on meanwhile.
func next[T any](k *rack, pick func(*rackv1.ConnectResponse) *T) *T {
	k.t.Helper()
	beat, late := time.NewTicker(50*time.Millisecond), time.After(20*time.Second)
	defer beat.Stop()
	for {
		select {
		case m, ok := <-k.got:
			if !ok {
				k.t.Fatal("the stream ended")
			}
			if x := pick(m); x != nil {
				return x
			}
		case <-beat.C:
			k.beat()
		case <-late:
			k.t.Fatal("no such message in 20 s")
		}
	}
}

func (r *region) connect(id, uid string) *rack {
	r.t.Helper()
	k := r.dial(id, uid)
	k.send(hello("fake", "libvirt"))
	if h := next(k, (*rackv1.ConnectResponse).GetHello); h.GetProtocol() != 1 || h.GetSession() == "" {
		r.t.Errorf("hello %v", h)
	}
	return k
}

func put(t *testing.T, s *store.Store, fill func(tx *store.Txn)) {
	t.Helper()
	tx := store.NewTxn()
	fill(tx)
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
}

func addRack(t *testing.T, s *store.Store, id string) *pki.SealKey {
	t.Helper()
	key, err := pki.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, func(tx *store.Txn) {
		store.Put(tx, store.Racks, &storev1.StoredRack{
			Resource: &vmhostv1.Rack{Name: "racks/" + id, Uid: "uid-" + id, Zone: "zones/default"}, HpkePublicKey: key.Public(),
		}, id)
	})
	return key
}

func host(id string, fill ...func(*storev1.StoredVmHost)) *storev1.StoredVmHost {
	h := &storev1.StoredVmHost{ConnectionVersion: "1", Resource: &vmhostv1.VmHost{
		Name: "vmHosts/" + id, Uid: "uid-" + id, Address: "fake://" + id, Zone: "zones/default", ResourcePool: "resourcePools/default",
	}}
	for _, f := range fill {
		f(h)
	}
	return h
}

func addHost(t *testing.T, s *store.Store, h *storev1.StoredVmHost) {
	t.Helper()
	put(t, s, func(tx *store.Txn) {
		store.Put(tx, store.VmHosts, h, strings.TrimPrefix(h.GetResource().GetName(), "vmHosts/"))
	})
}

func observed(s *store.Store, host string) *storev1.StoredVmHostObservation {
	rec, _ := store.Observed.Get(s.Cached(), host)
	return rec.Value
}

func TestARackGetsItsHostsWithSealedCredentials_P8(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	key := addRack(t, r.store, "r1")
	addHost(t, r.store, host("h1"))
	put(t, r.store, func(tx *store.Txn) {
		store.Put(tx, store.Secrets, &storev1.StoredSecret{Ciphertext: []byte("hush")}, "vmHosts", "h1")
	})
	k := r.connect("r1", "uid-r1")
	a := next(k, (*rackv1.ConnectResponse).GetAssignment)
	rec, _ := store.Assignments.Get(r.store.Cached(), "h1")
	if a.GetVmHost() != "vmHosts/h1" || a.GetUid() != "uid-h1" || a.GetEpoch() != rec.Revision || a.GetAddress() != "fake://h1" {
		t.Errorf("assignment %v, want epoch %d", a, rec.Revision)
	}
	if strings.Contains(string(a.GetSealedCredential()), "hush") {
		t.Error("the credential travels as it is")
	}
	got, err := key.Open(fmt.Appendf(nil, "uid-h1/%d", a.GetEpoch()), a.GetSealedCredential())
	if err != nil || string(got) != "hush" {
		t.Errorf("opened %q, %v", got, err)
	}
	// A new connection is sent at once, the same host unchanged is not.
	addHost(t, r.store, host("h1", func(h *storev1.StoredVmHost) { h.ConnectionVersion = "2" }))
	if b := next(k, (*rackv1.ConnectResponse).GetAssignment); b.GetConnectionVersion() != "2" || b.GetEpoch() != a.GetEpoch() {
		t.Errorf("after an update: %v", b)
	}
	put(t, r.store, func(tx *store.Txn) { tx.Delete(store.VmHosts.Key("h1")); tx.Delete(store.Assignments.Key("h1")) })
	if u := next(k, (*rackv1.ConnectResponse).GetUnassignment); u.GetUid() != "uid-h1" {
		t.Errorf("unassignment %v", u)
	}
}

func TestARemovedRackIsToldWithinASecond(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	k := r.connect("r1", "uid-r1")
	began := time.Now()
	put(t, r.store, func(tx *store.Txn) { tx.Delete(store.Racks.Key("r1")) })
	if d := next(k, (*rackv1.ConnectResponse).GetDisconnect); d.GetReason() != vmhostv1.ErrorReason_RACK_REVOKED {
		t.Errorf("disconnect %v", d)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	eventually(t, "no session", func() bool {
		_, ok := store.Sessions.Get(r.store.Cached(), "r1")
		return !ok && r.hub.Session("r1") == ""
	})
	again := r.dial("r1", "uid-r1")
	again.send(hello("fake"))
	if _, open := <-again.got; open {
		t.Error("a removed rack got an answer")
	}
}

func TestANewerSessionEndsTheOlderAlsoInAnotherRegion(t *testing.T) {
	client := storetest.Client(t)
	one, two := newRegion(t, client, "region-1"), newRegion(t, client, "region-2")
	addRack(t, one.store, "r1")
	first := one.connect("r1", "uid-r1")
	second := one.connect("r1", "uid-r1")
	if d := next(first, (*rackv1.ConnectResponse).GetDisconnect); !strings.Contains(d.GetMessage(), "newer session") {
		t.Errorf("disconnect %v", d)
	}
	third := two.connect("r1", "uid-r1")
	if d := next(second, (*rackv1.ConnectResponse).GetDisconnect); !strings.Contains(d.GetMessage(), "newer session") {
		t.Errorf("disconnect %v", d)
	}
	third.beat()
	eventually(t, "one session", func() bool {
		rec, ok := store.Sessions.Get(two.store.Cached(), "r1")
		return ok && rec.Value.GetRegion() == "region-2" && rec.Value.GetSession() == two.hub.Session("r1") && one.hub.Session("r1") == ""
	})
}

func TestADrainingRegionSaysSo(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	k := r.connect("r1", "uid-r1")
	done := make(chan struct{})
	go func() { defer close(done); r.stop() }()
	if d := next(k, (*rackv1.ConnectResponse).GetDisconnect); d.GetReason() != vmhostv1.ErrorReason_REGION_DRAINING {
		t.Errorf("disconnect %v", d)
	}
	<-done
	eventually(t, "no session", func() bool {
		v, err := r.store.View(t.Context())
		_, ok := store.Sessions.Get(v, "r1")
		return err == nil && !ok
	})
}

func TestASilentRackIsDisconnected(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	k := r.connect("r1", "uid-r1")
	for m := range k.got {
		if d := m.GetDisconnect(); d != nil && !strings.Contains(d.GetMessage(), "silent") {
			t.Errorf("disconnect %v", d)
		}
	}
	eventually(t, "no session", func() bool { _, ok := store.Sessions.Get(r.store.Cached(), "r1"); return !ok })
}

func TestWhoeverIsNoRackOrSaysNoHelloGetsNoSession(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	stream, err := rackv1.NewRackServiceClient(r.conn).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); apierror.Reason(err) != vmhostv1.ErrorReason_UNAUTHENTICATED {
		t.Errorf("without identity: %v", err)
	}
	for name, first := range map[string]*rackv1.ConnectRequest{
		"no Hello":         {Message: &rackv1.ConnectRequest_Heartbeat{Heartbeat: &rackv1.Heartbeat{}}},
		"another protocol": {Message: &rackv1.ConnectRequest_Hello{Hello: &rackv1.RackHello{Protocol: 99}}},
	} {
		k := r.dial("r1", "uid-r1")
		k.send(first)
		if m, open := <-k.got; open {
			t.Errorf("%s: got %v", name, m)
		}
	}
	k := r.connect("r1", "uid-r1")
	k.send(hello("fake"))
	if d := next(k, (*rackv1.ConnectResponse).GetDisconnect); d.GetReason() != vmhostv1.ErrorReason_INVALID_FIELD {
		t.Errorf("after a second Hello: %v", d)
	}
}

func TestAResultIsAcknowledgedOnlyWhenRecorded_P6(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	k := r.connect("r1", "uid-r1")
	result := &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_StepResult{StepResult: &rackv1.StepResult{Id: "op/0/1"}}}
	k.send(result)
	if a := next(k, (*rackv1.ConnectResponse).GetStepResultAck); a.GetId() != "op/0/1" || !slices.Equal(r.results.got, []string{"r1 op/0/1"}) {
		t.Errorf("ack %v, recorded %v", a, r.results.got)
	}
	r.results.mu.Lock()
	r.results.err = context.DeadlineExceeded
	r.results.mu.Unlock()
	k.send(result)
	for m := range k.got {
		if m.GetStepResultAck() != nil {
			t.Error("acknowledged, though it was not recorded")
		}
	}
}

func TestStepsGoToTheRackAndASlowOneIsDisconnected(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	k := r.connect("r1", "uid-r1")
	if !r.hub.Send("r1", &rackv1.Step{Id: "op/0/1"}) || r.hub.Send("r2", &rackv1.Step{}) {
		t.Error("sent to the wrong rack")
	}
	if s := next(k, (*rackv1.ConnectResponse).GetStep); s.GetId() != "op/0/1" {
		t.Errorf("step %v", s)
	}
	// This one says Hello, and then does not read.
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "rack", "r1/uid-r1"))
	defer cancel()
	slow, err := rackv1.NewRackServiceClient(r.conn).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	old := r.hub.Session("r1")
	if err := slow.Send(hello("fake")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slow session", func() bool { s := r.hub.Session("r1"); return s != "" && s != old })
	big := &rackv1.Step{Operation: strings.Repeat("x", 64<<10)}
	sent := 0
	alive := &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_Heartbeat{Heartbeat: &rackv1.Heartbeat{}}}
	for r.hub.Send("r1", big) {
		_ = slow.Send(alive)
		if sent++; sent > 10*outboxSize {
			t.Fatalf("%d steps queued for a rack that does not read", sent)
		}
	}
	if r.hub.Session("r1") == "" {
		t.Error("a rack that has more waiting for it than fits was disconnected at once")
	}
	// Heartbeats alone do not keep a session of a rack that takes nothing.
	eventually(t, "no session", func() bool {
		_ = slow.Send(alive)
		r.hub.Send("r1", big)
		return r.hub.Session("r1") == ""
	})
}

func TestAHostGoesToAnotherRackWithANewEpoch_P7(t *testing.T) {
	client := storetest.Client(t)
	one, two := newRegion(t, client, "region-1"), newRegion(t, client, "region-2")
	addRack(t, one.store, "r1")
	addRack(t, one.store, "r2")
	addHost(t, one.store, host("h1"))
	k1 := one.connect("r1", "uid-r1")
	a1 := next(k1, (*rackv1.ConnectResponse).GetAssignment)
	k2 := two.connect("r2", "uid-r2")
	k1.cancel()
	a2 := next(k2, (*rackv1.ConnectResponse).GetAssignment)
	if a2.GetUid() != a1.GetUid() || a2.GetEpoch() <= a1.GetEpoch() {
		t.Errorf("first %v, then %v", a1, a2)
	}
	// A report with the old epoch does not count, one with the new does.
	for _, epoch := range []int64{a1.GetEpoch(), a2.GetEpoch()} {
		k2.send(&rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_HostInventory{HostInventory: &rackv1.HostInventory{
			VmHost: "vmHosts/h1", Epoch: epoch, Sequence: epoch, Last: true, Observation: &vmhostv1.VmHostObservation{Cores: 8, Hostname: fmt.Sprint(epoch)},
		}}})
	}
	eventually(t, "ready", func() bool { return observed(two.store, "h1").GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY })
	if o := observed(two.store, "h1"); o.GetEpoch() != a2.GetEpoch() || o.GetObservation().GetHostname() != fmt.Sprint(a2.GetEpoch()) {
		t.Errorf("observed %v", o)
	}
}

func TestARackThatIsBackSoonKeepsItsHostsAndTheirEpoch(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1", func(c *Config) { c.Grace = time.Hour })
	addRack(t, r.store, "r1")
	addHost(t, r.store, host("h1"))
	k := r.connect("r1", "uid-r1")
	before := next(k, (*rackv1.ConnectResponse).GetAssignment)
	k.cancel()
	eventually(t, "no session", func() bool { _, ok := store.Sessions.Get(r.store.Cached(), "r1"); return !ok })
	k = r.connect("r1", "uid-r1")
	if after := next(k, (*rackv1.ConnectResponse).GetAssignment); after.GetEpoch() != before.GetEpoch() {
		t.Errorf("epoch %d, before %d", after.GetEpoch(), before.GetEpoch())
	}
}

func TestAPinnedHostGoesOnlyToItsRack(t *testing.T) {
	r := newRegion(t, storetest.Client(t), "region-1")
	addRack(t, r.store, "r1")
	addRack(t, r.store, "r2")
	addHost(t, r.store, host("h1", func(h *storev1.StoredVmHost) { h.Resource.Rack = "racks/r2" }))
	k1 := r.connect("r1", "uid-r1")
	beat := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				k1.beat()
			case <-beat:
				return
			}
		}
	})
	defer wg.Wait()
	defer close(beat)
	eventually(t, "no rack", func() bool { return observed(r.store, "h1").GetState() == vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK })
	if c := observed(r.store, "h1").GetConditions()[0]; !strings.Contains(c.GetMessage(), "r2") || c.GetReason() != "NO_RACK" {
		t.Errorf("condition %v", c)
	}
	k2 := r.connect("r2", "uid-r2")
	next(k2, (*rackv1.ConnectResponse).GetAssignment)
	if a, _ := store.Assignments.Get(r.store.Cached(), "h1"); a.Value.GetRack() != "r2" {
		t.Errorf("assigned to %s", a.Value.GetRack())
	}
}

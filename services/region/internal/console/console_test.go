package console_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/console"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

type service struct {
	rackv1.UnimplementedRackServiceServer
	*console.Server
}

func (s service) Console(stream rackv1.RackService_ConsoleServer) error {
	return s.Server.Console(stream)
}

// bench is a console server with a machine m on host h that rack r drives. The
// test is the rack.
type bench struct {
	t        *testing.T
	store    *store.Store
	server   *console.Server
	conn     *grpc.ClientConn
	registry *prometheus.Registry
	local    bool
	stop     func()
}

func newBench(t *testing.T, change ...func(*console.Config)) *bench {
	t.Helper()
	b := &bench{t: t, store: storetest.On(t, storetest.Client(t)), registry: prometheus.NewRegistry(), local: true}
	lease, err := b.store.Lease(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cfg := console.Config{
		Store: b.store, Lease: func() (store.LeaseID, bool) { return lease.ID, true }, Local: func(string) bool { return b.local },
		Identity: func(ctx context.Context) (string, string, bool) {
			md, _ := metadata.FromIncomingContext(ctx)
			who := md.Get("rack") // the certificate of this test
			if len(who) != 1 {
				return "", "", false
			}
			return who[0], "uid-" + who[0], true
		},
		Registry: b.registry, Patience: limit, Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	b.server = console.New(cfg)
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	rackv1.RegisterRackServiceServer(g, service{Server: b.server})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(listener) })
	wg.Go(func() { _ = b.server.Run(ctx) })
	b.conn, err = grpc.NewClient("passthrough:///region", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	b.stop = sync.OnceFunc(func() {
		cancel()
		_ = b.conn.Close()
		g.Stop()
		wg.Wait()
		_ = lease.Close(context.Background())
	})
	t.Cleanup(b.stop)
	b.put(func(tx *store.Txn) {
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/h", Uid: "uid-h"}}, "h")
		store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_READY}, "h")
		store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r", VmHostUid: "uid-h"}, "h")
		store.Put(tx, store.Sessions, &storev1.StoredSession{}, "r")
		b.machine(tx, vmhostv1.MachinePhase_MACHINE_PHASE_READY)
	})
	return b
}

func (b *bench) machine(tx *store.Txn, phase vmhostv1.MachinePhase) {
	store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{
		Name: "machines/m", Uid: "m", Hostname: "web", HypervisorUuid: "f", HypervisorName: "n", VmHost: "vmHosts/h", Phase: phase,
	}}, "m")
}

func (b *bench) power(p vmhostv1.PowerState) {
	b.put(func(tx *store.Txn) {
		store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{Uuid: "f", PowerState: p}}, "h", "f")
	})
}

func (b *bench) put(fill func(tx *store.Txn)) {
	b.t.Helper()
	tx := store.NewTxn()
	fill(tx)
	if _, err := b.store.Commit(b.t.Context(), tx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	tick, late := time.NewTicker(2*time.Millisecond), time.After(limit)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			b.t.Fatalf("%s: not in %v", what, limit)
		}
	}
}

// asked is what the rack is asked for.
func (b *bench) asked() *rackv1.OpenConsole {
	b.t.Helper()
	var open *rackv1.OpenConsole
	b.eventually("a console to be asked for", func() bool {
		for _, c := range store.Consoles.All(b.store.Cached()) {
			if c.Value.GetRack() == "r" {
				open = c.Value.GetOpen()
			}
		}
		return open != nil
	})
	return open
}

type answer struct {
	console *console.Console
	err     error
}

func (b *bench) open(req console.Request) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		c, err := b.server.Open(b.t.Context(), req)
		if c != nil {
			b.t.Cleanup(c.Close)
		}
		out <- answer{c, err}
	}()
	return out
}

func (b *bench) await(c <-chan answer) answer {
	b.t.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(limit):
		b.t.Fatal("no answer")
		return answer{}
	}
}

type stream = rackv1.RackService_ConsoleClient

// dial brings a console as a rack.
func (b *bench) dial(rack, id string) stream {
	b.t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "rack", rack))
	b.t.Cleanup(cancel)
	s, err := rackv1.NewRackServiceClient(b.conn).Console(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = s.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Id{Id: id}})
	return s
}

func say(s stream, data string) {
	_ = s.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Data{Data: []byte(data)}})
}

// attached is an open console with the rack's end of it.
func (b *bench) attached() (*console.Console, stream) {
	b.t.Helper()
	opening := b.open(console.Request{Principal: "alice", Machine: "m"})
	s := b.dial("r", b.asked().GetId())
	say(s, "")
	a := b.await(opening)
	if a.err != nil {
		b.t.Fatal(a.err)
	}
	return a.console, s
}

func (b *bench) reason(err error, code codes.Code, reason vmhostv1.ErrorReason) {
	b.t.Helper()
	if e := apierror.FromStatus(err); err == nil || e.Code != code || e.Reason != reason {
		b.t.Errorf("error %v (%v, %v), want %v, %v", err, e.Code, e.Reason, code, reason)
	}
}

func TestAConsoleIsTakenOnceByItsRackWithItsID(t *testing.T) {
	b := newBench(t)
	opening := b.open(console.Request{Principal: "alice", Machine: "m"})
	open := b.asked()
	if open.GetUid() != "m" || open.GetHypervisorUuid() != "f" || open.GetHypervisorName() != "n" || open.GetVmHostUid() != "uid-h" || open.GetEndpoint() != "" || len(open.GetId()) < 40 {
		t.Errorf("asked for %v", open)
	}
	for name, s := range map[string]stream{
		"another rack":       b.dial("other", open.GetId()),
		"another id":         b.dial("r", open.GetId()[1:]+"x"),
		"no id":              b.dial("r", ""),
		"a very long id":     b.dial("r", strings.Repeat("x", 1<<20)),
		"nobody in a stream": b.dialUnknown(open.GetId()),
	} {
		say(s, "from "+name)
		if _, err := s.Recv(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s was taken: %v", name, err)
		}
	}
	s := b.dial("r", open.GetId())
	say(s, "")
	say(s, "from the rack")
	a := b.await(opening)
	if a.err != nil {
		t.Fatal(a.err)
	}
	if data, err := a.console.Read(); string(data) != "from the rack" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	if _, err := b.dial("r", open.GetId()).Recv(); apierror.Reason(err) != vmhostv1.ErrorReason_NOT_FOUND {
		t.Errorf("taken twice: %v", err)
	}
	if err := a.console.Write([]byte("typed")); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); string(m.GetData()) != "typed" || err != nil {
		t.Errorf("the rack got %v, %v", m, err)
	}
	for range store.Consoles.All(b.store.Cached()) {
		t.Error("the console's key outlives the rack's dial")
	}
	a.console.Close()
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the client's end the rack reads %v", err)
	}
}

func (b *bench) dialUnknown(id string) stream {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	s, err := rackv1.NewRackServiceClient(b.conn).Console(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = s.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Id{Id: id}})
	return s
}

func TestAnOpenConsoleEndsWithWhatItStandsOn_P7(t *testing.T) {
	for _, test := range []struct {
		name   string
		end    func(b *bench, s stream)
		code   codes.Code
		reason vmhostv1.ErrorReason // of the end; unspecified: a clean one
	}{
		{"a new epoch", func(b *bench, _ stream) {
			b.put(func(tx *store.Txn) {
				store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r", VmHostUid: "uid-h"}, "h")
			})
		}, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK},
		{"the machine's record", func(b *bench, _ stream) {
			b.put(func(tx *store.Txn) { tx.Delete(store.Machines.Key("m")) })
		}, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND},
		{"draining", func(b *bench, _ stream) { b.server.Drain() }, codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING},
		{"the machine's stop", func(_ *bench, s stream) { _ = s.CloseSend() }, 0, 0},
		{"an error of the rack", func(_ *bench, s stream) {
			_ = s.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Error{Error: &rackv1.StepError{Class: rackv1.ErrorClass_ERROR_CLASS_BUSY, Message: "taken"}}})
		}, codes.FailedPrecondition, vmhostv1.ErrorReason_CONSOLE_BUSY},
		{"the rack's connection", func(b *bench, _ stream) { _ = b.conn.Close() }, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			c, s := b.attached()
			if n := testutil.CollectAndCount(b.registry); n != 1 {
				t.Errorf("%d metrics", n)
			}
			test.end(b, s)
			ended := make(chan error, 1)
			go func() {
				_, err := c.Read()
				ended <- err
			}()
			select {
			case err := <-ended:
				if test.reason == 0 && !errors.Is(err, io.EOF) {
					t.Errorf("it ended with %v", err)
				} else if test.reason != 0 {
					b.reason(err, test.code, test.reason)
				}
			case <-time.After(limit):
				t.Fatal("it did not end")
			}
			c.Close()
			var kinds []string
			for _, rec := range store.Events.All(b.store.Cached()) {
				e := rec.Value.GetResource()
				kinds = append(kinds, e.GetType())
				if e.GetVmHost() != "vmHosts/h" || e.GetPrincipal() != "alice" || e.GetAttributes()["hostname"] != "web" || !strings.Contains(e.GetMessage(), " web") {
					t.Errorf("event %v", e)
				}
			}
			if len(kinds) != 2 || kinds[0] != "machine.console_opened" || kinds[1] != "machine.console_closed" {
				t.Errorf("events %v", kinds)
			}
		})
	}
}

func TestAConsoleThatCannotBeOpenedSaysWhy_P9(t *testing.T) {
	const ready = vmhostv1.MachinePhase_MACHINE_PHASE_READY
	for _, test := range []struct {
		name   string
		before func(b *bench)
		log    bool
		code   codes.Code
		reason vmhostv1.ErrorReason
	}{
		{"no machine", func(b *bench) { b.put(func(tx *store.Txn) { tx.Delete(store.Machines.Key("m")) }) }, false, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND},
		{"being made", func(b *bench) {
			b.put(func(tx *store.Txn) { b.machine(tx, vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING) })
		}, false, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE},
		{"off", func(b *bench) { b.power(vmhostv1.PowerState_POWER_STATE_OFF) }, false, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE},
		{"no session", func(b *bench) { b.put(func(tx *store.Txn) { tx.Delete(store.Sessions.Key("r")) }) }, true, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK},
		{"no assignment", func(b *bench) { b.put(func(tx *store.Txn) { tx.Delete(store.Assignments.Key("h")) }) }, true, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK},
		{"host not reached", func(b *bench) {
			b.put(func(tx *store.Txn) {
				store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE}, "h")
			})
		}, true, codes.Unavailable, vmhostv1.ErrorReason_HOST_UNREACHABLE},
		{"a session elsewhere, and no address of ours", func(b *bench) { b.local = false }, false, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK},
		{"draining", func(b *bench) { b.server.Drain() }, false, codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.put(func(tx *store.Txn) { b.machine(tx, ready) })
			test.before(b)
			req := console.Request{Principal: "alice", Machine: "m"}
			if test.log {
				req.LogBytes = 100
			}
			a := b.await(b.open(req))
			b.reason(a.err, test.code, test.reason)
			if e := apierror.FromStatus(a.err); e.Hint == "" && test.reason != vmhostv1.ErrorReason_NOT_FOUND {
				t.Errorf("no hint in %v", a.err)
			}
			for range store.Consoles.All(b.store.Cached()) {
				t.Error("something was asked for all the same")
			}
		})
	}
}

func TestARackThatDoesNotComeIsNotWaitedForForEver(t *testing.T) {
	b := newBench(t, func(c *console.Config) { c.Patience, c.Endpoint = 50*time.Millisecond, "region.example:7444" })
	b.local = false
	a := b.await(b.open(console.Request{Machine: "m"}))
	b.reason(a.err, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK)
	if hint := apierror.FromStatus(a.err).Hint; !strings.Contains(hint, "region.example:7444") {
		t.Errorf("hint %q", hint)
	}
	for range store.Consoles.All(b.store.Cached()) {
		t.Error("it is still asked for")
	}
	// One that goes away before it came is not waited for at all.
	b = newBench(t)
	opening := b.open(console.Request{Machine: "m"})
	b.asked()
	b.put(func(tx *store.Txn) { tx.Delete(store.Sessions.Key("r")) })
	b.reason(b.await(opening).err, codes.Unavailable, vmhostv1.ErrorReason_NO_RACK)
}

func TestConsolesAreBounded(t *testing.T) {
	b := newBench(t, func(c *console.Config) { c.Most = 1 })
	c, _ := b.attached()
	b.reason(b.await(b.open(console.Request{Machine: "m"})).err, codes.ResourceExhausted, vmhostv1.ErrorReason_CONFLICT)
	c.Close()
	b.attached()
}

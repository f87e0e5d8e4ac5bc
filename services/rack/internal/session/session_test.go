package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/metric"
	"github.com/vmhost-project/vmhost/services/rack/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is one stream at the region.
type script func(stream rackv1.RackService_ConnectServer) error

// bench is a client in a bubble, with regions that do as scripted.
type bench struct {
	rackv1.UnimplementedRackServiceServer
	t         *testing.T
	client    *session.Client
	handler   *recorder
	endpoints []string
	expired   bool

	mu    sync.Mutex
	dials []dial
	play  func(n int, endpoint string) script // nil script: the region is down
}

type dial struct {
	at       time.Time
	endpoint string
}

func newBench(t *testing.T, endpoints ...string) *bench {
	b := &bench{t: t, endpoints: endpoints, handler: &recorder{}}
	b.client = session.New(session.Config{
		Endpoints:   func() []string { return b.endpoints },
		Credentials: func(string) *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} },
		Expired:     func() bool { return b.expired },
		Rack:        func() string { return "racks/r1" },
		Hello:       func() *rackv1.RackHello { return &rackv1.RackHello{Protocol: 1, Version: "test", BootId: "boot"} },
		Handler:     b.handler,
		Metrics:     metric.New(prometheus.NewRegistry(), func() time.Time { return time.Time{} }),
		Log:         slog.New(slog.DiscardHandler),
		Options: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(b.dial),
		},
	})
	return b
}

// dial starts a region for this connection only.
func (b *bench) dial(ctx context.Context, endpoint string) (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials = append(b.dials, dial{time.Now(), endpoint})
	play := b.play(len(b.dials), endpoint)
	if play == nil {
		return nil, errors.New("connection refused")
	}
	lis := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second}))
	rackv1.RegisterRackServiceServer(server, &oneStream{play: play})
	go func() { _ = server.Serve(lis) }()
	conn, err := lis.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	return &served{Conn: conn, server: server}, nil
}

// served stops its region when the connection ends.
type served struct {
	net.Conn
	once   sync.Once
	server *grpc.Server
}

func (s *served) Close() error {
	err := s.Conn.Close()
	s.once.Do(func() { go s.server.Stop() })
	return err
}

type oneStream struct {
	rackv1.UnimplementedRackServiceServer
	play script
}

// Console writes back.
func (o *oneStream) Console(stream rackv1.RackService_ConsoleServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the rack's end is the end
		}
		if err := stream.Send(&rackv1.ConsoleResponse{Data: []byte(m.GetId())}); err != nil {
			return err
		}
	}
}

func (o *oneStream) Connect(stream rackv1.RackService_ConnectServer) error { return o.play(stream) }

func (b *bench) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.dials)
}

// start runs the client until the returned function, which gives Run's error.
func (b *bench) start() (stop func() error) {
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.client.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// greet is the region's half of the Hellos.
func greet(stream rackv1.RackService_ConnectServer) (*rackv1.RackHello, error) {
	m, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return m.GetHello(), stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Hello{Hello: &rackv1.RegionHello{
		Protocol: 1, Session: "s1", HeartbeatInterval: durationpb.New(10 * time.Second),
	}}})
}

// until greets, takes what comes for that long and ends with err.
func until(d time.Duration, err error) script {
	return func(stream rackv1.RackService_ConnectServer) error {
		if _, err := greet(stream); err != nil {
			return err
		}
		go func() {
			for {
				if _, err := stream.Recv(); err != nil {
					return
				}
			}
		}()
		select {
		case <-time.After(d):
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func reason(r vmhostv1.ErrorReason) error { return apierror.New(codes.Unavailable, r, "as scripted") }

// recorder is a Handler that remembers.
type recorder struct {
	mu     sync.Mutex
	calls  []string
	sender session.Sender
	greet  []*rackv1.ConnectRequest
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, s)
}

func (r *recorder) Connected(to session.Sender, _ *rackv1.RegionHello) {
	r.note("connected")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sender = to
}

func (r *recorder) Resume(ctx context.Context) {
	for _, m := range r.greet {
		_ = r.sender.Send(ctx, m)
	}
}

func (r *recorder) ReportAgain(_ context.Context, uid string, _ int64) { r.note("again " + uid) }
func (r *recorder) OpenConsole(_ context.Context, o *rackv1.OpenConsole) {
	r.note("console " + o.GetId())
}
func (r *recorder) Disconnected()                                  { r.note("disconnected") }
func (r *recorder) Assign(_ context.Context, a *rackv1.Assignment) { r.note("assign " + a.GetUid()) }
func (r *recorder) Unassign(_ context.Context, uid string)         { r.note("unassign " + uid) }
func (r *recorder) Do(_ context.Context, s *rackv1.Step)           { r.note("do " + s.GetId()) }
func (r *recorder) Acknowledged(id string)                         { r.note("ack " + id) }
func (r *recorder) all() []string                                  { r.mu.Lock(); defer r.mu.Unlock(); return r.calls }

func sleep(d time.Duration) { time.Sleep(d); synctest.Wait() } //nolint:forbidigo // fake clock

func result(id string) *rackv1.ConnectRequest {
	return &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_StepResult{StepResult: &rackv1.StepResult{Id: id}}}
}

func TestARegionThatIsDownIsTriedWithJitterUpToAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1", "b:1")
		b.play = func(int, string) script { return nil }
		stop := b.start()
		sleep(10 * time.Hour)
		if err := b.client.Ready(t.Context()); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("ready: %v", err)
		}
		if err := stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if n := len(b.dials); n < 600 || n > 3000 {
			t.Errorf("%d tries in ten hours, want one in half a minute on average", n)
		}
		var longest time.Duration
		for i := 1; i < len(b.dials); i++ {
			gap := b.dials[i].at.Sub(b.dials[i-1].at)
			longest = max(longest, gap)
			if limit := time.Second << min(i-1, 6); gap > min(limit, time.Minute)+time.Millisecond {
				t.Errorf("wait %d is %v, want at most %v", i, gap, min(limit, time.Minute))
			}
			if b.dials[i].endpoint == b.dials[i-1].endpoint {
				t.Error("the same endpoint twice in a row")
			}
		}
		if longest < 50*time.Second {
			t.Errorf("the longest wait is %v, want nearly a minute", longest)
		}
	})
}

func TestASessionThatWasUpForTwoMinutesStartsTheWaitsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1")
		b.play = func(n int, _ string) script {
			if n <= 20 {
				return nil
			}
			return until(3*time.Minute, errors.New("restart"))
		}
		stop := b.start()
		sleep(2 * time.Hour)
		_ = stop()
		for i := 21; i < len(b.dials); i++ {
			if gap := b.dials[i].at.Sub(b.dials[i-1].at) - 3*time.Minute; gap > time.Second+time.Millisecond {
				t.Errorf("wait after a good session: %v", gap)
			}
		}
		if len(b.dials) < 30 {
			t.Errorf("%d sessions in two hours of sessions of three minutes", len(b.dials)-20)
		}
	})
}

func TestDrainingSendsTheRackToTheNextRegionAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1", "b:1")
		b.play = func(n int, _ string) script {
			switch n {
			case 1: // drained by a message in the session
				return func(stream rackv1.RackService_ConnectServer) error {
					if _, err := greet(stream); err != nil {
						return err
					}
					_ = stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Disconnect{Disconnect: &rackv1.Disconnect{
						Reason: vmhostv1.ErrorReason_REGION_DRAINING,
					}}})
					<-stream.Context().Done()
					return nil
				}
			default:
				return until(time.Hour, nil)
			}
		}
		stop := b.start()
		sleep(time.Millisecond)
		if b.count() != 2 || b.dials[1].endpoint != "b:1" || b.client.Ready(t.Context()) != nil {
			t.Errorf("dials %v, ready: %v", b.dials, b.client.Ready(t.Context()))
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestRegionsThatAllDrainAreNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1", "b:1")
		b.play = func(int, string) script {
			return func(rackv1.RackService_ConnectServer) error { return reason(vmhostv1.ErrorReason_REGION_DRAINING) }
		}
		stop := b.start()
		sleep(time.Hour)
		_ = stop()
		if n := len(b.dials); n > 1000 {
			t.Errorf("%d tries in an hour", n)
		}
	})
}

func TestTypedReasonsEndTheSessionForGood(t *testing.T) {
	for name, want := range map[string]error{"RACK_REVOKED": session.ErrRevoked, "RACK_MUST_ENROLL": session.ErrMustEnroll} {
		r := vmhostv1.ErrorReason(vmhostv1.ErrorReason_value[name])
		for way, play := range map[string]script{
			"as status": func(rackv1.RackService_ConnectServer) error { return reason(r) },
			"as message": func(stream rackv1.RackService_ConnectServer) error {
				if _, err := greet(stream); err != nil {
					return err
				}
				_ = stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Disconnect{Disconnect: &rackv1.Disconnect{Reason: r}}})
				<-stream.Context().Done()
				return nil
			},
			"instead of Hello": func(stream rackv1.RackService_ConnectServer) error {
				return stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Disconnect{Disconnect: &rackv1.Disconnect{Reason: r}}})
			},
		} {
			t.Run(name+" "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, "a:1")
					b.play = func(int, string) script { return play }
					if err := b.client.Run(t.Context()); !errors.Is(err, want) {
						t.Errorf("run: %v, want %v", err, want)
					}
					synctest.Wait()
				})
			})
		}
	}
}

func TestTextDecidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1")
		b.play = func(int, string) script {
			return func(rackv1.RackService_ConnectServer) error {
				return errors.New("RACK_REVOKED RACK_MUST_ENROLL REGION_DRAINING")
			}
		}
		stop := b.start()
		sleep(time.Hour)
		if err := stop(); err != nil || len(b.dials) < 60 {
			t.Errorf("error %v after %d tries", err, len(b.dials))
		}
	})
}

func TestAnExpiredCertificateIsNotTried(t *testing.T) {
	b := newBench(t, "a:1")
	b.expired = true
	if err := b.client.Run(t.Context()); !errors.Is(err, session.ErrMustEnroll) || b.count() != 0 {
		t.Errorf("run: %v after %d tries", err, b.count())
	}
}

func TestMessagesReachTheHandlerInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1")
		var hello *rackv1.RackHello
		b.play = func(int, string) script {
			return func(stream rackv1.RackService_ConnectServer) error {
				var err error
				if hello, err = greet(stream); err != nil {
					return err
				}
				for _, m := range []*rackv1.ConnectResponse{
					{Message: &rackv1.ConnectResponse_Assignment{Assignment: &rackv1.Assignment{Uid: "h1"}}},
					{}, // of an unknown kind
					{Message: &rackv1.ConnectResponse_Step{Step: &rackv1.Step{Id: "s"}}},
					{Message: &rackv1.ConnectResponse_StepResultAck{StepResultAck: &rackv1.StepResultAck{Id: "s"}}},
					{Message: &rackv1.ConnectResponse_ReportAgain{ReportAgain: &rackv1.ReportAgain{Uid: "h1"}}},
					{Message: &rackv1.ConnectResponse_OpenConsole{OpenConsole: &rackv1.OpenConsole{Id: "c"}}},
					{Message: &rackv1.ConnectResponse_Unassignment{Unassignment: &rackv1.Unassignment{Uid: "h1"}}},
				} {
					if err := stream.Send(m); err != nil {
						return err
					}
				}
				<-stream.Context().Done()
				return nil
			}
		}
		stop := b.start()
		sleep(time.Second)
		if hello.GetBootId() != "boot" {
			t.Errorf("hello %v", hello)
		}
		_ = stop()
		want := []string{"connected", "assign h1", "do s", "ack s", "again h1", "console c", "unassign h1", "disconnected"}
		if diff := cmp.Diff(want, b.handler.all()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

func TestWhatIsSentAndHeartbeatsArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1")
		for range 1000 { // more than the queue holds
			b.handler.greet = append(b.handler.greet, result("r"))
		}
		var results, beats int
		b.play = func(int, string) script {
			return func(stream rackv1.RackService_ConnectServer) error {
				if _, err := greet(stream); err != nil {
					return err
				}
				for {
					m, err := stream.Recv()
					if err != nil {
						return err
					}
					if m.GetHeartbeat() != nil {
						beats++
					} else if m.GetStepResult() != nil {
						results++
					}
				}
			}
		}
		stop := b.start()
		sleep(10*time.Minute + time.Second)
		_ = stop()
		synctest.Wait()
		if results != 1000 || beats != 60 {
			t.Errorf("%d results and %d heartbeats arrived, want 1000 and 60", results, beats)
		}
	})
}

func TestARegionThatTakesNothingIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1")
		big := &rackv1.ConnectRequest{Message: &rackv1.ConnectRequest_StepResult{StepResult: &rackv1.StepResult{
			Error: &rackv1.StepError{Message: string(make([]byte, 1<<20))},
		}}}
		b.handler.greet = []*rackv1.ConnectRequest{big, big, big}
		b.play = func(int, string) script {
			return func(stream rackv1.RackService_ConnectServer) error {
				if _, err := greet(stream); err != nil {
					return err
				}
				<-stream.Context().Done()
				return nil
			}
		}
		stop := b.start()
		sleep(5 * time.Minute)
		_ = stop()
		if n := len(b.dials); n < 3 {
			t.Errorf("%d sessions in five minutes with a region that takes nothing", n)
		}
		b.handler.mu.Lock()
		defer b.handler.mu.Unlock()
		if err := b.handler.sender.Send(context.Background(), result("late")); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("send after the session: %v", err)
		}
	})
}

func TestARegionThatDoesNotGreetIsLeft(t *testing.T) {
	for name, play := range map[string]script{
		"silent": func(stream rackv1.RackService_ConnectServer) error { <-stream.Context().Done(); return nil },
		"other protocol": func(stream rackv1.RackService_ConnectServer) error {
			_ = stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Hello{Hello: &rackv1.RegionHello{Protocol: 2}}})
			<-stream.Context().Done()
			return nil
		},
		"no Hello first": func(stream rackv1.RackService_ConnectServer) error {
			_ = stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Step{Step: &rackv1.Step{Id: "early"}}})
			<-stream.Context().Done()
			return nil
		},
		"second Hello": func(stream rackv1.RackService_ConnectServer) error {
			for range 2 {
				_ = stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Hello{Hello: &rackv1.RegionHello{Protocol: 1}}})
			}
			<-stream.Context().Done()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, "a:1")
				b.play = func(int, string) script { return play }
				stop := b.start()
				sleep(10 * time.Minute)
				_ = stop()
				if b.count() < 5 {
					t.Errorf("%d tries in ten minutes", b.count())
				}
				for _, c := range b.handler.all() {
					if c == "do early" {
						t.Error("a step was taken before Hello")
					}
				}
			})
		})
	}
}

func TestAConsoleGoesOverTheSessionOrToTheRegionThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "a:1")
		b.play = func(_ int, endpoint string) script {
			return func(stream rackv1.RackService_ConnectServer) error {
				if _, err := greet(stream); err != nil {
					return err
				}
				<-stream.Context().Done()
				return nil
			}
		}
		if _, _, err := b.client.Console(t.Context(), ""); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("without a session: %v", err)
		}
		stop := b.start()
		sleep(time.Second)
		for _, endpoint := range []string{"", "a:1", "b:2"} {
			ctx, cancel := context.WithCancel(t.Context())
			stream, end, err := b.client.Console(ctx, endpoint)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&rackv1.ConsoleRequest{Message: &rackv1.ConsoleRequest_Id{Id: "c"}}); err != nil {
				t.Fatal(err)
			}
			if m, err := stream.Recv(); err != nil || string(m.GetData()) != "c" {
				t.Errorf("at %q: %v, %v", endpoint, m, err)
			}
			cancel()
			end()
		}
		if n := b.count(); n != 2 || b.dials[1].endpoint != "b:2" {
			t.Errorf("%d dials, want one for the session and one for the other region", n)
		}
		if _, _, err := b.client.Console(t.Context(), "nonsense"); err == nil {
			t.Error("an endpoint without a port was dialled")
		}
		if b.client.Ready(t.Context()) != nil {
			t.Error("the end of a console ended the session")
		}
		_ = stop()
	})
}

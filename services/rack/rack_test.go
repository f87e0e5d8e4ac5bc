package rack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack"
	"github.com/vmhost-project/vmhost/services/rack/internal/stubregion"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conversation is a region's side of one session.
type conversation struct {
	t      *testing.T
	stream rackv1.RackService_ConnectServer
	hello  *rackv1.RackHello
}

// converse has every session that racks open handed to the test.
func converse(t *testing.T, region *stubregion.Region) <-chan *conversation {
	t.Helper()
	sessions := make(chan *conversation)
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	region.Script(func(stream rackv1.RackService_ConnectServer) error {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Hello{Hello: &rackv1.RegionHello{
			Protocol: 1, Session: "s", Region: "stub", HeartbeatInterval: durationpb.New(time.Second),
		}}}); err != nil {
			return err
		}
		select {
		case sessions <- &conversation{t: t, stream: stream, hello: m.GetHello()}:
		case <-ended:
			return nil
		}
		select {
		case <-stream.Context().Done():
		case <-ended:
		}
		return nil
	})
	return sessions
}

func next(t *testing.T, sessions <-chan *conversation) *conversation {
	t.Helper()
	select {
	case c := <-sessions:
		return c
	case <-time.After(30 * time.Second):
		t.Fatal("no session in time")
		return nil
	}
}

func (c *conversation) say(m *rackv1.ConnectResponse) {
	c.t.Helper()
	if err := c.stream.Send(m); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// hear reads until a message is of the wanted kind.
func hear[T any](c *conversation, of func(*rackv1.ConnectRequest) *T) *T {
	c.t.Helper()
	for {
		m, err := c.stream.Recv()
		if err != nil {
			c.t.Fatalf("receive: %v", err)
		}
		if v := of(m); v != nil {
			return v
		}
	}
}

func assign(epoch int64, sealed []byte) *rackv1.ConnectResponse {
	return &rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Assignment{Assignment: &rackv1.Assignment{
		VmHost: "vmHosts/h1", Uid: "uid-h1", Epoch: epoch, Type: vmhostv1.VmHostType_VM_HOST_TYPE_FAKE,
		Address: "fake://h1", HostKey: "key", SealedCredential: sealed, ConnectionVersion: fmt.Sprint(epoch),
	}}}
}

func create(id string, epoch int64) *rackv1.ConnectResponse {
	return &rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Step{Step: &rackv1.Step{
		Id: id, Operation: "operations/o", VmHost: "vmHosts/h1", VmHostUid: "uid-h1", Epoch: epoch,
		Action: &rackv1.Step_CreateMachine{CreateMachine: &rackv1.CreateMachine{Machine: &vmhostv1.Machine{Uid: "m", HypervisorName: "m", Cores: 1, MemoryMib: 64}}},
	}}}
}

func disconnect(reason vmhostv1.ErrorReason) *rackv1.ConnectResponse {
	return &rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Disconnect{Disconnect: &rackv1.Disconnect{Reason: reason, Message: "as scripted"}}}
}

func (c *conversation) seal(region *stubregion.Region, epoch int64, password string) []byte {
	raw, err := proto.Marshal(&vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: password}})
	if err != nil {
		c.t.Fatal(err)
	}
	return region.Seal(c.t, fmt.Appendf(nil, "uid-h1/%d", epoch), raw)
}

func fleet() *fake.Fleet {
	return fake.NewFleet(fake.HostSpec{Name: "h1", HostKey: "key", Password: "hypervisor-password"})
}

// quiet is a log to look through.
type quiet struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (q *quiet) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buf.Write(p)
}

func (q *quiet) String() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buf.String()
}

func TestARackEnrollsDrivesAHostAndKeepsItsResultsOverARestart(t *testing.T) {
	region, hosts, dir, log := stubregion.Start(t), fleet(), t.TempDir(), &quiet{}
	sessions := converse(t, region)
	token := region.Token("t1")
	options := racktest.Options{
		JoinToken: token.String(), Fleet: hosts, DataDir: dir,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	r, stop := racktest.Launch(t, options)
	c := next(t, sessions)
	racktest.Await(t, r)
	if got := c.hello.GetSharedMovers(); len(got) != 1 || got[0] != "fake" {
		t.Errorf("disks stay where they are with %v", got)
	}
	if c.hello.GetProtocol() != 1 || c.hello.GetBootId() == "" || len(c.hello.GetDrivers()) != 1 || c.hello.GetDrivers()[0] != "fake" || r.Name() != "racks/r1" {
		t.Errorf("hello %v of %s", c.hello, r.Name())
	}
	c.say(assign(3, c.seal(region, 3, "wrong-password")))
	if s := hear(c, (*rackv1.ConnectRequest).GetHostStatus); s.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_AUTH {
		t.Errorf("status %v", s)
	}
	c.say(assign(4, c.seal(region, 4, "hypervisor-password")))
	if inv := hear(c, (*rackv1.ConnectRequest).GetHostInventory); !inv.GetLast() || inv.GetEpoch() != 4 {
		t.Errorf("inventory %v", inv)
	}
	c.say(create("op/0/1", 4))
	if res := hear(c, (*rackv1.ConnectRequest).GetStepResult); res.GetError() != nil || res.GetMachine().GetUid() != "m" {
		t.Errorf("result %v", res)
	}
	if err := stop(); err != nil { // the result was not acknowledged
		t.Errorf("run: %v", err)
	}
	options.JoinToken = "" // and the token is used up
	r, stop = racktest.Launch(t, options)
	again := next(t, sessions)
	racktest.Await(t, r)
	if res := hear(again, (*rackv1.ConnectRequest).GetStepResult); res.GetId() != "op/0/1" || again.hello.GetBootId() == c.hello.GetBootId() {
		t.Errorf("result %v after restart, boot %s after %s", res, again.hello.GetBootId(), c.hello.GetBootId())
	}
	again.say(create("old", 3))
	if res := hear(again, (*rackv1.ConnectRequest).GetStepResult); res.GetId() == "old" && res.GetError() == nil {
		t.Errorf("P7: a step of an old epoch is done after a restart: %v", res)
	}
	if err := stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	for _, secret := range []string{token.String(), string(token.Secret), "hypervisor-password", "wrong-password"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("P8: the log shows %q", secret)
		}
	}
	for _, want := range []string{"rack=racks/r1", "session=s", "step=op/0/1", "operation=operations/o", "vm_host=vmHosts/h1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
}

// launch runs a rack to its end.
func launch(t *testing.T, cfg rack.Config) <-chan error {
	t.Helper()
	cfg.Drivers, cfg.OpsListen = []string{rack.DriverFake}, ""
	r, err := rack.NewWith(t.Context(), cfg, rack.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ended
}

func result(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the rack goes on")
		return nil
	}
}

func TestARevokedRackForgetsItsIdentityAndStops(t *testing.T) {
	region := stubregion.Start(t)
	sessions := converse(t, region)
	cfg := rack.Default()
	cfg.DataDir, cfg.JoinToken = t.TempDir(), region.Token("t1").String()
	ended := launch(t, cfg)
	next(t, sessions).say(disconnect(vmhostv1.ErrorReason_RACK_REVOKED))
	if err := result(t, ended); !errors.Is(err, rack.ErrRevoked) {
		t.Errorf("run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "identity.json")); !os.IsNotExist(err) {
		t.Errorf("the identity is still there: %v", err)
	}
}

func TestARackThatMustEnrollDoesSoWithANewTokenOnly(t *testing.T) {
	region := stubregion.Start(t)
	sessions := converse(t, region)
	cfg := rack.Default()
	cfg.DataDir, cfg.JoinTokenFile = t.TempDir(), filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(cfg.JoinTokenFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(region.Token("t1").String() + "\n")
	ended := launch(t, cfg)
	first := next(t, sessions)
	write(region.Token("t2").String())
	first.say(disconnect(vmhostv1.ErrorReason_RACK_MUST_ENROLL))
	second := next(t, sessions)
	second.say(disconnect(vmhostv1.ErrorReason_RACK_MUST_ENROLL)) // t2 is used up
	if err := result(t, ended); !errors.Is(err, rack.ErrTokenInvalid) {
		t.Errorf("run with a token that is used up: %v", err)
	}
}

func TestARackThatMustEnrollWithoutATokenStopsAndSaysWhatToDo(t *testing.T) {
	region := stubregion.Start(t)
	sessions := converse(t, region)
	cfg := rack.Default()
	cfg.DataDir = t.TempDir()
	if err := result(t, launch(t, cfg)); !errors.Is(err, rack.ErrNotEnrolled) || !strings.Contains(err.Error(), "vmhostctl rack token create") {
		t.Errorf("run without identity: %v", err)
	}
	if name, err := rack.Enroll(t.Context(), cfg, region.Token("t1")); err != nil || name != "racks/r1" {
		t.Fatalf("enrolled as %q, error %v", name, err)
	}
	ended := launch(t, cfg)
	next(t, sessions).say(disconnect(vmhostv1.ErrorReason_RACK_MUST_ENROLL))
	if err := result(t, ended); !errors.Is(err, rack.ErrMustEnroll) || !strings.Contains(err.Error(), "vmhostctl rack token create") {
		t.Errorf("run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "identity.json")); err != nil {
		t.Errorf("the identity was wiped without another: %v", err)
	}
}

func TestATokenOfAnotherDeploymentReplacesTheIdentity(t *testing.T) {
	old, region := stubregion.Start(t), stubregion.Start(t)
	sessions := converse(t, region)
	cfg := rack.Default()
	cfg.DataDir = t.TempDir()
	if _, err := rack.Enroll(t.Context(), cfg, old.Token("t1")); err != nil {
		t.Fatal(err)
	}
	cfg.JoinToken = region.Token("t1").String()
	launch(t, cfg)
	next(t, sessions)
}

func TestCertificateIsRenewedOverTheSession(t *testing.T) {
	region := stubregion.Start(t)
	region.SetTTL(4 * time.Minute) // certificates begin five minutes ago, so that half of their life is over
	sessions := converse(t, region)
	cfg := rack.Default()
	cfg.DataDir, cfg.JoinToken = t.TempDir(), region.Token("t1").String()
	launch(t, cfg)
	next(t, sessions)
	region.SetTTL(24 * time.Hour)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(30 * time.Second); region.Renewals() == 0; {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("the certificate was not renewed")
		}
	}
}

func TestReadinessAndMetricsFollowTheSession(t *testing.T) {
	region := stubregion.Start(t)
	sessions := converse(t, region)
	cfg := rack.Default()
	cfg.DataDir, cfg.JoinToken, cfg.Drivers = t.TempDir(), region.Token("t1").String(), []string{rack.DriverFake}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.OpsListen = free.Addr().String()
	free.Close()
	r, err := rack.NewWith(t.Context(), cfg, rack.Deps{Log: slog.New(slog.DiscardHandler), Fleet: fleet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Ready(t.Context()); err == nil {
		t.Error("ready before there is a session")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	next(t, sessions)
	racktest.Await(t, r)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"/readyz": "", "/metrics": "vmhost_rack_session_up 1"} {
		response, err := client.Get("http://" + cfg.OpsListen + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, error %v, want %q in it", path, response.Status, err, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

package interceptor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/obs"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zones answers every call with what the test says.
type zones struct {
	vmhostv1.UnimplementedZoneServiceServer
	answer func(ctx context.Context) error
}

func (z *zones) GetZone(ctx context.Context, _ *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	return &vmhostv1.Zone{}, z.answer(ctx)
}

func (z *zones) WatchEvents(_ *vmhostv1.WatchEventsRequest, s grpc.ServerStreamingServer[vmhostv1.WatchEventsResponse]) error {
	return z.answer(s.Context())
}

type events struct {
	vmhostv1.UnimplementedEventServiceServer
	*zones
}

func (e events) WatchEvents(req *vmhostv1.WatchEventsRequest, s grpc.ServerStreamingServer[vmhostv1.WatchEventsResponse]) error {
	return e.zones.WatchEvents(req, s)
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// server is the chain before a service that answers with what the test says.
type server struct {
	zones    *zones
	store    *store.Store
	log      *safeBuffer
	registry *prometheus.Registry
	client   vmhostv1.ZoneServiceClient
	watch    vmhostv1.EventServiceClient
	token    string
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{zones: &zones{answer: func(context.Context) error { return nil }}, store: storetest.New(t), log: &safeBuffer{}, registry: prometheus.NewRegistry()}
	log, err := obs.NewLogger(s.log, "debug", "json")
	if err != nil {
		t.Fatal(err)
	}
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(interceptor.Chain(interceptor.Config{
		Log: log, Metrics: interceptor.NewMetrics(s.registry), Validator: validator,
		Auth: interceptor.NewBearerTokens(s.store, interceptor.APIPolicy()),
	}).Options()...)
	vmhostv1.RegisterZoneServiceServer(g, s.zones)
	vmhostv1.RegisterEventServiceServer(g, events{zones: s.zones})
	lis := bufconn.Listen(1 << 16)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); g.Stop(); wg.Wait() })
	s.client, s.watch = vmhostv1.NewZoneServiceClient(conn), vmhostv1.NewEventServiceClient(conn)
	s.token = s.addToken(t, "alice", storev1.Role_ROLE_VIEWER, 0)
	return s
}

func (s *server) addToken(t *testing.T, principal string, role storev1.Role, expired int64) string {
	t.Helper()
	text, id, record, err := token.New(principal, role, 0)
	if err != nil {
		t.Fatal(err)
	}
	if expired != 0 {
		record.ExpireTime = record.GetCreateTime()
	}
	tx := store.NewTxn()
	store.Put(tx, store.Tokens, record, id)
	if _, err := s.store.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	return text
}

func as(t *testing.T, token string, more ...string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), append([]string{"authorization", "Bearer " + token}, more...)...)
}

func get() *vmhostv1.GetZoneRequest { return &vmhostv1.GetZoneRequest{Name: "zones/a"} }

func TestEveryErrorIsAnsweredWithAReasonAndNoCause(t *testing.T) {
	s := start(t)
	for name, tc := range map[string]struct {
		err    error
		code   codes.Code
		reason vmhostv1.ErrorReason
		retry  bool
		logged string
	}{
		"one of ours":         {apierror.NotFound("zones/a"), codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, false, ""},
		"one of ours, deeper": {fmt.Errorf("look: %w", apierror.NotFound("zones/a")), codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, false, ""},
		"anything else":       {errors.New("CAUSE-1"), codes.Internal, vmhostv1.ErrorReason_INTERNAL, false, "CAUSE-1"},
		"a foreign status":    {status.Error(codes.NotFound, "CAUSE-2"), codes.Internal, vmhostv1.ErrorReason_INTERNAL, false, "CAUSE-2"},
		"a lost race":         {fmt.Errorf("commit: %w", store.ErrConflict), codes.Aborted, vmhostv1.ErrorReason_CONFLICT, true, ""},
		"a store's timeout":   {fmt.Errorf("CAUSE-3: %w", context.DeadlineExceeded), codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, true, "CAUSE-3"},
		"a store that is off": {status.Error(codes.Unavailable, "CAUSE-4"), codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, true, "CAUSE-4"},
	} {
		s.zones.answer = func(context.Context) error { return tc.err }
		_, unary := s.client.GetZone(as(t, s.token), get())
		w, err := s.watch.WatchEvents(as(t, s.token), &vmhostv1.WatchEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, streamed := w.Recv()
		for kind, err := range map[string]error{"unary": unary, "stream": streamed} {
			e := apierror.FromStatus(err)
			if e == nil || e.Code != tc.code || e.Reason != tc.reason {
				t.Errorf("%s, %s: got %v %v", name, kind, err, apierror.Reason(err))
				continue
			}
			if strings.Contains(err.Error(), "CAUSE") {
				t.Errorf("%s, %s: %v tells the cause", name, kind, err)
			}
			retry := false
			for _, d := range status.Convert(err).Details() {
				_, is := d.(*errdetails.RetryInfo)
				retry = retry || is
			}
			if retry != tc.retry {
				t.Errorf("%s, %s: retry %v, want %v", name, kind, retry, tc.retry)
			}
		}
		if tc.logged != "" && strings.Count(s.log.String(), tc.logged) != 2 {
			t.Errorf("%s: the cause is logged %d times for two calls", name, strings.Count(s.log.String(), tc.logged))
		}
	}
}

func TestAPanicEndsItsCallOnly(t *testing.T) {
	s := start(t)
	s.zones.answer = func(context.Context) error { panic("CAUSE-5") }
	_, err := s.client.GetZone(as(t, s.token, "x-request-id", "find-me"), get())
	e := apierror.FromStatus(err)
	if e == nil || e.Reason != vmhostv1.ErrorReason_INTERNAL || e.Metadata["request_id"] != "find-me" || strings.Contains(err.Error(), "CAUSE-5") {
		t.Errorf("got %v %v", err, e)
	}
	if log := s.log.String(); !strings.Contains(log, "CAUSE-5") || !strings.Contains(log, "find-me") {
		t.Errorf("the log does not have it: %s", log)
	}
	s.zones.answer = func(context.Context) error { return nil }
	if _, err := s.client.GetZone(as(t, s.token), get()); err != nil {
		t.Error(err)
	}
}

func TestOneLinePerCallSaysWhoAndWhat(t *testing.T) {
	s := start(t)
	if _, err := s.client.GetZone(as(t, s.token, "x-request-id", "abc"), get()); err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(s.log.String())
	for _, want := range []string{`"request_id":"abc"`, `"principal":"alice"`, `"method":"/vmhost.v1.ZoneService/GetZone"`, `"code":"OK"`, `"duration":`} {
		if strings.Count(line, want) != 1 {
			t.Errorf("%s does not have %s once", line, want)
		}
	}
	if strings.Contains(line, "\n") || strings.Contains(line, s.token) {
		t.Errorf("more than one line, or the token: %s", line)
	}
	if n := testutil.CollectAndCount(s.registry); n != 1 {
		t.Errorf("%d series for one method", n)
	}
}

func TestARequestIDThatCouldSpoilALogIsReplaced(t *testing.T) {
	s := start(t)
	var header metadata.MD
	if _, err := s.client.GetZone(as(t, s.token, "x-request-id", strings.Repeat("x", 100)), get(), grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("x-request-id"); len(got) != 1 || !obs.ValidRequestID(got[0]) {
		t.Errorf("got %v", got)
	}
}

func TestOnlyAGoodTokenGetsIn(t *testing.T) {
	s := start(t)
	expired := s.addToken(t, "bob", storev1.Role_ROLE_ADMIN, 1)
	unknown, _, _, err := token.New("eve", storev1.Role_ROLE_ADMIN, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, ctx := range map[string]context.Context{
		"none":              t.Context(),
		"empty":             as(t, ""),
		"another scheme":    metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic "+s.token),
		"without a scheme":  metadata.AppendToOutgoingContext(t.Context(), "authorization", s.token),
		"two of them":       as(t, s.token, "authorization", "Bearer "+s.token),
		"unknown":           as(t, unknown),
		"expired":           as(t, expired),
		"another's secret":  as(t, s.token[:17]+unknown[17:]),
		"a part":            as(t, s.token[:40]),
		"a path for an id":  as(t, "vmh_../../token_"+s.token[17:]),
		"in capitals":       as(t, strings.ToUpper(s.token)),
		"something else":    as(t, "x"),
		"with more":         as(t, s.token+"A"),
		"an id in capitals": as(t, "vmh_ABCDEFABCDEF_"+s.token[17:]),
	} {
		_, err := s.client.GetZone(ctx, get())
		if e := apierror.FromStatus(err); e == nil || e.Code != codes.Unauthenticated || e.Reason != vmhostv1.ErrorReason_UNAUTHENTICATED || e.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if strings.Contains(s.log.String(), s.token[17:]) {
		t.Error("a secret is in the log")
	}
	if _, err := s.client.GetZone(metadata.AppendToOutgoingContext(t.Context(), "authorization", "bearer "+s.token), get()); err != nil {
		t.Errorf("the scheme in small letters: %v", err)
	}
}

func TestARoleIsNeededAndSaid(t *testing.T) {
	s := start(t)
	_, err := s.client.CreateZone(as(t, s.token), &vmhostv1.CreateZoneRequest{})
	e := apierror.FromStatus(err)
	// Whether the request is right is nothing to somebody who may not make it.
	if e == nil || e.Reason != vmhostv1.ErrorReason_PERMISSION_DENIED || e.Metadata["required_role"] != "operator" || !strings.Contains(e.Message, "viewer") {
		t.Errorf("got %v", err)
	}
}

func TestAnInvalidRequestNamesEveryField(t *testing.T) {
	s := start(t)
	admin := s.addToken(t, "root", storev1.Role_ROLE_ADMIN, 0)
	_, err := s.client.CreateZone(as(t, admin), &vmhostv1.CreateZoneRequest{ZoneId: "A", RequestId: "x", Zone: &vmhostv1.Zone{Description: strings.Repeat("x", 2000)}})
	e := apierror.FromStatus(err)
	if e == nil || e.Code != codes.InvalidArgument || e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || len(e.Fields) != 3 {
		t.Fatalf("got %v %v", err, e)
	}
	for i, want := range []string{"zone_id", "zone.description", "request_id"} {
		if e.Fields[i].GetField() != want || e.Fields[i].GetDescription() == "" {
			t.Errorf("field %d is %v, want %s", i, e.Fields[i], want)
		}
	}
	w, err := s.watch.WatchEvents(as(t, s.token), &vmhostv1.WatchEventsRequest{ResumeToken: strings.Repeat("x", 100)})
	if err == nil {
		_, err = w.Recv()
	}
	if e := apierror.FromStatus(err); e == nil || e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || e.Fields[0].GetField() != "resume_token" {
		t.Errorf("a stream: %v", err)
	}
}

func TestAMethodNobodyImplementedIsUnsupported(t *testing.T) {
	s := start(t)
	_, err := s.client.ListZones(as(t, s.token), &vmhostv1.ListZonesRequest{})
	if e := apierror.FromStatus(err); e == nil || e.Code != codes.Unimplemented || e.Reason != vmhostv1.ErrorReason_UNSUPPORTED {
		t.Errorf("got %v", err)
	}
}

func TestTheCallersOwnEndIsNoFaultOfTheStore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := interceptor.Answer(ctx, context.Canceled); apierror.Reason(err) != vmhostv1.ErrorReason_CANCELLED {
		t.Errorf("got %v", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := interceptor.Answer(late, context.DeadlineExceeded); apierror.Reason(err) != vmhostv1.ErrorReason_DEADLINE {
		t.Errorf("got %v", err)
	}
	if err := interceptor.Answer(t.Context(), context.Canceled); apierror.Reason(err) != vmhostv1.ErrorReason_STORE_UNAVAILABLE {
		t.Errorf("got %v", err)
	}
}

package client_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// region answers after some failures and remembers what it was sent.
type region struct {
	vmhostv1.UnimplementedZoneServiceServer

	mu       sync.Mutex
	failures int
	calls    int
	tokens   []string
}

func (r *region) answer(ctx context.Context) (*vmhostv1.Zone, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	md, _ := metadata.FromIncomingContext(ctx)
	r.tokens = md.Get("authorization")
	if r.calls <= r.failures {
		return nil, apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "no store").WithHint("wait")
	}
	return &vmhostv1.Zone{Name: "zones/a"}, nil
}

func (r *region) GetZone(ctx context.Context, _ *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	return r.answer(ctx)
}

func (r *region) CreateZone(ctx context.Context, _ *vmhostv1.CreateZoneRequest) (*vmhostv1.Zone, error) {
	return r.answer(ctx)
}

// start serves on a loopback address with a certificate for it.
func start(t *testing.T, r *region) (endpoint string, ca *pki.Authority) {
	t.Helper()
	ca, err := pki.NewAuthority("d")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
	})))
	vmhostv1.RegisterZoneServiceServer(srv, r)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return ln.Addr().String(), ca
}

func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAPinOrAnAuthorityIsTrustedAndNothingElse(t *testing.T) {
	r := &region{}
	endpoint, ca := start(t, r)
	other, err := pki.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.CertDER()})
	otherPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.CertDER()})
	for _, tt := range []struct {
		name string
		o    client.Options
		ok   bool
	}{
		{"pin", client.Options{CASPKI: pki.SPKIHash(ca.Certificate())}, true},
		{"authority", client.Options{CAPEM: caPEM}, true},
		{"other pin", client.Options{CASPKI: pki.SPKIHash(other.Certificate())}, false},
		{"other authority", client.Options{CAPEM: otherPEM}, false},
		{"the system's", client.Options{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Endpoint, tt.o.Token = endpoint, "vmh_1_x"
			before := r.calls
			_, err := dial(t, tt.o).Zones.GetZone(t.Context(), &vmhostv1.GetZoneRequest{Name: "zones/a"})
			if (err == nil) != tt.ok {
				t.Errorf("GetZone = %v, want success %v", err, tt.ok)
			}
			if tt.ok && (len(r.tokens) != 1 || r.tokens[0] != "Bearer vmh_1_x") {
				t.Errorf("authorization = %q", r.tokens)
			}
			if !tt.ok && r.calls != before {
				t.Error("the call, with its token, reached a server that is not trusted")
			}
		})
	}
}

func TestReadsAreTriedAgainAndChangesAreNot(t *testing.T) {
	r := &region{failures: 2}
	endpoint, ca := start(t, r)
	c := dial(t, client.Options{Endpoint: endpoint, CASPKI: pki.SPKIHash(ca.Certificate())})
	if _, err := c.Zones.GetZone(t.Context(), &vmhostv1.GetZoneRequest{}); err != nil || r.calls != 3 {
		t.Errorf("GetZone = %v after %d calls, want success after 3", err, r.calls)
	}
	r.calls = 0
	_, err := c.Zones.CreateZone(t.Context(), &vmhostv1.CreateZoneRequest{})
	if e := apierror.FromStatus(err); r.calls != 1 || e.Reason != vmhostv1.ErrorReason_STORE_UNAVAILABLE || e.Hint != "wait" {
		t.Errorf("CreateZone = %v after %d calls, want the reason after 1", err, r.calls)
	}
}

func TestATokenIsNeverSentInTheClear(t *testing.T) {
	_, err := client.Dial(client.Options{
		Endpoint: "127.0.0.1:1", Token: "vmh_1_x",
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err == nil {
		t.Error("a connection without TLS was made for a token")
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, o := range map[string]client.Options{
		"no endpoint": {},
		"no PEM":      {Endpoint: "a:1", CAPEM: []byte("hello")},
		"both":        {Endpoint: "a:1", CAPEM: []byte("hello"), CASPKI: "x"},
	} {
		if _, err := client.Dial(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

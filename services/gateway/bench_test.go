package gateway_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/direct"
	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/gateway"
)

// BenchmarkGet compares the same call as JSON through a gateway and as gRPC, both
// over TLS, each over one connection.
func BenchmarkGet(b *testing.B) {
	ca, err := pki.NewAuthority("bench")
	if err != nil {
		b.Fatal(err)
	}
	cert, err := ca.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := newRegion().server(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})))
	go func() { _ = srv.Serve(ln) }()
	defer srv.Stop()
	pin := pki.SPKIHash(ca.Certificate())
	c, err := client.Dial(client.Options{Endpoint: ln.Addr().String(), CASPKI: pin})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()

	b.Run("grpc", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Zones.GetZone(b.Context(), &vmhostv1.GetZoneRequest{Name: "zones/a"}); err != nil {
				b.Fatal(err)
			}
		}
	})

	memory := bufconn.Listen(1 << 20)
	r := newRegion()
	inMemory := r.server()
	go func() { _ = inMemory.Serve(memory) }()
	defer inMemory.Stop()
	conn, err := grpc.NewClient("passthrough:///region", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return memory.DialContext(ctx) }))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	region := gateway.RegionConfig{Endpoints: []string{ln.Addr().String()}, CASPKI: pin}
	b.Run("json", func(b *testing.B) { benchJSON(b, cert, pin, region, nil) })
	b.Run("json-in-memory", func(b *testing.B) { benchJSON(b, cert, pin, region, conn) })
	same := direct.New(conn, r.intercept)
	vmhostv1.RegisterZoneServiceServer(same, r)
	b.Run("json-same-process", func(b *testing.B) { benchJSON(b, cert, pin, region, same) })
}

func benchJSON(b *testing.B, cert tls.Certificate, pin string, region gateway.RegionConfig, conn grpc.ClientConnInterface) {
	cfg := gateway.Default()
	cfg.Listen, cfg.Ops.Listen, cfg.Region = "127.0.0.1:0", "", region
	g, err := gateway.New(b.Context(), cfg, gateway.Deps{
		Conn:        conn,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Log:         slog.New(slog.NewJSONHandler(io.Discard, nil)), //nolint:sloglint // what logging costs belongs to the figure
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	pinned := pki.PinnedConfig(pin)
	pinned.ServerName = "127.0.0.1"
	transport := &http.Transport{TLSClientConfig: pinned}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport}
	for b.Loop() {
		resp, err := hc.Get("https://" + g.Addr().String() + "/v1/zones/a")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status, err)
		}
		resp.Body.Close()
	}
}

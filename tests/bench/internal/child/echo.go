package child

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/region"
)

// The floor of rack sessions: streams of gRPC over TLS, and nothing else.
const (
	// RoleEcho is a server that sends back what it is sent.
	RoleEcho = "echo"
	// RoleEchoClients are its clients, each with a connection and a stream.
	RoleEchoClients = "echoclients"
)

// EchoUp is where the server answers, and its authority.
type EchoUp struct{ Address, CA string }

// EchoClientsConfig says how many clients there are.
type EchoClientsConfig struct {
	Address, CA string
	Clients     int
}

const (
	heartbeatEvery = 5 * time.Second
	heartbeatBytes = 256
)

func echoService() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "bench.Echo", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Echo", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				m := &wrapperspb.BytesValue{}
				if err := stream.RecvMsg(m); err != nil {
					return err
				}
				if err := stream.SendMsg(m); err != nil {
					return err
				}
			}
		},
	}}}
}

func runEcho(ctx context.Context, _ []byte, _ *http.ServeMux) (any, func(), error) {
	region.TuneMemory(os.Getenv) // as the region does
	authority, err := pki.NewAuthority("bench")
	if err != nil {
		return nil, nil, fmt.Errorf("make an authority: %w", err)
	}
	cert, err := authority.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})))
	g.RegisterService(echoService(), nil)
	go func() { _ = g.Serve(listener) }() // until Stop
	return EchoUp{Address: listener.Addr().String(), CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.CertDER()}))}, g.Stop, nil
}

func runEchoClients(ctx context.Context, config []byte, _ *http.ServeMux) (any, func(), error) {
	var c EchoClientsConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	creds, err := trusting(c.CA)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	stop := func() { cancel(); group.Wait() }
	err = inParallel(c.Clients, func(int) error {
		conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(creds))
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		stream, err := conn.NewStream(ctx, &echoService().Streams[0], "/bench.Echo/Echo")
		if err != nil {
			return fmt.Errorf("open a stream: %w", err)
		}
		beat := func() error {
			m := &wrapperspb.BytesValue{Value: make([]byte, heartbeatBytes)}
			return errors.Join(stream.SendMsg(m), stream.RecvMsg(m))
		}
		if err := beat(); err != nil {
			return fmt.Errorf("send a sign of life: %w", err)
		}
		group.Go(func() {
			defer func() { _ = conn.Close() }()
			tick := time.NewTicker(heartbeatEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					if err := beat(); err != nil && !errors.Is(err, io.EOF) {
						return
					}
				case <-ctx.Done():
					return
				}
			}
		})
		return nil
	})
	if err != nil {
		stop()
		return nil, nil, err
	}
	return struct{}{}, stop, nil
}

func trusting(ca string) (credentials.TransportCredentials, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("the authority is no certificate")
	}
	return credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}), nil
}

// inParallel does something n times, a few at a time.
func inParallel(n int, do func(i int) error) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		fault error
	)
	slots := make(chan struct{}, joinAtOnce)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				fault = errors.Join(fault, err)
			}
		})
	}
	group.Wait()
	return fault
}

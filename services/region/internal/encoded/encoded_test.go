package encoded

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestAMessageThatIsEncodedIsReadLikeAnyOther(t *testing.T) {
	want := &vmhostv1.WatchEventsResponse{Event: &vmhostv1.Event{Id: "1", Attributes: map[string]string{"a": "b"}}, ResumeToken: "x"}
	m := New(want)
	c := Codec()
	first, err := c.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Clone(first.Materialize())
	first.Free() // as gRPC does when it was sent
	again, err := c.Marshal(m)
	if err != nil || !bytes.Equal(again.Materialize(), sent) {
		t.Errorf("the second stream is sent something else: %v", err)
	}
	got := &vmhostv1.WatchEventsResponse{}
	if err := c.Unmarshal(again, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if a, b := &again[0].ReadOnlyData()[0], &first[0].ReadOnlyData()[0]; a != b {
		t.Error("it was encoded twice")
	}
}

func TestOtherMessagesAreGRPCsOwn(t *testing.T) {
	c := Codec()
	want := &vmhostv1.Event{Id: "1"}
	data, err := c.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := &vmhostv1.Event{}
	if err := c.Unmarshal(data, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := c.Marshal("no message"); err == nil {
		t.Error("text was encoded")
	}
	if c.Name() != "proto" {
		t.Errorf("its name is %q", c.Name())
	}
}

// zones answers with bytes where they are wanted.
type zones struct {
	vmhostv1.UnimplementedZoneServiceServer
	asked chan bool
}

func (z zones) ListZones(ctx context.Context, _ *vmhostv1.ListZonesRequest) (*vmhostv1.ListZonesResponse, error) {
	z.asked <- Wanted(ctx)
	if Wanted(ctx) {
		Answer(ctx, Join([]byte("\x0a\x03"), []byte("\x0a\x01a"), []byte("\x12\x01b")))
	}
	return &vmhostv1.ListZonesResponse{}, nil
}

func (z zones) GetZone(ctx context.Context, _ *vmhostv1.GetZoneRequest) (*vmhostv1.Zone, error) {
	Answer(ctx, Join([]byte("\x0a\x01a")))
	return nil, status.Error(codes.NotFound, "after all")
}

func (z zones) CreateZone(context.Context, *vmhostv1.CreateZoneRequest) (*vmhostv1.Zone, error) {
	return &vmhostv1.Zone{Name: "zones/c"}, nil
}

// connect serves over a connection in memory.
func connect(t *testing.T, z zones, o ...grpc.ServerOption) vmhostv1.ZoneServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(o...)
	vmhostv1.RegisterZoneServiceServer(server, z)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///z", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); server.Stop(); serving.Wait() })
	return vmhostv1.NewZoneServiceClient(conn)
}

func TestAHandlerAnswersWithBytesWhereTheyAreSent(t *testing.T) {
	z := zones{asked: make(chan bool, 1)}
	c := connect(t, z, Options()...)
	for _, o := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		list, err := c.ListZones(t.Context(), &vmhostv1.ListZonesRequest{}, o...)
		want := &vmhostv1.ListZonesResponse{Zones: []*vmhostv1.Zone{{Name: "a"}}, NextPageToken: "b"}
		if err != nil || !proto.Equal(list, want) || !<-z.asked {
			t.Errorf("got %v, %v, want %v", list, err, want)
		}
	}
	if _, err := c.GetZone(t.Context(), &vmhostv1.GetZoneRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("an error was answered with %v", err)
	}
	if zone, err := c.CreateZone(t.Context(), &vmhostv1.CreateZoneRequest{}); err != nil || zone.GetName() != "zones/c" {
		t.Errorf("a message was answered with %v, %v", zone, err)
	}
}

func TestNobodyWantsBytesOfACallThatIsNotSent(t *testing.T) {
	z := zones{asked: make(chan bool, 1)}
	list, err := connect(t, z).ListZones(t.Context(), &vmhostv1.ListZonesRequest{})
	if err != nil || !proto.Equal(list, &vmhostv1.ListZonesResponse{}) || <-z.asked {
		t.Errorf("got %v, %v", list, err)
	}
}

func TestAMessageInPartsIsItsParts(t *testing.T) {
	for want, parts := range map[string][][]byte{"": nil, "a": {[]byte("a")}, "abc": {[]byte("ab"), nil, []byte("c")}} {
		if got, err := Join(parts...).Bytes(); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", want, got, err)
		}
	}
	broken := errors.New("broken")
	m := Make(func() ([]byte, error) { return nil, broken })
	if _, err := m.Bytes(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := Codec().Marshal(m); !errors.Is(err, broken) {
		t.Errorf("sent: %v", err)
	}
}

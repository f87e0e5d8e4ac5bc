package child

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // gRPC's own codec
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// RoleWatchers are clients that watch the fleet, each with a connection of its
// own, as pkg/client connects and asks. They read what they are sent and do not
// look into it: what clients do with events is theirs.
const RoleWatchers = "watchers"

// WatchersConfig says how many there are, and of which region.
type WatchersConfig struct {
	Region  RegionUp
	Clients int
}

// Watched is what the watchers got so far, and how many of them ended.
type Watched struct{ Messages, Bytes, Ended int64 }

// blind is gRPC's own codec, which does not decode, nor copy what it would decode.
type blind struct{ encoding.CodecV2 }

func (blind) Unmarshal(data mem.BufferSlice, v any) error {
	n, ok := v.(*int)
	if !ok {
		return fmt.Errorf("%T is no counter", v)
	}
	*n = data.Len()
	return nil
}

func runWatchers(ctx context.Context, config []byte, questions *http.ServeMux) (any, func(), error) {
	var c WatchersConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	opts, err := client.DialOptions([]byte(c.Region.CA), "")
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	opts = append(opts, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(blind{encoding.GetCodecV2("proto")})))
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.Region.Token))
	var (
		group                  sync.WaitGroup
		messages, bytes, ended atomic.Int64
	)
	stop := func() { cancel(); group.Wait() }
	err = inParallel(c.Clients, func(int) error {
		conn, err := grpc.NewClient(c.Region.API, opts...)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, vmhostv1.EventService_WatchEvents_FullMethodName)
		if err == nil {
			err = stream.SendMsg(&vmhostv1.WatchEventsRequest{MaxEvents: client.MaxEvents})
		}
		if err == nil {
			err = stream.CloseSend()
		}
		var n int
		if err == nil {
			err = stream.RecvMsg(&n) // the sign of life that comes first
		}
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		group.Go(func() {
			defer func() { _ = conn.Close() }()
			defer ended.Add(1)
			for stream.RecvMsg(&n) == nil {
				messages.Add(1)
				bytes.Add(int64(n))
			}
		})
		return nil
	})
	if err != nil {
		stop()
		return nil, nil, err
	}
	questions.HandleFunc("/watched", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, Watched{Messages: messages.Load(), Bytes: bytes.Load(), Ended: ended.Load()}, nil)
	})
	return struct{}{}, stop, nil
}

package store

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// What a watch brings is read by hand: of each event the decoder of etcd's client
// makes four objects, and copies the whole twice.

// watcher is what the store watches by: etcd's, over a connection of its own codec
// where there is a connection.
func watcher(client *clientv3.Client, w *wire) clientv3.Watcher {
	if w == nil {
		return client.Watcher
	}
	return clientv3.NewWatchFromWatchClient(watchClient{etcdserverpb.NewWatchClient(w.conn)}, client)
}

type watchClient struct{ etcdserverpb.WatchClient }

// Watch opens the stream.
func (c watchClient) Watch(ctx context.Context, opts ...grpc.CallOption) (grpc.BidiStreamingClient[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse], error) {
	return c.WatchClient.Watch(ctx, append(opts, grpc.ForceCodecV2(watchCodec{encoding.GetCodecV2(proto.Name)}))...)
}

// watchCodec reads answers of a watch, and leaves the rest to gRPC's codec.
type watchCodec struct{ encoding.CodecV2 }

// Unmarshal reads an answer. Keys and values are parts of one copy of it.
func (c watchCodec) Unmarshal(data mem.BufferSlice, v any) error {
	out, ok := v.(*etcdserverpb.WatchResponse)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := readWatch(out, data.Materialize()); err != nil {
		return fmt.Errorf("decode what the watch brings: %w", err)
	}
	return nil
}

// Numbers of etcd's fields, in WatchResponse, Event and KeyValue.
const (
	watchHeader, watchID, watchCreated, watchCanceled, watchCompact, watchReason, watchFragment, watchEvents protowire.Number = 1, 2, 3, 4, 5, 6, 7, 11

	eventType, eventKV, eventPrevious                       protowire.Number = 1, 2, 3
	kvKey, kvCreate, kvMod, kvVersion, kvValue, kvLease     protowire.Number = 1, 2, 3, 4, 5, 6
	headerCluster, headerMember, headerRevision, headerTerm protowire.Number = 1, 2, 3, 4
)

// brought are the events of one answer, made together.
type brought struct {
	event mvccpb.Event
	kv    mvccpb.KeyValue
}

// readWatch reads an answer; what it holds are parts of data.
func readWatch(out *etcdserverpb.WatchResponse, data []byte) error {
	count := 0
	if err := fields(data, func(number protowire.Number, _ uint64, _ []byte) bool {
		if number == watchEvents {
			count++
		}
		return true
	}); err != nil {
		return err
	}
	room := make([]brought, count)
	if count > 0 {
		out.Events = make([]*mvccpb.Event, 0, count)
	}
	return fields(data, func(number protowire.Number, n uint64, b []byte) bool {
		switch number {
		case watchHeader:
			out.Header = &etcdserverpb.ResponseHeader{}
			return readHeader(out.Header, b) == nil
		case watchID:
			out.WatchId = int64(n)
		case watchCreated:
			out.Created = n != 0
		case watchCanceled:
			out.Canceled = n != 0
		case watchCompact:
			out.CompactRevision = int64(n)
		case watchReason:
			out.CancelReason = string(b)
		case watchFragment:
			out.Fragment = n != 0
		case watchEvents:
			i := len(out.Events)
			out.Events = append(out.Events, &room[i].event)
			return readEvent(&room[i], b) == nil
		default:
		}
		return true
	})
}

func readHeader(out *etcdserverpb.ResponseHeader, data []byte) error {
	return fields(data, func(number protowire.Number, n uint64, _ []byte) bool {
		switch number {
		case headerCluster:
			out.ClusterId = n
		case headerMember:
			out.MemberId = n
		case headerRevision:
			out.Revision = int64(n)
		case headerTerm:
			out.RaftTerm = n
		default:
		}
		return true
	})
}

func readEvent(out *brought, data []byte) error {
	return fields(data, func(number protowire.Number, n uint64, b []byte) bool {
		switch number {
		case eventType:
			out.event.Type = mvccpb.Event_EventType(int32(n))
		case eventKV:
			out.event.Kv = &out.kv
			return readKV(&out.kv, b) == nil
		case eventPrevious:
			out.event.PrevKv = &mvccpb.KeyValue{}
			return readKV(out.event.PrevKv, b) == nil
		default:
		}
		return true
	})
}

func readKV(out *mvccpb.KeyValue, data []byte) error {
	return fields(data, func(number protowire.Number, n uint64, b []byte) bool {
		switch number {
		case kvKey:
			out.Key = b[:len(b):len(b)]
		case kvCreate:
			out.CreateRevision = int64(n)
		case kvMod:
			out.ModRevision = int64(n)
		case kvVersion:
			out.Version = int64(n)
		case kvValue:
			out.Value = b[:len(b):len(b)]
		case kvLease:
			out.Lease = int64(n)
		default:
		}
		return true
	})
}

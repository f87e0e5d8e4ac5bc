package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Transactions are written in etcd's wire form by hand: its client makes four
// messages of each key, copies every compare twice, and decodes an answer for each
// key that nobody looks at. That was a tenth of what a compose costs.

// wire sends transactions over the connection of a client.
type wire struct{ conn *grpc.ClientConn }

// wireOf is nil for a client that has no connection, as that of an etcd in the
// same process, or whose requests somebody changes on their way.
func wireOf(client *clientv3.Client) *wire {
	conn := client.ActiveConnection()
	if conn == nil || reflect.TypeOf(client.KV) != reflect.TypeOf(clientv3.NewKVFromKVClient(nil, nil)) {
		return nil
	}
	return &wire{conn}
}

const txnMethod = "/etcdserverpb.KV/Txn"

// answer is what matters of the answer to a transaction.
type answer struct {
	revision  int64
	succeeded bool
}

// txn does a transaction.
func (w *wire) txn(ctx context.Context, t *Txn) (answer, error) {
	var out answer
	err := w.conn.Invoke(ctx, txnMethod, t, &out, grpc.StaticMethod(), grpc.ForceCodecV2(txnCodec{}))
	return out, clientv3.ContextError(ctx, err)
}

// txnCodec encodes a Txn and decodes an answer.
type txnCodec struct{}

func (txnCodec) Name() string { return "proto" }

func (txnCodec) Marshal(v any) (mem.BufferSlice, error) {
	t, ok := v.(*Txn)
	if !ok {
		return nil, fmt.Errorf("encode a transaction: it is a %T", v)
	}
	pool := mem.DefaultBufferPool()
	size := t.size()
	buf := pool.Get(size)
	*buf = t.append((*buf)[:0])
	if len(*buf) != size {
		return nil, fmt.Errorf("encode a transaction: %d bytes, not %d", len(*buf), size)
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (txnCodec) Unmarshal(data mem.BufferSlice, v any) error {
	out, ok := v.(*answer)
	if !ok {
		return fmt.Errorf("decode the answer to a transaction: into a %T", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return out.read(buf.ReadOnlyData())
}

var errCutOff = errors.New("it is cut off")

// fields calls fn for each field of a message, with its number, or with its bytes.
func fields(data []byte, fn func(number protowire.Number, n uint64, b []byte) bool) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errCutOff
		}
		data = data[n:]
		good := true
		switch kind {
		case protowire.VarintType:
			var value uint64
			if value, n = protowire.ConsumeVarint(data); n >= 0 {
				good = fn(number, value, nil)
			}
		case protowire.BytesType:
			var value []byte
			if value, n = protowire.ConsumeBytes(data); n >= 0 {
				good = fn(number, 0, value)
			}
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 || !good {
			return errCutOff
		}
		data = data[n:]
	}
	return nil
}

// Numbers of etcd's fields, in TxnResponse.
const answerHeader, answerSucceeded protowire.Number = 1, 2

func (a *answer) read(data []byte) error {
	err := fields(data, func(number protowire.Number, n uint64, b []byte) bool {
		switch number {
		case answerHeader:
			return fields(b, func(number protowire.Number, n uint64, _ []byte) bool {
				if number == headerRevision {
					a.revision = int64(n)
				}
				return true
			}) == nil
		case answerSucceeded:
			a.succeeded = n != 0
		default:
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("decode the answer to a transaction: %w", err)
	}
	return nil
}

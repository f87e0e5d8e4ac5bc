package store

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

// sent is a KV service that keeps what it is sent.
type sent struct {
	etcdserverpb.KVClient
	txn *etcdserverpb.TxnRequest
}

func (s *sent) Txn(_ context.Context, in *etcdserverpb.TxnRequest, _ ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	s.txn = in
	return &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{Revision: 7}, Succeeded: true}, nil
}

func drawTxn(t *rapid.T) *Txn {
	tx := NewTxn()
	key := rapid.StringOfN(rapid.RuneFrom([]rune("abz/\x00ÿ")), 1, 200, -1)
	revision := rapid.SampledFrom([]int64{0, 1, 127, 128, 1 << 40})
	for range rapid.IntRange(0, 20).Draw(t, "compares") {
		switch rapid.IntRange(0, 5).Draw(t, "compare") {
		case 0:
			tx.IfRevision(key.Draw(t, "key"), revision.Draw(t, "revision"))
		case 1:
			tx.IfAbsent(key.Draw(t, "key"))
		case 2:
			tx.IfPresent(key.Draw(t, "key"))
		case 3:
			tx.IfNone(key.Draw(t, "key"))
		case 4:
			tx.IfUnchanged(key.Draw(t, "key"), key.Draw(t, "last"), revision.Draw(t, "revision"))
		case 5:
			tx.IfPrefixUnchanged(key.Draw(t, "key"), revision.Draw(t, "revision"))
		}
	}
	for range rapid.SampledFrom([]int{0, 1, 5, maxTxnOps, maxTxnOps + 1, 3 * maxTxnOps}).Draw(t, "writes") {
		tx.WithLease(clientv3.LeaseID(rapid.SampledFrom([]int64{0, 0, 1, 1 << 60}).Draw(t, "lease")))
		switch rapid.IntRange(0, 9).Draw(t, "write") {
		case 0:
			tx.Delete(key.Draw(t, "key"))
		case 1:
			tx.DeletePrefix(key.Draw(t, "key"))
		default:
			tx.ops = append(tx.ops, write{key: key.Draw(t, "key"), value: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"), lease: tx.lease})
		}
	}
	return tx
}

func TestATransactionByHandIsThatOfEtcdsClient(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tx, by := drawTxn(t), &sent{}
		client := clientv3.NewCtxClient(context.Background())
		client.KV = clientv3.NewKVFromKVClient(by, client)
		if _, err := tx.byClient(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		data, err := txnCodec{}.Marshal(tx)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Free()
		got := &etcdserverpb.TxnRequest{}
		if err := proto.Unmarshal(data.Materialize(), got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(by.txn, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestAnAnswerByHandIsThatOfTheDecoder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		revision, yes := rapid.Int64Min(0).Draw(t, "revision"), rapid.Bool().Draw(t, "succeeded")
		in := &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{ClusterId: 1 << 63, MemberId: 3, Revision: revision, RaftTerm: 9}, Succeeded: yes}
		for range rapid.IntRange(0, 3).Draw(t, "writes") {
			in.Responses = append(in.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{
				ResponsePut: &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision + 1}},
			}})
		}
		data, err := proto.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var got answer
		if err := got.read(data); err != nil || got.revision != revision || got.succeeded != yes {
			t.Fatalf("got %+v, %v, want %d %v", got, err, revision, yes)
		}
		if len(data) > 0 {
			cut := data[:rapid.IntRange(0, len(data)-1).Draw(t, "cut off")]
			if valid := proto.Unmarshal(cut, &etcdserverpb.TxnResponse{}) == nil; !valid && got.read(cut) == nil && len(in.GetResponses()) == 0 {
				t.Fatalf("% x is read", cut)
			}
		}
	})
}

func TestWhatAWatchBringsIsReadAsByTheDecoder(t *testing.T) {
	kv := rapid.Custom(func(t *rapid.T) *mvccpb.KeyValue {
		n := rapid.SampledFrom([]int64{0, 1, 300, 1 << 50})
		return &mvccpb.KeyValue{
			Key: []byte(rapid.String().Draw(t, "key")), Value: rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "value"),
			CreateRevision: n.Draw(t, "create"), ModRevision: n.Draw(t, "mod"), Version: n.Draw(t, "version"), Lease: n.Draw(t, "lease"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		in := &etcdserverpb.WatchResponse{
			Header:  &etcdserverpb.ResponseHeader{ClusterId: 1 << 63, MemberId: 3, Revision: rapid.Int64Min(0).Draw(t, "revision"), RaftTerm: 9},
			WatchId: rapid.Int64Range(-1, 300).Draw(t, "id"), Created: rapid.Bool().Draw(t, "created"), Canceled: rapid.Bool().Draw(t, "cancelled"),
			CompactRevision: rapid.Int64Min(0).Draw(t, "compact"), CancelReason: rapid.String().Draw(t, "reason"), Fragment: rapid.Bool().Draw(t, "fragment"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "events") {
			e := &mvccpb.Event{Type: mvccpb.Event_EventType(rapid.Int32Range(0, 1).Draw(t, "type")), Kv: kv.Draw(t, "kv")}
			if rapid.Bool().Draw(t, "with the one before") {
				e.PrevKv = kv.Draw(t, "previous")
			}
			in.Events = append(in.Events, e)
		}
		data, err := proto.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		got, want := &etcdserverpb.WatchResponse{}, &etcdserverpb.WatchResponse{}
		if err := proto.Unmarshal(data, want); err != nil {
			t.Fatal(err)
		}
		if err := readWatch(got, data); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

package e2e

import (
	"path/filepath"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// storeLog is what etcd has written ahead: whatever was asked of it to be written, in
// order. The embedded one serves nobody who could be asked.
func (s *standalone) storeLog() []*etcdserverpb.InternalRaftRequest {
	s.t.Helper()
	w, err := wal.OpenForRead(zap.NewNop(), filepath.Join(s.dir, "data", "etcd", "member", "wal"), &walpb.Snapshot{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	_, _, entries, err := w.ReadAll()
	if err != nil {
		s.t.Fatal(err)
	}
	var out []*etcdserverpb.InternalRaftRequest
	for _, e := range entries {
		if len(e.GetData()) == 0 || e.GetType() != raftpb.EntryNormal { // a term that begins, members
			continue
		}
		r := &etcdserverpb.InternalRaftRequest{}
		if err := proto.Unmarshal(e.GetData(), r); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// puts are those of a transaction that succeeded.
func puts(r *etcdserverpb.InternalRaftRequest) []*etcdserverpb.PutRequest {
	var out []*etcdserverpb.PutRequest
	for _, op := range r.GetTxn().GetSuccess() {
		if p := op.GetRequestPut(); p != nil {
			out = append(out, p)
		}
	}
	return out
}

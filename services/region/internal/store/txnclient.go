package store

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// byClient does a transaction by etcd's client.
func (t *Txn) byClient(ctx context.Context, client *clientv3.Client) (answer, error) {
	resp, err := client.Txn(ctx).If(t.cmps()...).Then(t.writes()...).Commit()
	if err != nil {
		return answer{}, err
	}
	return answer{resp.Header.GetRevision(), resp.Succeeded}, nil
}

// cmps are the compares in the form of etcd's client.
func (t *Txn) cmps() []clientv3.Cmp {
	signs := map[result]string{equal: "=", greater: ">", less: "<"}
	out := make([]clientv3.Cmp, len(t.compares))
	for i, c := range t.compares {
		cmp := clientv3.ModRevision(c.key)
		if c.target == createRevision {
			cmp = clientv3.CreateRevision(c.key)
		}
		out[i] = clientv3.Compare(cmp, signs[c.result], c.number)
		if c.end != "" {
			out[i] = out[i].WithRange(c.end)
		}
	}
	return out
}

// writes are the writes in the form of etcd's client.
func (t *Txn) writes() []clientv3.Op {
	nested := t.nested()
	if nested == nil {
		return clientOps(t.ops)
	}
	out := make([]clientv3.Op, len(nested))
	for i, part := range nested {
		out[i] = clientv3.OpTxn(nil, clientOps(part), nil)
	}
	return out
}

func clientOps(writes []write) []clientv3.Op {
	out := make([]clientv3.Op, len(writes))
	for i, w := range writes {
		switch {
		case w.delete && w.end != "":
			out[i] = clientv3.OpDelete(w.key, clientv3.WithRange(w.end))
		case w.delete:
			out[i] = clientv3.OpDelete(w.key)
		default:
			out[i] = clientv3.OpPut("", "", clientv3.WithLease(w.lease))
			out[i].WithKeyBytes([]byte(w.key))
			out[i].WithValueBytes(w.value) // a string would be copied
		}
	}
	return out
}

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// ErrConflict says that a compare of the transaction did not hold; nothing was
// written.
var ErrConflict = errors.New("the state changed meanwhile")

// requestTimeout bounds one request to etcd when the caller's context does not.
const requestTimeout = 10 * time.Second

// maxTxnOps is how many writes, and how many compares, etcd takes in a transaction
// or a nested one (its --max-txn-ops), those around a nested one counted in.
const maxTxnOps = 128

// Limits of a transaction of ours: compares stand at the top, and writes beyond
// etcd's number are nested, a few in each, which leaves room for that many
// compares only.
const (
	MaxCompares = 112
	MaxWrites   = MaxCompares * nestedWrites

	// With at most FewCompares there is room for ManyWrites.
	FewCompares = maxTxnOps / 2
	ManyWrites  = FewCompares * FewCompares

	nestedWrites = maxTxnOps - MaxCompares

	// MaxBytes is less than the 1.5 MiB that etcd takes in one request, which has
	// compares as well; writeOverhead is the envelope of a write.
	MaxBytes      = 1_520_000
	writeOverhead = 24
)

// Txn collects compares and writes that are done together or not at all.
type Txn struct {
	compares []condition
	ops      []write
	lease    clientv3.LeaseID
	given    []gift
	err      error
}

// NewTxn makes an empty transaction.
func NewTxn() *Txn { return &Txn{} }

// Grow makes room for so many more writes.
func (t *Txn) Grow(writes int) {
	t.ops, t.given = slices.Grow(t.ops, writes), slices.Grow(t.given, writes)
}

// IfRevision demands that the key's mod revision is this; 0 demands that the key
// is absent.
func (t *Txn) IfRevision(key string, revision int64) {
	t.compares = append(t.compares, condition{key: key, target: modRevision, number: revision})
}

// IfAbsent demands that there is no such key.
func (t *Txn) IfAbsent(key string) { t.IfRevision(key, 0) }

// IfPresent demands that there is such a key.
func (t *Txn) IfPresent(key string) {
	t.compares = append(t.compares, condition{key: key, target: createRevision, result: greater})
}

// IfNone demands that there is no key with the prefix.
func (t *Txn) IfNone(prefix string) {
	t.compares = append(t.compares, condition{key: prefix, end: clientv3.GetPrefixRangeEnd(prefix), target: createRevision})
}

// IfUnchanged demands that no key of first up to last, both included, was written
// after the revision. A key that was deleted meanwhile is not noticed.
func (t *Txn) IfUnchanged(first, last string, revision int64) {
	t.compares = append(t.compares, condition{key: first, end: last + "\x00", target: modRevision, result: less, number: revision + 1})
}

// IfPrefixUnchanged is IfUnchanged of all keys with the prefix.
func (t *Txn) IfPrefixUnchanged(prefix string, revision int64) {
	t.compares = append(t.compares, condition{key: prefix, end: clientv3.GetPrefixRangeEnd(prefix), target: modRevision, result: less, number: revision + 1})
}

func encode(value proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(value)
}

// WithLease puts what is put after it under the lease.
func (t *Txn) WithLease(id clientv3.LeaseID) { t.lease = id }

// Put writes a record.
func Put[T proto.Message](t *Txn, f Family[T], value T, parts ...string) {
	t.put(f.Key(parts...), value)
}

// Give is Put of a value that nobody changes from now on: subscribers of this
// process are told of that very message, instead of one decoded from etcd's
// answer.
func Give[T proto.Message](t *Txn, f Family[T], value T, parts ...string) {
	key := f.Key(parts...)
	t.given = append(t.given, gift{key: key, data: t.put(key, value), value: value})
}

func (t *Txn) put(key string, value proto.Message) (data []byte) {
	data, err := encode(value)
	if err != nil {
		t.err = errors.Join(t.err, fmt.Errorf("encode %s: %w", key, err))
		return nil
	}
	t.ops = append(t.ops, write{key: key, value: data, lease: t.lease})
	return data
}

// Delete removes a key; one that is absent is no fault.
func (t *Txn) Delete(key string) { t.ops = append(t.ops, write{key: key, delete: true}) }

// DeletePrefix removes all keys with the prefix.
func (t *Txn) DeletePrefix(prefix string) {
	t.ops = append(t.ops, write{key: prefix, end: clientv3.GetPrefixRangeEnd(prefix), delete: true})
}

// Writes is how many writes there are; MaxWrites can be committed.
func (t *Txn) Writes() int { return len(t.ops) }

// Bytes is about how large the writes are; MaxBytes can be committed.
func (t *Txn) Bytes() int {
	n := 0
	for _, op := range t.ops {
		n += len(op.key) + len(op.value) + writeOverhead
	}
	return n
}

// Compares is how many compares there are; MaxCompares can be committed.
func (t *Txn) Compares() int { return len(t.compares) }

// nested are the writes as nested transactions; nil when there is no need for
// that.
func (t *Txn) nested() [][]write {
	if len(t.ops) <= maxTxnOps {
		return nil
	}
	// A level leaves to the next what it does not use itself: with few compares the
	// most fit when half are nested transactions, each of half.
	size := nestedWrites
	if len(t.compares) <= maxTxnOps/2 {
		size = maxTxnOps / 2
	}
	return slices.Collect(slices.Chunk(t.ops, size))
}

// AddEvent records an event together with what it tells of. It fills id and
// time.
func AddEvent(t *Txn, e *vmhostv1.Event) {
	id, err := uuid.NewV7()
	if err != nil {
		t.err = errors.Join(t.err, fmt.Errorf("make an event id: %w", err))
		return
	}
	e.Id, e.Time = id.String(), timestamppb.Now()
	lease := t.lease
	t.lease = 0 // an event outlives what it tells of
	Put(t, Events, &storev1.StoredEvent{Resource: e}, e.GetId())
	t.lease = lease
}

// Commit does the transaction and answers with its revision, once this process's
// copy has it. ErrConflict when a compare did not hold. Any other error means
// that it is not known whether it was done.
func (s *Store) Commit(ctx context.Context, t *Txn) (int64, error) {
	revision, err := s.Submit(ctx, t)
	if err != nil {
		return 0, err
	}
	return revision, s.Wait(ctx, revision)
}

// Submit is Commit without the wait for this process's copy: for whoever keeps
// track of what he wrote himself. After ErrConflict the copy has what won.
func (s *Store) Submit(ctx context.Context, t *Txn) (revision int64, err error) {
	if t.err != nil {
		return 0, t.err
	}
	most := MaxWrites
	if t.Compares() <= FewCompares {
		most = ManyWrites
	}
	if t.Writes() > most || t.Compares() > MaxCompares {
		return 0, fmt.Errorf("transaction of %d writes and %d compares is over the limits of %d and %d", t.Writes(), t.Compares(), most, MaxCompares)
	}
	rctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s.gifts.expect(t.given)
	defer func() {
		if revision == 0 || s.current.Load().Revision >= revision {
			s.gifts.forget(t.given) // what is still there does not come, or came with a list
		}
	}()
	var done answer
	if s.wire != nil {
		done, err = s.wire.txn(rctx, t)
	} else {
		done, err = t.byClient(rctx, s.client)
	}
	if err != nil {
		return 0, fmt.Errorf("commit to the store: %w", err)
	}
	if done.succeeded {
		return done.revision, nil
	}
	// Whoever decides again must see what won.
	if err := s.Wait(ctx, done.revision); err != nil {
		return 0, err
	}
	return 0, ErrConflict
}

// Package request makes repeating a call safe (promise P2): what a request_id was
// used for is recorded in the same transaction as what it did.
//
// It only reads views and adds to transactions; it keeps no state.
package request

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// ID is one use of a request_id by one principal for one request. The zero ID,
// and one of a request without request_id, finds and records nothing.
type ID struct {
	principal, id string
	hash          []byte
}

// New makes the ID of a request; method tells requests of the same message apart.
func New(principal, method string, req proto.Message) (ID, error) {
	field := req.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if field == nil || field.Kind() != protoreflect.StringKind {
		return ID{}, nil
	}
	id := req.ProtoReflect().Get(field).String()
	if id == "" {
		return ID{}, nil
	}
	bare := proto.Clone(req)
	bare.ProtoReflect().Clear(field)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(bare)
	if err != nil {
		return ID{}, fmt.Errorf("hash the request: %w", err)
	}
	sum := sha256.New()
	sum.Write([]byte(method))
	sum.Write([]byte{0})
	sum.Write(data)
	return ID{principal: principal, id: id, hash: sum.Sum(nil)}, nil
}

// IsZero says whether there is no request_id.
func (i ID) IsZero() bool { return i.id == "" }

// RequestID is the request_id itself.
func (i ID) RequestID() string { return i.id }

// Key is the key of the record, to tell equal ids apart within a process.
func (i ID) Key() string { return store.Requests.Key(store.EscapeID(i.principal), i.id) }

// Lookup is what the id was used for before; nil when it was not. Used for
// another request it is refused with REQUEST_ID_REUSED.
func (i ID) Lookup(v *store.View) (*storev1.StoredRequest, error) {
	if i.IsZero() {
		return nil, nil //nolint:nilnil // no record and no failure is an answer
	}
	rec, ok := store.Requests.Get(v, store.EscapeID(i.principal), i.id)
	if !ok {
		return nil, nil //nolint:nilnil // no record and no failure is an answer
	}
	if !bytes.Equal(rec.Value.GetHash(), i.hash) {
		return nil, i.Reused()
	}
	return rec.Value, nil
}

// Same says whether two IDs are of the same request.
func (i ID) Same(j ID) bool { return i.Key() == j.Key() && bytes.Equal(i.hash, j.hash) }

// Reused is the refusal of an id that was used for another request.
func (i ID) Reused() error {
	return apierror.New(codes.InvalidArgument, vmhostv1.ErrorReason_REQUEST_ID_REUSED,
		"request_id %s was used before for another request", i.id).
		With("request_id", i.id).
		WithField("request_id", "was used before for another request").
		WithHint("send a new request_id, or the same request as before")
}

// Operation is the operation that the id made before; nil when the id is new.
// One that is gone already is answered with its name alone.
func (i ID) Operation(v *store.View) (*vmhostv1.Operation, error) {
	used, err := i.Lookup(v)
	if err != nil || used == nil {
		return nil, err
	}
	uid := strings.TrimPrefix(used.GetOperation(), "operations/")
	rec, ok := store.Operations.Get(v, uid)
	if !ok {
		return &vmhostv1.Operation{Name: used.GetOperation()}, nil
	}
	return rec.Value.GetResource(), nil
}

// RecordOperation adds to the transaction that the id made the operation,
// `operations/{operation}`, if nobody used the id meanwhile.
func (i ID) RecordOperation(tx *store.Txn, operation string) {
	i.record(tx, &storev1.StoredRequest{Operation: operation})
}

// RecordResponse adds to the transaction what the call answered.
func (i ID) RecordResponse(tx *store.Txn, response proto.Message) error {
	packed, err := anypb.New(response)
	if err != nil {
		return fmt.Errorf("record the answer: %w", err)
	}
	i.record(tx, &storev1.StoredRequest{Response: packed})
	return nil
}

func (i ID) record(tx *store.Txn, r *storev1.StoredRequest) {
	if i.IsZero() {
		return
	}
	r.Hash, r.CreateTime = i.hash, timestamppb.Now()
	tx.IfAbsent(i.Key())
	store.Put(tx, store.Requests, r, store.EscapeID(i.principal), i.id)
}

package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// commitTries is how often a mutation is decided anew when others changed the
// same records meanwhile.
const commitTries = 16

// mutationRequest is what every request that changes records says.
type mutationRequest interface {
	proto.Message
	GetRequestId() string
	GetValidateOnly() bool
}

// change decides a mutation on a snapshot: it adds to tx and gives the answer.
// It may be called several times and changes nothing itself.
type change[R proto.Message] func(v *store.View, tx *store.Txn) (R, error)

// mutate does a mutation once: it decides on a snapshot, records the request_id
// with the answer in the same transaction, and decides anew when the snapshot
// was too old. A request_id that was used before gives the answer of that time.
func mutate[R proto.Message](ctx context.Context, b *base, method string, req mutationRequest, decide change[R]) (R, error) {
	var none R
	id, err := b.requestOf(ctx, method, req)
	if err != nil {
		return none, err
	}
	wait := backoff.Backoff{Min: 5 * time.Millisecond, Max: 100 * time.Millisecond}
	for try := 1; ; try++ {
		v, err := b.store.View(ctx)
		if err != nil {
			return none, err
		}
		if answer, found, err := repeated[R](ctx, v, id); found || err != nil {
			return answer, err
		}
		tx := store.NewTxn()
		answer, err := decide(v, tx)
		if err != nil || req.GetValidateOnly() {
			return answer, err
		}
		if !id.IsZero() {
			if err := id.RecordResponse(tx, answer); err != nil {
				return none, err
			}
		}
		revision, err := b.store.Commit(ctx, tx)
		if err == nil {
			setEtag(answer, revision)
			return answer, nil
		}
		if !errors.Is(err, store.ErrConflict) || try == commitTries {
			return none, err
		}
		if err := backoff.Wait(ctx, wait.Next()); err != nil {
			return none, err
		}
	}
}

// requestKey is the place of a request_id. Each principal has its own ids.
func requestKey(ctx context.Context, requestID string) []string {
	return []string{store.EscapeID(principal(ctx)), requestID}
}

// requestOf is the use of a request_id. What stands for the request in the store
// is a hash: a password in it is hidden first, since a plain hash would let one
// guess it.
func (b *base) requestOf(ctx context.Context, method string, req mutationRequest) (request.ID, error) {
	if req.GetRequestId() == "" || req.GetValidateOnly() {
		return request.ID{}, nil
	}
	hidden, err := b.hideCredential(req)
	if err != nil {
		return request.ID{}, err
	}
	return request.New(principal(ctx), method, hidden)
}

// hideCredential is the request with a keyed hash in place of the credential.
func (b *base) hideCredential(req mutationRequest) (proto.Message, error) {
	hidden := proto.Clone(req)
	var host *vmhostv1.VmHost
	switch r := hidden.(type) {
	case *vmhostv1.CreateVmHostRequest:
		host = r.GetVmHost()
	case *vmhostv1.UpdateVmHostRequest:
		host = r.GetVmHost()
	}
	if host.GetCredential() == nil {
		return hidden, nil
	}
	plain, err := proto.MarshalOptions{Deterministic: true}.Marshal(host.GetCredential())
	if err != nil {
		return nil, fmt.Errorf("hash the credential: %w", err)
	}
	h := hmac.New(sha256.New, b.key)
	h.Write(plain)
	host.Credential = &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: hex.EncodeToString(h.Sum(nil))}}
	return hidden, nil
}

// repeated finds the answer that a request_id had before.
func repeated[R proto.Message](ctx context.Context, v *store.View, id request.ID) (answer R, found bool, err error) {
	used, err := id.Lookup(v)
	if err != nil || used == nil {
		return answer, false, err
	}
	message, err := used.GetResponse().UnmarshalNew()
	if err != nil {
		return answer, false, fmt.Errorf("read the recorded answer: %w", err)
	}
	answer, ok := message.(R)
	if !ok {
		return answer, false, fmt.Errorf("recorded answer is a %T", message)
	}
	// The answer was recorded by the transaction that made it true, so that its
	// revision is the resource's.
	record, _ := store.Requests.Get(v, requestKey(ctx, id.RequestID())...)
	setEtag(answer, record.CreateRevision)
	return answer, true, nil
}

func setEtag(m proto.Message, revision int64) {
	f := m.ProtoReflect().Descriptor().Fields().ByName("etag")
	if f != nil && f.Kind() == protoreflect.StringKind {
		m.ProtoReflect().Set(f, protoreflect.ValueOfString(view.Etag(revision)))
	}
}

// checkEtag refuses a change of a version that is not the present one.
func checkEtag(name, sent string, revision int64) error {
	if sent == "" || sent == view.Etag(revision) {
		return nil
	}
	return apierror.New(codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH, "%s has changed since it was read", name).
		With("resource", name).With("etag", view.Etag(revision)).
		WithHint("read it again, and decide whether the change is still right")
}

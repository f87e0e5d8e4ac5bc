package operation

import (
	"context"
	"errors"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// maxBatch is how many machines one call may change.
	maxBatch = 1000
	// batchWidth is how many of them are begun side by side.
	batchWidth = 16
)

// BatchPower begins to change the power of many machines, each by an operation
// and a transaction of its own. find answers the names of the machines that the
// request's filter matches.
//
// With a request_id the whole can be repeated: which machines it is about is
// recorded before the first is begun, and every machine has a request_id that
// follows from this one. What was begun before is answered again, what was
// refused or not reached is tried. Errors: INVALID_FIELD, REQUEST_ID_REUSED; what
// concerns one machine is in its result.
func (e *Engine) BatchPower(ctx context.Context, principal string, req *vmhostv1.BatchChangePowerRequest, find func(v *store.View) ([]string, error)) (*vmhostv1.BatchChangePowerResponse, error) {
	if _, err := planPower(req); err != nil {
		return nil, err
	}
	if (len(req.GetNames()) == 0) == (req.GetFilter() == "") {
		return nil, apierror.InvalidField("names", "must name machines, or filter must, and not both")
	}
	names, err := e.batchNames(ctx, principal, req, find)
	if err != nil {
		return nil, err
	}
	results := make([]*vmhostv1.BatchResult, len(names))
	slots := make(chan struct{}, batchWidth)
	var wg sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i] = e.batchOne(ctx, principal, req, name)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return &vmhostv1.BatchChangePowerResponse{Results: results}, nil
}

func (e *Engine) batchOne(ctx context.Context, principal string, req *vmhostv1.BatchChangePowerRequest, name string) *vmhostv1.BatchResult {
	op, err := e.Power(ctx, principal, name, &vmhostv1.BatchChangePowerRequest{
		Verb: req.GetVerb(), GracePeriod: req.GetGracePeriod(), Mode: req.GetMode(),
		RequestId: childRequestID(req.GetRequestId(), name), ValidateOnly: req.GetValidateOnly(),
	})
	return &vmhostv1.BatchResult{Name: name, Operation: op, Error: told(err)}
}

// batchNames are the machines that a batch is about: those of the first time when
// it is repeated.
func (e *Engine) batchNames(ctx context.Context, principal string, req *vmhostv1.BatchChangePowerRequest, find func(v *store.View) ([]string, error)) ([]string, error) {
	const tries = 20
	id, err := request.New(principal, "BatchChangePower", req)
	if err != nil {
		return nil, err
	}
	for range tries {
		v, err := e.store.View(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		if used, err := id.Lookup(v); err != nil {
			return nil, err
		} else if used != nil {
			before := &vmhostv1.BatchChangePowerRequest{}
			err := used.GetResponse().UnmarshalTo(before)
			return before.GetNames(), err
		}
		names := req.GetNames()
		if req.GetFilter() != "" {
			if names, err = find(v); err != nil {
				return nil, err
			}
		}
		if len(names) > maxBatch {
			return nil, apierror.InvalidField("filter", "matches %d machines, and at most %d can be changed at once", len(names), maxBatch).
				WithHint("narrow it, for example by vm_host")
		}
		if id.IsZero() || req.GetValidateOnly() {
			return names, nil
		}
		tx := store.NewTxn()
		if err := id.RecordResponse(tx, &vmhostv1.BatchChangePowerRequest{Names: names}); err != nil {
			return nil, err
		}
		if _, err = e.commit(ctx, tx); err == nil {
			return names, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, unavailable(err)
		}
	}
	return nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "others changed the same records %d times meanwhile", tries).WithHint("try again")
}

// childRequestID is the request_id of one machine of a batch: the same whenever
// the batch is repeated.
func childRequestID(batch, name string) string {
	space, err := uuid.Parse(batch)
	if err != nil {
		return "" // none was sent; the contract lets only UUIDs through
	}
	return uuid.NewSHA1(space, []byte(name)).String()
}

// told is a refusal as a single call would tell it; nil for none.
func told(err error) *vmhostv1.OperationError {
	if err == nil {
		return nil
	}
	e := apierror.FromStatus(err)
	return &vmhostv1.OperationError{Code: int32(e.Code), Reason: e.Reason.String(), Message: e.Message, Hint: e.Hint, Metadata: e.Metadata}
}

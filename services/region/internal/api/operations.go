package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// maxWait is how long one WaitOperation lasts at most.
const maxWait = time.Minute

type operations struct {
	vmhostv1.UnimplementedOperationServiceServer
	*base
	engine Operations
}

func showOperation(r store.Record[*storev1.StoredOperation]) *vmhostv1.Operation {
	return proto.CloneOf(r.Value.GetResource())
}

// GetOperation is one operation.
func (s *operations) GetOperation(ctx context.Context, req *vmhostv1.GetOperationRequest) (*vmhostv1.Operation, error) {
	r, err := get(ctx, s.base, store.Operations, req.GetName())
	if err != nil {
		return nil, err
	}
	return showOperation(r), nil
}

// ListOperations are all operations that are kept.
func (s *operations) ListOperations(ctx context.Context, req *vmhostv1.ListOperationsRequest) (*vmhostv1.ListOperationsResponse, error) {
	page, next, err := answerList[*vmhostv1.Operation](ctx, s.base, vmhostv1.OperationService_ListOperations_FullMethodName, req, "create_time desc",
		itemsOf(store.Operations, operationsCollection, func(_ *store.View, r store.Record[*storev1.StoredOperation]) proto.Message { return showOperation(r) }))
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListOperationsResponse{Operations: page, NextPageToken: next}, nil
}

// WaitOperation answers when the operation has ended or the time is over.
func (s *operations) WaitOperation(ctx context.Context, req *vmhostv1.WaitOperationRequest) (*vmhostv1.Operation, error) {
	timeout := maxWait
	if req.GetTimeout() != nil {
		timeout = min(timeout, req.GetTimeout().AsDuration())
	}
	if timeout <= 0 {
		return s.GetOperation(ctx, &vmhostv1.GetOperationRequest{Name: req.GetName()})
	}
	return s.engine.Wait(ctx, req.GetName(), timeout)
}

// CancelOperation asks for the operation to end.
func (s *operations) CancelOperation(ctx context.Context, req *vmhostv1.CancelOperationRequest) (*vmhostv1.Operation, error) {
	return s.engine.Cancel(ctx, req.GetName())
}

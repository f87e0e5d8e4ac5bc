package api

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// newUID is a UUIDv7: uids of one kind sort by time.
func newUID() (string, error) {
	uid, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make a uid: %w", err)
	}
	return uid.String(), nil
}

// get is one record by its resource name.
func get[T proto.Message](ctx context.Context, b *base, f store.Family[T], name string) (store.Record[T], error) {
	view, err := b.store.View(ctx)
	if err != nil {
		return store.Record[T]{}, err
	}
	r, ok := f.Get(view, idOf(name))
	if !ok {
		return r, apierror.NotFound(name)
	}
	return r, nil
}

// addEvent records that a user changed a resource.
func addEvent(ctx context.Context, tx *store.Txn, kind, resource, vmHost string) {
	principal := interceptor.PrincipalFrom(ctx).Name
	store.AddEvent(tx, &vmhostv1.Event{Type: kind, Resource: resource, VmHost: vmHost, Principal: principal, Message: resource + " was " + pastTense(kind) + " by " + principal})
}

// pastTense is the part of an event's type that says what was done.
func pastTense(kind string) string {
	for i := len(kind) - 1; i >= 0; i-- {
		if kind[i] == '.' {
			return kind[i+1:]
		}
	}
	return kind
}

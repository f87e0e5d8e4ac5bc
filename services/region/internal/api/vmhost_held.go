package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Turns lets one change of what is committed be decided at a time.
type Turns interface {
	// WithTurn runs fn while no compose of this process commits.
	WithTurn(ctx context.Context, fn func() error) error
}

// dropHeld takes from reservations their places on a host that is forgotten, and
// says whether there were any. It is cordoned with the first, so that no further
// ones come.
func (s *vmHosts) dropHeld(ctx context.Context, req *vmhostv1.DeleteVmHostRequest) (dropped bool, err error) {
	name, id := req.GetName(), idOf(req.GetName())
	v, err := s.store.View(ctx)
	if err != nil {
		return false, err
	}
	left := len(ledger.ReservationsOn(v, id))
	for left > 0 {
		err := s.turn.WithTurn(ctx, func() error {
			_, err := mutate(ctx, s.base, vmhostv1.VmHostService_DeleteVmHost_FullMethodName, &vmhostv1.DeleteVmHostRequest{Name: name, Forget: true},
				func(v *store.View, tx *store.Txn) (*vmhostv1.DeleteVmHostResponse, error) {
					host, ok := store.VmHosts.Get(v, id)
					if !ok {
						return nil, apierror.NotFound(name)
					}
					if !dropped {
						if err := checkEtag(name, req.GetEtag(), host.Revision); err != nil {
							return nil, err
						}
					}
					tx.IfRevision(store.VmHosts.Key(id), host.Revision)
					cordoned := proto.CloneOf(host.Value)
					cordoned.Resource.Cordoned = true
					store.Put(tx, store.VmHosts, cordoned, id)
					left = ledger.DropHeld(tx, v, id, principal(ctx))
					return &vmhostv1.DeleteVmHostResponse{}, nil
				})
			return err
		})
		if err != nil {
			return dropped, err
		}
		dropped = true
	}
	return dropped, nil
}

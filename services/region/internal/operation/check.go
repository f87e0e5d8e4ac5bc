package operation

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Check begins to try an address. The credential is in the operation's record,
// encrypted, until the operation has ended (P8). Errors: INVALID_FIELD,
// NOT_FOUND (rack), NO_RACK, REQUEST_ID_REUSED.
func (e *Engine) Check(ctx context.Context, principal string, req *vmhostv1.CheckVmHostRequest) (*vmhostv1.Operation, error) {
	address, err := hypervisor.ParseAddress(req.GetAddress())
	if err != nil {
		return nil, apierror.InvalidField("address", "%s", err.Error())
	}
	// The hash is kept, and a password could be guessed from it: which credential
	// was tried does not make it another request.
	bare := proto.CloneOf(req)
	bare.Credential = nil
	id, err := request.New(principal, "CheckVmHost", bare)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_CHECK, id: id,
		deadline: e.cfg.Deadlines.Look, validateOnly: req.GetValidateOnly(),
		decide: func(v *store.View, _ *store.Txn, op *storev1.StoredOperation) error {
			if op.Rack, err = rackFor(v, req); err != nil {
				return err
			}
			if c := req.GetCredential(); c.GetKind() != nil {
				plain, err := proto.Marshal(c)
				if err != nil {
					return fmt.Errorf("encode the credential: %w", err)
				}
				key := store.Operations.Key(strings.TrimPrefix(op.GetResource().GetName(), "operations/"))
				if op.EncryptedCredential, err = e.cfg.Secrets.Encrypt(key, plain); err != nil {
					return fmt.Errorf("keep the credential: %w", err)
				}
			}
			op.Check = bare
			op.Resource.Target = "racks/" + op.GetRack()
			addStep(op, "check", checkTimeout, &rackv1.Step{Action: &rackv1.Step_CheckHost{CheckHost: &rackv1.CheckHost{
				Type: address.Type, Address: address.String(), HostKey: req.GetHostKey(), Project: req.GetProject(), Fix: req.GetFix(),
			}}})
			return nil
		},
	})
}

// rackFor is the rack to try an address from.
func rackFor(v *store.View, req *vmhostv1.CheckVmHostRequest) (string, error) {
	pinned := strings.TrimPrefix(req.GetRack(), "racks/")
	if pinned != "" {
		if _, ok := store.Racks.Get(v, pinned); !ok {
			return "", apierror.NotFound("racks/"+pinned).WithField("rack", "does not exist")
		}
	}
	racks := reach.Racks(v, req.GetAddress(), strings.TrimPrefix(req.GetZone(), "zones/"), pinned)
	if len(racks) == 0 {
		return "", apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_NO_RACK, "no connected rack can reach %s", req.GetAddress()).
			With("address", req.GetAddress()).WithField("address", "is reached by no connected rack").
			WithHint("start a rack that has the driver, and for a local socket one whose configuration names it")
	}
	return racks[0], nil
}

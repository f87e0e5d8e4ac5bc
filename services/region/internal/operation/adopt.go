package operation

import (
	"context"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// hostname is the form of a machine's name.
var hostname = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Adopt begins to take a discovered machine over. From the transaction that
// records the operation on it counts as ours: its record, name, capacity and
// quota are taken, and its host's foreign use is less by as much. If the step
// fails all of that is undone. Errors: NOT_FOUND, ALREADY_EXISTS, QUOTA_EXCEEDED,
// WRONG_STATE, FOREIGN_OBJECT, INVALID_FIELD, REQUEST_ID_REUSED.
func (e *Engine) Adopt(ctx context.Context, principal string, req *vmhostv1.AdoptMachineRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "AdoptMachine", req)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_ADOPT, id: id,
		deadline: e.cfg.Deadlines.Power, validateOnly: req.GetValidateOnly(), turn: true,
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			m, seen, err := e.adoptable(v, tx, req)
			if err != nil {
				return err
			}
			r := m.GetResource()
			r.Operation, r.UpdateTime = op.GetResource().GetName(), op.GetResource().GetCreateTime()
			op.MachineUid = r.GetUid()
			op.Resource.Target, op.Resource.VmHost = r.GetName(), r.GetVmHost()
			addStep(op, "adopt", metadataTimeout, &rackv1.Step{Action: &rackv1.Step_AdoptMachine{AdoptMachine: &rackv1.AdoptMachine{Machine: wireMachine(r)}}})
			if err := onHost(v, tx, op, idOf(r.GetVmHost())); err != nil {
				return err
			}
			return takeOver(tx, v, m, seen)
		},
	})
}

// adoptable is the record that a discovered machine gets, and how it is seen.
func (e *Engine) adoptable(v *store.View, tx *store.Txn, req *vmhostv1.AdoptMachineRequest) (*storev1.StoredMachine, *rackv1.MachineObservation, error) {
	name := req.GetName()
	if m, ok := store.Machines.Get(v, idOf(name)); ok {
		if err := notBusy(v, m.Value.GetResource()); err != nil {
			return nil, nil, err
		}
		return nil, nil, apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is a machine of vmhost already", name).
			With("resource", name).With("phase", m.Value.GetResource().GetPhase().String())
	}
	found, ok := view.FindDiscovered(v, e.cfg.Seen, idOf(name))
	if !ok {
		return nil, nil, apierror.NotFound(name)
	}
	host, _ := store.VmHosts.Get(v, idOf(found.GetVmHost()))
	rec, _ := store.Seen.Get(v, idOf(found.GetVmHost()), found.GetHypervisorUuid())
	seen := rec.Value.GetObservation()
	if err := mayAdopt(found, seen, host.Value.GetResource()); err != nil {
		return nil, nil, err
	}
	// What becomes ours while a host is removed or drained would be released,
	// deleted or moved with the rest.
	if err := notClearing(v, host.Value.GetResource()); err != nil {
		return nil, nil, err
	}
	tx.IfRevision(store.VmHosts.Key(idOf(found.GetVmHost())), host.Revision)
	r := proto.CloneOf(found)
	r.Hostname, r.Tags = req.GetHostname(), req.GetTags()
	if r.GetHostname() == "" {
		r.Hostname = strings.ToLower(seen.GetName())
	}
	if !hostname.MatchString(r.GetHostname()) {
		return nil, nil, apierror.InvalidField("hostname", "is empty, and the machine's name on the hypervisor, %q, is not a hostname", seen.GetName()).
			WithHint("give it one; its name on the hypervisor stays as it is")
	}
	r.Origin, r.Phase = vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, vmhostv1.MachinePhase_MACHINE_PHASE_ADOPTING
	// What is observed is not of the record.
	r.Etag, r.PowerState, r.ObserveTime, r.Conditions, r.Addresses, r.ConsoleLogPath = "", 0, nil, nil, nil, ""
	for _, i := range r.GetInterfaces() {
		i.Addresses = nil
	}
	return &storev1.StoredMachine{Resource: r, Commitment: adoptedCommitment(r), Autostart: seen.GetAutostart()}, seen, nil
}

// mayAdopt refuses machines that are not to be taken over: another record's, or
// such that it is not known what they take.
func mayAdopt(found *vmhostv1.Machine, seen *rackv1.MachineObservation, host *vmhostv1.VmHost) error {
	refuse := func(reason vmhostv1.ErrorReason, format string, args ...any) *apierror.Error {
		return apierror.New(codes.FailedPrecondition, reason, format, args...).
			With("resource", found.GetName()).With("vm_host", found.GetVmHost()).With("hypervisor_uuid", found.GetHypervisorUuid())
	}
	switch {
	case seen.GetProblem() != "":
		return refuse(vmhostv1.ErrorReason_WRONG_STATE, "%s (%s on %s) could not be read whole: %s", found.GetName(), seen.GetName(), found.GetVmHost(), seen.GetProblem()).
			WithHint("mend it on the hypervisor, then refresh the host")
	case seen.GetUid() != "" && seen.GetUid() != found.GetUid():
		return refuse(vmhostv1.ErrorReason_FOREIGN_OBJECT, "%s (%s on %s) carries vmhost's metadata of another machine, %s", found.GetName(), seen.GetName(), found.GetVmHost(), seen.GetUid()).
			WithHint("it is a copy of a machine, or of a host that was forgotten; take the metadata off it on the hypervisor first")
	case seen.GetProject() != "" && seen.GetProject() != projectOf(host):
		return refuse(vmhostv1.ErrorReason_FOREIGN_OBJECT, "%s (%s on %s) is in the project %s", found.GetName(), seen.GetName(), found.GetVmHost(), seen.GetProject()).
			WithHint("add the server with that project as a VM host of its own")
	}
	return nil
}

func projectOf(host *vmhostv1.VmHost) string {
	if host.GetProject() == "" {
		return "default"
	}
	return host.GetProject()
}

// Release begins to give a machine back: our metadata is taken off it, and then
// record, name, capacity and quota go in one transaction, and its host's foreign
// use is more by as much as is seen of it. A machine that vmhost composed can be
// given away in the same way. Errors: NOT_FOUND, FOREIGN_OBJECT, WRONG_STATE,
// ETAG_MISMATCH, MACHINE_BUSY, REQUEST_ID_REUSED.
func (e *Engine) Release(ctx context.Context, principal string, req *vmhostv1.ReleaseMachineRequest) (*vmhostv1.Operation, error) {
	id, err := request.New(principal, "ReleaseMachine", req)
	if err != nil {
		return nil, err
	}
	return e.begin(ctx, order{
		principal: principal, verb: vmhostv1.OperationVerb_OPERATION_VERB_RELEASE, id: id,
		deadline: e.cfg.Deadlines.Power, validateOnly: req.GetValidateOnly(),
		decide: func(v *store.View, tx *store.Txn, op *storev1.StoredOperation) error {
			m, err := e.ours(v, req.GetName())
			if err != nil {
				return err
			}
			if err := checkEtag(m, req.GetEtag()); err != nil {
				return err
			}
			return claimRecord(v, tx, op, m, func(m *storev1.StoredMachine) error {
				if err := needReady(m.GetResource()); err != nil {
					return err
				}
				planRelease(op, m)
				return nil
			})
		},
	})
}

func planRelease(op *storev1.StoredOperation, m *storev1.StoredMachine) {
	m.GetResource().Phase = vmhostv1.MachinePhase_MACHINE_PHASE_RELEASING
	onEach(op, m, func(r *vmhostv1.Machine) {
		addStep(op, "release", metadataTimeout, &rackv1.Step{Action: &rackv1.Step_ReleaseMachine{ReleaseMachine: &rackv1.ReleaseMachine{Machine: wireMachine(r)}}})
	})
}

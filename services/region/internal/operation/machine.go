package operation

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// ours is a machine that vmhost may change; one that was only discovered is
// refused (P5).
func (e *Engine) ours(v *store.View, name string) (store.Record[*storev1.StoredMachine], error) {
	uid := strings.TrimPrefix(name, "machines/")
	m, ok := store.Machines.Get(v, uid)
	if ok {
		return m, nil
	}
	if d, found := view.FindDiscovered(v, e.cfg.Seen, uid); found {
		host, uuid := strings.TrimPrefix(d.GetVmHost(), "vmHosts/"), d.GetHypervisorUuid()
		return m, apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_FOREIGN_OBJECT,
			"%s was discovered on host %s, vmhost did not make it and does not change it", name, host).
			With("resource", name).With("vm_host", "vmHosts/"+host).With("hypervisor_uuid", uuid).
			WithHint("change it on the hypervisor itself, or take it over with `vmhostctl machine adopt`")
	}
	return m, apierror.NotFound(name)
}

// checkEtag refuses a machine that has changed since its etag was read.
func checkEtag(m store.Record[*storev1.StoredMachine], sent string) error {
	present := view.Etag(m.Revision)
	if sent == "" || sent == present {
		return nil
	}
	name := m.Value.GetResource().GetName()
	return apierror.New(codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH, "%s has changed since it was read", name).
		With("resource", name).With("etag", present).
		WithHint("read it again, and decide whether to go on")
}

// notBusy refuses a machine that another operation works on.
func notBusy(v *store.View, r *vmhostv1.Machine) error {
	if r.GetOperation() == "" {
		return nil
	}
	rec, ok := store.Operations.Get(v, idOf(r.GetOperation()))
	if !ok || ended(rec.Value) {
		return nil
	}
	return busyWith(r, rec.Value.GetResource())
}

func busyWith(m *vmhostv1.Machine, op *vmhostv1.Operation) error {
	verb := strings.ToLower(strings.TrimPrefix(op.GetVerb().String(), "OPERATION_VERB_"))
	e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY, "%s is busy with %s (%s)", m.GetName(), op.GetName(), verb).
		With("resource", m.GetName()).With("operation", op.GetName())
	return e.WithHint("wait for that operation, or cancel it")
}

// idOf is the last part of a resource name.
func idOf(name string) string {
	_, id, _ := strings.Cut(name, "/")
	return id
}

func phaseWord(p vmhostv1.MachinePhase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "MACHINE_PHASE_"))
}

// wireMachine is what a rack needs of a machine, and nothing else.
func wireMachine(r *vmhostv1.Machine) *vmhostv1.Machine {
	return &vmhostv1.Machine{
		Name: r.GetName(), Uid: r.GetUid(), Hostname: r.GetHostname(), HypervisorName: r.GetHypervisorName(),
		HypervisorUuid: r.GetHypervisorUuid(), Disks: r.GetDisks(), VmHost: r.GetVmHost(), Operation: r.GetOperation(), Origin: r.GetOrigin(),
		Type: r.GetType(), Project: r.GetProject(),
	}
}

// unavailable says that the store did not answer, and that it is not known
// whether anything was done.
func unavailable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the state store does not answer: %w", err).
		WithHint("send the same request with the same request_id again")
}

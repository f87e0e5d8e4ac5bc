package operation

import (
	"maps"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxDestinations is how many destinations a drain tries with one machine.
const maxDestinations = 3

// elsewhere notes a move of a drain that failed for its destination. True when
// another destination is to be tried.
func (w *clearing) elsewhere(op *storev1.StoredOperation) bool {
	if !op.GetElsewhere() {
		return false
	}
	uid, to, e := op.GetMachineUid(), idOf(destination(op)), op.GetResource().GetError()
	why := op.GetResource().GetName() + " failed: " + shorten(e.GetMessage())
	if w.failed[uid] == nil {
		w.failed[uid] = map[string]string{}
	}
	w.failed[uid][to] = why
	switch e.GetReason() {
	case vmhostv1.ErrorReason_HOST_AUTH_FAILED.String(), vmhostv1.ErrorReason_HOST_KEY_CHANGED.String():
		w.barred[to] = why // for every machine
	}
	return len(w.failed[uid]) < maxDestinations
}

// notFor are the hosts that a machine is not to be brought to, by id, with why.
func (w *clearing) notFor(uid string) map[string]string {
	out := maps.Clone(w.barred)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, w.failed[uid])
	return out
}

package operation

import (
	"fmt"
	"slices"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Disks in storage pools that both hosts have stay where they are (ADR 0026). Which
// ones is decided when a move is recorded, and not again: who goes on with it must
// leave alone what it left alone before.

// copied are the disks that do not stay, by their index.
func copied(disks []*vmhostv1.MachineDisk, staying []int32) []*vmhostv1.MachineDisk {
	var out []*vmhostv1.MachineDisk
	for i, d := range disks {
		if !slices.Contains(staying, int32(i)) {
			out = append(out, d)
		}
	}
	return out
}

// mayHave says whether the step under way can be given to the session of a rack. One
// that would copy disks which stay, and remove them with what is left on the source,
// gets no such step (P3): a host can be given to an older rack at any time.
func (c *change) mayHave(rack, session string) bool {
	if len(planned(c.op).GetMoveMachine().GetStayingDisks()) == 0 {
		return true
	}
	s, _ := store.Sessions.Get(c.view, rack)
	return s.Value.GetSession() == session && reach.WhyCopies(c.view, hostOf(c.op)) == ""
}

// disksOf is how many disks of a move stay, and how many are copied.
func disksOf(op *storev1.StoredOperation) (staying, copied int32) {
	if len(op.GetPlan()) == 0 {
		return 0, 0
	}
	move := op.GetPlan()[0].GetMoveMachine()
	staying = int32(len(move.GetStayingDisks()))
	return staying, int32(len(move.GetMachine().GetDisks())) - staying
}

// stayedWords say of a machine that was moved which disks stayed; empty when none did.
func stayedWords(op *storev1.StoredOperation) string {
	switch staying, copied := disksOf(op); {
	case staying == 0:
		return ""
	case copied == 0:
		return ", and its disks stayed where they are"
	default:
		return fmt.Sprintf(", and %d of its %d disks stayed where they are", staying, staying+copied)
	}
}

package hypervisor_test

import (
	"errors"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestWhatRunsIsTheMachineOfABrokenMove_P3_P5(t *testing.T) {
	at := func(state vmhostv1.PowerState) *rackv1.MachineObservation {
		return &rackv1.MachineObservation{Uid: "u", Name: "m", PowerState: state}
	}
	on, off := at(vmhostv1.PowerState_POWER_STATE_ON), at(vmhostv1.PowerState_POWER_STATE_OFF)
	paused, crashed := at(vmhostv1.PowerState_POWER_STATE_PAUSED), at(vmhostv1.PowerState_POWER_STATE_CRASHED)
	unknown := at(vmhostv1.PowerState_POWER_STATE_UNSPECIFIED)
	foreign := &rackv1.MachineObservation{Name: "m", PowerState: vmhostv1.PowerState_POWER_STATE_OFF}
	for _, test := range []struct {
		name                string
		source, destination *rackv1.MachineObservation
		want                hypervisor.MoveState
		class               error
	}{
		{"not begun", on, nil, hypervisor.MoveToDo, nil},
		{"ended", nil, off, hypervisor.MoveDone, nil},
		{"copied, not started", off, off, hypervisor.MoveToDo, nil},
		{"copied while it ran", on, off, hypervisor.MoveToDo, nil},
		{"started, source not removed", off, on, hypervisor.MoveToFinish, nil},
		{"moved live, source not let go", paused, on, hypervisor.MoveToFinish, nil},
		{"moved live while paused, source let go", off, paused, hypervisor.MoveToFinish, nil},
		{"paused on both", paused, paused, hypervisor.MoveToDo, nil},
		{"runs on the source, arriving on the destination", on, paused, hypervisor.MoveToDo, nil},
		{"crashed on the source", crashed, on, hypervisor.MoveToFinish, nil},
		{"crashed on the destination", off, crashed, hypervisor.MoveToDo, nil},
		{"not known on the source is not removed", unknown, on, 0, hypervisor.ErrRefused},
		{"runs on both", on, on, 0, hypervisor.ErrRefused},
		{"on neither", nil, nil, 0, hypervisor.ErrNotFound},
		{"not ours on the source", foreign, nil, 0, hypervisor.ErrForeign},
		{"not ours on the destination", on, foreign, 0, hypervisor.ErrForeign},
		{"not ours on the destination, gone from the source", nil, foreign, 0, hypervisor.ErrForeign},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := hypervisor.MoveStateOf(test.source, test.destination, "u")
			if got != test.want || !errors.Is(err, test.class) {
				t.Errorf("state %d, error %v; want %d, %v", got, err, test.want, test.class)
			}
		})
	}
}

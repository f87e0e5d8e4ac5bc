package libvirt

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// moves are ways to move a machine, whose changes before the first are those of one
// that is off.
var moves = map[string]struct {
	set   func(*rackv1.MoveMachine)
	first int
}{
	"off":     {func(*rackv1.MoveMachine) {}, 1},
	"stopped": {func(m *rackv1.MoveMachine) { m.AllowOffline, m.Autostart = true, true }, 7},
	"live":    {func(m *rackv1.MoveMachine) { m.Live, m.Autostart = true, true }, 7},
}

// P3: a rack may end after anything that it has changed. Whatever the next one finds,
// it ends the move, the machine never runs twice, and what was written is there.
func TestRealMoveThatDiesAtAnyPointGoesOn_P3(t *testing.T) {
	faults(t, false)
}

// P3: libvirt may refuse anything. The machine is on the source as it was then, or on
// the destination as it is to be, and the next move ends it.
func TestRealMoveThatFailsAtAnyPointLeavesTheMachineAsItWas_P3(t *testing.T) {
	faults(t, true)
}

func faults(t *testing.T, refused bool) {
	t.Helper()
	devhostNamed(t, "H2")
	for name, move := range moves {
		t.Run(name, func(t *testing.T) {
			all := moveFault(t, &fault{n: math.MaxInt, refused: refused}, move.set)
			if len(all) < move.first {
				t.Fatalf("a move asks for %q only, so that nothing is tried", all)
			}
			for n := move.first; n <= len(all); n++ {
				t.Run(fmt.Sprintf("change %d, %s", n, all[n-1]), func(t *testing.T) {
					t.Parallel()
					moveFault(t, &fault{n: n, refused: refused}, move.set)
				})
			}
		})
	}
}

// moveFault moves a machine with the fault, and once more. It answers what was changed
// the first time.
func moveFault(t *testing.T, f *fault, set func(*rackv1.MoveMachine)) []string {
	t.Helper()
	s := shares(t)
	what := s.machine(t, true, false)
	uid := what.GetMachine().GetUid()
	set(what)
	dom, state := s.rawFrom.domain(t, uid), poweredOff
	if what.GetAllowOffline() || what.GetLive() {
		state = poweredOn
		if err := s.rawFrom.DomainSetAutostart(dom, 1); err != nil {
			t.Fatal(err)
		}
		mustPower(t, s.from, uid, rackv1.PowerAction_POWER_ACTION_START)
	}
	f.migrating = func() (bool, error) {
		kind, _, _, _, _, _, _, _, _, _, _, _, err := s.rawFrom.DomainGetJobInfo(dom) //nolint:dogsled // as libvirt answers
		return kind != int32(lv.DomainJobNone), err
	}
	o := NewOpener(Config{LocalSockets: map[string]string{
		"h1": f.through(t, devhostNamed(t, "H1").socket), "h2": f.through(t, devhostNamed(t, "H2").socket),
	}})
	_, err := openTarget(t, o, s.from.target).Move(timeout(t, time.Minute), openTarget(t, o, s.to.target), what, "operations/1")
	asked, came := f.changes()
	switch {
	case came == (f.n == math.MaxInt), !came && err != nil, came && !f.refused && err == nil:
		t.Fatalf("%q were asked for, and the move ended with %v", asked, err)
	case f.refused && came:
		s.settled(t, what, state, err)
	}
	s.once(t, what)
	ctx := timeout(t, time.Minute)
	for err != nil {
		_, err = s.from.Move(ctx, s.to, what, "operations/1")
		if err != nil && (!errors.Is(err, hypervisor.ErrBusy) || ctx.Err() != nil) {
			t.Fatalf("after %q: %v", asked, err)
		}
	}
	s.arrived(t, what, state)
	s.intact(t)
	_, marked := marks(t, devhostNamed(t, "H1"), devhostNamed(t, "H2"))
	marked(t, what.GetMoved())
	return asked
}

// settled fails the test unless a move that has ended so has left the machine as it
// was, or complete on the destination.
func (s *sharing) settled(t *testing.T, what *rackv1.MoveMachine, state vmhostv1.PowerState, err error) {
	t.Helper()
	if errors.Is(err, hypervisor.ErrUnreachable) || errors.Is(err, hypervisor.ErrTimeout) {
		t.Errorf("it is not known: %v", err)
	}
	uid := what.GetMachine().GetUid()
	there, terr := s.to.Machine(timeout(t, time.Minute), uid)
	if terr == nil && there.GetPowerState() == state && there.GetAutostart() == what.GetAutostart() {
		return // and the source is to be removed yet
	}
	here, herr := s.from.Machine(timeout(t, time.Minute), uid)
	if !errors.Is(terr, hypervisor.ErrNotFound) || herr != nil || here.GetPowerState() != state || here.GetAutostart() != what.GetAutostart() {
		t.Errorf("after %v:\non the source %v (%v)\non the destination %v (%v)", err, here, herr, there, terr)
	}
	if herr == nil && strings.Contains(s.rawFrom.inactive(t, uid), movingAttr) {
		t.Errorf("after %v it is noted that it is being moved", err)
	}
	if slices.Contains(s.rawTo.volumes(t, "default"), what.GetMoved().GetDisks()[1].GetVolume()) {
		t.Errorf("after %v a copy was left on the destination", err)
	}
}

// once fails the test when the machine runs on both hosts, or a disk that stays is
// not what it was.
func (s *sharing) once(t *testing.T, what *rackv1.MoveMachine) {
	t.Helper()
	running := 0
	for _, d := range []*Driver{s.from, s.to} {
		got, err := d.Machine(timeout(t, time.Minute), what.GetMachine().GetUid())
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			t.Fatal(err)
		}
		if got.GetPowerState() == poweredOn {
			running++
		}
	}
	if running > 1 {
		t.Fatal("it runs on both hosts")
	}
	for volume, was := range s.files {
		if file, err := os.Stat(filepath.Join(s.folder, volume)); err != nil || !os.SameFile(was, file) {
			t.Fatalf("volume %s is not what it was: %v", volume, err)
		}
	}
}

package executor_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

func foreign(uuid string) *rackv1.MachineObservation {
	return &rackv1.MachineObservation{Uuid: uuid, Name: "foreign-" + uuid, Cores: 1, MemoryMib: 64, PowerState: off}
}

func TestAnAssignedHostIsReportedWholeAndAgainEveryMinute(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.fleet.Host("h1").Put(foreign("f"))
		r.assign("h1", 7)
		inv := r.region.inventories()
		if len(inv) != 1 || inv[0].GetEpoch() != 7 || inv[0].GetVmHost() != "vmHosts/h1" || !inv[0].GetLast() ||
			len(inv[0].GetMachines()) != 1 || inv[0].GetObservation().GetForeign().GetMachines() != 1 {
			t.Errorf("inventories %v", inv)
		}
		if s := r.region.status(); !s.GetReachable() || s.GetEpoch() != 7 || s.GetError() != nil {
			t.Errorf("status %v", s)
		}
		wait(time.Hour)
		if n := len(r.region.inventories()); n < 55 || n > 67 {
			t.Errorf("%d inventories in an hour", n)
		}
		r.region.forget()
		r.assign("h1", 8)
		if inv := r.region.inventories(); len(inv) != 1 || inv[0].GetEpoch() != 8 || r.fleet.Host("h1").Calls(fake.Open) != 1 {
			t.Errorf("a new epoch gives inventories %v and %d connections", inv, r.fleet.Host("h1").Calls(fake.Open))
		}
	})
}

func TestALargeInventoryTravelsInParts(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		for i := range 1200 {
			r.fleet.Host("h1").Put(foreign(fmt.Sprint(i)))
		}
		r.assign("h1", 1)
		parts, total := r.region.inventories(), 0
		for i, p := range parts {
			total += len(p.GetMachines())
			if len(p.GetMachines()) > 500 || p.GetSequence() != parts[0].GetSequence() || p.GetLast() != (i == len(parts)-1) || (p.GetObservation() != nil) != (i == 0) {
				t.Errorf("part %d: %d machines, sequence %d, last %v", i, len(p.GetMachines()), p.GetSequence(), p.GetLast())
			}
		}
		if len(parts) != 3 || total != 1200 {
			t.Errorf("%d machines in %d parts", total, len(parts))
		}
	})
}

func TestAChangeFromOutsideIsToldWithinATenthOfASecond(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.Put(foreign("f"))
		r.assign("h1", 1)
		if err := host.Power("f", on); err != nil {
			t.Fatal(err)
		}
		wait(100 * time.Millisecond)
		if c := r.region.changes(); len(c) != 1 || c[0].GetPresent().GetPowerState() != on || c[0].GetEpoch() != 1 {
			t.Errorf("changes %v", c)
		}
		host.Notify("f") // nothing changed
		wait(100 * time.Millisecond)
		host.Remove("f")
		wait(100 * time.Millisecond)
		if c := r.region.changes(); len(c) != 2 || c[1].GetGoneUuid() != "f" {
			t.Errorf("changes %v", c)
		}
	})
}

func TestABurstOfEventsCostsFewReads(t *testing.T) {
	for machines, limit := range map[int]int{1: 4, 5: 20, 1000: 4} {
		t.Run(fmt.Sprint(machines, " machines"), func(t *testing.T) {
			bubble(t, 1, func(r *rig) {
				host := r.fleet.Host("h1")
				r.assign("h1", 1)
				reads := host.Calls(fake.Machine) + host.Calls(fake.Machines)
				for i := range 1000 {
					host.Put(foreign(fmt.Sprint(i % machines)))
				}
				wait(time.Second)
				seen := map[string]bool{}
				for _, c := range r.region.changes() {
					seen[c.GetPresent().GetUuid()] = true
				}
				if got := host.Calls(fake.Machine) + host.Calls(fake.Machines) - reads; got > limit || len(seen) != machines {
					t.Errorf("1000 events cost %d reads, want at most %d; %d machines were told", got, limit, len(seen))
				}
			})
		})
	}
}

func TestARefreshIsReportedBeforeItsResult(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		r.region.forget()
		refresh := step("h1", "op/0/1", 1)
		refresh.Action = &rackv1.Step_RefreshHost{RefreshHost: &rackv1.RefreshHost{}}
		r.Do(t.Context(), refresh)
		wait(time.Second)
		var order []string
		for _, m := range r.region.all() {
			order = append(order, fmt.Sprintf("%T", m.GetMessage()))
		}
		want := []string{"*rackv1.ConnectRequest_StepAccepted", "*rackv1.ConnectRequest_HostInventory", "*rackv1.ConnectRequest_StepResult"}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
	})
}

func TestAHostThatIsDownIsReportedAndComesBackByItself(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		r.assign("h1", 1)
		host.Crash()
		wait(time.Second)
		if s := r.region.status(); s.GetReachable() || s.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE || s.GetError().GetMessage() == "" {
			t.Errorf("status of a host that crashed: %v", s)
		}
		wait(time.Hour)
		if opens := host.Calls(fake.Open); opens < 60 || opens > 400 {
			t.Errorf("%d tries in an hour", opens)
		}
		r.region.forget()
		host.Recover()
		wait(time.Minute + time.Second)
		if s, inv := r.region.status(), r.region.inventories(); !s.GetReachable() || len(inv) == 0 {
			t.Errorf("after recovery: status %v, inventories %v", s, inv)
		}
	})
}

func TestWhoConnectsIsToldWhyAHostIsDown(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.fleet.Host("h1").Crash()
		r.assign("h1", 1)
		r.disconnect()
		wait(time.Hour)
		r.connect()
		wait(time.Millisecond)
		if s := r.region.status(); s.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE {
			t.Errorf("status %v", s)
		}
	})
}

func TestARefusedCredentialIsTriedSeldomAndANewOneAtOnce(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.SetPassword("right")
		a := assignment("h1", 4)
		a.SealedCredential = seal("uid-h1/4", "wrong")
		r.Assign(t.Context(), a)
		wait(time.Second)
		r.Do(t.Context(), createStep("h1", "op/0/1", "m", 4))
		wait(time.Millisecond)
		if s, res := r.region.status(), r.result("op/0/1"); s.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_AUTH || res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_AUTH {
			t.Errorf("status %v, result %v", s, res)
		}
		wait(time.Hour)
		if got := host.Logins(); got > 15 {
			t.Errorf("a refused credential was sent %d times in an hour", got)
		}
		b := assignment("h1", 4)
		b.SealedCredential, b.ConnectionVersion = seal("uid-h1/4", "right"), "2"
		r.Assign(t.Context(), b)
		wait(time.Millisecond)
		if s := r.region.status(); !s.GetReachable() {
			t.Errorf("status with the right credential: %v", s)
		}
	})
}

// Who asks for a refresh has mended something, and waits for no timer.
func TestARefreshTriesARefusedCredentialAtOnce(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.SetPassword("the old one")
		a := assignment("h1", 4)
		a.SealedCredential = seal("uid-h1/4", "right")
		r.Assign(t.Context(), a)
		wait(time.Second)
		refresh := func(id string) *rackv1.StepResult {
			s := step("h1", id, 4)
			s.Action = &rackv1.Step_RefreshHost{RefreshHost: &rackv1.RefreshHost{}}
			r.Do(t.Context(), s)
			wait(time.Second)
			return r.result(id)
		}
		logins := host.Logins()
		if res := refresh("op/0/1"); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_AUTH || host.Logins() != logins+1 {
			t.Errorf("refused still: result %v after %d logins", res, host.Logins()-logins)
		}
		host.SetPassword("right")
		if res := refresh("op/1/1"); res.GetError() != nil {
			t.Errorf("result %v", res)
		}
		if s := r.region.status(); !s.GetReachable() {
			t.Errorf("status %v", s)
		}
	})
}

func TestACredentialSealedForAnotherEpochIsNotSent(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		a := assignment("h1", 4)
		a.SealedCredential = seal("uid-h1/3", "right")
		r.Assign(t.Context(), a)
		wait(time.Second)
		if s := r.region.status(); s.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_AUTH || r.fleet.Host("h1").Logins() != 0 {
			t.Errorf("status %v, %d logins", s, r.fleet.Host("h1").Logins())
		}
	})
}

func TestP8AChangedHostKeyIsSentNoCredential(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.SetHostKey("new")
		a := assignment("h1", 1)
		a.HostKey, a.SealedCredential = "old", seal("uid-h1/1", "secret")
		r.Assign(t.Context(), a)
		wait(24 * time.Hour)
		s := r.region.status()
		if s.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_HOST_KEY || s.GetError().GetPresentedHostKey() != "new" || host.Logins() != 0 {
			t.Errorf("status %v after %d logins", s, host.Logins())
		}
	})
}

func TestP5LookingAtAHostChangesNothing(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		host.Put(foreign("f"))
		host.PutVolume("default", "by-hand", 1)
		before := host.All()
		r.assign("h1", 1)
		host.Disconnect()
		wait(time.Hour)
		r.disconnect()
		r.connect()
		r.assign("h1", 2)
		r.Unassign(t.Context(), "uid-h1")
		wait(time.Hour)
		if diff := cmp.Diff(before, host.All(), protocmp.Transform()); diff != "" || len(host.Volumes("default")) != 1 {
			t.Errorf("volumes %v, machines (-before +after):\n%s", host.Volumes("default"), diff)
		}
		for _, m := range []fake.Method{fake.Create, fake.Delete, fake.SetPower} {
			if n := host.Calls(m); n != 0 {
				t.Errorf("%d calls of %s", n, m)
			}
		}
	})
}

func TestAnAddressThatNoDriverTakesIsReported(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		for i, address := range []string{"qemu:///system", "fake://h1?x", "fake://none"} {
			a := assignment("h1", int64(i+1))
			a.Address, a.Uid = address, fmt.Sprint(i)
			r.Assign(t.Context(), a)
			wait(time.Second)
			if s := r.region.status(); s.GetReachable() || s.GetError().GetHint() == "" {
				t.Errorf("status of %s is %v", address, s)
			}
		}
	})
}

func TestAResultIsNotSentBeforeAReadingThatIsOlder(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host := r.fleet.Host("h1")
		release := host.Hang(fake.Machines)
		refresh := step("h1", "refresh", 1)
		refresh.Action = &rackv1.Step_RefreshHost{}
		r.region.forget()
		r.Do(t.Context(), refresh)
		wait(time.Millisecond)
		r.Do(t.Context(), createStep("h1", "create", "m1", 1))
		wait(time.Second)
		if host.Calls(fake.Create) != 1 || len(r.region.results()) != 0 {
			t.Fatalf("%d creates, results %v", host.Calls(fake.Create), r.region.results())
		}
		release()
		wait(time.Second)
		r.result("create")
		for _, m := range r.region.all() {
			if m.GetHostInventory() != nil {
				break
			}
			if m.GetStepResult() != nil {
				t.Error("the result came before the inventory")
			}
		}

		defer host.Hang(fake.Machines)()
		r.Do(t.Context(), refresh)
		wait(time.Millisecond)
		r.Do(t.Context(), createStep("h1", "create2", "m2", 1))
		wait(10 * time.Second)
		r.result("create2") // a reading that hangs holds nothing up for long
	})
}

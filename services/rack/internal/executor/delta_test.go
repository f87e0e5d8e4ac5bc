package executor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// told is what a region that listened to inventories and changes has of a host:
// names by uuid. It fails the test when a delta comes before anything whole.
func told(t *testing.T, e *ear) map[string]string {
	t.Helper()
	have := map[string]string{}
	whole := false
	for _, m := range e.all() {
		if inv := m.GetHostInventory(); inv != nil {
			if !inv.GetDelta() && inv.GetObservation() != nil {
				have, whole = map[string]string{}, true
			}
			if inv.GetDelta() && !whole {
				t.Errorf("a delta %v before anything whole", inv)
			}
			for _, x := range inv.GetMachines() {
				have[x.GetUuid()] = x.GetPowerState().String()
			}
			for _, uuid := range inv.GetGoneUuids() {
				delete(have, uuid)
			}
		}
		if c := m.GetMachineChange(); c.GetPresent() != nil {
			have[c.GetPresent().GetUuid()] = c.GetPresent().GetPowerState().String()
		} else if c != nil {
			delete(have, c.GetGoneUuid())
		}
		if x := m.GetStepResult().GetMachine(); x != nil {
			have[x.GetUuid()] = x.GetPowerState().String()
		}
	}
	return have
}

func has(t *testing.T, h *fake.Host) map[string]string {
	t.Helper()
	have := map[string]string{}
	for _, m := range h.All() {
		have[m.GetUuid()] = m.GetPowerState().String()
	}
	return have
}

func TestAfterTheFirstInventoryOnlyChangesTravel(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		for i := range 3 {
			host.Put(foreign(fmt.Sprint(i)))
		}
		r.assign("h1", 1)
		r.region.forget()
		wait(5 * time.Minute)
		quiet := r.region.inventories()
		for _, inv := range quiet {
			if !inv.GetDelta() || !inv.GetLast() || inv.GetObservation() != nil || len(inv.GetMachines())+len(inv.GetGoneUuids()) != 0 {
				t.Errorf("with nothing changed the region was sent %v", inv)
			}
		}
		if n := len(quiet); n < 4 || n > 6 {
			t.Errorf("%d signs in five minutes that the host was read", n)
		}
		r.quietly(func() {
			host.Put(foreign("3"))
			host.Remove("0")
			_ = host.Power("1", on)
		})
		r.region.forget()
		wait(70 * time.Second)
		inv := r.region.inventories()
		if len(inv) == 0 {
			t.Fatal("no inventory")
		}
		d := inv[0]
		if !d.GetDelta() || len(d.GetMachines()) != 2 || len(d.GetGoneUuids()) != 1 || d.GetGoneUuids()[0] != "0" || !d.GetLast() || len(r.region.changes()) != 0 {
			t.Errorf("delta %v and changes %v", d, r.region.changes())
		}
	})
}

func TestEverySessionAndEpochBeginsWithAWholeInventory(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.fleet.Host("h1").Put(foreign("f"))
		r.assign("h1", 1)
		for name, begin := range map[string]func(){
			"a new session": func() { r.disconnect(); r.connect() },
			"a new epoch":   func() { r.Assign(t.Context(), assignment("h1", 2)) },
			"asked for":     func() { r.ReportAgain(t.Context(), "uid-h1", r.region.inventories()[0].GetEpoch()) },
		} {
			before := r.region
			if name != "asked for" {
				r.region.forget()
			}
			n := len(r.region.inventories())
			begin()
			wait(time.Second)
			if r.region != before {
				n = 0
			}
			inv := r.region.inventories()[n:]
			if len(inv) == 0 || inv[0].GetDelta() || inv[0].GetObservation() == nil || len(inv[0].GetMachines()) != 1 {
				t.Errorf("%s begins with %v", name, inv)
			}
		}
	})
}

func TestWhatWasNotSentIsNotTakenForTold(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		for i := range 1200 {
			host.Put(foreign(fmt.Sprint(i)))
		}
		r.assign("h1", 1)
		r.quietly(func() {
			for i := range 1100 {
				_ = host.Power(fmt.Sprint(i), on)
			}
		})
		r.region.forget()
		r.region.failAfter(2) // the delta has three parts
		wait(70 * time.Second)
		r.region.forget()
		r.region.failAfter(-1)
		wait(70 * time.Second)
		sent := 0
		for _, inv := range r.region.inventories() {
			sent += len(inv.GetMachines())
		}
		if sent != 1100 {
			t.Errorf("after a report that broke off, %d of 1100 changed machines were sent", sent)
		}
	})
}

func TestPartsAreBoundedInMachinesAndBytes(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		for i := range 40 {
			m := foreign(fmt.Sprint(i))
			m.Problem = strings.Repeat("x", 100<<10)
			host.Put(m)
		}
		huge := foreign("huge")
		huge.Problem = strings.Repeat("y", 2<<20)
		host.Put(huge)
		r.assign("h1", 1)
		total := 0
		for i, p := range r.region.inventories() {
			total += len(p.GetMachines())
			if size := proto.Size(p); size > 1<<20 && len(p.GetMachines()) > 1 {
				t.Errorf("part %d has %d bytes with %d machines", i, size, len(p.GetMachines()))
			}
		}
		if parts := len(r.region.inventories()); total != 41 || parts < 5 || parts > 7 {
			t.Errorf("%d machines in %d parts", total, parts)
		}
	})
}

func TestARegionThatAsksForAllAgainAndAgainIsAnsweredEverMoreSeldom(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		r.region.forget()
		r.region.answer(func(m *rackv1.ConnectRequest) {
			if inv := m.GetHostInventory(); inv != nil && inv.GetLast() { // none can be recorded
				r.ReportAgain(t.Context(), "uid-h1", inv.GetEpoch())
			}
		})
		r.ReportAgain(t.Context(), "uid-h1", 1)
		wait(time.Hour)
		if n := len(r.region.inventories()); n < 60 || n > 250 {
			t.Errorf("%d reports in an hour to a region that can record none", n)
		}
		r.ReportAgain(t.Context(), "uid-h1", 7) // of another epoch
		r.ReportAgain(t.Context(), "uid-none", 1)
	})
}

// What a result tells of a machine is older than what the next report has.
func TestAMachineThatAResultToldOfIsNotForgotten(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		host := r.fleet.Host("h1")
		r.quietly(func() {
			r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
			wait(time.Millisecond)
			host.Remove("m") // before anything else was told of it
		})
		if have := told(t, r.region); have["m"] == "" {
			t.Errorf("the region was told %v, and nothing of the machine's end", have)
		}
		wait(70 * time.Second)
		if have := told(t, r.region); have["m"] != "" {
			t.Errorf("the region still has %v", have)
		}
	})
}

func TestAResultOfOldIsCorrectedByTheNextReport(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.assign("h1", 1)
		r.disconnect()
		host := r.fleet.Host("h1")
		r.Do(t.Context(), createStep("h1", "op/0/1", "m", 1))
		wait(time.Second)
		host.Remove("m")
		wait(time.Second)
		r.region = &ear{}
		r.Connected(r.region, &rackv1.RegionHello{Session: "s2"})
		host.Put(foreign("f")) // has the host reported before the result is
		wait(time.Second)
		if len(r.region.inventories()) != 1 || len(r.region.results()) != 0 {
			t.Fatalf("messages %v", r.region.all())
		}
		ctx, cancel := context.WithCancel(context.Background())
		go r.Resume(ctx)
		wait(time.Second)
		cancel()
		if have := told(t, r.region); len(r.region.results()) != 1 || have["m"] != "" || have["f"] == "" {
			t.Errorf("results %v, and the region has %v", r.region.results(), have)
		}
	})
}

func TestWhatTheRegionWasToldIsWhatTheHostHas(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.fleet.Host("h1")
		r.assign("h1", 1)
		for i := range 200 {
			uuid := fmt.Sprint(i * 7 % 13)
			do := r.quietly
			if i%3 > 0 {
				do = func(f func()) { f() }
			}
			do(func() {
				switch i % 5 {
				case 0, 1:
					host.Put(foreign(uuid))
				case 2:
					_ = host.Power(uuid, on) // it may not be there
				case 3:
					host.Remove(uuid)
				case 4:
					r.Do(t.Context(), createStep("h1", fmt.Sprint("op/", i), "m"+uuid, 1))
				}
			})
			wait(time.Duration(i*i%997) * time.Millisecond)
		}
		wait(2 * time.Minute)
		want, got := has(t, host), told(t, r.region)
		for uuid, power := range want {
			if got[uuid] != power {
				t.Errorf("machine %s is %s, the region was told %q", uuid, power, got[uuid])
			}
		}
		if len(got) != len(want) {
			t.Errorf("the region has %v, the host %v", got, want)
		}
	})
}

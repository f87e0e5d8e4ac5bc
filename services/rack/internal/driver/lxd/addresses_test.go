package lxd

import (
	"fmt"
	"slices"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
)

// A machine makes itself an address of IPv6 as soon as a router says of which
// network, and may be given one of IPv4 seconds later.
func TestAnAddressThatComesAfterAnotherIsTold(t *testing.T) {
	const mac = "00:16:3e:00:00:01"
	f := newFakeLXD(t)
	i := fakeInstance("m1", fakeUUID, map[string]string{labelUID: fakeUUID, labelUUID: fakeUUID, "volatile.eth0.hwaddr": mac})
	i.Status, i.StatusCode = "Running", lxdapi.Running
	i.Devices = map[string]map[string]string{"eth0": {"type": "nic", "network": "lxdbr0", "name": "eth0"}}
	f.set("GET /1.0/instances", []lxdapi.Instance{i})
	f.set("GET /1.0/instances/m1", i)
	state := func(list ...string) lxdapi.InstanceState {
		n := lxdapi.InstanceStateNetwork{Hwaddr: mac}
		for _, a := range list {
			n.Addresses = append(n.Addresses, lxdapi.InstanceStateNetworkAddress{Address: a, Scope: "global"})
		}
		return lxdapi.InstanceState{Network: map[string]lxdapi.InstanceStateNetwork{"eth0": n}}
	}
	f.set("GET /1.0/instances/m1/state", state())
	d := f.open(t, Config{AddressInterval: time.Millisecond})
	ctx := timeout(t, 20*time.Second)
	events, err := d.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Inventory(ctx); err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]string{{"fd00::1"}, {"10.0.0.1", "fd00::1"}} {
		f.set("GET /1.0/instances/m1/state", state(list...))
		for got := []string(nil); !slices.Equal(got, list); {
			select {
			case <-events:
				got = d.addresses.of(fakeUUID, mac)
			case <-ctx.Done():
				t.Fatalf("%v, want %v", d.addresses.of(fakeUUID, mac), list)
			}
		}
	}
}

func TestMachinesWithAddressesAreLookedAtEverMoreSeldomAndAfterOthers(t *testing.T) {
	a := newAddresses(2 * time.Second)
	start := time.Now()
	for n := range 2 * mostLooks {
		l := &live{since: start, ours: true, place: place{"default", fmt.Sprint("m", n)}}
		if n%2 == 0 {
			l.addrs = map[string][]string{"m": {"fd00::1"}}
		}
		a.known[fmt.Sprint(n)] = l
	}
	ids, places := a.waiting(start)
	if len(ids) != mostLooks || len(places) != mostLooks {
		t.Fatalf("%d are looked at", len(ids))
	}
	for n, id := range ids {
		if a.known[id].settled() || a.known[id].place != places[n] {
			t.Errorf("%s has an address, or is elsewhere than %v", id, places[n])
		}
	}
	for id, l := range a.known {
		if id != "0" {
			l.ours = false
		}
	}
	var looks []int
	for after := time.Duration(0); after < 5*time.Minute; after += time.Second {
		if ids, _ := a.waiting(start.Add(after)); len(ids) > 0 {
			looks = append(looks, int(after.Seconds()))
		}
	}
	if want := []int{0, 2, 6, 14, 30, 62}; !slices.Equal(looks, want) {
		t.Errorf("looked at after %v seconds, want %v", looks, want)
	}
}

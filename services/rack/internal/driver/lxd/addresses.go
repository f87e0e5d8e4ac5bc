package lxd

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
)

const (
	// mostLooks is how many machines are looked at in one round of the poll.
	mostLooks = 8
	// hopeFor is how long a machine that has started is expected to get its addresses:
	// one that has none yet soon, and after that it is looked at ever more seldom; one
	// that has some may get more, one of IPv6 often before one of IPv4.
	hopeFor = 2 * time.Minute
	// leasesFor is how long leases are kept: a list asks for them when a machine
	// runs of which no address is known.
	leasesFor = 20 * time.Second
)

// addresses are what is known of running instances besides the list: their
// addresses, and what their root disks hold. They come without an event.
type addresses struct {
	every time.Duration // is how often they are looked for
	mu    *sync.Mutex
	known map[string]*live // by uuid
	lease *leases
}

// live is what the state of one running instance said.
type live struct {
	since time.Time           // first seen running
	next  time.Time           // when it is to be looked at again
	wait  time.Duration       // and after that
	addrs map[string][]string // by MAC
	stale bool                // something happened since
	ours  bool
	place place
	disk  int64 // what the root disk holds, bytes; 0 when not known
}

type leases struct {
	byMAC map[string][]string
	at    time.Time
}

func newAddresses(every time.Duration) addresses {
	return addresses{every: every, mu: &sync.Mutex{}, known: map[string]*live{}, lease: &leases{}}
}

// of answers the addresses of a card.
func (a addresses) of(id, mac string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.known[id]; l != nil && mac != "" && len(l.addrs[mac]) > 0 {
		return l.addrs[mac]
	}
	if mac == "" {
		return nil
	}
	return a.lease.byMAC[mac]
}

// keep takes a whole list: what does not run has no addresses.
func (a addresses) keep(list []*instance, ours func(*instance) bool) {
	running := make(map[string]bool, len(list))
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range list {
		if i.running() {
			running[i.uuid] = true
			a.note(i, ours(i))
		}
	}
	for id := range a.known {
		if !running[id] {
			delete(a.known, id)
		}
	}
}

// note makes sure that a running instance is known; a.mu is held.
func (a addresses) note(i *instance, ours bool) {
	l := a.known[i.uuid]
	if l == nil {
		l = &live{since: time.Now()}
		a.known[i.uuid] = l
	}
	l.ours, l.place = ours, i.place()
}

// changed notes that something happened to an instance.
func (a addresses) changed(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.known[id]; l != nil {
		l.stale, l.since, l.next, l.wait = true, time.Now(), time.Time{}, 0
	}
}

// usage is what root disks of machines that vmhost made hold in each pool, as far
// as it is known. It is never more than that: what is not known counts as
// foreign, and so does what adopted machines hold, which is not committed.
func (a addresses) usage(list []*instance, ours func(*instance) bool) map[string]int64 {
	out := map[string]int64{}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range list {
		l := a.known[i.uuid]
		if l == nil || !ours(i) || !strings.EqualFold(i.Config[labelUID], i.uuid) {
			continue
		}
		for _, dev := range i.expanded() {
			if dev["type"] == "disk" && dev["path"] == "/" {
				out[dev["pool"]] += l.disk
			}
		}
	}
	return out
}

// readState reads the state of one instance, with its addresses.
func (d *Driver) readState(ctx context.Context, i *instance) error {
	if !i.running() {
		d.addresses.mu.Lock()
		delete(d.addresses.known, i.uuid)
		d.addresses.mu.Unlock()
		return nil
	}
	d.addresses.mu.Lock()
	d.addresses.note(i, d.ours(i))
	d.addresses.mu.Unlock()
	_, err := d.look(ctx, i.uuid, i.place())
	if err != nil && unknown(err) {
		return err
	}
	// It may have stopped in between; the next event says so.
	return nil
}

// look reads an instance's state and answers whether its addresses changed.
func (d *Driver) look(ctx context.Context, id string, p place) (bool, error) {
	state, err := get[lxdapi.InstanceState](ctx, d.conn, "read state of instance "+p.name,
		"/1.0/instances/"+url.PathEscape(p.name)+"/state?"+url.Values{"project": {p.project}}.Encode())
	if err != nil {
		return false, err
	}
	addrs := map[string][]string{}
	for _, n := range state.Network {
		mac := strings.ToLower(n.Hwaddr)
		for _, a := range n.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if err != nil || a.Scope != "global" || mac == "" {
				continue
			}
			addrs[mac] = append(addrs[mac], ip.String())
		}
		sortAddresses(addrs[mac])
	}
	d.addresses.mu.Lock()
	defer d.addresses.mu.Unlock()
	l := d.addresses.known[id]
	if l == nil {
		return false, nil
	}
	changed := !equalAddresses(l.addrs, addrs)
	l.addrs, l.stale, l.disk = addrs, false, state.Disk["root"].Usage
	return changed, nil
}

// sortAddresses puts IPv4 before IPv6, and else by number.
func sortAddresses(list []string) {
	slices.SortFunc(list, func(a, b string) int {
		x, _ := netip.ParseAddr(a)
		y, _ := netip.ParseAddr(b)
		return x.Compare(y)
	})
}

func equalAddresses(a, b map[string][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for mac, list := range a {
		if !slices.Equal(list, b[mac]) {
			return false
		}
	}
	return true
}

// waiting are running machines of ours that may have addresses which are not known,
// and of which it is time to look; before all others those that have none.
func (a addresses) waiting(now time.Time) (ids []string, places []place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var have []string
	for id, l := range a.known {
		switch {
		case !l.ours || now.Before(l.next) || l.settled() && l.late(now):
		case l.settled():
			have = append(have, id)
		default:
			ids = append(ids, id)
		}
	}
	ids = append(ids, have...)
	ids = ids[:min(len(ids), mostLooks)]
	for _, id := range ids {
		l := a.known[id]
		switch {
		case l.settled():
			l.wait = max(2*l.wait, a.every)
		case l.late(now):
			l.wait = min(max(2*l.wait, 10*time.Second), 5*time.Minute)
		}
		l.next = now.Add(l.wait)
		places = append(places, l.place)
	}
	return ids, places
}

// settled says whether some addresses are known.
func (l *live) settled() bool { return len(l.addrs) > 0 && !l.stale }

// late says whether there is not much hope for others.
func (l *live) late(now time.Time) bool { return now.Sub(l.since) > hopeFor }

// pollAddresses looks at running machines of ours that may get addresses, and tells
// listeners when they got one.
func (d *Driver) pollAddresses(ctx context.Context) {
	t := time.NewTicker(d.cfg.AddressInterval)
	defer t.Stop()
	for {
		select {
		case <-d.conn.dead:
			return
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !d.listeners.Any() {
			continue
		}
		ids, places := d.addresses.waiting(time.Now())
		for n, id := range ids {
			one, cancel := context.WithTimeout(ctx, d.cfg.DialTimeout)
			changed, err := d.look(one, id, places[n])
			cancel()
			if err == nil && changed {
				d.listeners.Tell(id)
			}
		}
	}
}

// readLeases reads the leases of managed networks, one call each, when some
// machine runs on them of which no address is known. What fails is left: it is
// not part of what a list promises.
func (d *Driver) readLeases(ctx context.Context, list []*instance, v *view) {
	wanted := map[string]bool{}
	for _, i := range list {
		if !i.running() {
			continue
		}
		for name, dev := range i.expanded() {
			source := firstOf(dev["network"], dev["parent"])
			n := v.networks[source]
			if dev["type"] == "nic" && n != nil && n.Managed && n.Type == "bridge" && len(d.addresses.of(i.uuid, macOf(i, name, dev))) == 0 {
				wanted[source] = true
			}
		}
	}
	d.addresses.mu.Lock()
	fresh := time.Since(d.addresses.lease.at) < leasesFor
	d.addresses.mu.Unlock()
	if len(wanted) == 0 || fresh {
		return
	}
	byMAC := map[string][]string{}
	for name := range wanted {
		rows, err := get[[]lxdapi.NetworkLease](ctx, d.conn, "read leases of network "+name, d.onMember(d.in("/1.0/networks/"+url.PathEscape(name)+"/leases")))
		if err != nil {
			return
		}
		for _, row := range rows {
			ip, err := netip.ParseAddr(row.Address)
			// Of IPv6, LXD lists what a machine would make of its MAC, not what it has.
			if err == nil && row.Hwaddr != "" && ip.Is4() && d.here(row.Location) {
				mac := strings.ToLower(row.Hwaddr)
				byMAC[mac] = append(byMAC[mac], ip.String())
			}
		}
	}
	for _, list := range byMAC {
		sortAddresses(list)
	}
	d.addresses.mu.Lock()
	defer d.addresses.mu.Unlock()
	d.addresses.lease.byMAC, d.addresses.lease.at = byMAC, time.Now()
}

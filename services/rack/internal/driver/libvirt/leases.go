package libvirt

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// freshLease is how long a machine that has just started is looked at even
// though it has an address: the lease may be that of its last run.
const freshLease = 90 * time.Second

// leases are the addresses that libvirt's own DHCP servers gave out. They come
// without an event, so they are polled, by one call per network and only while
// some running machine of ours waits for one.
type leases struct {
	mu       *sync.Mutex
	networks map[string]map[string][]string // network, MAC, addresses
	running  map[lv.UUID]*running
}

// running is a running machine of ours on a network with leases.
type running struct {
	since    time.Time
	networks map[string][]string // network, MACs
}

func newLeases() leases {
	return leases{mu: &sync.Mutex{}, networks: map[string]map[string][]string{}, running: map[lv.UUID]*running{}}
}

// of answers the addresses of a MAC.
func (l leases) of(network, mac string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.networks[network][mac]
}

// note remembers a machine that was seen, for the poll.
func (l leases) note(one *seen, known []network) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !one.ours() || !one.running() {
		delete(l.running, one.dom.UUID)
		return
	}
	r := &running{since: time.Now(), networks: map[string][]string{}}
	if before := l.running[one.dom.UUID]; before != nil {
		r.since = before.since
	}
	for _, i := range one.record.domain.interfaces {
		if n := leasedBy(i, known); n != "" {
			r.networks[n] = append(r.networks[n], i.GetMac())
		}
	}
	l.running[one.dom.UUID] = r
}

// forget drops machines that are not there any more.
func (l leases) forget(domains []*seen) {
	present := make(map[lv.UUID]bool, len(domains))
	for _, one := range domains {
		present[one.dom.UUID] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.running {
		if !present[id] {
			delete(l.running, id)
		}
	}
}

// waiting are the networks on which a machine may get an address at any time.
func (l leases) waiting(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := map[string]bool{}
	for _, r := range l.running {
		for n, macs := range r.networks {
			for _, mac := range macs {
				if now.Sub(r.since) < freshLease || len(l.networks[n][mac]) == 0 {
					set[n] = true
				}
			}
		}
	}
	out := make([]string, 0, len(set))
	for n := range set {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// put stores what a network's DHCP server gave out and answers the machines
// whose addresses changed by it.
func (l leases) put(name string, now map[string][]string) []lv.UUID {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.networks[name]
	l.networks[name] = now
	var changed []lv.UUID
	for id, r := range l.running {
		for _, mac := range r.networks[name] {
			if !slices.Equal(before[mac], now[mac]) {
				changed = append(changed, id)
				break
			}
		}
	}
	return changed
}

// leasedBy is the network whose DHCP server an interface gets its address from;
// empty when libvirt runs none for it.
func leasedBy(i *vmhostv1.MachineInterface, known []network) string {
	for _, n := range known {
		if !n.dhcp || !n.active {
			continue
		}
		switch i.GetKind() {
		case vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK:
			if i.GetSource() == n.name {
				return n.name
			}
		case vmhostv1.InterfaceKind_INTERFACE_KIND_BRIDGE:
			if n.bridge != "" && i.GetSource() == n.bridge {
				return n.name
			}
		default:
		}
	}
	return ""
}

// readLeases reads the leases of networks, one call each, and tells the
// listeners of machines whose addresses changed. A network that is gone or
// stopped has none.
func (d *Driver) readLeases(ctx context.Context, names []string) {
	for _, name := range names {
		n, ok := d.facts.network(name)
		if !ok {
			continue
		}
		rows, err := call(ctx, d.conn, "read DHCP leases of network "+name, fast, func(a api) ([]lv.NetworkDhcpLease, error) {
			rows, _, err := a.NetworkGetDhcpLeases(n.handle, nil, 1, 0)
			return rows, err
		})
		if err != nil {
			d.log.DebugContext(ctx, "DHCP leases cannot be read", "network", name, "error", err)
			continue
		}
		byMAC := map[string][]string{}
		for _, row := range rows {
			if len(row.Mac) > 0 && row.Ipaddr != "" {
				mac := strings.ToLower(row.Mac[0])
				byMAC[mac] = append(byMAC[mac], row.Ipaddr)
			}
		}
		for _, addresses := range byMAC {
			slices.Sort(addresses)
		}
		for _, id := range d.leases.put(name, byMAC) {
			d.listeners.Tell(uuid.UUID(id).String())
		}
	}
}

// pollLeases looks for new addresses until the connection ends.
func (d *Driver) pollLeases(ctx context.Context) {
	t := time.NewTicker(d.cfg.LeaseInterval)
	defer t.Stop()
	for {
		select {
		case <-d.conn.dead:
			return
		case <-t.C:
		}
		if names := d.leases.waiting(time.Now()); len(names) > 0 && d.listeners.Any() {
			callCtx, cancel := context.WithTimeout(ctx, d.cfg.PingTimeout)
			d.readLeases(callCtx, names)
			cancel()
		}
	}
}

package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"
	"libvirt.org/go/libvirtxml"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// slowFactsFor is how long what hardly ever changes on a host is good: its
// capabilities, the XML of networks, its bridges and devices. None of it has
// events that arrive. What a limit is computed from is never kept.
const slowFactsFor = 30 * time.Second

// pool is a storage pool as this package uses it.
type pool struct {
	handle                          lv.StoragePool
	name, kind, path                string
	capacity, allocation, available uint64
	active                          bool
	problem                         string // what libvirt says is wrong with it
	shared                          string // what is behind it, where other hosts can have that as well
}

// network is a network of libvirt.
type network struct {
	handle       lv.Network
	name, bridge string
	cidrs        []string
	dhcp, active bool
	bridged      bool // attaches guests to a bridge of the host's own
	vlan         int32
	forward      string   // how it reaches outside; empty: not at all
	uplinks      []string // devices that it is bound to
	addresses    []string // of the host
	mtu          int32
	functionsOf  string            // the device whose virtual functions it hands out
	switched     bool              // by Open vSwitch
	fixed        map[string]string // addresses by MAC that its DHCP server gives
	vlans        []int32           // that it carries, tagged, besides its own
}

// facts are what is known of a host besides its domains.
type facts struct {
	mu          sync.Mutex
	poolList    []pool
	poolsKnown  bool
	networkList []network
	netsKnown   bool
	netXML      map[lv.UUID]keptXML

	static   *staticFacts
	caps     *libvirtxml.Caps
	capsAt   time.Time
	links    []*vmhostv1.HostNetwork
	linksAt  time.Time
	sriov    []sriovDevice
	sriovAt  time.Time
	secure   bool // guests of the host's architecture can have secure boot
	secureAt time.Time
}

type keptXML struct {
	net network
	at  time.Time
}

// staticFacts cannot change while a connection lives.
type staticFacts struct {
	hostname        string
	libvirt, driver uint64
}

func (f *facts) pools() []pool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.poolList
}

func (f *facts) networks() []network {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.networkList
}

func (f *facts) network(name string) (network, bool) {
	for _, n := range f.networks() {
		if n.name == name {
			return n, true
		}
	}
	return network{}, false
}

// loadPoolsAndNetworks makes sure that both were read once; Probe reads them
// anew.
func (d *Driver) loadPoolsAndNetworks(ctx context.Context) error {
	d.facts.mu.Lock()
	havePools, haveNets := d.facts.poolsKnown, d.facts.netsKnown
	d.facts.mu.Unlock()
	if !havePools {
		if err := d.readPools(ctx); err != nil {
			return err
		}
	}
	if !haveNets {
		return d.readNetworks(ctx)
	}
	return nil
}

// readPools reads all storage pools. It does not refresh them: that would change
// what others see, and may take minutes.
func (d *Driver) readPools(ctx context.Context) error {
	var out []pool
	for _, active := range []bool{true, false} {
		flag := lv.ConnectListStoragePoolsInactive
		if active {
			flag = lv.ConnectListStoragePoolsActive
		}
		list, err := call(ctx, d.conn, "list storage pools", fast, func(a api) ([]lv.StoragePool, error) {
			list, _, err := a.ConnectListAllStoragePools(1, flag)
			return list, err
		})
		if err != nil {
			return err
		}
		for _, h := range list {
			out = append(out, pool{handle: h, name: valid(h.Name), active: active})
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(callsAtOnce)
	for i := range out {
		p := &out[i]
		group.Go(func() error {
			text, err := call(gctx, d.conn, "read storage pool "+p.name, fast, func(a api) (string, error) { return a.StoragePoolGetXMLDesc(p.handle, 0) })
			if err != nil {
				if number(err) == lv.ErrOk {
					return err
				}
				// Gone between the two calls, or in trouble: shown, not usable.
				p.active, p.problem = false, err.Error()
				return nil
			}
			if err := readPoolXML(p, text); err != nil {
				p.active, p.problem = false, valid(err.Error())
			} else if !p.active {
				p.problem = "the storage pool is not running"
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(out, func(a, b pool) int { return strings.Compare(a.name, b.name) })
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.poolList, d.facts.poolsKnown = out, true
	return nil
}

func readPoolXML(p *pool, text string) error {
	var x libvirtxml.StoragePool
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return fmt.Errorf("read the XML of storage pool %s: %w", p.name, err)
	}
	p.kind, p.shared = x.Type, sharedIdentity(&x)
	if x.Target != nil {
		p.path = strings.TrimSuffix(x.Target.Path, "/")
	}
	// The unit is always bytes in what libvirt writes.
	if x.Capacity != nil {
		p.capacity = x.Capacity.Value
	}
	if x.Allocation != nil {
		p.allocation = x.Allocation.Value
	}
	if x.Available != nil {
		p.available = x.Available.Value
	}
	return nil
}

// readNetworks reads all networks of libvirt.
func (d *Driver) readNetworks(ctx context.Context) error {
	var out []network
	for _, active := range []bool{true, false} {
		flag := lv.ConnectListNetworksInactive
		if active {
			flag = lv.ConnectListNetworksActive
		}
		list, err := call(ctx, d.conn, "list networks", fast, func(a api) ([]lv.Network, error) {
			list, _, err := a.ConnectListAllNetworks(1, flag)
			return list, err
		})
		if err != nil {
			return err
		}
		for _, h := range list {
			n, ok, err := d.readNetwork(ctx, h)
			if err != nil {
				return err
			}
			if ok {
				n.active = active
				out = append(out, n)
			}
		}
	}
	slices.SortFunc(out, func(a, b network) int { return strings.Compare(a.name, b.name) })
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.networkList, d.facts.netsKnown = out, true
	return nil
}

// readNetwork reads one network, or answers what was read not long ago.
func (d *Driver) readNetwork(ctx context.Context, h lv.Network) (network, bool, error) {
	d.facts.mu.Lock()
	kept, ok := d.facts.netXML[h.UUID]
	d.facts.mu.Unlock()
	if ok && kept.net.handle.Name == h.Name && time.Since(kept.at) < slowFactsFor {
		return kept.net, true, nil
	}
	text, err := call(ctx, d.conn, "read network "+h.Name, fast, func(a api) (string, error) { return a.NetworkGetXMLDesc(h, 0) })
	if err != nil {
		if number(err) == lv.ErrOk {
			return network{}, false, err
		}
		return network{}, false, nil // gone between the two calls
	}
	n, err := parseNetwork(text)
	if err != nil {
		d.log.WarnContext(ctx, "network has XML that cannot be read", "network", h.Name, "error", err)
	}
	n.handle, n.name = h, valid(h.Name)
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	if d.facts.netXML == nil {
		d.facts.netXML = map[lv.UUID]keptXML{}
	}
	d.facts.netXML[h.UUID] = keptXML{net: n, at: time.Now()}
	return n, true, nil
}

func parseNetwork(text string) (network, error) {
	var x libvirtxml.Network
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return network{}, err
	}
	var n network
	if x.Bridge != nil {
		n.bridge = x.Bridge.Name
	}
	if x.Forward != nil {
		n.readForward(x.Forward)
	}
	if x.MTU != nil {
		n.mtu = int32(x.MTU.Size)
	}
	n.bridged = x.Forward != nil && x.Forward.Mode == "bridge" && n.bridge != ""
	if x.VLAN != nil && len(x.VLAN.Tags) == 1 {
		n.vlan = int32(x.VLAN.Tags[0].ID)
	}
	n.switched = x.VirtualPort != nil && x.VirtualPort.Params != nil && x.VirtualPort.Params.OpenVSwitch != nil
	if x.VLAN != nil && len(x.VLAN.Tags) > 1 {
		for _, tag := range x.VLAN.Tags {
			n.vlans = append(n.vlans, int32(tag.ID))
		}
	}
	for _, ip := range x.IPs {
		n.dhcp = n.dhcp || (ip.DHCP != nil && len(ip.DHCP.Ranges)+len(ip.DHCP.Hosts) > 0)
		if ip.DHCP != nil {
			for _, h := range ip.DHCP.Hosts {
				if h.MAC != "" && h.IP != "" {
					if n.fixed == nil {
						n.fixed = map[string]string{}
					}
					n.fixed[strings.ToLower(h.MAC)] = h.IP
				}
			}
		}
		if c, ok := cidrOf(ip); ok {
			n.cidrs, n.addresses = append(n.cidrs, c), append(n.addresses, ip.Address)
		}
	}
	return n, nil
}

// readForward reads how a network reaches outside. libvirt leaves the mode out
// where it is nat.
func (n *network) readForward(f *libvirtxml.NetworkForward) {
	n.forward = firstOf(f.Mode, "nat")
	add := func(dev string) {
		if dev != "" && !slices.Contains(n.uplinks, dev) {
			n.uplinks = append(n.uplinks, dev)
		}
	}
	add(f.Dev)
	for _, i := range f.Interfaces {
		add(i.Dev)
	}
	for _, pf := range f.PFs {
		add(pf.Dev)
	}
	if n.forward == "hostdev" && len(f.PFs) == 1 {
		n.functionsOf = f.PFs[0].Dev
	}
}

func cidrOf(ip libvirtxml.NetworkIP) (string, bool) {
	prefix, ok := subnetOf(ip.Address, strconv.FormatUint(uint64(ip.Prefix), 10), ip.Netmask)
	return prefix.String(), ok
}

// subnetOf is the subnet of an address with a prefix length or a mask.
func subnetOf(text, length, netmask string) (netip.Prefix, bool) {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	bits, err := strconv.Atoi(firstOf(length, "0"))
	if err != nil {
		return netip.Prefix{}, false
	}
	if bits == 0 {
		mask, err := netip.ParseAddr(netmask)
		if err != nil || !mask.Is4() {
			return netip.Prefix{}, false
		}
		for _, b := range mask.As4() {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
	}
	prefix, err := address.Prefix(bits)
	return prefix, err == nil
}

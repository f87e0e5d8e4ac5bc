package placement

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// static is what of a host does not change with what machines take of it.
type static struct {
	host  *Host    // as it was when this was made
	facts []uint32 // numbers of its words
	zone  uint32
	// shape is the number of what an image and a network without an address are
	// chosen by: hosts of one shape answer alike.
	shape uint32
	kvm   bool
	vms   bool // can run virtual machines
	cts   bool // can run containers
}

// index is the words of a fleet and of those made from it.
type index struct {
	facts, zones, shapes words
	initial              int // how many facts and shapes there were in the beginning
}

func (x *index) size() int { return x.facts.count() + x.shapes.count() }

// static is what it was, when nothing of it changed.
func (x *index) static(h *Host, before *static) *static {
	if before != nil && sameStatic(before.host, h) {
		return before
	}
	s := &static{host: h, zone: x.zones.number(h.Zone), shape: x.shapes.number(shapeOf(h)), kvm: h.KVM}
	s.vms, s.cts = h.typeFits(&Request{}), h.typeFits(&Request{Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER})
	add := func(kind, word string) { s.facts = append(s.facts, x.facts.number(kind+word)) }
	add(wordPool, h.ResourcePool)
	add(wordZone, h.Zone)
	add(wordType, typeWord(h.Type))
	add(wordCPU, h.CPUModel)
	for _, t := range h.Tags {
		add(wordTag, t)
	}
	for _, c := range h.Capabilities {
		add(wordCapability, c)
	}
	for _, a := range h.Architectures {
		add(wordArch, a)
	}
	return s
}

func sameStatic(a, b *Host) bool {
	return a.ResourcePool == b.ResourcePool && a.Zone == b.Zone && a.CPUModel == b.CPUModel && a.KVM == b.KVM && a.Type == b.Type &&
		slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Capabilities, b.Capabilities) && slices.Equal(a.Architectures, b.Architectures) &&
		slices.Equal(a.Profiles, b.Profiles) && slices.Equal(a.Images, b.Images) && slices.EqualFunc(a.Networks, b.Networks, sameNetwork)
}

// sameNetwork leaves out what only interfaces with an address and virtual
// functions are chosen by.
func sameNetwork(a, b Network) bool {
	return a.Name == b.Name && a.Kind == b.Kind && a.Bridge == b.Bridge && a.DHCP == b.DHCP && a.Active == b.Active && a.VLAN == b.VLAN &&
		slices.Equal(a.VLANs, b.VLANs) && slices.Equal(a.Subnets, b.Subnets) && a.Space == b.Space && slices.Equal(a.Tags, b.Tags)
}

// shapeOf is a hash, so that hosts with long lists of images cost no more.
func shapeOf(h *Host) string {
	e := encoder{}
	e.number(int64(h.Type))
	e.list(h.Architectures)
	e.list(h.Profiles)
	e.number(int64(len(h.Images)))
	for _, i := range h.Images {
		e.text(i.GetFingerprint())
		e.list(i.GetAliases())
		e.number(int64(i.GetType()))
		e.text(i.GetArchitecture())
	}
	for i := range h.Networks {
		n := &h.Networks[i]
		e.text(n.Name)
		e.text(n.Bridge)
		e.number(int64(n.Kind))
		e.flag(n.DHCP)
		e.flag(n.Active)
		e.number(int64(n.VLAN))
		e.number(int64(len(n.VLANs)))
		for _, v := range n.VLANs {
			e.number(int64(v))
		}
		e.number(int64(len(n.Subnets)))
		for _, s := range n.Subnets {
			e.text(s.String())
		}
		e.text(n.Space)
		e.list(n.Tags)
	}
	sum := sha256.Sum256(e.out)
	return string(sum[:])
}

// encoder writes what can be told apart when it is written one after the other.
type encoder struct{ out []byte }

func (e *encoder) number(n int64) { e.out = binary.AppendVarint(e.out, n) }

func (e *encoder) flag(b bool) {
	if b {
		e.number(1)
	} else {
		e.number(0)
	}
}

func (e *encoder) text(s string) {
	e.number(int64(len(s)))
	e.out = append(e.out, s...)
}

func (e *encoder) list(l []string) {
	e.number(int64(len(l)))
	for _, s := range l {
		e.text(s)
	}
}

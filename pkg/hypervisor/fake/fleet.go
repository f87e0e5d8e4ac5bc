package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// Fleet is a set of fake hosts, and the hypervisor.Opener of their addresses.
type Fleet struct {
	mu      sync.RWMutex
	hosts   map[string]*Host
	shared  map[string]*storage // by identity
	journal *journal            // nil when nothing is kept
}

var _ hypervisor.Opener = (*Fleet)(nil)

// NewFleet makes a fleet that lives as long as the process.
func NewFleet(specs ...HostSpec) *Fleet {
	f := &Fleet{hosts: map[string]*Host{}}
	for _, s := range specs {
		f.AddHost(s)
	}
	return f
}

// NewFleetFile makes a fleet whose machines and volumes are kept in a file, so
// that they outlive the process as a real hypervisor's would. A change is in the
// file before its call returns. Close the fleet at the end.
func NewFleetFile(path string, specs ...HostSpec) (*Fleet, error) {
	f := NewFleet(specs...)
	if err := f.load(path); err != nil {
		return nil, fmt.Errorf("read fake fleet %s: %w", path, err)
	}
	return f, nil
}

// AddHost adds the host or hosts of a spec and returns the first.
func (f *Fleet) AddHost(spec HostSpec) *Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first *Host
	for _, s := range spec.expand() {
		h := f.newHost(s)
		f.hosts[s.Name] = h
		if first == nil {
			first = h
		}
	}
	return first
}

// Host is the host of that name, nil when there is none.
func (f *Fleet) Host(name string) *Host {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.hosts[name]
}

// Names are the names of all hosts, sorted.
func (f *Fleet) Names() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Sorted(maps.Keys(f.hosts))
}

// Open connects to the fake host that the target's address names.
func (f *Fleet) Open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	h, err := f.find(target.Address)
	if err != nil {
		return nil, err
	}
	return h.open(ctx, target)
}

// HostKey is the key that the fake host presents.
func (f *Fleet) HostKey(ctx context.Context, address hypervisor.Address) (key, fingerprint string, err error) {
	h, err := f.find(address)
	if err != nil {
		return "", "", err
	}
	return h.readHostKey(ctx)
}

func (f *Fleet) find(address hypervisor.Address) (*Host, error) {
	if h := f.Host(address.Host); h != nil && address.Transport == hypervisor.TransportFake {
		return h, nil
	}
	return nil, &hypervisor.Error{
		Class: hypervisor.ErrUnreachable, Op: "find fake host",
		Err:  fmt.Errorf("no fake host answers at %s", address),
		Hint: "name the host in the rack's configuration of the fake driver",
	}
}

// Close ends the fleet's file. Connections stay, and change nothing any more.
func (f *Fleet) Close() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.journal == nil {
		return nil
	}
	return f.journal.close()
}

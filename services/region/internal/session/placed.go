package session

import (
	"slices"
	"sync"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// placed is which hosts are assigned to which racks: with a thousand racks that
// connect, none of them may look through all assignments. It follows the store, so
// that it can be behind a view for a moment; a session is told of what comes later.
type placed struct {
	mu     sync.Mutex
	byRack map[string][]string // hosts, in no order
}

// load begins anew with the assignments of a view.
func (p *placed) load(v *store.View) {
	byRack := map[string][]string{}
	for host, a := range store.Assignments.All(v) {
		rack := a.Value.GetRack()
		byRack[rack] = append(byRack[rack], host)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byRack = byRack
}

// note takes in one change, of a host that went from one rack to another; either
// may be empty.
func (p *placed) note(host, from, to string) {
	if from == to {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if rest := slices.DeleteFunc(p.byRack[from], func(h string) bool { return h == host }); len(rest) > 0 {
		p.byRack[from] = rest
	} else {
		delete(p.byRack, from)
	}
	if to != "" {
		p.byRack[to] = append(p.byRack[to], host)
	}
}

// hosts are the hosts of a rack.
func (p *placed) hosts(rack string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.byRack[rack])
}

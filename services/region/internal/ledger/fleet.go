package ledger

import (
	"slices"
	"sync"

	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Fleet is the fleet as placement sees it at a view.
func (l *Ledger) Fleet(v *store.View) *placement.Fleet { return l.fleets.at(v) }

// Hosts are the fleet's hosts, sorted by id. They must not be modified.
func (l *Ledger) Hosts(v *store.View) []*placement.Host {
	return slices.Collect(l.fleets.at(v).Hosts())
}

// draft is the fleet of a view with what was committed since, to decide on.
func (l *Ledger) draft(v *store.View) *placement.Draft {
	d := l.fleets.at(v).Draft()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range l.ahead {
		if c.revision <= v.Revision {
			delete(l.ahead, id) // the view has it
			continue
		}
		if spec, ok := store.VmHosts.Get(v, id); ok {
			observed, _ := store.Observed.Get(v, id)
			d.Put(placement.NewHost(spec.Value, observed.Value, c.value))
		}
	}
	return d
}

// fleets keeps the fleet of the newest view it was asked for. From one view to
// another it looks at the hosts only that changed in between, as long as views
// remember those.
type fleets struct {
	mu     sync.Mutex
	view   *store.View
	latest *placement.Fleet
}

func (f *fleets) at(v *store.View) *placement.Fleet {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view == nil {
		f.view, f.latest = v, whole(v)
		return f.latest
	}
	if f.view.Revision > v.Revision { // an older view: what has changed since is taken back
		changed, ok := f.view.HostsChangedSince(v.Revision)
		if !ok {
			return whole(v)
		}
		return update(f.latest, v, changed)
	}
	if changed, ok := v.HostsChangedSince(f.view.Revision); ok {
		f.latest = update(f.latest, v, changed)
	} else {
		f.latest = whole(v)
	}
	f.view = v
	return f.latest
}

// whole makes the fleet of every record.
func whole(v *store.View) *placement.Fleet {
	var hosts []*placement.Host
	for id, spec := range store.VmHosts.All(v) {
		observed, _ := store.Observed.Get(v, id)
		ledger, _ := store.Ledgers.Get(v, id)
		hosts = append(hosts, placement.NewHost(spec.Value, observed.Value, ledger.Value))
	}
	return placement.NewFleet(hosts)
}

// update is a fleet with some hosts as they are in a view.
func update(f *placement.Fleet, v *store.View, changed []string) *placement.Fleet {
	if len(changed) == 0 {
		return f
	}
	d := f.Draft()
	slices.Sort(changed)
	for _, id := range slices.Compact(changed) {
		spec, ok := store.VmHosts.Get(v, id)
		if !ok {
			d.Remove(id)
			continue
		}
		observed, _ := store.Observed.Get(v, id)
		ledger, _ := store.Ledgers.Get(v, id)
		d.Put(placement.NewHost(spec.Value, observed.Value, ledger.Value))
	}
	return d.Fleet()
}

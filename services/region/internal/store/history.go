package store

import "slices"

// maxHistory bounds how many changes a view remembers.
const maxHistory = 8192

// history is the latest changes of the records that hosts are placed by, and their
// machines shown with. Views share it: it is only ever appended to, under the store's lock.
type history struct {
	from     int64 // every change after this revision is in the list
	list     []HostChange
	sessions int64 // when a rack's session changed last; 0: not since from
}

// HostChange is one change of a record that a host is placed by, or its machines
// are shown with.
type HostChange struct {
	// ID is the host's.
	ID string
	// Revision is that of the first view with the change, ModRevision the key's; 0
	// when it was removed.
	Revision, ModRevision int64
	// Ledger says that it is the host's ledger that changed.
	Ledger bool
}

// with is the history after more changes, that follow a view.
func (h *history) with(before, revision int64, changes []Change) *history {
	out := &history{from: before}
	if h != nil {
		*out = *h
	}
	for i := range changes {
		c := &changes[i]
		made := HostChange{Revision: revision, ModRevision: c.ModRevision}
		switch c.Family {
		case Ledgers.Name():
			made.ID, made.Ledger = Ledgers.ID(c.Key), true
		case VmHosts.Name():
			made.ID = VmHosts.ID(c.Key)
		case Observed.Name():
			made.ID = Observed.ID(c.Key)
		case Assignments.Name():
			made.ID = Assignments.ID(c.Key)
		case Sessions.Name():
			out.sessions = revision
			continue
		default:
			continue
		}
		out.list = append(out.list, made)
	}
	if over := len(out.list) - maxHistory; over > 0 {
		out.from = out.list[over+maxHistory/2-1].Revision
		out.list = slices.DeleteFunc(slices.Clone(out.list), func(c HostChange) bool { return c.Revision <= out.from })
	}
	return out
}

// SessionsChangedSince says whether a session of a rack came, went or changed after
// a revision that HostsChangedSince answers for, up to this view.
func (v *View) SessionsChangedSince(revision int64) bool {
	return v.history != nil && v.history.sessions > revision
}

// HostChangesSince are the changes of hosts' specs, observations, ledgers and racks
// after a revision, up to this view, in order. They must not be modified. False when the
// view does not remember that far, or is older.
func (v *View) HostChangesSince(revision int64) ([]HostChange, bool) {
	if revision == v.Revision {
		return nil, true
	}
	if v.history == nil || revision < v.history.from || revision > v.Revision {
		return nil, false
	}
	list := v.history.list
	i, _ := slices.BinarySearchFunc(list, revision+1, func(c HostChange, r int64) int {
		return int(min(max(c.Revision-r, -1), 1))
	})
	return list[i:], true
}

// HostsChangedSince are the ids of the hosts of HostChangesSince; some may be in it
// twice.
func (v *View) HostsChangedSince(revision int64) ([]string, bool) {
	changes, ok := v.HostChangesSince(revision)
	if len(changes) == 0 {
		return nil, ok
	}
	out := make([]string, 0, len(changes))
	for _, c := range changes {
		out = append(out, c.ID)
	}
	return out, true
}

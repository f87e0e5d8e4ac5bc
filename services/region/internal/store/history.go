package store

import "slices"

// maxHistory bounds how many changes a view remembers.
const maxHistory = 8192

// history is the latest changes of the records that hosts are placed by, and their
// machines shown with. Views share it: it is only ever appended to, under the store's lock.
type history struct {
	from     int64 // every change after this revision is in the list
	list     []hostChange
	sessions int64 // when a rack's session changed last; 0: not since from
}

type hostChange struct {
	revision int64
	id       string
}

// with is the history after more changes, that follow a view.
func (h *history) with(before, revision int64, changes []Change) *history {
	out := &history{from: before}
	if h != nil {
		*out = *h
	}
	for _, c := range changes {
		if c.Family == Sessions.Name() {
			out.sessions = revision
		}
		for _, f := range []interface {
			Name() string
			ID(key string) string
		}{VmHosts, Observed, Ledgers, Assignments} {
			if c.Family == f.Name() {
				out.list = append(out.list, hostChange{revision, f.ID(c.Key)})
			}
		}
	}
	if over := len(out.list) - maxHistory; over > 0 {
		out.from = out.list[over+maxHistory/2-1].revision
		out.list = slices.DeleteFunc(slices.Clone(out.list), func(c hostChange) bool { return c.revision <= out.from })
	}
	return out
}

// SessionsChangedSince says whether a session of a rack came, went or changed after
// a revision that HostsChangedSince answers for, up to this view.
func (v *View) SessionsChangedSince(revision int64) bool {
	return v.history != nil && v.history.sessions > revision
}

// HostsChangedSince are the ids of hosts whose spec, observation, ledger or rack
// changed after a revision, up to this view; some may be in it twice. False when the view
// does not remember that far, or is older.
func (v *View) HostsChangedSince(revision int64) ([]string, bool) {
	if revision == v.Revision {
		return nil, true
	}
	if v.history == nil || revision < v.history.from || revision > v.Revision {
		return nil, false
	}
	list := v.history.list
	i, _ := slices.BinarySearchFunc(list, revision+1, func(c hostChange, r int64) int {
		return int(min(max(c.revision-r, -1), 1))
	})
	out := make([]string, 0, len(list)-i)
	for _, c := range list[i:] {
		out = append(out, c.id)
	}
	return out, true
}

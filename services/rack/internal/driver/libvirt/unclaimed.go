package libvirt

import (
	"context"
	"strings"

	"github.com/google/uuid"
)

// mostUnclaimed is how many volumes of a pool are looked at that no domain has.
const mostUnclaimed = 100

// unclaimed is what volumes have allocated in each pool that are named after a
// machine which the host has no domain of, by the machine's uid: a copy under way,
// a machine in the making, or what broken work has left. That costs one call per
// pool, and one for each such volume, of which there are few. What cannot be read is
// left out, and counts as others'.
func (d *Driver) unclaimed(ctx context.Context, s *snapshot, pools []pool) map[string]map[string]int64 {
	here := map[string]bool{}
	for _, one := range s.domains {
		if one.record.domain.ours() {
			here[strings.ToLower(one.record.domain.uid)] = true
		}
	}
	out := map[string]map[string]int64{}
	for _, p := range pools {
		if !p.active || p.shared != "" { // there it may be of a machine of another host
			continue
		}
		list, err := d.volumesOf(ctx, p)
		if err != nil {
			continue
		}
		looked := 0
		for _, v := range list {
			uid, ok := ownerByName(v.Name)
			if !ok || here[uid] {
				continue
			}
			if looked++; looked > mostUnclaimed {
				break
			}
			bytes, err := call(ctx, d.conn, "read volume "+v.Name, fast, func(a api) (uint64, error) {
				_, _, allocation, err := a.StorageVolGetInfo(v)
				return allocation, err
			})
			if err != nil || bytes == 0 {
				continue
			}
			if out[p.name] == nil {
				out[p.name] = map[string]int64{}
			}
			out[p.name][uid] += int64(bytes)
		}
	}
	return out
}

// ownerByName is the uid of the machine that a volume is named after.
func ownerByName(name string) (uid string, ok bool) {
	const length = 36
	rest, ok := strings.CutPrefix(name, "vmhost-")
	if !ok || len(rest) <= length || rest[length] != '-' {
		return "", false
	}
	id, err := uuid.Parse(rest[:length])
	return id.String(), err == nil
}

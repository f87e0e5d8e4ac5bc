package libvirt

import (
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// seen is one domain as one bulk call showed it.
type seen struct {
	dom       lv.Domain
	state     lv.DomainState
	blocks    []blockStats
	autostart bool
	transient bool // known only where it was asked
	record    *record
}

type blockStats struct {
	device               string // in the guest
	allocation, capacity uint64
}

func (s *seen) block(device string) blockStats {
	for _, b := range s.blocks {
		if b.device == device {
			return b
		}
	}
	return blockStats{}
}

func (s *seen) uuid() string { return uuid.UUID(s.dom.UUID).String() }

func (s *seen) ours() bool { return s.record.domain.ours() }

func (s *seen) running() bool { return powerOf(s.state) == vmhostv1.PowerState_POWER_STATE_ON }

// readStats reads one row of the bulk call. Of several rows of one device the
// first is the disk itself.
func readStats(r lv.DomainStatsRecord) *seen {
	one := &seen{dom: r.Dom}
	var current *blockStats
	for _, p := range r.Params {
		if p.Field == lv.DomainStatsStateState {
			one.state = lv.DomainState(toUint(p.Value.I))
			continue
		}
		rest, ok := strings.CutPrefix(p.Field, "block.")
		if !ok {
			continue
		}
		_, field, _ := strings.Cut(rest, ".")
		switch {
		case field == "name":
			name, _ := p.Value.I.(string)
			one.blocks = append(one.blocks, blockStats{device: name})
			current = &one.blocks[len(one.blocks)-1]
		case current == nil:
		case field == "allocation":
			current.allocation = toUint(p.Value.I)
		case field == "capacity":
			current.capacity = toUint(p.Value.I)
		}
	}
	return one
}

// toUint reads any of the integer types that a typed parameter may have.
func toUint(v any) uint64 {
	switch n := v.(type) {
	case int32:
		return uint64(max(n, 0))
	case uint32:
		return uint64(n)
	case int64:
		return uint64(max(n, 0))
	case uint64:
		return n
	}
	return 0
}

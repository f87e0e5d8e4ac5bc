package placement

// Advice is what to do about a plan that found no host, by what refused the host
// that came nearest.
func (p *Plan) Advice() string {
	if len(p.Refusals) == 0 {
		return "add a host"
	}
	return p.Refusals[0].advice() + "; a dry run explains every host"
}

func (r Refusal) advice() string {
	switch r.Filter {
	case FilterVMHost:
		return "name another host, or leave it out and have one chosen"
	case FilterResourcePool:
		return "ask for another resource pool, or put a host into this one"
	case FilterZone:
		return "ask for another zone or none, or put a host into this one"
	case FilterTags:
		return "ask for other tags, or give them to a host (`vmhostctl vm-host update HOST`)"
	case FilterCordon:
		return "uncordon a host, or add one"
	case FilterState:
		if r.Host.Barred != "" {
			return "choose another destination, or add a host"
		}
		return "see what is the matter with the hosts (`vmhostctl vm-host list`), or add one"
	case FilterOvercommitted:
		return "raise the ratio, move machines to other hosts (`vmhostctl rebalance`), or add a host"
	case FilterType:
		return "ask for the other type of machine, or add a host that runs this one"
	case FilterArchitecture, FilterCPUModel, FilterCapability, FilterImage:
		return "leave it out or ask for another, or add a host that has it"
	case FilterPolicy:
		return "use another placement policy, or change its predicate"
	case FilterNetwork:
		return "ask for another network, or make it on a host and label it (`vmhostctl vm-host get HOST` shows what there is)"
	case FilterHostname:
		return "choose another hostname"
	case FilterAffinity:
		return "make the rule soft or leave it out, or add a host"
	case FilterSpread:
		return "allow more in one zone, or add hosts in another zone"
	case FilterPinnedCores:
		return "pin to other cores, or leave them out and have them chosen"
	case FilterNUMA:
		return "ask for less, or for more than one NUMA node"
	default:
		return r.moreRoom()
	}
}

// moreRoom is what to do when there is not enough of something.
func (r Refusal) moreRoom() string {
	switch {
	case r.Filter == FilterStorage && (r.Missing || r.Tagless):
		return "ask for another storage pool, or make it on a host and label it (`vmhostctl vm-host get HOST` shows what there is)"
	case max(r.Requested, r.Largest) > r.Resource.Most() && (r.Filter != FilterStorage || r.Largest > r.Resource.Most()):
		return "ask for less, or add a larger host; a ratio makes no host larger"
	case r.Filter == FilterHugepages:
		return "ask for less or for usual memory, or give a host more huge pages"
	default:
		return "ask for less, raise the host's overcommit ratio, free something or add a host"
	}
}

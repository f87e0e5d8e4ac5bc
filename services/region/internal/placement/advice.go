package placement

import (
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Advice is what to do about a plan that found no host, by what refused the host
// that came nearest: what who asked can do, and what the operator can.
func (p *Plan) Advice() string {
	if len(p.Refusals) == 0 {
		return "add a host"
	}
	r := p.Refusals[0]
	ask, operate := r.advice()
	// A machine that is to be moved is what it is. Nothing else can be asked for but
	// another destination, if one was.
	switch {
	case r.req.From != "" && r.req.VMHost != "":
		ask = "name another destination or none"
	case r.req.From != "":
		ask = ""
	}
	if ask != "" && operate != "" {
		ask += ", or "
	}
	return ask + operate
}

// What several filters advise.
const (
	lookAtHosts  = "see what is the matter with the hosts (`vmhostctl vm-host list`), or add one"
	leaveItOut   = "leave it out or ask for another"
	showHost     = " (`vmhostctl vm-host get HOST` shows what there is)"
	changeHost   = " (`vmhostctl vm-host update HOST`)"
	otherNetwork = "ask for another network"
	otherPool    = "ask for another storage pool"
)

// advice is what to ask for instead, empty: nothing that would help; and what the
// operator can do so that the host, or another, takes what was asked for.
func (r Refusal) advice() (ask, operate string) {
	switch r.Filter {
	case FilterVMHost:
		if r.req.From == "" {
			return "name another host or none", ""
		}
		return "", "add a host"
	case FilterResourcePool:
		return "ask for another resource pool", "put a host into resource pool " + r.req.ResourcePool
	case FilterZone:
		return "ask for another zone or none", "put a host into zone " + r.req.Zone
	case FilterTags:
		tag, missing := r.tag()
		if missing {
			return "ask for other tags", "give a host the tag " + tag + changeHost
		}
		return "ask for other tags", "take the tag " + tag + " off a host" + changeHost
	case FilterCordon:
		return "", "uncordon a host, or add one"
	case FilterState:
		if r.Host.Barred != "" {
			return "", "put that right, or add a host"
		}
		return "", lookAtHosts
	case FilterOvercommitted:
		return "", "raise the ratio, move machines to other hosts (`vmhostctl rebalance`), or add a host"
	case FilterType:
		return "ask for the other type of machine", "add a host " + r.otherKind()
	case FilterArchitecture:
		if r.req.Architecture == "" {
			return "", lookAtHosts
		}
		return leaveItOut, "add a host that runs " + r.req.Architecture
	case FilterCPUModel:
		return leaveItOut, "add a host with CPU model " + r.req.CPUModel
	case FilterCapability:
		return leaveItOut, "add a host with the capability " + r.Host.missingCapability(r.req)
	case FilterImage:
		return leaveItOut, "bring the image or profile to a host, or add one that has it"
	case FilterPolicy:
		return "use another placement policy", "change the predicate of placement policy " + r.req.Policy.Name + ", or add a host that it admits"
	case FilterHostname:
		return "choose another hostname", "rename what has that name on a host, or add a host"
	case FilterAffinity:
		return "make the rule soft or leave it out", "move the machines that it is about, or add a host"
	case FilterSpread:
		return "allow more in one zone", "add hosts in another zone"
	case FilterPinnedCores:
		return "pin to other cores, or leave them out and have them chosen", "free these cores on a host, or add one that has them"
	case FilterNUMA:
		return "ask for less, or for more than one NUMA node", "free cores of a NUMA node, or add a host with larger ones"
	case FilterNetwork:
		return r.otherNetwork()
	case FilterStorage:
		return r.otherPool()
	case FilterHugepages:
		if r.oddPages() {
			return "ask for a multiple of its huge pages, or for usual memory", "add a host with smaller huge pages"
		}
		return "ask for less or for usual memory", "give a host more huge pages"
	default:
		return "ask for less", r.moreRoom(r.Requested)
	}
}

// otherKind is what a host is like that runs the type of machine.
func (r Refusal) otherKind() string {
	switch {
	case r.req.HostType != vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED && r.req.HostType != r.Host.Type:
		return "of type " + typeWord(r.req.HostType)
	case r.req.container():
		return "that runs containers"
	default:
		return "that runs virtual machines"
	}
}

func (r Refusal) otherNetwork() (ask, operate string) {
	switch _, miss := r.Host.nearest(&r.req.Interfaces[r.Item]); miss {
	case missTaken:
		return "ask for another address", "free that address on a host"
	case missFunctions, missNothing:
		return otherNetwork, "free virtual functions on a host, or add one that has some"
	default:
		return otherNetwork, "make such a network on a host and label it" + showHost
	}
}

func (r Refusal) otherPool() (ask, operate string) {
	held := r.req.Disks[r.Item].Held != ""
	switch {
	case r.Onto:
		return "", "put that right, or add a host without that storage pool"
	case r.Bound:
		return "", "bring that storage pool to a host, or add one that has it"
	case r.Missing && held:
		return "", "start that storage pool on the host"
	case r.Tagless && held:
		return "", "label that storage pool" + showHost
	case r.Missing || r.Tagless:
		return otherPool, "make such a storage pool on a host and label it" + showHost
	default:
		return "ask for less", r.moreRoom(r.Largest)
	}
}

// moreRoom is what the operator can do when there is not enough of something, for one
// of that size.
func (r Refusal) moreRoom(largest int64) string {
	if largest > r.Resource.Most() {
		return "add a larger host; a ratio makes no host larger"
	}
	return "raise the host's overcommit ratio, free something or add a host"
}

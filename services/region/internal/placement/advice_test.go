package placement

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// changesTheRequest is advice that only who composes can take: a machine that is to
// be moved has what it has.
var changesTheRequest = regexp.MustCompile(`\b(ask for|leave|choose|name another|use another|pin|allow|make the rule)\b`)

// Every filter has advice: what who asked can do, and what the operator can. Who
// moves a machine is told the operator's half alone, and, where a destination was
// named, that it need not be that.
func TestEveryRefusalSaysWhatToDo_P9(t *testing.T) {
	told := map[Filter]bool{}
	for _, tt := range []struct {
		filter   Filter
		host     func(*Host)
		req      func(*Request)
		ask      string // only who composes
		operator string
	}{
		{FilterResourcePool, nil, func(r *Request) { r.ResourcePool = "web" }, "ask for another resource pool", "put a host into resource pool web"},
		{FilterZone, nil, func(r *Request) { r.Zone = "a" }, "ask for another zone or none", "put a host into zone a"},
		{FilterTags, nil, func(r *Request) { r.RequiredTags = []string{"ssd"} }, "ask for other tags", "give a host the tag ssd (`vmhostctl vm-host update HOST`)"},
		{FilterTags, func(h *Host) { h.Tags = []string{"gpu"} }, func(r *Request) { r.ForbiddenTags = []string{"gpu"} }, "ask for other tags", "take the tag gpu off a host (`vmhostctl vm-host update HOST`)"},
		{FilterCordon, func(h *Host) { h.Cordoned = true }, nil, "", "uncordon a host, or add one"},
		{FilterState, func(h *Host) { h.State = vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE }, nil, "", "see what is the matter with the hosts (`vmhostctl vm-host list`), or add one"},
		{FilterState, func(h *Host) { h.State, h.Barred = 0, "it is the same hypervisor" }, nil, "", "put that right, or add a host"},
		{FilterOvercommitted, func(h *Host) { h.Cores = NewResource(1, 0, 1, 2, 0) }, nil, "", "raise the ratio, move machines to other hosts (`vmhostctl rebalance`), or add a host"},
		{FilterType, func(h *Host) { h.Capabilities = nil }, func(r *Request) { r.Type = container }, "ask for the other type of machine", "add a host that runs containers"},
		{FilterType, func(h *Host) { h.Capabilities = nil }, nil, "ask for the other type of machine", "add a host that runs virtual machines"},
		{FilterType, nil, func(r *Request) { r.HostType = vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT }, "ask for the other type of machine", "add a host of type libvirt"},
		{FilterArchitecture, nil, func(r *Request) { r.Architecture = "s390x" }, "leave it out or ask for another", "add a host that runs s390x"},
		{FilterArchitecture, func(h *Host) { h.Architectures = nil }, nil, "", "see what is the matter with the hosts (`vmhostctl vm-host list`), or add one"},
		{FilterCPUModel, nil, func(r *Request) { r.CPUModel = "EPYC" }, "leave it out or ask for another", "add a host with CPU model EPYC"},
		{FilterCapability, func(h *Host) { h.Capabilities = []string{virtualMachines} }, func(r *Request) { r.SecureBoot = true }, "leave it out or ask for another", "add a host with the capability secure-boot"},
		{FilterImage, nil, func(r *Request) { r.Profiles = []string{"big"} }, "leave it out or ask for another", "bring the image or profile to a host, or add one that has it"},
		{FilterPolicy, nil, func(r *Request) {
			r.Policy = Policy{Name: "night", Admits: func(*Host) (bool, string) { return false, "" }}
		}, "use another placement policy", "change the predicate of placement policy night, or add a host that it admits"},
		{FilterNetwork, nil, func(r *Request) { r.Interfaces = []Interface{{Space: "lab"}} }, "ask for another network", "make such a network on a host and label it (`vmhostctl vm-host get HOST` shows what there is)"},
		{FilterNetwork, nil, func(r *Request) { r.Interfaces = []Interface{{Address: netip.MustParseAddr("10.0.0.5")}} }, "ask for another address", "free that address on a host"},
		{FilterNetwork, nil, func(r *Request) { r.Interfaces = []Interface{{Kind: kindSRIOV}, {Kind: kindSRIOV}} }, "ask for another network", "free virtual functions on a host, or add one that has some"},
		{FilterHostname, nil, func(r *Request) { r.NameTaken = func(string, string) bool { return true } }, "choose another hostname", "rename what has that name on a host, or add a host"},
		{FilterAffinity, nil, func(r *Request) { r.Affinity = []Rule{{Near: true, Hosts: []string{"x"}}} }, "make the rule soft or leave it out", "move the machines that it is about, or add a host"},
		{FilterSpread, func(h *Host) { h.Groups = []GroupCount{{Key: "default/g", Machines: 2}} }, func(r *Request) { r.Group, r.MaxPerZone = "g", 1 }, "allow more in one zone", "add hosts in another zone"},
		{FilterCores, nil, func(r *Request) { r.Cores = 4 }, "ask for less", "raise the host's overcommit ratio, free something or add a host"},
		{FilterCores, nil, func(r *Request) { r.Cores = 5 }, "ask for less", "add a larger host; a ratio makes no host larger"},
		{FilterMemory, nil, func(r *Request) { r.MemoryMiB = 4090 }, "ask for less", "raise the host's overcommit ratio, free something or add a host"},
		{FilterHugepages, nil, func(r *Request) { r.Hugepages, r.MemoryMiB = true, 500 }, "ask for less or for usual memory", "give a host more huge pages"},
		{FilterHugepages, nil, func(r *Request) { r.Hugepages, r.MemoryMiB = true, 1026 }, "ask for less or for usual memory", "give a host more huge pages"},
		{FilterHugepages, nil, func(r *Request) { r.Hugepages, r.MemoryMiB = true, 3 }, "ask for a multiple of its huge pages, or for usual memory", "add a host with smaller huge pages"},
		{FilterPinnedCores, nil, func(r *Request) { r.PinnedCores = []int32{1} }, "pin to other cores, or leave them out and have them chosen", "free these cores on a host, or add one that has them"},
		{FilterNUMA, func(h *Host) { h.Nodes[0].MemoryMiB = 1 }, func(r *Request) { r.OneNUMANode, r.MemoryMiB = true, 2 }, "ask for less, or for more than one NUMA node", "free cores of a NUMA node, or add a host with larger ones"},
		{FilterStorage, nil, func(r *Request) { r.Disks = []Disk{{SizeBytes: 60, Pool: "ssd"}, {SizeBytes: 60, Pool: "ssd"}} }, "ask for less", "raise the host's overcommit ratio, free something or add a host"},
		{FilterStorage, nil, func(r *Request) { r.Disks = []Disk{{SizeBytes: 300}} }, "ask for less", "add a larger host; a ratio makes no host larger"},
		{FilterStorage, nil, func(r *Request) { r.Disks = []Disk{{SizeBytes: 1, Pool: "nvme"}} }, "ask for another storage pool", "make such a storage pool on a host and label it (`vmhostctl vm-host get HOST` shows what there is)"},
		{FilterStorage, nil, func(r *Request) { r.Disks = []Disk{{SizeBytes: 1, Pool: "hdd", Tags: []string{"fast"}}} }, "ask for another storage pool", "make such a storage pool on a host and label it (`vmhostctl vm-host get HOST` shows what there is)"},
	} {
		h := rich(nil)
		if tt.host != nil {
			tt.host(h)
		}
		req := Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default"}
		if tt.req != nil {
			tt.req(&req)
		}
		own := rich(nil)
		own.ID = "own"
		moved, named := req, req
		moved.From, named.From, named.VMHost = "own", "own", "h"
		composed := tt.operator
		if tt.ask != "" {
			composed = tt.ask + ", or " + tt.operator
		}
		for _, asked := range []struct {
			what  string
			hosts []*Host
			req   Request
			want  string
		}{
			{"a compose", []*Host{h}, req, composed},
			{"a move", []*Host{own, h}, moved, tt.operator},
			{"a move to it", []*Host{own, h}, named, "name another destination or none, or " + tt.operator},
		} {
			plan := Choose(asked.hosts, asked.req)
			if plan.Host != nil || plan.Refusals[0].Filter != tt.filter || plan.Refusals[0].Host.ID != "h" {
				t.Errorf("%s: %s: %s", tt.filter, asked.what, plan.Summary())
				continue
			}
			if got := plan.Proto().GetHint(); got != asked.want {
				t.Errorf("%s: %s (%s):\n%s, want\n%s", tt.filter, asked.what, plan.Summary(), got, asked.want)
			}
		}
		if changesTheRequest.MatchString(tt.operator) {
			t.Errorf("%s: the operator cannot %q", tt.filter, tt.operator)
		}
		told[tt.filter] = true
	}
	for _, f := range ordered() {
		if !told[f] && f != FilterVMHost {
			t.Errorf("%s is not asked about", f)
		}
	}
}

// The host that the machine is on is no news, and none that was not named either.
func TestAdviceIsAboutHostsThatCouldHaveBeenIt_P9(t *testing.T) {
	own, full := rich(nil), rich(nil)
	own.ID, full.ID, full.Cordoned = "own", "full", true
	for _, tt := range []struct {
		name  string
		hosts []*Host
		req   Request
		want  string
	}{
		{"there is no host", nil, Request{}, "add a host"},
		{"there is no other host", []*Host{own}, Request{From: "own"}, "add a host"},
		{"the other one is cordoned", []*Host{own, full}, Request{From: "own"}, "uncordon a host, or add one"},
		{"a host that is not there", []*Host{own}, Request{VMHost: "lost"}, "name another host or none"},
	} {
		tt.req.Cores, tt.req.MemoryMiB, tt.req.ResourcePool = 1, 1, "default"
		plan := Choose(tt.hosts, tt.req)
		if got := plan.Advice(); plan.Host != nil || got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := (&Plan{Host: own}).Proto().GetHint(); got != "" {
		t.Errorf("a plan that has a host says %q", got)
	}
	barred := rich(nil)
	barred.State, barred.Barred = vmhostv1.VmHostState_VM_HOST_STATE_UNSPECIFIED, "it is the same hypervisor"
	r := Refusal{Host: barred, Filter: FilterState, req: &Request{}}
	if m := r.Message(); !strings.Contains(m, "it is the same hypervisor") || strings.Contains(m, "reach") || r.Reason() != vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		t.Errorf("barred: %q, %v", m, r.Reason())
	}
}

// Disks that stay in a shared storage pool ask something of it, and not of who moves
// their machine.
func TestAdviceForDisksThatStay_P9(t *testing.T) {
	for _, tt := range []struct {
		name string
		host func(p *Pool)
		req  func(*Request)
		want string
	}{
		{"it is not running", func(p *Pool) { p.Active = false }, nil, "start that storage pool on the host"},
		{"it lacks a tag", func(p *Pool) { p.Tags = nil }, nil, "label that storage pool (`vmhostctl vm-host get HOST` shows what there is)"},
		{"the disk cannot stay", nil, func(r *Request) { r.Copies = "the rack cannot" }, "put that right, or add a host without that storage pool"},
		{"the disk can do nothing else", func(p *Pool) { p.Identity = "" }, func(r *Request) { r.Disks[0].Bound = true }, "bring that storage pool to a host, or add one that has it"},
	} {
		h, own := rich(nil), rich(nil)
		own.ID = "own"
		h.Pools[1].Identity = "nfs"
		if tt.host != nil {
			tt.host(&h.Pools[1])
		}
		req := Request{Cores: 1, MemoryMiB: 1, ResourcePool: "default", From: "own", Disks: []Disk{{SizeBytes: 1, Held: "nfs", In: "ssd", Tags: []string{"fast"}}}}
		if tt.req != nil {
			tt.req(&req)
		}
		plan := Choose([]*Host{own, h}, req)
		got := plan.Advice()
		if at := slices.IndexFunc(plan.Refusals, func(r Refusal) bool { return r.Host.ID == "h" }); plan.Host != nil || at != 0 || got != tt.want {
			t.Errorf("%s: %s\n%q, want %q", tt.name, plan.Summary(), got, tt.want)
		}
	}
}

package placement

import (
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Policy is how hosts that fit are preferred over one another. The zero policy
// prefers the least loaded.
type Policy struct {
	// Name is its id, for people.
	Name string
	// Weights are how much each score counts.
	Weights Weights
	// Admits is the operator's own predicate: whether the host is considered, and
	// if not, why, if there is more to say than that. It is asked about hosts only
	// that could still win, must be pure, and must not keep the host. Nil: every
	// host is.
	Admits func(h *Host) (ok bool, why string)
}

// Weights are how much each score counts, see vmhost.v1.PlacementWeights.
type Weights struct {
	LeastLoaded, MostLoaded, Balance, FreeStorage, SpreadZones, AvoidOvercommit, AvoidEmulation, AvoidRefusing float64
}

// WeightsOf are those of the API.
func WeightsOf(w *vmhostv1.PlacementWeights) Weights {
	return Weights{
		LeastLoaded: w.GetLeastLoaded(), MostLoaded: w.GetMostLoaded(), Balance: w.GetBalance(), FreeStorage: w.GetFreeStorage(),
		SpreadZones: w.GetSpreadZones(), AvoidOvercommit: w.GetAvoidOvercommit(), AvoidEmulation: w.GetAvoidEmulation(), AvoidRefusing: w.GetAvoidRefusing(),
	}
}

// Preset is a policy that is there from the start: spread, pack or balanced.
func Preset(name string) (Policy, bool) {
	p := Policy{Name: name}
	switch name {
	case "spread":
		p.Weights = Weights{LeastLoaded: 1, Balance: 0.25, AvoidEmulation: 1, AvoidOvercommit: 0.5, SpreadZones: 0.5}
	case "pack":
		p.Weights = Weights{MostLoaded: 1, Balance: 0.25, AvoidEmulation: 1}
	case "balanced":
		p.Weights = Weights{Balance: 1, LeastLoaded: 0.5, FreeStorage: 0.25, AvoidOvercommit: 0.5, AvoidEmulation: 1}
	default:
		return Policy{}, false
	}
	return p, true
}

func (p *Policy) admits(h *Host) (why string, ok bool) {
	if p.Admits == nil {
		return "", true
	}
	ok, why = p.Admits(h)
	return why, ok
}

// effective is the weights, or those of a policy that says nothing.
func (w Weights) effective() Weights {
	if w == (Weights{}) {
		w.LeastLoaded = 1
	}
	return w
}

func (w Weights) sum() float64 {
	return w.LeastLoaded + w.MostLoaded + w.Balance + w.FreeStorage + w.SpreadZones + w.AvoidOvercommit + w.AvoidEmulation + w.AvoidRefusing
}

func (r Refusal) policy() string {
	text := "is not what placement policy " + r.req.Policy.Name + " admits"
	if r.Why != "" {
		text += ": " + r.Why
	}
	return text
}

func (r Refusal) cpuModel() string {
	if r.Host.CPUModel == "" {
		return "has not said its CPU model; " + r.req.CPUModel + " is asked for"
	}
	return "has CPU model " + r.Host.CPUModel + ", not " + r.req.CPUModel
}

package policy

import vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"

// Collection begins the resource names of policies.
const Collection = "placementPolicies/"

// Default is the policy of a request that names none.
const Default = "spread"

// Presets are the policies that are there from the start, by name. They are no
// records: nobody can change them, and a new version can. The caller may keep
// what it gets.
func Presets() []*vmhostv1.PlacementPolicy {
	return []*vmhostv1.PlacementPolicy{
		preset("balanced", "Hosts whose cores and memory are used alike are preferred, then those with the most room.", &vmhostv1.PlacementWeights{
			Balance: 1, LeastLoaded: 0.5, FreeStorage: 0.25, AvoidOvercommit: 0.5, AvoidEmulation: 1,
		}),
		preset("pack", "Hosts that are full already are preferred, so that others stay empty.", &vmhostv1.PlacementWeights{
			MostLoaded: 1, Balance: 0.25, AvoidEmulation: 1,
		}),
		preset(Default, "Hosts with the most room are preferred, and zones with few machines of the group.", &vmhostv1.PlacementWeights{
			LeastLoaded: 1, Balance: 0.25, AvoidEmulation: 1, AvoidOvercommit: 0.5, SpreadZones: 0.5,
		}),
	}
}

// IsPreset says whether a policy of the id is there from the start.
func IsPreset(id string) bool { return id == "balanced" || id == "pack" || id == Default }

// Preset is one that is there from the start; nil when the id is not of one.
func Preset(id string) *vmhostv1.PlacementPolicy {
	for _, p := range Presets() {
		if p.GetName() == Collection+id {
			return p
		}
	}
	return nil
}

func preset(id, description string, weights *vmhostv1.PlacementWeights) *vmhostv1.PlacementPolicy {
	return &vmhostv1.PlacementPolicy{Name: Collection + id, Description: description, Weights: weights}
}

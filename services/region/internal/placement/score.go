package placement

// Scores are how a host that fits is judged, each from 0 to 1, the more the
// better.
type Scores struct {
	// Total is the weighted sum.
	Total float64
	// Those that policies weigh, see Weights.
	LeastLoaded, MostLoaded, Balance, FreeStorage, SpreadZones, AvoidOvercommit, AvoidEmulation, AvoidRefusing float64
	// Affinity is the share of soft rules that the host keeps; 1 without any. It
	// weighs more than everything else together.
	Affinity float64
}

// Map is the scores by the names of their weights, and `affinity`.
func (s Scores) Map() map[string]float64 {
	return map[string]float64{
		"least_loaded": s.LeastLoaded, "most_loaded": s.MostLoaded, "balance": s.Balance, "free_storage": s.FreeStorage, "spread_zones": s.SpreadZones,
		"avoid_overcommit": s.AvoidOvercommit, "avoid_emulation": s.AvoidEmulation, "avoid_refusing": s.AvoidRefusing, "affinity": s.Affinity,
	}
}

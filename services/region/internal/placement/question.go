package placement

import (
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Explanation is where a machine would go, and what was thought of every host.
type Explanation struct {
	// Plan is the choice. Its Refusals are at most as many as were asked for, those
	// nearest to fitting first; its RefusedCounts have all.
	Plan Plan
	// Candidates are hosts that fit, best first, at most as many as were asked for;
	// the first is the choice. Fitting is how many there are.
	Candidates []Candidate
	Fitting    int
}

// Candidate is a host that fits.
type Candidate struct {
	Host   *Host
	Scores Scores
}

// Room is how many more machines like the one of a request fit. It is exact for
// a machine of at most one disk and one interface, and for others never more than
// fit, placed as they would be, one after the other.
type Room struct {
	// Machines that fit in the fleet together.
	Machines int64
	// LimitedBy is what runs out first on most hosts that could take one were there
	// more of it.
	LimitedBy Filter
	// Zones are sorted by name and have only zones with hosts.
	Zones []ZoneRoom
	// Hosts that can take at least one, those with the most room first, at most as
	// many as were asked for.
	Hosts []HostRoom
	// RefusedCounts is how many hosts can take none, by the filter that refuses
	// them.
	RefusedCounts map[Filter]int
}

// ZoneRoom is how many fit in a zone.
type ZoneRoom struct {
	Zone      string
	Machines  int64
	LimitedBy Filter
}

// HostRoom is how many fit on a host, and the filter that refuses one more.
type HostRoom struct {
	Host      *Host
	Machines  int64
	LimitedBy Filter
}

// Machine is a machine that is somewhere already.
type Machine struct {
	// Name is its resource name, Host the id of the host that it is on.
	Name, Host string
	// Held is what it takes of its host.
	Held *storev1.Commitment
	// Request is what it asks of another host.
	Request Request
}

// Imagined is what is imagined of a fleet.
type Imagined struct {
	// LostHosts and LostZones are ids.
	LostHosts, LostZones []string
	// Overcommit has ratios that change, on RatioHosts or, without any, on all
	// hosts; nil: none.
	Overcommit *vmhostv1.OvercommitRatios
	RatioHosts []string
	// Request is a machine to count the room for; nil: none.
	Request *Request
	// Places are held for machines to come; of those of lost hosts it is said
	// whether there is room for them elsewhere once the machines have theirs.
	Places []Machine
}

// Outcome is what would be.
//
// The machines of lost hosts are placed largest first, each where it would go if
// it were composed then. That is an order that mostly works, not a proof: that
// one has no place means that none was left in this order, and another order may
// find one.
type Outcome struct {
	// Moves have a place, in the order they were placed.
	Moves []Move
	// Stranded have none.
	Stranded []Stranded
	// PlacesMoved and PlacesStranded are the same of places.
	PlacesMoved    []Move
	PlacesStranded []Stranded
	// Overcommitted are hosts that would be over their limits, with the moves or
	// without; by id.
	Overcommitted []string
	// RoomBefore and RoomAfter are how many more of the request's machine fit now,
	// and then, with the moves made, of places too.
	RoomBefore, RoomAfter int64
}

// Move is a machine and where it would go.
type Move struct {
	Machine *Machine
	From    string
	Plan    Plan
}

// Stranded is a machine that has no place; Plan says why.
type Stranded struct {
	Machine *Machine
	From    string
	Plan    Plan
}

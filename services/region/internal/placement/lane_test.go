package placement

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The better of what two lanes choose is what is chosen of all hosts, and a host
// is in one of them only.
func TestLanesShareAllHosts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var hosts []*Host
		for i := range rapid.IntRange(1, 2*blockSize).Draw(t, "hosts") {
			h := drawHost(t, fmt.Sprintf("h%03d", i))
			hosts = append(hosts, h)
		}
		fleet, req := NewFleet(hosts), drawRequest(t)
		if rapid.Bool().Draw(t, "named") {
			req.VMHost = rapid.SampledFrom(hosts).Draw(t, "host").ID
		}
		in := func(lane Lane) *Host {
			asked := req
			asked.Lane = lane
			return fleet.Choose(&asked).Host
		}
		all, even, odd := in(AllLanes), in(EvenLane), in(OddLane)
		if even != nil && even == odd {
			t.Fatalf("both lanes chose %s", even.ID)
		}
		if all != even && all != odd {
			t.Fatalf("of all hosts %v is chosen, of the lanes %v and %v", all, even, odd)
		}
		if all == nil && (even != nil || odd != nil) {
			t.Fatalf("a lane has a host where there is none")
		}
	})
}

package placement

// Lane is a part of the hosts: decisions in two lanes of a fleet never choose the
// same host. Every other host is in the same lane, so that lanes are alike also
// where hosts follow one another by what they are. Which one a host is in changes
// when a host before it comes or goes.
type Lane uint8

// Lanes of a fleet.
const (
	AllLanes Lane = 0
	EvenLane Lane = 1
	OddLane  Lane = 2
)

const evenRows uint64 = 0x5555_5555_5555_5555

// rows are the hosts of a block that are in the lane.
func (l Lane) rows() uint64 {
	switch l {
	case EvenLane:
		return evenRows
	case OddLane:
		return ^evenRows
	default:
		return ^uint64(0)
	}
}

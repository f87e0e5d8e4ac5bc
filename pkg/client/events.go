package client

import (
	"iter"
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// MaxEvents is what to ask for in WatchEventsRequest.max_events: as many as a
// region gives.
const MaxEvents = 1000

// EventsOf are the events of an answer of a watch. A sign of life is one without an
// event, which has a token all the same. It does not matter whether the region knows
// max_events.
func EventsOf(answer *vmhostv1.WatchEventsResponse) iter.Seq[*vmhostv1.WatchedEvent] {
	if several := answer.GetEvents(); len(several) > 0 {
		return slices.Values(several)
	}
	return func(yield func(*vmhostv1.WatchedEvent) bool) {
		yield(&vmhostv1.WatchedEvent{Event: answer.GetEvent(), ResumeToken: answer.GetResumeToken()})
	}
}

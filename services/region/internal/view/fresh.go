package view

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// LastSeen knows when hosts were last reported, by their ids. What changes
// nothing is not written, so that this is newer than what is stored, in the
// process that holds the session of the host's rack; elsewhere the stored time
// stands. Nil is nobody who knows.
type LastSeen interface {
	// LastSeen is the zero time for a host that was not reported here.
	LastSeen(host string) time.Time
}

// observeTime is when a host was last read from its hypervisor; nil when it
// never was. Stored is what is recorded of it.
func observeTime(stored *timestamppb.Timestamp, seen LastSeen, host string) *timestamppb.Timestamp {
	if seen != nil && stored != nil {
		if t := seen.LastSeen(host); t.After(stored.AsTime()) {
			return timestamppb.New(t)
		}
	}
	return stored
}

// lastSeenAt says in a message when something was last seen.
func lastSeenAt(t *timestamppb.Timestamp) string {
	if t == nil {
		return "; it was never seen"
	}
	return "; last seen at " + rfc3339(t)
}

func later(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if b.AsTime().After(a.AsTime()) {
		return b
	}
	return a
}

func rfc3339(t *timestamppb.Timestamp) string { return t.AsTime().Format(time.RFC3339) }

package view

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// instant is a Timestamp as a plain value.
type instant struct {
	seconds int64
	nanos   int32
	set     bool // else it is no Timestamp
}

func instantOf(t *timestamppb.Timestamp) instant {
	return instant{t.GetSeconds(), t.GetNanos(), t != nil}
}

// readInstant reads an encoded Timestamp; nil is none.
func readInstant(data []byte) (i instant, ok bool) {
	i.set = data != nil
	r := fieldsOf(data)
	for r.next() {
		switch r.number {
		case timeSeconds:
			r.ok = r.number64(&i.seconds)
		case timeNanos:
			r.ok = r.number32(&i.nanos)
		default:
			r.ok = false
		}
	}
	return i, r.ok
}

func (i instant) time() time.Time { return time.Unix(i.seconds, int64(i.nanos)) }

// timestamp is the Timestamp, nil for none.
func (i instant) timestamp() *timestamppb.Timestamp {
	if !i.set {
		return nil
	}
	return &timestamppb.Timestamp{Seconds: i.seconds, Nanos: i.nanos}
}

// append appends the encoded Timestamp as a field, if there is one.
func (i instant) append(b []byte, number protowire.Number) []byte {
	if !i.set {
		return b
	}
	const most = 2 * (1 + 10) // tags, and the longest numbers
	var room [most]byte
	body := room[:0]
	if i.seconds != 0 {
		body = protowire.AppendVarint(protowire.AppendTag(body, timeSeconds, protowire.VarintType), uint64(i.seconds))
	}
	body = appendEnum(body, timeNanos, i.nanos)
	return appendText(b, number, body)
}

// laterInstant is later.
func laterInstant(a, b instant) instant {
	if b.time().After(a.time()) {
		return b
	}
	return a
}

// observedAt is observeTime.
func observedAt(stored instant, seen LastSeen, host string) instant {
	if seen != nil && stored.set {
		if t := seen.LastSeen(host); t.After(stored.time()) {
			return instantOf(timestamppb.New(t))
		}
	}
	return stored
}

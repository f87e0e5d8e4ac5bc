package api

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
)

// mostBytes is how large an answer with several events gets, but for its last
// event. It is far below what clients take.
const mostBytes = 512 << 10

// interest is what watchers ask for.
type interest struct {
	filter string
	most   int // events in one answer; 1: each by itself, as clients ask that know no other way
}

// audience is all watchers with the same interest.
type audience struct {
	interest
	filter   *query.Filter
	watchers map[*watcher]struct{}
}

// delivery is what an audience is handed at a time. All share it.
type delivery struct {
	events  []placedEvent // in order, whole revisions but for what does not match; never empty
	answers []*encoded.Message
}

// pick makes a delivery of the events that an audience asked for; nil when there
// are none.
func (a *audience) pick(found []placedEvent) *delivery {
	d := &delivery{}
	for _, e := range found {
		if a.filter.Match(e.event) {
			d.events = append(d.events, e)
		}
	}
	if len(d.events) == 0 {
		return nil
	}
	if a.most <= 1 {
		for _, e := range d.events {
			d.answers = append(d.answers, e.answer)
		}
		return d
	}
	for rest := d.events; len(rest) > 0; {
		n, bytes := 1, rest[0].size
		for n < min(len(rest), a.most) && bytes < mostBytes {
			bytes += rest[n].size
			n++
		}
		d.answers = append(d.answers, several(rest[:n]))
		rest = rest[n:]
	}
	return d
}

const (
	tokenField  = 2 // resume_token of WatchEventsResponse
	eventsField = 3 // events of WatchEventsResponse
)

// several is one answer with events. An answer with one event is encoded as a
// WatchedEvent is, so that each is encoded once whoever is sent it.
func several(events []placedEvent) *encoded.Message {
	return encoded.Make(func() ([]byte, error) {
		var out []byte
		for _, e := range events {
			one, err := e.answer.Bytes()
			if err != nil {
				return nil, err
			}
			out = protowire.AppendTag(out, eventsField, protowire.BytesType)
			out = protowire.AppendBytes(out, one)
		}
		out = protowire.AppendTag(out, tokenField, protowire.BytesType)
		return protowire.AppendString(out, events[len(events)-1].place().token()), nil
	})
}

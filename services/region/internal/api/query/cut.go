package query

import (
	"iter"
	"runtime"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
)

// After is the name of the last resource of the page before, empty for the first
// page. It answers false when the order is another than by name, rising.
func (l *List) After() (name string, byName bool) {
	return l.after.Name, l.order.onlyName() && !l.order.fields[0].descending
}

// Cut is Page for a list by name: items come in the order of their names, behind
// After, and no more of them are taken than the page needs.
func (l *List) Cut(items iter.Seq[Item]) ([]proto.Message, string) {
	var page []proto.Message
	// Nothing in it fails.
	next, _ := l.cut(items, func(chunk []Item, room int) ([]string, error) {
		var names []string
		for i, m := range l.build(chunk) {
			if m == nil {
				continue
			}
			if names = append(names, chunk[i].Name); len(names) <= room {
				page = append(page, m)
			}
		}
		return names, nil
	})
	return page, next
}

// cut takes from items what a page needs, and answers with the token of the next
// page. Take takes all of a chunk that is there, up to room resources, and answers
// with the names of all that are there. Chunks hold at most one more than there is
// room for, which tells whether another page follows.
func (l *List) cut(items iter.Seq[Item], take func(chunk []Item, room int) (names []string, err error)) (string, error) {
	chunk := make([]Item, 0, l.size+1)
	room, last := l.size, ""
	full := func() (bool, error) {
		names, err := take(chunk, room)
		if err != nil {
			return false, err
		}
		more := len(names) > room
		names = names[:min(len(names), room)]
		room -= len(names)
		if len(names) > 0 {
			last = names[len(names)-1]
		}
		chunk = chunk[:0]
		return more, nil
	}
	for item := range items {
		if chunk = append(chunk, item); len(chunk) <= room {
			continue
		}
		if more, err := full(); more || err != nil {
			return l.goOn(last), err
		}
	}
	if more, err := full(); more || err != nil {
		return l.goOn(last), err
	}
	return "", nil
}

// goOn is the token of the page behind a name.
func (l *List) goOn(name string) string {
	return l.sign(cursor{Keys: l.order.nameKeys(name), Name: name})
}

// build makes the messages of a chunk that the filter lets through; nil for all
// others.
func (l *List) build(chunk []Item) []proto.Message {
	messages := make([]proto.Message, len(chunk))
	apart(len(chunk), func(_, from, to int) {
		for i := from; i < to; i++ {
			if m := chunk[i].Build(); m != nil && l.filter.Match(m) {
				messages[i] = m
			}
		}
	})
	return messages
}

// perWorker is how many resources are made by one goroutine at least.
const perWorker = 128

// workersFor is how many goroutines are of use for n resources.
func workersFor(n int) int { return max(1, min(runtime.GOMAXPROCS(0), n/perWorker)) }

// apart lets as many goroutines as are of use do a part each, and ends them.
func apart(n int, do func(worker, from, to int)) {
	workers := workersFor(n)
	each := (n + workers - 1) / workers
	var group sync.WaitGroup
	for w := range workers {
		from, to := min(w*each, n), min((w+1)*each, n)
		if w == workers-1 {
			do(w, from, to) // in this one
			break
		}
		group.Go(func() { do(w, from, to) })
	}
	group.Wait()
}

// Encoded is a page of a list, encoded: in parts, to be read one after another.
type Encoded struct {
	Parts [][]byte
	Next  string
}

// CutEncoded is Cut for whoever needs the page's bytes and no messages: resources
// stand in it as the field that opens with the tag. It answers false when the list
// has a filter, which looks at messages.
func (l *List) CutEncoded(tag uint64, items iter.Seq[Item]) (page Encoded, able bool, err error) {
	if l.filter.match != nil {
		return Encoded{}, false, nil
	}
	page.Next, err = l.cut(items, func(chunk []Item, room int) ([]string, error) {
		parts := make([]part, workersFor(len(chunk)))
		apart(len(chunk), func(w, from, to int) { parts[w].fill(tag, chunk[from:to]) })
		var names []string
		for _, p := range parts {
			if p.err != nil {
				return nil, p.err
			}
			if left := max(room-len(names), 0); len(p.names) <= left {
				page.Parts = append(page.Parts, p.data)
			} else if left > 0 {
				page.Parts = append(page.Parts, p.data[:p.ends[left-1]])
			}
			names = append(names, p.names...)
		}
		return names, nil
	})
	page.Parts = slices.DeleteFunc(page.Parts, func(p []byte) bool { return len(p) == 0 })
	return page, true, err
}

package lxd

import (
	"net/url"
	"sync"
)

// place is where an instance is found on a server.
type place struct{ project, name string }

func (p place) path() string {
	return "/1.0/instances/" + url.PathEscape(p.name) + "?" + url.Values{"project": {p.project}}.Encode()
}

func (i *instance) place() place { return place{i.Project, i.Name} }

// index knows which instance has which uuid. Events name instances by their
// names; whoever asks has uuids.
type index struct {
	mu     sync.Mutex
	uuids  map[place]string
	places map[string]place
	// changes counts what events and calls put in, so that a list that was under way
	// meanwhile takes nothing away.
	changes uint64
}

func newIndex() *index { return &index{uuids: map[place]string{}, places: map[string]place{}} }

func (x *index) begin() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.changes
}

// replace takes a whole list. What is not in it is gone, unless something
// happened since the list was asked for.
func (x *index) replace(list []*instance, began uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.changes == began {
		clear(x.uuids)
		clear(x.places)
	}
	for _, i := range list {
		x.uuids[i.place()], x.places[i.uuid] = i.uuid, i.place()
	}
}

func (x *index) put(i *instance) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.uuids[i.place()] != i.uuid {
		x.changes++
	}
	x.uuids[i.place()], x.places[i.uuid] = i.uuid, i.place()
}

// remove forgets the instance of a name and answers its uuid.
func (x *index) remove(p place) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.changes++
	id := x.uuids[p]
	delete(x.uuids, p)
	if x.places[id] == p {
		delete(x.places, id)
	}
	return id
}

// rename moves what is known of a name to another.
func (x *index) rename(from, to place) {
	if id := x.remove(from); id != "" {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.uuids[to], x.places[id] = id, to
	}
}

func (x *index) uuidOf(p place) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.uuids[p]
}

func (x *index) nameOf(id string) place {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.places[id]
}

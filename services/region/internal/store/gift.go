package store

import (
	"bytes"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// gift is a value that this process writes and will not change (Give).
type gift struct {
	key   string
	data  []byte
	value proto.Message
}

// gifts are those that are under way, so that the watch need not decode what
// this process has encoded. A gift leaves when the watch brings its key, or when
// it is known that it will not.
type gifts struct {
	mu    sync.Mutex
	byKey map[string]gift
}

func (g *gifts) expect(given []gift) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byKey == nil {
		g.byKey = map[string]gift{}
	}
	for _, one := range given {
		g.byKey[one.key] = one
	}
}

// take is the message of what the watch has brought; nil when this process did
// not write just that. Whatever it is, its bytes are then a part of nothing larger.
func (g *gifts) take(key string, kv *mvccpb.KeyValue) proto.Message {
	one, ok := g.of(key)
	if !ok || !bytes.Equal(one.data, kv.Value) {
		kv.Value = bytes.Clone(kv.Value)
		return nil
	}
	kv.Value = one.data
	return one.value
}

// of is what is expected of a key, and is from now on no more.
func (g *gifts) of(key string) (gift, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one, ok := g.byKey[key]
	if ok {
		delete(g.byKey, key)
	}
	return one, ok
}

func (g *gifts) forget(given []gift) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range given {
		if g.byKey[one.key].value == one.value {
			delete(g.byKey, one.key)
		}
	}
}

// clear forgets all: the copy was made anew from a list.
func (g *gifts) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.byKey)
}

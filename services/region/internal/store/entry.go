package store

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// entry is one key of the copy. The few records that every decision reads are
// kept decoded; the many (machines, operations, …) as they came: a decoded
// message is dozens of objects for the garbage collector to walk, over and over,
// for as long as the record exists, and reading one again costs microseconds.
type entry struct {
	modRevision    int64
	createRevision int64

	family  *kind
	decoded proto.Message // nil: see raw
	raw     []byte
}

// newEntry also answers the message itself, for those who are told of the change.
// It decodes the value only when it is not known.
func newEntry(f *kind, kv *mvccpb.KeyValue, known proto.Message) (*entry, proto.Message, error) {
	value := known
	if value == nil {
		value = f.empty()
		if err := proto.Unmarshal(kv.Value, value); err != nil {
			return nil, nil, fmt.Errorf("decode: %w", err)
		}
	}
	e := &entry{modRevision: kv.ModRevision, createRevision: kv.CreateRevision, family: f}
	if f.packed() {
		e.raw = kv.Value
	} else {
		e.decoded = value
	}
	return e, value, nil
}

// value is the message; nil for no entry.
func (e *entry) value() proto.Message {
	if e == nil {
		return nil
	}
	if e.decoded != nil {
		return e.decoded
	}
	value := e.family.empty()
	// It was decoded once, when it came in.
	_ = proto.Unmarshal(e.raw, value)
	return value
}

func change(key string, was, is *entry, value proto.Message) Change {
	c := Change{Key: key, Family: familyOf(key).name(), New: value, was: was}
	if is != nil {
		c.ModRevision = is.modRevision
	}
	return c
}

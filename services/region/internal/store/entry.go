package store

import (
	"fmt"
	"sync/atomic"
	"weak"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// entry is one key of the copy. Most records are kept as they came: a decoded
// message is several times as large and dozens of objects for the garbage
// collector to walk, over and over, for as long as the record exists, and reading
// one again costs microseconds. See keeping for those that are kept otherwise.
type entry struct {
	modRevision    int64
	createRevision int64

	raw  []byte
	kept *kept // nil: read raw
}

// keeping says how the records of a family are kept.
type keeping int

const (
	// keepDecoded is for few records that are read all the time.
	keepDecoded keeping = iota
	// keepPacked is for many that are read now and then.
	keepPacked
	// keepLent is for many, each of which is read again and again for a while: what
	// was decoded is there until the next garbage collection.
	keepLent
)

// kept is what an entry has beside its bytes, or instead of them.
type kept struct {
	value proto.Message // nil: there are bytes
	lent  atomic.Pointer[weak.Pointer[loan]]
}

// loan is a decoded value that nobody holds: it goes with the next garbage
// collection, and is made again when it is needed.
type loan struct{ value proto.Message }

// newEntry also answers the message itself, for those who are told of the change.
// It decodes the value only when it is not known.
func newEntry(f *kind, kv *mvccpb.KeyValue, known proto.Message) (entry, proto.Message, error) {
	value := known
	if value == nil {
		value = f.empty()
		if err := proto.Unmarshal(kv.Value, value); err != nil {
			return entry{}, nil, fmt.Errorf("decode: %w", err)
		}
	}
	e := entry{modRevision: kv.ModRevision, createRevision: kv.CreateRevision}
	switch f.keeping() {
	case keepDecoded:
		e.kept = &kept{value: value}
	case keepLent:
		e.raw, e.kept = kv.Value, &kept{}
	case keepPacked:
		e.raw = kv.Value
	}
	return e, value, nil
}

// newEntryUntold is newEntry for a list that nobody is told of: what need not be
// decoded is not, and bytes are put into a slab.
func newEntryUntold(f *kind, kv *mvccpb.KeyValue, s *slab) (entry, error) {
	if f.keeping() == keepDecoded || !f.shape().sound(kv.Value) {
		e, _, err := newEntry(f, kv, nil)
		return e, err
	}
	e := entry{modRevision: kv.ModRevision, createRevision: kv.CreateRevision, raw: s.keep(kv.Value)}
	if f.keeping() == keepLent {
		e.kept = s.lend()
	}
	return e, nil
}

// value is the message; nil for no entry.
func (e *entry) value(f family) proto.Message {
	switch {
	case e == nil:
		return nil
	case e.kept == nil:
		return e.decode(f)
	case e.kept.value != nil:
		return e.kept.value
	}
	if w := e.kept.lent.Load(); w != nil {
		if l := w.Value(); l != nil {
			return l.value
		}
	}
	l := &loan{e.decode(f)}
	w := weak.Make(l)
	e.kept.lent.Store(&w)
	return l.value
}

func (e *entry) decode(f family) proto.Message {
	value := f.empty()
	// It was decoded once, or found sound, when it came in.
	_ = proto.Unmarshal(e.raw, value)
	return value
}

// slab keeps values one after another in pieces of slabBytes: each by itself takes
// up to an eighth more, and between them stays what was decoded and thrown away. A
// piece is there as long as one value in it is, so that a state of which all is
// written anew can take twice its size for a while, and no more.
type slab struct {
	piece []byte
	lent  []kept
}

const (
	slabBytes = 8 << 10
	slabLent  = 512
)

func (s *slab) lend() *kept {
	if len(s.lent) == 0 {
		s.lent = make([]kept, slabLent)
	}
	k := &s.lent[0]
	s.lent = s.lent[1:]
	return k
}

func (s *slab) keep(value []byte) []byte {
	if len(s.piece)+len(value) > cap(s.piece) {
		if len(value) > slabBytes/8 { // would leave a lot unused
			return append(make([]byte, 0, len(value)), value...)
		}
		s.piece = make([]byte, 0, slabBytes)
	}
	at := len(s.piece)
	s.piece = append(s.piece, value...)
	return s.piece[at:len(s.piece):len(s.piece)]
}

func change(key string, f *kind, was, is *entry, value proto.Message) Change {
	c := Change{Key: key, Family: f.name(), New: value, family: f}
	if was != nil {
		c.was = *was
	}
	if is != nil {
		c.ModRevision = is.modRevision
	}
	return c
}

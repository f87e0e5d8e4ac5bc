package store

import (
	"iter"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"
)

// View is an immutable snapshot of the state. Values read from it must not be
// modified.
type View struct {
	// Revision is the etcd revision of the snapshot.
	Revision int64

	tree    *tree
	history *history
}

// Record is one value with its revisions.
type Record[T proto.Message] struct {
	// Value must not be modified.
	Value T
	// Revision is the key's mod revision; 0 in the zero Record.
	Revision int64
	// CreateRevision is the revision that made the key.
	CreateRevision int64

	fresh bool // decoded for this reader alone
}

// Own is the value for a reader who changes it, and reads the record no more. It
// is a copy, unless the value was decoded for him alone.
func (r Record[T]) Own() T {
	if r.fresh {
		return r.Value
	}
	return proto.CloneOf(r.Value)
}

// Family is one kind of record: a prefix and a message type.
type Family[T proto.Message] struct {
	prefix string
	keep   keeping
}

// Name is how Change calls the family, for example `hosts`.
func (f Family[T]) Name() string { return f.name() }

// Key is the etcd key of a record. Parts must not hold a slash unless it is
// meant to divide (see EscapeID).
func (f Family[T]) Key(parts ...string) string {
	if len(parts) == 2 { //nolint:mnd // in one piece
		return Root + f.prefix + parts[0] + "/" + parts[1]
	}
	return Root + f.prefix + strings.Join(parts, "/")
}

// Prefix is the prefix of all keys of the family below parts.
func (f Family[T]) Prefix(parts ...string) string {
	if len(parts) == 0 {
		return Root + f.prefix
	}
	return f.Key(parts...) + "/"
}

// ID is the part of a key after the family's prefix.
func (f Family[T]) ID(key string) string { return strings.TrimPrefix(key, Root+f.prefix) }

// Get is one record; false when there is none.
func (f Family[T]) Get(v *View, parts ...string) (Record[T], bool) {
	e := v.tree.get(f.Key(parts...))
	if e == nil {
		return Record[T]{}, false
	}
	return f.record(e), true
}

// Find is Get for a reader who may not need all of the record.
func (f Family[T]) Find(v *View, parts ...string) (Stored[T], bool) {
	e := v.tree.get(f.Key(parts...))
	return Stored[T]{f, e}, e != nil
}

// RevisionOf is the mod revision of a record, 0 when there is none. It reads only
// the key.
func (f Family[T]) RevisionOf(v *View, parts ...string) int64 {
	if e := v.tree.get(f.Key(parts...)); e != nil {
		return e.modRevision
	}
	return 0
}

// Read is Get of a value for a reader who changes it: it is decoded for him alone.
func (f Family[T]) Read(v *View, parts ...string) (Record[T], bool) {
	e := v.tree.get(f.Key(parts...))
	if e == nil {
		return Record[T]{}, false
	}
	r := Record[T]{Revision: e.modRevision, CreateRevision: e.createRevision, fresh: true}
	if e.raw != nil {
		r.Value = e.decode(f).(T) //nolint:forcetypeassert // of the key's family
	} else {
		r.Value = proto.CloneOf(e.value(f).(T)) //nolint:forcetypeassert // of the key's family
	}
	return r, true
}

// Has says whether there is a record. It reads only the key.
func (f Family[T]) Has(v *View, parts ...string) bool { return v.tree.get(f.Key(parts...)) != nil }

// All are the records of the family, below parts, in the order of their keys.
// The first value is what follows the prefix and parts in the key.
func (f Family[T]) All(v *View, parts ...string) iter.Seq2[string, Record[T]] {
	return f.after(v, "", parts...)
}

// AllAfter is All, beginning behind the given id: for paging.
func (f Family[T]) AllAfter(v *View, after string, parts ...string) iter.Seq2[string, Record[T]] {
	return f.after(v, after, parts...)
}

// EachAfter is AllAfter for a reader who does not read all of them, or not in this
// goroutine, or not all of each.
func (f Family[T]) EachAfter(v *View, after string, parts ...string) iter.Seq2[string, Stored[T]] {
	return func(yield func(string, Stored[T]) bool) {
		v.tree.below(f.Prefix(parts...), after, func(id string, e *entry) bool {
			return yield(id, Stored[T]{f, e})
		})
	}
}

// IDs are the ids of All. It reads only keys.
func (f Family[T]) IDs(v *View, parts ...string) iter.Seq[string] {
	return func(yield func(string) bool) {
		v.tree.below(f.Prefix(parts...), "", func(id string, _ *entry) bool { return yield(id) })
	}
}

// Count is how many records the family has below parts, at most limit. It reads
// only keys.
func (f Family[T]) Count(v *View, limit int, parts ...string) int {
	n := 0
	for range f.IDs(v, parts...) {
		if n >= limit {
			break
		}
		n++
	}
	return n
}

func (f Family[T]) after(v *View, after string, parts ...string) iter.Seq2[string, Record[T]] {
	return func(yield func(string, Record[T]) bool) {
		v.tree.below(f.Prefix(parts...), after, func(id string, e *entry) bool { return yield(id, f.record(e)) })
	}
}

// below goes through the entries whose keys have a prefix, behind the one that
// goes on with after. Id is what follows the prefix.
func (t *tree) below(prefix, after string, yield func(id string, e *entry) bool) {
	from := prefix
	if after != "" {
		from += after + "\x00"
	}
	t.ascend(from, func(head, tail string, e *entry) bool {
		if rest, in := strings.CutPrefix(head, prefix); in {
			return yield(rest+tail, e)
		}
		// The prefix ends in the tail, if at all.
		rest, in := strings.CutPrefix(prefix, head)
		if !in {
			return false
		}
		id, in := strings.CutPrefix(tail, rest)
		// Not a part of a leaf's keys, which would keep all of them in memory.
		return in && yield(strings.Clone(id), e)
	})
}

func (f Family[T]) record(e *entry) Record[T] {
	return Record[T]{
		Value:    e.value(f).(T), //nolint:forcetypeassert // of the key's family
		Revision: e.modRevision, CreateRevision: e.createRevision, fresh: e.kept == nil,
	}
}

// EscapeID makes any text usable as one part of a key.
func EscapeID(s string) string { return url.PathEscape(s) }

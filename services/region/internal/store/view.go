package store

import (
	"iter"
	"net/url"
	"strings"

	"github.com/tidwall/btree"
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

// tree has the keys in order. A copy shares all nodes with its original until one
// of them is changed: views are never changed, and a copy of the newest becomes
// the next. A key costs some 40 bytes in it.
type tree = btree.Map[string, *entry]

const treeDegree = 32

// Record is one value with its revisions.
type Record[T proto.Message] struct {
	// Value must not be modified.
	Value T
	// Revision is the key's mod revision; 0 in the zero Record.
	Revision int64
	// CreateRevision is the revision that made the key.
	CreateRevision int64
}

// Family is one kind of record: a prefix and a message type.
type Family[T proto.Message] struct {
	prefix string
	// many says that there are so many that they are kept packed, see entry.
	many bool
}

// Name is how Change calls the family, for example `hosts`.
func (f Family[T]) Name() string { return f.name() }

// Key is the etcd key of a record. Parts must not hold a slash unless it is
// meant to divide (see EscapeID).
func (f Family[T]) Key(parts ...string) string { return Root + f.prefix + strings.Join(parts, "/") }

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
	e, ok := v.tree.Get(f.Key(parts...))
	if !ok {
		return Record[T]{}, false
	}
	return record[T](e), true
}

// All are the records of the family, below parts, in the order of their keys.
// The first value is what follows the prefix and parts in the key.
func (f Family[T]) All(v *View, parts ...string) iter.Seq2[string, Record[T]] {
	return f.after(v, "", parts...)
}

// AllAfter is All, beginning behind the given id: for paging.
func (f Family[T]) AllAfter(v *View, after string, parts ...string) iter.Seq2[string, Record[T]] {
	return f.after(v, after, parts...)
}

// IDs are the ids of All. It reads only keys.
func (f Family[T]) IDs(v *View, parts ...string) iter.Seq[string] {
	prefix := f.Prefix(parts...)
	return func(yield func(string) bool) {
		v.tree.Ascend(prefix, func(key string, _ *entry) bool {
			id, in := strings.CutPrefix(key, prefix)
			return in && yield(id)
		})
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
	prefix := f.Prefix(parts...)
	return func(yield func(string, Record[T]) bool) {
		from := prefix
		if after != "" {
			from += after + "\x00"
		}
		v.tree.Ascend(from, func(key string, e *entry) bool {
			id, in := strings.CutPrefix(key, prefix)
			return in && yield(id, record[T](e))
		})
	}
}

func record[T proto.Message](e *entry) Record[T] {
	return Record[T]{Value: e.value().(T), Revision: e.modRevision, CreateRevision: e.createRevision} //nolint:forcetypeassert // of the key's family
}

// EscapeID makes any text usable as one part of a key.
func EscapeID(s string) string { return url.PathEscape(s) }

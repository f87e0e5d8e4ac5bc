package store

import (
	"iter"
	"net/url"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"google.golang.org/protobuf/proto"
)

// View is an immutable snapshot of the state. Values read from it must not be
// modified.
type View struct {
	// Revision is the etcd revision of the snapshot.
	Revision int64

	tree    *iradix.Tree[*entry]
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
	e, ok := v.tree.Get([]byte(f.Key(parts...)))
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
		it := v.tree.Root().Iterator()
		it.SeekPrefix([]byte(prefix))
		for key, _, ok := it.Next(); ok; key, _, ok = it.Next() {
			if !yield(string(key[len(prefix):])) {
				return
			}
		}
	}
}

// Count is how many records the family has below parts, at most limit. It reads
// only keys.
func (f Family[T]) Count(v *View, limit int, parts ...string) int {
	n := 0
	it := v.tree.Root().Iterator()
	it.SeekPrefix([]byte(f.Prefix(parts...)))
	for _, _, ok := it.Next(); ok && n < limit; _, _, ok = it.Next() {
		n++
	}
	return n
}

func (f Family[T]) after(v *View, after string, parts ...string) iter.Seq2[string, Record[T]] {
	prefix := f.Prefix(parts...)
	return func(yield func(string, Record[T]) bool) {
		it := v.tree.Root().Iterator()
		if after == "" {
			it.SeekPrefix([]byte(prefix))
		} else {
			it.SeekLowerBound([]byte(prefix + after + "\x00"))
		}
		for key, e, ok := it.Next(); ok; key, e, ok = it.Next() {
			id, in := strings.CutPrefix(string(key), prefix)
			if !in || !yield(id, record[T](e)) {
				return
			}
		}
	}
}

func record[T proto.Message](e *entry) Record[T] {
	return Record[T]{Value: e.value().(T), Revision: e.modRevision, CreateRevision: e.createRevision} //nolint:forcetypeassert // of the key's family
}

// EscapeID makes any text usable as one part of a key.
func EscapeID(s string) string { return url.PathEscape(s) }

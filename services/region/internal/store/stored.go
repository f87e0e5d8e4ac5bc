package store

import "google.golang.org/protobuf/proto"

// Stored is a record of a View as it is kept, which is read when it is asked for.
type Stored[T proto.Message] struct {
	family Family[T]
	entry  *entry
}

// Read is the record, read anew each time.
func (s Stored[T]) Read() Record[T] { return s.family.record(s.entry) }

// Bytes are the encoded value, which can be decoded for sure; nil for a record
// that is not kept so. Nobody may change them.
func (s Stored[T]) Bytes() []byte { return s.entry.raw }

// Revision is the key's mod revision.
func (s Stored[T]) Revision() int64 { return s.entry.modRevision }

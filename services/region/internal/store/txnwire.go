package store

import (
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// condition is one compare.
type condition struct {
	key, end string // end: of a range
	target   target
	result   result // of comparing what the key has with number
	number   int64
}

// target is what of a key is compared, in etcd's numbers.
type target uint64

const (
	createRevision target = 1
	modRevision    target = 2
)

// result is how it is to compare, in etcd's numbers.
type result uint64

const (
	equal   result = 0
	greater result = 1
	less    result = 2
)

// write is a key that is put or deleted.
type write struct {
	key    string
	value  []byte
	end    string // of a range that is deleted
	lease  clientv3.LeaseID
	delete bool
}

// Numbers of etcd's fields.
const (
	txnCompare, txnSuccess                   protowire.Number = 1, 2
	compareResult, compareTarget, compareKey protowire.Number = 1, 2, 3
	compareCreate, compareMod, compareEnd    protowire.Number = 5, 6, 64
	opPut, opDelete, opTxn                   protowire.Number = 2, 3, 4
	putKey, putValue, putLease               protowire.Number = 1, 2, 3
	deleteKey, deleteEnd                     protowire.Number = 1, 2
)

func sizeText(number protowire.Number, n int) int {
	if n == 0 {
		return 0
	}
	return protowire.SizeTag(number) + protowire.SizeBytes(n)
}

func sizeNumber(number protowire.Number, n uint64) int {
	return protowire.SizeTag(number) + protowire.SizeVarint(n)
}

func appendText(b []byte, number protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), text)
}

func appendNumber(b []byte, number protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), n)
}

func appendNested(b []byte, number protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(size))
}

// field is the one that number is in.
func (c *condition) field() protowire.Number {
	if c.target == createRevision {
		return compareCreate
	}
	return compareMod
}

func (c *condition) size() int {
	size := sizeNumber(compareTarget, uint64(c.target)) + sizeText(compareKey, len(c.key)) + sizeNumber(c.field(), uint64(c.number)) + sizeText(compareEnd, len(c.end))
	if c.result != equal {
		size += sizeNumber(compareResult, uint64(c.result))
	}
	return size
}

func (c *condition) append(b []byte) []byte {
	if c.result != equal {
		b = appendNumber(b, compareResult, uint64(c.result))
	}
	b = appendNumber(b, compareTarget, uint64(c.target))
	b = appendText(b, compareKey, c.key)
	b = appendNumber(b, c.field(), uint64(c.number))
	return appendText(b, compareEnd, c.end)
}

// size is that of the request inside of the operation.
func (w *write) size() int {
	if w.delete {
		return sizeText(deleteKey, len(w.key)) + sizeText(deleteEnd, len(w.end))
	}
	size := sizeText(putKey, len(w.key)) + sizeText(putValue, len(w.value))
	if w.lease != 0 {
		size += sizeNumber(putLease, uint64(w.lease))
	}
	return size
}

func (w *write) append(b []byte) []byte {
	if w.delete {
		return appendText(appendText(b, deleteKey, w.key), deleteEnd, w.end)
	}
	b = appendText(b, putKey, w.key)
	if len(w.value) > 0 {
		b = protowire.AppendBytes(protowire.AppendTag(b, putValue, protowire.BytesType), w.value)
	}
	if w.lease != 0 {
		b = appendNumber(b, putLease, uint64(w.lease))
	}
	return b
}

func (w *write) op() protowire.Number {
	if w.delete {
		return opDelete
	}
	return opPut
}

func sizeWrites(writes []write) int {
	size := 0
	for i := range writes {
		inner := writes[i].size()
		size += sizeNested(txnSuccess, sizeNested(writes[i].op(), inner))
	}
	return size
}

func sizeNested(number protowire.Number, n int) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(n)
}

func appendWrites(b []byte, writes []write) []byte {
	for i := range writes {
		w := &writes[i]
		size := w.size()
		b = appendNested(b, txnSuccess, sizeNested(w.op(), size))
		b = appendNested(b, w.op(), size)
		b = w.append(b)
	}
	return b
}

// size is that of the request.
func (t *Txn) size() int {
	size := 0
	for i := range t.compares {
		size += sizeNested(txnCompare, t.compares[i].size())
	}
	nested := t.nested()
	if nested == nil {
		return size + sizeWrites(t.ops)
	}
	for _, part := range nested {
		size += sizeNested(txnSuccess, sizeNested(opTxn, sizeWrites(part)))
	}
	return size
}

// append adds the request in the form that etcd takes.
func (t *Txn) append(b []byte) []byte {
	for i := range t.compares {
		b = appendNested(b, txnCompare, t.compares[i].size())
		b = t.compares[i].append(b)
	}
	nested := t.nested()
	if nested == nil {
		return appendWrites(b, t.ops)
	}
	for _, part := range nested {
		size := sizeWrites(part)
		b = appendNested(b, txnSuccess, sizeNested(opTxn, size))
		b = appendNested(b, opTxn, size)
		b = appendWrites(b, part)
	}
	return b
}

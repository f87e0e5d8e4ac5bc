package view

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// wireField is one field of an encoded message: its value, and all of it with its
// tag.
type wireField struct {
	number int32
	kind   protowire.Type
	bytes  []byte // of BytesType
	varint uint64 // of VarintType
	whole  []byte
}

// fieldReader goes through the fields of an encoded message:
//
//	r := fieldsOf(data)
//	for r.next() {
//		switch r.number {
//		case diskPool:
//			r.ok = r.text(&pool)
//		}
//	}
//	return r.ok
//
// It ends at a field that whoever reads does not take, and at what is unusual: groups,
// and what is no message.
type fieldReader struct {
	wireField // that it is at

	rest []byte
	ok   bool
}

func fieldsOf(data []byte) fieldReader { return fieldReader{rest: data, ok: true} }

// next goes to the next field, if there is one.
func (r *fieldReader) next() bool {
	if !r.ok || len(r.rest) == 0 {
		return false
	}
	number, kind, n := protowire.ConsumeTag(r.rest)
	if r.ok = n >= 0; !r.ok {
		return false
	}
	r.number, r.kind, r.bytes, r.varint = int32(number), kind, nil, 0
	size := -1
	switch kind {
	case protowire.BytesType:
		r.bytes, size = protowire.ConsumeBytes(r.rest[n:])
	case protowire.VarintType:
		r.varint, size = protowire.ConsumeVarint(r.rest[n:])
	case protowire.Fixed32Type:
		_, size = protowire.ConsumeFixed32(r.rest[n:])
	case protowire.Fixed64Type:
		_, size = protowire.ConsumeFixed64(r.rest[n:])
	case protowire.StartGroupType, protowire.EndGroupType:
	}
	if r.ok = size >= 0; !r.ok {
		return false
	}
	r.whole, r.rest = r.rest[:n+size], r.rest[n+size:]
	return true
}

// text takes the value of a field of text, bytes or a message.
func (f *wireField) text(into *[]byte) bool {
	*into = f.bytes
	return f.kind == protowire.BytesType
}

// number32 takes the value of an int32 or an enum.
func (f *wireField) number32(into *int32) bool {
	*into = int32(f.varint)
	return f.kind == protowire.VarintType
}

// number64 takes the value of an int64.
func (f *wireField) number64(into *int64) bool {
	*into = int64(f.varint)
	return f.kind == protowire.VarintType
}

func appendText[T ~string | ~[]byte](b []byte, number protowire.Number, text T) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(text)))
	return append(b, text...)
}

// appendEnum leaves out what is not set.
func appendEnum(b []byte, number protowire.Number, value int32) []byte {
	if value == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), uint64(int64(value)))
}

func appendMessage(b []byte, number protowire.Number, m proto.Message) ([]byte, error) {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(proto.Size(m)))
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}

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

// consumeField is the first field of an encoded message, and what follows it. It
// answers false for what is unusual: groups, and what is no message.
func consumeField(data []byte) (f wireField, rest []byte, ok bool) {
	number, kind, n := protowire.ConsumeTag(data)
	if n < 0 {
		return f, nil, false
	}
	f.number, f.kind = int32(number), kind
	var size int
	switch kind {
	case protowire.BytesType:
		f.bytes, size = protowire.ConsumeBytes(data[n:])
	case protowire.VarintType:
		f.varint, size = protowire.ConsumeVarint(data[n:])
	case protowire.Fixed32Type:
		_, size = protowire.ConsumeFixed32(data[n:])
	case protowire.Fixed64Type:
		_, size = protowire.ConsumeFixed64(data[n:])
	case protowire.StartGroupType, protowire.EndGroupType:
		return f, nil, false
	default:
		return f, nil, false
	}
	if size < 0 {
		return f, nil, false
	}
	f.whole = data[:n+size]
	return f, data[n+size:], true
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

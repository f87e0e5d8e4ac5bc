package store

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// shape is what of a message must be known to see that bytes can be decoded as
// one, without decoding them: the wire form of its fields, by number.
type shape struct {
	fields map[protowire.Number]fieldShape
	low    []fieldShape // the fields with low numbers
}

const (
	lowFields = 64
	// maxNesting is far above that of our messages.
	maxNesting = 32
)

type fieldShape struct {
	form   form
	packed form   // what a list of numbers is packed of
	nested *shape // of a message
}

type form uint8

const (
	formNone form = iota
	formVarint
	formFixed32
	formFixed64
	formBytes
	formText
	formMessage
)

// shapeOf is the shape of a kind of message; known has those that are made
// already, so that messages can hold themselves.
func shapeOf(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s, ok := known[d.FullName()]; ok {
		return s
	}
	s := &shape{fields: map[protowire.Number]fieldShape{}, low: make([]fieldShape, lowFields)}
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := fieldShape{form: formOf(fd.Kind())}
		if f.form == formMessage {
			f.nested = shapeOf(fd.Message(), known)
		}
		if fd.IsList() && f.form < formBytes {
			f.packed = f.form
		}
		s.fields[fd.Number()] = f
		if fd.Number() < lowFields {
			s.low[fd.Number()] = f
		}
	}
	return s
}

func formOf(k protoreflect.Kind) form {
	switch k {
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Uint32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Uint64Kind:
		return formVarint
	case protoreflect.Sfixed32Kind, protoreflect.Fixed32Kind, protoreflect.FloatKind:
		return formFixed32
	case protoreflect.Sfixed64Kind, protoreflect.Fixed64Kind, protoreflect.DoubleKind:
		return formFixed64
	case protoreflect.StringKind:
		return formText
	case protoreflect.BytesKind:
		return formBytes
	case protoreflect.MessageKind:
		return formMessage
	default:
		return formNone
	}
}

// sound says whether the bytes can be decoded for sure. What is unusual, it leaves
// to the decoder: false means only that it must be tried.
func (s *shape) sound(data []byte) bool { return s.soundAt(data, maxNesting) }

func (s *shape) soundAt(data []byte, nesting int) bool {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 || number > protowire.MaxValidNumber {
			return false
		}
		data = data[n:]
		f := s.field(number)
		switch {
		case f.form == formNone && kind != protowire.StartGroupType && kind != protowire.EndGroupType:
			n = protowire.ConsumeFieldValue(number, kind, data)
		case f.form == formVarint && kind == protowire.VarintType:
			_, n = protowire.ConsumeVarint(data)
		case f.form == formFixed32 && kind == protowire.Fixed32Type:
			_, n = protowire.ConsumeFixed32(data)
		case f.form == formFixed64 && kind == protowire.Fixed64Type:
			_, n = protowire.ConsumeFixed64(data)
		case kind == protowire.BytesType && (f.form >= formBytes || f.packed != formNone):
			var value []byte
			if value, n = protowire.ConsumeBytes(data); n < 0 || !f.soundBytes(value, nesting) {
				return false
			}
		default:
			return false
		}
		if n < 0 {
			return false
		}
		data = data[n:]
	}
	return true
}

func (s *shape) field(number protowire.Number) fieldShape {
	if number < lowFields {
		return s.low[number]
	}
	return s.fields[number]
}

func (f fieldShape) soundBytes(value []byte, nesting int) bool {
	switch {
	case f.form == formBytes:
		return true
	case f.form == formText:
		return utf8.Valid(value)
	case f.form == formMessage:
		return nesting > 0 && f.nested.soundAt(value, nesting-1)
	case f.packed == formFixed32:
		return len(value)%4 == 0
	case f.packed == formFixed64:
		return len(value)%8 == 0
	}
	for len(value) > 0 {
		_, n := protowire.ConsumeVarint(value)
		if n < 0 {
			return false
		}
		value = value[n:]
	}
	return true
}

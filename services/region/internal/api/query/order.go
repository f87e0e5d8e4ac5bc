package query

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxOrderFields and maxKeyBytes bound a page token, which carries the sort
	// keys of a resource.
	maxOrderFields = 3
	maxKeyBytes    = 128
)

// Order is a compiled AIP-132 order.
type Order struct {
	fields []orderField
}

type orderField struct {
	path       []protoreflect.FieldDescriptor
	descending bool
}

// CompileOrder reads an order such as `hostname` or `memory_mib desc, name`.
func CompileOrder(kind protoreflect.MessageDescriptor, text string) (*Order, error) {
	o := &Order{}
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		var f orderField
		switch {
		case len(words) == 1:
		case len(words) == 2 && (words[1] == "asc" || words[1] == "desc"):
			f.descending = words[1] == "desc"
		default:
			return nil, errors.New("must be fields with an optional asc or desc each, separated by commas")
		}
		path, err := resolve(kind, strings.Split(words[0], "."))
		if err != nil {
			return nil, err
		}
		if last := path[len(path)-1]; last.IsList() || last.IsMap() || last.Kind() == protoreflect.MessageKind && !isTimestamp(last.Message()) || last.Kind() == protoreflect.BytesKind {
			return nil, fmt.Errorf("names %q, which has no order", words[0])
		}
		f.path = path
		o.fields = append(o.fields, f)
	}
	if len(o.fields) > maxOrderFields {
		return nil, fmt.Errorf("names %d fields; at most %d are taken", len(o.fields), maxOrderFields)
	}
	return o, nil
}

// onlyName says that resources need not be built to be put in order.
func (o *Order) onlyName() bool {
	return len(o.fields) == 1 && len(o.fields[0].path) == 1 && o.fields[0].path[0].Name() == "name"
}

func (o *Order) nameKeys(name string) [][]byte { return [][]byte{stringKey(name)} }

// keys are the sort keys of a message: compared as bytes they are in the order
// of the values.
func (o *Order) keys(m proto.Message) [][]byte {
	keys := make([][]byte, len(o.fields))
	for i, f := range o.fields {
		keys[i] = key(m.ProtoReflect(), f.path)
	}
	return keys
}

func key(m protoreflect.Message, path []protoreflect.FieldDescriptor) []byte {
	for i, fd := range path {
		if fd.Kind() == protoreflect.MessageKind && !m.Has(fd) {
			return nil // what is not there comes first
		}
		v := m.Get(fd)
		if i == len(path)-1 {
			return scalarKey(fd, v)
		}
		m = v.Message()
	}
	return nil
}

func scalarKey(fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return stringKey(v.String())
	case protoreflect.BoolKind:
		if v.Bool() {
			return []byte{1}
		}
		return []byte{0}
	case protoreflect.EnumKind:
		return intKey(int64(v.Enum()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		bits := math.Float64bits(v.Float())
		if bits>>63 == 1 {
			bits = ^bits
		} else {
			bits |= 1 << 63
		}
		return binary.BigEndian.AppendUint64(nil, bits)
	case protoreflect.MessageKind:
		if ts, ok := v.Message().Interface().(*timestamppb.Timestamp); ok {
			return binary.BigEndian.AppendUint32(intKey(ts.GetSeconds()), uint32(ts.GetNanos()))
		}
		return nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return binary.BigEndian.AppendUint64(nil, v.Uint())
	default:
		return intKey(v.Int())
	}
}

func intKey(n int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(n)^(1<<63))
}

func stringKey(s string) []byte { return []byte(s[:min(len(s), maxKeyBytes)]) }

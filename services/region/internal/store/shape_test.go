package store

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"
)

// anyValue fills a message of any kind with anything.
func anyValue(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rapid.IntRange(0, 2).Draw(t, "set") == 0 {
			continue
		}
		switch {
		case fd.IsMap():
			if fd.MapValue().Kind() != protoreflect.MessageKind && depth > 0 {
				m.Mutable(fd).Map().Set(scalar(t, fd.MapKey()).MapKey(), scalar(t, fd.MapValue()))
			}
		case fd.Kind() == protoreflect.MessageKind && depth == 0:
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range rapid.IntRange(0, 2).Draw(t, "n") {
				if fd.Kind() != protoreflect.MessageKind {
					list.Append(scalar(t, fd))
					continue
				}
				anyValue(t, list.AppendMutable().Message(), depth-1)
			}
		case fd.Kind() == protoreflect.MessageKind:
			anyValue(t, m.Mutable(fd).Message(), depth-1)
		default:
			m.Set(fd, scalar(t, fd))
		}
	}
}

func scalar(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.StringN(0, 5, -1).Draw(t, "text"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "bytes"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32().Draw(t, "enum")))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "i32"))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "i64"))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "u32"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "u64"))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(rapid.Float32().Draw(t, "f32"))
	default:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "f64"))
	}
}

func anyFamily(t *rapid.T) *kind {
	return kinds[rapid.SampledFrom(slices.Sorted(maps.Keys(kinds))).Draw(t, "family")]
}

func TestWhatIsFoundSoundCanBeDecodedAndRecordsAreFoundSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFamily(t)
		m := f.empty()
		anyValue(t, m.ProtoReflect(), 4)
		data, err := proto.Marshal(m)
		if err != nil {
			t.Skip("text that is no UTF-8") // the encoder refuses it as well
		}
		if !f.shape().sound(data) {
			t.Fatalf("a %s is not sound: %x", f.name(), data)
		}
		for range rapid.IntRange(0, 5).Draw(t, "faults") {
			if len(data) == 0 {
				break
			}
			at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "fault") {
			case 0:
				data[at] = rapid.Byte().Draw(t, "byte")
			case 1:
				data = data[:at]
			case 2:
				data = append(data[:at:at], append([]byte{rapid.Byte().Draw(t, "byte")}, data[at:]...)...)
			}
		}
		if f.shape().sound(data) {
			if err := proto.Unmarshal(data, f.empty()); err != nil {
				t.Fatalf("a %s that was found sound: %v: %x", f.name(), err, data)
			}
		}
	})
}

func TestUnknownFieldsOfALaterVersionAreSound(t *testing.T) {
	data := append([]byte{}, 0xf8, 0xff, 0xff, 0xff, 0x0f, 1) // field 536870911, a number
	data = append(data, 0x92, 0x7d, 2, 'a', 'b')              // field 2002, two bytes
	if !kinds["machines"].shape().sound(data) {
		t.Error("a record with fields of a later version must be tried")
	}
}

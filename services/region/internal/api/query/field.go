package query

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// step is one part of a path: a field, and for a map the key that follows it.
type step struct {
	field protoreflect.FieldDescriptor
	key   string
	keyed bool
}

// many says that the step stands for any number of values.
func (s step) many() bool { return s.field.IsList() || s.wholeMap() }

func (s step) wholeMap() bool { return s.field.IsMap() && !s.keyed }

// value describes one value of the step.
func (s step) value() protoreflect.FieldDescriptor {
	if s.field.IsMap() {
		return s.field.MapValue()
	}
	return s.field
}

func (s step) kind() protoreflect.Kind { return s.value().Kind() }

func isTimestamp(m protoreflect.MessageDescriptor) bool {
	return m.FullName() == "google.protobuf.Timestamp"
}

// opaque says that a message has no fields that can be asked for.
func opaque(m protoreflect.MessageDescriptor) bool {
	return strings.HasPrefix(string(m.FullName()), "google.protobuf.")
}

func join(names []string) string { return strings.Join(names, ".") }

// resolveSteps finds the fields that names lead to.
func resolveSteps(kind protoreflect.MessageDescriptor, names []string) ([]step, error) {
	var steps []step
	for i := 0; i < len(names); i++ {
		if kind == nil || opaque(kind) {
			return nil, fmt.Errorf("names %q, but %q has no fields", join(names), join(names[:i]))
		}
		field := kind.Fields().ByName(protoreflect.Name(names[i]))
		if field == nil {
			return nil, fmt.Errorf("names %q, which is no field of %s", join(names[:i+1]), kind.Name())
		}
		s := step{field: field}
		if field.IsMap() && i+1 < len(names) {
			if field.MapKey().Kind() != protoreflect.StringKind {
				return nil, fmt.Errorf("names a key of %q, which has no names for keys", join(names[:i+1]))
			}
			i++
			s.key, s.keyed = names[i], true
		}
		kind = s.value().Message()
		steps = append(steps, s)
	}
	return steps, nil
}

// resolve finds the singular fields that names lead to.
func resolve(kind protoreflect.MessageDescriptor, names []string) ([]protoreflect.FieldDescriptor, error) {
	steps, err := resolveSteps(kind, names)
	if err != nil {
		return nil, err
	}
	fields := make([]protoreflect.FieldDescriptor, len(steps))
	for i, s := range steps {
		if s.many() || s.keyed {
			return nil, fmt.Errorf("names %q, which has no order", join(names))
		}
		fields[i] = s.field
	}
	return fields, nil
}

// walk says whether any value that the steps lead to passes the test.
func walk(m protoreflect.Message, steps []step, test func(protoreflect.Value) bool) bool {
	s, rest := steps[0], steps[1:]
	one := func(v protoreflect.Value) bool {
		if len(rest) == 0 {
			return test(v)
		}
		return walk(v.Message(), rest, test)
	}
	switch {
	case s.field.IsList():
		list := m.Get(s.field).List()
		for i := range list.Len() {
			if one(list.Get(i)) {
				return true
			}
		}
		return false
	case s.field.IsMap():
		v := m.Get(s.field).Map().Get(protoreflect.ValueOfString(s.key).MapKey())
		return v.IsValid() && one(v)
	case s.field.Kind() == protoreflect.MessageKind && !m.Has(s.field):
		return false
	}
	return one(m.Get(s.field))
}

// isSet says whether what the steps lead to is there and not its default.
func isSet(m protoreflect.Message, steps []step) bool {
	last := len(steps) - 1
	return owners(m, steps[:last], func(m protoreflect.Message) bool {
		if s := steps[last]; s.keyed {
			return m.Get(s.field).Map().Has(protoreflect.ValueOfString(s.key).MapKey())
		}
		return m.Has(steps[last].field)
	})
}

// hasKey says whether the map that the steps lead to has a key.
func hasKey(m protoreflect.Message, steps []step, key string) bool {
	last := len(steps) - 1
	field := steps[last].field
	if field.MapKey().Kind() != protoreflect.StringKind {
		return false
	}
	return owners(m, steps[:last], func(m protoreflect.Message) bool {
		return m.Get(field).Map().Has(protoreflect.ValueOfString(key).MapKey())
	})
}

// owners says whether any message that the steps lead to passes the test.
func owners(m protoreflect.Message, steps []step, test func(protoreflect.Message) bool) bool {
	if len(steps) == 0 {
		return test(m)
	}
	return walk(m, steps, func(v protoreflect.Value) bool { return test(v.Message()) })
}

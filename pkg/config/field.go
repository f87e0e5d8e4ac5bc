package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// field is one key: a leaf of the tree of structs.
type field struct {
	path     []string
	usage    string
	secret   bool
	fileOnly bool // too rich for one line of text
	value    reflect.Value
}

var (
	durationType        = reflect.TypeFor[time.Duration]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (f field) key() string   { return strings.Join(f.path, ".") }
func (f field) flag() string  { return strings.ReplaceAll(strings.Join(f.path, "-"), "_", "-") }
func (f field) hasFlag() bool { return !f.secret && !f.fileOnly }
func (f field) isBool() bool  { return f.value.Kind() == reflect.Bool }

// fieldsOf lists the fields of a pointer to a struct in their order. It refuses
// structs that a user could not configure; that is a fault of the program.
func fieldsOf(dst any) ([]field, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("configuration is a %T, want a pointer to a struct", dst)
	}
	fields, err := walk(v.Elem(), nil)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{"config": true, "help": true, "h": true}
	for _, f := range fields {
		if seen[f.flag()] { // also: a_b and a.b would be the same flag
			return nil, fmt.Errorf("configuration key %s: the flag --%s is taken", f.key(), f.flag())
		}
		seen[f.flag()] = true
	}
	return fields, nil
}

func walk(v reflect.Value, path []string) ([]field, error) {
	var fields []field
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		name, inline := tag(sf)
		if name == "-" || !sf.IsExported() {
			continue
		}
		here := path
		if !inline {
			if name == "" {
				return nil, fmt.Errorf("configuration field %s.%s has no yaml tag", v.Type(), sf.Name)
			}
			here = below(path, name)
		}
		if isTree(sf.Type) {
			nested, err := walk(v.Field(i), here)
			if err != nil {
				return nil, err
			}
			fields = append(fields, nested...)
			continue
		}
		f := field{
			path: here, usage: sf.Tag.Get("usage"), secret: sf.Tag.Get("secret") == "true",
			value: v.Field(i), fileOnly: !fitsOnALine(sf.Type),
		}
		if f.usage == "" {
			return nil, fmt.Errorf("configuration field %s.%s has no usage tag", v.Type(), sf.Name)
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// tag reads the yaml tag.
func tag(sf reflect.StructField) (name string, inline bool) {
	name, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
	return name, options == "inline"
}

// isTree says whether the type has keys of its own.
func isTree(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textUnmarshalerType)
}

func fitsOnALine(t reflect.Type) bool {
	switch {
	case isScalar(t):
		return true
	case t.Kind() == reflect.Slice:
		return isScalar(t.Elem())
	case t.Kind() == reflect.Map:
		return t.Key().Kind() == reflect.String && isScalar(t.Elem())
	}
	return false
}

func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshalerType) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	default:
		return false
	}
}

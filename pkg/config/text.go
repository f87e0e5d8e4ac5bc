package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// set parses one line of text into the field. Its error does not show a secret.
func (f field) set(text string) error {
	err := parse(f.value, text)
	if err != nil && f.secret {
		return errors.New("the value is not valid")
	}
	return err
}

func parse(v reflect.Value, text string) error {
	switch {
	case isScalar(v.Type()):
		return parseScalar(v, text)
	case v.Kind() == reflect.Slice:
		list := reflect.MakeSlice(v.Type(), 0, 0)
		for _, part := range split(text) {
			item := reflect.New(v.Type().Elem()).Elem()
			if err := parseScalar(item, part); err != nil {
				return err
			}
			list = reflect.Append(list, item)
		}
		v.Set(list)
		return nil
	default: // a map: fieldsOf lets nothing else through
		m := reflect.MakeMap(v.Type())
		for _, part := range split(text) {
			key, value, ok := strings.Cut(part, "=")
			if !ok {
				return fmt.Errorf("%q is not key=value", part)
			}
			item := reflect.New(v.Type().Elem()).Elem()
			if err := parseScalar(item, value); err != nil {
				return err
			}
			m.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), item)
		}
		v.Set(m)
		return nil
	}
}

func split(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

func parseScalar(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 30s or 5m", text)
		}
		v.SetInt(int64(d))
		return nil
	}
	bits := 64
	if k := v.Kind(); k != reflect.String && k != reflect.Bool {
		bits = v.Type().Bits()
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		var b bool
		if b, err = strconv.ParseBool(text); err == nil {
			v.SetBool(b)
		}
	case reflect.Float32, reflect.Float64:
		var n float64
		if n, err = strconv.ParseFloat(text, bits); err == nil {
			v.SetFloat(n)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n uint64
		if n, err = strconv.ParseUint(text, 10, bits); err == nil {
			v.SetUint(n)
		}
	default:
		var n int64
		if n, err = strconv.ParseInt(text, 10, bits); err == nil {
			v.SetInt(n)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not a valid %s: %w", text, v.Kind(), errors.Unwrap(err))
	}
	return nil
}

// format is the reverse of set, for people.
func (f field) format() string {
	v := f.value
	switch {
	case f.secret && !v.IsZero():
		return redacted
	case f.fileOnly:
		return ""
	case isScalar(v.Type()):
		return formatScalar(v)
	case v.Kind() == reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, formatScalar(v.Index(i)))
		}
		return strings.Join(parts, ",")
	default:
		var parts []string
		for _, k := range slices.SortedFunc(maps.Keys(keys(v)), strings.Compare) {
			parts = append(parts, k+"="+formatScalar(keys(v)[k]))
		}
		return strings.Join(parts, ",")
	}
}

func keys(v reflect.Value) map[string]reflect.Value {
	m := make(map[string]reflect.Value, v.Len())
	for it := v.MapRange(); it.Next(); {
		m[it.Key().String()] = it.Value()
	}
	return m
}

func formatScalar(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	return fmt.Sprint(v.Interface())
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// loadYAML decodes one document and refuses keys that mean nothing, all at once
// and with their path.
func loadYAML(data []byte, dst any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil // only comments
	}
	if err := errors.Join(unknownKeys(doc.Content[0], reflect.TypeOf(dst).Elem(), nil)...); err != nil {
		return err
	}
	if err := doc.Decode(dst); err != nil {
		// The library's message quotes values, which may be secrets.
		if hasSecret(reflect.TypeOf(dst).Elem()) {
			return hideValues(err)
		}
		return err
	}
	return nil
}

// unknownKeys walks the document and the type together.
func unknownKeys(node *yaml.Node, t reflect.Type, path []string) []error {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	var faults []error
	switch {
	case t.Kind() == reflect.Slice && node.Kind == yaml.SequenceNode:
		for i, item := range node.Content {
			faults = append(faults, unknownKeys(item, t.Elem(), below(path, strconv.Itoa(i)))...)
		}
	case t.Kind() == reflect.Map && node.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			faults = append(faults, unknownKeys(node.Content[i+1], t.Elem(), below(path, node.Content[i].Value))...)
		}
	case isTree(t) && node.Kind == yaml.MappingNode:
		known := children(t)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			here := below(path, key.Value)
			sf, ok := known[key.Value]
			if !ok {
				faults = append(faults, fmt.Errorf("line %d: unknown key %s", key.Line, strings.Join(here, ".")))
				continue
			}
			faults = append(faults, unknownKeys(node.Content[i+1], sf.Type, here)...)
		}
	case isTree(t) && node.Tag != "!!null":
		faults = append(faults, fmt.Errorf("line %d: %s has keys of its own, such as %s",
			node.Line, strings.Join(path, "."), anyKey(t)))
	}
	return faults
}

// below extends a path without touching the caller's.
func below(path []string, key string) []string { return append(slices.Clone(path), key) }

// children are the keys of a struct, those of inlined structs included.
func children(t reflect.Type) map[string]reflect.StructField {
	m := map[string]reflect.StructField{}
	for i := range t.NumField() {
		sf := t.Field(i)
		name, inline := tag(sf)
		switch {
		case name == "-" || !sf.IsExported():
		case inline:
			for k, v := range children(sf.Type) {
				m[k] = v
			}
		default:
			m[name] = sf
		}
	}
	return m
}

func anyKey(t reflect.Type) string {
	for i := range t.NumField() {
		if name, _ := tag(t.Field(i)); name != "" && name != "-" {
			return name
		}
	}
	return "none"
}

func hasSecret(t reflect.Type) bool {
	if !isTree(t) {
		return false
	}
	for _, sf := range children(t) {
		inner := sf.Type
		if k := inner.Kind(); k == reflect.Slice || k == reflect.Map {
			inner = inner.Elem()
		}
		if sf.Tag.Get("secret") == "true" || hasSecret(inner) {
			return true
		}
	}
	return false
}

// hideValues keeps from the library's messages what is not the user's text: it
// quotes that in backquotes, one value a line.
func hideValues(err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		first, last := strings.IndexByte(line, '`'), strings.LastIndexByte(line, '`')
		if first >= 0 && last > first {
			lines[i] = line[:first] + "a value" + line[last+1:]
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

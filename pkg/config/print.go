package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const redacted = "REDACTED"

// Print writes the effective configuration as YAML that Load reads, but for
// secrets, which are redacted.
func Print(w io.Writer, cfg any) error {
	v := reflect.ValueOf(cfg)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	var node yaml.Node
	if err := node.Encode(v.Interface()); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	redact(&node, v.Type())
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return enc.Close()
}

func redact(node *yaml.Node, t reflect.Type) {
	switch {
	case node.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for _, item := range node.Content {
			redact(item, t.Elem())
		}
	case node.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 1; i < len(node.Content); i += 2 {
			redact(node.Content[i], t.Elem())
		}
	case node.Kind == yaml.MappingNode && isTree(t):
		known := children(t)
		for i := 0; i+1 < len(node.Content); i += 2 {
			sf, value := known[node.Content[i].Value], node.Content[i+1]
			switch {
			case sf.Tag.Get("secret") != "true":
				redact(value, sf.Type)
			case value.Value != "" || len(value.Content) > 0:
				*value = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: redacted}
			}
		}
	}
}

// Reference writes a Markdown table of all keys, for docs/reference/config.md.
// The defaults are the values of cfg, a pointer to a struct.
func Reference(w io.Writer, cfg any, o Options) error {
	fields, err := fieldsOf(cfg)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("| key | flag | environment | default | meaning |\n|---|---|---|---|---|\n")
	for _, f := range fields {
		flagName, env := "", ""
		if f.hasFlag() {
			flagName = "`--" + f.flag() + "`"
		}
		if !f.fileOnly && o.EnvPrefix != "" {
			env = "`" + o.env(f.path...) + "`"
		}
		def := f.format()
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.key(), flagName, env, def, strings.ReplaceAll(f.usage, "|", `\|`))
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// writeHelp lists the flags with their default and meaning.
func writeHelp(w io.Writer, fields []field, o Options) {
	fmt.Fprintf(w, "Usage: %s [flags]\n       %s config print [flags]   show the effective configuration\n\nFlags:\n", o.Name, o.Name)
	fmt.Fprintf(w, "  --config FILE\n        YAML file with any of the keys below\n")
	for _, f := range fields {
		name := "  --" + f.flag()
		switch {
		case f.fileOnly:
			name = "  (only in the file) " + f.key()
		case f.secret:
			name = "  (no flag) " + f.key()
		}
		if def := f.format(); def != "" && def != "false" {
			name += " (default " + def + ")"
		}
		fmt.Fprintf(w, "%s\n        %s\n", name, f.usage)
	}
	if o.EnvPrefix != "" {
		fmt.Fprintf(w, "\nEvery key can be set in the environment, for example %s.\n", o.env("log", "level"))
	}
}

package display

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode"

	"go.yaml.in/yaml/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// JSON writes a message as proto JSON, indented, with a line break at the end.
// Fields without a value are there with their default, so that a program can
// rely on `machines` and `nextPageToken`.
func JSON(w io.Writer, m proto.Message) error {
	data, err := marshal(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return fmt.Errorf("indent json: %w", err)
	}
	out.WriteByte('\n')
	return write(w, out.Bytes())
}

// JSONLine writes a message as proto JSON on one line.
func JSONLine(w io.Writer, m proto.Message) error {
	data, err := marshal(m)
	if err != nil {
		return err
	}
	return write(w, append(data, '\n'))
}

// YAML writes a message as the YAML of its proto JSON.
func YAML(w io.Writer, m proto.Message) error {
	data, err := marshal(m)
	if err != nil {
		return err
	}
	// A reader of YAML would do for JSON, and takes longer than all the rest.
	var value any
	read := json.NewDecoder(bytes.NewReader(data))
	read.UseNumber() // else whole numbers become 1e+06
	if err := read.Decode(&value); err != nil {
		return fmt.Errorf("write yaml: %w", err)
	}
	out, err := yaml.Marshal(value)
	if err != nil {
		return fmt.Errorf("write yaml: %w", err)
	}
	return write(w, out)
}

// protojson puts spaces in at random so that nobody relies on its bytes; ours
// are compacted, because people compare them.
func marshal(m proto.Message) ([]byte, error) {
	data, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write json: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, data); err != nil {
		return nil, fmt.Errorf("compact json: %w", err)
	}
	return printable(out.Bytes()), nil
}

// printable writes out what a terminal may obey and protojson leaves as it is,
// such as the control characters above ASCII. To whoever reads JSON it is the same:
// outside of strings JSON has none of them. Those that take two escapes stay: a
// reader of YAML does not know these, and no terminal obeys them.
func printable(data []byte) []byte {
	if !bytes.ContainsFunc(data, unprintable) {
		return data
	}
	var out bytes.Buffer
	for _, r := range string(data) {
		if unicode.IsPrint(r) || r > 0xffff {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

func write(w io.Writer, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

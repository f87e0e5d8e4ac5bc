package jsonapi

import (
	"bytes"
	"fmt"
	"io"
	"reflect"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// codec is proto JSON: answers with every field, in lowerCamelCase; requests
// without unknown or repeated ones. Unlike grpc-gateway's own it looks at each
// byte once.
type codec struct{}

var _ runtime.Marshaler = codec{}

// Marshal writes a message.
func (codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("marshal %T: not a message", v)
	}
	return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
}

// Unmarshal reads a message, or a pointer to a field that is one.
func (codec) Unmarshal(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return io.EOF // no body: the message stays empty
	}
	m, ok := v.(proto.Message)
	if !ok {
		field := reflect.ValueOf(v)
		if field.Kind() != reflect.Pointer || field.Elem().Kind() != reflect.Pointer {
			return fmt.Errorf("unmarshal %T: not a message", v)
		}
		made := reflect.New(field.Elem().Type().Elem())
		if m, ok = made.Interface().(proto.Message); !ok {
			return fmt.Errorf("unmarshal %T: not a message", v)
		}
		field.Elem().Set(made)
	}
	return protojson.Unmarshal(data, m)
}

// NewDecoder reads one message.
func (c codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return c.Unmarshal(data, v)
	})
}

// NewEncoder writes messages.
func (c codec) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		data, err := c.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
}

// ContentType is JSON.
func (codec) ContentType(any) string { return "application/json" }

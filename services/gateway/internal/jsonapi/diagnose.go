package jsonapi

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// maxDepth is deeper than any message of the API.
const maxDepth = 16

// diagnose looks for the field because of which a request was refused. It runs
// only then, so it may be slow: it tries each field by itself. Proto JSON says
// what is wrong in words only, which nothing should depend on.
func (b *binding) diagnose(c *call) error {
	if err := b.checkQuery(c.query); err != nil {
		return err
	}
	if b.body != "" && len(bytes.TrimSpace(c.body)) > 0 {
		if err := b.diagnoseBody(c.body); err != nil {
			return err
		}
	}
	query, err := url.ParseQuery(c.query)
	if err != nil {
		return apierror.InvalidField("query", "cannot be read: %s", err)
	}
	for key, values := range query {
		message := dynamicpb.NewMessage(b.input)
		if err := runtime.PopulateQueryParameters(message, url.Values{key: values}, utilities.NewDoubleArray(nil)); err != nil {
			return apierror.InvalidField(key, "has a value that is not valid for it")
		}
	}
	return nil
}

func (b *binding) diagnoseBody(body []byte) error {
	message, prefix := b.input, ""
	if b.body != "*" {
		field := b.input.Fields().ByName(protoreflect.Name(b.body))
		message, prefix = field.Message(), field.JSONName()+"."
	}
	if !json.Valid(body) {
		var syntax any
		return apierror.InvalidField("body", "is not JSON: %s", json.Unmarshal(body, &syntax))
	}
	path, why := culprit(message, body, maxDepth)
	if path == "" && why == "" {
		return nil
	}
	if path == "" {
		return apierror.InvalidField("body", "%s", why)
	}
	return apierror.InvalidField(prefix+path, "%s", why)
}

// culprit finds the first field of an object that does not fit the message: its
// path below the object, and why. Both are empty when none is found.
func culprit(message protoreflect.MessageDescriptor, object []byte, depth int) (path, why string) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return "", "is not a JSON object"
	}
	seen := map[protoreflect.Name]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return "", ""
		}
		key, _ := token.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return "", ""
		}
		field := fieldByName(message, key)
		switch {
		case field == nil:
			return shown(key), "is not a field of this request"
		case seen[field.Name()]:
			return key, "is given twice"
		case !fits(message, key, value):
			if field.Message() != nil && !field.IsMap() && depth > 0 {
				return below(field, key, value, depth-1)
			}
			return key, "does not take this value; it is " + kind(field)
		}
		seen[field.Name()] = true
	}
	return "", ""
}

// below goes on inside a message or a list of messages.
func below(field protoreflect.FieldDescriptor, key string, value json.RawMessage, depth int) (path, why string) {
	wrong := "does not take this value; it is " + kind(field)
	if strings.HasPrefix(string(field.Message().FullName()), "google.protobuf.") {
		return key, wrong
	}
	values := []json.RawMessage{value}
	if field.IsList() {
		if err := json.Unmarshal(value, &values); err != nil {
			return key, wrong
		}
	}
	for _, v := range values {
		if path, why := culprit(field.Message(), v, depth); path != "" {
			return key + "." + path, why
		}
	}
	return key, wrong
}

// fits says whether the value by itself is a good one for the field.
func fits(message protoreflect.MessageDescriptor, key string, value json.RawMessage) bool {
	object, err := json.Marshal(map[string]json.RawMessage{key: value})
	return err == nil && protojson.Unmarshal(object, dynamicpb.NewMessage(message)) == nil
}

func kind(field protoreflect.FieldDescriptor) string {
	name := "a " + field.Kind().String()
	switch field.Kind() {
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		name = "a whole number (" + field.Kind().String() + ")"
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		name = "a number (" + field.Kind().String() + ")"
	case protoreflect.BoolKind:
		name = "true or false"
	case protoreflect.StringKind:
		name = "a text"
	default:
	}
	switch {
	case field.IsMap():
		return "a map"
	case field.Enum() != nil:
		name = "one of " + string(field.Enum().Name())
	case field.Message() != nil:
		name = "a " + string(field.Message().Name())
	}
	if field.IsList() {
		return "a list, each " + name
	}
	return name
}

// shown keeps a made-up name short.
func shown(key string) string {
	if len(key) > 64 {
		return key[:64]
	}
	return key
}

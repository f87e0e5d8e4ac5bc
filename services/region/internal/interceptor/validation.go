package interceptor

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// maxViolations bounds an answer: the first few say what there is to know.
const maxViolations = 20

// validate checks a request against the rules of the contract.
func validate(v protovalidate.Validator, m any) error {
	msg, ok := m.(proto.Message)
	if v == nil || !ok {
		return nil
	}
	err := v.Validate(msg)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fmt.Errorf("validate %s: %w", msg.ProtoReflect().Descriptor().Name(), err)
	}
	e := apierror.New(codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "the request is not valid")
	var parts []string
	for _, violation := range invalid.Violations[:min(len(invalid.Violations), maxViolations)] {
		field := protovalidate.FieldPathString(violation.Proto.GetField())
		message := words(violation)
		if message == "" {
			message = describe(violation.Proto.GetMessage(), violation.Proto.GetRuleId())
		}
		if field == "" {
			field = "request"
		}
		e = e.WithField(field, message)
		parts = append(parts, field+" "+message)
	}
	e.Message = strings.Join(parts, "; ")
	return e
}

// words say what is wanted where the rule's own words are those of a program: the
// names of an enum, and what a pattern means. Empty: they will do.
func words(v *protovalidate.Violation) string {
	switch v.Proto.GetRuleId() {
	case "enum.in":
		enum := v.FieldDescriptor.Enum()
		if enum == nil || !v.RuleValue.IsValid() {
			return ""
		}
		list, ok := v.RuleValue.Interface().(protoreflect.List)
		if !ok {
			return ""
		}
		var names []string
		for i := range list.Len() {
			if one := enum.Values().ByNumber(protoreflect.EnumNumber(list.Get(i).Int())); one != nil {
				names = append(names, string(one.Name()))
			}
		}
		return "must be one of " + strings.Join(names, ", ")
	case "string.pattern":
		return patternWords(v.RuleValue.String())
	default:
		return ""
	}
}

// patternWords say what the patterns mean that the contract uses most.
func patternWords(pattern string) string {
	pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "^"), "$")
	or := ""
	if inner, ok := strings.CutPrefix(pattern, "("); ok && strings.HasSuffix(inner, ")?") {
		pattern, or = strings.TrimSuffix(inner, ")?"), ", or empty"
	}
	if collection, _, ok := strings.Cut(pattern, "/[^/]{1,6"); ok {
		return "must have the form " + collection + "/{id}" + or
	}
	switch pattern {
	case "[a-z]([-a-z0-9]{0,61}[a-z0-9])?":
		return "must be 1 to 63 lower-case letters, digits and hyphens, with a letter first and no hyphen last" + or
	case "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?":
		return "must be 1 to 63 lower-case letters, digits and hyphens, with no hyphen first or last" + or
	case "[a-z0-9]([-a-z0-9_.]{0,61}[a-z0-9])?":
		return "must be 1 to 63 of a-z, 0-9, `-`, `_` and `.`, with a letter or digit first and last" + or
	default:
		return ""
	}
}

// describe makes the rule's words part of a sentence that begins with the field.
func describe(message, rule string) string {
	if message == "" {
		return "breaks the rule " + rule
	}
	if rest, ok := strings.CutPrefix(message, "value "); ok {
		return rest
	}
	return message
}

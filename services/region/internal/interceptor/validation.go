package interceptor

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

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
		message := describe(violation.Proto.GetMessage(), violation.Proto.GetRuleId())
		if field == "" {
			field = "request"
		}
		e = e.WithField(field, message)
		parts = append(parts, field+" "+message)
	}
	e.Message = strings.Join(parts, "; ")
	return e
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

// Package apierror makes the errors that vmhost answers with: a gRPC status that
// carries a reason from the public enum, the field where there is one, and what
// to do. Clients act on the reason and never on the text.
package apierror

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Domain is the domain of every ErrorInfo.
const Domain = "vmhost.dev"

// Error is an answerable failure. Make one with New and add to it with the With
// methods, which change and return the same Error.
type Error struct {
	// Code is the canonical code.
	Code codes.Code
	// Reason is the stable reason.
	Reason vmhostv1.ErrorReason
	// Message says what failed and why, lower case, without a full stop.
	Message string
	// Hint says what to do.
	Hint string
	// Metadata are the parameters of the reason.
	Metadata map[string]string
	// Fields are the request's fields that are not valid.
	Fields []*errdetails.BadRequest_FieldViolation

	cause error
}

// New makes an error.
func New(code codes.Code, reason vmhostv1.ErrorReason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Reason: reason, Message: err.Error(), cause: errors.Unwrap(err)}
}

// InvalidField says that one field of the request is not valid. The field is a
// path such as `vm_host.overcommit.cores`.
func InvalidField(field, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	e := New(codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "%s %s", field, message)
	return e.WithField(field, message)
}

// NotFound says that a named resource does not exist.
func NotFound(name string) *Error {
	e := New(codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "%s does not exist", name).With("resource", name)
	if command := lists(name); command != "" {
		e = e.WithHint("see what there is: `vmhostctl %s list`", command)
	}
	return e
}

// lists is the command that lists resources like one of a name.
func lists(name string) string {
	collection, _, _ := strings.Cut(name, "/")
	switch collection {
	case "vmHosts":
		return "vm-host"
	case "machines":
		return "machine"
	case "zones":
		return "zone"
	case "resourcePools":
		return "pool"
	case "racks":
		return "rack"
	case "operations":
		return "operation"
	case "placementPolicies":
		return "placement-policy"
	case "reservations":
		return "reservation"
	default:
		return ""
	}
}

// With adds a parameter of the reason.
func (e *Error) With(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[key] = value
	return e
}

// WithHint says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithField names a field that is not valid.
func (e *Error) WithField(field, description string) *Error {
	e.Fields = append(e.Fields, &errdetails.BadRequest_FieldViolation{Field: field, Description: description, Reason: e.Reason.String()})
	return e
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// Unwrap is what the error was made from with %w.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus is the wire form; grpc-go finds it by itself.
func (e *Error) GRPCStatus() *status.Status {
	info := &errdetails.ErrorInfo{Reason: e.Reason.String(), Domain: Domain, Metadata: maps.Clone(e.Metadata)}
	if e.Hint != "" {
		if info.Metadata == nil {
			info.Metadata = map[string]string{}
		}
		info.Metadata["hint"] = e.Hint
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if len(e.Fields) > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.BadRequest{FieldViolations: e.Fields}))
	}
	st, err := status.New(e.Code, e.Message).WithDetails(details...)
	if err != nil { // only for codes.OK, which is no error
		return status.New(codes.Internal, e.Message)
	}
	return st
}

// FromStatus reads an answer back into an Error; nil when err is nil. An error
// without ErrorInfo has the reason ERROR_REASON_UNSPECIFIED.
func FromStatus(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	st, _ := status.FromError(err)
	e := &Error{Code: st.Code(), Message: st.Message(), cause: err}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = vmhostv1.ErrorReason(vmhostv1.ErrorReason_value[d.GetReason()])
			e.Metadata = maps.Clone(d.GetMetadata())
			e.Hint = e.Metadata["hint"]
			delete(e.Metadata, "hint")
		case *errdetails.BadRequest:
			e.Fields = d.GetFieldViolations()
		}
	}
	return e
}

// Reason is the reason of an error, unspecified when it has none.
func Reason(err error) vmhostv1.ErrorReason {
	if err == nil {
		return vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	return FromStatus(err).Reason
}

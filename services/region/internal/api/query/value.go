package query

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type test = func(protoreflect.Value) bool

// compileTest makes the comparison of one value of a field with a constant.
func compileTest(s step, op, name string, right *expr.Expr) (test, error) {
	switch s.kind() {
	case protoreflect.StringKind:
		return stringTest(op, name, right)
	case protoreflect.BoolKind:
		return boolTest(op, name, right)
	case protoreflect.EnumKind:
		return enumTest(s.value().Enum(), op, name, right)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return floatTest(op, name, right)
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind, protoreflect.Sint64Kind,
		protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		return intTest(op, name, right)
	case protoreflect.MessageKind:
		if isTimestamp(s.value().Message()) {
			return timeTest(op, name, right)
		}
	default: // unsigned numbers and bytes, which no resource has
	}
	return nil, fmt.Errorf("compares %q, of which one can only ask whether it is set, by %s:*", name, name)
}

// byOrder turns the result of a comparison into the operator's answer.
func byOrder(op, name string) (func(int) bool, error) {
	switch op {
	case filtering.FunctionEquals, filtering.FunctionHas:
		return func(c int) bool { return c == 0 }, nil
	case filtering.FunctionNotEquals:
		return func(c int) bool { return c != 0 }, nil
	case filtering.FunctionLessThan:
		return func(c int) bool { return c < 0 }, nil
	case filtering.FunctionLessEquals:
		return func(c int) bool { return c <= 0 }, nil
	case filtering.FunctionGreaterThan:
		return func(c int) bool { return c > 0 }, nil
	case filtering.FunctionGreaterEquals:
		return func(c int) bool { return c >= 0 }, nil
	}
	return nil, fmt.Errorf("compares %q by %s, which does not exist", name, op)
}

func onlyEquality(op, name string) (func(bool) bool, error) {
	switch op {
	case filtering.FunctionEquals, filtering.FunctionHas:
		return func(equal bool) bool { return equal }, nil
	case filtering.FunctionNotEquals:
		return func(equal bool) bool { return !equal }, nil
	}
	return nil, fmt.Errorf("compares %q by %s, but its values have no order", name, op)
}

// text reads a quoted or bare word.
func text(name string, e *expr.Expr) (string, error) {
	if names, ok := path(e); ok {
		return join(names), nil
	}
	if c, ok := e.GetConstExpr().GetConstantKind().(*expr.Constant_StringValue); ok {
		return c.StringValue, nil
	}
	return "", fmt.Errorf("compares %q with something that is no text; quote it", name)
}

func stringTest(op, name string, right *expr.Expr) (test, error) {
	want, err := text(name, right)
	if err != nil {
		return nil, err
	}
	switch op {
	case filtering.FunctionHas:
		return func(v protoreflect.Value) bool { return strings.Contains(v.String(), want) }, nil
	case filtering.FunctionEquals:
		return func(v protoreflect.Value) bool { return like(v.String(), want) }, nil
	case filtering.FunctionNotEquals:
		return func(v protoreflect.Value) bool { return !like(v.String(), want) }, nil
	}
	holds, err := byOrder(op, name)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool { return holds(strings.Compare(v.String(), want)) }, nil
}

// like compares with a pattern that may begin and end with `*`.
func like(s, pattern string) bool {
	rest, front := strings.CutPrefix(pattern, "*")
	rest, back := strings.CutSuffix(rest, "*")
	switch {
	case front && back:
		return strings.Contains(s, rest)
	case front:
		return strings.HasSuffix(s, rest)
	case back:
		return strings.HasPrefix(s, rest)
	}
	return s == pattern
}

func boolTest(op, name string, right *expr.Expr) (test, error) {
	var want bool
	switch word, _ := text(name, right); {
	case right.GetConstExpr().GetBoolValue() || word == "true":
		want = true
	case word == "false":
	default:
		return nil, fmt.Errorf("compares %q with something that is neither true nor false", name)
	}
	holds, err := onlyEquality(op, name)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool { return holds(v.Bool() == want) }, nil
}

func enumTest(enum protoreflect.EnumDescriptor, op, name string, right *expr.Expr) (test, error) {
	word, err := text(name, right)
	if err != nil {
		return nil, err
	}
	want := enum.Values().ByName(protoreflect.Name(word))
	if want == nil {
		return nil, fmt.Errorf("compares %q with %q, which is no %s", name, word, enum.Name())
	}
	holds, err := onlyEquality(op, name)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool { return holds(v.Enum() == want.Number()) }, nil
}

func intTest(op, name string, right *expr.Expr) (test, error) {
	c, ok := right.GetConstExpr().GetConstantKind().(*expr.Constant_Int64Value)
	if !ok {
		return nil, fmt.Errorf("compares %q with something that is no whole number", name)
	}
	holds, err := byOrder(op, name)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool { return holds(cmp.Compare(v.Int(), c.Int64Value)) }, nil
}

func floatTest(op, name string, right *expr.Expr) (test, error) {
	var want float64
	switch c := right.GetConstExpr().GetConstantKind().(type) {
	case *expr.Constant_Int64Value:
		want = float64(c.Int64Value)
	case *expr.Constant_DoubleValue:
		want = c.DoubleValue
	default:
		return nil, fmt.Errorf("compares %q with something that is no number", name)
	}
	holds, err := byOrder(op, name)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool { return holds(cmp.Compare(v.Float(), want)) }, nil
}

func timeTest(op, name string, right *expr.Expr) (test, error) {
	if call := right.GetCallExpr(); call.GetFunction() == filtering.FunctionTimestamp && len(call.GetArgs()) == 1 {
		right = call.GetArgs()[0]
	}
	word, err := text(name, right)
	if err != nil {
		return nil, err
	}
	want, err := time.Parse(time.RFC3339Nano, word)
	if err != nil {
		return nil, fmt.Errorf("compares %q with something that is no time; write it as \"2026-01-31T12:00:00Z\"", name)
	}
	holds, err := byOrder(op, name)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool {
		ts, ok := v.Message().Interface().(*timestamppb.Timestamp)
		return ok && holds(ts.AsTime().Compare(want))
	}, nil
}

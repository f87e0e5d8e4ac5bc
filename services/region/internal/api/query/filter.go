package query

import (
	"errors"
	"fmt"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Filter is a compiled AIP-160 filter. The zero value lets everything through.
//
// Fields are paths such as `observation.kvm` or `attributes.hostname`. Strings
// compare exactly, with a `*` at either end standing for anything. `:` asks
// whether a list has an element, a map a key, a string a part, and with `*`
// whether a field is set. A comparison with a field of a message that is not set
// is false, also by `!=`.
type Filter struct {
	match predicate
}

type predicate func(protoreflect.Message) bool

// CompileFilter reads a filter over messages of a kind.
func CompileFilter(kind protoreflect.MessageDescriptor, text string) (*Filter, error) {
	if text == "" {
		return &Filter{}, nil
	}
	var p filtering.Parser
	p.Init(text)
	parsed, err := p.Parse()
	if err != nil {
		return nil, syntaxError(err)
	}
	match, err := compile(kind, parsed.GetExpr())
	if err != nil {
		return nil, err
	}
	return &Filter{match: match}, nil
}

// Match says whether the filter lets a message of its kind through.
func (f *Filter) Match(m proto.Message) bool {
	return f.match == nil || f.match(m.ProtoReflect())
}

// syntaxError keeps the innermost of the parser's nested errors: the outer ones
// only say which rules of the grammar it was in.
func syntaxError(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(next) {
		err = next
	}
	at, ok := err.(interface {
		Message() string
		Position() filtering.Position
	})
	if !ok {
		return errors.New("is no filter: it ends too early")
	}
	return fmt.Errorf("is no filter: %s at column %d; quote values that hold more than letters and digits", at.Message(), at.Position().Column)
}

func compile(kind protoreflect.MessageDescriptor, e *expr.Expr) (predicate, error) {
	call := e.GetCallExpr()
	if call == nil {
		return compileBare(kind, e)
	}
	args := call.GetArgs()
	switch name := call.GetFunction(); name {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr:
		if len(args) != 2 {
			return nil, fmt.Errorf("uses %s without two sides", name)
		}
		a, err := compile(kind, args[0])
		if err != nil {
			return nil, err
		}
		b, err := compile(kind, args[1])
		if err != nil {
			return nil, err
		}
		if name == filtering.FunctionOr {
			return func(m protoreflect.Message) bool { return a(m) || b(m) }, nil
		}
		return func(m protoreflect.Message) bool { return a(m) && b(m) }, nil
	case filtering.FunctionNot:
		if len(args) != 1 {
			return nil, errors.New("uses NOT without one side")
		}
		a, err := compile(kind, args[0])
		if err != nil {
			return nil, err
		}
		return func(m protoreflect.Message) bool { return !a(m) }, nil
	case filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionLessThan, filtering.FunctionLessEquals,
		filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals, filtering.FunctionHas:
		if len(args) != 2 {
			return nil, fmt.Errorf("uses %s without two sides", name)
		}
		return compileComparison(kind, name, args[0], args[1])
	default:
		return nil, fmt.Errorf("uses the function %q, which does not exist", name)
	}
}

// compileBare takes a field that stands alone, which must be true or false.
func compileBare(kind protoreflect.MessageDescriptor, e *expr.Expr) (predicate, error) {
	names, ok := path(e)
	if !ok {
		return nil, errors.New("has a value that is compared with nothing; write FIELD = VALUE")
	}
	steps, err := resolveSteps(kind, names)
	if err != nil {
		return nil, err
	}
	if last := steps[len(steps)-1]; last.kind() != protoreflect.BoolKind || last.many() {
		return nil, fmt.Errorf("has %q compared with nothing, which is not a field that is true or false", join(names))
	}
	return func(m protoreflect.Message) bool {
		return walk(m, steps, protoreflect.Value.Bool)
	}, nil
}

// compileComparison takes FIELD OPERATOR VALUE.
func compileComparison(kind protoreflect.MessageDescriptor, op string, left, right *expr.Expr) (predicate, error) {
	names, ok := path(left)
	if !ok {
		return nil, errors.New("has a comparison whose left side is no field")
	}
	steps, err := resolveSteps(kind, names)
	if err != nil {
		return nil, err
	}
	last := steps[len(steps)-1]
	if op == filtering.FunctionHas {
		if right.GetConstExpr().GetStringValue() == "*" {
			return func(m protoreflect.Message) bool { return isSet(m, steps) }, nil
		}
		if last.wholeMap() {
			want, err := text(join(names), right)
			if err != nil {
				return nil, err
			}
			return func(m protoreflect.Message) bool { return hasKey(m, steps, want) }, nil
		}
	} else {
		for _, s := range steps {
			if s.many() {
				return nil, fmt.Errorf("compares %q, which has many values; use : instead of %s", join(names), op)
			}
		}
	}
	test, err := compileTest(last, op, join(names), right)
	if err != nil {
		return nil, err
	}
	return func(m protoreflect.Message) bool { return walk(m, steps, test) }, nil
}

// path reads `a.b.c`.
func path(e *expr.Expr) ([]string, bool) {
	switch {
	case e.GetIdentExpr() != nil:
		return []string{e.GetIdentExpr().GetName()}, true
	case e.GetSelectExpr() != nil:
		names, ok := path(e.GetSelectExpr().GetOperand())
		return append(names, e.GetSelectExpr().GetField()), ok
	}
	return nil, false
}

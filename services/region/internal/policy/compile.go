package policy

import (
	"fmt"
	"math"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// maxCost bounds a predicate on one host, in CEL's units: about a comparison each,
// some tens of nanoseconds. A search of one list is a few hundred at the most; a
// search of one list for each word of another is past it.
const maxCost = 2000

// Compiler compiles predicates.
type Compiler struct {
	env   *cel.Env
	types *provider
}

// NewCompiler makes one. An error is a fault of the program.
func NewCompiler() (*Compiler, error) {
	p, err := newProvider()
	if err != nil {
		return nil, fmt.Errorf("make the types of predicates: %w", err)
	}
	env, err := cel.NewEnv(p.options()...)
	if err != nil {
		return nil, fmt.Errorf("make the environment of predicates: %w", err)
	}
	return &Compiler{env: env, types: p}, nil
}

// Predicate says of which hosts a policy wants to know. It may be used from many
// goroutines.
type Predicate struct {
	program cel.Program
}

// Compile compiles a predicate; nil for an empty one, which every host passes.
// The error names the field and has CEL's position.
func (c *Compiler) Compile(fieldName, text string) (*Predicate, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil //nolint:nilnil // no predicate and no error is an answer
	}
	ast, err := c.parse(fieldName, text)
	if err != nil {
		return nil, err
	}
	program, err := c.program(fieldName, ast, cel.OptOptimize)
	if err != nil {
		return nil, err
	}
	return &Predicate{program: program}, nil
}

// parse checks what a predicate is made of.
func (c *Compiler) parse(fieldName, text string) (*cel.Ast, error) {
	ast, issues := c.env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, apierror.InvalidField(fieldName, "does not compile: %s", issuesText(issues)).
			WithHint("`host` has %s; `machine` has %s", strings.Join(c.types.fields(hostType), ", "), strings.Join(c.types.fields(machineType), ", "))
	}
	if kind := ast.OutputType(); !kind.IsExactType(types.BoolType) {
		return nil, apierror.InvalidField(fieldName, "gives %s at 1:1, and must give bool", kind).
			WithHint("compare it with something, as in `host.free_cores >= 4`")
	}
	estimate, err := c.env.EstimateCost(ast, sizes{c.types})
	if err != nil {
		return nil, apierror.InvalidField(fieldName, "its cost cannot be estimated: %s", err)
	}
	if estimate.Max > maxCost {
		much := fmt.Sprintf("up to %d units on a host with %d tags", estimate.Max, maxWords)
		if estimate.Max == math.MaxUint64 {
			much = "it has no bound"
		}
		return nil, apierror.InvalidField(fieldName, "costs too much: %s, and at most %d units are allowed", much, maxCost).
			WithHint("search one list at a time, and do not nest searches: `\"ssd\" in host.tags`")
	}
	return ast, nil
}

func (c *Compiler) program(fieldName string, ast *cel.Ast, options ...cel.EvalOption) (cel.Program, error) {
	program, err := c.env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(append(options, cel.OptTrackCost)...))
	if err != nil {
		return nil, apierror.InvalidField(fieldName, "does not compile: %s", err)
	}
	return program, nil
}

// issuesText has what CEL says of a predicate, each with its position, in one line.
func issuesText(issues *cel.Issues) string {
	const most = 3
	var parts []string
	for _, e := range issues.Errors()[:min(len(issues.Errors()), most)] {
		parts = append(parts, fmt.Sprintf("at %d:%d: %s", e.Location.Line(), e.Location.Column()+1, e.Message))
	}
	return strings.Join(parts, "; ")
}

// Matches says whether a host may be considered for a machine. An error says why
// that cannot be told, which a host does not pass: a division by zero, an item
// that is not there, a cost past the limit.
func (p *Predicate) Matches(h *Host, m *Machine) (bool, error) {
	if p == nil {
		return true, nil
	}
	out, _, err := p.program.Eval(variables{h, m})
	if err != nil {
		return false, fmt.Errorf("evaluate the predicate: %w", err)
	}
	yes, ok := out.(types.Bool)
	return ok && bool(yes), nil
}

// variables are what an evaluation reads.
type variables struct {
	host    *Host
	machine *Machine
}

// ResolveName is for CEL's interpreter.
func (v variables) ResolveName(name string) (any, bool) {
	switch name {
	case hostVariable:
		return v.host, true
	case machineVariable:
		return v.machine, true
	default:
		return nil, false
	}
}

// Parent is for CEL's interpreter.
func (variables) Parent() cel.Activation { return nil }

// sizes tells how long fields can be.
type sizes struct{ types *provider }

// EstimateSize is how long a field or an item of it can be.
func (s sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) < 2 {
		return nil
	}
	of := map[string]string{hostVariable: hostType, machineVariable: machineType}[path[0]]
	f, ok := s.types.types[of][path[1]]
	switch {
	case !ok:
		return nil
	case len(path) == 2:
		return &cost.SizeEstimate{Max: f.most}
	case len(path) == 3 && path[2] == "@items":
		return &cost.SizeEstimate{Max: f.items}
	default:
		return nil
	}
}

// EstimateCallCost leaves calls to CEL.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// Check is for a predicate that is about to be recorded. Beside what Compile refuses
// it refuses one that no host passes, whatever host and machine are: by such a
// policy every compose would be refused. Compile does not, so that a policy that was
// recorded before is what it was.
//
// The predicate is evaluated with nothing known of host and machine. Where they
// matter the outcome is not known either; any other outcome is the one that every
// host would have. What is the same for all hosts although it asks about them
// (`host.cores != host.cores`) is not found.
func (c *Compiler) Check(fieldName, text string) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	ast, err := c.parse(fieldName, text)
	if err != nil {
		return err
	}
	program, err := c.program(fieldName, ast, cel.OptOptimize, cel.OptPartialEval)
	if err != nil {
		return err
	}
	nothing, err := cel.PartialVars(cel.NoVars(), cel.AttributePattern(hostVariable), cel.AttributePattern(machineVariable))
	if err != nil {
		return fmt.Errorf("make the variables of a check: %w", err)
	}
	out, _, err := program.Eval(nothing)
	switch {
	case err != nil:
		return apierror.InvalidField(fieldName, "fails for every host: %s", err).
			WithHint("ask something of `host` that can be told, as in `host.free_cores >= 4`")
	case out == types.False:
		return apierror.InvalidField(fieldName, "is false for every host, so that none would be considered").
			WithHint("leave it out to have every host considered, or ask something of `host`, as in `host.free_cores >= 4`")
	default:
		return nil
	}
}

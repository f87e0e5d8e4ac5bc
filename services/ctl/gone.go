package ctl

import (
	"fmt"

	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// gone says that a resource was removed. JSON and YAML are what the API answers,
// an empty message.
func (a *app) gone(noun, name, verb string, f *changeFlags) error {
	if f != nil && f.dryRun {
		fmt.Fprintln(a.stderr, "dry run: the request is valid; nothing was changed")
		return f.checked()
	}
	switch a.flags.output {
	case outputJSON, outputYAML:
		fmt.Fprintln(a.stdout, "{}")
	case outputName:
		fmt.Fprintln(a.stdout, display.Clean(name))
	default:
		fmt.Fprintf(a.stdout, "%s %s %s\n", noun, display.Clean(display.ID(name)), verb)
	}
	return nil
}

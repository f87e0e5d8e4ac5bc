package ctl

import (
	"fmt"

	"google.golang.org/protobuf/proto"

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

// changed prints the result of a change that is done.
func (a *app) changed(m proto.Message, name string, f *changeFlags, people func() error) error {
	if f.dryRun {
		fmt.Fprintln(a.stderr, "dry run: the request is valid; nothing was changed")
	}
	if err := a.print(m, name, people); err != nil {
		return err
	}
	if f.dryRun {
		return f.checked()
	}
	return nil
}

package ctl

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// takes refuses any other number of arguments, in the words of the command's
// own usage.
func takes(n int) cobra.PositionalArgs { return between(n, n) }

// between refuses fewer arguments than least and more than most.
func between(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		_, wanted, _ := strings.Cut(c.Use, " ")
		if wanted == "" {
			wanted = "no arguments"
		}
		return usage(fmt.Sprintf("see `%s --help`", c.CommandPath()), "%s takes %s; %s given", c.CommandPath(), wanted, were(len(args)))
	}
}

func were(n int) string {
	if n == 1 {
		return "1 was"
	}
	return fmt.Sprintf("%d were", n)
}

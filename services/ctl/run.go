package ctl

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
)

// Run is vmhostctl: args are without the program's name, env is as os.Environ
// gives it, and the result is what to end with. Ctrl-C is handled inside.
func Run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := newApp(args, env, stdin, stdout, stderr)
	defer a.close()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt)
	defer signal.Stop(signals)
	ctx, end := context.WithCancelCause(ctx)
	a.interrupts = &interrupts{abort: func() { end(errInterrupted) }}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		a.interrupts.watch(ctx, signals)
	}()

	root := a.root() //nolint:contextcheck // commands get theirs from ExecuteContextC
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	a.command = command
	if err != nil && context.Cause(ctx) == errInterrupted { //nolint:errorlint // the cause is that very value
		err = errInterrupted
	}
	end(nil)
	<-watched
	if err != nil {
		return a.report(err)
	}
	return exitOK
}

const rootLong = `vmhostctl manages VM hosts and composes machines on them.

  vmhostctl vm-host add h1 qemu:///system
  vmhostctl machine compose web-1 --cores 2 --memory 2GiB --disk 20GB --start
  vmhostctl machine get web-1

It talks to the region of the current context (vmhostctl context list). Flags
win over the environment (VMHOSTCTL_CONFIG, _CONTEXT, _ENDPOINT, _TOKEN,
_TOKEN_FILE, _CA_FILE), which wins over the context.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "vmhostctl",
		Short:         "Manage VM hosts and compose machines on them",
		Long:          rootLong,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommand,
		RunE:          showHelp,
	}
	// A command that holds others is not used without one of them.
	root.SetUsageTemplate(strings.NewReplacer(
		"{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}",
		".FlagUsages ", ".FlagUsagesWrapped 80 ",
	).Replace(root.UsageTemplate()))
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.flags.context, "context", "", "`NAME` of the context to use instead of the current one")
	f.StringVar(&a.flags.endpoint, "endpoint", "", "where the region's API is, `HOST:PORT`")
	f.StringVar(&a.flags.caFile, "ca-file", "", "`FILE` with the CA of the region, PEM")
	f.StringVar(&a.flags.tokenFile, "token-file", "", "`FILE` with the bearer token")
	f.StringVarP(&a.flags.output, "output", "o", outputTable, "`FORMAT` of what is shown: table, wide, json, yaml or name")
	f.BoolVar(&a.flags.noHeaders, "no-headers", false, "leave out the headings of tables")
	f.BoolVarP(&a.flags.verbose, "verbose", "v", false, "show the id of the request")
	f.SortFlags = false
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return checkOutput(a.flags.output) }
	_ = root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return a.contextNames(), cobra.ShellCompDirectiveNoFileComp
	})
	a.completeWords(root, "output", outputTable, outputWide, outputJSON, outputYAML, outputName)

	const fleet, here = "fleet", "here"
	root.AddGroup(&cobra.Group{ID: fleet, Title: "The fleet:"}, &cobra.Group{ID: here, Title: "This program:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(fleet, a.vmHostCommand(), a.machineCommand(), a.operationCommand(), a.rackCommand(), a.zoneCommand(), a.poolCommand(),
		a.policyCommand(), a.reservationCommand(), a.capacityCommand(), a.whatIfCommand(), a.rebalanceCommand(), a.eventCommand())
	add(here, a.contextCommand(), a.versionCommand())
	root.SetHelpCommandGroupID(here)
	root.SetCompletionCommandGroupID(here)
	root.AddCommand(exitCodesTopic())
	keepFlagOrder(root)
	return root
}

// keepFlagOrder shows flags as they were added: what matters most comes first.
func keepFlagOrder(c *cobra.Command) {
	c.Flags().SortFlags = false
	for _, sub := range c.Commands() {
		keepFlagOrder(sub)
	}
}

// noun is a command that only holds others.
func noun(use, short, long string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: subcommand, RunE: showHelp}
	c.AddCommand(verbs...)
	return c
}

func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

// subcommand refuses words that are no verb of the noun. cobra does so only for
// the root.
func subcommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see what there is: `" + c.CommandPath() + " --help`"
	c.SuggestionsMinimumDistance = min(2, len(args[0])/3) // in short words two letters make another word
	if s := c.SuggestionsFor(args[0]); len(s) > 0 {
		hint = "did you mean `" + c.CommandPath() + " " + strings.Join(s, "` or `"+c.CommandPath()+" ") + "`?"
	}
	return usage(hint, "%s has no command %q", c.CommandPath(), args[0])
}

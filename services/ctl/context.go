package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/vmhost-project/vmhost/services/ctl/clictx"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) contextCommand() *cobra.Command {
	return noun("context", "Choose the region to talk to",
		"A context is one region: where it is, whom to trust, and which token to send.\nThey are in a file that only its owner can read.",
		a.contextList(), a.contextUse(), a.contextShow(), a.contextSet(), a.contextDelete())
}

func (a *app) contextList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List contexts", Args: takes(0),
		RunE: func(*cobra.Command, []string) error {
			f, _, err := a.contexts()
			if err != nil {
				return err
			}
			type row = clictx.Context
			shown := clictx.File{Current: f.Current, Contexts: []row{}}
			for _, c := range f.Contexts {
				shown.Contexts = append(shown.Contexts, redact(c))
			}
			return a.printPlain(shown, func() error {
				if a.flags.output == outputName {
					for _, c := range f.Contexts {
						fmt.Fprintln(a.stdout, display.Clean(c.Name))
					}
					return nil
				}
				return printTable(a, shown.Contexts, []display.Column[row]{
					{Head: "NAME", Cell: func(c row) string { return c.Name }},
					{Head: "CURRENT", Cell: func(c row) string {
						if c.Name == f.Current {
							return "*"
						}
						return ""
					}},
					{Head: "ENDPOINT", Cell: func(c row) string { return c.Endpoint }},
					{Head: "TOKEN", Wide: true, Cell: func(c row) string { return first(c.TokenFile, c.Token) }},
					{Head: "CA", Wide: true, Cell: func(c row) string { return first(c.CAFile, c.CAPin) }},
				})
			})
		},
	}
}

func (a *app) contextUse() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: takes(1), ValidArgsFunction: a.completeContext,
		RunE: func(_ *cobra.Command, args []string) error {
			return a.changeContexts("use context "+args[0], func(f *clictx.File) error { return f.Use(args[0]) })
		},
	}
}

func (a *app) contextShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show a context, or what is in use with flags and environment", Args: between(0, 1), ValidArgsFunction: a.completeContext,
		RunE: func(_ *cobra.Command, args []string) error {
			f, path, err := a.contexts()
			if err != nil {
				return err
			}
			var c clictx.Context
			if len(args) == 1 {
				c, err = f.Get(args[0])
				err = wrapLocal(err, "see which there are: `vmhostctl context list`", "show context "+args[0])
			} else {
				c, err = a.target()
			}
			if err != nil {
				return err
			}
			c = redact(c)
			return a.printPlain(c, func() error {
				b := &display.Block{Palette: a.palette()}
				b.Add("Name", first(c.Name, display.None))
				b.Add("Endpoint", c.Endpoint)
				b.Add("Token file", c.TokenFile)
				b.Add("Token", c.Token)
				b.Add("CA file", c.CAFile)
				b.Add("CA pin", c.CAPin)
				b.Add("Contexts in", path)
				return b.Write(a.stdout)
			})
		},
	}
}

func (a *app) contextSet() *cobra.Command {
	var stdin, use bool
	var pin string
	c := &cobra.Command{
		Use: "set NAME", Short: "Add or change a context", Args: takes(1), ValidArgsFunction: a.completeContext,
		Long: "Adds a context, or changes what is given of one. The first becomes the current\none. A token is never taken from the command line, where others could see it.",
		Example: "  vmhostctl context set lab --endpoint region.example:7443 \\\n      --ca-file ca.pem --token-file token\n" +
			"  vmhostctl context set lab --token-stdin < token",
		RunE: func(_ *cobra.Command, args []string) error {
			var token string
			if stdin {
				data, err := io.ReadAll(io.LimitReader(a.stdin, 1<<16))
				if token = strings.TrimSpace(string(data)); err != nil || token == "" {
					return usage("pipe the token in: `… --token-stdin < FILE`", "there is no token on standard input")
				}
			}
			return a.changeContexts("set context "+args[0], func(f *clictx.File) error {
				c, err := f.Get(args[0])
				if err != nil {
					c = clictx.Context{Name: args[0]}
				}
				if err := a.applyContextFlags(&c, pin, token); err != nil {
					return err
				}
				if err := f.Set(c); err != nil {
					return err
				}
				if use || f.Current == "" {
					f.Current = c.Name
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&pin, "ca-pin", "", "trust the CA whose key has the `HASH` sha256:…")
	c.Flags().BoolVar(&stdin, "token-stdin", false, "read the token from standard input and keep it in the file")
	c.Flags().BoolVar(&use, "use", false, "make it the current one")
	return c
}

// applyContextFlags takes over what was given. Files are kept with their whole
// path, so that the context works from every folder.
func (a *app) applyContextFlags(c *clictx.Context, pin, token string) error {
	c.Endpoint = first(a.flags.endpoint, c.Endpoint)
	var err error
	if a.flags.caFile != "" {
		c.CAPin = ""
		if c.CAFile, err = filepath.Abs(a.flags.caFile); err != nil {
			return err
		}
	}
	if pin != "" {
		c.CAPin, c.CAFile = pin, ""
	}
	if a.flags.tokenFile != "" {
		c.Token = ""
		if c.TokenFile, err = filepath.Abs(a.flags.tokenFile); err != nil {
			return err
		}
	}
	if token != "" {
		c.Token, c.TokenFile = token, ""
	}
	return nil
}

func (a *app) contextDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a context", Args: takes(1), ValidArgsFunction: a.completeContext,
		RunE: func(_ *cobra.Command, args []string) error {
			return a.changeContexts("delete context "+args[0], func(f *clictx.File) error { return f.Delete(args[0]) })
		},
	}
}

func (a *app) changeContexts(what string, edit func(f *clictx.File) error) error {
	f, path, err := a.contexts()
	if err != nil {
		return err
	}
	if err := edit(f); err != nil {
		return local(err, "see which there are: `vmhostctl context list`", "%s", what)
	}
	return wrapLocal(clictx.Save(path, f), "make "+path+" writable", what)
}

func wrapLocal(err error, hint, what string) error {
	if err == nil {
		return nil
	}
	return local(err, hint, "%s", what)
}

// redact takes a token out that must not be shown.
func redact(c clictx.Context) clictx.Context {
	if c.Token != "" {
		c.Token = "(kept, not shown)"
	}
	return c
}

// printPlain is print for what is no proto.
func (a *app) printPlain(v any, people func() error) error {
	switch a.flags.output {
	case outputJSON:
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case outputYAML:
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("write yaml: %w", err)
		}
		_, err = a.stdout.Write(data)
		return err
	default:
		return people()
	}
}

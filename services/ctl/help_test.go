package ctl

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Every help text fits a terminal of 80 columns, every command says in short
// what it does, and those with a result can be scripted.
func TestHelpFitsATerminal(t *testing.T) {
	root := newApp(nil, nil, &bytes.Buffer{}, &bytes.Buffer{}, &bytes.Buffer{}).root()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "completion" {
			return // cobra's own
		}
		var out bytes.Buffer
		c.SetOut(&out)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimRight(line, "\n")
			if utf8.RuneCountInString(line) > 80 && !strings.HasPrefix(line, "Use \"") {
				t.Errorf("%s: %d columns: %s", c.CommandPath(), utf8.RuneCountInString(line), line)
			}
			if strings.Contains(line, "\t") {
				t.Errorf("%s has a tab: %q", c.CommandPath(), line)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || utf8.RuneCountInString(c.Short) > 66 {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

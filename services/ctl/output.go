package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// The formats of -o.
const (
	outputTable = "table"
	outputWide  = "wide"
	outputJSON  = "json"
	outputYAML  = "yaml"
	outputName  = "name"
)

func checkOutput(format string) error {
	known := []string{outputTable, outputWide, outputJSON, outputYAML, outputName}
	if slices.Contains(known, format) {
		return nil
	}
	return usage("use -o "+strings.Join(known, ", -o "), "there is no output format %q", format)
}

// forPeople says whether what is shown is a table or the like.
func (a *app) forPeople() bool {
	return a.flags.output == outputTable || a.flags.output == outputWide
}

// print writes one message: as JSON or YAML, as the name given, or for people.
func (a *app) print(m proto.Message, name string, people func() error) error {
	switch a.flags.output {
	case outputJSON:
		return display.JSON(a.stdout, m)
	case outputYAML:
		return display.YAML(a.stdout, m)
	case outputName:
		return a.printNames(name)
	default:
		return people()
	}
}

// printSome is print for what stands for several resources.
func (a *app) printSome(m proto.Message, names []string, people func() error) error {
	if a.flags.output == outputName {
		return a.printNames(names...)
	}
	return a.print(m, "", people)
}

// printNames writes names below one another, and nothing for what has none.
func (a *app) printNames(names ...string) error {
	for _, name := range names {
		if name == "" {
			continue
		}
		if _, err := fmt.Fprintln(a.stdout, display.Clean(name)); err != nil {
			return err
		}
	}
	return nil
}

// printBlock writes one resource with everything that is known of it.
func (a *app) printBlock(m proto.Message, name string, fill func(b *display.Block)) error {
	return a.print(m, name, func() error {
		b := &display.Block{Palette: a.palette()}
		fill(b)
		return b.Write(a.stdout)
	})
}

// printRow writes one resource as a table of one row: the result of a change.
func printRow[T interface {
	proto.Message
	GetName() string
}](a *app, m T, columns []display.Column[T],
) error {
	return a.print(m, m.GetName(), func() error { return printTable(a, []T{m}, columns) })
}

// printList writes many. The list is the response with all of them in it.
func printList[T any](a *app, list proto.Message, items []T, name func(T) string, columns []display.Column[T]) error {
	if a.flags.output == outputName {
		for _, item := range items {
			fmt.Fprintln(a.stdout, display.Clean(name(item)))
		}
		return nil
	}
	return a.print(list, "", func() error { return printTable(a, items, columns) })
}

func printTable[T any](a *app, items []T, columns []display.Column[T]) error {
	return display.Table(a.stdout, items, columns, display.TableOptions{
		Wide: a.flags.output == outputWide, NoHeaders: a.flags.noHeaders, Width: a.width(), Palette: a.palette(),
	})
}

// listFlags are those of every list.
type listFlags struct {
	filter, sort string
	limit        int
}

func (f *listFlags) register(c *cobra.Command, example, sort string) {
	c.Flags().StringVar(&f.filter, "filter", "", "only those that match `EXPRESSION`, such as '"+example+"'")
	if sort != "" {
		c.Flags().StringVar(&f.sort, "sort", "", "order by `FIELDS`, such as '"+sort+"'")
	}
	c.Flags().IntVar(&f.limit, "limit", 0, "at most `NUMBER` of them; 0 means all")
}

const pageSize = 1000

// collect follows the pages of a list up to the limit. The token is empty
// unless there is more.
func collect[T any](ctx context.Context, limit int, page func(ctx context.Context, size int32, token string) ([]T, string, error)) ([]T, string, error) {
	if limit < 0 {
		return nil, "", usage("give a --limit of 0 or more", "--limit is %d", limit)
	}
	var all []T
	token := ""
	for {
		size := pageSize
		if limit > 0 {
			size = min(size, limit-len(all))
		}
		items, next, err := page(ctx, int32(size), token)
		if err != nil {
			return nil, "", err
		}
		all = append(all, items...)
		if next == "" || (limit > 0 && len(all) >= limit) {
			return all, next, nil
		}
		token = next
	}
}

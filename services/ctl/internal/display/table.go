package display

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// None stands where there is nothing to show.
const None = "-"

// Column is one column of a table of Ts.
type Column[T any] struct {
	// Head is the heading.
	Head string
	// Wide says that it is shown in wide tables only.
	Wide bool
	// Right aligns numbers.
	Right bool
	// State paints the words of the column by their meaning.
	State bool
	// Cell is the text for one item; it needs no cleaning.
	Cell func(item T) string
}

// TableOptions say how a table is shown.
type TableOptions struct {
	// Wide shows every column.
	Wide bool
	// NoHeaders leaves the headings out.
	NoHeaders bool
	// Indent is how far the table stands from the left edge.
	Indent int
	// Palette paints it.
	Palette Palette
}

// Table writes items as a table without lines around it.
func Table[T any](w io.Writer, items []T, columns []Column[T], o TableOptions) error {
	t := table.NewWriter()
	t.SetStyle(plain(o.Indent))
	t.SuppressTrailingSpaces()
	var head table.Row
	var configs []table.ColumnConfig
	shown := columns[:0:0]
	for _, c := range columns {
		if c.Wide && !o.Wide {
			continue
		}
		shown = append(shown, c)
		head = append(head, c.Head)
		if c.Right {
			configs = append(configs, table.ColumnConfig{Number: len(shown), Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	if !o.NoHeaders {
		t.AppendHeader(head)
	}
	for _, item := range items {
		row := make(table.Row, len(shown))
		for i, c := range shown {
			cell := Clean(c.Cell(item))
			if cell == "" {
				cell = None
			}
			if c.State {
				cell = o.Palette.State(cell)
			}
			row[i] = cell
		}
		t.AppendRow(row)
	}
	if _, err := fmt.Fprintln(w, t.Render()); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func plain(indent int) table.Style {
	s := table.StyleDefault
	s.Options = table.OptionsNoBordersAndSeparators
	s.Box.PaddingLeft = ""
	s.Box.PaddingRight = "  "
	if indent > 0 { // the padding of each cell is what moves the first
		s.Box.PaddingLeft = strings.Repeat(" ", indent)
		s.Box.PaddingRight = ""
	}
	s.Format.Header = text.FormatDefault
	return s
}

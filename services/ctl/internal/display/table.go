package display

import (
	"fmt"
	"io"
	"slices"
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
	// Text says that it holds sentences, which go on below one another where a
	// line has no room for them.
	Text bool
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
	// Width is how many columns the terminal has; 0: there is no end to a line.
	Width int
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
	if !o.NoHeaders {
		t.AppendHeader(head)
	} else {
		head = nil
	}
	widths := make([]int, len(shown))
	for i := range head {
		widths[i] = text.StringWidth(shown[i].Head)
	}
	for _, item := range items {
		row := make(table.Row, len(shown))
		for i, c := range shown {
			cell := Clean(c.Cell(item))
			if cell == "" {
				cell = None
			}
			widths[i] = max(widths[i], text.StringWidth(cell))
			if c.State {
				cell = o.Palette.State(cell)
			}
			row[i] = cell
		}
		t.AppendRow(row)
	}
	for i, width := range narrow(shown, widths, o) {
		configs = append(configs, table.ColumnConfig{Number: i + 1, WidthMax: width, WidthMaxEnforcer: text.WrapSoft})
	}
	t.SetColumnConfigs(configs)
	if _, err := fmt.Fprintln(w, t.Render()); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// gap is how far columns are apart, unless the table is indented.
const gap = 2

// leastText is how narrow a column of sentences may become. In less they are
// harder to read than lines that a terminal breaks.
const leastText = 20

// narrow is how wide columns of sentences may be for the table to fit, by their
// index; empty when it does as it is, or cannot.
func narrow[T any](columns []Column[T], widths []int, o TableOptions) map[int]int {
	if o.Width == 0 {
		return nil
	}
	left := o.Width - gap*(len(columns)-1)
	if o.Indent > 0 {
		left = o.Width - o.Indent*len(columns)
	}
	var texts []int
	for i, c := range columns {
		if c.Text {
			texts = append(texts, i)
		} else {
			left -= widths[i]
		}
	}
	// The shortest first: what it does not need is for the others.
	slices.SortStableFunc(texts, func(a, b int) int { return widths[a] - widths[b] })
	out := map[int]int{}
	for n, i := range texts {
		share := left / (len(texts) - n)
		if widths[i] > share {
			if share < leastText {
				return nil
			}
			out[i] = share
		}
		left -= min(widths[i], share)
	}
	return out
}

func plain(indent int) table.Style {
	s := table.StyleDefault
	s.Options = table.OptionsNoBordersAndSeparators
	s.Box.PaddingLeft = ""
	s.Box.PaddingRight = strings.Repeat(" ", gap)
	if indent > 0 { // the padding of each cell is what moves the first
		s.Box.PaddingLeft = strings.Repeat(" ", indent)
		s.Box.PaddingRight = ""
	}
	s.Format.Header = text.FormatDefault
	return s
}

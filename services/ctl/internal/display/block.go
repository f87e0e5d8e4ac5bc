package display

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Block is what `get` shows: keys with their values, and tables below them.
type Block struct {
	// Palette paints it.
	Palette Palette

	parts []func(w io.Writer, width int) error
	width int
}

// Add shows a key with its value. A value that is empty is left out.
func (b *Block) Add(key, value string) { b.add(key, Clean(value)) }

// AddState shows a key with a word that is painted by its meaning, and after
// the word whatever else there is to say.
func (b *Block) AddState(key, word, rest string) {
	value := b.Palette.State(Clean(word))
	if rest != "" {
		value += "  " + Clean(rest)
	}
	b.add(key, value)
}

// AddList shows several values below one another.
func (b *Block) AddList(key string, values []string) {
	for i, v := range values {
		if i > 0 {
			key = ""
		}
		b.add(key, Clean(v))
	}
}

func (b *Block) add(key, value string) {
	if value == "" {
		return
	}
	b.width = max(b.width, utf8.RuneCountInString(key))
	b.parts = append(b.parts, func(w io.Writer, width int) error {
		_, err := fmt.Fprintf(w, "%s%s  %s\n", key, strings.Repeat(" ", width-utf8.RuneCountInString(key)), value)
		return err
	})
}

// AddTable shows a table with a title; nothing when there are no items.
func AddTable[T any](b *Block, title string, items []T, columns []Column[T]) {
	if len(items) == 0 {
		return
	}
	b.parts = append(b.parts, func(w io.Writer, _ int) error {
		if _, err := fmt.Fprintf(w, "\n%s\n", b.Palette.Bold(title)); err != nil {
			return err
		}
		return Table(w, items, columns, TableOptions{Wide: true, Indent: 2, Palette: b.Palette})
	})
}

// Note is something noteworthy: what, in more words, and what to do.
type Note struct{ Head, Message, Hint string }

// AddNotes shows notes under a title; nothing when there are none.
func (b *Block) AddNotes(title string, notes []Note) {
	if len(notes) == 0 {
		return
	}
	b.parts = append(b.parts, func(w io.Writer, _ int) error {
		var out strings.Builder
		fmt.Fprintf(&out, "\n%s\n", b.Palette.Bold(title))
		for _, n := range notes {
			fmt.Fprintf(&out, "  %s\n", Clean(n.Head))
			if n.Message != "" {
				fmt.Fprintf(&out, "    %s\n", Clean(n.Message))
			}
			if n.Hint != "" {
				fmt.Fprintf(&out, "    do: %s\n", Clean(n.Hint))
			}
		}
		_, err := io.WriteString(w, out.String())
		return err
	})
}

// Write writes the block.
func (b *Block) Write(w io.Writer) error {
	for _, part := range b.parts {
		if err := part(w, b.width); err != nil {
			return fmt.Errorf("write resource: %w", err)
		}
	}
	return nil
}

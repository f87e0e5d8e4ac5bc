package display

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes text that others wrote safe for a terminal: whatever is not
// plainly printable (control characters, escape sequences, line breaks, marks
// that reverse the direction of text, bytes that are no UTF-8) is written out
// as an escape. The name of a domain on a hypervisor may hold any of them.
func Clean(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == utf8.RuneError, !unprintable(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}

// A replacement character may stand for a bad byte, so it is looked at as well.
func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

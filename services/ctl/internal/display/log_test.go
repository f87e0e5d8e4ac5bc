package display_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func logOf(t interface{ Fatal(args ...any) }, writes ...[]byte) string {
	var out bytes.Buffer
	l := display.NewLog(&out)
	for _, p := range writes {
		if n, err := l.Write(p); err != nil || n != len(p) {
			t.Fatal(n, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestALogIsLinesOfPrintableText(t *testing.T) {
	for in, want := range map[string]string{
		"boot\r\nok\n":                    "boot\nok\n",
		"a\r\r\nb":                        "a\nb",
		"10%\r20%\r\n":                    "10%\n20%\n",
		"end\r":                           "end\n",
		"\x1b[1;31mred\x1b[0m\x1b[2J\tx":  "red\tx",
		"\x1b]0;title\arest":              "rest",
		"\x1b]52;c;aGk=\x1b\\rest":        "rest",
		"\x1bP1$r\x1b\\rest\x1b(Bx":       "restx",
		"\u009b31mred\u009d0;t\u009crest": "redrest",
		"\x9b31mred":                      "\uFFFD31mred",
		"\x1b]never ended\nstill seen":    "\nstill seen",
		"\x1b[12\nstill seen":             "\nstill seen",
		"abc\u202edef\x00\b\x7f":          "abcdef",
		"ü 機械 \xe6\xa9":                   "ü 機械 \uFFFD",
		"\x1b":                            "",
		"":                                "",
	} {
		if got := logOf(t, []byte(in)); got != want {
			t.Errorf("the log of %q is %q, want %q", in, got, want)
		}
	}
}

// Whatever a guest writes, and however it arrives, nothing of it is obeyed, the
// same is shown, and what is on the line after it is seen whole.
func TestNoLogHarmsATerminal(t *testing.T) {
	piece := rapid.OneOf(
		rapid.SliceOfN(rapid.Byte(), 0, 8),
		rapid.Custom(func(t *rapid.T) []byte { return []byte(rapid.String().Draw(t, "text")) }),
		rapid.SampledFrom([][]byte{[]byte("\x1b["), []byte("\x1b]"), []byte("\x1bP"), []byte("\x1b\\"), []byte("\r\n"), []byte("\r"), {0xc2}, {0x9b}, {0xe2, 0x80}}),
	)
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(piece).Draw(t, "pieces")
		got := logOf(t, pieces...)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is no UTF-8", got)
		}
		bad := func(r rune) bool { return r != '\n' && r != '\t' && r != utf8.RuneError && !unicode.IsPrint(r) }
		if i := strings.IndexFunc(got, bad); i >= 0 {
			t.Fatalf("%q has something that a terminal obeys at %d", got, i)
		}
		if whole := logOf(t, bytes.Join(pieces, nil)); whole != got {
			t.Fatalf("in pieces %q, whole %q", got, whole)
		}
		if after := logOf(t, append(pieces, []byte("\nlast line"))...); !strings.HasSuffix(after, "\nlast line") {
			t.Fatalf("the line after it is gone: %q", after)
		}
	})
}

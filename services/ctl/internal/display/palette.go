package display

// Palette paints words by what they mean, when On.
type Palette struct {
	// On is false where output is no terminal or the user wants no colour.
	On bool
}

const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

var colours = map[string]string{
	"READY": green, "ON": green, "SUCCEEDED": green, "OK": green, "yes": green,

	"PENDING": yellow, "RUNNING": yellow, "COMPOSING": yellow, "DELETING": yellow, "COMPENSATING": yellow,
	"ADOPTING": yellow, "RELEASING": yellow,
	"PAUSED": yellow, "WARNING": yellow, "CANCELLED": yellow, "READY,CORDONED": yellow, "NO_RACK": yellow,

	"FAILED": red, "UNREACHABLE": red, "AUTH_FAILED": red, "HOST_KEY_CHANGED": red, "CRASHED": red, "REFUSED": red, "no": red,

	"OFF": dim, "UNKNOWN": dim, "SKIPPED": dim, None: dim,
}

// State paints a word such as READY or FAILED. Others stay as they are.
func (p Palette) State(word string) string { return p.paint(colours[word], word) }

// Bad paints what is wrong.
func (p Palette) Bad(s string) string { return p.paint(red, s) }

// Dim paints what is less important.
func (p Palette) Dim(s string) string { return p.paint(dim, s) }

// Bold paints what comes first.
func (p Palette) Bold(s string) string { return p.paint(bold, s) }

func (p Palette) paint(colour, s string) string {
	if !p.On || colour == "" || s == "" {
		return s
	}
	return colour + s + reset
}

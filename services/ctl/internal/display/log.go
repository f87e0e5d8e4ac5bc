package display

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// Log passes on what a guest wrote to its console, for reading: lines of
// printable text. Escape sequences, control characters and marks that reverse
// the direction of text are left out, bytes that are no UTF-8 become U+FFFD, and
// a carriage return begins a line, as those who write progress mean it. How its
// input is cut into writes makes no difference. Close writes what is left.
type Log struct {
	w       io.Writer
	rest    []byte // the beginning of a character
	state   logState
	returns bool // carriage returns that no line break has followed yet
}

type logState int

const (
	logText     logState = iota
	logEscape            // after ESC
	logSequence          // in a control sequence, up to its last byte
	logString            // in a command for the terminal, up to its end or that of the line
	logStringEscape
)

// NewLog writes to w.
func NewLog(w io.Writer) *Log { return &Log{w: w} }

// Write writes what of p can be shown.
func (l *Log) Write(p []byte) (int, error) {
	in := append(l.rest, p...) //nolint:gocritic // rest is set anew below
	var out []byte
	for len(in) > 0 && utf8.FullRune(in) {
		r, size := utf8.DecodeRune(in)
		in = in[size:]
		out = l.take(out, r)
	}
	l.rest = append([]byte(nil), in...)
	return len(p), l.pass(out)
}

// Close writes what was held back for its end to come.
func (l *Log) Close() error {
	var out []byte
	if len(l.rest) > 0 {
		out = l.take(out, utf8.RuneError)
	}
	l.rest = nil
	if l.returns {
		out = append(out, '\n')
	}
	return l.pass(out)
}

func (l *Log) pass(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	if _, err := l.w.Write(out); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// take adds what is to be seen of one character. A line break ends whatever was
// begun, so that no guest can hide what it writes later.
func (l *Log) take(out []byte, r rune) []byte {
	if r == '\n' {
		l.state, l.returns = logText, false
		return append(out, '\n')
	}
	switch l.state {
	case logText:
		return l.text(out, r)
	case logEscape:
		l.state = afterEscape(r)
	case logSequence:
		if r < 0x20 || r > 0x3f {
			l.state = logText
		}
	case logString:
		switch r {
		case '\a', 0x9c:
			l.state = logText
		case 0x1b:
			l.state = logStringEscape
		}
	case logStringEscape:
		if l.state = logString; r == '\\' {
			l.state = logText
		}
	}
	return out
}

func afterEscape(r rune) logState {
	switch {
	case r == '[':
		return logSequence
	case r == ']', r == 'P', r == '_', r == '^', r == 'X':
		return logString
	case r >= 0x20 && r <= 0x2f: // one of those that choose a character set
		return logEscape
	default:
		return logText
	}
}

func (l *Log) text(out []byte, r rune) []byte {
	switch {
	case r == '\r':
		l.returns = true
		return out
	case r == 0x1b:
		l.state = logEscape
		return out
	case r == 0x9b:
		l.state = logSequence
		return out
	case r == 0x9d, r == 0x90, r == 0x9e, r == 0x9f, r == 0x98:
		l.state = logString
		return out
	case r != '\t' && r != utf8.RuneError && !unicode.IsPrint(r):
		return out
	}
	if l.returns {
		l.returns = false
		out = append(out, '\n')
	}
	return utf8.AppendRune(out, r)
}

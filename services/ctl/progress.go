package ctl

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// progress is one line on a terminal that is written over and over, and nothing
// where stderr is no terminal.
type progress struct {
	on      bool
	w       io.Writer
	palette display.Palette
	began   time.Time
	frame   int
	width   func() int
	shown   bool
}

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func (a *app) progress() *progress {
	p := &progress{w: a.stderr, palette: a.errPalette(), began: a.now()}
	if f, ok := a.stderr.(*os.File); ok && isTerminal(f) && a.env["TERM"] != "dumb" {
		p.on = true
		p.width = func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil || width < 20 {
				return 80
			}
			return width
		}
	}
	return p
}

// show writes the line for an operation.
func (p *progress) show(op *vmhostv1.Operation, what string, cancelling bool) {
	if !p.on {
		return
	}
	parts := []string{what}
	if cancelling {
		parts[0] = "cancelling: " + what
	}
	if host := display.ID(op.GetVmHost()); host != "" {
		parts = append(parts, "on "+host)
	}
	state := []string{}
	if step := currentStep(op); step != "" {
		state = append(state, step)
	}
	if op.GetProgressPercent() > 0 {
		state = append(state, fmt.Sprintf("%d%%", op.GetProgressPercent()))
	}
	if op.GetAttempt() > 1 {
		state = append(state, fmt.Sprintf("try %d", op.GetAttempt()))
	}
	if op.GetMessage() != "" {
		state = append(state, op.GetMessage())
	}
	text := strings.Join(parts, " ")
	if len(state) > 0 {
		text += ": " + strings.Join(state, ", ")
	}
	p.write(text)
}

// write puts text on the line, cut to the terminal's width.
func (p *progress) write(text string) {
	if !p.on {
		return
	}
	elapsed := display.Span(time.Since(p.began))
	text = display.Clean(text)
	room := p.width() - len(elapsed) - 5
	if utf8.RuneCountInString(text) > room {
		text = string([]rune(text)[:max(room-1, 0)]) + "…"
	}
	p.frame = (p.frame + 1) % len(frames)
	fmt.Fprintf(p.w, "\r\x1b[K%s %s %s", frames[p.frame], text, p.palette.Dim(elapsed))
	p.shown = true
}

// clear takes the line away.
func (p *progress) clear() {
	if p.on && p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

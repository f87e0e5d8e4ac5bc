package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// ask shows a question on the terminal and gives the line that is typed. The
// goroutine that reads outlives an interrupt, since a read cannot be taken
// back; the process ends then.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.stderr, question)
	return a.receive(ctx, func() (string, error) {
		line, err := bufio.NewReader(a.stdin).ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil
		}
		return strings.TrimSpace(line), err
	})
}

// askSecret is ask without showing what is typed. The terminal is raw before
// the question is there, so that not even an early key is shown; Ctrl-C is then
// a key like others and ends the reading.
func (a *app) askSecret(ctx context.Context, question string) (string, error) {
	in, ok := a.stdin.(*os.File)
	if !ok {
		return "", errors.New("standard input is no terminal")
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return "", fmt.Errorf("stop the terminal from showing what is typed: %w", err)
	}
	defer func() { _ = term.Restore(int(in.Fd()), before) }() // nothing better can be done at the end
	terminal := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, a.stderr}, "")
	return a.receive(ctx, func() (string, error) {
		secret, err := terminal.ReadPassword(question)
		if errors.Is(err, io.EOF) {
			err = errInterrupted
		}
		return secret, err
	})
}

func (a *app) receive(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case got := <-answers:
		return got.text, got.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// confirm lets a destructive command go on only when the user typed the
// object's name, or gave --yes.
func (a *app) confirm(ctx context.Context, yes bool, consequence, name string) error {
	if yes {
		return nil
	}
	if !a.interactive() {
		return usage("add --yes if that is meant", "%s, and nobody can be asked: this is no terminal", consequence)
	}
	consequence, name = display.Clean(consequence), display.Clean(name)
	typed, err := a.ask(ctx, fmt.Sprintf("%s.\nType %s to go on: ", strings.ToUpper(consequence[:1])+consequence[1:], a.errPalette().Bold(name)))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if typed != name {
		fmt.Fprintln(a.stderr, "nothing was done")
		return quietError{exitUsage}
	}
	return nil
}

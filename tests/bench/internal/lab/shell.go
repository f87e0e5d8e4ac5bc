package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Shell is one interactive virsh.
type Shell struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	output io.Reader
	buf    []byte
}

const prompt = "virsh # "

// Shell starts an interactive virsh.
func (l *Lab) Shell(ctx context.Context) (*Shell, error) {
	// Without stdbuf virsh keeps its prompt to itself when it writes to no terminal.
	s := &Shell{cmd: exec.CommandContext(ctx, "stdbuf", "-o0", "virsh", "-c", "qemu+unix:///system?socket="+l.Socket), buf: make([]byte, 1<<16)} //nolint:gosec // arguments are ours
	var err error
	if s.input, err = s.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start virsh: %w", err)
	}
	if s.output, err = s.cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start virsh: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start virsh: %w", err)
	}
	if _, err := s.prompted(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends virsh.
func (s *Shell) Close() error {
	_ = s.input.Close() // the end of its input is its end
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("end virsh: %w", err)
	}
	return nil
}

// Run waits for a delay, gives a command and reads until virsh asks for the next.
func (s *Shell) Run(ctx context.Context, delay time.Duration, command string) (string, error) {
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	if _, err := io.WriteString(s.input, command+"\n"); err != nil {
		return "", fmt.Errorf("virsh %s: %w", command, err)
	}
	out, err := s.prompted()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w", command, err)
	}
	_, out, _ = strings.Cut(out, "\n") // it repeats the command
	return out, nil
}

func (s *Shell) prompted() (string, error) {
	var out []byte
	for !bytes.HasSuffix(out, []byte(prompt)) {
		n, err := s.output.Read(s.buf)
		if err != nil {
			return "", fmt.Errorf("read from virsh: %w: %s", err, out)
		}
		out = append(out, s.buf[:n]...)
	}
	return string(bytes.TrimSuffix(out, []byte(prompt))), nil
}

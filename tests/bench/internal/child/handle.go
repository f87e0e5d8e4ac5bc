package child

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startLimit = 3 * time.Minute
	stopLimit  = 30 * time.Second
	// clockTicks are the ticks of /proc in a second.
	clockTicks = 100
)

// Handle is a child, as who started it has it.
type Handle struct {
	role  string
	cmd   *exec.Cmd
	input io.Closer
	log   *os.File
	url   string
	done  chan struct{}
}

// Start runs a child of a role and waits until it is up. up gets what it says of
// itself then; its log is in dir.
func Start(ctx context.Context, dir, role string, config, up any) (*Handle, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("configure %s: %w", role, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for %s: %w", role, err)
	}
	h := &Handle{role: role, done: make(chan struct{})}
	if h.log, err = os.Create(filepath.Join(dir, role+".log")); err != nil {
		return nil, fmt.Errorf("make a log for %s: %w", role, err)
	}
	// Not ended by ctx: Close asks, so that nothing half-made stays on a host.
	h.cmd = exec.Command(self, Word, role) //nolint:gosec,noctx // this program, see above
	h.cmd.Stderr = h.log
	input, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, h.log.Close())
	}
	output, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, h.log.Close())
	}
	h.input = input
	if err := h.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", role, err), h.log.Close())
	}
	first := make(chan []byte, 1)
	go func() {
		defer close(h.done)
		defer close(first)
		lines := bufio.NewReader(output)
		if line, err := lines.ReadBytes('\n'); err == nil {
			first <- line
		}
		_, _ = io.Copy(io.Discard, lines)
		_ = h.cmd.Wait() // how it ended is in its log
	}()
	if _, err := input.Write(append(text, '\n')); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", role, err), h.Close())
	}
	if err := h.await(ctx, first, up); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Handle) await(ctx context.Context, first <-chan []byte, up any) error {
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	select {
	case line, ok := <-first:
		if !ok {
			return fmt.Errorf("%s ended, see its log %s", h.role, h.log.Name())
		}
		var said announcement
		said.Up = up
		if err := json.Unmarshal(line, &said); err != nil {
			return fmt.Errorf("understand %s: %w", h.role, err)
		}
		h.url = said.URL
		return nil
	case <-timer.C:
		return fmt.Errorf("%s was not up after %v, see its log %s", h.role, startLimit, h.log.Name())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Log is the file with what the child says.
func (h *Handle) Log() string { return h.log.Name() }

// URL is where the child answers questions, and has its profiles.
func (h *Handle) URL() string { return h.url }

// Ask asks the child something; out gets the answer, if it is not nil.
func (h *Handle) Ask(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", h.role, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", h.role, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask %s: %w", h.role, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s: %s", h.role, resp.Status, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("understand %s: %w", h.role, err)
	}
	return nil
}

// Memory is what the child holds after its garbage was collected.
func (h *Handle) Memory(ctx context.Context) (Memory, error) {
	var m Memory
	err := h.Ask(ctx, "/memory", &m)
	return m, err
}

// CPU is how much processor the child has used so far.
func (h *Handle) CPU() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", h.role, err)
	}
	// The name of the program may have spaces in it, and ends with a bracket.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const user, system = 11, 12
	if len(fields) <= system {
		return 0, fmt.Errorf("look at %s: %s", h.role, text)
	}
	var ticks int64
	for _, f := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("look at %s: %w", h.role, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// Kill ends the child at once.
func (h *Handle) Kill() {
	_ = h.cmd.Process.Kill()
	<-h.done
	_ = h.input.Close()
	_ = h.log.Close()
}

// Close ends the child and waits for it.
func (h *Handle) Close() error {
	_ = h.input.Close()
	var err error
	select {
	case <-h.done:
	case <-time.After(stopLimit):
		_ = h.cmd.Process.Signal(syscall.SIGKILL)
		<-h.done
		err = fmt.Errorf("%s did not end within %v", h.role, stopLimit)
	}
	_ = h.log.Close()
	return err
}

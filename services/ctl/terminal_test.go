package ctl_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/clictx"
)

// session is vmhostctl as a user sees it: run on a terminal of its own, or with
// nothing but pipes.
type session struct {
	t      *testing.T
	cmd    *exec.Cmd
	tty    *os.File // nil without a terminal
	output *watched
	read   chan struct{} // closed when everything it wrote was read
}

// watched is output that a test waits for.
type watched struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	close(w.changed)
	w.changed = make(chan struct{})
	return len(p), nil
}

func (w *watched) text() (string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String(), w.changed
}

// prepareSession is a session that has not begun.
func prepareSession(t *testing.T, f *fakeRegion, args ...string) *session {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := clictx.WriteContext(config, f.context(), true); err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, cmd: exec.Command("vmhostctl", args...), output: &watched{changed: make(chan struct{})}, read: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), "VMHOSTCTL_CONFIG="+config, "TERM=xterm", "NO_COLOR=", "TZ=UTC", "GORACE="+noRaceSleep)
	return s
}

func startSession(t *testing.T, f *fakeRegion, terminal bool, args ...string) *session {
	t.Helper()
	s := prepareSession(t, f, args...)
	if !terminal {
		s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
		close(s.read)
		if err := s.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s.attach(master, tty)
	_ = tty.Close() // vmhostctl has its own: with it the terminal ends
	return s
}

// attach begins the session on a terminal.
func (s *session) attach(master, tty *os.File) {
	s.t.Helper()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		s.t.Fatal(err)
	}
	s.tty = master
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(s.read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			_, _ = s.output.Write(buf[:n])
			if err != nil { // a terminal whose last user has gone
				return
			}
		}
	}()
	s.t.Cleanup(func() { _ = master.Close() })
}

// expect waits until the output matches.
func (s *session) expect(pattern string) {
	s.t.Helper()
	want := regexp.MustCompile(pattern)
	timeout := time.After(20 * time.Second)
	for {
		text, changed := s.output.text()
		if want.MatchString(text) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			s.t.Fatalf("no %q in:\n%s", pattern, text)
		}
	}
}

func (s *session) typeIn(line string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(line); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the end and gives everything that was written.
func (s *session) ends(want int) string {
	s.t.Helper()
	err := s.cmd.Wait()
	<-s.read
	return s.ended(err, want)
}

// leaves is ends for a terminal that stays: what was written last is marked by
// a line of the test's own.
func (s *session) leaves(tty *os.File, want int) string {
	s.t.Helper()
	err := s.cmd.Wait()
	const mark = "the test has seen the end"
	if _, err := tty.WriteString(mark); err != nil {
		s.t.Fatal(err)
	}
	s.expect(mark)
	return strings.TrimSuffix(s.ended(err, want), mark)
}

func (s *session) ended(err error, want int) string {
	s.t.Helper()
	text, _ := s.output.text()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	if code != want {
		s.t.Errorf("ended with %d, want %d:\n%s", code, want, text)
	}
	return text
}

func TestOnATerminalDeletingAsksForTheName(t *testing.T) {
	tests := []struct {
		name, typed string
		code        int
		deleted     bool
	}{
		{"the name", "web-1\r", 0, true},
		{"something else", "yes\r", 2, false},
		{"the end of the input", "\x04", 2, false},
		{"Ctrl-C", "\x03", 130, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeRegion(t, t.TempDir())
			s := startSession(t, f, true, "machine", "delete", "web-1")
			s.expect("Machine web-1 on h1 is deleted with 1 disk")
			s.expect("Type .*web-1.* to go on: ")
			s.typeIn(tt.typed)
			s.ends(tt.code)
			sent, err := f.requests("DeleteMachine")
			if err != nil || (sent != "") != tt.deleted {
				t.Errorf("sent %q (%v), want deleted %v", sent, err, tt.deleted)
			}
		})
	}
}

func TestOnATerminalAHostKeyIsShownAndConfirmed(t *testing.T) {
	for typed, code := range map[string]int{"yes\r": 0, "no\r": 2} {
		f := newFakeRegion(t, t.TempDir())
		s := startSession(t, f, true, "vm-host", "add", "h4", "qemu+ssh://root@h4/system")
		s.expect("SHA256:abcdef")
		s.expect("ssh_host_ed25519_key.pub")
		s.expect("Type yes to trust it from now on: ")
		s.typeIn(typed)
		s.ends(code)
		sent, err := f.requests("CreateVmHost")
		if err != nil || strings.Contains(sent, `"hostKey":"ssh-ed25519 AAAAC3Nz"`) != (code == 0) {
			t.Errorf("after %q: sent %q (%v)", typed, sent, err)
		}
	}
}

func TestAPasswordTypedOnATerminalIsNotShown(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	s := startSession(t, f, true, "vm-host", "add", "h4", "qemu+ssh://root@h4/system", "--password-stdin", "--host-key", "SHA256:x")
	s.expect("Password: ")
	s.typeIn("sesame\r")
	if text := s.ends(0); strings.Contains(text, "sesame") {
		t.Errorf("the password was shown:\n%s", text)
	}
	if sent, err := f.requests("CreateVmHost"); err != nil || !strings.Contains(sent, `"password":"sesame"`) {
		t.Errorf("sent %q (%v)", sent, err)
	}

	s = startSession(t, f, true, "vm-host", "add", "h5", "qemu+ssh://root@h5/system", "--password-stdin", "--host-key", "SHA256:x")
	s.expect("Password: ")
	s.typeIn("ses\x03")
	s.ends(130)
	if sent, err := f.requests("CreateVmHost"); err != nil || strings.Contains(sent, "h5") {
		t.Errorf("sent %q (%v)", sent, err)
	}
}

func TestOnATerminalProgressIsOneLineThatGoesAway(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	f.hold = true
	s := startSession(t, f, true, "machine", "compose", "web-9")
	s.expect("compose machine web-9 on h1: create, 50%, asking the rack")
	f.release()
	text := s.ends(0)
	if !strings.Contains(text, "\r\x1b[KMACHINE") {
		t.Errorf("the line was not cleared before the result: %q", text)
	}
	if !strings.Contains(text, "\x1b[32mREADY\x1b[0m") {
		t.Errorf("a state has no colour on a terminal: %q", text)
	}
}

func TestOnATerminalSentencesStayInTheirColumn(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	f.placement = &vmhostv1.Placement{Considered: 1, RefusedCounts: map[string]int32{"cores": 1}, Refusals: []*vmhostv1.PlacementRefusal{{
		VmHost: "vmHosts/h1", Filter: "cores", Message: "has 64 cores in all, less than the 65 asked for; overcommit makes no machine possible that is larger than its host",
	}}}
	args := []string{"machine", "compose", "--dry-run"}
	want := strings.Join([]string{
		"HOST  FITS  FILTER  WHY",
		"h1    no    cores   has 64 cores in all, less than the 65 asked for; overcommit",
		"                    makes no machine possible that is larger than its host",
	}, "\r\n")
	got := startSession(t, f, true, args...).ends(8)
	if plain := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(got, ""); !strings.Contains(plain, want) {
		t.Errorf("on a terminal of 80 columns:\n%s", plain)
	}
	if got := startSession(t, f, false, args...).ends(8); !strings.Contains(got, f.placement.GetRefusals()[0].GetMessage()) {
		t.Errorf("without a terminal a line is broken:\n%s", got)
	}
}

func TestCtrlCOnceLetsGoOfTheOperation(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		f := newFakeRegion(t, t.TempDir())
		f.hold = true
		s := startSession(t, f, terminal, "machine", "compose", "web-9")
		waitFor(t, f, "WaitOperation")
		if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		text := s.ends(130)
		if !strings.Contains(text, "vmhostctl operation wait 0197-0001") {
			t.Errorf("terminal %v: the way back is not named:\n%s", terminal, text)
		}
		if sent, err := f.requests("CancelOperation"); err != nil || sent != "" {
			t.Errorf("terminal %v: sent %q (%v)", terminal, sent, err)
		}
	}
}

func TestCtrlCTwiceCancelsTheOperation(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	f.hold = true
	s := startSession(t, f, true, "machine", "compose", "web-9")
	s.expect("compose machine web-9")
	s.typeIn("\x03")
	s.expect("press Ctrl-C again to cancel")
	s.typeIn("\x03")
	text := s.ends(3)
	if !strings.Contains(text, "cancelling operations/0197-0001") || !strings.Contains(text, "was cancelled") {
		t.Errorf("got:\n%s", text)
	}
}

func TestARegionThatRestartsWhileWaitedForIsWaitedFor(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	f.fault("WaitOperation", unavailable())
	f.fault("WaitOperation", unavailable())
	f.hold = true
	s := startSession(t, f, false, "machine", "compose", "web-9")
	waitFor(t, f, "WaitOperation", "WaitOperation", "WaitOperation")
	f.release()
	if text := s.ends(0); !strings.Contains(text, "web-9") {
		t.Errorf("got:\n%s", text)
	}
}

func TestEveryCallOfARunCarriesOneIdForTheLog(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	startSession(t, f, false, "machine", "start", "web-1").ends(0)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.traces) < 3 {
		t.Fatalf("calls with an id: %d, want list, start and get", len(f.traces))
	}
	for _, id := range f.traces {
		if id == "" || id != f.traces[0] {
			t.Errorf("ids differ: %q", f.traces)
		}
	}
}

func unavailable() error {
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the store does not answer")
}

// waitFor waits until the fake has had so many calls of a method.
func waitFor(t *testing.T, f *fakeRegion, methods ...string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		f.mu.Lock()
		got := len(f.received[methods[0]])
		f.mu.Unlock()
		if got >= len(methods) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d calls of %s, want %d", got, methods[0], len(methods))
		}
	}
}

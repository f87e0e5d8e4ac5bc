package ctl_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// stateOf is how a terminal treats what is typed.
func stateOf(t *testing.T, tty *os.File) *term.State {
	t.Helper()
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// wantState fails unless the terminal is as it was before.
func wantState(t *testing.T, tty *os.File, before *term.State) {
	t.Helper()
	if !reflect.DeepEqual(stateOf(t, tty), before) {
		t.Error("the terminal was not restored")
	}
}

// startConsole is a session on a terminal whose state can be seen, also once
// vmhostctl has gone.
func startConsole(t *testing.T, f *fakeRegion, args ...string) (s *session, tty *os.File, before *term.State) {
	t.Helper()
	// A second handle of the same terminal keeps it there.
	s = prepareSession(t, f, append([]string{"machine", "console", "web-1"}, args...)...)
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	before = stateOf(t, tty)
	s.attach(master, tty)
	return s, tty, before
}

func (f *fakeRegion) keys() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.typed
}

func TestAConsoleCarriesEveryKeyUntilTheOneThatLeaves(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	s, tty, before := startConsole(t, f)
	s.expect("attached to the console of web-1; Ctrl-\\] leaves it")
	if reflect.DeepEqual(stateOf(t, tty), before) {
		t.Error("the terminal is not raw")
	}
	s.typeIn("hello\r")
	s.expect(regexp.QuoteMeta("\x1b[1m<hello>\x1b[0m\r\n")) // as the guest wrote it
	s.typeIn("\x03\x04\x1a\x11")                            // Ctrl-C, Ctrl-D, Ctrl-Z and Ctrl-Q are the guest's
	s.typeIn("last\x1dnot sent")
	text := s.leaves(tty, 0)
	if !strings.Contains(text, "left the console of web-1") {
		t.Errorf("got:\n%s", text)
	}
	if got, want := f.keys(), "hello\r\x03\x04\x1a\x11last"; got != want {
		t.Errorf("typed %q, want %q", got, want)
	}
	if strings.Count(text, "hello") != 1 {
		t.Errorf("what is typed was echoed by the terminal:\n%q", text)
	}
	wantState(t, tty, before)
}

func TestAConsoleEndsWithItsMachine(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	s, tty, before := startConsole(t, f)
	s.expect("attached")
	s.typeIn("poweroff\r")
	if text := s.leaves(tty, 0); !strings.Contains(text, "the console of web-1 has ended; the machine was stopped") {
		t.Errorf("got:\n%s", text)
	}
	wantState(t, tty, before)
}

func TestAConsoleIsTakenOnlyByForce(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	first, tty, before := startConsole(t, f)
	first.expect("attached")

	second, secondTTY, _ := startConsole(t, f)
	if text := second.leaves(secondTTY, 7); !strings.Contains(text, "somebody has it (CONSOLE_BUSY)") || !strings.Contains(text, "--force") {
		t.Errorf("got:\n%s", text)
	}

	third, thirdTTY, _ := startConsole(t, f, "--force")
	third.expect("attached")
	text := first.leaves(tty, 7)
	if !strings.Contains(text, "why: it was taken by admin (CONSOLE_BUSY)") {
		t.Errorf("got:\n%s", text)
	}
	wantState(t, tty, before)
	third.typeIn("\x1d")
	third.leaves(thirdTTY, 0)
}

// What is piped in ends before the machine has answered.
func TestTheAnswerToWhatIsPipedIntoAConsoleIsShown(t *testing.T) {
	for _, linger := range []string{"2s", "0"} {
		t.Run(linger, func(t *testing.T) {
			f := newFakeRegion(t, t.TempDir())
			s := prepareSession(t, f, "machine", "console", "web-1", "--linger", linger)
			s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = strings.NewReader("slow\n"), s.output, s.output
			close(s.read)
			if err := s.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			s.expect("done at last")
			if linger == "0" { // only the machine or the user ends it
				if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
				s.ends(130)
				return
			}
			s.ends(0)
			if got := f.keys(); got != "slow\n" {
				t.Errorf("typed %q", got)
			}
		})
	}
}

func TestASignalLeavesNoRawTerminal(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGHUP, os.Interrupt} {
		f := newFakeRegion(t, t.TempDir())
		s, tty, before := startConsole(t, f)
		s.expect("attached")
		if err := s.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		s.leaves(tty, 130)
		wantState(t, tty, before)
	}
}

func TestAConsoleLogDoesNoHarmToATerminal(t *testing.T) {
	f := newFakeRegion(t, t.TempDir())
	f.consoleLog = "boot\r\n\x1b]0;owned\a\x1b[2J\u009b1mred \u202e機械\r\n"
	text := startSession(t, f, true, "machine", "console-log", "web-1").ends(0)
	if want := "boot\r\nred 機械\r\n"; text != want { // the terminal makes \r\n of \n
		t.Errorf("got %q, want %q", text, want)
	}
}

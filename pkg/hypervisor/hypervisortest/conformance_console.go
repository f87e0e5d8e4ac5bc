package hypervisortest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// guest creates and starts a machine whose guest answers.
func (s *suite) guest(t *testing.T) (d hypervisor.Driver, uid string) {
	t.Helper()
	s.needs(t, s.h.Guest != nil && !s.h.NoPower, "guest that answers")
	d = s.open(t)
	c := s.machine(t, 1)
	if s.h.Guest.Prepare != nil {
		s.h.Guest.Prepare(t, c)
	}
	s.mustCreate(t, d, c)
	uid = c.GetMachine().GetUid()
	con, ok := d.(hypervisor.Consoler)
	s.needs(t, ok, "driver with consoles")
	s.mustPower(t, d, uid, start)
	if s.h.Guest.Ready == "" {
		return d, uid
	}
	// What was written before the console was opened is in the log, if at all.
	w := s.watch(t, con, uid, false)
	defer w.close()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	limit := time.After(s.h.Patience)
	for {
		log, err := s.readLog(t, con, uid, 1<<20)
		if err != nil && !errors.Is(err, hypervisor.ErrUnsupported) {
			t.Fatalf("read the log: %v", err)
		}
		if strings.Contains(log+w.shown(), s.h.Guest.Ready) {
			return d, uid
		}
		select {
		case <-look.C:
		case <-limit:
			t.Fatalf("the guest is not up; its console shows %q, its log is %q, error %v", w.shown(), log, err)
		}
	}
}

func (s *suite) readLog(t *testing.T, con hypervisor.Consoler, uid string, tail int64) (string, error) {
	t.Helper()
	r, err := con.ConsoleLog(s.ctx(t), hypervisor.Ref{UID: uid}, tail)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	return string(b), err
}

// watched is an open console and what it has shown.
type watched struct {
	io.ReadWriteCloser
	patience time.Duration

	mu    sync.Mutex
	text  bytes.Buffer
	more  chan struct{}
	ended chan error
}

func (s *suite) watch(t *testing.T, con hypervisor.Consoler, uid string, force bool) *watched {
	t.Helper()
	c, err := con.OpenConsole(s.ctx(t), hypervisor.Ref{UID: uid}, force)
	if err != nil {
		t.Fatalf("open console: %v", err)
	}
	w := &watched{ReadWriteCloser: c, patience: s.h.Patience, more: make(chan struct{}, 1), ended: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			w.mu.Lock()
			w.text.Write(b[:n])
			w.mu.Unlock()
			select {
			case w.more <- struct{}{}:
			default:
			}
			if err != nil {
				w.ended <- err
				return
			}
		}
	})
	t.Cleanup(func() {
		w.close()
		wg.Wait()
	})
	return w
}

func (w *watched) close() { _ = w.Close() }

func (w *watched) shown() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// await waits until the console has shown a text. What is to be typed is typed
// every second.
func (w *watched) await(t *testing.T, text string, typed ...string) {
	t.Helper()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	limit := time.After(w.patience)
	hit := func() {
		for _, k := range typed {
			if _, err := io.WriteString(w, k); err != nil {
				t.Fatalf("type on the console: %v", err)
			}
		}
	}
	hit()
	for !strings.Contains(w.shown(), text) {
		select {
		case <-w.more:
		case <-again.C:
			hit()
		case err := <-w.ended:
			t.Fatalf("the console ended (%v) before it showed %q: %q", err, text, w.shown())
		case <-limit:
			t.Fatalf("the console does not show %q: %q", text, w.shown())
		}
	}
}

// end waits for the end of the console.
func (w *watched) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(w.patience):
		t.Fatal("the console goes on")
		return nil
	}
}

// guests boots one guest, which may take a while, and asks everything of it.
func (s *suite) guests(t *testing.T) {
	d, uid := s.guest(t)
	con := d.(hypervisor.Consoler)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, d hypervisor.Driver, con hypervisor.Consoler, uid string)
	}{
		{"the end of the log can be read", s.consoleLog},
		{"a console that is closed is free", s.consoleFreed},
		{"a console that is taken is busy, and force takes it", s.consoleTaken},
		{"a soft stop turns it off, and its console ends", s.softStop},
		{"the log of a machine that is off can be read", s.consoleLogOff},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, d, con, uid) })
	}
}

func (s *suite) consoleFreed(t *testing.T, d hypervisor.Driver, con hypervisor.Consoler, uid string) {
	for range 2 {
		w := s.watch(t, con, uid, false)
		w.await(t, s.h.Guest.Answer, s.h.Guest.Type)
		// The connection that it came from is free meanwhile.
		if _, err := d.Machine(s.ctx(t), uid); err != nil {
			t.Errorf("read a machine while a console is open: %v", err)
		}
		w.close()
		_ = w.end(t)
	}
}

func (s *suite) consoleTaken(t *testing.T, _ hypervisor.Driver, con hypervisor.Consoler, uid string) {
	first := s.watch(t, con, uid, false)
	first.await(t, s.h.Guest.Answer, s.h.Guest.Type)
	_, err := con.OpenConsole(s.ctx(t), hypervisor.Ref{UID: uid}, false)
	classed(t, err, hypervisor.ErrBusy)
	second := s.watch(t, con, uid, true)
	_ = first.end(t)
	second.await(t, s.h.Guest.Answer, s.h.Guest.Type)
}

func (s *suite) softStop(t *testing.T, d hypervisor.Driver, con hypervisor.Consoler, uid string) {
	w := s.watch(t, con, uid, true)
	for range 2 { // stopped already is done
		got, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: uid}, stopSoft, s.h.Patience/2)
		if err != nil || got.GetPowerState() != off {
			t.Fatalf("the machine is %v, error %v; want off", got.GetPowerState(), err)
		}
	}
	if err := w.end(t); !errors.Is(err, io.EOF) {
		t.Errorf("the console of a machine that stopped ends with %v, want io.EOF", err)
	}
	_, err := con.OpenConsole(s.ctx(t), hypervisor.Ref{UID: uid}, false)
	classed(t, err, hypervisor.ErrRefused)
}

func (s *suite) consoleLog(t *testing.T, _ hypervisor.Driver, con hypervisor.Consoler, uid string) {
	if all := s.mustReadLog(t, con, uid, 1<<20); !strings.Contains(all, s.h.Guest.Ready) || all == "" {
		t.Errorf("the log is %q, want %q in it", all, s.h.Guest.Ready)
	}
	if got := s.mustReadLog(t, con, uid, 5); len(got) != 5 {
		t.Errorf("the last 5 bytes are %q", got)
	}
	if got := s.mustReadLog(t, con, uid, 0); got != "" {
		t.Errorf("the last 0 bytes are %q", got)
	}
}

func (s *suite) consoleLogOff(t *testing.T, _ hypervisor.Driver, con hypervisor.Consoler, uid string) {
	if all := s.mustReadLog(t, con, uid, 1<<20); !strings.Contains(all, s.h.Guest.Ready) {
		t.Errorf("the log of the machine that is off is %q", all)
	}
}

func (s *suite) mustReadLog(t *testing.T, con hypervisor.Consoler, uid string, tail int64) string {
	t.Helper()
	text, err := s.readLog(t, con, uid, tail)
	if errors.Is(err, hypervisor.ErrUnsupported) {
		t.Skipf("no log is kept: %v", err)
	}
	if err != nil {
		t.Fatalf("read the log: %v", err)
	}
	return text
}

func (s *suite) consoleForeign(t *testing.T) {
	d := s.open(t)
	con, ok := d.(hypervisor.Consoler)
	s.needs(t, ok, "driver with consoles")
	f := s.foreignMachine(t)
	_, err := con.OpenConsole(s.ctx(t), hypervisor.Ref{UID: f.UUID}, false)
	classed(t, err, hypervisor.ErrNotFound)
	_, err = con.ConsoleLog(s.ctx(t), hypervisor.Ref{UID: f.UUID}, 10)
	classed(t, err, hypervisor.ErrNotFound)
	s.h.AddForeign(t, f)
	_, err = con.OpenConsole(s.ctx(t), hypervisor.Ref{UID: f.UUID}, true)
	classed(t, err, hypervisor.ErrForeign)
	_, err = con.ConsoleLog(s.ctx(t), hypervisor.Ref{UID: f.UUID}, 10)
	classed(t, err, hypervisor.ErrForeign)
}

package fake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// maxLog bounds what is kept of a console; maxUnread what nobody reads.
	maxLog    = 64 << 10
	maxUnread = 64 << 10
)

// console is the serial console of one machine: a guest that writes back what it
// reads. It outlives the machine's runs, with its log.
type console struct {
	mu   sync.Mutex
	log  []byte
	open *session
}

// session is one opened console.
type session struct {
	of     *console
	wake   chan struct{} // a read may go on
	lost   <-chan struct{}
	closed <-chan struct{}

	// Guarded by console.mu.
	unread bytes.Buffer
	ended  bool
}

// console is called with h.mu held.
func (h *Host) console(uuid string) *console {
	if h.consoles == nil {
		h.consoles = map[string]*console{}
	}
	if h.consoles[uuid] == nil {
		h.consoles[uuid] = &console{}
	}
	return h.consoles[uuid]
}

// consolePower is called with h.mu held, when a machine's power changed.
func (h *Host) consolePower(m *rackv1.MachineObservation, before vmhostv1.PowerState) {
	const off = vmhostv1.PowerState_POWER_STATE_OFF
	switch now := m.GetPowerState(); {
	case before == off && now != off:
		h.console(m.GetUuid()).say([]byte("fake guest of " + m.GetName() + " is up\r\n"))
	case now == off:
		h.console(m.GetUuid()).hangUp()
	}
}

func (h *Host) dropConsole(uuid string) {
	if c := h.consoles[uuid]; c != nil {
		c.hangUp()
		delete(h.consoles, uuid)
	}
}

// Say makes a machine's guest write to its console.
func (h *Host) Say(uuid, text string) {
	h.mu.Lock()
	c := h.console(uuid)
	h.mu.Unlock()
	c.say([]byte(text))
}

func (c *console) say(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, p...)
	c.log = c.log[max(0, len(c.log)-maxLog):]
	if s := c.open; s != nil {
		s.unread.Write(p)
		if drop := s.unread.Len() - maxUnread; drop > 0 {
			s.unread.Next(drop)
		}
		s.poke()
	}
}

func (c *console) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
}

// end is called with c.mu held.
func (c *console) end() {
	if s := c.open; s != nil {
		c.open, s.ended = nil, true
		s.poke()
	}
}

// OpenConsole opens the console of a machine that runs.
func (d *driver) OpenConsole(ctx context.Context, ref hypervisor.Ref, force bool) (io.ReadWriteCloser, error) {
	const op = "open console"
	return read(ctx, d, Console, func(h *Host) (io.ReadWriteCloser, error) {
		m, err := h.ours(op, ref)
		if err != nil {
			return nil, err
		}
		if m.GetPowerState() == vmhostv1.PowerState_POWER_STATE_OFF {
			return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: op, Err: errors.New("the machine is off"), Hint: "start it"}
		}
		c := h.console(m.GetUuid())
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open != nil && !force {
			return nil, &hypervisor.Error{Class: hypervisor.ErrBusy, Op: op, Err: errors.New("somebody else has the console")}
		}
		c.end()
		c.open = &session{of: c, wake: make(chan struct{}, 1), lost: d.line.lost, closed: d.closed}
		return c.open, nil
	})
}

// ConsoleLog reads the end of what the guest wrote.
func (d *driver) ConsoleLog(ctx context.Context, ref hypervisor.Ref, tail int64) (io.ReadCloser, error) {
	return read(ctx, d, Log, func(h *Host) (io.ReadCloser, error) {
		m, err := h.ours("read console log", ref)
		if err != nil {
			return nil, err
		}
		c := h.console(m.GetUuid())
		c.mu.Lock()
		defer c.mu.Unlock()
		from := max(0, int64(len(c.log))-max(0, tail))
		return io.NopCloser(bytes.NewReader(bytes.Clone(c.log[from:]))), nil
	})
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Read waits for what the guest writes.
func (s *session) Read(p []byte) (int, error) {
	for {
		s.of.mu.Lock()
		n, _ := s.unread.Read(p)
		ended := s.ended
		s.of.mu.Unlock()
		switch {
		case n > 0 || len(p) == 0:
			return n, nil
		case ended:
			s.poke() // for whoever reads as well
			return 0, io.EOF
		}
		select {
		case <-s.wake:
		case <-s.lost:
			return 0, consoleLost("connection lost")
		case <-s.closed:
			return 0, consoleLost("connection closed")
		}
	}
}

// Write is typed to the guest, which writes it back.
func (s *session) Write(p []byte) (int, error) {
	s.of.mu.Lock()
	ended := s.ended
	s.of.mu.Unlock()
	if ended {
		return 0, io.ErrClosedPipe
	}
	select {
	case <-s.lost:
		return 0, consoleLost("connection lost")
	case <-s.closed:
		return 0, consoleLost("connection closed")
	default:
	}
	s.of.say(p)
	return len(p), nil
}

// Close gives the console back.
func (s *session) Close() error {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.of.open == s {
		s.of.open = nil
	}
	s.ended = true
	s.poke()
	return nil
}

func consoleLost(why string) error {
	return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "use console", Err: errors.New(why)}
}

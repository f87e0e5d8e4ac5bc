package fake

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// Method is a call of a driver or opener.
type Method string

// The methods that faults, latency and hangs can be set for.
const (
	Open     Method = "open"
	HostKey  Method = "host-key"
	Probe    Method = "probe"
	Machines Method = "machines"
	Machine  Method = "machine"
	Create   Method = "create"
	Delete   Method = "delete"
	SetPower Method = "set-power"
	Events   Method = "events"
	Adopt    Method = "adopt"
	Release  Method = "release"
	Console  Method = "console"
	Log      Method = "console-log"
	Fix      Method = "fix"
	// Move is the beginning of a move on the source, Receive the copying of a moved
	// machine to the destination, Vacate its removal from the source.
	Move    Method = "move"
	Receive Method = "receive"
	Vacate  Method = "vacate"
	// Any is every method.
	Any Method = ""
)

// Fault is what goes wrong in one call.
type Fault struct {
	// Err is answered. A bare class of package hypervisor is dressed as a real
	// driver would.
	Err error
	// AfterEffect: the call does what it was asked, and answers Err (ErrTimeout
	// when nil) all the same. Who called cannot know.
	AfterEffect bool
	// HalfMade, for Create and Receive: volumes are made and nothing is undone; for
	// Move: the machine was stopped, if it had to be, is copied and does not run
	// yet. As after the death of the process that called; Err (ErrUnreachable when
	// nil) is answered.
	HalfMade bool
}

// faults are the knobs of one host.
type faults struct {
	mu      sync.Mutex
	latency map[Method]time.Duration
	queue   map[Method][]Fault
	hang    map[Method]chan struct{}
	calls   map[Method]int
	flights map[string]int // mutating calls under way, per machine
	flying  int
	most    int
	overlap int
}

// SetLatency makes every call of a method (or of Any) take that long.
func (h *Host) SetLatency(m Method, d time.Duration) {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	if h.faults.latency == nil {
		h.faults.latency = map[Method]time.Duration{}
	}
	h.faults.latency[m] = d
}

// Fail lets the next calls of a method fail before they do anything, one error
// per call, in order.
func (h *Host) Fail(m Method, errs ...error) {
	for _, err := range errs {
		h.Inject(m, Fault{Err: err})
	}
}

// Inject lets the next calls of a method go wrong, one fault per call, in order.
func (h *Host) Inject(m Method, faults ...Fault) {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	if h.faults.queue == nil {
		h.faults.queue = map[Method][]Fault{}
	}
	h.faults.queue[m] = append(h.faults.queue[m], faults...)
}

// ClearFaults forgets latency and faults that have not happened yet.
func (h *Host) ClearFaults() {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	h.faults.latency, h.faults.queue = nil, nil
}

// Hang lets every call of a method (or of Any) wait until release is called, its
// context ends or the connection is lost.
func (h *Host) Hang(m Method) (release func()) {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	if h.faults.hang == nil {
		h.faults.hang = map[Method]chan struct{}{}
	}
	ch := make(chan struct{})
	h.faults.hang[m] = ch
	return sync.OnceFunc(func() {
		h.faults.mu.Lock()
		defer h.faults.mu.Unlock()
		if h.faults.hang[m] == ch {
			delete(h.faults.hang, m)
		}
		close(ch)
	})
}

// Calls is how often a method was called; Any counts all.
func (h *Host) Calls(m Method) int {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	return h.faults.calls[m]
}

// MostInFlight is the largest number of mutating calls that were ever under way
// at once.
func (h *Host) MostInFlight() int {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	return h.faults.most
}

// Overlaps is how often a mutating call began while another on the same machine
// was under way.
func (h *Host) Overlaps() int {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	return h.faults.overlap
}

// next counts a call and takes what the knobs say about it.
func (f *faults) next(m Method) (latency time.Duration, hang []chan struct{}, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = map[Method]int{}
	}
	f.calls[m]++
	f.calls[Any]++
	latency = f.latency[Any] + f.latency[m]
	for _, key := range []Method{Any, m} {
		if ch := f.hang[key]; ch != nil {
			hang = append(hang, ch)
		}
	}
	for _, key := range []Method{m, Any} {
		if q := f.queue[key]; len(q) > 0 {
			fault = q[0]
			f.queue[key] = slices.Clone(q[1:])
			break
		}
	}
	return latency, hang, fault.dressed(m)
}

// fly notes a mutating call on a machine; land ends it.
func (f *faults) fly(uid string) (land func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flights == nil {
		f.flights = map[string]int{}
	}
	if f.flights[uid] > 0 {
		f.overlap++
	}
	f.flights[uid]++
	f.flying++
	f.most = max(f.most, f.flying)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.flying--
		if f.flights[uid]--; f.flights[uid] == 0 {
			delete(f.flights, uid)
		}
	}
}

func (f Fault) dressed(m Method) Fault {
	switch {
	case f.Err == nil && f.AfterEffect:
		f.Err = hypervisor.ErrTimeout
	case f.Err == nil && f.HalfMade:
		f.Err = hypervisor.ErrUnreachable
	case f.Err == nil:
		return f
	}
	if _, ok := errors.AsType[*hypervisor.Error](f.Err); !ok {
		f.Err = &hypervisor.Error{Class: f.Err, Op: string(m) + " on fake host", Err: errors.New("as the test asked")}
	}
	return f
}

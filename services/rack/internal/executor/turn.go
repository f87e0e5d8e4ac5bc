package executor

// turn is a step's place in the queue of its machine.
type turn struct {
	host   *host
	key    string
	before <-chan struct{} // closed when the step before has ended
	mine   chan struct{}   // closed when this one has
}

// queue takes the next place in a machine's queue; nil when the host has too
// many steps.
func (h *host) queue(key string) *turn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.active >= maxQueued {
		return nil
	}
	h.active++
	t := &turn{host: h, key: key, mine: make(chan struct{})}
	if tail := h.tails[key]; tail != nil {
		t.before = tail
	} else {
		first := make(chan struct{})
		close(first)
		t.before = first
	}
	h.tails[key] = t.mine
	return t
}

// leave gives the turn to the next. A nil turn has none to give. One that never
// had its turn passes it on only when it comes.
func (t *turn) leave() {
	if t == nil {
		return
	}
	select {
	case <-t.before:
		t.pass()
	default:
		t.host.e.steps.Go(func() { // ends when the step before ends
			<-t.before
			t.pass()
		})
	}
}

func (t *turn) pass() {
	h := t.host
	h.nudge(func() {
		h.active--
		if h.tails[t.key] == t.mine {
			delete(h.tails, t.key)
		}
		close(t.mine)
	})
}

package session

import (
	"context"
	"time"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const (
	// outboxSize bounds what waits to be sent to one rack. Assignments are not in
	// it, so that it holds steps and acknowledgements of work under way.
	outboxSize = 256
	// stepShare of the outbox may be steps, which can wait where they come from.
	// The rest is for messages that cannot.
	stepShare = outboxSize * 3 / 4
)

// offer queues a step if there is room for one now. Having none is no fault of the
// rack's: thousands of operations may wait for it. It is disconnected when it has
// taken nothing for as long as it may be silent.
func (ss *session) offer(step *rackv1.Step) bool {
	ss.mu.Lock()
	room := len(ss.outbox) < stepShare
	ss.mu.Unlock()
	if room {
		return ss.queue(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Step{Step: step}})
	}
	if time.Since(time.Unix(0, ss.taken.Load())) > 3*ss.server.cfg.Heartbeat {
		ss.end(vmhostv1.ErrorReason_CONFLICT, notKeptUp)
	}
	return false
}

const notKeptUp = "the rack does not keep up with what it is sent"

// queue puts a message into the outbox without waiting. A rack that leaves it
// full is disconnected.
func (ss *session) queue(m *rackv1.ConnectResponse) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.over() {
		return false
	}
	if len(ss.outbox) >= outboxSize {
		ss.end(vmhostv1.ErrorReason_CONFLICT, notKeptUp)
		return false
	}
	ss.outbox = append(ss.outbox, m)
	ss.wake()
	return true
}

// syncAll has all hosts of the rack looked at.
func (ss *session) syncAll() { ss.syncHost("") }

// syncHost has the assignment of one host looked at.
func (ss *session) syncHost(host string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.over() {
		return
	}
	if ss.dirty == nil {
		ss.dirty = map[string]bool{}
	}
	ss.dirty[host] = true
	ss.wake()
}

// over says whether the session has ended.
func (ss *session) over() bool {
	select {
	case <-ss.ended:
		return true
	default:
		return false
	}
}

// beginSending allows to send, once the Hello is out.
func (ss *session) beginSending() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.begun = true
	ss.wake()
}

// endSending lets go of what was not sent. No goroutine that sends is begun
// afterwards; one that runs ends with the stream.
func (ss *session) endSending() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.begun, ss.outbox, ss.dirty = false, nil, nil
}

// wake begins the goroutine that sends, unless it runs. Call it with the lock.
func (ss *session) wake() {
	if ss.sending || !ss.begun || (len(ss.outbox) == 0 && len(ss.dirty) == 0) {
		return
	}
	ss.sending = true
	ss.taken.Store(time.Now().UnixNano()) // nothing has waited until now
	ss.server.workers.Go(ss.send)
}

// send sends what is queued, and assignments when hosts are dirty, until there is
// nothing more. Only one does at a time, and nobody else once the Hello is out.
func (ss *session) send() {
	ss.turn.Lock()
	defer ss.turn.Unlock()
	ctx := ss.stream.Context()
	for {
		m, dirty := ss.take()
		var err error
		switch {
		case dirty != nil:
			err = ss.assign(ctx, dirty)
		case m != nil:
			if err = ss.prepare(ctx, m); err == nil {
				err = ss.put(m)
			}
		default:
			return
		}
		if err != nil {
			ss.log().DebugContext(ctx, "send failed", "error", err)
			ss.end(vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "the stream broke")
			return
		}
	}
}

// take is what is to be sent next: a message, or hosts to be looked at. Neither:
// there is nothing more, and the next wake begins another goroutine, unless the
// session has ended.
func (ss *session) take() (*rackv1.ConnectResponse, map[string]bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.over():
		return nil, nil
	case len(ss.dirty) > 0:
		dirty := ss.dirty
		ss.dirty = nil
		return nil, dirty
	case len(ss.outbox) > 0:
		m := ss.outbox[0]
		ss.outbox[0] = nil
		ss.outbox = ss.outbox[1:]
		return m, nil
	default:
		ss.outbox = nil
		ss.sending = false
		return nil, nil
	}
}

// put sends a message and notes that the rack takes what it is sent.
func (ss *session) put(m *rackv1.ConnectResponse) error {
	err := ss.stream.Send(m)
	if err == nil {
		ss.taken.Store(time.Now().UnixNano())
	}
	return err
}

// sayFarewell tells the rack why its session ends, if it takes that in time.
func (ss *session) sayFarewell(ctx context.Context) {
	said := make(chan struct{})
	ss.server.workers.Go(func() { // ends when it is said or the stream breaks
		defer close(said)
		ss.turn.Lock() // whoever sends stops after the message that is under way
		defer ss.turn.Unlock()
		_ = ss.stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Disconnect{Disconnect: ss.reason}}) // the stream ends anyhow
	})
	late := time.NewTimer(farewell)
	defer late.Stop()
	select {
	case <-said:
	case <-late.C:
	case <-ctx.Done():
	}
}

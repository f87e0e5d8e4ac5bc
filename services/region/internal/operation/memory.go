package operation

import (
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
)

// drive is what this process remembers of an operation. Losing it costs a
// repeated message or an early retry, nothing else.
type drive struct {
	to        link   // where the last step was sent
	step      string // its id
	sent      time.Time
	retry     backoff.Backoff
	notBefore time.Time // no new attempt before
}

func (e *Engine) remember(uid string, fn func(d *drive)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.drives[uid]
	if d == nil {
		d = &drive{retry: backoff.Backoff{Min: e.cfg.RetryMin, Max: e.cfg.RetryMax}}
		e.drives[uid] = d
	}
	fn(d)
}

func (e *Engine) noteSent(uid string, to link, step string) {
	e.remember(uid, func(d *drive) { d.to, d.step, d.sent = to, step, time.Now() })
}

// resendIn is how long the step under way needs not be sent again: at once when
// this session has not had it, else when it has had it for long.
func (e *Engine) resendIn(uid string, to link, step string) (wait time.Duration) {
	e.remember(uid, func(d *drive) {
		if d.to == to && d.step == step {
			wait = e.cfg.FullPass - time.Since(d.sent)
		}
	})
	return wait
}

// retryIn is how long to wait before the next attempt.
func (e *Engine) retryIn(uid string) (wait time.Duration) {
	e.remember(uid, func(d *drive) { wait = time.Until(d.notBefore) })
	return wait
}

// postpone makes the next attempt wait, longer each time.
func (e *Engine) postpone(uid string) {
	e.remember(uid, func(d *drive) { d.notBefore = time.Now().Add(d.retry.Next()) })
}

// proceed makes the next step wait for nothing.
func (e *Engine) proceed(uid string) {
	e.remember(uid, func(d *drive) {
		d.notBefore = time.Time{}
		d.retry.Reset()
	})
}

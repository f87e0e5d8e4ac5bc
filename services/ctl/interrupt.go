package ctl

import (
	"context"
	"os"
	"sync"
)

// interrupts hands each Ctrl-C to whoever catches it, and otherwise aborts the
// run.
type interrupts struct {
	abort func()

	mu     sync.Mutex
	caught chan struct{} // nil while nobody catches
}

// watch receives interrupts until ctx ends.
func (i *interrupts) watch(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
			i.deliver()
		case <-ctx.Done():
			return
		}
	}
}

func (i *interrupts) deliver() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.caught == nil {
		i.abort()
		return
	}
	select {
	case i.caught <- struct{}{}:
	default: // two are enough to mean it
	}
}

// catch gives the interrupts from now on, until release is called.
func (i *interrupts) catch() (caught <-chan struct{}, release func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.caught = make(chan struct{}, 2)
	return i.caught, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.caught = nil
	}
}

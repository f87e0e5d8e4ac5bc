// Package turn lets one caller at a time work on a machine.
package turn

import (
	"context"
	"strings"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// Keyed are the machines that somebody is at work on. The zero value is ready to
// use.
type Keyed struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // by id, closed at the end of the work
}

// Lock waits for its turn, no longer than ctx, and answers how to end it.
func (k *Keyed) Lock(ctx context.Context, id, op string) (unlock func(), err error) {
	id = strings.ToLower(id)
	for {
		k.mu.Lock()
		busy, ok := k.busy[id]
		if !ok {
			if k.busy == nil {
				k.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.busy[id] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.busy, id)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: ctx.Err()}
		}
	}
}

package lifecycle

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
)

// PanicError is a panic that was turned into an error.
type PanicError struct {
	// Value is what was given to panic.
	Value any
	// Stack is the stack of the goroutine that panicked.
	Stack []byte
}

// Error says what was given to panic, and where.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Unwrap is the value given to panic, if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// guard runs a task and names it in its error.
func guard(ctx context.Context, t task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", t.name, err)
		}
	}()
	return t.run(ctx)
}

// names is a set of names that can be printed while it changes.
type names struct {
	mu  sync.Mutex
	set map[string]int
}

func newNames() *names { return &names{set: map[string]int{}} }

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set[name]++
}

func (n *names) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.set[name]--; n.set[name] == 0 {
		delete(n.set, name)
	}
}

// String lists the names in order.
func (n *names) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]string, 0, len(n.set))
	for name := range n.set {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

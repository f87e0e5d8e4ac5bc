package lxd

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// mostEnded is how many operations that have ended are remembered for who asks
// late: the event of an end may come before the answer that names the operation.
const mostEnded = 256

// operations are LXD's background work, as its events tell of it.
type operations struct {
	mu    sync.Mutex
	ended map[string]*lxdapi.Operation
	order []string
	// waiting is closed at the end of an operation.
	waiting map[string]chan struct{}
}

func newOperations() *operations {
	return &operations{ended: map[string]*lxdapi.Operation{}, waiting: map[string]chan struct{}{}}
}

func (o *operations) happened(op *lxdapi.Operation) {
	if !op.StatusCode.IsFinal() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended[op.ID] == nil {
		o.order = append(o.order, op.ID)
		if len(o.order) > mostEnded {
			delete(o.ended, o.order[0])
			o.order = o.order[1:]
		}
	}
	o.ended[op.ID] = &lxdapi.Operation{ID: op.ID, StatusCode: op.StatusCode, Status: op.Status, Err: op.Err}
	if w := o.waiting[op.ID]; w != nil {
		close(w)
		delete(o.waiting, op.ID)
	}
}

// end is how an operation ended, or what is closed when it does.
func (o *operations) end(id string) (*lxdapi.Operation, chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if op := o.ended[id]; op != nil {
		return op, nil
	}
	w := o.waiting[id]
	if w == nil {
		w = make(chan struct{})
		o.waiting[id] = w
	}
	return nil, w
}

func (o *operations) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.waiting, id)
}

// change sends a request that LXD works on in the background, or at once, and
// waits for its end.
func (d *Driver) change(ctx context.Context, op, method, path string, body any, etag string) error {
	resp, _, err := d.conn.query(ctx, op, method, path, body, etag)
	if err != nil {
		return err
	}
	if resp.Type != lxdapi.AsyncResponse {
		return nil
	}
	started, err := resp.MetadataAsOperation()
	if err != nil {
		return classify(op, lxdapi.NewStatusError(500, "LXD's operation cannot be read: "+err.Error()))
	}
	return d.await(ctx, op, started)
}

// await waits for the end of an operation: by its event, and by looking now and
// then.
func (d *Driver) await(ctx context.Context, op string, started *lxdapi.Operation) error {
	if started.StatusCode.IsFinal() {
		return ended(op, started)
	}
	defer d.operations.forget(started.ID)
	look := time.NewTicker(d.cfg.OperationInterval)
	defer look.Stop()
	for {
		end, wake := d.operations.end(started.ID)
		if end != nil {
			return ended(op, end)
		}
		select {
		case <-wake:
			continue
		case <-look.C:
		case <-d.conn.dead:
			return d.conn.gone(op)
		case <-ctx.Done():
			return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: ctx.Err()}
		}
		now, err := get[lxdapi.Operation](ctx, d.conn, op, d.operationPath(started.ID))
		switch {
		case errors.Is(err, hypervisor.ErrNotFound):
			// LXD forgets operations a few seconds after their end. How this one ended is
			// not known; whoever asked for it looks at what it was to change.
			return &hypervisor.Error{Op: op, Err: errors.New("LXD does not know its operation any more")}
		case err != nil:
			return err
		}
		d.operations.happened(&now)
	}
}

func (d *Driver) operationPath(id string) string { return "/1.0/operations/" + url.PathEscape(id) }

func ended(op string, o *lxdapi.Operation) error {
	if o.StatusCode == lxdapi.Success {
		return nil
	}
	return failed(op, firstOf(o.Err, o.Status, "LXD's operation failed"))
}

// settle waits for what LXD is already doing to an instance: a call that was left
// alone goes on there.
func (d *Driver) settle(ctx context.Context, op, name string) error {
	byState, err := get[map[string][]lxdapi.Operation](ctx, d.conn, op, d.in("/1.0/operations", "recursion", "1"))
	if err != nil {
		return err
	}
	for _, list := range byState {
		for _, o := range list {
			if o.StatusCode.IsFinal() || o.Class != "task" || !concerns(o.Resources, name) {
				continue
			}
			// How it ends is not our concern: what is there is looked at again.
			if err := d.await(ctx, op, &o); unknown(err) {
				return err
			}
		}
	}
	return nil
}

func concerns(resources map[string][]string, name string) bool {
	for _, list := range resources {
		if slices.ContainsFunc(list, func(path string) bool {
			return strings.Contains(path, "/instances/") && lastOf(path) == name
		}) {
			return true
		}
	}
	return false
}

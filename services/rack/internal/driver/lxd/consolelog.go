package lxd

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	opLog = "read console log"
	// mostLog bounds what is read of a log.
	mostLog = 4 << 20
	// keptLog is how much of the log of a running instance is kept.
	keptLog = 256 << 10
	// mostLogs is for how many instances.
	mostLogs = 64
)

// logs are the ends of the console logs of running containers. LXD answers what
// was written since it was last asked, and forgets it; the whole is there only
// when the container is off.
type logs struct {
	mu    sync.Mutex
	ends  map[string][]byte
	order []string
}

func newLogs() *logs { return &logs{ends: map[string][]byte{}} }

// add keeps what is new of a log and answers what is known of it.
func (l *logs) add(id string, fresh []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.ends[id]; !known {
		if l.order = append(l.order, id); len(l.order) > mostLogs {
			delete(l.ends, l.order[0])
			l.order = l.order[1:]
		}
	}
	l.ends[id] = end(bytes.Join([][]byte{l.ends[id], fresh}, nil), keptLog)
	return l.ends[id]
}

// end is the last so many bytes.
func end(text []byte, most int64) []byte {
	if int64(len(text)) > most {
		return text[int64(len(text))-most:]
	}
	return text
}

// merge joins what was kept of a log with what LXD shows of it when the instance
// is off: that is the whole, or only what was not asked for before.
func merge(kept, whole []byte) []byte {
	switch {
	case bytes.Contains(whole, kept):
		return whole
	case bytes.HasSuffix(kept, whole):
		return kept
	}
	return bytes.Join([][]byte{kept, whole}, nil)
}

// ConsoleLog reads the end of what LXD keeps of a container's console. Of virtual
// machines, LXD 5.0 keeps none.
func (d *Driver) ConsoleLog(ctx context.Context, ref hypervisor.Ref, tail int64) (io.ReadCloser, error) {
	i, err := d.mine(ctx, ref, opLog)
	if err != nil {
		return nil, err
	}
	if err := d.conn.ready(ctx, opLog); err != nil {
		return nil, err
	}
	text, err := d.readLog(ctx, i)
	switch _, answered := lxdapi.StatusErrorMatch(err); {
	case err == nil:
	case answered && i.Type == typeVM:
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opLog, Err: valid(err)}
	case lxdapi.StatusErrorCheck(err, http.StatusInternalServerError, http.StatusNotFound):
		// LXD's way to say that nothing was written since.
		text = nil
	default:
		return nil, d.conn.refused(ctx, opLog, err)
	}
	if i.running() {
		text = d.logs.add(i.uuid, text)
	} else {
		text = merge(d.logs.add(i.uuid, nil), text)
	}
	return io.NopCloser(bytes.NewReader(end(text, max(tail, 0)))), nil
}

func (d *Driver) readLog(ctx context.Context, i *instance) ([]byte, error) {
	body, err := d.conn.api.stream(ctx, d.instancePath(i.Name, "/console"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(io.LimitReader(body, mostLog))
}

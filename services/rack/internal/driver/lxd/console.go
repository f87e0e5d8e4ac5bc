package lxd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/canonical/lxd/shared/ws"
	"github.com/gorilla/websocket"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	opConsole = "open console"
	// consoleColumns and consoleRows are what a guest is told of the terminal.
	consoleColumns, consoleRows = 80, 24
	// endTime is how long LXD may take to be done with a console.
	endTime = 3 * time.Second
	// goodBye is how long the end of a console may take to be said.
	goodBye = time.Second
	// between the ends of a console's two sockets. LXD says good-bye on the first
	// when the second ends, and LXD 5.0 dies when the guest writes at that moment; a
	// socket that is closed cannot be written to.
	between = 100 * time.Millisecond
)

// consoles are those that are open through this driver.
type consoles struct {
	mu   sync.Mutex
	open map[string]*console // by uuid
	// operations are LXD's, of all consoles that were opened here: one that was
	// closed may be listed by LXD for a moment.
	operations map[string]bool
	// ending are the operations of those that were closed last, by uuid.
	ending map[string]*lxdapi.Operation
}

func newConsoles() *consoles {
	return &consoles{open: map[string]*console{}, operations: map[string]bool{}, ending: map[string]*lxdapi.Operation{}}
}

// OpenConsole opens the serial console of a running machine of ours. LXD lets
// several in at once and gives each a part of what the guest writes, so whoever
// is there is looked for.
func (d *Driver) OpenConsole(ctx context.Context, ref hypervisor.Ref, force bool) (io.ReadWriteCloser, error) {
	i, err := d.mine(ctx, ref, opConsole)
	if err != nil {
		return nil, err
	}
	if !i.running() {
		return nil, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: opConsole, Err: errors.New("the machine is off"), Hint: "start it"}
	}
	if err := d.freeConsole(ctx, i, force); err != nil {
		return nil, err
	}
	resp, _, err := d.conn.query(ctx, opConsole, http.MethodPost, d.instancePath(i.Name, "/console"), lxdapi.InstanceConsolePost{
		Width: consoleColumns, Height: consoleRows, Type: "console",
	}, "")
	if err != nil {
		return nil, err
	}
	started, err := resp.MetadataAsOperation()
	if err != nil {
		return nil, classify(opConsole, lxdapi.NewStatusError(http.StatusInternalServerError, "LXD's operation cannot be read: "+err.Error()))
	}
	fds, _ := started.Metadata["fds"].(map[string]any)
	data, _ := fds["0"].(string)
	control, _ := fds[lxdapi.SecretNameControl].(string)
	c := &console{driver: d, uuid: i.uuid, operation: started}
	if c.data, err = d.operationSocket(ctx, started.ID, data); err != nil {
		return nil, err
	}
	if c.control, err = d.operationSocket(ctx, started.ID, control); err != nil {
		_ = c.data.NetConn().Close()
		return nil, err
	}
	c.ReadWriteCloser = ws.NewWrapper(c.data)
	d.consoles.mu.Lock()
	d.consoles.open[i.uuid], d.consoles.operations[started.ID] = c, true
	d.consoles.mu.Unlock()
	// The server closes the control socket with the console, and pings on it.
	d.wg.Go(func() {
		for {
			if _, _, err := c.control.NextReader(); err != nil {
				return
			}
		}
	})
	return c, nil
}

func (d *Driver) operationSocket(ctx context.Context, id, secret string) (*websocket.Conn, error) {
	conn, err := d.conn.api.websocket(ctx, d.operationPath(id)+"/websocket?"+url.Values{"secret": {secret}}.Encode())
	if err != nil {
		return nil, d.conn.refused(ctx, opConsole, err)
	}
	return conn, nil
}

// freeConsole makes sure that nobody has the console, or ends what is ours of it
// when it is taken by force. Of others', LXD ends none: they go on beside.
func (d *Driver) freeConsole(ctx context.Context, i *instance, force bool) error {
	d.consoles.mu.Lock()
	mine := d.consoles.open[i.uuid]
	d.consoles.mu.Unlock()
	if force {
		d.endConsole(ctx, i.uuid)
		return nil
	}
	taken := mine != nil
	if !taken {
		byState, err := get[map[string][]lxdapi.Operation](ctx, d.conn, opConsole, d.in("/1.0/operations", "recursion", "1"))
		if err != nil {
			return err
		}
		running := map[string]bool{}
		d.consoles.mu.Lock()
		for _, list := range byState {
			for _, o := range list {
				running[o.ID] = true
				taken = taken || (o.Class == "websocket" && o.Description == "Showing console" && !o.StatusCode.IsFinal() &&
					concerns(o.Resources, i.Name) && !d.consoles.operations[o.ID])
			}
		}
		for id := range d.consoles.operations {
			if !running[id] {
				delete(d.consoles.operations, id)
			}
		}
		d.consoles.mu.Unlock()
	}
	if !taken {
		d.endConsole(ctx, i.uuid)
		return nil
	}
	return &hypervisor.Error{
		Class: hypervisor.ErrBusy, Op: opConsole, Err: fmt.Errorf("somebody has the console of instance %q open", i.Name), Hint: "take it over with force",
	}
}

// console is an open console.
type console struct {
	io.ReadWriteCloser
	driver  *Driver
	uuid    string
	data    *websocket.Conn
	control *websocket.Conn
	once    sync.Once

	operation *lxdapi.Operation
}

// Read answers io.EOF when the machine has stopped or the console was closed.
func (c *console) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if c.driver.conn.isDead() {
		return n, c.driver.conn.gone("read console")
	}
	// LXD ends the socket of a machine that has stopped without a word.
	return n, io.EOF
}

// Close ends the console and never waits for the server.
func (c *console) Close() error {
	c.once.Do(func() {
		c.driver.consoles.mu.Lock()
		if c.driver.consoles.open[c.uuid] == c {
			delete(c.driver.consoles.open, c.uuid)
			c.driver.consoles.ending[c.uuid] = c.operation
		}
		c.driver.consoles.mu.Unlock()
		hangUp(c.data)
		time.AfterFunc(between, func() { hangUp(c.control) })
	})
	return nil
}

func hangUp(s *websocket.Conn) {
	deadline := time.Now().Add(goodBye)
	_ = s.NetConn().SetWriteDeadline(deadline)
	_ = s.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
	_ = s.NetConn().Close()
}

// endConsole ends the console of an instance, if one is open here, and waits for
// LXD to be done with it: a container has one console, and LXD gives it to nobody
// else before. It is called before an instance is stopped, too: LXD 5.0 says the
// end of a console twice at once when its instance stops, which now and then ends
// LXD itself ("concurrent write to websocket connection").
func (d *Driver) endConsole(ctx context.Context, id string) {
	d.consoles.mu.Lock()
	c := d.consoles.open[id]
	d.consoles.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
	d.consoles.mu.Lock()
	ending := d.consoles.ending[id]
	delete(d.consoles.ending, id)
	d.consoles.mu.Unlock()
	if ending == nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if err := d.await(wait, "end console", ending); err != nil {
		d.log.DebugContext(ctx, "the console did not end as it should", "error", err)
	}
}

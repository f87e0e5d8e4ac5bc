package hypervisortest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// Proxy stands between a driver and a real server, to lose connections and to
// hang as the server would.
type Proxy struct {
	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool
	stopped  chan struct{} // closed while traffic flows
}

// NewProxy begins one to a network and address, until the end of the test.
func NewProxy(t testing.TB, network, to string) *Proxy {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "vmhost")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		at = filepath.Join(dir, "sock")
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, at)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, conns: map[net.Conn]bool{}, stopped: make(chan struct{})}
	close(p.stopped)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(context.WithoutCancel(t.Context()), network, to)
			if err != nil {
				_ = conn.Close()
				continue
			}
			p.mu.Lock()
			p.conns[conn], p.conns[server] = true, true
			p.mu.Unlock()
			wg.Go(func() { p.copy(server, conn) })
			wg.Go(func() { p.copy(conn, server) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.Flow()
		p.Drop()
		wg.Wait()
	})
	return p
}

// At is where it listens: a path, or a host and port.
func (p *Proxy) At() string { return p.listener.Addr().String() }

func (p *Proxy) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		flows := p.stopped
		p.mu.Unlock()
		<-flows
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

// Drop loses all connections.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Hang stops all traffic until Flow.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = make(chan struct{})
}

// Flow lets traffic on again.
func (p *Proxy) Flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stopped:
	default:
		close(p.stopped)
	}
}

// Address is an address with the proxy in place of its host and port.
func (p *Proxy) Address(a hypervisor.Address) hypervisor.Address {
	tcp := p.listener.Addr().(*net.TCPAddr)
	a.Host, a.Port = tcp.IP.String(), tcp.Port
	return a
}

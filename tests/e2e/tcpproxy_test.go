package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
)

// tcpProxy passes connections on to one server, until it is turned to another.
type tcpProxy struct {
	addr string

	mu    sync.Mutex
	to    string
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newTCPProxy(t *testing.T, to string) *tcpProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tcpProxy{addr: l.Addr().String(), to: to, conns: map[net.Conn]struct{}{}}
	p.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.pass(in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.turn("127.0.0.1:0")
		p.wg.Wait()
	})
	return p
}

func (p *tcpProxy) pass(in net.Conn) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	p.mu.Lock()
	turned := p.to != to
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	p.mu.Unlock()
	if turned {
		_ = in.Close()
		_ = out.Close()
	}
	p.wg.Go(func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	})
	_, _ = io.Copy(in, out)
}

// turn ends all connections; new ones go to another server.
func (p *tcpProxy) turn(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

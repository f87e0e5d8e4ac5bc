package component

import (
	"io"
	"net"
	"sync"
	"testing"
)

// line is the way from a rack to a region, which a test can cut and lead
// elsewhere.
type line struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	to    string // empty: cut
	conns map[net.Conn]struct{}
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &line{l: l, to: to, conns: map[net.Conn]struct{}{}}
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
		p.lead("")
		p.wg.Wait()
	})
	return p
}

// address is what the rack dials.
func (p *line) address() string { return p.l.Addr().String() }

// lead ends what is connected, and connects what comes to an address; to none
// when it is empty.
func (p *line) lead(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *line) pass(in net.Conn) {
	defer in.Close()
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	if to == "" {
		return
	}
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	p.mu.Lock()
	if p.to != to {
		p.mu.Unlock()
		return
	}
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	p.mu.Unlock()
	p.wg.Go(func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	})
	_, _ = io.Copy(in, out)
}

package libvirt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A message of libvirt starts with its length, which counts the four bytes of
// itself and a header of 24. VIR_NET_MESSAGE_MAX is 32 MiB.
const (
	messageMin = 28
	messageMax = 64 << 20
)

// guardedConn is the net.Conn that go-libvirt reads. It looks at the length of
// every message, since go-libvirt allocates whatever a peer announces and panics
// on less than a header; it says when the connection is lost, and why; and it
// never answers a net.OpError, since go-libvirt reads on for ever after one that
// calls itself temporary, as a TCP time-out does.
type guardedConn struct {
	net.Conn
	closeAll func() error

	once     sync.Once
	closeErr error
	read     atomic.Int64
	failed   atomic.Pointer[func(error)]

	// Only the one reader uses these.
	length [4]byte
	have   int // bytes of length seen
	left   int // bytes of the message still to come
}

// guard wraps conn. closeAll, if given, closes conn and what is below it without
// waiting for the peer.
func guard(conn net.Conn, closeAll func() error) *guardedConn {
	if closeAll == nil {
		closeAll = conn.Close
	}
	return &guardedConn{Conn: conn, closeAll: closeAll}
}

func (g *guardedConn) onError(fn func(error)) { g.failed.Store(&fn) }

func (g *guardedConn) lastRead() time.Time { return time.Unix(0, g.read.Load()) }

// Read is that of the connection, guarded.
func (g *guardedConn) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		g.read.Store(time.Now().UnixNano())
		if bad := g.follow(p[:n]); bad != nil {
			_ = g.Close()
			n, err = 0, bad
		}
	}
	if err != nil {
		err = errors.New("read from libvirt: " + err.Error())
		g.lost(err)
	}
	return n, err
}

// Write is that of the connection.
func (g *guardedConn) Write(p []byte) (int, error) {
	n, err := g.Conn.Write(p)
	if err != nil {
		err = errors.New("write to libvirt: " + err.Error())
		g.lost(err)
	}
	return n, err
}

func (g *guardedConn) lost(err error) {
	if fn := g.failed.Load(); fn != nil {
		(*fn)(err)
	}
}

// follow keeps count of messages.
func (g *guardedConn) follow(p []byte) error {
	for len(p) > 0 {
		if g.left > 0 {
			n := min(g.left, len(p))
			g.left -= n
			p = p[n:]
			continue
		}
		g.length[g.have] = p[0]
		g.have++
		p = p[1:]
		if g.have < len(g.length) {
			continue
		}
		g.have = 0
		size := binary.BigEndian.Uint32(g.length[:])
		if size < messageMin || size > messageMax {
			return fmt.Errorf("the peer does not speak libvirt's protocol: a message of %d bytes", size)
		}
		g.left = int(size) - len(g.length)
	}
	return nil
}

// Close closes once, and everything below.
func (g *guardedConn) Close() error {
	g.once.Do(func() { g.closeErr = g.closeAll() })
	return g.closeErr
}

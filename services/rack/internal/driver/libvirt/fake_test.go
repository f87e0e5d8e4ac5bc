package libvirt

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Procedures of libvirt's remote protocol that the fake server knows.
const (
	procConnectOpen    = 1
	procAuthList       = 66
	procGetLibVersion  = 157
	procGetHostname    = 59
	procRegisterEvents = 316
	statusError        = 1
)

// procedureAt is where a packet says its procedure, as typeAt; typeCall is the type
// of those that ask.
const procedureAt, typeCall = 8, 0

// fakeLibvirtd speaks just enough of libvirt's protocol to be connected to, and
// can stop answering. What it does is fixed; behaviour is tested against the real
// one.
type fakeLibvirtd struct {
	t        testing.TB
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	mute   map[uint32]bool   // procedures that are not answered
	silent bool              // nothing is answered
	raw    map[uint32][]byte // answers to send as they are
	fail   map[uint32]uint32 // procedures that are answered with an error number
}

func newFakeLibvirtd(t testing.TB) *fakeLibvirtd {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmhost")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeLibvirtd{
		t: t, listener: l, conns: map[net.Conn]bool{}, mute: map[uint32]bool{}, raw: map[uint32][]byte{}, fail: map[uint32]uint32{},
	}
	f.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(f.stop)
	return f
}

func (f *fakeLibvirtd) path() string { return f.listener.Addr().String() }

func (f *fakeLibvirtd) stop() {
	_ = f.listener.Close()
	f.mu.Lock()
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fakeLibvirtd) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeLibvirtd) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

func (f *fakeLibvirtd) serve(conn net.Conn) {
	f.set(func() { f.conns[conn] = true })
	defer func() {
		f.set(func() { delete(f.conns, conn) })
		_ = conn.Close()
	}()
	for {
		packet, err := readPacket(conn)
		if err != nil {
			return
		}
		proc := binary.BigEndian.Uint32(packet[procedureAt:])
		f.mu.Lock()
		quiet, raw, failure := f.silent || f.mute[proc], f.raw[proc], f.fail[proc]
		f.mu.Unlock()
		switch {
		case quiet:
			continue
		case raw != nil:
			_, _ = conn.Write(raw)
			continue
		}
		status, payload := uint32(0), answer(proc)
		if failure != 0 || payload == nil {
			status, payload = statusError, failureOf(max(failure, 3), "fake: \xff no")
		}
		if _, err := conn.Write(reply(packet, status, payload)); err != nil {
			return
		}
	}
}

// readPacket is the next packet, without its length.
func readPacket(conn net.Conn) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	packet := make([]byte, binary.BigEndian.Uint32(length[:])-4)
	_, err := io.ReadFull(conn, packet)
	return packet, err
}

// reply is the answer to a call, which is given without its length.
func reply(call []byte, status uint32, payload []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(28+len(payload)))
	out = append(out, call[:12]...) // program, version, procedure
	out = append(out, words32(typeReply, binary.BigEndian.Uint32(call[serialAt:]), status)...)
	return append(out, payload...)
}

func words32(v ...uint32) []byte {
	var out []byte
	for _, w := range v {
		out = binary.BigEndian.AppendUint32(out, w)
	}
	return out
}

func text(s string) []byte {
	out := append(words32(uint32(len(s))), s...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

// answer is nil for what the fake server does not know.
func answer(proc uint32) []byte {
	switch proc {
	case procConnectOpen:
		return []byte{}
	case procAuthList:
		return words32(1, 0)
	case procGetLibVersion:
		return words32(0, 9_000_000)
	case procGetHostname:
		return text("fake")
	case procRegisterEvents:
		return words32(1)
	}
	return nil
}

func failureOf(code uint32, message string) []byte {
	out := append(words32(code, 0, 1), text(message)...)
	return append(out, words32(2)...)
}

// eventually waits for a condition without a fixed sleep.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

package libvirt

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	lv "github.com/digitalocean/go-libvirt"
)

// changes are the procedures of libvirt's remote protocol by which something is
// changed: https://gitlab.com/libvirt/libvirt/-/blob/v9.0.0/src/remote/remote_protocol.x
var changes = map[uint32]string{
	28: "resume domain", 29: "set autostart", 93: "create volume", 94: "delete volume", 164: "abort job", 196: "start domain", 208: "upload volume",
	231: "undefine domain", 234: "destroy domain", 258: "shut down domain", 264: "set metadata", 291: "update network",
	302: "begin migration", 303: "prepare migration", procPerform: "perform migration", 306: "finish migration", 307: "confirm migration",
	350: "define domain",
}

const procPerform = 305

// fault is what happens at the n-th change that a rack asks libvirt for: libvirt
// makes it, and the rack ends before it learns of that; or libvirt refuses it.
type fault struct {
	n       int
	refused bool
	// migrating says whether a migration is under way. For a rack that ends this is a
	// change as well: the one before the migration is through.
	migrating func() (bool, error)
	wg        sync.WaitGroup

	mu    sync.Mutex
	asked []string
	conns []net.Conn
}

// changes are those that were asked for so far, and whether the n-th was among them.
func (f *fault) changes() (asked []string, came bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked), len(f.asked) >= f.n
}

// next counts a change, and says whether it is the n-th.
func (f *fault) next(change string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over() {
		return false // at the same time as the last one
	}
	f.asked = append(f.asked, change)
	if len(f.asked) != f.n {
		return false
	}
	if !f.refused {
		f.end()
	}
	return true
}

// over says whether the rack has ended; called with mu held.
func (f *fault) over() bool { return !f.refused && len(f.asked) >= f.n }

// end ends all connections; called with mu held.
func (f *fault) end() {
	for _, c := range f.conns {
		_ = c.Close()
	}
}

// through is a socket that leads to libvirtd's as long as the rack lives.
func (f *fault) through(t *testing.T, socket string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmhost")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			rack, err := listener.Accept()
			if err != nil {
				return
			}
			libvirtd, err := net.Dial("unix", socket)
			if err != nil {
				_ = rack.Close()
				continue
			}
			f.lead(rack, libvirtd)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
		f.mu.Lock()
		f.end()
		f.mu.Unlock()
		f.wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return listener.Addr().String()
}

func (f *fault) lead(rack, libvirtd net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns = append(f.conns, rack, libvirtd); f.over() {
		f.end()
	}
	var mu sync.Mutex
	made := map[uint32]func(){} // by serial: counts the change when it was made
	f.wg.Go(func() {
		relay(libvirtd, rack, func(packet []byte) (refusal []byte) {
			procedure, serial := binary.BigEndian.Uint32(packet[procedureAt:]), binary.BigEndian.Uint32(packet[serialAt:])
			change := changes[procedure]
			switch {
			case change == "" || binary.BigEndian.Uint32(packet[typeAt:]) != typeCall:
			case f.refused && f.next(change):
				return reply(packet, statusError, failureOf(uint32(lv.ErrOperationFailed), "made up"))
			case f.refused:
			default:
				mu.Lock()
				defer mu.Unlock()
				made[serial] = func() { f.next(change) }
				if procedure == procPerform {
					made[serial] = f.performs(change)
				}
			}
			return nil
		})
	})
	f.wg.Go(func() {
		relay(rack, libvirtd, func(packet []byte) []byte {
			if binary.BigEndian.Uint32(packet[typeAt:]) == typeReply {
				mu.Lock()
				count := made[binary.BigEndian.Uint32(packet[serialAt:])]
				mu.Unlock()
				if count != nil {
					count()
				}
			}
			return nil
		})
	})
}

// performs counts a migration while it is under way, and again when it is through.
func (f *fault) performs(change string) (through func()) {
	answered, counted := make(chan struct{}), make(chan struct{})
	f.wg.Go(func() {
		defer close(counted)
		for {
			under, err := f.migrating()
			if under {
				f.next("migration under way")
			}
			if _, came := f.changes(); under || came || err != nil {
				return
			}
			select {
			case <-answered:
				return
			default:
			}
		}
	})
	return func() {
		close(answered)
		<-counted
		f.next(change)
	}
}

// relay hands on packets, unless they are refused, until either side ends.
func relay(to, from net.Conn, look func(packet []byte) (refusal []byte)) {
	defer func() { _, _ = to.Close(), from.Close() }()
	for {
		packet, err := readPacket(from)
		if err != nil {
			return
		}
		if refusal := look(packet); refusal != nil {
			_, err = from.Write(refusal)
		} else {
			_, err = to.Write(append(words32(uint32(len(packet)+4)), packet...))
		}
		if err != nil {
			return
		}
	}
}

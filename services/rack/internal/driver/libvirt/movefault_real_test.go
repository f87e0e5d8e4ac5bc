package libvirt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// changes are the procedures of libvirt's remote protocol by which a move changes
// something: https://gitlab.com/libvirt/libvirt/-/blob/v9.0.0/src/remote/remote_protocol.x
var changes = map[uint32]string{
	28: "resume domain", 29: "set autostart", 93: "create volume", 94: "delete volume", 164: "abort job", 196: "start domain", 208: "upload volume",
	231: "undefine domain", 234: "destroy domain", 258: "shut down domain", 264: "set metadata", 291: "update network",
	302: "begin migration", 303: "prepare migration", procPerform: "perform migration", 306: "finish migration", 307: "confirm migration",
	350: "define domain",
}

const procPerform = 305

// life is that of a rack between its connections to libvirt. It ends when libvirt
// has made its n-th change, before the rack learns of it.
type life struct {
	n int
	// migrating says whether a migration is under way. It is a change that is never
	// answered: the one before the migration is through.
	migrating func() bool
	wg        sync.WaitGroup

	mu    sync.Mutex
	made  []string
	conns []net.Conn
}

// changed is what libvirt has changed so far, and whether the rack's life has ended.
func (l *life) changed() (made []string, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.made), len(l.made) >= l.n
}

func (l *life) did(change string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.made) >= l.n {
		return // at the same time as the last one
	}
	if l.made = append(l.made, change); len(l.made) == l.n {
		l.endLocked()
	}
}

func (l *life) endLocked() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// through is a socket that leads to libvirtd's as long as the rack lives.
func (l *life) through(t *testing.T, socket string) string {
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
			l.lead(rack, libvirtd)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
		l.mu.Lock()
		l.endLocked()
		l.mu.Unlock()
		l.wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return listener.Addr().String()
}

func (l *life) lead(rack, libvirtd net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, rack, libvirtd)
	if len(l.made) >= l.n {
		l.endLocked()
	}
	var mu sync.Mutex
	asked := map[uint32]func(){} // by serial: counts the change when it is answered
	l.wg.Go(func() {
		relay(libvirtd, rack, func(proc, kind, serial uint32) {
			name, change := changes[proc]
			if !change || kind != typeCall {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			asked[serial] = func() { l.did(name) }
			if proc == procPerform {
				asked[serial] = l.performs(name)
			}
		})
	})
	l.wg.Go(func() {
		relay(rack, libvirtd, func(_, kind, serial uint32) {
			mu.Lock()
			count := asked[serial]
			if kind == typeReply {
				delete(asked, serial)
			}
			mu.Unlock()
			if count != nil && kind == typeReply {
				count()
			}
		})
	})
}

// performs counts a migration while it is under way, and again when it is through.
func (l *life) performs(name string) (through func()) {
	answered, counted := make(chan struct{}), make(chan struct{})
	l.wg.Go(func() {
		defer close(counted)
		for !l.migrating() {
			select {
			case <-answered:
				return
			default:
			}
		}
		l.did("migration under way")
	})
	return func() {
		close(answered)
		<-counted
		l.did(name)
	}
}

const typeCall = 0 // of a packet; see typeReply

// relay hands on packets and shows each before it does, until either side ends.
func relay(to, from net.Conn, see func(proc, kind, serial uint32)) {
	defer func() { _, _ = to.Close(), from.Close() }()
	for {
		head := make([]byte, 24) // length, program, version, procedure, type, serial
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		see(binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:]), binary.BigEndian.Uint32(head[20:]))
		if _, err := to.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(to, from, int64(binary.BigEndian.Uint32(head)-24)); err != nil {
			return
		}
	}
}

// P3: a rack may end after anything that it has changed. Whatever the next one finds,
// it ends the move, the machine never runs twice, and what was written is there.
func TestRealMoveThatDiesAtAnyPointGoesOn_P3(t *testing.T) {
	devhostNamed(t, "H2")
	for name, test := range map[string]struct {
		set func(*rackv1.MoveMachine)
		// from is the first change: those before it are the same as of a machine that is off.
		from int
	}{
		"off":     {func(*rackv1.MoveMachine) {}, 1},
		"stopped": {func(m *rackv1.MoveMachine) { m.AllowOffline, m.Autostart = true, true }, 7},
		"live":    {func(m *rackv1.MoveMachine) { m.Live, m.Autostart = true, true }, 7},
	} {
		t.Run(name, func(t *testing.T) {
			all := endsAfter(t, math.MaxInt, test.set)
			for n := test.from; n <= len(all); n++ {
				t.Run(fmt.Sprintf("after change %d, %s", n, all[n-1]), func(t *testing.T) {
					t.Parallel()
					if made := endsAfter(t, n, test.set); len(made) < n {
						t.Errorf("it changed %q", made)
					}
				})
			}
		})
	}
}

// endsAfter has the rack end after its n-th change, and the next one go on. It
// answers what the first one changed.
func endsAfter(t *testing.T, n int, set func(*rackv1.MoveMachine)) (made []string) {
	t.Helper()
	s := shares(t)
	what := s.machine(t, true, false)
	uid := what.GetMachine().GetUid()
	set(what)
	dom, state := s.rawFrom.domain(t, uid), poweredOff
	if what.GetAllowOffline() || what.GetLive() {
		state = poweredOn
		if err := s.rawFrom.DomainSetAutostart(dom, 1); err != nil {
			t.Fatal(err)
		}
		mustPower(t, s.from, uid, rackv1.PowerAction_POWER_ACTION_START)
	}
	l := &life{n: n, migrating: func() bool {
		kind, _, _, _, _, _, _, _, _, _, _, _, err := s.rawFrom.DomainGetJobInfo(dom) //nolint:dogsled // as libvirt answers
		return err == nil && kind != int32(lv.DomainJobNone)
	}}
	o := NewOpener(Config{LocalSockets: map[string]string{
		"h1": l.through(t, devhostNamed(t, "H1").socket), "h2": l.through(t, devhostNamed(t, "H2").socket),
	}})
	_, err := openTarget(t, o, s.from.target).Move(timeout(t, time.Minute), openTarget(t, o, s.to.target), what, "operations/1")
	made, ended := l.changed()
	if ended == (err == nil) {
		t.Fatalf("libvirt changed %q, and the move ended with %v", made, err)
	}
	s.once(t, what)
	ctx := timeout(t, time.Minute)
	for err != nil {
		_, err = s.from.Move(ctx, s.to, what, "operations/1")
		if err != nil && (!errors.Is(err, hypervisor.ErrBusy) || ctx.Err() != nil) {
			t.Fatalf("after %q: %v", made, err)
		}
	}
	s.arrived(t, what, state)
	s.intact(t)
	_, marked := marks(t, devhostNamed(t, "H1"), devhostNamed(t, "H2"))
	marked(t, what.GetMoved())
	return made
}

// once fails the test when the machine runs on both hosts, or a disk that stays is
// not what it was.
func (s *sharing) once(t *testing.T, what *rackv1.MoveMachine) {
	t.Helper()
	running := 0
	for _, d := range []*Driver{s.from, s.to} {
		got, err := d.Machine(timeout(t, time.Minute), what.GetMachine().GetUid())
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			t.Fatal(err)
		}
		if got.GetPowerState() == poweredOn {
			running++
		}
	}
	if running > 1 {
		t.Fatal("it runs on both hosts")
	}
	for volume, was := range s.files {
		if file, err := os.Stat(filepath.Join(s.folder, volume)); err != nil || !os.SameFile(was, file) {
			t.Fatalf("volume %s is not what it was: %v", volume, err)
		}
	}
}

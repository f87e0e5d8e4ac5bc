package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
	"unicode/utf8"

	lv "github.com/digitalocean/go-libvirt"
	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

func local(t testing.TB, f *fakeLibvirtd, cfg Config) (*Opener, hypervisor.Target) {
	t.Helper()
	cfg.LocalSockets = map[string]string{"": f.path()}
	return NewOpener(cfg), hypervisor.Target{Address: mustParse(t, "qemu:///system")}
}

func TestACallThatTimesOutEndsTheConnection(t *testing.T) {
	f := newFakeLibvirtd(t)
	o, target := local(t, f, Config{})
	d := openTarget(t, o, target)
	f.set(func() { f.mute[procGetHostname] = true })
	hostname := func(ctx context.Context) error {
		_, err := call(ctx, d.conn, "read the host's name", fast, func(a api) (string, error) { return a.ConnectGetHostname() })
		return err
	}
	began := time.Now()
	err := hostname(timeout(t, 100*time.Millisecond))
	wantClass(t, err, hypervisor.ErrTimeout)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	_, err = d.Machines(t.Context())
	wantClass(t, err, hypervisor.ErrUnreachable)
	if rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE != hypervisor.Class(err) || err.Error() == "" {
		t.Errorf("error %v", err)
	}
	eventually(t, "the server sees the connection closed", func() bool { return f.open() == 0 })
}

func TestACallThatIsCancelledLeavesTheConnectionAlone(t *testing.T) {
	f := newFakeLibvirtd(t)
	o, target := local(t, f, Config{})
	d := openTarget(t, o, target)
	f.set(func() { f.mute[procGetHostname] = true })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := call(ctx, d.conn, "read the host's name", fast, func(a api) (string, error) { return a.ConnectGetHostname() })
	wantClass(t, err, hypervisor.ErrTimeout)
	if _, err := d.conn.version(timeout(t, 5*time.Second)); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestMoreCallsThanLibvirtdReadsWaitWithTheirContexts(t *testing.T) {
	f := newFakeLibvirtd(t)
	o, target := local(t, f, Config{})
	d := openTarget(t, o, target)
	f.set(func() { f.mute[procGetHostname] = true })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, callsAtOnce)
	for range callsAtOnce {
		go func() {
			_, err := call(ctx, d.conn, "read the host's name", fast, func(a api) (string, error) { return a.ConnectGetHostname() })
			done <- err
		}()
	}
	eventually(t, "all slots are taken", func() bool { return len(d.conn.slots) == callsAtOnce })
	_, err := d.conn.version(timeout(t, 50*time.Millisecond))
	wantClass(t, err, hypervisor.ErrTimeout)
	select {
	case <-d.conn.dead:
		t.Error("a call that was never sent ended the connection")
	default:
	}
	cancel()
	for range callsAtOnce {
		wantClass(t, <-done, hypervisor.ErrTimeout)
	}
}

func TestAServerThatNeverAnswersIsUnreachable(t *testing.T) {
	for _, proc := range []uint32{procAuthList, procConnectOpen, procRegisterEvents} {
		t.Run(fmt.Sprint(proc), func(t *testing.T) {
			f := newFakeLibvirtd(t)
			f.set(func() { f.mute[proc] = true })
			o, target := local(t, f, Config{DialTimeout: 100 * time.Millisecond})
			began := time.Now()
			_, err := o.Open(t.Context(), target)
			if err == nil || time.Since(began) > 2*time.Second {
				t.Fatalf("error %v after %v", err, time.Since(began))
			}
			if !errors.Is(err, hypervisor.ErrUnreachable) && !errors.Is(err, hypervisor.ErrTimeout) {
				t.Errorf("error %v", err)
			}
			eventually(t, "the connection is closed", func() bool { return f.open() == 0 })
		})
	}
}

func TestAPeerThatGoesSilentIsNoticedAndEventsEnd(t *testing.T) {
	f := newFakeLibvirtd(t)
	o, target := local(t, f, Config{PingInterval: 20 * time.Millisecond, PingTimeout: 100 * time.Millisecond})
	d := openTarget(t, o, target)
	events, err := d.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.set(func() { f.silent = true })
	select {
	case _, open := <-events:
		if open {
			t.Error("an event of a server that says nothing")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a silent server was not noticed")
	}
	_, err = d.Events(t.Context())
	wantClass(t, err, hypervisor.ErrUnreachable)
}

func TestCloseNeverWaits(t *testing.T) {
	f := newFakeLibvirtd(t)
	o, target := local(t, f, Config{})
	d := openTarget(t, o, target)
	f.set(func() { f.silent = true })
	waiting := make(chan error, 1)
	go func() { _, err := d.conn.version(context.WithoutCancel(t.Context())); waiting <- err }()
	eventually(t, "a call waits", func() bool { return len(d.conn.slots) == 1 })
	began := time.Now()
	if err := d.Close(); err != nil || time.Since(began) > time.Second {
		t.Errorf("close took %v, error %v", time.Since(began), err)
	}
	wantClass(t, <-waiting, hypervisor.ErrUnreachable)
	if err := d.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

func TestAServerWithoutEventsIsStillRead(t *testing.T) {
	f := newFakeLibvirtd(t)
	f.set(func() { f.fail[procRegisterEvents] = uint32(lv.ErrNoSupport) })
	o, target := local(t, f, Config{})
	d := openTarget(t, o, target)
	_, err := d.Events(t.Context())
	wantClass(t, err, hypervisor.ErrUnsupported)
	dom := lv.Domain{Name: "d"}
	d.library.put(dom.UUID, &record{name: "d"})
	for i := range rereadWithoutNews {
		kept := d.library.find(dom) != nil
		if want := i < rereadWithoutNews; kept != want {
			t.Fatalf("before read %d it is kept: %v", i+1, kept)
		}
		d.library.begin()
	}
	if d.library.find(dom) != nil {
		t.Error("without events XML is kept for ever")
	}
}

func TestWordsThatAreNoUTF8AreStillWords(t *testing.T) {
	f := newFakeLibvirtd(t)
	o, target := local(t, f, Config{})
	_, err := openTarget(t, o, target).Probe(timeout(t, 5*time.Second))
	wantClass(t, err, hypervisor.ErrUnsupported)
	if !utf8.ValidString(err.Error()) || !bytes.Contains([]byte(err.Error()), []byte("fake: ")) {
		t.Errorf("error %q", err)
	}
}

// What does not speak libvirt's protocol must not make the library allocate what
// it announces, or panic.
func TestAPeerThatSpeaksAnotherProtocolIsLeft(t *testing.T) {
	for name, raw := range map[string][]byte{
		"http":       []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"too short":  words32(3, 0, 0, 0, 0, 0, 0, 0),
		"zero":       words32(0, 0, 0, 0),
		"too long":   words32(0xffffffff, 1),
		"half a one": {0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeLibvirtd(t)
			f.set(func() { f.raw[procAuthList] = raw })
			o, target := local(t, f, Config{DialTimeout: 300 * time.Millisecond})
			_, err := o.Open(t.Context(), target)
			wantClass(t, err, hypervisor.ErrUnreachable)
		})
	}
}

type chunks struct {
	net.Conn
	data  []byte
	sizes func() int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), c.sizes(), len(c.data))
	copy(p, c.data[:n])
	c.data = c.data[n:]
	return n, nil
}

func (c *chunks) Close() error { return nil }

func TestGoodMessagesPassTheGuardHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []byte
		for range rapid.IntRange(1, 6).Draw(t, "messages") {
			n := rapid.IntRange(0, 300).Draw(t, "payload")
			want = append(want, words32(uint32(messageMin+n))...)
			want = append(want, bytes.Repeat([]byte{7}, messageMin-4+n)...)
		}
		g := guard(&chunks{data: bytes.Clone(want), sizes: func() int { return rapid.IntRange(1, 64).Draw(t, "cut") }}, nil)
		got, err := io.ReadAll(g)
		if (err != nil && err.Error() != "read from libvirt: EOF") || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes of %d, error %v", len(got), len(want), err)
		}
	})
}

func TestErrorNumbersAreClassed(t *testing.T) {
	for _, c := range []struct {
		err  error
		want rackv1.ErrorClass
	}{
		{lv.Error{Code: uint32(lv.ErrNoDomain), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND},
		{lv.Error{Code: uint32(lv.ErrNoStorageVol), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND},
		{lv.Error{Code: uint32(lv.ErrStorageVolExist), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_EXISTS},
		{lv.Error{Code: uint32(lv.ErrOperationTimeout), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_BUSY},
		{lv.Error{Code: uint32(lv.ErrAuthFailed), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_AUTH},
		{lv.Error{Code: uint32(lv.ErrConfigUnsupported), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED},
		{lv.Error{Code: uint32(lv.ErrXMLError), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_REFUSED},
		// These mean different things in different drivers.
		{lv.Error{Code: uint32(lv.ErrOperationInvalid), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED},
		{lv.Error{Code: uint32(lv.ErrInternalError), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED},
		{lv.Error{Code: uint32(lv.ErrSystemError), Message: "m"}, rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED},
		{lv.ErrUnsupported, rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED},
		{lv.ErrInterrupted, rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE},
		{&hypervisor.Error{Class: hypervisor.ErrForeign, Op: "x", Err: errors.New("y")}, rackv1.ErrorClass_ERROR_CLASS_FOREIGN},
	} {
		err := classify("do it", c.err)
		if got := hypervisor.Class(err); got != c.want {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
		if e, ok := errors.AsType[lv.Error](c.err); ok && err.Error() != "do it: "+e.Message {
			t.Errorf("%v lost libvirt's words: %v", c.err, err)
		}
	}
	if classify("do it", nil) != nil {
		t.Error("no error became one")
	}
}

func TestOnlySocketsOfTheConfigurationAreReached(t *testing.T) {
	o := NewOpener(Config{LocalSockets: map[string]string{"h1": "/nonexistent/sock"}})
	for _, a := range []string{"qemu+unix://h1/system", "qemu+unix://h2/system"} {
		_, err := o.Open(t.Context(), hypervisor.Target{Address: mustParse(t, a)})
		wantClass(t, err, hypervisor.ErrUnreachable)
		if e, ok := errors.AsType[*hypervisor.Error](err); !ok || e.Hint == "" {
			t.Errorf("%s: no hint in %v", a, err)
		}
	}
	_, err := o.Open(t.Context(), hypervisor.Target{Address: mustParse(t, "fake://x")})
	wantClass(t, err, hypervisor.ErrUnsupported)
	if key, _, err := o.HostKey(t.Context(), mustParse(t, "qemu:///system")); key != "" || err != nil {
		t.Errorf("a local socket has the host key %q, error %v", key, err)
	}
}

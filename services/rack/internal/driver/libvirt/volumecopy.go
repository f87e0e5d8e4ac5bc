package libvirt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	// copyBuffer is what a copy holds in memory, besides libvirt's own messages.
	copyBuffer = 256 << 10
	// gap is how many zeros are worth a new upload behind them: each is a
	// connection of its own and has the pool read anew.
	gap = 64 << 20
)

// copyVolume copies what is in a volume to one on another host, through this
// process, and reads the copy back. thin: what is not written there reads as
// zeros, so that long runs of them are left out.
func copyVolume(ctx context.Context, from *Driver, source lv.StorageVol, to *Driver, target lv.StorageVol, thin bool) error {
	op := "copy volume " + source.Name
	sum := sha256.New()
	w := &uploads{ctx: ctx, d: to, target: target, thin: thin}
	size, err := from.download(ctx, source, 0, io.MultiWriter(sum, w))
	if err = errors.Join(err, w.close()); err != nil {
		return to.noRoom(ctx, target, op, err)
	}
	copied := sha256.New()
	if size > 0 {
		back, err := to.download(ctx, target, uint64(size), copied)
		if err != nil {
			return fmt.Errorf("read the copy of volume %s back: %w", source.Name, err)
		}
		if back != size || !bytes.Equal(sum.Sum(nil), copied.Sum(nil)) {
			return differs(op, size, back, sum, copied)
		}
	}
	return nil
}

func differs(op string, size, back int64, sum, copied hash.Hash) error {
	return &hypervisor.Error{
		Class: hypervisor.ErrBusy, Op: op,
		Err:  fmt.Errorf("the copy has %d bytes with SHA-256 %x, and what was sent %d with %x", back, copied.Sum(nil), size, sum.Sum(nil)),
		Hint: "see that nobody writes to the volumes, and that the destination's disks are sound",
	}
}

// noRoom classes a failed copy by what is left in the pool: libvirt has no number
// for it.
func (d *Driver) noRoom(ctx context.Context, target lv.StorageVol, op string, cause error) error {
	if err := d.readPools(ctx); err != nil {
		return cause
	}
	at := slices.IndexFunc(d.facts.pools(), func(p pool) bool { return p.name == target.Pool })
	if at < 0 || d.facts.pools()[at].available > qcow2Room {
		return cause
	}
	return &hypervisor.Error{Class: hypervisor.ErrCapacity, AtDestination: true, Op: op, Err: cause, Hint: "make room in storage pool " + target.Pool + " of the destination"}
}

// download reads a volume, all of it for a length of 0, and answers how much it
// was. The reader may be slow: it holds up nobody else.
func (d *Driver) download(ctx context.Context, v lv.StorageVol, length uint64, to io.Writer) (int64, error) {
	s, err := d.newStream(ctx)
	if err != nil {
		return 0, err
	}
	defer s.bind(ctx)()
	s.run(func(a api) error { return a.StorageVolDownload(v, s.shown(), 0, length, 0) })
	n, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{s.in}, make([]byte, copyBuffer))
	if err != nil {
		s.conn.fail(err)
		_ = s.in.CloseWithError(err) // nobody reads it any more
	}
	<-s.done
	// The stream calls an answer of libvirt its end; here it is a failure.
	if err == nil {
		err = s.err
	}
	return n, s.failure(ctx, "read volume "+v.Name, err)
}

// bind ends the stream with a context.
func (s *stream) bind(ctx context.Context) (unbind func()) {
	stop := context.AfterFunc(ctx, func() { s.conn.fail(context.Cause(ctx)) })
	return func() {
		stop()
		s.conn.fail(errClosed)
	}
}

// failure says why a stream ended too early.
func (s *stream) failure(ctx context.Context, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: op, Err: context.Cause(ctx)}
	}
	return classify(op, err)
}

// uploads writes a volume, by one upload for each run of data.
type uploads struct {
	ctx    context.Context //nolint:containedctx // of the copy that it is part of
	d      *Driver
	target lv.StorageVol
	thin   bool

	at    uint64 // how much of the volume there is
	zeros uint64 // how many of them are zeros at the end that were not sent
	open  *stream
	end   func()
}

// Write sends data, but for zeros that may turn out to be many.
func (u *uploads) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part := rest[:min(len(rest), 4096)]
		rest = rest[len(part):]
		if u.thin && allZero(part) {
			u.zeros += uint64(len(part))
			u.at += uint64(len(part))
			continue
		}
		if err := u.send(part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

var page [4096]byte

func allZero(p []byte) bool { return bytes.Equal(p, page[:len(p)]) }

func (u *uploads) send(p []byte) error {
	if u.zeros >= gap || u.open == nil {
		if err := u.finish(); err != nil {
			return err
		}
		if err := u.begin(); err != nil {
			return err
		}
	}
	for ; u.zeros > 0; u.zeros -= min(u.zeros, uint64(len(page))) {
		if _, err := u.open.outW.Write(page[:min(u.zeros, uint64(len(page)))]); err != nil {
			return u.failed(err)
		}
	}
	u.at += uint64(len(p))
	if _, err := u.open.outW.Write(p); err != nil {
		return u.failed(err)
	}
	return nil
}

// begin opens an upload behind all that is there.
func (u *uploads) begin() error {
	s, err := u.d.newStream(u.ctx)
	if err != nil {
		return err
	}
	u.open, u.end, u.zeros = s, s.bind(u.ctx), 0
	at := u.at
	s.run(func(a api) error { return a.StorageVolUpload(u.target, s.out, at, 0, 0) })
	return nil
}

// failed is why the upload ended while it was written to.
func (u *uploads) failed(err error) error {
	u.open.conn.fail(err)
	<-u.open.done
	if number(u.open.err) != lv.ErrOk {
		err = u.open.err
	}
	err = u.open.failure(u.ctx, "write volume "+u.target.Name, err)
	u.end()
	u.open = nil
	return err
}

// finish ends the upload that is open, when libvirtd has all of it.
func (u *uploads) finish() error {
	if u.open == nil {
		return nil
	}
	_ = u.open.outW.Close()
	<-u.open.done
	err := u.open.failure(u.ctx, "write volume "+u.target.Name, u.open.err)
	u.end()
	u.open = nil
	return err
}

func (u *uploads) close() error { return u.finish() }

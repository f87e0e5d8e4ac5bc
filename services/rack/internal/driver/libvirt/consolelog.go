package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const opLog = "read console log"

// libvirt has no call that reads a file of its host, but it can download a volume
// of a storage pool, over every transport. So the console's log of a machine that
// has a disk in a folder pool is a volume beside it, made empty with the machine:
// libvirt then knows it without reading the pool anew. virtlogd writes it, and
// when it is full renames it and goes on with an empty one; those with numbers are
// no volumes until somebody reads the pool anew.
//
// See docs/adr/0011-console-logs-are-volumes.md.

// logVolume is the name of a machine's log.
func logVolume(uid string) string { return volumePrefix(uid) + "serial0.log" }

// logPool is where a machine's log can be: the first of its pools that is a
// running folder. Others are devices, or may not let virtlogd write.
func (d *Driver) logPool(machine *vmhostv1.Machine) (pool, bool) {
	for _, k := range machine.GetDisks() {
		for _, p := range d.facts.pools() {
			if p.name == k.GetStoragePool() && p.kind == "dir" && p.path != "" && p.active {
				return p, true
			}
		}
	}
	return pool{}, false
}

func (d *Driver) consoleLogOf(machine *vmhostv1.Machine) string {
	if p, ok := d.logPool(machine); ok {
		return path.Join(p.path, logVolume(machine.GetUid()))
	}
	return logFileOf(machine)
}

// makeLog makes the volume of a machine's log, or takes the one that is there.
// It is nil where the log is no volume.
func (d *Driver) makeLog(ctx context.Context, machine *vmhostv1.Machine) (made *lv.StorageVol, err error) {
	p, ok := d.logPool(machine)
	if !ok {
		return nil, nil //nolint:nilnil // no log in a pool is no error
	}
	v, err := d.findVolume(ctx, p, logVolume(machine.GetUid()))
	if err != nil || v != nil {
		return nil, err
	}
	out, err := d.makeEmpty(ctx, p, logVolume(machine.GetUid()))
	if err == nil {
		return &out, nil
	}
	if number(err) == lv.ErrOk {
		return nil, err
	}
	// A file that libvirt does not know of was left by a create that broke; any
	// other trouble with the pool shows when the machine starts, and a machine is
	// worth more than its log.
	d.log.DebugContext(ctx, "the volume of a console log cannot be made", "storage_pool", p.name, "error", err)
	return nil, nil //nolint:nilnil // as above
}

func (d *Driver) makeEmpty(ctx context.Context, p pool, name string) (lv.StorageVol, error) {
	text, err := (&libvirtxml.StorageVolume{
		Name: name, Capacity: &libvirtxml.StorageVolumeSize{}, Allocation: &libvirtxml.StorageVolumeSize{},
		Target: &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "raw"}},
	}).Marshal()
	if err != nil {
		return lv.StorageVol{}, err
	}
	return call(ctx, d.conn, "create volume "+name, fast, func(a api) (lv.StorageVol, error) {
		return a.StorageVolCreateXML(p.handle, text, 0)
	})
}

// removeLog removes a machine's log and what virtlogd made of it.
func (d *Driver) removeLog(ctx context.Context, machine *vmhostv1.Machine) error {
	if err := d.readPools(ctx); err != nil {
		return err
	}
	p, ok := d.logPool(machine)
	if !ok {
		return nil
	}
	name := logVolume(machine.GetUid())
	// Whether there are older ones is found out without reading the pool anew,
	// which takes long in a large one: the name of the youngest can be had only if
	// there are none.
	probe, err := d.makeEmpty(ctx, p, name+".0")
	switch {
	case err == nil:
		if err := d.deleteVolume(ctx, probe); err != nil {
			return err
		}
	case number(err) == lv.ErrOk:
		return err
	default:
		if err := d.refreshPool(ctx, p); err != nil {
			return err
		}
	}
	list, err := d.volumesOf(ctx, p)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range list {
		if v.Name == name || strings.HasPrefix(v.Name, name+".") {
			errs = append(errs, d.deleteVolume(ctx, v))
		}
	}
	return errors.Join(errs...)
}

// ConsoleLog reads the last so many bytes of a machine's console log, where it is
// a volume.
func (d *Driver) ConsoleLog(ctx context.Context, ref hypervisor.Ref, tail int64) (io.ReadCloser, error) {
	one, err := d.ownOne(ctx, ref, opLog)
	if err != nil {
		return nil, err
	}
	if err := d.readPools(ctx); err != nil {
		return nil, err
	}
	where := one.record.domain.consoleLog
	poolName, name := volumeOf(disk{path: where}, d.facts.pools())
	if where == "" || name == "" {
		out := &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: opLog, Err: errors.New("the machine's console is not logged"), Hint: "attach to the console"}
		if where != "" {
			out.Err = fmt.Errorf("the log is %s, in no storage pool, and libvirt reads no other files", where)
			out.Hint = "read it on the host: tail " + where
		}
		return nil, out
	}
	p, err := d.usablePool(ctx, poolName)
	if err != nil {
		return nil, err
	}
	v, err := d.findVolume(ctx, p, name)
	if err != nil {
		return nil, err
	}
	if v == nil {
		// Known to libvirt only after it has read the pool anew.
		if err := d.refreshPool(ctx, p); err != nil {
			return nil, err
		}
		if v, err = d.findVolume(ctx, p, name); err != nil {
			return nil, err
		}
	}
	if v == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil // never started
	}
	size, err := call(ctx, d.conn, "read volume "+name, fast, func(a api) (int64, error) {
		_, capacity, _, err := a.StorageVolGetInfo(*v)
		return int64(capacity), err
	})
	if err != nil {
		return nil, err
	}
	length := min(size, max(0, tail))
	if length == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	s, err := d.newStream(ctx)
	if err != nil {
		return nil, err
	}
	s.run(func(a api) error { return a.StorageVolDownload(*v, s.shown(), uint64(size-length), uint64(length), 0) })
	return logReader{s}, nil
}

// logReader is a stream that is only read.
type logReader struct{ s *stream }

// Read answers what was logged.
func (r logReader) Read(p []byte) (int, error) { return r.s.Read(p) }

// Close ends the download.
func (r logReader) Close() error {
	// Nothing is held there but our own connection: no need to part in order.
	r.s.conn.fail(errClosed)
	return r.s.Close()
}

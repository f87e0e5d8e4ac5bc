package lxd

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	autostart     = "boot.autostart"
	lastPower     = "volatile.last_state.power"
	applyTemplate = "volatile.apply_template"
	baseImage     = "volatile.base_image"
)

// copyOver makes the machine on the destination, off, and makes sure that it is
// what it was. What it made is taken back by whoever gives up.
func (m *move) copyOver(ctx context.Context, p *plan) error {
	for _, k := range p.disks {
		if k.root {
			continue
		}
		if err := m.copyVolume(ctx, k); err != nil {
			return err
		}
	}
	if err := m.stepAside(ctx); err != nil {
		return err
	}
	if err := m.copyInstance(ctx, p); err != nil {
		return err
	}
	if err := m.complete(ctx, p); err != nil {
		return err
	}
	return m.verify(ctx, p)
}

// copyVolume copies a volume with its snapshots.
func (m *move) copyVolume(ctx context.Context, k movedDisk) error {
	post := lxdapi.StorageVolumesPost{Name: k.to.GetVolume(), Type: "custom", ContentType: k.volume.ContentType}
	post.Description = k.volume.Description
	post.Config = maps.Clone(k.volume.Config)
	post.Config[labelUID] = m.ref.UID
	post.Source = lxdapi.StorageVolumeSource{Name: k.volume.Name, Type: "migration", Pool: k.from.Name, Mode: "push"}
	err := relay(ctx, "copy volume "+k.volume.Name,
		relayed{m.from, m.from.volumePath(k.from.Name, k.volume.Name), lxdapi.StorageVolumePost{Name: k.volume.Name, Pool: k.from.Name, Migration: true}},
		relayed{m.to, m.to.onMember(m.to.in("/1.0/storage-pools/" + url.PathEscape(k.in.Name) + "/volumes/custom")), post})
	m.to.volumes.drop()
	if err != nil {
		return notCopied(m.to.full(ctx, k.in, k.was.GetSizeBytes(), err))
	}
	return nil
}

// copyInstance copies the instance with its root disk and its snapshots. As long as
// it is a copy of which nobody knows whether it is whole, no start of the server
// starts it.
func (m *move) copyInstance(ctx context.Context, p *plan) error {
	post := lxdapi.InstancesPost{Name: p.name, Type: lxdapi.InstanceType(m.here.Type), InstancePut: p.own}
	post.Config = maps.Clone(p.own.Config)
	post.Config[autostart] = "false"
	if post.Config[lastPower] != "" {
		post.Config[lastPower] = "STOPPED"
	}
	post.Source = lxdapi.InstanceSource{Type: "migration", Mode: "push", BaseImage: m.here.Config[baseImage]}
	err := relay(ctx, "copy instance "+m.here.Name,
		relayed{m.from, m.from.instancePath(m.here.Name), lxdapi.InstancePost{Name: m.here.Name, Migration: true}},
		relayed{m.to, m.to.onMember(m.to.in("/1.0/instances")), post})
	if err == nil {
		return nil
	}
	for _, k := range p.disks {
		if k.root {
			err = m.to.full(ctx, k.in, k.was.GetSizeBytes(), err)
		}
	}
	return notCopied(err)
}

// notCopied is why a copy failed: out of room is the destination.
func notCopied(err error) error {
	if errors.Is(err, hypervisor.ErrCapacity) {
		return atDestination(err)
	}
	return definite(err)
}

// complete gives the copy what it was made without, and takes off what LXD puts on
// copies: its templates are not those of a new machine.
func (m *move) complete(ctx context.Context, p *plan) error {
	return m.to.rewrite(ctx, p.name, func(put *lxdapi.InstancePut) bool {
		before := maps.Clone(put.Config)
		for _, key := range []string{autostart, applyTemplate} {
			delete(put.Config, key)
			if v, has := p.own.Config[key]; has {
				put.Config[key] = v
			}
		}
		return !maps.Equal(before, put.Config)
	})
}

// verify makes sure that the copy is the machine, as far as LXD shows it. What its
// disks hold was checked on the way, by what LXD copies with, and both servers
// have said that it is whole.
func (m *move) verify(ctx context.Context, p *plan) error {
	there, err := m.to.onHost(ctx, m.ref)
	if err != nil {
		return err
	}
	wrong := func(format string, args ...any) error {
		return atDestination(refuses("move it to another host", "the copy on the destination is not the machine: "+format, args...))
	}
	switch {
	case there == nil || !m.to.is(there, m.ref.UID):
		return wrong("LXD has copied it and does not show it")
	case there.StatusCode != lxdapi.Stopped:
		return wrong("it is %s", there.Status)
	case there.Name != p.name, there.Type != m.here.Type, there.Architecture != m.here.Architecture, !slices.Equal(there.Profiles, m.here.Profiles):
		return wrong("it is %s %q for %s with the profiles %v", there.Type, there.Name, there.Architecture, there.Profiles)
	}
	if key := differing(m.here.ExpandedConfig, there.ExpandedConfig); key != "" {
		return wrong("%s is %q, and was %q", key, there.option(key), m.here.option(key))
	}
	for name, dev := range p.devices {
		if !maps.Equal(dev, there.expanded()[name]) {
			return wrong("device %q is %v, which was to be %v", name, there.expanded()[name], dev)
		}
	}
	for name, dev := range there.expanded() {
		if p.devices[name] == nil && dev["type"] != "none" {
			return wrong("it has a device %q, which it did not have", name)
		}
	}
	snapshots, err := get[[]string](ctx, m.to.conn, "list snapshots of instance "+there.Name, m.to.instancePath(there.Name, "/snapshots"))
	if err != nil {
		return err
	}
	if len(snapshots) != p.snapshots {
		return wrong("it has %d snapshots of %d", len(snapshots), p.snapshots)
	}
	return m.verifyVolumes(ctx, p, wrong)
}

func (m *move) verifyVolumes(ctx context.Context, p *plan, wrong func(string, ...any) error) error {
	for _, k := range p.disks {
		if k.root {
			continue
		}
		v, err := m.to.findVolume(ctx, k.in.Name, k.to.GetVolume())
		if err != nil {
			return err
		}
		if v == nil || v.ContentType != k.volume.ContentType || v.Config["size"] != k.volume.Config["size"] {
			return wrong("volume %q is %v, which was to be %v of %q bytes", k.to.GetVolume(), v, k.volume.ContentType, k.volume.Config["size"])
		}
	}
	return nil
}

// differing is a key that two machines' configurations do not have in common, but
// for what is of a server.
func differing(was, is map[string]string) string {
	for _, pair := range [][2]map[string]string{{was, is}, {is, was}} {
		for _, key := range slices.Sorted(maps.Keys(pair[0])) {
			of := strings.HasPrefix(key, "volatile.") && key != volatileUUID
			if of || slices.Contains([]string{labelMoving, labelAside, labelHost, labelRoot}, key) {
				continue
			}
			if was[key] != is[key] {
				return key
			}
		}
	}
	return ""
}

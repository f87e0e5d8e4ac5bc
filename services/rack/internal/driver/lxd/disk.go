package lxd

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// blockDefault is how large LXD makes a volume when nothing says: those that are
// a device, and the root disks of virtual machines.
const blockDefault = 10 << 30

// disksOf are the volumes of an instance, the root disk first; of ours in the
// order of the numbers in their names. Folders and devices of the host that are
// handed through are no volumes and not among them.
func (d *Driver) disksOf(i *instance, v *view) ([]*vmhostv1.MachineDisk, error) {
	var (
		out  []*vmhostv1.MachineDisk
		errs []error
		best int64 = -1
	)
	boots := map[*vmhostv1.MachineDisk]int64{}
	for _, name := range devicesOf(i, "disk") {
		dev := i.expanded()[name]
		if dev["pool"] == "" {
			continue
		}
		disk := &vmhostv1.MachineDisk{StoragePool: dev["pool"], Name: name}
		root := dev["path"] == "/" && dev["source"] == ""
		if root {
			disk.Volume = i.Name
			if d.ours(i) && i.Config[labelRoot] != "" {
				disk.Volume = i.Config[labelRoot]
			}
			size, err := rootSize(i, dev, v.pools[dev["pool"]])
			if err != nil {
				errs = append(errs, fmt.Errorf("the root disk has %w", err))
			}
			disk.SizeBytes = size
		} else {
			disk.Volume = dev["source"]
			disk.SizeBytes = v.volumes[volumeKey{dev["pool"], i.Project, dev["source"]}]
		}
		if i.Type == typeContainer {
			disk.Device = dev["path"]
		}
		boots[disk] = priority(dev["boot.priority"], root)
		best = max(best, boots[disk])
		out = append(out, disk)
	}
	for _, disk := range out {
		disk.Boot = boots[disk] >= 0 && boots[disk] == best
	}
	slices.SortStableFunc(out, func(a, b *vmhostv1.MachineDisk) int {
		an, aok := volumeNumber(a.GetVolume())
		bn, bok := volumeNumber(b.GetVolume())
		if aok && bok {
			return cmp.Compare(an, bn)
		}
		return cmp.Compare(rootFirst(i, a), rootFirst(i, b))
	})
	return out, errors.Join(errs...)
}

// priority is how early a disk is booted from; -1 for one that never is.
func priority(text string, root bool) int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	if root {
		return 0
	}
	return -1
}

func rootFirst(i *instance, k *vmhostv1.MachineDisk) int {
	if i.expanded()[k.GetName()]["path"] == "/" {
		return 0
	}
	return 1
}

// rootSize is the size of a root disk: its own, or what the pool gives to one
// that does not say. 0 where it may grow as far as the pool.
func rootSize(i *instance, dev map[string]string, p *pool) (int64, error) {
	for _, text := range []string{dev["size"], p.option("volume.size")} {
		if text != "" {
			return byteSize(text)
		}
	}
	if i.Type == typeVM || p.block() {
		return blockDefault, nil
	}
	return 0, nil
}

// volumePrefix starts the name of every volume of a machine. The uid in it was
// made up by the region for this machine alone, so a volume with it is ours.
func volumePrefix(uid string) string { return "vmhost-" + strings.ToLower(uid) + "-" }

// volumeNumber is the number at the end of the name of a volume of ours.
func volumeNumber(name string) (int, bool) {
	if !strings.HasPrefix(name, "vmhost-") {
		return 0, false
	}
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	return n, err == nil
}

package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"path"
	"regexp"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// backingXML is one element of the chain of files that a domain's disk is laid
// over. libvirt shows the chain of domains that run.
type backingXML struct {
	Source struct {
		File string `xml:"file,attr"`
		Dev  string `xml:"dev,attr"`
	} `xml:"source"`
	Next *backingXML `xml:"backingStore"`
}

func (b *backingXML) paths() []string {
	var out []string
	for ; b != nil; b = b.Next {
		if p := firstOf(b.Source.File, b.Source.Dev); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// madeName is the name of a volume that this driver made: it is laid over none.
var madeName = regexp.MustCompile(`^vmhost-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9]+$`)

// overlayOf is the name of a volume that is laid over another: without that one
// its content is lost (P5), whoever uses it. Empty when there is none. own are
// the volumes that go together with it, by pool and name. Only what libvirt's
// pools show can be found; they are read anew for it, which changes nothing on
// disk, since an overlay is often made beside libvirt.
func (d *Driver) overlayOf(ctx context.Context, p pool, v lv.StorageVol, own map[[2]string]bool) (string, error) {
	file, err := call(ctx, d.conn, "find volume "+v.Name, fast, func(a api) (string, error) { return a.StorageVolGetPath(v) })
	if err != nil {
		return "", err
	}
	for _, other := range d.facts.pools() {
		if !other.active {
			continue
		}
		if err := d.refreshPool(ctx, other); err != nil {
			return "", err
		}
		list, err := d.volumesOf(ctx, other)
		if err != nil {
			return "", err
		}
		for _, o := range list {
			if own[[2]string{other.name, o.Name}] || madeName.MatchString(o.Name) || other.name == p.name && o.Name == v.Name {
				continue
			}
			below, err := d.backingOf(ctx, other, o)
			if err != nil {
				return "", err
			}
			if below != "" && path.Clean(below) == path.Clean(file) {
				return o.Name, nil
			}
		}
	}
	return "", nil
}

// backingOf is the path of the file that a volume is laid over, empty for none.
func (d *Driver) backingOf(ctx context.Context, p pool, v lv.StorageVol) (string, error) {
	text, err := call(ctx, d.conn, "read volume "+v.Name, fast, func(a api) (string, error) { return a.StorageVolGetXMLDesc(v, 0) })
	if err != nil {
		// Gone since it was listed?
		if there, ferr := d.findVolume(ctx, p, v.Name); ferr == nil && there == nil {
			return "", nil
		}
		return "", err
	}
	var x struct {
		Path string `xml:"backingStore>path"`
	}
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return "", &hypervisor.Error{Op: "read volume " + v.Name, Err: fmt.Errorf("its XML is not known to say what it is laid over: %w", err)}
	}
	return x.Path, nil
}

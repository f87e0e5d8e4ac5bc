package lab

import (
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

// Machine is what is known of a machine that ours has composed.
type Machine struct {
	UID, Name, MAC, Pool, Volume string
}

// Template is what libvirt has of a composed machine, from which twins are made:
// the same in everything but uuid, name, MAC and volume.
type Template struct {
	machine Machine
	domain  string
	volume  volume
	conn    *golibvirt.Libvirt
}

// volume is what matters of a volume's XML; the rest is what libvirt says of one
// that exists.
type volume struct {
	XMLName    xml.Name `xml:"volume"`
	Name       string   `xml:"name"`
	Capacity   uint64   `xml:"capacity"`
	Allocation *uint64  `xml:"allocation"`
	Target     struct {
		Format struct {
			Type string `xml:"type,attr"`
		} `xml:"format"`
	} `xml:"target"`
}

// Template reads what a composed machine is made of.
func (l *Lab) Template(c *golibvirt.Libvirt, m Machine) (*Template, error) {
	id, err := uuid.Parse(m.UID)
	if err != nil {
		return nil, fmt.Errorf("the machine's uid: %w", err)
	}
	d, err := c.DomainLookupByUUID(golibvirt.UUID(id))
	if err != nil {
		return nil, fmt.Errorf("find the composed machine: %w", err)
	}
	t := &Template{machine: m, conn: c}
	if t.domain, err = c.DomainGetXMLDesc(d, golibvirt.DomainXMLInactive); err != nil {
		return nil, fmt.Errorf("read the composed machine: %w", err)
	}
	pool, err := c.StoragePoolLookupByName(m.Pool)
	if err != nil {
		return nil, fmt.Errorf("find the storage pool: %w", err)
	}
	v, err := c.StorageVolLookupByName(pool, m.Volume)
	if err != nil {
		return nil, fmt.Errorf("find the volume: %w", err)
	}
	desc, err := c.StorageVolGetXMLDesc(v, 0)
	if err != nil {
		return nil, fmt.Errorf("read the volume: %w", err)
	}
	if err := xml.Unmarshal([]byte(desc), &t.volume); err != nil {
		return nil, fmt.Errorf("understand the volume: %w", err)
	}
	t.volume.Allocation = new(uint64) // a new one holds nothing yet
	for what, in := range map[string]bool{"its uid": strings.Contains(t.domain, m.UID), "its MAC": strings.Contains(t.domain, m.MAC), "its volume": strings.Contains(t.domain, m.Volume)} {
		if !in {
			return nil, fmt.Errorf("the domain's XML does not have %s: a twin would share it", what)
		}
	}
	return t, nil
}

// Twin is a machine that was made by hand.
type Twin struct {
	domain golibvirt.Domain
	volume golibvirt.StorageVol
}

// Start makes one more such machine as straight as libvirt allows: volume,
// domain, start.
func (t *Template) Start() (*Twin, error) {
	id := uuid.NewString()
	name := "twin-" + id[:8]
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("make up a MAC: %w", err)
	}
	swap := strings.NewReplacer(
		t.machine.UID, id,
		"<name>"+t.machine.Name+"</name>", "<name>"+name+"</name>",
		"/"+t.machine.Name+"-", "/"+name+"-", // the serial log
		t.machine.MAC, fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2]),
	)
	v := t.volume
	v.Name = swap.Replace(t.machine.Volume)
	volumeXML, err := xml.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write the volume's XML: %w", err)
	}
	pool, err := t.conn.StoragePoolLookupByName(t.machine.Pool)
	if err != nil {
		return nil, fmt.Errorf("find the storage pool: %w", err)
	}
	twin := &Twin{}
	if twin.volume, err = t.conn.StorageVolCreateXML(pool, string(volumeXML), 0); err != nil {
		return nil, fmt.Errorf("create the volume: %w", err)
	}
	if twin.domain, err = t.conn.DomainDefineXMLFlags(swap.Replace(t.domain), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("define: %w", err), t.conn.StorageVolDelete(twin.volume, 0))
	}
	if _, err := t.conn.DomainCreateWithFlags(twin.domain, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("start: %w", err), t.Remove(twin))
	}
	return twin, nil
}

// Remove removes a twin.
func (t *Template) Remove(twin *Twin) error {
	err := t.conn.DomainDestroyFlags(twin.domain, 0)
	if lv, ok := errors.AsType[golibvirt.Error](err); ok && golibvirt.ErrorNumber(lv.Code) == golibvirt.ErrOperationInvalid {
		err = nil // does not run
	}
	return errors.Join(err, t.conn.DomainUndefineFlags(twin.domain, 0), t.conn.StorageVolDelete(twin.volume, 0))
}

package lab

import (
	"errors"
	"fmt"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

const definedXML = `<domain type='qemu'>
  <name>%[1]s</name>
  <uuid>%[2]s</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/></os>
  <features><acpi/></features>
  <devices>
    <interface type='network'><mac address='52:54:00:be:%02[3]x:%02[4]x'/><source network='default'/><model type='virtio'/></interface>
    <serial type='pty'/>
  </devices>
</domain>`

// Define makes domains that do not run, number from to number to-1, each with one
// interface and no disk, and answers with their names and with what removes them.
func (l *Lab) Define(from, to int) (names []string, remove func() error, err error) {
	c, err := l.Dial()
	if err != nil {
		return nil, nil, err
	}
	var made []golibvirt.Domain
	remove = func() error {
		var errs []error
		for _, d := range made {
			if err := c.DomainUndefineFlags(d, 0); err != nil {
				errs = append(errs, fmt.Errorf("undefine %s: %w", d.Name, err))
			}
		}
		return errors.Join(append(errs, c.Disconnect())...)
	}
	for i := from; i < to; i++ {
		name := fmt.Sprintf("bench-defined-%03d", i)
		d, err := c.DomainDefineXML(fmt.Sprintf(definedXML, name, uuid.NewString(), i>>8, i&0xff))
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("define %s: %w", name, err), remove())
		}
		made, names = append(made, d), append(names, name)
	}
	return names, remove, nil
}

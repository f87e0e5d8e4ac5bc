package libvirt

import (
	"context"
	"encoding/xml"
	"slices"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// domainCapsXML is the few parts of domain capabilities that are read.
type domainCapsXML struct {
	Enums []struct {
		Name   string   `xml:"name,attr"`
		Values []string `xml:"value"`
	} `xml:"os>enum"`
	Loader struct {
		Enums []struct {
			Name   string   `xml:"name,attr"`
			Values []string `xml:"value"`
		} `xml:"enum"`
	} `xml:"os>loader"`
}

// canSecureBoot: there is a UEFI firmware to choose, and one that checks
// signatures.
func canSecureBoot(text string) bool {
	var x domainCapsXML
	if xml.Unmarshal([]byte(text), &x) != nil {
		return false
	}
	efi, secure := false, false
	for _, e := range x.Enums {
		efi = efi || e.Name == "firmware" && slices.Contains(e.Values, "efi")
	}
	for _, e := range x.Loader.Enums {
		secure = secure || e.Name == "secure" && slices.Contains(e.Values, "yes")
	}
	return efi && secure
}

// secureBoot says whether machines can have it here.
func (d *Driver) secureBoot(ctx context.Context, caps *libvirtxml.Caps) (bool, error) {
	d.facts.mu.Lock()
	kept, at := d.facts.secure, d.facts.secureAt
	d.facts.mu.Unlock()
	if !at.IsZero() && time.Since(at) < slowFactsFor {
		return kept, nil
	}
	out := false
	if list := architectures(caps); len(list) > 0 {
		kind := "qemu"
		if hasKVM(caps, list[0]) {
			kind = "kvm"
		}
		text, err := call(ctx, d.conn, "read what domains can have", fast, func(a api) (string, error) {
			return a.ConnectGetDomainCapabilities(nil, lv.OptString{list[0]}, lv.OptString{machineTypes[list[0]]}, lv.OptString{kind}, 0)
		})
		if err := onlyLost(err); err != nil {
			return false, err
		}
		out = err == nil && canSecureBoot(text)
	}
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.secure, d.facts.secureAt = out, time.Now()
	return out, nil
}

package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

const (
	opAdopt   = "adopt machine"
	opRelease = "release machine"
	// metadataKey is the prefix that libvirt gives our element.
	metadataKey = "vmhost"
)

// adoption is our element as libvirt wants to be given it: without the namespace,
// which it adds itself.
type adoption struct {
	XMLName   xml.Name `xml:"machine"`
	UID       string   `xml:"uid,attr"`
	UUID      string   `xml:"uuid,attr"`
	Operation string   `xml:"operation,attr,omitempty"`
	// Bare is whether the domain had no metadata at all before.
	Bare bool `xml:"bare,attr,omitempty"`
}

// Adopt puts our metadata on a domain that has none. libvirt changes that one
// element and nothing else, also of a domain whose XML has parts that we do not
// know; the domain is never defined anew.
func (d *Driver) Adopt(ctx context.Context, ref hypervisor.Ref, operation string) (*rackv1.MachineObservation, error) {
	if _, err := parseUUID(ref.UID); err != nil {
		return nil, err
	}
	id, err := parseUUID(ref.Domain())
	if err != nil {
		return nil, err
	}
	unlock, err := d.changing.Lock(ctx, uuid.UUID(id).String(), opAdopt)
	if err != nil {
		return nil, err
	}
	defer unlock()
	one, err := d.lookForMetadata(ctx, id, opAdopt)
	if err != nil {
		return nil, err
	}
	switch {
	case one == nil:
		return nil, &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: opAdopt, Err: fmt.Errorf("the host has no domain %s", ref.Domain())}
	case one.record.domain.is(ref.UID):
		return d.Machine(ctx, ref.Domain())
	case one.record.domain.uid != "":
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrForeign, Op: opAdopt,
			Err:  fmt.Errorf("domain %q carries metadata of another machine of vmhost, %s", one.dom.Name, one.record.domain.uid),
			Hint: "if it is a copy of that machine, take the metadata off it: virsh metadata " + one.uuid() + " " + namespace + " --config --remove",
		}
	}
	text, err := xml.Marshal(adoption{UID: ref.UID, UUID: one.uuid(), Operation: operation, Bare: !one.record.domain.hasMetadata})
	if err != nil {
		return nil, fmt.Errorf("write metadata: %w", err)
	}
	return d.changeMetadata(ctx, one, lv.OptString{string(text)}, opAdopt)
}

// Release takes our metadata off a domain. It answers no machine for one that is
// not there.
func (d *Driver) Release(ctx context.Context, ref hypervisor.Ref) (*rackv1.MachineObservation, error) {
	id, err := parseUUID(ref.Domain())
	if err != nil {
		return nil, err
	}
	unlock, err := d.changing.Lock(ctx, uuid.UUID(id).String(), opRelease)
	if err != nil {
		return nil, err
	}
	defer unlock()
	one, err := d.lookForMetadata(ctx, id, opRelease)
	switch {
	case err != nil:
		return nil, err
	case one == nil:
		return nil, nil //nolint:nilnil // not there counts as done
	case one.record.domain.uid == "":
		return d.Machine(ctx, ref.Domain())
	case !one.record.domain.is(ref.UID):
		return nil, &hypervisor.Error{Class: hypervisor.ErrForeign, Op: opRelease, Err: fmt.Errorf("domain %q does not carry this machine's uid", one.dom.Name)}
	}
	if one.record.domain.bare {
		if err := d.cutMetadata(ctx, one); err != nil {
			return nil, err
		}
	}
	return d.changeMetadata(ctx, one, nil, opRelease)
}

// soleMetadata is a domain's metadata with one element in it.
var soleMetadata = regexp.MustCompile(`\n  <metadata>\n    <vmhost:machine [^<>]*/>\n  </metadata>\n`)

// cutMetadata takes our element off a domain that had no metadata before. What
// libvirt leaves when it removes the last element is an empty <metadata/>, which
// was not there: so the domain is defined with its own text without it. When
// that gives anything but exactly this text, it is defined with the text that it
// had, and the empty element stays in the end. What a running domain shows of
// itself keeps it until it stops.
func (d *Driver) cutMetadata(ctx context.Context, one *seen) error {
	read := func() (string, error) {
		return call(ctx, d.conn, "read domain "+one.dom.Name, fast, func(a api) (string, error) {
			return a.DomainGetXMLDesc(one.dom, lv.DomainXMLInactive|lv.DomainXMLSecure)
		})
	}
	define := func(text string) error {
		return do(ctx, d.conn, "define domain "+one.dom.Name, slow, func(a api) error {
			_, err := a.DomainDefineXMLFlags(text, 0)
			return err
		})
	}
	if one.transient {
		return nil
	}
	before, err := read()
	if err != nil {
		return err
	}
	want := soleMetadata.ReplaceAllString(before, "\n")
	if want == before {
		return nil // others have put theirs beside ours
	}
	if err := define(want); err != nil {
		if number(err) == lv.ErrOk {
			return err
		}
		d.log.WarnContext(ctx, "domain cannot be defined as it is; empty metadata stay on it", "domain", one.dom.Name, "error", err)
		return nil
	}
	after, err := read()
	if err != nil || after == want {
		return err
	}
	d.log.WarnContext(ctx, "libvirt writes the domain in another way when it is defined; empty metadata stay on it", "domain", one.dom.Name)
	return define(before)
}

// lookForMetadata reads a domain anew, whatever is kept of it: what is decided
// here is whose it is. nil when it is not there.
func (d *Driver) lookForMetadata(ctx context.Context, id lv.UUID, op string) (*seen, error) {
	d.library.changed(id)
	one, err := d.look(ctx, id)
	if err != nil || one == nil {
		return nil, err
	}
	kept, err := call(ctx, d.conn, "list domains that are kept", fast, func(a api) ([]lv.Domain, error) {
		doms, _, err := a.ConnectListAllDomains(1, lv.ConnectListDomainsPersistent)
		return doms, err
	})
	if err != nil {
		return nil, err
	}
	one.transient = !slices.ContainsFunc(kept, func(dom lv.Domain) bool { return dom.UUID == id })
	if one.record.domain == nil {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: op, Err: fmt.Errorf("domain %q cannot be read, so it is not known whose it is: %s", one.dom.Name, one.record.problem),
		}
	}
	return one, nil
}

// changeMetadata sets our element, or removes it for nil, where the domain is
// kept and where it runs.
func (d *Driver) changeMetadata(ctx context.Context, one *seen, element lv.OptString, op string) (*rackv1.MachineObservation, error) {
	key := lv.OptString{metadataKey}
	if element == nil {
		key = nil
	}
	set := func(flags lv.DomainModificationImpact) error {
		return do(ctx, d.conn, "change metadata of domain "+one.dom.Name, fast, func(a api) error {
			return a.DomainSetMetadata(one.dom, int32(lv.DomainMetadataElement), element, key, lv.OptString{namespace}, flags)
		})
	}
	flags := lv.DomainAffectConfig
	switch {
	case one.transient:
		flags = lv.DomainAffectLive
	case !off(one.state):
		flags |= lv.DomainAffectLive
	}
	err := set(flags)
	d.library.changed(one.dom.UUID)
	if err != nil {
		return nil, err
	}
	out, err := d.Machine(ctx, one.uuid())
	if err != nil {
		return nil, err
	}
	if (out.GetUid() != "") != (element != nil) {
		return nil, &hypervisor.Error{Op: op, Err: errors.New("libvirt has not changed the domain's metadata")}
	}
	return out, nil
}

// adopted says whether a machine's record is of one that vmhost did not make.
func adopted(ref hypervisor.Ref) bool { return !strings.EqualFold(ref.Domain(), ref.UID) }

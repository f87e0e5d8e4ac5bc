package libvirt

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/hypervisortest"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// damaging is an Opener whose connections answer garbage for the XML of some
// domains: no libvirt can be made to write any, and what a later one writes is
// not known.
type damaging struct {
	*Opener
	mu     sync.Mutex
	broken map[lv.UUID]string
}

func (o *damaging) damage(t testing.TB, id, text string) {
	t.Helper()
	key := lv.UUID(uuid.MustParse(id))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken == nil {
		o.broken = map[lv.UUID]string{}
	}
	o.broken[key] = text
	t.Cleanup(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.broken, key)
	})
}

// Open is that of Opener, with what is damaged.
func (o *damaging) Open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.DialTimeout)
	defer cancel()
	c, err := o.connect(ctx, target, false)
	if err != nil {
		return nil, err
	}
	c.api = damagedAPI{c.api, o}
	d, err := newDriver(ctx, c, o.Opener, target)
	if err != nil {
		c.fail(errClosed)
		return nil, err
	}
	return d, nil
}

type damagedAPI struct {
	api
	by *damaging
}

func (a damagedAPI) DomainGetXMLDesc(dom lv.Domain, flags lv.DomainXMLFlags) (string, error) {
	a.by.mu.Lock()
	text, ok := a.by.broken[dom.UUID]
	a.by.mu.Unlock()
	switch {
	case ok && text == "":
		return "", lv.Error{Code: uint32(lv.ErrInternalError), Message: "internal error: no XML today"}
	case ok:
		return text, nil
	}
	return a.api.DomainGetXMLDesc(dom, flags)
}

// realGuest is the tiny guest of deploy/devhosts, booted from the network.
func realGuest() *hypervisortest.Guest {
	return &hypervisortest.Guest{
		Prepare: func(_ testing.TB, c *rackv1.CreateMachine) { c.Machine.Interfaces[0].Source = "netboot" },
		Ready:   "GUEST READY", Type: "echo vmhost-$((6*7))\r", Answer: "vmhost-42",
	}
}

func addBroken(r raw, o *damaging) func(t testing.TB, f hypervisortest.Foreign) {
	return func(t testing.TB, f hypervisortest.Foreign) {
		r.define(t, foreignDomain(f.UUID, f.Name, f.Cores, f.MemoryMiB))
		o.damage(t, f.UUID, "<domain><name>")
	}
}

// deaf is a guest without an operating system: what its firmware finds to boot
// is nothing, and that does not hear the power button.
func deaf(testing.TB, *rackv1.CreateMachine) {}

func TestRealDamagedDomainsHaveAProblemAndSpoilNoOther(t *testing.T) {
	h := theDevhost(t)
	r := rawConnection(t, h.socket)
	o := &damaging{Opener: NewOpener(Config{LocalSockets: map[string]string{"h1": h.socket}})}
	ids := map[string]string{"refused": "", "cut short": "<domain><name>x</na", "without parts": "<domain/>", "strange": "<domain><vcpu>many</vcpu></domain>"}
	byID := map[string]string{}
	for what, text := range ids {
		id := uuid.NewString()
		byID[id] = what
		r.define(t, foreignDomain(id, "damaged-"+id[:6], 1, 64))
		o.damage(t, id, text)
	}
	good := uuid.NewString()
	r.define(t, foreignDomain(good, "good-"+good[:6], 3, 64))
	d, err := o.Open(timeout(t, 20*time.Second), hypervisor.Target{Address: mustParse(t, "qemu+unix://h1/system")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for range 2 {
		_, list, err := d.Inventory(timeout(t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, m := range list {
			what, damaged := byID[m.GetUuid()]
			if damaged {
				seen++
			}
			if damaged == (m.GetProblem() == "") && (damaged || m.GetUuid() == good) {
				t.Errorf("%s: problem %q", what, m.GetProblem())
			}
		}
		if seen != len(ids) {
			t.Errorf("%d of %d damaged domains are listed", seen, len(ids))
		}
	}
	// Whose it is cannot be known, so it is nobody's.
	for id, what := range byID {
		_, err := d.SetPower(timeout(t, 10*time.Second), hypervisor.Ref{UID: id}, rackv1.PowerAction_POWER_ACTION_START, 0)
		if err == nil || errors.Is(err, hypervisor.ErrNotFound) {
			t.Errorf("start of a domain that is %s: %v", what, err)
		}
	}
}

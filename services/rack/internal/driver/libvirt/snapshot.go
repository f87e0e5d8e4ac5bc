package libvirt

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// Reading a host costs one bulk call, whatever it has on it:
//
//   - state and disks (size, allocation) come with ConnectGetAllDomainStats, anew
//     each time;
//   - everything else is in a domain's XML, which is one call per domain (500 of
//     them cost five times the bulk call even when they are pipelined) and
//     changes seldom. The XML that was read is kept per UUID and read again only
//     when an event says that the domain was defined anew or that a device or its
//     metadata changed, when its name or its id (it was started or stopped) is
//     another than before, or when it was not there before.
//
// The connection subscribes to those events when it is opened, before anything is
// read. Events are pushed by libvirtd and cannot be lost while the connection
// lives; with it, all that is kept is gone. Where a libvirtd knows no events, all
// XML is read again every tenth time.
const (
	bulkStats         = uint32(lv.DomainStatsState | lv.DomainStatsBlock)
	rereadWithoutNews = 10
	// bulkPatience is how long the bulk call may take. It asks QEMU of every
	// running domain for its disks; one that hangs holds up the call for ever,
	// and would hide the whole host.
	bulkPatience = 5 * time.Second
	// shareFor is how long Probe and Machines may use what the other has just
	// read, since a refresh calls both. In the first trustFor no event has to be
	// waited for: it comes within a few milliseconds, and no reader can tell.
	shareFor = time.Second
	trustFor = 50 * time.Millisecond
)

// snapshot is a host's domains at one moment.
type snapshot struct {
	taken   time.Time
	news    uint64
	domains []*seen
	used    [2]bool // by reader
}

type reader int

const (
	probing reader = iota
	listing
	// whole is both at once: it neither takes nor leaves anything to share.
	whole
)

// snapshot reads all domains. What Probe has just read serves one Machines, and
// the other way round, unless something happened in between.
func (d *Driver) snapshot(ctx context.Context, by reader) (*snapshot, error) {
	// Not a mutex: waiting for it must end with ctx too.
	select {
	case d.snapshots <- struct{}{}:
		defer func() { <-d.snapshots }()
	case <-ctx.Done():
		return nil, &hypervisor.Error{Class: hypervisor.ErrTimeout, Op: "read all domains", Err: ctx.Err()}
	case <-d.conn.dead:
		return nil, d.conn.gone("read all domains")
	}
	if s := d.last; s != nil && by != whole && !s.used[by] && time.Since(s.taken) < shareFor && d.unchanged(ctx, s) {
		s.used[by] = true
		return s, nil
	}
	d.last = nil
	s := &snapshot{news: d.library.begin()}
	if by != whole {
		s.used[by] = true
	}
	var (
		stats     []lv.DomainStatsRecord
		autostart []lv.Domain
	)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		stats, err = d.bulk(gctx, nil)
		return err
	})
	group.Go(func() error {
		var err error
		autostart, err = call(gctx, d.conn, "list domains with autostart", fast, func(a api) ([]lv.Domain, error) {
			doms, _, err := a.ConnectListAllDomains(1, lv.ConnectListDomainsAutostart)
			return doms, err
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	starting := make(map[lv.UUID]bool, len(autostart))
	for _, dom := range autostart {
		starting[dom.UUID] = true
	}
	present := make(map[lv.UUID]bool, len(stats))
	for _, r := range stats {
		one := readStats(r)
		one.autostart = starting[one.dom.UUID]
		present[one.dom.UUID] = true
		s.domains = append(s.domains, one)
	}
	slices.SortFunc(s.domains, func(a, b *seen) int { return cmp.Compare(a.dom.Name, b.dom.Name) })
	if err := d.readXML(ctx, s); err != nil {
		return nil, err
	}
	d.library.keep(present, s.news)
	s.taken = time.Now()
	if by != whole {
		d.last = s
	}
	return s, nil
}

// unchanged is a cheap second look before a snapshot is used again: an event may
// be on its way still, but a domain that came, went, started or stopped shows.
func (d *Driver) unchanged(ctx context.Context, s *snapshot) bool {
	d.library.mu.Lock()
	same := d.library.hasEvents && d.library.news == s.news
	d.library.mu.Unlock()
	if !same || time.Since(s.taken) < trustFor {
		return same
	}
	doms, err := d.list(ctx)
	if err != nil || len(doms) != len(s.domains) {
		return false
	}
	now := make(map[lv.Domain]bool, len(doms))
	for _, dom := range doms {
		now[dom] = true
	}
	for _, one := range s.domains {
		if !now[one.dom] {
			return false
		}
	}
	return true
}

// bulk is the one call. doms narrows it; nil means all.
func (d *Driver) bulk(ctx context.Context, doms []lv.Domain) ([]lv.DomainStatsRecord, error) {
	const op = "read statistics of all domains"
	ask := func(ctx context.Context, stats uint32) ([]lv.DomainStatsRecord, error) {
		return call(ctx, d.conn, op, fast, func(a api) ([]lv.DomainStatsRecord, error) {
			return a.ConnectGetAllDomainStats(doms, stats, uint32(lv.ConnectGetAllDomainsStatsNowait))
		})
	}
	// A context that is cancelled leaves the call alone and the connection open;
	// with NOWAIT a later call passes by the domain that this one hangs at.
	patience, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(bulkPatience, cancel)
	stats, err := ask(patience, bulkStats)
	timer.Stop()
	cancel()
	if err == nil || ctx.Err() != nil || errors.Is(err, hypervisor.ErrUnreachable) {
		return stats, err
	}
	// One domain that cannot say how its disks are must not hide the others. The
	// state asks no QEMU for anything.
	return ask(ctx, uint32(lv.DomainStatsState))
}

// readXML reads what is not kept yet, a few at a time.
func (d *Driver) readXML(ctx context.Context, s *snapshot) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(callsAtOnce)
	for _, one := range s.domains {
		if one.record = d.library.find(one.dom); one.record != nil {
			continue
		}
		group.Go(func() (err error) {
			one.record, err = d.readOne(gctx, one.dom)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	// What went between the two calls is not there.
	s.domains = slices.DeleteFunc(s.domains, func(one *seen) bool { return one.record == nil })
	return nil
}

// readOne reads the XML of one domain. Only a lost connection is an error: what
// libvirt refuses becomes the record's problem. It answers nil for a domain that
// is gone.
func (d *Driver) readOne(ctx context.Context, dom lv.Domain) (*record, error) {
	r := &record{name: dom.Name, id: dom.ID, version: d.library.version(dom.UUID)}
	text, err := call(ctx, d.conn, "read domain "+dom.Name, fast, func(a api) (string, error) { return a.DomainGetXMLDesc(dom, 0) })
	if err != nil {
		if number(err) == lv.ErrOk {
			return nil, err
		}
		if there, lerr := d.find(ctx, dom.UUID); lerr != nil {
			return nil, lerr
		} else if there == nil {
			return nil, nil //nolint:nilnil // gone is no error and no record
		}
		// Not kept: it is asked for again the next time.
		r.problem = err.Error()
		return r, nil
	}
	if r.domain, err = parseDomain(text); err != nil {
		r.problem = err.Error()
	}
	d.library.put(dom.UUID, r)
	return r, nil
}

// list is the list of all domains: the proof of what is there and what is not.
func (d *Driver) list(ctx context.Context) ([]lv.Domain, error) {
	return call(ctx, d.conn, "list domains", fast, func(a api) ([]lv.Domain, error) {
		doms, _, err := a.ConnectListAllDomains(1, 0)
		return doms, err
	})
}

// find looks for a domain by its UUID in the list; nil when it is not there.
func (d *Driver) find(ctx context.Context, id lv.UUID) (*lv.Domain, error) {
	doms, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, dom := range doms {
		if dom.UUID == id {
			return &dom, nil
		}
	}
	return nil, nil //nolint:nilnil // absent is no error
}
